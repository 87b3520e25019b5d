//! HTTP/1.1 and 1.0: one connection, request after request. A memory hit is answered at once with one vectored
//! write ([`now`]). What the origin agrees to change into another protocol is carried both ways here.

pub(crate) mod head;
mod now;
mod tunnel;
mod wire;
mod write;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http::{Method, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::boxed::boxed;
use crate::cache::status::Report;
use crate::config::model::Limits;
use crate::drain::Stage;
use crate::origin::h1::body::Body;
use crate::origin::interims::Interims;
use crate::snapshot::Snapshot;

use super::alarm::Alarm;
use super::head::{Refusal, RequestHead, refuse};
use super::open::Place;
use super::serve::{self, Decision, Request, Shared};
use super::stream::{ClientStream, LINGER, TRIM_AFTER};
use crate::pace::Pace;

use head::{field_space, find_end, settle_version};
use wire::{Framing, Writing, write_interim};

/// A connection's first buffer: most heads fit.
const FIRST_BUFFER: usize = 4096;

/// What a connection of HTTP/2 begins with is almost a head (RFC 9113 section 3.4).
const PREFACE_HEAD: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// One client's connection.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    stage: watch::Receiver<Stage>,
    stream: ClientStream,
    /// What was read and not yet used.
    buffer: BytesMut,
    served: u32,
    /// Whether the last request was one for the cache: the next is tried from memory first.
    is_for_cache: bool,
    /// Buffers that are reused from request to request.
    key: String,
    tail: String,
    alarm: Alarm,
    /// Among all connections.
    place: Arc<Place>,
}

