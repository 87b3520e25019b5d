//! One exchange with an origin: choose it, send a request, read the head; when that fails before the head is there,
//! another origin is tried. The body is then read at the caller's pace, or, after a 101, the connection is taken
//! as it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_http::RequestHeader;
use tokio::time::{Instant, timeout_at};

use crate::clock::Timestamp;
use crate::config::model::{OriginProtocol, PoolId};

use super::connect::{self, Connector, OriginError};
use super::forward;
use super::h1::{self, OriginStream};
use super::pool::{FailedStage, Picked, PoolRuntime, PoolSet, Tried};
use super::state::ActiveGuard;

/// Interim responses (1xx) that are skipped before the final one.
const MAX_INTERIM: usize = 8;
/// Kept connections that may turn out to be closed, before that counts as the origin's failure.
const MAX_STALE_CONNECTIONS: usize = 3;

/// Interim responses (1xx) for who wants to pass them on, and looks for them whenever the exchange has been polled.
#[derive(Debug, Default)]
pub struct Interims(Mutex<Vec<(StatusCode, HeaderMap)>>);

/// Interim responses that may wait to be passed on. Who does not keep up does without: they are hints.
const MAX_WAITING: usize = 4;

impl Interims {
    /// The next one.
    pub fn take(&self) -> Option<(StatusCode, HeaderMap)> {
        let mut waiting = self.0.lock();
        if waiting.is_empty() { None } else { Some(waiting.remove(0)) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn push(&self, status: StatusCode, fields: HeaderMap) {
        let mut waiting = self.0.lock();
        if waiting.len() < MAX_WAITING {
            waiting.push((status, fields));
        }
    }
}

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
    pub interims: Option<Arc<Interims>>,
}

/// A response whose head has come and whose body is to be read.
pub struct Exchange {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub origin: Arc<str>,
    pub request_time: Timestamp,
    by: By,
    _active: ActiveGuard,
}

/// How the origin is spoken to.
enum By {
    H1 { connection: h1::Connection, pool: Arc<PoolRuntime>, index: usize, address: SocketAddr },
    Pingora { session: Box<HttpSession>, peer: Box<HttpPeer>, idle: Duration },
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
        let attempted = attempt(connector, request, picked, deadline, stale_connections == 0).await;
        let failure = match attempted.and_then(|exchange| request.made_sense_of(exchange)) {
            Ok(exchange) => {
                if request.avoid_errors && exchange.status.is_server_error() {
                    tried.push((origin, address));
                    if tried.len() <= config.retries as usize && pools.has_another(request.pool, &tried) {
                        continue;
                    }
                }
                return Ok(exchange);
            }
            Err(failure) => failure,
        };
        if failure.on_kept_connection && stale_connections < MAX_STALE_CONNECTIONS {
            stale_connections += 1;
            continue;
        }
        tracing::debug!(pool = %pool.config.name, error = %failure.error, "attempt failed");
        pool.exchange_failed(&origin, address, failure.stage, &failure.error.to_string());
        tried.push((origin, address));
        let exhausted = tried.len() > config.retries as usize || Instant::now() >= deadline;
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

impl Failure {
    /// No final response: an upgrade that nobody asked for leaves none that could be passed on.
    fn no_response(origin: &Arc<str>) -> Self {
        let error = OriginError::Invalid { origin: origin.clone(), cause: "no final response".to_owned() };
        Failure { error, stage: FailedStage::Connected, on_kept_connection: false }
    }
}

async fn attempt(
    connector: &Connector,
    request: &OriginRequest,
    picked: Picked,
    deadline: Instant,
    may_be_kept: bool,
) -> Result<Exchange, Failure> {
    // HTTP/2 has no Upgrade.
    if picked.pool.config.protocol == OriginProtocol::H1 || request.upgrade.is_some() {
        return by_h1(connector, request, picked, deadline, may_be_kept).await;
    }
    let (address, pool) = (picked.origin.address.clone(), picked.pool.config.name.clone());
    // Boxed: large, and most origins speak HTTP/1.1.
    match timeout_at(deadline, Box::pin(by_pingora(connector, request, picked))).await {
        Ok(done) => done,
        Err(_) => {
            let error =
                OriginError::Timeout { origin: address, cause: format!("the total_timeout of pool {pool} is over") };
            Err(Failure { error, stage: FailedStage::Connected, on_kept_connection: false })
        }
    }
}

/// One attempt by HTTP/1.1.
async fn by_h1(
    connector: &Connector,
    request: &OriginRequest,
    picked: Picked,
    deadline: Instant,
    may_be_kept: bool,
) -> Result<Exchange, Failure> {
    let (name, timeouts) = (picked.origin.address.clone(), &picked.pool.config.timeouts);
    let by = |patience: Duration| deadline.min(Instant::now() + patience);
    let request_time = Timestamp::now();
    let take = || picked.pool.kept.take(picked.index, picked.address, timeouts.idle);
    let kept = may_be_kept.then(take).flatten();
    let on_kept_connection = kept.is_some();
    let mut connection = match kept {
        Some(connection) => connection,
        None => {
            let connected = connector.connect(&picked, deadline).await;
            connected.map_err(|(error, stage)| Failure { error, stage, on_kept_connection: false })?
        }
    };
    picked.origin.connected(picked.address);
    let exchanged = async {
        connection.send(&wire_head(request, picked.pool.config.host.as_deref()), by(timeouts.write)).await?;
        let mut interim = 0;
        loop {
            let head = connection.read_head(&request.method, by(timeouts.read)).await?;
            let is_final = request.is_final(head.status);
            // After a 101 that nobody asked for the origin speaks what nobody understands.
            if is_final || interim == MAX_INTERIM || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok::<_, h1::Error>(is_final.then_some(head));
            }
            interim += 1;
            request.tell(head.status, &head.fields);
        }
    };
    match exchanged.await {
        Ok(Some(head)) => {
            let (status, fields) = (head.status, head.fields);
            let Picked { pool, index, address, active, .. } = picked;
            let by = By::H1 { connection, pool, index, address };
            Ok(Exchange { status, fields, origin: name, request_time, by, _active: active })
        }
        Ok(None) => Err(Failure::no_response(&name)),
        Err(error) => {
            // Closed while it lay idle: nothing of this request has been seen by anybody.
            let is_dead = matches!(error, h1::Error::Io(_) | h1::Error::Closed) && connection.has_heard_nothing();
            if on_kept_connection {
                picked.pool.kept.forget(picked.address);
            }
            let error = OriginError::from_h1(&error, &name);
            let on_kept_connection = on_kept_connection && is_dead;
            Err(Failure { error, stage: FailedStage::Connected, on_kept_connection })
        }
    }
}

/// One attempt by whichever protocol pingora's connector and the origin agree on.
async fn by_pingora(connector: &Connector, request: &OriginRequest, picked: Picked) -> Result<Exchange, Failure> {
    let peer = picked.peer();
    let Picked { pool, origin, address: at, active, .. } = picked;
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
        let (mut session, reused) = connector.http.get_http_session(&peer).await?;
        (kept, connecting) = (reused, false);
        origin.connected(at);
        session.set_read_timeout(peer.options.read_timeout);
        session.set_write_timeout(peer.options.write_timeout);
        connect::send_head(&mut session, head).await?;
        for _ in 0..MAX_INTERIM {
            session.read_response_header().await?;
            match session.response_header() {
                Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => break,
                Some(head) if !request.is_final(head.status) => request.tell(head.status, &head.headers),
                _ => break,
            }
        }
        Ok::<_, Box<pingora_core::Error>>(session)
    };
    let request_time = Timestamp::now();
    let session = match result.await {
        Ok(session) => session,
        Err(error) => {
            let stage = if connecting { connect::stage_of(&error) } else { FailedStage::Connected };
            let error = OriginError::from_pingora(&error, &address, connecting);
            let timed_out = matches!(error, OriginError::Timeout { .. });
            return Err(Failure { error, stage, on_kept_connection: kept && !timed_out });
        }
    };
    let (status, fields) = match session.response_header() {
        Some(head) if request.is_final(head.status) => (head.status, head.headers.clone()),
        _ => return Err(Failure::no_response(&address)),
    };
    let by = By::Pingora { session: Box::new(session), peer: Box::new(peer), idle: pool.config.timeouts.idle };
    Ok(Exchange { status, fields, origin: address, request_time, by, _active: active })
}

