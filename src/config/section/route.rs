//! `[[site.NAME.route]]`: what becomes of requests for a path.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use sha2::{Digest, Sha256};

use crate::config::diagnose::At;
use crate::config::read::{ByteSize, Table, words};
use crate::expression::{Expression, Scope};
use crate::pattern::{PathPattern, Pattern};
use crate::request::compared;

use super::access::{self, Access};
use super::answer::{self, FixedAnswer};
use super::cache::{self, Beside, CacheMode, CacheRules};
use super::compress;
use super::condition;
use super::cors::{self, Cors};
use super::fields::{self, FieldChanges, Message};
use super::files;
use super::key;
use super::pool::{PoolId, PoolNames};
use super::rewrite::{self, Rewrite};
use super::sets::ANSWERERS;

#[derive(Debug, Clone)]
pub struct Route {
    pub path: PathPattern,
    /// `None`: every method. With GET always HEAD, too (RFC 9110 section 9.3.2).
    pub methods: Option<HashSet<Method>>,
    /// What requests must be like beside that.
    pub when: Option<When>,
    /// Whose requests are admitted, of those that the site admits; `None`: everybody's.
    pub access: Option<Access>,
    /// What its origins are asked for instead.
    pub rewrite: Option<Rewrite>,
    /// What is changed in the fields of requests to origins, with what the site changes.
    pub request: Option<Arc<FieldChanges>>,
    /// The same of answers.
    pub response: Option<Arc<FieldChanges>>,
    pub then: Then,
    /// Bytes; `None`: any number.
    pub max_body: Option<u64>,
    /// Instead of the pool's.
    pub read_timeout: Option<Duration>,
    pub total_timeout: Option<Duration>,
    pub stream_timeout: Option<Duration>,
    pub cache: CacheRules,
    pub invalidate: Invalidate,
}

/// What a site changes in the fields of all its routes.
#[derive(Default)]
pub(crate) struct SiteFields {
    pub request: FieldChanges,
    pub response: FieldChanges,
}

/// What becomes of a route's requests.
#[derive(Debug, Clone)]
pub enum Then {
    /// They go to the origins of a pool, or are answered by what is stored of these.
    Pool(PoolId),
    Answer(FixedAnswer),
}

/// Whether requests by unsafe methods make the cache forget what they may have changed (RFC 9111 section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidate {
    /// Where they succeed.
    Unsafe,
    /// Only the groups that the answer names.
    Never,
}

words!(Invalidate { "unsafe" => Invalidate::Unsafe, "never" => Invalidate::Never });

/// A condition of a route.
#[derive(Debug, Clone)]
pub struct When {
    pub condition: Expression,
    /// Stands for it in keys: what is stored for requests that are so is nothing to those that are not.
    pub key: Box<str>,
}

impl When {
    fn new(condition: Expression) -> Self {
        let hash = Sha256::digest(condition.as_str());
        let key = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        When { condition, key }
    }
}

impl Route {
    /// `None`: it answers by itself.
    pub fn pool(&self) -> Option<PoolId> {
        match self.then {
            Then::Pool(pool) => Some(pool),
            Then::Answer(_) => None,
        }
    }

    /// Who may read its answers, if it says so.
    pub fn cors(&self) -> Option<&Cors> {
        self.response.as_ref()?.cors.as_ref()
    }

    /// Whether it is for a path that it matches, with its slashes merged: a map of redirects may not have it.
    pub fn has_answer(&self, path: &str) -> bool {
        match &self.then {
            Then::Answer(FixedAnswer::Redirect(redirect)) => redirect.to(path).is_some(),
            _ => true,
        }
    }

    /// Whether it takes all requests for the paths and methods that it matches.
    pub fn is_unconditional(&self) -> bool {
        let is_for_all = !matches!(&self.then, Then::Answer(FixedAnswer::Redirect(map)) if !map.is_for_all());
        self.when.is_none() && is_for_all
    }