/// What becomes of the connection.
enum Next {
    Request,
    /// Close it; the client knows.
    Close,
    /// Close it, but let the client read what was sent although it may be sending itself.
    Linger,
    /// The stream went with an error: there is nothing left to close.
    Gone,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        stage: watch::Receiver<Stage>,
        stream: ClientStream,
        place: Arc<Place>,
    ) -> Self {
        let buffer = BytesMut::with_capacity(FIRST_BUFFER);
        let (key, tail, alarm) = (String::new(), String::new(), Alarm::default());
        Connection { shared, stage, stream, buffer, served: 0, is_for_cache: true, key, tail, alarm, place }
    }

    /// Serves requests until the connection ends. `takes_h2`: it may turn out to be one of HTTP/2; then it is given back, with
    /// what was read of it.
    pub(crate) async fn serve(mut self, takes_h2: bool) -> Option<(ClientStream, BytesMut)> {
        loop {
            let end = match self.read_head().await {
                Ok(end) => end?,
                Err(refusal) => {
                    let snapshot = self.shared.snapshot.load_full();
                    Box::pin(self.refuse(&snapshot, refusal)).await;
                    return None;
                }
            };
            if takes_h2 && self.served == 0 && self.buffer.starts_with(PREFACE_HEAD) {
                return Some((self.stream, self.buffer));
            }
            self.served += 1;
            // Or its head is read twice. Either way comes to the same answer.
            let answered = if self.is_for_cache { self.answer_from_memory(end).await } else { None };
            let next = match answered {
                Some(next) => next,
                // Boxed, as is everything that most connections seldom need: an idle one is to be small.
                None => {
                    // Loaded when the request is there, so that it meets the configuration in force now.
                    let snapshot = self.shared.snapshot.load_full();
                    self.stream.set_pace(Pace::of(&snapshot.config.limits));
                    boxed(|| self.handle(&snapshot, end)).await
                }
            };
            match next {
                Next::Request => {}
                Next::Linger => {
                    let most = self.shared.snapshot.load().config.limits.max_drain.0;
                    Box::pin(self.linger(most)).await;
                    return None;
                }
                Next::Close => {
                    let _ = timeout(LINGER, self.stream.shutdown()).await; // the client may be gone already
                    return None;
                }
                Next::Gone => return None,
            }
        }
    }

    /// Reads until a whole head is in the buffer. `None`: the client left, stayed idle too long, or the node
    /// is shutting down.
    async fn read_head(&mut self) -> Result<Option<usize>, Refusal> {
        let mut scanned = 0;
        let (mut since, mut begun) = (Instant::now(), false);
        loop {
            // RFC 9112 section 2.2: an empty line before a request line is ignored.
            while scanned == 0 && self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
            }
            let patience = {
                // Not kept: the wait may be long, and must not keep an old configuration alive.
                let snapshot = self.shared.snapshot.load();
                let limits = &snapshot.config.limits;
                if let Some(end) = find_end(&self.buffer, scanned, limits)? {
                    return Ok(Some(end));
                }
                if self.buffer.is_empty() && self.served > 0 { limits.keepalive_timeout } else { limits.header_timeout }
            };
            scanned = self.buffer.len().saturating_sub(3);
            let idle = self.buffer.is_empty();
            if !idle && !std::mem::replace(&mut begun, true) {
                since = Instant::now(); // one deadline for the whole head
            }
            let deadline = since + patience;
            let trim_at = if idle && self.buffer.capacity() > 0 { since + TRIM_AFTER } else { deadline };
            if self.buffer.capacity() > 0 {
                self.buffer.reserve(FIRST_BUFFER / 2);
            }
            let Connection { stream, buffer, alarm, stage, place, served, .. } = &mut *self;
            let waiting = async {
                if idle {
                    place.rest(); // only if nothing is there to be read: this is polled after it
                }
                alarm.at(trim_at.min(deadline)).await;
            };
            let read = tokio::select! {
                biased;
                read = stream.read_buf(buffer) => Some(read),
                () = waiting => None,
                () = place.told(), if idle => return Ok(None),
                _ = stage.wait_for(|stage| *stage >= Stage::Draining), if idle && *served > 0 => return Ok(None),
            };
            if idle && matches!(read, Some(Ok(1..))) {
                place.work();
            }
            match read {
                Some(Ok(0) | Err(_)) => return Ok(None),
                // After a rest there is room for some bytes only.
                Some(Ok(_)) => self.buffer.reserve(FIRST_BUFFER / 2),
                None if Instant::now() < deadline => {
                    self.buffer = BytesMut::new();
                    (self.key, self.tail) = (String::new(), String::new());
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the request head did not come in time"));
                }
            }
        }
    }

    /// Answers what is not a request and says goodbye.
    async fn refuse(&mut self, snapshot: &Arc<Snapshot>, refusal: Refusal) {
        let response = serve::refuse(&self.shared, self.stream.endpoints(), refusal);
        let writing = Writing::new(&response, &Method::GET, Version::HTTP_11);
        let _ = self.write(snapshot, response, None, &writing).await; // the connection ends either way
        self.linger(snapshot.config.limits.max_drain.0).await;
    }

    /// Handles the request whose head is the first `end` bytes of the buffer.
    async fn handle(&mut self, snapshot: &Arc<Snapshot>, end: usize) -> Next {
        let (shared, limits) = (self.shared.clone(), &snapshot.config.limits);
        // The head leaves the buffer, so that both can be used at once.
        let mut head_bytes = self.buffer.split_to(end);
        settle_version(&mut head_bytes);
        let mut space = field_space(&head_bytes);
        let head = match RequestHead::parse(&head_bytes, &mut space, limits) {
            Ok(head) => head,
            Err(refusal) => {
                Box::pin(self.refuse(snapshot, refusal)).await;
                return Next::Gone;
            }
        };
        let request = Request::new(&shared, snapshot, head.view(self.stream.endpoints()));
        let mut key = std::mem::take(&mut self.key);
        // HTTP/1.0 has no interim responses (RFC 9110 section 15.2).
        let interims: Arc<Interims> = Arc::default();
        let wanted = (head.version != Version::HTTP_10).then(|| interims.clone());
        let mut expects_continue = head.expects_continue && !head.body.is_empty();
        let body = (!head.body.is_empty()).then(|| {
            let body = self.stream.receive(head.body, std::mem::take(&mut self.buffer));
            let expects = wanted.clone().filter(|_| expects_continue);
            serve::Incoming { body, length: head.body.length(), expects }
        });
        let decision = {
            let mut deciding = std::pin::pin!(request.decide(&mut key, body, wanted));
            loop {
                let decided = tokio::select! {
                    biased;
                    decided = serve::step(&mut deciding, &interims) => decided,
                    // What may change something comes to its end though its client leaves.
                    () = self.stream.until_gone(&mut self.alarm, Duration::MAX), if head.method.is_safe() => {
                        request.record_left();
                        return Next::Gone;
                    }
                };
                while let Some((status, fields)) = interims.take() {
                    expects_continue &= status != StatusCode::CONTINUE;
                    // A client that has left may have changed something all the same: what it asked for comes to its end.
                    let _ = write_interim(&mut self.stream, status, fields).await;
                }
                if let Some(decision) = decided {
                    break decision;
                }
            }
        };
        self.key = key;
        match decision {
            Decision::Respond { response, report, site } => {
                self.is_for_cache = report.as_ref().is_some_and(Report::is_of_cache);
                let mut writing = Writing::new(&response, &head.method, head.version);
                let ends_with_connection = writing.framing == Framing::UntilClose;
                let drains = !expects_continue && self.may_drain(limits);
                writing.keep_alive = head.keep_alive && drains && !ends_with_connection && !self.is_last(limits);
                writing.takes_trailers = request.view.takes_trailers();
                let sent = self.write(snapshot, response, report.as_ref(), &writing).await;
                request.record(site, report.as_ref(), &sent);
                let (read, left) = self.stream.end_body();
                if !head.body.is_empty() {
                    self.buffer = read;
                    self.buffer.reserve(FIRST_BUFFER / 2); // or the next head is read in two pieces
                }
                match (sent.error, writing.keep_alive) {
                    (Some(_), _) => Next::Gone,
                    (None, true) if self.drain(left, limits).await => Next::Request,
                    _ => Next::Linger,
                }
            }
            Decision::Tunnel { exchange, site, pool, open } => {
                let (sent, report) = Box::pin(self.tunnel(snapshot, exchange, pool)).await;
                drop(open);
                request.record(Some(site), Some(&report), &sent);
                Next::Close
            }
        }
    }

    /// Whether what is left of a body that nobody wants is little enough to be read and thrown away.
    fn may_drain(&self, limits: &Limits) -> bool {
        let left = self.stream.left();
        left.is_done() || matches!(left, Body::Length(left) if left <= limits.max_drain.0)
    }

    fn is_last(&self, limits: &Limits) -> bool {
        self.served >= limits.max_requests_per_connection || *self.stage.borrow() >= Stage::Leaving
    }

    /// Reads what is left of a body and throws it away.
    async fn drain(&mut self, left: Body, limits: &Limits) -> bool {
        let Body::Length(mut left) = left else { return left.is_done() };
        let draining = async {
            loop {
                let there = left.min(self.buffer.len() as u64);
                self.buffer.advance(there as usize);
                left -= there;
                if left == 0 || !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                    return left == 0;
                }
            }
        };
        timeout(limits.read_timeout, draining).await.unwrap_or(false)
    }

    async fn linger(&mut self, most: u64) {
        let _ = timeout(LINGER, self.stream.linger(most)).await; // best effort
    }
}
