//! What the cache has for a request: everything that is answered from it is decided here, so that nothing can miss a
//! purge.

use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, header};

use crate::boxed::boxed;
use crate::clock::Timestamp;
use crate::plan::PassReason;

use super::control::Directives;
use super::freshness::Usability;
use super::object::Object;
use super::part::Part;
use super::request::CacheRequest;
use super::status::{Report, Tier, Why};
use super::stored::Cache;
use super::trouble::Trouble;

/// What is in the cache for a request.
pub enum Lookup {
    Hit(Arc<Object>, Report),
    /// To be used now and refreshed in the background.
    StaleHit(Arc<Object>, Report),
    /// A part of a response is stored, and enough of it.
    PartHit(Arc<Part>, Report),
    Miss(Miss),
    /// To be passed on without making anybody wait: known to be not cacheable, or what is stored was not given to anybody with
    /// credentials (RFC 9111 section 3.5); then nothing that comes of it concerns others.
    Pass(PassReason),
}

/// What is to be fetched, and what there is to begin with.
pub struct Miss {
    /// What may be validated.
    pub stale: Option<Arc<Object>>,
    /// What may be completed.
    pub part: Option<Arc<Part>>,
    pub why: Why,
    /// Why a disk could not say whether it has it.
    pub trouble: Option<Trouble>,
}

impl Miss {
    pub fn of(stale: Option<Arc<Object>>, why: Why) -> Self {
        Miss { stale, part: None, why, trouble: None }
    }

    /// Whether there may be something in another tier.
    pub(super) fn is_unknown(&self) -> bool {
        self.stale.is_none() && self.part.is_none()
    }
}

impl Cache {
    /// What the memory tier has for a request.
    pub fn lookup(&self, request: &CacheRequest<'_>, now: Timestamp) -> Lookup {
        let (variants, presented) = (self.memory.get(request.key), request.presented());
        if let Some(variants) = &variants {
            if let Some(object) = variants.select(presented) {
                return self.lookup_object(object, request, now);
            }
            if let Some(part) = variants.select_part(presented) {
                return self.lookup_part(part, request, now);
            }
        }
        match self.uncacheable.until(request.key, presented) {
            Some(until) if now < until => Lookup::Pass(PassReason::HitForMiss),
            _ => Lookup::Miss(Miss::of(None, variants.map_or(Why::UriMiss, |_| Why::VaryMiss))),
        }
    }

    /// What any tier has for a request.
    pub async fn look_up(&self, request: &CacheRequest<'_>, now: Timestamp) -> Lookup {
        match self.lookup(request, now) {
            Lookup::Miss(miss) if miss.is_unknown() && self.disk.may_have(request.key) => {
                boxed(|| self.lookup_on_disk(request, now, miss)).await // large, and most requests do not come here
            }
            found => found,
        }
    }

    /// What the disk tier has for a request that the memory tier has nothing for.
    async fn lookup_on_disk(&self, request: &CacheRequest<'_>, now: Timestamp, miss: Miss) -> Lookup {
        let loaded = match self.disk.find(request.key, request.presented(), self.max_in_memory(request.key)).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Lookup::Miss(miss),
            Err(trouble) => return Lookup::Miss(Miss { trouble: Some(trouble), ..miss }),
        };
        self.promote(&loaded, request.rules());
        self.found_on_disk(&loaded.found, request, now)
    }

    pub(super) fn found_on_disk(&self, object: &Arc<Object>, request: &CacheRequest<'_>, now: Timestamp) -> Lookup {
        match self.lookup_object(object, request, now) {
            Lookup::Hit(object, Report::Hit { ttl, .. }) => Lookup::Hit(object, Report::Hit { ttl, tier: Tier::Disk }),
            other => other,
        }
    }

    fn lookup_object(&self, object: &Arc<Object>, request: &CacheRequest<'_>, now: Timestamp) -> Lookup {
        let Some(usability) = self.usability(object, now) else {
            return Lookup::Miss(Miss::of(None, Why::UriMiss));
        };
        if !may_answer(object, request) {
            return Lookup::Pass(PassReason::Authorization);
        }
        match usability {
            Usability::Fresh { ttl } if suits(request, object, Some(ttl), now) => {
                object.used();
                Lookup::Hit(object.clone(), Report::Hit { ttl, tier: Tier::Memory })
            }
            Usability::Fresh { .. } => Lookup::Miss(Miss::of(Some(object.clone()), Why::Request)),
            Usability::StaleWhileRevalidate { stale_for } if suits(request, object, None, now) => {
                Lookup::StaleHit(object.clone(), Report::HitStale { stale_for })
            }
            Usability::StaleWhileRevalidate { stale_for }
            | Usability::StaleIfError { stale_for }
            | Usability::Stale { stale_for } => {
                let taken = request.asks.max_stale.is_some_and(|most| stale_for <= most);
                if taken && object.freshness.may_be_stale_for_clients() && suits(request, object, None, now) {
                    Lookup::Hit(object.clone(), Report::HitMaxStale { stale_for })
                } else {
                    Lookup::Miss(Miss::of(Some(object.clone()), Why::Stale))
                }
            }
        }
    }

    /// A part is used only while it is fresh; but what an origin confirms it may complete at any time.
    fn lookup_part(&self, part: &Arc<Part>, request: &CacheRequest<'_>, now: Timestamp) -> Lookup {
        let Some(usability) = self.usability(&part.object, now) else {
            return Lookup::Miss(Miss::of(None, Why::UriMiss));
        };
        if !may_answer(&part.object, request) {
            return Lookup::Pass(PassReason::Authorization);
        }
        if let Usability::Fresh { ttl } = usability
            && part.answers(request.view.fields)
            && suits(request, &part.object, Some(ttl), now)
        {
            return Lookup::PartHit(part.clone(), Report::Hit { ttl, tier: Tier::Memory });
        }
        // What cannot be completed is of no use: the request's own range may be asked for.
        let useful = part.missing().is_some() && part.range.total <= self.max_in_memory(request.key);
        let part = Some(part.clone()).filter(|_| useful);
        Lookup::Miss(Miss { part, ..Miss::of(None, Why::Partial) })
    }
}

/// Whether a stored response may answer a request as far as credentials go: one that has them gets only what could have
/// been stored from one that has (RFC 9111 section 3.5), and never somebody else's refusal.
fn may_answer(object: &Object, request: &CacheRequest<'_>) -> bool {
    if !request.view.fields.contains(&header::AUTHORIZATION) {
        return true;
    }
    object.head.status != StatusCode::UNAUTHORIZED
        && (request.rules().serve_authorized
            || object.variant.is_by_field(&header::AUTHORIZATION)
            || Directives::parse(&object.head.fields()).allows_authorization())
}

/// Whether a stored response is what a request's `Cache-Control` asks for (RFC 9111 section 5.2.1). `ttl`: how
/// long it is still fresh, if it is.
fn suits(request: &CacheRequest<'_>, object: &Object, ttl: Option<Duration>, now: Timestamp) -> bool {
    let asks = &request.asks;
    let stale_is_fine = ttl.is_some() || asks.max_stale.is_some() || asks.max_age.is_none();
    !asks.no_cache
        && stale_is_fine
        && asks.max_age.is_none_or(|most| object.freshness.current_age(now) <= most)
        && asks.min_fresh.is_none_or(|least| ttl.is_some_and(|ttl| ttl >= least))
}
