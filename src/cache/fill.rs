//! The fill: the one transfer from an origin that creates or refreshes an object. It runs in a task of its
//! own, so that no client's pace or leave touches it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Timestamp;
use crate::config::model::CacheRules;
use crate::origin::connect::OriginError;
use crate::origin::exchange::{self, Exchange, OriginRequest};
use crate::request::Fields;
use crate::snapshot::Snapshot;

use super::coding;
use super::engine::Engine;
use super::explain;
use super::flight::{Flight, FlightHead, ObjectUse, Settled};
use super::freshness::{ExchangeTimes, Usability};
use super::inspect::TriedOut;
use super::object::{Head, Object};
use super::part::{self, ContentRange, Missing, Part};
use super::policy::{self, RequestFacts, ResponseFacts, Storable};
use super::purge::Standing;
use super::reason::SkipReason;
use super::status::Stored;
use super::tags;

/// RFC 9875 section 2.
static GROUPS: HeaderName = HeaderName::from_static("cache-groups");
/// Pieces of a private response that may wait for its client: back-pressure to the origin beyond that.
const PRIVATE_PIECES: usize = 4;

/// Everything a fill needs to know; owned, since it outlives the request that caused it.
pub struct FillRequest {
    pub snapshot: Arc<Snapshot>,
    pub site_index: usize,
    pub route_index: usize,
    /// The client's fields, for `Vary` and `Authorization`.
    pub client_fields: HeaderMap,
    /// The client wants nothing stored.
    pub no_store: bool,
    /// What is sent to the origin, before conditions are added.
    pub origin: OriginRequest,
    /// A stored response that may be validated, or used if the origin fails.
    pub stale: Option<Arc<Object>>,
    /// A part of a response, to be completed.
    pub part: Option<Arc<Part>>,
}

impl FillRequest {
    fn rules(&self) -> &CacheRules {
        &self.snapshot.route(self.site_index, self.route_index).cache
    }

    fn facts(&self) -> RequestFacts<'_> {
        RequestFacts {
            fields: Fields::Map(&self.client_fields),
            has_authorization: self.client_fields.contains_key(header::AUTHORIZATION),
            no_store: self.no_store,
        }
    }
}

/// A response that only the request which caused the fill may have.
pub struct PrivateResponse {
    pub head: Head,
    pub length: Option<u64>,
    pub body: mpsc::Receiver<Result<Bytes, OriginError>>,
}

/// Runs a fill to its end. The flight is always settled when this returns, or when it is dropped or panics.
pub async fn run(
    engine: Arc<Engine>,
    flight: Arc<Flight>,
    mut request: FillRequest,
    owner: oneshot::Sender<PrivateResponse>,
) {
    let ended = EndGuard { engine: &engine, flight: &flight };
    add_conditions(&mut request);
    let missing = ask_for_the_rest(&mut request);
    let mut answer = exchange::get(&engine.connector, &request.snapshot.pools, &request.origin).await;
    if let (Ok(exchange), Some(missing), Some(part)) = (&mut answer, missing, &request.part)
        && matches!(exchange.status, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE)
    {
        match completion(&engine, &flight, &request, part, &missing, exchange) {
            Some((storable, around)) => {
                let length = Some(part.range.total);
                if let Ok(exchange) = answer {
                    stream(&engine, &flight, &request, exchange, storable, length, around).await;
                }
                return drop(ended);
            }
            None => {
                // What is here is of something that is no more: the whole is asked for.
                engine.memory.remove(&part.object);
                request.origin.fields.remove(header::RANGE);
                request.origin.fields.remove(header::IF_RANGE);
                answer = exchange::get(&engine.connector, &request.snapshot.pools, &request.origin).await;
            }
        }
    }
    match answer {
        Ok(exchange) => receive(&engine, &flight, &request, exchange, owner).await,
        Err(error) => flight.settle(stale_instead(&engine, &request, None).unwrap_or(Settled::Failed(error))),
    }
    drop(ended);
}

/// Asks for what a stored part lacks, if that is in one piece and the whole may be stored.
fn ask_for_the_rest(request: &mut FillRequest) -> Option<Missing> {
    let part = request.part.as_ref()?;
    let missing = part.missing()?;
    part.ask_for(&missing, &mut request.origin.fields);
    Some(missing)
}

