//! The chunked transfer coding (RFC 9112 section 7.1), of requests and of responses: what of the bytes that come is data,
//! and where it ends. What is not exactly the grammar has no end that two parsers would agree on, and is refused. From
//! origins two habits are taken that lead nobody astray: blanks around a size, and anything behind its semicolon.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use crate::request::parse_trailers;

/// Hexadecimal digits of a size: fewer than 64 bits.
const MAX_DIGITS: usize = 15;
/// Bytes of chunk extensions in one chunk, at most: of a request, and of a response.
const MAX_EXTENSION: [usize; 2] = [1024, 4 << 10];
/// Bytes of trailers, at most, likewise.
const MAX_TRAILERS: [usize; 2] = [16 << 10, 32 << 10];

/// How far into a chunked body its bytes have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    is_response: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The line with a chunk's size.
    Size,
    Data {
        left: u64,
    },
    /// Behind a chunk's data: the end of its line.
    DataEnd,
    Trailers {
        /// Bytes that have been looked at.
        seen: usize,
    },
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
    pub const OF_REQUEST: Chunks = Chunks { at: At::Size, is_response: false };
    pub const OF_RESPONSE: Chunks = Chunks { at: At::Size, is_response: true };

    /// Whether the body has ended.
    pub fn is_done(self) -> bool {
        self.at == At::Done
    }

    /// How many bytes of the body are known to come.
    pub fn expected(self) -> u64 {
        if let At::Data { left } = self.at { left } else { 0 }
    }

    /// Takes what is body off the front of what has been read. Lines are left there until they have come in full, and
    /// trailers until all have.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Taken, Malformed> {
        let whose = usize::from(self.is_response);
        loop {
            self.at = match self.at {
                At::Size => {
                    let Some(end) = line_end(read, MAX_DIGITS + MAX_EXTENSION[whose])? else {
                        return Ok(Taken::NeedsMore);
                    };
                    let size = if self.is_response { lax_size(&read[..end]) } else { chunk_size(&read[..end]) }?;
                    read.advance(end + CRLF);
                    if size == 0 { At::Trailers { seen: 0 } } else { At::Data { left: size } }
                }
                At::Data { .. } if read.is_empty() => return Ok(Taken::NeedsMore),
                At::Data { left } => {
                    let piece = split(read, left);
                    let left = left - piece.len() as u64;
                    self.at = if left == 0 { At::DataEnd } else { At::Data { left } };
                    return Ok(Taken::Data(piece));
                }
                At::DataEnd => {
                    let Some(end) = line_end(read, 0)? else { return Ok(Taken::NeedsMore) };
                    read.advance(end + CRLF);
                    At::Size
                }
                At::Trailers { seen } => {
                    let (seen, ended) = trailers_end(read, seen, MAX_TRAILERS[whose])?;
                    let Some(end) = ended else {
                        self.at = At::Trailers { seen };
                        return Ok(Taken::NeedsMore);
                    };
                    let trailers = parse_trailers(&read.split_to(end));
                    let trailers = trailers.or(self.is_response.then(HeaderMap::new)).ok_or(Malformed)?;
                    self.at = At::Done;
                    return Ok(if trailers.is_empty() { Taken::End } else { Taken::Trailers(trailers) });
                }
                At::Done => return Ok(Taken::End),
            };
        }
    }
}

/// The next bytes, `most` of them. A small piece of a large buffer is copied, so that it does not hold on to all of it.
pub(crate) fn split(read: &mut BytesMut, most: u64) -> Bytes {
    let length = read.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    if length * 2 < read.capacity() {
        let piece = Bytes::copy_from_slice(&read[..length]);
        read.advance(length);
        return piece;
    }
    read.split_to(length).freeze()
}

/// Bytes of a line's end.
const CRLF: usize = 2;

/// Where the line ends that some bytes begin with, if it has come in full. `most`: bytes that it may have.
fn line_end(bytes: &[u8], most: usize) -> Result<Option<usize>, Malformed> {
    let (end, is_whole) = text_end(bytes, 0, most)?;
    Ok(is_whole.then_some(end))
}

/// Where the text ends that goes on at `from`, and whether the end of its line is there.
fn text_end(bytes: &[u8], from: usize, most: usize) -> Result<(usize, bool), Malformed> {
    let is_text = |byte: u8| byte == b'\t' || byte >= 0x20 && byte != 0x7f;
    let end = bytes[from..].iter().position(|byte| !is_text(*byte)).map_or(bytes.len(), |length| from + length);
    match bytes[end..] {
        _ if end > most => Err(Malformed),
        [] | [b'\r'] => Ok((end, false)),
        [b'\r', b'\n', ..] => Ok((end, true)),
        _ => Err(Malformed),
    }
}

