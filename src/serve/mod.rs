//! An HTTP server in OpenAI's dialect: one base, an adapter per request. Feature `serve`.
//!
//! Requests of different adapters share passes ([`Scheduler`]); adapters are loaded, replaced and
//! unloaded while it runs ([`Registry`]): `model` names the base or one of them. What a client asks
//! for and does not get is refused by name.
//!
//! | address | what |
//! |---|---|
//! | POST `/v1/chat/completions`, `/v1/completions` | replies, whole or as events |
//! | GET `/v1/models`, `/v1/models/NAME` | the base and the adapters |
//! | POST `/v1/load_lora_adapter`, `/v1/unload_lora_adapter`, GET `/v1/lora_adapters` | vLLM's, with generations |
//! | POST `/tokenize`, `/detokenize` | vLLM's |
//! | GET `/health`, `/ready`, `/metrics` | for who runs it; they need no key |

mod adapters;
mod ask;
mod chat;
mod fields;
mod operations;
mod refusal;
mod reply;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use crate::engine::{Held, Registry, RegistryError, Scheduler};
use operations::Keys;
use refusal::Refusal;

/// Bytes of a request.
const BODY: usize = 4 << 20;

/// How a server presents itself, and to whom.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// The base's name, as clients give it in `model`.
    pub name: String,
    /// Where adapters that clients load must lie; without it, clients load none.
    pub folder: Option<PathBuf>,
    /// Keys for requests; without any, everybody may ask.
    pub keys: Vec<String>,
    /// Keys for loading and unloading adapters; without any, those for requests.
    pub admin_keys: Vec<String>,
}

/// What all requests share.
struct State {
    scheduler: Scheduler,
    registry: Registry,
    name: String,
    folder: Option<PathBuf>,
    keys: Keys,
    started: u64,
    replies: AtomicU64,
    is_ending: AtomicBool,
    unloaded: Mutex<BTreeSet<String>>,
}

impl State {
    /// The adapter of a name; one that came into the folder meanwhile is found there, unless it was
    /// unloaded.
    fn adapter(&self, name: &str) -> Result<Held, Refusal> {
        let unknown = || Refusal::unknown_model(name);
        match (self.registry.get(name), &self.folder) {
            (Err(RegistryError::Unknown(_)), Some(folder))
                if is_plain(name) && !self.unloaded().contains(name) =>
            {
                let archive = folder.join(format!("{name}.lrk"));
                let directory = folder.join(name);
                let path = match directory.join("adapter_config.json").is_file() {
                    true => directory,
                    false if archive.is_file() => archive,
                    false => return Err(unknown()),
                };
                // Another request may have been faster.
                let _ = self.registry.register(name, path);
                Ok(self.registry.get(name)?)
            }
            (Err(RegistryError::Unknown(_)), _) => Err(unknown()),
            (found, _) => Ok(found?),
        }
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

/// Is this a name of a file, and of nothing beside it?
fn is_plain(name: &str) -> bool {
    !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// Answers at `listener` until `end` comes true; then it takes no more requests, and returns when
/// those that it took are answered.
///
/// # Errors
/// If the runtime cannot be started or the listener fails.
pub fn serve(
    listener: TcpListener,
    scheduler: Scheduler,
    registry: Registry,
    options: ServerOptions,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let ServerOptions { name, folder, keys, admin_keys } = options;
    let state = Arc::new(State {
        scheduler,
        registry,
        name,
        folder,
        keys: Keys::new(&keys, &admin_keys),
        started: reply::now(),
        replies: AtomicU64::new(0),
        is_ending: AtomicBool::new(false),
        unloaded: Mutex::default(),
    });
    // The model has the cores; requests are a few lines of text.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    listener.set_nonblocking(true)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let ending = Arc::clone(&state);
        let shutdown = async move {
            end.await;
            ending.is_ending.store(true, Ordering::Relaxed);
        };
        axum::serve(listener, router(Arc::clone(&state))).with_graceful_shutdown(shutdown).await
    })?;
    state.scheduler.finish();
    Ok(())
}

fn router(state: Arc<State>) -> Router {
    let with = |state: &Arc<State>| Arc::clone(state);
    let inference = Router::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(chat::complete))
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
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn(operations::in_form))
        .with_state(state)
}
