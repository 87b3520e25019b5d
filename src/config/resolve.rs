//! Turns what the operator wrote ([`super::file`]) into what the node uses ([`super::model`]): references
//! between sections resolved, files named in it read, everything checked that needs more than one value.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache;
use super::certificate::{self, CertificateStore};
use super::diagnose::{At, Diagnostics, Source, did_you_mean};
use super::disk;
use super::file::{self, File, PortsWord};
use super::host::{HostMap, parse_authority};
use super::model::*;
use super::read::ByteSize;

/// The parts of the model that come from outside the configuration files themselves.
pub struct Outside {
    pub fingerprint: u64,
    pub tokens: Vec<Token>,
}

/// Builds the model. Mistakes go to `errors`; the model is only fit for use when there are none.
pub fn resolve(file: File, outside: Outside, errors: &mut Diagnostics) -> Config {
    let pool_ids = name_pools(&file.pools, errors);
    let certificates = read_certificates(&file.certificates, errors);
    let certificate_fingerprint = certificates.fingerprint();
    for at in file.pools.iter().filter_map(|pool| pool.ca.as_ref()) {
        errors.names_file(relative_to(errors.file(at.place), &at.value));
    }
    let listeners = resolve_listeners(&file.listen, !certificates.is_empty(), errors);
    let (sites, hosts) = resolve_sites(file.sites, &pool_ids, errors);
    check_fallback_cycles(&file.pools, &pool_ids, errors);
    let pools = file.pools.into_iter().map(|pool| Arc::new(resolve_pool(pool, &pool_ids, errors))).collect();
    let node = resolve_node(file.node, errors);
    let disk = disk::resolve(file.cache_disk, node.state_dir.is_some(), errors);
    let pools: Vec<Arc<Pool>> = pools;
    let fingerprint = outside.fingerprint.rotate_left(1) ^ certificate_fingerprint ^ authorities_fingerprint(&pools);
    Config {
        node,
        listeners,
        certificates: Arc::new(certificates),
        admin: file.admin.map(|admin| resolve_admin(admin, outside.tokens, &sites, errors)),
        log: resolve_log(file.log, errors),
        limits: file.limits.unwrap_or_default(),
        memory: file.cache_memory.unwrap_or_default(),
        disk,
        pools,
        sites,
        hosts,
        fingerprint,
        files: errors.files(),
    }
}

/// Changes when any of the authorities that origins are verified by does.
fn authorities_fingerprint(pools: &[Arc<Pool>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for der in pools.iter().filter_map(|pool| pool.tls.as_ref()?.ca.as_ref()).flat_map(|ca| ca.iter()) {
        der.as_ref().hash(&mut hasher);
    }
    hasher.finish()
}

/// A path in a configuration file is relative to that file.
pub fn relative_to(source: &Source, path: &str) -> PathBuf {
    source.path.parent().unwrap_or(Path::new("")).join(path)
}

fn resolve_node(node: Option<file::NodeSection>, errors: &mut Diagnostics) -> Node {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Some(node) = node else {
        return Node {
            name: "seawall".into(),
            region: None,
            threads: cores,
            compress_threads: 1,
            state_dir: None,
            drain_timeout: std::time::Duration::from_secs(30),
            trusted_proxies: Vec::new(),
        };
    };
    if let Some(name) = &node.name {
        // The name becomes a token in Cache-Status and Via.
        if name.value.is_empty() || !name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            errors.error(name.place, "name in [node] may have only letters, digits, \"-\", \"_\" and \".\"");
        }
    }
    for (key, threads) in [("threads", &node.threads), ("compress_threads", &node.compress_threads)] {
        if let Some(threads) = threads.as_ref().filter(|threads| !(1..=1024).contains(&threads.value)) {
            errors.error(threads.place, format!("{key} in [node] must be from 1 to 1024"));
        }
    }
    Node {
        name: node.name.map_or_else(|| "seawall".into(), |name| name.value),
        region: node.region,
        threads: node.threads.map_or(cores, |threads| threads.value as usize),
        compress_threads: node.compress_threads.map_or(1, |threads| threads.value as usize),
        state_dir: node.state_dir.map(|dir| relative_to(errors.file(dir.place), &dir.value)),
        drain_timeout: node.drain_timeout,
        trusted_proxies: node.trusted_proxies,
    }
}

