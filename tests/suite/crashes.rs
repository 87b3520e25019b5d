//! A node that is killed at any moment comes up again, and serves nothing that is cut short, mixed or purged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::disk_faults::shim;
use crate::harness::node::{complete, site};
use crate::harness::origin::Request;
use crate::harness::{Client, Node, Origin, Reply, eventually};

/// How often it is killed; `SEAWALL_CRASHES=200` for longer.
fn rounds() -> u32 {
    std::env::var("SEAWALL_CRASHES").map_or(8, |rounds| rounds.parse().expect("a number"))
}

const PATHS: u64 = 60;

/// A body that says what it is of and is of one piece: path and version, again and again, with their count.
fn body(path: &str, version: u64) -> String {
    let number: u64 = path[1..].parse().unwrap_or(0);
    let lines = 1 + number * number * 7; // from a few bytes to a megabyte and more
    (0..lines).map(|line| format!("{path} {version} {line}/{lines}\n")).collect()
}

/// The version of a body, if it is whole.
fn version_of(path: &str, text: &str) -> Option<u64> {
    let version = text.split(' ').nth(1)?.parse().ok()?;
    (body(path, version) == text).then_some(version)
}

struct World {
    /// What the origin has now.
    version: AtomicU64,
    /// What purges have confirmed to be the oldest that may still be served.
    purged: AtomicU64,
    /// The same of each path, confirmed by an unsafe request.
    changed: [AtomicU64; PATHS as usize],
    stop: AtomicBool,
}

impl World {
    /// The oldest version of a path that may still be served.
    fn oldest(&self, number: u64) -> u64 {
        let changed = &self.changed[number as usize];
        self.purged.load(Ordering::SeqCst).max(changed.load(Ordering::SeqCst))
    }
}

/// Starts it with a disk that can be made read-only.
fn start(directory: &Arc<TempDir>, origin: &Origin) -> Node {
    let path = directory.path().join("seawall.toml");
    std::fs::write(&path, complete(&config(origin))).unwrap();
    std::fs::create_dir_all(directory.path().join("control")).unwrap();
    let variables = [
        ("LD_PRELOAD", shim().display().to_string()),
        ("FAULTS_CONTROL", control(directory).display().to_string()),
        ("FAULTS_ROOT", directory.path().join("cache").display().to_string()),
    ];
    Node::spawn_with(directory.clone(), &["run", "--config", path.to_str().unwrap()], &variables)
}

fn control(directory: &TempDir) -> PathBuf {
    directory.path().join("control/faults")
}

fn config(origin: &Origin) -> String {
    format!(
        "[node]\nstate_dir = \"state\"\n[cache.memory]\nmax_size = \"512KiB\"\nmax_object = \"64KiB\"\n\
         [cache.disk]\npath = \"cache\"\nmax_size = \"16MiB\"\n{}",
        site(
            &[origin.address],
            "",
            "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n"
        )
    )
}

/// Asks one path; what comes must be whole, and not older than `oldest`.
fn ask(client: &mut Client, path: &str, oldest: u64) -> bool {
    client.try_send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n"));
    let Some(response) = client.try_response() else { return false };
    if !response.complete {
        return false; // it was killed in the middle of it, and the client knows
    }
    assert_eq!(response.status, 200, "{}", response.head);
    let version = version_of(path, &response.text());
    let version = version.unwrap_or_else(|| panic!("{path} is not of one piece: {}", response.head));
    assert!(version >= oldest, "{path} is of version {version}, but all before {oldest} are purged: {}", response.head);
    true
}

#[test]
fn a_killed_node_serves_nothing_that_is_cut_short_mixed_or_purged() {
    let world = Arc::new(World {
        version: AtomicU64::new(1),
        purged: AtomicU64::new(0),
        changed: std::array::from_fn(|_| AtomicU64::new(0)),
        stop: AtomicBool::new(false),
    });
    let for_origin = world.clone();
    let origin = Origin::start(move |request: &Request| {
        let body = body(request.path(), for_origin.version.load(Ordering::SeqCst));
        Reply::ok(&["Cache-Control: max-age=3600", "Surrogate-Key: every one"], body)
    });
    let directory = Arc::new(TempDir::new().unwrap());
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..rounds() {
        let mut node = start(&directory, &origin);
        let (address, admin) = (node.address(), node.admin);
        world.stop.store(false, Ordering::SeqCst);
        let readers = (0..3).map(|_| {
            let (world, mut random) = (world.clone(), random.fork());
            std::thread::spawn(move || {
                let Some(mut client) = Client::try_connect(address) else { return };
                while !world.stop.load(Ordering::SeqCst) {
                    let number = random.u64(..PATHS);
                    if !ask(&mut client, &format!("/{number}"), world.oldest(number)) {
                        return;
                    }
                }
            })
        });
        let readers: Vec<_> = readers.collect();
        let changer = {
            let (world, mut random) = (world.clone(), random.fork());
            std::thread::spawn(move || {
                let Some(mut client) = Client::try_connect(address) else { return };
                while !world.stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(random.u64(..10)));
                    let (number, version) = (random.u64(..PATHS), world.version.fetch_add(1, Ordering::SeqCst) + 1);
                    client.try_send(format!(
                        "POST /{number} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n"
                    ));
                    // Only what was answered is promised.
                    match client.try_response() {
                        Some(answer) if answer.status == 200 => {
                            world.changed[number as usize].fetch_max(version, Ordering::SeqCst);
                        }
                        _ => return,
                    }
                }
            })
        };
        let purger = {
            let (world, mut random) = (world.clone(), random.fork());
            std::thread::spawn(move || {
                while !world.stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(random.u64(..20)));
                    let version = world.version.fetch_add(1, Ordering::SeqCst) + 1;
                    let purges = [
                        "{\"tags\":[\"every\"]}",
                        "{\"site\":\"shop\"}",
                        "{\"prefix\":\"http://shop.example/\"}",
                        "{\"all\":true}",
                    ];
                    let purge = purges[random.usize(..purges.len())];
                    let Some(mut client) = Client::try_connect(admin) else { return };
                    client.try_send(format!(
                        "POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{purge}",
                        purge.len()
                    ));
                    // Only what was answered is promised.
                    if client.try_response().is_some_and(|answer| answer.status == 200) {
                        world.purged.fetch_max(version, Ordering::SeqCst);
                    }
                }
            })
        };
        std::thread::sleep(Duration::from_millis(random.u64(20..150)));
        // Of every third, the disk cannot be written for the last moments.
        if round % 3 == 2 {
            std::fs::write(control(&directory), "unlink 30\nwrite 30\n").unwrap();
            std::thread::sleep(Duration::from_millis(random.u64(20..150)));
        }
        node.kill();
        std::fs::write(control(&directory), "").unwrap();
        world.stop.store(true, Ordering::SeqCst);
        for thread in readers.into_iter().chain([purger, changer]) {
            thread.join().unwrap();
        }
        // Everything that is there now, by whichever way it is found.
        let node = start(&directory, &origin);
        let mut client = node.client();
        for number in 0..PATHS {
            assert!(ask(&mut client, &format!("/{number}"), world.oldest(number)), "round {round}");
        }
        if round % 8 == 0 {
            eventually("the scan", || {
                node.admin("GET", "/v1/status", "").1["cache"]["disk"][0]["scan"]["done"].as_bool().filter(|done| *done)
            });
        }
    }
}
