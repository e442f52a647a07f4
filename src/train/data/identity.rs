//! What a run that goes on compares: the content of a data file and how it is read.

use std::io::Read;

use xxhash_rust::xxh64::Xxh64;

use super::plan::Room;
use super::{DataOptions, Dataset, Source};
use crate::file::FileError;

impl Dataset<'_> {
    /// A hash of the file's bytes, or of the examples in memory, and of the rows of every example.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn content(&self) -> Result<u64, FileError> {
        let (mut hash, mut buffer) = (Xxh64::new(0), vec![0; 1 << 16]);
        if let Source::Memory(examples) = &self.source {
            examples.iter().for_each(|example| example.hash(&mut hash));
        }
        let path = self.path();
        let opened = path.map(std::fs::File::open).transpose();
        let mut file = opened.map_err(|error| FileError::io(&self.path, error))?;
        while let Some(file) = &mut file {
            match file.read(&mut buffer).map_err(|error| FileError::io(&self.path, error))? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
        self.lengths.iter().for_each(|length| hash.update(&length.to_le_bytes()));
        Ok(hash.digest())
    }

    /// How the file is read.
    pub(crate) fn options(&self) -> &DataOptions {
        &self.options
    }

    /// How many batches [`plan`](Self::plan) makes.
    pub(crate) fn batches(&self, size: usize, seed: u64, epoch: u64, sorted: bool) -> usize {
        match self.room(size) {
            Room::Examples(most) => self.len().div_ceil(most.max(1)),
            Room::Tokens(_) => self.plan(size, seed, epoch, sorted).len(),
        }
    }
}
