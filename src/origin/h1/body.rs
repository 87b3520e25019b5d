//! Where the body of a response ends (RFC 9112 section 6.3), and what of the bytes on the wire is body.

use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};

use crate::request::{content_length, may_have_body};

/// Bytes of a line of chunked framing, and of all trailers.
const MAX_LINE: usize = 4 << 10;
const MAX_TRAILERS: usize = 32 << 10;
/// Hexadecimal digits of a chunk's size: fewer than 64 bits.
const MAX_DIGITS: usize = 15;

/// What is still to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked(Chunk),
    /// To the connection's end.
    UntilClose,
}

/// How far a chunked body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// At a line with a chunk's size.
    Size,
    Data(u64),
    /// After a chunk's data: the end of its line.
    DataEnd,
    /// In the trailers, so many bytes of them read.
    Trailers(usize),
    Done,
}

/// Whether a body is announced that is not to come (RFC 9110 sections 8.6 and 9.3.2). Servers that send it all the same make
/// the connection's next response of it.
pub fn announces_in_vain(method: &Method, status: StatusCode, fields: &HeaderMap) -> bool {
    let is_announced = fields.contains_key(header::TRANSFER_ENCODING)
        || fields.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    !may_have_body(method, status) && is_announced
}

impl Body {
    /// That of a response with these fields. Contradictions are errors: they are how responses are split.
    pub fn of(method: &Method, status: StatusCode, fields: &mut HeaderMap) -> Result<Self, &'static str> {
        if !may_have_body(method, status) {
            return Ok(Body::Length(0));
        }
        let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err("a transfer coding other than chunked");
            }
            if fields.contains_key(header::CONTENT_LENGTH) {
                return Err("a length beside chunks"); // RFC 9112 section 6.3
            }
            return Ok(Body::Chunked(Chunk::Size));
        }
        let mut stated = None;
        for value in fields.get_all(header::CONTENT_LENGTH) {
            for length in value.as_bytes().split(|byte| *byte == b',') {
                let length = content_length(length.trim_ascii()).ok_or("a Content-Length that is none")?;
                if stated.replace(length).is_some_and(|before| before != length) {
                    return Err("two lengths that differ");
                }
            }
        }
        match stated {
            Some(length) => {
                fields.insert(header::CONTENT_LENGTH, length.into()); // once, whatever it was
                Ok(Body::Length(length))
            }
            None => Ok(Body::UntilClose),
        }
    }

    /// Whether all of it has been taken.
    pub fn is_done(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunk::Done))
    }

    /// How many bytes are known to come.
    pub fn expected(&self) -> u64 {
        match self {
            Body::Length(left) | Body::Chunked(Chunk::Data(left)) => *left,
            Body::Chunked(_) | Body::UntilClose => 0,
        }
    }

    /// Takes the next bytes of the body from what has been read; `None`: it has ended; pending: more has to be read. The lines of
    /// its trailers are appended to `trailers`.
    pub fn take(&mut self, read: &mut BytesMut, trailers: &mut BytesMut) -> Result<Poll<Option<Bytes>>, &'static str> {
        loop {
            match self {
                Body::Length(0) | Body::Chunked(Chunk::Done) => return Ok(Poll::Ready(None)),
                _ if read.is_empty() => return Ok(Poll::Pending),
                Body::Length(left) => {
                    let piece = split(read, *left);
                    *left -= piece.len() as u64;
                    return Ok(Poll::Ready(Some(piece)));
                }
                Body::UntilClose => return Ok(Poll::Ready(Some(split(read, u64::MAX)))),
                Body::Chunked(chunk) => match *chunk {
                    Chunk::Data(left) => {
                        let piece = split(read, left);
                        let left = left - piece.len() as u64;
                        *chunk = if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) };
                        return Ok(Poll::Ready(Some(piece)));
                    }
                    _ => {
                        let Some(next) = chunk.after_line(read, trailers)? else { return Ok(Poll::Pending) };
                        *chunk = next;
                    }
                },
            }
        }
    }
}

