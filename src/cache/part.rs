//! Parts of responses: what a fill that broke off has left, or what an origin answered to a range. They are kept apart
//! from whole objects, are only joined under one strong validator (RFC 9111 sections 3.3 and 3.4), and are never
//! taken for the whole. Pure.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, header};

use crate::request::{FieldLines, Fields};

use super::head::Head;
use super::object::Object;
use crate::representation::range::{ContentRange, Span};
use crate::representation::respond::{self, Reply, Selected};

/// A part of a response, under a strong entity tag.
#[derive(Clone)]
pub struct Part {
    /// Its head is that of the whole, its body only these bytes: nothing but this module may take it for an object.
    pub object: Arc<Object>,
    pub range: ContentRange,
    /// The bytes of the range.
    pub body: Bytes,
}

impl Part {
    /// `None` if the body is not what the range says, or there is nothing by which it could be joined to others.
    pub fn new(object: Object, range: ContentRange) -> Option<Self> {
        let body = object.content.in_memory()?.clone();
        let joinable = strong_etag(&object.head).is_some() && object.length() == range.length();
        joinable.then(|| Part { object: Arc::new(object), range, body })
    }

    /// What `respond` needs to know: the whole is there as far as conditions and positions go.
    pub fn selected(&self) -> Selected<'_> {
        self.object.head.selected(Some(self.range.total))
    }

    /// Whether it answers a GET without the rest.
    pub fn answers(&self, request: Fields<'_>) -> bool {
        match respond::respond(&Method::GET, request, &self.selected()) {
            Reply::Partial { first, last, .. } => self.range.first <= first && last <= self.range.last,
            Reply::NotModified | Reply::PreconditionFailed | Reply::RangeNotSatisfiable { .. } => true,
            Reply::Full | Reply::Multiple { .. } => false,
        }
    }

    /// What is missing, if it is in one piece.
    pub fn missing(&self) -> Option<Span> {
        let ContentRange { first, last, total } = self.range;
        match (first, last + 1) {
            (0, end) => Some(Span { first: end, last: total - 1 }),
            (first, end) if end == total => Some(Span { first: 0, last: first - 1 }),
            _ => None,
        }
    }

    /// Asks for what is missing, if what is here is still current (RFC 9110 section 13.1.5).
    pub fn ask_for(&self, missing: &Span, fields: &mut FieldLines) {
        if let Some(etag) = self.object.head.get(&header::ETAG) {
            fields.insert(&header::RANGE, format!("bytes={}-{}", missing.first, missing.last).as_bytes());
            fields.insert(&header::IF_RANGE, etag);
        }
    }

    /// Whether a 206 brings just what is missing of the same thing.
    pub fn is_completed_by(&self, missing: &Span, fields: &HeaderMap) -> bool {
        let expected = ContentRange { first: missing.first, last: missing.last, total: self.range.total };
        ContentRange::of(fields) == Some(expected)
            && fields.get(header::ETAG).map(|etag| etag.as_bytes()) == self.object.head.get(&header::ETAG)
    }

    /// Both in one, if they are of the same thing, overlap or touch, and are not longer than `most`; with the newer one's
    /// head.
    pub fn joined(&self, newer: &Part, most: u64) -> Option<Part> {
        let (old, new) = (&self.range, &newer.range);
        let same = old.total == new.total && strong_etag(&self.object.head) == strong_etag(&newer.object.head);
        let touching = old.first <= new.last + 1 && new.first <= old.last + 1;
        if !same || !touching {
            return None;
        }
        let range = ContentRange { first: old.first.min(new.first), last: old.last.max(new.last), total: old.total };
        if range.length() > most {
            return None;
        }
        let mut body = Vec::with_capacity(range.length() as usize);
        if old.first < new.first {
            body.extend_from_slice(&self.body[..(new.first - old.first) as usize]);
        }
        body.extend_from_slice(&newer.body);
        if old.last > new.last {
            body.extend_from_slice(&self.body[(new.last + 1 - old.first) as usize..]);
        }
        Part::new(newer.object.with_body(body.into(), self.object.checked()), range)
    }

    /// The object, if nothing is missing.
    pub fn whole(&self) -> Option<Arc<Object>> {
        (self.range.length() == self.range.total).then(|| self.object.clone())
    }
}

/// The prefix that a fill which broke off has left.
pub(crate) fn prefix(object: Object, total: Option<u64>) -> Option<Part> {
    let (received, total) = (object.length(), total?);
    if received == 0 || received >= total {
        return None;
    }
    Part::new(object, ContentRange { first: 0, last: received - 1, total })
}

pub(crate) fn strong_etag(head: &Head) -> Option<&str> {
    head.etag().filter(|etag| etag.starts_with('"'))
}

#[cfg(test)]
mod tests {
    use super::super::purge::PurgeSeq;
    use super::super::testing::{map, object};
    use super::*;

