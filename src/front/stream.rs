//! A client's connection, plain or TLS, and what comes on it of a request's body.
//!
//! A body is read while its response is written: both sides of the connection are used at once, by one task. So the
//! connection is shared, behind a lock that nobody ever waits for.
//!
//! Writing has a deadline here, where all writers meet.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either::{self, Left as Plain, Right as Tls};

use crate::cache::object::FilePart;
use crate::chunked::Chunks;
use crate::origin::h1::body::Body;
use crate::origin::upload::{BodyError, Frame, RequestBody};
use crate::pace::{Pace, Taking};
use crate::request::{ListenerId, Scheme};

use super::alarm::Alarm;
use super::head::{BodyFraming, Endpoints};
use super::proxy_protocol::Named;
use super::socket::{Peer, Socket};

/// Bytes of a body that are read at once, and the least that there is room for.
const PIECE: usize = 64 << 10;
const FIRST_READ: usize = 4 << 10;

/// A connection that has been idle for so long gives its buffers back.
pub(crate) const TRIM_AFTER: Duration = Duration::from_secs(1);
/// How often a client is looked at while nothing comes for it.
const LOOK_AT_CLIENT: Duration = Duration::from_secs(5);
/// How long a client to which everything was written may say nothing before it is taken to have read it.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ClientStream {
    shared: Arc<Mutex<Shared>>,
    endpoints: Endpoints,
}

#[derive(Debug)]
struct Shared {
    transport: Transport,
    /// How quickly the client has to take what is written, and how it does.
    pace: Pace,
    taking: Taking,
    /// Runs while nothing more can be written.
    stalled: Option<Stall>,
    /// Whether the connection is to end with a reset.
    reset: bool,
    /// The body of the request that is answered, and what was read behind it.
    left: Body,
    read: BytesMut,
}

/// A wait for the client.
#[derive(Debug)]
struct Stall {
    over: Pin<Box<Sleep>>,
    /// Bytes that the kernel had for the client when it began.
    queued: u64,
}

type Transport = Either<Socket, Box<TlsStream<Socket>>>;

/// What a client is told whose body is no chunked one.
pub(crate) const MALFORMED: &str = "the body is not chunked as RFC 9112 section 7.1 says";

fn socket(transport: &Transport) -> &Socket {
    match transport {
        Plain(stream) => stream,
        Tls(stream) => stream.get_ref().0,
    }
}

impl ClientStream {
    pub(crate) fn plain(stream: Socket, between: Named, listener: ListenerId, pace: Pace) -> Self {
        let Named { client, local, tls } = between;
        let (scheme, tls) = tls.map_or((Scheme::Http, None), |tls| (Scheme::Https, tls.version));
        Self::new(Plain(stream), Endpoints { listener: Some(listener), client, local, scheme, tls }, pace)
    }

    pub(crate) fn tls(
        stream: TlsStream<Socket>,
        Named { client, local, .. }: Named,
        listener: ListenerId,
        pace: Pace,
    ) -> Self {
        let tls = stream.get_ref().1.protocol_version().map(|version| match version {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLSv1.3", // listeners speak no other
        });
        let endpoints = Endpoints { listener: Some(listener), client, local, scheme: Scheme::Https, tls };
        Self::new(Tls(Box::new(stream)), endpoints, pace)
    }

    fn new(transport: Transport, endpoints: Endpoints, pace: Pace) -> Self {
        let shared = Shared {
            transport,
            pace,
            taking: Taking::default(),
            stalled: None,
            reset: false,
            left: Body::Length(0),
            read: BytesMut::new(),
        };
        ClientStream { shared: Arc::new(Mutex::new(shared)), endpoints }
    }

    pub(crate) fn endpoints(&self) -> Endpoints {
        self.endpoints
    }

