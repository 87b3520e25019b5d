//! The head of an HTTP/2 request: what its field section says, checked as strictly as that of HTTP/1 is.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use smallvec::SmallVec;

use crate::config::model::Limits;
use crate::request::{BAD_FORM, MAX_TRAILERS, Target, content_length, is_tchar, parse_authority};

use super::super::head::{
    BodyFraming, HEAD_TOO_LARGE, Refusal, RequestHead, TARGET_TOO_LONG, TOO_MANY_FIELDS, bad, expects_continue, lines,
    only, refuse_method,
};
use super::hpack::Section;

/// Why a request is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is none by RFC 9113 section 8.1.1: its stream is reset.
    Malformed,
    Refused(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Fault::Refused(refusal)
    }
}

/// A field section taken apart into pseudo-header fields and the others.
pub struct Parsed<'b> {
    method: Option<&'b [u8]>,
    scheme: Option<&'b [u8]>,
    authority: Option<&'b [u8]>,
    path: Option<&'b [u8]>,
    fields: SmallVec<[httparse::Header<'b>; 24]>,
}

/// Fields that HTTP/2 does not have (RFC 9113 section 8.2.2).
const CONNECTION_FIELDS: [&[u8]; 5] =
    [b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"];

impl<'b> Parsed<'b> {
    /// Takes a section apart. It must be one of a request: pseudo-header fields first and each once, names in lower case,
    /// nothing in a value that could end it elsewhere (RFC 9113 sections 8.2 and 8.3).
    pub fn of(section: &'b Section) -> Result<Self, Fault> {
        if section.too_large {
            return Err(HEAD_TOO_LARGE.into());
        }
        let mut parsed = Parsed { method: None, scheme: None, authority: None, path: None, fields: SmallVec::new() };
        for (name, value) in section.lines() {
            if !is_value(value) {
                return Err(Fault::Malformed);
            }
            match name {
                [b':', ..] => parsed.set_pseudo(name, value)?,
                _ => parsed.push_field(name, value)?,
            }
        }
        Ok(parsed)
    }

    fn set_pseudo(&mut self, name: &[u8], value: &'b [u8]) -> Result<(), Fault> {
        let place = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            _ => return Err(Fault::Malformed),
        };
        if place.replace(value).is_some() || !self.fields.is_empty() {
            return Err(Fault::Malformed);
        }
        Ok(())
    }

    fn push_field(&mut self, name: &'b [u8], value: &'b [u8]) -> Result<(), Fault> {
        if !is_name(name) || name == b"te" && !value.eq_ignore_ascii_case(b"trailers") {
            return Err(Fault::Malformed);
        }
        let name = std::str::from_utf8(name).map_err(|_| Fault::Malformed)?; // it is ASCII
        self.fields.push(httparse::Header { name, value });
        Ok(())
    }

    /// The head as it is decided on. `ended`: the request ends with it.
    pub fn head<'p>(&'p self, ended: bool, limits: &Limits) -> Result<RequestHead<'p>, Fault> {
        // Cookies come in a field each (RFC 9113 section 8.2.3): together they count as the one that they are.
        let cookies = lines(&self.fields, "cookie").count();
        if self.fields.len() - cookies.saturating_sub(1) > limits.max_headers as usize {
            return Err(TOO_MANY_FIELDS.into());
        }
        let method = Method::from_bytes(self.method.ok_or(Fault::Malformed)?).map_err(|_| Fault::Malformed)?;
        refuse_method(&method)?;
        let (Some(path), Some(scheme)) = (self.path, self.scheme) else { return Err(Fault::Malformed) };
        if path.is_empty() || !is_scheme(scheme) {
            return Err(Fault::Malformed); // section 8.3.1
        }
        if !scheme.eq_ignore_ascii_case(b"https") && !scheme.eq_ignore_ascii_case(b"http") {
            return Err(bad("the :scheme is neither https nor http").into());
        }
        if path.len() > limits.max_target.0 as usize {
            return Err(TARGET_TOO_LONG.into());
        }
        let path = std::str::from_utf8(path).map_err(|_| bad("the request target is not valid"))?;
        if !path.starts_with('/') {
            return Err(bad(BAD_FORM).into());
        }
        let target = Target::parse(path).map_err(bad)?;
        let authority = self.authority()?;
        let (host, port) = parse_authority(authority).ok_or_else(|| bad("the :authority is not valid"))?;
        Ok(RequestHead {
            method,
            target,
            host,
            port,
            authority,
            version: Version::HTTP_2,
            fields: &self.fields,
            body: self.body_framing(ended)?,
            keep_alive: true,
            expects_continue: expects_continue(&self.fields, Version::HTTP_2)?,
        })
    }

    /// `:authority`, or `Host` where there is none; both must agree (RFC 9113 section 8.3.1).
    fn authority(&self) -> Result<&'b str, Refusal> {
        let host = only(&self.fields, "host", "the request has more than one Host")?;
        let text = |bytes: &'b [u8]| std::str::from_utf8(bytes).map_err(|_| bad("the host is not valid"));
        let host = host.map(text).transpose()?;
        match (self.authority.map(text).transpose()?, host) {
            (None, None) => Err(bad("the request has neither :authority nor Host")),
            (Some(authority), Some(host)) if parse_authority(authority) != parse_authority(host) => {
                Err(bad("the :authority and the Host disagree"))
            }
            (Some(authority), _) => Ok(authority),
            (None, Some(host)) => Ok(host),
        }
    }

    /// How long the body is to be. `Chunked`: the request does not say.
    fn body_framing(&self, ended: bool) -> Result<BodyFraming, Fault> {
        let stated = only(&self.fields, "content-length", "").map_err(|_| Fault::Malformed)?;
        let stated = stated.map(|length| content_length(length).ok_or(Fault::Malformed)).transpose()?;
        match (ended, stated) {
            (true, None | Some(0)) => Ok(BodyFraming::None),
            (true, Some(_)) => Err(Fault::Malformed),
            (false, Some(length)) => Ok(BodyFraming::Length(length)),
            (false, None) => Ok(BodyFraming::Chunked),
        }
    }
}

