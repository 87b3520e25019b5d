//! HTTP/2 as RFC 9113 has it, and clients that have it otherwise.

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE,
    frame, get, section,
};
use crate::harness::node::{Protocol, site};
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, PATIENCE, Reply, Step, eventually, h2};

const ROUTES: &str = "[[site.shop.route]]\npath = \"/passed/*\"\npool = \"app\"\n\
    [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

// Codes of RFC 9113 section 7.
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

fn cached(body: &'static str) -> Origin {
    Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=60"], body))
}

/// A node with limits of its own, for an origin.
fn node(origin: &Origin, limits: &str) -> Node {
    let directory = Arc::new(TempDir::new().unwrap());
    h2::certificate(directory.path(), "test", &[h2::HOST]);
    let sections = "[log]\naccess = \"stdout\"\n[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n\
        [admin]\naddress = \"127.0.0.1:0\"\n[[certificate]]\ncert = \"test.pem\"\nkey = \"test.key\"\n";
    Node::start_in(directory, &format!("[limits]\n{limits}\n{sections}{}", site(&[origin.address], "", ROUTES)))
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let origin = cached("x");
    let node = Node::caching_by(Protocol::H2, origin.address);
    let settings = |number: u8, value: u32| frame(SETTINGS, 0, 0, &[&[0, number][..], &value.to_be_bytes()].concat());
    let window = |stream: u32, more: u32| frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    let open = |flags: u8| frame(HEADERS, flags, 1, &section("/", &[]));
    let upload = frame(HEADERS, END_HEADERS, 1, &[&[0x83][..], &section("/", &[])[1..]].concat());
    for (what, frames, code) in [
        ("DATA without a stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("DATA of a stream that was never opened", frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
        ("HEADERS without a stream", frame(HEADERS, 5, 0, &section("/", &[])), PROTOCOL_ERROR),
        ("HEADERS of a server's stream", frame(HEADERS, 5, 2, &section("/", &[])), PROTOCOL_ERROR),
        ("padding longer than its frame", frame(HEADERS, 5 | 8, 1, b"\x09abc"), PROTOCOL_ERROR),
        ("a section that is none", frame(HEADERS, 5, 1, &[0xff; 20]), COMPRESSION_ERROR),
        ("a reset of a stream that was never opened", frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL_ERROR),
        ("a reset that is too short", [get(1, "/"), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), FRAME_SIZE_ERROR),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL_ERROR),
        ("settings cut short", frame(SETTINGS, 0, 0, &[0; 5]), FRAME_SIZE_ERROR),
        ("an ACK with settings", frame(SETTINGS, 1, 0, &[0; 6]), FRAME_SIZE_ERROR),
        ("a push setting of 2", settings(2, 2), PROTOCOL_ERROR),
        ("an initial window of 2^31", settings(4, 1 << 31), FLOW_CONTROL_ERROR),
        ("a largest frame of 16 bytes", settings(5, 16), PROTOCOL_ERROR),
        ("a priority cut short of a stream that was never opened", frame(2, 0, 1, &[0; 4]), FRAME_SIZE_ERROR),
        ("a pushed stream", frame(5, 4, 1, &[0; 8]), PROTOCOL_ERROR),
        ("a ping of a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("a ping cut short", frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        ("a goodbye of a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("a window wider by nothing", window(0, 0), PROTOCOL_ERROR),
        ("a window that is too wide", window(0, (1 << 31) - 1), FLOW_CONTROL_ERROR),
        ("a window of a stream that was never opened", window(1, 1), PROTOCOL_ERROR),
        ("a window update cut short", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), FRAME_SIZE_ERROR),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
        (
            "a section that something breaks into",
            [open(END_STREAM), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a section that another stream goes on with",
            [open(1), frame(CONTINUATION, 4, 3, b"")].concat(),
            PROTOCOL_ERROR,
        ),
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 16_385]), FRAME_SIZE_ERROR),
        ("a stream below one that is open", [get(3, "/"), get(1, "/")].concat(), PROTOCOL_ERROR),
        (
            "trailers that do not end",
            [upload, frame(HEADERS, END_HEADERS, 1, &[0, 1, b'a', 1, b'b'])].concat(),
            PROTOCOL_ERROR,
        ),
    ] {
        let mut raw = Raw::connect(&node);
        raw.send(&frames);
        assert_eq!(raw.end(), Some(code), "{what}");
    }
    for hello in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut raw = Raw::silent(&node);
        raw.send(hello);
        assert_eq!(raw.frame(), None, "what is no HTTP/2 gets no answer");
    }
    let mut raw = Raw::silent(&node);
    raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    raw.send(&get(1, "/"));
    assert_eq!(raw.end(), Some(PROTOCOL_ERROR), "settings come first");
}

