//! `/v1/warm`: filling the cache before anybody asks.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use http::HeaderMap;
use serde::Deserialize;

use crate::config::model::TokenRight;
use crate::node::Node;
use crate::warm::{Progress, Wanted};

use super::auth::Caller;
use super::problem::Problem;
use super::url::Located;

/// URLs in one call; the command line sends more in several.
const MAX_URLS: usize = 10_000;
/// Fetches at one time.
const MAX_CONCURRENCY: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WarmRequest {
    urls: Vec<String>,
    #[serde(default = "sixteen")]
    concurrency: usize,
}

fn sixteen() -> usize {
    16
}

/// Begins a warm-up.
pub async fn start(State(node): State<Arc<Node>>, caller: Caller, body: Bytes) -> Result<Json<Progress>, Problem> {
    caller.need(TokenRight::Operate)?; // it costs the origins requests
    let request: WarmRequest = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not valid: {error}")))?;
    if !(1..=MAX_URLS).contains(&request.urls.len()) {
        return Err(Problem::bad_request(format!("give from 1 to {MAX_URLS} urls in one call")));
    }
    if !(1..=MAX_CONCURRENCY).contains(&request.concurrency) {
        return Err(Problem::bad_request(format!("concurrency must be from 1 to {MAX_CONCURRENCY}")));
    }
    let snapshot = node.snapshot.load_full();
    let wanted = |url: &String| {
        let Located { tls, host, path, query, .. } = Located::find(url, &snapshot.config, &caller)?;
        Ok(Wanted { tls, host, path, query, fields: HeaderMap::new() })
    };
    let wanted: Result<Vec<Wanted>, Problem> = request.urls.iter().map(wanted).collect();
    let job = node.warm_ups.start(&node.engine, &node.snapshot, wanted?, request.concurrency);
    tracing::info!(caller = caller.name, id = job.id, urls = request.urls.len(), "warming up");
    Ok(Json(job.progress()))
}

/// How far it has come.
pub async fn progress(
    State(node): State<Arc<Node>>,
    caller: Caller,
    Path(id): Path<u64>,
) -> Result<Json<Progress>, Problem> {
    caller.need(TokenRight::Read)?;
    let job = node.warm_ups.get(id).ok_or_else(|| unknown(id))?;
    Ok(Json(job.progress()))
}

/// Begins nothing more of it.
pub async fn stop(
    State(node): State<Arc<Node>>,
    caller: Caller,
    Path(id): Path<u64>,
) -> Result<Json<Progress>, Problem> {
    caller.need(TokenRight::Operate)?;
    let job = node.warm_ups.get(id).ok_or_else(|| unknown(id))?;
    job.stop();
    tracing::info!(caller = caller.name, id, "warm-up stopped");
    Ok(Json(job.progress()))
}

fn unknown(id: u64) -> Problem {
    Problem::not_found(format!("there is no warm-up {id}; only the latest are remembered"))
}
