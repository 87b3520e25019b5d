//! How origins are reached: connections, pingora's connector and peers, and what errors mean.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{WrappedX509, parse_x509};
use pingora_core::{Error, ErrorType, OrErr};
use pingora_http::RequestHeader;
use rustix::io::Errno;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::config::model::{Endpoint, Origin, OriginProtocol, Pool};

use super::balance;
use super::exchange::{Attempt, By, Failure, FailureKind, OriginRequest};
use super::h1::{self, OriginStream};
use super::h2;
use super::link::LinkError;
use super::pool::{FailedStage, Picked};
use super::upload::{BodyError, Upload};

/// Makes connections to origins.
pub struct Connector {
    /// For origins that speak, or may speak, HTTP/2.
    pub http: pingora_core::connectors::http::Connector,
    tls: TransportConnector,
}

impl Connector {
    pub fn new() -> Self {
        Connector { http: pingora_core::connectors::http::Connector::new(None), tls: TransportConnector::new(None) }
    }

    /// A connection to send a request by, and whether it was kept from another. What an origin speaks is known by the pool,
    /// or agreed on by ALPN.
    pub(super) async fn open(
        &self,
        request: &OriginRequest,
        upload: Option<&Upload>,
        picked: &Picked,
        Attempt { deadline, may_be_kept, by_http11 }: Attempt,
    ) -> Result<(By, bool), Failure> {
        let pool = &picked.pool;
        if may_be_kept
            && pool.config.protocol != OriginProtocol::H2
            && let Some(connection) = pool.kept.take(picked.index, picked.address, pool.config.timeouts.idle)
        {
            return Ok((By::H1(connection), true));
        }
        // HTTP/2 has no Upgrade.
        let is_h1 = pool.config.protocol == OriginProtocol::H1;
        if is_h1 || by_http11 || request.upgrade.is_some() || picked.origin.wants_http11() {
            // Boxed: large, and most requests find a connection that was kept.
            return Box::pin(self.connect(picked, deadline)).await.map(|connection| (By::H1(connection), false));
        }
        // Likewise; and most origins speak HTTP/1.1.
        Box::pin(self.open_by_pingora(request, upload, picked, deadline)).await
    }

    /// A new connection that speaks HTTP/1.1. With an error goes whether it says something of the origin: what the request
    /// had no time for, or the node no descriptors, does not.
    async fn connect(&self, picked: &Picked, deadline: Instant) -> Result<Box<h1::Connection>, Failure> {
        let origin = &picked.origin.address;
        let stream = async {
            if picked.pool.config.tls.is_some() {
                let mut peer = picked.peer();
                peer.options.set_http_version(1, 1);
                let stream = Box::pin(self.tls.new_stream(&peer)).await;
                return stream.map(OriginStream::Tls).map_err(|error| cannot_connect(&error, origin));
            }
            let fail = |error: std::io::Error| {
                let stage = if is_our_own(&error) { FailedStage::Ours } else { FailedStage::Connecting };
                let error = OriginError::Connect { origin: origin.clone(), cause: error.to_string() };
                Failure { error, kind: FailureKind::Connect(stage) }
            };
            let stream = TcpStream::connect(picked.address).await.map_err(fail)?;
            stream.set_nodelay(true).map_err(fail)?;
            Ok(OriginStream::Plain(stream))
        };
        within(picked, deadline, stream).await.map(|stream| Box::new(h1::Connection::new(stream)))
    }

    async fn open_by_pingora(
        &self,
        request: &OriginRequest,
        upload: Option<&Upload>,
        picked: &Picked,
        deadline: Instant,
    ) -> Result<(By, bool), Failure> {
        let (peer, origin) = (picked.peer(), &picked.origin.address);
        let session = async {
            let session = self.http.get_http_session(&peer).await;
            session.map_err(|error| cannot_connect(&error, origin))
        };
        let (session, reused) = within(picked, deadline, session).await?;
        match session {
            HttpSession::H2(session) => {
                // An error here is no fault of the origin's, but for a connection that has just ended.
                let fail = |error: Box<Error>| {
                    let kind = match error.etype() {
                        ErrorType::H2Error => FailureKind::Unprocessed,
                        _ => FailureKind::Broken,
                    };
                    Failure { error: OriginError::from_pingora(&error, origin, false), kind }
                };
                let head = request.head(&picked.pool.config, upload).map_err(fail)?;
                let stream = h2::Stream::send(session, peer, head, upload.is_none()).map_err(fail)?;
                Ok((By::H2(Box::new(stream)), reused))
            }
            HttpSession::H1(session) => {
                let stream = OriginStream::Tls(session.into_inner());
                Ok((By::H1(Box::new(h1::Connection::new(stream))), false))
            }
            HttpSession::Custom(_) => {
                let cause = "a protocol that was not asked for".to_owned();
                let error = OriginError::Invalid { origin: origin.clone(), cause };
                Err(Failure { error, kind: FailureKind::Broken })
            }
        }
    }
}