    /// Whether the client chose HTTP/2 by ALPN.
    pub(crate) fn is_h2(&self) -> bool {
        match &self.shared.lock().transport {
            Plain(_) => false,
            Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    pub(crate) fn set_pace(&mut self, pace: Pace) {
        self.shared.lock().pace = pace;
    }

    /// The body of the request whose head was read; `read`: what was read behind that.
    pub(crate) fn receive(&mut self, framing: BodyFraming, read: BytesMut) -> Box<dyn RequestBody> {
        let mut shared = self.shared.lock();
        shared.read = read;
        shared.left = match framing {
            BodyFraming::None => Body::Length(0),
            BodyFraming::Length(length) => Body::Length(length),
            BodyFraming::Chunked => Body::Chunked(Chunks::OF_REQUEST),
        };
        Box::new(self.shared.clone())
    }

    /// What is still to come of the body.
    pub(crate) fn left(&self) -> Body {
        self.shared.lock().left
    }

    /// The request is answered: takes back what was read of its body or behind that, and says what has not been.
    pub(crate) fn end_body(&mut self) -> (BytesMut, Body) {
        let mut shared = self.shared.lock();
        (std::mem::take(&mut shared.read), std::mem::replace(&mut shared.left, Body::Length(0)))
    }

    /// Makes the end of the connection a reset: the only way to tell a client whose response ends with the connection that it
    /// did not end well.
    pub(crate) fn end_by_reset(&mut self) {
        self.shared.lock().reset = true;
    }

    /// Closes the sending side and reads on, as long as the client says something, so many bytes at most: a reset that
    /// overtakes what was sent last would hide it.
    pub(crate) async fn linger(&mut self, most: u64) -> io::Result<()> {
        self.shutdown().await?;
        let mut left = most as usize;
        let mut space = vec![0; 4096]; // not a part of the futures of all who might need it
        while left > 0 {
            match timeout(LINGER, self.read(&mut space)).await?? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    }

    /// Whether files can be sent without being read.
    pub(crate) fn sends_files(&self) -> bool {
        matches!(self.shared.lock().transport, Plain(_))
    }

    /// Bytes that the kernel has and the client has not.
    pub(crate) fn queued(&self) -> u64 {
        socket(&self.shared.lock().transport).queued()
    }

    /// Ends when the client is known to have left, while somebody else is waited for. One that has ended its side is taken to
    /// have left when it has got nothing for so long.
    pub(crate) async fn until_gone(&self, alarm: &mut Alarm, patience: Duration) {
        let since = Instant::now();
        let mut next = since + LOOK_AT_CLIENT;
        loop {
            alarm.at(next).await;
            next = Instant::now() + LOOK_AT_CLIENT;
            match socket(&self.shared.lock().transport).state() {
                Peer::There => {}
                Peer::Ended if since.elapsed() < patience => {}
                Peer::Ended | Peer::Gone => return,
            }
        }
    }

    /// Waits until the client takes more.
    pub(crate) async fn writable(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut shared = self.shared.lock();
            let ready = socket(&shared.transport).poll_write_ready(cx);
            shared.watch(cx, ready, |()| 0)
        })
        .await
    }

    /// Has the kernel send some of a part of a file; says how much. It may be nothing, if the client takes no more.
    pub(crate) fn try_send_file(&mut self, part: &FilePart) -> io::Result<u64> {
        let shared = &mut *self.shared.lock();
        let Plain(stream) = &shared.transport else { return Err(io::ErrorKind::Unsupported.into()) };
        match stream.try_send_file(part) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()), // the file was cut off under our hands
            Ok(sent) if !shared.taking.take(sent, shared.pace, Instant::now) => Err(timed_out(TOO_SLOW)),
            Ok(sent) => Ok(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}

impl Shared {
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
                    (stall.queued + written).saturating_sub(socket(&self.transport).queued()).max(written)
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
                    queued: socket(&self.transport).queued(),
                }),
            };
            ready!(stall.over.as_mut().poll(cx));
            let before = stall.queued;
            self.stalled = None;
            let taken = before.saturating_sub(socket(&self.transport).queued());
            if taken == 0 {
                return Poll::Ready(timed_out("the client takes nothing"));
            }
            if taken < least.saturating_mul(patience.as_millis() as u64) / 1000 {
                return Poll::Ready(timed_out(TOO_SLOW));
            }
            self.taking.credit(taken);
        }
    }
}

