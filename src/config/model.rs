//! The configuration as the node uses it: validated, every reference resolved, nothing left to interpret.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::diagnose::Diagnostic;
use super::host::HostMap;
use super::read::ByteSize;

pub(crate) use super::section::access::Access;
pub(crate) use super::section::admin::Admin;
pub(crate) use super::section::answer::{FixedAnswer, Redirect, Respond};
pub(crate) use super::section::by_response::{Heeded, ResponseRule};
pub(crate) use super::section::cache::{CacheMode, CacheRules, FinishFill, OutageWindow};
pub(crate) use super::section::certificate::CertificateStore;
pub(crate) use super::section::compress::{Coding, CompressRules};
pub(crate) use super::section::disk::{Admission, CacheDisk, DiskDirectory, WriteWhen};
pub(crate) use super::section::error_page::ErrorPage;
pub(crate) use super::section::fields::FieldChanges;
pub(crate) use super::section::files::{Files, PATH};
pub(crate) use super::section::hash_key::HashKey;
pub(crate) use super::section::health::{Health, Passive, Probe, Share, Times};
pub(crate) use super::section::key::{FILL_EXCLUDES, FORWARDING_FIELDS, KeyRules, QueryRule};
pub use super::section::limits::Limits;
pub(crate) use super::section::listen::{ListenAddress, Listener, Protocol, TlsVersion};
pub(crate) use super::section::log::{AccessLogTarget, LogFormat};
pub(crate) use super::section::log::{Log, LogFilter};
pub(crate) use super::section::memory::{CacheMemory, Eviction};
pub(crate) use super::section::node::Node;
pub(crate) use super::section::origin::{
    Endpoint, MOST_FOUND, NotLoaded, Origin, Source, SourceKind, load as load_origins,
};
pub(crate) use super::section::pool::{Balance, Life, OriginProtocol, Pool, PoolId, ProxyVersion};
pub(crate) use super::section::retry::{Budget, RetryOn};
pub(crate) use super::section::rewrite::To as RewriteTo;
pub(crate) use super::section::route::{Invalidate, Route, Then};
pub(crate) use super::section::site::{EncodedDots, Https, Site};
pub(crate) use super::section::split::SplitBy;
/// As the run time has it.
pub(crate) type Split = super::section::split::Split<PoolId>;
pub(crate) use super::section::sticky::Sticky;
pub(crate) use super::tokens::TokenRight;
pub(crate) use crate::pattern::Pattern;

/// A valid configuration.
#[derive(Debug, Default, Clone)]
pub struct Config {
    pub node: Node,
    pub listeners: Vec<Listener>,
    pub certificates: Arc<CertificateStore>,
    pub admin: Option<Admin>,
    pub log: Log,
    pub limits: Limits,
    pub memory: CacheMemory,
    pub disk: CacheDisk,
    pub pools: Vec<Arc<Pool>>,
    pub sites: Vec<Arc<Site>>,
    /// Host name to index in `sites`.
    pub hosts: HostMap<usize>,
    /// Every file this came from, certificates included.
    pub files: Vec<PathBuf>,
    /// What is no mistake, and hardly meant.
    pub warnings: Vec<Diagnostic>,
    /// Hash of what is in them: tells whether a reload changes anything.
    pub fingerprint: u64,
}

impl Config {
    /// The same without the cache: every request is passed on, or answered by the node itself.
    pub fn without_cache(mut self) -> Self {
        for site in &mut self.sites {
            let site = Arc::make_mut(site);
            site.purge_from.clear();
            site.routes.stop_caching();
        }
        self.memory.max_size = ByteSize(0);
        self.memory.of_sites.clear();
        self
    }

    /// How long a response of a route may be silent, where that is said.
    pub fn stream_timeout(&self, route: &Route, pool: PoolId) -> Option<Duration> {
        route.stream_timeout.or(self.pool(pool).timeouts.stream)
    }

    pub fn pool(&self, id: PoolId) -> &Arc<Pool> {
        &self.pools[id.0]
    }
}
