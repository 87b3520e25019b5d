//! Header fields that every part of a proxy has to know: those of one connection, and dates.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use crate::clock::Timestamp;

/// Removes the fields that concern one connection only, and those that `Connection` names (RFC 9110 section
/// 7.6.1).
pub(crate) fn remove_hop_by_hop(fields: &mut HeaderMap) {
    if fields.contains_key(header::CONNECTION) {
        for name in connection_options(fields) {
            fields.remove(name);
        }
    }
    let gone = fields.keys().filter(|name| HOP_BY_HOP.contains(name));
    for name in gone.cloned().collect::<SmallVec<[HeaderName; 4]>>() {
        fields.remove(name);
    }
}

/// Fields of one connection, whatever `Connection` says.
pub(crate) static HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::TE,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
];

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
pub(crate) fn connection_options(fields: &HeaderMap) -> Vec<HeaderName> {
    let usual = |option: &[u8]| option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close");
    // Most lines are one of these alone.
    let lines = fields.get_all(header::CONNECTION).iter().filter(|line| !usual(line.as_bytes()));
    let options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    options.filter(|option| !usual(option)).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}
