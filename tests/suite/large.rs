//! Bodies that are too large for memory: written to disk as they come, followed meanwhile, and read from there.

use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::client::Response;
use crate::harness::node::site;
use crate::harness::origin::Gate;
use crate::harness::{Client, Node, Origin, Reply, Step, eventually};

/// More than the memory tier of these nodes takes.
const LENGTH: usize = 6 << 20;

fn noise() -> Vec<u8> {
    let mut random = 1_u64;
    (0..LENGTH)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as u8
        })
        .collect()
}

fn node(directory: &Arc<TempDir>, origin: &Origin, disk: &str, route: &str) -> Node {
    let config = format!(
        "[node]\nstate_dir = \"state\"\n[cache.memory]\nmax_size = \"4MiB\"\nmax_object = \"512KiB\"\n\
         [cache.disk]\npath = \"cache\"\nmax_size = \"64MiB\"\n{disk}\n{}",
        site(
            &[origin.address],
            "",
            &format!("[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = {{ mode = \"respect\"{route} }}\n")
        )
    );
    Node::start_in(directory.clone(), &config)
}

fn directory() -> Arc<TempDir> {
    Arc::new(TempDir::new().unwrap())
}

fn disk(node: &Node) -> Value {
    node.admin("GET", "/v1/status", "").1["cache"]["disk"][0].clone()
}

fn is_disk_hit(response: &Response) -> bool {
    response.is_hit() && response.cache().contains("detail=disk")
}

/// A head and the body in pieces, of which all but the first wait for a gate; with or without a stated length.
fn in_two(body: &[u8], stated: bool, gate: &Gate) -> Vec<Step> {
    let fields = ["Cache-Control: max-age=3600", "ETag: \"v1\""];
    let (first, rest) = body.split_at(body.len() / 2);
    let length = format!("Content-Length: {}", body.len());
    if stated {
        let head = Reply::head(200, &[&fields[..], &[length.as_str()]].concat());
        return vec![Step::Send([&head, first].concat()), Step::Wait(gate.clone()), Step::Send(rest.to_vec())];
    }
    let head = Reply::head(200, &[&fields[..], &["Transfer-Encoding: chunked"]].concat());
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let end = [chunk(rest), b"0\r\n\r\n".to_vec()].concat();
    vec![Step::Send([head, chunk(first)].concat()), Step::Wait(gate.clone()), Step::Send(end)]
}

#[test]
fn a_large_body_is_stored_as_it_comes_and_followed_meanwhile() {
    let body = noise();
    for stated in [true, false] {
        let (gate, answer) = (Gate::default(), body.clone());
        let for_origin = gate.clone();
        let origin = Origin::start(move |_| in_two(&answer, stated, &for_origin));
        let directory = directory();
        let node = node(&directory, &origin, "", "");
        let mut first = node.client();
        first.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        let head = first.head();
        assert!(head.contains("fwd=uri-miss; ttl"), "whether the disk keeps up is not known yet: {head}");
        // The origin waits: what has come is there for the client nevertheless.
        let mut came = first.read_some().len();
        while came < LENGTH / 2 {
            came += first.read_some().len();
        }
        // Late, but not too late: the beginning is on disk.
        let address = node.address();
        let late: Vec<_> =
            (0..4).map(|_| std::thread::spawn(move || Client::connect(address).get("/a", &[]))).collect();
        eventually("they follow", || {
            let text = node.admin("GET", "/v1/status", "").1;
            (text["connections"].as_u64()? >= 5).then_some(())
        });
        gate.open();
        for response in late.into_iter().map(|thread| thread.join().unwrap()) {
            assert!(response.complete && response.body == body, "{}", response.head);
        }
        eventually("it is stored", || (disk(&node)["objects"] == 1).then_some(()));
        let response = node.get("/a");
        assert!(is_disk_hit(&response) && response.body == body, "{}", response.head);
        assert_eq!(origin.count(), 1, "all by one request");
        assert_eq!(disk(&node)["waiting_bytes"], 0);
    }
}

