//! Connections to origins: one that was kept, or a new one, by whichever protocol.

use std::sync::Arc;

use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::v2;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{BError, ErrorType};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use crate::boxed::boxed;
use crate::config::model::OriginProtocol;
use crate::request::Ends;

use super::address::{Address, Place};
use super::announce;
use super::error::{Failure, FailureKind, OriginError};
use super::families::{self, Raced};
use super::files;
use super::h1::{self, OriginStream};
use super::h2;
use super::lease::Lease;
use super::link::Link;
use super::pick::Picked;
use super::pool::PoolRuntime;
use super::record::Evidence;
use super::request::OriginRequest;
use super::target;
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

/// What a request can be sent by.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and a box would be one more for each request"
)]
enum Opened {
    H1(OriginStream),
    /// A stream, and whether its connection was kept.
    H2(Lease<Http2Session>, bool),
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
    /// or agreed on by ALPN. It may be to another address of the origin than was picked: then that is noted there.
    pub(super) async fn open(
        &self,
        request: &OriginRequest,
        upload: Option<&Upload>,
        picked: &mut Picked,
        Attempt { deadline, may_be_kept, by_http11 }: Attempt,
    ) -> Result<(Connection, bool), Failure> {
        let pool = &picked.pool;
        if let Some(files) = &pool.config.files {
            return Ok((Connection::Files(Box::new(files::Stream::begin(files, request))), false));
        }
        if may_be_kept
            && pool.config.send_proxy.is_none()
            && pool.config.protocol != OriginProtocol::H2
            && let Some(connection) = picked.member.kept.take(&picked.at.place, pool.config.timeouts.idle)
        {
            return Ok((Connection::H1(connection), true));
        }
        // HTTP/2 has no Upgrade.
        let is_h1 = pool.config.protocol == OriginProtocol::H1
            || by_http11
            || request.upgrade.is_some()
            || picked.member.origin.wants_http11();
        match within(picked, deadline, self.reach(picked, request.ends, is_h1)).await? {
            (Opened::H1(stream), at) => {
                picked.at = at;
                Ok((Connection::h1(stream), false))
            }
            (Opened::H2(lease, reused), at) => {
                picked.at = at;
                let stream = h2::Stream::send(lease, request, &picked.pool.config, upload).map_err(|error| {
                    // It is no fault of the origin's, but for a connection that has just ended.
                    let kind = match error.etype() {
                        ErrorType::H2Error => FailureKind::Unprocessed,
                        _ => FailureKind::Broken,
                    };
                    Failure { error: OriginError::from_pingora(&error, &picked.member.config.address, false), kind }
                })?;
                Ok((Connection::H2(Box::new(stream)), reused))
            }
        }
    }

    /// A connection to the address that was picked, or to one of the other family if that does not answer.
    async fn reach(&self, picked: &Picked, ends: Option<Ends>, is_h1: bool) -> Result<(Opened, Arc<Address>), Failure> {
        let to = |at: Arc<Address>| async move {
            let opened = match is_h1 {
                true => Opened::H1(self.connect(picked, &at, ends).await?),
                false => self.connect_by_pingora(picked, &at).await?,
            };
            Ok((opened, at))
        };
        let Some(other) = picked.member.origin.other_family(&picked.at) else { return to(picked.at.clone()).await };
        // Boxed: rare, and there are two of them.
        let race = families::race(to(picked.at.clone()), to(other.clone()), tokio::time::sleep(families::DELAY));
        let failed = |at: &Address, error: &str| {
            let evidence = Some(Evidence::Connection);
            picked.pool.unanswered(&picked.member.origin, at, FailureKind::Connecting, evidence, error);
        };
        match Box::pin(race).await {
            Raced::First(opened) => Ok(opened),
            Raced::Second(opened, error) => {
                let slow = || {
                    format!(
                        "no connection to {} within {:?}, and one to {}",
                        picked.at.place,
                        families::DELAY,
                        other.place
                    )
                };
                failed(&picked.at, &error.map_or_else(slow, |failure: Failure| failure.error.to_string()));
                Ok(opened)
            }
            Raced::Neither(first, second) => {
                failed(&other, &second.error.to_string());
                Err(first)
            }
        }
    }

