//! A running node: what is done to it as a whole. Every change of configuration, whether it comes from the
//! disk, a signal or the admin API, goes through [`Node::reload`], which builds everything, then swaps, or
//! changes nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::cache::engine::Engine;
use crate::cache::purge::{Event, LogError, PurgeSeq, Target};
use crate::clock::Timestamp;
use crate::config::diagnose::ConfigErrors;
use crate::config::load;
use crate::config::model::Config;
use crate::front::listen::Open;
use crate::observe::Observer;
use crate::observe::metrics::Metrics;
use crate::origin::{PoolSet, PoolTasks};
use crate::snapshot::{SiteRuntime, Snapshot};

/// How long a new configuration waits for the names in it, before it is used without those that are missing.
pub const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum ConfigSource {
    File(PathBuf),
    /// Made up from the command line: there is nothing to reload.
    Fixed,
}

/// The handle on a running node.
pub struct Node {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub engine: Arc<Engine>,
    pub observer: Arc<Observer>,
    pub open: Open,
    pub source: ConfigSource,
    pub started: Timestamp,
    pub shutdown: watch::Sender<bool>,
    /// Where the admin API listens.
    pub admin_address: OnceLock<SocketAddr>,
    /// A new configuration is in force.
    pub applied: Notify,
    tasks: Mutex<PoolTasks>,
    last_reload: Mutex<Option<ReloadReport>>,
    /// Reloads happen one after the other.
    reloading: tokio::sync::Mutex<()>,
}

/// How the last reload went, for the status.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ReloadReport {
    pub time: Timestamp,
    pub ok: bool,
    /// Whether it changed anything.
    pub changed: bool,
    pub generation: u64,
    /// The mistakes, if it was refused.
    pub errors: Vec<crate::config::diagnose::Diagnostic>,
    /// What will only change with a new process.
    pub needs_restart: Vec<String>,
}

/// A purge that is in force.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Purged {
    pub seq: PurgeSeq,
    pub took_us: u64,
}

/// Makes the first snapshot of a node.
pub fn first_snapshot(config: Config, engine: &Engine, metrics: &Metrics) -> Snapshot {
    build_snapshot(config, None, engine, metrics)
}

fn build_snapshot(config: Config, before: Option<&Snapshot>, engine: &Engine, metrics: &Metrics) -> Snapshot {
    let pools = PoolSet::build(&config.pools, before.map(|before| &before.pools));
    let site_runtime = |site: &Arc<crate::config::model::Site>| {
        let version = engine.purges.version_of(&site.name, site.version);
        SiteRuntime::new(metrics.site(&site.name), version)
    };
    let sites = config.sites.iter().map(site_runtime).collect();
    Snapshot { config, pools, sites, generation: before.map_or(1, |before| before.generation + 1) }
}

impl Node {
    /// Takes charge of a node's parts and starts what looks after its pools.
    pub fn new(
        snapshot: Arc<ArcSwap<Snapshot>>,
        engine: Arc<Engine>,
        observer: Arc<Observer>,
        source: ConfigSource,
    ) -> Arc<Self> {
        let mut tasks = PoolTasks::new();
        tasks.update(&snapshot.load().pools);
        observer.metrics.config_generation.set(1);
        observer.metrics.config_last_reload_ok.set(1);
        Arc::new(Node {
            snapshot,
            engine,
            observer,
            open: Open::new(),
            source,
            started: Timestamp::now(),
            shutdown: watch::Sender::new(false),
            admin_address: OnceLock::new(),
            applied: Notify::new(),
            tasks: Mutex::new(tasks),
            last_reload: Mutex::new(None),
            reloading: tokio::sync::Mutex::new(()),
        })
    }

    /// Loads the configuration anew and puts it in force, or changes nothing and says why.
    pub async fn reload(&self) -> ReloadReport {
        let _one_at_a_time = self.reloading.lock().await;
        let report = match &self.source {
            ConfigSource::Fixed => self.unchanged(),
            ConfigSource::File(path) => {
                let path = path.clone();
                match tokio::task::spawn_blocking(move || load::load(&path)).await {
                    Ok(Ok(config)) => self.apply(config).await,
                    Ok(Err(errors)) => self.refused(errors),
                    Err(error) => self.refused(ConfigErrors(vec![internal(&error)])),
                }
            }
        };
        let mut last = self.last_reload.lock();
        // Looking at files that had not changed is no event, unless it ends one.
        if report.changed || !report.ok || last.is_some() {
            *last = Some(report.clone());
        }
        drop(last);
        report
    }

    pub fn last_reload(&self) -> Option<ReloadReport> {
        self.last_reload.lock().clone()
    }

