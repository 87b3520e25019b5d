//! What a request asks for beside a resource: conditions and ranges (RFC 9110 sections 13 and 14). Pure, and the same for
//! whoever has the body: the cache, and files.

pub(crate) mod range;
pub(crate) mod respond;
