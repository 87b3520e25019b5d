//! Which origin of a pool takes a request, at which of its addresses, among those that it has not tried.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::ticks;
use crate::config::model::{Balance, PoolId, Times};
use crate::config::read::Words;
use crate::request::RequestView;

use super::address::Address;
use super::balance::{self, Candidate, Candidates, Live, rendezvous};
use super::member::{Member, Members};
use super::pool::{PoolRuntime, PoolSet};
use super::split;
use super::state::{ActiveGuard, OriginState};

/// What a request has tried: origins, at one of their addresses each.
pub(crate) type Tried = SmallVec<[(Arc<OriginState>, Arc<Address>); 2]>;

/// The origin that is to take a request.
pub(crate) struct Picked {
    pub pool: Arc<PoolRuntime>,
    pub member: Arc<Member>,
    /// Of its addresses the one to connect to.
    pub at: Arc<Address>,
    pub active: ActiveGuard,
}

/// What a request is told apart by where that chooses its origin.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Choice {
    /// For pools that balance by hash.
    pub hash: u64,
    /// Whose session it is: the hash of the origin's address.
    pub origin: Option<u64>,
}

/// What comes of a choice.
pub(crate) enum Pick {
    Origin(Picked),
    /// All that could take it have as many requests as they may.
    Busy(Arc<PoolRuntime>),
    Nobody,
}

impl Pick {
    /// The origin, if there is one.
    pub(crate) fn origin(self) -> Option<Picked> {
        match self {
            Pick::Origin(picked) => Some(picked),
            Pick::Busy(_) | Pick::Nobody => None,
        }
    }
}

impl PoolSet {
    /// Chooses an origin that has not been tried: of the pool, else of its fallback, and so on. Those that are ejected are better
    /// than none.
    pub(crate) fn pick(&self, id: PoolId, Choice { hash, origin }: Choice, tried: &Tried) -> Pick {
        if let Some(picked) = origin.and_then(|identity| self.get(id).pick_known(identity, tried)) {
            return Pick::Origin(picked);
        }
        for pool in self.with_fallbacks(id) {
            match pool.pick(hash, tried) {
                Pick::Nobody => {}
                found => return found,
            }
        }
        let ejected = self.with_fallbacks(id).find_map(|pool| pool.pick_ejected(hash, tried));
        ejected.map_or(Pick::Nobody, Pick::Origin)
    }

    /// Whether a pool gives this request to another, and to which; `None`: it gives none away.
    pub(crate) fn divide(&self, id: PoolId, request: &RequestView<'_>) -> Option<Option<PoolId>> {
        let pool = self.get(id);
        let split = pool.config.split.as_ref()?;
        Some(split::is_given(split, pool.given.share(), &pool.config.name, request).then_some(split.pool))
    }

    /// Whether there would be another origin to try; picks none.
    pub(crate) fn has_another(&self, id: PoolId, tried: &Tried) -> bool {
        self.with_fallbacks(id).any(|pool| pool.has_another(tried))
    }
}

/// Who would get a request now, for `explain`.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Outlook {
    pool: Arc<str>,
    /// How the one is found.
    by: String,
    /// Where there are several levels, the one whose turn it is most of the time, and its share of the requests.
    level: Option<String>,
    share: f64,
    /// Those of which it is one.
    origins: Vec<Prospect>,
}

/// An origin that may get it.
#[derive(Debug, serde::Serialize)]
struct Prospect {
    address: Arc<str>,
    weight: u32,
    active: u32,
    latency_ms: Option<f64>,
}

impl PoolSet {
    /// Who would get a request now; `None`: nobody could. Nothing is counted.
    pub(crate) fn outlook(&self, id: PoolId, choice: Choice) -> Option<Outlook> {
        self.with_fallbacks(id).find_map(|pool| pool.outlook(choice))
    }
}

