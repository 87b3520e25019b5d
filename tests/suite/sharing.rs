//! Whose answer goes to whom: nobody gets what was for somebody else, and nobody takes from all what is for all.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::origin::{DeadPort, Gate, Request};
use crate::harness::{Client, Node, Origin, Protocol, Reply, Step, eventually, node};

/// What the package ships for a route.
const PACKAGED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n\
    cache = { mode = \"respect\", stale_while_revalidate = \"10s\", stale_if_error = \"1h\" }\n";

fn route(cache: &str) -> String {
    format!("[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = {{ {cache} }}\n")
}

/// Answers with the visitor's name, and these fields.
fn greets(fields: &'static [&'static str]) -> Origin {
    Origin::start(move |request| {
        let name = request.field("cookie").or(request.field("x-name")).unwrap_or("nobody").to_owned();
        Reply::ok(fields, name)
    })
}

#[test]
fn the_packaged_route_shares_nothing_that_has_no_lifetime() {
    let packaged = std::fs::read_to_string(format!("{}/conf/default-site.toml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert!(
        packaged.contains("stale_while_revalidate = \"10s\", stale_if_error = \"1h\""),
        "what is tried here is shipped"
    );
    for protocol in Protocol::ALL {
        for fields in [
            &["Cache-Control: max-age=0"][..],
            &["Cache-Control: public, max-age=0"],
            &["Cache-Control: max-age=0", "ETag: \"1\""],
            &["Cache-Control: public, max-age=0", "ETag: \"1\""],
            &["Expires: 0"],
            &["Expires: 0", "ETag: \"1\""],
            &["Cache-Control: s-maxage=0, max-age=60"],
        ] {
            let origin = greets(fields);
            let node = Node::speaking(protocol, &[origin.address], PACKAGED);
            for name in ["sid=1", "sid=2", "sid=1"] {
                let answer = node.get_with("/a", &[&format!("Cookie: {name}")]);
                assert_eq!(answer.text(), name, "{fields:?}: {}", answer.cache());
            }
            // Nor by asking for it, nor when there is no origin.
            let stale = node.get_with("/a", &["Cookie: sid=3", "Cache-Control: max-stale"]);
            assert_eq!(stale.text(), "sid=3", "{fields:?}: {}", stale.cache());
            origin.stop();
            let none = node.get_with("/a", &["Cookie: sid=4"]);
            assert!(none.status >= 500, "{fields:?}: {} {}", none.text(), none.cache());
        }
    }
}

#[test]
fn no_lifetime_is_guessed_for_a_request_with_a_cookie() {
    let origin = greets(&["Last-Modified: Tue, 24 Nov 2020 12:00:00 GMT"]);
    let node = Node::speaking(Protocol::H1, &[origin.address], PACKAGED);
    for field in ["Cookie", "X-Name"] {
        for name in ["sid=1", "sid=2"] {
            let answer = node.get_with(&format!("/{field}"), &[&format!("{field}: {name}")]);
            assert_eq!(answer.text(), name, "{}", answer.cache());
        }
    }
    // Without one it is as RFC 9111 section 4.2.2 has it.
    assert!(node.get("/b").cache().contains("detail=heuristic"));
    assert!(node.get("/b").is_hit());
}

/// An origin that looks at no cookie before it answers 304 would confirm one visitor's page to another: such a page is not kept.
/// What was made for nobody in particular is, and learns nothing from what one visitor is told.
#[test]
fn what_was_made_for_one_visitor_is_kept_for_nobody() {
    let origin = Origin::start(|request| {
        let fields = ["Last-Modified: Tue, 24 Nov 2020 12:00:00 GMT", "ETag: \"1\""];
        let name = request.field("cookie").or(request.field("x-api-key")).unwrap_or("nobody").to_owned();
        let told = format!("X-Name: {name}");
        match request.field("if-none-match").or(request.field("if-modified-since")) {
            Some(_) => Reply::status(304, &[&fields[..], &[&told]].concat(), ""),
            None => Reply::ok(&fields, name),
        }
    });
    for protocol in Protocol::ALL {
        let node = Node::speaking(protocol, &[origin.address], PACKAGED);
        for who in ["Cookie: sid=1", "X-Api-Key: sid=2"] {
            let answer = node.get_with("/a", &[who]);
            assert_eq!(answer.text(), &who[who.len() - 5..]);
            assert!(answer.cache().ends_with("; detail=visitor"), "{}", answer.cache());
        }
        // What says nothing of who asks keeps nothing from being shared, nor do those who came first.
        let common = ["Connection: keep-alive", "User-Agent: x", "Accept-Language: en", "Sec-Fetch-Mode: navigate"];
        let common = if matches!(protocol, Protocol::H1) { &common[..] } else { &common[1..] };
        let anonymous = node.get_with("/a", common);
        assert_eq!(anonymous.text(), "nobody");
        assert!(anonymous.cache().ends_with("; detail=heuristic"), "{}", anonymous.cache());
        assert!(node.get_with("/a", common).is_hit());
        let confirmed = node.get_with("/a", &["Cache-Control: no-cache", "Cookie: sid=3"]);
        assert_eq!((confirmed.text().as_str(), confirmed.field("x-name")), ("nobody", Some("sid=3")));
        assert!(confirmed.cache().ends_with("; detail=heuristic"), "{}", confirmed.cache());
        let next = node.get("/a");
        assert!(next.is_hit() && next.field("x-name").is_none(), "{}", next.head);
    }
}

/// A 304 is an answer to one request: its cookies are for who asked, and with `private` all that it says is.
#[test]
fn what_a_304_says_to_one_visitor_goes_to_that_visitor_alone() {
    let origin = Origin::start(|request| {
        let tag = "ETag: \"1\"";
        let lifetime = "Cache-Control: max-age=0";
        let Some(cookie) = request.field("cookie").filter(|_| request.field("if-none-match").is_some()) else {
            return Reply::ok(&[tag, lifetime, "X-Name: first"], "0123456789");
        };
        let (name, cookie) = (format!("X-Name: {cookie}"), format!("Set-Cookie: seen={cookie}"));
        match request.path() {
            "/private" => Reply::status(304, &[tag, "Cache-Control: private", &name, &cookie], ""),
            _ => Reply::status(304, &[tag, &cookie], ""),
        }
    });
    for protocol in [Protocol::H1, Protocol::H2] {
        let node = Node::speaking(protocol, &[origin.address], PACKAGED);
        for path in ["/shared", "/private"] {
            assert_eq!(node.get(path).field("x-name"), Some("first"));
            let other = node.get_with(path, &["Cookie: b"]);
            assert!(other.cache().contains("fwd-status=304"), "{path}: {}", other.cache());
            assert_eq!((other.text().as_str(), other.field("set-cookie")), ("0123456789", Some("seen=b")), "{path}");
            let name = if path == "/private" { "b" } else { "first" };
            assert_eq!(other.field("x-name"), Some(name), "{path}");
            // Also where that is a part, or a 304 itself.
            let part = node.get_with(path, &["Cookie: c", "Range: bytes=2-4"]);
            assert_eq!((part.status, part.text().as_str()), (206, "234"), "{path}");
            let is_confirmed = path == "/shared"; // what was private is not kept, and asked for anew
            assert_eq!(part.field("set-cookie"), is_confirmed.then_some("seen=c"), "{path}");
            let confirmed = node.get_with(path, &["Cookie: d", "If-None-Match: \"1\""]);
            assert_eq!((confirmed.status, confirmed.field("set-cookie")), (304, Some("seen=d")), "{path}");
            let nobody = node.get(path);
            assert_eq!((nobody.text().as_str(), nobody.field("set-cookie")), ("0123456789", None), "{path}");
            assert_eq!(nobody.field("x-name"), Some("first"), "{path}");
        }
    }
}

#[test]
fn a_fill_without_a_lifetime_is_not_shared_with_those_who_wait_for_it() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |request| {
        let name = request.field("cookie").unwrap_or_default().to_owned();
        let mut steps = vec![Step::Wait(opened.clone())];
        steps.extend(Reply::ok(&["Cache-Control: max-age=0", "ETag: \"1\""], name));
        steps
    });
    let node = Node::speaking(Protocol::H1, &[origin.address], PACKAGED);
    let mut clients: Vec<Client> = (0..4).map(|_| node.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /a HTTP/1.1\r\nHost: h\r\nCookie: sid={number}\r\n\r\n"));
    }
    origin.wait_for(1);
    gate.open();
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response("GET").text(), format!("sid={number}"));
    }
}

