//! Numbers for tests of kernels, and the way to and from the device.
#![allow(dead_code, reason = "not every test uses all")]

pub mod matrices;

use std::path::Path;

use softptx::{Launch, Memory, Module, launch};

/// Numbers in -1 to 1.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995)
    }

    pub fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn vec(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// The f16 nearest to a number in -1 to 1, its bits and its value; small numbers become zero.
pub fn half(x: f32) -> (u16, f64) {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 255) as i32 - 127;
    if exponent < -14 {
        return (0, 0.0);
    }
    // Thirteen bits fewer; a carry runs into the exponent by itself.
    let rounded = bits + 0xfff + (bits >> 13 & 1);
    let kept = f64::from(f32::from_bits(rounded & !0x1fff));
    let sign = (bits >> 31) as u16;
    (sign << 15 | (((rounded & 0x7fff_ffff) - (112 << 23)) >> 13) as u16, kept)
}

/// The bytes of numbers as f16.
pub fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| half(x).0.to_le_bytes()).collect()
}

/// Are the first numbers those expected, within `tolerance` of the largest?
pub fn close(found: &[f32], expected: &[f64], tolerance: f64) {
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= tolerance * largest, "{i}: {found} is not {expected}");
    }
}

/// A struct that a kernel takes, field by field.
#[derive(Default)]
pub struct Parameters(Vec<u8>);

impl Parameters {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn join(mut self, other: &Self) -> Self {
        self.0.extend(&other.0);
        self
    }

    pub fn address(mut self, address: u64) -> Self {
        self.0.extend(address.to_le_bytes());
        self
    }

    pub fn float(mut self, x: f32) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    pub fn words(mut self, words: &[usize]) -> Self {
        words.iter().for_each(|&word| self.0.extend((word as u32).to_le_bytes()));
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A device whose memory tests write and read.
#[derive(Default)]
pub struct Device(Memory);

impl Device {
    pub fn bytes(&mut self, bytes: &[u8]) -> u64 {
        self.0.upload(bytes)
    }

    pub fn floats(&mut self, values: &[f32]) -> u64 {
        self.bytes(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn words(&mut self, values: &[usize]) -> u64 {
        self.bytes(&values.iter().flat_map(|&x| (x as u32).to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn read_words(&mut self, address: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * count];
        self.0.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    pub fn read(&mut self, address: u64, count: usize) -> Vec<f32> {
        self.read_words(address, count).into_iter().map(f32::from_bits).collect()
    }

    /// Runs a kernel of `ptx/`.
    pub fn launch(
        &mut self,
        file: &str,
        kernel: &str,
        grid: [usize; 2],
        threads: u32,
        parameters: Parameters,
    ) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ptx").join(file);
        let source = std::fs::read_to_string(path.with_extension("ptx")).unwrap();
        let module = Module::load(&source, &mut self.0).unwrap();
        let entry = module.entry(kernel).unwrap();
        let mut parameters = parameters.bytes();
        // A struct's size is a multiple of its alignment.
        parameters.resize(parameters.len().next_multiple_of(8), 0);
        let grid = [grid[0] as u32, grid[1] as u32, 1];
        let place = Launch { grid, block: [threads, 1, 1], parameters: &parameters };
        launch(entry, &place, &mut self.0).unwrap_or_else(|fault| panic!("{kernel}: {fault}"));
        module.unload(&mut self.0);
    }
}
