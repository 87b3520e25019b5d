//! A response on its way from the origin into the cache, and the readers that follow it.
//!
//! The fill appends at the origin's pace; each reader takes what is there at its client's pace and waits for
//! the rest. Nobody waits for anybody's client.
//!
//! What is too large for memory is written to disk as it comes. Then only what is not written yet is kept here, and a
//! little of what is; readers that are further behind read the file. A response that is not stored at all is dropped as
//! soon as all readers have it, and its fill waits when the slowest reader is [`super::fill_buffer::WINDOW`] bytes behind.

mod outcome;
mod reader;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::clock::ticks;
use crate::origin::error::OriginError;
use crate::origin::interims::Interims;
use crate::plan::CacheKey;
use crate::prefix::Prefix;

use super::fill_buffer::{Account, FillBuffer, WINDOW};
use super::purge::PurgeSeq;
use super::trouble::Trouble;
use super::vary::Variant;
use super::waiting::{Client, Held, Holder, Holding, OfNetwork, Waiter};

pub use outcome::{Arrival, FlightHead, ObjectUse, Settled};
pub use reader::FlightReader;

/// After this long without anything taken readers are stalled.
const SHED_AFTER: Duration = Duration::from_secs(10);

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

struct State {
    phase: Phase,
    chunks: VecDeque<Chunk>,
    /// Where the first byte that is still here lies in the body, and where the next will.
    first: u64,
    end: u64,
    readers: SmallVec<[Position; 4]>,
    /// Readers that wait for their clients, until the body is stored and counts.
    waiters: HashMap<usize, Holding>,
    next_reader: u64,
    keeping: Keeping,
    /// Room that was taken for what has not come.
    reserved: u64,
    /// The same, as what is fetched for the clients of a network.
    of_network: Option<OfNetwork>,
    /// What is here is the stored body itself, and counted where that is: so many bytes.
    shared: Option<u64>,
    /// The beginning of the body, on disk.
    file: Option<Arc<dyn PartlyWritten>>,
}

struct Chunk {
    at: u64,
    bytes: Bytes,
}

/// How far a reader has come.
struct Position {
    reader: u64,
    at: u64,
    /// It has taken all that was there, and wants more.
    waits: bool,
}

/// What becomes of bytes that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    /// All stay here.
    All,
    /// Those that are on disk go.
    Unwritten,
    /// Those that all readers have go.
    Unread,
}

/// A body on its way to a disk: it can be read as far as it is written.
pub trait PartlyWritten: std::fmt::Debug + Send + Sync {
    /// Has it tell the flight of what is written from now on.
    fn tell(&self, flight: Weak<Flight>);

    /// Bytes from the start that are written.
    fn written(&self) -> u64;

