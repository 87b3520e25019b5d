//! Caching by the book, as a client and an origin see it: tables of exchanges through the running node. Which
//! sentence of which RFC each is for, docs/conformance.md says.

use std::sync::Arc;
use std::sync::Mutex;

use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Protocol, Reply, Step};

const OLD: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";

/// What the second of two requests is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    /// From the cache.
    Hit,
    /// From the origin, which is asked as if nothing were stored.
    Miss,
    /// From the cache, after the origin has confirmed it.
    Validated,
}

struct Case {
    /// Of the first answer, besides `Content-Length`.
    answer: &'static [&'static str],
    status: u16,
    first: &'static [&'static str],
    second: &'static [&'static str],
    expect: Second,
}

const fn case(answer: &'static [&'static str], expect: Second) -> Case {
    Case { answer, status: 200, first: &[], second: &[], expect }
}

const fn status(status: u16, answer: &'static [&'static str], expect: Second) -> Case {
    Case { status, ..case(answer, expect) }
}

const fn asks(answer: &'static [&'static str], second: &'static [&'static str], expect: Second) -> Case {
    Case { second, ..case(answer, expect) }
}

/// Runs each case on a path of its own, by either protocol.
fn run(cases: &[Case]) {
    Protocol::ALL.into_iter().for_each(|protocol| run_by(protocol, cases));
}

