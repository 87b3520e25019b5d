//! How old a stored response is and for how long it is fresh (RFC 9111 section 4.2).

use std::time::Duration;

use http::{HeaderMap, header};

use crate::clock::{Millis, Timestamp};
use crate::config::model::OutageWindow;
use crate::fields;

use super::control::{self, Directives};
use super::purge::Standing;
use super::reason::Basis;

/// When the exchange with the origin that stored or refreshed a response took place.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeTimes {
    pub request: Timestamp,
    pub response: Timestamp,
}

/// What is needed to know a stored response's age and freshness at any later time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Freshness {
    pub response_time: Timestamp,
    /// `corrected_initial_age` of RFC 9111 section 4.2.3.
    pub initial_age: Millis,
    pub lifetime: Millis,
    /// By what the lifetime was determined.
    pub basis: Basis,
    /// Whether it may be used stale (RFC 9111 section 4.2.4).
    pub stale_use: StaleUse,
    /// How long after its lifetime it may be served while it is refreshed (RFC 5861 section 3).
    pub stale_while_revalidate: Millis,
    /// How long after its lifetime it may be served when the origin fails (RFC 5861 section 4).
    pub stale_if_error: Millis,
}

/// Whether anything may permit that a response is used stale (RFC 9111 section 4.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum StaleUse {
    /// `must-revalidate`, `proxy-revalidate` or `no-cache` forbid it, or nobody said that it may be shared at all.
    #[default]
    Forbidden,
    Permitted,
    /// `s-maxage` implies `proxy-revalidate`. Windows that the response states itself or that are written in its route,
    /// an agreement with the origin's operator, are the more specific; nothing else permits it.
    ByWindowOnly,
}

/// What a clock may go back by without anything being taken for older than it is.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// What may be done with a stored response now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usability {
    /// May be served.
    Fresh { ttl: Duration },
    /// May be served, but must be refreshed at once in the background.
    StaleWhileRevalidate { stale_for: Duration },
    /// Must be validated; may be served if that fails.
    StaleIfError { stale_for: Duration },
    /// Must be validated.
    Stale { stale_for: Duration },
}

impl Freshness {
    /// `current_age` of RFC 9111 section 4.2.3.
    pub fn current_age(&self, now: Timestamp) -> Duration {
        self.age(now).into()
    }

    /// How long it is still fresh; zero if it is not.
    pub fn ttl(&self, now: Timestamp) -> Duration {
        self.lifetime.saturating_sub(self.age(now)).into()
    }

    fn age(&self, now: Timestamp) -> Millis {
        self.initial_age.saturating_add(Millis::between(self.response_time, now))
    }

    /// Whether it may go to all who waited for it. They asked before it came, so whoever gave it a lifetime above zero
    /// gave it to them, though that may be over as it comes. Without one, each request must ask for itself.
    pub fn may_be_shared(&self, now: Timestamp) -> bool {
        !self.lifetime.is_zero() || matches!(self.usability_unpurged(now), Usability::StaleWhileRevalidate { .. })
    }

    /// Which rule decides whether it may be used stale, for people to read.
    pub fn stale_rule(&self) -> &'static str {
        let has_window = !self.stale_while_revalidate.is_zero() || !self.stale_if_error.is_zero();
        if self.basis == Basis::NegativeTtl {
            return match has_window {
                true => "by windows of the rule that gives it its lifetime, and by nothing else",
                false => "never: a redirect or an error is not to outlive the lifetime that the route gives it",
            };
        }
        match (self.stale_use, has_window, self.lifetime.is_zero()) {
            (StaleUse::Forbidden, ..) => "never: must-revalidate, proxy-revalidate, no-cache or no stated lifetime",
            (_, true, true) => "by the response's own windows alone: a lifetime of 0 gets none from the route",
            (_, false, true) => "never: a lifetime of 0, which windows of the route do not prolong",
            (StaleUse::ByWindowOnly, true, _) => "by windows of the response or the route, which override s-maxage",
            (StaleUse::ByWindowOnly, false, _) => "only by a stated stale_if_unreachable: s-maxage forbids all else",
            (StaleUse::Permitted, true, _) => "by windows of the response or the route, and stale_if_unreachable",
            (StaleUse::Permitted, false, _) => "by stale_if_unreachable",
        }
    }

    /// Whether a client may say that it takes it stale (`max-stale`).
    pub fn may_be_stale_for_clients(&self) -> bool {
        self.stale_use == StaleUse::Permitted && !self.lifetime.is_zero()
    }

    /// Whether it may be used though it is stale, since no origin can be reached: a cache that is disconnected may (RFC
    /// 9111 section 4.2.4), for the time its route gives it.
    pub fn outlasts_origins(&self, window: OutageWindow, standing: Standing, now: Timestamp) -> bool {
        let permitted = match self.stale_use {
            StaleUse::Forbidden => false,
            StaleUse::Permitted => true,
            StaleUse::ByWindowOnly => window.is_stated,
        };
        let stale_for = if self.is_ahead(now) { Millis::ZERO } else { self.stale_for(now) };
        let stale_for = match standing {
            Standing::Dead => return false,
            Standing::Live => stale_for,
            Standing::SoftPurged { since } => stale_for.max(Millis::between(since, now)),
        };
        // An error is not to outlive the time that the operator gave it.
        let is_error = self.basis == Basis::NegativeTtl;
        permitted && !is_error && !self.lifetime.is_zero() && stale_for < window.length.into()
    }

    /// What may be done with it; `None`: a purge has killed it.
    pub fn usability(&self, standing: Standing, now: Timestamp) -> Option<Usability> {
        match standing {
            Standing::Dead => None,
            Standing::Live => Some(self.usability_unpurged(now)),
            Standing::SoftPurged { since } => {
                Some(self.usability_when_stale(self.stale_for(now).max(Millis::between(since, now))))
            }
        }
    }

    /// What may be done with it as far as time tells.
    pub fn usability_unpurged(&self, now: Timestamp) -> Usability {
        if self.is_ahead(now) {
            let validated = Freshness { stale_while_revalidate: Millis::ZERO, ..*self };
            return validated.usability_when_stale(Millis::ZERO);
        }
        match self.ttl(now) {
            ttl if ttl.is_zero() => self.usability_when_stale(self.stale_for(now)),
            ttl => Usability::Fresh { ttl },
        }
    }

    fn usability_when_stale(&self, stale_for: Millis) -> Usability {
        let for_how_long = stale_for.into();
        if stale_for < self.stale_while_revalidate {
            Usability::StaleWhileRevalidate { stale_for: for_how_long }
        } else if stale_for < self.stale_if_error {
            Usability::StaleIfError { stale_for: for_how_long }
        } else {
            Usability::Stale { stale_for: for_how_long }
        }
    }

    /// Whether it came while the clock was ahead: how old it really is nobody knows.
    fn is_ahead(&self, now: Timestamp) -> bool {
        self.response_time > now + CLOCK_SLACK
    }

    /// How long ago its lifetime ended; zero if it has not.
    fn stale_for(&self, now: Timestamp) -> Millis {
        self.age(now).saturating_sub(self.lifetime)
    }
}

