//! What is known of one origin at run time. It outlives configurations: a reload that keeps an origin keeps
//! its health, its drain and its count of active requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::ticks;
use crate::config::model::Endpoint;

use super::balance::p2c::Latency;
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
    last_error: Mutex<Option<String>>,
    active: AtomicU32,
    /// Whether its name has been looked up at least once, with whatever result.
    looked_up: watch::Sender<bool>,
    /// It has said that it wants HTTP/1.1 (RFC 9113 section 7), and answered by that: until when it is asked so, [`ticks`].
    http11_until: AtomicU64,
    pub requests: AtomicU64,
    pub failures: AtomicU64,
    pub(crate) times: Times,
    /// What it takes for a request of late, for [`Balance::P2c`](crate::config::model::Balance).
    pub(super) latency: Latency,
    /// When its failures were told of last, [`ticks`], and how many there were then.
    told: Mutex<(u64, u64)>,
}

/// One of the addresses that an origin's name stands for. Each has a health of its own: one of them may be dead, as
/// IPv6 is on many hosts.
#[derive(Debug)]
struct Address {
    socket: SocketAddr,
    up: AtomicBool,
    /// Failures of health checks and of connections for requests, or successes, in a row.
    row: Mutex<Row>,
}

#[derive(Debug, Default)]
struct Row {
    successes: u32,
    failures: u32,
    /// Connections for requests that failed, with none that was made in between.
    failed_connections: u32,
}

/// How an origin stands, for the admin API and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginStatus {
    Up,
    /// None of its addresses is up.
    Down,
    Draining,
    /// Its name could not be resolved yet.
    Unresolved,
}

impl Address {
    fn new(socket: SocketAddr) -> Arc<Self> {
        Arc::new(Address { socket, up: AtomicBool::new(true), row: Mutex::default() })
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }
}

impl OriginState {
    pub fn new(address: Arc<str>, endpoint: Endpoint) -> Self {
        let (resolved, known) = match &endpoint {
            Endpoint::Address(address) => (vec![Address::new(*address)], true),
            Endpoint::Name { .. } => (Vec::new(), false),
        };
        OriginState {
            address,
            endpoint,
            resolved: ArcSwap::from_pointee(resolved),
            next_address: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            last_error: Mutex::default(),
            active: AtomicU32::new(0),
            looked_up: watch::Sender::new(known),
            http11_until: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
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
        } else if any_is_up(&resolved) {
            OriginStatus::Up
        } else {
            OriginStatus::Down
        }
    }

    /// One of its addresses that are up and were not tried, each in turn; of those that are down only if all are.
    pub fn socket_address(&self, was_tried: impl Fn(SocketAddr) -> bool) -> Option<SocketAddr> {
        let resolved = self.resolved.load();
        let turn = self.next_address.fetch_add(1, Ordering::Relaxed).checked_rem(resolved.len())?;
        let in_turn = resolved[turn..].iter().chain(&resolved[..turn]);
        let any_is_up = any_is_up(&resolved);
        let mut usable = in_turn.filter(|address| address.is_up() || !any_is_up).map(|address| address.socket);
        usable.find(|socket| !was_tried(*socket))
    }

    /// Whether [`OriginState::socket_address`] would find one.
    pub fn has_address(&self, was_tried: impl Fn(SocketAddr) -> bool) -> bool {
        let resolved = self.resolved.load();
        let any_is_up = any_is_up(&resolved);
        resolved.iter().any(|address| (address.is_up() || !any_is_up) && !was_tried(address.socket))
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.resolved.load().iter().map(|address| address.socket).collect()
    }

    /// Those that requests are not sent to for now.
    pub fn addresses_down(&self) -> Vec<SocketAddr> {
        self.resolved.load().iter().filter(|address| !address.is_up()).map(|address| address.socket).collect()
    }

