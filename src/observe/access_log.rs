//! The access log: one line a request, JSON or Combined, never in a request's way.
//!
//! A request appends its line to a buffer in memory; a thread of its own writes the buffers out every so
//! often. When the disk is slower than the requests, lines are dropped and counted.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::Version;
use parking_lot::Mutex;
use prometheus::IntCounter;

use crate::clock::Timestamp;
use crate::config::model::{AccessLogTarget, LogFormat};
use crate::sandbox;

use super::outcome::Outcome;

/// Lines wait this long at most, while the writer keeps up.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// Bytes of lines that may wait in one buffer.
const MAX_WAITING: usize = 4 << 20;
/// The writer is woken when so many wait, however early it is.
const MANY: usize = MAX_WAITING / 4;
/// How often a log that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// So that requests on different threads seldom meet at one buffer.
const BUFFERS: usize = 8;

/// Where lines go.
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    /// Here until the end.
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    buffers: [Mutex<Vec<u8>>; BUFFERS],
    settings: Mutex<(AccessLogTarget, LogFormat)>,
    off: AtomicBool,
    json: AtomicBool,
    reopen: AtomicBool,
    stop: AtomicBool,
    dropped: IntCounter,
}

impl AccessLog {
    /// Starts the writer.
    pub(crate) fn start(target: AccessLogTarget, format: LogFormat, dropped: IntCounter) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffers: std::array::from_fn(|_| Mutex::default()),
            off: AtomicBool::new(target == AccessLogTarget::Off),
            json: AtomicBool::new(format == LogFormat::Json),
            settings: Mutex::new((target, format)),
            reopen: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            dropped,
        });
        let for_writer = shared.clone();
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || write_lines(&for_writer))?;
        Ok(AccessLog { shared, writer: Some(writer) })
    }

    /// Takes changed settings over.
    pub(crate) fn configure(&self, target: AccessLogTarget, format: LogFormat) {
        let mut settings = self.shared.settings.lock();
        if *settings == (target.clone(), format) {
            return;
        }
        self.shared.off.store(target == AccessLogTarget::Off, Ordering::Relaxed);
        self.shared.json.store(format == LogFormat::Json, Ordering::Relaxed);
        *settings = (target, format);
        self.shared.reopen.store(true, Ordering::Release);
    }

    /// Opens the file anew, after logrotate has moved it away.
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Has the writer look at once for what there is to do.
    fn wake(&self) {
        self.writer.iter().for_each(|writer| writer.thread().unpark());
    }

    /// Adds the line of one request.
    pub(crate) fn record(&self, outcome: &Outcome<'_>) {
        if self.shared.off.load(Ordering::Relaxed) {
            return;
        }
        let mut buffer = self.shared.buffers[buffer_of_this_thread()].lock();
        if buffer.len() >= MAX_WAITING {
            drop(buffer);
            self.shared.dropped.inc();
            return;
        }
        let before = buffer.len();
        if self.shared.json.load(Ordering::Relaxed) {
            write_json(&mut buffer, outcome);
        } else {
            write_combined(&mut buffer, outcome);
        }
        let is_much = before < MANY && buffer.len() >= MANY;
        drop(buffer);
        if is_much {
            self.wake();
        }
    }
}

impl Drop for AccessLog {
    /// Writes what is waiting.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join(); // it can only have ended by a panic, which has been reported
        }
    }
}

fn buffer_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % BUFFERS);
    MINE.with(|mine| *mine)
}

/// Where the lines of the writer go. An error: it could not be opened or written, and its lines are lost until it can be
/// opened anew, which is tried then.
type Output = Result<Box<dyn Write>, Instant>;

