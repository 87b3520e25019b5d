//! The admin API: health, status, purges, reloads, pools. On a listener of its own, loopback by default.

mod auth;
mod explain;
mod handlers;
mod metrics;
mod orders;
mod problem;
mod purge;
mod url;
mod warm;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::drain::Stage;
use crate::node::Node;

use problem::Problem;

/// Bytes of a request body; a configuration to check may be large, everything else is small.
const MAX_BODY: usize = 8 << 20;
/// How long running calls may take to end when the node stops.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);
/// Connections at one time: operators, their scripts, and what scrapes the metrics.
const MAX_CONNECTIONS: usize = 256;
/// For a whole call, its body included.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a caller may read nothing of an answer, and keep a connection.
const STALLED: Duration = Duration::from_secs(30);
const LONGEST_CONNECTION: Duration = Duration::from_secs(600);
/// After accept has failed, so that it doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the listener.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Until when the API is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until requests drain: another process takes its place.
    Drain,
    /// Until they have, so that one can watch them.
    Drained,
}

/// Serves the API.
pub(crate) async fn serve(listener: TcpListener, node: Arc<Node>, until: Until) {
    let mut stage = node.stage.subscribe();
    let open = node.open.clone();
    let stopped = async {
        if stage.wait_for(|stage| *stage >= Stage::Draining).await.is_ok() && until == Until::Drained {
            open.closed().await;
        }
    };
    tokio::pin!(stopped);
    let router = router(node.clone());
    let running = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Those above the cap wait to be accepted.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = &mut stopped => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A caller that reads nothing is given up by the kernel; the connection as a whole by the timeout below.
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(STALLED)); // it may be gone already
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(node.snapshot.load().config.limits.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = running.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(LONGEST_CONNECTION, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin API failed"),
                Err(_) => tracing::debug!("a connection to the admin API was open for too long and is closed"),
            }
        });
    }
    if tokio::time::timeout(DRAIN, running.shutdown()).await.is_err() {
        tracing::warn!("calls to the admin API were still running and are ended");
    }
}

/// Answers a call whose body does not come, or that takes too long for another reason.
async fn with_deadline(request: Request, next: Next) -> Response {
    tokio::time::timeout(CALL_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        let detail = "the call did not come or was not done in time; what it began may still be done";
        Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response()
    })
}

/// Ends answers that people read in a terminal with a line break.
async fn end_lines(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let is_json = |kind: &HeaderValue| kind.as_bytes().ends_with(b"json");
    if !response.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It is in memory already.
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made").into_response();
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = if bytes.ends_with(b"\n") { bytes } else { [&bytes[..], b"\n"].concat().into() };
    Response::from_parts(parts, body.into())
}

/// Refuses what a page from elsewhere makes a browser send: where no token is needed, being on the machine is all that a
/// caller has to show, and a browser is.
async fn refuse_foreign_pages(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let is_open = node.snapshot.load().config.admin.as_ref().is_some_and(|admin| admin.tokens.is_empty());
    if is_foreign(request.headers(), is_open) {
        let detail = "pages from elsewhere may not call this, nor, while there are no tokens, may anybody by another \
                      name than localhost or a loopback address";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    next.run(request).await
}

/// `is_open`: whether the API needs no token.
fn is_foreign(fields: &HeaderMap, is_open: bool) -> bool {
    let field = |name: HeaderName| fields.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = field(header::HOST).unwrap_or_default();
    let is_own = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from == host);
    let site = field(HeaderName::from_static("sec-fetch-site"));
    let of_page = field(header::ORIGIN).is_some_and(|origin| !is_own(origin))
        || site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
    // By another name: somebody else's DNS has made it one of this machine's (DNS rebinding).
    let is_named_twice = fields.get_all(header::HOST).iter().count() > 1;
    of_page || is_open && (is_named_twice || !is_loopback(host))
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(handlers::healthz))
        .route("/readyz", get(handlers::readyz))
        .route("/openapi.json", get(handlers::openapi))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(handlers::status))
        .route("/v1/pools", get(handlers::pools))
        .route("/v1/config", get(handlers::config))
        .route("/v1/config/check", post(handlers::check_config))
        .route("/v1/reload", post(handlers::reload))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/purge", post(purge::purge))
        .route("/v1/purges", get(purge::list))
        .route("/v1/purges/{seq}", get(purge::one))
        .route("/v1/warm", post(warm::start))
        .route("/v1/warm/{id}", get(warm::progress).delete(warm::stop))
        .route("/v1/sites/{site}/version", post(handlers::set_version))
        .route("/v1/pools/{pool}/origins/{origin}/drain", post(orders::set_draining::<true>))
        .route("/v1/pools/{pool}/origins/{origin}/enable", post(orders::set_draining::<false>))
        .route("/v1/pools/{pool}/origins/{origin}/weight", post(orders::set_weight))
        .route("/v1/pools/{pool}/split", post(orders::set_share))
        .fallback(handlers::unknown)
        .method_not_allowed_fallback(handlers::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(node.clone(), refuse_foreign_pages))
        .layer(middleware::from_fn(with_deadline))
        .layer(middleware::from_fn(end_lines))
        .with_state(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::map;

    #[test]
    fn who_may_call() {
        for (fields, open, foreign) in [
            (&[("host", "127.0.0.1:9180")][..], true, false),
            (&[("host", "rebound.example:9180")], true, true),
            (&[("host", "admin.internal:9180")], false, false),
            (&[("host", "localhost:9180"), ("origin", "http://localhost:9180")], true, false),
            (&[("host", "localhost:9180"), ("origin", "https://evil.example")], true, true),
            (&[("host", "localhost:9180"), ("origin", "null")], true, true),
            (&[("host", "admin.internal"), ("origin", "https://evil.example")], false, true),
            (&[("host", "localhost"), ("sec-fetch-site", "cross-site")], true, true),
            (&[("host", "localhost"), ("sec-fetch-site", "none")], true, false),
        ] {
            assert_eq!(is_foreign(&map(fields), open), foreign, "{fields:?}");
        }
    }

    #[test]
    fn names_of_this_machine() {
        for (authority, is_ours) in [
            ("localhost", true),
            ("LOCALHOST:9180", true),
            ("127.0.0.1:9180", true),
            ("127.8.8.8", true),
            ("[::1]:9180", true),
            ("[::ffff:127.0.0.1]", true),
            ("", false),
            ("example.com:9180", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1:9180", false),
        ] {
            assert_eq!(is_loopback(authority), is_ours, "{authority}");
        }
    }
}
