//! `[pool.NAME]`: origins that serve the same, and how they are asked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::{Table, words};
use crate::request::parse_authority;
use crate::spelling::did_you_mean;

use super::certificate::{self, ClientCertificate};
use super::files::Files;
use super::hash_key::HashKey;
use super::health::{self, Health, Passive, Share, Times};
use super::node::Node;
use super::origin::{self, Endpoint, Origin, Source};
use super::retry::{self, Budget, RetryOn};
use super::split::{self, Mirror, Split};
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
    /// Where further ones are found.
    pub sources: Vec<Source>,
    /// The pool that serves when no origin of this one can.
    pub fallback: Option<PoolId>,
    /// Some of its requests go there instead.
    pub split: Option<Split<PoolId>>,
    /// Some go there as well.
    pub mirror: Option<Mirror<PoolId>>,
    /// How many more origins a request may try after the first one failed.
    pub retries: u32,
    pub retry_on: RetryOn,
    pub retry_budget: Budget,
    /// Whether a safe request that takes longer than most is sent to a second origin as well.
    pub hedge: bool,
    pub timeouts: PoolTimeouts,
    pub protocol: OriginProtocol,
    pub tls: Option<OriginTls>,
    /// The `Host` sent to the origins; `None`: the one the client asked for.
    pub host: Option<String>,
    /// How long what name servers say counts at most; `None`: as long as they say, within reason.
    pub resolve_interval: Option<Duration>,
    /// Name servers to ask instead of the system's.
    pub resolvers: Arc<[SocketAddr]>,
    pub health: Option<Health>,
    pub passive: Option<Passive>,
    /// How many requests each origin may have at one time.
    pub max_requests: Option<u32>,
    pub queue: Queue,
    pub connections: Life,
    /// How origins are told of the client's connection before the first byte. Then each request has a connection of its own.
    pub send_proxy: Option<ProxyVersion>,
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
    /// Whether a client can have all of its requests sent to one origin.
    pub fn is_chosen_by_clients(&self) -> bool {
        self.sticky.is_some() || self.balance == Balance::Hash
    }

    /// Whether any of its origins may have only so many requests at one time; of those that are yet to be found, any might.
    pub fn is_bounded(&self) -> bool {
        self.max_requests.is_some()
            || self.origins.iter().any(|origin| origin.max_requests.is_some())
            || !self.sources.is_empty()
    }

    /// The one for a directory.
    fn of_files(files: Files, number: usize) -> Self {
        let root = files.root.display();
        let name = if number == 0 { format!("files:{root}") } else { format!("files:{root}#{number}") };
        let nowhere = Endpoint::Address(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let origin = Origin::new(root.to_string().into(), nowhere);
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
            sources: Vec::new(),
            fallback: None,
            split: None,
            mirror: None,
            retries: 1,
            retry_on: RetryOn::default(),
            retry_budget: Budget::default(),
            hedge: false,
            timeouts: PoolTimeouts::default(),
            protocol: OriginProtocol::H1,
            tls: None,
            host: None,
            resolve_interval: None,
            resolvers: Arc::default(),
            health: None,
            passive: Some(Passive::default()),
            max_requests: None,
            queue: Queue::default(),
            connections: Life::default(),
            send_proxy: None,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastConn,
    Random,
    /// The better of two, by latency and load.
    P2c,
    Hash,
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
/// Of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    V1,
    V2,
}

words!(ProxyVersion { "v1" => ProxyVersion::V1, "v2" => ProxyVersion::V2 });
words!(OriginProtocol { "h1" => OriginProtocol::H1, "h2" => OriginProtocol::H2, "auto" => OriginProtocol::Auto });

/// A pool for which other pools are names as yet.
pub(crate) struct PoolSection {
    name: At<String>,
    pool: Pool,
    fallback: Option<At<String>>,
    split: Option<Split<At<String>>>,
    mirror: Option<Mirror<At<String>>>,
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

/// Replaces the names of fallbacks by the pools, and takes over what concerns them of `node`.
pub(crate) fn link(sections: Vec<PoolSection>, names: &PoolNames, node: &Node, errors: &Diagnostics) -> Vec<Arc<Pool>> {
    let (region, resolvers) = (node.region.as_deref(), &node.resolvers);
    let find = |section: &PoolSection| section.fallback.as_ref().and_then(|name| names.find(name, errors));
    let fallbacks: Vec<Option<PoolId>> = sections.iter().map(find).collect();
    let other = |to: &At<String>, of: &At<String>, what: &str| {
        let pool = names.find(to, errors)?;
        if to.value == of.value {
            errors.error(to.place, format!("{what} of pool {:?} is this pool itself", of.value));
        }
        Some(pool)
    };
    let link = |(i, PoolSection { name, pool, fallback, split, mirror }): (usize, PoolSection)| {
        let split = split.and_then(|split| split.to(|to| other(to, &name, "the split")));
        let mirror = mirror.and_then(|mirror| mirror.to(|to| other(to, &name, "the mirror")));
        let mut chain = std::iter::successors(fallbacks[i], |at| fallbacks[at.0]).take(fallbacks.len());
        if let (Some(split), Some(at)) = (&split, &fallback)
            && chain.any(|other| other == split.pool)
        {
            let hint = "give it a fallback with origins of its own";
            let why = "the split's pool would stand in, and its answers be stored as this pool's";
            errors.error_with_hint(
                at.place,
                format!("the fallback of pool {:?} is the pool of its split: {why}", name.value),
                hint,
            );
        }
        let chain = std::iter::successors(fallbacks[i], |at| fallbacks[at.0]).take(fallbacks.len());
        if let Some(at) = fallback.filter(|_| chain.into_iter().any(|at| at.0 == i)) {
            errors.error(at.place, format!("the fallback of pool {:?} leads back to itself", name.value));
        }
        Arc::new(Pool {
            fallback: fallbacks[i],
            split,
            mirror,
            own_region: region.map(Arc::from),
            resolvers: resolvers.clone(),
            ..pool
        })
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
    let (origins, sources) = origin::read_all(&mut table, if uses_tls { 443 } else { 80 });
    let mut pool = Pool { origins, sources, host: table.host("host"), ..Pool::named(&name.value) };
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
    table.set("hedge", &mut pool.hedge);
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
    let mut interval = Duration::MAX;
    let is_long = |interval: &Duration| *interval >= Duration::from_secs(1);
    table.set_if("resolve_interval", &mut interval, is_long, "must be at least 1s");
    pool.resolve_interval = Some(interval).filter(|interval| *interval < Duration::MAX);
    let health = format!("[pool.{}.health]", name.value);
    let health = table.table("health", &health, "health = { path = \"/healthz\" }");
    pool.health = health.map(|table| health::read_health(table, pool.protocol != OriginProtocol::H1));
    pool.passive = health::read_passive(&mut table, &name.value);
    pool.max_requests = origin::read_max_requests(&mut table);
    let queue = format!("[pool.{}.queue]", name.value);
    let place = table.place_of("queue");
    if let Some(mut queue) = table.table("queue", &queue, "queue = { max = 1000, timeout = \"5s\" }") {
        queue.set_within("max", &mut pool.queue.max, 0..=1_000_000);
        queue.set_positive("timeout", &mut pool.queue.timeout);
        queue.finish();
        if !pool.is_bounded() {
            let hint = "add max_requests = 100: how many requests each origin may have";
            errors.error_with_hint(place, "\"queue\" has no effect here", hint);
        }
    }
    pool.connections.max_age = table.positive("connection_max_age");
    table.set_within("connection_max_requests", &mut pool.connections.max_requests, 1..=u32::MAX);
    for key in ["connection_max_age", "connection_max_requests"] {
        if pool.protocol == OriginProtocol::H2 && table.has(key) {
            let hint = "leave it out: connections by HTTP/2 end as their origins say";
            errors.error_with_hint(table.place_of(key), format!("{key:?} has no effect with protocol = \"h2\""), hint);
        }
    }
    pool.send_proxy = table.value("send_proxy");
    if pool.send_proxy.is_some() && pool.protocol != OriginProtocol::H1 {
        let hint = "leave protocol out: over HTTP/2 many clients share a connection";
        errors.error_with_hint(table.place_of("send_proxy"), "\"send_proxy\" needs HTTP/1.1", hint);
    }
    pool.sticky = sticky::read(&mut table, &name.value);
    pool.slow_start = table.positive("slow_start");
    table.set("overflow_at", &mut pool.overflow_at);
    pool.panic_at = table.value("panic_at");
    table.set("failback_after", &mut pool.failback_after);
    let fallback = table.get("fallback");
    let split = split::read_split(&mut table, &name.value);
    let mirror = split::read_mirror(&mut table, &name.value);
    table.finish();
    PoolSection { name, pool, fallback, split, mirror }
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
