//! `lowrank generate`: continue a prompt with the base, with adapters, or with one adapter after
//! the other in the same process.
//!
//! Decoders are opened here, LSTMs in `recurrent`; what both do with a prompt is here.

#[cfg(feature = "cuda")]
mod cuda;
mod recurrent;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use lowrank::RootKind;
use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::engine::{Bounds, End, Reply};
use lowrank::model::llama::Llama;
use lowrank::runtime::{
    Limits, Lookup, LookupCounts, Memory, Sampler, SamplerOptions, Session, need,
};
use lowrank::text::Tokenizer;
use serde_json::{Value, json};

use crate::Failure;
use crate::attach::{
    AdapterArgument, AdapterOptions, OpenAdapter, argument, note_classifiers, open_adapters,
};
use crate::files::File;
#[cfg(feature = "cuda")]
use crate::model::Device;
use crate::model::{Kv, ModelOptions, with_session};
use crate::output::{line, note, part};
use crate::prompt::PromptOptions;
use crate::reply::{Continues, read_prompt, write_reply};
use crate::sampling::{SamplingOptions, draft};

const EXAMPLES: &str = r#"Examples:
  lowrank generate --base base.lrk --prompt "Once upon a time" --tokens 50
  lowrank generate --base base.lrk --adapter style.lrk:0.7 --chat \
    --prompt "How do tides work?" --temperature 0.8 --min-p 0.05
  lowrank generate --base base.lrk --chat --prompt "How do tides work?" \
    --swap pirate=pirate.lrk --swap notes=notes.lrk --stats
  lowrank generate --base base.lrk --prompt-file story.txt \
    --stop "The end" --json
  lowrank generate --base base.lrk --chat --lookup 8 \
    --prompt-file "code_to_change.txt" --stats

With --json one object is printed (with --swap one a line): text, tokens
(ids), stop_reason (end, stop, length or context), prompt_tokens, adapters,
timings, and with --lookup how many tokens were guessed and right."#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    #[command(flatten)]
    pub(crate) adapters: AdapterOptions,
    #[command(flatten)]
    prompt: PromptOptions,
    /// The most tokens to generate; the end of a turn stops earlier
    #[arg(long, default_value_t = 128, value_name = "N")]
    tokens: usize,
    /// End where this text appears, without printing it; may be repeated
    #[arg(
        long = "stop",
        value_name = "TEXT",
        allow_hyphen_values = true,
        value_parser = NonEmptyStringValueParser::new()
    )]
    stops: Vec<String>,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Guess up to N tokens ahead from what stands in prompt and reply (prompt lookup decoding): faster
    /// where replies repeat parts of them; at most 32, 0 means off
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = draft)]
    pub(crate) lookup: usize,
    /// Tokens there is room for, the prompt's included [default: the prompt's and --tokens, at most
    /// what the model takes]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
    /// How a decoder's keys and values are kept [default: f16]
    #[arg(long, value_enum)]
    pub(crate) kv: Option<Kv>,
    /// Generate from the base, then swap to this adapter and generate again, in one process; may
    /// be repeated
    #[arg(
        long = "swap",
        value_name = "[NAME=]FILE[:WEIGHT]",
        value_parser = argument(),
        conflicts_with = "adapters"
    )]
    swaps: Vec<AdapterArgument>,
    /// Print JSON with stable names
    #[arg(long)]
    json: bool,
    /// Print times, speeds and memory to stderr
    #[arg(long)]
    pub(crate) stats: bool,
}

/// What every continuation of a command shares.
pub(crate) struct Job<'j> {
    pub(crate) arguments: &'j Arguments,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) prompt: Vec<u32>,
    sampler: Sampler,
    /// As every continuation begins with it.
    lookup: Option<Lookup>,
}

impl<'j> Job<'j> {
    pub(crate) fn new(arguments: &'j Arguments, base: &File) -> Result<Self, Failure> {
        let options = arguments.sampling.or(SamplerOptions::default());
        let sampler = Sampler::new(options)?;
        if let Some(idle) = arguments.sampling.without_effect(&options) {
            note(format_args!("lowrank: {idle}"));
        }
        let tokenizer = arguments.prompt.prepare(base.text()?)?;
        let prompt = arguments.prompt.encode(&tokenizer, &base.path)?;
        Ok(Self { arguments, tokenizer, prompt, sampler, lookup: None })
    }

