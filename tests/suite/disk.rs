//! The disk tier: what it keeps over a restart, how it is invalidated, and that damage is never served.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::client::Response;
use crate::harness::node::{complete, site};
use crate::harness::origin::{Gate, Request};
use crate::harness::{Client, Node, Origin, Reply, Step, eventually};

const CACHED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

/// A directory for a node and what it keeps.
struct Place(Arc<TempDir>);

impl Place {
    fn new() -> Self {
        Place(Arc::new(TempDir::new().unwrap()))
    }

    /// Starts a node with a disk tier in it; `more` goes into `[cache.disk]`.
    fn node(&self, origin: SocketAddr, more: &str) -> Node {
        self.node_with(origin, more, "", CACHED)
    }

    fn node_with(&self, origin: SocketAddr, disk: &str, cache: &str, routes: &str) -> Node {
        Node::start_in(self.0.clone(), &config(origin, disk, cache, routes))
    }

    /// The files of stored objects.
    fn files(&self) -> Vec<PathBuf> {
        let directories = fs::read_dir(self.0.path().join("cache")).unwrap().map(|entry| entry.unwrap().path());
        let fan_out = directories.filter(|path| path.is_dir() && path.file_name().unwrap() != "tmp");
        fan_out.flat_map(|path| fs::read_dir(path).unwrap()).map(|entry| entry.unwrap().path()).collect()
    }
}

fn config(origin: SocketAddr, disk: &str, cache: &str, routes: &str) -> String {
    let size = if disk.contains("max_size") { "" } else { "max_size = \"64MiB\"\n" };
    format!(
        "[node]\nstate_dir = \"state\"\n[cache.disk]\npath = \"cache\"\n{size}{disk}\n{cache}\n{}",
        site(&[origin], "", routes)
    )
}

fn disk(node: &Node) -> Value {
    node.admin("GET", "/v1/status", "").1["cache"]["disk"][0].clone()
}

fn wait_for_written(node: &Node, objects: u64) {
    eventually("the objects are on disk", || (disk(node)["written"].as_u64()? >= objects).then_some(()));
}

fn wait_for_scan(node: &Node) {
    eventually("the scan", || disk(node)["scan"]["done"].as_bool().filter(|done| *done));
}

fn stop(mut node: Node) {
    node.signal("TERM");
    assert!(node.wait());
}

fn is_disk_hit(response: &Response) -> bool {
    response.is_hit() && response.cache().contains("detail=disk")
}

/// Answers with the path, for an hour.
fn by_path(request: &Request) -> Vec<Step> {
    Reply::ok(&["Cache-Control: max-age=3600", "ETag: \"v1\"", "Surrogate-Key: all-of-them"], request.path())
}

#[test]
fn what_was_stored_is_there_after_a_restart() {
    let origin = Origin::start(by_path);
    let place = Place::new();
    let node = place.node(origin.address, "");
    let before = node.get("/a?b=c");
    wait_for_scan(&node); // one that stops before leaves the next to look for itself
    stop(node);
    let node = place.node(origin.address, "");
    let after = node.get("/a?b=c");
    assert!(is_disk_hit(&after), "{}", after.cache());
    assert_eq!((after.text(), after.status), ("/a?b=c".into(), 200));
    assert_eq!((after.field("etag"), after.field("surrogate-key")), (before.field("etag"), None));
    let again = node.get("/a?b=c");
    assert!(again.is_hit() && !is_disk_hit(&again), "it is in memory now: {}", again.cache());
    assert_eq!(node.get_with("/a?b=c", &["If-None-Match: \"v1\""]).status, 304);
    assert_eq!(origin.count(), 1);
    node.wait_for_log("as the last process left it");
    wait_for_scan(&node);
    assert_eq!(disk(&node)["objects"], 1);
}

/// However its path and that of the configuration are spelt.
#[test]
fn a_disk_is_the_same_from_whatever_directory_the_node_is_started() {
    let origin = Origin::start(by_path);
    let Place(directory) = Place::new();
    fs::write(directory.path().join("seawall.toml"), complete(&config(origin.address, "", "", CACHED))).unwrap();
    let inside = |path: &str| {
        let node = Node::start_file_in(directory.clone(), path);
        wait_for_scan(&node);
        node
    };
    let node = inside("seawall.toml");
    node.get("/a");
    wait_for_written(&node, 1);
    stop(node);
    let node = inside("./seawall.toml");
    assert!(is_disk_hit(&node.get("/a")));
    stop(node);
    assert!(is_disk_hit(&inside(directory.path().join("seawall.toml").to_str().unwrap()).get("/a")));
}

