//! What both fronts do with a request once it is parsed. Its steps are methods of [`Request`]:
//!
//! | step | does | then |
//! |---|---|---|
//! | `plan` | asks the configuration | `refuse`, `purge`, `pass`, or the cache |
//! | `in_memory` | answers from memory at once, if a fresh object is there | `record` |
//! | `decide` | the way of all others, one after the other: | |
//! | `serve_from_cache` | looks up, fetches what is missing | `respond`, or `pass` |
//! | `pass` | asks an origin for this client alone | `respond`, or a tunnel |
//! | `respond`, `no_answer`, `refuse` | make the response | the front writes it |
//! | `record` | makes the one [`Outcome`] of it | metrics, access log |

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::boxed::boxed;
use crate::cache::engine::{Engine, FetchError, Fetched, NotStored, Source};
use crate::cache::lookup::Lookup;
use crate::cache::purge::{Event, PURGE_PATIENCE, Target};
use crate::cache::request::CacheRequest;
use crate::cache::slices::Answer;
use crate::cache::status::Report;
use crate::clock::Timestamp;
use crate::config::model::{FieldChanges, FixedAnswer, PoolId, Respond, Route, Site};
use crate::config::tokens;
use crate::fields::add_date;
use crate::observe::{Observer, Outcome};
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;
use crate::origin::forward;
use crate::origin::interims::Interims;
use crate::pass::{self, excuse};
use crate::plan::{Matched, OwnAnswer, PassReason, Plan, Renderer, WayBack, allowed_methods, client, keyed_uris};
use crate::representation::respond::Reply;
use crate::request::{Fields, RequestId, RequestView, content_length};
use crate::snapshot::Snapshot;
use crate::tunnels::{OpenTunnel, TooManyTunnels};

use super::fault::{self, Fault};
use super::head::{Endpoints, Refusal};
use super::reply::ClientResponse;

pub(crate) use crate::pass::Incoming;

/// What all connections share.
pub(crate) struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub engine: Arc<Engine>,
    pub observer: Arc<Observer>,
}

/// What is to be done for a request.
#[expect(clippy::large_enum_variant, reason = "it is moved once, from where it is decided to where it is done")]
pub(crate) enum Decision {
    Respond {
        response: ClientResponse,
        report: Option<Report>,
        site: Option<usize>,
    },
    /// The origin has answered 101.
    Tunnel {
        exchange: Box<Exchange>,
        site: usize,
        pool: PoolId,
        open: OpenTunnel,
    },
}

/// A request, while it is answered.
pub(crate) struct Request<'a> {
    pub shared: &'a Shared,
    pub snapshot: &'a Arc<Snapshot>,
    pub view: RequestView<'a>,
    pub now: Timestamp,
    pub started: Instant,
}

impl<'a> Request<'a> {
    /// One that has come now.
    pub(crate) fn new(shared: &'a Shared, snapshot: &'a Arc<Snapshot>, view: RequestView<'a>) -> Self {
        Self::begun(shared, snapshot, view, (Timestamp::now(), Instant::now()))
    }

    /// One that came then. Here it is decided who its client is, and how that has asked.
    pub(crate) fn begun(
        shared: &'a Shared,
        snapshot: &'a Arc<Snapshot>,
        view: RequestView<'a>,
        (now, started): (Timestamp, Instant),
    ) -> Self {
        let node = &snapshot.config.node;
        let (client, scheme) = client(node, (view.peer, view.scheme), view.fields);
        let given = || view.fields.get(&forward::REQUEST_ID).and_then(RequestId::given);
        let listener_name = view.listener.map(|listener| snapshot.listener_name(listener));
        let id = if node.trusts(view.peer) { given().unwrap_or(view.id) } else { view.id };
        Request {
            shared,
            snapshot,
            view: RequestView { client, scheme, id, listener_name, geoip: Some(&node.geoip), ..view },
            now,
            started,
        }
    }

