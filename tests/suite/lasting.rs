//! What purges and unsafe requests have put out of use stays so: whatever else is purged, over restarts, on disks that are
//! away, cannot be written or hang, and when the power fails. And nothing else is lost by it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::disk_faults::{Mounted, shim};
use crate::harness::client::Response;
use crate::harness::node::{complete, site};
use crate::harness::origin::{Gate, Step};
use crate::harness::{Client, Node, Origin, Reply, eventually};

const ROUTE: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

/// A node whose disk can be made to fail, and its power.
struct Place {
    directory: Arc<TempDir>,
    config: String,
    /// Under which calls fail.
    root: PathBuf,
}

impl Place {
    /// Nothing of the bodies of `origin` is kept in memory; `disks`: what `[cache.disk]` says of directories.
    fn new(origin: &Origin, disks: &str) -> Self {
        let directory = Arc::new(TempDir::new().unwrap());
        fs::create_dir(directory.path().join("control")).unwrap();
        fs::create_dir(directory.path().join("lost")).unwrap();
        let config = format!(
            "[node]\nstate_dir = \"state\"\n[cache.memory]\nmax_size = \"256KiB\"\nmax_object = \"4KiB\"\n\
             [limits]\nmax_requests_per_connection = 1000000\n[cache.disk]\n{disks}\n{}",
            site(&[origin.address], "", ROUTE)
        );
        let root = directory.path().join("cache");
        Place { directory, config, root }
    }

    fn with_one_disk(origin: &Origin) -> Self {
        Self::new(origin, "path = \"cache\"\nmax_size = \"256MiB\"")
    }

    fn start(&self) -> Node {
        let path = self.directory.path().join("seawall.toml");
        fs::write(&path, complete(&self.config)).unwrap();
        let variables = [
            ("LD_PRELOAD", shim().display().to_string()),
            ("FAULTS_CONTROL", self.directory.path().join("control/faults").display().to_string()),
            ("FAULTS_ROOT", self.root.display().to_string()),
            ("FAULTS_LOST", self.directory.path().join("lost").display().to_string()),
        ];
        let node = Node::spawn_with(self.directory.clone(), &["run", "--config", path.to_str().unwrap()], &variables);
        eventually("the scan", || disks(&node).iter().all(|disk| disk["scan"]["done"] == true).then_some(()));
        node
    }

