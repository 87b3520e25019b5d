//! `[node]`: the process as a whole.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::address::IpRange;
use crate::config::diagnose::{At, Need};
use crate::config::read::Table;
use crate::config::regular;
use crate::geoip::{Database, GeoIp, Kind};
use crate::prefix::Prefix;

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub region: Option<String>,
    /// Name servers to ask for the names of origins; none: the system's.
    pub resolvers: Arc<[SocketAddr]>,
    pub threads: usize,
    /// Threads that compress what is stored.
    pub compress_threads: usize,
    /// Where the purge log lives; without one, purges are not kept over a restart.
    pub state_dir: Option<PathBuf>,
    /// How long running requests may take to end after SIGTERM.
    pub drain_timeout: Duration,
    /// Proxies that are believed when they say who the client is.
    pub trusted_proxies: Vec<IpRange>,
    /// The field in which they do.
    pub client_ip_header: HeaderName,
    /// Where clients' addresses belong.
    pub geoip: GeoIp,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            name: "seawall".into(),
            region: None,
            resolvers: Arc::default(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            compress_threads: 1,
            state_dir: None,
            drain_timeout: Duration::from_secs(30),
            trusted_proxies: Vec::new(),
            client_ip_header: HeaderName::from_static("x-forwarded-for"),
            geoip: GeoIp::default(),
        }
    }
}

impl Node {
    /// Whether an address is one of a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|range| range.contains(address))
    }

    /// The network of a client. `None`: its clients are no crowd, since it is a trusted proxy.
    pub fn prefix_of(&self, client: IpAddr) -> Option<Prefix> {
        (!self.trusts(client)).then(|| Prefix::of(client))
    }
}

pub(crate) fn read(mut table: Table) -> Node {
    let mut node = Node::default();
    // The name becomes a token in Cache-Status and Via.
    let is_token =
        |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    table.set_if("name", &mut node.name, is_token, "may have only letters, digits, \"-\", \"_\" and \".\"");
    node.region = table.value("region");
    node.resolvers = read_resolvers(&mut table);
    table.set_within("threads", &mut node.threads, 1..=1024);
    table.set_within("compress_threads", &mut node.compress_threads, 1..=1024);
    node.state_dir = table.get("state_dir").map(|path| table.errors.resolve_path(&path));
    node.state_dir.iter().for_each(|path| table.errors.keep_private(path));
    table.set("drain_timeout", &mut node.drain_timeout);
    node.trusted_proxies = table.plain_list("trusted_proxies");
    let everybody = [[0; 4], [255; 4]].map(IpAddr::from);
    if node.trusted_proxies.iter().any(|range| everybody.iter().all(|address| range.contains(*address))) {
        let hint = "name the proxies alone that are in front of this node";
        let place = table.place_of("trusted_proxies");
        table.errors.warn(
            place,
            "every client is a trusted proxy, and may say who it is and by which scheme it came",
            hint,
        );
    }
    if let Some(At { value: name, place }) = table.get::<String>("client_ip_header") {
        let read = name.parse().map_err(|_| format!("{name:?} is not the name of a header field"));
        node.client_ip_header = table.errors.accept(place, read).unwrap_or(node.client_ip_header);
        if node.trusted_proxies.is_empty() {
            let hint = "add trusted_proxies = [\"10.0.0.0/8\"], those in front of this node";
            table.errors.error_with_hint(place, "\"client_ip_header\" has no effect without trusted proxies", hint);
        }
    }
    node.geoip.country = database(&mut table, "country_file", (Kind::Country, Need::CountryFile));
    node.geoip.asn = database(&mut table, "asn_file", (Kind::Asn, Need::AsnFile));
    table.finish();
    node
}

/// `IP` or `IP:PORT` of name servers.
fn read_resolvers(table: &mut Table) -> Arc<[SocketAddr]> {
    let errors = table.errors;
    let read = |text: At<String>| {
        let port = |ip: IpAddr| SocketAddr::new(ip, 53);
        let parsed = text.value.parse().or_else(|_| text.value.trim_matches(['[', ']']).parse().map(port));
        let why = |_| format!("{:?} is no address of a name server, expected IP or IP:PORT", text.value);
        errors.accept(text.place, parsed.map_err(why))
    };
    table.list("resolvers").into_iter().filter_map(read).collect()
}

/// A file of a kind; `need`: what is met by it.
fn database(table: &mut Table, key: &'static str, (kind, need): (Kind, Need)) -> Option<Database> {
    let (errors, file) = (table.errors, table.get::<String>(key)?);
    errors.provide(need);
    let path = errors.file_named(&file);
    let read = regular::read(&path).map_err(|error| format!("cannot be read: {error}"));
    let database = read.and_then(|content| Database::new(content, kind));
    errors.accept(file.place, database.map_err(|why| format!("{}: {why}", path.display())))
}
