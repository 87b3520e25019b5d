//! The program as an operator meets it: commands, signals, logs.

use std::process::{Command, Output};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::node::{complete, site};
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Reply, Step, eventually};

const CACHED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

/// Runs a command that ends by itself.
pub fn seawall(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seawall")).args(arguments).output().unwrap()
}

fn hello() -> Origin {
    Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "hello"))
}

#[test]
fn stopping_lets_running_requests_end() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| match request.path() {
        "/slow" => {
            let mut steps = vec![Step::Wait(for_origin.clone())];
            steps.extend(Reply::ok(&[], "done"));
            steps
        }
        _ => Reply::ok(&["Cache-Control: max-age=60"], "x"),
    });
    let mut node = Node::caching(origin.address);
    let mut idle = node.client();
    assert_eq!(idle.get("/a", &[]).status, 200);
    let mut running = node.client();
    running.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(2);
    node.signal("TERM");
    assert!(idle.is_closed(), "idle connections are closed");
    eventually("no new connections", || std::net::TcpStream::connect(node.address()).is_err().then_some(()));
    assert_eq!(node.admin("GET", "/readyz", "").0, 503);
    assert_eq!(node.admin("GET", "/healthz", "").0, 200);
    gate.open();
    let response = running.response("GET");
    assert_eq!((response.status, response.text().as_str()), (200, "done"));
    assert_eq!(response.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
    assert!(node.wait());
}

#[test]
fn a_second_signal_ends_at_once_and_the_timeout_ends_it_too() {
    let origin = Origin::start(|_| vec![Step::Wait(Gate::default())]);
    for (timeout, second) in [("1h", true), ("100ms", false)] {
        let config = format!("[node]\ndrain_timeout = \"{timeout}\"\n{}", site(&[origin.address], "", CACHED));
        let mut node = Node::start(&config);
        let mut running = node.client();
        let before = origin.count();
        running.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        origin.wait_for(before + 1);
        node.signal("TERM");
        node.wait_for_log("stopping");
        assert!(node.is_running());
        if second {
            node.signal("TERM");
        }
        assert!(node.wait());
    }
}

#[test]
fn check_tells_every_mistake_with_its_place() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bad.toml");
    let expected = include_str!("golden/mistakes.txt");
    std::fs::write(&path, include_str!("golden/mistakes.toml")).unwrap();
    let output = seawall(&["check", path.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap().replace(path.to_str().unwrap(), "bad.toml");
    assert_eq!(text, expected, "\n--- got ---\n{text}");
    assert!(!output.status.success());
    let good = directory.path().join("good.toml");
    std::fs::write(&good, complete("")).unwrap();
    let output = seawall(&["check", good.to_str().unwrap()]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("good.toml: ok (0 sites, 0 pools)\n"));
}

#[test]
fn a_node_needs_no_file() {
    let origin = hello();
    let to = format!("http://{}", origin.address);
    let directory = Arc::new(TempDir::new().unwrap());
    let node = Node::spawn(directory, &["run", "--listen", "127.0.0.1:0", "--to", &to]);
    assert_eq!(node.get("/a").text(), "hello");
    assert!(node.get("/a").is_hit());
}

#[test]
fn start_up_mistakes_are_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    std::fs::write(&path, format!("[[listen]]\naddress = \"{}\"\n", taken.local_addr().unwrap())).unwrap();
    let empty = directory.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    for (arguments, part) in [
        (&["run", "--config", "/nowhere/seawall.toml"][..], "cannot be read"),
        (&["run", "--config", path.to_str().unwrap()], "cannot listen on"),
        (&["run", "--config", empty.to_str().unwrap()], "there is no [[listen]]"),
        (&["run", "--to", "nonsense"], "expected an origin such as"),
        (&["status", "--admin", "http://127.0.0.1:1"], "cannot reach the admin API"),
        (&["purge"], "required arguments"),
    ] {
        let output = seawall(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(part), "{arguments:?}: {text}");
    }
}

