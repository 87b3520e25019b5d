//! What one client may take of the node.

use crate::harness::node::site;
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Reply, Step, eventually};

const ROUTES: &str = "[[site.shop.route]]\npath = \"/passed/*\"\npool = \"app\"\n\
    [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

fn node(origin: &Origin, limits: &str) -> Node {
    Node::start(&format!("[limits]\n{limits}\n{}", site(&[origin.address], "", ROUTES)))
}

fn origin() -> Origin {
    Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "x"))
}

#[test]
fn at_the_cap_the_idle_make_room_and_the_busy_do_not() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| match request.path() {
        "/passed/waits" => [vec![Step::Wait(for_origin.clone())], Reply::ok(&[], "late")].concat(),
        _ => Reply::ok(&["Cache-Control: max-age=60"], "x"),
    });
    let node = node(&origin, "max_connections = 2");
    let (mut busy, mut idle) = (node.client(), node.client());
    assert_eq!(idle.get("/a", &[]).status, 200);
    busy.send("GET /passed/waits HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(2);
    // That the one is idle no event tells: it has just been answered.
    let mut new = eventually("the place of the idle one", || {
        let mut new = node.client();
        new.try_send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        new.try_response().map(|answer| {
            assert_eq!(answer.status, 200);
            new
        })
    });
    assert!(idle.is_closed());
    let refused = node.metric("seawall_connections_refused_total").unwrap();
    new.send("GET /passed/waits HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(3);
    assert!(node.client().is_closed(), "all are busy");
    assert_eq!(node.metric("seawall_connections_refused_total"), Some(refused + 1.0));
    assert_eq!(node.metric("seawall_connections"), Some(2.0));
    gate.open();
    assert_eq!((busy.response("GET").text(), new.response("GET").text()), ("late".into(), "late".into()));
    drop((busy, new));
    eventually("room again", || {
        let mut client = node.client();
        client.try_send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        (!client.read_some().is_empty()).then_some(())
    });
}

/// Clients of one network keep others no more than a share of the connections.
#[test]
fn one_network_gets_its_share_and_no_more() {
    let origin = origin();
    let gate = Gate::default();
    let for_origin = gate.clone();
    let slow = Origin::start(move |_| [vec![Step::Wait(for_origin.clone())], Reply::ok(&[], "late")].concat());
    let config = |more: &str| {
        let slow_route = format!(
            "[pool.slow]\norigins = [\"{}\"]\n{}",
            slow.address,
            site(&[origin.address], "", &format!("[[site.shop.route]]\npath = \"/slow\"\npool = \"slow\"\n{ROUTES}"))
        );
        format!("{more}[limits]\nmax_connections = 100\nmax_prefix_share = 40\n{slow_route}")
    };
    for (more, refused) in [("", true), ("[node]\ntrusted_proxies = [\"127.0.0.1\"]\n", false)] {
        let node = Node::start(&config(more));
        let before = slow.count();
        // All of them busy, so that none can make room.
        let busy: Vec<_> = (0..40)
            .map(|_| {
                let mut client = node.client();
                client.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n");
                client
            })
            .collect();
        slow.wait_for(before + 40);
        let mut one_more = node.client();
        one_more.try_send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        assert_eq!(one_more.read_some().is_empty(), refused, "{more}");
        drop(busy);
    }
    gate.open();
}

#[test]
fn the_limit_on_open_files_is_raised_and_the_cap_keeps_to_it() {
    let origin = origin();
    let pool = "health = { path = \"/health\", interval = \"50ms\", fall = 1 }";
    let config = format!("[limits]\nmax_prefix_share = 100\n{}", site(&[origin.address], pool, ROUTES));
    let node = Node::start_after("ulimit -Sn 100; ulimit -Hn 400", &config);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).unwrap();
    let soft =
        limits.lines().find(|line| line.starts_with("Max open files")).and_then(|line| line.split_whitespace().nth(3));
    assert_eq!(soft, Some("400"), "{limits}");
    let line = node.wait_for_log("the limit on open files is too low");
    assert!(line.contains("in_force=300"), "{line}");
    // More than there may be: the idle make room, and no origin is the worse for it.
    let clients: Vec<_> = (0..500).map(|_| node.client()).collect();
    let mut answered = node.client();
    assert_eq!(answered.get("/a", &[]).status, 200);
    let probes = origin.count();
    origin.wait_for(probes + 5);
    drop(clients);
    assert_eq!(node.origin_status("app", origin.address), "up");
    assert!(!node.log().iter().any(|line| line.contains("origin is down")), "{:?}", node.log());
}

