//! Origins that were found while the node runs.

use crate::config::model::Origin;

/// What a source of origins has brought.
#[derive(Debug, Default, Clone)]
pub(super) struct Found {
    pub origins: Vec<Origin>,
    /// Those that it no longer has: they go on until one of the others has an address.
    pub(super) leaving: Vec<Origin>,
    /// Why it cannot be asked now; the origins are those that it had.
    pub error: Option<String>,
    /// It has been asked once, with whatever result.
    pub(super) is_known: bool,
}
