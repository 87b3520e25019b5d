//! The head of a request, as both fronts come to it: parsed strictly, checked once, everything ambiguous refused. What is
//! accepted is written anew before it goes on, so that no origin can read a request otherwise than it was read here.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::{Method, StatusCode, Version};

use crate::request::{Ends, Fields, ListenerId, RequestId, RequestView, Scheme, Target};

/// A checked request head, borrowing from the connection's buffer.
pub struct RequestHead<'b> {
    pub method: Method,
    pub target: Target<'b>,
    /// Lower-case, without port.
    pub host: Cow<'b, str>,
    pub port: Option<u16>,
    /// As written, with port.
    pub authority: &'b str,
    pub version: Version,
    pub fields: &'b [httparse::Header<'b>],
    pub body: BodyFraming,
    /// Whether the client lets the connection go on.
    pub keep_alive: bool,
    pub expects_continue: bool,
}

/// Between whom a connection is, and how.
#[derive(Debug, Clone, Copy)]
pub struct Endpoints {
    /// By which it came; `None`: it is known of none.
    pub listener: Option<ListenerId>,
    pub client: SocketAddr,
    pub local: SocketAddr,
    pub scheme: Scheme,
    /// The version of TLS, as [`RequestView::tls`] has it.
    pub tls: Option<&'static str>,
}

/// How long the request's body is (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    Length(u64),
    Chunked,
}

impl BodyFraming {
    /// Whether nothing is to come: a length of 0 is no body.
    pub fn is_empty(self) -> bool {
        matches!(self, BodyFraming::None | BodyFraming::Length(0))
    }

    /// The length that the head states.
    pub fn length(self) -> Option<u64> {
        match self {
            BodyFraming::Length(length) => Some(length),
            BodyFraming::None | BodyFraming::Chunked => None,
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub why: &'static str,
}

pub(super) const fn refuse(status: StatusCode, why: &'static str) -> Refusal {
    Refusal { status, why }
}

pub(super) const fn bad(why: &'static str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, why)
}

pub(super) const TARGET_TOO_LONG: Refusal = refuse(StatusCode::URI_TOO_LONG, "the request target is too long");
pub(super) const TOO_MANY_FIELDS: Refusal =
    refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has too many header fields");
pub(super) const HEAD_TOO_LARGE: Refusal =
    refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request head is too large");

impl RequestHead<'_> {
    /// What decisions read of it.
    pub fn view(&self, endpoints: Endpoints) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            host: &self.host,
            port: self.port,
            local_port: endpoints.local.port(),
            listener: endpoints.listener,
            listener_name: None, // by the configuration in force
            authority: self.authority,
            path: &self.target.path,
            hides_dots: self.target.hides_dots,
            query: self.target.query,
            fields: Fields::parsed(self.fields),
            client: endpoints.client.ip(),
            geoip: None, // the same
            peer: endpoints.client.ip(),
            ends: Some(Ends { peer: endpoints.client, local: endpoints.local }),
            scheme: endpoints.scheme,
            tls: endpoints.tls,
            version: self.version,
            id: RequestId::made(),
        }
    }
}

/// The values of a field, line by line.
#[inline]
pub(super) fn lines<'b>(fields: &[httparse::Header<'b>], name: &'static str) -> impl Iterator<Item = &'b [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// The value of a field that may have one line only; `several`: why it is refused with more.
#[inline]
pub(super) fn only<'b>(
    fields: &[httparse::Header<'b>],
    name: &'static str,
    several: &'static str,
) -> Result<Option<&'b [u8]>, Refusal> {
    let mut lines = lines(fields, name);
    match (lines.next(), lines.next()) {
        (_, Some(_)) => Err(bad(several)),
        (only, None) => Ok(only),
    }
}

pub(super) fn refuse_method(method: &Method) -> Result<(), Refusal> {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(refuse(StatusCode::NOT_IMPLEMENTED, "this method is not served here"));
    }
    Ok(())
}

pub(super) fn expects_continue(fields: &[httparse::Header<'_>], version: Version) -> Result<bool, Refusal> {
    let Some(expect) = lines(fields, "expect").next() else { return Ok(false) };
    if version == Version::HTTP_10 {
        return Ok(false); // RFC 9110 section 10.1.1: ignored from an HTTP/1.0 client
    }
    if expect.eq_ignore_ascii_case(b"100-continue") {
        Ok(true)
    } else {
        Err(refuse(StatusCode::EXPECTATION_FAILED, "this expectation cannot be met"))
    }
}
