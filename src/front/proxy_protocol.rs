//! The PROXY protocol, versions 1 and 2: a balancer that carries connections says before their first byte whose they are
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a header of version 2: the proxy may add what it likes, certificates even.
const MAX: usize = 4 << 10;
/// Of one of version 1, with the end of its line.
const MAX_LINE: usize = 107;
/// What every header has at least; behind it may be the client's first byte.
const SHORTEST: usize = 13;
/// The same of version 1: `PROXY UNKNOWN` and the end of its line.
const SHORTEST_LINE: usize = 15;

/// Between whom a connection is: its client, and where that has connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    pub client: SocketAddr,
    pub local: SocketAddr,
    /// How the client has come to the proxy, where that says that it was by TLS.
    pub tls: Option<CameByTls>,
}

/// A connection to a proxy that ends TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameByTls {
    /// As [`crate::request::RequestView::tls`] has it, where it is said and known.
    pub version: Option<&'static str>,
}

/// What the proxy says of TLS (section 2.2.6): one byte of flags, four of whether the client's certificate was verified, and more
/// of the same kind.
const PP2_TYPE_SSL: u8 = 0x20;
const PP2_SUBTYPE_SSL_VERSION: u8 = 0x21;
/// The client has come by TLS.
const PP2_CLIENT_SSL: u8 = 1;

/// Why something is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoHeader(&'static str);

/// Reads a header and nothing behind it. `None`: the connection is the proxy's own, as those for its checks are.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Named>> {
    let mut header = Vec::with_capacity(128);
    while let Some(wanted) = missing(&header).map_err(invalid)? {
        let have = header.len();
        header.resize(wanted, 0);
        stream.read_exact(&mut header[have..]).await?;
    }
    parse(&header).map_err(invalid)
}

fn invalid(error: NoHeader) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// How many bytes of a header are sure to come when these have; `None`: it is whole.
pub fn missing(header: &[u8]) -> Result<Option<usize>, NoHeader> {
    if header.len() < SHORTEST {
        return Ok(Some(SHORTEST));
    }
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        let Some(length) = header.get(14..16) else { return Ok(Some(16)) };
        let whole = 16 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        return match whole {
            whole if whole > MAX => Err(NoHeader("the header is too long")),
            whole => Ok((header.len() < whole).then_some(whole)),
        };
    }
    if !header.starts_with(b"PROXY ") {
        return Err(NoHeader("it does not begin with a PROXY header"));
    }
    match memchr::memchr(b'\n', header) {
        Some(end) if end + 1 == header.len() => Ok(None),
        Some(_) => Err(NoHeader("the header is too short")),
        None if header.len() >= MAX_LINE => Err(NoHeader("the header is too long")),
        None => Ok(Some((header.len() + 1).max(SHORTEST_LINE))),
    }
}

/// What a whole header says.
pub fn parse(header: &[u8]) -> Result<Option<Named>, NoHeader> {
    const MALFORMED: NoHeader = NoHeader("the PROXY header is malformed");
    let named = match header.starts_with(v2::PROTOCOL_PREFIX) {
        true => of_binary(&v2::Header::try_from(header).map_err(|_| MALFORMED)?),
        false => of_line(v1::Header::try_from(header).map_err(|_| MALFORMED)?.addresses),
    };
    // No client is nowhere, as the node's own requests are.
    match named {
        Some(named) if named.client.ip().is_unspecified() => Err(NoHeader("the PROXY header names no client")),
        named => Ok(named),
    }
}

fn of_line(addresses: v1::Addresses) -> Option<Named> {
    match addresses {
        v1::Addresses::Tcp4(of) => Some(Named {
            client: (of.source_address, of.source_port).into(),
            local: (of.destination_address, of.destination_port).into(),
            tls: None,
        }),
        v1::Addresses::Tcp6(of) => Some(Named {
            client: (of.source_address, of.source_port).into(),
            local: (of.destination_address, of.destination_port).into(),
            tls: None,
        }),
        v1::Addresses::Unknown => None,
    }
}

fn of_binary(header: &v2::Header<'_>) -> Option<Named> {
    match header.addresses {
        _ if header.command == v2::Command::Local || header.protocol != v2::Protocol::Stream => None,
        v2::Addresses::IPv4(of) => Some(Named {
            client: (of.source_address, of.source_port).into(),
            local: (of.destination_address, of.destination_port).into(),
            tls: came_by_tls(header),
        }),
        v2::Addresses::IPv6(of) => Some(Named {
            client: (of.source_address, of.source_port).into(),
            local: (of.destination_address, of.destination_port).into(),
            tls: came_by_tls(header),
        }),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    }
}

