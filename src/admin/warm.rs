//! `/v1/warm`: filling the cache before anybody asks.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::model::TokenRight;
use crate::node::Node;
use crate::warm::{Job, Progress, Wanted};

use super::auth::Caller;
use super::problem::{Problem, read_body};
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
    /// Go on without URLs that are refused, and tell of them, instead of refusing the call.
    #[serde(default)]
    leave_out: bool,
}

fn sixteen() -> usize {
    16
}

/// Begins a warm-up.
pub(crate) async fn start(State(node): State<Arc<Node>>, caller: Caller, body: Bytes) -> Result<Json<Value>, Problem> {
    caller.need(TokenRight::Operate)?; // it costs the origins requests
    let request: WarmRequest = read_body(&body)?;
    if !(1..=MAX_URLS).contains(&request.urls.len()) {
        return Err(Problem::bad_request(format!("give from 1 to {MAX_URLS} urls in one call")));
    }
    if !(1..=MAX_CONCURRENCY).contains(&request.concurrency) {
        return Err(Problem::bad_request(format!("concurrency must be from 1 to {MAX_CONCURRENCY}")));
    }
    let snapshot = node.snapshot.load_full();
    let wanted = |url: &String| {
        let located = Located::find(url, &snapshot.config, &caller)?;
        let local_port = Some(located.local_port(&snapshot.config));
        let Located { scheme, host, port, path, query, .. } = located;
        Ok(Wanted { scheme, host, port, local_port, path, query, fields: HeaderMap::new() })
    };
    let (wanted, refused) = match request.leave_out {
        false => (Problem::of_each(&request.urls, wanted)?, Vec::new()),
        true => {
            let (mut taken, mut refused) = (Vec::new(), Vec::new());
            for (index, url) in request.urls.iter().enumerate() {
                match wanted(url) {
                    Ok(wanted) => taken.push(wanted),
                    Err(problem) => refused.push(json!({ "index": index, "detail": problem.detail })),
                }
            }
            (taken, refused)
        }
    };
    if wanted.is_empty() {
        return Ok(Json(json!({ "id": null, "refused": refused })));
    }
    let sites = caller.sites().map(<[String]>::to_vec);
    let job = node.warm_ups.start(&node.engine, &node.snapshot, wanted, request.concurrency, sites);
    let job = job.map_err(|error| Problem::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()))?;
    tracing::info!(caller = caller.name, id = job.id, urls = request.urls.len(), "warming up");
    let mut answer = json!(job.progress());
    if request.leave_out {
        answer["refused"] = refused.into();
    }
    Ok(Json(answer))
}

/// How far it has come.
pub(crate) async fn progress(
    State(node): State<Arc<Node>>,
    caller: Caller,
    Path(id): Path<u64>,
) -> Result<Json<Progress>, Problem> {
    caller.need(TokenRight::Read)?;
    let job = find(&node, &caller, id)?;
    Ok(Json(job.progress()))
}

/// Begins nothing more of it.
pub(crate) async fn stop(
    State(node): State<Arc<Node>>,
    caller: Caller,
    Path(id): Path<u64>,
) -> Result<Json<Progress>, Problem> {
    caller.need(TokenRight::Operate)?;
    let job = find(&node, &caller, id)?;
    job.stop();
    tracing::info!(caller = caller.name, id, "warm-up stopped");
    Ok(Json(job.progress()))
}

/// A warm-up that the caller may know of: one of sites that it may act on.
fn find(node: &Node, caller: &Caller, id: u64) -> Result<Arc<Job>, Problem> {
    let job = node.warm_ups.get(id).filter(|job| match (&job.sites, caller.sites()) {
        (_, None) => true,
        (Some(of), Some(may)) => of.iter().all(|site| may.contains(site)),
        (None, Some(_)) => false,
    });
    job.ok_or_else(|| Problem::not_found(format!("there is no warm-up {id}; only the latest are remembered")))
}
