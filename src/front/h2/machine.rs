//! What an HTTP/2 connection does, without its socket and its clock: bytes and the time come in, bytes to be written and
//! the connection's end come out. What it needs of the node it asks of a [`Responder`]. What each frame does is in
//! [`super::frames`], whose functions go on with this type.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use crate::config::model::Limits;
use crate::pace::Pace;

use super::super::head::{BodyFraming, Refusal, RequestHead};
use super::super::stream::TRIM_AFTER;
use super::abuse_budget::AbuseBudget;
use super::handle::Handle;
use super::hpack::{Decoder, Section};
use super::opened::Opened;
use super::output::Output;
use super::stream::{Gone, Outbox};
use super::streams::{STREAM_WINDOW, Streams};
use super::uploads::{CONNECTION_WINDOW, Uploads};
use super::wire::{self, FrameHeader, PREFACE, Reason, kind};

/// Bytes that wait for the client before no more are made: a write or two.
const MAX_OUTPUT: usize = 64 << 10;
/// A client that takes nothing for so long has what waits for it in copies: what it is a part of may be far larger.
const COPY_AFTER: Duration = Duration::from_millis(500);
/// How long a client that is told to go may take to say that it has heard it; then it is taken to have.
const FAREWELL: Duration = Duration::from_secs(1);
/// What the ping says that goes with it.
pub(super) const FAREWELL_PING: [u8; 8] = *b"farewell";
/// A client that has open streams and has said nothing for so long is asked whether it is still there, and has so long to
/// answer.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_PATIENCE: Duration = Duration::from_secs(20);
const ALIVE_PING: [u8; 8] = *b"alive?  ";

/// What answers the requests of a connection.
pub trait Responder {
    /// Answers a request at once if its answer is in memory, with a body of at most so many bytes: the field section is
    /// put into `scratch`, the body is given.
    fn respond_now(&mut self, head: &RequestHead<'_>, most: usize, scratch: &mut Scratch) -> Option<Bytes>;

    /// Answers what is not a request, in the same way.
    fn refuse(&mut self, refusal: Refusal, scratch: &mut Scratch) -> Bytes;

    /// Has a task answer a request whose head was checked. What the task has it gives to `stream`.
    fn respond_later(&mut self, section: Section, body: BodyFraming, limits: &Limits, stream: Handle);

    /// There was no room for a stream.
    fn count_refused_stream(&mut self);
}

/// Buffers that are reused from answer to answer.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The field section of the response.
    pub section: BytesMut,
    pub key: String,
    pub text: String,
}

/// One client's connection.
pub struct Machine<R> {
    pub(super) responder: R,
    pub(super) limits: Limits,
    /// What was read and is no whole frame yet.
    input: BytesMut,
    pub(super) output: Output,
    pub(super) decoder: Decoder,
    /// A field section that has not ended.
    pub(super) open_section: Option<OpenSection>,
    /// Reused from request to request.
    pub(super) section: Section,
    pub(super) scratch: Scratch,
    pub(super) streams: Streams,
    pub(super) outbox: Arc<Outbox>,
    /// What the client takes of a response's body before it says more.
    pub(super) initial_window: u32,
    /// What the client may still send of bodies, and what it has not been told it may send again.
    pub(super) credit: i64,
    taken: u32,
    pub(super) has_settings: bool,
    pub(super) opened: Opened,
    pub(super) served: u32,
    pub(super) abuse_budget: AbuseBudget,
    /// Window updates of streams that were over.
    pub(super) late_updates: u64,
    /// Those of a few bytes that have not been counted yet.
    pub(super) small_updates: u32,
    pub(super) leaving: Leaving,
    /// When something last came, a stream ended, or the client took the last of what waited for it.
    pub(super) active: Instant,
    /// When something last came at all, and when it was asked whether the client is still there.
    heard: Instant,
    pinged: Option<Instant>,
    /// Since when the head of a request, or a frame that is none of a body, has not come in full.
    unfinished: Option<Instant>,
}

