//! The streams of a connection that tasks answer: whose turn it is to send, and how much the windows let each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::HeaderMap;

use super::output::Output;
use super::stream::{Gone, Look, Next, Out, Stream};
use super::uploads::Uploads;
use super::wire::{self, MAX_PAYLOAD, Reason};
use crate::pace::{Pace, Taking};

/// What a client may send of one request's body before its task has taken it, to begin with: every connection's due.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;
/// And from when its task takes it, if there is room: one upload must not be slowed by the way there and back.
const WIDE_WINDOW: u32 = 256 << 10;

/// A window update of so many bytes and more is what downloads are made of. Smaller ones bring nothing.
pub(crate) const WORTHWHILE: u32 = 4 << 10;

/// The streams that are not over.
pub(crate) struct Streams {
    entries: BTreeMap<u32, Entry>,
    /// Streams with something for the client, in the order of their turns.
    turns: VecDeque<u32>,
    /// Those whose turn has come while the connection's window was shut.
    waiting: Vec<u32>,
    /// How the client takes what they have: together, since none of them can be taken before another.
    taking: Taking,
    /// What the client takes of all bodies.
    pub window: i64,
    /// How quickly the client has to take each.
    pub pace: Pace,
    /// Bytes of requests' bodies that have been taken, or are not wanted, and that the client may send again.
    pub taken: usize,
    pub uploads: Uploads,
    /// Bytes that may be on their way to streams that were ended here: their clients did not know.
    late: u64,
}

/// So many of those are believed, at most.
const MAX_LATE: u64 = 1 << 20;

struct Entry {
    stream: Arc<Stream>,
    /// What the client takes of this response's body.
    window: i64,
    /// What the client may still send of the request's body, and may have sent before any of it was taken.
    credit: i64,
    upload: u32,
    /// Bytes that were taken and whose room the client has not been told of.
    taken: u32,
    /// Whether the client may send at all.
    open: bool,
    /// What is left of the length that the request's head states.
    expected: Option<u64>,
    /// The response has ended; the request has not, and its task still reads it.
    answered: bool,
    in_turn: bool,
    /// How the client takes what it has.
    taking: Taking,
}

/// What came of a DATA frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// For a task, which gives its room back when it has taken it.
    Kept,
    /// Nobody wants it any more, which its client cannot have known.
    Late,
    /// Nobody wants it.
    Dropped,
    Error(Reason),
}

impl Streams {
    pub(crate) fn new(uploads: Uploads) -> Self {
        let window = i64::from(wire::INITIAL_WINDOW);
        Streams {
            entries: BTreeMap::new(),
            turns: VecDeque::new(),
            waiting: Vec::new(),
            taking: Taking::default(),
            window,
            pace: Pace::ANY,
            taken: 0,
            uploads,
            late: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.entries.contains_key(&id)
    }

    /// A new stream that a task answers. `open`: a body comes, of the stated length if there is one. Whether there was room
    /// for what the client may send of it.
    pub(crate) fn insert(&mut self, stream: Arc<Stream>, window: u32, open: bool, expected: Option<u64>) -> bool {
        let (window, credit) = (i64::from(window), i64::from(STREAM_WINDOW));
        let most = expected.map_or(STREAM_WINDOW, |length| length.min(u64::from(STREAM_WINDOW)) as u32);
        let upload = if open { most } else { 0 };
        if !self.uploads.enter(upload) {
            return false;
        }
        let id = stream.id;
        let (taken, answered, in_turn, taking) = (0, false, false, Taking::default());
        let entry = Entry { stream, window, credit, upload, taken, open, expected, answered, in_turn, taking };
        self.entries.insert(id, entry);
        true
    }

    /// A stream is over.
    fn forget(&mut self, id: u32) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.uploads.leave(entry.upload);
        if entry.open {
            self.late = (self.late + u64::try_from(entry.credit).unwrap_or(0)).min(MAX_LATE);
        }
        Some(entry)
    }

