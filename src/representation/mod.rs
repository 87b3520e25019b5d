//! What a request asks for beside a resource: which representation of it (RFC 9110 section 12), under which conditions
//! (section 13), and how much of it (section 14). Pure, and the same for whoever has the body: the cache, and files.

pub(crate) mod negotiate;
pub(crate) mod range;
pub(crate) mod respond;
