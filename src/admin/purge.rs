//! `POST /v1/purge`: what is to be purged, read strictly, since a purge that is misunderstood is either an
//! outage or a page that stays.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde::Deserialize;

use crate::cache::purge::Target;
use crate::cache::tags::{MAX_TAG, TagHash};
use crate::config::model::{Config, TokenRight};
use crate::node::{Node, Purged};
use crate::plan::keyed_uris;

use super::auth::Caller;
use super::problem::Problem;
use super::url::Located;

/// URLs or tags in one call.
const MAX_TARGETS: usize = 1000;

/// What a call asks for: exactly one of the kinds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeRequest {
    url: Option<String>,
    urls: Option<Vec<String>>,
    prefix: Option<String>,
    tags: Option<Vec<String>>,
    /// On its own a whole site; with `tags`, where they count.
    site: Option<String>,
    all: Option<bool>,
    soft: bool,
}

pub async fn purge(State(node): State<Arc<Node>>, caller: Caller, body: Bytes) -> Result<Json<Purged>, Problem> {
    caller.need(TokenRight::Purge)?;
    let request: PurgeRequest = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not valid: {error}")))?;
    let soft = request.soft;
    let targets = targets(request, &node.snapshot.load().config, &caller)?;
    let count = targets.len();
    let done = node.purge(targets, soft).await?;
    tracing::info!(caller = caller.name, seq = done.seq.0, targets = count, soft, "purged");
    Ok(Json(done))
}

fn targets(request: PurgeRequest, config: &Config, caller: &Caller) -> Result<Vec<Target>, Problem> {
    const KINDS: &str = "give exactly one of url, urls, prefix, tags, site or all";
    let all = request.all == Some(true);
    match request {
        PurgeRequest { url: Some(url), urls: None, prefix: None, tags: None, site: None, all: None, .. } => {
            url_targets(&url, config, caller)
        }
        PurgeRequest { urls: Some(urls), url: None, prefix: None, tags: None, site: None, all: None, .. } => {
            check_count(urls.len(), "urls")?;
            let targets: Result<Vec<Vec<Target>>, Problem> =
                urls.iter().map(|url| url_targets(url, config, caller)).collect();
            Ok(targets?.concat())
        }
        PurgeRequest { prefix: Some(prefix), url: None, urls: None, tags: None, site: None, all: None, .. } => {
            prefix_targets(&prefix, config, caller)
        }
        PurgeRequest { tags: Some(tags), url: None, urls: None, prefix: None, site, all: None, .. } => {
            tag_targets(&tags, site, config, caller)
        }
        PurgeRequest { site: Some(site), url: None, urls: None, prefix: None, all: None, .. } => {
            check_site(&site, config, caller)?;
            Ok(vec![Target::Site { site }])
        }
        PurgeRequest { url: None, urls: None, prefix: None, tags: None, site: None, .. } if all => {
            caller.need_all_sites()?;
            Ok(vec![Target::All])
        }
        _ => Err(Problem::bad_request(KINDS)),
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
    Err(Problem::not_found(format!("there is no site {site:?}")))
}

fn url_targets(url: &str, config: &Config, caller: &Caller) -> Result<Vec<Target>, Problem> {
    let located = Located::find(url, config, caller)?;
    let Located { site, host, path, query, .. } = &located;
    let target = |uri| Target::Url { site: site.name.to_string(), uri };
    Ok(keyed_uris(site, host, path, query.as_deref()).map(target).collect())
}

fn prefix_targets(prefix: &str, config: &Config, caller: &Caller) -> Result<Vec<Target>, Problem> {
    let Located { site, host, path, query, .. } = Located::find(prefix, config, caller)?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let target = |path: &str| Target::Prefix { site: site.name.to_string(), prefix: format!("{host}{path}{query}") };
    let mut targets = vec![target(&path)];
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

    fn everyone() -> Caller {
        crate::admin::auth::tests::caller(&[TokenRight::Purge], None)
    }

    #[test]
    fn what_calls_mean() {
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
            assert_eq!(read(body, &everyone()), expected, "{body}");
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