#[test]
fn what_varies_by_what_the_node_says_of_a_client_goes_to_that_client() {
    let origin = Origin::start(|request| {
        let body = request.field("x-forwarded-for").unwrap_or_default().to_owned();
        Reply::ok(&["Cache-Control: max-age=60", "Vary: X-Forwarded-For, X-Device-Class, Forwarded"], body)
    });
    let trusted = node::site(&[origin.address], "", &route("mode = \"respect\""));
    let node = Node::start(&format!("[node]\ntrusted_proxies = [\"127.0.0.1\"]\n{trusted}"));
    for (client, hit) in [("192.0.2.1", false), ("192.0.2.2", false), ("192.0.2.1", true), ("192.0.2.2", true)] {
        // What no origin is told of tells nobody apart.
        let fields = [&format!("X-Forwarded-For: {client}"), "X-Device-Class: fridge", "Forwarded: for=x"];
        let answer = node.get_with("/a", &fields);
        assert_eq!(answer.text(), format!("{client}, 127.0.0.1"));
        assert_eq!(answer.is_hit(), hit, "{client}: {}", answer.cache());
    }
}

/// From two addresses, with the same words: what counts is what the node says.
#[test]
fn what_varies_by_the_clients_address_goes_to_that_address() {
    let origin = Origin::start(|request| {
        let body = request.field("x-forwarded-for").unwrap_or_default().to_owned();
        Reply::ok(&["Cache-Control: max-age=60", "Vary: X-Forwarded-For"], body)
    });
    let node = Node::caching(origin.address);
    for (from, hit) in [(1, false), (2, false), (1, true), (2, true)] {
        let mut client = Client::connect_from([127, 0, 0, from], node.address());
        let answer = client.get("/a", &["X-Forwarded-For: 192.0.2.1"]);
        assert_eq!((answer.text(), answer.is_hit()), (format!("127.0.0.{from}"), hit));
    }
}