#[test]
fn what_breaks_a_stream_ends_it_alone() {
    let origin = cached("x");
    let node = Node::caching_by(Protocol::H2, origin.address);
    let post = |fields: &[(&str, &str)]| {
        let block = [&[0x83][..], &section("/", fields)[1..]].concat();
        frame(HEADERS, END_HEADERS, 1, &block)
    };
    let request = |fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &section("/", fields));
    let trailers = |name: &str, value: &str| {
        let all = section("/", &[(name, value)]);
        let block = &all[section("/", &[]).len()..];
        frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
    };
    for (what, frames, code) in [
        ("a name in upper case", request(&[("Upper", "x")]), PROTOCOL_ERROR),
        ("a field of connections", request(&[("connection", "close")]), PROTOCOL_ERROR),
        ("a line end in a value", request(&[("x", "a\r\nb: c")]), PROTOCOL_ERROR),
        ("two paths", request(&[(":path", "/b")]), PROTOCOL_ERROR),
        ("no method", frame(HEADERS, 5, 1, &section("/", &[])[1..]), PROTOCOL_ERROR),
        ("a length and no body", request(&[("content-length", "3")]), PROTOCOL_ERROR),
        (
            "a body shorter than stated",
            [post(&[("content-length", "3")]), frame(DATA, 1, 1, b"ab")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a body longer than stated",
            [post(&[("content-length", "1")]), frame(DATA, 0, 1, b"ab")].concat(),
            PROTOCOL_ERROR,
        ),
        ("a space before a value", request(&[("x", " a")]), PROTOCOL_ERROR),
        ("a tab behind a value", request(&[("x", "a\t")]), PROTOCOL_ERROR),
        (
            "a body where there is to be none",
            [post(&[("content-length", "0")]), frame(DATA, 1, 1, b"a")].concat(),
            PROTOCOL_ERROR,
        ),
        ("a pseudo-header field in trailers", [post(&[]), trailers(":path", "/b")].concat(), PROTOCOL_ERROR),
        ("a field of connections in trailers", [post(&[]), trailers("connection", "x")].concat(), PROTOCOL_ERROR),
        ("a line end in trailers", [post(&[]), trailers("x", "a\r\nb: c")].concat(), PROTOCOL_ERROR),
        ("a body after its end", [post(&[]), frame(DATA, 1, 1, b"a"), frame(DATA, 1, 1, b"b")].concat(), STREAM_CLOSED),
        ("a window wider by nothing", [post(&[]), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(), PROTOCOL_ERROR),
        (
            "a window that is too wide",
            [post(&[]), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255])].concat(),
            FLOW_CONTROL_ERROR,
        ),
    ] {
        let mut raw = Raw::connect(&node);
        raw.send(&frames);
        assert_eq!(raw.reset(1), Some(code), "{what}");
        raw.send(&get(3, "/"));
        let answered = |frame: crate::harness::frames::Frame| frame.stream == 3 && frame.kind == HEADERS;
        assert!(std::iter::from_fn(|| raw.frame()).any(answered), "the next is served after {what}");
    }
}

#[test]
fn who_asks_for_work_and_takes_none_is_sent_away() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| vec![Step::Wait(for_origin.clone()), Step::Close]);
    // What it still sends is read for a while, so that no reset overtakes the reason.
    let node = node(&origin, "max_drain = \"4MiB\"");
    let many = |make: &dyn Fn(u32) -> Vec<u8>| (0..3_000).flat_map(|number| make(2 * number + 1)).collect::<Vec<_>>();
    let reset = |stream| [get(stream, "/wait"), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat();
    let open = frame(HEADERS, END_STREAM, 1, &section("/", &[]));
    let upload = frame(HEADERS, END_HEADERS, 1, &section("/", &[]));
    for (what, frames) in [
        ("requests that are reset at once", many(&reset)),
        ("pings", many(&|_| frame(PING, 0, 0, &[0; 8]))),
        ("settings", many(&|_| frame(SETTINGS, 0, 0, &[]))),
        ("priorities", many(&|stream| frame(2, 0, stream, &[0; 5]))),
        ("frames of no known kind", many(&|_| frame(99, 0, 0, b"x"))),
        ("window updates", many(&|_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()))),
        ("requests that are none", many(&|stream| frame(HEADERS, 5, stream, &[0x82]))),
        ("continuations without end", [open.clone(), many(&|_| frame(CONTINUATION, 0, 1, b""))].concat()),
        ("a section without end", [open, frame(CONTINUATION, 0, 1, &[0x82; 16_000]).repeat(3)].concat()),
        ("empty pieces of a body", [upload, many(&|_| frame(DATA, 0, 1, b""))].concat()),
    ] {
        let mut raw = Raw::connect(&node);
        raw.send(&frames);
        assert_eq!(raw.end(), Some(ENHANCE_YOUR_CALM), "{what}");
    }
    gate.open();
}

