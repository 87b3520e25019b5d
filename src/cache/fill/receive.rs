//! What becomes of an origin's answer: stored as it comes, confirmed, covered by what is stale, or given to one request.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::fields::add_date;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;

use super::super::coding;
use super::super::flight::{ObjectUse, Settled};
use super::super::freshness::ExchangeTimes;
use super::super::head::Head;
use super::super::object::Object;
use super::super::policy::{self, ResponseFacts, Storable};
use super::super::reason::{Basis, SkipReason};
use super::super::tags;
use super::super::vary;
use super::deliver::Around;
use super::{Fill, PrivateBody, PrivateResponse};

/// RFC 9875 section 2.
static GROUPS: HeaderName = HeaderName::from_static("cache-groups");

impl Fill {
    pub(super) async fn receive(&self, mut exchange: Box<Exchange>, owner: oneshot::Sender<PrivateResponse>) {
        let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
        add_date(&mut exchange.fields, times.response);
        if exchange.status == StatusCode::NOT_MODIFIED
            && let Some(stale) = &self.request.stale
        {
            let (settled, own) = self.freshen(stale, &exchange.fields, times);
            // A slice is a part of what is answered, which has its head from elsewhere.
            if let (Settled::Object(object, _), Some(head), None) = (&settled, own, &self.request.slice) {
                let (length, body) = (Some(object.length()), PrivateBody::Stored(object.clone()));
                let _ = owner.send(PrivateResponse { head, length, body }); // nobody waits for it: a refresh, or the client left
            }
            exchange.release(&self.connector).await;
            return self.flight.settle(settled);
        }
        if exchange.status.is_server_error()
            && let Some(settled) = self.stale_instead(Some(exchange.status))
        {
            return self.flight.settle(settled);
        }
        let length = exchange.content_length();
        match self.judge(exchange.status, &exchange.fields, times, length, false) {
            Ok(mut storable) => {
                let groups = tags::groups(&exchange.fields, &GROUPS, self.request.key.view().origin());
                storable.tags = storable.tags.with_groups(groups);
                self.add_coding(&mut exchange, length);
                match storable.part {
                    // What it is a slice of may be larger than anything that is stored.
                    Some(range) if self.request.slice.is_some() => {
                        exchange.status = StatusCode::OK;
                        self.stream(exchange, storable, Some(range.length()), Around::default()).await;
                    }
                    // Boxed: large and rare.
                    Some(range) => {
                        let handing = self.hand_over_part(exchange, storable, range, owner);
                        Box::pin(handing).await;
                    }
                    None => self.stream(exchange, storable, length, Around::default()).await,
                }
            }
            // The client asked for something else than a slice: it has to ask for itself.
            Err(reason) if self.request.slice.is_some() => {
                if reason.concerns_every_request() {
                    let whole = self.request.slice.as_ref().map_or(&self.request.key, |slice| &slice.of);
                    self.cache.uncacheable.remember_unsliced(whole);
                }
                self.flight.settle(Settled::Failed(OriginError::NotInSlices));
            }
            Err(reason) => self.hand_over(exchange, reason, length, owner).await,
        }
    }

    /// `confirms`: the response says that what is stored, or the rest of it, is still the same.
    pub(super) fn judge(
        &self,
        status: StatusCode,
        fields: &HeaderMap,
        times: ExchangeTimes,
        length: Option<u64>,
        confirms: bool,
    ) -> Result<Storable, SkipReason> {
        // Parts that are no slices are kept in memory alone.
        let is_part = status == StatusCode::PARTIAL_CONTENT && self.request.slice.is_none();
        let max_object = if is_part { self.cache.max_object() } else { self.cache.max_stored() };
        let response = ResponseFacts { status, headers: fields, times, length, max_object };
        let facts = if confirms { self.request.facts().confirming() } else { self.request.facts() };
        let storable = policy::judge(self.request.rules(), &facts, &response)?;
        let needs_disk = length.is_some_and(|length| length > self.cache.max_object());
        match needs_disk.then(|| self.cache.disk.obstacle(&self.request.key)).flatten() {
            Some(_) => Err(SkipReason::Disk),
            None => Ok(storable),
        }
    }

