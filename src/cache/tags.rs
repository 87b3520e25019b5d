//! Tags that origins put on responses so that they can be purged together.

use std::sync::LazyLock;

use hashbrown::HashSet;
use http::{HeaderMap, HeaderName};
use sfv::{ListEntry, Parser};

use crate::plan::KeyOrigin;
use crate::request::{Fields, text};

/// Bytes of tags in one response: Fastly's and Cloudflare's limit.
pub(crate) const MAX_TAGS: usize = 16 << 10;
/// Bytes of one tag.
pub(crate) const MAX_TAG: usize = 1024;

/// The field names that carry tags, and what separates them there.
pub(crate) static TAG_FIELDS: [(HeaderName, char); 3] = [
    (HeaderName::from_static("surrogate-key"), ' '),
    (HeaderName::from_static("cache-tag"), ','),
    (HeaderName::from_static("cache-tags"), ','),
];

/// A tag as purges compare it: its 64-bit hash. Two tags with one hash would only be purged together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TagHash(pub u64);

impl TagHash {
    /// That of what is stored for requests of which a route's condition is true.
    pub fn of_condition(key: &str) -> Self {
        Self::of(&format!("\u{1f}when\u{1f}{key}"))
    }

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

/// The tags of one response.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Tags {
    /// As purges compare them.
    pub hashes: Box<[TagHash]>,
    /// As operators know them: one after the other, each with a tab behind it.
    names: Box<str>,
}

impl Tags {
    /// Those of what has none.
    pub fn none() -> &'static Self {
        static NONE: LazyLock<Tags> = LazyLock::new(Tags::default);
        &NONE
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// All tags of a response, each once. `None`: it has more or longer ones than are kept. It must not be stored: with tags
    /// missing it could not be purged.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let (mut hashes, mut names, mut total) = (Vec::new(), String::new(), 0);
        let mut seen = HashSet::new();
        for (field, separator) in &TAG_FIELDS {
            for line in headers.get_all(field) {
                total += line.len();
                if total > MAX_TAGS {
                    return None;
                }
                let line = text(line.as_bytes());
                for tag in line.split([*separator, '\t']).map(str::trim).filter(|tag| !tag.is_empty()) {
                    if tag.len() > MAX_TAG {
                        return None;
                    }
                    let hash = TagHash::of(tag);
                    if seen.insert(hash) {
                        hashes.push(hash);
                        names.extend([tag, "\t"]);
                    }
                }
            }
        }
        Some(Tags { hashes: hashes.into(), names: names.into() })
    }

    /// These and the groups of a response, which have no names that a purge could be asked for by.
    pub fn with_groups(self, groups: Vec<TagHash>) -> Self {
        Tags { hashes: self.hashes.iter().copied().chain(groups).collect(), ..self }
    }

    /// These and others, each once. `None`: they are more than are kept.
    pub fn joined(&self, others: &Tags) -> Option<Self> {
        let is_new = |hash: &TagHash| !self.hashes.contains(hash);
        let hashes: Box<[TagHash]> =
            self.hashes.iter().chain(others.hashes.iter().filter(|hash| is_new(hash))).copied().collect();
        let mut names = self.names.to_string();
        for name in others.names().filter(|name| is_new(&TagHash::of(name))) {
            names.extend([name, "\t"]);
        }
        let fits = names.len() <= MAX_TAGS && hashes.len() <= MAX_TAGS / 2;
        fits.then(|| Tags { hashes, names: names.into() })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.split_terminator('\t')
    }

    /// Bytes of memory beyond the struct itself.
    pub fn weight(&self) -> usize {
        std::mem::size_of_val(&*self.hashes) + self.names.len()
    }
}

/// The groups that a `Cache-Groups` or `Cache-Group-Invalidation` field names, as tags of one origin (RFC 9875): a
/// list of strings. An invalid field is as if it were not there.
pub fn groups(headers: &HeaderMap, name: &HeaderName, origin: KeyOrigin<'_>) -> Vec<TagHash> {
    let Some(value) = Fields::Map(headers).joined(name) else { return Vec::new() };
    let Ok(list) = Parser::parse_list(&value) else { return Vec::new() };
    let named = list.iter().filter_map(|entry| match entry {
        ListEntry::Item(item) => item.bare_item.as_str(),
        ListEntry::InnerList(_) => None,
    });
    let KeyOrigin { tls, host, port } = origin;
    let scheme = if tls { "https" } else { "http" };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    // The separator keeps them apart from tags, which cannot have it.
    let tag = |group: &str| TagHash::of(&format!("\u{1f}{scheme}://{host}{port}\u{1f}{group}"));
    named.filter(|group| group.len() <= MAX_GROUP).take(MAX_GROUPS).map(tag).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::map;
    use super::*;

    #[test]
    fn tags_of_all_three_fields() {
        let fields = [("surrogate-key", "a b  a"), ("cache-tag", "c, d e"), ("cache-tags", "F")];
        let tags = Tags::parse(&map(&fields)).unwrap();
        let expected: Vec<_> = ["a", "b", "c", "d e", "f"].iter().map(|tag| TagHash::of(tag)).collect();
        assert_eq!(tags.hashes.as_ref(), expected);
        assert_eq!(tags.names().collect::<Vec<_>>(), ["a", "b", "c", "d e", "F"]);
        assert_eq!(Tags::default().names().next(), None);
        let more = Tags::parse(&map(&[("surrogate-key", "x A")])).unwrap();
        assert_eq!(tags.joined(&more).unwrap().names().collect::<Vec<_>>(), ["a", "b", "c", "d e", "F", "x"]);
        let long = Tags::parse(&map(&[("surrogate-key", "tag"), ("cache-tag", &"y".repeat(MAX_TAG))])).unwrap();
        let all = (0..20).try_fold(long, |all, number| {
            all.joined(&Tags::parse(&map(&[("cache-tag", &format!("{number}{}", "z".repeat(1000)))])).unwrap())
        });
        assert_eq!(all, None, "what 304s bring is bounded, too");
    }

    #[test]
    fn groups_belong_to_one_origin() {
        let name = HeaderName::from_static("cache-groups");
        let of = |value: &str, origin| groups(&map(&[("cache-groups", value)]), &name, origin);
        let here = KeyOrigin { tls: true, host: "a.example", port: None };
        assert_eq!(of("\"x\", \"y\";p=1", here).len(), 2);
        assert_eq!(of("\"x\"", here), of("\"x\"", here));
        assert_ne!(of("\"x\"", here), of("\"x\"", KeyOrigin { tls: false, ..here }));
        assert_ne!(of("\"x\"", here), of("\"x\"", KeyOrigin { port: Some(8443), ..here }));
        assert_ne!(of("\"x\"", here), of("\"x\"", KeyOrigin { host: "b.example", ..here }));
        assert_ne!(of("\"x\"", here), [TagHash::of("x")]);
        for none in ["x", "\"x", "(\"x\")", ""] {
            assert_eq!(of(none, here), [], "{none}");
        }
        assert_eq!(of(&vec!["\"x\""; 40].join(","), here).len(), MAX_GROUPS);
    }

    #[test]
    fn too_many_or_too_long_tags_are_not_cut() {
        let longest = "x".repeat(MAX_TAG);
        assert_eq!(Tags::parse(&map(&[("cache-tag", &longest)])).unwrap().hashes.len(), 1);
        assert_eq!(Tags::parse(&map(&[("cache-tag", &format!("{longest}x"))])), None);
        let many = "ab ".repeat(MAX_TAGS / 3 + 1);
        assert_eq!(Tags::parse(&map(&[("surrogate-key", &many)])), None);
    }
}
