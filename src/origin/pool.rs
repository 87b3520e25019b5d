//! The pools of one configuration, and the choice of an origin through a pool and its fallbacks.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;

use crate::config::model::{Balance, HashKey, Pool, PoolId};
use crate::plan::facts::{cookie, parameter};
use crate::request::RequestView;

use super::balance::rendezvous;
use super::budget::RetryBudget;
use super::h1::Kept;
use super::levels::Trust;
use super::lineup::{self, Level, Lineup};
use super::orders::{Order, Orders};
use super::outliers::Watched;
use super::pinned::Pins;
use super::queue::Queue;
use super::state::OriginState;
use super::sticky::Sticky;
use super::target;

/// A pool at run time.
pub struct PoolRuntime {
    pub config: Arc<Pool>,
    pub origins: Vec<Arc<OriginState>>,
    /// By priority and region, in the order in which they are used.
    pub levels: Vec<Level>,
    trusts: Mutex<Vec<Trust>>,
    pub(super) lineup: ArcSwap<Lineup>,
    /// Those that wait until one has room; none waits where there is no bound.
    pub(super) queue: Option<Arc<Queue>>,
    /// How to reach each origin, but for the address.
    peers: Vec<HttpPeer>,
    pub(super) pins: Pins,
    pub(super) turns: Mutex<Vec<i64>>,
    /// Connections by HTTP/1.1 that wait for their next exchange.
    pub kept: Kept,
    pub budget: RetryBudget,
    /// Its addresses as they are compared with each other.
    pub(super) watched: Mutex<Vec<Watched>>,
    pub(super) sticky: Option<Sticky>,
    /// Hashes of the origins' addresses.
    pub(super) identities: Vec<u64>,
}

/// All pools of one configuration.
pub struct PoolSet {
    pools: Vec<Arc<PoolRuntime>>,
    pub(crate) orders: Arc<Orders>,
}

impl PoolSet {
    /// Builds the pools of a configuration. Pools that did not change are taken over as they are; of the
    /// others, the origins that stay keep their state. The first ones are told what the state directory has.
    pub fn build(pools: &[Arc<Pool>], before: Option<&PoolSet>, state_dir: Option<&Path>) -> Self {
        let orders = before.map_or_else(|| Arc::new(Orders::open(state_dir)), |before| before.orders.clone());
        let build_one = |config: &Arc<Pool>| {
            let old = before.and_then(|set| set.by_name(&config.name));
            match old {
                Some(old) if old.config == *config => old.clone(),
                old => Arc::new(PoolRuntime::build(config.clone(), old, &orders)),
            }
        };
        PoolSet { pools: pools.iter().map(build_one).collect(), orders }
    }

