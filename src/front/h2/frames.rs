//! What a client's frames do (RFC 9113 section 6). An error is one of the connection; errors of a stream are answered
//! here.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::super::head::{BodyFraming, Refusal, RequestHead};
use super::handle::Handle;
use super::head::{Fault, Parsed, trailers};
use super::hpack::Section;
use super::machine::{FAREWELL_PING, Leaving, Machine, OpenSection, Responder};
use super::stream::{Gone, Stream};
use super::streams::{Received, WORTHWHILE};
use super::wire::{self, FrameHeader, Reason, flag, kind, without_padding};

/// A body of up to so many bytes is sent at once, if the client's windows let it; a larger one takes turns with others.
const SENT_AT_ONCE: usize = 128 << 10;
/// So many window updates of a few bytes for streams count as one frame that brings nothing: clients by gRPC send one when they begin a
/// stream, and one for each message.
const SMALL_UPDATES: u32 = 4;
/// What a malformed request counts among the frames that bring nothing.
const MALFORMED: u32 = 30;

impl<R: Responder> Machine<R> {
    pub(super) fn on_frame(&mut self, header: FrameHeader, payload: BytesMut, now: Instant) -> Result<(), Reason> {
        if !self.has_settings && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(Reason::ProtocolError); // section 3.4
        }
        if self.open_section.is_some() && header.kind != kind::CONTINUATION {
            return Err(Reason::ProtocolError); // section 6.10
        }
        let has_stream = match header.kind {
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => true,
            kind::SETTINGS | kind::PING | kind::GOAWAY => false,
            _ => header.stream != 0, // of either, or unknown
        };
        if has_stream != (header.stream != 0) {
            return Err(Reason::ProtocolError);
        }
        match header.kind {
            kind::DATA => self.on_data(header, payload, now),
            kind::HEADERS => self.on_headers(header, payload, now),
            kind::CONTINUATION => self.on_continuation(header, payload, now),
            kind::RST_STREAM => self.on_reset(header, now),
            kind::WINDOW_UPDATE => self.on_window_update(header, &payload, now),
            kind::SETTINGS => self.on_settings(header, &payload, now),
            kind::PING => self.on_ping(header, &payload, now),
            // A stream that is idle cannot be reset (section 6.4).
            kind::PRIORITY if header.length != 5 && self.is_unheard_of(header.stream) => Err(Reason::FrameSizeError),
            kind::PRIORITY if header.length != 5 => {
                self.reset(header.stream, Reason::FrameSizeError);
                self.charge(1, now)
            }
            kind::PUSH_PROMISE => Err(Reason::ProtocolError),
            kind::GOAWAY if header.length < 8 => Err(Reason::FrameSizeError),
            // The client sends no more requests; what it waits for is served.
            kind::GOAWAY => {
                if self.leaving != Leaving::Final {
                    self.leave();
                }
                Ok(())
            }
            _ => self.charge(1, now), // PRIORITY, which is obsolete, and what is not known
        }
    }

    /// The client has sent what brings nothing.
    fn charge(&mut self, count: u32, now: Instant) -> Result<(), Reason> {
        if self.abuse_budget.charge(count, now) { Ok(()) } else { Err(Reason::EnhanceYourCalm) }
    }

    /// Whether no request has come on a stream. Of those that come too late nothing is remembered.
    fn is_unheard_of(&self, stream: u32) -> bool {
        stream > self.opened.last && self.leaving != Leaving::Final
    }

    /// Ends a stream with an error.
    fn reset(&mut self, stream: u32, reason: Reason) {
        self.streams.remove(stream, Gone::Malformed);
        wire::put_reset(self.output.frames(), stream, reason);
    }

    fn on_data(&mut self, header: FrameHeader, payload: BytesMut, now: Instant) -> Result<(), Reason> {
        if self.is_unheard_of(header.stream) {
            return Err(Reason::ProtocolError);
        }
        self.credit -= header.length as i64;
        if self.credit < 0 {
            return Err(Reason::FlowControlError);
        }
        let ended = header.has(flag::END_STREAM);
        let data = without_padding(header.flags, payload)?;
        if data.is_empty() && !ended {
            self.charge(1, now)?;
        }
        let padding = header.length - data.len();
        let received = self.streams.receive(header.stream, data, header.length, ended, &mut self.output);
        if received == Received::Kept {
            self.give_back(padding);
            return Ok(());
        }
        self.give_back(header.length);
        match received {
            Received::Late => return Ok(()),
            Received::Error(reason) => self.reset(header.stream, reason),
            Received::Kept | Received::Dropped => {}
        }
        self.charge(1, now)
    }

    fn on_headers(&mut self, header: FrameHeader, payload: BytesMut, now: Instant) -> Result<(), Reason> {
        if header.stream.is_multiple_of(2) {
            return Err(Reason::ProtocolError); // one of a server's
        }
        let payload = without_padding(header.flags, payload)?;
        let obsolete = if header.has(flag::PRIORITY) { 5 } else { 0 }; // section 5.3.2
        let block = payload.get(obsolete..).ok_or(Reason::FrameSizeError)?;
        let ends_stream = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.on_section(header.stream, ends_stream, block, now);
        }
        let block = BytesMut::from(block);
        self.open_section = Some(OpenSection { stream: header.stream, ends_stream, block });
        Ok(())
    }

    fn on_continuation(&mut self, header: FrameHeader, payload: BytesMut, now: Instant) -> Result<(), Reason> {
        self.charge(1, now)?;
        let mut open = self.open_section.take().filter(|open| open.stream == header.stream);
        let open_section = open.as_mut().ok_or(Reason::ProtocolError)?;
        if open_section.block.len() + payload.len() > self.limits.max_head.0 as usize {
            return Err(Reason::EnhanceYourCalm);
        }
        open_section.block.extend_from_slice(&payload);
        match open {
            Some(open) if header.has(flag::END_HEADERS) => {
                self.on_section(open.stream, open.ends_stream, &open.block, now)
            }
            open => {
                self.open_section = open;
                Ok(())
            }
        }
    }

    fn on_reset(&mut self, header: FrameHeader, now: Instant) -> Result<(), Reason> {
        if self.is_unheard_of(header.stream) {
            return Err(Reason::ProtocolError);
        }
        if header.length != 4 {
            return Err(Reason::FrameSizeError);
        }
        self.streams.remove(header.stream, Gone::Client);
        self.active = now;
        self.charge(1, now)
    }

    fn on_window_update(&mut self, header: FrameHeader, payload: &[u8], now: Instant) -> Result<(), Reason> {
        let more = payload.try_into().map(u32::from_be_bytes).map_err(|_| Reason::FrameSizeError)? & wire::MAX_WINDOW;
        let is_known = header.stream == 0 || self.streams.contains(header.stream);
        // Of a stream that is over they may be on their way still: one for each frame of a body is what honest clients send.
        if !is_known {
            self.late_updates += 1;
        }
        if more < WORTHWHILE {
            self.small_updates += if header.stream == 0 { SMALL_UPDATES } else { 1 };
        }
        if self.small_updates >= SMALL_UPDATES || !is_known && self.late_updates > self.output.data_frames {
            self.small_updates = 0;
            self.charge(1, now)?;
        }
        if header.stream == 0 {
            return if more == 0 { Err(Reason::ProtocolError) } else { self.streams.widen(more) };
        }
        if self.is_unheard_of(header.stream) {
            return Err(Reason::ProtocolError);
        }
        let result = if more == 0 { Err(Reason::ProtocolError) } else { self.streams.widen_one(header.stream, more) };
        if let Err(reason) = result {
            self.reset(header.stream, reason);
        }
        Ok(())
    }

    fn on_settings(&mut self, header: FrameHeader, payload: &[u8], now: Instant) -> Result<(), Reason> {
        if header.has(flag::ACK) {
            return if payload.is_empty() { self.charge(1, now) } else { Err(Reason::FrameSizeError) };
        }
        self.has_settings = true;
        self.charge(1, now)?;
        let before = self.initial_window;
        self.initial_window = wire::initial_window(payload)?.unwrap_or(before);
        self.streams.widen_each(i64::from(self.initial_window) - i64::from(before))?;
        wire::put_header(self.output.frames(), 0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    fn on_ping(&mut self, header: FrameHeader, payload: &[u8], now: Instant) -> Result<(), Reason> {
        let payload: [u8; 8] = payload.try_into().map_err(|_| Reason::FrameSizeError)?;
        if !header.has(flag::ACK) {
            wire::put_ping(self.output.frames(), payload, flag::ACK);
        } else if payload == FAREWELL_PING && matches!(self.leaving, Leaving::Announced(_)) {
            self.leave(); // everything that was sent before the client knew has come
        }
        self.charge(1, now)
    }

    /// A whole field section: a request, or the trailers of one.
    fn on_section(&mut self, id: u32, ends_stream: bool, block: &[u8], now: Instant) -> Result<(), Reason> {
        let mut section = std::mem::take(&mut self.section);
        section.clear();
        self.decoder
            .decode(block, self.limits.max_head.0 as usize, &mut section)
            .map_err(|_| Reason::CompressionError)?;
        if self.opened.was_passed_over(id) {
            return Err(Reason::ProtocolError); // section 5.1.1
        }
        if self.is_unheard_of(id) {
            self.opened.open(id);
            self.active = now;
            return self.on_request(id, ends_stream, section, now);
        }
        self.section = section;
        if !self.streams.contains(id) {
            return self.charge(1, now); // of a stream that is over, or a request that came too late
        }
        if !ends_stream {
            return Err(Reason::ProtocolError);
        }
        let Some(trailers) = trailers(&self.section) else {
            self.reset(id, Reason::ProtocolError); // section 8.1
            return self.charge(MALFORMED, now);
        };
        self.streams.receive_trailers(id, trailers);
        if let Received::Error(reason) = self.streams.receive(id, BytesMut::new(), 0, true, &mut self.output) {
            self.reset(id, reason);
        }
        Ok(())
    }

    fn on_request(&mut self, id: u32, ended: bool, section: Section, now: Instant) -> Result<(), Reason> {
        let most = self.limits.max_h2_streams as usize;
        // Tasks may have something to do after their streams are over; not without bound.
        if self.streams.len() >= most || self.outbox.live() >= 2 * most {
            return self.refuse_stream(id, section, now);
        }
        self.served += 1;
        if self.served >= self.limits.max_requests_per_connection {
            self.announce_end(now);
        }
        let parsed = Parsed::of(&section);
        let head = parsed.as_ref().map_err(|fault| *fault).and_then(|parsed| parsed.head(ended, &self.limits));
        let body = match head {
            Ok(head) if ended && self.answer_now(id, &head) => None,
            Ok(head) => Some(head.body),
            Err(Fault::Refused(refusal)) => {
                let is_head = section.lines().any(|(name, value)| name == b":method" && value == b"HEAD");
                self.refuse(id, ended, refusal, is_head);
                self.charge(if section.too_large { MALFORMED } else { 1 }, now)?;
                None
            }
            Err(Fault::Malformed) => {
                wire::put_reset(self.output.frames(), id, Reason::ProtocolError);
                self.charge(MALFORMED, now)?;
                None
            }
        };
        drop(parsed);
        match body {
            Some(body) => self.answer_later(id, section, body, now),
            None => {
                self.section = section;
                Ok(())
            }
        }
    }

    /// There is no room for a stream. Nothing was done: the client may ask again (RFC 9113 section 8.7).
    fn refuse_stream(&mut self, id: u32, section: Section, now: Instant) -> Result<(), Reason> {
        self.section = section;
        self.responder.count_refused_stream();
        wire::put_reset(self.output.frames(), id, Reason::RefusedStream);
        self.charge(1, now)
    }

    /// Answers what is not a request.
    fn refuse(&mut self, id: u32, ended: bool, refusal: Refusal, is_head: bool) {
        let body = self.responder.refuse(refusal, &mut self.scratch);
        let body = if is_head { Bytes::new() } else { body };
        // A line of text: no window is that small but one that the client has shut.
        let fits = body.len() <= self.window();
        self.put_response(id, if fits { Some(body) } else { None });
        match (fits, ended) {
            (true, true) => {}
            (true, false) => wire::put_reset(self.output.frames(), id, Reason::NoError), // RFC 9113 section 8.1
            (false, _) => wire::put_reset(self.output.frames(), id, Reason::Cancel),
        }
    }

    /// What a new stream may be sent at once.
    fn window(&self) -> usize {
        self.streams.window.min(i64::from(self.initial_window)).max(0) as usize
    }

    /// Answers a request whose answer is in memory, if the client takes all of it now. Whether it was done.
    fn answer_now(&mut self, id: u32, head: &RequestHead<'_>) -> bool {
        let most = SENT_AT_ONCE.min(self.window());
        let Some(body) = self.responder.respond_now(head, most, &mut self.scratch) else { return false };
        let length = body.len();
        self.put_response(id, Some(body));
        self.abuse_budget.credit(2 + (length / wire::MAX_PAYLOAD) as u32);
        true
    }

    /// Writes a response whose field section was made, and whose body is there and fits into the windows; `None`: without
    /// its body, and not to its end.
    fn put_response(&mut self, id: u32, body: Option<Bytes>) {
        let ends = body.as_ref().is_some_and(Bytes::is_empty);
        wire::put_section(self.output.frames(), id, &self.scratch.section, ends);
        let mut body = body.unwrap_or_default();
        self.streams.window -= body.len() as i64;
        while !body.is_empty() {
            let piece = body.split_to(body.len().min(wire::MAX_PAYLOAD));
            self.output.put_data(id, piece, body.is_empty());
        }
    }

    /// Gives the request a task.
    fn answer_later(&mut self, id: u32, section: Section, body: BodyFraming, now: Instant) -> Result<(), Reason> {
        let Some(admitted) = self.outbox.admit(section.weight()) else {
            return self.refuse_stream(id, section, now);
        };
        let stream = Stream::new(id, self.outbox.clone());
        let open = body != BodyFraming::None;
        if !self.streams.insert(stream.clone(), self.initial_window, open, body.length()) {
            return self.refuse_stream(id, section, now);
        }
        let handle = Handle::new(stream.clone(), admitted);
        if !open {
            stream.receive(BytesMut::new(), true);
        }
        self.responder.respond_later(section, body, &self.limits, handle);
        Ok(())
    }
}