    /// Adds the coding's `Vary` where the route compresses.
    pub(super) fn add_coding(&self, exchange: &mut Exchange, length: Option<u64>) {
        if let Some(rules) = &self.request.rules().compress
            && coding::suits(rules, exchange.status, &exchange.fields, length)
        {
            vary::add_coding(&mut exchange.fields);
        }
    }

    /// The stored response, if it may stand in for an origin that failed. `status`: of its answer; `None`: none came.
    pub(super) fn stale_instead(&self, status: Option<StatusCode>) -> Option<Settled> {
        let unreachable = status.is_none().then_some(self.request.rules().stale_if_unreachable);
        let stale = self.request.stale.as_ref().filter(|stale| self.cache.may_stand_in(stale, unreachable))?;
        let status = status.map(|status| status.as_u16());
        Some(Settled::Object(stale.clone(), ObjectUse::StaleIfError { status }))
    }

    /// RFC 9111 section 4.3.4: the stored response with the fields of the 304 is stored anew. What the 304 says to the request
    /// alone that it answers, cookies above all, goes into a head for that.
    fn freshen(&self, stale: &Arc<Object>, fields: &HeaderMap, times: ExchangeTimes) -> (Settled, Option<Head>) {
        let mut own = HeaderMap::new();
        own.extend(fields.get_all(header::SET_COOKIE).iter().map(|cookie| (header::SET_COOKIE, cookie.clone())));
        let freshened_by = |fields: HeaderMap| {
            let head = stale.head.freshened_by(fields);
            let compress = self.request.rules().compress.as_ref();
            let suits = |rules| coding::suits(rules, head.status, &head.fields(), Some(stale.length()));
            if compress.is_some_and(suits) { head.varying_by_coding() } else { head }
        };
        let mut head = freshened_by(fields.clone());
        // Tags are not among the fields that clients see: they stay as stored.
        let merged = with_age(head.fields(), fields);
        match self.judge(head.status, &merged, times, Some(stale.length()), true) {
            Ok(mut storable) => {
                storable.tags = stale.tags().clone();
                storable.variant = stale.variant.clone();
                storable.part = stale.part();
                if !storable.excluded.is_empty() {
                    let (kept, excluded) = Head::split(head.status, head.fields(), &storable.excluded);
                    head = kept;
                    own.extend(excluded);
                }
                let is_guessed = matches!(storable.freshness.basis, Basis::Heuristic | Basis::Validator);
                let is_about_who_asks = is_guessed && self.request.facts().may_be_about_who_asks(self.request.rules());
                let own = (is_about_who_asks || !own.is_empty()).then(|| head.with(&own));
                if is_about_who_asks {
                    // Nobody has said that what this request got is for all: to them it says only that nothing has changed.
                    let is_date = |(name, _): &(HeaderName, HeaderValue)| *name == header::DATE;
                    let all = fields.iter().map(|(name, value)| (name.clone(), value.clone()));
                    head = freshened_by(all.filter(is_date).collect());
                }
                let mut object =
                    Object::new(self.request.key.view(), head, stale.content.clone(), storable, self.flight.seq);
                object.succeed(stale);
                let object = self.cache.store(object, self.request.rules(), &self.flight);
                if object.take_codings(stale) {
                    self.cache.memory.weigh_again(&object); // they were made while it was stored
                }
                (Settled::Object(object, ObjectUse::Validated), own)
            }
            // No longer to be stored, but confirmed for who asked.
            Err(reason) => {
                if reason.concerns_every_request() && !self.cache.is_fresh(stale) {
                    self.cache.discard(stale);
                }
                (Settled::Object(stale.clone(), ObjectUse::Confirmed(reason)), Some(head.with(&own)))
            }
        }
    }
}

/// The fields to judge freshness by: `Age` is not kept in stored heads, but counts in the exchange it came by.
pub(super) fn with_age(stored: HeaderMap, received: &HeaderMap) -> HeaderMap {
    let mut fields = stored;
    if let Some(age) = received.get(header::AGE) {
        fields.insert(header::AGE, age.clone());
    }
    fields
}
