//! What the node compresses itself, as clients see it.

use std::io::Read;

use crate::harness::client::Response;
use crate::harness::{Node, Origin, Protocol, Reply, eventually};

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