    /// From now on; an empty text ends it.
    fn faults(&self, text: &str) {
        let aside = self.directory.path().join("control/new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.directory.path().join("control/faults")).unwrap();
    }

    /// Ends the node as a power failure does: what was not synced is as it was before.
    fn fail_power(&self, mut node: Node) {
        node.kill();
        let lost = self.directory.path().join("lost");
        let mut names: Vec<String> =
            fs::read_dir(&lost).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_by_key(|name| name.starts_with('d')); // names first: then data is put into what is there again
        for name in names {
            let path = name[1..].replace('!', "/");
            match name.starts_with('n') {
                true => fs::rename(lost.join(&name), path).unwrap(),
                false => {
                    let before = fs::read(lost.join(&name)).unwrap();
                    fs::remove_file(lost.join(&name)).unwrap();
                    if Path::new(&path).exists() {
                        fs::write(path, before).unwrap();
                    }
                }
            }
        }
    }

    /// The files of stored objects.
    fn files(&self, root: &str) -> Vec<PathBuf> {
        let all = fs::read_dir(self.directory.path().join(root)).unwrap().map(|entry| entry.unwrap().path());
        let fan_out = all.filter(|path| path.is_dir() && path.file_name().unwrap() != "tmp");
        fan_out.flat_map(|path| fs::read_dir(path).unwrap()).map(|entry| entry.unwrap().path()).collect()
    }
}

fn disks(node: &Node) -> Vec<Value> {
    node.admin("GET", "/v1/status", "").1["cache"]["disk"].as_array().unwrap().clone()
}

fn marks(node: &Node) -> u64 {
    node.admin("GET", "/v1/status", "").1["purges"]["marks"].as_u64().unwrap()
}

fn troubles(node: &Node, word: &str) -> u64 {
    let of = |disk: &Value| {
        let all = disk["troubles"].as_array().unwrap().clone();
        all.iter().find(|trouble| trouble[0] == word).map_or(0, |trouble| trouble[1].as_u64().unwrap())
    };
    disks(node).iter().map(of).sum()
}

/// Longer than two sweeps take.
fn wait_long(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Bodies too large for memory; POST changes nothing but what is cached.
fn large() -> Origin {
    Origin::start(|request| match request.head.starts_with("GET") {
        true => Reply::ok(&["Cache-Control: max-age=3600", "ETag: \"a\""], request.path().repeat(2000)),
        false => Reply::ok(&[], "done"),
    })
}

fn store(node: &Node, paths: impl IntoIterator<Item = String>) {
    let mut client = node.client();
    for path in paths {
        client.get(&path, &[]);
        eventually("a hit", || client.get(&path, &[]).is_hit().then_some(()));
    }
}

fn purge_urls(node: &Node, count: usize, of: impl Fn(usize) -> String) {
    let all: Vec<usize> = (0..count).collect();
    for some in all.chunks(1000) {
        let urls: Vec<String> = some.iter().map(|number| format!("http://shop.example{}", of(*number))).collect();
        node.purge(&serde_json::json!({ "urls": urls }).to_string());
    }
}

fn post(node: &Node, path: &str) -> Response {
    let response = node.request("POST", path, &[], "x");
    assert_eq!(response.status, 200);
    response
}

#[test]
fn a_bulk_purge_leaves_the_rest_on_disk() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |request| match (request.path(), request.head.starts_with("GET")) {
        ("/slow", _) => [vec![Step::Wait(opened.clone())], Reply::ok(&["Cache-Control: max-age=3600"], "x")].concat(),
        (path, true) => Reply::ok(&["Cache-Control: max-age=3600", "ETag: \"a\""], path.repeat(2000)),
        _ => Reply::ok(&[], "done"),
    });
    let place = Place::with_one_disk(&origin);
    let node = place.start();
    store(&node, (0..200).map(|number| format!("/kept/{number}")));
    store(&node, ["/0", "/60000", "/late"].map(str::to_owned));
    // A fill that takes long keeps all purges after the first from being forgotten, whenever a sweep comes.
    node.purge("{\"url\": \"http://shop.example/none\"}");
    let (mut slow, requests) = (node.client(), origin.count());
    slow.send("GET /slow HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    origin.wait_for(requests + 1);
    purge_urls(&node, 101_000, |number| format!("/{number}"));
    assert!(marks(&node) > 100_000);
    // The next sweep has something to remove, with more purges in force than are kept for a disk that cannot be swept.
    let files = place.files("cache").len();
    node.purge("{\"url\": \"http://shop.example/late\"}");
    wait_long("it is removed", || place.files("cache").len() < files);
    let mut early = node.client();
    let lost = (0..200).filter(|number| !early.get(&format!("/kept/{number}"), &[]).is_hit()).count();
    assert_eq!(lost, 0, "while the purges are in force");
    gate.open();
    slow.response("GET");
    wait_long("the purges are forgotten", || marks(&node) == 0);
    let mut client = node.client();
    let lost = (0..200).filter(|number| !client.get(&format!("/kept/{number}"), &[]).is_hit()).count();
    assert_eq!((lost, troubles(&node, "disk-corrupt"), troubles(&node, "disk-outdated")), (0, 0, 0));
    assert!(!node.get("/60000").is_hit());
    store(&node, ["/60000".to_owned()]);
    // What has survived is known to have, also after a restart.
    let mut node = node;
    node.kill();
    let node = place.start();
    let mut client = node.client();
    assert_eq!((0..200).filter(|number| !client.get(&format!("/kept/{number}"), &[]).is_hit()).count(), 0);
    assert!(client.get("/60000", &[]).is_hit(), "it was stored anew since");
}

#[test]
fn purges_are_forgotten_while_objects_are_being_stored_anew() {
    // More than memory has room for, so each GET puts something on disk in the place of what is there. What was there goes
    // more slowly than that, so there is always something that is still to go.
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=3600"], "x".repeat(3900)));
    let place = Place::with_one_disk(&origin);
    let node = place.start();
    place.faults("slow-unlink 50\n");
    let (address, stop) = (node.address(), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for number in (0..).take_while(|_| !stop.load(Ordering::SeqCst)) {
                    client.get(&format!("/{writer}/{}", number % 50), &["Cache-Control: no-cache"]);
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
        })
        .collect();
    wait_long("replacements", || disks(&node)[0]["written"].as_u64().unwrap() > 200);
    purge_urls(&node, 1000, |number| format!("/other/{number}"));
    let started = Instant::now();
    while marks(&node) > 0 && started.elapsed() < Duration::from_secs(25) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let left = marks(&node);
    stop.store(true, Ordering::SeqCst);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(left, 0);
}

#[test]
fn what_an_unsafe_request_has_changed_does_not_come_back_from_a_disk_that_cannot_be_written() {
    for is_killed in [true, false] {
        let origin = large();
        let place = Place::with_one_disk(&origin);
        let mut node = place.start();
        store(&node, ["/a".to_owned(), "/kept".to_owned()]);
        place.faults("unlink 30\nwrite 30\n");
        let response = post(&node, "/a");
        assert!(!response.cache().contains("not-durable"), "{}", response.cache());
        eventually("it is read only", || (disks(&node)[0]["state"] == "read only").then_some(()));
        match is_killed {
            true => node.kill(),
            false => {
                node.signal("TERM");
                assert!(node.wait());
            }
        }
        // Read only still, then not.
        for faults in ["unlink 30\nwrite 30\n", ""] {
            place.faults(faults);
            let mut node = place.start();
            assert!(node.get("/kept").is_hit(), "{faults}");
            let response = node.get("/a");
            assert!(!response.is_hit(), "{faults}: {}", response.cache());
            node.kill();
        }
    }
}

#[test]
fn what_was_stored_after_an_unsafe_request_is_there_after_a_restart() {
    let origin = large();
    let place = Place::with_one_disk(&origin);
    let mut node = place.start();
    store(&node, ["/a".to_owned()]);
    post(&node, "/a");
    store(&node, ["/a".to_owned()]);
    node.signal("TERM");
    assert!(node.wait());
    let journal = fs::read_to_string(place.directory.path().join("state/doomed.log")).unwrap();
    assert_eq!(journal, "", "all is settled");
    assert!(place.start().get("/a").is_hit());
}

#[test]
fn what_was_being_written_to_disk_when_it_was_changed_does_not_come_back() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |request| match request.head.starts_with("GET") {
        true => {
            let head = Reply::head(200, &["Cache-Control: max-age=3600", "Content-Length: 2000000"]);
            let half = Step::Send(vec![b'x'; 1_000_000]);
            vec![Step::Send(head), half.clone(), Step::Wait(opened.clone()), half]
        }
        false => Reply::ok(&[], "done"),
    });
    let place = Place::with_one_disk(&origin);
    let mut node = place.start();
    let mut client = node.client();
    client.send("GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    client.head();
    post(&node, "/a");
    gate.open();
    let mut read = 0;
    while read < 2_000_000 {
        let some = client.read_some().len();
        assert!(some > 0, "after {read} bytes");
        read += some;
    }
    let nothing = || place.files("cache").is_empty();
    for _ in 0..50 {
        assert!(nothing(), "it was put in its place");
        std::thread::sleep(Duration::from_millis(2));
    }
    node.kill();
    let node = place.start();
    let response = node.get("/a");
    assert!(!response.is_hit(), "{}", response.cache());
}

