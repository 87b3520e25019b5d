//! What a fill asks an origin, and what it needs to know of the request that caused it.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Version, header};

use crate::clock::Timestamp;
use crate::config::model::{CacheRules, Route};
use crate::origin::forward;
use crate::origin::pick::Choice;
use crate::origin::request::{OriginRequest, Silence};
use crate::plan::{CacheKey, Renderer, Side};
use crate::prefix::Prefix;
use crate::request::{FieldLines, Fields, RequestView, Scheme};
use crate::snapshot::Snapshot;

use super::super::object::Object;
use super::super::part::Part;
use super::super::policy::{self, RequestFacts};
use super::super::purge::{Purges, Standing};
use super::super::request::CacheRequest;
use super::super::slice::Slice;
use super::super::vary::{self, Presented};
use crate::representation::range;

/// Everything a fill needs to know; owned, since it outlives the request that caused it.
pub(crate) struct FillRequest {
    pub snapshot: Arc<Snapshot>,
    pub site_index: usize,
    pub route_index: usize,
    /// What the response is stored under.
    pub key: CacheKey,
    /// Of what a slice is asked for.
    pub slice: Option<Slice<CacheKey>>,
    /// The client's fields, for `Vary` and `Authorization`.
    pub client_fields: FieldLines,
    /// The client has come by HTTPS.
    pub is_secure: bool,
    /// Its route's pool gives some requests to another.
    is_divided: bool,
    client: IpAddr,
    peer: IpAddr,
    version: Version,
    /// Bytes of the target that the client sent.
    pub target: usize,
    /// The client wants nothing stored.
    pub no_store: bool,
    /// What is sent to the origin, before conditions are added.
    pub origin: OriginRequest,
    /// A stored response that may be validated, or used if the origin fails.
    pub stale: Option<Arc<Object>>,
    /// A part of a response, to be completed.
    pub part: Option<Arc<Part>>,
}

impl FillRequest {
    /// What a fill for a request asks the origin; `stale`: what may be validated; `part`: what may be completed.
    pub(crate) fn new(request: &CacheRequest<'_>, stale: Option<Arc<Object>>, part: Option<Arc<Part>>) -> Box<Self> {
        let view = request.view;
        let rules = &request.matched.route.cache;
        let mut client_fields = view.fields.to_lines();
        // The node's own cookie says nothing of who asks, but where the session is.
        let mut session = None;
        if let Some(sticky) = request.snapshot.pools.sticky(request.matched.pool) {
            session = view.fields.find_map(&header::COOKIE, |cookies| sticky.origin_of(cookies));
            forward::join_cookies(&mut client_fields);
            sticky.hide(&mut client_fields);
        }
        let mut fields = client_fields.clone();
        forward::exclude_hop_by_hop(&mut fields);
        forward::exclude_unheeded(&mut fields, rules);
        forward::exclude_from_fill(&mut fields, rules);
        vary::normalise(&mut fields, &rules.key, view.country());
        // What origins are asked for is made of what is keyed: all requests of one key ask for the same.
        let (key, route) = (CacheKey::from_written(request.key), request.matched.route);
        let renders = route.rewrite.is_some() || route.request.is_some();
        let node = &request.snapshot.config.node;
        let compared = renders.then(|| vary::as_compared(&fields, view, node, &rules.key)).flatten();
        let compared = Fields::Lines(compared.as_ref().unwrap_or(&fields));
        let keyed = RequestView { path: key.view().path(), query: key.view().query(), fields: compared, ..*view };
        let rendered = Renderer::new(&keyed, Some(route), Timestamp::now());
        let target = rendered.target();
        let own = route.request.as_ref().map(|changes| (changes, rendered.fields(changes)));
        let asked = || asked_range(request, stale.as_ref()).filter(|_| part.is_none());
        if let Some(range) = request.slice.as_ref().map(Slice::range).or_else(asked) {
            fields.insert(&header::RANGE, range.as_bytes());
        }
        // As it is keyed: a port of the client's choosing must not shape what all get.
        let authority = request.matched.keyed_authority(view);
        let snapshot = request.snapshot;
        forward::set_forwarding_fields(&mut fields, view, &authority, &snapshot.config.node, &snapshot.passage);
        if let Some((changes, made)) = own {
            forward::change(&mut fields, changes, made);
        }
        let pool = request.matched.pool;
        Box::new(FillRequest {
            origin: OriginRequest {
                method: Method::GET,
                path_and_query: target,
                authority,
                host: route.rewrite.as_ref().and_then(|rewrite| rewrite.host.clone()),
                fields,
                pool,
                site: request.matched.site.name.clone(),
                choice: Choice { hash: request.snapshot.pools.hash(pool, view), origin: session },
                upgrade: None,
                takes_trailers: false,
                read_timeout: route.read_timeout,
                total_timeout: route.total_timeout,
                silence: request.snapshot.config.stream_timeout(route, pool).map(Silence::Of),
                ends: view.seen_ends(),
                interims: None,
                changes: route.response.clone(),
            },
            is_secure: view.scheme == Scheme::Https,
            is_divided: request.matched.side != Side::Whole,
            snapshot: request.snapshot.clone(),
            site_index: request.matched.site_index,
            route_index: request.matched.route_index,
            key,
            slice: request.slice.map(Slice::to_owned),
            client_fields,
            client: view.client,
            peer: view.peer,
            version: view.version,
            target: view.path.len() + view.query.map_or(0, str::len),
            no_store: request.asks.no_store,
            part: part.filter(|_| !request.asks.no_store),
            stale: stale.filter(|_| !request.asks.no_store),
        })
    }

