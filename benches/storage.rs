//! The disk tier with many objects: `make bench-storage` (a million; `SEAWALL_BENCH_OBJECTS` for fewer).
//!
//! Starts the node, an origin of its own and clients on this machine, stores objects of 1 KiB to 64 KiB (log-uniform), and
//! reports what docs/performance.md shows. It needs about 17 GB where `SEAWALL_BENCH_DIR` (or the temporary directory) is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark ends by panicking, and may wait"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

const CLIENTS: u64 = 8;
/// Every tenth object has this tag, for the purge.
const TAG: &str = "tenth";

fn main() {
    let objects: u64 = std::env::var("SEAWALL_BENCH_OBJECTS").map_or(1_000_000, |text| text.parse().expect("a number"));
    let base = std::env::var_os("SEAWALL_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let directory = tempfile::TempDir::new_in(base).unwrap();
    let origin = origin();
    let config = format!(
        "[node]\nstate_dir = \"state\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [log]\naccess = \"off\"\n[limits]\nmax_requests_per_connection = 4000000000\n[cache.memory]\nmax_size = \"64MiB\"\n[cache.disk]\npath = \"cache\"\nmax_size = \"200GiB\"\n\
         write_buffer = \"256MiB\"\n[pool.app]\norigins = [\"{origin}\"]\n[site.shop]\nhosts = [\"*\"]\n\
         [[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = {{ mode = \"respect\" }}\n"
    );
    std::fs::write(directory.path().join("seawall.toml"), config).unwrap();
    println!("{objects} objects of 1 KiB to 64 KiB, {CLIENTS} connections; {}", machine());

    let mut node = Node::start(directory.path());
    let idle = node.resident();
    let started = Instant::now();
    each(objects, |number| number, node.address);
    let stored = node.wait(|disk| disk["waiting_bytes"] == 0);
    let took = started.elapsed();
    let on_disk = stored["objects"].as_u64().unwrap();
    row("stored on disk", format!("{on_disk} objects, {} MiB", stored["bytes"].as_u64().unwrap() >> 20));
    row("store rate", format!("{:.0} objects/s", objects as f64 / took.as_secs_f64()));
    row("not stored for a slow disk", format!("{}", objects - on_disk));
    row("resident memory", format!("{} MiB (idle {} MiB, memory tier 64 MiB)", node.resident() >> 20, idle >> 20));
    row("index", format!("{:.1} bytes/object", stored["index_bytes"].as_u64().unwrap() as f64 / on_disk as f64));

    let boot = node.restart(directory.path(), "TERM");
    row("boot with a snapshot", format!("{:.2} s to the full index", boot.as_secs_f64()));
    let boot = node.restart(directory.path(), "KILL");
    row("boot after a kill", format!("{:.2} s to the full index (files in the page cache)", boot.as_secs_f64()));

    let mut latencies = each(50_000.min(objects), |number| number.wrapping_mul(7_919) % objects, node.address);
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_micros();
    row("disk hit, 8 at a time", format!("p50 {} us, p99 {} us", at(0.5), at(0.99)));

    let started = Instant::now();
    let purged = node.call("POST", "/v1/purge", &format!("{{\"tags\":[\"{TAG}\"]}}"));
    row(
        "purge by tag, a tenth of all",
        format!("{} us to the answer ({} us in the node)", started.elapsed().as_micros(), purged["took_us"]),
    );
    let before = Instant::now();
    let wanted = on_disk - objects / 10;
    let begun = node.wait(|disk| disk["objects"].as_u64().unwrap() < on_disk)["objects"].as_u64().unwrap();
    let sweeping = Instant::now();
    node.wait(|disk| disk["objects"].as_u64().unwrap() <= wanted);
    row(
        "sweep",
        format!(
            "began after {:.0} s, then {:.0} objects/s",
            (sweeping - before).as_secs_f64(),
            (begun - wanted) as f64 / sweeping.elapsed().as_secs_f64().max(0.001)
        ),
    );
    row("resident memory at the end", format!("{} MiB", node.resident() >> 20));
}

fn row(what: &str, result: String) {
    println!("| {what} | {result} |");
}

fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", model.trim_start_matches(['\t', ':', ' ']))
}

/// From 1 KiB to 64 KiB, the same for the same object.
fn size(number: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(number);
    (1024.0 * 64_f64.powf(random.f64())) as usize
}

/// An origin that answers `/NUMBER`; a thread a connection.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body: Arc<[u8]> = (0..70_000_u32).map(|number| ((number * 31) >> 3) as u8).collect();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let body = body.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut stream = stream;
                let mut line = String::new();
                loop {
                    line.clear();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    let path = line.split(' ').nth(1).unwrap_or("/0");
                    let number: u64 = path[1..].parse().unwrap_or(0);
                    while line != "\r\n" {
                        line.clear();
                        reader.read_line(&mut line).unwrap();
                    }
                    let tag = if number.is_multiple_of(10) { TAG } else { "other" };
                    let size = size(number);
                    let mut answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nCache-Control: max-age=86400\r\nETag: \"{number}\"\r\n\
                         Content-Type: image/jpeg\r\nCache-Tag: {tag}, all\r\n\r\n"
                    )
                    .into_bytes();
                    answer.extend_from_slice(&body[..size]);
                    if stream.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Asks for so many objects over all connections; how long each took.
fn each(count: u64, which: impl Fn(u64) -> u64 + Sync, address: SocketAddr) -> Vec<Duration> {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let (mut latencies, mut buffer) = (Vec::new(), vec![0; 128 << 10]);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return latencies;
                        }
                        let number = which(number);
                        let started = Instant::now();
                        write!(stream, "GET /{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
                        let mut wanted = usize::MAX;
                        let mut read = 0;
                        while read < wanted {
                            let got = stream.read(&mut buffer[read..]).unwrap();
                            assert!(got > 0, "the node closed the connection");
                            read += got;
                            if wanted == usize::MAX
                                && let Some(end) = buffer[..read].windows(4).position(|bytes| bytes == b"\r\n\r\n")
                            {
                                assert!(buffer.starts_with(b"HTTP/1.1 200"), "object {number}");
                                wanted = end + 4 + size(number);
                            }
                        }
                        assert_eq!(read, wanted);
                        latencies.push(started.elapsed());
                    }
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

struct Node {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_seawall"))
            .args(["run", "--config"])
            .arg(directory.join("seawall.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut address, mut admin) = (None, None);
        while let Some(Ok(line)) = lines.next() {
            let found = line.split_once("address=").map(|(_, address)| address.trim().parse().unwrap());
            match found {
                Some(found) if line.contains("admin API") => admin = Some(found),
                Some(found) => address = Some(found),
                None if line.contains(" ready ") => break,
                None => {}
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        Node { child, address: address.unwrap(), admin: admin.unwrap() }
    }

    /// Ends it and starts it again; how long until its index is full.
    fn restart(&mut self, directory: &Path, signal: &str) -> Duration {
        Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap();
        let started = Instant::now();
        *self = Node::start(directory);
        self.wait(|disk| disk["scan"]["done"] == true);
        started.elapsed()
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Waits until its disk is so.
    fn wait(&self, so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..60_000 {
            let disk = self.call("GET", "/v1/status", "")["cache"]["disk"][0].clone();
            if so(&disk) {
                return disk;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it never came to that");
    }

    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}