#[test]
fn fields_that_are_not_keyed_do_not_shape_what_all_get() {
    const UNKEYED: [&str; 10] = [
        "Proxy: http://evil.example/",
        "X-HTTP-Host-Override: evil.example",
        "X-Middleware-Subrequest: middleware",
        "True-Client-IP: 192.0.2.9",
        "CF-Connecting-IP: 192.0.2.9",
        "X-Forwarded-Client-Cert: Subject=\"CN=admin\"",
        "X-Device-Class: tablet",
        "X_Original_URL: /admin",
        "X-Remote-User: admin",
        "X-Rewrite-Url: /admin",
    ];
    for protocol in Protocol::ALL {
        for mode in ["mode = \"respect\"", "mode = \"force\", ttl = \"1m\""] {
            let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "page"));
            let node = Node::speaking(protocol, &[origin.address], &route(mode));
            // A fill, a request that is passed without a body, and one with.
            node.get_with("/a", &UNKEYED);
            node.request("OPTIONS", "/a", &UNKEYED, "");
            node.request("POST", "/a", &UNKEYED, "body");
            for request in origin.wait_for(3) {
                for field in UNKEYED {
                    let name = field.split(':').next().unwrap();
                    assert_eq!(request.field(name), None, "{mode}: {}", request.head);
                }
            }
        }
    }
}

#[test]
fn by_force_no_visitors_session_gets_into_what_all_get() {
    let origin = greets(&[]);
    let routes = route("mode = \"force\", ttl = \"1m\"")
        .replace("cache =", "forward = [\"X-Tenant\", \"x-feature-*\"]\ncache =");
    let node = Node::with_routes(&[origin.address], &routes);
    let anonymous =
        node.get_with("/a", &["Cookie: sid=1", "User-Agent: Nokia", "Referer: http://x/", "Accept: text/html"]);
    assert_eq!(anonymous.text(), "nobody");
    let sent = &origin.requests()[0];
    assert_eq!((sent.field("user-agent"), sent.field("referer")), (Some("seawall"), None));
    assert_eq!(sent.field("accept"), Some("text/html"));
    assert!(node.get_with("/a", &["Cookie: sid=2"]).is_hit());
    // What the route names is sent, and tells objects apart.
    for (fields, hit) in [
        (&["X-Tenant: a"][..], false),
        (&["X-Tenant: b"], false),
        (&["X-Tenant: a"], true),
        (&["X-Feature-Dark: 1"], false),
        (&["X-Feature-Dark: 1"], true),
        (&["X-Feature-New: 1"], false),
        (&[], true),
    ] {
        assert_eq!(node.get_with("/a", fields).is_hit(), hit, "{fields:?}");
    }
    assert_eq!(origin.requests()[1].field("x-tenant"), Some("a"));
    // A form is for its sender: it goes with the session.
    node.request("POST", "/a", &["Cookie: sid=1"], "x");
    assert_eq!(origin.requests().last().unwrap().field("cookie"), Some("sid=1"));
}

#[test]
fn one_visitors_private_answer_takes_nothing_from_the_others() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.field("cookie") {
            Some(_) => Reply::ok(&["Cache-Control: private"], "mine"),
            None => Reply::ok(&["Cache-Control: max-age=60"], "for all"),
        });
        let node = Node::caching_by(protocol, origin.address);
        node.get("/a");
        let private = node.get_with("/a", &["Cookie: sid=1", "Cache-Control: no-cache"]);
        assert_eq!(private.text(), "mine");
        let hit = node.get("/a");
        assert!(hit.is_hit() && hit.text() == "for all", "{}", hit.cache());
    }
}

