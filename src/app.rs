//! The composition root: creates every part in order, passes it to whoever needs it, and runs the node until
//! it is told to stop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::admin;
use crate::cache::engine::Engine;
use crate::cache::purge::{CHANGE_PATIENCE, PurgeSeq, Purges};
use crate::config::load;
use crate::config::model::{Config, ListenAddress};
use crate::config::watch::{self, ConfigWatch};
use crate::front::listen::{self, Bound};
use crate::front::serve::Shared;
use crate::node::{self, ConfigSource, Node};
use crate::observe::Observer;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::origin::passage::Passage;
use crate::snapshot::Snapshot;
use crate::state_dir::{StateDir, StateError};

/// How often the files of the configuration are looked at, whatever is heard of them.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often what purges have killed is freed.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// How long each disk may take to write what waits to be written when the node stops.
const WRITE_OUT: Duration = Duration::from_secs(5);

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    StateDir(#[from] StateError),
    #[error(transparent)]
    PurgeLog(#[from] crate::cache::purge::LogError),
    #[error("{0}")]
    Listen(String),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

/// What could not be done, for an error of the system.
fn cannot(what: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

/// Runs a node from start to end.
pub(crate) fn run(config: Config, source: ConfigSource) -> Result<(), StartError> {
    give_large_blocks_back();
    let allowed = allowed_connections(raise_descriptors());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.node.threads)
        .thread_name("seawall")
        .enable_all()
        .build()
        .map_err(cannot("start the runtime"))?;
    let result = runtime.block_on(run_node(config, source, allowed));
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

/// The error of a socket that cannot be opened, with what to do about it.
fn cannot_listen(address: &ListenAddress, purpose: &str) -> impl Fn(io::Error) -> StartError {
    move |error| {
        let hint = match (address, error.kind()) {
            (ListenAddress::Ip(_), io::ErrorKind::AddrInUse) => "see who has it with ss -ltnp, or take another port",
            (ListenAddress::Ip(_), io::ErrorKind::AddrNotAvailable) => "no interface of this machine has this address",
            (ListenAddress::Ip(_), io::ErrorKind::PermissionDenied) => "ports below 1024 need CAP_NET_BIND_SERVICE",
            (ListenAddress::Unix(_), io::ErrorKind::AddrInUse) => "see who has it with ss -lxp, or take another path",
            (ListenAddress::Unix(_), io::ErrorKind::AlreadyExists) => "remove the file, or take another path",
            (ListenAddress::Unix(_), io::ErrorKind::NotFound) => {
                "its directory must be there: RuntimeDirectory= of a service"
            }
            (ListenAddress::Unix(_), io::ErrorKind::PermissionDenied) => "the node's user must own the directory",
            _ => "",
        };
        let hint = if hint.is_empty() { String::new() } else { format!("\n  = hint: {hint}") };
        StartError::Listen(format!("cannot listen on {address}{purpose}: {error}{hint}"))
    }
}

/// How long the first request waits for the disks of the cache to be recognised, which takes a moment unless one hangs.
const DISKS_PATIENCE: Duration = Duration::from_secs(2);

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

async fn run_node(config: Config, source: ConfigSource, allowed: u32) -> Result<(), StartError> {
    node::tell_of_warnings(&config);
    let mut signals = Signals::new().map_err(cannot("set up signals"))?;
    let state_dir = StateDir::open(config.node.state_dir.as_deref())?; // to the end of this
    let (node, shared) = build(config, source, &state_dir, allowed)?;
    let snapshot = node.snapshot.load_full();
    let fronts =
        snapshot.config.listeners.iter().enumerate().map(|(place, listener)| {
            listen::bind(place, listener, &shared).map_err(cannot_listen(&listener.address, ""))
        });
    let fronts: Vec<Bound> = fronts.collect::<Result<_, _>>()?;
    let admin = match &snapshot.config.admin {
        Some(admin) => Some(
            admin::bind(admin.address)
                .await
                .map_err(cannot_listen(&ListenAddress::Ip(admin.address), " for the admin API"))?,
        ),
        None => None,
    };
    snapshot.pools.looked_up(node::NAMES_PATIENCE).await;
    node.engine.cache.disk.opened(DISKS_PATIENCE).await;
    let mut tasks = JoinSet::new();
    for bound in fronts {
        tracing::info!(address = %bound.address, "listening");
        tasks.spawn(listen::serve(bound, shared.clone(), node.open.clone(), node.shutdown.subscribe()));
    }
    let admin = admin.map(|(listener, address)| {
        tracing::info!(%address, "admin API listening");
        node.admin_address.get_or_init(|| address);
        tokio::spawn(admin::serve(listener, node.clone()))
    });
    tasks.spawn(sweep(node.clone()));
    tasks.spawn(watch_configuration(node.clone()));
    tasks.spawn(keep_watchdog_alive());
    node.tell_of_descriptors(&snapshot.config.limits);
    notify_systemd(&[sd_notify::NotifyState::Ready]);
    tracing::info!(node = snapshot.config.node.name, sites = snapshot.config.sites.len(), "ready");
    drop(snapshot);
    serve_until_stopped(&node, &mut signals).await;
    if let Some(admin) = admin {
        let _ = tokio::time::timeout(admin::DRAIN, admin).await; // what still runs then is ended with the runtime
    }
    let engine = node.engine.clone();
    let close = move || {
        engine.cache.purges.close(CHANGE_PATIENCE);
        engine.cache.disk.stop(WRITE_OUT);
    };
    if let Err(error) = tokio::task::spawn_blocking(close).await {
        tracing::error!(%error, "the cache could not be closed");
    }
    Ok(())
}

fn build(
    config: Config,
    source: ConfigSource,
    state_dir: &StateDir,
    allowed: u32,
) -> Result<(Arc<Node>, Arc<Shared>), StartError> {
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
    let node = Node::new(snapshot.clone(), engine.clone(), observer.clone(), source, allowed);
    let shared = Arc::new(Shared { snapshot, engine, observer });
    Ok((node, shared))
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

async fn serve_until_stopped(node: &Arc<Node>, signals: &mut Signals) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            // In a task of its own: a slow reload must not keep the node from stopping.
            _ = signals.hangup.recv() => drop(tokio::spawn(reload_on_signal(node.clone()))),
            _ = signals.reopen.recv() => node.observer.access_log.reopen(),
        }
    }
    let patience = node.snapshot.load().config.node.drain_timeout;
    tracing::info!(connections = node.open.count(), "stopping: no new connections, running requests may end");
    notify_systemd(&[sd_notify::NotifyState::Stopping]);
    node.shutdown.send_replace(true);
    tokio::select! {
        () = node.open.closed() => tracing::info!("all requests have ended"),
        () = tokio::time::sleep(patience) => {
            tracing::warn!(connections = node.open.count(), "the drain timeout is over; the rest is ended");
        }
        () = signals.stop() => tracing::warn!(connections = node.open.count(), "told again to stop; the rest is ended"),
    }
}

async fn reload_on_signal(node: Arc<Node>) {
    let now = sd_notify::NotifyState::monotonic_usec_now();
    let now = now.unwrap_or(sd_notify::NotifyState::Status("reloading"));
    notify_systemd(&[sd_notify::NotifyState::Reloading, now]);
    node.reload().await;
    if !*node.shutdown.borrow() {
        notify_systemd(&[sd_notify::NotifyState::Ready]);
    }
}

/// Reloads when the files of the configuration change on disk.
async fn watch_configuration(node: Arc<Node>) {
    let ConfigSource::File(main) = node.source.clone() else { return };
    let mut watch = match ConfigWatch::new() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(%error, "cannot watch the configuration; reload it by SIGHUP");
            return;
        }
    };
    let mut seen = None;
    loop {
        // Of ten thousand files all this takes a while, so no worker does it.
        let (files, marker) = (watched_files(&node, &main), load::sites_directory(&main).join("*.toml"));
        let setting = move || {
            // The marker makes sites.d itself watched, also while it is empty.
            let unnoticed = watch.set_files(files.iter().chain([&marker]).map(PathBuf::as_path));
            (watch, unnoticed)
        };
        let unnoticed;
        (watch, unnoticed) = match tokio::task::spawn_blocking(setting).await {
            Ok(set) => set,
            Err(error) => {
                tracing::error!(%error, "the configuration is not watched any more; reload it by SIGHUP");
                return;
            }
        };
        if !unnoticed {
            tokio::select! {
                () = watch.changed() => {}
                // For what no event tells of: a link further up that was swapped, a network file system.
                () = tokio::time::sleep(LOOK_EVERY) => {}
                // There may be other files to watch now.
                () = node.tried.notified() => continue,
            }
        }
        let (mut files, for_stamp) = (watched_files(&node, &main), main.clone());
        let stamping = move || {
            files.extend(load::site_files(&for_stamp).unwrap_or_default());
            watch::stamp(&files)
        };
        let Ok(stamp) = tokio::task::spawn_blocking(stamping).await else { continue };
        // Something else in their directories, a log perhaps, is no reason.
        if seen.replace(stamp) != Some(stamp) {
            node.reload().await;
        }
    }
}

