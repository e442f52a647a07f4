//! Gradients against finite differences, for any base and method.

use lowrank::adapter::Base;
use lowrank::runtime::Serial;
use lowrank::train::data::{Batch, Targets};
use lowrank::train::{Method, Parameter, Part, Trainer};

use super::Numbers;

/// Random values, so that nothing starts at zero; what was not drawn near zero keeps its size.
pub fn shake(trainer: &mut Trainer<'_>, seed: u64) {
    let mut numbers = Numbers::new(seed);
    let mut values = trainer.values().to_vec();
    for parameter in trainer.parameters() {
        for v in &mut values[parameter.range.clone()] {
            match parameter.part {
                Part::A | Part::B => *v = 0.1 * numbers.next(),
                Part::ClassifierWeight | Part::ClassifierBias => *v += 0.3 * numbers.next(),
                _ => *v *= 1.0 + 0.1 * numbers.next(),
            }
        }
    }
    trainer.set_values(&values).unwrap();
}

/// The loss that gradients belong to: `(1 − ε)·L(targets) + ε·mean of L(class c for all)` over
/// `classes` classes.
fn smoothed(trainer: &Trainer<'_>, batch: &Batch, rank: Option<usize>, classes: u32) -> f64 {
    let loss = |batch: &Batch| trainer.loss(&Serial, batch, rank).unwrap().loss;
    let epsilon = f64::from(trainer.options().label_smoothing);
    if epsilon == 0.0 {
        return loss(batch);
    }
    let all = |class: u32| match &batch.targets {
        Targets::Class(targets) => Targets::Class(vec![class; targets.len()]),
        Targets::Next(next) => Targets::Next(
            next.iter().map(|&target| if target == u32::MAX { target } else { class }).collect(),
        ),
    };
    let even = (0..classes)
        .map(|class| loss(&Batch { targets: all(class), ..batch.clone() }))
        .sum::<f64>();
    (1.0 - epsilon) * loss(batch) + epsilon * even / f64::from(classes)
}

/// ‖W + s·B A‖ of every row of a layer with DoRA, in f64.
struct Norms {
    weight: Vec<f32>,
    outputs: usize,
    scale: f64,
    a: Parameter,
    b: Parameter,
    magnitude: Parameter,
}

impl Norms {
    fn new(trainer: &Trainer<'_>, base: &dyn Base, layer: &str) -> Self {
        let path = |site: u32| {
            let mut path = String::new();
            base.write_path(site, &mut path).unwrap();
            path
        };
        let site = (0..base.sites()).find(|&site| path(site) == layer).unwrap();
        let weight = base.weight_at(site).unwrap();
        let mut values = vec![0.0; weight.rows() * weight.cols()];
        values
            .chunks_exact_mut(weight.cols())
            .enumerate()
            .for_each(|(row, out)| weight.read(row, 0, out));
        let [a, b, magnitude] = [Part::A, Part::B, Part::Magnitude]
            .map(|part| trainer.parameters().find(|p| p.layer == layer && p.part == part).unwrap());
        let scale = f64::from(trainer.options().alpha) / trainer.options().rank as f64;
        Self { weight: values, outputs: weight.rows(), scale, a, b, magnitude }
    }

    fn of(&self, values: &[f32]) -> Vec<f64> {
        let (a, b) = (&values[self.a.range.clone()], &values[self.b.range.clone()]);
        let (inputs, rank) = (self.weight.len() / self.outputs, b.len() / self.outputs);
        let element = |row: usize, col: usize| {
            let low = (0..rank)
                .map(|j| f64::from(b[j * self.outputs + row]) * f64::from(a[j * inputs + col]))
                .sum::<f64>();
            f64::from(self.weight[row * inputs + col]) + self.scale * low
        };
        (0..self.outputs)
            .map(|row| (0..inputs).map(|col| element(row, col).powi(2)).sum::<f64>().sqrt())
            .collect()
    }

    /// DoRA's norm is a constant in the backward pass: where A or B have moved from `before`, m
    /// moves so that m / ‖W + s·B A‖ stays.
    fn hold(&self, before: &[f32], moved: &mut [f32]) {
        let (old, new) = (self.of(before), self.of(moved));
        for (m, (old, new)) in
            moved[self.magnitude.range.clone()].iter_mut().zip(old.iter().zip(&new))
        {
            *m = (f64::from(*m) * new / old) as f32;
        }
    }
}

/// Along a direction in every trained tensor: `(L(v + h·d) − L(v − h·d)) / 2h` against `gradient ·
/// d`. `classes` are the outputs.
pub fn assert_slopes(
    what: &str,
    mut trainer: Trainer<'_>,
    base: &dyn Base,
    batch: &Batch,
    classes: usize,
) {
    shake(&mut trainer, 11);
    let facts = trainer.backward(&Serial, std::slice::from_ref(batch)).unwrap();
    let (values, gradients) = (trainer.values().to_vec(), trainer.gradients().to_vec());
    let is_dora = trainer.options().method == Method::Dora;
    let parameters: Vec<_> = trainer.parameters().filter(|parameter| !parameter.frozen).collect();
    assert!(!parameters.is_empty(), "{what}");
    let mut numbers = Numbers::new(17);
    for parameter in parameters {
        let range = parameter.range.clone();
        let norms = (is_dora && matches!(parameter.part, Part::A | Part::B))
            .then(|| Norms::new(&trainer, base, &parameter.layer));
        let length = gradients[range.clone()].iter().map(|g| g * g).sum::<f32>().sqrt();
        // Half along the gradient, so that the slope is not lost in rounding, half anywhere.
        let direction: Vec<f32> = gradients[range.clone()]
            .iter()
            .map(|g| g / length.max(1e-12) + 0.5 * numbers.next() / (range.len() as f32).sqrt())
            .collect();
        let slope: f64 = direction
            .iter()
            .zip(&gradients[range.clone()])
            .map(|(d, g)| f64::from(*d) * f64::from(*g))
            .sum();
        let h = 3e-3;
        let mut at = |h: f32| {
            let mut moved = values.clone();
            moved[range.clone()].iter_mut().zip(&direction).for_each(|(v, d)| *v += h * d);
            if let Some(norms) = &norms {
                norms.hold(&values, &mut moved);
            }
            trainer.set_values(&moved).unwrap();
            smoothed(&trainer, batch, facts.rank, classes as u32)
        };
        let found = (at(h) - at(-h)) / (2.0 * f64::from(h));
        let noise = 1e-6 * facts.loss / f64::from(h);
        assert!(
            (found - slope).abs() <= 5e-3 * slope.abs() + noise,
            "{what}: {} {:?}: finite difference {found}, gradient {slope}",
            parameter.layer,
            parameter.part
        );
    }
}
