//! Passive health: an address that fails requests is ejected from its pool for a while. What requests come to is enough for it; a
//! health check may look at what they do not.
//!
//! - Failures in a row eject at once, of as many different requests: no URL ejects an origin by itself.
//! - Once a second each address is compared with the others of its pool ([`outliers`]).
//! - Where most requests fail wherever they are sent, none is ejected, and never more than `max_ejected` of a pool.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::ticks;
use crate::config::model::Passive;
use crate::config::units::format_duration;

use super::address::Address;
use super::error::FailureKind;
use super::outliers::{self, DISTINCT, INTERVAL, Sample, Watched};
use super::pool::PoolRuntime;
use super::record::Evidence;
use super::state::OriginState;

impl PoolRuntime {
    /// The head of an answer has come; `error`: it says that the origin is ill.
    pub(super) fn answered(
        &self,
        origin: &OriginState,
        address: &Address,
        took: Option<Duration>,
        ill: Option<(Evidence, &str)>,
    ) {
        address.record.asked(took);
        if let Some((evidence, error)) = ill {
            origin.failures.fetch_add(1, Ordering::Relaxed);
            self.count_failure(origin, address, evidence, error);
        }
    }

    /// An exchange brought no answer. One whose connection could not even be made counts as a failed health check where there
    /// is one that can bring the origin up again, so that a dead origin is known at once. Without `evidence` it may be no fault of
    /// its own.
    pub(super) fn unanswered(
        &self,
        origin: &OriginState,
        address: &Address,
        kind: FailureKind,
        evidence: Option<Evidence>,
        error: &str,
    ) {
        if kind == FailureKind::Ours {
            return;
        }
        self.tell_failure(origin, error);
        let evidence = match (&self.config.health, kind) {
            // Another port says nothing of this one.
            (Some(check), FailureKind::Connecting) if check.port.is_none() => {
                address.connection_failed(check.fall);
                self.changed(origin, Some(error));
                None
            }
            (_, FailureKind::Connecting) => Some(Evidence::Connection),
            _ => evidence,
        };
        if let Some(evidence) = evidence {
            address.record.asked(None);
            self.count_failure(origin, address, evidence, error);
        }
    }

    /// An answer broke off.
    pub(super) fn broke_off(&self, origin: &OriginState, address: &Address, evidence: Evidence, error: &str) {
        self.tell_failure(origin, error);
        self.count_failure(origin, address, evidence, error);
    }

    fn tell_failure(&self, origin: &OriginState, error: &str) {
        if let Some(failures) = origin.failed(error) {
            let pool = &self.config.name;
            tracing::warn!(%pool, origin = %origin.address, failures, error, "requests to an origin fail");
        }
    }

    fn count_failure(&self, origin: &OriginState, address: &Address, evidence: Evidence, error: &str) {
        let Some(passive) = &self.config.passive else { return };
        let now = ticks();
        let row = address.record.failed(evidence, now);
        if row.failures >= passive.failures && row.distinct >= DISTINCT.min(passive.failures as usize) {
            let why = format!("{} requests in a row failed, the last: {error}", row.failures);
            self.eject(passive, origin, address, &why, now);
        }
    }

    /// Ejects an address, if that is allowed.
    fn eject(&self, passive: &Passive, origin: &OriginState, address: &Address, why: &str, now: u64) {
        let watched = self.watched.lock(); // one at a time: the number of those that are ejected holds
        let samples: Vec<Option<Sample>> = watched.iter().map(|watched| watched.sample(now)).collect();
        let own = watched.iter().position(|watched| std::ptr::eq(&raw const *watched.address, address));
        let is_fault_of_all = own.is_some_and(|own| outliers::all_fail(&samples, own));
        if address.record.is_ejected() || is_fault_of_all || !self.may_eject_one(passive) {
            return;
        }
        let time = address.record.eject(passive.eject_for, now, fastrand::f64());
        origin.ejections.fetch_add(1, Ordering::Relaxed);
        drop(watched);
        let (pool, time) = (&self.config.name, format_duration(Duration::from_secs(time.as_secs())));
        tracing::warn!(%pool, origin = %origin.address, address = %address.place, why, "origin is ejected for {time}");
        self.changed(origin, Some(why));
    }

