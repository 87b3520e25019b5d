//! `[site.NAME]`: hosts that are served alike.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};

use crate::address::IpRange;
use crate::config::diagnose::{At, Diagnostics, Need, Place};
use crate::config::host::{HostMap, HostPattern};
use crate::config::read::{ByteSize, Table, words};
use crate::config::routes::Routes;
use crate::request::{RequestView, as_decoded, merge_slashes, parse_authority};

use super::access::{self, Access};
use super::error_page::{self, ErrorPage};
use super::fields::{self, FieldChanges, Message};
use super::listen::Listener;
use super::memory::CacheMemory;
use super::node::Node;
use super::pool::PoolNames;
use super::route::{self, Route, SiteFields};
use super::sets::{self, Sets};

#[derive(Debug, Clone)]
pub struct Site {
    pub name: Arc<str>,
    /// As configured; the admin API may set another one at run time.
    pub version: u64,
    /// Clients whose `PURGE` method works.
    pub purge_from: Vec<IpRange>,
    /// Whose requests are admitted, to any of its routes; `None`: everybody's.
    pub access: Option<Access>,
    /// What is changed in the fields of answers that are no route's.
    pub response: Option<Arc<FieldChanges>>,
    /// The first that is for an error is what clients get.
    pub error_pages: Vec<ErrorPage>,
    pub ports: Ports,
    /// Those that its hosts are written with.
    pub named_ports: Vec<u16>,
    pub encoded_dots: EncodedDots,
    /// Names of the listeners that it is served on; `None`: all.
    pub listen: Option<Box<[String]>>,
    /// Whether plain requests are sent to HTTPS.
    pub https: Https,
    /// The port of that, as clients see it.
    pub https_port: u16,
    /// The one host that requests for the others are sent to.
    pub canonical_host: Option<Box<str>>,
    /// Bytes of the memory tier that are its own; `None`: it has what others leave.
    pub memory: Option<u64>,
    /// Requests that may run at one time; `None`: any number.
    pub max_requests: Option<u32>,
    /// Tunnels that may be open at one time; `None`: any number.
    pub max_tunnels: Option<u32>,
    pub max_tunnels_per_client: Option<u32>,
    pub routes: Routes,
}

/// What becomes of requests without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Https {
    /// They are served as all others.
    Optional,
    Redirect,
}

/// The ports in clients' `Host` that are keyed and sent on, besides that of the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    Named,
    /// Whatever clients write: they can ask for as many variants of a page as there are ports.
    Any,
}

/// What becomes of paths in which only some servers see dot segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodedDots {
    Refuse,
    /// They go to the origin, uncached.
    Pass,
}

impl Site {
    /// The first route that takes a request, by its place; `holds`: whether a route's condition does, of a request for a path.
    pub fn find_route(&self, method: &Method, path: &str, holds: impl Fn(&Route, &str) -> bool) -> Option<usize> {
        let path = merge_slashes(path);
        self.routes.serving(method, &path, |route| holds(route, &path))
    }

    /// The routes that may take a GET of a path, whatever else the request is like.
    pub fn routes_of(&self, path: &str) -> impl Iterator<Item = &Route> {
        let path = merge_slashes(path);
        let last = self.routes.serving(&Method::GET, &path, Route::is_unconditional);
        let conditional = self.routes.conditional().filter(move |place| last.is_none_or(|last| *place < last));
        let all = conditional.filter(move |place| self.routes[*place].serves(&Method::GET, &path)).chain(last);
        all.map(|place| &self.routes[place])
    }

    /// Whether a path may be another route's to servers which decode it before they look for what it names. A route whose
    /// pattern has escapes was written with them in mind.
    pub fn is_read_otherwise(
        &self,
        method: &Method,
        path: &str,
        route: usize,
        holds: impl Fn(&Route, &str) -> bool,
    ) -> bool {
        let has_escapes = || self.routes[route].path.as_str().contains('%');
        as_decoded(path)
            .is_some_and(|decoded| self.find_route(method, &decoded, holds) != Some(route) && !has_escapes())
    }

    /// Whether a route is for a path, if not for every method.
    pub fn has_path(&self, path: &str, holds: impl Fn(&Route, &str) -> bool) -> bool {
        let path = merge_slashes(path);
        self.routes.has_path(&path, |route| holds(route, &path))
    }

