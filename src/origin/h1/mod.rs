//! HTTP/1.1 to origins: a connection, one exchange after the other. A client of our own, since pingora's costs as much as
//! all the rest of a request that is passed on: a task for each connection that is kept, a peer and a session for each
//! request.

pub(crate) mod body;
mod kept;
mod outgoing;
pub mod response;
mod stream;

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use tokio::io::AsyncReadExt;

use crate::clock::ticks;
use crate::config::model::Life;

use super::link::{Frame, Link, LinkError, ResponseHead, TAKES_NOTHING};

use body::Body;
pub(crate) use kept::{Kept, KeptCount};
pub(super) use outgoing::COPIED;
use outgoing::Outgoing;
pub(crate) use stream::{OriginStream, tcp, tls, unix};

/// A connection's buffer: most heads fit, with a small body.
const FIRST_READ: usize = 4 << 10;
/// Bytes of a body that are read at once.
const PIECE: usize = 32 << 10;
/// A connection that is kept does not keep more of a buffer.
const KEPT_BUFFER: usize = 2 * FIRST_READ;

/// A connection to an origin.
pub struct Connection {
    stream: OriginStream,
    out: Outgoing,
    /// What was read and not yet used, and how far it was looked through for the end of a head.
    read: BytesMut,
    scanned: usize,
    body: Body,
    trailers: Option<HeaderMap>,
    /// Whether it can be used again after the body.
    keep_alive: bool,
    /// Some head has come since the request was sent.
    has_heard: bool,
    /// When it was made, [`ticks`], and how many requests it has carried.
    made: u64,
    requests: u32,
}

impl Connection {
    pub fn new(stream: OriginStream) -> Self {
        Connection {
            stream,
            out: Outgoing::default(),
            read: BytesMut::new(),
            scanned: 0,
            body: Body::Length(0),
            trailers: None,
            keep_alive: true,
            has_heard: false,
            made: ticks(),
            requests: 0,
        }
    }

    /// Begins to send a request: its head, and what is put of its body. `chunked`: how that is framed.
    pub fn begin(&mut self, head: Vec<u8>, chunked: bool) {
        self.has_heard = false;
        self.requests = self.requests.saturating_add(1);
        self.scanned = 0;
        self.out = Outgoing::new(head, chunked);
    }

    /// A piece with what comes after it and is there already, if it is small: each is kept, sent and counted by itself.
    fn gather(&mut self, piece: Bytes) -> Result<Bytes, &'static str> {
        if piece.len() >= FIRST_READ || self.read.is_empty() || !matches!(self.body, Body::Chunked(_)) {
            return Ok(piece);
        }
        let mut all = BytesMut::from(&piece[..]);
        while all.len() < PIECE
            && let Poll::Ready(Some(more)) = self.body.take(&mut self.read, &mut self.trailers)?
        {
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }

    /// Whether all of the body has been read.
    pub fn is_over(&self) -> bool {
        self.body.is_done()
    }

    /// Whether the next exchange can go by this connection: the last has ended, nothing came that nobody asked for, and it is not
    /// to be replaced.
    fn can_be_kept(&self, life: &Life) -> bool {
        let age = Duration::from_millis(ticks().saturating_sub(self.made));
        let is_spent = self.requests >= life.max_requests || life.max_age.is_some_and(|most| age >= most);
        self.keep_alive && self.body.is_done() && self.read.is_empty() && !is_spent
    }

    /// The connection itself, with what has been read of it.
    pub fn into_parts(self) -> (Bytes, OriginStream) {
        (self.read.freeze(), self.stream)
    }
}

impl Link for Connection {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.out.poll_write(&mut self.stream, cx).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => LinkError::Timeout(TAKES_NOTHING),
            _ => LinkError::Io(error),
        })
    }

    fn gone(&self) -> u64 {
        self.out.gone
    }

    fn put(&mut self, frame: Option<Frame>) {
        self.out.put(frame);
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<ResponseHead, LinkError>> {
        let length = loop {
            if let Some(length) = response::find_end(&self.read, self.scanned)? {
                break length;
            }
            self.scanned = self.read.len().saturating_sub(3);
            self.read.reserve(FIRST_READ);
            if ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))? == 0 {
                return Poll::Ready(Err(LinkError::Closed));
            }
        };
        self.scanned = 0;
        let (mut head, keeps_alive) = response::parse(self.read.split_to(length).freeze())?;
        self.has_heard = true;
        if head.status.is_informational() {
            return Poll::Ready(Ok(head));
        }
        let is_clear = !body::announces_in_vain(method, head.status, &head.fields);
        self.body = Body::of(method, head.status, &mut head.fields)?;
        self.trailers = None;
        self.keep_alive = keeps_alive && is_clear && self.body != Body::UntilClose;
        Poll::Ready(Ok(head))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>> {
        loop {
            match self.body.take(&mut self.read, &mut self.trailers)? {
                Poll::Ready(Some(piece)) => return Poll::Ready(Ok(Some(self.gather(piece)?))),
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Pending => {}
            }
            let expected = usize::try_from(self.body.expected()).unwrap_or(PIECE);
            self.read.reserve(expected.clamp(FIRST_READ, PIECE));
            match ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))? {
                0 if self.body == Body::UntilClose => return Poll::Ready(Ok(None)),
                0 => return Poll::Ready(Err(LinkError::Closed)),
                _ => {}
            }
        }
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn has_heard_nothing(&self) -> bool {
        !self.has_heard && self.read.is_empty()
    }
}
