//! A method's own part of an optimizer step and of checkpoints, with one that counts.

use std::path::Path;

use super::*;
use crate::archive::ArchiveFile;
use crate::model::llama::Llama;
use crate::runtime::Serial;
use crate::train::Method;
use crate::train::data::{Batch, Inputs, Targets};
use crate::train::method::Update;

/// Remembers how many steps it saw before and after the optimizer, and adds 1 to the loss.
struct Counting([u8; 2]);

impl Technique for Counting {
    fn regularize(&self, _: &Options, _: Option<usize>, _: &[f32], _: &mut [f32]) -> f64 {
        1.0
    }

    fn before_step(&mut self, update: Update<'_>) -> bool {
        self.0[0] += 1;
        u64::from(self.0[0]) == update.step
    }

    fn after_step(&mut self, values: &mut [f32]) {
        self.0[1] += 1;
        values[0] = 0.5;
    }

    fn state(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainError> {
        self.0.copy_from_slice(state);
        Ok(())
    }
}

#[test]
fn what_a_method_remembers_is_kept_with_the_optimizer() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny.lrk");
    let file = ArchiveFile::open(&path).unwrap();
    let trainer = || {
        let model = Llama::open(&file).unwrap();
        Trainer::new(model, Options::new(Method::Lora), Vec::new()).unwrap()
    };
    let counting = || Trainer { technique: Box::new(Counting([0; 2])), ..trainer() };
    let targets = Targets::Next(vec![2, 3, 4, 5]);
    let batch = Batch { inputs: Inputs::Tokens(vec![1, 2, 3, 4]), starts: vec![0, 4], targets };
    let step = |trainer: &mut Trainer<'_>| {
        trainer.step(&Serial, std::slice::from_ref(&batch), 1.0).unwrap().loss
    };

    let (mut first, mut plain) = (counting(), trainer());
    assert_eq!(step(&mut first), step(&mut plain) + 1.0);
    assert_eq!(first.values()[0], 0.5);
    let (state, values) = (first.state(), first.values().to_vec());
    assert_eq!(state.bytes.len(), plain.state().bytes.len() + 2);
    assert_eq!(first.sizes(), (values.len(), state.bytes.len()));

    // The checkpoint of a run without the method's part is another run's.
    let mut second = counting();
    assert!(second.restore(1, &values, plain.state()).is_err());
    assert_eq!((second.steps(), second.technique.state()), (0, vec![0, 0]));
    second.restore(1, &values, state).unwrap();
    assert_eq!(step(&mut second), step(&mut first));
    assert_eq!(second.technique.state(), [2, 2]);
    assert_eq!((second.values(), second.state()), (first.values(), first.state()));
}
