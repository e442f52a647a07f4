//! Random numbers that need no state: pure functions of (seed, stream, index), so that a resumed run draws what it would have drawn.

/// 64 random bits: two rounds of SplitMix64's finalizer over the three numbers.
pub fn bits(seed: u64, stream: u64, index: u64) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let key = mix(seed.wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15));
    mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Uniform in `[0, 1)`.
pub fn uniform(seed: u64, stream: u64, index: u64) -> f32 {
    (bits(seed, stream, index) >> 40) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// From N(0, 1) (Box and Muller).
pub fn normal(seed: u64, stream: u64, index: u64) -> f32 {
    let (first, second) = (uniform(seed, stream, 2 * index), uniform(seed, stream, 2 * index + 1));
    (-2.0 * (1.0 - first).ln()).sqrt() * (std::f32::consts::TAU * second).cos()
}
