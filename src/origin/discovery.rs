//! Origins that are found while the node runs: by the records of a name, or in a file. What cannot be found for the moment changes
//! nothing: the pool goes on with those it has.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};

use crate::config::model::{Endpoint, MOST_FOUND, NotLoaded, Origin, Source, SourceKind, load_origins};
use crate::config::watch::{FileWatch, stamp};

use super::dns::Resolver;
use super::found::Found;
use super::member::{Member, Members};
use super::pool::{PoolRuntime, PoolSet};
use super::resolve::{again_after, retry_after};
use super::srv;
use super::state::OriginStatus;

/// Characters of a mistake that are told.
const MOST_QUOTED: usize = 2000;

/// How often files are looked at that cannot be watched.
const POLL: Duration = Duration::from_secs(10);

/// Origins that a line of the log names.
const MOST_TOLD: usize = 20;

impl PoolRuntime {
    /// What one of its sources has brought.
    pub(super) fn brought(&self, source: &Source) -> Option<Found> {
        let place = self.config.sources.iter().position(|own| own == source)?;
        self.found.lock().get(place).cloned()
    }

    /// Those that are configured and those that were found, each once.
    pub(super) fn all_origins(&self, found: &[Found]) -> Vec<Origin> {
        let mut seen = HashSet::new();
        let leaving = found.iter().flat_map(|found| &found.leaving);
        let all = self.config.origins.iter().chain(found.iter().flat_map(|found| &found.origins)).chain(leaving);
        all.filter(|origin| seen.insert(origin.address.clone())).cloned().collect()
    }

    /// How many origins each of its sources has brought, and why it cannot be asked now.
    pub(crate) fn source_states(&self) -> Vec<(usize, Option<String>)> {
        self.found.lock().iter().map(|found| (found.origins.len(), found.error.clone())).collect()
    }

    /// The origins that one of its sources has brought.
    pub(super) fn found(&self, source: usize) -> Vec<Origin> {
        self.found.lock().get(source).map(|found| found.origins.clone()).unwrap_or_default()
    }

