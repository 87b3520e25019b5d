//! What tells objects apart: the rules of a route's key, seen by clients and by the origin.

use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::node::site;
use crate::harness::{Node, Origin, Protocol, Reply};

const FRESH: &str = "Cache-Control: max-age=60";

/// A node whose route has this key, before an origin that answers with what it was asked.
fn keyed(protocol: Protocol, key: &str) -> (Node, Origin) {
    let origin = Origin::start(|request| {
        let body = format!(
            "{} {} {} {} {}",
            request.path(),
            request.field("accept-encoding").unwrap_or("-"),
            request.field("accept-language").unwrap_or("-"),
            request.field("cookie").unwrap_or("-"),
            request.field("x-device-class").unwrap_or("-"),
        );
        Reply::ok(&[FRESH, "Vary: Accept-Encoding, Accept-Language"], body)
    });
    let routes = format!(
        "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n[site.shop.route.cache]\nmode = \"respect\"\n\
         [site.shop.route.cache.key]\n{key}\n"
    );
    let node = Node::speaking(protocol, &[origin.address], &routes);
    (node, origin)
}

#[test]
fn query_parameters_count_as_the_route_says() {
    for (protocol, (key, first, second, sent)) in [
        ("drop_query = [\"utm_*\"]", "/a?utm_source=x&b=1", "/a?b=1&utm_campaign=y", "/a?b=1"),
        ("drop_query = [\"*\"]", "/a?b", "/a", "/a"),
        ("keep_query = [\"page\"]", "/a?page=2&x=1", "/a?y&page=2", "/a?page=2"),
        ("keep_query = []", "/a?b=1", "/a?c=2", "/a"),
        ("sort_query = true", "/a?b=1&a=2", "/a?a=2&b=1", "/a?a=2&b=1"),
        ("ignore_path_case = true", "/A/b?C", "/a/B?C", "/a/b?C"),
    ]
    .into_iter()
    .flat_map(|case| Protocol::ALL.map(|protocol| (protocol, case)))
    {
        let (node, origin) = keyed(protocol, key);
        assert!(!node.get(first).is_hit());
        assert!(node.get(second).is_hit(), "{key}");
        assert_eq!(origin.requests()[0].path(), sent, "{key}: what is keyed is what is sent");
        // Whichever way the URL is written, it is purged and invalidated.
        for url in [first, second] {
            node.purge(&format!("{{\"url\": \"http://shop.example{url}\"}}"));
            assert!(!node.get(second).is_hit(), "{key} {url}");
            assert!(node.get(first).is_hit(), "{key} {url}");
            node.request("POST", url, &["Host: shop.example"], "");
            assert!(!node.get(first).is_hit(), "{key} {url}");
        }
    }
}

#[test]
fn fields_cookies_and_devices_count_as_the_route_says() {
    for (protocol, (key, first, same, other, sent)) in [
        ("headers = [\"X-Country\"]", "X-Country: de", "X-Country: de", "X-Country: fr", "/ - - - -"),
        ("cookies = [\"c\"]", "Cookie: sid=1; c=2", "Cookie: c=2; sid=9", "Cookie: c=3", "/ - - c=2 -"),
        ("device = true", "User-Agent: iPhone", "User-Agent: Mobi", "User-Agent: curl", "/ - - - mobile"),
        (
            "accept_language = [\"en\", \"de\"]",
            "Accept-Language: de-AT, fr",
            "Accept-Language: fr, de;q=0.1",
            "Accept-Language: en",
            "/ - de - -",
        ),
        (
            "accept_encoding = [\"br\", \"gzip\"]",
            "Accept-Encoding: gzip, deflate",
            "Accept-Encoding: gzip;q=0.5",
            "Accept-Encoding: br, gzip",
            "/ gzip - - -",
        ),
    ]
    .into_iter()
    .flat_map(|case| Protocol::ALL.map(|protocol| (protocol, case)))
    {
        let (node, _origin) = keyed(protocol, key);
        let answer = node.get_with("/", &[first]);
        assert_eq!((answer.is_hit(), answer.text().as_str()), (false, sent), "{key}");
        assert!(node.get_with("/", &[same]).is_hit(), "{key}");
        assert!(!node.get_with("/", &[other]).is_hit(), "{key}");
        assert!(node.get_with("/", &[first]).is_hit(), "{key}");
    }
}

