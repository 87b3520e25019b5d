//! How a fill keeps to the pace of its readers, where nothing else takes what comes.

use std::time::Duration;

use super::super::fill_buffer::WINDOW;
use super::Flight;
use super::body::Retention;

/// After this long without anything taken readers are stalled.
const SHED_AFTER: Duration = Duration::from_secs(10);

impl Flight {
    /// Waits until a reader has taken all that has come, and wants more; or none is left.
    pub async fn wanted_on(&self) {
        loop {
            let taken = self.taken.notified();
            {
                let state = self.state.lock();
                if !state.body.has_readers() || state.body.has_waiting_readers() {
                    return;
                }
            }
            taken.await;
        }
    }

    /// Waits until the slowest reader is near enough to go on; where there is no room, until one wants more. `false`: there
    /// are no readers left, or none takes anything and there is no room for what waits for them.
    pub async fn wait_for_readers(&self) -> bool {
        loop {
            let taken = self.taken.notified();
            {
                let state = self.state.lock();
                if !state.body.has_readers() {
                    return false;
                }
                let behind = state.body.here();
                let goes_on = match self.buffer.is_tight() {
                    true => behind == 0 && state.body.has_waiting_readers(),
                    false => behind < WINDOW,
                };
                if goes_on {
                    return true;
                }
            }
            if tokio::time::timeout(SHED_AFTER, taken).await.is_err() && self.shed() {
                return false;
            }
        }
    }

    /// Lets go of what is only passed on to readers that take nothing, if there is no room. Whether it did.
    fn shed(&self) -> bool {
        let mut state = self.state.lock();
        if state.body.retention != Retention::Unread || self.buffer.held() <= self.buffer.most() {
            return false;
        }
        self.buffer.give_back(state.body.here(), state.account());
        state.body.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::super::fill_buffer::FillBuffer;
    use super::super::Arrival;
    use super::super::tests::{arrival, flight, flight_in, head, is_pending, reader};
    use super::*;

    #[tokio::test]
    async fn what_is_not_kept_is_dropped_behind_the_slowest_reader() {
        let flight = flight();
        flight.start(head());
        flight.append(Bytes::from_static(b"a"));
        let mut slow = reader(&flight).await;
        let mut fast = reader(&flight).await;
        flight.stop_keeping();
        flight.append(Bytes::from(vec![b'b'; WINDOW as usize]));
        fast.next().await.unwrap();
        fast.next().await.unwrap();
        assert_eq!(flight.state.lock().body.pieces().count(), 2);
        let wait = flight.wait_for_readers();
        tokio::pin!(wait);
        assert!(is_pending(wait.as_mut()));
        slow.next().await.unwrap();
        slow.next().await.unwrap();
        assert!(wait.await);
        assert_eq!(flight.state.lock().body.pieces().count(), 0);
        assert!(matches!(arrival(&flight).await, Arrival::Missed), "the start is gone");
        drop((slow, fast));
        assert!(!flight.wait_for_readers().await, "nobody is left to read for");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_what_is_passed_on_makes_room_where_there_is_none() {
        for (most, goes_on) in [(8 << 20, true), (1, false)] {
            let buffer = Arc::new(FillBuffer::new(most, Arc::default()));
            let flight = flight_in(&buffer);
            flight.start(head());
            let mut stalled = reader(&flight).await;
            flight.stop_keeping();
            flight.append(vec![b'x'; WINDOW as usize + 1].into());
            let waiting = tokio::time::timeout(SHED_AFTER * 3, flight.wait_for_readers()).await;
            // Whoever only waits has as long as its connection has.
            assert_eq!(waiting.is_err(), goes_on, "{most}");
            if !goes_on {
                assert_eq!((waiting, buffer.held()), (Ok(false), 0));
                assert!(stalled.next().await.is_err());
            }
        }
    }
}
