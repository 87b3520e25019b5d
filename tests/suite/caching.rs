//! What is stored, for how long, and how it is answered from.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::origin::{Gate, Request};
use crate::harness::{Node, Origin, Protocol, Reply, Step, eventually};

#[test]
fn a_fresh_response_is_reused_with_its_age() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60", "X-Kept: yes", "Age: 7"], "hello"));
        let node = Node::caching_by(protocol, origin.address);
        let miss = node.get("/a");
        assert_eq!((miss.status, miss.text().as_str()), (200, "hello"));
        assert!(miss.cache().starts_with("seawall; fwd=uri-miss; stored; ttl="), "{}", miss.cache());
        let hit = node.get("/a");
        assert_eq!((hit.status, hit.text().as_str()), (200, "hello"));
        assert!(hit.cache().starts_with("seawall; hit; ttl=5"), "{}", hit.cache());
        assert_eq!(hit.field("age"), Some("7"));
        assert_eq!(hit.field("x-kept"), Some("yes"));
        assert_eq!(hit.field("via"), Some("1.1 seawall"));
        assert_eq!(hit.fields("content-length"), ["5"]);
        assert_eq!(origin.count(), 1);
    }
}

#[test]
fn keys_have_host_path_and_query() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| Reply::ok(&["Cache-Control: max-age=60"], request.path()));
        let node = Node::caching_by(protocol, origin.address);
        for (path, host) in [("/a", "one"), ("/a?x", "one"), ("/a?", "one"), ("/b", "one"), ("/a", "two")] {
            let host = format!("Host: {host}");
            assert!(!node.get_with(path, &[&host]).is_hit(), "{path} {host}");
            assert!(node.get_with(path, &[&host]).is_hit(), "{path} {host}");
        }
        assert!(node.get_with("/x/../%61", &["Host: ONE:8080"]).is_hit(), "the same URL, written otherwise");
    }
}

#[test]
fn what_must_not_be_stored_is_not_and_the_reason_is_said() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.path() {
            "/no-store" => Reply::ok(&["Cache-Control: no-store"], ""),
            "/private" => Reply::ok(&["Cache-Control: private, max-age=60"], ""),
            "/set-cookie" => Reply::ok(&["Cache-Control: max-age=60", "Set-Cookie: a=b"], ""),
            "/vary-star" => Reply::ok(&["Cache-Control: max-age=60", "Vary: *"], ""),
            "/tags-too-large" => {
                Reply::ok(&["Cache-Control: max-age=60", &format!("Cache-Tag: {}", "x".repeat(1025))], "")
            }
            _ => Reply::ok(&[], ""),
        });
        let node = Node::caching_by(protocol, origin.address);
        for reason in ["no-store", "private", "set-cookie", "vary-star", "tags-too-large", "no-freshness"] {
            let first = node.get(&format!("/{reason}"));
            assert_eq!(first.cache(), format!("seawall; fwd=uri-miss; detail={reason}"));
            let again = node.get(&format!("/{reason}"));
            assert_eq!(again.cache(), "seawall; fwd=bypass; detail=hit-for-miss");
            assert_eq!(node.metric(&format!("seawall_not_stored_total{{reason=\"{reason}\"}}")), Some(1.0));
        }
        assert_eq!(node.get("/set-cookie").field("set-cookie"), Some("a=b"), "the client still gets it");
    }
}

#[test]
fn credentials_neither_store_nor_switch_storing_off() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| {
            let fields: &[&str] = if request.path() == "/public" {
                &["Cache-Control: public, max-age=60"]
            } else {
                &["Cache-Control: max-age=60"]
            };
            Reply::ok(fields, request.field("authorization").unwrap_or("nobody"))
        });
        let node = Node::caching_by(protocol, origin.address);
        let secret = node.get_with("/a", &["Authorization: me"]);
        assert_eq!((secret.text().as_str(), secret.cache()), ("me", "seawall; fwd=uri-miss; detail=authorization"));
        assert_eq!(node.get("/a").text(), "nobody");
        assert!(node.get("/a").is_hit());
        node.get_with("/public", &["Authorization: me"]);
        assert!(node.get("/public").is_hit());
    }
}

