//! `[pool.NAME]`: origins that serve the same, and how they are asked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use rustls::pki_types::CertificateDer;

use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::{FromToml, Table, Value, words};
use crate::request::parse_authority;
use crate::spelling::did_you_mean;

use super::certificate::{self, ClientCertificate};
use super::files::Files;
use super::health::{self, Health, Passive, Share, Times};
use super::retry::{self, Budget, RetryOn};
use super::sticky::{self, Sticky};

/// Who waits where all origins have as many requests as they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub max: usize,
    pub timeout: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Queue { max: 1000, timeout: Duration::from_secs(5) }
    }
}

/// When a connection to an origin is replaced by a new one, by HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub max_age: Option<Duration>,
    pub max_requests: u32,
}

impl Default for Life {
    fn default() -> Self {
        Life { max_age: None, max_requests: u32::MAX }
    }
}

/// Index of a pool in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolId(pub usize);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub name: Arc<str>,
    pub balance: Balance,
    pub hash_key: HashKey,
    /// With [`Balance::Hash`]: how many times its share of the active requests an origin may have.
    pub max_load: Option<Times>,
    pub origins: Vec<Origin>,
    /// The pool that serves when no origin of this one can.
    pub fallback: Option<PoolId>,
    /// How many more origins a request may try after the first one failed.
    pub retries: u32,
    pub retry_on: RetryOn,
    pub retry_budget: Budget,
    pub timeouts: PoolTimeouts,
    pub protocol: OriginProtocol,
    pub tls: Option<OriginTls>,
    /// The `Host` sent to the origins; `None`: the one the client asked for.
    pub host: Option<String>,
    pub resolve_interval: Duration,
    pub health: Option<Health>,
    pub passive: Option<Passive>,
    /// How many requests each origin may have at one time.
    pub max_requests: Option<u32>,
    pub queue: Queue,
    pub connections: Life,
    pub sticky: Option<Sticky>,
    /// What comes in, or back, has its whole weight only after so long.
    pub slow_start: Option<Duration>,
    /// Where this node is: those of its region come first.
    pub own_region: Option<Arc<str>>,
    /// How much of a level must be well for all requests to go there.
    pub overflow_at: Share,
    /// Below which part of it all of its origins are asked, well or not, where no other level helps.
    pub panic_at: Option<Share>,
    /// How long what has come back must last before it counts.
    pub failback_after: Duration,
    /// The origin is a directory of this machine: `files` of routes.
    pub files: Option<Files>,
}

