//! What is known of one origin at run time. It outlives configurations: a reload that keeps an origin keeps
//! its health, its drain and its count of active requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::model::Endpoint;

/// One origin of one pool.
#[derive(Debug)]
pub struct OriginState {
    /// As configured, `HOST:PORT`.
    pub address: Arc<str>,
    pub endpoint: Endpoint,
    /// Where it is now; empty while its name has not been resolved.
    resolved: ArcSwap<Vec<SocketAddr>>,
    next_address: AtomicUsize,
    draining: AtomicBool,
    health: Mutex<Health>,
    up: AtomicBool,
    active: AtomicU32,
    /// Connections for requests that failed, with none that was made in between.
    failed_connections: AtomicU32,
    /// Whether its name has been looked up at least once, with whatever result.
    looked_up: watch::Sender<bool>,
    pub requests: AtomicU64,
    pub failures: AtomicU64,
}

#[derive(Debug, Default)]
struct Health {
    successes: u32,
    failures: u32,
    last_error: Option<String>,
}

/// How an origin stands, for the admin API and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginStatus {
    Up,
    Down,
    Draining,
    /// Its name could not be resolved yet.
    Unresolved,
}

/// A change of health worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthChange {
    Up,
    Down,
}

impl OriginState {
    pub fn new(address: Arc<str>, endpoint: Endpoint) -> Self {
        let known = matches!(endpoint, Endpoint::Address(_));
        let resolved = match &endpoint {
            Endpoint::Address(address) => vec![*address],
            Endpoint::Name { .. } => Vec::new(),
        };
        OriginState {
            address,
            endpoint,
            resolved: ArcSwap::from_pointee(resolved),
            next_address: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            health: Mutex::default(),
            up: AtomicBool::new(true),
            active: AtomicU32::new(0),
            failed_connections: AtomicU32::new(0),
            looked_up: watch::Sender::new(known),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    pub fn status(&self) -> OriginStatus {
        if self.draining.load(Ordering::Relaxed) {
            OriginStatus::Draining
        } else if self.resolved.load().is_empty() {
            OriginStatus::Unresolved
        } else if self.up.load(Ordering::Relaxed) {
            OriginStatus::Up
        } else {
            OriginStatus::Down
        }
    }

    /// An address of it, each in turn.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        let resolved = self.resolved.load();
        let turn = self.next_address.fetch_add(1, Ordering::Relaxed);
        resolved.get(turn.checked_rem(resolved.len())?).copied()
    }

    pub fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.resolved.load_full()
    }

    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.resolved.store(Arc::new(addresses));
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

    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub fn last_error(&self) -> Option<String> {
        self.health.lock().last_error.clone()
    }

    /// A connection for a request was made.
    pub fn connected(&self) {
        if self.failed_connections.load(Ordering::Relaxed) != 0 {
            self.failed_connections.store(0, Ordering::Relaxed);
        }
    }

    /// A connection for a request could not be made; `fall` of them in a row take it down.
    pub fn connection_failed(&self, error: String, fall: u32) -> Option<HealthChange> {
        let failed = self.failed_connections.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failed < fall || !self.up.swap(false, Ordering::Relaxed) {
            return None;
        }
        let mut health = self.health.lock();
        health.successes = 0;
        health.last_error = Some(error);
        Some(HealthChange::Down)
    }

    /// Takes the result of a health check into account.
    pub fn record(&self, result: Result<(), String>, rise: u32, fall: u32) -> Option<HealthChange> {
        let mut health = self.health.lock();
        let up = self.up.load(Ordering::Relaxed);
        match result {
            Ok(()) => {
                health.failures = 0;
                health.successes = health.successes.saturating_add(1);
                if up {
                    health.last_error = None;
                } else if health.successes >= rise {
                    health.last_error = None;
                    self.up.store(true, Ordering::Relaxed);
                    return Some(HealthChange::Up);
                }
            }
            Err(error) => {
                health.successes = 0;
                health.failures = health.failures.saturating_add(1);
                health.last_error = Some(error);
                if up && health.failures >= fall {
                    self.up.store(false, Ordering::Relaxed);
                    return Some(HealthChange::Down);
                }
            }
        }
        None
    }

    /// Brings it up without asking: when the configuration no longer has a health check for it.
    pub fn assume_up(&self) {
        *self.health.lock() = Health::default();
        self.connected();
        self.up.store(true, Ordering::Relaxed);
    }
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

    fn origin() -> OriginState {
        OriginState::new("127.0.0.1:1".into(), Endpoint::Address("127.0.0.1:1".parse().unwrap()))
    }

    #[test]
    fn health_changes_after_rise_or_fall_in_a_row() {
        let origin = origin();
        let ok = || Ok(());
        let bad = || Err("refused".to_owned());
        for (result, change, status) in [
            (bad(), None, OriginStatus::Up),
            (bad(), None, OriginStatus::Up),
            (ok(), None, OriginStatus::Up),
            (bad(), None, OriginStatus::Up),
            (bad(), None, OriginStatus::Up),
            (bad(), Some(HealthChange::Down), OriginStatus::Down),
            (bad(), None, OriginStatus::Down),
            (ok(), None, OriginStatus::Down),
            (bad(), None, OriginStatus::Down),
            (ok(), None, OriginStatus::Down),
            (ok(), Some(HealthChange::Up), OriginStatus::Up),
        ] {
            assert_eq!(origin.record(result, 2, 3), change);
            assert_eq!(origin.status(), status);
        }
        assert_eq!(origin.last_error(), None);
    }

    #[test]
    fn failed_connections_count_in_a_row_only() {
        let origin = origin();
        let refused = || origin.connection_failed("refused".into(), 3);
        assert_eq!([refused(), refused()], [None, None]);
        origin.connected();
        assert_eq!([refused(), refused(), refused()], [None, None, Some(HealthChange::Down)]);
        assert_eq!((origin.status(), origin.last_error().as_deref()), (OriginStatus::Down, Some("refused")));
        assert_eq!(refused(), None, "told once");
    }

    #[test]
    fn a_name_is_unusable_until_it_is_resolved_and_its_addresses_take_turns() {
        let endpoint = Endpoint::Name { host: "app.internal".into(), port: 80 };
        let origin = OriginState::new("app.internal:80".into(), endpoint);
        assert_eq!((origin.status(), origin.socket_address()), (OriginStatus::Unresolved, None));
        origin.set_addresses(vec!["10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap()]);
        assert_eq!(origin.status(), OriginStatus::Up);
        assert_ne!(origin.socket_address(), origin.socket_address());
        origin.set_draining(true);
        assert_eq!(origin.status(), OriginStatus::Draining);
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
