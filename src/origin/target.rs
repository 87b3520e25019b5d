//! How an origin is reached, in pingora's terms.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::L4Connect as Connect;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::l4::socket::SocketAddr as Address;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_core::{BError, Error, ErrorType};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::config::model::{Origin, OriginProtocol, Pool};

use super::balance::rendezvous;

/// HTTP/2 streams at one time on a connection to an origin.
const ORIGIN_H2_STREAMS: usize = 100;
/// What may come of a response before it is read; and of all on a connection: no reader that takes nothing holds up another.
const ORIGIN_H2_WINDOW: u32 = 256 << 10;
const ORIGIN_H2_CONNECTION_WINDOW: u32 = ORIGIN_H2_WINDOW * ORIGIN_H2_STREAMS as u32;
/// How often an HTTP/2 connection is asked whether it lives. Servers by gRPC take more than one ping in five minutes without
/// data for an attack. A dead host is noticed by TCP long before.
const H2_PING_INTERVAL: Duration = Duration::from_secs(330);
const TCP_KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(10),
    interval: Duration::from_secs(5),
    count: 3,
    user_timeout: Duration::from_secs(25),
};

/// Has a connection begin with a header of the PROXY protocol.
pub(super) fn announce(peer: &mut HttpPeer, header: Vec<u8>) {
    peer.options.custom_l4 = Some(Arc::new(Announced(header)));
}

/// Makes connections that begin with some bytes.
#[derive(Debug)]
struct Announced(Vec<u8>);

#[async_trait]
impl Connect for Announced {
    async fn connect(&self, to: &Address) -> Result<Stream, BError> {
        let connecting = async {
            match to {
                Address::Inet(address) => {
                    let mut stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    stream.write_all(&self.0).await?;
                    Ok(Stream::from(stream))
                }
                Address::Unix(address) => {
                    let path = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
                    let mut stream = UnixStream::connect(path).await?;
                    stream.write_all(&self.0).await?;
                    Ok(Stream::from(stream))
                }
            }
        };
        connecting.await.map_err(|error: io::Error| Error::because(ErrorType::ConnectError, "connecting", error))
    }
}

/// Everything about reaching an origin but its address, which is put in for each request.
pub(crate) fn peer_template(pool: &Pool, origin: &Origin) -> HttpPeer {
    let name = || origin.host().unwrap_or_else(|| "localhost".to_owned());
    let sni = pool.tls.as_ref().map(|tls| tls.sni.clone().unwrap_or_else(name)).unwrap_or_default();
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut peer = HttpPeer::new(nowhere, pool.tls.is_some(), sni);
    let options = &mut peer.options;
    options.connection_timeout = Some(pool.timeouts.connect);
    options.total_connection_timeout = Some(pool.timeouts.connect);
    options.read_timeout = Some(pool.timeouts.read);
    options.write_timeout = Some(pool.timeouts.write);
    options.idle_timeout = Some(pool.timeouts.idle);
    options.max_h2_streams = ORIGIN_H2_STREAMS;
    options.h2_ping_interval = Some(H2_PING_INTERVAL);
    options.h2_stream_window_size = Some(ORIGIN_H2_WINDOW);
    options.h2_connection_window_size = Some(ORIGIN_H2_CONNECTION_WINDOW);
    options.tcp_keepalive = Some(TCP_KEEPALIVE);
    match pool.protocol {
        OriginProtocol::H1 => options.set_http_version(1, 1),
        OriginProtocol::H2 => options.set_http_version(2, 2),
        OriginProtocol::Auto => options.set_http_version(2, 1),
    }
    if let Some(tls) = &pool.tls {
        options.verify_cert = tls.verify;
        options.verify_hostname = tls.verify;
        if let Some(client) = &tls.client {
            let chain = client.chain.iter().map(|der| der.to_vec()).collect();
            peer.client_cert_key = Some(Arc::new(CertKey::new(chain, client.key.clone())));
        }
        if let Some(chain) = &tls.ca {
            // pingora keeps connections by address and name: what one authority vouches for is not shared with another.
            let joined: Vec<u8> = chain.iter().flat_map(|der| der.iter().copied()).collect();
            peer.group_key = rendezvous::hash_bytes(&joined);
            // The configuration was refused if any of them could not be parsed.
            let parsed: Vec<_> = chain.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect();
            options.ca = Some(parsed.into());
        }
    }
    peer
}