/// Whether one process cannot listen on both.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let of_one_family = one.is_ipv4() == other.is_ipv4();
    let same_host =
        one.ip() == other.ip() || of_one_family && (one.ip().is_unspecified() || other.ip().is_unspecified());
    one.port() != 0 && one.port() == other.port() && same_host
}

fn resolve_listeners(
    listen: &[file::ListenSection],
    have_certificate: bool,
    errors: &mut Diagnostics,
) -> Vec<Listener> {
    let mut seen: Vec<SocketAddr> = Vec::new();
    let mut listeners = Vec::new();
    for section in listen {
        let address = section.address.value;
        if let Some(other) = seen.iter().find(|other| overlap(**other, address)) {
            let twice = if *other == address { String::new() } else { format!(": {other} includes it, or it that") };
            errors.error(section.address.place, format!("{address} is listened on twice{twice}"));
        }
        seen.push(address);
        if section.tls && !have_certificate {
            errors.error_with_hint(
                section.address.place,
                "this listener has tls = true, but there is no certificate",
                "add [[certificate]] with cert and key",
            );
        }
        let mut protocols: Vec<Protocol> = section.protocols.iter().map(|at| at.value).collect();
        if protocols.is_empty() {
            protocols = if section.tls { vec![Protocol::H1, Protocol::H2] } else { vec![Protocol::H1] };
        }
        listeners.push(Listener { address: section.address.value, tls: section.tls, protocols });
    }
    listeners
}

fn read_certificates(sections: &[file::CertificateSection], errors: &mut Diagnostics) -> CertificateStore {
    let mut certificates = Vec::new();
    for section in sections {
        let cert = relative_to(errors.file(section.cert.place), &section.cert.value);
        let key = relative_to(errors.file(section.key.place), &section.key.value);
        errors.names_file(cert.clone());
        errors.names_file(key.clone());
        match certificate::read(&cert, &key) {
            Ok(certificate) => certificates.push(certificate),
            Err(message) => errors.error(section.cert.place, message),
        }
    }
    CertificateStore::new(certificates)
}

fn resolve_admin(
    admin: file::AdminSection,
    tokens: Vec<Token>,
    sites: &[Arc<Site>],
    errors: &mut Diagnostics,
) -> Admin {
    if !admin.address.value.ip().is_loopback() && admin.tokens_file.is_none() {
        errors.error_with_hint(
            admin.address.place,
            "the admin API does not listen beyond loopback without tokens",
            "add tokens_file, or use 127.0.0.1",
        );
    }
    if let Some(tokens_file) = &admin.tokens_file
        && tokens.is_empty()
    {
        // No tokens means open; a file of tokens that has none means a mistake.
        errors.error(tokens_file.place, "the tokens file has no usable [[token]]");
    }
    for token in &tokens {
        for unknown in token.sites.iter().flatten().filter(|name| !sites.iter().any(|site| *site.name == **name)) {
            let place = admin.tokens_file.as_ref().map_or(admin.address.place, |at| at.place);
            errors.error(place, format!("token {:?} is for site {unknown:?}, which there is not", token.name));
        }
    }
    Admin { address: admin.address.value, tokens }
}

fn resolve_log(log: Option<file::LogSection>, errors: &mut Diagnostics) -> Log {
    let Some(log) = log else {
        return Log { access: AccessLogTarget::Stdout, format: LogFormat::Json, level: "info".into() };
    };
    let level = log.level.as_ref().map_or("info", |level| &level.value);
    if let Some(at) = &log.level
        && let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&at.value)
    {
        errors.error(at.place, format!("level in [log] is not a log filter such as \"info\": {error}"));
    }
    let access = match &log.access {
        None => AccessLogTarget::Stdout,
        Some(at) => match at.value.as_str() {
            "off" => AccessLogTarget::Off,
            "stdout" => AccessLogTarget::Stdout,
            path => AccessLogTarget::File(relative_to(errors.file(at.place), path)),
        },
    };
    Log { access, format: log.format, level: level.to_owned() }
}

