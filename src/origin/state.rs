//! What is known of one origin at run time. It outlives configurations: a reload that keeps an origin keeps
//! its health, its drain and its count of active requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::{Timestamp, ticks};
use crate::config::model::Endpoint;

use super::address::{Address, Place};
use super::balance::p2c::Latency;
use super::orders::Order;
use super::queue::Queue;
use super::times::Times;

/// Milliseconds for which it is remembered that an origin wants HTTP/1.1. It may have been for one request's sake.
const HTTP11_FOR: u64 = 600_000;

/// Milliseconds between two lines in the log about the failures of one origin.
const TELL_EVERY: u64 = 10_000;

/// One origin of one pool.
#[derive(Debug)]
pub struct OriginState {
    /// As configured, `HOST:PORT`.
    pub address: Arc<str>,
    pub endpoint: Endpoint,
    /// Where it is now; empty while its name has not been resolved.
    resolved: ArcSwap<Vec<Arc<Address>>>,
    next_address: AtomicUsize,
    draining: AtomicBool,
    /// What was ordered; 0: nothing.
    weight: AtomicU16,
    last_error: Mutex<Option<String>>,
    standing: Mutex<Standing>,
    /// When it came to take requests, or back to that, [`ticks`]; what [`Pool::slow_start`](crate::config::model::Pool) counts from.
    up_since: AtomicU64,
    active: AtomicU32,
    /// How many requests it may have at one time; [`u32::MAX`]: any number.
    most: AtomicU32,
    /// Whether its name has been looked up at least once, with whatever result.
    looked_up: watch::Sender<bool>,
    /// It has said that it wants HTTP/1.1 (RFC 9113 section 7), and answered by that: until when it is asked so, [`ticks`].
    http11_until: AtomicU64,
    pub requests: AtomicU64,
    pub failures: AtomicU64,
    /// Of its addresses, so far.
    pub ejections: AtomicU64,
    /// Health checks that it has passed, and failed.
    pub passed_checks: AtomicU64,
    pub failed_checks: AtomicU64,
    pub(crate) times: Times,
    /// What it takes for a request of late, for [`Balance::P2c`](crate::config::model::Balance).
    pub(super) latency: Latency,
    /// When its failures were told of last, [`ticks`], and how many there were then.
    told: Mutex<(u64, u64)>,
}

/// How an origin stands, for the admin API and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginStatus {
    Up,
    /// None of its addresses is up.
    Down,
    /// Those of its addresses that are up are left alone for a while, for what requests to them have come to.
    Ejected,
    Draining,
    /// Its name could not be resolved yet.
    Unresolved,
}

/// How an origin stands, since when, and why if there is more to say.
#[derive(Debug, Clone)]
pub struct Standing {
    pub status: OriginStatus,
    pub since: Timestamp,
    pub reason: Option<String>,
}

impl OriginState {
    pub fn new(address: Arc<str>, endpoint: Endpoint) -> Self {
        let (resolved, known) = match &endpoint {
            Endpoint::Address(address) => (vec![Address::new(Place::Inet(*address))], true),
            Endpoint::Unix(path) => (vec![Address::new(Place::Unix(path.clone()))], true),
            Endpoint::Name { .. } => (Vec::new(), false),
        };
        let status = if known { OriginStatus::Up } else { OriginStatus::Unresolved };
        OriginState {
            address,
            endpoint,
            resolved: ArcSwap::from_pointee(resolved),
            next_address: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            weight: AtomicU16::new(0),
            last_error: Mutex::default(),
            standing: Mutex::new(Standing { status, since: Timestamp::now(), reason: None }),
            up_since: AtomicU64::new(ticks()),
            active: AtomicU32::new(0),
            most: AtomicU32::new(u32::MAX),
            looked_up: watch::Sender::new(known),
            http11_until: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            passed_checks: AtomicU64::new(0),
            failed_checks: AtomicU64::new(0),
            times: Times::default(),
            latency: Latency::default(),
            told: Mutex::default(),
        }
    }

