//! The head of a request by HTTP/1 (RFC 9112 sections 3 to 6).

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::sync::LazyLock;

use http::{Method, StatusCode, Version};
use memchr::memmem::Finder;
use smallvec::SmallVec;

use crate::config::model::Limits;
use crate::request::{Target, content_length, parse_authority};

use super::super::head::{
    BodyFraming, HEAD_TOO_LARGE, Refusal, RequestHead, TARGET_TOO_LONG, TOO_MANY_FIELDS, bad, expects_continue, lines,
    only, refuse, refuse_method,
};

/// What a proxy is told that says whose a connection is where nobody asks it to.
const PROXY_HEADER: &str = "this is a PROXY header: proxy_from of the listener does not have who sends it";

/// What a client's TLS begins with: a record with a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: &[u8] = b"\x16\x03";

/// Where the head in a buffer ends, or why it is refused before it has come in full. `scanned` is how far
/// earlier calls have looked.
pub fn find_end(buffer: &[u8], scanned: usize, limits: &Limits) -> Result<Option<usize>, Refusal> {
    // Only an empty line has these two; that all others end as they should, the parser sees.
    static EMPTY_LINE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\n\r"));
    for at in EMPTY_LINE.find_iter(&buffer[scanned..]).map(|at| at + scanned) {
        if at > 0 && buffer[at - 1] == b'\r' && buffer.get(at + 2) == Some(&b'\n') {
            let end = at + 3;
            return if end <= limits.max_head.0 as usize { Ok(Some(end)) } else { Err(too_large(buffer, limits)) };
        }
    }
    if buffer.starts_with(TLS_HANDSHAKE) {
        return Err(bad(
            "this port speaks plain HTTP, and the client TLS: ask for http://, or give the listener tls = true",
        ));
    }
    // A head whose lines end otherwise would never be seen to end.
    if memchr::memchr_iter(b'\n', &buffer[scanned..]).any(|at| at + scanned == 0 || buffer[at + scanned - 1] != b'\r') {
        let is_proxys = buffer.starts_with(b"\0\r\nQUIT\n"); // behind the empty lines that it begins with
        return Err(bad(if is_proxys { PROXY_HEADER } else { "a line ends without carriage return" }));
    }
    if buffer.len() >= limits.max_head.0 as usize { Err(too_large(buffer, limits)) } else { Ok(None) }
}

fn too_large(buffer: &[u8], limits: &Limits) -> Refusal {
    let line = memchr::memchr(b'\n', buffer).unwrap_or(buffer.len());
    if line > limits.max_target.0 as usize { TARGET_TOO_LONG } else { HEAD_TOO_LARGE }
}

/// Room for the fields of a head while it is in use. Most heads need no more than is in place.
pub(crate) type FieldSpace<'b> = SmallVec<[MaybeUninit<httparse::Header<'b>>; 16]>;

/// A [`FieldSpace`] for the fields of a head, or for as many as any configuration allows.
pub fn field_space<'b>(head: &[u8]) -> FieldSpace<'b> {
    // One line is the request's, one is empty.
    let lines = memchr::memchr_iter(b'\n', head).count().saturating_sub(2);
    let mut space = FieldSpace::with_capacity(lines.min(Limits::MOST_HEADERS as usize));
    // SAFETY: so many have room, and what may be uninitialised need not be initialised.
    unsafe { space.set_len(lines.min(Limits::MOST_HEADERS as usize)) };
    space
}

impl<'b> RequestHead<'b> {
    /// Parses a whole head, as [`find_end`] found it.
    pub fn parse<'h: 'b>(
        head: &'h [u8],
        space: &'b mut [MaybeUninit<httparse::Header<'h>>],
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        refuse_controls(head)?;
        refuse_foreign_version(head)?;
        let mut parsed = httparse::Request::new(&mut []);
        let most = (limits.max_headers as usize).min(space.len());
        match parsed.parse_with_uninit_headers(head, &mut space[..most]) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(bad("the request head is incomplete")),
            Err(error) => return Err(parse_error(error)),
        }
        let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes())
            .map_err(|_| bad("the method is not valid"))?;
        let target_text = parsed.path.unwrap_or_default();
        if target_text.len() > limits.max_target.0 as usize {
            return Err(TARGET_TOO_LONG);
        }
        refuse_method(&method)?;
        let target = Target::parse(target_text).map_err(bad)?;
        let fields = without_nominated(parsed.headers)?;
        let (host, port, authority) = host(fields, &target)?;
        Ok(RequestHead {
            body: body_framing(fields, version)?,
            keep_alive: keeps_alive(fields, version),
            expects_continue: expects_continue(fields, version)?,
            method,
            target,
            host,
            port,
            authority,
            version,
            fields,
        })
    }
}

