//! What the configuration says about one request, decided before any I/O: a pure function of the
//! configuration and the request.

mod client;
pub(crate) mod facts;
mod key;
mod render;
mod way_back;

pub(crate) use client::client;
pub use facts::RequestFacts;
pub use key::Key;
pub(crate) use key::{CacheKey, KeyOrigin};
pub(crate) use render::Renderer;
pub(crate) use way_back::{FIELDS as FIELDS_WITH_PLACES, WayBack};

use std::borrow::Cow;

use http::{Method, StatusCode, Version, header};
use smallvec::SmallVec;

use crate::address::IpRange;
use crate::clock::Timestamp;
use crate::config::model::{
    Access, CacheMode, Config, EncodedDots, FixedAnswer, Https, KeyRules, PoolId, Route, Site, Then,
};
use crate::expression::Expression;
use crate::request::{RequestView, Scheme, content_length, lists, merge_slashes};

/// The decision about one request.
#[derive(Debug, Clone, Copy)]
pub enum Plan<'c> {
    /// Answered by the node itself with an error.
    /// By the rules of a route, if it was found.
    Refuse { status: StatusCode, why: &'static str, site: Option<usize>, route: Option<&'c Route> },
    /// `PURGE` by a client that may.
    Purge { site: usize },
    /// Answered by what its site or route says.
    Answer { site: usize, route: Option<&'c Route>, answer: OwnAnswer<'c> },
    /// Goes to the cache engine.
    Cache(Matched<'c>),
    /// Goes through to an origin; the reason is shown in `Cache-Status`.
    Pass(Matched<'c>, PassReason),
    /// The client wants to change the protocol: what its origin then agrees to is carried both ways.
    Tunnel(Matched<'c>),
}

impl<'c> Plan<'c> {
    /// What may go to an origin.
    pub(crate) fn matched(&mut self) -> Option<&mut Matched<'c>> {
        match self {
            Plan::Cache(matched) | Plan::Pass(matched, _) | Plan::Tunnel(matched) => Some(matched),
            Plan::Refuse { .. } | Plan::Purge { .. } | Plan::Answer { .. } => None,
        }
    }
}

/// An answer that needs no origin.
#[derive(Debug, Clone, Copy)]
pub enum OwnAnswer<'c> {
    /// Its site is served elsewhere: by HTTPS, or under another name.
    Elsewhere,
    /// A browser asks whether a page of another origin may ask.
    Preflight,
    Fixed(&'c FixedAnswer),
}

/// The site and route that a request belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'c> {
    pub site: &'c Site,
    /// Index in [`Config::sites`].
    pub site_index: usize,
    pub route: &'c Route,
    /// Index in [`Site::routes`].
    pub route_index: usize,
    /// Of the route, or where that sends this request.
    pub pool: PoolId,
    pub side: Side<'c>,
}

/// Whether the route's pool gives some of its requests to another: what is stored of the one is not for clients of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side<'c> {
    #[default]
    Whole,
    /// It does, and not this one.
    Kept,
    /// This one, to a pool of this name.
    Given(&'c str),
}

/// Why a request doesn't meet the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassReason {
    /// The route has `mode = "off"`.
    CacheOff,
    /// The route's `bypass` is true of it.
    Bypass,
    /// Only GET and HEAD are answered from the cache.
    Method,
    /// A GET or HEAD has a body, which no key knows.
    Body,
    /// The key was found uncacheable a short while ago.
    HitForMiss,
    /// The path hides dot segments, and the site lets such paths through.
    EncodedDots,
    /// What is stored is not for requests with `Authorization`.
    Authorization,
    /// As many fills are running as may.
    FillsFull,
    /// A fault of the node's own ended the fill that was to answer.
    FillLost,
}

impl PassReason {
    /// The parameters of `Cache-Status` (RFC 9211 section 2.2).
    pub fn cache_status(self) -> &'static str {
        match self {
            PassReason::CacheOff => "bypass",
            PassReason::Bypass => "bypass; detail=condition",
            PassReason::Method => "method",
            PassReason::Body => "bypass; detail=request-body",
            PassReason::HitForMiss => "bypass; detail=hit-for-miss",
            PassReason::EncodedDots => "bypass; detail=encoded-dots",
            PassReason::Authorization => "bypass; detail=authorization",
            PassReason::FillsFull => "bypass; detail=fills-full",
            PassReason::FillLost => "bypass; detail=fill-lost",
        }
    }
}

