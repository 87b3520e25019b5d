//! Eight bytes that tell of most files that a purge does not hit them, so that the sweeper opens only the others.

use super::super::super::purge::Target;
use super::super::super::tags::TagHash;

/// What is kept of an object's site, URL and tags: 12 bits of the site's hash, 16 of the URL's, and a Bloom filter
/// of 36 bits for the tags, two bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter(pub u64);

const SITE: u64 = 0xfff << 52;
const URI: u64 = 0xffff << 36;
const TAG_BITS: u64 = 36;

/// The bits that an object has if a purge hits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suspect {
    mask: u64,
    bits: u64,
}

impl Filter {
    pub fn of(site: &str, uri: &str, tags: &[TagHash]) -> Self {
        Filter(tags.iter().fold(site_bits(site) | uri_bits(uri), |bits, tag| bits | tag_bits(*tag)))
    }

    pub fn is(self, suspect: &Suspect) -> bool {
        self.0 & suspect.mask == suspect.bits
    }
}

impl Suspect {
    pub fn of(target: &Target) -> Self {
        let (mask, bits) = match target {
            Target::All => (0, 0),
            Target::Tag { site: None, tag } => (tag_bits(*tag), tag_bits(*tag)),
            Target::Tag { site: Some(site), tag } => (SITE | tag_bits(*tag), site_bits(site) | tag_bits(*tag)),
            Target::Site { site } | Target::Prefix { site, .. } => (SITE, site_bits(site)),
            Target::Url { site, uri } => (SITE | URI, site_bits(site) | uri_bits(uri)),
        };
        Suspect { mask, bits }
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
        for target in [
            Target::All,
            Target::Tag { site: None, tag: tags[1] },
            Target::Tag { site: Some(site()), tag: tags[2] },
            Target::Site { site: site() },
            Target::Prefix { site: site(), prefix: "shop.example/".into() },
            Target::Url { site: site(), uri: "shop.example/a?q".into() },
        ] {
            assert!(filter.is(&Suspect::of(&target)), "{target:?}");
        }
    }

    #[test]
    fn of_others_few_are() {
        let suspect = Suspect::of(&Target::Tag { site: None, tag: TagHash::of("wanted") });
        let suspected = |number: u32| {
            let tags = [format!("x{number}"), format!("y{number}")].map(|tag| TagHash::of(&tag));
            Filter::of("shop", &format!("h/{number}"), &tags).is(&suspect)
        };
        assert!((0..10_000).filter(|number| suspected(*number)).count() < 300);
        let url = Suspect::of(&Target::Url { site: "shop".into(), uri: "h/wanted".into() });
        let same = |number: &u32| Filter::of("shop", &format!("h/{number}"), &[]).is(&url);
        assert!((0..10_000).filter(same).count() < 5);
    }
}
