//! Where a chunked body ends (RFC 9112 section 7.1), so that what a client sends after it is told from it.
//! Strict: what is not exactly the grammar has no end that two parsers would agree on.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use crate::request::{is_tchar, parse_trailers};

/// Bytes of chunk extensions in one chunk, at most.
const MAX_EXTENSION: usize = 1024;
/// Bytes of trailers, at most.
const MAX_TRAILERS: usize = 16 << 10;
/// Hexadecimal digits of a size: fewer than 64 bits.
const MAX_DIGITS: usize = 15;

/// How far into a chunked body its bytes have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks(State);

/// What the bytes that are there have come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    NeedsMore,
}

/// It is not a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        size: u64,
        digits: usize,
    },
    /// Blanks behind a size: an extension is to follow (BWS).
    Blanks {
        size: u64,
        length: usize,
    },
    Extension {
        size: u64,
        length: usize,
        quoted: Quoted,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer line or of the empty line that ends all.
    LineStart {
        length: usize,
    },
    /// In the name of a trailer field, and in its value.
    TrailerName {
        length: usize,
    },
    TrailerValue {
        length: usize,
    },
    TrailerLf {
        length: usize,
    },
    LastLf,
    Done,
}

/// Where in a quoted string an extension is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoted {
    No,
    Yes,
    /// Behind a backslash.
    Pair,
}

impl Quoted {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Quoted::No, b'"') | (Quoted::Pair, _) => Quoted::Yes,
            (Quoted::Yes, b'"') => Quoted::No,
            (Quoted::Yes, b'\\') => Quoted::Pair,
            (quoted, _) => quoted,
        }
    }
}

const NEXT_SIZE: State = State::Size { size: 0, digits: 0 };

impl Chunks {
    pub fn new() -> Self {
        Chunks(NEXT_SIZE)
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// Takes what is body off the front of what has been read. Trailers are left there until they have come in full.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Taken, Malformed> {
        let mut at = 0;
        while at < read.len() {
            match self.0 {
                State::Done => break,
                State::Data { left } => {
                    read.advance(at);
                    let piece = read.split_to(read.len().min(usize::try_from(left).unwrap_or(usize::MAX))).freeze();
                    let left = left - piece.len() as u64;
                    self.0 = if left == 0 { State::DataCr } else { State::Data { left } };
                    return Ok(Taken::Data(piece));
                }
                State::LineStart { length: 0 } => return self.take_trailers(read, at),
                state => {
                    self.0 = state.after(read[at])?;
                    at += 1;
                }
            }
        }
        read.advance(at);
        Ok(if self.is_done() { Taken::End } else { Taken::NeedsMore })
    }

    fn take_trailers(&mut self, read: &mut BytesMut, from: usize) -> Result<Taken, Malformed> {
        read.advance(from);
        let mut end = *self;
        let length = end.advance(read)?;
        if !end.is_done() {
            return Ok(Taken::NeedsMore);
        }
        *self = end;
        let trailers = parse_trailers(&read.split_to(length)).ok_or(Malformed)?;
        Ok(if trailers.is_empty() { Taken::End } else { Taken::Trailers(trailers) })
    }