/// What `Connection` lists (RFC 9110 section 7.6.1).
fn connection_options<'b>(fields: &[httparse::Header<'b>]) -> impl Iterator<Item = &'b [u8]> {
    let options = lines(fields, "connection").flat_map(|line| line.split(|byte| *byte == b','));
    options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

/// Takes the fields out that `Connection` names, before anybody looks at them: what no origin gets to see must
/// not choose between stored responses either. Those that the head itself is made of stay. An upgrade to h2c is not made,
/// as RFC 9110 section 7.8 allows: the request is served as if it had not been asked for.
fn without_nominated<'b, 'h>(fields: &'b mut [httparse::Header<'h>]) -> Result<&'b [httparse::Header<'h>], Refusal> {
    let stays = |name: &&[u8]| STAYS.iter().any(|stays| name.eq_ignore_ascii_case(stays.as_bytes()));
    let mut gone: SmallVec<[&[u8]; 4]> = connection_options(fields).filter(|name| !stays(name)).collect();
    if gone.len() > MAX_NOMINATED {
        return Err(bad("Connection names too many fields"));
    }
    if fields.iter().any(asks_for_h2c) {
        gone.extend([&b"upgrade"[..], b"http2-settings"]);
    }
    if gone.is_empty() {
        return Ok(fields);
    }
    let mut kept = 0;
    for at in 0..fields.len() {
        if !gone.iter().any(|name| fields[at].name.as_bytes().eq_ignore_ascii_case(name)) {
            fields[kept] = fields[at];
            kept += 1;
        }
    }
    Ok(&fields[..kept])
}

fn asks_for_h2c(field: &httparse::Header<'_>) -> bool {
    let is_h2c = |token: &[u8]| token.trim_ascii().eq_ignore_ascii_case(b"h2c");
    field.name.eq_ignore_ascii_case("http2-settings")
        || field.name.eq_ignore_ascii_case("upgrade") && field.value.split(|byte| *byte == b',').any(is_h2c)
}

/// Fields that `Connection` may name: it is compared with every field.
const MAX_NOMINATED: usize = 32;

/// Options of `Connection` that are no fields, and fields that are looked at here whatever it says.
const STAYS: [&str; 12] = [
    "close",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// NUL and its like in names, values and targets; carriage returns that end no line.
fn refuse_controls(head: &[u8]) -> Result<(), Refusal> {
    // Without a branch in it, so that many bytes are looked at in one instruction.
    let is_control = |byte: u8| (byte < 0x20) & (byte != b'\t') & (byte != b'\r') & (byte != b'\n') | (byte == 0x7f);
    let controls = head.iter().fold(false, |found, byte| found | is_control(*byte));
    let pairs = head.iter().zip(head.get(1..).unwrap_or_default());
    let torn = pairs.fold(false, |found, (byte, next)| found | ((*byte == b'\r') ^ (*next == b'\n')));
    if controls || torn || head.first() == Some(&b'\n') || head.last() == Some(&b'\r') {
        return Err(bad("the request head has a control character or a line that ends without carriage return"));
    }
    Ok(())
}

/// A well-formed version other than 1.0 and 1.1 (RFC 9110 section 15.6.6).
fn refuse_foreign_version(head: &[u8]) -> Result<(), Refusal> {
    let line = &head[..memchr::memchr(b'\r', head).unwrap_or(head.len())];
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some(b"1.1" | b"1.0") => Ok(()),
        Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(refuse(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "this version of HTTP is not served here"))
        }
        _ if line.starts_with(b"PROXY ") => Err(bad(PROXY_HEADER)),
        _ => Err(bad("the request line is not valid")),
    }
}

/// Takes a request of a later HTTP/1 for one of 1.1, the highest minor version that is known here (RFC 9110 section 2.5).
pub fn settle_version(head: &mut [u8]) {
    let Some(end) = memchr::memchr(b'\n', head) else { return };
    if let [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9', b'\r'] = &mut head[..end] {
        *minor = b'1';
    }
}

fn parse_error(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => TOO_MANY_FIELDS,
        httparse::Error::HeaderName => bad("a field name is not valid, or a line is folded"),
        httparse::Error::HeaderValue => bad("a field value is not valid"),
        _ => bad("the request line is not valid"),
    }
}

