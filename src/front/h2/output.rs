//! What waits to be written to the client: small things copied together, bodies as they are.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::wire::{self, flag, kind};

/// A body of up to so many bytes is cheaper copied than written as a part of its own.
pub(super) const COPIED: usize = 4 << 10;

/// Frames for the client, in order.
#[derive(Debug, Default)]
pub struct Output {
    parts: VecDeque<Bytes>,
    /// Bytes in the parts.
    in_parts: usize,
    /// After all parts.
    last: BytesMut,
    /// Whether all was taken, and may still lie in a buffer of the way there.
    pub(super) unflushed: bool,
    /// Since when it has been waited for the client to take some.
    stuck: Option<Instant>,
    /// Whether all parts are copies.
    is_own: bool,
    /// Frames of bodies so far.
    pub(super) data_frames: u64,
}

impl Output {
    /// Where frames are appended.
    pub(crate) fn frames(&mut self) -> &mut BytesMut {
        &mut self.last
    }

    /// Appends a DATA frame.
    pub(crate) fn put_data(&mut self, stream: u32, data: Bytes, ends_stream: bool) {
        self.data_frames += 1;
        let flags = if ends_stream { flag::END_STREAM } else { 0 };
        wire::put_header(&mut self.last, data.len(), kind::DATA, flags, stream);
        if data.len() <= COPIED {
            self.last.extend_from_slice(&data);
            return;
        }
        self.in_parts += self.last.len() + data.len();
        self.parts.push_back(self.last.split().freeze());
        self.parts.push_back(data);
        self.is_own = false;
    }

    /// Since when it has kept parts of bodies, which may be far larger, for a client that takes nothing.
    pub(crate) fn pins_since(&self) -> Option<Instant> {
        self.stuck.filter(|_| !self.is_own && !self.parts.is_empty())
    }

    /// Keeps copies instead.
    pub(crate) fn copy(&mut self) {
        self.parts.iter_mut().for_each(|part| *part = Bytes::copy_from_slice(part));
        self.is_own = true;
    }

    /// Whether the client is waited for: what more would be put in would only lie here.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.is_some()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.in_parts + self.last.len()
    }

    /// Whether everything has gone.
    pub fn is_done(&self) -> bool {
        self.len() == 0 && !self.unflushed
    }

    /// Gives memory back that an idle connection needs not.
    pub(crate) fn trim(&mut self) {
        if self.is_done() {
            (self.parts, self.last) = (VecDeque::new(), BytesMut::new());
        }
    }

    /// What waits, in order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| &part[..]).chain([&self.last[..]])
    }

    /// The client does not take more now.
    pub(crate) fn wait(&mut self, now: impl FnOnce() -> Instant) {
        self.stuck.get_or_insert_with(now);
    }

    /// Nothing lies there any more.
    pub fn flushed(&mut self) {
        (self.unflushed, self.stuck) = (false, None);
    }

    /// The client has taken so many bytes.
    pub fn advance(&mut self, mut written: usize) {
        (self.unflushed, self.stuck) = (true, None);
        while written > 0
            && let Some(first) = self.parts.front_mut()
        {
            let some = written.min(first.len());
            first.advance(some);
            written -= some;
            self.in_parts -= some;
            if first.is_empty() {
                self.parts.pop_front();
            }
        }
        if written == self.last.len() {
            self.last.clear(); // the room is used again
        } else {
            self.last.advance(written);
        }
    }
}
