//! A response as HTTP/1 has it on the wire: heads that were serialised when they were stored, a tail that each response
//! gets anew, and the body, in as few system calls as the kernel lets it be.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Method, StatusCode, Version};
use tokio::io::AsyncWrite;

use crate::cache::head::serialise;
use crate::cache::status::Report;
use crate::fields::remove_hop_by_hop;

use super::super::reply::ClientResponse;
use super::super::stream::ClientStream;

/// How a response is written, by its request and by what is known of its body.
pub(super) struct Writing<'a> {
    pub method: &'a Method,
    pub version: Version,
    pub framing: Framing,
    pub keep_alive: bool,
    pub takes_trailers: bool,
}

impl<'a> Writing<'a> {
    /// Of a response behind which the connection ends.
    pub(super) fn new(response: &ClientResponse, method: &'a Method, version: Version) -> Self {
        let framing = match response.content_length() {
            Some(length) => Framing::Length(length),
            None if !response.has_body(method) => Framing::NoBody,
            None if version == Version::HTTP_10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        Writing { method, version, framing, keep_alive: false, takes_trailers: false }
    }
}

/// How the client is told where the body ends (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
    NoBody,
}

/// The fields that each response gets anew, and the end of the head.
pub(super) fn write_tail(
    out: &mut String,
    response: &ClientResponse,
    report: Option<&Report>,
    node: &str,
    writing: &Writing<'_>,
) {
    out.clear();
    let mut push_number = |name: &str, number: u64| {
        out.push_str(name);
        out.push_str(itoa::Buffer::new().format(number));
        out.push_str("\r\n");
    };
    if let Framing::Length(length) = writing.framing {
        push_number("content-length: ", length);
    }
    if let Some(age) = response.age {
        push_number("age: ", age.as_secs());
    }
    if writing.framing == Framing::Chunked {
        out.push_str("transfer-encoding: chunked\r\n");
    }
    if let Some(range) = response.content_range() {
        let _ = write!(out, "content-range: {range}\r\n"); // writing to a String cannot fail
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

/// Passes an interim response on.
pub(super) async fn write_interim(
    stream: &mut ClientStream,
    status: StatusCode,
    mut fields: HeaderMap,
) -> io::Result<()> {
    remove_hop_by_hop(&mut fields);
    let head = serialise(status, &fields);
    let mut written = 0;
    poll_fn(|cx| poll_write_all(stream, [&head, b"\r\n"], &mut written, cx)).await
}

/// Bytes in one call, of what is too much for the processor's caches: measured with 128 KiB bodies, of which the kernel's
/// copy is read again at once. What is larger by far gets nothing from it, and more calls.
const PIECE: usize = 64 << 10;
const TOO_LARGE_FOR_PIECES: usize = 512 << 10;

/// Writes parts one after the other, of which so many bytes are written, in as few calls as is good.
pub(super) fn poll_write_all<const N: usize>(
    stream: &mut ClientStream,
    parts: [&[u8]; N],
    written: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let all: usize = parts.iter().map(|part| part.len()).sum();
    let most = if all > TOO_LARGE_FOR_PIECES { usize::MAX } else { PIECE };
    while *written < all {
        let slices = slices(parts, *written, most);
        match ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            more => *written += more,
        }
    }
    Pin::new(stream).poll_flush(cx)
}

/// What lies `from` bytes from the start of some parts, `most` bytes of it.
fn slices<const N: usize>(parts: [&[u8]; N], from: usize, most: usize) -> [IoSlice<'_>; N] {
    let (mut skip, mut left) = (from, most);
    parts.map(|part| {
        let skipped = skip.min(part.len());
        let taken = (part.len() - skipped).min(left);
        skip -= skipped;
        left -= taken;
        IoSlice::new(&part[skipped..skipped + taken])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_from_any_place_in_any_pieces() {
        let parts: [&[u8]; 3] = [b"head", b"", b"a longer body"];
        let whole = parts.concat();
        for most in 1..=whole.len() + 1 {
            let mut out = Vec::new();
            while out.len() < whole.len() {
                let slices = slices(parts, out.len(), most);
                let some: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                assert!(!some.is_empty() && some.len() <= most);
                out.extend(some);
            }
            assert_eq!(out, whole, "{most}");
        }
    }
}