#[test]
fn variants_are_selected_by_the_fields_that_vary_names() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| {
            let language = request.field("accept-language").unwrap_or("none").to_owned();
            Reply::ok(&["Cache-Control: max-age=60", "Vary: Accept-Language"], language)
        });
        let node = Node::caching_by(protocol, origin.address);
        let ask = |language: &str| node.get_with("/a", &[&format!("Accept-Language: {language}")]);
        assert_eq!(ask("de").text(), "de");
        let other = ask("en");
        assert_eq!(other.text(), "en");
        assert!(other.cache().contains("fwd=vary-miss; stored"), "{}", other.cache());
        for language in ["de", "en"] {
            let hit = ask(language);
            assert!(hit.is_hit() && hit.text() == language, "{language}");
        }
        assert_eq!(node.get("/a").text(), "none");
        assert_eq!(origin.count(), 3);
    }
}

#[test]
fn fields_that_connection_names_select_no_variant() {
    let origin = Origin::start(|request| {
        let language = request.field("accept-language").unwrap_or("none").to_owned();
        Reply::ok(&["Cache-Control: max-age=60", "Vary: Accept-Language"], language)
    });
    let node = Node::caching(origin.address);
    let hidden = node.get_with("/b", &["Connection: Accept-Language", "Accept-Language: de"]);
    assert_eq!(hidden.text(), "none", "Connection takes the field away from the origin");
    let seen = node.get_with("/b", &["Accept-Language: de"]);
    assert_eq!(seen.text(), "de", "what it answered is not for those who show the field");
}

#[test]
fn conditions_and_ranges_are_answered_from_what_is_stored() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| {
            let modified = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
            Reply::ok(&["Cache-Control: max-age=60", "ETag: \"v1\"", modified], "0123456789")
        });
        let node = Node::caching_by(protocol, origin.address);
        node.get("/a");
        for (fields, status, range, body) in [
            (&["If-None-Match: \"v1\""][..], 304, None, ""),
            (&["If-None-Match: \"v2\""], 200, None, "0123456789"),
            (&["If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], 304, None, ""),
            (&["If-Match: \"v2\""], 412, None, ""),
            (&["Range: bytes=2-4"], 206, Some("bytes 2-4/10"), "234"),
            (&["Range: bytes=-3"], 206, Some("bytes 7-9/10"), "789"),
            (&["Range: bytes=8-"], 206, Some("bytes 8-9/10"), "89"),
            (&["Range: bytes=10-"], 416, Some("bytes */10"), ""),
            (&["Range: bytes=2-4", "If-Range: \"v1\""], 206, Some("bytes 2-4/10"), "234"),
            (&["Range: bytes=2-4", "If-Range: \"v2\""], 200, None, "0123456789"),
        ] {
            let response = node.get_with("/a", fields);
            assert_eq!((response.status, response.text().as_str()), (status, body), "{fields:?}");
            assert_eq!(response.field("content-range"), range, "{fields:?}");
            assert!(response.is_hit(), "{fields:?}");
            if status == 304 {
                assert_eq!(response.field("etag"), Some("\"v1\""));
                assert_eq!(response.field("content-type"), None);
            }
        }
        let head = node.request("HEAD", "/a", &[], "");
        assert_eq!((head.status, head.field("content-length")), (200, Some("10")));
        assert_eq!(origin.count(), 1);
    }
}

#[test]
fn conditions_of_clients_do_not_reach_the_origin_of_a_shared_object() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60", "ETag: \"v1\""], "0123456789"));
        let node = Node::caching_by(protocol, origin.address);
        let response = node.get_with("/a", &["If-None-Match: \"v1\"", "Range: bytes=0-1"]);
        assert_eq!(response.status, 304);
        let request = &origin.requests()[0];
        assert_eq!((request.field("if-none-match"), request.field("range")), (None, None));
        let part = node.get_with("/b", &["Range: bytes=0-1"]);
        assert_eq!((part.status, part.text().as_str()), (206, "01"), "also while it is being fetched");
    }
}