impl Pool {
    /// The one for a directory.
    fn of_files(files: Files, number: usize) -> Self {
        let root = files.root.display();
        let name = if number == 0 { format!("files:{root}") } else { format!("files:{root}#{number}") };
        let nowhere = Endpoint::Address(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let address = root.to_string().into();
        let origin = Origin { address, endpoint: nowhere, weight: 1, priority: 1, region: None, max_requests: None };
        Pool { origins: vec![origin], files: Some(files), retries: 0, passive: None, ..Pool::named(&name) }
    }

    /// One without origins.
    fn named(name: &str) -> Self {
        Pool {
            name: name.into(),
            balance: Balance::RoundRobin,
            hash_key: HashKey::Url,
            max_load: None,
            origins: Vec::new(),
            fallback: None,
            retries: 1,
            retry_on: RetryOn::default(),
            retry_budget: Budget::default(),
            timeouts: PoolTimeouts::default(),
            protocol: OriginProtocol::H1,
            tls: None,
            host: None,
            resolve_interval: Duration::from_secs(30),
            health: None,
            passive: Some(Passive::default()),
            max_requests: None,
            queue: Queue::default(),
            connections: Life::default(),
            sticky: None,
            slow_start: None,
            own_region: None,
            overflow_at: Share::OVERFLOW_AT,
            panic_at: None,
            failback_after: Duration::from_secs(10),
            files: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// As written, `HOST:PORT`: how the operator knows it.
    pub address: Arc<str>,
    pub endpoint: Endpoint,
    pub weight: u16,
    /// Those of a lower number come first, from 1 on.
    pub priority: u16,
    /// Where it is.
    pub region: Option<Arc<str>>,
    /// How many requests it may have at one time; `None`: as the pool says.
    pub max_requests: Option<u32>,
}

/// Where an origin is: known now, or to be resolved again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Address(SocketAddr),
    Name { host: String, port: u16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConn,
    Random,
    /// The better of two, by latency and load.
    P2c,
    Hash,
}

/// What `balance = "hash"` hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    Url,
    Client,
    Header(HeaderName),
    Cookie(String),
    Query(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginProtocol {
    H1,
    H2,
    /// HTTP/2 where the origin offers it by ALPN.
    Auto,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginTls {
    /// The name to ask for and to verify; `None`: the origin's host.
    pub sni: Option<String>,
    pub verify: bool,
    /// Trust these instead of the system's authorities.
    pub ca: Option<Arc<Vec<CertificateDer<'static>>>>,
    /// What the node shows of itself, to those that ask.
    pub client: Option<Arc<ClientCertificate>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTimeouts {
    pub connect: Duration,
    /// Between two reads of the origin's answer.
    pub read: Duration,
    pub write: Duration,
    /// From taking an origin to the end of its response head, retries included.
    pub total: Duration,
    /// How long an unused origin connection is kept.
    pub idle: Duration,
    /// How long both sides of a tunnel (WebSocket) may be silent.
    pub tunnel: Duration,
    /// How long a response that is passed on may be silent; `None`: as long as `read`, but for streams of HTTP/2.
    pub stream: Option<Duration>,
}

impl Default for PoolTimeouts {
    fn default() -> Self {
        PoolTimeouts {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(30),
            write: Duration::from_secs(30),
            total: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            tunnel: Duration::from_secs(3600),
            stream: None,
        }
    }
}

words!(Balance {
    "round_robin" => Balance::RoundRobin,
    "least_conn" => Balance::LeastConn,
    "random" => Balance::Random,
    "p2c" => Balance::P2c,
    "hash" => Balance::Hash,
});
words!(OriginProtocol { "h1" => OriginProtocol::H1, "h2" => OriginProtocol::H2, "auto" => OriginProtocol::Auto });

impl FromToml for HashKey {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        let text = String::from_toml(value)?;
        let header = |name: &str| name.parse().ok().map(HashKey::Header);
        let key = match text.split_once(':') {
            None if text == "url" => Some(HashKey::Url),
            None if text == "client" => Some(HashKey::Client),
            Some(("header", name)) => header(name),
            Some(("cookie", name)) if !name.is_empty() => Some(HashKey::Cookie(name.to_owned())),
            Some(("query", name)) if !name.is_empty() => Some(HashKey::Query(name.to_owned())),
            _ => None,
        };
        let expected = "expected \"url\", \"client\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";
        key.ok_or_else(|| format!("unknown hash key {text:?}, {expected}"))
    }
}

/// A pool whose fallback is a name as yet.
pub(crate) struct PoolSection {
    name: At<String>,
    pool: Pool,
    fallback: Option<At<String>>,
}

/// The pools by their names.
pub(crate) struct PoolNames {
    ids: HashMap<String, PoolId>,
    /// How many there are, those with a name twice included.
    sections: usize,
    /// Those that come behind them: of directories that routes name.
    files: RefCell<Vec<Files>>,
    /// Whether these are all there are, or some may be in a file that is not TOML.
    are_all: bool,
}

impl PoolNames {
    pub(crate) fn new(pools: &[PoolSection], are_all: bool) -> Self {
        let ids = pools.iter().enumerate().map(|(i, pool)| (pool.name.value.clone(), PoolId(i))).collect();
        PoolNames { ids, sections: pools.len(), files: RefCell::default(), are_all }
    }

    /// The pool of a directory: one for all routes that say the same.
    pub(crate) fn of_files(&self, files: Files) -> PoolId {
        let mut all = self.files.borrow_mut();
        let place = all.iter().position(|other| *other == files).unwrap_or_else(|| {
            all.push(files);
            all.len() - 1
        });
        PoolId(self.sections + place)
    }

    pub(crate) fn find(&self, name: &At<String>, errors: &Diagnostics) -> Option<PoolId> {
        let found = self.ids.get(&name.value).copied();
        if found.is_none() && self.are_all {
            let hint = match did_you_mean(&name.value, self.ids.keys().map(String::as_str)) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("add [pool.{}] with origins", name.value),
            };
            errors.error_with_hint(name.place, format!("unknown pool {:?}", name.value), hint);
        }
        found
    }
}

/// Replaces the names of fallbacks by the pools; `region`: where the node is.
pub(crate) fn link(
    sections: Vec<PoolSection>,
    names: &PoolNames,
    region: Option<&str>,
    errors: &Diagnostics,
) -> Vec<Arc<Pool>> {
    let find = |section: &PoolSection| section.fallback.as_ref().and_then(|name| names.find(name, errors));
    let fallbacks: Vec<Option<PoolId>> = sections.iter().map(find).collect();
    let link = |(i, PoolSection { name, pool, fallback }): (usize, PoolSection)| {
        let chain = std::iter::successors(fallbacks[i], |at| fallbacks[at.0]).take(fallbacks.len());
        if let Some(at) = fallback.filter(|_| chain.into_iter().any(|at| at.0 == i)) {
            errors.error(at.place, format!("the fallback of pool {:?} leads back to itself", name.value));
        }
        Arc::new(Pool { fallback: fallbacks[i], own_region: region.map(Arc::from), ..pool })
    };
    let mut pools: Vec<Arc<Pool>> = sections.into_iter().enumerate().map(link).collect();
    let files = names.files.borrow();
    for (place, one) in files.iter().enumerate() {
        let number = files[..place].iter().filter(|other| other.root == one.root).count();
        pools.push(Arc::new(Pool::of_files(one.clone(), number)));
    }
    pools
}

pub(crate) fn read(name: At<String>, mut table: Table) -> PoolSection {
    let errors = table.errors;
    let uses_tls = table.get_or("tls", false);
    let mut pool = Pool {
        origins: read_origins(&mut table, if uses_tls { 443 } else { 80 }),
        host: table.host("host"),
        ..Pool::named(&name.value)
    };
    table.set("balance", &mut pool.balance);
    table.set("hash", &mut pool.hash_key);
    if pool.balance != Balance::Hash && table.has("hash") {
        errors.error_with_hint(table.place_of("hash"), "\"hash\" has no effect here", "add balance = \"hash\"");
    }
    pool.max_load = table.value("max_load");
    if pool.balance != Balance::Hash && pool.max_load.is_some() {
        errors.error_with_hint(table.place_of("max_load"), "\"max_load\" has no effect here", "add balance = \"hash\"");
    }
    table.set("retries", &mut pool.retries);
    (pool.retry_on, pool.retry_budget) = retry::read(&mut table, &name.value);
    table.set_positive("connect_timeout", &mut pool.timeouts.connect);
    table.set_positive("read_timeout", &mut pool.timeouts.read);
    table.set_positive("write_timeout", &mut pool.timeouts.write);
    table.set_positive("total_timeout", &mut pool.timeouts.total);
    table.set("idle_timeout", &mut pool.timeouts.idle);
    table.set_positive("tunnel_timeout", &mut pool.timeouts.tunnel);
    pool.timeouts.stream = table.positive("stream_timeout");
    table.set("protocol", &mut pool.protocol);
    if pool.protocol == OriginProtocol::Auto && !uses_tls {
        errors.error_with_hint(
            table.place_of("protocol"),
            "protocol = \"auto\" needs ALPN and so tls = true",
            "without TLS choose \"h1\" or \"h2\"",
        );
    }
    pool.tls = read_tls(&mut table, uses_tls);
    let is_long = |interval: &Duration| *interval >= Duration::from_secs(1);
    table.set_if("resolve_interval", &mut pool.resolve_interval, is_long, "must be at least 1s");
    let health = format!("[pool.{}.health]", name.value);
    let health = table.table("health", &health, "health = { path = \"/healthz\" }");
    pool.health = health.map(|table| health::read_health(table, pool.protocol != OriginProtocol::H1));
    pool.passive = health::read_passive(&mut table, &name.value);
    pool.max_requests = read_max_requests(&mut table);
    let queue = format!("[pool.{}.queue]", name.value);
    let place = table.place_of("queue");
    if let Some(mut queue) = table.table("queue", &queue, "queue = { max = 1000, timeout = \"5s\" }") {
        queue.set_within("max", &mut pool.queue.max, 0..=1_000_000);
        queue.set_positive("timeout", &mut pool.queue.timeout);
        queue.finish();
        if pool.max_requests.is_none() && pool.origins.iter().all(|origin| origin.max_requests.is_none()) {
            let hint = "add max_requests = 100: how many requests each origin may have";
            errors.error_with_hint(place, "\"queue\" has no effect here", hint);
        }
    }
    pool.connections.max_age = table.positive("connection_max_age");
    table.set_within("connection_max_requests", &mut pool.connections.max_requests, 1..=u32::MAX);
    pool.sticky = sticky::read(&mut table, &name.value);
    pool.slow_start = table.positive("slow_start");
    table.set("overflow_at", &mut pool.overflow_at);
    pool.panic_at = table.value("panic_at");
    table.set("failback_after", &mut pool.failback_after);
    let fallback = table.get("fallback");
    table.finish();
    PoolSection { name, pool, fallback }
}

/// Of an origin, or of each of a pool.
fn read_max_requests(table: &mut Table) -> Option<u32> {
    let mut most = 0;
    table.set_within("max_requests", &mut most, 1..=1_000_000);
    Some(most).filter(|most| *most > 0)
}

fn read_origins(table: &mut Table, default_port: u16) -> Vec<Origin> {
    let (errors, pool) = (table.errors, table.name.clone());
    if table.lacks("origins") {
        let hint = "add origins = [\"10.0.0.1:8080\"]";
        errors.error_with_hint(table.place, format!("{pool} has no usable origins"), hint);
    }
    let mut places = HashMap::new();
    let mut origins = Vec::new();
    for value in table.items("origins") {
        let (mut weight, mut priority, mut region, mut max_requests) = (1, 1, None, None);
        let address = match (value.str(), Table::of(value, &format!("an origin of {pool}"), errors)) {
            (Some(text), _) => Some(At { value: text.to_owned(), place: value.place }),
            (None, Some(mut table)) => {
                let address = table.require("address");
                table.set_within("weight", &mut weight, 1..=1000);
                table.set_within("priority", &mut priority, 1..=100);
                max_requests = read_max_requests(&mut table);
                region = table.value::<String>("region").map(Arc::from);
                table.finish();
                address
            }
            (None, None) => {
                errors.error_with_hint(
                    value.place,
                    format!("wrong value in \"origins\" in {pool}: expected \"HOST:PORT\" or a table"),
                    "write \"10.0.0.1:8080\" or { address = \"10.0.0.1:8080\", weight = 2 }",
                );
                None
            }
        };
        let Some(At { value: address, place }) = address else { continue };
        if let Some(first) = places.insert(address.clone(), place) {
            errors.again(place, format!("origin {address:?} is given twice"), first);
        }
        match parse_endpoint(&address, default_port) {
            Ok(endpoint) => {
                origins.push(Origin { address: address.into(), endpoint, weight, priority, region, max_requests })
            }
            Err((message, hint)) => errors.error_with_hint(place, message, hint),
        }
    }
    origins
}

/// Reads `HOST:PORT`, or `HOST` with the scheme's port.
fn parse_endpoint(text: &str, default_port: u16) -> Result<Endpoint, (String, String)> {
    if let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = match path {
            "" => String::new(),
            path => format!(
                "; the path goes into the route: rewrite = {{ to = \"/{}/{{1}}\" }}",
                path.trim_end_matches('/')
            ),
        };
        let hint = format!("write {host:?}, and tls = true in the pool for https{path}");
        return Err((format!("origin {text:?} is a URL, expected HOST:PORT"), hint));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err((format!("origin {text:?} has port 0"), "give the port the origin listens on".into()))
        } else {
            Ok(Endpoint::Address(address))
        };
    }
    match parse_authority(text) {
        Some((_, Some(0))) | None => Err((
            format!("{text:?} is not an origin address, expected HOST:PORT"),
            "such as \"10.0.0.1:8080\" or \"app.internal:8080\"".into(),
        )),
        Some((host, port)) => {
            let port = port.unwrap_or(default_port);
            match host.trim_matches(['[', ']']).parse() {
                Ok(ip) => Ok(Endpoint::Address(SocketAddr::new(ip, port))),
                Err(_) => Ok(Endpoint::Name { host: host.into_owned(), port }),
            }
        }
    }
}

fn read_tls(table: &mut Table, uses_tls: bool) -> Option<OriginTls> {
    let errors = table.errors;
    let (verify, sni, ca) = (table.get_or("verify", true), table.host("sni"), table.get("ca"));
    let ca_path = ca.as_ref().map(|ca| errors.file_named(ca));
    let client: [Option<At<String>>; 2] = [table.get("client_cert"), table.get("client_key")];
    if !uses_tls {
        for key in ["sni", "ca", "verify", "client_cert", "client_key"].into_iter().filter(|key| table.has(key)) {
            let hint = "add tls = true to the pool";
            errors.error_with_hint(table.place_of(key), "this has no effect without TLS", hint);
        }
        return None;
    }
    let ca = ca_path.and_then(|path| errors.accept(table.place_of("ca"), certificate::read_chain(&path)));
    let sni = sni.and_then(|sni| parse_authority(&sni).map(|(host, _)| host.into_owned()));
    let client = match &client {
        [Some(cert), Some(key)] => certificate::of_client(cert, key, errors),
        [None, None] => None,
        [Some(at), None] | [None, Some(at)] => {
            let hint = "client_cert = \"node.pem\" and client_key = \"node.key\" go together";
            errors.error_with_hint(at.place, "a certificate needs its key, and a key its certificate", hint);
            None
        }
    };
    Some(OriginTls { sni, verify, ca: ca.map(Arc::new), client: client.map(Arc::new) })
}
