//! Large objects in slices of a fixed size, each fetched, stored and evicted on its own (routes with `slice`). A slice is an
//! object under a key of its own; what holds them together is one strong entity tag and one length. Bytes of two versions
//! never meet in one answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Version, header};

use crate::clock::Timestamp;
use crate::config::model::PoolId;
use crate::origin::error::OriginError;
use crate::plan::{CacheKey, Matched, Side};
use crate::request::{Ends, FieldLines, Fields, RequestId, RequestView, Scheme};
use crate::snapshot::Snapshot;

use super::control::ClientDirectives;
use super::engine::{Engine, FetchError, Fetched, NotStored, Source};
use super::fill::{PrivateBody, Unread};
use super::flight::{FlightHead, FlightReader};
use super::freshness::Freshness;
use super::head::Head;
use super::hold::Kept;
use super::lookup::Miss;
use super::object::{Content, Object};
use super::request::CacheRequest;
use super::slice::{Slice, first_byte};
use super::status::Report;
use crate::representation::range::ContentRange;

/// Slices that are looked for when all are to be forgotten and nobody knows how many there are.
const MOST_SLICES: u64 = 65_536;

/// What a request is answered with.
pub enum Answer {
    /// In one piece.
    Whole(Source),
    /// Put together as it is read.
    Slices(Box<SliceReader>),
}

impl Engine {
    /// Gets what is not there: in slices, where the route says so and the origin gives them.
    pub async fn get(self: &Arc<Self>, request: &CacheRequest<'_>, miss: Miss) -> Result<(Answer, Report), FetchError> {
        let whole = || miss.stale.is_some() || self.cache.uncacheable.is_unsliced(request.key);
        if let Some(size) = request.matched.route.cache.slice.filter(|_| !whole()) {
            let sliced = self.slices(request, size).await;
            if !matches!(sliced, Err(FetchError { error: OriginError::NotInSlices, .. })) {
                return sliced;
            }
        }
        let Fetched { source, report } = self.fetch(request, miss).await?;
        Ok((Answer::Whole(source), report))
    }

    /// The slice that a request begins with, and its key, where what it asks for is in slices as far as is known.
    pub fn first_slice<'a>(&self, request: &CacheRequest<'a>) -> Option<(Slice<&'a str>, CacheKey)> {
        let size = request.matched.route.cache.slice?;
        if self.cache.uncacheable.is_unsliced(request.key) || self.cache.memory.get(request.key).is_some() {
            return None;
        }
        let number = first_byte(request.view.method, request.view.fields) / size;
        let slice = Slice { of: request.key, size, number, begins: true };
        Some((slice, CacheKey::slice(request.key, size, number)))
    }

    /// Answers from slices: begins with that which has the first byte wanted.
    async fn slices(self: &Arc<Self>, request: &CacheRequest<'_>, size: u64) -> Result<(Answer, Report), FetchError> {
        let first = first_byte(request.view.method, request.view.fields) / size;
        let mut owned = OwnedRequest::new(request, size);
        let Fetched { source, report } = owned.acquire(self, first, true).await?;
        let (piece, freshness) = match Piece::of(source) {
            Ok(begun) => begun,
            Err(source) => return Ok((Answer::Whole(*source), report)),
        };
        // For all further slices the client's own cache directives say nothing.
        owned.asks = ClientDirectives::default();
        // In memory of its own: the slice that it came with need not be kept for it.
        let head = SlicedHead { head: piece.head.detached(), freshness, range: piece.range };
        let reader = SliceReader { engine: self.clone(), request: owned, head, size, piece: Some((first, piece)) };
        Ok((Answer::Slices(Box::new(reader)), report))
    }

    /// Forgets all slices of what has a key: see [`Engine::invalidate`]. `total`: its length, if it is known.
    pub fn discard_slices(&self, of: &str, size: u64, total: Option<u64>, except: Option<u64>) -> u64 {
        let first = || self.cache.memory.get(CacheKey::slice(of, size, 0).as_str());
        let known = || first()?.whole().find_map(|object| object.part()).map(|range| range.total);
        let most = total.or_else(known).unwrap_or_else(|| self.cache.longest_sliced());
        let numbers = (0..most.div_ceil(size).min(MOST_SLICES)).filter(|number| Some(*number) != except);
        numbers.map(|number| self.invalidate(CacheKey::slice(of, size, number).as_str())).max().unwrap_or(0)
    }
}

/// What is needed to ask for more slices after the request's own memory is gone.
struct OwnedRequest {
    snapshot: Arc<Snapshot>,
    site: usize,
    route: usize,
    pool: PoolId,
    is_divided: bool,
    method: Method,
    host: String,
    port: Option<u16>,
    local_port: u16,
    authority: String,
    path: String,
    query: Option<String>,
    fields: FieldLines,
    client: std::net::IpAddr,
    peer: std::net::IpAddr,
    ends: Option<Ends>,
    scheme: Scheme,
    tls: Option<&'static str>,
    version: Version,
    id: String,
    key: String,
    size: u64,
    asks: ClientDirectives,
}

