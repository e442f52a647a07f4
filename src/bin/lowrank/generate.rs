//! `lowrank generate`: continue a prompt with the base, with adapters, or with one adapter after
//! the other in the same process.
//!
//! Decoders are opened here, LSTMs in `recurrent`; what both do with a prompt is here.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use lowrank::RootKind;
use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::model::llama::Llama;
use lowrank::runtime::{Limits, Memory, Sampler, SamplerOptions, Session, need};
use lowrank::text::{Message, TextBorder};

use crate::Failure;
use crate::files::File;
use crate::model::{AdapterOptions, Kv, ModelOptions, name_and_file, open_adapters, with_session};
use crate::output::{line, note, part};
use crate::recurrent;
use crate::template::TemplateOptions;

/// How tokens are chosen.
#[derive(Debug, Args)]
pub(crate) struct SamplingOptions {
    /// Divides the logits; 0 always takes the most probable token
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    temperature: f32,
    /// Choose among the K most probable tokens; 0 means all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Choose among the most probable tokens that reach this probability together
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    top_p: f32,
    /// Make tokens that were there already less probable; 1 means no
    #[arg(long, default_value_t = 1.0, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
}

impl SamplingOptions {
    pub(crate) fn sampler(&self) -> lowrank::Result<Sampler> {
        Sampler::new(SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        })
    }
}

const EXAMPLES: &str = r#"Examples:
  lowrank generate --base base.lrk --prompt "Once upon a time" --tokens 50 --stats
  lowrank generate --base base.lrk --adapter style.lrk:0.7 --adapter task.lrk --chat --prompt "How do tides work?"
  lowrank generate --base base.lrk --chat --prompt "How do tides work?" --swap pirate=pirate.lrk --swap notes=notes.lrk
  lowrank generate --base lstm.lrk --prompt "to be" --tokens 200 --temperature 0.8"#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) model: ModelOptions,
    #[command(flatten)]
    pub(crate) adapters: AdapterOptions,
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Send the prompt as a user's message through the model's chat template
    #[arg(long)]
    chat: bool,
    /// A system message for --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateOptions,
    /// The most tokens to generate; the end of a turn stops earlier
    #[arg(long, default_value_t = 128, value_name = "N")]
    tokens: usize,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// How a decoder's keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    kv: Kv,
    /// Generate from the base, then swap to this adapter and generate again, in one process; may
    /// be repeated
    #[arg(long = "swap", value_name = "NAME=FILE", value_parser = name_and_file, conflicts_with = "adapters")]
    swaps: Vec<(String, PathBuf)>,
    /// Print times, speeds and memory to stderr
    #[arg(long)]
    pub(crate) stats: bool,
}

/// A session of one sequence that continues a text; the adapters of its selections live for `'m`.
pub(crate) trait Continues<'m> {
    /// Reads the prompt.
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()>;
    /// Chooses the next token.
    fn sample(&mut self, sampler: &mut Sampler) -> lowrank::Result<u32>;
    /// Reads it.
    fn step(&mut self, token: u32) -> lowrank::Result<()>;
    /// Is there no room for another?
    fn is_full(&self) -> lowrank::Result<bool>;
    /// Forgets everything and chooses other adapters.
    fn start_over(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> lowrank::Result<()>;
    /// What it takes, for people.
    fn workspace(&self) -> String;
}

impl<'m> Continues<'m> for Session<'_, 'm> {
    fn prefill(&mut self, tokens: &[u32]) -> lowrank::Result<()> {
        self.prefill(0, tokens)
    }

    fn sample(&mut self, sampler: &mut Sampler) -> lowrank::Result<u32> {
        self.sample(0, sampler)
    }

    fn step(&mut self, token: u32) -> lowrank::Result<()> {
        self.step(&[(0, token)])
    }

    fn is_full(&self) -> lowrank::Result<bool> {
        Ok(self.room(0)? == 0)
    }

    fn start_over(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> lowrank::Result<()> {
        self.reset(0)?;
        self.select(0, set, choices)
    }

    fn workspace(&self) -> String {
        let need = need(self.model().config(), self.limits());
        let mb = |bytes: usize| bytes as f64 / 1e6;
        format!(
            "workspace {:.1} MB, of which keys and values {:.1} MB",
            mb(need.bytes),
            mb(need.kv_bytes)
        )
    }
}

impl Arguments {
    /// `border` with the variables for the chat template.
    pub(crate) fn with_template_variables(
        &self,
        border: TextBorder,
    ) -> Result<TextBorder, Failure> {
        if !self.chat && !self.template.is_empty() {
            return Err("--template-arg has no effect without --chat".into());
        }
        self.template.apply(border)
    }

