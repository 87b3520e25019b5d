//! The pools of one configuration, and the choice of an origin through a pool and its fallbacks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use smallvec::SmallVec;

use crate::clock::ticks;
use crate::config::model::{Balance, HashKey, Pool, PoolId, Times};
use crate::request::RequestView;

use super::address::Address;
use super::balance::{self, Candidate, rendezvous};
use super::budget::RetryBudget;
use super::h1::Kept;
use super::outliers::Watched;
use super::pinned::Pins;
use super::state::{ActiveGuard, OriginState, OriginStatus};
use super::target;

/// A pool at run time.
pub struct PoolRuntime {
    pub config: Arc<Pool>,
    pub origins: Vec<Arc<OriginState>>,
    /// How to reach each origin, but for the address.
    peers: Vec<HttpPeer>,
    pub(super) pins: Pins,
    turns: Mutex<Vec<i64>>,
    /// Connections by HTTP/1.1 that wait for their next exchange.
    pub kept: Kept,
    pub budget: RetryBudget,
    /// Its addresses as they are compared with each other.
    pub(super) watched: Mutex<Vec<Watched>>,
    /// Hashes of the origins' addresses.
    identities: Vec<u64>,
}

/// All pools of one configuration.
pub struct PoolSet {
    pools: Vec<Arc<PoolRuntime>>,
    /// Whether any of them balances by hash: be it one that is fallen back to.
    hashes: bool,
}

/// What a request has tried: origins, at one of their addresses each.
pub(crate) type Tried = SmallVec<[(Arc<OriginState>, SocketAddr); 2]>;

/// Of which origins one is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Well,
    /// Those that are ejected as well.
    Ejected,
}

/// The origin that is to take a request.
pub struct Picked {
    pub pool: Arc<PoolRuntime>,
    pub origin: Arc<OriginState>,
    /// Its place in the pool.
    pub index: usize,
    /// Of its addresses the one to connect to.
    pub at: Arc<Address>,
    pub active: ActiveGuard,
}

impl Picked {
    /// How to reach it, in pingora's terms.
    pub fn peer(&self) -> HttpPeer {
        self.pool.peer(self.index, self.at.socket)
    }
}

impl PoolSet {
    /// Builds the pools of a configuration. Pools that did not change are taken over as they are; of the
    /// others, the origins that stay keep their state.
    pub fn build(pools: &[Arc<Pool>], before: Option<&PoolSet>) -> Self {
        let build_one = |config: &Arc<Pool>| {
            let old = before.and_then(|set| set.by_name(&config.name));
            match old {
                Some(old) if old.config == *config => old.clone(),
                old => Arc::new(PoolRuntime::build(config.clone(), old)),
            }
        };
        let hashes = pools.iter().any(|pool| pool.balance == Balance::Hash);
        PoolSet { pools: pools.iter().map(build_one).collect(), hashes }
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

    /// Chooses an origin that has not been tried: of the pool, else of its fallback, and so on. Those that are ejected are better
    /// than none.
    pub fn pick(&self, id: PoolId, hash: u64, tried: &Tried) -> Option<Picked> {
        let pick = |of: Of| self.with_fallbacks(id).find_map(|pool| pool.pick(of, hash, tried));
        pick(Of::Well).or_else(|| pick(Of::Ejected))
    }

    /// Whether there would be another origin to try; picks none.
    pub fn has_another(&self, id: PoolId, tried: &Tried) -> bool {
        self.with_fallbacks(id).any(|pool| pool.origins.iter().any(|origin| pool.may_serve(Of::Ejected, origin, tried)))
    }

    /// A pool, its fallback, and so on. Configurations have no cycles of fallbacks; the bound makes it plain that this ends.
    fn with_fallbacks(&self, id: PoolId) -> impl Iterator<Item = &Arc<PoolRuntime>> {
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
        if !self.hashes {
            return 0;
        }
        let pool = &self.get(id).config;
        match &pool.hash_key {
            HashKey::Url => rendezvous::hash_bytes(request.path_and_query().as_bytes()),
            HashKey::Client => rendezvous::hash_bytes(request.client.to_string().as_bytes()),
            HashKey::Header(name) => rendezvous::hash_bytes(request.fields.get(name).unwrap_or_default()),
        }
    }
}

impl PoolRuntime {
    fn build(config: Arc<Pool>, old: Option<&Arc<PoolRuntime>>) -> Self {
        let origins = config.origins.iter().map(|origin| {
            let is_same =
                |state: &&Arc<OriginState>| state.address == origin.address && state.endpoint == origin.endpoint;
            let kept = old.and_then(|old| old.origins.iter().find(is_same)).cloned();
            kept.unwrap_or_else(|| Arc::new(OriginState::new(origin.address.clone(), origin.endpoint.clone())))
        });
        let origins: Vec<Arc<OriginState>> = origins.collect();
        for origin in &origins {
            if config.health.is_none() {
                origin.assume_up();
            }
            if config.passive.is_none() {
                origin.end_ejections();
            }
            origin.note_change(&config.name, Some("the configuration has changed"));
        }
        let peers = config.origins.iter().map(|origin| target::peer_template(&config, origin)).collect();
        let identities = origins.iter().map(|origin| rendezvous::hash_bytes(origin.address.as_bytes())).collect();
        let turns = Mutex::new(vec![0; origins.len()]);
        let pins = Pins::new(&config);
        PoolRuntime {
            peers,
            pins,
            turns,
            kept: Kept::default(),
            budget: RetryBudget::default(),
            watched: Mutex::default(),
            identities,
            origins,
            config,
        }
    }

