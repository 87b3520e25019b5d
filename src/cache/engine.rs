//! The engine: the cache of the node and all that happens to what is in it; and the fetching of what is not there.
//! What it has for a request, [`super::lookup`] says.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::config::model::{CacheRules, Config, OutageWindow};
use crate::observe::metrics::Metrics;
use crate::origin::connect::Connector;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;
use crate::origin::interims::Interims;
use crate::plan::{CacheKey, Matched};
use crate::request::RequestView;
use crate::snapshot::Snapshot;

use super::coding;
use super::compressor::Compressor;
use super::control::ClientDirectives;
use super::fill::{self, FillRequest, PrivateResponse};
use super::fill_buffer::FillBuffer;
use super::flight::{Arrival, Flight, FlightReader, ObjectUse, Settled};
use super::flights::{Flights, Turn};
use super::freshness::{Freshness, Usability};
use super::lookup::{Lookup, Miss};
use super::object::Object;
use super::part::Part;
use super::purge::{Freed, PurgeSeq, Purges, Standing, Target, Trial};
use super::reason::SkipReason;
use super::slices::{Slice, SliceReader};
use super::status::{Failed, Forward, Report, Stored};
use super::store::disk::{Loaded, WouldHit};
use super::store::{DiskTier, MemoryStore, Variants};
use super::uncacheable::Uncacheable;
use super::vary::{Presented, Variant};
use super::waiting::{Held, Waiter};

/// Keys that are remembered as not to be had in slices, at most, and for how long.
const MAX_UNSLICED: u64 = 100_000;
const LONGEST_UNSLICED: Duration = Duration::from_secs(3600);
/// Variants of a key on disk where the route is not at hand that says how many.
const MOST_VARIANTS: usize = 100;
/// Purges that are kept for the sake of a disk that cannot be swept.
const MOST_MARKS: usize = 100_000;
/// How often a request looks again after it waited for what turned out to be another variant.
const MAX_ROUNDS: usize = 4;

/// The cache of the node. It outlives configurations.
pub struct Engine {
    pub memory: MemoryStore,
    pub disk: Arc<DiskTier>,
    pub flights: Flights,
    pub purges: Arc<Purges>,
    pub connector: Connector,
    pub metrics: Arc<Metrics>,
    compressor: Compressor,
    pub uncacheable: Uncacheable,
    /// Held for the moment in which the pieces of a large body become one.
    pub joining: Mutex<()>,
    /// Keys of what cannot be had in slices.
    unsliced: Cache<KeyHash, ()>,
    hasher: RandomState,
    max_object: AtomicU64,
}

/// Stands for a key where keys of any length would take too much; secretly seeded, so that nobody can look
/// for two of the same.
type KeyHash = u64;

/// A request for something that may be cached.
pub struct CacheRequest<'a> {
    pub view: &'a RequestView<'a>,
    pub snapshot: &'a Arc<Snapshot>,
    pub matched: Matched<'a>,
    /// As [`CacheKey::write`] wrote it.
    pub key: &'a str,
    /// Of what the key is a slice, if it is one.
    pub slice: Option<Slice<'a>>,
    pub asks: ClientDirectives,
    /// Who is told of interim responses, if anybody.
    pub interims: Option<&'a Arc<Interims>>,
}

impl CacheRequest<'_> {
    /// As stored responses are selected by it.
    pub fn presented(&self) -> Presented<'_> {
        Presented::new(self.view, &self.snapshot.config.node)
    }

    pub fn rules(&self) -> &CacheRules {
        &self.matched.route.cache
    }
}

/// Where the response comes from.
pub enum Source {
    Stored(Arc<Object>),
    Part(Arc<Part>),
    Stream(FlightReader),
    Private(PrivateResponse),
    Slices(Box<SliceReader>),
    /// An origin's own answer, as it comes; the engine keeps its connection.
    Passed {
        status: StatusCode,
        fields: HeaderMap,
        /// `None`: it has no body.
        exchange: Option<Box<Exchange>>,
        engine: Arc<Engine>,
    },
}

