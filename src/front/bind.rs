//! Opening the sockets that listen, of TCP or Unix sockets, and accepting from them.

use std::fs::{File, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::config::model::ListenAddress;
use crate::lock::try_lock;
use crate::request::Scheme;
use crate::systemd::FileNumber;

use super::socket::Socket;

const BACKLOG: u32 = 4096;

/// A socket that listens.
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket, which goes when nobody listens there any more.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Another program may have put its own there.
    id: FileNumber,
    /// The socket outlives this process, and so does its file.
    is_kept: AtomicBool,
    /// Of those who would listen there one does, from before it looks at the path until it has left it.
    _lock: Option<File>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.is_kept.load(Ordering::Relaxed) && file_id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = std::fs::remove_file(&self.path); // it is no harm: who starts next takes its place
        }
    }
}

impl Listening {
    /// Opens one. `mode`: who may connect to a Unix socket.
    pub(super) fn open(address: &ListenAddress, mode: u32) -> io::Result<Self> {
        match address {
            ListenAddress::Ip(address) => open_tcp(*address).map(Listening::Tcp),
            ListenAddress::Unix(path) => open_unix(path, mode).map(|(socket, file)| Listening::Unix(socket, file)),
        }
    }

    /// Takes one over that listens there already. `file`: what a Unix socket was bound to, if that is known.
    pub(super) fn adopt(
        address: &ListenAddress,
        mode: u32,
        socket: OwnedFd,
        file: Option<FileNumber>,
    ) -> io::Result<Self> {
        match address {
            ListenAddress::Ip(_) => TcpListener::from_std(socket.into()).map(Listening::Tcp),
            ListenAddress::Unix(path) => {
                let (id, is_kept) = (file_id(path)?, true.into());
                if file.is_some_and(|file| file != id) {
                    return Err(io::Error::other("another file has taken its place"));
                }
                let lock = match lock(path) {
                    Ok(lock) => Some(lock),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
                    Err(_) => None, // a socket unit's, in a directory of root's: who may connect is that unit's to say
                };
                let is_locked = lock.is_some();
                let file = SocketFile { path: path.clone(), id, is_kept, _lock: lock };
                let listening = Listening::Unix(UnixListener::from_std(socket.into())?, file);
                if is_locked {
                    listening.set_mode(mode)?;
                }
                Ok(listening)
            }
        }
    }

    /// Takes the file of a Unix socket away that nobody listens at any more.
    pub(super) fn clean_up(address: &ListenAddress) {
        if let ListenAddress::Unix(path) = address {
            let _ = lock(path).and_then(|_lock| remove_left_over(path)); // another program may have the path now
        }
    }

    /// Who may connect to a Unix socket from now on.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        match self {
            Listening::Tcp(_) => Ok(()),
            Listening::Unix(_, file) => std::fs::set_permissions(&file.path, Permissions::from_mode(mode)),
        }
    }

    /// Whether the file of a Unix socket stays when this process ends.
    pub(super) fn set_kept(&self, is_kept: bool) {
        if let Listening::Unix(_, file) = self {
            file.is_kept.store(is_kept, Ordering::Relaxed);
        }
    }

    /// The file of a Unix socket.
    pub(super) fn file(&self) -> Option<FileNumber> {
        match self {
            Listening::Tcp(_) => None,
            Listening::Unix(_, file) => Some(file.id),
        }
    }

    /// Where it is: with the port that it got, if it asked for any.
    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Listening::Tcp(listener) => listener.local_addr().map(ListenAddress::Ip),
            Listening::Unix(_, file) => Ok(ListenAddress::Unix(file.path.clone())),
        }
    }

    /// The address that clients connect to, as requests know it.
    pub(super) fn local(&self, scheme: Scheme) -> io::Result<SocketAddr> {
        match self {
            Listening::Tcp(listener) => listener.local_addr(),
            Listening::Unix(..) => Ok((Ipv4Addr::LOCALHOST, scheme.default_port()).into()),
        }
    }

    /// The next connection, and whose it is. Who comes by a Unix socket is on this machine, and has no address but that.
    pub(super) async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Listening::Tcp(listener) => listener.accept().await.map(|(stream, client)| (Socket::Tcp(stream), client)),
            Listening::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), (Ipv4Addr::LOCALHOST, 0).into()))
            }
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Unix(listener, _) => listener.as_fd(),
        }
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.is_ipv6() {
        // So that 0.0.0.0:80 and [::]:80 can stand side by side, whatever the system's default.
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.set_reuseaddr(true)?;
    keep_alive(&socket)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Has the kernel ask whether clients are still there of which nothing is heard, such as who takes a stream that is silent: 60 s
/// from then on, every 15 s, and four times. Accepted sockets have it from their listener.
fn keep_alive(socket: &TcpSocket) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15))?;
    Ok(sockopt::set_tcp_keepcnt(socket, 4)?)
}

/// Nobody can connect before its permissions are set: until then it does not listen.
fn open_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let lock = lock(path)?;
    remove_left_over(path)?;
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), id: file_id(path)?, is_kept: false.into(), _lock: Some(lock) };
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG as i32)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// Locks a path, by a file beside it. That stays: who removes a file that others may have opened locks nobody out.
fn lock(path: &Path) -> io::Result<File> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(beside)?;
    if try_lock(&file)? { Ok(file) } else { Err(io::ErrorKind::AddrInUse.into()) }
}

/// Takes away the file of a process that has ended without doing that itself. What is no socket, or is listened on, stays.
fn remove_left_over(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket"));
    }
    let probe = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    probe.set_nonblocking(true)?; // who has a full queue is there, too
    match probe.connect(&socket2::SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a socket of another user's"))
        }
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn file_id(path: &Path) -> io::Result<FileNumber> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}
