//! Gradients against finite differences, and the training loss against the core's, for every method on float and NF4 bases.

mod common;

use common::{CONFIG, Numbers, base};
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::model::llama::{Config, Llama};
use lowrank::quant::Format;
use lowrank::runtime::{KvFormat, Limits, Memory, Serial, Session, Threads, need};
use lowrank::train::data::{Batch, IGNORE, Inputs, Targets as Wanted};
use lowrank::train::{Method, Options, Part, Targets, Trainer};

/// Three sequences of unequal lengths; some rows have no target.
fn batch(config: &Config) -> Batch {
    let mut numbers = Numbers::new(5);
    let starts = vec![0, 9, 10, 23];
    let tokens: Vec<u32> = (0..23).map(|_| ((numbers.next() + 1.0) / 2.0 * (config.vocab - 1) as f32) as u32).collect();
    let next = (0..23).map(|row| if starts.contains(&(row + 1)) || row % 5 == 3 { IGNORE } else { tokens[row + 1] }).collect();
    Batch { inputs: Inputs::Tokens(tokens), starts, targets: Wanted::Next(next) }
}

fn everywhere() -> Targets {
    Targets::Names(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"].map(String::from).to_vec(),
    )
}

fn options(method: Method) -> Options {
    let targets = match method {
        Method::Full => Targets::AllLinear,
        Method::LoraFa | Method::Dora => Targets::AllLinear,
        _ => everywhere(),
    };
    Options { rank: 3, alpha: 5.0, max_norm: 0.0, targets, ..Options::new(method) }
}

/// Random values, so that nothing starts at zero; magnitudes keep their size.
fn shake(trainer: &mut Trainer<'_>, seed: u64) {
    let mut numbers = Numbers::new(seed);
    let mut values = trainer.values().to_vec();
    for parameter in trainer.parameters() {
        for v in &mut values[parameter.range.clone()] {
            match parameter.part {
                Part::A | Part::B => *v = 0.1 * numbers.next(),
                _ => *v *= 1.0 + 0.1 * numbers.next(),
            }
        }
    }
    trainer.set_values(&values).unwrap();
}

/// Along a random direction in every tensor: `(L(v + h·d) − L(v − h·d)) / 2h` against `gradient · d`.
fn finite_differences(method: Method, format: Format, change: impl Fn(&mut Options)) {
    let archive = base(&CONFIG, format, format, 3);
    let model = Llama::open(&archive).unwrap();
    let batch = batch(&CONFIG);
    let mut options = options(method);
    change(&mut options);
    let mut trainer = Trainer::new(model, options, Vec::new()).unwrap();
    shake(&mut trainer, 11);
    let facts = trainer.backward(&Serial, std::slice::from_ref(&batch)).unwrap();
    let (values, gradients) = (trainer.values().to_vec(), trainer.gradients().to_vec());
    let mut numbers = Numbers::new(17);
    let parameters: Vec<_> = trainer.parameters().collect();
    for parameter in parameters.iter().filter(|parameter| !parameter.frozen) {
        let range = parameter.range.clone();
        let length = gradients[range.clone()].iter().map(|g| g * g).sum::<f32>().sqrt();
        // Half along the gradient, so that the slope is not lost in rounding, half anywhere.
        let direction: Vec<f32> =
            gradients[range.clone()].iter().map(|g| g / length.max(1e-12) + 0.5 * numbers.next() / (range.len() as f32).sqrt()).collect();
        let slope: f64 = direction.iter().zip(&gradients[range.clone()]).map(|(d, g)| f64::from(*d) * f64::from(*g)).sum();
        let h = 3e-3;
        let mut at = |h: f32| {
            let mut moved = values.clone();
            moved[range.clone()].iter_mut().zip(&direction).for_each(|(v, d)| *v += h * d);
            trainer.set_values(&moved).unwrap();
            trainer.loss(&Serial, &batch, facts.rank).unwrap().loss
        };
        let (ahead, behind) = (at(h), at(-h));
        let found = (ahead - behind) / (2.0 * f64::from(h));
        let noise = 1e-6 * facts.loss / f64::from(h);
        assert!(
            (found - slope).abs() <= 5e-3 * slope.abs() + noise,
            "{method} {format:?}: {} {:?}: finite difference {found}, gradient {slope}",
            parameter.layer,
            parameter.part
        );
    }
}

#[test]
fn gradients_are_slopes() {
    for format in [Format::F32, Format::Nf4] {
        for method in [Method::Lora, Method::RsLora, Method::LoraPlus, Method::DyLora, Method::LoraFa] {
            finite_differences(method, format, |_| ());
        }
    }
    finite_differences(Method::QLora, Format::Nf4, |_| ());
    finite_differences(Method::Full, Format::F32, |_| ());
    finite_differences(Method::Lora, Format::Int8, |options| options.checkpointing = true);
}