    fn may_eject_one(&self, passive: &Passive) -> bool {
        let (mut all, mut ejected) = (0, 0);
        for member in self.members().iter() {
            let resolved = member.origin.resolved();
            all += resolved.len();
            ejected += resolved.iter().filter(|address| address.record.is_ejected()).count();
        }
        ejected < passive.max_ejected.of(all)
    }

    /// Lets those back whose time has come, and looks for one that does worse than the others.
    fn look(&self, passive: &Passive, now: u64) {
        let name = &self.config.name;
        let mut all = Vec::new();
        for origin in self.members().iter().map(|member| &member.origin) {
            for address in origin.resolved().iter() {
                if address.record.let_back(now) {
                    tracing::info!(pool = %name, origin = %origin.address, address = %address.place, "an ejection is over");
                    self.changed(origin, None);
                }
                all.push((origin.clone(), address.clone()));
            }
        }
        let samples: Vec<Option<Sample>> = {
            let mut watched = self.watched.lock();
            let of = |address: &Arc<Address>| Arc::as_ptr(address);
            let before = std::mem::take(&mut *watched);
            let mut before: HashMap<*const Address, Watched> =
                before.into_iter().map(|watched| (of(&watched.address), watched)).collect();
            for (_, address) in &all {
                let history = before.remove(&of(address)).map(Watched::into_history);
                watched.push(Watched::new(address.clone(), history));
            }
            let samples = watched.iter().map(|watched| watched.sample(now)).collect();
            watched.iter_mut().for_each(Watched::remember);
            samples
        };
        if let Some((at, outlier)) = outliers::worst(passive, &samples) {
            let (origin, address) = &all[at];
            self.eject(passive, origin, address, &outlier.to_string(), now);
        }
    }
}

