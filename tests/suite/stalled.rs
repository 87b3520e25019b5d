//! Clients that do not take what waits for them: what they may pin, measured from outside.

use std::any::Any;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, get, section,
};
use crate::harness::node::{Protocol, site};
use crate::harness::origin::Gate;
use crate::harness::{Client, Node, Origin, Reply, Step, eventually, h2, raise_descriptors};

const ROUTES: &str = "[[site.shop.route]]\npath = \"/passed/*\"\npool = \"app\"\n\
    [[site.shop.route]]\npath = \"/ranges/*\"\npool = \"app\"\ncache = { mode = \"respect\", fetch_ranges = true }\n\
    [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

const MEMORY: &str = "[cache.memory]\nmax_size = \"32MiB\"\nfill_buffer = \"32MiB\"\n";
/// All clients of a test are of one network. Where the bound for all is tried, that has no share of its own.
const ALL: &str = "[cache.memory]\nmax_size = \"32MiB\"\nfill_buffer = \"32MiB\"\n[limits]\nmax_prefix_share = 100\n";
const LARGE: usize = 7 << 20;
/// What the node may have in memory with so many connections: the limits, 64 MiB, and 64 KiB each.
fn bound(connections: usize) -> u64 {
    ((32 + 32 + 64) << 20) + connections as u64 * (64 << 10)
}

fn node(origin: &Origin, protocol: Protocol, sections: &str) -> Node {
    let config = format!("{sections}[log]\naccess = \"off\"\n{}", site(&[origin.address], "", ROUTES));
    match protocol {
        Protocol::H1 => Node::start(&config),
        Protocol::H2 => {
            let directory = Arc::new(TempDir::new().unwrap());
            h2::certificate(directory.path(), "test", &[h2::HOST]);
            let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
                [[certificate]]\ncert = \"test.pem\"\nkey = \"test.key\"\n";
            Node::start_in(directory, &format!("{config}{listen}"))
        }
    }
}

fn large() -> Origin {
    Origin::start(|_| Reply::ok(&["Cache-Control: max-age=600"], vec![b'x'; LARGE]))
}

/// Asks by HTTP/1.1 and reads nothing. The client is there as long as this is kept.
fn ask_and_stall(node: &Node, tls: bool, request: &str) -> Box<dyn Any> {
    if tls {
        let mut client = Raw::by_h1(node);
        client.send(request.as_bytes());
        return Box::new(client);
    }
    let mut client = node.client();
    client.send(request);
    Box::new(client)
}

/// The most memory that the process has had while this was done.
fn most_resident(node: &Node, mut work: impl FnMut(usize) -> bool) -> u64 {
    let mut most = 0;
    for step in 0.. {
        if !work(step) {
            break;
        }
        most = most.max(node.resident());
    }
    most
}

#[test]
fn readers_that_take_nothing_take_no_memory_beyond_the_bound() {
    for tls in [false, true] {
        let origin = large();
        let node = node(&origin, if tls { Protocol::H2 } else { Protocol::H1 }, ALL);
        let mut stuck = Vec::new();
        // Each is the first to ask, and some ask for what is in memory already.
        let most = most_resident(&node, |number| {
            let text = format!("GET /{} HTTP/1.1\r\nHost: shop.example\r\n\r\n", number - number % 2);
            stuck.push(ask_and_stall(&node, tls, &text));
            origin.wait_for(number / 2 + 1);
            number < 59
        });
        assert!(most <= bound(60), "TLS {tls}: {} MiB", most >> 20);
        // Those who read get what they ask for.
        if !tls {
            let answer = node.get("/later");
            assert!(answer.complete && answer.body.len() == LARGE);
        }
    }
}

