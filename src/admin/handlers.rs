//! Health, status, pools, configuration.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::config::load;
use crate::config::model::{CacheMode, TokenRight};
use crate::config::read::Words;
use crate::config::units::format_duration;
use crate::drain::Stage;
use crate::node::{ConfigSource, Node, Purged};

use super::auth::Caller;
use super::problem::Problem;

/// The process lives.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// The node takes requests.
pub(crate) async fn readyz(State(node): State<Arc<Node>>) -> Result<&'static str, Problem> {
    if *node.stage.borrow() != Stage::Serving {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping"));
    }
    Ok("ok\n")
}

pub(crate) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

pub(crate) async fn unknown() -> Problem {
    Problem::not_found("there is no such resource; see /openapi.json")
}

pub(crate) async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the resource does not take this method; see /openapi.json")
}

pub(crate) async fn status(State(node): State<Arc<Node>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.need(TokenRight::Read)?;
    let snapshot = node.snapshot.load();
    let memory = &node.engine.cache.memory;
    let mut of_memory = json!(memory.usage());
    let of_sites = memory.usage_of_sites().into_iter().filter(|(site, _)| caller.need_site(site).is_ok());
    let of_sites: serde_json::Map<_, _> = of_sites.map(|(site, usage)| (site.to_string(), json!(usage))).collect();
    if !of_sites.is_empty() {
        of_memory["sites"] = of_sites.into();
    }
    let sites = snapshot.config.sites.iter().zip(&snapshot.sites);
    let sites = sites.filter(|(site, _)| caller.need_site(&site.name).is_ok());
    let sites = sites.map(|(site, runtime)| {
        let (running, refused) = (runtime.running.count(), runtime.metrics.requests_refused.get());
        let requests = json!({ "running": running, "max": site.max_requests, "refused": refused });
        let served = runtime.metrics.served();
        json!({ "name": site.name, "version": runtime.version(), "requests": requests, "served": served })
    });
    Ok(Json(json!({
        "node": snapshot.config.node.name,
        "region": snapshot.config.node.region,
        "version": env!("CARGO_PKG_VERSION"),
        "state": if *node.stage.borrow() != Stage::Serving { "stopping" } else { "serving" },
        "started": node.started,
        "uptime_s": Timestamp::now().since(node.started).as_secs(),
        "connections": node.open.count(),
        "config": {
            "generation": snapshot.generation,
            "source": match &node.source {
                ConfigSource::File(path) => path.display().to_string(),
                ConfigSource::Fixed => "command line".to_owned(),
            },
            // Its mistakes have lines of the configuration in them.
            "last_reload": node.last_reload().filter(|_| caller.need_all_sites().is_ok()),
            "needs_restart": node.needs_restart(),
        },
        "cache": {
            "memory": of_memory,
            "disk": node.engine.cache.disk.views(),
            "fills": node.engine.flights.len(),
            "readers": {
                "bytes": node.engine.cache.memory.waiting().held(),
                "ended": node.engine.cache.memory.waiting().ended(),
                "streams_bytes": node.engine.cache.memory.waiting().streams(),
            },
            "fill_buffer": { "bytes": node.engine.flights.buffer.held(), "max_bytes": node.engine.flights.buffer.most() },
        },
        "purges": { "seq": node.engine.cache.purges.current(), "marks": node.engine.cache.purges.marks() },
        "sites": sites.collect::<Vec<Value>>(),
    })))
}

pub(crate) async fn pools(State(node): State<Arc<Node>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.need_everywhere(TokenRight::Read)?;
    let snapshot = node.snapshot.load();
    let pools = snapshot.pools.iter().map(|pool| {
        let members = pool.members();
        let origins = members.iter().map(|member| {
            let (state, configured) = (&member.origin, &member.config);
            let standing = state.standing();
            json!({
                "address": state.address,
                "status": state.status(),
                // Since when, and why if there is more to say.
                "since": standing.since,
                "since_s": Timestamp::now().since(standing.since).as_secs(),
                "reason": standing.reason,
                "ejections": state.ejections.load(Ordering::Relaxed),
                "checks": {
                    "passed": state.passed_checks.load(Ordering::Relaxed),
                    "failed": state.failed_checks.load(Ordering::Relaxed),
                },
                "weight": state.ordered_weight().unwrap_or(configured.weight),
                "priority": configured.priority,
                "region": configured.region,
                "active": state.active(),
                "requests": state.requests.load(Ordering::Relaxed),
                "failures": state.failures.load(Ordering::Relaxed),
                "resolved": state.addresses(),
                // Of these those that take no requests for now.
                "down": state.addresses_down(),
                "last_error": state.last_error(),
            })
        });
        let lineup = pool.lineup();
        let levels = lineup.members.levels.iter().zip(&lineup.levels).map(|(level, standing)| {
            json!({
                "priority": level.priority,
                "region": level.region,
                "health": standing.health,
                "share": standing.share,
                "panic": standing.is_panic,
            })
        });
        json!({
            "name": pool.config.name,
            // Of requests that were sent to a second origin as well.
            "hedge": pool.config.hedge.then(|| {
                let after = pool.hedging.patience().map(|patience| patience.as_secs_f64() * 1000.0);
                let (sent, won) = (&pool.hedging.sent, &pool.hedging.won);
                json!({ "after_ms": after, "sent": sent.load(Ordering::Relaxed), "won": won.load(Ordering::Relaxed) })
            }),
            "split": pool.config.split.as_ref().map(|split| {
                json!({ "to": snapshot.config.pool(split.pool).name, "share": pool.given.share() })
            }),
            // Of the copies of its requests.
            "mirror": pool.config.mirror.as_ref().map(|mirror| {
                let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let done = &pool.mirrored;
                json!({
                    "to": snapshot.config.pool(mirror.pool).name,
                    "answered": count(&done.answered),
                    "failed": count(&done.failed),
                    "left_out": count(&done.left_out),
                })
            }),
            // Where origins are found while it runs.
            "sources": pool.config.sources.iter().zip(pool.source_states()).map(|(source, (origins, error))| {
                json!({ "from": source.to_string(), "origins": origins, "error": error })
            }).collect::<Vec<Value>>(),
            "levels": levels.collect::<Vec<Value>>(),
            "queue": pool.waiting().map(|waiting| json!({ "waiting": waiting, "max": pool.config.queue.max })),
            "balance": pool.config.balance.as_str(),
            "fallback": pool.config.fallback.map(|id| &snapshot.config.pool(id).name),
            "origins": origins.collect::<Vec<Value>>(),
        })
    });
    Ok(Json(json!({ "pools": pools.collect::<Vec<Value>>() })))
}

