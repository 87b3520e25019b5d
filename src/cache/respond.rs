//! What a stored response answers to a request's conditions and range (RFC 9110 sections 13 and 14): one
//! pure function for memory hits, running fills and, later, other tiers.

use http::{Method, StatusCode, header};

use crate::clock::Timestamp;
use crate::request::Fields;

/// What the decision needs to know of the stored response.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    pub status: StatusCode,
    pub etag: Option<&'a str>,
    pub last_modified: Option<Timestamp>,
    /// Stands in for a missing `Last-Modified` (RFC 9111 section 4.3.2).
    pub date: Option<Timestamp>,
    /// Of the whole body; `None` while a fill of unknown length runs.
    pub length: Option<u64>,
}

/// How to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Full,
    NotModified,
    PreconditionFailed,
    /// The bytes from `first` to `last`, both included.
    Partial {
        first: u64,
        last: u64,
        total: u64,
    },
    /// Several such, each a part of a multipart body.
    Multiple {
        parts: Box<[Span]>,
        total: u64,
    },
    RangeNotSatisfiable {
        total: u64,
    },
}

/// Decides, in the order of RFC 9110 section 13.2.2.
pub fn respond(method: &Method, request: Fields<'_>, selected: &Selected<'_>) -> Reply {
    // Conditions are only evaluated where the answer without them would be 2xx (section 13.2.1).
    if !selected.status.is_success() {
        return Reply::Full;
    }
    if let Some(failed) = precondition(request, selected) {
        return failed;
    }
    if *method != Method::GET || selected.status != StatusCode::OK {
        return Reply::Full;
    }
    match (request.get_str(&header::RANGE), selected.length) {
        (Some(range), Some(total)) if if_range_holds(request, selected) => ranges(range, total),
        _ => Reply::Full,
    }
}

fn precondition(request: Fields<'_>, selected: &Selected<'_>) -> Option<Reply> {
    if let Some(list) = joined(request, &header::IF_MATCH) {
        if !matches_any(&list, selected.etag, strong_match) {
            return Some(Reply::PreconditionFailed);
        }
    } else if let Some(since) = date(request, &header::IF_UNMODIFIED_SINCE)
        && selected.last_modified.is_some_and(|modified| modified > since)
    {
        return Some(Reply::PreconditionFailed);
    }
    if let Some(list) = joined(request, &header::IF_NONE_MATCH) {
        return matches_any(&list, selected.etag, weak_match).then_some(Reply::NotModified);
    }
    let since = date(request, &header::IF_MODIFIED_SINCE)?;
    let modified = selected.last_modified.or(selected.date);
    modified.is_some_and(|modified| modified <= since).then_some(Reply::NotModified)
}

fn joined(request: Fields<'_>, name: &http::HeaderName) -> Option<String> {
    request.joined(name).map(|value| String::from_utf8_lossy(&value).into_owned())
}

fn date(request: Fields<'_>, name: &http::HeaderName) -> Option<Timestamp> {
    request.get_str(name).and_then(Timestamp::from_http_date)
}

fn matches_any(list: &str, etag: Option<&str>, matches: fn(&str, &str) -> bool) -> bool {
    if list.trim() == "*" {
        return true; // there is a current representation: the selected one
    }
    let Some(etag) = etag else { return false };
    super::control::split_list(list).any(|candidate| matches(candidate, etag))
}

/// RFC 9110 section 8.8.3.2.
fn strong_match(a: &str, b: &str) -> bool {
    a == b && !a.starts_with("W/") && a.starts_with('"')
}

fn weak_match(a: &str, b: &str) -> bool {
    a.strip_prefix("W/").unwrap_or(a) == b.strip_prefix("W/").unwrap_or(b)
}

/// RFC 9110 section 13.1.5: a range is only given if the condition holds, by strong comparison.
fn if_range_holds(request: Fields<'_>, selected: &Selected<'_>) -> bool {
    match request.get_str(&header::IF_RANGE).map(str::trim) {
        None => !request.contains(&header::IF_RANGE),
        Some(condition) if condition.starts_with('"') || condition.starts_with("W/") => {
            selected.etag.is_some_and(|etag| strong_match(condition, etag))
        }
        Some(condition) => {
            let condition = Timestamp::from_http_date(condition);
            condition.is_some() && condition == selected.last_modified
        }
    }
}