#[test]
fn streams_whose_windows_are_shut_take_no_memory_beyond_the_bound() {
    let origin = large();
    let node = node(&origin, Protocol::H2, ALL);
    let mut stuck: Vec<Raw> = (0..2)
        .map(|_| {
            let mut raw = Raw::connect(&node);
            raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])); // windows of nothing
            raw
        })
        .collect();
    let most = most_resident(&node, |number| {
        stuck[number % 2].send(&get(2 * (number / 2) as u32 + 1, &format!("/{number}")));
        origin.wait_for(number + 1);
        number < 79
    });
    assert!(most <= bound(2), "{} MiB", most >> 20);
    // Two connections do not switch off storing for everybody.
    let ask = || h2::request(node.address(), &node.directory.path().join("test.pem"), ("GET", "/other"), &[], "");
    eventually("room again", || ask().cache().contains("; stored").then_some(()));
    assert!(ask().is_hit());
}

/// A stream takes memory whatever it is of: its task, the head of its answer, what is in hand for it.
#[test]
fn many_streams_whose_windows_are_shut_take_no_memory_beyond_the_bound() {
    const STREAMS: usize = 100;
    raise_descriptors();
    let large_field = format!("X-Large: {}", "x".repeat(8 << 10));
    let small = move |_: &_| Reply::ok(&["Cache-Control: max-age=600", &large_field], vec![b'x'; 4 << 10]);
    let passed = |_: &_| Reply::ok(&["Cache-Control: no-store"], vec![b'x'; 1 << 20]);
    let fields: Vec<String> = (0..30).map(|number| format!("X-{number}: {}", "x".repeat(1000))).collect();
    let heads = move |_: &_| {
        let fields: Vec<&str> = fields.iter().map(String::as_str).chain(["Cache-Control: no-store"]).collect();
        Reply::ok(&fields, b"x")
    };
    let origins = [
        ("/small", 120, Origin::start(small)),
        ("/passed", 30, Origin::start(passed)),
        ("/passed/heads", 60, Origin::start(heads)),
    ];
    for (path, connections, origin) in origins {
        let node = node(&origin, Protocol::H2, ALL);
        let mut stuck = Vec::new();
        let mut most = most_resident(&node, |number| {
            let mut raw = Raw::connect(&node);
            raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])); // windows of nothing
            let ask = |stream| get(2 * stream as u32 + 1, &format!("{path}/{number}/{stream}"));
            raw.send(&(0..STREAMS).flat_map(ask).collect::<Vec<u8>>());
            stuck.push(raw);
            number < connections - 1
        });
        let mut before = 0;
        eventually("a standstill", || {
            std::thread::sleep(Duration::from_millis(200));
            let now = node.resident();
            most = most.max(now);
            (std::mem::replace(&mut before, now).abs_diff(now) < 1 << 20).then_some(())
        });
        assert!(most <= bound(connections), "{path}: {} MiB of {}", most >> 20, bound(connections) >> 20);
        // Others are served meanwhile: as soon as the heads that are on their way have gone.
        let certificate = node.directory.path().join("test.pem");
        let ask = || h2::request(node.address(), &certificate, ("GET", "/other"), &[], "").status;
        eventually("others to be served", || (ask() == 200).then_some(()));
    }
}

/// Windows say nothing of clients whose sockets are never read: what is on its way to each is a connection's due.
#[test]
fn connections_by_http2_that_are_never_read_take_no_memory_beyond_the_bound() {
    const CONNECTIONS: usize = 700;
    raise_descriptors();
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: no-store"], vec![b'x'; 1 << 20]));
    let node = node(&origin, Protocol::H2, ALL);
    let mut stuck = Vec::new();
    let most = most_resident(&node, |number| {
        let mut raw = Raw::connect(&node);
        let wide = (1u32 << 30).to_be_bytes();
        raw.send(&frame(SETTINGS, 0, 0, &[&[0, 4][..], &wide].concat()));
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &wide));
        let streams = (0..8).flat_map(|stream| get(2 * stream + 1, &format!("/passed/{number}/{stream}")));
        raw.send(&streams.collect::<Vec<u8>>());
        origin.wait_for(2 * (number + 1)); // the others may find that there are too many
        stuck.push(raw);
        number < CONNECTIONS - 1
    });
    assert!(most <= bound(CONNECTIONS), "{} MiB of {}", most >> 20, bound(CONNECTIONS) >> 20);
}

