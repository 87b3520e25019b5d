//! `GET /v1/explain`: what the node does with a URL and why.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::cache::request::CacheRequest;
use crate::clock::Timestamp;
use crate::config::model::{CacheRules, CompressRules, FixedAnswer, Route, Site, TokenRight};
use crate::node::Node;
use crate::origin::pick::Choice;
use crate::plan::{Key, OwnAnswer, PassReason, Plan, Renderer, RequestFacts, Side, keyed_uris, list_that_refuses};
use crate::request::{Fields, RequestView, Scheme, merge_slashes};

use super::auth::Caller;
use super::problem::Problem;
use super::url::Located;

/// Request fields that a call may give.
const MAX_FIELDS: usize = 50;

/// What is asked: the query of the call, read strictly.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    url: String,
    method: Method,
    fields: HeaderMap,
    /// Whether the origin is to be asked.
    fetch: bool,
    /// Whose request it is; `None`: the node's own, which every list admits.
    client: Option<IpAddr>,
}

pub(crate) async fn explain(
    State(node): State<Arc<Node>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    caller.need(TokenRight::Read)?;
    let question = Question::parse(query.as_deref().unwrap_or_default())?;
    if question.fetch {
        caller.need(TokenRight::Operate)?; // it costs the origin a request
    }
    let snapshot = node.snapshot.load_full();
    let located = Located::find(&question.url, &snapshot.config, &caller)?;
    let fields = Fields::Map(&question.fields);
    let authority = located.port.map_or_else(|| located.host.clone(), |port| format!("{}:{port}", located.host));
    let view = RequestView {
        port: located.port,
        authority: &authority,
        listener_name: located.listener(&snapshot.config),
        local_port: located.local_port(&snapshot.config),
        query: located.query.as_deref(),
        client: question.client.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        geoip: Some(&snapshot.config.node.geoip),
        ..RequestView::own(&question.method, located.scheme, &located.host, &located.path, fields)
    };
    let mut answer = json!({ "client": question.client, "country": view.country(), "asn": view.asn(), "url": question.url, "method": question.method.as_str(), "site": located.site.name });
    let now = Timestamp::now();
    answer["conditions"] = json!(conditions(located.site, &view, now));
    let (matched, decision, why) = match snapshot.plan(&view, now) {
        Plan::Refuse { status, why, .. } => {
            answer["decision"] = json!("refuse");
            answer["status"] = json!(status.as_u16());
            answer["why"] = json!(why);
            if let Some((list, route)) = list_that_refuses(located.site, &view, now) {
                answer["refused_by"] = json!({ "list": list, "route": route.map(|number| number + 1) });
            }
            return Ok(Json(answer));
        }
        Plan::Answer { route, answer: own, .. } => {
            answer["decision"] = json!("answer");
            if let Some(route) = route {
                describe_fields(&mut answer, route, &view);
                let number =
                    located.site.routes.iter().position(|other| std::ptr::eq(other, route)).map_or(0, |at| at + 1);
                answer["route"] = json!({ "number": number, "path": route.path.as_str() });
            }
            let renderer = Renderer::new(&view, route, now);
            answer["why"] = json!(match own {
                OwnAnswer::Elsewhere => {
                    format!(
                        "308 to {}, by \"https\" or \"canonical_host\" of the site",
                        renderer.elsewhere(located.site)
                    )
                }
                OwnAnswer::Preflight => "204 by \"cors\" of the route".to_owned(),
                OwnAnswer::Fixed(FixedAnswer::Redirect(redirect)) => {
                    format!("{} to {}", redirect.status.as_u16(), renderer.location(redirect))
                }
                OwnAnswer::Fixed(FixedAnswer::Respond(respond)) => {
                    format!("{} as the route says", respond.status.as_u16())
                }
            });
            return Ok(Json(answer));
        }
        Plan::Purge { .. } => return Err(Problem::bad_request("PURGE is not explained")),
        Plan::Pass(matched, reason) => (matched, "pass", Some(why_passed(reason))),
        Plan::Tunnel(matched) => (matched, "tunnel", None),
        Plan::Cache(matched) => (matched, "cache", None),
    };
    answer["decision"] = json!(decision);
    answer["why"] = json!(why);
    if let Some(bypass) = &matched.route.cache.bypass {
        let path = merge_slashes(view.path);
        let facts = RequestFacts { request: &view, path: &path, now, response: None };
        answer["bypass"] = verdict(bypass.as_str(), bypass.explain(&facts));
    }
    answer["route"] = json!({
        "number": matched.route_index + 1,
        "path": matched.route.path.as_str(),
        "pool": snapshot.config.pool(matched.pool).name,
        // Why it is this one, where the route's pool has a split.
        "split": match matched.side {
            Side::Whole => None,
            Side::Kept => Some("it gives some of its requests to another pool, and not this one"),
            Side::Given(_) => Some("the route's pool gives this request away, by its split"),
        },
    });
    let sticky = snapshot.pools.sticky(matched.pool);
    let origin = sticky.and_then(|sticky| view.fields.find_map(&header::COOKIE, |cookies| sticky.origin_of(cookies)));
    let choice = Choice { hash: snapshot.pools.hash(matched.pool, &view), origin };
    answer["goes_to"] = json!(snapshot.pools.outlook(matched.pool, choice));
    describe_fields(&mut answer, matched.route, &view);
    let mut key = String::new();
    let request = CacheRequest::new(&view, &snapshot, matched, &mut key);
    if let Some(rewrite) = &matched.route.rewrite {
        let target = match decision {
            "cache" => node.engine.target_of_fill(&request),
            _ => Renderer::new(&view, Some(matched.route), now).target(),
        };
        answer["rewritten"] = json!({ "to": target, "host": rewrite.host });
    }
    if let Some(most) = matched.site.max_requests {
        let running = snapshot.sites[matched.site_index].running.count();
        answer["site_requests"] = json!({ "running": running, "max": most });
    }
    let codings = |rules: &Option<CompressRules>| {
        let codings =
            rules.as_ref().map(|rules| rules.codings.iter().map(|coding| coding.as_str()).collect::<Vec<_>>());
        codings.unwrap_or_default()
    };
    let CacheRules { compress, compress_passed, .. } = &matched.route.cache;
    answer["compression"] = json!({ "stored": codings(compress), "passed": codings(compress_passed) });
    if decision != "cache" {
        return Ok(Json(answer));
    }
    describe_cache(&mut answer, &node, &request, snapshot.sites[matched.site_index].version()).await;
    if question.fetch {
        // As a fill would; nothing is stored.
        let tried = node.engine.try_out(&request).await;
        answer["origin"] = json!(tried.map_err(|error| Problem::new(StatusCode::BAD_GATEWAY, error.to_string()))?);
    }
    Ok(Json(answer))
}

