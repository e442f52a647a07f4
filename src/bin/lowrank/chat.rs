//! `lowrank chat`: a conversation in which adapters are swapped while it goes on.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use lowrank::adapter::{AdapterSet, Choice, Slot};
use lowrank::runtime::{Limits, Memory, Session, need};
use lowrank::text::{Message, TextBorder};

use crate::Failure;
use crate::files::File;
use crate::generate::{SamplingOptions, write_reply};
use crate::model::{Kv, ModelOptions, name_and_file};
use crate::output::{line, note};
use crate::template::TemplateOptions;

#[derive(Debug, Args)]
#[command(after_help = CHAT_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// An adapter under a name; may be repeated
    #[arg(long = "adapter", value_name = "NAME=FILE", value_parser = name_and_file)]
    adapters: Vec<(String, PathBuf)>,
    /// A system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateOptions,
    /// Tokens the conversation has room for
    #[arg(long, default_value_t = 2048, value_name = "N")]
    context: usize,
    /// The most tokens of a reply
    #[arg(long, default_value_t = 256, value_name = "N")]
    tokens: usize,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// How keys and values are kept
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    kv: Kv,
}

const CHAT_HELP: &str = "Inside the conversation:
  /adapter NAME  use this adapter from now on; what was said is read again under it
  /adapter off   use the base alone
  /reset         forget the conversation
  /help, /quit

Example:
  lowrank chat --base base.lrk --adapter pirate=pirate.lrk --adapter notes=notes.lrk";
const HELP: &str = "/adapter NAME  use an adapter    /adapter off  use the base    /reset  forget the conversation    /quit";

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = arguments.model.open()?;
    let model = base.base()?;
    let border =
        TextBorder::new(&model).map_err(|error| format!("{}: {error}", base.path.display()))?;
    if !border.has_template() {
        return Err(format!(
            "{}: the base has no chat template; use generate",
            base.path.display()
        )
        .into());
    }
    let border = arguments.template.apply(border)?;
    let files = arguments
        .adapters
        .iter()
        .map(|(_, file)| File::open(file))
        .collect::<Result<Vec<_>, _>>()?;
    let mut slots = vec![Slot::EMPTY; files.len()];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut rank = 0;
    for (slot, file) in (0..).zip(&files) {
        let adapter = file.adapter()?;
        rank = rank.max(adapter.max_rank());
        file.wrap(set.attach(slot, adapter))?;
    }
    let executor = arguments.model.executor()?;
    let limits = Limits {
        kv_format: arguments.kv.into(),
        precision: arguments.model.precision(&model),
        lanes: executor.lanes(),
        max_active: 1,
        max_total_rank: rank,
        ..Limits::new(arguments.context.min(model.config().context))
    };
    let mut memory = Memory::try_new(need(model.config(), &limits))?;
    let session = Session::new(model, &limits, memory.as_mut(), executor.as_ref())?;
    let mut conversation =
        Conversation { arguments, border: &border, session, messages: Vec::new() };
    conversation.reset();
    let names: Vec<_> = arguments.adapters.iter().map(|(name, _)| name.as_str()).collect();
    note(format_args!(
        "adapters: {}. /help lists the commands.",
        if names.is_empty() { "none".into() } else { names.join(", ") }
    ));
    loop {
        if std::io::stdin().is_terminal() {
            prompt();
        }
        let mut typed = Vec::new();
        if std::io::stdin().lock().read_until(b'\n', &mut typed)? == 0 {
            return Ok(());
        }
        let Ok(typed) = String::from_utf8(typed) else {
            note("the line is not valid UTF-8");
            continue;
        };
        match typed.trim() {
            "" => {}
            "/quit" => return Ok(()),
            "/help" => note(HELP),
            "/reset" => conversation.reset(),
            command if command.starts_with("/adapter") => {
                let name = command["/adapter".len()..].trim();
                match (name, names.iter().position(|known| *known == name)) {
                    ("off", _) => conversation.select(&set, &[])?,
                    (_, Some(slot)) => conversation.select(&set, &[Choice::slot(slot as u32)])?,
                    _ => note(format_args!(
                        "no adapter is called \"{name}\"; there are: {}",
                        names.join(", ")
                    )),
                }
            }
            command if command.starts_with('/') => note(format_args!("unknown command. {HELP}")),
            text => match conversation.say(text) {
                Err(error) if error.is::<std::io::Error>() => return Err(error),
                Err(error)
                    if matches!(error.downcast_ref(), Some(lowrank::Error::ContextFull { .. })) =>
                {
                    note(format_args!("{error}; /reset starts anew, --context gives more room"));
                }
                Err(error) => note(error),
                Ok(()) => {}
            },
        }
    }
}

/// Asks for a line. A terminal that has gone away shows itself at the next read.
fn prompt() {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(b"> ").and_then(|()| err.flush());
}

struct Conversation<'c, 'w, 'm> {
    arguments: &'c Arguments,
    border: &'c TextBorder,
    session: Session<'w, 'm>,
    messages: Vec<Message>,
}

impl<'m> Conversation<'_, '_, 'm> {
    fn reset(&mut self) {
        self.messages =
            self.arguments.system.iter().map(|text| Message::new("system", text)).collect();
    }

    /// What was said stays; it is computed again under the new adapter, as keys and values of
    /// another one cannot be continued.
    fn select(&mut self, set: &AdapterSet<'_, 'm>, choices: &[Choice]) -> Result<(), Failure> {
        self.session.reset(0)?;
        self.session.select(0, set, choices)?;
        note("swapped; the conversation is read again under the new adapter");
        Ok(())
    }

    /// Adds the user's message and prints the reply. If something fails the conversation is as it
    /// was before.
    fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.messages.push(Message::new("user", text));
        match self.reply() {
            Ok(reply) => {
                self.messages.push(Message::new("assistant", reply));
                Ok(())
            }
            Err(error) => {
                self.messages.pop();
                Err(error)
            }
        }
    }

    /// Feeds what the session does not hold yet and prints what follows.
    fn reply(&mut self) -> Result<String, Failure> {
        let ids = self.border.encode_prompt(&self.border.render_chat(&self.messages, true)?)?;
        let held = self.session.tokens(0)?;
        let shared = held.iter().zip(&ids).take_while(|(held, new)| held == new).count();
        let known = if shared == held.len() && shared < ids.len() { shared } else { 0 };
        if known == 0 {
            self.session.reset(0)?;
        }
        self.session.prefill(0, &ids[known..])?;
        let mut sampler = self.arguments.sampling.sampler()?;
        let written =
            write_reply(&mut self.session, self.border, &mut sampler, self.arguments.tokens)?;
        line("")?;
        let tokens = self.session.tokens(0)?;
        Ok(self
            .border
            .decode(&tokens[ids.len()..(ids.len() + written).min(tokens.len())], false)?)
    }
}
