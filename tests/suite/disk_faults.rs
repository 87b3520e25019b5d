//! The cache fails open: whatever is the matter with a disk, clients get the origin's answer, it is said why, and the
//! tier recovers by itself. Each fault is really made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::client::Response;
use crate::harness::node::site;
use crate::harness::{Node, Origin, Reply, eventually};

const ROUTE: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

/// The library that makes calls fail, built once.
pub fn shim() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/shim/faults.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&path).arg(source).arg("-ldl").status();
        assert!(built.unwrap().success());
        (directory, path)
    });
    path
}

/// A node whose calls can be made to fail.
struct Faulty {
    node: Node,
    control: PathBuf,
}

fn config(cache: &Path, origin: &Origin, disk: &str) -> String {
    format!(
        "[node]\nstate_dir = \"state\"\n[cache.memory]\nmax_size = \"256KiB\"\nmax_object = \"4KiB\"\n\
         [cache.disk]\npath = \"{}\"\nmax_size = \"64MiB\"\n{disk}\n{}",
        cache.display(),
        site(&[origin.address], "", ROUTE)
    )
}

impl Faulty {
    fn start(origin: &Origin) -> Self {
        let directory = Arc::new(TempDir::new().unwrap());
        let cache = directory.path().join("cache");
        // Not beside the configuration, whose directory is watched.
        let control = directory.path().join("control").join("faults");
        fs::create_dir(control.parent().unwrap()).unwrap();
        let text = crate::harness::node::complete(&config(&cache, origin, ""));
        let path = directory.path().join("seawall.toml");
        fs::write(&path, text).unwrap();
        let variables = [
            ("LD_PRELOAD", shim().display().to_string()),
            ("FAULTS_CONTROL", control.display().to_string()),
            ("FAULTS_ROOT", cache.display().to_string()),
        ];
        let node = Node::spawn_with(directory.clone(), &["run", "--config", path.to_str().unwrap()], &variables);
        wait_for_scan(&node);
        Faulty { node, control }
    }

