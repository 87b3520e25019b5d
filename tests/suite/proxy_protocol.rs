//! Connections that a balancer carries, which says by the PROXY protocol whose they are.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::h2::certificate;
use crate::harness::node::site;
use crate::harness::origin::Request;
use crate::harness::{Client, Node, Origin, Reply, eventually};

/// An origin that answers with the client that it is told of.
fn origin() -> Origin {
    Origin::start(|request: &Request| Reply::ok(&[], request.field("x-forwarded-for").unwrap_or("-")))
}

fn node(origin: &Origin, listener: &str, more: &str) -> Node {
    let directory = Arc::new(TempDir::new().unwrap());
    certificate(directory.path(), "test", &["shop.example"]);
    let sections = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\nproxy_from = [\"127.0.0.1\"]\n{listener}\n[admin]\naddress = \"127.0.0.1:0\"\n{more}\n"
    );
    let routes = "[[site.shop.route]]\npath = \"/few\"\npool = \"app\"\nallow = [\"192.0.2.0/24\"]\n\
                  [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
    Node::start_in(directory, &format!("{sections}{}", site(&[origin.address], "", routes)))
}

const LINE: &str = "PROXY TCP4 192.0.2.1 10.0.0.1 50000 80\r\n";

/// Version 2, from 192.0.2.1:50000 to 10.0.0.1:80.
fn binary(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12, 192, 0, 2, 1, 10, 0, 0, 1, 0xc3, 0x50, 0, 80]);
    header
}

#[test]
fn who_a_proxy_names_is_the_client() {
    let origin = origin();
    let node = node(&origin, "", "");
    let request = "GET /few HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    for (header, client, status) in [
        (LINE.as_bytes().to_vec(), "192.0.2.1", 200),
        (binary(1), "192.0.2.1", 200),
        (b"PROXY TCP4 198.51.100.1 10.0.0.1 50000 80\r\n".to_vec(), "198.51.100.1", 403),
        (binary(0), "127.0.0.1", 403), // the proxy itself, which checks whether we live
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", 403),
    ] {
        for in_pieces in [false, true] {
            let mut connection = Client::connect(node.address());
            let bytes = [&header, request.as_bytes()].concat();
            match in_pieces {
                false => connection.send(&bytes),
                true => bytes.iter().for_each(|byte| connection.send([*byte])),
            }
            let answer = connection.response("GET");
            assert_eq!(answer.status, status, "{client} {header:?}");
            assert!(status != 200 || answer.text() == client, "{}", answer.text());
            // It goes for all requests of the connection.
            assert_eq!(connection.get("/other", &[]).text(), client);
        }
        let logged = format!("\"client\":\"{client}\"");
        eventually("the log names it", || node.stdout().contains(&logged).then_some(()));
    }
}

#[test]
fn others_are_served_as_ever_and_proxies_have_to_say_it() {
    let origin = origin();
    let node = node(&origin, "", "[limits]\nheader_timeout = \"300ms\"\n");
    let mut other = Client::connect_from([127, 0, 0, 2], node.address());
    assert_eq!(other.get("/a", &[]).text(), "127.0.0.2");
    let mut pretends = Client::connect_from([127, 0, 0, 2], node.address());
    pretends.send(format!("{LINE}GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
    let refused = pretends.response("GET");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("proxy_from of the listener"), "{}", refused.text());
    let mut pretends = Client::connect_from([127, 0, 0, 2], node.address());
    pretends.send(binary(1));
    assert!(pretends.response("GET").text().contains("proxy_from of the listener"));
    for sent in ["GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n", "PROXY TCP4 192.0", ""] {
        let mut connection = Client::connect(node.address());
        connection.send(sent);
        assert!(connection.is_closed(), "{sent:?}");
    }
    eventually("all are counted", || (node.metric("seawall_proxy_header_failures_total") == Some(3.0)).then_some(()));
}

/// The proxy's own address is no crowd; those that it names are.
#[test]
fn connections_count_for_whom_they_are() {
    let origin = origin();
    let node = node(&origin, "", "[limits]\nmax_connections = 100\n");
    let open = |name: &dyn Fn(u8) -> String| -> Vec<Client> {
        let named = (0..40).map(|number| {
            let mut client = Client::connect(node.address());
            client.send(format!("PROXY TCP4 {} 10.0.0.1 50000 80\r\n", name(number)));
            client.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
            client.try_response();
            client
        });
        named.collect()
    };
    let connections = || node.metric("seawall_connections").unwrap();
    let of_many = open(&|number| format!("203.0.{number}.1"));
    assert_eq!(connections(), 40.0);
    drop(of_many);
    eventually("they are closed", || (connections() == 0.0).then_some(()));
    let of_one = open(&|number| format!("203.0.113.{number}"));
    assert!(connections() <= 32.0, "{}", connections());
    drop(of_one);
}

/// HAProxy in front, which carries TLS without looking into it.
struct HaProxy {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl HaProxy {
    fn start(to: SocketAddr, option: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen front\n bind {address}\n server node {to} {option}\n"
        );
        let path = directory.path().join("haproxy.cfg");
        std::fs::write(&path, config).unwrap();
        let command = Command::new("/usr/sbin/haproxy").arg("-db").arg("-f").arg(&path).stderr(Stdio::null()).spawn();
        let child = command.expect("haproxy is installed (make test does it)");
        let haproxy = HaProxy { child, address, _directory: directory };
        eventually("haproxy to listen", || std::net::TcpStream::connect(address).ok());
        haproxy
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

#[test]
fn haproxy_carries_connections_of_either_protocol() {
    let tls = "tls = true\n[[certificate]]\ncert = \"test.pem\"\nkey = \"test.key\"";
    for (listener, scheme) in [("", "http"), (tls, "https")] {
        for option in ["send-proxy", "send-proxy-v2"] {
            let origin = origin();
            let node = node(&origin, listener, "");
            let haproxy = HaProxy::start(node.address(), option);
            for protocol in ["--http1.1", "--http2"] {
                let output = Command::new("curl")
                    .args(["-sS", "--max-time", "20", "--interface", "127.0.0.3", "-k", protocol])
                    .args(["--connect-to", &format!("shop.example:80:{}", haproxy.address)])
                    .args(["--connect-to", &format!("shop.example:443:{}", haproxy.address)])
                    .arg(format!("{scheme}://shop.example/a"))
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(String::from_utf8_lossy(&output.stdout), "127.0.0.3", "{option} {scheme} {protocol} {said}");
            }
        }
    }
}

/// A proxy that ends TLS says so in its header, and then its clients have come by HTTPS.
#[test]
fn by_tls_is_who_has_come_to_the_proxy_by_it() {
    let origin = Origin::start(|request| Reply::ok(&[], request.field("x-forwarded-proto").unwrap_or("-")));
    let node = node(&origin, "name = \"front\"", "");
    let tls = [&[0x20, 0, 15, 1, 0, 0, 0, 0, 0x21, 0, 7][..], b"TLSv1.3"].concat();
    for (extras, scheme) in [(&[][..], "http"), (&tls, "https"), (&[0x20, 0, 5, 0, 0, 0, 0, 0], "http")] {
        let mut header = binary(1);
        header[15] += extras.len() as u8;
        header.extend(extras);
        let mut connection = Client::connect(node.address());
        connection
            .send([&header, &b"GET /a HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Proto: ftp\r\n\r\n"[..]].concat());
        assert_eq!(connection.response("GET").text(), scheme, "{extras:?}");
    }
}
