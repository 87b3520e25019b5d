//! The program as an operator meets it: commands, signals, logs.

use std::process::{Command, Output};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::node::{complete, site};
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Reply, Step, eventually};

const CACHED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

/// Runs a command that ends by itself.
pub fn seawall(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seawall")).args(arguments).output().unwrap()
}

fn hello() -> Origin {
    Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "hello"))
}

#[test]
fn stopping_lets_running_requests_end() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |request| match request.path() {
        "/slow" => {
            let mut steps = vec![Step::Wait(for_origin.clone())];
            steps.extend(Reply::ok(&[], "done"));
            steps
        }
        _ => Reply::ok(&["Cache-Control: max-age=60"], "x"),
    });
    let mut node = Node::caching(origin.address);
    let mut idle = node.client();
    assert_eq!(idle.get("/a", &[]).status, 200);
    let mut running = node.client();
    running.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(2);
    node.signal("TERM");
    assert!(idle.is_closed(), "idle connections are closed");
    eventually("no new connections", || std::net::TcpStream::connect(node.address()).is_err().then_some(()));
    assert_eq!(node.admin("GET", "/readyz", "").0, 503);
    assert_eq!(node.admin("GET", "/healthz", "").0, 200);
    gate.open();
    let response = running.response("GET");
    assert_eq!((response.status, response.text().as_str()), (200, "done"));
    assert_eq!(response.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
    assert!(node.wait());
}

#[test]
fn a_second_signal_ends_at_once_and_the_timeout_ends_it_too() {
    let origin = Origin::start(|_| vec![Step::Wait(Gate::default())]);
    for (timeout, second) in [("1h", true), ("100ms", false)] {
        let config = format!("[node]\ndrain_timeout = \"{timeout}\"\n{}", site(&[origin.address], "", CACHED));
        let mut node = Node::start(&config);
        let mut running = node.client();
        let before = origin.count();
        running.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        origin.wait_for(before + 1);
        node.signal("TERM");
        node.wait_for_log("stopping");
        assert!(node.is_running());
        if second {
            node.signal("TERM");
        }
        assert!(node.wait());
    }
}

#[test]
fn check_tells_every_mistake_with_its_place() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bad.toml");
    let expected = include_str!("golden/mistakes.txt");
    std::fs::write(&path, include_str!("golden/mistakes.toml")).unwrap();
    let output = seawall(&["check", path.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap().replace(path.to_str().unwrap(), "bad.toml");
    assert_eq!(text, expected, "\n--- got ---\n{text}");
    assert!(!output.status.success());
    let good = directory.path().join("good.toml");
    std::fs::write(&good, complete("")).unwrap();
    let output = seawall(&["check", good.to_str().unwrap()]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("good.toml: ok (0 sites, 0 pools)\n"));
    std::fs::write(&good, complete(&site(&["127.0.0.1:1".parse().unwrap()], "", CACHED))).unwrap();
    let output = seawall(&["check", good.to_str().unwrap()]);
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("good.toml: ok (1 site, 1 pool)\n"));
}

/// What nobody can have meant is pointed out, and does not keep the node from starting.
#[test]
fn routes_that_no_request_comes_to_are_pointed_out() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    let route = |path: &str, more: &str| format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\n{more}\n");
    for (routes, warned) in [
        (route("/*", "") + &route("/static/*", ""), true),
        (route("/static/*", "") + &route("/*", ""), false),
        (route("/*", "methods = [\"GET\"]") + &route("/a", ""), false),
        (route("/*", "methods = [\"GET\"]") + &route("/a", "methods = [\"HEAD\"]"), true),
        (route("/*", "when = 'port == 1'") + &route("/a", ""), false),
        (route("/a", "") + &route("/a", "when = 'port == 1'"), true),
        (route("/a/*", "") + &route("/*", ""), false),
    ] {
        let text = format!("[pool.app]\norigins = [\"127.0.0.1:1\"]\n[site.shop]\nhosts = [\"*\"]\n{routes}");
        std::fs::write(&path, complete(&text)).unwrap();
        let output = seawall(&["check", path.to_str().unwrap()]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains("ok (1 site, 1 pool)"), "{said}");
        assert_eq!(
            said.contains("warning: ") && said.contains("no request comes to [[site.shop.route]]"),
            warned,
            "{routes}{said}"
        );
    }
    let node = Node::with_routes(&[hello().address], &(route("/*", "") + &route("/static/*", "")));
    node.wait_for_log("no request comes to");
}

/// `/admin/*` does not match `/admin`, and so leaves it to whoever may come.
#[test]
fn what_a_list_of_addresses_leaves_open_is_pointed_out() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    let route = |path: &str, more: &str| format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\n{more}\n");
    let (deny, allow) = ("deny = [\"192.0.2.1\"]", "allow = [\"10.0.0.0/8\"]");
    for (routes, warned) in [
        (route("/admin/*", allow) + &route("/*", ""), true),
        (route("/admin/*", deny) + &route("/*", ""), true),
        (route("/admin/*", allow) + &route("/admin", allow) + &route("/*", ""), false),
        (route("/admin*", allow) + &route("/*", ""), false),
        (route("/admin/*", allow), false),
        (route("/admin/*", "") + &route("/*", ""), false),
    ] {
        let text = format!("[pool.app]\norigins = [\"127.0.0.1:1\"]\n[site.shop]\nhosts = [\"*\"]\n{routes}");
        std::fs::write(&path, complete(&text)).unwrap();
        let said = String::from_utf8(seawall(&["check", path.to_str().unwrap()]).stdout).unwrap();
        let message =
            "[[site.shop.route]] \"/admin/*\" does not cover \"/admin\": that is \"/*\"'s, which is open to others";
        assert_eq!(said.starts_with("warning: ") && said.contains(message), warned, "{routes}{said}");
    }
}

#[test]
fn certificates_that_clients_refuse_or_nobody_needs_are_pointed_out() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    let days = |days: i64| std::time::Duration::from_secs(days.unsigned_abs() * 86_400);
    let now = std::time::SystemTime::now();
    for (name, from, to, warned) in [
        ("shop.example", now - days(9), now + days(90), None),
        ("shop.example", now - days(90), now - days(2), Some("expired on")),
        ("shop.example", now + days(2), now + days(90), Some("is not valid before")),
        ("shop.example", now - days(90), now + days(3), Some("expires on")),
        (
            "blog.example",
            now - days(9),
            now + days(90),
            Some("no site has a host of the certificate in DIR/a.pem, such as blog.example"),
        ),
        ("*.example", now - days(9), now + days(90), None),
        ("*.shop.example", now - days(9), now + days(90), Some("no site has a host of the certificate")),
    ] {
        let mut made = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (made.not_before, made.not_after) = (from.into(), to.into());
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(directory.path().join("a.pem"), made.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(directory.path().join("a.key"), key.serialize_pem()).unwrap();
        let text = "[[certificate]]\ncert = \"a.pem\"\nkey = \"a.key\"\n[pool.app]\norigins = [\"127.0.0.1:1\"]\n\
                    [site.shop]\nhosts = [\"shop.example\"]\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
        std::fs::write(&path, complete(text)).unwrap();
        let output = seawall(&["check", path.to_str().unwrap()]);
        let said = String::from_utf8(output.stdout).unwrap().replace(directory.path().to_str().unwrap(), "DIR");
        assert!(output.status.success(), "{said}");
        match warned {
            Some(part) => assert!(said.matches("warning: ").count() == 1 && said.contains(part), "{part}: {said}"),
            None => assert!(!said.contains("warning: "), "{said}"),
        }
    }
    let node = Node::spawn(directory.into(), &["run", "--config", path.to_str().unwrap()]);
    node.wait_for_log("no site has a host of the certificate");
    let metric =
        format!("seawall_certificate_not_after_seconds{{file=\"{}\"}}", path.with_file_name("a.pem").display());
    assert!(node.metric(&metric).is_some_and(|seconds| seconds > 1e9));
}

