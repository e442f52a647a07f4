//! The scale of each group of consecutive weights, expanded into a small buffer before an inner
//! loop needs it.
//!
//! Kernels walk rows in groups of 64 or 32 weights, blocks may be larger: group g lies in block
//! `g >> shift`. A run of groups is expanded at once, so that the nested scale and the offset stay
//! in registers.

use crate::quant::{Int8, Nf4, Scales, double};

/// Weights per group of an NF4 matrix in the layout `Split64`.
pub(super) const NF4_GROUP: usize = 64;

/// The least whole part of an int8 block.
pub(super) const INT8_GROUP: usize = 32;

/// The absmax of groups `first ..` of 64 weights; the block is a multiple of 64.
#[inline]
pub(super) fn nf4(nf4: &Nf4<'_>, first: usize, out: &mut [f32]) {
    let shift = (nf4.block / NF4_GROUP).trailing_zeros();
    match nf4.scales {
        Scales::Plain(scales) if shift == 0 => out.copy_from_slice(&scales[first..][..out.len()]),
        Scales::Double { codes, nested, offset } if shift == 0 => {
            double_run(&codes[first..][..out.len()], nested, offset, first, out)
        }
        scales => {
            out.iter_mut().enumerate().for_each(|(i, out)| *out = scales.get((first + i) >> shift))
        }
    }
}

/// `MAP[code] · nested + offset`, multiplied and added, each rounded, over codes that start at
/// block `first`.
#[inline]
fn double_run(codes: &[u8], nested: &[f32], offset: f32, first: usize, out: &mut [f32]) {
    let (mut codes, mut out, mut group) = (codes, out, first / double::GROUP);
    let mut take = double::GROUP - first % double::GROUP;
    while !codes.is_empty() {
        let (now, rest) = codes.split_at(take.min(codes.len()));
        let (filled, left) = out.split_at_mut(now.len());
        for (out, &code) in filled.iter_mut().zip(now) {
            *out = double::decode(code, nested[group], offset);
        }
        (codes, out, group, take) = (rest, left, group + 1, double::GROUP);
    }
}

/// The scale of groups `first ..` of G weights; the block is a multiple of G.
#[inline]
pub(super) fn int8<const G: usize>(int8: &Int8<'_>, first: usize, out: &mut [f32]) {
    let shift = (int8.block / G).trailing_zeros();
    out.iter_mut().enumerate().for_each(|(i, out)| *out = int8.scale((first + i) >> shift));
}
