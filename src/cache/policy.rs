//! Whether a response may be stored and for how long: a pure function of the route's rules, the request
//! and the response head (RFC 9111 section 3).

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use crate::config::model::{CacheMode, CacheRules};
use crate::request::Fields;

use super::control::Directives;
use super::freshness::{self, ExchangeTimes, Freshness};
use super::tags::{self, TagHash};
use super::vary::Variant;

/// What the decision needs to know of the request.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    pub fields: Fields<'a>,
    pub has_authorization: bool,
}

/// What the decision needs to know of the response.
#[derive(Clone, Copy)]
pub struct ResponseFacts<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub times: ExchangeTimes,
    /// Of its body, where the head tells.
    pub length: Option<u64>,
    /// The largest body that is stored.
    pub max_object: u64,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Store(Storable),
    Skip(SkipReason),
}

/// How a response is to be stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Storable {
    pub freshness: Freshness,
    pub variant: Variant,
    pub tags: Box<[TagHash]>,
}

/// Why a response is not stored, by name: shown in `Cache-Status`, counted in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    NoStore,
    Private,
    Authorization,
    SetCookie,
    VaryStar,
    Status,
    NoFreshness,
    Expired,
    TooLarge,
    TagsTooLarge,
    Partial,
}

impl SkipReason {
    pub fn as_str(self) -> &'static str {
        match self {
            SkipReason::NoStore => "no-store",
            SkipReason::Private => "private",
            SkipReason::Authorization => "authorization",
            SkipReason::SetCookie => "set-cookie",
            SkipReason::VaryStar => "vary-star",
            SkipReason::Status => "status",
            SkipReason::NoFreshness => "no-freshness",
            SkipReason::Expired => "expired",
            SkipReason::TooLarge => "too-large",
            SkipReason::TagsTooLarge => "tags-too-large",
            SkipReason::Partial => "partial",
        }
    }

    /// Whether any other request for the key would find the same. Only then is the key remembered as not
    /// cacheable; otherwise one visitor's `Authorization` would switch caching off for all.
    pub fn concerns_every_request(self) -> bool {
        !matches!(self, SkipReason::Authorization)
    }
}

/// Decides about a response to a GET.
pub fn judge(rules: &CacheRules, request: &RequestFacts<'_>, response: &ResponseFacts<'_>) -> Verdict {
    match decide(rules, request, response) {
        Ok(storable) => Verdict::Store(storable),
        Err(reason) => Verdict::Skip(reason),
    }
}

fn decide(
    rules: &CacheRules,
    request: &RequestFacts<'_>,
    response: &ResponseFacts<'_>,
) -> Result<Storable, SkipReason> {
    let headers = response.headers;
    let directives = Directives::parse(headers);
    if response.status == StatusCode::PARTIAL_CONTENT {
        return Err(SkipReason::Partial);
    }
    let lifetime = match rules.mode {
        CacheMode::Off => return Err(SkipReason::NoStore),
        CacheMode::Respect { default_ttl } => respected_lifetime(default_ttl, request, response, &directives)?,
        CacheMode::Force { ttl } => forced_lifetime(ttl, request, response, &directives)?,
    };
    if headers.contains_key(header::SET_COOKIE) && !rules.store_set_cookie {
        return Err(SkipReason::SetCookie);
    }
    let variant = Variant::of(headers, request.fields).ok_or(SkipReason::VaryStar)?;
    if response.length.is_some_and(|length| length > response.max_object) {
        return Err(SkipReason::TooLarge);
    }
    let tags = tags::parse(headers).map_err(|tags::TooManyTags| SkipReason::TagsTooLarge)?;
    let freshness = freshness_of(rules, response, &directives, lifetime);
    let worth_keeping = freshness.current_age(response.times.response) < lifetime
        || has_validator(headers)
        || !freshness.stale_while_revalidate.is_zero()
        || !freshness.stale_if_error.is_zero();
    if !worth_keeping {
        return Err(SkipReason::Expired);
    }
    Ok(Storable { freshness, variant, tags })
}

/// The lifetime in mode `respect`, or why the response may not be stored at all (RFC 9111 section 3).
fn respected_lifetime(
    default_ttl: Option<Duration>,
    request: &RequestFacts<'_>,
    response: &ResponseFacts<'_>,
    directives: &Directives,
) -> Result<Duration, SkipReason> {
    if directives.no_store {
        return Err(SkipReason::NoStore);
    }
    if directives.private {
        return Err(SkipReason::Private);
    }
    if request.has_authorization && !allows_authorization(directives) {
        return Err(SkipReason::Authorization);
    }
    let explicit = freshness::explicit_lifetime(response.headers, directives, response.times.response);
    if directives.no_cache {
        // It may be stored, but is validated before each use (section 5.2.2.4).
        return if is_storable_status(response.status) { Ok(Duration::ZERO) } else { Err(SkipReason::Status) };
    }
    match explicit {
        Some(lifetime) if is_final_status(response.status) => Ok(lifetime),
        None if takes_default_ttl(response.status) => default_ttl.ok_or(SkipReason::NoFreshness),
        _ => Err(SkipReason::Status),
    }
}

