//! HTTP/2 over TLS: the same decisions over pingora's sessions, one for each stream.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::cache::control::Directives;
use crate::cache::status::Report;
use crate::clock::Timestamp;
use crate::config::host::parse_authority;
use crate::config::model::Limits;
use crate::origin::forward;
use crate::pass::{self, Progress};
use crate::request::{Fields, RequestView, Scheme, Target};
use crate::snapshot::Snapshot;

use super::head::Refusal;
use super::reply::ClientResponse;
use super::serve::{self, Asking, Decision, Sent, Shared};

/// Bytes of a body that are written under one deadline: the write timeout is for each call, and a slow client is not a
/// stuck one.
const PIECE: usize = 64 << 10;
/// What a client may send of one request's body, and of all together, before the origins have taken it. More than HTTP/2's
/// own 64 KiB: one upload that waits must not hold up the others of its connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The HTTP/2 front of one connection's worth of settings.
pub struct H2Front {
    shared: Arc<Shared>,
    client: std::net::IpAddr,
    limits: Limits,
    options: HttpServerOptions,
}

impl H2Front {
    pub fn new(shared: Arc<Shared>, client: std::net::IpAddr, limits: Limits) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(limits.keepalive_timeout);
        H2Front { shared, client, limits, options }
    }
}

#[async_trait]
impl HttpServerApp for H2Front {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let snapshot = self.shared.snapshot.load_full();
        session.set_write_timeout(Some(self.limits.write_timeout));
        session.set_read_timeout(Some(self.limits.read_timeout));
        session.set_total_drain_timeout(Some(self.limits.read_timeout));
        if let Err(refusal) = self.handle(&mut session, &snapshot).await {
            let refusal = match refusal {
                Handled::Refused(refusal) => refusal,
                Handled::Pass(mut request) => {
                    if !session.is_body_empty() {
                        request.progress = Some(Progress::new(request.started));
                    }
                    let passing = self.shared.proxy.process_new_http(session, shutdown);
                    tokio::select! {
                        biased;
                        _ = Box::pin(pass::REQUEST.scope(*request.clone(), passing)) => {}
                        // Dropping the session resets the stream.
                        () = request.stalled() => request.record_stalled(&self.shared.observer),
                    }
                    return None;
                }
            };
            let now = Timestamp::now();
            serve::record_refusal(&self.shared, self.client, "https", refusal.status, now);
            let mut response = ClientResponse::synthetic(refusal.status, refusal.why, &Method::GET, now);
            // A client that has gone needs no answer.
            let _ = write(&mut session, &snapshot, &mut response, None, &Method::GET).await;
        }
        let _ = session.finish().await; // likewise
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_concurrent_streams(self.limits.max_h2_streams);
        options.initial_window_size(STREAM_WINDOW);
        options.initial_connection_window_size(CONNECTION_WINDOW);
        options.max_header_list_size(u32::try_from(self.limits.max_head.0).unwrap_or(u32::MAX));
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Waits for the client to reset the stream or to leave.
async fn reset(session: &mut ServerSession) {
    match session {
        ServerSession::H2(stream) => {
            let _ = stream.idle().await; // whether by a reset or by an error of the connection
        }
        _ => std::future::pending().await,
    }
}

/// What a request that was not answered needs.
enum Handled {
    Refused(Refusal),
    Pass(Box<pass::PassRequest>),
}

impl H2Front {
    async fn handle(&self, session: &mut ServerSession, snapshot: &Arc<Snapshot>) -> Result<(), Handled> {
        let (now, started) = (Timestamp::now(), Instant::now());
        // Owned, since the session is written to while the request is still looked at.
        let head = session.req_header().clone();
        let checked = CheckedHead::of(&head, &self.limits).map_err(Handled::Refused)?;
        let view = RequestView {
            method: &head.method,
            host: &checked.host,
            authority: &checked.authority,
            path: &checked.path,
            query: checked.query.as_deref(),
            fields: Fields::Map(&head.headers),
            client: self.client,
            scheme: Scheme::Https,
            version: Version::HTTP_2,
        };
        let mut key = String::new();
        let asking = Asking { has_body: !session.is_body_empty(), interim: None };
        let decision = tokio::select! {
            biased;
            decision = serve::decide(&self.shared, snapshot, &view, &mut key, now, asking) => decision,
            () = reset(session) => {
                let sent = Sent::client_left();
                serve::record(&self.shared, snapshot, &view, None, None, (now, started), &sent);
                return Ok(());
            }
        };
        match decision {
            Decision::Respond { mut response, report, site } => {
                let sent = write(session, snapshot, &mut response, report.as_ref(), view.method).await;
                serve::record(&self.shared, snapshot, &view, site, report.as_ref(), (now, started), &sent);
                Ok(())
            }
            // Never planned for HTTP/2, which has no Upgrade.
            Decision::Tunnel { .. } => Err(Handled::Refused(bad("HTTP/2 has no upgrades"))),
            Decision::Pass { site, route, reason } => {
                let request = serve::pass_request(snapshot, &view, site, route, reason, now, started);
                let bad = |_| Handled::Refused(bad("the request target is not valid"));
                session.req_header_mut().set_raw_path(view.path_and_query().as_bytes()).map_err(bad)?;
                Err(Handled::Pass(Box::new(request)))
            }
        }
    }
}

/// The parts of a request head that the h2 crate does not check.
struct CheckedHead {
    host: String,
    authority: String,
    path: String,
    query: Option<String>,
}

const fn bad(why: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, why }
}

