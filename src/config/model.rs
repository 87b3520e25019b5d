//! The configuration as the node uses it: validated, every reference resolved, nothing left to interpret.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use rustls::pki_types::CertificateDer;

use super::certificate::CertificateStore;
use super::file::StatusRange;
use super::host::HostMap;
use super::pattern::PathPattern;
use super::read::{ByteSize, IpRange};
use crate::prefix::Prefix;
use crate::request::{RequestView, as_decoded, merge_slashes};

pub use super::disk::{Admission, CacheDisk, DiskDirectory, WriteWhen};
pub use super::routes::Routes;
pub use super::rules::{
    CacheMode, CacheRules, Coding, CompressRules, FinishFill, KeyRules, OutageWindow, Pattern, QueryRule,
};

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    pub node: Node,
    pub listeners: Vec<Listener>,
    pub certificates: Arc<CertificateStore>,
    pub admin: Option<Admin>,
    pub log: Log,
    pub limits: Limits,
    pub memory: CacheMemory,
    pub disk: CacheDisk,
    pub pools: Vec<Arc<Pool>>,
    pub sites: Vec<Arc<Site>>,
    /// Host name to index in `sites`.
    pub hosts: HostMap<usize>,
    /// Every file this came from, certificates included.
    pub files: Vec<PathBuf>,
    /// Hash of what is in them: tells whether a reload changes anything.
    pub fingerprint: u64,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub region: Option<String>,
    pub threads: usize,
    /// Threads that compress what is stored.
    pub compress_threads: usize,
    /// Where the purge log lives; without one, purges are not kept over a restart.
    pub state_dir: Option<PathBuf>,
    /// How long running requests may take to end after SIGTERM.
    pub drain_timeout: Duration,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpRange>,
}

impl Node {
    /// The network of a client. `None`: its clients are no crowd, since it is a trusted proxy.
    pub fn prefix_of(&self, client: IpAddr) -> Option<Prefix> {
        let is_trusted = self.trusted_proxies.iter().any(|range| range.contains(client));
        (!is_trusted).then(|| Prefix::of(client))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: bool,
    pub protocols: Vec<Protocol>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

#[derive(Debug, Clone)]
pub struct Admin {
    pub address: SocketAddr,
    pub tokens: Vec<Token>,
}

/// Who may call the admin API. Only the hash of the token is known.
#[derive(Debug, Clone)]
pub struct Token {
    pub name: String,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    pub rights: Vec<TokenRight>,
    /// The sites it may act on; `None`: all of them.
    pub sites: Option<Vec<String>>,
}

impl Token {
    /// Whether it may see what is told of a site.
    pub fn may_read(&self, site: &str) -> bool {
        let covers = self.sites.as_ref().is_none_or(|sites| sites.iter().any(|name| name == site));
        covers && self.rights.contains(&TokenRight::Read)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRight {
    Read,
    Purge,
    Operate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub access: AccessLogTarget,
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `seawall=debug`.
    pub level: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Combined,
}

/// What clients may take of the node.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections at one time, over all listeners.
    pub max_connections: u32,
    /// Percent of them that clients next to each other may have.
    pub max_prefix_share: u32,
    pub max_requests_per_connection: u32,
    /// Bytes of a request's head.
    pub max_head: ByteSize,
    /// Header fields of a request.
    pub max_headers: u32,
    /// Bytes of a request's target.
    pub max_target: ByteSize,
    /// Bytes of an unwanted request body that are read and thrown away before the connection is closed instead.
    pub max_drain: ByteSize,
    /// From a request's first byte (or the connection's start) to the end of its head, in all.
    pub header_timeout: Duration,
    /// How long a connection may lie idle between two requests.
    pub keepalive_timeout: Duration,
    /// Between two reads of a request body.
    pub read_timeout: Duration,
    /// How long a client may take none of the bytes that wait for it.
    pub write_timeout: Duration,
    /// Bytes a second that a client has to take while some wait for it; 0: any.
    pub min_rate: ByteSize,
    pub tls_timeout: Duration,
    /// HTTP/2 streams at one time on a connection.
    pub max_h2_streams: u32,
    /// Fills at one time, over all sites. What would need one more goes past the cache.
    pub max_fills: u32,
}

impl Limits {
    /// The most header fields that any configuration may allow (pingora refuses more than 256).
    pub const MOST_HEADERS: u32 = 200;
    /// The longest request target that any configuration may allow: what the `http` crate takes.
    pub const LONGEST_TARGET: u64 = 65_534;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 20_000,
            max_prefix_share: 25,
            max_requests_per_connection: 10_000,
            max_head: ByteSize(32 << 10),
            max_headers: 100,
            max_target: ByteSize(8 << 10),
            max_drain: ByteSize(64 << 10),
            header_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            min_rate: ByteSize(100),
            tls_timeout: Duration::from_secs(10),
            max_h2_streams: 100,
            max_fills: 4096,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheMemory {
    pub max_size: ByteSize,
    pub max_object: ByteSize,
    /// Bytes of bodies on their way that are neither stored nor sent, of all fills together.
    pub fill_buffer: ByteSize,
    pub eviction: Eviction,
}

impl Default for CacheMemory {
    fn default() -> Self {
        CacheMemory {
            max_size: ByteSize(256 << 20),
            max_object: ByteSize(8 << 20),
            fill_buffer: ByteSize(128 << 20),
            eviction: Eviction::S3Fifo,
        }
    }
}

/// The order in which objects in memory make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// What is asked for once does not displace what is asked for often (Yang et al., SOSP 2023).
    S3Fifo,
    /// By second chances: whoever was used since its turn came last has another.
    Lru,
}

/// Index of a pool in [`Config::pools`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolId(pub usize);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub name: Arc<str>,
    pub balance: Balance,
    pub hash_key: HashKey,
    pub origins: Vec<Origin>,
    /// The pool that serves when no origin of this one can.
    pub fallback: Option<PoolId>,
    /// How many more origins a request may try after the first one failed.
    pub retries: u32,
    pub timeouts: PoolTimeouts,
    pub protocol: OriginProtocol,
    pub tls: Option<OriginTls>,
    /// The `Host` sent to the origins; `None`: the one the client asked for.
    pub host: Option<String>,
    pub resolve_interval: Duration,
    pub health: Option<Health>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// As written, `HOST:PORT`: how the operator knows it.
    pub address: Arc<str>,
    pub endpoint: Endpoint,
    pub weight: u16,
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
    Hash,
}

/// What `balance = "hash"` hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    Url,
    Client,
    Header(HeaderName),
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that bring an origin up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The connection is accepted.
    Tcp,
    /// `GET path` is answered with one of the statuses.
    Http { path: String, host: Option<String>, expect: Vec<StatusRange> },
}

#[derive(Debug, Clone)]
pub struct Site {
    pub name: Arc<str>,
    /// As configured; the admin API may set another one at run time.
    pub version: u64,
    /// Clients whose `PURGE` method works.
    pub purge_from: Vec<IpRange>,
    pub ports: Ports,
    pub encoded_dots: EncodedDots,
    pub routes: Routes,
}

/// The ports in clients' `Host` that are keyed and sent on, besides that of the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    Named(Vec<u16>),
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
    /// The first route that takes a request, by its place.
    pub fn find_route(&self, method: &Method, path: &str) -> Option<usize> {
        self.routes.serving(method, &merge_slashes(path))
    }

