//! What the node compresses itself, as clients see it.

use std::io::Read;

use crate::harness::client::{Response, find};
use crate::harness::node::site;
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Protocol, Reply, Step, eventually};

const FRESH: &str = "Cache-Control: max-age=60";
const HTML: &str = "Content-Type: text/html";
const ETAG: &str = "ETag: \"v1\"";

fn text() -> String {
    (0..2000).map(|number| format!("<li>{number}</li>\n")).collect()
}

fn compressing(protocol: Protocol, more: &str, origin: &Origin) -> Node {
    Node::speaking(
        protocol,
        &[origin.address],
        &format!(
            "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n[site.shop.route.cache]\nmode = \"respect\"\n\
             compress = [\"zstd\", \"br\", \"gzip\"]\n{more}\n"
        ),
    )
}

/// Asks until the answer is coded: the node does that in the background.
fn coded(node: &Node, path: &str, accept: &str) -> Response {
    let field = format!("Accept-Encoding: {accept}");
    eventually("a coded answer", || {
        let response = node.get_with(path, &[&field]);
        response.field("content-encoding").is_some().then_some(response)
    })
}

fn decode(response: &Response) -> Vec<u8> {
    let mut out = Vec::new();
    match response.field("content-encoding").unwrap() {
        "zstd" => out = zstd::bulk::decompress(&response.body, 1 << 20).unwrap(),
        "br" => brotli::BrotliDecompress(&mut &response.body[..], &mut out).unwrap(),
        "gzip" => {
            flate2::read::GzDecoder::new(&response.body[..]).read_to_end(&mut out).unwrap();
        }
        other => panic!("{other}"),
    }
    out
}

#[test]
fn each_client_gets_the_best_coding_it_takes() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| Reply::ok(&[FRESH, HTML, ETAG], text()));
        let node = compressing(protocol, "", &origin);
        let first = node.get_with("/a", &["Accept-Encoding: gzip"]);
        assert_eq!((first.field("content-encoding"), first.text()), (None, text()), "nobody waits for it");
        assert_eq!(first.field("vary"), Some("accept-encoding"));
        assert_eq!(origin.requests()[0].field("accept-encoding"), Some("identity"));
        coded(&node, "/a", "gzip");
        for (accept, expected) in [
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip, deflate, br", Some("br")),
            ("gzip", Some("gzip")),
            ("gzip;q=0.9, br;q=0.1", Some("gzip")),
            ("br;q=0, gzip;q=0, *;q=0.5", Some("zstd")),
            ("deflate", None),
            ("gzip;q=0", None),
            ("identity, gzip;q=0.5", None),
        ] {
            let response = node.get_with("/a", &[&format!("Accept-Encoding: {accept}")]);
            assert_eq!(response.field("content-encoding"), expected, "{accept}");
            assert_eq!(response.field("vary"), Some("accept-encoding"), "{accept}");
            match expected {
                Some(_) => {
                    assert_eq!(decode(&response), text().into_bytes(), "{accept}");
                    assert_eq!(response.field("etag"), Some("W/\"v1\""), "{accept}");
                    assert!(response.body.len() < text().len() / 3);
                }
                None => assert_eq!((response.text(), response.field("etag")), (text(), Some("\"v1\"")), "{accept}"),
            }
        }
        assert_eq!(origin.count(), 1);
    }
}

#[test]
fn conditions_heads_and_ranges_meet_the_right_representation() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| Reply::ok(&[FRESH, HTML, ETAG], text()));
        let node = compressing(protocol, "", &origin);
        let whole = coded(&node, "/a", "br");
        let head = node.request("HEAD", "/a", &["Accept-Encoding: br"], "");
        assert_eq!(head.field("content-length"), whole.field("content-length"));
        assert_eq!(head.field("content-encoding"), Some("br"));
        for etag in ["\"v1\"", "W/\"v1\""] {
            let response = node.get_with("/a", &["Accept-Encoding: br", &format!("If-None-Match: {etag}")]);
            assert_eq!((response.status, response.field("etag")), (304, Some("W/\"v1\"")), "{etag}");
        }
        let part = node.get_with("/a", &["Accept-Encoding: br", "Range: bytes=4-7"]);
        assert_eq!((part.status, part.field("content-encoding"), part.text().as_str()), (206, None, &text()[4..8]));
        assert_eq!(part.field("etag"), Some("\"v1\""));
        let refused = node.get_with("/a", &["Accept-Encoding: br", "Cache-Control: no-transform"]);
        assert_eq!(refused.field("content-encoding"), None);
    }
}

