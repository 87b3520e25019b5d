//! A response on its way from the origin into the cache, and the readers that follow it.
//!
//! The fill appends at the origin's pace; each reader takes what is there at its client's pace and waits for
//! the rest. Nobody waits for anybody's client.
//!
//! What is too large for memory is written to disk as it comes. Then only what is not written yet is kept here, and a
//! little of what is; readers that are further behind read the file. A response that is not stored at all is dropped as
//! soon as all readers have it, and its fill waits when the slowest reader is [`super::fill_buffer::WINDOW`] bytes behind.

mod body;
mod outcome;
mod pace;
mod reader;
mod stored;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::ticks;
use crate::origin::error::OriginError;
use crate::origin::interims::Interims;
use crate::plan::CacheKey;
use crate::prefix::Prefix;

use super::fill_buffer::{Account, FillBuffer, WINDOW};
use super::purge::PurgeSeq;
use super::vary::Variant;
use super::waiting::{Held, Holding, Share};

use body::{Body, Retention};

pub(crate) use body::{OnWritten, PartlyWritten};
pub(crate) use outcome::{FlightHead, ObjectUse, Settled};
pub(crate) use reader::{Arrival, FlightReader};

/// One running fill.
pub struct Flight {
    pub key: CacheKey,
    /// The purge sequence in force when it began.
    pub seq: PurgeSeq,
    /// Whether other requests may follow it.
    pub joinable: bool,
    /// What those must be like that wait for it, by what is known of the key's responses; `None`: nothing is.
    pub alike: Option<Variant>,
    /// Where its bytes are counted.
    buffer: Arc<FillBuffer>,
    /// What it fetches was changed by an unsafe request since it began.
    spoilt: AtomicBool,
    /// Somebody wants, or wanted, most of it.
    wanted: AtomicBool,
    /// The request that caused it tells nobody who asks: what the origin says to it before the head, or by failing, it says
    /// to all.
    impersonal: AtomicBool,
    /// When a reader took something last.
    taken_at: Arc<AtomicU64>,
    /// Its body in the account of readers, once it is stored: by itself, and by those who waited for it. Before the state:
    /// it is to be dropped first.
    held: Mutex<Vec<Held>>,
    state: Mutex<State>,
    /// What goes before the head.
    pub interims: Arc<Interims>,
    /// Something new for readers.
    changed: Notify,
    /// A reader took something or left.
    taken: Notify,
}

#[derive(Default)]
struct State {
    phase: Phase,
    body: Body,
    /// Readers that wait for their clients, until the body is stored and counts.
    waiters: HashMap<usize, Holding>,
    /// Room that was taken for what has not come.
    reserved: u64,
    /// The same, as what is fetched for the clients of a network.
    of_network: Option<Share>,
    /// What is here is the stored body itself, and counted where that is: so many bytes.
    shared: Option<u64>,
}

#[derive(Clone, Default)]
enum Phase {
    /// No response head yet.
    #[default]
    Waiting,
    Streaming(Arc<FlightHead>),
    Complete(Arc<FlightHead>),
    /// Broken off in the body.
    Broken(Arc<FlightHead>, OriginError),
    Settled(Settled),
}