impl PoolRuntime {
    fn outlook(&self, Choice { hash, origin }: Choice) -> Option<Outlook> {
        let lineup = self.lineup.load();
        let by_hash = self.config.balance == Balance::Hash;
        let first = if by_hash { lineup.level_at(share_of(hash)) } else { lineup.main_level()? };
        let level = lineup.levels.get(first)?;
        let prospect = |candidate: &Candidate| {
            let state = &lineup.members.all[candidate.index].origin;
            let latency = (self.config.balance == Balance::P2c).then(|| state.latency.of_late(ticks()));
            let address = state.address.clone();
            Prospect { address, weight: candidate.weight, active: state.active(), latency_ms: latency }
        };
        let session = origin.and_then(|identity| lineup.candidates().find(|one| one.identity == identity));
        let hashed = || self.balance(&lineup.members, &level.candidates, hash);
        let (by, origins) = match (session, by_hash) {
            (Some(known), _) => ("the session's cookie".to_owned(), vec![prospect(known)]),
            (None, true) => {
                let index = hashed()?;
                let known = level.candidates.iter().find(|candidate| candidate.index == index)?;
                ("hash".to_owned(), vec![prospect(known)])
            }
            (None, false) => (
                self.config.balance.as_str().to_owned(),
                level.candidates.iter().take(MOST_SHOWN).map(prospect).collect(),
            ),
        };
        let name = (lineup.levels.len() > 1).then(|| lineup.members.levels[first].to_string());
        Some(Outlook { pool: self.config.name.clone(), by, level: name, share: level.share, origins })
    }

    /// Chooses among the origins that were not tried, first those of the level whose turn it is; if there are none, among further
    /// addresses of those that were.
    pub(super) fn pick(self: &Arc<Self>, hash: u64, tried: &Tried) -> Pick {
        let lineup = self.lineup.load();
        let number = match self.config.balance {
            Balance::Hash => share_of(hash), // a key stays where it is
            _ if lineup.levels.len() > 1 => fastrand::f64(),
            _ => 0.0,
        };
        let first = lineup.level_at(number);
        let mut is_busy = false;
        for place in std::iter::once(first).chain((0..lineup.levels.len()).filter(|place| *place != first)) {
            let Some(level) = lineup.levels.get(place) else { continue };
            match self.pick_among(&lineup.members, &level.candidates, hash, tried) {
                Pick::Nobody => {}
                Pick::Busy(_) => is_busy = true,
                found => return found,
            }
        }
        // Further addresses.
        let mut rest = lineup.candidates().filter(|_| !tried.is_empty());
        match rest.find_map(|candidate| self.picked(&lineup.members.all[candidate.index], tried)) {
            Some(picked) => Pick::Origin(picked),
            None if is_busy => Pick::Busy(self.clone()),
            None => Pick::Nobody,
        }
    }

    /// The origin of a session, if it takes requests.
    fn pick_known(self: &Arc<Self>, identity: u64, tried: &Tried) -> Option<Picked> {
        let lineup = self.lineup.load();
        let known = lineup.candidates().find(|one| one.identity == identity).filter(|_| tried.is_empty())?;
        self.picked(&lineup.members.all[known.index], tried)
    }

    fn pick_ejected(self: &Arc<Self>, hash: u64, tried: &Tried) -> Option<Picked> {
        let lineup = self.lineup.load();
        self.pick_among(&lineup.members, &lineup.ejected, hash, tried).origin()
    }

    /// Whether there would be one to be picked.
    fn has_another(&self, tried: &Tried) -> bool {
        let lineup = self.lineup.load();
        lineup.candidates().chain(lineup.ejected.iter()).any(|candidate| {
            let origin = &lineup.members.all[candidate.index].origin;
            origin.has_address(|address| was_tried(tried, origin, address))
        })
    }

    fn pick_among(self: &Arc<Self>, members: &Members, candidates: &Candidates, hash: u64, tried: &Tried) -> Pick {
        let origin = |candidate: &Candidate| &members.all[candidate.index].origin;
        let is_new = |candidate: &&Candidate| !tried.iter().any(|(tried, _)| Arc::ptr_eq(tried, origin(candidate)));
        let others: Candidates;
        let candidates = match tried.is_empty() {
            true => candidates,
            false => {
                others = candidates.iter().filter(is_new).copied().collect();
                &others
            }
        };
        let draw = |among: &Candidates| {
            let index = self.balance(members, among, hash)?;
            self.picked(&members.all[index], tried)
        };
        if let Some(picked) = draw(candidates) {
            return Pick::Origin(picked);
        }
        // Perhaps it had as many requests as it may.
        let most = |candidate: &Candidate| origin(candidate).most();
        let has_room = |candidate: &&Candidate| origin(candidate).active() < most(candidate);
        let free: Candidates = candidates.iter().filter(has_room).copied().collect();
        match draw(&free) {
            Some(picked) => Pick::Origin(picked),
            // It had no room, though one may have by now.
            None if candidates.iter().any(|candidate| most(candidate) != u32::MAX) => Pick::Busy(self.clone()),
            None => Pick::Nobody,
        }
    }