fn run_by(protocol: Protocol, cases: &[Case]) {
    let current: Arc<Mutex<(u16, Vec<&'static str>)>> = Arc::default();
    let for_origin = current.clone();
    let origin = Origin::start(move |request| {
        let (status, fields) = for_origin.lock().unwrap().clone();
        let validates = request.field("if-none-match").is_some() || request.field("if-modified-since").is_some();
        if validates { Reply::head_only(304, &fields) } else { Reply::status(status, &fields, "body") }
    });
    let node = Node::caching_by(protocol, origin.address);
    for (number, case) in cases.iter().enumerate() {
        *current.lock().unwrap() = (case.status, case.answer.to_vec());
        let path = format!("/{number}");
        let first = node.get_with(&path, case.first);
        assert_eq!((first.status, first.text().as_str()), (case.status, "body"), "{path} {:?}", case.answer);
        let before = origin.count();
        let second = node.get_with(&path, case.second);
        let asked = origin.requests().split_off(before);
        let found = match asked.first() {
            None if second.is_hit() => Second::Hit,
            None => panic!("{path}: neither hit nor asked: {}", second.cache()),
            Some(request) if request.field("if-none-match").or(request.field("if-modified-since")).is_some() => {
                Second::Validated
            }
            Some(_) => Second::Miss,
        };
        let what =
            format!("{protocol:?} {path} {} {:?} {:?}: {}", case.status, case.answer, case.second, second.cache());
        assert_eq!(found, case.expect, "{what}");
        assert_eq!((second.status, second.text().as_str()), (case.status, "body"), "{what}");
        assert!(second.field("age").is_some() || found == Second::Miss, "{what}");
    }
}

#[test]
fn lifetimes_are_those_that_responses_state() {
    use Second::{Hit, Miss, Validated};
    run(&[
        case(&["Cache-Control: max-age=60"], Hit),
        case(&["Cache-Control: MaX-aGe=60"], Hit),
        case(&["Cache-Control: foo, max-age=60"], Hit),
        case(&["Cache-Control: max-age=\"60\""], Hit),
        case(&["Cache-Control: max-age=99999999999999999999"], Hit),
        case(&["Cache-Control: max-age=0"], Miss),
        case(&["Cache-Control: max-age=-1"], Miss),
        case(&["Cache-Control: max-age=a60"], Miss),
        case(&["Cache-Control: foo=\"max-age=60\", max-age=0"], Miss),
        case(&["Cache-Control: max-age=0, s-maxage=60"], Hit),
        case(&["Cache-Control: max-age=60, s-maxage=0"], Miss),
        case(&["Cache-Control: max-age=60", "Age: 30"], Hit),
        case(&["Cache-Control: max-age=60", "Age: 60"], Miss),
        case(&["Cache-Control: max-age=60", "Age: 99999999999"], Miss),
        case(&["Cache-Control: max-age=60", "Age: abc"], Hit),
        case(&["Cache-Control: max-age=60", "Age: -90"], Hit),
        case(&["Cache-Control: max-age=60", "Age: 10, 90"], Hit),
        case(&["Cache-Control: max-age=60", "Date: Sun, 06 Nov 1994 08:49:37 GMT"], Miss),
        case(&["Expires: Thu, 18 Aug 2050 02:01:18 GMT"], Hit),
        case(&["Expires: thu, 18 AUG 2050 02:01:18 gmt"], Hit),
        case(&["Expires: Thu Aug 18 02:01:18 2050"], Hit),
        case(&["Expires: Thursday, 18-Aug-50 02:01:18 GMT"], Hit),
        case(&["Expires: 0"], Miss),
        case(&["Expires: Thu, 18 Aug 2050 02:01:18 UTC"], Miss),
        case(&["Expires: Thu, 18 Aug 2050 2:01:18 GMT"], Miss),
        case(&["Expires: Sun, 06 Nov 1994 08:49:37 GMT"], Miss),
        case(&["Expires: Sun, 06 Nov 1994 08:49:37 GMT", "Cache-Control: max-age=60"], Hit),
        case(&["Expires: Thu, 18 Aug 2050 02:01:18 GMT", "Cache-Control: max-age=0"], Miss),
        case(&[], Miss),
        case(&[OLD], Hit),
        case(&["ETag: \"a\""], Validated),
        case(&["Cache-Control: immutable"], Miss),
        case(&["Pragma: no-cache", "Cache-Control: max-age=60"], Hit),
    ]);
}

#[test]
fn what_may_not_be_stored_or_used_is_not() {
    use Second::{Hit, Miss, Validated};
    run(&[
        case(&["Cache-Control: no-store"], Miss),
        case(&["Cache-Control: No-StOrE, max-age=60"], Miss),
        case(&["Cache-Control: private, max-age=60"], Miss),
        case(&["Cache-Control: no-cache"], Miss),
        case(&["Cache-Control: no-cache, max-age=60", "ETag: \"a\""], Validated),
        case(&["Cache-Control: max-age=0", OLD], Validated),
        case(&["Cache-Control: max-age=60", "Vary: *"], Miss),
        case(&["Cache-Control: max-age=60", "Vary: foo, *"], Miss),
        case(&["Cache-Control: max-age=60", "Set-Cookie: a=b"], Miss),
        case(&["Cache-Control: must-understand, no-store, max-age=60"], Hit),
        status(599, &["Cache-Control: must-understand, max-age=60"], Miss),
        status(599, &["Cache-Control: max-age=60"], Hit),
        status(404, &["Cache-Control: max-age=60"], Hit),
        status(404, &[OLD], Hit),
        status(410, &[OLD], Hit),
        status(501, &[OLD], Hit),
        status(201, &[OLD], Miss),
        status(302, &[OLD], Miss),
        status(302, &["Cache-Control: max-age=60"], Hit),
        status(403, &[OLD], Miss),
        status(503, &[OLD], Miss),
        status(201, &[OLD, "Cache-Control: public"], Hit),
        case(&["Cache-Control: no-store", "CDN-Cache-Control: max-age=60"], Hit),
        case(&["Cache-Control: max-age=60", "CDN-Cache-Control: no-store"], Miss),
        case(&["Cache-Control: max-age=60", "CDN-Cache-Control: max-age=0", "Seawall-Cache-Control: max-age=60"], Hit),
        case(&["Cache-Control: max-age=60", "CDN-Cache-Control: &"], Hit),
        case(&["Expires: Thu, 18 Aug 2050 02:01:18 GMT", "CDN-Cache-Control: max-age=0"], Miss),
    ]);
}

#[test]
fn clients_get_what_they_ask_for() {
    use Second::{Hit, Miss, Validated};
    const FRESH: &[&str] = &["Cache-Control: max-age=60", "Age: 20", "ETag: \"a\""];
    const STALE: &[&str] = &["Cache-Control: max-age=60", "Age: 70", "ETag: \"a\""];
    run(&[
        asks(FRESH, &["Cache-Control: no-cache"], Validated),
        asks(FRESH, &["Pragma: no-cache"], Validated),
        asks(FRESH, &["Pragma: no-cache", "Cache-Control: foo"], Hit),
        asks(FRESH, &["Cache-Control: max-age=10"], Validated),
        asks(FRESH, &["Cache-Control: max-age=0"], Validated),
        asks(FRESH, &["Cache-Control: max-age=30"], Hit),
        asks(FRESH, &["Cache-Control: min-fresh=30"], Hit),
        asks(FRESH, &["Cache-Control: min-fresh=50"], Validated),
        asks(FRESH, &["Cache-Control: no-store"], Hit),
        asks(FRESH, &["Cache-Control: only-if-cached"], Hit),
        asks(STALE, &[], Validated),
        asks(STALE, &["Cache-Control: max-stale"], Hit),
        asks(STALE, &["Cache-Control: max-stale=30"], Hit),
        asks(STALE, &["Cache-Control: max-stale=5"], Validated),
        asks(&["Cache-Control: max-age=60, must-revalidate", "Age: 70", OLD], &["Cache-Control: max-stale"], Validated),
        Case { first: &["Cache-Control: no-store"], ..case(FRESH, Miss) },
        Case { first: &["Authorization: x"], ..case(FRESH, Miss) },
        Case { first: &["Authorization: x"], ..case(&["Cache-Control: public, max-age=60"], Hit) },
    ]);
}

#[test]
fn only_if_cached_is_answered_504_and_asks_nobody() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "x"));
        let node = Node::caching_by(protocol, origin.address);
        let refused = node.get_with("/a", &["Cache-Control: only-if-cached"]);
        assert_eq!((refused.status, refused.cache(), origin.count()), (504, "seawall; detail=only-if-cached", 0));
    }
}

