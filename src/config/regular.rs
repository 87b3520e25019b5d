//! Reading the files that a configuration names: regular ones only, and no more of them than makes sense.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::diagnose::Source;

/// No file of a configuration is larger than this; anything above is a mistake.
const MAX_FILE: u64 = 64 << 20;

/// Reads a whole regular file. Devices and pipes, which may have no end or make the reader wait, are refused.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    let read = File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if read as u64 > MAX_FILE {
        return Err(io::Error::other("it is too large for a file of a configuration"));
    }
    Ok(content)
}

/// Reads a file of text. The error says what is wrong with it, not which it is.
pub(crate) fn read_source(path: &Path) -> Result<Source, String> {
    let bytes = read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "cannot be read: it is not UTF-8")?;
    Ok(Source { path: path.to_owned(), text: text.into(), secret: false })
}
