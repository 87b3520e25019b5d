//! What a node says of a reload that a signal has asked for, to whoever has sent it: a small file in the service's runtime
//! directory. A signal has no answer of its own.

use std::io;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

/// The name of the file.
const FILE: &str = "reload.json";

/// How the last reload went that a signal has asked for.
#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Verdict {
    /// When it began: [`now`].
    pub began_us: u64,
    pub ok: bool,
    /// What an operator is to read.
    pub text: String,
}

/// Microseconds of a clock that all processes of the machine share and that nobody sets.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1_000_000).saturating_add(now.tv_nsec as u64 / 1000)
}

/// The service's runtime directory, if the process is one's; of several the first.
pub(crate) fn directory() -> Option<PathBuf> {
    let all = std::env::var_os("RUNTIME_DIRECTORY")?.into_string().ok()?;
    let first = all.split(':').next().filter(|first| !first.is_empty())?;
    Some(first.into())
}

impl Verdict {
    /// Puts it in the place of the one before.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        let aside = directory.join(format!("{FILE}.new"));
        std::fs::write(&aside, serde_json::to_vec(self)?)?;
        std::fs::rename(aside, directory.join(FILE))
    }

    /// `None`: there is none yet.
    pub(crate) fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(directory.join(FILE)).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Verdict::read(directory.path()), None);
        let (first, second) = (now(), now());
        assert!(second >= first && first > 0);
        let verdict = Verdict { began_us: second, ok: false, text: "a line\nand another".into() };
        verdict.write(directory.path()).unwrap();
        assert_eq!(Verdict::read(directory.path()), Some(verdict));
    }
}