/// What a disk is too slow for, or has no room for in its buffer, is not read ahead for those who take nothing.
#[test]
fn streams_whose_windows_are_shut_have_nothing_read_that_no_disk_takes() {
    const CONNECTIONS: usize = 40;
    let origin = large();
    let disk = format!(
        "{ALL}[node]\nstate_dir = \"state\"\n[cache.disk]\npath = \"cache\"\nmax_size = \"1GiB\"\nwrite_buffer = \"2MiB\"\n"
    );
    let node = node(&origin, Protocol::H2, &disk);
    let mut stuck = Vec::new();
    let most = most_resident(&node, |number| {
        let mut raw = Raw::connect(&node);
        raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])); // windows of nothing
        raw.send(&(0..8).flat_map(|stream| get(2 * stream + 1, &format!("/{number}/{stream}"))).collect::<Vec<u8>>());
        origin.wait_for(8 * (number + 1));
        stuck.push(raw);
        number < CONNECTIONS - 1
    });
    assert!(most <= bound(CONNECTIONS) + (2 << 20), "{} MiB of {}", most >> 20, (bound(CONNECTIONS) >> 20) + 2);
    let answer = h2::request(node.address(), &node.directory.path().join("test.pem"), ("GET", "/other"), &[], "");
    assert_eq!((answer.status, answer.body.len()), (200, LARGE));
}

/// What is read of a disk for readers that take nothing ends nobody who takes what it is sent.
#[test]
fn readers_of_a_disk_that_take_nothing_end_nobody_who_does() {
    const STUCK: usize = 60;
    let origin = large();
    let node = node(
        &origin,
        Protocol::H2,
        "[cache.memory]\nmax_size = \"8MiB\"\nmax_object = \"64KiB\"\nfill_buffer = \"8MiB\"\n\
         [limits]\nmax_prefix_share = 100\n\
         [node]\nstate_dir = \"state\"\n[cache.disk]\npath = \"cache\"\nmax_size = \"64MiB\"\n",
    );
    let certificate = node.directory.path().join("test.pem");
    let stored = || h2::request(node.address(), &certificate, ("GET", "/film"), &[], "");
    eventually("it is on disk", || stored().cache().contains("detail=disk").then_some(()));
    let ask = || {
        let mut client = Raw::by_h1(&node);
        client.send(b"GET /film HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        assert!(client.read_some().starts_with(b"HTTP/1.1 200 OK"));
        client
    };
    let stuck: Vec<Raw> = (0..STUCK).map(|_| ask()).collect();
    for number in 0..4 {
        let (mut client, mut read) = (ask(), 0);
        loop {
            match client.read_some().len() {
                0 => break,
                some => read += some,
            }
        }
        assert!(read >= LARGE - (64 << 10), "{number}: cut after {read} bytes"); // some came with the head
    }
    assert_eq!(origin.count(), 1);
    drop(stuck);
}

#[test]
fn few_of_one_network_do_not_keep_what_is_large_from_being_stored() {
    let origin = large();
    let node = node(&origin, Protocol::H1, &MEMORY.replace("fill_buffer = \"32MiB\"", "fill_buffer = \"128MiB\""));
    let stuck: Vec<Client> = (0..24)
        .map(|number| {
            let mut client = node.client();
            client.send(format!("GET /{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
            origin.wait_for(number + 1);
            client
        })
        .collect();
    // They have taken something a moment ago: nobody is stalled. Nothing more that is large is kept for their network.
    assert!(!node.get("/near").cache().contains("; stored"));
    let mut far = Client::connect_from([127, 0, 1, 1], node.address());
    let mut ask = || far.get("/far", &[]);
    let first = ask();
    assert!(first.cache().contains("; stored"), "{} {:?}", first.head, node.admin("GET", "/v1/status", ""));
    assert!(ask().is_hit());
    drop(stuck);
}

#[test]
fn who_takes_many_streams_at_once_gets_all_of_them() {
    const STREAMS: u32 = 100;
    let origin = Origin::start(|request| {
        let is_stored = request.head.starts_with("GET /stored");
        let rule = if is_stored { "Cache-Control: max-age=600" } else { "Cache-Control: no-store" };
        Reply::ok(&[rule], vec![b'x'; 1 << 20])
    });
    let node = node(&origin, Protocol::H2, MEMORY);
    let window = 1_u32 << 30;
    // The last asks by POST: the whole of 0x83 instead of 0x82.
    for (path, is_post) in [
        ("/passed/", false),
        ("/a", false),
        ("/stored/one/", false),
        ("/stored/other/", false),
        ("/stored/one/", false),
        ("/passed/", true),
    ] {
        let mut raw = Raw::connect(&node);
        raw.send(&frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat()));
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &window.to_be_bytes()));
        let ask = |number| {
            let mut request = get(2 * number + 1, &format!("{path}{number}"));
            request[9] = if is_post { 0x83 } else { request[9] };
            request
        };
        raw.send(&(0..STREAMS).flat_map(ask).collect::<Vec<u8>>());
        let mut ended = 0;
        while ended < STREAMS {
            let frame = raw.frame().expect("the connection goes on");
            let what = format!("{path} {is_post}: stream {} after {ended} that ended well", frame.stream);
            assert_ne!(frame.kind, RST_STREAM, "{what}");
            ended += u32::from(frame.kind == DATA && frame.flags & END_STREAM != 0);
        }
    }
}

