//! One stored response, with everything ready that a hit needs: its head serialised as HTTP/1 sends it and HTTP/2 reads
//! it, its body in one piece, or where to read it.

use std::fmt::Debug;
use std::fs::File;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::config::model::Coding;
use crate::plan::Key;

use super::coding::{self, Coded};
use super::freshness::Freshness;
use super::part::ContentRange;
use super::policy::Storable;
use super::purge::PurgeSeq;
use super::respond::Selected;
use super::tags::{TAG_FIELDS, Tags};
use super::trouble::Trouble;
use super::vary::Variant;

/// A stored response. Immutable but for what purges have found it to be and what the compressor adds; what refreshes it makes a new one around the same body.
#[derive(Debug)]
pub struct Object {
    /// Behind the key.
    pub head: Head,
    pub content: Content,
    /// `None`: it does not vary by coding, and so is not coded.
    coding: Option<Box<Codings>>,
    pub freshness: Freshness,
    pub variant: Variant,
    /// `None`: it has none.
    tags: Option<Box<Tags>>,
    part: Option<Box<ContentRange>>,
    /// See [`Object::checked`].
    checked: AtomicU64,
    /// When a soft purge declared it stale: seconds since 1970, or [`NEVER`].
    soft_purged: AtomicU32,
    /// How often it was asked for, roughly: see [`Object::used`].
    uses: AtomicU32,
}

/// What the compressor makes of a body.
#[derive(Debug, Default)]
struct Codings {
    /// Whether it was given to the compressor; one for all objects with this body.
    begun: Arc<AtomicBool>,
    done: OnceLock<Box<[Coded]>>,
}

/// Of so many uses of an object one is counted.
const SAMPLE: u32 = 8;

/// Where the body is.
#[derive(Debug, Clone)]
pub enum Content {
    Memory(Bytes),
    Disk(Arc<dyn DiskBody>),
}

/// Bytes of a body that are read from a disk at once.
pub const MOST_READ: usize = 128 << 10;

/// A body that is read from a disk as it is needed.
pub trait DiskBody: Debug + Send + Sync {
    /// Of the whole, in bytes.
    fn length(&self) -> u64;

    /// Device and number of the file: what it is, whatever has its name now.
    fn inode(&self) -> (u64, u64);

    /// Some bytes from a place on as they lie in the file, at most so many, if they may be sent as they are: they have been
    /// found undamaged, and have been in memory ever since.
    fn part(&self, from: u64, most: u64) -> Option<FilePart>;

    /// Some bytes from a place before the end on, at least one and at most [`MOST_READ`]. They are what was stored: damage
    /// is an error.
    fn read(self: Arc<Self>, from: u64) -> Pin<Box<dyn Future<Output = Result<Bytes, Trouble>> + Send>>;
}

/// A part of a file.
#[derive(Debug)]
pub struct FilePart {
    pub file: Arc<File>,
    pub at: u64,
    pub length: u64,
}

impl Content {
    /// The body, if it is on disk alone.
    pub fn on_disk(&self) -> Option<&Arc<dyn DiskBody>> {
        match self {
            Content::Memory(_) => None,
            Content::Disk(body) => Some(body),
        }
    }

    /// The body, if it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match self {
            Content::Memory(body) => Some(body),
            Content::Disk(_) => None,
        }
    }

    fn length(&self) -> u64 {
        match self {
            Content::Memory(body) => body.len() as u64,
            Content::Disk(body) => body.length(),
        }
    }
}

impl From<Bytes> for Content {
    fn from(body: Bytes) -> Self {
        Content::Memory(body)
    }
}

const NEVER: u32 = u32::MAX;

/// A head that is larger is counted by itself, as long as something waits for a client.
pub const LARGE_HEAD: usize = 4 << 10;

/// The head of a response that may be shared, cleaned of what concerns one connection or this cache only.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: StatusCode,
    /// Status line and fields as HTTP/1.1 bytes, each line with its end, without the empty line; without `Content-Length`,
    /// which each answer gets anew, and, if it is stored, without `Age`. A map of the fields beside them would take ten
    /// times the memory; it is made of these bytes where one is needed. Before it is the key of the object, if it is one's.
    bytes: Bytes,
    /// Where the head begins in them.
    begin: u32,
    /// Where in it the value of `ETag` is.
    etag: Option<(NonZeroU32, u32)>,
    varies_by_coding: bool,
    last_modified: Option<HeadDate>,
    date: Option<HeadDate>,
}

impl Head {
    /// Cleans a head that came from an origin.
    pub fn from_origin(status: StatusCode, fields: HeaderMap) -> Self {
        Self::split(status, fields, &[]).0
    }

