//! A stream as the task has it that answers its request: what goes to the client, and the room that it takes meanwhile.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::cache::head::LARGE_HEAD;
use crate::cache::waiting::{Held, Share, Turns, Waiter};
use crate::origin::upload::RequestBody;

use super::stream::{Admitted, Gone, Out, State, Stream};
use super::wire::Reason;

/// So large a head is not counted where the stream is its connection's only one.
const DUE_HEAD: usize = 16 << 10;

/// The task's hold on its stream. Dropped before the response has ended, it resets the stream.
#[derive(Debug)]
pub struct Handle {
    stream: Arc<Stream>,
    ended: bool,
    _admitted: Admitted,
}

impl Handle {
    pub(crate) fn new(stream: Arc<Stream>, admitted: Admitted) -> Self {
        stream.outbox.live.fetch_add(1, Ordering::AcqRel);
        Handle { stream, ended: false, _admitted: admitted }
    }

    /// Bytes of the response's body that have gone to the client.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.stream.state.lock().sent
    }

    /// Gives a field section for the client.
    pub fn send_section(&mut self, section: BytesMut, ends: bool) {
        self.push(Out::Section(section, ends), ends);
    }

    /// The task, as one that waits for the client.
    pub(crate) fn waiter(&self) -> &Arc<Waiter> {
        &self.stream.waiter
    }

    /// Enters a head that is large, as it is written down and as it came, until it has gone: among what all may have in hand.
    pub(crate) fn keep_head(&self, bytes: usize) -> Result<Option<Share>, Gone> {
        if bytes <= if self.stream.outbox.live() > 1 { LARGE_HEAD } else { DUE_HEAD } {
            return Ok(None);
        }
        let share = self.stream.outbox.waiting.keep_in_hand(self.waiter(), 2 * bytes as u64);
        share.map(Some).ok_or(Gone::NoRoom)
    }

    /// Enters what is in hand for the client, with what lies behind it; waits for room. While there is none for it, it is
    /// among what all may have in hand without room, and the stream ends where that is too much.
    pub(crate) async fn hold_in_hand(&mut self, bytes: usize) -> Result<Held, Gone> {
        if let Some(held) = self.hold_at_once(bytes) {
            return Ok(held);
        }
        let _in_hand = self.stream.outbox.waiting.keep_in_hand(self.waiter(), bytes as u64).ok_or(Gone::NoRoom)?;
        self.hold_ahead(bytes).await
    }

    /// Enters what is going to be in hand for the client, and is not yet; waits for room.
    pub(crate) async fn hold_ahead(&mut self, bytes: usize) -> Result<Held, Gone> {
        self.hold_once(|stream| stream.hold_at_once(bytes)).await
    }

    /// The same, asking in its own way whether there is room.
    pub(crate) async fn hold_once(&mut self, ask: impl Fn(&Self) -> Option<Held>) -> Result<Held, Gone> {
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
    pub(crate) fn hold_at_once(&self, bytes: usize) -> Option<Held> {
        self.stream.outbox.waiting.hold_pieces(bytes as u64, &self.stream.waiter)
    }

    /// Reads something for the client, only while there is room for it: as long as nothing comes it has none. `read` is told
    /// whether there is; where there is not, it may do something else.
    pub(crate) async fn with_room<T>(
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
    pub(crate) async fn send_held<H>(&mut self, data: Bytes, ends: bool, held: H) -> Result<(), Gone> {
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
        self.push(Out::Data(data, ends), ends);
        self.sent().await
    }

    /// Waits until all that was given has gone.
    pub(crate) async fn sent(&mut self) -> Result<(), Gone> {
        self.wait(|state| state.out.is_empty().then_some(())).await
    }

    /// Ends the stream with an error.
    pub(crate) fn reset(&mut self, reason: Reason) {
        self.push(Out::Reset(reason), true);
    }

    /// The request's body.
    pub fn body(&self) -> Box<dyn RequestBody> {
        Box::new(self.stream.clone())
    }

    /// Waits for the stream to end from outside.
    pub(crate) async fn gone(&mut self) -> Gone {
        match self.wait(|_| None::<std::convert::Infallible>).await {
            Err(gone) => gone,
        }
    }

    fn push(&mut self, out: Out, ends: bool) {
        let mut state = self.stream.state.lock();
        if state.gone.is_none() && !self.ended {
            state.queued += if let Out::Data(data, _) = &out { data.len() } else { 0 };
            state.out.push_back(out);
            drop(state);
            self.stream.tell();
        }
        self.ended |= ends;
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
    use std::task::Waker;

    use super::super::stream::{Look, Next, SMALL};
    use super::*;
    use crate::origin::upload::{BodyError, Frame};

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
