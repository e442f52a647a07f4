//! The fingerprint: SHA-256, truncated to 128 bits, over what an archive means.
//!
//! Order: root kind, configuration, then each tensor by rising site as (rows, cols, format, block,
//! codes in bitsandbytes' order, scales, nested scales, offset). Names, tokenizer, templates,
//! layout and padding do not count: they change no logit. What a root feeds in detail is beside the
//! root.

use sha2::{Digest, Sha256};

use super::Fingerprint;
use super::schema::{Linear, Matrix};
use crate::error::{Error, Result, RootKind};
use crate::quant::Layout;

/// Collects the content of a root.
#[derive(Debug)]
pub struct Hasher(Sha256);

impl Hasher {
    pub(super) fn new(kind: RootKind) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.numbers(&[kind.0]);
        hasher
    }

    pub(super) fn finish(self) -> Fingerprint {
        let digest = self.0.finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Fingerprint(short)
    }

    /// Compares the `stored` fingerprint with that of what `content` feeds.
    pub(crate) fn check(
        stored: Fingerprint,
        kind: RootKind,
        content: impl FnOnce(&mut Self),
    ) -> Result<()> {
        let mut hasher = Self::new(kind);
        content(&mut hasher);
        let computed = hasher.finish();
        if computed == stored {
            return Ok(());
        }
        Err(Error::Content { stored: stored.short(), computed: computed.short() })
    }

    pub(crate) fn linear(&mut self, linear: &Linear<'_>) {
        self.matrix(&linear.weight);
        self.floats(linear.bias);
    }

    pub(crate) fn matrix(&mut self, matrix: &Matrix<'_>) {
        self.numbers(&[matrix.rows, matrix.cols, matrix.format.into(), matrix.block]);
        self.floats(&[matrix.offset]);
        if matrix.layout == Layout::Split64 as u8 {
            self.split_codes(matrix.codes);
        } else {
            self.bytes(matrix.codes);
        }
        self.bytes(matrix.scales);
        self.floats(matrix.nested);
    }

    /// Codes in groups of 32 bytes (weight i low in byte i, weight i + 32 high), fed in
    /// bitsandbytes' order.
    fn split_codes(&mut self, codes: &[u8]) {
        self.length(codes.len());
        for group in codes.chunks_exact(32) {
            let mut sequential = [0; 32];
            for i in 0..16 {
                let (first, second) = (group[2 * i], group[2 * i + 1]);
                sequential[i] = first << 4 | second & 15;
                sequential[16 + i] = first & 0xf0 | second >> 4;
            }
            self.raw(&sequential);
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.raw(bytes);
    }

    pub(crate) fn floats(&mut self, values: &[f32]) {
        self.bytes(bytemuck::cast_slice(values));
    }

    fn length(&mut self, length: usize) {
        self.raw(&(length as u64).to_le_bytes());
    }

    /// Bytes without their length.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn numbers(&mut self, numbers: &[u32]) {
        numbers.iter().for_each(|n| self.raw(&n.to_le_bytes()));
    }
}
