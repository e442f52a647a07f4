//! Learning-rate schedules: a factor for each step, as transformers' `get_*_schedule_with_warmup`.
//! Not the rate itself.
//!
//! Steps count from 0; with warm-up the factor of step 0 is 0.

use std::f64::consts::PI;

/// How the rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScheduleShape {
    /// It stays.
    Constant,
    /// In a straight line to 0 at the last step.
    #[default]
    Linear,
    /// Along half a cosine to 0 at the last step.
    Cosine,
}

impl ScheduleShape {
    /// The name on the command line and in archives.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

/// Warm-up in a straight line from 0, then a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub shape: ScheduleShape,
    /// Steps of warm-up; 0 for none.
    pub warmup: u64,
    /// Steps of the whole run, warm-up included. [`ScheduleShape::Constant`] does not look at it.
    pub total: u64,
}

impl Schedule {
    /// What multiplies the learning rate in `step`, 0 to 1.
    ///
    /// Warm-up: `step / warmup`. Then, with `p = (step − warmup) / (total − warmup)`: 1, `1 − p` or
    /// `(1 + cos πp) / 2`; 0 for linear and cosine from `total` on.
    pub fn factor(&self, step: u64) -> f32 {
        if step < self.warmup {
            return (step as f64 / self.warmup as f64) as f32;
        }
        if step >= self.total {
            return if self.shape == ScheduleShape::Constant { 1.0 } else { 0.0 };
        }
        let progress = (step - self.warmup) as f64 / (self.total - self.warmup) as f64;
        match self.shape {
            ScheduleShape::Constant => 1.0,
            ScheduleShape::Linear => (1.0 - progress) as f32,
            ScheduleShape::Cosine => (0.5 * (1.0 + libm::cos(PI * progress))) as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_transformers() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/optimizer/schedules.json");
        let rows: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for row in rows.as_array().unwrap() {
            let shape = match row["shape"].as_str().unwrap() {
                "constant" => ScheduleShape::Constant,
                "linear" => ScheduleShape::Linear,
                "cosine" => ScheduleShape::Cosine,
                other => panic!("{other}"),
            };
            let schedule = Schedule {
                shape,
                warmup: row["warmup"].as_u64().unwrap(),
                total: row["total"].as_u64().unwrap(),
            };
            for (step, theirs) in (0..).zip(row["factors"].as_array().unwrap()) {
                let (ours, theirs) = (schedule.factor(step), theirs.as_f64().unwrap() as f32);
                assert!((ours - theirs).abs() <= 1e-7, "{schedule:?} step {step}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn after_the_last_step_the_rate_stays_zero() {
        for shape in [ScheduleShape::Linear, ScheduleShape::Cosine] {
            let schedule = Schedule { shape, warmup: 2, total: 10 };
            assert!(
                [10, 11, 18, 1000, u64::MAX].iter().all(|&step| schedule.factor(step) == 0.0),
                "{shape:?}"
            );
        }
        assert_eq!(
            Schedule { shape: ScheduleShape::Constant, warmup: 2, total: 10 }.factor(1000),
            1.0
        );
    }
}
