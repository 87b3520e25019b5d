//! Reading the files that a configuration names: regular ones only, and no more of them than makes sense.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// No file of a configuration is larger than this; anything above is a mistake.
const MAX_FILE: u64 = 64 << 20;

/// Reads a whole regular file. Devices and pipes, which may have no end or make the reader wait, are refused.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
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
