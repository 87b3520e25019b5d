//! What can be answered without waiting for anything but the client: a response that is in memory. Deciding is not
//! asynchronous, so that neither the request nor its head needs a place in the connection's future; what the kernel does
//! not take at once is written by [`Connection::finish`]. Everything else takes the plain way ([`Connection::handle`]),
//! which would come to the same answer.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use arc_swap::Guard;
use bytes::{Buf, Bytes};

use crate::cache::hold::Kept;
use crate::cache::status::Report;
use crate::clock::Timestamp;
use crate::snapshot::Snapshot;

use super::super::head::{BodyFraming, RequestHead};
use super::super::serve::{Request, Sent};
use super::head::field_space;
use super::wire::{Framing, Writing, poll_write_all, write_tail};
use super::{Connection, Next};
use crate::pace::Pace;

/// How far a request was answered.
enum Answered {
    Wholly(Next),
    /// With the snapshot by which the request was planned: sites are numbered as in that.
    InPart(Box<Unfinished>, Arc<Snapshot>),
    /// Nothing was done.
    NotYet,
}

/// The rest of an answer. The request's head is still the first `end` bytes of the buffer.
struct Unfinished {
    end: usize,
    head: Bytes,
    body: Bytes,
    /// What lies behind them.
    kept: Kept,
    /// Bytes of head, tail and body that are written.
    written: usize,
    site: usize,
    report: Report,
    sent: Sent,
    keep_alive: bool,
    times: (Timestamp, Instant),
}

impl Connection {
    /// Answers the request whose head is the first `end` bytes of the buffer from memory, if it is there; `None`: nothing was
    /// done.
    pub(super) async fn answer_from_memory(&mut self, end: usize) -> Option<Next> {
        match self.answer_now(end) {
            Answered::Wholly(next) => Some(next),
            Answered::InPart(answer, snapshot) => Some(Box::pin(self.finish(answer, snapshot)).await),
            Answered::NotYet => None,
        }
    }

    fn answer_now(&mut self, end: usize) -> Answered {
        let shared = self.shared.clone();
        let snapshot = shared.snapshot.load();
        let limits = &snapshot.config.limits;
        let mut space = field_space(&self.buffer[..end]);
        let Ok(head) = RequestHead::parse(&self.buffer[..end], &mut space, limits) else { return Answered::NotYet };
        if head.body != BodyFraming::None {
            return Answered::NotYet;
        }
        let request = Request::new(&shared, &snapshot, head.view(self.stream.endpoints()));
        let Some((mut response, report, site)) = request.in_memory(&mut self.key) else { return Answered::NotYet };
        let mut writing = Writing::new(&response, &head.method, head.version);
        let kept = response.kept();
        let Some(body) = response.take_whole(&head.method) else { return Answered::NotYet };
        writing.keep_alive = head.keep_alive && writing.framing != Framing::UntilClose && !self.is_last(limits);
        write_tail(&mut self.tail, &response, Some(&report), &snapshot.config.node.name, &writing);
        let mut answer = Unfinished {
            end,
            head: response.head_bytes(),
            body,
            kept,
            written: 0,
            site,
            report,
            sent: Sent { status: response.status(), bytes: 0, error: None, why: None },
            keep_alive: writing.keep_alive,
            times: (request.now, request.started),
        };
        // What cannot be written at once wakes nobody here: whoever finishes it asks again.
        let parts = [&answer.head[..], self.tail.as_bytes(), &answer.body];
        let mut cx = Context::from_waker(Waker::noop());
        match poll_write_all(&mut self.stream, parts, &mut answer.written, &mut cx) {
            Poll::Ready(Ok(())) => {
                answer.sent.bytes = answer.body.len() as u64;
                request.record(Some(site), Some(&answer.report), &answer.sent);
                drop(space); // it borrows from the buffer
                self.buffer.advance(end);
                Answered::Wholly(answer.next())
            }
            // An error is met again there.
            _ => {
                drop(space);
                Answered::InPart(Box::new(answer), Guard::into_inner(snapshot))
            }
        }
    }

    /// Writes the rest of an answer.
    async fn finish(&mut self, mut answer: Box<Unfinished>, snapshot: Arc<Snapshot>) -> Next {
        self.stream.set_pace(Pace::of(&snapshot.config.limits));
        let tail = std::mem::take(&mut self.tail);
        let kept = std::mem::replace(&mut answer.kept, Kept::Nothing);
        let parts = [&answer.head[..], tail.as_bytes(), &answer.body];
        let written = self.write_from(parts, &mut answer.written, kept, None, |_| {}).await;
        answer.sent.bytes = answer.written.saturating_sub(answer.head.len() + tail.len()) as u64;
        answer.sent.error = written.err().map(|error| error.to_string());
        self.tail = tail;
        // The head is parsed once more, to be logged.
        let mut space = field_space(&self.buffer[..answer.end]);
        let parsed = RequestHead::parse(&self.buffer[..answer.end], &mut space, &snapshot.config.limits);
        if let Ok(head) = parsed {
            let view = head.view(self.stream.endpoints());
            let request = Request::begun(&self.shared, &snapshot, view, answer.times);
            request.record(Some(answer.site), Some(&answer.report), &answer.sent);
        }
        drop(space); // it borrows from the buffer
        self.buffer.advance(answer.end);
        answer.next()
    }
}

impl Unfinished {
    fn next(&self) -> Next {
        match (&self.sent.error, self.keep_alive) {
            (Some(_), _) => Next::Gone,
            (None, true) => Next::Request,
            (None, false) => Next::Linger,
        }
    }
}
