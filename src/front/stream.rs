//! A client's connection, plain or TLS, with a gate for handing it to pingora and getting it back.
//!
//! pingora's HTTP/1 session treats any byte after a request as a fault of that request, and it decides by its
//! own parser where a request ends. The gate lets it read exactly the bytes of the request it was given:
//! what a client sends beyond them is held back for the front's own parser.
//!
//! Writing has a deadline here, where all writers meet: pingora has none for the heads it writes.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use crate::cache::object::FilePart;
use crate::request::Scheme;

use super::chunks::{Chunks, Malformed};
use super::pace::{Pace, Taking};

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
    /// How quickly the client has to take what is written, and how it does.
    pace: Pace,
    taking: Taking,
    /// Runs while nothing more can be written.
    stalled: Option<Stall>,
    /// Whether the connection is to end with a reset.
    reset: Arc<AtomicBool>,
}

/// A wait for the client.
#[derive(Debug)]
struct Stall {
    over: Pin<Box<Sleep>>,
    /// Bytes that the kernel had for the client when it began.
    queued: u64,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a client is told whose body is no chunked one.
pub const MALFORMED: &str = "the body is not chunked as RFC 9112 section 7.1 says";

/// How many more bytes may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// This many; after them, reading waits, but still notices when the client resets the connection.
    Bytes(u64),
    /// To the end of a chunked body; after it as with `Bytes(0)`.
    Chunks(Chunks),
    /// The body is not what its head promised: nothing more of it is read.
    Malformed,
}

impl Transport {
    fn socket(&self) -> &TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl ClientStream {
    pub fn plain(stream: TcpStream, client: SocketAddr, local: SocketAddr, pace: Pace) -> Self {
        Self::new(Transport::Plain(stream), client, local, pace)
    }

    pub fn tls(stream: TlsStream<TcpStream>, client: SocketAddr, local: SocketAddr, pace: Pace) -> Self {
        Self::new(Transport::Tls(Box::new(stream)), client, local, pace)
    }

    fn new(transport: Transport, client: SocketAddr, local: SocketAddr, pace: Pace) -> Self {
        ClientStream {
            transport,
            gate: Gate::Open,
            held: BytesMut::new(),
            client,
            local,
            pace,
            taking: Taking::default(),
            stalled: None,
            reset: Arc::default(),
        }
    }

    pub fn client(&self) -> SocketAddr {
        self.client
    }

    pub fn local(&self) -> SocketAddr {
        self.local
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

    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
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

    /// Set, it makes the end of the connection a reset: the only way to tell a client whose response ends with
    /// the connection that it did not end well.
    pub fn reset(&self) -> &Arc<AtomicBool> {
        &self.reset
    }

    /// Whether files can be sent without being read.
    pub fn sends_files(&self) -> bool {
        matches!(self.transport, Transport::Plain(_))
    }

    /// Waits until the client takes more.
    pub async fn writable(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            let ready = self.socket().poll_write_ready(cx);
            self.watch(cx, ready, |()| 0)
        })
        .await
    }

    /// Has the kernel send some of a part of a file; says how much. It may be nothing, if the client takes no more.
    pub fn try_send_file(&mut self, part: &FilePart) -> io::Result<u64> {
        let Transport::Plain(stream) = &self.transport else { return Err(io::ErrorKind::Unsupported.into()) };
        let (mut at, most) = (part.at, usize::try_from(part.length).unwrap_or(usize::MAX));
        let send = || Ok(rustix::fs::sendfile(stream, &part.file, Some(&mut at), most)?);
        match stream.try_io(Interest::WRITABLE, send) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()), // the file was cut off under our hands
            Ok(sent) if !self.taking.take(sent as u64, self.pace, Instant::now) => Err(timed_out(TOO_SLOW)),
            Ok(sent) => Ok(sent as u64),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn socket(&self) -> &TcpStream {
        self.transport.socket()
    }

