//! The chunked coding of a request's body (RFC 9112 section 7.1): what of the bytes that come is data, and where it ends.
//! Strict: what is not exactly the grammar has no end that two parsers would agree on.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use crate::request::parse_trailers;

/// Hexadecimal digits of a size: fewer than 64 bits.
const MAX_DIGITS: usize = 15;
/// Bytes of chunk extensions in one chunk, at most.
const MAX_EXTENSION: usize = 1024;
/// Bytes of trailers, at most.
const MAX_TRAILERS: usize = 16 << 10;

/// How far into a chunked body its bytes have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// At the line with a chunk's size.
    Size,
    Data {
        left: u64,
    },
    /// Behind a chunk's data: at the end of its line.
    DataEnd,
    Trailers,
    Done,
}

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

impl Chunks {
    /// Whether the body has ended.
    pub fn is_done(self) -> bool {
        self == Chunks::Done
    }

    /// Takes what is body off the front of what has been read. Lines are left there until they have come in full, and
    /// trailers until all have.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Taken, Malformed> {
        loop {
            match *self {
                Chunks::Size => {
                    let Some(end) = line_end(read, MAX_DIGITS + MAX_EXTENSION)? else { return Ok(Taken::NeedsMore) };
                    *self = match chunk_size(&read[..end])? {
                        0 => Chunks::Trailers,
                        left => Chunks::Data { left },
                    };
                    read.advance(end + CRLF);
                }
                Chunks::Data { .. } if read.is_empty() => return Ok(Taken::NeedsMore),
                Chunks::Data { left } => {
                    let piece = read.split_to(read.len().min(usize::try_from(left).unwrap_or(usize::MAX))).freeze();
                    let left = left - piece.len() as u64;
                    *self = if left == 0 { Chunks::DataEnd } else { Chunks::Data { left } };
                    return Ok(Taken::Data(piece));
                }
                Chunks::DataEnd => {
                    let Some(end) = line_end(read, 0)? else { return Ok(Taken::NeedsMore) };
                    read.advance(end + CRLF);
                    *self = Chunks::Size;
                }
                Chunks::Trailers => {
                    let Some(end) = trailers_end(read)? else { return Ok(Taken::NeedsMore) };
                    *self = Chunks::Done;
                    let trailers = parse_trailers(&read.split_to(end)).ok_or(Malformed)?;
                    return Ok(if trailers.is_empty() { Taken::End } else { Taken::Trailers(trailers) });
                }
                Chunks::Done => return Ok(Taken::End),
            }
        }
    }
}

/// Bytes of a line's end.
const CRLF: usize = 2;

/// Where the line ends that some bytes begin with, if it has come in full. `most`: bytes that it may have.
fn line_end(bytes: &[u8], most: usize) -> Result<Option<usize>, Malformed> {
    let is_text = |byte: u8| byte == b'\t' || byte >= 0x20 && byte != 0x7f;
    let end = bytes.iter().position(|byte| !is_text(*byte)).unwrap_or(bytes.len());
    match bytes[end..] {
        _ if end > most => Err(Malformed),
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(end)),
        _ => Err(Malformed),
    }
}

/// Where trailers end, with the empty line behind them, if they have come in full.
fn trailers_end(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut at = 0;
    while let Some(length) = line_end(&bytes[at..], MAX_TRAILERS.checked_sub(at).ok_or(Malformed)?)? {
        at += length + CRLF;
        if length == 0 {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The size that a chunk's first line states. Extensions mean nothing here, but have to be some.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    if digits > MAX_DIGITS || extension.len() > MAX_EXTENSION || !(extension.is_empty() || is_extension(extension)) {
        return Err(Malformed);
    }
    let size = std::str::from_utf8(size).map_err(|_| Malformed)?;
    u64::from_str_radix(size, 16).map_err(|_| Malformed)
}

/// Whether it begins as an extension does, behind blanks (BWS), and ends outside of quotes.
fn is_extension(text: &[u8]) -> bool {
    let (mut bytes, mut is_quoted) = (text.iter(), false);
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' if is_quoted => drop(bytes.next()),
            _ => {}
        }
    }
    text.trim_ascii_start().starts_with(b";") && !is_quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left after the body, which comes in pieces of some size; `Ok(None)`: it has not ended.
    fn rest(text: &str, size: usize) -> Result<Option<String>, Malformed> {
        let (mut chunks, mut read) = (Chunks::Size, BytesMut::new());
        for piece in text.as_bytes().chunks(size) {
            read.extend_from_slice(piece);
            while let Taken::Data(_) = chunks.take(&mut read)? {}
        }
        Ok(chunks.is_done().then(|| String::from_utf8(read.to_vec()).unwrap()))
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
            for size in [1, 3, text.len()] {
                assert_eq!(rest(text, size), Ok(Some(left.to_owned())), "{size}: {text:?}");
            }
            for end in 0..text.len() - left.len() {
                assert_eq!(rest(&text[..end], text.len()), Ok(None), "cut at {end}: {text:?}");
            }
        }
    }

    #[test]
    fn what_two_parsers_might_read_differently_is_malformed() {
        let long = format!("{}\r\n", "0".repeat(MAX_DIGITS + 1));
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
            "0\r\nname: value\r\n folded\r\n\r\n",
            "0\r\nGET / HTTP/1.1\r\n\r\n",
            " 1\r\n",
            &long,
            &extension,
            &trailers,
        ] {
            assert_eq!(rest(text, text.len()), Err(Malformed), "{text:?}");
        }
    }
}