impl CheckedHead {
    fn of(head: &RequestHeader, limits: &Limits) -> Result<Self, Refusal> {
        if matches!(head.method, Method::CONNECT | Method::TRACE) {
            return Err(Refusal { status: StatusCode::NOT_IMPLEMENTED, why: "this method is not served here" });
        }
        let target = std::str::from_utf8(head.raw_path()).map_err(|_| bad("the request target is not valid"))?;
        if target.len() > limits.max_target.0 as usize {
            return Err(Refusal { status: StatusCode::URI_TOO_LONG, why: "the request target is too long" });
        }
        if head.headers.len() > limits.max_headers as usize {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err(Refusal { status, why: "the request has too many header fields" });
        }
        if !target.starts_with('/') {
            return Err(bad("the request target is of a form that is not served here"));
        }
        let target = Target::parse(target).map_err(|_| bad("the request target is not valid"))?;
        let authority = authority(head)?;
        let (host, _) = parse_authority(&authority).ok_or_else(|| bad("the :authority is not valid"))?;
        Ok(CheckedHead {
            host: host.into_owned(),
            path: target.path.into_owned(),
            query: target.query.map(str::to_owned),
            authority,
        })
    }
}

/// `:authority`, or `Host` where there is none; both must agree (RFC 9113 section 8.3.1).
fn authority(head: &RequestHeader) -> Result<String, Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(bad("the request has more than one Host"));
    }
    let host = host.map(|value| value.to_str()).transpose().map_err(|_| bad("the Host is not valid"))?;
    match (head.uri.authority(), host) {
        (None, None) => Err(bad("the request has neither :authority nor Host")),
        (Some(authority), Some(host)) if parse_authority(authority.as_str()) != parse_authority(host) => {
            Err(bad("the :authority and the Host disagree"))
        }
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => Ok(host.to_owned()),
    }
}

/// Writes a response to the stream. An error resets it, so that no client takes a part for the whole.
async fn write(
    session: &mut ServerSession,
    snapshot: &Snapshot,
    response: &mut ClientResponse,
    report: Option<&Report>,
    method: &Method,
) -> Sent {
    let mut sent = Sent { status: response.status(), bytes: 0, error: None };
    if let Err(error) = write_parts(session, snapshot, response, report, method, &mut sent.bytes).await {
        if let ServerSession::H2(stream) = session {
            stream.shutdown_with_reason(h2::Reason::INTERNAL_ERROR);
        }
        sent.error = Some(error);
    }
    sent
}

async fn write_parts(
    session: &mut ServerSession,
    snapshot: &Snapshot,
    response: &mut ClientResponse,
    report: Option<&Report>,
    method: &Method,
    bytes: &mut u64,
) -> Result<(), String> {
    let text = |error: Box<pingora_core::Error>| crate::origin::connect::describe(&error);
    let head = response_head(snapshot, response, report).map_err(text)?;
    session.write_response_header(Box::new(head)).await.map_err(text)?;
    if !response.has_body(method) {
        return session.write_response_body(Bytes::new(), true).await.map_err(text);
    }
    if let Some(body) = response.body.whole() {
        return write_piece(session, body, true, bytes).await;
    }
    loop {
        let next = tokio::select! {
            biased;
            next = response.body.next() => next,
            () = reset(session) => return Err("the client left".to_owned()),
        };
        match next.map_err(|error| error.to_string())? {
            Some(piece) => write_piece(session, piece, false, bytes).await?,
            None => return write_piece(session, Bytes::new(), true, bytes).await,
        }
    }
}

async fn write_piece(session: &mut ServerSession, piece: Bytes, last: bool, bytes: &mut u64) -> Result<(), String> {
    let mut left = piece;
    loop {
        let part = left.split_to(left.len().min(PIECE));
        let length = part.len() as u64;
        let written = session.write_response_body(part, last && left.is_empty()).await;
        written.map_err(|error| crate::origin::connect::describe(&error))?;
        *bytes += length;
        if left.is_empty() {
            return Ok(());
        }
    }
}

/// `Expires` of what is aged, where nothing else states its lifetime: pingora makes `Date` that of now on HTTP/2, and who
/// takes the one from the other would count the age twice.
fn expires_with_date_of_now(response: &ClientResponse) -> Option<HeaderValue> {
    let (age, fields) = (response.age.filter(|age| age.as_secs() > 0)?, response.head().fields());
    let directives = Directives::parse(&fields);
    if directives.max_age.is_some() || directives.s_maxage.is_some() {
        return None;
    }
    let expires = Timestamp::from_http_date(fields.get(header::EXPIRES)?.to_str().ok()?)?;
    HeaderValue::try_from((expires + age).http_date()).ok()
}

fn response_head(
    snapshot: &Snapshot,
    response: &ClientResponse,
    report: Option<&Report>,
) -> pingora_core::Result<ResponseHeader> {
    let fields = response.selected_fields();
    let mut head = ResponseHeader::build_no_case(response.status(), Some(fields.len() + 5))?;
    for (name, value) in &fields {
        head.append_header(name.clone(), value.clone())?;
    }
    if let Some(length) = response.content_length() {
        head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(length))?;
    }
    if let Some(range) = response.content_range() {
        head.insert_header(header::CONTENT_RANGE, range)?;
    }
    if let Some(age) = response.age {
        head.insert_header(header::AGE, HeaderValue::from(age.as_secs()))?;
    }
    if let Some(expires) = expires_with_date_of_now(response) {
        head.insert_header(header::EXPIRES, expires)?;
    }
    if let Some(report) = report {
        let node = &snapshot.config.node.name;
        head.append_header(header::VIA, forward::via(Version::HTTP_11, node))?;
        let mut status = String::new();
        response.write_cache_status(&mut status, report, node);
        head.append_header("cache-status", status)?;
    }
    Ok(head)
}
