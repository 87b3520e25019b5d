//! Whether what a configuration listens on can be listened on, without disturbing a node that does.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;

use crate::config::model::{Config, ListenAddress};

/// What a node's processes are called.
const NAME: &str = "seawall";

/// The addresses that another program has, or that cannot be listened on for another reason; each with what to do.
pub(super) fn obstacles(config: &Config) -> Vec<String> {
    let admin = config.admin.iter().map(|admin| admin.address);
    let listeners = config.listeners.iter().filter_map(|listener| match listener.address {
        ListenAddress::Ip(address) => Some(address),
        ListenAddress::Unix(_) => None,
    });
    let all = listeners.chain(admin).filter(|address| address.port() != 0);
    all.filter_map(|address| Some(format!("cannot listen on {address}: {}", obstacle(address)?))).collect()
}

fn obstacle(address: SocketAddr) -> Option<String> {
    match probe(address).map_err(|error| (error.kind(), error.to_string())) {
        Ok(()) => None,
        Err((io::ErrorKind::PermissionDenied, _)) => None, // as the service it may
        Err((io::ErrorKind::AddrInUse, error)) => {
            let hint = "see who has it with ss -ltnp, or take another port";
            (!is_ours(address)).then(|| format!("{error}\n  = hint: {hint}"))
        }
        Err((_, error)) => Some(error),
    }
}

fn probe(address: SocketAddr) -> io::Result<()> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    drop(TcpListener::from(socket));
    Ok(())
}

/// Whether all who listen at the port are nodes: they give it up, or have it already.
fn is_ours(address: SocketAddr) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: HashSet<u64> = tables.iter().flat_map(|table| listening(table, address.port())).collect();
    let ours = inodes_of(NAME);
    !inodes.is_empty() && inodes.iter().all(|inode| ours.contains(inode))
}

/// The sockets of a table of proc(5) that listen at a port.
fn listening(table: &str, port: u16) -> impl Iterator<Item = u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(move |line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let of_port = columns.get(1)?.rsplit_once(':')?.1;
        let matches = u16::from_str_radix(of_port, 16) == Ok(port) && *columns.get(3)? == LISTEN;
        columns.get(9)?.parse().ok().filter(|_| matches)
    })
}

/// The descriptors of the processes of a name, and of the first one of all: systemd keeps sockets for services.
fn inodes_of(name: &str) -> HashSet<u64> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_named = |comm: String| comm.trim() == name;
    let ours =
        processes.filter(|path| path.ends_with("1") || fs::read_to_string(path.join("comm")).is_ok_and(is_named));
    let descriptors = ours.flat_map(|path| fs::read_dir(path.join("fd")).into_iter().flatten().flatten());
    descriptors.filter_map(|descriptor| Some(fs::metadata(descriptor.path()).ok()?.ino())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_read_from_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x\n\
             1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 x\n\
             2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 x\n";
        assert_eq!(listening(table, 8080).collect::<Vec<_>>(), [4711]);
        assert_eq!(listening(table, 80).collect::<Vec<_>>(), [4713]);
        assert_eq!(listening(table, 81).count(), 0);
    }

    #[test]
    fn what_somebody_else_has_is_an_obstacle() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(obstacle(address).is_some_and(|why| why.contains("Address already in use")));
        drop(taken);
        assert_eq!(obstacle(address), None);
    }
}