#[test]
fn a_node_that_was_killed_goes_on_with_what_it_had_written() {
    let origin = Origin::start(by_path);
    let place = Place::new();
    let mut node = place.node(origin.address, "");
    node.get("/a");
    wait_for_written(&node, 1);
    node.kill();
    let node = place.node(origin.address, "");
    assert!(is_disk_hit(&node.get("/a")));
    assert_eq!(origin.count(), 1);
    node.wait_for_log("is scanned");
    assert_eq!(disk(&node)["objects"], 1);
}

#[test]
fn what_was_purged_does_not_come_back() {
    for purge in [
        "{\"tags\": [\"all-of-them\"]}",
        "{\"url\": \"http://shop.example/a\"}",
        "{\"prefix\": \"http://shop.example/\"}",
        "{\"site\": \"shop\"}",
        "{\"all\": true}",
        "POST",
    ] {
        let origin = Origin::start(by_path);
        let place = Place::new();
        let mut node = place.node(origin.address, "");
        node.get("/a");
        wait_for_written(&node, 1);
        match purge {
            "POST" => drop(node.request("POST", "/a", &[], "x")),
            body => drop(node.purge(body)),
        }
        node.kill();
        let node = place.node(origin.address, "");
        let response = node.get("/a");
        assert!(!response.is_hit(), "{purge}: {}", response.cache());
        assert!(node.get("/a").is_hit());
    }
}

#[test]
fn what_was_soft_purged_is_stale_after_a_restart() {
    let origin = Origin::start(|request| match request.field("if-none-match") {
        Some(_) => Reply::head_only(304, &["Cache-Control: max-age=3600"]),
        None => by_path(request),
    });
    let place = Place::new();
    let mut node = place.node(origin.address, "");
    node.get("/a");
    wait_for_written(&node, 1);
    node.purge("{\"all\": true, \"soft\": true}");
    node.kill();
    let node = place.node(origin.address, "");
    let response = node.get("/a");
    assert!(response.cache().contains("fwd=stale; fwd-status=304"), "{}", response.cache());
    assert_eq!(response.text(), "/a");
}

#[test]
fn files_of_another_purge_log_are_not_used() {
    let origin = Origin::start(by_path);
    let place = Place::new();
    let node = place.node(origin.address, "");
    node.get("/a");
    stop(node);
    // What was purged by the log that is lost, nobody knows.
    fs::remove_file(place.0.path().join("state/purge.log")).unwrap();
    let node = place.node(origin.address, "");
    assert!(!node.get("/a").is_hit());
    wait_for_scan(&node);
    wait_for_written(&node, 1);
    assert_eq!((disk(&node)["objects"].as_u64(), place.files().len()), (Some(1), 1));
}

#[test]
fn a_damaged_file_is_never_served() {
    let body: String = (0..100_000).map(|number: u32| char::from(b'a' + (number % 26) as u8)).collect();
    let answer = body.clone();
    let origin = Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=3600"], &answer));
    let place = Place::new();
    let node = place.node(origin.address, "");
    node.get("/a");
    stop(node);
    let file = place.files().pop().unwrap();
    let whole = fs::read(&file).unwrap();
    let places = (0..160).step_by(7).chain([1000, 64 << 10, 90_000, whole.len() - 1]);
    let mut damages: Vec<Vec<u8>> = places
        .map(|at| {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            damaged
        })
        .collect();
    damages.extend([0, 10, 63, 64, 100, 5000, whole.len() - 1].map(|length| whole[..length].to_vec()));
    damages.push([&whole[..], b"x"].concat());
    for damaged in damages {
        fs::write(&file, &damaged).unwrap();
        let before = origin.count();
        let node = place.node(origin.address, "");
        let response = node.get("/a");
        assert_eq!((response.status, response.complete), (200, true));
        assert!(response.text() == body);
        assert_eq!(origin.count(), before + 1, "{}", response.cache());
        wait_for_written(&node, 1);
        stop(node);
        let node = place.node(origin.address, "");
        assert!(is_disk_hit(&node.get("/a")), "it was written anew");
        stop(node);
    }
}

#[test]
fn damage_is_said_in_cache_status_and_metrics() {
    let origin = Origin::start(by_path);
    let place = Place::new();
    let node = place.node(origin.address, "");
    node.get("/a");
    stop(node);
    let file = place.files().pop().unwrap();
    let mut damaged = fs::read(&file).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    let node = place.node(origin.address, "");
    wait_for_scan(&node);
    fs::write(&file, &damaged).unwrap();
    let response = node.get("/a");
    let cache = response.cache();
    assert!(cache.contains("fwd=uri-miss; stored; ttl=") && cache.ends_with("; detail=disk-corrupt"), "{cache}");
    let series = format!(
        "seawall_disk_troubles_total{{path=\"{}\",reason=\"disk-corrupt\"}}",
        disk(&node)["path"].as_str().unwrap()
    );
    assert_eq!(node.metric(&series), Some(1.0));
}

