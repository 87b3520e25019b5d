//! TLS and HTTP/2: certificates by SNI, the same cache behind either protocol.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::h2::{self, certificate};
use crate::harness::node::site;
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, Protocol, Reply, Step, eventually};

const ROUTES: &str = "[[site.shop.route]]\npath = \"/passed/*\"\npool = \"app\"\n\
    [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

fn tls_node(origin: &Origin) -> Node {
    let directory = Arc::new(TempDir::new().unwrap());
    certificate(directory.path(), "one", &["shop.example", "*.shop.example"]);
    certificate(directory.path(), "two", &["blog.example"]);
    let sections = "[log]\naccess = \"stdout\"\n[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
        [[certificate]]\ncert = \"one.pem\"\nkey = \"one.key\"\n[[certificate]]\ncert = \"two.pem\"\nkey = \"two.key\"\n";
    Node::start_in(directory, &format!("{sections}{}", site(&[origin.address], "", ROUTES)))
}

/// Runs curl against the node under a host name, trusting one certificate. Gives status line, head and body.
fn curl(node: &Node, trust: &str, host: &str, path: &str, arguments: &[&str]) -> Result<String, String> {
    let address = node.address();
    let output = Command::new("curl")
        .args(["-s", "-S", "-i", "--max-time", "20", "--cacert"])
        .arg(node.directory.path().join(format!("{trust}.pem")))
        .args(["--connect-to", &format!("{host}:443:{}:{}", address.ip(), address.port())])
        .args(arguments)
        .arg(format!("https://{host}{path}"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn either_protocol_shares_one_cache() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60", "ETag: \"e\""], "0123456789"));
    let node = tls_node(&origin);
    let miss = curl(&node, "one", "shop.example", "/a", &["--http2"]).unwrap();
    assert!(miss.starts_with("HTTP/2 200") && miss.contains("fwd=uri-miss; stored"), "{miss}");
    for (arguments, status, part) in [
        (&["--http2"][..], "HTTP/2 200", "0123456789"),
        (&["--http1.1"], "HTTP/1.1 200", "0123456789"),
        (&["--http2", "-r", "2-4"], "HTTP/2 206", "\r\n\r\n234"),
        (&["--http2", "-H", "If-None-Match: \"e\""], "HTTP/2 304", "etag"),
        (&["--http2", "-I"], "HTTP/2 200", "content-length: 10"),
    ] {
        let hit = curl(&node, "one", "shop.example", "/a", arguments).unwrap();
        assert!(hit.starts_with(status) && hit.contains(part) && hit.contains("; hit"), "{arguments:?}: {hit}");
    }
    assert_eq!(origin.count(), 1);
    assert_eq!(origin.requests()[0].field("x-forwarded-proto"), Some("https"));
}

/// What it says then: a failed write has its cause behind it.
const CURL_GIVES_UP: &str = "curl: (55) Failed sending data to the peer";

