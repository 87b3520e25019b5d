//! HTTP/2 over TLS: one connection, many streams. A memory hit is answered where its request is read, with the others
//! that came with it in one write; every other request gets a task ([`answer`]), which hands what it has to the
//! connection ([`stream`]). Bounded like everything a client can fill: what it may have open, send, reset and ask for
//! without taking anything.

mod abuse_budget;
mod answer;
mod frames;
mod handle;
pub(crate) mod head;
pub mod hpack;
mod huffman;
mod opened;
mod output;
mod static_table;
mod stream;
mod streams;
mod uploads;
mod wire;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::model::Limits;

use super::alarm::Alarm;
use super::open::Place;
use super::serve::Shared;
use super::stream::{ClientStream, TRIM_AFTER};
use crate::pace::Pace;

use abuse_budget::AbuseBudget;
use hpack::{Decoder, Section};
use opened::Opened;
use output::Output;
use stream::{Gone, Outbox};
use streams::{STREAM_WINDOW, Streams};
use uploads::{CONNECTION_WINDOW, Uploads};
use wire::{FrameHeader, PREFACE, Reason, kind};

/// Bytes that are read at once, at most: a frame of a body.
const READ: usize = wire::MAX_PAYLOAD + wire::HEADER;
/// Bytes that wait for the client before no more are made: a write or two.
const MAX_OUTPUT: usize = 64 << 10;
/// A client that takes nothing for so long has what waits for it in copies: what it is a part of may be far larger.
const COPY_AFTER: Duration = Duration::from_millis(500);
/// How long a client that is told to go may take to say that it has heard it; then it is taken to have.
const FAREWELL: Duration = Duration::from_secs(1);
/// What the ping says that goes with it.
const FAREWELL_PING: [u8; 8] = *b"farewell";
/// A client that has open streams and has said nothing for so long is asked whether it is still there, and has so long to
/// answer.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_PATIENCE: Duration = Duration::from_secs(20);
const ALIVE_PING: [u8; 8] = *b"alive?  ";

/// One client's connection.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    shutdown: watch::Receiver<bool>,
    stream: ClientStream,
    limits: Limits,
    /// Of the configuration that they are of.
    generation: u64,
    /// Among all connections.
    place: Arc<Place>,
    /// What was read and is no whole frame yet.
    input: BytesMut,
    output: Output,
    decoder: Decoder,
    /// A field section that has not ended.
    open_section: Option<OpenSection>,
    /// Reused from request to request.
    section: Section,
    key: String,
    tail: String,
    section_out: BytesMut,
    streams: Streams,
    outbox: Arc<Outbox>,
    /// What the client takes of a response's body before it says more.
    initial_window: u32,
    /// What the client may still send of bodies, and what it has not been told it may send again.
    credit: i64,
    taken: u32,
    has_settings: bool,
    opened: Opened,
    served: u32,
    abuse_budget: AbuseBudget,
    /// Window updates of streams that were over.
    late_updates: u64,
    /// Those of a few bytes that have not been counted yet.
    small_updates: u32,
    leaving: Leaving,
    alarm: Alarm,
    /// When something last came or a stream ended.
    active: Instant,
    /// When something last came at all, and when it was asked whether the client is still there.
    heard: Instant,
    pinged: Option<Instant>,
    /// When something is to be done though nothing happens.
    deadline: Instant,
    /// Since when the head of a request, or a frame that is none of a body, has not come in full.
    unfinished: Option<Instant>,
}

/// A field section whose end has not come.
struct OpenSection {
    stream: u32,
    ends_stream: bool,
    block: BytesMut,
}

/// How far the connection's end is (RFC 9113 section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
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

