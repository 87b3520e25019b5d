//! What every decision reads of a request, whatever protocol it came by.

mod authority;
mod id;
mod target;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use crate::geoip::GeoIp;

pub(crate) use authority::parse_authority;
pub(crate) use id::RequestId;
pub(crate) use target::{BAD_FORM, Target, as_decoded, compared, hides_dots, merge_slashes};

/// Fields that a request gets beside its own on its way to an origin.
const FORWARDED: usize = 7;

/// A request as the decisions see it. Everything in it has been checked by the front.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a Method,
    /// Lower-case, without port.
    pub host: &'a str,
    /// The port that the client wrote.
    pub port: Option<u16>,
    /// The port that the client's connection came to.
    pub local_port: u16,
    /// The listener that it came by; `None`: it is no visitor's.
    pub listener: Option<ListenerId>,
    /// The name of that, which may be empty; `None`: it is for every site.
    pub listener_name: Option<&'a str>,
    /// As the client wrote it, with its port: what the origin gets as `Host` of a request that is passed on.
    pub authority: &'a str,
    /// Normalised by [`Target::parse`]: what is matched, keyed and sent.
    pub path: &'a str,
    /// See [`Target::hides_dots`].
    pub hides_dots: bool,
    pub query: Option<&'a str>,
    pub fields: Fields<'a>,
    /// Who asks: the peer, or whom a trusted proxy names.
    pub client: IpAddr,
    /// Where clients' addresses belong; `None`: it is not known.
    pub geoip: Option<&'a GeoIp>,
    /// Whose the connection is.
    pub peer: IpAddr,
    pub scheme: Scheme,
    pub version: Version,
    /// What it is called in logs and at origins.
    pub id: RequestId<'a>,
}

/// A listener, by its place in the configuration with which the node has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerId(pub usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port that need not be said.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl<'a> RequestView<'a> {
    /// A request that no visitor makes, for a normalised path without a query, at the scheme's own port.
    pub fn own(method: &'a Method, scheme: Scheme, host: &'a str, path: &'a str, fields: Fields<'a>) -> Self {
        RequestView {
            method,
            host,
            port: None,
            local_port: scheme.default_port(),
            listener: None,
            listener_name: None,
            authority: host,
            path,
            hides_dots: hides_dots(path),
            query: None,
            fields,
            // An origin that trusts loopback must not take the node for a visitor.
            client: Ipv4Addr::UNSPECIFIED.into(),
            geoip: None,
            peer: Ipv4Addr::UNSPECIFIED.into(),
            scheme,
            version: Version::HTTP_11,
            id: RequestId::made(),
        }
    }

    /// The country of the client, as [`GeoIp::country`] has it.
    pub fn country(&self) -> Option<&'a str> {
        self.geoip?.country(self.client)
    }

    /// The client's autonomous system, as [`GeoIp::asn`] has it.
    pub fn asn(&self) -> Option<u32> {
        self.geoip?.asn(self.client)
    }

    /// Path and query, as they go to the origin.
    pub fn path_and_query(&self) -> String {
        let Some(query) = self.query else { return self.path.to_owned() };
        format!("{}?{query}", self.path)
    }

    /// Whether the client takes trailers (RFC 9110 section 10.1.4).
    pub fn takes_trailers(&self) -> bool {
        let mut found = false;
        self.fields.for_each(&header::TE, |line| found |= lists(line, "trailers"));
        found
    }

    /// Whether it is a call by gRPC, which HTTP/2 carries.
    pub fn is_grpc(&self) -> bool {
        self.version == Version::HTTP_2
            && *self.method == Method::POST
            && self.fields.get(&header::CONTENT_TYPE).is_some_and(|kind| {
                let kind = kind.strip_prefix(b"application/grpc");
                kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
            })
    }
}

/// The header fields of a request: parsed in place by the fronts, or a map.
#[derive(Clone, Copy)]
pub enum Fields<'a> {
    Parsed(&'a [httparse::Header<'a>]),
    Map(&'a HeaderMap),
}

