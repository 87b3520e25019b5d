//! What a successful unsafe request makes of the cache: the responses it may have changed are forgotten (RFC 9111
//! section 4.4), and the groups that its answer names (RFC 9875 section 3).

use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use smallvec::SmallVec;

use crate::cache::engine::Engine;
use crate::cache::purge::{CHANGE_PATIENCE, Event, Target as PurgeTarget};
use crate::cache::tags;
use crate::clock::Timestamp;
use crate::config::model::{Invalidate, Route};
use crate::plan::{CacheKey, KeyOrigin, keyed_uris};
use crate::request::{RequestView, Scheme, Target};
use crate::snapshot::Snapshot;

static GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

/// Most keys have no more bytes.
const KEY_LENGTH: usize = 256;

/// A request that may have changed something.
pub(crate) struct Changed<'a> {
    pub engine: &'a Arc<Engine>,
    pub snapshot: &'a Snapshot,
    pub site: usize,
    pub view: &'a RequestView<'a>,
    /// What the request's route says.
    pub what: Invalidate,
}

impl Changed<'_> {
    fn site_name(&self) -> &str {
        &self.snapshot.site(self.site).name
    }

    /// Forgets the target URI, what `Location` and `Content-Location` point to at the same origin, and the groups. `false`:
    /// that is done, but a restart may undo it.
    pub(crate) async fn invalidate(&self, fields: &HeaderMap) -> bool {
        let port = self.snapshot.site(self.site).keyed_port(self.view);
        if self.what == Invalidate::Never {
            return self.forget_groups(fields, port).await;
        }
        let (mut sliced, mut urls, mut number) = (Vec::new(), Vec::new(), 0_u64);
        let mut key = String::with_capacity(KEY_LENGTH);
        let mut forget = |path: &str, query: Option<&str>| {
            let site = self.snapshot.site(self.site);
            let version = self.snapshot.sites[self.site].version();
            let routes: SmallVec<[&Route; 4]> = site.routes_of(path).collect();
            let slices: SmallVec<[u64; 2]> = routes.iter().filter_map(|route| route.cache.slice).collect();
            let conditions = routes.iter().filter_map(|route| route.when.as_ref()).map(|when| Some(&*when.key));
            let conditions: SmallVec<[Option<&str>; 2]> = std::iter::once(None).chain(conditions).collect();
            for uri in keyed_uris(routes.iter().copied(), self.view.host, path, query) {
                for tls in [false, true] {
                    for port in std::iter::once(None).chain(port.map(Some)) {
                        for condition in &conditions {
                            let site = (&*site.name, version);
                            CacheKey::write_of_uri(&mut key, site, *condition, tls, port, &uri);
                            number = number.max(self.engine.invalidate(&key));
                            sliced.extend(slices.iter().map(|size| (CacheKey::from_written(&key), *size)));
                        }
                    }
                }
                if !slices.is_empty() {
                    urls.push(PurgeTarget::Url { site: site.name.to_string(), uri });
                }
            }
        };
        forget(self.view.path, self.view.query);
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let reference = fields.get(name).and_then(|value| value.to_str().ok());
            if let Some(reference) = reference.and_then(|reference| absolute(reference, self.view))
                && let Ok(target) = Target::parse(&reference)
            {
                forget(&target.path, target.query);
            }
        }
        // Of a disk that is not known yet each slice that there may be would have to be noted: a purge is one line.
        let slices_are_kept = match self.engine.cache.disk.is_scanning() {
            true => self.purge(urls).await,
            false => {
                number = number.max(forget_slices(self.engine, sliced).await);
                true
            }
        };
        let groups_are_kept = self.forget_groups(fields, port).await;
        let is_kept = self.engine.cache.disk.kept(number).await;
        if !is_kept {
            let site = self.site_name();
            tracing::error!(%site, "what a request has changed is forgotten, but not for good: a restart may bring it back");
        }
        is_kept && slices_are_kept && groups_are_kept
    }

    /// Forgets the groups that an answer names, likewise.
    async fn forget_groups(&self, fields: &HeaderMap, port: Option<u16>) -> bool {
        let origin = KeyOrigin { tls: self.view.scheme == Scheme::Https, host: self.view.host, port };
        let groups = tags::groups(fields, &GROUP_INVALIDATION, origin);
        if groups.is_empty() {
            return true;
        }
        let site = self.site_name().to_owned();
        let targets = groups.into_iter().map(|tag| PurgeTarget::Tag { site: Some(site.clone()), tag }).collect();
        self.purge(targets).await
    }

    /// Purges, if there is something to purge, likewise.
    async fn purge(&self, targets: Vec<PurgeTarget>) -> bool {
        if targets.is_empty() {
            return true;
        }
        let event = Event::Purge { soft: false, targets };
        let appended = self.engine.cache.purges.append(event, Timestamp::now(), CHANGE_PATIENCE).await;
        if let Err(error) = &appended {
            let site = self.site_name();
            tracing::error!(%site, %error, "what a request has changed is purged, but a restart would undo it");
        }
        appended.is_ok()
    }
}

/// Forgets the slices of what has these keys. There may be many, so no worker does it.
async fn forget_slices(engine: &Arc<Engine>, sliced: Vec<(CacheKey, u64)>) -> u64 {
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
fn absolute(reference: &str, request: &RequestView<'_>) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    if let Some((scheme, rest)) = reference.split_once("://") {
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let same =
            scheme.eq_ignore_ascii_case(request.scheme.as_str()) && rest[..end].eq_ignore_ascii_case(request.authority);
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