#[test]
fn clients_are_not_heeded_where_the_route_says_so() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "x"));
        let routes = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n\
        cache = { mode = \"respect\", ignore_client_cache_control = true }\n";
        let node = Node::speaking(protocol, &[origin.address], routes);
        for fields in [&["Cache-Control: no-cache"][..], &["Cache-Control: no-store"], &["Pragma: no-cache"]] {
            node.get_with("/a", fields);
        }
        assert_eq!((origin.count(), origin.requests()[0].field("cache-control")), (1, None));
    }
}

#[test]
fn fields_for_one_request_go_to_that_one_alone() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| {
            let fields = [
                "Cache-Control: max-age=60, no-cache=\"X-One, Set-Cookie\", private=\"x-two\"",
                "X-One: 1",
                "X-Two: 2",
                "X-Three: 3",
            ];
            Reply::ok(&fields, "x")
        });
        let node = Node::caching_by(protocol, origin.address);
        let (first, second) = (node.get("/a"), node.get("/a"));
        assert_eq!(["x-one", "x-two", "x-three"].map(|name| first.field(name)), [Some("1"), Some("2"), Some("3")]);
        assert!(second.is_hit());
        assert_eq!(["x-one", "x-two", "x-three"].map(|name| second.field(name)), [None, None, Some("3")]);
    }
}

#[test]
fn another_origin_is_asked_before_a_stale_answer_is_given() {
    for protocol in Protocol::ALL {
        let failing = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let start = |name: &'static str| {
            let failing = failing.clone();
            Origin::start(move |_| {
                let status = if name == "bad" && failing.load(std::sync::atomic::Ordering::SeqCst) { 503 } else { 200 };
                Reply::status(status, &["Cache-Control: max-age=0, stale-if-error=60"], name)
            })
        };
        let (bad, good) = (start("bad"), start("good"));
        let routes = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
        let node = Node::speaking(protocol, &[bad.address, good.address], routes);
        node.get("/a");
        node.get("/a");
        failing.store(true, std::sync::atomic::Ordering::SeqCst);
        for _ in 0..4 {
            let response = node.get("/a");
            assert_eq!((response.status, response.text().as_str()), (200, "good"), "{}", response.cache());
        }
    }
}