    /// Whether a path may be another route's to servers which decode it before they look for what it names. A route whose
    /// pattern has escapes was written with them in mind.
    pub fn is_read_otherwise(&self, method: &Method, path: &str, route: usize) -> bool {
        let has_escapes = || self.routes[route].path.as_str().contains('%');
        as_decoded(path).is_some_and(|decoded| self.find_route(method, &decoded) != Some(route) && !has_escapes())
    }

    /// Whether a route is for a path, if not for every method.
    pub fn has_path(&self, path: &str) -> bool {
        self.routes.has_path(&merge_slashes(path))
    }

    /// The port of a request, if it counts: not the scheme's own, and one that the operator knows of.
    pub fn keyed_port(&self, request: &RequestView<'_>) -> Option<u16> {
        let port = request.port.filter(|port| *port != request.scheme.default_port())?;
        let counts = match &self.ports {
            Ports::Any => true,
            Ports::Named(ports) => port == request.local_port || ports.contains(&port),
        };
        counts.then_some(port)
    }
}

#[derive(Debug, Clone)]
pub struct Route {
    pub path: PathPattern,
    /// `None`: every method.
    pub methods: Option<HashSet<Method>>,
    pub pool: PoolId,
    pub max_body: BodyLimit,
    /// Instead of the pool's.
    pub stream_timeout: Option<Duration>,
    pub cache: CacheRules,
}

impl Route {
    /// Whether it is for a method and a normalised path with its slashes merged.
    pub(super) fn serves(&self, method: &Method, path: &str) -> bool {
        self.path.matches(path) && self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLimit {
    Unlimited,
    Bytes(u64),
}

impl Config {
    /// How long a response of a route may be silent, where that is said.
    pub fn stream_timeout(&self, route: &Route) -> Option<Duration> {
        route.stream_timeout.or(self.pool(route.pool).timeouts.stream)
    }

    /// Whether a listener has a port.
    pub fn listens_on(&self, port: u16) -> bool {
        self.listeners.iter().any(|listener| listener.address.port() == port)
    }

    pub fn pool(&self, id: PoolId) -> &Arc<Pool> {
        &self.pools[id.0]
    }
}