#[test]
fn a_head_request_fills_the_cache_for_get() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "0123456789"));
        let node = Node::caching_by(protocol, origin.address);
        let head = node.request("HEAD", "/a", &[], "");
        assert_eq!((head.status, head.field("content-length")), (200, Some("10")));
        assert!(origin.requests()[0].head.starts_with("GET /a "));
        eventually("a hit", || node.get("/a").is_hit().then_some(()));
    }
}

#[test]
fn a_stale_response_is_validated_and_freshened() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.field("if-none-match") {
            Some("\"v1\"") => {
                vec![Step::Send(Reply::head(304, &["Cache-Control: max-age=60", "ETag: \"v1\"", "X-New: 1"]))]
            }
            _ => Reply::ok(&["Cache-Control: max-age=0", "ETag: \"v1\"", "X-New: 0"], "body"),
        });
        let node = Node::caching_by(protocol, origin.address);
        assert_eq!(node.get("/a").field("x-new"), Some("0"));
        let validated = node.get("/a");
        assert_eq!((validated.status, validated.text().as_str()), (200, "body"));
        assert!(validated.cache().contains("fwd=stale; fwd-status=304; stored; ttl="), "{}", validated.cache());
        let hit = node.get("/a");
        assert!(hit.is_hit());
        assert_eq!((hit.text().as_str(), hit.field("x-new")), ("body", Some("1")));
        assert_eq!(origin.count(), 2);
    }
}

#[test]
fn stale_while_revalidate_answers_at_once_and_refreshes_once() {
    for protocol in Protocol::ALL {
        let gate = Gate::default();
        let (for_origin, first) = (gate.clone(), std::sync::atomic::AtomicBool::new(true));
        let origin = Origin::start(move |_| {
            if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                return Reply::ok(&["Cache-Control: max-age=0, stale-while-revalidate=60"], "old");
            }
            let mut steps = vec![Step::Wait(for_origin.clone())];
            steps.extend(Reply::ok(&["Cache-Control: max-age=60"], "new"));
            steps
        });
        let node = Node::caching_by(protocol, origin.address);
        node.get("/a");
        for _ in 0..5 {
            let stale = node.get("/a");
            assert_eq!(stale.text(), "old");
            assert!(stale.cache().contains("detail=stale-while-revalidate"), "{}", stale.cache());
        }
        origin.wait_for(2);
        gate.open();
        eventually("the refreshed object", || (node.get("/a").text() == "new").then_some(()));
        assert_eq!(origin.count(), 2, "one refresh, however many asked");
    }
}

#[test]
fn stale_if_error_covers_errors_and_dead_origins() {
    for protocol in Protocol::ALL {
        let first = std::sync::atomic::AtomicBool::new(true);
        let origin = Origin::start(move |_| {
            if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                return Reply::ok(&["Cache-Control: max-age=0, stale-if-error=60"], "old");
            }
            Reply::status(503, &[], "broken")
        });
        let node = Node::caching_by(protocol, origin.address);
        node.get("/a");
        let covered = node.get("/a");
        assert_eq!((covered.status, covered.text().as_str()), (200, "old"));
        assert_eq!(covered.cache(), "seawall; fwd=stale; fwd-status=503; detail=origin-status");
        origin.stop();
        let covered = node.get("/a");
        assert_eq!((covered.status, covered.text().as_str()), (200, "old"));
        assert_eq!(covered.cache(), "seawall; fwd=stale; detail=origin-failed");
        assert_eq!(node.get("/other").status, 502);
    }
}

#[test]
fn must_revalidate_forbids_stale_answers() {
    for protocol in Protocol::ALL {
        let first = std::sync::atomic::AtomicBool::new(true);
        let origin = Origin::start(move |_| {
            if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                return Reply::ok(&["Cache-Control: max-age=0, must-revalidate", "ETag: \"a\""], "old");
            }
            vec![Step::Close]
        });
        let config = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n\
        cache = { mode = \"respect\", stale_if_error = \"1d\", stale_while_revalidate = \"1d\" }\n";
        let node = Node::speaking(protocol, &[origin.address], config);
        assert_eq!(node.get("/a").text(), "old");
        assert_eq!(node.get("/a").status, 502);
    }
}

