//! Sites that share a node: what one may take of it leaves something for the others.

use crate::harness::frames::{END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, frame, section};
use crate::harness::origin::{Gate, Request};
use crate::harness::{Client, Node, Origin, Protocol, Reply, Step, eventually};

/// Two sites with one origin; the first has what `first` says.
fn config(origin: &Origin, first: &str) -> String {
    let mut config = format!("[pool.app]\norigins = [\"{}\"]\n", origin.address);
    for (name, host, more) in [("first", "first.example", first), ("second", "*", "")] {
        config += &format!(
            "[site.{name}]\nhosts = [\"{host}\"]\n{more}\n[[site.{name}.route]]\npath = \"/*\"\npool = \"app\"\n\
             cache = {{ mode = \"respect\" }}\n"
        );
    }
    config
}

const FIRST: &str = "Host: first.example";

/// An origin that answers `/slow` when it is let, agrees to upgrades, and else at once.
fn origin(gate: &Gate) -> Origin {
    let wait = gate.clone();
    Origin::start(move |request| match request.path() {
        path if path.starts_with("/slow") => {
            [vec![Step::Wait(wait.clone())], Reply::ok(&["Cache-Control: no-store"], "at last")].concat()
        }
        "/tunnel" => {
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n";
            vec![Step::Send(head.into()), Step::Echo]
        }
        _ => Reply::ok(&["Cache-Control: max-age=60"], "at once"),
    })
}

fn ask(node: &Node, request: &str) -> Client {
    let mut client = node.client();
    client.send(format!("{request} HTTP/1.1\r\n{FIRST}\r\n\r\n"));
    client
}

/// The requests of the first site that run.
fn running(node: &Node) -> u64 {
    node.admin("GET", "/v1/status", "").1["sites"][0]["requests"]["running"].as_u64().unwrap()
}

/// Where the part of a body of `x` begins that a request asks for, and the answer with it.
fn part_of(request: &Request, total: usize) -> (usize, Vec<Step>) {
    let range = request.field("range").unwrap().strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse::<usize>().unwrap().min(total - 1));
    let content_range = format!("Content-Range: bytes {first}-{last}/{total}");
    let fields = ["Cache-Control: max-age=60", "ETag: \"a\"", &content_range];
    (first, Reply::status(206, &fields, vec![b'x'; last + 1 - first]))
}

/// Reads a body whose head has been read.
fn read_body(client: &mut Client, length: usize) {
    let mut read = 0;
    while read < length {
        let some = client.read_some().len();
        assert!(some > 0, "cut off after {read}");
        read += some;
    }
}

