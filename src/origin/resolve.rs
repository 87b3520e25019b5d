//! Host names of origins, resolved in the background and again every `resolve_interval`. A name that does
//! not resolve blocks nothing: its origin keeps the addresses it had, or is not used until it has some.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::config::model::Endpoint;

use super::pool::PoolRuntime;
use super::state::OriginState;

/// How soon a name that did not resolve is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Look-ups at one time: a name server that does not answer must not take all threads that wait for disks, too.
const MAX_AT_ONCE: usize = 32;
/// How long one look-up may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// One task for each origin that is known by name.
pub(crate) fn start(pool: &Arc<PoolRuntime>, tasks: &mut JoinSet<()>) {
    for origin in &pool.origins {
        if let Endpoint::Name { host, port } = &origin.endpoint {
            tasks.spawn(keep_resolved(pool.clone(), origin.clone(), host.clone(), *port));
        }
    }
}

async fn keep_resolved(pool: Arc<PoolRuntime>, origin: Arc<OriginState>, host: String, port: u16) {
    let (name, interval) = (&pool.config.name, pool.config.resolve_interval);
    let mut failing = false;
    // A look-up cannot be broken off. One that takes too long is waited for again, rather than a second one begun.
    let mut running: Option<JoinHandle<io::Result<Vec<SocketAddr>>>> = None;
    loop {
        let lookup = running.take().unwrap_or_else(|| tokio::spawn(look_up(host.clone(), port)));
        let lookup = running.insert(lookup);
        let found = match tokio::time::timeout(DEADLINE, &mut *lookup).await {
            Ok(done) => {
                running = None;
                done.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            Err(_) => Err(io::Error::other("no answer in time")),
        };
        match &found {
            Ok(addresses) if origin.addresses() != *addresses => {
                tracing::info!(pool = %name, origin = %origin.address, ?addresses, "origin resolved");
                origin.set_addresses(addresses);
                pool.changed(&origin, None);
            }
            Err(error) if !failing => {
                tracing::warn!(pool = %name, origin = %origin.address, %error, "cannot resolve the origin's name; trying on");
            }
            _ => {}
        }
        origin.set_looked_up();
        failing = found.is_err();
        tokio::time::sleep(if failing { RETRY.min(interval) } else { interval }).await;
    }
}

/// getaddrinfo on tokio's blocking threads: it honours /etc/hosts and nsswitch, and no worker waits.
async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    static PLACES: Semaphore = Semaphore::const_new(MAX_AT_ONCE);
    let _place = PLACES.acquire().await.map_err(io::Error::other)?;
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() { Err(io::Error::other("no address")) } else { Ok(addresses) }
}