#[test]
fn a_private_answer_that_varies_makes_only_the_like_pass() {
    let gate = Gate::default();
    let opened = gate.clone();
    let slow = Arc::new(AtomicUsize::new(0));
    let counted = slow.clone();
    let origin = Origin::start(move |request| match request.field("cookie") {
        Some(name) => {
            let name = name.to_owned();
            let mut steps = Vec::new();
            if name == "sid=slow" {
                counted.fetch_add(1, Ordering::SeqCst);
                steps.push(Step::Wait(opened.clone()));
            }
            steps.extend(Reply::ok(&["Cache-Control: private", "Vary: Cookie"], name));
            steps
        }
        None => Reply::ok(&["Cache-Control: max-age=60", "Vary: Cookie"], "for all"),
    });
    let node = Node::caching(origin.address);
    assert_eq!(node.get_with("/a", &["Cookie: sid=1"]).text(), "sid=1");
    assert!(node.get_with("/a", &["Cookie: sid=1"]).cache().contains("hit-for-miss"));
    // Those without a cookie are stored for at once, and one who is logged in does not undo that.
    assert!(node.get("/a").cache().contains("; stored"));
    assert!(node.get_with("/a", &["Cookie: sid=1"]).cache().contains("hit-for-miss"));
    assert!(node.get("/a").is_hit());
    // Who differs waits for nobody: an answer of another comes while the first has none.
    let mut waiting = node.client();
    waiting.send("GET /a HTTP/1.1\r\nHost: shop.example\r\nCookie: sid=slow\r\n\r\n");
    eventually("the slow request at the origin", || (slow.load(Ordering::SeqCst) == 1).then_some(()));
    assert_eq!(node.get_with("/a", &["Cookie: sid=2"]).text(), "sid=2");
    gate.open();
    assert_eq!(waiting.response("GET").text(), "sid=slow");
}

#[test]
fn an_error_about_one_request_is_not_for_all() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.field("x-odd") {
            Some(_) => Reply::status(400, &["Cache-Control: max-age=60"], "no"),
            None => Reply::ok(&["Cache-Control: max-age=60"], "page"),
        });
        let node = Node::caching_by(protocol, origin.address);
        let odd = format!("X-Odd: {}", "x".repeat(4100));
        for field in [odd.as_str(), "X-Odd: caf\u{e9}"] {
            let refused = node.get_with("/a", &[field]);
            assert_eq!(refused.status, 400);
            assert!(refused.cache().contains("detail=request-form"), "{}", refused.cache());
        }
        assert_eq!(node.get("/a").text(), "page");
    }
}

#[test]
fn refusals_are_shared_only_where_somebody_says_so() {
    for (status, fields, shared) in [
        (401, &["Cache-Control: max-age=60"][..], false),
        (403, &["Cache-Control: max-age=60"], false),
        (429, &["Cache-Control: s-maxage=60"], false),
        (403, &["Cache-Control: public, max-age=60"], true),
        (404, &["Cache-Control: max-age=60"], true),
    ] {
        let origin = Origin::start(move |_| Reply::status(status, fields, "no"));
        let node = Node::caching(origin.address);
        node.get("/a");
        assert_eq!(node.get("/a").is_hit(), shared, "{status} {fields:?}");
    }
}

#[test]
fn cookies_are_named_with_a_star() {
    let origin = greets(&["Cache-Control: max-age=60"]);
    let node = Node::with_routes(
        &[origin.address],
        &route("mode = \"respect\", key = { cookies = [\"wordpress_logged_in*\"] }"),
    );
    for (cookie, text, hit) in [
        ("tracker=1", "nobody", false),
        ("wordpress_logged_in_ab=bob; tracker=2", "wordpress_logged_in_ab=bob", false),
        ("tracker=3", "nobody", true),
        ("tracker=4; wordpress_logged_in_ab=bob", "wordpress_logged_in_ab=bob", true),
        ("wordpress_logged_in_ab=eve", "wordpress_logged_in_ab=eve", false),
    ] {
        let answer = node.get_with("/a", &[&format!("Cookie: {cookie}")]);
        assert_eq!((answer.text().as_str(), answer.is_hit()), (text, hit), "{cookie}");
    }
}

#[test]
fn the_port_that_was_asked_for_reaches_the_origin_and_its_redirects_lead_back() {
    let origin = Origin::start(|request| {
        let host = request.field("host").unwrap_or_default().to_owned();
        let to = format!("Location: http://{host}/new");
        Reply::status(301, &["Cache-Control: max-age=60", &to], "")
    });
    let node = Node::caching(origin.address);
    let own = node.address().port();
    for (host, location, hit) in [
        (format!("shop.example:{own}"), format!("http://shop.example:{own}/new"), false),
        ("shop.example".into(), "http://shop.example/new".into(), false),
        (format!("shop.example:{own}"), format!("http://shop.example:{own}/new"), true),
        // Nobody floods or poisons the cache by ports.
        ("shop.example:12345".into(), "http://shop.example/new".into(), true),
        ("shop.example:80".into(), "http://shop.example/new".into(), true),
    ] {
        let answer = node.get_with("/old", &[&format!("Host: {host}")]);
        assert_eq!((answer.field("location"), answer.is_hit()), (Some(location.as_str()), hit), "{host}");
    }
    // A purge without a port hits all.
    node.purge("{\"url\": \"http://shop.example/old\"}");
    for host in [format!("shop.example:{own}"), "shop.example".into()] {
        assert!(!node.get_with("/old", &[&format!("Host: {host}")]).is_hit(), "{host}");
    }
    // What an unsafe request changes, it changes for those who ask by its port.
    node.request("POST", "/old", &[&format!("Host: shop.example:{own}")], "x");
    assert!(!node.get_with("/old", &[&format!("Host: shop.example:{own}")]).is_hit());
}

