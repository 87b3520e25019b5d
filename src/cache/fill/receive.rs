//! What becomes of an origin's answer: stored as it comes, confirmed, covered by what is stale, or given to one request.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, StatusCode, header};
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::fields::add_date;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;

use super::super::coding;
use super::super::flight::{ObjectUse, Settled};
use super::super::freshness::ExchangeTimes;
use super::super::head::Head;
use super::super::heeded;
use super::super::object::Object;
use super::super::policy::{self, ResponseFacts, Storable};
use super::super::reason::{Basis, SkipReason};
use super::super::tags::{self, TagHash, Tags};
use super::super::vary;
use super::deliver::Around;
use super::{Fill, PrivateBody, PrivateResponse};

/// RFC 9875 section 2.
static GROUPS: HeaderName = HeaderName::from_static("cache-groups");

impl Fill {
    pub(super) async fn receive(&self, mut exchange: Box<Exchange>, owner: oneshot::Sender<PrivateResponse>) {
        let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
        add_date(&mut exchange.fields, times.response);
        heeded::settle(&mut exchange.fields, self.request.route(), || times.response);
        if exchange.status == StatusCode::NOT_MODIFIED
            && let Some(stale) = &self.request.stale
        {
            let (settled, own) = self.freshen(stale, &exchange.fields, times);
            // A slice is a part of what is answered, which has its head from elsewhere.
            if let (Settled::Object(object, _), Some(head), None) = (&settled, own, &self.request.slice) {
                let (length, body) = (Some(object.length()), PrivateBody::Stored(object.clone()));
                let _ = owner.send(PrivateResponse { head, length, body }); // nobody waits for it: a refresh, or the client left
            }
            exchange.release();
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
                storable.tags = self.tags_of(&exchange.fields, storable.tags);
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
            Err(reason) if self.request.slice.as_ref().is_some_and(|slice| slice.begins) => {
                // The client asked for something else than a slice: it has to ask for itself. One visitor's answer says
                // nothing of what others get.
                let is_about_one = matches!(reason, SkipReason::Visitor | SkipReason::SetCookie);
                if let Some(slice) =
                    self.request.slice.as_ref().filter(|_| reason.concerns_every_request() && !is_about_one)
                {
                    self.cache.uncacheable.remember_unsliced(&slice.of);
                }
                self.flight.settle(Settled::Failed(OriginError::NotInSlices));
            }
            // Of an answer that has begun, the rest goes to its client as it is.
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
        let key = self.request.key.as_str();
        let max_object = if is_part { self.cache.max_in_memory(key) } else { self.cache.max_stored(key) };
        let response = ResponseFacts { status, headers: fields, times, length, max_object };
        let facts = if confirms { self.request.facts().confirming() } else { self.request.facts() };
        let storable = policy::judge(self.request.rules(), &facts, &response)?;
        let needs_disk = length.is_some_and(|length| length > self.cache.max_in_memory(key));
        match needs_disk.then(|| self.cache.disk.obstacle(&self.request.key)).flatten() {
            Some(_) => Err(SkipReason::Disk),
            None => Ok(storable),
        }
    }

    /// Whether what is stored may go on being so with a head that newer fields were merged into; `length`: of the whole body.
    pub(super) fn judge_again(
        &self,
        stale: &Object,
        head: &Head,
        received: &HeaderMap,
        times: ExchangeTimes,
        length: u64,
    ) -> Result<Storable, SkipReason> {
        // `Age` is not kept in stored heads, but counts in the exchange it came by.
        let mut fields = head.fields();
        if let Some(age) = received.get(header::AGE) {
            fields.insert(header::AGE, age.clone());
        }
        let mut storable = self.judge(head.status, &fields, times, Some(length), true)?;
        // Nor are tags. What is purged by one that it has, or had, may be hit once too often, and is never missed.
        let tags = self.tags_of(received, Tags::parse(received).ok_or(SkipReason::TagsTooLarge)?);
        storable.tags = stale.tags().joined(&tags).ok_or(SkipReason::TagsTooLarge)?;
        storable.variant = stale.variant.clone();
        Ok(storable)
    }

    /// Tags of a response, the groups that it is in, and the condition that it is stored under.
    fn tags_of(&self, fields: &HeaderMap, tags: Tags) -> Tags {
        let mut groups = tags::groups(fields, &GROUPS, self.request.key.view().origin());
        groups.extend(self.request.condition().map(TagHash::of_condition));
        tags.with_groups(groups)
    }

    /// Adds the coding's `Vary` where the route compresses.
    pub(super) fn add_coding(&self, exchange: &mut Exchange, length: Option<u64>) {
        if let Some(rules) = &self.request.rules().compress
            && coding::suits(rules, exchange.status, &exchange.fields, length)
        {
            vary::add_coding(&mut exchange.fields);
        }
    }

    /// Whether what is confirmed may say to who asked what is not for others: nobody has said how long it is good for.
    pub(super) fn is_about_who_asks(&self, storable: &Storable) -> bool {
        let is_guessed = matches!(storable.freshness.basis, Basis::Heuristic | Basis::Validator);
        is_guessed && self.request.facts().may_be_about_who_asks(self.request.rules())
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
        match self.judge_again(stale, &head, fields, times, stale.length()) {
            Ok(mut storable) => {
                storable.part = stale.part();
                if !storable.excluded.is_empty() {
                    let (kept, excluded) = Head::split(head.status, head.fields(), &storable.excluded);
                    head = kept;
                    own.extend(excluded);
                }
                let is_about_who_asks = self.is_about_who_asks(&storable);
                let own = (is_about_who_asks || !own.is_empty()).then(|| head.with(&own));
                if is_about_who_asks {
                    // Nobody has said that what this request got is for all: to them it says only that nothing has changed.
                    head = freshened_by(only_date(fields));
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

/// Of the fields of a response those that say when it was made.
pub(super) fn only_date(fields: &HeaderMap) -> HeaderMap {
    fields.get(header::DATE).map(|date| (header::DATE, date.clone())).into_iter().collect()
}