/// What needs no origin is answered however busy the site is; what does is refused, on every way there is to one.
#[test]
fn what_needs_an_origin_is_bounded_and_what_does_not_is_answered() {
    let gate = Gate::default();
    let wait = gate.clone();
    let origin = Origin::start(move |request| {
        let ok = |fields: &[&str]| Reply::ok(fields, vec![b'x'; 100]);
        match request.path() {
            path if path.starts_with("/slow") => {
                [vec![Step::Wait(wait.clone())], Reply::ok(&["Cache-Control: max-age=60"], "at last")].concat()
            }
            "/tunnel" => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n";
                vec![Step::Send(head.into()), Step::Echo]
            }
            "/private" => ok(&["Cache-Control: private"]),
            "/stale" => ok(&["Cache-Control: max-age=0, stale-if-error=60", "ETag: \"a\""]),
            "/revalidated" => ok(&["Cache-Control: max-age=0, stale-while-revalidate=60", "ETag: \"a\""]),
            _ => ok(&["Cache-Control: max-age=60"]),
        }
    });
    let first = "max_requests = 3\npurge_from = [\"127.0.0.1\"]\n[[site.first.route]]\npath = \"/health\"\n\
                 respond = { status = 200, body = \"well\" }\n[[site.first.route]]\npath = \"/old\"\n\
                 redirect = { to = \"/new\" }\n";
    let node = Node::start(&config(&origin, first));
    let get = |path: &str| node.get_with(path, &[FIRST]);
    for path in ["/kept", "/private", "/stale", "/revalidated"] {
        assert_eq!(get(path).status, 200);
    }
    eventually("those to be over", || (running(&node) == 0).then_some(()));
    let before = origin.count();
    let mut slow = [ask(&node, "GET /slow"), ask(&node, "POST /slow-post")];
    let mut tunnel = node.client();
    tunnel.send(format!("GET /tunnel HTTP/1.1\r\n{FIRST}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"));
    assert!(tunnel.head().starts_with("HTTP/1.1 101"));
    origin.wait_for(before + 3);
    assert_eq!(running(&node), 3);
    // A miss, one that would follow a fill, what is known not to be storable, and what is passed on.
    let refused = [
        ("GET", "/new"),
        ("GET", "/slow"),
        ("HEAD", "/new"),
        ("GET", "/private"),
        ("POST", "/kept"),
        ("OPTIONS", "/new"),
    ];
    for (method, path) in refused {
        let mut client = ask(&node, &format!("{method} {path}"));
        let reply = client.response(method);
        assert_eq!((reply.status, reply.field("retry-after")), (503, Some("1")), "{method} {path}");
        assert_eq!(reply.field("proxy-status"), Some("seawall; error=connection_limit_reached"), "{method} {path}");
        assert_eq!(node.get_with(&path.replace("slow", "other"), &["Host: other.example"]).status, 200);
    }
    let upgrade = format!("GET /tunnel HTTP/1.1\r\n{FIRST}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    let mut another = node.client();
    another.send(upgrade);
    assert_eq!(another.response("GET").status, 503);
    assert!(get("/new").text().contains("this site has too many requests at the moment"));
    eventually("the log says why", || node.stdout().contains("see its max_requests").then_some(()));
    // Hits, what the node says itself, and what may stand in for an origin.
    assert!(get("/kept").is_hit());
    assert_eq!((get("/health").text().as_str(), get("/old").status), ("well", 308));
    assert!(get("/revalidated").field("cache-status").unwrap().contains("hit"));
    let stale = get("/stale");
    assert_eq!(stale.status, 200, "{:?}", stale.field("cache-status"));
    assert!(ask(&node, "PURGE /elsewhere").response("GET").status == 200);
    let site = || node.admin("GET", "/v1/status", "").1["sites"][0]["requests"].clone();
    assert_eq!((site()["running"].as_u64(), site()["max"].as_u64()), (Some(3), Some(3)));
    assert!(site()["refused"].as_u64() >= Some(8), "{}", site());
    assert_eq!(node.metric("seawall_site_requests{site=\"first\"}"), Some(3.0));
    let address = format!("http://{}", node.admin);
    let explained = std::process::Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(["explain", "--admin", &address, "http://first.example/new"])
        .output()
        .unwrap();
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(
        explained.contains("requests  3 of 3 of the site are with its origins: what needs one gets 503"),
        "{explained}"
    );
    // Another configuration knows of those that run.
    let path = node.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    let generation = node.generation();
    std::fs::write(&path, text.replace("max_requests = 3", "max_requests = 4")).unwrap();
    node.wait_for_generation(generation + 1);
    assert_eq!(get("/new").status, 200);
    eventually("the same three to be left", || (running(&node) == 3).then_some(()));
    // Who leaves, or has its answer, makes room.
    drop(tunnel);
    eventually("the tunnel to end", || (running(&node) == 2).then_some(()));
    gate.open();
    slow.iter_mut().for_each(|client| assert_eq!(client.response("GET").text(), "at last"));
    eventually("all to end", || (running(&node) == 0).then_some(()));
}

