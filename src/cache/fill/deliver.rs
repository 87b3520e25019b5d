//! How a response gets from the origin to those who wait for it, and into the store.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;

use super::super::fill_buffer;
use super::super::flight::{Flight, FlightHead, Settled};
use super::super::head::Head;
use super::super::object::Object;
use super::super::part::{self, Part};
use super::super::policy::Storable;
use super::super::reason::SkipReason;
use super::super::status::Stored;
use super::super::vary::Variant;
use super::keep::Keeper;
use super::{Fill, PrivateBody, PrivateResponse, Unread};
use crate::representation::range::ContentRange;

/// What goes before and after the bytes of an exchange to make a body whole.
#[derive(Default)]
pub(super) struct Around {
    pub before: Bytes,
    pub after: Bytes,
}

impl Fill {
    /// Streams a response that is to be stored to whoever follows, and stores it when it is whole.
    ///
    /// A client that has seen the whole of it may ask again at once and must find it stored. So what completes
    /// the response, the last piece or, without a body, the head, is held back until it is.
    pub(super) async fn stream(
        &self,
        mut exchange: Box<Exchange>,
        storable: Storable,
        length: Option<u64>,
        mut around: Around,
    ) {
        if storable.part.is_some() {
            exchange.fields.remove(header::CONTENT_RANGE); // each answer says its own
        }
        let (head, own) = Head::split(exchange.status, std::mem::take(&mut exchange.fields), &storable.excluded);
        let mut held = Bytes::new();
        let mut received = around.before.len() as u64;
        if !around.before.is_empty() {
            self.flight.append(std::mem::take(&mut around.before));
        }
        // The head is there as long as the body is.
        let with_head = if head.is_large() { head.h1().len() as u64 } else { 0 };
        let room = length.map(|length| length.saturating_sub(received) + with_head);
        let mut keeper = Keeper::new(self, head.clone(), storable.clone(), length);
        match room {
            _ if length.is_some_and(|length| length > keeper.most_in_memory) => {
                keeper.leave_memory(SkipReason::TooLarge)
            }
            Some(room) if self.flight.reserve(room, self.request.prefix()) => keeper.has_room = true,
            None if !self.flights.buffer.is_full(self.request.prefix()) => {}
            _ => keeper.leave_memory(SkipReason::FillBuffer),
        }
        let (skipped, has_room) = (keeper.skipped, keeper.has_room);
        let outage = exchange.outage();
        let mut unsent = Some(FlightHead { head, length, storable, own, skipped, outage, has_room });
        let whole = loop {
            if let Some(head) = unsent.take_if(|_| length != Some(received)) {
                self.flight.start(head);
            }
            // Behind the last byte there is nothing that would need room.
            if length != Some(received) && !keeper.goes_on(received).await {
                let cause = "nobody waits for it any more".to_owned();
                break Err(OriginError::Broken { origin: exchange.origin.clone(), cause });
            }
            let chunk = match exchange.read_body().await {
                Ok(Some(chunk)) => chunk,
                // What comes after has its place only if all came that goes before.
                Ok(None) if !around.after.is_empty() && length == Some(received + around.after.len() as u64) => {
                    std::mem::take(&mut around.after)
                }
                Ok(None) => break ended(&exchange, length, received),
                Err(error) => break Err(error),
            };
            received += chunk.len() as u64;
            if length.is_some_and(|length| received > length) {
                break ended(&exchange, length, received); // nobody is to get more than was announced
            }
            if length == Some(received) && held.is_empty() {
                held = chunk;
            } else {
                self.flight.append(chunk.clone());
                keeper.take(chunk, received).await;
            }
        };
        if let Err(error) = whole {
            keeper.keep_prefix();
            return self.flight.abort(error);
        }
        exchange.release();
        let held = keeper.keep(held, &mut unsent).await;
        if let Some(head) = unsent {
            self.flight.start(head);
        }
        if !held.is_empty() {
            self.flight.append(held);
        }
        self.flight.complete();
    }

    /// Gives a part to the request that asked for it, and keeps it, if there is room.
    pub(super) async fn hand_over_part(
        &self,
        mut exchange: Box<Exchange>,
        storable: Storable,
        range: ContentRange,
        owner: oneshot::Sender<PrivateResponse>,
    ) {
        let fields = std::mem::take(&mut exchange.fields);
        let private = Head::private(exchange.status, fields.clone());
        let private = |body| PrivateResponse { head: private, length: Some(range.length()), body };
        let mut whole = fields;
        whole.remove(header::CONTENT_RANGE);
        let (head, _) = Head::split(StatusCode::OK, whole, &storable.excluded);
        let body = Flight::new(self.request.key.clone(), self.flight.seq, None, self.flights.buffer.clone());
        let beside = Object::weight_beside_body_of(self.request.key.view(), &head, &storable);
        let most = self.cache.memory.max_body(self.request.key.as_str(), beside);
        let obstacle = match part::strong_etag(&head) {
            None => Some(SkipReason::Partial), // its entity tag is among what may not be stored
            Some(_) if range.length() > most => Some(SkipReason::TooLarge),
            Some(_) if body.reserve(range.length(), self.request.prefix()) => None,
            Some(_) => Some(SkipReason::FillBuffer),
        };
        if let Some(reason) = obstacle {
            self.cache.metrics.not_stored(reason.as_str());
            self.flight.settle(Settled::Private(Stored::No(reason)));
            exchange.running = self.running.lock().take();
            let rest = Unread { exchange, left: range.length() };
            let _ = owner.send(private(PrivateBody::Passed(rest))); // nobody waits for it: the client left
            return;
        }
        self.flight.settle(Settled::Private(Stored::with(&storable.freshness, Timestamp::now())));
        let seen = FlightHead {
            head: head.clone(),
            length: Some(range.length()),
            storable: storable.clone(),
            own: HeaderMap::new(),
            skipped: None,
            outage: None,
            has_room: true,
        };
        let Some(reader) = body.start_for_one(seen) else { return };
        if owner.send(private(PrivateBody::Kept(reader))).is_err() {
            return;
        }
        let store = |bytes: Bytes| {
            let object = Object::new(self.request.key.view(), head, bytes, storable, self.flight.seq);
            let part = Part::new(object, range)?;
            let object = part.object.clone();
            self.cache.store_part(part, self.request.rules(), &self.flight);
            Some(object)
        };
        self.collect(exchange, range.length(), &body, store).await;
    }

