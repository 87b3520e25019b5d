//! What is entered for a reader that has to be waited for.

use std::sync::Arc;

use super::flight::Flight;
use super::object::Object;
use super::stored::Cache;
use super::waiting::{Held, Waiter};

/// What is kept in memory for the rest of an answer.
pub enum Kept {
    Nothing,
    /// Pieces alone, which come as they are taken.
    Pieces,
    Object(Arc<Object>),
    Flight(Arc<Flight>),
}

/// What is held for a reader that has to be waited for.
pub enum Hold {
    /// Nothing worth the counting.
    Nothing,
    /// It is entered.
    Entered(Held),
    /// So many bytes are to be entered by one of many streams, in its turn; they are here for it alone.
    InHand(usize),
    /// Likewise, but until then they are counted elsewhere.
    Ahead(usize),
}

/// What lies behind a piece that one of many streams holds: of a flight or of an origin's connection.
pub(crate) const BEHIND: usize = 64 << 10;
/// A smaller object is not worth the counting.
const SMALLEST: usize = 4 << 10;

impl Cache {
    /// Enters a reader that has to be waited for, with what is kept for it; `piece`: bytes that it is given next.
    pub fn hold(&self, kept: &Kept, piece: usize, waiter: &Arc<Waiter>) -> Hold {
        let entered = match kept {
            Kept::Nothing => return Hold::Nothing,
            Kept::Object(object) => self.hold_object(object, waiter),
            Kept::Flight(flight) => flight
                .stored_body(waiter)
                .map(|(body, length)| self.memory.waiting().hold_body(body, length, waiter.holding())),
            Kept::Pieces => None,
        };
        match (entered, kept) {
            (Some(held), _) => Hold::Entered(held),
            // 64 KiB are every connection's due.
            _ if !waiter.is_one_of_many() => Hold::Nothing,
            (None, Kept::Object(object)) => Hold::InHand(object.weight()),
            (None, _) => Hold::Ahead(piece + BEHIND),
        }
    }

    fn hold_object(&self, object: &Arc<Object>, waiter: &Arc<Waiter>) -> Option<Held> {
        let body = object.content.in_memory().filter(|body| !body.is_empty() && object.weight() >= SMALLEST)?;
        let place = body.as_ptr().addr();
        let waiting = self.memory.waiting();
        let held = waiting.hold_body(place, object.weight() as u64, waiter.holding());
        if self.memory.with_body_of(object).is_none() {
            waiting.left_body(place); // let go of between the look-up and now
        }
        Some(held)
    }
}