/// What is kept in memory for the rest of an answer.
pub enum Kept {
    Nothing,
    /// Pieces alone, which come as they are taken.
    Pieces,
    Object(Arc<Object>),
    Flight(Arc<Flight>),
}

/// What is held for a reader that has to be waited for.
pub enum Hold {
    /// Nothing worth the counting.
    Nothing,
    /// It is entered.
    Entered(Held),
    /// So many bytes are to be entered by one of many streams, in its turn; they are here for it alone.
    InHand(usize),
    /// Likewise, but until then they are counted elsewhere.
    Ahead(usize),
}

/// What lies behind a piece that one of many streams holds: of a flight or of an origin's connection.
pub const BEHIND: usize = 64 << 10;
/// A smaller object is not worth the counting.
const SMALLEST: usize = 4 << 10;

pub struct Answer {
    pub source: Source,
    pub report: Report,
}

/// No answer could be had; the client is told with the error's status.
pub struct FetchError {
    pub error: OriginError,
    pub report: Report,
}

impl Engine {
    pub fn new(config: &Config, purges: Arc<Purges>, metrics: Arc<Metrics>) -> Self {
        let disk = Arc::new(DiskTier::start(&config.disk, &purges));
        let memory = MemoryStore::new(&config.memory, write_evicted(&disk));
        let buffer = FillBuffer::new(config.memory.fill_buffer.0, memory.waiting().clone());
        memory.waiting().set_prefix_share(config.limits.max_prefix_share);
        Engine {
            disk,
            compressor: Compressor::start(config.node.compress_threads, memory.clone(), metrics.clone()),
            memory,
            flights: Flights::new(config.limits.max_fills as usize, buffer),
            purges,
            connector: Connector::new(),
            metrics,
            uncacheable: Uncacheable::new(),
            joining: Mutex::new(()),
            unsliced: Cache::builder()
                .max_capacity(MAX_UNSLICED)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(LONGEST_UNSLICED)
                .build(),
            hasher: RandomState::new(),
            max_object: AtomicU64::new(config.memory.max_object.0),
        }
    }

    /// The largest body that is kept in memory.
    pub fn max_object(&self) -> u64 {
        self.max_object.load(Ordering::Relaxed)
    }

    /// The largest body that is stored at all.
    pub fn max_stored(&self) -> u64 {
        self.max_object().max(self.disk.max_object())
    }

    /// Takes over what a new configuration may change while the node runs.
    pub fn configure(&self, config: &Config) {
        self.memory.configure(&config.memory);
        self.max_object.store(config.memory.max_object.0, Ordering::Relaxed);
        self.flights.set_most(config.limits.max_fills as usize);
        self.flights.buffer.set_most(config.memory.fill_buffer.0);
        self.memory.waiting().set_prefix_share(config.limits.max_prefix_share);
        self.disk.configure(&config.disk, self.purges.current());
    }

    /// Whether something is to be fetched whole, though its route says otherwise.
    pub fn is_unsliced(&self, key: &str) -> bool {
        self.unsliced.contains_key(&self.hasher.hash_one(key))
    }

    pub fn remember_unsliced(&self, key: &CacheKey) {
        self.unsliced.insert(self.hasher.hash_one(key.as_str()), ());
    }

