//! The origins of a pool: as they are configured or were found, how each is reached, and what is known of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;

use crate::config::model::{Endpoint, Origin, Pool};

use super::address::Place;
use super::balance::rendezvous;
use super::h1::{Kept, KeptCount};
use super::orders::Orders;
use super::state::OriginState;
use super::target;

/// One origin of a pool.
pub struct Member {
    pub config: Origin,
    /// It outlives this, as long as the origin stays.
    pub origin: Arc<OriginState>,
    /// How to reach it, but for the address.
    peer: HttpPeer,
    /// Hash of its address.
    pub(super) identity: u64,
    /// Connections by HTTP/1.1 that wait for their next exchange.
    pub kept: Kept,
}

/// The origins of one priority in one region, by their places in the pool.
#[derive(Debug, PartialEq, Eq)]
pub struct Level {
    pub priority: u16,
    pub region: Option<Arc<str>>,
    pub(super) origins: Vec<usize>,
}

/// All origins of a pool, for as long as they are these.
#[derive(Default)]
pub struct Members {
    pub all: Vec<Arc<Member>>,
    /// By priority and region, in the order in which they are used.
    pub levels: Vec<Level>,
    /// What balancers remember from pick to pick.
    pub(super) turns: Mutex<Vec<i64>>,
}

impl Members {
    /// `before`: what stays of these keeps its state. `is_same_pool`: nothing else of the pool has changed, and what has not
    /// changed at all stays as it is.
    pub(super) fn new(
        pool: &Pool,
        origins: Vec<Origin>,
        before: Option<(&Members, bool)>,
        orders: &Orders,
        count: &Arc<KeptCount>,
    ) -> Self {
        let (before, is_same_pool) = before.map_or((&[][..], false), |(before, is_same)| (&before.all[..], is_same));
        let before: HashMap<&str, &Arc<Member>> =
            before.iter().map(|member| (&*member.config.address, member)).collect();
        let levels = levels(&origins, pool.own_region.as_ref());
        let member = |config: Origin| {
            let old = before.get(&*config.address).filter(|old| old.origin.endpoint == config.endpoint);
            match old {
                Some(old) if is_same_pool && old.config == config => Arc::clone(old),
                old => {
                    let member = Member::new(pool, config, old.map(|old| old.origin.clone()), count);
                    member.origin.obey(orders.of(&pool.name, &member.config.address));
                    Arc::new(member)
                }
            }
        };
        let all: Vec<Arc<Member>> = origins.into_iter().map(member).collect();
        count.set_origins(all.len());
        Members { levels, turns: Mutex::new(vec![0; all.len()]), all }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Member>> {
        self.all.iter()
    }

    /// How operators know them.
    pub(super) fn addresses(&self) -> HashSet<&str> {
        self.iter().map(|member| &*member.config.address).collect()
    }

    pub(crate) fn find(&self, address: &str) -> Option<&Arc<Member>> {
        self.iter().find(|member| *member.config.address == *address)
    }
}

impl Member {
    fn new(pool: &Pool, config: Origin, origin: Option<Arc<OriginState>>, count: &Arc<KeptCount>) -> Self {
        let new = || Arc::new(OriginState::new(config.address.clone(), config.endpoint.clone()));
        let origin = origin.unwrap_or_else(new);
        // At once for all, also for who waits by the configuration before.
        origin.set_most(config.max_requests.or(pool.max_requests).unwrap_or(u32::MAX));
        Member {
            origin,
            peer: target::peer_template(pool, &config),
            identity: rendezvous::hash_bytes(config.address.as_bytes()),
            kept: Kept::new(count.clone()),
            config,
        }
    }

    /// What it is asked for where nobody says another host.
    pub(super) fn host(&self) -> &str {
        match &self.config.endpoint {
            Endpoint::Unix(_) => "localhost",
            Endpoint::Address(_) | Endpoint::Name { .. } => &self.config.address,
        }
    }

    /// How to reach it at one of its addresses.
    pub fn peer(&self, at: &Place) -> HttpPeer {
        let mut peer = self.peer.clone();
        peer._address = at.for_pingora();
        peer
    }
}

/// The levels of a pool in the order in which they are used: by priority, and of each first the node's own region, then the others as
/// they are listed. Origins without a region are everybody's own.
fn levels(origins: &[Origin], own_region: Option<&Arc<str>>) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    for (index, origin) in origins.iter().enumerate() {
        let region = origin.region.clone().filter(|region| own_region != Some(region));
        let is_same = |level: &&mut Level| level.priority == origin.priority && level.region == region;
        match levels.iter_mut().find(is_same) {
            Some(level) => level.origins.push(index),
            None => levels.push(Level { priority: origin.priority, region, origins: vec![index] }),
        }
    }
    levels.sort_by_key(|level| (level.priority, level.region.is_some())); // stable: others stay as they are listed
    levels
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.region {
            Some(region) => write!(f, "priority {} in {region}", self.priority),
            None => write!(f, "priority {}", self.priority),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::config;

    #[test]
    fn levels_are_by_priority_and_the_own_region_first() {
        let text = "[node]\nregion = \"eu\"\n[pool.app]\norigins = [\n\
            { address = \"127.0.0.1:1\", region = \"us\" }, { address = \"127.0.0.1:2\", region = \"asia\" },\n\
            { address = \"127.0.0.1:3\", region = \"eu\" }, { address = \"127.0.0.1:4\", region = \"us\", priority = 2 },\n\
            { address = \"127.0.0.1:5\" }, { address = \"127.0.0.1:6\", region = \"us\" }]\n";
        let pool = &config(text).pools[0];
        let levels = levels(&pool.origins, pool.own_region.as_ref());
        let shown: Vec<String> = levels.iter().map(|level| format!("{level}: {:?}", level.origins)).collect();
        assert_eq!(
            shown,
            ["priority 1: [2, 4]", "priority 1 in us: [0, 5]", "priority 1 in asia: [1]", "priority 2 in us: [3]"]
        );
    }
}
