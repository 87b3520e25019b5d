//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B), for decoding. The code is canonical, so that the
//! lengths of its codes are all there is to know of it.

/// What a field section has cannot be read: an error of the connection, since the table is not known any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Bits of the code of each byte, and of the end of the string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];
const END: u16 = 256;
const LONGEST: usize = 30;
/// Codes of up to so many bits, which are those of most text, are looked up at once.
const SHORT: u32 = 8;

struct Tables {
    /// By the next eight bits: the byte and the length of its code; 0: a longer one.
    short: [(u8, u8); 1 << SHORT],
    /// By length: the first code, how many bytes have shorter ones, and what lies above all codes of this length when it
    /// is moved to the left of 32 bits.
    first: [u32; LONGEST + 1],
    before: [u16; LONGEST + 1],
    above: [u64; LONGEST + 1],
    /// In the order of their codes.
    symbols: [u16; LENGTHS.len()],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut made = Tables {
        short: [(0, 0); 1 << SHORT],
        first: [0; LONGEST + 1],
        before: [0; LONGEST + 1],
        above: [0; LONGEST + 1],
        symbols: [0; LENGTHS.len()],
    };
    let (mut code, mut count, mut length) = (0_u32, 0_usize, 1);
    while length <= LONGEST {
        made.first[length] = code;
        made.before[length] = count as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                made.symbols[count] = symbol as u16;
                count += 1;
                let mut rest = 0;
                while length as u32 <= SHORT && rest < 1 << (SHORT - length as u32) {
                    made.short[(code << (SHORT - length as u32)) as usize + rest] = (symbol as u8, length as u8);
                    rest += 1;
                }
                code += 1;
            }
            symbol += 1;
        }
        made.above[length] = (code as u64) << (32 - length);
        code <<= 1;
        length += 1;
    }
    made
}

/// The symbol whose code a window of 32 bits begins with, and the length of that code.
fn symbol(window: u32) -> (u16, u32) {
    let (byte, length) = TABLES.short[(window >> (32 - SHORT)) as usize];
    if length > 0 {
        return (u16::from(byte), u32::from(length));
    }
    let mut length = SHORT as usize + 1;
    // The longest codes reach the top: something is always found.
    while length < LONGEST && u64::from(window) >= TABLES.above[length] {
        length += 1;
    }
    let number = u32::from(TABLES.before[length]) + ((window >> (32 - length)) - TABLES.first[length]);
    (TABLES.symbols[(number as usize).min(LENGTHS.len() - 1)], length as u32)
}

/// Appends what a string stands for.
pub(crate) fn decode(string: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut rest = string.iter();
    // The bits that come next, from the left, and how many there are.
    let (mut bits, mut there) = (0_u64, 0_u32);
    loop {
        while there <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - there);
            there += 8;
        }
        let (symbol, length) = symbol((bits >> 32) as u32);
        if length > there {
            // Padding: the first bits of the end's code, all ones, and less than a byte.
            return if there < 8 && bits.leading_ones() >= there { Ok(()) } else { Err(Malformed) };
        }
        if symbol == END {
            return Err(Malformed);
        }
        out.push(symbol as u8); // less than END
        bits <<= length;
        there -= length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(string: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        decode(string, &mut out).map(|()| out)
    }

    /// By the canonical code, bit for bit.
    fn encoded(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in text {
            let length = LENGTHS[*byte as usize] as usize;
            let place = TABLES.symbols.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
            let code = TABLES.first[length] + place as u32 - u32::from(TABLES.before[length]);
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.chunks(8)
            .map(|byte| (0..8).fold(0, |sum, bit| sum << 1 | u8::from(*byte.get(bit).unwrap_or(&true))))
            .collect()
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for (string, text) in [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..], "www.example.com"),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0x64, 0x02], "302"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
            (&[], ""),
        ] {
            assert_eq!(decoded(string).unwrap(), text.as_bytes());
            assert_eq!(encoded(text.as_bytes()), string);
        }
    }

    #[test]
    fn every_byte_and_any_text_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encoded(&all)).unwrap(), all);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..5_000 {
            let text: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            assert_eq!(decoded(&encoded(&text)).unwrap(), text);
            let _ = decoded(&text); // whatever it is, it is no panic
        }
    }

    #[test]
    fn bad_endings_are_refused() {
        for (string, why) in [
            (&[0xff][..], "a whole byte of padding"),
            (&[0xff; 4], "the end's own code"),
            (&[0x1f, 0xff, 0xff], "more than a byte of padding"),
            (&[0x00], "padding of zeros"),
        ] {
            assert_eq!(decoded(string), Err(Malformed), "{why}");
        }
    }
}