/// What goes before and after the bytes of an exchange to make a body whole.
#[derive(Default)]
struct Around {
    before: Bytes,
    after: Bytes,
}

/// Makes of a 206 that brings what a part lacks the head of the whole, with the newer fields (RFC 9111 section 3.4).
/// `None`: it does not bring that, or what it brings may no longer be stored.
fn completion(
    engine: &Engine,
    flight: &Flight,
    request: &FillRequest,
    part: &Part,
    missing: &Missing,
    exchange: &mut Exchange,
) -> Option<(Storable, Around)> {
    let live = engine.purges.standing(&part.object) != Standing::Dead && !flight.is_spoilt();
    if !live || part.range.total > engine.max_object() || !part.is_completed_by(missing, &exchange.fields) {
        return None;
    }
    let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
    add_date(&mut exchange.fields, times.response);
    let received = std::mem::take(&mut exchange.fields);
    let head = part.object.head.freshened_by(received.clone());
    let fields = with_age(&head.fields, &received);
    let length = Some(part.range.total);
    let Ok(mut storable) = judge(engine, request, StatusCode::OK, &fields, times, length) else {
        exchange.fields = received;
        return None;
    };
    (exchange.status, exchange.fields) = (StatusCode::OK, head.fields);
    storable.variant = part.object.variant.clone();
    storable.tags = part.object.tags.clone();
    let body = part.object.body.clone();
    let around = match missing.after {
        true => Around { before: body, after: Bytes::new() },
        false => Around { before: Bytes::new(), after: body },
    };
    Some((storable, around))
}

/// Makes sure that whoever follows a flight is told of its end, also when the fill panics.
struct EndGuard<'a> {
    engine: &'a Engine,
    flight: &'a Arc<Flight>,
}

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.engine.flights.remove(self.flight);
        let cause = "the fill ended before the response did".to_owned();
        self.flight.abort(OriginError::Broken { origin: "".into(), cause });
    }
}

/// Asks the origin to confirm what is stored (RFC 9111 section 4.3.1).
fn add_conditions(request: &mut FillRequest) {
    let Some(stale) = &request.stale else { return };
    for (stored, condition) in
        [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)]
    {
        if let Some(value) = stale.head.fields.get(stored) {
            request.origin.fields.insert(condition, value.clone());
        }
    }
}

async fn receive(
    engine: &Arc<Engine>,
    flight: &Arc<Flight>,
    request: &FillRequest,
    mut exchange: Exchange,
    owner: oneshot::Sender<PrivateResponse>,
) {
    let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
    add_date(&mut exchange.fields, times.response);
    if exchange.status == StatusCode::NOT_MODIFIED
        && let Some(stale) = &request.stale
    {
        if confirms_another(&exchange.fields, stale) {
            // RFC 9111 section 4.3.4: it says nothing about what is stored here.
            engine.memory.remove(stale);
            let (origin, cause) = (exchange.origin.clone(), "its 304 is about another ETag".to_owned());
            return flight.settle(Settled::Failed(OriginError::Invalid { origin, cause }));
        }
        let settled = freshen(engine, flight, request, stale, &exchange.fields, times);
        exchange.release(&engine.connector).await;
        return flight.settle(settled);
    }
    if exchange.status.is_server_error()
        && let Some(settled) = stale_instead(engine, request, Some(exchange.status))
    {
        return flight.settle(settled);
    }
    let length = exchange.content_length();
    match judge(engine, request, exchange.status, &exchange.fields, times, length) {
        Ok(mut storable) => {
            let groups = tags::groups(&exchange.fields, &GROUPS, flight.key.origin());
            if !groups.is_empty() {
                storable.tags = storable.tags.with_groups(groups);
            }
            if let Some(rules) = &request.rules().compress
                && coding::suits(rules, exchange.status, &exchange.fields, length)
            {
                coding::add_vary(&mut exchange.fields);
            }
            match storable.part {
                Some(range) => hand_over_part(engine, flight, request, exchange, storable, range, owner).await,
                None => stream(engine, flight, request, exchange, storable, length, Around::default()).await,
            }
        }
        Err(reason) => hand_over(engine, flight, request, exchange, reason, length, owner).await,
    }
}

