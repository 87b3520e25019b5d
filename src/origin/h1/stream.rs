//! The bytes to and from an origin.

use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use pingora_core::protocols::Stream;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::unconstrained;
use tokio_util::either::Either;

/// By TLS it is pingora's, which verifies as it does for everything else.
pub(crate) type OriginStream = Either<TcpStream, Either<UnixStream, Stream>>;

pub(crate) fn tcp(stream: TcpStream) -> OriginStream {
    Either::Left(stream)
}

pub(crate) fn unix(stream: UnixStream) -> OriginStream {
    Either::Right(Either::Left(stream))
}

pub(crate) fn tls(stream: Stream) -> OriginStream {
    Either::Right(Either::Right(stream))
}

/// Whether nothing has come, not even the end.
pub(super) fn is_quiet(stream: &mut OriginStream) -> bool {
    let mut space = [0; 1];
    // The kernel itself is asked: tokio hears of what has come only when it looks for it.
    let is_quiet = |socket: BorrowedFd<'_>| {
        let peeked = rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
    };
    match stream {
        Either::Left(stream) => is_quiet(stream.as_fd()),
        Either::Right(Either::Left(stream)) => is_quiet(stream.as_fd()),
        Either::Right(Either::Right(stream)) => {
            let mut buf = ReadBuf::new(&mut space);
            // tokio might say "pending" for no other reason than that the task has done much.
            let reading = unconstrained(poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buf)));
            pin!(reading).poll(&mut Context::from_waker(Waker::noop())).is_pending()
        }
    }
}
