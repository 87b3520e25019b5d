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

/// What a cache says of compression, or a route's defaults for it. `None`: nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compression {
    pub codings: Option<Vec<Coding>>,
    min_size: Option<u64>,
    types: Option<Vec<Pattern>>,
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

/// What a table says of it.
pub(crate) fn read(table: &mut Table) -> Compression {
    let errors = table.errors;
    let is_said = table.has("compress");
    let codings = codings(table, "compress");
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
    Compression {
        codings: is_said.then_some(codings),
        min_size: table.value::<ByteSize>("compress_min_size").map(|size| size.0),
        types: types.map(|types| errors.parse_all(types)),
    }
}

impl Compression {
    /// What others say where this says nothing; `is_off`: nothing is stored there, and so not compressed.
    pub(crate) fn or(self, others: &Compression, is_off: bool) -> Self {
        Compression {
            codings: self.codings.or_else(|| others.codings.clone().filter(|_| !is_off)),
            min_size: self.min_size.or(others.min_size),
            types: self.types.or_else(|| others.types.clone()),
        }
    }

    /// Reports what the table of a cache says to no effect; `passed`: the codings in which that goes which is not stored.
    pub(crate) fn check(&self, table: &Table, passed: &[Coding]) {
        if self.codings.as_ref().is_none_or(|codings| codings.is_empty()) && passed.is_empty() {
            for key in ["compress_min_size", "compress_types"].into_iter().filter(|key| table.has(key)) {
                let hint = "add compress = [\"zstd\", \"br\", \"gzip\"]";
                let message = format!("{key:?} has no effect without compress");
                table.errors.error_with_hint(table.place_of(key), message, hint);
            }
        }
    }

    /// Those for some codings, if there are any.
    pub(crate) fn rules_for(&self, codings: &[Coding]) -> Option<CompressRules> {
        // Each of them is a pattern: a test says so.
        let all = || CompressRules::TYPES.iter().filter_map(|text| text.parse().ok()).collect();
        (!codings.is_empty()).then(|| CompressRules {
            codings: codings.into(),
            min_size: self.min_size.unwrap_or(MIN_SIZE.0),
            types: self.types.clone().unwrap_or_else(all),
        })
    }
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

/// Where nothing else is said.
const MIN_SIZE: ByteSize = ByteSize(1024);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_types_are_patterns() {
        assert!(CompressRules::TYPES.iter().all(|text| text.parse::<Pattern>().is_ok()));
    }
}
