//! Header fields that every part of a proxy has to know: those of one connection, and dates.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::request::Fields;

/// Removes the fields that concern one connection only, and those that `Connection` names (RFC 9110 section
/// 7.6.1).
pub(crate) fn remove_hop_by_hop(fields: &mut HeaderMap) {
    if fields.contains_key(header::CONNECTION) {
        for name in connection_options(Fields::Map(fields)) {
            fields.remove(name);
        }
    }
    let gone = fields.keys().filter(|name| is_hop_by_hop(name.as_str()));
    for name in gone.cloned().collect::<SmallVec<[HeaderName; 4]>>() {
        fields.remove(name);
    }
}

/// Whether a field is of one connection, whatever `Connection` says.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "trailer"
            | "te"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-authentication-info"
    )
}

/// RFC 9110 section 6.6.1: a response without `Date` gets the time it came.
pub(crate) fn add_date(fields: &mut HeaderMap, now: Timestamp) {
    if !fields.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::from_str(&now.http_date())
    {
        fields.insert(header::DATE, date);
    }
}

/// The first value of a field, if it is a date.
pub(crate) fn date(fields: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    fields.get(name).and_then(|value| value.to_str().ok()).and_then(Timestamp::from_http_date)
}

/// The fields that `Connection` names, but for those that concern one connection whatever it says.
pub(crate) fn connection_options(fields: Fields<'_>) -> Vec<HeaderName> {
    let usual = |option: &[u8]| option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close");
    let mut names = Vec::new();
    fields.for_each(&header::CONNECTION, |line| {
        // Most lines are one of these alone.
        if !usual(line) {
            let options = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|option| !usual(option));
            names.extend(options.filter_map(|name| HeaderName::from_bytes(name).ok()));
        }
    });
    names
}

/// Splits a list at its commas, but not at those in quoted strings (RFC 9110 section 5.6.1).
pub(crate) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let (mut rest, has_quotes) = (Some(text), memchr::memchr(b'"', text.as_bytes()).is_some());
    std::iter::from_fn(move || {
        let text = rest?;
        let end = if has_quotes { unquoted_comma(text) } else { memchr::memchr(b',', text.as_bytes()) };
        rest = end.map(|end| &text[end + 1..]);
        Some(text[..end.unwrap_or(text.len())].trim_matches([' ', '\t']))
    })
    .filter(|part| !part.is_empty())
}

/// Where the first comma is that is in no quoted string.
fn unquoted_comma(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return true,
            _ => {}
        }
        false
    })
}