/// A field section whose end has not come.
pub(super) struct OpenSection {
    pub stream: u32,
    pub ends_stream: bool,
    pub block: BytesMut,
}

/// How far the connection's end is (RFC 9113 section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// The client was told; what it has sent until it has heard it is served.
    Announced(Instant),
    /// What comes now is not.
    Final,
}

/// What a time is for.
enum Timer {
    /// The head of a request is to be there.
    Head,
    /// The client is to have heard that the connection ends.
    Farewell,
    /// The client is to have said something, or to be asked whether it is still there.
    Alive,
    /// What the client has not taken is to be copied.
    Copy,
    /// A stream whose window is shut is given up.
    Blocked,
    /// The connection has had nothing to do: memory is given back, or it ends.
    Rest,
}

impl<R: Responder> Machine<R> {
    /// `outbox`: where the tasks that answer leave word.
    pub fn new(responder: R, limits: Limits, outbox: Arc<Outbox>, now: Instant) -> Self {
        let mut streams = Streams::new(Uploads::new(outbox.clone()));
        streams.pace = Pace::of(&limits);
        Machine {
            responder,
            limits,
            input: BytesMut::new(),
            output: Output::default(),
            decoder: Decoder::new(),
            open_section: None,
            section: Section::default(),
            scratch: Scratch::default(),
            streams,
            outbox,
            initial_window: wire::INITIAL_WINDOW,
            credit: i64::from(CONNECTION_WINDOW),
            taken: 0,
            has_settings: false,
            opened: Opened::default(),
            served: 0,
            abuse_budget: AbuseBudget::new(now),
            late_updates: 0,
            small_updates: 0,
            leaving: Leaving::No,
            active: now,
            heard: now,
            pinged: None,
            unfinished: None,
        }
    }

    /// Where what was read is appended.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// What is to be written.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Begins the connection if it is one of HTTP/2, as soon as so much has come that it shows (RFC 9113 section 3.4).
    pub fn begin(&mut self, now: Instant) -> Poll<bool> {
        if self.input.len() < PREFACE.len() {
            return Poll::Pending;
        }
        if !self.input.starts_with(PREFACE) {
            return Poll::Ready(false);
        }
        self.input.advance(PREFACE.len());
        self.put_settings();
        wire::put_window_update(self.output.frames(), 0, CONNECTION_WINDOW - wire::INITIAL_WINDOW);
        self.active = now;
        Poll::Ready(true)
    }

    /// Takes over what a reload has changed.
    pub(super) fn set_limits(&mut self, limits: Limits) {
        let before = std::mem::replace(&mut self.limits, limits);
        self.streams.pace = Pace::of(&self.limits);
        if (before.max_h2_streams, before.max_head) != (self.limits.max_h2_streams, self.limits.max_head) {
            self.put_settings();
        }
    }

    fn put_settings(&mut self) {
        let max_section = u32::try_from(self.limits.max_head.0).unwrap_or(u32::MAX);
        wire::put_settings(self.output.frames(), self.limits.max_h2_streams, STREAM_WINDOW, max_section);
    }

    /// The client has been heard.
    pub(super) fn hear(&mut self, now: Instant) {
        (self.heard, self.pinged) = (now, None);
    }

    /// Uses what has come: frames, and what tasks have left; lets the streams send. An error is to be said to the client
    /// ([`Machine::end`]).
    pub fn progress(&mut self, now: Instant) -> Result<(), Reason> {
        self.send(now);
        self.read_frames(now)?;
        self.give_back(0);
        self.send(now);
        Ok(())
    }

    /// Takes what tasks have left, and lets the streams send.
    fn send(&mut self, now: Instant) {
        let mut left = Vec::new();
        while self.outbox.take_ready(&mut left) {
            left.drain(..).for_each(|stream| self.streams.look(&stream, &mut self.output));
        }
        let (earned, ended) = self.streams.send(&mut self.output, MAX_OUTPUT, now);
        self.abuse_budget.credit(earned);
        if ended > 0 {
            self.active = now;
        }
    }

