//! The engine: the cache, and the fetching of what is not in it. A request follows the fill that is running for what it
//! asks for, or starts one.

use std::sync::Arc;

use http::header;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::config::model::Config;
use crate::observe::metrics::Metrics;
use crate::origin::connect::Connector;
use crate::origin::error::OriginError;
use crate::plan::{CacheKey, PassReason};
use crate::running::RunningRequest;

use super::control::ClientDirectives;
use super::fill::{Fill, FillRequest, PrivateResponse, asked_range};
use super::fill_buffer::FillBuffer;
use super::flight::{Arrival, Flight, FlightHead, FlightReader, ObjectUse, Settled};
use super::flights::{Flights, Turn};
use super::freshness::Usability;
use super::lookup::{Lookup, Miss};
use super::object::Object;
use super::part::Part;
use super::policy::Storable;
use super::purge::{Identity, Purges};
use super::request::CacheRequest;
use super::status::{Failed, Forward, Report, Stored};
use super::stored::Cache;
use super::sweep::Swept;

/// How often a request looks again after it waited for what turned out to be another variant.
const MAX_ROUNDS: usize = 4;

/// The cache of the node and the fills that are running for it. It outlives configurations.
pub struct Engine {
    pub cache: Arc<Cache>,
    pub flights: Arc<Flights>,
    pub connector: Arc<Connector>,
}

/// What a request is answered with.
pub struct Fetched {
    pub source: Source,
    pub report: Report,
}

/// Where the response comes from.
pub enum Source {
    Stored(Arc<Object>),
    Part(Arc<Part>),
    Stream(FlightReader),
    Private(PrivateResponse),
}

/// Why nothing that is stored answers.
pub enum NotStored {
    Miss(Miss),
    /// It is not for the cache: to be passed on.
    Pass(PassReason),
}

/// No answer could be had; the client is told with the error's status.
pub struct FetchError {
    pub error: OriginError,
    pub report: Report,
}

impl Engine {
    pub fn new(config: &Config, purges: Arc<Purges>, metrics: Arc<Metrics>) -> Self {
        let cache = Arc::new(Cache::new(config, purges, metrics));
        let buffer = FillBuffer::new(config.memory.fill_buffer.0, cache.memory.waiting().clone());
        let flights = Arc::new(Flights::new(config.limits.max_fills as usize, buffer));
        Engine { cache, flights, connector: Arc::new(Connector::new()) }
    }

    /// Takes over what a new configuration may change while the node runs.
    pub fn configure(&self, config: &Config) {
        self.cache.configure(config);
        self.flights.set_most(config.limits.max_fills as usize);
        self.cache.memory.waiting().set_most(config.memory.fill_buffer.0);
    }

    /// Answers from what is stored, and has it refreshed in the background where it is stale.
    pub fn answer_from(&self, request: &CacheRequest<'_>, found: Lookup) -> Result<Fetched, NotStored> {
        let (source, report) = match found {
            Lookup::Hit(object, report) => (Source::Stored(object), report),
            Lookup::StaleHit(object, report) => {
                self.refresh(request, &object);
                (Source::Stored(object), report)
            }
            Lookup::PartHit(part, report) => (Source::Part(part), report),
            Lookup::Miss(miss) => return Err(NotStored::Miss(miss)),
            Lookup::Pass(why) => return Err(NotStored::Pass(why)),
        };
        Ok(Fetched { source, report })
    }

    /// Gets what is not there: follows the fill that is running, or starts one.
    pub async fn fetch(&self, request: &CacheRequest<'_>, miss: Miss) -> Result<Fetched, FetchError> {
        let (snapshot, site) = (request.snapshot, request.matched.site_index);
        let entered = match request.slice {
            // Its client has the beginning: what follows waits for its turn.
            Some(slice) if !slice.begins => snapshot.enter_in_turn(site).await,
            _ => snapshot.enter(site),
        };
        match entered {
            Ok(running) => self.fetch_admitted(request, miss, running).await,
            Err(too_many) => match self.follow_begun(request, &miss).await {
                Some(fetched) => Ok(fetched),
                None => self.without_origin(too_many.into(), request, &miss),
            },
        }
    }

