//! The fill: the one transfer from an origin that creates or refreshes an object. It runs in a task of its
//! own, so that no client's pace or leave touches it.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::config::model::CacheRules;
use crate::origin::attempts;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;
use crate::origin::forward;
use crate::origin::request::{OriginRequest, Silence};
use crate::plan::CacheKey;
use crate::prefix::Prefix;
use crate::request::Fields;
use crate::snapshot::Snapshot;

use super::coding;
use super::engine::{CacheRequest, Engine};
use super::explain;
use super::flight::{Flight, FlightReader, ObjectUse, Settled};
use super::freshness::ExchangeTimes;
use super::inspect::TriedOut;
use super::object::{Head, Object, add_date, remove_hop_by_hop};
use super::part::{self, Part};
use super::policy::{self, RequestFacts, ResponseFacts, Storable};
use super::purge::Standing;
use super::reason::{Basis, SkipReason};
use super::slices::{OwnedSlice, Slice, SliceVerdict};
use super::tags;
use super::vary::{self, Presented};

mod complete;
mod deliver;
mod keep;

use complete::{Around, ask_for_the_rest, completion};
use deliver::{hand_over, hand_over_part, stream};

/// RFC 9875 section 2.
static GROUPS: HeaderName = HeaderName::from_static("cache-groups");

/// Everything a fill needs to know; owned, since it outlives the request that caused it.
pub struct FillRequest {
    pub snapshot: Arc<Snapshot>,
    pub site_index: usize,
    pub route_index: usize,
    /// What the response is stored under.
    pub key: CacheKey,
    /// Of what a slice is asked for.
    pub slice: Option<OwnedSlice>,
    /// The client's fields, for `Vary` and `Authorization`.
    pub client_fields: HeaderMap,
    client: IpAddr,
    version: Version,
    /// Bytes of the target that the client sent.
    pub target: usize,
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
    /// What a fill for a request asks the origin; `stale`: what may be validated; `part`: what may be completed.
    pub fn new(request: &CacheRequest<'_>, stale: Option<Arc<Object>>, part: Option<Arc<Part>>) -> Box<Self> {
        let view = request.view;
        let rules = &request.matched.route.cache;
        let client_fields = view.fields.to_map();
        let mut fields = client_fields.clone();
        remove_hop_by_hop(&mut fields);
        if !rules.heeds_clients() {
            // Not heeded here, so caches further on are not to heed it for all of this one's clients either.
            fields.remove(header::CACHE_CONTROL);
            fields.remove(header::PRAGMA);
        }
        forward::exclude_from_fill(&mut fields, rules);
        vary::normalise(&mut fields, &rules.key);
        let slice = request.slice.map(Slice::to_owned);
        let range = match &slice {
            Some(slice) => Some(slice.range()),
            None if part.is_none() => asked_range(request, stale.as_ref()),
            None => None,
        };
        if let Some(range) = range {
            fields.insert(header::RANGE, range);
        }
        // As it is keyed: a port of the client's choosing must not shape what all get.
        let authority = request.matched.keyed_authority(view);
        let snapshot = request.snapshot;
        forward::set_forwarding_fields(&mut fields, view, &authority, &snapshot.config.node, &snapshot.passage);
        let pool = request.matched.route.pool;
        let key = CacheKey::from_written(request.key);
        Box::new(FillRequest {
            origin: OriginRequest {
                method: Method::GET,
                path_and_query: key.view().path_and_query().to_owned(),
                authority,
                fields,
                pool,
                hash: request.snapshot.pools.hash(pool, view),
                upgrade: None,
                takes_trailers: false,
                silence: request.snapshot.config.stream_timeout(request.matched.route).map(Silence::Of),
                interims: None,
            },
            snapshot: request.snapshot.clone(),
            site_index: request.matched.site_index,
            route_index: request.matched.route_index,
            key,
            slice,
            client_fields,
            client: view.client,
            version: view.version,
            target: view.path.len() + view.query.map_or(0, str::len),
            no_store: request.asks.no_store,
            part: part.filter(|_| !request.asks.no_store),
            stale: stale.filter(|_| !request.asks.no_store),
        })
    }

    fn rules(&self) -> &CacheRules {
        &self.snapshot.route(self.site_index, self.route_index).cache
    }