    /// The adapters that are active together, and those to swap to.
    pub(crate) fn adapters(&self) -> Result<(Vec<OpenAdapter>, Vec<OpenAdapter>), Failure> {
        let Arguments { adapters, swaps, .. } = self.arguments;
        let opened = (open_adapters(&adapters.adapters)?, open_adapters(swaps)?);
        note_classifiers(&opened.0)?;
        note_classifiers(&opened.1)?;
        Ok(opened)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.file()?;
    #[cfg(feature = "cuda")]
    if arguments.model.device == Device::Cuda {
        return cuda::generate(&base, arguments);
    }
    arguments.model.card()?;
    match base.root()? {
        RootKind::LSTM => recurrent::generate(&base, arguments),
        _ => decoder(&base, arguments),
    }
}

fn decoder(base: &File, arguments: &Arguments) -> Result<(), Failure> {
    let model = base.base()?;
    let mut job = Job::new(arguments, base)?;
    let executor = arguments.model.executor()?;
    let context = context(&model, job.prompt.len(), arguments)?;
    let limits = Limits {
        kv_format: arguments.kv.unwrap_or(Kv::F16).into(),
        draft: arguments.lookup,
        ..arguments.model.limits(&model, context, executor.as_ref())
    };
    job.lookup = (arguments.lookup > 0).then(|| Lookup::new(&limits));
    let (adapters, swaps) = job.adapters()?;
    if swaps.is_empty() {
        return with_session(model, &adapters, limits, executor.as_ref(), |session, attaching| {
            let names: Vec<_> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
            continue_prompt(session, &job, &names, attaching)
        });
    }
    let mut rank = 0;
    for adapter in &swaps {
        rank = rank.max(adapter.file.adapter()?.max_rank());
    }
    let limits = Limits { max_active: 1, max_total_rank: rank, ..limits };
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut memory = Memory::try_new(need(model.config(), &limits))?;
    let mut session = Session::new(model, &limits, memory.as_mut(), executor.as_ref())?;
    swap(&mut session, &mut set, &swaps, &job)
}

/// Room for the prompt and what is to come, at most what the model was made for.
fn context(model: &Llama<'_>, prompt: usize, arguments: &Arguments) -> Result<usize, Failure> {
    let most = model.config().context;
    if let Some(asked) = arguments.context.filter(|asked| !(1..=most).contains(asked)) {
        return Err(format!("--context {asked}: the model takes 1 to {most} tokens").into());
    }
    let room = arguments.context.unwrap_or(most);
    if prompt <= room {
        return Ok(arguments.context.unwrap_or(prompt.saturating_add(arguments.tokens).min(most)));
    }
    let hint = if room < most {
        format!(" (--context; the model takes up to {most})")
    } else {
        String::new()
    };
    Err(format!("the prompt has {prompt} tokens, the context has room for {room}{hint}").into())
}

/// The base, then each adapter, in one session: what a swap takes is one slot, one selection, and
/// the prompt again.
pub(crate) fn swap<'m>(
    session: &mut impl Continues<'m>,
    set: &mut AdapterSet<'_, 'm>,
    adapters: &'m [OpenAdapter],
    job: &Job<'_>,
) -> Result<(), Failure> {
    let opened = adapters.iter().map(|adapter| adapter.file.adapter());
    let opened = opened.collect::<Result<Vec<_>, _>>()?;
    let is_text = !job.arguments.json;
    if is_text {
        line("[base]")?;
    }
    continue_prompt(session, job, &[], Duration::ZERO)?;
    let mut generation = 0;
    for (OpenAdapter { name, file, weight, .. }, adapter) in adapters.iter().zip(opened) {
        let start = Instant::now();
        generation = file.wrap(set.replace(0, generation, adapter))?;
        session.start_over(set, &[Choice { weight: *weight, ..Choice::slot(0) }])?;
        let swapping = start.elapsed();
        if is_text {
            let micros = swapping.as_secs_f64() * 1e6;
            line(format_args!("\n[{name}] swapped in {micros:.1} µs"))?;
        }
        continue_prompt(session, job, &[name], swapping)?;
    }
    Ok(())
}

