//! What tells a request apart from all others: in error answers, in the log and at origins.

use std::cell::Cell;
use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Its identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestId<'a> {
    /// A number of this process; written with the process's own before it.
    Made(u64),
    /// By a trusted proxy.
    Given(&'a str),
}

/// Numbers that a thread takes at one time.
const BLOCK: u64 = 1 << 20;

static PROCESS: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));
static BLOCKS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The next number of this thread.
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Bytes of an identifier that is taken from a proxy.
const MAX_GIVEN: usize = 128;

impl<'a> RequestId<'a> {
    /// One that no other request has.
    pub fn made() -> Self {
        RequestId::Made(NEXT.with(|next| {
            let mut number = next.get();
            if number % BLOCK == 0 {
                number = BLOCKS.fetch_add(1, Ordering::Relaxed).wrapping_mul(BLOCK);
            }
            next.set(number + 1);
            number
        }))
    }

    /// What a proxy has said, if it can be written anywhere.
    pub fn given(value: &'a [u8]) -> Option<Self> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte);
        let text = std::str::from_utf8(value).ok()?;
        (matches!(value.len(), 1..=MAX_GIVEN) && value.iter().all(is_plain)).then_some(RequestId::Given(text))
    }
}

impl RequestId<'_> {
    /// As it is written; `space`: for one that was made here.
    pub fn as_str<'s>(&'s self, space: &'s mut [u8; 32]) -> &'s str {
        let number = match self {
            RequestId::Given(text) => return text,
            RequestId::Made(number) => *number,
        };
        // The number is scattered, so that those that follow each other do not look alike; no two become the same.
        for (half, digits) in [*PROCESS, scattered(number)].into_iter().zip(space.chunks_exact_mut(16)) {
            for (place, digit) in digits.iter_mut().enumerate() {
                *digit = b"0123456789abcdef"[(half >> (60 - 4 * place)) as usize & 15];
            }
        }
        std::str::from_utf8(space).unwrap_or_default() // digits are text
    }
}

impl fmt::Display for RequestId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str(&mut [0; 32]))
    }
}

/// The finishing steps of SplitMix64 (Steele, Lea, Flood 2014): a bijection.
fn scattered(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(*PROCESS);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let some = || (0..10_000).map(|_| RequestId::made().to_string()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(some)).collect();
        let all: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(all.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 40_000);
    }

    #[test]
    fn what_a_proxy_says_is_taken_if_it_can_be_written_anywhere() {
        for (value, taken) in [
            ("0af7651916cd43dd8448eb211c80319c", true),
            ("Root=1-5759e988-bd862e3fe1be46a994272793", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("a\r\nb", false),
            ("ä", false),
            (&"a".repeat(128), true),
            (&"a".repeat(129), false),
        ] {
            assert_eq!(RequestId::given(value.as_bytes()).map(|id| id.to_string()), taken.then(|| value.to_owned()));
        }
    }
}