    /// A source has brought these, or nothing: then the pool goes on with those that it has.
    pub(super) fn set_found(&self, source: usize, now: Result<Vec<Origin>, String>) {
        let mut all = self.found.lock(); // held to the end: one change at a time
        let (pool, from) = (&self.config.name, self.config.sources.get(source));
        let (Some(found), Some(from)) = (all.get_mut(source), from) else { return };
        found.is_known = true;
        let (was, keeps) = (found.error.take(), found.origins.len());
        match now {
            Ok(origins) => {
                if let Some(error) = was {
                    tracing::info!(%pool, %from, was = error, "a source of origins can be read again");
                }
                if found.origins != origins {
                    let members = self.members();
                    let known = members.addresses();
                    // Whether a new name has an address is not known yet.
                    let is_waited_for =
                        !origins.is_empty() && origins.iter().all(|origin| !known.contains(&*origin.address));
                    let before = std::mem::replace(&mut found.origins, origins);
                    match is_waited_for {
                        true => found.leaving.extend(before), // those that had stayed may be the only ones with an address
                        false => found.leaving.clear(),
                    }
                    found.leaving.truncate(MOST_FOUND);
                    self.replace_origins(&all, from);
                }
            }
            Err(error) => {
                if was.as_ref() != Some(&error) {
                    tracing::warn!(%pool, %from, error, "origins cannot be found; the pool keeps the {keeps} it had from there");
                }
                found.error = Some(error);
            }
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Lets those go that have only stayed until one of the new ones has an address.
    pub(super) fn let_go(&self) {
        let mut all = self.found.lock();
        for place in 0..all.len() {
            if all[place].leaving.is_empty() {
                continue;
            }
            let members = self.members();
            let has_come = |origin: &Origin| {
                members.find(&origin.address).is_some_and(|member| member.origin.status() != OriginStatus::Unresolved)
            };
            if let Some(from) = self.config.sources.get(place)
                && all[place].origins.iter().any(has_come)
            {
                all[place].leaving.clear();
                self.replace_origins(&all, from);
                self.changes.send_modify(|changes| *changes += 1);
            }
        }
    }

    fn replace_origins(&self, found: &[Found], from: &Source) {
        let before = self.members();
        self.enter(self.all_origins(found), Some((&before, &self.trusts())), true);
        let now = self.members();
        let names = |of: &Members, others: &Members| {
            let (known, all) = (others.addresses(), of.iter().map(|member| &*member.config.address));
            all.filter(|address| !known.contains(address)).take(MOST_TOLD).collect::<Vec<_>>().join(" ")
        };
        let (added, removed, pool) = (names(&now, &before), names(&before, &now), &self.config.name);
        tracing::info!(%pool, %from, added, removed, origins = now.all.len(), "the origins of a pool have changed");
        let stay: HashSet<*const Member> = now.iter().map(Arc::as_ptr).collect();
        before.iter().filter(|old| !stay.contains(&Arc::as_ptr(old))).for_each(|old| old.kept.close());
    }

    /// Waits until each of its sources has been asked once.
    pub(super) async fn sources_known(&self) {
        let mut changes = self.changes.subscribe();
        while !self.found.lock().iter().all(|found| found.is_known) {
            if changes.changed().await.is_err() {
                return; // it is gone, and with it the wait
            }
        }
    }
}

/// A task for each name by which a pool finds origins.
pub(super) fn start(pool: &Arc<PoolRuntime>, resolver: &Arc<Resolver>, tasks: &mut JoinSet<()>) {
    for (place, source) in pool.config.sources.iter().enumerate() {
        if !matches!(source.from, SourceKind::File { .. }) {
            tasks.spawn(keep_found(pool.clone(), place, resolver.clone()));
        }
    }
}

async fn keep_found(pool: Arc<PoolRuntime>, place: usize, resolver: Arc<Resolver>) {
    let config = pool.config.clone();
    let source = &config.sources[place];
    let mut failures = 0;
    loop {
        let pause = match find(&resolver, &config.resolvers, source, &pool.found(place)).await {
            Ok((origins, ttl)) => {
                failures = 0;
                pool.set_found(place, Ok(origins));
                again_after(ttl, config.resolve_interval)
            }
            Err(error) => {
                failures += 1;
                pool.set_found(place, Err(error));
                retry_after(failures)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The origins that a name has now, and for how long.
async fn find(
    resolver: &Resolver,
    servers: &Arc<[SocketAddr]>,
    Source { from, like }: &Source,
    known: &[Origin],
) -> Result<(Vec<Origin>, Option<Duration>), String> {
    match from {
        SourceKind::Srv(name) => {
            let answer = resolver.targets(servers, name).await?;
            let mut origins = srv::origins(answer.found, like);
            origins.truncate(MOST_FOUND);
            if origins.is_empty() { Err("it has no targets".to_owned()) } else { Ok((origins, answer.ttl)) }
        }
        SourceKind::Addresses { host, port } => {
            let ip = |origin: &Origin| match origin.endpoint {
                Endpoint::Address(address) => Some(address.ip()),
                _ => None,
            };
            let known: Vec<IpAddr> = known.iter().filter_map(ip).collect();
            let answer = resolver.addresses(servers, host, &known).await?;
            let origin = |ip: IpAddr| {
                let address = SocketAddr::new(ip, *port);
                Origin {
                    address: address.to_string().into(),
                    endpoint: Endpoint::Address(address),
                    found_by: Some(host.clone()),
                    ..like.clone()
                }
            };
            Ok((answer.found.into_iter().take(MOST_FOUND).map(origin).collect(), answer.ttl))
        }
        SourceKind::File { .. } => Ok((known.to_vec(), None)), // looked after by `watch_files`
    }
}

/// A file of origins, and whose it is.
struct Watched {
    pool: Arc<PoolRuntime>,
    /// The place of its source in the pool.
    place: usize,
    path: PathBuf,
    port: u16,
}

/// Looks after all files of a configuration for as long as it is in force.
pub(super) fn watch_files(pools: &PoolSet, tasks: &mut JoinSet<()>) {
    let of = |pool: &Arc<PoolRuntime>| -> Vec<Watched> {
        let file = |(place, source): (usize, &Source)| match &source.from {
            SourceKind::File { path, port } => {
                Some(Watched { pool: pool.clone(), place, path: path.clone(), port: *port })
            }
            _ => None,
        };
        pool.config.sources.iter().enumerate().filter_map(file).collect()
    };
    let files: Vec<Watched> = pools.iter().flat_map(of).collect();
    if !files.is_empty() {
        tasks.spawn(keep_read(files));
    }
}

async fn keep_read(files: Vec<Watched>) {
    let mut watch =
        FileWatch::new().inspect_err(|error| tracing::info!(%error, "files of origins cannot be watched")).ok();
    let mut seen: Vec<Option<u64>> = vec![None; files.len()];
    let paths: Arc<[PathBuf]> = files.iter().map(|file| file.path.clone()).collect();
    loop {
        // The disk may be slow: no worker waits for it.
        let paths = paths.clone();
        let looking = move || {
            if let Some(watch) = &mut watch {
                watch.set_files(paths.iter().map(|path| &**path));
            }
            let states: Vec<u64> = paths.iter().map(|path| stamp(std::slice::from_ref(path))).collect();
            (watch, states)
        };
        let states;
        (watch, states) = match spawn_blocking(looking).await {
            Ok(looked) => looked,
            Err(error) => {
                tracing::error!(%error, "files of origins are not looked at any more; reload the configuration");
                return;
            }
        };
        for ((file, seen), state) in files.iter().zip(&mut seen).zip(states) {
            if seen.replace(state) != Some(state) {
                read(file).await;
            }
        }
        match &mut watch {
            Some(watch) => _ = tokio::time::timeout(POLL, watch.changed()).await, // else they are looked at all the same
            None => tokio::time::sleep(POLL).await,
        }
    }
}

async fn read(file: &Watched) {
    let (path, port) = (file.path.clone(), file.port);
    let loaded = spawn_blocking(move || load_origins(&path, port)).await;
    let found = match loaded {
        Ok(Ok(origins)) => Ok(origins),
        Ok(Err(error @ NotLoaded::Absent)) => Err(format!("{}: {error}", file.path.display())),
        // A file may have anything in it.
        Ok(Err(error)) => Err(error.to_string().chars().take(MOST_QUOTED).collect()),
        Err(error) => Err(error.to_string()),
    };
    file.pool.set_found(file.place, found);
}