/// Slices that are stored need no origin, and an answer that has begun goes on.
#[test]
fn an_answer_in_slices_that_has_begun_goes_on() {
    let gate = Gate::default();
    let wait = gate.clone();
    let origin = Origin::start(move |request| {
        let slow = if request.path() == "/slow" { vec![Step::Wait(wait.clone())] } else { vec![] };
        match request.field("range") {
            Some(_) => [slow, part_of(request, 128 << 10).1].concat(),
            None => [slow, Reply::ok(&["Cache-Control: max-age=60", "ETag: \"a\""], "whole")].concat(),
        }
    });
    let node =
        Node::start(&config(&origin, "max_requests = 1").replacen("\"respect\"", "\"respect\", slice = \"64KiB\"", 1));
    // Of this the first slice is there.
    let mut begun = node.client();
    begun.send(format!("GET /large HTTP/1.1\r\n{FIRST}\r\nRange: bytes=0-10\r\n\r\n"));
    assert_eq!(begun.response("GET").status, 206);
    eventually("it to be over", || (running(&node) == 0).then_some(()));
    let before = origin.count();
    let _slow = ask(&node, "GET /slow");
    origin.wait_for(before + 1);
    assert_eq!(node.get_with("/another", &[FIRST]).status, 503);
    // It begins, and goes on when there is room.
    let mut large = ask(&node, "GET /large");
    assert!(large.head().starts_with("HTTP/1.1 200"));
    gate.open();
    read_body(&mut large, 128 << 10);
}

#[test]
fn streams_are_bounded_likewise() {
    let routes = "max_requests = 1\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    for protocol in Protocol::ALL {
        let gate = Gate::default();
        let origin = origin(&gate);
        let node = Node::speaking(protocol, &[origin.address], routes);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| node.get("/slow"));
            origin.wait_for(1);
            assert_eq!(node.get("/a").status, 503, "{protocol:?}");
            gate.open();
            assert_eq!(slow.join().unwrap().text(), "at last");
        });
        eventually("room", || (node.get("/a").status == 200).then_some(()));
    }
}

/// A client that has closed its side may only have no more to say: its request counts until it is answered, or given up.
#[test]
fn who_leaves_counts_until_the_origin_is_given_up() {
    let shut = Gate::default();
    let origin = origin(&shut);
    let node = Node::start(&config(&origin, "max_requests = 1\ndefaults = { read_timeout = \"3s\" }"));
    let leaves = ask(&node, "GET /slow");
    origin.wait_for(1);
    drop(leaves);
    assert_eq!((running(&node), node.get_with("/a", &[FIRST]).status), (1, 503));
    eventually("room", || (running(&node) == 0).then_some(()));
    assert_eq!(node.get_with("/a", &[FIRST]).status, 200);
    shut.open();
}

#[test]
fn what_a_site_has_in_memory_of_its_own_is_displaced_by_nobody() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; 100_000]));
    let config = format!("[cache.memory]\nmax_size = \"8MiB\"\n{}", config(&origin, "memory = \"2MiB\""));
    let node = Node::start(&config);
    let first = |number: usize| node.get_with(&format!("/{number}"), &[FIRST]);
    let second = |number: usize| node.get_with(&format!("/{number}"), &["Host: other.example"]);
    (0..10).for_each(|number| assert_eq!(first(number).status, 200));
    (0..100).for_each(|number| assert_eq!(second(number).status, 200));
    assert!((0..10).all(|number| first(number).is_hit()), "a scan of another site has displaced it");
    let memory = || node.admin("GET", "/v1/status", "").1["cache"]["memory"].clone();
    assert!(memory()["sites"]["first"]["bytes"].as_u64() > Some(1_000_000), "{}", memory());
    // The other way round, too.
    let others = |memory: &serde_json::Value| {
        ["keys", "bytes"].map(|what| memory[what].as_u64().unwrap() - memory["sites"]["first"][what].as_u64().unwrap())
    };
    let before = others(&memory());
    assert!(before[0] > 40, "{before:?}");
    (100..200).for_each(|number| assert_eq!(first(number).status, 200));
    let now = memory();
    assert!(now["sites"]["first"]["bytes"].as_u64() <= Some(2 << 20), "{now}");
    assert!(now["bytes"].as_u64() <= now["max_bytes"].as_u64() && now["max_bytes"] == 8 << 20, "{now}");
    assert_eq!(others(&now), before);
    // A purge of a site reaches its own part.
    node.purge("{\"site\": \"first\"}");
    assert!(!first(199).is_hit());
}