#[test]
fn unsafe_requests_that_succeed_invalidate() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| {
            let groups = if request.path().starts_with("/group") { "Cache-Groups: \"one\", \"two\"" } else { "X: y" };
            let fields = ["Cache-Control: max-age=60", groups];
            match (request.head.starts_with("GET"), request.field("x-answer")) {
                (true, _) | (false, None) => Reply::ok(&fields, "x"),
                (false, Some("404")) => Reply::status(404, &[], "x"),
                (false, Some(field)) => Reply::status(303, &[field], "x"),
            }
        });
        let node = Node::caching_by(protocol, origin.address);
        let (same_origin, other_scheme) = match protocol {
            Protocol::H1 => {
                ("X-Answer: Content-Location: http://shop.example/other3", "X-Answer: Location: https://shop.example/b")
            }
            Protocol::H2 => {
                ("X-Answer: Content-Location: https://shop.example/other3", "X-Answer: Location: http://shop.example/b")
            }
        };
        let warm = |path: &str| {
            node.get(path);
            assert!(node.get(path).is_hit(), "{path}");
        };
        for (method, field, other) in [
            ("POST", "", ""),
            ("PUT", "", ""),
            ("DELETE", "", ""),
            ("PATCH", "", ""),
            ("M-SEARCH", "", ""),
            ("POST", "X-Answer: Location: /other?q", "/other?q"),
            ("POST", "X-Answer: Location: other2#part", "/other2"),
            ("POST", same_origin, "/other3"),
            ("POST", "X-Answer: Content-Location: //shop.example/a/../other4", "/other4"),
            ("POST", "X-Answer: Cache-Group-Invalidation: \"two\"", "/group/a"),
        ] {
            warm("/a");
            if !other.is_empty() {
                warm(other);
            }
            let fields: &[&str] = if field.is_empty() { &[] } else { &[field] };
            node.request(method, "/a", fields, "x");
            for path in [Some("/a"), Some(other).filter(|other| !other.is_empty())].into_iter().flatten() {
                assert!(!node.get(path).is_hit(), "{method} {field}: {path}");
            }
        }
        warm("/a");
        warm("/b");
        for (method, field) in [
            ("POST", "X-Answer: 404"),
            ("OPTIONS", "X: y"),
            ("POST", "X-Answer: Location: http://other.example/b"),
            ("POST", other_scheme),
            ("POST", "X-Answer: Cache-Group-Invalidation: \"three\""),
        ] {
            let path = if field.contains("Location") || field.contains("Group") { "/elsewhere" } else { "/a" };
            node.request(method, path, &[field], "x");
            assert!(node.get("/a").is_hit() && node.get("/b").is_hit(), "{method} {field}");
        }
    }
}

#[test]
fn what_an_unsafe_request_changes_while_it_is_filled_is_not_stored() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| {
        let waits = request.path() == "/a" && request.field("x-wait").is_some();
        let mut steps = if waits { vec![Step::Wait(for_origin.clone())] } else { vec![] };
        steps.extend(Reply::ok(&["Cache-Control: max-age=60"], "x"));
        steps
    });
    let node = Node::caching(origin.address);
    let mut early = node.client();
    early.send("GET /a HTTP/1.1\r\nHost: shop.example\r\nX-Wait: 1\r\n\r\n");
    origin.wait_for(1);
    assert_eq!(node.client().request("POST", "/a", &[], "x").status, 200);
    gate.open();
    assert_eq!(early.response("GET").status, 200);
    assert!(!node.get("/a").is_hit());
    assert!(node.get("/a").is_hit());
}