    /// Gets what is not there: follows the fill that is running, or starts one.
    pub async fn fetch(self: &Arc<Self>, request: &CacheRequest<'_>, miss: Miss) -> Result<Answer, FetchError> {
        let key = CacheKey::from_written(request.key);
        let (fields, presented) = (request.view.fields, request.presented());
        let mut miss = miss;
        // Whoever shows credentials may get what nobody else may: others must not wait for that.
        // So must who wants nothing stored not cause what others follow.
        let alone = fields.contains(&header::AUTHORIZATION)
            || request.asks.no_store
            || request.slice.is_none()
                && miss.part.is_none()
                && fill::asked_range(request, miss.stale.as_ref()).is_some();
        let rounds = if alone { 0 } else { MAX_ROUNDS };
        for _ in 0..rounds {
            let flight = match self.turn(&key, request, &request.asks) {
                Turn::Lead(flight) => {
                    return match self.found_meanwhile(&flight, request, &request.asks) {
                        Some((object, report)) => Ok(Answer { source: Source::Stored(object), report }),
                        None => self.lead(flight, request, miss).await,
                    };
                }
                Turn::Follow(flight) => flight,
                Turn::Full => return self.too_many_fills(request, &miss),
            };
            let collapsed = |stored| Forward { collapsed: true, ..forward(&miss, stored) };
            match flight.arrival(None, presented, request.interims).await {
                // What is not fresh must be validated for each request by itself (RFC 9111 section 4).
                Arrival::Stream(reader) if !reader.head.freshness.may_be_shared(Timestamp::now()) => break,
                Arrival::Stream(reader) => {
                    if wants_most(request) {
                        reader.flight().want();
                    }
                    let report = Report::Forward(collapsed(reader.head.stored()));
                    return Ok(Answer { source: Source::Stream(reader), report });
                }
                Arrival::Settled(Settled::Object(_, ObjectUse::Confirmed(_))) => break,
                Arrival::Settled(Settled::Object(object, ObjectUse::Validated))
                    if !object.freshness.may_be_shared(Timestamp::now()) =>
                {
                    break;
                }
                Arrival::Settled(Settled::Object(object, how)) if object.variant.matches(presented) => {
                    return Ok(settled(object, how, collapsed(Stored::Nothing)));
                }
                Arrival::Settled(Settled::Failed(error)) => {
                    return Err(failed(error, collapsed(Stored::Nothing)));
                }
                Arrival::Settled(Settled::Private(_)) => break,
                Arrival::Settled(Settled::NotInSlices) => {
                    return Err(failed(OriginError::NotInSlices, collapsed(Stored::Nothing)));
                }
                Arrival::Settled(Settled::Object(..) | Settled::NotNeeded) | Arrival::Missed => {}
            }
            match self.look_up(request, Timestamp::now()).await {
                Lookup::Hit(object, report) => return Ok(Answer { source: Source::Stored(object), report }),
                Lookup::StaleHit(object, report) => {
                    self.refresh(request, &object);
                    return Ok(Answer { source: Source::Stored(object), report });
                }
                Lookup::PartHit(part, report) => return Ok(Answer { source: Source::Part(part), report }),
                Lookup::Miss(again) => miss = again,
                Lookup::HitForMiss | Lookup::NotForAuthorized => break,
            }
        }
        match self.flights.alone(&key, self.purges.current()) {
            Some(flight) => self.lead(flight, request, miss).await,
            None => self.too_many_fills(request, &miss),
        }
    }

    /// No fill may be started: a stored response is used if it may stand in for origins that cannot be reached.
    fn too_many_fills(&self, request: &CacheRequest<'_>, miss: &Miss) -> Result<Answer, FetchError> {
        self.metrics.fills_refused.inc();
        let forward = forward(miss, Stored::Nothing);
        let window = Some(request.rules().stale_if_unreachable);
        match miss.stale.as_ref().filter(|stale| self.may_stand_in(stale, window)) {
            Some(stale) => Ok(settled(stale.clone(), ObjectUse::StaleIfError { status: None }, forward)),
            None => Err(failed(OriginError::TooManyFills, forward)),
        }
    }

    /// Whether a stored response may be used although the origin failed to confirm it (RFC 5861 section 4). It may have
    /// been purged meanwhile. `unreachable`: no origin gave a head at all, and for how long that may be covered.
    pub fn may_stand_in(&self, stale: &Object, unreachable: Option<OutageWindow>) -> bool {
        let now = Timestamp::now();
        let (usability, since) = match self.purges.standing(stale) {
            Standing::Dead => return false,
            Standing::Live => (stale.freshness.usability(now), None),
            Standing::SoftPurged { since } => (stale.freshness.usability_soft_purged(since, now), Some(since)),
        };
        !matches!(usability, Usability::Stale { .. })
            || unreachable.is_some_and(|window| stale.freshness.outlasts_origins(window, since, now))
    }

    /// Whether a stored response is fresh now. What one client's `no-cache` brought does not count against it.
    pub fn is_fresh(&self, object: &Object) -> bool {
        matches!(self.usability(object, Timestamp::now()), Some(Usability::Fresh { .. }))
    }