/// Whether a 304 has a strong validator that is not the stored one.
fn confirms_another(fields: &HeaderMap, stale: &Object) -> bool {
    let strong = fields.get(header::ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/"));
    strong.is_some_and(|etag| stale.head.fields.get(header::ETAG) != Some(etag))
}

/// RFC 9110 section 6.6.1: a response without `Date` gets the time it came.
fn add_date(fields: &mut HeaderMap, now: Timestamp) {
    if !fields.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::from_str(&now.http_date())
    {
        fields.insert(header::DATE, date);
    }
}

fn judge(
    engine: &Engine,
    request: &FillRequest,
    status: StatusCode,
    fields: &HeaderMap,
    times: ExchangeTimes,
    length: Option<u64>,
) -> Result<Storable, SkipReason> {
    let max_object = engine.max_object();
    policy::judge(
        request.rules(),
        &request.facts(),
        &ResponseFacts { status, headers: fields, times, length, max_object },
    )
}

/// The stored response, if it may stand in for an origin that failed (RFC 5861 section 4). It may have been
/// purged since the fill began.
fn stale_instead(engine: &Engine, request: &FillRequest, status: Option<StatusCode>) -> Option<Settled> {
    let stale = request.stale.as_ref()?;
    match engine.usability(stale, Timestamp::now())? {
        Usability::Stale { .. } => None,
        Usability::Fresh { .. } | Usability::StaleWhileRevalidate { .. } | Usability::StaleIfError { .. } => {
            let status = status.map(|status| status.as_u16());
            Some(Settled::Object(stale.clone(), ObjectUse::StaleIfError { status }))
        }
    }
}

/// RFC 9111 section 4.3.4: the stored response with the fields of the 304 is stored anew.
fn freshen(
    engine: &Engine,
    flight: &Flight,
    request: &FillRequest,
    stale: &Arc<Object>,
    fields: &HeaderMap,
    times: ExchangeTimes,
) -> Settled {
    let head = stale.head.freshened_by(fields.clone());
    // Tags are not among the fields that clients see: they stay as stored.
    match judge(engine, request, head.status, &with_age(&head.fields, fields), times, Some(stale.length())) {
        Ok(mut storable) => {
            storable.tags = stale.tags.clone();
            storable.variant = stale.variant.clone();
            let object = Object::new(flight.key.clone(), head, stale.body.clone(), storable, flight.seq);
            if !stale.codings().is_empty() {
                object.set_codings(stale.codings().iter().map(|coded| (coded.coding, coded.body.clone())));
            }
            return Settled::Object(engine.store(object, request.rules(), flight), ObjectUse::Validated);
        }
        // No longer to be stored, but confirmed for those who wait.
        Err(reason) if reason.concerns_every_request() => engine.memory.remove(stale),
        Err(_) => {}
    }
    Settled::Object(stale.clone(), ObjectUse::Validated)
}

/// The fields to judge freshness by: `Age` is not kept in stored heads, but counts in the exchange it came by.
fn with_age(stored: &HeaderMap, received: &HeaderMap) -> HeaderMap {
    let mut fields = stored.clone();
    if let Some(age) = received.get(header::AGE) {
        fields.insert(header::AGE, age.clone());
    }
    fields
}

/// Streams a response that is to be stored to whoever follows, and stores it when it is whole.
///
/// A client that has seen the whole of it may ask again at once and must find it stored. So what completes
/// the response, the last piece or, without a body, the head, is held back until it is.
async fn stream(
    engine: &Arc<Engine>,
    flight: &Arc<Flight>,
    request: &FillRequest,
    mut exchange: Exchange,
    storable: Storable,
    length: Option<u64>,
    mut around: Around,
) {
    let Storable { freshness, variant, tags, basis, excluded, .. } = storable.clone();
    let (head, own) = Head::split(exchange.status, std::mem::take(&mut exchange.fields), &excluded);
    let mut unsent = Some(FlightHead { head: head.clone(), length, freshness, variant, basis, tags, own });
    let mut held = Bytes::new();
    let mut received = around.before.len() as u64;
    if !around.before.is_empty() {
        flight.append(std::mem::take(&mut around.before));
    }
    let mut keeping = true;
    loop {
        if let Some(head) = unsent.take_if(|_| length != Some(received)) {
            flight.start(head);
        }
        let chunk = match exchange.read_body().await {
            Ok(Some(chunk)) => Some(chunk),
            Ok(None) => Some(std::mem::take(&mut around.after)).filter(|after| !after.is_empty()),
            Err(error) => {
                if keeping {
                    keep_prefix(engine, flight, request, head, storable, length);
                }
                return flight.abort(error);
            }
        };
        let Some(chunk) = chunk else { break };
        received += chunk.len() as u64;
        if length == Some(received) && held.is_empty() {
            held = chunk;
        } else {
            flight.append(chunk);
        }
        if keeping && received > engine.max_object() {
            keeping = false;
            flight.stop_keeping();
            engine.remember_uncacheable(&flight.key, SkipReason::TooLarge, request.rules());
        }
        if !keeping && !flight.wait_for_readers().await {
            return;
        }
    }
    if length.is_some_and(|length| length != received) {
        let cause = format!("the body has {received} bytes, its head says otherwise");
        if keeping {
            keep_prefix(engine, flight, request, head, storable, length);
        }
        return flight.abort(OriginError::Broken { origin: exchange.origin.clone(), cause });
    }
    exchange.release(&engine.connector).await;
    if keeping {
        let object = Object::new(flight.key.clone(), head, flight.body_with(&held), storable, flight.seq);
        engine.store(object, request.rules(), flight);
    }
    if let Some(head) = unsent {
        flight.start(head);
    }
    if !held.is_empty() {
        flight.append(held);
    }
    flight.complete();
}

/// Keeps what came of a response that broke off, to go on from there (RFC 9111 section 3.3).
fn keep_prefix(
    engine: &Engine,
    flight: &Flight,
    request: &FillRequest,
    head: Head,
    storable: Storable,
    length: Option<u64>,
) {
    if head.status == StatusCode::OK && part::strong_etag(&head).is_some() {
        let object = Object::new(flight.key.clone(), head, flight.body_with(&[]), storable, flight.seq);
        if let Some(part) = part::prefix(object, length) {
            engine.store_part(part, request.rules(), flight);
        }
    }
}

/// Gives a part to the request that asked for it, and keeps it.
async fn hand_over_part(
    engine: &Arc<Engine>,
    flight: &Arc<Flight>,
    request: &FillRequest,
    mut exchange: Exchange,
    storable: Storable,
    range: ContentRange,
    owner: oneshot::Sender<PrivateResponse>,
) {
    let fields = std::mem::take(&mut exchange.fields);
    let ttl = storable.freshness.lifetime.saturating_sub(storable.freshness.current_age(Timestamp::now()));
    flight.settle(Settled::Private(Stored::Yes { basis: storable.basis, ttl }));
    let (sender, body) = mpsc::channel(PRIVATE_PIECES);
    let own = Head::private(exchange.status, fields.clone());
    if owner.send(PrivateResponse { head: own, length: Some(range.length()), body }).is_err() {
        return;
    }
    let mut whole = fields;
    whole.remove(header::CONTENT_RANGE);
    let (head, _) = Head::split(StatusCode::OK, whole, &storable.excluded);
    let store = |bytes: Bytes| {
        let object = Object::new(flight.key.clone(), head, bytes, storable, flight.seq);
        if let Some(part) = Part::new(object, range) {
            engine.store_part(part, request.rules(), flight);
        }
    };
    pump(engine, exchange, Some(range.length()), sender, Some(store)).await;
}

/// Gives a response that is not to be shared to the request that caused it, at that client's pace.
async fn hand_over(
    engine: &Arc<Engine>,
    flight: &Arc<Flight>,
    request: &FillRequest,
    mut exchange: Exchange,
    reason: SkipReason,
    length: Option<u64>,
    owner: oneshot::Sender<PrivateResponse>,
) {
    // A range that one client asked for says nothing of the whole.
    let of_all = reason.concerns_every_request() && !request.origin.fields.contains_key(header::RANGE);
    if of_all && !exchange.status.is_server_error() {
        engine.remember_uncacheable(&flight.key, reason, request.rules());
    }
    engine.metrics.not_stored(reason.as_str());
    // The origin has a new response that may not be kept; the old one is history. Not so if only this request
    // got it, or if it is an error that will pass.
    let outdated = request.stale.as_ref().or(request.part.as_ref().map(|part| &part.object));
    if let Some(stale) = outdated
        && of_all
        && !exchange.status.is_server_error()
    {
        engine.memory.remove(stale);
    }
    engine.flights.remove(flight);
    flight.settle(Settled::Private(Stored::No(reason)));
    let (sender, body) = mpsc::channel(PRIVATE_PIECES);
    let head = Head::private(exchange.status, std::mem::take(&mut exchange.fields));
    if owner.send(PrivateResponse { head, length, body }).is_ok() {
        pump(engine, exchange, length, sender, None::<fn(Bytes)>).await;
    } // else nobody waits for it: a background refresh, or the client left
}

/// Gets a response and judges it; its body is not read and nothing is stored.
pub async fn try_out(engine: &Engine, request: FillRequest) -> Result<TriedOut, OriginError> {
    let mut exchange = exchange::get(&engine.connector, &request.snapshot.pools, &request.origin).await?;
    let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
    add_date(&mut exchange.fields, times.response);
    let facts = request.facts();
    let response = ResponseFacts {
        status: exchange.status,
        headers: &exchange.fields,
        times,
        length: exchange.content_length(),
        max_object: engine.max_object(),
    };
    Ok(TriedOut {
        origin: exchange.origin.clone(),
        status: exchange.status.as_u16(),
        fields: explain::deciding_fields(&exchange.fields),
        explanation: explain::explain(request.rules(), &facts, &response),
    })
}

/// A response for one client that no fill has to do with. Its body is read in a task of its own.
pub fn private(engine: &Arc<Engine>, mut exchange: Exchange) -> PrivateResponse {
    let (sender, body) = mpsc::channel(PRIVATE_PIECES);
    let (status, length) = (exchange.status, exchange.content_length());
    let head = Head::private(status, std::mem::take(&mut exchange.fields));
    let engine = engine.clone();
    tokio::spawn(async move { pump(&engine, exchange, length, sender, None::<fn(Bytes)>).await });
    PrivateResponse { head, length, body }
}

/// Sends a body piece by piece, at its reader's pace; `keep` gets the whole of it, if that came.
async fn pump(
    engine: &Engine,
    mut exchange: Exchange,
    length: Option<u64>,
    sender: mpsc::Sender<Result<Bytes, OriginError>>,
    keep: Option<impl FnOnce(Bytes)>,
) {
    // What completes the response is sent after the connection is given back: the client's next request may
    // come at once, and should find it.
    let (mut received, mut last) = (0, None);
    let mut kept = Vec::new();
    loop {
        match exchange.read_body().await {
            Ok(Some(chunk)) if chunk.is_empty() => {}
            Ok(Some(chunk)) => {
                received += chunk.len() as u64;
                if keep.is_some() && length.is_some_and(|length| received <= length) {
                    kept.extend_from_slice(&chunk);
                }
                if length == Some(received) && last.is_none() {
                    last = Some(chunk);
                } else if sender.send(Ok(chunk)).await.is_err() {
                    return; // the client left
                }
            }
            Ok(None) => break,
            Err(error) => {
                let _ = sender.send(Err(error)).await; // if the client left as well, nobody needs to know
                return;
            }
        }
    }
    exchange.release(&engine.connector).await;
    if let Some(keep) = keep.filter(|_| length == Some(received)) {
        keep(kept.into());
    }
    if let Some(last) = last {
        let _ = sender.send(Ok(last)).await; // if the client left, nobody needs it
    }
    // The end is said: a channel that merely closes is a fill that was lost.
    let _ = sender.send(Ok(Bytes::new())).await;
}