#[test]
fn what_is_not_to_be_coded_is_left_as_it_is() {
    let origin = Origin::start(|request| match request.path() {
        "/image" => Reply::ok(&[FRESH, "Content-Type: image/png"], text()),
        "/small" => Reply::ok(&[FRESH, HTML], "small"),
        "/kept" => Reply::ok(&["Cache-Control: max-age=60, no-transform", HTML], text()),
        "/own" => Reply::ok(&[FRESH, HTML, "Content-Encoding: x-own"], text()),
        _ => Reply::ok(&[FRESH, HTML], text()),
    });
    let node = compressing(Protocol::H1, "compress_min_size = \"1KiB\"", &origin);
    let paths = ["/image", "/small", "/kept", "/own"];
    for path in paths {
        node.get(path);
    }
    // Coded after all of those would have been.
    coded(&node, "/last", "gzip");
    for path in paths {
        let response = node.get_with(path, &["Accept-Encoding: gzip"]);
        let own = (path == "/own").then_some("x-own");
        assert_eq!((response.is_hit(), response.field("content-encoding")), (true, own), "{path}");
        assert_eq!(response.field("vary"), None, "{path}");
    }
}

#[test]
fn a_coded_object_is_validated_and_purged_like_any_other() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.field("if-none-match") {
            Some(_) => Reply::head_only(304, &["Cache-Control: no-cache", ETAG]),
            None => Reply::ok(&["Cache-Control: no-cache", HTML, ETAG, "Cache-Tag: t"], text()),
        });
        let node = compressing(protocol, "", &origin);
        let response = coded(&node, "/a", "gzip");
        assert!(response.cache().contains("fwd-status=304"), "{}", response.cache());
        let before = origin.count();
        let again = node.get_with("/a", &["Accept-Encoding: gzip"]);
        assert_eq!((again.field("content-encoding"), origin.count()), (Some("gzip"), before + 1));
        node.purge("{\"tags\": [\"t\"]}");
        let fresh = node.get_with("/a", &["Accept-Encoding: gzip"]);
        assert!(fresh.cache().contains("fwd=uri-miss"), "{}", fresh.cache());
        assert_eq!(origin.requests().last().unwrap().field("if-none-match"), None);
    }
}

#[test]
fn an_origins_own_coding_is_kept_where_it_is_asked_for() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.field("accept-encoding") {
            Some("gzip") => {
                Reply::ok(&[FRESH, HTML, "Vary: Accept-Encoding", "Content-Encoding: gzip"], "the origin's own")
            }
            _ => Reply::ok(&[FRESH, HTML, "Vary: Accept-Encoding"], text()),
        });
        let node = compressing(protocol, "key = { accept_encoding = [\"gzip\"] }", &origin);
        for accept in ["gzip", "gzip, br", "br, gzip"] {
            let response = node.get_with("/a", &[&format!("Accept-Encoding: {accept}")]);
            assert_eq!(
                (response.field("content-encoding"), response.text().as_str()),
                (Some("gzip"), "the origin's own")
            );
        }
        assert_eq!(origin.count(), 1, "one variant for all who take gzip");
        let other = coded(&node, "/a", "br");
        assert_eq!((other.field("content-encoding"), decode(&other)), (Some("br"), text().into_bytes()));
        assert_eq!(origin.count(), 2);
    }
}

#[test]
fn what_is_coded_counts_as_memory() {
    let origin = Origin::start(|_| Reply::ok(&[FRESH, HTML], text()));
    let node = compressing(Protocol::H1, "", &origin);
    let bytes = || node.admin("GET", "/v1/status", "").1["cache"]["memory"]["bytes"].as_u64().unwrap();
    node.get("/a");
    coded(&node, "/a", "gzip");
    eventually("its weight", || (bytes() > text().len() as u64 + 5000).then_some(()));
    assert_eq!(node.metric("seawall_compressed_total{coding=\"br\"}"), Some(1.0));
    assert!(node.metric("seawall_compress_saved_bytes_total").unwrap() > 10_000.0);
}

