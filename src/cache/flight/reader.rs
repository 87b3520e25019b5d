//! The readers of a flight: each goes at its client's pace.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::clock::ticks;
use crate::origin::error::OriginError;
use crate::origin::interims::Interims;

use super::super::vary::Presented;
use super::{Arrival, Flight, FlightHead, Keeping, PartlyWritten, Phase, Position, Settled, State};

/// Bytes that are read of a file at once.
const MOST_IN_HAND: u64 = 32 << 10;

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
        let mut state = self.state.lock();
        if state.first > state.on_disk() {
            return None;
        }
        let reader = state.next_reader;
        state.next_reader += 1;
        state.readers.push(Position { reader, at: 0, waits: false });
        Some(Seat { flight: self.clone(), reader })
    }

    /// Gives a head, and the body behind it, to one request alone: to the first reader.
    pub fn start_for_one(self: &Arc<Self>, head: FlightHead) -> Option<FlightReader> {
        let (seat, head) = (self.seat()?, Arc::new(head));
        self.enter(Phase::Streaming(head.clone()));
        Some(FlightReader { seat, head, leads: true })
    }

    /// Waits for the head. Ends when the fill does, and every wait of a fill has a deadline.
    /// `interims`: who is told of what goes before it.
    pub async fn arrival(
        self: &Arc<Self>,
        seat: Option<Seat>,
        request: Presented<'_>,
        interims: Option<&Arc<Interims>>,
    ) -> Arrival {
        let mut told = 0;
        loop {
            let (changed, more) = (self.changed.notified(), self.interims.more());
            if let Some(interims) = interims {
                told = self.interims.tell(interims, told);
            }
            let phase = self.state.lock().phase.clone();
            match phase {
                Phase::Waiting => tokio::select! {
                    () = changed => {}
                    () = more, if interims.is_some() => {}
                },
                Phase::Settled(settled) => return Arrival::Settled(settled),
                Phase::Streaming(head) | Phase::Complete(head) | Phase::Broken(head, _) => {
                    if !head.variant.matches(request) {
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
                Taken::Piece(piece) => return Ok(Some(piece)),
                Taken::End => return Ok(None),
                Taken::Nothing => changed.await,
                Taken::OnDisk { file, at, until } => {
                    // Of a body that is read for its reader alone no more is in hand than is every connection's due.
                    let piece =
                        file.read(at, until.min(at + MOST_IN_HAND)).await.map_err(OriginError::stored_body_lost)?;
                    self.seat.advance(piece.len());
                    return Ok(Some(piece));
                }
            }
        }
    }
}

/// What a reader finds at its place.
enum Taken {
    Piece(Bytes),
    /// The bytes up to `until` are no longer in memory.
    OnDisk {
        file: Arc<dyn PartlyWritten>,
        at: u64,
        until: u64,
    },
    /// Not yet there.
    Nothing,
    End,
}

impl Seat {
    fn take(&self) -> Result<Taken, OriginError> {
        let mut state = self.flight.state.lock();
        let Some(at) = state.readers.iter().find(|position| position.reader == self.reader).map(|found| found.at)
        else {
            return Ok(Taken::End);
        };
        // Bytes are only dropped when they are on disk or every reader has them.
        if at < state.first {
            return match state.file.clone() {
                Some(file) => Ok(Taken::OnDisk { file, at, until: state.first }),
                None => Err(let_go()), // never an end
            };
        }
        if let Some(piece) = state.piece(at) {
            self.moved(&mut state, piece.len());
            return Ok(Taken::Piece(piece));
        }
        match &state.phase {
            Phase::Complete(_) => Ok(Taken::End),
            Phase::Broken(_, error) => Err(error.clone()),
            Phase::Settled(Settled::Failed(error)) => Err(error.clone()),
            Phase::Waiting | Phase::Streaming(_) | Phase::Settled(_) => {
                self.wait(&mut state);
                Ok(Taken::Nothing)
            }
        }
    }

    /// It wants more than there is.
    fn wait(&self, state: &mut State) {
        if let Some(position) = state.readers.iter_mut().find(|position| position.reader == self.reader)
            && !std::mem::replace(&mut position.waits, true)
        {
            self.flight.taken.notify_waiters();
        }
    }

    /// Goes on to what lies some bytes further.
    fn advance(&self, bytes: usize) {
        self.moved(&mut self.flight.state.lock(), bytes);
    }

    fn moved(&self, state: &mut State, bytes: usize) {
        if let Some(position) = state.readers.iter_mut().find(|position| position.reader == self.reader) {
            position.at += bytes as u64;
            position.waits = false;
        }
        self.flight.trim(state);
        if state.keeping != Keeping::All {
            self.flight.taken.notify_waiters();
        }
        self.flight.taken_at.store(ticks(), Ordering::Relaxed);
    }
}

fn let_go() -> OriginError {
    let cause = "its readers took too little, and there was no room for it".to_owned();
    OriginError::Broken { origin: "".into(), cause }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.flight.state.lock();
        state.readers.retain(|position| position.reader != self.reader);
        self.flight.trim(&mut state);
        drop(state);
        self.flight.taken.notify_waiters();
    }
}
