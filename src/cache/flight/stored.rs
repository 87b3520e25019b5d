//! The body of a flight once it is stored: its readers have what the store has.

use std::sync::Arc;

use bytes::Bytes;

use super::super::waiting::{Client, Holder, Holding, Waiter};
use super::Flight;
use super::body::Retention;

impl Flight {
    /// The body is stored in memory now, all of it, and takes `weight` bytes there: readers get that, and nothing is there
    /// twice. `false`: they do not, since they have not been given all that has come.
    pub fn share(self: &Arc<Self>, body: &Bytes, weight: u64) -> bool {
        let mut state = self.state.lock();
        if state.body.retention != Retention::All || state.shared.is_some() || state.body.received() > body.len() as u64
        {
            return false;
        }
        let here = state.body.here();
        self.leave_fills(&mut state, here);
        state.shared = Some(weight);
        state.body.replace(body.clone());
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        self.changed.notify_waiters();
        if !body.is_empty() {
            let live = waiters.into_values().filter(Holding::is_live);
            let holdings = live.chain([Holding::new(Client::NONE, &self.taken_at, self)]);
            let hold = |holding| self.buffer.waiting.hold_body(body.as_ptr().addr(), weight, holding);
            *self.held.lock() = holdings.map(hold).collect();
        }
        true
    }

    /// Where the stored body lies that its readers have, and what it takes. `None`: it is not stored, or not yet; then
    /// the `waiter` is entered as soon as it is.
    pub fn stored_body(&self, waiter: &Arc<Waiter>) -> Option<(usize, u64)> {
        let mut state = self.state.lock();
        if let Some(weight) = state.shared {
            let body = state.body.beginning().filter(|body| !body.is_empty())?;
            return Some((body.as_ptr().addr(), weight));
        }
        let holding = waiter.holding();
        if state.waiters.len() == state.waiters.capacity() {
            state.waiters.retain(|_, other| other.is_live()); // those that have left
        }
        state.waiters.insert(holding.address(), holding);
        None
    }
}

impl Holder for Flight {
    /// Drops the body. Whoever has not read it to its end gets an error.
    fn let_go(&self) {
        let mut state = self.state.lock();
        if state.shared.is_some() {
            state.body.clear();
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flight, head, reader, rest};
    use super::*;

    #[tokio::test]
    async fn a_flight_that_lets_go_is_an_error_for_its_readers_never_an_end() {
        let flight = flight();
        flight.start(head());
        flight.append(Bytes::from_static(b"0123456789"));
        let (slow, mut done) = (reader(&flight).await, reader(&flight).await);
        let body = flight.body_between(b"", b"");
        flight.share(&body, 10);
        flight.complete();
        assert_eq!(done.next().await.unwrap().unwrap(), "0123456789");
        flight.let_go();
        assert!(rest(slow).await.is_err());
        assert_eq!(done.next().await, Ok(None), "who had all of it had all of it");
    }
}