#[test]
fn a_purge_that_could_not_be_written_costs_the_disk_nothing() {
    let origin = large();
    let mut place = Place::with_one_disk(&origin);
    place.root = place.directory.path().join("state");
    let node = place.start();
    store(&node, (0..=20).map(|number| format!("/{number}")));
    place.faults("write 28\n");
    assert_eq!(node.admin("POST", "/v1/purge", "{\"url\": \"http://shop.example/20\"}").0, 500);
    let files = place.files("cache").len();
    wait_long("the sweep", || place.files("cache").len() < files);
    store(&node, ["/since".to_owned()]);
    stop(node);
    place.faults("");
    let node = place.start();
    let mut client = node.client();
    let lost: Vec<u32> = (0..20).filter(|number| !client.get(&format!("/{number}"), &[]).is_hit()).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(client.get("/since", &[]).is_hit());
}

#[test]
fn what_was_on_a_disk_that_was_away_meanwhile_is_not_believed() {
    let origin = large();
    let disks_of = |paths: &str| format!("paths = [{paths}]");
    let (one, two) = ("{ path = \"cache\", max_size = \"64MiB\" },", "{ path = \"other\", max_size = \"64MiB\" },");
    let mut place = Place::new(&origin, &disks_of(&[one, two].concat()));
    let node = place.start();
    store(&node, (0..20).map(|number| format!("/{number}")));
    assert!(!place.files("cache").is_empty() && !place.files("other").is_empty());
    stop(node);
    let both = place.config.clone();
    place.config = both.replace(two, "");
    let node = place.start();
    (0..10).for_each(|number| drop(post(&node, &format!("/{number}"))));
    stop(node);
    place.config = both;
    let node = place.start();
    let mut client = node.client();
    let hits: Vec<u32> = (0..20).filter(|number| client.get(&format!("/{number}"), &[]).is_hit()).collect();
    assert!(hits.iter().all(|number| *number >= 10), "{hits:?}");
    assert!(!hits.is_empty(), "of the disk that was there nothing else is lost");
}

