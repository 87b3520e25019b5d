//! The pools of one configuration, and the choice of an origin through a pool and its fallbacks.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use smallvec::SmallVec;

use crate::clock::ticks;
use crate::config::model::{Balance, HashKey, Pool, PoolId, Times};
use crate::request::RequestView;

use super::address::Address;
use super::balance::{self, Candidate, Candidates, Live, rendezvous};
use super::budget::RetryBudget;
use super::h1::Kept;
use super::levels::Trust;
use super::lineup::{self, Level, Lineup};
use super::orders::{Order, Orders};
use super::outliers::Watched;
use super::pinned::Pins;
use super::queue::Queue;
use super::state::{ActiveGuard, OriginState};
use super::target;

/// A pool at run time.
pub struct PoolRuntime {
    pub config: Arc<Pool>,
    pub origins: Vec<Arc<OriginState>>,
    /// By priority and region, in the order in which they are used.
    pub levels: Vec<Level>,
    trusts: Mutex<Vec<Trust>>,
    lineup: ArcSwap<Lineup>,
    /// Those that wait until one has room; none waits where there is no bound.
    pub(super) queue: Option<Arc<Queue>>,
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
    pub(crate) orders: Arc<Orders>,
    /// Whether any of them balances by hash: be it one that is fallen back to.
    hashes: bool,
}

/// What a request has tried: origins, at one of their addresses each.
pub(crate) type Tried = SmallVec<[(Arc<OriginState>, SocketAddr); 2]>;

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

/// What comes of a choice.
pub enum Pick {
    Origin(Picked),
    /// All that could take it have as many requests as they may.
    Busy(Arc<PoolRuntime>),
    Nobody,
}

impl Pick {
    /// The origin, if there is one.
    pub fn origin(self) -> Option<Picked> {
        match self {
            Pick::Origin(picked) => Some(picked),
            Pick::Busy(_) | Pick::Nobody => None,
        }
    }
}

impl Picked {
    /// How to reach it, in pingora's terms.
    pub fn peer(&self) -> HttpPeer {
        self.pool.peer(self.index, self.at.socket)
    }
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
        let hashes = pools.iter().any(|pool| pool.balance == Balance::Hash);
        PoolSet { pools: pools.iter().map(build_one).collect(), hashes, orders }
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
    pub fn pick(&self, id: PoolId, hash: u64, tried: &Tried) -> Pick {
        for pool in self.with_fallbacks(id) {
            match pool.pick(hash, tried) {
                Pick::Nobody => {}
                found => return found,
            }
        }
        let ejected = self.with_fallbacks(id).find_map(|pool| pool.pick_ejected(hash, tried));
        ejected.map_or(Pick::Nobody, Pick::Origin)
    }

