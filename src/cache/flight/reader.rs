//! The readers of a flight: each goes at its client's pace.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::clock::ticks;
use crate::origin::error::OriginError;
use crate::origin::interims::Interims;

use super::super::vary::Presented;
use super::body::{Next, Retention};
use super::{Flight, FlightHead, Phase, Settled, State};

/// Bytes that are read of a file at once.
const MAX_IN_HAND: u64 = 32 << 10;

/// What a request that waits for a flight gets to know first.
pub enum Arrival {
    Stream(FlightReader),
    Settled(Settled),
    /// It is another variant, or gone beyond joining: look again.
    Missed,
}

/// A reader's place in a flight. Dropping it is leaving; the fill goes on.
pub struct Seat {
    flight: Arc<Flight>,
    reader: u64,
}

/// One reader of a flight.
pub struct FlightReader {
    seat: Seat,
    pub head: Arc<FlightHead>,
    /// Whether it is of the request that caused the fill.
    pub leads: bool,
}

impl Flight {
    /// Keeps a place at the first byte for a reader that has yet to see the head.
    pub fn seat(self: &Arc<Self>) -> Option<Seat> {
        let reader = self.state.lock().body.enter_reader()?;
        Some(Seat { flight: self.clone(), reader })
    }

    /// Gives a head, and the body behind it, to one request alone: to the first reader.
    pub fn start_for_one(self: &Arc<Self>, head: FlightHead) -> Option<FlightReader> {
        let (seat, head) = (self.seat()?, Arc::new(head));
        self.enter(Phase::Streaming(head.clone()));
        Some(FlightReader { seat, head, leads: true })
    }

    /// Waits for the head. Ends when the fill does, and every wait of a fill has a deadline.
    /// `interims`: who is told of what goes before it. Who did not cause the fill is told what is for all: hints to a request
    /// that tells nobody who asks, and no cookies.
    pub async fn arrival(
        self: &Arc<Self>,
        seat: Option<Seat>,
        request: Presented<'_>,
        interims: Option<&Arc<Interims>>,
    ) -> Arrival {
        let mut told = 0;
        loop {
            let (changed, more) = (self.changed.notified(), self.interims.more());
            if let Some(interims) = interims.filter(|_| seat.is_some() || self.is_impersonal()) {
                told = self.interims.tell(interims, told, seat.is_some());
            }
            let phase = self.state.lock().phase.clone();
            match phase {
                Phase::Waiting => tokio::select! {
                    () = changed => {}
                    () = more, if interims.is_some() => {}
                },
                Phase::Settled(settled) => return Arrival::Settled(settled),
                Phase::Streaming(head) | Phase::Complete(head) | Phase::Broken(head, _) => {
                    if !head.storable.variant.matches(request) {
                        return Arrival::Missed;
                    }
                    let leads = seat.is_some();
                    let seat = seat.or_else(|| self.seat());
                    return seat.map_or(Arrival::Missed, |seat| Arrival::Stream(FlightReader { seat, head, leads }));
                }
            }
        }
    }
}

impl FlightReader {
    pub fn flight(&self) -> &Arc<Flight> {
        &self.seat.flight
    }

    /// The next piece of the body; `None` at its proper end. Safe to cancel: nothing is taken before it
    /// returns.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        loop {
            let changed = self.seat.flight.changed.notified();
            match self.seat.take()? {
                None => return Ok(None),
                Some(Next::Piece(piece)) => return Ok(Some(piece)),
                Some(Next::Nothing) => changed.await,
                Some(Next::OnDisk { file, at, until }) => {
                    // Of a body that is read for its reader alone no more is in hand than is every connection's due.
                    let piece =
                        file.read(at, until.min(at + MAX_IN_HAND)).await.map_err(OriginError::stored_body_lost)?;
                    self.seat.moved(&mut self.seat.flight.state.lock(), piece.len());
                    return Ok(Some(piece));
                }
            }
        }
    }
}

impl Seat {
    /// What there is for it; `None`: the body has come to its proper end.
    fn take(&self) -> Result<Option<Next>, OriginError> {
        let mut guard = self.flight.state.lock();
        let state = &mut *guard;
        let let_go = || OriginError::broken("its readers took too little, and there was no room for it");
        let next = state.body.next(self.reader).ok_or_else(let_go)?;
        match (&next, &state.phase) {
            (Next::OnDisk { .. }, _) => {}
            (Next::Piece(piece), _) => self.moved(state, piece.len()),
            (Next::Nothing, Phase::Complete(_)) => return Ok(None),
            (Next::Nothing, Phase::Broken(_, error) | Phase::Settled(Settled::Failed(error))) => {
                return Err(error.clone());
            }
            (Next::Nothing, Phase::Waiting | Phase::Streaming(_) | Phase::Settled(_)) => {
                if state.body.wait(self.reader) {
                    self.flight.taken.notify_waiters();
                }
            }
        }
        Ok(Some(next))
    }

    /// It goes on to what lies some bytes further.
    fn moved(&self, state: &mut State, bytes: usize) {
        state.body.advance(self.reader, bytes);
        self.flight.trim(state);
        if state.body.retention != Retention::All {
            self.flight.taken.notify_waiters();
        }
        self.flight.taken_at.store(ticks(), Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        state.body.remove_reader(self.reader);
        self.flight.trim(&mut state);
        drop(state);
        self.flight.taken.notify_waiters();
    }
}