    pub fn status(&self) -> OriginStatus {
        let resolved = self.resolved.load();
        if self.draining.load(Ordering::Relaxed) {
            OriginStatus::Draining
        } else if resolved.is_empty() {
            OriginStatus::Unresolved
        } else if resolved.iter().any(|address| address.is_usable()) {
            OriginStatus::Up
        } else if resolved.iter().any(|address| address.is_up()) {
            OriginStatus::Ejected
        } else {
            OriginStatus::Down
        }
    }

    /// How it stands, as far as that was noted.
    pub fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    /// [`ticks`] at which it came to take requests.
    pub(super) fn up_since(&self) -> u64 {
        self.up_since.load(Ordering::Relaxed)
    }

    /// Notes how it stands now and why; a change is told. Says whether there was one. Whoever changes something of it calls this then.
    pub fn note_change(&self, pool: &str, reason: Option<&str>) -> bool {
        let mut standing = self.standing.lock();
        let (was, status) = (standing.status, self.status());
        if status == was {
            return false;
        }
        // Whoever notes it first: a check may be before the one who has ended it.
        let is_back = was == OriginStatus::Ejected && status == OriginStatus::Up;
        let reason = if is_back { Some("its ejection is over") } else { reason };
        let now = Timestamp::now();
        let lasted = now.since(standing.since).as_secs();
        *standing = Standing { status, since: now, reason: reason.map(str::to_owned) };
        let origin = &self.address;
        match status {
            OriginStatus::Up => {
                self.up_since.store(ticks(), Ordering::Relaxed);
                if was != OriginStatus::Unresolved {
                    tracing::info!(pool, %origin, ?was, seconds = lasted, "origin is up");
                }
            }
            OriginStatus::Down => tracing::warn!(pool, %origin, error = reason, "origin is down"),
            OriginStatus::Draining => tracing::info!(pool, %origin, by = reason, "origin is draining"),
            // Told of with more than is known here.
            OriginStatus::Ejected | OriginStatus::Unresolved => {}
        }
        true
    }

    /// One of its addresses that were not tried, each in turn: one that takes requests, else one that is only ejected. Those that are
    /// down are better than none if all are.
    pub(super) fn pick_address(&self, was_tried: impl Fn(&Address) -> bool) -> Option<Arc<Address>> {
        let resolved = self.resolved.load();
        let turn = self.next_address.fetch_add(1, Ordering::Relaxed).checked_rem(resolved.len())?;
        let find = |is_one: &dyn Fn(&Address) -> bool| {
            let mut in_turn = resolved[turn..].iter().chain(&resolved[..turn]);
            in_turn.find(|address| is_one(address) && !was_tried(address)).cloned()
        };
        let all_are_down = || !resolved.iter().any(|address| address.is_up());
        find(&Address::is_usable)
            .or_else(|| find(&Address::is_up))
            .or_else(|| if all_are_down() { find(&|_| true) } else { None })
    }

    /// One that is of the other family than this one, and takes requests or is only ejected.
    pub(super) fn other_family(&self, than: &Address) -> Option<Arc<Address>> {
        let is_v4 = than.place.ip()?.is_ipv4();
        let is_other =
            |other: &&Arc<Address>| other.is_usable() && other.place.ip().is_some_and(|ip| ip.is_ipv4() != is_v4);
        self.resolved.load().iter().find(is_other).cloned()
    }

    /// Whether [`OriginState::pick_address`] would find one.
    pub(super) fn has_address(&self, was_tried: impl Fn(&Address) -> bool) -> bool {
        let resolved = self.resolved.load();
        let all_are_down = !resolved.iter().any(|address| address.is_up());
        resolved.iter().any(|address| (address.is_up() || all_are_down) && !was_tried(address))
    }

    pub(super) fn resolved(&self) -> arc_swap::Guard<Arc<Vec<Arc<Address>>>> {
        self.resolved.load()
    }

    pub fn addresses(&self) -> Vec<Place> {
        self.resolved.load().iter().map(|address| address.place.clone()).collect()
    }

    /// Those that requests are not sent to for now.
    pub fn addresses_down(&self) -> Vec<Place> {
        let resolved = self.resolved.load();
        resolved.iter().filter(|address| !address.is_usable()).map(|address| address.place.clone()).collect()
    }

