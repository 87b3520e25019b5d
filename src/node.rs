//! A running node: what is done to it as a whole. Every change of configuration, whether it comes from the
//! disk, a signal or the admin API, goes through [`Node::reload`], which builds everything, then swaps, or
//! changes nothing.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;

use crate::cache::engine::Engine;
use crate::cache::purge::{Event, NotDurable, PURGE_PATIENCE, PurgeSeq, Target};
use crate::cache::tags::TagHash;
use crate::clock::Timestamp;
use crate::config::diagnose::{ConfigErrors, Diagnostic};
use crate::config::host::HostPattern;
use crate::config::load;
use crate::config::model::{Config, KeyRules, Limits, LogFilter, Route, Site};
use crate::config::read::ByteSize;
use crate::config::units::count;
use crate::drain::Stage;
use crate::front::listeners::{ListenError, Listeners};
use crate::front::open::Open;
use crate::front::serve::Shared;
use crate::observe::Observer;
use crate::observe::metrics::Metrics;
use crate::origin::passage::Passage;
use crate::origin::{PoolSet, PoolTasks};
use crate::running::Running;
use crate::snapshot::{OpenListeners, SiteRuntime, Snapshot};
use crate::systemd::ServiceManager;
use crate::warm::WarmUps;

/// How long a new configuration waits for the names in it, before it is used without those that are missing.
pub(crate) const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// Hosts that are forgotten one by one; of more, whole sites are.
const MOST_MOVED: usize = 1_000;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub(crate) enum ConfigSource {
    File(PathBuf),
    /// Made up from the command line: there is nothing to reload.
    Fixed,
}

/// The handle on a running node.
pub(crate) struct Node {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub engine: Arc<Engine>,
    pub observer: Arc<Observer>,
    pub open: Open,
    pub source: ConfigSource,
    pub started: Timestamp,
    pub stage: watch::Sender<Stage>,
    pub listeners: Listeners,
    manager: ServiceManager,
    /// Where the admin API listens.
    pub admin_address: OnceLock<SocketAddr>,
    pub warm_ups: WarmUps,
    /// What this process cannot change.
    pub fixed: Fixed,
    /// A reload has been tried: there may be other files to watch.
    pub tried: Notify,
    /// The files that the last reload looked at, if it was refused.
    refused_files: Mutex<Vec<PathBuf>>,
    /// The `max_connections` for which it was said last that there are fewer descriptors.
    told_of: AtomicU32,
    tasks: Mutex<PoolTasks>,
    last_reload: Mutex<Option<ReloadReport>>,
    /// Reloads happen one after the other.
    reloading: tokio::sync::Mutex<()>,
}

/// How the last reload went, for the status.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct ReloadReport {
    pub time: Timestamp,
    pub ok: bool,
    /// Whether it changed anything.
    pub changed: bool,
    pub generation: u64,
    /// The mistakes, if it was refused.
    pub errors: Vec<Diagnostic>,
    /// What will only change with a new process.
    pub needs_restart: Vec<String>,
}

impl fmt::Display for ReloadReport {
    /// For whoever has asked for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.generation;
        match (self.ok, self.changed) {
            (true, true) => write!(f, "configuration {generation} is in force")?,
            (true, false) => write!(f, "nothing has changed: configuration {generation} is in force")?,
            (false, _) => {
                write!(f, "the configuration is refused, and configuration {generation} stays in force:")?;
                self.errors.iter().try_for_each(|error| write!(f, "\n{error}"))?;
            }
        }
        self.needs_restart.iter().try_for_each(|what| write!(f, "\ntakes effect with the next start only: {what}"))
    }
}

/// A purge that is in force.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Purged {
    pub seq: PurgeSeq,
    pub took_us: u64,
    /// Whether a restart knows of it: without a state directory it does not.
    pub durable: bool,
}

/// Makes the first snapshot of a node.
pub fn first_snapshot(config: Config, engine: &Engine, metrics: &Metrics, passage: Passage) -> Snapshot {
    forget_overruled_versions(engine, &config);
    build_snapshot(config, None, engine, metrics, Arc::new(passage))
}