    fn part(first: u64, body: &'static str, total: u64, etag: &str, seq: u64) -> Option<Part> {
        let last = (first + body.len() as u64).saturating_sub(1);
        Part::new(object("h/a", &[("etag", etag)], body, seq), ContentRange { first, last, total })
    }

    #[test]
    fn only_under_a_strong_validator_and_of_the_stated_length() {
        assert!(part(0, "01234", 10, "\"a\"", 1).is_some());
        assert!(part(0, "01234", 10, "W/\"a\"", 1).is_none());
        let shorter = object("h/a", &[("etag", "\"a\"")], "0123", 1);
        assert!(Part::new(shorter, ContentRange { first: 0, last: 4, total: 10 }).is_none());
    }

    #[test]
    fn what_a_part_answers() {
        let part = part(2, "2345", 10, "\"a\"", 1).unwrap();
        for (fields, expected) in [
            (&[("range", "bytes=2-5")][..], true),
            (&[("range", "bytes=3-4")], true),
            (&[("range", "bytes=-8")], false),
            (&[("range", "bytes=2-6")], false),
            (&[("range", "bytes=1-5")], false),
            (&[("range", "bytes=2-")], false),
            (&[("range", "bytes=10-")], true),
            (&[("range", "bytes=2-3,5-5")], false),
            (&[("range", "bytes=2-5"), ("if-range", "\"a\"")], true),
            (&[("range", "bytes=2-5"), ("if-range", "\"b\"")], false),
            (&[("if-none-match", "\"a\"")], true),
            (&[("if-none-match", "\"b\"")], false),
            (&[], false),
        ] {
            assert_eq!(part.answers(Fields::Map(&map(fields))), expected, "{fields:?}");
        }
    }

    #[test]
    fn what_is_missing_and_what_completes_it() {
        for (first, body, missing) in [
            (0, "0123", Some(Span { first: 4, last: 9 })),
            (4, "456789", Some(Span { first: 0, last: 3 })),
            (2, "2345", None),
        ] {
            let part = part(first, body, 10, "\"a\"", 1).unwrap();
            assert_eq!(part.missing(), missing);
        }
        let part = part(0, "0123", 10, "\"a\"", 1).unwrap();
        let missing = part.missing().unwrap();
        let mut asked = FieldLines::default();
        part.ask_for(&missing, &mut asked);
        assert_eq!(Fields::Lines(&asked).to_map(), map(&[("range", "bytes=4-9"), ("if-range", "\"a\"")]));
        for (range, etag, completes) in [
            ("bytes 4-9/10", "\"a\"", true),
            ("bytes 4-9/10", "\"b\"", false),
            ("bytes 4-9/10", "W/\"a\"", false),
            ("bytes 4-8/10", "\"a\"", false),
            ("bytes 4-9/11", "\"a\"", false),
            ("bytes 3-9/10", "\"a\"", false),
        ] {
            let fields = map(&[("content-range", range), ("etag", etag)]);
            assert_eq!(part.is_completed_by(&missing, &fields), completes, "{range} {etag}");
        }
    }

    #[test]
    fn parts_of_one_thing_are_joined_where_they_touch() {
        for (old, new, expected) in [
            ((0, "0123"), (4, "456"), Some((0, "0123456"))),
            ((4, "456"), (0, "0123"), Some((0, "0123456"))),
            ((0, "0123"), (2, "XY45"), Some((0, "01XY45"))),
            ((2, "2345"), (0, "XYZ"), Some((0, "XYZ345"))),
            ((0, "01234567"), (2, "XY"), Some((0, "01XY4567"))),
            ((3, "34"), (0, "0123456789"), Some((0, "0123456789"))),
            ((0, "01"), (3, "3"), None),
        ] {
            let (old, new) = (part(old.0, old.1, 10, "\"a\"", 3).unwrap(), part(new.0, new.1, 10, "\"a\"", 7).unwrap());
            let joined = old.joined(&new, 10);
            assert!(old.joined(&new, old.range.length().max(new.range.length()) - 1).is_none());
            let found = joined.as_ref().map(|part| (part.range.first, std::str::from_utf8(&part.body).unwrap()));
            assert_eq!(found, expected);
            if let Some(joined) = joined {
                assert_eq!(joined.object.checked(), PurgeSeq(3), "purges since the older of them count");
                assert_eq!(joined.whole().is_some(), joined.range.length() == 10);
            }
        }
        let (old, other) = (part(0, "01", 10, "\"a\"", 1).unwrap(), part(2, "23", 10, "\"b\"", 1).unwrap());
        assert!(old.joined(&other, 10).is_none());
        let longer = part(2, "23", 11, "\"a\"", 1).unwrap();
        assert!(old.joined(&longer, 10).is_none());
    }
}