/// Connections that have only agreed on HTTP/2 have nothing to do.
#[test]
fn who_has_said_nothing_by_http2_makes_room() {
    let origin = large();
    let node = node(&origin, Protocol::H2, "[limits]\nmax_connections = 20\n");
    let mut silent: Vec<Raw> = Vec::new();
    for _ in 0..80 {
        let mut raw = Raw::silent(&node);
        raw.send(&[]); // the handshake
        silent.push(raw);
    }
    assert!(Raw::connect(&node).is_alive());
    let open = node.metric("seawall_connections").unwrap();
    assert!(open <= 36.0, "{open}: the cap, and 16 that are on their way");
}

#[test]
fn what_is_not_cached_takes_no_memory_beyond_the_bound() {
    const CLIENTS: usize = 700;
    raise_descriptors();
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: no-store"], vec![b'x'; LARGE]));
    for path in ["/passed/a", "/not-stored"] {
        let node = node(&origin, Protocol::H1, ALL);
        let before = origin.count();
        let mut stuck = Vec::new(); // at one time
        let most = most_resident(&node, |number| {
            let mut client = node.client();
            client.send(format!("GET {path}-{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
            stuck.push(client);
            origin.wait_for(before + number + 1);
            number < CLIENTS - 1
        });
        assert!(most <= bound(CLIENTS), "{path}: {} MiB", most >> 20);
    }
}

#[test]
fn parts_are_kept_only_while_there_is_room() {
    const PART: usize = 6 << 20;
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |_| {
        let range = "Content-Range: bytes 0-6291455/8388608";
        let head = Reply::head(206, &["ETag: \"v1\"", "Cache-Control: max-age=60", range, "Content-Length: 6291456"]);
        vec![Step::Send([head, vec![b'x'; PART - 1]].concat()), Step::Wait(opened.clone()), Step::Send(b"x".to_vec())]
    });
    let node = node(&origin, Protocol::H1, ALL);
    let mut stuck = Vec::new();
    let most = most_resident(&node, |number| {
        let mut client = node.client();
        let range = "Range: bytes=0-6291455";
        client.send(format!("GET /ranges/{number} HTTP/1.1\r\nHost: shop.example\r\n{range}\r\n\r\n"));
        // All but what the sockets take in any case: so much had to be kept.
        let mut read = 0;
        while read < PART / 2 {
            read += client.read_some().len();
        }
        stuck.push(client);
        number < 99
    });
    assert!(most <= bound(100), "{} MiB", most >> 20);
    drop(stuck);
    gate.open();
    let stored = || {
        let part = node.get_with("/ranges/later", &["Range: bytes=0-6291455"]);
        assert!(part.complete && part.body.len() == PART);
        part.cache().contains("; stored").then_some(())
    };
    eventually("room again", stored);
}

/// Parts that are stored, and that memory lets go of again, count for those who are still being sent them.
#[test]
fn stored_parts_that_nobody_takes_take_no_memory_beyond_the_bound() {
    const PART: usize = 6 << 20;
    const CLIENTS: usize = 30;
    let origin = Origin::start(|_| {
        let range = "Content-Range: bytes 0-6291455/8388608";
        let head = Reply::head(206, &["ETag: \"v1\"", "Cache-Control: max-age=60", range, "Content-Length: 6291456"]);
        vec![Step::Send([head, vec![b'x'; PART]].concat())]
    });
    for tls in [false, true] {
        let node = node(&origin, if tls { Protocol::H2 } else { Protocol::H1 }, ALL);
        let mut stuck = Vec::new();
        let before = origin.count();
        let most = most_resident(&node, |number| {
            let range = "Range: bytes=0-6291455";
            let text = format!("GET /ranges/{number} HTTP/1.1\r\nHost: shop.example\r\n{range}\r\n\r\n");
            stuck.push(ask_and_stall(&node, tls, &text));
            let fills = || node.admin("GET", "/v1/status", "").1["cache"]["fills"].as_u64().unwrap();
            eventually("its end", || (origin.count() > before + number && fills() == 0).then_some(()));
            number < CLIENTS - 1
        });
        assert!(most <= bound(CLIENTS), "tls {tls}: {} MiB", most >> 20);
    }
}

/// A part is stored as its head says, however slow its reader is; the reader has all of it, and no more than was announced.
#[test]
fn who_is_slow_to_take_a_part_gets_all_of_it() {
    const PART: usize = 6 << 20;
    let part: Arc<Vec<u8>> = Arc::new((0..PART).map(|at| (at % 251) as u8).collect());
    let sent = part.clone();
    let origin = Origin::start(move |request| {
        let fields = ["ETag: \"v1\"", "Cache-Control: max-age=60", "Content-Range: bytes 0-6291455/8388608"];
        let too_much = if request.path().ends_with("/long") { "2\r\n!!\r\n" } else { "" };
        let head = Reply::head(206, &[&fields[..], &["Transfer-Encoding: chunked"]].concat());
        let begin = format!("{PART:x}\r\n");
        vec![Step::Send([&head, begin.as_bytes(), &sent, b"\r\n", too_much.as_bytes(), b"0\r\n\r\n"].concat())]
    });
    let node = node(&origin, Protocol::H1, ALL);
    for (path, is_whole) in [("/ranges/right", true), ("/ranges/long", false)] {
        let mut client = node.client();
        let range = "Range: bytes=0-6291455";
        client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{range}\r\n\r\n"));
        let cache = |what: &str| node.admin("GET", "/v1/status", "").1["cache"][what]["bytes"].as_u64().unwrap();
        let nothing_is_left = || eventually("no fill to be left", || (cache("fill_buffer") == 0).then_some(()));
        if is_whole {
            eventually("the part to be stored", || (cache("memory") >= PART as u64).then_some(()));
            nothing_is_left();
        }
        let answer = client.try_response();
        match answer {
            Some(answer) if is_whole => assert!(answer.complete && answer.body == *part),
            // What is too much may come when all that was announced has gone.
            Some(_) => assert!(client.is_closed(), "nothing follows it"),
            None => assert!(!is_whole),
        }
        nothing_is_left(); // what is not stored waits for its reader until now
        let is_stored = node.get_with(path, &["Range: bytes=0-9"]).is_hit();
        assert_eq!(is_stored, is_whole, "{path}: its head said that it is stored");
    }
}

#[test]
fn slow_followers_of_what_is_not_stored_keep_nothing_else_from_being_stored() {
    const TOO_LARGE: usize = 20 << 20; // more than max_object: only passed on
    let origin = Origin::start(|request| {
        let length = if request.path().starts_with("/large") { TOO_LARGE } else { 1 << 20 };
        Reply::ok(&["Cache-Control: max-age=600"], vec![b'x'; length])
    });
    let node = node(&origin, Protocol::H1, "[cache.memory]\nfill_buffer = \"4MiB\"\n");
    let stuck: Vec<Client> = (0..100)
        .map(|number| {
            let mut client = node.client();
            client.send(format!("GET /large/{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
            client
        })
        .collect();
    origin.wait_for(100);
    // Until all of them are stuck: nothing changes any more.
    let cache = || node.admin("GET", "/v1/status", "").1["cache"].to_string();
    let mut before = cache();
    eventually("a standstill", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = cache();
        (std::mem::replace(&mut before, now.clone()) == now).then_some(())
    });
    assert!(node.get("/small").cache().contains("; stored"));
    assert!(node.get("/small").is_hit());
    drop(stuck);
}

#[test]
fn what_finds_no_room_is_not_said_to_be_stored() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=600"], vec![b'x'; 2 << 20]));
    let node = node(&origin, Protocol::H1, "[cache.memory]\nfill_buffer = \"1MiB\"\n");
    for _ in 0..2 {
        assert_eq!(node.get("/a").cache(), "seawall; fwd=uri-miss; detail=fill-buffer");
    }
}

#[test]
fn a_byte_now_and_then_is_too_little() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "0123456789".repeat(1000)));
    let node = node(&origin, Protocol::H2, "[limits]\nwrite_timeout = \"300ms\"\n");
    let mut raw = Raw::connect(&node);
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]));
    raw.send(&get(1, "/a"));
    let started = Instant::now();
    loop {
        match raw.frame().expect("the connection goes on") {
            frame if frame.stream == 1 && frame.kind == RST_STREAM => break,
            taken if taken.stream == 1 && taken.kind == DATA => {
                std::thread::sleep(Duration::from_millis(100)); // the pace of this client
                raw.send(&frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()));
            }
            _ => {}
        }
        assert!(started.elapsed() < Duration::from_secs(10), "it was never given up");
    }
}

