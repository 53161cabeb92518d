//! Paths and their answers. Refuses to know sockets and what an incident means.
//!
//! Invariant: every answer, also a refusal, carries [`HEADERS`]; no request changes anything.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::events::{self, STREAMS_MAX};
use super::history::History;
use super::{Readiness, Status, View, openmetrics, postmortem, readiness};

/// Nothing here is to be cached, framed or guessed at, and only the page's own script runs.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// The names by which a loopback listener may be called.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// The page: path, type, text.
const PAGE: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
];

const INDEX: &str = concat!(
    "bgsafe ",
    env!("CARGO_PKG_VERSION"),
    "\n\n",
    "GET /                       the status page\n",
    "GET /healthz                200 while the process serves\n",
    "GET /readyz                 200 when applications can be served, else 503\n",
    "GET /metrics                OpenMetrics text\n",
    "GET /api/status             state of every upstream, JSON\n",
    "GET /api/incidents          incidents, newest first, JSON\n",
    "GET /api/incidents/{id}     one incident with its timeline, JSON\n",
    "GET /api/incidents/{id}.md  the same, Markdown\n",
    "GET /api/history            the last fifteen minutes, a sample a second, JSON\n",
    "GET /api/events             status every second and turns of incidents, server-sent events\n",
);

#[derive(Clone)]
struct Admin {
    view: Arc<dyn View>,
    text: Arc<openmetrics::Exposition>,
    history: Arc<History>,
    /// For those who watch.
    seats: Arc<Semaphore>,
    shutdown: CancellationToken,
    loopback: bool,
}

/// All routes. `loopback`: is the listener bound to the machine itself? Then only its own names are
/// answered to, so that a web page cannot point its own host name here (DNS rebinding) and read.
pub fn router(
    view: Arc<dyn View>,
    history: Arc<History>,
    loopback: bool,
    shutdown: CancellationToken,
) -> Router {
    let text = Arc::new(openmetrics::Exposition::new(Arc::clone(&view)));
    let seats = Arc::new(Semaphore::new(STREAMS_MAX));
    let admin = Admin { view, text, history, seats, shutdown, loopback };
    let page = PAGE.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)))
    });
    page.route("/api", get(async || INDEX))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/status", get(status))
        .route("/api/incidents", get(incidents))
        .route("/api/incidents/{id}", get(incident))
        .route("/api/history", get(samples))
        .route("/api/events", get(events))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "no such path; GET /api lists them"))
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(admin.clone(), guarded))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, Json<Readiness>) {
    let answer = readiness(admin.view.serving(), &admin.view.status());
    let code = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(answer))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.text.render() {
        Ok(text) => ([(CONTENT_TYPE, openmetrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "bgsafe could not write its metrics"),
    }
}

async fn status(State(admin): State<Admin>) -> Json<Status> {
    Json(Status::of(&*admin.view))
}

async fn incidents(State(admin): State<Admin>) -> Response {
    Json(admin.view.incidents()).into_response()
}

/// As JSON, or with `.md` behind the id as Markdown.
async fn incident(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    let (id, as_text) = name.strip_suffix(".md").map_or((name.as_str(), false), |id| (id, true));
    match admin.view.incident(id) {
        Some(incident) if as_text => {
            let kind = "text/markdown; charset=utf-8";
            ([(CONTENT_TYPE, kind)], postmortem::markdown(&incident)).into_response()
        }
        Some(incident) => Json(incident).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "no such incident; GET /api/incidents lists them"),
    }
}

async fn samples(State(admin): State<Admin>) -> Response {
    Json(admin.history.all()).into_response()
}

async fn events(State(admin): State<Admin>) -> Response {
    match Arc::clone(&admin.seats).try_acquire_owned() {
        Ok(seat) => events::stream(admin.view, admin.history, admin.shutdown, seat).into_response(),
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "too many watch already; GET /api/status answers"),
    }
}

async fn not_allowed() -> Response {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET: nothing here changes anything");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD"));
    answer
}

/// Stands before every route: refuses strange names, puts the strict headers on every answer.
async fn guarded(State(admin): State<Admin>, request: Request<Body>, next: Next) -> Response {
    let mut answer = match !admin.loopback || is_our_name(request.headers()) {
        true => next.run(request).await,
        false => refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "on a loopback address bgsafe answers to localhost, 127.0.0.1 and [::1] only",
        ),
    };
    answer.headers_mut().extend(HEADERS);
    answer
}

/// One Host header, of ours, with any port: a forwarded port has a number of its own.
fn is_our_name(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    LOOPBACK_NAMES.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

fn refuse(code: StatusCode, why: &str) -> Response {
    (code, Json(json!({ "error": why }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_machines_own_names_are_ours() {
        for (host, ours) in [
            (Some("localhost"), true),
            (Some("LocalHost:9380"), true),
            (Some("127.0.0.1:9380"), true),
            (Some("[::1]:9380"), true),
            (Some("[::1]"), true),
            (Some("evil.example"), false),
            (Some("localhost.evil.example:9380"), false),
            (Some("127.0.0.1:9380@evil.example"), false),
            (Some(""), false),
            (None, false),
        ] {
            let headers: HeaderMap = host.map(|h| (HOST, HeaderValue::from_static(h))).into_iter().collect();
            assert_eq!(is_our_name(&headers), ours, "{host:?}");
        }
    }
}