fn write_lines(shared: &Shared) {
    let mut output: Output = Ok(Box::new(io::sink()));
    let mut lines = Vec::new();
    loop {
        let stopping = shared.stop.load(Ordering::Acquire);
        let retry = output.as_ref().is_err_and(|retry| *retry <= Instant::now());
        if shared.reopen.swap(false, Ordering::AcqRel) || retry {
            output = open(&shared.settings.lock().0, retry);
        }
        for buffer in &shared.buffers {
            std::mem::swap(&mut *buffer.lock(), &mut lines);
            if !lines.is_empty() && !write(&mut output, &lines) {
                shared.dropped.inc_by(memchr::memchr_iter(b'\n', &lines).count() as u64);
            }
            lines.clear();
        }
        if stopping {
            return;
        }
        std::thread::park_timeout(FLUSH_EVERY);
    }
}

/// Writes lines; whether they got there. What fails is opened anew later.
fn write(output: &mut Output, lines: &[u8]) -> bool {
    let Ok(open) = output else { return false };
    let written = open.write_all(lines);
    if let Err(error) = &written {
        tracing::error!(%error, "cannot write the access log; lines are lost until it can be written again");
        *output = Err(Instant::now() + RETRY);
    }
    written.is_ok()
}

/// Opens the target. It was said before that it cannot be, if this is a `retry`.
fn open(target: &AccessLogTarget, retry: bool) -> Output {
    let output: Box<dyn Write> = match target {
        AccessLogTarget::Off => return Ok(Box::new(io::sink())),
        AccessLogTarget::Stdout => Box::new(io::stdout()),
        AccessLogTarget::File(path) => match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Box::new(file),
            Err(error) => {
                if !retry {
                    let (hint, path) = (sandbox::hint(&error, path.parent().unwrap_or(path)), path.display());
                    tracing::error!(%path, %error, hint, "cannot open the access log; lines are lost until it can be");
                }
                return Err(Instant::now() + RETRY);
            }
        },
    };
    if retry {
        tracing::info!("the access log is written again");
    }
    Ok(output)
}

/// One line of JSON.
pub fn write_json(out: &mut Vec<u8>, outcome: &Outcome<'_>) {
    out.extend_from_slice(b"{\"time\":");
    push_number(out, outcome.time.as_secs());
    let _ = write!(out, ".{:03}", outcome.time.as_millis() % 1000); // writing to a Vec cannot fail
    out.extend_from_slice(b",\"client\":\"");
    push_address(out, outcome.client);
    out.push(b'"');
    for (name, value) in [
        ("method", Some(outcome.method.as_str())),
        ("scheme", Some(outcome.scheme)),
        ("host", Some(outcome.host)),
        ("path", Some(outcome.path)),
        ("query", outcome.query),
        ("protocol", Some(protocol(outcome.version))),
        ("site", Some(outcome.site)),
        ("cache", Some(outcome.cache)),
        ("reason", outcome.reason),
        ("referer", outcome.referer),
        ("user_agent", outcome.user_agent),
        ("error", outcome.error),
    ] {
        if let Some(value) = value {
            push(out, &[b",\"", name.as_bytes(), b"\":\""]);
            escape(out, value, json_escape);
            out.push(b'"');
        }
    }
    push(out, &[b",\"id\":\"", outcome.id.as_str(&mut [0; 32]).as_bytes(), b"\""]);
    push(out, &[b",\"status\":", outcome.status.as_str().as_bytes(), b",\"bytes\":"]);
    push_number(out, outcome.bytes_sent);
    out.extend_from_slice(b",\"us\":");
    push_number(out, outcome.duration.as_micros() as u64);
    out.extend_from_slice(b"}\n");
}

