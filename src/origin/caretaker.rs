//! What looks after pools while their configuration is in force: health checks, look-ups of names, and the end of kept
//! connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::connect::Connector;
use super::discovery;
use super::dns::Resolver;
use super::ejection;
use super::health;
use super::member::Member;
use super::pool::{PoolRuntime, PoolSet};
use super::resolve;

/// How often kept connections are looked through.
const TIDY_INTERVAL: Duration = Duration::from_secs(2);

/// The tasks that look after the pools; they end when this is dropped.
pub(crate) struct PoolTasks {
    /// For probes; making it reads the system's authorities from disk.
    connector: Arc<Connector>,
    resolver: Arc<Resolver>,
    /// Looks after files of origins, of all pools.
    files: JoinSet<()>,
    running: HashMap<Arc<str>, (Arc<PoolRuntime>, JoinSet<()>)>,
}

impl PoolTasks {
    pub(crate) fn new() -> Self {
        PoolTasks {
            connector: Arc::new(Connector::new()),
            resolver: Arc::default(),
            files: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Starts what the pools of a configuration need and ends what they no longer do.
    pub(crate) fn update(&mut self, set: &PoolSet) {
        let mut before = std::mem::take(&mut self.running);
        for pool in set.iter() {
            let name = &pool.config.name;
            let is_same = before.get(name).is_some_and(|(old, _)| Arc::ptr_eq(old, pool));
            let running = if is_same { before.remove(name) } else { None };
            self.running.insert(name.clone(), running.unwrap_or_else(|| (pool.clone(), self.start(pool))));
        }
        self.files = JoinSet::new();
        discovery::watch_files(set, &mut self.files);
        // Requests that still run by an old configuration may hold on to its pools for long.
        before.values().for_each(|(old, _)| old.close_kept());
    }

    fn start(&self, pool: &Arc<PoolRuntime>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        discovery::start(pool, &self.resolver, &mut tasks);
        tasks.spawn(look_after_members(pool.clone(), self.connector.clone(), self.resolver.clone()));
        tasks.spawn(ejection::watch(pool.clone()));
        tasks.spawn(tidy(pool.clone()));
        tasks
    }
}

/// Looks after each origin for as long as it is one of the pool.
async fn look_after_members(pool: Arc<PoolRuntime>, connector: Arc<Connector>, resolver: Arc<Resolver>) {
    let mut changes = pool.changes();
    let mut tended: HashMap<usize, (Arc<Member>, JoinSet<()>)> = HashMap::new(); // by where they are

    loop {
        changes.mark_unchanged();
        let members = pool.members();
        let mut before = std::mem::take(&mut tended);
        for member in members.iter() {
            let place = Arc::as_ptr(member).addr();
            let tended_to = before.remove(&place).unwrap_or_else(|| {
                let mut tasks = JoinSet::new();
                resolve::start(&pool, member, &resolver, &mut tasks);
                health::start(&pool, member, &connector, &mut tasks);
                (member.clone(), tasks)
            });
            tended.insert(place, tended_to);
        }
        drop(before);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn tidy(pool: Arc<PoolRuntime>) {
    loop {
        tokio::time::sleep(TIDY_INTERVAL).await;
        for member in pool.members().iter() {
            member.kept.tidy(pool.config.timeouts.idle);
            member.kept.keep_only(&member.origin.addresses()); // exchanges with what has gone have ended meanwhile
        }
    }
}
