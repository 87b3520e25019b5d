//! Which responses were asked for before: those alone get onto a disk that is to be spared (`admission = "second_hit"`).

use std::sync::atomic::{AtomicU32, Ordering};

use super::id::KeyHash;

/// Keys that are remembered, at most: four bytes each.
const PLACES: usize = 1 << 20;

/// Remembers keys by a part of their hash; a later one may push an earlier one out.
pub(crate) struct Seen(Box<[AtomicU32]>);

impl Seen {
    pub(crate) fn new() -> Self {
        Seen((0..PLACES).map(|_| AtomicU32::new(0)).collect())
    }

    /// Whether a key was seen before. It is from now on.
    pub(crate) fn before(&self, key: KeyHash) -> bool {
        let (place, mark) = key.place_and_mark(PLACES);
        self.0[place].swap(mark, Ordering::Relaxed) == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_remembered() {
        let seen = Seen::new();
        let keys: Vec<KeyHash> = (0..1000).map(|number| KeyHash::of(&format!("key {number}"))).collect();
        assert!(keys.iter().all(|key| !seen.before(*key)));
        let again = keys.iter().filter(|key| seen.before(**key)).count();
        assert!(again > 990, "{again}");
    }
}
