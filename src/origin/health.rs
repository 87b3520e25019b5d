//! Active health checks: each address of each origin of a pool is asked at the interval; `rise` successes in a row bring it
//! up, `fall` failures take it down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header;
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::RequestHeader;
use tokio::task::JoinSet;

use crate::config::model::{Health, Probe};

use super::connect::Connector;
use super::error::{describe, is_our_own_fault};
use super::h2::target;
use super::link::MAX_HEADS;
use super::pool::PoolRuntime;

/// Counts the probes: each gets a connection group of its own, so that none meets a kept connection, which would hide that
/// the origin takes no more.
static PROBES: AtomicU64 = AtomicU64::new(1);

/// One task for each origin, if the pool has a health check.
pub(crate) fn start(pool: &Arc<PoolRuntime>, connector: &Arc<Connector>, tasks: &mut JoinSet<()>) {
    let Some(health) = &pool.config.health else { return };
    for index in 0..pool.origins.len() {
        tasks.spawn(check_for_ever(pool.clone(), index, health.clone(), connector.clone()));
    }
}

async fn check_for_ever(pool: Arc<PoolRuntime>, index: usize, health: Health, connector: Arc<Connector>) {
    let (name, origin) = (&pool.config.name, &pool.origins[index]);
    let mut ticks = tokio::time::interval(health.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // All at one time: one that does not answer must not keep the others waiting.
        let mut asked = JoinSet::new();
        for address in origin.addresses() {
            let (pool, connector, health) = (pool.clone(), connector.clone(), health.clone());
            asked.spawn(async move {
                let probe = probe(&connector, &pool, index, address, &health);
                let late = || format!("no answer in {}", crate::config::units::format_duration(health.timeout));
                let result = tokio::time::timeout(health.timeout * 2, probe).await;
                (address, result.unwrap_or_else(|_| Err(Failure { why: late(), is_ours: false })))
            });
        }
        while let Some(done) = asked.join_next().await {
            let Ok((address, result)) = done else { continue }; // a panic, which has been reported
            if let Err(Failure { why: error, is_ours: true }) = &result {
                let (pool, origin) = (name, &origin.address);
                tracing::warn!(%pool, %origin, error, "a health check could not be made for want of something here");
                continue;
            }
            let result = result.as_ref().copied().map_err(|failure| failure.why.as_str());
            origin.checked(address, result, health.rise, health.fall);
            origin.note_change(name, result.err());
        }
    }
}

/// Why a probe brought no success.
struct Failure {
    why: String,
    /// It is for want of something here, and says nothing of the origin.
    is_ours: bool,
}

impl From<Box<pingora_core::Error>> for Failure {
    fn from(error: Box<pingora_core::Error>) -> Self {
        Failure { why: describe(&error), is_ours: is_our_own_fault(error.root_cause()) }
    }
}

async fn probe(
    connector: &Connector,
    pool: &PoolRuntime,
    index: usize,
    address: SocketAddr,
    health: &Health,
) -> Result<(), Failure> {
    let mut peer = pool.peer(index, address);
    // Of the session itself: one that is dropped with a future of its own would never be given back.
    peer.options.read_timeout = Some(health.timeout);
    peer.options.write_timeout = Some(health.timeout);
    // However it ends, even in the middle: the connection is not kept.
    peer.group_key = PROBES.fetch_add(1, Ordering::Relaxed);
    let Probe::Http { path, host, expect } = &health.probe else {
        let stream = connector.stream(pool, address, peer).await;
        return stream.map(drop).map_err(Failure::from);
    };
    let mut lease = connector.session(pool, address, peer).await?.closing();
    let host = host.as_deref().or(pool.config.host.as_deref()).unwrap_or(&pool.origins[index].address);
    let Some(session) = lease.get_mut() else { return Ok(()) }; // it is there until the lease ends
    let status = ask(session, path, host).await;
    session.shutdown().await;
    let status = status?;
    if expect.iter().any(|range| (range.first..=range.last).contains(&status)) {
        return Ok(());
    }
    Err(Failure { why: format!("answered {status}"), is_ours: false })
}

/// The status that an origin answers with. It has the deadlines of the session.
async fn ask(session: &mut HttpSession, path: &str, host: &str) -> Result<u16, Failure> {
    let mut request = RequestHeader::build("GET", path.as_bytes(), None)?;
    match session.as_http2() {
        Some(_) => request.set_uri(target("https", host, path)?), // as pingora has it
        None => request.insert_header(header::HOST, host)?,
    }
    for (name, value) in [(header::USER_AGENT, "seawall-health"), (header::ACCEPT, "*/*")] {
        request.insert_header(name, value)?;
    }
    if let HttpSession::H2(session) = session {
        // The head ends the stream: a DATA frame of nothing would say until then that there may be a body.
        session.write_request_header(Box::new(request), true)?;
    } else {
        session.write_request_header(Box::new(request)).await?;
        session.finish_request_body().await?;
    }
    for _ in 0..MAX_HEADS {
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |head| head.status.as_u16());
        if status >= 200 {
            return Ok(status);
        }
    }
    Err(Failure { why: "no final response".to_owned(), is_ours: false })
}
