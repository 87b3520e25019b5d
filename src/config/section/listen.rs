//! `[[listen]]`: where clients connect.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls::SupportedCipherSuite;

use crate::address::IpRange;
use crate::config::diagnose::{At, Diagnostics, Place};
use crate::config::read::{FromToml, Table, Value, Words, words};
use crate::spelling::did_you_mean;

use super::node::Node;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// By which sites and conditions know it; empty: by none.
    pub name: String,
    pub address: ListenAddress,
    /// Of a Unix socket: who may connect, as the permissions of a file.
    pub mode: u32,
    pub tls: bool,
    pub protocols: Vec<Protocol>,
    /// With TLS: which of it is spoken.
    pub versions: Vec<TlsVersion>,
    /// Suites by their names; empty: all that are safe.
    pub ciphers: Vec<String>,
    /// Who says by the PROXY protocol whose a connection is, and has to.
    pub proxy_from: Vec<IpRange>,
}

/// What a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Ip(SocketAddr),
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Bytes of the longest path of a socket: unix(7).
    const LONGEST: usize = 107;

    /// `None`: it has none.
    pub fn port(&self) -> Option<u16> {
        match self {
            ListenAddress::Ip(address) => Some(address.port()),
            ListenAddress::Unix(_) => None,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Ip(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str = "\"unix:/run/seawall/http.sock\"";
        let Some(path) = text.strip_prefix("unix:") else {
            let not_ip = |_| {
                format!("{text:?} is not IP:PORT, such as \"0.0.0.0:80\" or \"[::]:80\", nor a path, such as {EXAMPLE}")
            };
            return text.parse().map(ListenAddress::Ip).map_err(not_ip);
        };
        match path {
            _ if !path.starts_with('/') || path.ends_with('/') => {
                Err(format!("{text:?} must name a file by its absolute path, such as {EXAMPLE}"))
            }
            _ if path.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) => {
                Err(format!("{text:?} must be written without empty parts, \".\" and \"..\""))
            }
            _ if path.len() > Self::LONGEST || path.contains('\0') => {
                Err(format!("{text:?}: the path of a socket has at most {} bytes, and no NUL", Self::LONGEST))
            }
            _ => Ok(ListenAddress::Unix(path.into())),
        }
    }
}

impl FromToml for ListenAddress {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        value.text("an address such as \"0.0.0.0:80\"")?.parse()
    }
}

/// The permissions of a file, as chmod has them.
struct Mode(u32);

impl Mode {
    /// The node's own user and group.
    const OURS: Mode = Mode(0o660);
}

