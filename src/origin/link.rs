//! What an exchange goes by: a connection of HTTP/1.1, or a stream of HTTP/2.

use std::borrow::Cow;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

/// Bytes of a response's head, and fields in it: by whichever protocol.
pub(crate) const MAX_HEAD: usize = 128 << 10;
pub(crate) const MAX_FIELDS: usize = 256;
/// Interim responses (1xx) before the final one that are passed on; and those that there may be, since some origins say every
/// few seconds that they are still at it.
pub(crate) const MAX_INTERIM: usize = 8;
pub(crate) const MAX_HEADS: usize = 100;

/// Why an origin is given up that takes nothing.
pub(crate) const TAKES_NOTHING: &str = "it took too long to take the request";

/// A response's status line and fields.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub fields: HeaderMap,
}

/// Some of a request's body.
#[derive(Debug, Clone)]
pub enum Frame {
    /// `last`: it is known that nothing comes after it. That it is not known says nothing.
    Data {
        piece: Bytes,
        last: bool,
    },
    Trailers(HeaderMap),
}

/// Where a request goes and its response comes from.
pub(crate) trait Link: Send {
    /// Ready when all that was put of the request has gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>>;
    /// Bytes that have gone so far.
    fn gone(&self) -> u64;
    /// Puts some of the request's body behind what has gone; `None`: its end.
    fn put(&mut self, frame: Option<Frame>);
    /// A response's head, an interim one too.
    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<ResponseHead, LinkError>>;
    /// The next piece of the body; `None` at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>>;
    /// The trailers of a body that has been read to its end.
    fn take_trailers(&mut self) -> Option<HeaderMap>;
    /// Whether nothing at all has come since the request was sent.
    fn has_heard_nothing(&self) -> bool;
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the origin closed the connection")]
    Closed,
    /// The origin has ended this request's stream alone.
    #[error("the origin ended the stream: {0}")]
    Reset(String),
    #[error("{0}")]
    Timeout(&'static str),
    #[error("the response has {0}")]
    Invalid(Cow<'static, str>),
    /// The origin has surely not processed the request (RFC 9113 section 8.7).
    #[error("the origin did not process the request: {0}")]
    Unprocessed(String),
    /// The same of this request alone (RFC 9113 section 8.7): it may have too much to do.
    #[error("the origin refused the request: {0}")]
    Refused(String),
    #[error("the origin wants HTTP/1.1")]
    NeedsHttp11,
}

impl From<&'static str> for LinkError {
    fn from(what: &'static str) -> Self {
        LinkError::Invalid(what.into())
    }
}
