//! What the cache does not answer: bodies, upgrades, errors of origins.

use crate::harness::node::{Protocol, site};
use crate::harness::origin::{DeadPort, Gate};
use crate::harness::{Client, Node, Origin, Reply, Step, eventually};

const UNCACHED: &str = "[[site.shop.route]]\npath = \"/small/*\"\npool = \"app\"\nmax_body = \"10B\"\n\
    [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";

fn echo() -> Origin {
    Origin::start(|request| Reply::ok(&[], &request.body))
}

#[test]
fn bodies_of_either_framing_arrive_whole() {
    let origin = echo();
    let node = Node::with_routes(&[origin.address], UNCACHED);
    let mut client = node.client();
    let long = "x".repeat(1_000_000);
    assert_eq!(client.request("POST", "/a", &[], &long).text(), long);
    client
        .send("PUT /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    assert_eq!(client.response("PUT").text(), "hello world");
    assert_eq!(client.request("DELETE", "/c", &[], "").status, 200);
    assert_eq!(origin.count(), 3);
    assert!(origin.requests()[2].head.starts_with("DELETE /c "));
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let origin = echo();
    let node = Node::with_routes(&[origin.address], UNCACHED);
    let mut client = node.client();
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send("hello");
    assert_eq!(client.response("POST").text(), "hello");
}

#[test]
fn the_limit_of_a_body_holds_for_either_framing() {
    let origin = echo();
    let node = Node::with_routes(&[origin.address], UNCACHED);
    assert_eq!(node.client().request("POST", "/small/a", &[], "0123456789").text(), "0123456789");
    assert_eq!(node.client().request("POST", "/small/a", &[], "0123456789+").status, 413);
    let mut chunked = node.client();
    chunked
        .send("POST /small/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789+\r\n0\r\n\r\n");
    assert_eq!(chunked.response("POST").status, 413);
    let whole = origin.requests().into_iter().filter(|request| request.complete).count();
    assert_eq!(whole, 1, "the origin never saw a shorter body as a whole one");
}

#[test]
fn websockets_pass_after_the_origins_101_only() {
    let origin = Origin::start(|request| {
        if request.path() == "/refused" {
            return Reply::status(403, &[], "no");
        }
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("sec-websocket-key"), Some("a2V5"));
        let fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: x"];
        vec![Step::Send(Reply::head(101, &fields)), Step::Echo]
    });
    let node = Node::with_routes(&[origin.address], UNCACHED);
    let handshake = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: a2V5\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
    };
    let mut client = node.client();
    client.send(handshake("/ws"));
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for message in ["ping", "pong"] {
        client.send(message);
        assert_eq!(client.read_some(), message.as_bytes());
    }
    let mut refused = node.client();
    refused.send(handshake("/refused"));
    assert_eq!(refused.response("GET").status, 403);
    assert_eq!(refused.get("/refused", &[]).status, 403, "the connection goes on as it was");
}

