//! Writing responses, and waiting for clients that don't take them: what is kept for one meanwhile is counted.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::timeout;

use crate::cache::hold::{Hold, Kept};
use crate::cache::status::Report;
use crate::cache::waiting::{Client, Held, NO_ROOM, Turns, Waiter};
use crate::request::put_trailers;
use crate::snapshot::Snapshot;

use super::super::body::{Body, Coming};
use super::super::reply::ClientResponse;
use super::super::serve::Sent;
use super::super::stream::timed_out;
use super::Connection;
use super::wire::{Framing, Writing, poll_write_all, write_tail};

fn client_left() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client left")
}

impl Connection {
    /// Writes a response. An error means that the connection can't go on.
    pub(super) async fn write(
        &mut self,
        snapshot: &Snapshot,
        mut response: ClientResponse,
        report: Option<&Report>,
        writing: &Writing<'_>,
    ) -> Sent {
        let mut tail = std::mem::take(&mut self.tail);
        write_tail(&mut tail, &response, report, &snapshot.config.node.name, writing);
        let mut sent = Sent { status: response.status(), bytes: 0, error: None, why: response.take_cause() };
        let patience = snapshot.config.limits.read_timeout;
        let result = self.write_parts(&mut response, &tail, writing, &mut sent.bytes, patience).await;
        self.tail = tail;
        // What is shorter than its head says must not be followed by anything.
        let result = result.and_then(|()| match writing.framing {
            Framing::Length(length) if response.has_body(writing.method) && sent.bytes != length => {
                Err(io::Error::other("the body is not as long as its head says"))
            }
            _ => Ok(()),
        });
        if let Err(error) = result {
            if writing.framing == Framing::UntilClose {
                self.stream.end_by_reset();
            }
            sent.error = Some(error.to_string());
        }
        sent
    }