/// A route that passes everything, and one for what is cached; both compress what is not stored.
fn passing(protocol: Protocol, codings: &str, origin: &Origin) -> Node {
    Node::speaking(
        protocol,
        &[origin.address],
        &format!(
            "[[site.shop.route]]\npath = \"/pass/*\"\npool = \"app\"\ncompress_passed = {codings}\n\
             [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncompress_passed = {codings}\n\
             cache = {{ mode = \"respect\" }}\n"
        ),
    )
}

const ALL_CODINGS: &str = "[\"zstd\", \"br\", \"gzip\"]";

#[test]
fn what_is_not_stored_is_compressed_as_it_passes() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| {
            let cookie = request.field("cookie").unwrap_or_default();
            let body = format!("{cookie}\n{}", text());
            Reply::ok(
                &["Cache-Control: no-store", HTML, ETAG, "Content-Digest: sha-256=:x:", "Accept-Ranges: bytes"],
                body,
            )
        });
        let node = passing(protocol, ALL_CODINGS, &origin);
        for path in ["/pass/a", "/a"] {
            for (accept, expected) in
                [("gzip, br, zstd", Some("zstd")), ("br, gzip", Some("br")), ("gzip", Some("gzip")), ("deflate", None)]
            {
                for (method, visitor) in [("GET", "anna"), ("GET", "bert"), ("POST", "carl"), ("HEAD", "dora")] {
                    let fields = [format!("Accept-Encoding: {accept}"), format!("Cookie: {visitor}")];
                    let response = node.request(method, path, &[&fields[0], &fields[1]], "");
                    let what = format!("{protocol:?} {method} {path} {accept}");
                    assert_eq!((response.status, response.field("content-encoding")), (200, expected), "{what}");
                    assert_eq!(response.field("vary"), Some("accept-encoding"), "{what}");
                    let body = format!("{visitor}\n{}", text());
                    match expected {
                        Some(_) => {
                            assert_eq!(response.field("etag"), Some("W/\"v1\""), "{what}");
                            let left =
                                ["content-length", "content-digest", "accept-ranges"].map(|name| response.field(name));
                            assert_eq!(left, [None; 3], "{what}");
                        }
                        None => {
                            assert_eq!(response.field("etag"), Some("\"v1\""), "{what}");
                            assert_eq!(response.field("content-length"), Some(&*body.len().to_string()), "{what}");
                        }
                    }
                    match (method, expected) {
                        ("HEAD", _) => assert!(response.body.is_empty()),
                        (_, Some(_)) => assert_eq!(decode(&response), body.into_bytes(), "{what}"),
                        (_, None) => assert_eq!(response.text(), body, "{what}"),
                    }
                }
            }
        }
        assert!(node.metric("seawall_compressed_total{coding=\"br\"}") >= Some(6.0));
    }
}

