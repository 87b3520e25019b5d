//! Header fields of a request that outlive it, or go on to an origin.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderName;

/// Header fields in two blocks of memory. What goes to an origin is copied there once, and from there to the wire; a map would
/// take a hash for each field, and often some memory of its own.
#[derive(Debug, Clone, Default)]
pub struct FieldLines {
    /// In lower case; also those of fields that were removed.
    names: String,
    /// What HTTP/1.1 has behind the names: `: value\r\n`.
    rests: Vec<u8>,
    lines: Vec<Line>,
}

/// Where a line is in the blocks. No head comes near 4 GiB.
#[derive(Debug, Clone, Copy)]
struct Line {
    name: (u32, u32),
    rest: (u32, u32),
}

const COLON: &[u8; 2] = b": ";
const END: &[u8; 2] = b"\r\n";
/// Fields that a request gets beside its own on its way to an origin, and room for what they say.
const FORWARDED: usize = 8;
const SAID: usize = 40;

impl FieldLines {
    /// None yet, with room for so many, for the bytes of their names and values, and for what origins are told beside them.
    pub(super) fn with_room(count: usize, names: usize, values: usize) -> Self {
        let count = count + FORWARDED;
        FieldLines {
            names: String::with_capacity(names + FORWARDED * SAID / 2),
            rests: Vec::with_capacity(values + FORWARDED * SAID + count * (COLON.len() + END.len())),
            lines: Vec::with_capacity(count),
        }
    }

    /// Name and value of each line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines.iter().map(|line| {
            let rest = &self.rests[span(line.rest)];
            (&self.names[span(line.name)], &rest[COLON.len()..rest.len() - END.len()])
        })
    }

    /// The same, with values that share one copy of all.
    pub fn shared(&self) -> impl Iterator<Item = (&str, Bytes)> {
        let block = Bytes::copy_from_slice(&self.rests);
        self.lines.iter().map(move |line| {
            let rest = span(line.rest);
            (&self.names[span(line.name)], block.slice(rest.start + COLON.len()..rest.end - END.len()))
        })
    }

    /// Bytes of all lines at most, as HTTP/1.1 has them.
    pub fn size(&self) -> usize {
        self.names.len() + self.rests.len()
    }

    pub fn contains(&self, name: &HeaderName) -> bool {
        self.iter().any(|(other, _)| other == name.as_str())
    }

    /// Leaves only the fields with names that are to be kept.
    pub fn retain(&mut self, keeps: impl Fn(&str) -> bool) {
        let FieldLines { names, lines, .. } = self;
        lines.retain(|line| keeps(&names[span(line.name)]));
    }

    pub fn remove(&mut self, name: &str) {
        self.retain(|other| other != name);
    }

    /// Puts a line behind all others. What is no value of a field is left out.
    pub fn append(&mut self, name: &HeaderName, value: &[u8]) {
        self.put(name.as_str(), value);
    }

    /// The same, instead of all lines of the name.
    pub fn insert(&mut self, name: &HeaderName, value: &[u8]) {
        self.remove(name.as_str());
        self.append(name, value);
    }

    /// Writes the lines with names that are wanted, as HTTP/1.1 has them.
    pub fn write(&self, out: &mut Vec<u8>, wants: impl Fn(&str) -> bool) {
        for line in &self.lines {
            let name = &self.names[span(line.name)];
            if wants(name) {
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(&self.rests[span(line.rest)]);
            }
        }
    }

    /// `name`: a field's, in any case.
    pub(super) fn put_in_lower_case(&mut self, name: &str, value: &[u8]) {
        let start = self.names.len();
        self.put(name, value);
        self.names[start..].make_ascii_lowercase();
    }

    fn put(&mut self, name: &str, value: &[u8]) {
        if !is_value(value) {
            return;
        }
        let start = (self.names.len(), self.rests.len());
        self.names.push_str(name);
        self.rests.extend_from_slice(COLON);
        self.rests.extend_from_slice(value);
        self.rests.extend_from_slice(END);
        let place = |start: usize, end: usize| Some((u32::try_from(start).ok()?, u32::try_from(end).ok()?));
        let places = (place(start.0, self.names.len()), place(start.1, self.rests.len()));
        if let (Some(name), Some(rest)) = places {
            self.lines.push(Line { name, rest });
        }
    }
}

fn span((start, end): (u32, u32)) -> Range<usize> {
    start as usize..end as usize
}

/// Whether bytes can be the value of a field, so that they end none (RFC 9110 section 5.5).
fn is_value(value: &[u8]) -> bool {
    // Nearly all are, and eight bytes are as soon looked at as one.
    let (words, rest) = value.as_chunks::<8>();
    let is_text = |byte: u8| byte >= b' ' && byte != 0x7f || byte == b'\t';
    words.iter().all(|word| !may_have_control(u64::from_ne_bytes(*word)) || word.iter().all(|byte| is_text(*byte)))
        && rest.iter().all(|byte| is_text(*byte))
}

/// Whether one of eight bytes may be a control character: whether a byte of them is less than another is told by what it has to
/// borrow.
fn may_have_control(word: u64) -> bool {
    let all = |byte: u8| u64::from_ne_bytes([byte; 8]);
    let is_zero = |word: u64, least: u64| word.wrapping_sub(least) & !word & all(0x80) != 0;
    is_zero(word, all(b' ')) || is_zero(word ^ all(0x7f), all(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Fields, tests::map};

    fn lines(fields: &[(&str, &str)]) -> FieldLines {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        Fields::parsed(&fields).to_lines()
    }

    #[test]
    fn what_is_kept_is_written() {
        let mut fields =
            lines(&[("Accept", "a"), ("X-One", ""), ("HOST", "x"), ("accept", "b"), ("X_Two", "\u{e4}\t2")]);
        fields.remove("x-one");
        fields.insert(&http::header::HOST, b"y");
        fields.append(&http::header::VIA, b"z");
        fields.append(&http::header::VIA, b"a\r\nb: c");
        fields.append(&http::header::VIA, b"\x7f");
        let mut out = Vec::new();
        fields.write(&mut out, |name| name != "host");
        assert_eq!(String::from_utf8(out).unwrap(), "accept: a\r\naccept: b\r\nx_two: \u{e4}\t2\r\nvia: z\r\n");
        assert_eq!(fields.iter().count(), 5);
        let expected = map(&[("accept", "a"), ("accept", "b"), ("x_two", "\u{e4}\t2"), ("host", "y"), ("via", "z")]);
        assert_eq!(Fields::Lines(&fields).to_map(), expected);
        assert_eq!(Fields::Lines(&fields).joined(&http::header::ACCEPT).unwrap().as_ref(), b"a, b");
        assert!(fields.contains(&http::header::HOST) && !fields.contains(&http::header::COOKIE));
    }

    /// Against `http`, which says what is a value.
    #[test]
    fn no_byte_is_in_a_value_that_may_not_be() {
        for byte in 0..=u8::MAX {
            for (length, at) in (1..20).flat_map(|length| (0..length).map(move |at| (length, at))) {
                let mut value = vec![b'a'; length];
                value[at] = byte;
                assert_eq!(is_value(&value), http::HeaderValue::from_bytes(&value).is_ok(), "{byte} {at} of {length}");
            }
        }
    }
}
