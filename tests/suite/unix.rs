//! Listeners on Unix sockets.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::h2::certificate;
use crate::harness::node::site;
use crate::harness::origin::Gate;
use crate::harness::{Node, Origin, PATIENCE, Reply, Step, eventually};

const ROUTES: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

fn config(origin: &Origin, socket: &Path, listener: &str, more: &str) -> String {
    format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\nname = \"local\"\naddress = \"unix:{}\"\n{listener}\n\
         [admin]\naddress = \"127.0.0.1:0\"\n{more}\n{}",
        socket.display(),
        site(&[origin.address], "", ROUTES)
    )
}

/// A node with a socket in its directory.
fn start(origin: &Origin, listener: &str, more: &str) -> (Node, PathBuf) {
    let directory = Arc::new(TempDir::new().unwrap());
    certificate(directory.path(), "test", &["shop.example"]);
    let socket = directory.path().join("http.sock");
    let config = config(origin, &socket, listener, more);
    (Node::start_in(directory, &config), socket)
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that is answered to one request on a connection of its own.
fn ask(socket: &Path, path: &str, fields: &str) -> String {
    let mut stream = connect(socket);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n{fields}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_proxy_on_the_same_machine_comes_by_a_socket() {
    let origin = Origin::start(|request| {
        let told = |name| request.field(name).unwrap_or("-").to_owned();
        Reply::ok(&["Cache-Control: no-store"], format!("{} {}", told("x-forwarded-for"), told("x-forwarded-port")))
    });
    let (node, socket) = start(&origin, "", "[node]\ntrusted_proxies = [\"127.0.0.1\"]\n");
    for (fields, expected) in [
        ("", "127.0.0.1 80"),
        ("X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7, 127.0.0.1 80"),
        ("X-Forwarded-For: 10.9.9.9, 192.0.2.8\r\n", "10.9.9.9, 192.0.2.8, 127.0.0.1 80"),
    ] {
        let answer = ask(&socket, "/a", fields);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(expected), "{answer}");
    }
    eventually("the log names the client", || node.stdout().contains("\"client\":\"192.0.2.8\"").then_some(()));
    let (_, listens) = node.admin("GET", "/v1/config", "");
    assert!(listens["listen"][1].as_str().unwrap().starts_with("unix:/"), "{listens}");
    // By the PROXY protocol, from HAProxy or nginx: who is named is the client.
    let (_node, socket) = start(&origin, "proxy_from = [\"127.0.0.1\"]\n", "");
    let mut stream = connect(&socket);
    stream
        .write_all(b"PROXY TCP4 192.0.2.1 10.0.0.1 50000 8080\r\nGET / HTTP/1.0\r\nHost: shop.example\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("192.0.2.1 80"), "{answer}");
}

#[test]
fn a_client_speaks_what_it_speaks_elsewhere() {
    let body: Vec<u8> = (0..3_000_000_u32).map(|byte| (byte % 251) as u8).collect();
    let whole = body.clone();
    let origin = Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=60"], &whole));
    let directory = TempDir::new().unwrap();
    let disk = format!(
        "[cache.memory]\nmax_object = \"64KiB\"\n[node]\nstate_dir = \"{0}/state\"\n\
         [cache.disk]\npath = \"{0}/disk\"\nmax_size = \"64MiB\"\n",
        directory.path().display()
    );
    let got = directory.path().join("got");
    let certificates = "[[certificate]]\ncert = \"test.pem\"\nkey = \"test.key\"\n";
    for (listener, scheme, more, version) in [
        ("", "http", vec![], "1.1"),
        ("protocols = [\"h1\", \"h2\"]", "http", vec!["--http2-prior-knowledge"], "2"),
        ("tls = true", "https", vec!["--insecure"], "2"),
        ("tls = true", "https", vec!["--insecure", "--http1.1"], "1.1"),
    ] {
        let certificates = if scheme == "https" { certificates } else { "" };
        let (node, socket) = start(&origin, listener, &format!("{disk}{certificates}"));
        for round in 0..2 {
            let run = Command::new("curl")
                .args(["-s", "-S", "--max-time", "20", "-w", "%{http_version} %{http_code}", "-D", "-", "-o"])
                .arg(&got)
                .arg("--unix-socket")
                .arg(&socket)
                .args(&more)
                .arg(format!("{scheme}://shop.example/big"))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&run.stdout).to_lowercase();
            assert!(said.ends_with(&format!("{version} 200")), "{said} {}", String::from_utf8_lossy(&run.stderr));
            assert!(std::fs::read(&got).unwrap() == body, "{said}");
            if round == 0 {
                eventually("it to be stored", || {
                    (node.admin("GET", "/v1/status", "").1["cache"]["disk"][0]["objects"] == 1).then_some(())
                });
            } else {
                assert!(said.contains("; hit"), "{said}");
            }
        }
        node.purge("{\"all\": true}");
    }
}

#[test]
fn who_takes_nothing_or_leaves_is_noticed() {
    let gate = Gate::default();
    let wait = gate.clone();
    let origin = Origin::start(move |request| match request.path() {
        "/slow" => vec![Step::Wait(wait.clone()), Step::Close],
        _ => Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; 4 << 20]),
    });
    let (node, socket) = start(&origin, "", "[limits]\nwrite_timeout = \"300ms\"\nread_timeout = \"1s\"\n");
    let mut stalls = connect(&socket);
    stalls.write_all(b"GET /big HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
    eventually("the stalled client to be ended", || node.stdout().contains("the client takes nothing").then_some(()));
    let mut leaves = connect(&socket);
    leaves.write_all(b"GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
    origin.wait_for(2);
    drop(leaves);
    eventually("the client to be missed", || node.stdout().contains("\"status\":499").then_some(()));
    gate.open();
}

#[test]
fn the_file_is_there_while_the_node_listens_and_is_no_others() {
    let origin = Origin::start(|_| Reply::ok(&[], "here"));
    let (mut node, socket) = start(&origin, "mode = \"0606\"\n", "");
    let mode = || std::fs::symlink_metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o606);
    // A second node on the same socket is refused, and does no harm to the first.
    let second = |path: &Path| {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("second.toml");
        std::fs::write(&file, config(&origin, path, "", "")).unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_seawall"))
            .args(["run", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (run.status.success(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    let (started, said) = second(&socket);
    assert!(!started && said.contains("in use") && said.contains("ss -lxp"), "{said}");
    assert!(ask(&socket, "/", "").ends_with("here"));
    // What is no socket stays as it is.
    let file = node.directory.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let (started, said) = second(&file);
    assert!(!started && said.contains("no socket") && std::fs::read(&file).unwrap() == b"mine", "{said}");
    let (started, said) = second(&node.directory.path().join("none/http.sock"));
    assert!(!started && said.contains("RuntimeDirectory"), "{said}");
    // One that was killed leaves its file behind, and the next one takes its place.
    let directory = node.directory.clone();
    node.kill();
    assert!(std::fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    let mut next = Node::start_in(directory, &config(&origin, &socket, "", ""));
    assert_eq!(mode(), 0o660);
    assert!(ask(&socket, "/", "").ends_with("here"));
    next.signal("TERM");
    assert!(next.wait());
    assert!(!socket.exists(), "it goes with the node");
    // Who is about to listen there keeps others out, before there is a socket.
    let lock = std::fs::File::options().write(true).open(socket.with_extension("sock.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (started, said) = second(&socket);
    assert!(!started && said.contains("in use") && !socket.exists(), "{said}");
}

/// So another program's user may connect, and is not let into the node's own group.
#[test]
fn a_socket_has_the_group_of_a_directory_that_says_so() {
    const ANOTHER: u32 = 65_534;
    let origin = Origin::start(|_| Reply::ok(&[], "x"));
    let directory = Arc::new(TempDir::new().unwrap());
    let place = directory.path().join("sockets");
    std::fs::create_dir(&place).unwrap();
    if std::os::unix::fs::chown(&place, None, Some(ANOTHER)).is_err() {
        println!("skipped: only root gives files to other groups");
        return;
    }
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o2750)).unwrap();
    let socket = place.join("http.sock");
    let _node = Node::start_in(directory.clone(), &config(&origin, &socket, "", ""));
    assert!(ask(&socket, "/", "").starts_with("HTTP/1.1 200"));
    let found = std::fs::metadata(&socket).unwrap();
    assert_eq!((found.gid(), found.mode() & 0o777), (ANOTHER, 0o660));
}
