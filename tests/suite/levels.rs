//! Which priority and region gets requests, and what operators order of origins.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::client::Response;
use crate::harness::node::{complete, site};
use crate::harness::origin::Gate;
use crate::harness::{Client, Node, Origin, Reply, Step, eventually};

/// An origin that says whether it is well.
struct Checked {
    origin: Origin,
    is_well: Arc<AtomicBool>,
}

impl Checked {
    fn start(name: &'static str) -> Self {
        let is_well = Arc::new(AtomicBool::new(true));
        let well = is_well.clone();
        let origin = Origin::start(move |request| match request.path() {
            "/health" if !well.load(Ordering::Relaxed) => Reply::status(503, &[], ""),
            _ => Reply::ok(&[], name),
        });
        Checked { origin, is_well }
    }

    fn entry(&self, rest: &str) -> String {
        format!("{{ address = \"{}\"{rest} }}", self.origin.address)
    }

    fn turn(&self, node: &Node, is_well: bool) {
        self.is_well.store(is_well, Ordering::Relaxed);
        node.wait_for_origin("app", self.origin.address, if is_well { "up" } else { "down" });
    }
}

fn node(head: &str, pool: &str, origins: &[String]) -> Node {
    let health = "health = { path = \"/health\", interval = \"20ms\", rise = 1, fall = 1 }";
    let site = "[site.shop]\nhosts = [\"*\"]\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    Node::start(&format!("{head}[pool.app]\norigins = [{}]\n{health}\n{pool}\n{site}", origins.join(", ")))
}

/// How many of so many requests each name has answered; all were answered.
fn answered(node: &Node, requests: usize, name: &str) -> usize {
    let mut client = node.client();
    let answers: Vec<String> = (0..requests)
        .map(|number| {
            let answer = client.get(&format!("/{number}"), &[]);
            assert_eq!(answer.status, 200);
            answer.text()
        })
        .collect();
    answers.iter().filter(|answer| *answer == name).count()
}

fn levels(node: &Node) -> Vec<Value> {
    node.admin("GET", "/v1/pools", "").1["pools"][0]["levels"].as_array().unwrap().clone()
}

#[test]
fn requests_go_to_the_own_region_and_what_it_cannot_take_to_the_next() {
    let [a, b] = [(); 2].map(|()| Checked::start("eu"));
    let [c, d] = [(); 2].map(|()| Checked::start("us"));
    let origins = [
        c.entry(", region = \"us\""),
        a.entry(", region = \"eu\""),
        b.entry(", region = \"eu\""),
        d.entry(", region = \"us\""),
    ];
    let node = node("[node]\nregion = \"eu\"\n", "failback_after = \"1s\"", &origins);
    assert_eq!(answered(&node, 20, "eu"), 20);
    a.turn(&node, false);
    // Half of it is well, and that takes 5/7 of the requests.
    let some = answered(&node, 400, "eu");
    assert!((220..350).contains(&some), "{some}");
    b.turn(&node, false);
    assert_eq!(answered(&node, 20, "us"), 20);
    let told = node.wait_for_log("the requests of a pool go to other levels");
    assert!(told.contains("priority 1"), "{told}");
    a.turn(&node, true);
    b.turn(&node, true);
    eventually("all of it again", || (levels(&node)[0]["share"] == 1.0).then_some(()));
    assert_eq!(answered(&node, 20, "eu"), 20);
}

#[test]
fn priorities_come_before_regions_and_a_level_that_is_drained_is_passed_over() {
    let (first, spare) = (Checked::start("first"), Checked::start("spare"));
    let origins = [spare.entry(", priority = 2"), first.entry(", region = \"us\"")];
    let node = node("[node]\nregion = \"eu\"\n", "", &origins);
    assert_eq!(answered(&node, 10, "first"), 10);
    let drain = |what: &str| node.admin("POST", &format!("/v1/pools/app/origins/{}/{what}", first.origin.address), "");
    assert_eq!(drain("drain").1["durable"], false);
    assert_eq!(answered(&node, 10, "spare"), 10);
    drain("enable");
    assert_eq!(answered(&node, 10, "first"), 10);
}