impl OriginRequest {
    /// An answer that answers the request: a 304 is one only if it was asked conditionally (RFC 9110 section 15.4.5).
    fn made_sense_of(&self, exchange: Exchange) -> Result<Exchange, Failure> {
        if exchange.status != StatusCode::NOT_MODIFIED || forward::is_conditional(&self.fields) {
            return Ok(exchange);
        }
        let cause = "a 304 to a request without a condition".to_owned();
        let error = OriginError::Invalid { origin: exchange.origin.clone(), cause };
        Err(Failure { error, stage: FailedStage::Connected, on_kept_connection: false })
    }

    fn is_final(&self, status: StatusCode) -> bool {
        !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS && self.upgrade.is_some()
    }

    /// Passes an interim response on.
    fn tell(&self, status: StatusCode, fields: &HeaderMap) {
        if let Some(interims) = &self.interims
            && status != StatusCode::CONTINUE
        {
            interims.push(status, fields.clone());
        }
    }

    /// The fields but for `Host`, which is said once.
    fn other_fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields.iter().filter(|(name, _)| **name != header::HOST)
    }
}

/// The request's head as HTTP/1.1 bytes.
fn wire_head(request: &OriginRequest, host: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    put(&[request.method.as_str().as_bytes(), b" ", request.path_and_query.as_bytes(), b" HTTP/1.1\r\nHost: "]);
    put(&[host.unwrap_or(&request.authority).as_bytes(), b"\r\n"]);
    for (name, value) in request.other_fields() {
        put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    if let Some(protocol) = &request.upgrade {
        put(&[b"Connection: upgrade\r\nUpgrade: ", protocol.as_bytes(), b"\r\n"]);
    }
    put(&[b"\r\n"]);
    out
}

fn request_head(request: &OriginRequest, host: Option<&str>) -> pingora_core::Result<RequestHeader> {
    let mut head = RequestHeader::build(
        request.method.clone(),
        request.path_and_query.as_bytes(),
        Some(request.fields.len() + 1),
    )?;
    head.insert_header(header::HOST, host.unwrap_or(&request.authority))?;
    for (name, value) in request.other_fields() {
        head.append_header(name.clone(), value.clone())?;
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
        match &mut self.by {
            By::H1 { connection, pool, .. } => {
                let read = connection.read_body(pool.config.timeouts.read).await;
                read.map_err(|error| OriginError::from_h1(&error, &self.origin))
            }
            By::Pingora { session, .. } => {
                let read = session.read_response_body().await;
                read.map_err(|error| OriginError::from_pingora(&error, &self.origin, false))
            }
        }
    }

    /// Whether all of the body has been read; by what pingora speaks that is not known.
    pub fn is_over(&self) -> bool {
        matches!(&self.by, By::H1 { connection, .. } if connection.is_over())
    }

    /// The connection itself after a 101, with what the origin has already sent on it. The origin counts as in
    /// use until the guard is dropped.
    pub fn into_tunnel(self) -> Option<(Bytes, OriginStream, ActiveGuard)> {
        let By::H1 { connection, .. } = self.by else { return None };
        let (early, stream) = connection.into_parts();
        Some((early, stream, self._active))
    }

    /// Gives the connection back after the whole body was read.
    pub async fn release(self, connector: &Connector) {
        match self.by {
            By::H1 { connection, pool, index, address } => pool.kept.put(index, address, connection),
            By::Pingora { session, peer, idle } => {
                let idle = peer.idle_timeout().unwrap_or(idle);
                // Boxed: large.
                Box::pin(connector.http.release_http_session(*session, &*peer, Some(idle))).await;
            }
        }
    }
}