#[test]
fn what_is_not_to_be_coded_passes_as_it_is() {
    let origin = Origin::start(|request| match request.path() {
        "/pass/image" => Reply::ok(&["Content-Type: image/png"], text()),
        "/pass/small" => Reply::ok(&[HTML], "small"),
        "/pass/kept" => Reply::ok(&["Cache-Control: no-transform", HTML], text()),
        "/pass/own" => Reply::ok(&[HTML, "Content-Encoding: x-own"], text()),
        "/pass/events" => Reply::ok(&["Content-Type: text/event-stream"], text()),
        "/pass/part" => Reply::status(206, &[HTML, "Content-Range: bytes 0-28889/50000"], text()),
        "/pass/none" => Reply::head_only(204, &[HTML]),
        "/pass/same" => Reply::head_only(304, &[HTML, ETAG]),
        _ => Reply::ok(&[HTML], text()),
    });
    for protocol in Protocol::ALL {
        let node = passing(protocol, ALL_CODINGS, &origin);
        for path in ["image", "small", "kept", "own", "events", "part", "none"] {
            let plain = node.get(&format!("/pass/{path}"));
            let response = node.get_with(&format!("/pass/{path}"), &["Accept-Encoding: gzip"]);
            let own = (path == "own").then_some("x-own");
            assert_eq!(response.field("content-encoding"), own, "{path}");
            assert_eq!((response.status, &response.body), (plain.status, &plain.body), "{path}");
            assert_eq!(
                (response.field("vary"), response.field("content-length")),
                (None, plain.field("content-length"))
            );
        }
        let same = node.get_with("/pass/same", &["Accept-Encoding: gzip", "If-None-Match: \"v1\""]);
        assert_eq!((same.status, same.field("content-encoding"), same.field("etag")), (304, None, Some("\"v1\"")));
        if protocol == Protocol::H1 {
            let mut old = node.client();
            old.send("GET /pass/a HTTP/1.0\r\nHost: shop\r\nAccept-Encoding: gzip\r\n\r\n");
            let old = old.response("GET");
            assert_eq!(
                (old.field("content-encoding"), old.text()),
                (None, text()),
                "its length says whether it is whole"
            );
        }
        let refused = node.get_with("/pass/a", &["Accept-Encoding: gzip", "Cache-Control: no-transform"]);
        assert_eq!((refused.field("content-encoding"), refused.text()), (None, text()));
        // Who has it coded has it by a weak tag, and is told of that.
        let coded = node.get_with("/pass/same", &["Accept-Encoding: gzip", "If-None-Match: W/\"v1\""]);
        assert_eq!((coded.status, coded.field("etag")), (304, Some("W/\"v1\"")));
        assert_eq!(coded.field("vary"), Some("accept-encoding"));
        let part = node.get_with("/a", &["Accept-Encoding: gzip", "Range: bytes=4-7"]);
        assert_eq!(part.field("content-encoding"), (part.status == 200).then_some("gzip"), "a part is never coded");
    }
}

#[test]
fn what_has_come_goes_on_when_the_origin_pauses() {
    for coding in ["zstd", "br", "gzip"] {
        pauses_are_heard(coding);
    }
}

fn pauses_are_heard(coding: &str) {
    let gates: [Gate; 2] = Default::default();
    let waits = gates.clone();
    let origin = Origin::start(move |_| {
        let chunk = |text: &str| Step::Send(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes());
        let head = Reply::head(200, &[HTML, "Transfer-Encoding: chunked", "Trailer: X-Sum, Content-Digest"]);
        let end = b"0\r\nX-Sum: 7\r\nContent-Digest: sha-256=:x:\r\n\r\n".to_vec();
        let [first, second] = waits.clone().map(Step::Wait);
        vec![Step::Send(head), chunk("one "), first, chunk("two "), second, chunk("three"), Step::Send(end)]
    });
    let node = passing(Protocol::H1, &format!("[\"{coding}\"]"), &origin);
    let mut client = node.client();
    client.send(format!("GET /pass/a HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\nAccept-Encoding: {coding}\r\n\r\n"));
    let head = client.head();
    assert!(head.contains(&format!("content-encoding: {coding}")), "{head}");
    let mut got = Vec::new();
    for (readable, gate) in [("one ", &gates[0]), ("one two ", &gates[1])] {
        while so_far(coding, &dechunked(&got)) != readable.as_bytes() {
            got.extend(client.read_some());
        }
        gate.open();
    }
    while find(&got, b"\r\n0\r\n").is_none() || !got.ends_with(b"\r\n\r\n") {
        got.extend(client.read_some());
    }
    assert_eq!(so_far(coding, &dechunked(&got)), b"one two three");
    let text = String::from_utf8_lossy(&got).to_ascii_lowercase();
    assert!(text.contains("x-sum: 7") && !text.contains("content-digest"), "{text}");
}

/// The data of what has come of a chunked body.
fn dechunked(body: &[u8]) -> Vec<u8> {
    let (mut rest, mut out) = (body, Vec::new());
    while let Some(at) = find(rest, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        let data = rest.get(at + 2..at + 2 + size).filter(|data| !data.is_empty());
        let Some(data) = data else { break };
        out.extend_from_slice(data);
        rest = rest.get(at + 2 + size + 2..).unwrap_or_default();
    }
    out
}

/// What can be read of the beginning of a coded body.
fn so_far(coding: &str, coded: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read + '_> = match coding {
        "zstd" => Box::new(zstd::stream::read::Decoder::new(coded).unwrap()),
        "br" => Box::new(brotli::Decompressor::new(coded, 4096)),
        _ => Box::new(flate2::read::GzDecoder::new(coded)),
    };
    let (mut out, mut space) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = reader.read(&mut space) {
        out.extend_from_slice(&space[..read]);
    }
    out
}