#[test]
fn random_frames_do_no_harm() {
    let origin = cached("x");
    let node = Node::caching_by(Protocol::H2, origin.address);
    let mut random = fastrand::Rng::with_seed(11);
    let (mut survived, mut ended) = (0, 0);
    for _ in 0..60 {
        let mut raw = Raw::connect(&node);
        let mut stream = 1;
        for _ in 0..40 {
            // Mostly what is allowed: one frame that is not ends the connection, and nothing after it is looked at.
            let sent = match random.u8(..20) {
                0..6 => {
                    stream += 2;
                    get(stream - 2, "/a")
                }
                6..9 => frame(PING, 0, 0, &random.u64(..).to_be_bytes()),
                9..12 => frame(WINDOW_UPDATE, 0, random.u32(..stream) / 2 * 2, &random.u32(1..9).to_be_bytes()),
                12..14 => frame(SETTINGS, 0, 0, &[0, random.u8(8..), 0, 0, 0, random.u8(..)]),
                14..16 => frame(2, 0, stream, &[0, 0, 0, 0, random.u8(..)]),
                16..18 => frame(random.u8(11..), random.u8(..), random.u32(..12), &vec![0; random.usize(..40)]),
                18 => {
                    stream += 2;
                    [get(stream - 2, "/a"), frame(RST_STREAM, 0, stream - 2, &8_u32.to_be_bytes())].concat()
                }
                _ => {
                    let payload: Vec<u8> = match random.u8(..3) {
                        0 => section("/a", &[("x", "y")]),
                        1 => vec![0; random.usize(..12)],
                        _ => (0..random.usize(..40)).map(|_| random.u8(..)).collect(),
                    };
                    frame(random.u8(..11), random.u8(..), random.u32(..12), &payload)
                }
            };
            raw.send(&sent);
            if !raw.is_alive() {
                ended += 1;
                break;
            }
            survived += 1;
        }
    }
    assert!(survived > 600 && ended > 10, "{survived} frames were gone on from, {ended} connections ended by one");
    assert_eq!(node.get("/a").status, 200);
    let open = || node.metric("seawall_connections");
    eventually("no connection is left", || (open() == Some(0.0)).then_some(()));
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| {
        let answer = Reply::ok(&["Cache-Control: max-age=60"], "x");
        [vec![Step::Wait(for_origin.clone())], answer].concat()
    });
    let node = node(&origin, "max_h2_streams = 3");
    let mut raw = Raw::connect(&node);
    for stream in [1, 3, 5, 7] {
        raw.send(&get(stream, &format!("/{stream}")));
    }
    assert_eq!(raw.reset(7), Some(REFUSED_STREAM));
    gate.open();
    let mut left = vec![1, 3, 5];
    while !left.is_empty() {
        let ended = raw.frame().unwrap();
        left.retain(|stream| !(ended.stream == *stream && ended.kind == DATA && ended.flags & END_STREAM != 0));
    }
}

