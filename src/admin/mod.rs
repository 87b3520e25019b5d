//! The admin API: health, status, purges, reloads, pools. On a listener of its own, loopback by default.

mod auth;
mod handlers;
mod metrics;
mod problem;
mod purge;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use crate::node::Node;

/// Bytes of a request body; a configuration to check may be large, everything else is small.
const MAX_BODY: usize = 8 << 20;
/// How long running calls may take to end when the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Opens the listener.
pub async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let fail = |error: std::io::Error| format!("cannot listen on {address} for the admin API: {error}");
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    Ok((listener, address))
}

/// Serves the API until the node has shut down.
pub async fn serve(listener: TcpListener, node: Arc<Node>) {
    let mut shutdown = node.shutdown.subscribe();
    let open = node.open.clone();
    let stopped = async move {
        // It answers while requests drain, so that one can watch them.
        if shutdown.wait_for(|down| *down).await.is_ok() {
            open.closed().await;
            tokio::time::sleep(DRAIN).await;
        }
    };
    if let Err(error) = axum::serve(listener, router(node)).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the admin API has ended");
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
        .route("/v1/purge", post(purge::purge))
        .route("/v1/sites/{site}/version", post(handlers::set_version))
        .route("/v1/pools/{pool}/origins/{origin}/drain", post(handlers::drain))
        .route("/v1/pools/{pool}/origins/{origin}/enable", post(handlers::enable))
        .fallback(handlers::unknown)
        .method_not_allowed_fallback(handlers::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(node)
}
