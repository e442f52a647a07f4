//! Text in, text out: a base with its tokenizer, adapters by name, and one sequence that remembers
//! what it has read.
//!
//! An [`Engine`] answers one request at a time. A [`Scheduler`] answers many at once, each under
//! adapters of its own, in shared passes. Who wants neither keeps a
//! [`Session`](crate::runtime::Session) of several sequences, with what it borrows in an
//! [`OwnedSession`]; `examples/requests.rs` is such a program.

mod encoder;
mod likelihood;
mod owned;
mod registry;
mod reply;
mod scheduler;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::adapter::{Base, Bytes, Choice, Chosen, Resolve, SharedAdapter, check_fit};
use crate::archive::ArchiveFile;
use crate::error::{Error, Result};
use crate::exec::{Executor, Serial, Threads};
use crate::file::FileError;
use crate::kernel::Precision;
use crate::model::llama::Llama;
use crate::runtime::{KvFormat, Limits, Lookup, Sampler, SamplerOptions};
use crate::text::{Message, Tokenizer};

pub use encoder::{Answer, EncoderScheduler, TextJob, TextListener, Wish};
pub(crate) use likelihood::{negative_log_likelihood, probabilities};
pub use owned::OwnedSession;
pub use registry::{
    Expected, Held, Known, Reader, Registry, RegistryError, RegistryOptions, read_adapter,
};
pub use reply::{Bounds, Continue, End, OpenReply, Reply, ReplyError, Sequence, write_reply};
pub use scheduler::{Busy, Event, Job, Listener, Load, Scheduler};

/// How an [`Engine`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineOptions {
    /// Tokens that prompt and reply have room for. Default: 2048, at most what the model takes.
    pub context: Option<usize>,
    /// Threads; 0, the default, is one per core.
    pub threads: usize,
    /// How products treat their activations. Default: [`Precision::default_for`] the model.
    pub precision: Option<Precision>,
    /// How keys and values are kept. Default: f16.
    pub kv_format: Option<KvFormat>,
    /// Tokens at most that are guessed ahead by prompt lookup: replies that repeat parts of their
    /// prompt come faster. At most [`MOST_DRAFT`](crate::runtime::MOST_DRAFT). Default: 0, off.
    pub lookup: usize,
}

/// Tokens of prompt and reply where none are asked for.
const CONTEXT: usize = 2048;

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt {
    /// A text as it is; special tokens in it count.
    Text(String),
    /// A conversation, rendered by the base's chat template.
    Chat(Vec<Message>),
}

/// A prompt, the adapters to continue it under, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// Names of attached adapters with their weights; their contributions add up. Default: none.
    pub adapters: Vec<(String, f32)>,
    /// The most tokens of the reply. Default: 256.
    pub tokens: usize,
    /// Texts that end the reply and are no part of it. Default: none.
    pub stops: Vec<String>,
    /// How tokens are chosen. Default: always the most probable, as `lowrank generate` does.
    pub sampling: SamplerOptions,
}

impl Request {
    /// Continues `text` as it is.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Prompt::Text(text.into()))
    }

    /// Answers the last message of a conversation.
    pub fn chat(messages: impl Into<Vec<Message>>) -> Self {
        Self::new(Prompt::Chat(messages.into()))
    }

    /// Answers one message of a user.
    pub fn ask(question: impl Into<String>) -> Self {
        Self::chat([Message::new("user", question)])
    }

    /// With one more adapter, at weight 1.
    #[must_use]
    pub fn with(mut self, adapter: impl Into<String>) -> Self {
        self.adapters.push((adapter.into(), 1.0));
        self
    }

    fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            adapters: Vec::new(),
            tokens: 256,
            stops: Vec::new(),
            sampling: SamplerOptions::default(),
        }
    }
}

