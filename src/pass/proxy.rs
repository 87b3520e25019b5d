//! pingora's `ProxyHttp` for requests that are passed on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version, header};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::cache::engine::Engine;
use crate::cache::object::connection_options;
use crate::cache::status::Report;
use crate::cache::tags::TAG_FIELDS;
use crate::config::model::{BodyLimit, OriginProtocol};
use crate::observe::Observer;
use crate::origin::connect::{describe, stage_of};
use crate::origin::forward::{self, Forwarded};
use crate::origin::{ActiveGuard, FailedStage, OriginState, Picked, PoolRuntime, Tried};

use super::{PassRequest, REQUEST, http10, invalidate};

/// Kept connections that may turn out to be closed, before that counts as the origin's failure.
const MAX_STALE_CONNECTIONS: usize = 3;

/// The pass path.
pub struct Pass {
    pub observer: Arc<Observer>,
    pub engine: Arc<Engine>,
}

/// What is known of one request on its way.
pub struct PassContext {
    /// `None` only if pingora was called around the front, which nothing does.
    request: Option<PassRequest>,
    asked: Option<Asked>,
    tried: Tried,
    stale_connections: usize,
    body_received: u64,
    /// The client can tell the response's end by that of the connection alone.
    ends_with_connection: bool,
}

/// The origin that is being asked.
struct Asked {
    pool: Arc<PoolRuntime>,
    origin: Arc<OriginState>,
    address: SocketAddr,
    _active: ActiveGuard,
}

impl PassContext {
    fn request(&self) -> Result<&PassRequest> {
        self.request.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "no request to pass on"))
    }

    /// Counts the asked origin's failure; tells whether another is left to be tried.
    fn may_try_another(&mut self, stage: FailedStage, cause: &str) -> bool {
        let (Some(request), Some(Asked { pool, origin, address, .. })) = (&self.request, self.asked.take()) else {
            return false;
        };
        pool.exchange_failed(&origin, address, stage, cause);
        self.tried.push((origin, address));
        let snapshot = &request.snapshot;
        let first = snapshot.route(request.site, request.route).pool;
        let retries = snapshot.config.pool(first).retries as usize;
        self.tried.len() <= retries && snapshot.pools.has_another(first, &self.tried)
    }
}