    /// A new connection for HTTP/1.1; `ends`: the client's.
    async fn connect(&self, picked: &Picked, at: &Address, ends: Option<Ends>) -> Result<OriginStream, Failure> {
        let (origin, config) = (&picked.member.config.address, &picked.pool.config);
        let fail = |error: std::io::Error| Failure::of_socket(&error, origin);
        let header = config.send_proxy.map(|version| announce::header(version, ends)).transpose().map_err(fail)?;
        if config.tls.is_some() {
            let mut peer = picked.member.peer(&at.place);
            peer.options.set_http_version(1, 1);
            header.into_iter().for_each(|header| target::announce(&mut peer, header));
            let stream = boxed(|| self.stream(&picked.pool, &at.place, peer)).await;
            return stream.map(h1::tls).map_err(|error| Failure::of_connecting(&error, origin));
        }
        let mut stream = match &at.place {
            Place::Inet(address) => {
                let stream = TcpStream::connect(address).await.map_err(fail)?;
                stream.set_nodelay(true).map_err(fail)?;
                h1::tcp(stream)
            }
            Place::Unix(path) => UnixStream::connect(path).await.map(h1::unix).map_err(fail)?,
        };
        if let Some(header) = header {
            stream.write_all(&header).await.map_err(fail)?;
        }
        Ok(stream)
    }

    /// A new connection for what is no HTTP yet, by TLS or without.
    pub(super) async fn stream(&self, pool: &PoolRuntime, at: &Place, peer: HttpPeer) -> Result<Stream, BError> {
        let connect = |peer: HttpPeer| async move { self.transport().new_stream(&peer).await };
        pool.pins.connect(at, peer, connect, |stream| stream.get_ssl_digest(), drop).await
    }

    /// A new connection for HTTP.
    pub(super) async fn session(
        &self,
        pool: &PoolRuntime,
        at: &Place,
        peer: HttpPeer,
    ) -> Result<Lease<HttpSession>, BError> {
        let connect = |peer: HttpPeer| async move {
            let session = self.h2.new_http_session(&peer).await?;
            Ok(Lease::new(session, peer, self.h2.clone(), pool.config.timeouts.idle))
        };
        let certificate = |lease: &Lease<HttpSession>| lease.get()?.digest()?.ssl_digest.clone();
        pool.pins.connect(at, peer, connect, certificate, |lease| drop(lease.closing())).await
    }

    /// A stream of a connection that was kept.
    async fn kept_session(&self, picked: &Picked, at: &Address) -> Result<Option<Lease<Http2Session>>, BError> {
        let kept = |peer: HttpPeer| async move {
            let session = self.h2.reused_http_session(&peer).await?;
            let idle = picked.pool.config.timeouts.idle;
            Ok(session.map(|session| Lease::new(session, peer, self.h2.clone(), idle)))
        };
        let certificate = |lease: &Lease<Http2Session>| lease.get()?.digest()?.ssl_digest.clone();
        let peer = picked.member.peer(&at.place);
        picked.pool.pins.reuse(&at.place, peer, kept, certificate, |lease| drop(lease.closing())).await
    }

    /// One that pingora has or makes: of HTTP/2, or whatever is agreed on.
    async fn connect_by_pingora(&self, picked: &Picked, at: &Address) -> Result<Opened, Failure> {
        let origin = &picked.member.config.address;
        let fail = |error: Box<pingora_core::Error>| Failure::of_connecting(&error, origin);
        if let Some(lease) = self.kept_session(picked, at).await.map_err(fail)? {
            return Ok(Opened::H2(lease, true));
        }
        // Large, and most find one that was kept.
        let session = boxed(|| self.session(&picked.pool, &at.place, picked.member.peer(&at.place))).await;
        match session.map_err(fail)?.into_h2() {
            Ok(lease) => Ok(Opened::H2(lease, false)),
            Err(session) => match session.map(|session| *session) {
                Some(HttpSession::H1(session)) => Ok(Opened::H1(h1::tls(session.into_inner()))),
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
    let (origin, patience) = (&picked.member.config.address, picked.pool.config.timeouts.connect);
    let by = deadline.min(Instant::now() + patience);
    let fail = |cause, kind| Failure { error: OriginError::Timeout { origin: origin.clone(), cause }, kind };
    match timeout_at(by, connecting).await {
        Ok(done) => done,
        Err(_) if by == deadline => Err(fail("total_timeout is over".to_owned(), FailureKind::TimedOut)),
        Err(_) => Err(fail(format!("no connection within {patience:?}"), FailureKind::Connecting)),
    }
}