fn build_snapshot(
    config: Config,
    before: Option<&Snapshot>,
    engine: &Engine,
    metrics: &Metrics,
    passage: Arc<Passage>,
) -> Snapshot {
    let pools = PoolSet::build(&config.pools, before.map(|before| &before.pools), config.node.state_dir.as_deref());
    // With ten thousand sites, what can be kept is not made anew.
    let known: HashMap<&str, &SiteRuntime> = before
        .into_iter()
        .flat_map(|before| before.config.sites.iter().map(|site| &*site.name).zip(&before.sites))
        .collect();
    let gone = |name: &str| before?.gone.iter().find(|(gone, _)| **gone == *name).map(|(_, running)| running.clone());
    let site_runtime = |site: &Arc<crate::config::model::Site>| {
        let version = engine.cache.purges.version_of(&site.name, site.version);
        match known.get(&*site.name) {
            Some(known) => SiteRuntime::new(known.metrics.clone(), known.running.clone(), version),
            None => {
                let running = gone(&site.name).unwrap_or_else(|| Arc::new(Running::new(site.max_requests)));
                SiteRuntime::new(metrics.site(&site.name), running, version)
            }
        }
    };
    let sites = config.sites.iter().map(site_runtime).collect();
    let gone = before.map(|before| gone_with(&config, before)).unwrap_or_default();
    let listeners = before.map_or(&OpenListeners::default(), |before| &before.listeners).followed_by(&config.listeners);
    let generation = before.map_or(1, |before| before.generation + 1);
    Snapshot { config, pools, sites, gone, listeners, generation, passage }
}

/// The sites that a configuration has no more, as long as requests of theirs are with origins.
fn gone_with(config: &Config, before: &Snapshot) -> Vec<(Box<str>, Arc<Running>)> {
    let stay: HashSet<&str> = config.sites.iter().map(|site| &*site.name).collect();
    let were = before.config.sites.iter().zip(&before.sites).map(|(site, runtime)| (&*site.name, &runtime.running));
    let all = were.chain(before.gone.iter().map(|(name, running)| (&**name, running)));
    let busy = all.filter(|(name, running)| !stay.contains(name) && running.count() > 0);
    busy.map(|(name, running)| (name.into(), running.clone())).collect()
}

impl Node {
    /// Says so if the descriptors are not enough for the connections that the configuration allows.
    pub(crate) fn tell_of_descriptors(&self, limits: &Limits) {
        let most = self.open.most(limits);
        let before = self.told_of.swap(limits.max_connections, Ordering::Relaxed);
        if most < limits.max_connections && before != limits.max_connections {
            tracing::warn!(
                max_connections = limits.max_connections,
                in_force = most,
                "fewer connections than max_connections: the limit on open files is too low; raise it by ulimit -n, for the service by LimitNOFILE="
            );
        }
    }

    /// Takes charge of a node's parts and starts what looks after its pools.
    pub(crate) fn new(shared: Arc<Shared>, source: ConfigSource, allowed: u32, manager: &ServiceManager) -> Arc<Self> {
        let Shared { snapshot, engine, observer } = &*shared;
        let mut tasks = PoolTasks::new();
        tasks.update(&snapshot.load().pools);
        let fixed = Fixed::of(&snapshot.load().config);
        let (open, stage) = (Open::new(allowed), watch::Sender::new(Stage::Serving));
        let listeners = Listeners::new(shared.clone(), open.clone(), stage.subscribe(), manager.clone());
        observer.metrics.config_generation.set(1);
        observer.metrics.config_last_reload_ok.set(1);
        Arc::new(Node {
            snapshot: snapshot.clone(),
            engine: engine.clone(),
            observer: observer.clone(),
            open,
            source,
            started: Timestamp::now(),
            stage,
            listeners,
            manager: manager.clone(),
            admin_address: OnceLock::new(),
            warm_ups: WarmUps::default(),
            fixed,
            tried: Notify::new(),
            refused_files: Mutex::default(),
            told_of: AtomicU32::new(0),
            tasks: Mutex::new(tasks),
            last_reload: Mutex::new(None),
            reloading: tokio::sync::Mutex::new(()),
        })
    }

