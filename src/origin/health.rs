//! Active health checks: each origin of a pool is asked at its interval; `rise` successes in a row bring it
//! up, `fall` failures take it down.

use std::sync::Arc;

use http::header;
use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::Connector;
use pingora_http::RequestHeader;
use tokio::task::JoinHandle;

use crate::config::model::{Health, Probe};

use super::connect::describe;
use super::pool::PoolRuntime;
use super::state::{HealthChange, OriginState};

/// One task for each origin, if the pool has a health check.
pub fn start(pool: &Arc<PoolRuntime>) -> Vec<JoinHandle<()>> {
    let Some(health) = &pool.config.health else { return Vec::new() };
    (0..pool.origins.len()).map(|index| tokio::spawn(check_for_ever(pool.clone(), index, health.clone()))).collect()
}

/// Takes a result into account and tells of a change.
pub fn note(pool: &str, origin: &OriginState, result: Result<(), String>, health: &Health) {
    let error = result.as_ref().err().cloned();
    match origin.record(result, health.rise, health.fall) {
        Some(HealthChange::Up) => tracing::info!(pool, origin = %origin.address, "origin is up"),
        Some(HealthChange::Down) => {
            tracing::warn!(pool, origin = %origin.address, error = error.as_deref(), "origin is down");
        }
        None => {}
    }
}

async fn check_for_ever(pool: Arc<PoolRuntime>, index: usize, health: Health) {
    let origin = &pool.origins[index];
    let mut ticks = tokio::time::interval(health.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if origin.socket_address().is_none() {
            continue; // not resolved yet: there is nothing to ask
        }
        let result = match tokio::time::timeout(health.timeout, probe(&pool, index, &health.probe)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer in {}", crate::config::units::format_duration(health.timeout))),
        };
        note(&pool.config.name, origin, result, &health);
    }
}

/// A new connection each time: a kept one would hide that the origin takes no more.
async fn probe(pool: &PoolRuntime, index: usize, probe: &Probe) -> Result<(), String> {
    let address = pool.origins[index].socket_address().ok_or("not resolved")?;
    let peer = pool.peer(index, address);
    let Probe::Http { path, host, expect } = probe else {
        let stream = TransportConnector::new(None).new_stream(&peer).await;
        return stream.map(drop).map_err(|error| describe(&error));
    };
    let connector: Connector = Connector::new(None);
    let (mut session, _) = connector.get_http_session(&peer).await.map_err(|error| describe(&error))?;
    let mut request = RequestHeader::build("GET", path.as_bytes(), None).map_err(|error| describe(&error))?;
    let host = host.as_deref().or(pool.config.host.as_deref()).unwrap_or(&pool.origins[index].address);
    for (name, value) in [(header::HOST, host), (header::USER_AGENT, "seawall-health"), (header::ACCEPT, "*/*")] {
        request.insert_header(name, value).map_err(|error| describe(&error))?;
    }
    session.write_request_header(Box::new(request)).await.map_err(|error| describe(&error))?;
    session.finish_request_body().await.map_err(|error| describe(&error))?;
    session.read_response_header().await.map_err(|error| describe(&error))?;
    let status = session.response_header().map_or(0, |head| head.status.as_u16());
    session.shutdown().await;
    if expect.iter().any(|range| (range.first..=range.last).contains(&status)) {
        Ok(())
    } else {
        Err(format!("answered {status}"))
    }
}
