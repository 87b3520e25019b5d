//! `POST /v1/purge`: what is to be purged, read strictly, since a purge that is misunderstood is either an
//! outage or a page that stays. `GET /v1/purges`: the purges of late, and what came of them.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::cache::object::Object;
use crate::cache::purge::{PurgeSeq, Target};
use crate::cache::tags::{MAX_TAG, TagHash};
use crate::config::model::{Config, TokenRight};
use crate::node::Node;
use crate::plan::{KeyOrigin, keyed_uris};
use crate::request::Scheme;
use crate::spelling::did_you_mean;
use crate::warm::Wanted;

use super::auth::Caller;
use super::problem::{Problem, read_body};
use super::url::Located;

/// URLs or tags in one call.
const MAX_TARGETS: usize = 1000;
/// Bytes of URLs in one call: they are kept until nothing is stored any more that is older.
const MAX_BYTES: usize = 1 << 20;
/// Purges in one answer.
const MOST: usize = 100;

/// What a call asks for: exactly one of the kinds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PurgeRequest {
    url: Option<String>,
    urls: Option<Vec<String>>,
    prefix: Option<String>,
    tags: Option<Vec<String>>,
    /// On its own a whole site; with `tags`, where they count.
    site: Option<String>,
    all: Option<bool>,
    soft: bool,
    /// Only count what it would hit.
    dry_run: bool,
    /// How many of what it hits are to be fetched anew, the most requested first.
    refetch: usize,
}

/// What is fetched anew at one time after a purge.
const REFETCH_AT_ONCE: usize = 8;
/// And at most.
const MAX_REFETCH: usize = 10_000;

pub(crate) async fn purge(State(node): State<Arc<Node>>, caller: Caller, body: Bytes) -> Result<Json<Value>, Problem> {
    caller.need(TokenRight::Purge)?;
    let request: PurgeRequest = read_body(&body)?;
    let (soft, dry_run, refetch) = (request.soft, request.dry_run, request.refetch);
    if refetch > MAX_REFETCH {
        return Err(Problem::bad_request(format!("refetch may be at most {MAX_REFETCH}")));
    }
    if refetch > 0 {
        caller.need(TokenRight::Operate)?; // it costs the origins requests
    }
    let names = request.tag_names();
    let targets = targets(request, &node.snapshot.load().config, &caller)?;
    if dry_run {
        return try_out(&node, targets).await;
    }
    let count = targets.len();
    // Before the purge: what it hits may be swept away right after.
    let wanted = if refetch > 0 { most_used(&node, targets.clone(), refetch).await? } else { Vec::new() };
    let done = node.purge(targets, soft).await?;
    if let Some(names) = names {
        node.engine.cache.purges.history.name(done.seq, names);
    }
    tracing::info!(caller = caller.name, seq = done.seq.0, targets = count, soft, "purged");
    let mut answer = json!(done);
    if !wanted.is_empty() {
        let sites = caller.sites().map(<[String]>::to_vec);
        // The purge is done, whether there is a place for this or not.
        answer["refetch"] = match node.warm_ups.start(&node.engine, &node.snapshot, wanted, REFETCH_AT_ONCE, sites) {
            Ok(job) => json!(format!("/v1/warm/{}", job.id)),
            Err(error) => json!({ "not_done": error.to_string() }),
        };
    }
    Ok(Json(answer))
}

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

/// What a purge would hit.
async fn try_out(node: &Node, targets: Vec<Target>) -> Result<Json<Value>, Problem> {
    let engine = node.engine.clone();
    let counted = spawn_blocking(move || engine.cache.would_hit(&targets)).await?;
    let busy = "another purge is being tried out: one at a time, for the disks have other things to do";
    let ((objects, bytes), disk) = counted.ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, busy))?;
    let mut answer = json!({
        "dry_run": true,
        "memory": { "objects": objects, "bytes": bytes },
        "disk": { "objects": disk.objects, "bytes": disk.bytes },
    });
    if !disk.unknown.is_empty() {
        answer["disk"]["not_counted"] = json!(disk.unknown);
    }
    Ok(Json(answer))
}

/// The URLs of what a purge hits, as it is asked for.
async fn most_used(node: &Node, targets: Vec<Target>, most: usize) -> Result<Vec<Wanted>, Problem> {
    let engine = node.engine.clone();
    let objects = spawn_blocking(move || engine.cache.most_used(&targets, most)).await?;
    let wanted = |object: &Arc<Object>| {
        let KeyOrigin { tls, host, port } = object.key().origin();
        let whole = object.key().path_and_query();
        let (path, query) = whole.split_once('?').map_or((whole, None), |(path, query)| (path, Some(query.to_owned())));
        let scheme = if tls { Scheme::Https } else { Scheme::Http };
        let fields = object.variant.request_fields();
        // A port in a key is one that counted.
        Wanted { scheme, host: host.to_owned(), port, local_port: port, path: path.to_owned(), query, fields }
    };
    let mut seen = HashSet::new();
    // Slices of one thing are one URL.
    let is_new = |wanted: &Wanted| seen.insert(format!("{wanted:?}"));
    Ok(objects.iter().map(wanted).filter(is_new).collect())
}