#[test]
fn errors_are_kept_for_as_long_as_the_route_says() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| {
            let status = request.path()[1..].parse().unwrap();
            Reply::status(status, &[], "no")
        });
        let node = Node::speaking(
            protocol,
            &[origin.address],
            "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n[site.shop.route.cache]\nmode = \"respect\"\n\
         negative_ttl = { 404 = \"1h\", \"500-503\" = \"1h\", 302 = \"1h\" }\n",
        );
        for (status, kept) in
            [(404, true), (500, true), (503, true), (302, true), (504, false), (410, false), (403, false)]
        {
            let path = format!("/{status}");
            assert_eq!(node.get(&path).status, status);
            let second = node.get(&path);
            assert_eq!((second.status, second.is_hit()), (status, kept), "{}", second.cache());
        }
    }
}

#[test]
fn a_route_does_not_fill_what_another_answers_from() {
    let (api, web) = (
        Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "api")),
        Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "web")),
    );
    let node = Node::start(&format!(
        "[pool.api]\norigins = [\"{}\"]\n[pool.web]\norigins = [\"{}\"]\n[site.shop]\nhosts = [\"*\"]\n\
         [[site.shop.route]]\npath = \"/api/*\"\npool = \"api\"\ncache = {{ mode = \"respect\" }}\n\
         [[site.shop.route]]\npath = \"/*\"\npool = \"web\"\n\
         cache = {{ mode = \"respect\", key = {{ ignore_path_case = true }} }}\n",
        api.address, web.address
    ));
    assert_eq!(node.get("/API/users").text(), "web");
    let response = node.get("/api/users");
    assert_eq!((response.text().as_str(), response.is_hit()), ("api", false));
    node.get("/Page");
    assert!(node.get("/page").is_hit());
}

/// An origin that sends plain requests to HTTPS must not do so for ever, nor to those who have come by it.
#[test]
fn the_scheme_is_the_connections_or_what_a_trusted_proxy_says() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| Reply::ok(&[FRESH], request.field("x-forwarded-proto").unwrap()));
        let config = |trusted: &str| {
            let routes = "hsts = { max_age = \"1d\" }\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n\
                          cache = { mode = \"respect\" }\n";
            format!("[node]\ntrusted_proxies = [\"{trusted}\"]\n{}", site(&[origin.address], "", routes))
        };
        let own = if protocol == Protocol::H1 { "http" } else { "https" };
        let node = Node::speaking_in(protocol, Arc::new(TempDir::new().unwrap()), &config("127.0.0.1"));
        let told = |path: &str, said: &str| {
            node.get_with(path, &["Host: shop.example", &format!("X-Forwarded-Proto: {said}")])
        };
        for (said, expected) in [("https", "https"), ("http", "http"), ("nonsense", own)] {
            for method in ["GET", "POST"] {
                let fields = ["Host: shop.example", &format!("X-Forwarded-Proto: {said}")];
                let reply = node.request(method, &format!("/{method}"), &fields, "");
                assert_eq!(reply.text(), expected, "{protocol:?} {said}");
                assert_eq!(reply.field("strict-transport-security").is_some(), expected == "https", "{said}");
            }
        }
        assert!(told("/GET", "https").is_hit() && told("/GET", "http").is_hit());
        node.purge("{\"url\": \"https://shop.example/GET\"}");
        assert!(!told("/GET", "https").is_hit() && !told("/GET", "http").is_hit());
        // Who is not trusted says nothing.
        let node = Node::speaking_in(protocol, Arc::new(TempDir::new().unwrap()), &config("192.0.2.1"));
        for said in ["https", "http"] {
            let reply = node.get_with("/GET", &["Host: shop.example", &format!("X-Forwarded-Proto: {said}")]);
            assert_eq!(reply.text(), own, "{protocol:?} {said}");
        }
        // A site that wants HTTPS does not send those there who have come by it.
        let redirecting = config("127.0.0.1").replace("hsts =", "https = \"redirect\"\nhsts =");
        let node = Node::speaking_in(protocol, Arc::new(TempDir::new().unwrap()), &redirecting);
        let told = |said: &str| node.get_with("/a?b", &["Host: shop.example", &format!("X-Forwarded-Proto: {said}")]);
        assert_eq!((told("https").status, told("http").status), (200, 308));
        assert_eq!(told("http").field("location"), Some("https://shop.example/a?b"));
    }
}