#[test]
fn requests_pass_over_http_2() {
    let origin = Origin::start(|request| Reply::ok(&[], &request.body));
    let node = tls_node(&origin);
    let body = "x".repeat(300_000);
    let upload = node.directory.path().join("body");
    std::fs::write(&upload, &body).unwrap();
    let upload = format!("@{}", upload.display());
    for version in ["--http2", "--http1.1"] {
        let arguments = [version, "--data-binary", &upload, "-H", "X-Forwarded-Host: evil"];
        let send = || curl(&node, "one", "shop.example", "/passed/../passed/a?q", &arguments);
        // curl 7.88 gives up, without a reason, where its socket is full while it reads (`h2_process_pending_input` takes
        // CURLE_AGAIN for an error).
        let is_curls = |answer: &Result<String, String>| matches!(answer, Err(why) if why.trim() == CURL_GIVES_UP);
        let answer = (0..5).map(|_| send()).find(|answer| !is_curls(answer)).unwrap().unwrap();
        assert!(answer.contains(" 200") && answer.ends_with(&body), "{version}");
    }
    for request in origin.requests() {
        assert!(request.head.starts_with("POST /passed/a?q HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.field("host"), Some("shop.example"));
        assert_eq!(request.field("x-forwarded-host"), Some("shop.example"));
    }
    let refused = curl(&node, "one", "shop.example", "/a", &["--http2", "-X", "TRACE"]).unwrap();
    assert!(refused.starts_with("HTTP/2 501"), "{refused}");
}

#[test]
fn a_body_cut_short_resets_the_stream() {
    let origin = Origin::start(|request| {
        let fields = ["Cache-Control: max-age=60", "Content-Length: 100000"];
        let fields = if request.path() == "/unknown" {
            ["Cache-Control: max-age=60", "Transfer-Encoding: chunked"]
        } else {
            fields
        };
        let body = if request.path() == "/unknown" { b"5\r\nshort\r\n".to_vec() } else { b"short".to_vec() };
        vec![Step::Send(Reply::head(200, &fields)), Step::Send(body), Step::Close]
    });
    let node = tls_node(&origin);
    for path in ["/known", "/unknown", "/passed/known"] {
        for _ in 0..2 {
            let error = curl(&node, "one", "shop.example", path, &["--http2"]).unwrap_err();
            assert!(error.contains("stream") || error.contains("transfer"), "{path}: {error}");
        }
    }
}

#[test]
fn certificates_are_chosen_by_name_and_swapped_by_a_reload() {
    let origin = Origin::start(|_| Reply::ok(&[], "x"));
    let node = tls_node(&origin);
    for (trust, host, trusted) in [
        ("one", "shop.example", true),
        ("one", "a.shop.example", true),
        ("two", "blog.example", true),
        ("two", "shop.example", false),
        ("one", "blog.example", false),
    ] {
        assert_eq!(curl(&node, trust, host, "/a", &[]).is_ok(), trusted, "{trust} {host}");
    }
    let before = std::fs::read(node.directory.path().join("one.pem")).unwrap();
    certificate(node.directory.path(), "one", &["shop.example", "new.example"]);
    node.wait_for_generation(2);
    assert!(curl(&node, "one", "new.example", "/a", &[]).is_ok());
    std::fs::write(node.directory.path().join("old.pem"), before).unwrap();
    assert!(curl(&node, "old", "shop.example", "/a", &[]).is_err(), "the old certificate is no longer served");
}

#[test]
fn origins_over_tls_are_verified() {
    // A real server with a certificate of its own: another Seawall.
    let behind = Origin::start(|request| Reply::ok(&[], request.field("host").unwrap_or_default()));
    let secure = tls_node(&behind);
    let certificate = secure.directory.path().join("one.pem");
    let pool = |extra: &str| {
        format!(
            "[pool.app]\norigins = [\"{}\"]\ntls = true\n{extra}\n[site.shop]\nhosts = [\"*\"]\n{ROUTES}",
            secure.address()
        )
    };
    let ca = format!("ca = \"{}\"", certificate.display());
    for (extra, status) in [
        (format!("{ca}\nsni = \"shop.example\""), 200),
        (format!("{ca}\nsni = \"shop.example\"\nprotocol = \"auto\""), 200),
        (format!("{ca}\nsni = \"other.example\""), 200), // it is pinned: it is this one and no other, whatever its names
        ("sni = \"shop.example\"".to_owned(), 502),
        ("sni = \"shop.example\"\nverify = false".to_owned(), 200),
    ] {
        let node = Node::start(&pool(&extra));
        for path in ["/passed/a", "/a"] {
            let response = node.get(path);
            assert_eq!(response.status, status, "{extra} {path}: {}", response.text());
        }
    }
}

/// Writes a certificate that is its own authority, as `openssl req -x509` makes them; it is valid, or was until yesterday.
fn authority(directory: &Path, name: &str, is_valid: bool) {
    let mut made = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    made.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    made.not_before = (now - 9 * day).into();
    made.not_after = if is_valid { now + day } else { now - day }.into();
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(directory.join(format!("{name}.pem")), made.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

#[test]
fn an_origin_may_show_the_pinned_certificate_and_no_other() {
    let behind = Origin::start(|request| Reply::ok(&[], request.path()));
    let directory = Arc::new(TempDir::new().unwrap());
    let file = |name: &str| directory.path().join(name);
    for (name, is_valid) in [("mine", true), ("other", true), ("old", false)] {
        authority(directory.path(), name, is_valid);
    }
    certificate(directory.path(), "leaf", &["shop.example"]);
    let read = |name: &str| std::fs::read(file(name)).unwrap();
    std::fs::write(file("both.pem"), [read("leaf.pem"), read("mine.pem")].concat()).unwrap();
    // What the origin shows, in one file with its key.
    let show = |name: &str| {
        std::fs::write(file("next"), [read(&format!("{name}.pem")), read(&format!("{name}.key"))].concat()).unwrap();
        std::fs::rename(file("next"), file("shown.pem")).unwrap();
    };
    show("mine");
    let sections = "[log]\naccess = \"stdout\"\n[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
                    [[certificate]]\ncert = \"shown.pem\"\nkey = \"shown.pem\"\n";
    let secure = Node::start_in(directory.clone(), &format!("{sections}{}", site(&[behind.address], "", ROUTES)));
    let start = |ca: &str, protocol: &str, extra: &str| {
        let pool =
            format!("tls = true\nprotocol = {protocol:?}\nsni = \"shop.example\"\nca = {:?}\n{extra}\n", file(ca));
        Node::start(&site(&[secure.address()], &pool, ROUTES))
    };
    let protocols = ["h1", "h2", "auto"];
    let refused = |node: &Node, what: &str| {
        let response = node.get("/passed/refused");
        let told = response.field("proxy-status").unwrap_or_default().to_owned();
        assert!(response.status == 502 && told.ends_with("error=tls_certificate_error"), "{what}: {told}");
    };
    for protocol in protocols {
        let node = start("both.pem", protocol, "");
        for path in ["/passed/a", "/passed/b", "/c"] {
            let response = node.get(path);
            assert_eq!((response.status, response.text().as_str()), (200, path), "{protocol}");
        }
        let trusting_another = start("other.pem", protocol, "");
        refused(&trusting_another, protocol);
        let open = || std::fs::read_dir(format!("/proc/{}/fd", trusting_another.pid())).unwrap().count();
        let before = open();
        (0..30).for_each(|_| refused(&trusting_another, protocol));
        eventually("the end of connections that are not used", || (open() < before + 10).then_some(()));
        let checked =
            start("both.pem", protocol, "health = { path = \"/up\", interval = \"50ms\", fall = 1, rise = 1 }");
        let status = || checked.origin("app", secure.address())["last_error"].clone();
        eventually("a health check", || behind.requests().iter().any(|request| request.path() == "/up").then_some(()));
        assert_eq!(
            (checked.origin_status("app", secure.address()).as_str(), status()),
            ("up", Value::Null),
            "{protocol}"
        );
    }
    // One node meets one certificate after the other.
    let node = start("both.pem", "h1", "idle_timeout = \"1ms\"");
    assert_eq!(node.get("/passed/a").status, 200);
    let steps = [("leaf", true), ("mine", true), ("other", false), ("mine", true), ("leaf", true), ("old", false)];
    for (name, is_taken) in steps {
        let generation = secure.generation();
        show(name);
        secure.wait_for_generation(generation + 1);
        match is_taken {
            true => assert_eq!(node.get("/passed/a").status, 200, "{name}"),
            false => refused(&node, name),
        }
    }
    let node = start("old.pem", "h1", "");
    refused(&node, "it is out of its dates");
    node.wait_for_log("not valid at this time");
    assert!(behind.requests().iter().all(|request| request.path() != "/passed/refused"));
}

/// An HTTP/2 connection to the node, as a gRPC client has it.

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_stream_ends_its_request_at_once() {
    let gate = Gate::default();
    let for_origin = gate.clone();
    let origin = Origin::start(move |_| vec![Step::Wait(for_origin.clone()), Step::Close]);
    tokio::task::spawn_blocking(move || {
        let node = tls_node(&origin);
        let runtime = tokio::runtime::Handle::current();
        let trust = node.directory.path().join("one.pem");
        let mut client = runtime.block_on(async { h2::connect(node.address(), &trust).await.ready().await.unwrap() });
        let request = http::Request::get("https://shop.example/waits").body(()).unwrap();
        let (_response, mut stream) = client.send_request(request, true).unwrap();
        origin.wait_for(1);
        stream.send_reset(::h2::Reason::CANCEL);
        let line = eventually("the request's log line", || {
            node.stdout().lines().find(|line| line.contains("/waits")).map(str::to_owned)
        });
        assert!(line.contains("\"status\":499") && line.contains("\"site\":\"shop\""), "{line}");
        gate.open();
    })
    .await
    .unwrap();
}

/// A gRPC-like origin: HTTP/2 without TLS, answers each message at once, ends with trailers.
async fn grpc_origin() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = ::h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        if request.method() == http::Method::GET {
                            assert!(request.body().is_end_stream(), "the head ends what has no body");
                            let head = http::Response::new(());
                            return respond.send_response(head, true).map(drop).unwrap();
                        }
                        assert_eq!(request.headers()["te"], "trailers");
                        let head =
                            http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut send = respond.send_response(head, false).unwrap();
                        let mut body = request.into_body();
                        while let Some(Ok(message)) = body.data().await {
                            body.flow_control().release_capacity(message.len()).unwrap();
                            send.send_data(message, false).unwrap();
                        }
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        send.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_both_ways_and_keeps_its_trailers() {
    let address = grpc_origin().await;
    let directory = Arc::new(TempDir::new().unwrap());
    certificate(directory.path(), "one", &["shop.example"]);
    let config = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [[certificate]]\ncert = \"one.pem\"\nkey = \"one.key\"\n{}",
        site(&[address], "protocol = \"h2\"\n", ROUTES)
    );
    let node = tokio::task::spawn_blocking({
        let directory = directory.clone();
        move || Node::start_in(directory, &config)
    });
    let node = node.await.unwrap();
    let mut client = h2::connect(node.address(), &directory.path().join("one.pem")).await.ready().await.unwrap();
    for path in ["passed", "cached"] {
        let request = http::Request::get(format!("https://shop.example/{path}/a")).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200, "{path}");
        client = client.ready().await.unwrap();
    }
    let request = http::Request::post("https://shop.example/passed/Service/Method")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (response, mut send) = client.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(b"one"), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "one", "answered before the request has ended");
    send.send_data(Bytes::from_static(b"two"), true).unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "two");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    tokio::task::spawn_blocking(move || drop(node)).await.unwrap();
}