type PoolIds = HashMap<String, PoolId>;

fn name_pools(pools: &[file::PoolSection], errors: &mut Diagnostics) -> PoolIds {
    let mut ids = PoolIds::new();
    for (i, pool) in pools.iter().enumerate() {
        if ids.insert(pool.name.value.clone(), PoolId(i)).is_some() {
            errors.error(pool.name.place, format!("pool {:?} is given twice", pool.name.value));
        }
        check_name("pool", &pool.name, errors);
    }
    ids
}

/// Names of pools and sites appear in metrics, logs, keys and URLs of the admin API.
fn check_name(kind: &str, name: &At<String>, errors: &mut Diagnostics) {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.value.is_empty() || name.value.len() > 64 || !name.value.bytes().all(fits) {
        errors.error(
            name.place,
            format!("{kind} name {:?} must be 1 to 64 letters, digits, \"-\", \"_\" or \".\"", name.value),
        );
    }
}

fn find_pool(name: &At<String>, ids: &PoolIds, errors: &mut Diagnostics) -> Option<PoolId> {
    let found = ids.get(&name.value).copied();
    if found.is_none() {
        let message = format!("unknown pool {:?}", name.value);
        match did_you_mean(&name.value, ids.keys().map(String::as_str)) {
            Some(meant) => errors.error_with_hint(name.place, message, format!("did you mean {meant:?}?")),
            None => errors.error_with_hint(name.place, message, format!("add [pool.{}] with origins", name.value)),
        }
    }
    found
}

fn check_fallback_cycles(pools: &[file::PoolSection], ids: &PoolIds, errors: &mut Diagnostics) {
    for pool in pools {
        let mut at = pool;
        for _ in 0..=pools.len() {
            let Some(next) = at.fallback.as_ref().and_then(|name| ids.get(&name.value)) else { break };
            at = &pools[next.0];
            if std::ptr::eq(at, pool) {
                let place = pool.fallback.as_ref().map_or(pool.name.place, |name| name.place);
                errors.error(place, format!("the fallback of pool {:?} leads back to itself", pool.name.value));
                break;
            }
        }
    }
}

fn resolve_pool(pool: file::PoolSection, ids: &PoolIds, errors: &mut Diagnostics) -> Pool {
    let mut seen = HashSet::new();
    let default_port = if pool.tls { 443 } else { 80 };
    let mut origins = Vec::new();
    for entry in &pool.origins {
        if !seen.insert(entry.address.value.clone()) {
            errors.error(entry.address.place, format!("origin {:?} is given twice", entry.address.value));
        }
        if !(1..=1000).contains(&entry.weight.value) {
            errors.error(entry.weight.place, "weight must be from 1 to 1000");
        }
        match parse_endpoint(&entry.address.value, default_port) {
            Ok(endpoint) => origins.push(Origin {
                address: entry.address.value.as_str().into(),
                endpoint,
                weight: entry.weight.value,
            }),
            Err((message, hint)) => errors.error_with_hint(entry.address.place, message, hint),
        }
    }
    if pool.protocol.value != OriginProtocol::H1 && !pool.tls && pool.protocol.value == OriginProtocol::Auto {
        errors.error_with_hint(
            pool.protocol.place,
            "protocol = \"auto\" needs ALPN and so tls = true",
            "without TLS choose \"h1\" or \"h2\"",
        );
    }
    if pool.balance != Balance::Hash
        && let Some(hash) = &pool.hash
    {
        errors.error_with_hint(hash.place, "\"hash\" has no effect here", "add balance = \"hash\"");
    }
    Pool {
        name: pool.name.value.as_str().into(),
        balance: pool.balance,
        hash_key: pool.hash.map_or(HashKey::Url, |hash| parse_hash_key(&hash, errors)),
        origins,
        fallback: pool.fallback.as_ref().and_then(|name| find_pool(name, ids, errors)),
        retries: pool.retries,
        timeouts: pool.timeouts,
        protocol: pool.protocol.value,
        tls: resolve_origin_tls(pool.tls, pool.verify, pool.sni, pool.ca, errors),
        host: pool.host.and_then(|host| check_host(host, errors)),
        resolve_interval: pool.resolve_interval,
        health: pool.health.and_then(|health| resolve_health(health, errors)),
    }
}