impl Matched<'_> {
    /// Writes the request's cache key into a buffer that the caller reuses.
    pub fn write_key(&self, buffer: &mut String, version: u64, request: &RequestView<'_>) {
        let mut rules = Cow::Borrowed(&self.route.cache.key);
        if rules.ignore_path_case && self.is_anothers_in_lower_case(request) {
            rules.to_mut().ignore_path_case = false;
        }
        let (site, condition) = (&*self.site.name, self.route.when.as_ref().map(|when| &*when.key));
        CacheKey::write(buffer, (site, version), self.site.keyed_port(request), condition, &rules, request);
    }

    /// The host, and the port where it counts: what the origin gets as `Host` of what all may get.
    pub fn keyed_authority(&self, request: &RequestView<'_>) -> String {
        match self.site.keyed_port(request) {
            Some(port) => format!("{}:{port}", request.host),
            None => request.host.to_owned(),
        }
    }

    /// Whether another route serves the path in lower case. What has that path for its key is of that route, and not to
    /// be replaced by what this one's pool answers.
    fn is_anothers_in_lower_case(&self, request: &RequestView<'_>) -> bool {
        let lower = request.path.to_ascii_lowercase();
        // What is stored under another condition, or under none, has other keys.
        let key = |route: &Route| route.when.as_ref().map(|when| when.key.clone());
        let own = key(self.route);
        self.site.find_route(request.method, &lower, |route, _| key(route) == own) != Some(self.route_index)
    }
}

