//! HTTP/2 to origins: a stream of one of pingora's connections.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::{Error, ErrorType, OrErr};
use pingora_http::RequestHeader;

use crate::config::model::Pool;
use crate::request::content_length;

use super::error::describe;
use super::lease::Lease;
use super::link::{Frame, Link, LinkError, MAX_FIELDS, MAX_HEAD, ResponseHead};
use super::request::OriginRequest;
use super::upload::Upload;

/// Bytes of a body that are given to the connection at once.
const PIECE: usize = 64 << 10;

/// One request's stream.
pub(crate) struct Stream {
    lease: Lease<Http2Session>,
    sender: Option<SendStream<Bytes>>,
    /// What is put and has not gone.
    piece: Bytes,
    end: Option<Option<HeaderMap>>,
    gone: u64,
    has_heard: bool,
    /// What is left of the length that the response states.
    left: Option<u64>,
    /// The response's body has been read to its end; with that, its trailers.
    is_over: bool,
    trailers: Option<HeaderMap>,
}

impl Stream {
    /// Sends a request's head.
    pub(crate) fn send(
        mut lease: Lease<Http2Session>,
        request: &OriginRequest,
        pool: &Pool,
        upload: Option<&Upload>,
    ) -> pingora_core::Result<Self> {
        let session = lease.get_mut().ok_or_else(|| Error::new(ErrorType::InternalError))?;
        session.read_timeout = None; // the exchange has deadlines of its own
        session.write_request_header(Box::new(head(request, pool, upload)?), upload.is_none())?;
        let sender = session.take_request_body_writer().filter(|_| upload.is_some());
        Ok(Stream {
            lease,
            sender,
            piece: Bytes::new(),
            end: None,
            gone: 0,
            has_heard: false,
            left: None,
            is_over: false,
            trailers: None,
        })
    }

    /// Whether the response has been read to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let Some(sender) = &mut self.sender else { return Poll::Ready(Ok(())) };
        while !self.piece.is_empty() {
            sender.reserve_capacity(self.piece.len().min(PIECE));
            while sender.capacity() == 0 {
                match ready!(sender.poll_capacity(cx)) {
                    Some(room) => _ = room?,
                    None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
                }
            }
            let piece = self.piece.split_to(self.piece.len().min(sender.capacity()));
            self.gone += piece.len() as u64;
            let ends = self.piece.is_empty() && self.end == Some(None);
            sender.send_data(piece, ends)?;
            if ends {
                (self.sender, self.end) = (None, None);
                return Poll::Ready(Ok(()));
            }
        }
        match self.end.take() {
            Some(Some(trailers)) => sender.send_trailers(trailers)?,
            Some(None) => sender.send_data(Bytes::new(), true)?,
            None => return Poll::Ready(Ok(())),
        }
        self.sender = None;
        Poll::Ready(Ok(()))
    }
}

impl Link for Stream {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.poll_send(cx).map_err(|error| LinkError::Io(io::Error::other(error)))
    }

    fn gone(&self) -> u64 {
        self.gone
    }

    fn put(&mut self, frame: Option<Frame>) {
        self.end = match frame {
            Some(Frame::Data { piece, last }) => {
                self.piece = piece;
                last.then_some(None)
            }
            Some(Frame::Trailers(trailers)) => Some(Some(trailers)),
            None => Some(None),
        };
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, _method: &Method) -> Poll<Result<ResponseHead, LinkError>> {
        let session = self.lease.get_mut().ok_or(LinkError::Closed)?;
        if let Err(error) = ready!(session.poll_read_response_header(cx)) {
            return Poll::Ready(Err(sort(&error)));
        }
        self.has_heard = true;
        self.is_over = matches!(session.check_response_end_or_error(), Ok(true));
        let head = session.response_header().ok_or("no head")?;
        let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if bytes > MAX_HEAD || head.headers.len() > MAX_FIELDS {
            return Poll::Ready(Err("a head that is too large".into()));
        }
        let length = head.headers.get(header::CONTENT_LENGTH);
        self.left = length.and_then(|length| content_length(length.as_bytes()));
        Poll::Ready(Ok(ResponseHead { status: head.status, fields: head.headers.clone() }))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>> {
        if self.is_over {
            return Poll::Ready(Ok(None));
        }
        // Whether the origin has answered in full and wants no more of the request (RFC 9113 section 8.1). That it has ended its
        // side before is not to be had any more: of a response that does not state its length it is not believed.
        let has_all = self.sender.is_some() && self.left == Some(0);
        let wants_no_more = |error: &h2::Error| {
            has_all && error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
        };
        let session = self.lease.get_mut().ok_or(LinkError::Closed)?;
        match ready!(session.poll_read_response_body(cx)) {
            Some(Ok(piece)) => {
                self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                return Poll::Ready(Ok(Some(piece)));
            }
            Some(Err(error)) if wants_no_more(&error) => {}
            Some(Err(error)) => return Poll::Ready(Err(sort(&error))),
            None => match ready!(pin!(session.read_trailers()).poll(cx)) {
                Ok(trailers) => self.trailers = trailers,
                Err(error) => return Poll::Ready(Err(LinkError::Invalid(describe(&error).into()))),
            },
        }
        self.is_over = true;
        Poll::Ready(Ok(None))
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn has_heard_nothing(&self) -> bool {
        !self.has_heard
    }
}

/// A request's head in pingora's terms. It is made without pingora's own means, which note for each field how its name was spelt.
fn head(request: &OriginRequest, pool: &Pool, upload: Option<&Upload>) -> pingora_core::Result<RequestHeader> {
    let scheme = if pool.tls.is_some() { "https" } else { "http" };
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = request.method.clone();
    head.uri = target(scheme, request.host(pool.host.as_deref()), &request.path_and_query)?;
    head.headers.reserve(request.fields.iter().count() + 3);
    for (name, value) in request.fields.shared().filter(|(name, _)| *name != header::HOST.as_str()) {
        let name = HeaderName::from_bytes(name.as_bytes()).or_err(ErrorType::InvalidHTTPHeader, "a field's name")?;
        let value = HeaderValue::from_maybe_shared(value).or_err(ErrorType::InvalidHTTPHeader, "a field's value")?;
        head.headers.append(name, value);
    }
    if let Some(length) = request.stated_length(upload) {
        head.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if request.takes_trailers {
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(head.into())
}

/// What is asked for, and of whom: that is in `:authority`. nginx refuses those that say it in `Host` as well.
pub(crate) fn target(scheme: &str, host: &str, path: &str) -> pingora_core::Result<http::Uri> {
    let uri = http::Uri::builder().scheme(scheme).authority(host).path_and_query(path);
    uri.build().or_err(ErrorType::InvalidHTTPHeader, "the target as a URI")
}

/// What an error of a stream says.
fn sort(error: &h2::Error) -> LinkError {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    match error.reason() {
        Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => LinkError::NeedsHttp11,
        // Of a GOAWAY hear only the streams above its last number.
        _ if error.is_remote() && refused => LinkError::Refused(error.to_string()),
        _ if error.is_remote() && error.is_go_away() => LinkError::Unprocessed(error.to_string()),
        _ if error.is_reset() && error.is_remote() => LinkError::Reset(error.to_string()),
        Some(Reason::PROTOCOL_ERROR | Reason::FRAME_SIZE_ERROR | Reason::COMPRESSION_ERROR) => {
            LinkError::Invalid(error.to_string().into())
        }
        _ => LinkError::Io(io::Error::other(error.to_string())),
    }
}
