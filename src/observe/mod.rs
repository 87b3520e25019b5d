//! What the node tells of itself: one [`Outcome`] per request becomes metrics and a line of the access log.

pub mod access_log;
pub mod metrics;

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, StatusCode, Version};

use crate::clock::Timestamp;

/// Everything that is told of one request when it is over.
pub struct Outcome<'a> {
    pub time: Timestamp,
    pub client: IpAddr,
    pub method: &'a Method,
    pub scheme: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub version: Version,
    pub status: StatusCode,
    /// Of the body.
    pub bytes_sent: u64,
    pub duration: Duration,
    /// As configured; empty for a request that no site takes.
    pub site: &'a str,
    pub cache: &'a str,
    /// Why the response was stored or not (docs/reasons.md), where that was judged.
    pub reason: Option<&'a str>,
    pub referer: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    /// Why the response could not be sent whole, if so.
    pub error: Option<&'a str>,
}

/// Takes every outcome: what the fronts and the pass path share.
pub struct Observer {
    pub metrics: std::sync::Arc<metrics::Metrics>,
    pub access_log: access_log::AccessLog,
}

impl Observer {
    /// Counts and logs one request; without site metrics if it was refused before a site took it.
    pub fn record(&self, outcome: &Outcome<'_>, site: Option<&metrics::SiteMetrics>) {
        if let Some(site) = site {
            site.count(outcome);
        }
        if outcome.site.is_empty() {
            self.metrics.refused.with_label_values(&[outcome.status.as_str()]).inc();
        }
        self.access_log.record(outcome);
    }
}