/// Looks after the ejections of a pool for ever, and after what changes by itself: slow starts, what has come back, and what requests
/// of the configuration before have found out.
pub(super) async fn watch(pool: Arc<PoolRuntime>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Some(passive) = &pool.config.passive {
            pool.look(passive, ticks());
        }
        pool.let_go();
        pool.refresh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::PoolId;
    use crate::origin::pick::{Choice, Tried};
    use crate::origin::pool::PoolSet;
    use crate::origin::pool::tests::origin;
    use crate::origin::state::OriginStatus::{Ejected, Up};
    use crate::plan::tests::config;

    fn pool(origins: usize, rest: &str) -> PoolSet {
        let origins: Vec<String> = (1..=origins).map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let text = format!("[pool.app]\norigins = [{}]\n{rest}", origins.join(", "));
        PoolSet::build(&config(&text).pools, None, None)
    }

    /// Lets so many requests fail at an origin, of as many different ones.
    fn fail(pool: &PoolRuntime, origin: usize, times: u64) {
        let origin = &pool.members().all[origin].origin.clone();
        for number in 0..times {
            let address = origin.resolved()[0].clone();
            pool.unanswered(origin, &address, FailureKind::Broken, Some(Evidence::Of(number)), "reset");
        }
    }

    fn standing(pool: &PoolRuntime) -> Vec<super::super::state::OriginStatus> {
        pool.members().iter().map(|member| member.origin.status()).collect()
    }

    #[test]
    fn failures_in_a_row_eject_and_time_lets_back() {
        let set = pool(3, "passive = { eject_for = \"10s\" }");
        let pool = set.by_name("app").unwrap();
        fail(pool, 0, 4);
        assert_eq!(standing(pool), [Up, Up, Up]);
        origin(pool, 0).resolved()[0].record.succeeded();
        fail(pool, 0, 4);
        assert_eq!(standing(pool), [Up, Up, Up], "not in a row");
        fail(pool, 0, 1);
        assert_eq!(standing(pool), [Ejected, Up, Up]);
        for _ in 0..6 {
            assert_ne!(
                set.pick(PoolId(0), Choice::default(), &Tried::new()).origin().unwrap().member.config.address.as_ref(),
                "127.0.0.1:1"
            );
        }
        let passive = pool.config.passive.clone().unwrap();
        pool.look(&passive, ticks() + 9_000);
        assert_eq!(standing(pool)[0], Ejected);
        pool.look(&passive, ticks() + 12_100);
        assert_eq!(standing(pool)[0], Up);
    }

    #[test]
    fn one_url_ejects_nobody_and_never_too_many_are_ejected() {
        for (origins, max_ejected, expected) in
            [(1, 0.5, 0), (2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (4, 0.0, 0), (4, 1.0, 4), (9, 0.34, 3)]
        {
            let set = pool(origins, &format!("passive = {{ max_ejected = {max_ejected} }}"));
            let pool = set.by_name("app").unwrap();
            for origin in pool.members().iter().map(|member| &member.origin) {
                let address = origin.resolved()[0].clone();
                for _ in 0..100 {
                    pool.unanswered(origin, &address, FailureKind::Broken, Some(Evidence::Of(7)), "reset");
                }
            }
            assert!(standing(pool).iter().all(|status| *status == Up));
            (0..origins).for_each(|origin| fail(pool, origin, 5));
            let ejected = standing(pool).iter().filter(|status| **status == Ejected).count();
            assert_eq!(ejected, expected, "{origins} {max_ejected}");
            assert!(
                set.pick(PoolId(0), Choice::default(), &Tried::new()).origin().is_some(),
                "those that are ejected serve if nobody else does"
            );
        }
    }

    /// Origins that fail at random, and come back when their time is over: whatever happens, no more are ejected than may be.
    #[test]
    fn whatever_fails_no_more_are_ejected_than_may_be() {
        let mut random = fastrand::Rng::with_seed(17);
        for (origins, max_ejected) in [(1, 0.5), (2, 0.5), (5, 0.4), (10, 0.1), (20, 0.75)] {
            let set = pool(
                origins,
                &format!("passive = {{ max_ejected = {max_ejected}, eject_for = \"1s\", failures = 3 }}"),
            );
            let pool = set.by_name("app").unwrap();
            let passive = pool.config.passive.clone().unwrap();
            let mut most = 0;
            for _ in 0..2_000 {
                for origin in pool.members().iter().map(|member| &member.origin) {
                    let address = origin.resolved()[0].clone();
                    (0..9).for_each(|_| pool.answered(origin, &address, Some(Duration::from_millis(1)), None));
                }
                fail(pool, random.usize(..origins), random.u64(..6));
                // Now and then the time of all is over.
                pool.look(&passive, ticks() + if random.u8(..100) == 0 { 1_000_000 } else { 0 });
                let ejected = standing(pool).iter().filter(|status| **status == Ejected).count();
                most = most.max(ejected);
                assert!(ejected as f64 <= max_ejected * origins as f64, "{ejected} of {origins}");
            }
            assert_eq!(most, (max_ejected * origins as f64) as usize, "as many as may be, at some time");
        }
    }

    #[test]
    fn who_fails_as_the_others_do_is_not_ejected() {
        let set = pool(4, "");
        let pool = set.by_name("app").unwrap();
        pool.look(&pool.config.passive.clone().unwrap(), ticks());
        (1..4).for_each(|origin| fail(pool, origin, 3));
        fail(pool, 0, 5);
        assert_eq!(standing(pool), [Up; 4]);
    }

    #[test]
    fn without_it_nothing_is_ejected() {
        let set = pool(2, "passive = false");
        let pool = set.by_name("app").unwrap();
        fail(pool, 0, 100);
        assert_eq!(standing(pool), [Up, Up]);
    }
}