#[test]
fn the_routes_rules_decide() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.path() {
            "/force/a" => Reply::ok(&["Cache-Control: no-store"], ""),
            "/cookie/a" => Reply::ok(&["Cache-Control: max-age=60", "Set-Cookie: a=b"], ""),
            "/default/missing" => Reply::status(404, &[], ""),
            _ => Reply::ok(&[], ""),
        });
        let route = |path: &str, cache: &str| {
            format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\ncache = {{ {cache} }}\n")
        };
        let routes = [
            route("/force/*", "mode = \"force\", ttl = \"1h\""),
            route("/default/*", "mode = \"respect\", default_ttl = \"1h\""),
            route("/cookie/*", "mode = \"respect\", store_set_cookie = true"),
            route("/*", "mode = \"off\""),
        ];
        let node = Node::speaking(protocol, &[origin.address], &routes.concat());
        for (path, stored) in [
            ("/force/a", true),
            ("/default/a", true),
            ("/default/missing", false),
            ("/cookie/a", true),
            ("/other", false),
        ] {
            node.get(path);
            assert_eq!(node.get(path).is_hit(), stored, "{path}");
        }
        assert_eq!(node.get("/cookie/a").field("set-cookie"), None, "nobody gets another's cookie");
        assert_eq!(node.get("/other").cache(), "seawall; fwd=bypass");
    }
}

#[test]
fn what_is_private_to_the_node_or_the_connection_is_not_passed_on() {
    let origin = Origin::start(|_| {
        Reply::ok(
            &[
                "Cache-Control: max-age=60",
                "Surrogate-Key: a",
                "Cache-Tag: b",
                "Connection: X-Hop",
                "X-Hop: 1",
                "Keep-Alive: timeout=5",
            ],
            "",
        )
    });
    let node = Node::caching(origin.address);
    let fields = [
        "X-Forwarded-Host: evil",
        "X-Original-URL: /admin",
        "X-HTTP-Method-Override: DELETE",
        "Forwarded: host=evil",
        "Connection: X-Mine",
        "X-Mine: 1",
        "X-Forwarded-For: 1.2.3.4",
    ];
    for _ in 0..2 {
        let response = node.get_with("/a", &fields);
        for name in ["surrogate-key", "cache-tag", "x-hop", "keep-alive"] {
            assert_eq!(response.field(name), None, "{name}");
        }
    }
    let request = &origin.requests()[0];
    for (name, value) in [
        ("host", Some("shop.example")),
        ("x-forwarded-host", Some("shop.example")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-port", Some("80")),
        ("via", Some("1.1 seawall")),
        ("x-original-url", None),
        ("x-http-method-override", None),
        ("forwarded", None),
        ("x-mine", None),
    ] {
        assert_eq!(request.field(name), value, "{name}");
    }
}

#[test]
fn interim_responses_are_not_taken_for_the_answer() {
    let origin = Origin::start(|_| {
        let mut steps =
            vec![Step::Send(Reply::head(100, &[])), Step::Send(Reply::head(103, &["Link: </a.css>; rel=preload"]))];
        steps.extend(Reply::ok(&["Cache-Control: max-age=60"], "final"));
        steps
    });
    let node = Node::caching(origin.address);
    let mut client = node.client();
    for hit in [false, true] {
        client.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        if !hit {
            assert!(client.head().starts_with("HTTP/1.1 103 "), "who waits hears of it");
        }
        let response = client.response("GET");
        assert_eq!((response.status, response.text().as_str(), response.is_hit()), (200, "final", hit));
    }
}

#[test]
fn a_visitor_with_credentials_does_not_lose_the_others_their_object() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| {
            let body = request.field("authorization").unwrap_or("all").to_owned();
            Reply::ok(&["Cache-Control: max-age=0, stale-while-revalidate=60"], body)
        });
        let node = Node::caching_by(protocol, origin.address);
        node.get("/a");
        assert_eq!(node.get_with("/a", &["Authorization: me"]).text(), "me");
        origin.wait_for(2);
        assert_eq!(node.get("/a").text(), "all");
        assert!(node.get("/a").is_hit());
    }
}

