//! What the service manager and the node tell each other (sd_notify(3), sd_listen_fds(3)). Without systemd nothing of this
//! does anything.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use sha2::{Digest, Sha256};

use crate::config::model::ListenAddress;

/// The first descriptor that is handed to a service: sd_listen_fds(3).
const FIRST: i32 = 3;
/// Of more, somebody has made up the number.
const MOST: i32 = 1024;
/// What the names begin with under which the manager keeps sockets of ours.
const OURS: &str = "listen_";
/// How long it is waited until the manager has let go of a socket.
const BARRIER: Duration = Duration::from_secs(5);

/// The service manager, as long as the node is its service.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceManager {
    /// Another process is the service now.
    left: Arc<AtomicBool>,
}

impl ServiceManager {
    /// Says something of the service's state.
    pub(crate) fn tell(&self, states: &[NotifyState<'_>]) {
        if self.left.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = sd_notify::notify(false, states) {
            tracing::warn!(%error, "cannot notify systemd");
        }
    }

    /// Nothing more is said: what it would be taken for is another process's.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Has a socket kept over restarts (`FileDescriptorStoreMax=`): who connects meanwhile waits instead of being refused.
    /// Whether there is a manager; only its unit knows whether it does.
    pub(crate) fn keep(&self, address: &ListenAddress, file: Option<FileNumber>, socket: BorrowedFd<'_>) -> bool {
        let name = name_of(address, file);
        let states = [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
        if let Err(error) = sd_notify::notify_with_fds(false, &states, &[socket]) {
            tracing::warn!(%error, %address, "cannot have systemd keep a socket");
        }
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// Has it let go of a socket.
    pub(crate) fn let_go(&self, address: &ListenAddress, file: Option<FileNumber>) {
        let name = name_of(address, file);
        self.tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
    }
}

/// Waits until what was said before has been read: it closes the descriptor that comes with the message.
fn barrier() -> io::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    let (reader, writer) = io::pipe()?;
    sd_notify::notify_with_fds(false, &[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()])?;
    drop(writer);
    let patience = Timespec { tv_sec: BARRIER.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&reader, PollFlags::empty())], Some(&patience))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Letters of a name of which the rest is hashed; its file comes behind.
const LONGEST_NAME: usize = 200;

/// Letters of ASCII without ":", and others for each address and file.
fn name_of(address: &ListenAddress, file: Option<FileNumber>) -> String {
    let mut name = OURS.to_owned();
    for byte in address.to_string().bytes() {
        match byte {
            b'%' | b':' => _ = write!(name, "%{byte:02x}"), // writing to a String cannot fail
            byte if byte.is_ascii_graphic() => name.push(byte.into()),
            byte => _ = write!(name, "%{byte:02x}"),
        }
    }
    // systemd takes no more than 255 letters.
    if name.len() > LONGEST_NAME {
        let digest = Sha256::digest(address.to_string());
        name.truncate(LONGEST_NAME);
        digest[..8].iter().for_each(|byte| _ = write!(name, "{byte:02x}")); // likewise
    }
    if let Some((device, number)) = file {
        let _ = write!(name, "@{device:x}.{number:x}");
    }
    name
}

/// The file that a name tells of.
fn file_of(name: &str) -> Option<FileNumber> {
    let (device, number) = name.rsplit_once('@')?.1.split_once('.')?;
    Some((u64::from_str_radix(device, 16).ok()?, u64::from_str_radix(number, 16).ok()?))
}

/// Whether systemd asks for signs of life of this process, and how often at least.
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let interval = number("WATCHDOG_USEC").filter(|interval| is_ours && *interval > 0);
    interval.map(Duration::from_micros)
}

