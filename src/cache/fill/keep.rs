//! Where the body of a response goes that is to be stored: into memory while it is small, to disk when it is not, and
//! nowhere if there is no place for it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;

use crate::config::model::FinishFill;

use super::super::fill_buffer::{self, FillBuffer};
use super::super::flight::{Flight, FlightHead};
use super::super::head::Head;
use super::super::object::Object;
use super::super::part;
use super::super::policy::Storable;
use super::super::reason::SkipReason;
use super::super::store::disk::{Spool, WriteBuffer, WriteRoom};
use super::Fill;

/// How long a fill that nobody follows waits for a disk to take more.
const DISK_PATIENCE: Duration = Duration::from_secs(30);

/// An origin gives no more at once.
const PIECE: u64 = 64 << 10;

/// What may be left of a fill that goes on though nobody wants most of it.
const LITTLE: u64 = 256 << 10;

/// What becomes of a body.
enum Keeping {
    /// The flight has all of it.
    Memory,
    Disk(Spool),
    Nothing,
}

/// Keeps a body as it comes.
pub(super) struct Keeper<'a> {
    fill: &'a Fill,
    head: Head,
    storable: Storable,
    /// Of the whole body, where it is known.
    length: Option<u64>,
    keeping: Keeping,
    /// Bytes of it that memory has a place for.
    pub(super) most_in_memory: u64,
    /// Why it is not stored, if that is known already.
    pub(super) skipped: Option<SkipReason>,
    /// Room in memory was taken for all of it.
    pub(super) has_room: bool,
    /// Room for the next piece, where that waits to be written.
    next: Option<WriteRoom>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(fill: &'a Fill, head: Head, storable: Storable, length: Option<u64>) -> Self {
        let key = &fill.request.key;
        let beside = Object::weight_beside_body_of(key.view(), &head, &storable);
        let most_in_memory = fill.cache.memory.max_body(key.as_str(), beside);
        let (keeping, skipped, has_room, next) = (Keeping::Memory, None, false, None);
        Keeper { fill, head, storable, length, keeping, most_in_memory, skipped, has_room, next }
    }

    /// Takes a piece that the flight has got; `received`: bytes so far, with it.
    pub(super) async fn take(&mut self, piece: Bytes, received: u64) {
        let kept = self.next.take().map_or(0, |next| next.bytes); // given back: the piece itself is entered now
        match &self.keeping {
            Keeping::Memory if received > self.most_in_memory => self.leave_memory(SkipReason::TooLarge),
            Keeping::Memory
                if !self.has_room
                    && received > fill_buffer::SMALL
                    && self.fill.flights.buffer.is_full(self.fill.request.prefix()) =>
            {
                self.leave_memory(SkipReason::FillBuffer);
            }
            Keeping::Memory | Keeping::Nothing => {}
            Keeping::Disk(_) if received > self.max_stored() => self.give_up(SkipReason::TooLarge),
            Keeping::Disk(spool) => {
                // A slow disk must not make anybody wait; if nobody does, or all have enough to read, there is time.
                let length = piece.len() as u64;
                let in_time = length <= kept
                    || spool.buffer().has_room_for(length)
                    || !self.fill.flight.has_waiting_readers()
                        && timeout(DISK_PATIENCE, spool.buffer().room()).await.is_ok();
                if !(in_time && spool.write(piece)) {
                    self.give_up(SkipReason::Disk);
                }
            }
        }
    }

    /// From now on it goes to disk, with all that has come; or nowhere, for a reason, if there is no disk for it.
    pub(super) fn leave_memory(&mut self, reason: SkipReason) {
        if self.max_stored() <= self.most_in_memory {
            return self.give_up(reason);
        }
        let spool = self.fill.cache.disk.spool(&self.object(Bytes::new()), self.length);
        let Some(spool) = spool else { return self.give_up(SkipReason::Disk) };
        let written = self.fill.flight.write_to(spool.file()).into_iter().all(|piece| spool.write(piece));
        self.keeping = Keeping::Disk(spool);
        if !written {
            self.give_up(SkipReason::Disk);
        }
    }

    fn max_stored(&self) -> u64 {
        self.most_in_memory.max(self.fill.cache.disk.max_object())
    }

    /// It is only passed on from now on.
    fn give_up(&mut self, reason: SkipReason) {
        self.keeping = Keeping::Nothing;
        self.skipped = Some(reason);
        self.fill.flight.stop_keeping();
        self.fill.cache.metrics.not_stored(reason.as_str());
        if reason.concerns_every_request() {
            let (key, variant) = (&self.fill.request.key, self.storable.variant.clone());
            self.fill.cache.remember_uncacheable(key, variant, reason, self.fill.request.rules());
        }
    }

    /// Whether to read on, when there is room for more. Nothing is read for which there is none: what is in hand takes
    /// memory, too.
    pub(super) async fn goes_on(&mut self, received: u64) -> bool {
        match &self.keeping {
            Keeping::Nothing => return self.fill.flight.wait_for_readers().await,
            Keeping::Disk(spool) => {
                let room = room_ahead(spool.buffer(), &self.fill.flight, &self.fill.flights.buffer);
                match timeout(DISK_PATIENCE, room).await {
                    Ok(Ahead::Room(room)) => self.next = Some(room),
                    Ok(Ahead::Wanted) => {}
                    Ok(Ahead::Nowhere) => return false,
                    Err(_) if self.fill.flight.is_deserted() => return false,
                    Err(_) => {}
                }
            }
            Keeping::Memory => {}
        }
        if !self.fill.flight.is_deserted() {
            return true;
        }
        let half_done = self.length.is_some_and(|length| received >= length / 2);
        let little_left = self.length.map_or(received <= LITTLE, |length| length.saturating_sub(received) <= LITTLE);
        match self.fill.request.rules().finish_fill {
            // Who asks for a byte must not be able to have megabytes moved.
            FinishFill::Always => self.fill.flight.is_wanted() || half_done || little_left,
            FinishFill::Never => false,
            FinishFill::Half => half_done,
        }
    }

    /// Stores what came, `last` included, which the flight has not got yet, and gives what it still has not after that.
    /// `unsent`: the head, if nobody has that yet.
    pub(super) async fn keep(self, last: Bytes, unsent: &mut Option<FlightHead>) -> Bytes {
        let Fill { cache, flights, flight, request, .. } = self.fill;
        let rules = request.rules();
        match self.keeping {
            Keeping::Memory => {
                // Key, head and body in one piece. While that is made a large body is there twice, so one is made at a time.
                let _alone = (flight.received() > fill_buffer::SMALL).then(|| flights.joining.lock());
                let key = request.key.view();
                let mut body = flight.body_between(&self.head.behind(key), &last);
                let head = self.head.taken_off(&mut body, key);
                let twice = match unsent {
                    Some(unsent) => {
                        unsent.head = head.clone();
                        0
                    }
                    None => head.h1().len(),
                };
                let object = Object::new(key, head, body.clone(), self.storable, flight.seq);
                let object = cache.store(object, rules, flight);
                if cache.share(flight, &body, &object, twice) {
                    return Bytes::new();
                }
            }
            Keeping::Disk(spool) => {
                if !last.is_empty() && !spool.write(last.clone()) {
                    return last;
                }
                // It may have been changed before there was a spool that could be told of it.
                if flight.is_spoilt() {
                    spool.spoil();
                }
                let (cache, flight, most) = (cache.clone(), flight.clone(), rules.max_variants);
                let (head, storable, patience) = (self.head, self.storable, cache.disk.patience());
                let (key, seq) = (request.key.clone(), flight.seq);
                // Removals when the fill was no longer waited for: from then on the flight is told of none.
                let left = Arc::new(OnceLock::new());
                let (left_at, disk) = (left.clone(), self.fill.cache.disk.clone());
                // It ends also if nobody waits for that.
                let finish = tokio::spawn(async move {
                    let object =
                        spool.finish(move |body| Object::new(key.view(), head, body, storable, seq), most).await;
                    if let Ok(object) = object {
                        let untold = left_at.get().is_some_and(|removals| *removals != cache.disk.removals());
                        cache.stored_on_disk(&object, &flight, untold);
                    }
                });
                // A slow disk does not hold anybody up.
                if timeout(patience, finish).await.is_err() {
                    left.get_or_init(|| disk.removals());
                }
            }
            Keeping::Nothing => {}
        }
        last
    }

    /// Keeps what came of a response that broke off, to go on from there (RFC 9111 section 3.3).
    pub(super) fn keep_prefix(self) {
        let whole = self.head.status == StatusCode::OK
            && self.storable.part.is_none()
            && part::strong_etag(&self.head).is_some();
        if whole && matches!(self.keeping, Keeping::Memory) {
            let object = self.object(self.fill.flight.body_between(&[], &[]));
            if let Some(part) = part::prefix(object, self.length) {
                self.fill.cache.store_part(part, self.fill.request.rules(), &self.fill.flight);
            }
        }
    }

    fn object(&self, body: Bytes) -> Object {
        Object::new(self.fill.request.key.view(), self.head.clone(), body, self.storable.clone(), self.fill.flight.seq)
    }
}

/// What comes first: room for the next piece, or a reader that wants it.
enum Ahead {
    Room(WriteRoom),
    Wanted,
    /// Nobody waits for it, and there is no place where it could go.
    Nowhere,
}

/// How often one for which there is no room looks whether there is any in memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);

async fn room_ahead(written: &Arc<WriteBuffer>, flight: &Flight, memory: &FillBuffer) -> Ahead {
    loop {
        if let Some(room) = written.keep(PIECE) {
            return Ahead::Room(room);
        }
        // What has come of it waits in memory, too.
        if flight.is_deserted() && memory.is_tight() {
            return Ahead::Nowhere;
        }
        tokio::select! {
            () = written.room() => {}
            () = flight.wanted_on(), if !flight.is_deserted() => {
                if flight.has_waiting_readers() {
                    return Ahead::Wanted;
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
