//! The keys and values of all layers and sequences, in the caller's memory, in the order that
//! attention reads them.
//!
//! A *line* is what one key-value head of one sequence and layer keeps of one tensor: `[room, d]`
//! numbers, room being the context in whole blocks of 16. Values stand position by position,
//! `[room, d]`. Keys stand in blocks of [`BLOCK`] positions, `[d, block]` each, so that the scores
//! of neighbouring positions are neighbours too; the last block is as short as the room is. In int8
//! every position of a line has a scale of its own, absmax / 127; so that a channel with a large
//! bias does not eat that range, keys come with their rotary pairs divided by fixed factors and
//! values without their bias (see the model's forward pass).

use super::{Pass, Segment, Size};
use crate::kernel::{Kernels, scale_of};
use crate::tensor::workspace::{Pointers, Workspace, bytes_of, times};

/// Positions whose keys stand together.
pub(crate) const BLOCK: usize = 64;

/// Positions that a sequence of `context` tokens has room for.
pub(crate) const fn room(context: usize) -> usize {
    match context.checked_next_multiple_of(16) {
        Some(room) => room,
        None => usize::MAX,
    }
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KvFormat {
    /// 4 bytes a number.
    F32,
    /// 2 bytes a number.
    #[default]
    F16,
    /// 1 byte a number, and 4 for the scale of each token and head. Large biases of keys and
    /// values, as Qwen2 has them, cost no precision of other channels; for that the session keeps
    /// half a number per key channel and layer beside the cache.
    Int8,
}

/// Keys or values, `[layers, batch, kv_heads, room, d]`.
#[derive(Debug)]
pub(crate) enum Cache<'c> {
    F32(&'c mut [f32]),
    F16(&'c mut [u16]),
    /// Integers, and scales `[layers, batch, kv_heads, room]`.
    Int8(&'c mut [i8], &'c mut [f32]),
}

/// The sizes attention works with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Positions of a line.
    pub(crate) room: usize,
    /// Where the layer's part of the cache starts, in lines.
    pub(crate) first_line: usize,
}

impl Heads {
    /// Query heads that share a key-value head; at least 1, so that divisions need no check.
    pub(crate) fn group(&self) -> usize {
        (self.heads / self.kv_heads.max(1)).max(1)
    }

    /// The line of a key-value head of a sequence.
    pub(crate) fn line(&self, sequence: usize, kv_head: usize) -> usize {
        self.first_line + sequence * self.kv_heads + kv_head
    }

    /// Stores the rows' keys, `[n, kv_heads · d]`.
    pub(crate) fn store_keys(
        &self,
        pass: &Pass<'_, '_>,
        positions: &[usize],
        rows: &[f32],
        cache: &mut Cache<'_>,
    ) {
        self.each(pass, positions, rows, |line, position, row| {
            let (at, step) = self.key(line, position);
            cache.store(pass.kernels, line * self.room + position, at, step, row);
        });
    }

    /// Stores the rows' values, `[n, kv_heads · d]`.
    pub(crate) fn store_values(
        &self,
        pass: &Pass<'_, '_>,
        positions: &[usize],
        rows: &[f32],
        cache: &mut Cache<'_>,
    ) {
        self.each(pass, positions, rows, |line, position, row| {
            let token = line * self.room + position;
            cache.store(pass.kernels, token, token * self.head_dim, 1, row);
        });
    }

    /// Calls `store(line, position, numbers)` for every row and key-value head.
    fn each(
        &self,
        pass: &Pass<'_, '_>,
        positions: &[usize],
        rows: &[f32],
        mut store: impl FnMut(usize, usize, &[f32]),
    ) {
        for &Segment { first, rows: count, sequence } in pass.segments {
            for row in first..first + count {
                for kv_head in 0..self.kv_heads {
                    let numbers =
                        &rows[(row * self.kv_heads + kv_head) * self.head_dim..][..self.head_dim];
                    store(self.line(sequence, kv_head), positions[row], numbers);
                }
            }
        }
    }

    /// Where the key of a line's position starts, and from each of its numbers to the next.
    fn key(&self, line: usize, position: usize) -> (usize, usize) {
        let first = position / BLOCK * BLOCK;
        ((line * self.room + first) * self.head_dim + position - first, self.block(first))
    }

    /// What a sequence's first `seen` positions of this layer hold beside finite numbers, if
    /// anything: `Some(true)` for infinities alone, which is how a number too large for f16 is
    /// kept, `Some(false)` for something else. Other formats hold what the model computed.
    pub(crate) fn overflow(
        &self,
        sequence: usize,
        seen: usize,
        keys: &Cache<'_>,
        values: &Cache<'_>,
    ) -> Option<bool> {
        const INFINITY: u16 = 0x7c00;
        let (Cache::F16(keys), Cache::F16(values)) = (keys, values) else { return None };
        let mut largest = 0;
        for kv_head in 0..self.kv_heads {
            let line = self.line(sequence, kv_head);
            for position in 0..seen {
                let (at, step) = self.key(line, position);
                let value = (line * self.room + position) * self.head_dim;
                for i in 0..self.head_dim {
                    // Without signs: the order of the bits is that of the numbers, NaN the last.
                    let bits = [keys[at + i * step], values[value + i]].map(|bits| bits & 0x7fff);
                    largest = largest.max(bits[0]).max(bits[1]);
                }
            }
        }
        (largest >= INFINITY).then_some(largest == INFINITY)
    }

    /// The length of the block of keys that starts at position `first`.
    fn block(&self, first: usize) -> usize {
        BLOCK.min(self.room - first)
    }
}

impl<'c> Cache<'c> {
    /// Lines of `size.context` positions for `heads` key-value heads of all layers together.
    const fn lines(size: &Size, heads: usize) -> usize {
        times(times(size.batch, room(size.context)), heads)
    }

    /// The bytes of keys (or values) of `heads` key-value heads of all layers together.
    pub(crate) const fn bytes(
        size: &Size,
        heads: usize,
        head_dim: usize,
        pointers: Pointers,
    ) -> usize {
        let positions = Self::lines(size, heads);
        let numbers = times(positions, head_dim);
        match size.kv_format {
            KvFormat::F32 => bytes_of::<f32>(numbers, pointers),
            KvFormat::F16 => bytes_of::<u16>(numbers, pointers),
            KvFormat::Int8 => bytes_of::<i8>(numbers, pointers)
                .saturating_add(bytes_of::<f32>(positions, pointers)),
        }
    }

    /// Takes what [`bytes`](Self::bytes) announces.
    pub(crate) fn carve(w: &mut Workspace<'c>, size: &Size, heads: usize, head_dim: usize) -> Self {
        let positions = Self::lines(size, heads);
        let numbers = times(positions, head_dim);
        match size.kv_format {
            KvFormat::F32 => Self::F32(w.numbers(numbers)),
            KvFormat::F16 => Self::F16(w.numbers(numbers)),
            KvFormat::Int8 => Self::Int8(w.numbers(numbers), w.numbers(positions)),
        }
    }

    /// Copies the first positions of lines `from` to lines `to`, each `count` lines long: as many
    /// whole blocks as `length` positions lie in, so that keys and values are treated alike.
    pub(crate) fn copy(
        &mut self,
        sizes: &Heads,
        from: usize,
        to: usize,
        count: usize,
        length: usize,
    ) {
        let places = length.next_multiple_of(BLOCK).min(sizes.room);
        for i in 0..count {
            let ([from, to], d) =
                ([from + i, to + i].map(|line| line * sizes.room), sizes.head_dim);
            match self {
                Self::F32(numbers) => numbers.copy_within(from * d..(from + places) * d, to * d),
                Self::F16(numbers) => numbers.copy_within(from * d..(from + places) * d, to * d),
                Self::Int8(numbers, scales) => {
                    numbers.copy_within(from * d..(from + places) * d, to * d);
                    scales.copy_within(from..from + places, to);
                }
            }
        }
    }

    /// Stores `row` at `at`, `at + step` …; its scale, if it has one, at `token`.
    fn store(&mut self, kernels: &Kernels, token: usize, at: usize, step: usize, row: &[f32]) {
        match self {
            Self::F32(cache) => {
                cache[at..].iter_mut().step_by(step).zip(row).for_each(|(to, &x)| *to = x)
            }
            Self::F16(cache) if step == 1 => kernels.to_f16(row, &mut cache[at..][..row.len()]),
            Self::F16(cache) => {
                let mut halves = [0; 64];
                for (i, row) in row.chunks(halves.len()).enumerate() {
                    kernels.to_f16(row, &mut halves);
                    let to = cache[at + i * halves.len() * step..].iter_mut().step_by(step);
                    to.zip(&halves[..row.len()]).for_each(|(to, &bits)| *to = bits);
                }
            }
            Self::Int8(cache, scales) => {
                // A NaN must not become a number: it makes the scale NaN, and with it all that is
                // read back.
                let most = row.iter().fold(0.0f32, |most, x| {
                    if x.abs() > most || x.is_nan() { x.abs() } else { most }
                });
                let reciprocal;
                (scales[token], reciprocal) = scale_of(most);
                let to = cache[at..].iter_mut().step_by(step);
                to.zip(row).for_each(|(to, &x)| *to = libm::roundevenf(x * reciprocal) as i8);
            }
        }
    }

    /// `out[r][t] = Σ_i w[r][i] · k[first + t][i]` for as many positions of a line's block `first
    /// ..` as results have room for.
    pub(super) fn scores(
        &self,
        kernels: &Kernels,
        sizes: &Heads,
        line: usize,
        first: usize,
        w: &[&[f32]],
        out: &mut [&mut [f32]],
    ) {
        let (at, stride) = ((line * sizes.room + first) * sizes.head_dim, sizes.block(first));
        let cols = out.first().map_or(0, |out| out.len());
        out.iter_mut().for_each(|out| out.fill(0.0));
        match self {
            Self::F32(keys) => kernels.mix(w, &keys[at..], stride, out),
            Self::F16(keys) => kernels.mix_f16(w, &keys[at..], stride, out),
            Self::Int8(keys, scales) => {
                kernels.mix_i8(w, &keys[at..], stride, out);
                let scales = &scales[line * sizes.room + first..][..cols];
                out.iter_mut().for_each(|out| {
                    out.iter_mut().zip(scales).for_each(|(score, scale)| *score *= scale)
                });
            }
        }
    }

    /// `out[r] += Σ_t w[r][t] · v[first + t]` over the positions `first ..` of a line.
    pub(super) fn mix(
        &self,
        kernels: &Kernels,
        sizes: &Heads,
        line: usize,
        first: usize,
        w: &[&[f32]],
        out: &mut [&mut [f32]],
    ) {
        let at = (line * sizes.room + first) * sizes.head_dim;
        match self {
            Self::F32(values) => kernels.mix(w, &values[at..], sizes.head_dim, out),
            Self::F16(values) => kernels.mix_f16(w, &values[at..], sizes.head_dim, out),
            Self::Int8(values, _) => kernels.mix_i8(w, &values[at..], sizes.head_dim, out),
        }
    }

    /// The scales of the positions `first ..` of a line, if they have any.
    pub(super) fn scales(&self, sizes: &Heads, line: usize, first: usize) -> Option<&[f32]> {
        match self {
            Self::Int8(_, scales) => Some(&scales[line * sizes.room + first..]),
            _ => None,
        }
    }
}