    /// Takes over what its name stands for now. What stays keeps its health.
    pub fn set_addresses(&self, places: &[Place]) {
        let before = self.resolved.load();
        let kept = |place: &Place| before.iter().find(|address| address.place == *place).cloned();
        let now = places.iter().map(|place| kept(place).unwrap_or_else(|| Address::new(place.clone()))).collect();
        self.resolved.store(Arc::new(now));
    }

    /// Notes that a look-up of its name has ended.
    pub fn set_looked_up(&self) {
        self.looked_up.send_replace(true);
    }

    /// Waits for the first look-up of its name.
    pub async fn looked_up(&self) {
        // An error means that the origin is gone, and with it the wait.
        let _ = self.looked_up.subscribe().wait_for(|done| *done).await;
    }

    /// Whether it is to be asked by HTTP/1.1, whatever its pool says.
    pub fn wants_http11(&self) -> bool {
        ticks() < self.http11_until.load(Ordering::Relaxed)
    }

    pub fn remember_http11(&self) {
        self.http11_until.store(ticks() + HTTP11_FOR, Ordering::Relaxed);
    }

    pub(super) fn obey(&self, order: Order) {
        self.draining.store(order.draining, Ordering::Relaxed);
        self.weight.store(order.weight.unwrap_or(0), Ordering::Relaxed);
    }

    /// Instead of the configured one.
    pub fn ordered_weight(&self) -> Option<u16> {
        Some(self.weight.load(Ordering::Relaxed)).filter(|weight| *weight > 0)
    }

    pub(super) fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }

    pub(super) fn set_most(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// A request failed. How many have since the last time that this was to be told; `None`: that is not long ago.
    pub fn failed(&self, error: &str) -> Option<u64> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        *self.last_error.lock() = Some(error.to_owned());
        let mut told = self.told.lock();
        let now = ticks();
        if told.1 > 0 && now < told.0 + TELL_EVERY {
            return None;
        }
        let since = failures - told.1;
        *told = (now, failures);
        Some(since)
    }

    pub(super) fn set_error(&self, error: Option<&str>) {
        *self.last_error.lock() = error.map(str::to_owned);
    }

    /// Takes the result of a health check into account.
    pub fn checked(&self, of: &Place, result: Result<(), &str>, rise: u32, fall: u32) {
        let Some(address) = self.find(of) else { return };
        address.checked(result.is_ok(), rise, fall);
        let counter = if result.is_ok() { &self.passed_checks } else { &self.failed_checks };
        counter.fetch_add(1, Ordering::Relaxed);
        if address.is_up() || result.is_err() {
            self.set_error(result.err());
        }
    }

    /// Whether one of its addresses is about to come up or to go down.
    pub(super) fn is_undecided(&self) -> bool {
        self.resolved.load().iter().any(|address| address.is_undecided())
    }

    /// Brings it up without asking: when the configuration no longer has a health check for it.
    pub fn assume_up(&self) {
        self.resolved.load().iter().for_each(|address| address.assume_up());
        self.set_error(None);
    }

    /// Ends all ejections: when nobody looks after them any more.
    pub(super) fn end_ejections(&self) {
        self.resolved.load().iter().for_each(|address| _ = address.record.let_back(u64::MAX));
    }

    fn find(&self, place: &Place) -> Option<Arc<Address>> {
        self.resolved.load().iter().find(|address| address.place == *place).cloned()
    }
}

/// Counts a request as active for as long as it lives.
#[derive(Debug)]
pub struct ActiveGuard {
    origin: Arc<OriginState>,
    /// Who is called when it ends.
    queue: Option<Arc<Queue>>,
}

