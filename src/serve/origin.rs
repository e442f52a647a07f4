//! Pages of other places: a browser lets any page send requests to this machine, and says in `Origin`
//! whose page it is.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::State;
use super::refusal::Refusal;

/// Refuses what pages of other places ask. A name that leads to this machine could be anybody's, so
/// without keys a page must come from an address or from localhost.
pub(super) async fn same_origin(
    Shared(state): Shared<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    if is_allowed(request.headers(), !state.keys.is_empty()) {
        return next.run(request).await;
    }
    let message = "a page of another place asks: browsers may ask from this server's own page";
    Refusal::new(StatusCode::FORBIDDEN, "cross_origin", message).into_response()
}

fn is_allowed(headers: &HeaderMap, has_keys: bool) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let place = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (place, host) {
        (Some((_, place)), Some(host)) => {
            place.eq_ignore_ascii_case(host) && (has_keys || is_of_machine(host))
        }
        _ => false,
    }
}

/// Is this an address, or localhost, with or without a port?
fn is_of_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: Option<&str>, host: &str, has_keys: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        is_allowed(&headers, has_keys)
    }

    #[test]
    fn a_page_may_ask_the_server_that_it_came_from() {
        for (origin, host) in [
            (None, "anything"),
            (Some("http://127.0.0.1:8080"), "127.0.0.1:8080"),
            (Some("http://localhost:8080"), "localhost:8080"),
            (Some("http://[::1]:8080"), "[::1]:8080"),
            (Some("http://192.168.0.7"), "192.168.0.7"),
        ] {
            assert!(allowed(origin, host, false), "{origin:?} {host}");
        }
        assert!(allowed(Some("https://models.example"), "models.example", true), "behind a proxy");
        for (origin, host) in [
            ("http://evil.example", "127.0.0.1:8080"),
            ("http://evil.example:8080", "evil.example:8080"),
            ("http://localhost:3000", "localhost:8080"),
            ("null", "127.0.0.1:8080"),
            ("http://127.0.0.1:8080.evil.example", "127.0.0.1:8080"),
        ] {
            assert!(!allowed(Some(origin), host, false), "{origin} {host}");
        }
        assert!(!allowed(Some("http://evil.example"), "models.example", true));
    }
}
