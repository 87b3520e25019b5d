//! The configuration as the operator wrote it: each section read and each value checked on its own,
//! nothing yet resolved against anything else. [`super::model`] makes of it what the node uses.

use std::net::SocketAddr;
use std::time::Duration;

use super::cache;
use super::diagnose::{At, Diagnostics, Place};
use super::disk::{self, DiskSection};
use super::model::{
    Balance, CacheMemory, EncodedDots, Eviction, Limits, LogFormat, OriginProtocol, PoolTimeouts, Protocol, TokenRight,
};
use super::read::{ByteSize, FromToml, IpRange, Table, Value, words};

/// Everything that one or more files say, merged.
#[derive(Debug, Default)]
pub struct File {
    pub node: Option<NodeSection>,
    pub listen: Vec<ListenSection>,
    pub certificates: Vec<CertificateSection>,
    pub admin: Option<AdminSection>,
    pub log: Option<LogSection>,
    pub limits: Option<Limits>,
    pub cache_memory: Option<CacheMemory>,
    pub cache_disk: Option<DiskSection>,
    pub pools: Vec<PoolSection>,
    pub sites: Vec<SiteSection>,
}

#[derive(Debug)]
pub struct NodeSection {
    pub name: Option<At<String>>,
    pub region: Option<String>,
    pub threads: Option<At<u64>>,
    pub compress_threads: Option<At<u64>>,
    pub state_dir: Option<At<String>>,
    pub drain_timeout: Duration,
    pub trusted_proxies: Vec<IpRange>,
}

#[derive(Debug)]
pub struct ListenSection {
    pub address: At<SocketAddr>,
    pub tls: bool,
    pub protocols: Vec<At<Protocol>>,
}

#[derive(Debug)]
pub struct CertificateSection {
    pub cert: At<String>,
    pub key: At<String>,
}

#[derive(Debug)]
pub struct AdminSection {
    pub address: At<SocketAddr>,
    pub tokens_file: Option<At<String>>,
}

#[derive(Debug)]
pub struct LogSection {
    pub access: Option<At<String>>,
    pub format: LogFormat,
    pub level: Option<At<String>>,
}

#[derive(Debug)]
pub struct PoolSection {
    pub name: At<String>,
    pub balance: Balance,
    pub hash: Option<At<String>>,
    pub origins: Vec<OriginEntry>,
    pub fallback: Option<At<String>>,
    pub retries: u32,
    pub timeouts: PoolTimeouts,
    pub protocol: At<OriginProtocol>,
    pub tls: bool,
    pub sni: Option<At<String>>,
    pub verify: bool,
    pub ca: Option<At<String>>,
    pub host: Option<At<String>>,
    pub resolve_interval: Duration,
    pub health: Option<HealthSection>,
}

#[derive(Debug)]
pub struct OriginEntry {
    pub address: At<String>,
    pub weight: At<u16>,
}

#[derive(Debug)]
pub struct HealthSection {
    pub path: Option<At<String>>,
    pub host: Option<At<String>>,
    pub expect: Vec<At<StatusRange>>,
    pub interval: At<Duration>,
    pub timeout: At<Duration>,
    pub rise: At<u32>,
    pub fall: At<u32>,
}

#[derive(Debug)]
pub struct SiteSection {
    pub name: At<String>,
    pub hosts: Vec<At<String>>,
    pub version: u64,
    pub purge_from: Vec<IpRange>,
    pub ports: PortsWord,
    pub encoded_dots: EncodedDots,
    pub routes: Vec<RouteSection>,
}

/// `ports` of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortsWord {
    Named,
    Any,
}

#[derive(Debug)]
pub struct RouteSection {
    pub path: At<String>,
    pub methods: Vec<At<String>>,
    pub pool: At<String>,
    pub max_body: Option<ByteSize>,
    pub stream_timeout: Option<Duration>,
    pub forward: Vec<At<String>>,
    pub cache: Option<cache::CacheSection>,
}

