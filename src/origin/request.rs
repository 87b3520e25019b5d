//! What an origin is asked.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};

use crate::config::model::{FieldChanges, PoolId};
use crate::prefix::Prefix;
use crate::request::{Ends, FieldLines};

use super::balance::rendezvous;
use super::h1::COPIED;
use super::interims::Interims;
use super::pick::Choice;
use super::record::Evidence;
use super::upload::Upload;

/// Room for the first lines of a head, beside the target, and for what frames a body.
const FIRST_LINES: usize = 192;

/// The request that is sent; every attempt sends the same.
#[derive(Clone)]
pub(crate) struct OriginRequest {
    pub method: Method,
    pub path_and_query: String,
    /// The client's `Host`.
    pub authority: String,
    /// What its route says instead of it, or of the pool's.
    pub host: Option<String>,
    /// Without what frames the body.
    pub fields: FieldLines,
    pub pool: PoolId,
    /// Whose request it is.
    pub site: Arc<str>,
    pub choice: Choice,
    /// The protocol to change to (RFC 9110 section 7.8).
    pub upgrade: Option<HeaderValue>,
    /// The client takes trailers.
    pub takes_trailers: bool,
    /// How long nothing may come of the response's body, instead of the pool's `read_timeout`.
    pub silence: Option<Silence>,
    /// Instead of the pool's.
    pub read_timeout: Option<Duration>,
    pub total_timeout: Option<Duration>,
    /// The client's connection, for origins that are told of it before the first byte.
    pub ends: Option<Ends>,
    /// Who is told of interim responses, if anybody.
    pub interims: Option<Arc<Interims>>,
    /// What the route changes in responses: interim ones go without what it drops.
    pub changes: Option<Arc<FieldChanges>>,
}

/// How long a response may be silent that is a stream of events or messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// So long.
    Of(Duration),
    /// As long as the connection is known to live.
    WhileAlive,
}

impl OriginRequest {
    /// What it is told apart by when it fails. `by_client`: clients choose their origins; then it is by whose network it comes, since
    /// one could ask one origin for as many different things as it likes.
    pub(super) fn evidence(&self, by_client: bool) -> Evidence {
        if let Some(ends) = self.ends.filter(|_| by_client) {
            return Evidence::Of(rendezvous::hash_bytes(&Prefix::of(ends.peer.ip()).to_bits().to_le_bytes()));
        }
        let parts = [self.method.as_str(), &self.authority, &self.path_and_query];
        let hashes = parts.map(|part| rendezvous::hash_bytes(part.as_bytes()));
        Evidence::Of(hashes.into_iter().fold(0, |all, hash| rendezvous::mix(all ^ hash)))
    }

    /// How long nothing may come of the head, or of a body whose head has these fields; `None`: for ever.
    /// `alive`: the connection shows by itself that it lives. `read`: what the pool says.
    pub(super) fn patience(&self, fields: Option<&HeaderMap>, alive: bool, read: Duration) -> Option<Duration> {
        let read = self.read_timeout.unwrap_or(read);
        match self.silence {
            Some(Silence::Of(patience)) => Some(patience),
            Some(Silence::WhileAlive) if alive => None,
            None if alive && fields.is_some_and(is_event_stream) => None,
            _ => Some(read),
        }
    }

    /// The `Host` that is sent; `pool`: what the pool says instead of the client's.
    pub(super) fn host<'a>(&'a self, pool: Option<&'a str>) -> &'a str {
        self.host.as_deref().or(pool).unwrap_or(&self.authority)
    }

    /// The request's head as HTTP/1.1 bytes: one `Host`, and one statement of the body's length at most.
    pub(crate) fn wire_head(&self, pool_host: Option<&str>, upload: Option<&Upload>) -> Vec<u8> {
        let body = upload.and_then(Upload::length).and_then(|length| usize::try_from(length).ok());
        let beside = body.filter(|length| *length <= COPIED).unwrap_or_default();
        let mut out = Vec::with_capacity(FIRST_LINES + self.path_and_query.len() + self.fields.size() + beside);
        let put = |out: &mut Vec<u8>, parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        put(&mut out, &[self.method.as_str().as_bytes(), b" ", self.path_and_query.as_bytes(), b" HTTP/1.1\r\nHost: "]);
        put(&mut out, &[self.host(pool_host).as_bytes(), b"\r\n"]);
        self.fields.write(&mut out, |name| name != header::HOST.as_str());
        let mut put = |parts: &[&[u8]]| put(&mut out, parts);
        match (self.stated_length(upload), upload) {
            (Some(length), _) => {
                put(&[b"Content-Length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
            }
            (None, Some(_)) => put(&[b"Transfer-Encoding: chunked\r\n"]),
            (None, None) => {}
        }
        if upload.is_some_and(Upload::expects_continue) {
            put(&[b"Expect: 100-continue\r\n"]);
        }
        match &self.upgrade {
            Some(protocol) => put(&[b"Connection: upgrade\r\nUpgrade: ", protocol.as_bytes(), b"\r\n"]),
            None if self.takes_trailers => put(&[b"Connection: TE\r\nTE: trailers\r\n"]),
            None => {}
        }
        put(&[b"\r\n"]);
        out
    }

    /// What `Content-Length` says. Methods that are made for a body say so if there is none (RFC 9110 section 8.6).
    pub(super) fn stated_length(&self, upload: Option<&Upload>) -> Option<u64> {
        match upload {
            Some(upload) => upload.length(),
            None => matches!(self.method, Method::POST | Method::PUT | Method::PATCH).then_some(0),
        }
    }
}

fn is_event_stream(fields: &HeaderMap) -> bool {
    fields.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}