/// What the core says of a batch under an adapter: the mean loss in `Exact`.
fn core_loss(model: Llama<'_>, adapter: Option<&[u8]>, batch: &Batch) -> f64 {
    let (Inputs::Tokens(tokens), Wanted::Next(next)) = (&batch.inputs, &batch.targets) else { panic!() };
    let limits = Limits { kv_format: KvFormat::F32, prefill_chunk: 16, ..Limits::new(model.config().context) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut choices = Vec::new();
    if let Some(adapter) = adapter {
        set.attach(0, Adapter::open(adapter).unwrap()).unwrap();
        choices.push(Choice::slot(0));
    }
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let (mut loss, mut scored) = (0.0, 0);
    for pair in batch.starts.windows(2) {
        session.reset(0).unwrap();
        session.select(0, &set, &choices).unwrap();
        session
            .score(0, &tokens[pair[0]..pair[1]], |position, logits| {
                let target = next[pair[0] + position];
                if target != IGNORE {
                    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let total: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
                    loss += total.ln() - f64::from(logits[target as usize] - most);
                    scored += 1;
                }
            })
            .unwrap();
    }
    loss / f64::from(scored)
}

#[test]
fn the_training_loss_is_the_cores() {
    let batch = batch(&CONFIG);
    for format in [Format::F32, Format::F16, Format::Int8, Format::Nf4] {
        for method in Method::ALL {
            if (method == Method::QLora && format != Format::Nf4)
                || (method == Method::Full && !matches!(format, Format::F32 | Format::F16))
            {
                continue;
            }
            let archive = base(&CONFIG, format, format, 3);
            let model = Llama::open(&archive).unwrap();
            let mut trainer = Trainer::new(model, options(method), Vec::new()).unwrap();
            shake(&mut trainer, 23);
            let ours = trainer.loss(&Serial, &batch, None).unwrap().loss;
            let trained = trainer.archive("test", None).unwrap();
            let core = if method == Method::Full {
                core_loss(Llama::open(&trained).unwrap(), None, &batch)
            } else {
                core_loss(model, Some(&trained), &batch)
            };
            assert!((ours - core).abs() <= 1e-5 * core, "{method} on {format:?}: {ours}, the core says {core}");
        }
    }
}

#[test]
fn any_rank_of_dylora_can_be_used() {
    let batch = batch(&CONFIG);
    let archive = base(&CONFIG, Format::Nf4, Format::Int8, 3);
    let model = Llama::open(&archive).unwrap();
    let mut trainer = Trainer::new(model, options(Method::DyLora), Vec::new()).unwrap();
    shake(&mut trainer, 29);
    for rank in 1..=3 {
        let ours = trainer.loss(&Serial, &batch, Some(rank)).unwrap().loss;
        let core = core_loss(model, Some(&trainer.archive("test", Some(rank)).unwrap()), &batch);
        assert!((ours - core).abs() <= 1e-5 * core, "rank {rank}: {ours}, the core says {core}");
    }
}

/// Dropout, accumulation and everything random follow from the seed, whatever the number of lanes and the checkpointing.
#[test]
fn results_do_not_depend_on_lanes_or_checkpointing() {
    let (batch, archive) = (batch(&CONFIG), base(&CONFIG, Format::Nf4, Format::Nf4, 3));
    let model = Llama::open(&archive).unwrap();
    for method in [Method::QLora, Method::Dora, Method::DyLora, Method::LoraFa] {
        let run = |lanes: usize, checkpointing: bool| {
            let options = Options { dropout: 0.2, checkpointing, learning_rate: 1e-2, label_smoothing: 0.1, ..options(method) };
            let mut trainer = Trainer::new(model, options, Vec::new()).unwrap();
            let executor = Threads::new(lanes).unwrap();
            for _ in 0..4 {
                trainer.step(&executor, &[batch.clone(), batch.clone()], 1.0).unwrap();
            }
            trainer.values().to_vec()
        };
        let one = run(1, false);
        assert!(one == run(2, false), "{method}: two lanes");
        assert!(one == run(3, true), "{method}: three lanes and checkpointing");
    }
}

/// With dropout the loss is another function; its gradient must still be its slope. The mask is a function of the step, so it is
/// the same for neighbouring values.
#[test]
fn dropout_has_its_gradient() {
    let (batch, archive) = (batch(&CONFIG), base(&CONFIG, Format::F32, Format::F32, 3));
    let model = Llama::open(&archive).unwrap();
    let options = Options { dropout: 0.3, targets: Targets::AllLinear, ..options(Method::Lora) };
    let mut trainer = Trainer::new(model, options, Vec::new()).unwrap();
    shake(&mut trainer, 31);
    let facts = trainer.backward(&Serial, std::slice::from_ref(&batch)).unwrap();
    let (values, gradients) = (trainer.values().to_vec(), trainer.gradients().to_vec());
    let length = gradients.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
    let mut at = |h: f64| {
        let moved: Vec<f32> = values.iter().zip(&gradients).map(|(v, g)| v + (h / length * f64::from(*g)) as f32).collect();
        trainer.set_values(&moved).unwrap();
        trainer.backward(&Serial, std::slice::from_ref(&batch)).unwrap().loss
    };
    let found = (at(1e-2) - at(-1e-2)) / 2e-2;
    assert!((found - length).abs() <= 5e-3 * length, "finite difference {found}, gradient {length}");
    assert!(facts.loss != trainer.loss(&Serial, &batch, None).unwrap().loss, "dropout does nothing");
}
