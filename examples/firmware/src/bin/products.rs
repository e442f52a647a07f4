//! Fast products on a Cortex-M4F against plain loops on the same processor: bit for bit, and in instructions.
//!
//! The crate sums with the DSP extension there (`smlad`); the loops here are the formula of `Precision::Fast`, one product at a time.
//! No model: random weights and activations in static memory. `run.sh` builds and runs it.
#![no_std]
#![no_main]

#[path = "../exit.rs"]
mod exit;
#[path = "../print.rs"]
mod print;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::entry;
use exit::exit;
use lowrank::kernel::{GROUP, Input, Quantized, kernels};
use lowrank::quant::{Int8, Layout, Matrix, Nf4, Scales, Values, nf4::CODEBOOK};
use lowrank::tensor::{Columns, MatMut};
use print::print;

const ROWS: usize = 96;
const COLS: usize = 192;
/// Vectors at once.
const N: usize = 3;
const COUNT: usize = ROWS * COLS;
const GROUPS: usize = COLS / GROUP;

/// What products read and write.
struct Data {
    codes: [u8; COUNT / 2],
    integers: [i8; COUNT],
    absmax: [f32; COUNT / GROUP],
    scales: [u16; COUNT / GROUP],
    x: [f32; N * COLS],
    values: [i8; N * COLS],
    steps: [f32; N * GROUPS],
    y: [f32; N * ROWS],
}

/// Repeatable numbers (xorshift).
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// −1 to 1.
    fn float(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

#[entry]
fn main() -> ! {
    static mut DATA: Data = Data {
        codes: [0; COUNT / 2],
        integers: [0; COUNT],
        absmax: [0.0; COUNT / GROUP],
        scales: [0; COUNT / GROUP],
        x: [0.0; N * COLS],
        values: [0; N * COLS],
        steps: [0.0; N * GROUPS],
        y: [0.0; N * ROWS],
    };
    let Some(mut peripherals) = cortex_m::Peripherals::take() else { exit(false) };
    peripherals.SYST.set_clock_source(SystClkSource::Core);
    peripherals.SYST.set_reload(0x00ff_ffff);
    peripherals.SYST.enable_counter();

    fill(DATA);
    kernels().quantize(&DATA.x, &mut DATA.values, &mut DATA.steps);
    print(&[&"kernels: ", &kernels().name(), if cfg!(target_feature = "dsp") { &", with the DSP extension" } else { &"" }]);
    let nf4 = Nf4 { codes: &DATA.codes, scales: Scales::Plain(&DATA.absmax), block: GROUP, layout: Layout::Split64 };
    let int8 = Int8 { values: &DATA.integers, scales: &DATA.scales, block: GROUP };
    let x = Quantized { values: &DATA.values, scales: &DATA.steps };
    let mut passed = true;
    for (name, values) in [("nf4 ", Values::Nf4(nf4)), ("int8", Values::Int8(int8))] {
        for n in [1, N] {
            passed &= check(name, values, &DATA.x[..n * COLS], &x, &mut DATA.y, &mut peripherals.SYST);
        }
    }
    exit(passed)
}

/// Every code and integer, scales of all sizes, a group of zeros, the largest integers.
fn fill(data: &mut Data) {
    let mut numbers = Numbers(0x2545_f491);
    data.codes.iter_mut().for_each(|code| *code = numbers.next() as u8);
    data.integers.iter_mut().for_each(|value| *value = (numbers.next() as i8).max(-127));
    data.integers[..GROUP].fill(-127);
    data.absmax.iter_mut().for_each(|scale| *scale = numbers.float());
    // f16 bits from 0.03 to 2.
    data.scales.iter_mut().for_each(|scale| *scale = 0x2800 + (numbers.next() & 0x17ff) as u16);
    data.x.iter_mut().for_each(|x| *x = numbers.float());
    data.x[..GROUP].fill(-1.0);
    data.x[GROUP..2 * GROUP].fill(0.0);
}

/// One product by the crate and by plain loops.
fn check(name: &str, values: Values<'_>, floats: &[f32], x: &Quantized<'_>, y: &mut [f32], timer: &mut SYST) -> bool {
    let Ok(matrix) = Matrix::new(ROWS, COLS, values) else { return false };
    let n = floats.len() / COLS;
    let x = Quantized { values: &x.values[..n * COLS], scales: &x.scales[..n * GROUPS] };
    let y = &mut y[..n * ROWS];
    y.fill(f32::NAN);
    timer.clear_current();
    {
        let Ok(mut view) = MatMut::new(y, ROWS) else { return false };
        kernels().product(&matrix, &Input { quantized: Some(x), ..Input::new(floats, COLS) }, &mut Columns::all(&mut view));
    }
    let ours = ticks(timer);
    timer.clear_current();
    let mut wrong = 0;
    for row in 0..ROWS {
        for i in 0..n {
            wrong += u32::from(plain(&values, &x, row, i).to_bits() != y[i * ROWS + row].to_bits());
        }
    }
    let plainly = ticks(timer);
    let macs = (n * COUNT) as u32;
    // 40 instructions a tick.
    let tenths = |ticks: u32| ticks * 400 / macs;
    print(&[
        &name,
        &" x ",
        &(n as u32),
        &": ",
        &wrong,
        &" results differ; instructions for ten products: ",
        &tenths(ours),
        &", plain loops ",
        &tenths(plainly),
    ]);
    wrong == 0
}

fn ticks(timer: &mut SYST) -> u32 {
    if timer.has_wrapped() { u32::MAX / 400 } else { 0x00ff_ffff - SYST::get_current() }
}

/// Σ_g s · t · Σ_c q · p, in the crate's order of roundings.
fn plain(values: &Values<'_>, x: &Quantized<'_>, row: usize, i: usize) -> f32 {
    let mut total = 0.0;
    for g in 0..GROUPS {
        let (mut sum, first) = (0, row * COLS + g * GROUP);
        for c in 0..GROUP {
            let q = match values {
                Values::Nf4(nf4) => integer(CODEBOOK[usize::from(nf4.code(first + c))]),
                Values::Int8(int8) => i32::from(int8.values[first + c]),
                _ => 0,
            };
            sum += q * i32::from(x.values[i * COLS + g * GROUP + c]);
        }
        let (scale, unit) = match values {
            Values::Nf4(nf4) => (nf4.scales.get(first / nf4.block), 1.0 / 112.0),
            Values::Int8(int8) => (int8.scale(first / int8.block), 1.0),
            _ => (0.0, 1.0),
        };
        total += scale * unit * x.scales[i * GROUPS + g] * sum as f32;
    }
    total
}

/// round(112 · c).
fn integer(c: f32) -> i32 {
    (c * 112.0 + if c < 0.0 { -0.5 } else { 0.5 }) as i32
}
