//! One exchange with an origin: choose it, send a request, read the head; when that fails before the head is there,
//! another origin is tried. The body is then read at the caller's pace, or, after a 101, the connection is taken
//! as it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::config::model::PoolId;

use super::connect::{self, OriginError};
use super::pool::{FailedStage, Picked, PoolSet, Tried};
use super::state::ActiveGuard;

/// Interim responses (1xx) that are skipped before the final one.
const MAX_INTERIM: usize = 8;
/// Kept connections that may turn out to be closed, before that counts as the origin's failure.
const MAX_STALE_CONNECTIONS: usize = 3;

/// An interim response (1xx), for who wants to pass it on.
pub type Interim = (StatusCode, HeaderMap);

/// The request that is sent, without a body; every attempt sends the same.
pub struct OriginRequest {
    pub method: Method,
    pub path_and_query: String,
    /// The client's `Host`, unless the pool has one of its own.
    pub authority: String,
    pub fields: HeaderMap,
    pub pool: PoolId,
    /// For pools that balance by hash.
    pub hash: u64,
    /// Whether another origin is asked after an answer with a 5xx status, if there is one.
    pub avoid_errors: bool,
    /// The protocol to change to (RFC 9110 section 7.8).
    pub upgrade: Option<HeaderValue>,
    /// Who is told of interim responses, if anybody.
    pub interim: Option<mpsc::Sender<Interim>>,
}

/// A response whose head has come and whose body is to be read.
pub struct Exchange {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub origin: Arc<str>,
    pub request_time: Timestamp,
    session: HttpSession,
    peer: HttpPeer,
    idle: Duration,
    _active: ActiveGuard,
}

/// Sends a request to an origin of the pool and reads the response head.
pub async fn get(connector: &Connector, pools: &PoolSet, request: &OriginRequest) -> Result<Exchange, OriginError> {
    let config = &pools.get(request.pool).config;
    let deadline = Instant::now() + config.timeouts.total;
    let mut tried = Tried::new();
    let mut stale_connections = 0;
    loop {
        let picked = pools.pick(request.pool, request.hash, &tried)?;
        let (origin, address, pool) = (picked.origin.clone(), picked.address, picked.pool.clone());
        // Pinned where it is made: moving it would be a copy of many kilobytes.
        let mut attempt = std::pin::pin!(attempt(connector, request, picked));
        let attempt = tokio::select! {
            biased;
            done = &mut attempt => Some(done),
            () = tokio::time::sleep_until(deadline) => None,
        };
        let failure = match attempt {
            Some(Ok(exchange)) => {
                if request.avoid_errors && exchange.status.is_server_error() {
                    tried.push((origin, address));
                    if tried.len() <= config.retries as usize && pools.has_another(request.pool, &tried) {
                        continue;
                    }
                }
                return Ok(exchange);
            }
            Some(Err(failure)) => failure,
            None => {
                let cause = "the pool's total_timeout is over".to_owned();
                pool.exchange_failed(&origin, address, FailedStage::Connected, &cause);
                return Err(OriginError::Timeout { origin: origin.address.clone(), cause });
            }
        };
        if failure.on_kept_connection && stale_connections < MAX_STALE_CONNECTIONS {
            stale_connections += 1;
            continue;
        }
        tracing::debug!(pool = %pool.config.name, error = %failure.error, "attempt failed");
        pool.exchange_failed(&origin, address, failure.stage, &failure.error.to_string());
        tried.push((origin, address));
        let exhausted = tried.len() > config.retries as usize;
        if exhausted || !pools.has_another(request.pool, &tried) {
            return Err(failure.error);
        }
    }
}

struct Failure {
    error: OriginError,
    stage: FailedStage,
    /// The origin may simply have closed a connection that lay idle.
    on_kept_connection: bool,
}