#[test]
fn variants_are_kept_apart() {
    let origin = Origin::start(|request| {
        let language = request.field("accept-language").unwrap_or("none").to_owned();
        Reply::ok(&["Cache-Control: max-age=3600", "Vary: Accept-Language"], language)
    });
    let place = Place::new();
    let node = place.node(origin.address, "");
    let ask = |node: &Node, language: &str| node.get_with("/a", &[&format!("Accept-Language: {language}")]);
    ask(&node, "de");
    ask(&node, "fr");
    node.get("/a");
    stop(node);
    let node = place.node(origin.address, "");
    for language in ["de", "fr"] {
        let response = ask(&node, language);
        assert_eq!((response.text().as_str(), is_disk_hit(&response)), (language, true), "{}", response.cache());
    }
    assert_eq!(node.get("/a").text(), "none");
    assert!(!ask(&node, "it").is_hit());
    assert_eq!(origin.count(), 4);
}

#[test]
fn what_a_304_confirmed_is_confirmed_on_disk_too() {
    let origin = Origin::start(|request| match request.field("if-none-match") {
        Some(_) => Reply::head_only(304, &["Cache-Control: max-age=3600", "X-New: yes"]),
        None => Reply::ok(&["Cache-Control: max-age=0", "ETag: \"v1\""], "body"),
    });
    let place = Place::new();
    let node = place.node(origin.address, "");
    node.get("/a");
    wait_for_written(&node, 1);
    assert!(node.get("/a").cache().contains("fwd-status=304"));
    stop(node);
    let response = place.node(origin.address, "").get("/a");
    assert_eq!((response.text().as_str(), response.field("x-new")), ("body", Some("yes")));
    assert!(is_disk_hit(&response), "{}", response.cache());
}

#[test]
fn large_bodies_are_streamed_and_ranges_of_them_read() {
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
    let answer = body.clone();
    let origin = Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=3600", "ETag: \"v1\""], &answer));
    let place = Place::new();
    let node = place.node(origin.address, "");
    node.get("/a");
    stop(node);
    let node = place.node(origin.address, "");
    // The second time it is known to be undamaged, and is sent from the page cache.
    for _ in 0..2 {
        let mut client = node.client();
        for (first, last) in [(0, 0), (65_535, 65_536), (100_000, 2_500_000), (2_999_999, 2_999_999)] {
            let response = client.get("/a", &[&format!("Range: bytes={first}-{last}")]);
            assert_eq!(response.status, 206);
            assert!(response.body == body[first..=last], "{first}-{last}");
            assert!(is_disk_hit(&response));
        }
        let whole = client.get("/a", &[]);
        assert!(whole.body == body && is_disk_hit(&whole));
    }
    assert_eq!(node.get_with("/a", &["Range: bytes=5000000-"]).status, 416);
    assert_eq!(origin.count(), 1);
    // Damage in the middle is too late to be helped, but is never served.
    let file = place.files().pop().unwrap();
    let mut damaged = fs::read(&file).unwrap();
    damaged[2_000_000] ^= 1;
    fs::write(&file, &damaged).unwrap();
    let broken = node.get("/a");
    assert!(!broken.complete && body.starts_with(&broken.body));
    let whole = node.get("/a");
    assert!(whole.complete && whole.body == body && !whole.is_hit());
}

#[test]
fn no_more_is_kept_than_may_be_and_what_is_used_stays() {
    let body = vec![b'x'; 60 << 10];
    let origin = Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=3600"], &body));
    let place = Place::new();
    let small = "[cache.memory]\nmax_size = \"128KiB\"\nmax_object = \"64KiB\"";
    let node = place.node_with(origin.address, "max_size = \"1MiB\"", small, CACHED);
    for number in 0..60 {
        node.get(&format!("/{number}"));
        wait_for_written(&node, number + 1);
        assert!(node.get("/0").is_hit(), "{number}");
        assert!(disk(&node)["bytes"].as_u64().unwrap() <= 1 << 20);
    }
    assert!(place.files().len() <= 16);
    assert!(disk(&node)["evicted"].as_u64().unwrap() >= 44);
}