    /// Refreshes a stored response in the background, unless that is already going on.
    pub fn refresh(self: &Arc<Self>, request: &CacheRequest<'_>, object: &Arc<Object>) {
        let asks = ClientDirectives::default();
        if let Turn::Lead(flight) = self.turn(&object.key().to_owned(), request, &asks)
            && self.found_meanwhile(&flight, request, &asks).is_none()
        {
            flight.want();
            let (owner, _nobody) = oneshot::channel();
            tokio::spawn(fill::run(self.clone(), flight, FillRequest::new(request, Some(object.clone()), None), owner));
        }
    }

    /// Stores what a fill has brought, unless a purge has hit it or an unsafe request changed it meanwhile.
    pub fn store(&self, object: Object, rules: &CacheRules, flight: &Flight) -> Arc<Object> {
        let object = Arc::new(object);
        if self.purges.standing(&object) != Standing::Dead && !flight.is_spoilt() {
            self.uncacheable.forget(object.key().as_str(), &object.variant);
            self.metrics.stored(object.freshness.basis.as_str());
            if object.content.in_memory().is_some() {
                self.memory.insert(object.clone(), rules.max_variants);
            }
            if self.disk.writes_at_once() || object.content.in_memory().is_none() {
                self.disk.store(&object, rules.max_variants);
            }
            if flight.is_spoilt() {
                self.discard(&object); // spoilt between the question and the insertion
            }
            self.compress(&object, rules);
        }
        object
    }

    fn compress(&self, object: &Arc<Object>, rules: &CacheRules) {
        if let Some(compress) = &rules.compress
            && object.part().is_none()
            && object.head.varies_by_coding() // else caches further on would not know
            && object.content.in_memory().is_some()
            && coding::suits(compress, object.head.status, &object.head.fields(), Some(object.length()))
        {
            self.compressor.offer(object.clone(), compress.codings.clone());
        }
    }

    /// Enters what a fill has written to disk, under the same conditions. `untold`: something was removed that the
    /// flight could not be told of; perhaps this.
    pub fn stored_on_disk(&self, object: &Arc<Object>, flight: &Flight, untold: bool) {
        self.memory.remove_like(object); // something smaller was there before
        self.uncacheable.forget(object.key().as_str(), &object.variant);
        self.metrics.stored(object.freshness.basis.as_str());
        if untold || flight.is_spoilt() || self.purges.standing(object) == Standing::Dead {
            self.disk.remove(object);
        }
    }

    /// Stores a part of a response, under the same conditions.
    pub fn store_part(&self, part: Part, rules: &CacheRules, flight: &Flight) {
        if self.purges.standing(&part.object) != Standing::Dead && !flight.is_spoilt() {
            self.metrics.stored(part.object.freshness.basis.as_str());
            let object = part.object.clone();
            // What a purge has killed is not to come back in new company.
            let may_join = |other: &Object| self.purges.standing(other) != Standing::Dead;
            self.memory.insert_part(part, rules.max_variants, self.max_object(), may_join);
            if flight.is_spoilt() {
                self.memory.remove(&object);
            }
        }
    }

    /// Puts what was read from disk into memory, if it is not too large for that and nothing was removed meanwhile.
    pub fn promote(&self, object: &Arc<Object>, loaded: &Loaded, rules: &CacheRules) {
        let fits = object.content.in_memory().is_some() && object.length() <= self.max_object();
        if !fits || self.purges.standing(object) == Standing::Dead || !self.disk.is_current(loaded) {
            return;
        }
        self.memory.promote(object.clone(), rules.max_variants);
        if !self.disk.is_current(loaded) {
            self.memory.remove(object); // removed between the question and the insertion
        }
        self.compress(object, rules);
    }

    /// Gives the readers of a flight what is stored of it; `beside`: bytes that it keeps besides.
    pub fn share(&self, flight: &Arc<Flight>, body: &Bytes, object: &Object, beside: usize) -> bool {
        let is_shared = flight.share(body, (object.weight() + beside) as u64);
        if !self.memory.has_body_of(object) {
            self.memory.waiting().left_body(body.as_ptr().addr()); // it was not stored, or not for long
        }
        is_shared
    }

