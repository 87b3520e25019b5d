//! Requests that the cache does not answer: POST, upgrades, gRPC, uncached routes. pingora's proxy carries
//! them; this is the glue that tells it where to and what to add.
//!
//! The front has parsed, checked and planned the request. What it found comes along as a task-local
//! [`PassRequest`], so that nothing is decided twice and both see one snapshot of the configuration.

mod http10;
mod invalidate;
mod proxy;
mod watchdog;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, Version};

use crate::clock::Timestamp;
use crate::observe::{Observer, Outcome};
use crate::plan::PassReason;
use crate::request::Scheme;
use crate::snapshot::Snapshot;

pub use proxy::Pass;
pub use watchdog::Progress;

/// What the front knows of a request that it passes on.
#[derive(Clone)]
pub struct PassRequest {
    pub snapshot: Arc<Snapshot>,
    pub site: usize,
    pub route: usize,
    pub reason: PassReason,
    pub method: Method,
    pub host: String,
    /// The port, where it counts.
    pub port: Option<u16>,
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
    /// Of a request with a body.
    pub progress: Option<Arc<Progress>>,
    pub time: Timestamp,
    pub started: Instant,
}

/// After an origin's own deadline for its answer, which is the better one to tell the client of.
const GRACE: Duration = Duration::from_secs(1);

impl PassRequest {
    /// Ends when nothing has happened for too long; never for a request without a body.
    pub async fn stalled(&self) {
        let Some(progress) = &self.progress else { return std::future::pending().await };
        let pool = &self.snapshot.config.pool(self.snapshot.route(self.site, self.route).pool).timeouts;
        progress.stalled(self.snapshot.config.limits.read_timeout, pool.read + GRACE).await;
    }

    /// What became of it, for the log and the metrics.
    pub fn record(&self, observer: &Observer, status: StatusCode, bytes: u64, error: Option<&str>) {
        let outcome = Outcome {
            time: self.time,
            client: self.client,
            method: &self.method,
            scheme: self.scheme.as_str(),
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            version: self.version,
            status,
            bytes_sent: bytes,
            duration: self.started.elapsed(),
            site: &self.snapshot.site(self.site).name,
            cache: "pass",
            reason: None,
            referer: self.referer.as_deref(),
            user_agent: self.user_agent.as_deref(),
            error,
        };
        observer.record(&outcome, Some(&self.snapshot.sites[self.site].metrics));
    }

    /// It was given up, since nothing happened for too long.
    pub fn record_stalled(&self, observer: &Observer) {
        self.record(observer, StatusCode::REQUEST_TIMEOUT, 0, Some("nothing came or went for too long"));
    }
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
