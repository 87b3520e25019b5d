//! Routes with conditions, and those that answer by themselves: what operators write, over real sockets.

use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::origin::{Gate, Request};
use crate::harness::{Client, Node, Origin, Protocol, Reply, Step, eventually};
use crate::process::seawall;

use seawall::internals::{Plan, Source};

/// An origin that says who it is.
fn named(name: &'static str) -> Origin {
    Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=600"], name))
}

/// A node with two pools, `app` and `beta`.
fn node(protocol: Protocol, app: &Origin, beta: &Origin, routes: &str) -> Node {
    let beta = format!("[pool.beta]\norigins = [\"{}\"]\n", beta.address);
    Node::speaking(protocol, &[app.address], &format!("{routes}{beta}"))
}

const CACHED: &str = "cache = { mode = \"respect\" }\n";

fn two_routes(when: &str) -> String {
    format!(
        "[[site.shop.route]]\npath = \"/*\"\nwhen = '{when}'\npool = \"beta\"\n{CACHED}\
         [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{CACHED}"
    )
}

/// One variable each: whoever differs in it never gets the other's answer, from whichever route it is, first or second.
#[test]
fn clients_that_differ_in_a_condition_never_share_an_answer() {
    for protocol in Protocol::ALL {
        for (when, path, fields) in [
            (r#"headers.has("x-beta")"#, "/a", &["X-Beta: 1"][..]),
            (r#"header.x-lang == "de""#, "/a", &["X-Lang: de"]),
            (r#"cookie.group == "beta""#, "/a", &["Cookie: a=b; group=beta"]),
            (r#"cookies.has("wordpress_logged_in*")"#, "/a", &["Cookie: wordpress_logged_in_1=x"]),
            (r#"header.user-agent.contains("Mobile")"#, "/a", &["User-Agent: a Mobile b"]),
        ] {
            for first_is_beta in [true, false] {
                let (app, beta) = (named("app"), named("beta"));
                let node = node(protocol, &app, &beta, &two_routes(when));
                let ask = |is_beta: bool| {
                    let response = node.get_with(path, if is_beta { fields } else { &[] });
                    assert_eq!(response.text(), if is_beta { "beta" } else { "app" }, "{when}");
                    response
                };
                for is_beta in [first_is_beta, !first_is_beta, true, false] {
                    ask(is_beta);
                }
                assert!(ask(false).is_hit() && !ask(true).cache().contains("bypass"), "{when}");
            }
        }
    }
}

#[test]
fn a_purge_hits_what_every_condition_has_stored() {
    let (app, beta) = (named("app"), named("beta"));
    let node = node(Protocol::H1, &app, &beta, &two_routes(r#"headers.has("x-beta")"#));
    let ask = |fields: &[&str]| node.get_with("/a", fields).is_hit();
    let purges: [(&str, &dyn Fn()); 3] = [
        ("url", &|| _ = node.purge(r#"{"url": "http://shop.example/a"}"#)),
        ("prefix", &|| _ = node.purge(r#"{"prefix": "http://shop.example/"}"#)),
        ("POST", &|| _ = node.request("POST", "/a", &[], "")),
    ];
    for (what, purge) in purges {
        for fields in [&["X-Beta: 1"][..], &[]] {
            ask(fields);
            assert!(ask(fields), "{what}");
        }
        purge();
        assert!(!ask(&["X-Beta: 1"]) && !ask(&[]), "{what}");
    }
}

#[test]
fn without_a_route_whose_condition_holds_there_is_none() {
    let origin = named("app");
    let routes = format!(
        "[[site.shop.route]]\npath = \"/in/*\"\nwhen = 'client.ip in [\"127.0.0.0/8\"]'\npool = \"app\"\n{CACHED}\
         [[site.shop.route]]\npath = \"/out/*\"\nwhen = 'client.ip in [\"192.0.2.0/24\"]'\npool = \"app\"\n\
         [[site.shop.route]]\npath = \"/post\"\nmethods = [\"POST\"]\nwhen = 'query.has(\"k\")'\npool = \"app\"\n"
    );
    let node = Node::with_routes(&[origin.address], &routes);
    assert_eq!(node.get("/in/a").text(), "app");
    assert_eq!(node.get("/out/a").status, 404);
    let refused = node.get("/post?k");
    assert_eq!((refused.status, refused.field("allow")), (405, Some("POST")));
    assert_eq!(node.get("/post").status, 404);
    assert_eq!(node.request("POST", "/post?k", &[], "x").text(), "app");
}

#[test]
fn a_bypass_neither_reads_nor_writes_the_cache() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request: &Request| {
            let who = request.field("cookie").unwrap_or("nobody").to_owned();
            Reply::ok(&["Cache-Control: max-age=600"], who)
        });
        let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n\
            cache = { mode = \"respect\", bypass = 'cookies.has(\"session\") || query.preview == \"1\"' }\n";
        let node = Node::speaking(protocol, &[origin.address], route);
        assert_eq!(node.get("/a").text(), "nobody");
        let mine = node.get_with("/a", &["Cookie: session=1"]);
        assert_eq!((mine.text().as_str(), mine.cache()), ("session=1", "seawall; fwd=bypass; detail=condition"));
        assert!(node.get("/a").is_hit());
        node.get("/b?preview=1");
        assert!(!node.get("/b?preview=1").is_hit() && node.get_with("/a", &["Cookie: other=1"]).is_hit());
    }
}

#[test]
fn redirects_are_answered_without_an_origin() {
    for protocol in Protocol::ALL {
        let origin = named("app");
        let routes = "[[site.shop.route]]\npath = \"/old/*\"\nredirect = { to = \"https://{host}/new/{1}\", status = 301 }\n\
            [[site.shop.route]]\npath = \"/keep\"\nredirect = { to = \"/there\" }\n\
            [[site.shop.route]]\npath = \"/drop\"\nredirect = { to = \"/there\", query = \"drop\" }\n\
            [[site.shop.route]]\npath = \"/both\"\nredirect = { to = \"/there?a=1\", query = \"keep\" }\n\
            [[site.shop.route]]\npath = \"/part\"\nredirect = { to = \"/there#part\" }\n\
            [[site.shop.route]]\npath = \"/search\"\nredirect = { to = \"/find?q={query.q}\", status = 302 }\n\
            [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
        let node = Node::speaking(protocol, &[origin.address], routes);
        for (path, status, location) in [
            ("/old/a/b", 301, "https://shop.example/new/a/b"),
            ("/old/a?x=1", 301, "https://shop.example/new/a?x=1"),
            ("/old//evil.example/", 301, "https://shop.example/new/evil.example/"),
            ("//old/a", 301, "https://shop.example/new/a"),
            ("/part?x=1", 308, "/there?x=1#part"),
            ("/keep?x=1&y", 308, "/there?x=1&y"),
            ("/keep", 308, "/there"),
            ("/drop?x=1", 308, "/there"),
            ("/both?x=1", 308, "/there?a=1&x=1"),
            ("/search?q=a%20b%0d%0aSet-Cookie:x", 302, "/find?q=a%20b%0D%0ASet-Cookie%3Ax"),
            ("/search", 302, "/find?q="),
        ] {
            for method in ["GET", "HEAD", "POST"] {
                let response = node.request(method, path, &[], if method == "POST" { "body" } else { "" });
                assert_eq!((response.status, response.field("location")), (status, Some(location)), "{method} {path}");
                assert_eq!(response.field("set-cookie"), None, "{path}");
            }
        }
        assert_eq!(origin.count(), 0);
        assert_eq!(node.get("/else").text(), "app");
    }
}

#[test]
fn fixed_answers_are_what_their_routes_say() {
    let directory = Arc::new(TempDir::new().unwrap());
    std::fs::write(directory.path().join("down.html"), "<h1>closed</h1>").unwrap();
    let routes = "[[site.shop.route]]\npath = \"/ping\"\nrespond = { body = \"pong\" }\n\
        [[site.shop.route]]\npath = \"/robots.txt\"\nrespond = { body = \"User-agent: *\", fields = { Cache-Control = \"max-age=60\" } }\n\
        [[site.shop.route]]\npath = \"/*\"\nrespond = { status = 503, file = \"down.html\", content_type = \"text/html\", fields = { Retry-After = \"60\" } }\n";
    let config = crate::harness::node::site(&["127.0.0.1:1".parse().unwrap()], "", routes);
    let node = Node::start_in(directory.clone(), &config);
    let ping = node.get("/ping");
    assert_eq!(
        (ping.status, ping.text().as_str(), ping.field("content-type")),
        (200, "pong", Some("text/plain; charset=utf-8"))
    );
    assert_eq!(node.get("/robots.txt").field("cache-control"), Some("max-age=60"));
    let down = node.get("/a");
    assert_eq!((down.status, down.text().as_str(), down.field("retry-after")), (503, "<h1>closed</h1>", Some("60")));
    assert_eq!(node.request("HEAD", "/ping", &[], "").field("content-length"), Some("4"));
    // The file is a part of the configuration.
    let generation = node.generation();
    std::fs::write(directory.path().join("down.html"), "back soon").unwrap();
    node.wait_for_generation(generation + 1);
    assert_eq!(node.get("/a").text(), "back soon");
}

#[test]
fn explain_tells_which_part_of_a_condition_decided() {
    let (app, beta) = (named("app"), named("beta"));
    let routes = two_routes(r#"path.startsWith("/b") && headers.has("x-beta")"#)
        + "[[site.shop.route]]\npath = \"/never\"\npool = \"app\"\n";
    let node = node(Protocol::H1, &app, &beta, &routes);
    let explain = |query: &str| node.admin("GET", &format!("/v1/explain?url=http://shop.example{query}"), "").1;
    let first = &explain("/a")["conditions"][0].clone();
    assert_eq!((first["true"].as_bool(), first["decided_by"].as_str()), (Some(false), Some("path.startsWith(\"/b\")")));
    let answer = explain("/b");
    assert_eq!(answer["conditions"][0]["decided_by"], "headers.has(\"x-beta\")");
    assert_eq!((answer["route"]["number"].as_u64(), answer["route"]["pool"].as_str()), (Some(2), Some("app")));
    let answer = explain("/b&header=X-Beta:%201");
    assert_eq!((answer["route"]["number"].as_u64(), answer["route"]["pool"].as_str()), (Some(1), Some("beta")));
    assert_eq!(answer["conditions"][0]["true"], true);
}

#[test]
fn explain_tells_who_keeps_a_client_out_and_what_goes_past_the_cache() {
    let (app, beta) = (named("app"), named("beta"));
    let routes = "[[site.shop.route]]\npath = \"/staff/*\"\npool = \"app\"\nallow = [\"192.0.2.0/24\"]\n\
        [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\nwhen = 'method == \"GET\"'\n\
        cache = { mode = \"respect\", bypass = 'cookies.has(\"session\") || path == \"/live\"' }\n";
    let node = node(Protocol::H1, &app, &beta, routes);
    let admin = format!("http://{}", node.admin);
    let explain = |arguments: &[&str]| {
        let output = seawall(&[&["explain", "--admin", &admin], arguments].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    for (arguments, said) in [
        (
            &["http://shop.example/staff/a", "--client", "198.51.100.1"][..],
            "refused   by \"allow\" of route 1, which does not have the client's address\n",
        ),
        (&["http://shop.example/live"], "bypass    holds, by path == \"/live\": "),
        (&["http://shop.example/a"], "bypass    does not hold: "),
        (&["http://shop.example/a"], ", the route's \"when\")\n"),
    ] {
        let text = explain(arguments);
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    let path = "/v1/explain?url=http://shop.example/staff/a&client=198.51.100.1";
    let (_, answer) = node.admin("GET", path, "");
    assert_eq!(answer["refused_by"], serde_json::json!({ "list": "allow", "route": 1 }));
}

/// Behind a proxy that is trusted the client is whom that names; whoever is not trusted may name whom it likes.
#[test]
fn who_the_client_is_decides_everywhere_alike() {
    for protocol in Protocol::ALL {
        for (trusted, is_believed) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
            let origin = Origin::start(|request: &Request| {
                let chain = request.field("x-forwarded-for").unwrap_or_default().to_owned();
                Reply::ok(&["Cache-Control: max-age=600"], chain)
            });
            let routes = format!(
                "[[site.shop.route]]\npath = \"/*\"\nwhen = 'client.ip == \"203.0.113.9\"'\npool = \"app\"\n{CACHED}\
                 [[site.shop.route]]\npath = \"/*\"\nrespond = {{ body = \"another\" }}\n\
                 [node]\ntrusted_proxies = [\"{trusted}\"]\n"
            );
            let node = Node::speaking(protocol, &[origin.address], &routes);
            let named = &["X-Forwarded-For: 10.9.9.9, 203.0.113.9"][..];
            // From an origin, then from memory: the condition is asked each time.
            for _ in 0..2 {
                let body = if is_believed { "10.9.9.9, 203.0.113.9, 127.0.0.1" } else { "another" };
                assert_eq!(node.get_with("/a", named).text(), body);
                assert_eq!(node.get_with("/a", &["X-Forwarded-For: 203.0.113.9, 198.51.100.1"]).text(), "another");
                assert_eq!(node.get("/a").text(), "another");
            }
            let client = if is_believed { "203.0.113.9" } else { "127.0.0.1" };
            eventually("lines of it", || {
                let lines = node.stdout();
                (lines.matches(&format!("\"client\":\"{client}\"")).count() >= 2).then_some(())
            });
        }
    }
}

/// The ways to an answer, as rows of the matrix name them. A way that is new does not compile here until it has its row there.
#[allow(dead_code, reason = "it is for the compiler")]
fn way_of_plan(plan: &Plan<'_>) -> &'static str {
    match plan {
        Plan::Refuse { .. } => "refuse",
        Plan::Purge { .. } => "purge",
        Plan::Answer { .. } => "answer",
        Plan::Cache(_) => "cache",
        Plan::Pass(..) => "pass",
        Plan::Tunnel(_) => "tunnel",
    }
}

/// Those of what the cache gives.
#[allow(dead_code, reason = "it is for the compiler")]
fn way_of_source(source: &Source) -> &'static str {
    match source {
        Source::Stored(_) => "stored",
        Source::Part(_) => "part",
        Source::Stream(_) => "stream",
        Source::Private(_) => "private",
    }
}

const WAYS: [&str; 10] =
    ["refuse", "purge", "answer", "cache", "pass", "tunnel", "stored", "part", "stream", "private"];

/// A rule is heeded on every way to an answer: what a client gets who is admitted, one who is not is refused.
#[test]
fn who_is_not_admitted_is_so_on_every_way_to_an_answer() {
    for protocol in Protocol::ALL {
        for of_site in [true, false] {
            let directory = Arc::new(TempDir::new().unwrap());
            let origin = Origin::start(by_way);
            let denied = "deny = [\"203.0.113.66\", { file = \"blocked.txt\" }]\n";
            std::fs::write(directory.path().join("blocked.txt"), "# a remark\n2001:db8::/32  # all of it\n").unwrap();
            let (site_rule, route_rule) = if of_site { (denied, "") } else { ("", denied) };
            let route =
                |path: &str, rest: &str| format!("[[site.shop.route]]\npath = \"{path}\"\n{route_rule}{rest}\n");
            let routes = [
                route("/slices/*", "pool = \"app\"\ncache = { mode = \"respect\", slice = \"64KiB\" }"),
                route("/parts/*", "pool = \"app\"\ncache = { mode = \"respect\", fetch_ranges = true }"),
                route("/passed/*", "pool = \"app\""),
                route("/moved", "redirect = { to = \"/there\" }"),
                route("/fixed", "respond = { body = \"fixed\" }"),
                route("/*", "pool = \"app\"\ncache = { mode = \"respect\", stale_while_revalidate = \"1h\" }"),
            ]
            .concat();
            let sections = "[node]\nstate_dir = \"state\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n[cache.memory]\nmax_size = \"4MiB\"\n\
                max_object = \"64KiB\"\n[cache.disk]\npath = \"cache\"\nmax_size = \"64MiB\"\n";
            let config = crate::harness::node::site(&[origin.address], "", &routes)
                .replace("[site.shop]\n", &format!("[site.shop]\npurge_from = [\"198.51.100.0/24\"]\n{site_rule}"));
            let node = Node::speaking_in(protocol, directory, &format!("{sections}{config}"));
            let ask = |client: &str, method: &str, path: &str, fields: &[&str]| {
                node.request(method, path, &[&[&*format!("X-Forwarded-For: {client}")], fields].concat(), "")
            };
            let mut left = WAYS.to_vec();
            for (way, method, path, fields, status, mark) in [
                ("stored", "GET", "/hit", &[][..], 200, "hit"),
                ("stored", "HEAD", "/hit", &[], 200, "hit"),
                ("stored", "GET", "/hit", &["If-None-Match: \"e\""], 304, "hit"),
                ("stored", "GET", "/hit", &["Range: bytes=0-3"], 206, "hit"),
                ("stored", "GET", "/large", &[], 200, "detail=disk"),
                ("stored", "GET", "/stale", &[], 200, "stale-while-revalidate"),
                ("stored", "GET", "/slices/a", &[], 200, "hit"),
                ("part", "GET", "/parts/a", &["Range: bytes=0-3"], 206, "hit"),
                ("private", "GET", "/private", &[], 200, "detail=private"),
                ("stream", "GET", "/miss", &[], 200, "fwd=uri-miss"),
                ("cache", "GET", "/miss", &[], 200, "hit"),
                ("pass", "GET", "/passed/a", &[], 200, "fwd=bypass"),
                ("pass", "POST", "/passed/a", &[], 200, "fwd=bypass"),
                ("tunnel", "GET", "/passed/ws", &["Connection: Upgrade", "Upgrade: echo"], 101, "fwd=bypass"),
                ("answer", "GET", "/moved", &[], 308, ""),
                ("answer", "GET", "/fixed", &[], 200, ""),
                ("purge", "PURGE", "/none", &[], 200, ""),
                ("refuse", "GET", "/a/..%2fb", &[], 400, ""),
                ("pass", "GET", "/passed/down", &[], 502, "fwd=bypass"),
            ] {
                left.retain(|other| *other != way);
                let by_h2 = matches!(protocol, Protocol::H2);
                if by_h2 && status == 101 {
                    continue; // HTTP/2 has no Upgrade
                }
                // Who is not admitted does not get it from an origin either, before anybody has.
                let rule_holds = of_site || !matches!(way, "purge" | "refuse");
                let expected = if rule_holds { 403 } else { status };
                let refused = |client: &str| {
                    let answer = ask(client, method, path, fields);
                    assert_eq!(
                        answer.status,
                        if method == "PURGE" && !of_site { 403 } else { expected },
                        "{way} {path}"
                    );
                };
                refused("203.0.113.66");
                let mut answer = ask("198.51.100.7", method, path, fields);
                if mark == "hit" || mark.starts_with("detail=disk") || mark.starts_with("stale") {
                    answer = eventually(&format!("{way} {path}"), || {
                        let answer = ask("198.51.100.7", method, path, fields);
                        answer.cache().contains(mark).then_some(answer)
                    });
                }
                assert_eq!(answer.status, status, "{way} {path}: {}", answer.head);
                assert!(mark.is_empty() || answer.cache().contains(mark), "{way} {path}: {}", answer.cache());
                refused("2001:db8::1");
            }
            assert!(left.is_empty(), "{left:?} have no row");
        }
    }
}

/// Who is not admitted does not join the fill of somebody who is.
#[test]
fn who_is_not_admitted_follows_no_running_fill() {
    for protocol in Protocol::ALL {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |_: &Request| {
            let head = Reply::head(200, &["Cache-Control: max-age=60", "Content-Length: 8"]);
            vec![Step::Send([&head[..], b"half"].concat()), Step::Wait(held.clone()), Step::Send(b"half".to_vec())]
        });
        let routes = format!(
            "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ndeny = [\"203.0.113.66\"]\n{CACHED}\
             [node]\ntrusted_proxies = [\"127.0.0.0/8\"]\n"
        );
        let node = Node::speaking(protocol, &[origin.address], &routes);
        let ask = |client: &str| node.get_with("/a", &[&format!("X-Forwarded-For: {client}")]);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| ask("198.51.100.7"));
            origin.wait_for(1);
            assert_eq!(ask("203.0.113.66").status, 403);
            gate.open();
            assert_eq!(first.join().unwrap().text(), "halfhalf");
        });
        assert_eq!((origin.count(), ask("203.0.113.66").status), (1, 403));
    }
}

/// What the matrix above needs of an origin.
fn by_way(request: &Request) -> Vec<Step> {
    let etag = "ETag: \"e\"";
    let range = |body: &[u8]| {
        let (first, last) = request.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?.min(body.len() - 1));
        let content = format!("Content-Range: bytes {first}-{last}/{}", body.len());
        Some(Reply::status(206, &["Cache-Control: max-age=600", etag, &content], &body[first..=last]))
    };
    match request.path() {
        "/large" => Reply::ok(&["Cache-Control: max-age=600", etag], vec![b'x'; 300_000]),
        "/stale" => Reply::ok(&["Cache-Control: max-age=0, stale-while-revalidate=600", etag], "stale"),
        "/private" => Reply::ok(&["Cache-Control: private"], "private"),
        "/slices/a" | "/parts/a" => {
            let body = vec![b'x'; 100_000];
            range(&body).unwrap_or_else(|| Reply::ok(&["Cache-Control: max-age=600", etag], &body))
        }
        "/passed/ws" => vec![
            Step::Send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".to_vec()),
            Step::Close,
        ],
        "/passed/down" => vec![Step::Close],
        _ => Reply::ok(&["Cache-Control: max-age=600", etag], "body"),
    }
}

/// Fields are changed when an answer is sent, on every way to one, and nothing of it is stored.
#[test]
fn fields_of_answers_are_changed_as_they_are_sent() {
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request: &Request| match request.path() {
            "/down" => vec![Step::Close],
            _ => Reply::ok(
                &[
                    "Cache-Control: max-age=600",
                    "ETag: \"e\"",
                    "Server: origin/1",
                    "X-Powered-By: a",
                    "X-Frame-Options: ALLOW",
                    "X-Keep: 1",
                ],
                "0123456789",
            ),
        });
        let site = |frame: &str| {
            format!(
                "response = {{ set = {{ X-Frame-Options = \"{frame}\", X-Site = \"all\" }}, remove = [\"server\", \"X-Powered-*\"] }}\n"
            )
        };
        let routes = format!(
            "[[site.shop.route]]\npath = \"/made/*\"\npool = \"app\"\n{CACHED}\
             response = {{ set = {{ X-Site = \"route\" }}, add = {{ X-Made = \"{{host}} {{1}} {{header.X-In}}\" }} }}\n\
             [[site.shop.route]]\npath = \"/passed\"\npool = \"app\"\n\
             [[site.shop.route]]\npath = \"/fixed\"\nrespond = {{ body = \"fixed\" }}\n\
             [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{CACHED}"
        );
        let config = |frame: &str| {
            crate::harness::node::site(&[origin.address], "", &routes)
                .replace("[site.shop]\n", &format!("[site.shop]\n{}", site(frame)))
        };
        let node = Node::speaking_in(protocol, Arc::new(TempDir::new().unwrap()), &config("DENY"));
        for (path, fields, status) in [
            ("/hit", &[][..], 200),
            ("/hit", &[], 200),
            ("/hit", &["If-None-Match: \"e\""], 304),
            ("/hit", &["Range: bytes=2-4"], 206),
            ("/hit", &["Range: bytes=20-"], 416),
            ("/passed", &[], 200),
            ("/fixed", &[], 200),
            ("/a/..%2fb", &[], 400),
            ("/down", &[], 502),
            ("/hit", &["If-Match: \"other\""], 412),
        ] {
            let answer = node.get_with(path, fields);
            assert_eq!(answer.status, status, "{path} {fields:?}");
            let of = |name: &str| answer.fields(name);
            assert_eq!((of("x-frame-options"), of("x-site")), (vec!["DENY"], vec!["all"]), "{path} {status}");
            assert_eq!((of("server"), of("x-powered-by")), (vec![], vec![]), "{path} {status}");
            assert_eq!(
                of("x-keep").len(),
                usize::from([200, 206].contains(&status) && path != "/fixed"),
                "{path} {status}"
            );
        }
        // From an origin, then from memory; no value of a client ends the line.
        for value in ["one", "two"] {
            let answer = node.get_with("/made/x%0d%0aSet-Cookie:%20a", &[&format!("X-In: {value}")]);
            assert_eq!(answer.field("x-made"), Some(&*format!("shop.example x%0D%0ASet-Cookie:%20a {value}")));
            assert_eq!(
                (answer.fields("x-site"), answer.field("x-frame-options"), answer.field("set-cookie")),
                (vec!["route"], Some("DENY"), None)
            );
        }
        assert!(node.get("/hit").is_hit() && node.get("/made/x%0d%0aSet-Cookie:%20a").is_hit());
        // A reload changes what is sent of what is stored.
        let generation = node.generation();
        let listeners = std::fs::read_to_string(node.config_path()).unwrap();
        std::fs::write(node.config_path(), listeners.replace("DENY", "SAMEORIGIN")).unwrap();
        node.wait_for_generation(generation + 1);
        let answer = node.get("/hit");
        assert_eq!((answer.is_hit(), answer.fields("x-frame-options")), (true, vec!["SAMEORIGIN"]));
    }
}

/// Of paths that are spelt otherwise, or that some servers read otherwise, conditions are asked as routes' patterns are.
/// A year for what is there is not a year for what is not: neither of the origin's errors nor of the node's own.
#[test]
fn a_lifetime_that_is_set_is_none_of_errors() {
    let routes = "[[site.shop.route]]\npath = \"/private/*\"\npool = \"app\"\n\
                  response = { set = { Cache-Control = \"private, no-store\", Expires = \"0\" } }\n\
                  [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n\
                  response = { set = { Cache-Control = \"max-age=31536000\", X-Set = \"1\" } }\n";
    for protocol in Protocol::ALL {
        let origin = Origin::start(|request| match request.path() {
            "/gone" | "/private/gone" => Reply::status(404, &["Cache-Control: max-age=1"], "gone"),
            "/broken" => vec![Step::Close],
            _ => Reply::ok(&["Cache-Control: max-age=60"], "here"),
        });
        let node = Node::speaking(protocol, &[origin.address], routes);
        for (path, status, lifetime) in [
            ("/here", 200, "max-age=31536000"),
            ("/gone", 404, "max-age=1"),
            ("/broken", 502, "no-store"),
            ("/private/here", 200, "private, no-store"),
            ("/private/gone", 404, "private, no-store"),
        ] {
            for _ in 0..2 {
                let got = node.get_with(path, &[]);
                let said = (got.status, got.fields("cache-control"), got.field("x-set").is_some());
                assert_eq!(said, (status, vec![lifetime], !path.starts_with("/private")), "{path}");
            }
        }
    }
}

#[test]
fn conditions_on_paths_are_not_evaded_by_spelling() {
    for protocol in Protocol::ALL {
        let origin = named("app");
        let routes = format!(
            "[[site.shop.route]]\npath = \"/*\"\nwhen = 'path.startsWith(\"/private/\")'\nrespond = {{ status = 403 }}\n\
             [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{CACHED}"
        );
        let node = Node::speaking(protocol, &[origin.address], &routes);
        for path in ["/private/x", "//private/x", "/x/..//private/x", "//private//x"] {
            assert_eq!(node.get(path).status, 403, "{path}");
        }
        for path in ["/private%2fx", "//private%2Fx", "/private%5cx"] {
            assert_eq!(node.get(path).status, 400, "{path}");
        }
        assert_eq!((node.get("/a%2fb").status, origin.count()), (200, 1));
    }
}

/// Routes with one condition are as much apart as those with none, whatever letters a path is asked for with.
#[test]
fn routes_with_the_same_condition_do_not_take_each_others_keys() {
    let (app, beta) = (named("app"), named("beta"));
    let routes = "[[site.shop.route]]\npath = \"/abc\"\nwhen = 'cookie.g == \"1\"'\npool = \"app\"\ncache = { mode = \"respect\" }\n\
        [[site.shop.route]]\npath = \"/*\"\nwhen = 'cookie.g == \"1\"'\npool = \"beta\"\n\
        cache = { mode = \"respect\", key = { ignore_path_case = true } }\n";
    let node = node(Protocol::H1, &app, &beta, routes);
    for path in ["/abc", "/ABC", "/abc", "/ABC", "/Other", "/other"] {
        let expected = if path == "/abc" { "app" } else { "beta" };
        assert_eq!(node.get_with(path, &["Cookie: g=1"]).text(), expected, "{path}");
    }
    assert!(node.get_with("/OTHER", &["Cookie: g=1"]).is_hit());
}

/// What was stored under a condition is gone with it: nobody would have forgotten it when something changed.
#[test]
fn what_a_condition_stored_does_not_come_back_with_it() {
    let (app, beta) = (named("app"), named("beta"));
    let with = two_routes(r#"headers.has("x-beta")"#);
    let node = node(Protocol::H1, &app, &beta, &with);
    let reload = |from: &str, to: &str| {
        let generation = node.generation();
        let text = std::fs::read_to_string(node.config_path()).unwrap();
        std::fs::write(node.config_path(), text.replace(from, to)).unwrap();
        node.wait_for_generation(generation + 1);
    };
    for fields in [&["X-Beta: 1"][..], &[]] {
        node.get_with("/a", fields);
        assert!(node.get_with("/a", fields).is_hit());
    }
    reload("x-beta", "x-other");
    node.request("POST", "/a", &[], "");
    node.get("/a");
    reload("x-other", "x-beta");
    assert!(!node.get_with("/a", &["X-Beta: 1"]).is_hit());
    assert!(node.get("/a").is_hit(), "nothing else is gone");
}

/// A route's own word goes before that of its sets, of these the last one's before the others', then that of its site and of all.
#[test]
fn routes_have_what_is_written_once_for_many() {
    let (app, beta) = (named("app"), named("beta"));
    let text = format!(
        "[defaults.route]\npool = \"app\"\nresponse = {{ set = {{ X-By = \"all\" }} }}\n\
         [set.cached]\ncache = {{ mode = \"respect\" }}\nresponse = {{ set = {{ X-By = \"cached\" }} }}\n\
         [set.moved]\nredirect = {{ to = \"/new\" }}\n\
         [set.later]\nresponse = {{ set = {{ X-By = \"later\" }} }}\n\
         [pool.app]\norigins = [\"{}\"]\n[pool.beta]\norigins = [\"{}\"]\n\
         [site.other]\nhosts = [\"other.example\"]\ndefaults = {{ pool = \"beta\" }}\n\
         [[site.other.route]]\npath = \"/own\"\npool = \"app\"\n[[site.other.route]]\npath = \"/*\"\n\
         [site.shop]\nhosts = [\"*\"]\n\
         [[site.shop.route]]\npath = \"/plain\"\n\
         [[site.shop.route]]\npath = \"/cached\"\nuse = [\"cached\"]\n\
         [[site.shop.route]]\npath = \"/later\"\nuse = [\"cached\", \"later\"]\n\
         [[site.shop.route]]\npath = \"/own\"\nuse = [\"cached\", \"later\"]\nresponse = {{ set = {{ X-By = \"own\" }} }}\n\
         [[site.shop.route]]\npath = \"/moved\"\nuse = [\"cached\", \"moved\"]\n\
         [[site.shop.route]]\npath = \"/here\"\nuse = [\"moved\"]\nrespond = {{ body = \"here\" }}\n",
        app.address, beta.address
    );
    let node = Node::start(&text);
    for (path, by, is_cached) in
        [("/plain", "all", false), ("/cached", "cached", true), ("/later", "later", true), ("/own", "own", true)]
    {
        node.get(path);
        let answer = node.get(path);
        assert_eq!(
            (answer.text().as_str(), answer.field("x-by"), answer.is_hit()),
            ("app", Some(by), is_cached),
            "{path}"
        );
    }
    let moved = node.get("/moved");
    assert_eq!((moved.status, moved.field("location"), moved.field("x-by")), (308, Some("/new"), Some("cached")));
    assert_eq!(node.get("/here").text(), "here");
    assert_eq!(node.get_with("/a", &["Host: other.example"]).text(), "beta");
    assert_eq!(node.get_with("/own", &["Host: other.example"]).text(), "app");
}

/// A file of redirects: what it has leads elsewhere, everything else is for the routes behind it, in the cache and for purges.
#[test]
fn a_map_redirects_what_it_has() {
    for protocol in Protocol::ALL {
        let app = named("app");
        let directory = Arc::new(TempDir::new().unwrap());
        let many: String = (0..10_000).map(|number| format!("/old/{number} /new/{number}\n")).collect();
        let odd =
            "# moved in spring\n/a /b # why\n\n/query /c?x=1\n/away https://other.example/{header.x-in}\n/%C3%A4 /ae\n";
        std::fs::write(directory.path().join("moved.txt"), odd.to_owned() + &many).unwrap();
        let routes = format!(
            "[[site.shop.route]]\npath = \"/*\"\nredirect = {{ map = \"moved.txt\", status = 301 }}\n\
             [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n{CACHED}"
        );
        let config = crate::harness::node::site(&[app.address], "", &routes);
        let node = Node::speaking_in(protocol, directory, &config);
        for (path, to) in [
            ("/a", "/b"),
            ("//a?x=1", "/b?x=1"),
            ("/query?y=2", "/c?x=1"),
            ("/away", "https://other.example/%0D%0Ay"),
            ("/%c3%a4", "/ae"),
            ("/old/9999", "/new/9999"),
        ] {
            let answer = node.get_with(path, &["X-In: %0D%0Ay"]);
            let to = to.replace("%0D%0Ay", "%250D%250Ay");
            assert_eq!((answer.status, answer.field("location")), (301, Some(&*to)), "{path}");
        }
        for is_hit in [false, true] {
            let answer = node.get("/b");
            assert_eq!((answer.text().as_str(), answer.is_hit()), ("app", is_hit));
        }
        node.purge(r#"{"url": "http://shop.example/b"}"#);
        assert!(!node.get("/b").is_hit());
        let (_, explained) = node.admin("GET", "/v1/explain?url=http://shop.example/a", "");
        assert_eq!(explained["why"], "301 to /b");
        // A change of the file is a reload.
        let generation = node.generation();
        std::fs::write(node.config_path().with_file_name("moved.txt"), "/b /d\n").unwrap();
        node.wait_for_generation(generation + 1);
        assert_eq!((node.get("/a").status, node.get("/b").field("location")), (200, Some("/d")));
    }
}

/// A site that names its listeners is on no other, whatever is stored; conditions may ask for the listener, too.
#[test]
fn sites_are_bound_to_the_listeners_that_they_name() {
    let origin = named("app");
    let directory = Arc::new(TempDir::new().unwrap());
    let sections = "[[listen]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n[[listen]]\nname = \"internal\"\naddress = \"127.0.0.1:0\"\n\
        [admin]\naddress = \"127.0.0.1:0\"\n";
    let route = |more: &str| format!("path = \"/*\"\npool = \"app\"\n{more}{CACHED}");
    let config = format!(
        "{sections}[pool.app]\norigins = [\"{}\"]\n[site.inside]\nhosts = [\"inside.example\"]\nlisten = [\"internal\"]\n\
         [[site.inside.route]]\n{}[site.both]\nhosts = [\"both.example\"]\n[[site.both.route]]\n{}[[site.both.route]]\npath = \"/*\"\n\
         respond = {{ status = 404 }}\n",
        origin.address,
        route(""),
        route("when = 'listener == \"internal\"'\n"),
    );
    let node = Node::start_in(directory, &config);
    let addresses: Vec<_> = node
        .log()
        .iter()
        .filter_map(|line| line.split("INFO listening address=").nth(1)?.trim().parse().ok())
        .collect();
    let [public, internal] = addresses[..] else { panic!("{addresses:?}") };
    for _ in 0..2 {
        for (address, host, status) in [
            (internal, "inside.example", 200),
            (public, "inside.example", 421),
            (internal, "both.example", 200),
            (public, "both.example", 404),
        ] {
            let got = Client::connect(address).get("/a", &[&format!("Host: {host}")]);
            assert_eq!(got.status, status, "{host} at {address}");
        }
    }
}

/// A listener's name is the configuration's in force; one that waits for a restart keeps no site from being served.
#[test]
fn listeners_may_be_named_without_a_restart() {
    let origin = named("app");
    let config = |name: &str, address: &str, listen: &str| {
        format!(
            "[[listen]]\n{name}address = \"{address}\"\n[admin]\naddress = \"127.0.0.1:0\"\n[pool.app]\norigins = [\"{}\"]\n\
             [site.shop]\nhosts = [\"*\"]\n{listen}[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n",
            origin.address
        )
    };
    let node = Node::start(&config("", "127.0.0.1:0", ""));
    for (name, address, listen, status) in
        [("name = \"public\"\n", "127.0.0.1:0", "listen = [\"public\"]\n", 200), ("", "127.0.0.1:0", "", 200)]
    {
        let generation = node.generation();
        std::fs::write(node.config_path(), config(name, address, listen)).unwrap();
        node.wait_for_generation(generation + 1);
        assert_eq!(node.get("/a").status, status, "{name}{address}");
    }
}
