//! `seawall check`.

use std::path::PathBuf;
use std::process::Command;

use crate::config::load;
use crate::config::units::count;

use super::ports;
use super::sandbox::Sandbox;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Main configuration files; the sites.d beside each is checked with it.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Check as this user and its groups, as which the node will read the files: `seawall` for the service. Needs root.
    #[arg(long = "as", value_name = "USER", value_hint = clap::ValueHint::Username)]
    user: Option<String>,
    /// Also see whether the addresses are free to listen on; what a running node has is.
    #[arg(long)]
    listen: bool,
}

pub(crate) fn execute(args: &Args) -> super::Result {
    let mut mistakes = 0;
    for file in &args.files {
        if file.parent().is_some_and(|parent| parent.ends_with("sites.d")) {
            let message = "a file of sites.d is checked with the main file that it belongs to, such as ../seawall.toml";
            return Err(format!("{}: {message}", file.display()).into());
        }
        match load::load(file) {
            Ok(config) => {
                let (sites, pools) = (config.sites.len() as u64, config.pools.len() as u64);
                config.warnings.iter().for_each(|warning| println!("warning: {warning}"));
                if sites == 0 {
                    println!(
                        "warning: {}: there is no [site.NAME], here or in sites.d: every request gets 421",
                        file.display()
                    );
                }
                let sandbox = Sandbox::of_service(file).map(|sandbox| sandbox.warnings(&config)).unwrap_or_default();
                sandbox.iter().for_each(|warning| println!("warning: {warning}"));
                let obstacles = if args.listen { ports::obstacles(&config) } else { Vec::new() };
                obstacles.iter().for_each(|obstacle| println!("{}: {obstacle}", file.display()));
                mistakes += obstacles.len() as u64;
                if args.user.is_none() && obstacles.is_empty() {
                    println!("{}: ok ({}, {})", file.display(), count(sites, "site"), count(pools, "pool"));
                }
            }
            Err(errors) => {
                mistakes += errors.diagnostics.len() as u64;
                println!("{errors}");
            }
        }
    }
    match &args.user {
        _ if mistakes > 0 => Err(count(mistakes, "mistake").into()),
        Some(user) => check_as(user, &args.files),
        None => Ok(()),
    }
}

/// The same as another user. By a program of the system, which knows the user's groups, and where they come from.
fn check_as(user: &str, files: &[PathBuf]) -> super::Result {
    if !rustix::process::geteuid().is_root() {
        return Err(format!(
            "--as {user}: only root may become another user; try: sudo seawall check --as {user} FILE"
        )
        .into());
    }
    let this = std::env::current_exe()?;
    let mut command = Command::new("runuser");
    command.args(["-u", user, "--"]).arg(this).arg("check").args(files);
    let status = command.status().map_err(|error| format!("--as {user}: cannot run runuser: {error}"))?;
    // It has said what is wrong.
    if status.success() { Ok(()) } else { std::process::exit(status.code().unwrap_or(1)) }
}
