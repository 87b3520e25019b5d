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
fn connections_above_the_cap_are_closed_and_the_others_go_on() {
    let origin = origin();
    let node = node(&origin, "max_connections = 2");
    let mut kept = [node.client(), node.client()];
    for client in &mut kept {
        assert_eq!(client.get("/a", &[]).status, 200);
    }
    assert!(node.client().is_closed());
    assert_eq!(node.metric("seawall_connections_refused_total"), Some(1.0));
    assert_eq!(node.metric("seawall_connections"), Some(2.0));
    for client in &mut kept {
        assert_eq!(client.get("/a", &[]).status, 200);
    }
    drop(kept);
    eventually("room again", || {
        let mut client = node.client();
        client.try_send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        (!client.read_some().is_empty()).then_some(())
    });
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
    assert_eq!((&*stale.text(), stale.cache()), ("/stale", "seawall; fwd=stale; detail=origin-failed"));
    assert!(node.get("/a").is_hit());
    assert_eq!(node.metric("seawall_fills_refused_total"), Some(2.0));
    gate.open();
    assert_eq!(waiting.response("GET").text(), "/waits");
    assert_eq!(node.get("/b").text(), "/b");
}