#[test]
fn what_origins_are_told_and_no_key_has_is_pointed_out() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    let cached = |key: &str| format!("cache = {{ mode = \"respect\", key = {{ {key} }} }}");
    for (value, cache, warned) in [
        ("{client.ip}", cached(""), true),
        ("{method}", cached(""), true),
        ("{header.x-a}", cached(""), true),
        // By a pattern their order does not count, and here it would.
        ("{header.x-a}", cached("headers = [\"x-a*\"]"), true),
        ("{header.x-a}", cached("headers = [\"x-a\"]"), false),
        ("{cookie.a}", cached("cookies = [\"a*\"]"), true),
        ("{header.host}", cached(""), true),
        ("{cookie.a}", cached("cookies = [\"b\"]"), true),
        ("{cookie.a}", cached("cookies = [\"a\"]"), false),
        ("{host}{path}{1}{query.a}{scheme}", cached(""), false),
        ("fixed", cached(""), false),
        ("{client.ip}", String::new(), false),
    ] {
        let text = format!(
            "[pool.app]\norigins = [\"127.0.0.1:1\"]\n[site.shop]\nhosts = [\"*\"]\n[[site.shop.route]]\npath = \"/*\"\n\
             pool = \"app\"\nrequest = {{ set = {{ X-Told = \"{value}\" }} }}\n{cache}\n"
        );
        std::fs::write(&path, complete(&text)).unwrap();
        let output = seawall(&["check", path.to_str().unwrap()]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        let warning = "in \"request\" of [[site.shop.route]] is no part of the key";
        assert_eq!(said.contains("warning: ") && said.contains(warning), warned, "{value} {cache}: {said}");
    }
}

