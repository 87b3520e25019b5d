//! What clients, logs and origins are told of a request that goes wrong: pages, problems, reasons, identifiers.

use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::origin::{DeadPort, Request};
use crate::harness::{Node, Origin, Protocol, Reply, Step, eventually};

const CACHED: &str = "cache = { mode = \"respect\", negative_ttl = { 404 = \"60s\" } }\n";

fn origin() -> Origin {
    Origin::start(|request: &Request| match request.path() {
        "/closed" | "/api/closed" => vec![Step::Close],
        "/broken" | "/api/broken" => vec![Step::Send(b"nonsense\r\n\r\n".to_vec())],
        "/gone" | "/api/gone" => {
            Reply::status(404, &["Content-Type: text/plain", "ETag: \"e\"", "X-Own: 1"], "no such thing")
        }
        "/failed" | "/api/failed" => Reply::status(500, &["Content-Encoding: gzip"], "oh no"),
        _ => Reply::ok(&["Cache-Control: max-age=60"], request.field("x-request-id").unwrap_or("-")),
    })
}

/// A node with a page for what the node says, and one for what origins say.
fn node(protocol: Protocol, origin: &Origin, more: &str) -> Node {
    let directory = Arc::new(TempDir::new().unwrap());
    std::fs::write(directory.path().join("50x.html"), "<p>{status}: call us and say {request.id}</p>{}").unwrap();
    std::fs::write(directory.path().join("404.txt"), "nothing here").unwrap();
    let pages = "[[site.shop.error_page]]\nstatus = [\"500-599\", 403]\nfile = \"50x.html\"\n\
                 [[site.shop.error_page]]\nstatus = [404]\nfile = \"404.txt\"\ncontent_type = \"text/plain\"\norigins = true\n";
    let routes = format!(
        "{pages}[[site.shop.route]]\npath = \"/denied\"\npool = \"app\"\nallow = []\n\
         [[site.shop.route]]\npath = \"/api/*\"\npool = \"app\"\nmethods = [\"GET\", \"POST\"]\n\
         [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\nmethods = [\"GET\"]\n{CACHED}"
    );
    let config = crate::harness::node::site(&[origin.address], "retries = 0\n", &routes) + more;
    Node::speaking_in(protocol, directory, &config)
}

/// The access log says it.
fn logged(node: &Node, id: &str) {
    let part = format!("\"id\":\"{id}\"");
    eventually(&part, || node.stdout().contains(&part).then_some(()));
}

#[test]
fn errors_have_the_sites_pages_and_say_why() {
    for protocol in Protocol::ALL {
        let origin = origin();
        let node = node(protocol, &origin, "");
        for (method, path, status, kind, is_page) in [
            ("GET", "/closed", 502, "http_response_incomplete", true),
            ("GET", "/api/closed", 502, "http_response_incomplete", true),
            ("POST", "/api/broken", 502, "http_protocol_error", true),
            ("GET", "/broken", 502, "http_protocol_error", true),
            ("GET", "/denied", 403, "http_request_denied", true),
            ("POST", "/other", 405, "http_request_error", false),
            ("GET", "/a/..%2fb", 400, "http_request_error", false),
        ] {
            let answer = node.request(method, path, &[], "");
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.field("proxy-status"), Some(&*format!("seawall; error={kind}")), "{method} {path}");
            let id = answer.field("x-request-id").unwrap().to_owned();
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            assert_eq!(answer.field("cache-control"), Some("no-store"));
            if is_page {
                assert_eq!(answer.text(), format!("<p>{status}: call us and say {id}</p>{{}}"), "{method} {path}");
                assert_eq!(answer.field("content-type"), Some("text/html; charset=utf-8"));
            } else {
                assert!(answer.text().starts_with(&format!("{status} ")), "{}", answer.text());
            }
            logged(&node, &id);
        }
        let answer = node.request("HEAD", "/closed", &[], "");
        assert_eq!((answer.status, answer.text().as_str()), (502, ""));
        // What an origin says is its own, unless a page is for that, too.
        let failed = node.get("/api/failed");
        assert_eq!((failed.status, failed.text().as_str()), (500, "oh no"));
        assert_eq!((failed.field("proxy-status"), failed.field("content-encoding")), (None, Some("gzip")));
        for (path, is_hit) in [("/gone", false), ("/gone", true), ("/api/gone", false)] {
            let gone = node.get(path);
            assert_eq!((gone.status, gone.text().as_str(), gone.is_hit()), (404, "nothing here", is_hit), "{path}");
            assert_eq!(
                (gone.field("etag"), gone.field("x-own"), gone.fields("content-type")),
                (None, Some("1"), vec!["text/plain"])
            );
        }
        assert_eq!(node.request("HEAD", "/gone", &[], "").field("content-length"), Some("12"));
        assert_eq!(node.get_with("/gone", &["Range: bytes=0-1"]).text(), "nothing here");
        // The connection goes on after what was left unread.
        assert_eq!(node.get("/api/fine").status, 200);
    }
}

