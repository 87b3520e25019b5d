//! `split` and `mirror` of a pool: some of its requests go to another one, or there as well.

use crate::config::diagnose::At;
use crate::config::read::{ByteSize, FromToml, Table, Value};

use super::hash_key::HashKey;
use super::health::Share;

/// Bytes that all copies of a pool may take.
const MOST_COPIED: u64 = 256 << 20;

/// Some of the requests go to another pool instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split<P> {
    pub pool: P,
    pub share: Share,
    pub by: SplitBy,
}

/// Which ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SplitBy {
    /// Any.
    Request,
    /// Those that have the same of this go the same way.
    Key(HashKey),
}

/// Some of the requests go to another pool as well; what that answers is nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror<P> {
    pub pool: P,
    pub share: Share,
    /// Requests with longer bodies are not mirrored, bytes.
    pub max_body: usize,
    /// That many are under way at most; others are left out.
    pub max_requests: u32,
}

impl FromToml for SplitBy {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        match value.str() {
            Some("request") => Ok(SplitBy::Request),
            _ => HashKey::from_toml(value).map(SplitBy::Key).map_err(|_| {
                "expected \"request\", \"client\", \"url\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\""
                    .to_owned()
            }),
        }
    }
}

impl<P> Split<P> {
    /// The same to what its pool is called otherwise.
    pub(super) fn to<Q>(self, other: impl FnOnce(&P) -> Option<Q>) -> Option<Split<Q>> {
        Some(Split { pool: other(&self.pool)?, share: self.share, by: self.by })
    }
}

impl<P> Mirror<P> {
    /// The same to what its pool is called otherwise.
    pub(super) fn to<Q>(self, other: impl FnOnce(&P) -> Option<Q>) -> Option<Mirror<Q>> {
        let Mirror { pool, share, max_body, max_requests } = self;
        Some(Mirror { pool: other(&pool)?, share, max_body, max_requests })
    }
}

pub(super) fn read_split(table: &mut Table, pool: &str) -> Option<Split<At<String>>> {
    let name = format!("[pool.{pool}.split]");
    let mut table = table.table("split", &name, "split = { pool = \"canary\", share = 0.05 }")?;
    let (to, share) = (table.require("pool"), table.require("share"));
    let mut by = SplitBy::Key(HashKey::Client);
    table.set("by", &mut by);
    table.finish();
    Some(Split { pool: to?, share: share?.value, by })
}

pub(super) fn read_mirror(table: &mut Table, pool: &str) -> Option<Mirror<At<String>>> {
    let name = format!("[pool.{pool}.mirror]");
    let mut table = table.table("mirror", &name, "mirror = { pool = \"shadow\", share = 0.1 }")?;
    let to = table.require("pool");
    let (mut share, mut max_body, mut max_requests) = (Share::ALL, ByteSize(64 << 10), 100);
    table.set("share", &mut share);
    table.set_if("max_body", &mut max_body, |size| size.0 <= 16 << 20, "must be at most 16MiB");
    table.set_within("max_requests", &mut max_requests, 1..=10_000);
    if max_body.0 * u64::from(max_requests) > MOST_COPIED {
        let place = table.place_of(if table.has("max_body") { "max_body" } else { "max_requests" });
        let hint = "so much memory copies may take: max_body times max_requests";
        table.errors.error_with_hint(place, format!("copies could take more than {}", ByteSize(MOST_COPIED)), hint);
    }
    table.finish();
    Some(Mirror { pool: to?, share, max_body: max_body.0 as usize, max_requests })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::load;

    #[test]
    fn what_would_mix_pools_up_or_take_too_much_is_refused() {
        let parse = |app: &str| {
            let text = format!(
                "[pool.app]\norigins = [\"127.0.0.1:1\"]\n{app}\n[pool.can]\norigins = [\"127.0.0.1:2\"]\n\
                 [pool.spare]\norigins = [\"127.0.0.1:3\"]\nfallback = \"can\"\n"
            );
            load::parse(Path::new("seawall.toml"), &text).map(drop).map_err(|error| error.to_string())
        };
        let split = "split = { pool = \"can\", share = 0.1 }";
        assert_eq!(parse(&format!("{split}\nmirror = {{ pool = \"can\" }}")), Ok(()));
        for (app, expected) in [
            (format!("{split}\nfallback = \"can\""), "is the pool of its split"),
            (format!("{split}\nfallback = \"spare\""), "is the pool of its split"),
            ("split = { pool = \"app\", share = 0.1 }".to_owned(), "is this pool itself"),
            ("split = { pool = \"can\" }".to_owned(), "share"),
            ("split = { pool = \"cann\", share = 0.1 }".to_owned(), "did you mean \"can\"?"),
            ("mirror = { pool = \"can\", max_body = \"16MiB\" }".to_owned(), "copies could take more than 256MiB"),
        ] {
            let error = parse(&app).unwrap_err();
            assert!(error.contains(expected), "{app}: {error}");
        }
    }
}
