//! What every decision reads of a request, whatever protocol it came by.

mod authority;
mod fields;
mod id;
mod lines;
mod target;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, Method, StatusCode, Version, header};

use crate::geoip::GeoIp;

pub(crate) use authority::parse_authority;
pub use fields::Fields;
pub(crate) use fields::text;
pub(crate) use id::RequestId;
pub use lines::FieldLines;
pub(crate) use target::{BAD_FORM, Target, as_decoded, compared, hides_dots, merge_slashes};

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
    /// Its two ends; `None`: it is no visitor's.
    pub ends: Option<Ends>,
    pub scheme: Scheme,
    /// `TLSv1.3`; `None`: the connection is plain.
    pub tls: Option<&'static str>,
    pub version: Version,
    /// What it is called in logs and at origins.
    pub id: RequestId<'a>,
}

/// The two ends of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// A listener, by its place in the configuration with which the node has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// The connection as it would be without trusted proxies: from the client, whose port is then not known.
    pub fn seen_ends(&self) -> Option<Ends> {
        let ends = self.ends?;
        let peer = if self.client == self.peer { ends.peer } else { SocketAddr::new(self.client, 0) };
        Some(Ends { peer, local: ends.local })
    }

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
            ends: None,
            scheme,
            tls: None,
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
    Some(Fields::parsed(parsed).to_map())
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
    fits.then(|| value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }
}
