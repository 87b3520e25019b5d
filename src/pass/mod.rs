//! Requests that the cache does not answer: each goes straight to an origin, whatever its method, body or protocol, and the
//! origin's answer to the client as it comes.

mod invalidate;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};

use crate::cache::engine::Engine;
use crate::cache::heeded;
use crate::cache::vary;
use crate::clock::Timestamp;
use crate::fields::add_date;
use crate::origin::attempts;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;
use crate::origin::forward;
use crate::origin::interims::Interims;
use crate::origin::pick::Choice;
use crate::origin::request::{OriginRequest, Silence};
use crate::origin::upload::{REPLAYED, RequestBody, Upload, UploadRules};
use crate::pace::Pace;
use crate::plan::{self, Matched, Renderer, WayBack};
use crate::request::{RequestView, Scheme, may_have_body};
use crate::snapshot::Snapshot;

use invalidate::Changed;

/// A body that comes with a request.
pub(crate) struct Incoming {
    pub body: Box<dyn RequestBody>,
    /// The length that the client has stated.
    pub length: Option<u64>,
    /// Who is told when the client may go on, if it waits for that.
    pub expects: Option<Arc<Interims>>,
}

/// An origin's answer.
pub(crate) struct Passed {
    pub exchange: Box<Exchange>,
    /// What it has changed is forgotten, but not for good.
    pub is_undone_by_restart: bool,
}

/// Passes a request on.
pub(crate) async fn pass(
    engine: &Arc<Engine>,
    snapshot: &Arc<Snapshot>,
    view: &RequestView<'_>,
    matched: Matched<'_>,
    body: Option<Incoming>,
    interims: Option<Arc<Interims>>,
) -> Result<Passed, OriginError> {
    let running = snapshot.enter(matched.site_index)?;
    let request = origin_request(snapshot, view, matched, interims);
    let upload = body.map(|body| {
        let limits = &snapshot.config.limits;
        // A stream of messages may be silent for as long as it is allowed to.
        let pace = match request.silence {
            Some(Silence::WhileAlive) => None,
            Some(Silence::Of(patience)) => Some(Pace { patience, least: 0 }),
            None => Some(Pace { patience: limits.read_timeout, least: limits.min_rate.0 }),
        };
        let Incoming { body, length, expects } = body;
        let replayed = room_to_replay(engine, snapshot, view, length);
        Upload::new(
            body,
            UploadRules {
                length,
                most: matched.route.max_body,
                pace,
                expects,
                replayed,
                changes: matched.route.request.clone(),
            },
        )
    });
    let mut answer = attempts::send(&engine.connector, &snapshot.pools, &request, upload).await;
    if let Ok(exchange) = &mut answer {
        exchange.running = Some(running);
        heeded::settle(&mut exchange.fields, matched.route, Timestamp::now);
        if let Some(way_back) = WayBack::new(&snapshot.config, matched, view) {
            way_back.map_all(&mut exchange.fields);
        }
        let pool = snapshot.pools.get(request.pool);
        exchange.keep_session(pool, request.choice.origin, view.scheme == Scheme::Https);
    }
    let changed = Changed { engine, snapshot, site: matched.site_index, view, what: matched.route.invalidate };
    let is_kept = match &answer {
        _ if view.method.is_safe() => true,
        Ok(exchange) if exchange.status.is_success() || exchange.status.is_redirection() => {
            changed.invalidate(&exchange.fields).await
        }
        // Nobody knows whether it was carried out (RFC 9111 section 4.4).
        Err(error) if error.may_have_been_sent() => changed.invalidate(&HeaderMap::new()).await,
        _ => true,
    };
    answer.map(|exchange| Passed { exchange, is_undone_by_restart: !is_kept })
}

