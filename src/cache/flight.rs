//! A response on its way from the origin into the cache, and the readers that follow it.
//!
//! The fill appends at the origin's pace; each reader takes what is there at its client's pace and waits for
//! the rest. Nobody waits for anybody's client. Only a response that turns out too large to store while it
//! runs is different: its bytes are dropped as soon as all readers have them, and the fill waits when the
//! slowest reader is [`WINDOW`] bytes behind, so that memory stays bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::origin::connect::OriginError;
use crate::plan::CacheKey;
use crate::request::Fields;

use super::freshness::Freshness;
use super::object::{Head, Object};
use super::purge::PurgeSeq;
use super::reason::Basis;
use super::status::Stored;
use super::tags::Tags;
use super::vary::Variant;

/// How far the slowest reader of a response that is not stored may be behind the origin.
const WINDOW: usize = 1 << 20;

/// One running fill.
pub struct Flight {
    pub key: CacheKey,
    /// The purge sequence in force when it began.
    pub seq: PurgeSeq,
    /// Whether other requests may follow it.
    pub joinable: bool,
    /// What it fetches was changed by an unsafe request since it began.
    spoilt: AtomicBool,
    state: Mutex<State>,
    /// Something new for readers.
    changed: Notify,
    /// A reader took something or left.
    taken: Notify,
}

struct State {
    phase: Phase,
    chunks: VecDeque<Bytes>,
    /// The number of the first chunk that is still there.
    first: u64,
    readers: SmallVec<[Position; 4]>,
    next_reader: u64,
    trimming: bool,
}

struct Position {
    reader: u64,
    chunk: u64,
}

#[derive(Clone)]
enum Phase {
    /// No response head yet.
    Waiting,
    Streaming(Arc<FlightHead>),
    Complete(Arc<FlightHead>),
    /// Broken off in the body.
    Broken(Arc<FlightHead>, OriginError),
    Settled(Settled),
}

/// The head of a response that may be shared.
#[derive(Debug)]
pub struct FlightHead {
    pub head: Head,
    pub length: Option<u64>,
    pub freshness: Freshness,
    pub variant: Variant,
    pub basis: Basis,
    pub tags: Tags,
    /// Fields for the request alone that caused the fill.
    pub own: HeaderMap,
}

/// How a fill ended that brought nothing to stream.
#[derive(Debug, Clone)]
pub enum Settled {
    /// A stored response is to be used: validated by the origin, or stale because the origin failed.
    Object(Arc<Object>, ObjectUse),
    /// The response is for the request alone that caused the fill; what became of it.
    Private(Stored),
    Failed(OriginError),
    /// Another fill had just stored what is wanted: look again.
    NotNeeded,
}

/// Why a fill ended with an object that was stored before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectUse {
    /// The origin answered 304.
    Validated,
    /// The origin failed or answered with this status, and stale is better than nothing.
    StaleIfError { status: Option<u16> },
}

/// What a request that waits for a flight gets to know first.
pub enum Arrival {
    Stream(FlightReader),
    Settled(Settled),
    /// It is another variant, or gone beyond joining: look again.
    Missed,
}

impl Flight {
    pub fn new(key: CacheKey, seq: PurgeSeq, joinable: bool) -> Arc<Self> {
        Arc::new(Flight {
            key,
            seq,
            joinable,
            spoilt: AtomicBool::new(false),
            state: Mutex::new(State {
                phase: Phase::Waiting,
                chunks: VecDeque::new(),
                first: 0,
                readers: SmallVec::new(),
                next_reader: 0,
                trimming: false,
            }),
            changed: Notify::new(),
            taken: Notify::new(),
        })
    }

    /// Its response is out of date: not to be stored, nor to be followed by later requests.
    pub fn spoil(&self) {
        self.spoilt.store(true, Ordering::Release);
    }

    pub fn is_spoilt(&self) -> bool {
        self.spoilt.load(Ordering::Acquire)
    }

    /// The head, if it has come and may be shared.
    pub fn head(&self) -> Option<Arc<FlightHead>> {
        match &self.state.lock().phase {
            Phase::Streaming(head) | Phase::Complete(head) | Phase::Broken(head, _) => Some(head.clone()),
            Phase::Waiting | Phase::Settled(_) => None,
        }
    }

    /// Keeps a place at the first byte for a reader that has yet to see the head.
    pub fn seat(self: &Arc<Self>) -> Option<Seat> {
        let mut state = self.state.lock();
        if state.first > 0 {
            return None;
        }
        let reader = state.next_reader;
        state.next_reader += 1;
        state.readers.push(Position { reader, chunk: 0 });
        Some(Seat { flight: self.clone(), reader })
    }

