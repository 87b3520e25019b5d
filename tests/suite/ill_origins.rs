//! What clients see of origins in every state that they come to: the number of errors is bounded, and none wherever HTTP allows
//! it. The table in docs/reliability.md has the same numbers.

use std::any::Any;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::node::site;
use crate::harness::origin::DeadPort;
use crate::harness::{Node, Origin, Reply, eventually, h2};

const PASSED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
/// Requests to a pool of one ill origin and one that is well.
const REQUESTS: usize = 100;

/// A state of an origin, and what it may cost.
type State<'a> = (&'a str, &'a dyn Fn() -> Ill, &'a str, usize, usize);
/// An origin, and what keeps it as it is.
type Ill = (SocketAddr, Box<dyn Any>);

/// An origin that does something with each connection after each request's head.
fn raw(serve: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> Ill {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || while read_head(&mut stream) && serve(&mut stream) {});
        }
    });
    (address, Box::new(()))
}

fn read_head(stream: &mut TcpStream) -> bool {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// Sends something and closes.
fn says(text: &'static str) -> Ill {
    raw(move |stream| {
        let _ = stream.write_all(text.as_bytes());
        false
    })
}

/// Sends something, and then nothing more for as long as the other side waits.
fn stalls(text: &'static str) -> Ill {
    raw(move |stream| {
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.read(&mut [0; 1]); // until it is closed
        false
    })
}

fn resets() -> Ill {
    raw(|stream| {
        let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
        false
    })
}

/// Connections are neither accepted nor refused: the queue of those that wait for it is full.
fn full() -> Ill {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100));
    let taken: Vec<TcpStream> = std::iter::from_fn(|| connect().ok()).take(64).collect();
    (address, Box::new((socket, taken)))
}

/// One of two requests is answered.
fn flaps() -> Ill {
    let count = AtomicUsize::new(0);
    raw(move |stream| {
        let is_well = count.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        if is_well {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell");
        }
        is_well
    })
}

/// By HTTP/2: each connection ends with a GOAWAY that has processed nothing.
fn goes_away() -> Ill {
    raw_h2(|connection| connection.abrupt_shutdown(::h2::Reason::NO_ERROR))
}

fn raw_h2(
    end: impl Fn(&mut ::h2::server::Connection<tokio::net::TcpStream, bytes::Bytes>) + Send + Sync + 'static,
) -> Ill {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut kept = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut connection) = ::h2::server::handshake(stream).await else { continue };
                end(&mut connection);
                let _ = connection.accept().await; // sends what is to be sent
                kept.push(connection); // who closes at once may take back what was said
            }
        });
    });
    (address, Box::new(()))
}

/// Requests of one kind; how many were not answered by 200 with the whole body.
fn errors(node: &Node, method: &str, requests: usize) -> usize {
    let mut failed = 0;
    for number in 0..requests {
        let mut client = node.client();
        let body = if method == "POST" { "Content-Length: 4\r\n" } else { "" };
        let sent = if method == "POST" { "body" } else { "" };
        client.send(format!("{method} /{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{body}\r\n{sent}"));
        let answer = client.try_response();
        failed += usize::from(answer.is_none_or(|answer| answer.status != 200 || !answer.complete));
    }
    failed
}

const WELL: &[u8] = b"well";

