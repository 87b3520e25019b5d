//! What operators order of origins and pools: drains, weights, and shares of splits.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::config::model::TokenRight;
use crate::node::Node;
use crate::origin::orders::{Order, Orders};
use crate::origin::split;

use super::auth::Caller;
use super::problem::{Problem, read_body};

/// Takes an origin out of service, or back in.
pub(crate) async fn set_draining<const DRAIN: bool>(
    node: State<Arc<Node>>,
    caller: Caller,
    path: Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    order_origin(node, caller, path, |order| order.draining = DRAIN).await
}

/// Without one the configured weight counts again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightRequest {
    #[serde(deserialize_with = "Option::deserialize")] // null ends it; that it is left out is a mistake
    weight: Option<u16>,
}

pub(crate) async fn set_weight(
    node: State<Arc<Node>>,
    caller: Caller,
    path: Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let WeightRequest { weight } = read_body(&body)?;
    if let Some(wrong) = weight.filter(|weight| !(1..=1000).contains(weight)) {
        return Err(Problem::bad_request(format!(
            "expected {{\"weight\": NUMBER}} from 1 to 1000, or null; found {wrong}"
        )));
    }
    order_origin(node, caller, path, move |order| order.weight = weight).await
}

/// Without one the configured share counts again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShareRequest {
    #[serde(deserialize_with = "Option::deserialize")]
    share: Option<f64>,
}

/// Has a pool give another share of its requests to the pool of its `split`.
pub(crate) async fn set_share(
    State(node): State<Arc<Node>>,
    caller: Caller,
    Path(pool): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    caller.need_everywhere(TokenRight::Operate)?;
    let ShareRequest { share } = read_body(&body)?;
    if let Some(wrong) = share.filter(|share| !(0.0..=1.0).contains(share)) {
        return Err(Problem::bad_request(format!(
            "expected {{\"share\": NUMBER}} from 0 to 1, or null; found {wrong}"
        )));
    }
    let snapshot = node.snapshot.load_full();
    let found = snapshot.pools.by_name(&pool);
    let found = found.ok_or_else(|| Problem::not_found(format!("there is no pool {pool:?}")))?;
    let Some(configured) = &found.config.split else {
        return Err(Problem::not_found(format!(
            "pool {pool:?} has no split; add split = {{ pool = \"NAME\", share = 0.05 }} to it"
        )));
    };
    let to = &snapshot.config.pool(configured.pool).name;
    let orders = snapshot.pools.orders.clone();
    orders.change(&pool, split::ORDER, |order| order.share = share, |order| found.given.order(configured, order));
    let durable = write(&orders, &pool, split::ORDER).await;
    let share = found.given.share();
    tracing::info!(caller = caller.name, pool, %to, share, durable, "the share of a split was ordered");
    Ok(Json(json!({ "pool": pool, "to": to, "share": share, "durable": durable })))
}

/// How long an order waits until it is written.
const ORDER_PATIENCE: Duration = Duration::from_secs(10);

/// Has an origin do something from now on, also after a restart.
async fn order_origin(
    State(node): State<Arc<Node>>,
    caller: Caller,
    Path((pool, origin)): Path<(String, String)>,
    change: impl FnOnce(&mut Order),
) -> Result<Json<Value>, Problem> {
    caller.need_everywhere(TokenRight::Operate)?;
    let snapshot = node.snapshot.load_full();
    let found = snapshot.pools.by_name(&pool);
    let found = found.ok_or_else(|| Problem::not_found(format!("there is no pool {pool:?}")))?;
    let members = found.members();
    let state = members.find(&origin).map(|member| &member.origin);
    let state = state.ok_or_else(|| Problem::not_found(format!("pool {pool:?} has no origin {origin:?}")))?;
    let orders = snapshot.pools.orders.clone();
    let order = orders.change(&pool, &origin, change, |order| found.order(state, order, &caller.name));
    let durable = write(&orders, &pool, &origin).await;
    tracing::info!(caller = caller.name, pool, origin, ?order, durable, "an origin was given an order");
    Ok(Json(json!({
        "pool": pool,
        "origin": origin,
        "status": state.status(),
        "active": state.active(),
        "weight": order.weight,
        "durable": durable,
    })))
}

/// Has all orders written. Whether they are.
async fn write(orders: &Arc<Orders>, pool: &str, of: &str) -> bool {
    let orders = orders.clone();
    let writing = tokio::time::timeout(ORDER_PATIENCE, spawn_blocking(move || orders.write()));
    let why = match writing.await {
        Ok(Ok(Ok(durable))) => return durable,
        Ok(Ok(Err(error))) => error.to_string(),
        _ => format!("not within {} s", ORDER_PATIENCE.as_secs()),
    };
    tracing::error!(why, pool, of, "what was ordered is in force, but not written: a restart forgets it");
    false
}