    /// Cleans a head that came from an origin, and takes out what only the request may have that it answers:
    /// cookies and the fields that `private` or `no-cache` name.
    pub fn split(status: StatusCode, mut fields: HeaderMap, excluded: &[HeaderName]) -> (Self, HeaderMap) {
        fields.remove(header::AGE);
        remove_hop_by_hop(&mut fields);
        let mut own = HeaderMap::new();
        for name in excluded.iter().chain([&header::SET_COOKIE]) {
            if let header::Entry::Occupied(entry) = fields.entry(name) {
                let (name, values) = entry.remove_entry_mult();
                for value in values {
                    own.append(name.clone(), value);
                }
            }
        }
        (Self::private(status, fields), own)
    }

    /// This head with some more fields.
    pub fn with(&self, more: &HeaderMap) -> Self {
        let mut fields = self.fields();
        for (name, value) in more {
            fields.append(name.clone(), value.clone());
        }
        Self::from_clean(self.status, fields)
    }

    /// Cleans a head that goes to one client only and so keeps its cookies.
    pub fn private(status: StatusCode, mut fields: HeaderMap) -> Self {
        clean(&mut fields);
        Self::from_clean(status, fields)
    }

    /// The same, of a response that is passed on as it is: nothing is asked of its head.
    pub fn passing(status: StatusCode, fields: &HeaderMap) -> Self {
        let named = connection_options(fields);
        let passes = |name: &HeaderName| {
            let is_tag = TAG_FIELDS.iter().any(|(tag, _)| tag == name);
            !HOP_BY_HOP.contains(name) && !is_tag && *name != header::CONTENT_LENGTH && !named.contains(name)
        };
        let h1 = serialise_those(status, fields, passes);
        Head { status, bytes: h1, begin: 0, etag: None, varies_by_coding: false, last_modified: None, date: None }
    }

    pub(super) fn from_clean(status: StatusCode, fields: HeaderMap) -> Self {
        let time = |name| fields.get(name).and_then(HeadDate::read);
        let (last_modified, date) = (time(header::LAST_MODIFIED), time(header::DATE));
        let h1 = serialise(status, &fields);
        let etag = lines(&h1).find(|(name, _)| *name == header::ETAG.as_str()).and_then(|(_, value)| {
            let at = value.as_ptr() as usize - h1.as_ptr() as usize; // it is a part of them, behind the status line
            Some((NonZeroU32::new(at as u32)?, (at + value.len()) as u32))
        });
        Head { status, bytes: h1, begin: 0, etag, varies_by_coding: coding::varies(&fields), last_modified, date }
    }

    /// As HTTP/1.1 sends it, but for what each answer has its own of.
    pub fn h1(&self) -> &[u8] {
        &self.bytes[self.begin as usize..]
    }

    /// The same, to be kept.
    pub fn h1_bytes(&self) -> Bytes {
        self.bytes.slice(self.begin as usize..)
    }

