//! What happens to all that is stored at once, numbered: purges, and versions of sites.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

use super::super::tags::TagHash;

/// The number of a purge; an object's is that of the last purge before its fill began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
pub struct PurgeSeq(pub u64);

/// What one purge hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One URL of a site in all its variants and versions: `host/path?query`.
    Url { site: String, uri: String },
    /// All URLs of a site that begin with `host/path`.
    Prefix { site: String, prefix: String },
    /// Everything with a tag, of one site or of all.
    Tag { site: Option<String>, tag: TagHash },
    /// Everything of a site.
    Site { site: String },
    /// Everything.
    All,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub seq: PurgeSeq,
    pub time: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// What has one of the targets is never to be used again; `soft`: it is stale from now on.
    Purge { soft: bool, targets: Vec<Target> },
    /// The admin API set a site's version. It holds until the configuration's own number changes from what it
    /// was then.
    Version { site: String, version: u64, configured: u64 },
    /// What a compacted log has in the place of purges that nothing was older than.
    Retired { up_to: PurgeSeq },
    /// What a new log begins with: tells it from all others.
    Log { id: u32 },
}