/// Decides what is to be done with a request.
pub fn plan<'c>(config: &'c Config, request: &RequestView<'_>, now: Timestamp) -> Plan<'c> {
    let Some(site_index) = config.hosts.find(request.host) else {
        let why = "no site has this host";
        return Plan::Refuse { status: StatusCode::MISDIRECTED_REQUEST, why, site: None, route: None };
    };
    let site = config.sites[site_index].as_ref();
    if let (Some(names), Some(listener)) = (&site.listen, request.listener_name)
        && !names.iter().any(|name| name == listener)
    {
        let why = "no site has this host";
        return Plan::Refuse { status: StatusCode::MISDIRECTED_REQUEST, why, site: None, route: None };
    }
    let refuse = |status, why| Plan::Refuse { status, why, site: Some(site_index), route: None };
    let is_admitted = |access: &Option<Access>| access.as_ref().is_none_or(|access| access.admits(request));
    if !is_admitted(&site.access) {
        return refuse(StatusCode::FORBIDDEN, NOT_ADMITTED);
    }
    if request.method.as_str() == "PURGE" {
        let is_in = |ranges: &[IpRange]| ranges.iter().any(|range| range.contains(request.client));
        // Who asks a proxy in front is not known here, so it must not do what the proxy might.
        return if is_in(&site.purge_from) && !config.node.trusts(request.client) {
            Plan::Purge { site: site_index }
        } else {
            refuse(StatusCode::FORBIDDEN, "this client may not purge")
        };
    }
    if request.hides_dots && site.encoded_dots == EncodedDots::Refuse {
        return refuse(StatusCode::BAD_REQUEST, "the path hides a dot segment; see encoded_dots of [site]");
    }
    if (site.https == Https::Redirect || site.canonical_host.is_some()) && is_elsewhere(site, request) {
        return Plan::Answer { site: site_index, route: None, answer: OwnAnswer::Elsewhere };
    }
    let holds = holds(request, now);
    if *request.method == Method::OPTIONS
        && let Some(route) = preflight(site, request, now).filter(|route| is_admitted(&route.access))
    {
        return Plan::Answer { site: site_index, route: Some(route), answer: OwnAnswer::Preflight };
    }
    let Some(route_index) = site.find_route(request.method, request.path, holds) else {
        return match site.has_path(request.path, holds) {
            true => refuse(StatusCode::METHOD_NOT_ALLOWED, "no route takes this method"),
            false => refuse(StatusCode::NOT_FOUND, "no route matches this path"),
        };
    };
    let hides = request.hides_dots || site.is_read_otherwise(request.method, request.path, route_index, holds);
    if hides && site.encoded_dots == EncodedDots::Refuse {
        let why = "an encoded slash makes the path another route's to some servers; see encoded_dots of [site]";
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    let route = &site.routes[route_index];
    if !is_admitted(&route.access) {
        let (status, why) = (StatusCode::FORBIDDEN, NOT_ADMITTED);
        return Plan::Refuse { status, why, site: Some(site_index), route: Some(route) };
    }
    let pool = match &route.then {
        Then::Pool(pool) => *pool,
        Then::Answer(answer) => {
            return Plan::Answer { site: site_index, route: Some(route), answer: OwnAnswer::Fixed(answer) };
        }
    };
    let matched = Matched { site, site_index, route, route_index, pool, side: Side::Whole };
    if asks_for_upgrade(request) {
        return Plan::Tunnel(matched);
    }
    if route.cache.mode == CacheMode::Off {
        return Plan::Pass(matched, PassReason::CacheOff);
    }
    // Which page it is, the origin may see otherwise: no other visitor gets it.
    if hides {
        return Plan::Pass(matched, PassReason::EncodedDots);
    }
    if !matches!(*request.method, Method::GET | Method::HEAD) {
        return Plan::Pass(matched, PassReason::Method);
    }
    if announces_body(request) {
        return Plan::Pass(matched, PassReason::Body);
    }
    if route.cache.bypass.as_ref().is_some_and(|bypass| is_true(bypass, &merge_slashes(request.path), request, now)) {
        return Plan::Pass(matched, PassReason::Bypass);
    }
    Plan::Cache(matched)
}

/// Whether a site that has another place is served there to who asks so. What proves to an issuer of certificates whose the host is stays where it
/// is asked for (RFC 8555 section 8.3).
#[cold]
fn is_elsewhere(site: &Site, request: &RequestView<'_>) -> bool {
    let is_plain = site.https == Https::Redirect && request.scheme == Scheme::Http;
    let is_alias = site.canonical_host.as_ref().is_some_and(|host| **host != *request.host);
    (is_plain || is_alias) && !request.path.starts_with("/.well-known/acme-challenge/")
}

/// The route that a preflight asks about, if it says who may ask (the Fetch standard, section 3.2.2).
#[cold]
fn preflight<'c>(site: &'c Site, request: &RequestView<'_>, now: Timestamp) -> Option<&'c Route> {
    let method = asked_by_preflight(request)?;
    // Conditions are asked about the request that is to follow.
    let announced = RequestView { method: &method, ..*request };
    let holds = holds(&announced, now);
    // One that takes another method says which.
    let route = match site.find_route(&method, request.path, holds) {
        Some(number) => &site.routes[number],
        None => of_path(site, request.path, holds).next()?,
    };
    route.cors().map(|_| route)
}

/// The method that a preflight asks for; `None`: it is none.
fn asked_by_preflight(request: &RequestView<'_>) -> Option<Method> {
    if *request.method != Method::OPTIONS || !request.fields.contains(&header::ORIGIN) {
        return None;
    }
    Method::from_bytes(request.fields.get(&header::ACCESS_CONTROL_REQUEST_METHOD)?).ok()
}

/// Whether the condition of a route is true of a request; of a path that some servers read otherwise, both readings are asked
/// about.
fn holds<'r>(request: &'r RequestView<'_>, now: Timestamp) -> impl Fn(&Route, &str) -> bool + Copy + 'r {
    move |route, path| {
        route.when.as_ref().is_none_or(|when| is_true(&when.condition, path, request, now)) && route.has_answer(path)
    }
}

fn is_true(condition: &Expression, path: &str, request: &RequestView<'_>, now: Timestamp) -> bool {
    condition.is_true(&RequestFacts { request, path, now, response: None })
}

/// The list for which [`plan`] refuses a client: its key, and the number of the route that has it; `None`: the site has it.
pub(crate) fn list_that_refuses(
    site: &Site,
    request: &RequestView<'_>,
    now: Timestamp,
) -> Option<(&'static str, Option<usize>)> {
    let of = |access: &Option<Access>| access.as_ref()?.refuses(request);
    let of_route = || {
        let number = site.find_route(request.method, request.path, holds(request, now))?;
        Some((of(&site.routes[number].access)?, Some(number)))
    };
    of(&site.access).map(|list| (list, None)).or_else(of_route)
}

/// The routes of a path, whatever their methods.
fn of_path<'c>(site: &'c Site, path: &str, holds: impl Fn(&Route, &str) -> bool) -> impl Iterator<Item = &'c Route> {
    let path = merge_slashes(path);
    site.routes.iter().filter(move |route| route.path.matches(&path) && holds(route, &path))
}

/// The methods that a site takes for the path of a request, as `Allow` has them (RFC 9110 section 10.2.1).
pub(crate) fn allowed_methods(site: &Site, request: &RequestView<'_>, now: Timestamp) -> String {
    let routes = of_path(site, request.path, holds(request, now));
    let mut all: Vec<&str> = routes.flat_map(|route| route.methods.iter().flatten()).map(Method::as_str).collect();
    all.sort_unstable();
    all.dedup();
    all.join(", ")
}

