//! What a stored response answers to a request's conditions and range (RFC 9110 sections 13 and 14): one
//! pure function for memory hits, running fills and, later, other tiers.

use http::{Method, StatusCode, header};

use crate::clock::Timestamp;
use crate::fields::split_list;
use crate::request::Fields;

use super::range::{Span, requested};

/// What the decision needs to know of the stored response.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    pub status: StatusCode,
    pub etag: Option<&'a str>,
    pub last_modified: Option<Timestamp>,
    /// Stands in for a missing `Last-Modified` (RFC 9111 section 4.3.2).
    pub date: Option<Timestamp>,
    /// Whether `last_modified` tells bodies apart to the byte.
    pub date_is_strong: bool,
    /// Of the whole body; `None` while a fill of unknown length runs.
    pub length: Option<u64>,
}

/// How to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The whole, with its status.
    Full,
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// The bytes from `first` to `last`, both included.
    Partial { first: u64, last: u64, total: u64 },
    /// Several such, each a part of a multipart body.
    Multiple { parts: Box<[Span]>, total: u64 },
    /// 416: the body has none of the bytes.
    RangeNotSatisfiable { total: u64 },
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
        (Some(range), Some(total)) if if_range_holds(request, selected) => match requested(range, total).as_deref() {
            None => Reply::Full,
            Some([]) => Reply::RangeNotSatisfiable { total },
            Some([Span { first, last }]) => Reply::Partial { first: *first, last: *last, total },
            Some(parts) => Reply::Multiple { parts: parts.into(), total },
        },
        _ => Reply::Full,
    }
}

fn precondition(request: Fields<'_>, selected: &Selected<'_>) -> Option<Reply> {
    if let Some(list) = request.joined_text(&header::IF_MATCH) {
        if !matches_any(&list, selected.etag, strong_match) {
            return Some(Reply::PreconditionFailed);
        }
    } else if let Some(since) = date(request, &header::IF_UNMODIFIED_SINCE)
        && selected.last_modified.is_some_and(|modified| modified > since)
    {
        return Some(Reply::PreconditionFailed);
    }
    if let Some(list) = request.joined_text(&header::IF_NONE_MATCH) {
        return matches_any(&list, selected.etag, weak_match).then_some(Reply::NotModified);
    }
    let since = date(request, &header::IF_MODIFIED_SINCE)?;
    let modified = selected.last_modified.or(selected.date);
    modified.is_some_and(|modified| modified <= since).then_some(Reply::NotModified)
}

fn date(request: Fields<'_>, name: &http::HeaderName) -> Option<Timestamp> {
    request.get_str(name).and_then(Timestamp::from_http_date)
}

fn matches_any(list: &str, etag: Option<&str>, matches: fn(&str, &str) -> bool) -> bool {
    if list.trim() == "*" {
        return true; // there is a current representation: the selected one
    }
    let Some(etag) = etag else { return false };
    split_list(list).any(|candidate| matches(candidate, etag))
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
            selected.date_is_strong && condition.is_some() && condition == selected.last_modified
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::map;

    const MODIFIED: Timestamp = Timestamp::from_secs(784_111_777);

    /// Each row of tests/tables/respond.txt, which says how it is read.
    #[test]
    fn answers() {
        let (mut cases, mut wrong) = (0, Vec::new());
        for row in include_str!("../../tests/tables/respond.txt").lines().filter(|row| row.contains(" | ")).skip(1) {
            let columns: Vec<&str> = row.split(" | ").collect();
            let [methods, stored, request, expected] = columns[..] else { panic!("{row}") };
            let stored: Vec<&str> = stored.split(' ').collect();
            let fields: Vec<(&str, &str)> = request.split("; ").filter_map(|field| field.split_once(':')).collect();
            let headers = map(&fields.iter().map(|(name, value)| (*name, value.trim())).collect::<Vec<_>>());
            let selected = Selected {
                status: stored[0].parse().unwrap(),
                etag: Some(stored[1]).filter(|etag| *etag != "-"),
                last_modified: stored.get(3).is_none_or(|how| *how == "weakly-dated").then_some(MODIFIED),
                date: (stored.get(3) == Some(&"received-then")).then_some(MODIFIED),
                date_is_strong: stored.get(3) != Some(&"weakly-dated"),
                length: stored[2].parse().ok(),
            };
            for method in methods.split(' ') {
                let found = describe(&respond(&method.parse().unwrap(), Fields::Map(&headers), &selected));
                if found != expected {
                    wrong.push(format!("{method} of {row}: {found}"));
                }
                cases += 1;
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(cases > 120, "{cases}");
    }

    fn describe(reply: &Reply) -> String {
        match reply {
            Reply::Full => "full".into(),
            Reply::NotModified => "304".into(),
            Reply::PreconditionFailed => "412".into(),
            Reply::RangeNotSatisfiable { .. } => "416".into(),
            Reply::Partial { first, last, .. } => format!("{first}-{last}"),
            Reply::Multiple { parts, .. } => {
                let parts: Vec<String> = parts.iter().map(|part| format!("{}-{}", part.first, part.last)).collect();
                parts.join(" ")
            }
        }
    }
}
