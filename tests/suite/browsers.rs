//! What browsers are told: to come by HTTPS, under which name, what other pages may read, and what is safe.

use crate::harness::origin::Request;
use crate::harness::{Node, Origin, Protocol, Reply};

const CACHED: &str = "cache = { mode = \"respect\" }\n";

/// An origin whose answers say things of the kind themselves.
fn talkative() -> Origin {
    Origin::start(|request: &Request| {
        let fields = [
            "Cache-Control: max-age=60",
            "ETag: \"a\"",
            "Access-Control-Allow-Origin: https://evil.example",
            "Access-Control-Allow-Credentials: true",
            "Vary: Origin",
            "Strict-Transport-Security: max-age=1",
            "X-Frame-Options: ALLOWALL",
        ];
        Reply::ok(&fields, format!("{} {}", request.head.split(' ').next().unwrap_or_default(), request.path()))
    })
}

/// A site whose lines `more` are before its routes.
fn site_with(protocol: Protocol, origin: &Origin, more: &str, routes: &str) -> Node {
    let config = crate::harness::node::site(&[origin.address], "", routes)
        .replace("[site.shop]\n", &format!("[site.shop]\n{more}"));
    Node::speaking_in(protocol, std::sync::Arc::new(tempfile::TempDir::new().unwrap()), &config)
}

/// What is stored once is shown to the pages of every origin that may read it, and to no other.
#[test]
fn pages_of_other_origins_read_what_the_route_lets_them() {
    for protocol in Protocol::ALL {
        let origin = talkative();
        let routes = format!(
            "[[site.shop.route]]\npath = \"/fonts/*\"\npool = \"app\"\nmethods = [\"GET\"]\ncors = {{ origins = [\"*\"] }}\n{CACHED}\
             [[site.shop.route]]\npath = \"/api/*\"\npool = \"app\"\ncors = {{ origins = [\"https://app.example\", \"https://*.app.example\"], \
             methods = [\"GET\", \"PUT\"], headers = [\"Content-Type\"], expose = [\"X-Total\"], credentials = true, max_age = \"1h\" }}\n{CACHED}\
             [[site.shop.route]]\npath = \"/put\"\npool = \"app\"\nwhen = 'method == \"PUT\"'\ncors = {{ origins = [\"*\"], methods = [\"PUT\"] }}\n\
             [[site.shop.route]]\npath = \"/closed\"\npool = \"app\"\nallow = [\"192.0.2.0/24\"]\ncors = {{ origins = [\"*\"] }}\n\
             [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\nmethods = [\"GET\", \"OPTIONS\"]\n{CACHED}"
        );
        let node = Node::speaking(protocol, &[origin.address], &routes);
        let app = "Origin: https://app.example";
        for (path, fields, allowed) in [
            ("/api/a", &[app][..], Some("https://app.example")),
            ("/api/a", &["Origin: https://b.app.example"], Some("https://b.app.example")),
            ("/api/a", &["Origin: https://evil.example"], None),
            ("/api/a", &[], None),
            ("/api/a", &[app, "If-None-Match: \"a\""], Some("https://app.example")),
            ("/api/a", &[app, "Range: bytes=0-1"], Some("https://app.example")),
            ("/api/a", &[app, "Range: bytes=900-"], Some("https://app.example")),
            ("/fonts/a", &["Origin: https://evil.example"], Some("*")),
            ("/fonts/a", &[], Some("*")),
            ("/other", &[app], Some("https://evil.example")),
        ] {
            let got = node.get_with(path, fields);
            let by_node = path != "/other";
            assert_eq!(got.fields("access-control-allow-origin"), Vec::from_iter(allowed), "{path} {fields:?}");
            let credentials = got.field("access-control-allow-credentials").is_some();
            assert_eq!(credentials, !by_node || path == "/api/a" && allowed.is_some(), "{path} {fields:?}");
            assert_eq!(got.fields("vary").len(), usize::from(!path.starts_with("/fonts")), "{path} {fields:?}");
            assert_eq!(
                got.field("access-control-expose-headers").is_some(),
                credentials && by_node,
                "{path} {fields:?}"
            );
        }
        // One object for the pages of all origins, though the origin's answers say that they differ.
        let asked = origin.count();
        assert_eq!(asked, 3);
        let preflight = |path: &str, from: &str, method: &str| {
            let asks = format!("Access-Control-Request-Method: {method}");
            node.request("OPTIONS", path, &[from, &asks, "Access-Control-Request-Headers: content-type"], "")
        };
        let got = preflight("/api/a", app, "PUT");
        assert_eq!((got.status, got.text().as_str()), (204, ""));
        for (name, value) in [
            ("access-control-allow-origin", "https://app.example"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "Content-Type"),
            ("access-control-max-age", "3600"),
            ("access-control-allow-credentials", "true"),
            ("vary", "Origin"),
        ] {
            assert_eq!(got.field(name), Some(value), "{name}");
        }
        let denied = preflight("/api/a", "Origin: https://evil.example", "PUT");
        assert_eq!((denied.status, denied.field("access-control-allow-methods")), (204, None));
        // The route is the one of the method that is asked for.
        assert_eq!(preflight("/fonts/a", app, "GET").field("access-control-allow-origin"), Some("*"));
        // One that takes another method says which: no origin is asked about those that no route takes.
        assert_eq!(preflight("/fonts/a", app, "DELETE").field("access-control-allow-origin"), Some("*"));
        // A condition on the method is one on the method that is asked for; who is not admitted is told so in a way that the
        // page can read.
        assert_eq!(preflight("/put", app, "PUT").field("access-control-allow-methods"), Some("PUT"));
        let closed = node.get_with("/closed", &[app]);
        assert_eq!((closed.status, closed.field("access-control-allow-origin")), (403, Some("*")));
        assert_eq!(origin.count(), asked, "no origin is asked");
        assert_eq!(preflight("/other", app, "GET").text(), "OPTIONS /other");
        assert_eq!(node.request("OPTIONS", "/api/a", &[], "").text(), "OPTIONS /api/a");
    }
}

