//! The target `h2_frames`: a connection by HTTP/2 without a socket, whose client sends any bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use seawall::internals::{
    BodyFraming, Frame, FrameHeader, Handle, Limits, Machine, Outbox, PREFACE, Reason, Refusal, RequestBody,
    RequestHead, Responder, Scratch, Section, flag, hpack, kind,
};

/// The frames of a client by HTTP/2: however they are cut, the same requests are found and the same is written; and what
/// is written is what a client may be sent.
pub fn h2_frames(data: &[u8]) {
    let whole = conversation(data, usize::MAX, false);
    for step in [1, 7, 100] {
        let cut = conversation(data, step, false);
        assert_eq!(cut.events, whole.events, "{step} bytes at a time");
        assert!(cut.written == whole.written, "{step} bytes at a time, something else is written");
        assert_eq!(cut.end, whole.end, "{step} bytes at a time");
    }
    // Tasks that answer while more comes: what is written depends on the cuts, but is in order all the same.
    for step in [13, usize::MAX] {
        conversation(data, step, true);
    }
}

/// What came of a connection.
#[derive(Default)]
struct Conversation {
    events: Vec<String>,
    written: Vec<u8>,
    /// Why it ended; with nothing, if its client was not told.
    end: Option<Reason>,
}

/// Answers by the path: `/hit` and `/large` are in memory; a task has whatever else.
#[derive(Default)]
struct Tasks {
    events: Vec<String>,
    /// Those that have not answered.
    waiting: Vec<(usize, Handle)>,
    are_quick: bool,
}

struct Memory(Rc<RefCell<Tasks>>);

impl Responder for Memory {
    fn respond_now(&mut self, head: &RequestHead<'_>, most: usize, scratch: &mut Scratch) -> Option<Bytes> {
        let length = match &*head.target.path {
            "/hit" => 100,
            "/large" => 100_000,
            _ => return None,
        };
        let length = Some(length).filter(|length| *length <= most)?;
        self.0.borrow_mut().events.push(format!("{} of {} bytes", head.method, length));
        scratch.section.clear();
        hpack::put_status(&mut scratch.section, 200);
        Some(vec![b'x'; length].into())
    }

    fn refuse(&mut self, refusal: Refusal, scratch: &mut Scratch) -> Bytes {
        self.0.borrow_mut().events.push(format!("{refusal:?}"));
        scratch.section.clear();
        hpack::put_status(&mut scratch.section, refusal.status.as_u16());
        Bytes::from_static(refusal.why.as_bytes())
    }

    fn respond_later(&mut self, section: Section, body: BodyFraming, _: &Limits, stream: Handle) {
        let mut tasks = self.0.borrow_mut();
        let fields = section.lines().len();
        let lines = section.lines().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()));
        tasks.events.push(format!("{body:?} {:?}", lines.collect::<Vec<_>>()));
        match tasks.are_quick {
            true => tasks.events.push(answer(fields, stream)),
            false => tasks.waiting.push((fields, stream)),
        }
    }

    fn count_refused_stream(&mut self) {
        self.0.borrow_mut().events.push("no room".to_owned());
    }
}

/// A task: what it has got of the request's body, and its answer, which is a section, or a body of some size as well, or
/// none, so that the stream is reset.
fn answer(kind: usize, mut stream: Handle) -> String {
    let read = read(&mut *stream.body());
    let mut section = BytesMut::new();
    hpack::put_status(&mut section, 200);
    let length = match kind % 4 {
        0 => {
            stream.send_section(section, true);
            return read;
        }
        1 => return read,
        2 => 10,
        _ => 200_000,
    };
    stream.send_section(section, false);
    let sending = std::pin::pin!(stream.send(vec![b'y'; length].into(), kind % 8 < 6));
    let _ = sending.poll(&mut Context::from_waker(Waker::noop())); // it is there, and nobody waits for it to go
    read
}