    /// Waits for the head. Ends when the fill does, and every wait of a fill has a deadline.
    pub async fn arrival(self: &Arc<Self>, seat: Option<Seat>, request: Fields<'_>) -> Arrival {
        loop {
            let changed = self.changed.notified();
            let phase = self.state.lock().phase.clone();
            match phase {
                Phase::Waiting => changed.await,
                Phase::Settled(settled) => return Arrival::Settled(settled),
                Phase::Streaming(head) | Phase::Complete(head) | Phase::Broken(head, _) => {
                    if !head.variant.matches(request) {
                        return Arrival::Missed;
                    }
                    let leads = seat.is_some();
                    let seat = seat.or_else(|| self.seat());
                    return seat.map_or(Arrival::Missed, |seat| Arrival::Stream(FlightReader { seat, head, leads }));
                }
            }
        }
    }

    /// The head came and the response may be shared.
    pub fn start(&self, head: FlightHead) {
        self.enter(Phase::Streaming(Arc::new(head)));
    }

    pub fn settle(&self, settled: Settled) {
        self.enter(Phase::Settled(settled));
    }

    /// The whole body is there.
    pub fn complete(&self) {
        self.end(Phase::Complete);
    }

    /// Ends it, whatever it was doing: readers see an error, never the end of a body.
    pub fn abort(&self, error: OriginError) {
        self.end(|head| Phase::Broken(head, error.clone()));
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Waiting) {
            state.phase = Phase::Settled(Settled::Failed(error));
            drop(state);
            self.changed.notify_waiters();
        }
    }

    pub fn append(&self, chunk: Bytes) {
        let mut state = self.state.lock();
        state.chunks.push_back(chunk);
        state.trim();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Everything that was appended, and the last piece, which was not yet, in one.
    pub fn body_with(&self, last: &[u8]) -> Bytes {
        let state = self.state.lock();
        // Copied even if it is one piece: its buffer may be larger than what is used of it.
        let mut whole = Vec::with_capacity(state.chunks.iter().map(Bytes::len).sum::<usize>() + last.len());
        state.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.extend_from_slice(last);
        whole.into()
    }

    /// From now on it is not stored: bytes that all readers have are dropped.
    pub fn stop_keeping(&self) {
        let mut state = self.state.lock();
        state.trimming = true;
        state.trim();
    }

    /// Waits until the slowest reader is near enough to go on. `false`: there are no readers left.
    pub async fn wait_for_readers(&self) -> bool {
        loop {
            let taken = self.taken.notified();
            {
                let state = self.state.lock();
                if state.readers.is_empty() {
                    return false;
                }
                if state.chunks.iter().map(Bytes::len).sum::<usize>() < WINDOW {
                    return true;
                }
            }
            taken.await;
        }
    }

    fn enter(&self, phase: Phase) {
        self.state.lock().phase = phase;
        self.changed.notify_waiters();
    }

    fn end(&self, phase: impl FnOnce(Arc<FlightHead>) -> Phase) {
        let mut state = self.state.lock();
        if let Phase::Streaming(head) = &state.phase {
            state.phase = phase(head.clone());
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    fn trim(&mut self) {
        if !self.trimming {
            return;
        }
        let slowest = self.readers.iter().map(|position| position.chunk).min();
        let slowest = slowest.unwrap_or(self.first + self.chunks.len() as u64);
        while self.first < slowest && self.chunks.pop_front().is_some() {
            self.first += 1;
        }
    }
}

/// A reader's place in a flight. Dropping it is leaving; the fill goes on.
pub struct Seat {
    flight: Arc<Flight>,
    reader: u64,
}

/// One reader of a flight.
pub struct FlightReader {
    seat: Seat,
    pub head: Arc<FlightHead>,
    /// Whether it is of the request that caused the fill.
    pub leads: bool,
}

impl FlightReader {
    /// The next piece of the body; `None` at its proper end. Safe to cancel: nothing is taken before it
    /// returns.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        loop {
            let changed = self.seat.flight.changed.notified();
            if let Some(found) = self.seat.take()? {
                return Ok(found);
            }
            changed.await;
        }
    }
}

