//! Accepting from one listener: the cap on connections, TLS, and the way to the right front.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::address::IpRange;
use crate::clock::Rarely;
use crate::config::model::{Listener, Protocol};
use crate::drain::Stage;
use crate::pace::Pace;
use crate::request::{ListenerId, Scheme};

use super::bind::Listening;
use super::open::{Open, OpenGuard, Place};
use super::proxy_protocol::{self, Named};
use super::serve::Shared;
use super::socket::Socket;
use super::stream::{ClientStream, timed_out};
use super::tls;
use super::{h1, h2};

/// What a connection's TLS keeps of what is written and does not go out: two records.
const TLS_BUFFER: usize = 32 << 10;
/// After accept has failed for want of something (file descriptors above all), so that it doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What becomes of a listener's connections. A reload may change it, for those that come then.
pub(super) struct Way {
    listener: ListenerId,
    /// The address that clients connect to, as requests know it.
    local: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    offers: Offers,
    /// Whose connections begin with a PROXY header.
    proxy_from: Box<[IpRange]>,
}

/// What may be spoken where nothing is agreed on by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offers {
    H1,
    /// By prior knowledge (RFC 9113 section 3.3).
    H2,
    Both,
}

impl Way {
    pub(super) fn of(id: ListenerId, listener: &Listener, socket: &Listening, shared: &Shared) -> io::Result<Self> {
        let local = socket.local(if listener.tls { Scheme::Https } else { Scheme::Http })?;
        let acceptor = match listener.tls {
            true => Some(tls::acceptor(shared.snapshot.clone(), listener).map_err(io::Error::other)?),
            false => None,
        };
        let has = |protocol| !listener.tls && listener.protocols.contains(&protocol);
        let offers = match (has(Protocol::H1), has(Protocol::H2)) {
            (_, false) => Offers::H1,
            (false, true) => Offers::H2,
            (true, true) => Offers::Both,
        };
        Ok(Way { listener: id, local, acceptor, offers, proxy_from: listener.proxy_from.clone().into() })
    }
}

/// What an accept loop has of the node.
#[derive(Clone)]
pub(super) struct Loop {
    pub shared: Arc<Shared>,
    pub open: Open,
    pub stage: watch::Receiver<Stage>,
}

/// Accepts connections until the node drains, or `end` is dropped.
pub(super) async fn serve(socket: Arc<Listening>, way: Arc<ArcSwap<Way>>, node: Loop, mut end: oneshot::Receiver<()>) {
    let Loop { shared, open, mut stage } = node;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stage.wait_for(|stage| *stage >= Stage::Draining) => return,
            _ = &mut end => return,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let address = socket.address().ok().map(|address| address.to_string());
                tracing::warn!(address, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.let_some_go(&shared).await;
        // Where there is no room a connection is closed at once: its client can go elsewhere.
        let way = way.load_full();
        let is_proxied = way.proxy_from.iter().any(|range| range.contains(client.ip()));
        let is_crowd = !is_proxied && matches!(stream, Socket::Tcp(_));
        let Some(guard) = open.enter(&shared, is_crowd.then_some(client.ip())) else { continue };
        let (shared, stage) = (shared.clone(), stage.clone());
        let between = Named { client, local: way.local, tls: None };
        if !is_proxied {
            tokio::spawn(serve_connection(stream, between, way, shared, stage, guard));
            continue;
        }
        let open = open.clone();
        tokio::spawn(async move {
            if let Some((stream, named)) = name(stream, &shared, &guard.place, way.acceptor.is_some()).await {
                // Whose it is, it counts for from now on.
                let entered = named.map_or(Some(guard), |named| open.enter(&shared, Some(named.client.ip())));
                let Some(guard) = entered else { return };
                serve_connection(stream, named.unwrap_or(between), way, shared, stage, guard).await;
            }
        });
    }
}

/// Reads whose a connection is that a proxy carries; `None`: it says nothing that is understood, or nothing at all.
async fn name(mut stream: Socket, shared: &Shared, place: &Place, tls: bool) -> Option<(Socket, Option<Named>)> {
    let patience = {
        let limits = &shared.snapshot.load().config.limits;
        if tls { limits.tls_timeout } else { limits.header_timeout }
    };
    let read = tokio::select! {
        biased;
        read = timeout(patience, proxy_protocol::read(&mut stream)) => read,
        () = place.told() => return None,
    };
    match read.unwrap_or_else(|_| Err(timed_out("no PROXY header came in time"))) {
        Ok(named) => Some((stream, named)),
        Err(error) => {
            shared.observer.metrics.proxy_header_failures.inc();
            static TOLD: Rarely = Rarely::new();
            let (peer, failed) = (stream.peer(), shared.observer.metrics.proxy_header_failures.get());
            match TOLD.is_time() {
                true => {
                    tracing::warn!(peer, failed, %error, "a connection from proxy_from is closed: it has no PROXY header")
                }
                false => {
                    tracing::debug!(peer, %error, "a connection from proxy_from is closed: it has no PROXY header")
                }
            }
            None
        }
    }
}

async fn serve_connection(
    stream: Socket,
    between: Named,
    way: Arc<Way>,
    shared: Arc<Shared>,
    stage: watch::Receiver<Stage>,
    guard: OpenGuard,
) {
    let place = guard.place.clone();
    if stream.set_nodelay().is_err() {
        return; // gone already
    }
    let (tls_timeout, pace) = {
        let limits = &shared.snapshot.load().config.limits;
        (limits.tls_timeout, Pace::of(limits))
    };
    let (listener, offers, acceptor) = (way.listener, way.offers, way.acceptor.clone());
    drop(way); // the connection may outlive it by far
    let stream = match acceptor {
        None => ClientStream::plain(stream, between, listener, pace),
        Some(acceptor) => match Box::pin(shake_hands(acceptor, stream, tls_timeout, &place)).await {
            Ok(mut stream) => {
                stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
                ClientStream::tls(stream, between, listener, pace)
            }
            Err(error) => {
                shared.observer.metrics.tls_failures.inc();
                tracing::debug!(client = %between.client, %error, "TLS handshake failed");
                return;
            }
        },
    };
    let begun = match stream.is_h2() || offers == Offers::H2 {
        true => Some((stream, BytesMut::new())),
        false => {
            let takes_h2 = offers == Offers::Both;
            h1::Connection::new(shared.clone(), stage.clone(), stream, place.clone()).serve(takes_h2).await
        }
    };
    if let Some((stream, read)) = begun {
        Box::pin(h2::Connection::new(shared, stage, stream, place).serve(read)).await; // large, and not for all
    }
}

/// Until it has ended the connection has nothing to do, and may have to make room for another.
async fn shake_hands(
    acceptor: TlsAcceptor,
    stream: Socket,
    patience: Duration,
    place: &Place,
) -> io::Result<TlsStream<Socket>> {
    let done = tokio::select! {
        biased;
        done = timeout(patience, acceptor.accept(stream)) => done,
        () = place.told() => return Err(io::Error::other("another connection needed the room")),
    };
    done.unwrap_or_else(|_| Err(timed_out("it took longer than tls_timeout")))
}
