//! Writing responses: heads that were serialised when they were stored, a tail that each response gets anew,
//! and the body, in as few system calls as the kernel lets it be.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Method, Version};
use tokio::io::AsyncWriteExt;

use crate::cache::object::serialise;
use crate::cache::respond::Reply;
use crate::cache::status::Report;
use crate::snapshot::Snapshot;

use super::super::reply::ClientResponse;
use super::super::serve::Sent;
use super::Connection;

impl Connection {
    /// Writes a response. An error means that the connection can't go on.
    pub(super) async fn write(
        &mut self,
        snapshot: &Snapshot,
        mut response: ClientResponse,
        report: Option<&Report>,
        writing: &Writing<'_>,
    ) -> Sent {
        let framing = Framing::of(&response, writing);
        let mut tail = std::mem::take(&mut self.tail);
        write_tail(&mut tail, &response, report, &snapshot.config.node.name, framing, writing);
        let mut sent = Sent { status: response.status(), bytes: 0, error: None };
        let result = self.write_parts(&mut response, &tail, framing, writing, &mut sent.bytes).await;
        self.tail = tail;
        if let Err(error) = result {
            if framing == Framing::UntilClose {
                self.stream.reset().store(true, Ordering::Relaxed);
            }
            sent.error = Some(error.to_string());
        }
        sent
    }

    async fn write_parts(
        &mut self,
        response: &mut ClientResponse,
        tail: &str,
        framing: Framing,
        writing: &Writing<'_>,
        bytes: &mut u64,
    ) -> io::Result<()> {
        let head = head_of(response);
        if !response.has_body(writing.method) {
            return self.write_all([&head, tail.as_bytes(), b""]).await;
        }
        if let Some(body) = response.body.whole() {
            self.write_all([&head, tail.as_bytes(), &body]).await?;
            *bytes += body.len() as u64;
            return Ok(());
        }
        self.write_all([&head, tail.as_bytes(), b""]).await?;
        while let Some(piece) = response.body.next().await.map_err(io::Error::other)? {
            self.write_piece(&piece, framing).await?;
            *bytes += piece.len() as u64;
        }
        if framing == Framing::Chunked {
            self.write_all([b"0\r\n\r\n", b"", b""]).await?;
        }
        Ok(())
    }

    async fn write_piece(&mut self, piece: &Bytes, framing: Framing) -> io::Result<()> {
        if framing != Framing::Chunked {
            return self.write_all([piece, b"", b""]).await;
        }
        let size = format!("{:x}\r\n", piece.len());
        self.write_all([size.as_bytes(), piece, b"\r\n"]).await
    }

    /// Writes all parts, in as few system calls as the kernel lets it be.
    pub(super) async fn write_all(&mut self, parts: [&[u8]; 3]) -> io::Result<()> {
        let mut slices = parts.map(IoSlice::new);
        let mut left: &mut [IoSlice<'_>] = &mut slices;
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.stream.write_vectored(left).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => IoSlice::advance_slices(&mut left, written),
            }
        }
        self.stream.flush().await
    }
}

/// What of the request the writing of its response depends on.
pub(super) struct Writing<'a> {
    pub method: &'a Method,
    pub version: Version,
    pub keep_alive: bool,
}

/// How the client is told where the body ends (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
    NoBody,
}

impl Framing {
    pub(super) fn of(response: &ClientResponse, writing: &Writing<'_>) -> Self {
        match response.content_length() {
            Some(length) => Framing::Length(length),
            None if !response.has_body(writing.method) => Framing::NoBody,
            None if writing.version == Version::HTTP_10 => Framing::UntilClose,
            None => Framing::Chunked,
        }
    }
}

/// The head as it is stored, or what is left of it for another answer than the whole.
pub(super) fn head_of(response: &ClientResponse) -> Bytes {
    match response.reply {
        Reply::Full => response.head().h1.clone(),
        _ => serialise(response.status(), &response.selected_fields()),
    }
}

/// The fields that each response gets anew, and the end of the head.
pub(super) fn write_tail(
    out: &mut String,
    response: &ClientResponse,
    report: Option<&Report>,
    node: &str,
    framing: Framing,
    writing: &Writing<'_>,
) {
    out.clear();
    // Writing to a String cannot fail.
    let _ = match framing {
        Framing::Length(length) => write!(out, "content-length: {length}\r\n"),
        Framing::Chunked => write!(out, "transfer-encoding: chunked\r\n"),
        Framing::UntilClose | Framing::NoBody => Ok(()),
    };
    if let Some(range) = response.content_range() {
        let _ = write!(out, "content-range: {range}\r\n");
    }
    if let Some(age) = response.age {
        let _ = write!(out, "age: {}\r\n", age.as_secs());
    }
    if let Some(report) = report {
        out.push_str("via: 1.1 ");
        out.push_str(node);
        out.push_str("\r\ncache-status: ");
        response.write_cache_status(out, report, node);
        out.push_str("\r\n");
    }
    if !writing.keep_alive {
        out.push_str("connection: close\r\n");
    } else if writing.version == Version::HTTP_10 {
        out.push_str("connection: keep-alive\r\n");
    }
    out.push_str("\r\n");
}
