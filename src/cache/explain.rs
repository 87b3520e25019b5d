//! What was decided about a response and by which rule, for people to read. Pure: `seawall explain` calls it with
//! files, the admin API with what an origin answers.

use http::HeaderMap;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::config::model::CacheRules;

use super::freshness::Usability;
use super::policy::{self, RequestFacts, ResponseFacts, Storable};
use super::reason::Reason;

/// The verdict on one response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub stored: bool,
    /// The word that `Cache-Status`, metrics and log have.
    pub reason: &'static str,
    pub meaning: &'static str,
    /// Whose rule it is.
    pub rule: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

/// On which terms a response is stored. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Terms {
    pub lifetime: u64,
    pub age: u64,
    /// What is left of the lifetime; below zero: for how long it has been stale.
    pub ttl: i64,
    /// What may be done with it now.
    pub state: &'static str,
    pub stale_while_revalidate: u64,
    pub stale_if_error: u64,
    /// Which rule decides about using it stale.
    pub stale_rule: &'static str,
    /// What requests select it by, with the value of the one that it answered.
    pub selected_by: Vec<(String, Option<String>)>,
    pub tags: Vec<String>,
    /// Fields that only the request got which it answered.
    pub excluded_fields: Vec<String>,
}

/// Judges a response to a GET and says why.
pub fn explain(rules: &CacheRules, request: &RequestFacts<'_>, response: &ResponseFacts<'_>) -> Explanation {
    let now = response.times.response;
    match policy::judge(rules, request, response) {
        Err(reason) => Explanation::of(reason.reason(), None),
        Ok(storable) => {
            let terms = Terms::of(&storable, storable.freshness.usability_unpurged(now), now);
            Explanation::of(storable.freshness.basis.reason(), Some(terms))
        }
    }
}

impl Explanation {
    pub fn of(reason: Reason, terms: Option<Terms>) -> Self {
        Explanation {
            stored: terms.is_some(),
            reason: reason.word,
            meaning: reason.meaning,
            rule: reason.source,
            terms,
        }
    }
}

impl Terms {
    pub fn of(storable: &Storable, usability: Usability, now: Timestamp) -> Self {
        let freshness = &storable.freshness;
        let (state, ttl) = match usability {
            Usability::Fresh { ttl } => ("fresh", signed(ttl.as_secs())),
            Usability::StaleWhileRevalidate { stale_for } => ("stale-while-revalidate", -signed(stale_for.as_secs())),
            Usability::StaleIfError { stale_for } => ("stale-if-error", -signed(stale_for.as_secs())),
            Usability::Stale { stale_for } => ("stale", -signed(stale_for.as_secs())),
        };
        Terms {
            lifetime: freshness.lifetime.as_secs(),
            age: freshness.current_age(now).as_secs(),
            ttl,
            state,
            stale_while_revalidate: freshness.stale_while_revalidate.as_secs(),
            stale_if_error: freshness.stale_if_error.as_secs(),
            stale_rule: freshness.stale_rule(),
            selected_by: storable.variant.describe(),
            tags: storable.tags.names().map(str::to_owned).collect(),
            excluded_fields: storable.excluded.iter().map(ToString::to_string).collect(),
        }
    }
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// The fields of a response that decide about caching, for people to read.
pub(crate) fn deciding_fields(headers: &HeaderMap) -> Vec<(String, String)> {
    const NAMES: [&str; 18] = [
        "content-type",
        "seawall-cache-control",
        "cdn-cache-control",
        "cache-control",
        "expires",
        "date",
        "age",
        "last-modified",
        "etag",
        "vary",
        "set-cookie",
        "content-length",
        "content-range",
        "content-encoding",
        "surrogate-key",
        "cache-tag",
        "cache-tags",
        "cache-groups",
    ];
    let values = |name: &'static str| headers.get_all(name).iter().map(move |value| (name, value));
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    // A cookie may be somebody's session.
    let shown = |name, value| if name == "set-cookie" { "(not shown)".to_owned() } else { text(value) };
    NAMES.into_iter().flat_map(values).map(|(name, value)| (name.to_owned(), shown(name, value))).collect()
}
