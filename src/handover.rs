//! Two processes, so that a restart waits for nobody: the one that the service manager knows, and its child, which is the node.
//! When the node has given up its state it tells its parent, which ends; the manager starts the next node at once, while
//! this one finishes what it has begun. The unit's `KillMode=process` lets it. Decision 26.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::systemd::Sockets;

/// How soon after its start a node that has failed may be started anew.
const SOONEST: Duration = Duration::from_secs(1);
/// What the child writes when it has given up its state.
const LET_GO: u8 = b'.';

/// Starts the node as a child and waits for it. What the process is to end with. `sockets`: those that are the child's.
pub(crate) fn supervise(arguments: &[String], sockets: Sockets) -> io::Result<i32> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(writer);
    // SAFETY: it only calls signal(2), which may be called between fork and exec, and touches no memory.
    unsafe {
        command.pre_exec(|| {
            ignore_early_signals();
            Ok(())
        });
    }
    // These are for the process that systemd has started, which passes them on.
    command.env_remove("LISTEN_PID").env_remove("WATCHDOG_PID");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(command, reader, sockets))
}

/// Has the signals that mean no end do nothing until somebody listens for them: whoever rotates logs must not end a node that is
/// just starting. What they ask for, opening the log and reading the configuration, is still to be done then.
pub(crate) fn ignore_early_signals() {
    for signal in [libc::SIGHUP, libc::SIGUSR1] {
        // SAFETY: to ignore a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

async fn watch(mut command: Command, reader: io::PipeReader, sockets: Sockets) -> io::Result<i32> {
    // Before the child is there, so that no signal is missed.
    let forwarded =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined1()];
    let mut signals = Vec::new();
    for kind in forwarded {
        signals.push((kind, signal(kind)?));
    }
    sockets.pass_on()?;
    let child = command.spawn()?;
    drop(command); // and with it this process's end of the pipe
    drop(sockets); // or one that the node closes would still listen
    let pid = Pid::from_child(&child);
    for (kind, mut received) in signals {
        tokio::spawn(async move {
            while received.recv().await.is_some() {
                if let Some(signal) = Signal::from_named_raw(kind.as_raw_value()) {
                    let _ = kill_process(pid, signal); // it may have ended already
                }
            }
        });
    }
    let begun = Instant::now();
    let ended = tokio::task::spawn_blocking(move || wait(child, reader)).await;
    let status = ended.map_err(io::Error::other)??;
    if status != 0 {
        // A start that fails, by a mistake in the configuration say, is tried again and again; one that does not is not held up.
        tokio::time::sleep(SOONEST.saturating_sub(begun.elapsed())).await;
    }
    Ok(status)
}

/// Until the child has let go, or ended.
fn wait(mut child: Child, mut reader: io::PipeReader) -> io::Result<i32> {
    let mut said = [0];
    if let Ok(1) = reader.read(&mut said)
        && said[0] == LET_GO
    {
        return Ok(0);
    }
    let status: ExitStatus = child.wait()?;
    if let Some(signal) = status.signal() {
        eprintln!("seawall: the node was ended by signal {signal}");
    }
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// The parent of a node that has one.
#[derive(Debug)]
pub(crate) struct Supervisor(());

impl Supervisor {
    /// This process ends with its parent, until it has let go.
    pub(crate) fn of(parent: i32) -> io::Result<Self> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        match getppid() {
            Some(now) if now.as_raw_nonzero().get() == parent => Ok(Supervisor(())),
            _ => Err(io::Error::other("the process that has started this one has ended already")),
        }
    }

    /// The state is another's from now on. The process ends by itself, `patience` from now at the latest.
    pub(crate) fn let_go(self, patience: Duration) -> io::Result<()> {
        // Nobody looks after it any more.
        std::thread::Builder::new().name("last-resort".into()).spawn(move || {
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            }
            std::process::exit(1);
        })?;
        set_parent_process_death_signal(None)?;
        rustix::io::write(std::io::stdin(), &[LET_GO])?;
        Ok(())
    }
}
