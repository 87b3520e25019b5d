//! Who the client is: the peer of the connection, or whom a trusted proxy in front names. Decided once for each request;
//! whatever asks for the client's address (log, balancing, conditions, limits by network) gets the same.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;

use crate::config::model::Node;
use crate::request::Fields;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// RFC 7239.
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// The client of a request that came from a peer.
pub(crate) fn client(node: &Node, peer: IpAddr, fields: Fields<'_>) -> IpAddr {
    if !node.trusts(peer) {
        return peer;
    }
    let name = &node.client_ip_header;
    let Some(list) = fields.joined_text(name) else { return peer };
    // Each proxy adds whom it was asked by at the end: from there on it is believed as long as those are trusted who say it.
    let is_chain = *name == FORWARDED_FOR || *name == FORWARDED;
    let mut client = peer;
    // An empty element says nothing (RFC 9110 section 5.6.1).
    for hop in list.rsplit(',').filter(|hop| !hop.trim().is_empty()) {
        let said = if *name == FORWARDED { forwarded_for(hop) } else { address(hop.trim()) };
        // What cannot be read hides all that is before it. No client is nowhere, as the node's own requests are.
        let Some(said) = said.filter(|said| !said.is_unspecified()) else { break };
        client = said;
        if !is_chain || !node.trusts(said) {
            break;
        }
    }
    client
}

/// The address of one element of `Forwarded`: `for="[2001:db8::1]:4711";proto=https`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim().trim_matches('"'))
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
            (&forwarded, "10.0.0.1", &[("x-forwarded-for", "203.0.113.9")], "10.0.0.1"),
            (&forwarded, "192.0.2.1", &[("forwarded", "for=203.0.113.9")], "192.0.2.1"),
            // By a field that is no list.
            (&named, "10.0.0.1", &[("cf-connecting-ip", "203.0.113.9")], "203.0.113.9"),
            (&named, "10.0.0.1", &[("cf-connecting-ip", "10.0.0.7")], "10.0.0.7"),
            (&named, "10.0.0.1", &[("cf-connecting-ip", "x")], "10.0.0.1"),
            (&named, "192.0.2.1", &[("cf-connecting-ip", "203.0.113.9")], "192.0.2.1"),
        ] {
            let map = map(fields);
            let found = super::client(node, peer.parse().unwrap(), Fields::Map(&map));
            assert_eq!(found.to_string(), client, "{peer} {fields:?}");
        }
    }
}
