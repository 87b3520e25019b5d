//! What looks after pools while their configuration is in force: health checks, look-ups of names, and the end of kept
//! connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::connect::Connector;
use super::ejection;
use super::health;
use super::pool::{PoolRuntime, PoolSet};
use super::resolve;

/// How often kept connections are looked through.
const TIDY_INTERVAL: Duration = Duration::from_secs(2);

/// The tasks that look after the pools; they end when this is dropped.
pub(crate) struct PoolTasks {
    /// For probes; making it reads the system's authorities from disk.
    connector: Arc<Connector>,
    running: HashMap<Arc<str>, (Arc<PoolRuntime>, JoinSet<()>)>,
}

impl PoolTasks {
    pub(crate) fn new() -> Self {
        PoolTasks { connector: Arc::new(Connector::new()), running: HashMap::new() }
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
        // Requests that still run by an old configuration may hold on to its pools for long.
        before.values().for_each(|(old, _)| old.kept.close());
    }

    fn start(&self, pool: &Arc<PoolRuntime>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        resolve::start(pool, &mut tasks);
        health::start(pool, &self.connector, &mut tasks);
        tasks.spawn(ejection::watch(pool.clone()));
        tasks.spawn(tidy(pool.clone()));
        tasks
    }
}

async fn tidy(pool: Arc<PoolRuntime>) {
    loop {
        tokio::time::sleep(TIDY_INTERVAL).await;
        pool.kept.tidy(pool.config.timeouts.idle);
    }
}