fn read(body: &mut dyn RequestBody) -> String {
    let (mut content, mut trailers) = (Vec::new(), None);
    let end = loop {
        match body.poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Some(Frame::Data { piece, .. }))) => content.extend_from_slice(&piece),
            Poll::Ready(Ok(Some(Frame::Trailers(fields)))) => trailers = Some(fields),
            end => break end.map_ok(|_| ()),
        }
    };
    format!("{} {trailers:?} {end:?}", content.escape_ascii())
}

/// A connection on which some bytes come, so many at a time, and then nothing more. `are_quick`: tasks answer at once, not
/// when all has come.
fn conversation(wire: &[u8], step: usize, are_quick: bool) -> Conversation {
    let tasks = Rc::new(RefCell::new(Tasks { are_quick, ..Tasks::default() }));
    let mut now = Instant::now();
    let mut machine = Machine::new(Memory(tasks.clone()), Limits::default(), Arc::<Outbox>::default(), now);
    let (mut had, mut begun) = (Conversation::default(), false);
    let mut end = ControlFlow::Continue(());
    for piece in wire.chunks(step.min(wire.len()).max(1)) {
        machine.input().extend_from_slice(piece);
        begun = begun || machine.begin(now) == Poll::Ready(true);
        end = if begun { settle(&mut machine, now, &mut had.written) } else { ControlFlow::Continue(()) };
        if end.is_break() {
            break;
        }
    }
    if !begun {
        assert!(machine.output().len() == 0, "somebody who does not speak HTTP/2 is answered by it");
        return had;
    }
    while end.is_continue() {
        let Some((kind, stream)) = tasks.borrow_mut().waiting.pop() else { break };
        let read = answer(kind, stream);
        tasks.borrow_mut().events.push(read);
        end = settle(&mut machine, now, &mut had.written);
    }
    for round in 0.. {
        if end.is_continue() && machine.is_over() {
            end = ControlFlow::Break(Some(Reason::NoError));
        }
        assert!(round < 20, "it lasts though its client says nothing");
        if let ControlFlow::Break(reason) = end {
            machine.end(reason);
            take(&mut machine, &mut had.written);
            had.end = reason;
            break;
        }
        now = machine.deadline(now).expect("something is waited for");
        end = machine.on_time(now);
        if end.is_continue() {
            end = settle(&mut machine, now, &mut had.written);
        }
    }
    had.events = std::mem::take(&mut tasks.borrow_mut().events);
    check_frames(&had, &wire[PREFACE.len()..]);
    had
}

/// Has the machine do all that it can, with a client that takes what there is.
fn settle(machine: &mut Machine<Memory>, now: Instant, written: &mut Vec<u8>) -> ControlFlow<Option<Reason>> {
    for _ in 0..10_000 {
        if let Err(reason) = machine.progress(now) {
            return ControlFlow::Break(Some(reason));
        }
        // One hit may go over what usually is enough.
        assert!(machine.output().len() <= 256 << 10, "{} bytes wait", machine.output().len());
        let has_more = machine.has_more();
        take(machine, written);
        if !has_more {
            return ControlFlow::Continue(());
        }
    }
    panic!("it never comes to rest");
}

fn take(machine: &mut Machine<Memory>, written: &mut Vec<u8>) {
    let output = machine.output();
    let before = written.len();
    output.parts().for_each(|part| written.extend_from_slice(part));
    output.advance(written.len() - before);
    output.flushed();
}

/// Frames, with their payloads; what is none in full is left out.
fn frames(mut bytes: &[u8]) -> (Vec<(FrameHeader, &[u8])>, &[u8]) {
    let mut found = Vec::new();
    while let Some(header) = FrameHeader::read(bytes)
        && let Some(payload) = bytes.get(9..9 + header.length)
    {
        found.push((header, payload));
        bytes = &bytes[9 + header.length..];
    }
    (found, bytes)
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(*payload.first_chunk().expect("a number"))
}

