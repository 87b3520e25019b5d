//! A client's socket as it was accepted: of TCP, or a Unix socket on this machine.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::sendfile;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::cache::object::FilePart;

/// One end of a connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What is known of a client that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    There,
    /// It has ended its side: it may have left, or only have no more to say.
    Ended,
    /// The connection is over.
    Gone,
}

impl Socket {
    /// Has small pieces sent at once. An error means that the client is gone.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.set_nodelay(true),
            Socket::Unix(_) => Ok(()),
        }
    }

    /// Who is at the other end, for a message.
    pub(super) fn peer(&self) -> String {
        match self {
            Socket::Tcp(stream) => stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default(),
            Socket::Unix(_) => "a Unix socket".to_owned(),
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_write_ready(cx),
            Socket::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Has the kernel send some of a part of a file; says how much. [`io::ErrorKind::WouldBlock`]: the client takes no more.
    pub(super) fn try_send_file(&self, part: &FilePart) -> io::Result<u64> {
        let (mut at, most) = (part.at, usize::try_from(part.length).unwrap_or(usize::MAX));
        let send = || Ok(sendfile(self, &part.file, Some(&mut at), most)? as u64);
        match self {
            Socket::Tcp(stream) => stream.try_io(Interest::WRITABLE, send),
            Socket::Unix(stream) => stream.try_io(Interest::WRITABLE, send),
        }
    }

    /// Bytes that the kernel has and the client has not: tcp(7), unix(7), `SIOCOUTQ`. Of no use if that fails: 0.
    pub(super) fn queued(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `self` is there, and the call writes one int.
        let result = unsafe { libc::ioctl(self.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// What has become of the client.
    pub(super) fn state(&self) -> Peer {
        match self {
            Socket::Tcp(stream) => tcp_state(stream),
            Socket::Unix(stream) => unix_state(stream),
        }
    }

    /// Makes the end of the connection a reset. A Unix socket has none.
    pub(super) fn end_by_reset(&self) {
        if let Socket::Tcp(stream) = self {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)); // it may be gone already
        }
    }
}

/// By the state of the connection: tcp(7), `TCP_INFO`. If that fails, nothing is known.
fn tcp_state(stream: &TcpStream) -> Peer {
    const CLOSED: u8 = 7;
    const CLOSE_WAIT: u8 = 8;
    let (mut state, mut length) = (0_u8, 1 as libc::socklen_t);
    // SAFETY: the descriptor is open as long as `stream` is there, and the call writes at most `length` bytes: the first of
    // `tcp_info`, which is the state.
    let result = unsafe {
        let (state, length) = ((&raw mut state).cast(), &raw mut length);
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, state, length)
    };
    match state {
        CLOSED if result == 0 => Peer::Gone,
        CLOSE_WAIT if result == 0 => Peer::Ended,
        _ => Peer::There,
    }
}

/// By what poll(2) says without waiting. If that fails, nothing is known.
fn unix_state(stream: &UnixStream) -> Peer {
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut polled, Some(&at_once)).map(|_| polled[0].revents()) {
        Ok(found) if found.intersects(PollFlags::HUP | PollFlags::ERR) => Peer::Gone,
        Ok(found) if found.contains(PollFlags::RDHUP) => Peer::Ended,
        _ => Peer::There,
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
