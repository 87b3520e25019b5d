//! Origins that are found while the node runs: by names, by the records of a service, in files; and those behind Unix sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::dns::{NameServer, Say};
use crate::harness::node::complete;
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Reply, Step, eventually};

const SITE: &str = "[site.shop]\nhosts = [\"*\"]\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";

/// Origins at different addresses with one port, which say who they are.
fn at_addresses(addresses: &[&'static str]) -> (u16, Vec<Origin>) {
    'again: loop {
        let first = Origin::start(|_| Reply::ok(&[], "127.0.0.1"));
        let port = first.address.port();
        let mut origins = vec![first];
        for &address in addresses {
            if std::net::TcpListener::bind((address, port)).is_err() {
                continue 'again; // somebody else has it there
            }
            origins.push(Origin::start_at(&format!("{address}:{port}"), move |_| Reply::ok(&[], address)));
        }
        return (port, origins);
    }
}

fn config(server: Option<&NameServer>, pool: &str) -> String {
    let resolvers = server.map(|server| format!("[node]\nresolvers = [\"{}\"]\n", server.address)).unwrap_or_default();
    complete(&format!("{resolvers}[pool.app]\n{pool}\n{SITE}"))
}

fn pool(node: &Node) -> Value {
    node.admin("GET", "/v1/pools", "").1["pools"][0].clone()
}

fn origins(node: &Node) -> Vec<String> {
    pool(node)["origins"].as_array().unwrap().iter().map(|one| one["address"].as_str().unwrap().to_owned()).collect()
}

/// Waits until all answers are from one; every request has an answer.
fn wait_for_answers_of(node: &Node, name: &str) {
    eventually(name, || {
        let answers: Vec<_> = (0..4).map(|_| node.get("/")).collect();
        assert!(answers.iter().all(|answer| answer.status == 200), "nobody is to notice");
        answers.iter().all(|answer| answer.text() == name).then_some(())
    });
}

#[test]
fn a_name_is_asked_again_when_its_time_is_over_and_what_has_gone_is_drained() {
    let server = NameServer::start();
    let gate = Gate::default();
    let for_origin = gate.clone();
    let slow = Origin::start(move |request| match request.path() {
        "/slow" => vec![
            Step::Send(Reply::head(200, &["Content-Length: 8"])),
            Step::Wait(for_origin.clone()),
            Step::Send(b"finished".to_vec()),
        ],
        _ => Reply::ok(&[], "127.0.0.1"),
    });
    let port = slow.address.port();
    let _other = Origin::start_at(&format!("127.0.0.2:{port}"), |_| Reply::ok(&[], "127.0.0.2"));
    server.set_addresses("app.test", 1, &["127.0.0.1"]);
    let node = Node::start(&config(Some(&server), &format!("origins = [\"app.test:{port}\"]")));
    assert_eq!(node.get("/").text(), "127.0.0.1");
    let mut going = node.client();
    going.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    slow.wait_for(2);
    server.set_addresses("app.test", 1, &["127.0.0.2"]);
    wait_for_answers_of(&node, "127.0.0.2");
    gate.open();
    assert_eq!(going.response("GET").text(), "finished", "what was under way goes to its end");
    eventually("no connection is kept to where it was", || (connections_to(port) == 0).then_some(()));
    // No answer, an error, and no such name: it stays where it was.
    for say in [Say::Nothing, Say::Failure, Say::NoSuchName, Say::Records(1, Vec::new())] {
        let asked = server.asked();
        server.say("app.test", RecordType::A, say.clone());
        server.say("app.test", RecordType::AAAA, say);
        eventually("it is asked", || (server.asked() > asked + 2).then_some(()));
        wait_for_answers_of(&node, "127.0.0.2");
    }
    node.wait_for_log("it keeps those it had");
    server.set_addresses("app.test", 60, &["127.0.0.1"]);
    wait_for_answers_of(&node, "127.0.0.1");
}

/// An address at which nobody takes connections: its queue is full. What is given keeps it so.
fn full(address: &str) -> (SocketAddr, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let listener = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
    bind(&listener, &address.parse::<SocketAddr>().unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    let at = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    std::mem::forget(listener); // as long as the process lives
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(300)) {
        waiting.push(stream);
    }
    (at, waiting)
}