/// The URIs, as keys have them, under which a URL may be stored: as it is written, and as the rules of the routes that serve
/// it make it. Both, since rules change while objects stay.
pub(crate) fn keyed_uris<'r>(
    routes: impl IntoIterator<Item = &'r Route>,
    host: &str,
    path: &str,
    query: Option<&str>,
) -> SmallVec<[String; 2]> {
    let uri = |rules: &KeyRules| {
        let mut uri = String::with_capacity(host.len() + path.len() + query.map_or(0, |query| query.len() + 1));
        key::push_uri(&mut uri, rules, host, path, query);
        uri
    };
    let plain = KeyRules::default();
    let mut uris = SmallVec::from_iter([uri(&plain)]);
    for rules in routes.into_iter().map(|route| &route.cache.key).filter(|rules| !rules.keys_urls_as(&plain)) {
        let keyed = uri(rules);
        if !uris.contains(&keyed) {
            uris.push(keyed);
        }
    }
    uris
}

/// Whether a request says that it has a body: a length of 0 is none. By HTTP/2 it may have one without saying so.
fn announces_body(request: &RequestView<'_>) -> bool {
    request.fields.contains(&header::TRANSFER_ENCODING)
        || request.fields.get(&header::CONTENT_LENGTH).is_some_and(|length| content_length(length) != Some(0))
}

/// RFC 9110 section 7.8: `Upgrade` counts only where `Connection` names it, and not in HTTP/1.0 or HTTP/2. With
/// a body, which would have to be sent first, it is left unheeded, as the section allows.
pub(crate) fn asks_for_upgrade(request: &RequestView<'_>) -> bool {
    *request.method == Method::GET
        && request.version == Version::HTTP_11
        && request.fields.get(&header::UPGRADE).is_some_and(|protocol| !protocol.is_empty())
        && request.fields.joined(&header::CONNECTION).is_some_and(|options| lists(&options, "upgrade"))
        && !announces_body(request)
}