/// Apache's combined log format.
fn write_combined(out: &mut Vec<u8>, outcome: &Outcome<'_>) {
    push_address(out, outcome.client);
    out.extend_from_slice(b" - - [");
    push_clf_time(out, outcome.time);
    push(out, &[b"] \"", outcome.method.as_str().as_bytes(), b" "]);
    let quoted = |out: &mut Vec<u8>, value: &str| escape(out, value, |out, byte| _ = write!(out, "\\x{byte:02x}"));
    quoted(out, outcome.path);
    if let Some(query) = outcome.query {
        out.push(b'?');
        quoted(out, query);
    }
    push(out, &[b" ", protocol(outcome.version).as_bytes(), b"\" ", outcome.status.as_str().as_bytes(), b" "]);
    push_number(out, outcome.bytes_sent);
    out.extend_from_slice(b" \"");
    quoted(out, outcome.referer.unwrap_or("-"));
    out.extend_from_slice(b"\" \"");
    quoted(out, outcome.user_agent.unwrap_or("-"));
    out.extend_from_slice(b"\"\n");
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// Copies text, with control characters, quotes and backslashes escaped: clients must not be able to forge lines.
fn escape(out: &mut Vec<u8>, text: &str, write_escaped: impl Fn(&mut Vec<u8>, u8)) {
    // Most texts need nothing. All of one is looked at, since many bytes are compared at one time so.
    let is_special = |byte: u8| (byte < 0x20) | (byte == 0x7f) | (byte == b'"') | (byte == b'\\');
    if !text.bytes().fold(false, |found, byte| found | is_special(byte)) {
        return out.extend_from_slice(text.as_bytes());
    }
    let mut clean = 0;
    for (i, byte) in text.bytes().enumerate() {
        if is_special(byte) {
            out.extend_from_slice(&text.as_bytes()[clean..i]);
            write_escaped(out, byte);
            clean = i + 1;
        }
    }
    out.extend_from_slice(&text.as_bytes()[clean..]);
}

fn json_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        _ => _ = write!(out, "\\u{byte:04x}"),
    }
}

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (i, octet) in address.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                push_number(out, octet.into());
            }
        }
        IpAddr::V6(address) => _ = write!(out, "{address}"), // writing to a Vec cannot fail
    }
}

/// `06/Nov/1994:08:49:37 +0000`: made once a second on each thread.
fn push_clf_time(out: &mut Vec<u8>, time: Timestamp) {
    thread_local!(static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) });
    LAST.with_borrow_mut(|(second, text)| {
        if *second != time.as_secs() {
            (*second, *text) = (time.as_secs(), clf_time(time));
        }
        out.extend_from_slice(text.as_bytes());
    });
}

/// Made from the HTTP-date `Sun, 06 Nov 1994 08:49:37 GMT`.
fn clf_time(time: Timestamp) -> String {
    let date = time.http_date();
    let part = |range: std::ops::Range<usize>| date.get(range).unwrap_or_default();
    format!("{}/{}/{}:{} +0000", part(5..7), part(8..11), part(12..16), part(17..25))
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};

    use super::*;
    use crate::request::RequestId;

    fn outcome<'a>(path: &'a str, agent: &'a str) -> Outcome<'a> {
        Outcome {
            time: Timestamp::from_secs(784_111_777) + Duration::from_millis(42),
            client: [192, 0, 2, 1].into(),
            id: RequestId::Given("id-1"),
            method: &Method::GET,
            scheme: "https",
            host: "shop.example",
            path,
            query: Some("q=1"),
            version: Version::HTTP_11,
            status: StatusCode::OK,
            bytes_sent: 7,
            duration: Duration::from_micros(42),
            site: "shop",
            cache: "hit",
            reason: None,
            referer: None,
            user_agent: Some(agent),
            error: None,
        }
    }

    #[test]
    fn json_lines_parse_whatever_clients_send() {
        let mut out = Vec::new();
        write_json(&mut out, &outcome("/a\"b\\c\n\u{7f}ü", "x\"}"));
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(line["path"], "/a\"b\\c\n\u{7f}ü");
        assert_eq!((&line["time"], &line["id"]), (&serde_json::json!(784_111_777.042), &serde_json::json!("id-1")));
        assert_eq!((line["status"].as_u64(), line["us"].as_u64()), (Some(200), Some(42)));
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn combined_lines() {
        let mut out = Vec::new();
        write_combined(&mut out, &outcome("/a", "x\"\n"));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] \"GET /a?q=1 HTTP/1.1\" 200 7 \"-\" \"x\\x22\\x0a\"\n"
        );
    }
}