#[test]
fn where_one_family_says_nothing_the_other_is_tried_soon() {
    let server = NameServer::start();
    let (silent, _waiting) = full("[::1]:0");
    let origin = Origin::start_at(&format!("127.0.0.1:{}", silent.port()), |_| Reply::ok(&["Connection: close"], "v4"));
    server.set_addresses("app.test", 60, &["::1", "127.0.0.1"]);
    let pool = format!("origins = [\"app.test:{}\"]\nconnect_timeout = \"30s\"\nretries = 0", silent.port());
    let node = Node::start(&config(Some(&server), &pool));
    let began = Instant::now();
    (0..12).for_each(|number| assert_eq!(node.get(&format!("/{number}")).text(), "v4"));
    assert!(began.elapsed() < Duration::from_secs(25), "none has waited for the silent one");
    assert_eq!(origin.count(), 12);
    eventually("it is left alone", || pool_down(&node).contains("[::1]").then_some(()));
    let told = node.wait_for_log("and one to 127.0.0.1");
    assert!(told.contains("no connection to [::1]"), "{told}");
}

fn pool_down(node: &Node) -> String {
    pool(node)["origins"][0]["down"].to_string()
}

/// Connections to a port of 127.0.0.1 that are open, as the machine says (proc_net_tcp(5)).
fn connections_to(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let is_one =
        |line: &&str| line.split_whitespace().skip(2).take(2).eq([format!("0100007F:{port:04X}").as_str(), "01"]);
    table.lines().filter(is_one).count()
}

#[test]
fn a_family_that_nothing_is_heard_of_keeps_its_addresses() {
    let server = NameServer::start();
    let (port, _origins) = at_addresses(&["127.0.0.2"]);
    server.set_addresses("app.test", 1, &["127.0.0.1", "::2"]);
    let node = Node::start(&config(Some(&server), &format!("origins = [\"app.test:{port}\"]\nretries = 3")));
    let resolved = || pool(&node)["origins"][0]["resolved"].to_string();
    assert_eq!(resolved(), format!("[\"127.0.0.1:{port}\",\"[::2]:{port}\"]"));
    server.say("app.test", RecordType::AAAA, Say::Failure);
    server.say(
        "app.test",
        RecordType::A,
        Say::Records(1, vec!["127.0.0.2".parse::<std::net::IpAddr>().unwrap().into()]),
    );
    eventually("the other", || (resolved() == format!("[\"127.0.0.2:{port}\",\"[::2]:{port}\"]")).then_some(()));
}

#[test]
fn records_of_a_service_are_origins_and_those_that_stay_keep_their_state() {
    let server = NameServer::start();
    let (port, all) = at_addresses(&["127.0.0.2", "127.0.0.3"]);
    for (host, address) in [("a.test", "127.0.0.1"), ("b.test", "127.0.0.2"), ("c.test", "127.0.0.3")] {
        server.set_addresses(host, 60, &[address]);
    }
    server.set_targets(
        "_http._tcp.app.test",
        1,
        &[(10, 3, port, "a.test"), (10, 1, port, "b.test"), (20, 0, port, "c.test")],
    );
    let node = Node::start(&config(Some(&server), "origins = [{ srv = \"_http._tcp.app.test\" }]"));
    assert_eq!(origins(&node), [format!("a.test:{port}"), format!("b.test:{port}"), format!("c.test:{port}")]);
    (0..40).for_each(|_| assert_eq!(node.get("/").status, 200));
    assert_eq!([all[0].count(), all[1].count(), all[2].count()], [30, 10, 0], "by weight, and by priority");
    let drain = format!("/v1/pools/app/origins/a.test:{port}/drain");
    assert_eq!(node.admin("POST", &drain, "").0, 200);
    server.set_targets("_http._tcp.app.test", 1, &[(10, 3, port, "a.test"), (20, 0, port, "c.test")]);
    wait_for_answers_of(&node, "127.0.0.3");
    let told = node.wait_for_log("the origins of a pool have changed");
    assert!(told.contains("SRV records of _http._tcp.app.test"), "{told}");
    let stayed = pool(&node)["origins"][0].clone();
    assert_eq!((&stayed["status"], &stayed["requests"]), (&Value::from("draining"), &Value::from(30)));
    server.say("_http._tcp.app.test", RecordType::SRV, Say::NoSuchName);
    node.wait_for_log("the pool keeps the 2 it had from there");
    assert_eq!(node.get("/").text(), "127.0.0.3");
    assert!(pool(&node)["sources"][0]["error"].as_str().unwrap().contains("no such name"));
}