fn forced_lifetime(
    ttl: Duration,
    request: &RequestFacts<'_>,
    response: &ResponseFacts<'_>,
    directives: &Directives,
) -> Result<Duration, SkipReason> {
    if !takes_default_ttl(response.status) {
        return Err(SkipReason::Status);
    }
    // Even by force, what one visitor's credentials brought is not given to another.
    if request.has_authorization && !allows_authorization(directives) {
        return Err(SkipReason::Authorization);
    }
    Ok(ttl)
}

fn freshness_of(
    rules: &CacheRules,
    response: &ResponseFacts<'_>,
    directives: &Directives,
    lifetime: Duration,
) -> Freshness {
    let forced = matches!(rules.mode, CacheMode::Force { .. });
    let (while_revalidate, if_error) = if directives.forbids_stale() && !forced {
        (Duration::ZERO, Duration::ZERO)
    } else {
        (
            directives.stale_while_revalidate.unwrap_or(rules.stale_while_revalidate),
            directives.stale_if_error.unwrap_or(rules.stale_if_error),
        )
    };
    Freshness {
        response_time: response.times.response,
        // A forced lifetime counts from here, whatever age the response arrived with.
        initial_age: if forced { Duration::ZERO } else { freshness::initial_age(response.headers, response.times) },
        lifetime,
        stale_while_revalidate: while_revalidate,
        stale_if_error: if_error,
    }
}

/// RFC 9111 section 3.5.
fn allows_authorization(directives: &Directives) -> bool {
    directives.public || directives.s_maxage.is_some() || directives.must_revalidate
}

fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}

/// Statuses that the configuration's own lifetimes apply to. Errors are left out on purpose: a 404 that says
/// nothing must not stay for an hour because the route's images may.
fn takes_default_ttl(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 410)
}

/// Statuses that this cache understands well enough to store with explicit freshness (RFC 9111 section 3).
fn is_final_status(status: StatusCode) -> bool {
    status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304 | 416)
}

