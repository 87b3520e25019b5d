//! A client's connection, plain or TLS, with a gate for handing it to pingora and getting it back.
//!
//! pingora's HTTP/1 session treats any byte after a request as a fault of that request, and it decides by its
//! own parser where a request ends. The gate lets it read exactly the bytes of the request it was given:
//! what a client sends beyond them is held back for the front's own parser.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::request::Scheme;

/// Bytes of later requests that are held back while one is passed on.
const MAX_HELD: usize = 64 << 10;

/// A client's connection.
#[derive(Debug)]
pub struct ClientStream {
    transport: Transport,
    gate: Gate,
    /// To be read before anything from the transport, or held back by the gate.
    held: BytesMut,
    client: SocketAddr,
    local: SocketAddr,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How many more bytes may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// This many; after them, reading waits, but still notices when the client leaves.
    Bytes(u64),
}

impl ClientStream {
    pub fn plain(stream: TcpStream, client: SocketAddr, local: SocketAddr) -> Self {
        Self::new(Transport::Plain(stream), client, local)
    }

    pub fn tls(stream: TlsStream<TcpStream>, client: SocketAddr, local: SocketAddr) -> Self {
        Self::new(Transport::Tls(Box::new(stream)), client, local)
    }

    fn new(transport: Transport, client: SocketAddr, local: SocketAddr) -> Self {
        ClientStream { transport, gate: Gate::Open, held: BytesMut::new(), client, local }
    }

    pub fn client(&self) -> SocketAddr {
        self.client
    }

    pub fn scheme(&self) -> Scheme {
        match self.transport {
            Transport::Plain(_) => Scheme::Http,
            Transport::Tls(_) => Scheme::Https,
        }
    }

    /// Whether the client chose HTTP/2 by ALPN.
    pub fn is_h2(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    pub fn gate(&self) -> Gate {
        self.gate
    }

    pub fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
    }

    /// Puts bytes back, to be read first.
    pub fn put_back(&mut self, bytes: BytesMut) {
        self.held = bytes;
    }

    /// What was held back.
    pub fn take_held(&mut self) -> BytesMut {
        std::mem::take(&mut self.held)
    }

    /// Makes the end of the connection a reset: the only way to tell a client whose response ends with the
    /// connection that it did not end well.
    pub fn reset_on_close(&self) {
        let socket = match &self.transport {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref().0,
        };
        let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO)); // it may be gone already
    }

    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    /// Behind a shut gate: collects what comes, so that the client's leaving is noticed.
    fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.held.len() >= MAX_HELD {
                return Poll::Pending; // not read on: the client has to wait for the running request
            }
            let mut space = [0; 4096];
            let mut buf = ReadBuf::new(&mut space);
            match self.poll_transport(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => self.held.extend_from_slice(buf.filled()),
                other => return other,
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.gate {
            Gate::Open if this.held.is_empty() => this.poll_transport(cx, buf),
            Gate::Open => {
                let n = this.held.len().min(buf.remaining());
                buf.put_slice(&this.held[..n]);
                this.held.advance(n);
                Poll::Ready(Ok(()))
            }
            Gate::Bytes(0) => this.poll_shut(cx),
            Gate::Bytes(left) => {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.remaining());
                let mut limited = buf.take(most);
                let before = limited.filled().len();
                let result = this.poll_transport(cx, &mut limited);
                let read = limited.filled().len() - before;
                let initialised = limited.initialized().len();
                // SAFETY: `limited` is a view on the unfilled part of `buf`, and its own invariant is that its
                // first `initialised` bytes are initialised; `read` of them have been filled.
                unsafe { buf.assume_init(initialised) };
                buf.advance(read);
                this.gate = Gate::Bytes(left - read as u64);
                result
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

// What pingora wants to know of a connection.

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await; // the client may have gone first
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> i32 {
        use std::os::fd::AsRawFd;
        match &self.transport {
            Transport::Plain(stream) => stream.as_raw_fd(),
            Transport::Tls(stream) => stream.get_ref().0.as_raw_fd(),
        }
    }
}

impl Ssl for ClientStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.is_h2() { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        let digest = SocketDigest::from_raw_fd(self.id());
        // Both cells are new, so setting them cannot fail.
        let _ = digest.peer_addr.set(Some(PeerAddr::Inet(self.client)));
        let _ = digest.local_addr.set(Some(PeerAddr::Inet(self.local)));
        Some(Arc::new(digest))
    }
}

impl Peek for ClientStream {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (ClientStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        (ClientStream::plain(server, peer, address), client)
    }

    #[tokio::test]
    async fn behind_the_gate_later_bytes_wait_and_leaving_is_noticed() {
        let (mut server, mut client) = pair().await;
        client.write_all(b"bodynext request").await.unwrap();
        server.set_gate(Gate::Bytes(4));
        let mut body = [0; 16];
        let mut read = 0;
        while read < 4 {
            read += server.read(&mut body[read..]).await.unwrap();
        }
        assert_eq!(&body[..read], b"body");
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut body).await.unwrap(), 0, "the client has left");
        assert_eq!(server.take_held(), "next request");
    }

    #[tokio::test]
    async fn what_was_put_back_is_read_first() {
        let (mut server, mut client) = pair().await;
        client.write_all(b"world").await.unwrap();
        client.shutdown().await.unwrap();
        server.put_back(BytesMut::from("hello "));
        let mut all = String::new();
        server.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "hello world");
    }
}