/// Sockets that listen already, from a `.socket` unit or from the process before.
#[derive(Debug, Default)]
pub(crate) struct Sockets(Vec<Handed>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Handed {
    address: ListenAddress,
    /// From the process before, and not from a unit.
    pub is_ours: bool,
    /// Of a Unix socket of ours, the file that it was bound to: another may be at its path.
    pub file: Option<FileNumber>,
    pub socket: OwnedFd,
}

/// Device and number of a file.
pub(crate) type FileNumber = (u64, u64);

impl Sockets {
    /// Takes what was handed over. `supervised`: to the parent of this process, which has passed it on.
    ///
    /// # Safety
    ///
    /// Called once, before anything else has opened descriptors.
    pub(crate) unsafe fn take(supervised: bool) -> Self {
        let text = |name| std::env::var(name).unwrap_or_default();
        if !supervised && text("LISTEN_PID").parse() != Ok(std::process::id()) {
            return Sockets::default();
        }
        let count = text("LISTEN_FDS").parse().unwrap_or(0);
        let names = text("LISTEN_FDNAMES");
        let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
        let all = (FIRST..FIRST + count.clamp(0, MOST)).zip(names);
        let handed = all.filter_map(|(descriptor, name)| {
            // SAFETY: it borrows for one call, which fails for what is not open.
            rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(descriptor) }).ok()?;
            // SAFETY: it is open, was handed to this process as its own, and by the caller's promise nobody else has it.
            let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
            let is_ours = name.starts_with(OURS);
            let file = if is_ours { file_of(&name) } else { None };
            let handed = prepare(&socket).map(|address| Handed { address, is_ours, file, socket });
            handed
                .inspect_err(
                    |error| tracing::warn!(descriptor, name, %error, "a socket that was handed over is not used"),
                )
                .ok()
        });
        Sockets(handed.collect())
    }

    /// Lets the next child have them, by the same numbers.
    pub(crate) fn pass_on(&self) -> io::Result<()> {
        let all = self.0.iter().map(|handed| rustix::io::fcntl_setfd(&handed.socket, rustix::io::FdFlags::empty()));
        Ok(all.collect::<Result<(), _>>()?)
    }

    /// The one that listens on an address.
    pub(crate) fn find(&mut self, address: &ListenAddress) -> Option<Handed> {
        let place = self.0.iter().position(|handed| handed.address == *address)?;
        Some(self.0.swap_remove(place))
    }

    /// Closes those that no listener is for: the addresses are free then. Gives those that are not a unit's.
    pub(crate) fn close_rest(&mut self, manager: &ServiceManager) -> Vec<ListenAddress> {
        let mut closed = Vec::new();
        for Handed { address, is_ours, file, socket } in self.0.drain(..) {
            drop(socket);
            if is_ours {
                manager.let_go(&address, file);
                closed.push(address);
            } else {
                tracing::warn!(%address, "a socket unit listens on an address that no [[listen]] has: who connects there waits in vain");
            }
        }
        if !closed.is_empty()
            && let Err(error) = barrier()
        {
            tracing::warn!(%error, "systemd did not say that it let go of the sockets that are not used any more");
        }
        closed
    }
}

/// Makes a descriptor one of this process's, and tells where it listens.
fn prepare(socket: &OwnedFd) -> io::Result<ListenAddress> {
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC)?;
    if !rustix::net::sockopt::socket_acceptconn(socket)? {
        return Err(io::Error::other("it does not listen"));
    }
    let socket = socket2::SockRef::from(socket);
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let ip = address.as_socket().map(ListenAddress::Ip);
    let unix = || address.as_pathname().map(|path| ListenAddress::Unix(path.to_owned()));
    ip.or_else(unix).ok_or_else(|| io::Error::other("it has no address that [[listen]] may have"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_differ_and_are_short_enough() {
        let name = |end: &str| {
            let address = format!("unix:/run/{}{end}", "é".repeat(45)).parse().unwrap();
            name_of(&address, Some((u64::MAX, u64::MAX)))
        };
        assert!(name("a").len() <= 255 && name("a") != name("b") && name("a") == name("a"));
        assert_eq!(file_of(&name("a")), Some((u64::MAX, u64::MAX)));
    }

    #[test]
    fn names_are_such_as_the_manager_takes() {
        for (address, name) in [
            ("0.0.0.0:80", "listen_0.0.0.0%3a80"),
            ("[::1]:443", "listen_[%3a%3a1]%3a443"),
            ("unix:/run/ä b.sock", "listen_unix%3a/run/%c3%a4%20b.sock"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!((name_of(&address, None).as_str(), file_of(name)), (name, None));
            let with_file = name_of(&address, Some((0x1f, 260)));
            assert_eq!((with_file.as_str(), file_of(&with_file)), (&*format!("{name}@1f.104"), Some((0x1f, 260))));
        }
    }
}