impl Flight {
    /// `joinable`: by whom; `None`: by nobody.
    pub fn new(key: CacheKey, seq: PurgeSeq, joinable: Option<Option<Variant>>, buffer: Arc<FillBuffer>) -> Arc<Self> {
        Arc::new(Flight {
            key,
            seq,
            joinable: joinable.is_some(),
            alike: joinable.flatten(),
            buffer,
            spoilt: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            impersonal: AtomicBool::new(false),
            taken_at: Arc::new(AtomicU64::new(ticks())),
            held: Mutex::default(),
            state: Mutex::default(),
            interims: Arc::default(),
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

    /// Notes that its request tells nobody who asks.
    pub fn set_impersonal(&self) {
        self.impersonal.store(true, Ordering::Release);
    }

    pub fn is_impersonal(&self) -> bool {
        self.impersonal.load(Ordering::Acquire)
    }

    /// The head, if it has come and may be shared.
    pub fn head(&self) -> Option<Arc<FlightHead>> {
        match &self.state.lock().phase {
            Phase::Streaming(head) | Phase::Complete(head) | Phase::Broken(head, _) => Some(head.clone()),
            Phase::Waiting | Phase::Settled(_) => None,
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
        let mut state = self.state.lock();
        if let Phase::Streaming(head) = &state.phase {
            state.phase = Phase::Complete(head.clone());
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Ends it, whatever it was doing: readers see an error, never the end of a body.
    pub fn abort(&self, error: OriginError) {
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Waiting => state.phase = Phase::Settled(Settled::Failed(error)),
            Phase::Streaming(head) => {
                state.phase = Phase::Broken(head.clone(), error);
                if state.body.retention == Retention::All {
                    self.pass_on(&mut state); // it will not be stored: what is left of it is for its readers alone
                }
            }
            Phase::Complete(_) | Phase::Broken(..) | Phase::Settled(_) => return,
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes room for so many bytes before they come, for a client of this network. `false`: there is none.
    pub fn reserve(&self, bytes: u64, prefix: Option<Prefix>) -> bool {
        let has_room = self.buffer.reserve(bytes, prefix); // before the lock: it may end readers, of this flight too
        if has_room {
            let of_network = self.buffer.waiting.enter_fill(prefix, bytes);
            let mut state = self.state.lock();
            (state.reserved, state.of_network) = (bytes, of_network);
        }
        has_room
    }

    /// Somebody wants most of it: it is worth finishing.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub fn append(&self, chunk: Bytes) {
        let mut state = self.state.lock();
        let length = chunk.len() as u64;
        if state.shared.is_none() {
            let ahead = state.reserved.min(length);
            state.reserved -= ahead;
            self.buffer.take(length - ahead, state.account());
        }
        state.body.append(chunk);
        self.trim(&mut state);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Everything that was appended, with something before it and the last piece, which was not yet, in one.
    pub fn body_between(&self, before: &[u8], last: &[u8]) -> Bytes {
        let state = self.state.lock();
        // Copied even if it is one piece: its buffer may be larger than what is used of it.
        let mut whole = Vec::with_capacity(before.len() + state.body.here() as usize + last.len());
        whole.extend_from_slice(before);
        state.body.pieces().for_each(|piece| whole.extend_from_slice(piece));
        whole.extend_from_slice(last);
        whole.into()
    }

    /// From now on it is written to disk. What has come so far is for the caller to write.
    pub fn write_to(self: &Arc<Self>, file: Arc<dyn PartlyWritten>) -> Vec<Bytes> {
        file.tell(Arc::downgrade(&(self.clone() as Arc<dyn OnWritten>)));
        let mut state = self.state.lock();
        self.leave_fills(&mut state, 0);
        state.body.retention = Retention::Unwritten;
        state.body.file = Some(file);
        state.body.pieces().cloned().collect()
    }

    /// From now on it is not stored: bytes that all readers have are dropped.
    pub fn stop_keeping(&self) {
        self.pass_on(&mut self.state.lock());
    }

    /// From now on what all readers have is dropped, and what is here counts as only passed on.
    fn pass_on(&self, state: &mut State) {
        if state.shared.is_some() || state.body.retention == Retention::Unread {
            return;
        }
        let here = state.body.here();
        self.leave_fills(state, here);
        self.buffer.take(here, Account::Passing);
        state.body.retention = Retention::Unread;
        self.trim(state);
    }

    /// It needs no room in memory any more for what has not come, nor for so many bytes that have.
    fn leave_fills(&self, state: &mut State, bytes: u64) {
        self.buffer.give_back(bytes + std::mem::take(&mut state.reserved), Account::Fills);
        state.of_network = None;
    }

    /// Whether all that has come is here, to be stored or stored already.
    pub fn keeps_all(&self) -> bool {
        self.state.lock().body.retention == Retention::All
    }

    /// Bytes that have come.
    pub fn received(&self) -> u64 {
        self.state.lock().body.received()
    }

    /// Whether any reader had taken all that had come, and wanted more.
    pub fn has_waiting_readers(&self) -> bool {
        self.state.lock().body.has_waiting_readers()
    }

    /// Whether all readers that it had have left.
    pub fn is_deserted(&self) -> bool {
        self.state.lock().body.is_deserted()
    }

    fn trim(&self, state: &mut State) {
        let dropped = state.body.trim(if self.buffer.is_tight() { 0 } else { WINDOW });
        self.buffer.give_back(dropped, state.account());
    }

    fn enter(&self, phase: Phase) {
        self.state.lock().phase = phase;
        self.changed.notify_waiters();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if state.shared.is_none() {
            self.buffer.give_back(state.body.here() + state.reserved, state.account());
        }
    }
}

impl State {
    /// Where what is here is counted.
    fn account(&self) -> Account {
        if self.body.retention == Retention::Unread { Account::Passing } else { Account::Fills }
    }
}

impl OnWritten for Flight {
    fn written(&self) {
        self.trim(&mut self.state.lock());
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use http::{HeaderMap, StatusCode};

    use super::super::head::Head;
    use super::super::policy::Storable;
    use super::super::testing::presented;
    use super::*;

    pub(super) fn flight() -> Arc<Flight> {
        flight_in(&Arc::new(FillBuffer::new(u64::MAX, Arc::default())))
    }

    pub(super) fn flight_in(buffer: &Arc<FillBuffer>) -> Arc<Flight> {
        Flight::new(CacheKey::from_written("s\u{1f}1\u{1f}h/"), PurgeSeq(0), Some(None), buffer.clone())
    }

    pub(super) fn head() -> FlightHead {
        FlightHead {
            head: Head::from_origin(StatusCode::OK, HeaderMap::new()),
            length: None,
            storable: Storable::default(),
            own: HeaderMap::new(),
            skipped: None,
            outage: None,
            has_room: true,
        }
    }

    pub(super) async fn arrival(flight: &Arc<Flight>) -> Arrival {
        flight.arrival(None, presented(&HeaderMap::new()), None).await
    }

    pub(super) async fn reader(flight: &Arc<Flight>) -> FlightReader {
        match arrival(flight).await {
            Arrival::Stream(reader) => reader,
            _ => panic!("expected a stream"),
        }
    }

    pub(super) async fn rest(mut reader: FlightReader) -> Result<Vec<u8>, OriginError> {
        let mut all = Vec::new();
        while let Some(chunk) = reader.next().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    pub(super) fn is_pending(future: Pin<&mut impl Future>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    fn broken() -> OriginError {
        OriginError::broken("reset")
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
        assert_eq!(flight.body_between(b"zero ", b" three"), "zero one two three");
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
        assert!(matches!(arrival(&flight).await, Arrival::Settled(Settled::Failed(error)) if error == broken()));
    }

    #[tokio::test]
    async fn what_fills_hold_is_counted_until_it_is_stored_or_gone() {
        let buffer = Arc::new(FillBuffer::new(16, Arc::default()));
        let stored = flight_in(&buffer);
        stored.start(head());
        stored.append(Bytes::from_static(b"0123456789"));
        let mut slow = reader(&stored).await;
        assert_eq!((buffer.held(), buffer.is_full(None)), (10, false));
        let body = stored.body_between(b"", b"ab");
        assert!(stored.share(&body, 12));
        assert_eq!(buffer.held(), 0, "it is counted where it is stored");
        buffer.waiting.left_body(body.as_ptr().addr());
        assert_eq!(buffer.held(), 12, "by all that it takes");
        stored.complete();
        let first = slow.next().await.unwrap().unwrap();
        assert_eq!(first.as_ptr(), body.as_ptr(), "it is not there twice");
        assert_eq!((first, rest(slow).await.unwrap()), (body, Vec::new()), "the last piece with it");
        drop(stored);
        assert_eq!(buffer.held(), 0);
        let passed = flight_in(&buffer);
        passed.start(head());
        passed.stop_keeping();
        let mut reader = reader(&passed).await;
        passed.append(Bytes::from(vec![0; 100_000]));
        assert!(!buffer.is_full(None), "who is only passed something keeps nobody from being stored");
        {
            let wait = passed.wait_for_readers();
            tokio::pin!(wait);
            assert!(is_pending(wait.as_mut()), "the window is narrow");
        }
        reader.next().await.unwrap();
        assert_eq!(buffer.held(), 0);
        passed.append(Bytes::from_static(b"0"));
        drop((reader, passed));
        assert_eq!(buffer.held(), 0);
    }
}