#[test]
fn sites_name_the_ports_that_count() {
    let origin = Origin::start(|request| {
        let host = request.field("host").unwrap_or_default().to_owned();
        Reply::ok(&["Cache-Control: max-age=60"], host)
    });
    let site =
        |hosts: &str| node::site(&[origin.address], "", &route("mode = \"respect\"")).replace("hosts = [\"*\"]", hosts);
    let named = Node::start(&site("hosts = [\"shop.example\", \"shop.example:8443\"]"));
    let any = Node::start(&site("hosts = [\"*\"]\nports = \"any\""));
    for (node, port, sent) in [
        (&named, 8443, "shop.example:8443"),
        (&named, 8444, "shop.example"),
        (&any, 8443, "shop.example:8443"),
        (&any, 8444, "shop.example:8444"),
        (&any, 80, "shop.example"),
    ] {
        let answer = node.get_with("/a", &[&format!("Host: shop.example:{port}")]);
        assert_eq!(answer.text(), sent, "{port}");
    }
}

#[test]
fn hidden_dot_segments_reach_no_cache() {
    let routes = "[[site.shop.route]]\npath = \"/force/*\"\npool = \"app\"\ncache = { mode = \"force\", ttl = \"1m\" }\n\
        [[site.shop.route]]\npath = \"/private/*\"\npool = \"app\"\n\
        [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"force\", ttl = \"1m\" }\n";
    const HIDDEN: [&str; 8] = [
        "/private%2fx",
        "/%2fprivate/x",
        "/force/..%2faccount/x.css",
        "/force/..%5caccount/x.css",
        "/force/..\\account/x.css",
        "/force/..;/account/x.css",
        "/force/%252e%252e/account/x.css",
        "/force/..%252faccount/x.css",
    ];
    for protocol in Protocol::ALL {
        let origin = greets(&[]);
        let node = Node::speaking(protocol, &[origin.address], routes);
        for path in HIDDEN {
            assert_eq!(node.get(path).status, 400, "{path}");
        }
        assert_eq!(origin.count(), 0);
        // Routes are found whatever slashes there are; the origin sees them as they were written.
        assert!(!node.get("//private/x").cache().contains("stored"));
        assert_eq!(origin.requests()[0].path(), "//private/x");
    }
    let origin = greets(&[]);
    let site = node::site(&[origin.address], "", routes).replace("hosts =", "encoded_dots = \"pass\"\nhosts =");
    let node = Node::start(&site);
    for path in HIDDEN {
        for name in ["sid=1", "sid=2"] {
            let answer = node.get_with(path, &[&format!("Cookie: {name}")]);
            assert_eq!(answer.text(), name, "{path}");
            assert!(answer.cache().contains("detail=encoded-dots"), "{path}: {}", answer.cache());
        }
    }
}

#[test]
fn the_windows_that_a_response_states_override_what_s_maxage_implies() {
    // As Next.js sends it.
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: s-maxage=1, stale-while-revalidate=59"], "page"));
    let node = Node::caching(origin.address);
    node.get("/a");
    eventually("a stale hit", || node.get("/a").cache().contains("stale-while-revalidate").then_some(()));
    for (fields, expected) in [
        (&["Cache-Control: s-maxage=1, must-revalidate, stale-while-revalidate=59"][..], 200),
        (&["Cache-Control: s-maxage=1"], 200),
    ] {
        let origin = Origin::start(move |_| Reply::ok(fields, "page"));
        let node = Node::caching(origin.address);
        node.get("/a");
        eventually("its end", || {
            let answer = node.get("/a");
            assert!(!answer.cache().contains("stale-while-revalidate"), "{}", answer.cache());
            (answer.status == expected && !answer.is_hit()).then_some(())
        });
    }
}

#[test]
fn when_no_origin_can_be_reached_what_is_stored_covers() {
    let answer = |fields: &'static [&'static str]| move |_: &Request| Reply::ok(fields, "page");
    let lifetime = &["Cache-Control: max-age=1"];
    for (fields, rules, covers) in [
        (&lifetime[..], "mode = \"respect\"", true),
        (&lifetime[..], "mode = \"respect\", stale_if_unreachable = \"0s\"", false),
        (&["Cache-Control: max-age=1, must-revalidate"], "mode = \"respect\"", false),
        (&["Cache-Control: s-maxage=1"], "mode = \"respect\"", false),
        (&["Cache-Control: s-maxage=1"], "mode = \"respect\", stale_if_unreachable = \"1h\"", true),
    ] {
        let origin = Origin::start(answer(fields));
        let node = Node::with_routes(&[origin.address], &route(rules));
        node.get("/a");
        eventually("its end", || (!node.get_with("/a", &["Cache-Control: only-if-cached"]).is_hit()).then_some(()));
        origin.stop();
        let found = node.get("/a");
        assert_eq!(found.status == 200, covers, "{fields:?} {rules}: {}", found.cache());
        if covers {
            assert!(found.cache().contains("fwd=stale; detail=origin-failed"), "{}", found.cache());
        }
    }
}