impl FromToml for Mode {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        let text = value.text("permissions such as \"0660\"")?;
        match u32::from_str_radix(text, 8) {
            Ok(mode @ 0..=0o777) if mode & 0o222 == 0 => {
                Err(format!("{text:?} lets nobody connect: who connects has to be able to write, as \"0660\" says"))
            }
            Ok(mode @ 0..=0o777) if !text.starts_with('+') => Ok(Mode(mode)),
            _ => Err(format!("{text:?} is no permissions such as \"0660\"")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V12,
    V13,
}

words!(TlsVersion { "1.2" => TlsVersion::V12, "1.3" => TlsVersion::V13 });

impl Listener {
    /// Whether a suite is spoken here.
    pub fn takes_suite(&self, suite: SupportedCipherSuite) -> bool {
        self.ciphers.is_empty() || self.ciphers.contains(&name_of(suite))
    }
}

/// By the name that IANA gives it.
fn name_of(suite: SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
}

/// The suites that there are.
fn suites() -> impl Iterator<Item = (TlsVersion, String)> {
    rustls::crypto::ring::ALL_CIPHER_SUITES.iter().map(|suite| {
        let version = if suite.tls13().is_some() { TlsVersion::V13 } else { TlsVersion::V12 };
        (version, name_of(*suite))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

words!(Protocol { "h1" => Protocol::H1, "h2" => Protocol::H2 });

pub(crate) fn read(mut table: Table) -> Option<At<Listener>> {
    let name = table.get::<String>("name");
    let is_name = |name: &At<String>| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !name.value.is_empty() && name.value.bytes().all(fits)
    };
    if let Some(bad) = name.as_ref().filter(|name| !is_name(name)) {
        let message = format!("listener name {:?} must be letters, digits, \"-\", \"_\" or \".\"", bad.value);
        table.errors.error(bad.place, message);
    }
    let address = table.require::<ListenAddress>("address");
    if matches!(&address, Some(At { value: ListenAddress::Ip(_), .. })) && table.has("mode") {
        let hint = "it is for Unix sockets, such as address = \"unix:/run/seawall/http.sock\"";
        table.errors.error_with_hint(table.place_of("mode"), "\"mode\" has no effect on an IP address", hint);
    }
    let Mode(mode) = table.get_or("mode", Mode::OURS);
    let tls = table.get_or("tls", false);
    let mut protocols = table.plain_list("protocols");
    if protocols.is_empty() {
        protocols = if tls { vec![Protocol::H1, Protocol::H2] } else { vec![Protocol::H1] };
    }
    let proxy_from = table.plain_list("proxy_from");
    let (versions, ciphers) = read_tls(&mut table, tls);
    table.finish();
    let At { value: address, place } = address?;
    let name = name.map(|name| name.value).unwrap_or_default();
    Some(At { value: Listener { name, address, mode, tls, protocols, versions, ciphers, proxy_from }, place })
}

/// Versions and suites of TLS.
fn read_tls(table: &mut Table, tls: bool) -> (Vec<TlsVersion>, Vec<String>) {
    let errors = table.errors;
    for key in ["tls_versions", "tls_ciphers"].into_iter().filter(|key| !tls && table.has(key)) {
        errors.error_with_hint(table.place_of(key), format!("{key:?} has no effect without TLS"), "add tls = true");
    }
    let mut versions: Vec<TlsVersion> = table.plain_list("tls_versions");
    if versions.is_empty() {
        versions = vec![TlsVersion::V12, TlsVersion::V13];
    }
    let place = table.place_of("tls_ciphers");
    let ciphers = table.list::<String>("tls_ciphers");
    for At { value, place } in &ciphers {
        if !suites().any(|(_, name)| name == *value) {
            let all = suites().map(|(_, name)| name).collect::<Vec<_>>();
            let by_openssl = all.iter().find(|name| bare_suite(name).starts_with(&bare_suite(value)));
            let hint = match (by_openssl, did_you_mean(value, all.iter().map(String::as_str))) {
                (Some(name), _) => format!("that is what OpenSSL calls it: write {name:?}"),
                (None, Some(meant)) => format!("did you mean {meant:?}?"),
                (None, None) => format!("there are {}", all.join(", ")),
            };
            errors.error_with_hint(*place, format!("{value:?} is no cipher suite that is served"), hint);
        }
    }
    let has =
        |version: TlsVersion| suites().any(|(of, name)| of == version && ciphers.iter().any(|at| at.value == name));
    let are_known = ciphers.iter().all(|at| suites().any(|(_, name)| name == at.value));
    for version in versions.iter().filter(|version| !ciphers.is_empty() && are_known && !has(**version)) {
        let hint = "add a suite, or leave the version out of tls_versions";
        errors.error_with_hint(place, format!("\"tls_ciphers\" has no suite for TLS {}", version.as_str()), hint);
    }
    (versions, ciphers.into_iter().map(|at| at.value).collect())
}

/// Checks all of them together; `can_speak_tls`: there is a certificate, or what was meant as one.
pub(crate) fn check(listeners: Vec<At<Listener>>, can_speak_tls: bool, errors: &Diagnostics) -> Vec<Listener> {
    for (i, At { value: listener, place }) in listeners.iter().enumerate() {
        let address = &listener.address;
        if let Some(other) = listeners[..i].iter().find(|other| overlap(&other.value.address, address)) {
            let whole = match &other.value.address {
                same if same == address => String::new(),
                other => format!(": {other} includes it, or it that"),
            };
            errors.again(*place, format!("{address} is listened on twice{whole}"), other.place);
        }
        if let ListenAddress::Unix(path) = address {
            check_socket(path, listener, *place, errors);
        }
        if listener.tls && !can_speak_tls {
            errors.error_with_hint(
                *place,
                "this listener has tls = true, but there is no certificate",
                "add [[certificate]] with cert and key",
            );
        }
    }
    listeners.into_iter().map(|at| at.value).collect()
}

/// Points out a Unix socket whose clients are all taken for one, as a proxy's are that nobody trusts.
pub(crate) fn check_trust(listeners: &[At<Listener>], node: &Node, errors: &Diagnostics) {
    for At { value: listener, place } in listeners {
        let is_unix = matches!(listener.address, ListenAddress::Unix(_));
        if is_unix && listener.proxy_from.is_empty() && !node.trusts(IpAddr::from(Ipv4Addr::LOCALHOST)) {
            let message = format!("whoever comes by {} counts as 127.0.0.1, and by plain HTTP", listener.address);
            let hint = "for a proxy in front, add trusted_proxies = [\"127.0.0.1\"] to [node]";
            errors.warn(*place, message, hint);
        }
    }
}

/// Points out what a Unix socket cannot be opened for, as it is at the moment, and what has no effect on one.
fn check_socket(path: &Path, listener: &Listener, place: Place, errors: &Diagnostics) {
    let shown = path.display();
    if path.parent().is_some_and(|directory| !directory.is_dir()) {
        let hint = "make it before the node starts; the packaged service has /run/seawall";
        errors.warn(place, format!("the directory of {shown} is not there"), hint);
    }
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        let hint = "the node takes the place of a socket that was left over, and of nothing else";
        errors.warn(place, format!("there is something at {shown} that is no socket"), hint);
    }
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    if !listener.proxy_from.is_empty() && !listener.proxy_from.iter().any(|range| range.contains(local)) {
        let hint = "write proxy_from = [\"127.0.0.1\"]";
        errors.warn(place, "\"proxy_from\" has no effect: who comes by a Unix socket counts as 127.0.0.1", hint);
    }
}

/// Whether one process cannot listen on both.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (ListenAddress::Ip(one), ListenAddress::Ip(other)) = (one, other) else { return one == other };
    let of_one_family = one.is_ipv4() == other.is_ipv4();
    let same_host =
        one.ip() == other.ip() || of_one_family && (one.ip().is_unspecified() || other.ip().is_unspecified());
    one.port() != 0 && one.port() == other.port() && same_host
}
/// The name of a cipher suite without what OpenSSL's names of it lack.
fn bare_suite(name: &str) -> String {
    let name = name.to_ascii_uppercase().replace("TLS_", "").replace("_WITH_", "_");
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}
