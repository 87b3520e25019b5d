//! A stream as pingora's proxy sees it: a session of a protocol that pingora does not know.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Version, header};
use pingora_core::protocols::Digest;
use pingora_core::protocols::SocketDigest;
use pingora_core::protocols::http::body_buffer::FixedBuffer;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::timeout;

use crate::cache::engine::BEHIND;
use crate::cache::object::{add_date, remove_hop_by_hop};
use crate::clock::Timestamp;
use crate::config::model::Limits;
use crate::request::RequestView;

use super::answer::{head_section, put_map};
use super::hpack;
use super::stream::{Gone, Handle};
use super::wire::Reason;

/// Bytes of a request's body that are kept, so that another origin can be asked. As pingora keeps them for its own
/// sessions.
const RETRY_BUFFER: usize = 64 << 10;
/// Interim responses that are passed on.
const MAX_INTERIM: usize = 8;
/// Bytes of a body that are given to the connection under one deadline: it is for each call, and a slow client is not a
/// stuck one.
const PIECE: usize = 64 << 10;

/// A request that is passed on.
pub(super) struct PassSession {
    stream: Handle,
    request: RequestHeader,
    response: Option<Box<ResponseHeader>>,
    /// Interim responses that were sent.
    interim: usize,
    /// The request has no body. Decided once: pingora asks more than once, and must get one answer.
    is_empty: bool,
    /// Its end has been read.
    has_ended: bool,
    body_read: usize,
    body_sent: usize,
    retry_buffer: Option<FixedBuffer>,
    digest: Digest,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

fn gone(gone: Gone) -> Box<Error> {
    let kind = match gone {
        Gone::Client => ErrorType::ConnectionClosed,
        Gone::Stalled | Gone::NoRoom => ErrorType::WriteTimedout,
        Gone::Malformed => ErrorType::H2Error,
    };
    Error::explain(kind, gone.to_string()).into_down()
}

impl PassSession {
    /// `None`: the head cannot be put in pingora's terms, which nothing that was checked is known to be.
    pub fn new(
        stream: Handle,
        view: &RequestView<'_>,
        is_empty: bool,
        (client, local): (SocketAddr, SocketAddr),
    ) -> Option<Self> {
        let fields = view.fields.to_map();
        let target = view.path_and_query();
        let mut request = RequestHeader::build(view.method.clone(), target.as_bytes(), Some(fields.len() + 1)).ok()?;
        request.set_version(Version::HTTP_2);
        request.insert_header(header::HOST, view.authority).ok()?;
        for (name, value) in fields.iter().filter(|(name, _)| **name != header::HOST) {
            request.append_header(name.clone(), value.clone()).ok()?;
        }
        let socket = SocketDigest::from_raw_fd(-1); // shared with other streams: nothing to be set on it for one
        // Both cells are new, so setting them cannot fail.
        let _ = socket.peer_addr.set(Some(PeerAddr::Inet(client)));
        let _ = socket.local_addr.set(Some(PeerAddr::Inet(local)));
        Some(PassSession {
            stream,
            request,
            response: None,
            interim: 0,
            is_empty,
            has_ended: false,
            body_read: 0,
            body_sent: 0,
            retry_buffer: None,
            digest: Digest { socket_digest: Some(Arc::new(socket)), ..Digest::default() },
            read_timeout: None,
            write_timeout: None,
            drain_timeout: None,
        })
    }

    pub fn with_timeouts(mut self, limits: &Limits) -> Self {
        self.write_timeout = Some(limits.write_timeout);
        self.read_timeout = Some(limits.read_timeout);
        self.drain_timeout = Some(limits.read_timeout);
        self
    }

    pub fn into_server_session(self) -> ServerSession {
        ServerSession::new_custom(Box::new(self))
    }

