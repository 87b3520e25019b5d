//! Byte ranges (RFC 9110 section 14): what a request asks for, and what a 206 brings.

use http::{HeaderMap, header};

use crate::request::Fields;

/// Which bytes of how many (RFC 9110 section 14.4), `first` and `last` included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContentRange {
    pub first: u64,
    pub last: u64,
    pub total: u64,
}

impl ContentRange {
    /// Of a 206 response; `None` also for several ranges, for a total that is not stated, and for what cannot be.
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let mut lines = fields.get_all(header::CONTENT_RANGE).iter();
        let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else { return None };
        let (unit, range) = line.trim().split_once(' ')?;
        let (span, total) = range.trim().split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let range = ContentRange { first: number(first)?, last: number(last)?, total: number(total)? };
        let valid = unit.eq_ignore_ascii_case("bytes") && range.first <= range.last && range.last < range.total;
        valid.then_some(range)
    }

    /// The same, if the part can be joined to others: under a strong entity tag (RFC 9111 section 3.4).
    pub fn of_joinable(fields: &HeaderMap) -> Option<Self> {
        let is_strong = fields.get(header::ETAG).is_some_and(|etag| etag.as_bytes().starts_with(b"\""));
        Self::of(fields).filter(|_| is_strong)
    }

    pub fn length(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Bytes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

/// Ranges in one set, at most.
const MAX_RANGES: usize = 32;

/// What a `Range` asks for of a body of so many bytes (RFC 9110 section 14.1.2): nothing where the body has nothing of it.
/// `None`: it is ignored, as section 14.2 allows, being invalid or a set that only an attacker would ask for.
pub(crate) fn requested(range: &str, total: u64) -> Option<Vec<Span>> {
    let (unit, set) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    let (mut count, mut spans) = (0, Vec::new());
    for spec in specs {
        count += 1;
        spans.extend(span(spec, total)?);
        if count > MAX_RANGES {
            return None;
        }
    }
    if count == 0 {
        return None;
    }
    // In the order in which they were asked for, unless some overlap or touch (section 15.3.7.2).
    let merged = coalesce(spans.clone());
    Some(if merged.len() < spans.len() { merged } else { spans })
}

/// One range as far as the body has it, which may have nothing of it. `None`: it is invalid.
fn span(spec: &str, total: u64) -> Option<Option<Span>> {
    let (first, last) = spec.split_once('-')?;
    Some(match (position(first)?, position(last)?) {
        (None, None) => return None,
        (None, Some(suffix)) => {
            let suffix = suffix.min(total);
            (suffix > 0).then(|| Span { first: total - suffix, last: total - 1 })
        }
        (Some(first), last) if last.is_some_and(|last| last < first) => return None,
        (Some(first), last) => (first < total).then(|| Span { first, last: last.unwrap_or(u64::MAX).min(total - 1) }),
    })
}

/// Where a range begins or ends, which may be left out. `None`: it is no number.
fn position(text: &str) -> Option<Option<u64>> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    // A number too large for 64 bits is beyond any end.
    is_number.then(|| (!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

/// Ranges in order, those that overlap or touch merged: nobody gets a byte twice.
fn coalesce(mut parts: Vec<Span>) -> Vec<Span> {
    parts.sort_by_key(|part| part.first);
    let mut merged: Vec<Span> = Vec::with_capacity(parts.len());
    for part in parts {
        match merged.last_mut() {
            Some(before) if part.first <= before.last.saturating_add(1) => before.last = before.last.max(part.last),
            _ => merged.push(part),
        }
    }
    merged
}

/// The request's range, if it asks for one alone and under no condition of its own: what may be asked of an origin in
/// the node's name.
pub(crate) fn single_range(request: Fields<'_>) -> Option<&str> {
    let range = request.get_str(&header::RANGE)?.trim();
    let spec = range.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes=")).map(|_| range[6..].trim())?;
    let (first, last) = spec.split_once('-')?;
    let digits = |text: &str| text.len() < 19 && text.bytes().all(|byte| byte.is_ascii_digit());
    let one = digits(first) && digits(last) && !(first.is_empty() && last.is_empty());
    (one && !request.contains(&header::IF_RANGE)).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::map;

    #[test]
    fn content_ranges() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        for (value, expected) in [
            ("bytes 0-4/10", range(0, 4, 10)),
            ("Bytes 5-9/10", range(5, 9, 10)),
            ("bytes  5-9/10", range(5, 9, 10)),
            ("bytes 0-0/1", range(0, 0, 1)),
            ("bytes 0-4/*", None),
            ("bytes */10", None),
            ("bytes 5-4/10", None),
            ("bytes 5-10/10", None),
            ("bytes 0-4", None),
            ("bytes=0-4/10", None),
            ("items 0-4/10", None),
            ("bytes -4/10", None),
            ("bytes +0-4/10", None),
            ("bytes 0-4/99999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(ContentRange::of(&map(&[("content-range", value)])), expected, "{value}");
        }
        assert_eq!(
            ContentRange::of(&map(&[("content-range", "bytes 0-4/10"), ("content-range", "bytes 0-4/10")])),
            None
        );
        assert_eq!(ContentRange::of(&map(&[])), None);
    }

    #[test]
    fn which_ranges_are_asked_of_origins() {
        for (fields, expected) in [
            (&[("range", "bytes=0-4")][..], true),
            (&[("range", "Bytes=-5")], true),
            (&[("range", "bytes=5-")], true),
            (&[("range", "bytes=-")], false),
            (&[("range", "bytes=0-1,3-4")], false),
            (&[("range", "bytes=a-b")], false),
            (&[("range", "items=0-4")], false),
            (&[("range", "bytes=0-4"), ("if-range", "\"a\"")], false),
            (&[], false),
        ] {
            assert_eq!(single_range(Fields::Map(&map(fields))).is_some(), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_set_of_many_ranges_is_ignored() {
        let set = |count: u64| {
            let specs: Vec<String> = (0..count).map(|i| format!("{0}-{0}", i * 2)).collect();
            requested(&format!("bytes={}", specs.join(",")), 1000)
        };
        assert_eq!(set(MAX_RANGES as u64).map(|spans| spans.len()), Some(MAX_RANGES));
        assert_eq!(set(MAX_RANGES as u64 + 1), None);
    }
}
