//! Keys that were found not cacheable a short while ago: their requests are passed on at once and wait for nobody. And those
//! that were found not to be had in slices: they are fetched whole.
//!
//! A response that is for one visitor often varies by what tells visitors apart, `Vary: Cookie` above all. Then the mark
//! concerns only requests with the same values, and it tells by what requests differ: those that do never wait for each
//! other's fill, since what comes of it would not be for them.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::{Cache, CacheBuilder};

use crate::clock::Timestamp;
use crate::plan::CacheKey;

use super::vary::{Presented, Variant};

/// Bytes that all marks may take.
const MAX_BYTES: u64 = 16 << 20;
/// Bytes of a mark's bookkeeping, about.
const MARK: usize = 96;
/// Marks of one key, for as many values of what its responses vary by. The oldest goes.
const MAX_MARKS: usize = 16;
/// Keys that are remembered as not to be had in slices, at most.
const MAX_UNSLICED: u64 = 100_000;
/// However long a route wants to remember anything.
const LONGEST: Duration = Duration::from_secs(3600);

/// Stands for a key where keys of any length would take too much; secretly seeded, so that nobody can look
/// for two of the same.
type KeyHash = u64;

/// What is remembered, for all keys.
pub struct Uncacheable {
    keys: Cache<KeyHash, Arc<[Mark]>>,
    /// What cannot be had in slices.
    unsliced: Cache<KeyHash, ()>,
    hasher: RandomState,
}

/// One response that was not stored.
#[derive(Debug, Clone)]
struct Mark {
    /// The requests that it was for.
    variant: Variant,
    until: Timestamp,
}

impl Uncacheable {
    pub fn new() -> Self {
        let weight = |marks: &Arc<[Mark]>| marks.iter().map(|mark| MARK + mark.variant.weight()).sum::<usize>();
        let weigher = move |_: &KeyHash, marks: &Arc<[Mark]>| u32::try_from(weight(marks)).unwrap_or(u32::MAX);
        Uncacheable {
            keys: used_lately(MAX_BYTES).weigher(weigher).build(),
            unsliced: used_lately(MAX_UNSLICED).build(),
            hasher: RandomState::new(),
        }
    }

    /// Until when a request for a key is not to be tried, or was.
    pub fn until(&self, key: &str, request: Presented<'_>) -> Option<Timestamp> {
        let marks = self.marks(key)?;
        marks.iter().filter(|mark| mark.variant.matches(request)).map(|mark| mark.until).max()
    }

    /// By what requests for a key must be alike to wait for each other, with the values of this one; `None`: by nothing
    /// that is known.
    pub fn told_apart(&self, key: &str, request: Presented<'_>) -> Option<Variant> {
        let marks = self.marks(key)?;
        let by = marks.iter().rev().find(|mark| !mark.variant.is_any())?;
        Some(by.variant.of_another(request))
    }

    /// Keeps requests that select a variant from waiting for each other until then.
    pub fn remember(&self, key: &str, variant: Variant, until: Timestamp) {
        let before = self.marks(key);
        let others = before.iter().flat_map(|marks| marks.iter()).filter(|mark| mark.variant != variant).cloned();
        let mut marks: Vec<Mark> = others.collect();
        if marks.len() >= MAX_MARKS {
            marks.remove(0);
        }
        marks.push(Mark { variant, until });
        self.keys.insert(self.hash(key), marks.into());
    }

    /// Something was stored for requests that select a variant.
    pub fn forget(&self, key: &str, variant: &Variant) {
        let Some(before) = self.marks(key) else { return };
        let is_past = |mark: &Mark| mark.variant.is_any() || mark.variant == *variant;
        if before.iter().any(is_past) {
            let left: Arc<[Mark]> = before.iter().filter(|mark| !is_past(mark)).cloned().collect();
            match left.is_empty() {
                true => self.keys.invalidate(&self.hash(key)),
                false => self.keys.insert(self.hash(key), left),
            }
        }
    }

    /// Whether something is to be fetched whole, though its route says otherwise.
    pub fn is_unsliced(&self, key: &str) -> bool {
        self.unsliced.contains_key(&self.hash(key))
    }

    pub fn remember_unsliced(&self, key: &CacheKey) {
        self.unsliced.insert(self.hash(key.as_str()), ());
    }

    fn marks(&self, key: &str) -> Option<Arc<[Mark]>> {
        self.keys.get(&self.hash(key))
    }

    fn hash(&self, key: &str) -> KeyHash {
        self.hasher.hash_one(key)
    }
}

/// Something about keys, for a while; of what is too much those go that were not used lately.
fn used_lately<T: Clone + Send + Sync + 'static>(capacity: u64) -> CacheBuilder<KeyHash, T, Cache<KeyHash, T>> {
    Cache::builder().max_capacity(capacity).eviction_policy(EvictionPolicy::lru()).time_to_live(LONGEST)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::super::testing::{map, presented};
    use super::*;
    use crate::config::model::{CacheMode, CacheRules};

    fn cookie(value: &str) -> HeaderMap {
        if value.is_empty() { HeaderMap::new() } else { map(&[("cookie", value)]) }
    }

    fn by_cookie(value: &str) -> Variant {
        let rules = CacheRules { mode: CacheMode::Respect { default_ttl: None }, ..CacheRules::default() };
        Variant::of(&map(&[("vary", "cookie")]), presented(&cookie(value)), &rules).unwrap()
    }

    #[test]
    fn a_mark_is_for_those_who_are_like_who_caused_it() {
        let (marks, until) = (Uncacheable::new(), Timestamp::from_secs(9));
        marks.remember("k", by_cookie("sid=1"), until);
        let (one, two, none) = (cookie("sid=1"), cookie("sid=2"), cookie(""));
        assert_eq!(marks.until("k", presented(&one)), Some(until));
        assert_eq!(marks.until("k", presented(&two)), None);
        assert_eq!(marks.until("k", presented(&none)), None);
        assert_eq!(marks.until("other", presented(&one)), None);
        assert_eq!(marks.told_apart("k", presented(&two)), Some(by_cookie("sid=2")));
        assert_eq!(marks.told_apart("other", presented(&two)), None);
        marks.forget("k", &by_cookie(""));
        assert_eq!(marks.until("k", presented(&one)), Some(until), "what is stored for others says nothing of it");
        marks.forget("k", &by_cookie("sid=1"));
        assert_eq!(marks.until("k", presented(&one)), None);
    }

    #[test]
    fn a_mark_without_axes_is_for_all_until_something_is_stored() {
        let (marks, until) = (Uncacheable::new(), Timestamp::from_secs(9));
        marks.remember("k", Variant::default(), until);
        assert_eq!(marks.until("k", presented(&cookie("sid=1"))), Some(until));
        assert_eq!(marks.told_apart("k", presented(&cookie(""))), None);
        marks.forget("k", &by_cookie("sid=3"));
        assert_eq!(marks.until("k", presented(&cookie("sid=1"))), None);
    }

    #[test]
    fn marks_of_one_key_are_bounded() {
        let (marks, until) = (Uncacheable::new(), Timestamp::from_secs(9));
        (0..100).for_each(|n| marks.remember("k", by_cookie(&format!("sid={n}")), until));
        assert_eq!(marks.marks("k").unwrap().len(), MAX_MARKS);
        assert_eq!(marks.until("k", presented(&cookie("sid=99"))), Some(until));
        assert_eq!(marks.until("k", presented(&cookie("sid=1"))), None);
    }
}
