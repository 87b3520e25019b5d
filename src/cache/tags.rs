//! Tags that origins put on responses so that they can be purged together.

use http::{HeaderMap, HeaderName};
use sfv::{ListEntry, Parser};

use crate::request::Fields;

/// Bytes of tags in one response: Fastly's and Cloudflare's limit.
pub const MAX_TAGS: usize = 16 << 10;
/// Bytes of one tag.
pub const MAX_TAG: usize = 1024;

/// The field names that carry tags, and what separates them there.
pub static TAG_FIELDS: [(HeaderName, char); 3] = [
    (HeaderName::from_static("surrogate-key"), ' '),
    (HeaderName::from_static("cache-tag"), ','),
    (HeaderName::from_static("cache-tags"), ','),
];

/// A tag as purges compare it: its 64-bit hash. Two tags with one hash would only be purged together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TagHash(pub u64);

impl TagHash {
    /// Tags are compared without regard to case, as Cloudflare's and unlike Fastly's: a purge that spells a
    /// tag otherwise than the origin must not miss it.
    pub fn of(tag: &str) -> Self {
        // FNV-1a: the value is kept on disk, so it must never change with a library's version.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in tag.bytes() {
            hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
        }
        TagHash(hash)
    }
}

/// The most groups of one response and the longest name that are kept: what RFC 9875 section 2 requires.
const MAX_GROUPS: usize = 32;
const MAX_GROUP: usize = 128;

/// The groups that a `Cache-Groups` or `Cache-Group-Invalidation` field names, as tags of one origin (RFC 9875): a
/// list of strings. An invalid field is as if it were not there. `origin`: TLS or not, and the host.
pub fn groups(headers: &HeaderMap, name: &HeaderName, (tls, host): (bool, &str)) -> Vec<TagHash> {
    let Some(value) = Fields::Map(headers).joined(name) else { return Vec::new() };
    let Ok(list) = Parser::parse_list(&value) else { return Vec::new() };
    let named = list.iter().filter_map(|entry| match entry {
        ListEntry::Item(item) => item.bare_item.as_str(),
        ListEntry::InnerList(_) => None,
    });
    let scheme = if tls { "https" } else { "http" };
    // The separator keeps them apart from tags, which cannot have it.
    let tag = |group: &str| TagHash::of(&format!("\u{1f}{scheme}://{host}\u{1f}{group}"));
    named.filter(|group| group.len() <= MAX_GROUP).take(MAX_GROUPS).map(tag).collect()
}

/// The response has more or longer tags than are kept. It must not be stored: with tags missing it could
/// not be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyTags;

/// All tags of a response, sorted, each once.
pub fn parse(headers: &HeaderMap) -> Result<Box<[TagHash]>, TooManyTags> {
    let mut tags = Vec::new();
    let mut total = 0;
    for (name, separator) in &TAG_FIELDS {
        for line in headers.get_all(name) {
            total += line.len();
            if total > MAX_TAGS {
                return Err(TooManyTags);
            }
            let line = String::from_utf8_lossy(line.as_bytes());
            for tag in line.split([*separator, '\t']).map(str::trim).filter(|tag| !tag.is_empty()) {
                if tag.len() > MAX_TAG {
                    return Err(TooManyTags);
                }
                tags.push(TagHash::of(tag));
            }
        }
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn tags_of_all_three_fields() {
        let fields = [("surrogate-key", "a b  a"), ("cache-tag", "c, d e"), ("cache-tags", "F")];
        let mut expected: Vec<_> = ["a", "b", "c", "d e", "f"].iter().map(|tag| TagHash::of(tag)).collect();
        expected.sort_unstable();
        assert_eq!(parse(&headers(&fields)).unwrap().as_ref(), expected);
    }

    #[test]
    fn groups_belong_to_one_origin() {
        let name = HeaderName::from_static("cache-groups");
        let of = |value: &str, origin| groups(&headers(&[("cache-groups", value)]), &name, origin);
        let here = (true, "a.example");
        assert_eq!(of("\"x\", \"y\";p=1", here).len(), 2);
        assert_eq!(of("\"x\"", here), of("\"x\"", here));
        assert_ne!(of("\"x\"", here), of("\"x\"", (false, "a.example")));
        assert_ne!(of("\"x\"", here), of("\"x\"", (true, "b.example")));
        assert_ne!(of("\"x\"", here), [TagHash::of("x")]);
        for none in ["x", "\"x", "(\"x\")", ""] {
            assert_eq!(of(none, here), [], "{none}");
        }
        assert_eq!(of(&vec!["\"x\""; 40].join(","), here).len(), MAX_GROUPS);
    }

    #[test]
    fn too_many_or_too_long_tags_are_not_cut() {
        let longest = "x".repeat(MAX_TAG);
        assert_eq!(parse(&headers(&[("cache-tag", &longest)])).unwrap().len(), 1);
        assert_eq!(parse(&headers(&[("cache-tag", &format!("{longest}x"))])), Err(TooManyTags));
        let many = "ab ".repeat(MAX_TAGS / 3 + 1);
        assert_eq!(parse(&headers(&[("surrogate-key", &many)])), Err(TooManyTags));
    }
}