    /// Takes an object out of all tiers.
    pub fn discard(&self, object: &Arc<Object>) {
        // Disk first: what is being promoted from there sees that something was removed, or is removed from memory below.
        self.disk.remove(object);
        self.memory.remove(object);
        if !self.disk.writes_at_once() {
            self.disk.remove(object); // memory may just have given it to the disk
        }
    }

    /// Forgets what is stored or being filled under a key (RFC 9111 section 4.4): an unsafe request has changed
    /// it. Not a purge: that would need a record for each POST. It outlasts a restart once the number that it gives is
    /// [`DiskTier::kept`].
    pub fn invalidate(&self, key: &CacheKey) -> u64 {
        self.flights.spoil(key);
        let number = self.disk.remove_key(key);
        self.memory.remove_key(key);
        match self.disk.writes_at_once() {
            true => number,
            false => number.max(self.disk.remove_key(key)), // memory may just have given it to the disk
        }
    }

    /// Keeps requests for a key that would get the like from waiting for each other for a while.
    pub fn remember_uncacheable(&self, key: &CacheKey, variant: Variant, reason: SkipReason, rules: &CacheRules) {
        if !rules.hit_for_miss.is_zero() {
            tracing::debug!(key = key.view().uri(), reason = reason.as_str(), "remembered as not cacheable");
            self.uncacheable.remember(key.as_str(), variant, Timestamp::now() + rules.hit_for_miss);
        }
    }

    /// Frees what purges have killed and forgets the purges that nothing is older than.
    pub fn sweep(&self) -> Swept {
        let mut swept = Swept::default();
        // Also where a disk holds the purges back.
        self.purges.flush();
        // What is stored while this runs comes from a fill that is running now, or began later than now.
        let current = self.purges.current();
        let mut oldest = self.flights.oldest_seq().unwrap_or(PurgeSeq(u64::MAX)).min(current);
        let mut freed = Freed::new();
        for object in self.memory.objects() {
            if self.purges.standing(&object) == Standing::Dead {
                swept.objects += 1;
                swept.bytes += object.weight() as u64;
                let (objects, bytes) = freed.entry(self.purges.killer(&object).unwrap_or_default()).or_default();
                (*objects, *bytes) = (*objects + 1, *bytes + object.weight() as u64);
                self.memory.remove(&object);
            } else {
                oldest = oldest.min(object.checked());
            }
        }
        let on_disk = self.disk.sweep(&self.purges);
        swept.objects += on_disk.objects;
        swept.bytes += on_disk.bytes;
        for (seq, (objects, bytes)) in on_disk.freed {
            let total = freed.entry(seq).or_default();
            (total.0, total.1) = (total.0 + objects, total.1 + bytes);
        }
        let all_is_swept = on_disk.unswept.is_empty() && !on_disk.scanning;
        let done = all_is_swept && on_disk.oldest >= current;
        self.purges.history.swept(&freed, done.then_some(current));
        // A disk that could not be swept holds the purges back, but not for ever; one that is still scanned, until it is.
        if all_is_swept || !on_disk.scanning && self.purges.marks() > MOST_MARKS {
            for path in &on_disk.unswept {
                tracing::warn!(
                    path = %path.display(),
                    "this disk cannot be swept, and more than {MOST_MARKS} purges wait for it: they are forgotten, and what it has from before them is not used any more"
                );
            }
            self.purges.retire(oldest.min(on_disk.oldest));
        }
        swept
    }

    /// What a purge would hit, in memory and on disk: objects and bytes of each. `None`: another is being tried out.
    pub fn would_hit(&self, targets: &[Target]) -> Option<((u64, u64), WouldHit)> {
        let on_disk = self.disk.would_hit(targets)?;
        let trial = Trial::of(targets);
        let hit = self.memory.objects().filter(|object| trial.hits(object));
        let in_memory = hit.fold((0, 0), |(objects, bytes), object| (objects + 1, bytes + object.weight() as u64));
        Some((in_memory, on_disk))
    }

