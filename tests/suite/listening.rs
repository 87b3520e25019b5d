//! Where clients connect: what a reload opens, changes and closes, sockets that come from elsewhere, and how a node leaves.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::client::Client;
use crate::harness::h2::certificate;
use crate::harness::node::site;
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Reply, Step, eventually};

const ROUTE: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

fn greeting() -> Origin {
    Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "hello"))
}

/// A configuration that listens there, by lines such as `address = "127.0.0.1:0"`.
fn listening(listeners: &[&str], rest: &str) -> String {
    let listeners: String = listeners.iter().map(|lines| format!("[[listen]]\n{lines}\n")).collect();
    format!("{listeners}[admin]\naddress = \"127.0.0.1:0\"\n{rest}")
}

/// Puts a configuration in force.
fn reload(node: &Node, config: &str) {
    let generation = node.generation();
    std::fs::write(node.config_path(), config).unwrap();
    node.wait_for_generation(generation + 1);
}

/// Where the node listens at this host, by its log.
fn address_of(node: &Node, host: &str) -> SocketAddr {
    let line = node.wait_for_log(&format!("listening address={host}:"));
    line.rsplit_once('=').unwrap().1.parse().unwrap()
}

#[test]
fn a_reload_opens_and_closes_listeners() {
    let origin = greeting();
    let of_inside = "[site.inside]\nhosts = [\"inside.example\"]\nlisten = [\"inside\"]\n[[site.inside.route]]\npath = \"/*\"\npool = \"app\"\n";
    let rest = format!("{}{of_inside}", site(&[origin.address], "", ROUTE));
    let (one, two) = ("address = \"127.0.0.1:0\"", "name = \"inside\"\naddress = \"127.0.0.2:0\"");
    let three = "name = \"inside\"\naddress = \"127.0.0.3:0\"";
    let node = Node::start(&listening(&[one, three], &rest));
    let first = address_of(&node, "127.0.0.1");
    reload(&node, &listening(&[two, one], &rest));
    let second = address_of(&node, "127.0.0.2");
    let mut inside = Client::connect(second);
    let of_inside = &["Host: inside.example"];
    assert_eq!(inside.get("/", of_inside).status, 200);
    assert_eq!(Client::connect(first).get("/", of_inside).status, 421, "its name has not moved with its place");
    let gone = address_of(&node, "127.0.0.3");
    eventually("the end of a listener", || Client::try_connect(gone).is_none().then_some(()));

    reload(&node, &listening(&[one, three], &rest));
    eventually("the end of a listener", || Client::try_connect(second).is_none().then_some(()));
    assert_eq!(Client::connect(first).get("/", &[]).status, 200, "it was open all the time");
    assert_eq!(inside.get("/", &[]).status, 200, "what is open stays open");
    assert_eq!(inside.get("/", of_inside).status, 421, "and is not taken for a listener that is there now");
    let listed = node.admin("GET", "/v1/config", "").1["listen"].to_string();
    assert!(listed.contains(&first.to_string()) && !listed.contains(&second.to_string()), "{listed}");
    assert_eq!(node.admin("GET", "/v1/status", "").1["config"]["needs_restart"], serde_json::json!([]));
}

#[test]
fn a_listener_that_cannot_be_opened_changes_nothing() {
    let origin = greeting();
    let rest = site(&[origin.address], "", ROUTE);
    let one = "address = \"127.0.0.1:0\"";
    let node = Node::start(&listening(&[one], &rest));
    let taken = TcpListener::bind("127.0.0.9:0").unwrap();
    let free = TcpListener::bind("127.0.0.8:0").unwrap().local_addr().unwrap();
    let address = taken.local_addr().unwrap();
    let both = [one, &format!("address = \"{free}\""), &format!("address = \"{address}\"")];
    std::fs::write(node.config_path(), listening(&both, &rest.replace("\"*\"", "\"other.example\""))).unwrap();
    node.wait_for_log(&format!("cannot listen on {address}: Address already in use"));
    node.wait_for_log("see who has it with ss -ltnp");
    assert_eq!((node.generation(), node.get("/").status), (1, 200));
    assert!(Client::try_connect(free).is_none(), "nor is the other open");
    drop(taken);
    node.signal("HUP");
    node.wait_for_generation(2);
    assert_eq!(Client::connect(address).get("/", &["Host: other.example"]).status, 200);
}

