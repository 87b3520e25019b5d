//! `seawall explain` and `GET /v1/explain`: the node says what it does and why.

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Node, Origin, Reply};
use crate::process::seawall;

fn explain(node: &Node, query: &str) -> Value {
    let (status, answer) = node.admin("GET", &format!("/v1/explain?{query}"), "");
    assert_eq!(status, 200, "{answer}");
    answer
}

#[test]
fn a_url_is_explained_before_and_after_it_is_stored() {
    let origin = Origin::start(|_| {
        Reply::ok(
            &["Cache-Control: max-age=60, stale-if-error=5", "Cache-Tag: a, b", "Vary: X-A", "ETag: \"e\""],
            "body",
        )
    });
    let node = Node::caching(origin.address);
    let query = "url=http://shop.example/a?q=1&header=X-A:+1";
    let before = explain(&node, "url=http%3A%2F%2Fshop.example%2Fa%3Fq%3D1");
    assert_eq!((&before["decision"], &before["stored"]), (&"cache".into(), &Value::Array(vec![])));
    assert_eq!((&before["site"], &before["route"]["number"]), (&"shop".into(), &1.into()));
    assert_eq!(before["key"]["uri"], "shop.example/a?q=1");
    node.get_with("/a?q=1", &["X-A: 1"]);
    let after = explain(&node, &query.replace("?q=1", "%3Fq%3D1"));
    let object = &after["stored"][0];
    for (key, expected) in [
        ("selected", Value::Bool(true)),
        ("status", 200.into()),
        ("bytes", 4.into()),
        ("etag", "\"e\"".into()),
        ("purged", false.into()),
        ("reason", "max-age".into()),
        ("rule", "RFC 9111 section 5.2.2.1".into()),
        ("lifetime", 60.into()),
        ("state", "fresh".into()),
        ("stale_if_error", 5.into()),
        ("tags", serde_json::json!(["a", "b"])),
        ("selected_by", serde_json::json!([["x-a", "1"]])),
    ] {
        assert_eq!(object[key], expected, "{key}");
    }
    assert_eq!(after["purged_by"]["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(origin.count(), 1, "explaining asks nobody");
    let other = explain(&node, "url=shop.example/a%3Fq%3D1&header=X-A:2");
    assert_eq!(other["stored"][0]["selected"], false);
    node.purge("{\"tags\": [\"b\"]}");
    let purged = explain(&node, "url=shop.example/a%3Fq%3D1");
    assert_eq!((&purged["stored"][0]["purged"], &purged["stored"][0]["state"]), (&true.into(), &"purged".into()));
}

/// What it says of a request is what that request then gets.
#[test]
fn what_a_request_would_get_is_what_it_gets() {
    let origin = Origin::start(|request| match request.path() {
        "/private" => Reply::ok(&["Cache-Control: private"], "x"),
        _ => Reply::ok(&["Cache-Control: max-age=600"], "x"),
    });
    let node = Node::caching(origin.address);
    node.get("/private");
    let (authorized, no_cache) = ("Authorization: Basic eA==", "Cache-Control: no-cache");
    for (path, field) in [
        ("/new", ""),
        ("/a", ""),
        ("/a", authorized),
        ("/a", no_cache),
        ("/a", "Cache-Control: min-fresh=3600"),
        ("/private", ""),
        ("/never", "Cache-Control: only-if-cached"),
    ] {
        if path == "/a" {
            node.get(path);
        }
        let header = if field.is_empty() { String::new() } else { format!("&header={}", field.replace(' ', "+")) };
        let said = explain(&node, &format!("url=shop.example{path}{header}"))["would_say"].as_str().unwrap().to_owned();
        let got = node.get_with(path, &if field.is_empty() { vec![] } else { vec![field] }).cache().to_owned();
        let got = got.strip_prefix("seawall; ").unwrap();
        // The rest is known only when an origin has answered; a second may have passed.
        let word = |text: &str| text.split("; ").next().unwrap().to_owned();
        assert_eq!(word(&said), word(got), "{path} {field}: {said} / {got}");
    }
}

#[test]
fn an_origins_answer_is_judged_without_being_stored() {
    let origin = Origin::start(|request| match request.path() {
        "/private" => Reply::ok(&["Cache-Control: private", "Set-Cookie: secret=1"], "x"),
        _ => Reply::ok(&["Cache-Control: s-maxage=60"], "x"),
    });
    let node = Node::caching(origin.address);
    let good = explain(&node, "url=shop.example/a&fetch=true");
    assert_eq!((&good["origin"]["stored"], &good["origin"]["reason"]), (&true.into(), &"s-maxage".into()));
    assert_eq!(good["origin"]["origin"], origin.address.to_string());
    assert!(!node.get("/a").is_hit());
    let bad = explain(&node, "url=shop.example/private&fetch=true");
    assert_eq!((&bad["origin"]["stored"], &bad["origin"]["reason"]), (&false.into(), &"private".into()));
    assert!(!bad.to_string().contains("secret"));
    assert_eq!(explain(&node, "url=shop.example/private")["not_cacheable_for"], Value::Null);
    node.get("/private");
    assert!(explain(&node, "url=shop.example/private")["not_cacheable_for"].as_u64().unwrap() > 5);
    assert_eq!(explain(&node, "url=shop.example/a&method=POST")["decision"], "pass");
}

#[test]
fn the_command_shows_it_to_people() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "x"));
    let node = Node::caching(origin.address);
    node.get("/a b".replace(' ', "%20").as_str());
    let admin = format!("http://{}", node.admin);
    let output = seawall(&["explain", "http://shop.example/a%20b", "--fetch", "--admin", &admin]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "decision  cache",
        "key       shop.example/a%20b (site shop, version 1)",
        "an object in memory, which this request selects: 200, 1 byte\n",
        "stored: max-age",
        "lifetime 1m",
        "answers 200",
        "cache-control: max-age=60",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn a_response_in_a_file_is_judged_offline() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let config = write(
        "seawall.toml",
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[pool.app]\norigins = [\"127.0.0.1:1\"]\n[site.shop]\nhosts = [\"shop.example\"]\n\
         [[site.shop.route]]\npath = \"/forced/*\"\npool = \"app\"\ncache = { mode = \"force\", ttl = \"1h\" }\n\
         [[site.shop.route]]\npath = \"/ping\"\nwhen = 'scheme == \"https\"'\nrespond = { body = \"ok\" }\n\
         [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n",
    );
    let request = write("request", "GET /forced/a HTTP/1.1\nHost: shop.example\nAuthorization: Basic x\n");
    let plain = write("plain", "GET /forced/a HTTP/2\nHost: shop.example\n");
    let passed = write("passed", "GET /a HTTP/1.1\nHost: shop.example\n");
    let fixed = write("fixed", "GET https://shop.example/ping HTTP/1.1\nHost: shop.example\n");
    let unlike = write("unlike", "GET /ping HTTP/1.1\nHost: shop.example\n");
    let good = write("good", "HTTP/2 200 \ncache-control: max-age=60\ndate: Sun, 06 Nov 1994 08:49:37 GMT\n");
    let bad = write("bad", "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\n\r\n");
    for (arguments, fine, said) in [
        (vec!["--response", &good], true, "stored: max-age"),
        (vec!["--response", &bad], false, "not stored: no-store"),
        (vec!["--response", &good, "--request", &request], false, "not stored: authorization"),
        (vec!["--response", &bad, "--request", &plain, "--config", &config], true, "stored: forced"),
        (vec!["--response", &bad, "--request", &request, "--config", &config], false, "not stored: authorization"),
        (vec!["--response", &bad, "--request", &passed, "--config", &config], false, "its route does not cache it"),
        (vec!["--response", &bad, "--request", &fixed, "--config", &config], false, "\"/ping\", answers by itself"),
        (vec!["--response", &bad, "--request", &unlike, "--config", &config], false, "its route does not cache it"),
        (vec!["--response", &request], false, "it is not the head of a response"),
        (vec!["--response", "/nowhere"], false, "/nowhere: "),
    ] {
        let output = seawall(&[&["explain"], arguments.as_slice()].concat());
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!((output.status.success(), text.contains(said)), (fine, true), "{arguments:?}: {text}");
    }
    let json = seawall(&["explain", "--response", &good, "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["stored"], &json["ttl"], &json["age"]), (&true.into(), &60.into(), &0.into()));
}

/// The manual has the list that the program prints, word for word.
#[test]
fn every_reason_is_in_the_manual() {
    let printed = String::from_utf8(seawall(&["explain", "--reasons"]).stdout).unwrap();
    assert!(printed.lines().count() > 20, "{printed}");
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reasons.md")).unwrap();
    for line in printed.lines() {
        assert!(manual.contains(line), "docs/reasons.md lacks {line}");
    }
}

/// The same word everywhere.
#[test]
fn reasons_are_told_in_cache_status_metrics_and_log() {
    let origin = Origin::start(|request| match request.path() {
        "/a" => Reply::ok(&["Cache-Control: s-maxage=60"], "x"),
        _ => Reply::ok(&["Cache-Control: no-store"], "x"),
    });
    let node = Node::start(&format!(
        "[log]\naccess = \"stdout\"\n{}",
        crate::harness::node::site(
            &[origin.address],
            "",
            "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n"
        )
    ));
    let stored = node.get("/a");
    assert!(stored.cache().contains("; stored; ttl=") && stored.cache().ends_with("; detail=s-maxage"));
    assert!(node.get("/b").cache().ends_with("fwd=uri-miss; detail=no-store"));
    assert_eq!(node.metric("seawall_stored_total{reason=\"s-maxage\"}"), Some(1.0));
    assert_eq!(node.metric("seawall_not_stored_total{reason=\"no-store\"}"), Some(1.0));
    crate::harness::eventually("the log", || {
        let log = node.stdout();
        (log.contains("\"reason\":\"s-maxage\"") && log.contains("\"reason\":\"no-store\"")).then_some(())
    });
}

#[test]
fn what_is_on_disk_and_in_slices_is_seen() {
    let body = "x".repeat(300_000);
    let origin = crate::harness::Origin::start(move |request| {
        let fields = ["Cache-Control: max-age=600", "ETag: \"e\""];
        match request.field("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
            Some((first, last)) => {
                let (first, last): (usize, usize) =
                    (first.parse().unwrap(), last.parse::<usize>().unwrap().min(299_999));
                let range = format!("Content-Range: bytes {first}-{last}/300000");
                Reply::status(206, &[fields[0], fields[1], &range], &body[first..=last])
            }
            None => Reply::ok(&fields, &body),
        }
    });
    let directory = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let path = directory.path();
    let routes = "[[site.shop.route]]\npath = \"/sliced\"\npool = \"app\"\ncache = { mode = \"respect\", slice = \"64KiB\" }\n\
        [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
    let config = format!(
        "[node]\nstate_dir = \"{}\"\n[cache.disk]\npath = \"{}\"\nmax_size = \"1GiB\"\n{}",
        path.join("state").display(),
        path.join("disk").display(),
        crate::harness::node::site(&[origin.address], "", routes)
    );
    let explained = |node: &Node, path: &str| {
        let (status, answer) = node.admin("GET", &format!("/v1/explain?url=http://shop.example{path}"), "");
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let node = Node::start_in(directory.clone(), &crate::harness::node::complete(&config));
    assert_eq!((node.get("/whole").body.len(), node.get("/sliced").body.len()), (300_000, 300_000));
    let sliced = explained(&node, "/sliced");
    assert_eq!((&sliced["slice"]["stored"], &sliced["slice"]["of"]), (&5.into(), &5.into()), "{sliced}");
    crate::harness::eventually("all on disk", || {
        (node.admin("GET", "/v1/status", "").1["cache"]["disk"][0]["objects"] == 6).then_some(())
    });
    node.signal("TERM");
    let mut node = node;
    assert!(node.wait());
    let node = Node::start_in(directory, &crate::harness::node::complete(&config));
    for (path, bytes) in [("/whole", 300_000), ("/sliced", 65_536)] {
        let answer = explained(&node, path);
        let stored = &answer["stored"][0];
        assert_eq!(
            (&stored["tier"], &stored["bytes"], &stored["selected"]),
            (&"disk".into(), &bytes.into(), &true.into()),
            "{answer}"
        );
        assert!(answer["would_say"].as_str().unwrap().starts_with("hit; ttl="), "{answer}");
    }
    assert_eq!(explained(&node, "/sliced")["slice"]["stored"], 5);
    assert_eq!(explained(&node, "/other")["stored"], serde_json::json!([]));
}

#[test]
fn a_response_is_judged_by_the_only_site_of_a_configuration() {
    let directory = tempfile::TempDir::new().unwrap();
    let (response, config) = (directory.path().join("r.txt"), directory.path().join("seawall.toml"));
    std::fs::write(&response, "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\n").unwrap();
    let site = "[[listen]]\naddress = \"127.0.0.1:0\"\n[pool.a]\norigins = [\"a:1\"]\n[site.one]\nhosts = [\"*.one.example\"]\n\
        [[site.one.route]]\npath = \"/*\"\npool = \"a\"\ncache = { mode = \"respect\" }\n";
    std::fs::write(&config, site).unwrap();
    let judged =
        || seawall(&["explain", "--response", response.to_str().unwrap(), "--config", config.to_str().unwrap()]);
    let done = judged();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::write(
        &config,
        format!("{site}{}", site.split_once("[site").unwrap().1.replace("one", "two").replacen(".two", "[site.two", 1)),
    )
    .unwrap();
    let done = judged();
    assert!(!done.status.success() && String::from_utf8_lossy(&done.stderr).contains("by --request FILE"), "{done:?}");
}