fn cannot_connect(error: &Error, origin: &Arc<str>) -> Failure {
    Failure { error: OriginError::from_pingora(error, origin, true), kind: FailureKind::Connect(stage_of(error)) }
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
        Err(_) if by == deadline => Err(fail("the pool's total_timeout is over".to_owned(), FailureKind::TimedOut)),
        Err(_) => {
            let kind = FailureKind::Connect(FailedStage::Connecting);
            Err(fail(format!("no connection within {patience:?}"), kind))
        }
    }
}

/// Whether a connection was not made for want of something here: ports, descriptors, memory.
fn is_our_own(error: &std::io::Error) -> bool {
    let wants = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| wants.iter().any(|want| want.raw_os_error() == code))
}

/// Whether an error of pingora's is for want of something here. What it was is at the end of its causes.
pub fn is_our_own_fault(error: &Error) -> bool {
    let root: &(dyn std::error::Error + 'static) = error.root_cause();
    let mut cause = Some(root);
    while let Some(found) = cause {
        if found.downcast_ref::<std::io::Error>().is_some_and(is_our_own) {
            return true;
        }
        cause = found.source();
    }
    false
}

/// How far an exchange got that failed to connect by pingora's connector.
pub fn stage_of(error: &Error) -> FailedStage {
    if is_our_own_fault(error) { FailedStage::Ours } else { FailedStage::Connecting }
}

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

/// Everything about reaching an origin but its address, which is put in for each request.
pub fn peer_template(pool: &Pool, origin: &Origin) -> HttpPeer {
    let name = match &origin.endpoint {
        Endpoint::Address(address) => address.ip().to_string(),
        Endpoint::Name { host, .. } => host.clone(),
    };
    let sni = pool.tls.as_ref().map(|tls| tls.sni.clone().unwrap_or(name)).unwrap_or_default();
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
        // pingora keeps connections by address and name: what one authority vouches for is not shared with another.
        peer.group_key = tls.ca.as_ref().map_or(0, |chain| balance::hash_bytes(&joined(chain)));
        options.ca = tls.ca.as_ref().map(|chain| {
            Arc::from(
                // The configuration was refused if any of them could not be parsed.
                chain.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect::<Vec<_>>(),
            )
        });
    }
    peer
}