    /// Loads the configuration anew and puts it in force, or changes nothing and says why.
    pub(crate) async fn reload(&self) -> ReloadReport {
        let _one_at_a_time = self.reloading.lock().await;
        let report = match &self.source {
            _ if self.is_stopping() => return self.stopping(),
            ConfigSource::Fixed => self.unchanged(),
            ConfigSource::File(path) => {
                let path = path.clone();
                match self.unless_stopping(move || load::load(&path)).await {
                    None => return self.stopping(),
                    Some(Ok(Ok(config))) => self.apply(config).await,
                    Some(Ok(Err(errors))) => self.refused(errors),
                    Some(Err(error)) => self.refused(not_loaded(&error)),
                }
            }
        };
        if self.is_stopping() {
            return report;
        }
        self.tried.notify_one();
        let mut last = self.last_reload.lock();
        if report.ok && !report.changed && last.as_ref().is_some_and(|last| !last.ok) {
            tracing::info!("the configuration is valid again, and is the one in force: nothing was changed");
        }
        // Looking at files that had not changed is no event, unless it ends one.
        if report.changed || !report.ok || last.is_some() {
            *last = Some(report.clone());
        }
        drop(last);
        self.manager.tell(&[NotifyState::Status(&self.summary())]);
        report
    }

    /// The files whose change may change the configuration: those of the one in force, and of one that was
    /// refused.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.refused_files.lock().clone();
        files.extend_from_slice(&self.snapshot.load().config.files);
        files
    }

    /// What in the configuration in force is not in use.
    pub(crate) fn needs_restart(&self) -> Vec<String> {
        self.fixed.differences(&Fixed::of(&self.snapshot.load().config))
    }

    pub(crate) fn last_reload(&self) -> Option<ReloadReport> {
        self.last_reload.lock().clone()
    }

    /// Puts a purge in force and makes it durable. Where that fails, it is in force until a restart.
    pub(crate) async fn purge(&self, targets: Vec<Target>, soft: bool) -> Result<Purged, NotDurable> {
        self.append(Event::Purge { soft, targets }).await
    }

    /// Sets a site's version until the configuration's own number changes.
    pub(crate) async fn set_version(&self, site: &str, version: u64) -> Result<Option<Purged>, NotDurable> {
        let Some(index) = self.snapshot.load().site_by_name(site) else { return Ok(None) };
        let configured = self.snapshot.load().site(index).version;
        let durable = self.append(Event::Version { site: site.to_owned(), version, configured });
        // In force, durable or not, and whether its caller waits or not; also in a snapshot that came into use meanwhile.
        let snapshot = self.snapshot.load();
        if let Some(index) = snapshot.site_by_name(site) {
            let version = self.engine.cache.purges.version_of(site, snapshot.site(index).version);
            snapshot.sites[index].set_version(version);
        }
        durable.await.map(Some)
    }

    /// It is in force when this returns; what it gives waits until it is durable.
    fn append(&self, event: Event) -> impl Future<Output = Result<Purged, NotDurable>> + Send + use<> {
        let started = Instant::now();
        let purges = &self.engine.cache.purges;
        let (written, durable) = (purges.append(event, Timestamp::now(), PURGE_PATIENCE), purges.directory().is_some());
        async move { Ok(Purged { seq: written.await?, took_us: started.elapsed().as_micros() as u64, durable }) }
    }

    /// What purges would miss from now on is forgotten, since with the next change it would be back: what hosts have under a
    /// site that serves them no more, what is keyed by rules that its route no longer has, and what is stored under conditions
    /// that no route has any more.
    async fn forget_what_moved(&self, before: &Config, now: &Config) {
        let targets = [moved_hosts(before, now), rekeyed_paths(before, now), conditions_gone(before, now)].concat();
        if targets.is_empty() {
            return;
        }
        let (number, first) = (targets.len(), format!("{:?}", targets[0]));
        tracing::info!(number, first, "purged, since it was stored under other rules for hosts, keys or conditions");
        if let Err(error) = self.purge(targets, false).await {
            tracing::error!(%error, "what was stored under other rules is forgotten, but a restart may bring it back");
        }
    }

    /// Requests that come from now on are passed to their origins, and what is stored is freed: whether it is still valid is
    /// for another process to know.
    pub(crate) async fn stop_caching(&self) {
        let _one_at_a_time = self.reloading.lock().await;
        let before = self.snapshot.load_full();
        let (engine, metrics) = (self.engine.clone(), self.observer.metrics.clone());
        let building = move || {
            let config = before.config.clone().without_cache();
            let passage = before.passage.clone();
            let snapshot = build_snapshot(config, Some(&before), &engine, &metrics, passage);
            engine.cache.memory.configure(&snapshot.config.memory);
            snapshot
        };
        match tokio::task::spawn_blocking(building).await {
            Ok(snapshot) => self.snapshot.store(Arc::new(snapshot)),
            Err(error) => tracing::error!(%error, "requests that still come may be answered from the cache"),
        }
    }

    async fn apply(&self, config: Config) -> ReloadReport {
        let before = self.snapshot.load_full();
        self.refused_files.lock().clear();
        if before.config.fingerprint == config.fingerprint {
            return self.unchanged();
        }
        let metrics = &self.observer.metrics;
        let (engine, for_sites, old) = (self.engine.clone(), metrics.clone(), before.clone());
        let passage = old.passage.clone();
        let building = move || build_snapshot(config, Some(&old), &engine, &for_sites, passage);
        let snapshot = match self.unless_stopping(building).await {
            None => return self.stopping(),
            Some(Ok(snapshot)) => Arc::new(snapshot),
            Some(Err(error)) => return self.refused(not_loaded(&error)),
        };
        // The last that may fail.
        let change = match self.listeners.prepare(&snapshot.listeners, Vec::new()) {
            Ok(change) => change,
            Err(error) => return self.refused(self.not_bound(&error)),
        };
        self.tasks.lock().update(&snapshot.pools);
        // New names are looked up before anybody needs them.
        tokio::select! {
            () = snapshot.pools.looked_up(NAMES_PATIENCE) => {}
            () = self.stops() => return self.stopping(),
        }
        self.observer.access_log.configure(snapshot.config.log.access.clone(), snapshot.config.log.format);
        self.engine.configure(&snapshot.config);
        let generation = snapshot.generation;
        self.snapshot.store(snapshot.clone());
        self.listeners.change(change, &snapshot.listeners);
        let sites = snapshot.config.sites.iter().zip(&snapshot.sites);
        sites.for_each(|(site, runtime)| runtime.running.set_most(site.max_requests));
        self.settle_versions(&snapshot).await;
        self.forget_what_moved(&before.config, &snapshot.config).await;
        let names: HashSet<&str> = snapshot.config.sites.iter().map(|site| &*site.name).collect();
        for site in before.config.sites.iter().filter(|site| !names.contains(&*site.name)) {
            metrics.remove_site(&site.name);
        }
        drop(names);
        // The old configuration goes where it holds nobody up, if nobody uses it any more.
        tokio::task::spawn_blocking(move || drop(before));
        metrics.reloaded(true);
        metrics.config_generation.set(generation as i64);
        tracing::info!(generation, "configuration reloaded");
        tell_of_warnings(&snapshot.config);
        self.tell_of_descriptors(&snapshot.config.limits);
        let report = ReloadReport { changed: true, ..self.report() };
        for what in &report.needs_restart {
            tracing::warn!(what, "this change takes effect with the next start only");
        }
        report
    }

    /// Brings the versions set at run time in line with a configuration that has just come into force.
    async fn settle_versions(&self, snapshot: &Arc<Snapshot>) {
        let (engine, settled) = (self.engine.clone(), snapshot.clone());
        let settling = tokio::task::spawn_blocking(move || forget_overruled_versions(&engine, &settled.config));
        if let Err(error) = settling.await {
            tracing::error!(%error, "the sites' versions could not be settled");
        }
        // One may have been set while this configuration was being built.
        for (site, runtime) in snapshot.config.sites.iter().zip(&snapshot.sites) {
            runtime.set_version(self.engine.cache.purges.version_of(&site.name, site.version));
        }
    }

    /// What blocks, in a thread of its own; `None`: the node stops, and nobody waits for it.
    async fn unless_stopping<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, JoinError>> {
        tokio::select! {
            biased;
            () = self.stops() => None,
            done = tokio::task::spawn_blocking(work) => Some(done),
        }
    }

    async fn stops(&self) {
        let _ = self.stage.subscribe().wait_for(|stage| *stage != Stage::Serving).await; // its sender is here
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stage.borrow() != Stage::Serving
    }

    /// Of a reload for which it is too late: the next process reads the configuration.
    fn stopping(&self) -> ReloadReport {
        let mistake = Diagnostic::of_file(self.source_name(), "the node is stopping: the next one reads it".to_owned());
        ReloadReport { ok: false, errors: vec![mistake], ..self.report() }
    }

    fn unchanged(&self) -> ReloadReport {
        self.observer.metrics.config_last_reload_ok.set(1);
        self.report()
    }

    fn refused(&self, errors: ConfigErrors) -> ReloadReport {
        self.refused_files.lock().clone_from(&errors.files);
        self.observer.metrics.reloaded(false);
        // It is tried again whenever a file changes, or somebody asks.
        if self.last_reload().is_none_or(|last| last.errors != errors.diagnostics) {
            tracing::error!("the configuration is refused and nothing was changed:\n{errors}");
        }
        ReloadReport { ok: false, errors: errors.diagnostics, ..self.report() }
    }

    fn not_bound(&self, error: &ListenError) -> ConfigErrors {
        Diagnostic::of_file(self.source_name(), error.to_string()).into()
    }

    fn source_name(&self) -> &Path {
        match &self.source {
            ConfigSource::File(path) => path,
            ConfigSource::Fixed => Path::new("command line"),
        }
    }

    /// One line on what is in force, for the service manager.
    pub(crate) fn summary(&self) -> String {
        let snapshot = self.snapshot.load();
        let (sites, generation) = (count(snapshot.config.sites.len() as u64, "site"), snapshot.generation);
        match self.last_reload().filter(|last| !last.ok) {
            None => format!("serving {sites}, configuration {generation}"),
            Some(last) => {
                let mistakes = count(last.errors.len() as u64, "mistake");
                format!("serving {sites}, configuration {generation}; the files have {mistakes} and are not in force")
            }
        }
    }

    /// Of a reload that found nothing to do.
    fn report(&self) -> ReloadReport {
        let (generation, needs_restart) = (self.snapshot.load().generation, self.needs_restart());
        ReloadReport { time: Timestamp::now(), ok: true, changed: false, generation, errors: Vec::new(), needs_restart }
    }
}

