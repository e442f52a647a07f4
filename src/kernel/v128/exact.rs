//! `Precision::Exact` on 128-bit vectors: NF4 and int8 matrices times one vector, and 64 codes to
//! 64 floats.
//!
//! `y[r] = Σ_g scale[r, g] · Σ_i w[r, g, i] · x[g, i]`, groups g of 64 weights w that are not yet
//! scaled; of 32 in int8 matrices whose rows or blocks are not whole 64s.
//!
//! The 16 values of NF4's codebook are four tables of 16 bytes: byte 0 of every f32, byte 1, byte
//! 2, byte 3. One look-up per table and interleaving bytes, then pairs, assembles 16 floats
//! exactly.

use super::{Simd, codes, sums};
use crate::kernel::{scales, walk};
use crate::quant::{Int8, Nf4, nf4::CODEBOOK};

/// Byte `k` of each codebook value.
const PLANES: [[u8; 16]; 4] = {
    let mut planes = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        planes[i / 16][i % 16] = CODEBOOK[i % 16].to_bits().to_le_bytes()[i / 16];
        i += 1;
    }
    planes
};

/// The codebook in registers.
#[derive(Clone, Copy)]
pub(super) struct Decoder<S: Simd> {
    planes: [S::Bytes; 4],
}

impl<S: Simd> Decoder<S> {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self { planes: [0, 1, 2, 3].map(|k| S::load_bytes(&PLANES[k])) }
    }

    /// The codebook values of 64 weights, in order: four by four vectors.
    #[inline(always)]
    pub(super) fn decode(&self, bytes: &[u8; 32]) -> [[S::Floats; 4]; 4] {
        codes::<S>(bytes)
            .map(|index| S::assemble(self.planes.map(|plane| S::look_up(plane, index))))
    }
}

/// The products of rows `start ..` of an NF4 matrix in the layout `Split64` with one vector.
pub(super) fn nf4<S: Simd>(nf4: &Nf4<'_>, start: usize, x: &[[f32; 64]], y: &mut [f32]) {
    let decoder = Decoder::<S>::new();
    let dot = |bytes: &[u8; 32], x: &[f32; 64]| {
        let mut chains = [S::splat(0.0); 4];
        for (w, x) in decoder.decode(bytes).into_iter().zip(x.as_chunks::<4>().0.as_chunks::<4>().0)
        {
            for k in 0..4 {
                chains[k] = S::mul_add(w[k], S::load(&x[k]), chains[k]);
            }
        }
        chains
    };
    groups::<S, _, 64>(
        nf4.codes.as_chunks().0,
        start,
        x,
        y,
        |first, out: &mut [f32]| scales::nf4(nf4, first, out),
        dot,
    );
}

/// The products of rows `start ..` of an int8 matrix with one vector; a row is whole groups of G
/// weights, a block too.
pub(super) fn int8<S: Simd, const G: usize>(
    int8: &Int8<'_>,
    start: usize,
    x: &[[f32; G]],
    y: &mut [f32],
) {
    let dot = |values: &[i8; G], x: &[f32; G]| {
        let mut chains = [S::splat(0.0); 4];
        for (w, x) in values.as_chunks::<16>().0.iter().zip(x.as_chunks::<4>().0.as_chunks::<4>().0)
        {
            let w = w.as_chunks::<8>().0;
            let ([w0, w1], [w2, w3]) = (S::widen_i8(&w[0]), S::widen_i8(&w[1]));
            for (k, w) in [w0, w1, w2, w3].into_iter().enumerate() {
                chains[k] = S::mul_add(w, S::load(&x[k]), chains[k]);
            }
        }
        chains
    };
    groups::<S, _, G>(
        int8.values.as_chunks().0,
        start,
        x,
        y,
        |first, out: &mut [f32]| int8_scales::<S, G>(int8, first, out),
        dot,
    );
}

/// The products of rows `start ..` of a matrix of groups T of G weights: `expand` writes scales,
/// `dot` multiplies a group.
#[inline(always)]
fn groups<S: Simd, T, const G: usize>(
    all: &[T],
    start: usize,
    x: &[[f32; G]],
    y: &mut [f32],
    expand: impl Fn(usize, &mut [f32]),
    dot: impl Fn(&T, &[f32; G]) -> [S::Floats; 4],
) {
    let per_row = x.len();
    for part in walk::parts(per_row, walk::SPAN) {
        let x = &x[part.clone()];
        let row = |groups: &[T], scales: &[f32]| {
            let mut total = S::splat(0.0);
            for ((group, x), &scale) in groups.iter().zip(x).zip(scales) {
                let [a, b, c, d] = dot(group, x);
                total = S::mul_add(S::add(S::add(a, b), S::add(c, d)), S::splat(scale), total);
            }
            total
        };
        walk::Groups { all, per_row, part }.rows(start, y, &expand, row, |v| sums::<S>(v));
    }
}

/// The scale of groups `first ..` of G weights.
#[inline]
pub(super) fn int8_scales<S: Simd, const G: usize>(int8: &Int8<'_>, first: usize, out: &mut [f32]) {
    if int8.block == G {
        widen_all::<S>(&int8.scales[first..][..out.len()], out)
    } else {
        scales::int8::<G>(int8, first, out)
    }
}

/// f16 bits as floats. The lengths are equal.
#[inline]
pub(super) fn widen_all<S: Simd>(x: &[u16], out: &mut [f32]) {
    let put = |out: &mut [f32; 8], x: &[u16; 8]| {
        let wide = S::widen_f16(x);
        out.as_chunks_mut::<4>().0.iter_mut().zip(wide).for_each(|(out, v)| S::store(out, v));
    };
    let ((x, x_rest), (out, out_rest)) = (x.as_chunks(), out.as_chunks_mut());
    out.iter_mut().zip(x).for_each(|(out, x)| put(out, x));
    if !x_rest.is_empty() {
        let (mut bits, mut wide) = ([0; 8], [0.0; 8]);
        bits[..x_rest.len()].copy_from_slice(x_rest);
        put(&mut wide, &bits);
        out_rest.copy_from_slice(&wide[..x_rest.len()]);
    }
}
