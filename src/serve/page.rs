//! The page at `/`: a person's client for the same addresses that programs use. Its files come from
//! here alone and ask nobody else; it needs no key, what it asks for does.

use std::sync::Arc;

use axum::extract;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Models, Served, State};
use crate::engine::Scheduler;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Address, type and text of each file.
const FILES: [(&str, &str, &str); 9] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page.css", CSS, include_str!("page/page.css")),
    ("/page.js", SCRIPT, include_str!("page/page.js")),
    ("/page/api.js", SCRIPT, include_str!("page/api.js")),
    ("/page/form.css", CSS, include_str!("page/form.css")),
    ("/page/choice.js", SCRIPT, include_str!("page/choice.js")),
    ("/page/settings.js", SCRIPT, include_str!("page/settings.js")),
    ("/page/talk.js", SCRIPT, include_str!("page/talk.js")),
    ("/page/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// What a browser holds the page to: nothing from elsewhere, no frame around it, no text that
/// becomes markup.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'";

pub(super) fn routes() -> Router<Arc<State>> {
    let base = Router::new().route("/page/base.json", get(base));
    FILES.into_iter().fold(base, |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

/// The bases by what they do, and whether the one that writes holds conversations or continues texts.
async fn base(extract::State(state): extract::State<Arc<State>>) -> Json<Value> {
    let Models { decoder, encoder } = &state.models;
    let has = |decoder: &Served<Scheduler>| decoder.scheduler.tokenizer().has_template();
    Json(json!({
        "writes": decoder.as_ref().map(|decoder| &decoder.name),
        "reads": encoder.as_ref().map(|encoder| &encoder.name),
        "has_chat_template": decoder.as_ref().is_some_and(has),
    }))
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // A browser never mixes files of two versions of the server.
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text)
}
