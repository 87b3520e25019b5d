//! Tags that origins put on responses so that they can be purged together.

use http::{HeaderMap, HeaderName};

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
    fn too_many_or_too_long_tags_are_not_cut() {
        let longest = "x".repeat(MAX_TAG);
        assert_eq!(parse(&headers(&[("cache-tag", &longest)])).unwrap().len(), 1);
        assert_eq!(parse(&headers(&[("cache-tag", &format!("{longest}x"))])), Err(TooManyTags));
        let many = "ab ".repeat(MAX_TAGS / 3 + 1);
        assert_eq!(parse(&headers(&[("surrogate-key", &many)])), Err(TooManyTags));
    }
}