    /// Whether it takes every request that another would. That it is not said to is no proof.
    pub fn covers(&self, other: &Route) -> bool {
        let takes = |methods: &HashSet<Method>| other.methods.as_ref().is_some_and(|others| others.is_subset(methods));
        self.is_unconditional() && self.methods.as_ref().is_none_or(takes) && self.path.covers(&other.path)
    }

    /// Whether it is for a method and a normalised path with its slashes merged.
    pub fn serves(&self, method: &Method, path: &str) -> bool {
        self.path.matches(path) && self.methods.as_ref().is_none_or(|methods| methods.contains(method))
    }
}

pub(crate) fn read(mut table: Table, pools: &PoolNames, site: &SiteFields) -> Option<Route> {
    let errors = table.errors;
    let path = table.require::<String>("path").and_then(|at| errors.accept(at.place, path(&at.value)));
    let when = condition::read(&mut table, "when", Scope::Request).map(When::new);
    let access = access::read(&mut table);
    let captures = path.as_ref().map_or(0, PathPattern::stars);
    let rewrite = rewrite::read(&mut table, path.as_ref());
    let request = fields::together(fields::read(&mut table, Message::Request, captures), &site.request);
    let mut response = fields::read(&mut table, Message::Response, captures);
    response.say_cors(cors::read(&mut table));
    let at = (&*table.name, table.place);
    fields::check_said(&response, site.response.hsts.is_some(), response.cors.is_some(), at, errors);
    let response = fields::together(response, &site.response);
    let then = read_then(&mut table, path.as_ref(), pools);
    let mut methods = HashSet::new();
    for At { value: method, place } in table.list::<String>("methods") {
        match method.parse() {
            Ok(Method::GET) => methods.extend([Method::GET, Method::HEAD]), // HEAD is a GET without its content
            Ok(parsed) if method == method.to_ascii_uppercase() => _ = methods.insert(parsed),
            _ => errors.error(place, format!("{method:?} is not a method such as \"GET\"")),
        }
    }
    let max_body = table.value("max_body").map(|ByteSize(bytes)| bytes);
    let [read_timeout, total_timeout, stream_timeout] =
        ["read_timeout", "total_timeout", "stream_timeout"].map(|key| table.positive(key));
    let name = table.name.replace("[[", "cache of [[");
    let beside = Beside {
        ignore_client_cache_control: table.value("ignore_client_cache_control"),
        compress_passed: compress::codings(&mut table, "compress_passed"),
        compression: compress::read(&mut table), // by defaults; what it says itself is reported below
    };
    let invalidate = table.value("invalidate").unwrap_or(Invalidate::Unsafe);
    let cache = match table.table("cache", &name, "cache = { mode = \"respect\" }") {
        Some(cache) => cache::read(cache, &beside),
        None => Some(cache::off(&beside)),
    };
    if let Some(cache) = cache.as_ref().filter(|_| table.has_own("ignore_client_cache_control"))
        && !matches!(cache.mode, CacheMode::Respect { .. })
    {
        let message = "\"ignore_client_cache_control\" has no effect on a route without mode = \"respect\"";
        errors.error(table.place_of("ignore_client_cache_control"), message);
    }
    let forward = table.list("forward");
    if !forward.is_empty() && cache.as_ref().is_some_and(|cache| cache.mode == CacheMode::Off) {
        let hint = "without a cache all fields go to the origin; remove it, or cache here";
        let message = "\"forward\" has no effect on a route that does not cache";
        errors.error_with_hint(forward[0].place, message, hint);
    }
    let misplaced: Vec<&str> = OF_CACHE.into_iter().filter(|key| table.has_own(key)).collect();
    for key in misplaced {
        let message = format!("{key:?} in {} belongs in its \"cache\"", table.name);
        errors.error_with_hint(
            table.place_of(key),
            message,
            format!("write cache = {{ mode = \"respect\", {key} = ... }}"),
        );
        table.set_aside(key);
    }
    let forward: Vec<Pattern> = forward.into_iter().filter_map(|name| key::field(name, errors)).collect();
    let (name, place) = (table.name.clone(), table.place);
    table.finish();
    let mut cache = cache?;
    cache.key.headers.extend(forward);
    let methods = (!methods.is_empty()).then_some(methods);
    let (path, then) = (path?, then?);
    rewrite::check_keyed((&name, place), (&path, &cache), rewrite.as_ref(), request.as_deref(), errors);
    Some(Route {
        path,
        methods,
        when,
        access,
        rewrite,
        request,
        response,
        then,
        max_body,
        read_timeout,
        total_timeout,
        stream_timeout,
        cache,
        invalidate,
    })
}