impl<'a> Fields<'a> {
    /// The first value of a field.
    pub fn get(self, name: &HeaderName) -> Option<&'a [u8]> {
        self.find_map(name, Some)
    }

    /// The first value, if it is text.
    pub fn get_str(self, name: &HeaderName) -> Option<&'a str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    pub fn contains(self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// Calls `each` with every line of a field, in order.
    pub fn for_each(self, name: &HeaderName, mut each: impl FnMut(&'a [u8])) {
        let _: Option<()> = self.find_map(name, |line| {
            each(line);
            None
        });
    }

    /// What `find` makes of the first line of a field of which it makes something.
    pub fn find_map<T>(self, name: &HeaderName, mut find: impl FnMut(&'a [u8]) -> Option<T>) -> Option<T> {
        match self {
            Fields::Parsed(fields) => fields
                .iter()
                .filter(|field| field.name.eq_ignore_ascii_case(name.as_str()))
                .find_map(|field| find(field.value)),
            Fields::Map(map) => map.get_all(name).iter().find_map(|value| find(value.as_bytes())),
        }
    }

    /// Calls `each` with the name and value of every line of every field.
    pub fn for_all(self, mut each: impl FnMut(&'a str, &'a [u8])) {
        match self {
            Fields::Parsed(fields) => fields.iter().for_each(|field| each(field.name, field.value)),
            Fields::Map(map) => map.iter().for_each(|(name, value)| each(name.as_str(), value.as_bytes())),
        }
    }

    /// All lines of a field joined as one list (RFC 9110 section 5.3), or `None` if it is absent.
    pub fn joined(self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        let mut joined: Option<Cow<'a, [u8]>> = None;
        self.for_each(name, |value| {
            joined = Some(match joined.take() {
                None => Cow::Borrowed(value),
                Some(before) => Cow::Owned([before.as_ref(), b", ", value].concat()),
            });
        });
        joined
    }

    /// The same as text.
    pub fn joined_text(self, name: &HeaderName) -> Option<Cow<'a, str>> {
        Some(match self.joined(name)? {
            Cow::Borrowed(value) => String::from_utf8_lossy(value),
            Cow::Owned(value) => String::from_utf8_lossy(&value).into_owned().into(),
        })
    }

    /// An owned copy of all fields. Fields whose name or value `http` refuses were refused by the front.
    pub fn to_map(self) -> HeaderMap {
        match self {
            Fields::Map(map) => map.clone(),
            Fields::Parsed(fields) => {
                let mut map = HeaderMap::with_capacity(fields.len() + FORWARDED);
                let values = in_one_block(fields.iter().map(|field| field.value));
                for (field, value) in fields.iter().zip(values) {
                    if let (Ok(name), Some(value)) = (HeaderName::from_bytes(field.name.as_bytes()), value) {
                        map.append(name, value);
                    }
                }
                map
            }
        }
    }
}

/// Values that share one block of memory; `None` for what is no value.
pub(crate) fn in_one_block<'a>(
    values: impl Iterator<Item = &'a [u8]> + Clone,
) -> impl Iterator<Item = Option<HeaderValue>> {
    let mut block = Vec::with_capacity(values.clone().map(<[u8]>::len).sum());
    values.clone().for_each(|value| block.extend_from_slice(value));
    let mut block = Bytes::from(block);
    values.map(move |value| HeaderValue::from_maybe_shared(block.split_to(value.len())).ok())
}

/// What tokens consist of, as a field's name is one (RFC 9110 section 5.6.2).
pub(crate) const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Fields in trailers, at most.
pub(crate) const MAX_TRAILERS: usize = 64;

/// Reads the lines of trailers, with the empty one that ends them. `None`: they are none, or too many.
pub(crate) fn parse_trailers(lines: &[u8]) -> Option<HeaderMap> {
    let mut space = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let Ok(httparse::Status::Complete((_, parsed))) = httparse::parse_headers(lines, &mut space) else { return None };
    Some(Fields::Parsed(parsed).to_map())
}

/// Writes the lines of trailers, with the empty one that ends them.
pub(crate) fn put_trailers(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a list has a token, in any case of its letters (RFC 9110 section 5.6.1).
pub(crate) fn lists(list: &[u8], token: &str) -> bool {
    list.split(|byte| *byte == b',').any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether an `Accept` lists a media type by name (RFC 9110 section 12.5.1).
pub(crate) fn lists_type(list: &[u8], kind: &str) -> bool {
    list.split(|byte| *byte == b',').any(|member| {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(kind.as_bytes()));
        // A weight of 0 takes it back (RFC 9110 section 12.4.2).
        let is_unwanted =
            |part: &[u8]| part.strip_prefix(b"q=").is_some_and(|q| q.iter().all(|b| matches!(b, b'0' | b'.')));
        is_it && !parts.any(is_unwanted)
    })
}

/// Whether a response may have a body, by its request's method and its status (RFC 9112 section 6.3).
pub(crate) fn may_have_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A `Content-Length` (RFC 9110 section 8.6): digits and nothing else. Eighteen of them are less than 2^63, so they cannot
/// overflow.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    let fits = matches!(value.len(), 1..=18) && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| fits)?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn fields_read_the_same_from_either_front() {
        let parsed = [
            httparse::Header { name: "Accept", value: b"a" },
            httparse::Header { name: "X-One", value: b"1" },
            httparse::Header { name: "accept", value: b"b" },
        ];
        let parsed = Fields::Parsed(&parsed);
        let map = parsed.to_map();
        for fields in [parsed, Fields::Map(&map)] {
            assert_eq!(fields.joined(&http::header::ACCEPT).unwrap().as_ref(), b"a, b");
            assert_eq!(fields.get(&http::header::ACCEPT), Some(b"a".as_slice()));
            assert!(fields.joined(&http::header::HOST).is_none());
        }
    }
}
