//! What both fronts do with a request once it is parsed: plan it, answer it from the cache, or say that it
//! has to be passed on.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use arc_swap::ArcSwap;
use http::{Method, StatusCode, Version, header};

use crate::cache::control::ClientDirectives;
use crate::cache::engine::{Answer, CacheRequest, Engine, FetchError, Source};
use crate::cache::lookup::Lookup;
use crate::cache::purge::{Event, PURGE_PATIENCE, Target};
use crate::cache::status::Report;
use crate::clock::Timestamp;
use crate::config::model::{BodyLimit, Route};
use crate::config::tokens;
use crate::observe::{Observer, Outcome};
use crate::origin::connect::OriginError;
use crate::origin::exchange::Exchange;
use crate::origin::forward;
use crate::origin::interims::Interims;
use crate::pass::{self, excuse};
use crate::plan::{Matched, PassReason, Plan, keyed_uris, plan};

use crate::request::{Fields, RequestView, content_length};
use crate::snapshot::Snapshot;

use super::head::{Endpoints, Refusal};
use super::reply::ClientResponse;

pub use crate::pass::Incoming;

/// What all connections share.
pub struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub engine: Arc<Engine>,
    pub observer: Arc<Observer>,
}

/// What is to be done for a request.
#[expect(clippy::large_enum_variant, reason = "it is moved once, from where it is decided to where it is done")]
pub enum Decision {
    Respond {
        response: ClientResponse,
        report: Option<Report>,
        site: Option<usize>,
    },
    /// The origin has answered 101.
    Tunnel {
        exchange: Box<Exchange>,
        site: usize,
        route: usize,
    },
}

/// Decides, fetching from the origin where the cache has nothing. `key` is a buffer that is reused.
pub async fn decide(
    shared: &Shared,
    snapshot: &Arc<Snapshot>,
    view: &RequestView<'_>,
    key: &mut String,
    now: Timestamp,
    asking: Asking,
) -> Decision {
    let (matched, reason) = match plan_of(snapshot, view) {
        Plan::Refuse { status, why } => {
            let response = ClientResponse::synthetic(status, why, now);
            return Decision::Respond { response, report: None, site: None };
        }
        Plan::Purge { site } => {
            let response = Box::pin(purge(shared, snapshot, site, view, now)).await;
            return Decision::Respond { response, report: None, site: Some(site) };
        }
        Plan::Pass(matched, _) if is_too_large(matched.route, view) => {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            let response = ClientResponse::synthetic(status, excuse(status), now);
            return Decision::Respond { response, report: None, site: Some(matched.site_index) };
        }
        Plan::Pass(matched, reason) => (matched, reason),
        Plan::Tunnel(matched) => {
            return Box::pin(ask(shared, snapshot, view, matched, PassReason::CacheOff, now, asking)).await;
        }
        Plan::Cache(matched) if asking.body.is_some() => (matched, PassReason::Body),
        Plan::Cache(matched) => {
            match from_cache(shared, snapshot, view, matched, key, now, asking.interims.as_ref()).await {
                Ok(decision) => return decision,
                Err(reason) => (matched, reason),
            }
        }
    };
    // Boxed: large, and most requests do not come here.
    Box::pin(ask(shared, snapshot, view, matched, reason, now, asking)).await
}

/// What is to be done with a request; with one that goes in circles nothing, before anything else.
fn plan_of<'s>(snapshot: &'s Snapshot, view: &RequestView<'_>) -> Plan<'s> {
    match snapshot.passage.loops(view.fields) {
        Some(circle) => Plan::Refuse { status: StatusCode::LOOP_DETECTED, why: circle.why() },
        None => plan(&snapshot.config, view),
    }
}