#[test]
fn tls_comes_and_goes_with_a_reload() {
    let origin = greeting();
    let directory = Arc::new(TempDir::new().unwrap());
    certificate(directory.path(), "shop", &["shop.example"]);
    let rest = site(&[origin.address], "", ROUTE);
    let plain = listening(&["address = \"127.0.0.1:0\""], &rest);
    let keys = "[[certificate]]\ncert = \"shop.pem\"\nkey = \"shop.key\"\n";
    let tls = listening(&["address = \"127.0.0.1:0\"\ntls = true"], &format!("{keys}{rest}"));
    let node = Node::start_in(directory, &plain);
    let mut before = node.client();
    assert_eq!(before.get("/", &[]).status, 200);
    let by_tls = || {
        let to = format!("shop.example:443:127.0.0.1:{}", node.address().port());
        let trust = node.directory.path().join("shop.pem");
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "20", "--connect-to", &to, "--cacert"]).arg(trust).arg("https://shop.example/");
        curl.output().unwrap().stdout
    };
    reload(&node, &tls);
    assert_eq!(by_tls(), b"hello");
    assert_eq!(before.get("/", &[]).status, 200, "what is open stays as it is");
    reload(&node, &plain);
    assert_eq!(by_tls(), b"");
    assert_eq!(node.get("/").status, 200);
}

#[test]
fn who_has_a_connection_is_told_before_the_node_leaves() {
    let origin = greeting();
    let mut node = Node::start(&site(&[origin.address], "", ROUTE));
    let (mut one, mut other) = (node.client(), node.client());
    assert_eq!([one.get("/", &[]).status, other.get("/", &[]).status], [200, 200]);
    node.signal("TERM");
    // Whoever asks all the time is told with an answer.
    let asked =
        eventually("the last answer", || Some(one.get("/", &[])).filter(|answer| answer.field("connection").is_some()));
    assert_eq!((asked.status, asked.field("connection")), (200, Some("close")));
    node.wait_for_log("clients are told to connect anew");
    assert!(other.is_closed(), "who has nothing to ask");
    assert!(node.wait());
}

#[test]
fn a_node_that_hands_over_leaves_what_runs_to_itself() {
    let gate = Gate::default();
    let waits = gate.clone();
    let origin = Origin::start(move |request| match request.path() {
        "/slow" => vec![
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nCache-Control: max-age=60\r\n\r\n01234".to_vec()),
            Step::Wait(waits.clone()),
            Step::Send(b"56789".to_vec()),
        ],
        _ => Reply::ok(&["Cache-Control: max-age=60"], "hello"),
    });
    let directory = Arc::new(TempDir::new().unwrap());
    let path = directory.path();
    let (state, disk) = (path.join("state"), path.join("disk"));
    let config = format!(
        "[node]\nstate_dir = \"{}\"\n[cache.disk]\npath = \"{}\"\nmax_size = \"1GiB\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\n{}",
        state.display(),
        disk.display(),
        site(&[origin.address], "", ROUTE)
    );
    let file = path.join("seawall.toml");
    std::fs::write(&file, config).unwrap();
    let arguments = ["run", "--handover", "--config", file.to_str().unwrap()];
    let mut first = Node::spawn(directory.clone(), &arguments);
    assert_eq!(first.get("/kept").text(), "hello");
    let (mut slow, mut silent) = (first.client(), first.client());
    slow.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert!(slow.head().starts_with("HTTP/1.1 200"));
    let begun = Instant::now();
    first.signal("TERM");
    assert!(first.wait());
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "it has 30 s to drain, and took {took:?}");

    let second = Node::spawn(directory, &arguments);
    assert!(second.get("/kept").is_hit(), "the disk is the next one's");
    second.purge("{\"all\": true}");
    assert!(!second.get("/kept").is_hit());
    // Who connected before may still ask, and gets nothing that a purge may have hit.
    let late = silent.get("/kept", &[]);
    assert_eq!((late.status, late.text().as_str()), (200, "hello"));
    assert!(late.field("cache-status").unwrap().contains("fwd=bypass"), "{}", late.head);
    gate.open();
    let mut rest = slow.read_some();
    while rest.len() < 10 {
        rest.extend(slow.read_some());
    }
    assert_eq!(rest, b"0123456789");
}

