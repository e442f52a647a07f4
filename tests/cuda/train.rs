//! Training with a card: losses, gradients and what is learnt are the CPU's to 1e-4, in every method,
//! format and family; what a card cannot do, and one that fails, is one error.

use lowrank::cuda::Device;
use lowrank::kernel::Precision;
use lowrank::model::AnyBase;
use lowrank::model::mlp::Activation;
use lowrank::quant::Format;
use lowrank::runtime::{Serial, Threads};
use lowrank::train::data::{Batch, IGNORE, Inputs, Targets};
use lowrank::train::{Method, Options, TargetModules, Trainer};

use crate::common::{BERT, CONFIG, LSTM, Numbers, base, bert, lstm, mlp, names, shake};
use crate::cuda_driver::is_planted;
use crate::device;

/// Three sequences of unequal lengths; some rows have no target.
fn next_tokens(vocab: usize) -> Batch {
    let mut numbers = Numbers::new(5);
    let starts = vec![0, 9, 10, 23];
    let mut token = || ((numbers.next() + 1.0) / 2.0 * (vocab - 1) as f32) as u32;
    let tokens: Vec<u32> = (0..23).map(|_| token()).collect();
    let has_none = |row: usize| starts.contains(&(row + 1)) || row % 5 == 3;
    let next = (0..23).map(|row| if has_none(row) { IGNORE } else { tokens[row + 1] }).collect();
    Batch { inputs: Inputs::Tokens(tokens), starts, targets: Targets::Next(next) }
}

fn classes(vocab: usize) -> Batch {
    Batch { targets: Targets::Class(vec![2, 0, 1]), ..next_tokens(vocab) }
}

fn options(method: Method) -> Options {
    let targets = match method {
        Method::LoraFa | Method::Dora | Method::Ia3 => TargetModules::AllLinear,
        _ => TargetModules::Pattern(".*".into()),
    };
    Options { rank: 3, alpha: 5.0, learning_rate: 1e-3, targets, ..Options::new(method) }
        .with_method(method)
}

/// Are numbers alike to 1e-4 of the largest?
fn assert_alike(what: &str, cpu: &[f32], card: &[f32]) {
    let largest = cpu.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let worst = cpu.iter().zip(card).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(cpu.len() == card.len() && largest.is_finite(), "{what}");
    assert!(worst <= 1e-4 * largest, "{what}: off by {worst:e}, largest {largest:e}");
}

/// Steps on the CPU and with the card: every loss, gradient and number that is trained.
fn steps(archive: &[u8], options: &Options, labels: usize, batch: &Batch, count: usize) {
    let model = AnyBase::open(archive).unwrap();
    let names = || if labels > 0 { names(labels) } else { Vec::new() };
    let mut cpu = Trainer::new(model, options.clone(), names()).unwrap();
    let mut card = Trainer::new(model, options.clone(), names()).unwrap();
    card.use_device(&device()).unwrap();
    shake(&mut cpu, 23);
    shake(&mut card, 23);
    let (batches, threads) = ([batch.clone(), batch.clone()], Threads::new(2).unwrap());
    for step in 0..count {
        let what = format!("{} over {model:?}, step {step}", options.method);
        let facts = [
            cpu.backward(&Serial, &batches[..1 + step % 2]).unwrap(),
            card.backward(&threads, &batches[..1 + step % 2]).unwrap(),
        ];
        let losses = facts.map(|facts| facts.loss);
        assert!((losses[0] - losses[1]).abs() <= 1e-4 * losses[0], "{what}: {losses:?}");
        let parameters: Vec<_> = cpu.parameters().collect();
        for parameter in &parameters {
            let what =
                format!("{what}: gradient of {} of {}", parameter.part.name(), parameter.layer);
            let range = parameter.range.clone();
            assert_alike(&what, &cpu.gradients()[range.clone()], &card.gradients()[range]);
        }
        cpu.apply(facts[0], 1.0).unwrap();
        card.apply(facts[1], 1.0).unwrap();
        for parameter in &parameters {
            let what = format!("{what}: {} of {}", parameter.part.name(), parameter.layer);
            let range = parameter.range.clone();
            assert_alike(&what, &cpu.values()[range.clone()], &card.values()[range]);
        }
    }
    let losses = [&cpu, &card].map(|it| it.loss(&Serial, batch, None).unwrap().loss);
    assert!((losses[0] - losses[1]).abs() <= 1e-4 * losses[0], "{losses:?}");
}

#[test]
fn ten_steps_are_those_of_the_cpu() {
    for format in [Format::Nf4, Format::F32] {
        let archive = base(&CONFIG, format, format, 3);
        for method in [Method::Lora, Method::Dora] {
            steps(&archive, &options(method), 0, &next_tokens(CONFIG.vocab), 10);
        }
    }
}