#[test]
fn a_body_that_does_not_come_holds_no_origin() {
    let origin = Origin::start(|_| Reply::ok(&[], "early"));
    let directory = Arc::new(TempDir::new().unwrap());
    certificate(directory.path(), "one", &["shop.example"]);
    let sections = "[limits]\nread_timeout = \"300ms\"\n[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n\
        [admin]\naddress = \"127.0.0.1:0\"\n[[certificate]]\ncert = \"one.pem\"\nkey = \"one.key\"\n";
    let node = Node::start_in(directory.clone(), &format!("{sections}{}", site(&[origin.address], "", ROUTES)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let trust = directory.path().join("one.pem");
        let mut client = h2::connect(node.address(), &trust).await.ready().await.unwrap();
        let request = http::Request::post("https://shop.example/passed/a").header("content-length", "10").body(());
        let (response, _stalls) = client.send_request(request.unwrap(), false).unwrap();
        let ended = async {
            let Ok(response) = response.await else { return };
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.data().await {}
        };
        tokio::time::timeout(crate::harness::PATIENCE, ended).await.expect("the stream ends");
        let active = || node.origin("app", origin.address)["active"].as_u64();
        eventually("the origin is free", || (active() == Some(0)).then_some(()));
    });
}

#[test]
fn nothing_below_tls_1_2_is_spoken() {
    let origin = Origin::start(|_| Reply::ok(&[], "x"));
    let node = Node::caching_by(Protocol::H2, origin.address);
    for (version, spoken) in [("-tls1", false), ("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
        // Level 0 lets the client itself offer what is out of date.
        let arguments = ["s_client", "-connect", &node.address().to_string(), version, "-cipher", "DEFAULT@SECLEVEL=0"];
        let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("CONNECTED"), "{version}: {text}");
        assert_eq!(output.status.success() && !text.contains("Cipher is (NONE)"), spoken, "{version}: {text}");
    }
}