#[test]
fn in_a_panic_all_are_asked() {
    let all = [(); 3].map(|()| Checked::start("origin"));
    let origins = all.each_ref().map(|one| one.entry(""));
    let node = node("", "panic_at = 0.5\nretries = 0", &origins);
    all[0].turn(&node, false);
    answered(&node, 9, "origin");
    let before = all[0].origin.requests().iter().filter(|request| request.path() != "/health").count();
    all[1].turn(&node, false);
    eventually("the panic", || (levels(&node)[0]["panic"] == true).then_some(()));
    answered(&node, 9, "origin");
    let after = all[0].origin.requests().iter().filter(|request| request.path() != "/health").count();
    assert!(after > before, "it is down, and asked");
}

#[test]
fn what_is_ordered_of_an_origin_outlives_reloads_and_restarts() {
    let (one, other) = (Checked::start("one"), Checked::start("other"));
    let directory = Arc::new(TempDir::new().unwrap());
    let site = "[site.shop]\nhosts = [\"*\"]\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    let config = complete(&format!(
        "[node]\nstate_dir = \"state\"\n[pool.app]\norigins = [{}, {}]\n{site}",
        one.entry(""),
        other.entry("")
    ));
    let mut node = Node::start_in(directory.clone(), &config);
    let pools = |node: &Node, arguments: &[&str]| {
        let admin = format!("http://{}", node.admin);
        let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
            .args(["pools", "--admin", &admin])
            .args(arguments)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let name = one.origin.address.to_string();
    let (ok, said) = pools(&node, &["weight", "app", &name, "3"]);
    assert!(ok && said.contains("up, weight 3, ") && !said.contains("forgets"), "{said}");
    assert_eq!(answered(&node, 8, "one"), 6);
    assert!(!pools(&node, &["weight", "app", &name, "0"]).0);
    let (ok, said) = pools(&node, &["drain", "app", &name]);
    assert!(ok && said.contains("draining, weight 3"), "{said}");
    node.kill();
    let node = Node::start_in(directory, &config);
    let shown = node.origin("app", one.origin.address);
    assert_eq!((shown["status"].as_str(), shown["weight"].as_u64()), (Some("draining"), Some(3)));
    assert_eq!(answered(&node, 8, "other"), 8);
    let (_, said) = pools(&node, &[]);
    assert!(said.contains("draining") && said.contains("weight 3"), "{said}");
    pools(&node, &["enable", "app", &name]);
    assert!(pools(&node, &["weight", "app", &name]).0);
    assert_eq!(answered(&node, 8, "one"), 4);
}

/// A pool whose one origin takes one request at a time, which lasts until the gate is opened.
fn narrow(pool: &str) -> (Node, Origin, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::start(move |request| match request.path() {
        "/held" => [vec![Step::Wait(held.clone())], Reply::ok(&[], "held")].concat(),
        _ => Reply::ok(&[], "answered"),
    });
    let node = Node::start(&site(&[origin.address], pool, "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n"));
    (node, origin, gate)
}

fn send(node: &Node, path: &str) -> Client {
    let mut client = node.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
    client
}

#[test]
fn who_finds_no_room_waits_for_it_and_no_more_than_may() {
    let (node, origin, gate) = narrow("max_requests = 1\nqueue = { max = 2, timeout = \"20s\" }\n");
    let mut held = send(&node, "/held");
    origin.wait_for(1);
    let mut waiting = [send(&node, "/1"), send(&node, "/2")];
    let queued = || node.admin("GET", "/v1/pools", "").1["pools"][0]["queue"]["waiting"] == 2;
    eventually("two that wait", || queued().then_some(()));
    let refused = node.get("/3");
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("20")));
    assert_eq!(origin.count(), 1);
    gate.open();
    assert_eq!(held.response("GET").status, 200);
    for client in &mut waiting {
        assert_eq!(client.response("GET").text(), "answered");
    }
    assert_eq!(node.get("/4").text(), "answered");
}

