//! Active health checks: each address of each origin of a pool is asked at the interval; `rise` successes in a row bring it
//! up, `fall` failures take it down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::config::model::{Health, Probe};

use super::address::Place;
use super::announce;
use super::connect::Connector;
use super::member::Member;
use super::pool::PoolRuntime;
use super::probe::{self, Failure};
use super::state::OriginStatus;
use super::target;

/// Counts the probes: each gets a connection group of its own, so that none meets a kept connection, which would hide that
/// the origin takes no more.
static PROBES: AtomicU64 = AtomicU64::new(1);

/// A task for an origin, if its pool has a health check.
pub(crate) fn start(
    pool: &Arc<PoolRuntime>,
    member: &Arc<Member>,
    connector: &Arc<Connector>,
    tasks: &mut JoinSet<()>,
) {
    if let Some(health) = &pool.config.health {
        tasks.spawn(check_for_ever(pool.clone(), member.clone(), health.clone(), connector.clone()));
    }
}

async fn check_for_ever(pool: Arc<PoolRuntime>, member: Arc<Member>, health: Health, connector: Arc<Connector>) {
    let origin = &member.origin;
    loop {
        // Whoever drains an origin may be about to stop it.
        if origin.status() != OriginStatus::Draining {
            check(&pool, &member, &health, &connector).await;
        }
        // A tenth more or less: many nodes, and many origins of one, are not to be asked at one time.
        let interval = if origin.is_undecided() { health.failing_interval } else { health.interval };
        tokio::time::sleep(interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Asks all addresses of an origin at one time: one that does not answer must not keep the others waiting.
async fn check(pool: &Arc<PoolRuntime>, member: &Arc<Member>, health: &Health, connector: &Arc<Connector>) {
    let (name, origin) = (&pool.config.name, &member.origin);
    let mut asked = JoinSet::new();
    for place in origin.addresses() {
        let (pool, member, connector, health) = (pool.clone(), member.clone(), connector.clone(), health.clone());
        asked.spawn(async move {
            let probe = probe_at(&connector, &pool, &member, &place, &health);
            let late = || format!("no answer in {}", crate::config::units::format_duration(health.timeout));
            let result = tokio::time::timeout(health.timeout * 2, probe).await;
            (place, result.unwrap_or_else(|_| Err(Failure { why: late(), is_ours: false })))
        });
    }
    while let Some(done) = asked.join_next().await {
        let Ok((place, result)) = done else { continue }; // a panic, which has been reported
        if let Err(Failure { why: error, is_ours: true }) = &result {
            let (pool, origin) = (name, &origin.address);
            tracing::warn!(%pool, %origin, error, "a health check could not be made for want of something here");
            continue;
        }
        let result = result.as_ref().copied().map_err(|failure| failure.why.as_str());
        origin.checked(&place, result, health.rise, health.fall);
        pool.changed(origin, result.err());
    }
}

async fn probe_at(
    connector: &Connector,
    pool: &PoolRuntime,
    member: &Member,
    place: &Place,
    health: &Health,
) -> Result<(), Failure> {
    let place = &match place {
        Place::Inet(address) => Place::Inet(SocketAddr::new(address.ip(), health.port.unwrap_or(address.port()))),
        Place::Unix(_) => place.clone(),
    };
    let mut peer = member.peer(place);
    // Of the session itself: one that is dropped with a future of its own would never be given back.
    peer.options.read_timeout = Some(health.timeout);
    peer.options.write_timeout = Some(health.timeout);
    // However it ends, even in the middle: the connection is not kept.
    peer.group_key = PROBES.fetch_add(1, Ordering::Relaxed);
    if let Some(version) = pool.config.send_proxy {
        let header =
            announce::header(version, None).map_err(|error| Failure { why: error.to_string(), is_ours: true })?;
        target::announce(&mut peer, header);
    }
    if health.probe == Probe::Tcp {
        let stream = connector.stream(pool, place, peer).await;
        return stream.map(drop).map_err(Failure::from);
    }
    if matches!(health.probe, Probe::Grpc { .. }) {
        peer.options.set_http_version(2, 2);
    }
    let mut lease = connector.session(pool, place, peer).await?.closing();
    let Some(session) = lease.get_mut() else { return Ok(()) }; // it is there until the lease ends
    let host = health.host.as_deref().or(pool.config.host.as_deref()).unwrap_or(member.host());
    let result = match &health.probe {
        Probe::Tcp => Ok(()),
        Probe::Http { path, expect, body } => probe::http(session, path, host, expect, body.as_deref()).await,
        Probe::Grpc { service } => probe::grpc(session, host, service).await,
    };
    session.shutdown().await;
    result
}
