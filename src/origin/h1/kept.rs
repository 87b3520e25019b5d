//! Connections that are kept for the next exchange.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::clock::ticks;
use crate::config::model::Life;

use super::stream::is_quiet;
use super::{Connection, KEPT_BUFFER};

/// Connections that are kept of a pool in any case, and for each of its origins.
const MAX_KEPT: usize = 1024;
const MAX_KEPT_EACH: usize = 4;

/// The kept connections of one pool, to any of its origins: all of them are reached in the same way, but for the name that
/// is asked for by TLS, which goes with the origin.
pub struct Kept(Mutex<All>);

struct All {
    /// Of each origin, by its place in the pool; the one that was used last is the last one.
    resting: Vec<Vec<Resting>>,
    count: usize,
    /// The pool has been replaced: nobody will ask any more.
    closed: bool,
}

struct Resting {
    address: SocketAddr,
    /// [`ticks`].
    since: u64,
    connection: Box<Connection>,
}

impl Resting {
    fn is_alive(&mut self, most_idle: Duration) -> bool {
        let rested = Duration::from_millis(ticks().saturating_sub(self.since));
        rested < most_idle && is_quiet(&mut self.connection.stream)
    }
}

impl Kept {
    /// For a pool of so many origins.
    pub fn new(origins: usize) -> Self {
        let resting = (0..origins).map(|_| Vec::new()).collect();
        Kept(Mutex::new(All { resting, count: 0, closed: false }))
    }

    /// The one that was used last, to an origin at an address. It was alive a moment ago, but may have been closed since.
    pub fn take(&self, origin: usize, address: SocketAddr, most_idle: Duration) -> Option<Box<Connection>> {
        loop {
            let mut resting = {
                let mut all = self.0.lock();
                let own = all.resting.get_mut(origin)?;
                let place = own.iter().rposition(|kept| kept.address == address)?;
                let resting = own.remove(place);
                all.count -= 1;
                resting
            };
            if resting.is_alive(most_idle) {
                return Some(resting.connection);
            }
        }
    }

    /// Keeps a connection, if it can be used again.
    pub fn put(&self, origin: usize, address: SocketAddr, life: &Life, mut connection: Box<Connection>) {
        if !connection.can_be_kept(life) {
            return;
        }
        if connection.read.capacity() > KEPT_BUFFER {
            connection.read = BytesMut::new();
        }
        let mut all = self.0.lock();
        let most = MAX_KEPT.max(MAX_KEPT_EACH * all.resting.len());
        if all.count < most && !all.closed {
            let Some(own) = all.resting.get_mut(origin) else { return };
            own.push(Resting { address, since: ticks(), connection });
            all.count += 1;
        }
    }

    /// Closes those to an address at which one has turned out to be dead: the others will be, too.
    pub fn forget(&self, address: SocketAddr) {
        let mut all = self.0.lock();
        all.resting.iter_mut().for_each(|own| own.retain(|kept| kept.address != address));
        all.count = all.resting.iter().map(Vec::len).sum();
    }

    /// Closes all, now and from now on.
    pub fn close(&self) {
        let mut all = self.0.lock();
        (all.closed, all.count) = (true, 0);
        all.resting.iter_mut().for_each(|own| *own = Vec::new());
    }

    /// Closes those that have rested for too long or that their origins have closed. Those of one origin are looked at a time: the
    /// others can be taken meanwhile.
    pub fn tidy(&self, most_idle: Duration) {
        for origin in 0.. {
            let own = {
                let mut all = self.0.lock();
                let Some(own) = all.resting.get_mut(origin).map(std::mem::take) else { return };
                all.count -= own.len();
                own
            };
            if own.is_empty() {
                continue;
            }
            let is_alive = |mut resting: Resting| resting.is_alive(most_idle).then_some(resting);
            let alive: Vec<Resting> = own.into_iter().filter_map(is_alive).collect();
            let mut all = self.0.lock();
            if !all.closed {
                all.give_back(origin, alive);
            }
        }
    }
}

impl All {
    /// Those that have come meanwhile were used later.
    fn give_back(&mut self, origin: usize, mut resting: Vec<Resting>) {
        let Some(own) = self.resting.get_mut(origin) else { return };
        self.count += resting.len();
        resting.append(own);
        *own = resting;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::super::Plain;
    use super::*;

    /// Keeps a new connection to the first origin, at the address of a listener; gives that its end.
    async fn keep_one(kept: &Kept, listener: &TcpListener) -> TcpStream {
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let end = listener.accept().await.unwrap().0;
        kept.put(0, address, &Life::default(), Box::new(Connection::new(Plain(stream))));
        end
    }

    #[tokio::test]
    async fn what_came_unasked_is_found_at_once() {
        let (kept, listener) = (Kept::new(2), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let end = keep_one(&kept, &listener).await;
        end.writable().await.unwrap();
        end.try_write(b"HTTP/1.1 200 OK\r\n").unwrap();
        // Nothing has been waited for since: tokio does not know of it.
        assert!(kept.take(0, listener.local_addr().unwrap(), Duration::from_secs(60)).is_none());
    }

    #[tokio::test]
    async fn only_connections_that_are_alive_come_back() {
        let (kept, listener) = (Kept::new(2), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (address, idle) = (listener.local_addr().unwrap(), Duration::from_secs(60));
        let _first = keep_one(&kept, &listener).await;
        let second = keep_one(&kept, &listener).await;
        drop(keep_one(&kept, &listener).await); // the one that was used last
        assert!(kept.take(1, address, idle).is_none(), "another origin's");
        second.try_write(b"unasked").unwrap();
        let first = loop {
            // The kernel may take a moment to bring the news.
            tokio::task::yield_now().await;
            kept.tidy(idle);
            if kept.0.lock().count == 1 {
                break kept.take(0, address, idle).unwrap();
            }
        };
        assert!(kept.take(0, address, idle).is_none());
        kept.put(0, address, &Life::default(), first);
        kept.tidy(Duration::ZERO);
        assert!(kept.take(0, address, idle).is_none(), "it has rested for too long");
        for last in [Kept::forget as fn(&Kept, SocketAddr), |kept, _| kept.close()] {
            let _end = keep_one(&kept, &listener).await;
            last(&kept, address);
            assert!(kept.take(0, address, idle).is_none());
        }
        let _end = keep_one(&kept, &listener).await;
        assert!(kept.0.lock().count == 0, "it is closed for good");
    }
}
