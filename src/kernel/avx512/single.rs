//! `Precision::Fast` on AVX-512 VNNI, one vector.
//!
//! `y[r] = Σ_g f[r, g] · (first[g] + Σ_c (q[r, g, c] + o) · p[g, c])` with `f = s · t` and `first =
//! −o · Σ_c p`: `vpdpbusd` multiplies unsigned by signed bytes and adds fours to 32-bit sums, so
//! weights are made unsigned by an offset o, and a group's sums start at what that adds, computed
//! once for all rows.
//!
//! A register of int8 weights is a group of 64. A register of NF4 codes is two of them: after the
//! look-up one register has the first 32 integers of both, another the last 32, so the activations
//! are put into that order once for all rows. Rows of an odd number of groups are walked in twos,
//! an even and an odd one: their middle register holds the last group of the one and the
//! first of the other. Which lanes meet which group depends on whether a row's number is odd and on
//! nothing else.

use core::arch::x86_64::*;
use core::ops::Range;

use super::offset::{INT8_OFFSET, correct, offset};
use super::{factors, lanes};
use crate::kernel::avx2::lanes::load_codebook;
use crate::kernel::fast::{INTEGERS, UNIT, Weights};
use crate::kernel::walk;
use crate::kernel::{GROUP, Quantized};
use crate::tensor::columns::Columns;

/// Groups of a row that are walked at a time at most.
const SPAN: usize = 64;

/// Lanes of the upper group of two.
const UPPER: __mmask16 = 0xff00;

/// How many bytes ahead weights are asked for where rows lie side by side; where they are walked in
/// parts, the next four rows are. Several rows are read in turns, which hardware does not follow
/// well.
const AHEAD: usize = 8192;

/// Bytes of a group of weights.
fn group_bytes(weights: &Weights<'_>) -> usize {
    match weights {
        Weights::Nf4(_) => GROUP / 2,
        Weights::Int8(_) => GROUP,
    }
}

/// y = W x for the rows that `y` owns: memory is the limit here, and this reads it as it lies.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn product(weights: &Weights<'_>, x: &Quantized<'_>, cols: usize, y: &mut Columns<'_>) {
    let (per_row, start) = (cols / GROUP, y.range().start);
    let mut side = Side::new();
    for i in 0..y.rows() {
        let integers = &x.values.as_chunks::<GROUP>().0[i * per_row..][..per_row];
        let ts = &x.scales[i * per_row..][..per_row];
        for part in walk::parts(per_row, SPAN) {
            side.fill(weights, &integers[part.clone()], &ts[part.clone()]);
            side.ahead =
                if part.len() == per_row { AHEAD } else { 4 * per_row * group_bytes(weights) };
            let rows = Rows { weights, per_row, part, start };
            match weights {
                Weights::Nf4(nf4) => {
                    rows.walk(nf4.codes.as_chunks().0, &side, y.row(i), |four| side.nf4(four))
                }
                Weights::Int8(int8) => {
                    rows.walk(int8.values.as_chunks().0, &side, y.row(i), |four| side.int8(four))
                }
            }
        }
    }
}

/// Some groups of rows `start ..`.
struct Rows<'a> {
    weights: &'a Weights<'a>,
    per_row: usize,
    part: Range<usize>,
    start: usize,
}

impl Rows<'_> {
    /// Fills `y` with the products of the rows, whose groups are in `all`; adds to `y` if the part
    /// is not the first. `four` multiplies four rows, the first with an even number, by lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
    fn walk<T>(
        &self,
        all: &[T],
        side: &Side,
        y: &mut [f32],
        four: impl Fn(Four<'_, T>) -> [f32; 4],
    ) {
        let mut buffer = [0.0; walk::SPAN];
        let (len, mut done) = (self.part.len(), 0);
        let place = |row: usize| (self.start + row) * self.per_row + self.part.start;
        let put = |y: &mut f32, sum: f32| *y = if self.part.start == 0 { sum } else { *y + sum };
        factors::prefetch(self.weights, place(0), walk::SPAN);
        while done < y.len() {
            // A single odd row, whole fours, what is left of them row by row.
            let odd = (self.start + done) % 2;
            let most = (walk::SPAN / len / 4 * 4).min((y.len() - done) / 4 * 4);
            let count = if odd == 1 || most == 0 { 1 } else { most };
            let factors = &mut buffer[..count * len];
            factors::prefetch(self.weights, place(done + count), factors.len());
            if len == self.per_row {
                factors::factors(self.weights, place(done), &side.ts, factors);
            } else {
                for (row, factors) in factors.chunks_mut(len).enumerate() {
                    factors::factors(self.weights, place(done + row), &side.ts, factors);
                }
            }
            if count == 1 {
                put(
                    &mut y[done],
                    four(Four { groups: &all[place(done)..], factors, stride: 0, len: 0 })[odd],
                );
            } else {
                let fours = y[done..done + count].as_chunks_mut::<4>().0;
                for (i, (y, factors)) in fours.iter_mut().zip(factors.chunks(4 * len)).enumerate() {
                    let sums = four(Four {
                        groups: &all[place(done + 4 * i)..],
                        factors,
                        stride: self.per_row,
                        len,
                    });
                    put(&mut y[0], sums[0]);
                    put(&mut y[1], sums[1]);
                    put(&mut y[2], sums[2]);
                    put(&mut y[3], sums[3]);
                }
            }
            done += count;
        }
    }
}

