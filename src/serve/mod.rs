//! An HTTP server in OpenAI's dialect: a decoder, an encoder or both, an adapter per request. Feature
//! `serve`.
//!
//! Requests of different adapters share passes ([`Scheduler`]); adapters are loaded, replaced and
//! unloaded while it runs ([`Registry`]): `model` names a base or one of them. What a client asks
//! for and does not get is refused by name.
//!
//! | address | what |
//! |---|---|
//! | GET `/` | a page to try all this in a browser; it needs no key, what it asks for does |
//! | POST `/v1/chat/completions`, `/v1/completions` | replies, whole or as events |
//! | POST `/v1/embeddings` | vectors of texts, as numbers or base64 |
//! | POST `/classify` | labels of texts, as vLLM has it |
//! | GET `/v1/models`, `/v1/models/NAME` | the bases and the adapters |
//! | POST `/v1/load_lora_adapter`, `/v1/unload_lora_adapter`, GET `/v1/lora_adapters` | vLLM's, with generations |
//! | POST `/tokenize`, `/detokenize` | vLLM's |
//! | GET `/health`, `/ready`, `/metrics` | for who runs it; they need no key |

mod adapters;
mod ask;
mod body;
mod chat;
mod encode;
mod fields;
mod folder;
mod listen;
mod operations;
mod origin;
mod page;
mod refusal;
mod reply;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use crate::archive::Fingerprint;
use crate::engine::{EncoderScheduler, Held, Known, Registry, RegistryError, Scheduler};
use crate::file::Reason;
use folder::Folder;
use operations::Keys;
use refusal::Refusal;

pub use folder::{open_registry, register_folder};

/// Texts and adapters that are read at a time.
const WORKERS: usize = 4;

/// A base that is served, and its name: what clients give as `model`.
#[derive(Debug)]
pub struct Served<S> {
    /// The name.
    pub name: String,
    /// Who answers.
    pub scheduler: S,
}

/// What a server answers with.
#[derive(Debug, Default)]
pub struct Models {
    /// Who writes.
    pub decoder: Option<Served<Scheduler>>,
    /// Who makes vectors and labels of texts; its name is another one.
    pub encoder: Option<Served<EncoderScheduler>>,
}

/// To whom a server answers.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where adapters that clients load must lie; without it, clients load none.
    pub folder: Option<PathBuf>,
    /// Keys for requests; without any, everybody may ask.
    pub keys: Vec<String>,
    /// Keys for loading and unloading adapters; without any, those for requests.
    pub admin_keys: Vec<String>,
    /// How long a client may take to send a request's head, to send its body, to read what it is
    /// sent; then its connection ends. Default: 30 s.
    pub patience: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            folder: None,
            keys: Vec::new(),
            admin_keys: Vec::new(),
            patience: Duration::from_secs(30),
        }
    }
}

/// What all requests share.
struct State {
    models: Models,
    registry: Registry,
    folder: Option<Folder>,
    keys: Keys,
    started: u64,
    replies: AtomicU64,
    is_ending: AtomicBool,
    patience: Duration,
    unloaded: Mutex<BTreeSet<String>>,
}

impl State {
    /// Who writes.
    fn decoder(&self) -> Result<&Served<Scheduler>, Refusal> {
        self.models.decoder.as_ref().ok_or_else(|| Refusal::no_model("writes texts"))
    }

    /// Who makes vectors and labels.
    fn encoder(&self) -> Result<&Served<EncoderScheduler>, Refusal> {
        self.models.encoder.as_ref().ok_or_else(|| Refusal::no_model("makes vectors of texts"))
    }

    /// The bases: name and tokens of context.
    fn bases(&self) -> impl Iterator<Item = (&str, usize)> {
        let Models { decoder, encoder } = &self.models;
        let decoder = decoder.iter().map(|d| (d.name.as_str(), d.scheduler.limits().context));
        decoder.chain(encoder.iter().map(|e| (e.name.as_str(), e.scheduler.limits().context)))
    }

