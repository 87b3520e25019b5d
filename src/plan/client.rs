//! Who asks, and how: the peer of the connection by the scheme of that, or whom a trusted proxy in front names, by the scheme that
//! it says. Decided once for each request; whatever asks for the client's address or the scheme (log, balancing, conditions,
//! limits by network, cache keys, what origins are told) gets the same.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;

use crate::config::model::Node;
use crate::request::{Fields, Scheme};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// RFC 7239.
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// The client of a request that came from a peer, and the scheme that it has asked by; `scheme`: that of the connection.
pub(crate) fn client(node: &Node, (peer, scheme): (IpAddr, Scheme), fields: Fields<'_>) -> (IpAddr, Scheme) {
    if !node.trusts(peer) {
        return (peer, scheme);
    }
    let name = &node.client_ip_header;
    // Each proxy adds whom it was asked by at the end: from there on it is believed as long as those are trusted who say it.
    let (mut client, mut said_scheme) = (peer, None);
    let list = fields.joined_text(name);
    // An empty element says nothing (RFC 9110 section 5.6.1).
    for hop in list.iter().flat_map(|list| rsplit_unquoted(list, b',')).filter(|hop| !hop.trim().is_empty()) {
        let said = if *name == FORWARDED { parameter(hop, "for").and_then(address) } else { address(hop.trim()) };
        if *name == FORWARDED {
            said_scheme = parameter(hop, "proto").and_then(scheme_of).or(said_scheme);
        }
        // What cannot be read hides all that is before it. No client is nowhere, as the node's own requests are.
        let Some(said) = said.filter(|said| !said.is_unspecified()) else { break };
        client = said;
        let is_chain = *name == FORWARDED_FOR || *name == FORWARDED;
        if !is_chain || !node.trusts(said) {
            break;
        }
    }
    if *name != FORWARDED {
        // The nearest says it last, if any adds to what was there.
        let list = fields.joined_text(&FORWARDED_PROTO);
        let mut elements = list.iter().flat_map(|list| list.rsplit(',')).filter(|element| !element.trim().is_empty());
        said_scheme = elements.next().and_then(scheme_of);
    }
    (client, said_scheme.unwrap_or(scheme))
}

/// A scheme, also that of a WebSocket, by which some proxies name it.
fn scheme_of(text: &str) -> Option<Scheme> {
    let is = |words: [&str; 2]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
    match () {
        () if is(["https", "wss"]) => Some(Scheme::Https),
        () if is(["http", "ws"]) => Some(Scheme::Http),
        () => None,
    }
}

/// What one element of `Forwarded` says: `for="[2001:db8::1]:4711";proto=https`.
fn parameter<'e>(element: &'e str, wanted: &str) -> Option<&'e str> {
    let mut pairs = rsplit_unquoted(element, b';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))?;
    Some(value.trim().trim_matches('"'))
}

/// What is between separators, the last first; those within a quoted string are none (RFC 7239 section 4). From the right, a
/// string that a client has left open hides nothing that a proxy has added.
fn rsplit_unquoted(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        for (at, byte) in text.bytes().enumerate().rev() {
            if byte == b'"' && !is_escaped(&text.as_bytes()[..at]) {
                is_quoted = !is_quoted;
            } else if byte == separator && !is_quoted {
                rest = Some(&text[..at]); // the separator is ASCII
                return Some(&text[at + 1..]);
            }
        }
        rest = None;
        Some(text)
    })
}