/// What nobody sees, the operator does: in the node's log, in the requests' and by the admin API, also without a health check.
#[test]
fn an_outage_that_is_covered_is_told_of() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=1"], "page"));
    let log = "[log]\naccess = \"stdout\"\n";
    let node = Node::start(&format!("{log}{}", node::site(&[origin.address], "", &route("mode = \"respect\""))));
    node.get("/a");
    eventually("its end", || (!node.get_with("/a", &["Cache-Control: only-if-cached"]).is_hit()).then_some(()));
    origin.stop();
    for _ in 0..3 {
        assert_eq!(node.get("/a").text(), "page");
    }
    let line = node.wait_for_log("requests to an origin fail");
    assert!(line.contains("WARN") && line.contains(&format!("origin={}", origin.address)), "{line}");
    assert!(line.contains("failures=1") && line.contains("refused"), "{line}");
    let told = node.log().iter().filter(|line| line.contains("requests to an origin fail")).count();
    assert_eq!(told, 1, "and not by each request");
    let is_covered =
        |line: &str| line.contains("\"cache\":\"stale\"") && line.contains("a stored response covers for it");
    eventually("three lines", || (node.stdout().lines().filter(|line| is_covered(line)).count() == 3).then_some(()));
    let pools = node.admin("GET", "/v1/pools", "").1.to_string();
    assert!(pools.contains("refused"), "{pools}");
}

#[test]
fn what_covers_for_an_outage_is_still_purged() {
    for (soft, covers) in [(false, false), (true, true)] {
        let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "page"));
        let node = Node::caching(origin.address);
        node.get("/a");
        origin.stop();
        node.purge(&format!("{{\"url\": \"http://shop.example/a\", \"soft\": {soft}}}"));
        assert_eq!(node.get("/a").status == 200, covers, "soft: {soft}");
    }
}

/// The cache knows of no origin, though its pool is there: none of the ways to fail is a way around it.
#[test]
fn every_way_of_not_reaching_an_origin_is_covered() {
    for way in ["refused", "reset", "silent"] {
        let gone = Arc::new(AtomicUsize::new(0));
        let (is_gone, gate) = (gone.clone(), Gate::default());
        let never = gate.clone();
        let origin = Origin::start(move |_| match (is_gone.load(Ordering::SeqCst), way) {
            (0, _) => Reply::ok(&["Cache-Control: max-age=1"], "page"),
            (_, "silent") => vec![Step::Wait(never.clone())],
            _ => vec![Step::Close],
        });
        let pool = "retries = 0\nread_timeout = \"300ms\"";
        let node = Node::start(&node::site(&[origin.address], pool, &route("mode = \"respect\"")));
        node.get("/a");
        eventually("its end", || (!node.get_with("/a", &["Cache-Control: only-if-cached"]).is_hit()).then_some(()));
        gone.store(1, Ordering::SeqCst);
        if way == "refused" {
            origin.stop();
        }
        let found = node.get("/a");
        assert_eq!((found.status, found.text().as_str()), (200, "page"), "{way}: {}", found.cache());
        gate.open();
    }
    let dead = DeadPort::new();
    let node = Node::with_routes(&[dead.address], &route("mode = \"respect\""));
    assert_eq!(node.get("/never-stored").status, 502);
}

#[test]
fn whoever_waited_gets_what_was_stale_as_it_came_and_the_key_is_not_marked() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |_| {
        let mut steps = vec![Step::Wait(opened.clone())];
        // Its clock is behind, as far as can be told from here.
        steps.extend(Reply::ok(&["Cache-Control: max-age=1", "Date: Sun, 06 Nov 1994 08:49:37 GMT"], "page"));
        steps
    });
    let node = Node::caching(origin.address);
    let mut clients: Vec<Client> = (0..20).map(|_| node.client()).collect();
    clients.iter_mut().for_each(|client| client.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
    origin.wait_for(1);
    // All of them have been read before the answer comes: each connection has been served something since.
    eventually("all to wait", || (node.metric("seawall_connections ") >= Some(20.0)).then_some(()));
    gate.open();
    for client in &mut clients {
        let answer = client.response("GET");
        assert_eq!(answer.text(), "page");
        assert!(!answer.cache().contains("hit-for-miss"), "{}", answer.cache());
    }
    assert!(origin.count() <= 3, "{} requests for one answer", origin.count());
    assert!(!node.get("/a").cache().contains("hit-for-miss"));
}

