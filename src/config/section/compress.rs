//! `compress`, `compress_min_size` and `compress_types` of a route's cache, and its `compress_passed`.

use std::sync::Arc;

use crate::config::diagnose::At;
use crate::config::read::{ByteSize, Table, Words, words};
use crate::pattern::Pattern;

/// Which responses the node compresses, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressRules {
    /// In the order in which they are preferred where a client has no preference.
    pub codings: Arc<[Coding]>,
    /// Bytes of the smallest body that is worth it.
    pub min_size: u64,
    /// Media types, without parameters.
    pub types: Vec<Pattern>,
}

impl CompressRules {
    /// Media types that shrink.
    pub const TYPES: [&str; 11] = [
        "text/*",
        "application/json",
        "application/*+json",
        "application/javascript",
        "application/x-javascript",
        "application/xml",
        "application/*+xml",
        "application/wasm",
        "image/svg+xml",
        "image/x-icon",
        "font/ttf",
    ];
}

/// A content coding that the node can make (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Coding {
    Zstd,
    Br,
    Gzip,
}

impl Coding {
    /// Its token in `Content-Encoding` and `Accept-Encoding`.
    pub fn as_str(self) -> &'static str {
        Words::as_str(self)
    }
}

words!(Coding { "zstd" => Coding::Zstd, "br" => Coding::Br, "gzip" => Coding::Gzip });

/// What a route compresses.
pub(crate) struct Compressed {
    /// `None`: nothing of what is stored.
    pub stored: Option<CompressRules>,
    /// `None`: nothing of what is not.
    pub passed: Option<CompressRules>,
}

/// The codings of a list of them.
pub(crate) fn codings(table: &mut Table, key: &'static str) -> Vec<Coding> {
    let errors = table.errors;
    let mut codings: Vec<Coding> = Vec::new();
    for At { value: coding, place } in table.list(key) {
        match codings.contains(&coding) {
            true => errors.error(place, format!("{:?} is given twice", coding.as_str())),
            false => codings.push(coding),
        }
    }
    codings
}

/// What the table of a cache says of it; `passed`: what the route says beside that, in which codings that goes which is not
/// stored.
pub(crate) fn read(table: &mut Table, passed: &[Coding]) -> Compressed {
    let errors = table.errors;
    let stored = codings(table, "compress");
    if table.lacks("compress") && passed.is_empty() {
        for key in ["compress_min_size", "compress_types"].into_iter().filter(|key| table.has(key)) {
            let hint = "add compress = [\"zstd\", \"br\", \"gzip\"]";
            errors.error_with_hint(table.place_of(key), format!("{key:?} has no effect without compress"), hint);
        }
    }
    let min_size = table.get_or("compress_min_size", MIN_SIZE).0;
    let mut types = table.optional_list::<String>("compress_types");
    types.iter_mut().for_each(|types| {
        types.retain(|At { value, place }| {
            let wrong = not_a_media_type(value);
            if let Some(hint) = &wrong {
                errors.error_with_hint(*place, format!("{value:?} in \"compress_types\" is no media type"), hint);
            }
            wrong.is_none()
        });
    });
    let types = types.map(|types| errors.parse_all(types));
    let [stored, passed] = [&stored[..], passed].map(|codings| CompressRules::new(codings, min_size, types.clone()));
    Compressed { stored, passed }
}

/// What to write in the place of what no `Content-Type` could match; `None`: one might.
fn not_a_media_type(written: &str) -> Option<String> {
    let bare = written.split(';').next().unwrap_or_default().trim();
    match bare {
        _ if bare.contains('/') && bare == written || bare == "*" => None,
        _ if bare.contains('/') => Some(format!("parameters are not looked at: write {bare:?}")),
        "html" | "css" | "plain" | "csv" | "xml" => Some(format!("write \"text/{bare}\"")),
        _ => Some("write a type and a subtype: \"application/json\", \"text/*\"".to_owned()),
    }
}

/// What a route compresses that has no cache.
pub(crate) fn without_cache(passed: &[Coding]) -> Option<CompressRules> {
    CompressRules::new(passed, MIN_SIZE.0, None)
}

/// Where nothing else is said.
const MIN_SIZE: ByteSize = ByteSize(1024);

impl CompressRules {
    /// `types`: `None`: those that shrink.
    fn new(codings: &[Coding], min_size: u64, types: Option<Vec<Pattern>>) -> Option<Self> {
        // Each of them is a pattern: a test says so.
        let all = || CompressRules::TYPES.iter().filter_map(|text| text.parse().ok()).collect();
        let types = types.unwrap_or_else(all);
        (!codings.is_empty()).then(|| CompressRules { codings: codings.into(), min_size, types })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_types_are_patterns() {
        assert!(CompressRules::TYPES.iter().all(|text| text.parse::<Pattern>().is_ok()));
    }
}
