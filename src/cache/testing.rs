//! What the tests of several decisions need.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};

use crate::plan::{CacheKey, Side};
use crate::request::Fields;
pub(super) use crate::request::tests::map;

use super::head::Head;
use super::object::Object;
use super::policy::Storable;
use super::purge::PurgeSeq;
use super::vary::Presented;

/// What is stored of a URI of one site, begun when this purge was the newest.
pub(super) fn object(uri: &str, fields: &[(&str, &str)], body: impl Into<Bytes>, seq: u64) -> Object {
    of_site("s", uri, fields, body, seq)
}

/// The same of another site than `s`.
pub(super) fn of_site(site: &str, uri: &str, fields: &[(&str, &str)], body: impl Into<Bytes>, seq: u64) -> Object {
    let key = CacheKey::from_written(&format!("{site}\u{1f}1\u{1f}{uri}"));
    let head = Head::from_origin(StatusCode::OK, map(fields));
    Object::new(key.view(), head, body.into(), Storable::default(), PurgeSeq(seq))
}

/// A request with these fields, by somebody.
pub(super) fn presented(fields: &HeaderMap) -> Presented<'_> {
    let (fields, client) = (Fields::Map(fields), [192, 0, 2, 1].into());
    Presented { fields, client, peer: client, version: Version::HTTP_11, node: None, side: Side::Whole, pool: None }
}
