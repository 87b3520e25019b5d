//! What a request reads of the node's configuration: one consistent state, loaded once at its start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::model::{Config, Listener, PoolId, Route, Site};
use crate::observe::metrics::SiteMetrics;
use crate::origin::PoolSet;
use crate::origin::passage::Passage;
use crate::plan::{Plan, Side, plan};
use crate::request::{ListenerId, RequestView};
use crate::running::{Running, RunningRequest, TooManyRequests};

/// A configuration in use: the model and what belongs to it at run time.
pub struct Snapshot {
    pub config: Config,
    pub pools: PoolSet,
    /// One for each of the configuration's sites.
    pub sites: Vec<SiteRuntime>,
    /// Sites that a reload has taken out while requests of theirs were with origins: one that comes back counts on.
    pub gone: Vec<(Box<str>, Arc<Running>)>,
    pub listeners: OpenListeners,
    /// Counts the configurations of this process, from 1.
    pub generation: u64,
    /// What tells the node in loops: the same in all configurations.
    pub passage: Arc<Passage>,
}

/// The listeners of a configuration, each with what it is known by over reloads: the same as long as its address is.
#[derive(Debug, Clone, Default)]
pub struct OpenListeners {
    all: Vec<(ListenerId, Listener)>,
    /// What the next new one gets. A connection of one that is gone must not be taken for another's.
    next: usize,
}

impl OpenListeners {
    /// Those of a configuration that comes after this one.
    pub fn followed_by(&self, listeners: &[Listener]) -> Self {
        let mut next = self.next;
        let mut left = self.all.clone();
        let mut known = |listener: &Listener| {
            let place = left.iter().position(|(_, before)| before.address == listener.address)?;
            Some(left.remove(place).0)
        };
        let mut new = || {
            next += 1;
            ListenerId(next - 1)
        };
        let all = listeners.iter().map(|listener| (known(listener).unwrap_or_else(&mut new), listener.clone()));
        OpenListeners { all: all.collect(), next }
    }

    pub fn iter(&self) -> impl Iterator<Item = (ListenerId, &Listener)> {
        self.all.iter().map(|(id, listener)| (*id, listener))
    }

    pub fn get(&self, id: ListenerId) -> Option<&Listener> {
        self.iter().find(|(other, _)| *other == id).map(|(_, listener)| listener)
    }
}

/// What a site has beside its configuration.
pub struct SiteRuntime {
    pub metrics: Arc<SiteMetrics>,
    pub running: Arc<Running>,
    /// The version in force: the configured one, or one that was set at run time.
    version: AtomicU64,
}

impl SiteRuntime {
    pub fn new(metrics: Arc<SiteMetrics>, running: Arc<Running>, version: u64) -> Self {
        SiteRuntime { metrics, running, version: AtomicU64::new(version) }
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub fn set_version(&self, version: u64) {
        self.version.store(version, Ordering::Release);
    }
}

/// How long one waits for its turn.
const IN_TURN: Duration = Duration::from_secs(30);

impl Snapshot {
    pub fn site(&self, index: usize) -> &Site {
        &self.config.sites[index]
    }

    /// What a listener is called now. Empty, as if it had no name: it is gone, and what is only for some is not for it.
    pub fn listener_name(&self, id: ListenerId) -> &str {
        self.listeners.get(id).map_or("", |listener| &listener.name)
    }

    /// What is to be done with a request, and by which pool.
    pub fn plan<'a>(&'a self, request: &RequestView<'_>, now: Timestamp) -> Plan<'a> {
        let mut planned = plan(&self.config, request, now);
        if let Some(matched) = planned.matched() {
            (matched.pool, matched.side) = match self.pools.divide(matched.pool, request) {
                None => (matched.pool, Side::Whole),
                Some(None) => (matched.pool, Side::Kept),
                Some(Some(other)) => (other, Side::Given(&self.config.pool(other).name)),
            };
        }
        planned
    }

    /// The side of a request that was planned before; `is_divided`: its route's pool gave some away.
    pub fn side(&self, is_divided: bool, route: &Route, pool: PoolId) -> Side<'_> {
        match (is_divided, route.pool() == Some(pool)) {
            (false, _) => Side::Whole,
            (true, true) => Side::Kept,
            (true, false) => Side::Given(&self.config.pool(pool).name),
        }
    }

    /// Counts a request of a site that needs an origin, if there are not too many.
    pub fn enter(&self, site: usize) -> Result<RunningRequest, TooManyRequests> {
        self.sites[site].running.enter().inspect_err(|_| self.note_refusal(site))
    }

    /// The same when it is its turn.
    pub async fn enter_in_turn(&self, site: usize) -> Result<RunningRequest, TooManyRequests> {
        self.sites[site].running.enter_in_turn(IN_TURN).await.inspect_err(|_| self.note_refusal(site))
    }

    fn note_refusal(&self, site: usize) {
        let (runtime, Site { name, max_requests, .. }) = (&self.sites[site], self.site(site));
        runtime.metrics.requests_refused.inc();
        if runtime.running.told.is_time() {
            let refused = runtime.metrics.requests_refused.get();
            let most = max_requests.unwrap_or_default();
            tracing::warn!(site = %name, max_requests = most, refused, "a site has as many requests with its origins as it may");
        }
    }

    pub fn route(&self, site: usize, route: usize) -> &Route {
        &self.config.sites[site].routes[route]
    }

    pub fn site_by_name(&self, name: &str) -> Option<usize> {
        self.config.sites.iter().position(|site| *site.name == *name)
    }
}