    /// The client may send so many bytes more, of whichever body.
    pub(super) fn give_back(&mut self, bytes: usize) {
        // Never more than the window.
        self.taken += (bytes + std::mem::take(&mut self.streams.taken)) as u32;
        if self.taken >= CONNECTION_WINDOW / 2 {
            self.credit += i64::from(self.taken);
            wire::put_window_update(self.output.frames(), 0, std::mem::take(&mut self.taken));
        }
    }

    /// Uses the frames that have come in full, as long as there is room for what they cause.
    fn read_frames(&mut self, now: Instant) -> Result<(), Reason> {
        while self.may_read() {
            let Some(header) = FrameHeader::read(&self.input) else { break };
            if header.length > wire::MAX_PAYLOAD {
                return Err(Reason::FrameSizeError);
            }
            if self.input.len() < wire::HEADER + header.length {
                break;
            }
            self.input.advance(wire::HEADER);
            let payload = self.input.split_to(header.length);
            self.on_frame(header, payload, now)?;
            if self.open_section.is_none() {
                self.unfinished = None; // what comes now has its own time
            }
        }
        let is_body = FrameHeader::read(&self.input).is_some_and(|header| header.kind == kind::DATA);
        let is_stuck = self.may_read() && !self.input.is_empty() && !is_body;
        let unfinished = self.open_section.is_some() || is_stuck;
        self.unfinished = if unfinished { self.unfinished.or(Some(now)) } else { None };
        Ok(())
    }

    /// Whether there is room for what frames cause. Those that are not used yet wait until the client has taken what is
    /// there.
    pub fn may_read(&self) -> bool {
        self.output.len() < MAX_OUTPUT
    }

    /// Whether there is more to do as soon as the client has taken some.
    pub fn has_more(&self) -> bool {
        !self.may_read() || self.streams.has_turns()
    }