    /// Some bytes from a place on that is written, at least one, and none from `until` on.
    fn read(self: Arc<Self>, from: u64, until: u64) -> Pin<Box<dyn Future<Output = Result<Bytes, Trouble>> + Send>>;
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
            taken_at: Arc::new(AtomicU64::new(ticks())),
            held: Mutex::default(),
            state: Mutex::new(State {
                phase: Phase::Waiting,
                chunks: VecDeque::new(),
                first: 0,
                end: 0,
                readers: SmallVec::new(),
                waiters: HashMap::new(),
                next_reader: 0,
                keeping: Keeping::All,
                reserved: 0,
                of_network: None,
                shared: None,
                file: None,
            }),
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
        self.end(Phase::Complete);
    }

    /// Ends it, whatever it was doing: readers see an error, never the end of a body.
    pub fn abort(&self, error: OriginError) {
        self.end(|head| Phase::Broken(head, error.clone()));
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Broken(..)) && state.keeping == Keeping::All {
            self.pass_on(&mut state); // it will not be stored: what is left of it is for its readers alone
        }
        if matches!(state.phase, Phase::Waiting) {
            state.phase = Phase::Settled(Settled::Failed(error));
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// Takes room for so many bytes before they come, for a client of this network. `false`: there is none.
    pub fn reserve(&self, bytes: u64, prefix: Option<Prefix>) -> bool {
        let has_room = self.buffer.reserve(bytes, prefix); // before the lock: it may end readers, of this flight too
        if has_room {
            let of_network = self.buffer.waiting().enter_fill(prefix, bytes);
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
        let (at, length) = (state.end, chunk.len() as u64);
        state.end += length;
        if state.shared.is_none() {
            let ahead = state.reserved.min(length);
            state.reserved -= ahead;
            self.buffer.take(length - ahead, state.account());
        }
        state.chunks.push_back(Chunk { at, bytes: chunk });
        self.trim(&mut state);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Everything that was appended, with something before it and the last piece, which was not yet, in one.
    pub fn body_between(&self, before: &[u8], last: &[u8]) -> Bytes {
        let state = self.state.lock();
        // Copied even if it is one piece: its buffer may be larger than what is used of it.
        let mut whole = Vec::with_capacity(before.len() + (state.end - state.first) as usize + last.len());
        whole.extend_from_slice(before);
        state.chunks.iter().for_each(|chunk| whole.extend_from_slice(&chunk.bytes));
        whole.extend_from_slice(last);
        whole.into()
    }

    /// The body is stored in memory now, all of it, and takes `weight` bytes there: readers get that, and nothing is there
    /// twice. `false`: they do not, since they have not been given all that has come.
    pub fn share(self: &Arc<Self>, body: &Bytes, weight: u64) -> bool {
        let mut state = self.state.lock();
        if state.keeping != Keeping::All || state.shared.is_some() || state.end > body.len() as u64 {
            return false;
        }
        self.buffer.give_back(state.end + std::mem::take(&mut state.reserved), Account::Fills);
        (state.shared, state.of_network) = (Some(weight), None);
        (state.chunks, state.end) = (VecDeque::from([Chunk { at: 0, bytes: body.clone() }]), body.len() as u64);
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        self.changed.notify_waiters();
        if !body.is_empty() {
            let live = waiters.into_values().filter(Holding::is_live);
            let holdings = live.chain([Holding::new(Client::NONE, &self.taken_at, self)]);
            let hold = |holding| self.buffer.waiting().hold_body(body.as_ptr().addr(), weight, holding);
            *self.held.lock() = holdings.map(hold).collect();
        }
        true
    }

    /// Where the stored body lies that its readers have, and what it takes. `None`: it is not stored, or not yet; then
    /// the `waiter` is entered as soon as it is.
    pub fn stored_body(&self, waiter: &Arc<Waiter>) -> Option<(usize, u64)> {
        let mut state = self.state.lock();
        if let Some(weight) = state.shared {
            let first = state.chunks.front().filter(|first| first.at == 0 && !first.bytes.is_empty())?;
            return Some((first.bytes.as_ptr().addr(), weight));
        }
        let holding = waiter.holding();
        if state.waiters.len() == state.waiters.capacity() {
            state.waiters.retain(|_, other| other.is_live()); // those that have left
        }
        state.waiters.insert(holding.address(), holding);
        None
    }

    /// From now on it is written to disk. What has come so far is for the caller to write.
    pub fn write_to(self: &Arc<Self>, file: Arc<dyn PartlyWritten>) -> Vec<Bytes> {
        file.tell(Arc::downgrade(self));
        let mut state = self.state.lock();
        self.buffer.give_back(std::mem::take(&mut state.reserved), Account::Fills);
        (state.keeping, state.of_network) = (Keeping::Unwritten, None);
        state.file = Some(file);
        state.chunks.iter().map(|chunk| chunk.bytes.clone()).collect()
    }

    /// From now on it is not stored: bytes that all readers have are dropped.
    pub fn stop_keeping(&self) {
        self.pass_on(&mut self.state.lock());
    }

    /// From now on what all readers have is dropped, and what is here counts as only passed on.
    fn pass_on(&self, state: &mut State) {
        if state.shared.is_some() || state.keeping == Keeping::Unread {
            return;
        }
        let here = state.end - state.first;
        self.buffer.give_back(here + std::mem::take(&mut state.reserved), Account::Fills);
        self.buffer.take(here, Account::Passing);
        (state.keeping, state.of_network) = (Keeping::Unread, None);
        self.trim(state);
    }

    /// More is on disk: drops it here, as far as nobody is near it or there is no room.
    pub fn let_go_of_written(&self) {
        self.trim(&mut self.state.lock());
    }

    /// Whether all that has come is here, to be stored or stored already.
    pub fn keeps_all(&self) -> bool {
        self.state.lock().keeping == Keeping::All
    }

    /// Bytes that have come.
    pub fn received(&self) -> u64 {
        self.state.lock().end
    }

    /// Whether any reader had taken all that had come, and wanted more.
    pub fn has_waiting_readers(&self) -> bool {
        self.state.lock().has_waiting_readers()
    }

    /// Waits until a reader has taken all that has come, and wants more; or none is left.
    pub async fn wanted_on(&self) {
        loop {
            let taken = self.taken.notified();
            {
                let state = self.state.lock();
                if state.readers.is_empty() || state.has_waiting_readers() {
                    return;
                }
            }
            taken.await;
        }
    }

    /// Whether all that did have left.
    pub fn is_deserted(&self) -> bool {
        let state = self.state.lock();
        state.next_reader > 0 && state.readers.is_empty()
    }

    /// Waits until the slowest reader is near enough to go on; where there is no room, until one wants more. `false`: there
    /// are no readers left, or none takes anything and there is no room for what waits for them.
    pub async fn wait_for_readers(&self) -> bool {
        loop {
            let taken = self.taken.notified();
            {
                let state = self.state.lock();
                if state.readers.is_empty() {
                    return false;
                }
                let behind = state.end - state.first;
                let goes_on = match self.buffer.is_tight() {
                    true => behind == 0 && state.has_waiting_readers(),
                    false => behind < WINDOW,
                };
                if goes_on {
                    return true;
                }
            }
            if tokio::time::timeout(SHED_AFTER, taken).await.is_err() && self.shed() {
                return false;
            }
        }
    }

    /// Lets go of what is only passed on to readers that take nothing, if there is no room. Whether it did.
    fn shed(&self) -> bool {
        let mut state = self.state.lock();
        if state.keeping != Keeping::Unread || self.buffer.held() <= self.buffer.most() {
            return false;
        }
        self.buffer.give_back(state.end - state.first, state.account());
        state.first = state.end;
        state.chunks.clear();
        true
    }

    fn trim(&self, state: &mut State) {
        let dropped = state.trim(if self.buffer.is_tight() { 0 } else { WINDOW });
        self.buffer.give_back(dropped, state.account());
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

impl Drop for Flight {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if state.shared.is_none() {
            self.buffer.give_back(state.end - state.first + state.reserved, state.account());
        }
    }
}

impl Holder for Flight {
    /// Drops the body. Whoever has not read it to its end gets an error.
    fn let_go(&self) {
        let mut state = self.state.lock();
        if state.shared.is_some() {
            state.chunks.clear();
            state.first = state.end;
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    /// Where what is here is counted.
    fn account(&self) -> Account {
        if self.keeping == Keeping::Unread { Account::Passing } else { Account::Fills }
    }

    fn has_waiting_readers(&self) -> bool {
        self.readers.iter().any(|position| position.waits)
    }

    /// Bytes from the start of the body that can be read from disk.
    fn on_disk(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.written())
    }

    /// Drops what nobody needs any more; how many bytes. `window`: what is kept of what is on disk already.
    fn trim(&mut self, window: u64) -> u64 {
        let slowest = || self.readers.iter().map(|position| position.at).min().unwrap_or(self.end);
        let until = match self.keeping {
            Keeping::All => return 0,
            Keeping::Unread => slowest(),
            Keeping::Unwritten => self.on_disk().min(slowest().max(self.end.saturating_sub(window))),
        };
        let before = self.first;
        while let Some(chunk) = self.chunks.front().filter(|chunk| chunk.at + chunk.bytes.len() as u64 <= until) {
            self.first = chunk.at + chunk.bytes.len() as u64;
            self.chunks.pop_front();
        }
        self.first - before
    }

    /// The bytes from a place on that are at hand, up to the end of a piece.
    fn piece(&self, at: u64) -> Option<Bytes> {
        let after = self.chunks.partition_point(|chunk| chunk.at <= at);
        let chunk = self.chunks.get(after.checked_sub(1)?)?;
        let skip = (at - chunk.at) as usize;
        (skip < chunk.bytes.len()).then(|| chunk.bytes.slice(skip..))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::super::freshness::Freshness;
    use super::super::object::Head;
    use super::super::tags::Tags;
    use super::super::vary::Presented;
    use super::*;
    use crate::request::Fields;

    fn flight() -> Arc<Flight> {
        flight_in(&Arc::new(FillBuffer::new(u64::MAX, Arc::default())))
    }

    fn flight_in(buffer: &Arc<FillBuffer>) -> Arc<Flight> {
        Flight::new(CacheKey::from_written("s\u{1f}1\u{1f}h/"), PurgeSeq(0), Some(None), buffer.clone())
    }

    fn nobody() -> Presented<'static> {
        let (fields, client) = (Fields::Parsed(&[]), [192, 0, 2, 1].into());
        Presented { fields, client, version: http::Version::HTTP_11, trusted_proxies: &[] }
    }

    fn head() -> FlightHead {
        FlightHead {
            head: Head::from_origin(StatusCode::OK, HeaderMap::new()),
            length: None,
            part: None,
            freshness: Freshness::default(),
            variant: Variant::default(),
            tags: Tags::default(),
            own: HeaderMap::new(),
            skipped: None,
            has_room: true,
        }
    }

    async fn reader(flight: &Arc<Flight>) -> FlightReader {
        match flight.arrival(None, nobody(), None).await {
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
        let arrival = flight.arrival(None, nobody(), None).await;
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
        flight.append(Bytes::from(vec![b'b'; WINDOW as usize]));
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
        assert!(matches!(flight.arrival(None, nobody(), None).await, Arrival::Missed), "the start is gone");
        drop((slow, fast));
        assert!(!flight.wait_for_readers().await, "nobody is left to read for");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_what_is_passed_on_makes_room_where_there_is_none() {
        for (most, goes_on) in [(8 << 20, true), (1, false)] {
            let buffer = Arc::new(FillBuffer::new(most, Arc::default()));
            let flight = flight_in(&buffer);
            flight.start(head());
            let mut stalled = reader(&flight).await;
            flight.stop_keeping();
            flight.append(vec![b'x'; WINDOW as usize + 1].into());
            let waiting = tokio::time::timeout(SHED_AFTER * 3, flight.wait_for_readers()).await;
            // Whoever only waits has as long as its connection has.
            assert_eq!(waiting.is_err(), goes_on, "{most}");
            if !goes_on {
                assert_eq!((waiting, buffer.held()), (Ok(false), 0));
                assert!(stalled.next().await.is_err());
            }
        }
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
        buffer.waiting().left_body(body.as_ptr().addr());
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
            assert!(futures_are_pending(wait.as_mut()).await, "the window is narrow");
        }
        reader.next().await.unwrap();
        assert_eq!(buffer.held(), 0);
        passed.append(Bytes::from_static(b"0"));
        drop((reader, passed));
        assert_eq!(buffer.held(), 0);
    }

    #[tokio::test]
    async fn a_flight_that_lets_go_is_an_error_for_its_readers_never_an_end() {
        let flight = flight();
        flight.start(head());
        flight.append(Bytes::from_static(b"0123456789"));
        let (slow, mut done) = (reader(&flight).await, reader(&flight).await);
        let body = flight.body_between(b"", b"");
        flight.share(&body, 10);
        flight.complete();
        assert_eq!(done.next().await.unwrap().unwrap(), "0123456789");
        flight.let_go();
        assert!(rest(slow).await.is_err());
        assert_eq!(done.next().await, Ok(None), "who had all of it had all of it");
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
