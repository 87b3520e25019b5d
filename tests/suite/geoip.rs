//! Where clients' addresses belong: in conditions, lists, keys, and in what is said to origins and clients.

use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::node::site;
use crate::harness::{Node, Origin, Protocol, Reply, eventually};

const DE: &str = "X-Forwarded-For: 192.0.2.7";
const FR: &str = "X-Forwarded-For: 198.51.100.7";
const NOWHERE: &str = "X-Forwarded-For: 203.0.113.9";

/// A node that believes its peer who the client is, and knows where clients belong.
fn node(protocol: Protocol, origin: &Origin, routes: &str) -> Node {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    put(&directory, "country.mmdb");
    put(&directory, "asn.mmdb");
    let node =
        "[node]\ntrusted_proxies = [\"127.0.0.0/8\"]\ncountry_file = \"country.mmdb\"\nasn_file = \"asn.mmdb\"\n";
    Node::speaking_in(protocol, directory, &format!("{node}{}", site(&[origin.address], "", routes)))
}

fn put(directory: &TempDir, name: &str) {
    let source = format!("{}/tests/geoip/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::copy(source, directory.path().join(name)).unwrap();
}

/// An origin that says which country it was told.
fn told() -> Origin {
    Origin::start(|request| Reply::ok(&["Cache-Control: max-age=600"], request.field("x-country").unwrap_or("none")))
}

#[test]
fn clients_of_two_countries_never_get_each_others_answer() {
    for protocol in Protocol::ALL {
        let origin = told();
        let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\", key = { country = true } }\n";
        let node = node(protocol, &origin, route);
        for round in 0..2 {
            // Whatever a client says of its country itself, no origin gets that.
            for (client, country) in [(DE, "DE"), (FR, "FR"), (NOWHERE, "none")] {
                let response = node.get_with("/a", &[client, "X-Country: XX"]);
                assert_eq!((response.text().as_str(), response.is_hit()), (country, round == 1), "{client}");
            }
        }
        assert_eq!(origin.count(), 3);
        // What is passed on tells it, too.
        let posted = node.request("POST", "/b", &[FR, "X-Country: XX", "X_Country: XX"], "");
        assert_eq!(
            (posted.text(), origin.requests().last().and_then(|last| last.field("x_country").map(str::to_owned))),
            ("FR".into(), None)
        );
        node.purge(r#"{"url": "http://shop.example/a"}"#);
        assert!(!node.get_with("/a", &[DE]).is_hit() && !node.get_with("/a", &[FR]).is_hit());
    }
}

#[test]
fn conditions_lists_and_templates_know_where_clients_belong() {
    let routes = r#"
        [[site.shop.route]]
        path = "/germans"
        when = 'client.country == "DE" && client.asn == 64496'
        respond = { body = "willkommen" }
        [[site.shop.route]]
        path = "/open/*"
        deny = [{ country = ["FR"] }, { asn = [64497] }]
        pool = "app"
        cache = { mode = "respect" }
        [[site.shop.route]]
        path = "/closed/*"
        allow = [{ country = ["DE"] }, "203.0.113.9"]
        pool = "app"
        cache = { mode = "respect" }
        response = { set = { X-From = "{client.country}/{client.asn}" } }
        [[site.shop.route]]
        path = "/*"
        redirect = { to = "/{client.country}/", status = 302 }
    "#;
    for protocol in Protocol::ALL {
        let origin = told();
        let node = node(protocol, &origin, routes);
        let status = |path: &str, client: &str| node.get_with(path, &[client]).status;
        for (path, de, fr, nowhere) in
            [("/germans", 200, 302, 302), ("/open/a", 200, 403, 200), ("/closed/a", 200, 403, 200)]
        {
            for _ in 0..2 {
                assert_eq!((status(path, DE), status(path, FR), status(path, NOWHERE)), (de, fr, nowhere), "{path}");
            }
        }
        assert_eq!(status("/open/a", "X-Forwarded-For: 127.0.0.3"), 403);
        assert_eq!(node.get_with("/closed/a", &[DE]).field("x-from"), Some("DE/64496"));
        assert_eq!(node.get_with("/closed/a", &[NOWHERE]).field("x-from"), Some("/0"));
        assert_eq!(node.get_with("/x", &[FR]).field("location"), Some("/FR/"));
        let (_, said) = node.admin("GET", "/v1/explain?url=http://shop.example/open/a&client=198.51.100.7", "");
        assert_eq!((&said["country"], &said["refused_by"]["list"]), (&"FR".into(), &"deny".into()), "{said}");
    }
}

#[test]
fn a_new_file_is_taken_while_running_and_a_broken_one_is_not() {
    let origin = told();
    let routes = "[[site.shop.route]]\npath = \"/*\"\nwhen = 'client.country == \"DE\"'\nrespond = { body = \"de\" }\n";
    let node = node(Protocol::H1, &origin, routes);
    let status = || node.get_with("/", &[DE]).status;
    assert_eq!(status(), 200);
    let path = node.config_path().with_file_name("country.mmdb");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    node.wait_for_log("no sound file of the MaxMind DB format");
    assert_eq!(status(), 200);
    // The same size, and another country.
    let at = whole.windows(2).position(|two| two == b"DE").unwrap();
    let changed = [&whole[..at], b"AT", &whole[at + 2..]].concat();
    std::fs::write(&path, changed).unwrap();
    eventually("the new file", || (status() == 404).then_some(()));
}
