//! The tunnels of a site (WebSocket and the like) that are open at one time, of all clients and of each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::prefix::one_client;

/// Counts the tunnels of a site. One for all configurations.
#[derive(Debug, Default)]
pub struct Tunnels(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    by_client: HashMap<IpAddr, u32>,
}

/// A tunnel that is open, or about to be, until this is dropped.
#[derive(Debug)]
pub struct OpenTunnel {
    tunnels: Arc<Tunnels>,
    client: IpAddr,
}

/// Whose tunnels are as many as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooManyTunnels {
    OfSite,
    OfClient,
}

impl Tunnels {
    /// One more of a client, unless there are too many; `None`: there may be any number.
    pub fn open(
        self: &Arc<Self>,
        client: IpAddr,
        most: Option<u32>,
        most_each: Option<u32>,
    ) -> Result<OpenTunnel, TooManyTunnels> {
        let client = one_client(client);
        let mut counts = self.0.lock();
        let own = counts.by_client.get(&client).copied().unwrap_or(0);
        if most_each.is_some_and(|most| own >= most) {
            return Err(TooManyTunnels::OfClient);
        }
        if most.is_some_and(|most| counts.all >= most) {
            return Err(TooManyTunnels::OfSite);
        }
        counts.all += 1;
        counts.by_client.insert(client, own + 1);
        Ok(OpenTunnel { tunnels: self.clone(), client })
    }

    pub fn count(&self) -> u32 {
        self.0.lock().all
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        let mut counts = self.tunnels.0.lock();
        counts.all -= 1;
        if let Some(own) = counts.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_open_than_may_be() {
        let tunnels = Arc::<Tunnels>::default();
        let open = |client: &str, most, each| tunnels.open(client.parse().unwrap(), most, each);
        let first = [open("10.0.0.1", Some(3), Some(2)).unwrap(), open("::ffff:10.0.0.1", Some(3), Some(2)).unwrap()];
        assert_eq!(open("10.0.0.1", Some(3), Some(2)).unwrap_err(), TooManyTunnels::OfClient);
        let other = open("2001:db8::1", Some(3), Some(2)).unwrap();
        assert_eq!(open("2001:db8:0:1::1", Some(3), Some(2)).unwrap_err(), TooManyTunnels::OfSite);
        assert_eq!(open("2001:db8::2", Some(4), Some(1)).unwrap_err(), TooManyTunnels::OfClient, "of one /64");
        assert!(open("10.0.0.1", None, None).is_ok());
        assert_eq!(tunnels.count(), 3);
        drop((first, other));
        assert_eq!((tunnels.count(), tunnels.0.lock().by_client.len()), (0, 0));
    }
}
