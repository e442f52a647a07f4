//! Logits as probabilities.

/// −log softmax(logits)\[next], in f64.
pub(crate) fn negative_log_likelihood(logits: &[f32], next: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    total.ln() - f64::from(logits[next as usize] - most)
}

/// softmax(logits), computed in f64.
pub(crate) fn probabilities(logits: &[f32]) -> Vec<f32> {
    let probability = |label| (-negative_log_likelihood(logits, label)).exp() as f32;
    (0..logits.len() as u32).map(probability).collect()
}