/// How many bytes of trailers need not be looked at again, `seen` of them from before; and where they end, with the empty
/// line behind them, if they have come in full.
fn trailers_end(bytes: &[u8], mut seen: usize, most: usize) -> Result<(usize, Option<usize>), Malformed> {
    loop {
        let (end, is_whole) = text_end(bytes, seen, most)?;
        if !is_whole {
            return Ok((end, None));
        }
        let is_empty = end == seen && (seen == 0 || bytes[..seen].ends_with(b"\r\n"));
        seen = end + CRLF;
        if is_empty {
            return Ok((seen, Some(seen)));
        }
    }
}

/// The size that a chunk's first line states. Extensions mean nothing here, but have to be some.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let (digits, extension) = line.split_at(line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count());
    if extension.len() > MAX_EXTENSION[0] || !(extension.is_empty() || is_extension(extension)) {
        return Err(Malformed);
    }
    size(digits)
}

/// The same, as origins write it.
fn lax_size(line: &[u8]) -> Result<u64, Malformed> {
    size(line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii())
}

fn size(digits: &[u8]) -> Result<u64, Malformed> {
    let is_one = digits.len() <= MAX_DIGITS && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_one);
    u64::from_str_radix(digits.ok_or(Malformed)?, 16).map_err(|_| Malformed)
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

    /// The data and what is left behind the body, if that has ended; the bytes come so many at a time.
    fn taken(mut chunks: Chunks, text: &str, size: usize) -> Result<(String, Option<String>), Malformed> {
        let (mut read, mut data) = (BytesMut::new(), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            read.extend_from_slice(piece);
            while let Taken::Data(piece) = chunks.take(&mut read)? {
                data.extend_from_slice(&piece);
            }
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok((text(&data), chunks.is_done().then(|| text(&read))))
    }

    #[test]
    fn ends_are_found_however_the_bytes_come() {
        for (text, data, left) in [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "hello", "GET / HTTP/1.1\r\n"),
            ("A\r\n0123456789\r\n00\r\n\r\nx", "0123456789", "x"),
            ("a;name=value\r\n0123456789\r\n0 ;x=\"y\"\r\n\r\n", "0123456789", ""),
            ("2\r\n\r\n\r\n0\r\n\r\n0\r\n\r\n", "\r\n", "0\r\n\r\n"),
            ("0\r\nx-sum: 1\r\ny: 2\r\n\r\nz", "", "z"),
            ("1;a=\"x;\\\"y\" ;b\r\nz\r\n0 \t;\r\n\r\n", "z", ""),
            ("0\r\nempty:\r\n\r\n", "", ""),
        ] {
            for size in [1, 3, text.len()] {
                let expected = (data.to_owned(), Some(left.to_owned()));
                assert_eq!(taken(Chunks::OF_REQUEST, text, size), Ok(expected), "{size}: {text:?}");
            }
            for end in 0..text.len() - left.len() {
                let (taken, rest) = taken(Chunks::OF_REQUEST, &text[..end], text.len()).unwrap();
                assert!(data.starts_with(&taken) && rest.is_none(), "cut at {end}: {text:?}");
            }
        }
    }

    #[test]
    fn what_two_parsers_might_read_differently_is_malformed() {
        let long = format!("{}\r\n", "0".repeat(MAX_DIGITS + 1));
        let extension = format!("1;{}\r\n", "x".repeat(MAX_EXTENSION[0]));
        let trailers = format!("0\r\n{}", "x: y\r\n".repeat(MAX_TRAILERS[0] / 4 + 1));
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
            assert_eq!(taken(Chunks::OF_REQUEST, text, text.len()), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn origins_have_habits_and_no_more() {
        let long = format!("1;{}\r\n", "x".repeat(5000));
        let trailers = format!("0\r\n{}", "x: y\r\n".repeat(9000));
        for (text, is_taken) in [
            ("3;a=\"b\r\nhel\r\n2 \r\nlo\r\n 000\r\nx: y\r\nno colon\r\n\r\n", true),
            ("5\nhello", false),
            ("5\r\r\nhello", false),
            ("5;a\0b\r\n", false),
            ("1\r\nx\n", false),
            ("1\r\nxy\r\n", false),
            ("0\r\n\n", false),
            ("\r\n", false),
            ("g\r\n", false),
            ("-1\r\n", false),
            ("fffffffffffffffff\r\n", false),
            (&long, false),
            (&trailers, false),
        ] {
            for step in [1, text.len()] {
                let expected = is_taken.then(|| ("hello".to_owned(), Some(String::new()))).ok_or(Malformed);
                assert_eq!(taken(Chunks::OF_RESPONSE, text, step), expected, "{text:?}");
            }
        }
    }

    #[test]
    fn a_small_piece_holds_no_large_buffer() {
        let mut read = BytesMut::with_capacity(16 << 10);
        read.extend_from_slice(b"hello");
        assert_eq!(split(&mut read, 5), "hello");
        assert!(read.capacity() > 15 << 10, "the buffer is used again");
    }
}
