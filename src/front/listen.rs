//! Listening sockets: accepting, the cap on connections, TLS, and the way to the right front.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::config::model::Listener;

use super::serve::Shared;
use super::stream::ClientStream;
use super::tls;
use super::{h1, h2};

const BACKLOG: u32 = 4096;
/// After accept has failed for want of something (file descriptors above all), so that it doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that listens but is not yet served.
pub struct Bound {
    pub address: SocketAddr,
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
}

/// Opens one listener. The error says which.
pub fn bind(listener: &Listener, shared: &Shared) -> Result<Bound, String> {
    let fail = |error: &dyn std::fmt::Display| format!("cannot listen on {}: {error}", listener.address);
    let socket = open_socket(listener.address).map_err(|error| fail(&error))?;
    let address = socket.local_addr().map_err(|error| fail(&error))?;
    let acceptor = match listener.tls {
        true => Some(tls::acceptor(shared.snapshot.clone(), &listener.protocols).map_err(|error| fail(&error))?),
        false => None,
    };
    Ok(Bound { address, listener: socket, acceptor })
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
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Counts the open connections of all listeners; [`Open::closed`] waits until there are none.
#[derive(Clone)]
pub struct Open {
    count: Arc<AtomicU32>,
    changed: Arc<watch::Sender<()>>,
}

/// One open connection.
struct OpenGuard(Open, Arc<Shared>);

impl Open {
    pub fn new() -> Self {
        Open { count: Arc::default(), changed: Arc::new(watch::Sender::new(())) }
    }

    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Resolves when no connection is open.
    pub async fn closed(&self) {
        let mut changed = self.changed.subscribe();
        while self.count() > 0 {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn enter(&self, shared: &Arc<Shared>, most: u32) -> Option<OpenGuard> {
        let metrics = &shared.observer.metrics;
        if self.count.fetch_add(1, Ordering::AcqRel) >= most {
            self.count.fetch_sub(1, Ordering::AcqRel);
            metrics.connections_refused.inc();
            return None;
        }
        metrics.connections.inc();
        metrics.connections_total.inc();
        Some(OpenGuard(self.clone(), shared.clone()))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.1.observer.metrics.connections.dec();
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.send_replace(());
    }
}

/// Accepts connections until the node shuts down.
pub async fn serve(bound: Bound, shared: Arc<Shared>, open: Open, mut shutdown: watch::Receiver<bool>) {
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
        let most = shared.snapshot.load().config.limits.max_connections;
        // Above the cap a connection is closed at once: its client can go elsewhere.
        let Some(guard) = open.enter(&shared, most) else { continue };
        let (shared, shutdown) = (shared.clone(), shutdown.clone());
        let (acceptor, local) = (bound.acceptor.clone(), bound.address);
        tokio::spawn(async move {
            let _guard = guard;
            serve_connection(stream, client, local, acceptor, shared, shutdown).await;
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    client: SocketAddr,
    local: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    shutdown: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return; // gone already
    }
    let (tls_timeout, write_timeout) = {
        let limits = &shared.snapshot.load().config.limits;
        (limits.tls_timeout, limits.write_timeout)
    };
    let stream = match acceptor {
        None => ClientStream::plain(stream, client, local, write_timeout),
        Some(acceptor) => match Box::pin(timeout(tls_timeout, acceptor.accept(stream))).await {
            Ok(Ok(stream)) => ClientStream::tls(stream, client, local, write_timeout),
            failed => {
                shared.observer.metrics.tls_failures.inc();
                if let Ok(Err(error)) = failed {
                    tracing::debug!(%client, %error, "TLS handshake failed");
                }
                return;
            }
        },
    };
    if stream.is_h2() {
        Box::pin(h2::Connection::new(shared, shutdown, stream).serve()).await; // large, and not for all
    } else {
        h1::Connection::new(shared, shutdown, stream).serve().await;
    }
}