    /// Gives up on a client that has taken nothing for too long, or too little. `length`: bytes that were taken.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        length: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Ok(done)) => {
                let written = length(&done) as u64;
                // What the client took meanwhile may be far more than what could be written at once now.
                let taken = self.stalled.take().map_or(written, |stall| {
                    (stall.queued + written).saturating_sub(queued(self.transport.socket())).max(written)
                });
                let is_quick = self.taking.take(taken, self.pace, Instant::now);
                Poll::Ready(if is_quick { Ok(done) } else { Err(timed_out(TOO_SLOW)) })
            }
            Poll::Ready(failed) => Poll::Ready(failed),
            Poll::Pending => {
                self.taking.wait(Instant::now);
                self.poll_stalled(cx).map(Err)
            }
        }
    }

    /// The kernel takes more only when much of what it has is gone. So a client that takes some of that is waited for again.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Pace { patience, least } = self.pace;
        loop {
            let stall = match &mut self.stalled {
                Some(stall) => stall,
                None => self.stalled.insert(Stall {
                    over: Box::pin(tokio::time::sleep(patience)),
                    queued: queued(self.transport.socket()),
                }),
            };
            ready!(stall.over.as_mut().poll(cx));
            let before = stall.queued;
            self.stalled = None;
            let taken = before.saturating_sub(queued(self.transport.socket()));
            if taken == 0 {
                return Poll::Ready(timed_out("the client takes nothing"));
            }
            if taken < least.saturating_mul(patience.as_millis() as u64) / 1000 {
                return Poll::Ready(timed_out(TOO_SLOW));
            }
            self.taking.credit(taken);
        }
    }

    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    /// Behind a shut gate: collects what comes, so that a reset is noticed. The end is no leaving: a client may say that it
    /// sends no more, and wait for its answer (RFC 9112 section 9.6 has servers do so). Who has left resets what comes.
    fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.held.len() >= MAX_HELD {
                return Poll::Pending; // not read on: the client has to wait for the running request
            }
            let mut space = [0; 4096];
            let mut buf = ReadBuf::new(&mut space);
            match self.poll_transport(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Pending,
                Poll::Ready(Ok(())) => self.held.extend_from_slice(buf.filled()),
                other => return other,
            }
        }
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, MALFORMED)
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.gate {
            Gate::Malformed => Poll::Ready(Err(malformed())),
            Gate::Open if this.held.is_empty() => this.poll_transport(cx, buf),
            Gate::Open => {
                let n = this.held.len().min(buf.remaining());
                buf.put_slice(&this.held[..n]);
                this.held.advance(n);
                Poll::Ready(Ok(()))
            }
            Gate::Bytes(0) => this.poll_shut(cx),
            Gate::Chunks(mut chunks) => {
                let before = buf.filled().len();
                let result = this.poll_transport(cx, buf);
                let read = &buf.filled()[before..];
                match chunks.advance(read) {
                    Ok(used) => {
                        this.held.extend_from_slice(&read[used..]);
                        buf.set_filled(before + used);
                        this.gate = if chunks.is_done() { Gate::Bytes(0) } else { Gate::Chunks(chunks) };
                    }
                    Err(Malformed) => {
                        this.gate = Gate::Malformed;
                        buf.set_filled(before);
                        return Poll::Ready(Err(malformed()));
                    }
                }
                result
            }
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
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        };
        self.watch(cx, written, |written| *written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        };
        self.watch(cx, written, |written| *written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.watch(cx, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        self.watch(cx, shut, |()| 0)
    }
}

const TOO_SLOW: &str = "the client takes too little of what waits for it; see min_rate in [limits]";

/// Bytes that the kernel has and the client has not: tcp(7), `SIOCOUTQ`. Of no use if that fails: 0.
fn queued(socket: &TcpStream) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `socket` is there, and the call writes one int.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            let _ = socket2::SockRef::from(self.socket()).set_linger(Some(Duration::ZERO)); // it may be gone already
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
        self.socket().as_raw_fd()
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
        let pace = Pace { patience: Duration::from_secs(5), least: 100 };
        (ClientStream::plain(server, peer, address, pace), client)
    }

    /// Whether nothing is there to be read.
    async fn waits(server: &mut ClientStream) -> bool {
        let mut space = [0; 16];
        let mut buf = ReadBuf::new(&mut space);
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *server).poll_read(cx, &mut buf).is_pending())).await
    }

    #[tokio::test]
    async fn behind_the_gate_later_bytes_wait_and_an_end_is_no_leaving() {
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
        assert!(waits(&mut server).await);
        assert_eq!(server.take_held(), "next request");
    }

    #[tokio::test]
    async fn a_chunked_body_ends_where_it_says() {
        let (mut server, mut client) = pair().await;
        client.write_all(b"3\r\nabc\r\n0\r\n\r\nnext request").await.unwrap();
        client.shutdown().await.unwrap();
        server.set_gate(Gate::Chunks(Chunks::new()));
        let mut body = [0; 13];
        server.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"3\r\nabc\r\n0\r\n\r\n");
        assert!(waits(&mut server).await);
        assert_eq!((server.gate(), server.take_held()), (Gate::Bytes(0), BytesMut::from("next request")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (mut server, _client) = pair().await;
        let error = loop {
            if let Err(error) = server.write_all(&[0; 1 << 16]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
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
