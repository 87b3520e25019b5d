//! The admin API: who may call it, what it answers, and that its description is true.

use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::node::{complete, site};
use crate::harness::{Client, Node, Origin, Reply};

const ROUTES: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

fn origin() -> Origin {
    Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "x"))
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn node_with_tokens(origin: &Origin) -> Node {
    let directory = Arc::new(TempDir::new().unwrap());
    let token = |name: &str, rights: &str, sites: &str| {
        let digest = sha256(name);
        format!("[[token]]\nname = \"{name}\"\nsha256 = \"{digest}\"\nrights = [{rights}]\n{sites}\n")
    };
    let tokens = [
        token("reader", "\"read\"", ""),
        token("shop-purger", "\"purge\"", "sites = [\"shop\"]"),
        token("blog-purger", "\"purge\"", "sites = [\"blog\"]"),
        token("operator", "\"read\", \"purge\", \"operate\"", ""),
        token("shop-operator", "\"read\", \"purge\", \"operate\"", "sites = [\"shop\"]"),
    ];
    std::fs::write(directory.path().join("tokens.toml"), tokens.concat()).unwrap();
    let sections =
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\ntokens_file = \"tokens.toml\"\n";
    let blog = "[site.blog]\nhosts = [\"blog.example\"]\nroute = [{ path = \"/*\", pool = \"app\" }]\n";
    Node::start_in(directory, &format!("{sections}{}{blog}", site(&[origin.address], "", ROUTES)))
}