/// Bytes of trailers: what HTTP/1 takes of them, too.
const MAX_TRAILERS_SIZE: usize = 16 << 10;

/// The fields of a section of trailers. `None`: it has pseudo-header fields, or what a request may not have either (RFC 9113
/// section 8.1), or more than is taken by HTTP/1.
pub(super) fn trailers(section: &Section) -> Option<HeaderMap> {
    let size: usize = section.lines().map(|(name, value)| name.len() + value.len()).sum();
    if section.too_large || section.lines().len() > MAX_TRAILERS || size > MAX_TRAILERS_SIZE {
        return None;
    }
    let mut fields = HeaderMap::new();
    for (name, value) in section.lines() {
        if !is_name(name) || !is_value(value) {
            return None;
        }
        fields.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(fields)
}

/// Whether a field may have this name: one that HTTP/2 has, in lower case.
fn is_name(name: &[u8]) -> bool {
    let is_token = !name.is_empty() && name.iter().all(|byte| NAME_BYTES[usize::from(*byte)]);
    is_token && !CONNECTION_FIELDS.contains(&name)
}

/// Whether a field may have this value (RFC 9113 section 8.2.1).
fn is_value(value: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    // Without an early end, which would keep it from being done by many bytes at once.
    let is_control = |byte: u8| (byte < 0x20) & (byte != b'\t') | (byte == 0x7f);
    let has_control = value.iter().fold(false, |found, byte| found | is_control(*byte));
    !is_space(value.first()) && !is_space(value.last()) && !has_control
}

/// RFC 3986 section 3.1.
fn is_scheme(scheme: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    scheme.first().is_some_and(u8::is_ascii_alphabetic) && scheme.iter().all(is_part)
}

/// Whether a field's name may have a byte: a token in lower case.
const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let at = byte as u8;
        table[byte] = is_tchar(at) && !at.is_ascii_uppercase();
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::hpack::{Decoder, put_field};
    use super::*;

    fn section(fields: &[(&str, &str)]) -> Section {
        let (mut block, mut section) = (BytesMut::new(), Section::default());
        fields.iter().for_each(|(name, value)| put_field(&mut block, name.as_bytes(), value.as_bytes()));
        Decoder::new().decode(&block, 32 << 10, &mut section).unwrap();
        section
    }

    /// Of a request that is in order but for some changes: `None` takes a pseudo-header field away.
    fn check(
        changes: &[(&str, Option<&str>)],
        more: &[(&str, &str)],
        ended: bool,
    ) -> Result<(String, BodyFraming), u16> {
        let usual = [(":method", "GET"), (":scheme", "https"), (":path", "/a?b"), (":authority", "Shop.example:8443")];
        let changed = |name: &str| changes.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        let fields = usual.iter().filter_map(|(name, value)| Some((*name, changed(name).unwrap_or(Some(*value))?)));
        let section = section(&fields.chain(more.iter().copied()).collect::<Vec<_>>());
        let parsed = Parsed::of(&section).map_err(status)?;
        let head = parsed.head(ended, &Limits::default()).map_err(status)?;
        Ok((format!("{} {} {} {}", head.method, head.host, head.authority, head.target.path), head.body))
    }

    fn status(fault: Fault) -> u16 {
        match fault {
            Fault::Malformed => 0,
            Fault::Refused(refusal) => refusal.status.as_u16(),
        }
    }

    #[test]
    fn requests_that_are_served() {
        let usual = "GET shop.example Shop.example:8443 /a";
        for (changes, more, ended, head, body) in [
            (&[][..], &[][..], true, usual, BodyFraming::None),
            (&[], &[("te", "trailers"), ("x", ""), ("y", "a  b")], true, usual, BodyFraming::None),
            (&[(":scheme", Some("HTTP"))], &[], true, usual, BodyFraming::None),
            (&[], &[("host", "shop.example:8443")], true, usual, BodyFraming::None),
            (&[], &[("content-length", "0")], true, usual, BodyFraming::None),
            (&[], &[("content-length", "12")], false, usual, BodyFraming::Length(12)),
            (&[], &[], false, usual, BodyFraming::Chunked),
            (&[], &[("cookie", "a=b"); 150], true, usual, BodyFraming::None),
            (&[(":authority", None)], &[("host", "b.example")], true, "GET b.example b.example /a", BodyFraming::None),
        ] {
            assert_eq!(check(changes, more, ended), Ok((head.to_owned(), body)), "{changes:?} {more:?}");
        }
    }

    #[test]
    fn requests_that_are_not() {
        let long = format!("/{}", "x".repeat(9000));
        for (changes, more, expected) in [
            (&[(":method", None)][..], &[][..], 0),
            (&[(":path", None)], &[], 0),
            (&[(":scheme", None)], &[], 0),
            (&[(":method", Some("G T"))], &[], 0),
            (&[], &[(":path", "/b")], 0),
            (&[], &[("x", "y"), (":path", "/b")], 0),
            (&[(":path", None)], &[("x", "y"), (":path", "/b")], 0),
            (&[], &[(":status", "200")], 0),
            (&[], &[(":protocol", "websocket")], 0),
            (&[], &[("Upper", "x")], 0),
            (&[], &[("", "x")], 0),
            (&[], &[("a b", "x")], 0),
            (&[], &[("a\r\nb", "x")], 0),
            (&[], &[("x", "a\r\nb: c")], 0),
            (&[], &[("x", "a\0b")], 0),
            (&[], &[("x", " a")], 0),
            (&[], &[("x", "a\t")], 0),
            (&[], &[("x", " ")], 0),
            (&[(":path", Some(""))], &[], 0),
            (&[(":scheme", Some(""))], &[], 0),
            (&[(":scheme", Some("ht tp"))], &[], 0),
            (&[(":scheme", Some("https://b/"))], &[], 0),
            (&[(":scheme", Some("ftp"))], &[], 400),
            (&[(":path", Some("/a\r\nx: y"))], &[], 0),
            (&[], &[("connection", "close")], 0),
            (&[], &[("keep-alive", "1")], 0),
            (&[], &[("proxy-connection", "close")], 0),
            (&[], &[("upgrade", "h2c")], 0),
            (&[], &[("transfer-encoding", "chunked")], 0),
            (&[], &[("te", "gzip")], 0),
            (&[], &[("content-length", "1")], 0),
            (&[], &[("content-length", "+0")], 0),
            (&[], &[("content-length", "")], 0),
            (&[], &[("content-length", "0"), ("content-length", "0")], 0),
            (&[(":authority", None)], &[], 400),
            (&[(":authority", Some("a@b"))], &[], 400),
            (&[], &[("host", "other.example")], 400),
            (&[], &[("host", "shop.example:8443"), ("host", "shop.example:8443")], 400),
            (&[(":path", Some("a"))], &[], 400),
            (&[(":path", Some("*"))], &[], 400),
            (&[(":path", Some("http://b/"))], &[], 400),
            (&[(":path", Some("/%zz"))], &[], 400),
            (&[(":path", Some("/ä"))], &[], 400),
            (&[(":path", Some(long.as_str()))], &[], 414),
            (&[(":method", Some("CONNECT"))], &[], 501),
            (&[(":method", Some("TRACE"))], &[], 501),
            (&[], &[("expect", "something")], 417),
            (&[], &[("x", "y"); 101], 431),
            (&[], &[("x", "y"); 200], 431),
        ] {
            assert_eq!(check(changes, more, true), Err(expected), "{changes:?} {more:?}");
        }
    }
}
