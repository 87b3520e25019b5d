//! The composition root: creates every part in order, passes it to whoever needs it, and runs the node until
//! it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};

use crate::admin;
use crate::cache::engine::Engine;
use crate::cache::purge::{CHANGE_PATIENCE, Purges};
use crate::chores;
use crate::config::model::{Config, ListenAddress};
use crate::drain::Stage;
use crate::front::listeners::{self, ListenError, Opened};
use crate::front::serve::Shared;
use crate::handover::Supervisor;
use crate::node::{self, ConfigSource, Node};
use crate::observe::Observer;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::origin::passage::Passage;
use crate::snapshot::{OpenListeners, Snapshot};
use crate::state_dir::{StateDir, StateError};
use crate::systemd::{self, ServiceManager, Sockets};
use crate::verdict::{self, Verdict};

/// How long each disk may take to write what waits to be written when the node stops.
const WRITE_OUT: Duration = Duration::from_secs(5);
/// How long clients are told that the node leaves, before it does.
const LEAVE: Duration = Duration::from_secs(1);
/// How long the first request waits for the disks of the cache to be recognised, which takes a moment unless one hangs.
const DISKS_PATIENCE: Duration = Duration::from_secs(2);
/// How long calls of the admin API may still take while clients wait for the next process. Nobody has been told that one is
/// done that is cut off.
const ADMIN_PATIENCE: Duration = Duration::from_millis(250);
/// What a process that has given up its state has beyond its drain timeout.
const LAST_RESORT: Duration = Duration::from_secs(10);

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    StateDir(#[from] StateError),
    #[error(transparent)]
    PurgeLog(#[from] crate::cache::purge::LogError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

/// What could not be done, for an error of the system.
fn cannot(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// What a process gets from the one that has started it.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    pub sockets: Sockets,
    /// Whom to tell when the state is given up.
    pub supervisor: Option<Supervisor>,
}

/// Runs a node from start to end.
pub(crate) fn run(config: Config, source: ConfigSource, handed: Handed) -> Result<(), StartError> {
    give_large_blocks_back();
    let allowed = allowed_connections(raise_descriptors());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.node.threads)
        .thread_name("seawall")
        .enable_all()
        .build()
        .map_err(cannot("start the runtime"))?;
    let result = runtime.block_on(run_node(config, source, handed, allowed));
    // Whatever has not ended within the drain timeout is ended now.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

/// Memory of large bodies goes back to the system as soon as they end: decision 7. Without these two glibc raises the bounds
/// to twice the largest block that was ever freed, and keeps so much for each of its arenas.
fn give_large_blocks_back() {
    #[cfg(target_env = "gnu")]
    for (bound, bytes) in [(libc::M_MMAP_THRESHOLD, 2 << 20), (libc::M_TRIM_THRESHOLD, 4 << 20)] {
        // SAFETY: mallopt takes two integers and locks what it changes. That it may refuse them does no harm.
        unsafe { libc::mallopt(bound, bytes) };
    }
}

/// Raises the soft limit on open files to the hard one; how many there may be then.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    now.current.unwrap_or(u64::MAX)
}

/// Connections of clients that so many descriptors are enough for: a quarter is for origins, files and all else.
fn allowed_connections(descriptors: u64) -> u32 {
    u32::try_from(descriptors - descriptors / 4).unwrap_or(u32::MAX).max(1)
}

async fn run_node(config: Config, source: ConfigSource, handed: Handed, allowed: u32) -> Result<(), StartError> {
    node::tell_of_warnings(&config);
    let mut signals = Signals::new().map_err(cannot("set up signals"))?;
    let manager = ServiceManager::default();
    let state_dir = StateDir::open(config.node.state_dir.as_deref())?;
    // Before anything is read or written: an address that is taken changes nothing.
    let (opened, admin) = open_sockets(&config, handed.sockets, &manager).await?;
    let node = build(config, source, &state_dir, allowed, &manager)?;
    let snapshot = node.snapshot.load_full();
    let change = node.listeners.prepare(&snapshot.listeners, opened)?;
    snapshot.pools.looked_up(node::NAMES_PATIENCE).await;
    node.engine.cache.disk.opened(DISKS_PATIENCE).await;
    node.listeners.change(change, &snapshot.listeners);
    let admin = admin.map(|(listener, address)| {
        tracing::info!(%address, "admin API listening");
        node.admin_address.get_or_init(|| address);
        let until = if handed.supervisor.is_some() { admin::Until::Drain } else { admin::Until::Drained };
        tokio::spawn(admin::serve(listener, node.clone(), until))
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(chores::sweep(node.clone()));
    tasks.spawn(chores::watch_configuration(node.clone()));
    tasks.spawn(keep_watchdog_alive(manager.clone()));
    node.tell_of_descriptors(&snapshot.config.limits);
    manager.tell(&[NotifyState::Ready, NotifyState::Status(&node.summary())]);
    tracing::info!(node = snapshot.config.node.name, sites = snapshot.config.sites.len(), "ready");
    drop(snapshot);
    serve_until_stopped(&node, &manager, &mut signals).await;
    let parts = Parts { state_dir, admin, tasks };
    leave(&node, &manager, &mut signals).await;
    match handed.supervisor {
        Some(supervisor) => {
            let patience = node.snapshot.load().config.node.drain_timeout;
            give_up(&node, parts, ADMIN_PATIENCE).await;
            manager.leave();
            supervisor.let_go(patience + LAST_RESORT).map_err(cannot("let go of the supervisor"))?;
            drain(&node, &mut signals).await;
        }
        None => {
            drain(&node, &mut signals).await;
            give_up(&node, parts, admin::DRAIN).await;
        }
    }
    Ok(())
}

type AdminSocket = (TcpListener, std::net::SocketAddr);

async fn open_sockets(
    config: &Config,
    mut sockets: Sockets,
    manager: &ServiceManager,
) -> Result<(Vec<Opened>, Option<AdminSocket>), StartError> {
    let listeners = OpenListeners::default().followed_by(&config.listeners);
    let opened = listeners::open(&listeners, &mut sockets, manager)?;
    let Some(admin) = &config.admin else { return Ok((opened, None)) };
    let address = ListenAddress::Ip(admin.address);
    let bound = admin::bind(admin.address).await.map_err(ListenError::of(&address, " for the admin API"))?;
    Ok((opened, Some(bound)))
}

fn build(
    config: Config,
    source: ConfigSource,
    state_dir: &StateDir,
    allowed: u32,
    manager: &ServiceManager,
) -> Result<Arc<Node>, StartError> {
    let metrics = Arc::new(Metrics::new());
    let (target, format) = (config.log.access.clone(), config.log.format);
    let access_log = AccessLog::start(target, format, metrics.access_log_dropped.clone());
    let observer = Arc::new(Observer {
        metrics: metrics.clone(),
        access_log: access_log.map_err(cannot("start the access log"))?,
    });
    let purges = Arc::new(Purges::open(config.node.state_dir.as_deref())?);
    let engine = Arc::new(Engine::new(&config, purges, metrics.clone()));
    let snapshot = node::first_snapshot(config, &engine, &metrics, Passage::new(state_dir.node_id.clone()));
    let snapshot: Arc<ArcSwap<Snapshot>> = Arc::new(ArcSwap::from_pointee(snapshot));
    let shared = Arc::new(Shared { snapshot, engine, observer });
    Ok(Node::new(shared, source, allowed, manager))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve_until_stopped(node: &Arc<Node>, manager: &ServiceManager, signals: &mut Signals) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            // In a task of its own: a slow reload must not keep the node from stopping.
            _ = signals.hangup.recv() => drop(tokio::spawn(reload_on_signal(node.clone(), manager.clone()))),
            _ = signals.reopen.recv() => node.observer.access_log.reopen(),
        }
    }
}

async fn reload_on_signal(node: Arc<Node>, manager: ServiceManager) {
    let now = NotifyState::monotonic_usec_now();
    let now = now.unwrap_or(NotifyState::Status("reloading"));
    manager.tell(&[NotifyState::Reloading, now]);
    let began_us = verdict::now();
    let report = node.reload().await;
    if let Some(directory) = verdict::directory() {
        let verdict = Verdict { began_us, ok: report.ok, text: report.to_string() };
        let writing = tokio::task::spawn_blocking(move || verdict.write(&directory)).await;
        if let Err(error) = writing.map_err(std::io::Error::other).and_then(|written| written) {
            tracing::warn!(%error, "cannot say what came of the reload to who has asked for it");
        }
    }
    if !node.is_stopping() {
        manager.tell(&[NotifyState::Ready, NotifyState::Status(&node.summary())]);
    }
}

/// Tells clients not to come back by the connections they have, for a while; whatever comes is still served.
async fn leave(node: &Node, manager: &ServiceManager, signals: &mut Signals) {
    manager.tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    node.stage.send_replace(Stage::Leaving);
    tracing::info!(connections = node.open.count(), "stopping: clients are told to connect anew");
    tokio::select! {
        () = node.open.closed() => {}
        () = tokio::time::sleep(LEAVE) => {}
        () = signals.stop() => {}
    }
    node.stage.send_replace(Stage::Draining);
    node.listeners.closed().await;
}

/// Waits until all requests have ended, for a while.
async fn drain(node: &Node, signals: &mut Signals) {
    let patience = node.snapshot.load().config.node.drain_timeout;
    tracing::info!(connections = node.open.count(), "no new connections; running requests may end");
    tokio::select! {
        () = node.open.closed() => tracing::info!("all requests have ended"),
        () = tokio::time::sleep(patience) => {
            tracing::warn!(connections = node.open.count(), "the drain timeout is over; the rest is ended");
        }
        () = signals.stop() => tracing::warn!(connections = node.open.count(), "told again to stop; the rest is ended"),
    }
}

/// What belongs to one process at a time, or is done by one.
struct Parts {
    state_dir: StateDir,
    admin: Option<JoinHandle<()>>,
    tasks: JoinSet<()>,
}

/// Closes what the next process opens. Requests that are still running go on without the cache. `patience`: with callers of the
/// admin API.
async fn give_up(node: &Arc<Node>, Parts { state_dir, admin, mut tasks }: Parts, patience: Duration) {
    node.stop_caching().await;
    if let Some(admin) = admin {
        let _ = tokio::time::timeout(patience, admin).await; // what still runs then is ended with the runtime
    }
    tasks.shutdown().await;
    let engine = node.engine.clone();
    let close = move || {
        engine.cache.purges.close(CHANGE_PATIENCE);
        engine.cache.disk.stop(WRITE_OUT);
    };
    if let Err(error) = tokio::task::spawn_blocking(close).await {
        tracing::error!(%error, "the cache could not be closed");
    }
    drop(state_dir);
}

/// Tells systemd that the runtime turns, at half the interval it asks for.
async fn keep_watchdog_alive(manager: ServiceManager) {
    let Some(interval) = systemd::watchdog() else { return };
    loop {
        manager.tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(interval / 2).await;
    }
}
