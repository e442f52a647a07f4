//! Random numbers that are a pure function of `(seed, stream, index)`: a run that resumes has no
//! generator state to restore, and threads can draw in any order.
//!
//! Each input passes the finalizer of SplitMix64 (Steele, Lea, Flood 2014; constants of Stafford's
//! variant 13) before the next is added. Not for secrets.

use std::f64::consts::TAU;

/// Streams from here on belong to this module; callers number theirs from 0.
const SHUFFLE: u64 = 1 << 63;

/// 64 random bits.
#[inline]
pub fn bits(seed: u64, stream: u64, index: u64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let seed = mix(seed.wrapping_add(STEP));
    let stream = mix(seed ^ stream.wrapping_mul(STEP).wrapping_add(STEP));
    mix(stream.wrapping_add(index.wrapping_mul(STEP)))
}

/// A uniform number in [0, 1): a multiple of 2⁻²⁴.
#[inline]
pub fn uniform(seed: u64, stream: u64, index: u64) -> f32 {
    (bits(seed, stream, index) >> 40) as f32 / (1u32 << 24) as f32
}

/// A number of the normal distribution with mean 0 and deviation 1 (Box and Muller's formula; at
/// most 6.7 in size).
pub fn normal(seed: u64, stream: u64, index: u64) -> f32 {
    let bits = bits(seed, stream, index);
    // The radius from the upper half, never 0; the angle from the lower.
    let (radius, angle) = (
        ((bits >> 32) as f64 + 0.5) / 4_294_967_296.0,
        (bits & 0xffff_ffff) as f64 / 4_294_967_296.0,
    );
    (libm::sqrt(-2.0 * libm::log(radius)) * libm::cos(TAU * angle)) as f32
}

/// The numbers 0 to `n − 1` in the order of `epoch`.
pub fn permutation(seed: u64, epoch: u64, n: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    shuffle(seed, 0, epoch, &mut order);
    order
}

/// Shuffles `items` (Fisher and Yates); `purpose` keeps shuffles of one epoch apart.
pub(crate) fn shuffle<T>(seed: u64, purpose: u64, epoch: u64, items: &mut [T]) {
    let seed = bits(seed, SHUFFLE | purpose, epoch);
    for last in (1..items.len()).rev() {
        let draw = bits(seed, SHUFFLE, last as u64);
        // The upper half of the product is 0 to `last`; for 2³² items the bias is below 2⁻³².
        let chosen = (u128::from(draw) * (last as u128 + 1)) >> 64;
        items.swap(last, chosen as usize);
    }
}

#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and variance over `count` draws.
    fn moments(count: u64, draw: impl Fn(u64) -> f32) -> (f64, f64) {
        let draws: Vec<f64> = (0..count).map(|index| f64::from(draw(index))).collect();
        let mean = draws.iter().sum::<f64>() / count as f64;
        (mean, draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count as f64)
    }

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        // Standard errors at 100,000 draws: 0.001 of the uniform mean, 0.003 and 0.005 of the
        // normal ones.
        for stream in [0, 1, 17] {
            let (mean, variance) = moments(100_000, |index| uniform(7, stream, index));
            assert!(
                (mean - 0.5).abs() < 0.005 && (variance - 1.0 / 12.0).abs() < 0.003,
                "{stream}: {mean} {variance}"
            );
            let (mean, variance) = moments(100_000, |index| normal(7, stream, index));
            assert!(
                mean.abs() < 0.015 && (variance - 1.0).abs() < 0.025,
                "{stream}: {mean} {variance}"
            );
        }
        assert!(
            (0..100_000).all(|index| (0.0..1.0).contains(&uniform(1, 2, index))
                && normal(1, 2, index).is_finite())
        );
    }

    #[test]
    fn seeds_streams_and_indices_do_not_meet() {
        let mut seen: Vec<u64> = (0..20u64)
            .flat_map(|a| (0..20).flat_map(move |b| (0..20).map(move |c| bits(a, b, c))))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 8000);
    }

    #[test]
    fn the_numbers_never_change() {
        // A run must resume with the numbers it began with, also after an update of this crate.
        assert_eq!([bits(1, 2, 3), bits(42, 0, 7)], [BITS_1_2_3, BITS_42_0_7]);
        assert_eq!(permutation(3, 1, 8), PERMUTATION_3_1_8);
    }

    const BITS_1_2_3: u64 = 10_606_885_910_160_507_981;
    const BITS_42_0_7: u64 = 13_592_842_260_792_757_751;
    const PERMUTATION_3_1_8: [u32; 8] = [2, 3, 1, 4, 5, 0, 6, 7];

    #[test]
    fn permutations_hold_every_number_once_and_differ_by_epoch_and_seed() {
        for n in [0, 1, 2, 3, 100, 1000] {
            let mut order = permutation(5, 0, n);
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
        let first = permutation(5, 0, 1000);
        assert_eq!(first, permutation(5, 0, 1000));
        assert_ne!(first, permutation(5, 1, 1000));
        assert_ne!(first, permutation(6, 0, 1000));
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut counts = [[0u32; 6]; 6];
        for epoch in 0..6000 {
            for (place, &item) in permutation(9, epoch, 6).iter().enumerate() {
                counts[place][item as usize] += 1;
            }
        }
        // 1000 expected, standard deviation 29.
        assert!(
            counts.as_flattened().iter().all(|count| (860..1140).contains(count)),
            "{counts:?}"
        );
    }
}
