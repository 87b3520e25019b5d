//! Connections that are kept for the next exchange.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;

use crate::clock::ticks;
use crate::config::model::Life;

use super::super::address::Place;

use super::stream::is_quiet;
use super::{Connection, KEPT_BUFFER};

/// Connections that are kept of a pool in any case, and for each of its origins.
const MAX_KEPT: usize = 1024;
const MAX_KEPT_EACH: usize = 4;

/// How many connections a pool keeps, and how many it may.
#[derive(Debug, Default)]
pub struct KeptCount {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl KeptCount {
    /// For a pool of so many origins.
    pub(crate) fn set_origins(&self, origins: usize) {
        self.most.store(MAX_KEPT.max(MAX_KEPT_EACH * origins), Ordering::Relaxed);
    }

    fn one_more(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < most).then_some(now + 1)).is_ok()
    }

    fn less(&self, by: usize) {
        self.now.fetch_sub(by, Ordering::Relaxed);
    }
}

/// The kept connections to one origin of a pool.
pub struct Kept {
    resting: Mutex<Vec<Resting>>,
    /// Nobody will ask any more: the origin has gone, or its pool was replaced.
    is_closed: AtomicBool,
    count: Arc<KeptCount>,
}

struct Resting {
    at: Place,
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
    /// `count`: of all that its pool keeps.
    pub fn new(count: Arc<KeptCount>) -> Self {
        Kept { resting: Mutex::default(), is_closed: AtomicBool::new(false), count }
    }

    /// The one that was used last, to an address of the origin. It was alive a moment ago, but may have been closed since.
    pub fn take(&self, at: &Place, most_idle: Duration) -> Option<Box<Connection>> {
        loop {
            let mut resting = {
                let mut all = self.resting.lock();
                let place = all.iter().rposition(|kept| kept.at == *at)?;
                all.remove(place)
            };
            self.count.less(1);
            if resting.is_alive(most_idle) {
                return Some(resting.connection);
            }
        }
    }

    /// Keeps a connection, if it can be used again.
    pub fn put(&self, at: &Place, life: &Life, mut connection: Box<Connection>) {
        if !connection.can_be_kept(life) {
            return;
        }
        if connection.read.capacity() > KEPT_BUFFER {
            connection.read = BytesMut::new();
        }
        let mut all = self.resting.lock();
        if !self.is_closed.load(Ordering::Relaxed) && self.count.one_more() {
            all.push(Resting { at: at.clone(), since: ticks(), connection });
        }
    }

    /// Closes those to an address at which one has turned out to be dead: the others will be, too.
    pub fn forget(&self, at: &Place) {
        self.retain(|kept| kept.at != *at);
    }

    /// Closes those to addresses that are not among these.
    pub(crate) fn keep_only(&self, places: &[Place]) {
        self.retain(|kept| places.contains(&kept.at));
    }

    fn retain(&self, is_kept: impl Fn(&Resting) -> bool) {
        let mut all = self.resting.lock();
        let before = all.len();
        all.retain(is_kept);
        self.count.less(before - all.len());
    }

    /// Closes all, now and from now on.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed); // before the lock: who puts one has it
        self.retain(|_| false);
    }

    /// Closes those that have rested for too long or that the origin has closed. They are looked at without the lock: meanwhile
    /// requests make connections anew.
    pub fn tidy(&self, most_idle: Duration) {
        let own = std::mem::take(&mut *self.resting.lock());
        if own.is_empty() {
            return;
        }
        let before = own.len();
        let is_alive = |mut resting: Resting| resting.is_alive(most_idle).then_some(resting);
        let mut alive: Vec<Resting> = own.into_iter().filter_map(is_alive).collect();
        self.count.less(before - alive.len());
        let mut all = self.resting.lock();
        alive.append(&mut all); // those that have come meanwhile were used later
        *all = alive;
        drop(all);
        if self.is_closed.load(Ordering::Relaxed) {
            self.close(); // meanwhile
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.retain(|_| false);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::super::tcp;
    use super::*;

    fn kept() -> Kept {
        let count = Arc::<KeptCount>::default();
        count.set_origins(1);
        Kept::new(count)
    }

    fn place(listener: &TcpListener) -> Place {
        Place::Inet(listener.local_addr().unwrap())
    }

    /// Keeps a new connection to a listener; gives that its end.
    async fn keep_one(kept: &Kept, listener: &TcpListener) -> TcpStream {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let end = listener.accept().await.unwrap().0;
        kept.put(&place(listener), &Life::default(), Box::new(Connection::new(tcp(stream))));
        end
    }

    #[tokio::test]
    async fn what_came_unasked_is_found_at_once() {
        let (kept, listener) = (kept(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let end = keep_one(&kept, &listener).await;
        end.writable().await.unwrap();
        end.try_write(b"HTTP/1.1 200 OK\r\n").unwrap();
        // Nothing has been waited for since: tokio does not know of it.
        assert!(kept.take(&place(&listener), Duration::from_secs(60)).is_none());
    }

    #[tokio::test]
    async fn only_connections_that_are_alive_come_back() {
        let (kept, listener) = (kept(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (at, idle) = (place(&listener), Duration::from_secs(60));
        let _first = keep_one(&kept, &listener).await;
        let second = keep_one(&kept, &listener).await;
        drop(keep_one(&kept, &listener).await); // the one that was used last
        let other = Place::Inet("127.0.0.1:1".parse().unwrap());
        assert!(kept.take(&other, idle).is_none(), "another address");
        second.try_write(b"unasked").unwrap();
        let first = loop {
            // The kernel may take a moment to bring the news.
            tokio::task::yield_now().await;
            kept.tidy(idle);
            if kept.resting.lock().len() == 1 {
                break kept.take(&at, idle).unwrap();
            }
        };
        assert!(kept.take(&at, idle).is_none());
        kept.put(&at, &Life::default(), first);
        kept.tidy(Duration::ZERO);
        assert!(kept.take(&at, idle).is_none(), "it has rested for too long");
        let last: [fn(&Kept, &Place); 3] = [Kept::forget, |kept, _| kept.keep_only(&[]), |kept, _| kept.close()];
        for last in last {
            let _end = keep_one(&kept, &listener).await;
            last(&kept, &at);
            assert!(kept.take(&at, idle).is_none());
        }
        let _end = keep_one(&kept, &listener).await;
        assert!(kept.resting.lock().is_empty(), "it is closed for good");
        assert_eq!(kept.count.now.load(Ordering::Relaxed), 0, "none is counted for ever");
    }
}