    /// Some of a request's body, `length` bytes with its padding; nothing, where trailers end it.
    pub(crate) fn receive(
        &mut self,
        id: u32,
        data: BytesMut,
        length: usize,
        ended: bool,
        output: &mut Output,
    ) -> Received {
        let Some(entry) = self.entries.get_mut(&id) else {
            let left = self.late.checked_sub(length as u64).filter(|_| length > 0);
            self.late = left.unwrap_or(self.late);
            return if left.is_some() { Received::Late } else { Received::Dropped };
        };
        if !entry.open {
            return Received::Error(Reason::StreamClosed);
        }
        entry.credit -= length as i64;
        if entry.credit < 0 {
            return Received::Error(Reason::FlowControlError);
        }
        entry.give_back(length - data.len(), output, &mut self.uploads); // padding
        let left = entry.expected.map(|left| left.checked_sub(data.len() as u64));
        match left {
            // Who has the answer may leave the rest out.
            Some(Some(1..)) if ended && entry.answered => entry.expected = None,
            Some(None) => return Received::Error(Reason::ProtocolError),
            Some(Some(1..)) if ended => return Received::Error(Reason::ProtocolError),
            left => entry.expected = left.flatten(),
        }
        entry.open = !ended;
        entry.stream.receive(data, ended);
        if ended && entry.answered {
            self.forget(id);
        }
        Received::Kept
    }

    /// The trailers of a request, whose end is to be received next.
    pub(crate) fn receive_trailers(&mut self, id: u32, trailers: HeaderMap) {
        if let Some(entry) = self.entries.get(&id).filter(|entry| entry.open) {
            entry.stream.receive_trailers(trailers);
        }
    }

    /// A stream's task has left word.
    pub(crate) fn look(&mut self, stream: &Stream, output: &mut Output) {
        let Look { taken, has_more, is_dropped } = stream.look();
        self.taken += taken;
        let Some(entry) = self.entries.get_mut(&stream.id) else { return };
        entry.give_back(taken, output, &mut self.uploads);
        if has_more {
            entry.queue(&mut self.turns);
        }
        if is_dropped && entry.answered {
            // Nobody wants the rest of the request (RFC 9113 section 8.1).
            wire::put_reset(output.frames(), stream.id, Reason::NoError);
            self.forget(stream.id);
        }
    }

    /// Whether some stream has something that the output had no room for.
    pub(crate) fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Lets the streams send in turn, a frame each, while the output has less than `most` bytes and the client takes it. Gives
    /// what the client has earned of its [`super::abuse_budget`], and how many responses ended.
    pub(crate) fn send(&mut self, output: &mut Output, most: usize, now: Instant) -> (u32, u32) {
        let (mut earned, mut ended) = (0, 0);
        while output.len() < most
            && !output.is_stuck()
            && let Some(id) = self.turns.pop_front()
        {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.in_turn = false;
            let room = entry.window.min(self.window).clamp(0, MAX_PAYLOAD as i64) as usize;
            let (out, more) = match entry.stream.next(room) {
                Next::Nothing => continue,
                Next::Blocked => {
                    match entry.window > 0 {
                        true => {
                            entry.in_turn = true; // as soon as the connection's window opens
                            if !self.waiting.iter().any(|other| self.entries.contains_key(other)) {
                                self.taking.rest(); // who was waited for before has left
                            }
                            self.taking.wait(|| now);
                            self.waiting.push(id);
                        }
                        false => entry.taking.wait(|| now),
                    }
                    continue;
                }
                Next::Some(out, more) => (out, more),
            };
            let is_quick = match &out {
                Out::Data(data, _) => {
                    let bytes = data.len() as u64;
                    // Both, whatever the first says.
                    self.taking.take(bytes, self.pace, || now) & entry.taking.take(bytes, self.pace, || now)
                }
                Out::Section(..) | Out::Reset(_) => true,
            };
            let ends = match out {
                Out::Section(section, ends) => {
                    wire::put_section(output.frames(), id, &section, ends);
                    ends
                }
                Out::Data(data, ends) => {
                    entry.window -= data.len() as i64;
                    self.window -= data.len() as i64;
                    // Twice as much as the window updates that it answers may have cost; those of a few bytes earn less.
                    earned += if data.len() >= WORTHWHILE as usize || ends { 2 } else { 1 };
                    output.put_data(id, data, ends);
                    ends
                }
                Out::Reset(reason) => {
                    wire::put_reset(output.frames(), id, reason);
                    if let Some(entry) = self.forget(id) {
                        self.taken += entry.stream.look().taken; // what came after its task had gone
                    }
                    continue;
                }
            };
            if ends {
                ended += 1;
                entry.answered = true;
                let stream = entry.stream.clone();
                if !entry.open {
                    self.forget(id);
                }
                self.look(&stream, output); // its task may have gone already
            } else if !is_quick {
                wire::put_reset(output.frames(), id, Reason::Cancel);
                self.remove(id, Gone::Stalled);
            } else if more {
                entry.queue(&mut self.turns);
            }
        }
        (earned + ended, ended)
    }