/// A body as an exchange takes it from the connection: from what has been read or what comes.
impl RequestBody for Arc<Mutex<Shared>> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, BodyError>> {
        let shared = &mut *self.lock();
        loop {
            let mut trailers = None;
            match shared.left.take(&mut shared.read, &mut trailers) {
                Ok(Poll::Ready(Some(piece))) => {
                    return Poll::Ready(Ok(Some(Frame::Data { piece, last: shared.left.is_done() })));
                }
                Ok(Poll::Ready(None)) => return Poll::Ready(Ok(trailers.map(Frame::Trailers))),
                Ok(Poll::Pending) => {}
                Err(_) => return Poll::Ready(Err(BodyError::Malformed(MALFORMED))),
            }
            let expected = match shared.left {
                Body::Length(left) => usize::try_from(left).unwrap_or(PIECE),
                _ => PIECE,
            };
            shared.read.reserve(expected.clamp(FIRST_READ, PIECE));
            if !matches!(ready!(pin!(shared.transport.read_buf(&mut shared.read)).poll(cx)), Ok(1..)) {
                return Poll::Ready(Err(BodyError::Left));
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.shared.lock().transport).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.shared.lock();
        let written = Pin::new(&mut shared.transport).poll_write_vectored(cx, data);
        shared.watch(cx, written, |written| *written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        let flushed = Pin::new(&mut shared.transport).poll_flush(cx);
        shared.watch(cx, flushed, |()| 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        let shut = Pin::new(&mut shared.transport).poll_shutdown(cx);
        shared.watch(cx, shut, |()| 0)
    }
}

const TOO_SLOW: &str = "the client takes too little of what waits for it; see min_rate in [limits]";

pub(super) fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.reset {
            socket(&self.transport).end_by_reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (ClientStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (server, peer) = listener.accept().await.unwrap();
        let pace = Pace { patience: Duration::from_secs(5), least: 100 };
        let between = Named { client: peer, local: address, tls: None };
        (ClientStream::plain(Socket::Tcp(server), between, ListenerId(0), pace), client)
    }

    /// The body's bytes, and how it ended.
    async fn read(body: &mut Box<dyn RequestBody>) -> (Vec<u8>, Result<(), BodyError>) {
        let mut all = Vec::new();
        loop {
            match poll_fn(|cx| body.poll_frame(cx)).await {
                Ok(Some(Frame::Data { piece, .. })) => all.extend_from_slice(&piece),
                Ok(Some(Frame::Trailers(_))) => {}
                Ok(None) => return (all, Ok(())),
                Err(error) => return (all, Err(error)),
            }
        }
    }

    #[tokio::test]
    async fn a_body_ends_where_it_says_and_what_follows_is_kept() {
        for (framing, wire, expected, end, behind) in [
            (BodyFraming::Length(4), "bodynext", "body", Ok(()), "next"),
            (BodyFraming::Length(9), "body", "body", Err(BodyError::Left), ""),
            (BodyFraming::Chunked, "3\r\nabc\r\n0\r\n\r\nnext", "abc", Ok(()), "next"),
            (BodyFraming::Chunked, "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n", "abc", Ok(()), ""),
            (BodyFraming::Chunked, "3\r\nabc\r\n", "abc", Err(BodyError::Left), ""),
            (BodyFraming::Chunked, "3\nabc", "", Err(BodyError::Malformed(MALFORMED)), "abc"),
        ] {
            for before in [0, 1, 5, wire.len()] {
                let (mut server, mut client) = pair().await;
                let before = before.min(wire.len());
                client.write_all(&wire.as_bytes()[before..]).await.unwrap();
                client.shutdown().await.unwrap();
                let mut body = server.receive(framing, BytesMut::from(&wire.as_bytes()[..before]));
                assert_eq!(read(&mut body).await, (expected.as_bytes().to_vec(), end), "{wire:?} {before}");
                if end.is_ok() {
                    let (rest, left) = server.end_body();
                    let mut rest = rest.to_vec();
                    server.read_to_end(&mut rest).await.unwrap();
                    assert_eq!((rest.as_slice(), left.is_done()), (behind.as_bytes(), true), "{wire:?} {before}");
                }
            }
        }
    }
}
