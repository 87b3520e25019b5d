//! Filling the cache before anybody asks, and what becomes of purges.

use std::process::Command;

use serde_json::Value;

use crate::harness::origin::{Gate, Request};
use crate::harness::{Node, Origin, Reply, Step, eventually};

fn answers(request: &Request) -> Vec<Step> {
    match request.path() {
        "/private" => Reply::ok(&["Cache-Control: private"], "mine"),
        "/broken" => vec![Step::Close],
        "/sitemap-1.xml" => {
            Reply::ok(&[], "<urlset><url><loc><![CDATA[http://shop.example/of-the-index]]></loc></url></urlset>")
        }
        path => Reply::ok(&["Cache-Control: max-age=3600", "Cache-Tag: all-of-them"], path),
    }
}

fn warm(node: &Node, body: &str) -> Value {
    let (status, job) = node.admin("POST", "/v1/warm", body);
    assert_eq!(status, 200, "{job}");
    finished(node, &format!("/v1/warm/{}", job["id"]))
}

fn finished(node: &Node, path: &str) -> Value {
    eventually("it is finished", || {
        let (_, progress) = node.admin("GET", path, "");
        (progress["finished"] == true).then_some(progress)
    })
}

#[test]
fn what_is_asked_for_before_is_there_then() {
    let origin = Origin::start(answers);
    let node = Node::caching(origin.address);
    node.get("/there");
    let urls = r#"{"urls": ["http://shop.example/a", "shop.example/b?c=d", "shop.example/there", "shop.example/private", "shop.example/broken"]}"#;
    let done = warm(&node, urls);
    let counts = ["total", "done", "stored", "there", "not_stored"].map(|name| done[name].as_u64().unwrap());
    assert_eq!(counts, [5, 5, 2, 1, 2], "{done}");
    let mut reasons: Vec<String> =
        done["failures"].as_array().unwrap().iter().map(|failure| failure.to_string()).collect();
    reasons.sort_unstable();
    assert!(reasons[1].contains("/private") && reasons[1].contains("\"private\""), "{reasons:?}");
    assert!(reasons[0].contains("/broken") && reasons[0].contains("broke off"), "{reasons:?}");
    assert!(node.get("/a").is_hit() && node.get("/b?c=d").is_hit());
    for (body, status) in [
        (r#"{"urls": []}"#, 400),
        (r#"{"urls": ["/a"]}"#, 400),
        (r#"{"urls": ["shop.example/a"], "concurrency": 0}"#, 400),
        (r#"{"url": "shop.example/a"}"#, 400),
    ] {
        assert_eq!(node.admin("POST", "/v1/warm", body).0, status, "{body}");
    }
    assert_eq!(node.admin("GET", "/v1/warm/99", "").0, 404);
}

#[test]
fn a_warm_up_can_be_stopped_and_keeps_to_its_number() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| {
        let mut steps = vec![Step::Wait(for_origin.clone())];
        steps.extend(answers(request));
        steps
    });
    let node = Node::caching(origin.address);
    let urls: Vec<String> = (0..50).map(|number| format!("\"shop.example/{number}\"")).collect();
    let (_, job) = node.admin("POST", "/v1/warm", &format!("{{\"urls\": [{}], \"concurrency\": 3}}", urls.join(",")));
    origin.wait_for(3);
    let path = format!("/v1/warm/{}", job["id"]);
    assert_eq!(node.admin("DELETE", &path, "").1["stopped"], true);
    gate.open();
    eventually("what was begun ends", || (node.admin("GET", &path, "").1["done"] == 3).then_some(()));
    assert_eq!(origin.count(), 3);
    assert!(node.get("/0").is_hit());
}

#[test]
fn the_command_reads_lists_and_sitemaps_and_reports() {
    let origin = Origin::start(answers);
    let node = Node::caching(origin.address);
    let list = node.directory.path().join("urls.txt");
    std::fs::write(&list, "# mine\nhttp://shop.example/a\nhttp://shop.example/private\n").unwrap();
    let sitemap = node.directory.path().join("sitemap.xml");
    std::fs::write(
        &sitemap,
        "<urlset><url><loc>http://shop.example/a</loc></url><url><loc>http://shop.example/c?d&amp;e</loc></url></urlset>",
    )
    .unwrap();
    let run = |from: &std::path::Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
            .args(["warm", "--verbose", "--admin", &format!("http://{}", node.admin), "--from"])
            .arg(from)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = run(&list);
    for part in ["done: 2 of 2", "stored      1", "not stored  1", "1 private", "http://shop.example/private: private"]
    {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    let said = run(&sitemap);
    assert!(said.contains("stored      1") && said.contains("were there  1"), "{said}");
    assert!(node.get("/c?d&e").is_hit());
    for (name, text, line) in [
        ("bad.txt", "# mine\nhttp://shop.example/a\n\nnot a url\n", 4),
        (
            "bad.xml",
            "<urlset>\n<url><loc>http://shop.example/a</loc></url>\n<url><loc>http://a b/</loc></url></urlset>",
            3,
        ),
    ] {
        let bad = node.directory.path().join(name);
        std::fs::write(&bad, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
            .args(["warm", "--admin", &format!("http://{}", node.admin), "--from"])
            .arg(&bad)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(&format!("{name}:{line}: ")), "{said}");
        assert!(said.contains("https://shop.example.com/a"), "it says what is expected: {said}");
        let done = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(done.contains("done: 1 of ") && done.contains("were there  1"), "and goes on: {done}");
    }
    let index = node.directory.path().join("index.xml");
    let of = format!("http://{}/sitemap-1.xml", node.address());
    std::fs::write(&index, format!("<sitemapindex><sitemap><loc>{of}</loc></sitemap></sitemapindex>")).unwrap();
    let said = run(&index);
    assert!(said.contains("stored      1"), "{said}");
    assert!(node.get("/of-the-index").is_hit());
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let origin = Origin::start(answers);
    let node = Node::caching(origin.address);
    ["/a/1", "/a/2", "/b"].iter().for_each(|path| drop(node.get(path)));
    for (purge, objects) in [
        (r#"{"url": "http://shop.example/b", "dry_run": true}"#, 1),
        (r#"{"prefix": "http://shop.example/a/", "dry_run": true}"#, 2),
        (r#"{"tags": ["ALL-of-them"], "dry_run": true}"#, 3),
        (r#"{"tags": ["other"], "dry_run": true}"#, 0),
        (r#"{"all": true, "dry_run": true}"#, 3),
    ] {
        let (status, answer) = node.admin("POST", "/v1/purge", purge);
        assert_eq!((status, answer["memory"]["objects"].as_u64()), (200, Some(objects)), "{purge}: {answer}");
        assert_eq!(answer["memory"]["bytes"].as_u64().unwrap() > 0, objects > 0);
    }
    assert!(node.get("/b").is_hit());
    assert_eq!(node.admin("GET", "/v1/purges", "").1["purges"].as_array().unwrap().len(), 0);
}

#[test]
fn what_became_of_purges() {
    let origin = Origin::start(answers);
    let node = Node::caching(origin.address);
    ["/a/1", "/a/2", "/b"].iter().for_each(|path| drop(node.get(path)));
    let first = node.purge(r#"{"prefix": "http://shop.example/a/"}"#);
    let second = node.purge(r#"{"tags": ["all-of-them"]}"#);
    let (_, all) = node.admin("GET", "/v1/purges", "");
    let shown: Vec<&Value> = all["purges"].as_array().unwrap().iter().map(|purge| &purge["targets"][0]).collect();
    assert_eq!(shown, ["tag all-of-them", "prefix shop.example/a/ of site shop"]);
    let swept = |seq: u64| {
        eventually("it is swept", || {
            let (_, purge) = node.admin("GET", &format!("/v1/purges/{seq}"), "");
            (purge["state"] == "swept").then_some(purge)
        })
    };
    assert_eq!(swept(first)["objects"], 2, "the first that hit it has freed it");
    assert_eq!(swept(second)["objects"], 1);
    assert!(swept(second)["bytes"].as_u64().unwrap() > 0);
    assert_eq!(node.admin("GET", "/v1/purges/999", "").0, 404);
}

#[test]
fn what_is_asked_for_most_is_fetched_anew() {
    for soft in [false, true] {
        let origin = Origin::start(answers);
        let node = Node::caching(origin.address);
        for (path, times) in [("/seldom", 1), ("/often", 200), ("/sometimes", 60)] {
            let mut client = node.client();
            (0..times).for_each(|_| drop(client.get(path, &[])));
        }
        let before = origin.count();
        let purge = format!("{{\"tags\": [\"all-of-them\"], \"refetch\": 2, \"soft\": {soft}}}");
        let (status, answer) = node.admin("POST", "/v1/purge", &purge);
        assert_eq!(status, 200, "{answer}");
        let done = finished(&node, answer["refetch"].as_str().unwrap());
        assert_eq!((done["total"].as_u64(), done["stored"].as_u64()), (Some(2), Some(2)), "{done}");
        let mut asked: Vec<String> =
            origin.requests().split_off(before).iter().map(|request| request.path().to_owned()).collect();
        asked.sort_unstable();
        assert_eq!(asked, ["/often", "/sometimes"]);
        assert!(node.get("/often").is_hit() && !node.get("/seldom").is_hit());
    }
}
