//! HPACK (RFC 7541): field sections of requests read with the dynamic table that the client fills; those of responses
//! written without one, so that any task can write its own.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::huffman::{self, Malformed};
use super::static_table::{Entry, STATIC, STATUSES, static_name};

/// Bytes of the dynamic table, by RFC 7541 section 4.1: the size that holds where no setting says otherwise.
const TABLE_SIZE: usize = 4096;
/// What each entry counts beside its text.
const ENTRY_OVERHEAD: usize = 32;

/// The decoded fields of one section, in order.
#[derive(Debug, Default)]
pub struct Section {
    text: Vec<u8>,
    lines: Vec<Line>,
    /// There was more than may be kept.
    pub too_large: bool,
}

/// Where in the text the name begins, where the value begins, and where it ends.
#[derive(Debug, Clone, Copy)]
struct Line {
    name: u32,
    value: u32,
    end: u32,
}

impl Section {
    /// Bytes of memory that it takes.
    pub fn weight(&self) -> usize {
        self.text.capacity() + self.lines.capacity() * size_of::<Line>()
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
        self.too_large = false;
    }

    /// Names and values.
    pub fn lines(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.lines.iter().map(|line| {
            let text = |from: u32, to: u32| &self.text[from as usize..to as usize];
            (text(line.name, line.value), text(line.value, line.end))
        })
    }

    /// Appends text of a table. In a section that is too large it is not even copied: it may be long, and cost the client
    /// a byte.
    fn push(&mut self, text: &[u8]) {
        if !self.too_large {
            self.text.extend_from_slice(text);
        }
    }

    /// Ends the field whose name and value are the text from two places on; keeps it, if there is room for it.
    fn end_line(&mut self, name: usize, value: usize, most: usize) {
        let end = self.text.len();
        let size = end + (self.lines.len() + 1) * ENTRY_OVERHEAD;
        if self.too_large || size > most {
            self.too_large = true;
            self.text.truncate(name);
            return;
        }
        // A section is bounded by the limits, which are far below 4 GiB.
        self.lines.push(Line { name: name as u32, value: value as u32, end: end as u32 });
    }
}

/// Reads the field sections of one connection.
#[derive(Debug)]
pub struct Decoder {
    entries: VecDeque<Entry>,
    /// Of all entries.
    size: usize,
    /// What the client has chosen, up to [`TABLE_SIZE`].
    most: usize,
}

impl Decoder {
    pub fn new() -> Self {
        Decoder { entries: VecDeque::new(), size: 0, most: TABLE_SIZE }
    }

    /// Reads a whole field section. What is more than `most` bytes, each field counted with 32 more (RFC 9113 section
    /// 6.5.2), is read, for the table's sake, but not kept.
    pub fn decode(&mut self, block: &[u8], most: usize, section: &mut Section) -> Result<(), Malformed> {
        let mut rest = block;
        let mut may_resize = true;
        while let Some(&first) = rest.first() {
            if first & 0xe0 == 0x20 {
                let size = integer(&mut rest, 5)?;
                if !may_resize || size > TABLE_SIZE {
                    return Err(Malformed);
                }
                self.most = size;
                self.make_room(0);
                continue;
            }
            may_resize = false;
            let begin = section.text.len();
            if first & 0x80 != 0 {
                let Entry { name, value } = self.entry(integer(&mut rest, 7)?)?;
                section.push(name);
                let at = section.text.len();
                section.push(value);
                section.end_line(begin, at, most);
                continue;
            }
            let is_kept = first & 0xc0 == 0x40;
            let index = integer(&mut rest, if is_kept { 6 } else { 4 })?;
            match index {
                0 => string(&mut rest, &mut section.text)?,
                index => section.push(&self.entry(index)?.name),
            }
            let value = section.text.len();
            string(&mut rest, &mut section.text)?;
            if is_kept {
                let name = match index {
                    0 => Bytes::copy_from_slice(&section.text[begin..value]),
                    index => self.entry(index)?.name.clone(), // not copied
                };
                self.insert(name, &section.text[value..]);
            }
            section.end_line(begin, value, most);
        }
        Ok(())
    }

    /// An entry of either table.
    fn entry(&self, index: usize) -> Result<&Entry, Malformed> {
        let place = index.checked_sub(1).ok_or(Malformed)?;
        let entry = STATIC.get(place).or_else(|| self.entries.get(place - STATIC.len()));
        entry.ok_or(Malformed)
    }

    fn insert(&mut self, name: Bytes, value: &[u8]) {
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        self.make_room(size);
        if size <= self.most {
            self.size += size;
            self.entries.push_front(Entry { name, value: Bytes::copy_from_slice(value) });
        }
    }

    /// Drops the oldest entries until one more of some size fits, or there are none.
    fn make_room(&mut self, size: usize) {
        while self.size + size > self.most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.name.len() + oldest.value.len() + ENTRY_OVERHEAD;
        }
    }
}

/// An integer whose first byte has so many bits of it (RFC 7541 section 5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let mut next = || {
        let (first, others) = rest.split_first().ok_or(Malformed)?;
        *rest = others;
        Ok(*first)
    };
    let all = (1_usize << bits) - 1;
    let mut value = usize::from(next()?) & all;
    if value < all {
        return Ok(value);
    }
    // Four more bytes are 2^28 and more: beyond everything that is allowed here.
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// A string (RFC 7541 section 5.2), appended to `out`.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let is_huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (string, others) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = others;
    match is_huffman {
        true => huffman::decode(string, out),
        false => {
            out.extend_from_slice(string);
            Ok(())
        }
    }
}

/// Tells the client that no dynamic table is used: what its settings say of one then has no effect (section 4.2).
pub fn put_no_table(out: &mut BytesMut) {
    out.put_u8(0x20);
}

