//! The way to the origin and back while both sides have something to say: bodies of requests, early answers, trailers,
//! retries.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::harness::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, frame, section};
use crate::harness::node::{Protocol, site};
use crate::harness::origin::{DeadPort, Gate};
use crate::harness::{Client, Node, Origin, PATIENCE, Reply, Step, eventually};

const UNCACHED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
const BOTH: [Protocol; 2] = [Protocol::H1, Protocol::H2];

/// An origin that does as it likes with each of its connections, which are numbered.
fn raw_origin(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            stream.set_nodelay(true).unwrap();
            let serve = serve.clone();
            std::thread::spawn(move || serve(number, stream));
        }
    });
    address
}

/// Reads a request's head.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A POST by HTTP/2 whose body is to come.
fn post(stream: u32, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[&[0x83][..], &section(path, fields)[1..]].concat())
}

fn node(origins: &[SocketAddr], sections: &str, pool: &str, routes: &str) -> Node {
    Node::start(&format!("{sections}[log]\naccess = \"off\"\n{}", site(origins, pool, routes)))
}

/// Each piece is sent once the one before has come back: nothing waits for the end of anything.
#[test]
fn both_sides_may_talk_at_the_same_time() {
    let address = raw_origin(|_, mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut space = [0; 65_536];
        while let Ok(read @ 1..) = stream.read(&mut space) {
            if stream.write_all(&space[..read]).is_err() || space[..read].ends_with(b"0\r\n\r\n") {
                return;
            }
        }
    });
    let plain = Node::with_routes(&[address], UNCACHED);
    let mut client = plain.client();
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    for number in 0..20 {
        client.send(format!("3\r\n{number:03}\r\n"));
        let mut echo = client.read_some();
        while !echo.windows(3).any(|part| part == format!("{number:03}").as_bytes()) {
            let some = client.read_some();
            assert!(!some.is_empty(), "{number}");
            echo.extend(some);
        }
    }
    client.send("0\r\n\r\n");
    let by_h2 = Node::speaking(Protocol::H2, &[address], UNCACHED);
    let mut raw = Raw::connect(&by_h2);
    raw.send(&post(1, "/a", &[]));
    assert!(raw.first(HEADERS).is_some());
    for number in 0..20 {
        raw.send(&frame(DATA, 0, 1, format!("{number:03}").as_bytes()));
        assert_eq!(raw.first(DATA).unwrap().payload, format!("{number:03}").as_bytes());
    }
    raw.send(&frame(DATA, END_STREAM, 1, b""));
    assert_eq!(raw.first(DATA).unwrap().flags, END_STREAM);
}

/// Neither side reads before it has written megabytes: what is read of the one must be written to the other meanwhile.
#[test]
fn megabytes_go_both_ways_though_neither_side_reads_first() {
    const SIZE: usize = 24 << 20;
    let address = raw_origin(|_, mut stream| {
        read_head(&mut stream);
        let mut reader = stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || reader.read_exact(&mut vec![0; SIZE]).unwrap());
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).unwrap();
        stream.write_all(&vec![b'y'; SIZE]).unwrap();
        reading.join().unwrap();
    });
    let node = Node::with_routes(&[address], UNCACHED);
    let mut client = TcpStream::connect(node.address()).unwrap();
    client.write_all(format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes()).unwrap();
    client.write_all(&vec![b'x'; SIZE]).unwrap(); // ends only if it is read while the answer waits
    let head = read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = vec![0; SIZE];
    client.read_exact(&mut body).unwrap();
    assert!(body.iter().all(|byte| *byte == b'y'));
}