/// What a client is told whose address is in no list of those that may, or in one of those that may not.
const NOT_ADMITTED: &str = "this address is not admitted here";

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use http::HeaderMap;

    use super::*;
    use crate::config::load;
    use crate::request::{Fields, Scheme, tests::map};

    pub(crate) fn config(text: &str) -> Config {
        load::parse(Path::new("test.toml"), text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    pub(crate) fn view<'a>(
        method: &'a Method,
        host: &'a str,
        path: &'a str,
        headers: &'a HeaderMap,
    ) -> RequestView<'a> {
        let own = RequestView::own(method, Scheme::Http, host, path, Fields::Map(headers));
        RequestView { client: [10, 0, 0, 9].into(), ..own }
    }

    const CONFIG: &str = r#"
        [pool.app]
        origins = ["127.0.0.1:1"]
        [site.shop]
        hosts = ["shop.example", "*.shop.example"]
        purge_from = ["10.0.0.0/8"]
        [[site.shop.route]]
        path = "/static/*"
        pool = "app"
        cache = { mode = "respect" }
        [[site.shop.route]]
        path = "/api/*"
        methods = ["POST"]
        pool = "app"
        [[site.shop.route]]
        path = "/page"
        pool = "app"
        [site.closed]
        hosts = ["closed.example"]
        [[site.closed.route]]
        path = "/*"
        pool = "app"
    "#;

    pub(crate) const NOW: Timestamp = Timestamp::from_secs(0);

    fn describe(plan: Plan) -> String {
        match plan {
            Plan::Answer { site, .. } => format!("answer {site}"),
            Plan::Refuse { status, .. } => format!("refuse {}", status.as_u16()),
            Plan::Purge { site } => format!("purge {site}"),
            Plan::Cache(matched) => format!("cache {}", matched.route_index),
            Plan::Tunnel(matched) => format!("tunnel {}", matched.route_index),
            Plan::Pass(matched, reason) => format!("pass {} {reason:?}", matched.route_index),
        }
    }

    #[test]
    fn plans() {
        let config = config(CONFIG);
        let plain = HeaderMap::new();
        let unnamed = map(&[("upgrade", "websocket")]);
        let upgrade = map(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]);
        for (method, host, path, headers, expected) in [
            ("GET", "shop.example", "/static/a.css", &plain, "cache 0"),
            ("HEAD", "a.shop.example", "/static/a.css", &plain, "cache 0"),
            ("POST", "shop.example", "/static/a.css", &plain, "pass 0 Method"),
            ("GET", "shop.example", "/static/a%2Fb.css", &plain, "cache 0"),
            ("GET", "shop.example", "/static/%2Fb.css", &plain, "cache 0"),
            ("GET", "shop.example", "/static/ws", &upgrade, "tunnel 0"),
            ("POST", "shop.example", "/static/ws", &upgrade, "pass 0 Method"),
            ("GET", "shop.example", "/static/ws", &unnamed, "cache 0"),
            ("POST", "shop.example", "/api/x", &plain, "pass 1 CacheOff"),
            ("GET", "shop.example", "/api/x", &plain, "refuse 405"),
            ("GET", "shop.example", "/page", &plain, "pass 2 CacheOff"),
            ("GET", "shop.example", "/other", &plain, "refuse 404"),
            ("GET", "other.example", "/", &plain, "refuse 421"),
            ("PURGE", "shop.example", "/static/a.css", &plain, "purge 1"),
            ("PURGE", "closed.example", "/", &plain, "refuse 403"),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!(
                describe(plan(&config, &view(&method, host, path, headers), NOW)),
                expected,
                "{method} {host}{path}"
            );
        }
    }

    #[test]
    fn ports_that_count() {
        let text = |ports: &str| {
            format!(
                "[pool.app]\norigins = [\"127.0.0.1:1\"]\n[site.shop]\n{ports}\n[[site.shop.route]]\npath = \"/*\"\n\
                 pool = \"app\"\ncache = {{ mode = \"respect\" }}"
            )
        };
        let usual = "hosts = [\"shop.example\"]";
        let named = "hosts = [\"shop.example\", \"shop.example:8443\"]";
        let any = "hosts = [\"shop.example\"]\nports = \"any\"";
        let plain = HeaderMap::new();
        for (site, scheme, port, local_port, counts) in [
            (usual, Scheme::Http, None, 8080, false),
            (usual, Scheme::Http, Some(80), 80, false),
            (usual, Scheme::Http, Some(8080), 8080, true),
            (usual, Scheme::Http, Some(8081), 8080, false),
            (usual, Scheme::Https, Some(443), 443, false),
            (usual, Scheme::Https, Some(80), 443, false),
            (usual, Scheme::Https, Some(8443), 443, false),
            (named, Scheme::Https, Some(8443), 443, true),
            (named, Scheme::Https, Some(8444), 443, false),
            (any, Scheme::Https, Some(8444), 443, true),
            (any, Scheme::Https, Some(443), 8443, false),
        ] {
            let config = config(&text(site));
            let mut request = view(&Method::GET, "shop.example", "/", &plain);
            (request.scheme, request.port, request.local_port) = (scheme, port, local_port);
            let Plan::Cache(matched) = plan(&config, &request, NOW) else { panic!("{site}") };
            let expected =
                port.filter(|_| counts).map_or("shop.example".to_owned(), |port| format!("shop.example:{port}"));
            assert_eq!(matched.keyed_authority(&request), expected, "{site} {scheme:?} {port:?} {local_port}");
            let mut key = String::new();
            matched.write_key(&mut key, 1, &request);
            assert_eq!(Key::of_written(&key).origin().port, port.filter(|_| counts), "{site} {port:?}");
        }
    }

    #[test]
    fn routes_are_found_whatever_slashes_there_are_and_hidden_dots_are_refused() {
        let plain = HeaderMap::new();
        let describe_path = |config: &Config, path: &str| {
            let target = crate::request::Target::parse(path).unwrap();
            describe(plan(config, &view(&Method::GET, "shop.example", &target.path, &plain), NOW))
        };
        let (refuses, passes) =
            (config(CONFIG), config(&CONFIG.replace("purge_from", "encoded_dots = \"pass\"\npurge_from")));
        for (path, expected, when_passed) in [
            ("/static//a.css", "cache 0", "cache 0"),
            ("//static/a.css", "cache 0", "cache 0"),
            ("//page", "pass 2 CacheOff", "pass 2 CacheOff"),
            ("/static/..%2fpage", "refuse 400", "pass 0 EncodedDots"),
            ("/static/%252e%252e/page", "refuse 400", "pass 0 EncodedDots"),
        ] {
            assert_eq!(describe_path(&refuses, path), expected, "{path}");
            assert_eq!(describe_path(&passes, path), when_passed, "{path}");
        }
    }

    #[test]
    fn a_proxy_in_front_may_not_purge_for_whoever_asks_it() {
        let method: Method = "PURGE".parse().unwrap();
        let plain = HeaderMap::new();
        for (trusted, expected) in [("10.0.0.0/24", "refuse 403"), ("192.0.2.0/24", "purge 1")] {
            let config = config(&format!("[node]\ntrusted_proxies = [\"{trusted}\"]\n{CONFIG}"));
            let planned = plan(&config, &view(&method, "shop.example", "/static/a.css", &plain), NOW);
            assert_eq!(describe(planned), expected, "{trusted}");
        }
    }
}