#[test]
fn clients_see_no_more_errors_of_an_ill_origin_than_the_manual_says() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n";
    let quick = "read_timeout = \"200ms\"\nconnect_timeout = \"200ms\"\n";
    let retried = "read_timeout = \"200ms\"\nretry_on = [\"timeout\", \"reset\", \"connect\", \"500-504\"]\n";
    let dead = || {
        let dead = DeadPort::new();
        (dead.address, Box::new(dead) as Box<dyn Any>)
    };
    // What it is, how it is made, keys of the pool, errors of 100 GETs and of 100 POSTs at most.
    let states: [State<'_>; 16] = [
        ("refuses", &dead, "", 0, 0),
        ("does not accept", &full, quick, 0, 0),
        ("sends no head", &|| stalls(""), quick, 5, 5),
        ("sends no head, retried", &|| stalls(""), retried, 0, 5),
        ("stalls in the body", &|| stalls(head), quick, 5, 5),
        ("answers 500", &|| says("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), "", 5, 5),
        ("answers 500, retried", &|| says("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), retried, 0, 5),
        ("answers 503", &|| says("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), "", 0, 5),
        ("closes before the head", &|| says(""), "", 0, 5),
        ("resets before the head", &resets, "", 0, 5),
        ("breaks off in the head", &|| says("HTTP/1.1 200 OK\r\nContent-Le"), "", 0, 5),
        ("breaks off in the body", &|| says(head), "", 5, 5),
        ("breaks its chunks", &|| says(chunks), "", 5, 5),
        ("talks rubbish", &|| says("\u{1}\u{2}SSH-2.0-what\r\n\r\n"), "", 0, 5),
        ("fails every other request", &flaps, "", 0, 30),
        ("goes away", &goes_away, "protocol = \"h2\"\n", 0, 0),
    ];
    for (what, make, keys, gets, posts) in states {
        for (method, most) in [("GET", gets), ("POST", posts)] {
            let (address, _ill) = make();
            let (well, _kept) = if keys.contains("h2") { h2_well() } else { h1_well() };
            let node = Node::start(&site(&[address, well], keys, PASSED));
            let failed = errors(&node, method, REQUESTS);
            assert!(failed <= most, "an origin that {what}: {failed} of {REQUESTS} {method} failed, {most} may");
        }
    }
}

fn h1_well() -> Ill {
    let well = Origin::start(|_| Reply::ok(&[], WELL));
    (well.address, Box::new(well))
}

/// An origin by HTTP/2 that answers.
fn h2_well() -> Ill {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut connection) = ::h2::server::handshake(stream).await else { return };
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                        let _ = send.send_data(WELL.into(), true);
                    }
                });
            }
        });
    });
    (address, Box::new(()))
}

/// Writes a certificate that was valid until yesterday.
fn expired(directory: &std::path::Path, name: &str) {
    let mut made = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    let (now, day) = (std::time::SystemTime::now(), Duration::from_secs(86_400));
    (made.not_before, made.not_after) = ((now - 9 * day).into(), (now - day).into());
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(directory.join(format!("{name}.pem")), made.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// An origin over TLS whose certificate is another name's, or was valid until yesterday.
#[test]
fn clients_see_nothing_of_an_origin_with_a_wrong_certificate() {
    let behind = Origin::start(|_| Reply::ok(&[], WELL));
    let directory = Arc::new(TempDir::new().unwrap());
    h2::certificate(directory.path(), "well", &["shop.example"]);
    h2::certificate(directory.path(), "wrong", &["other.example"]);
    expired(directory.path(), "old");
    let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
    std::fs::write(directory.path().join("ca.pem"), [read("well.pem"), read("old.pem")].concat()).unwrap();
    let secure = |name: &str| {
        let certificate = format!(
            "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [[certificate]]\ncert = \"{name}.pem\"\nkey = \"{name}.key\"\n"
        );
        let file = directory.path().join(format!("{name}.toml"));
        std::fs::write(&file, format!("{certificate}{}", site(&[behind.address], "", PASSED))).unwrap();
        Node::start_file(directory.clone(), &file)
    };
    let well = secure("well");
    let tls = format!("tls = true\nsni = \"shop.example\"\nca = {:?}\n", directory.path().join("ca.pem"));
    for name in ["wrong", "old"] {
        let wrong = secure(name);
        for method in ["GET", "POST"] {
            let node = Node::start(&site(&[wrong.address(), well.address()], &tls, PASSED));
            assert_eq!(errors(&node, method, REQUESTS), 0, "{name} {method}");
            let shown = node.origin("app", wrong.address());
            assert!(shown["status"] == "ejected" && shown["reason"].to_string().contains("is not valid: "), "{shown}");
        }
    }
}

/// An origin that answers, or says that it cannot serve now.
fn while_up(is_up: &Arc<AtomicBool>) -> Origin {
    let is_up = is_up.clone();
    Origin::start(move |_| match is_up.load(Ordering::Relaxed) {
        true => Reply::ok(&[], WELL),
        false => Reply::status(503, &[], ""),
    })
}

#[test]
fn all_down_is_said_at_once_and_all_back_is_seen_at_once() {
    let is_up = Arc::new(AtomicBool::new(true));
    let all = [(); 3].map(|()| while_up(&is_up));
    let addresses = all.each_ref().map(|origin| origin.address);
    let health = "health = { path = \"/\", interval = \"50ms\", rise = 1, fall = 1 }\n";
    let node = Node::start(&site(&addresses, health, PASSED));
    assert_eq!(errors(&node, "GET", 20), 0);
    is_up.store(false, Ordering::Relaxed);
    addresses.iter().for_each(|address| node.wait_for_origin("app", *address, "down"));
    assert_eq!(errors(&node, "GET", 20), 20);
    is_up.store(true, Ordering::Relaxed);
    eventually("one that is up", || {
        addresses.iter().any(|address| node.origin_status("app", *address) == "up").then_some(())
    });
    assert_eq!(errors(&node, "GET", 20), 0);
}

/// Keeps asking from several connections while something is done, which may look how many have failed; how many were asked, and have
/// failed.
fn under_load(node: &Node, meanwhile: impl FnOnce(&AtomicUsize)) -> (usize, usize) {
    let stop = AtomicBool::new(false);
    let (asked, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (stop, asked, failed) = (&stop, &asked, &failed);
            scope.spawn(move || {
                let mut client = node.client();
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    if number % 1_000 == 0 {
                        client = node.client(); // before the node closes it: max_requests_per_connection
                    }
                    let path = format!("GET /{thread}/{number} HTTP/1.1\r\nHost: a\r\n\r\n");
                    client.send(path);
                    let answer = client.try_response();
                    asked.fetch_add(1, Ordering::Relaxed);
                    if answer.is_none_or(|answer| answer.status != 200 || !answer.complete) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        client = node.client();
                    }
                }
            });
        }
        meanwhile(&failed);
        stop.store(true, Ordering::Relaxed);
    });
    (asked.into_inner(), failed.into_inner())
}