words!(PortsWord { "named" => PortsWord::Named, "any" => PortsWord::Any });
words!(EncodedDots { "refuse" => EncodedDots::Refuse, "pass" => EncodedDots::Pass });
words!(Protocol { "h1" => Protocol::H1, "h2" => Protocol::H2 });
// "tinylfu" is what it was called before.
words!(Eviction { "s3fifo" => Eviction::S3Fifo, "lru" => Eviction::Lru, "tinylfu" => Eviction::S3Fifo });
words!(LogFormat { "json" => LogFormat::Json, "combined" => LogFormat::Combined });
words!(Balance {
    "round_robin" => Balance::RoundRobin,
    "least_conn" => Balance::LeastConn,
    "random" => Balance::Random,
    "hash" => Balance::Hash,
});
words!(OriginProtocol { "h1" => OriginProtocol::H1, "h2" => OriginProtocol::H2, "auto" => OriginProtocol::Auto });
words!(TokenRight { "read" => TokenRight::Read, "purge" => TokenRight::Purge, "operate" => TokenRight::Operate });

/// An inclusive range of status codes that a health check accepts: `200` or `"200-399"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    pub first: u16,
    pub last: u16,
}

impl FromToml for StatusRange {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        match value.str() {
            Some(text) => text.parse(),
            None => u16::from_toml(value)?.to_string().parse(),
        }
    }
}

impl std::str::FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.trim().parse().unwrap_or(0), last.trim().parse().unwrap_or(0));
        if (100..=599).contains(&first) && (first..=599).contains(&last) {
            Ok(StatusRange { first, last })
        } else {
            Err(format!("{text:?}: expected a status code such as 200 or a range such as \"200-399\""))
        }
    }
}

/// Reads one file's tables and adds them to what the files before it said.
pub fn read(into: &mut File, mut root: Table, errors: &mut Diagnostics) {
    if let Some(table) = once(&mut root, "node", "[node]", into.node.is_some(), errors) {
        into.node = Some(read_node(table, errors));
    }
    if let Some(table) = once(&mut root, "admin", "[admin]", into.admin.is_some(), errors) {
        into.admin = read_admin(table, errors);
    }
    if let Some(table) = once(&mut root, "log", "[log]", into.log.is_some(), errors) {
        into.log = Some(read_log(table, errors));
    }
    if let Some(table) = once(&mut root, "limits", "[limits]", into.limits.is_some(), errors) {
        into.limits = Some(read_limits(table, errors));
    }
    if let Some(mut cache) = root.table("cache", "[cache]", errors) {
        if let Some(disk) = once(&mut cache, "disk", "[cache.disk]", into.cache_disk.is_some(), errors) {
            into.cache_disk = Some(disk::read(disk, errors));
        }
        if let Some(memory) = once(&mut cache, "memory", "[cache.memory]", into.cache_memory.is_some(), errors) {
            into.cache_memory = Some(read_cache_memory(memory, errors));
        }
        cache.finish(errors);
    }
    for table in root.tables("listen", "[[listen]]", errors) {
        into.listen.extend(read_listen(table, errors));
    }
    for table in root.tables("certificate", "[[certificate]]", errors) {
        into.certificates.extend(read_certificate(table, errors));
    }
    for (name, table) in root.named_tables("pool", errors) {
        into.pools.push(read_pool(name, table, errors));
    }
    for (name, table) in root.named_tables("site", errors) {
        into.sites.push(read_site(name, table, errors));
    }
    root.finish(errors);
}

fn once<'t, 'i>(
    root: &mut Table<'t, 'i>,
    key: &'static str,
    name: &str,
    given_before: bool,
    errors: &mut Diagnostics,
) -> Option<Table<'t, 'i>> {
    let table = root.table(key, name, errors)?;
    if given_before {
        errors.error(table.place, format!("{name} is given in more than one file; it may be given once"));
    }
    Some(table)
}

