//! One request's stream, between the connection, which alone reads and writes the wire, and the task that answers the
//! request. Either side leaves what it has for the other and wakes it; nobody waits with a lock held.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use parking_lot::Mutex;

use crate::cache::waiting::{Client, Held, NO_ROOM, Share, Turns, Waiter, Waiting};
use crate::origin::upload::{BodyError, Frame, RequestBody};
use crate::prefix::Prefix;

use super::wire::Reason;
use crate::cache::object::LARGE_HEAD;

/// Where tasks leave word that they have something for the connection.
#[derive(Debug, Default)]
pub struct Outbox {
    ready: Mutex<Ready>,
    /// Tasks that are not done.
    live: AtomicUsize,
    /// Where those who hold something for the client are entered.
    waiting: Arc<Waiting>,
    /// The client's network.
    prefix: Option<Prefix>,
}

#[derive(Debug, Default)]
struct Ready {
    streams: Vec<Arc<Stream>>,
    waker: Option<Waker>,
}

impl Outbox {
    pub fn new(waiting: Arc<Waiting>, prefix: Option<Prefix>) -> Arc<Self> {
        Arc::new(Outbox { waiting, prefix, ..Outbox::default() })
    }

    /// Whether one stream more, whose request takes so many bytes, has a place: some are every connection's due.
    pub fn admit(&self, bytes: usize) -> Option<Admitted> {
        if self.live() < DUE && bytes < OWN {
            return Some(Admitted::default());
        }
        let share = self.waiting.enter_stream(self.prefix, (bytes + OWN) as u64)?;
        Some(Admitted { _share: Some(share) })
    }

    /// Room for so many bytes of requests' bodies.
    pub fn enter_upload(&self, bytes: u64) -> Option<Share> {
        self.waiting.enter_upload(self.prefix, bytes)
    }