/// Feeds the prompt and prints what follows it, under the adapters called `names`, which took
/// `attaching` to choose.
pub(crate) fn continue_prompt<'m>(
    session: &mut impl Continues<'m>,
    job: &Job<'_>,
    names: &[&str],
    attaching: Duration,
) -> Result<(), Failure> {
    let (arguments, never) = (job.arguments, AtomicBool::new(false));
    let start = Instant::now();
    read_prompt(session, &job.prompt, &never)?;
    let prefill = start.elapsed();
    let bounds = Bounds { tokens: arguments.tokens, stops: &arguments.stops };
    let mut print = |text: &str| if arguments.json { Ok(()) } else { part(text) };
    let start = Instant::now();
    let (mut sampler, mut lookup) = (job.sampler.clone(), job.lookup.clone());
    let choosing = (&mut sampler, lookup.as_mut());
    let reply = write_reply(session, &job.tokenizer, choosing, bounds, &never, &mut print)?;
    let decode = start.elapsed();
    let times = Times { attaching, prefill, decode };
    if arguments.json {
        let mut facts = facts(job, names, &reply, &times);
        if let Some(counts) = lookup.as_ref().map(Lookup::counts) {
            facts["lookup"] = json!({ "guessed": counts.guessed, "right": counts.right });
        }
        line(facts)?;
    } else {
        line("")?;
    }
    if reply.end == End::Context && !arguments.json {
        note(format_args!(
            "lowrank: the context is full after {} of {} tokens",
            reply.tokens.len(),
            arguments.tokens
        ));
    }
    if arguments.stats {
        report(&session.workspace(), job.prompt.len(), reply.tokens.len(), &times);
        if let Some(LookupCounts { guessed, right }) = lookup.as_ref().map(Lookup::counts) {
            note(format_args!("prompt lookup guessed {guessed} tokens, {right} of them right"));
        }
        if !names.is_empty() && !attaching.is_zero() {
            note(format_args!("adapters attached in {:.1} µs", attaching.as_secs_f64() * 1e6));
        }
    }
    Ok(())
}

/// What the steps of a continuation took.
struct Times {
    attaching: Duration,
    prefill: Duration,
    decode: Duration,
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// A continuation with stable names.
fn facts(job: &Job<'_>, names: &[&str], reply: &Reply, times: &Times) -> Value {
    let mut facts = json!({
        "text": reply.text,
        "tokens": reply.tokens,
        "stop_reason": reply.end.name(),
        "prompt_tokens": job.prompt.len(),
        "adapters": names,
        "timings": {
            "attach_seconds": times.attaching.as_secs_f64(),
            "prefill_seconds": times.prefill.as_secs_f64(),
            "decode_seconds": times.decode.as_secs_f64(),
            "prefill_tokens_per_s": rate(job.prompt.len(), times.prefill),
            "decode_tokens_per_s": rate(reply.tokens.len(), times.decode),
        },
    });
    if let End::Stop(number) = reply.end {
        facts["stop"] = json!(job.arguments.stops[number]);
    }
    facts
}

fn report(workspace: &str, prompt: usize, written: usize, times: &Times) {
    note(format_args!(
        "prompt {prompt} tokens in {:.0} ms ({:.0} tokens/s), reply {written} tokens in {:.0} ms ({:.0} tokens/s)",
        times.prefill.as_secs_f64() * 1e3,
        rate(prompt, times.prefill),
        times.decode.as_secs_f64() * 1e3,
        rate(written, times.decode),
    ));
    let peak = crate::memory::peak_resident();
    let peak = peak
        .map(|bytes| format!("; peak resident {:.1} MB, tokenizer included", bytes as f64 / 1e6));
    note(format_args!("{workspace}{}", peak.unwrap_or_default()));
}

/// Refuses an option that only decoders have.
pub(crate) fn only_for_decoders(option: &str, given: bool, base: &Path) -> Result<(), Failure> {
    if given {
        return Err(format!(
            "{}: --{option} has no effect on an LSTM, whose state does not grow",
            base.display()
        )
        .into());
    }
    Ok(())
}