/// Why a request goes past the cache: what `Cache-Status` says, and of a route that caches nothing what makes it so.
fn why_passed(reason: PassReason) -> &'static str {
    match reason {
        PassReason::CacheOff => "bypass: its route has no \"cache\", or one with mode = \"off\"",
        reason => reason.cache_status(),
    }
}

/// The names of the fields that a route changes.
fn describe_fields(answer: &mut Value, route: &Route, view: &RequestView<'_>) {
    for (key, changes) in [("request_fields", &route.request), ("response_fields", &route.response)] {
        if let Some(changes) = changes {
            let (dropped, sent) = changes.names(view.scheme == Scheme::Https);
            answer[key] = json!({ "dropped": dropped, "sent": sent });
        }
    }
}

/// Whether a condition is true, and which part of it decided.
fn verdict(when: &str, (is_true, part): (bool, &str)) -> Value {
    json!({ "when": when, "true": is_true, "decided_by": part })
}

/// The conditions of routes for a path, and what decided each, as far as they were looked at.
fn conditions(site: &Site, view: &RequestView<'_>, now: Timestamp) -> Vec<Value> {
    let path = merge_slashes(view.path);
    let facts = RequestFacts { request: view, path: &path, now, response: None };
    let mut found = Vec::new();
    let serves = |route: &Route| route.serves(view.method, &path) && route.has_answer(&path);
    for (place, route) in site.routes.iter().enumerate().filter(|(_, route)| serves(route)) {
        let Some(when) = &route.when else { break };
        let mut verdict = verdict(when.condition.as_str(), when.condition.explain(&facts));
        let is_true = verdict["true"] == true;
        verdict["route"] = json!(place + 1);
        found.push(verdict);
        if is_true {
            break;
        }
    }
    found
}