fn joined(chain: &[CertificateDer<'_>]) -> Vec<u8> {
    chain.iter().flat_map(|certificate| certificate.iter().copied()).collect()
}

/// Why an exchange with an origin failed, in the terms in which the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("{0}")]
    NoOrigin(#[from] super::NoOrigin),
    #[error("too many fills are running; see max_fills in [limits]")]
    TooManyFills,
    #[error("cannot connect to origin {origin}: {cause}")]
    Connect { origin: Arc<str>, cause: String },
    #[error("origin {origin} did not answer in time: {cause}")]
    Timeout { origin: Arc<str>, cause: String },
    #[error("origin {origin} broke off: {cause}")]
    Broken { origin: Arc<str>, cause: String },
    #[error("origin {origin} sent what is not valid HTTP: {cause}")]
    Invalid { origin: Arc<str>, cause: String },
    #[error("a fault of the node's own ended the fill")]
    FillLost,
    #[error("the origin gives no slices of it that could be put together")]
    NotInSlices,
    /// No origin's doing.
    #[error("{0}")]
    Request(#[from] BodyError),
}

impl OriginError {
    /// Sorts an error of an exchange.
    pub fn from_link(error: &LinkError, origin: &Arc<str>) -> Self {
        let (origin, cause) = (origin.clone(), error.to_string());
        match error {
            LinkError::Timeout(_) => OriginError::Timeout { origin, cause },
            LinkError::Invalid(_) => OriginError::Invalid { origin, cause },
            LinkError::Io(_)
            | LinkError::Closed
            | LinkError::Reset(_)
            | LinkError::Unprocessed(_)
            | LinkError::NeedsHttp11 => OriginError::Broken { origin, cause },
        }
    }

    /// Sorts an error of pingora's.
    pub fn from_pingora(error: &Error, origin: &Arc<str>, connecting: bool) -> Self {
        let (origin, cause) = (origin.clone(), describe(error));
        match error.etype() {
            ErrorType::ReadTimedout | ErrorType::WriteTimedout => OriginError::Timeout { origin, cause },
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => OriginError::Timeout { origin, cause },
            ErrorType::InvalidHTTPHeader | ErrorType::H2Error | ErrorType::InvalidH2 => {
                OriginError::Invalid { origin, cause }
            }
            _ if connecting => OriginError::Connect { origin, cause },
            _ => OriginError::Broken { origin, cause },
        }
    }

    /// What the client is answered: 502, 503 or 504 (RFC 9110 section 15.6).
    pub fn status(&self) -> StatusCode {
        match self {
            OriginError::NoOrigin(_) | OriginError::TooManyFills => StatusCode::SERVICE_UNAVAILABLE,
            OriginError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            OriginError::Request(error) => error.status(),
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether an origin may have got the request.
    pub fn may_have_been_sent(&self) -> bool {
        !matches!(self, OriginError::NoOrigin(_) | OriginError::TooManyFills | OriginError::Connect { .. })
    }

    /// One word for `Cache-Status`, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            OriginError::NoOrigin(_) => "no-origin",
            OriginError::TooManyFills => "too-many-fills",
            OriginError::Connect { .. } => "connect",
            OriginError::Timeout { .. } => "timeout",
            OriginError::Broken { .. } => "broken",
            OriginError::Invalid { .. } => "invalid",
            OriginError::FillLost => "fill-lost",
            OriginError::NotInSlices => "not-in-slices",
            OriginError::Request(_) => "request-body",
        }
    }
}

/// An error of pingora's in a few words.
pub fn describe(error: &Error) -> String {
    let kind = error.etype().as_str();
    match (&error.context, &error.cause) {
        (Some(context), _) => format!("{kind}: {}", context.as_str()),
        (None, Some(cause)) => format!("{kind}: {cause}"),
        (None, None) => kind.to_owned(),
    }
}

/// Says for whom a request by HTTP/2 is: in `:authority`. nginx refuses those that say it in `Host` as well.
pub fn set_authority(head: &mut RequestHeader, scheme: &str, host: &str, path: &str) -> pingora_core::Result<()> {
    let uri = http::Uri::builder().scheme(scheme).authority(host).path_and_query(path);
    head.set_uri(uri.build().or_err(ErrorType::InvalidHTTPHeader, "the target as a URI")?);
    Ok(())
}

/// Sends a request that has no body by what pingora speaks.
pub async fn send_head(session: &mut HttpSession, head: RequestHeader) -> pingora_core::Result<()> {
    match session {
        // The head ends the stream: a DATA frame of nothing would say until then that there may be a body.
        HttpSession::H2(session) => session.write_request_header(Box::new(head), true),
        session => {
            session.write_request_header(Box::new(head)).await?;
            session.finish_request_body().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanting_here_is_nothing_of_the_origins() {
        let io = |errno: Errno| std::io::Error::from_raw_os_error(errno.raw_os_error());
        for (errno, ours) in
            [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::ADDRNOTAVAIL, true), (Errno::CONNREFUSED, false)]
        {
            let inner = Error::because(ErrorType::SocketError, "failed to create socket", io(errno));
            let wrapped = Error::because(ErrorType::InternalError, "Fail to connect", inner);
            assert_eq!(is_our_own_fault(&wrapped), ours, "{errno:?}");
            let plain = Error::because(ErrorType::ConnectError, "c", io(errno));
            assert_eq!(is_our_own_fault(&plain), ours, "{errno:?}");
        }
    }
}