/// Clients that give room for each frame of a body may do so when its stream is over already.
#[test]
fn room_that_is_given_late_is_no_abuse() {
    const LENGTH: usize = 1 << 20;
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=600"], vec![b'x'; LENGTH]));
    let node = Node::caching_by(Protocol::H2, origin.address);
    let mut raw = Raw::connect(&node);
    let room = (8_u32 << 20).to_be_bytes();
    raw.send(&frame(SETTINGS, 0, 0, &[&[0, 4][..], &room].concat()));
    let mut late = Vec::new();
    for number in 0..40 {
        let stream = 2 * number + 1;
        raw.send(&[frame(WINDOW_UPDATE, 0, 0, &room), get(stream, "/a")].concat());
        let mut ended = false;
        while !ended {
            let frame_read = raw.frame().unwrap_or_else(|| panic!("the connection ended at request {number}"));
            assert_ne!(frame_read.kind, GOAWAY, "request {number}");
            if frame_read.kind == DATA {
                late.extend(frame(WINDOW_UPDATE, 0, stream, &(16_u32 << 10).to_be_bytes()));
                ended = frame_read.flags & END_STREAM != 0;
            }
        }
    }
    raw.send(&late);
    assert!(raw.is_alive());
}

#[test]
fn connections_that_are_open_take_over_the_limits_of_a_reload() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| {
        let answer = Reply::ok(&["Cache-Control: max-age=60"], "x");
        [vec![Step::Wait(for_origin.clone())], answer].concat()
    });
    let node = node(&origin, "max_h2_streams = 50");
    let mut raw = Raw::connect(&node);
    assert!(raw.is_alive());
    let config = std::fs::read_to_string(node.config_path()).unwrap();
    std::fs::write(node.config_path(), config.replace("max_h2_streams = 50", "max_h2_streams = 2")).unwrap();
    node.wait_for_generation(2);
    raw.send(&frame(PING, 0, 0, b"reloaded"));
    let told = std::iter::from_fn(|| raw.frame()).find(|frame| frame.kind == SETTINGS && frame.flags == 0);
    let told = told.expect("the client is told").payload;
    assert!(told.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 2]), "{told:?}");
    for stream in [1, 3, 5] {
        raw.send(&get(stream, &format!("/{stream}")));
    }
    assert_eq!(raw.reset(5), Some(REFUSED_STREAM));
    gate.open();
}

#[test]
fn idle_and_unfinished_connections_end() {
    let origin = cached("x");
    let node = node(&origin, "keepalive_timeout = \"200ms\"\nheader_timeout = \"200ms\"");
    assert_eq!(Raw::connect(&node).end(), Some(NO_ERROR), "idle");
    assert_eq!(Raw::silent(&node).end(), None, "without a hello");
    let mut raw = Raw::connect(&node);
    raw.send(&frame(HEADERS, END_STREAM, 1, &section("/", &[])));
    assert_eq!(raw.end(), Some(NO_ERROR), "a section without its end");
    let mut raw = Raw::connect(&node);
    raw.send(&get(1, "/")[..12]);
    assert_eq!(raw.end(), Some(NO_ERROR), "a frame without its end");
}

#[test]
fn a_client_that_takes_nothing_loses_its_stream() {
    let origin = cached("0123456789");
    let node = node(&origin, "write_timeout = \"300ms\"");
    let mut raw = Raw::connect(&node);
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 4])); // a window of four bytes
    raw.send(&get(1, "/a"));
    assert_eq!(raw.reset(1), Some(CANCEL));
    assert!(raw.is_alive());
    let line =
        eventually("the log line", || node.stdout().lines().find(|line| line.contains("\"/a\"")).map(str::to_owned));
    assert!(line.contains("\"bytes\":4") && line.contains("takes nothing"), "{line}");
}

#[test]
fn a_node_that_stops_serves_what_has_begun() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| [vec![Step::Wait(for_origin.clone())], Reply::ok(&[], "late")].concat());
    let mut node = node(&origin, "");
    let mut raw = Raw::connect(&node);
    raw.send(&get(1, "/a"));
    origin.wait_for(1);
    node.signal("TERM");
    let goaway = raw.first(GOAWAY).unwrap();
    assert_eq!(goaway.payload, [0x7f, 255, 255, 255, 0, 0, 0, 0], "no number yet: requests may be on their way");
    let ping = raw.first(PING).unwrap();
    raw.send(&get(3, "/b"));
    raw.send(&frame(PING, 1, 0, &ping.payload));
    assert_eq!(raw.first(GOAWAY).unwrap().payload[..4], [0, 0, 0, 3], "the request that came in between is served");
    raw.send(&get(5, "/c"));
    gate.open();
    let mut bodies = 0;
    while let Some(frame) = raw.frame() {
        assert_ne!(frame.stream, 5);
        bodies += usize::from(frame.kind == DATA && frame.payload == b"late");
    }
    assert_eq!(bodies, 2);
    assert!(node.wait());
}