    /// The client takes more of all bodies.
    pub(crate) fn widen(&mut self, more: u32) -> Result<(), Reason> {
        self.window = widened(self.window, i64::from(more))?;
        self.turns.extend(self.waiting.drain(..));
        Ok(())
    }

    /// The client takes more of one body.
    pub(crate) fn widen_one(&mut self, id: u32, more: u32) -> Result<(), Reason> {
        let Some(entry) = self.entries.get_mut(&id) else { return Ok(()) };
        entry.window = widened(entry.window, i64::from(more))?;
        entry.queue(&mut self.turns);
        Ok(())
    }

    /// The client has changed what all windows begin with (RFC 9113 section 6.9.2).
    pub(crate) fn widen_each(&mut self, more: i64) -> Result<(), Reason> {
        for entry in self.entries.values_mut() {
            entry.window = widened(entry.window, more)?;
            entry.queue(&mut self.turns);
        }
        Ok(())
    }

    /// Ends a stream, if there is one.
    pub(crate) fn remove(&mut self, id: u32, gone: Gone) {
        if let Some(entry) = self.forget(id) {
            self.taken += entry.stream.end(gone);
        }
    }

    /// Ends all streams.
    pub(crate) fn clear(&mut self, gone: Gone) {
        for entry in std::mem::take(&mut self.entries).into_values() {
            self.uploads.leave(entry.upload);
            entry.stream.end(gone);
        }
    }

    /// Since when a stream has been waiting for the client's window, of those that do.
    pub(crate) fn blocked(&self) -> Option<Instant> {
        let each = self.entries.values().filter_map(|entry| entry.taking.waiting_since());
        each.chain(self.taking.waiting_since()).min()
    }

    /// Gives up on streams of which the client has taken nothing for too long.
    pub(crate) fn give_up(&mut self, now: Instant, patience: Duration, output: &mut Output) {
        let is_late =
            |taking: &Taking| taking.waiting_since().is_some_and(|since| now.duration_since(since) >= patience);
        let each = self.entries.iter().filter(|(_, entry)| is_late(&entry.taking)).map(|(id, _)| *id);
        let mut late: Vec<u32> = each.collect();
        if is_late(&self.taking) {
            self.taking = Taking::default();
            late.append(&mut self.waiting);
        }
        for id in late {
            wire::put_reset(output.frames(), id, Reason::Cancel);
            self.remove(id, Gone::Stalled);
        }
    }
}

impl Entry {
    /// Gives it a turn, if it has none yet.
    fn queue(&mut self, turns: &mut VecDeque<u32>) {
        if !std::mem::replace(&mut self.in_turn, true) {
            turns.push_back(self.stream.id);
        }
    }

    /// The client may send so many bytes more; it is told when they are enough for it to matter.
    fn give_back(&mut self, bytes: usize, output: &mut Output, uploads: &mut Uploads) {
        self.taken += bytes as u32; // never more than the window
        if !self.open || self.taken < STREAM_WINDOW / 2 {
            return;
        }
        // A body whose end is near needs no wider one.
        let wider = WIDE_WINDOW - STREAM_WINDOW;
        let lasts = self.expected.is_none_or(|left| left > u64::from(WIDE_WINDOW));
        let wider = if self.upload == STREAM_WINDOW && lasts && uploads.enter(wider) { wider } else { 0 };
        self.upload += wider;
        let more = std::mem::take(&mut self.taken) + wider;
        self.credit += i64::from(more);
        wire::put_window_update(output.frames(), self.stream.id, more);
    }
}

