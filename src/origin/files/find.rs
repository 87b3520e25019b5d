//! Finding a file below a directory: never outside of it, whatever a path or a link says.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::config::model::{Coding, Files, PATH};

/// How often a look-up is repeated that something was moved under.
const AGAIN: usize = 8;

/// What was found for a path.
#[derive(Debug)]
pub(super) enum Found {
    File(FoundFile),
    /// The path is a directory's, without the slash at its end.
    Directory,
    Nothing,
    /// It is there, and not for the node's user.
    Forbidden,
}

#[derive(Debug)]
pub(super) struct FoundFile {
    pub file: File,
    pub stamp: Stamp,
    /// By which its type is known.
    pub name: Vec<u8>,
    pub coding: Option<Coding>,
    /// There are forms of it in several codings.
    pub varies: bool,
}

/// What tells states of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    pub length: u64,
    /// Nanoseconds since the epoch.
    pub modified: i128,
    pub inode: u64,
    /// The same of its last change of any kind, which nobody can set: a file that takes another's place may have that one's
    /// time, as images and archives often give all files one. It also changes with a mode or a link.
    pub changed: i128,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let since = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Stamp {
            length: metadata.len(),
            modified: since(metadata.mtime(), metadata.mtime_nsec()),
            inode: metadata.ino(),
            changed: since(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file has the same content, as far as can be known.
    pub(super) fn has_same_content(&self, other: &Stamp) -> bool {
        (self.length, self.modified, self.inode) == (other.length, other.modified, other.inode)
    }
}

/// Looks for what a path means. `accepted`: the codings that its client takes, the best first.
pub(super) fn find(files: &Files, path: &str, accepted: &[Coding]) -> io::Result<Found> {
    let Some(asked) = decode(path) else { return Ok(Found::Nothing) };
    // What is no directory is not waited for: a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::NONBLOCK;
    let root = rustix::fs::open(&files.root, flags, Mode::empty()).map_err(io::Error::from);
    let cannot =
        |error: io::Error| io::Error::new(error.kind(), format!("{} cannot be opened: {error}", files.root.display()));
    let root = File::from(root.map_err(cannot)?);
    let mut is_forbidden = false;
    for tried in &files.tries {
        let path = fill(tried, &asked);
        let found = match path.last() {
            Some(b'/') => in_directory(&root, &path, files, accepted)?,
            _ => file(&root, &path, files, accepted)?,
        };
        match found {
            Found::Nothing => {}
            Found::Forbidden => is_forbidden = true,
            // Only what was asked for is said to be one.
            Found::Directory if path != asked => {}
            found => return Ok(found),
        }
    }
    Ok(if is_forbidden { Found::Forbidden } else { Found::Nothing })
}

fn fill(tried: &str, path: &[u8]) -> Vec<u8> {
    let mut filled = Vec::with_capacity(tried.len() + path.len());
    for (place, part) in tried.split(PATH).enumerate() {
        if place > 0 {
            filled.extend_from_slice(path);
        }
        filled.extend_from_slice(part.as_bytes());
    }
    filled
}

fn in_directory(root: &File, path: &[u8], files: &Files, accepted: &[Coding]) -> io::Result<Found> {
    for index in &files.index {
        match file(root, &[path, index.as_bytes()].concat(), files, accepted)? {
            Found::Nothing | Found::Directory => {}
            found => return Ok(found),
        }
    }
    Ok(Found::Nothing)
}

fn file(root: &File, path: &[u8], files: &Files, accepted: &[Coding]) -> io::Result<Found> {
    let plain = match open(root, path)? {
        Opened::File(file) => file,
        Opened::Directory => return Ok(Found::Directory),
        Opened::Nothing => return Ok(Found::Nothing),
        Opened::Forbidden => return Ok(Found::Forbidden),
    };
    let mut found = FoundFile {
        stamp: Stamp::of(&plain.metadata()?),
        file: plain,
        name: path.to_vec(),
        coding: None,
        varies: false,
    };
    if !files.precompressed {
        return Ok(Found::File(found));
    }
    let mut beside = Vec::new();
    for (coding, ending) in [(Coding::Br, "br"), (Coding::Zstd, "zst"), (Coding::Gzip, "gz")] {
        if let Opened::File(file) = open(root, &[path, b".", ending.as_bytes()].concat())? {
            beside.push((coding, file));
        }
    }
    found.varies = !beside.is_empty();
    let best = accepted.iter().find_map(|wanted| beside.iter().position(|(coding, _)| coding == wanted));
    if let Some(best) = best {
        let (coding, file) = beside.swap_remove(best);
        (found.stamp, found.file, found.coding) = (Stamp::of(&file.metadata()?), file, Some(coding));
    }
    Ok(Found::File(found))
}

enum Opened {
    File(File),
    Directory,
    Nothing,
    Forbidden,
}

/// Opens what a path below the root means. A link may lead to another place below it, and nowhere else.
fn open(root: &File, path: &[u8]) -> io::Result<Opened> {
    let relative = OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path));
    if relative.is_empty() {
        return Ok(Opened::Directory);
    }
    // What is no file is not waited for: a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..AGAIN {
        opened = openat2(root, relative, flags, Mode::empty(), resolve);
        if !matches!(opened, Err(Errno::AGAIN)) {
            break;
        }
    }
    if matches!(opened, Err(Errno::NOSYS | Errno::PERM)) {
        opened = open_step_by_step(root, relative, flags);
    }
    match opened {
        Ok(opened) => {
            let file = File::from(opened);
            let kind = file.metadata()?.file_type();
            Ok(match () {
                () if kind.is_dir() => Opened::Directory,
                () if kind.is_file() => Opened::File(file),
                () => Opened::Nothing,
            })
        }
        Err(Errno::ACCESS | Errno::PERM) => Ok(Opened::Forbidden),
        // Out of the tree, in a ring, of something that has gone, too long, a socket or a device.
        Err(
            Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV,
        ) => Ok(Opened::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// For kernels before 5.6, and where a filter forbids the call: no link is followed at all.
fn open_step_by_step(root: &File, path: &OsStr, last: OFlags) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    let mut names = path.as_bytes().split(|byte| *byte == b'/').peekable();
    loop {
        let Some(name) = names.next() else { return Err(Errno::NOENT) };
        let is_last = names.peek().is_none();
        let flags = if is_last { last } else { OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY };
        let from = at.as_ref().map_or(root.as_fd(), |at| at.as_fd());
        let opened = openat(from, OsStr::from_bytes(name), flags | OFlags::NOFOLLOW, Mode::empty())?;
        if is_last {
            return Ok(opened);
        }
        at = Some(opened);
    }
}

/// The bytes that a path stands for. `None`: no file is meant by it, or one that is not shown: what begins with a dot, but for
/// `.well-known` (RFC 8615).
fn decode(path: &str) -> Option<Vec<u8>> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = match bytes[at] {
            b'%' => {
                let digits = path.get(at + 1..at + 3)?;
                at += 2;
                // A slash or a NUL in a name: there is no such file.
                u8::from_str_radix(digits, 16).ok().filter(|byte| !matches!(byte, b'/' | 0))?
            }
            byte => byte,
        };
        decoded.push(byte);
        at += 1;
    }
    let rest = decoded.strip_prefix(b"/")?;
    let mut names = rest.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next() {
        let is_last = names.peek().is_none();
        let is_hidden = name.first() == Some(&b'.') && name != b".well-known";
        if is_hidden || name.is_empty() && !is_last {
            return None;
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names_or_nothing() {
        for (path, expected) in [
            ("/", Some(&b"/"[..])),
            ("/a/b.html", Some(b"/a/b.html")),
            ("/a/", Some(b"/a/")),
            ("/a%20b", Some(b"/a b")),
            ("/%E4", Some(b"/\xe4")),
            ("/a\\..\\b", Some(b"/a\\..\\b")),
            ("/.well-known/acme", Some(b"/.well-known/acme")),
            ("/..", None),
            ("/a/../b", None),
            ("/%2e%2e/etc/passwd", None),
            ("/a/%2e./b", None),
            ("/a%2fb", None),
            ("/a%00b", None),
            ("/a//b", None),
            ("/.git/config", None),
            ("/a/.htpasswd", None),
            ("/%2egit/config", None),
            ("/%", None),
            ("/%zz", None),
            ("a", None),
        ] {
            assert_eq!(decode(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn nothing_outside_is_opened_either_way() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("www");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(directory.path().join("secret"), "no").unwrap();
        std::fs::write(root.join("a"), "a").unwrap();
        std::fs::write(root.join("sub/b"), "b").unwrap();
        for (link, to) in [
            ("out", "../secret"),
            ("absolute", "/etc/passwd"),
            ("up", ".."),
            ("ring", "ring"),
            ("inside", "sub/b"),
            ("proc", "/proc/self/root"),
        ] {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        }
        let opened = File::open(&root).unwrap();
        let is_file = |path: &str| matches!(open(&opened, path.as_bytes()).unwrap(), Opened::File(_));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let step_by_step = |path: &str| open_step_by_step(&opened, OsStr::new(&path[1..]), flags).is_ok();
        for (path, is_there, without_links) in [
            ("/a", true, true),
            ("/sub/b", true, true),
            ("/inside", true, false),
            ("/out", false, false),
            ("/absolute", false, false),
            ("/up/secret", false, false),
            ("/ring", false, false),
            ("/proc/etc/passwd", false, false),
            ("/a/b", false, false),
            ("/nothing", false, false),
        ] {
            assert_eq!((is_file(path), step_by_step(path)), (is_there, without_links), "{path}");
        }
    }
}