#[test]
fn a_connection_has_so_many_requests() {
    let origin = cached("x");
    let node = node(&origin, "max_requests_per_connection = 2");
    let mut raw = Raw::connect(&node);
    [1, 3, 5].iter().for_each(|stream| raw.send(&get(*stream, "/")));
    assert_eq!(raw.first(GOAWAY).unwrap().payload[..4], [0x7f, 255, 255, 255], "the third was on its way already");
    let ping = raw.first(PING).unwrap();
    raw.send(&frame(PING, 1, 0, &ping.payload));
    assert_eq!(raw.first(GOAWAY).unwrap().payload[..4], [0, 0, 0, 5]);
    // Of a request that comes too late nothing is remembered, and nothing is held against the client.
    raw.send(&frame(HEADERS, END_HEADERS, 7, &section("/", &[])));
    raw.send(&frame(DATA, END_STREAM, 7, b"x"));
    let end = std::iter::from_fn(|| raw.frame()).filter(|frame| frame.kind == GOAWAY).last();
    assert_eq!(end, None);
}

#[test]
fn early_hints_reach_the_client() {
    let origin = Origin::start(|_| {
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n".to_vec();
        [vec![Step::Send(hints)], Reply::ok(&["Cache-Control: no-store"], "page")].concat()
    });
    let node = node(&origin, "");
    let upload = node.directory.path().join("upload");
    std::fs::write(&upload, "body").unwrap();
    let upload = format!("@{}", upload.display());
    for arguments in [&[][..], &["--data-binary", upload.as_str()]] {
        let address = node.address();
        let output = Command::new("curl")
            .args(["-s", "-S", "-i", "--http2", "--max-time", "20", "--cacert"])
            .arg(node.directory.path().join("test.pem"))
            .args(["--connect-to", &format!("{}:443:{}:{}", h2::HOST, address.ip(), address.port())])
            .args(arguments)
            .arg(format!("https://{}/passed/a", h2::HOST))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("HTTP/2 103 \r\nlink: </style.css>; rel=preload\r\n\r\nHTTP/2 200 "), "{text}");
        assert!(text.ends_with("page"), "{text}");
    }
}

/// Many requests of every kind at one time on one connection, with windows that are too small for their bodies.
#[test]
fn many_streams_share_a_connection() {
    let size = |path: &str| path.rsplit('/').next().unwrap().parse::<usize>().unwrap();
    let origin = Origin::start(move |request| {
        let body: Vec<u8> = (0..size(request.path())).map(|at| (at % 251) as u8).collect();
        let body = if request.body.is_empty() { body } else { request.body.clone() };
        Reply::ok(&["Cache-Control: max-age=60"], body)
    });
    let node = node(&origin, "max_h2_streams = 200");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let trust = node.directory.path().join("test.pem");
        let mut client = h2::connect_with(node.address(), &trust, |builder| {
            builder.initial_window_size(5_000).initial_connection_window_size(70_000);
        })
        .await;
        let sizes = [0, 1, 1000, 5_000, 5_001, 16_384, 70_000, 200_000];
        let mut answers = Vec::new();
        for number in 0..160 {
            let size = sizes[number % sizes.len()];
            let upload = number % 5 == 4;
            let (method, path) = if upload { ("POST", "/passed") } else { ("GET", "") };
            let uri = format!("https://{}{path}/{size}", h2::HOST);
            let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
            client = client.ready().await.unwrap();
            let (response, mut send) = client.send_request(request, !upload).unwrap();
            let body: Vec<u8> = (0..size.max(1)).map(|at| (at % 251) as u8).collect();
            if upload {
                send.send_data(Bytes::from(body.clone()), true).unwrap();
            }
            let expected = if upload { body } else { body[..size].to_vec() };
            answers.push(tokio::spawn(async move {
                let response = response.await.unwrap();
                assert_eq!(response.status(), 200);
                let (mut rest, mut found) = (response.into_body(), Vec::new());
                while let Some(data) = rest.data().await {
                    let data = data.unwrap();
                    rest.flow_control().release_capacity(data.len()).unwrap();
                    found.extend_from_slice(&data);
                }
                assert!(found == expected, "{number}: {} bytes of {}", found.len(), expected.len());
            }));
        }
        for answer in answers {
            tokio::time::timeout(PATIENCE, answer).await.expect("in time").unwrap();
        }
    });
    let fetched = origin.requests().iter().filter(|request| request.head.starts_with("GET")).count();
    assert_eq!(fetched, 8, "one fill for each");
}

