//! `origins` of a pool: where they are, as written here, in a file of their own, or where they are to be found.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::diagnose::{At, ConfigErrors, Diagnostics};
use crate::config::read::{Table, Value};
use crate::config::{regular, syntax};
use crate::request::parse_authority;

/// Origins that a file, or a name, may bring.
pub(crate) const MOST_FOUND: usize = 4096;

/// Bytes of a file of origins.
const LONGEST_FILE: u64 = 1 << 20;

/// The path of a Unix socket has room for so many bytes (`sun_path`, unix(7)), with a zero behind it.
const LONGEST_SOCKET: usize = 107;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// As written, `HOST:PORT` or `unix:PATH`: how the operator knows it.
    pub address: Arc<str>,
    pub endpoint: Endpoint,
    pub weight: u16,
    /// Those of a lower number come first, from 1 on.
    pub priority: u16,
    /// Where it is.
    pub region: Option<Arc<str>>,
    /// How many requests it may have at one time; `None`: as the pool says.
    pub max_requests: Option<u32>,
    /// The name by which it was found, if it is known by an address alone: what TLS asks for.
    pub found_by: Option<Arc<str>>,
}

/// Where an origin is: known now, or to be resolved again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Address(SocketAddr),
    Name { host: String, port: u16 },
    Unix(Arc<Path>),
}

/// Where origins of a pool are found, while the node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub from: SourceKind,
    /// What all of them have in common.
    pub like: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// The SRV records of a name (RFC 2782).
    Srv(Arc<str>),
    /// Each address of a name is an origin by itself.
    Addresses { host: Arc<str>, port: u16 },
    /// A file with `origins` of its own; `port`: of those that name none.
    File { path: PathBuf, port: u16 },
}

impl Origin {
    pub(crate) fn new(address: Arc<str>, endpoint: Endpoint) -> Self {
        Origin { address, endpoint, weight: 1, priority: 1, region: None, max_requests: None, found_by: None }
    }

    /// What others are made like.
    fn nowhere() -> Self {
        Origin::new("".into(), Endpoint::Unix(Path::new("").into()))
    }