    async fn write_parts(
        &mut self,
        response: &mut ClientResponse,
        tail: &str,
        writing: &Writing<'_>,
        bytes: &mut u64,
        patience: Duration,
    ) -> io::Result<()> {
        let (head, kept) = (response.head_bytes(), response.kept());
        if !response.has_body(writing.method) {
            return self.write_held([&head, tail.as_bytes()], kept).await;
        }
        if let Some(body) = response.body.whole() {
            self.write_held([&head, tail.as_bytes(), &body], kept).await?;
            *bytes += body.len() as u64;
            return Ok(());
        }
        if self.stream.sends_files() && response.body.file_part().is_some() {
            self.write_held([&head, tail.as_bytes()], kept).await?;
            return self.write_file(&mut response.body, bytes).await;
        }
        let (mut before, mut size) = (Some((head, tail, kept)), String::new());
        loop {
            let ahead = self.room_ahead(&response.body).await?;
            let piece = {
                let mut next = std::pin::pin!(response.body.next());
                match poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
                    // What is there goes with the head, what is not must not hold it up.
                    Poll::Ready(Ok(piece)) => piece,
                    other => {
                        if let Some((head, tail, kept)) = before.take() {
                            self.write_held([&head, tail.as_bytes()], kept).await?;
                        }
                        let next = match other {
                            Poll::Ready(failed) => failed,
                            Poll::Pending => tokio::select! {
                                biased;
                                next = next => next,
                                () = self.stream.until_gone(&mut self.alarm, patience) => return Err(client_left()),
                            },
                        };
                        next.map_err(io::Error::other)?
                    }
                }
            };
            let Some(piece) = piece else { break };
            if writing.framing == Framing::Chunked {
                let after_another = if size.is_empty() { "" } else { "\r\n" };
                size = format!("{after_another}{:x}\r\n", piece.len());
            }
            let (head, tail) = before.take().map(|(head, tail, _)| (head, tail)).unwrap_or_default();
            let kept = response.kept();
            // A client may take nothing before it has been heard.
            let meanwhile = |cx: &mut Context<'_>| response.body.send_on(cx);
            let parts = [&head[..], tail.as_bytes(), size.as_bytes(), &piece];
            self.write_from(parts, &mut 0, kept, ahead, meanwhile).await?;
            *bytes += piece.len() as u64;
            response.forget_head();
        }
        let (head, tail) = before.map(|(head, tail, _)| (head, tail)).unwrap_or_default();
        let (mut end, mut trailers) = ("", Vec::new());
        if writing.framing == Framing::Chunked {
            end = if size.is_empty() { "0\r\n" } else { "\r\n0\r\n" };
            let fields = response.take_trailers().filter(|_| writing.takes_trailers);
            put_trailers(&mut trailers, &fields.unwrap_or_default());
        }
        self.write_held([&head, tail.as_bytes(), end.as_bytes(), &trailers], response.kept()).await
    }

    /// Writes a body that is in a file: what may be sent as it is, and otherwise read.
    async fn write_file(&mut self, body: &mut Body, bytes: &mut u64) -> io::Result<()> {
        loop {
            // Asked for when the client takes more: what is in memory now may not be there after a wait.
            self.stream.writable().await?;
            if let Some(part) = body.file_part() {
                let sent = self.stream.try_send_file(&part)?;
                body.skip_sent(sent);
                *bytes += sent;
            } else {
                let ahead = self.room_ahead(body).await?;
                let Some(piece) = body.next().await.map_err(io::Error::other)? else { return Ok(()) };
                self.write_from([b"", &piece], &mut 0, Kept::Nothing, ahead, |_| {}).await?;
                *bytes += piece.len() as u64;
            }
        }
    }

    /// Writes all parts, as [`Connection::write_from`].
    pub(super) async fn write_held<const N: usize>(&mut self, parts: [&[u8]; N], kept: Kept) -> io::Result<()> {
        self.write_from(parts, &mut 0, kept, None, |_| {}).await
    }

    /// Room for the next piece of a body that is read when it is asked for, before it is. Who finds none waits for it: those that are
    /// stalled make some, and nobody who takes what it gets is ended for what they hold.
    async fn room_ahead(&self, body: &Body) -> io::Result<Option<Ahead>> {
        let Coming::Read(bytes) = body.coming() else { return Ok(None) };
        let waiter = self.waiter();
        let waiting = self.shared.engine.cache.memory.waiting();
        let asking = async {
            let mut turns = Turns::new();
            loop {
                if let Some(held) = waiting.hold_pieces(bytes as u64, &waiter) {
                    return held;
                }
                tokio::time::sleep(turns.next()).await;
            }
        };
        let held = timeout(ROOM_PATIENCE, asking).await.map_err(|_| timed_out(NO_ROOM))?;
        Ok(Some(Ahead { _held: held, waiter }))
    }

    /// The client, as one that is waited for.
    fn waiter(&self) -> Arc<Waiter> {
        Waiter::new(Client { connection: 0, prefix: self.place.prefix })
    }

    /// Writes parts, of which the first is a head and so many bytes are written, until all have gone or the reader has to
    /// make room. From when the client has to be waited for, what is kept for it is entered with those who wait, and so is what
    /// is in hand, if it is more than every connection's due and `ahead` has not been entered for it; something else may be
    /// done meanwhile.
    pub(super) async fn write_from<const N: usize>(
        &mut self,
        parts: [&[u8]; N],
        written: &mut usize,
        kept: Kept,
        ahead: Option<Ahead>,
        mut meanwhile: impl FnMut(&mut Context<'_>),
    ) -> io::Result<()> {
        // What cannot be written at once wakes nobody here.
        let polled = poll_write_all(&mut self.stream, parts, written, &mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(done) = polled {
            return done;
        }
        let no_room = || timed_out(NO_ROOM);
        let waiter = ahead.as_ref().map_or_else(|| self.waiter(), |ahead| ahead.waiter.clone());
        let engine = &self.shared.engine;
        // The head is there twice, as it is written and as it came.
        let bytes = parts[0].len() + parts.iter().map(|part| part.len()).sum::<usize>();
        let held = engine.cache.hold(&kept, 0, &waiter);
        let _in_hand = match held {
            Hold::Nothing if bytes > DUE && ahead.is_none() => {
                Some(engine.cache.memory.waiting().keep_in_hand(&waiter, bytes as u64).ok_or_else(no_room)?)
            }
            _ => None,
        };
        // The kernel takes more only when much of what it has is gone: how far the client is, it says.
        let mut looks = std::pin::pin!(tokio::time::sleep(LOOK_EVERY));
        let (mut taken, stream) = (0, &mut self.stream);
        let writing = poll_fn(|cx| {
            let polled = poll_write_all(stream, parts, written, cx);
            if polled.is_pending() {
                meanwhile(cx);
                while looks.as_mut().poll(cx).is_ready() {
                    looks.as_mut().reset(tokio::time::Instant::now() + LOOK_EVERY);
                    let now = (*written as u64).saturating_sub(stream.queued());
                    waiter.step(now.saturating_sub(taken));
                    taken = taken.max(now);
                }
            }
            polled
        });
        tokio::select! {
            biased;
            done = writing => done,
            () = waiter.told() => Err(no_room()),
        }
    }
}

/// Room that was taken for something before it was read, and who is told when it is wanted back.
pub(super) struct Ahead {
    _held: Held,
    waiter: Arc<Waiter>,
}

/// Bytes that are every connection's due: with what TLS keeps, 64 KiB.
const DUE: usize = 40 << 10;
/// How long a client waits for room.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked how far a client is that has to be waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