impl PurgeRequest {
    /// The tags, which the log only keeps the hashes of.
    fn tag_names(&self) -> Option<Vec<String>> {
        let site = self.site.as_ref().map(|site| format!(" of site {site}")).unwrap_or_default();
        Some(self.tags.as_ref()?.iter().map(|tag| format!("tag {tag}{site}")).collect())
    }
}

fn targets(request: PurgeRequest, config: &Config, caller: &Caller) -> Result<Vec<Target>, Problem> {
    let PurgeRequest { url, urls, prefix, tags, site, all, .. } = request;
    match (url, urls, prefix, tags, site, all) {
        (Some(url), None, None, None, None, None) => url_targets(&url, config, caller),
        (None, Some(urls), None, None, None, None) => {
            check_count(urls.len(), "urls")?;
            let bytes: usize = urls.iter().map(String::len).sum();
            if bytes > MAX_BYTES {
                return Err(Problem::bad_request(format!(
                    "{bytes} bytes of urls in one call; at most {MAX_BYTES} are taken"
                )));
            }
            Ok(Problem::of_each(&urls, |url| url_targets(url, config, caller))?.concat())
        }
        (None, None, Some(prefix), None, None, None) => prefix_targets(&prefix, config, caller),
        (None, None, None, Some(tags), site, None) => tag_targets(&tags, site, config, caller),
        (None, None, None, None, Some(site), None) => {
            check_site(&site, config, caller)?;
            Ok(vec![Target::Site { site }])
        }
        (None, None, None, None, None, Some(true)) => {
            caller.need_all_sites()?;
            Ok(vec![Target::All])
        }
        _ => Err(Problem::bad_request("give exactly one of url, urls, prefix, tags, site or all")),
    }
}

fn tag_targets(
    tags: &[String],
    site: Option<String>,
    config: &Config,
    caller: &Caller,
) -> Result<Vec<Target>, Problem> {
    check_count(tags.len(), "tags")?;
    if let Some(tag) = tags.iter().find(|tag| tag.trim().is_empty() || tag.len() > MAX_TAG) {
        return Err(Problem::bad_request(format!("tag {tag:?} is empty or longer than {MAX_TAG} bytes")));
    }
    // A token for some sites purges a tag there, not everywhere.
    let sites: Vec<Option<String>> = match (site, caller.sites()) {
        (Some(site), _) => {
            check_site(&site, config, caller)?;
            vec![Some(site)]
        }
        (None, Some(sites)) => sites.iter().cloned().map(Some).collect(),
        (None, None) => vec![None],
    };
    let target = |site: &Option<String>, tag: &String| Target::Tag { site: site.clone(), tag: TagHash::of(tag.trim()) };
    Ok(sites.iter().flat_map(|site| tags.iter().map(move |tag| target(site, tag))).collect())
}

fn check_count(count: usize, what: &str) -> Result<(), Problem> {
    match count {
        0 => Err(Problem::bad_request(format!("{what} is empty"))),
        1..=MAX_TARGETS => Ok(()),
        _ => Err(Problem::bad_request(format!("{count} {what} in one call; at most {MAX_TARGETS} are taken"))),
    }
}

fn check_site(site: &str, config: &Config, caller: &Caller) -> Result<(), Problem> {
    caller.need_site(site)?;
    if config.sites.iter().any(|known| *known.name == *site) {
        return Ok(());
    }
    let meant = did_you_mean(site, config.sites.iter().map(|known| &*known.name));
    let meant = meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default();
    Err(Problem::not_found(format!("there is no site {site:?}{meant}")))
}

/// Other caches take a star for "all below". Here it would be a purge that hits nothing and says that it is in force.
fn check_star(url: &str) -> Result<(), Problem> {
    let Some(below) = url.strip_suffix('*') else { return Ok(()) };
    let hint = format!("for all below, purge the prefix {below}");
    Err(Problem::bad_request(format!("{url:?} ends in a star, which stands for nothing but itself: {hint}")))
}

fn url_targets(url: &str, config: &Config, caller: &Caller) -> Result<Vec<Target>, Problem> {
    check_star(url)?;
    let located = Located::find(url, config, caller)?;
    let Located { site, host, path, query, .. } = &located;
    let target = |uri| Target::Url { site: site.name.to_string(), uri };
    Ok(keyed_uris(site.routes_of(path), host, path, query.as_deref()).into_iter().map(target).collect())
}

