//! Buffers for the pieces of a body on their way from its file to a client. They are used again: what is in one has been
//! sent, so it need not be zeroed first, and it is still in the processor's cache.

use std::cell::RefCell;

use bytes::Bytes;

use crate::cache::object::MOST_READ;

/// Bytes of a buffer.
pub(crate) const PIECE: usize = MOST_READ;
/// Buffers that a thread keeps.
const MAX_SPARE: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Some bytes, at most [`PIECE`], of a buffer that goes back when it is dropped.
pub(crate) struct Buffer {
    whole: Box<[u8]>,
    length: usize,
}

impl Buffer {
    /// With whatever was in it before.
    pub(crate) fn of(length: usize) -> Self {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        let whole = spare.filter(|_| length <= PIECE).unwrap_or_else(|| vec![0; length.max(PIECE)].into());
        Buffer { whole, length }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.whole[..self.length]
    }

    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.whole[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let whole = std::mem::take(&mut self.whole);
        // The thread may be ending.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MAX_SPARE && whole.len() == PIECE {
                spare.push(whole);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_has_its_bytes() {
        let mut buffer = Buffer::of(100);
        buffer.as_mut().fill(7);
        let at = buffer.as_ref().as_ptr();
        let bytes = buffer.freeze();
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_ne!(Buffer::of(1).as_ref().as_ptr(), at, "a part of it is still in use");
        assert_eq!(*slice, [7; 10]);
        drop(slice);
        let all: Vec<Buffer> = (0..3).map(|_| Buffer::of(PIECE)).collect();
        assert!(all.iter().any(|buffer| buffer.as_ref().as_ptr() == at));
        drop(all);
        let many: Vec<Buffer> = (0..2 * MAX_SPARE).map(|_| Buffer::of(5)).collect();
        drop(many);
        assert!(SPARE.with_borrow(Vec::len) <= MAX_SPARE);
    }
}