/// The key, what is stored under it, and which purges would hit that.
async fn describe_cache(answer: &mut Value, node: &Node, request: &CacheRequest<'_>, version: u64) {
    let (view, matched, key) = (request.view, &request.matched, Key::of_written(request.key));
    let now = Timestamp::now();
    let first = node.engine.first_slice(request);
    let of_slice =
        first.as_ref().map(|(slice, key)| CacheRequest { key: key.as_str(), slice: Some(*slice), ..*request });
    let looked_up = of_slice.as_ref().unwrap_or(request);
    answer["slice"] = json!(first.as_ref().map(|(slice, _)| json!({ "bytes": slice.size, "number": slice.number })));
    let (stored, would_say) = node.engine.cache.inspect(looked_up, now).await;
    answer["would_say"] = json!(would_say);
    if let Some((slice, _)) = &first
        && let Some((there, all)) = node.engine.cache.slices_of(slice, &stored)
    {
        answer["slice"]["stored"] = json!(there);
        answer["slice"]["of"] = json!(all);
    }
    let terms = stored.iter().filter_map(|object| object.explanation.terms.as_ref());
    let mut tags: Vec<&String> = terms.flat_map(|terms| &terms.tags).collect();
    tags.sort_unstable();
    tags.dedup();
    let uris = keyed_uris(matched.site.routes_of(view.path), view.host, view.path, view.query);
    let origin = key.origin();
    answer["key"] = json!({
        "site": key.site(), "version": version, "tls": origin.tls, "port": origin.port, "uri": key.uri(),
        "condition": matched.route.when.as_ref().map(|when| when.condition.as_str()),
    });
    answer["not_cacheable_for"] = json!(node.engine.cache.uncacheable_for(request, now).map(|left| left.as_secs()));
    answer["purged_by"] = json!({ "urls": &uris[..], "tags": tags, "site": matched.site.name });
    answer["stored"] = json!(stored);
}

impl Question {
    fn parse(query: &str) -> Result<Self, Problem> {
        let (mut url, mut method, mut fields, mut fetch) = (None, Method::GET, HeaderMap::new(), false);
        let mut client = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "url" => url = Some(value.into_owned()),
                "method" => {
                    method = value.parse().map_err(|_| Problem::bad_request(format!("{value:?} is not a method")))?;
                }
                "header" if fields.len() < MAX_FIELDS => {
                    let (name, value) = field(&value)
                        .ok_or_else(|| Problem::bad_request(format!("{value:?} is not a header such as \"A: b\"")))?;
                    if name == header::HOST {
                        let why = "the host of the request is the URL's: explain http://shop.example.com/a";
                        return Err(Problem::bad_request(why));
                    }
                    fields.append(name, value);
                }
                "header" => return Err(Problem::bad_request(format!("more than {MAX_FIELDS} headers"))),
                "client" => {
                    let parsed = value.parse();
                    client = Some(parsed.map_err(|_| Problem::bad_request(format!("{value:?} is not an address")))?);
                }
                "fetch" => fetch = value.parse().map_err(|_| Problem::bad_request("fetch is true or false"))?,
                other => return Err(Problem::bad_request(format!("unknown parameter {other:?}"))),
            }
        }
        let url = url.ok_or_else(|| Problem::bad_request("give a url: /v1/explain?url=https://shop.example.com/a"))?;
        Ok(Question { url, method, fields, fetch, client })
    }
}

fn field(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_strictly() {
        let parse = |query: &str| Question::parse(query).map_err(|problem| problem.detail);
        let question = parse("url=http%3A%2F%2Fa%2Fb%3Fc%3D1&method=HEAD&header=Accept:+x&header=accept:y&fetch=true");
        let question = question.unwrap();
        assert_eq!((question.url.as_str(), question.method, question.fetch), ("http://a/b?c=1", Method::HEAD, true));
        assert_eq!(question.fields.get_all("accept").iter().collect::<Vec<_>>(), ["x", "y"]);
        for bad in ["", "url=a&what=1", "url=a&method=%20", "url=a&header=x", "url=a&header=a%00:b", "url=a&fetch=1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