    /// The adapters to swap to, by name.
    pub(crate) fn open_swaps(&self) -> Result<Vec<(&str, File)>, Failure> {
        self.swaps.iter().map(|(name, file)| Ok((name.as_str(), File::open(file)?))).collect()
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.open()?;
    match base.root()? {
        RootKind::LSTM => recurrent::generate(&base, arguments),
        _ => decoder(&base, arguments),
    }
}

fn decoder(base: &File, arguments: &Arguments) -> Result<(), Failure> {
    let model = base.base()?;
    let border = arguments.with_template_variables(base.text()?)?;
    let prompt = encode_prompt(arguments, &border)?;
    let context = context(&model, prompt.len(), arguments.tokens)?;
    let limits = Limits {
        kv_format: arguments.kv.into(),
        precision: arguments.model.precision(&model),
        ..Limits::new(context)
    };
    let executor = arguments.model.executor()?;
    let swaps = arguments.open_swaps()?;
    if swaps.is_empty() {
        let adapters = open_adapters(&arguments.adapters.adapters)?;
        return with_session(model, &adapters, limits, executor.as_ref(), |session, attaching| {
            continue_prompt(session, &border, &prompt, arguments)?;
            if arguments.stats && !adapters.is_empty() {
                note(format_args!("adapters attached in {:.1} µs", attaching.as_secs_f64() * 1e6));
            }
            Ok(())
        });
    }
    let mut rank = 0;
    for (_, file) in &swaps {
        rank = rank.max(file.adapter()?.max_rank());
    }
    let limits = Limits { lanes: executor.lanes(), max_active: 1, max_total_rank: rank, ..limits };
    let mut slots = [Slot::EMPTY; 1];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut memory = Memory::try_new(need(model.config(), &limits))?;
    let mut session = Session::new(model, &limits, memory.as_mut(), executor.as_ref())?;
    swap(&mut session, &mut set, &swaps, &border, &prompt, arguments)
}

/// The tokens of the prompt, through the chat template if it is asked for.
pub(crate) fn encode_prompt(
    arguments: &Arguments,
    border: &TextBorder,
) -> Result<Vec<u32>, Failure> {
    let prompt = border.encode_prompt(&prompt_text(arguments, border)?)?;
    if prompt.is_empty() { Err("the prompt is empty".into()) } else { Ok(prompt) }
}

fn prompt_text(arguments: &Arguments, border: &TextBorder) -> Result<String, Failure> {
    if !arguments.chat {
        return Ok(arguments.prompt.clone());
    }
    let system = arguments.system.iter().map(|text| Message::new("system", text));
    let messages: Vec<_> = system.chain([Message::new("user", &arguments.prompt)]).collect();
    Ok(border
        .render_chat(&messages, true)
        .map_err(|error| format!("{}: {error}", arguments.model.base.display()))?)
}

/// Room for the prompt and what is to come, at most what the model was made for.
fn context(model: &Llama<'_>, prompt: usize, tokens: usize) -> Result<usize, Failure> {
    let most = model.config().context;
    if prompt > most {
        return Err(format!("the prompt has {prompt} tokens, the model's context is {most}").into());
    }
    Ok(prompt.saturating_add(tokens).min(most))
}

/// The base, then each adapter, in one session: what a swap takes is one slot, one selection, and
/// the prompt again.
pub(crate) fn swap<'m>(
    session: &mut impl Continues<'m>,
    set: &mut AdapterSet<'_, 'm>,
    adapters: &'m [(&str, File)],
    border: &TextBorder,
    prompt: &[u32],
    arguments: &Arguments,
) -> Result<(), Failure> {
    let opened = adapters.iter().map(|(_, file)| file.adapter()).collect::<Result<Vec<_>, _>>()?;
    line(format_args!("[base]"))?;
    continue_prompt(session, border, prompt, arguments)?;
    let mut generation = 0;
    for ((name, file), adapter) in adapters.iter().zip(opened) {
        let start = Instant::now();
        generation = file.wrap(set.replace(0, generation, adapter))?;
        session.start_over(set, &[Choice::slot(0)])?;
        line(format_args!("\n[{name}] swapped in {:.1} µs", start.elapsed().as_secs_f64() * 1e6))?;
        continue_prompt(session, border, prompt, arguments)?;
    }
    Ok(())
}

/// Feeds the prompt and prints what follows it.
pub(crate) fn continue_prompt<'m>(
    session: &mut impl Continues<'m>,
    border: &TextBorder,
    prompt: &[u32],
    arguments: &Arguments,
) -> Result<(), Failure> {
    let start = Instant::now();
    session.prefill(prompt)?;
    let prefill = start.elapsed();
    let mut sampler = arguments.sampling.sampler()?;
    let start = Instant::now();
    let written = write_reply(session, border, &mut sampler, arguments.tokens)?;
    line("")?;
    if arguments.stats {
        report(&session.workspace(), prompt.len(), prefill, written, start.elapsed());
    }
    Ok(())
}

/// Prints tokens as they come until the turn ends, `most` are written or there is no room; returns
/// how many there were.
pub(crate) fn write_reply<'m>(
    session: &mut impl Continues<'m>,
    border: &TextBorder,
    sampler: &mut Sampler,
    most: usize,
) -> Result<usize, Failure> {
    let mut stream = border.stream();
    let mut written = 0;
    while written < most {
        let token = session.sample(sampler)?;
        if border.is_stop(token) {
            break;
        }
        part(stream.push(token)?)?;
        written += 1;
        if session.is_full()? {
            break;
        }
        session.step(token)?;
    }
    part(stream.finish())?;
    Ok(written)
}

fn report(workspace: &str, prompt: usize, prefill: Duration, written: usize, decode: Duration) {
    let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    note(format_args!(
        "prompt {prompt} tokens in {:.0} ms ({:.0} tokens/s), reply {written} tokens in {:.0} ms ({:.0} tokens/s)",
        prefill.as_secs_f64() * 1e3,
        rate(prompt, prefill),
        decode.as_secs_f64() * 1e3,
        rate(written, decode),
    ));
    let peak = crate::memory::peak_resident();
    let peak = peak
        .map(|bytes| format!("; peak resident {:.1} MB, tokenizer included", bytes as f64 / 1e6));
    note(format_args!("{workspace}{}", peak.unwrap_or_default()));
}
