//! Reading and writing one file. Everything here may wait for the disk, unless it is told to take what the page cache
//! has and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::buffers::Buffer;
use super::format::{self, BLOCK, Corrupt, HEADER, Header};
use super::trust::Trust;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl ReadError {
    /// Whether the page cache alone could not tell: either it does not have the file, or the file is just being
    /// changed.
    pub fn needs_disk(&self) -> bool {
        match self {
            ReadError::Io(error) => error.kind() == io::ErrorKind::WouldBlock,
            ReadError::Corrupt(corrupt) => matches!(corrupt, Corrupt::Header | Corrupt::Meta),
        }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, ReadError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Whether a call may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// No: what is not in memory is [`io::ErrorKind::WouldBlock`].
    PageCache,
    /// For the path of a file, and not for what is in it.
    Path,
    Disk,
}

/// Bytes of a file that are read first: header and metadata of most, and all of many.
const FIRST_READ: u64 = 8 << 10;

/// A file that was read.
pub(crate) struct Record {
    pub header: Header,
    pub meta: Vec<u8>,
    pub body: RecordBody,
}

pub(crate) enum RecordBody {
    /// Read and found undamaged.
    Whole(Bytes),
    /// To be read as it is needed.
    Open(File),
}

pub(crate) fn open(path: &Path, patience: Patience) -> io::Result<File> {
    if patience != Patience::PageCache {
        return File::open(path);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
        Ok(file) => Ok(file.into()),
        // Kernels before 5.12 have no such flag.
        Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64, patience: Patience) -> io::Result<()> {
    if patience == Patience::Disk {
        return file.read_exact_at(buffer, offset);
    }
    let length = buffer.len();
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) if read == length => Ok(()),
        // The rest is not in memory, or not in the file: a read that may wait will tell.
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    }
}

/// Something that tells this file apart from others and from itself before or after a change.
pub(crate) fn fingerprint(file: &File) -> io::Result<u32> {
    let of = file.metadata()?;
    let parts = [of.dev(), of.ino(), of.len(), of.mtime() as u64, of.mtime_nsec() as u64, of.ctime() as u64];
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(&part.to_le_bytes()));
    hasher.update(&of.ctime_nsec().to_le_bytes());
    Ok(hasher.finalize())
}

/// Reads the header and checks it against what the file system says.
pub(crate) fn read_header(file: &File, trust: Trust, patience: Patience) -> Result<Header, ReadError> {
    let length = file.metadata()?.len();
    if length < HEADER as u64 {
        return Err(Corrupt::Length.into());
    }
    let mut bytes = [0; HEADER];
    read_exact_at(file, &mut bytes, 0, patience)?;
    check(&bytes, trust, length)
}

fn check(bytes: &[u8; HEADER], trust: Trust, length: u64) -> Result<Header, ReadError> {
    let header = Header::decode(bytes)?;
    match () {
        () if header.log != trust.log => Err(Corrupt::OtherLog.into()),
        () if header.seq > trust.up_to => Err(Corrupt::Ahead.into()),
        () if header.seq.max(trust.survived) < trust.retired => Err(Corrupt::Outdated.into()),
        () if header.file_length() != length => Err(Corrupt::Length.into()),
        () => Ok(header),
    }
}

/// Reads a file: with its body, if that has at most `whole_up_to` bytes.
pub(crate) fn read(path: &Path, trust: Trust, whole_up_to: u64, patience: Patience) -> Result<Record, ReadError> {
    let file = open(path, patience)?;
    let length = file.metadata()?.len();
    let mut first = vec![0; length.min(FIRST_READ) as usize];
    read_exact_at(&file, &mut first, 0, patience)?;
    let header = first.first_chunk().ok_or(Corrupt::Length)?;
    let header = check(header, trust, length)?;
    let meta = read_range(&file, &first, HEADER as u64, u64::from(header.meta), patience)?;
    header.check_meta(&meta)?;
    if header.body > whole_up_to {
        return Ok(Record { header, meta, body: RecordBody::Open(file) });
    }
    let body = read_range(&file, &first, header.body_at(), header.body, patience)?;
    let sums = header.checksum_at(0);
    let sums = read_range(&file, &first, sums, length - sums, patience)?;
    format::check_blocks(&body, &sums)?;
    Ok(Record { header, meta, body: RecordBody::Whole(body.into()) })
}

