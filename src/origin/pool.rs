//! The pools of one configuration, and the choice of an origin through a pool and its fallbacks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::model::{Balance, Origin, Pool, PoolId};
use crate::request::RequestView;

use super::balance::rendezvous;
use super::budget::RetryBudget;
use super::copies::Copies;
use super::found::Found;
use super::h1::KeptCount;
use super::hedge::Hedging;
use super::levels::Trust;
use super::lineup::{self, Lineup};
use super::member::{Level, Members};
use super::orders::{Order, Orders};
use super::outliers::Watched;
use super::pinned::Pins;
use super::queue::Queue;
use super::split::{self, Given};
use super::state::{OriginState, OriginStatus};
use super::sticky::Sticky;

/// A pool at run time.
pub struct PoolRuntime {
    pub config: Arc<Pool>,
    /// How far each level of its members is trusted. Held while the line-up is made.
    trusts: Mutex<Vec<Trust>>,
    /// Its origins, and how they stand.
    pub(super) lineup: ArcSwap<Lineup>,
    /// What its sources have brought so far.
    pub(super) found: Mutex<Vec<Found>>,
    /// Counts the times that this has become something else.
    pub(super) changes: watch::Sender<u64>,
    orders: Arc<Orders>,
    /// Those that wait until one has room; none waits where there is no bound.
    pub(super) queue: Option<Arc<Queue>>,
    pub(super) pins: Pins,
    /// Of the connections that are kept.
    kept_count: Arc<KeptCount>,
    pub budget: RetryBudget,
    /// Its addresses as they are compared with each other.
    pub(super) watched: Mutex<Vec<Watched>>,
    pub(super) sticky: Option<Sticky>,
    /// The share of its requests that goes to another pool.
    pub(crate) given: Given,
    /// Of requests that are sent to two of its origins.
    pub(crate) hedging: Hedging,
    /// Of its requests, to another pool.
    pub(crate) mirrored: Arc<Copies>,
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
            for pool in &self.pools {
                pool.sources_known().await;
                for member in pool.members().iter() {
                    member.origin.looked_up().await;
                }
            }
        };
        let _ = tokio::time::timeout(patience, all).await; // what is not resolved by then comes when it comes
    }

    /// Hash of a request for pools that balance by hash; 0 where there are none.
    pub fn hash(&self, id: PoolId, request: &RequestView<'_>) -> u64 {
        if !self.with_fallbacks(id).any(|pool| pool.config.balance == Balance::Hash) {
            return 0;
        }
        // What has none is spread by its URL, and does not go to one origin alone.
        let key = &self.get(id).config.hash_key;
        split::hash_of(key, request).unwrap_or_else(|| rendezvous::hash_bytes(request.path_and_query().as_bytes()))
    }

    /// Reads and makes the cookie of a pool whose sessions stay at their origin.
    pub(crate) fn sticky(&self, id: PoolId) -> Option<&Sticky> {
        self.get(id).sticky.as_ref()
    }
}

impl PoolRuntime {
    fn build(config: Arc<Pool>, old: Option<&Arc<PoolRuntime>>, orders: &Arc<Orders>) -> Self {
        let pins = Pins::new(&config);
        // Those that wait by the configuration before are called here, too, though there be no bound any more.
        let queue = old.and_then(|old| old.queue.clone()).or_else(|| config.is_bounded().then(Arc::default));
        let sticky = config.sticky.as_ref().map(|sticky| Sticky::new(sticky, &config.name));
        let found = config.sources.iter().map(|source| old.and_then(|old| old.brought(source)).unwrap_or_default());
        let found: Vec<Found> = found.collect();
        let order = config.split.as_ref().map(|_| orders.of(&config.name, split::ORDER)).unwrap_or_default();
        let pool = PoolRuntime {
            given: Given::new(config.split.as_ref(), order),
            hedging: Hedging::default(),
            mirrored: Arc::default(),
            sticky,
            queue,
            trusts: Mutex::default(),
            lineup: ArcSwap::default(),
            found: Mutex::new(found),
            changes: watch::Sender::new(0),
            orders: orders.clone(),
            pins,
            kept_count: Arc::default(),
            budget: RetryBudget::default(),
            watched: Mutex::default(),
            config,
        };
        let origins = pool.all_origins(&pool.found.lock());
        let before = old.map(|old| (old.members(), old.trusts()));
        pool.enter(origins, before.as_ref().map(|(members, trusts)| (&**members, &trusts[..])), false);
        pool
    }