    /// `running`: its place, which the fill has if it causes one, and which else ends with the waiting.
    async fn fetch_admitted(
        &self,
        request: &CacheRequest<'_>,
        miss: Miss,
        running: RunningRequest,
    ) -> Result<Fetched, FetchError> {
        let key = CacheKey::from_written(request.key);
        let presented = request.presented();
        let mut miss = miss;
        let alone = is_alone(request, &miss);
        let rounds = if alone { 0 } else { MAX_ROUNDS };
        for round in 0..rounds {
            let flight = match self.turn(&key, request) {
                Turn::Lead(flight) => {
                    let entered = Entered { flights: &self.flights, flight, begins: false };
                    return match self.found_meanwhile(request).await {
                        Some((object, report)) => Ok(Fetched { source: Source::Stored(object), report }),
                        None => self.lead(entered.begin(), request, miss, running).await,
                    };
                }
                Turn::Follow(flight) => flight,
                Turn::Full => return self.too_many_fills(request, &miss),
            };
            let collapsed = || collapsed(&miss, Stored::Nothing);
            match flight.arrival(None, presented, request.interims).await {
                // What is not fresh must be validated for each request by itself (RFC 9111 section 4).
                Arrival::Stream(reader) if !reader.head.storable.freshness.may_be_shared(Timestamp::now()) => break,
                Arrival::Stream(reader) => return Ok(followed(reader, request, &miss)),
                Arrival::Settled(Settled::Object(_, ObjectUse::Confirmed(_)) | Settled::Private(_)) => break,
                Arrival::Settled(Settled::Object(object, ObjectUse::Validated))
                    if !object.freshness.may_be_shared(Timestamp::now()) =>
                {
                    break;
                }
                Arrival::Settled(Settled::Object(object, how)) if object.variant.matches(presented) => {
                    return Ok(settled(object, how, collapsed()));
                }
                // Who goes on with what it has begun with asks for itself.
                Arrival::Settled(Settled::Failed(OriginError::NotInSlices))
                    if request.slice.is_some_and(|slice| !slice.begins) =>
                {
                    break;
                }
                // The request may have been to blame that caused it: once, that of another is tried.
                Arrival::Settled(Settled::Failed(error))
                    if round > 0
                        || flight.is_impersonal()
                        || !matches!(error, OriginError::Broken { .. } | OriginError::Invalid { .. }) =>
                {
                    return Err(failed(error, collapsed()));
                }
                Arrival::Settled(Settled::Object(..) | Settled::Failed(_) | Settled::NotNeeded) | Arrival::Missed => {}
            }
            let found = self.cache.look_up(request, Timestamp::now()).await;
            match self.answer_from(request, found) {
                Ok(fetched) => return Ok(fetched),
                Err(NotStored::Miss(again)) => miss = again,
                Err(NotStored::Pass(_)) => break,
            }
        }
        match self.flights.alone(&key, self.cache.purges.current()) {
            Some(flight) => self.lead(flight, request, miss, running).await,
            None => self.too_many_fills(request, &miss),
        }
    }

    /// No fill may be started.
    fn too_many_fills(&self, request: &CacheRequest<'_>, miss: &Miss) -> Result<Fetched, FetchError> {
        self.cache.metrics.fills_refused.inc();
        self.without_origin(OriginError::TooManyFills, request, miss)
    }

    /// What there is for a request that gets to no origin: a stored response, if it may stand in for origins that cannot be
    /// reached.
    fn without_origin(
        &self,
        error: OriginError,
        request: &CacheRequest<'_>,
        miss: &Miss,
    ) -> Result<Fetched, FetchError> {
        let forward = forward(miss, Stored::Nothing);
        let window = Some(request.rules().stale_if_unreachable);
        match miss.stale.as_ref().filter(|stale| self.cache.may_stand_in(stale, window)) {
            Some(stale) => {
                let report = Report::Forward(Forward { error: Some(Failed::Covered(error.reason())), ..forward });
                Ok(Fetched { source: Source::Stored(stale.clone()), report })
            }
            None => Err(failed(error, forward)),
        }
    }

