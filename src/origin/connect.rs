//! Connections to origins: one that was kept, or a new one, by whichever protocol.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::v2;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{BError, ErrorType};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::boxed::boxed;
use crate::config::model::OriginProtocol;

use super::error::{Failure, FailureKind, OriginError};
use super::files;
use super::h1::{self, OriginStream, Plain, Tls};
use super::h2;
use super::lease::Lease;
use super::link::Link;
use super::pick::Picked;
use super::pool::PoolRuntime;
use super::request::OriginRequest;
use super::upload::Upload;

/// A connection, or a stream of one. Boxed for as long as it lives: it goes from hand to hand.
pub(super) enum Connection {
    H1(Box<h1::Connection>),
    H2(Box<h2::Stream>),
    /// To a directory of this machine: none.
    Files(Box<files::Stream>),
}

impl Connection {
    fn h1(stream: OriginStream) -> Self {
        Connection::H1(Box::new(h1::Connection::new(stream)))
    }

    pub(crate) fn link(&mut self) -> &mut dyn Link {
        match self {
            Connection::H1(h1) => &mut **h1,
            Connection::H2(stream) => &mut **stream,
            Connection::Files(stream) => &mut **stream,
        }
    }
}

/// How an attempt is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// Of all attempts together.
    pub deadline: Instant,
    /// By a connection that was kept, if there is one.
    pub may_be_kept: bool,
    /// The origin has asked for that.
    pub by_http11: bool,
}

/// Makes connections to origins.
pub struct Connector {
    /// Keeps connections of HTTP/2, and makes those of which ALPN or nobody says yet what they speak.
    h2: Arc<v2::Connector>,
}

impl Connector {
    pub fn new() -> Self {
        Connector { h2: Arc::new(v2::Connector::new(None)) }
    }

    fn transport(&self) -> &TransportConnector {
        self.h2.transport()
    }

    /// A connection to send a request by, and whether it was kept from another. What an origin speaks is known by the pool,
    /// or agreed on by ALPN.
    pub(super) async fn open(
        &self,
        request: &OriginRequest,
        upload: Option<&Upload>,
        picked: &Picked,
        Attempt { deadline, may_be_kept, by_http11 }: Attempt,
    ) -> Result<(Connection, bool), Failure> {
        let pool = &picked.pool;
        if let Some(files) = &pool.config.files {
            return Ok((Connection::Files(Box::new(files::Stream::begin(files, request))), false));
        }
        if may_be_kept
            && pool.config.protocol != OriginProtocol::H2
            && let Some(connection) = pool.kept.take(picked.index, picked.at.socket, pool.config.timeouts.idle)
        {
            return Ok((Connection::H1(connection), true));
        }
        // HTTP/2 has no Upgrade.
        let is_h1 = pool.config.protocol == OriginProtocol::H1
            || by_http11
            || request.upgrade.is_some()
            || picked.origin.wants_http11();
        let connecting = async {
            match is_h1 {
                true => self.connect(picked).await.map(|stream| (Connection::h1(stream), false)),
                false => self.open_by_pingora(request, upload, picked).await,
            }
        };
        within(picked, deadline, connecting).await
    }

    /// A new connection for HTTP/1.1.
    async fn connect(&self, picked: &Picked) -> Result<OriginStream, Failure> {
        let origin = &picked.origin.address;
        if picked.pool.config.tls.is_some() {
            let mut peer = picked.peer();
            peer.options.set_http_version(1, 1);
            let stream = boxed(|| self.stream(&picked.pool, picked.at.socket, peer)).await;
            return stream.map(Tls).map_err(|error| Failure::of_connecting(&error, origin));
        }
        let fail = |error: std::io::Error| Failure::of_socket(&error, origin);
        let stream = TcpStream::connect(picked.at.socket).await.map_err(fail)?;
        stream.set_nodelay(true).map_err(fail)?;
        Ok(Plain(stream))
    }