/// The kernel has megabytes for a client, and takes more only when much of that is gone: what counts is what the client takes.
#[test]
fn who_reads_slowly_but_steadily_gets_everything() {
    const LENGTH: usize = 12 << 20;
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; LENGTH]));
    let node = node(&origin, Protocol::H1, "[limits]\nwrite_timeout = \"1s\"\nmin_rate = \"64KiB\"\n");
    for path in ["/passed/a", "/a"] {
        let mut client = node.client();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
        client.head();
        let mut read = 0;
        while read < LENGTH {
            if read < LENGTH / 4 {
                std::thread::sleep(Duration::from_millis(100)); // the pace of this client
            }
            let some = client.read_some().len();
            assert!(some > 0, "{path}: it was given up after {read} bytes");
            read += some;
        }
    }
}

/// An event stream with nothing to say is not slow, whoever reads it.
#[test]
fn who_waits_for_something_to_come_is_not_slow() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |_| {
        let head = Reply::head(200, &["Cache-Control: no-store", "Content-Length: 8"]);
        vec![Step::Send([head, b"data".to_vec()].concat()), Step::Wait(opened.clone()), Step::Send(b"more".to_vec())]
    });
    let node = node(&origin, Protocol::H1, "[limits]\nwrite_timeout = \"100ms\"\n");
    let mut client = node.client();
    client.send("GET /passed/events HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    client.head();
    std::thread::sleep(Duration::from_millis(500)); // five times what a client may take nothing of what waits
    gate.open();
    let mut all = Vec::new();
    while all.len() < 8 {
        let some = client.read_some();
        assert!(!some.is_empty(), "it was given up");
        all.extend(some);
    }
    assert_eq!(all, b"datamore");
}