/// What a running process cannot change.
#[derive(Debug, Clone)]
pub(crate) struct Fixed {
    threads: usize,
    compress_threads: usize,
    state_dir: Option<PathBuf>,
    admin: Option<SocketAddr>,
    disk: (usize, ByteSize, Duration),
    log_level: LogFilter,
}

impl Fixed {
    fn of(config: &Config) -> Self {
        Fixed {
            threads: config.node.threads,
            compress_threads: config.node.compress_threads,
            state_dir: config.node.state_dir.clone(),
            admin: config.admin.as_ref().map(|admin| admin.address),
            disk: (config.disk.threads, config.disk.write_buffer, config.disk.read_timeout),
            log_level: config.log.level.clone(),
        }
    }

    /// The configuration's names of what another configuration has otherwise.
    fn differences(&self, other: &Self) -> Vec<String> {
        let differs = [
            (self.threads != other.threads, "threads in [node]"),
            (self.compress_threads != other.compress_threads, "compress_threads in [node]"),
            (self.state_dir != other.state_dir, "state_dir in [node]"),
            (self.admin != other.admin, "address in [admin]"),
            (self.disk != other.disk, "threads, write_buffer and read_timeout in [cache.disk]"),
            (self.log_level != other.log_level, "level in [log]"),
        ];
        differs.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what.to_owned()).collect()
    }
}