/// What only follows from a mistake is not told beside it.
#[test]
fn each_mistake_is_told_once_and_says_what_to_write() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("bad.toml");
    let made = rcgen::generate_simple_self_signed(vec!["shop.example.com".into()]).unwrap();
    std::fs::write(directory.path().join("bad-map.txt"), "/a /b\n/c\n").unwrap();
    std::fs::write(directory.path().join("good.pem"), made.cert.pem()).unwrap();
    const TLS: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[[certificate]]\n";
    const POOL: &str = "[pool.app]\norigins = [\"127.0.0.1:1\"]\n";
    const SITE: &str = "[site.shop]\nhosts = [\"*\"]\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    for (text, expected) in [
        // A table where something else is written.
        (
            format!("{POOL}{SITE}cache = \"respect\"\n"),
            &[
                "bad.toml:8:9: wrong value for \"cache\" in [[site.shop.route]]: expected a table, found a string",
                "= hint: write cache = { mode = \"respect\" }",
            ][..],
        ),
        (
            format!("{POOL}{SITE}cache = {{ mode = \"respect\", key = true, negative_ttl = \"1s\" }}\n"),
            &[
                "bad.toml:8:35: wrong value for \"key\" in cache of [[site.shop.route]]: expected a table, found a boolean",
                "= hint: write key = { drop_query = [\"utm_*\"] }",
                "bad.toml:8:56: wrong value for \"negative_ttl\" in cache of [[site.shop.route]]: expected a table, found a string",
                "= hint: write negative_ttl = { 404 = \"30s\" }",
            ],
        ),
        // Conditions and answers of routes.
        (
            format!("{POOL}{SITE}when = 'cookie.a = \"b\"'\n"),
            &[
                "bad.toml:8:18: \"when\" in [[site.shop.route]]: expected an operator such as && or the end, found \"=\"",
                "= hint: to compare, write ==",
            ],
        ),
        (
            format!("{POOL}{SITE}cache = {{ mode = \"respect\", bypass = 'cookies.session' }}\n"),
            &[
                "bad.toml:8:39: \"bypass\" in cache of [[site.shop.route]]: expected a condition, found a string",
                "= hint: whether it is there: cookies.has(\"session\")",
            ],
        ),
        (
            format!("[[listen]]\naddress = \"127.0.0.1:1\"\nmode = \"0660\"\n[[listen]]\naddress = \"unix:http.sock\"\n[[listen]]\naddress = \"unix:/run/a\"\nmode = \"rw-rw-rw-\"\n{POOL}{SITE}"),
            &[
                "bad.toml:3:8: \"mode\" has no effect on an IP address",
                "= hint: it is for Unix sockets, such as address = \"unix:/run/seawall/http.sock\"",
                "bad.toml:5:11: wrong value for \"address\" in [[listen]]: \"unix:http.sock\" must name a file by its absolute path, such as \"unix:/run/seawall/http.sock\"",
                "bad.toml:8:8: wrong value for \"mode\" in [[listen]]: \"rw-rw-rw-\" is no permissions such as \"0660\"",
            ],
        ),
        (
            format!("[[listen]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = true\n[[listen]]\naddress = \"unix:/run/a\"\nmode = \"0000\"\ngroup = \"www-data\"\n{POOL}{SITE}"),
            &[
                "bad.toml:3:1: unknown key \"proxy_protocol\" in [[listen]]",
                "= hint: it is called \"proxy_from\" here",
                "bad.toml:6:8: wrong value for \"mode\" in [[listen]]: \"0000\" lets nobody connect: who connects has to be able to write, as \"0660\" says",
                "bad.toml:7:1: unknown key \"group\" in [[listen]]",
                "= hint: a socket has the group of its directory, if that has the setgid bit: chgrp it, and chmod g+s",
            ],
        ),
        (
            format!("[pool.app]\nservers = [\"127.0.0.1:1\"]\norigins = [\"127.0.0.1:1\"]\nmax_fills = 5\n{}", SITE.replace("[[site", "max_compressions = 5\nmaxconn = 5\n[[site")),
            &[
                "bad.toml:2:1: unknown key \"servers\" in [pool.app]",
                "= hint: it is called \"origins\" here",
                "bad.toml:4:1: unknown key \"max_fills\" in [pool.app]",
                "= hint: \"max_fills\" belongs in [limits]",
                "bad.toml:7:1: unknown key \"max_compressions\" in [site.shop]",
                "= hint: \"max_compressions\" belongs in [limits]",
                "bad.toml:8:1: unknown key \"maxconn\" in [site.shop]",
                "= hint: it is called \"max_requests\" here",
            ],
        ),
        (
            format!("{POOL}{SITE}cache = {{ mode = \"respect\", compress = [\"br\"], compress_types = [\"json\", \"text/html; charset=utf-8\"] }}\n"),
            &[
                "bad.toml:8:66: \"json\" in \"compress_types\" is no media type",
                "= hint: write a type and a subtype: \"application/json\", \"text/*\"",
                "bad.toml:8:74: \"text/html; charset=utf-8\" in \"compress_types\" is no media type",
                "= hint: parameters are not looked at: write \"text/html\"",
            ],
        ),
        (
            format!("[[listen]]\naddress = \"unix:/run/a\"\n[[listen]]\naddress = \"unix:/run/a\"\n{POOL}{SITE}"),
            &["bad.toml:4:11: unix:/run/a is listened on twice", "= hint: first given at bad.toml:2:11"],
        ),
        (
            format!("[cache.memory]\nmax_size = \"8MiB\"\n{POOL}{}", SITE.replace("[[site", "memory = \"8MiB\"\nmax_requests = 0\n[[site")),
            &[
                "bad.toml:7:10: \"memory\" of sites is 8MiB in all, and max_size in [cache.memory] is 8MiB",
                "= hint: max_size is for all sites together: make it larger, and leave some for sites without \"memory\"",
                "bad.toml:8:16: max_requests in [site.shop] must be more than zero",
            ],
        ),
        (
            format!("{POOL}{}", SITE.replace("[[site", "memory = \"64KiB\"\n[[site")),
            &["bad.toml:5:10: \"memory\" in [site.shop] must be at least 1MiB"],
        ),
        (
            format!("{POOL}{SITE}cache = {{ mode = \"off\", compress = [\"br\"], compress_passed = [\"br\"] }}\n"),
            &[
                "bad.toml:8:36: \"compress\" has no effect in this mode",
                "= hint: for what is not stored: compress_passed = [...] in the route",
                "bad.toml:8:62: \"compress_passed\" in cache of [[site.shop.route]] belongs in the route: it is of what is not cached",
            ],
        ),
        (
            format!("{POOL}{SITE}compress_passed = [\"br\", \"br\", \"deflate\"]\ncompress_types = [\"text/*\"]\n"),
            &[
                "bad.toml:8:26: \"br\" is given twice",
                "bad.toml:8:32: wrong value in \"compress_passed\" in [[site.shop.route]]: unknown \"deflate\", expected one of \"zstd\", \"br\", \"gzip\"",
                "bad.toml:9:18: \"compress_types\" in [[site.shop.route]] belongs in its \"cache\"",
                "= hint: write cache = { mode = \"respect\", compress_types = ... }",
            ],
        ),
        (
            format!("{POOL}{}", SITE.replace("/*", "/%c3%a5//b/../c")),
            &[
                "bad.toml:6:8: path \"/%c3%a5//b/../c\" matches nothing: paths are compared in another form; write \"/%C3%A5/c\"",
            ],
        ),
        (
            format!("[[listen]]\nname = \"public\"\naddress = \"127.0.0.1:1\"\n{POOL}{SITE}when = '!(listener in [\"publik\", \"public\", \"\"])'\n"),
            &["bad.toml:11:24: there is no listener \"publik\"", "= hint: did you mean \"public\"?"],
        ),
        (
            format!("{POOL}{SITE}when = 'client.country == \"DE\"'\n"),
            &[
                "bad.toml:8:8: the countries of clients are not known",
                "= hint: add country_file = \"/var/lib/GeoIP/GeoLite2-Country.mmdb\" to [node]",
            ],
        ),
        (
            format!("[node]\nasn_file = \"bad-map.txt\"\n{POOL}{SITE}deny = [{{ country = [\"de\"] }}, {{ asn = [1] }}, {{ asn = [], country = [\"UK\"] }}]\n"),
            &[
                "bad.toml:2:12: bad-map.txt: it is no sound file of the MaxMind DB format: invalid database: could not find MaxMind DB metadata in file",
                "bad.toml:10:22: \"de\" is not a country: it is two letters in upper case, such as \"DE\"",
                "bad.toml:10:22: the countries of clients are not known",
                "= hint: add country_file = \"/var/lib/GeoIP/GeoLite2-Country.mmdb\" to [node]",
                "bad.toml:10:46: an entry in \"deny\" of [[site.shop.route]] must have one of \"file\", \"country\" and \"asn\"",
                "= hint: write an entry for each: [{ country = [\"DE\"] }, { asn = [64496] }]",
                "bad.toml:10:46: an entry in \"deny\" of [[site.shop.route]] names nobody",
                "bad.toml:10:69: \"UK\" is not a country: the United Kingdom is \"GB\"",
                "bad.toml:10:69: the countries of clients are not known",
                "= hint: add country_file = \"/var/lib/GeoIP/GeoLite2-Country.mmdb\" to [node]",
            ],
        ),
        (
            format!("{POOL}{SITE}when = 'host == \"Shop.Example\"'\n"),
            &[
                "bad.toml:8:17: \"when\" in [[site.shop.route]]: nothing is ever equal to this",
                "= hint: a host is in lower case here, and without its port",
            ],
        ),
        (
            format!("{POOL}{SITE}cache = {{ mode = \"off\", bypass = 'true' }}\n"),
            &["bad.toml:8:34: \"bypass\" has no effect in this mode", "= hint: use mode = \"respect\""],
        ),
        (
            "[site.a]\nhosts = [\"*\"]\n[[site.a.route]]\npath = \"/*\"\nrespond = { body = \"x\", fields = { Cache-Status = \"a; hit\" } }\n".into(),
            &["bad.toml:5:36: cache-status is the node's to say"],
        ),
        (
            "[site.a]\nhosts = [\"*\"]\n[[site.a.route]]\npath = \"/*\"\nrespond = \"ok\"\n".into(),
            &["bad.toml:5:11: wrong value for \"respond\" in [[site.a.route]]: expected a table, found a string", "= hint: write respond = { status = 200, body = \"ok\" }"],
        ),
        (
            "[site.a]\nhosts = [\"*\"]\n[[site.a.route]]\npath = \"/*\"\nrespond = { status = 204, body = \"x\" }\n".into(),
            &["bad.toml:5:34: an answer with status 204 has no body, in respond of [[site.a.route]]"],
        ),
        (
            format!("{POOL}{SITE}cache = {{ mode = \"respect\", no_store = 'cookies.has(\"a\")', rules = [{{ ttl = \"1s\" }}] }}\n"),
            &[
                "bad.toml:8:41: \"no_store\" in cache of [[site.shop.route]]: only the response is known here, which all requests get",
                "= hint: by the request: \"bypass\", or \"when\" of a route; of the response: status, response.header.NAME",
                "bad.toml:8:69: missing key \"when\" in a rule in cache of [[site.shop.route]]",
                "= hint: add when = 'status == 404'",
            ],
        ),
        (
            format!("{POOL}{SITE}ignore_client_cache_control = true\n"),
            &["bad.toml:8:31: \"ignore_client_cache_control\" has no effect on a route without mode = \"respect\""],
        ),
        (
            format!("{POOL}{SITE}cors = {{ origins = [\"*\", \"a.example\"], credentials = true, methods = [\"G T\"] }}\n"),
            &[
                "bad.toml:8:26: \"a.example\" is not an origin such as \"https://app.example.com\" or \"https://*.example.com\"",
                "bad.toml:8:54: browsers do not send credentials where every origin is allowed: name the origins",
                "bad.toml:8:71: \"G T\" is not the name of a method or a header field",
            ],
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls_versions = [\"1.3\"]\n[[listen]]\naddress = \"127.0.0.1:2\"\ntls = true\n\
             tls_versions = [\"1.2\"]\ntls_ciphers = [\"TLS_AES_256_GCM_SHA384\", \"RC4\"]\n"
                .into(),
            &[
                "bad.toml:3:16: \"tls_versions\" has no effect without TLS",
                "= hint: add tls = true",
                "bad.toml:5:11: this listener has tls = true, but there is no certificate",
                "= hint: add [[certificate]] with cert and key",
                "bad.toml:8:42: \"RC4\" is no cipher suite that is served",
                "= hint: there are TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            ],
        ),
        (
            format!("{POOL}{SITE}allow = [\"10.0.0.0/8\"]\ndeny = [\"0.0.0.0/0\"]\ncache = {{ mode = \"off\", slice = \"1MiB\" }}\n"),
            &[
                "bad.toml:9:8: nobody is admitted: \"deny\" has all whom \"allow\" has, and goes first, in [[site.shop.route]]",
                "= hint: leave \"deny\" out: who is not in \"allow\" is refused anyway",
                "bad.toml:10:33: \"slice\" has no effect in this mode",
                "= hint: use mode = \"respect\"",
            ],
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:1\"\ntls = true\ntls_ciphers = [\"ECDHE-RSA-AES128-GCM-SHA256\", \"ECDHE-ECDSA-CHACHA20-POLY1305\"]\n"
                .into(),
            &[
                "bad.toml:2:11: this listener has tls = true, but there is no certificate",
                "= hint: add [[certificate]] with cert and key",
                "bad.toml:4:16: \"ECDHE-RSA-AES128-GCM-SHA256\" is no cipher suite that is served",
                "= hint: that is what OpenSSL calls it: write \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"",
                "bad.toml:4:47: \"ECDHE-ECDSA-CHACHA20-POLY1305\" is no cipher suite that is served",
                "= hint: that is what OpenSSL calls it: write \"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256\"",
            ],
        ),
        (
            format!(
                "{POOL}{SITE}cache = {{ mode = \"respect\", key = {{ cookies = [\"^sid$\"] }} }}\n[[site.shop.route]]\npath = \"/(a|b)/*\"\n\
                 redirect = {{ to = \"/b/(.*)\" }}\n[[site.shop.route]]\npath = \"/c\"\nrespond = {{ status = 444 }}\n"
            ),
            &[
                "bad.toml:8:48: \"^sid$\" is no regular expression here: a name is written whole, and a \"*\" stands for any characters",
                "bad.toml:10:8: path \"/(a|b)/*\" looks like a regular expression: a * stands for any characters, as in \"/old/*\"; by a regular expression: when = 'path.matches(\"...\")'",
                "bad.toml:11:19: \"to\" in redirect of [[site.shop.route]]: a regular expression means nothing here; what the first star of the path stood for is {1}",
                "bad.toml:14:22: status in respond of [[site.shop.route]] must be from 200 to 599, and not 205 or 304, which have no body; nor 444, by which nginx answers nothing",
            ],
        ),
        (
            "[[pool.app]]\norigins = [\"127.0.0.1:1\"]\n".into(),
            &["bad.toml:1:8: \"app\" stands in [pool], which has no name", "= hint: write [pool.app], in single brackets"],
        ),
        (
            format!("{POOL}{SITE}return = 301\ncache = {{ mode = \"respect\", rules = {{ when = 'status == 404', ttl = \"1m\" }} }}\n"),
            &[
                "bad.toml:8:1: unknown key \"return\" in [[site.shop.route]]",
                "= hint: write redirect = { to = \"...\" }, or respond = { status = 200, body = \"...\" }",
                "bad.toml:9:37: wrong value for \"rules\" in cache of [[site.shop.route]]: expected a list of tables, found a table",
                "= hint: write rules = [{ ... }]",
            ],
        ),
        (
            "[site.a]\nhosts = [\"a.example\"]\ncanonical_host = \"b.example\"\n[[site.a.route]]\npath = \"~ /old/(.*)\"\nredirect = { to = \"https://$host/\" }\n".into(),
            &[
                "bad.toml:3:18: canonical_host \"b.example\" is none of the site's hosts: whoever is sent there would not be served",
                "bad.toml:5:8: path \"~ /old/(.*)\" looks like a regular expression: a * stands for any characters, as in \"/old/*\"; by a regular expression: when = 'path.matches(\"...\")'",
                "bad.toml:6:19: \"to\" in redirect of [[site.a.route]]: $host is a variable of nginx; write {host}",
            ],
        ),
        (
            "[[listen]]\nname = \"public\"\naddress = \"127.0.0.1:1\"\n[site.a]\nhosts = [\"*\"]\nlisten = [\"publik\"]\n[[site.a.route]]\n\
             path = \"/*\"\nrespond = { body = \"x\" }\n"
                .into(),
            &["bad.toml:6:11: there is no listener \"publik\"", "= hint: did you mean \"public\"?"],
        ),
        (
            format!("{POOL}{SITE}bypass = 'true'\ncache = {{ key = {{ }} }}\nallow = [\"office.txt\"]\n"),
            &[
                "bad.toml:8:10: \"bypass\" in [[site.shop.route]] belongs in its \"cache\"",
                "= hint: write cache = { mode = \"respect\", bypass = ... }",
                "bad.toml:9:9: missing key \"mode\" in cache of [[site.shop.route]]",
                "= hint: add mode = \"respect\" (the origin's headers decide), \"force\" (with ttl) or \"off\"",
                "bad.toml:10:10: \"office.txt\" is not an address range such as \"10.0.0.0/8\" or \"::1\"",
                "= hint: a file of ranges is written { file = \"office.txt\" }",
            ],
        ),
        (
            format!(
                "{POOL}[site.shop]\nhosts = [\"a.example\"]\nhsts = {{ max_age = \"1d\" }}\ncanonical_host = \"A.example:80\"\nlisten = []\n\
                 [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n\
                 response = {{ set = {{ Strict-Transport-Security = \"x\", Access-Control-Max-Age = \"1\" }} }}\n\
                 cors = {{ origins = [\"https://a.example:443\"], methods = [\"get\"], headers = [\"*\"], credentials = true }}\n"
            ),
            &[
                                "bad.toml:6:18: canonical_host \"A.example:80\" has a port: it is the host's name alone",
                "bad.toml:7:10: \"listen\" in [site.shop] is empty: it would be served nowhere",
                "bad.toml:8:1: \"response\" of [[site.shop.route]] has Strict-Transport-Security, which \"hsts\" of the site says",
                "= hint: leave one of them out",
                "bad.toml:8:1: \"response\" of [[site.shop.route]] has Access-Control-*, which its \"cors\" says",
                "= hint: leave one of them out",
                "bad.toml:12:21: \"https://a.example:443\": browsers leave the usual port out: write \"https://a.example\"",
                "bad.toml:12:58: \"get\": methods are in capitals",
                "bad.toml:12:77: with credentials browsers take \"*\" in \"headers\" for a name: name them",
            ],
        ),
        // A file of redirects.
        (
            "[site.a]\nhosts = [\"*\"]\n[[site.a.route]]\npath = \"/*\"\nredirect = { map = \"bad-map.txt\", to = \"/a\" }\n".into(),
            &[
                "bad.toml:5:20: \"to\" and \"map\" in redirect of [[site.a.route]]: give one of them",
                "bad.toml:5:20: bad-map.txt:2: expected two words, a path and where it leads, not 1",
            ],
        ),
        // What routes inherit.
        (
            format!(
                "[defaults.route]\npath = \"/a\"\nmax_bdy = \"1MB\"\n[set.static]\ncache = {{ mode = \"nothing\" }}\n{POOL}{SITE}use = [\"static\", \"statik\"]\n\
                 [[site.shop.route]]\npath = \"/b\"\npool = \"app\"\nuse = [\"static\"]\n"
            ),
            &[
                "bad.toml:2:8: \"path\" in [defaults.route] belongs in a route",
                "bad.toml:3:1: unknown key \"max_bdy\" in [defaults.route]",
                "= hint: did you mean \"max_body\"?",
                "bad.toml:5:18: wrong value for \"mode\" in cache of [[site.shop.route]]: unknown \"nothing\", expected one of \"off\", \"respect\", \"force\"",
                "bad.toml:13:18: there is no set \"statik\"",
                "= hint: did you mean \"static\"?",
            ],
        ),
        // Rewrites, and what no key tells apart.
        (
            format!("{POOL}{SITE}rewrite = {{ to = \"http://a/{{1}}\", match = '(', host = \"a b\", what = 1 }}\n"),
            &[
                "bad.toml:8:42: \"match\" in rewrite of [[site.shop.route]]: this is not a regular expression: unclosed group",
                "bad.toml:8:54: \"a b\" is not a host such as \"app.internal\", perhaps with a port",
                "bad.toml:8:61: unknown key \"what\" in rewrite of [[site.shop.route]]",
                "= hint: known keys: drop_query, host, location, match, query, set_query, to",
            ],
        ),
        (
            format!("{POOL}{SITE}rewrite = {{ to = \"http://a/{{1}}\" }}\n"),
            &["bad.toml:8:18: \"to\" in rewrite of [[site.shop.route]]: it must begin with / or {path}"],
        ),
        (
            format!("{POOL}{SITE}rewrite = {{ to = \"/a#{{1}}\" }}\n"),
            &["bad.toml:8:18: \"to\" in rewrite of [[site.shop.route]]: no origin is asked for what follows a #; one of a path is written %23"],
        ),
        (
            format!("{POOL}{SITE}rewrite = {{ to = \"/{{2}}\", match = '/(a)' }}\n"),
            &["bad.toml:8:18: \"to\" in rewrite of [[site.shop.route]]: {2} stands for nothing: the last is {1}"],
        ),
        (
            format!("{POOL}{SITE}rewrite = {{ match = 'a', query = \"keep\", set_query = {{ \"a b\" = \"1\", c = \"1&d=2\" }} }}\n"),
            &[
                "bad.toml:8:21: \"match\" in rewrite of [[site.shop.route]] has no effect without \"to\"",
                "bad.toml:8:34: \"query\" in rewrite of [[site.shop.route]] has no effect without \"to\"",
                "bad.toml:8:56: \"a b\" is not the name of a parameter",
                "bad.toml:8:73: an & in a value is written %26",
            ],
        ),
        (
            format!(
                "{POOL}{SITE}rewrite = {{ to = \"/{{header.x-lang}}/{{1}}\" }}\ncache = {{ mode = \"respect\", key = {{ ignore_path_case = true }} }}\n"
            ),
            &[
                "bad.toml:5:1: {header.x-lang} in \"rewrite\" of [[site.shop.route]] is no part of the key: one visitor would get another's page",
                "= hint: add key = { headers = [\"x-lang\"] } to \"cache\"",
            ],
        ),
        (
            format!(
                "{POOL}{SITE}rewrite = {{ to = \"/b\", match = '/A' }}\ncache = {{ mode = \"respect\", key = {{ ignore_path_case = true }} }}\n"
            ),
            &[
                "bad.toml:5:1: \"rewrite\" of [[site.shop.route]] depends on the case of letters that \"ignore_path_case\" ignores",
                "= hint: use a path with one *, and {1} in \"to\"",
            ],
        ),
        (
            format!("{POOL}{SITE}request = {{ set = {{ Host = \"a\" }}, remove = [\"if-*\"] }}\n"),
            &[
                "bad.toml:8:21: host is set by rewrite = { host = \"...\" }",
                "bad.toml:8:45: \"if-*\" would remove if-match, which is the node's to say",
            ],
        ),
        (
            format!("{POOL}{SITE}redirect = {{ to = \"/a\" }}\ncache = {{ mode = \"respect\" }}\n"),
            &[
                "bad.toml:8:12: \"pool\" and \"redirect\" in [[site.shop.route]]: give one of them",
                "bad.toml:9:9: \"cache\" has no effect on a route that answers by itself",
            ],
        ),
        (
            "[site.a]\nhosts = [\"*\"]\n[[site.a.route]]\npath = \"/a\"\nredirect = { to = \"{query.to}\", status = 200 }\n".into(),
            &[
                "bad.toml:5:19: \"to\" in redirect of [[site.a.route]]: it must begin with /, {path}, or a host as in https://www.example.com/",
                "bad.toml:5:42: status in redirect of [[site.a.route]] must be 301, 302, 303, 307 or 308",
            ],
        ),
        (
            "[site.a]\nhosts = [\"*\"]\n[[site.a.route]]\npath = \"/a\"\nrespond = { file = \"none.html\", fields = { Content-Length = \"1\" } }\n".into(),
            &[
                "bad.toml:5:20: none.html: cannot be read: No such file or directory (os error 2)",
                "bad.toml:5:44: content-length is the node's to say",
            ],
        ),
        (
            "[site.a]\nhosts = [\"*\"]\n[[site.a.route]]\npath = \"/a\"\n".into(),
            &["bad.toml:3:1: missing key \"pool\" in [[site.a.route]]"],
        ),
        (
            format!("[log]\nlevel = \"warning\"\n{POOL}{SITE}cache = {{ mode = \"respect\", ttl = \"1h\" }}\n"),
            &[
                "bad.toml:2:9: wrong value for \"level\" in [log]: unknown level \"warning\", did you mean \"warn\"? expected one of off, error, warn, info, debug, trace, or as \"seawall=debug\"",
                "bad.toml:10:35: \"ttl\" has no effect in this mode",
                "= hint: for responses that state no lifetime: default_ttl; for all, private and no-store included: mode = \"force\"",
            ],
        ),
        (
            format!("node = 1\n{POOL}health = \"/healthz\"\n"),
            &[
                "bad.toml:1:8: wrong value for \"node\" in the configuration: expected a table, found an integer",
                "= hint: write [node]",
                "bad.toml:4:10: wrong value for \"health\" in [pool.app]: expected a table, found a string",
                "= hint: write health = { path = \"/healthz\" }",
            ],
        ),
        (
            "[pool]\norigins = [\"127.0.0.1:1\"]\n".to_owned(),
            &[
                "bad.toml:2:1: \"origins\" stands in [pool], which has no name",
                "= hint: write [pool.NAME], with a name of your choice",
            ],
        ),
        (
            format!("[[listen]]\naddress = \"unix:/run/a\"\nmode = 0660\n{POOL}{SITE}"),
            &["bad.toml:3:8: a number begins with no zero; permissions and times are written in quotes: \"0660\", \"08:30\""],
        ),
        // What others write.
        (
            format!("{POOL}{}", SITE.replace("path = \"/*\"", "path = \"/api/{id}\"\ngzip = true\nheaders = { X-A = \"1\" }\npaths = []").replace("[\"*\"]", "[\"_\"]\nmax_connections = 5\nmemory = \"16m\"\nlocation = 1")),
            &[
                "bad.toml:4:10: \"_\" is no host: for all that no other site has, write \"*\"",
                "bad.toml:5:1: unknown key \"max_connections\" in [site.shop]",
                "= hint: that is for the whole node, in [limits]; for one site there is max_requests",
                "bad.toml:6:10: wrong value for \"memory\" in [site.shop]: unknown unit \"m\"; write \"16MiB\"",
                "bad.toml:7:1: unknown key \"location\" in [site.shop]",
                "= hint: write [[site.NAME.route]] with path and pool for each",
                "bad.toml:9:8: path \"/api/{id}\" has a brace in it; a \"*\" stands for any number of characters",
                "bad.toml:10:1: unknown key \"gzip\" in [[site.shop.route]]",
                "= hint: write compress = [\"br\", \"gzip\"] in \"cache\", for what is stored, and compress_passed = [\"br\", \"gzip\"] here, for what is not",
                "bad.toml:11:1: unknown key \"headers\" in [[site.shop.route]]",
                "= hint: write response = { set = { X-Name = \"value\" } } for what clients get, request = { ... } for what origins get",
                "bad.toml:12:1: unknown key \"paths\" in [[site.shop.route]]",
                "= hint: a route has one path; what several have in common is written once in defaults, or in a set (use)",
            ],
        ),
        (
            format!("[pool.app]\norigins = [\"https://127.0.0.1:3000/app/\"]\nverify = false\nread_timeout = \"1 h\"\n{SITE}when = '$http_x == \"1\"'\n"),
            &[
                "bad.toml:2:12: origin \"https://127.0.0.1:3000/app/\" is a URL, expected HOST:PORT",
                "= hint: write \"127.0.0.1:3000\", and tls = true in the pool for https; the path goes into the route: rewrite = { to = \"/app/{1}\" }",
                "bad.toml:3:10: this has no effect without TLS",
                "= hint: add tls = true to the pool",
                "bad.toml:4:16: wrong value for \"read_timeout\" in [pool.app]: \"1 h\" has a space before its unit; expected a duration such as \"250ms\", \"30s\", \"5m\", \"1h30m\" or \"7d\"",
                "bad.toml:10:9: \"when\" in [[site.shop.route]]: '$' means nothing here",
                "= hint: nginx's variables are written header.NAME, cookies.has(\"NAME\"), query.NAME, client.ip, host, path",
            ],
        ),
        (
            format!("{POOL}{SITE}response = {{ set = {{ X-Real-IP = \"%[src]\" }} }}\n"),
            &["bad.toml:8:34: x-real-ip: %[ begins a sample of HAProxy's; here values are written {client.ip}, {header.NAME}"],
        ),
        (
            format!("{POOL}{}", SITE.replace("pool = \"app\"", "pool = \"app\";")),
            &["bad.toml:7:13: something follows the value: a value has no semicolon, and a text with quotes in it stands in '...'"],
        ),
        // A list that has something in it is not empty, be it wrong.
        (
            "[pool.app]\norigins = \"127.0.0.1:1\"\n[site.shop]\nhosts = [1]\nroute = [{ path = \"/*\" }]\n".to_owned(),
            &[
                "bad.toml:2:11: wrong value for \"origins\" in [pool.app]: expected a list, found a string",
                "= hint: write origins = [\"127.0.0.1:1\"]",
                "bad.toml:4:10: wrong value in \"hosts\" in [site.shop]: expected a string, found an integer",
                "bad.toml:5:10: missing key \"pool\" in [[site.shop.route]]",
            ],
        ),
        (
            format!("{POOL}{SITE}cache = {{ mode = \"force\" }}\nforward = [\"x-a\"]\n"),
            &["bad.toml:8:9: mode = \"force\" needs a ttl", "= hint: add ttl = \"1h\""],
        ),
        (
            "[node]\nstate_dir = \"s\"\n[cache.disk]\npath = \"a\"\nmax_size = \"1GiB\"\n\
             paths = [{ path = \"b\", max_size = \"1GiB\" }]\n"
                .to_owned(),
            &["bad.toml:3:1: [cache.disk] has both path and paths: put all directories into paths"],
        ),
        // A value that does not fit is pointed at.
        (
            "[limits]\nmax_head = \"1B\"\nmax_fills = 0\nmax_prefix_share = 101\n".to_owned(),
            &[
                "bad.toml:2:12: max_head in [limits] must be from 1KiB to 1MiB",
                "bad.toml:3:13: max_fills in [limits] must be more than zero",
                "bad.toml:4:20: max_prefix_share in [limits] must be from 1 to 100",
            ],
        ),
        // Files that cannot be read.
        (
            format!("{TLS}cert = \"none.pem\"\nkey = \"none.key\"\n"),
            &[
                "bad.toml:5:8: none.pem cannot be read: No such file or directory (os error 2)",
                "bad.toml:6:7: none.key cannot be read: No such file or directory (os error 2)",
            ],
        ),
        (
            format!("{TLS}cert = \"good.pem\"\nkey = \"good.pem\"\n"),
            &["bad.toml:6:7: no usable private key in good.pem: no items found"],
        ),
        (
            "[admin]\naddress = \"127.0.0.1:0\"\ntokens_file = \"none\"\n".to_owned(),
            &["bad.toml:3:15: none: cannot be read: No such file or directory (os error 2)"],
        ),
        // What is not closed.
        (
            format!("[node]\nname = a\n\n[pool.app]\norigins = [\"[::1]:1\"\n{SITE}"),
            &[
                "bad.toml:2:8: string values must be quoted, expected literal string",
                "bad.toml:5:1: the list that begins here is not closed by \"]\"",
            ],
        ),
        (
            format!("[pool.app]\norigins = [\n  \"127.0.0.1:1\",\n{SITE}{SITE}"),
            &["bad.toml:2:1: the list that begins here is not closed by \"]\""],
        ),
        (
            format!("{POOL}{SITE}cache = {{ mode = \"respect\"\n[[site.shop.route]]\npath = \"/\"\npool = \"app\"\n"),
            &["bad.toml:8:1: the table that begins here is not closed by \"}\""],
        ),
        // What is given twice.
        (
            "[node]\nname = \"a\"\nthreads = 1\n [node] # again\nname = \"b\"\nthreads = 1\n".to_owned(),
            &["bad.toml:4:3: [node] is given twice", "= hint: first given at bad.toml:1:1"],
        ),
        (
            "[node]\nname = \"a\"\nname = \"b\"\n[log]\nlevel = \"info\"\n".to_owned(),
            &["bad.toml:3:1: \"name\" is given twice", "= hint: first given at bad.toml:2:1"],
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:0\"\n[listen]\naddress = \"127.0.0.1:0\"\n".to_owned(),
            &["bad.toml:3:2: [listen] is written [[listen]] elsewhere", "= hint: first given at bad.toml:1:1"],
        ),
        (
            "[[listen]]\naddress = \"127.0.0.1:80\"\n[[listen]]\naddress = \"127.0.0.1:80\"\n".to_owned(),
            &["bad.toml:4:11: 127.0.0.1:80 is listened on twice", "= hint: first given at bad.toml:2:11"],
        ),
        (
            "[pool.app]\norigins = [\"a:1\", \"a:1\"]\n".to_owned(),
            &["bad.toml:2:19: origin \"a:1\" is given twice", "= hint: first given at bad.toml:2:12"],
        ),
    ] {
        std::fs::write(&path, &text).unwrap();
        let output = seawall(&["check", path.to_str().unwrap()]);
        let said = String::from_utf8(output.stdout).unwrap();
        let said = said.replace(&format!("{}/", directory.path().display()), "");
        let lines: Vec<&str> = said
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("bad.toml") || line.starts_with("= hint"))
            .collect();
        assert_eq!(lines, expected, "{text}\n--- got ---\n{said}");
        let mistakes = expected.iter().filter(|line| !line.starts_with('=')).count();
        let counted = if mistakes == 1 { "1 mistake".to_owned() } else { format!("{mistakes} mistakes") };
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("seawall: {counted}\n"));
    }
}