#[test]
fn one_who_shows_credentials_gets_nothing_that_was_not_for_such() {
    for protocol in Protocol::ALL {
        for (fields, rules, shared) in [
            (&["Cache-Control: max-age=60"][..], "mode = \"respect\"", false),
            (&["Cache-Control: public, max-age=60"], "mode = \"respect\"", true),
            (&["Cache-Control: s-maxage=60"], "mode = \"respect\"", true),
            (&["Cache-Control: must-revalidate, max-age=60"], "mode = \"respect\"", true),
            (&["Cache-Control: max-age=60"], "mode = \"respect\", serve_authorized = true", true),
            (&[], "mode = \"force\", ttl = \"1m\"", false),
        ] {
            let origin = Origin::start(move |request| {
                Reply::ok(fields, if request.field("authorization").is_some() { "yours" } else { "all" })
            });
            let node = Node::speaking(protocol, &[origin.address], &route(rules));
            assert_eq!(node.get("/a").text(), "all");
            let authorized = node.get_with("/a", &["Authorization: me"]);
            assert_eq!(authorized.text() == "all", shared, "{fields:?} {rules}: {}", authorized.cache());
            if !shared {
                assert!(authorized.cache().contains("fwd=bypass; detail=authorization"), "{}", authorized.cache());
            }
            let hit = node.get("/a");
            assert!(hit.is_hit() && hit.text() == "all", "{fields:?} {rules}: {}", hit.cache());
        }
    }
}

#[test]
fn a_stored_refusal_never_answers_who_has_the_key() {
    let origin = Origin::start(|request| match request.field("authorization") {
        Some(_) => Reply::ok(&["Cache-Control: private"], "yours"),
        None => Reply::status(401, &["Cache-Control: public, max-age=60", "WWW-Authenticate: Basic"], "no"),
    });
    let node = Node::with_routes(&[origin.address], &route("mode = \"respect\", serve_authorized = true"));
    assert_eq!(node.get("/a").status, 401);
    assert_eq!(node.get_with("/a", &["Authorization: me"]).text(), "yours");
    assert!(node.get("/a").is_hit());
}

#[test]
fn a_content_range_of_a_whole_response_is_a_field_like_any() {
    for protocol in Protocol::ALL {
        let fields = &["Cache-Control: max-age=60", "ETag: \"1\"", "Content-Range: bytes 0-9/10"];
        let origin = Origin::start(move |_| Reply::ok(fields, "0123456789"));
        let node = Node::caching_by(protocol, origin.address);
        for _ in 0..2 {
            assert_eq!(node.get("/a").fields("content-range"), ["bytes 0-9/10"]);
            let part = node.get_with("/a", &["Range: bytes=2-3"]);
            assert_eq!((part.status, part.text().as_str()), (206, "23"));
            assert_eq!(part.fields("content-range"), ["bytes 2-3/10"]);
        }
    }
}

#[test]
fn a_request_that_goes_in_circles_ends_at_once() {
    // The node's own address is its origin.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let listen = format!("[[listen]]\naddress = \"{address}\"\n[admin]\naddress = \"127.0.0.1:0\"\n");
    let routes = format!("{}[[site.shop.route]]\npath = \"/passed\"\npool = \"app\"\n", "").to_owned()
        + &route("mode = \"respect\"");
    let node = Node::start(&format!("{listen}{}", node::site(&[address], "", &routes)));
    for (method, path) in [("GET", "/passed"), ("GET", "/cached"), ("POST", "/passed")] {
        let started = Instant::now();
        let answer = node.request(method, path, &[], if method == "POST" { "x" } else { "" });
        assert_eq!(answer.status, 508, "{method} {path}: {}", answer.text());
        assert!(started.elapsed() < Duration::from_secs(5), "{method} {path} waited for itself");
    }
    let far = format!("CDN-Loop: {}", ["seawall; node=0"; 16].join(", "));
    assert_eq!(node.get_with("/cached", &[&far]).status, 508);
    let origin = Origin::start(|_| Reply::ok(&[], "page"));
    let other = Node::with_routes(&[origin.address], &route("mode = \"respect\""));
    other.get_with("/a", &["CDN-Loop: other"]);
    other.request("POST", "/a", &["CDN-Loop: other"], "x");
    for request in origin.requests() {
        let loops: Vec<&str> =
            request.head.lines().filter(|line| line.to_ascii_lowercase().starts_with("cdn-loop:")).collect();
        let all = loops.join(", ");
        assert!(all.contains("other") && all.contains("seawall; node="), "{all}");
    }
}