/// Room for what is kept of a body to be sent again. By HTTP/1 a connection has one, and that is its due.
fn room_to_replay(
    engine: &Engine,
    snapshot: &Snapshot,
    view: &RequestView<'_>,
    length: Option<u64>,
) -> (u64, Option<Box<dyn Send + Sync>>) {
    let bytes = length.unwrap_or(REPLAYED).min(REPLAYED);
    if view.version != Version::HTTP_2 {
        return (bytes, None);
    }
    let prefix = snapshot.config.node.prefix_of(view.client);
    match engine.cache.memory.waiting().uploads.take_of_half(prefix, bytes) {
        Some(room) => (bytes, Some(Box::new(room))),
        None => (0, None),
    }
}

/// What an origin is asked.
fn origin_request(
    snapshot: &Snapshot,
    view: &RequestView<'_>,
    matched: Matched<'_>,
    interims: Option<Arc<Interims>>,
) -> OriginRequest {
    let pool = matched.pool;
    let mut fields = view.fields.to_lines();
    forward::exclude_hop_by_hop(&mut fields);
    forward::exclude_unkeyed(&mut fields, &matched.route.cache);
    forward::exclude_unheeded(&mut fields, &matched.route.cache);
    forward::join_cookies(&mut fields);
    vary::tell_who_asks(&mut fields, &matched.route.cache.key, view.country());
    forward::set_forwarding_fields(&mut fields, view, view.authority, &snapshot.config.node, &snapshot.passage);
    let (route, rendered) = (matched.route, Renderer::new(view, Some(matched.route), Timestamp::now()));
    if let Some(changes) = &route.request {
        forward::change(&mut fields, changes, rendered.fields(changes));
    }
    let sticky = snapshot.pools.sticky(pool);
    sticky.iter().for_each(|sticky| sticky.hide(&mut fields));
    let origin = sticky.and_then(|sticky| view.fields.find_map(&header::COOKIE, |cookies| sticky.origin_of(cookies)));
    let choice = Choice { hash: snapshot.pools.hash(pool, view), origin };
    let upgrade = plan::asks_for_upgrade(view).then(|| view.fields.get(&header::UPGRADE)).flatten();
    let stream_timeout = snapshot.config.stream_timeout(route, pool);
    OriginRequest {
        method: view.method.clone(),
        path_and_query: rendered.target(),
        authority: view.authority.to_owned(),
        host: route.rewrite.as_ref().and_then(|rewrite| rewrite.host.clone()),
        fields,
        pool,
        site: matched.site.name.clone(),
        choice,
        upgrade: upgrade.and_then(|protocol| HeaderValue::from_bytes(protocol).ok()),
        takes_trailers: view.takes_trailers(),
        silence: match stream_timeout {
            Some(patience) => Some(Silence::Of(patience)),
            None => view.is_grpc().then_some(Silence::WhileAlive),
        },
        read_timeout: route.read_timeout,
        total_timeout: route.total_timeout,
        ends: view.seen_ends(),
        interims,
        changes: route.response.clone(),
    }
}

impl Passed {
    /// What a client is answered with: status, fields, and what its body is read from, if it has one.
    pub(crate) fn into_response(self, method: &Method) -> (StatusCode, HeaderMap, Option<Box<Exchange>>) {
        let mut exchange = self.exchange;
        let (status, mut fields) = (exchange.status, std::mem::take(&mut exchange.fields));
        add_date(&mut fields, Timestamp::now());
        let exchange = match may_have_body(method, status) && !exchange.is_over() {
            true => Some(exchange),
            // Nobody will read to its end: it has ended.
            false => {
                exchange.release();
                None
            }
        };
        (status, fields, exchange)
    }
}

/// What a client is told of an origin's failure, or of its own: the kind, but no names from inside.
pub(crate) fn excuse(status: StatusCode) -> &'static str {
    match status {
        StatusCode::GATEWAY_TIMEOUT => "the origin did not answer in time",
        StatusCode::SERVICE_UNAVAILABLE => "no origin can serve this now",
        StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than is allowed here",
        StatusCode::REQUEST_TIMEOUT => "the request did not come in time",
        StatusCode::BAD_REQUEST => "the request is not valid",
        _ => "the origin gave no usable answer",
    }
}