    /// Whether it has, so that it is worth going on.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() <= MAX_OUTPUT / 2 && !self.output.is_stuck()
    }

    /// Whether nothing more is to come of the connection, once all is written.
    pub fn is_over(&self) -> bool {
        self.leaving == Leaving::Final && self.streams.len() == 0
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.len() == 0 && self.open_section.is_none() && self.output.is_done()
    }

    /// When [`Machine::on_time`] is to be called though nothing happens.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.timers(now).into_iter().filter_map(|(_, time)| time).min()
    }

    /// What is to be done when, though nothing happens.
    fn timers(&self, now: Instant) -> [(Timer, Option<Instant>); 6] {
        let rest = self.is_idle().then(|| {
            let holds_memory = self.input.is_empty() && self.input.capacity() > 0;
            self.active + if holds_memory { TRIM_AFTER } else { self.limits.keepalive_timeout }
        });
        // Only if it is the client that is waited for.
        let unfinished = self.unfinished.filter(|_| self.may_read());
        let farewell = if let Leaving::Announced(since) = self.leaving { Some(since + FAREWELL) } else { None };
        // What the client stops taking while this is waited for is seen within a second.
        let copy = (!self.output.is_done()).then(|| self.output.pins_since().unwrap_or(now) + COPY_AFTER);
        // A stream may be silent for long; whether the client is still there, it has to show.
        let alive = (self.streams.len() > 0).then(|| match self.pinged {
            Some(pinged) => pinged + PING_PATIENCE,
            None => self.heard + PING_AFTER,
        });
        [
            (Timer::Head, unfinished.map(|since| since + self.limits.header_timeout)),
            (Timer::Farewell, farewell),
            (Timer::Alive, alive),
            (Timer::Copy, copy),
            (Timer::Blocked, self.streams.blocked().map(|since| since + self.limits.write_timeout)),
            (Timer::Rest, rest),
        ]
    }

    /// Does what the time has come for. It may be the end: with a reason, if the client is to be told.
    pub fn on_time(&mut self, now: Instant) -> ControlFlow<Option<Reason>> {
        for (timer, time) in self.timers(now) {
            if time.is_none_or(|time| now < time) {
                continue;
            }
            match timer {
                Timer::Head => return ControlFlow::Break(Some(Reason::NoError)),
                Timer::Alive if self.pinged.is_some() => return ControlFlow::Break(None),
                Timer::Rest if now >= self.active + self.limits.keepalive_timeout => {
                    return ControlFlow::Break(Some(Reason::NoError));
                }
                Timer::Farewell => self.leave(),
                Timer::Alive => {
                    self.pinged = Some(now);
                    wire::put_ping(self.output.frames(), ALIVE_PING, 0);
                }
                Timer::Copy => self.output.copy(),
                Timer::Blocked => self.streams.give_up(now, self.limits.write_timeout, &mut self.output),
                Timer::Rest => {
                    self.input = BytesMut::new();
                    self.output.trim();
                    (self.section, self.scratch) = (Section::default(), Scratch::default());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Tells the client that the connection will end: it is to send no more requests, but what is on its way is served.
    pub fn announce_end(&mut self, now: Instant) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Announced(now);
            wire::put_goaway(self.output.frames(), wire::MAX_WINDOW, Reason::NoError);
            wire::put_ping(self.output.frames(), FAREWELL_PING, 0);
        }
    }

    /// Requests that come from now on are not served; the client is told which was the last.
    pub(super) fn leave(&mut self) {
        self.leaving = Leaving::Final;
        wire::put_goaway(self.output.frames(), self.opened.last, Reason::NoError);
    }

    pub fn end(&mut self, reason: Option<Reason>) {
        self.streams.clear(Gone::Client);
        if let Some(reason) = reason
            && (reason != Reason::NoError || self.leaving != Leaving::Final)
        {
            wire::put_goaway(self.output.frames(), self.opened.last, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{HEADER, flag, put_header, put_ping};
    use super::*;

    /// Keeps what a task would answer.
    #[derive(Default)]
    struct Kept(Vec<Handle>);

    impl Responder for Kept {
        fn respond_now(&mut self, _: &RequestHead<'_>, _: usize, _: &mut Scratch) -> Option<Bytes> {
            None
        }

        fn refuse(&mut self, _: Refusal, _: &mut Scratch) -> Bytes {
            Bytes::new()
        }

        fn respond_later(&mut self, _: Section, _: BodyFraming, _: &Limits, stream: Handle) {
            self.0.push(stream);
        }

        fn count_refused_stream(&mut self) {}
    }

    /// A connection that has begun, with nothing left to be written.
    fn begun(now: Instant) -> Machine<Kept> {
        let mut machine = Machine::new(Kept::default(), Limits::default(), Arc::default(), now);
        machine.input().extend_from_slice(&PREFACE[..7]);
        assert_eq!(machine.begin(now), Poll::Pending);
        machine.input().extend_from_slice(&PREFACE[7..]);
        assert_eq!(machine.begin(now), Poll::Ready(true));
        put_header(machine.input(), 0, kind::SETTINGS, 0, 0);
        assert_eq!(progress(&mut machine, now), [kind::SETTINGS, kind::WINDOW_UPDATE, kind::SETTINGS]);
        machine
    }

    fn progress(machine: &mut Machine<Kept>, now: Instant) -> Vec<u8> {
        machine.progress(now).unwrap();
        written(machine)
    }

    /// The kinds of the frames that wait; the client takes them.
    fn written(machine: &mut Machine<Kept>) -> Vec<u8> {
        let bytes: Vec<u8> = machine.output().parts().flatten().copied().collect();
        machine.output().advance(bytes.len());
        machine.output().flushed();
        let (mut kinds, mut rest) = (Vec::new(), &bytes[..]);
        while let Some(header) = FrameHeader::read(rest) {
            kinds.push(header.kind);
            rest = &rest[HEADER + header.length..];
        }
        kinds
    }

    /// `GET /` of some host.
    fn ask(machine: &mut Machine<Kept>, stream: u32) {
        let block = b"\x82\x84\x87\x01\x01a";
        let flags = flag::END_HEADERS | flag::END_STREAM;
        put_header(machine.input(), block.len(), kind::HEADERS, flags, stream);
        machine.input().extend_from_slice(block);
    }

    #[test]
    fn what_speaks_another_protocol_is_not_answered() {
        let now = Instant::now();
        let mut machine = Machine::new(Kept::default(), Limits::default(), Arc::default(), now);
        machine.input().extend_from_slice(b"GET /a HTTP/1.1\r\nHost: a\r\n");
        assert_eq!(machine.begin(now), Poll::Ready(false));
        assert!(machine.output().is_done());
    }

    #[test]
    fn a_connection_without_requests_gives_memory_back_and_then_ends() {
        let start = Instant::now();
        let mut machine = begun(start);
        assert_eq!(machine.deadline(start), Some(start + TRIM_AFTER));
        assert!(machine.input().capacity() > 0);
        assert_eq!(machine.on_time(start + TRIM_AFTER), ControlFlow::Continue(()));
        assert_eq!(machine.input().capacity(), 0);
        let end = start + Limits::default().keepalive_timeout;
        assert_eq!(machine.deadline(start), Some(end));
        assert_eq!(machine.on_time(end), ControlFlow::Break(Some(Reason::NoError)));
    }

    #[test]
    fn a_head_has_its_time_however_it_drips() {
        let start = Instant::now();
        let mut machine = begun(start);
        let end = start + Limits::default().header_timeout;
        for (second, byte) in (0..).zip(b"\0\0\x06\x01\x05") {
            machine.input().extend_from_slice(&[*byte]);
            assert!(progress(&mut machine, start + Duration::from_secs(second)).is_empty());
        }
        assert_eq!(machine.on_time(end), ControlFlow::Break(Some(Reason::NoError)));
    }

    #[test]
    fn who_has_open_streams_and_says_nothing_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut machine = begun(start);
        ask(&mut machine, 1);
        assert!(progress(&mut machine, start).is_empty());
        for answers in [true, false] {
            let asked = machine.deadline(start).unwrap();
            assert_eq!(machine.on_time(asked), ControlFlow::Continue(()));
            assert_eq!(written(&mut machine), [kind::PING]);
            if answers {
                machine.hear(asked);
                assert_eq!(machine.deadline(asked), Some(asked + PING_AFTER));
            } else {
                assert_eq!(machine.on_time(asked + PING_PATIENCE), ControlFlow::Break(None));
            }
        }
    }

    #[test]
    fn what_was_on_its_way_when_the_end_was_announced_is_served() {
        let start = Instant::now();
        for says_so in [true, false] {
            let mut machine = begun(start);
            machine.announce_end(start);
            machine.announce_end(start);
            assert_eq!(written(&mut machine), [kind::GOAWAY, kind::PING], "once");
            ask(&mut machine, 1);
            assert!(progress(&mut machine, start).is_empty());
            if says_so {
                put_ping(machine.input(), FAREWELL_PING, flag::ACK);
                assert_eq!(progress(&mut machine, start), [kind::GOAWAY]);
            } else {
                assert_eq!(machine.deadline(start), Some(start + FAREWELL));
                assert_eq!(machine.on_time(start + FAREWELL), ControlFlow::Continue(()));
                assert_eq!(written(&mut machine), [kind::GOAWAY]);
            }
            ask(&mut machine, 3);
            assert!(progress(&mut machine, start).is_empty());
            assert_eq!(machine.responder.0.len(), 1, "what came too late is not");
            assert!(!machine.is_over());
            machine.responder.0[0].send_section(BytesMut::from("s"), true);
            assert_eq!(progress(&mut machine, start), [kind::HEADERS]);
            assert!(machine.is_over());
        }
    }
}