/// A version that was set at run time holds until the configuration's own number changes, and does not come
/// back when that number does.
fn forget_overruled_versions(engine: &Engine, config: &Config) {
    for site in &config.sites {
        if !engine.cache.purges.is_overruled(&site.name, site.version) {
            continue;
        }
        let event = Event::Version { site: site.name.to_string(), version: site.version, configured: site.version };
        engine.cache.purges.put(event, Timestamp::now());
    }
}

fn not_loaded(error: &JoinError) -> ConfigErrors {
    Diagnostic::of_file(Path::new(""), format!("the configuration could not be loaded: {error}")).into()
}

/// Says what is no mistake in a configuration, and hardly meant.
pub(crate) fn tell_of_warnings(config: &Config) {
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

/// What was keyed by rules for URLs that its route, or another for its path, does not have any more.
fn rekeyed_paths(before: &Config, now: &Config) -> Vec<Target> {
    let written = KeyRules::default();
    let stays = |route: &Route, now: &Site| {
        let mut alike = now.routes.iter().filter(|other| other.path == route.path);
        alike.any(|other| other.cache.key.keys_urls_as(&route.cache.key))
    };
    let mut targets = Vec::new();
    for (index, site) in before.sites.iter().enumerate() {
        let Some(now) = now.sites.iter().find(|other| other.name == site.name) else { continue };
        let rekeyed = site.routes.iter().filter(|route| !route.cache.key.keys_urls_as(&written) && !stays(route, now));
        for route in rekeyed {
            let path = route.path.prefix();
            for (pattern, _) in before.hosts.patterns().filter(|(_, of)| *of == index) {
                let site = site.name.to_string();
                targets.push(match pattern {
                    HostPattern::Exact(host) => Target::Prefix { site, prefix: format!("{host}{path}") },
                    _ => Target::Site { site },
                });
            }
        }
    }
    targets.sort_by_cached_key(|target| format!("{target:?}"));
    targets.dedup();
    targets
}

/// What was stored under conditions that no route of its site has any more: what a POST changes would not be forgotten there.
fn conditions_gone(before: &Config, now: &Config) -> Vec<Target> {
    let of = |site: &Site| -> HashSet<Box<str>> {
        site.routes.iter().filter_map(|route| Some(route.when.as_ref()?.key.clone())).collect()
    };
    let gone = before.sites.iter().flat_map(|site| {
        let left = now.sites.iter().find(|other| other.name == site.name).map(|now| of(now)).unwrap_or_default();
        let gone: Vec<_> = of(site).difference(&left).cloned().collect();
        gone.into_iter().map(|key| Target::Tag { site: Some(site.name.to_string()), tag: TagHash::of_condition(&key) })
    });
    gone.collect()
}

/// Hosts that a configuration moves from one site to another, as what is to be purged of the old one.
fn moved_hosts(before: &Config, now: &Config) -> Vec<Target> {
    let name = |config: &Config, site: usize| config.sites[site].name.to_string();
    let all = before.hosts.patterns().chain(now.hosts.patterns()).map(|(pattern, _)| pattern);
    let patterns: HashSet<HostPattern> = all.collect();
    let moved = patterns.into_iter().filter_map(|pattern| {
        let old = name(before, before.hosts.of_pattern(&pattern)?);
        let new = name(now, now.hosts.of_pattern(&pattern)?);
        (old != new).then_some((pattern, old))
    });
    let (mut hosts, mut sites) = (Vec::new(), HashSet::new());
    for (pattern, old) in moved {
        match pattern {
            HostPattern::Exact(host) if hosts.len() < MOST_MOVED => {
                hosts.push(Target::Prefix { site: old, prefix: format!("{host}/") });
            }
            _ => _ = sites.insert(old),
        }
    }
    hosts.into_iter().chain(sites.into_iter().map(|site| Target::Site { site })).collect()
}