#[test]
fn who_wants_little_does_not_have_the_whole_fetched() {
    for (method, field) in [("HEAD", ""), ("GET", "Range: bytes=0-0\r\n")] {
        let left = Gate::default();
        let for_origin = left.clone();
        let origin = Origin::start(move |_| {
            let fields = ["Cache-Control: max-age=60", "ETag: \"v1\"", "Content-Length: 7340032"];
            let first = [Reply::head(200, &fields), vec![b'x'; 64 << 10]].concat();
            let mut steps = vec![Step::Send(first), Step::Wait(for_origin.clone())];
            steps.extend((0..112).map(|_| Step::Send(vec![b'x'; 64 << 10])));
            steps
        });
        let node = node(&origin, Protocol::H1, "");
        let mut client = node.client();
        client.send(format!("{method} /a HTTP/1.1\r\nHost: shop.example\r\n{field}\r\n"));
        assert!(client.response(method).complete);
        left.open();
        let status = || node.admin("GET", "/v1/status", "").1["cache"].clone();
        eventually("the end of the fill", || (status()["fills"] == 0).then_some(()));
        let stored = status()["memory"]["bytes"].as_u64().unwrap();
        assert!(stored < 4 << 20, "{method}: {stored} bytes were fetched and kept");
    }
}

#[test]
fn what_somebody_else_wants_is_fetched_whole() {
    let left = Gate::default();
    let for_origin = left.clone();
    let origin = Origin::start(move |_| {
        let fields = ["Cache-Control: max-age=60", "ETag: \"v1\"", "Content-Length: 7340032"];
        let first = [Reply::head(200, &fields), vec![b'x'; 64 << 10]].concat();
        vec![Step::Send(first), Step::Wait(for_origin.clone()), Step::Send(vec![b'x'; LARGE - (64 << 10)])]
    });
    let node = node(&origin, Protocol::H1, "");
    let mut head = node.client();
    head.send("HEAD /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert!(head.response("HEAD").complete);
    let mut whole = node.client();
    whole.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    whole.head();
    left.open();
    let mut read = 0;
    while read < LARGE {
        let some = whole.read_some();
        assert!(!some.is_empty());
        read += some.len();
    }
    assert!(node.get("/a").is_hit());
}

/// Heads are memory, too.
#[test]
fn large_heads_that_nobody_reads_take_no_memory_beyond_the_bound() {
    const CLIENTS: usize = 1_500;
    raise_descriptors();
    let fields: Vec<String> = (0..120).map(|number| format!("X-{number}: {}", "y".repeat(1000))).collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).chain(["Cache-Control: no-store"]).collect();
    let answer = Reply::ok(&fields, "x");
    let origin = Origin::start(move |_| answer.clone());
    let node = node(&origin, Protocol::H1, &format!("{ALL}write_timeout = \"20s\"\n"));
    let mut stuck = Vec::new();
    let most = most_resident(&node, |number| {
        // What the kernel takes of it for the client is little.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        socket.connect(&node.address().into()).unwrap();
        let mut client = std::net::TcpStream::from(socket);
        for path in 0..40 {
            let _ = write!(client, "GET /passed/{number}-{path} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        }
        stuck.push(client);
        number < CLIENTS - 1
    });
    assert!(most <= bound(CLIENTS), "{} MiB of {}", most >> 20, bound(CLIENTS) >> 20);
}

/// What clients send of bodies that no origin takes.
#[test]
fn bodies_that_no_origin_reads_take_no_memory_beyond_the_bound() {
    const CONNECTIONS: usize = 150;
    raise_descriptors();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().collect::<Vec<_>>()); // takes connections, and nothing of them
    let directory = Arc::new(TempDir::new().unwrap());
    h2::certificate(directory.path(), "test", &[h2::HOST]);
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
        [[certificate]]\ncert = \"test.pem\"\nkey = \"test.key\"\n";
    let config = format!("{ALL}[log]\naccess = \"off\"\n{}", site(&[address], "", ROUTES));
    let node = Node::start_in(directory, &format!("{config}{listen}"));
    let block = [&[0x83][..], &section("/passed/a", &[])[1..]].concat();
    let mut stuck = Vec::new();
    let most = most_resident(&node, |number| {
        let mut raw = Raw::connect(&node);
        // As much as the windows let one send before any of it is taken: 1 MiB in sixteen streams.
        for stream in (1..32).step_by(2) {
            raw.send(&frame(HEADERS, END_HEADERS, stream, &block));
            (0..3).for_each(|_| raw.send(&frame(DATA, 0, stream, &[b'x'; 16_000])));
        }
        stuck.push(raw);
        number < CONNECTIONS - 1
    });
    assert!(most <= bound(CONNECTIONS), "{} MiB of {}", most >> 20, bound(CONNECTIONS) >> 20);
}

/// Bodies of very many small pieces, which are kept to be sent again.
#[test]
fn bodies_in_tiny_pieces_take_no_memory_beyond_the_bound() {
    const CONNECTIONS: usize = 20;
    const BYTES: usize = 60_000;
    raise_descriptors();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let come = Arc::new(AtomicUsize::new(0));
    let for_origin = come.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let come = for_origin.clone();
            std::thread::spawn(move || {
                let mut space = vec![0; 64 << 10];
                while let Ok(more @ 1..) = stream.read(&mut space) {
                    come.fetch_add(space[..more].iter().filter(|byte| **byte == b'~').count(), Ordering::SeqCst);
                }
            });
        }
    });
    let node = Node::start(&format!("{ALL}[log]\naccess = \"off\"\n{}", site(&[address], "", ROUTES)));
    let request = "PUT /passed/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "1\r\n~\r\n".repeat(BYTES);
    let clients: Vec<Client> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = node.client();
            client.send(format!("{request}{body}"));
            client
        })
        .collect();
    eventually("all of them", || (come.load(Ordering::SeqCst) == CONNECTIONS * BYTES).then_some(()));
    let resident = node.resident();
    assert!(resident <= bound(CONNECTIONS), "{} MiB of {}", resident >> 20, bound(CONNECTIONS) >> 20);
    drop(clients);
}