    pub(crate) fn route(&self) -> &Route {
        self.snapshot.route(self.site_index, self.route_index)
    }

    pub(crate) fn rules(&self) -> &CacheRules {
        &self.route().cache
    }

    /// What stands in keys for the condition of its route.
    pub(super) fn condition(&self) -> Option<&str> {
        self.route().when.as_ref().map(|when| &*when.key)
    }

    /// As stored responses are selected by it.
    pub(super) fn presented(&self) -> Presented<'_> {
        Presented {
            fields: Fields::Lines(&self.client_fields),
            client: self.client,
            peer: self.peer,
            version: self.version,
            node: Some(&self.snapshot.config.node),
            pool: None, // its fields are without it
            side: self.snapshot.side(self.is_divided, self.route(), self.origin.pool),
        }
    }

    /// The network for whose sake it is stored. `None`: its clients are no crowd, as those behind a trusted proxy.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        self.snapshot.config.node.prefix_of(self.client)
    }

    pub(crate) fn facts(&self) -> RequestFacts<'_> {
        RequestFacts::new(self.presented(), self.target, self.no_store)
    }

    /// The fields of a response, as if it varied by all that may tell the origin who asks, as [`policy::RequestFacts`] has it; by
    /// some of that, if it is much.
    pub(super) fn varying_by_who_asks(&self, mut fields: HeaderMap) -> HeaderMap {
        const MOST: usize = 8;
        let mut names = 0;
        self.presented().fields.for_all(|name, _| {
            if names < MOST
                && policy::may_tell_who_asks(name, self.rules())
                && let Ok(name) = HeaderValue::from_str(name)
            {
                fields.append(header::VARY, name);
                names += 1;
            }
        });
        fields
    }

    /// Leaves out what a purge has killed by the time the fill's number was taken: it is not to be validated back to life.
    pub(super) fn let_the_dead_rest(&mut self, purges: &Purges) {
        let lives = |object: &Object| object.standing(purges) != Standing::Dead;
        self.stale = self.stale.take().filter(|stale| lives(stale));
        self.part = self.part.take().filter(|part| lives(&part.object));
    }

    /// Asks the origin to confirm what is stored (RFC 9111 section 4.3.1).
    pub(super) fn add_conditions(&mut self) {
        let Some(stale) = &self.stale else { return };
        for (stored, condition) in
            [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)]
        {
            if let Some(value) = stale.head.get(&stored) {
                self.origin.fields.insert(&condition, value);
            }
        }
    }
}

/// Whether a 304 has another validator than what is stored (RFC 9111 section 4.3.4). They are compared weakly: nginx weakens the
/// tag of what it codes, but not in the 304.
pub(super) fn confirms_another(fields: &HeaderMap, stale: &Object) -> bool {
    let opaque = |etag: &[u8]| etag.strip_prefix(b"W/").unwrap_or(etag).to_vec();
    let Some(given) = fields.get(header::ETAG).map(|etag| etag.as_bytes()) else { return false };
    match stale.head.get(&header::ETAG) {
        Some(stored) => opaque(stored) != opaque(given),
        None => !given.starts_with(b"W/"),
    }
}

/// The range to ask the origin for, where the route says so and nothing whole is there to be validated.
pub(crate) fn asked_range(request: &CacheRequest<'_>, stale: Option<&Arc<Object>>) -> Option<HeaderValue> {
    let asks = request.matched.route.cache.fetch_ranges && stale.is_none() && *request.view.method == Method::GET;
    asks.then(|| range::single_range(request.view.fields)).flatten().and_then(|range| range.parse().ok())
}
