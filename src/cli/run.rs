//! `seawall run`.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::app::{self, Handed};
use crate::config::load;
use crate::handover::{self, Supervisor};
use crate::node::ConfigSource;
use crate::systemd::Sockets;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(long, short, env = "SEAWALL_CONFIG", conflicts_with_all = ["listen", "to", "admin"])]
    config: Option<PathBuf>,
    /// Without a file: where to listen, IP:PORT; a port alone is one of 127.0.0.1, and :PORT one of all addresses.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: Listen,
    /// Without a file: the origin, such as http://127.0.0.1:3000, app.example or 3000, a port of this machine.
    #[arg(long)]
    to: Option<String>,
    /// Without a file: where the admin API listens, a loopback address. By default 127.0.0.1:9180, or another port if that is taken.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// On SIGTERM leave the requests that are still running to a process of their own, so that the next node starts at once. For
    /// services whose manager lets that process be, as KillMode=process of systemd does.
    #[arg(long)]
    handover: bool,
    /// The process that has started this one with --handover.
    #[arg(long, hide = true, conflicts_with = "handover")]
    child_of: Option<i32>,
}

pub(crate) fn execute(args: Args) -> super::Result {
    handover::ignore_early_signals();
    if args.handover {
        let arguments = std::env::args().skip(1).filter(|argument| argument != "--handover");
        let child_of = ["--child-of".to_owned(), std::process::id().to_string()];
        // SAFETY: nothing has opened a descriptor before, and this is the only call in this process.
        let sockets = unsafe { Sockets::take(false) };
        std::process::exit(handover::supervise(&arguments.chain(child_of).collect::<Vec<_>>(), sockets)?);
    }
    let supervisor = args.child_of.map(Supervisor::of).transpose()?;
    // SAFETY: nothing has opened a descriptor before, and this is the only call.
    let sockets = unsafe { Sockets::take(supervisor.is_some()) };
    let (config, source) = match (args.config, args.to) {
        (Some(path), _) => (load::load(&path)?, ConfigSource::File(path)),
        (None, Some(to)) => {
            let text = one_origin(&args.listen, args.admin.unwrap_or_else(free_admin), &to)?;
            (load::parse(Path::new("command line"), &text)?, ConfigSource::Fixed)
        }
        (None, None) => {
            let hint =
                "seawall run --config /etc/seawall/seawall.toml, or seawall run --to 3000 for a node without a file";
            return Err(format!("say what to run: --config FILE, or --to ORIGIN\n  = hint: {hint}").into());
        }
    };
    super::start_log(&config.log.level)?;
    Ok(app::run(config, source, Handed { sockets, supervisor })?)
}

/// Where a node without a file listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listen(Vec<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = |address: IpAddr, port: &str| Some(SocketAddr::from((address, port.parse().ok()?)));
        let all = match text.strip_prefix(':') {
            Some(port) => vec![at(Ipv4Addr::UNSPECIFIED.into(), port), at(Ipv6Addr::UNSPECIFIED.into(), port)],
            None => vec![text.parse().ok().or_else(|| at(Ipv4Addr::LOCALHOST.into(), text))],
        };
        let all = all.into_iter().collect::<Option<Vec<_>>>().map(Listen);
        all.ok_or_else(|| "expected IP:PORT, :PORT or PORT, such as 127.0.0.1:8080".to_owned())
    }
}

/// The usual address of the admin API, or a port that is free.
fn free_admin() -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 9180));
    if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) }
}

/// Whether this machine has the address, as far as can be said: without IPv6 there is nothing to listen on.
fn is_there(address: &SocketAddr) -> bool {
    address.is_ipv4() || TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// A configuration for one origin: everything is passed on, and cached where the origin says so.
fn one_origin(Listen(listen): &Listen, admin: SocketAddr, to: &str) -> Result<String, String> {
    let expected = || {
        format!("--to {to:?}: expected an origin without a path, such as http://127.0.0.1:3000, app.example or 3000")
    };
    let url = match to.parse::<u16>() {
        Ok(port) => format!("http://127.0.0.1:{port}"),
        Err(_) if to.contains("://") => to.to_owned(),
        Err(_) if to.bytes().all(|byte| byte.is_ascii_digit()) => return Err(expected()), // too large for a port
        Err(_) => format!("http://{to}"),
    };
    let uri: http::Uri = url.parse().map_err(|_| expected())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(expected()),
    };
    let authority = uri.authority().ok_or_else(expected)?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(expected());
    }
    let mut listeners = String::new();
    for address in listen.iter().filter(|address| is_there(address)) {
        let _ = writeln!(listeners, "[[listen]]\naddress = \"{address}\""); // writing to a String cannot fail
    }
    Ok(format!(
        "{listeners}[admin]\naddress = \"{admin}\"\n\
         [pool.origin]\norigins = [\"{authority}\"]\ntls = {tls}\n\
         [site.all]\nhosts = [\"*\"]\n\
         [[site.all.route]]\npath = \"/*\"\npool = \"origin\"\ncache = {{ mode = \"respect\" }}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_origin_makes_a_valid_configuration() {
        let (listen, admin) = ("127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
        for (to, valid) in [
            ("http://127.0.0.1:3000", true),
            ("http://127.0.0.1:3000/", true),
            ("https://app.example", true),
            ("127.0.0.1:3000", true),
            ("3000", true),
            ("app.example", true),
            ("70000", false),
            ("a/path", false),
            ("ftp://a", false),
            ("http://a/path", false),
            ("http://u:p@a", false),
            ("", false),
        ] {
            let text = one_origin(&listen, admin, to);
            assert_eq!(text.is_ok(), valid, "{to}");
            if let Ok(text) = text {
                load::parse(Path::new("command line"), &text).unwrap();
            }
        }
    }

    #[test]
    fn ports_are_enough_to_say_where_to_listen() {
        for (text, all) in [
            ("127.0.0.1:8080", &["127.0.0.1:8080"][..]),
            ("8080", &["127.0.0.1:8080"]),
            (":8080", &["0.0.0.0:8080", "[::]:8080"]),
            ("[::1]:80", &["[::1]:80"]),
        ] {
            let all: Vec<SocketAddr> = all.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(text.parse(), Ok(Listen(all)), "{text}");
        }
        for wrong in ["", ":", "70000", ":x", "localhost:80"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