    /// The balancer's choice, as the origins are now.
    fn balance(&self, members: &Members, among: &Candidates, hash: u64) -> Option<usize> {
        let by_latency = self.config.balance == Balance::P2c;
        let now = if by_latency { ticks() } else { 0 };
        let live = |index: usize| {
            let origin = &members.all[index].origin;
            Live { active: origin.active(), latency: if by_latency { origin.latency.of_late(now) } else { 0.0 } }
        };
        let policy = (self.config.balance, self.config.max_load.map(Times::times));
        balance::balance(policy, among, live, &members.turns, fastrand::u64(..), hash)
    }

    /// An origin, at an address that was not tried, unless it has as many requests as it may.
    fn picked(self: &Arc<Self>, member: &Arc<Member>, tried: &Tried) -> Option<Picked> {
        let origin = &member.origin;
        let at = origin.pick_address(|address| was_tried(tried, origin, address))?;
        let active = ActiveGuard::new(origin.clone(), &self.queue)?;
        Some(Picked { pool: self.clone(), active, member: member.clone(), at })
    }
}

/// Origins that `explain` names at most.
const MOST_SHOWN: usize = 20;

/// Where a hash is, from 0 to 1.
fn share_of(hash: u64) -> f64 {
    rendezvous::mix(hash) as f64 / u64::MAX as f64
}

fn was_tried(tried: &Tried, origin: &Arc<OriginState>, address: &Address) -> bool {
    tried.iter().any(|(other, at)| Arc::ptr_eq(other, origin) && std::ptr::eq(&raw const **at, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::address::Place;
    use crate::origin::error::FailureKind;
    use crate::origin::orders::Order;
    use crate::origin::pool::tests::{TWO_POOLS, fail, origin, set};
    use crate::origin::state::OriginStatus;

    const TWO_PLACES: [&str; 2] = ["127.0.0.1:80", "[::1]:80"];

    fn id(set: &PoolSet, name: &str) -> PoolId {
        PoolId(set.iter().position(|pool| *pool.config.name == *name).unwrap())
    }

    /// Tries whatever origins of the pool `app` there are, at each of their addresses; gives them in that order.
    fn try_all(set: &PoolSet, hash: u64) -> Vec<(String, Place)> {
        let mut tried = Tried::new();
        while let Some(picked) = set.pick(id(set, "app"), Choice { hash, origin: None }, &tried).origin() {
            assert!(set.has_another(id(set, "app"), &tried));
            assert_eq!(picked.member.peer(&picked.at.place)._address, picked.at.place.for_pingora());
            tried.push((picked.member.origin.clone(), picked.at));
        }
        assert!(!set.has_another(id(set, "app"), &tried));
        tried.into_iter().map(|(origin, address)| (origin.address.to_string(), address.place.clone())).collect()
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
        let addresses = TWO_PLACES.map(|text| Place::Inet(text.parse().unwrap()));
        let app = set.by_name("app").unwrap();
        origin(app, 0).set_addresses(&addresses);
        app.changed(&origin(app, 0), None);
        let mut tried: Vec<Place> = try_all(&set, 0).into_iter().map(|(_, address)| address).collect();
        tried.sort_by_key(Place::to_string);
        assert_eq!(tried, addresses);
    }

    #[test]
    fn other_origins_come_before_further_addresses_of_one_that_failed() {
        for balance in ["round_robin", "least_conn", "random", "hash"] {
            let origins = "origins = [\"app.internal:80\", \"127.0.0.1:1\"]";
            let set = set(&format!("[pool.app]\nbalance = \"{balance}\"\n{origins}"), None);
            let app = set.by_name("app").unwrap();
            origin(app, 0).set_addresses(&TWO_PLACES.map(|text| Place::Inet(text.parse().unwrap())));
            app.changed(&origin(app, 0), None);
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
        assert_eq!(origin(app, 0).status(), OriginStatus::Up, "slow answers are no reason");
        for _ in 0..3 {
            fail(app, FailureKind::Connecting);
        }
        for _ in 0..4 {
            assert_eq!(
                &*set.pick(id(&set, "app"), Choice::default(), &Tried::new()).origin().unwrap().member.config.address,
                "127.0.0.1:2"
            );
        }
        app.order(&origin(app, 1), Order { draining: true, ..Order::default() }, "me");
        assert_eq!(
            &*set.pick(id(&set, "app"), Choice::default(), &Tried::new()).origin().unwrap().member.config.address,
            "127.0.0.1:3"
        );
    }
}
