//! Which origin gets a request, and what happens when origins fail.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::node::site;
use crate::harness::origin::DeadPort;
use crate::harness::{Node, Origin, Reply, Step, eventually};

const UNCACHED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
const CACHED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

fn named(name: &'static str) -> Origin {
    Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=60"], name))
}

fn pool(text: &str, routes: &str) -> Node {
    Node::start(&format!("{text}\n[site.shop]\nhosts = [\"*\"]\n{routes}"))
}

fn shares(node: &Node, requests: usize) -> HashMap<String, usize> {
    let mut shares = HashMap::new();
    let mut client = node.client();
    for i in 0..requests {
        *shares.entry(client.get(&format!("/{i}"), &[]).text()).or_default() += 1;
    }
    shares
}

#[test]
fn weights_share_out_exactly_by_round_robin() {
    let (a, b) = (named("a"), named("b"));
    let config = format!("[pool.app]\norigins = [\"{}\", {{ address = \"{}\", weight = 3 }}]", a.address, b.address);
    let shares = shares(&pool(&config, UNCACHED), 40);
    assert_eq!((shares["a"], shares["b"]), (10, 30));
}

#[test]
fn hashing_keeps_a_url_at_its_origin_and_random_uses_all() {
    let (a, b) = (named("a"), named("b"));
    let config = |balance: &str| {
        format!("[pool.app]\nbalance = \"{balance}\"\norigins = [\"{}\", \"{}\"]", a.address, b.address)
    };
    let hashed = pool(&config("hash"), UNCACHED);
    let mut seen = std::collections::HashSet::new();
    for i in 0..16 {
        let first = hashed.get(&format!("/{i}")).text();
        assert_eq!(hashed.get(&format!("/{i}")).text(), first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "both are used");
    assert_eq!(shares(&pool(&config("random"), UNCACHED), 60).len(), 2);
}

#[test]
fn least_conn_avoids_the_busy_origin() {
    let gate = crate::harness::origin::Gate::default();
    let held = gate.clone();
    let busy = Origin::start(move |_| {
        let mut steps = vec![Step::Wait(held.clone())];
        steps.extend(Reply::ok(&[], "busy"));
        steps
    });
    let idle = named("idle");
    let config = |origins: &str| format!("[pool.app]\nbalance = \"least_conn\"\norigins = [{origins}]");
    let node = pool(&config(&format!("\"{}\", \"{}\"", busy.address, idle.address)), UNCACHED);
    let mut waiting: Vec<_> = Vec::new();
    while busy.count() == 0 {
        let mut client = node.client();
        let before = (busy.count(), idle.count());
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the request at an origin", || ((busy.count(), idle.count()) != before).then_some(()));
        waiting.push(client);
    }
    for _ in 0..10 {
        // A client has its response a moment before the request counts as over.
        eventually("idleness", || (node.origin("app", idle.address)["active"] == 0).then_some(()));
        assert_eq!(node.get("/a").text(), "idle");
    }
    gate.open();
}

/// An origin that takes half a second, and one that does not.
#[test]
fn p2c_keeps_to_the_origin_that_is_quick() {
    let slow = Origin::start(|_| {
        std::thread::sleep(Duration::from_millis(500)); // what it takes
        Reply::ok(&[], "slow")
    });
    let quick = named("quick");
    let config = format!("[pool.app]\nbalance = \"p2c\"\norigins = [\"{}\", \"{}\"]", slow.address, quick.address);
    let node = pool(&config, UNCACHED);
    for _ in 0..60 {
        assert_eq!(node.get("/a").status, 200);
    }
    assert!(slow.count() <= 2 && quick.count() >= 58, "{} {}", slow.count(), quick.count());
}

#[test]
fn a_hot_url_is_more_than_one_origins_with_max_load() {
    for (max_load, most) in [("", 1), ("max_load = 1.1\n", 3)] {
        let gate = crate::harness::origin::Gate::default();
        let held = gate.clone();
        let origins: Vec<Origin> = (0..3)
            .map(|_| {
                let held = held.clone();
                Origin::start(move |_| {
                    let mut steps = vec![Step::Wait(held.clone())];
                    steps.extend(Reply::ok(&[], "x"));
                    steps
                })
            })
            .collect();
        let addresses: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
        let config = format!("[pool.app]\nbalance = \"hash\"\n{max_load}origins = [{}]", addresses.join(", "));
        let node = pool(&config, UNCACHED);
        let clients: Vec<_> = (1..=9)
            .map(|number| {
                let mut client = node.client();
                client.send("GET /hot HTTP/1.1\r\nHost: a\r\n\r\n");
                let all = || origins.iter().map(|origin| origin.count()).sum::<usize>();
                eventually("the request at an origin", || (all() == number).then_some(()));
                client
            })
            .collect();
        assert_eq!(origins.iter().filter(|origin| origin.count() > 0).count(), most, "{max_load}");
        gate.open();
        drop(clients);
    }
}

#[test]
fn a_failed_connect_or_a_broken_answer_goes_to_another_origin() {
    let port = DeadPort::new();
    let unused = port.address;
    let breaks = Origin::start(|_| vec![Step::Close]);
    let good = named("good");
    for bad in [unused, breaks.address] {
        for routes in [UNCACHED, CACHED] {
            let config = format!("[pool.app]\norigins = [\"{bad}\", \"{}\"]\nretries = 1", good.address);
            let node = pool(&config, routes);
            for i in 0..4 {
                let response = node.get(&format!("/{i}"));
                assert_eq!((response.status, response.text().as_str()), (200, "good"), "{bad}");
            }
        }
    }
}

#[test]
fn what_is_not_idempotent_is_not_sent_twice() {
    let (breaks, good) = (Origin::start(|_| vec![Step::Close]), named("good"));
    let config = format!("[pool.app]\norigins = [\"{}\", \"{}\"]\nretries = 3", breaks.address, good.address);
    let node = pool(&config, UNCACHED);
    let statuses: Vec<u16> = (0..2).map(|_| node.client().request("POST", "/a", &[], "x").status).collect();
    assert!(statuses.contains(&502) && statuses.contains(&200), "{statuses:?}");
    assert_eq!((breaks.count(), good.count()), (1, 1));
}

#[test]
fn health_checks_take_origins_out_and_bring_them_back() {
    let well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let for_origin = well.clone();
    let checked = Origin::start(move |request| match request.path() {
        "/healthz" if !for_origin.load(std::sync::atomic::Ordering::SeqCst) => Reply::status(500, &[], ""),
        _ => Reply::ok(&[], "checked"),
    });
    let other = named("other");
    let config = format!(
        "[pool.app]\norigins = [\"{}\", \"{}\"]\n\
         health = {{ path = \"/healthz\", interval = \"20ms\", rise = 2, fall = 2, expect = [200, \"204-299\"] }}",
        checked.address, other.address
    );
    let node = pool(&config, UNCACHED);
    assert_eq!(shares(&node, 10).len(), 2);
    well.store(false, std::sync::atomic::Ordering::SeqCst);
    node.wait_for_origin("app", checked.address, "down");
    assert_eq!(shares(&node, 10).keys().collect::<Vec<_>>(), ["other"]);
    let up = format!("seawall_origin_up{{origin=\"{}\",pool=\"app\"}}", checked.address);
    assert_eq!(node.metric(&up), Some(0.0));
    let (_, pools) = node.admin("GET", "/v1/pools", "");
    assert!(pools.to_string().contains("answered 500"), "{pools}");
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    node.wait_for_origin("app", checked.address, "up");
    assert_eq!(node.metric(&up), Some(1.0));
    assert_eq!(shares(&node, 10).len(), 2);
}

#[test]
fn tcp_checks_see_a_closed_port() {
    let origin = named("a");
    let config =
        format!("[pool.app]\norigins = [\"{}\"]\nhealth = {{ interval = \"20ms\", fall = 1 }}", origin.address);
    let node = pool(&config, UNCACHED);
    node.wait_for_origin("app", origin.address, "up");
    origin.stop();
    node.wait_for_origin("app", origin.address, "down");
    assert_eq!(node.get("/a").status, 503);
}

#[test]
fn the_fallback_serves_when_the_pool_cannot() {
    let (main, spare) = (named("main"), named("spare"));
    let config = format!(
        "[pool.app]\norigins = [\"{}\"]\nfallback = \"dr\"\nhealth = {{ interval = \"20ms\", fall = 1, rise = 1 }}\n\
         [pool.dr]\norigins = [\"{}\"]",
        main.address, spare.address
    );
    let node = pool(&config, UNCACHED);
    assert_eq!(node.get("/a").text(), "main");
    main.stop();
    assert_eq!(node.get("/a").text(), "spare", "at once, by the retry");
    node.wait_for_origin("app", main.address, "down");
    assert_eq!(node.get("/a").text(), "spare");
}

#[test]
fn operators_drain_and_enable_origins() {
    let (a, b) = (named("a"), named("b"));
    let node = Node::with_routes(&[a.address, b.address], UNCACHED);
    let call = |action: &str| node.admin("POST", &format!("/v1/pools/app/origins/{}/{action}", a.address), "");
    let (status, answer) = call("drain");
    assert_eq!((status, answer["status"].as_str()), (200, Some("draining")));
    assert_eq!(shares(&node, 10).keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(call("enable").0, 200);
    assert_eq!(shares(&node, 10).len(), 2);
    assert_eq!(node.admin("POST", "/v1/pools/app/origins/nowhere:1/drain", "").0, 404);
    assert_eq!(node.admin("POST", "/v1/pools/nowhere/origins/x:1/drain", "").0, 404);
}

#[test]
fn names_are_resolved_in_the_background_and_a_bad_one_blocks_nothing() {
    let origin = named("by name");
    let config =
        format!("[pool.app]\norigins = [\"localhost:{}\", \"does-not-exist.invalid:80\"]", origin.address.port());
    let node = pool(&config, UNCACHED);
    eventually("an answer", || (node.get("/a").text() == "by name").then_some(()));
    let (_, pools) = node.admin("GET", "/v1/pools", "");
    assert_eq!(pools["pools"][0]["origins"][1]["status"], "unresolved");
}

#[test]
fn connections_to_origins_are_kept_and_a_closed_one_is_no_failure() {
    let origin = Origin::start(|request| {
        let mut steps = Reply::ok(&["Cache-Control: no-store"], "x");
        if request.path() == "/last" {
            steps.push(Step::Close);
        }
        steps
    });
    for routes in [UNCACHED, CACHED] {
        let node = Node::with_routes(&[origin.address], routes);
        // A client may ask again before pingora has given the connection back: then a new one is made.
        eventually("requests on kept connections", || {
            let before = origin.connections();
            let kept = (0..5).all(|_| node.get("/a").status == 200 && origin.connections() == before);
            kept.then_some(())
        });
        for path in ["/last", "/a", "/last", "/b"] {
            assert_eq!(node.get(path).status, 200, "{path}");
        }
    }
}

#[test]
fn a_killed_origin_costs_no_idempotent_request() {
    let (a, b) = (named("a"), named("b"));
    let node = Node::start(&site(
        &[a.address, b.address],
        "retries = 1\nhealth = { interval = \"50ms\", fall = 2 }\n",
        UNCACHED,
    ));
    let address: SocketAddr = node.address();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (mut client, mut count) = (crate::harness::Client::connect(address), 0);
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let response = client.get("/a", &[]);
                    assert_eq!((response.status, response.complete), (200, true));
                    count += 1;
                }
                count
            })
        })
        .collect();
    a.wait_for(50);
    a.stop();
    node.wait_for_origin("app", a.address, "down");
    let seen = b.count();
    b.wait_for(seen + 50);
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let served: usize = load.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(served >= 100, "{served}");
}

