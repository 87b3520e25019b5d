//! `/v1/purges`: the purges of late, and what came of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::cache::purge::PurgeSeq;
use crate::config::model::TokenRight;
use crate::node::Node;

use super::auth::Caller;
use super::problem::Problem;

/// Purges in one answer.
const MOST: usize = 100;

pub(crate) async fn list(State(node): State<Arc<Node>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.need_everywhere(TokenRight::Read)?;
    Ok(Json(json!({ "purges": node.engine.cache.purges.history.latest(MOST) })))
}

pub(crate) async fn one(
    State(node): State<Arc<Node>>,
    caller: Caller,
    Path(seq): Path<u64>,
) -> Result<Json<Value>, Problem> {
    caller.need_everywhere(TokenRight::Read)?;
    let none = || Problem::not_found(format!("there is no purge {seq}; only the latest are remembered"));
    Ok(Json(json!(node.engine.cache.purges.history.get(PurgeSeq(seq)).ok_or_else(none)?)))
}
