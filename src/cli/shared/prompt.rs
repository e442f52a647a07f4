//! Where `generate` gets its prompt from: the command line, a file, standard input; and its tokens,
//! through the chat template if that is asked for.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use lowrank::file::FileError;
use lowrank::text::{Message, Tokenizer};

use crate::Failure;
use crate::template::TemplateOptions;

/// The most bytes of a prompt: more than any context holds.
const MOST: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(crate) struct PromptOptions {
    /// The text to continue
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        required_unless_present = "prompt_file"
    )]
    prompt: Option<String>,
    /// A file with the text to continue, - for standard input; a line end at its very end is left
    /// out
    #[arg(long, value_name = "FILE|-", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Send the prompt as a user's message through the model's chat template
    #[arg(long)]
    chat: bool,
    /// A system message for --chat
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateOptions,
}

impl PromptOptions {
    /// `tokenizer` with the variables for the chat template.
    pub(crate) fn prepare(&self, tokenizer: Tokenizer) -> Result<Tokenizer, Failure> {
        if !self.chat && !self.template.is_empty() {
            return Err("--template-arg has no effect without --chat".into());
        }
        self.template.apply(tokenizer)
    }

    /// The tokens of the prompt on the base in `base`.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, base: &Path) -> Result<Vec<u32>, Failure> {
        let text = self.text()?;
        let text = if self.chat { self.render(text, tokenizer, base)? } else { text };
        let prompt = tokenizer.encode_prompt(&text)?;
        if prompt.is_empty() { Err("the prompt is empty".into()) } else { Ok(prompt) }
    }

    fn text(&self) -> Result<String, Failure> {
        match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(path)) if path.as_os_str() == "-" => {
                read("standard input".as_ref(), std::io::stdin().lock())
            }
            (None, Some(path)) => read(path, lowrank::file::open(path)?),
            (None, None) => Ok(String::new()),
        }
    }

    fn render(&self, text: String, tokenizer: &Tokenizer, base: &Path) -> Result<String, Failure> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<_> = system.chain([Message::new("user", text)]).collect();
        let rendered = tokenizer
            .render_chat(&messages, true)
            .map_err(|error| format!("{}: {error}", base.display()))?;
        match &self.system {
            Some(system) if !has_system(&rendered, system) => {
                Err(format!("{}: {NO_SYSTEM}", base.display()).into())
            }
            _ => Ok(rendered),
        }
    }
}

/// What to say where [`has_system`] does not hold.
pub(crate) const NO_SYSTEM: &str =
    "the base's chat template leaves system messages out: put it into the prompt";

/// Did the template take the system message up? Some leave it out without a word.
pub(crate) fn has_system(rendered: &str, system: &str) -> bool {
    rendered.contains(system.trim())
}

/// A text, without what editors put around it: a byte order mark and the last line end.
fn read(name: &Path, source: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    source.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| FileError::io(name, error))?;
    if bytes.len() as u64 > MOST {
        return Err(format!("{}: a prompt of more than {MOST} bytes", name.display()).into());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        format!("{}: not UTF-8 text after {valid} bytes", name.display())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(text.to_owned())
}