/// Four rows: their groups begin `stride` apart, their factors `len`. Zero for both: a row four
/// times.
struct Four<'a, T> {
    groups: &'a [T],
    factors: &'a [f32],
    stride: usize,
    len: usize,
}

impl<'a, T> Four<'a, T> {
    /// Row `k` of `len` groups.
    #[inline(always)]
    fn row(&self, k: usize, len: usize) -> (&'a [T], &'a [f32]) {
        (&self.groups[k * self.stride..][..len], &self.factors[k * self.len..][..len])
    }

    /// What to ask for, `distance` bytes ahead, while registers `done ..` of some rows are
    /// multiplied. Rows side by side are asked for line by line, in the order that hardware
    /// follows, not as they are read.
    #[inline(always)]
    fn ahead<const N: usize>(&self, distance: usize, rows: [usize; N], done: usize) -> Ahead<N> {
        let start = self.groups.as_ptr().cast::<i8>().wrapping_add(distance);
        let apart = self.stride * size_of::<T>();
        if self.stride == self.len {
            Ahead {
                lines: core::array::from_fn(|k| start.wrapping_add(64 * (N * done + k))),
                step: 64 * N,
            }
        } else {
            Ahead { lines: rows.map(|row| start.wrapping_add(apart * row + 64 * done)), step: 64 }
        }
    }
}

/// N lines to ask for at every step.
#[derive(Clone, Copy)]
struct Ahead<const N: usize> {
    lines: [*const i8; N],
    step: usize,
}

/// What a register of weights is multiplied with.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Register {
    /// Of two groups the first halves; of one all.
    low: [i8; GROUP],
    /// Of two groups the second halves.
    high: [i8; GROUP],
    /// What the sums start from.
    first: [i32; 16],
}

/// What rows need of the activations of a part.
struct Side {
    /// For int8 the registers of a row, for NF4 those of two.
    registers: [Register; SPAN],
    /// Groups of a row.
    len: usize,
    /// How many bytes ahead weights are asked for.
    ahead: usize,
    ts: factors::Period,
    codebook: __m512i,
}

impl Side {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
    fn new() -> Self {
        let codebook = _mm512_add_epi8(
            _mm512_broadcast_i32x4(load_codebook(&INTEGERS)),
            _mm512_set1_epi8(UNIT),
        );
        let register = Register { low: [0; GROUP], high: [0; GROUP], first: [0; 16] };
        Self {
            registers: [register; SPAN],
            len: 0,
            ahead: AHEAD,
            ts: factors::Period::default(),
            codebook,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512vnni,avx2")]
    fn fill(&mut self, weights: &Weights<'_>, integers: &[[i8; GROUP]], ts: &[f32]) {
        self.len = integers.len();
        self.ts.fill(ts, weights.unit());
        let mut firsts = [0; SPAN];
        correct(offset(weights), integers, &mut firsts);
        match weights {
            Weights::Int8(_) => {
                for ((register, integers), first) in
                    self.registers.iter_mut().zip(integers).zip(firsts)
                {
                    (register.low, register.first[0]) = (*integers, first);
                }
            }
            Weights::Nf4(_) => {
                let twice = |i: usize| if i < self.len { i } else { i - self.len };
                for (i, register) in self.registers[..self.len].iter_mut().enumerate() {
                    let (a, b) = (twice(2 * i), twice(2 * i + 1));
                    for (half, to) in
                        [&mut register.low, &mut register.high].into_iter().enumerate()
                    {
                        to[..32].copy_from_slice(&integers[a][32 * half..][..32]);
                        to[32..].copy_from_slice(&integers[b][32 * half..][..32]);
                    }
                    (register.first[0], register.first[8]) = (firsts[a], firsts[b]);
                }
            }
        }
    }

    /// The products of four rows by lanes: two times two rows, so that activations are loaded once
    /// for both.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn nf4(&self, four: Four<'_, [u8; 32]>) -> [f32; 4] {
        let (half, odd) = (self.len / 2, self.len % 2);
        let ((a, e), (b, f)) = (four.row(0, self.len), four.row(1, self.len));
        let ((c, g), (d, h)) = (four.row(2, self.len), four.row(3, self.len));
        let (first, second) = self.registers[..self.len].split_at(half);
        let (middle, second) = second.split_at(odd);
        let [mut a_total, mut c_total] =
            self.strip(first, [a, c], [e, g], four.ahead(self.ahead, [0, 2], 0));
        let [mut b_total, mut d_total] = [_mm512_setzero_ps(); 2];
        if let [register] = middle {
            lanes::prefetch::<_MM_HINT_T1, 2>(four.ahead(self.ahead, [0, 2], half).lines, 0);
            (a_total, b_total) =
                self.middle(register, [&a[2 * half], &b[0]], [e[2 * half], f[0]], a_total);
            (c_total, d_total) =
                self.middle(register, [&c[2 * half], &d[0]], [g[2 * half], h[0]], c_total);
        }
        let ahead = four.ahead(self.ahead, [1, 3], half + odd);
        let [b_rest, d_rest] =
            self.strip(second, [&b[odd..], &d[odd..]], [&f[odd..], &h[odd..]], ahead);
        lanes::sums([
            a_total,
            _mm512_add_ps(b_total, b_rest),
            c_total,
            _mm512_add_ps(d_total, d_rest),
        ])
    }

    /// The sums of two rows over whole registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn strip(
        &self,
        registers: &[Register],
        [a, b]: [&[[u8; 32]]; 2],
        [f, g]: [&[f32]; 2],
        ahead: Ahead<2>,
    ) -> [__m512; 2] {
        let mut totals = [_mm512_setzero_ps(); 2];
        let codes = a.as_chunks::<2>().0.iter().zip(b.as_chunks::<2>().0);
        let factors = f.as_chunks::<2>().0.iter().zip(g.as_chunks::<2>().0);
        for (i, ((register, (a, b)), (f, g))) in
            registers.iter().zip(codes).zip(factors).enumerate()
        {
            totals[0] = _mm512_fmadd_ps(
                self.dot(lanes::load_bytes(a.as_flattened()), register),
                lanes::halves(f),
                totals[0],
            );
            totals[1] = _mm512_fmadd_ps(
                self.dot(lanes::load_bytes(b.as_flattened()), register),
                lanes::halves(g),
                totals[1],
            );
            lanes::prefetch::<_MM_HINT_T1, 2>(ahead.lines, i * ahead.step);
        }
        totals
    }