impl OwnedRequest {
    fn new(request: &CacheRequest<'_>, size: u64) -> Self {
        let view = request.view;
        OwnedRequest {
            snapshot: request.snapshot.clone(),
            site: request.matched.site_index,
            route: request.matched.route_index,
            pool: request.matched.pool,
            is_divided: request.matched.side != Side::Whole,
            method: view.method.clone(),
            host: view.host.to_owned(),
            port: view.port,
            local_port: view.local_port,
            authority: view.authority.to_owned(),
            path: view.path.to_owned(),
            query: view.query.map(str::to_owned),
            fields: view.fields.to_lines(),
            client: view.client,
            peer: view.peer,
            ends: view.ends,
            scheme: view.scheme,
            tls: view.tls,
            version: view.version,
            id: view.id.to_string(),
            key: request.key.to_owned(),
            size,
            asks: request.asks,
        }
    }

    /// Gets one slice, from wherever it is; `begins`: the answer begins with it.
    async fn acquire(&self, engine: &Arc<Engine>, number: u64, begins: bool) -> Result<Fetched, FetchError> {
        let view = RequestView {
            method: &self.method,
            host: &self.host,
            port: self.port,
            local_port: self.local_port,
            listener: None,
            listener_name: None, // by which its site and route were found
            authority: &self.authority,
            path: &self.path,
            hides_dots: false, // else nothing were cached of it
            query: self.query.as_deref(),
            fields: Fields::Lines(&self.fields),
            client: self.client,
            geoip: Some(&self.snapshot.config.node.geoip),
            peer: self.peer,
            ends: self.ends,
            scheme: self.scheme,
            tls: self.tls,
            version: self.version,
            id: RequestId::Given(&self.id),
        };
        let matched = Matched {
            site: self.snapshot.site(self.site),
            site_index: self.site,
            route: self.snapshot.route(self.site, self.route),
            route_index: self.route,
            pool: self.pool,
            side: self.snapshot.side(self.is_divided, self.snapshot.route(self.site, self.route), self.pool),
        };
        let key = CacheKey::slice(&self.key, self.size, number);
        let slice = Some(Slice { of: self.key.as_str(), size: self.size, number, begins });
        let asks = self.asks;
        let request = CacheRequest {
            view: &view,
            snapshot: &self.snapshot,
            matched,
            key: key.as_str(),
            slice,
            asks,
            interims: None,
        };
        let found = engine.cache.look_up(&request, Timestamp::now()).await;
        match engine.answer_from(&request, found) {
            Ok(Fetched { source: Source::Part(_), .. }) | Err(NotStored::Pass(_)) => {
                // These are not made of slices.
                Err(FetchError { error: OriginError::NotInSlices, report: Report::Pass("bypass") })
            }
            Ok(fetched) => Ok(fetched),
            Err(NotStored::Miss(miss)) => engine.fetch(&request, miss).await,
        }
    }
}

/// The head of the whole, from the slice that was there first.
pub struct SlicedHead {
    pub head: Head,
    freshness: Freshness,
    range: ContentRange,
}

impl SlicedHead {
    /// How old the response is.
    pub fn age(&self, now: Timestamp) -> Duration {
        self.freshness.current_age(now)
    }

    /// Bytes of the whole.
    pub fn total(&self) -> u64 {
        self.range.total
    }

    /// Whether a slice is of this response: tags are compared byte for byte.
    fn has(&self, piece: &Piece) -> bool {
        let etag = self.head.get(&header::ETAG);
        self.range.total == piece.range.total && etag.is_some() && etag == piece.head.get(&header::ETAG)
    }
}

/// One slice and how far it was read.
struct Piece {
    head: Head,
    range: ContentRange,
    body: PieceBody,
    /// Bytes of the slice that were given.
    at: u64,
}

enum PieceBody {
    Stored(Arc<Object>),
    Stream(FlightReader),
    /// As the origin sends it: it is for this request alone.
    Passed(Unread),
    /// All of that has come.
    Over,
}

impl Piece {
    /// A slice that is for all, and how fresh it is. What is none is given back.
    fn of(source: Source) -> Result<(Self, Freshness), Box<Source>> {
        let (head, freshness, range, body) = match source {
            Source::Stored(object) => match object.part() {
                Some(range) => (object.head.clone(), object.freshness, range, PieceBody::Stored(object)),
                None => return Err(Box::new(Source::Stored(object))),
            },
            Source::Stream(reader) => match reader.head.storable.part {
                Some(range) => {
                    let FlightHead { head, storable, .. } = &*reader.head;
                    (head.clone(), storable.freshness, range, PieceBody::Stream(reader))
                }
                None => return Err(Box::new(Source::Stream(reader))),
            },
            other => return Err(Box::new(other)),
        };
        Ok((Piece { head, range, body, at: 0 }, freshness))
    }

