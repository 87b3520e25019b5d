//! The header fields of a request on its way to an origin: what concerns only the client's connection is
//! taken out, what the node vouches for is put in.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use smallvec::SmallVec;

use crate::config::model::Node;
use crate::config::read::IpRange;
use crate::request::Scheme;

/// What the node says about a request to the origin.
#[derive(Clone, Copy)]
pub struct Forwarded<'a> {
    pub node: &'a Node,
    pub client: IpAddr,
    /// As the client asked for it.
    pub authority: &'a str,
    pub scheme: Scheme,
    /// Of the client's request.
    pub version: Version,
}

/// The field that brings the token of who wants to see more of what the node did.
pub const DEBUG: HeaderName = HeaderName::from_static("seawall-debug");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields by which proxies tell where a request came from. A client's own are never believed; nor does an
/// origin see a token of the node's.
static FORWARDING_FIELDS: [HeaderName; 15] = [
    HeaderName::from_static("forwarded"),
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("x-forwarded-protocol"),
    HeaderName::from_static("x-url-scheme"),
    HeaderName::from_static("front-end-https"),
    DEBUG,
];

/// Fields by which some frameworks let a request be another than its line says. No cache key has them, so on
/// a cached route one visitor could have another page stored for all.
static OVERRIDING_FIELDS: [HeaderName; 9] = [
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-original-host"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-forwarded-path"),
    HeaderName::from_static("x-forwarded-uri"),
    HeaderName::from_static("x-override-url"),
];

/// Fields of a client's request that the fill of a shared object must not have: its conditions and ranges
/// are answered from the object, its body is not forwarded.
static FILL_EXCLUDES: [HeaderName; 9] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
    header::EXPECT,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
];

/// Replaces the fields that tell of the client by what the node knows: `Via`, `X-Forwarded-*`.
pub fn set_forwarding_fields(fields: &mut HeaderMap, forwarded: &Forwarded<'_>) {
    let chain = believed_chain(fields, forwarded);
    remove_all(fields, &FORWARDING_FIELDS);
    fields.insert(FORWARDED_PROTO, HeaderValue::from_static(forwarded.scheme.as_str()));
    if let Ok(chain) = HeaderValue::try_from(chain) {
        fields.insert(FORWARDED_FOR, chain);
    }
    if let Ok(authority) = HeaderValue::from_str(forwarded.authority) {
        fields.insert(FORWARDED_HOST, authority);
    }
    if let Ok(via) = HeaderValue::try_from(via(forwarded.version, &forwarded.node.name)) {
        fields.append(header::VIA, via);
    }
}

/// Prepares the fields of a fill; hop-by-hop fields are already gone.
pub fn exclude_from_fill(fields: &mut HeaderMap) {
    remove_all(fields, &FILL_EXCLUDES);
    exclude_overrides(fields);
    join_cookies(fields);
}

/// HTTP/2 clients may send cookies in several fields; HTTP/1 has one (RFC 9113 section 8.2.3).
pub fn join_cookies(fields: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = fields.get_all(header::COOKIE).iter().map(|value| value.as_bytes()).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        fields.insert(header::COOKIE, joined);
    }
}

/// Takes the fields out that could make the request another than the one that was keyed.
pub fn exclude_overrides(fields: &mut HeaderMap) {
    remove_all(fields, &OVERRIDING_FIELDS);
}

/// Removes fields, also where a name is spelt with underscores: to CGI, WSGI and their like that is the same field.
fn remove_all(fields: &mut HeaderMap, names: &[HeaderName]) {
    let is_respelt = |spelt: &str| spelt.contains('_') && names.iter().any(|name| *name == *spelt.replace('_', "-"));
    // Requests have fewer fields than there are names: theirs are looked for among these, not these among theirs.
    let gone = fields.keys().filter(|name| names.contains(name) || is_respelt(name.as_str()));
    for name in gone.cloned().collect::<SmallVec<[HeaderName; 4]>>() {
        fields.remove(name);
    }
}

/// The node's entry in `Via` (RFC 9110 section 7.6.3).
pub fn via(version: Version, node: &str) -> String {
    let protocol = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    };
    [protocol, " ", node].concat()
}

/// `X-Forwarded-For`: the peer, after what a trusted proxy said came before it.
fn believed_chain(fields: &HeaderMap, forwarded: &Forwarded<'_>) -> String {
    let peer = forwarded.client.to_canonical().to_string();
    if !is_trusted(&forwarded.node.trusted_proxies, forwarded.client) {
        return peer;
    }
    let before: Vec<&str> = fields.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    if before.is_empty() { peer } else { format!("{}, {peer}", before.join(", ")) }
}

fn is_trusted(ranges: &[IpRange], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::config;

    fn forward(trusted: &str, fields: &[(&'static str, &str)]) -> HeaderMap {
        let config = config(&format!("[node]\nname = \"edge-1\"\ntrusted_proxies = [{trusted}]"));
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        let forwarded = Forwarded {
            node: &config.node,
            client: [192, 0, 2, 1].into(),
            authority: "shop.example:8443",
            scheme: Scheme::Https,
            version: Version::HTTP_2,
        };
        set_forwarding_fields(&mut map, &forwarded);
        map
    }

    #[test]
    fn what_a_client_says_of_itself_is_replaced() {
        let fields = forward(
            "",
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x_forwarded_for", "1.1.1.1"),
                ("x-forwarded_host", "evil"),
                ("x-forwarded-host", "evil"),
                ("forwarded", "for=x"),
                ("x-real-ip", "1"),
                ("front-end-https", "on"),
                ("x_other", "stays"),
            ],
        );
        for (name, expected) in [
            ("x-forwarded-for", Some("192.0.2.1")),
            ("x-forwarded-host", Some("shop.example:8443")),
            ("x-forwarded-proto", Some("https")),
            ("via", Some("2.0 edge-1")),
            ("forwarded", None),
            ("x-real-ip", None),
            ("x_forwarded_for", None),
            ("x-forwarded_host", None),
            ("front-end-https", None),
            ("x_other", Some("stays")),
        ] {
            assert_eq!(fields.get(name).map(|value| value.to_str().unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn a_fill_has_one_cookie_field_and_no_conditions() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("if-none-match", "x"),
            ("range", "bytes=0-"),
            ("x-rewrite-url", "/"),
        ] {
            fields.append(name, value.parse().unwrap());
        }
        exclude_from_fill(&mut fields);
        assert_eq!(fields.len(), 1);
        assert_eq!(fields["cookie"], "a=1; b=2");
    }

    #[test]
    fn a_trusted_proxy_is_believed_about_who_came_before() {
        let fields = forward("\"192.0.2.0/24\"", &[("x-forwarded-for", "1.1.1.1"), ("via", "1.1 front")]);
        assert_eq!(fields["x-forwarded-for"], "1.1.1.1, 192.0.2.1");
        let via: Vec<_> = fields.get_all("via").iter().collect();
        assert_eq!(via, ["1.1 front", "2.0 edge-1"]);
    }
}
