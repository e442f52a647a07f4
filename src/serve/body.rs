//! The body of a request, read within bounds.

use std::sync::Arc;

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::State;
use super::refusal::Refusal;

/// Bytes of text that a token stands for at most, as far as a server is concerned: a longer text is
/// refused before it is read into tokens, which takes some hundred times its own memory.
const TOKEN: usize = 64;

/// Bytes of a body that any server takes, and those for each token of the context.
const BODY: (usize, usize) = (1 << 20, 32);

/// The bytes of a request's body.
pub(super) struct Body(pub(super) Bytes);

impl FromRequest<Arc<State>> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self, Refusal> {
        let (least, each) = BODY;
        let context = state.bases().map(|(_, context)| context).max().unwrap_or(0);
        let most = least.max(context.saturating_mul(each));
        let too_large = || {
            let message = format!("the body is too large: at most {most} bytes are read");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        };
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > most) {
            return Err(too_large());
        }
        match timeout(state.patience, to_bytes(request.into_body(), most)).await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(_)) => Err(too_large()),
            Err(_) => {
                let message = format!("the body did not come within {:?}", state.patience);
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
            }
        }
    }
}

impl State {
    /// Does what takes its time and memory, reads a text into tokens or an adapter, on one of the few
    /// threads for that; others wait.
    pub(super) async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let state = Arc::clone(self);
        let done = spawn_blocking(move || work(&state)).await;
        // A panic was printed.
        done.unwrap_or_else(|_| {
            let message = "the request could not be read";
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "request_failed", message))
        })
    }
}

/// Refuses a text that cannot fit a context of so many tokens.
pub(super) fn check_length(param: &str, bytes: usize, context: usize) -> Result<(), Refusal> {
    let most = context.saturating_mul(TOKEN);
    if bytes <= most {
        return Ok(());
    }
    let message = format!(
        "{param}: the text has {bytes} bytes, at most {most} are read for a context of {context} \
         tokens"
    );
    Err(Refusal::context(message))
}
