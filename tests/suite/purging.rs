//! Invalidation: what a purge hits, that it lasts, and who may do it.

use std::sync::Arc;

use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Reply, Step, eventually};

/// Each path is tagged with its own name and with `all`.
fn tagged() -> Origin {
    Origin::start(|request| {
        let tag = request.path().trim_start_matches('/').replace(['/', '?'], "-");
        Reply::ok(
            &["Cache-Control: max-age=600, stale-while-revalidate=600", &format!("Surrogate-Key: all {tag}")],
            "x",
        )
    })
}

fn warm(node: &Node, paths: &[&str]) {
    for path in paths {
        node.get(path);
        assert!(node.get(path).is_hit(), "{path}");
    }
}

const PATHS: [&str; 5] = ["/a", "/a?q=1", "/static/a", "/static/b", "/other"];

#[test]
fn each_kind_of_purge_hits_what_it_names_and_nothing_else() {
    let origin = tagged();
    let node = Node::caching(origin.address);
    for (body, hit) in [
        (r#"{"url": "http://shop.example:8080/a"}"#, &["/a"][..]),
        (r#"{"url": "https://shop.example/a?q=1"}"#, &["/a?q=1"]),
        (r#"{"urls": ["http://shop.example/a", "http://shop.example/other"]}"#, &["/a", "/other"]),
        (r#"{"prefix": "http://shop.example/static/"}"#, &["/static/a", "/static/b"]),
        (r#"{"tags": ["static-a", "OTHER"]}"#, &["/static/a", "/other"]),
        (r#"{"tags": ["all"], "site": "shop"}"#, &PATHS),
        (r#"{"site": "shop"}"#, &PATHS),
        (r#"{"all": true}"#, &PATHS),
        (r#"{"tags": ["unknown"]}"#, &[]),
    ] {
        warm(&node, &PATHS);
        node.purge(body);
        for path in PATHS {
            assert_eq!(node.get(path).is_hit(), !hit.contains(&path), "{body}: {path}");
        }
    }
}

#[test]
fn a_soft_purge_makes_stale_what_a_hard_one_removes() {
    let origin = tagged();
    let node = Node::caching(origin.address);
    warm(&node, &["/a"]);
    node.purge(r#"{"tags": ["a"], "soft": true}"#);
    let stale = node.get("/a");
    assert!(stale.cache().contains("detail=stale-while-revalidate"), "{}", stale.cache());
    eventually("a fresh hit", || node.get("/a").cache().contains("hit; ttl=5").then_some(()));
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_purge_during_a_fill_hits_the_object_being_stored() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| {
        let mut steps = vec![Step::Wait(for_origin.clone())];
        steps.extend(Reply::ok(&["Cache-Control: max-age=60"], "x"));
        steps
    });
    let node = Node::caching(origin.address);
    let mut early = node.client();
    early.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(1);
    node.purge(r#"{"url": "http://shop.example/a"}"#);
    let mut late = node.client();
    late.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(2); // who comes after the purge does not join what began before it
    gate.open();
    assert_eq!(early.response("GET").status, 200);
    assert_eq!(late.response("GET").status, 200);
    eventually("a hit", || node.get("/a").is_hit().then_some(()));
    assert_eq!(origin.count(), 2);
}

#[test]
fn versions_switch_a_whole_site_there_and_back() {
    let origin = tagged();
    let node = Node::caching(origin.address);
    warm(&node, &["/a"]);
    let set = |version: u64| node.admin("POST", "/v1/sites/shop/version", &format!("{{\"version\": {version}}}"));
    let (status, answer) = set(2);
    assert_eq!(status, 200, "{answer}");
    assert!(!node.get("/a").is_hit());
    assert_eq!(set(1).0, 200);
    assert!(node.get("/a").is_hit(), "the old objects are there again");
    assert_eq!(set(7).0, 200);
    assert_eq!(node.admin("GET", "/v1/status", "").1["sites"][0]["version"], 7);
    assert_eq!(node.admin("POST", "/v1/sites/nope/version", "{\"version\": 1}").0, 404);
    assert_eq!(node.admin("POST", "/v1/sites/shop/version", "{}").0, 400);
}

#[test]
fn the_method_purge_works_for_those_who_may() {
    let origin = tagged();
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let config = |from: &str| crate::harness::node::site(&[origin.address], "", route).replace("hosts = [\"*\"]", from);
    let node = Node::start(&config("hosts = [\"*\"]\npurge_from = [\"127.0.0.0/8\"]"));
    warm(&node, &["/a", "/other"]);
    let answer = node.client().request("PURGE", "/a", &[], "");
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"seq\":1}\n"));
    assert!(!node.get("/a").is_hit());
    assert!(node.get("/other").is_hit());
    let closed = Node::start(&config("hosts = [\"*\"]\npurge_from = [\"10.0.0.0/8\"]"));
    assert_eq!(closed.client().request("PURGE", "/a", &[], "").status, 403);
}

#[test]
fn the_log_survives_a_kill_and_goes_on_counting() {
    let origin = tagged();
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let directory = Arc::new(tempfile::TempDir::new().unwrap());
    let config = format!("[node]\nstate_dir = \"state\"\n{}", crate::harness::node::site(&[origin.address], "", route));
    let mut node = Node::start_in(directory.clone(), &config);
    assert_eq!(node.purge(r#"{"tags": ["a"]}"#), 1);
    assert_eq!(node.purge(r#"{"all": true}"#), 2);
    assert_eq!(node.admin("POST", "/v1/sites/shop/version", "{\"version\": 5}").0, 200);
    node.kill();
    let log = std::fs::read_to_string(directory.path().join("state/purge.log")).unwrap();
    assert_eq!(log.lines().count(), 4, "three records after the one that names the log");
    // A crash in the middle of writing the next record.
    std::fs::write(directory.path().join("state/purge.log"), format!("{log}0123abcd {{\"seq\":4")).unwrap();
    let node = Node::start_in(directory.clone(), &config);
    node.wait_for_log("torn by a crash");
    let (_, status) = node.admin("GET", "/v1/status", "");
    assert_eq!((status["purges"]["seq"].as_u64(), status["sites"][0]["version"].as_u64()), (Some(3), Some(5)));
    assert_eq!(node.purge(r#"{"all": true}"#), 4);
}

#[test]
fn a_tag_that_a_hundred_thousand_objects_carry_is_purged_at_once() {
    const OBJECTS: usize = 100_000;
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=3600", "Surrogate-Key: everything"], "x"));
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let directory = Arc::new(tempfile::TempDir::new().unwrap());
    let preamble = "[node]\nstate_dir = \"state\"\n[cache.memory]\nmax_size = \"512MiB\"\n[log]\naccess = \"off\"\n\
        [limits]\nmax_requests_per_connection = 1000000\n";
    let config = format!("{preamble}{}", crate::harness::node::site(&[origin.address], "", route));
    let mut node = Node::start_in(directory.clone(), &config);
    let address = node.address();
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut client = crate::harness::Client::connect(address);
                for i in (thread..OBJECTS).step_by(8) {
                    // Sent ahead in small batches: it is the number that matters here, not the pace.
                    assert_eq!(client.get(&format!("/{i}"), &[]).status, 200);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let keys = node.admin("GET", "/v1/status", "").1["cache"]["memory"]["keys"].as_u64().unwrap();
    assert_eq!(keys, OBJECTS as u64);
    let mut client = node.client();
    let sample: Vec<String> = (0..100).map(|i| format!("/{}", i * (OBJECTS / 100))).collect();
    assert!(sample.iter().all(|path| client.get(path, &[]).is_hit()));
    let log = || std::fs::metadata(directory.path().join("state/purge.log")).unwrap().len();
    let before = log();
    node.purge(r#"{"tags": ["everything"]}"#);
    // However many it hits, it is one record and one mark: that is what makes it quick.
    assert!(log() - before < 200, "{} bytes for one purge", log() - before);
    assert_eq!(node.admin("GET", "/v1/status", "").1["purges"]["marks"], 1);
    assert!(sample.iter().all(|path| !client.get(path, &[]).is_hit()));
    eventually("the sweep", || {
        let keys = node.admin("GET", "/v1/status", "").1["cache"]["memory"]["keys"].as_u64().unwrap();
        (keys <= 100).then_some(())
    });
    node.kill();
    let node = Node::start_in(directory, &config);
    assert_eq!(node.admin("GET", "/v1/status", "").1["purges"]["seq"], 1);
}

#[test]
fn what_is_purged_does_not_cover_for_a_failing_origin() {
    let (gate, first) = (Gate::default(), std::sync::atomic::AtomicBool::new(true));
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Reply::ok(&["Cache-Control: max-age=0, stale-if-error=600"], "old");
        }
        let mut steps = vec![Step::Wait(for_origin.clone())];
        steps.extend(Reply::status(503, &[], "broken"));
        steps
    });
    let node = Node::caching(origin.address);
    node.get("/a");
    let mut waiting = node.client();
    waiting.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(2);
    node.purge(r#"{"all": true}"#);
    gate.open();
    assert_eq!(waiting.response("GET").status, 503, "not the purged object");
}

#[test]
fn a_soft_purge_leaves_no_more_than_the_stale_windows_allow() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let origin = Origin::start(move |_| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Reply::ok(&["Cache-Control: max-age=600"], "old");
        }
        Reply::status(503, &[], "broken")
    });
    let node = Node::caching(origin.address);
    warm(&node, &["/a"]);
    node.purge(r#"{"all": true, "soft": true}"#);
    assert_eq!(node.get("/a").status, 503, "without stale-if-error it may only be validated");
}

/// Keys may have another query than URLs: a prefix with one hits all that begin with it all the same.
#[test]
fn a_prefix_with_a_query_misses_nothing_whose_key_has_another() {
    let origin = tagged();
    for (key, url, prefix) in [
        ("keep_query = []", "/z?x=1", "/z?x"),
        ("drop_query = [\"utm_*\"]", "/z?utm_a=1", "/z?utm_"),
        ("sort_query = true", "/z?b=2&a=1", "/z?b=2"),
        ("", "/z?b=2&a=1", "/z?b=2"),
    ] {
        let cache = format!("cache = {{ mode = \"respect\", key = {{ {key} }} }}");
        let node = Node::with_routes(
            &[origin.address],
            &format!("[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{cache}\n"),
        );
        warm(&node, &[url, "/zz?b=2"]);
        node.purge(&format!("{{\"prefix\": \"http://shop.example{prefix}\"}}"));
        assert!(!node.get(url).is_hit(), "{key}");
        assert!(node.get("/zz?b=2").is_hit(), "{key}: another path");
    }
}

/// Purges go to the site that serves a host. What the host had under another must not come back when it moves.
#[test]
fn what_was_purged_does_not_come_back_when_its_host_moves() {
    let origin = tagged();
    let route = "[[site.NAME.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let site = |name: &str, host: &str| format!("[site.{name}]\nhosts = [\"{host}\"]\n{}", route.replace("NAME", name));
    let alone = format!("[pool.app]\norigins = [\"{}\"]\n{}", origin.address, site("rest", "*"));
    let both = alone.clone() + &site("shop", "shop.example");
    for (first, second) in [(&alone, &both), (&both, &alone)] {
        let node = Node::start(first);
        let reload = |config: &str| {
            let generation = node.generation();
            std::fs::write(node.config_path(), crate::harness::node::complete(config)).unwrap();
            node.wait_for_generation(generation + 1);
        };
        warm(&node, &["/a"]);
        reload(second);
        node.purge(r#"{"url": "http://shop.example/a"}"#);
        reload(first);
        assert!(!node.get("/a").is_hit());
    }
}

/// A 304 may bring tags and groups: what is purged by them is gone, as what had them from the start.
#[test]
fn tags_that_a_304_brings_count() {
    let groups = "Cache-Groups: \"g1\"";
    let origin = Origin::start(move |request| match request.field("if-none-match") {
        _ if request.head.starts_with("POST ") => Reply::ok(&["Cache-Group-Invalidation: \"g2\""], ""),
        Some(_) => Reply::head_only(
            304,
            &["ETag: \"e\"", "Cache-Control: max-age=600", "Surrogate-Key: a b", "Cache-Groups: \"g1\", \"g2\""],
        ),
        None => Reply::ok(&["ETag: \"e\"", "Cache-Control: max-age=0", "Surrogate-Key: a old", groups], "x"),
    });
    let node = Node::caching(origin.address);
    let purges: [(&str, &dyn Fn()); 4] = [
        ("/by/b", &|| _ = node.purge(r#"{"tags": ["b"]}"#)),
        ("/by/a", &|| _ = node.purge(r#"{"tags": ["a"]}"#)),
        ("/by/old", &|| _ = node.purge(r#"{"tags": ["old"]}"#)),
        ("/by/group", &|| _ = node.request("POST", "/", &[], "")),
    ];
    for (path, purge) in purges {
        node.get(path);
        node.get(path);
        assert!(node.get(path).is_hit(), "{path}");
        purge();
        assert!(!node.get(path).is_hit(), "{path}");
    }
}

/// Of what routes keyed by rules that they no longer have, purges would miss it: it is not there any more.
#[test]
fn what_was_purged_does_not_come_back_with_the_rules_for_its_key() {
    let origin = tagged();
    let config = |key: &str| {
        format!(
            "[pool.app]\norigins = [\"{}\"]\n[site.shop]\nhosts = [\"shop.example\"]\n[[site.shop.route]]\n\
             path = \"/a*\"\npool = \"app\"\ncache = {{ mode = \"respect\"{key} }}\n[[site.shop.route]]\n\
             path = \"/*\"\npool = \"app\"\ncache = {{ mode = \"respect\" }}\n",
            origin.address
        )
    };
    for key in ["keep_query = []", "drop_query = [\"b\"]", "sort_query = true", "ignore_path_case = true"] {
        let (first, second) = (config(&format!(", key = {{ {key} }}")), config(""));
        let node = Node::start(&first);
        let reload = |config: &str| {
            let generation = node.generation();
            std::fs::write(node.config_path(), crate::harness::node::complete(config)).unwrap();
            node.wait_for_generation(generation + 1);
        };
        warm(&node, &["/aB?z=1&b=2", "/other"]);
        reload(&second);
        node.purge(r#"{"url": "http://shop.example/aB?z=1&b=2"}"#);
        reload(&first);
        assert!(!node.get("/aB?z=1&b=2").is_hit(), "{key}");
        assert!(node.get("/other").is_hit(), "{key}: nothing else is gone");
    }
}