    /// The register between two rows: `total` of the one with its last group added, and the sum of
    /// the first group of the other.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn middle(
        &self,
        register: &Register,
        [a, b]: [&[u8; 32]; 2],
        [f, g]: [f32; 2],
        total: __m512,
    ) -> (__m512, __m512) {
        let sums = self.dot(lanes::join(a, b), register);
        // Sums are finite: those of the other row vanish.
        let (f, g) = (
            _mm512_maskz_broadcastss_ps(!UPPER, _mm_set_ss(f)),
            _mm512_maskz_broadcastss_ps(UPPER, _mm_set_ss(g)),
        );
        (_mm512_fmadd_ps(sums, f, total), _mm512_mul_ps(sums, g))
    }

    /// The sums of two groups by lanes, the first in the lower eight.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn dot(&self, codes: __m512i, register: &Register) -> __m512 {
        let nibble = _mm512_set1_epi8(15);
        let (low, high) = (
            _mm512_and_si512(codes, nibble),
            _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble),
        );
        let sum = lanes::load_words(&register.first);
        let sum = _mm512_dpbusd_epi32(
            sum,
            _mm512_shuffle_epi8(self.codebook, low),
            lanes::load_integers(&register.low),
        );
        let sum = _mm512_dpbusd_epi32(
            sum,
            _mm512_shuffle_epi8(self.codebook, high),
            lanes::load_integers(&register.high),
        );
        _mm512_cvtepi32_ps(sum)
    }

    /// The products of four rows by lanes, activations loaded once for all.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    fn int8(&self, four: Four<'_, [i8; GROUP]>) -> [f32; 4] {
        let ((a, e), (b, f)) = (four.row(0, self.len), four.row(1, self.len));
        let ((c, g), (d, h)) = (four.row(2, self.len), four.row(3, self.len));
        let [mut t0, mut t1, mut t2, mut t3] = [_mm512_setzero_ps(); 4];
        let ahead = four.ahead(self.ahead, [0, 1, 2, 3], 0);
        let groups = a.iter().zip(b).zip(c.iter().zip(d));
        let factors = e.iter().zip(f).zip(g.iter().zip(h));
        for (i, ((register, ((a, b), (c, d))), ((e, f), (g, h)))) in
            self.registers[..self.len].iter().zip(groups).zip(factors).enumerate()
        {
            let (p, first) =
                (lanes::load_integers(&register.low), lanes::load_words(&register.first));
            t0 = _mm512_fmadd_ps(one_group(a, p, first), _mm512_set1_ps(*e), t0);
            t1 = _mm512_fmadd_ps(one_group(b, p, first), _mm512_set1_ps(*f), t1);
            t2 = _mm512_fmadd_ps(one_group(c, p, first), _mm512_set1_ps(*g), t2);
            t3 = _mm512_fmadd_ps(one_group(d, p, first), _mm512_set1_ps(*h), t3);
            lanes::prefetch::<_MM_HINT_T0, 4>(ahead.lines, i * ahead.step);
        }
        lanes::sums([t0, t1, t2, t3])
    }
}

/// The sums of a group of int8 weights by lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn one_group(q: &[i8; GROUP], p: __m512i, first: __m512i) -> __m512 {
    let q = _mm512_xor_si512(lanes::load_integers(q), _mm512_set1_epi8(INT8_OFFSET));
    _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(first, q, p))
}
