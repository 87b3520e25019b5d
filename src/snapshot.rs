//! What a request reads of the node's configuration: one consistent state, loaded once at its start.

use crate::config::model::{Config, Route, Site};
use crate::origin::PoolSet;

/// A configuration in use: the model and the pools that belong to it.
pub struct Snapshot {
    pub config: Config,
    pub pools: PoolSet,
    /// Counts the configurations of this process, from 1.
    pub generation: u64,
}

impl Snapshot {
    pub fn site(&self, index: usize) -> &Site {
        &self.config.sites[index]
    }

    pub fn route(&self, site: usize, route: usize) -> &Route {
        &self.config.sites[site].routes[route]
    }
}