fn widened(window: i64, more: i64) -> Result<i64, Reason> {
    Some(window + more).filter(|window| *window <= i64::from(wire::MAX_WINDOW)).ok_or(Reason::FlowControlError)
}

#[cfg(test)]
mod tests {
    use super::super::handle::Handle;
    use super::super::stream::{Admitted, Outbox};
    use super::super::wire::{FrameHeader, HEADER, flag, kind};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::origin::upload::Frame;

    /// Streams with a body to send each.
    fn sending(window: u32, lengths: &[usize]) -> (Streams, Vec<Handle>) {
        let outbox: Arc<Outbox> = Arc::default();
        let mut streams = Streams::new(Uploads::new(Arc::default()));
        let handles = lengths.iter().enumerate().map(|(at, length)| {
            let stream = Stream::new(at as u32 * 2 + 1, outbox.clone());
            streams.insert(stream.clone(), window, false, None);
            let mut handle = Handle::new(stream.clone(), Admitted::default());
            handle.send_section(BytesMut::from("s"), false);
            let mut sending = Box::pin(handle.send(vec![0; *length].into(), true));
            let _ = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            drop(sending);
            streams.look(&stream, &mut Output::default());
            handle
        });
        let handles = handles.collect();
        (streams, handles)
    }

    /// Frames that wait: stream, kind, length, and whether it is the last.
    fn frames(output: &mut Output) -> Vec<(u32, u8, usize, bool)> {
        let bytes: Vec<u8> = output.parts().flatten().copied().collect();
        output.advance(bytes.len());
        output.flushed();
        let (mut found, mut rest) = (Vec::new(), &bytes[..]);
        while let Some(header) = FrameHeader::read(rest) {
            let ends = header.kind < 2 && header.has(flag::END_STREAM);
            found.push((header.stream, header.kind, header.length, ends));
            rest = &rest[HEADER + header.length..];
        }
        found
    }

    #[test]
    fn streams_send_in_turn_and_as_much_as_windows_let_them() {
        let (mut streams, _handles) = sending(20_000, &[30_000, 100]);
        let mut output = Output::default();
        let now = Instant::now();
        streams.send(&mut output, usize::MAX, now);
        let first = [
            (1, kind::HEADERS, 1, false),
            (3, kind::HEADERS, 1, false),
            (1, kind::DATA, MAX_PAYLOAD, false),
            (3, kind::DATA, 100, true),
            (1, kind::DATA, 20_000 - MAX_PAYLOAD, false),
        ];
        assert_eq!(frames(&mut output), first);
        assert!(streams.blocked() == Some(now) && streams.len() == 1);
        streams.widen_one(1, 5_000).unwrap();
        streams.send(&mut output, usize::MAX, now);
        assert_eq!(frames(&mut output), [(1, kind::DATA, 5_000, false)]);
        streams.widen_each(10_000).unwrap();
        streams.send(&mut output, usize::MAX, now);
        assert_eq!(frames(&mut output), [(1, kind::DATA, 5_000, true)]);
        assert_eq!((streams.len(), streams.window), (0, 65_535 - 30_100));
    }

    #[test]
    fn the_connections_window_holds_for_all() {
        let (mut streams, _handles) = sending(1 << 20, &[65_000, 65_000]);
        let mut output = Output::default();
        streams.send(&mut output, usize::MAX, Instant::now());
        frames(&mut output);
        assert_eq!(streams.window, 0);
        assert_eq!(streams.widen(wire::MAX_WINDOW), Ok(()));
        assert_eq!(streams.widen(1), Err(Reason::FlowControlError));
        streams.send(&mut output, usize::MAX, Instant::now());
        assert_eq!(streams.len(), 0, "both have gone on");
    }