    /// The objects in memory that a purge hits, those asked for most often first.
    pub fn most_used(&self, targets: &[Target], most: usize) -> Vec<Arc<Object>> {
        let trial = Trial::of(targets);
        let mut hit: Vec<Arc<Object>> = self.memory.objects().filter(|object| trial.hits(object)).collect();
        hit.sort_by_key(|object| std::cmp::Reverse(object.uses()));
        hit.truncate(most);
        hit
    }

    /// Between the look-up that missed and the entry of a fill, another fill may have ended. Then this one is
    /// not needed; whoever follows it already is told to look again.
    fn found_meanwhile(
        &self,
        flight: &Arc<Flight>,
        request: &CacheRequest<'_>,
        asks: &ClientDirectives,
    ) -> Option<(Arc<Object>, Report)> {
        let Lookup::Hit(object, report) = self.lookup(request, asks, Timestamp::now()) else {
            return None;
        };
        self.flights.remove(flight);
        flight.settle(Settled::NotNeeded);
        Some((object, report))
    }

    fn turn(&self, key: &CacheKey, request: &CacheRequest<'_>, asks: &ClientDirectives) -> Turn {
        let takes_any = *asks == ClientDirectives { max_stale: asks.max_stale, ..ClientDirectives::default() };
        let (current, presented) = (self.purges.current(), request.presented());
        let alike = self.uncacheable.told_apart(key.as_str(), presented);
        self.flights.join_or_lead(key, current, alike.as_ref(), |flight: &Flight| match flight.head() {
            // What it will bring is not known, so neither whether a purge since hits it, nor for whom it is.
            None => flight.seq == current && (alike.is_none() || flight.alike == alike),
            // From its head on it is a response like a stored one: only to be used while it is fresh.
            Some(head) => {
                takes_any
                    && matches!(head.freshness.usability(Timestamp::now()), Usability::Fresh { .. })
                    && head.variant.matches(presented)
                    && self.purges.standing_of_fill(key, &head.tags.hashes, flight.seq) == Standing::Live
            }
        })
    }

    async fn lead(
        self: &Arc<Self>,
        flight: Arc<Flight>,
        request: &CacheRequest<'_>,
        miss: Miss,
    ) -> Result<Answer, FetchError> {
        let (owner, mut mine) = oneshot::channel();
        if wants_most(request) {
            flight.want();
        }
        let seat = flight.seat(); // taken before the fill begins, so that nothing can be gone before it is read
        tokio::spawn(fill::run(
            self.clone(),
            flight.clone(),
            FillRequest::new(request, miss.stale.clone(), miss.part.clone()),
            owner,
        ));
        let answer = |source, stored| Answer { source, report: Report::Forward(forward(&miss, stored)) };
        match flight.arrival(seat, request.presented(), request.interims).await {
            Arrival::Stream(reader) => {
                let stored = reader.head.stored();
                Ok(answer(Source::Stream(reader), stored))
            }
            Arrival::Settled(Settled::Object(object, how)) => {
                let answer = settled(object, how, forward(&miss, Stored::Nothing));
                Ok(match mine.try_recv() {
                    Ok(private) => Answer { source: Source::Private(private), ..answer },
                    Err(_) => answer, // a 304 that said nothing to this request alone, or none
                })
            }
            Arrival::Settled(Settled::Private(stored)) => match mine.await {
                Ok(private) => Ok(answer(Source::Private(private), stored)),
                Err(_) => Err(failed(lost(), forward(&miss, Stored::Nothing))),
            },
            Arrival::Settled(Settled::Failed(error)) => match self.part_instead(request, &miss) {
                Some(part) => {
                    let report = Forward { error: Some(Failed::Covered("failed")), ..forward(&miss, Stored::Nothing) };
                    Ok(Answer { source: Source::Part(part), report: Report::Forward(report) })
                }
                None => Err(failed(error, forward(&miss, Stored::Nothing))),
            },
            Arrival::Settled(Settled::NotInSlices) => {
                Err(failed(OriginError::NotInSlices, forward(&miss, Stored::Nothing)))
            }
            // It has the first seat, and the variant is made of its own fields: this does not happen.
            Arrival::Settled(Settled::NotNeeded) | Arrival::Missed => {
                Err(failed(lost(), forward(&miss, Stored::Nothing)))
            }
        }
    }
}