#[test]
fn what_is_given_in_two_files_is_told_with_both() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("main.toml");
    std::fs::create_dir(directory.path().join("sites.d")).unwrap();
    std::fs::write(&path, complete("[pool.app]\norigins = [\"a:1\"]\n")).unwrap();
    let again = "[pool.app]\norigins = [\"b:1\"]\n[admin]\naddress = \"127.0.0.1:0\"\n";
    std::fs::write(directory.path().join("sites.d/b.toml"), again).unwrap();
    let output = seawall(&["check", path.to_str().unwrap()]);
    let said = String::from_utf8(output.stdout).unwrap();
    for (message, first) in
        [("b.toml:1:1: [pool.app] is given twice", "[pool.app]"), ("b.toml:3:1: [admin] is given twice", "[admin]")]
    {
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().position(|line| line == first).unwrap() + 1;
        let hint = format!("first given at {}:{line}:1", path.display());
        assert!(said.contains(message) && said.contains(&hint), "{hint} in\n{said}");
    }
}

#[test]
fn a_node_needs_no_file() {
    let origin = hello();
    let to = origin.address.port().to_string();
    let directory = Arc::new(TempDir::new().unwrap());
    let node = Node::spawn(directory, &["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--to", &to]);
    assert_eq!(node.get("/a").text(), "hello");
    assert!(node.get("/a").is_hit());
    node.purge("{\"all\": true}");
    assert!(!node.get("/a").is_hit());
    let admin = node.admin.to_string();
    for command in [&["status"][..], &["explain", "http://any.example/a"], &["purge", "http://any.example/a"]] {
        let done = seawall(&[command, &["--admin", &admin]].concat());
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn start_up_mistakes_are_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    std::fs::write(&path, format!("[[listen]]\naddress = \"{}\"\n", taken.local_addr().unwrap())).unwrap();
    let empty = directory.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    let no_directory = directory.path().join("no-directory.toml");
    std::fs::write(&no_directory, complete("[node]\nstate_dir = \"/dev/null/state\"\n")).unwrap();
    for (arguments, part) in [
        (&["run", "--config", "/nowhere/seawall.toml"][..], "cannot be read"),
        (&["run", "--config", path.to_str().unwrap()], "= hint: see who has it with ss -ltnp"),
        (&["run", "--config", empty.to_str().unwrap()], "there is no [[listen]]"),
        (&["run", "--config", no_directory.to_str().unwrap()], "cannot make the directory in the state directory"),
        (&["run", "--to", "no/nsense"], "expected an origin without a path, such as"),
        (&["run"], "say what to run: --config FILE, or --to ORIGIN"),
        (&["run", "--to", "3000", "--listen", "x"], "expected IP:PORT, :PORT or PORT"),
        (&["demo", "--listen", &taken.local_addr().unwrap().to_string()], "give another IP:PORT by --listen"),
        (&["check", "sites.d/shop.toml"], "is checked with the main file"),
        (&["status", "--admin", "127.0.0.1:1"], "cannot reach the admin API at http://127.0.0.1:1"),
        (&["status", "--admin", "ftp://a"], "expected a URL such as"),
        (&["explain", "--response", "a", "--header", "A: b"], "cannot be used with"),
        (&["explain", "http://a/", "--config", "a"], "cannot be used with"),
        (&["explain", "--reasons", "--json"], "cannot be used with"),
        (&["status", "--admin", "http://127.0.0.1:1"], "cannot reach the admin API"),
        (&["purge"], "required arguments"),
    ] {
        let output = seawall(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(part), "{arguments:?}: {text}");
        assert!(text.matches("os error").count() <= 1, "the cause is said once: {text}");
    }
}

#[test]
fn purge_and_status_talk_to_a_running_node() {
    let origin = hello();
    let node = Node::caching(origin.address);
    node.get("/a");
    let admin = format!("http://{}", node.admin);
    let run = |arguments: &[&str]| {
        let output = seawall(&[arguments, &["--admin", &admin]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["purge", "http://shop.example/a"]).starts_with("purged: number 1"));
    assert!(!node.get("/a").is_hit());
    for arguments in [
        &["--prefix", "http://shop.example/"][..],
        &["--tag", "a", "--tag", "b", "--site", "shop"],
        &["--site", "shop"],
        &["--all", "--soft"],
    ] {
        run(&[&["purge"], arguments].concat());
    }
    for contrary in [&["--all", "--site", "shop"][..], &["http://shop.example/", "--tag", "a"], &[]] {
        assert!(!seawall(&[&["purge", "--admin", &admin], contrary].concat()).status.success(), "{contrary:?}");
    }
    for star in [&["http://shop.example/static/*"][..], &["--prefix", "http://shop.example/static/*"]] {
        let output = seawall(&[&["purge", "--admin", &admin], star].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("purge the prefix http://shop.example/static/"), "{text}");
    }
    for (url, why) in [("notaurl", "it has neither a scheme nor a path"), ("http://a..b/", "its host is not valid")] {
        let said = format!("{url:?} is not a URL such as https://shop.example.com/a: {why}");
        let output = seawall(&["purge", url, "--admin", &admin]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(&said), "{text}");
    }
    assert!(
        run(&["purge", "http://shop.example/none", "--dry-run"]).contains("it would hit 0 objects (0 bytes) on disk")
    );
    let status = run(&["status"]);
    for part in ["seawall serving", "purges   number 5", "pool     app (round_robin)", &origin.address.to_string()] {
        assert!(status.contains(part), "{part} in\n{status}");
    }
}

#[test]
fn the_access_log_has_a_line_for_each_request_and_follows_a_rotation() {
    let origin = hello();
    let directory = Arc::new(TempDir::new().unwrap());
    let log = directory.path().join("access.log");
    let config = format!("[log]\naccess = \"{}\"\n{}", log.display(), site(&[origin.address], "", CACHED));
    let node = Node::start_in(directory.clone(), &config);
    let lines = |path: &std::path::Path, count: usize| {
        eventually("lines of the access log", || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            (lines.len() == count).then_some(lines)
        })
    };
    node.get_with("/a?q='\\", &["User-Agent: test \"agent\""]);
    node.get("/a?q='\\");
    node.client().request("POST", "/p", &[], "body");
    node.client().send("nonsense\r\n\r\n");
    let seen = lines(&log, 4);
    let find = |cache: &str| seen.iter().find(|line| line["cache"] == cache).expect(cache);
    assert_eq!(find("miss")["user_agent"], "test \"agent\"");
    assert_eq!((find("hit")["query"].as_str(), find("hit")["bytes"].as_u64()), (Some("q='\\"), Some(5)));
    assert_eq!((find("pass")["method"].as_str(), find("pass")["status"].as_u64()), (Some("POST"), Some(200)));
    assert_eq!(find("none")["status"], 400);
    let rotated = directory.path().join("access.log.1");
    std::fs::rename(&log, &rotated).unwrap();
    node.signal("USR1");
    eventually("a new file", || log.exists().then_some(()));
    node.get("/after");
    assert_eq!(lines(&log, 1)[0]["path"], "/after");
    assert_eq!(lines(&rotated, 4).len(), 4);
}

#[test]
fn an_access_log_that_cannot_be_written_is_tried_again() {
    let origin = hello();
    let directory = Arc::new(TempDir::new().unwrap());
    let later = directory.path().join("later");
    let log = later.join("access.log");
    let config = format!("[log]\naccess = \"{}\"\n{}", log.display(), site(&[origin.address], "", CACHED));
    let node = Node::start_in(directory.clone(), &config);
    node.wait_for_log("cannot open the access log");
    node.get("/a");
    eventually("a lost line", || (node.metric("seawall_access_log_dropped_total") == Some(1.0)).then_some(()));
    std::fs::create_dir(&later).unwrap();
    node.wait_for_log("the access log is written again");
    node.get("/b");
    eventually("a line", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("\"/b\"")).then_some(()));
}

