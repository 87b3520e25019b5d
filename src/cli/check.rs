//! `seawall check`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::config::model::Config;
use crate::config::units::count;

use super::ports;
use super::service::{self, Service};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Main configuration files; the sites.d beside each is checked with it.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Check as this user and its groups, as which the node will read the files. Needs root. Without it root checks the file of
    /// the installed service as the service's user.
    #[arg(long = "as", value_name = "USER", value_hint = clap::ValueHint::Username)]
    user: Option<String>,
    /// Also see whether the addresses are free to listen on; what a running node has is.
    #[arg(long)]
    listen: bool,
    /// This is the node's user: say what it may not do, and leave the rest to who has asked.
    #[arg(long, hide = true, value_name = "USER")]
    is: Option<String>,
}

pub(crate) fn execute(args: &Args) -> super::Result {
    let (mut mistakes, mut told) = (0, false);
    for file in &args.files {
        if file.parent().is_some_and(|parent| parent.ends_with("sites.d")) {
            let message = "a file of sites.d is checked with the main file that it belongs to, such as ../seawall.toml";
            return Err(format!("{}: {message}", file.display()).into());
        }
        let service = Service::of(file);
        let user = match &args.user {
            Some(user) if !rustix::process::geteuid().is_root() => {
                let way = "only root may become another user; try: sudo seawall check --as";
                return Err(format!("--as {user}: {way} {user} FILE").into());
            }
            Some(user) => Some(user.as_str()),
            None => service.as_ref().and_then(|service| service.user.as_deref()).filter(|user| may_become(user)),
        };
        let user = user.filter(|_| args.is.is_none());
        if let Some(user) = user
            && !check_as(user, file, service.as_ref())?
        {
            told = true;
            continue;
        }
        match Service::load(service.as_ref(), file) {
            Ok(config) => mistakes += look_at(&config, file, args, service.as_ref(), user),
            Err(errors) => {
                mistakes += errors.diagnostics.len() as u64;
                println!("{errors}");
            }
        }
    }
    match mistakes {
        0 if told => std::process::exit(1), // the other one has said what is wrong
        0 => Ok(()),
        mistakes => Err(count(mistakes, "mistake").into()),
    }
}

/// Says what is doubtful of a configuration without mistakes; gives the number of addresses that cannot be listened on. `user`:
/// who has looked at it already.
fn look_at(config: &Config, file: &Path, args: &Args, service: Option<&Service>, user: Option<&str>) -> u64 {
    let (sites, pools) = (config.sites.len() as u64, config.pools.len() as u64);
    let mut warnings: Vec<String> = Vec::new();
    if user.is_none() {
        warnings.extend(config.warnings.iter().map(ToString::to_string));
        if sites == 0 {
            let message = "there is no [site.NAME], here or in sites.d: every request gets 421";
            warnings.push(format!("{}: {message}", file.display()));
        }
    }
    match &args.is {
        Some(user) => warnings.extend(service::unwritable(config, user)),
        None => warnings.extend(service.into_iter().flat_map(|service| service.warnings(config))),
    }
    warnings.iter().for_each(|warning| println!("warning: {warning}"));
    let obstacles = if args.listen { ports::obstacles(config) } else { Vec::new() };
    obstacles.iter().for_each(|obstacle| println!("{}: {obstacle}", file.display()));
    if args.is.is_none() && obstacles.is_empty() {
        let by = user.map(|user| format!(", as {user}")).unwrap_or_default();
        println!("{}: ok ({}, {}{by})", file.display(), count(sites, "site"), count(pools, "pool"));
    }
    obstacles.len() as u64
}

/// Whether this is root, and there is such a user, and the program by which root becomes one.
fn may_become(user: &str) -> bool {
    let is_known = || Command::new("runuser").args(["-u", user, "--", "true"]).stderr(Stdio::null()).status();
    rustix::process::geteuid().is_root() && user != "root" && is_known().is_ok_and(|status| status.success())
}

/// Checks a file as another user; whether all is well. By a program of the system, which knows the user's groups, and where they
/// come from.
fn check_as(user: &str, file: &Path, service: Option<&Service>) -> Result<bool, Box<dyn std::error::Error>> {
    let this = std::env::current_exe()?;
    let mut command = Command::new("runuser");
    command.args(["-u", user, "--"]).arg(this).args(["check", "--is", user]).arg(file);
    // The files of an environment may be for root alone.
    let variables = service.into_iter().flat_map(Service::environment);
    command.envs(variables.filter(|(name, _)| *name != "PATH")); // by which runuser is found
    let status = command.status().map_err(|error| format!("--as {user}: cannot run runuser: {error}"))?;
    Ok(status.success())
}
