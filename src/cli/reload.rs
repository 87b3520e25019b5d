//! `seawall reload`.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::observe::journal;
use crate::verdict::{self, Verdict};

use super::admin_client::AdminArgs;
use super::list;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// Ask by SIGHUP instead, and wait for what the process says: for ExecReload= of a service, which has RUNTIME_DIRECTORY.
    #[arg(long)]
    pid: Option<i32>,
}

/// How long the process may take. systemd gives a reload 90 s.
const PATIENCE: Duration = Duration::from_secs(80);
/// How often it is looked for what it says.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) fn execute(args: &Args) -> super::Result {
    match args.pid {
        Some(pid) => by_signal(pid),
        None => by_api(&args.admin),
    }
}

fn by_api(admin: &AdminArgs) -> super::Result {
    let answer = admin.post("/v1/reload", &Value::Null)?;
    let generation = &answer["generation"];
    match answer["changed"].as_bool() {
        Some(false) => println!("nothing has changed: configuration {generation} is in force"),
        _ => println!("configuration {generation} is in force"),
    }
    for what in list(&answer["needs_restart"]) {
        println!("takes effect with the next start only: {}", super::text(what));
    }
    Ok(())
}

fn by_signal(pid: i32) -> super::Result {
    let directory = verdict::directory().ok_or(
        "--pid needs RUNTIME_DIRECTORY in the environment, where the node says what came of it; without --pid the admin API is asked",
    )?;
    let process =
        Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| format!("--pid {pid}: no process has this number"))?;
    let asked = verdict::now();
    kill_process(process, Signal::HUP).map_err(|error| format!("cannot send SIGHUP to process {pid}: {error}"))?;
    let verdict = wait_for(&directory, asked, process)?;
    match verdict.ok {
        true => println!("{}", verdict.text),
        // The mistakes are in the journal already: the node has told them.
        false if journal::is_read() => {
            return Err(verdict.text.lines().next().unwrap_or_default().trim_end_matches(':').into());
        }
        false => return Err(verdict.text.into()),
    }
    Ok(())
}

fn wait_for(directory: &Path, asked: u64, process: Pid) -> Result<Verdict, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(verdict) = Verdict::read(directory).filter(|verdict| verdict.began_us >= asked) {
            return Ok(verdict);
        }
        if rustix::process::test_kill_process(process).is_err() {
            return Err("the node has ended before it said what came of the reload".into());
        }
        if Instant::now() > deadline {
            return Err(format!("the node has not said within {} s what came of the reload", PATIENCE.as_secs()));
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}