impl ActiveGuard {
    /// One more, unless there are as many as may be.
    pub(super) fn new(origin: Arc<OriginState>, queue: &Option<Arc<Queue>>) -> Option<Self> {
        match origin.most() {
            u32::MAX => _ = origin.active.fetch_add(1, Ordering::Relaxed),
            most => {
                let one_more = |active: u32| (active < most).then_some(active + 1);
                origin.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
            }
        }
        origin.requests.fetch_add(1, Ordering::Relaxed);
        Some(ActiveGuard { origin, queue: queue.clone() })
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.origin.active.fetch_sub(1, Ordering::SeqCst);
        self.queue.iter().for_each(|queue| queue.call());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Place {
        Place::Inet(text.parse().unwrap())
    }

    fn origin() -> OriginState {
        OriginState::new("127.0.0.1:1".into(), Endpoint::Address("127.0.0.1:1".parse().unwrap()))
    }

    fn named_origin() -> OriginState {
        OriginState::new("app.internal:80".into(), Endpoint::Name { host: "app.internal".into(), port: 80 })
    }

    #[test]
    fn a_name_is_unusable_until_it_is_resolved_and_its_addresses_take_turns() {
        let origin = named_origin();
        let picked = || origin.pick_address(|_| false).map(|address| address.place.clone());
        assert_eq!((origin.status(), picked()), (OriginStatus::Unresolved, None));
        let addresses = [at("10.0.0.1:80"), at("10.0.0.2:80")];
        origin.set_addresses(&addresses);
        assert_eq!(origin.status(), OriginStatus::Up);
        assert_ne!(picked(), picked());
        for _ in 0..3 {
            assert_eq!(origin.pick_address(|tried| tried.place == addresses[0]).unwrap().place, addresses[1]);
        }
        origin.obey(Order { draining: true, ..Order::default() });
        assert_eq!(origin.status(), OriginStatus::Draining);
    }

    #[test]
    fn a_dead_address_takes_no_requests_and_its_origin_not_down() {
        let origin = named_origin();
        let [dead, well] = [at("[::1]:80"), at("10.0.0.2:80")];
        origin.set_addresses(&[dead.clone(), well.clone()]);
        (0..3).for_each(|_| origin.find(&dead).unwrap().connection_failed(3));
        assert_eq!(origin.status(), OriginStatus::Up);
        for _ in 0..4 {
            assert_eq!(origin.pick_address(|_| false).unwrap().place, well);
        }
        assert!(!origin.has_address(|tried| tried.place == well));
        assert_eq!(origin.addresses_down(), std::slice::from_ref(&dead));
        origin.set_addresses(&[dead.clone(), well, at("10.0.0.3:80")]);
        assert_eq!(origin.addresses_down(), std::slice::from_ref(&dead), "health is kept");
        origin.set_addresses(std::slice::from_ref(&dead));
        assert_eq!((origin.status(), &origin.pick_address(|_| false).unwrap().place), (OriginStatus::Down, &dead));
        let checked = |result| {
            origin.checked(&dead, result, 2, 3);
            (origin.status(), origin.last_error())
        };
        assert_eq!(checked(Err("refused")), (OriginStatus::Down, Some("refused".to_owned())));
        assert_eq!(checked(Ok(())).0, OriginStatus::Down);
        assert_eq!(checked(Ok(())), (OriginStatus::Up, None));
    }

    #[test]
    fn what_is_ejected_is_asked_when_the_others_fail() {
        let origin = named_origin();
        let [ejected, failing] = [at("10.0.0.1:80"), at("10.0.0.2:80")];
        origin.set_addresses(&[ejected.clone(), failing.clone()]);
        let record = &origin.find(&ejected).unwrap().record;
        record.eject(std::time::Duration::from_secs(10), ticks(), 0.0);
        for _ in 0..4 {
            assert_eq!(origin.pick_address(|_| false).unwrap().place, failing);
            assert_eq!(origin.pick_address(|tried| tried.place == failing).unwrap().place, ejected);
        }
        assert!(origin.has_address(|tried| tried.place == failing) && !origin.has_address(|_| true));
    }

    #[test]
    fn the_guard_counts_active_requests() {
        let origin = Arc::new(origin());
        let guard = |most| {
            origin.set_most(most);
            ActiveGuard::new(origin.clone(), &None)
        };
        let guards = [guard(u32::MAX).unwrap(), guard(2).unwrap()];
        assert!(guard(2).is_none(), "no more than that");
        assert_eq!(origin.active(), 2);
        drop(guards);
        assert_eq!(origin.active(), 0);
    }
}