impl Engine {
    /// Enters a reader that has to be waited for, with what is kept for it; `piece`: bytes that it is given next.
    pub fn hold(&self, kept: &Kept, piece: usize, waiter: &Arc<Waiter>) -> Hold {
        let entered = match kept {
            Kept::Nothing => return Hold::Nothing,
            Kept::Object(object) => self.hold_object(object, waiter),
            Kept::Flight(flight) => flight.stored_body(waiter).map(|(body, length)| {
                let waiting = self.memory.waiting();
                waiting.hold_body(body, length, waiter.holding())
            }),
            Kept::Pieces => None,
        };
        match (entered, kept) {
            (Some(held), _) => Hold::Entered(held),
            // 64 KiB are every connection's due.
            _ if !waiter.is_one_of_many() => Hold::Nothing,
            (None, Kept::Object(object)) => Hold::InHand(object.weight()),
            (None, _) => Hold::Ahead(piece + BEHIND),
        }
    }

    fn hold_object(&self, object: &Arc<Object>, waiter: &Arc<Waiter>) -> Option<Held> {
        let body = object.content.in_memory().filter(|body| !body.is_empty() && object.weight() >= SMALLEST)?;
        let place = body.as_ptr().addr();
        let waiting = self.memory.waiting();
        let held = waiting.hold_body(place, object.weight() as u64, waiter.holding());
        if !self.memory.has_body_of(object) {
            waiting.left_body(place); // let go of between the look-up and now
        }
        Some(held)
    }

    /// A stored part that answers a request though no origin can be reached.
    fn part_instead(&self, request: &CacheRequest<'_>, miss: &Miss) -> Option<Arc<Part>> {
        let window = Some(request.rules().stale_if_unreachable);
        let part = miss.part.as_ref()?;
        (part.answers(request.view.fields) && self.may_stand_in(&part.object, window)).then(|| part.clone())
    }
}

/// Whether a request wants most of what it asks for, as far as that can be told before the length is known.
fn wants_most(request: &CacheRequest<'_>) -> bool {
    let is_little = *request.view.method == Method::HEAD || request.view.fields.contains(&header::RANGE);
    request.slice.is_some() || !is_little
}

/// Writes to disk what leaves memory, where it was not written at once.
fn write_evicted(disk: &Arc<DiskTier>) -> impl Fn(&Variants) + Send + Sync + 'static {
    let disk = disk.clone();
    move |evicted| {
        if !disk.writes_at_once() {
            evicted.whole().for_each(|object| disk.store(object, MOST_VARIANTS));
        }
    }
}

/// What a sweep freed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    pub objects: u64,
    pub bytes: u64,
}

fn forward(miss: &Miss, stored: Stored) -> Forward {
    Forward { why: miss.why, status: None, stored, collapsed: false, error: None, trouble: miss.trouble }
}

fn stored(freshness: &Freshness) -> Stored {
    Stored::Yes { basis: freshness.basis, ttl: freshness.ttl(Timestamp::now()) }
}

fn settled(object: Arc<Object>, how: ObjectUse, forward: Forward) -> Answer {
    let forward = match how {
        ObjectUse::Validated => Forward { status: Some(304), stored: stored(&object.freshness), ..forward },
        ObjectUse::Confirmed(reason) => Forward { status: Some(304), stored: Stored::No(reason), ..forward },
        ObjectUse::StaleIfError { status } => {
            let error = if status.is_some() { "status" } else { "failed" };
            Forward { status, error: Some(Failed::Covered(error)), ..forward }
        }
    };
    Answer { source: Source::Stored(object), report: Report::Forward(forward) }
}

fn failed(error: OriginError, forward: Forward) -> FetchError {
    let report = Report::Forward(Forward { error: Some(Failed::Told(error.reason())), ..forward });
    FetchError { error, report }
}

fn lost() -> OriginError {
    OriginError::Broken { origin: "".into(), cause: "the response was lost on its way".into() }
}
