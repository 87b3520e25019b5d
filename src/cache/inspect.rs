//! Looking into the cache without touching it: what `GET /v1/explain` shows.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::fields::add_date;
use crate::origin::attempts;
use crate::origin::error::OriginError;
use crate::plan::CacheKey;

use super::engine::Engine;
use super::explain::{self, Explanation, Terms};
use super::fill::FillRequest;
use super::freshness::ExchangeTimes;
use super::heeded;
use super::lookup::{Lookup, Miss};
use super::object::Object;
use super::policy::ResponseFacts;
use super::request::CacheRequest;
use super::slice::Slice;
use super::status::{Forward, Report, Stored};
use super::stored::Cache;
use crate::representation::range::ContentRange;

/// Slices that are counted, at most.
const MOST_SLICES: u64 = 100_000;

/// One stored response.
#[derive(Debug, Serialize)]
pub struct Inspected {
    /// Whether the request selects it.
    pub selected: bool,
    /// Where it is: `memory` or `disk`.
    pub tier: &'static str,
    pub status: u16,
    pub bytes: u64,
    /// The bytes that are there, if it is only a part.
    pub range: Option<String>,
    pub etag: Option<String>,
    /// Content codings that the node has made of it, with their bytes.
    pub codings: Vec<(&'static str, usize)>,
    /// The newest purge that it is known to have survived.
    pub purge_seq: u64,
    /// A purge has hit it: it is only waiting to be swept away.
    pub purged: bool,
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// What an origin answers, and what would be done with it.
#[derive(Debug, Serialize)]
pub struct TriedOut {
    pub origin: Arc<str>,
    pub status: u16,
    /// The fields that decide.
    pub fields: Vec<(String, String)>,
    #[serde(flatten)]
    pub explanation: Explanation,
}

impl Cache {
    /// What is stored under a key, the newest first, and what `Cache-Status` would say of an answer to the request now, as far as
    /// that can be told without asking an origin.
    pub async fn inspect(&self, request: &CacheRequest<'_>, now: Timestamp) -> (Vec<Inspected>, String) {
        let mut stored = self.inspect_memory(request, now);
        let mut found = self.lookup(request, now);
        if matches!(&found, Lookup::Miss(miss) if miss.is_unknown()) && self.disk.may_have(request.key) {
            match self.disk.find(request.key, request.presented(), 0).await {
                Ok(Some(loaded)) => {
                    stored.push(self.inspected(&loaded.found, None, true, "disk", now));
                    found = self.found_on_disk(&loaded.found, request, now);
                }
                Ok(None) => {}
                Err(trouble) => return (stored, format!("a disk cannot tell: {}", trouble.reason().meaning)),
            }
        }
        (stored, Self::forecast(found, request))
    }

    fn forecast(found: Lookup, request: &CacheRequest<'_>) -> String {
        let report = match found {
            Lookup::Hit(_, report) | Lookup::StaleHit(_, report) | Lookup::PartHit(_, report) => report,
            _ if request.asks.only_if_cached => Report::OnlyIfCached,
            Lookup::Pass(why) => Report::Pass(why.cache_status()),
            Lookup::Miss(Miss { why, .. }) => Report::Forward(Forward::of(why, Stored::Nothing)),
        };
        let mut text = String::new();
        report.write(&mut text, "");
        text.trim_start_matches("; ").to_owned()
    }

    /// How many of the slices of a response are there, of how many; `None`: of nothing is known how long it is.
    pub fn slices_of(&self, slice: &Slice<&str>, first: &[Inspected]) -> Option<(u64, u64)> {
        let total: u64 = first.iter().find_map(|one| one.range.as_deref()?.rsplit_once('/')?.1.parse().ok())?;
        let all = total.div_ceil(slice.size).min(MOST_SLICES);
        let is_there = |number: &u64| {
            let key = CacheKey::slice(slice.of, slice.size, *number);
            self.memory.get(key.as_str()).is_some() || self.disk.may_have(key.as_str())
        };
        Some(((0..all).filter(is_there).count() as u64, all))
    }

    fn inspect_memory(&self, request: &CacheRequest<'_>, now: Timestamp) -> Vec<Inspected> {
        let Some(variants) = self.memory.get(request.key) else { return Vec::new() };
        let selected = variants.select(request.presented());
        let whole = variants.whole().rev().map(|object| (object, None));
        let parts = variants.parts().map(|part| (&part.object, Some(part.range)));
        whole
            .chain(parts)
            .map(|(object, range)| {
                let is_selected = selected.is_some_and(|selected| Arc::ptr_eq(selected, object));
                self.inspected(object, range, is_selected, "memory", now)
            })
            .collect()
    }

    fn inspected(
        &self,
        object: &Arc<Object>,
        range: Option<ContentRange>,
        selected: bool,
        tier: &'static str,
        now: Timestamp,
    ) -> Inspected {
        let usability = self.usability(object, now);
        let shown = usability.unwrap_or_else(|| object.freshness.usability_unpurged(now));
        let purged = usability.is_none();
        let mut terms = Terms::of(&object.storable(), shown, now);
        if purged {
            terms.state = "purged";
        }
        let range = range.or(object.part());
        Inspected {
            selected,
            tier,
            status: object.head.status.as_u16(),
            bytes: object.length(),
            codings: object.codings().iter().map(|coded| (coded.coding.as_str(), coded.body.len())).collect(),
            range: range.map(|ContentRange { first, last, total }| format!("{first}-{last}/{total}")),
            etag: object.head.etag().map(str::to_owned),
            purge_seq: object.checked().0,
            purged,
            explanation: Explanation::of(object.freshness.basis.reason(), Some(terms)),
        }
    }

    /// For how long what a request asks for is still remembered as not cacheable.
    pub fn uncacheable_for(&self, request: &CacheRequest<'_>, now: Timestamp) -> Option<Duration> {
        self.uncacheable
            .until(request.key, request.presented())
            .map(|until| until.since(now))
            .filter(|left| !left.is_zero())
    }
}

impl Engine {
    /// Path and query that a fill would ask an origin for.
    pub fn target_of_fill(&self, request: &CacheRequest<'_>) -> String {
        FillRequest::new(request, None, None).origin.path_and_query
    }

    /// Asks an origin as a fill would and judges the answer; its body is not read and nothing is stored.
    pub async fn try_out(&self, request: &CacheRequest<'_>) -> Result<TriedOut, OriginError> {
        let asked = FillRequest::new(request, None, None);
        let mut exchange = attempts::send(&self.connector, &asked.snapshot.pools, &asked.origin, None).await?;
        let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
        add_date(&mut exchange.fields, times.response);
        heeded::settle(&mut exchange.fields, asked.route(), || times.response);
        let response = ResponseFacts {
            status: exchange.status,
            headers: &exchange.fields,
            times,
            length: exchange.content_length(),
            max_object: self.cache.max_stored(request.key),
        };
        Ok(TriedOut {
            origin: exchange.origin.clone(),
            status: exchange.status.as_u16(),
            fields: explain::deciding_fields(&exchange.fields),
            explanation: explain::explain(asked.rules(), &asked.facts(), &response),
        })
    }
}