/// Byte ranges (RFC 9110 section 14.1.2). What is invalid, and a set that only an attacker would ask for, is
/// ignored, as section 14.2 allows.
fn ranges(range: &str, total: u64) -> Reply {
    let Some((unit, set)) = range.split_once('=') else { return Reply::Full };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Reply::Full;
    }
    let mut parts: Vec<Span> = Vec::new();
    let (mut asked, mut valid) = (0, true);
    for spec in set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty()) {
        asked += 1;
        match span(spec, total) {
            Ok(Some(part)) => parts.push(part),
            Ok(None) => {}
            Err(Invalid) => valid = false,
        }
        if asked > MAX_RANGES {
            return Reply::Full;
        }
    }
    if asked == 0 || !valid {
        return Reply::Full;
    }
    // In the order in which they were asked for, unless some overlap or touch (section 15.3.7.2).
    let merged = coalesce(parts.clone());
    if merged.len() < parts.len() {
        parts = merged;
    }
    match parts.as_slice() {
        [] => Reply::RangeNotSatisfiable { total },
        [Span { first, last }] => Reply::Partial { first: *first, last: *last, total },
        _ => Reply::Multiple { parts: parts.into(), total },
    }
}

/// Ranges in one set, at most.
const MAX_RANGES: usize = 32;

/// Bytes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

struct Invalid;