    /// Its host, without the port; `None`: it has none.
    pub(crate) fn host(&self) -> Option<String> {
        match (&self.found_by, &self.endpoint) {
            (Some(name), _) => Some(name.to_string()),
            (None, Endpoint::Address(address)) => Some(address.ip().to_string()),
            (None, Endpoint::Name { host, .. }) => Some(host.clone()),
            (None, Endpoint::Unix(_)) => None,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.from {
            SourceKind::Srv(name) => write!(f, "SRV records of {name}"),
            SourceKind::Addresses { host, .. } => write!(f, "addresses of {host}"),
            SourceKind::File { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

/// `origins` and `origins_file` of a pool.
pub(super) fn read_all(table: &mut Table, default_port: u16) -> (Vec<Origin>, Vec<Source>) {
    let (errors, pool) = (table.errors, table.name.clone());
    let file: Option<At<String>> = table.get("origins_file");
    if table.lacks("origins") && file.is_none() {
        let hint = "add origins = [\"10.0.0.1:8080\"]";
        errors.error_with_hint(table.place, format!("{pool} has no usable origins"), hint);
    }
    let mut reader = Reader::new(&pool, default_port, errors);
    for value in table.items("origins") {
        reader.read(value);
    }
    let (origins, mut sources) = (reader.origins, reader.sources);
    if let Some(file) = file {
        let path = errors.resolve_path(&file);
        match load(&path, default_port) {
            // An orchestrator may be yet to write it.
            Ok(_) | Err(NotLoaded::Absent) => {}
            Err(why) => {
                let hint = "the file has one line, such as origins = [\"10.0.0.1:8080\", \"10.0.0.2:8080\"]";
                errors.error_with_hint(file.place, why.to_string(), hint);
            }
        }
        let like = Origin::nowhere();
        sources.push(Source { from: SourceKind::File { path, port: default_port }, like });
    }
    (origins, sources)
}

/// Of an origin, or of each of a pool.
pub(super) fn read_max_requests(table: &mut Table) -> Option<u32> {
    let mut most = 0;
    table.set_within("max_requests", &mut most, 1..=1_000_000);
    Some(most).filter(|most| *most > 0)
}

/// Why a file brings no origins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLoaded {
    #[error("there is no such file")]
    Absent,
    #[error("{0}")]
    Unreadable(String),
    #[error("{0}")]
    Wrong(#[from] ConfigErrors),
}

/// The origins of a file: TOML with the one key `origins`, as a pool has it.
pub(crate) fn load(path: &Path, default_port: u16) -> Result<Vec<Origin>, NotLoaded> {
    if !path.exists() {
        return Err(NotLoaded::Absent);
    }
    let length = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if length > LONGEST_FILE {
        let why = format!("{}: it has {length} bytes; at most {LONGEST_FILE} are taken", path.display());
        return Err(NotLoaded::Unreadable(why));
    }
    let source =
        regular::read_source(path).map_err(|why| NotLoaded::Unreadable(format!("{}: {why}", path.display())))?;
    let errors = Diagnostics::default();
    let text = source.text.clone();
    let file = errors.add_source(source);
    errors.sources_are_all();
    let mut origins = Vec::new();
    if let Some(root) = syntax::parse(file, &text, &errors) {
        let mut table = Table::of_file(file, "a file of origins", root.get_ref(), &errors);
        let mut reader = Reader::new("a file of origins", default_port, &errors);
        reader.may_look_on = false;
        let place = table.place_of("origins");
        if !table.has("origins") {
            errors.error_with_hint(
                table.place,
                "it has no origins",
                "add origins = [\"10.0.0.1:8080\"]; none: origins = []",
            );
        }
        let items = table.items("origins");
        if items.len() > MOST_FOUND {
            errors.error(place, format!("it has {} origins; at most {MOST_FOUND} are taken", items.len()));
        }
        items.into_iter().take(MOST_FOUND).for_each(|value| reader.read(value));
        table.finish();
        origins = reader.origins;
    }
    if errors.is_empty() { Ok(origins) } else { Err(errors.into_errors().into()) }
}

/// Reads one origin after the other.
struct Reader<'a> {
    pool: &'a str,
    default_port: u16,
    errors: &'a Diagnostics,
    places: HashMap<String, crate::config::diagnose::Place>,
    /// Whether it may say where others are found.
    may_look_on: bool,
    origins: Vec<Origin>,
    sources: Vec<Source>,
}

impl<'a> Reader<'a> {
    fn new(pool: &'a str, default_port: u16, errors: &'a Diagnostics) -> Self {
        let (places, origins, sources) = Default::default();
        Reader { pool, default_port, errors, places, may_look_on: true, origins, sources }
    }

    fn read(&mut self, value: Value<'_, '_>) {
        let (errors, pool) = (self.errors, self.pool);
        let mut like = Origin::nowhere();
        let (address, srv, each) = match (value.str(), Table::of(value, &format!("an origin of {pool}"), errors)) {
            (Some(text), _) => (Some(At { value: text.to_owned(), place: value.place }), None, false),
            (None, Some(mut table)) => {
                let srv: Option<At<String>> = if self.may_look_on { table.get("srv") } else { None };
                let address = if srv.is_some() { table.get("address") } else { table.require("address") };
                let each = self.may_look_on && table.get_or("each_address", false);
                if let (Some(srv), true) = (&srv, address.is_some() || each || table.has("weight")) {
                    let hint = "write { srv = \"_http._tcp.app.internal\" }: the records say the rest";
                    errors.error_with_hint(srv.place, "\"srv\" goes without address, each_address and weight", hint);
                }
                table.set_within("weight", &mut like.weight, 1..=1000);
                table.set_within("priority", &mut like.priority, 1..=100);
                like.max_requests = read_max_requests(&mut table);
                like.region = table.value::<String>("region").map(Arc::from);
                table.finish();
                (address, srv, each)
            }
            (None, None) => {
                errors.error_with_hint(
                    value.place,
                    format!("wrong value in \"origins\" in {pool}: expected \"HOST:PORT\" or a table"),
                    "write \"10.0.0.1:8080\" or { address = \"10.0.0.1:8080\", weight = 2 }",
                );
                return;
            }
        };
        let Some(At { value: text, place }) = srv.clone().or(address) else { return };
        if let Some(first) = self.places.insert(text.clone(), place) {
            errors.again(place, format!("origin {text:?} is given twice"), first);
        }
        if srv.is_some() {
            match is_srv_name(&text) {
                true => self.sources.push(Source { from: SourceKind::Srv(text.into()), like }),
                false => {
                    let hint = "such as \"_http._tcp.app.internal\"";
                    errors.error_with_hint(place, format!("{text:?} is no name of SRV records"), hint);
                }
            }
            return;
        }
        match (parse_endpoint(&text, self.default_port), each) {
            (Ok(Endpoint::Name { host, port }), true) => {
                self.sources.push(Source { from: SourceKind::Addresses { host: host.into(), port }, like });
            }
            (Ok(_), true) => {
                let hint = "leave it out: each_address = true is for names with many addresses";
                errors.error_with_hint(place, format!("{text:?} is one address"), hint);
            }
            (Ok(endpoint), false) => self.origins.push(Origin { address: text.into(), endpoint, ..like }),
            (Err((message, hint)), _) => errors.error_with_hint(place, message, hint),
        }
    }
}

/// Whether a name is one: labels of letters, digits, hyphens and underscores, the first ones of service and protocol.
fn is_srv_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(is_fine)
    };
    name.len() <= 253 && name.split('.').all(is_label) && name.split('.').count() > 2 && name.starts_with('_')
}

/// Reads `HOST:PORT`, or `HOST` with the scheme's port, or `unix:PATH`.
fn parse_endpoint(text: &str, default_port: u16) -> Result<Endpoint, (String, String)> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_socket(text, path);
    }
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
    if text.starts_with('/') {
        let message = format!("{text:?} is not an origin address, expected HOST:PORT");
        return Err((message, format!("write \"unix:{text}\" for a Unix socket")));
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

fn parse_socket(text: &str, path: &str) -> Result<Endpoint, (String, String)> {
    // Three slashes are as good as one.
    let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    if !path.starts_with('/') {
        return Err((
            format!("{text:?}: the path of a Unix socket is absolute"),
            "write \"unix:/run/app.sock\"".into(),
        ));
    }
    if path.len() > LONGEST_SOCKET || path.contains('\0') {
        let hint = "put the socket, or a link to it, in a directory with a short name such as /run".to_owned();
        return Err((format!("{text:?}: the path of a Unix socket has at most {LONGEST_SOCKET} bytes"), hint));
    }
    Ok(Endpoint::Unix(Path::new(path).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_names_or_sockets() {
        let name = |host: &str, port| Endpoint::Name { host: host.into(), port };
        for (text, expected) in [
            ("10.0.0.1:80", Ok(Endpoint::Address("10.0.0.1:80".parse().unwrap()))),
            ("10.0.0.1", Ok(Endpoint::Address("10.0.0.1:443".parse().unwrap()))),
            ("[::1]", Ok(Endpoint::Address("[::1]:443".parse().unwrap()))),
            ("app.internal", Ok(name("app.internal", 443))),
            ("unix:/run/a.sock", Ok(Endpoint::Unix(Path::new("/run/a.sock").into()))),
            ("unix:///run/a.sock", Ok(Endpoint::Unix(Path::new("/run/a.sock").into()))),
            ("unix:run/a.sock", Err("absolute")),
            (&format!("unix:/{}", "x".repeat(107)), Err("107 bytes")),
            ("/run/a.sock", Err("not an origin address")),
            ("10.0.0.1:0", Err("port 0")),
            ("http://app/x", Err("is a URL")),
        ] {
            match (parse_endpoint(text, 443), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err((message, _)), Err(expected)) => assert!(message.contains(expected), "{message}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn names_of_srv_records_have_a_service_and_a_protocol() {
        for (name, expected) in [
            ("_http._tcp.app.internal", true),
            ("_http._tcp.app.internal.", true),
            ("_web.app.service.consul", true),
            ("app.internal", false),
            ("_http._tcp", false),
            ("_http._tcp..internal", false),
            ("_http._tcp.app internal", false),
        ] {
            assert_eq!(is_srv_name(name), expected, "{name}");
        }
    }

    #[test]
    fn a_file_has_origins_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.toml");
        assert!(matches!(load(&path, 80), Err(NotLoaded::Absent)));
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load(&path, 80).map_err(|error| error.to_string())
        };
        let origins = load("origins = [\"10.0.0.1\", { address = \"unix:/run/a.sock\", weight = 3 }]").unwrap();
        let shown: Vec<_> = origins.iter().map(|origin| (&*origin.address, origin.weight)).collect();
        assert_eq!(shown, [("10.0.0.1", 1), ("unix:/run/a.sock", 3)]);
        assert_eq!(load("origins = []").unwrap(), []);
        for (text, expected) in [
            ("", "it has no origins"),
            ("origins = [", "app.toml:1"),
            ("origins = [\"10.0.0.1:0\"]", "app.toml:1:12: origin \"10.0.0.1:0\" has port 0"),
            ("origins = [{ srv = \"_a._tcp.b\" }]", "srv"),
            ("origins = []\nhealth = {}", "health"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
