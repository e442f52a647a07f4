//! Rotary scaling as GGUF files state it: keys for linear scaling, a tensor of divisors for Llama
//! 3's.
//!
//! Llama 3 scaling has four parameters (factor, low and high frequency factor, original context);
//! the file only has what they amount to, one divisor per frequency. With `t = original · f / 2π`
//! turns of frequency f over the original context,
//!
//! ```text
//! 1 / divisor = 1                          for t ≥ high
//!             = 1 / factor                 for t ≤ low
//!             = (1 − s) / factor + s       between, s = (t − low) / (high − low)
//! ```
//!
//! so `s = α·f − β` is a line in f, and any (original, low, high) with that line gives the same
//! divisors. Low is therefore taken as 1, as every published model has it. A result counts only if
//! it gives back every divisor of the file.

use std::f64::consts::TAU;

use super::config::Architecture;
use super::reader::Reader;
use crate::file::FileError;
use crate::model::llama::{Config, RopeScaling};

/// The tensor of divisors.
pub(super) const DIVISORS: &str = "rope_freqs.weight";

/// How far a divisor may be from the formula's: the converter computes frequencies in f32.
const TOLERANCE: f64 = 2e-5;

/// The rotary scaling of a file, whose other numbers `config` has.
pub(super) fn scaling(
    reader: &Reader,
    architecture: Architecture,
    config: &Config,
) -> Result<RopeScaling, FileError> {
    let linear = from_keys(reader, architecture)?;
    let Some(tensor) = reader.tensors().get(DIVISORS) else { return Ok(linear) };
    if tensor.shape != [config.head_dim / 2] {
        return Err(reader.error(
            DIVISORS,
            format!("shape {:?}, expected [{}]", tensor.shape, config.head_dim / 2),
        ));
    }
    let key = format!("{}.rope.scaling.original_context_length", architecture.name());
    let original = reader.unsigned(&key)?.map(|context| context as f64);
    let divisors: Vec<f64> = reader.values(tensor).into_iter().map(f64::from).collect();
    let from_tensor = from_divisors(&divisors, config, original).ok_or_else(|| {
        reader.error(DIVISORS, "these frequency divisors are not those of Llama 3 scaling (other per-frequency scalings are not supported)")
    })?;
    match (linear, from_tensor) {
        (RopeScaling::None, scaling) | (scaling, RopeScaling::None) => Ok(scaling),
        _ => Err(reader
            .error(DIVISORS, "frequency divisors and linear scaling together are not supported")),
    }
}

/// Linear scaling from the keys. A factor without a type is linear, as llama.cpp has it.
fn from_keys(reader: &Reader, architecture: Architecture) -> Result<RopeScaling, FileError> {
    let key = |name: &str| format!("{}.rope.{name}", architecture.name());
    match reader.string(&key("scaling.type"))?.unwrap_or("linear") {
        "none" => return Ok(RopeScaling::None),
        "linear" => {}
        other => {
            return Err(reader.error(
                key("scaling.type"),
                format!(
                    "rotary scaling {other:?} is not supported (none, linear and Llama 3's are)"
                ),
            ));
        }
    }
    let factor = match reader.float(&key("scaling.factor"))? {
        Some(factor) => Some(factor),
        None => reader.float(&key("scale_linear"))?,
    };
    Ok(match factor {
        None | Some(0.0 | 1.0) => RopeScaling::None,
        Some(factor) => RopeScaling::Linear { factor },
    })
}