    /// The port of a request, if it counts: not the scheme's own, and one that the operator knows of.
    pub fn keyed_port(&self, request: &RequestView<'_>) -> Option<u16> {
        let port = request.port.filter(|port| *port != request.scheme.default_port())?;
        let counts = self.ports == Ports::Any || port == request.local_port || self.named_ports.contains(&port);
        counts.then_some(port)
    }
}

words!(Https { "optional" => Https::Optional, "redirect" => Https::Redirect });
words!(Ports { "named" => Ports::Named, "any" => Ports::Any });
words!(EncodedDots { "refuse" => EncodedDots::Refuse, "pass" => EncodedDots::Pass });

/// A site with its hosts, which may be another's, too.
pub(crate) struct SiteSection {
    site: Site,
    hosts: Vec<(HostPattern, At<String>)>,
    place: Place,
    /// Where it says how much memory it has.
    memory: Place,
}

/// A site's own part of the memory tier holds a few objects at least.
const LEAST_MEMORY: ByteSize = ByteSize(1 << 20);

impl SiteSection {
    /// Points out that it sends clients to where nobody listens.
    pub(crate) fn check_https(&self, listeners: &[At<Listener>], node: &Node, errors: &Diagnostics) {
        let names = self.site.listen.as_ref();
        let serves = |listener: &Listener| names.is_none_or(|names| names.contains(&listener.name));
        let has_tls = listeners.iter().any(|listener| listener.value.tls && serves(&listener.value));
        let may_be_told = |listener: &Listener| !listener.proxy_from.is_empty() && serves(listener);
        let is_told = !node.trusted_proxies.is_empty() || listeners.iter().any(|listener| may_be_told(&listener.value));
        if self.site.https == Https::Redirect && !has_tls && !is_told {
            let message = format!("site {:?} sends plain requests to HTTPS, and no listener has it", self.site.name);
            errors.warn(
                self.place,
                message,
                "add a [[listen]] with tls = true; or name the balancer that ends TLS in trusted_proxies of [node]",
            );
        }
    }
}

/// What sites have of the memory tier for themselves; something has to be left for others.
pub(crate) fn shares_of_memory(
    sites: &[SiteSection],
    memory: &CacheMemory,
    errors: &Diagnostics,
) -> Vec<(Arc<str>, ByteSize)> {
    let of_sites = sites.iter().filter_map(|site| Some((site, ByteSize(site.site.memory?))));
    let of_sites: Vec<_> = of_sites.collect();
    let sum = of_sites.iter().map(|(_, size)| size.0).fold(0, u64::saturating_add);
    if let Some((last, _)) = of_sites.last().filter(|_| sum >= memory.max_size.0) {
        errors.error_with_hint(
            last.memory,
            format!(
                "\"memory\" of sites is {} in all, and max_size in [cache.memory] is {}",
                ByteSize(sum),
                memory.max_size
            ),
            "max_size is for all sites together: make it larger, and leave some for sites without \"memory\"",
        );
    }
    for (site, size) in of_sites.iter().filter(|(_, size)| *size < memory.max_object) {
        errors.warn(
            site.memory,
            format!("\"memory\" of site {:?} is {size}: what is larger it does not keep in memory, though max_object in [cache.memory] is {}", site.site.name, memory.max_object),
            "make it larger, or max_object smaller, or store large objects in slices",
        );
    }
    of_sites.into_iter().map(|(site, size)| (site.site.name.clone(), size)).collect()
}

/// The listeners that a site names. Each must be there.
fn read_listen(table: &mut Table) -> Option<Box<[String]>> {
    let (errors, place) = (table.errors, table.place_of("listen"));
    let names = table.optional_list::<String>("listen")?;
    if names.is_empty() {
        errors.error(place, format!("\"listen\" in {} is empty: it would be served nowhere", table.name));
    }
    names.iter().for_each(|name| errors.need(Need::Listener(name.value.as_str().into()), name.place));
    Some(names.into_iter().map(|name| name.value).collect())
}