/// `corrected_initial_age` of RFC 9111 section 4.2.3. `Date` and `Age` are whole seconds, cut down from what they were, so
/// what is computed from them is cut down too: else `max-age=1` would be over before it came.
pub(crate) fn initial_age(headers: &HeaderMap, times: ExchangeTimes) -> Millis {
    let whole = |age: Duration| Duration::from_secs(age.as_secs());
    let date = fields::date(headers, &header::DATE);
    let apparent_age = date.map_or(Duration::ZERO, |date| whole(times.response.since(date)));
    let corrected_age = age_value(headers) + whole(times.response.since(times.request));
    apparent_age.max(corrected_age).into()
}

/// `Age` as received: the first member counts, what is no number is ignored, what is too large is 2^31 (RFC 9111
/// sections 1.2.2 and 5.1).
fn age_value(headers: &HeaderMap) -> Duration {
    let text = headers.get(header::AGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = text.split(',').next().unwrap_or_default().trim();
    control::parse_seconds(first).unwrap_or_default()
}

/// A lifetime for a response that states none: a part of the time for which it had not changed when it was sent
/// (RFC 9111 section 4.2.2).
pub(crate) fn heuristic_lifetime(
    headers: &HeaderMap,
    response_time: Timestamp,
    percent: u32,
    most: Duration,
) -> Option<Duration> {
    let modified = fields::date(headers, &header::LAST_MODIFIED)?;
    let date = fields::date(headers, &header::DATE).unwrap_or(response_time);
    let lifetime = date.since(modified).as_secs().saturating_mul(u64::from(percent)) / 100;
    Some(Duration::from_secs(lifetime).min(most)).filter(|lifetime| !lifetime.is_zero())
}

/// The lifetime that the response itself states and where (RFC 9111 section 4.2.1), or `None` if it states none.
pub(crate) fn explicit_lifetime(
    headers: &HeaderMap,
    directives: &Directives,
    response_time: Timestamp,
) -> Option<(Duration, Basis)> {
    let stated = directives.s_maxage.map(|lifetime| (lifetime, Basis::SMaxage));
    if let Some(stated) = stated.or(directives.max_age.map(|lifetime| (lifetime, Basis::MaxAge))) {
        return Some(stated);
    }
    if directives.targeted {
        return None; // RFC 9213 section 2.2: Expires is ignored
    }
    let expires = headers.get(header::EXPIRES)?;
    // An invalid date, "0" above all, is a time in the past (section 5.3).
    let expires = expires.to_str().ok().and_then(Timestamp::from_http_date);
    let date = fields::date(headers, &header::DATE).unwrap_or(response_time);
    Some((expires.map_or(Duration::ZERO, |expires| expires.since(date)), Basis::Expires))
}

#[cfg(test)]
mod tests {
    use super::super::testing::map;
    use super::*;

    /// 1994-11-06 08:49:37 GMT, the RFC's own example date.
    const DATE: Timestamp = Timestamp::from_secs(784_111_777);

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Fresh for a minute, then of use for a while.
    fn with_windows() -> Freshness {
        Freshness {
            response_time: DATE,
            initial_age: Millis::ZERO,
            lifetime: secs(60).into(),
            basis: Basis::MaxAge,
            stale_use: StaleUse::Permitted,
            stale_while_revalidate: secs(10).into(),
            stale_if_error: secs(100).into(),
        }
    }

    #[test]
    fn ages() {
        let times = ExchangeTimes { request: DATE + secs(8), response: DATE + secs(10) };
        for (fields, age) in [
            (vec![], secs(2)),
            (vec![("date", "Sun, 06 Nov 1994 08:49:37 GMT")], secs(10)),
            (vec![("date", "Sun, 06 Nov 1994 08:59:37 GMT")], secs(2)),
            (vec![("age", "100")], secs(102)),
            (vec![("age", "x")], secs(2)),
            (vec![("age", "-5")], secs(2)),
            (vec![("age", "")], secs(2)),
            (vec![("age", "7.5")], secs(2)),
            (vec![("age", "7;a=b")], secs(2)),
            (vec![("age", "7, 100")], secs(9)),
            (vec![("age", "x, 100")], secs(2)),
            (vec![("age", "7"), ("age", "100")], secs(9)),
            (vec![("age", "2147483648")], secs((1 << 31) + 2)),
            (vec![("age", "99999999999999999999999")], secs((1 << 31) + 2)),
            (vec![("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("age", "3")], secs(10)),
        ] {
            assert_eq!(initial_age(&map(&fields), times), age.into(), "{fields:?}");
        }
    }

    #[test]
    fn fractions_of_a_second_do_not_age_what_arrives() {
        let sent = [("date", "Sun, 06 Nov 1994 08:49:37 GMT")];
        for (asked, arrived, age) in [(0, 999, 0), (0, 1000, 1000), (500, 999, 0), (500, 1499, 1000), (100, 2099, 2000)]
        {
            let at = |millis| DATE + Duration::from_millis(millis);
            let times = ExchangeTimes { request: at(asked), response: at(arrived) };
            let found = Duration::from(initial_age(&map(&sent), times)).as_millis();
            assert_eq!(found, age, "{asked} {arrived}");
        }
    }

    #[test]
    fn what_stands_in_for_origins_that_cannot_be_reached() {
        let freshness = with_windows();
        let by_default = OutageWindow { length: secs(600), is_stated: false };
        let stated = OutageWindow { is_stated: true, ..by_default };
        let (live, purged) = (Standing::Live, Standing::SoftPurged { since: DATE + secs(10) });
        let of =
            |stale_use, basis, lifetime| Freshness { stale_use, basis, lifetime: secs(lifetime).into(), ..freshness };
        let (usual, age) = (Basis::MaxAge, 60);
        for (freshness, window, standing, after, expected) in [
            (freshness, by_default, live, 61, true),
            (freshness, by_default, live, 659, true),
            (freshness, by_default, live, 660, false),
            (freshness, by_default, purged, 609, true),
            (freshness, by_default, purged, 610, false),
            (freshness, OutageWindow { length: secs(0), is_stated: true }, live, 61, false),
            (of(StaleUse::Forbidden, usual, age), stated, live, 61, false),
            (of(StaleUse::ByWindowOnly, usual, age), by_default, live, 61, false),
            (of(StaleUse::ByWindowOnly, usual, age), stated, live, 61, true),
            (of(StaleUse::Permitted, Basis::NegativeTtl, age), stated, live, 61, false),
            (of(StaleUse::Permitted, usual, 0), stated, live, 1, false),
        ] {
            let found = freshness.outlasts_origins(window, standing, DATE + secs(after));
            assert_eq!(found, expected, "{freshness:?} {window:?} {standing:?} {after}");
        }
    }

    #[test]
    fn what_may_be_done_as_time_goes_by() {
        let aged = (Freshness { initial_age: secs(5).into(), ..with_windows() }, Standing::Live);
        // A soft purge ends freshness, but not the stale windows.
        let lasting = Freshness { lifetime: secs(3600).into(), ..with_windows() };
        let purged = (lasting, Standing::SoftPurged { since: DATE + secs(50) });
        for ((freshness, standing), after, usability) in [
            (aged, 0, Usability::Fresh { ttl: secs(55) }),
            (aged, 54, Usability::Fresh { ttl: secs(1) }),
            (aged, 55, Usability::StaleWhileRevalidate { stale_for: secs(0) }),
            (aged, 64, Usability::StaleWhileRevalidate { stale_for: secs(9) }),
            (aged, 65, Usability::StaleIfError { stale_for: secs(10) }),
            (aged, 154, Usability::StaleIfError { stale_for: secs(99) }),
            (aged, 155, Usability::Stale { stale_for: secs(100) }),
            (purged, 50, Usability::StaleWhileRevalidate { stale_for: secs(0) }),
            (purged, 60, Usability::StaleIfError { stale_for: secs(10) }),
            (purged, 150, Usability::Stale { stale_for: secs(100) }),
        ] {
            assert_eq!(freshness.usability(standing, DATE + secs(after)), Some(usability), "{standing:?} {after}");
        }
    }
}
