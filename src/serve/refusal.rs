//! Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::{Busy, RegistryError, ReplyError};
use crate::error::Error;

/// Bytes of a message.
const LONGEST: usize = 1000;

/// Why a request is not answered.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    param: Option<String>,
    message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, param: None, message: shortened(message.into()) }
    }

    /// A request that asks for something wrong; `param` is the field.
    pub(super) fn field(param: &str, message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
        Self { param: Some(shortened(param.to_owned())), ..refusal }
    }

    /// A field that this server does not know or cannot honour.
    pub(super) fn unsupported(param: &str) -> Self {
        let message =
            format!("the field \"{param}\" is not supported by this server: leave it out");
        Self { code: "unsupported_parameter", ..Self::field(param, message) }
    }

    /// A name that is neither the base's nor an adapter's.
    pub(super) fn unknown_model(name: &str) -> Self {
        let message = format!("no model is called \"{name}\": GET /v1/models lists them");
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message)
    }

    /// No base of this kind is served.
    pub(super) fn no_model(what: &str) -> Self {
        let message = format!("this server has no model that {what}");
        Self::new(StatusCode::NOT_FOUND, "model_not_found", message)
    }

    /// A prompt that the context has no room for.
    pub(super) fn context(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
    }

    /// An adapter that is served and cannot be: nothing that who asks for a reply can mend.
    pub(super) fn broken_adapter(name: &str, error: RegistryError) -> Self {
        let message = format!("the adapter \"{name}\" cannot be used: {}", without_folder(&error));
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "adapter_unusable", message)
    }

    /// The object in which clients look for an error.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": {
            "message": self.message, "type": kind, "param": self.param, "code": self.code,
        } })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let is_busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if is_busy.contains(&self.status) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        let (status, code) = match busy {
            Busy::Full { .. } => (StatusCode::TOO_MANY_REQUESTS, "queue_full"),
            Busy::TooMany { .. } => (StatusCode::BAD_REQUEST, "too_many_replies"),
            Busy::Ending => (StatusCode::SERVICE_UNAVAILABLE, "ending"),
        };
        Self::new(status, code, busy.to_string())
    }
}

impl From<ReplyError> for Refusal {
    fn from(error: ReplyError) -> Self {
        let message = error.to_string();
        let (status, code) = match error {
            ReplyError::Session(Error::ContextFull { .. }) => {
                (StatusCode::BAD_REQUEST, "context_length_exceeded")
            }
            // Not numbers that a request names, but what came of them.
            ReplyError::Session(
                Error::BadLogits { .. }
                | Error::CacheOverflow { .. }
                | Error::Device
                | Error::NotFinite { .. },
            ) => (StatusCode::INTERNAL_SERVER_ERROR, "model_failed"),
            _ => (StatusCode::BAD_REQUEST, "invalid_value"),
        };
        Self::new(status, code, message)
    }
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        let (status, code) = match error {
            RegistryError::Unknown(_) => (StatusCode::NOT_FOUND, "model_not_found"),
            RegistryError::Exists(_) => (StatusCode::BAD_REQUEST, "adapter_exists"),
            RegistryError::Stale { .. } => (StatusCode::CONFLICT, "generation_mismatch"),
            _ => (StatusCode::BAD_REQUEST, "invalid_adapter"),
        };
        Self::new(status, code, without_folder(&error))
    }
}

/// What is wrong with an adapter, without the place of its files: nothing that clients should learn.
fn without_folder(error: &RegistryError) -> String {
    let text = error.to_string();
    let RegistryError::File(error) = error else { return text };
    match error.path.parent() {
        Some(folder) if folder.is_absolute() => text.replace(&format!("{}/", folder.display()), ""),
        _ => text,
    }
}

/// A text that may repeat what a client sent: its beginning, if it is long.
fn shortened(mut text: String) -> String {
    let most = text.floor_char_boundary(LONGEST);
    if most < text.len() {
        text.truncate(most);
        text.push('…');
    }
    text
}