#[test]
fn programs_get_problems() {
    for protocol in Protocol::ALL {
        let origin = origin();
        let node =
            Node::speaking(protocol, &[origin.address], "[[site.shop.route]]\npath = \"/closed\"\npool = \"app\"\n");
        for (path, status, title) in [("/closed", 502, "Bad Gateway"), ("/other", 404, "Not Found")] {
            let answer = node.get_with(path, &["Accept: application/json"]);
            assert_eq!(answer.field("content-type"), Some("application/problem+json"));
            let problem: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
            assert_eq!((problem["status"].as_u64(), problem["title"].as_str()), (Some(status), Some(title)));
            assert_eq!(problem["request_id"].as_str(), answer.field("x-request-id"));
            assert!(problem["detail"].is_string() && problem["type"] == "about:blank");
        }
    }
}

/// A page says nothing to a program: it gets the problem, or what the origin says, unless the page is one for programs.
#[test]
fn pages_are_for_people() {
    for protocol in Protocol::ALL {
        let origin = origin();
        let node = node(protocol, &origin, "");
        for (path, accept, kind, body) in [
            ("/closed", "text/html", "text/html; charset=utf-8", "<p>502"),
            ("/closed", "application/json", "application/problem+json", "{\"detail\""),
            ("/gone", "text/html", "text/plain", "nothing here"),
            ("/gone", "application/json", "text/plain", "no such thing"),
            ("/gone", "application/json, text/html", "text/plain", "nothing here"),
        ] {
            let got = node.get_with(path, &[&format!("Accept: {accept}")]);
            assert_eq!(got.field("content-type"), Some(kind), "{path} {accept}");
            assert!(got.text().starts_with(body), "{path} {accept}: {}", got.text());
            // What others keep of it they must not show to everybody.
            assert_eq!(got.field("vary"), (path == "/gone").then_some("Accept"), "{path} {accept}");
        }
    }
}

#[test]
fn a_request_has_one_identifier_everywhere() {
    for protocol in Protocol::ALL {
        for (trusted, given, is_taken) in [
            ("", "client-1", false),
            ("[node]\ntrusted_proxies = [\"127.0.0.1\"]\n", "proxy-1", true),
            ("[node]\ntrusted_proxies = [\"127.0.0.1\"]\n", "no \"good\"", false),
        ] {
            let origin = origin();
            let node = node(protocol, &origin, trusted);
            let field = format!("X-Request-Id: {given}");
            for path in ["/api/a", "/a"] {
                let at_origin = node.get_with(path, &[&field]).text();
                assert_eq!(at_origin == given, is_taken, "{path} {given}: {at_origin}");
                assert!(is_taken || at_origin.len() == 32, "{at_origin}");
                logged(&node, &at_origin);
            }
            // A hit has one of its own.
            assert!(node.get("/a").is_hit());
            let refused = node.request("POST", "/a", &[&field], "");
            assert_eq!(refused.field("x-request-id") == Some(given), is_taken);
        }
    }
    let origin = origin();
    let routes =
        "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\nresponse = { set = { X-Seen = \"{request.id}\" } }\n";
    let node = Node::with_routes(&[origin.address], routes);
    let (one, other) = (node.get("/a"), node.get("/a"));
    assert_eq!(one.field("x-seen"), Some(&*one.text()));
    assert_ne!(one.text(), other.text());
}

