//! `compress`, `compress_min_size` and `compress_types` of a route's cache.

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

/// What the table of a cache says of it.
pub(crate) fn read(table: &mut Table) -> Option<CompressRules> {
    let errors = table.errors;
    let mut codings: Vec<Coding> = Vec::new();
    for At { value: coding, place } in table.list("compress") {
        match codings.contains(&coding) {
            true => errors.error(place, format!("{:?} is given twice", coding.as_str())),
            false => codings.push(coding),
        }
    }
    if table.lacks("compress") {
        for key in ["compress_min_size", "compress_types"].into_iter().filter(|key| table.has(key)) {
            let hint = "add compress = [\"zstd\", \"br\", \"gzip\"]";
            errors.error_with_hint(table.place_of(key), format!("{key:?} has no effect without compress"), hint);
        }
    }
    let min_size = table.get_or("compress_min_size", ByteSize(1024)).0;
    let types = match table.optional_list("compress_types") {
        Some(types) => errors.parse_all(types),
        // Each of them is a pattern: a test says so.
        None => CompressRules::TYPES.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    (!codings.is_empty()).then(|| CompressRules { codings: codings.into(), min_size, types })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_types_are_patterns() {
        assert!(CompressRules::TYPES.iter().all(|text| text.parse::<Pattern>().is_ok()));
    }
}