    /// Makes a purge durable and puts it in force.
    pub async fn purge(&self, targets: Vec<Target>, soft: bool) -> Result<Purged, LogError> {
        self.append(Event::Purge { soft, targets }).await
    }

    /// Sets a site's version until the configuration's own number changes.
    pub async fn set_version(&self, site: &str, version: u64) -> Result<Option<Purged>, LogError> {
        let Some(index) = self.snapshot.load().site_by_name(site) else { return Ok(None) };
        let configured = self.snapshot.load().site(index).version;
        let done = self.append(Event::Version { site: site.to_owned(), version, configured }).await?;
        // Also in a snapshot that came into use meanwhile.
        let snapshot = self.snapshot.load();
        if let Some(index) = snapshot.site_by_name(site) {
            let version = self.engine.purges.version_of(site, snapshot.site(index).version);
            snapshot.sites[index].set_version(version);
        }
        Ok(Some(done))
    }

    async fn append(&self, event: Event) -> Result<Purged, LogError> {
        let (engine, started) = (self.engine.clone(), Instant::now());
        // It waits for the disk. The task is not cancelled with its caller, so what was begun is finished.
        let append = tokio::task::spawn_blocking(move || engine.purges.append(event, Timestamp::now()));
        let seq = append.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(Purged { seq, took_us: started.elapsed().as_micros() as u64 })
    }

    async fn apply(&self, config: Config) -> ReloadReport {
        let before = self.snapshot.load_full();
        if before.config.fingerprint == config.fingerprint {
            return self.unchanged();
        }
        let needs_restart = needs_restart(&before.config, &config);
        let metrics = &self.observer.metrics;
        let snapshot = Arc::new(build_snapshot(config, Some(&before), &self.engine, metrics));
        self.tasks.lock().update(&snapshot.pools);
        // New names are looked up before anybody needs them.
        snapshot.pools.looked_up(NAMES_PATIENCE).await;
        self.observer.access_log.configure(snapshot.config.log.access.clone(), snapshot.config.log.format);
        self.engine.configure(&snapshot.config);
        let generation = snapshot.generation;
        self.snapshot.store(snapshot.clone());
        for site in &before.config.sites {
            if snapshot.site_by_name(&site.name).is_none() {
                metrics.remove_site(&site.name);
            }
        }
        metrics.reloaded(true);
        metrics.config_generation.set(generation as i64);
        self.applied.notify_one();
        tracing::info!(generation, "configuration reloaded");
        for what in &needs_restart {
            tracing::warn!(what, "this change takes effect with the next start only");
        }
        ReloadReport { time: Timestamp::now(), ok: true, changed: true, generation, errors: Vec::new(), needs_restart }
    }

    fn unchanged(&self) -> ReloadReport {
        self.observer.metrics.config_last_reload_ok.set(1);
        let generation = self.snapshot.load().generation;
        let (errors, needs_restart) = (Vec::new(), Vec::new());
        ReloadReport { time: Timestamp::now(), ok: true, changed: false, generation, errors, needs_restart }
    }

    fn refused(&self, errors: ConfigErrors) -> ReloadReport {
        self.observer.metrics.reloaded(false);
        tracing::error!("the configuration is refused and nothing was changed:\n{errors}");
        ReloadReport {
            time: Timestamp::now(),
            ok: false,
            changed: false,
            generation: self.snapshot.load().generation,
            errors: errors.0,
            needs_restart: Vec::new(),
        }
    }
}

/// What a running process cannot change.
fn needs_restart(before: &Config, after: &Config) -> Vec<String> {
    let mut changed = Vec::new();
    let mut note = |differs: bool, what: &str| {
        if differs {
            changed.push(what.to_owned());
        }
    };
    note(before.listeners != after.listeners, "[[listen]]");
    note(before.node.threads != after.node.threads, "threads in [node]");
    note(before.node.state_dir != after.node.state_dir, "state_dir in [node]");
    let address = |config: &Config| config.admin.as_ref().map(|admin| admin.address);
    note(address(before) != address(after), "address in [admin]");
    note(before.memory.max_size != after.memory.max_size, "max_size in [cache.memory]");
    note(before.memory.eviction != after.memory.eviction, "eviction in [cache.memory]");
    note(before.log.level != after.log.level, "level in [log]");
    changed
}

fn internal(error: &dyn std::fmt::Display) -> crate::config::diagnose::Diagnostic {
    crate::config::diagnose::Diagnostic {
        file: Path::new("").to_owned(),
        line: 0,
        column: 0,
        text: String::new(),
        width: 0,
        message: format!("the configuration could not be loaded: {error}"),
        hint: None,
    }
}