    /// As stored responses are selected by it.
    fn presented(&self) -> Presented<'_> {
        Presented {
            fields: Fields::Map(&self.client_fields),
            client: self.client,
            version: self.version,
            trusted_proxies: &self.snapshot.config.node.trusted_proxies,
        }
    }

    /// The network for whose sake it is stored. `None`: its clients are no crowd, as those behind a trusted proxy.
    fn prefix(&self) -> Option<Prefix> {
        self.snapshot.config.node.prefix_of(self.client)
    }

    fn facts(&self) -> RequestFacts<'_> {
        RequestFacts::new(self.presented(), self.target, self.no_store)
    }

    /// The fields of a response, as if it varied by all that may tell the origin who asks, as [`policy::RequestFacts`] has it; by
    /// some of that, if it is much.
    fn varying_by_who_asks(&self, mut fields: HeaderMap) -> HeaderMap {
        const MOST: usize = 8;
        let mut names = 0;
        self.presented().fields.for_all(|name, _| {
            if names < MOST
                && policy::may_tell_who_asks(name, self.rules())
                && let Ok(name) = HeaderValue::from_str(name)
            {
                fields.append(header::VARY, name);
                names += 1;
            }
        });
        fields
    }

    /// Leaves out what a purge has killed by the time the fill's number was taken: it is not to be validated back to life.
    fn let_the_dead_rest(&mut self, engine: &Engine) {
        let lives = |object: &Object| engine.purges.standing(object) != Standing::Dead;
        self.stale = self.stale.take().filter(|stale| lives(stale));
        self.part = self.part.take().filter(|part| lives(&part.object));
    }
}

/// The range to ask the origin for, where the route says so and nothing whole is there to be validated.
pub(super) fn asked_range(request: &CacheRequest<'_>, stale: Option<&Arc<Object>>) -> Option<HeaderValue> {
    let asks = request.matched.route.cache.fetch_ranges && stale.is_none() && *request.view.method == Method::GET;
    asks.then(|| part::single_range(request.view.fields)).flatten().and_then(|range| range.parse().ok())
}

/// A response that only the request which caused the fill may have.
pub struct PrivateResponse {
    pub head: Head,
    pub length: Option<u64>,
    pub body: PrivateBody,
}

/// How the body of such a response comes.
pub enum PrivateBody {
    /// By the fill, which keeps it.
    Kept(FlightReader),
    /// As its reader reads it.
    Passed(Unread),
    /// What is stored, or was.
    Stored(Arc<Object>),
}

/// What is to be read of an origin's answer.
pub struct Unread {
    pub exchange: Box<Exchange>,
    /// Keeps the connection for the next request.
    pub engine: Arc<Engine>,
    /// Bytes that come at most, where the framing does not say so.
    pub left: u64,
}

/// Runs a fill to its end. The flight is always settled when this returns, or when it is dropped or panics.
pub async fn run(
    engine: Arc<Engine>,
    flight: Arc<Flight>,
    mut request: Box<FillRequest>,
    owner: oneshot::Sender<PrivateResponse>,
) {
    let ended = EndGuard { engine: &engine, flight: &flight };
    request.let_the_dead_rest(&engine);
    request.origin.interims = Some(flight.interims.clone());
    add_conditions(&mut request);
    let missing = ask_for_the_rest(&mut request);
    let mut answer = attempts::send(&engine.connector, &request.snapshot.pools, &request.origin, None).await;
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
                // What is here is of something that is no more, unless only this answer is not for all: the whole is asked for.
                let agrees =
                    exchange.status == StatusCode::PARTIAL_CONTENT && part.is_completed_by(&missing, &exchange.fields);
                if !(agrees && engine.is_fresh(&part.object)) {
                    engine.discard(&part.object);
                }
                request.origin.fields.remove(header::RANGE);
                request.origin.fields.remove(header::IF_RANGE);
                answer = attempts::send(&engine.connector, &request.snapshot.pools, &request.origin, None).await;
            }
        }
    }
    if let (Ok(exchange), Some(stale)) = (&answer, &request.stale)
        && exchange.status == StatusCode::NOT_MODIFIED
        && (confirms_another(&exchange.fields, stale) || engine.purges.standing(stale) == Standing::Dead)
    {
        // It says nothing about what is stored here (RFC 9111 section 4.3.4), or a purge has killed that meanwhile.
        if !engine.is_fresh(stale) {
            engine.discard(stale);
        }
        request.stale = None;
        request.origin.fields.remove(header::IF_NONE_MATCH);
        request.origin.fields.remove(header::IF_MODIFIED_SINCE);
        answer = attempts::send(&engine.connector, &request.snapshot.pools, &request.origin, None).await;
    }
    if let (Ok(exchange), Some(slice)) = (&answer, request.slice.take()) {
        match slice.verdict(exchange.status, &exchange.fields) {
            SliceVerdict::Slice => request.slice = Some(slice),
            SliceVerdict::Other => request.key = slice.of,
            SliceVerdict::Whole => {
                engine.remember_unsliced(&slice.of);
                request.key = slice.of;
            }
            SliceVerdict::Unusable => {
                engine.remember_unsliced(&slice.of);
                flight.settle(Settled::NotInSlices);
                return drop(ended);
            }
        }
    }
    match answer {
        Ok(exchange) => receive(&engine, &flight, &request, exchange, owner).await,
        Err(error) => flight.settle(stale_instead(&engine, &request, None).unwrap_or(Settled::Failed(error))),
    }
    drop(ended);
}