#[test]
fn a_site_and_a_client_have_as_many_tunnels_as_they_may() {
    let origin = Origin::start(|request| match request.field("upgrade") {
        Some(_) => vec![Step::Send(Reply::head(101, &["Connection: Upgrade", "Upgrade: echo"])), Step::Echo],
        None => Reply::ok(&[], "plain"),
    });
    let site = format!("max_tunnels = 3\nmax_tunnels_per_client = 2\n{UNCACHED}");
    let node = Node::with_routes(&[origin.address], &site);
    let open = |last: u8| {
        let mut client = Client::connect_from([127, 0, 0, last], node.address());
        client.send("GET /t HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
        let head = client.head();
        (head[9..12].parse::<u16>().unwrap(), client)
    };
    let own: Vec<_> = (0..2).map(|_| open(2)).collect();
    assert!(own.iter().all(|(status, _)| *status == 101));
    assert_eq!(open(2).0, 429);
    assert_eq!(Client::connect_from([127, 0, 0, 2], node.address()).get("/", &[]).text(), "plain", "no tunnel");
    let other = open(3);
    assert_eq!((other.0, open(4).0), (101, 503));
    assert_eq!(origin.requests().iter().filter(|request| request.field("upgrade").is_some()).count(), 3);
    assert_eq!(node.metric("seawall_site_tunnels{site=\"shop\"}"), Some(3.0));
    drop(own);
    eventually("there is room again", || (open(4).0 == 101).then_some(()));
}

#[test]
fn a_tunnel_carries_what_came_early_and_ends_when_both_are_silent() {
    let origin = Origin::start(|_| {
        let head = Reply::head(101, &["Connection: Upgrade", "Upgrade: echo"]);
        vec![Step::Send([&head[..], b"hello"].concat()), Step::Echo]
    });
    let pool = "tunnel_timeout = \"200ms\"\nhealth = { interval = \"1h\" }\n";
    let node = Node::start(&format!("[log]\naccess = \"stdout\"\n{}", site(&[origin.address], pool, UNCACHED)));
    let mut client = node.client();
    client.send("GET /t HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly");
    let head = client.head();
    assert!(head.contains("upgrade: echo\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    let mut all = Vec::new();
    while all.len() < 10 {
        all.extend(client.read_some());
    }
    assert_eq!(all, b"helloearly");
    assert!(client.is_closed(), "neither side sent anything more");
    let line = eventually("the tunnel's log line", || node.stdout().lines().next().map(str::to_owned));
    assert!(line.contains("\"status\":101,\"bytes\":10,") && line.contains("neither side sent anything"), "{line}");
}

#[test]
fn each_failure_of_an_origin_has_its_status() {
    let origin = Origin::start(|request| match request.path() {
        "/silent" => vec![Step::Wait(Default::default())],
        "/closed" => vec![Step::Close],
        "/garbage" => vec![Step::Send(b"this is not HTTP\r\n\r\n".to_vec()), Step::Close],
        "/badlength" => vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".to_vec()), Step::Close],
        _ => Reply::ok(&[], ""),
    });
    let port = DeadPort::new();
    let unused = port.address;
    let route = |path: &str, pool: &str, cache: &str| {
        format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"{pool}\"\ncache = {{ mode = \"{cache}\" }}\n")
    };
    let config = format!(
        "[pool.app]\norigins = [\"{}\"]\nread_timeout = \"300ms\"\n[pool.dead]\norigins = [\"{unused}\"]\n\
         [pool.down]\norigins = [\"{unused}\"]\nhealth = {{ interval = \"10ms\", fall = 1 }}\n\
         [site.shop]\nhosts = [\"*\"]\n{}{}{}{}{}{}",
        origin.address,
        route("/cached/dead*", "dead", "respect"),
        route("/cached/down*", "down", "respect"),
        route("/dead*", "dead", "off"),
        route("/down*", "down", "off"),
        route("/cached/*", "app", "respect"),
        route("/*", "app", "off"),
    );
    let node = Node::start(&config);
    node.wait_for_origin("down", unused, "down");
    for (path, status) in
        [("/silent", 504), ("/closed", 502), ("/garbage", 502), ("/badlength", 502), ("/dead", 502), ("/down", 503)]
    {
        for prefix in ["", "/cached"] {
            let path = if path.starts_with("/d") { format!("{prefix}{path}") } else { path.to_owned() };
            let response = node.get(&path);
            assert_eq!(response.status, status, "{path}: {}", response.text());
            assert!(response.text().starts_with(&format!("{status} ")) && response.text().len() < 100);
            assert!(!response.text().contains("127.0.0.1"), "no names from inside: {}", response.text());
        }
    }
}

#[test]
fn responses_are_told_where_they_came_from() {
    let origin = Origin::start(|_| Reply::ok(&["Surrogate-Key: a", "Connection: X-Hop", "X-Hop: 1"], "x"));
    let node = Node::with_routes(&[origin.address], UNCACHED);
    let response = node.client().request("POST", "/a", &["X-Forwarded-For: 9.9.9.9", "X-Forwarded-Host: evil"], "x");
    assert_eq!(response.cache(), "seawall; fwd=bypass");
    assert_eq!(response.field("via"), Some("1.1 seawall"));
    assert_eq!((response.field("surrogate-key"), response.field("x-hop")), (None, None));
    let request = &origin.requests()[0];
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.field("x-forwarded-host"), Some("shop.example"));
    assert_eq!(request.field("via"), Some("1.1 seawall"));
}

#[test]
fn an_ordinary_client_library_is_served() {
    let origin = echo();
    let node = Node::with_routes(&[origin.address], UNCACHED);
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    for (path, body, status) in [("/a", "hello", 200), ("/small/a", "0123456789+", 413)] {
        let url = format!("http://{}{path}", node.address());
        let mut response = agent.post(&url).content_type("text/plain").send(body).unwrap();
        assert_eq!(response.status(), status, "{path}");
        let text = response.body_mut().read_to_string().unwrap();
        assert_eq!(text == body, status == 200, "{text}");
    }
}

#[test]
fn http_1_0_gets_a_body_that_ends_with_the_connection() {
    let origin = Origin::start(|request| {
        let chunked = Reply::head(200, &["Transfer-Encoding: chunked"]);
        let end: &[u8] = if request.path() == "/broken" { b"" } else { b"0\r\n\r\n" };
        vec![Step::Send([&chunked, &b"5\r\nhello\r\n"[..], end].concat()), Step::Close]
    });
    let node = Node::with_routes(&[origin.address], UNCACHED);
    let ask = |path: &str| {
        let mut client = node.client();
        client.send(format!("GET {path} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"));
        client
    };
    let mut client = ask("/whole");
    let response = client.response("GET");
    assert_eq!((response.field("transfer-encoding"), response.field("connection")), (None, Some("close")));
    assert_eq!(response.text(), "hello");
    assert!(!ask("/whole").ends_by_reset());
    assert!(ask("/broken").ends_by_reset(), "a part is not taken for the whole");
}

#[test]
fn an_interim_response_is_no_answer() {
    let early = Reply::head(103, &["Link: </a.css>; rel=preload"]);
    let failing = Origin::start(move |_| vec![Step::Send(early.clone()), Step::Close]);
    let sound = Origin::start(|_| Reply::ok(&[], "sound"));
    let node = Node::with_routes(&[failing.address], UNCACHED);
    let answers = |node: &Node, method: &str| {
        let mut client = node.client();
        client.send(format!("{method} /a HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(client.head().starts_with("HTTP/1.1 103 "));
        client.response(method).status
    };
    assert_eq!(answers(&node, "POST"), 502);
    assert_eq!(node.origin("app", failing.address)["failures"], 1, "what is not sent again has failed, too");
    let node = Node::with_routes(&[failing.address, sound.address], UNCACHED);
    assert_eq!(answers(&node, "GET"), 200);
}

#[test]
fn an_upgrade_to_h2c_is_not_made_and_the_request_is_served() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "by HTTP/1.1"));
    let node = Node::caching(origin.address);
    let fields = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"];
    for path in ["/a", "/a", "/b"] {
        assert_eq!(node.get_with(path, &fields).text(), "by HTTP/1.1");
    }
    assert_eq!(origin.count(), 2);
    for request in origin.requests() {
        assert!(request.field("upgrade").is_none() && request.field("http2-settings").is_none());
    }
}