#[test]
fn every_method_and_format_learns_what_it_does_on_the_cpu() {
    let batch = next_tokens(CONFIG.vocab);
    let nf4 = base(&CONFIG, Format::Nf4, Format::Nf4, 3);
    for method in Method::ALL.into_iter().filter(|method| *method != Method::Full) {
        steps(&nf4, &options(method), 0, &batch, 2);
    }
    for (format, embedding) in [(Format::Nf4Plain, Format::F16), (Format::Int8, Format::Int8)] {
        let archive = base(&CONFIG, format, embedding, 3);
        steps(&archive, &options(Method::Lora), 0, &batch, 2);
    }
    for method in [Method::QLora, Method::Dora, Method::Ia3] {
        let options = Options { checkpointing: true, label_smoothing: 0.1, ..options(method) };
        steps(&nf4, &options, 0, &batch, 2);
    }
    for method in [Method::QLora, Method::Dora] {
        steps(&nf4, &Options { dropout: 0.2, ..options(method) }, 0, &batch, 2);
    }
}

#[test]
fn every_family_and_task_learns_what_it_does_on_the_cpu() {
    let lora = options(Method::Lora);
    let decoder = base(&CONFIG, Format::Nf4, Format::Int8, 3);
    steps(&decoder, &lora, 3, &classes(CONFIG.vocab), 2);
    let encoder = bert(&BERT, Format::F16, Format::F16, true, 3);
    steps(&encoder, &lora, 3, &classes(BERT.vocab), 2);
    steps(&encoder, &options(Method::Dora), 3, &classes(BERT.vocab), 2);
    let recurrent = lstm(&LSTM, Format::Int8, Format::Int8, 3);
    steps(&recurrent, &lora, 0, &next_tokens(LSTM.vocab), 2);
    let layers = mlp(10, &[33, 3], Activation::Relu, Format::F32, true, 3);
    let rows = Batch {
        inputs: Inputs::Features { values: Numbers::new(5).vec(70, 1.0), width: 10 },
        starts: (0..8).collect(),
        targets: Targets::Class(vec![0, 1, 2, 1, 1, 0, 2]),
    };
    steps(&layers, &lora, 3, &rows, 2);
}

#[test]
fn what_a_card_cannot_train_is_refused() {
    let floats = base(&CONFIG, Format::F32, Format::F32, 3);
    let nf4 = base(&CONFIG, Format::Nf4, Format::Nf4, 3);
    let fast = Options { precision: Precision::Fast, ..options(Method::Lora) };
    for (archive, options, part) in [
        (&floats, Options::new(Method::Full), "it runs on the CPU only"),
        (&nf4, fast, "a card computes with exact activations"),
    ] {
        let model = AnyBase::open(archive).unwrap();
        let mut trainer = Trainer::new(model, options, Vec::new()).unwrap();
        let error = trainer.use_device(&device()).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
        // It trains on the CPU as before.
        trainer.step(&Serial, &[next_tokens(CONFIG.vocab)], 1.0).unwrap();
    }
}

#[test]
fn a_card_that_is_lost_ends_the_step() {
    if !is_planted("train::a_card_that_is_lost_ends_the_step", ("SOFTPTX_LOSE_AFTER", "100")) {
        return;
    }
    let archive = base(&CONFIG, Format::Nf4, Format::Nf4, 3);
    let (model, batch) = (AnyBase::open(&archive).unwrap(), [next_tokens(CONFIG.vocab)]);
    let mut trainer = Trainer::new(model, options(Method::Lora), Vec::new()).unwrap();
    trainer.use_device(&Device::open(0).unwrap()).unwrap();
    let mut before = trainer.values().to_vec();
    let mut step = || {
        let result = trainer.step(&Serial, &batch, 1.0);
        (result, trainer.values().to_vec(), trainer.steps())
    };
    let error = loop {
        match step() {
            (Ok(_), values, count) => {
                before = values;
                assert!(count < 10, "the card is never lost");
            }
            (Err(error), values, _) => {
                assert!(before == values, "a step that failed has changed something");
                break error.to_string();
            }
        }
    };
    assert!(error.contains("CUDA: a kernel: the device was lost"), "{error}");
    assert_eq!(step().0.unwrap_err().to_string(), error);
    assert_eq!(trainer.loss(&Serial, &batch[0], None).unwrap_err().to_string(), error);
    let mut other = Trainer::new(model, options(Method::Lora), Vec::new()).unwrap();
    other.step(&Serial, &batch, 1.0).unwrap();
}