    /// Takes over what its name stands for now. What stays keeps its health.
    pub fn set_addresses(&self, addresses: &[SocketAddr]) {
        let before = self.resolved.load();
        let kept = |socket: &SocketAddr| before.iter().find(|address| address.socket == *socket).cloned();
        let now = addresses.iter().map(|socket| kept(socket).unwrap_or_else(|| Address::new(*socket))).collect();
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

    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
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

    /// A connection for a request was made.
    pub fn connected(&self, to: SocketAddr) {
        if let Some(address) = self.find(to) {
            address.row.lock().failed_connections = 0;
        }
    }

    /// A connection for a request could not be made; `fall` of them in a row take the address down. Gives how the origin stands,
    /// if that has changed.
    pub fn connection_failed(&self, to: SocketAddr, error: &str, fall: u32) -> Option<OriginStatus> {
        let address = self.find(to)?;
        let mut row = address.row.lock();
        row.failed_connections = row.failed_connections.saturating_add(1);
        if row.failed_connections < fall || !address.is_up() {
            return None;
        }
        row.successes = 0;
        *self.last_error.lock() = Some(error.to_owned());
        self.turn(&address, false)
    }

    /// Takes the result of a health check into account, likewise.
    pub fn record(&self, of: SocketAddr, result: Result<(), &str>, rise: u32, fall: u32) -> Option<OriginStatus> {
        let address = self.find(of)?;
        let mut row = address.row.lock();
        let up = match result {
            Ok(()) => {
                *row = Row { successes: row.successes.saturating_add(1), ..Row::default() };
                address.is_up() || row.successes >= rise
            }
            Err(_) => {
                (row.successes, row.failures) = (0, row.failures.saturating_add(1));
                address.is_up() && row.failures < fall
            }
        };
        if up || result.is_err() {
            *self.last_error.lock() = result.err().map(str::to_owned);
        }
        self.turn(&address, up)
    }

    /// Tells of a change of its health.
    pub fn tell(&self, now: OriginStatus, pool: &str, error: Option<&str>) {
        match now {
            OriginStatus::Up => tracing::info!(pool, origin = %self.address, "origin is up"),
            _ => tracing::warn!(pool, origin = %self.address, error, "origin is down"),
        }
    }

    /// Brings it up without asking: when the configuration no longer has a health check for it.
    pub fn assume_up(&self) {
        for address in self.resolved.load().iter() {
            *address.row.lock() = Row::default();
            address.up.store(true, Ordering::Relaxed);
        }
        *self.last_error.lock() = None;
    }

    fn find(&self, socket: SocketAddr) -> Option<Arc<Address>> {
        self.resolved.load().iter().find(|address| address.socket == socket).cloned()
    }

    /// Brings an address up or takes it down; gives how the origin stands, if that has changed.
    fn turn(&self, address: &Address, up: bool) -> Option<OriginStatus> {
        let before = any_is_up(&self.resolved.load());
        address.up.store(up, Ordering::Relaxed);
        let now = any_is_up(&self.resolved.load());
        (now != before).then_some(if now { OriginStatus::Up } else { OriginStatus::Down })
    }
}

fn any_is_up(addresses: &[Arc<Address>]) -> bool {
    addresses.iter().any(|address| address.is_up())
}

/// Counts a request as active for as long as it lives.
#[derive(Debug)]
pub struct ActiveGuard(Arc<OriginState>);

impl ActiveGuard {
    pub fn new(origin: Arc<OriginState>) -> Self {
        origin.active.fetch_add(1, Ordering::Relaxed);
        origin.requests.fetch_add(1, Ordering::Relaxed);
        ActiveGuard(origin)
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn origin() -> OriginState {
        OriginState::new("127.0.0.1:1".into(), Endpoint::Address(ADDRESS))
    }

    fn named_origin() -> OriginState {
        OriginState::new("app.internal:80".into(), Endpoint::Name { host: "app.internal".into(), port: 80 })
    }

    #[test]
    fn health_changes_after_rise_or_fall_in_a_row() {
        let origin = origin();
        let (ok, bad) = (Ok(()), Err("refused"));
        for (result, change, status) in [
            (bad, None, OriginStatus::Up),
            (bad, None, OriginStatus::Up),
            (ok, None, OriginStatus::Up),
            (bad, None, OriginStatus::Up),
            (bad, None, OriginStatus::Up),
            (bad, Some(OriginStatus::Down), OriginStatus::Down),
            (bad, None, OriginStatus::Down),
            (ok, None, OriginStatus::Down),
            (bad, None, OriginStatus::Down),
            (ok, None, OriginStatus::Down),
            (ok, Some(OriginStatus::Up), OriginStatus::Up),
        ] {
            assert_eq!(origin.record(ADDRESS, result, 2, 3), change);
            assert_eq!(origin.status(), status);
        }
        assert_eq!(origin.last_error(), None);
    }

    #[test]
    fn failed_connections_count_in_a_row_only() {
        let origin = origin();
        let refused = || origin.connection_failed(ADDRESS, "refused", 3);
        assert_eq!([refused(), refused()], [None, None]);
        origin.connected(ADDRESS);
        assert_eq!([refused(), refused()], [None, None]);
        origin.record(ADDRESS, Ok(()), 2, 3);
        assert_eq!([refused(), refused(), refused()], [None, None, Some(OriginStatus::Down)]);
        assert_eq!((origin.status(), origin.last_error().as_deref()), (OriginStatus::Down, Some("refused")));
        assert_eq!(refused(), None, "told once");
        (0..2).for_each(|_| _ = origin.record(ADDRESS, Ok(()), 2, 3));
        assert_eq!(origin.status(), OriginStatus::Up);
        assert_eq!([refused(), refused()], [None, None], "it begins anew");
    }

    #[test]
    fn a_name_is_unusable_until_it_is_resolved_and_its_addresses_take_turns() {
        let origin = named_origin();
        let any = |_| false;
        assert_eq!((origin.status(), origin.socket_address(any)), (OriginStatus::Unresolved, None));
        let addresses: [SocketAddr; 2] = ["10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap()];
        origin.set_addresses(&addresses);
        assert_eq!(origin.status(), OriginStatus::Up);
        assert_ne!(origin.socket_address(any), origin.socket_address(any));
        for _ in 0..3 {
            assert_eq!(origin.socket_address(|tried| tried == addresses[0]), Some(addresses[1]));
        }
        origin.set_draining(true);
        assert_eq!(origin.status(), OriginStatus::Draining);
    }

    #[test]
    fn a_dead_address_takes_no_requests_and_its_origin_not_down() {
        let origin = named_origin();
        let [dead, well]: [SocketAddr; 2] = ["[::1]:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap()];
        origin.set_addresses(&[dead, well]);
        let refused = || origin.connection_failed(dead, "refused", 3);
        assert_eq!([refused(), refused(), refused()], [None, None, None], "the origin is up");
        for _ in 0..4 {
            assert_eq!(origin.socket_address(|_| false), Some(well));
        }
        assert!(!origin.has_address(|tried| tried == well));
        assert_eq!(origin.addresses_down(), [dead]);
        origin.set_addresses(&[dead, well, "10.0.0.3:80".parse().unwrap()]);
        assert_eq!(origin.addresses_down(), [dead], "health is kept");
        origin.set_addresses(&[dead]);
        assert_eq!((origin.status(), origin.socket_address(|_| false)), (OriginStatus::Down, Some(dead)));
        let ok = || origin.record(dead, Ok(()), 2, 3);
        assert_eq!([ok(), ok()], [None, Some(OriginStatus::Up)]);
    }

    #[test]
    fn the_guard_counts_active_requests() {
        let origin = Arc::new(origin());
        let guards = [ActiveGuard::new(origin.clone()), ActiveGuard::new(origin.clone())];
        assert_eq!(origin.active(), 2);
        drop(guards);
        assert_eq!(origin.active(), 0);
    }
}
