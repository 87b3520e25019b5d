//! Parts of responses: what is left of a fill that broke off, and ranges that origins are asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::origin::Request;
use crate::harness::{Node, Origin, Protocol, Reply, Step, eventually};

const WHOLE: &str = "0123456789abcdefghij";

/// Answers as a good server does: ranges, if `If-Range` allows them.
fn good(request: &Request, etag: &str) -> Vec<Step> {
    let tag = format!("ETag: {etag}");
    let fields = ["Cache-Control: max-age=60", "Cache-Tag: t", tag.as_str()];
    let allowed = request.field("if-range").is_none_or(|condition| condition == etag);
    let Some(range) = request.field("range").filter(|_| allowed) else { return Reply::ok(&fields, WHOLE) };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (first, last.min(WHOLE.len() - 1)),
        (Ok(first), Err(_)) => (first, WHOLE.len() - 1),
        (Err(_), suffix) => (WHOLE.len() - suffix.unwrap(), WHOLE.len() - 1),
    };
    if first >= WHOLE.len() {
        return Reply::status(416, &["Content-Range: bytes */20"], "");
    }
    let content_range = format!("Content-Range: bytes {first}-{last}/{}", WHOLE.len());
    Reply::status(206, &[&fields[..], &[content_range.as_str()]].concat(), &WHOLE[first..=last])
}

/// The head of the whole, eight bytes of it, and the end of the connection.
fn broken(etag: &str) -> Vec<Step> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nCache-Control: max-age=60\r\nCache-Tag: t\r\nETag: {etag}\r\n\r\n01234567"
    );
    vec![Step::Send(head.into_bytes()), Step::Close]
}

/// An origin whose first answer breaks off.
fn breaking(first_etag: &'static str, then: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => broken(first_etag),
        _ => then(request),
    })
}

/// Has the fill of `/a` break off.
fn break_off(node: &Node) {
    let response = node.get("/a");
    assert!(!response.complete || response.status == 502, "{}", response.head);
}

#[test]
fn a_fill_that_broke_off_is_gone_on_with() {
    for protocol in Protocol::ALL {
        let origin = breaking("\"v1\"", |request| good(request, "\"v1\""));
        let node = Node::caching_by(protocol, origin.address);
        break_off(&node);
        // What is there is enough for some.
        let part = node.get_with("/a", &["Range: bytes=2-5"]);
        assert_eq!((part.status, part.is_hit(), part.text().as_str()), (206, true, "2345"), "{}", part.head);
        assert_eq!(part.field("content-range"), Some("bytes 2-5/20"));
        assert_eq!(node.get_with("/a", &["If-None-Match: \"v1\""]).status, 304);
        assert_eq!(origin.count(), 1);
        let whole = node.get("/a");
        assert_eq!((whole.status, whole.text().as_str()), (200, WHOLE));
        assert!(whole.cache().contains("fwd=partial; stored"), "{}", whole.cache());
        assert_eq!((whole.field("content-range"), whole.field("content-length")), (None, Some("20")));
        let asked = origin.requests().pop().unwrap();
        assert_eq!((asked.field("range"), asked.field("if-range")), (Some("bytes=8-19"), Some("\"v1\"")));
        let hit = node.get("/a");
        assert_eq!((hit.is_hit(), hit.text().as_str(), origin.count()), (true, WHOLE, 2));
    }
}

#[test]
fn what_has_changed_meanwhile_is_fetched_anew_and_never_mixed() {
    // An origin that heeds If-Range, and one that does not.
    let heeds = breaking("\"v1\"", |request| good(request, "\"v2\""));
    let ignores = breaking("\"v1\"", |request| {
        let without = Request { head: request.head.replace("if-range", "x-if-range"), ..request.clone() };
        good(&without, "\"v2\"")
    });
    for origin in [heeds, ignores] {
        let node = Node::caching(origin.address);
        break_off(&node);
        let whole = node.get("/a");
        assert_eq!((whole.status, whole.text().as_str(), whole.field("etag")), (200, WHOLE, Some("\"v2\"")));
        assert!(node.get("/a").is_hit());
    }
}

#[test]
fn what_is_whole_and_stale_is_worth_more_than_a_new_part() {
    let count = AtomicUsize::new(0);
    let origin = Origin::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ok(&["Cache-Control: max-age=0, stale-if-error=60", "ETag: \"v0\""], "stale"),
        1 => broken("\"v1\""),
        2 => Reply::status(503, &[], ""),
        _ => good(request, "\"v1\""),
    });
    let node = Node::caching(origin.address);
    node.get("/a");
    break_off(&node);
    assert_eq!(node.get("/a").text(), "stale");
    assert_eq!(node.get("/a").text(), WHOLE);
}

