//! HTTP/1.1 to origins: a connection, one exchange after the other. A client of our own, since pingora's costs as much as
//! all the rest of a request that is passed on: a task for each connection that is kept, a peer and a session for each
//! request.

mod body;
mod kept;
mod response;
mod stream;

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use body::{Body, Taken};
pub use kept::Kept;
pub use response::ResponseHead;
pub use stream::OriginStream;

/// A connection's buffer: most heads fit, with a small body.
const FIRST_READ: usize = 4 << 10;
/// Bytes of a body that are read at once.
const PIECE: usize = 64 << 10;
/// A connection that is kept does not keep more of a buffer.
const KEPT_BUFFER: usize = 2 * FIRST_READ;

/// A connection to an origin.
pub struct Connection {
    stream: OriginStream,
    /// What was read and not yet used.
    read: BytesMut,
    body: Body,
    /// Whether it can be used again after the body.
    keep_alive: bool,
    /// Some head has come since the request was sent.
    has_heard: bool,
}

/// Why an exchange failed.
#[derive(Debug)]
pub enum Error {
    Io(io::Error),
    /// The origin has closed the connection.
    Closed,
    Timeout(&'static str),
    Invalid(&'static str),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Io(error) => write!(f, "{error}"),
            Error::Closed => write!(f, "the origin closed the connection"),
            Error::Timeout(what) => write!(f, "{what}"),
            Error::Invalid(what) => write!(f, "the response has {what}"),
        }
    }
}

impl Connection {
    pub fn new(stream: OriginStream) -> Self {
        Connection { stream, read: BytesMut::new(), body: Body::Length(0), keep_alive: true, has_heard: false }
    }

    /// Sends a request's head.
    pub async fn send(&mut self, head: &[u8], deadline: Instant) -> Result<(), Error> {
        self.has_heard = false;
        let sending = async {
            self.stream.write_all(head).await?;
            self.stream.flush().await
        };
        timeout_at(deadline, sending)
            .await
            .map_err(|_| Error::Timeout("it took too long to take the request"))?
            .map_err(Error::Io)
    }

    /// Reads a response's head, an interim one too.
    pub async fn read_head(&mut self, method: &Method, deadline: Instant) -> Result<ResponseHead, Error> {
        let mut scanned = 0;
        let length = loop {
            if let Some(length) = response::find_end(&self.read, scanned).map_err(Error::Invalid)? {
                break length;
            }
            scanned = self.read.len().saturating_sub(3);
            self.read.reserve(FIRST_READ);
            let reading = timeout_at(deadline, self.stream.read_buf(&mut self.read));
            match reading.await.map_err(|_| Error::Timeout("no response head in time"))? {
                Ok(0) => return Err(Error::Closed),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let mut head = ResponseHead::parse(&self.read[..length]).map_err(Error::Invalid)?;
        self.read.advance(length);
        self.has_heard = true;
        if head.status.is_informational() {
            return Ok(head);
        }
        let is_clear = !body::announces_in_vain(method, head.status, &head.fields);
        self.body = Body::of(method, head.status, &mut head.fields).map_err(Error::Invalid)?;
        self.keep_alive = head.keep_alive && is_clear && self.body != Body::UntilClose;
        Ok(head)
    }

    /// The next piece of the body; `None` at its end. `patience` is for each read.
    pub async fn read_body(&mut self, patience: Duration) -> Result<Option<Bytes>, Error> {
        loop {
            match self.body.take(&mut self.read).map_err(Error::Invalid)? {
                Taken::Some(piece) => return self.gather(piece).map(Some),
                Taken::End => return Ok(None),
                Taken::NeedsMore => {}
            }
            let expected = usize::try_from(self.body.expected()).unwrap_or(PIECE);
            self.read.reserve(expected.clamp(FIRST_READ, PIECE));
            let reading = timeout_at(Instant::now() + patience, self.stream.read_buf(&mut self.read));
            match reading.await.map_err(|_| Error::Timeout("nothing came of the body for too long"))? {
                Ok(0) if self.body == Body::UntilClose => return Ok(None),
                Ok(0) => return Err(Error::Closed),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A piece with what comes after it and is there already, if it is small: each is kept, sent and counted by itself.
    fn gather(&mut self, piece: Bytes) -> Result<Bytes, Error> {
        if piece.len() >= FIRST_READ || self.read.is_empty() || !matches!(self.body, Body::Chunked(_)) {
            return Ok(piece);
        }
        let mut all = BytesMut::from(&piece[..]);
        while all.len() < PIECE
            && let Taken::Some(more) = self.body.take(&mut self.read).map_err(Error::Invalid)?
        {
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }

    /// Whether nothing at all has come since the request was sent.
    pub fn has_heard_nothing(&self) -> bool {
        !self.has_heard && self.read.is_empty()
    }

    /// Whether all of the body has been read.
    pub fn is_over(&self) -> bool {
        self.body.is_done()
    }

    /// Whether the next exchange can go by this connection: the last has ended, and nothing came that nobody asked for.
    fn can_be_kept(&self) -> bool {
        self.keep_alive && self.body.is_done() && self.read.is_empty()
    }

    /// The connection itself, with what has been read of it.
    pub fn into_parts(self) -> (Bytes, OriginStream) {
        (self.read.freeze(), self.stream)
    }
}
