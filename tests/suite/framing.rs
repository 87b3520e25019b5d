//! Requests that could be read in two ways are refused, and nothing of them reaches the origin.

use crate::harness::node::Protocol;
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Reply, Step, eventually};

fn refusing_node() -> (Node, Origin) {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "ok"));
    let routes = "[[site.shop.route]]\npath = \"/cached/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n\
        [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    let config = format!(
        "[limits]\nheader_timeout = \"300ms\"\nkeepalive_timeout = \"300ms\"\n{}",
        crate::harness::node::site(&[origin.address], "", routes)
    );
    (Node::start(&config), origin)
}

#[test]
fn malformed_requests_are_refused_and_the_origin_never_sees_them() {
    let (node, origin) = refusing_node();
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    let fat = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("\x16\x03\x01\x02\x00\x01\n\n", 400),
        (&long, 414),
        (&fat, 431),
    ] {
        let mut client = node.client();
        client.try_send(request);
        // A request behind it must not be served either.
        client.try_send("GET /cached/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.response("GET");
        assert_eq!(response.status, status, "{request:?}");
        assert_eq!(response.field("connection"), Some("close"), "{request:?}");
        assert!(response.text().starts_with(&status.to_string()), "a body says why: {}", response.text());
        assert!(client.is_closed(), "{request:?}");
    }
    assert_eq!(origin.count(), 0);
    assert!(node.metric("seawall_refused_requests_total{status=\"400\"}").unwrap() >= 10.0);
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let (node, origin) = refusing_node();
    let mut silent = node.client();
    assert!(silent.is_closed());
    let mut slow = node.client();
    slow.send("GET / HTTP/1.1\r\nHost: a\r\n");
    assert_eq!(slow.response("GET").status, 408);
    assert!(slow.is_closed());
    let mut idle = node.client();
    assert_eq!(idle.get("/cached/a", &[]).status, 200);
    assert!(idle.is_closed(), "an idle connection ends after keepalive_timeout");
    assert_eq!(origin.count(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order_whichever_way_they_go() {
    let origin = Origin::start(|request| Reply::ok(&["Cache-Control: max-age=60"], request.path()));
    let routes = "[[site.shop.route]]\npath = \"/cached/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n\
        [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    let node = Node::with_routes(&[origin.address], routes);
    let mut client = node.client();
    let paths = ["/cached/a", "/passed/b", "/cached/a", "/passed/c", "/cached/d"];
    let mut all = String::new();
    for path in paths {
        all += &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    all +=
        "POST /passed/e HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /cached/f HTTP/1.1\r\nHost: a\r\n\r\n";
    all += "POST /passed/g HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
    all += "GET /passed/h HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(all);
    for path in paths.iter().chain(&["/passed/e", "/cached/f", "/passed/g", "/passed/h"]) {
        let response = client.response("GET");
        assert_eq!((response.status, response.text().as_str()), (200, *path));
    }
    for path in ["/passed/e", "/passed/g"] {
        let posted = origin.requests().into_iter().find(|request| request.path() == path).unwrap();
        assert_eq!(posted.text(), "abc");
    }
}

#[test]
fn a_truncated_body_never_reaches_the_origin_as_a_whole_one() {
    let (node, origin) = refusing_node();
    for (request, there) in [
        ("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", "half"),
        ("POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "half"),
        ("POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfXX\r\n", ""),
    ] {
        let before = origin.count();
        let mut client = node.client();
        client.send(request);
        client.finish();
        client.read_some();
        // What has begun is over, and the origin has seen the end of it: it has dealt with all before this.
        eventually("the end of the request", || (node.origin("app", origin.address)["active"] == 0).then_some(()));
        assert_eq!(node.request("POST", "/p", &[], "whole").status, 200);
        eventually("what came after it", || {
            origin.requests().iter().skip(before).any(|request| request.text() == "whole").then_some(())
        });
        // Whether the origin saw the beginning is a matter of time; a whole request it must never see.
        let mut later = origin.requests();
        later.retain(|request| request.text() != "whole");
        let whole: Vec<_> =
            later.into_iter().filter(|request| request.complete && request.head.starts_with("POST")).collect();
        assert!(whole.is_empty(), "{request:?} ({there}): {whole:?}");
    }
}

/// What a GET with a body is about no key knows (RFC 9110 section 9.3.1).
#[test]
fn a_get_with_a_body_is_passed_on_with_it() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| Reply::ok(&["Cache-Control: max-age=60"], &request.body));
        let routes = "[[site.shop.route]]\npath = \"/none/*\"\npool = \"app\"\nmax_body = 0\n\
            cache = { mode = \"respect\" }\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
        let node = Node::speaking(protocol, &[origin.address], routes);
        assert!(node.get("/a").cache().contains("stored") && node.get("/a").is_hit());
        for body in ["one", "other"] {
            let response = node.request("GET", "/a", &[], body);
            assert_eq!((response.status, response.text().as_str()), (200, body), "{protocol:?}");
            assert!(response.cache().contains("detail=request-body"), "{}", response.cache());
        }
        assert_eq!(node.request("GET", "/none/a", &[], "x").status, 413, "{protocol:?}");
        assert!(node.get("/a").is_hit());
    }
}

#[test]
fn bodies_of_what_is_answered_here_are_drained_or_end_the_connection() {
    let (node, origin) = refusing_node();
    let head = |length: &str| format!("PURGE /a HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n");
    let mut client = node.client();
    for _ in 0..2 {
        client.send(format!("{}GET /", head("Content-Length: 5")));
        assert_eq!(client.response("PURGE").status, 403);
    }
    client.send(format!("{}0\r\n\r\n", head("Transfer-Encoding: chunked")));
    assert_eq!(client.response("PURGE").field("connection"), Some("close"));
    let mut large = node.client();
    large.send(head(&format!("Content-Length: {}", 1 << 30)));
    assert_eq!(large.response("PURGE").field("connection"), Some("close"));
    assert_eq!(origin.count(), 0);
}

#[test]
fn http_1_0_and_closing_are_honoured() {
    let (node, _origin) = refusing_node();
    let mut old = node.client();
    old.send("GET /cached/a HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(old.response("GET").field("connection"), Some("close"));
    assert!(old.is_closed());
    let mut kept = node.client();
    for _ in 0..2 {
        kept.send("GET /cached/a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(kept.response("GET").field("connection"), Some("keep-alive"));
    }
    let mut closing = node.client();
    assert_eq!(closing.get("/cached/a", &["Connection: close"]).status, 200);
    assert!(closing.is_closed());
}

#[test]
fn a_body_that_the_origin_did_not_wait_for_is_never_taken_for_a_request() {
    let smuggled = "GET /cached/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    // Answers from the head alone, as servers do that refuse an upload.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in listener.incoming().flatten() {
            let mut space = [0; 4096];
            let read = stream.read(&mut space).unwrap_or(0);
            let _ = sender.send(String::from_utf8_lossy(&space[..read]).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        }
    });
    let routes = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    let node = Node::with_routes(&[address], routes);
    let mut client = node.client();
    client.send("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    assert_eq!(client.response("POST").status, 403);
    client.try_send(smuggled);
    client.finish();
    while !client.is_closed() {
        let more = client.read_some();
        assert!(more.is_empty(), "{}", String::from_utf8_lossy(&more));
    }
    drop(node);
    for head in heads.try_iter() {
        assert!(!head.contains("GET /cached/smuggled"), "{head}");
    }
}

/// What an origin sends behind a response that has no body is nobody's, least of all the next one's.
#[test]
fn a_body_that_comes_late_is_no_response() {
    const POISON: &[u8] = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 6\r\n\r\npoison";
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |request| {
        let length = format!("Content-Length: {}", POISON.len());
        let late = |status| {
            let head = Reply::head(status, &["ETag: \"a\"", &length]);
            vec![Step::Send(head), Step::Wait(opened.clone()), Step::Send(POISON.to_vec())]
        };
        match (request.head.starts_with("HEAD"), request.field("if-none-match")) {
            (true, _) => late(200),
            (false, Some(_)) => late(304),
            (false, None) => Reply::ok(&["Cache-Control: max-age=0", "ETag: \"a\""], "fine"),
        }
    });
    let routes = "[[site.shop.route]]\npath = \"/passed/*\"\npool = \"app\"\n\
        [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let node = Node::start(&crate::harness::node::site(&[origin.address], "", routes));
    node.get("/a");
    assert_eq!(node.get("/a").text(), "fine", "validated");
    let mut client = node.client();
    client.send("HEAD /passed/a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert_eq!(client.response("HEAD").status, 200);
    gate.open();
    for number in 0..20 {
        let path = format!("/{}{number}", if number % 2 == 0 { "passed/" } else { "" });
        assert_eq!(node.get(&path).text(), "fine", "{path}");
    }
}

/// Whether the body comes with its head or after it, and whatever the origin would make of it.
#[test]
fn bodies_that_are_not_chunked_as_they_say_are_refused_at_once() {
    let (node, origin) = refusing_node();
    for body in [
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\njunk\r\n\r\n",
        "5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        "5\r\nhello\r\n0\r\nname : value\r\n\r\n",
        "5\r\nhello\r\n-0\r\n\r\n",
    ] {
        for apart in [false, true] {
            let head = "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut client = node.client();
            if apart {
                client.send(head);
                client.send("1\r\nx\r\n");
                let is_asked = || node.origin("app", origin.address)["active"] == 1;
                eventually("the origin to be asked", || is_asked().then_some(()));
                client.send(body);
            } else {
                client.send(format!("{head}{body}"));
            }
            let response = client.response("POST");
            assert_eq!(response.status, 400, "{body:?} {apart}: {}", response.text());
            assert!(client.is_closed(), "{body:?} {apart}");
            eventually("the end of it", || (node.origin("app", origin.address)["active"] == 0).then_some(()));
            assert!(origin.requests().iter().all(|request| !request.complete), "{body:?} {apart}");
        }
    }
}

#[test]
fn later_versions_of_http_1_and_empty_lines_before_a_request_are_taken() {
    let (node, origin) = refusing_node();
    let mut client = node.client();
    for request in ["GET /p HTTP/1.2\r\nHost: a\r\n\r\n", "\r\n\r\n\r\nGET /p HTTP/1.1\r\nHost: a\r\n\r\n"] {
        client.send(request);
        assert_eq!(client.response("GET").status, 200, "{request:?}");
    }
    assert!(origin.requests().iter().all(|request| request.head.starts_with("GET /p HTTP/1.1\r\n")));
}

/// What a client sends behind its last request must not cost it the response (RFC 9112 section 9.6).
#[test]
fn the_last_response_is_whole_whatever_comes_behind_its_request() {
    const LENGTH: usize = 2_000_000;
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; LENGTH]));
    let node = Node::caching(origin.address);
    node.get("/hit");
    let close = "Host: shop.example\r\nConnection: close\r\n";
    for (path, request) in [
        ("/post", format!("POST /post HTTP/1.1\r\n{close}Content-Length: 1\r\n\r\nx\r\n")),
        ("/hit", format!("GET /hit HTTP/1.1\r\n{close}\r\nGET /hit HTTP/1.1\r\n")),
        ("/passed", format!("GET /passed HTTP/1.1\r\n{close}Cookie: a\r\n\r\nGET /")),
    ] {
        let logged = node.stdout().matches(&format!("\"{path}\"")).count();
        let mut client = node.client();
        client.send(request);
        // It has left the node: now it is the kernel's, and would be lost with a reset.
        eventually("the answer", || (node.stdout().matches(&format!("\"{path}\"")).count() > logged).then_some(()));
        let response = client.response("GET");
        assert!(response.complete && response.body.len() == LENGTH, "{path}: {}", response.body.len());
    }
}
