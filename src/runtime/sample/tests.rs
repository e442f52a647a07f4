//! What the sampler promises.

extern crate std;

use std::vec::Vec;

use super::*;

/// Logits from −8 to 8 with ties and, at every seventh place, one that cannot be chosen.
fn logits(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| if i % 7 == 3 { f32::NEG_INFINITY } else { (i * 7919 % 257) as f32 / 16.0 - 8.0 })
        .collect()
}

fn options(temperature: f32, top_k: usize, top_p: f32) -> SamplerOptions {
    SamplerOptions { temperature, top_k, top_p, seed: 7, ..SamplerOptions::default() }
}

#[test]
fn what_is_kept_is_what_a_sort_would_keep() {
    for n in [1, 2, 3, 10, 257, 1000] {
        // Weights from 1 down to e^-16: below and above what top-p looks at first.
        let weigh = |logit: f32| (logit - 8.0).exp();
        let all: Vec<Candidate> = logits(n)
            .into_iter()
            .zip(0..)
            .map(|(logit, token)| Candidate { weight: weigh(logit), token })
            .collect();
        let mut sorted = all.clone();
        sorted.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token)));
        for k in [1, 2, 7, n / 2 + 1, n, n + 1] {
            let mut some = all.clone();
            let mut kept =
                Sampler::new(options(1.0, k, 1.0)).unwrap().keep_top_k(&mut some).to_vec();
            kept.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token)));
            assert_eq!(kept, sorted[..k.min(n)], "{k} of {n}");
        }
        for p in [1e-3, 0.5, 0.9, 0.999, 0.999_999] {
            let mut some = all.clone();
            let limit = p * all.iter().map(|c| c.weight).sum::<f32>();
            let mut reached = 0.0;
            let reaches = |c: &Candidate| {
                reached += c.weight;
                reached >= limit
            };
            let count = sorted.iter().position(reaches).map_or(n, |last| last + 1);
            let kept = Sampler::new(options(1.0, 0, p)).unwrap().keep_top_p(&mut some).to_vec();
            assert_eq!(kept, sorted[..count], "{p} of {n}");
        }
    }
}

#[test]
fn draws_follow_the_probabilities_of_what_is_kept() {
    let logits = logits(300);
    for (temperature, top_k, top_p, min_p) in [
        (1.0, 0, 1.0, 0.0),
        (0.7, 0, 0.8, 0.0),
        (9.0, 0, 0.999_999, 0.0),
        (1.5, 20, 1.0, 0.0),
        (1.5, 299, 1.0, 0.0),
        (1.5, 1, 0.5, 0.0),
        (1.5, 40, 0.6, 0.0),
        (3.0, 0, 1.0, 0.3),
        (3.0, 0, 0.8, 0.6),
        (3.0, 25, 0.9, 0.05),
        (3.0, 0, 1.0, 1.0),
    ] {
        // In f64, sorted: the first k, of those as many as reach p, of those the ones with
        // min-p of the first.
        let mut expected: Vec<(usize, f64)> = logits
            .iter()
            .map(|&l| (f64::from(l) / f64::from(temperature)).exp())
            .enumerate()
            .collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        expected.truncate(if top_k == 0 { 300 } else { top_k });
        let total: f64 = expected.iter().map(|(_, w)| w).sum();
        let mut reached = 0.0;
        expected.retain(|(_, w)| {
            let keep = reached < f64::from(top_p) * total;
            reached += w;
            keep
        });
        let most = expected[0].1;
        expected.retain(|(_, w)| *w >= f64::from(min_p) * most * (1.0 - 1e-9));
        let total: f64 = expected.iter().map(|(_, w)| w).sum();
        let (mut counts, draws) = (std::vec![0u32; 300], 20_000);
        let options = SamplerOptions { min_p, ..options(temperature, top_k, top_p) };
        let (mut sampler, mut scratch) = (Sampler::new(options).unwrap(), [Candidate::NONE; 300]);
        for _ in 0..draws {
            counts[sampler.sample(&logits, &[], &mut scratch).unwrap() as usize] += 1;
        }
        for (token, weight) in &expected {
            let mean = f64::from(draws) * weight / total;
            let count = f64::from(std::mem::take(&mut counts[*token]));
            assert!(
                (count - mean).abs() <= 5.0 * mean.sqrt() + 1.0,
                "token {token}: {count} draws instead of {mean:.1}"
            );
        }
        assert_eq!(counts.iter().sum::<u32>(), 0, "a token was drawn that is not kept");
    }
}

#[test]
fn min_p_outside_zero_to_one_is_refused() {
    for min_p in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        let made = Sampler::new(SamplerOptions { min_p, ..SamplerOptions::default() });
        assert!(matches!(made, Err(Error::Sampling { field: Field::MinP, .. })), "{min_p}");
    }
}

#[test]
fn extreme_temperatures_choose_among_the_best() {
    let (logits, mut scratch) = (logits(300), [Candidate::NONE; 300]);
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    for temperature in [f32::MIN_POSITIVE / 4.0, 1e-30, 1e-3] {
        let token = Sampler::new(options(temperature, 0, 1.0))
            .unwrap()
            .sample(&logits, &[], &mut scratch)
            .unwrap();
        assert_eq!(logits[token as usize], most);
    }
    let token = Sampler::new(options(f32::MAX, 0, 1.0))
        .unwrap()
        .sample(&logits, &[], &mut scratch)
        .unwrap();
    assert!(logits[token as usize].is_finite());
}
