//! What can be the matter with a disk: a closed list of words, the same in `Cache-Status`, metrics and the manual.

use std::io;

use rustix::io::Errno;

use crate::origin::error::OriginError;

/// Why a disk was of no help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    IoError,
    /// What was on it was damaged.
    Corrupt,
    /// What was on it may have been purged meanwhile.
    Outdated,
    /// It did not answer in time, or too many waited for it already.
    Slow,
    Full,
    ReadOnly,
    OutOfService,
    NoDescriptors,
}

impl Trouble {
    pub const ALL: [Trouble; 8] = [
        Trouble::IoError,
        Trouble::Corrupt,
        Trouble::Outdated,
        Trouble::Slow,
        Trouble::Full,
        Trouble::ReadOnly,
        Trouble::OutOfService,
        Trouble::NoDescriptors,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Trouble::IoError => "disk-io-error",
            Trouble::Corrupt => "disk-corrupt",
            Trouble::Outdated => "disk-outdated",
            Trouble::Slow => "disk-slow",
            Trouble::Full => "disk-full",
            Trouble::ReadOnly => "disk-read-only",
            Trouble::OutOfService => "disk-out-of-service",
            Trouble::NoDescriptors => "disk-no-descriptors",
        }
    }

    /// For people to read.
    pub fn meaning(self) -> &'static str {
        match self {
            Trouble::IoError => "reading or writing failed",
            Trouble::Corrupt => "a stored file was damaged; it was removed",
            Trouble::Outdated => "nobody knows any more whether a stored file was purged meanwhile; it was removed",
            Trouble::Slow => "the disk did not answer within read_timeout, or too much waited for it",
            Trouble::Full => "the file system is full, or less than min_free is left",
            Trouble::ReadOnly => "the directory cannot be written; what is stored there is still used",
            Trouble::OutOfService => "the disk has failed and is left alone until it answers again",
            Trouble::NoDescriptors => "too many files are open",
        }
    }

    pub fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Trouble::Full,
            Some(Errno::ROFS) => Trouble::ReadOnly,
            Some(Errno::MFILE | Errno::NFILE) => Trouble::NoDescriptors,
            _ => Trouble::IoError,
        }
    }
}

impl OriginError {
    /// A stored body turned out to be damaged or gone when some of it was sent already: too late to ask the origin.
    pub fn stored_body_lost(trouble: Trouble) -> Self {
        OriginError::Broken { origin: "".into(), cause: format!("the stored body is lost: {}", trouble.meaning()) }
    }
}
