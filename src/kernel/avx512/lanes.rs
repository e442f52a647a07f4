//! Loads and sums of 512-bit vectors: the only `unsafe` of the AVX-512 kernels. Every function
//! takes arrays of the size it touches.

use core::arch::x86_64::*;
use core::array;
use core::marker::PhantomData;

use crate::kernel::avx2::lanes;

/// Sixteen floats.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(x: &[f32; 16]) -> __m512 {
    // SAFETY: the array is 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// The first `count` lanes, at most sixteen.
#[inline]
fn mask(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as __mmask16
}

/// Up to sixteen bytes, each widened to 32 bits; zero in the other lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn widen_some_bytes(x: &[u8]) -> __m512i {
    // SAFETY: lanes beyond the slice are masked off and not read.
    _mm512_cvtepu8_epi32(unsafe { _mm_maskz_loadu_epi8(mask(x.len()), x.as_ptr().cast()) })
}

/// The first `x.len()` lanes, zero in the others; at most sixteen.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_some(x: &[f32]) -> __m512 {
    // SAFETY: lanes beyond the slice are masked off and not read.
    unsafe { _mm512_maskz_loadu_ps(mask(x.len()), x.as_ptr()) }
}

/// 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_bytes(x: &[u8]) -> __m512i {
    let x: &[u8; 64] = x.first_chunk().unwrap_or(&[0; 64]);
    // SAFETY: the array is 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Two times 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn join(low: &[u8; 32], high: &[u8; 32]) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(lanes::load_bytes(low)), lanes::load_bytes(high))
}

/// The first float in the lower eight lanes, the second in the upper.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn halves(x: &[f32; 2]) -> __m512 {
    // SAFETY: the array is 8 readable bytes; the load needs no alignment.
    let two = _mm_castsi128_ps(unsafe { _mm_loadl_epi64(x.as_ptr().cast()) });
    let lanes = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(two))
}

/// Asks for the cache lines `offset` bytes behind these, which need not exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn prefetch<const HINT: i32, const N: usize>(lines: [*const i8; N], offset: usize) {
    for line in lines {
        _mm_prefetch::<HINT>(line.wrapping_add(offset));
    }
}

/// Asks for elements `first .. first + count`, as far as they exist.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn prefetch_all<T>(x: &[T], first: usize, count: usize) {
    let x = x.get(first..).unwrap_or(&[]);
    for line in x[..count.min(x.len())].chunks((64 / size_of::<T>()).max(1)) {
        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
    }
}

/// 64 signed bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_integers(x: &[i8; 64]) -> __m512i {
    // SAFETY: the array is 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Sixteen rows that are read side by side, in blocks of N bytes.
pub(super) struct Rows<'a, const N: usize> {
    first: [*const u8; 16],
    blocks: usize,
    /// How many bytes on the sixteen rows behind these are.
    ahead: usize,
    rows: PhantomData<&'a [u8]>,
}

impl<'a, const N: usize> Rows<'a, N> {
    /// `blocks` blocks of `count` rows, which begin `apart` blocks from each other, the first with
    /// block `first` of `all`. If there are fewer than sixteen, the last stands for the others.
    ///
    /// # Panics
    /// If `all` ends before the last.
    #[inline(always)]
    pub(super) fn new(
        all: &'a [u8],
        first: usize,
        apart: usize,
        count: usize,
        blocks: usize,
    ) -> Self {
        let last = count.clamp(1, 16) - 1;
        let from = &all[first * N..];
        assert!((last * apart + blocks) * N <= from.len());
        let first = array::from_fn(|r| from.as_ptr().wrapping_add(r.min(last) * apart * N));
        Self { first, blocks, ahead: 16 * apart * N, rows: PhantomData }
    }

    /// A block of every row. Asks for that of the sixteen rows behind these: hardware does not
    /// follow so many rows in turns.
    ///
    /// # Panics
    /// If there is no such block.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn block(&self, block: usize) -> Block<'_, N> {
        assert!(block < self.blocks);
        let at = block * N;
        if at.is_multiple_of(64) {
            for first in self.first {
                _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(at + self.ahead).cast());
            }
        }
        Block { first: &self.first, at }
    }
}

/// A block of every row of [`Rows`].
#[derive(Clone, Copy)]
pub(super) struct Block<'a, const N: usize> {
    first: &'a [*const u8; 16],
    at: usize,
}

impl<const N: usize> Block<'_, N> {
    /// 32 bytes of row `r`, from `from` on.
    ///
    /// # Panics
    /// If there is no such row, or the block ends before them.
    #[inline]
    #[target_feature(enable = "avx512f,avx2")]
    pub(super) fn load(self, r: usize, from: usize) -> __m256i {
        assert!(from + 32 <= N);
        // SAFETY: the line above; `Rows` has seen all blocks of the row.
        unsafe { _mm256_loadu_si256(self.first[r].add(self.at + from).cast()) }
    }
}

/// `sum + q · p` by words of four bytes, those of q without sign, p the four from byte AT on, for
/// all lanes. Written out, since compilers put the sums of a vector one behind the other, each
/// waiting for the one before, and take four bytes through a register of another kind.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn dot<const AT: usize>(sum: __m512i, q: __m512i, p: &[i8; 64]) -> __m512i {
    const { assert!(AT + 4 <= 64) };
    let mut sum = sum;
    // SAFETY: reads four bytes of the array, checked in the line above; nothing else but `sum`
    // changes.
    unsafe {
        core::arch::asm!(
            "vpdpbusd {sum}, {q}, dword ptr [{p} + {at}]{{1to16}}",
            sum = inout(zmm_reg) sum,
            q = in(zmm_reg) q,
            p = in(reg) p.as_ptr(),
            at = const AT,
            options(nostack, preserves_flags, readonly),
        );
    }
    sum
}

/// Sixteen floats back to memory.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(out: &mut [f32; 16], v: __m512) {
    // SAFETY: the array is 64 writable bytes; the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
}

/// Sixteen f16, by their bits, as floats.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn widen_f16(x: &[u16; 16]) -> __m512 {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
}

/// Sixteen integers, as floats.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn widen_i8(x: &[i8; 16]) -> __m512 {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(x.as_ptr().cast()) }))
}

/// Sixteen 32-bit integers.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_words(x: &[i32; 16]) -> __m512i {
    // SAFETY: the array is 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Sixteen 32-bit integers back to memory.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_words(out: &mut [i32; 16], v: __m512i) {
    // SAFETY: the array is 64 writable bytes; the store needs no alignment.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
}

/// Sixteen bytes, each widened to 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn widen_bytes(x: &[u8; 16]) -> __m512i {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(x.as_ptr().cast()) })
}

/// `to[i] = v[i]` for as many lanes as `to` has (at most sixteen), or `to[i] + v[i]`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn put(to: &mut [f32], v: __m512, add: bool) {
    let mask = mask(to.len());
    // SAFETY: lanes beyond the slice are masked off, neither read nor written.
    unsafe {
        let v = if add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to.as_ptr()), v) } else { v };
        _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, v);
    }
}

/// The sums of the lanes of four vectors; a sum's order of additions does not depend on what stands
/// beside it.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
pub(super) fn sums(v: [__m512; 4]) -> [f32; 4] {
    let [a, b, c, d] = v;
    lanes::sums([fold(a), fold(b), fold(c), fold(d)])
}

/// Upper half plus lower half.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn fold(v: __m512) -> __m256 {
    let upper = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
    _mm256_add_ps(_mm512_castps512_ps256(v), upper)
}
