//! An encoder's memory on the device: activations, and what each text has chosen.

use super::EncoderModel;
use crate::cuda::buffer::{Address, Buffer};
use crate::cuda::chosen::Chosen;
use crate::cuda::pass::words;
use crate::cuda::{CudaError, stride};
use crate::nn::{Segment, Size};

/// Memory of an encoder.
#[derive(Debug)]
pub(crate) struct EncoderState {
    rows: usize,
    batch: usize,
    /// Of the rows: tokens, positions, types, sequences, the first row of their text and how many
    /// it has, `[6, rows]`; of the texts: first row, rows and number, `[3, batch]`.
    places: Buffer,
    pub(super) x: Buffer,
    pub(super) q: Buffer,
    pub(super) k: Buffer,
    pub(super) v: Buffer,
    pub(super) attended: Buffer,
    pub(super) hidden: Buffer,
    /// The texts' first rows, `[batch, dim]`.
    pub(super) firsts: Buffer,
    /// `[batch, dim]`.
    pub(super) pooled: Buffer,
    pub(super) chosen: Chosen,
}

/// What is known of each row, and of each text, by its place in `places`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Token,
    Position,
    Type,
    Sequence,
    First,
    Length,
    TextFirst,
    TextLength,
    Text,
}

impl EncoderState {
    /// Memory for encoders of `size`.
    pub(crate) fn new(
        model: &EncoderModel<'_>,
        size: &Size,
        max_active: usize,
    ) -> Result<Self, CudaError> {
        let (c, device) = (model.bert.config(), model.device());
        let rows = |count: usize, width: usize| Buffer::of(device, &[count, stride(width), 4]);
        Ok(Self {
            rows: size.rows,
            batch: size.batch,
            places: Buffer::of(device, &[6 * size.rows + 3 * size.batch, 4])?,
            x: rows(size.rows, c.dim)?,
            q: rows(size.rows, c.dim)?,
            k: rows(size.rows, c.dim)?,
            v: rows(size.rows, c.dim)?,
            attended: rows(size.rows, c.dim)?,
            hidden: rows(size.rows, c.hidden)?,
            firsts: rows(size.batch, c.dim)?,
            pooled: rows(size.batch, c.dim)?,
            chosen: Chosen::new(device, size, c.sites(), c.dim.max(c.hidden), max_active)?,
        })
    }

    /// Where the numbers of a kind begin, in words.
    fn offset(&self, place: Place) -> usize {
        match place {
            Place::TextFirst | Place::TextLength | Place::Text => {
                6 * self.rows + (place as usize - Place::TextFirst as usize) * self.batch
            }
            _ => place as usize * self.rows,
        }
    }

    /// Where the numbers of a kind lie on the device.
    pub(super) fn at(&self, place: Place) -> Address {
        self.places.address() + words(self.offset(place)) as u64
    }

    /// Copies what is known of the rows and texts of a pass.
    pub(super) fn describe(
        &self,
        tokens: &[u32],
        types: &[u32],
        segments: &[Segment],
    ) -> Result<(), CudaError> {
        let mut all = vec![0u32; 6 * self.rows + 3 * self.batch];
        all[self.offset(Place::Token)..][..tokens.len()].copy_from_slice(tokens);
        all[self.offset(Place::Type)..][..types.len()].copy_from_slice(types);
        for (text, segment) in segments.iter().enumerate() {
            let (first, rows) = (segment.first, segment.rows);
            for row in first..first + rows {
                all[self.offset(Place::Position) + row] = (row - first) as u32;
                all[self.offset(Place::Sequence) + row] = segment.sequence as u32;
                all[self.offset(Place::First) + row] = first as u32;
                all[self.offset(Place::Length) + row] = rows as u32;
            }
            all[self.offset(Place::TextFirst) + text] = first as u32;
            all[self.offset(Place::TextLength) + text] = rows as u32;
            all[self.offset(Place::Text) + text] = segment.sequence as u32;
        }
        self.places.write(0, &all)
    }
}