/// Drives a decision on until it is made; `None`: until interim responses are there that go before it.
pub async fn step(deciding: &mut Pin<&mut impl Future<Output = Decision>>, interims: &Interims) -> Option<Decision> {
    poll_fn(|cx| match deciding.as_mut().poll(cx) {
        Poll::Ready(decision) => Poll::Ready(Some(decision)),
        Poll::Pending if !interims.is_empty() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Decides by what the cache has, or can get. An error is the reason why the request goes past it.
async fn from_cache(
    shared: &Shared,
    snapshot: &Arc<Snapshot>,
    view: &RequestView<'_>,
    matched: Matched<'_>,
    key: &mut String,
    now: Timestamp,
    interims: Option<&Arc<Interims>>,
) -> Result<Decision, PassReason> {
    let site = Some(matched.site_index);
    let request = cache_request(view, snapshot, matched, key, interims);
    let (source, report) = match shared.engine.look_up(&request, now).await {
        Lookup::Hit(object, report) => (Source::Stored(object), report),
        Lookup::PartHit(part, report) => (Source::Part(part), report),
        Lookup::StaleHit(object, report) => {
            shared.engine.refresh(&request, &object);
            (Source::Stored(object), report)
        }
        Lookup::Miss(_) | Lookup::HitForMiss | Lookup::NotForAuthorized if request.asks.only_if_cached => {
            let status = StatusCode::GATEWAY_TIMEOUT; // RFC 9111 section 5.2.1.7
            let why = "it is not in the cache, and the request wants nothing else";
            let response = ClientResponse::synthetic(status, why, now);
            return Ok(Decision::Respond { response, report: Some(Report::OnlyIfCached), site });
        }
        Lookup::HitForMiss => return Err(PassReason::HitForMiss),
        Lookup::NotForAuthorized => return Err(PassReason::Authorization),
        // Boxed: large, and most requests do not come here.
        Lookup::Miss(miss) => match Box::pin(shared.engine.get(&request, miss)).await {
            Ok(Answer { source, report }) => (source, report),
            // The cache fails open: its own faults and limits are nothing to the client.
            Err(FetchError { error: OriginError::FillLost, .. }) => return Err(PassReason::FillLost),
            Err(FetchError { error: OriginError::TooManyFills, .. }) => return Err(PassReason::FillsFull),
            Err(FetchError { error, report }) => return Ok(no_answer(&error, report, matched, view)),
        },
    };
    let response = response_from_cache(snapshot, view, matched, source, key, now);
    Ok(Decision::Respond { response, report: Some(report), site })
}

/// The answer to a request, if it is in memory and fresh: what [`decide`] would come to, without waiting for anything. With
/// it the site.
pub fn in_memory(
    shared: &Shared,
    snapshot: &Arc<Snapshot>,
    view: &RequestView<'_>,
    key: &mut String,
    now: Timestamp,
) -> Option<(ClientResponse, Report, usize)> {
    let Plan::Cache(matched) = plan_of(snapshot, view) else { return None };
    let request = cache_request(view, snapshot, matched, key, None);
    match shared.engine.lookup(&request, &request.asks, now) {
        Lookup::Hit(object, report) if object.content.in_memory().is_some() => {
            let response = response_from_cache(snapshot, view, matched, Source::Stored(object), request.key, now);
            Some((response, report, matched.site_index))
        }
        _ => None,
    }
}

fn response_from_cache(
    snapshot: &Snapshot,
    view: &RequestView<'_>,
    matched: Matched<'_>,
    source: Source,
    key: &str,
    now: Timestamp,
) -> ClientResponse {
    let mut response = ClientResponse::new(source, view.method, view.fields, now);
    response.key = may_see_key(snapshot, view, matched).then(|| key.to_owned());
    response
}

/// Whether the body that a request announces is more than its route takes. One that comes in pieces is counted as it comes.
fn is_too_large(route: &Route, view: &RequestView<'_>) -> bool {
    let length = view.fields.get(&header::CONTENT_LENGTH).and_then(content_length);
    matches!((route.max_body, length), (BodyLimit::Bytes(most), Some(length)) if length > most)
}

/// Whether the request shows a token that may read about the site.
fn may_see_key(snapshot: &Snapshot, view: &RequestView<'_>, matched: Matched<'_>) -> bool {
    let Some(admin) = snapshot.config.admin.as_ref().filter(|admin| !admin.tokens.is_empty()) else { return false };
    let Some(given) = view.fields.get(&forward::DEBUG) else { return false };
    tokens::find(&admin.tokens, given).is_some_and(|token| token.may_read(&matched.site.name))
}

fn no_answer(error: &OriginError, report: Report, matched: Matched<'_>, view: &RequestView<'_>) -> Decision {
    let (site, RequestView { method, host, path, client, .. }) = (&matched.site.name, view);
    match error {
        OriginError::Request(error) => {
            tracing::debug!(%site, %client, %method, host, path, %error, "a request did not come whole");
        }
        error => tracing::warn!(%site, %client, %method, host, path, %error, "no answer from the origin"),
    }
    let response = ClientResponse::synthetic(error.status(), excuse(error.status()), Timestamp::now());
    let response = response.because(error.to_string());
    Decision::Respond { response, report: Some(report), site: Some(matched.site_index) }
}

/// What a front has of a request beside its head.
pub struct Asking {
    /// Its body, if there is one.
    pub body: Option<Incoming>,
    /// Where interim responses go, if the client may have them.
    pub interims: Option<Arc<Interims>>,
}

/// Asks an origin on behalf of one client, also to change the protocol: it may as well answer as if it had not been asked
/// for that.
async fn ask(
    shared: &Shared,
    snapshot: &Arc<Snapshot>,
    view: &RequestView<'_>,
    matched: Matched<'_>,
    reason: PassReason,
    now: Timestamp,
    asking: Asking,
) -> Decision {
    let (site, route) = (matched.site_index, matched.route_index);
    let Asking { body, interims } = asking;
    match pass::pass(&shared.engine, snapshot, view, matched, body, interims).await {
        Ok(passed) if passed.exchange.status == StatusCode::SWITCHING_PROTOCOLS => {
            Decision::Tunnel { exchange: passed.exchange, site, route }
        }
        Ok(passed) => {
            let report = match passed.is_undone_by_restart {
                true => Report::PassNotDurable(reason.cache_status()),
                false => Report::Pass(reason.cache_status()),
            };
            let source = passed.into_source(&shared.engine, view.method).await;
            let response = ClientResponse::new(source, view.method, view.fields, now);
            Decision::Respond { response, report: Some(report), site: Some(site) }
        }
        Err(error) => no_answer(&error, Report::Pass(reason.cache_status()), matched, view),
    }
}

/// `key`: a buffer that is reused.
fn cache_request<'a>(
    view: &'a RequestView<'a>,
    snapshot: &'a Arc<Snapshot>,
    matched: Matched<'a>,
    key: &'a mut String,
    interims: Option<&'a Arc<Interims>>,
) -> CacheRequest<'a> {
    let version = snapshot.sites[matched.site_index].version();
    matched.write_key(key, version, view);
    let asks = match matched.route.cache.heeds_clients() {
        true => ClientDirectives::parse(view.fields),
        false => ClientDirectives::default(),
    };
    CacheRequest { view, snapshot, matched, key, slice: None, asks, interims }
}

/// The method `PURGE` on a URL.
async fn purge(
    shared: &Shared,
    snapshot: &Snapshot,
    site: usize,
    view: &RequestView<'_>,
    now: Timestamp,
) -> ClientResponse {
    let site = snapshot.site(site);
    let target = |uri| Target::Url { site: site.name.to_string(), uri };
    let targets = keyed_uris(site, view.host, view.path, view.query).map(target).collect();
    let event = Event::Purge { soft: false, targets };
    match shared.engine.purges.append(event, now, PURGE_PATIENCE).await {
        Ok(seq) => {
            let body = format!("{{\"seq\":{}}}\n", seq.0);
            ClientResponse::own(StatusCode::OK, "application/json", body, now)
        }
        Err(error) => {
            tracing::error!(%error, "the purge could not be made durable");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let text = "the purge is in force, but could not be made durable: a restart would undo it";
            ClientResponse::synthetic(status, text, now)
        }
    }
}

/// How a response went.
pub struct Sent {
    pub status: StatusCode,
    pub bytes: u64,
    /// Why it did not end well.
    pub error: Option<String>,
    /// Why there was nothing better.
    pub why: Option<String>,
}

impl Sent {
    /// Of a request whose client did not wait for the answer. The status is nginx's for this.
    pub fn client_left() -> Self {
        let status = StatusCode::from_u16(499).unwrap_or_default(); // three digits are a status
        Sent { status, bytes: 0, error: Some("the client left".to_owned()), why: None }
    }
}

/// Counts and logs a request that a front has answered.
pub fn record(
    shared: &Shared,
    snapshot: &Snapshot,
    view: &RequestView<'_>,
    site: Option<usize>,
    report: Option<&Report>,
    (now, started): (Timestamp, Instant),
    sent: &Sent,
) {
    let outcome = Outcome {
        time: now,
        client: view.client,
        method: view.method,
        scheme: view.scheme.as_str(),
        host: view.host,
        path: view.path,
        query: view.query,
        version: view.version,
        status: sent.status,
        bytes_sent: sent.bytes,
        duration: started.elapsed(),
        site: site.map_or("", |site| &snapshot.site(site).name),
        cache: report.map_or("none", |report| report.result().as_str()),
        reason: report.and_then(Report::reason),
        referer: view.fields.get_str(&header::REFERER),
        user_agent: view.fields.get_str(&header::USER_AGENT),
        error: sent.error.as_deref().or(sent.why.as_deref()).or(report.and_then(Report::covered)),
    };
    shared.observer.record(&outcome, site.map(|site| snapshot.sites[site].metrics.as_ref()));
}

/// Records what came on a connection and is not a request. Gives the answer to it.
pub fn refuse(shared: &Shared, endpoints: Endpoints, refusal: Refusal) -> ClientResponse {
    let (now, started) = (Timestamp::now(), Instant::now());
    let view = RequestView {
        method: &Method::GET,
        host: "",
        port: None,
        local_port: endpoints.local.port(),
        authority: "",
        path: "",
        hides_dots: false,
        query: None,
        fields: Fields::Parsed(&[]),
        client: endpoints.client.ip(),
        scheme: endpoints.scheme,
        version: Version::HTTP_11,
    };
    let error = Some("malformed request".to_owned());
    let sent = Sent { status: refusal.status, bytes: 0, error, why: None };
    record(shared, &shared.snapshot.load(), &view, None, None, (now, started), &sent);
    ClientResponse::synthetic(refusal.status, refusal.why, now)
}
