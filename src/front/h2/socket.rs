//! Between a connection's buffers and its socket.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::output::Output;
use super::wire::{self, FrameHeader};

/// Bytes that are read at once, at most: a frame of a body.
const READ: usize = wire::MAX_PAYLOAD + wire::HEADER;
/// Room that is there for what comes next.
const FIRST_READ: usize = 2 << 10;
/// Parts in one system call.
const PARTS: usize = 16;

/// Reads what has come, a frame at most.
pub(super) fn poll_read<S: AsyncRead + Unpin>(
    input: &mut BytesMut,
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if input.capacity() == 0 {
        // After a rest, so that one that goes on takes no memory.
        let mut space = [0; FIRST_READ];
        let read = ready!(pin!(stream.read(&mut space)).poll(cx))?;
        input.extend_from_slice(&space[..read]);
        return Poll::Ready(Ok(read));
    }
    // As much as is missing of the frame that has begun; of the next, what most requests have.
    let missing = FrameHeader::read(input).map_or(0, |header| wire::HEADER + header.length.min(wire::MAX_PAYLOAD));
    input.reserve(missing.saturating_sub(input.len()).clamp(FIRST_READ, READ));
    pin!(stream.read_buf(&mut input.limit(READ))).poll(cx)
}

/// Writes what the client takes; ready when all is gone.
pub(super) fn poll_write<S: AsyncWrite + Unpin>(
    output: &mut Output,
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while output.len() > 0 {
        let (mut slices, mut count) = ([IoSlice::new(&[]); PARTS], 0);
        for (slice, part) in slices.iter_mut().zip(output.parts()) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        match Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(written)) => output.advance(written),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                output.wait(Instant::now);
                return Poll::Pending;
            }
        }
    }
    if output.unflushed {
        let flushed = Pin::new(stream).poll_flush(cx);
        if flushed.is_pending() {
            output.wait(Instant::now);
        }
        ready!(flushed)?;
        output.flushed();
    }
    Poll::Ready(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::BytesMut;

    use super::super::output::COPIED;
    use super::super::wire::kind;
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
                assert!(poll_write(&mut output, &mut stream, &mut Context::from_waker(Waker::noop())).is_ready());
                assert!(stream.0 == expected[..] && output.is_done(), "{most} {round}");
            }
        }
    }
}