/// A stream that is silent keeps no place for a client that has left.
#[test]
fn who_has_left_a_silent_stream_is_noticed() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| {
        let head =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:\n\r\n";
        vec![Step::Send(head.to_vec()), Step::Wait(for_origin.clone())]
    });
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\nstream_timeout = \"1h\"\n";
    let node = Node::start(&format!("[limits]\nread_timeout = \"1s\"\n{}", site(&[origin.address], "", route)));
    let open = |wanted: f64| {
        eventually("the connections", || (node.metric("seawall_connections") == Some(wanted)).then_some(()));
    };
    for by_reset in [true, false] {
        let mut client = node.client();
        client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 200 "));
        open(1.0);
        if by_reset {
            socket2::SockRef::from(&client.stream()).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(client);
        open(0.0);
    }
    gate.open();
}

/// All streams of a connection to an origin share its window: one reader that takes nothing must not use it up.
#[test]
fn a_stalled_reader_holds_up_nobody_at_an_origin_of_http2() {
    let (address, _) = h2_origin(|path| vec![b'x'; if path == "/passed/large" { 50 << 20 } else { 1 << 20 }]);
    let node = Node::start(&site(&[address], "protocol = \"h2\"\n", ROUTES));
    let mut stuck = node.client();
    stuck.send("GET /passed/large HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert!(stuck.head().starts_with("HTTP/1.1 200 "));
    let started = Instant::now();
    for path in ["/passed/a", "/cached"] {
        let answer = node.get(path);
        assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
    }
    assert!(started.elapsed() < Duration::from_secs(10), "not once the other was given up");
}

/// pingora takes a connection for in use until each of its streams was given back.
#[test]
fn a_connection_by_http2_whose_stream_was_broken_off_goes_idle_and_is_closed() {
    let (address, open) = h2_origin(|_| vec![b'x'; 50 << 20]);
    let node = Node::start(&site(&[address], "protocol = \"h2\"\nidle_timeout = \"1s\"\n", ROUTES));
    for _ in 0..3 {
        let mut client = node.client();
        client.send("GET /passed/large HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 200 "));
        assert!(open.load(Ordering::Relaxed) > 0);
        drop(client);
        eventually("the end of the connection", || (open.load(Ordering::Relaxed) == 0).then_some(()));
    }
}

/// An origin of HTTP/2 by prior knowledge, with a body for each path; and how many connections to it are open.
fn h2_origin(
    body: impl Fn(&str) -> Vec<u8> + Send + Sync + Copy + 'static,
) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let count = open.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::Relaxed);
                    let mut connection = ::h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let body = body(request.uri().path());
                        let response = http::Response::builder().header("cache-control", "max-age=600");
                        let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
                        let _ = send.send_data(body.into(), true);
                    }
                    count.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
    });
    (address, open)
}