/// Makes sure that whoever follows a flight is told of its end, also when the fill panics.
struct EndGuard<'a> {
    engine: &'a Engine,
    flight: &'a Arc<Flight>,
}

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.engine.flights.remove(self.flight);
        if std::thread::panicking() {
            self.engine.metrics.fills_lost.inc();
        }
        self.flight.abort(OriginError::FillLost); // does nothing to one that has ended
    }
}

/// Asks the origin to confirm what is stored (RFC 9111 section 4.3.1).
fn add_conditions(request: &mut FillRequest) {
    let Some(stale) = &request.stale else { return };
    for (stored, condition) in
        [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)]
    {
        if let Some(value) = stale.head.get(&stored).and_then(|value| HeaderValue::from_bytes(value).ok()) {
            request.origin.fields.insert(condition, value);
        }
    }
}

async fn receive(
    engine: &Arc<Engine>,
    flight: &Arc<Flight>,
    request: &FillRequest,
    mut exchange: Box<Exchange>,
    owner: oneshot::Sender<PrivateResponse>,
) {
    let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
    add_date(&mut exchange.fields, times.response);
    if exchange.status == StatusCode::NOT_MODIFIED
        && let Some(stale) = &request.stale
    {
        let (settled, own) = freshen(engine, flight, request, stale, &exchange.fields, times);
        // A slice is a part of what is answered, which has its head from elsewhere.
        if let (Settled::Object(object, _), Some(head), None) = (&settled, own, &request.slice) {
            let (length, body) = (Some(object.length()), PrivateBody::Stored(object.clone()));
            let _ = owner.send(PrivateResponse { head, length, body }); // nobody waits for it: a refresh, or the client left
        }
        exchange.release(&engine.connector).await;
        return flight.settle(settled);
    }
    if exchange.status.is_server_error()
        && let Some(settled) = stale_instead(engine, request, Some(exchange.status))
    {
        return flight.settle(settled);
    }
    let length = exchange.content_length();
    match judge(engine, request, exchange.status, &exchange.fields, times, length, false) {
        Ok(mut storable) => {
            let groups = tags::groups(&exchange.fields, &GROUPS, request.key.view().origin());
            if !groups.is_empty() {
                storable.tags = storable.tags.with_groups(groups);
            }
            if let Some(rules) = &request.rules().compress
                && coding::suits(rules, exchange.status, &exchange.fields, length)
            {
                coding::add_vary(&mut exchange.fields);
            }
            match storable.part {
                // What it is a slice of may be larger than anything that is stored.
                Some(range) if request.slice.is_some() => {
                    exchange.status = StatusCode::OK;
                    stream(engine, flight, request, exchange, storable, Some(range.length()), Around::default()).await;
                }
                // Boxed: large and rare.
                Some(range) => {
                    let handing = hand_over_part(engine, flight, request, exchange, storable, range, owner);
                    Box::pin(handing).await;
                }
                None => stream(engine, flight, request, exchange, storable, length, Around::default()).await,
            }
        }
        // The client asked for something else than a slice: it has to ask for itself.
        Err(reason) if request.slice.is_some() => {
            if reason.concerns_every_request() {
                engine.remember_unsliced(&request.slice.as_ref().map_or(&request.key, |slice| &slice.of).clone());
            }
            flight.settle(Settled::NotInSlices);
        }
        Err(reason) => hand_over(engine, flight, request, exchange, reason, length, owner).await,
    }
}

/// Whether a 304 has another validator than what is stored (RFC 9111 section 4.3.4). They are compared weakly: nginx weakens the
/// tag of what it codes, but not in the 304.
fn confirms_another(fields: &HeaderMap, stale: &Object) -> bool {
    let opaque = |etag: &[u8]| etag.strip_prefix(b"W/").unwrap_or(etag).to_vec();
    let Some(given) = fields.get(header::ETAG).map(|etag| etag.as_bytes()) else { return false };
    match stale.head.get(&header::ETAG) {
        Some(stored) => opaque(stored) != opaque(given),
        None => !given.starts_with(b"W/"),
    }
}

