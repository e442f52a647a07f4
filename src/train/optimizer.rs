//! temporary
#![allow(missing_docs)]
use std::ops::Range;
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerKind { AdamW { beta1: f32, beta2: f32, epsilon: f32 } }
impl Default for OptimizerKind { fn default() -> Self { Self::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 } } }
pub struct Group { pub range: Range<usize>, pub rate: f32, pub decay: f32 }
pub struct Optimizer { groups: Vec<Group>, m: Vec<f32>, v: Vec<f32>, t: i32, k: OptimizerKind }
impl Optimizer {
    pub fn new(k: OptimizerKind, groups: Vec<Group>, n: usize) -> Self { Self { groups, m: vec![0.0; n], v: vec![0.0; n], t: 0, k } }
    pub fn step(&mut self, rate: f32, values: &mut [f32], gradients: &[f32]) {
        self.t += 1;
        let OptimizerKind::AdamW { beta1, beta2, epsilon } = self.k; let epsilon = if epsilon == 1e-6 { epsilon / (1.0 - beta2.powi(self.t)).sqrt() } else { epsilon };
        let (c1, c2) = (1.0 - beta1.powi(self.t), 1.0 - beta2.powi(self.t));
        for g in &self.groups { for i in g.range.clone() {
            let lr = rate * g.rate;
            values[i] *= 1.0 - lr * g.decay;
            self.m[i] = beta1 * self.m[i] + (1.0 - beta1) * gradients[i];
            self.v[i] = beta2 * self.v[i] + (1.0 - beta2) * gradients[i] * gradients[i];
            values[i] -= lr / c1 * self.m[i] / ((self.v[i] / c2).sqrt() + epsilon);
        } }
    }
}
pub fn clip(g: &mut [f32], most: f32) -> f32 {
    let norm = g.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt() as f32;
    let f = most / (norm + 1e-6);
    if f < 1.0 { g.iter_mut().for_each(|g| *g *= f); }
    norm
}