    #[test]
    fn who_takes_nothing_is_given_up() {
        let (mut streams, mut handles) = sending(0, &[10]);
        let (mut output, now) = (Output::default(), Instant::now());
        streams.send(&mut output, usize::MAX, now);
        streams.give_up(now + Duration::from_secs(9), Duration::from_secs(10), &mut output);
        assert_eq!(streams.len(), 1);
        streams.give_up(now + Duration::from_secs(10), Duration::from_secs(10), &mut output);
        assert_eq!(streams.len(), 0);
        let mut gone = Box::pin(handles[0].gone());
        let gone = gone.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(gone, Poll::Ready(Gone::Stalled));
    }

    #[test]
    fn what_is_thrown_away_may_be_sent_again() {
        let mut output = Output::default();
        let mut streams = Streams::new(Uploads::new(Arc::default()));
        let stream = Stream::new(1, Arc::default());
        streams.insert(stream.clone(), 0, true, None);
        streams.receive(1, BytesMut::from("hello"), 5, false, &mut output);
        streams.remove(1, Gone::Client);
        assert_eq!(streams.taken, 5);
        streams.insert(stream, 0, true, None);
        for _ in 0..STREAM_WINDOW / 128 {
            assert_eq!(streams.receive(1, BytesMut::new(), 128, false, &mut output), Received::Kept, "padding");
        }
        assert_eq!(frames(&mut output), [(1, kind::WINDOW_UPDATE, 4, false); 2]);
    }

    /// A response may end before its request has: its task still gets the rest, if it wants it.
    #[test]
    fn a_request_may_outlast_its_response() {
        for task_goes_first in [true, false] {
            let (mut streams, mut output) = (Streams::new(Uploads::new(Arc::default())), Output::default());
            let stream = Stream::new(1, Arc::default());
            streams.insert(stream.clone(), 100, true, None);
            let mut handle = Some(Handle::new(stream.clone(), Admitted::default()));
            handle.as_mut().unwrap().send_section(BytesMut::from("s"), true);
            streams.look(&stream, &mut output);
            streams.send(&mut output, usize::MAX, Instant::now());
            assert_eq!((frames(&mut output).len(), streams.len()), (1, 1));
            if task_goes_first {
                drop(handle.take());
                streams.look(&stream, &mut output);
                assert_eq!(frames(&mut output), [(1, kind::RST_STREAM, 4, false)]);
            } else {
                streams.receive(1, BytesMut::from("rest"), 4, true, &mut output);
                let mut body = handle.as_ref().unwrap().body();
                let read = body.poll_frame(&mut Context::from_waker(Waker::noop()));
                let Poll::Ready(Ok(Some(Frame::Data { piece, last: true }))) = read else { panic!() };
                assert_eq!(piece, "rest");
            }
            assert_eq!(streams.len(), 0);
        }
    }

    #[test]
    fn bodies_are_held_to_their_length_and_their_window() {
        let data = |length: usize| BytesMut::from(&vec![0; length][..]);
        let mut output = Output::default();
        for (expected, pieces, ended, result) in [
            (Some(10), &[5, 5][..], true, Received::Kept),
            (Some(10), &[5, 4], true, Received::Error(Reason::ProtocolError)),
            (Some(10), &[5, 6], false, Received::Error(Reason::ProtocolError)),
            (None, &[5, 6], true, Received::Kept),
            (None, &[STREAM_WINDOW as usize], false, Received::Kept),
            (None, &[STREAM_WINDOW as usize, 1], false, Received::Error(Reason::FlowControlError)),
        ] {
            let mut streams = Streams::new(Uploads::new(Arc::default()));
            streams.insert(Stream::new(1, Arc::default()), 0, true, expected);
            let mut last = Received::Dropped;
            for (at, length) in pieces.iter().enumerate() {
                let is_last = ended && at + 1 == pieces.len();
                last = streams.receive(1, data(*length), *length, is_last, &mut output);
            }
            assert_eq!(last, result, "{expected:?} {pieces:?}");
            if ended && result == Received::Kept {
                let more = streams.receive(1, data(1), 1, false, &mut output);
                assert_eq!(more, Received::Error(Reason::StreamClosed));
            }
        }
    }
}