fn stop(mut node: Node) {
    node.signal("TERM");
    assert!(node.wait());
}

#[test]
fn that_an_invalidation_will_not_last_is_told() {
    let origin = Origin::start(|request| match request.head.starts_with("GET") {
        true => Reply::ok(&["Cache-Control: max-age=3600", "Cache-Groups: \"g\""], request.path().repeat(2000)),
        false => Reply::ok(&["Cache-Group-Invalidation: \"g\""], "done"),
    });
    let mut place = Place::with_one_disk(&origin);
    place.root = place.directory.path().join("state");
    let node = place.start();
    store(&node, ["/a".to_owned(), "/b".to_owned()]);
    place.faults("write 28\n");
    let response = post(&node, "/a");
    assert!(response.cache().ends_with("; detail=invalidation-not-durable"), "{}", response.cache());
    assert!(!node.get("/a").is_hit() && !node.get("/b").is_hit(), "it is in force all the same");
    assert!(node.get("/a").is_hit());
    let (status, answer) = node.admin("POST", "/v1/purge", "{\"all\": true}");
    assert_eq!(status, 500, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("in force"), "{answer}");
    // As soon as it can be written, all of it is.
    place.faults("");
    let seq = node.purge("{\"url\": \"http://shop.example/other\"}");
    let mut node = node;
    node.kill();
    let node = place.start();
    assert_eq!(node.admin("GET", "/v1/status", "").1["purges"]["seq"], seq);
    assert!(!node.get("/a").is_hit() && !node.get("/b").is_hit(), "both were purged when all was");
}

#[test]
fn what_is_newer_than_a_purge_log_that_was_put_back_is_not_believed() {
    let origin = large();
    let place = Place::with_one_disk(&origin);
    let node = place.start();
    let log = place.directory.path().join("state/purge.log");
    let backup = fs::read(&log).unwrap();
    purge_urls(&node, 1, |_| "/other".into());
    store(&node, ["/after".to_owned()]);
    let mut node = node;
    node.kill();
    fs::write(&log, backup).unwrap();
    let node = place.start();
    let response = node.get("/after");
    assert!(!response.is_hit(), "{}", response.cache());
}

