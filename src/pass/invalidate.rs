//! What a successful unsafe request makes of the cache: the responses it may have changed are forgotten (RFC 9111
//! section 4.4), and the groups that its answer names (RFC 9875 section 3).

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use crate::cache::engine::Engine;
use crate::cache::purge::{CHANGE_PATIENCE, Event, Target as PurgeTarget};
use crate::cache::tags;
use crate::clock::Timestamp;
use crate::plan::{CacheKey, KeyOrigin, keyed_uris};
use crate::request::{Scheme, Target};

use super::PassRequest;

static GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// Whether the answer to a request says that something has changed.
pub fn changes(request: &PassRequest, status: StatusCode) -> bool {
    !request.method.is_safe() && (status.is_success() || status.is_redirection())
}

/// Forgets the target URI, what `Location` and `Content-Location` point to at the same origin, and the groups. `false`:
/// that is done, but a restart may undo it.
pub async fn invalidate(engine: &std::sync::Arc<Engine>, request: &PassRequest, fields: &HeaderMap) -> bool {
    let (mut sliced, mut urls, mut number) = (Vec::new(), Vec::new(), 0_u64);
    let mut forget = |path: &str, query: Option<&str>| {
        let site = request.snapshot.site(request.site);
        let version = request.snapshot.sites[request.site].version();
        let route = site.find_route(&Method::GET, path).map(|index| &site.routes[index]);
        let slice = route.and_then(|route| route.cache.slice);
        for uri in keyed_uris(site, &request.host, path, query) {
            let ports: &[Option<u16>] = if request.port.is_some() { &[None, request.port] } else { &[None] };
            for (tls, port) in [false, true].into_iter().flat_map(|tls| ports.iter().map(move |port| (tls, *port))) {
                let key = CacheKey::of_uri(&site.name, version, tls, port, &uri);
                number = number.max(engine.invalidate(&key));
                sliced.extend(slice.map(|size| (key, size)));
            }
            urls.extend(slice.map(|_| PurgeTarget::Url { site: site.name.to_string(), uri }));
        }
    };
    forget(&request.path, request.query.as_deref());
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let reference = fields.get(name).and_then(|value| value.to_str().ok());
        if let Some(reference) = reference.and_then(|reference| absolute(reference, request))
            && let Ok(target) = Target::parse(&reference)
        {
            forget(&target.path, target.query);
        }
    }
    // Of a disk that is not known yet each slice that there may be would have to be noted: a purge is one line.
    let slices_are_kept = match engine.disk.is_scanning() {
        true => purge(engine, request, urls).await,
        false => {
            number = number.max(forget_slices(engine, sliced).await);
            true
        }
    };
    let groups_are_kept = forget_groups(engine, request, fields).await;
    let is_kept = engine.disk.kept(number).await;
    if !is_kept {
        let site = &request.snapshot.site(request.site).name;
        tracing::error!(%site, "what a request has changed is forgotten, but not for good: a restart may bring it back");
    }
    is_kept && slices_are_kept && groups_are_kept
}

/// Forgets the groups that an answer names, likewise.
async fn forget_groups(engine: &std::sync::Arc<Engine>, request: &PassRequest, fields: &HeaderMap) -> bool {
    let origin = KeyOrigin { tls: request.scheme == Scheme::Https, host: &request.host, port: request.port };
    let groups = tags::groups(fields, &GROUP_INVALIDATION, origin);
    let site = request.snapshot.site(request.site).name.to_string();
    let targets = groups.into_iter().map(|tag| PurgeTarget::Tag { site: Some(site.clone()), tag }).collect();
    purge(engine, request, targets).await
}

/// Purges, if there is something to purge, likewise.
async fn purge(engine: &std::sync::Arc<Engine>, request: &PassRequest, targets: Vec<PurgeTarget>) -> bool {
    if targets.is_empty() {
        return true;
    }
    let event = Event::Purge { soft: false, targets };
    let appended = engine.purges.append(event, Timestamp::now(), CHANGE_PATIENCE).await;
    if let Err(error) = &appended {
        let site = &request.snapshot.site(request.site).name;
        tracing::error!(%site, %error, "what a request has changed is purged, but a restart would undo it");
    }
    appended.is_ok()
}

/// Forgets the slices of what has these keys. There may be many, so no worker does it.
async fn forget_slices(engine: &std::sync::Arc<Engine>, sliced: Vec<(CacheKey, u64)>) -> u64 {
    if sliced.is_empty() {
        return 0;
    }
    let engine = engine.clone();
    let forget = move || {
        let numbers = sliced.iter().map(|(key, size)| engine.discard_slices(key.as_str(), *size, None, None));
        numbers.max().unwrap_or(0)
    };
    tokio::task::spawn_blocking(forget).await.unwrap_or_else(|error| {
        tracing::error!(%error, "slices could not be forgotten");
        0
    })
}

/// A URI reference as a target in origin form, if it is of the request's own origin (RFC 3986 section 5).
fn absolute(reference: &str, request: &PassRequest) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    if let Some((scheme, rest)) = reference.split_once("://") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let same = scheme.eq_ignore_ascii_case(request.scheme.as_str())
            && rest[..end].eq_ignore_ascii_case(&request.authority);
        let path = &rest[end..];
        return same.then(|| if path.starts_with('/') { path.to_owned() } else { format!("/{path}") });
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return absolute(&format!("{}://{rest}", request.scheme.as_str()), request);
    }
    match reference {
        "" => None,
        path if path.starts_with('/') => Some(path.to_owned()),
        query if query.starts_with('?') => Some(format!("{}{query}", request.path)),
        relative => {
            let directory = request.path.rfind('/').map_or("/", |at| &request.path[..=at]);
            Some(format!("{directory}{relative}"))
        }
    }
}