pub(crate) fn read<'t, 'i>(
    At { value: name, place }: At<String>,
    mut table: Table<'t, 'i>,
    pools: &PoolNames,
    sets: &Sets<'t, 'i>,
) -> SiteSection {
    let errors = table.errors;
    if table.lacks("hosts") {
        let hint = "add hosts = [\"shop.example.com\"], or [\"*\"] for all; all of a site must be in one file";
        errors.error_with_hint(place, format!("site {name:?} has no hosts"), hint);
    }
    if table.lacks("route") {
        let hint = format!("add [[site.{name}.route]] with path and pool");
        errors.error_with_hint(place, format!("site {name:?} has no routes"), hint);
    }
    let (mut hosts, mut named_ports) = (Vec::new(), Vec::new());
    for host in table.list::<String>("hosts") {
        let parsed = split_port(&host.value).and_then(|(host, port)| Ok((host.parse()?, port)));
        let Some((pattern, port)) = errors.accept(host.place, parsed) else { continue };
        hosts.push((pattern, host));
        named_ports.extend(port);
    }
    let pages = table.tables("error_page", &format!("[[site.{name}.error_page]]"));
    let defaults = table.table("defaults", &format!("[site.{name}.defaults]"), "defaults = { pool = \"app\" }");
    defaults.iter().for_each(sets::check);
    let mut routes = table.tables("route", &format!("[[site.{name}.route]]"));
    routes.iter_mut().for_each(|route| sets.give(route, defaults.as_ref()));
    let mut fields = SiteFields {
        request: fields::read(&mut table, Message::Request, 0),
        response: fields::read(&mut table, Message::Response, 0),
    };
    fields.response.say_hsts(read_hsts(&mut table));
    let at = (&*table.name, place);
    fields::check_said(&fields.response, fields.response.hsts.is_some(), false, at, errors);
    let canonical_host = read_canonical(&mut table, &hosts);
    let listen = read_listen(&mut table);
    let memory: Option<At<ByteSize>> = table.get("memory");
    if let Some(size) = memory.as_ref().filter(|size| size.value.0 < LEAST_MEMORY.0) {
        errors.error(size.place, format!("\"memory\" in {} must be at least {LEAST_MEMORY}", table.name));
    }
    let max_requests = table.positive("max_requests");
    let site = Site {
        name: name.into(),
        version: table.get_or("version", 1),
        purge_from: table.plain_list("purge_from"),
        access: access::read(&mut table),
        response: fields::together(FieldChanges::default(), &fields.response),
        error_pages: pages.into_iter().filter_map(error_page::read).collect(),
        ports: table.get_or("ports", Ports::Named),
        named_ports,
        encoded_dots: table.get_or("encoded_dots", EncodedDots::Refuse),
        listen,
        https: table.get_or("https", Https::Optional),
        https_port: table.get_or("https_port", 443),
        canonical_host,
        memory: memory.as_ref().map(|size| size.value.0),
        max_requests,
        max_tunnels: table.positive("max_tunnels"),
        max_tunnels_per_client: table.positive("max_tunnels_per_client"),
        routes: read_routes(routes, pools, &fields, errors).into_iter().collect(),
    };
    table.finish();
    SiteSection { site, hosts, place, memory: memory.map_or(place, |size| size.place) }
}

/// The value of `Strict-Transport-Security` (RFC 6797 section 6.1).
fn read_hsts(table: &mut Table) -> Option<HeaderValue> {
    let name = format!("hsts of {}", table.name);
    let mut table = table.table("hsts", &name, "hsts = { max_age = \"365d\" }")?;
    let max_age: At<Duration> = table.require("max_age")?;
    let [subdomains, preload] = ["include_subdomains", "preload"].map(|key| table.get_or(key, false));
    table.finish();
    let words = [(subdomains, "; includeSubDomains"), (preload, "; preload")];
    let words = words.into_iter().filter(|(is_said, _)| *is_said).map(|(_, word)| word).collect::<String>();
    HeaderValue::try_from(format!("max-age={}{words}", max_age.value.as_secs())).ok()
}

/// The host that the others are sent to has to be one of the site's.
fn read_canonical(table: &mut Table, hosts: &[(HostPattern, At<String>)]) -> Option<Box<str>> {
    let At { value, place } = table.get::<String>("canonical_host")?;
    let parsed = parse_authority(&value).map(|(host, port)| (host.into_owned(), port));
    let own =
        |wanted: &str| hosts.iter().any(|(pattern, _)| matches!(pattern, HostPattern::Exact(host) if host == wanted));
    let checked = match parsed {
        Some((host, None)) if own(&host) => Ok(host.into()),
        Some((_, Some(_))) => Err(format!("canonical_host {value:?} has a port: it is the host's name alone")),
        _ => Err(format!(
            "canonical_host {value:?} is none of the site's hosts: whoever is sent there would not be served"
        )),
    };
    table.errors.accept(place, checked)
}