#[async_trait]
impl ProxyHttp for Pass {
    type CTX = PassContext;

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(Box::new(http10::UntilCloseBuilder));
    }

    fn new_ctx(&self) -> PassContext {
        PassContext {
            request: REQUEST.try_with(Clone::clone).ok(),
            asked: None,
            tried: Tried::new(),
            stale_connections: 0,
            body_received: 0,
            ends_with_connection: false,
        }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut PassContext) -> Result<bool> {
        let request = ctx.request()?;
        // HTTP/1.0 has no interim responses (RFC 9110 section 15.2).
        session.as_downstream_mut().set_ignore_info_resp(request.version == Version::HTTP_10);
        Ok(false)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut PassContext) -> Result<Box<HttpPeer>> {
        let request = ctx.request()?;
        let pool = request.snapshot.route(request.site, request.route).pool;
        match request.snapshot.pools.pick(pool, request.hash, &ctx.tried) {
            Ok(picked) => {
                let mut peer = picked.peer();
                let Picked { pool, origin, address, active, .. } = picked;
                ctx.body_received = 0; // a repeated request's body comes again
                if ctx.request.as_ref().is_some_and(|request| request.progress.is_some())
                    && pool.config.protocol != OriginProtocol::H1
                {
                    // pingora would count the time of the upload as well; the watchdog does not.
                    peer.options.read_timeout = None;
                }
                ctx.asked = Some(Asked { pool, origin, address, _active: active });
                Ok(Box::new(peer))
            }
            Err(error) => Err(Error::explain(ErrorType::HTTPStatus(503), error.to_string()).into_up()),
        }
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&pingora_core::protocols::Digest>,
        ctx: &mut PassContext,
    ) -> Result<()> {
        if let Some(asked) = &ctx.asked {
            asked.origin.connected(asked.address);
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut PassContext,
    ) -> Result<()> {
        ctx.body_received += body.as_ref().map_or(0, Bytes::len) as u64;
        let request = ctx.request()?;
        match &request.progress {
            Some(progress) if end_of_stream => progress.body_is_there(),
            Some(progress) => progress.step(),
            None => {}
        }
        match request.snapshot.route(request.site, request.route).max_body {
            BodyLimit::Bytes(most) if ctx.body_received > most => {
                Err(Error::explain(ErrorType::HTTPStatus(413), "the body is larger than the route allows"))
            }
            _ => Ok(()),
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut PassContext,
    ) -> Result<()> {
        let request = ctx.request()?;
        let host = ctx.asked.as_ref().and_then(|asked| asked.pool.config.host.clone());
        // Always said in so many words: of a request by HTTP/2, pingora would take the URI's.
        let host = host.unwrap_or_else(|| request.authority.clone());
        let mut fields = upstream.headers.clone();
        forward::exclude_unkeyed(&mut fields, &request.snapshot.route(request.site, request.route).cache);
        let forwarded = Forwarded {
            node: &request.snapshot.config.node,
            client: request.client,
            authority: &request.authority,
            scheme: request.scheme,
            version: request.version,
            passage: &request.snapshot.passage,
        };
        forward::join_cookies(&mut fields);
        forward::set_forwarding_fields(&mut fields, &forwarded);
        replace_changed(upstream, &fields)?;
        upstream.insert_header(header::HOST, host)?;
        // pingora takes it out of requests by HTTP/2 whose sessions are not its own. gRPC cannot do without.
        if request.version == Version::HTTP_2
            && upstream.version == Version::HTTP_2
            && let Some(te) = session.req_header().headers.get(header::TE)
        {
            upstream.insert_header(header::TE, te.clone())?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _ctx: &mut PassContext,
    ) -> Result<()> {
        let is_conditional = forward::is_conditional(&session.req_header().headers);
        let why = match response.status {
            StatusCode::SWITCHING_PROTOCOLS => "a 101 to a request that asks for no other protocol",
            StatusCode::NOT_MODIFIED if !is_conditional => "a 304 to a request without a condition",
            _ => {
                remove_nominated(response);
                return Ok(());
            }
        };
        Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut PassContext,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        let request = ctx.request()?;
        let is_lasting = !invalidate::changes(request, response.status)
            || invalidate::invalidate(&self.engine, request, &response.headers).await;
        for (name, _) in &TAG_FIELDS {
            response.remove_header(name);
        }
        let node = &request.snapshot.config.node.name;
        response.append_header(header::VIA, forward::via(Version::HTTP_11, node))?;
        let mut status = String::new();
        Report::Pass(request.reason.cache_status()).write(&mut status, node);
        status.push_str(if is_lasting { "" } else { "; detail=invalidation-not-durable" });
        response.append_header("cache-status", status)?;
        if request.version == Version::HTTP_10 && http10::ends_with_connection(response) {
            session.set_keepalive(None);
            ctx.ends_with_connection = true;
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut PassContext,
    ) -> Result<Option<Duration>> {
        if let Some(progress) = ctx.request.as_ref().and_then(|request| request.progress.as_ref()) {
            progress.step();
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut PassContext,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let again = ctx.may_try_another(stage_of(&error), &describe(&error));
        error.set_retry(again);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut PassContext,
        kept_connection: bool,
    ) -> Box<Error> {
        // Only what can be sent again unchanged, and only while the client has seen nothing.
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && final_response(session).is_none();
        let again = if *error.esource() != ErrorSource::Upstream {
            false
        } else if repeatable && kept_connection && ctx.stale_connections < MAX_STALE_CONNECTIONS && !is_timeout(&error)
        {
            ctx.stale_connections += 1;
            true
        } else {
            ctx.may_try_another(FailedStage::Connected, &describe(&error)) && repeatable
        };
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut PassContext) -> FailToProxy {
        let status = client_status(error);
        if let Some(status) = status
            && final_response(session).is_none()
        {
            let (head, body) = error_response(status, ctx);
            // If it cannot be written the client has gone, and the log has the error itself.
            let _ = session.write_error_response(head, body).await;
        }
        FailToProxy { error_code: status.map_or(0, |status| status.as_u16()), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut PassContext) {
        let Some(request) = &ctx.request else { return };
        let site = request.snapshot.site(request.site);
        let error = error.map(describe);
        if error.is_some()
            && ctx.ends_with_connection
            && let Some(reset) = &request.reset
        {
            reset.store(true, Ordering::Relaxed);
        }
        if let Some(error) = &error {
            let origin = ctx.asked.as_ref().map(|asked| &asked.origin).or(ctx.tried.last().map(|(origin, _)| origin));
            let origin = origin.map(|origin| origin.address.clone());
            tracing::warn!(site = %site.name, origin = origin.as_deref(), %error, "a passed request failed");
        }
        let status = final_response(session).map_or(StatusCode::from_u16(499).ok(), |head| Some(head.status));
        request.record(&self.observer, status.unwrap_or_default(), session.body_bytes_sent() as u64, error.as_deref());
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &PassContext, _error: &Error) -> bool {
        true // `logging` tells it
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &PassContext,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// The head that answers the request, if it has been written: interim responses (1xx) do not, an upgrade does.
fn final_response(session: &Session) -> Option<&ResponseHeader> {
    let interim = |status: StatusCode| status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().filter(|head| !interim(head.status))
}

/// Brings a request's fields to a wanted state; pingora keeps the case of names beside them.
fn replace_changed(upstream: &mut RequestHeader, wanted: &http::HeaderMap) -> Result<()> {
    let names: Vec<_> = upstream.headers.keys().chain(wanted.keys()).cloned().collect();
    for name in names {
        if upstream.headers.get_all(&name).iter().eq(wanted.get_all(&name)) {
            continue;
        }
        upstream.remove_header(&name);
        for value in wanted.get_all(&name) {
            upstream.append_header(name.clone(), value.clone())?;
        }
    }
    Ok(())
}

/// Removes the fields that `Connection` names; pingora does that for requests only. What frames the body
/// stays for pingora to read, and is written anew by it.
fn remove_nominated(response: &mut ResponseHeader) {
    let frames_the_body = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH];
    for name in connection_options(&response.headers) {
        if !frames_the_body.contains(&name) {
            response.remove_header(&name);
        }
    }
    response.remove_header("keep-alive");
}

fn is_timeout(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout)
}

/// Whose fault it was; `None` if the client has gone.
fn client_status(error: &Error) -> Option<StatusCode> {
    match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(status), _) => StatusCode::from_u16(*status).ok(),
        (ErrorType::ReadTimedout | ErrorType::WriteTimedout | ErrorType::ConnectTimedout, ErrorSource::Upstream) => {
            Some(StatusCode::GATEWAY_TIMEOUT)
        }
        (_, ErrorSource::Upstream) => Some(StatusCode::BAD_GATEWAY),
        (ErrorType::ReadTimedout, ErrorSource::Downstream) => Some(StatusCode::REQUEST_TIMEOUT),
        (ErrorType::ReadError, ErrorSource::Downstream) if is_malformed(error) => Some(StatusCode::BAD_REQUEST),
        (ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed, ErrorSource::Downstream) => None,
        (_, ErrorSource::Downstream) => Some(StatusCode::BAD_REQUEST),
        (_, ErrorSource::Internal | ErrorSource::Unset) => Some(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// Whether what came is no body, so that there is somebody who can be told.
fn is_malformed(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::InvalidData)
}

fn error_response(status: StatusCode, ctx: &PassContext) -> (ResponseHeader, Bytes) {
    let why = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than is allowed here",
        StatusCode::REQUEST_TIMEOUT => "the request did not come in time",
        StatusCode::BAD_REQUEST => "the request is not valid",
        status => crate::pass::excuse(status),
    };
    let reason = status.canonical_reason().unwrap_or("Error");
    let body = format!("{} {reason}: {why}\n", status.as_u16());
    let mut head = pingora_core::protocols::http::ServerSession::generate_error(status.as_u16());
    let mut put = |name: header::HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            let _ = head.insert_header(name, value); // a valid name and value cannot be refused
        }
    };
    put(header::CONTENT_TYPE, "text/plain; charset=utf-8".into());
    put(header::CONTENT_LENGTH, body.len().to_string());
    put(header::CACHE_CONTROL, "no-store".into());
    if let Some(request) = &ctx.request {
        let mut value = String::new();
        Report::Pass(request.reason.cache_status()).write(&mut value, &request.snapshot.config.node.name);
        put(header::HeaderName::from_static("cache-status"), value);
    }
    head.remove_header(&header::SERVER);
    (head, body.into())
}