    /// A new connection for what is no HTTP yet, by TLS or without.
    pub(super) async fn stream(
        &self,
        pool: &PoolRuntime,
        address: SocketAddr,
        peer: HttpPeer,
    ) -> Result<Stream, BError> {
        let connect = |peer: HttpPeer| async move { self.transport().new_stream(&peer).await };
        pool.pins.connect(address, peer, connect, |stream| stream.get_ssl_digest(), drop).await
    }

    /// A new connection for HTTP.
    pub(super) async fn session(
        &self,
        pool: &PoolRuntime,
        address: SocketAddr,
        peer: HttpPeer,
    ) -> Result<Lease<HttpSession>, BError> {
        let connect = |peer: HttpPeer| async move {
            let session = self.h2.new_http_session(&peer).await?;
            Ok(Lease::new(session, peer, self.h2.clone(), pool.config.timeouts.idle))
        };
        let certificate = |lease: &Lease<HttpSession>| lease.get()?.digest()?.ssl_digest.clone();
        pool.pins.connect(address, peer, connect, certificate, |lease| drop(lease.closing())).await
    }

    /// A stream of a connection that was kept.
    async fn kept_session(&self, picked: &Picked) -> Result<Option<Lease<Http2Session>>, BError> {
        let kept = |peer: HttpPeer| async move {
            let session = self.h2.reused_http_session(&peer).await?;
            let idle = picked.pool.config.timeouts.idle;
            Ok(session.map(|session| Lease::new(session, peer, self.h2.clone(), idle)))
        };
        let certificate = |lease: &Lease<Http2Session>| lease.get()?.digest()?.ssl_digest.clone();
        picked.pool.pins.reuse(picked.at.socket, picked.peer(), kept, certificate, |lease| drop(lease.closing())).await
    }

    async fn open_by_pingora(
        &self,
        request: &OriginRequest,
        upload: Option<&Upload>,
        picked: &Picked,
    ) -> Result<(Connection, bool), Failure> {
        let origin = &picked.origin.address;
        let fail = |error: Box<pingora_core::Error>| Failure::of_connecting(&error, origin);
        let kept = self.kept_session(picked).await.map_err(fail)?;
        let reused = kept.is_some();
        let lease = match kept {
            Some(lease) => Ok(lease),
            // Large, and most find one that was kept.
            None => {
                boxed(|| self.session(&picked.pool, picked.at.socket, picked.peer())).await.map_err(fail)?.into_h2()
            }
        };
        match lease {
            Ok(lease) => {
                let stream = h2::Stream::send(lease, request, &picked.pool.config, upload).map_err(|error| {
                    // It is no fault of the origin's, but for a connection that has just ended.
                    let kind = match error.etype() {
                        ErrorType::H2Error => FailureKind::Unprocessed,
                        _ => FailureKind::Broken,
                    };
                    Failure { error: OriginError::from_pingora(&error, origin, false), kind }
                })?;
                Ok((Connection::H2(Box::new(stream)), reused))
            }
            Err(session) => match session.map(|session| *session) {
                Some(HttpSession::H1(session)) => Ok((Connection::h1(Tls(session.into_inner())), false)),
                _ => {
                    let cause = "a protocol that was not asked for".to_owned();
                    let error = OriginError::Invalid { origin: origin.clone(), cause };
                    Err(Failure { error, kind: FailureKind::Broken })
                }
            },
        }
    }
}

/// Connects within the time that there is for it.
async fn within<T>(
    picked: &Picked,
    deadline: Instant,
    connecting: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let (origin, patience) = (&picked.origin.address, picked.pool.config.timeouts.connect);
    let by = deadline.min(Instant::now() + patience);
    let fail = |cause, kind| Failure { error: OriginError::Timeout { origin: origin.clone(), cause }, kind };
    match timeout_at(by, connecting).await {
        Ok(done) => done,
        Err(_) if by == deadline => Err(fail("total_timeout is over".to_owned(), FailureKind::TimedOut)),
        Err(_) => Err(fail(format!("no connection within {patience:?}"), FailureKind::Connecting)),
    }
}