/// What was written must be what RFC 9113 has servers send, within the windows that the client has opened.
fn check_frames(had: &Conversation, input: &[u8]) {
    let (sent, rest) = frames(&had.written);
    assert!(rest.is_empty(), "it ends within a frame");
    assert!(sent.first().is_some_and(|(header, _)| header.kind == kind::SETTINGS && !header.has(flag::ACK)));
    let (mut windows, mut initial) = (BTreeMap::<u32, u64>::new(), 65_535);
    let mut heard_of = 0;
    for (header, payload) in frames(input).0 {
        match header.kind {
            kind::WINDOW_UPDATE if payload.len() == 4 => {
                *windows.entry(header.stream).or_default() += u64::from(number(payload) & 0x7fff_ffff);
            }
            kind::SETTINGS => payload.chunks_exact(6).filter(|setting| setting[..2] == [0, 4]).for_each(|setting| {
                initial = initial.max(u64::from(number(&setting[2..])));
            }),
            _ => {}
        }
        heard_of = heard_of.max(header.stream);
    }
    let (mut section, mut states) = (None, BTreeMap::<u32, Sent>::new());
    for (header, payload) in sent {
        let FrameHeader { stream, length, .. } = header;
        assert!(length <= 16 << 10, "{header:?}");
        assert_eq!(section.is_some(), header.kind == kind::CONTINUATION, "a section goes on in the next frame");
        assert!(stream <= heard_of, "{header:?}: no such stream");
        let is_of_stream = matches!(header.kind, kind::DATA | kind::HEADERS | kind::RST_STREAM | kind::CONTINUATION);
        assert!(stream != 0 || !is_of_stream, "{header:?}");
        let state = states.entry(stream).or_default();
        match header.kind {
            kind::HEADERS | kind::DATA => {
                assert!(!state.has_ended, "{header:?}: it had ended");
                assert!(header.kind == kind::HEADERS || state.has_head, "{header:?}: before its head");
                state.has_ended = header.has(flag::END_STREAM);
            }
            kind::CONTINUATION => assert_eq!(section, Some(stream), "of another stream"),
            kind::RST_STREAM => {
                assert_code(number(payload));
                state.has_ended = true;
            }
            kind::WINDOW_UPDATE => assert!(length == 4 && number(payload) > 0, "{header:?}"),
            kind::SETTINGS => assert!(stream == 0 && length.is_multiple_of(6), "{header:?}"),
            kind::PING => assert!(stream == 0 && length == 8, "{header:?}"),
            kind::GOAWAY => assert_code(number(&payload[4..])),
            _ => panic!("{header:?}: nothing that a server sends"),
        }
        if matches!(header.kind, kind::HEADERS | kind::CONTINUATION) {
            state.has_head = true;
            section = (!header.has(flag::END_HEADERS)).then_some(stream);
        }
        if header.kind == kind::DATA {
            state.data += length as u64;
            let most = initial + windows.get(&stream).copied().unwrap_or(0);
            assert!(state.data <= most, "{header:?}: {} of {most} bytes", state.data);
            let all = states.entry(0).or_default();
            all.data += length as u64;
            let most = 65_535 + windows.get(&0).copied().unwrap_or(0);
            assert!(all.data <= most, "{header:?}: {} of {most} bytes on the connection", all.data);
        }
    }
    if let Some(reason) = had.end.filter(|reason| *reason != Reason::NoError) {
        let (header, payload) = *frames(&had.written).0.last().expect("it was told why");
        assert_eq!((header.kind, number(&payload[4..])), (kind::GOAWAY, reason as u32), "the end is said last");
    }
}

/// What has been sent on a stream.
#[derive(Default)]
struct Sent {
    has_head: bool,
    has_ended: bool,
    data: u64,
}

/// Errors have one of the codes of RFC 9113 section 7.
fn assert_code(code: u32) {
    assert!(code <= 13, "{code} is no error code");
}
