//! `GET /metrics`: the counters, and the gauges that are read off the node's parts when asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::config::model::TokenRight;
use crate::node::Node;
use crate::observe::metrics::Metrics;
use crate::origin::OriginStatus;
use crate::snapshot::Snapshot;

use super::auth::Caller;
use super::problem::Problem;

pub(crate) async fn metrics(State(node): State<Arc<Node>>, caller: Caller) -> Result<impl IntoResponse, Problem> {
    caller.need_everywhere(TokenRight::Read)?;
    let metrics = &node.observer.metrics;
    let _one_at_a_time = metrics.scraping.lock();
    let memory = node.engine.cache.memory.usage();
    metrics.cache_bytes.set(memory.bytes as i64);
    metrics.cache_keys.set(memory.keys as i64);
    metrics.fills.set(node.engine.flights.len() as i64);
    metrics.purge_seq.set(node.engine.cache.purges.current().0 as i64);
    metrics.purge_marks.set(node.engine.cache.purges.marks() as i64);
    // Directories and origins come and go with the configuration: their series are made anew.
    metrics.disk.reset();
    metrics.disk_troubles.reset();
    for disk in node.engine.cache.disk.views() {
        for (what, number) in [
            ("in_service", u64::from(disk.reason.is_none())),
            ("bytes", disk.bytes),
            ("max_bytes", disk.max_bytes),
            ("objects", disk.objects),
            ("index_bytes", disk.index_bytes),
            ("waiting_bytes", disk.waiting_bytes),
            ("scan_percent", u64::from(disk.scan.percent)),
            ("hits_total", disk.hits),
            ("written_total", disk.written),
            ("written_bytes_total", disk.written_bytes),
            ("evicted_total", disk.evicted),
        ] {
            metrics.disk.set(what, &disk.path, number);
        }
        for (word, times) in disk.troubles {
            metrics.disk_troubles.with_label_values(&[disk.path.as_str(), word]).inc_by(times);
        }
    }
    metrics.site_memory.reset();
    for (site, usage) in node.engine.cache.memory.usage_of_sites() {
        metrics.site_memory.with_label_values(&[&*site]).set(usage.bytes as i64);
    }
    [&metrics.origin_up, &metrics.origin_active].into_iter().for_each(|family| family.reset());
    [&metrics.origin_requests, &metrics.origin_failures, &metrics.origin_ejections]
        .into_iter()
        .for_each(|family| family.reset());
    let snapshot = node.snapshot.load();
    metrics.connections_max.set(node.open.most(&snapshot.config.limits).into());
    metrics.site_requests.reset();
    metrics.site_max_requests.reset();
    metrics.site_tunnels.reset();
    for (site, runtime) in snapshot.config.sites.iter().zip(&snapshot.sites) {
        metrics.site_requests.with_label_values(&[&*site.name]).set(runtime.running.count().into());
        metrics.site_tunnels.with_label_values(&[&*site.name]).set(runtime.running.tunnels.count().into());
        if let Some(most) = site.max_requests {
            metrics.site_max_requests.with_label_values(&[&*site.name]).set(most.into());
        }
    }
    metrics.certificate_expiry.reset();
    for validity in snapshot.config.certificates.validities() {
        let file = validity.file.display().to_string();
        metrics.certificate_expiry.with_label_values(&[file.as_str()]).set(validity.not_after);
    }
    for pool in snapshot.pools.iter() {
        for origin in pool.members().iter().map(|member| &member.origin) {
            let labels = [&*pool.config.name, &*origin.address];
            metrics.origin_up.with_label_values(&labels).set((origin.status() == OriginStatus::Up).into());
            metrics.origin_active.with_label_values(&labels).set(origin.active().into());
            let (requests, failures) = (&origin.requests, &origin.failures);
            metrics.origin_requests.with_label_values(&labels).inc_by(requests.load(Ordering::Relaxed));
            metrics.origin_failures.with_label_values(&labels).inc_by(failures.load(Ordering::Relaxed));
            let ejections = origin.ejections.load(Ordering::Relaxed);
            metrics.origin_ejections.with_label_values(&labels).inc_by(ejections);
        }
    }
    describe_pools(metrics, &snapshot);
    let mut times = Vec::new();
    for pool in snapshot.pools.iter() {
        let members = pool.members();
        times.extend(
            members.iter().flat_map(|member| member.origin.times.collect(&pool.config.name, &member.config.address)),
        );
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.encode(times)))
}

/// What pools do with their requests beside sending them to an origin each, and where they find origins.
fn describe_pools(metrics: &Metrics, snapshot: &Snapshot) {
    metrics.pool_split_share.reset();
    metrics.pool_source_failing.reset();
    [&metrics.pool_copies, &metrics.pool_hedges].into_iter().for_each(|family| family.reset());
    for pool in snapshot.pools.iter() {
        let (name, config) = (&*pool.config.name, &pool.config);
        if let Some(split) = &config.split {
            let to = &*snapshot.config.pool(split.pool).name;
            metrics.pool_split_share.with_label_values(&[name, to]).set(pool.given.share());
        }
        if let Some(mirror) = &config.mirror {
            let (to, copies) = (&*snapshot.config.pool(mirror.pool).name, &pool.mirrored);
            for (result, count) in
                [("answered", &copies.answered), ("failed", &copies.failed), ("left_out", &copies.left_out)]
            {
                let series = metrics.pool_copies.with_label_values(&[name, to, result]);
                series.inc_by(count.load(Ordering::Relaxed));
            }
        }
        for (result, count) in
            [("sent", &pool.hedging.sent), ("won", &pool.hedging.won)].iter().filter(|_| config.hedge)
        {
            metrics.pool_hedges.with_label_values(&[name, result]).inc_by(count.load(Ordering::Relaxed));
        }
        for (source, (_, error)) in config.sources.iter().zip(pool.source_states()) {
            let series = metrics.pool_source_failing.with_label_values(&[name, &source.to_string()]);
            series.set(error.is_some().into());
        }
    }
}