#[test]
fn metrics_count_by_site_with_bounded_labels() {
    let origin = hello();
    let node = Node::caching(origin.address);
    node.get("/a");
    node.get("/a");
    for i in 0..20 {
        node.get_with("/a", &[&format!("Host: made-up-{i}.example")]);
    }
    let count = |cache: &str| node.metric(&format!("seawall_requests_total{{cache=\"{cache}\",site=\"shop\"}}"));
    eventually("all requests counted", || (count("miss") == Some(21.0) && count("hit") == Some(1.0)).then_some(()));
    let (_, text) = node.admin("GET", "/metrics", "");
    assert!(!text.to_string().contains("made-up"), "no label comes from a client");
}

#[test]
fn the_demo_shows_hits_and_misses() {
    let directory = Arc::new(TempDir::new().unwrap());
    let node = Node::spawn(directory, &["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert!(node.get("/").text().contains("<h1>Seawall</h1>"));
    assert!(node.get("/static/style.css").cache().contains("fwd=uri-miss"));
    assert!(node.get("/static/style.css").is_hit());
    assert!(node.get("/time").text().starts_with("harbour-"));
    node.purge(r#"{"tags": ["assets"]}"#);
    assert!(!node.get("/static/style.css").is_hit());
    assert!(node.stdout().contains("curl -i http://"));
}

/// Each row is a configuration of its own: the words of other servers, and what is to be written instead.
#[test]
fn words_of_other_servers_get_a_hint() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    let route = "[site.a]\nhosts = [\"a\"]\n[[site.a.route]]\npath = \"/*\"\n";
    let cache = format!("{route}pool = \"p\"\n[site.a.route.cache]\nmode = \"respect\"\n");
    let table = include_str!("../tables/hints.txt");
    let rows: Vec<&str> = table.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(rows.len() > 100);
    for row in rows {
        let [place, written, hint] = row.splitn(3, " | ").collect::<Vec<_>>().try_into().unwrap();
        let text = match place {
            "origin" => format!("[pool.q]\norigins = [{{ address = \"a:1\", {written} }}]\n"),
            "pool" => format!("[pool.q]\norigins = [\"a:1\"]\n{written}\n"),
            "health" => format!("[pool.q]\norigins = [\"a:1\"]\n[pool.q.health]\n{written}\n"),
            "site" => format!("[site.a]\nhosts = [\"a\"]\n{written}\n"),
            "route" => format!("{route}pool = \"p\"\n{written}\n"),
            "redirect" => format!("{route}[site.a.route.redirect]\n{written}\n"),
            "rewrite" => format!("{route}pool = \"p\"\n[site.a.route.rewrite]\n{written}\n"),
            "cache" => format!("{cache}{written}\n"),
            "key" => format!("{cache}[site.a.route.cache.key]\n{written}\n"),
            "listen" => format!("[[listen]]\naddress = \"127.0.0.1:1\"\n{written}\n"),
            section => format!("[{section}]\n{written}\n"),
        };
        std::fs::write(&path, format!("[pool.p]\norigins = [\"a:1\"]\n{text}")).unwrap();
        let output = seawall(&["check", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(&format!("  = hint: {hint}\n")), "{row}\n{said}");
    }
}