#[test]
fn a_disk_that_is_not_mounted_at_the_start_is_not_filled() {
    let Some(mounted) = Mounted::new("8m") else { return };
    let origin = large();
    let place = Place::new(&origin, &format!("path = \"{}\"\nmax_size = \"64MiB\"", mounted.path().display()));
    let node = place.start();
    store(&node, ["/a".to_owned()]);
    stop(node);
    assert!(Command::new("umount").arg(mounted.path()).status().unwrap().success());
    let path = place.directory.path().join("seawall.toml");
    let node = Node::start_file(place.directory.clone(), &path);
    eventually("it is out of service", || (disks(&node)[0]["state"] == "out of service").then_some(()));
    assert!(disks(&node)[0]["reason"].as_str().unwrap().contains("mounted"), "{:?}", disks(&node));
    assert!(!node.get("/a").is_hit());
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 0, "nothing is made below the mount point");
}

#[test]
fn a_power_failure_brings_back_nothing_that_was_purged() {
    for soft in [false, true] {
        let origin = large();
        let place = Place::with_one_disk(&origin);
        let node = place.start();
        store(&node, ["/0".to_owned()]);
        // So many that the log forgets them as soon as they are swept for.
        let all: Vec<usize> = (0..9000).collect();
        for some in all.chunks(1000) {
            let urls: Vec<String> = some.iter().map(|number| format!("http://shop.example/{number}")).collect();
            node.purge(&serde_json::json!({ "urls": urls, "soft": soft }).to_string());
        }
        wait_long("the purges are forgotten", || marks(&node) == 0);
        let log = place.directory.path().join("state/purge.log");
        wait_long("the log is written anew", || fs::metadata(&log).unwrap().len() < 1000);
        place.fail_power(node);
        let node = place.start();
        let response = node.get("/0");
        assert!(!response.is_hit(), "soft {soft}: {}", response.cache());
    }
}

#[test]
fn a_power_failure_brings_no_old_index_back() {
    let origin = large();
    let place = Place::with_one_disk(&origin);
    let node = place.start();
    store(&node, ["/a".to_owned()]);
    stop(node);
    let node = place.start();
    node.wait_for_log("as the last process left it");
    assert!(!place.root.join("index").exists());
    place.fail_power(node);
    assert!(!place.root.join("index").exists());
}

#[test]
fn a_disk_that_hangs_is_given_up_and_keeps_no_other_from_being_swept() {
    let origin = large();
    let disks_of = "paths = [{ path = \"cache\", max_size = \"64MiB\" }, { path = \"other\", max_size = \"64MiB\" }]";
    let place = Place::new(&origin, disks_of);
    let node = place.start();
    store(&node, (0..20).map(|number| format!("/{number}")));
    let count = place.files("other").len();
    assert!(count > 0 && count < 20);
    // What the page cache has is not known to be there, and the disk does not answer.
    place.faults("read 11\nhang 1\n");
    node.purge("{\"site\": \"shop\"}");
    wait_long("the other is swept", || place.files("other").is_empty());
    let state = |node: &Node| disks(node)[0]["state"].clone();
    // What was purged is looked for there all the same.
    let mut paths = (0..20).cycle();
    wait_long("it is given up", || {
        paths.next().iter().for_each(|number| drop(node.get(&format!("/{number}"))));
        state(&node) == "out of service"
    });
    assert!(troubles(&node, "disk-slow") > 0);
    place.faults("");
    wait_long("it is in service again", || state(&node) == "in service");
}