fn prefix_targets(prefix: &str, config: &Config, caller: &Caller) -> Result<Vec<Target>, Problem> {
    check_star(prefix)?;
    let Located { site, host, path, query, .. } = Located::find(prefix, config, caller)?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let target = |path: &str| Target::Prefix { site: site.name.to_string(), prefix: format!("{host}{path}{query}") };
    let mut targets = vec![target(&path)];
    // Where keys have another query than URLs, all that have the path are hit: more than was asked for, and never less.
    if !query.is_empty() && site.routes_of(&path).any(|route| route.cache.key.changes_queries()) {
        let uri = format!("{host}{path}");
        targets.push(Target::Prefix { site: site.name.to_string(), prefix: format!("{uri}?") });
        targets.push(Target::Url { site: site.name.to_string(), uri });
    }
    // What lies under a prefix may be of routes that key paths in lower case.
    let lower = path.to_ascii_lowercase();
    if lower != path && site.routes.iter().any(|route| route.cache.key.ignore_path_case) {
        targets.push(target(&lower));
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::config;

    const SITES: &str = r#"
        [admin]
        address = "127.0.0.1:0"
        [pool.app]
        origins = ["127.0.0.1:1"]
        [site.shop]
        hosts = ["shop.example", "*.shop.example"]
        route = [{ path = "/*", pool = "app" }]
        [site.blog]
        hosts = ["blog.example"]
        route = [{ path = "/*", pool = "app" }]
    "#;

    fn read(body: &str, caller: &Caller) -> Result<Vec<Target>, u16> {
        let request: PurgeRequest = serde_json::from_str(body).map_err(|_| 400_u16)?;
        targets(request, &config(SITES), caller)
            .map_err(|problem| serde_json::to_value(&problem).unwrap()["status"].as_u64().unwrap() as u16)
    }

    #[test]
    fn what_calls_mean() {
        let everyone = crate::admin::auth::tests::caller(&[TokenRight::Purge], None);
        let url = |site: &str, uri: &str| Target::Url { site: site.into(), uri: uri.into() };
        let tag = |site: Option<&str>, tag: &str| Target::Tag { site: site.map(str::to_owned), tag: TagHash::of(tag) };
        for (body, expected) in [
            (r#"{"url": "https://shop.example:8443/a/../b?q=1"}"#, Ok(vec![url("shop", "shop.example/b?q=1")])),
            (r#"{"url": "SHOP.example/b", "soft": true}"#, Ok(vec![url("shop", "shop.example/b")])),
            (
                r#"{"urls": ["http://a.shop.example/", "http://blog.example"]}"#,
                Ok(vec![url("shop", "a.shop.example/"), url("blog", "blog.example/")]),
            ),
            (
                r#"{"prefix": "http://shop.example/static/"}"#,
                Ok(vec![Target::Prefix { site: "shop".into(), prefix: "shop.example/static/".into() }]),
            ),
            (r#"{"tags": ["a", "b"]}"#, Ok(vec![tag(None, "a"), tag(None, "b")])),
            (r#"{"tags": ["a"], "site": "shop"}"#, Ok(vec![tag(Some("shop"), "a")])),
            (r#"{"site": "shop"}"#, Ok(vec![Target::Site { site: "shop".into() }])),
            (r#"{"all": true}"#, Ok(vec![Target::All])),
            (r#"{"all": false}"#, Err(400)),
            (r#"{}"#, Err(400)),
            (r#"[]"#, Err(400)),
            (r#"{"url": "/a"}"#, Err(400)),
            (r#"{"url": "notaurl"}"#, Err(400)),
            (r#"{"url": "http://shop.example/a b"}"#, Err(400)),
            (r#"{"url": "http://other.example/"}"#, Err(404)),
            (r#"{"urls": []}"#, Err(400)),
            (r#"{"tags": [""]}"#, Err(400)),
            (r#"{"site": "nope"}"#, Err(404)),
            (r#"{"all": true, "site": "shop"}"#, Err(400)),
            (r#"{"all": true, "tags": ["a"]}"#, Err(400)),
            (r#"{"url": "http://shop.example/", "prefix": "http://shop.example/"}"#, Err(400)),
            (r#"{"al": true}"#, Err(400)),
        ] {
            assert_eq!(read(body, &everyone), expected, "{body}");
        }
    }

    #[test]
    fn a_token_for_some_sites_purges_there_only() {
        let caller = crate::admin::auth::tests::caller(&[TokenRight::Purge], Some(&["shop"]));
        for (body, allowed) in [
            (r#"{"url": "http://shop.example/"}"#, true),
            (r#"{"url": "http://blog.example/"}"#, false),
            (r#"{"site": "blog"}"#, false),
            (r#"{"all": true}"#, false),
            (r#"{"tags": ["a"], "site": "blog"}"#, false),
        ] {
            assert_eq!(read(body, &caller).is_ok(), allowed, "{body}");
        }
        let everywhere = read(r#"{"tags": ["a"]}"#, &caller).unwrap();
        assert_eq!(everywhere, [Target::Tag { site: Some("shop".into()), tag: TagHash::of("a") }]);
    }
}