/// Keys of `cache` that are easily taken for a route's own.
const OF_CACHE: [&str; 14] = [
    "bypass",
    "compress",
    "compress_min_size",
    "compress_types",
    "default_ttl",
    "heed",
    "key",
    "mode",
    "negative_ttl",
    "no_store",
    "rules",
    "slice",
    "stale_while_revalidate",
    "ttl",
];

/// Keys that mean nothing without an origin.
const ONLY_WITH_POOL: [&str; 9] = [
    "cache",
    "compress_passed",
    "forward",
    "max_body",
    "read_timeout",
    "request",
    "rewrite",
    "stream_timeout",
    "total_timeout",
];

/// A pattern that requests can match: their paths are normalised first.
fn path(text: &str) -> Result<PathPattern, String> {
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let is_regex = text.starts_with(['~', '^']) || text.ends_with('$') || has(&["(.", "[^", "\\d", "\\.", "|", ".+"]);
    if is_regex {
        return Err(format!(
            "path {text:?} looks like a regular expression: a * stands for any characters, as in \"/old/*\"; by a regular \
             expression: when = 'path.matches(\"...\")'"
        ));
    }
    let pattern = text.parse()?;
    let compared = compared(text).map_err(|why| format!("path {text:?} matches nothing: {why}"))?;
    match compared == text {
        true => Ok(pattern),
        false => Err(format!("path {text:?} matches nothing: paths are compared in another form; write {compared:?}")),
    }
}

/// Reads the one of `pool`, `files`, `redirect` and `respond` that a route has.
fn read_then(table: &mut Table, path: Option<&PathPattern>, pools: &PoolNames) -> Option<Then> {
    let given: Vec<&str> = ANSWERERS.into_iter().filter(|key| table.has(key)).collect();
    if let [first, second, ..] = given[..] {
        table
            .errors
            .error(table.place_of(second), format!("{first:?} and {second:?} in {}: give one of them", table.name));
    }
    let (redirect, respond) = (
        table.table("redirect", &format!("redirect of {}", table.name), "redirect = { to = \"/new/{1}\" }"),
        table.table("respond", &format!("respond of {}", table.name), "respond = { status = 200, body = \"ok\" }"),
    );
    if redirect.is_some() || respond.is_some() {
        for key in ONLY_WITH_POOL.into_iter().filter(|key| table.has_own(key)) {
            let message = format!("{key:?} has no effect on a route that answers by itself");
            table.errors.error(table.place_of(key), message);
        }
    }
    let (has_files, files) = (table.has("files"), files::read(table));
    if has_files {
        let _ = table.get::<String>("pool"); // said to be one too many
        return files.map(|files| Then::Pool(pools.of_files(files)));
    }
    let answer = match (redirect, respond) {
        (Some(redirect), _) => answer::redirect(redirect, path).map(FixedAnswer::Redirect),
        (None, Some(respond)) => answer::respond(respond).map(FixedAnswer::Respond),
        // Of another kind than a table, which has been said.
        (None, None) if given.iter().any(|key| *key != "pool") => None,
        (None, None) => return table.require("pool").and_then(|name| pools.find(&name, table.errors)).map(Then::Pool),
    };
    let _ = table.get::<String>("pool"); // said to be one too many
    answer.map(Then::Answer)
}