#[test]
fn a_state_directory_that_hangs_holds_up_nobody_for_long() {
    let origin = Origin::start(|request| match request.head.starts_with("GET") {
        true => Reply::ok(&["Cache-Control: max-age=3600", "Cache-Groups: \"g\""], request.path()),
        false => Reply::ok(&["Cache-Group-Invalidation: \"g\""], "done"),
    });
    let mut place = Place::with_one_disk(&origin);
    place.root = place.directory.path().join("state");
    place.config = place.config.replace("\"4KiB\"", "\"1B\""); // on disk alone
    place.config = place.config.replace("hosts =", "purge_from = [\"127.0.0.1\"]\nhosts =");
    let node = place.start();
    store(&node, ["/a".to_owned(), "/b".to_owned()]);
    let threads = || fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap().count();
    let before = threads();
    place.faults("hang-write 1\n");
    let started = Instant::now();
    let asking: Vec<Client> = (0..20)
        .map(|number| {
            let mut client = node.client();
            match number % 2 {
                0 => client.send("PURGE /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
                _ => client.send("POST /b HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n"),
            }
            client
        })
        .collect();
    for (number, mut client) in asking.into_iter().enumerate() {
        let expected = if number % 2 == 0 { 500 } else { 200 };
        assert_eq!(client.response("POST").status, expected);
    }
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    assert!(threads() < before + 10, "{} of {before}: one waits, not one for each of twenty", threads());
    // In force all the same, and written as soon as it can be.
    assert!(!node.get("/a").is_hit());
    place.faults("");
    node.purge("{\"tags\": [\"other\"], \"site\": \"shop\"}");
    drop(node);
    assert!(!place.start().get("/b").is_hit(), "what was invalidated is known after a kill");
}

#[test]
fn one_dry_run_at_a_time() {
    let origin = large();
    let place = Place::with_one_disk(&origin);
    let node = place.start();
    store(&node, ["/a".to_owned()]);
    eventually("it is on the disk", || (disks(&node)[0]["objects"] == 1).then_some(()));
    place.faults("hang 1\n");
    let run = "{\"prefix\": \"http://shop.example/\", \"dry_run\": true}";
    let mut clients = [Client::connect(node.admin), Client::connect(node.admin)];
    for client in &mut clients {
        client
            .send(format!("POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{run}", run.len()));
    }
    let mut answers = clients.map(|mut client| client.response("POST"));
    answers.sort_by_key(|answer| answer.status);
    // The disk is not waited for without end, and what was not looked at is said.
    let [counted, refused] = answers;
    assert!(counted.status == 200 && counted.text().contains("not_counted"), "{}", counted.text());
    assert_eq!(refused.status, 503, "{}", refused.text());
    place.faults("");
    let counted = || (node.admin("POST", "/v1/purge", run).1["disk"]["objects"] == 1).then_some(());
    eventually("all is counted again", counted);
}

#[test]
fn of_several_variants_only_the_one_that_is_asked_for_is_read() {
    const VARIANTS: u32 = 40;
    let origin = Origin::start(|request| {
        let body = request.field("x-number").unwrap_or("none").as_bytes().repeat(1 << 19);
        Reply::ok(&["Cache-Control: max-age=3600", "Vary: X-Number"], body)
    });
    let mut place = Place::with_one_disk(&origin);
    place.config = place.config.replace("\"256KiB\"", "\"6MiB\"").replace("\"4KiB\"", "\"2MiB\"");
    let node = place.start();
    let ask = |node: &Node, number: u32| node.get_with("/a", &[&format!("X-Number: {number:02}")]);
    (0..VARIANTS).for_each(|number| drop(ask(&node, number)));
    stop(node);
    let node = place.start();
    eventually("all are known", || (disks(&node)[0]["objects"] == VARIANTS).then_some(()));
    let before = peak(&node);
    let response = ask(&node, 7);
    assert!(response.cache().contains("detail=disk") && response.body.starts_with(b"0707"), "{}", response.cache());
    let more = peak(&node) - before;
    assert!(more < 12 << 20, "a look-up took {} MiB", more >> 20);
    // What is not asked for is not looked at.
    for file in place.files("cache") {
        let mut damaged = fs::read(&file).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(file, damaged).unwrap();
    }
    assert!(ask(&node, 8).cache().ends_with("detail=disk-corrupt"));
    assert_eq!(troubles(&node, "disk-corrupt"), 1);
}

/// The most memory that a node has had.
fn peak(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