/// A listener speaks the versions and suites of TLS that it says, and no others.
#[test]
fn a_listener_says_which_tls_it_speaks() {
    let origin = Origin::start(|_| Reply::ok(&[], "x"));
    for (keys, spoken) in [
        ("", [true, true, true]),
        ("tls_versions = [\"1.3\"]\n", [false, false, true]),
        ("tls_versions = [\"1.2\"]\n", [true, true, false]),
        (
            "tls_ciphers = [\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\", \"TLS_AES_256_GCM_SHA384\"]\n",
            [false, true, true],
        ),
    ] {
        let directory = Arc::new(TempDir::new().unwrap());
        certificate(directory.path(), "one", &["shop.example"]);
        let sections = format!(
            "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n{keys}[admin]\naddress = \"127.0.0.1:0\"\n\
             [[certificate]]\ncert = \"one.pem\"\nkey = \"one.key\"\n"
        );
        let node = Node::start_in(directory, &format!("{sections}{}", site(&[origin.address], "", ROUTES)));
        let offers = [
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"][..],
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
            &["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
        ];
        for (offer, spoken) in offers.into_iter().zip(spoken) {
            let address = node.address().to_string();
            let arguments = [&["s_client", "-connect", &address], offer].concat();
            let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(text.contains("CONNECTED"), "{offer:?}: {text}");
            assert_eq!(
                output.status.success() && !text.contains("Cipher is (NONE)"),
                spoken,
                "{keys}{offer:?}: {text}"
            );
        }
    }
}

#[test]
fn conditions_know_the_version_of_tls() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], "new"));
    let directory = Arc::new(TempDir::new().unwrap());
    certificate(directory.path(), "one", &["shop.example"]);
    let sections = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\n\
                    address = \"127.0.0.1:0\"\n[[certificate]]\ncert = \"one.pem\"\nkey = \"one.key\"\n";
    let routes = "[[site.shop.route]]\npath = \"/*\"\nwhen = 'tls.version == \"TLSv1.2\"'\nrespond = { body = \"old\" }\n\
                  [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n\
                  request = { set = { X-Tls = \"{tls.version}\" } }\n";
    let node = Node::start_in(directory, &format!("{sections}{}", site(&[origin.address], "", routes)));
    let ask = |scheme: &str, address: std::net::SocketAddr, version: &str| {
        let url = format!("{scheme}://{address}/");
        let arguments = ["-sk", "--max-time", "10", "--tls-max", version, &url];
        let output = Command::new("curl").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let [by_tls, plain] = node.addresses[..] else { panic!("two listeners") };
    for _ in 0..2 {
        assert_eq!(
            [ask("https", by_tls, "1.2"), ask("https", by_tls, "1.3"), ask("http", plain, "1.3")],
            ["old", "new", "new"]
        );
    }
    let told: Vec<_> = origin.requests().iter().map(|request| request.field("x-tls").map(str::to_owned)).collect();
    assert_eq!(told, [Some("TLSv1.3".to_owned()), Some(String::new())]);
}