/// The configuration in force, as the node understood it.
pub(crate) async fn config(State(node): State<Arc<Node>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.need_everywhere(TokenRight::Read)?;
    let snapshot = node.snapshot.load();
    let config = &snapshot.config;
    let sites = config.sites.iter().map(|site| {
        let routes = site.routes.iter().map(|route| {
            json!({
                "path": route.path.as_str(),
                "methods": route.methods.as_ref().map(|methods| {
                    let mut names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
                    names.sort_unstable();
                    names
                }),
                "pool": route.pool().map(|pool| &config.pool(pool).name),
                "when": route.when.as_ref().map(|when| when.condition.as_str()),
                "cache": describe_mode(route.cache.mode),
            })
        });
        json!({ "name": site.name, "version": site.version, "routes": routes.collect::<Vec<Value>>() })
    });
    Ok(Json(json!({
        "generation": snapshot.generation,
        "files": config.files,
        "listen": node.listeners.addresses(),
        "pools": config.pools.iter().map(|pool| &pool.name).collect::<Vec<_>>(),
        "sites": sites.collect::<Vec<Value>>(),
    })))
}

/// As the operator writes it.
fn describe_mode(mode: CacheMode) -> Value {
    match mode {
        CacheMode::Off => json!({ "mode": "off" }),
        CacheMode::Respect { default_ttl: None } => json!({ "mode": "respect" }),
        CacheMode::Respect { default_ttl: Some(ttl) } => {
            json!({ "mode": "respect", "default_ttl": format_duration(ttl) })
        }
        CacheMode::Force { ttl } => json!({ "mode": "force", "ttl": format_duration(ttl) }),
    }
}

/// Checks a configuration given in the body; nothing is changed.
pub(crate) async fn check_config(
    State(node): State<Arc<Node>>,
    caller: Caller,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    // It opens the files that the text names.
    caller.need_everywhere(TokenRight::Operate)?;
    let text = String::from_utf8(body.into()).map_err(|_| Problem::bad_request("the configuration is not UTF-8"))?;
    // As if it were the file in use: what lies beside that file belongs to it.
    let source = node.source.clone();
    let check = move || match source {
        ConfigSource::File(path) => load::check(&path, &text),
        ConfigSource::Fixed => load::parse(FilePath::new("seawall.toml"), &text),
    };
    let checked = tokio::task::spawn_blocking(check).await?;
    let config = checked.map_err(|errors| Problem::configuration(errors.diagnostics))?;
    Ok(Json(json!({ "ok": true, "sites": config.sites.len(), "pools": config.pools.len() })))
}

pub(crate) async fn reload(State(node): State<Arc<Node>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.need_everywhere(TokenRight::Operate)?;
    if matches!(node.source, ConfigSource::Fixed) {
        let detail = "the configuration came from the command line; there is nothing to reload";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    // In a task of its own: a caller that leaves must not leave it half done.
    let reloading = node.clone();
    let report = tokio::spawn(async move { reloading.reload().await }).await?;
    if !report.ok && node.is_stopping() {
        let detail = "the node is stopping: the next one reads the configuration";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    if !report.ok {
        return Err(Problem::configuration(report.errors));
    }
    Ok(Json(json!({
        "generation": report.generation,
        "changed": report.changed,
        "needs_restart": report.needs_restart,
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionRequest {
    version: u64,
}

pub(crate) async fn set_version(
    State(node): State<Arc<Node>>,
    caller: Caller,
    Path(site): Path<String>,
    body: Bytes,
) -> Result<Json<Purged>, Problem> {
    caller.need(TokenRight::Purge)?;
    caller.need_site(&site)?;
    let request: VersionRequest = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("expected {{\"version\": NUMBER}}: {error}")))?;
    let none = || Problem::not_found(format!("there is no site {site:?}"));
    let done = node.set_version(&site, request.version).await?.ok_or_else(none)?;
    tracing::info!(caller = caller.name, site, version = request.version, "version set");
    Ok(Json(done))
}