#[test]
fn a_coded_body_that_breaks_off_is_not_taken_for_a_whole_one() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|_| {
            let head = Reply::head(200, &[HTML, "Content-Length: 100000"]);
            vec![Step::Send(head), Step::Send(text().into_bytes()), Step::Close]
        });
        let node = passing(protocol, ALL_CODINGS, &origin);
        let broken = node.get_with("/pass/a", &["Accept-Encoding: gzip"]);
        assert_eq!((broken.field("content-encoding"), broken.complete), (Some("gzip"), false), "{protocol:?}");
    }
}

#[test]
fn no_more_are_compressed_at_one_time_than_may_be() {
    let gate = Gate::default();
    let wait = gate.clone();
    let origin = Origin::start(move |request| match request.path() {
        "/slow" => {
            let head =
                Reply::head(200, &["Cache-Control: no-store", HTML, &format!("Content-Length: {}", text().len())]);
            let half = text().len() / 2;
            let [first, second] = [&text()[..half], &text()[half..]].map(|part| Step::Send(part.as_bytes().to_vec()));
            vec![Step::Send(head), first, Step::Wait(wait.clone()), second]
        }
        _ => Reply::ok(&["Cache-Control: no-store", HTML], text()),
    });
    let config = site(
        &[origin.address],
        "",
        "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncompress_passed = [\"gzip\"]\n\
         cache = { mode = \"respect\", compress_min_size = \"1B\" }\n",
    );
    let node = Node::start(&format!("{config}\n[limits]\nmax_compressions = 1\n"));
    let mut slow = node.client();
    slow.send("GET /slow HTTP/1.1\r\nHost: shop\r\nAccept-Encoding: gzip\r\n\r\n");
    assert!(slow.head().contains("content-encoding: gzip"));
    let head = node.request("HEAD", "/quick", &["Accept-Encoding: gzip"], "");
    assert_eq!(head.field("content-encoding"), None, "it says what a GET would say");
    let plain = node.get_with("/quick", &["Accept-Encoding: gzip"]);
    assert_eq!((plain.field("content-encoding"), plain.field("vary")), (None, Some("accept-encoding")));
    assert_eq!(plain.text(), text());
    assert_eq!(node.metric("seawall_compress_skipped_total"), Some(2.0));
    gate.open();
    eventually("room for one more", || {
        let response = node.get_with("/quick", &["Accept-Encoding: gzip"]);
        response.field("content-encoding").is_some().then(|| assert_eq!(decode(&response), text().into_bytes()))
    });
}

/// For all routes of a site, whether they have a cache of their own or not.
#[test]
fn defaults_say_once_what_is_compressed() {
    let origin = Origin::start(|request| {
        let control = if request.path().ends_with("kept") { "max-age=60" } else { "no-store" };
        let fields = ["Content-Type: text/x-own", &format!("Cache-Control: {control}")];
        Reply::ok(&fields, "compress me ".repeat(500))
    });
    let routes = r#"
defaults = { pool = "app", compress = ["gzip"], compress_passed = ["gzip"], compress_types = ["text/x-own"], cache = { mode = "respect" } }
[[site.shop.route]]
path = "/forced/*"
cache = { mode = "force", ttl = "1m" }
[[site.shop.route]]
path = "/none/*"
cache = { mode = "respect", compress = [] }
[[site.shop.route]]
path = "/html/*"
cache = { mode = "respect", compress_types = ["text/html"] }
[[site.shop.route]]
path = "/off/*"
cache = { mode = "off" }
[[site.shop.route]]
path = "/*"
"#;
    let node = Node::with_routes(&[origin.address], routes);
    let coded = |path: &str| {
        let reply = node.get_with(path, &["Host: shop.example", "Accept-Encoding: gzip"]);
        reply.field("content-encoding").is_some()
    };
    for path in ["/kept", "/forced/kept"] {
        coded(path);
        eventually("it to be compressed", || coded(path).then_some(()));
    }
    assert!(coded("/passed") && coded("/off/passed") && coded("/none/passed"));
    assert!(!coded("/html/passed"));
    coded("/none/kept");
    assert!(node.get("/none/kept").is_hit() && !coded("/none/kept"));
}
