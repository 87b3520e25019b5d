//! What is in a file: `header, metadata, body, checksums`. Pure.
//!
//! | bytes | what |
//! |---|---|
//! | [`HEADER`] | the header: sizes, purge sequence, checksums of itself and of the metadata; little-endian |
//! | `meta_room` | the metadata in postcard's encoding, with room to grow where it lies |
//! | `body` | the body |
//! | 4 for each [`BLOCK`] of the body | CRC-32 of each block |
//!
//! Header and metadata may be written anew in place. All else never changes: a file is written aside and renamed.

use std::borrow::Cow;

use bytes::{Buf, BufMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

use super::filter::Filter;
use super::id::FileId;
use super::index::Entry;
use crate::cache::freshness::Freshness;
use crate::cache::purge::PurgeSeq;
use crate::cache::tags::Tags;
use crate::cache::vary::Variant;
use crate::representation::range::ContentRange;

/// Bytes of a header.
pub const HEADER: usize = 64;
/// Bytes of the body under one checksum.
pub(crate) const BLOCK: u64 = 64 << 10;
/// Metadata above this is not kept on disk.
pub(crate) const MAX_META: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"SEAWALL\n";
/// Raised with every change of the format: files of another version are removed.
const VERSION: u32 = 2;
const NEVER: u64 = u64::MAX;

/// The first bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of which purge log the sequence is.
    pub log: u32,
    pub meta: u32,
    pub meta_crc: u32,
    pub meta_room: u32,
    pub body: u64,
    /// The purge sequence that the object has survived.
    pub seq: PurgeSeq,
    /// When a soft purge declared it stale.
    pub soft_purged: Option<Timestamp>,
    pub filter: Filter,
}

/// Why a file is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    #[error("it is no file of Seawall's or of another version of the format")]
    Foreign,
    #[error("it belongs to another purge log")]
    OtherLog,
    #[error("purges are forgotten that may have hit it")]
    Outdated,
    #[error("it has the number of a purge that has not been yet")]
    Ahead,
    #[error("its length is not what its header says")]
    Length,
    #[error("the checksum of its header is wrong")]
    Header,
    #[error("the checksum of its metadata is wrong")]
    Meta,
    #[error("the checksum of its body is wrong")]
    Body,
    #[error("it is stored under another key")]
    Key,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let (fields, crc) = bytes.split_at_mut(HEADER - 4);
        let mut left = &mut *fields;
        left.put_slice(&MAGIC);
        left.put_u32_le(VERSION);
        left.put_u32_le(self.log);
        left.put_u32_le(self.meta);
        left.put_u32_le(self.meta_crc);
        left.put_u32_le(self.meta_room);
        left.put_u64_le(self.body);
        left.put_u64_le(self.seq.0);
        left.put_u64_le(self.soft_purged.map_or(NEVER, Timestamp::as_secs));
        left.put_u64_le(self.filter.0);
        crc.copy_from_slice(&crc32fast::hash(fields).to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, Corrupt> {
        let mut left = bytes.as_slice();
        if left.split_off(..MAGIC.len()).is_none_or(|magic| magic != MAGIC) || left.get_u32_le() != VERSION {
            return Err(Corrupt::Foreign);
        }
        let (log, meta, meta_crc, meta_room) =
            (left.get_u32_le(), left.get_u32_le(), left.get_u32_le(), left.get_u32_le());
        let (body, seq, soft, filter) = (left.get_u64_le(), left.get_u64_le(), left.get_u64_le(), left.get_u64_le());
        if left != crc32fast::hash(&bytes[..HEADER - 4]).to_le_bytes() {
            return Err(Corrupt::Header);
        }
        if meta > meta_room || meta_room as usize > 2 * MAX_META || body > i64::MAX as u64 / 2 {
            return Err(Corrupt::Length);
        }
        let soft_purged = Some(soft).filter(|soft| *soft != NEVER).map(Timestamp::from_secs);
        if soft_purged.is_some_and(|time| time.as_secs() != soft) {
            return Err(Corrupt::Header); // a time that no clock has shown
        }
        Ok(Header { log, meta, meta_crc, meta_room, body, seq: PurgeSeq(seq), soft_purged, filter: Filter(filter) })
    }

    /// Where the body begins.
    pub fn body_at(&self) -> u64 {
        HEADER as u64 + u64::from(self.meta_room)
    }

    /// Where the checksum of a block is.
    pub fn checksum_at(&self, block: u64) -> u64 {
        self.body_at() + self.body + 4 * block
    }

    pub fn file_length(&self) -> u64 {
        self.checksum_at(self.body.div_ceil(BLOCK))
    }

    /// What the index has of the file.
    pub fn entry(&self, id: FileId) -> Entry {
        Entry::new(id, self.file_length(), self.seq, self.filter)
    }

    /// Whether these are the metadata that it speaks of.
    pub fn check_meta(&self, meta: &[u8]) -> Result<(), Corrupt> {
        if crc32fast::hash(meta) == self.meta_crc { Ok(()) } else { Err(Corrupt::Meta) }
    }
}