    /// Whether an origin may be picked, and has an address that was not tried.
    fn may_serve(&self, of: Of, origin: &Arc<OriginState>, tried: &Tried) -> bool {
        let usable = match origin.status() {
            OriginStatus::Up => true,
            // Nobody looks any more: a request left over from a configuration with a check said so.
            OriginStatus::Down => self.config.health.is_none(),
            OriginStatus::Ejected => of == Of::Ejected || self.config.passive.is_none(),
            OriginStatus::Draining | OriginStatus::Unresolved => false,
        };
        usable && origin.has_address(|address| was_tried(tried, origin, address))
    }

    /// Chooses among the origins that were not tried; if there are none, among further addresses of those that were.
    fn pick(self: &Arc<Self>, of: Of, hash: u64, tried: &Tried) -> Option<Picked> {
        let is_new = |origin: &Arc<OriginState>| !tried.iter().any(|(tried, _)| Arc::ptr_eq(tried, origin));
        self.pick_among(of, hash, tried, is_new).or_else(|| self.pick_among(of, hash, tried, |_| !tried.is_empty()))
    }

    fn pick_among(
        self: &Arc<Self>,
        of: Of,
        hash: u64,
        tried: &Tried,
        among: impl Fn(&Arc<OriginState>) -> bool,
    ) -> Option<Picked> {
        let may_serve = |(_, origin): &(usize, &Arc<OriginState>)| among(origin) && self.may_serve(of, origin, tried);
        let by_latency = self.config.balance == Balance::P2c;
        let now = if by_latency || self.config.slow_start.is_some() { ticks() } else { 0 };
        let candidates = self.origins.iter().enumerate().filter(may_serve).map(|(index, origin)| Candidate {
            index,
            identity: self.identities[index],
            weight: balance::weight_of(
                self.config.origins[index].weight,
                self.config.slow_start,
                now.saturating_sub(origin.up_since()),
            ),
            active: origin.active(),
            latency: if by_latency { origin.latency.of_late(now) } else { 0.0 },
        });
        let candidates: SmallVec<[Candidate; 8]> = candidates.collect();
        let random = fastrand::u64(..);
        let policy = (self.config.balance, self.config.max_load.map(Times::times));
        let index = balance::balance(policy, &candidates, &mut self.turns.lock(), random, hash)?;
        let origin = self.origins[index].clone();
        let at = origin.pick_address(|address| was_tried(tried, &origin, address))?;
        Some(Picked { pool: self.clone(), active: ActiveGuard::new(origin.clone()), origin, index, at })
    }