    /// From now on; an empty text ends it.
    fn faults(&self, text: &str) {
        // In one step: half a file must not be read.
        let aside = self.control.with_extension("new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, &self.control).unwrap();
    }
}

fn disk(node: &Node) -> Value {
    node.admin("GET", "/v1/status", "").1["cache"]["disk"][0].clone()
}

fn wait_for_scan(node: &Node) {
    eventually("the scan", || disk(node)["scan"]["done"].as_bool().filter(|done| *done));
}

fn wait_for_state(node: &Node, state: &str) {
    eventually(state, || (disk(node)["state"] == state).then_some(()));
}

fn troubles(node: &Node, word: &str) -> u64 {
    let disk = disk(node);
    let all = disk["troubles"].as_array().unwrap();
    all.iter().find(|trouble| trouble[0] == word).unwrap()[1].as_u64().unwrap()
}

/// Bodies too large for the memory tier of these nodes, so that only the disk has them.
fn large_by_path() -> Origin {
    Origin::start(|request| Reply::ok(&["Cache-Control: max-age=3600"], request.path().repeat(4000)))
}

fn ask(node: &Node, path: &str) -> Response {
    let response = node.get(path);
    assert_eq!((response.status, response.complete), (200, true), "{}", response.head);
    assert!(response.text() == path.repeat(4000), "the body is the origin's");
    response
}

/// Stores it and waits until that is done.
fn store(node: &Node, path: &str) {
    ask(node, path);
    eventually("a hit", || ask(node, path).is_hit().then_some(()));
}

#[test]
fn a_disk_that_cannot_be_read() {
    let origin = large_by_path();
    let faulty = Faulty::start(&origin);
    let node = &faulty.node;
    store(node, "/a");
    faulty.faults("read 5\n");
    let response = ask(node, "/a");
    assert!(response.cache().ends_with("detail=disk-io-error"), "{}", response.cache());
    assert!(troubles(node, "disk-io-error") >= 1);
    // After some more it is left alone, and that is said.
    eventually("it is given up", || {
        ask(node, "/a");
        (disk(node)["state"] == "out of service").then_some(())
    });
    let response = ask(node, "/a");
    assert!(response.cache().contains("detail=disk"), "{}", response.cache());
    assert!(node.wait_for_log("the disk cache is out of service").contains("Input/output error"));
    faulty.faults("");
    wait_for_state(node, "in service");
    eventually("a hit", || ask(node, "/a").is_hit().then_some(()));
}

#[test]
fn a_disk_that_cannot_be_written() {
    // EIO, and what is left of a permission that was lost.
    for (fault, words) in [("write 5\n", "Input/output error"), ("open 13\n", "Permission denied")] {
        let origin = large_by_path();
        let faulty = Faulty::start(&origin);
        let node = &faulty.node;
        store(node, "/kept");
        faulty.faults(fault);
        let mut number = 0;
        eventually("it is read only", || {
            number += 1;
            ask(node, &format!("/{number}"));
            (disk(node)["state"] != "in service").then_some(())
        });
        assert!(disk(node)["reason"].as_str().unwrap().contains(words), "{}", disk(node));
        let response = ask(node, "/new");
        assert!(response.cache().contains("detail=disk"), "{}", response.cache());
        faulty.faults("");
        wait_for_state(node, "in service");
        store(node, "/new");
        assert!(ask(node, "/kept").is_hit());
    }
}

#[test]
fn a_clock_that_jumps() {
    let origin = Origin::start(|request| match request.field("if-none-match") {
        Some(_) => Reply::head_only(304, &["Cache-Control: max-age=3600"]),
        None => Reply::ok(&["Cache-Control: max-age=3600", "ETag: \"a\""], request.path().repeat(4000)),
    });
    let faulty = Faulty::start(&origin);
    let node = &faulty.node;
    store(node, "/a");
    // A day ahead: it is stale, is validated, and so fresh by the new time.
    faulty.faults("clock 86400\n");
    let response = ask(node, "/a");
    assert!(response.cache().contains("fwd=stale; fwd-status=304"), "{}", response.cache());
    eventually("a hit", || ask(node, "/a").is_hit().then_some(()));
    // Back, and further: how old it is that came from the future nobody knows, so it is validated once.
    for seconds in [0, -86_400] {
        faulty.faults(&format!("clock {seconds}\n"));
        let response = ask(node, "/a");
        assert!(response.cache().contains("fwd=stale; fwd-status=304"), "{}", response.cache());
        let hit = eventually("a hit", || Some(ask(node, "/a")).filter(Response::is_hit));
        let cache = hit.cache();
        let ttl: u32 = cache.split_once("ttl=").unwrap().1.split(';').next().unwrap().parse().unwrap();
        assert!((3590..=3600).contains(&ttl), "{cache}");
        store(node, &format!("/{seconds}"));
    }
    assert_eq!(disk(node)["state"], "in service");
}

#[test]
fn a_panic_inside_a_fill() {
    // A connection for each fill: it is when one is made that the fault comes.
    let fields = ["Cache-Control: max-age=3600", "Connection: close"];
    let origin = Origin::start(move |request| Reply::ok(&fields, request.path().repeat(4000)));
    let faulty = Faulty::start(&origin);
    let node = &faulty.node;
    // What panics may be something else of the node that looks at the clock at that moment; then again.
    let mut number = 0;
    eventually("a fill panics", || {
        number += 1;
        faulty.faults(&format!("panic {number}\n"));
        let response = ask(node, &format!("/{number}"));
        response.cache().ends_with("fwd=bypass; detail=fill-lost").then_some(())
    });
    node.wait_for_log("panicked at");
    assert_eq!(node.metric("seawall_fills_lost_total"), Some(1.0));
    eventually("no fill is left", || (node.admin("GET", "/v1/status", "").1["cache"]["fills"] == 0).then_some(()));
    store(node, "/a");
}

/// A small file system of its own; `None` where this process may not mount one, and whoever runs the tests knows.
pub struct Mounted(TempDir);

impl Mounted {
    pub fn new(size: &str) -> Option<Self> {
        let mounted = Mounted(TempDir::new().unwrap());
        let done = mounted.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        // A test that shows nothing must not pass unnoticed.
        let is_known = std::env::var_os("SEAWALL_TESTS_WITHOUT_MOUNTS").is_some();
        assert!(
            done || is_known,
            "this test mounts a tmpfs: run it as root, or set SEAWALL_TESTS_WITHOUT_MOUNTS to skip it"
        );
        done.then_some(mounted)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn mount(&self, arguments: &[&str]) -> bool {
        Command::new("mount").args(arguments).arg(self.path()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status(); // it may not be mounted
    }
}

fn node_on(mounted: &Mounted, origin: &Origin, disk: &str) -> Node {
    let cache = mounted.path().join("cache");
    let node = Node::start(&config(&cache, origin, disk));
    wait_for_scan(&node);
    node
}

#[test]
fn a_file_system_that_is_full() {
    let Some(mounted) = Mounted::new("2m") else { return };
    let origin = large_by_path();
    let node = node_on(&mounted, &origin, "");
    store(&node, "/a");
    // Somebody else fills it.
    let other = mounted.path().join("other");
    let free =
        || String::from_utf8(Command::new("df").arg("--output=avail").arg(mounted.path()).output().unwrap().stdout);
    let kib: usize = free().unwrap().lines().nth(1).unwrap().trim().parse().unwrap();
    fs::write(&other, vec![1; (kib - 8) << 10]).unwrap();
    for number in 0..20 {
        ask(&node, &format!("/{number}"));
    }
    assert!(troubles(&node, "disk-full") >= 1);
    assert_eq!(disk(&node)["state"], "in service", "it is well, only full");
    fs::remove_file(other).unwrap();
    eventually("it stores again", || {
        ask(&node, "/b");
        ask(&node, "/b").is_hit().then_some(())
    });
}

#[test]
fn what_others_need_is_left_free() {
    let Some(mounted) = Mounted::new("4m") else { return };
    let origin = large_by_path();
    let node = node_on(&mounted, &origin, "min_free = \"2MiB\"");
    for number in 0..200 {
        ask(&node, &format!("/{number}"));
    }
    eventually("the cache gives way", || {
        let free = rustix_free(mounted.path());
        (free >= 2 << 20).then_some(())
    });
    assert!(disk(&node)["objects"].as_u64().unwrap() > 10);
}

fn rustix_free(path: &Path) -> u64 {
    let output = Command::new("df").args(["--block-size=1", "--output=avail"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().nth(1).unwrap().trim().parse().unwrap()
}

#[test]
fn a_file_system_that_becomes_read_only() {
    let Some(mounted) = Mounted::new("8m") else { return };
    let origin = large_by_path();
    let node = node_on(&mounted, &origin, "");
    store(&node, "/a");
    // Its lock is open for writing: only the mount as a whole can be made read-only, and not while a file is being written.
    eventually("the mount to be read-only", || mounted.mount(&["-o", "remount,bind,ro"]).then_some(()));
    eventually("it is read only", || {
        ask(&node, "/b");
        (disk(&node)["state"] == "read only").then_some(())
    });
    assert!(ask(&node, "/a").is_hit(), "what is there is still used");
    let response = ask(&node, "/c");
    assert!(response.cache().contains("fwd=uri-miss; detail=disk"), "{}", response.cache());
    assert!(mounted.mount(&["-o", "remount,bind,rw"]));
    wait_for_state(&node, "in service");
    store(&node, "/c");
}

#[test]
fn a_directory_that_is_removed() {
    let origin = large_by_path();
    let directory = TempDir::new().unwrap();
    let cache = directory.path().join("cache");
    let node = Node::start(&config(&cache, &origin, ""));
    wait_for_scan(&node);
    store(&node, "/a");
    fs::remove_dir_all(&cache).unwrap();
    assert!(!ask(&node, "/a").is_hit());
    eventually("it is taken into use anew", || {
        ask(&node, "/b");
        ask(&node, "/b").is_hit().then_some(())
    });
    assert_eq!(disk(&node)["state"], "in service");
}

#[test]
fn a_disk_that_is_not_mounted_is_not_written_to() {
    let Some(mounted) = Mounted::new("8m") else { return };
    let origin = large_by_path();
    let node = Node::start(&config(mounted.path(), &origin, ""));
    wait_for_scan(&node);
    store(&node, "/a");
    assert!(Command::new("umount").arg("--lazy").arg(mounted.path()).status().unwrap().success());
    wait_for_state(&node, "out of service");
    for _ in 0..3 {
        assert!(!ask(&node, "/a").is_hit());
    }
    let left: Vec<_> = fs::read_dir(mounted.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.len() <= 2, "nothing is stored below the mount point: {left:?}");
}

#[test]
fn too_many_open_files() {
    let origin = large_by_path();
    let directory = TempDir::new().unwrap();
    let node = Node::start(&config(&directory.path().join("cache"), &origin, ""));
    wait_for_scan(&node);
    store(&node, "/a");
    let mut client = node.client();
    client.get("/warm", &[]);
    let pid = node.pid();
    let limit = |number: usize| {
        let limits = format!("--nofile={number}:");
        assert!(Command::new("prlimit").arg("--pid").arg(pid.to_string()).arg(limits).status().unwrap().success());
    };
    // Again if a connection that was still being closed has left a descriptor free.
    eventually("there is no descriptor for a file", || {
        let open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        limit((0..).find(|number| !open.contains(&usize::to_string(number))).unwrap());
        for path in ["/a", "/new"] {
            let response = client.get(path, &[]);
            assert_eq!((response.status, response.complete), (200, true), "{}", response.head);
            assert!(response.text() == path.repeat(4000));
        }
        limit(1024);
        (troubles(&node, "disk-no-descriptors") >= 1).then_some(())
    });
    assert_eq!(disk(&node)["state"], "in service");
    store(&node, "/new");
}

#[test]
fn a_directory_that_another_process_uses() {
    let origin = large_by_path();
    let directory = TempDir::new().unwrap();
    let cache = directory.path().join("cache");
    let mut first = Node::start(&config(&cache, &origin, ""));
    wait_for_scan(&first);
    let second = Node::start(&config(&cache, &origin, ""));
    wait_for_state(&second, "out of service");
    assert!(disk(&second)["reason"].as_str().unwrap().contains("another process uses it"));
    assert!(!ask(&second, "/a").is_hit());
    first.kill();
    wait_for_state(&second, "in service");
    store(&second, "/a");
}

#[test]
fn a_disk_that_was_away_brings_nothing_back_that_was_purged() {
    let origin = large_by_path();
    let directory = Arc::new(TempDir::new().unwrap());
    let cache = directory.path().join("cache");
    let with = crate::harness::node::complete(&config(&cache, &origin, ""));
    let (head, rest) = with.split_once("[cache.disk]").unwrap();
    let without = format!("{head}{}", &rest[rest.find("[pool").unwrap()..]);
    let mut node = Node::start_in(directory.clone(), &with);
    wait_for_scan(&node);
    store(&node, "/purged");
    std::fs::write(node.config_path(), without).unwrap();
    eventually("it is gone", || disk(&node).is_null().then_some(()));
    node.purge(r#"{"all": true}"#);
    eventually("the purge is forgotten", || {
        (node.admin("GET", "/v1/status", "").1["purges"]["marks"] == 0).then_some(())
    });
    std::fs::write(node.config_path(), &with).unwrap();
    eventually("it is there again", || (disk(&node)["state"] == "in service").then_some(()));
    wait_for_scan(&node);
    let again = ask(&node, "/purged");
    assert!(!again.is_hit(), "{}", again.head);
    store(&node, "/kept");
    node.signal("TERM");
    assert!(node.wait());
    let node = Node::start_in(directory, &with);
    wait_for_scan(&node);
    assert!(ask(&node, "/kept").is_hit(), "what was stored since is believed");
}