fn watched_files(node: &Node, main: &Path) -> Vec<PathBuf> {
    let mut files = node.files();
    files.push(main.to_owned());
    files
}

async fn sweep(node: Arc<Node>) {
    // What the log had at the start may concern what is on disk.
    let mut swept_up_to = PurgeSeq(0);
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let purges = &node.engine.cache.purges;
        let current = purges.current();
        if current == swept_up_to && purges.marks() == 0 && purges.is_all_written() {
            continue; // nothing was purged since, and no purge is kept for anything's sake
        }
        let engine = node.engine.clone();
        match tokio::task::spawn_blocking(move || engine.sweep()).await {
            Ok(swept) => {
                swept_up_to = current;
                node.observer.metrics.swept_objects.inc_by(swept.objects);
                node.observer.metrics.swept_bytes.inc_by(swept.bytes);
            }
            Err(error) => tracing::error!(%error, "the sweep of purged objects failed; it will be tried again"),
        }
    }
}

/// Tells systemd that the runtime turns, at half the interval it asks for.
async fn keep_watchdog_alive() {
    let mut microseconds = 0;
    if !sd_notify::watchdog_enabled(false, &mut microseconds) {
        return;
    }
    loop {
        notify_systemd(&[sd_notify::NotifyState::Watchdog]);
        tokio::time::sleep(Duration::from_micros(microseconds / 2)).await;
    }
}

fn notify_systemd(states: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