    /// Names and values, in the order in which they are sent.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &[u8])> {
        lines(self.h1())
    }

    /// Whether `Vary` names `Accept-Encoding`.
    pub fn varies_by_coding(&self) -> bool {
        self.varies_by_coding
    }

    /// All fields, names and values as slices of what is stored.
    pub fn fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(16);
        for (name, value) in self.lines() {
            // They were made of valid ones.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_maybe_shared(self.bytes.slice_ref(value)))
            {
                fields.append(name, value);
            }
        }
        fields
    }

    /// The first value of a field.
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        self.lines().find(|(other, _)| *other == name.as_str()).map(|(_, value)| value)
    }

    /// This head freshened by the fields of a 304 (RFC 9111 section 3.2).
    pub fn freshened_by(&self, not_modified: HeaderMap) -> Self {
        let update = Head::from_origin(StatusCode::NOT_MODIFIED, not_modified).fields();
        let mut fields = self.fields();
        for name in update.keys().filter(|name| !describes_the_content(name)) {
            // A tag is as strong as the weaker of both: what is stored may be coded otherwise than what the origin compared.
            if *name == header::ETAG && fields.get(name).is_some_and(|stored| stored.as_bytes().starts_with(b"W/")) {
                continue;
            }
            fields.remove(name);
            for value in update.get_all(name) {
                fields.append(name.clone(), value.clone());
            }
        }
        Self::from_clean(self.status, fields)
    }

    /// The same, said to be selected by `Accept-Encoding`.
    pub fn varying_by_coding(self) -> Self {
        if self.varies_by_coding {
            return self;
        }
        let mut fields = self.fields();
        coding::add_vary(&mut fields);
        Self::from_clean(self.status, fields)
    }

    /// The same in memory of its own: the block that it lies in may be far larger.
    pub fn detached(&self) -> Self {
        Head { bytes: Bytes::copy_from_slice(self.h1()), begin: 0, ..self.clone() }
    }

    /// The bytes of a key and of this head.
    pub fn behind(&self, key: Key<'_>) -> Vec<u8> {
        [key.as_str().as_bytes(), self.h1()].concat()
    }

    /// The same, in the beginning of a block that has it there behind a key; what is left of the block comes after it.
    pub fn taken_off(self, block: &mut Bytes, key: Key<'_>) -> Self {
        let begin = key.as_str().len();
        Head { bytes: block.split_to(begin + self.h1().len()), begin: begin as u32, ..self } // keys are shorter than 2^32
    }

    pub fn etag(&self) -> Option<&str> {
        let (from, to) = self.etag?;
        std::str::from_utf8(&self.h1()[from.get() as usize..to as usize]).ok()
    }

    /// Whether it is counted by itself, and not kept while its body is sent.
    pub fn is_large(&self) -> bool {
        self.h1().len() > LARGE_HEAD
    }

    /// Bytes of memory beyond the struct itself.
    fn weight(&self) -> usize {
        self.bytes.len()
    }

    /// What `respond` needs to know.
    pub fn selected(&self, length: Option<u64>) -> Selected<'_> {
        Selected {
            status: self.status,
            etag: self.etag(),
            last_modified: self.last_modified.map(HeadDate::timestamp),
            date: self.date.map(HeadDate::timestamp),
            date_is_strong: self.date_is_strong(),
            length,
        }
    }

    /// Whether `Last-Modified` tells bodies apart to the byte (RFC 9110 section 8.8.2.2): it might have changed twice in
    /// the second in which it was made, and codings of it all have one date.
    fn date_is_strong(&self) -> bool {
        self.last_modified.zip(self.date).is_some_and(|(modified, date)| date > modified) && !self.varies_by_coding
    }
}

/// A date in a head: whole seconds since 1970, and one more. What is after 2106 is then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HeadDate(NonZeroU32);

impl HeadDate {
    fn read(value: &HeaderValue) -> Option<Self> {
        let time = Timestamp::from_http_date(value.to_str().ok()?)?;
        let secs = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        Some(HeadDate(NonZeroU32::MIN.saturating_add(secs)))
    }

    fn timestamp(self) -> Timestamp {
        Timestamp::from_secs(u64::from(self.0.get()) - 1)
    }
}

impl Object {
    /// `purge_seq` is the purge sequence in force when its fill began.
    pub fn new(key: Key<'_>, head: Head, content: impl Into<Content>, storable: Storable, purge_seq: PurgeSeq) -> Self {
        let coding = head.varies_by_coding.then(Box::default);
        let head = match head.begin {
            0 => head.clone().taken_off(&mut head.behind(key).into(), key),
            _ => head, // its key is before it already
        };
        Object {
            head,
            content: content.into(),
            coding,
            freshness: storable.freshness,
            variant: storable.variant,
            tags: Some(storable.tags).filter(|tags| !tags.is_empty()).map(Box::new),
            part: storable.part.map(Box::new),
            checked: AtomicU64::new(purge_seq.0),
            soft_purged: AtomicU32::new(NEVER),
            uses: AtomicU32::new(0),
        }
    }

    /// The same with another body, subject to all purges after `checked` and after its own.
    pub fn with_body(&self, body: Bytes, checked: PurgeSeq) -> Self {
        let storable = Storable {
            freshness: self.freshness,
            variant: self.variant.clone(),
            tags: self.tags().clone(),
            part: None,
            excluded: Vec::new(),
        };
        Object::new(self.key(), self.head.clone(), body, storable, self.checked().min(checked))
    }