/// The node speaks plainly by HTTP/1.1 in these tests, and by TLS in HTTP/2.
#[test]
fn plain_requests_are_sent_to_https_and_told_nothing_else() {
    for protocol in Protocol::ALL {
        let origin = talkative();
        let more = "https = \"redirect\"\nhsts = { max_age = \"365d\", include_subdomains = true, preload = true }\n";
        let routes = format!("[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{CACHED}");
        let node = site_with(protocol, &origin, more, &routes);
        for (method, path) in [("GET", "/a?b=%20c"), ("GET", "/a?b=%20c"), ("POST", "/a"), ("HEAD", "//evil.example/")]
        {
            let got = node.request(method, path, &[], "");
            if protocol == Protocol::H1 {
                let path = path.replace("//", "/");
                let location = got
                    .field("location")
                    .unwrap_or_default()
                    .replace(":/", "\0")
                    .replace("//", "/")
                    .replace('\0', ":/");
                assert_eq!((got.status, location), (308, format!("https://shop.example{path}")));
            } else {
                assert_eq!(got.status, 200);
            }
            let hsts = (protocol == Protocol::H2).then_some("max-age=31536000; includeSubDomains; preload");
            assert_eq!(got.fields("strict-transport-security"), Vec::from_iter(hsts), "{method} {path}");
        }
        let proof = node.get("/.well-known/acme-challenge/token");
        assert_eq!((proof.status, proof.text().as_str()), (200, "GET /.well-known/acme-challenge/token"));
        assert_eq!(proof.fields("strict-transport-security").len(), usize::from(protocol == Protocol::H2));
    }
}

#[test]
fn a_site_has_one_name_if_it_wants() {
    for protocol in Protocol::ALL {
        let origin = talkative();
        let routes = format!("[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{CACHED}");
        let config = crate::harness::node::site(&[origin.address], "", &routes).replace(
            "hosts = [\"*\"]",
            "hosts = [\"shop.example\", \"www.shop.example\"]\ncanonical_host = \"shop.example\"",
        );
        assert!(config.contains("canonical_host"), "{config}");
        let node = Node::speaking_in(protocol, std::sync::Arc::new(tempfile::TempDir::new().unwrap()), &config);
        let moved = node.get_with("/a?b=c", &["Host: www.shop.example"]);
        let scheme = if protocol == Protocol::H1 { "http" } else { "https" };
        assert_eq!((moved.status, moved.field("location")), (308, Some(&*format!("{scheme}://shop.example/a?b=c"))));
        assert_eq!(node.get("/a?b=c").status, 200);
        let (_, explained) = node.admin("GET", &format!("/v1/explain?url={scheme}://www.shop.example/a"), "");
        let said = format!("308 to {scheme}://shop.example/a, by \"https\" or \"canonical_host\" of the site");
        assert_eq!(explained["why"], said);
    }
}

#[test]
fn what_is_safe_is_said_unless_the_operator_says_otherwise() {
    for protocol in Protocol::ALL {
        let origin = talkative();
        let routes = format!(
            "[[site.shop.route]]\npath = \"/framed\"\npool = \"app\"\nresponse = {{ remove = [\"X-Frame-Options\"] }}\n{CACHED}\
             [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{CACHED}"
        );
        let more = "response = { secure = true, set = { Referrer-Policy = \"no-referrer\" } }\n";
        let node = site_with(protocol, &origin, more, &routes);
        for _ in 0..2 {
            let got = node.get("/a");
            assert_eq!(got.fields("x-frame-options"), ["SAMEORIGIN"]);
            assert_eq!(got.fields("x-content-type-options"), ["nosniff"]);
            assert_eq!(got.fields("referrer-policy"), ["no-referrer"]);
            assert_eq!(node.get("/framed").field("x-frame-options"), None);
        }
    }
}

#[test]
fn https_may_be_at_another_port() {
    let origin = talkative();
    let routes = format!("[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{CACHED}");
    let node = site_with(Protocol::H1, &origin, "https = \"redirect\"\nhttps_port = 8443\n", &routes);
    let moved = node.get_with("/a", &["Host: shop.example:8080"]);
    assert_eq!((moved.status, moved.field("location")), (308, Some("https://shop.example:8443/a")));
}
