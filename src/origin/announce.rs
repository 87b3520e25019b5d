//! The PROXY protocol towards origins: whose connection it is, before its first byte
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::io;
use std::net::SocketAddr;

use ppp::v2::{AddressFamily, Builder, Command, Protocol, Version};

use crate::config::model::ProxyVersion;
use crate::request::Ends;

/// The header; `None`: the connection is the node's own, as for health checks.
pub(super) fn header(version: ProxyVersion, ends: Option<Ends>) -> io::Result<Vec<u8>> {
    let ends = ends.map(|Ends { peer, local }| alike(peer, local));
    match (version, ends) {
        (ProxyVersion::V1, Some((peer, local))) => {
            let family = if peer.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = ((peer.ip(), peer.port()), (local.ip(), local.port()));
            Ok(format!("PROXY {family} {} {} {} {}\r\n", from.0, to.0, from.1, to.1).into_bytes())
        }
        (ProxyVersion::V1, None) => Ok(b"PROXY UNKNOWN\r\n".to_vec()),
        (ProxyVersion::V2, Some(both)) => {
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, both).build()
        }
        (ProxyVersion::V2, None) => {
            Builder::new(Version::Two | Command::Local, AddressFamily::Unspecified | Protocol::Unspecified).build()
        }
    }
}

/// Both of one family: an IPv4 address is written as an IPv6 one where the other end is of that.
fn alike(peer: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let mapped = |end: SocketAddr| match end {
        SocketAddr::V4(end) => SocketAddr::new(end.ip().to_ipv6_mapped().into(), end.port()),
        v6 => v6,
    };
    let (peer, local) = (plain(peer), plain(local));
    if peer.is_ipv4() == local.is_ipv4() { (peer, local) } else { (mapped(peer), mapped(local)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_both_ends() {
        let ends = |peer: &str, local: &str| Some(Ends { peer: peer.parse().unwrap(), local: local.parse().unwrap() });
        for (version, ends, expected) in [
            (
                ProxyVersion::V1,
                ends("10.0.0.1:5000", "10.0.0.2:443"),
                &b"PROXY TCP4 10.0.0.1 10.0.0.2 5000 443\r\n"[..],
            ),
            (
                ProxyVersion::V1,
                ends("[::ffff:10.0.0.1]:5", "[::ffff:10.0.0.2]:443"),
                b"PROXY TCP4 10.0.0.1 10.0.0.2 5 443\r\n",
            ),
            (
                ProxyVersion::V1,
                ends("[2001:db8::1]:5", "10.0.0.2:443"),
                b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.2 5 443\r\n",
            ),
            (ProxyVersion::V1, None, b"PROXY UNKNOWN\r\n"),
            (
                ProxyVersion::V2,
                ends("10.0.0.1:5000", "10.0.0.2:443"),
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x13\x88\x01\xbb",
            ),
            (ProxyVersion::V2, None, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ] {
            assert_eq!(header(version, ends).unwrap(), expected, "{ends:?}");
        }
    }
}