/// Exactly one valid `Host`, which an absolute target must agree with (RFC 9112 section 3.2).
fn host<'b>(
    fields: &'b [httparse::Header<'b>],
    target: &Target<'b>,
) -> Result<(Cow<'b, str>, Option<u16>, &'b str), Refusal> {
    const ONE: &str = "the request needs exactly one Host";
    let host = only(fields, "host", ONE)?.ok_or(bad(ONE))?;
    let authority = std::str::from_utf8(host).map_err(|_| bad("the Host is not valid"))?;
    let (host, port) = parse_authority(authority).ok_or_else(|| bad("the Host is not valid"))?;
    if let Some(other) = target.authority {
        let (other_host, other_port) = parse_authority(other).ok_or_else(|| bad("the target's host is not valid"))?;
        if other_host != host || other_port != port {
            return Err(bad("the target and the Host disagree"));
        }
    }
    Ok((host, port, authority))
}

fn body_framing(fields: &[httparse::Header<'_>], version: Version) -> Result<BodyFraming, Refusal> {
    match (lines(fields, "content-length").next(), lines(fields, "transfer-encoding").next()) {
        (None, None) => Ok(BodyFraming::None),
        (Some(_), Some(_)) => Err(bad("the request has both Content-Length and Transfer-Encoding")),
        (Some(length), None) => {
            only(fields, "content-length", "the request has more than one Content-Length")?;
            content_length(length).map(BodyFraming::Length).ok_or(bad("the Content-Length is not valid"))
        }
        (None, Some(coding)) => {
            only(fields, "transfer-encoding", "the request has more than one Transfer-Encoding")?;
            if version == Version::HTTP_10 {
                return Err(bad("HTTP/1.0 has no Transfer-Encoding"));
            }
            if !coding.eq_ignore_ascii_case(b"chunked") {
                return Err(refuse(StatusCode::NOT_IMPLEMENTED, "only the transfer coding chunked is served"));
            }
            Ok(BodyFraming::Chunked)
        }
    }
}

fn keeps_alive(fields: &[httparse::Header<'_>], version: Version) -> bool {
    let has = |name: &str| connection_options(fields).any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
    if version == Version::HTTP_10 { has("keep-alive") && !has("close") } else { !has("close") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use super::super::super::head::Endpoints;
    use super::*;
    use crate::config::model::PoolId;
    use crate::origin::forward;
    use crate::origin::pick::Choice;
    use crate::origin::request::OriginRequest;
    use crate::origin::upload::{BodyError, Frame, RequestBody, Upload, UploadRules};
    use crate::request::Scheme;

    fn check(request: &[u8]) -> Result<(BodyFraming, bool, String), u16> {
        let limits = Limits::default();
        let end = match find_end(request, 0, &limits) {
            Ok(Some(end)) => end,
            Ok(None) => panic!("incomplete: {}", String::from_utf8_lossy(request)),
            Err(refusal) => return Err(refusal.status.as_u16()),
        };
        let mut space = field_space(&request[..end]);
        match RequestHead::parse(&request[..end], &mut space, &limits) {
            Ok(head) => Ok((head.body, head.keep_alive, written_anew(&head))),
            Err(refusal) => Err(refusal.status.as_u16()),
        }
    }

    /// As it goes to an origin; the node's own fields are not in it.
    fn written_anew(head: &RequestHead<'_>) -> String {
        struct NoBody;
        impl RequestBody for NoBody {
            fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<Frame>, BodyError>> {
                Poll::Ready(Ok(None))
            }
        }
        let here = ([127, 0, 0, 1], 80).into();
        let view = head.view(Endpoints { listener: None, client: here, local: here, scheme: Scheme::Http, tls: None });
        let mut fields = view.fields.to_lines();
        forward::exclude_hop_by_hop(&mut fields);
        for framing in ["content-length", "expect"] {
            fields.remove(framing);
        }
        let request = OriginRequest {
            method: head.method.clone(),
            path_and_query: view.path_and_query(),
            authority: view.authority.to_owned(),
            host: None,
            fields,
            pool: PoolId(0),
            site: "shop".into(),
            choice: Choice::default(),
            upgrade: None,
            takes_trailers: view.takes_trailers(),
            silence: None,
            read_timeout: None,
            total_timeout: None,
            ends: None,
            interims: None,
            changes: None,
        };
        let upload = (!head.body.is_empty()).then(|| {
            let expects = head.expects_continue.then(Arc::default);
            let rules = UploadRules {
                length: head.body.length(),
                most: None,
                pace: None,
                expects,
                replayed: (0, None),
                changes: None,
            };
            Upload::new(Box::new(NoBody), rules)
        });
        String::from_utf8_lossy(&request.wire_head(None, upload.as_ref())).into_owned()
    }

    #[test]
    fn requests_that_are_refused() {
        let long_connection = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "x,".repeat(33));
        let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
        let long_head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40_000));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101));
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n X: y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n", 400),
            ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /\r\nHost: a\r\n\r\n", 400),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
            ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
            ("GET / HTTP/11\r\nHost: a\r\n\r\n", 400),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
            ("PRI * HTTP/2.0\r\n\r\n", 505),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417),
            (&long_connection, 400),
            (&long_target, 414),
            (&long_head, 431),
            (&many, 431),
        ] {
            assert_eq!(check(request.as_bytes()).map(|_| ()), Err(status), "{request:?}");
        }
    }

    #[test]
    fn requests_are_written_anew() {
        for (request, framing, keep_alive, canonical) in [
            (
                "GET /a/../b?x HTTP/1.1\r\nhOst: A:80\r\n\r\n",
                BodyFraming::None,
                true,
                "GET /b?x HTTP/1.1\r\nHost: A:80\r\n\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
                BodyFraming::None,
                true,
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ),
            (
                "GET http://a/x HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n",
                BodyFraming::None,
                false,
                "GET /x HTTP/1.1\r\nHost: a\r\nx-end: 2\r\n\r\n",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\nTE: trailers, deflate\r\n\r\n",
                BodyFraming::Length(7),
                true,
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nConnection: TE\r\nTE: trailers\r\n\r\n",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\nTE: trailers\r\n\r\n",
                BodyFraming::Chunked,
                true,
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: TE\r\nTE: trailers\r\n\r\n",
            ),
            (
                "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
                BodyFraming::None,
                true,
                "GET /ws HTTP/1.1\r\nHost: a\r\nsec-websocket-key: k\r\n\r\n",
            ),
            (
                "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
                BodyFraming::None,
                true,
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", BodyFraming::None, false, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            assert_eq!(check(request.as_bytes()), Ok((framing, keep_alive, canonical.into())), "{request:?}");
        }
    }

    #[test]
    fn what_is_written_anew_reads_the_same_again() {
        let request = "POST /%41/./b?q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: ä\r\n\r\n";
        let (framing, _, once) = check(request.as_bytes()).unwrap();
        assert_eq!(check(once.as_bytes()), Ok((framing, true, once.clone())));
    }

    /// Whatever is done to a request: it is refused, or what is written of it reads the same again, with one
    /// Host and at most one statement of its length.
    #[test]
    fn mutilated_requests_are_refused_or_unambiguous() {
        let seeds: [&[u8]; 4] = [
            b"GET /a/./b?q=1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Y\r\nX-Y: 1\r\n\r\n",
            b"POST http://a:80/ HTTP/1.1\r\nHost: a:80\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
            b"PUT /%41 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nUpgrade: x\r\n\r\n",
        ];
        let pieces: [&[u8]; 14] = [
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b"\0",
            b":",
            b",",
            b"chunked",
            b"Content-Length: 1\r\n",
            b"Host: b\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"%2e%2e/",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let mut accepted = 0;
        for _ in 0..50_000 {
            let mut request = random.choice(seeds).unwrap().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..request.len());
                match random.u8(0..4) {
                    0 => request[at] = random.u8(..),
                    1 if request.len() > 1 => drop(request.remove(at)),
                    2 => drop(request.splice(at..at, random.choice(pieces).unwrap().iter().copied())),
                    _ => request.truncate(at.max(1)),
                }
            }
            request.extend_from_slice(b"\r\n\r\n");
            let Ok((framing, _, once)) = check(&request) else { continue };
            accepted += 1;
            let (again, _, twice) = check(once.as_bytes()).unwrap();
            assert_eq!(
                (again.length().unwrap_or(0), twice),
                (framing.length().unwrap_or(0), once.clone()),
                "{request:?}"
            );
            let count = |name: &str| once.lines().filter(|line| line.to_ascii_lowercase().starts_with(name)).count();
            assert_eq!(count("host:"), 1, "{once}");
            assert!(count("content-length:") + count("transfer-encoding:") <= 1, "{once}");
        }
        assert!(accepted > 1000, "{accepted}");
    }

    #[test]
    fn a_head_is_found_however_it_is_cut() {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let limits = Limits::default();
        for cut in 0..request.len() {
            let found = find_end(&request[..cut], 0, &limits).unwrap();
            assert_eq!(found, (cut >= 27).then_some(27), "{cut}");
        }
    }
}