/// One connection to the origin serves them all: whatever has no body, and announces none, gives it back as well.
#[test]
fn connections_to_origins_are_used_again() {
    let origin = Origin::start(|request| match request.path() {
        _ if request.head.starts_with("HEAD ") => Reply::head_only(200, &["ETag: \"e\""]),
        "/none" => Reply::head_only(204, &[]),
        "/same" => Reply::head_only(304, &["ETag: \"e\""]),
        _ => Reply::ok(&["ETag: \"e\""], "body"),
    });
    let node = Node::with_routes(&[origin.address], UNCACHED);
    for _ in 0..3 {
        for (method, path) in [("GET", "/a"), ("HEAD", "/a"), ("OPTIONS", "/none"), ("GET", "/same"), ("GET", "/b")] {
            let response = node.request(method, path, &["If-None-Match: \"e\""], "");
            assert!(response.status < 400 && response.field("date").is_some(), "{method} {path}: {}", response.head);
        }
    }
    assert_eq!(origin.connections(), 1);
}

/// What comes after a 101 that nobody asked for is no HTTP: the client must see neither.
#[test]
fn an_upgrade_that_nobody_asked_for_is_no_answer() {
    let origin = Origin::start(|_| {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec();
        [vec![Step::Send(head)], Reply::ok(&[], "evil")].concat()
    });
    for protocol in [Protocol::H1, Protocol::H2] {
        let node = Node::speaking(protocol, &[origin.address], UNCACHED);
        for method in ["GET", "POST"] {
            let response = node.request(method, "/a", &[], "");
            assert_eq!(response.status, 502, "{protocol:?} {method}");
            assert!(!response.head.contains(" 101 ") && !response.text().contains("evil"), "{}", response.head);
        }
    }
}