/// What has happened.
enum Event {
    /// Something was read.
    Read,
    /// Something was written or left by a task.
    Io,
    Time,
    Shutdown,
    /// The client has gone.
    Gone,
    /// Another connection needs the room.
    GiveWay,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        shutdown: watch::Receiver<bool>,
        stream: ClientStream,
        place: Arc<Place>,
    ) -> Self {
        let (limits, generation) = {
            let snapshot = shared.snapshot.load();
            (snapshot.config.limits.clone(), snapshot.generation)
        };
        let outbox = Outbox::new(shared.engine.cache.memory.waiting().clone(), place.prefix);
        let mut streams = Streams::new(Uploads::new(outbox.clone()));
        streams.pace = Pace::of(&limits);
        Connection {
            shared,
            shutdown,
            stream,
            limits,
            generation,
            place,
            input: BytesMut::new(),
            output: Output::default(),
            decoder: Decoder::new(),
            open_section: None,
            section: Section::default(),
            key: String::new(),
            tail: String::new(),
            section_out: BytesMut::new(),
            streams,
            outbox,
            initial_window: wire::INITIAL_WINDOW,
            credit: i64::from(CONNECTION_WINDOW),
            taken: 0,
            has_settings: false,
            opened: Opened::default(),
            served: 0,
            abuse_budget: AbuseBudget::new(Instant::now()),
            late_updates: 0,
            small_updates: 0,
            leaving: Leaving::No,
            alarm: Alarm::default(),
            active: Instant::now(),
            heard: Instant::now(),
            pinged: None,
            deadline: Instant::now(),
            unfinished: None,
        }
    }

    /// Serves requests until the connection ends. `read`: what was read of it already.
    pub(crate) async fn serve(mut self, read: BytesMut) {
        self.input = read;
        let Connection { stream, input, place, limits, .. } = &mut self;
        let beginning = async {
            while input.len() < PREFACE.len() && stream.read_buf(input).await? > 0 {}
            Ok::<_, io::Error>(input.starts_with(PREFACE))
        };
        let begun = tokio::select! {
            begun = timeout(limits.header_timeout, beginning) => begun,
            () = place.told() => return,
        };
        if !matches!(begun, Ok(Ok(true))) {
            return;
        }
        self.input.advance(PREFACE.len());
        self.put_settings();
        wire::put_window_update(self.output.frames(), 0, CONNECTION_WINDOW - wire::INITIAL_WINDOW);
        self.active = Instant::now();
        let reason = loop {
            let had_output = !self.output.is_done();
            let event = self.event().await;
            self.renew_limits();
            if had_output && self.output.is_done() {
                self.active = Instant::now();
            }
            match event {
                Event::Gone => break None,
                Event::GiveWay => {
                    // Whoever is to make room is not waited for; but it may hear of it.
                    wire::put_goaway(self.output.frames(), self.opened.last, Reason::NoError);
                    let mut cx = Context::from_waker(Waker::noop());
                    let _ = self.output.poll_write(&mut self.stream, &mut cx); // best effort
                    break None;
                }
                Event::Shutdown => self.announce_end(),
                Event::Read | Event::Io | Event::Time => {
                    if matches!(event, Event::Read) {
                        (self.heard, self.pinged) = (Instant::now(), None);
                    }
                    // Where something is always to be read, the time and the shutdown have their turn all the same.
                    if *self.shutdown.borrow() {
                        self.announce_end();
                    }
                    if Instant::now() >= self.deadline
                        && let Some(end) = self.on_time()
                    {
                        break end;
                    }
                }
            }
            if let Err(reason) = self.progress() {
                break Some(reason);
            }
            if self.is_over() && self.output.is_done() {
                break Some(Reason::NoError);
            }
        };
        Box::pin(self.end(reason)).await; // large, and only then
    }

    /// Takes over what a reload has changed.
    fn renew_limits(&mut self) {
        let snapshot = self.shared.snapshot.load();
        if snapshot.generation == self.generation {
            return;
        }
        self.generation = snapshot.generation;
        let before = std::mem::replace(&mut self.limits, snapshot.config.limits.clone());
        drop(snapshot);
        let pace = Pace::of(&self.limits);
        self.stream.set_pace(pace);
        self.streams.pace = pace;
        if (before.max_h2_streams, before.max_head) != (self.limits.max_h2_streams, self.limits.max_head) {
            self.put_settings();
        }
    }

    fn put_settings(&mut self) {
        let max_section = u32::try_from(self.limits.max_head.0).unwrap_or(u32::MAX);
        wire::put_settings(self.output.frames(), self.limits.max_h2_streams, STREAM_WINDOW, max_section);
    }

    /// Uses what has come: frames, and what tasks have left; lets the streams send.
    fn progress(&mut self) -> Result<(), Reason> {
        self.send();
        self.read_frames()?;
        self.give_back(0);
        self.send();
        Ok(())
    }

    /// Takes what tasks have left, and lets the streams send.
    fn send(&mut self) {
        let mut left = Vec::new();
        // The waker that is put in place of the task's is replaced before anything is waited for.
        let mut cx = Context::from_waker(Waker::noop());
        while self.outbox.poll_ready(&mut cx, &mut left).is_ready() {
            left.drain(..).for_each(|stream| self.streams.look(&stream, &mut self.output));
        }
        let (earned, ended) = self.streams.send(&mut self.output, MAX_OUTPUT, Instant::now());
        self.abuse_budget.credit(earned);
        if ended > 0 {
            self.active = Instant::now();
        }
    }

    /// The client may send so many bytes more, of whichever body.
    fn give_back(&mut self, bytes: usize) {
        // Never more than the window.
        self.taken += (bytes + std::mem::take(&mut self.streams.taken)) as u32;
        if self.taken >= CONNECTION_WINDOW / 2 {
            self.credit += i64::from(self.taken);
            wire::put_window_update(self.output.frames(), 0, std::mem::take(&mut self.taken));
        }
    }

    /// Waits until there is something to do.
    async fn event(&mut self) -> Event {
        let first = self.timers().into_iter().filter_map(|(_, time)| time).min();
        let deadline = first.unwrap_or_else(|| Instant::now() + self.limits.keepalive_timeout);
        self.deadline = deadline;
        let is_leaving = self.leaving != Leaving::No;
        let (is_over, is_idle) = (self.is_over(), self.is_idle());
        match is_idle {
            true => self.place.rest(),
            false => self.place.work(),
        }
        let Connection { stream, input, output, outbox, alarm, shutdown, place, .. } = self;
        // Frames that are not used yet wait until the client has taken what is there.
        let may_read = output.len() < MAX_OUTPUT;
        let has_more = !may_read || self.streams.has_turns();
        let mut left = Vec::new();
        let io = poll_fn(|cx| {
            match output.poll_write(stream, cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone),
                Poll::Ready(Ok(())) if is_over => return Poll::Ready(Event::Io),
                _ => {}
            }
            let has_room = output.len() <= MAX_OUTPUT / 2 && !output.is_stuck();
            if outbox.poll_ready(cx, &mut left).is_ready() || has_more && has_room {
                return Poll::Ready(Event::Io);
            }
            if !may_read {
                return Poll::Pending;
            }
            match poll_read(stream, input, cx) {
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Event::Gone),
                Poll::Ready(Ok(_)) => Poll::Ready(Event::Read),
                Poll::Pending => Poll::Pending,
            }
        });
        let event = tokio::select! {
            biased;
            event = io => event,
            () = alarm.at(deadline) => Event::Time,
            () = place.told(), if is_idle => Event::GiveWay,
            _ = shutdown.wait_for(|down| *down), if !is_leaving => Event::Shutdown,
        };
        left.into_iter().for_each(|stream| self.streams.look(&stream, &mut self.output));
        event
    }

    /// When something is to be done though nothing happens.
    fn timers(&self) -> [(Timer, Option<Instant>); 6] {
        let rest = self.is_idle().then(|| {
            let holds_memory = self.input.is_empty() && self.input.capacity() > 0;
            self.active + if holds_memory { TRIM_AFTER } else { self.limits.keepalive_timeout }
        });
        let farewell = match self.leaving {
            Leaving::Announced(since) => Some(since + FAREWELL),
            _ => None,
        };
        // What the client stops taking while this is waited for is seen within a second.
        let copy = (!self.output.is_done()).then(|| {
            let since = self.output.pins_since().unwrap_or_else(Instant::now);
            since + COPY_AFTER
        });
        // A stream may be silent for long; whether the client is still there, it has to show.
        let alive = (self.streams.len() > 0).then(|| match self.pinged {
            Some(pinged) => pinged + PING_PATIENCE,
            None => self.heard + PING_AFTER,
        });
        [
            (Timer::Head, self.unfinished().map(|since| since + self.limits.header_timeout)),
            (Timer::Farewell, farewell),
            (Timer::Alive, alive),
            (Timer::Copy, copy),
            (Timer::Blocked, self.streams.blocked().map(|since| since + self.limits.write_timeout)),
            (Timer::Rest, rest),
        ]
    }

    /// Whether nothing more is to come of the connection.
    fn is_over(&self) -> bool {
        self.leaving == Leaving::Final && self.streams.len() == 0
    }

    fn is_idle(&self) -> bool {
        self.streams.len() == 0 && self.open_section.is_none() && self.output.is_done()
    }

    /// Since when a head has not come in full, if it is the client that is waited for.
    fn unfinished(&self) -> Option<Instant> {
        self.unfinished.filter(|_| self.output.len() < MAX_OUTPUT)
    }

    /// Does what the time has come for. Gives the reason, if the connection is to end.
    fn on_time(&mut self) -> Option<Option<Reason>> {
        let now = Instant::now();
        for (timer, time) in self.timers() {
            if time.is_none_or(|time| now < time) {
                continue;
            }
            match timer {
                Timer::Head => return Some(Some(Reason::NoError)),
                Timer::Alive if self.pinged.is_some() => return Some(None),
                Timer::Rest if now >= self.active + self.limits.keepalive_timeout => {
                    return Some(Some(Reason::NoError));
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
                    (self.section, self.section_out) = (Section::default(), BytesMut::new());
                    (self.key, self.tail) = (String::new(), String::new());
                }
            }
        }
        None
    }

    /// Tells the client that the connection will end: it is to send no more requests, but what is on its way is served.
    fn announce_end(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Announced(Instant::now());
            wire::put_goaway(self.output.frames(), wire::MAX_WINDOW, Reason::NoError);
            wire::put_ping(self.output.frames(), FAREWELL_PING, 0);
        }
    }

    /// Requests that come from now on are not served; the client is told which was the last.
    fn leave(&mut self) {
        self.leaving = Leaving::Final;
        wire::put_goaway(self.output.frames(), self.opened.last, Reason::NoError);
    }

    /// Ends the connection: says why, if there is somebody to say it to, and waits for the tasks to know.
    async fn end(mut self, reason: Option<Reason>) {
        self.streams.clear(Gone::Client);
        if let Some(reason) = reason {
            if reason != Reason::NoError || self.leaving != Leaving::Final {
                wire::put_goaway(self.output.frames(), self.opened.last, reason);
            }
            let (most, patience) = (self.limits.max_drain.0, self.limits.write_timeout);
            let Connection { stream, output, .. } = &mut self;
            let saying = async {
                poll_fn(|cx| output.poll_write(stream, cx)).await?;
                stream.linger(most).await
            };
            let _ = timeout(patience, saying).await; // best effort
        }
        let mut left = Vec::new();
        while self.outbox.live() > 0 {
            poll_fn(|cx| match self.outbox.live() {
                0 => Poll::Ready(()),
                _ => self.outbox.poll_ready(cx, &mut left),
            })
            .await;
            for stream in left.drain(..) {
                stream.look();
            }
        }
        self.outbox.close();
    }
}