    /// Whether there would be another origin to try; picks none.
    pub fn has_another(&self, id: PoolId, tried: &Tried) -> bool {
        self.with_fallbacks(id).any(|pool| pool.has_another(tried))
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
        let trusts = Mutex::new(vec![Trust::new(1.0); levels.len()]);
        let peers = config.origins.iter().map(|origin| target::peer_template(&config, origin)).collect();
        let identities = origins.iter().map(|origin| rendezvous::hash_bytes(origin.address.as_bytes())).collect();
        let turns = Mutex::new(vec![0; origins.len()]);
        let pins = Pins::new(&config);
        let is_bounded = config.max_requests.is_some() || config.origins.iter().any(|one| one.max_requests.is_some());
        // Those that wait by the configuration before are called here, too.
        let queue = old.and_then(|old| old.queue.clone()).or_else(|| Some(Arc::default())).filter(|_| is_bounded);
        let pool = PoolRuntime {
            queue,
            levels,
            trusts,
            lineup: ArcSwap::default(),
            peers,
            pins,
            turns,
            kept: Kept::default(),
            budget: RetryBudget::default(),
            watched: Mutex::default(),
            identities,
            origins,
            config,
        };
        pool.refresh();
        pool
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

    /// Chooses among the origins that were not tried, first those of the level whose turn it is; if there are none, among further
    /// addresses of those that were.
    fn pick(self: &Arc<Self>, hash: u64, tried: &Tried) -> Pick {
        let lineup = self.lineup.load();
        let number = match self.config.balance {
            Balance::Hash => rendezvous::mix(hash) as f64 / u64::MAX as f64, // a key stays where it is
            _ if self.levels.len() > 1 => fastrand::f64(),
            _ => 0.0,
        };
        let first = lineup.level_at(number);
        let mut is_busy = false;
        for place in std::iter::once(first).chain((0..lineup.levels.len()).filter(|place| *place != first)) {
            let Some(level) = lineup.levels.get(place) else { continue };
            match self.pick_among(&level.candidates, hash, tried) {
                Pick::Nobody => {}
                Pick::Busy(_) => is_busy = true,
                found => return found,
            }
        }
        // Further addresses.
        let mut rest = lineup.levels.iter().flat_map(|level| level.candidates.iter()).filter(|_| !tried.is_empty());
        match rest.find_map(|candidate| self.picked(candidate.index, tried)) {
            Some(picked) => Pick::Origin(picked),
            None if is_busy => Pick::Busy(self.clone()),
            None => Pick::Nobody,
        }
    }

    fn pick_ejected(self: &Arc<Self>, hash: u64, tried: &Tried) -> Option<Picked> {
        self.pick_among(&self.lineup.load().ejected, hash, tried).origin()
    }

    /// Whether there would be one to be picked.
    fn has_another(&self, tried: &Tried) -> bool {
        let lineup = self.lineup.load();
        let mut all = lineup.levels.iter().flat_map(|level| level.candidates.iter()).chain(lineup.ejected.iter());
        all.any(|candidate| {
            let origin = &self.origins[candidate.index];
            origin.has_address(|address| was_tried(tried, origin, address))
        })
    }

    fn pick_among(self: &Arc<Self>, candidates: &Candidates, hash: u64, tried: &Tried) -> Pick {
        let is_new =
            |candidate: &&Candidate| !tried.iter().any(|(tried, _)| Arc::ptr_eq(tried, &self.origins[candidate.index]));
        let others: Candidates;
        let candidates = match tried.is_empty() {
            true => candidates,
            false => {
                others = candidates.iter().filter(is_new).copied().collect();
                &others
            }
        };
        let by_latency = self.config.balance == Balance::P2c;
        let now = if by_latency { ticks() } else { 0 };
        let live = |index: usize| {
            let origin = &self.origins[index];
            Live { active: origin.active(), latency: if by_latency { origin.latency.of_late(now) } else { 0.0 } }
        };
        let policy = (self.config.balance, self.config.max_load.map(Times::times));
        let draw = |among: &Candidates| {
            let index = balance::balance(policy, among, live, &self.turns, fastrand::u64(..), hash)?;
            self.picked(index, tried)
        };
        if let Some(picked) = draw(candidates) {
            return Pick::Origin(picked);
        }
        // Perhaps it had as many requests as it may.
        let has_room = |candidate: &&Candidate| self.origins[candidate.index].active() < self.most(candidate.index);
        let free: Candidates = candidates.iter().filter(has_room).copied().collect();
        match draw(&free) {
            Some(picked) => Pick::Origin(picked),
            None if candidates.iter().any(|candidate| !has_room(&candidate)) => Pick::Busy(self.clone()),
            None => Pick::Nobody,
        }
    }

    /// How many requests an origin may have at one time.
    fn most(&self, index: usize) -> u32 {
        self.config.origins[index].max_requests.or(self.config.max_requests).unwrap_or(u32::MAX)
    }

    /// An origin, at an address that was not tried, unless it has as many requests as it may.
    fn picked(self: &Arc<Self>, index: usize, tried: &Tried) -> Option<Picked> {
        let origin = self.origins[index].clone();
        let at = origin.pick_address(|address| was_tried(tried, &origin, address))?;
        let active = ActiveGuard::new(origin.clone(), self.most(index), &self.queue)?;
        Some(Picked { pool: self.clone(), active, origin, index, at })
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
    use crate::origin::state::OriginStatus;
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
        PoolSet::build(&config(text).pools, before, None)
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
        while let Some(picked) = set.pick(id(set, "app"), hash, &tried).origin() {
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
        set.pools[0].changed(&set.pools[0].origins[0], None);
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
            set.pools[0].changed(&set.pools[0].origins[0], None);
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
            assert_eq!(&*set.pick(id(&set, "app"), 0, &Tried::new()).origin().unwrap().origin.address, "127.0.0.1:2");
        }
        app.order(&app.origins[1], Order { draining: true, weight: None }, "me");
        assert_eq!(&*set.pick(id(&set, "app"), 0, &Tried::new()).origin().unwrap().origin.address, "127.0.0.1:3");
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