/// A request's body that nobody reads must not hold up others of its connection, nor grow.
#[test]
fn an_upload_that_waits_holds_up_no_other() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| match request.path() {
        "/passed/waits" => [vec![Step::Wait(for_origin.clone())], Reply::ok(&[], "x")].concat(),
        _ => Reply::ok(&[], &request.body),
    });
    let node = node(&origin, "");
    let mut raw = Raw::connect(&node);
    let post = |stream, path| {
        let block = [&[0x83][..], &section(path, &[])[1..]].concat();
        frame(HEADERS, END_HEADERS, stream, &block)
    };
    raw.send(&post(1, "/passed/waits"));
    raw.send(&frame(DATA, 0, 1, &[0; 10_000]));
    raw.send(&post(3, "/passed/echo"));
    raw.send(&frame(DATA, 0, 3, b"hel"));
    raw.send(&frame(DATA, END_STREAM | 8, 3, b"\x03lo!\0\0\0")); // with padding
    let mut echo: Vec<u8> = Vec::new();
    loop {
        let frame = raw.frame().unwrap();
        if frame.stream == 3 && frame.kind == DATA {
            echo.extend(&frame.payload);
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(echo, b"hello!");
    gate.open();
    raw.send(&frame(DATA, END_STREAM, 1, b""));
    assert_eq!(raw.reset(1), None);
}

/// Go's client says that it takes more whenever it has read four kilobytes.
#[test]
fn windows_may_be_widened_in_small_steps() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], vec![7; 8 << 20]));
    let node = Node::caching_by(Protocol::H2, origin.address);
    let mut raw = Raw::connect(&node);
    raw.send(&get(1, "/a"));
    let mut received = 0;
    loop {
        let data = raw.first(DATA).expect("the rest of the body");
        received += data.payload.len();
        if data.flags & END_STREAM != 0 {
            break;
        }
        let steps = data.payload.chunks(4096).filter(|step| step.len() == 4096).count();
        let rest = (data.payload.len() - steps * 4096) as u32;
        for more in std::iter::repeat_n(4096, steps).chain((rest > 0).then_some(rest)) {
            [0, 1].iter().for_each(|stream| raw.send(&frame(WINDOW_UPDATE, 0, *stream, &u32::to_be_bytes(more))));
        }
    }
    assert_eq!(received, 8 << 20);
}

#[test]
fn bodies_that_nobody_reads_leave_room_for_others() {
    let origin = Origin::start(|request| Reply::ok(&[], &request.body));
    let routes = format!("[[site.shop.route]]\npath = \"/small/*\"\npool = \"app\"\nmax_body = \"1KiB\"\n{ROUTES}");
    let node = Node::speaking(Protocol::H2, &[origin.address], &routes);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let trust = node.directory.path().join("test.pem");
        let mut client = h2::connect(node.address(), &trust).await;
        for (path, length, status) in std::iter::repeat_n(("small", 200_000, 413), 12).chain([("passed", 900_000, 200)])
        {
            let request = http::Request::post(format!("https://{}/{path}/a", h2::HOST));
            let request = request.header("content-length", length).body(()).unwrap();
            client = client.ready().await.unwrap();
            let (response, mut send) = client.send_request(request, false).unwrap();
            let _ = send.send_data(vec![0; length].into(), true); // it may be refused before all has gone
            let response = tokio::time::timeout(PATIENCE, response).await.expect("an answer in time").unwrap();
            assert_eq!(response.status(), status);
        }
    });
}

#[test]
fn who_waits_to_be_told_to_go_on_is_told() {
    let origin = Origin::start(|request| Reply::ok(&[], &request.body));
    let node = node(&origin, "");
    let mut raw = Raw::connect(&node);
    let block = [&[0x83][..], &section("/passed/a", &[("expect", "100-continue")])[1..]].concat();
    raw.send(&frame(HEADERS, END_HEADERS, 1, &block));
    let told = raw.first(HEADERS).unwrap();
    assert_eq!((told.flags, &told.payload[1..]), (END_HEADERS, &b"\x08\x03100"[..]));
    raw.send(&frame(DATA, END_STREAM, 1, b"hello"));
    assert_eq!(raw.first(DATA).unwrap().payload, b"hello");
}