/// Some bytes of a file, of which the first are at hand.
fn read_range(file: &File, first: &[u8], from: u64, length: u64, patience: Patience) -> io::Result<Vec<u8>> {
    let at_hand = first.get(from as usize..).unwrap_or_default();
    let at_hand = &at_hand[..at_hand.len().min(length as usize)];
    let mut bytes = vec![0; length as usize]; // at most MAX_META or what is read whole
    bytes[..at_hand.len()].copy_from_slice(at_hand);
    if at_hand.len() < bytes.len() {
        read_exact_at(file, &mut bytes[at_hand.len()..], from + at_hand.len() as u64, patience)?;
    }
    Ok(bytes)
}

/// Reads whole blocks of a body and checks them.
pub(crate) fn read_blocks(
    file: &File,
    header: &Header,
    first: u64,
    count: u64,
    patience: Patience,
) -> Result<Bytes, ReadError> {
    let from = first * BLOCK;
    let length = (count * BLOCK).min(header.body - from) as usize;
    let mut bytes = Buffer::of(length);
    read_exact_at(file, bytes.as_mut(), header.body_at() + from, patience)?;
    let mut sums = vec![0; length.div_ceil(BLOCK as usize) * 4];
    read_exact_at(file, &mut sums, header.checksum_at(first), patience)?;
    format::check_blocks(bytes.as_ref(), &sums)?;
    Ok(bytes.freeze())
}

/// Writes a file aside. It is not to be seen before it is [`rename`]d.
pub(crate) fn write_aside(aside: &Path, header: &Header, meta: &[u8], body: &[u8]) -> io::Result<()> {
    let room = vec![0; header.meta_room as usize - meta.len()];
    let sums = format::checksums(body);
    let mut file = create(aside)?;
    let encoded = header.encode();
    let mut slices = [&encoded, meta, &room, body, &sums].map(IoSlice::new);
    let mut left: &mut [IoSlice<'_>] = &mut slices;
    while !left.is_empty() {
        match file.write_vectored(left)? {
            0 if left.iter().all(|slice| slice.is_empty()) => break,
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut left, written),
        }
    }
    Ok(())
}

/// Creates a file to be written aside, and its directory if that is gone.
pub(crate) fn create(aside: &Path) -> io::Result<File> {
    let create = || OpenOptions::new().read(true).write(true).create_new(true).open(aside);
    in_directory(aside, create)
}

/// Puts what was written aside in its place.
pub(crate) fn rename(aside: &Path, path: &Path) -> io::Result<()> {
    in_directory(path, || fs::rename(aside, path))
}

/// Does something in the directory of a path, and makes the directory first if it is not there.
fn in_directory<T>(path: &Path, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match act() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Not its parents: if the root is gone, that is for the operator to know.
            if let Some(directory) = path.parent() {
                match fs::create_dir(directory) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
            }
            act()
        }
        done => done,
    }
}

/// How the head of a file was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rewritten {
    Done,
    /// It does not fit.
    NoRoom,
    /// The file is not the one that was meant.
    Another,
}

/// Changes header and metadata of a file where they lie, if it is the one that is meant.
pub(crate) fn rewrite_head(
    path: &Path,
    inode: Option<(u64, u64)>,
    new: &Header,
    meta: &[u8],
) -> Result<Rewritten, ReadError> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let metadata = file.metadata()?;
    let old = read_header(&file, Trust::in_all(new.log), Patience::Disk)?;
    let is_another = inode.is_some_and(|inode| inode != (metadata.dev(), metadata.ino()));
    if is_another || old.body != new.body {
        return Ok(Rewritten::Another);
    }
    if old.meta_room < new.meta {
        return Ok(Rewritten::NoRoom);
    }
    let mut bytes = Header { meta_room: old.meta_room, ..*new }.encode().to_vec();
    bytes.extend_from_slice(meta);
    file.write_all_at(&bytes, 0)?;
    Ok(Rewritten::Done)
}