#[test]
fn those_that_leave_stay_until_one_of_the_new_ones_has_an_address() {
    let server = NameServer::start();
    let (port, all) = at_addresses(&["127.0.0.2"]);
    server.set_addresses("old.test", 60, &["127.0.0.1"]);
    server.set_targets("_http._tcp.app.test", 1, &[(0, 0, port, "old.test")]);
    let node = Node::start(&config(Some(&server), "origins = [{ srv = \"_http._tcp.app.test\" }]"));
    assert_eq!(node.get("/").text(), "127.0.0.1");
    server.say("new.test", RecordType::A, Say::Nothing);
    server.say("new.test", RecordType::AAAA, Say::Nothing);
    server.set_targets("_http._tcp.app.test", 1, &[(0, 0, port, "new.test")]);
    eventually("it is known", || origins(&node).contains(&format!("new.test:{port}")).then_some(()));
    wait_for_answers_of(&node, "127.0.0.1");
    server.set_addresses("new.test", 60, &["127.0.0.2"]);
    wait_for_answers_of(&node, "127.0.0.2");
    assert_eq!(origins(&node), [format!("new.test:{port}")]);
    assert!(all[1].count() > 0);
}

#[test]
fn each_address_of_a_name_may_be_an_origin() {
    let server = NameServer::start();
    let (port, all) = at_addresses(&["127.0.0.2"]);
    server.set_addresses("app.test", 1, &["127.0.0.1", "127.0.0.2"]);
    let pool = format!("origins = [{{ address = \"app.test:{port}\", each_address = true }}]");
    let node = Node::start(&config(Some(&server), &pool));
    assert_eq!(origins(&node), [format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}")]);
    (0..10).for_each(|_| assert_eq!(node.get("/").status, 200));
    assert_eq!([all[0].count(), all[1].count()], [5, 5]);
    server.set_addresses("app.test", 1, &["127.0.0.2"]);
    eventually("one of them", || (origins(&node) == [format!("127.0.0.2:{port}")]).then_some(()));
}

#[test]
fn a_file_has_the_origins_and_a_mistake_in_it_changes_nothing() {
    let directory = Arc::new(TempDir::new().unwrap());
    let [one, other] = ["one", "other"].map(|name| Origin::start(move |_| Reply::ok(&[], name)));
    let file = directory.path().join("app.toml");
    let write = |text: &str| {
        // As orchestrators do: the file is there whole, or not at all.
        let aside = directory.path().join("app.new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, &file).unwrap();
    };
    let list = |of: &Origin| format!("origins = [\"{}\"]", of.address);
    let mut node = Node::start_in(directory.clone(), &config(None, "origins_file = \"app.toml\""));
    assert_eq!(node.get("/").status, 503, "it is not there yet");
    node.wait_for_log("there is no such file");
    write(&list(&one));
    eventually("the first", || (node.get("/").status == 200).then_some(()));
    write(&list(&other));
    wait_for_answers_of(&node, "other");
    write("origins = [\"10.0.0.1:0\"]");
    let told = node.wait_for_log("has port 0");
    assert!(told.contains("origins cannot be found") && told.contains("app.toml:1:12"), "{told}");
    assert_eq!(node.get("/").text(), "other");
    // Nor does a reload, which says what is wrong, or the file's removal.
    fs::remove_file(&file).unwrap();
    node.wait_for_log("the pool keeps the 1 it had from there");
    let generation = node.generation();
    let text = fs::read_to_string(node.config_path()).unwrap();
    fs::write(node.config_path(), text.replace("[pool.app]", "[pool.app]\nretries = 2")).unwrap();
    node.wait_for_generation(generation + 1);
    assert_eq!(node.get("/").text(), "other", "what was found outlives a reload");
    assert!(node.is_running());
}

#[test]
fn an_origin_may_be_behind_a_unix_socket() {
    let directory = Arc::new(TempDir::new().unwrap());
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = connections.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsocket").unwrap();
                }
            });
        }
    });
    let pool = format!("origins = [\"unix:{}\"]\nhealth = {{ path = \"/\", interval = \"20ms\" }}", path.display());
    let node = Node::start_in(directory.clone(), &config(None, &pool));
    (0..5).for_each(|_| assert_eq!(node.get("/").text(), "socket"));
    eventually("checks", || (pool_checks(&node) > 2).then_some(()));
    assert_eq!(pool_status(&node), "up");
    fs::remove_file(&path).unwrap();
    eventually("it is down", || (pool_status(&node) == "down").then_some(()));
}

fn pool_checks(node: &Node) -> u64 {
    pool(node)["origins"][0]["checks"]["passed"].as_u64().unwrap()
}

fn pool_status(node: &Node) -> String {
    pool(node)["origins"][0]["status"].as_str().unwrap().to_owned()
}
