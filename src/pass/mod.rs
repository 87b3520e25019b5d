//! Requests that the cache does not answer: POST, upgrades, gRPC, uncached routes. pingora's proxy carries
//! them; this is the glue that tells it where to and what to add.
//!
//! The front has parsed, checked and planned the request. What it found comes along as a task-local
//! [`PassRequest`], so that nothing is decided twice and both see one snapshot of the configuration.

mod http10;
mod invalidate;
mod proxy;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use http::{Method, StatusCode, Version};

use crate::clock::Timestamp;
use crate::plan::PassReason;
use crate::request::Scheme;
use crate::snapshot::Snapshot;

pub use proxy::Pass;

/// What the front knows of a request that it passes on.
#[derive(Clone)]
pub struct PassRequest {
    pub snapshot: Arc<Snapshot>,
    pub site: usize,
    pub route: usize,
    pub reason: PassReason,
    pub method: Method,
    pub host: String,
    pub authority: String,
    pub path: String,
    pub query: Option<String>,
    pub client: IpAddr,
    pub scheme: Scheme,
    pub version: Version,
    /// For pools that balance by hash.
    pub hash: u64,
    pub referer: Option<String>,
    pub user_agent: Option<String>,
    /// Of the client's connection, if it is HTTP/1: set when a reset is all that can tell of a broken response.
    pub reset: Option<Arc<AtomicBool>>,
    pub time: Timestamp,
    pub started: Instant,
}

tokio::task_local! {
    /// The request that the running task passes on. Set around `HttpProxy::process_new_http`.
    pub static REQUEST: PassRequest;
}

/// What a client is told of an origin's failure: the kind, but no names from inside.
pub fn excuse(status: StatusCode) -> &'static str {
    match status {
        StatusCode::GATEWAY_TIMEOUT => "the origin did not answer in time",
        StatusCode::SERVICE_UNAVAILABLE => "no origin can serve this now",
        _ => "the origin gave no usable answer",
    }
}
