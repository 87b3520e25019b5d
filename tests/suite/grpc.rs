//! Calls by gRPC through the node, with the real library on both sides (`tests/suite/grpc/calls.py`).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::{Node, eventually, h2};

/// Python with the library, as Debian has it.
fn calls() -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/grpc/calls.py"));
    command
}

struct Server(Child);

impl Server {
    fn start() -> (Self, u16) {
        let piped = calls().arg("server").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = piped.expect("python3 runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("a port: is python3-grpcio installed? `make test-tools` does it");
        (Server(child), port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take()); // it ends with that
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn node(port: u16, listen: &str) -> Node {
    let directory = Arc::new(TempDir::new().unwrap());
    h2::certificate(directory.path(), "test", &[h2::HOST]);
    let config = format!(
        "[cache.memory]\nfill_buffer = \"256MiB\"\n[limits]\nmax_h2_streams = 1100\nread_timeout = \"1s\"\n{listen}\
         [pool.app]\norigins = [\"127.0.0.1:{port}\"]\nprotocol = \"h2\"\nread_timeout = \"1s\"\ntotal_timeout = \"1s\"\n\
         [site.shop]\nhosts = [\"*\"]\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n"
    );
    Node::start_in(directory, &config)
}

/// Unary calls and streams of all kinds, errors, deadlines, cancellation from either side, streams that say nothing for
/// longer than any `read_timeout`, and a thousand at one time on one connection.
fn every_kind_of_call(listen: &str, ca: &str) {
    let (_server, port) = Server::start();
    let node = node(port, listen);
    let ca = if ca.is_empty() { "-".to_owned() } else { node.directory.path().join(ca).display().to_string() };
    let output = calls().args(["client", &node.address().to_string(), &ca]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("many: "), "{said}\n{:?}", node.log());
}

#[test]
fn calls_by_grpc_without_tls() {
    every_kind_of_call("[[listen]]\naddress = \"127.0.0.1:0\"\nprotocols = [\"h1\", \"h2\"]\n", "");
}

#[test]
fn calls_by_grpc_over_tls() {
    let certificate = "[[certificate]]\ncert = \"test.pem\"\nkey = \"test.key\"\n";
    every_kind_of_call(&format!("[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n{certificate}"), "test.pem");
}

#[test]
fn origins_are_checked_by_the_health_protocol_of_grpc() {
    let (_server, port) = Server::start();
    for (service, status, why) in [
        ("", "up", "null"),
        ("well", "up", "null"),
        ("sick", "down", "\"it says that it does not serve\""),
        ("none", "down", "\"gRPC status 5 unknown service\""),
    ] {
        let health = format!("health = {{ grpc = {service:?}, interval = \"20ms\", rise = 1, fall = 1 }}");
        let node = Node::start(&format!(
            "[pool.app]\norigins = [\"127.0.0.1:{port}\"]\nprotocol = \"h2\"\n{health}\n\
             [site.shop]\nhosts = [\"*\"]\n[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n"
        ));
        let address = ([127, 0, 0, 1], port).into();
        if status == "up" {
            // It is up before it was asked.
            eventually("a check", || {
                node.origin("app", address)["checks"]["passed"].as_u64().filter(|passed| *passed > 2)
            });
        }
        node.wait_for_origin("app", address, status);
        assert_eq!(node.origin("app", address)["last_error"].to_string(), why, "{service}");
    }
}