    pub fn key(&self) -> Key<'_> {
        let key = &self.head.bytes[..self.head.begin as usize];
        Key::of_written(std::str::from_utf8(key).unwrap_or_default()) // it was one
    }

    /// Whether it has this key.
    pub fn has_key(&self, key: &str) -> bool {
        self.head.bytes[..self.head.begin as usize] == *key.as_bytes()
    }

    pub fn tags(&self) -> &Tags {
        self.tags.as_deref().unwrap_or(Tags::none())
    }

    /// Which part of the whole the body is, if it is one.
    pub fn part(&self) -> Option<ContentRange> {
        self.part.as_deref().copied()
    }

    /// The same in content codings, in the order of the node's preference.
    pub fn codings(&self) -> &[Coded] {
        self.coding.as_ref().and_then(|coding| coding.done.get()).map_or(&[], |codings| codings)
    }

    /// Adds the body in content codings, once; to what varies by them.
    pub fn set_codings(&self, codings: impl IntoIterator<Item = (Coding, Bytes)>) {
        let coded = |(coding, body)| Coded { coding, head: coding::head_of(&self.head, coding), body };
        if let Some(coding) = &self.coding {
            let _ = coding.done.set(codings.into_iter().map(coded).collect()); // a second time changes nothing
        }
    }

    /// Takes over what was or is being made of the same body.
    pub fn share_coding(&mut self, before: &Object) {
        let (Some(mine), Some(theirs)) = (&mut self.coding, &before.coding) else { return };
        mine.begun = theirs.begun.clone();
        self.take_codings(before);
    }

    /// Takes over what has been made of the same body; whether there was something that it had not.
    pub fn take_codings(&self, before: &Object) -> bool {
        let takes = self.codings().is_empty() && !before.codings().is_empty();
        if takes {
            self.set_codings(before.codings().iter().map(|coded| (coded.coding, coded.body.clone())));
        }
        takes
    }

    /// If nobody has begun to code the body, and it may be: what says that somebody has. The caller does, or takes it back.
    pub fn begin_coding(&self) -> Option<Arc<AtomicBool>> {
        let coding = self.coding.as_ref()?;
        (!coding.begun.swap(true, Ordering::AcqRel)).then(|| coding.begun.clone())
    }

    pub fn give_up_coding(&self) {
        if let Some(coding) = &self.coding {
            coding.begun.store(false, Ordering::Release);
        }
    }

    /// Bytes of memory it takes, bookkeeping included.
    pub fn weight(&self) -> usize {
        let coded = |coded: &Coded| std::mem::size_of::<Coded>() + coded.head.weight() + coded.body.len();
        std::mem::size_of::<Object>()
            + self.head.weight() * if self.is_in_one_block() { 1 } else { 2 }
            + self.codings().iter().map(coded).sum::<usize>()
            + self.variant.weight()
            + self.tags.as_ref().map_or(0, |tags| std::mem::size_of::<Tags>() + tags.weight())
            + self.part.as_ref().map_or(0, |_| std::mem::size_of::<ContentRange>())
            + self.content.in_memory().map_or(0, Bytes::len)
    }

    /// Whether nothing but key and head is before the body. Else it has those there still with which it was stored first.
    fn is_in_one_block(&self) -> bool {
        let body = self.content.in_memory();
        body.is_none_or(|body| self.head.bytes.as_ptr_range().end == body.as_ptr())
    }

    pub fn length(&self) -> u64 {
        self.content.length()
    }

    /// Counts one use in [`SAMPLE`]: all cores would want the counter of a hot object at once.
    pub fn used(&self) {
        if fastrand::u32(..SAMPLE) == 0 {
            self.uses.fetch_add(SAMPLE, Ordering::Relaxed);
        }
    }

    /// Goes on counting where another object of the same response was.
    pub fn continue_uses(&mut self, before: &Object) {
        *self.uses.get_mut() = before.uses();
    }

    /// How often it was asked for, about.
    pub fn uses(&self) -> u32 {
        self.uses.load(Ordering::Relaxed)
    }

    /// The newest purge that this object is known to have survived.
    pub fn checked(&self) -> PurgeSeq {
        PurgeSeq(self.checked.load(Ordering::Acquire))
    }

    /// When the earliest soft purge up to [`Object::checked`] was that declared it stale.
    pub fn soft_purged(&self) -> Option<Timestamp> {
        let at = self.soft_purged.load(Ordering::Relaxed);
        (at != NEVER).then(|| Timestamp::from_secs(at.into()))
    }

    /// Remembers that it survived every purge up to `seq`, though perhaps declared stale by one. So purges need
    /// not be kept for the sake of objects that nobody asks for.
    pub fn survived(&self, seq: PurgeSeq, soft_purged: Option<Timestamp>) {
        if let Some(at) = soft_purged {
            let at = u32::try_from(at.as_secs()).unwrap_or(NEVER - 1);
            self.soft_purged.fetch_min(at, Ordering::Relaxed);
        }
        // Whoever sees this sees the former, too.
        self.checked.fetch_max(seq.0, Ordering::AcqRel);
    }
}

/// Fields that a 304 must not change, since what is stored depends on them (RFC 9111 section 3.2): how the body
/// is coded, and by what it is selected.
fn describes_the_content(name: &HeaderName) -> bool {
    matches!(*name, header::CONTENT_ENCODING | header::CONTENT_RANGE | header::VARY)
}