fn check_host(host: At<String>, errors: &mut Diagnostics) -> Option<String> {
    if parse_authority(&host.value).is_none() {
        errors.error(host.place, format!("{:?} is not a host name", host.value));
        return None;
    }
    Some(host.value)
}

/// Reads `HOST:PORT`, or `HOST` with the scheme's port.
pub(super) fn parse_endpoint(text: &str, default_port: u16) -> Result<Endpoint, (String, String)> {
    if let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        let hint = format!("write {:?}, and tls = true in the pool for https", rest.trim_end_matches('/'));
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

fn parse_hash_key(hash: &At<String>, errors: &mut Diagnostics) -> HashKey {
    let header = |name: &str| name.parse().ok().map(HashKey::Header);
    let parsed = match hash.value.as_str() {
        "url" => Some(HashKey::Url),
        "client" => Some(HashKey::Client),
        other => other.strip_prefix("header:").and_then(header),
    };
    parsed.unwrap_or_else(|| {
        errors.error(
            hash.place,
            format!("unknown hash key {:?}, expected \"url\", \"client\" or \"header:NAME\"", hash.value),
        );
        HashKey::Url
    })
}

fn resolve_origin_tls(
    tls: bool,
    verify: bool,
    sni: Option<At<String>>,
    ca: Option<At<String>>,
    errors: &mut Diagnostics,
) -> Option<OriginTls> {
    if !tls {
        for at in [&sni, &ca].into_iter().flatten() {
            errors.error_with_hint(at.place, "this has no effect without TLS", "add tls = true to the pool");
        }
        return None;
    }
    let ca = ca.and_then(|ca| {
        let path = relative_to(errors.file(ca.place), &ca.value);
        certificate::read_chain(&path).map_err(|message| errors.error(ca.place, message)).ok()
    });
    let sni = sni.and_then(|sni| check_host(sni, errors));
    let sni = sni.map(|sni| parse_authority(&sni).map_or(String::new(), |(host, _)| host.into_owned()));
    Some(OriginTls { sni, verify, ca: ca.map(Arc::new) })
}

fn resolve_health(health: file::HealthSection, errors: &mut Diagnostics) -> Option<Health> {
    for (name, value) in [("rise", &health.rise), ("fall", &health.fall)] {
        if !(1..=100).contains(&value.value) {
            errors.error(value.place, format!("{name} must be from 1 to 100"));
        }
    }
    if health.interval.value < std::time::Duration::from_millis(10) {
        errors.error(health.interval.place, "interval must be at least 10ms");
    }
    if health.timeout.value.is_zero() {
        errors.error(health.timeout.place, "timeout must be more than zero");
    }
    let probe = match health.path {
        None => {
            for at in health.host.iter().map(|at| at.place).chain(health.expect.iter().map(|at| at.place)) {
                errors.error_with_hint(at, "this has no effect on a TCP check", "add path = \"/healthz\"");
            }
            Probe::Tcp
        }
        Some(path) => {
            if !path.value.starts_with('/') || !path.value.bytes().all(|b| b.is_ascii_graphic()) {
                errors.error(path.place, "path of a health check must begin with \"/\" and be visible ASCII");
            }
            let mut expect: Vec<_> = health.expect.iter().map(|at| at.value).collect();
            if expect.is_empty() {
                expect.push(file::StatusRange { first: 200, last: 399 });
            }
            Probe::Http { path: path.value, host: health.host.and_then(|host| check_host(host, errors)), expect }
        }
    };
    Some(Health {
        probe,
        interval: health.interval.value,
        timeout: health.timeout.value,
        rise: health.rise.value,
        fall: health.fall.value,
    })
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

fn resolve_sites(
    sections: Vec<file::SiteSection>,
    pool_ids: &PoolIds,
    errors: &mut Diagnostics,
) -> (Vec<Arc<Site>>, HostMap<usize>) {
    let mut hosts = HostMap::default();
    let mut names: HashSet<String> = HashSet::new();
    let mut sites: Vec<Arc<Site>> = Vec::new();
    for section in sections {
        check_name("site", &section.name, errors);
        if !names.insert(section.name.value.clone()) {
            errors.error(section.name.place, format!("site {:?} is given twice", section.name.value));
        }
        if section.hosts.is_empty() {
            errors.error_with_hint(
                section.name.place,
                format!("site {:?} has no hosts", section.name.value),
                "add hosts = [\"shop.example.com\"], or [\"*\"] for all",
            );
        }
        let mut named = Vec::new();
        for host in &section.hosts {
            match split_port(&host.value).and_then(|(host, port)| Ok((host.parse()?, port))) {
                Ok((pattern, port)) => {
                    named.extend(port);
                    // With several ports, or with one and without, it is one host.
                    if let Some(other) = hosts.insert(pattern, sites.len()).filter(|other| *other != sites.len()) {
                        let other = sites.get(other).map_or(section.name.value.as_str(), |site| &site.name);
                        errors.error(host.place, format!("host {:?} already belongs to site {other:?}", host.value));
                    }
                }
                Err(message) => errors.error(host.place, message),
            }
        }
        if section.routes.is_empty() {
            errors.error_with_hint(
                section.name.place,
                format!("site {:?} has no routes", section.name.value),
                format!("add [[site.{}.route]] with path and pool", section.name.value),
            );
        }
        let routes = section.routes.into_iter().filter_map(|route| resolve_route(route, pool_ids, errors)).collect();
        sites.push(Arc::new(Site {
            name: section.name.value.as_str().into(),
            version: section.version,
            purge_from: section.purge_from,
            ports: match section.ports {
                PortsWord::Any => Ports::Any,
                PortsWord::Named => Ports::Named(named),
            },
            encoded_dots: section.encoded_dots,
            routes,
        }));
    }
    (sites, hosts)
}

fn resolve_route(route: file::RouteSection, pool_ids: &PoolIds, errors: &mut Diagnostics) -> Option<Route> {
    let path = route.path.value.parse().map_err(|message: String| errors.error(route.path.place, message)).ok();
    let pool = find_pool(&route.pool, pool_ids, errors);
    let mut methods = HashSet::new();
    for method in &route.methods {
        match method.value.parse() {
            Ok(parsed) if method.value == method.value.to_ascii_uppercase() => {
                methods.insert(parsed);
            }
            _ => errors.error(method.place, format!("{:?} is not a method such as \"GET\"", method.value)),
        }
    }
    let mut cache = route.cache.map_or_else(CacheRules::default, |cache| cache::resolve(cache, errors));
    if let Some(first) = route.forward.first().filter(|_| cache.mode == CacheMode::Off) {
        let hint = "without a cache all fields go to the origin; remove it, or cache here";
        errors.error_with_hint(first.place, "\"forward\" has no effect on a route that does not cache", hint);
    }
    cache.key.headers.extend(route.forward.into_iter().filter_map(|name| cache::resolve_field(name, errors)));
    Some(Route {
        path: path?,
        methods: (!methods.is_empty()).then_some(methods),
        pool: pool?,
        max_body: route.max_body.map_or(BodyLimit::Unlimited, |ByteSize(bytes)| BodyLimit::Bytes(bytes)),
        stream_timeout: route.stream_timeout,
        cache,
    })
}
