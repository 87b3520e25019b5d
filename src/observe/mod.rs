//! What the node tells of itself: one [`Outcome`] per request becomes metrics and a line of the access log.

pub(crate) mod access_log;
pub(crate) mod journal;
pub(crate) mod metrics;
mod outcome;
mod process;

use std::sync::Arc;

use access_log::AccessLog;
use metrics::{Metrics, SiteMetrics};

pub use outcome::Outcome;

/// Takes every outcome: what the fronts and the pass path share.
pub(crate) struct Observer {
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
}

impl Observer {
    /// Counts and logs one request; without site metrics if it was refused before a site took it.
    pub(crate) fn record(&self, outcome: &Outcome<'_>, site: Option<&SiteMetrics>) {
        if let Some(site) = site {
            site.count(outcome);
        }
        if outcome.site.is_empty() {
            self.metrics.refused.with_label_values(&[outcome.status.as_str()]).inc();
        }
        self.access_log.record(outcome);
    }
}