/// RFC 9110 section 15.4.5.
#[test]
fn a_304_to_a_request_without_a_condition_is_no_answer() {
    let origin = Origin::start(|_| vec![Step::Send("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".into())]);
    let cached = "[[site.shop.route]]\npath = \"/cached/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    for protocol in [Protocol::H1, Protocol::H2] {
        let node = Node::speaking(protocol, &[origin.address], &format!("{cached}{UNCACHED}"));
        for (method, path) in [("GET", "/cached/a"), ("GET", "/a"), ("POST", "/a")] {
            assert_eq!(node.request(method, path, &[], "").status, 502, "{protocol:?} {method} {path}");
        }
        assert_eq!(node.request("GET", "/a", &["If-None-Match: \"a\""], "").status, 304);
    }
}

#[test]
fn a_length_of_nothing_is_no_body() {
    let origin = Origin::start(|request| match request.field("upgrade") {
        Some(_) => {
            vec![Step::Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n".into())]
        }
        None => Reply::ok(&[], "ok"),
    });
    let node = Node::with_routes(&[origin.address], UNCACHED);
    let fields = ["Content-Length: 0", "Connection: upgrade", "Upgrade: echo"];
    let mut client = node.client();
    client.send(format!("GET /t HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", fields.join("\r\n")));
    assert!(client.read_some().starts_with(b"HTTP/1.1 101 "));
    let response = node.request("GET", "/a", &["Content-Length: 0", "Expect: 100-continue"], "");
    assert_eq!(response.status, 200);
    let plain = &origin.requests()[1];
    assert_eq!((plain.field("content-length"), plain.field("expect")), (None, None), "{}", plain.head);
}

/// However many connections an origin has closed without a word, the next request gets its answer.
#[test]
fn connections_that_died_meanwhile_cost_no_request() {
    let origin = Origin::start(|request| match request.path() {
        // Looks kept, and is closed as soon as the next request comes.
        "/first" => [Reply::ok(&[], "x"), vec![Step::Close]].concat(),
        _ => Reply::ok(&[], "x"),
    });
    let node = Node::with_routes(&[origin.address], UNCACHED);
    std::thread::scope(|scope| {
        (0..12).for_each(|_| drop(scope.spawn(|| assert_eq!(node.get("/first").status, 200))));
    });
    for _ in 0..5 {
        assert_eq!(node.get("/next").status, 200);
    }
}

/// Whoever sends no more may wait for an answer all the same.
#[test]
fn a_client_that_has_ended_its_side_is_answered() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin =
        Origin::start(move |request| [vec![Step::Wait(for_origin.clone())], Reply::ok(&[], &request.body)].concat());
    let node = Node::with_routes(&[origin.address], UNCACHED);
    for (number, body) in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
            .into_iter()
            .enumerate()
    {
        let mut client = node.client();
        client.send(format!("POST /a HTTP/1.1\r\nHost: a\r\n{body}"));
        client.finish();
        origin.wait_for(number + 1);
        gate.open();
        let response = client.response("POST");
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        assert!(client.is_closed());
    }
}

/// An origin may say often that it is still at it. Some of that is passed on.
#[test]
fn very_many_interim_responses_do_no_harm_to_the_answer() {
    let still = Reply::head(102, &[]);
    let origin = Origin::start(move |_| [vec![Step::Send(still.repeat(30))], Reply::ok(&[], "done")].concat());
    let node = Node::with_routes(&[origin.address], UNCACHED);
    let mut client = node.client();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    let heads: Vec<String> = (0..9).map(|_| client.head()).collect();
    assert!(heads[..8].iter().all(|head| head.starts_with("HTTP/1.1 102 ")), "{heads:?}");
    assert!(heads[8].starts_with("HTTP/1.1 200 "), "{heads:?}");
}

/// What a route says of time goes before what its pool says, for fills as for what is passed on.
#[test]
fn routes_have_timeouts_of_their_own() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::start(move |_| vec![Step::Wait(waits.clone()), Step::Close]);
    for protocol in Protocol::ALL {
        let route =
            |path: &str, more: &str| format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\n{more}\n");
        let routes = route("/read", "read_timeout = \"100ms\"")
            + &route("/total", "total_timeout = \"100ms\"")
            + &route("/cached", "read_timeout = \"100ms\"\ncache = { mode = \"respect\" }");
        let node = Node::speaking(protocol, &[origin.address], &routes);
        for path in ["/read", "/total", "/cached"] {
            let answer = node.get(path);
            assert_eq!(
                (answer.status, answer.field("proxy-status")),
                (504, Some("seawall; error=http_response_timeout"))
            );
        }
        node.wait_for_log("total_timeout is over");
    }
    gate.open();
}