    /// How to reach an origin at one of its addresses.
    pub fn peer(&self, index: usize, address: SocketAddr) -> HttpPeer {
        let mut peer = self.peers[index].clone();
        peer._address = pingora_core::protocols::l4::socket::SocketAddr::Inet(address);
        peer
    }
}

fn was_tried(tried: &Tried, origin: &Arc<OriginState>, address: SocketAddr) -> bool {
    tried.iter().any(|(other, at)| Arc::ptr_eq(other, origin) && *at == address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::error::FailureKind;
    use crate::origin::record::Evidence;
    use crate::plan::tests::config;

    const TWO_POOLS: &str = r#"
        [pool.app]
        origins = ["127.0.0.1:1", "127.0.0.1:2"]
        fallback = "dr"
        health = { interval = "1s" }
        [pool.dr]
        origins = ["127.0.0.1:3"]
    "#;

    fn set(text: &str, before: Option<&PoolSet>) -> PoolSet {
        PoolSet::build(&config(text).pools, before)
    }

    /// A request to the first origin of a pool comes to nothing.
    fn fail(pool: &PoolRuntime, kind: FailureKind) {
        let origin = &pool.origins[0];
        let address = origin.resolved()[0].clone();
        pool.unanswered(origin, &address, kind, Some(Evidence::Of(1)), "no answer");
    }

    fn id(set: &PoolSet, name: &str) -> PoolId {
        PoolId(set.iter().position(|pool| *pool.config.name == *name).unwrap())
    }

    /// Tries whatever origins of the pool `app` there are, at each of their addresses; gives them in that order.
    fn try_all(set: &PoolSet, hash: u64) -> Vec<(String, SocketAddr)> {
        let mut tried = Tried::new();
        while let Some(picked) = set.pick(id(set, "app"), hash, &tried) {
            assert!(set.has_another(id(set, "app"), &tried));
            assert_eq!(picked.peer()._address.as_inet(), Some(&picked.at.socket));
            tried.push((picked.origin, picked.at.socket));
        }
        assert!(!set.has_another(id(set, "app"), &tried));
        tried.into_iter().map(|(origin, address)| (origin.address.to_string(), address)).collect()
    }

    #[test]
    fn each_origin_is_tried_once_then_the_fallback_then_none() {
        let tried = try_all(&set(TWO_POOLS, None), 0);
        let names: Vec<&str> = tried.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    }

    #[test]
    fn every_address_of_a_name_is_tried() {
        let set = set("[pool.app]\norigins = [\"app.internal:80\"]", None);
        assert!(try_all(&set, 0).is_empty(), "not resolved yet");
        let addresses: [SocketAddr; 2] = ["127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap()];
        set.pools[0].origins[0].set_addresses(&addresses);
        let mut tried: Vec<SocketAddr> = try_all(&set, 0).into_iter().map(|(_, address)| address).collect();
        tried.sort();
        assert_eq!(tried, addresses);
    }

    #[test]
    fn other_origins_come_before_further_addresses_of_one_that_failed() {
        for balance in ["round_robin", "least_conn", "random", "hash"] {
            let origins = "origins = [\"app.internal:80\", \"127.0.0.1:1\"]";
            let set = set(&format!("[pool.app]\nbalance = \"{balance}\"\n{origins}"), None);
            set.pools[0].origins[0].set_addresses(&["127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap()]);
            for hash in 0..10 {
                let tried = try_all(&set, hash);
                assert_eq!(tried.len(), 3, "{balance}");
                assert_ne!(tried[0].0, tried[1].0, "{balance}");
            }
        }
    }

    #[test]
    fn origins_that_are_down_are_passed_over() {
        let set = set(TWO_POOLS, None);
        let app = set.by_name("app").unwrap();
        for _ in 0..3 {
            fail(app, FailureKind::Broken);
        }
        assert_eq!(app.origins[0].status(), OriginStatus::Up, "slow answers are no reason");
        for _ in 0..3 {
            fail(app, FailureKind::Connecting);
        }
        for _ in 0..4 {
            assert_eq!(&*set.pick(id(&set, "app"), 0, &Tried::new()).unwrap().origin.address, "127.0.0.1:2");
        }
        app.origins[1].set_draining(true);
        assert_eq!(&*set.pick(id(&set, "app"), 0, &Tried::new()).unwrap().origin.address, "127.0.0.1:3");
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
