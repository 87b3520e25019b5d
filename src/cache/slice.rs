//! Which slice of what, and what an origin's answer is to who asks for one. Pure; [`super::slices`] puts them together.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::plan::CacheKey;
use crate::request::Fields;

use crate::representation::range::ContentRange;

/// Which slice of what.
#[derive(Debug, Clone, Copy)]
pub struct Slice<K> {
    /// The key of the whole.
    pub of: K,
    pub size: u64,
    pub number: u64,
    /// Whether an answer begins with it: of what is not to be had so, the whole can be given instead.
    pub begins: bool,
}

/// What an origin's answer is to who asked for a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceVerdict {
    Slice,
    /// The whole: the origin gives no ranges of it.
    Whole,
    /// Something that is not about ranges: an error, a redirect.
    Other,
    /// A part, but not one that could be put together with others.
    Unusable,
}

impl Slice<&str> {
    pub fn to_owned(self) -> Slice<CacheKey> {
        let Slice { of, size, number, begins } = self;
        Slice { of: CacheKey::from_written(of), size, number, begins }
    }
}

impl<K> Slice<K> {
    /// The value of `Range` that asks for it.
    pub fn range(&self) -> HeaderValue {
        let first = self.number.saturating_mul(self.size);
        let range = format!("bytes={first}-{}", first.saturating_add(self.size - 1));
        HeaderValue::try_from(range).unwrap_or(HeaderValue::from_static("bytes=0-")) // digits are valid
    }

    pub fn verdict(&self, status: StatusCode, fields: &HeaderMap) -> SliceVerdict {
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let first = self.number.saturating_mul(self.size);
                let end = first.saturating_add(self.size);
                let fits = |range: ContentRange| range.first == first && range.last == range.total.min(end) - 1;
                match ContentRange::of_joinable(fields).is_some_and(fits) {
                    true => SliceVerdict::Slice,
                    false => SliceVerdict::Unusable,
                }
            }
            StatusCode::NOT_MODIFIED => SliceVerdict::Slice,
            StatusCode::OK => SliceVerdict::Whole,
            // There is nothing of which this could be the beginning: it is empty.
            StatusCode::RANGE_NOT_SATISFIABLE if self.number == 0 => SliceVerdict::Unusable,
            _ => SliceVerdict::Other,
        }
    }
}

/// The first byte that a request wants, as far as that can be told without knowing how many there are.
pub(crate) fn first_byte(method: &Method, request: Fields<'_>) -> u64 {
    let range = request.get_str(&header::RANGE).filter(|_| *method == Method::GET).unwrap_or_default();
    let spec = range.split_once('=').map_or("", |(_, set)| set.trim());
    match spec.split_once('-') {
        Some((first, _)) if !spec.contains(',') => first.trim().parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::map;
    use super::*;

    #[test]
    fn what_an_origin_answers_to_who_asks_for_a_slice() {
        let slice = Slice { of: "k", size: 10, number: 2, begins: true };
        assert_eq!(slice.range(), "bytes=20-29");
        for (status, range, etag, expected) in [
            (206, "bytes 20-29/100", "\"a\"", SliceVerdict::Slice),
            (206, "bytes 20-24/25", "\"a\"", SliceVerdict::Slice),
            (206, "bytes 20-24/100", "\"a\"", SliceVerdict::Unusable),
            (206, "bytes 19-29/100", "\"a\"", SliceVerdict::Unusable),
            (206, "bytes 20-30/100", "\"a\"", SliceVerdict::Unusable),
            (206, "bytes 20-29/*", "\"a\"", SliceVerdict::Unusable),
            (206, "bytes 20-29/100", "W/\"a\"", SliceVerdict::Unusable),
            (206, "bytes 20-29/100", "", SliceVerdict::Unusable),
            (200, "", "\"a\"", SliceVerdict::Whole),
            (304, "", "", SliceVerdict::Slice),
            (404, "", "", SliceVerdict::Other),
            (416, "bytes */15", "", SliceVerdict::Other),
        ] {
            let fields = map(&[("content-range", range), ("etag", etag)]);
            let verdict = slice.verdict(StatusCode::from_u16(status).unwrap(), &fields);
            assert_eq!(verdict, expected, "{status} {range} {etag}");
        }
        let empty = Slice { number: 0, ..slice }.verdict(StatusCode::RANGE_NOT_SATISFIABLE, &HeaderMap::new());
        assert_eq!(empty, SliceVerdict::Unusable, "a 416 is for who has asked for a range");
    }

    #[test]
    fn where_a_request_begins() {
        for (range, first) in [
            ("bytes=0-1", 0),
            ("bytes=500-", 500),
            ("bytes= 500 -600", 500),
            ("bytes=-500", 0),
            ("bytes=500-600,1-2", 0),
            ("bytes=99999999999999999999-", 0),
            ("nonsense", 0),
            ("", 0),
        ] {
            let fields = map(&[("range", range)]);
            assert_eq!(first_byte(&Method::GET, Fields::Map(&fields)), first, "{range}");
            assert_eq!(first_byte(&Method::HEAD, Fields::Map(&fields)), 0);
        }
    }
}
