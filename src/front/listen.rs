//! Listening sockets: accepting, the cap on connections, TLS, and the way to the right front.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::model::{Listener, Protocol};

use super::open::{Open, Place};
use super::serve::Shared;
use super::stream::{ClientStream, timed_out};
use super::tls;
use super::{h1, h2};
use crate::pace::Pace;

const BACKLOG: u32 = 4096;
/// What a connection's TLS keeps of what is written and does not go out: two records.
const TLS_BUFFER: usize = 32 << 10;
/// After accept has failed for want of something (file descriptors above all), so that it doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that listens but is not yet served.
pub(crate) struct Bound {
    pub address: SocketAddr,
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    offers: Offers,
}

/// What may be spoken where nothing is agreed on by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offers {
    H1,
    /// By prior knowledge (RFC 9113 section 3.3).
    H2,
    Both,
}

/// Opens one listener.
pub(crate) fn bind(listener: &Listener, shared: &Shared) -> io::Result<Bound> {
    let socket = open_socket(listener.address)?;
    let address = socket.local_addr()?;
    let acceptor = match listener.tls {
        true => Some(tls::acceptor(shared.snapshot.clone(), &listener.protocols).map_err(io::Error::other)?),
        false => None,
    };
    let has = |protocol| !listener.tls && listener.protocols.contains(&protocol);
    let offers = match (has(Protocol::H1), has(Protocol::H2)) {
        (_, false) => Offers::H1,
        (false, true) => Offers::H2,
        (true, true) => Offers::Both,
    };
    Ok(Bound { address, listener: socket, acceptor, offers })
}

fn open_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    if address.is_ipv6() {
        // So that 0.0.0.0:80 and [::]:80 can stand side by side, whatever the system's default.
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.set_reuseaddr(true)?;
    keep_alive(&socket)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Has the kernel ask whether clients are still there of which nothing is heard, such as who takes a stream that is silent: 60 s
/// from then on, every 15 s, and four times. Accepted sockets have it from their listener.
fn keep_alive(socket: &tokio::net::TcpSocket) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15))?;
    Ok(sockopt::set_tcp_keepcnt(socket, 4)?)
}

/// Accepts connections until the node shuts down.
pub(crate) async fn serve(bound: Bound, shared: Arc<Shared>, open: Open, mut shutdown: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = bound.listener.accept() => accepted,
            _ = shutdown.wait_for(|down| *down) => return,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(address = %bound.address, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.let_some_go(&shared).await;
        // Where there is no room a connection is closed at once: its client can go elsewhere.
        let Some(guard) = open.enter(&shared, client.ip()) else { continue };
        let (shared, shutdown) = (shared.clone(), shutdown.clone());
        let (acceptor, local, offers) = (bound.acceptor.clone(), bound.address, bound.offers);
        tokio::spawn(async move {
            let place = guard.place.clone();
            serve_connection(stream, (client, local), acceptor, offers, shared, shutdown, place).await;
            drop(guard);
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    (client, local): (SocketAddr, SocketAddr),
    acceptor: Option<TlsAcceptor>,
    offers: Offers,
    shared: Arc<Shared>,
    shutdown: watch::Receiver<bool>,
    place: Arc<Place>,
) {
    if stream.set_nodelay(true).is_err() {
        return; // gone already
    }
    let (tls_timeout, pace) = {
        let limits = &shared.snapshot.load().config.limits;
        (limits.tls_timeout, Pace::of(limits))
    };
    let stream = match acceptor {
        None => ClientStream::plain(stream, client, local, pace),
        Some(acceptor) => match Box::pin(shake_hands(acceptor, stream, tls_timeout, &place)).await {
            Ok(mut stream) => {
                stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
                ClientStream::tls(stream, client, local, pace)
            }
            Err(error) => {
                shared.observer.metrics.tls_failures.inc();
                tracing::debug!(%client, %error, "TLS handshake failed");
                return;
            }
        },
    };
    let begun = match stream.is_h2() || offers == Offers::H2 {
        true => Some((stream, BytesMut::new())),
        false => {
            let takes_h2 = offers == Offers::Both;
            h1::Connection::new(shared.clone(), shutdown.clone(), stream, place.clone()).serve(takes_h2).await
        }
    };
    if let Some((stream, read)) = begun {
        Box::pin(h2::Connection::new(shared, shutdown, stream, place).serve(read)).await; // large, and not for all
    }
}

/// Until it has ended the connection has nothing to do, and may have to make room for another.
async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    patience: Duration,
    place: &Place,
) -> io::Result<TlsStream<TcpStream>> {
    let done = tokio::select! {
        biased;
        done = timeout(patience, acceptor.accept(stream)) => done,
        () = place.told() => return Err(io::Error::other("another connection needed the room")),
    };
    done.unwrap_or_else(|_| Err(timed_out("it took longer than tls_timeout")))
}
