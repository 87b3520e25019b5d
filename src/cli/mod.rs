//! The command line.

mod admin_client;
mod check;
mod demo;
mod explain;
mod generate;
mod pools;
mod ports;
mod purge;
mod reload;
mod run;
mod service;
mod status;
mod url_list;
mod warm;

use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::config::model::LogFilter;
use crate::config::units::count;
use crate::observe::journal::{self, Prioritised};

/// What every command may end with.
pub(crate) type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// A reverse proxy and edge cache.
#[derive(Parser)]
#[command(name = "seawall", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node in the foreground.
    Run(run::Args),
    /// Check configuration files; print every mistake with its place.
    Check(check::Args),
    /// Have the node take its configuration anew; fail and say why if it refuses.
    Reload(reload::Args),
    /// Invalidate what is cached, through the admin API.
    Purge(purge::Args),
    /// Fill the cache before anybody asks, through the admin API.
    Warm(warm::Args),
    /// Show what the node is doing, through the admin API.
    Status(status::Args),
    /// Show how origins stand, drain or enable one, or change its weight, through the admin API.
    Pools(pools::Args),
    /// Tell what the node does with a URL, or would do with a response in a file, and by which rule.
    Explain(explain::Args),
    /// Run a node with two small origins of its own, to try things on.
    Demo(demo::Args),
    /// Write manual pages or the completions of a shell into a directory.
    Generate(generate::Args),
}

impl Cli {
    /// Tells on standard error why it could not be done.
    pub fn complain(error: &dyn std::error::Error) {
        eprintln!("{}", journal::of_error(&format!("seawall: {error}"))); // with its causes in it
    }

    /// Does what the command line says.
    pub fn execute(self) -> Result {
        match self.command {
            Command::Run(args) => run::execute(args),
            Command::Check(args) => check::execute(&args),
            Command::Reload(args) => reload::execute(&args),
            Command::Purge(args) => purge::execute(&args),
            Command::Warm(args) => warm::execute(&args),
            Command::Status(args) => status::execute(&args),
            Command::Pools(args) => pools::execute(&args),
            Command::Explain(args) => explain::execute(&args),
            Command::Demo(args) => demo::execute(&args),
            Command::Generate(args) => generate::execute(&args),
        }
    }
}

/// A text of an answer; `-`: it has none there.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// A list in an answer.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[allow(clippy::disallowed_methods, reason = "a command has no worker that it could block")]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// How long something has been so, in its largest unit.
fn lasting(seconds: &Value) -> String {
    let seconds = seconds.as_u64().unwrap_or(0);
    let units = [("d", 86_400), ("h", 3_600), ("m", 60)];
    let (unit, factor) = units.into_iter().find(|(_, factor)| seconds >= *factor).unwrap_or(("s", 1));
    format!("{}{unit}", seconds / factor)
}

/// A number of things in an answer, as `2 bytes`.
fn counted(value: &Value, thing: &str) -> String {
    count(value.as_u64().unwrap_or(0), thing)
}

/// Starts the node's own log, on standard error: journald adds the time, a terminal gets colours. `SEAWALL_LOG` in the
/// environment goes before the configuration.
fn start_log(level: &LogFilter) -> Result {
    use std::io::IsTerminal;
    let level = match std::env::var("SEAWALL_LOG") {
        Ok(level) if !level.is_empty() => level.parse().map_err(|error| format!("SEAWALL_LOG: {error}"))?,
        _ => level.clone(),
    };
    let filter = tracing_subscriber::EnvFilter::new(level.as_str());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if journal::is_read() {
        log.without_time().map_event_format(Prioritised).init();
    } else {
        log.init();
    }
    Ok(())
}