fn read_node(mut table: Table, errors: &mut Diagnostics) -> NodeSection {
    let node = NodeSection {
        name: table.get("name", errors),
        region: table.get("region", errors).map(|at| at.value),
        threads: table.get("threads", errors),
        compress_threads: table.get("compress_threads", errors),
        state_dir: table.get("state_dir", errors),
        drain_timeout: table.get_or("drain_timeout", Duration::from_secs(30), errors),
        trusted_proxies: table.list("trusted_proxies", errors).into_iter().map(|at| at.value).collect(),
    };
    table.finish(errors);
    node
}

fn read_listen(mut table: Table, errors: &mut Diagnostics) -> Option<ListenSection> {
    let address = table.require("address", errors);
    let tls = table.get_or("tls", false, errors);
    let protocols = table.list("protocols", errors);
    table.finish(errors);
    Some(ListenSection { address: address?, tls, protocols })
}

fn read_certificate(mut table: Table, errors: &mut Diagnostics) -> Option<CertificateSection> {
    let cert = table.require("cert", errors);
    let key = table.require("key", errors);
    table.finish(errors);
    Some(CertificateSection { cert: cert?, key: key? })
}

fn read_admin(mut table: Table, errors: &mut Diagnostics) -> Option<AdminSection> {
    let address = table.require("address", errors);
    let tokens_file = table.get("tokens_file", errors);
    table.finish(errors);
    Some(AdminSection { address: address?, tokens_file })
}

fn read_log(mut table: Table, errors: &mut Diagnostics) -> LogSection {
    let log = LogSection {
        access: table.get("access", errors),
        format: table.get_or("format", LogFormat::Json, errors),
        level: table.get("level", errors),
    };
    table.finish(errors);
    log
}

fn read_limits(mut table: Table, errors: &mut Diagnostics) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        max_connections: table.get_or("max_connections", default.max_connections, errors),
        max_prefix_share: table.get_or("max_prefix_share", default.max_prefix_share, errors),
        max_requests_per_connection: table.get_or(
            "max_requests_per_connection",
            default.max_requests_per_connection,
            errors,
        ),
        max_head: table.get_or("max_head", default.max_head, errors),
        max_headers: table.get_or("max_headers", default.max_headers, errors),
        max_target: table.get_or("max_target", default.max_target, errors),
        max_drain: table.get_or("max_drain", default.max_drain, errors),
        header_timeout: table.get_or("header_timeout", default.header_timeout, errors),
        keepalive_timeout: table.get_or("keepalive_timeout", default.keepalive_timeout, errors),
        read_timeout: table.get_or("read_timeout", default.read_timeout, errors),
        write_timeout: table.get_or("write_timeout", default.write_timeout, errors),
        min_rate: table.get_or("min_rate", default.min_rate, errors),
        tls_timeout: table.get_or("tls_timeout", default.tls_timeout, errors),
        max_h2_streams: table.get_or("max_h2_streams", default.max_h2_streams, errors),
        max_fills: table.get_or("max_fills", default.max_fills, errors),
    };
    check_limits(&limits, table.place, errors);
    table.finish(errors);
    limits
}