/// `confirms`: the response says that what is stored, or the rest of it, is still the same.
fn judge(
    engine: &Engine,
    request: &FillRequest,
    status: StatusCode,
    fields: &HeaderMap,
    times: ExchangeTimes,
    length: Option<u64>,
    confirms: bool,
) -> Result<Storable, SkipReason> {
    // Parts that are no slices are kept in memory alone.
    let is_part = status == StatusCode::PARTIAL_CONTENT && request.slice.is_none();
    let max_object = if is_part { engine.max_object() } else { engine.max_stored() };
    let response = ResponseFacts { status, headers: fields, times, length, max_object };
    let facts = if confirms { request.facts().confirming() } else { request.facts() };
    let storable = policy::judge(request.rules(), &facts, &response)?;
    let needs_disk = length.is_some_and(|length| length > engine.max_object());
    match needs_disk.then(|| engine.disk.obstacle(&request.key)).flatten() {
        Some(_) => Err(SkipReason::Disk),
        None => Ok(storable),
    }
}

/// The stored response, if it may stand in for an origin that failed. `status`: of its answer; `None`: none came.
fn stale_instead(engine: &Engine, request: &FillRequest, status: Option<StatusCode>) -> Option<Settled> {
    let unreachable = status.is_none().then_some(request.rules().stale_if_unreachable);
    let stale = request.stale.as_ref().filter(|stale| engine.may_stand_in(stale, unreachable))?;
    let status = status.map(|status| status.as_u16());
    Some(Settled::Object(stale.clone(), ObjectUse::StaleIfError { status }))
}

/// RFC 9111 section 4.3.4: the stored response with the fields of the 304 is stored anew. What the 304 says to the request
/// alone that it answers, cookies above all, goes into a head for that.
fn freshen(
    engine: &Engine,
    flight: &Flight,
    request: &FillRequest,
    stale: &Arc<Object>,
    fields: &HeaderMap,
    times: ExchangeTimes,
) -> (Settled, Option<Head>) {
    let mut own = HeaderMap::new();
    own.extend(fields.get_all(header::SET_COOKIE).iter().map(|cookie| (header::SET_COOKIE, cookie.clone())));
    let freshened_by = |fields: HeaderMap| {
        let head = stale.head.freshened_by(fields);
        let compress = request.rules().compress.as_ref();
        let suits = |rules| coding::suits(rules, head.status, &head.fields(), Some(stale.length()));
        if compress.is_some_and(suits) { head.varying_by_coding() } else { head }
    };
    let mut head = freshened_by(fields.clone());
    // Tags are not among the fields that clients see: they stay as stored.
    let merged = with_age(head.fields(), fields);
    match judge(engine, request, head.status, &merged, times, Some(stale.length()), true) {
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
            let is_about_who_asks = is_guessed && request.facts().may_be_about_who_asks(request.rules());
            let own = (is_about_who_asks || !own.is_empty()).then(|| head.with(&own));
            if is_about_who_asks {
                // Nobody has said that what this request got is for all: to them it says only that nothing has changed.
                let is_date = |(name, _): &(HeaderName, HeaderValue)| *name == header::DATE;
                let all = fields.iter().map(|(name, value)| (name.clone(), value.clone()));
                head = freshened_by(all.filter(is_date).collect());
            }
            let mut object = Object::new(request.key.view(), head, stale.content.clone(), storable, flight.seq);
            object.share_coding(stale);
            object.continue_uses(stale);
            let object = engine.store(object, request.rules(), flight);
            if object.take_codings(stale) {
                engine.memory.weigh_again(&object); // they were made while it was stored
            }
            (Settled::Object(object, ObjectUse::Validated), own)
        }
        // No longer to be stored, but confirmed for who asked.
        Err(reason) => {
            if reason.concerns_every_request() && !engine.is_fresh(stale) {
                engine.discard(stale);
            }
            (Settled::Object(stale.clone(), ObjectUse::Confirmed(reason)), Some(head.with(&own)))
        }
    }
}

/// The fields to judge freshness by: `Age` is not kept in stored heads, but counts in the exchange it came by.
fn with_age(stored: HeaderMap, received: &HeaderMap) -> HeaderMap {
    let mut fields = stored;
    if let Some(age) = received.get(header::AGE) {
        fields.insert(header::AGE, age.clone());
    }
    fields
}

/// Gets a response and judges it; its body is not read and nothing is stored.
pub async fn try_out(engine: &Engine, request: Box<FillRequest>) -> Result<TriedOut, OriginError> {
    let mut exchange = attempts::send(&engine.connector, &request.snapshot.pools, &request.origin, None).await?;
    let times = ExchangeTimes { request: exchange.request_time, response: Timestamp::now() };
    add_date(&mut exchange.fields, times.response);
    let facts = request.facts();
    let response = ResponseFacts {
        status: exchange.status,
        headers: &exchange.fields,
        times,
        length: exchange.content_length(),
        max_object: engine.max_stored(),
    };
    Ok(TriedOut {
        origin: exchange.origin.clone(),
        status: exchange.status.as_u16(),
        fields: explain::deciding_fields(&exchange.fields),
        explanation: explain::explain(request.rules(), &facts, &response),
    })
}
