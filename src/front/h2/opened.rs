//! Which streams a client has opened: each number once, and each above those before (RFC 9113 section 5.1.1).

/// Of so many of the latest numbers it is remembered.
const REMEMBERED: u32 = u64::BITS;

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Opened {
    /// The highest; 0: none yet.
    pub last: u32,
    /// Bit n: the number 2n below that.
    recent: u64,
}

impl Opened {
    /// A stream above all others is opened.
    pub(crate) fn open(&mut self, stream: u32) {
        let skipped = stream.saturating_sub(self.last) / 2;
        self.recent = self.recent.checked_shl(skipped).unwrap_or(0) | 1;
        self.last = stream;
    }

    /// Whether a client's stream was passed over, so that it can never be opened. Of those long ago nothing is known.
    pub(crate) fn was_passed_over(&self, stream: u32) -> bool {
        let back = self.last.saturating_sub(stream) / 2;
        stream < self.last && back < REMEMBERED && self.recent & 1 << back == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_were_passed_over_are_known() {
        let mut opened = Opened::default();
        assert!(!opened.was_passed_over(1));
        for stream in [1, 3, 9, 11, 101] {
            opened.open(stream);
        }
        for (stream, expected) in [(1, false), (3, false), (5, true), (7, true), (9, false), (11, false), (13, true)] {
            assert_eq!(opened.was_passed_over(stream), expected, "{stream}");
        }
        assert!(opened.was_passed_over(99) && !opened.was_passed_over(101) && !opened.was_passed_over(103));
        opened.open(301);
        assert!(opened.was_passed_over(299) && opened.was_passed_over(175), "63 numbers back");
        assert!(!opened.was_passed_over(173), "too long ago");
    }
}