    /// Refreshes a stored response in the background, unless that is already going on.
    pub fn refresh(&self, request: &CacheRequest<'_>, object: &Arc<Object>) {
        let asks_nothing = CacheRequest { asks: ClientDirectives::default(), ..*request };
        if let Turn::Lead(flight) = self.turn(&object.key().to_owned(), &asks_nothing) {
            let entered = Entered { flights: &self.flights, flight, begins: false };
            if let Lookup::Hit(..) = self.cache.lookup(&asks_nothing, Timestamp::now()) {
                return; // refreshed meanwhile
            }
            let flight = entered.begin();
            flight.want();
            let (owner, _nobody) = oneshot::channel();
            tokio::spawn(self.fill(flight, FillRequest::new(request, Some(object.clone()), None), None).run(owner));
        }
    }

    fn fill(&self, flight: Arc<Flight>, request: Box<FillRequest>, running: Option<RunningRequest>) -> Fill {
        let Engine { cache, flights, connector } = self;
        let (cache, flights, connector) = (cache.clone(), flights.clone(), connector.clone());
        Fill { cache, flights, connector, flight, request, running: Mutex::new(running) }
    }

    /// Forgets what is stored or being filled under a key (RFC 9111 section 4.4): an unsafe request has changed it. Not a
    /// purge: that would need a record for each POST. The number is that of [`Cache::remove_key`].
    pub fn invalidate(&self, key: &str) -> u64 {
        self.flights.spoil(key);
        self.cache.remove_key(key)
    }

    /// Frees what purges have killed and forgets the purges that nothing is older than.
    pub fn sweep(&self) -> Swept {
        self.cache.sweep(self.flights.oldest_seq())
    }

    /// Between the look-up that missed and the entry of a fill, another fill may have ended: in memory or on disk.
    async fn found_meanwhile(&self, request: &CacheRequest<'_>) -> Option<(Arc<Object>, Report)> {
        match self.cache.look_up(request, Timestamp::now()).await {
            Lookup::Hit(object, report) => Some((object, report)),
            _ => None,
        }
    }

    fn turn(&self, key: &CacheKey, request: &CacheRequest<'_>) -> Turn {
        let takes_any = request.asks.take_any();
        let current = self.cache.purges.current();
        let alike = self.cache.uncacheable.told_apart(key.as_str(), request.presented());
        self.flights.join_or_lead(key, current, alike.as_ref(), |flight: &Flight| match flight.head() {
            // What it will bring is not known, so neither whether a purge since hits it, nor for whom it is.
            None => flight.seq == current && (alike.is_none() || flight.alike == alike),
            Some(head) => takes_any && self.is_for(request, flight, &head),
        })
    }

    /// Whether a fill with this head brings what a request asks for: from then on it is a response like a stored one, only to be
    /// used while it is fresh.
    fn is_for(&self, request: &CacheRequest<'_>, flight: &Flight, head: &FlightHead) -> bool {
        let Storable { freshness, variant, tags, .. } = &head.storable;
        let identity = Identity { key: flight.key.view(), tags: &tags.hashes, seq: flight.seq };
        let usability = || freshness.usability(self.cache.purges.standing(&identity), Timestamp::now());
        variant.matches(request.presented()) && matches!(usability(), Some(Usability::Fresh { .. }))
    }

    /// Follows a fill that has its head already, if one runs: that asks no origin for more.
    async fn follow_begun(&self, request: &CacheRequest<'_>, miss: &Miss) -> Option<Fetched> {
        if !request.asks.take_any() || is_alone(request, miss) {
            return None;
        }
        let is_for = |flight: &Flight| flight.head().is_some_and(|head| self.is_for(request, flight, &head));
        let flight = self.flights.begun(&CacheKey::from_written(request.key), is_for)?;
        match flight.arrival(None, request.presented(), request.interims).await {
            Arrival::Stream(reader) if reader.head.storable.freshness.may_be_shared(Timestamp::now()) => {
                Some(followed(reader, request, miss))
            }
            _ => None,
        }
    }