#[test]
fn a_304_about_something_else_confirms_nothing() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.field("if-none-match") {
            Some(_) => vec![Step::Send(Reply::head(304, &["ETag: \"other\"", "Cache-Control: max-age=60"]))],
            None => Reply::ok(&["Cache-Control: max-age=0", "ETag: \"v1\""], "body"),
        });
        let node = Node::caching_by(protocol, origin.address);
        node.get("/a");
        let anew = node.get("/a");
        assert_eq!((anew.status, anew.text().as_str()), (200, "body"));
        assert_eq!(origin.requests().last().unwrap().field("if-none-match"), None);
    }
}

/// As nginx does with what it codes.
#[test]
fn a_304_may_have_a_strong_tag_for_a_weak_one() {
    let origin = Origin::start(|request| match request.field("if-none-match") {
        Some("W/\"v1\"") => Reply::head_only(304, &["ETag: \"v1\"", "Cache-Control: max-age=0"]),
        _ => Reply::ok(&["Cache-Control: max-age=0", "ETag: W/\"v1\""], "body"),
    });
    let node = Node::caching(origin.address);
    node.get("/a");
    let confirmed = node.get("/a");
    assert_eq!((confirmed.status, confirmed.text().as_str()), (200, "body"));
    assert!(confirmed.cache().contains("fwd-status=304"), "{}", confirmed.cache());
}

#[test]
fn what_a_304_says_to_one_user_is_not_told_to_others() {
    let origin = Origin::start(|request| {
        let fields = ["Cache-Control: max-age=0, private=\"x-user\"", "X-User: somebody", "ETag: \"v1\""];
        match request.field("if-none-match") {
            Some(_) => Reply::head_only(304, &fields),
            None => Reply::ok(&fields, "body"),
        }
    });
    let node = Node::caching(origin.address);
    node.get("/a");
    node.get("/a");
    let (_, explained) = node.admin("GET", "/v1/explain?url=shop.example/a", "");
    assert_eq!(explained["stored"][0]["status"], 200, "{explained}");
    assert_eq!(node.get_with("/a", &["Cache-Control: max-stale=100, only-if-cached"]).field("x-user"), None);
}

#[test]
fn a_port_of_the_clients_choosing_shapes_nothing_that_others_get() {
    let origin = Origin::start(|request| {
        let seen = format!("{:?} {:?}", request.field("host"), request.field("x-forwarded-host"));
        Reply::ok(&["Cache-Control: max-age=60"], seen)
    });
    let node = Node::caching(origin.address);
    let first = node.get_with("/a", &["Host: SHOP.example.:1337"]);
    assert_eq!(first.text(), "Some(\"shop.example\") Some(\"shop.example\")");
    assert!(node.get("/a").is_hit());
}

#[test]
fn an_error_that_one_client_provokes_takes_nothing_from_the_others() {
    let origin = Origin::start(|request| match request.field("x-provoke") {
        Some(status) => Reply::status(status.parse().unwrap(), &[], "no"),
        None => Reply::ok(&["Cache-Control: max-age=60"], "for all"),
    });
    let node = Node::caching(origin.address);
    node.get("/a");
    for status in ["400", "401", "403", "429", "431"] {
        let provoked = node.get_with("/a", &["Cache-Control: no-cache", &format!("X-Provoke: {status}")]);
        assert_eq!(provoked.status.to_string(), status);
        let hit = node.get("/a");
        assert!(hit.is_hit(), "{status}: {}", hit.cache());
    }
    // Nor does a 410, while what is stored is fresh: who says that not only this client gets it?
    assert_eq!(node.get_with("/a", &["Cache-Control: no-cache", "X-Provoke: 410"]).status, 410);
    assert!(node.get("/a").is_hit());
}