#[test]
fn a_node_that_dies_takes_its_parent_along_and_the_other_way_round() {
    let origin = greeting();
    let directory = Arc::new(TempDir::new().unwrap());
    let file = directory.path().join("seawall.toml");
    std::fs::write(&file, listening(&["address = \"127.0.0.1:0\""], &site(&[origin.address], "", ROUTE))).unwrap();
    let arguments = ["run", "--handover", "--config", file.to_str().unwrap()];
    let child_of = |node: &Node| {
        let of = format!("/proc/{0}/task/{0}/children", node.pid());
        std::fs::read_to_string(of).unwrap().trim().to_owned()
    };
    let mut node = Node::spawn(directory.clone(), &arguments);
    assert!(Command::new("kill").args(["-KILL", &child_of(&node)]).status().unwrap().success());
    assert!(!node.wait());
    node.wait_for_log("the node was ended by signal 9");
    let mut node = Node::spawn(directory, &arguments);
    node.kill();
    eventually("the end of the child", || Client::try_connect(node.address()).is_none().then_some(()));
}

#[test]
fn sockets_of_a_unit_are_taken() {
    let origin = greeting();
    let directory = Arc::new(TempDir::new().unwrap());
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (own, other) = (free(), free());
    let path = directory.path().join("http.sock");
    let lines = [format!("address = \"{own}\""), format!("address = \"unix:{}\"\nmode = \"0666\"", path.display())];
    let config = listening(&[&lines[0], &lines[1]], &site(&[origin.address], "", ROUTE));
    let file = directory.path().join("seawall.toml");
    std::fs::write(&file, config).unwrap();
    // It starts the node when the first client comes, who is there before it.
    let coming = std::thread::spawn(move || {
        let mut client = eventually("a socket", || Client::try_connect(own));
        client.get("/", &[]).status
    });
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &own.to_string(), "-l", path.to_str().unwrap(), "-l", &other.to_string()]);
    command.args([env!("CARGO_BIN_EXE_seawall"), "run", "--config", file.to_str().unwrap()]);
    let node = Node::run(directory, command, &[]);
    assert_eq!(coming.join().unwrap(), 200);
    node.wait_for_log(&format!(
        "a socket unit listens on an address that no [[listen]] has: who connects there waits in vain address={other}"
    ));
    let answer = Command::new("curl")
        .args(["-s", "--max-time", "20", "--unix-socket"])
        .arg(&path)
        .arg("http://shop.example/")
        .output();
    assert_eq!(answer.unwrap().stdout, b"hello");
}

#[test]
fn a_socket_that_was_handed_over_is_closed_by_a_reload() {
    let origin = greeting();
    let directory = Arc::new(TempDir::new().unwrap());
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (own, other) = (free(), free());
    let rest = site(&[origin.address], "", ROUTE);
    let lines = [own, other].map(|address| format!("address = \"{address}\""));
    let file = directory.path().join("seawall.toml");
    std::fs::write(&file, listening(&[&lines[0], &lines[1]], &rest)).unwrap();
    let coming = std::thread::spawn(move || eventually("a socket", || Client::try_connect(own)).get("/", &[]).status);
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &own.to_string(), "-l", &other.to_string(), env!("CARGO_BIN_EXE_seawall")]);
    command.args(["run", "--handover", "--config", file.to_str().unwrap()]);
    let node = Node::run(directory, command, &[]);
    assert_eq!(coming.join().unwrap(), 200);
    assert_eq!(Client::connect(other).get("/", &[]).status, 200);
    reload(&node, &listening(&[&lines[1]], &rest));
    eventually("nobody listens, the parent neither", || Client::try_connect(own).is_none().then_some(()));
    reload(&node, &listening(&[&lines[0], &lines[1]], &rest));
    assert_eq!(Client::connect(own).get("/", &[]).status, 200, "and it can be had again");
}