#[test]
fn a_connection_ends_after_its_share_of_requests_whichever_way_they_went() {
    let origin = origin();
    let node = node(&origin, "max_requests_per_connection = 3");
    for path in ["/a", "/passed/a"] {
        let mut client = node.client();
        for last in [false, false, true] {
            let response = client.get(path, &[]);
            let closes = response.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            assert_eq!((response.status, closes), (200, last), "{path}");
        }
        assert!(client.is_closed(), "{path}");
    }
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    /// More than the sockets' buffers take.
    const SIZE: usize = 40 << 20;
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; SIZE]));
    let node = node(&origin, "write_timeout = \"300ms\"\n[cache.memory]\nmax_object = \"64MiB\"");
    assert_eq!(node.get("/a").body.len(), SIZE);
    let mut stuck = node.client();
    stuck.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    eventually("the end of both connections", || {
        let both_came = node.metric("seawall_connections_total") == Some(2.0);
        (both_came && node.metric("seawall_connections") == Some(0.0)).then_some(())
    });
    let response = stuck.response("GET");
    assert!(!response.complete && response.body.len() < SIZE);
}

#[test]
fn tls_handshakes_have_a_deadline() {
    let origin = origin();
    let directory = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let made = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap();
    std::fs::write(directory.path().join("a.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.path().join("a.key"), made.signing_key.serialize_pem()).unwrap();
    let config = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [[certificate]]\ncert = \"a.pem\"\nkey = \"a.key\"\n[limits]\ntls_timeout = \"200ms\"\n{}",
        site(&[origin.address], "", ROUTES)
    );
    let node = Node::start_in(directory, &config);
    assert!(node.client().is_closed());
    let mut nonsense = node.client();
    nonsense.send("GET / HTTP/1.1\r\n\r\n");
    nonsense.read_some(); // an alert
    assert!(nonsense.is_closed());
    eventually("both counted", || (node.metric("seawall_tls_handshake_failures_total") == Some(2.0)).then_some(()));
}

#[test]
fn requests_go_past_the_cache_when_no_more_fills_may_run() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| {
        let waits = request.path() == "/waits";
        let mut steps = if waits { vec![Step::Wait(for_origin.clone())] } else { vec![] };
        let stale = request.path() == "/stale";
        let lifetime = if stale { "Cache-Control: max-age=0, stale-if-error=60" } else { "Cache-Control: max-age=60" };
        steps.extend(Reply::ok(&[lifetime, "ETag: \"a\""], request.path()));
        steps
    });
    let node = node(&origin, "max_fills = 1");
    assert_eq!((node.get("/a").status, node.get("/stale").status), (200, 200));
    let mut waiting = node.client();
    waiting.send("GET /waits HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(3);
    let passed = node.get("/b");
    assert_eq!((&*passed.text(), passed.cache()), ("/b", "seawall; fwd=bypass; detail=fills-full"));
    let stale = node.get("/stale");
    assert_eq!((&*stale.text(), stale.cache()), ("/stale", "seawall; fwd=stale; detail=origin-too-many-fills"));
    assert!(node.get("/a").is_hit());
    assert_eq!(node.metric("seawall_fills_refused_total"), Some(2.0));
    gate.open();
    assert_eq!(waiting.response("GET").text(), "/waits");
    assert_eq!(node.get("/b").text(), "/b");
}
