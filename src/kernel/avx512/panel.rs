//! `Precision::Fast` on AVX-512 VNNI, many vectors: weights are packed once for all of them.
//!
//! A panel is 16 rows by at most [`SPAN`] groups, 12 KB, as `fast` has them in registers, met by every
//! vector, up to eight at a time.

use core::arch::x86_64::*;
use core::ops::Range;

use super::fast::{Place, ROWS, SPAN, Scales, Work, places, rows, transpose};
use super::lanes;
use super::offset::INT8_OFFSET;
use super::strip::{STRIP, Strip};
use crate::kernel::GROUP;
use crate::kernel::fast::Weights;
use crate::tensor::columns::Columns;

/// Packed weights of 16 rows: per group 16 registers of 4 columns each.
#[repr(align(64))]
pub(super) struct Panel([[[i32; ROWS]; GROUP / 4]; SPAN]);

/// Packs panels and multiplies them, in strips of nearly equal width.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn packed(work: &Work<'_>, panel: &mut Panel, y: &mut Columns<'_>) {
    let (groups, vectors) = (work.part.groups, work.batch.len());
    let mut scales = Scales::new();
    for place in places(y) {
        scales.read(work, &place);
        for first in (0..groups).step_by(SPAN) {
            let groups = first..groups.min(first + SPAN);
            let scales = &scales.groups[groups.clone()];
            panel.pack(work, &place, groups.clone());
            let mut done = 0;
            while done < vectors {
                let (left, groups) = (vectors - done, groups.clone());
                done += match left.div_ceil(left.div_ceil(STRIP)) {
                    1 => panel.multiply(scales, &Strip::<1>::new(work, groups, done), &place, y),
                    2 => panel.multiply(scales, &Strip::<2>::new(work, groups, done), &place, y),
                    3 => panel.multiply(scales, &Strip::<3>::new(work, groups, done), &place, y),
                    4 => panel.multiply(scales, &Strip::<4>::new(work, groups, done), &place, y),
                    5 => panel.multiply(scales, &Strip::<5>::new(work, groups, done), &place, y),
                    6 => panel.multiply(scales, &Strip::<6>::new(work, groups, done), &place, y),
                    7 => panel.multiply(scales, &Strip::<7>::new(work, groups, done), &place, y),
                    _ => panel.multiply(scales, &Strip::<8>::new(work, groups, done), &place, y),
                };
            }
        }
    }
}

impl Panel {
    pub(super) fn new() -> Self {
        Self([[[0; ROWS]; GROUP / 4]; SPAN])
    }

    /// Packs groups `groups` of the part of `work`; fewer than 16 rows leave the last one in the
    /// other lanes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
    fn pack(&mut self, work: &Work<'_>, place: &Place, groups: Range<usize>) {
        let panel = self.0[..groups.len()].iter_mut().enumerate();
        match work.weights {
            Weights::Nf4(nf4) => {
                let rows = rows::<32>(nf4.codes, work.part, place, groups);
                for (g, out) in panel {
                    let block = rows.block(g);
                    let codes = transpose(|r| block.load(r, 0));
                    for (k, codes) in codes.into_iter().enumerate() {
                        lanes::store_words(&mut out[k], work.decoder.look_up(codes, false));
                        lanes::store_words(&mut out[8 + k], work.decoder.look_up(codes, true));
                    }
                }
            }
            Weights::Int8(int8) => {
                let values = bytemuck::cast_slice(int8.values);
                let rows = rows::<GROUP>(values, work.part, place, groups);
                let offset = _mm512_set1_epi8(INT8_OFFSET);
                for (g, out) in panel {
                    let block = rows.block(g);
                    for (half, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                        let columns = transpose(|r| block.load(r, GROUP / 2 * half));
                        for (out, q) in out.iter_mut().zip(columns) {
                            lanes::store_words(out, _mm512_xor_si512(q, offset));
                        }
                    }
                }
            }
        }
    }

    /// The panel against the vectors of `strip`; returns how many they are.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn multiply<const V: usize>(
        &self,
        scales: &[[f32; ROWS]],
        strip: &Strip<'_, V>,
        place: &Place,
        y: &mut Columns<'_>,
    ) -> usize {
        let mut total = [_mm512_setzero_ps(); V];
        for (g, (weights, s)) in self.0.iter().zip(scales).enumerate() {
            strip.group(g, s, &mut total, |k| lanes::load_words(&weights[k]));
        }
        strip.put(&total, 0, place, y);
        V
    }
}