/// Reads what has come, a frame at most.
fn poll_read(stream: &mut ClientStream, input: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    if input.capacity() == 0 {
        // After a rest, so that one that goes on takes no memory.
        let mut space = [0; FIRST_READ];
        let read = ready!(pin!(stream.read(&mut space)).poll(cx))?;
        input.extend_from_slice(&space[..read]);
        return Poll::Ready(Ok(read));
    }
    // As much as is missing of the frame that has begun; of the next, what most requests have.
    let missing = FrameHeader::read(input).map_or(0, |header| wire::HEADER + header.length.min(wire::MAX_PAYLOAD));
    input.reserve(missing.saturating_sub(input.len()).clamp(FIRST_READ, READ));
    pin!(stream.read_buf(&mut input.limit(READ))).poll(cx)
}

/// Room that is there for what comes next.
const FIRST_READ: usize = 2 << 10;

impl Connection {
    /// Uses the frames that have come in full, as long as there is room for what they cause.
    fn read_frames(&mut self) -> Result<(), Reason> {
        while self.output.len() < MAX_OUTPUT {
            let Some(header) = FrameHeader::read(&self.input) else { break };
            if header.length > wire::MAX_PAYLOAD {
                return Err(Reason::FrameSizeError);
            }
            if self.input.len() < wire::HEADER + header.length {
                break;
            }
            self.input.advance(wire::HEADER);
            let payload = self.input.split_to(header.length);
            self.on_frame(header, payload)?;
            if self.open_section.is_none() {
                self.unfinished = None; // what comes now has its own time
            }
        }
        let is_body = FrameHeader::read(&self.input).is_some_and(|header| header.kind == kind::DATA);
        let is_stuck = self.output.len() < MAX_OUTPUT && !self.input.is_empty() && !is_body;
        let unfinished = self.open_section.is_some() || is_stuck;
        self.unfinished = if unfinished { self.unfinished.or_else(|| Some(Instant::now())) } else { None };
        Ok(())
    }
}