/// Whether what follows is escaped: an odd number of backslashes is before it.
fn is_escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// An address, which may have a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::config;
    use crate::request::tests::map;

    #[test]
    fn clients_are_whom_trusted_proxies_name() {
        let node = |header: &str| {
            config(&format!("[node]\ntrusted_proxies = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n{header}")).node
        };
        let (chain, forwarded, named) =
            (node(""), node("client_ip_header = \"Forwarded\""), node("client_ip_header = \"CF-Connecting-IP\""));
        for (node, peer, fields, client) in [
            // By `X-Forwarded-For`, from the right, as far as those are trusted who say it.
            (&chain, "192.0.2.1", &[("x-forwarded-for", "203.0.113.9")][..], "192.0.2.1"),
            (&chain, "10.0.0.1", &[], "10.0.0.1"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "1.1.1.1, 203.0.113.9")], "203.0.113.9"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.0.0.2")], "203.0.113.9"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "10.0.0.2")], "203.0.113.9"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "10.0.0.3,10.0.0.2")], "10.0.0.3"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "203.0.113.9, unknown")], "10.0.0.1"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "203.0.113.9, unknown, 10.0.0.2")], "10.0.0.2"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "")], "10.0.0.1"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "203.0.113.9, ")], "203.0.113.9"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "0.0.0.0")], "10.0.0.1"),
            (&chain, "10.0.0.1", &[("x-forwarded-for", "203.0.113.9:4711")], "203.0.113.9"),
            (&chain, "2001:db8::1", &[("x-forwarded-for", "2001:db9::7")], "2001:db9::7"),
            (&chain, "2001:db8::1", &[("x-forwarded-for", "[2001:db9::7]:443")], "2001:db9::7"),
            (&chain, "::ffff:10.0.0.1", &[("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
            (&chain, "10.0.0.1", &[("forwarded", "for=203.0.113.9"), ("cf-connecting-ip", "203.0.113.9")], "10.0.0.1"),
            // By `Forwarded`.
            (&forwarded, "10.0.0.1", &[("forwarded", "for=203.0.113.9")], "203.0.113.9"),
            (
                &forwarded,
                "10.0.0.1",
                &[("forwarded", "for=1.1.1.1, For=\"[2001:db9::7]:4711\";proto=https")],
                "2001:db9::7",
            ),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=203.0.113.9, by=x;for=10.0.0.2")], "203.0.113.9"),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=203.0.113.9, for=_hidden")], "10.0.0.1"),
            // What is quoted separates nothing, and what is left open hides nothing that comes after it.
            (&forwarded, "10.0.0.1", &[("forwarded", "for=203.0.113.9;host=\"x,for=1.1.1.1\"")], "203.0.113.9"),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=203.0.113.9;host=\"x;for=1.1.1.1\"")], "203.0.113.9"),
            (&forwarded, "10.0.0.1", &[("forwarded", "host=\"a\\\",for=1.1.1.1\";for=203.0.113.9")], "203.0.113.9"),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=\"1.1.1.1, for=203.0.113.9")], "203.0.113.9"),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=_x;ext=\"a, for=1.1.1.1\"")], "10.0.0.1"),
            (&forwarded, "10.0.0.1", &[("x-forwarded-for", "203.0.113.9")], "10.0.0.1"),
            (&forwarded, "192.0.2.1", &[("forwarded", "for=203.0.113.9")], "192.0.2.1"),
            // By a field that is no list.
            (&named, "10.0.0.1", &[("cf-connecting-ip", "203.0.113.9")], "203.0.113.9"),
            (&named, "10.0.0.1", &[("cf-connecting-ip", "10.0.0.7")], "10.0.0.7"),
            (&named, "10.0.0.1", &[("cf-connecting-ip", "x")], "10.0.0.1"),
            (&named, "192.0.2.1", &[("cf-connecting-ip", "203.0.113.9")], "192.0.2.1"),
        ] {
            let map = map(fields);
            let (found, _) = super::client(node, (peer.parse().unwrap(), Scheme::Http), Fields::Map(&map));
            assert_eq!(found.to_string(), client, "{peer} {fields:?}");
        }
    }

    #[test]
    fn the_scheme_is_what_trusted_proxies_say() {
        let node = |header: &str| config(&format!("[node]\ntrusted_proxies = [\"10.0.0.0/8\"]\n{header}")).node;
        let (chain, forwarded, named) =
            (node(""), node("client_ip_header = \"Forwarded\""), node("client_ip_header = \"CF-Connecting-IP\""));
        for (node, peer, fields, expected) in [
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "https")][..], Some("https")),
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "HTTP")], Some("http")),
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "wss")], Some("https")),
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "http, https")], Some("https")),
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")], Some("https")),
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")], Some("http")),
            (&named, "10.0.0.1", &[("x-forwarded-proto", "https")], Some("https")),
            // Nobody, or nothing that could be read.
            (&chain, "192.0.2.1", &[("x-forwarded-proto", "https")], None),
            (&chain, "10.0.0.1", &[], None),
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "")], None),
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "https x")], None),
            (&chain, "10.0.0.1", &[("x-forwarded-proto", "https, ")], Some("https")),
            (&chain, "10.0.0.1", &[("forwarded", "for=203.0.113.9;proto=https")], None),
            // By `Forwarded`, of whoever is believed.
            (&forwarded, "10.0.0.1", &[("forwarded", "for=203.0.113.9;proto=https")], Some("https")),
            (&forwarded, "10.0.0.1", &[("forwarded", "proto=\"https\"; for=203.0.113.9")], Some("https")),
            (
                &forwarded,
                "10.0.0.1",
                &[("forwarded", "for=203.0.113.9;proto=https, for=10.0.0.2;proto=http")],
                Some("https"),
            ),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=203.0.113.9, for=10.0.0.2;proto=https")], Some("https")),
            (
                &forwarded,
                "10.0.0.1",
                &[("forwarded", "for=1.1.1.1;proto=https, for=203.0.113.9;proto=http")],
                Some("http"),
            ),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=1.1.1.1;proto=https, for=203.0.113.9")], None),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=1.1.1.1;host=\"x,proto=https\";proto=http")], Some("http")),
            (&forwarded, "10.0.0.1", &[("forwarded", "for=1.1.1.1;ext=\"a;proto=https\";proto=http")], Some("http")),
            (&forwarded, "10.0.0.1", &[("x-forwarded-proto", "https")], None),
            (&forwarded, "192.0.2.1", &[("forwarded", "for=203.0.113.9;proto=https")], None),
        ] {
            let map = map(fields);
            for connection in [Scheme::Http, Scheme::Https] {
                let (_, found) = super::client(node, (peer.parse().unwrap(), connection), Fields::Map(&map));
                assert_eq!(found.as_str(), expected.unwrap_or(connection.as_str()), "{peer} {fields:?}");
            }
        }
    }
}