/// The checksums of a body that is there in one piece.
pub(crate) fn checksums(body: &[u8]) -> Vec<u8> {
    body.chunks(BLOCK as usize).flat_map(|block| crc32fast::hash(block).to_le_bytes()).collect()
}

/// Whether these are the checksums of these blocks, of which only the last may be shorter than [`BLOCK`].
pub(crate) fn check_blocks(blocks: &[u8], checksums: &[u8]) -> Result<(), Corrupt> {
    let expected = checksums.chunks_exact(4);
    if expected.len() != blocks.len().div_ceil(BLOCK as usize) {
        return Err(Corrupt::Length);
    }
    let same = |(block, crc): (&[u8], &[u8])| crc32fast::hash(block).to_le_bytes() == crc;
    if blocks.chunks(BLOCK as usize).zip(expected).all(same) { Ok(()) } else { Err(Corrupt::Body) }
}

/// Everything about a response but its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta<'a> {
    #[serde(borrow)]
    pub key: &'a str,
    pub status: u16,
    #[serde(borrow)]
    pub fields: Vec<(&'a str, &'a [u8])>,
    pub freshness: Freshness,
    pub variant: Cow<'a, Variant>,
    pub tags: Cow<'a, Tags>,
    /// Which part of the whole it is, if it is one.
    pub part: Option<ContentRange>,
}

impl<'a> Meta<'a> {
    /// `None`: it is too large.
    pub fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_allocvec(self).ok().filter(|bytes| bytes.len() <= MAX_META)
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        postcard::from_bytes(bytes).map_err(|_| Corrupt::Meta)
    }

    /// Status and fields.
    pub fn head(&self) -> Result<(StatusCode, HeaderMap), Corrupt> {
        let status = StatusCode::from_u16(self.status).map_err(|_| Corrupt::Meta)?;
        let mut fields = HeaderMap::with_capacity(self.fields.len());
        for (name, value) in &self.fields {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Corrupt::Meta)?;
            fields.append(name, HeaderValue::from_bytes(value).map_err(|_| Corrupt::Meta)?);
        }
        Ok((status, fields))
    }
}

/// The room that metadata get, so that a 304 can change them in place.
pub(crate) fn room_for(meta: usize) -> u32 {
    (meta + 64).next_multiple_of(64) as u32 // at most MAX_META and a little
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::reason::Basis;

    fn header() -> Header {
        Header {
            log: 7,
            meta: 100,
            meta_crc: 5,
            meta_room: 192,
            body: 3 * BLOCK + 1,
            seq: PurgeSeq(9),
            soft_purged: Some(Timestamp::from_secs(1)),
            filter: Filter(11),
        }
    }

    #[test]
    fn a_header_is_read_as_it_is_written_and_no_flipped_bit_goes_unnoticed() {
        for header in [header(), Header { soft_purged: None, body: 0, ..header() }] {
            let bytes = header.encode();
            assert_eq!(Header::decode(&bytes), Ok(header));
            for bit in 0..HEADER * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Header::decode(&flipped).is_err(), "bit {bit}");
            }
        }
        assert_eq!(header().file_length(), 64 + 192 + 3 * BLOCK + 1 + 16);
    }

    #[test]
    fn metadata_are_read_as_they_are_written_and_hostile_ones_refused() {
        let mut fields = HeaderMap::new();
        fields.append("vary", HeaderValue::from_static("accept"));
        fields.append("x-a", HeaderValue::from_bytes(&[0x80, 0xff]).unwrap());
        fields.append("x-a", HeaderValue::from_static(""));
        let (variant, tags) = (Variant::default(), Tags::default());
        let part = Some(ContentRange { first: 1, last: 2, total: 3 });
        let meta = Meta {
            key: "s\u{1f}1\u{1f}h/",
            status: 404,
            fields: fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            freshness: Freshness { basis: Basis::Expires, ..Freshness::default() },
            variant: Cow::Borrowed(&variant),
            tags: Cow::Borrowed(&tags),
            part,
        };
        let bytes = meta.encode().unwrap();
        let read = Meta::decode(&bytes).unwrap();
        assert_eq!(read, meta);
        assert_eq!(read.head().unwrap(), (StatusCode::NOT_FOUND, fields.clone()));
        for cut in 0..bytes.len() {
            assert!(Meta::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn damage_in_a_body_is_found_in_whichever_block_it_is() {
        let mut body: Vec<u8> = (0..3 * BLOCK as usize + 5).map(|number| number as u8).collect();
        let sums = checksums(&body);
        assert_eq!(check_blocks(&body, &sums), Ok(()));
        assert_eq!(check_blocks(&body[BLOCK as usize..], &sums[4..]), Ok(()));
        assert_eq!(check_blocks(&[], &[]), Ok(()));
        assert_eq!(check_blocks(&body, &sums[4..]), Err(Corrupt::Length));
        for at in [0, BLOCK as usize, body.len() - 1] {
            body[at] ^= 1;
            assert_eq!(check_blocks(&body, &sums), Err(Corrupt::Body), "{at}");
            body[at] ^= 1;
        }
    }
}
