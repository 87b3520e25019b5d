//! Pools that give some of their requests to another one: which requests, and how many of them for now.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::model::{HashKey, Split, SplitBy};
use crate::plan::facts::{cookie, parameter};
use crate::prefix::one_client;
use crate::request::RequestView;

use super::balance::rendezvous::{hash_bytes, mix};
use super::orders::Order;

/// The share in force, in millionths: the configured one, or what was ordered.
#[derive(Debug, Default)]
pub(crate) struct Given(AtomicU32);

const MILLION: f64 = 1_000_000.0;

impl Given {
    pub(super) fn new(split: Option<&Split>, order: Order) -> Self {
        let given = Given::default();
        split.iter().for_each(|split| given.order(split, order));
        given
    }

    /// What is ordered counts, or else what is configured.
    pub(crate) fn order(&self, split: &Split, order: Order) {
        self.set(order.share.unwrap_or(split.share.of_one()));
    }

    pub(crate) fn share(&self) -> f64 {
        f64::from(self.0.load(Ordering::Relaxed)) / MILLION
    }

    fn set(&self, share: f64) {
        self.0.store((share.clamp(0.0, 1.0) * MILLION).round() as u32, Ordering::Relaxed);
    }
}

/// What orders for a split are kept under, among those for the pool's origins: none is called so.
pub(crate) const ORDER: &str = "(split)";

/// Whether a request is one of a share that is given away.
pub(super) fn is_given(split: &Split, share: f64, pool: &str, request: &RequestView<'_>) -> bool {
    let number = match &split.by {
        // The node's own requests are nobody's: they stay where most are.
        _ if request.client.is_unspecified() => return share >= 1.0,
        SplitBy::Request => fastrand::f64(),
        SplitBy::Key(key) => place(key, request, pool),
    };
    number < share
}

/// Where a request stands between 0 and 1: always there by the same key, and for each pool elsewhere. With a larger share more
/// are given away, and none comes back.
fn place(key: &HashKey, request: &RequestView<'_>, pool: &str) -> f64 {
    let found = hash_of(key, request).unwrap_or_else(|| hash_of_client(request));
    mix(found ^ mix(hash_bytes(pool.as_bytes()))) as f64 / u64::MAX as f64
}

/// The hash of what a key names; `None`: the request has none of it.
pub(super) fn hash_of(key: &HashKey, request: &RequestView<'_>) -> Option<u64> {
    match key {
        HashKey::Url => Some(hash_bytes(request.path_and_query().as_bytes())),
        HashKey::Client => Some(hash_of_client(request)),
        HashKey::Header(name) => request.fields.get(name).map(hash_bytes),
        HashKey::Cookie(name) => cookie(request.fields, name).map(hash_bytes),
        HashKey::Query(name) => parameter(request.query, name).map(|value| hash_bytes(&value)),
    }
}

fn hash_of_client(request: &RequestView<'_>) -> u64 {
    hash_bytes(one_client(request.client).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::config::model::PoolId;
    use crate::origin::PoolSet;
    use crate::origin::pool::tests::set;
    use crate::request::{Fields, Scheme};

    fn given(set: &PoolSet, client: [u8; 4]) -> bool {
        let fields = HeaderMap::new();
        let request = RequestView {
            client: client.into(),
            ..RequestView::own(&Method::GET, Scheme::Http, "shop.example", "/", Fields::Map(&fields))
        };
        matches!(set.divide(PoolId(0), &request), Some(Some(PoolId(1))))
    }

    #[test]
    fn a_share_of_the_clients_is_given_away_and_stays_so_when_it_grows() {
        let text = |by: &str| {
            format!(
                "[pool.app]\norigins = [\"127.0.0.1:1\"]\nsplit = {{ pool = \"canary\", share = 0.05{by} }}\n\
                 [pool.canary]\norigins = [\"127.0.0.1:2\"]\n"
            )
        };
        let clients = || (0..=255_u8).flat_map(|a| (0..=39_u8).map(move |b| [10, 0, a, b]));
        let by_client = set(&text(""), None);
        let few: Vec<_> = clients().filter(|client| given(&by_client, *client)).collect();
        assert!((410..620).contains(&few.len()), "{} of 10240", few.len());
        assert!(few.iter().all(|client| given(&by_client, *client)), "always the same ones");
        by_client.by_name("app").unwrap().given.set(0.5);
        assert!(few.iter().all(|client| given(&by_client, *client)), "none comes back");
        assert!(!given(&by_client, [0, 0, 0, 0]), "what the node asks for by itself stays where most are");
        let half = clients().filter(|client| given(&by_client, *client)).count();
        assert!((4900..5340).contains(&half), "{half}");
        let by_request = set(&text(", by = \"request\""), None);
        let some = (0..10_000).filter(|_| given(&by_request, [10, 0, 0, 1])).count();
        assert!((350..650).contains(&some), "{some}");
    }
}
