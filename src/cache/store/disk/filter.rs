//! Eight bytes that tell of most files that a purge does not hit them, so that the sweeper opens only the others.

use std::collections::HashMap;

use crate::cache::purge::{PurgeSeq, Target};
use crate::cache::tags::TagHash;

/// What is kept of an object's site, URL and tags: 12 bits of the site's hash, 16 of the URL's, and a Bloom filter
/// of 36 bits for the tags, two bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter(pub u64);

const SITE: u64 = 0xfff << 52;
const URI: u64 = 0xffff << 36;
const TAG_BITS: u64 = 36;
const TAGS: u64 = (1 << TAG_BITS) - 1;

/// Purges by the bits of what they hit: asking about one object takes as long, however many there are.
pub(crate) struct Suspects(Vec<(u64, HashMap<u64, PurgeSeq>)>);

impl Suspects {
    /// Many purges may look alike; of those only the newest counts.
    pub(crate) fn of<'a>(purges: impl IntoIterator<Item = (&'a Target, PurgeSeq)>) -> Self {
        let mut by_mask: HashMap<u64, HashMap<u64, PurgeSeq>> = HashMap::new();
        for (target, seq) in purges {
            let (mask, bits) = bits_of(target);
            let newest = by_mask.entry(mask).or_default().entry(bits).or_default();
            *newest = seq.max(*newest);
        }
        Suspects(by_mask.into_iter().collect())
    }

    /// Whether a purge after `seq` may hit what has this filter.
    pub(crate) fn may_hit(&self, filter: Filter, seq: PurgeSeq) -> bool {
        self.0.iter().any(|(mask, newest)| {
            // There are some hundred masks of tags. What lacks a bit of one has none of its tags, and need not be looked up.
            let has_tag = filter.0 & mask & TAGS == mask & TAGS;
            has_tag && newest.get(&(filter.0 & mask)).is_some_and(|newest| *newest > seq)
        })
    }
}

impl Filter {
    pub fn of(site: &str, uri: &str, tags: &[TagHash]) -> Self {
        Filter(tags.iter().fold(site_bits(site) | uri_bits(uri), |bits, tag| bits | tag_bits(*tag)))
    }
}

/// The bits that an object has if a purge hits it: which of them, and what they are.
fn bits_of(target: &Target) -> (u64, u64) {
    match target {
        Target::All => (0, 0),
        Target::Tag { site: None, tag } => (tag_bits(*tag), tag_bits(*tag)),
        Target::Tag { site: Some(site), tag } => (SITE | tag_bits(*tag), site_bits(site) | tag_bits(*tag)),
        Target::Site { site } | Target::Prefix { site, .. } => (SITE, site_bits(site)),
        Target::Url { site, uri } => (SITE | URI, site_bits(site) | uri_bits(uri)),
    }
}

/// These hashes are kept on disk: [`TagHash::of`] never changes, and its disregard of case only makes it less sharp.
fn site_bits(site: &str) -> u64 {
    (mix(TagHash::of(site).0) << 52) & SITE
}

fn uri_bits(uri: &str) -> u64 {
    (mix(TagHash::of(uri).0) << 36) & URI
}

fn tag_bits(tag: TagHash) -> u64 {
    let mixed = mix(tag.0);
    1 << (mixed % TAG_BITS) | 1 << ((mixed >> 32) % TAG_BITS)
}

/// Spreads what differs in few bits over all of them (the finaliser of SplitMix64).
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_purge_hits_is_always_suspected() {
        let tags: Vec<TagHash> = ["a", "b", "c"].map(TagHash::of).into();
        let filter = Filter::of("shop", "shop.example/a?q", &tags);
        let site = || "shop".to_owned();
        let other = Target::Url { site: site(), uri: "shop.example/other".into() };
        for target in [
            Target::All,
            Target::Tag { site: None, tag: tags[1] },
            Target::Tag { site: Some(site()), tag: tags[2] },
            Target::Site { site: site() },
            Target::Prefix { site: site(), prefix: "shop.example/".into() },
            Target::Url { site: site(), uri: "shop.example/a?q".into() },
        ] {
            let suspects = Suspects::of([(&target, PurgeSeq(5)), (&other, PurgeSeq(9))]);
            assert!(suspects.may_hit(filter, PurgeSeq(4)), "{target:?}");
            assert!(!suspects.may_hit(filter, PurgeSeq(5)), "it is newer: {target:?}");
        }
    }

    #[test]
    fn of_others_few_are() {
        let target = Target::Tag { site: None, tag: TagHash::of("wanted") };
        let suspects = Suspects::of([(&target, PurgeSeq(1))]);
        let filter_of = |number: u32| {
            let tags = [format!("x{number}"), format!("y{number}")].map(|tag| TagHash::of(&tag));
            Filter::of("shop", &format!("h/{number}"), &tags)
        };
        let suspected = |number: &u32| suspects.may_hit(filter_of(*number), PurgeSeq(0));
        assert!((0..10_000).filter(suspected).count() < 300);
        let url = Target::Url { site: "shop".into(), uri: "h/wanted".into() };
        let url = Suspects::of([(&url, PurgeSeq(1))]);
        let same = |number: &u32| url.may_hit(Filter::of("shop", &format!("h/{number}"), &[]), PurgeSeq(0));
        assert!((0..10_000).filter(same).count() < 5);
    }

    #[test]
    fn asking_takes_as_long_however_many_there_are() {
        let url = |number: u32| Target::Url { site: format!("site{}", number % 50), uri: format!("h/{number}") };
        let tag = |number: u32| Target::Tag { site: None, tag: TagHash::of(&format!("t{number}")) };
        let targets: Vec<Target> = (0..100_000).flat_map(|number| [url(number), tag(number)]).collect();
        let suspects = Suspects::of(targets.iter().map(|target| (target, PurgeSeq(1))));
        let filters: Vec<Filter> =
            (0..200_000).map(|number| Filter::of("other", &format!("h/{number}"), &[])).collect();
        let started = std::time::Instant::now();
        assert_eq!(filters.iter().filter(|filter| suspects.may_hit(**filter, PurgeSeq(0))).count(), 0);
        // Each against each would take minutes.
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "{:?}", started.elapsed());
    }
}
