//! `seawall run`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::app::{self, Handed};
use crate::config::load;
use crate::handover::{self, Supervisor};
use crate::node::ConfigSource;
use crate::systemd::Sockets;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(long, short, env = "SEAWALL_CONFIG", conflicts_with_all = ["listen", "to"])]
    config: Option<PathBuf>,
    /// Without a file: where to listen, IP:PORT.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Without a file: the origin, such as http://127.0.0.1:3000.
    #[arg(long)]
    to: Option<String>,
    /// On SIGTERM leave the requests that are still running to a process of their own, so that the next node starts at once. For
    /// services whose manager lets that process be, as KillMode=process of systemd does.
    #[arg(long)]
    handover: bool,
    /// The process that has started this one with --handover.
    #[arg(long, hide = true, conflicts_with = "handover")]
    child_of: Option<i32>,
}

pub(crate) fn execute(args: Args) -> super::Result {
    if args.handover {
        let arguments = std::env::args().skip(1).filter(|argument| argument != "--handover");
        let child_of = ["--child-of".to_owned(), std::process::id().to_string()];
        std::process::exit(handover::supervise(&arguments.chain(child_of).collect::<Vec<_>>())?);
    }
    let supervisor = args.child_of.map(Supervisor::of).transpose()?;
    // SAFETY: nothing has opened a descriptor before, and this is the only call.
    let sockets = unsafe { Sockets::take(supervisor.is_some()) };
    let (config, source) = match (args.config, args.to) {
        (Some(path), _) => (load::load(&path)?, ConfigSource::File(path)),
        (None, Some(to)) => {
            let text = one_origin(args.listen, &to)?;
            (load::parse(Path::new("command line"), &text)?, ConfigSource::Fixed)
        }
        (None, None) => return Err("give --config FILE, or --to URL for a node without a file".into()),
    };
    super::start_log(&config.log.level)?;
    Ok(app::run(config, source, Handed { sockets, supervisor })?)
}

/// A configuration for one origin: everything is passed on, and cached where the origin says so.
fn one_origin(listen: SocketAddr, to: &str) -> Result<String, String> {
    let expected = || format!("--to {to:?}: expected an origin without a path, such as http://127.0.0.1:3000");
    let uri: http::Uri = to.parse().map_err(|_| expected())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(expected()),
    };
    let authority = uri.authority().ok_or_else(expected)?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
        return Err(expected());
    }
    Ok(format!(
        "[[listen]]\naddress = \"{listen}\"\n\
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
        let listen = "127.0.0.1:0".parse().unwrap();
        for (to, valid) in [
            ("http://127.0.0.1:3000", true),
            ("http://127.0.0.1:3000/", true),
            ("https://app.example", true),
            ("127.0.0.1:3000", false),
            ("ftp://a", false),
            ("http://a/path", false),
            ("http://u:p@a", false),
            ("", false),
        ] {
            let text = one_origin(listen, to);
            assert_eq!(text.is_ok(), valid, "{to}");
            if let Ok(text) = text {
                load::parse(Path::new("command line"), &text).unwrap();
            }
        }
    }
}