    async fn lead(
        &self,
        flight: Arc<Flight>,
        request: &CacheRequest<'_>,
        miss: Miss,
        running: RunningRequest,
    ) -> Result<Fetched, FetchError> {
        let (owner, mut mine) = oneshot::channel();
        if request.wants_most() {
            flight.want();
        }
        let seat = flight.seat(); // taken before the fill begins, so that nothing can be gone before it is read
        let asked = FillRequest::new(request, miss.stale.clone(), miss.part.clone());
        tokio::spawn(self.fill(flight.clone(), asked, Some(running)).run(owner));
        let answer = |source, stored| Fetched { source, report: Report::Forward(forward(&miss, stored)) };
        match flight.arrival(seat, request.presented(), request.interims).await {
            Arrival::Stream(reader) => {
                let stored = reader.head.stored();
                Ok(answer(Source::Stream(reader), stored))
            }
            Arrival::Settled(Settled::Object(object, how)) => {
                let answer = settled(object, how, forward(&miss, Stored::Nothing));
                Ok(match mine.try_recv() {
                    Ok(private) => Fetched { source: Source::Private(private), ..answer },
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
                    Ok(Fetched { source: Source::Part(part), report: Report::Forward(report) })
                }
                None => Err(failed(error, forward(&miss, Stored::Nothing))),
            },
            // It has the first seat, and the variant is made of its own fields: this does not happen.
            Arrival::Settled(Settled::NotNeeded) | Arrival::Missed => {
                Err(failed(lost(), forward(&miss, Stored::Nothing)))
            }
        }
    }

    /// A stored part that answers a request though no origin can be reached.
    fn part_instead(&self, request: &CacheRequest<'_>, miss: &Miss) -> Option<Arc<Part>> {
        let window = Some(request.rules().stale_if_unreachable);
        let part = miss.part.as_ref()?;
        (part.answers(request.view.fields) && self.cache.may_stand_in(&part.object, window)).then(|| part.clone())
    }
}

/// A flight that was entered, and whose fill has not begun: perhaps it is not needed, or the client leaves before that is known.
/// Whoever follows it already is then told to look again.
struct Entered<'a> {
    flights: &'a Flights,
    flight: Arc<Flight>,
    begins: bool,
}

impl Entered<'_> {
    /// Its fill begins.
    fn begin(mut self) -> Arc<Flight> {
        self.begins = true;
        self.flight.clone()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if !self.begins {
            self.flights.remove(&self.flight);
            self.flight.settle(Settled::NotNeeded);
        }
    }
}

/// Whether a request follows nobody. Whoever shows credentials may get what nobody else may: others must not wait for that. So must
/// who wants nothing stored not cause what others follow.
fn is_alone(request: &CacheRequest<'_>, miss: &Miss) -> bool {
    request.view.fields.contains(&header::AUTHORIZATION)
        || request.asks.no_store
        || request.slice.is_none() && miss.part.is_none() && asked_range(request, miss.stale.as_ref()).is_some()
}

/// What a request gets that reads another's fill.
fn followed(reader: FlightReader, request: &CacheRequest<'_>, miss: &Miss) -> Fetched {
    if request.wants_most() {
        reader.flight().want();
    }
    let report = Report::Forward(collapsed(miss, reader.head.stored()));
    Fetched { source: Source::Stream(reader), report }
}

fn collapsed(miss: &Miss, stored: Stored) -> Forward {
    Forward { collapsed: true, ..forward(miss, stored) }
}

fn forward(miss: &Miss, stored: Stored) -> Forward {
    Forward { trouble: miss.trouble, ..Forward::of(miss.why, stored) }
}

fn settled(object: Arc<Object>, how: ObjectUse, forward: Forward) -> Fetched {
    let forward = match how {
        ObjectUse::Validated => {
            Forward { status: Some(304), stored: Stored::with(&object.freshness, Timestamp::now()), ..forward }
        }
        ObjectUse::Confirmed(reason) => Forward { status: Some(304), stored: Stored::No(reason), ..forward },
        ObjectUse::StaleIfError { status } => {
            let error = if status.is_some() { "status" } else { "failed" };
            Forward { status, error: Some(Failed::Covered(error)), ..forward }
        }
    };
    Fetched { source: Source::Stored(object), report: Report::Forward(forward) }
}

fn failed(error: OriginError, forward: Forward) -> FetchError {
    let report = Report::Forward(Forward { error: Some(Failed::Told(error.reason())), ..forward });
    FetchError { error, report }
}

fn lost() -> OriginError {
    OriginError::broken("the response was lost on its way")
}