/// Two clients ask for one hot key again and again while it is purged; the origin says that nothing has changed whenever it
/// is asked so. No answer that begins after a purge was confirmed may bring what the purge was for.
#[test]
fn no_refresh_brings_back_what_a_purge_has_killed() {
    let version = Arc::new(AtomicU64::new(0));
    let made = version.clone();
    let origin = Origin::start(move |request| {
        let fields = ["Cache-Control: max-age=0, stale-while-revalidate=60", "ETag: \"same\""];
        match request.field("if-none-match") {
            Some(_) => Reply::head_only(304, &fields),
            None => Reply::ok(&fields, made.load(Ordering::SeqCst).to_string()),
        }
    });
    let routes = route("mode = \"respect\"");
    let site = node::site(&[origin.address], "", &routes).replace("hosts =", "purge_from = [\"127.0.0.1\"]\nhosts =");
    let node = Node::start(&format!("[limits]\nmax_requests_per_connection = 100000000\n{site}"));
    let confirmed = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(AtomicUsize::new(0));
    let askers: Vec<_> = (0..2)
        .map(|_| {
            let (address, confirmed, ended) = (node.address(), confirmed.clone(), ended.clone());
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut asked = 0_u64;
                while ended.load(Ordering::SeqCst) == 0 {
                    let least = confirmed.load(Ordering::SeqCst);
                    client.send("GET /hot HTTP/1.1\r\nHost: shop.example\r\n\r\n".repeat(8));
                    for _ in 0..8 {
                        let found = client.response("GET");
                        let version: u64 = found.text().parse().unwrap();
                        assert!(version >= least, "{version} after a purge for {least}: {}", found.cache());
                        asked += 1;
                    }
                }
                asked
            })
        })
        .collect();
    let mut purger = node.client();
    // More by hand: SEAWALL_PURGE_SECONDS=12.
    let seconds = std::env::var("SEAWALL_PURGE_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        let next = version.fetch_add(1, Ordering::SeqCst) + 1;
        assert_eq!(purger.request("PURGE", "/hot", &[], "").status, 200);
        confirmed.store(next, Ordering::SeqCst);
    }
    ended.store(1, Ordering::SeqCst);
    let asked: u64 = askers.into_iter().map(|asker| asker.join().unwrap()).sum();
    eprintln!("{} purges, {asked} answers, none of them purged", version.load(Ordering::SeqCst));
    assert!(asked > 100 && version.load(Ordering::SeqCst) > 100, "{asked} requests say nothing");
}

/// What an origin says before its answer is for who asked, unless that may be anybody.
#[test]
fn hints_for_one_visitor_reach_no_other() {
    let gates = Arc::new(Mutex::new((Gate::default(), Gate::default())));
    let for_origin = gates.clone();
    let origin = Origin::start(move |request| {
        let (hinted, answered) = for_origin.lock().unwrap().clone();
        let who = request.field("cookie").unwrap_or("anybody");
        let hint = Reply::head(103, &[&format!("Link: </{who}.css>; rel=preload"), "Set-Cookie: sid=s"]);
        let waits = vec![Step::Wait(hinted), Step::Send(hint), Step::Wait(answered)];
        [waits, Reply::ok(&["Cache-Control: max-age=60"], who)].concat()
    });
    let node = Node::caching(origin.address);
    let mut round = 0;
    // The heads that who follows gets. That it does shows only afterwards.
    let mut follow = |fields: &str| {
        eventually("a request that follows", || {
            round += 1;
            let (hinted, answered) = (Gate::default(), Gate::default());
            *gates.lock().unwrap() = (hinted.clone(), answered.clone());
            let requests = origin.count();
            let mut leads = node.client();
            leads.send(format!("GET /{round} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n"));
            origin.wait_for(requests + 1);
            let mut follows = node.client();
            follows.send(format!("GET /{round} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
            hinted.open();
            let head = leads.head();
            assert!(head.starts_with("HTTP/1.1 103 ") && head.contains("set-cookie: sid=s"), "{head}");
            answered.open();
            let mut heads = vec![follows.head()];
            while heads.last().unwrap().starts_with("HTTP/1.1 1") {
                heads.push(follows.head());
            }
            heads.last().unwrap().contains("collapsed").then_some(heads)
        })
    };
    let heads = follow("Cookie: alice\r\n");
    assert!(heads.len() == 1 && !heads[0].contains("alice.css"), "{heads:?}");
    let heads = follow("");
    let hint = &heads[0];
    assert!(hint.starts_with("HTTP/1.1 103 ") && hint.contains("anybody.css") && !hint.contains("cookie"), "{heads:?}");
}

/// Who follows is not denied what only the request that it follows was denied.
#[test]
fn a_failure_that_one_request_provokes_is_not_that_of_those_who_wait() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| match request.field("cookie") {
        Some(_) => vec![Step::Wait(for_origin.clone()), Step::Close],
        None => Reply::ok(&["Cache-Control: max-age=60"], "for all"),
    });
    let node = Node::caching(origin.address);
    let mut evil = node.client();
    evil.send("GET /a HTTP/1.1\r\nHost: shop.example\r\nCookie: evil\r\n\r\n");
    origin.wait_for(1);
    let mut others: Vec<_> = (0..4).map(|_| node.client()).collect();
    others.iter_mut().for_each(|other| other.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
    gate.open();
    assert_eq!(evil.response("GET").status, 502);
    for mut other in others {
        assert_eq!(other.response("GET").text(), "for all");
    }
}