    /// Takes the next bytes that came and says how many of them are the body's: all, unless it ends in them.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.0 != State::Done {
            if let State::Data { left } = self.0 {
                let there = left.min((bytes.len() - at) as u64);
                at += there as usize; // at most what is there
                self.0 = if left == there { State::DataCr } else { State::Data { left: left - there } };
            } else {
                self.0 = self.0.after(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }
}

impl State {
    fn after(self, byte: u8) -> Result<State, Malformed> {
        Ok(match (self, byte) {
            (State::Size { digits: 1.., size }, b'\r') => State::SizeLf { size },
            (State::Size { digits: 1.., size }, b' ' | b'\t') => State::Blanks { size, length: 1 },
            (State::Size { digits: 1.., size }, b';') => State::Extension { size, length: 1, quoted: Quoted::No },
            (State::Size { size, digits: digits @ ..MAX_DIGITS }, byte) => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Blanks { size, length: length @ ..MAX_EXTENSION }, b' ' | b'\t') => {
                State::Blanks { size, length: length + 1 }
            }
            (State::Blanks { size, length }, b';') => State::Extension { size, length, quoted: Quoted::No },
            (State::Extension { size, quoted: Quoted::No, .. }, b'\r') => State::SizeLf { size },
            (State::Extension { size, length: length @ ..MAX_EXTENSION, quoted }, byte) if is_text(byte) => {
                State::Extension { size, length: length + 1, quoted: quoted.after(byte) }
            }
            (State::SizeLf { size: 0 }, b'\n') => State::LineStart { length: 0 },
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => NEXT_SIZE,
            (State::LineStart { .. }, b'\r') => State::LastLf,
            (State::TrailerValue { length }, b'\r') => State::TrailerLf { length },
            (State::TrailerName { length: length @ ..MAX_TRAILERS }, b':') => {
                State::TrailerValue { length: length + 1 }
            }
            (State::TrailerValue { length: length @ ..MAX_TRAILERS }, byte) if is_text(byte) => {
                State::TrailerValue { length: length + 1 }
            }
            (State::LineStart { length } | State::TrailerName { length }, byte)
                if is_tchar(byte) && length < MAX_TRAILERS =>
            {
                State::TrailerName { length: length + 1 }
            }
            (State::TrailerLf { length }, b'\n') => State::LineStart { length },
            (State::LastLf, b'\n') => State::Done,
            _ => return Err(Malformed),
        })
    }
}

/// What a line may have before its end.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= 0x20 && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left after the body; `Ok(None)`: it has not ended.
    fn rest(text: &str) -> Result<Option<&str>, Malformed> {
        let mut chunks = Chunks::new();
        let used = chunks.advance(text.as_bytes())?;
        Ok(chunks.is_done().then(|| &text[used..]))
    }

    #[test]
    fn ends_are_found_however_the_bytes_come() {
        for (text, left) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n"),
            ("A\r\n0123456789\r\n00\r\n\r\nx", "x"),
            ("a;name=value\r\n0123456789\r\n0 ;x=\"y\"\r\n\r\n", ""),
            ("2\r\n\r\n\r\n0\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
            ("0\r\nx-sum: 1\r\ny: 2\r\n\r\nz", "z"),
            ("1;a=\"x;\\\"y\" ;b\r\nz\r\n0 \t;\r\n\r\n", ""),
            ("0\r\nempty:\r\n\r\n", ""),
        ] {
            assert_eq!(rest(text), Ok(Some(left)), "{text:?}");
            let mut chunks = Chunks::new();
            let used: usize = text.as_bytes().iter().map(|byte| chunks.advance(&[*byte]).unwrap()).sum();
            assert_eq!(&text[used..], left, "byte by byte: {text:?}");
            for end in 0..text.len() - left.len() {
                assert_eq!(rest(&text[..end]), Ok(None), "cut at {end}: {text:?}");
            }
        }
    }

    #[test]
    fn what_two_parsers_might_read_differently_is_malformed() {
        let long = "0".repeat(MAX_DIGITS + 1);
        let extension = format!("1;{}\r\n", "x".repeat(MAX_EXTENSION));
        let trailers = format!("0\r\n{}", "x: y\r\n".repeat(MAX_TRAILERS / 4 + 1));
        for text in [
            "\r\n",
            ";x\r\n",
            "g\r\n",
            "0x5\r\n",
            "-1\r\n",
            "+1\r\n",
            "5\nhello",
            "5\r\r\n",
            "5\r\nhello\n0",
            "5\r\nhello!",
            "5\r\nhello\r0",
            "0\r\n\n",
            "0\r\n\r\r",
            "0\r\nx\ny",
            "1;a\nb",
            "1;\u{0}\r\n",
            "1;a=\"b\r\n",
            "1;a=\"b\\\"\r\n",
            "1 \r\n",
            "1 2\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\nname\r\n\r\n",
            "0\r\n: value\r\n\r\n",
            "0\r\nname : value\r\n\r\n",
            "0\r\n folded: value\r\n\r\n",
            "0\r\nGET / HTTP/1.1\r\n\r\n",
            " 1\r\n",
            &long,
            &extension,
            &trailers,
        ] {
            assert_eq!(rest(text), Err(Malformed), "{text:?}");
        }
    }
}
