//! The head of a response that may be shared: serialised once, as HTTP/1 sends it and HTTP/2 reads it.

use std::num::NonZeroU32;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::clock::Timestamp;
use crate::fields::{self, connection_options, is_hop_by_hop, remove_hop_by_hop};
use crate::plan::{FIELDS_WITH_PLACES, Key};
use crate::request::Fields;

use super::tags::TAG_FIELDS;
use super::vary;
use crate::representation::respond::Selected;

/// A head that is larger is counted by itself, as long as something waits for a client.
pub(crate) const LARGE_HEAD: usize = 4 << 10;

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
    /// Whether it has one of [`FIELDS_WITH_PLACES`].
    names_places: bool,
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
                own.extend(values.map(|value| (name.clone(), value)));
            }
        }
        (Self::private(status, fields), own)
    }

    /// This head with some more fields.
    pub fn with(&self, more: &HeaderMap) -> Self {
        let mut fields = self.fields();
        fields.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self::from_clean(self.status, fields)
    }

    /// Cleans a head that goes to one client only and so keeps its cookies. What no client gets are fields of the origin's
    /// connection, tags, and the length, which is stated anew.
    pub fn private(status: StatusCode, mut fields: HeaderMap) -> Self {
        remove_hop_by_hop(&mut fields);
        TAG_FIELDS.iter().for_each(|(name, _)| _ = fields.remove(name));
        fields.remove(header::CONTENT_LENGTH);
        Self::from_clean(status, fields)
    }

    /// The same, of a response that is passed on as it is: nothing is asked of its head.
    pub fn passing(status: StatusCode, fields: &HeaderMap) -> Self {
        let named = connection_options(Fields::Map(fields));
        let passes = |name: &HeaderName| {
            let is_tag = TAG_FIELDS.iter().any(|(tag, _)| tag == name);
            !is_hop_by_hop(name.as_str()) && !is_tag && *name != header::CONTENT_LENGTH && !named.contains(name)
        };
        let h1 = serialise_those(status, fields, passes);
        Head {
            status,
            bytes: h1,
            begin: 0,
            etag: None,
            varies_by_coding: false,
            names_places: false,
            last_modified: None,
            date: None,
        }
    }

    pub(super) fn from_clean(status: StatusCode, fields: HeaderMap) -> Self {
        let date = |name| fields::date(&fields, &name).map(HeadDate::from);
        let (last_modified, date) = (date(header::LAST_MODIFIED), date(header::DATE));
        let h1 = serialise(status, &fields);
        let etag = lines(&h1).find(|(name, _)| *name == header::ETAG.as_str()).and_then(|(_, value)| {
            let at = value.as_ptr() as usize - h1.as_ptr() as usize; // it is a part of them, behind the status line
            Some((NonZeroU32::new(at as u32)?, (at + value.len()) as u32))
        });
        let varies_by_coding = vary::names_coding(&fields);
        let names_places = FIELDS_WITH_PLACES.iter().any(|name| fields.contains_key(name));
        Head { status, bytes: h1, begin: 0, etag, varies_by_coding, names_places, last_modified, date }
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

    /// Whether a field names a place that clients may know by another name.
    pub fn names_places(&self) -> bool {
        self.names_places
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
            fields.extend(update.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
        Self::from_clean(self.status, fields)
    }

    /// The same, said to be selected by `Accept-Encoding`.
    pub fn varying_by_coding(self) -> Self {
        if self.varies_by_coding {
            return self;
        }
        let mut fields = self.fields();
        vary::add_coding(&mut fields);
        Self::from_clean(self.status, fields)
    }

    /// The same in memory of its own: the block that it lies in may be far larger.
    pub fn detached(&self) -> Self {
        Head { bytes: Bytes::copy_from_slice(self.h1()), begin: 0, ..self.clone() }
    }

    /// The key before it, if it is an object's.
    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..self.begin as usize]
    }

    /// The same behind a key, unless it is there already.
    pub(super) fn under(self, key: Key<'_>) -> Self {
        if self.begin > 0 {
            return self;
        }
        let mut block = self.behind(key).into();
        self.taken_off(&mut block, key)
    }

    /// Whether a body comes right behind it in memory.
    pub(super) fn is_right_before(&self, body: &Bytes) -> bool {
        self.bytes.as_ptr_range().end == body.as_ptr()
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
    pub(super) fn weight(&self) -> usize {
        self.bytes.len()
    }

    /// What `respond` needs to know.
    pub fn selected(&self, length: Option<u64>) -> Selected<'_> {
        Selected {
            status: self.status,
            etag: self.etag(),
            last_modified: self.last_modified.map(Timestamp::from),
            date: self.date.map(Timestamp::from),
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

impl From<Timestamp> for HeadDate {
    fn from(time: Timestamp) -> Self {
        HeadDate(NonZeroU32::MIN.saturating_add(u32::try_from(time.as_secs()).unwrap_or(u32::MAX)))
    }
}

impl From<HeadDate> for Timestamp {
    fn from(date: HeadDate) -> Self {
        Timestamp::from_secs(u64::from(date.0.get()) - 1)
    }
}

/// Fields that a 304 must not change, since what is stored depends on them (RFC 9111 section 3.2): how the body
/// is coded, and by what it is selected.
fn describes_the_content(name: &HeaderName) -> bool {
    matches!(*name, header::CONTENT_ENCODING | header::CONTENT_RANGE | header::VARY)
}

/// The fields of a serialised head: names and values.
fn lines(h1: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let mut ends = memchr::memchr_iter(b'\n', h1);
    let mut begin = ends.next().map_or(h1.len(), |end| end + 1); // behind the status line
    ends.filter_map(move |end| {
        let line = &h1[std::mem::replace(&mut begin, end + 1)..end];
        let colon = memchr::memchr(b':', line)?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, line.get(colon + 2..line.len() - 1)?))
    })
}

/// Status line and fields as HTTP/1.1 bytes.
pub(crate) fn serialise(status: StatusCode, fields: &HeaderMap) -> Bytes {
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
    use super::super::testing::map;
    use super::*;

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
