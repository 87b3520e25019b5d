//! What origins are asked for instead of what clients have asked for, and what clients learn of it.

use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::origin::Request;
use crate::harness::{Node, Origin, Protocol, Reply, Step};

const CACHED: &str = "cache = { mode = \"respect\" }\n";

/// An origin that answers with what it was asked for: the target, the host, and one field.
fn echo() -> Origin {
    Origin::start(|request: &Request| {
        let (target, host) = (request.path(), request.field("host").unwrap_or_default());
        let told = request.field("x-told").unwrap_or("-");
        Reply::ok(&["Cache-Control: max-age=600"], format!("{target} {host} {told}"))
    })
}

#[test]
fn origins_are_asked_for_what_the_route_says() {
    let rewrites = [
        ("/api/*", r#"{ to = "/{1}" }"#),
        ("/img-*.jpg", r#"{ to = "/images/{1}.jpeg" }"#),
        ("/old/*", r#"{ match = '^/old/(\d+)-(.*)$', to = "/new/{2}/{1}" }"#),
        ("/user/*", r#"{ to = "/index.php?u={1}" }"#),
        ("/both/*", r#"{ to = "/index.php?u={1}", query = "keep" }"#),
        ("/bare/*", r#"{ to = "{path}", query = "drop" }"#),
        ("/params/*", r#"{ drop_query = ["utm_*"], set_query = { v = "2", h = "{host}" } }"#),
        ("/host/*", r#"{ host = "app.internal:8080" }"#),
        ("/lang/*", r#"{ to = "/{header.x-lang}/{1}" }"#),
    ];
    let asked = [
        ("/api/a/b?c=1", "/a/b?c=1 shop.example"),
        ("/api/", "/ shop.example"),
        ("//api//a//b", "/a/b shop.example"),
        ("/img-7.jpg", "/images/7.jpeg shop.example"),
        ("/old/12-shoes?x", "/new/shoes/12?x shop.example"),
        ("/old/shoes", "/old/shoes shop.example"),
        ("/user/a%2Fb&x=1?c=1", "/index.php?u=a%2Fb%26x%3D1 shop.example"),
        ("/both/a?c=1", "/index.php?u=a&c=1 shop.example"),
        ("/bare/a?c=1", "/bare/a shop.example"),
        ("/params/a?utm_source=x&b=1&v=9&%76=8", "/params/a?b=1&h=shop.example&v=2 shop.example"),
        ("/params/a", "/params/a?h=shop.example&v=2 shop.example"),
        ("/host/a", "/host/a app.internal:8080"),
        ("/lang/a", "/de/a shop.example"),
    ];
    for protocol in Protocol::ALL {
        for cache in ["", "cache = { mode = \"respect\", key = { headers = [\"x-lang\"] } }\n"] {
            let origin = echo();
            let routes = rewrites.map(|(path, rewrite)| {
                format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\nrewrite = {rewrite}\n{cache}")
            });
            let node = Node::speaking(protocol, &[origin.address], &routes.concat());
            for (url, expected) in asked {
                // From the origin, then perhaps from memory; and with a body.
                for number in 0..2 {
                    let answer = node.get_with(url, &["X-Lang: de"]);
                    assert_eq!(answer.text(), format!("{expected} -"), "{url} {cache}");
                    assert_eq!(answer.is_hit(), number == 1 && !cache.is_empty(), "{url} {cache}");
                }
                assert_eq!(node.request("POST", url, &["X-Lang: de"], "body").text(), format!("{expected} -"), "{url}");
            }
            if !cache.is_empty() {
                assert_eq!(node.get_with("/lang/a", &["X-Lang: fr"]).text(), "/fr/a shop.example -");
                // A URL is purged as clients write it.
                node.get("/api/a/b?c=1");
                node.purge(r#"{"url": "http://shop.example/api/a/b?c=1"}"#);
                assert!(!node.get("/api/a/b?c=1").is_hit());
            }
        }
    }
}

/// Whatever stands for a star or comes from a client, it stays below what the route has written, and in one line.
#[test]
fn no_value_of_a_client_leads_out_of_the_rewritten_path() {
    for protocol in Protocol::ALL {
        let origin = echo();
        let routes = "[[site.shop.route]]\npath = \"/a*\"\npool = \"app\"\nrewrite = { to = \"/files/{1}\" }\n\
                      [[site.shop.route]]\npath = \"/q\"\npool = \"app\"\nrewrite = { to = \"/files/{query.x}\" }\n\
                      [[site.shop.route]]\npath = \"/h\"\npool = \"app\"\nrewrite = { to = \"/files/{header.x-in}/end\" }\n";
        let node = Node::speaking(protocol, &[origin.address], routes);
        for (url, value) in [
            ("/a../b", ""),
            ("/a%2e%2e/b", ""),
            ("/a%2E./b", ""),
            ("/a./b", ""),
            ("/a/x%0d%0aX-Told:%201", ""),
            ("/a%3Fb", ""),
            ("/q?x=..%2F..%2Fetc", ""),
            ("/q?x=..", ""),
            ("/q?x=%2e%2e", ""),
            ("/q?x=a%20HTTP/1.1%0d%0aX-Told:%201", ""),
            ("/q?x=%3Fa%23b%5Cc", ""),
            ("/h", ".."),
            ("/h", "../../etc"),
            ("/h", "a b?c#d"),
            ("/h", "%2e%2e/x"),
        ] {
            let answer = node.get_with(url, &[&format!("X-In: {value}")]);
            let text = answer.text();
            if answer.status == 400 {
                continue; // a path that hides dots
            }
            assert!(text.starts_with("/files/") && text.ends_with(" shop.example -"), "{url} {value}: {text}");
            let target = text.split(' ').next().unwrap().to_ascii_lowercase();
            let path = target.split('?').next().unwrap().replace("%2e", ".").replace("%2f", "/");
            assert!(!path.split('/').any(|part| part == ".." || part == "."), "{url}: {text}");
            assert_eq!(text.split(' ').count(), 3, "{url}: {text}");
        }
    }
}

#[test]
fn fields_of_requests_are_changed_on_every_way_to_an_origin() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request: &Request| {
            if request.path() == "/passed/ws" && request.field("upgrade").is_some() {
                let told = request.field("x-told").unwrap_or("-").to_owned();
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\nX-Told: {told}\r\n\r\n"
                );
                return vec![Step::Send(head.into_bytes()), Step::Close];
            }
            let all =
                ["x-told", "x-site", "x-gone", "x-real-ip", "x_told"].map(|name| request.field(name).unwrap_or("-"));
            Reply::ok(&["Cache-Control: max-age=600"], all.join(" "))
        });
        let route = |path: &str, cache: &str| {
            format!(
                "[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\n{cache}\
                 request = {{ set = {{ X-Told = \"route {{1}}\", X-Real-IP = \"{{client.ip}}\" }}, remove = [\"X-Gone\"] }}\n"
            )
        };
        let site = "[site.shop]\nrequest = { set = { X-Told = \"site\", X-Site = \"site\" } }\n";
        let routes = route("/cached/*", CACHED) + &route("/passed/*", "");
        let config = crate::harness::node::site(&[origin.address], "", &routes).replace("[site.shop]\n", site);
        let node = Node::speaking_in(protocol, Arc::new(TempDir::new().unwrap()), &config);
        let fields = ["X-Told: client", "X_Told: client", "X-Site: client", "X-Gone: client", "X-Real-IP: 192.0.2.1"];
        for (method, path, body) in
            [("GET", "/cached/a", ""), ("HEAD", "/cached/b", ""), ("POST", "/cached/c", "x"), ("GET", "/passed/a", "")]
        {
            node.request(method, path, &fields, body);
            let request = origin.requests().pop().unwrap();
            let of = |name: &str| request.field(name).map(str::to_owned);
            let star = path.rsplit('/').next().unwrap();
            assert_eq!(of("x-told"), Some(format!("route {star}")), "{method} {path}");
            assert_eq!(of("x-site").as_deref(), Some("site"), "{method} {path}");
            assert_eq!(of("x-real-ip").as_deref(), Some("127.0.0.1"), "{method} {path}");
            assert_eq!((of("x-gone"), of("x_told")), (None, None), "{method} {path}");
        }
        if protocol == Protocol::H1 {
            let answer = node.get_with("/passed/ws", &["Upgrade: x", "Connection: upgrade"]);
            assert_eq!((answer.status, answer.field("x-told")), (101, Some("route ws")));
        }
    }
}

#[test]
fn places_that_an_origin_names_get_their_public_names() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request: &Request| {
            match request.path() {
            "/moved" => vec![Step::Send(
                b"HTTP/1.1 301 Moved\r\nLocation: /new?x=1\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n".to_vec(),
            )],
            "/absolute" => vec![Step::Send(
                b"HTTP/1.1 302 Found\r\nLocation: http://app.internal/new\r\nSet-Cookie: a=1; Path=/; Domain=app.internal\r\nContent-Length: 0\r\n\r\n"
                    .to_vec(),
            )],
            _ => Reply::ok(&["Cache-Control: max-age=60", "Content-Location: /named", "ETag: \"e\""], "text"),
        }
        });
        let routes = format!(
            "[[site.shop.route]]\npath = \"/api/*\"\npool = \"app\"\n{CACHED}\
             rewrite = {{ to = \"/{{1}}\", host = \"app.internal\" }}\nresponse = {{ set = {{ X-A = \"1\" }} }}\n\
             [[site.shop.route]]\npath = \"/kept/*\"\npool = \"app\"\n{CACHED}\
             rewrite = {{ to = \"/{{1}}\", host = \"app.internal\", location = \"keep\" }}\n\
             [[site.shop.route]]\npath = \"/hidden/*\"\npool = \"app\"\n{CACHED}\
             rewrite = {{ to = \"/{{1}}\" }}\nresponse = {{ remove = [\"Location\"] }}\n"
        );
        let node = Node::speaking(protocol, &[origin.address], &routes);
        for is_hit in [false, true] {
            let answer = node.get("/api/moved");
            assert_eq!((answer.field("location"), answer.is_hit()), (Some("/api/new?x=1"), is_hit));
            assert_eq!(answer.field("x-a"), Some("1"));
        }
        let answer = node.get("/api/absolute");
        let scheme = if protocol == Protocol::H1 { "http" } else { "https" };
        assert_eq!(answer.fields("location"), [format!("{scheme}://shop.example/api/new")]);
        assert_eq!(answer.fields("set-cookie"), ["a=1; Path=/api"]);
        assert_eq!(node.get("/kept/moved").field("location"), Some("/new?x=1"));
        assert_eq!(node.get("/hidden/moved").field("location"), None);
        for fields in [&[][..], &["If-None-Match: \"e\""], &["Range: bytes=1-2"]] {
            assert_eq!(node.get_with("/api/x", fields).fields("content-location"), ["/api/named"], "{fields:?}");
        }
        assert_eq!(node.get_with("/api/x", &["If-None-Match: \"e\""]).field("location"), None);
        // What a POST says it has changed is forgotten by its public name.
        assert!(node.get("/api/named").status == 200 && node.get("/api/named").is_hit());
        node.request("POST", "/api/x", &[], "");
        assert!(!node.get("/api/named").is_hit());
    }
}

#[test]
fn explain_tells_what_origins_are_asked_for() {
    let origin = echo();
    let routes = "[[site.shop.route]]\npath = \"/api/*\"\npool = \"app\"\n\
         cache = { mode = \"respect\", key = { drop_query = [\"utm_*\"] } }\n\
         rewrite = { to = \"/v2/{1}\", host = \"app.internal\" }\n\
         request = { set = { X-Told = \"1\" }, remove = [\"X-Gone\"] }\nresponse = { remove = [\"Server\"] }\n";
    let node = Node::speaking(Protocol::H1, &[origin.address], routes);
    for (method, target) in [("GET", "/v2/a?b=1"), ("POST", "/v2/a?utm_x=1&b=1")] {
        let path = format!("/v1/explain?url=http://shop.example/api/a%3Futm_x%3D1%26b%3D1&method={method}");
        let (_, answer) = node.admin("GET", &path, "");
        assert_eq!(answer["rewritten"], serde_json::json!({ "to": target, "host": "app.internal" }), "{answer}");
        assert_eq!(
            answer["request_fields"],
            serde_json::json!({ "dropped": ["x-told", "x-gone"], "sent": ["x-told"] })
        );
        assert_eq!(answer["response_fields"], serde_json::json!({ "dropped": ["server"], "sent": [] }));
    }
}

/// What is keyed is compared in one form, and origins are asked for it in that form: whoever gets a stored answer would have
/// asked for the same.
#[test]
fn origins_are_asked_for_what_is_compared() {
    for protocol in Protocol::ALL {
        let origin = echo();
        let routes = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\nrewrite = { to = \"/{header.accept-language}/{header.x-a}\" }\n\
            cache = { mode = \"respect\", key = { headers = [\"accept-language\", \"x-a\"] } }\n";
        let node = Node::speaking(protocol, &[origin.address], routes);
        for (fields, expected) in [
            (&["Accept-Language: DE-de", "X-A: a, b"][..], "/de-de/a%2Cb"),
            (&["Accept-Language: de-DE", "X-A: a,b"], "/de-de/a%2Cb"),
            (&["Accept-Language: de-DE", "X-A: a", "X-A: b"], "/de-de/a%2Cb"),
            (&["Accept-Language: de-DE", "X-A: b", "X-A: a"], "/de-de/b%2Ca"),
        ] {
            let text = node.get_with("/x", fields).text();
            assert_eq!(text.split(' ').next(), Some(expected), "{fields:?}");
        }
        assert_eq!(origin.count(), 2);
    }
}

/// All that the node answers to some bytes, until it closes the connection.
fn raw(node: &Node, request: &str) -> String {
    let (mut client, mut all) = (node.client(), Vec::new());
    client.send(request);
    loop {
        match client.read_some() {
            some if some.is_empty() => return String::from_utf8_lossy(&all).into_owned(),
            some => all.extend(some),
        }
    }
}

/// What a route sets or removes does not come under another name that is the same to CGI.
#[test]
fn a_field_that_a_route_sets_does_not_come_from_the_client() {
    for protocol in Protocol::ALL {
        for cache in ["", CACHED] {
            let origin =
                Origin::start(|request: &Request| Reply::ok(&[], format!("{}{}", request.head, request.text())));
            let routes = format!(
                "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n\
                 request = {{ set = {{ X_Tenant = \"shop\", X-Other = \"own\" }}, remove = [\"X-Debug\"] }}\n{cache}"
            );
            let node = Node::speaking(protocol, &[origin.address], &routes);
            let fields = &["X-Tenant: evil", "X_Other: evil", "x-other: evil", "X-Debug: evil", "X_Debug: evil"][..];
            for method in ["GET", "POST"] {
                let text = node.request(method, "/a", fields, "").text();
                assert!(
                    !text.contains("evil") && text.contains("shop") && text.contains("own"),
                    "{method} {cache}: {text}"
                );
            }
        }
    }
}

/// `response` of a route holds for all that its clients get: hints, refusals, and answers of several ranges.
#[test]
fn fields_of_responses_are_changed_on_every_way_to_a_client() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request: &Request| match request.path() {
            "/hinted" => {
                let mut steps =
                    vec![Step::Send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Secret: 1\r\n\r\n".to_vec())];
                steps.extend(Reply::ok(&["X-Secret: 1"], "x"));
                steps
            }
            _ => Reply::ok(&["Cache-Control: max-age=60", "X-Secret: 1", "Content-Type: text/html"], "hello world"),
        });
        let routes = format!(
            "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\nmax_body = 4\n\
             response = {{ set = {{ Content-Type = \"text/plain\", X-Own = \"1\" }}, remove = [\"X-Secret\"] }}\n{CACHED}"
        );
        let node = Node::speaking(protocol, &[origin.address], &routes);
        for (method, path, fields, body, status) in [
            ("GET", "/a", &[][..], "", 200),
            ("GET", "/a", &["Range: bytes=0-1"], "", 206),
            ("GET", "/a", &["Range: bytes=0-1,4-5"], "", 206),
            ("GET", "/b", &["Cache-Control: only-if-cached"], "", 504),
            ("POST", "/a", &[], "too large", 413),
        ] {
            let got = node.request(method, path, fields, body);
            assert_eq!(
                (got.status, got.field("x-own")),
                (status, Some("1")),
                "{method} {path} {fields:?} by {protocol:?}"
            );
            assert_eq!(got.field("x-secret"), None, "{method} {path} {fields:?}");
            let several = fields.iter().any(|field| field.contains(','));
            let kind = got.field("content-type").unwrap_or_default();
            assert_eq!(
                kind.starts_with("multipart/byteranges; boundary="),
                several,
                "{method} {path} {fields:?}: {kind}"
            );
        }
        if protocol == Protocol::H1 {
            let text = raw(&node, "GET /hinted HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
            assert!(text.contains(" 103 ") && !text.to_ascii_lowercase().contains("x-secret"), "{text}");
        }
    }
}