    /// Decides, fetching from the origin where the cache has nothing. `key`: a buffer that is reused; `interims`: where interim
    /// responses go, if the client may have them.
    pub(crate) async fn decide(
        &self,
        key: &mut String,
        body: Option<Incoming>,
        interims: Option<Arc<Interims>>,
    ) -> Decision {
        let mut open = None;
        let (matched, reason) = match self.plan() {
            Plan::Refuse { status, why, site, route } => return self.refuse(status, why, None, site, route),
            Plan::Answer { site, route, answer } => {
                let response = self.own_answer(self.snapshot.site(site), route, answer);
                return Decision::Respond { response, report: None, site: Some(site) };
            }
            Plan::Purge { site } => {
                let response = Box::pin(self.purge(site)).await;
                let response = self.changed_by(response, self.snapshot.site(site).response.as_ref(), None);
                return Decision::Respond { response, report: None, site: Some(site) };
            }
            Plan::Pass(matched, _) if is_too_large(matched.route, &self.view) => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return self.refuse(status, excuse(status), None, Some(matched.site_index), Some(matched.route));
            }
            Plan::Pass(matched, reason) => (matched, reason),
            Plan::Tunnel(matched) => {
                match self.open_tunnel(matched.site_index) {
                    Ok(tunnel) => open = Some(tunnel),
                    Err((status, why)) => {
                        return self.refuse(status, why, None, Some(matched.site_index), Some(matched.route));
                    }
                }
                (matched, PassReason::CacheOff)
            }
            Plan::Cache(matched) if body.is_some() => (matched, PassReason::Body),
            Plan::Cache(matched) => match self.serve_from_cache(matched, key, interims.as_ref()).await {
                Ok(decision) => return decision,
                Err(reason) => (matched, reason),
            },
        };
        // Boxed: large, and most requests do not come here.
        boxed(|| self.pass(matched, reason, body, interims, open)).await
    }

    /// What is to be done with it; with one that goes in circles nothing, before anything else.
    fn plan(&self) -> Plan<'a> {
        match self.snapshot.passage.loops(self.view.fields) {
            Some(why) => Plan::Refuse { status: StatusCode::LOOP_DETECTED, why, site: None, route: None },
            None => self.snapshot.plan(&self.view, self.now),
        }
    }

    /// Decides by what the cache has, or can get. An error is the reason why the request goes past it.
    async fn serve_from_cache(
        &self,
        matched: Matched<'_>,
        key: &mut String,
        interims: Option<&Arc<Interims>>,
    ) -> Result<Decision, PassReason> {
        let engine = &self.shared.engine;
        let request = CacheRequest { interims, ..CacheRequest::new(&self.view, self.snapshot, matched, key) };
        let found = engine.cache.look_up(&request, self.now).await;
        let (answer, report) = match engine.answer_from(&request, found) {
            Ok(Fetched { source, report }) => (Answer::Whole(source), report),
            Err(_) if request.asks.only_if_cached => {
                let status = StatusCode::GATEWAY_TIMEOUT; // RFC 9111 section 5.2.1.7
                let why = "it is not in the cache, and the request wants nothing else";
                let (site, route) = (Some(matched.site_index), Some(matched.route));
                return Ok(self.refuse(status, why, Some(Report::OnlyIfCached), site, route));
            }
            Err(NotStored::Pass(reason)) => return Err(reason),
            // Boxed: large, and most requests do not come here.
            Err(NotStored::Miss(miss)) => match boxed(|| engine.get(&request, miss)).await {
                Ok(answer) => answer,
                // The cache fails open: its own faults and limits are nothing to the client.
                Err(FetchError { error: OriginError::FillLost, .. }) => return Err(PassReason::FillLost),
                Err(FetchError { error: OriginError::TooManyFills, .. }) => return Err(PassReason::FillsFull),
                Err(FetchError { error, report }) => return Ok(self.no_answer(&error, report, matched)),
            },
        };
        let response = self.respond(matched, answer, key);
        Ok(Decision::Respond { response, report: Some(report), site: Some(matched.site_index) })
    }

    /// The answer, if it is in memory and fresh: what [`Request::decide`] would come to, without waiting for anything. With
    /// it the site.
    pub(crate) fn in_memory(&self, key: &mut String) -> Option<(ClientResponse, Report, usize)> {
        let Plan::Cache(matched) = self.plan() else { return None };
        let request = CacheRequest::new(&self.view, self.snapshot, matched, key);
        match self.shared.engine.cache.lookup(&request, self.now) {
            Lookup::Hit(object, report) if object.content.in_memory().is_some() => {
                let response = self.respond(matched, Answer::Whole(Source::Stored(object)), request.key);
                Some((response, report, matched.site_index))
            }
            _ => None,
        }
    }

    fn respond(&self, matched: Matched<'_>, answer: Answer, key: &str) -> ClientResponse {
        let mut response = ClientResponse::new(answer, self.view.method, self.view.fields, self.now);
        response.key = self.may_see_key(matched).then(|| key.to_owned());
        if response.head().names_places()
            && let Some(way_back) = WayBack::new(&self.snapshot.config, matched, &self.view)
        {
            response = response.on_the_way_back(&way_back);
        }
        self.finished(response, matched)
    }

    /// A response of an origin's as clients get it, before or after it was stored.
    fn finished(&self, response: ClientResponse, matched: Matched<'_>) -> ClientResponse {
        let response = self.paged(response, matched);
        let response = match &matched.route.cache.compress_passed {
            Some(rules) => self.compressed(response, rules),
            None => response,
        };
        self.changed(response, matched.route)
    }

    /// Whether it shows a token that may read about the site.
    fn may_see_key(&self, matched: Matched<'_>) -> bool {
        let admin = self.snapshot.config.admin.as_ref();
        let Some(admin) = admin.filter(|admin| !admin.tokens.is_empty()) else { return false };
        let Some(given) = self.view.fields.get(&forward::DEBUG) else { return false };
        tokens::find(&admin.tokens, given).is_some_and(|token| token.may_read(&matched.site.name))
    }

    /// Asks an origin on behalf of one client, also to change the protocol: it may as well answer as if it had not been asked
    /// for that.
    async fn pass(
        &self,
        matched: Matched<'_>,
        reason: PassReason,
        body: Option<Incoming>,
        interims: Option<Arc<Interims>>,
        open: Option<OpenTunnel>,
    ) -> Decision {
        let site = matched.site_index;
        let engine = &self.shared.engine;
        match pass::pass(engine, self.snapshot, &self.view, matched, body, interims).await {
            Ok(passed) => {
                // Only who has asked for it gets that.
                if passed.exchange.status == StatusCode::SWITCHING_PROTOCOLS
                    && let Some(open) = open
                {
                    return Decision::Tunnel { exchange: passed.exchange, site, pool: matched.pool, open };
                }
                let report = match passed.is_undone_by_restart {
                    true => Report::PassNotDurable(reason.cache_status()),
                    false => Report::Pass(reason.cache_status()),
                };
                let outage = passed.exchange.outage();
                let passed = passed.into_response(self.view.method);
                let response = ClientResponse::passed(passed).because(outage);
                let response = self.finished(response, matched);
                Decision::Respond { response, report: Some(report), site: Some(site) }
            }
            Err(error) => self.no_answer(&error, Report::Pass(reason.cache_status()), matched),
        }
    }

    /// Counts a tunnel; an error if there are too many: the status, and why.
    fn open_tunnel(&self, site: usize) -> Result<OpenTunnel, (StatusCode, &'static str)> {
        let (config, runtime) = (self.snapshot.site(site), &self.snapshot.sites[site]);
        let most = (config.max_tunnels, config.max_tunnels_per_client);
        runtime.running.tunnels.open(self.view.client, most.0, most.1).map_err(|too_many| match too_many {
            TooManyTunnels::OfSite => {
                (StatusCode::SERVICE_UNAVAILABLE, "the site has as many tunnels as it may; see its max_tunnels")
            }
            TooManyTunnels::OfClient => {
                (StatusCode::TOO_MANY_REQUESTS, "this client has as many tunnels as it may; see max_tunnels_per_client")
            }
        })
    }

    fn no_answer(&self, error: &OriginError, report: Report, matched: Matched<'_>) -> Decision {
        let (site, RequestView { method, host, path, client, id, .. }) = (&matched.site.name, &self.view);
        match error {
            OriginError::Request(error) => {
                tracing::debug!(%site, %client, %method, host, path, %id, %error, "a request did not come whole");
            }
            // They are counted, and come in crowds.
            OriginError::TooManyRequests | OriginError::Busy { .. } => {
                tracing::debug!(%site, %client, %method, host, path, %id, %error, "a request was refused");
            }
            error => tracing::warn!(%site, %client, %method, host, path, %id, %error, "no answer from the origin"),
        }
        let mut response = self.fault(Fault::of_origin(error), Some(matched.site_index), Timestamp::now());
        let wait = match error {
            OriginError::TooManyRequests => Some(1),
            // As long as others have waited for nothing.
            OriginError::Busy { .. } => Some(self.snapshot.config.pool(matched.pool).queue.timeout.as_secs().max(1)),
            _ => None,
        };
        if let Some(seconds) = wait {
            response = response.with_field(header::RETRY_AFTER, itoa::Buffer::new().format(seconds));
        }
        let response = self.changed(response.because(error.to_string()), matched.route);
        Decision::Respond { response, report: Some(report), site: Some(matched.site_index) }
    }

    /// An error for a request that is not even tried; `route`: whose it is, if that is known.
    fn refuse(
        &self,
        status: StatusCode,
        why: &'static str,
        report: Option<Report>,
        site: Option<usize>,
        route: Option<&Route>,
    ) -> Decision {
        let mut response = self.fault(Fault::of_request(status, why), site, self.now);
        if let Some(site) = site.filter(|_| status == StatusCode::METHOD_NOT_ALLOWED) {
            let methods = allowed_methods(self.snapshot.site(site), &self.view, self.now);
            response = response.with_field(header::ALLOW, &methods);
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response = response.with_field(header::RETRY_AFTER, "1");
        }
        let response = match route {
            Some(route) => self.changed(response, route),
            None => self.changed_by(response, site.and_then(|site| self.snapshot.site(site).response.as_ref()), None),
        };
        Decision::Respond { response, report, site }
    }

    /// An error of the node's own.
    fn fault(&self, fault: Fault, site: Option<usize>, now: Timestamp) -> ClientResponse {
        let pages = site.map_or(&[][..], |site| &self.snapshot.site(site).error_pages);
        fault.answer(&self.view, pages, &self.snapshot.config.node.name, now)
    }

    /// An origin's answer, or the page that its site has instead. What the node says of a condition or a range is no answer of
    /// an origin's; nor is what it says of a file that is not there.
    fn paged(&self, response: ClientResponse, Matched { site, pool, .. }: Matched<'_>) -> ClientResponse {
        let status = response.status();
        let by_origin = self.snapshot.config.pool(pool).files.is_none();
        let page = |wants_problem| site.error_pages.iter().find(|page| page.is_for(status, by_origin, wants_problem));
        if response.reply != Reply::Full || page(false).is_none() {
            return response;
        }
        let response = response.varying_by_accept();
        match page(fault::wants_problem(&self.view)) {
            Some(page) => {
                let body = page.body(status, self.view.id.as_str(&mut [0; 32]));
                response.with_body(page.content_type.clone(), body)
            }
            None => response,
        }
    }

    /// What a site or a route answers by itself.
    fn own_answer(&self, site: &Site, route: Option<&Route>, answer: OwnAnswer<'_>) -> ClientResponse {
        let mut fields = HeaderMap::new();
        add_date(&mut fields, self.now);
        let renderer = Renderer::new(&self.view, route, self.now);
        let location = |location: String| HeaderValue::try_from(location).ok().map(|to| (header::LOCATION, to));
        let (status, body) = match answer {
            OwnAnswer::Elsewhere => {
                fields.extend(location(renderer.elsewhere(site)));
                (StatusCode::PERMANENT_REDIRECT, Bytes::new())
            }
            // What it says is said of all answers of the route, in `changed`.
            OwnAnswer::Preflight => (StatusCode::NO_CONTENT, Bytes::new()),
            OwnAnswer::Fixed(FixedAnswer::Redirect(redirect)) => {
                fields.extend(location(renderer.location(redirect)));
                (redirect.status, Bytes::new())
            }
            OwnAnswer::Fixed(FixedAnswer::Respond(Respond { status, content_type, fields: own, body })) => {
                fields.insert(header::CONTENT_TYPE, content_type.clone());
                fields.extend(own.iter().cloned());
                (*status, body.clone())
            }
        };
        let response = ClientResponse::of(status, fields, body);
        match route {
            Some(route) => self.changed(response, route),
            None => self.changed_by(response, site.response.as_ref(), None),
        }
    }

    /// A response as its route changes it.
    fn changed(&self, response: ClientResponse, route: &Route) -> ClientResponse {
        self.changed_by(response, route.response.as_ref(), Some(route))
    }

    fn changed_by(
        &self,
        response: ClientResponse,
        rules: Option<&Arc<FieldChanges>>,
        route: Option<&Route>,
    ) -> ClientResponse {
        let Some(rules) = rules else { return response };
        let made = Renderer::new(&self.view, route, self.now).fields(rules);
        response.changed(rules, made)
    }

    /// The method `PURGE` on a URL.
    async fn purge(&self, site: usize) -> ClientResponse {
        let (site, RequestView { host, path, query, .. }) = (self.snapshot.site(site), &self.view);
        let target = |uri| Target::Url { site: site.name.to_string(), uri };
        let targets = keyed_uris(site.routes_of(path), host, path, *query).into_iter().map(target).collect();
        let event = Event::Purge { soft: false, targets };
        match self.shared.engine.cache.purges.append(event, self.now, PURGE_PATIENCE).await {
            Ok(seq) => {
                let (json, body) = (HeaderValue::from_static("application/json"), format!("{{\"seq\":{}}}\n", seq.0));
                ClientResponse::own(StatusCode::OK, json, body.into(), self.now)
            }
            Err(error) => {
                tracing::error!(%error, "the purge could not be made durable");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let text = "the purge is in force, but could not be made durable: a restart would undo it";
                self.fault(Fault::of_request(status, text), None, self.now)
            }
        }
    }

    /// Counts and logs it, when it is answered.
    pub(crate) fn record(&self, site: Option<usize>, report: Option<&Report>, sent: &Sent) {
        let (snapshot, view) = (self.snapshot, &self.view);
        let outcome = Outcome {
            time: self.now,
            id: view.id,
            client: view.client,
            method: view.method,
            scheme: view.scheme.as_str(),
            host: view.host,
            path: view.path,
            query: view.query,
            version: view.version,
            status: sent.status,
            bytes_sent: sent.bytes,
            duration: self.started.elapsed(),
            site: site.map_or("", |site| &snapshot.site(site).name),
            cache: report.map_or("none", |report| report.result().as_str()),
            reason: report.and_then(Report::reason),
            referer: view.fields.get_str(&header::REFERER),
            user_agent: view.fields.get_str(&header::USER_AGENT),
            error: sent.error.as_deref().or(sent.why.as_deref()).or(report.and_then(Report::covered)),
        };
        self.shared.observer.record(&outcome, site.map(|site| snapshot.sites[site].metrics.as_ref()));
    }

    /// The same, when its client did not wait for the answer.
    pub(crate) fn record_left(&self) {
        self.record(self.snapshot.config.hosts.find(self.view.host), None, &Sent::client_left());
    }
}

