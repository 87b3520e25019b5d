//! A request for something that may be cached, as everything here reads it.

use std::sync::Arc;

use http::{Method, header};

use crate::config::model::CacheRules;
use crate::origin::interims::Interims;
use crate::plan::Matched;
use crate::request::RequestView;
use crate::snapshot::Snapshot;

use super::control::ClientDirectives;
use super::slice::Slice;
use super::vary::Presented;

/// A request for something that may be cached.
pub struct CacheRequest<'a> {
    pub view: &'a RequestView<'a>,
    pub snapshot: &'a Arc<Snapshot>,
    pub matched: Matched<'a>,
    /// As [`crate::plan::CacheKey::write`] wrote it.
    pub key: &'a str,
    /// Of what the key is a slice, if it is one.
    pub slice: Option<Slice<&'a str>>,
    pub asks: ClientDirectives,
    /// Who is told of interim responses, if anybody.
    pub interims: Option<&'a Arc<Interims>>,
}

impl<'a> CacheRequest<'a> {
    /// As a client asks for it. `key`: a buffer that is reused.
    pub fn new(
        view: &'a RequestView<'a>,
        snapshot: &'a Arc<Snapshot>,
        matched: Matched<'a>,
        key: &'a mut String,
    ) -> Self {
        matched.write_key(key, snapshot.sites[matched.site_index].version(), view);
        let asks = match matched.route.cache.heeds_clients() {
            true => ClientDirectives::parse(view.fields),
            false => ClientDirectives::default(),
        };
        CacheRequest { view, snapshot, matched, key, slice: None, asks, interims: None }
    }

    /// As stored responses are selected by it.
    pub fn presented(&self) -> Presented<'_> {
        Presented {
            side: self.matched.side,
            pool: Some((&self.snapshot.pools, self.matched.pool)),
            ..Presented::new(self.view, &self.snapshot.config.node)
        }
    }

    pub fn rules(&self) -> &CacheRules {
        &self.matched.route.cache
    }

    /// Whether it wants most of what it asks for, as far as that can be told before the length is known.
    pub fn wants_most(&self) -> bool {
        let is_little = *self.view.method == Method::HEAD || self.view.fields.contains(&header::RANGE);
        self.slice.is_some() || !is_little
    }
}