fn is_storable_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const NOW: Timestamp = Timestamp::from_secs(784_111_777);
    const RESPECT: CacheMode = CacheMode::Respect { default_ttl: None };
    const DEFAULT_HOUR: CacheMode = CacheMode::Respect { default_ttl: Some(Duration::from_secs(3600)) };
    const FORCE: CacheMode = CacheMode::Force { ttl: Duration::from_secs(5) };

    fn judge_with(rules: &CacheRules, request: &[(&str, &str)], status: u16, response: &[(&str, &str)]) -> Verdict {
        let map = |fields: &[(&str, &str)]| -> HeaderMap {
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            map
        };
        let (request, headers) = (map(request), map(response));
        judge(
            rules,
            &RequestFacts {
                fields: Fields::Map(&request),
                has_authorization: request.contains_key(header::AUTHORIZATION),
            },
            &ResponseFacts {
                status: StatusCode::from_u16(status).unwrap(),
                headers: &headers,
                times: ExchangeTimes { request: NOW, response: NOW },
                length: Some(100),
                max_object: 1000,
            },
        )
    }

    /// The lifetime in seconds, or the reason.
    fn outcome(mode: CacheMode, request: &[(&str, &str)], status: u16, response: &[(&str, &str)]) -> String {
        let rules = CacheRules { mode, ..CacheRules::default() };
        match judge_with(&rules, request, status, response) {
            Verdict::Store(storable) => storable.freshness.lifetime.as_secs().to_string(),
            Verdict::Skip(reason) => reason.as_str().to_owned(),
        }
    }

    #[test]
    fn verdicts() {
        let cc = |value| vec![("cache-control", value)];
        let auth = vec![("authorization", "Basic x")];
        let none = vec![];
        for (mode, request, status, response, expected) in [
            (RESPECT, &none, 200, cc("max-age=60"), "60"),
            (RESPECT, &none, 200, cc("max-age=60, s-maxage=7"), "7"),
            (RESPECT, &none, 200, vec![], "no-freshness"),
            (DEFAULT_HOUR, &none, 200, vec![], "3600"),
            (DEFAULT_HOUR, &none, 200, cc("max-age=60"), "60"),
            (DEFAULT_HOUR, &none, 404, vec![], "status"),
            (DEFAULT_HOUR, &none, 500, vec![], "status"),
            (DEFAULT_HOUR, &none, 302, vec![], "status"),
            (RESPECT, &none, 404, cc("max-age=60"), "60"),
            (RESPECT, &none, 302, cc("max-age=60"), "60"),
            (RESPECT, &none, 503, cc("max-age=60"), "60"),
            (RESPECT, &none, 206, cc("max-age=60"), "partial"),
            (RESPECT, &none, 200, cc("no-store, max-age=60"), "no-store"),
            (RESPECT, &none, 200, cc("private, max-age=60"), "private"),
            (RESPECT, &none, 200, cc("private=\"x\", max-age=60"), "private"),
            (RESPECT, &none, 200, cc("max-age=0"), "expired"),
            (RESPECT, &none, 200, vec![("cache-control", "max-age=0"), ("etag", "\"a\"")], "0"),
            (RESPECT, &none, 200, cc("max-age=0, stale-while-revalidate=5"), "0"),
            (RESPECT, &none, 200, vec![("cache-control", "no-cache, max-age=60"), ("etag", "\"a\"")], "0"),
            (RESPECT, &none, 200, cc("no-cache"), "expired"),
            (RESPECT, &none, 200, vec![("cache-control", "max-age=60"), ("age", "60")], "expired"),
            (RESPECT, &auth, 200, cc("max-age=60"), "authorization"),
            (RESPECT, &auth, 200, cc("max-age=60, public"), "60"),
            (RESPECT, &auth, 200, cc("s-maxage=60"), "60"),
            (RESPECT, &auth, 200, cc("max-age=60, must-revalidate"), "60"),
            (RESPECT, &none, 200, vec![("cache-control", "max-age=60"), ("set-cookie", "a=b")], "set-cookie"),
            (RESPECT, &none, 200, vec![("cache-control", "max-age=60"), ("vary", "*")], "vary-star"),
            (FORCE, &none, 200, cc("no-store, private, max-age=60"), "5"),
            (FORCE, &none, 500, vec![], "status"),
            (FORCE, &auth, 200, vec![], "authorization"),
            (FORCE, &none, 200, vec![("set-cookie", "a=b")], "set-cookie"),
            (CacheMode::Off, &none, 200, cc("max-age=60"), "no-store"),
        ] {
            assert_eq!(
                outcome(mode, request, status, &response),
                expected,
                "{mode:?} {request:?} {status} {response:?}"
            );
        }
    }

    #[test]
    fn limits_of_size_and_tags() {
        let rules = CacheRules { mode: DEFAULT_HOUR, ..CacheRules::default() };
        let headers = HeaderMap::new();
        let request = RequestFacts { fields: Fields::Map(&headers), has_authorization: false };
        let mut response = ResponseFacts {
            status: StatusCode::OK,
            headers: &headers,
            times: ExchangeTimes { request: NOW, response: NOW },
            length: Some(1001),
            max_object: 1000,
        };
        assert_eq!(judge(&rules, &request, &response), Verdict::Skip(SkipReason::TooLarge));
        response.length = None;
        assert!(matches!(judge(&rules, &request, &response), Verdict::Store(_)));
        let tag = "x".repeat(2000);
        assert_eq!(judge_with(&rules, &[], 200, &[("cache-tag", &tag)]), Verdict::Skip(SkipReason::TagsTooLarge));
    }

    #[test]
    fn stale_windows_come_from_the_response_else_from_the_route_unless_forbidden() {
        let rules = CacheRules {
            mode: RESPECT,
            stale_while_revalidate: Duration::from_secs(1),
            stale_if_error: Duration::from_secs(2),
            ..CacheRules::default()
        };
        for (cache_control, windows) in [
            ("max-age=9", (1, 2)),
            ("max-age=9, stale-while-revalidate=7, stale-if-error=8", (7, 8)),
            ("max-age=9, must-revalidate", (0, 0)),
            ("max-age=9, proxy-revalidate, stale-if-error=8", (0, 0)),
            ("s-maxage=9", (0, 0)),
        ] {
            let Verdict::Store(storable) = judge_with(&rules, &[], 200, &[("cache-control", cache_control)]) else {
                panic!("{cache_control} is storable");
            };
            let freshness = storable.freshness;
            let found = (freshness.stale_while_revalidate.as_secs(), freshness.stale_if_error.as_secs());
            assert_eq!(found, windows, "{cache_control}");
        }
    }
}
