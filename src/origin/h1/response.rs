//! The head of a response.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::request::lists;

use super::super::link::{MAX_FIELDS, MAX_HEAD, ResponseHead};

/// Where the head ends that some bytes begin with, if it has come in full. `scanned`: how far earlier calls have looked.
pub fn find_end(read: &[u8], scanned: usize) -> Result<Option<usize>, &'static str> {
    for at in memchr::memchr_iter(b'\n', &read[scanned..]).map(|at| at + scanned) {
        // Lines of origins may end without a carriage return (RFC 9112 section 2.2).
        let rest = &read[..at];
        if matches!(rest, [.., b'\n'] | [.., b'\n', b'\r']) {
            return if at < MAX_HEAD { Ok(Some(at + 1)) } else { Err("a head that is too large") };
        }
    }
    if read.len() > MAX_HEAD { Err("a head that is too large") } else { Ok(None) }
}

/// Reads a whole head; with it, whether the connection may go on after the body, as far as the head says. The values share
/// its bytes, and so the buffer that those lie in: whoever keeps them for long copies them.
pub fn parse(head: Bytes) -> Result<(ResponseHead, bool), &'static str> {
    let mut space = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    config.allow_obsolete_multiline_headers_in_responses(true);
    match config.parse_response_with_uninit_headers(&mut parsed, &head, &mut space) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err("no whole head"),
        Err(httparse::Error::TooManyHeaders) => return Err("too many header fields"),
        Err(_) => return Err("a head that is not valid"),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("no valid status")?;
    let mut fields = HeaderMap::with_capacity(parsed.headers.len() + 2);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a field name that is not valid")?;
        fields.append(name, value(&head, field.value)?);
    }
    let keep_alive = keeps_alive(parsed.version == Some(1), &fields);
    Ok((ResponseHead { status, fields }, keep_alive))
}

fn value(head: &Bytes, value: &[u8]) -> Result<HeaderValue, &'static str> {
    let made = HeaderValue::from_maybe_shared(head.slice_ref(value)).or_else(|_| {
        // Perhaps it is folded over lines, which is obsolete (RFC 9112 section 5.2).
        let unfold = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
        HeaderValue::from_bytes(&value.iter().map(unfold).collect::<Vec<u8>>())
    });
    made.map_err(|_| "a field value that is not valid")
}

fn keeps_alive(is_http_11: bool, fields: &HeaderMap) -> bool {
    let has = |option: &str| fields.get_all(header::CONNECTION).iter().any(|line| lists(line.as_bytes(), option));
    // HTTP/1.0 has no transfer codings: what has one all the same is not to be trusted with more (RFC 9112 section 6.1).
    if is_http_11 { !has("close") } else { has("keep-alive") && !fields.contains_key(header::TRANSFER_ENCODING) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_and_read() {
        for (wire, status, fields, keep_alive, rest) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest", 200, &[("a", "b")][..], true, 4),
            ("HTTP/1.1 200\nA: b\n\nrest", 200, &[("a", "b")], true, 4),
            ("HTTP/1.1 404 \r\n\r\n", 404, &[], true, 0),
            ("HTTP/1.0 200 OK\r\n\r\n", 200, &[], false, 0),
            ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", 200, &[("connection", "Keep-Alive")], true, 0),
            ("HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\n\r\n", 200, &[("connection", "x, CLOSE")], false, 0),
            ("HTTP/1.1 200 OK\r\nA: b\r\n  c\r\n\r\n", 200, &[("a", "b    c")], true, 0),
            ("HTTP/1.1 200 OK\r\nA : b\r\nA: c\r\n\r\n", 200, &[("a", "b"), ("a", "c")], true, 0),
            ("HTTP/1.1 200 caf\u{e9}\r\nA: \u{e4}\r\n\r\n", 200, &[("a", "\u{e4}")], true, 0),
        ] {
            let end = find_end(wire.as_bytes(), 0).unwrap().unwrap();
            assert_eq!(wire.len() - end, rest, "{wire:?}");
            let (head, kept) = parse(Bytes::copy_from_slice(&wire.as_bytes()[..end])).unwrap();
            let found: Vec<_> = head.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            let expected: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            assert_eq!((head.status.as_u16(), found, kept), (status, expected, keep_alive), "{wire:?}");
            for cut in 0..end {
                assert_eq!(find_end(&wire.as_bytes()[..cut], 0), Ok(None), "{wire:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for wire in [
            "HTTP/1.1 20 OK\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: c\r\n\r\n",
        ] {
            assert!(parse(Bytes::from(wire)).is_err(), "{wire:?}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(257));
        assert!(parse(many.into()).is_err());
        assert!(find_end(&vec![b'x'; MAX_HEAD + 1], 0).is_err());
    }
}