#[test]
fn a_refused_head_has_no_body() {
    let origin = cached("x");
    let node = Node::caching_by(Protocol::H2, origin.address);
    let mut raw = Raw::connect(&node);
    // HEAD is in no table: a literal under the name of the second entry.
    let block = [&b"\x02\x04HEAD"[..], &section("/%zz", &[])[1..]].concat();
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block));
    assert_eq!(raw.first(HEADERS).unwrap().flags, END_HEADERS | END_STREAM);
    assert!(raw.is_alive());
}

/// What was sent before the client heard that its call is over is no abuse, however small its pieces are; what comes after is.
#[test]
fn a_body_that_is_still_on_its_way_is_no_abuse() {
    let origin = cached("x");
    let route = "[[site.shop.route]]\npath = \"/only\"\npool = \"app\"\n";
    let node = Node::speaking(Protocol::H2, &[origin.address], route);
    let mut raw = Raw::connect(&node);
    let post = [&[0x83][..], &section("/none", &[])[1..]].concat();
    raw.send(&frame(HEADERS, END_HEADERS, 1, &post));
    assert!(raw.first(RST_STREAM).is_some(), "it is answered before its body has come");
    raw.send(&frame(DATA, 0, 1, b"x").repeat(3_000));
    assert!(raw.is_alive());
    raw.send(&frame(DATA, 0, 1, &[b'x'; 16_000]).repeat(3));
    raw.send(&frame(DATA, 0, 1, b"x").repeat(20_000));
    assert_eq!(raw.end(), Some(ENHANCE_YOUR_CALM));
}

/// Trailers have the bounds that they have by HTTP/1, and are never cut.
#[test]
fn trailers_are_taken_whole_or_not_at_all() {
    let origin = cached("x");
    let node = node(&origin, "max_head = \"1MiB\"\nmax_headers = 200");
    let mut raw = Raw::connect(&node);
    let post = [&[0x83][..], &section("/passed/a", &[])[1..]].concat();
    let fields = |count: usize, length: usize| {
        let literal = |number: usize| {
            let (name, value) = (format!("x-{number:04}"), "v".repeat(length));
            let mut out = vec![0, name.len() as u8];
            out.extend_from_slice(name.as_bytes());
            match length {
                ..127 => out.push(length as u8),
                _ => out.extend([127, ((length - 127) % 128) as u8 | 128, ((length - 127) / 128) as u8]),
            }
            out.extend_from_slice(value.as_bytes());
            out
        };
        (0..count).flat_map(literal).collect::<Vec<u8>>()
    };
    for (number, (count, length, fits)) in [(60, 10, true), (65, 1, false), (20, 1_000, false)].into_iter().enumerate()
    {
        let stream = 2 * number as u32 + 1;
        raw.send(&frame(HEADERS, END_HEADERS, stream, &post));
        raw.send(&frame(DATA, 0, stream, b"body"));
        let block = fields(count, length);
        let (first, rest) = block.split_at(block.len().min(16_000));
        let end = if rest.is_empty() { END_HEADERS } else { 0 };
        raw.send(&frame(HEADERS, END_STREAM | end, stream, first));
        if !rest.is_empty() {
            raw.send(&frame(CONTINUATION, END_HEADERS, stream, rest));
        }
        assert_eq!(raw.reset(stream), (!fits).then_some(PROTOCOL_ERROR), "{count} of {length}");
    }
    assert!(raw.is_alive());
}

/// A client need not wait for the node's settings before it asks (RFC 9113 section 3.4), and then says nothing more.
#[test]
fn what_comes_with_the_preface_is_asked_for_at_once() {
    let origin = cached("x");
    let listener = "[[listen]]\naddress = \"127.0.0.1:0\"\nprotocols = [\"h1\", \"h2\"]\n";
    let node = Node::start(&format!("{listener}{}", site(&[origin.address], "", ROUTES)));
    let mut socket = std::net::TcpStream::connect(node.address()).unwrap();
    let begin =
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[]), &get(1, "/passed/first")].concat();
    std::io::Write::write_all(&mut socket, &begin).unwrap();
    // Each is asked for when the one before is there.
    (0..20).for_each(|_| assert_eq!(node.get("/passed/later").status, 200));
    let asked = origin.wait_for(21);
    assert_ne!(asked[20].path(), "/passed/first", "it was left until after all that came later");
}
