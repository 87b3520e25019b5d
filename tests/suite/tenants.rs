//! Sites that share a node: what one may take of it leaves something for the others.

use crate::harness::origin::Gate;
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

#[test]
fn a_site_runs_no_more_requests_than_it_may_and_others_go_on() {
    let gate = Gate::default();
    let origin = origin(&gate);
    let node = Node::start(&config(&origin, "max_requests = 3"));
    assert_eq!(node.get_with("/kept", &[FIRST]).text(), "at once");
    // Its client has the answer a moment before the request is over.
    eventually("it to be over", || (running(&node) == 0).then_some(()));
    let mut slow = [ask(&node, "GET /slow"), ask(&node, "POST /slow")];
    let mut tunnel = node.client();
    tunnel.send(format!("GET /tunnel HTTP/1.1\r\n{FIRST}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"));
    assert!(tunnel.head().starts_with("HTTP/1.1 101"));
    origin.wait_for(4);
    assert_eq!(running(&node), 3);
    for path in ["/kept", "/new", "/slow"] {
        let refused = node.get_with(path, &[FIRST]);
        assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")), "{path}");
        assert_eq!(refused.field("proxy-status"), Some("seawall; error=http_request_denied"), "{path}");
        assert!(refused.text().contains("too many requests"), "{}", refused.text());
        assert_eq!(node.get_with(&path.replace("slow", "other"), &["Host: other.example"]).status, 200);
    }
    eventually("the log says why", || node.stdout().contains("too many requests at the moment").then_some(()));
    // Another configuration knows of those that run.
    let path = node.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    let generation = node.generation();
    std::fs::write(&path, text.replace("max_requests = 3", "max_requests = 4")).unwrap();
    node.wait_for_generation(generation + 1);
    assert_eq!(node.get_with("/kept", &[FIRST]).status, 200);
    eventually("the same three to be left", || (running(&node) == 3).then_some(()));
    // Who leaves, or has its answer, makes room.
    drop(tunnel);
    eventually("the tunnel to end", || (running(&node) == 2).then_some(()));
    gate.open();
    slow.iter_mut().for_each(|client| assert_eq!(client.response("GET").text(), "at last"));
    eventually("all to end", || (running(&node) == 0).then_some(()));
}

#[test]
fn streams_count_as_requests() {
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
