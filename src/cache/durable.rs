//! What is to outlast the process: small files that are replaced as a whole and for good, and lines of logs, which tell whether
//! they are what was written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// `None` where there is nothing of the name.
pub(crate) fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a file in the place of another, by way of one beside it: whatever happens, one of them is there, and the new one
/// when this returns.
pub(crate) fn replace(path: &Path, aside: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(aside, path)?;
    sync_parent(path)
}

/// Waits until the disk has the names in the directory of a path.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// `CRC-32 TEXT`, with the end of a line.
pub(crate) fn line(text: &str) -> String {
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()))
}

/// The text of such a line without its end; `None`: it is damaged.
pub(crate) fn text_of(line: &[u8]) -> Option<&str> {
    let (crc, text) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(text.as_bytes())).then_some(text)
}