#[test]
fn what_cannot_be_gone_on_with_is_not_kept() {
    let origin = breaking("W/\"v1\"", |request| good(request, "\"v1\""));
    let node = Node::caching(origin.address);
    break_off(&node);
    assert_eq!(node.get("/a").text(), WHOLE);
    assert_eq!(origin.requests()[1].field("range"), None);
}

#[test]
fn purges_and_unsafe_requests_hit_parts_too() {
    for purge in ["{\"tags\": [\"t\"]}", "{\"url\": \"http://shop.example/a\"}", "{\"all\": true}", "POST"] {
        let origin = breaking("\"v1\"", |request| good(request, "\"v1\""));
        let node = Node::caching(origin.address);
        break_off(&node);
        match purge {
            "POST" => drop(node.request("POST", "/a", &[], "x")),
            body => drop(node.purge(body).to_string()),
        }
        let range = node.get_with("/a", &["Range: bytes=2-5"]);
        assert_eq!((range.is_hit(), range.text().as_str()), (false, "2345"), "{purge}: {}", range.head);
        assert_eq!(origin.requests().last().unwrap().field("range"), None, "{purge}");
    }
}

fn asking_ranges(protocol: Protocol, origin: &Origin) -> Node {
    Node::speaking(
        protocol,
        &[origin.address],
        "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\", fetch_ranges = true }\n",
    )
}

#[test]
fn ranges_are_asked_for_kept_joined_and_completed() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| good(request, "\"v1\""));
        let node = asking_ranges(protocol, &origin);
        let ask = |range: &str| node.get_with("/a", &[&format!("Range: bytes={range}")]);
        for (range, hit, body, asked) in [
            ("4-7", false, "4567", Some("bytes=4-7")),
            ("4-7", true, "4567", None),
            ("5-6", true, "56", None),
            // What lies in the middle cannot be completed by one range.
            ("6-9", false, "6789", Some("bytes=6-9")),
            ("4-9", true, "456789", None),
            ("-5", false, "fghij", Some("bytes=-5")),
        ] {
            let before = origin.count();
            let response = ask(range);
            assert_eq!((response.status, response.text().as_str()), (206, body), "{range}: {}", response.head);
            assert_eq!(response.is_hit(), hit, "{range}: {}", response.cache());
            let found = origin.requests().split_off(before);
            let found = found.first().map(|request| request.field("range").unwrap_or("none").to_owned());
            assert_eq!(found.as_deref(), asked, "{range}");
        }
    }
}

#[test]
fn a_suffix_is_completed_by_what_comes_before_it() {
    let origin = Origin::start(|request| good(request, "\"v1\""));
    let node = asking_ranges(Protocol::H1, &origin);
    assert_eq!(node.get_with("/a", &["Range: bytes=-5"]).text(), "fghij");
    let whole = node.get("/a");
    assert_eq!((whole.status, whole.text().as_str()), (200, WHOLE));
    assert_eq!(origin.requests()[1].field("range"), Some("bytes=0-14"));
    assert!(node.get("/a").is_hit());
}

#[test]
fn what_comes_short_of_a_suffix_is_not_joined_to_it() {
    let origin = Origin::start(|request| match request.field("range") {
        // Ten of the fifteen bytes, and a proper end.
        Some("bytes=0-14") => {
            let fields = ["Content-Range: bytes 0-14/20", "ETag: \"v1\"", "Cache-Control: max-age=60"];
            let mut bytes = Reply::head(206, &[&fields[..], &["Transfer-Encoding: chunked"]].concat());
            bytes.extend_from_slice(b"a\r\n0123456789\r\n0\r\n\r\n");
            vec![Step::Send(bytes)]
        }
        _ => good(request, "\"v1\""),
    });
    let node = asking_ranges(Protocol::H1, &origin);
    assert_eq!(node.get_with("/a", &["Range: bytes=-5"]).text(), "fghij");
    assert!(!node.get("/a").complete);
    assert_eq!(node.get_with("/a", &["Range: bytes=8-11"]).text(), "89ab");
    assert_eq!(node.get("/a").text(), WHOLE);
}

