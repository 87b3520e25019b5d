//! What the tests of several decisions need.

use http::{HeaderMap, HeaderName, Version};

use crate::request::Fields;

use super::vary::Presented;

pub(super) fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    map
}

/// A request with these fields, by somebody.
pub(super) fn presented(fields: &HeaderMap) -> Presented<'_> {
    let (fields, client) = (Fields::Map(fields), [192, 0, 2, 1].into());
    Presented { fields, client, version: Version::HTTP_11, trusted_proxies: &[] }
}