#[test]
fn each_right_opens_what_it_is_for() {
    let origin = origin();
    let node = node_with_tokens(&origin);
    for (method, path, body, allowed) in [
        ("GET", "/v1/status", "", &["reader", "operator"][..]),
        ("GET", "/v1/pools", "", &["reader", "operator"]),
        ("GET", "/v1/config", "", &["reader", "operator"]),
        ("GET", "/v1/explain?url=shop.example/a", "", &["reader", "operator"]),
        ("GET", "/v1/explain?url=shop.example/a&fetch=true", "", &["operator"]),
        ("GET", "/metrics", "", &["reader", "operator"]),
        ("POST", "/v1/config/check", "[[listen]]\naddress = \"127.0.0.1:0\"\n", &["operator"]),
        ("POST", "/v1/purge", r#"{"site": "shop"}"#, &["shop-purger", "operator"]),
        ("POST", "/v1/purge", r#"{"all": true}"#, &["operator"]),
        ("POST", "/v1/purge", r#"{"tags": ["a"]}"#, &["shop-purger", "blog-purger", "operator"]),
        ("POST", "/v1/sites/shop/version", r#"{"version": 1}"#, &["shop-purger", "operator"]),
        ("POST", "/v1/reload", "", &["operator"]),
    ] {
        for token in ["reader", "shop-purger", "blog-purger", "operator"] {
            let field = format!("Authorization: Bearer {token}");
            let response = node.admin_with(method, path, &[&field], body);
            let expected = if allowed.contains(&token) { 200 } else { 403 };
            assert_eq!(response.status, expected, "{method} {path} {body} as {token}: {}", response.text());
        }
        for fields in [&[][..], &["Authorization: Bearer wrong"], &["Authorization: Basic cmVhZGVy"]] {
            let response = node.admin_with(method, path, fields, body);
            assert_eq!(response.status, 401, "{method} {path} {fields:?}");
            assert_eq!(response.field("www-authenticate"), Some("Bearer"));
        }
    }
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(node.admin("GET", path, "").0, 200, "{path} is open");
    }
}

#[test]
fn the_configuration_is_shown_as_it_is_written() {
    let origin = origin();
    let route = |path: &str, cache: &str| format!("[[site.shop.route]]\npath = \"{path}\"\npool = \"app\"\n{cache}\n");
    let routes = [
        route("/a", "cache = { mode = \"force\", ttl = \"90s\" }"),
        route("/b", "cache = { mode = \"respect\", default_ttl = \"1h\" }"),
        route("/c", "cache = { mode = \"respect\" }"),
        route("/*", ""),
    ];
    let node = Node::with_routes(&[origin.address], &routes.concat());
    let (_, config) = node.admin("GET", "/v1/config", "");
    let shown: Vec<&Value> =
        config["sites"][0]["routes"].as_array().unwrap().iter().map(|route| &route["cache"]).collect();
    let expected = serde_json::json!([
        { "mode": "force", "ttl": "1m30s" },
        { "mode": "respect", "default_ttl": "1h" },
        { "mode": "respect" },
        { "mode": "off" },
    ]);
    assert_eq!(serde_json::json!(shown), expected);
}

#[test]
fn errors_are_problem_documents() {
    let origin = origin();
    let node = Node::with_routes(&[origin.address], ROUTES);
    for (method, path, body, status) in [
        ("GET", "/nowhere", "", 404),
        ("DELETE", "/v1/status", "", 405),
        ("POST", "/v1/purge", "{", 400),
        ("POST", "/v1/purge", r#"{"url": "http://shop.example/", "all": true}"#, 400),
        ("POST", "/v1/sites/nope/version", r#"{"version": 2}"#, 404),
        ("POST", "/v1/config/check", "[pool.app]\norigin = []", 422),
    ] {
        let response = node.admin_with(method, path, &[], body);
        assert_eq!(response.status, status, "{method} {path}: {}", response.text());
        assert_eq!(response.field("content-type"), Some("application/problem+json"), "{method} {path}");
        let problem: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
    let one = node.admin("POST", "/v1/config/check", "[pool.app]\norigins = []").1;
    assert_eq!(one["detail"], "the configuration has 1 mistake; nothing was changed");
    let second = node.admin("POST", "/v1/purge", r#"{"urls": ["http://shop.example/", "http://a/b c"]}"#).1;
    assert_eq!((&second["status"], &second["index"]), (&400.into(), &1.into()));
    let (status, answer) = node.admin("POST", "/v1/config/check", &complete(&site(&[origin.address], "", ROUTES)));
    assert_eq!((status, answer["ok"].as_bool()), (200, Some(true)));
}

/// Every operation that the description has is called, and answers with a status and the fields that it says.
#[test]
fn the_description_is_true() {
    let origin = origin();
    let split =
        format!("split = {{ pool = \"other\", share = 0.1 }}\n[pool.other]\norigins = [\"{}\"]", origin.address);
    let node = Node::start(&site(&[origin.address], &split, ROUTES));
    let (_, api) = node.admin("GET", "/openapi.json", "");
    assert_eq!(api["openapi"], "3.1.0");
    let mut called = 0;
    for (path, operations) in api["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let path = path
                .replace("{site}", "shop")
                .replace("{pool}", "app")
                .replace("{seq}", "1")
                .replace("{id}", "1")
                .replace("{origin}", &origin.address.to_string());
            let example = &operation["requestBody"]["content"]["application/json"]["example"];
            let toml = &operation["requestBody"]["content"]["application/toml"]["example"];
            let body = toml
                .as_str()
                .map_or_else(|| if example.is_null() { String::new() } else { example.to_string() }, str::to_owned);
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let query = parameters.filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
            let query: Vec<String> = query
                .map(|parameter| {
                    format!("{}={}", parameter["name"].as_str().unwrap(), parameter["example"].as_str().unwrap())
                })
                .collect();
            let path = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
            let response = node.admin_with(&method.to_uppercase(), &path, &[], &body);
            let described = &operation["responses"][response.status.to_string()];
            assert!(response.status == 200 && !described.is_null(), "{method} {path}: {}", response.text());
            let required = &described["content"]["application/json"]["schema"]["required"];
            let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
            for field in required.as_array().into_iter().flatten() {
                assert!(answer.get(field.as_str().unwrap()).is_some(), "{method} {path} has no {field}: {answer}");
            }
            called += 1;
        }
    }
    assert_eq!(called, 21, "an operation is missing from the description, or from this count");
}

#[test]
fn who_shows_a_token_sees_the_key_and_the_origin_sees_no_token() {
    let origin = origin();
    let node = node_with_tokens(&origin);
    for (token, shown) in [("reader", true), ("operator", true), ("shop-purger", false), ("wrong", false)] {
        let response = node.get_with("/a?b", &[&format!("Seawall-Debug: {token}")]);
        let key = response.cache().split_once("; key=").map(|(_, key)| key);
        assert_eq!(key, shown.then_some("\"shop 1 shop.example/a?b\""), "{token}: {}", response.cache());
        node.request("POST", "/a", &[&format!("Seawall-Debug: {token}")], "x");
    }
    assert!(!node.get("/a?b").cache().contains("key="));
    assert!(origin.requests().iter().all(|request| request.field("seawall-debug").is_none()));
}

#[test]
fn a_token_of_one_site_reaches_no_further() {
    let origin = origin();
    let node = node_with_tokens(&origin);
    let call = |token: &str, method: &str, path: &str, body: &str| {
        node.admin_with(method, path, &[&format!("Authorization: Bearer {token}")], body)
    };
    let pool = format!("/v1/pools/app/origins/{}/drain", origin.address);
    for (method, path, body) in [
        ("POST", pool.as_str(), ""),
        ("POST", "/v1/reload", ""),
        ("POST", "/v1/config/check", "[[listen]]\naddress = \"127.0.0.1:0\"\n"),
        ("GET", "/v1/pools", ""),
        ("GET", "/v1/config", ""),
        ("GET", "/v1/purges", ""),
        ("GET", "/metrics", ""),
        ("POST", "/v1/warm", r#"{"urls": ["blog.example/"]}"#),
        ("POST", "/v1/purge", r#"{"url": "http://blog.example/"}"#),
        ("POST", "/v1/sites/blog/version", r#"{"version": 1}"#),
    ] {
        let response = call("shop-operator", method, path, body);
        assert_eq!(response.status, 403, "{method} {path}: {}", response.text());
    }
    let status = call("shop-operator", "GET", "/v1/status", "").text();
    assert!(status.contains("\"shop\"") && !status.contains("blog"), "{status}");
    let warm = r#"{"urls": ["http://blog.example/a"]}"#;
    let id: Value = serde_json::from_str(&call("operator", "POST", "/v1/warm", warm).text()).unwrap();
    for method in ["GET", "DELETE"] {
        let path = format!("/v1/warm/{}", id["id"]);
        assert_eq!(call("shop-operator", method, &path, "").status, 404);
    }
    assert_eq!(call("shop-operator", "POST", "/v1/warm", r#"{"urls": ["http://shop.example/a"]}"#).status, 200);
}

#[test]
fn pages_from_elsewhere_do_nothing() {
    let node = Node::with_routes(&[origin().address], ROUTES);
    for fields in [&["Origin: https://evil.example"][..], &["Sec-Fetch-Site: cross-site"], &["Origin: null"]] {
        let response = node.admin_with("POST", "/v1/purge", fields, r#"{"all": true}"#);
        assert_eq!(response.status, 403, "{}", response.text());
    }
    let rebound = node.admin_with("GET", "/v1/status", &["Host: evil.example"], "");
    assert!(matches!(rebound.status, 400 | 403), "{}", rebound.text());
    assert_eq!(node.admin("GET", "/v1/status", "").1["purges"]["seq"], 0);
}

#[test]
fn it_does_not_open_beyond_loopback_without_tokens() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    std::fs::write(&path, "[admin]\naddress = \"0.0.0.0:0\"\n").unwrap();
    let output = crate::process::seawall(&["check", path.to_str().unwrap()]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("the admin API does not listen beyond loopback without tokens"), "{text}");
    std::fs::write(directory.path().join("tokens.toml"), "").unwrap();
    std::fs::write(&path, "[admin]\naddress = \"0.0.0.0:0\"\ntokens_file = \"tokens.toml\"\n").unwrap();
    let output = crate::process::seawall(&["check", path.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("the tokens file has no usable [[token]]"), "{text}");
}

/// What a node says of a configuration that is posted to it.
fn checked(node: &Node, text: &str) -> String {
    node.admin_with("POST", "/v1/config/check", &[], text).text()
}

#[test]
fn a_check_shows_no_secrets_and_reads_regular_files_only() {
    let origin = origin();
    let node = Node::with_routes(&[origin.address], ROUTES);
    std::fs::write(node.directory.path().join("secret"), "very secret line\nand another\n").unwrap();
    let admin = |file: &str| format!("[admin]\naddress = \"127.0.0.1:0\"\ntokens_file = \"{file}\"\n");
    let answer = checked(&node, &admin("secret"));
    assert!(answer.contains("secret") && !answer.contains("very secret line"), "{answer}");
    for endless in ["/dev/zero", "/"] {
        let answer = checked(&node, &admin(endless));
        assert!(answer.contains("it is not a regular file"), "{answer}");
    }
    let many = format!("[site.a]\nhosts = [{}]", "1,".repeat(500_000));
    let answer = checked(&node, &many);
    assert!(answer.len() < 100_000, "{}", answer.len());
}

#[test]
fn a_check_knows_what_lies_beside_the_file() {
    let origin = origin();
    let node = Node::with_routes(&[origin.address], ROUTES);
    let whole = std::fs::read_to_string(node.config_path()).unwrap();
    assert!(checked(&node, &whole).contains("\"ok\":true"));
    let deaf = whole.replace("[[listen]]\naddress = \"127.0.0.1:0\"\n", "");
    assert!(checked(&node, &deaf).contains("there is no [[listen]]"));
    let beside = node.directory.path().join("sites.d");
    std::fs::create_dir(&beside).unwrap();
    std::fs::write(beside.join("b.toml"), "[site.shop]\nhosts = [\"b\"]\n").unwrap();
    let answer = checked(&node, &whole);
    assert!(answer.contains("b.toml"), "the site is there twice: {answer}");
}

#[test]
fn a_call_that_does_not_come_is_not_waited_for() {
    let origin = origin();
    let node = Node::start(&format!("[limits]\nheader_timeout = \"200ms\"\n{}", site(&[origin.address], "", ROUTES)));
    let mut slow = Client::connect(node.admin);
    slow.send("GET /healthz HTTP/1.1\r\n");
    slow.read_some(); // perhaps an answer
    assert!(slow.is_closed());
    assert_eq!(node.admin("GET", "/healthz", "").0, 200);
}

#[test]
fn mistakes_in_tokens_do_not_open_anything() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    let config =
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\ntokens_file = \"t.toml\"\n";
    std::fs::write(&path, config).unwrap();
    for (sites, part) in [("[]", "has no site in it"), ("[\"shpo\"]", "is for site \"shpo\", which there is not")] {
        let digest = sha256("x");
        let token = format!("[[token]]\nname = \"a\"\nsha256 = \"{digest}\"\nrights = [\"purge\"]\nsites = {sites}\n");
        std::fs::write(directory.path().join("t.toml"), token).unwrap();
        let output = crate::process::seawall(&["check", path.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn taking_the_section_out_does_not_open_what_still_listens() {
    let origin = origin();
    let node = node_with_tokens(&origin);
    let text = std::fs::read_to_string(node.config_path()).unwrap();
    let without = text.replace("[admin]\naddress = \"127.0.0.1:0\"\ntokens_file = \"tokens.toml\"\n", "");
    assert_ne!(text, without);
    std::fs::write(node.config_path(), without).unwrap();
    node.wait_for_log("configuration reloaded");
    for fields in [&[][..], &["Authorization: Bearer operator"]] {
        assert_eq!(node.admin_with("GET", "/v1/status", fields, "").status, 401);
    }
}
