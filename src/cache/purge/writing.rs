//! What is to be written to the purge log, and what came of it: between those who wait and the thread that writes.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::log::LogError;
use super::record::PurgeSeq;

/// What is to be done, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Writing {
    pub wanted: Mutex<Wanted>,
    pub attempts: watch::Sender<Attempt>,
}

#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// A thread is at it.
    pub running: bool,
    /// The log may be another process's by now.
    pub closed: bool,
    /// The log is to be written anew without what is forgotten up to here, if that is worth it.
    pub compact: Option<PurgeSeq>,
}

/// Up to which number it was tried the last time, and why it failed, if it did.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempt {
    pub up_to: PurgeSeq,
    pub error: Option<Arc<LogError>>,
}