/// Drives a decision on until it is made; `None`: until interim responses are there that go before it.
pub(crate) async fn step(
    deciding: &mut Pin<&mut impl Future<Output = Decision>>,
    interims: &Interims,
) -> Option<Decision> {
    poll_fn(|cx| match deciding.as_mut().poll(cx) {
        Poll::Ready(decision) => Poll::Ready(Some(decision)),
        Poll::Pending if !interims.is_empty() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Whether the body that a request announces is more than its route takes. One that comes in pieces is counted as it comes.
fn is_too_large(route: &Route, view: &RequestView<'_>) -> bool {
    let length = view.fields.get(&header::CONTENT_LENGTH).and_then(content_length);
    matches!((route.max_body, length), (Some(most), Some(length)) if length > most)
}

/// How a response went.
pub(crate) struct Sent {
    pub status: StatusCode,
    pub bytes: u64,
    /// Why it did not end well.
    pub error: Option<String>,
    /// Why there was nothing better.
    pub why: Option<String>,
}

impl Sent {
    /// Of a request whose client did not wait for the answer. The status is nginx's for this.
    fn client_left() -> Self {
        let status = StatusCode::from_u16(499).unwrap_or_default(); // three digits are a status
        Sent { status, bytes: 0, error: Some("the client left".to_owned()), why: None }
    }
}

/// Records what came on a connection and is not a request. Gives the answer to it.
pub(crate) fn refuse(shared: &Shared, endpoints: Endpoints, refusal: Refusal) -> ClientResponse {
    // Whatever it was, it is not known.
    let method = Method::from_bytes(b"-").unwrap_or_default();
    let view = RequestView {
        local_port: endpoints.local.port(),
        client: endpoints.client.ip(),
        peer: endpoints.client.ip(),
        ..RequestView::own(&method, endpoints.scheme, "", "", Fields::parsed(&[]))
    };
    let error = Some(refusal.why.to_owned());
    let sent = Sent { status: refusal.status, bytes: 0, error, why: None };
    let snapshot = shared.snapshot.load();
    let request = Request::new(shared, &snapshot, view);
    request.record(None, None, &sent);
    request.fault(Fault::of_request(refusal.status, refusal.why), None, request.now)
}