/// Appends `:status`.
pub fn put_status(out: &mut BytesMut, status: u16) {
    let mut digits = itoa::Buffer::new();
    let status = digits.format(status).as_bytes();
    match STATIC[STATUSES].iter().position(|entry| entry.value == status) {
        Some(place) => put_integer(out, 0x80, 7, STATUSES.start + place + 1),
        None => {
            put_integer(out, 0x00, 4, STATUSES.start + 1); // under the name of the first
            put_string(out, status);
        }
    }
}

/// Appends a field whose name is in lower case.
pub fn put_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    // A cookie is not to be kept in a table by anybody on the way (section 7.1.3).
    let form = if name == b"set-cookie" { 0x10 } else { 0x00 };
    match static_name(name) {
        0 => {
            out.put_u8(form);
            put_string(out, name);
        }
        index => put_integer(out, form, 4, index),
    }
    put_string(out, value);
}

fn put_string(out: &mut BytesMut, string: &[u8]) {
    put_integer(out, 0, 7, string.len());
    out.put_slice(string);
}

fn put_integer(out: &mut BytesMut, form: u8, bits: u32, value: usize) {
    let all = (1_usize << bits) - 1;
    if value < all {
        return out.put_u8(form | value as u8);
    }
    out.put_u8(form | all as u8);
    let mut left = value - all;
    while left >= 0x80 {
        out.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 4096;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    /// The fields of a block, as `name value, name value`.
    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<String, Malformed> {
        let mut section = Section::default();
        decoder.decode(block, MOST, &mut section)?;
        let fields: Vec<_> = section.lines().map(|(name, value)| [name, value].join(&b' ')).collect();
        Ok(String::from_utf8(fields.join(&b", "[..])).unwrap())
    }

    /// RFC 7541 appendix C.3 and C.4: three requests on one connection, plain and by Huffman.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let requests = [
            ":method GET, :scheme http, :path /, :authority www.example.com",
            ":method GET, :scheme http, :path /, :authority www.example.com, cache-control no-cache",
            ":method GET, :scheme https, :path /index.html, :authority www.example.com, custom-key custom-value",
        ];
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let huffman = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::new();
            for (block, fields) in blocks.iter().zip(requests) {
                assert_eq!(read(&mut decoder, &bytes(block)).unwrap(), fields);
            }
            assert_eq!(decoder.size, 164);
        }
    }

    #[test]
    fn the_table_forgets_its_oldest_entries() {
        let mut decoder = Decoder::new();
        read(&mut decoder, &bytes("3f31")).unwrap(); // 80 bytes at most
        for (name, left) in [("a", 1), ("b", 2), ("c", 2)] {
            let block = [&[0x40, 1][..], name.as_bytes(), &[1, b'x']].concat();
            read(&mut decoder, &block).unwrap();
            assert_eq!(decoder.entries.len(), left);
        }
        assert_eq!(read(&mut decoder, &[0xbe]).unwrap(), "c x");
        assert_eq!(read(&mut decoder, &[0xbf]).unwrap(), "b x");
        assert_eq!(read(&mut decoder, &[0xc0]), Err(Malformed));
        let long = [&[0x40, 1, b'd', 80][..], &[b'x'; 80]].concat();
        read(&mut decoder, &long).unwrap();
        assert_eq!((decoder.entries.len(), decoder.size), (0, 0), "one that does not fit empties the table");
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for block in [
            "80",             // index 0
            "be",             // an entry that is not there
            "7f",             // an integer without its end
            "ffffffffffff7f", // one that is too large
            "400a",           // a string without its text
            "4001",           // likewise
            "3fe21f",         // a table of 4,097 bytes
            "8220",           // the table resized after a field
            "4081 00 0178",   // Huffman with a padding of zeros
        ] {
            assert_eq!(read(&mut Decoder::new(), &bytes(block)), Err(Malformed), "{block}");
        }
        let mut random = fastrand::Rng::with_seed(3);
        let mut decoder = Decoder::new();
        for _ in 0..20_000 {
            let block: Vec<u8> = (0..random.usize(..60)).map(|_| random.u8(..)).collect();
            let mut section = Section::default();
            let _ = decoder.decode(&block, MOST, &mut section);
            assert!(decoder.size <= TABLE_SIZE && section.text.len() <= 60 * TABLE_SIZE);
        }
    }

    /// One byte can stand for a long field: what is not kept takes no memory.
    #[test]
    fn a_section_is_bounded_whatever_it_grows_to() {
        let mut decoder = Decoder::new();
        let large = [&[0x40, 1, b'a', 0x7f, 0x81, 0x0f][..], &[b'x'; 2048]].concat();
        let mut section = Section::default();
        decoder.decode(&[&large[..], &[0xbe; 1000]].concat(), MOST, &mut section).unwrap();
        assert!(section.too_large && section.text.len() <= MOST && section.text.capacity() < 16 << 10);
        section.clear();
        decoder.decode(&[0x82; 1000], MOST, &mut section).unwrap();
        assert!(section.too_large && section.lines.len() < MOST / ENTRY_OVERHEAD, "so is the number of lines");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = BytesMut::new();
        put_no_table(&mut out);
        let long = "x".repeat(1000);
        let fields = [("content-type", "text/html"), ("x-own", "a"), ("set-cookie", "a=b"), ("via", long.as_str())];
        for status in [200, 206, 304, 301, 599] {
            out.truncate(1);
            put_status(&mut out, status);
            for (name, value) in fields {
                put_field(&mut out, name.as_bytes(), value.as_bytes());
            }
            let written = fields.map(|(name, value)| format!("{name} {value}")).join(", ");
            assert_eq!(read(&mut Decoder::new(), &out).unwrap(), format!(":status {status}, {written}"));
        }
    }
}