    /// One with which an answer goes on: it may as well be for this request alone.
    fn further(source: Source) -> Option<Self> {
        let private = match source {
            Source::Private(private) => private,
            other => return Self::of(other).ok().map(|(piece, _)| piece),
        };
        let range = ContentRange::of_joinable(&private.head.fields())?;
        let body = match private.body {
            PrivateBody::Passed(unread) => PieceBody::Passed(unread),
            PrivateBody::Kept(reader) => PieceBody::Stream(reader),
            PrivateBody::Stored(object) => PieceBody::Stored(object),
        };
        Some(Piece { head: private.head, range, body, at: 0 })
    }

    /// Some bytes from a place in the slice on, at least one.
    async fn read(&mut self, from: u64) -> Result<Option<Bytes>, OriginError> {
        match &mut self.body {
            PieceBody::Stored(object) if from >= object.length() => Ok(None),
            PieceBody::Stored(object) => match &object.content {
                Content::Memory(body) => Ok(Some(body.slice(from as usize..))),
                Content::Disk(body) => body.clone().read(from).await.map(Some).map_err(OriginError::stored_body_lost),
            },
            PieceBody::Stream(_) | PieceBody::Passed(_) | PieceBody::Over => loop {
                let Some(piece) = self.next().await? else { return Ok(None) };
                let before = self.at;
                self.at += piece.len() as u64;
                if self.at > from {
                    return Ok(Some(piece.slice(from.saturating_sub(before) as usize..)));
                }
            },
        }
    }

    /// What comes next of one that comes as it is sent.
    async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        let piece = match &mut self.body {
            PieceBody::Stream(reader) => return reader.next().await,
            PieceBody::Passed(unread) => unread.exchange.read_body().await?,
            PieceBody::Stored(_) | PieceBody::Over => return Ok(None),
        };
        let come = self.at + piece.as_ref().map_or(0, Bytes::len) as u64;
        if come > self.range.length() {
            return Err(OriginError::broken("a slice is longer than it says"));
        }
        if piece.is_none() || come == self.range.length() {
            let body = std::mem::replace(&mut self.body, PieceBody::Over);
            if let PieceBody::Passed(unread) = body {
                unread.exchange.release();
            }
        }
        Ok(piece)
    }
}

/// Reads an object slice by slice, and has those fetched that are not there.
pub struct SliceReader {
    engine: Arc<Engine>,
    request: OwnedRequest,
    pub head: SlicedHead,
    size: u64,
    /// The slice that is being read.
    piece: Option<(u64, Piece)>,
}

impl SliceReader {
    /// Some bytes from a place on, at least one; `None` at the end. Places only go up.
    pub async fn read(&mut self, at: u64) -> Result<Option<Bytes>, OriginError> {
        if at >= self.head.total() {
            return Ok(None);
        }
        let number = at / self.size;
        if self.piece.as_ref().is_none_or(|(current, _)| *current != number) {
            self.piece = None; // what it holds is let go before more is asked for
            self.piece = Some((number, self.next_piece(number).await?));
        }
        let Some((_, piece)) = &mut self.piece else { return Ok(None) };
        let found = piece.read(at - number * self.size).await?;
        found.map(Some).ok_or_else(|| OriginError::broken("a slice is shorter than it says"))
    }

    /// What is kept in memory for the slice that is being read.
    pub fn kept(&self) -> Kept {
        match self.piece.as_ref().map(|(_, piece)| &piece.body) {
            Some(PieceBody::Stored(object)) if object.content.in_memory().is_some() => Kept::Object(object.clone()),
            Some(PieceBody::Stream(reader)) => Kept::Flight(reader.flight().clone()),
            _ => Kept::Pieces,
        }
    }

    /// Whether what is read next is kept nowhere, or on disk alone.
    pub fn is_passed_on(&self) -> bool {
        match self.kept() {
            Kept::Flight(flight) => !flight.keeps_all(),
            Kept::Pieces => self.piece.is_some(),
            Kept::Nothing | Kept::Object(_) => false,
        }
    }

    async fn next_piece(&self, number: u64) -> Result<Piece, OriginError> {
        let Fetched { source, .. } =
            self.request.acquire(&self.engine, number, false).await.map_err(|failed| failed.error)?;
        let piece = Piece::further(source).ok_or_else(|| OriginError::broken("it is no longer given in slices"))?;
        if self.head.has(&piece) {
            return Ok(piece);
        }
        // What is stored is of two versions, and only the newest slice is surely of the present one.
        let total = self.head.total().max(piece.range.total);
        let newest = Some(number).filter(|_| matches!(piece.body, PieceBody::Stream(_)));
        let (engine, key, size) = (self.engine.clone(), self.request.key.clone(), self.size);
        // Not on a worker: they may be many. Waited for, so that whoever asks again finds none of the old ones.
        let discard = move || engine.discard_slices(&key, size, Some(total), newest);
        let _ = tokio::task::spawn_blocking(discard).await; // a panic has been reported, and tags keep versions apart
        Err(OriginError::broken("it has changed while it was being read"))
    }
}