#[test]
fn purge_and_status_talk_to_a_running_node() {
    let origin = hello();
    let node = Node::caching(origin.address);
    node.get("/a");
    let admin = format!("http://{}", node.admin);
    let run = |arguments: &[&str]| {
        let output = seawall(&[arguments, &["--admin", &admin]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["purge", "http://shop.example/a"]).starts_with("purged: number 1"));
    assert!(!node.get("/a").is_hit());
    for arguments in [
        &["--prefix", "http://shop.example/"][..],
        &["--tag", "a", "--tag", "b"],
        &["--site", "shop"],
        &["--all", "--soft"],
    ] {
        run(&[&["purge"], arguments].concat());
    }
    let status = run(&["status"]);
    for part in ["seawall serving", "purges   number 5", "pool     app (round_robin)", &origin.address.to_string()] {
        assert!(status.contains(part), "{part} in\n{status}");
    }
}

#[test]
fn the_access_log_has_a_line_for_each_request_and_follows_a_rotation() {
    let origin = hello();
    let directory = Arc::new(TempDir::new().unwrap());
    let log = directory.path().join("access.log");
    let config = format!("[log]\naccess = \"{}\"\n{}", log.display(), site(&[origin.address], "", CACHED));
    let node = Node::start_in(directory.clone(), &config);
    let lines = |path: &std::path::Path, count: usize| {
        eventually("lines of the access log", || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (lines.len() == count).then_some(lines)
        })
    };
    node.get_with("/a?q='\\", &["User-Agent: test \"agent\""]);
    node.get("/a?q='\\");
    node.client().request("POST", "/p", &[], "body");
    node.client().send("nonsense\r\n\r\n");
    let seen = lines(&log, 4);
    let find = |cache: &str| seen.iter().find(|line| line["cache"] == cache).expect(cache);
    assert_eq!(find("miss")["user_agent"], "test \"agent\"");
    assert_eq!((find("hit")["query"].as_str(), find("hit")["bytes"].as_u64()), (Some("q='\\"), Some(5)));
    assert_eq!((find("pass")["method"].as_str(), find("pass")["status"].as_u64()), (Some("POST"), Some(200)));
    assert_eq!(find("none")["status"], 400);
    let rotated = directory.path().join("access.log.1");
    std::fs::rename(&log, &rotated).unwrap();
    node.signal("USR1");
    eventually("a new file", || log.exists().then_some(()));
    node.get("/after");
    assert_eq!(lines(&log, 1)[0]["path"], "/after");
    assert_eq!(lines(&rotated, 4).len(), 4);
}

#[test]
fn an_access_log_that_cannot_be_written_is_tried_again() {
    let origin = hello();
    let directory = Arc::new(TempDir::new().unwrap());
    let later = directory.path().join("later");
    let log = later.join("access.log");
    let config = format!("[log]\naccess = \"{}\"\n{}", log.display(), site(&[origin.address], "", CACHED));
    let node = Node::start_in(directory.clone(), &config);
    node.wait_for_log("cannot open the access log");
    node.get("/a");
    eventually("a lost line", || (node.metric("seawall_access_log_dropped_total") == Some(1.0)).then_some(()));
    std::fs::create_dir(&later).unwrap();
    node.wait_for_log("the access log is written again");
    node.get("/b");
    eventually("a line", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"/b\"")).then_some(()));
}

#[test]
fn metrics_count_by_site_with_bounded_labels() {
    let origin = hello();
    let node = Node::caching(origin.address);
    node.get("/a");
    node.get("/a");
    for i in 0..20 {
        node.get_with("/a", &[&format!("Host: made-up-{i}.example")]);
    }
    let count = |cache: &str| node.metric(&format!("seawall_requests_total{{cache=\"{cache}\",site=\"shop\"}}"));
    eventually("all requests counted", || (count("miss") == Some(21.0) && count("hit") == Some(1.0)).then_some(()));
    let (_, text) = node.admin("GET", "/metrics", "");
    assert!(!text.to_string().contains("made-up"), "no label comes from a client");
}

#[test]
fn the_demo_shows_hits_and_misses() {
    let directory = Arc::new(TempDir::new().unwrap());
    let node = Node::spawn(directory, &["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert!(node.get("/").text().contains("<h1>Seawall</h1>"));
    assert!(node.get("/static/style.css").cache().contains("fwd=uri-miss"));
    assert!(node.get("/static/style.css").is_hit());
    assert!(node.get("/time").text().starts_with("harbour-"));
    node.purge(r#"{"tags": ["assets"]}"#);
    assert!(!node.get("/static/style.css").is_hit());
    assert!(node.stdout().contains("curl -i http://"));
}