impl Chunk {
    /// Reads a line of the framing, if it has come in full.
    fn after_line(self, read: &mut BytesMut, trailers: &mut BytesMut) -> Result<Option<Chunk>, &'static str> {
        let end = memchr::memchr(b'\n', read);
        // Whether its end has come or not: what is read must not depend on how the bytes come.
        if end.unwrap_or(read.len()) > MAX_LINE {
            return Err("a line of chunked framing that is too long");
        }
        let Some(end) = end else { return Ok(None) };
        // Whoever takes another line end for one finds other chunks (RFC 9112 section 2.2).
        let line = read[..end].strip_suffix(b"\r").filter(|line| !line.iter().any(|byte| b"\r\0".contains(byte)));
        let line = line.ok_or("a line of chunked framing that does not end with CRLF")?;
        let next = match self {
            Chunk::Size => {
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                match size(digits).ok_or("a chunk's size that is none")? {
                    0 => Chunk::Trailers(0),
                    size => Chunk::Data(size),
                }
            }
            Chunk::DataEnd if line.is_empty() => Chunk::Size,
            Chunk::Trailers(_) if line.is_empty() => Chunk::Done,
            Chunk::Trailers(length) if length + end < MAX_TRAILERS => {
                trailers.extend_from_slice(&read[..=end]);
                Chunk::Trailers(length + end)
            }
            Chunk::Trailers(_) => return Err("trailers that are too long"),
            _ => return Err("a chunk that is longer than stated"),
        };
        read.advance(end + 1);
        Ok(Some(next))
    }
}

/// The next bytes, `most` of them. A small piece of a large buffer is copied, so that it does not hold on to all of it.
fn split(read: &mut BytesMut, most: u64) -> Bytes {
    let length = read.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    if length * 2 < read.capacity() {
        let piece = Bytes::copy_from_slice(&read[..length]);
        read.advance(length);
        return piece;
    }
    read.split_to(length).freeze()
}

