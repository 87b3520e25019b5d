//! One request's stream, between the connection, which alone reads and writes the wire, and the task that answers the
//! request. Either side leaves what it has for the other and wakes it; nobody waits with a lock held.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use parking_lot::Mutex;

use crate::cache::waiting::{Client, NO_ROOM, Share, Waiter, Waiting};
use crate::origin::upload::{BodyError, Frame, RequestBody};
use crate::prefix::Prefix;

use super::wire::Reason;

/// Where tasks leave word that they have something for the connection.
#[derive(Debug, Default)]
pub struct Outbox {
    ready: Mutex<Ready>,
    /// Tasks that are not done.
    pub(super) live: AtomicUsize,
    /// Where those who hold something for the client are entered.
    pub(super) waiting: Arc<Waiting>,
    /// The client's network.
    prefix: Option<Prefix>,
}

#[derive(Debug, Default)]
struct Ready {
    streams: Vec<Arc<Stream>>,
    waker: Option<Waker>,
}

impl Outbox {
    pub(crate) fn new(waiting: Arc<Waiting>, prefix: Option<Prefix>) -> Arc<Self> {
        Arc::new(Outbox { ready: Mutex::default(), live: AtomicUsize::new(0), waiting, prefix })
    }

    /// Whether one stream more, whose request takes so many bytes, has a place: some are every connection's due.
    pub(crate) fn admit(&self, bytes: usize) -> Option<Admitted> {
        if self.live() < DUE && bytes < OWN {
            return Some(Admitted::default());
        }
        let share = self.waiting.streams.take(self.prefix, (bytes + OWN) as u64)?;
        Some(Admitted { _share: Some(share) })
    }

    /// Room for so many bytes of requests' bodies.
    pub(crate) fn enter_upload(&self, bytes: u64) -> Option<Share> {
        self.waiting.uploads.take(self.prefix, bytes)
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Takes the streams that have something; if none has, the connection is woken by the next.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>, streams: &mut Vec<Arc<Stream>>) -> Poll<()> {
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

    /// Takes the streams that have something now. Whoever waits for more asks again. Whether there were some.
    pub(crate) fn take_ready(&self, streams: &mut Vec<Arc<Stream>>) -> bool {
        let mut ready = self.ready.lock();
        ready.waker = None; // there is no need to wake a connection that is at it
        std::mem::swap(&mut ready.streams, streams);
        !streams.is_empty()
    }

    /// Nobody looks any more. Once no task lives, nothing comes after it: what refers to its connection is gone.
    pub(crate) fn close(&self) {
        let mut ready = self.ready.lock();
        ready.streams = Vec::new();
        ready.waker = None;
    }

    /// A task leaves word that its stream has something, or that it is done: nothing of it comes after it is not counted
    /// any more.
    pub(super) fn push(&self, stream: &Arc<Stream>, is_done: bool) {
        let waker = {
            let mut ready = self.ready.lock();
            ready.streams.push(stream.clone());
            if is_done {
                self.live.fetch_sub(1, Ordering::AcqRel);
            }
            ready.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

/// A place among all streams of the node.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    _share: Option<Share>,
}

/// A stream that a task answers.
#[derive(Debug)]
pub(crate) struct Stream {
    pub id: u32,
    pub(super) outbox: Arc<Outbox>,
    /// Its task, as one that waits for the client.
    pub(super) waiter: Arc<Waiter>,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// For the client, in order.
    pub(super) out: VecDeque<Out>,
    /// Bytes of the body in it, and those that have gone.
    pub(super) queued: usize,
    pub(super) sent: u64,
    /// From the client; in each part at least so much of a buffer is used that many small ones take no more than it.
    pub(super) body: VecDeque<BytesMut>,
    body_ended: bool,
    trailers: Option<HeaderMap>,
    /// Bytes that the task has taken and the client's window has not got back.
    taken: usize,
    /// The stream is over, whatever the task may still have.
    pub(super) gone: Option<Gone>,
    /// The task is.
    pub(super) dropped: bool,
    /// The connection has been told that there is something.
    told: bool,
    pub(super) waker: Option<Waker>,
}

/// What a task has for the client.
#[derive(Debug)]
pub(crate) enum Out {
    /// A field section, and whether the stream ends with it.
    Section(BytesMut, bool),
    Data(Bytes, bool),
    Reset(Reason),
}

/// What the connection finds when it looks at a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Bytes that have left the stream since it last looked: taken by the task, or of no use any more.
    pub taken: usize,
    /// There is something for the client.
    pub has_more: bool,
    /// The task has ended.
    pub is_dropped: bool,
}

/// A piece of a body that is smaller is put to the one before it.
pub(super) const SMALL: usize = 4 << 10;
/// Up to this size.
const JOINED: usize = 16 << 10;

/// What a stream with its task takes while it waits, roughly.
const OWN: usize = 10 << 10;
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
    pub(crate) fn new(id: u32, outbox: Arc<Outbox>) -> Arc<Self> {
        let client = Client { connection: Arc::as_ptr(&outbox).addr(), prefix: outbox.prefix };
        let waiter = Waiter::new(client);
        Arc::new(Stream { id, outbox, waiter, state: Mutex::default() })
    }

    /// The connection looks at the stream now.
    pub(crate) fn look(&self) -> Look {
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
    pub(crate) fn next(&self, most: usize) -> Next {
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
        let more = !state.out.is_empty();
        if state.queued == 0 {
            wake(state);
        }
        Next::Some(out, more)
    }

    /// The request's body is about to end, with trailers.
    pub(crate) fn receive_trailers(&self, trailers: HeaderMap) {
        self.state.lock().trailers = Some(trailers).filter(|trailers| !trailers.is_empty());
    }

    /// Some of the request's body has come, or its end.
    pub(crate) fn receive(&self, data: BytesMut, ended: bool) {
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
    pub(crate) fn end(&self, gone: Gone) -> usize {
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
    waker.into_iter().for_each(Waker::wake);
}

// What a task does.
impl Stream {
    /// Leaves word that there is something.
    pub(super) fn tell(self: &Arc<Self>) {
        if !std::mem::replace(&mut self.state.lock().told, true) {
            self.outbox.push(self, false);
        }
    }
}

/// A request's body as an exchange takes it from its stream.
impl RequestBody for Arc<Stream> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, BodyError>> {
        let mut state = self.state.lock();
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
            self.tell();
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
pub(crate) enum Next {
    Nothing,
    /// The client's window is shut.
    Blocked,
    Some(Out, bool),
}
