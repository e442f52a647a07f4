//! `lowrank chat`: a conversation in which adapters are swapped while it goes on. What is typed
//! comes from `typed`, what is said is `conversation`'s; the commands in between are here.

mod conversation;
mod typed;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;

use clap::Args;
use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::runtime::{Limits, Lookup, Memory, Sampler, SamplerOptions, Session, need};

use crate::Failure;
use crate::attach::{AdapterOptions, OpenAdapter, attach, note_classifiers, open_adapters};
use crate::model::{Kv, ModelOptions};
use crate::output::note;
use crate::sampling::{SamplingOptions, draft};
use crate::template::TemplateOptions;
use conversation::Conversation;
use typed::{Input, Interrupt, Typed};

const EXAMPLES: &str = r#"Inside the conversation:
  /adapter NAME…  use these adapters from now on (NAME:WEIGHT for another
                  weight); what was said is read again under them
  /adapter off    use the base alone
  /system TEXT    another system message; /system off for none
  /reset          forget what was said
  /save FILE      write the conversation as a line of JSON that train reads
  /help, /quit

Ctrl-C stops a reply, Alt-Enter begins a new line, a space in front makes a
message of what would be a command.

An adapter without a name is active from the start; one that is given as
NAME=FILE waits for /adapter NAME.

Examples:
  lowrank chat --base base.lrk --adapter style.lrk
  lowrank chat --base base.lrk --adapter pirate=pirate.lrk \
    --adapter notes=notes.lrk:0.7 --system "Answer in one sentence.""#;

const HELP: &str = "/adapter NAME…  use adapters    /adapter off  use the base    \
/system TEXT  another system message    /reset  forget what was said    \
/save FILE  write the conversation    /quit  end";

/// What the replies are drawn with unless told otherwise.
const DEFAULT: SamplerOptions = SamplerOptions {
    temperature: 0.7,
    top_k: 0,
    top_p: 0.95,
    min_p: 0.0,
    repetition_penalty: 1.0,
    seed: 0,
};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    adapters: AdapterOptions,
    /// A system message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateOptions,
    /// Tokens the conversation has room for; when they are used up, the oldest turns are left out
    /// [default: 2048, at most what the model takes]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// The most tokens of a reply
    #[arg(long, default_value_t = 256, value_name = "N")]
    tokens: usize,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Guess up to N tokens ahead from what stands in prompt and reply (prompt lookup decoding): faster
    /// where replies repeat parts of them; 0 means off
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = draft)]
    lookup: usize,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    kv: Kv,
    /// Keep no history of what is typed
    #[arg(long)]
    no_history: bool,
}

/// Tokens the conversation has room for unless told otherwise.
const CONTEXT: usize = 2048;