fn size(digits: &[u8]) -> Option<u64> {
    let fits = matches!(digits.len(), 1..=MAX_DIGITS) && digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| fits)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn bodies_end_where_the_head_says() {
        let chunked = Body::Chunked(Chunk::Size);
        for (method, status, lines, body) in [
            ("GET", 200, &[("content-length", "5")][..], Ok(Body::Length(5))),
            ("GET", 200, &[("content-length", "5"), ("content-length", "5")], Ok(Body::Length(5))),
            ("GET", 200, &[("content-length", "5, 5")], Ok(Body::Length(5))),
            ("GET", 200, &[("content-length", "5"), ("content-length", "6")], Err(())),
            ("GET", 200, &[("content-length", "+5")], Err(())),
            ("GET", 200, &[("content-length", "")], Err(())),
            ("GET", 200, &[("content-length", "9999999999999999999")], Err(())),
            ("GET", 200, &[("transfer-encoding", "Chunked")], Ok(chunked)),
            ("GET", 200, &[("transfer-encoding", "chunked"), ("content-length", "5")], Err(())),
            ("GET", 200, &[("transfer-encoding", "gzip, chunked")], Err(())),
            ("GET", 200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Err(())),
            ("GET", 200, &[], Ok(Body::UntilClose)),
        ] {
            let mut fields = fields(lines);
            let status = StatusCode::from_u16(status).unwrap();
            let found = Body::of(&method.parse().unwrap(), status, &mut fields).map_err(|_| ());
            assert_eq!(found, body, "{method} {status} {lines:?}");
        }
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_announce() {
        for (method, status, lines, in_vain) in [
            ("GET", 204, &[][..], false),
            ("GET", 204, &[("content-length", "0")], false),
            ("GET", 204, &[("content-length", "5")], true),
            ("GET", 204, &[("transfer-encoding", "chunked")], true),
            ("GET", 304, &[], false),
            ("GET", 304, &[("content-length", "5")], true),
            ("GET", 304, &[("transfer-encoding", "chunked")], true),
            ("HEAD", 200, &[], false),
            ("HEAD", 200, &[("content-length", "5")], true),
            ("HEAD", 200, &[("transfer-encoding", "chunked")], true),
        ] {
            let (method, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
            let mut fields = fields(lines);
            assert_eq!(announces_in_vain(&method, status, &fields), in_vain, "{method} {status} {lines:?}");
            assert_eq!(Body::of(&method, status, &mut fields), Ok(Body::Length(0)), "{method} {status} {lines:?}");
        }
        assert!(!announces_in_vain(&Method::GET, StatusCode::OK, &fields(&[("content-length", "5")])));
    }

    /// What a body on the wire stands for, and what is left after it; the bytes come `step` at a time.
    fn decode(mut body: Body, wire: &str, step: usize) -> Result<(String, Option<String>), &'static str> {
        let (mut out, mut read) = (Vec::new(), BytesMut::new());
        let mut rest = wire.as_bytes().chunks(step);
        loop {
            match body.take(&mut read, &mut BytesMut::new())? {
                Poll::Ready(Some(piece)) => out.extend_from_slice(&piece),
                Poll::Ready(None) => break,
                Poll::Pending => match rest.next() {
                    Some(more) => read.extend_from_slice(more),
                    None => return Ok((String::from_utf8(out).unwrap(), None)),
                },
            }
        }
        read.extend_from_slice(&rest.flatten().copied().collect::<Vec<_>>());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok((text(&out), Some(text(&read))))
    }

    #[test]
    fn bodies_are_read_however_their_bytes_come() {
        let chunked = Body::Chunked(Chunk::Size);
        for (body, wire, text, rest) in [
            (Body::Length(5), "hellonext", "hello", Some("next")),
            (Body::Length(5), "hel", "hel", None),
            (Body::Length(0), "next", "", Some("next")),
            (Body::UntilClose, "hello", "hello", None),
            (chunked, "5\r\nhello\r\n0\r\n\r\nnext", "hello", Some("next")),
            (chunked, "3;a=b\r\nhel\r\n2 \r\nlo\r\n000\r\nx: y\r\nz: w\r\n\r\n", "hello", Some("")),
            (chunked, "A\r\n0123456789\r\n0\r\n\r\n", "0123456789", Some("")),
            (chunked, "5\r\nhel", "hel", None),
            (chunked, "5\r\nhello\r\n0\r\n", "hello", None),
        ] {
            for step in [1, 2, 3, 100] {
                let expected = (text.to_owned(), rest.map(str::to_owned));
                assert_eq!(decode(body, wire, step), Ok(expected), "{wire:?} {step}");
            }
        }
    }

    #[test]
    fn broken_framing_is_an_error() {
        let (long, trailers) = ("1;".to_owned() + &"x".repeat(5000), "0\r\n".to_owned() + &"x: y\r\n".repeat(9000));
        for wire in [
            "\r\n",
            "5\nhello",
            "5\r\r\nhello",
            "5;a\0b\r\n",
            "1\r\nx\n",
            "0\r\n\n",
            "g\r\n",
            "-1\r\n",
            "5\r\nhello!\r\n",
            "1\r\nxy\r\n",
            "fffffffffffffffff\r\n",
            &long,
            &trailers,
        ] {
            for step in [1, 100_000] {
                assert!(decode(Body::Chunked(Chunk::Size), wire, step).is_err(), "{wire:?}");
            }
        }
    }

    #[test]
    fn a_small_piece_holds_no_large_buffer() {
        let mut read = BytesMut::with_capacity(16 << 10);
        read.extend_from_slice(b"hello");
        let Ok(Poll::Ready(Some(piece))) = Body::Length(5).take(&mut read, &mut BytesMut::new()) else {
            panic!("a piece")
        };
        assert_eq!(piece, "hello");
        assert!(read.capacity() > 15 << 10, "the buffer is used again");
    }
}
