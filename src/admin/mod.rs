//! The admin API: health, status, purges, reloads, pools. On a listener of its own, loopback by default.

mod auth;
mod explain;
mod handlers;
mod metrics;
mod problem;
mod purge;
mod purges;
mod url;
mod warm;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::node::Node;

use problem::Problem;

/// Bytes of a request body; a configuration to check may be large, everything else is small.
const MAX_BODY: usize = 8 << 20;
/// How long running calls may take to end when the node stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Connections at one time: operators, their scripts, and what scrapes the metrics.
const MAX_CONNECTIONS: usize = 256;
/// For a whole call, its body included.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// After accept has failed, so that it doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the listener.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let fail = |error: std::io::Error| format!("cannot listen on {address} for the admin API: {error}");
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    Ok((listener, address))
}

/// Serves the API until the node has shut down. It answers while requests drain, so that one can watch them.
pub async fn serve(listener: TcpListener, node: Arc<Node>) {
    let mut shutdown = node.shutdown.subscribe();
    let open = node.open.clone();
    let stopped = async {
        if shutdown.wait_for(|down| *down).await.is_ok() {
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
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(node.snapshot.load().config.limits.header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = running.watch(connection);
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the admin API failed");
            }
        });
    }
    if tokio::time::timeout(DRAIN, running.shutdown()).await.is_err() {
        tracing::warn!("calls to the admin API were still running and are ended");
    }
}

/// Answers a call whose body does not come, or that takes too long for another reason.
async fn with_deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(CALL_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = "the call did not come or was not done in time; what it began may still be done";
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response()
        }
    }
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
        .route("/v1/purges", get(purges::list))
        .route("/v1/purges/{seq}", get(purges::one))
        .route("/v1/warm", post(warm::start))
        .route("/v1/warm/{id}", get(warm::progress).delete(warm::stop))
        .route("/v1/sites/{site}/version", post(handlers::set_version))
        .route("/v1/pools/{pool}/origins/{origin}/drain", post(handlers::drain))
        .route("/v1/pools/{pool}/origins/{origin}/enable", post(handlers::enable))
        .fallback(handlers::unknown)
        .method_not_allowed_fallback(handlers::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(with_deadline))
        .with_state(node)
}