/// What has no place in a site's own part is not said to be stored there, and is remembered as what cannot be.
#[test]
fn what_is_too_large_for_the_part_of_a_site_is_said_not_to_be_stored() {
    let origin = Origin::start(|request| {
        let length: usize = request.path()[1..].split('-').next().unwrap().parse().unwrap();
        match request.path().ends_with("-chunked") {
            true => {
                let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
                let chunk = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
                vec![Step::Send(head.into()), Step::Send(chunk.into())]
            }
            false => Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; length]),
        }
    });
    let config = format!("[cache.memory]\nmax_size = \"8MiB\"\n{}", config(&origin, "memory = \"1MiB\""));
    let node = Node::start(&config);
    let get = |path: &str, host: &str| node.get_with(path, &[host]);
    for end in ["", "-chunked"] {
        for (length, is_stored) in [(900_000, true), (1 << 20, false), (2 << 20, false)] {
            let path = format!("/{length}{end}");
            assert_eq!(get(&path, FIRST).body.len(), length, "{path}");
            assert_eq!(get(&path, FIRST).is_hit(), is_stored, "{path}");
            let said = get(&path, FIRST).field("cache-status").unwrap().to_owned();
            assert!(!said.contains("stored"), "{path}: {said}");
            assert!(is_stored || said.contains("fwd=bypass"), "{path}: {said}");
            // The others have room for it.
            get(&path, "Host: other.example");
            assert!(get(&path, "Host: other.example").is_hit(), "{path}");
        }
    }
    let bytes = node.metric("seawall_site_memory_bytes{site=\"first\"}").unwrap();
    assert!((900_000.0..1_000_000.0).contains(&bytes), "{bytes}");
    assert_eq!(node.metric("seawall_not_stored_total{reason=\"too-large\"}"), Some(4.0));
}

/// Of variants that have no room together the newest stay.
#[test]
fn variants_that_do_not_fit_together_displace_the_oldest() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60", "Vary: X-Kind"], vec![b'x'; 400_000]));
    let config = format!("[cache.memory]\nmax_size = \"8MiB\"\n{}", config(&origin, "memory = \"1MiB\""));
    let node = Node::start(&config);
    let get = |kind: &str| node.get_with("/a", &[FIRST, &format!("X-Kind: {kind}")]);
    for kind in ["a", "b", "c"] {
        assert_eq!(get(kind).body.len(), 400_000);
    }
    assert!(get("c").is_hit() && get("b").is_hit());
    assert!(!get("a").is_hit());
}

/// A body whose last byte comes when it is let.
fn held_back(gate: &Gate, length: usize) -> Vec<Step> {
    let head =
        format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: {length}\r\n\r\n");
    vec![Step::Send(head.into()), Step::Wait(gate.clone()), Step::Send(vec![b'x'; length])]
}

/// The place is the fill's, which goes on whoever leaves, or has all it wants.
#[test]
fn a_fill_counts_until_the_origin_has_answered() {
    for asked in ["HEAD", "GET", "gone"] {
        let gate = Gate::default();
        let wait = gate.clone();
        let origin = Origin::start(move |request| match request.path() {
            "/hung" => [vec![Step::Wait(wait.clone())], Reply::ok(&["Cache-Control: max-age=60"], "x")].concat(),
            _ => held_back(&wait, 1000),
        });
        let node = Node::speaking(
            Protocol::H2,
            &[origin.address],
            "max_requests = 1\n[[site.shop.route]]\npath = \"/*\"\n\
             pool = \"app\"\ncache = { mode = \"respect\" }\n",
        );
        let running = || node.admin("GET", "/v1/status", "").1["sites"][0]["requests"]["running"].as_u64().unwrap();
        let fields = ["Host: shop.example"];
        match asked {
            "HEAD" => assert_eq!(node.request("HEAD", "/a", &fields, "").status, 200),
            "GET" => {
                let fields = ["Host: shop.example", "If-None-Match: \"a\""];
                assert_eq!(node.request("GET", "/a", &fields, "").status, 304);
            }
            _ => {
                let mut raw = Raw::connect(&node);
                raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &section("/hung", &[])));
                origin.wait_for(1);
                raw.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
                assert!(raw.is_alive());
            }
        }
        assert_eq!((running(), node.get("/b").status), (1, 503), "{asked}");
        assert_eq!(origin.count(), 1);
        gate.open();
        eventually("room", || (running() == 0).then_some(()));
        assert_eq!(node.get("/b").status, 200);
    }
}

