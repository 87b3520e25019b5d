//! `[[site.NAME.route]]`: what becomes of requests for a path.

use std::collections::HashSet;
use std::time::Duration;

use http::Method;

use crate::config::diagnose::At;
use crate::config::pattern::{PathPattern, Pattern};
use crate::config::read::{ByteSize, Table};

use super::cache::{self, CacheMode, CacheRules};
use super::key;
use super::pool::{PoolId, PoolNames};

#[derive(Debug, Clone)]
pub struct Route {
    pub path: PathPattern,
    /// `None`: every method. With GET always HEAD, too (RFC 9110 section 9.3.2).
    pub methods: Option<HashSet<Method>>,
    pub pool: PoolId,
    /// Bytes; `None`: any number.
    pub max_body: Option<u64>,
    /// Instead of the pool's.
    pub stream_timeout: Option<Duration>,
    pub cache: CacheRules,
}

impl Route {
    /// Whether it is for a method and a normalised path with its slashes merged.
    pub fn serves(&self, method: &Method, path: &str) -> bool {
        self.path.matches(path) && self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }
}

pub(crate) fn read(mut table: Table, pools: &PoolNames) -> Option<Route> {
    let errors = table.errors;
    let path = table.require::<String>("path").and_then(|at| errors.accept(at.place, at.value.parse()));
    let pool = table.require("pool").and_then(|name| pools.find(&name, errors));
    let mut methods = HashSet::new();
    for At { value: method, place } in table.list::<String>("methods") {
        match method.parse() {
            Ok(Method::GET) => methods.extend([Method::GET, Method::HEAD]), // HEAD is a GET without its content
            Ok(parsed) if method == method.to_ascii_uppercase() => _ = methods.insert(parsed),
            _ => errors.error(place, format!("{method:?} is not a method such as \"GET\"")),
        }
    }
    let max_body = table.value("max_body").map(|ByteSize(bytes)| bytes);
    let stream_timeout = table.positive("stream_timeout");
    let name = table.name.replace("[[", "cache of [[");
    let cache = match table.table("cache", &name, "cache = { mode = \"respect\" }") {
        Some(cache) => cache::read(cache),
        None => Some(CacheRules::default()),
    };
    let forward = table.list("forward");
    if !forward.is_empty() && cache.as_ref().is_some_and(|cache| cache.mode == CacheMode::Off) {
        let hint = "without a cache all fields go to the origin; remove it, or cache here";
        let message = "\"forward\" has no effect on a route that does not cache";
        errors.error_with_hint(forward[0].place, message, hint);
    }
    let forward: Vec<Pattern> = forward.into_iter().filter_map(|name| key::field(name, errors)).collect();
    table.finish();
    let mut cache = cache?;
    cache.key.headers.extend(forward);
    let methods = (!methods.is_empty()).then_some(methods);
    Some(Route { path: path?, methods, pool: pool?, max_body, stream_timeout, cache })
}