async fn attempt(connector: &Connector, request: &OriginRequest, picked: Picked) -> Result<Exchange, Failure> {
    let Picked { pool, origin, address: at, mut peer, active } = picked;
    if request.upgrade.is_some() {
        peer.options.set_http_version(1, 1); // HTTP/2 has no Upgrade
    }
    let is_final = |status: StatusCode| {
        !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS && request.upgrade.is_some()
    };
    let address = origin.address.clone();
    let mut kept = false;
    let mut connecting = true;
    let head = match request_head(request, pool.config.host.as_deref()) {
        Ok(head) => head,
        // No fault of the origin's.
        Err(error) => {
            let error = OriginError::Invalid { origin: address, cause: connect::describe(&error) };
            return Err(Failure { error, stage: FailedStage::Connected, on_kept_connection: false });
        }
    };
    let result = async {
        let (mut session, reused) = connector.get_http_session(&peer).await?;
        (kept, connecting) = (reused, false);
        origin.connected(at);
        session.set_read_timeout(peer.options.read_timeout);
        session.set_write_timeout(peer.options.write_timeout);
        session.write_request_header(Box::new(head)).await?;
        session.finish_request_body().await?;
        for _ in 0..MAX_INTERIM {
            session.read_response_header().await?;
            match session.response_header() {
                Some(head) if !is_final(head.status) => tell(request, head),
                _ => break,
            }
        }
        Ok::<_, Box<pingora_core::Error>>(session)
    };
    let request_time = Timestamp::now();
    let session = match result.await {
        Ok(session) => session,
        Err(error) => {
            let error = OriginError::from_pingora(&error, &address, connecting);
            let timed_out = matches!(error, OriginError::Timeout { .. });
            let stage = if connecting { FailedStage::Connecting } else { FailedStage::Connected };
            return Err(Failure { error, stage, on_kept_connection: kept && !timed_out });
        }
    };
    let (status, fields) = match session.response_header() {
        // An upgrade that nobody asked for leaves no response that could be passed on.
        Some(head) if is_final(head.status) => (head.status, head.headers.clone()),
        _ => {
            let cause = "no final response".to_owned();
            let error = OriginError::Invalid { origin: address, cause };
            return Err(Failure { error, stage: FailedStage::Connected, on_kept_connection: false });
        }
    };
    let idle = pool.config.timeouts.idle;
    Ok(Exchange { status, fields, origin: address, request_time, session, peer, idle, _active: active })
}

/// Passes an interim response on. Who does not keep up does without: it is a hint.
fn tell(request: &OriginRequest, head: &ResponseHeader) {
    if let Some(interim) = &request.interim
        && head.status != StatusCode::CONTINUE
    {
        let _ = interim.try_send((head.status, head.headers.clone()));
    }
}

fn request_head(request: &OriginRequest, host: Option<&str>) -> pingora_core::Result<RequestHeader> {
    let mut head = RequestHeader::build(
        request.method.clone(),
        request.path_and_query.as_bytes(),
        Some(request.fields.len() + 1),
    )?;
    head.insert_header(header::HOST, host.unwrap_or(&request.authority))?;
    for (name, value) in request.fields.iter().filter(|(name, _)| **name != header::HOST) {
        head.append_header(name.clone(), value.clone())?;
    }
    if let Some(protocol) = &request.upgrade {
        head.insert_header(header::CONNECTION, "upgrade")?;
        head.insert_header(header::UPGRADE, protocol.clone())?;
    }
    Ok(head)
}

impl Exchange {
    /// The length the head states, if it states one.
    pub fn content_length(&self) -> Option<u64> {
        let value = self.fields.get(header::CONTENT_LENGTH)?;
        value.to_str().ok()?.trim().parse().ok()
    }

    /// The next piece of the body; `None` when it ended as it should.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, OriginError> {
        let read = self.session.read_response_body().await;
        read.map_err(|error| OriginError::from_pingora(&error, &self.origin, false))
    }

    /// The connection itself after a 101, with what the origin has already sent on it. The origin counts as in
    /// use until the guard is dropped.
    pub async fn into_tunnel(self) -> Option<(Bytes, Stream, ActiveGuard)> {
        let HttpSession::H1(mut session) = self.session else { return None };
        // What came in one piece with the head is in the session; nothing else is waited for.
        let early = tokio::select! {
            biased;
            read = session.read_body_bytes() => read.ok()?.unwrap_or_default(),
            () = std::future::ready(()) => Bytes::new(),
        };
        Some((early, session.into_inner(), self._active))
    }

    /// Gives the connection back after the whole body was read.
    pub async fn release(self, connector: &Connector) {
        let idle = self.peer.idle_timeout().unwrap_or(self.idle);
        connector.release_http_session(self.session, &self.peer, Some(idle)).await;
    }
}