/// Parameters that give the `divisors`, or `None`.
fn from_divisors(divisors: &[f64], config: &Config, original: Option<f64>) -> Option<RopeScaling> {
    let factor = divisors.iter().copied().reduce(f64::max)?;
    let least = divisors.iter().copied().reduce(f64::min)?;
    if !(factor.is_finite() && least > 0.0) {
        return None;
    }
    if factor - least <= TOLERANCE * factor {
        let plain = (factor - 1.0).abs() <= TOLERANCE;
        return Some(if plain {
            RopeScaling::None
        } else {
            RopeScaling::Linear { factor: factor as f32 }
        });
    }
    let frequency =
        |i: usize| f64::from(config.rope_theta).powf(-2.0 * i as f64 / config.head_dim as f64);
    // (f, s) of the frequencies between the two plateaus.
    let between = |d: f64| d > 1.0 + TOLERANCE && d < factor * (1.0 - TOLERANCE);
    let points: Vec<(f64, f64)> = divisors
        .iter()
        .enumerate()
        .filter(|&(_, &d)| between(d))
        .map(|(i, d)| (frequency(i), (1.0 / d - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .collect();

    // Published parameters first: they are exact where a fit is rounded.
    let mut candidates = vec![(4.0, 8192.0)];
    candidates.extend(original.map(|original| (4.0, original)));
    if let (Some(&(f0, s0)), Some(&(f1, s1))) = (points.first(), points.last()) {
        if points.len() > 1 {
            let slope = (s0 - s1) / (f0 - f1);
            let high = 1.0 + 1.0 / (slope * f0 - s0);
            let original = slope * TAU * (high - 1.0);
            candidates.extend([(high.round(), original.round()), (high, original)]);
        } else {
            candidates.push((4.0, TAU * (1.0 + 3.0 * s0) / f0));
        }
    }
    let fits = |&(high, original): &(f64, f64)| {
        divisors.iter().enumerate().all(|(i, d)| {
            let s = ((original * frequency(i) / TAU - 1.0) / (high - 1.0)).clamp(0.0, 1.0);
            (d * ((1.0 - s) / factor + s) - 1.0).abs() <= TOLERANCE
        })
    };
    let valid = |&(high, original): &(f64, f64)| {
        high.is_finite() && high > 1.0 && original.is_finite() && original > 0.0
    };
    let (high, original) = candidates.into_iter().filter(valid).find(fits)?;
    let (factor, high_frequency, original_context) = (factor as f32, high as f32, original as f32);
    Some(RopeScaling::Llama3 { factor, low_frequency: 1.0, high_frequency, original_context })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(head_dim: usize, rope_theta: f32) -> Config {
        let (vocab, dim, layers, heads, kv_heads, hidden, context) = (8, 8, 1, 1, 1, 8, 131_072);
        let rope_scaling = RopeScaling::None;
        Config {
            vocab,
            dim,
            layers,
            heads,
            kv_heads,
            head_dim,
            hidden,
            context,
            rope_theta,
            rope_scaling,
            norm_epsilon: 1e-5,
        }
    }

    /// What a converter writes for these parameters.
    fn divisors(config: &Config, [factor, low, high, original]: [f64; 4]) -> Vec<f64> {
        let divisor = |i: usize| {
            let turns = original
                * f64::from(config.rope_theta).powf(-2.0 * i as f64 / config.head_dim as f64)
                / TAU;
            let s = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            f64::from((1.0 / ((1.0 - s) / factor + s)) as f32)
        };
        (0..config.head_dim / 2).map(divisor).collect()
    }

    #[test]
    fn published_parameters_come_back() {
        for (head_dim, theta, factor) in [(128, 500_000.0, 8.0), (64, 500_000.0, 32.0)] {
            let config = config(head_dim, theta);
            let found =
                from_divisors(&divisors(&config, [factor, 1.0, 4.0, 8192.0]), &config, None);
            let (factor, low_frequency, high_frequency, original_context) =
                (factor as f32, 1.0, 4.0, 8192.0);
            assert_eq!(
                found,
                Some(RopeScaling::Llama3 {
                    factor,
                    low_frequency,
                    high_frequency,
                    original_context
                })
            );
        }
    }

    #[test]
    fn other_parameters_give_the_same_divisors() {
        let config = config(128, 250_000.0);
        let stored = divisors(&config, [5.5, 1.5, 7.0, 6000.0]);
        let Some(RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context }) =
            from_divisors(&stored, &config, None)
        else {
            panic!("not recognised")
        };
        let again = divisors(
            &config,
            [factor, low_frequency, high_frequency, original_context].map(f64::from),
        );
        for (stored, again) in stored.iter().zip(again) {
            assert!((stored / again - 1.0).abs() < TOLERANCE, "{stored} {again}");
        }
    }

    #[test]
    fn other_divisors_are_refused_and_equal_ones_are_linear() {
        let config = config(64, 10_000.0);
        assert_eq!(from_divisors(&[1.0; 32], &config, None), Some(RopeScaling::None));
        assert_eq!(
            from_divisors(&[3.0; 32], &config, None),
            Some(RopeScaling::Linear { factor: 3.0 })
        );
        let long: Vec<f64> = (0..32).map(|i| 1.0 + 0.37 * f64::from(i * i)).collect();
        assert_eq!(from_divisors(&long, &config, None), None);
        assert_eq!(from_divisors(&[f64::NAN; 32], &config, None), None);
        assert_eq!(from_divisors(&[0.0; 32], &config, None), None);
        let broken: Vec<f64> =
            (0..32).map(|i| if i == 3 { f64::NAN } else { f64::from(1 + i) }).collect();
        assert_eq!(from_divisors(&broken, &config, None), None);
    }
}