    pub fn get(&self, id: PoolId) -> &Arc<PoolRuntime> {
        &self.pools[id.0]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<PoolRuntime>> {
        self.pools.iter()
    }

    pub fn by_name(&self, name: &str) -> Option<&Arc<PoolRuntime>> {
        self.pools.iter().find(|pool| *pool.config.name == *name)
    }

    /// A pool, its fallback, and so on. Configurations have no cycles of fallbacks; the bound makes it plain that this ends.
    pub(super) fn with_fallbacks(&self, id: PoolId) -> impl Iterator<Item = &Arc<PoolRuntime>> {
        let next = |pool: &&Arc<PoolRuntime>| pool.config.fallback.map(|fallback| self.get(fallback));
        std::iter::successors(Some(self.get(id)), next).take(self.pools.len() + 1)
    }

    /// Waits until every name has been looked up once, but no longer than `patience`: a name that does not
    /// resolve must block nothing.
    pub async fn looked_up(&self, patience: Duration) {
        let all = async {
            for origin in self.pools.iter().flat_map(|pool| &pool.origins) {
                origin.looked_up().await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await; // what is not resolved by then comes when it comes
    }

    /// Hash of a request for pools that balance by hash; 0 where there are none.
    pub fn hash(&self, id: PoolId, request: &RequestView<'_>) -> u64 {
        if !self.with_fallbacks(id).any(|pool| pool.config.balance == Balance::Hash) {
            return 0;
        }
        let pool = &self.get(id).config;
        let hash = rendezvous::hash_bytes;
        let found = match &pool.hash_key {
            HashKey::Url => None,
            HashKey::Client => Some(hash(request.client.to_string().as_bytes())),
            HashKey::Header(name) => request.fields.get(name).map(hash),
            HashKey::Cookie(name) => cookie(request.fields, name).map(hash),
            HashKey::Query(name) => parameter(request.query, name).map(|value| hash(&value)),
        };
        // What has none is spread by its URL, and does not go to one origin alone.
        found.unwrap_or_else(|| hash(request.path_and_query().as_bytes()))
    }

    /// Reads and makes the cookie of a pool whose sessions stay at their origin.
    pub(crate) fn sticky(&self, id: PoolId) -> Option<&Sticky> {
        self.get(id).sticky.as_ref()
    }
}

impl PoolRuntime {
    fn build(config: Arc<Pool>, old: Option<&Arc<PoolRuntime>>, orders: &Orders) -> Self {
        let origins = config.origins.iter().map(|origin| {
            let is_same =
                |state: &&Arc<OriginState>| state.address == origin.address && state.endpoint == origin.endpoint;
            let kept = old.and_then(|old| old.origins.iter().find(is_same)).cloned();
            kept.unwrap_or_else(|| Arc::new(OriginState::new(origin.address.clone(), origin.endpoint.clone())))
        });
        let origins: Vec<Arc<OriginState>> = origins.collect();
        for origin in &origins {
            origin.obey(orders.of(&config.name, &origin.address));
            if config.health.is_none() {
                origin.assume_up();
            }
            if config.passive.is_none() {
                origin.end_ejections();
            }
            origin.note_change(&config.name, Some("the configuration has changed"));
        }
        let levels = lineup::levels(&config);
        let trusts = levels.iter().map(|level| old.and_then(|old| old.trust(level)).unwrap_or(Trust::new(1.0)));
        let trusts = Mutex::new(trusts.collect());
        let peers = config.origins.iter().map(|origin| target::peer_template(&config, origin)).collect();
        let identities = origins.iter().map(|origin| rendezvous::hash_bytes(origin.address.as_bytes())).collect();
        let turns = Mutex::new(vec![0; origins.len()]);
        let pins = Pins::new(&config);
        let is_bounded = config.max_requests.is_some() || config.origins.iter().any(|one| one.max_requests.is_some());
        // Those that wait by the configuration before are called here, too, though there be no bound any more.
        let queue = old.and_then(|old| old.queue.clone()).or_else(|| is_bounded.then(Arc::default));
        let sticky = config.sticky.as_ref().map(|sticky| Sticky::new(sticky, &config.name));
        let pool = PoolRuntime {
            sticky,
            queue,
            levels,
            trusts,
            lineup: ArcSwap::default(),
            peers,
            pins,
            turns,
            kept: Kept::new(origins.len()),
            budget: RetryBudget::default(),
            watched: Mutex::default(),
            identities,
            origins,
            config,
        };
        pool.refresh();
        pool
    }

    /// How far a level is trusted that this pool has, too.
    fn trust(&self, level: &Level) -> Option<Trust> {
        let is_same = |own: &Level| own.priority == level.priority && own.region == level.region;
        let place = self.levels.iter().position(is_same)?;
        self.trusts.lock().get(place).copied()
    }

    /// Notes that something of an origin has changed, and why.
    pub fn changed(&self, origin: &OriginState, reason: Option<&str>) {
        if origin.note_change(&self.config.name, reason) {
            self.refresh();
        }
    }

    /// Has an origin do what is ordered of it; `by`: who has it so.
    pub(crate) fn order(&self, origin: &OriginState, order: Order, by: &str) {
        origin.obey(order);
        origin.note_change(
            &self.config.name,
            Some(&format!("{} by {by}", if order.draining { "drained" } else { "enabled" })),
        );
        self.refresh();
    }

    /// Lines the origins up anew. A move of the requests to another level is told.
    pub(super) fn refresh(&self) {
        let mut trusts = self.trusts.lock(); // one at a time: the last one is the newest
        let lineup = lineup::line_up(&self.config, &self.origins, &self.identities, &self.levels, &mut trusts);
        let (before, now) = (self.lineup.load().main_level(), lineup.main_level());
        let pool = &self.config.name;
        for (level, standing) in self.levels.iter().zip(&lineup.levels) {
            let (health, share) = ((standing.health * 100.0).round(), (standing.share * 100.0).round());
            let is_moved = self.levels.len() > 1 && before.is_some() && before != now;
            if is_moved {
                tracing::warn!(%pool, %level, health, share, "the requests of a pool go to other levels, in percent");
            }
        }
        self.lineup.store(Arc::new(lineup));
        // An origin that has come, or whose bound is another now, may have room.
        self.queue.iter().for_each(|queue| queue.call());
    }

    /// How many requests wait for room; `None`: none ever does.
    pub fn waiting(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.len())
    }

    /// How the levels stand.
    pub(crate) fn lineup(&self) -> arc_swap::Guard<Arc<Lineup>> {
        self.lineup.load()
    }

    /// How to reach an origin at one of its addresses.
    pub fn peer(&self, index: usize, address: SocketAddr) -> HttpPeer {
        let mut peer = self.peers[index].clone();
        peer._address = pingora_core::protocols::l4::socket::SocketAddr::Inet(address);
        peer
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::origin::error::FailureKind;
    use crate::origin::record::Evidence;
    use crate::origin::state::OriginStatus;
    use crate::plan::tests::config;

    pub(crate) const TWO_POOLS: &str = r#"
        [pool.app]
        origins = ["127.0.0.1:1", "127.0.0.1:2"]
        fallback = "dr"
        health = { interval = "1s" }
        [pool.dr]
        origins = ["127.0.0.1:3"]
    "#;

    pub(crate) fn set(text: &str, before: Option<&PoolSet>) -> PoolSet {
        PoolSet::build(&config(text).pools, before, None)
    }

    /// A request to the first origin of a pool comes to nothing.
    pub(crate) fn fail(pool: &PoolRuntime, kind: FailureKind) {
        let origin = &pool.origins[0];
        let address = origin.resolved()[0].clone();
        pool.unanswered(origin, &address, kind, Some(Evidence::Of(1)), "no answer");
    }

    #[test]
    fn a_reload_keeps_what_did_not_change() {
        let first = set(TWO_POOLS, None);
        let app = first.by_name("app").unwrap();
        (0..3).for_each(|_| fail(app, FailureKind::Connecting));
        let second = set(TWO_POOLS, Some(&first));
        assert!(Arc::ptr_eq(app, second.by_name("app").unwrap()));
        let third = set(&TWO_POOLS.replace("\"127.0.0.1:2\"", "\"127.0.0.1:4\""), Some(&second));
        let changed = third.by_name("app").unwrap();
        assert!(!Arc::ptr_eq(app, changed));
        assert_eq!(changed.origins[0].status(), OriginStatus::Down, "health is kept");
        assert!(Arc::ptr_eq(first.by_name("dr").unwrap(), third.by_name("dr").unwrap()));
        let unchecked = set(&TWO_POOLS.replace("health = { interval = \"1s\" }", ""), Some(&third));
        assert_eq!(unchecked.by_name("app").unwrap().origins[0].status(), OriginStatus::Up);
    }
}