#[test]
fn several_ranges_are_answered_in_one_body() {
    for protocol in Protocol::ALL {
        let origin =
            Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60", "Content-Type: text/plain"], "0123456789"));
        let node = Node::caching_by(protocol, origin.address);
        node.get("/a");
        let response = node.get_with("/a", &["Range: bytes=7-8, 0-1"]);
        assert_eq!((response.status, response.is_hit(), response.complete), (206, true, true));
        let content_type = response.field("content-type").unwrap();
        let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let part = |range: &str, body: &str| {
            format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n{body}")
        };
        let expected = format!("{}{}\r\n--{boundary}--\r\n", part("7-8", "78"), part("0-1", "01"));
        assert_eq!(response.text(), expected);
        assert_eq!(response.field("content-range"), None);
        let merged = node.get_with("/a", &["Range: bytes=0-1, 2-3"]);
        assert_eq!((merged.status, merged.text().as_str()), (206, "0123"));
        assert_eq!(merged.field("content-range"), Some("bytes 0-3/10"));
        assert_eq!(origin.count(), 1);
    }
}

#[test]
fn a_missing_date_is_added_and_one_that_is_there_is_kept() {
    let origin = Origin::start(|request| match request.path() {
        "/dated" => Reply::ok(&["Cache-Control: max-age=2147483647", "Date: Sun, 06 Nov 1994 08:49:37 GMT"], "x"),
        "/twice" => Reply::ok(&["Cache-Control: max-age=60"], "x"),
        _ => Reply::ok(&["Cache-Control: no-store"], "x"),
    });
    let node = Node::caching(origin.address);
    for path in ["/dated", "/dated"] {
        let response = node.get(path);
        assert_eq!(response.fields("date"), ["Sun, 06 Nov 1994 08:49:37 GMT"], "{}", response.head);
    }
    let first = node.get("/twice").field("date").expect("a date").to_owned();
    assert_eq!(node.get("/twice").fields("date"), [first.as_str()], "the time at which it was generated, not served");
    assert_eq!(node.get("/private").fields("date").len(), 1);
}

/// RFC 9111 section 4.3.4, and no stronger tag than what is stored has: what is coded is not what the origin compared.
#[test]
fn a_304_makes_no_tag_stronger_and_confirms_only_its_own() {
    for (stored, told, served) in [
        ("W/\"1\"", "\"1\"", Some("W/\"1\"")),
        ("\"1\"", "W/\"1\"", Some("W/\"1\"")),
        ("\"1\"", "\"1\"", Some("\"1\"")),
        ("W/\"1\"", "W/\"2\"", None),
        ("\"1\"", "W/\"2\"", None),
    ] {
        let origin = Origin::start(move |request| match request.field("if-none-match") {
            Some(_) => Reply::head_only(304, &[&format!("ETag: {told}"), "Cache-Control: max-age=60"]),
            None => Reply::ok(&[&format!("ETag: {stored}"), "Cache-Control: no-cache"], "page"),
        });
        let node = Node::caching(origin.address);
        node.get("/a");
        let response = node.get("/a");
        assert_eq!((response.status, response.text().as_str()), (200, "page"), "{stored} {told}");
        match served {
            Some(tag) => assert_eq!((response.field("etag"), origin.count()), (Some(tag), 2), "{stored} {told}"),
            None => assert_eq!(origin.count(), 3, "{stored} {told}: asked anew, without a condition"),
        }
    }
}

/// What a 304 makes unfit for the cache is not said to be stored, and is for who asked.
#[test]
fn what_a_304_takes_out_of_the_cache_is_not_called_stored() {
    let origin = Origin::start(|request| match request.field("if-none-match") {
        Some(_) => Reply::head_only(304, &["ETag: \"1\"", "Cache-Control: private"]),
        None => Reply::ok(&["ETag: \"1\"", "Cache-Control: no-cache"], "page"),
    });
    let node = Node::caching(origin.address);
    node.get("/a");
    let response = node.get("/a");
    assert_eq!(response.text(), "page");
    assert!(
        response.cache().contains("fwd-status=304") && !response.cache().contains("stored"),
        "{}",
        response.cache()
    );
}