/// The routes of a site. One that no request can come to is pointed out.
fn read_routes(tables: Vec<Table>, pools: &PoolNames, site: &SiteFields, errors: &Diagnostics) -> Vec<Route> {
    /// With more, most are generated, and comparing each with each takes too long.
    const MOST_COMPARED: usize = 500;
    let (mut routes, mut places) = (Vec::<Route>::new(), Vec::new());
    for table in tables {
        let (place, name) = (table.place, table.name.clone());
        let Some(route) = route::read(table, pools, site) else { continue };
        let before = routes.iter().take(MOST_COMPARED).position(|before| before.covers(&route));
        if let Some(number) = before {
            let (path, taken) = (route.path.as_str(), routes[number].path.as_str());
            let message =
                format!("no request comes to {name} {path:?}: route {} {taken:?} takes all of them", number + 1);
            errors.warn(place, message, "routes are tried in the order of the file: put the more specific one first");
        }
        routes.push(route);
        places.push((place, name));
    }
    for (route, (place, name)) in routes.iter().zip(places) {
        let path = route.path.as_str();
        if let Some(below) = only_itself(&routes, route) {
            let message = format!("{name} {path:?} is that path alone: it does not cover what is below");
            errors.warn(place, message, format!("for all that is below, write path = {below:?}"));
        }
        if let Some((bare, other)) = left_open(&routes, route) {
            let other = other.path.as_str();
            let message =
                format!("{name} {path:?} does not cover {bare:?}: that is {other:?}'s, which is open to others");
            errors.warn(place, message, format!("add a route with path = {bare:?} and the same \"allow\" or \"deny\""));
        }
    }
    routes
}

/// What a route with the path of a directory would be called that covers all below, if none does: nginx takes both for one.
fn only_itself(routes: &[Route], route: &Route) -> Option<String> {
    let path = route.path.as_str();
    let below = format!("{path}*");
    let is_directory = path.len() > 1 && path.ends_with('/') && !path.contains('*');
    (is_directory && !routes.iter().any(|other| other.path.as_str() == below)).then_some(below)
}

/// The path without its last slash that a route with a list of addresses does not cover, and the route without one that does.
fn left_open<'r>(routes: &'r [Route], route: &'r Route) -> Option<(&'r str, &'r Route)> {
    let bare = route.path.as_str().strip_suffix("/*").filter(|bare| !bare.is_empty() && !bare.contains('*'))?;
    route.access.as_ref()?;
    let other = routes.iter().find(|other| other.path.matches(bare))?;
    other.access.is_none().then_some((bare, other))
}

/// All sites, and which of them a host belongs to.
pub(crate) fn by_host(sections: Vec<SiteSection>, errors: &Diagnostics) -> (Vec<Arc<Site>>, HostMap<usize>) {
    let (mut sites, mut by_host) = (Vec::<Arc<Site>>::new(), HostMap::default());
    let mut places = HashMap::new();
    for SiteSection { site, hosts, .. } in sections {
        for (pattern, At { value: host, place }) in hosts {
            places.entry(pattern.clone()).or_insert(place);
            // With several ports, or with one and without, it is one host.
            let first = places[&pattern];
            if let Some(other) = by_host.insert(pattern, sites.len()).filter(|other| *other != sites.len()) {
                let message = format!("host {host:?} already belongs to site {:?}", sites[other].name);
                errors.again(place, message, first);
            }
        }
        sites.push(Arc::new(site));
    }
    (sites, by_host)
}

/// Takes a port off the name of a host: the host is matched without it, the port is one that counts.
fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    match text.rsplit_once(':') {
        Some((host, digits))
            if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && host != "*" =>
        {
            match digits.parse() {
                Ok(port @ 1..) => Ok((host, Some(port))),
                _ => Err(format!("{text:?}: {digits} is not a port")),
            }
        }
        _ => Ok((text, None)),
    }
}