#[test]
fn a_range_that_is_not_as_long_as_it_says_is_no_answer() {
    for body in ["4\r\n0123\r\n0\r\n\r\n", "c\r\n0123456789ab\r\n0\r\n\r\n", "6\r\n012345\r\n6\r\n6789ab\r\n0\r\n\r\n"]
    {
        let origin = Origin::start(move |_| {
            let fields = ["Content-Range: bytes 0-9/20", "ETag: \"v1\"", "Cache-Control: max-age=60"];
            let mut bytes = Reply::head(206, &[&fields[..], &["Transfer-Encoding: chunked"]].concat());
            bytes.extend_from_slice(body.as_bytes());
            vec![Step::Send(bytes)]
        });
        let node = asking_ranges(Protocol::H1, &origin);
        let mut client = node.client();
        let response = client.get("/a", &["Range: bytes=0-9"]);
        assert!(!response.complete && response.body.len() < 10, "{}", response.head);
        assert!(client.is_closed(), "what follows must not be taken for the next response");
        assert!(!node.get_with("/a", &["Range: bytes=0-1"]).is_hit());
    }
}

#[test]
fn parts_that_are_of_no_use_do_not_make_the_node_fetch_the_whole() {
    let origin = Origin::start(|request| good(request, "\"v1\""));
    let routes = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\", fetch_ranges = true }\n\
                  [cache.memory]\nmax_object = 12\n";
    let node = Node::speaking(Protocol::H1, &[origin.address], routes);
    for (range, body) in [("0-7", "01234567"), ("18-19", "ij"), ("8-15", "89abcdef"), ("0-15", "0123456789abcdef")] {
        assert_eq!(node.get_with("/a", &[&format!("Range: bytes={range}")]).text(), body);
    }
    let asked: Vec<String> =
        origin.requests().iter().map(|request| request.field("range").unwrap().to_owned()).collect();
    assert_eq!(asked, ["bytes=0-7", "bytes=18-19", "bytes=8-15", "bytes=0-15"]);
    let (_, explained) = node.admin("GET", "/v1/explain?url=shop.example/a", "");
    assert!(explained["stored"][0]["bytes"].as_u64().unwrap() <= 12, "{explained}");
}

#[test]
fn a_range_that_one_client_asked_for_changes_nothing_for_others() {
    let origin = Origin::start(|request| good(request, "\"v1\""));
    let node = asking_ranges(Protocol::H1, &origin);
    let beyond = node.get_with("/a", &["Range: bytes=50-"]);
    assert_eq!((beyond.status, beyond.field("content-range")), (416, Some("bytes */20")));
    assert!(node.get("/a").cache().contains("; stored"));
    assert!(node.get("/a").is_hit());
    // Under a condition of the client's own, the node asks for the whole and answers itself.
    let other = node.get_with("/b", &["Range: bytes=0-1", "If-Range: \"v0\""]);
    assert_eq!((other.status, other.text().as_str()), (200, WHOLE));
}

#[test]
fn what_is_there_of_a_part_is_explained() {
    let origin = Arc::new(breaking("\"v1\"", |request| good(request, "\"v1\"")));
    let node = Node::caching(origin.address);
    break_off(&node);
    let (_, answer) = eventually("the part", || {
        let answer = node.admin("GET", "/v1/explain?url=shop.example/a", "");
        answer.1["stored"][0].is_object().then_some(answer)
    });
    assert_eq!((&answer["stored"][0]["range"], &answer["stored"][0]["bytes"]), (&"0-7/20".into(), &8.into()));
}

/// What completes a part may say to one visitor what is not for others, as a 304 may.
#[test]
fn what_completes_a_part_for_a_visitor_says_nothing_of_that_visitor_to_others() {
    let modified = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
    let count = AtomicUsize::new(0);
    let origin = Origin::start(move |request| {
        let who = format!("X-User: {}", request.field("cookie").unwrap_or("anybody"));
        let fields = ["ETag: \"v1\"", modified, &who];
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n{}\r\n\r\n01234567", fields.join("\r\n"));
            return vec![Step::Send(head.into_bytes()), Step::Close];
        }
        match request.field("range") {
            Some(_) => Reply::status(206, &[&fields[..], &["Content-Range: bytes 8-19/20"]].concat(), &WHOLE[8..]),
            None => Reply::ok(&fields, WHOLE),
        }
    });
    let node = Node::caching(origin.address);
    break_off(&node);
    let alice = node.get_with("/a", &["Cookie: alice"]);
    assert_eq!((alice.text().as_str(), alice.field("x-user")), (WHOLE, Some("alice")));
    let other = node.get("/a");
    assert_eq!((other.text().as_str(), other.field("x-user")), (WHOLE, Some("anybody")), "{}", other.head);
}