/// One range as far as the body has it; `None` if it has nothing of it.
fn span(spec: &str, total: u64) -> Result<Option<Span>, Invalid> {
    let (first, last) = spec.split_once('-').ok_or(Invalid)?;
    match (position(first), position(last)) {
        (Position::Absent, Position::At(suffix)) => {
            let suffix = suffix.min(total);
            Ok((suffix > 0).then(|| Span { first: total - suffix, last: total - 1 }))
        }
        (Position::At(first), last) => {
            let last = match last {
                Position::At(last) if last < first => return Err(Invalid),
                Position::At(last) => last,
                Position::Absent => u64::MAX,
                Position::Invalid => return Err(Invalid),
            };
            Ok((first < total).then(|| Span { first, last: last.min(total - 1) }))
        }
        _ => Err(Invalid),
    }
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

enum Position {
    Absent,
    At(u64),
    Invalid,
}

fn position(text: &str) -> Position {
    match text {
        "" => Position::Absent,
        // A number too large for 64 bits is beyond any end.
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => Position::At(digits.parse().unwrap_or(u64::MAX)),
        _ => Position::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::*;

    const MODIFIED: Timestamp = Timestamp::from_secs(784_111_777);
    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn reply(fields: &[(&str, &str)], length: Option<u64>, etag: &str, method: Method, status: u16) -> Reply {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let selected = Selected {
            status: StatusCode::from_u16(status).unwrap(),
            etag: (!etag.is_empty()).then_some(etag),
            last_modified: Some(MODIFIED),
            date: None,
            length,
        };
        respond(&method, Fields::Map(&headers), &selected)
    }

    #[test]
    fn conditions() {
        use Reply::{Full, NotModified, PreconditionFailed};
        for (fields, etag, expected) in [
            (&[][..], "\"a\"", Full),
            (&[("if-none-match", "\"a\"")], "\"a\"", NotModified),
            (&[("if-none-match", "W/\"a\"")], "\"a\"", NotModified),
            (&[("if-none-match", "\"x\", \"a\"")], "W/\"a\"", NotModified),
            (&[("if-none-match", "\"x\""), ("if-none-match", "\"a\"")], "\"a\"", NotModified),
            (&[("if-none-match", "\"x,\\\"a\\\"\"")], "\"a\"", Full),
            (&[("if-none-match", "*")], "", NotModified),
            (&[("if-none-match", "\"x\"")], "\"a\"", Full),
            (&[("if-none-match", "\"x\""), ("if-modified-since", AT)], "\"a\"", Full),
            (&[("if-modified-since", AT)], "\"a\"", NotModified),
            (&[("if-modified-since", BEFORE)], "\"a\"", Full),
            (&[("if-modified-since", "yesterday")], "\"a\"", Full),
            (&[("if-match", "\"a\"")], "\"a\"", Full),
            (&[("if-match", "\"a\"")], "W/\"a\"", PreconditionFailed),
            (&[("if-match", "W/\"a\"")], "W/\"a\"", PreconditionFailed),
            (&[("if-match", "*")], "\"a\"", Full),
            (&[("if-match", "\"x\"")], "\"a\"", PreconditionFailed),
            (&[("if-unmodified-since", BEFORE)], "\"a\"", PreconditionFailed),
            (&[("if-unmodified-since", AT)], "\"a\"", Full),
            (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], "\"a\"", NotModified),
        ] {
            assert_eq!(reply(fields, Some(10), etag, Method::GET, 200), expected, "{fields:?} {etag}");
        }
        assert_eq!(reply(&[("if-none-match", "*")], Some(10), "\"a\"", Method::GET, 404), Full);
    }

    #[test]
    fn ranges() {
        let part = |first, last| Reply::Partial { first, last, total: 10 };
        let multiple = |parts: &[(u64, u64)]| Reply::Multiple {
            parts: parts.iter().map(|(first, last)| Span { first: *first, last: *last }).collect(),
            total: 10,
        };
        let beyond = Reply::RangeNotSatisfiable { total: 10 };
        for (range, expected) in [
            ("bytes=0-", part(0, 9)),
            ("bytes=5-9", part(5, 9)),
            ("bytes=5-5", part(5, 5)),
            ("bytes=5-99", part(5, 9)),
            ("bytes=-5", part(5, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=-0", beyond.clone()),
            ("bytes=10-", beyond.clone()),
            ("bytes=10-20", beyond.clone()),
            ("bytes=99999999999999999999-", beyond.clone()),
            ("bytes=0-99999999999999999999", part(0, 9)),
            ("Bytes=0-1", part(0, 1)),
            ("bytes=9-5", Reply::Full),
            ("bytes=a-b", Reply::Full),
            ("bytes=-", Reply::Full),
            ("bytes=5", Reply::Full),
            ("bytes", Reply::Full),
            ("lines=0-1", Reply::Full),
            ("bytes=0-1,3-4", multiple(&[(0, 1), (3, 4)])),
            ("bytes=5-6, 0-1", multiple(&[(5, 6), (0, 1)])),
            ("bytes= 0-1 ,, -2 ,", multiple(&[(0, 1), (8, 9)])),
            ("bytes=0-1,2-3", part(0, 3)),
            ("bytes=0-5,3-7,9-", multiple(&[(0, 7), (9, 9)])),
            ("bytes=0-,0-,0-", part(0, 9)),
            ("bytes=0-1,20-30", part(0, 1)),
            ("bytes=20-30,40-", beyond.clone()),
            ("bytes=0-1,x", Reply::Full),
            ("bytes=", Reply::Full),
            ("bytes=,", Reply::Full),
            ("bytes=+1-2", Reply::Full),
        ] {
            assert_eq!(reply(&[("range", range)], Some(10), "\"a\"", Method::GET, 200), expected, "{range}");
        }
        assert_eq!(
            reply(&[("range", "bytes=-5")], Some(0), "", Method::GET, 200),
            Reply::RangeNotSatisfiable { total: 0 }
        );
        for (method, status, length) in
            [(Method::HEAD, 200, Some(10)), (Method::GET, 203, Some(10)), (Method::GET, 200, None)]
        {
            assert_eq!(reply(&[("range", "bytes=0-1")], length, "", method, status), Reply::Full);
        }
    }

    #[test]
    fn if_range() {
        for (condition, etag, given) in [
            ("\"a\"", "\"a\"", true),
            ("\"b\"", "\"a\"", false),
            ("W/\"a\"", "W/\"a\"", false),
            (AT, "\"a\"", true),
            (BEFORE, "\"a\"", false),
            ("nonsense", "\"a\"", false),
        ] {
            let found = reply(&[("range", "bytes=0-1"), ("if-range", condition)], Some(10), etag, Method::GET, 200);
            assert_eq!(matches!(found, Reply::Partial { .. }), given, "{condition} {etag}");
        }
    }

    #[test]
    fn whatever_is_asked_for_stays_within_the_body_and_is_given_once() {
        let mut random = fastrand::Rng::with_seed(7);
        let number = |random: &mut fastrand::Rng| match random.u8(..8) {
            0 => String::new(),
            1 => u64::MAX.to_string(),
            2 => "18446744073709551616".to_owned(),
            _ => random.u64(..24).to_string(),
        };
        for _ in 0..20_000 {
            let total = random.u64(..20);
            let specs: Vec<String> = (0..random.usize(..6))
                .map(|_| {
                    format!("{}{}{}", number(&mut random), ["-", "-", "-", ""][random.usize(..4)], number(&mut random))
                })
                .collect();
            let range = format!("bytes={}", specs.join(","));
            let parts = match reply(&[("range", &range)], Some(total), "", Method::GET, 200) {
                Reply::Full | Reply::RangeNotSatisfiable { .. } => continue,
                Reply::Partial { first, last, .. } => vec![Span { first, last }],
                Reply::Multiple { parts, .. } => parts.into_vec(),
                other => panic!("{range}: {other:?}"),
            };
            assert!(parts.iter().all(|part| part.first <= part.last && part.last < total), "{range} of {total}");
            let given: u64 = parts.iter().map(|part| part.last - part.first + 1).sum();
            assert!(given <= total, "{range} of {total}");
        }
    }

    #[test]
    fn a_set_of_many_ranges_is_ignored() {
        let set = |count: u64| {
            let specs: Vec<String> = (0..count).map(|i| format!("{0}-{0}", i * 2)).collect();
            reply(&[("range", &format!("bytes={}", specs.join(",")))], Some(1000), "", Method::GET, 200)
        };
        assert!(matches!(set(MAX_RANGES as u64), Reply::Multiple { .. }));
        assert_eq!(set(MAX_RANGES as u64 + 1), Reply::Full);
    }
}