    pub fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Takes the streams that have something; if none has, the connection is woken by the next.
    pub fn poll_ready(&self, cx: &mut Context<'_>, streams: &mut Vec<Arc<Stream>>) -> Poll<()> {
        let mut ready = self.ready.lock();
        if !ready.streams.is_empty() {
            std::mem::swap(&mut ready.streams, streams);
            return Poll::Ready(());
        }
        if !ready.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            ready.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Nobody looks any more. Once no task lives, nothing comes after it: what refers to its connection is gone.
    pub fn close(&self) {
        let mut ready = self.ready.lock();
        ready.streams = Vec::new();
        ready.waker = None;
    }

    /// A task leaves word that its stream has something, or that it is done: nothing of it comes after it is not counted
    /// any more.
    fn push(&self, stream: &Arc<Stream>, is_done: bool) {
        let waker = {
            let mut ready = self.ready.lock();
            ready.streams.push(stream.clone());
            if is_done {
                self.live.fetch_sub(1, Ordering::AcqRel);
            }
            ready.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A place among all streams of the node.
#[derive(Debug, Default)]
pub struct Admitted {
    _share: Option<Share>,
}

/// A stream that a task answers.
#[derive(Debug)]
pub struct Stream {
    pub id: u32,
    outbox: Arc<Outbox>,
    /// Its task, as one that waits for the client.
    waiter: Arc<Waiter>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// For the client, in order.
    out: VecDeque<Out>,
    /// Bytes of the body in it, and those that have gone.
    queued: usize,
    sent: u64,
    /// From the client; in each part at least so much of a buffer is used that many small ones take no more than it.
    body: VecDeque<BytesMut>,
    body_ended: bool,
    trailers: Option<HeaderMap>,
    /// Bytes that the task has taken and the client's window has not got back.
    taken: usize,
    /// The stream is over, whatever the task may still have.
    gone: Option<Gone>,
    /// The task is.
    dropped: bool,
    /// The connection has been told that there is something.
    told: bool,
    waker: Option<Waker>,
}

/// What a task has for the client.
#[derive(Debug)]
pub enum Out {
    /// A field section, and whether the stream ends with it.
    Section(BytesMut, bool),
    Data(Bytes, bool),
    Reset(Reason),
}

/// What the connection finds when it looks at a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    /// Bytes that have left the stream since it last looked: taken by the task, or of no use any more.
    pub taken: usize,
    /// There is something for the client.
    pub has_more: bool,
    /// The task has ended.
    pub is_dropped: bool,
}

/// A piece of a body that is smaller is put to the one before it.
const SMALL: usize = 4 << 10;
/// Up to this size.
const JOINED: usize = 16 << 10;

/// What a stream with its task takes while it waits, roughly.
const OWN: usize = 10 << 10;
/// So large a head is not counted where the stream is its connection's only one.
const DUE_HEAD: usize = 16 << 10;
/// Streams of a connection that are not counted, but for those with large requests: with what TLS keeps, some 64 KiB.
const DUE: usize = 2;

/// How a stream ended before its task had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    #[error("the client left")]
    Client,
    #[error("the client takes nothing")]
    Stalled,
    #[error("the request's body is not what its head promised")]
    Malformed,
    #[error("{NO_ROOM}")]
    NoRoom,
}

// What the connection does.
impl Stream {
    pub fn new(id: u32, outbox: Arc<Outbox>) -> Arc<Self> {
        let client = Client { connection: Arc::as_ptr(&outbox).addr(), prefix: outbox.prefix };
        let waiter = Waiter::new(client);
        Arc::new(Stream { id, outbox, waiter, state: Mutex::default() })
    }

    /// The connection looks at the stream now.
    pub fn look(&self) -> Look {
        let mut state = self.state.lock();
        state.told = false;
        if state.dropped {
            state.discard_body();
        }
        let taken = std::mem::take(&mut state.taken);
        Look { taken, has_more: !state.out.is_empty(), is_dropped: state.dropped }
    }

    /// The next thing for the client, of a body `most` bytes; of one that may have none now, nothing. With it whether
    /// there is more.
    pub fn next(&self, most: usize) -> Next {
        let mut state = self.state.lock();
        let Some(first) = state.out.pop_front() else { return Next::Nothing };
        let out = match first {
            Out::Data(data, ends) if most == 0 && !data.is_empty() => {
                state.out.push_front(Out::Data(data, ends));
                return Next::Blocked;
            }
            Out::Data(mut data, ends) => {
                let piece = data.split_to(data.len().min(most));
                state.queued -= piece.len();
                state.sent += piece.len() as u64;
                self.waiter.step(piece.len() as u64);
                let more = !data.is_empty();
                if more {
                    state.out.push_front(Out::Data(data, ends));
                }
                Out::Data(piece, ends && !more)
            }
            other => other,
        };
        let waker = if state.queued == 0 { state.waker.take() } else { None };
        let more = !state.out.is_empty();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Next::Some(out, more)
    }

    /// The request's body is about to end, with trailers.
    pub fn receive_trailers(&self, trailers: HeaderMap) {
        self.state.lock().trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
    }

    /// Some of the request's body has come, or its end.
    pub fn receive(&self, data: BytesMut, ended: bool) {
        let mut state = self.state.lock();
        match state.body.back_mut().filter(|last| data.len() < SMALL && last.len() + data.len() <= JOINED) {
            Some(last) => last.extend_from_slice(&data),
            None if data.is_empty() => {}
            None if data.len() < SMALL => state.body.push_back(BytesMut::from(&data[..])),
            None => state.body.push_back(data),
        }
        state.body_ended |= ended;
        wake(state);
    }

    /// The stream is over. Gives the bytes of the request's body that have left it, as [`Look::taken`].
    pub fn end(&self, gone: Gone) -> usize {
        let mut state = self.state.lock();
        state.gone.get_or_insert(gone);
        state.out.clear();
        state.queued = 0;
        state.discard_body();
        let taken = std::mem::take(&mut state.taken);
        wake(state);
        taken
    }
}

impl State {
    /// Nobody reads what is left of the body. It must not look as if it had been read to its end.
    fn discard_body(&mut self) {
        self.body_ended &= self.body.is_empty();
        self.taken += self.body.drain(..).map(|piece| piece.len()).sum::<usize>();
    }
}

fn wake(mut state: parking_lot::MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

// What a task does.
impl Stream {
    fn tell(self: &Arc<Self>) {
        if !std::mem::replace(&mut self.state.lock().told, true) {
            self.outbox.push(self, false);
        }
    }
}

/// A request's body as an exchange takes it from its stream.
struct IncomingBody(Arc<Stream>);

impl RequestBody for IncomingBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, BodyError>> {
        let mut state = self.0.state.lock();
        if let Some(gone) = state.gone {
            return Poll::Ready(Err(match gone {
                Gone::Malformed => BodyError::Malformed("the request's body is not what its head promised"),
                Gone::Client | Gone::Stalled | Gone::NoRoom => BodyError::Left,
            }));
        }
        if let Some(piece) = state.body.pop_front() {
            state.taken += piece.len();
            let last = state.body_ended && state.body.is_empty() && state.trailers.is_none();
            drop(state);
            self.0.tell();
            return Poll::Ready(Ok(Some(Frame::Data { piece: piece.freeze(), last })));
        }
        if !state.body_ended {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(state.trailers.take().map(Frame::Trailers)))
    }
}

/// What [`Stream::next`] has found.
#[derive(Debug)]
pub enum Next {
    Nothing,
    /// The client's window is shut.
    Blocked,
    Some(Out, bool),
}

/// A stream as its task has it. Dropped before the response has ended, it resets the stream.
#[derive(Debug)]
pub struct Handle {
    stream: Arc<Stream>,
    ended: bool,
    _admitted: Admitted,
}

impl Handle {
    pub fn new(stream: Arc<Stream>, admitted: Admitted) -> Self {
        stream.outbox.live.fetch_add(1, Ordering::AcqRel);
        Handle { stream, ended: false, _admitted: admitted }
    }

    /// Bytes of the response's body that have gone to the client.
    pub fn bytes_sent(&self) -> u64 {
        self.stream.state.lock().sent
    }

    /// Gives a field section for the client.
    pub fn send_section(&mut self, section: BytesMut, ends: bool) {
        self.push(Out::Section(section, ends), 0);
        self.ended |= ends;
    }

    /// The task, as one that waits for the client.
    pub fn waiter(&self) -> &Arc<Waiter> {
        &self.stream.waiter
    }

    /// Enters a head that is large, as it is written down and as it came, until it has gone: among what all may have in hand.
    pub fn keep_head(&self, bytes: usize) -> Result<Option<Share>, Gone> {
        if bytes <= if self.stream.outbox.live() > 1 { LARGE_HEAD } else { DUE_HEAD } {
            return Ok(None);
        }
        let share = self.stream.outbox.waiting.keep_in_hand(self.waiter(), 2 * bytes as u64);
        share.map(Some).ok_or(Gone::NoRoom)
    }

    /// Enters what is in hand for the client, with what lies behind it; waits for room. While there is none for it, it is
    /// among what all may have in hand without room, and the stream ends where that is too much.
    pub async fn hold_in_hand(&mut self, bytes: usize) -> Result<Held, Gone> {
        if let Some(held) = self.hold_at_once(bytes) {
            return Ok(held);
        }
        let _in_hand = self.stream.outbox.waiting.keep_in_hand(self.waiter(), bytes as u64).ok_or(Gone::NoRoom)?;
        self.hold_ahead(bytes).await
    }

    /// Enters what is going to be in hand for the client, and is not yet; waits for room.
    pub async fn hold_ahead(&mut self, bytes: usize) -> Result<Held, Gone> {
        self.hold_once(|stream| stream.hold_at_once(bytes)).await
    }

    /// The same, asking in its own way whether there is room.
    pub async fn hold_once(&mut self, ask: impl Fn(&Self) -> Option<Held>) -> Result<Held, Gone> {
        let mut turns = Turns::new();
        loop {
            if let Some(held) = ask(self) {
                return Ok(held);
            }
            tokio::select! {
                gone = self.gone() => return Err(gone),
                () = tokio::time::sleep(turns.next()) => {}
            }
        }
    }

    /// Enters what is in hand for the client now, if there is room.
    pub fn hold_at_once(&self, bytes: usize) -> Option<Held> {
        self.stream.outbox.waiting.hold_pieces(bytes as u64, &self.stream.waiter)
    }

    /// Reads something for the client, only while there is room for it: as long as nothing comes it has none. `read` is told
    /// whether there is; where there is not, it may do something else.
    pub async fn with_room<T>(
        &mut self,
        bytes: usize,
        mut read: impl FnMut(&mut Context<'_>, bool) -> Poll<T>,
    ) -> Result<(T, Held), Gone> {
        let mut turns = Turns::new();
        let mut asks = std::pin::pin!(tokio::time::sleep(turns.next()));
        poll_fn(|cx| {
            if let Poll::Ready(Err(gone)) = self.poll(cx, |_| None::<()>) {
                return Poll::Ready(Err(gone));
            }
            loop {
                if let Some(held) = self.hold_at_once(bytes) {
                    return read(cx, true).map(|read| Ok((read, held)));
                }
                let _ = read(cx, false);
                std::task::ready!(asks.as_mut().poll(cx));
                asks.as_mut().reset(tokio::time::Instant::now() + turns.next());
            }
        })
        .await
    }

    /// As [`Handle::send`]; what is held for it meanwhile may be wanted back, and then the stream ends.
    pub async fn send_held<H>(&mut self, data: Bytes, ends: bool, held: H) -> Result<(), Gone> {
        let waiter = self.stream.waiter.clone();
        let sent = tokio::select! {
            biased;
            sent = self.send(data, ends) => sent,
            () = waiter.told() => Err(Gone::NoRoom),
        };
        drop(held);
        if sent == Err(Gone::NoRoom) {
            self.abandon();
        }
        sent
    }

    /// Ends the stream with an error, and lets go of what the client has not taken.
    fn abandon(&mut self) {
        {
            let mut state = self.stream.state.lock();
            state.out.clear();
            state.queued = 0;
            if state.gone.is_none() {
                state.out.push_back(Out::Reset(Reason::Cancel));
            }
        }
        self.ended = true;
        self.stream.tell();
    }

    /// Gives some of the body for the client, and waits until it has gone into the connection's output.
    pub async fn send(&mut self, data: Bytes, ends: bool) -> Result<(), Gone> {
        let length = data.len();
        self.push(Out::Data(data, ends), length);
        self.ended |= ends;
        self.wait(|state| if ends { state.out.is_empty() } else { state.queued == 0 }.then_some(())).await
    }

    /// Waits until all that was given has gone.
    pub async fn sent(&mut self) -> Result<(), Gone> {
        self.wait(|state| state.out.is_empty().then_some(())).await
    }

    /// Ends the stream with an error.
    pub fn reset(&mut self, reason: Reason) {
        self.push(Out::Reset(reason), 0);
        self.ended = true;
    }

    /// The request's body.
    pub fn body(&self) -> Box<dyn RequestBody> {
        Box::new(IncomingBody(self.stream.clone()))
    }

    /// Waits for the stream to end from outside.
    pub async fn gone(&mut self) -> Gone {
        match self.wait(|_| None::<std::convert::Infallible>).await {
            Err(gone) => gone,
        }
    }

    fn push(&self, out: Out, length: usize) {
        let mut state = self.stream.state.lock();
        if state.gone.is_none() && !self.ended {
            state.queued += length;
            state.out.push_back(out);
            drop(state);
            self.stream.tell();
        }
    }

    async fn wait<T>(&mut self, mut found: impl FnMut(&mut State) -> Option<T>) -> Result<T, Gone> {
        poll_fn(|cx| self.poll(cx, &mut found)).await
    }

    fn poll<T>(&self, cx: &mut Context<'_>, mut found: impl FnMut(&mut State) -> Option<T>) -> Poll<Result<T, Gone>> {
        let mut state = self.stream.state.lock();
        if let Some(gone) = state.gone {
            return Poll::Ready(Err(gone));
        }
        if let Some(found) = found(&mut state) {
            return Poll::Ready(Ok(found));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.reset(Reason::InternalError);
        self.stream.state.lock().dropped = true;
        // Whether it was told or not: a connection that ends waits for its tasks.
        self.stream.outbox.push(&self.stream, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Arc<Stream>, Handle) {
        let stream = Stream::new(1, Arc::default());
        (stream.clone(), Handle::new(stream, Admitted::default()))
    }

    fn ready(stream: &Arc<Stream>) -> usize {
        let mut streams = Vec::new();
        let _ = stream.outbox.poll_ready(&mut Context::from_waker(Waker::noop()), &mut streams);
        streams.len()
    }

    #[tokio::test]
    async fn bodies_go_in_pieces_and_in_order() {
        let (stream, mut handle) = pair();
        handle.send_section(BytesMut::from("head"), false);
        let sending = tokio::spawn(async move { handle.send(Bytes::from_static(b"0123456789"), true).await });
        tokio::task::yield_now().await;
        assert_eq!(ready(&stream), 1, "told once");
        assert!(matches!(stream.next(0), Next::Some(Out::Section(_, false), true)));
        assert!(matches!(stream.next(0), Next::Blocked));
        let Next::Some(Out::Data(piece, false), true) = stream.next(4) else { panic!("a piece") };
        assert_eq!(piece, "0123");
        assert!(!sending.is_finished());
        assert!(matches!(stream.next(100), Next::Some(Out::Data(_, true), false)));
        assert_eq!(sending.await.unwrap(), Ok(()));
        assert!(matches!(stream.next(100), Next::Nothing), "no reset after the end");
    }

    #[tokio::test]
    async fn what_is_read_is_told_and_the_end_of_the_stream_ends_all_waiting() {
        let (stream, mut handle) = pair();
        stream.receive(BytesMut::from("abc"), false);
        let mut body = handle.body();
        let Ok(Some(Frame::Data { piece, last: false })) = poll_fn(|cx| body.poll_frame(cx)).await else { panic!() };
        assert_eq!(piece, "abc");
        assert_eq!(ready(&stream), 1);
        assert_eq!(stream.look(), Look { taken: 3, has_more: false, is_dropped: false });
        let waiting = tokio::spawn(async move {
            let read = poll_fn(|cx| body.poll_frame(cx)).await;
            (read.err(), handle.gone().await)
        });
        tokio::task::yield_now().await;
        stream.end(Gone::Client);
        assert_eq!(waiting.await.unwrap(), (Some(BodyError::Left), Gone::Client));
        assert_eq!(stream.outbox.live(), 0);
    }

    #[tokio::test]
    async fn a_body_that_is_thrown_away_never_looks_whole() {
        let (stream, handle) = pair();
        let mut body = handle.body();
        (0..1000).for_each(|_| stream.receive(BytesMut::from("x"), false));
        assert_eq!(stream.state.lock().body.len(), 1, "small pieces are put together");
        stream.receive(BytesMut::from(&[0; SMALL][..]), true);
        assert_eq!(stream.end(Gone::Client), 1000 + SMALL);
        assert_eq!(poll_fn(|cx| body.poll_frame(cx)).await.err(), Some(BodyError::Left));
        drop(handle);
        assert_eq!(stream.look(), Look { taken: 0, has_more: false, is_dropped: true });
    }

    #[test]
    fn a_task_that_goes_without_an_answer_resets_its_stream() {
        let (stream, handle) = pair();
        drop(handle);
        assert!(matches!(stream.next(0), Next::Some(Out::Reset(Reason::InternalError), false)));
    }
}