    async fn give(&mut self, data: Bytes, ends: bool) -> Result<()> {
        let held = match data.len() {
            0 => None,
            // Without a quota: the origin has carried the request out, and it may not be repeated.
            length => Some(self.stream.hold_ahead(length + BEHIND).await.map_err(gone)?),
        };
        self.stream.send_held(data, ends, held).await.map_err(gone)
    }
}

#[async_trait]
impl Session for PassSession {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let piece = self.stream.read().await.map_err(gone)?;
        self.has_ended |= piece.is_none();
        if let Some(piece) = &piece {
            self.body_read += piece.len();
            if let Some(buffer) = &mut self.retry_buffer {
                buffer.write_to_buffer(piece);
            }
        }
        Ok(piece)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let patience = self.drain_timeout.unwrap_or(Duration::MAX);
        let draining = async {
            while self.read_body_bytes().await?.is_some() {}
            Ok(())
        };
        timeout(patience, draining).await.or_err(ErrorType::ReadTimedout, "draining the body")?
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, ends: bool) -> Result<()> {
        if self.response.is_some() || self.stream.is_ended() {
            return Ok(());
        }
        if head.status == StatusCode::CONTINUE {
            return Ok(()); // who waits for it has been told
        }
        if head.status.is_informational() {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Ok(()); // hints, and nobody may have the client wait for them
            }
            self.stream.send_section(head_section(head.status, head.headers.clone()), false);
            return Ok(());
        }
        let mut fields = head.headers.clone();
        add_date(&mut fields, Timestamp::now());
        self.stream.send_section(head_section(head.status, fields), ends);
        self.response = Some(head);
        Ok(())
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, ends: bool) -> Result<()> {
        self.write_response_header(Box::new(head.clone()), ends).await
    }

    async fn write_body(&mut self, data: Bytes, ends: bool) -> Result<()> {
        if self.stream.is_ended() {
            return Ok(());
        }
        if self.response.is_none() {
            return Error::e_explain(ErrorType::H2Error, "a body before its head");
        }
        let mut left = data;
        loop {
            let piece = left.split_to(left.len().min(PIECE));
            let (length, last) = (piece.len(), ends && left.is_empty());
            self.give(piece, last).await?; // the connection knows whether the client takes enough
            self.body_sent += length;
            if left.is_empty() {
                return Ok(());
            }
        }
    }

    async fn write_trailers(&mut self, mut trailers: HeaderMap) -> Result<()> {
        remove_hop_by_hop(&mut trailers);
        let mut section = BytesMut::new();
        hpack::put_no_table(&mut section);
        put_map(&mut section, &trailers);
        self.stream.send_section(section, true);
        Ok(())
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended |= match task {
                HttpTask::Header(head, ends) => {
                    self.write_response_header(head, ends).await?;
                    ends
                }
                HttpTask::Body(Some(data), ends) if !data.is_empty() => {
                    self.write_body(data, ends).await?;
                    ends
                }
                HttpTask::Body(_, ends) => ends,
                HttpTask::UpgradedBody(..) => {
                    return Error::e_explain(ErrorType::InternalError, "HTTP/2 has no upgrades");
                }
                HttpTask::Trailer(Some(trailers)) => {
                    self.write_trailers(*trailers).await?;
                    true
                }
                HttpTask::Trailer(None) | HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
            };
        }
        if ended {
            self.finish().await?;
        }
        Ok(ended)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain_timeout = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.request.method, String::from_utf8_lossy(self.request.raw_path()))
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.response.as_deref()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.stream.reset(Reason::InternalError);
    }

    fn is_body_done(&mut self) -> bool {
        self.is_empty || self.has_ended || self.body_read > 0 && self.stream.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        if !self.stream.is_ended() && self.response.is_some() {
            self.give(Bytes::new(), true).await?;
        }
        Ok(())
    }

    fn is_body_empty(&mut self) -> bool {
        self.is_empty
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.is_body_done() {
            return Err(gone(self.stream.gone().await));
        }
        self.read_body_bytes().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.body_sent
    }

    fn body_bytes_read(&self) -> usize {
        self.body_read
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Some(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&PeerAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&PeerAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new() // for subrequests, which are not made
    }

    fn enable_retry_buffering(&mut self) {
        self.retry_buffer.get_or_insert_with(|| FixedBuffer::new(RETRY_BUFFER));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.retry_buffer.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.retry_buffer.as_ref().filter(|buffer| !buffer.is_truncated()).and_then(FixedBuffer::get_buffer)
    }

    // Messages beside requests and responses, which HTTP/2 does not have.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