/// A 304 for something else says nothing of what is stored, which still stands in for an origin that fails then.
#[test]
fn what_a_304_did_not_confirm_covers_for_a_failure_of_the_second_question() {
    for answer in [Vec::new(), Reply::status(503, &[], "down")] {
        let answer = if answer.is_empty() { vec![Step::Close] } else { answer };
        let count = AtomicUsize::new(0);
        let origin = Origin::start(move |request| match request.field("if-none-match") {
            Some(_) => Reply::head_only(304, &["ETag: \"b\""]),
            None if count.fetch_add(1, Ordering::SeqCst) == 0 => {
                Reply::ok(&["ETag: \"a\"", "Cache-Control: max-age=0, stale-if-error=600"], "kept")
            }
            None => answer.clone(),
        });
        let node = Node::caching(origin.address);
        for _ in 0..3 {
            assert_eq!(node.get("/a").text(), "kept");
        }
    }
}

/// Whether a `Cache-Status` says something; a lifetime may have begun a second ago.
fn says(cache_status: &str, said: &str) -> bool {
    let lifetime =
        |text: &str| text.split_once("ttl=").and_then(|(_, rest)| rest.split(';').next()?.parse::<u64>().ok());
    match (lifetime(cache_status), lifetime(said)) {
        (Some(found), Some(expected)) => {
            let found_said = cache_status.replacen(&format!("ttl={found}"), &format!("ttl={expected}"), 1);
            (found + 1 == expected || found == expected) && found_said.contains(said)
        }
        _ => cache_status.contains(said),
    }
}

/// What the origin answers decides by the route's conditions, on fills and on what is confirmed.
#[test]
fn the_origins_answer_chooses_whether_and_how_long_it_is_stored() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request: &Request| match request.path() {
            "/secret" => Reply::ok(&["Cache-Control: max-age=60", "X-No-Store: 1"], "x"),
            "/page" => Reply::ok(&["Content-Type: text/html", "Cache-Control: max-age=5"], "x"),
            "/confirmed" if request.field("if-none-match").is_some() => {
                Reply::head_only(304, &["ETag: \"a\"", "X-No-Store: 1"])
            }
            "/confirmed" => Reply::ok(&["ETag: \"a\"", "Cache-Control: no-cache, max-age=60"], "x"),
            _ => Reply::status(404, &[], "x"),
        });
        let cache = "cache = { mode = \"respect\", no_store = 'response.headers.has(\"x-no-store\")', rules = [\
            { when = 'status == 404', ttl = \"40s\" }, \
            { when = 'response.header.content-type.startsWith(\"text/html\")', ttl = \"50s\" }] }\n";
        let routes = format!("[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{cache}");
        let node = Node::speaking(protocol, &[origin.address], &routes);
        for (path, first, second) in [
            ("/secret", "fwd=uri-miss; detail=condition", "fwd=bypass; detail=hit-for-miss"),
            ("/page", "fwd=uri-miss; stored; ttl=50; detail=rule", "hit; ttl="),
            ("/none", "fwd=uri-miss; stored; ttl=40; detail=negative-ttl", "hit; ttl="),
            ("/confirmed", "fwd=uri-miss; stored; ttl=0; detail=no-cache", "detail=condition"),
        ] {
            for said in [first, second] {
                let got = node.get(path);
                assert!(says(got.cache(), said), "{path} by {protocol:?}: {} for {said}", got.cache());
            }
        }
        assert!(!node.get("/confirmed").is_hit());
    }
}