/// Waits until so many more requests have reached an origin.
fn more_at(origin: &Origin, more: usize) {
    origin.wait_for(origin.count() + more);
}

#[test]
fn of_three_origins_one_dies_under_load_and_no_client_sees_it() {
    let all = [(); 3].map(|()| Origin::start(|_| Reply::ok(&[], WELL)));
    let addresses = all.each_ref().map(|origin| origin.address);
    let node = Node::start(&site(&addresses, "", PASSED));
    let (asked, failed) = under_load(&node, |_| {
        more_at(&all[0], 200);
        all[0].stop();
        more_at(&all[1], 500);
    });
    assert_eq!(failed, 0, "of {asked}");
    assert_eq!(node.origin_status("app", addresses[0]), "ejected");
}

#[test]
fn of_two_regions_one_goes_under_load_and_comes_back() {
    let is_up = Arc::new(AtomicBool::new(true));
    let near = [(); 2].map(|()| while_up(&is_up));
    let far = [(); 2].map(|()| Origin::start(|_| Reply::ok(&[], WELL)));
    let entry =
        |origin: &Origin, region: &str| format!("{{ address = \"{}\", region = \"{region}\" }}", origin.address);
    let origins: Vec<String> =
        near.iter().map(|origin| entry(origin, "eu")).chain(far.iter().map(|origin| entry(origin, "us"))).collect();
    let node = Node::start(&format!(
        "[node]\nregion = \"eu\"\n[pool.app]\norigins = [{}]\nretries = 2\nfailback_after = \"500ms\"\n\
         health = {{ path = \"/health\", interval = \"50ms\", rise = 2, fall = 2 }}\n\
         [site.shop]\nhosts = [\"*\"]\n{PASSED}",
        origins.join(", ")
    ));
    let mut at_first = 0;
    let (asked, failed) = under_load(&node, |failed| {
        more_at(&near[0], 200);
        is_up.store(false, Ordering::Relaxed);
        near.iter().for_each(|origin| node.wait_for_origin("app", origin.address, "down"));
        more_at(&far[0], 20);
        at_first = failed.load(Ordering::Relaxed);
        more_at(&far[0], 200);
        is_up.store(true, Ordering::Relaxed);
        near.iter().for_each(|origin| node.wait_for_origin("app", origin.address, "up"));
        eventually("the own region again", || {
            let (_, answer) = node.admin("GET", "/v1/pools", "");
            (answer["pools"][0]["levels"][0]["share"] == 1.0).then_some(())
        });
        more_at(&near[0], 200);
    });
    // Until the checks have seen it, the budget of retries does not suffice for all.
    assert_eq!(failed - at_first, 0, "of {asked}, {at_first} at first");
    let moves = node.log().iter().filter(|line| line.contains("go to other levels")).count();
    assert!(moves <= 8, "it goes and comes back, without flapping: {moves}");
}