impl Seat {
    /// `Some(None)` at the end, `None` if there is nothing yet.
    fn take(&self) -> Result<Option<Option<Bytes>>, OriginError> {
        let mut state = self.flight.state.lock();
        let state = &mut *state;
        let Some(position) = state.readers.iter_mut().find(|position| position.reader == self.reader) else {
            return Ok(Some(None));
        };
        // Chunks are only dropped when every reader has them, so this one's next is never before the first.
        let at = position.chunk - state.first;
        if let Some(chunk) = state.chunks.get(at as usize) {
            let chunk = chunk.clone();
            position.chunk += 1;
            state.trim();
            if state.trimming {
                self.flight.taken.notify_waiters();
            }
            return Ok(Some(Some(chunk)));
        }
        match &state.phase {
            Phase::Complete(_) => Ok(Some(None)),
            Phase::Broken(_, error) => Err(error.clone()),
            Phase::Settled(Settled::Failed(error)) => Err(error.clone()),
            Phase::Waiting | Phase::Streaming(_) | Phase::Settled(_) => Ok(None),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        state.readers.retain(|position| position.reader != self.reader);
        state.trim();
        drop(state);
        self.flight.taken.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn flight() -> Arc<Flight> {
        Flight::new(CacheKey::from_written("s\u{1f}1\u{1f}h/"), PurgeSeq(0), true)
    }

    fn head() -> FlightHead {
        FlightHead {
            head: Head::from_origin(StatusCode::OK, HeaderMap::new()),
            length: None,
            freshness: Freshness::default(),
            variant: Variant::default(),
            basis: Basis::MaxAge,
            tags: Tags::default(),
            own: HeaderMap::new(),
        }
    }

    async fn reader(flight: &Arc<Flight>) -> FlightReader {
        match flight.arrival(None, Fields::Parsed(&[])).await {
            Arrival::Stream(reader) => reader,
            _ => panic!("expected a stream"),
        }
    }

    async fn rest(mut reader: FlightReader) -> Result<Vec<u8>, OriginError> {
        let mut all = Vec::new();
        while let Some(chunk) = reader.next().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    fn broken() -> OriginError {
        OriginError::Broken { origin: "o".into(), cause: "reset".into() }
    }

    #[tokio::test]
    async fn readers_follow_from_the_start_whenever_they_come() {
        let flight = flight();
        let waiting = tokio::spawn({
            let flight = flight.clone();
            async move { rest(reader(&flight).await).await }
        });
        tokio::task::yield_now().await;
        flight.start(head());
        flight.append(Bytes::from_static(b"one "));
        let second = reader(&flight).await;
        flight.append(Bytes::from_static(b"two"));
        flight.complete();
        let third = reader(&flight).await;
        assert_eq!(waiting.await.unwrap().unwrap(), b"one two");
        assert_eq!(rest(second).await.unwrap(), b"one two");
        assert_eq!(rest(third).await.unwrap(), b"one two");
        assert_eq!(flight.body_with(b" three"), "one two three");
    }

    #[tokio::test]
    async fn a_broken_fill_is_an_error_for_its_readers_never_an_end() {
        let flight = flight();
        flight.start(head());
        flight.append(Bytes::from_static(b"half"));
        let mut reader = reader(&flight).await;
        assert_eq!(reader.next().await.unwrap().unwrap(), "half");
        flight.abort(broken());
        assert_eq!(reader.next().await, Err(broken()));
    }

    #[tokio::test]
    async fn a_fill_that_ends_before_its_head_tells_those_who_wait() {
        let flight = flight();
        flight.abort(broken());
        let arrival = flight.arrival(None, Fields::Parsed(&[])).await;
        assert!(matches!(arrival, Arrival::Settled(Settled::Failed(error)) if error == broken()));
    }

    #[tokio::test]
    async fn what_is_not_kept_is_dropped_behind_the_slowest_reader() {
        let flight = flight();
        flight.start(head());
        flight.append(Bytes::from_static(b"a"));
        let mut slow = reader(&flight).await;
        let mut fast = reader(&flight).await;
        flight.stop_keeping();
        flight.append(Bytes::from(vec![b'b'; WINDOW]));
        fast.next().await.unwrap();
        fast.next().await.unwrap();
        assert_eq!(flight.state.lock().chunks.len(), 2);
        let wait = flight.wait_for_readers();
        tokio::pin!(wait);
        assert!(futures_are_pending(wait.as_mut()).await);
        slow.next().await.unwrap();
        slow.next().await.unwrap();
        assert!(wait.await);
        assert_eq!(flight.state.lock().chunks.len(), 0);
        assert!(matches!(flight.arrival(None, Fields::Parsed(&[])).await, Arrival::Missed), "the start is gone");
        drop((slow, fast));
        assert!(!flight.wait_for_readers().await, "nobody is left to read for");
    }

    async fn futures_are_pending<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut future = Some(future);
        std::future::poll_fn(|cx| {
            let future = future.take().expect("polled once");
            std::task::Poll::Ready(future.poll(cx).is_pending())
        })
        .await
    }
}
