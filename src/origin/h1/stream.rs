//! The bytes to and from an origin.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use pingora_core::protocols::Stream;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio_util::either::Either;

pub(crate) use tokio_util::either::Either::{Left as Plain, Right as Tls};

/// By TLS it is pingora's, which verifies as it does for everything else.
pub(crate) type OriginStream = Either<TcpStream, Stream>;

/// Whether nothing has come, not even the end.
pub(super) fn is_quiet(stream: &mut OriginStream) -> bool {
    let mut space = [0; 1];
    match stream {
        Plain(stream) => {
            // The kernel itself is asked: tokio hears of what has come only when it looks for it.
            let peeked = rustix::net::recv(&*stream, &mut space, RecvFlags::PEEK | RecvFlags::DONTWAIT);
            matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
        }
        Tls(stream) => {
            let mut buf = ReadBuf::new(&mut space);
            // tokio might say "pending" for no other reason than that the task has done much.
            let reading = unconstrained(poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buf)));
            pin!(reading).poll(&mut Context::from_waker(Waker::noop())).is_pending()
        }
    }
}
