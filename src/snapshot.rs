//! What a request reads of the node's configuration: one consistent state, loaded once at its start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::model::{Config, Route, Site};
use crate::observe::metrics::SiteMetrics;
use crate::origin::PoolSet;
use crate::origin::passage::Passage;

/// A configuration in use: the model and what belongs to it at run time.
pub struct Snapshot {
    pub config: Config,
    pub pools: PoolSet,
    /// One for each of the configuration's sites.
    pub sites: Vec<SiteRuntime>,
    /// Counts the configurations of this process, from 1.
    pub generation: u64,
    /// What tells the node in loops: the same in all configurations.
    pub passage: Arc<Passage>,
}

/// What a site has beside its configuration.
pub struct SiteRuntime {
    pub metrics: Arc<SiteMetrics>,
    /// The version in force: the configured one, or one that was set at run time.
    version: AtomicU64,
}

impl SiteRuntime {
    pub fn new(metrics: Arc<SiteMetrics>, version: u64) -> Self {
        SiteRuntime { metrics, version: AtomicU64::new(version) }
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn set_version(&self, version: u64) {
        self.version.store(version, Ordering::Release);
    }
}

impl Snapshot {
    pub fn site(&self, index: usize) -> &Site {
        &self.config.sites[index]
    }

    pub fn route(&self, site: usize, route: usize) -> &Route {
        &self.config.sites[site].routes[route]
    }

    pub fn site_by_name(&self, name: &str) -> Option<usize> {
        self.config.sites.iter().position(|site| *site.name == *name)
    }
}