/// Who reads slowly what is stored holds up nobody.
#[test]
fn slow_readers_of_what_has_come_do_not_count() {
    let origin = Origin::start(|request| match request.path() {
        "/large" => Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; 6 << 20]),
        _ => Reply::ok(&["Cache-Control: max-age=60"], "x"),
    });
    let node = Node::start(&config(&origin, "max_requests = 1"));
    let mut slow = ask(&node, "GET /large");
    assert!(slow.head().starts_with("HTTP/1.1 200"));
    eventually("the fill to end", || (running(&node) == 0).then_some(()));
    assert_eq!(node.get_with("/small", &[FIRST]).status, 200);
    drop(slow);
}

/// Answers that have begun go on one after the other: they are at the origin no more often than others.
#[test]
fn slices_that_follow_wait_for_their_turn() {
    let gate = Gate::default();
    let wait = gate.clone();
    let origin = Origin::start(move |request| {
        let (first, part) = part_of(request, 100_000);
        let slow = if first > 0 { vec![Step::Wait(wait.clone())] } else { vec![] };
        [slow, part].concat()
    });
    let sliced = config(&origin, "max_requests = 2").replacen("\"respect\"", "\"respect\", slice = \"64KiB\"", 1);
    let node = Node::start(&sliced);
    for number in 0..6 {
        assert_eq!(node.get_with(&format!("/{number}"), &[FIRST, "Range: bytes=0-10"]).status, 206);
    }
    let mut readers: Vec<_> = (0..6).map(|number| ask(&node, &format!("GET /{number}"))).collect();
    readers.iter_mut().for_each(|reader| assert!(reader.head().starts_with("HTTP/1.1 200")));
    origin.wait_for(8);
    assert_eq!((running(&node), origin.count()), (2, 8));
    gate.open();
    readers.iter_mut().for_each(|reader| read_body(reader, 100_000));
}

/// What is compressed is not to cost an object the place that it has.
#[test]
fn codings_that_have_no_room_are_left_out() {
    let text = base64_of(600_000);
    let origin =
        Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=60", "Content-Type: text/plain"], text.clone()));
    let config = format!("[cache.memory]\nmax_size = \"8MiB\"\n{}", config(&origin, "memory = \"1MiB\""));
    let node = Node::start(&config.replacen("\"respect\"", "\"respect\", compress = [\"gzip\", \"br\"]", 1));
    let get = || node.get_with("/a", &[FIRST]);
    assert_eq!(get().body.len(), 600_000);
    eventually("both to be tried", || {
        let tried = |coding| node.metric(&format!("seawall_compressed_total{{coding=\"{coding}\"}}")) == Some(1.0);
        (tried("gzip") && tried("br")).then_some(())
    });
    assert!((0..3).all(|_| get().is_hit()));
    assert_eq!(origin.count(), 1);
}

/// Text that hardly shrinks.
fn base64_of(length: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 1_u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        LETTERS[(state >> 58) as usize]
    };
    (0..length).map(|_| letter()).collect()
}

/// Whatever is left of it: its first slice has made room, and so nobody knows how long it is.
#[test]
fn all_slices_of_what_a_request_has_changed_are_forgotten() {
    let origin = Origin::start(|request| match request.field("range") {
        Some(_) => part_of(request, 10_000_000).1,
        None => Reply::ok(&[], "changed"),
    });
    for first in ["memory = \"1MiB\"", ""] {
        let sliced = config(&origin, first).replacen("\"respect\"", "\"respect\", slice = \"64KiB\"", 1);
        let node = Node::start(&format!("[cache.memory]\nmax_size = \"16MiB\"\nmax_object = \"1MiB\"\n{sliced}"));
        let end = || node.get_with("/a", &[FIRST, "Range: bytes=9999000-9999005"]);
        assert_eq!(end().status, 206);
        assert!(end().is_hit());
        assert_eq!(node.request("POST", "/a", &[FIRST], "").status, 200);
        assert!(!end().is_hit(), "{first}");
    }
}