#[test]
fn a_reload_to_a_new_name_costs_no_request() {
    let origin = named("a");
    let config = |pool: &str| {
        crate::harness::node::complete(&format!(
            "[pool.app]\norigins = [\"{pool}\"]\n[site.shop]\nhosts = [\"*\"]\n{UNCACHED}"
        ))
    };
    let node = Node::start(&config(&origin.address.to_string()));
    assert_eq!(node.get("/a").status, 200);
    std::fs::write(node.config_path(), config(&format!("localhost:{}", origin.address.port()))).unwrap();
    while node.generation() < 2 {
        assert_eq!(node.get("/a").status, 200);
    }
    assert_eq!(node.get("/a").status, 200, "at once");
}

/// Answers with the head of a body that then breaks off.
fn broken_off(_: &crate::harness::origin::Request) -> Vec<Step> {
    let mut head = Reply::head(200, &["Content-Length: 100", "Cache-Control: max-age=60"]);
    head.extend_from_slice(b"half of it");
    vec![Step::Send(head), Step::Close]
}

#[test]
fn an_origin_that_only_breaks_bodies_is_ejected_and_let_back() {
    for cache in [UNCACHED, CACHED] {
        let (broken, well) = (Origin::start(broken_off), named("well"));
        let health = "health = { path = \"/\", interval = \"1s\" }";
        let passive = "passive = { eject_for = \"1s\" }";
        let origins = format!("origins = [\"{}\", \"{}\"]", broken.address, well.address);
        let node = pool(&format!("[pool.app]\n{origins}\n{health}\n{passive}"), cache);
        for i in 0.. {
            let mut client = node.client();
            client.send(format!("GET /{i} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            _ = client.try_response();
            if node.origin_status("app", broken.address) == "ejected" {
                assert!((4..=10).contains(&i), "the fifth failure ejects it: {i}");
                break;
            }
        }
        assert!(node.wait_for_log("origin is ejected for 1s").contains("5 requests in a row failed"));
        assert_eq!(shares(&node, 10)["well"], 10, "nobody meets it any more");
        assert_eq!(
            node.metric(&format!("seawall_origin_ejections_total{{origin=\"{}\",pool=\"app\"}}", broken.address)),
            Some(1.0)
        );
        node.wait_for_origin("app", broken.address, "up");
        assert_eq!(node.origin("app", broken.address)["reason"], "its ejection is over");
    }
}

#[test]
fn one_url_that_fails_ejects_nobody() {
    let answer = |request: &crate::harness::origin::Request| match request.path() {
        "/bad" => Reply::status(500, &[], "broken"),
        _ => Reply::ok(&[], "well"),
    };
    let (a, b) = (Origin::start(answer), Origin::start(answer));
    let node = pool(&format!("[pool.app]\norigins = [\"{}\", \"{}\"]", a.address, b.address), UNCACHED);
    for _ in 0..40 {
        assert_eq!(node.get("/bad").status, 500);
    }
    for origin in [a.address, b.address] {
        assert_eq!(node.origin_status("app", origin), "up");
        assert_eq!(node.origin("app", origin)["ejections"], 0);
    }
}

#[test]
fn who_alone_refuses_is_ejected_without_a_check_and_the_last_one_is_not() {
    let (dead, well) = (DeadPort::new(), named("well"));
    let origins = format!("origins = [\"{}\", \"{}\"]", dead.address, well.address);
    let node = pool(&format!("[pool.app]\n{origins}"), UNCACHED);
    assert_eq!(shares(&node, 12)["well"], 12, "each was sent to the other one");
    assert_eq!(node.origin_status("app", dead.address), "ejected");
    assert_eq!(node.origin("app", dead.address)["failures"], 5);
    well.stop();
    for i in 0..12 {
        assert_eq!(node.get(&format!("/{i}")).status, 502);
    }
    assert_eq!(node.origin_status("app", well.address), "up", "half of the pool is the most");
}

#[test]
fn a_pool_says_what_is_sent_again() {
    let slow = Origin::start(|_| vec![Step::Wait(crate::harness::origin::Gate::default())]);
    let (refusing, dead) = (Origin::start(|_| Reply::status(429, &[], "")), DeadPort::new());
    for (first, keys, get, post) in [
        (slow.address, "retry_on = [\"timeout\"]\nread_timeout = \"100ms\"", 200, 504),
        (slow.address, "read_timeout = \"100ms\"", 504, 504),
        (refusing.address, "retry_on = [429]", 200, 429),
        (refusing.address, "", 429, 429),
        (dead.address, "retry_on = [\"reset\"]", 502, 502),
        (dead.address, "", 200, 200),
    ] {
        let well = named("well");
        // By turns: of two requests one begins at the first.
        let origins = format!("origins = [\"{first}\", \"{}\"]", well.address);
        for (method, expected) in [("GET", get), ("POST", post)] {
            let node = pool(&format!("[pool.app]\n{origins}\npassive = false\n{keys}"), UNCACHED);
            let statuses = [0; 2].map(|_| node.request(method, "/", &[], "").status);
            assert!(statuses.contains(&expected) && statuses.contains(&200), "{method} {keys}: {statuses:?}");
        }
    }
}

#[test]
fn connections_to_origins_are_replaced_when_they_are_old_or_have_carried_much() {
    for (keys, connections) in [("", 1), ("connection_max_requests = 2", 3), ("connection_max_age = \"1ms\"", 6)] {
        let origin = named("a");
        let node = pool(&format!("[pool.app]\norigins = [\"{}\"]\n{keys}", origin.address), UNCACHED);
        let mut client = node.client();
        for i in 0..6 {
            assert_eq!(client.get(&format!("/{i}"), &[]).status, 200);
            // What is timed is a lower bound: it may be older.
            std::thread::sleep(Duration::from_millis(if keys.contains("age") { 20 } else { 0 }));
        }
        assert!(origin.connections() <= connections, "{keys}: {}", origin.connections());
        assert!(connections == 1 || origin.connections() > 1, "{keys}");
    }
}

#[test]
fn a_check_looks_at_the_body_and_may_have_a_port_of_its_own() {
    let app = named("app");
    let ready = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_ready = ready.clone();
    let checks = Origin::start(move |_| match is_ready.load(std::sync::atomic::Ordering::SeqCst) {
        true => Reply::ok(&[], "state: ready\n"),
        false => Reply::ok(&[], "state: starting\n"),
    });
    let health = format!(
        "health = {{ path = \"/state\", body = \"ready\", port = {}, interval = \"20ms\", rise = 1, fall = 1 }}",
        checks.address.port()
    );
    let node = pool(&format!("[pool.app]\norigins = [\"{}\"]\n{health}", app.address), UNCACHED);
    node.wait_for_origin("app", app.address, "down");
    let why = node.origin("app", app.address)["reason"].to_string();
    assert!(why.contains("answered 200, and its body has no \\\"ready\\\""), "{why}");
    ready.store(true, std::sync::atomic::Ordering::SeqCst);
    node.wait_for_origin("app", app.address, "up");
    assert_eq!((app.count(), node.get("/").status), (0, 200));
}

#[test]
fn what_is_drained_is_not_checked() {
    let origin = named("a");
    let health = "health = { path = \"/health\", interval = \"20ms\" }";
    let node = pool(&format!("[pool.app]\norigins = [\"{}\"]\n{health}", origin.address), UNCACHED);
    origin.wait_for(2);
    node.admin("POST", &format!("/v1/pools/app/origins/{}/drain", origin.address), "");
    let before = origin.count();
    // Two more of these would be there if it were checked: one may have been on its way.
    let other = named("b");
    let beside = pool(&format!("[pool.app]\norigins = [\"{}\"]\n{health}", other.address), UNCACHED);
    other.wait_for(10);
    drop(beside);
    assert!(origin.count() <= before + 1, "{} {before}", origin.count());
}