/// A base that continues texts under any of its adapters. `'static` and `Send`.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::ops::ControlFlow;
/// use lowrank::engine::{Engine, EngineOptions, Request};
///
/// let mut engine = Engine::open("base.lrk", EngineOptions::default())?;
/// engine.attach_file("pirate", "pirate.lrk")?;
/// let reply = engine.generate(&Request::ask("How do tides work?").with("pirate"), |piece| {
///     print!("{piece}");
///     ControlFlow::Continue(())
/// })?;
/// println!(" [{}]", reply.end.name());
/// # Ok(()) }
/// ```
#[doc(alias = "generate")]
#[doc(alias = "chat")]
pub struct Engine {
    base: Bytes,
    executor: Arc<dyn Executor + Send>,
    options: EngineOptions,
    tokenizer: Tokenizer,
    adapters: BTreeMap<String, Arc<SharedAdapter>>,
    session: OwnedSession,
    /// What the session has room for: adapters at a time, and the sum of their ranks.
    room: (usize, usize),
    /// What prompt lookup has learned, if it is on.
    lookup: Option<Lookup>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("session", &self.session)
            .field("adapters", &self.adapters)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens a decoder's archive.
    ///
    /// # Errors
    /// A [`FileError`] that names the file: it cannot be read, is damaged, holds no decoder, or has
    /// no tokenizer; a context that the model does not take.
    pub fn open(
        path: impl AsRef<Path>,
        options: EngineOptions,
    ) -> std::result::Result<Self, FileError> {
        let path = path.as_ref();
        let of_file = |error| FileError::core(path, "", error);
        let file = ArchiveFile::open(path)?;
        let tokenizer = Tokenizer::new(&Llama::open(&file).map_err(of_file)?)
            .map_err(|error| FileError::format(path, "", error.to_string()))?;
        let executor: Arc<dyn Executor + Send> = match options.threads {
            1 => Arc::new(Serial),
            count => Arc::new(
                Threads::new(count)
                    .map_err(|error| FileError::format(path, "threads", error.to_string()))?,
            ),
        };
        let (base, adapters) = (Bytes::from(file), BTreeMap::new());
        let Limits { max_active, max_total_rank, .. } = Limits::new(1);
        let room = (max_active, max_total_rank);
        let mut session = session(&base, &executor, &options, room).map_err(of_file)?;
        let lookup = session.with(|session| Lookup::new(session.limits()));
        let lookup = (options.lookup > 0).then_some(lookup);
        Ok(Self { base, executor, options, tokenizer, adapters, session, room, lookup })
    }

    /// Attaches an adapter under `name`, in place of one that had it. Copies no weights; what was
    /// read under the old one is read again.
    ///
    /// # Errors
    /// [`Error::OtherBase`], [`Error::UnknownSite`], [`Error::Shape`]; the old one stays.
    pub fn attach(&mut self, name: impl Into<String>, adapter: SharedAdapter) -> Result<()> {
        check_fit(&adapter.adapter(), &Llama::open(self.base.get())?)?;
        self.adapters.insert(name.into(), Arc::new(adapter));
        Ok(())
    }

    /// Attaches the adapter in a file.
    ///
    /// # Errors
    /// A [`FileError`] that names the file: it cannot be read, is no adapter, or one of another
    /// base; the old one stays.
    pub fn attach_file(
        &mut self,
        name: impl Into<String>,
        path: impl AsRef<Path>,
    ) -> std::result::Result<(), FileError> {
        let (path, file) = (path.as_ref(), ArchiveFile::open(path.as_ref())?);
        SharedAdapter::open(file)
            .and_then(|adapter| self.attach(name, adapter))
            .map_err(|error| FileError::core(path, "", error))
    }

    /// Forgets the adapter called `name`; false if there was none.
    pub fn detach(&mut self, name: &str) -> bool {
        self.adapters.remove(name).is_some()
    }