/// Makes a certificate for the shop with a key of a kind, as openssl's `-newkey` takes it.
fn made_by_openssl(directory: &std::path::Path, name: &str, kind: &[&str]) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=shop.example", "-newkey"]).args(kind);
    openssl.args(["-addext", "subjectAltName=DNS:shop.example", "-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl
        .arg("-keyout")
        .arg(directory.join(format!("{name}.key")))
        .arg("-out")
        .arg(directory.join(format!("{name}.pem")));
    assert!(openssl.stderr(Stdio::null()).status().unwrap().success());
}

#[test]
fn of_two_certificates_for_a_name_a_client_gets_the_one_that_it_can_verify() {
    let origin = Origin::start(|_| Reply::ok(&[], "hello"));
    let directory = Arc::new(TempDir::new().unwrap());
    let path = directory.path();
    let certificates = |names: [&str; 2]| {
        let sections = names.map(|name| format!("[[certificate]]\ncert = \"{name}.pem\"\nkey = \"{name}.key\"\n"));
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n";
        format!("{listen}{}{}", sections.concat(), site(&[origin.address], "", ROUTES))
    };
    for (name, kind) in
        [("rsa", &["rsa:2048"][..]), ("other", &["rsa:2048"]), ("ec", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"])]
    {
        made_by_openssl(path, name, kind);
    }
    let node = Node::start_in(directory.clone(), &certificates(["rsa", "ec"]));
    let key_of = |arguments: &[&str]| {
        let mut client = Command::new("openssl");
        client
            .args(["s_client", "-connect", &node.address().to_string(), "-servername", "shop.example"])
            .args(arguments);
        let said = client.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap().stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        said.lines().find_map(|line| line.strip_prefix("Server public key is ").map(str::to_owned)).unwrap_or(said)
    };
    for (arguments, key) in [
        (&["-tls1_3"][..], "256 bit"),
        (&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], "2048 bit"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "2048 bit"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "256 bit"),
    ] {
        assert_eq!(key_of(arguments), key, "{arguments:?}");
    }
    std::fs::write(node.config_path(), certificates(["rsa", "other"])).unwrap();
    node.wait_for_log("other.pem are both for shop.example, with keys of one kind");
}

#[test]
fn tls_at_a_plain_port_gets_a_readable_answer() {
    let origin = Origin::start(|_| Reply::ok(&[], "hello"));
    let node = Node::caching(origin.address);
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &node.address().to_string(), "-servername", "shop.example"]);
    assert!(!openssl.stdin(Stdio::null()).output().unwrap().status.success());
    let mut client = node.client();
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    let answer = client.response("GET");
    assert!(
        answer.status == 400 && answer.text().contains("this port speaks plain HTTP, and the client TLS"),
        "{answer:?}"
    );
    assert_eq!(origin.count(), 0);
}