/// It asks the origin for nothing more, so it is let in however busy the site is.
#[test]
fn who_follows_a_fill_that_has_begun_is_not_refused() {
    for protocol in Protocol::ALL {
        let gate = Gate::default();
        let wait = gate.clone();
        let origin = Origin::start(move |_| {
            let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 1000\r\n\r\n";
            vec![
                Step::Send(head.into()),
                Step::Send(vec![b'x'; 10]),
                Step::Wait(wait.clone()),
                Step::Send(vec![b'x'; 990]),
            ]
        });
        let routes =
            "max_requests = 1\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
        let node = Node::speaking(protocol, &[origin.address], routes);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| node.get("/a"));
            origin.wait_for(1); // its place is taken by the fill
            // Its head has come when HEAD, which follows it, is answered.
            eventually("the fill to have begun", || {
                (node.request("HEAD", "/a", &["Host: shop.example"], "").status == 200).then_some(())
            });
            assert_eq!((node.get("/b").status, origin.count()), (503, 1), "{protocol:?}");
            let second = scope.spawn(|| node.get("/a"));
            gate.open();
            for reader in [first, second] {
                let reply = reader.join().unwrap();
                assert_eq!((reply.status, reply.body.len()), (200, 1000), "{protocol:?}");
            }
        });
        assert_eq!(origin.count(), 1);
    }
}

/// A bound that comes by a reload is that of answers that have begun, too.
#[test]
fn another_bound_is_everybodys() {
    let gate = Gate::default();
    let wait = gate.clone();
    let origin = Origin::start(move |request| {
        if request.path() == "/slow" {
            return [vec![Step::Wait(wait.clone())], Reply::ok(&["Cache-Control: no-store"], "x")].concat();
        }
        part_of(request, 100_000).1
    });
    let sliced = config(&origin, "max_requests = 1").replacen("\"respect\"", "\"respect\", slice = \"64KiB\"", 1);
    let node = Node::start(&sliced);
    assert_eq!(node.get_with("/a", &[FIRST, "Range: bytes=0-10"]).status, 206);
    eventually("it to be over", || (running(&node) == 0).then_some(()));
    let _slow = ask(&node, "GET /slow");
    origin.wait_for(2);
    let mut begun = ask(&node, "GET /a");
    assert!(begun.head().starts_with("HTTP/1.1 200"));
    let path = node.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("max_requests = 1\n", "max_requests = 2\n")).unwrap();
    read_body(&mut begun, 100_000);
    eventually("the slow one to be left", || (running(&node) == 1).then_some(()));
    gate.open();
}

/// A site that a reload takes out and another brings back has the requests that are still with its origins.
#[test]
fn a_site_that_comes_back_counts_on() {
    let gate = Gate::default();
    let origin = origin(&gate);
    let text = config(&origin, "max_requests = 1");
    let node = Node::start(&text);
    let slow = ask(&node, "GET /slow");
    origin.wait_for(1);
    let path = node.config_path();
    let with = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = with.split_once("[site.first]").unwrap();
    let (_, after) = rest.split_once("[site.second]").unwrap();
    std::fs::write(&path, format!("{before}[site.second]{after}")).unwrap();
    let sites = || node.admin("GET", "/v1/status", "").1["sites"].as_array().unwrap().len();
    eventually("the site to be gone", || (sites() == 1).then_some(()));
    std::fs::write(&path, &with).unwrap();
    eventually("the site to be back", || (sites() == 2).then_some(()));
    assert_eq!(running(&node), 1);
    assert_eq!(node.get_with("/other", &[FIRST]).status, 503);
    gate.open();
    drop(slow);
    eventually("it to be over", || (running(&node) == 0).then_some(()));
    assert_eq!(node.get_with("/other", &[FIRST]).status, 200);
}