#[test]
fn who_waits_too_long_is_told_so_and_leaves_no_place_behind() {
    let (node, origin, gate) = narrow("max_requests = 1\nqueue = { max = 1, timeout = \"100ms\" }\n");
    let mut held = send(&node, "/held");
    origin.wait_for(1);
    for _ in 0..3 {
        assert_eq!(node.get("/late").status, 503);
    }
    let told = "all origins of pool app are busy, and none had room in time; see its max_requests and queue";
    eventually("the reason in the access log", || node.stdout().contains(told).then_some(()));
    gate.open();
    assert_eq!(held.response("GET").status, 200);
    assert_eq!(node.get("/4").text(), "answered");
    assert_eq!(node.origin("app", origin.address)["active"], 0);
}

/// The cookie that a response sets.
fn cookie_of(answer: &Response) -> Option<String> {
    answer.field("set-cookie").map(|set| set.split(';').next().unwrap().to_owned())
}

#[test]
fn a_session_stays_at_its_origin_until_that_is_gone() {
    let answer = |name: &'static str| {
        Origin::start(move |request| {
            Reply::ok(&[&format!("X-Cookies: {}", request.field("cookie").unwrap_or("none"))], name)
        })
    };
    let origins = [answer("a"), answer("b"), answer("c")];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let directory = Arc::new(TempDir::new().unwrap());
    let key = directory.path().join("sticky.key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    let config = |addresses: &[std::net::SocketAddr]| {
        let pool = format!("sticky = {{ cookie = \"at\", key = \"file:{}\" }}\n", key.display());
        complete(&site(addresses, &pool, "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n"))
    };
    let mut node = Node::start_in(directory.clone(), &config(&addresses));
    let first = node.get("/");
    let cookie = cookie_of(&first).expect("a cookie");
    assert!(first.field("set-cookie").unwrap().ends_with("; Path=/; HttpOnly; SameSite=Lax"));
    let field = format!("Cookie: theme=dark; {cookie}");
    let again = |node: &Node| node.get_with("/", &[&field]);
    for _ in 0..6 {
        let answer = again(&node);
        assert_eq!((answer.text(), cookie_of(&answer)), (first.text(), None));
        assert_eq!(answer.field("x-cookies"), Some("theme=dark"), "it is between the client and the node");
    }
    // Others get other origins, and one who makes a cookie up is one of these.
    let others: Vec<String> = (0..6).map(|_| node.get_with("/", &["Cookie: at=0000000000000000"]).text()).collect();
    assert!(others.iter().any(|other| *other != first.text()));
    // A restart, and other origins beside it, change nothing.
    node.kill();
    let mut order = addresses;
    order.reverse();
    let more = [&order[..], &[Origin::start(|_| Reply::ok(&[], "new")).address]].concat();
    let node = Node::start_in(directory, &config(&more));
    for _ in 0..4 {
        assert_eq!(again(&node).text(), first.text());
    }
    let own = origins.iter().zip(["a", "b", "c"]).find(|(_, name)| *name == first.text()).unwrap().0.address;
    node.admin("POST", &format!("/v1/pools/app/origins/{own}/drain"), "");
    let moved = again(&node);
    assert_ne!(moved.text(), first.text());
    assert!(cookie_of(&moved).is_some_and(|new| new != cookie), "it is released, and stays at the new one");
}

#[test]
fn a_session_stays_on_a_route_that_caches_and_is_nobody_elses() {
    let answer = |name: &'static str| {
        Origin::start(move |request| match request.path().split('?').next().unwrap() {
            "/vary" => Reply::ok(
                &["Cache-Control: max-age=60", "Vary: Cookie"],
                format!("for {}", request.field("cookie").unwrap_or("nobody")),
            ),
            "/shared" => Reply::ok(&["Cache-Control: max-age=60"], "shared"),
            _ => Reply::ok(&["Cache-Control: private"], name),
        })
    };
    let origins = [answer("a"), answer("b"), answer("c")];
    let pool = "sticky = { cookie = \"at\", key = \"0123456789abcdef0123456789abcdef\" }\n";
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let node = Node::start(&site(&origins.each_ref().map(|origin| origin.address), pool, route));
    let first = node.get("/login");
    let cookie = cookie_of(&first).expect("a cookie, though the route caches");
    let control = first.fields("cache-control");
    assert!(control.contains(&"private"), "{control:?}");
    // Each page is asked for the first time, and marked private only by the answer.
    for number in 0..12 {
        let page = node.get_with(&format!("/page?{number}"), &[&format!("Cookie: {cookie}")]);
        assert_eq!((page.text(), cookie_of(&page)), (first.text(), None));
    }
    // What varies by cookie does so by the others.
    for (cookies, expected, hit) in [
        (cookie.clone(), "for nobody", false),
        (cookie.clone(), "for nobody", true),
        ("at=junk".to_owned(), "for nobody", true),
        (format!("theme=dark; {cookie}"), "for theme=dark", false),
        (format!("{cookie}; theme=dark"), "for theme=dark", true),
        ("theme=dark".to_owned(), "for theme=dark", true),
    ] {
        let page = node.get_with("/vary", &[&format!("Cookie: {cookies}")]);
        assert_eq!((page.status, page.text().as_str(), page.is_hit()), (200, expected, hit), "{cookies}");
        assert_eq!(cookie_of(&page), None, "it is everybody's");
    }
    for _ in 0..3 {
        assert_eq!(cookie_of(&node.get("/shared")), None, "who gets what is stored has no session by it");
    }
}

