//! The transfer from the origin: one for any number of readers, at nobody's pace but the origin's.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::node::site;
use crate::harness::origin::Gate;
use crate::harness::{Client, Node, Origin, Reply, Step, eventually};

const ROUTE: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

/// The head of a cacheable response of known length, then its body in two parts with a gate between them.
fn in_two_parts(length: usize, gate: &Gate) -> Vec<Step> {
    let fields = ["Cache-Control: max-age=60".to_owned(), format!("Content-Length: {length}")];
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let half = length / 2;
    vec![
        Step::Send(Reply::head(200, &fields)),
        Step::Send(vec![b'a'; half]),
        Step::Wait(gate.clone()),
        Step::Send(vec![b'b'; length - half]),
    ]
}

#[test]
fn a_thousand_simultaneous_requests_for_a_cold_key_make_one_origin_request() {
    const CROWD: usize = 1000;
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| {
        let mut steps = vec![Step::Wait(for_origin.clone())];
        steps.extend(Reply::ok(&["Cache-Control: max-age=60"], "one for all"));
        steps
    });
    let node = Node::caching(origin.address);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| node.client()).collect();
    for client in &mut clients {
        client.send("GET /cold HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    }
    origin.wait_for(1);
    gate.open();
    let mut collapsed = 0;
    for client in &mut clients {
        let response = client.response("GET");
        assert_eq!((response.status, response.text().as_str()), (200, "one for all"));
        collapsed += usize::from(response.cache().contains("collapsed") || response.is_hit());
    }
    assert_eq!(collapsed, CROWD - 1);
    assert_eq!(origin.count(), 1);
}

#[test]
fn followers_stream_while_the_fill_runs() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| in_two_parts(100_000, &for_origin));
    let node = Node::caching(origin.address);
    let mut clients = [node.client(), node.client()];
    for client in &mut clients {
        client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        client.head();
        assert!(client.read_some().starts_with(b"aaa"), "the first bytes come before the last are there");
    }
    let mut ranged = node.client();
    ranged.send("GET /a HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9\r\n\r\n");
    assert_eq!(ranged.response("GET").text(), "aaaaaaaaaa", "a range is there as soon as its bytes are");
    gate.open();
    for client in &mut clients {
        let mut seen = Vec::new();
        while !seen.ends_with(b"b") {
            seen.extend(client.read_some());
        }
    }
    eventually("a hit", || node.get_with("/a", &["Host: a"]).is_hit().then_some(()));
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_client_that_leaves_does_not_end_the_fill() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| in_two_parts(100_000, &for_origin));
    let node = Node::caching(origin.address);
    let mut client = node.client();
    client.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    client.head();
    drop(client);
    gate.open();
    eventually("the stored object", || {
        let response = node.get("/a");
        (response.is_hit() && response.body.len() == 100_000).then_some(())
    });
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; 4 << 20]));
    let node = Node::caching(origin.address);
    let mut stuck = node.client();
    stuck.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(1);
    let other = node.get("/a");
    assert_eq!((other.body.len(), other.complete), (4 << 20, true));
    assert_eq!(origin.count(), 1);
}

#[test]
fn fills_hold_no_more_than_their_buffer_however_many_there_are() {
    const LENGTH: usize = 2 << 20;
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| {
        let head = Reply::head(200, &["Cache-Control: max-age=60", &format!("Content-Length: {LENGTH}")]);
        let most = vec![b'x'; LENGTH - 1];
        vec![Step::Send([head, most].concat()), Step::Wait(for_origin.clone()), Step::Send(b"x".to_vec())]
    });
    let memory = "[cache.memory]\nmax_size = \"64MiB\"\nfill_buffer = \"8MiB\"\n";
    let node = Node::start(&format!("{memory}{}", site(&[origin.address], "", ROUTE)));
    let address = node.address();
    let clients: Vec<_> = (0..30)
        .map(|number| std::thread::spawn(move || Client::connect(address).get(&format!("/{number}"), &[])))
        .collect();
    origin.wait_for(30);
    let held = || {
        let cache = node.admin("GET", "/v1/status", "").1["cache"].clone();
        assert_eq!(cache["fill_buffer"]["max_bytes"], 8 << 20);
        cache["fill_buffer"]["bytes"].as_u64().unwrap()
    };
    // A piece more for each fill, and the narrow window.
    let most = (8 << 20) + 30 * (2 * (64 << 10));
    for _ in 0..20 {
        let now = held();
        assert!(now <= most, "{now}");
        // And from outside: what the process has, not only what it counts.
        let resident = node.resident();
        assert!(resident <= (64 + 8 + 64) << 20, "{} MiB", resident >> 20);
    }
    gate.open();
    for response in clients.into_iter().map(|client| client.join().unwrap()) {
        assert!(response.complete && response.body.len() == LENGTH, "{}", response.head);
    }
    eventually("all is given back", || (held() == 0).then_some(()));
    let reason = node.metric("seawall_not_stored_total{reason=\"fill-buffer\"}").unwrap();
    let stored = (0..30).filter(|number| node.get(&format!("/{number}")).is_hit()).count();
    assert!(stored >= 3 && reason >= 10.0, "{stored} {reason}");
}