#[test]
fn a_reload_changes_pages() {
    let origin = origin();
    let node = node(Protocol::H1, &origin, "");
    assert!(node.get("/closed").text().starts_with("<p>502"));
    std::fs::write(node.config_path().with_file_name("50x.html"), "changed").unwrap();
    eventually("the page is another", || (node.get("/closed").text() == "changed").then_some(()));
}

/// Pages are for what origins answer: what the node says of a range or a condition keeps its status, or others would take the
/// page for the whole.
#[test]
fn ranges_and_conditions_are_not_answered_with_pages() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request: &Request| match request.path() {
            "/none" => Reply::status(404, &["Cache-Control: max-age=60"], "not there"),
            _ => Reply::ok(&["Cache-Control: max-age=60", "ETag: \"a\""], "hello"),
        });
        let routes = "[[site.shop.error_page]]\nstatus = [\"400-499\"]\nfile = \"page\"\norigins = true\n\
            [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";
        let directory = Arc::new(TempDir::new().unwrap());
        std::fs::write(directory.path().join("page"), "the page").unwrap();
        let config = crate::harness::node::site(&[origin.address], "", routes);
        let node = Node::speaking_in(protocol, directory, &config);
        node.get("/a");
        for (path, field, status, body) in [
            ("/a", "Range: bytes=100-", 416, ""),
            ("/a", "If-Match: \"b\"", 412, ""),
            ("/miss", "Range: bytes=100-", 416, ""),
            ("/none", "Accept: */*", 404, "the page"),
            ("/none", "Accept: */*", 404, "the page"),
        ] {
            let got = node.get_with(path, &[field]);
            assert_eq!((got.status, got.text().as_str()), (status, body), "{path} {field} by {protocol:?}");
            assert_eq!(got.field("content-range").is_some(), status == 416);
        }
    }
}

#[test]
fn the_access_log_says_which_origin_failed_and_after_how_many_tries() {
    let busy = || Origin::start(|_| Reply::status(503, &[], "busy"));
    let (one, other) = (busy(), busy());
    let port = DeadPort::new();
    for protocol in Protocol::ALL {
        let (one, other, closed) = (one.address, other.address, port.address);
        let origins = format!(
            "[log]\naccess = \"stdout\"\n[pool.busy]\norigins = [\"{one}\", \"{other}\"]\n[pool.closed]\norigins = [\"{closed}\"]\n\
             fallback = \"refuses\"\n[pool.refuses]\norigins = [\"{closed}\"]\n[pool.one]\norigins = [\"{one}\"]\n"
        );
        let route = |path: &str, pool: &str, cache: &str| {
            format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"{pool}\"\n{cache}\n")
        };
        let cached = "cache = { mode = \"respect\" }";
        let routes = [
            route("/busy/passed", "busy", ""),
            route("/busy/filled", "busy", cached),
            route(
                "/busy/kept",
                "busy",
                "cache = { mode = \"force\", ttl = \"60s\", negative_ttl = { 503 = \"60s\" } }",
            ),
            route("/busy/one", "one", ""),
            route("/closed/*", "closed", ""),
            route("/*", "closed", cached),
        ];
        let config = format!("{origins}[site.shop]\nhosts = [\"*\"]\n{}", routes.concat());
        let node = Node::speaking_in(protocol, Arc::new(TempDir::new().unwrap()), &config);
        for (path, status, part) in [
            ("/busy/passed", 503, "answered 503; 2 tries were made"),
            ("/busy/filled", 503, "answered 503; 2 tries were made"),
            ("/busy/kept", 503, "answered 503; 2 tries were made"),
            ("/busy/one", 503, "answered 503\""),
            ("/closed/passed", 502, "Connection refused (os error 111); 2 tries were made"),
            ("/filled", 502, "Connection refused (os error 111); 2 tries were made"),
        ] {
            let answer = node.get(path);
            assert_eq!(answer.status, status, "{path}");
            let of = format!("\"path\":\"{path}\"");
            let line = eventually("its line in the access log", || {
                node.stdout().lines().find(|line| line.contains(&of)).map(str::to_owned)
            });
            assert!(line.contains("\"error\":\"") && line.contains(part), "{protocol:?} {path}: {line}");
            if status == 502 {
                let told = node.wait_for_log(&format!("id={}", answer.field("x-request-id").unwrap()));
                assert!(told.contains(part), "{told}");
            }
        }
    }
}