    /// The names of the attached adapters.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.adapters.keys().map(String::as_str)
    }

    /// The base's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Continues the prompt and tells the text as it comes: `piece` is called once per token, with
    /// an empty text where none is finished yet, and can end the reply. What the prompt has in
    /// common with what was read before, under the same adapters, is not read again.
    ///
    /// # Errors
    /// [`ReplyError::UnknownAdapter`]; [`ReplyError::EmptyPrompt`]; [`ReplyError::Session`] for a
    /// weight that is no number, a prompt longer than [`EngineOptions::context`], sampling options
    /// out of range; [`ReplyError::Text`] if there is no chat template.
    pub fn generate(
        &mut self,
        request: &Request,
        mut piece: impl FnMut(&str) -> ControlFlow<()>,
    ) -> std::result::Result<Reply, ReplyError> {
        let mut sampler = Sampler::new(request.sampling)?;
        let prompt = self.prompt(&request.prompt)?;
        let (chosen, choices) = self.choose(&request.adapters)?;
        self.make_room(&chosen)?;
        let (tokenizer, lookup) = (&self.tokenizer, self.lookup.as_mut());
        let bounds = Bounds { tokens: request.tokens, stops: &request.stops };
        self.session.with(|session| {
            // Choosing what is chosen already keeps what was read.
            match session.select(0, &chosen, &choices) {
                Err(Error::CacheOfOtherAdapters { .. }) => {
                    session.reset(0)?;
                    session.select(0, &chosen, &choices)?;
                }
                done => done?,
            }
            let held = session.tokens(0)?;
            let shared = held.iter().zip(&prompt).take_while(|(held, new)| held == new).count();
            // The last token is always read: its logits are those of the reply.
            let known = shared.min(prompt.len() - 1);
            session.rewind(0, known)?;
            session.prefill(0, &prompt[known..])?;
            let mut sequence = Sequence::new(session, 0)?.with_lookup(lookup);
            write_reply(&mut sequence, tokenizer, &mut sampler, bounds, &mut piece)
        })
    }

    /// The tokens of a prompt, one at least.
    fn prompt(&self, prompt: &Prompt) -> std::result::Result<Vec<u32>, ReplyError> {
        let tokens = match prompt {
            Prompt::Text(text) => self.tokenizer.encode_prompt(text)?,
            Prompt::Chat(messages) => {
                self.tokenizer.encode_prompt(&self.tokenizer.render_chat(messages, true)?)?
            }
        };
        if tokens.is_empty() { Err(ReplyError::EmptyPrompt) } else { Ok(tokens) }
    }

    /// The adapters of these names, and the choices that name them by their number.
    fn choose(
        &self,
        names: &[(String, f32)],
    ) -> std::result::Result<(ByNumber, Vec<Choice>), ReplyError> {
        let find = |(name, _): &(String, f32)| {
            let adapter = self.adapters.get(name).cloned();
            adapter.ok_or_else(|| ReplyError::UnknownAdapter(name.clone()))
        };
        let adapters = names.iter().map(find).collect::<std::result::Result<_, _>>()?;
        Ok((ByNumber { adapters }, choices(names)))
    }

    /// Opens a larger session if this one has no room for these adapters.
    fn make_room(&mut self, chosen: &ByNumber) -> Result<()> {
        let rank = chosen.adapters.iter().map(|adapter| adapter.adapter().max_rank()).sum();
        let room = (self.room.0.max(chosen.adapters.len()), self.room.1.max(rank));
        if room != self.room {
            self.session = session(&self.base, &self.executor, &self.options, room)?;
            self.room = room;
        }
        Ok(())
    }
}

/// A session with room for so many adapters at a time, and for the sum of their ranks.
fn session(
    base: &Bytes,
    executor: &Arc<dyn Executor + Send>,
    options: &EngineOptions,
    (max_active, max_total_rank): (usize, usize),
) -> Result<OwnedSession> {
    OwnedSession::open(base.clone(), Arc::clone(executor), |model, executor| {
        let context = options.context.unwrap_or(CONTEXT.min(model.config().context));
        let limits = Limits::for_model(model, context, executor);
        Limits {
            precision: options.precision.unwrap_or(limits.precision),
            kv_format: options.kv_format.unwrap_or(limits.kv_format),
            max_active,
            max_total_rank,
            draft: options.lookup,
            ..limits
        }
    })
}

/// Adapters by their number, all of one base.
pub(crate) struct ByNumber {
    pub(crate) adapters: Vec<Arc<SharedAdapter>>,
}

impl ByNumber {
    /// # Errors
    /// As [`check_fit`]: whoever hands in adapters may have those of another base.
    pub(crate) fn new(base: &dyn Base, adapters: &[(Arc<SharedAdapter>, f32)]) -> Result<Self> {
        adapters.iter().try_for_each(|(adapter, _)| check_fit(&adapter.adapter(), base))?;
        let adapters = adapters.iter().map(|(adapter, _)| Arc::clone(adapter)).collect();
        Ok(Self { adapters })
    }
}

/// The choices that name adapters by their number, with their weights.
pub(crate) fn choices<T>(adapters: &[(T, f32)]) -> Vec<Choice> {
    let choice = |(slot, &(_, weight)): (u32, &(T, f32))| Choice { weight, ..Choice::slot(slot) };
    (0..).zip(adapters).map(choice).collect()
}

impl<'a> Resolve<'a> for ByNumber {
    fn resolve(&self, choice: &Choice) -> Result<Chosen<'a>> {
        let slot = choice.slot;
        let adapter = self.adapters.get(slot as usize).ok_or(Error::EmptySlot { slot })?;
        Chosen::owned(adapter, choice)
    }
}