    /// The base of an adapter, if that was read.
    fn base_of(&self, known: &Known) -> Option<&str> {
        let Models { decoder, encoder } = &self.models;
        let is_of = |base: Fingerprint| known.base == Some(base);
        let decoder = decoder.iter().map(|d| (d.name.as_str(), d.scheduler.fingerprint()));
        let encoder = encoder.iter().map(|e| (e.name.as_str(), e.scheduler.fingerprint()));
        decoder.chain(encoder).find(|&(_, base)| is_of(base)).map(|(name, _)| name)
    }

    /// Is this a base's name?
    fn is_base(&self, name: &str) -> bool {
        self.bases().any(|(base, _)| base == name)
    }

    /// The adapter of a name; one that came into the folder meanwhile is found there, unless it was
    /// unloaded.
    fn adapter(&self, name: &str) -> Result<Held, Refusal> {
        let mut held = self.registry.get(name);
        if let (Err(RegistryError::Unknown(_)), Some(folder)) = (&held, &self.folder)
            && !self.unloaded().contains(name)
            && let Some(path) = folder.find(name)
        {
            // Another request may have been faster.
            let _ = self.registry.register(name, path);
            held = self.registry.get(name);
        }
        held.map_err(|error| match error {
            RegistryError::Unknown(_) => Refusal::unknown_model(name),
            RegistryError::File(error) if is_missing(&error.reason) => Refusal::unknown_model(name),
            error => Refusal::broken_adapter(name, error),
        })
    }

    /// Names that were unloaded: what the folder has under them is not found again.
    fn unloaded(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unloaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a reply.
    fn id(&self, prefix: &str) -> String {
        let number = self.replies.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{:x}-{number:x}", self.started)
    }
}

/// Was the file taken away?
fn is_missing(reason: &Reason) -> bool {
    matches!(reason, Reason::Io(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Answers with `models` at `listener` until `end` comes true; then it takes no more requests, and returns when
/// those that it took are answered.
///
/// # Errors
/// If there is no such folder, or the runtime cannot be started.
pub fn serve(
    listener: TcpListener,
    models: Models,
    registry: Registry,
    options: ServerOptions,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let ServerOptions { folder, keys, admin_keys, patience } = options;
    let folder = folder.as_deref().map(Folder::open).transpose()?;
    let state = Arc::new(State {
        models,
        registry,
        folder,
        keys: Keys::new(&keys, &admin_keys),
        started: reply::now(),
        replies: AtomicU64::new(0),
        is_ending: AtomicBool::new(false),
        patience,
        unloaded: Mutex::default(),
    });
    // The model has the cores; requests are a few lines of text. Each thread keeps what it once needed.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(WORKERS)
        .enable_all()
        .build()?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        listen::listen(listener, router(Arc::clone(&state)), &state, end).await;
        io::Result::Ok(())
    })?;
    runtime.shutdown_background();
    let Models { decoder, encoder } = &state.models;
    decoder.iter().for_each(|decoder| decoder.scheduler.finish());
    encoder.iter().for_each(|encoder| encoder.scheduler.finish());
    Ok(())
}

fn router(state: Arc<State>) -> Router {
    let with = |state: &Arc<State>| Arc::clone(state);
    let inference = Router::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(chat::complete))
        .route("/v1/embeddings", post(encode::embeddings))
        .route("/classify", post(encode::classify))
        .route("/v1/models", get(adapters::models))
        .route("/v1/models/{*id}", get(adapters::model))
        .route("/v1/lora_adapters", get(adapters::list))
        .route("/tokenize", post(operations::tokenize))
        .route("/detokenize", post(operations::detokenize))
        .route_layer(from_fn_with_state(with(&state), operations::inference_key));
    let admin = Router::new()
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route_layer(from_fn_with_state(with(&state), operations::admin_key));
    Router::new()
        .route("/health", get(operations::health))
        .route("/ready", get(operations::ready))
        .route("/metrics", get(operations::metrics))
        .merge(inference)
        .merge(admin)
        .merge(page::routes())
        .layer(from_fn_with_state(with(&state), origin::same_origin))
        .layer(from_fn(operations::in_form))
        .with_state(state)
}