/// Removes the fields that concern one connection only, and those that `Connection` names (RFC 9110 section
/// 7.6.1).
pub fn remove_hop_by_hop(fields: &mut HeaderMap) {
    if fields.contains_key(header::CONNECTION) {
        for name in connection_options(fields) {
            fields.remove(name);
        }
    }
    let gone = fields.keys().filter(|name| HOP_BY_HOP.contains(name));
    for name in gone.cloned().collect::<SmallVec<[HeaderName; 4]>>() {
        fields.remove(name);
    }
}

/// Fields of one connection, whatever `Connection` says.
static HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::TE,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
];

/// RFC 9110 section 6.6.1: a response without `Date` gets the time it came.
pub fn add_date(fields: &mut HeaderMap, now: Timestamp) {
    if !fields.contains_key(header::DATE)
        && let Ok(date) = HeaderValue::from_str(&now.http_date())
    {
        fields.insert(header::DATE, date);
    }
}

/// Takes out what no client gets: fields of the origin's connection, tags, and the length, which is stated anew.
fn clean(fields: &mut HeaderMap) {
    remove_hop_by_hop(fields);
    for (name, _) in &TAG_FIELDS {
        fields.remove(name);
    }
    fields.remove(header::CONTENT_LENGTH);
}

/// The fields that `Connection` names, but for those that concern one connection whatever it says.
pub fn connection_options(fields: &HeaderMap) -> Vec<HeaderName> {
    let lines = fields.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let options = lines.flat_map(|line| line.split(',')).map(str::trim);
    let usual = |option: &&str| ["close", "keep-alive"].iter().any(|usual| option.eq_ignore_ascii_case(usual));
    options.filter(|option| !usual(option)).filter_map(|name| name.parse().ok()).collect()
}

/// The fields of a serialised head: names and values.
fn lines(h1: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let lines = h1.split_inclusive(|byte| *byte == b'\n').skip(1);
    lines.filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, line.get(colon + 2..line.len() - 2)?))
    })
}

/// Status line and fields as HTTP/1.1 bytes.
pub fn serialise(status: StatusCode, fields: &HeaderMap) -> Bytes {
    serialise_those(status, fields, |_| true)
}

/// The same with some of the fields. What has all of them takes no more memory than it needs.
fn serialise_those(status: StatusCode, fields: &HeaderMap, is_sent: impl Fn(&HeaderName) -> bool) -> Bytes {
    let reason = status.canonical_reason().unwrap_or("");
    let lengths = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    let mut out = Vec::with_capacity("HTTP/1.1 200 \r\n".len() + reason.len() + lengths.sum::<usize>());
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    put(&[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
    for (name, value) in fields.iter().filter(|(name, _)| is_sent(name)) {
        put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn an_object_takes_little_memory() {
        assert!(size_of::<Object>() <= 184, "{}", size_of::<Object>());
    }

    #[test]
    fn a_head_is_cleaned_of_what_must_not_be_shared() {
        let head = Head::from_origin(
            StatusCode::OK,
            map(&[
                ("content-type", "text/css"),
                ("connection", "close, X-Private"),
                ("x-private", "1"),
                ("keep-alive", "timeout=5"),
                ("transfer-encoding", "chunked"),
                ("content-length", "10"),
                ("age", "3"),
                ("content-range", "bytes 0-1/2"),
                ("surrogate-key", "a"),
                ("cache-tag", "b"),
                ("cache-tags", "c"),
                ("set-cookie", "d=e"),
            ]),
        );
        // Of a whole response `Content-Range` means nothing, so it is a field like any (RFC 9110 section 14.4).
        assert_eq!(head.h1(), b"HTTP/1.1 200 OK\r\ncontent-type: text/css\r\ncontent-range: bytes 0-1/2\r\n");
    }

    #[test]
    fn a_304_freshens_the_fields_that_it_may() {
        let stored = Head::from_origin(
            StatusCode::OK,
            map(&[("etag", "\"a\""), ("content-type", "text/css"), ("cache-control", "max-age=1"), ("x-a", "1")]),
        );
        let fresh = stored.freshened_by(map(&[
            ("cache-control", "max-age=2"),
            ("content-type", "text/html"),
            ("content-length", "0"),
            ("x-b", "2"),
            ("connection", "x-b"),
        ]));
        assert_eq!(fresh.status, StatusCode::OK);
        assert_eq!(
            fresh.fields(),
            map(&[("etag", "\"a\""), ("content-type", "text/html"), ("cache-control", "max-age=2"), ("x-a", "1")])
        );
    }
}
