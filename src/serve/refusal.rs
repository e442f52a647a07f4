//! Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::{Busy, RegistryError, ReplyError};
use crate::error::Error;

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
        Self { status, code, param: None, message: message.into() }
    }

    /// A request that asks for something wrong; `param` is the field.
    pub(super) fn field(param: &str, message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
        Self { param: Some(param.to_owned()), ..refusal }
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
                Error::Device | Error::CacheOverflow { .. } | Error::NotFinite { .. },
            ) => (StatusCode::INTERNAL_SERVER_ERROR, "model_failed"),
            _ => (StatusCode::BAD_REQUEST, "invalid_value"),
        };
        Self::new(status, code, message)
    }
}

impl From<RegistryError> for Refusal {
    fn from(mut error: RegistryError) -> Self {
        // Where a file lies is nothing that clients should learn.
        if let RegistryError::File(error) = &mut error
            && let Some(name) = error.path.file_name()
        {
            error.path = name.into();
        }
        let (status, code) = match error {
            RegistryError::Unknown(_) => (StatusCode::NOT_FOUND, "model_not_found"),
            RegistryError::Exists(_) => (StatusCode::BAD_REQUEST, "adapter_exists"),
            RegistryError::Stale { .. } => (StatusCode::CONFLICT, "generation_mismatch"),
            _ => (StatusCode::BAD_REQUEST, "invalid_adapter"),
        };
        Self::new(status, code, error.to_string())
    }
}