#[test]
fn what_is_cut_short_is_an_error_for_the_client_and_never_stored() {
    let origin = Origin::start(|request| match request.path() {
        "/length" => vec![
            Step::Send(Reply::head(200, &["Cache-Control: max-age=60", "Content-Length: 10"])),
            Step::Send(b"short".to_vec()),
            Step::Close,
        ],
        "/chunked" => vec![
            Step::Send(Reply::head(200, &["Cache-Control: max-age=60", "Transfer-Encoding: chunked"])),
            Step::Send(b"5\r\nshort\r\n".to_vec()),
            Step::Close,
        ],
        _ => vec![
            Step::Send(Reply::head(200, &["Cache-Control: max-age=60", "Transfer-Encoding: chunked"])),
            Step::Send(b"5\r\nshort\r\nnonsense\r\n".to_vec()),
            Step::Close,
        ],
    });
    let node = Node::caching(origin.address);
    for path in ["/length", "/chunked", "/broken"] {
        for _ in 0..2 {
            let response = node.get(path);
            assert!(!response.complete, "{path}: {response:?}");
            assert!(!response.is_hit(), "{path}");
        }
    }
    // HTTP/1.0 has no other sign of the end than the end: it must be a reset, not an orderly one.
    let mut old = node.client();
    old.send("GET /chunked HTTP/1.0\r\nHost: shop.example\r\n\r\n");
    assert_eq!(old.head().lines().next(), Some("HTTP/1.1 200 OK"));
    assert!(old.ends_by_reset());
}

#[test]
fn a_body_without_length_is_chunked_for_new_clients_and_ends_the_connection_for_old_ones() {
    let origin = Origin::start(|_| {
        vec![
            Step::Send(Reply::head(200, &["Cache-Control: max-age=60", "Transfer-Encoding: chunked"])),
            Step::Send(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n".to_vec()),
        ]
    });
    let node = Node::caching(origin.address);
    let miss = node.get("/a");
    assert_eq!((miss.text().as_str(), miss.complete), ("hello world", true));
    let hit = node.get("/a");
    assert_eq!((hit.text().as_str(), hit.field("content-length")), ("hello world", Some("11")));
    let mut old = node.client();
    old.send("GET /b HTTP/1.0\r\nHost: shop.example\r\nConnection: keep-alive\r\n\r\n");
    let response = old.response("GET");
    assert_eq!((response.text().as_str(), response.field("connection")), ("hello world", Some("close")));
}

#[test]
fn uncacheable_responses_do_not_queue_behind_each_other() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| {
        let waits = request.field("x-waits").is_some();
        let mut steps = if waits { vec![Step::Wait(for_origin.clone())] } else { vec![] };
        steps.extend(Reply::ok(&["Cache-Control: no-store"], if waits { "waits" } else { "at once" }));
        steps
    });
    let node = Node::caching(origin.address);
    assert_eq!(node.get("/a").text(), "at once"); // shows that the key is not cacheable
    let mut waiting = node.client();
    waiting.send("GET /a HTTP/1.1\r\nHost: shop.example\r\nX-Waits: 1\r\n\r\n");
    origin.wait_for(2); // the next must be at the origin beside it
    assert_eq!(node.get("/a").text(), "at once");
    gate.open();
    assert_eq!(waiting.response("GET").text(), "waits");
}

#[test]
fn those_who_waited_for_what_turns_out_private_fetch_for_themselves() {
    let gate = Gate::default();
    let (for_origin, count) = (gate.clone(), AtomicUsize::new(0));
    let origin = Origin::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let mut steps = if number == 0 { vec![Step::Wait(for_origin.clone())] } else { vec![] };
        steps.extend(Reply::ok(&["Cache-Control: private", "Set-Cookie: session=1"], format!("{number}")));
        steps
    });
    let node = Node::caching(origin.address);
    let mut clients: Vec<Client> = (0..5).map(|_| node.client()).collect();
    for client in &mut clients {
        client.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    }
    origin.wait_for(1);
    gate.open();
    let mut bodies: Vec<String> = clients.iter_mut().map(|client| client.response("GET").text()).collect();
    bodies.sort();
    assert_eq!(bodies, ["0", "1", "2", "3", "4"], "each has its own response");
}

#[test]
fn what_is_too_large_to_store_still_arrives_whole() {
    const SIZE: usize = 20 << 20;
    let origin = Origin::start(|request| {
        if request.path() == "/known" {
            return Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; SIZE]);
        }
        let mut steps =
            vec![Step::Send(Reply::head(200, &["Cache-Control: max-age=60", "Transfer-Encoding: chunked"]))];
        for _ in 0..SIZE >> 20 {
            steps.push(Step::Send([b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat()));
        }
        steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
        steps
    });
    let node = Node::caching(origin.address);
    for path in ["/known", "/unknown"] {
        for _ in 0..2 {
            let response = node.get(path);
            assert_eq!((response.body.len(), response.complete), (SIZE, true), "{path}");
            assert!(!response.is_hit(), "{path}");
        }
    }
}

#[test]
fn memory_stays_within_its_bounds() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; 100_000]));
    let config = crate::harness::node::site(
        &[origin.address],
        "[cache.memory]\nmax_size = \"2MiB\"\nmax_object = \"1MiB\"\neviction = \"lru\"\n",
        "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n",
    );
    let node = Node::start(&config);
    let mut client = node.client();
    for i in 0..100 {
        assert_eq!(client.get(&format!("/{i}"), &[]).body.len(), 100_000);
    }
    let memory = &node.admin("GET", "/v1/status", "").1["cache"]["memory"];
    let (bytes, most) = (memory["bytes"].as_u64().unwrap(), memory["max_bytes"].as_u64().unwrap());
    assert!(bytes <= most && bytes > most / 2, "{memory}");
    assert!(client.get("/99", &[]).is_hit(), "the newest is there");
    assert!(!client.get("/0", &[]).is_hit(), "the oldest is not");
}