    /// Lines up these origins instead of those that it had. What stays of `before` keeps its state, and levels that are the same their
    /// trust. `is_same_pool`: nothing else of it has changed.
    pub(super) fn enter(&self, origins: Vec<Origin>, before: Option<(&Members, &[Trust])>, is_same_pool: bool) {
        let known = before.map(|(members, _)| (members, is_same_pool));
        let members = Members::new(&self.config, origins, known, &self.orders, &self.kept_count);
        for member in members.iter() {
            if self.config.health.is_none() {
                member.origin.assume_up();
            }
            if self.config.passive.is_none() {
                member.origin.end_ejections();
            }
            let reason = match member.origin.status() {
                OriginStatus::Draining => "it was drained, and not enabled since",
                _ => "the configuration has changed",
            };
            member.origin.note_change(&self.config.name, Some(reason));
        }
        let trust = |level: &Level| {
            let (before, trusts) = before?;
            let is_same = |other: &Level| other.priority == level.priority && other.region == level.region;
            trusts.get(before.levels.iter().position(is_same)?).cloned()
        };
        let new: Vec<Trust> = members.levels.iter().map(|level| trust(level).unwrap_or(Trust::new(1.0))).collect();
        let mut trusts = self.trusts.lock();
        *trusts = new;
        let lineup = lineup::line_up(&self.config, &Arc::new(members), &mut trusts);
        self.lineup.store(Arc::new(lineup));
        drop(trusts);
        self.queue.iter().for_each(|queue| queue.call());
    }

    /// Its origins, as long as they are these.
    pub fn members(&self) -> Arc<Members> {
        self.lineup.load().members.clone()
    }

    pub(super) fn trusts(&self) -> Vec<Trust> {
        self.trusts.lock().clone()
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
        let old = self.lineup.load();
        let lineup = lineup::line_up(&self.config, &old.members, &mut trusts);
        let (before, now) = (old.main_level(), lineup.main_level());
        let pool = &self.config.name;
        for (level, standing) in old.members.levels.iter().zip(&lineup.levels) {
            let (health, share) = ((standing.health * 100.0).round(), (standing.share * 100.0).round());
            let is_moved = old.members.levels.len() > 1 && before.is_some() && before != now;
            if is_moved {
                tracing::warn!(%pool, %level, health, share, "the requests of a pool go to other levels, in percent");
            }
        }
        self.lineup.store(Arc::new(lineup));
        // An origin that has come, or whose bound is another now, may have room.
        self.queue.iter().for_each(|queue| queue.call());
    }

    /// Told when its origins may have become others.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Closes the connections that are kept, now and from now on: the pool has been replaced.
    pub(super) fn close_kept(&self) {
        self.members().iter().for_each(|member| member.kept.close());
    }

    /// How many requests wait for room; `None`: none ever does.
    pub fn waiting(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.len())
    }

    /// How the levels stand.
    pub(crate) fn lineup(&self) -> arc_swap::Guard<Arc<Lineup>> {
        self.lineup.load()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::origin::error::FailureKind;
    use crate::origin::record::Evidence;
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

    /// An origin by its place.
    pub(crate) fn origin(pool: &PoolRuntime, index: usize) -> Arc<OriginState> {
        pool.members().all[index].origin.clone()
    }

    /// A request to the first origin of a pool comes to nothing.
    pub(crate) fn fail(pool: &PoolRuntime, kind: FailureKind) {
        let origin = origin(pool, 0);
        let address = origin.resolved()[0].clone();
        pool.unanswered(&origin, &address, kind, Some(Evidence::Of(1)), "no answer");
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
        assert_eq!(origin(changed, 0).status(), OriginStatus::Down, "health is kept");
        assert!(Arc::ptr_eq(first.by_name("dr").unwrap(), third.by_name("dr").unwrap()));
        let unchecked = set(&TWO_POOLS.replace("health = { interval = \"1s\" }", ""), Some(&third));
        assert_eq!(origin(unchecked.by_name("app").unwrap(), 0).status(), OriginStatus::Up);
    }
}