#[test]
fn one_client_with_a_session_ejects_nobody_and_many_do() {
    let origin = |name: &'static str| {
        Origin::start(move |request| match request.path().starts_with("/bad") {
            true => Reply::status(500, &[], "bad"),
            false => Reply::ok(&[], name),
        })
    };
    let origins = [origin("a"), origin("b"), origin("c")];
    let pool = "sticky = { cookie = \"at\", key = \"0123456789abcdef0123456789abcdef\" }\nretries = 0\n";
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    let node = Node::start(&site(&origins.each_ref().map(|origin| origin.address), pool, route));
    let first = node.get("/");
    let field = format!("Cookie: {}", cookie_of(&first).unwrap());
    let own = origins.iter().zip(["a", "b", "c"]).find(|(_, name)| *name == first.text()).unwrap().0.address;
    for number in 0..40 {
        assert_eq!(node.get_with(&format!("/bad?{number}"), &[&field]).status, 500);
    }
    assert_eq!(node.origin_status("app", own), "up");
    for number in 1..=5 {
        let mut client = Client::connect_from([127, number, 0, 1], node.address());
        assert_eq!(client.get(&format!("/bad/{number}"), &[&field]).status, 500);
    }
    node.wait_for_origin("app", own, "ejected");
}

#[test]
fn another_bound_holds_at_once_also_for_those_who_wait() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| [vec![Step::Wait(for_origin.clone())], Reply::ok(&[], "done")].concat());
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    let node = Node::start(&complete(&site(&[origin.address], "max_requests = 1", route)));
    let mut clients: Vec<Client> = (0..4).map(|_| node.client()).collect();
    clients[0].send("GET /0 HTTP/1.1\r\nHost: a\r\n\r\n");
    origin.wait_for(1);
    clients[1..].iter_mut().for_each(|client| client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually("they wait", || {
        (node.admin("GET", "/v1/pools", "").1["pools"][0]["queue"]["waiting"] == 3).then_some(())
    });
    let text = std::fs::read_to_string(node.config_path()).unwrap();
    std::fs::write(node.config_path(), text.replace("max_requests = 1", "max_requests = 4")).unwrap();
    origin.wait_for(4);
    gate.open();
    assert!(clients.iter_mut().all(|client| client.response("GET").text() == "done"));
}

/// Answers to GET, and closes where more of a body should come.
fn impatient() -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length) = stream.read(&mut buffer)
                    && buffer[..length].starts_with(b"GET ")
                {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                }
                // The node is waiting for its client by now.
                std::thread::sleep(std::time::Duration::from_millis(50));
            });
        }
    });
    address
}

#[test]
fn clients_that_stall_their_uploads_eject_nobody() {
    let origins = [impatient(), impatient()];
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    let node = Node::start(&site(&origins, "", route));
    for number in 0..24 {
        let mut client = node.client();
        client.send(format!("PUT /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\nbeginning"));
        assert!(client.response("PUT").status >= 400);
    }
    assert!(origins.iter().all(|origin| node.origin_status("app", *origin) == "up"));
    assert_eq!(node.get("/").text(), "ok");
}