#[test]
fn it_is_there_after_a_restart_and_validated_without_being_fetched() {
    let body = noise();
    let answer = body.clone();
    let origin = Origin::start(move |request| match request.field("if-none-match") {
        Some(_) => Reply::head_only(304, &["Cache-Control: max-age=3600", "X-New: yes"]),
        None => Reply::ok(&["Cache-Control: max-age=0", "ETag: \"v1\""], &answer),
    });
    let directory = directory();
    let mut first = node(&directory, &origin, "", "");
    assert!(first.get("/a").complete);
    first.signal("TERM");
    assert!(first.wait());
    let mut second = node(&directory, &origin, "", "");
    let confirmed = second.get("/a");
    assert!(confirmed.cache().contains("fwd=stale; fwd-status=304"), "{}", confirmed.cache());
    assert!(confirmed.body == body);
    second.signal("TERM");
    assert!(second.wait());
    let third = node(&directory, &origin, "", "");
    let hit = third.get("/a");
    assert!(is_disk_hit(&hit) && hit.body == body && hit.field("x-new") == Some("yes"), "{}", hit.head);
}

#[test]
fn a_body_that_breaks_off_leaves_nothing() {
    let body = noise();
    let origin = Origin::start(move |_| {
        let mut steps = in_two(&body, true, &Gate::default());
        steps.truncate(1);
        steps.push(Step::Close);
        steps
    });
    let directory = directory();
    let node = node(&directory, &origin, "", "");
    assert!(!node.get("/a").complete);
    eventually("what was written is removed", || {
        let left = std::fs::read_dir(directory.path().join("cache/tmp")).unwrap().count();
        (left == 0).then_some(())
    });
    // The thread that was writing may take a moment longer than the one that has removed the file.
    eventually("nothing to wait", || (disk(&node)["waiting_bytes"].as_u64() == Some(0)).then_some(()));
    assert_eq!(disk(&node)["objects"].as_u64(), Some(0));
    assert!(!node.get("/a").is_hit());
}

#[test]
fn what_is_too_large_for_the_disk_is_passed_on_whole() {
    let body = noise();
    let answer = body.clone();
    let stated = Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=3600"], &answer));
    let (answer, gate) = (body.clone(), Gate::default());
    gate.open();
    let unstated = Origin::start(move |_| in_two(&answer, false, &gate));
    for origin in [stated, unstated] {
        let directory = directory();
        let node = node(&directory, &origin, "max_object = \"5MiB\"", "");
        for _ in 0..2 {
            let response = node.get("/a");
            assert!(response.complete && response.body == body && !response.is_hit(), "{}", response.head);
        }
        assert_eq!(disk(&node)["objects"], 0);
    }
}

#[test]
fn a_fill_goes_on_without_clients_as_far_as_the_route_says() {
    let body = noise();
    for (finish, part, stored) in
        [("always", 0.1, true), ("never", 0.8, false), ("half", 0.3, false), ("half", 0.7, true)]
    {
        let (left, gone, answer) = (Gate::default(), Gate::default(), body.clone());
        let gates = (left.clone(), gone.clone());
        let origin = Origin::start(move |_| {
            let head = Reply::head(200, &["Cache-Control: max-age=3600", &format!("Content-Length: {}", answer.len())]);
            let (first, rest) = answer.split_at((answer.len() as f64 * part) as usize);
            // The node finds out that a client has left when it writes to it.
            let (noticed, rest) = rest.split_at(256 << 10);
            vec![
                Step::Send([&head, first].concat()),
                Step::Wait(gates.0.clone()),
                Step::Send(noticed.to_vec()),
                Step::Wait(gates.1.clone()),
                Step::Send(rest.to_vec()),
            ]
        });
        let directory = directory();
        let node = node(&directory, &origin, "", &format!(", finish_fill = \"{finish}\""));
        let mut client = node.client();
        client.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        client.head();
        let mut came = 0;
        while came < (LENGTH as f64 * part) as usize - 1 {
            came += client.read_some().len();
        }
        drop(client);
        left.open();
        eventually("the client is gone", || (node.admin("GET", "/v1/status", "").1["connections"] == 0).then_some(()));
        gone.open();
        eventually("the fill ends", || (node.admin("GET", "/v1/status", "").1["cache"]["fills"] == 0).then_some(()));
        let objects = || disk(&node)["objects"].as_u64() == Some(u64::from(stored));
        eventually("it is stored, or is not", || objects().then_some(()));
        assert_eq!(node.get("/a").is_hit(), stored, "{finish} {part}");
    }
}
