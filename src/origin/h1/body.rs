//! Where a body ends, that of a response by its head (RFC 9112 section 6.3), and what of the bytes on the wire is body.

use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};

use crate::chunked::{Chunks, Malformed, Taken, split};
use crate::request::{content_length, may_have_body};

/// What is still to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked(Chunks),
    /// To the connection's end.
    UntilClose,
}

/// Whether a body is announced that is not to come (RFC 9110 sections 8.6 and 9.3.2). Servers that send it all the same make
/// the connection's next response of it.
pub(crate) fn announces_in_vain(method: &Method, status: StatusCode, fields: &HeaderMap) -> bool {
    let is_announced = || {
        fields.contains_key(header::TRANSFER_ENCODING)
            || fields.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0")
    };
    !may_have_body(method, status) && is_announced()
}

impl Body {
    /// That of a response with these fields. Contradictions are errors: they are how responses are split.
    pub fn of(method: &Method, status: StatusCode, fields: &mut HeaderMap) -> Result<Self, &'static str> {
        if !may_have_body(method, status) {
            settle_length(fields)?;
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
            return Ok(Body::Chunked(Chunks::OF_RESPONSE));
        }
        Ok(settle_length(fields)?.map_or(Body::UntilClose, Body::Length))
    }

    /// Whether all of it has been taken.
    pub fn is_done(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunks) => chunks.is_done(),
            Body::UntilClose => false,
        }
    }

    /// How many bytes are known to come.
    pub fn expected(&self) -> u64 {
        match self {
            Body::Length(left) => *left,
            Body::Chunked(chunks) => chunks.expected(),
            Body::UntilClose => 0,
        }
    }

    /// Takes the next bytes of the body from what has been read; `None`: it has ended; pending: more has to be read. Its
    /// trailers are put into `trailers`.
    pub fn take(
        &mut self,
        read: &mut BytesMut,
        trailers: &mut Option<HeaderMap>,
    ) -> Result<Poll<Option<Bytes>>, &'static str> {
        Ok(match self {
            Body::Length(0) => Poll::Ready(None),
            Body::Chunked(chunks) => match chunks.take(read).map_err(|Malformed| "a chunked body that is malformed")? {
                Taken::Data(piece) => Poll::Ready(Some(piece)),
                Taken::Trailers(fields) => {
                    *trailers = Some(fields);
                    Poll::Ready(None)
                }
                Taken::End => Poll::Ready(None),
                Taken::NeedsMore => Poll::Pending,
            },
            _ if read.is_empty() => Poll::Pending,
            Body::Length(left) => {
                let piece = split(read, *left);
                *left -= piece.len() as u64;
                Poll::Ready(Some(piece))
            }
            Body::UntilClose => Poll::Ready(Some(split(read, u64::MAX))),
        })
    }
}

/// The length that a head states, which it does once then, as others write it.
fn settle_length(fields: &mut HeaderMap) -> Result<Option<u64>, &'static str> {
    let (mut stated, mut is_said_once) = (None, false);
    for value in fields.get_all(header::CONTENT_LENGTH) {
        for length in value.as_bytes().split(|byte| *byte == b',') {
            let length = content_length(length.trim_ascii()).ok_or("a Content-Length that is none")?;
            is_said_once = stated.is_none() && *value == itoa::Buffer::new().format(length);
            if stated.replace(length).is_some_and(|before| before != length) {
                return Err("two lengths that differ");
            }
        }
    }
    if let Some(length) = stated
        && !is_said_once
    {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(stated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::map;

    #[test]
    fn bodies_end_where_the_head_says() {
        let chunked = Body::Chunked(Chunks::OF_RESPONSE);
        for (lines, body) in [
            (&[("content-length", "5")][..], Ok(Body::Length(5))),
            (&[("content-length", "5"), ("content-length", "5")], Ok(Body::Length(5))),
            (&[("content-length", "5, 5")], Ok(Body::Length(5))),
            (&[("content-length", "007")], Ok(Body::Length(7))),
            (&[("content-length", "5"), ("content-length", "6")], Err(())),
            (&[("content-length", "+5")], Err(())),
            (&[("content-length", "")], Err(())),
            (&[("content-length", "9999999999999999999")], Err(())),
            (&[("transfer-encoding", "Chunked")], Ok(chunked)),
            (&[("transfer-encoding", "chunked"), ("content-length", "5")], Err(())),
            (&[("transfer-encoding", "gzip, chunked")], Err(())),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Err(())),
            (&[], Ok(Body::UntilClose)),
        ] {
            let mut fields = map(lines);
            let found = Body::of(&Method::GET, StatusCode::OK, &mut fields).map_err(|_| ());
            assert_eq!(found, body, "{lines:?}");
            if let Ok(Body::Length(length)) = found {
                let said: Vec<_> = fields.get_all("content-length").iter().collect();
                assert_eq!(said, [&*length.to_string()], "once, and as others write it: {lines:?}");
            }
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
            let mut fields = map(lines);
            assert_eq!(announces_in_vain(&method, status, &fields), in_vain, "{method} {status} {lines:?}");
            assert_eq!(Body::of(&method, status, &mut fields), Ok(Body::Length(0)), "{method} {status} {lines:?}");
        }
        let mut differ = map(&[("content-length", "5"), ("content-length", "6")]);
        assert!(Body::of(&Method::HEAD, StatusCode::OK, &mut differ).is_err());
        assert!(!announces_in_vain(&Method::GET, StatusCode::OK, &map(&[("content-length", "5")])));
    }

    #[test]
    fn without_chunks_a_body_is_what_comes_up_to_its_length() {
        for (mut body, pieces, left) in [
            (Body::Length(5), &["he", "llo"][..], "next"),
            (Body::Length(20), &["he", "llonext"], ""),
            (Body::Length(0), &[], "hellonext"),
            (Body::UntilClose, &["he", "llonext"], ""),
        ] {
            let (mut read, mut taken) = (BytesMut::new(), Vec::new());
            for come in ["he", "llonext"] {
                read.extend_from_slice(come.as_bytes());
                while let Ok(Poll::Ready(Some(piece))) = body.take(&mut read, &mut None) {
                    taken.push(piece);
                }
            }
            assert_eq!((taken, &read[..]), (pieces.iter().map(|piece| Bytes::from(*piece)).collect(), left.as_bytes()));
        }
    }
}