/// Fields that origins write for their own proxy are heeded where the route says so, and no client gets them, whichever way
/// the answer takes.
#[test]
fn fields_for_the_proxy_are_heeded_and_go_no_further() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request: &Request| {
            let (accel, surrogate) = match request.path() {
                "/no" => ("0", "max-age=9"),
                "/surrogate" => ("none", "max-age=70, content=\"ESI/1.0\""),
                _ => ("60", "no-store"),
            };
            let fields = [
                format!("X-Accel-Expires: {accel}"),
                format!("Surrogate-Control: {surrogate}"),
                "Cache-Control: private, max-age=5".to_owned(),
                "ETag: \"a\"".to_owned(),
            ];
            Reply::ok(&fields.each_ref().map(String::as_str), "hello")
        });
        let route = |path: &str, cache: &str| {
            format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\ncache = {{ mode = \"respect\"{cache} }}\n")
        };
        let heeding = ", heed = [\"X-Accel-Expires\", \"Surrogate-Control\"]";
        let routes = route("/plain", "") + &route("/*", heeding);
        let node = Node::speaking(protocol, &[origin.address], &routes);
        for (method, path, fields, said) in [
            ("GET", "/yes", &[][..], "stored; ttl=60"),
            ("GET", "/yes", &[], "hit; ttl="),
            ("HEAD", "/yes", &[], "hit; ttl="),
            ("GET", "/yes", &["If-None-Match: \"a\""], "hit; ttl="),
            ("GET", "/yes", &["Range: bytes=0-1"], "hit; ttl="),
            ("POST", "/other", &[], "fwd=method"),
            ("GET", "/surrogate", &[], "stored; ttl=70"),
            ("GET", "/no", &[], "detail=no-store"),
            ("GET", "/no", &[], "detail=hit-for-miss"),
        ] {
            let got = node.request(method, path, fields, "");
            assert!(says(got.cache(), said), "{method} {path} by {protocol:?}: {} for {said}", got.cache());
            for name in ["x-accel-expires", "surrogate-control"] {
                assert_eq!(got.field(name), None, "{method} {path}");
            }
            assert_eq!(got.field("cache-control"), Some("private, max-age=5"));
        }
        let unheeded = node.get("/plain");
        assert_eq!(
            (unheeded.field("x-accel-expires"), unheeded.field("surrogate-control")),
            (Some("60"), Some("no-store"))
        );
        assert!(unheeded.cache().contains("detail=private"));
    }
}

/// By RFC 9111 section 4.4 a POST that succeeds makes the cache forget its URL; a route may say that it changes nothing.
#[test]
fn a_post_that_changes_nothing_leaves_what_is_stored() {
    for (invalidate, is_kept) in [("", false), ("invalidate = \"unsafe\"\n", false), ("invalidate = \"never\"\n", true)]
    {
        let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "x"));
        let routes = format!(
            "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{invalidate}cache = {{ mode = \"respect\" }}\n"
        );
        let node = Node::speaking(Protocol::H1, &[origin.address], &routes);
        node.get("/a");
        assert_eq!(node.request("POST", "/a", &[], "x").status, 200);
        assert_eq!(node.get("/a").is_hit(), is_kept, "{invalidate}");
    }
}

/// Whether clients may have things fetched anew is said once for all routes.
#[test]
fn what_clients_ask_of_caches_is_ignored_everywhere_at_once() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "x"));
    let route = |path: &str, cache: &str| {
        format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\ncache = {{ mode = \"respect\"{cache} }}\n")
    };
    let routes = route("/own/*", ", ignore_client_cache_control = false")
        + &route("/*", "")
        + "[defaults.route]\nignore_client_cache_control = true\n";
    let node = Node::speaking(Protocol::H1, &[origin.address], &routes);
    for (path, is_ignored) in [("/a", true), ("/own/a", false)] {
        node.get(path);
        assert_eq!(node.get_with(path, &["Cache-Control: no-cache"]).is_hit(), is_ignored, "{path}");
        // Nor does the origin hear of it, also of what is passed on.
        node.request("POST", path, &["Cache-Control: no-cache", "Pragma: no-cache"], "");
        let last = origin.requests().pop().unwrap();
        assert_eq!((last.field("cache-control"), last.field("pragma")).0.is_none(), is_ignored, "{path}");
        assert_eq!(last.field("pragma").is_none(), is_ignored, "{path}");
    }
}