/// What goes to the disk as it comes has its room from the beginning; and fills that come to nothing push out half of what is
/// there at most.
#[test]
fn what_is_written_as_it_comes_has_its_room_before() {
    const LENGTH: usize = 3 << 20;
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::start(move |request| {
        if request.path().starts_with("/small") {
            return Reply::ok(&["Cache-Control: max-age=3600"], vec![b's'; 60 << 10]);
        }
        let head = Reply::head(200, &["Cache-Control: max-age=3600", &format!("Content-Length: {LENGTH}")]);
        let some = [head, vec![b'x'; LENGTH / 2]].concat();
        vec![Step::Send(some), Step::Wait(opened.clone()), Step::Send(vec![b'x'; LENGTH - LENGTH / 2])]
    });
    let place = Place::new();
    let small = "[cache.memory]\nmax_size = \"128KiB\"\nmax_object = \"64KiB\"";
    let node = place.node_with(origin.address, "max_size = \"8MiB\"", small, CACHED);
    for number in 0..60 {
        node.get(&format!("/small/{number}"));
        wait_for_written(&node, number + 1);
    }
    let mut clients: Vec<Client> = (0..4).map(|_| node.client()).collect();
    let heads = clients.iter_mut().enumerate().map(|(number, client)| {
        client.send(format!("GET /large/{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
        client.head()
    });
    let is_to_be_stored: Vec<bool> = heads.map(|head| !head.contains("detail=disk")).collect();
    assert_eq!(is_to_be_stored, [true, false, false, false], "two would take more than half");
    gate.open();
    for client in &mut clients {
        let mut received = 0;
        while received < LENGTH {
            let some = client.read_some().len();
            assert!(some > 0, "the body ended after {received} bytes");
            received += some;
        }
    }
    wait_for_written(&node, 61);
    assert!(node.get("/large/0").is_hit());
    assert!((0..60).all(|number| node.get(&format!("/small/{number}")).is_hit()), "what was there is there");
}

#[test]
fn unsafe_requests_hit_what_the_scan_has_yet_to_find() {
    let origin = Origin::start(by_path);
    let place = Place::new();
    let node = place.node(origin.address, "");
    (0..50).for_each(|number| drop(node.get(&format!("/{number}"))));
    wait_for_written(&node, 50);
    let mut node = node;
    node.kill(); // so that there is no index, and it is scanned
    let node = place.node(origin.address, "");
    // Whether the scan is done by now or not.
    for number in 0..50 {
        node.request("POST", &format!("/{number}"), &[], "x");
    }
    for number in 0..50 {
        assert!(!node.get(&format!("/{number}")).is_hit(), "{number}");
    }
}

#[test]
fn objects_are_spread_over_several_directories() {
    let origin = Origin::start(by_path);
    let place = Place::new();
    let paths = "[node]\nstate_dir = \"state\"\n[cache.disk]\npaths = [\n  { path = \"one\", max_size = \"16MiB\" },\n  { path = \"two\", max_size = \"48MiB\" },\n]\n";
    let config = format!("{paths}{}", site(&[origin.address], "", CACHED));
    let node = Node::start_in(place.0.clone(), &config);
    (0..200).for_each(|number| drop(node.get(&format!("/{number}"))));
    stop(node);
    let node = Node::start_in(place.0.clone(), &config);
    assert!((0..200).all(|number| node.get(&format!("/{number}")).is_hit()));
    assert_eq!(origin.count(), 200);
    let (_, status) = node.admin("GET", "/v1/status", "");
    let objects = |at: usize| status["cache"]["disk"][at]["hits"].as_u64().unwrap();
    assert_eq!(objects(0) + objects(1), 200);
    assert!((20..80).contains(&objects(0)), "a quarter of the room, {} of 200 objects", objects(0));
}

#[test]
fn second_hit_spares_the_disk() {
    let place = Place::new();
    let origin = Origin::start(|request| match request.path() {
        "/short" => Reply::ok(&["Cache-Control: max-age=0", "ETag: \"a\""], request.path()),
        _ => by_path(request),
    });
    let node = place.node(origin.address, "admission = \"second_hit\"");
    node.get("/once");
    node.get("/short");
    node.get("/short");
    stop(node);
    assert_eq!(place.files().len(), 1);
}

#[test]
fn on_eviction_memory_is_written_when_it_makes_room() {
    let body = vec![b'x'; 60 << 10];
    let origin = Origin::start(move |_| Reply::ok(&["Cache-Control: max-age=3600"], &body));
    let place = Place::new();
    let small = "[cache.memory]\nmax_size = \"256KiB\"\nmax_object = \"64KiB\"\neviction = \"lru\"";
    let node = place.node_with(origin.address, "write = \"on_eviction\"", small, CACHED);
    node.get("/0");
    assert_eq!(disk(&node)["written"], 0);
    (1..10).for_each(|number| drop(node.get(&format!("/{number}"))));
    wait_for_written(&node, 5);
    assert!(is_disk_hit(&node.get("/0")));
}