/// What is malformed behind the addresses says nothing.
fn came_by_tls(header: &v2::Header<'_>) -> Option<CameByTls> {
    let said = header.tlvs().map_while(Result::ok).find(|said| said.kind == PP2_TYPE_SSL)?;
    let flags = said.value.first()?;
    let more = v2::TypeLengthValues::from(said.value.get(5..)?);
    let version = more.map_while(Result::ok).find(|more| more.kind == PP2_SUBTYPE_SSL_VERSION);
    let version = version.and_then(|version| match &*version.value {
        b"TLSv1.3" => Some("TLSv1.3"),
        b"TLSv1.2" => Some("TLSv1.2"),
        _ => None,
    });
    (flags & PP2_CLIENT_SSL != 0).then_some(CameByTls { version })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2 with an address family, a command, and what follows.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([command, family]);
        header.extend((rest.len() as u16).to_be_bytes());
        header.extend(rest);
        header
    }

    #[tokio::test]
    async fn headers_are_read_to_their_last_byte() {
        let four = [192, 0, 2, 1, 10, 0, 0, 1, 0xc3, 0x50, 1, 187];
        let with_extras = [&four[..], &[0x20, 0, 2, 1, 2]].concat();
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 1]);
        (six[15], six[33], six[35]) = (7, 80, 81);
        let named = Some(("192.0.2.1:50000", "10.0.0.1:443"));
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r\n".to_vec(), Ok(named)),
            (b"PROXY TCP6 2001:db8::7 ::1 80 81\r\n".to_vec(), Ok(Some(("[2001:db8::7]:80", "[::1]:81")))),
            (b"PROXY UNKNOWN\r\n".to_vec(), Ok(None)),
            (b"PROXY UNKNOWN whatever it likes\r\n".to_vec(), Ok(None)),
            (binary(0x21, 0x11, &four), Ok(named)),
            (binary(0x21, 0x11, &with_extras), Ok(named)),
            (binary(0x21, 0x21, &six), Ok(Some(("[2001::7]:80", "[::]:81")))),
            (binary(0x20, 0x11, &four), Ok(None)), // LOCAL
            (binary(0x20, 0x00, &[]), Ok(None)),
            (binary(0x21, 0x00, &[]), Ok(None)),
            (binary(0x21, 0x12, &four), Ok(None)), // a datagram
            (b"PROXY TCP4 0.0.0.0 10.0.0.1 50000 443\r\n".to_vec(), Err("names no client")),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\n".to_vec(), Err("malformed")),
            (b"PROXY TCP4 192.0.2.256 10.0.0.1 50000 443\r\n".to_vec(), Err("malformed")),
            (b"PROXY TCP4 ::1 ::1 50000 443\r\n".to_vec(), Err("malformed")),
            (b"PROXY \r\nGET / HTTP/1.1\r\n".to_vec(), Err("too short")),
            ([&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(), Err("too long")),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), Err("does not begin")),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdef".to_vec(), Err("does not begin")),
            (binary(0x21, 0x11, &four[..8]), Err("malformed")),
            (binary(0x31, 0x11, &four), Err("malformed")),
            (binary(0x21, 0x11, &[0; 5000]), Err("too long")),
        ] {
            let mut stream = &*[&header[..], b"next"].concat();
            let read = read(&mut stream).await.map_err(|error| error.to_string());
            match expected {
                Ok(expected) => {
                    let expected = expected.map(|(client, local)| Named {
                        client: client.parse().unwrap(),
                        local: local.parse().unwrap(),
                        tls: None,
                    });
                    assert_eq!((read, stream), (Ok(expected), &b"next"[..]), "{header:?}");
                }
                Err(part) => assert!(read.as_ref().is_err_and(|why| why.contains(part)), "{read:?} {header:?}"),
            }
        }
    }

    #[test]
    fn a_proxy_that_ends_tls_says_so() {
        let by_tls = |version| Some(CameByTls { version });
        for (extras, expected) in [
            (&b""[..], None),
            (b"\x20\0\x05\x01\0\0\0\0", by_tls(None)),
            (b"\x20\0\x05\x07\0\0\0\x01", by_tls(None)),
            (b"\x20\0\x05\x02\0\0\0\0", None), // it knows a certificate, and the connection is plain
            (b"\x20\0\x0f\x01\0\0\0\0\x21\0\x07TLSv1.3", by_tls(Some("TLSv1.3"))),
            (b"\x20\0\x0f\x01\0\0\0\0\x21\0\x07TLSv1.2", by_tls(Some("TLSv1.2"))),
            (b"\x20\0\x0d\x01\0\0\0\0\x21\0\x05SSLv3", by_tls(None)),
            (b"\x01\0\x02h2\x20\0\x05\x01\0\0\0\0", by_tls(None)), // after another
            (b"\x20\0\x04\x01\0\0\0", None),
            (b"\x20\0\x09\x01\0\0\0\0", None),
            (b"\x20\0\x08\x01\0\0\0\0\x21\0\x07", by_tls(None)),
            (b"\x01\0\xff", None),
            (b"\x01", None),
        ] {
            let rest = [&[192, 0, 2, 1, 10, 0, 0, 1, 0xc3, 0x50, 1, 187], extras].concat();
            let named = parse(&binary(0x21, 0x11, &rest)).unwrap().unwrap();
            assert_eq!(named.tls, expected, "{extras:?}");
        }
    }
}