#[test]
fn an_early_answer_ends_the_upload() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let address = raw_origin(move |_, mut stream| {
        read_head(&mut stream);
        counted.fetch_add(1, Ordering::SeqCst);
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Both);
    });
    let node = Node::with_routes(&[address], UNCACHED);
    let mut client = node.client();
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
    client.try_send(vec![b'x'; 1 << 20]);
    let response = client.response("POST");
    assert_eq!((response.status, response.text().as_str(), response.field("connection")), (403, "no", Some("close")));
    let by_h2 = Node::speaking(Protocol::H2, &[address], UNCACHED);
    let mut raw = Raw::connect(&by_h2);
    raw.send(&post(1, "/a", &[]));
    raw.send(&frame(DATA, 0, 1, b"some"));
    assert_eq!(raw.first(DATA).unwrap().payload, b"no");
    assert_eq!(raw.first(RST_STREAM).unwrap().payload, [0; 4], "NO_ERROR: the answer is whole");
    assert!(raw.is_alive());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// RFC 9111 section 4.4: what may have changed is forgotten, whether its client hears of it or not.
#[test]
fn what_a_client_has_changed_that_left_is_forgotten() {
    let answer = Arc::new(Mutex::new(Vec::new()));
    let (for_origin, gate) = (answer.clone(), Arc::new(Mutex::new(Gate::default())));
    let gates = gate.clone();
    let origin = Origin::start(move |request| match request.head.starts_with("POST") {
        true => {
            let gate = gates.lock().unwrap().clone();
            [vec![Step::Wait(gate)], for_origin.lock().unwrap().clone()].concat()
        }
        false => Reply::ok(&["Cache-Control: max-age=600"], "page"),
    });
    let cached = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    for protocol in BOTH {
        let node = Node::speaking(protocol, &[origin.address], cached);
        for (steps, is_forgotten) in
            [(Reply::ok(&[], "x"), true), (Reply::status(500, &[], "x"), false), (vec![Step::Close], true)]
        {
            *answer.lock().unwrap() = steps;
            *gate.lock().unwrap() = Gate::default();
            node.get("/a");
            assert!(node.get("/a").is_hit());
            let before = origin.count();
            match protocol {
                Protocol::H1 => {
                    let mut client = node.client();
                    client.send("POST /a HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1\r\n\r\nx");
                    origin.wait_for(before + 1);
                }
                Protocol::H2 => {
                    let mut raw = Raw::connect(&node);
                    raw.send(&post(1, "/a", &[]));
                    raw.send(&frame(DATA, END_STREAM, 1, b"x"));
                    origin.wait_for(before + 1);
                    raw.send(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
                    assert!(raw.is_alive());
                }
            }
            gate.lock().unwrap().open();
            match is_forgotten {
                true => eventually("the page to be forgotten", || (!node.get("/a").is_hit()).then_some(())),
                false => {
                    // The connection to the origin is kept for the next only once the answer has been read.
                    eventually("the answer", || (node.metric("seawall_connections") == Some(0.0)).then_some(()));
                    assert!(node.get("/a").is_hit(), "{protocol:?}");
                }
            }
        }
    }
}

#[test]
fn who_sends_nothing_or_too_little_is_told_so() {
    let origin = Origin::start(|request| Reply::ok(&[], &request.body));
    let limits = "[limits]\nread_timeout = \"400ms\"\nmin_rate = \"1KiB\"\n";
    let node = node(&[origin.address], limits, "", UNCACHED);
    let begin = |client: &mut Client| client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nxx");
    let mut stalled = node.client();
    begin(&mut stalled);
    let response = stalled.response("POST");
    assert_eq!((response.status, response.field("connection")), (408, Some("close")));
    let mut slow = node.client();
    begin(&mut slow);
    let started = Instant::now();
    let mut answer = Vec::new();
    while answer.is_empty() && started.elapsed() < PATIENCE {
        slow.try_send("x");
        std::thread::sleep(Duration::from_millis(50)); // the pace that is too slow
        answer = slow.read_now();
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    assert!(origin.requests().iter().all(|request| !request.complete));
    assert_eq!(node.origin("app", origin.address)["failures"], 0, "it was no fault of the origin's");
}

#[test]
fn each_end_of_an_upload_has_its_deadline_and_nothing_is_sent_twice() {
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let (first, second) = (counts.clone(), counts.clone());
    let never = raw_origin(move |_, mut stream| {
        read_head(&mut stream);
        first[0].fetch_add(1, Ordering::SeqCst);
        std::thread::park(); // it takes nothing of the body
    });
    let resets = raw_origin(move |_, mut stream| {
        read_head(&mut stream);
        second[1].fetch_add(1, Ordering::SeqCst);
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    for (address, status, at) in [(never, 504, 0), (resets, 502, 1)] {
        let node = node(&[address], "", "write_timeout = \"300ms\"\nretries = 3\n", UNCACHED);
        let mut client = node.client();
        client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n");
        let mut writer = client.stream();
        let writing = std::thread::spawn(move || while writer.write_all(&[b'x'; 65_536]).is_ok() {});
        assert_eq!(client.response("POST").status, status);
        drop(client);
        writing.join().unwrap();
        assert_eq!(counts[at].load(Ordering::SeqCst), 1);
    }
}

#[test]
fn expectations_are_the_origins_to_meet() {
    let address = raw_origin(|_, mut stream| {
        let head = read_head(&mut stream);
        assert!(head.to_lowercase().contains("\r\nexpect: 100-continue\r\n"), "{head}");
        match head.contains("/refused") {
            true => _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"),
            false => {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
                let mut body = [0; 5];
                stream.read_exact(&mut body).unwrap();
                let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n";
                stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
            }
        }
        let mut rest = [0; 1];
        let more = stream.read(&mut rest).unwrap_or(0);
        assert!(more == 0 || !head.contains("/refused"), "the body of what was refused");
    });
    let node = Node::with_routes(&[address], UNCACHED);
    let ask = |path: &str| {
        let mut client = node.client();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"));
        client
    };
    let refused = ask("/refused").response("POST");
    assert_eq!((refused.status, refused.field("connection")), (401, Some("close")), "{}", refused.head);
    let mut client = ask("/taken");
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send("hello");
    assert_eq!(client.response("POST").text(), "hello");
    client.send("POST /taken HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    let mut all = String::new();
    while !all.ends_with("hello") {
        let some = client.read_some();
        assert!(!some.is_empty(), "{all}");
        all += &String::from_utf8_lossy(&some);
    }
    assert!(all.contains("HTTP/1.1 200 "), "the connection goes on: {all}");
    let port = DeadPort::new();
    let dead = Node::with_routes(&[port.address], UNCACHED);
    let mut client = dead.client();
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 502 "), "nobody wants the body");
}

#[test]
fn trailers_go_both_ways() {
    let (sender, seen) = mpsc::channel();
    let sender = Mutex::new(sender);
    let address = raw_origin(move |_, mut stream| {
        read_head(&mut stream);
        let mut body = Vec::new();
        while !body.ends_with(b"\r\n\r\n") {
            let mut space = [0; 1024];
            let read = stream.read(&mut space).unwrap();
            body.extend_from_slice(&space[..read]);
        }
        sender.lock().unwrap().send(String::from_utf8(body).unwrap()).unwrap();
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
        let body = "2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nX-Secret: s\r\nX-Accel-Expires: 9\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    });
    // What a route sets or removes of a head does not come behind the body either.
    let routes = format!(
        "{UNCACHED}request = {{ set = {{ X-Tenant = \"shop\" }} }}\nresponse = {{ remove = [\"X-Secret\"] }}\n"
    );
    let node = Node::with_routes(&[address], &routes);
    for (te, expected) in [("TE: trailers\r\nConnection: TE\r\n", "0\r\nx-sum: 1\r\n\r\n"), ("", "0\r\n\r\n")] {
        let mut client = node.client();
        client.send(format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{te}\r\n"));
        client.send(
            "2\r\nhi\r\n0\r\nX-Md5: 2\r\nHost: evil\r\nX-Tenant: evil\r\nx_tenant: evil\r\n\
             X-Country: GB\r\nx_country: GB\r\nX-HTTP-Method-Override: DELETE\r\nX-Remote-User: root\r\nVia: x\r\n\r\n",
        );
        let mut all = String::new();
        while !all.ends_with(expected) {
            let some = client.read_some();
            assert!(!some.is_empty(), "{all}");
            all += &String::from_utf8_lossy(&some);
        }
        assert!(!["set-cookie", "forwarded", "secret", "accel"].iter().any(|name| all.contains(name)), "{all}");
        let body = seen.recv_timeout(PATIENCE).unwrap();
        assert!(body.contains("x-md5: 2\r\n") && !body.contains("evil"), "{body}");
        // Nor what asserts who asks, or for what.
        assert!(!["GB", "DELETE", "root", "via"].iter().any(|value| body.contains(value)), "{body}");
    }
    let by_h2 = Node::speaking(Protocol::H2, &[address], &routes);
    let mut raw = Raw::connect(&by_h2);
    raw.send(&post(1, "/a", &[]));
    raw.send(&frame(DATA, 0, 1, b"hi"));
    let section = b"\x00\x05x-md5\x012\x00\x08x-tenant\x04evil";
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, section));
    let body = seen.recv_timeout(PATIENCE).unwrap();
    assert!(body.contains("x-md5: 2\r\n") && !body.contains("evil"), "{body}");
    assert_eq!(raw.first(HEADERS).unwrap().flags, END_HEADERS);
    let trailers = raw.first(HEADERS).unwrap();
    assert_eq!(trailers.flags, END_HEADERS | END_STREAM);
    assert!(trailers.payload.windows(5).any(|part| part == b"x-sum"));
    assert!(!trailers.payload.windows(6).any(|part| part == b"cookie" || part == b"secret"));
}

#[test]
fn what_an_origin_cannot_serve_now_another_may() {
    for status in [502, 503, 504] {
        let failing = Origin::start(move |_| Reply::status(status, &[], "sorry"));
        let sound = Origin::start(|request| Reply::ok(&["Cache-Control: max-age=60"], &request.body));
        let cached = "[[site.shop.route]]\npath = \"/cached/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
        let routes = format!("{cached}{UNCACHED}");
        let node = Node::with_routes(&[failing.address, sound.address], &routes);
        let first_of = |method: &str, path: &str, body: &str| {
            // Whichever comes first by turns.
            let statuses = [0, 1].map(|number| node.request(method, &format!("{path}{number}"), &[], body).status);
            (statuses.iter().filter(|one| **one == status).count(), statuses)
        };
        assert_eq!(first_of("GET", "/cached/", ""), (0, [200, 200]));
        assert_eq!(first_of("PUT", "/put/", "body").0, 0);
        assert_eq!(first_of("POST", "/post/", "body").0, 1, "a POST is not sent twice");
        let both = Node::with_routes(&[failing.address], UNCACHED);
        assert_eq!(both.get("/a").text(), "sorry", "the last answer is the client's");
    }
}

#[test]
fn a_fifth_of_a_pools_requests_may_be_sent_again_and_what_timed_out_is_not() {
    let failing = Origin::start(|_| Reply::status(503, &[], ""));
    let also = Origin::start(|_| Reply::status(503, &[], ""));
    let node = Node::with_routes(&[failing.address, also.address], UNCACHED);
    (0..50).for_each(|_| assert_eq!(node.get("/a").status, 503));
    let asked = failing.count() + also.count();
    assert!((53..=63).contains(&asked), "{asked}: 50 and a fifth");
    let budget = "retry_budget = { share = 0.0, least = 3 }\n";
    let few = self::node(&[failing.address, also.address], "", budget, UNCACHED);
    (0..4).for_each(|_| assert_eq!(few.get("/a").status, 503));
    assert_eq!(failing.count() + also.count() - asked, 7, "three in any case");
    let gate = Gate::default();
    let for_origin = gate.clone();
    let silent = Origin::start(move |_| vec![Step::Wait(for_origin.clone()), Step::Close]);
    let sound = Origin::start(|_| Reply::ok(&[], ""));
    let node = self::node(&[silent.address, sound.address], "", "read_timeout = \"200ms\"\n", UNCACHED);
    let statuses = [node.get("/a").status, node.get("/a").status];
    assert!(statuses.contains(&504) && statuses.contains(&200), "{statuses:?}");
    assert_eq!((silent.count(), sound.count()), (1, 1));
    gate.open();
}

/// What comes of the head after the time for it is over, bit by bit, is no answer.
#[test]
fn a_dripped_head_is_not_waited_for_and_a_large_one_is_refused() {
    let address = raw_origin(|_, mut stream| {
        let head = read_head(&mut stream);
        let fields = "X: y\r\n".repeat(if head.contains("/many") { 300 } else { 100 });
        let bytes = format!("X: {}\r\n", "y".repeat(1000)).repeat(if head.contains("/long") { 140 } else { 1 });
        if !head.contains("/drip") {
            let _ = stream.write_all(
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{fields}{bytes}Content-Length: 0\r\n\r\n").as_bytes(),
            );
        }
        while stream.write_all(b"H").is_ok() && head.contains("/drip") {
            std::thread::sleep(Duration::from_millis(20)); // the drip
        }
    });
    let cached = "[[site.shop.route]]\npath = \"/cached/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let node = node(&[address], "", "read_timeout = \"300ms\"\n", &format!("{cached}{UNCACHED}"));
    for (path, status) in [("/fine", 200), ("/many", 502), ("/long", 502), ("/drip", 504)] {
        for (method, prefix) in [("GET", "/cached"), ("GET", ""), ("POST", "")] {
            let response = node.request(method, &format!("{prefix}{path}"), &[], "");
            assert_eq!(response.status, status, "{method} {prefix}{path}: {:?}", node.log());
        }
    }
}

/// An origin of HTTP/2 without TLS that refuses the first requests in one of the ways of RFC 9113 section 8.7.
fn refusing_h2(refuse: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let counted = served.clone();
    let address = raw_origin(move |number, stream| {
        let counted = counted.clone();
        let mut first = [0; 3];
        while stream.peek(&mut first).unwrap_or(3) < 3 {}
        if &first != b"PRI" {
            let mut stream = stream;
            let head = read_head(&mut stream);
            let length = if head.starts_with("POST") { 4 } else { 0 };
            let _ = stream.read_exact(&mut vec![0; length]);
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\none");
            return;
        }
        stream.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut connection = ::h2::server::handshake(stream).await.unwrap();
            let mut requests = 0;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                requests += 1;
                match refuse {
                    "refused" if number == 0 && requests == 1 => {
                        respond.send_reset(::h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    "http11" => {
                        respond.send_reset(::h2::Reason::HTTP_1_1_REQUIRED);
                        continue;
                    }
                    _ => {}
                }
                let counted = counted.clone();
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    let mut length = 0;
                    while let Some(Ok(piece)) = body.data().await {
                        length += piece.len();
                        let _ = body.flow_control().release_capacity(piece.len());
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    let response = http::Response::builder().status(200).body(()).unwrap();
                    let mut send = respond.send_response(response, false).unwrap();
                    let _ = send.send_data(format!("two {length}").into_bytes().into(), true);
                });
            }
        });
    });
    (address, served)
}

#[test]
fn what_an_origin_of_http2_did_not_process_is_sent_again() {
    for (refuse, expected) in [("refused", "two 4"), ("http11", "one")] {
        let (address, served) = refusing_h2(refuse);
        for method in ["POST", "GET"] {
            let node = node(&[address], "", "protocol = \"h2\"\nretries = 0\n", UNCACHED);
            let before = served.load(Ordering::SeqCst);
            let body = if method == "POST" { "body" } else { "" };
            for _ in 0..2 {
                let response = node.request(method, "/a", &[], body);
                let expected = if body.is_empty() { expected.replace('4', "0") } else { expected.to_owned() };
                assert_eq!((response.status, response.text()), (200, expected), "{refuse} {method}");
            }
            assert_eq!(served.load(Ordering::SeqCst) - before, 2, "once each");
            assert_eq!(node.origin("app", address)["failures"], 0, "{refuse} is no failure");
        }
    }
    // Also while it is being sent, as long as all of it is kept to be sent again.
    for _ in 0..5 {
        let (address, served) = refusing_h2("refused");
        let node = node(&[address], "", "protocol = \"h2\"\nretries = 0\n", UNCACHED);
        let response = node.request("POST", "/a", &[], &"x".repeat(60_000));
        assert_eq!((response.status, response.text()), (200, "two 60000".to_owned()));
        assert_eq!(served.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_plain_listener_takes_http2_by_prior_knowledge() {
    let origin = Origin::start(|request| Reply::ok(&["Cache-Control: max-age=60"], &request.body));
    let routes = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    for protocols in ["[\"h1\", \"h2\"]", "[\"h2\"]"] {
        let listen = format!("[[listen]]\naddress = \"127.0.0.1:0\"\nprotocols = {protocols}\n");
        let node = Node::start(&format!("{listen}{}", site(&[origin.address], "", routes)));
        for (path, data, report) in [("/a", None, "fwd"), ("/a", None, "hit"), ("/b", Some("body"), "fwd=method")] {
            let mut command = std::process::Command::new("curl");
            command.args(["-s", "-i", "--http2-prior-knowledge", "--max-time", "20", "-H", "Host: shop.example"]);
            command.args(data.iter().flat_map(|data| ["--data-binary", data]));
            let output = command.arg(format!("http://{}{path}", node.address())).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.starts_with("HTTP/2 200") && text.contains(report), "{text}");
            assert!(text.ends_with(data.unwrap_or("\r\n\r\n")), "{text}");
        }
        if protocols.contains("h1") {
            let response = node.get("/a");
            assert!(response.is_hit(), "what begins otherwise is HTTP/1.1: {}", response.head);
        }
    }
}

/// What is asked by gRPC is refused in its terms: an answer of trailers only.
#[test]
fn a_call_by_grpc_is_refused_as_such() {
    let port = DeadPort::new();
    let node = Node::speaking(Protocol::H2, &[port.address], UNCACHED);
    let mut raw = Raw::connect(&node);
    raw.send(&post(1, "/a", &[("content-type", "application/grpc"), ("te", "trailers")]));
    raw.send(&frame(DATA, END_STREAM, 1, b"\0\0\0\0\0"));
    let head = raw.first(HEADERS).unwrap();
    assert_eq!(head.flags, END_HEADERS | END_STREAM);
    let text = String::from_utf8_lossy(&head.payload).into_owned();
    assert!(text.contains("grpc-status\u{2}14") && text.contains("grpc-message"), "{text:?}");
    raw.send(&post(3, "/a", &[("content-type", "application/json")]));
    raw.send(&frame(DATA, END_STREAM, 3, b"{}"));
    assert_eq!(raw.first(HEADERS).unwrap().flags, END_HEADERS, "502, with a line that says why");
}

/// Whoever waits for a page hears what its origin says before it, also who follows another's fill.
#[test]
fn hints_reach_those_who_wait_for_a_fill() {
    let (hint, gate) = (Gate::default(), Gate::default());
    let (for_hint, for_origin) = (hint.clone(), gate.clone());
    let origin = Origin::start(move |_| {
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n".to_vec();
        let waits = vec![Step::Wait(for_hint.clone()), Step::Send(early), Step::Wait(for_origin.clone())];
        [waits, Reply::ok(&["Cache-Control: max-age=60"], "page")].concat()
    });
    let node = Node::caching(origin.address);
    let ask = || {
        let mut client = node.client();
        client.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        client
    };
    let mut first = ask();
    origin.wait_for(1);
    let mut others = [ask(), ask()];
    hint.open();
    assert!(first.head().starts_with("HTTP/1.1 103 "));
    for other in &mut others {
        let head = other.head();
        assert!(head.starts_with("HTTP/1.1 103 ") && head.contains("link: </a.css>; rel=preload"), "{head}");
    }
    gate.open();
    assert_eq!(first.response("GET").text(), "page");
    others.iter_mut().for_each(|other| assert_eq!(other.response("GET").text(), "page"));
    assert_eq!(origin.count(), 1);
    assert!(ask().response("GET").is_hit());
}

/// What an operator reads of a request that had no answer: which, from where, and why.
#[test]
fn a_request_without_an_answer_is_told_in_one_line() {
    let port = DeadPort::new();
    let log = "[log]\naccess = \"stdout\"\n";
    let node = Node::start(&format!("{log}{}", site(&[port.address], "", UNCACHED)));
    assert_eq!(node.request("POST", "/a", &[], "x").status, 502);
    let line = eventually("the line", || node.stdout().lines().next().map(str::to_owned));
    let origin = format!("cannot connect to origin {}", port.address);
    assert!(line.contains(&origin) && line.contains("\"status\":502"), "{line}");
    let told = node.wait_for_log("no answer from the origin");
    for part in [origin.as_str(), "method=POST", "path=\"/a\"", "client=127.0.0.1"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// `stream_timeout` holds for what is cached, too: an event stream is not known as one before it is there.
#[test]
fn a_stream_may_be_silent_as_long_as_its_route_says() {
    let address = raw_origin(|_, mut stream| {
        read_head(&mut stream);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n";
        stream.write_all(format!("{head}data: 1\n\n").as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(600)); // the silence
        let _ = stream.write_all(b"data: 2\n\n");
    });
    let cached = "[[site.shop.route]]\npath = \"/cached\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let short = "[[site.shop.route]]\npath = \"/short\"\npool = \"app\"\nstream_timeout = \"250ms\"\n";
    let pool = "read_timeout = \"250ms\"\nstream_timeout = \"5s\"\n";
    let node = node(&[address], "", pool, &format!("{cached}{short}{UNCACHED}"));
    for (path, is_whole) in [("/cached", true), ("/a", true), ("/short", false)] {
        let response = node.get(path);
        assert_eq!((response.status, response.text().contains("data: 2")), (200, is_whole), "{path}");
    }
}

/// Whoever gets a request after others have failed gets all of it.
#[test]
fn what_is_sent_again_has_its_body_however_the_others_have_failed() {
    let failing = Origin::start(|_| Reply::status(503, &[], ""));
    let port = DeadPort::new();
    let sound = Origin::start(|request| Reply::ok(&[], &request.body));
    let origins = [failing.address, port.address, sound.address];
    for turn in 0..3 {
        let node =
            node(&[origins[turn], origins[(turn + 1) % 3], origins[(turn + 2) % 3]], "", "retries = 2\n", UNCACHED);
        for body in ["Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"] {
            let mut client = node.client();
            client.send(format!("PUT /a HTTP/1.1\r\nHost: a\r\n{body}"));
            let response = client.response("PUT");
            assert_eq!((response.status, response.text().as_str()), (200, "body"), "{turn}");
        }
    }
}

/// A stream that ends without its end is no whole answer, whatever reason is given; and another stream's end is no reason to
/// send a request again and again.
#[test]
fn streams_that_origins_reset_are_no_answers_and_are_not_repeated() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let address = raw_origin(move |_, stream| {
        stream.set_nonblocking(true).unwrap();
        let counted = counted.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut connection = ::h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let head = http::Response::builder().status(200);
                match request.uri().path() {
                    "/first" => _ = respond.send_response(head.body(()).unwrap(), true),
                    "/reset" => respond.send_reset(::h2::Reason::INTERNAL_ERROR),
                    path => {
                        let head = if path == "/stated" { head.header("content-length", 40) } else { head };
                        let mut send = respond.send_response(head.body(()).unwrap(), false).unwrap();
                        send.send_data("part".into(), false).unwrap();
                        tokio::spawn(async move {
                            tokio::time::sleep(Duration::from_millis(50)).await; // the data goes first
                            send.send_reset(::h2::Reason::NO_ERROR);
                            drop(request);
                        });
                    }
                }
            }
        });
    });
    let node = node(&[address], "", "protocol = \"h2\"\n", UNCACHED);
    assert_eq!(node.get("/first").status, 200); // so that the connection is a kept one
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(node.get("/reset").status, 502);
    assert_eq!(asked.load(Ordering::SeqCst) - before, 1, "sent once");
    for path in ["/stated", "/unstated"] {
        let mut client = node.client();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"));
        let response = client.response("POST");
        assert!(!response.complete, "{path}: {}", response.head);
        assert!(client.is_closed(), "{path}: nothing may follow");
    }
}