    /// Gives a response that is not to be shared to the request that caused it, at that client's pace.
    pub(super) async fn hand_over(
        &self,
        mut exchange: Box<Exchange>,
        reason: SkipReason,
        length: Option<u64>,
        owner: oneshot::Sender<PrivateResponse>,
    ) {
        let outdated = self.request.stale.as_ref().or(self.request.part.as_ref().map(|part| &part.object));
        // A range that one client asked for says nothing of the whole; nor does what is the fault of its own request, too
        // long, too frequent or forbidden: else whoever provokes such an answer empties the cache for all.
        let is_clients_own =
            exchange.status.is_client_error() && !matches!(exchange.status, StatusCode::NOT_FOUND | StatusCode::GONE);
        // Nor does what somebody's `no-cache` brought while there is something fresh for all.
        let of_all = reason.concerns_every_request()
            && !is_clients_own
            && !exchange.status.is_server_error()
            && !self.request.origin.fields.contains(&header::RANGE)
            && !outdated.is_some_and(|stored| self.cache.is_fresh(stored));
        let is_about_who_asked = reason == SkipReason::Visitor;
        if of_all {
            // For whom it is, it says itself; `Vary: *` is for nobody else.
            let variant_of =
                |fields| Variant::of(fields, self.request.presented(), self.request.rules()).unwrap_or_default();
            let variant = match is_about_who_asked {
                true => variant_of(&self.request.varying_by_who_asks(exchange.fields.clone())),
                false => variant_of(&exchange.fields),
            };
            self.cache.remember_uncacheable(&self.request.key, variant, reason, self.request.rules());
        }
        self.cache.metrics.not_stored(reason.as_str());
        // The origin has a new response that may not be kept; the old one is history. Not so if only this request
        // got it, or if it is an error that will pass.
        if let Some(stale) = outdated
            && of_all
            && !is_about_who_asked
        {
            self.cache.discard(stale);
        }
        self.flights.remove(&self.flight);
        self.flight.settle(Settled::Private(Stored::No(reason)));
        let (request, pools) = (&self.request, &self.request.snapshot.pools);
        exchange.keep_session(pools.get(request.origin.pool), request.origin.choice.origin, request.is_secure);
        let head = Head::private(exchange.status, std::mem::take(&mut exchange.fields));
        exchange.running = self.running.lock().take();
        let body = PrivateBody::Passed(Unread { exchange, left: u64::MAX });
        let _ = owner.send(PrivateResponse { head, length, body }); // nobody waits for it: a refresh, or the client left
    }

    /// Collects a part as the origin sends it, and stores it, however slow its reader is. What completes it is held back until it
    /// is stored.
    async fn collect(
        &self,
        mut exchange: Box<Exchange>,
        length: u64,
        body: &Arc<Flight>,
        store: impl FnOnce(Bytes) -> Option<Arc<Object>>,
    ) {
        let (mut received, mut last) = (0, Bytes::new());
        let whole = loop {
            let chunk = match exchange.read_body().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break ended(&exchange, Some(length), received),
                Err(error) => break Err(error),
            };
            received += chunk.len() as u64;
            // The length is that of the range, which the framing need not have.
            if received > length {
                break ended(&exchange, Some(length), received);
            }
            match received == length && last.is_empty() {
                true => last = chunk,
                false => body.append(chunk),
            }
            if body.is_deserted() {
                return; // the client left
            }
        };
        if let Err(error) = whole {
            return body.abort(error);
        }
        exchange.release();
        let is_shared = {
            // While it is made a large body is there twice, so one is made at a time.
            let _alone = (length > fill_buffer::SMALL).then(|| self.flights.joining.lock());
            let bytes = body.body_between(&[], &last);
            store(bytes.clone()).is_some_and(|object| self.cache.share(body, &bytes, &object, 0))
        };
        if !is_shared {
            body.append(last);
        }
        body.complete();
    }
}

/// Whether a body that has ended is as long as its head says.
fn ended(exchange: &Exchange, length: Option<u64>, received: u64) -> Result<(), OriginError> {
    if length.is_none_or(|length| length == received) {
        return Ok(());
    }
    let cause = format!("the body has {received} bytes, its head says otherwise");
    Err(OriginError::Broken { origin: exchange.origin.clone(), cause })
}