fn check_limits(limits: &Limits, place: Place, errors: &mut Diagnostics) {
    if !(1024..=1 << 20).contains(&limits.max_head.0) {
        errors.error(place, "max_head in [limits] must be from 1KiB to 1MiB");
    }
    if !(1..=100).contains(&limits.max_prefix_share) {
        errors.error(place, "max_prefix_share in [limits] must be from 1 to 100");
    }
    if !(8..=Limits::MOST_HEADERS).contains(&limits.max_headers) {
        errors.error(place, format!("max_headers in [limits] must be from 8 to {}", Limits::MOST_HEADERS));
    }
    if limits.max_target.0 >= limits.max_head.0 {
        errors.error(place, "max_target in [limits] must be less than max_head");
    }
    if !(64..=Limits::LONGEST_TARGET).contains(&limits.max_target.0) {
        let most = Limits::LONGEST_TARGET;
        errors.error(place, format!("max_target in [limits] must be from 64 to {most} bytes"));
    }
    for (name, zero) in [
        ("max_connections", limits.max_connections == 0),
        ("max_requests_per_connection", limits.max_requests_per_connection == 0),
        ("max_h2_streams", limits.max_h2_streams == 0),
        ("max_fills", limits.max_fills == 0),
        ("header_timeout", limits.header_timeout.is_zero()),
        ("keepalive_timeout", limits.keepalive_timeout.is_zero()),
        ("read_timeout", limits.read_timeout.is_zero()),
        ("write_timeout", limits.write_timeout.is_zero()),
        ("tls_timeout", limits.tls_timeout.is_zero()),
    ] {
        if zero {
            errors.error(place, format!("{name} in [limits] must be more than zero"));
        }
    }
}

fn read_cache_memory(mut table: Table, errors: &mut Diagnostics) -> CacheMemory {
    let default = CacheMemory::default();
    let max_size = table.get_or("max_size", default.max_size, errors);
    let memory = CacheMemory {
        max_size,
        max_object: table.get_or("max_object", default.max_object.min(max_size), errors),
        fill_buffer: table.get_or("fill_buffer", default.fill_buffer, errors),
        eviction: table.get_or("eviction", default.eviction, errors),
    };
    if memory.max_object > memory.max_size {
        errors.error(table.place, "max_object in [cache.memory] must not be larger than max_size");
    }
    table.finish(errors);
    memory
}

fn read_pool(name: At<String>, mut table: Table, errors: &mut Diagnostics) -> PoolSection {
    let default = PoolTimeouts::default();
    let place = table.place;
    let table_name = table.name.clone();
    let origins_place = table.values("origins", errors);
    let origins: Vec<OriginEntry> =
        origins_place.into_iter().filter_map(|value| read_origin(&value, &table_name, errors)).collect();
    if origins.is_empty() {
        errors.error_with_hint(
            place,
            format!("{table_name} has no usable origins"),
            "add origins = [\"10.0.0.1:8080\"]",
        );
    }
    let pool = PoolSection {
        balance: table.get_or("balance", Balance::RoundRobin, errors),
        hash: table.get("hash", errors),
        origins,
        fallback: table.get("fallback", errors),
        retries: table.get_or("retries", 1, errors),
        timeouts: PoolTimeouts {
            connect: table.get_or("connect_timeout", default.connect, errors),
            read: table.get_or("read_timeout", default.read, errors),
            write: table.get_or("write_timeout", default.write, errors),
            total: table.get_or("total_timeout", default.total, errors),
            idle: table.get_or("idle_timeout", default.idle, errors),
            tunnel: table.get_or("tunnel_timeout", default.tunnel, errors),
            stream: read_stream_timeout(&mut table, errors),
        },
        protocol: table.get("protocol", errors).unwrap_or(At { value: OriginProtocol::H1, place }),
        tls: table.get_or("tls", false, errors),
        sni: table.get("sni", errors),
        verify: table.get_or("verify", true, errors),
        ca: table.get("ca", errors),
        host: table.get("host", errors),
        resolve_interval: table.get_or("resolve_interval", Duration::from_secs(30), errors),
        health: table
            .table("health", &format!("[pool.{}.health]", name.value), errors)
            .map(|health| read_health(health, errors)),
        name,
    };
    for (key, value) in [
        ("connect_timeout", pool.timeouts.connect),
        ("read_timeout", pool.timeouts.read),
        ("write_timeout", pool.timeouts.write),
        ("total_timeout", pool.timeouts.total),
        ("tunnel_timeout", pool.timeouts.tunnel),
    ] {
        if value.is_zero() {
            errors.error(place, format!("{key} in {table_name} must be more than zero"));
        }
    }
    if pool.resolve_interval < Duration::from_secs(1) {
        errors.error(place, format!("resolve_interval in {table_name} must be at least 1s"));
    }
    table.finish(errors);
    pool
}