impl Arguments {
    /// The tokens a conversation has room for, of at most `max`.
    fn context(&self, max: usize) -> Result<usize, Failure> {
        let context = self.context.unwrap_or(CONTEXT.min(max));
        if (1..=max).contains(&context) {
            Ok(context)
        } else {
            Err(format!("--context {context}: the model takes 1 to {max} tokens").into())
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.open()?;
    let model = base.base()?;
    let tokenizer = base.text()?;
    if !tokenizer.has_template() {
        return Err(format!(
            "{}: the base has no chat template; use generate",
            base.path.display()
        )
        .into());
    }
    let tokenizer = arguments.template.apply(tokenizer)?;
    let adapters = open_adapters(&arguments.adapters.adapters)?;
    check_names(&adapters)?;
    note_classifiers(&adapters)?;
    let options = arguments.sampling.or(SamplerOptions { seed: random_seed(), ..DEFAULT });
    let sampler = Sampler::new(options)?;
    let mut slots = vec![Slot::EMPTY; adapters.len()];
    let mut set = AdapterSet::new(&mut slots, &model);
    let attached = attach(&mut set, &adapters)?;
    let executor = arguments.model.executor()?;
    let context = arguments.context(model.config().context)?;
    let limits = Limits {
        kv_format: arguments.kv.into(),
        max_active: adapters.len(),
        max_total_rank: attached.rank,
        draft: arguments.lookup,
        ..arguments.model.limits(&model, context, executor.as_ref())
    };
    let mut memory = Memory::try_new(need(model.config(), &limits))?;
    let mut session = Session::new(model, &limits, memory.as_mut(), executor.as_ref())?;
    let unnamed = adapters.iter().zip(&attached.choices).filter(|(adapter, _)| !adapter.is_named);
    let active: Vec<Choice> = unnamed.map(|(_, choice)| *choice).collect();
    session.select(0, &set, &active)?;
    let mut input = Input::new(arguments.no_history)?;
    let interrupt = Interrupt::new()?;
    let mut conversation = Conversation::new(
        session,
        &tokenizer,
        (sampler, (arguments.lookup > 0).then(|| Lookup::new(&limits))),
        arguments.tokens,
        arguments.system.clone(),
        &interrupt.pressed,
    )
    .map_err(|error| format!("{}: {error}", base.path.display()))?;
    greet(arguments, &options, &adapters, &active);
    let mut commands = Commands { set, adapters: &adapters, active };
    loop {
        match input.read(&interrupt)? {
            Typed::End => return Ok(()),
            Typed::Unusable(why) => note(why),
            Typed::Text(text) => match commands.run(text.trim_end(), &mut conversation) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if error.is::<std::io::Error>() => return Err(error),
                Err(error) => note(error),
            },
        }
    }
}

/// Names that `/adapter` could not tell apart are refused.
fn check_names(adapters: &[OpenAdapter]) -> Result<(), Failure> {
    for (i, adapter) in adapters.iter().enumerate() {
        let name = &adapter.name;
        if name == OFF {
            return Err(format!(
                "an adapter cannot be called \"{name}\": that is a word of /adapter; give it another \
                 name (NAME=FILE)"
            )
            .into());
        }
        if adapters[..i].iter().any(|other| other.name == *name) {
            return Err(format!(
                "two adapters are called \"{name}\": give each its own name (NAME=FILE)"
            )
            .into());
        }
    }
    Ok(())
}

/// What `/adapter` and `/system` take for nothing.
const OFF: &str = "off";

/// A seed from the system's randomness, short enough to be typed.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

/// Says what the conversation begins with.
fn greet(
    arguments: &Arguments,
    options: &SamplerOptions,
    adapters: &[OpenAdapter],
    active: &[Choice],
) {
    note(format_args!("adapters: {}. /help lists the commands.", list(adapters, active)));
    if options.temperature > 0.0 {
        note(format_args!(
            "temperature {}, top-p {}, seed {}: --seed {2} gives the same replies again",
            options.temperature, options.top_p, options.seed
        ));
    }
    if let Some(idle) = arguments.sampling.without_effect(options) {
        note(format_args!("lowrank: {idle}"));
    }
}

/// The adapters by name, with what they count.
fn list(adapters: &[OpenAdapter], active: &[Choice]) -> String {
    let one = |(slot, adapter): (u32, &OpenAdapter)| {
        let name = &adapter.name;
        match active.iter().find(|choice| choice.slot == slot) {
            Some(choice) if choice.weight == 1.0 => format!("{name} (active)"),
            Some(choice) => format!("{name} (active, weight {})", choice.weight),
            None => name.clone(),
        }
    };
    let all: Vec<_> = (0..).zip(adapters).map(one).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// What the commands of a conversation change besides what was said.
struct Commands<'c, 's, 'm> {
    set: AdapterSet<'s, 'm>,
    adapters: &'c [OpenAdapter],
    active: Vec<Choice>,
}

impl<'m> Commands<'_, '_, 'm> {
    /// Does what was typed; false if it ends the conversation.
    fn run(
        &mut self,
        typed: &str,
        conversation: &mut Conversation<'_, '_, 'm>,
    ) -> Result<bool, Failure> {
        // A space in front makes a message of what would be a command.
        if !typed.starts_with('/') {
            let text = typed.trim();
            if !text.is_empty() {
                conversation.say(text)?;
            }
            return Ok(true);
        }
        let (command, rest) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
        let rest = rest.trim();
        match (command, rest) {
            ("/quit" | "/exit" | "/bye", "") => return Ok(false),
            ("/help", "") => note(HELP),
            ("/reset", "") => {
                conversation.reset();
                note("forgotten");
            }
            ("/adapter", "") => note(list(self.adapters, &self.active)),
            ("/adapter", names) => self.swap(names, conversation)?,
            ("/system", "") => note(match conversation.system() {
                Some(text) => format!("the system message: {text}"),
                None => "there is no system message".into(),
            }),
            ("/system", text) => {
                conversation.set_system((text != OFF).then(|| text.to_owned()))?;
                note("the conversation goes on under the new system message");
            }
            ("/save", "") => note("/save FILE: a file is missing"),
            ("/save", file) => {
                let count = conversation.save(Path::new(file))?;
                note(format_args!("{file}: {count} messages"));
                if !file.ends_with(".jsonl") {
                    note("train reads conversations from files called .jsonl");
                }
            }
            ("/quit" | "/exit" | "/bye" | "/help" | "/reset", more) => {
                note(format_args!("{command} takes nothing, \"{more}\" was given"));
            }
            _ => note(format_args!("unknown command {command}. {HELP}")),
        }
        Ok(true)
    }

    /// `/adapter NAME…`, `/adapter off`.
    fn swap(
        &mut self,
        names: &str,
        conversation: &mut Conversation<'_, '_, 'm>,
    ) -> Result<(), Failure> {
        let choices = if names == OFF {
            Vec::new()
        } else if let Some(choice) = self.choice(names) {
            // A name may have spaces in it.
            vec![choice]
        } else {
            let mut choices: Vec<Choice> = Vec::new();
            for name in names.split_whitespace() {
                let choice = self.choice(name).ok_or_else(|| self.unknown(name))?;
                if choices.iter().any(|other| other.slot == choice.slot) {
                    return Err(format!("the adapter \"{name}\" is named twice").into());
                }
                choices.push(choice);
            }
            choices
        };
        conversation.select(&self.set, &choices)?;
        self.active = choices;
        note(match conversation.is_empty() {
            true => "swapped",
            false => "swapped; the conversation is read again under the new adapters",
        });
        Ok(())
    }

    /// Why `name` chooses nothing.
    fn unknown(&self, name: &str) -> String {
        let is_known = |name: &str| self.adapters.iter().any(|adapter| adapter.name == name);
        match name.rsplit_once(':') {
            Some((known, weight)) if is_known(known) => {
                format!("/adapter {name}: the weight \"{weight}\" is not a finite number")
            }
            _ => {
                let all = list(self.adapters, &self.active);
                format!("no adapter is called \"{name}\"; there are: {all}")
            }
        }
    }

    /// The adapter called `NAME` or `NAME:WEIGHT`.
    fn choice(&self, name: &str) -> Option<Choice> {
        let find = |name: &str, weight: Option<f32>| {
            let slot = self.adapters.iter().position(|adapter| adapter.name == name)?;
            let weight = weight.unwrap_or(self.adapters[slot].weight);
            Some(Choice { weight, ..Choice::slot(slot as u32) })
        };
        find(name, None).or_else(|| {
            let (name, weight) = name.rsplit_once(':')?;
            find(name, Some(weight.parse().ok().filter(|weight: &f32| weight.is_finite())?))
        })
    }
}
