//! What waits to be written to the client: small things copied together, bodies as they are.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::wire::{self, flag, kind};

/// A body of up to so many bytes is cheaper copied than written as a part of its own.
const COPIED: usize = 4 << 10;
/// Parts in one system call.
const PARTS: usize = 16;

/// Frames for the client, in order.
#[derive(Default)]
pub(crate) struct Output {
    parts: VecDeque<Bytes>,
    /// Bytes in the parts.
    in_parts: usize,
    /// After all parts.
    last: BytesMut,
    unflushed: bool,
    /// Since when it has been waited for the client to take some.
    stuck: Option<Instant>,
    /// Whether all parts are copies.
    is_own: bool,
    /// Frames of bodies so far.
    data_frames: u64,
}

impl Output {
    /// Where frames are appended.
    pub(crate) fn frames(&mut self) -> &mut BytesMut {
        &mut self.last
    }

    pub(crate) fn data_frames(&self) -> u64 {
        self.data_frames
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
    pub(crate) fn len(&self) -> usize {
        self.in_parts + self.last.len()
    }

    /// Whether everything has gone.
    pub(crate) fn is_done(&self) -> bool {
        self.len() == 0 && !self.unflushed
    }

    /// Gives memory back that an idle connection needs not.
    pub(crate) fn trim(&mut self) {
        if self.is_done() {
            (self.parts, self.last) = (VecDeque::new(), BytesMut::new());
        }
    }

    /// Writes what the client takes; ready when all is gone.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len() > 0 {
            self.unflushed = true;
            let mut slices = [IoSlice::new(&[]); PARTS];
            let mut count = 0;
            for part in self.parts.iter().take(PARTS - 1) {
                slices[count] = IoSlice::new(part);
                count += 1;
            }
            if count == self.parts.len() {
                slices[count] = IoSlice::new(&self.last);
                count += 1;
            }
            match Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.stuck = None;
                    self.advance(written);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.stuck.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        if self.unflushed {
            let flushed = Pin::new(stream).poll_flush(cx);
            if flushed.is_pending() {
                self.stuck.get_or_insert_with(Instant::now);
            }
            ready!(flushed)?;
            (self.unflushed, self.stuck) = (false, None);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes a few bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            let some = data.len().min(self.1);
            self.0.extend_from_slice(&data[..some]);
            Poll::Ready(Ok(some))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn frames_come_out_in_order_however_they_are_taken() {
        let bodies = [10, COPIED, COPIED + 1, 16_384, 1, 9000, 0];
        let mut expected = BytesMut::new();
        for (at, length) in bodies.iter().enumerate() {
            wire::put_header(&mut expected, *length, kind::DATA, 0, at as u32);
            expected.extend_from_slice(&vec![at as u8; *length]);
        }
        for most in [1, 7, 5000, usize::MAX] {
            let mut output = Output::default();
            for round in 0..3 {
                for (at, length) in bodies.iter().enumerate() {
                    output.put_data(at as u32, vec![at as u8; *length].into(), false);
                }
                assert_eq!(output.len(), expected.len());
                let mut stream = Slow(Vec::new(), most);
                assert!(output.poll_write(&mut stream, &mut Context::from_waker(Waker::noop())).is_ready());
                assert!(stream.0 == expected[..] && output.is_done(), "{most} {round}");
            }
        }
    }
}