fn read_origin(value: &Value, pool: &str, errors: &mut Diagnostics) -> Option<OriginEntry> {
    if let Some(address) = value.str() {
        return Some(OriginEntry {
            address: At { value: address.to_owned(), place: value.place },
            weight: At { value: 1, place: value.place },
        });
    }
    let Some(mut table) = value.table(&format!("an origin of {pool}")) else {
        errors.error_with_hint(
            value.place,
            format!("wrong value in \"origins\" in {pool}: expected \"HOST:PORT\" or a table"),
            "write \"10.0.0.1:8080\" or { address = \"10.0.0.1:8080\", weight = 2 }",
        );
        return None;
    };
    let address = table.require("address", errors);
    let weight = table.get("weight", errors).unwrap_or(At { value: 1, place: value.place });
    table.finish(errors);
    Some(OriginEntry { address: address?, weight })
}

fn read_health(mut table: Table, errors: &mut Diagnostics) -> HealthSection {
    let place = table.place;
    let health = HealthSection {
        path: table.get("path", errors),
        host: table.get("host", errors),
        expect: table.list("expect", errors),
        interval: table.get("interval", errors).unwrap_or(At { value: Duration::from_secs(5), place }),
        timeout: table.get("timeout", errors).unwrap_or(At { value: Duration::from_secs(2), place }),
        rise: table.get("rise", errors).unwrap_or(At { value: 2, place }),
        fall: table.get("fall", errors).unwrap_or(At { value: 3, place }),
    };
    if let Some(path) = &health.path
        && (path.value.contains('#') || path.value.parse::<http::uri::PathAndQuery>().is_err())
    {
        errors
            .error(path.place, format!("path in {}: {:?} is not a path that can be asked for", table.name, path.value));
    }
    table.finish(errors);
    health
}

fn read_site(name: At<String>, mut table: Table, errors: &mut Diagnostics) -> SiteSection {
    let route_name = format!("[[site.{}.route]]", name.value);
    let site = SiteSection {
        hosts: table.list("hosts", errors),
        version: table.get_or("version", 1, errors),
        purge_from: table.list("purge_from", errors).into_iter().map(|at| at.value).collect(),
        ports: table.get_or("ports", PortsWord::Named, errors),
        encoded_dots: table.get_or("encoded_dots", EncodedDots::Refuse, errors),
        routes: table
            .tables("route", &route_name, errors)
            .into_iter()
            .filter_map(|route| read_route(route, errors))
            .collect(),
        name,
    };
    table.finish(errors);
    site
}

fn read_route(mut table: Table, errors: &mut Diagnostics) -> Option<RouteSection> {
    let path = table.require("path", errors);
    let pool = table.require("pool", errors);
    let methods = table.list("methods", errors);
    let max_body = table.get("max_body", errors).map(|at| at.value);
    let stream_timeout = read_stream_timeout(&mut table, errors);
    let forward = table.list("forward", errors);
    let name = table.name.replace("[[", "cache of [[");
    let cache = table.table("cache", &name, errors).map(|cache| cache::read(cache, errors));
    table.finish(errors);
    Some(RouteSection { path: path?, methods, pool: pool?, max_body, stream_timeout, forward, cache })
}

fn read_stream_timeout(table: &mut Table, errors: &mut Diagnostics) -> Option<Duration> {
    let timeout: At<Duration> = table.get("stream_timeout", errors)?;
    if timeout.value.is_zero() {
        errors.error(timeout.place, format!("stream_timeout in {} must be more than zero", table.name));
    }
    Some(timeout.value)
}
