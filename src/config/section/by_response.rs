//! What a route's `cache` makes of the origin's answer: `no_store`, `rules` and `heed`.

use std::time::Duration;

use crate::config::read::{Table, words};
use crate::expression::{Expression, Scope};

use super::condition;

/// What holds for responses of which a condition is true, instead of what the route says.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseRule {
    pub when: Expression,
    /// Instead of what the response states.
    pub ttl: Option<Duration>,
    /// Whether `ttl` is for any status, since the condition names the status.
    pub is_for_any_status: bool,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    pub store_set_cookie: Option<bool>,
}

/// A field by which origins tell their own proxy for how long to store a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heeded {
    /// nginx's.
    XAccelExpires,
    /// Of the Edge Architecture Specification.
    SurrogateControl,
}

words!(Heeded { "X-Accel-Expires" => Heeded::XAccelExpires, "Surrogate-Control" => Heeded::SurrogateControl });

/// Reads `rules = [{ when = 'status == 404', ttl = "10s" }]`.
pub(crate) fn rules(table: &mut Table) -> Vec<ResponseRule> {
    let name = table.name.replace("cache of", "a rule in cache of");
    table.tables("rules", &name).into_iter().filter_map(rule).collect()
}

fn rule(mut table: Table) -> Option<ResponseRule> {
    if !table.has("when") {
        let (place, message) = (table.place, format!("missing key \"when\" in {}", table.name));
        table.errors.error_with_hint(place, message, "add when = 'status == 404'");
    }
    let when = condition::read(&mut table, "when", Scope::Answer);
    let (ttl, stale_while_revalidate) = (table.value("ttl"), table.value("stale_while_revalidate"));
    let (stale_if_error, store_set_cookie) = (table.value("stale_if_error"), table.value("store_set_cookie"));
    table.finish();
    let when = when?;
    let is_for_any_status = when.names("status");
    Some(ResponseRule { when, ttl, is_for_any_status, stale_while_revalidate, stale_if_error, store_set_cookie })
}
