//! The real node: the built binary, in a process of its own, on free ports.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Client, Response};
use super::{PATIENCE, eventually, h2};

/// A running node. Ends when dropped.
pub struct Node {
    /// The listeners, in the order of the configuration.
    pub addresses: Vec<SocketAddr>,
    pub admin: SocketAddr,
    pub directory: Arc<TempDir>,
    protocol: Protocol,
    log: Arc<Log>,
    child: Child,
}

/// By what a test's requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    H1,
    /// Over TLS.
    H2,
}

impl Protocol {
    pub const ALL: [Protocol; 2] = [Protocol::H1, Protocol::H2];
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    arrived: Condvar,
}

/// The same for tests by HTTP/2.
const PREAMBLE_H2: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = true\n[admin]\naddress = \"127.0.0.1:0\"\n\
    [[certificate]]\ncert = \"test.pem\"\nkey = \"test.key\"\n";

/// What every configuration of the tests begins with, unless it says otherwise itself.
const PREAMBLE: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";

impl Node {
    /// Starts with a configuration. `LISTEN` and `ADMIN` sections are put in where it has none.
    pub fn start(config: &str) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), config)
    }

    /// Starts with one site `shop` for all hosts, with these routes and one pool `app`.
    pub fn with_routes(origins: &[SocketAddr], routes: &str) -> Self {
        Self::start(&site(origins, "", routes))
    }

    /// Starts with everything cached in mode `respect`.
    pub fn caching(origin: SocketAddr) -> Self {
        Self::caching_by(Protocol::H1, origin)
    }

    /// The same, for requests by one protocol.
    pub fn caching_by(protocol: Protocol, origin: SocketAddr) -> Self {
        Self::speaking(
            protocol,
            &[origin],
            "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n",
        )
    }

    /// The same, for requests by one protocol.
    pub fn speaking(protocol: Protocol, origins: &[SocketAddr], routes: &str) -> Self {
        Self::speaking_in(protocol, Arc::new(TempDir::new().unwrap()), &site(origins, "", routes))
    }

    /// The same in a directory, with a whole configuration but for its listeners.
    pub fn speaking_in(protocol: Protocol, directory: Arc<TempDir>, config: &str) -> Self {
        match protocol {
            Protocol::H1 => Self::start_in(directory, config),
            Protocol::H2 => {
                h2::certificate(directory.path(), "test", &[h2::HOST]);
                let mut node = Self::start_in(directory, &format!("{PREAMBLE_H2}{config}"));
                node.protocol = protocol;
                node
            }
        }
    }

    pub fn start_in(directory: Arc<TempDir>, config: &str) -> Self {
        let path = directory.path().join("seawall.toml");
        std::fs::write(&path, complete(config)).unwrap();
        Self::start_file(directory, &path)
    }

    /// Starts with a file that is already there.
    pub fn start_file(directory: Arc<TempDir>, path: &Path) -> Self {
        Self::spawn(directory, &["run", "--config", path.to_str().unwrap()])
    }

    /// The same in its directory, with a path as it is spelt there.
    pub fn start_file_in(directory: Arc<TempDir>, path: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command.args(["run", "--config", path]).current_dir(directory.path());
        Self::run(directory, command, &[])
    }

    pub fn spawn(directory: Arc<TempDir>, arguments: &[&str]) -> Self {
        Self::spawn_with(directory, arguments, &[])
    }

    /// The same with variables in its environment.
    pub fn spawn_with(directory: Arc<TempDir>, arguments: &[&str], variables: &[(&str, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command.args(arguments);
        Self::run(directory, command, variables)
    }

    /// Starts a configuration from a shell that has done something before, such as `ulimit -Sn 100`.
    pub fn start_after(script: &str, config: &str) -> Self {
        let directory = Arc::new(TempDir::new().unwrap());
        let path = directory.path().join("seawall.toml");
        std::fs::write(&path, complete(config)).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_seawall")]);
        command.args(["run", "--config", path.to_str().unwrap()]);
        Self::run(directory, command, &[])
    }

    /// Runs a command that becomes the node.
    pub fn run(directory: Arc<TempDir>, mut command: Command, variables: &[(&str, String)]) -> Self {
        let mut child = command
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(directory.path().join("stdout")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let (stderr, for_reader) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                for_reader.lines.lock().unwrap().push(line);
                for_reader.arrived.notify_all();
            }
            for_reader.lines.lock().unwrap().push("(the process has ended)".into());
            for_reader.arrived.notify_all();
        });
        let mut node = Node {
            addresses: vec![],
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            directory,
            protocol: Protocol::H1,
            log,
            child,
        };
        node.wait_for_log(" ready ");
        for line in node.log() {
            let Some((_, address)) = line.split_once("address=") else { continue };
            let Ok(address) = address.trim().parse() else { continue }; // it is a Unix socket
            if line.contains("admin API listening") {
                node.admin = address;
            } else if line.contains("listening") {
                node.addresses.push(address);
            }
        }
        node
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn get(&self, path: &str) -> Response {
        self.get_with(path, &[])
    }

    pub fn get_with(&self, path: &str, fields: &[&str]) -> Response {
        self.request("GET", path, fields, "")
    }

    /// One request on a connection of its own.
    pub fn request(&self, method: &str, path: &str, fields: &[&str], body: &str) -> Response {
        match self.protocol {
            Protocol::H1 => self.client().request(method, path, fields, body),
            Protocol::H2 => {
                let trust = self.directory.path().join("test.pem");
                h2::request(self.address(), &trust, (method, path), fields, body)
            }
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// A call to the admin API: status and body.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let response = self.admin_with(method, path, &[], body);
        (response.status, serde_json::from_slice(&response.body).unwrap_or(Value::String(response.text())))
    }

    pub fn admin_with(&self, method: &str, path: &str, fields: &[&str], body: &str) -> Response {
        let fields = [&["Host: localhost", "Connection: close"], fields].concat();
        Client::connect(self.admin).request(method, path, &fields, body)
    }

    /// Purges and expects that to work.
    pub fn purge(&self, body: &str) -> u64 {
        let (status, answer) = self.admin("POST", "/v1/purge", body);
        assert_eq!(status, 200, "{answer}");
        answer["seq"].as_u64().unwrap()
    }

    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.admin("GET", "/metrics", "");
        let text = text.as_str().unwrap().to_owned();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    pub fn origin_status(&self, pool: &str, origin: SocketAddr) -> String {
        self.origin(pool, origin)["status"].as_str().unwrap().to_owned()
    }

    /// What the API says of an origin.
    pub fn origin(&self, pool: &str, origin: SocketAddr) -> Value {
        let (_, answer) = self.admin("GET", "/v1/pools", "");
        let named = |value: &Value, key: &str, name: &str| value[key].as_str() == Some(name);
        let pools = answer["pools"].as_array().unwrap();
        let pool = pools.iter().find(|value| named(value, "name", pool)).unwrap();
        let origins = pool["origins"].as_array().unwrap();
        origins.iter().find(|value| named(value, "address", &origin.to_string())).unwrap().clone()
    }

    pub fn wait_for_origin(&self, pool: &str, origin: SocketAddr, status: &str) {
        eventually(status, || (self.origin_status(pool, origin) == status).then_some(()));
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("seawall.toml")
    }

    pub fn generation(&self) -> u64 {
        self.admin("GET", "/v1/status", "").1["config"]["generation"].as_u64().unwrap()
    }

    /// Waits until the configuration in force is at least this one.
    pub fn wait_for_generation(&self, generation: u64) {
        eventually("a new configuration", || (self.generation() >= generation).then_some(()));
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Waits for a line of the node's own log.
    pub fn wait_for_log(&self, part: &str) -> String {
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let ended = lines.last().is_some_and(|line| line == "(the process has ended)");
            let (again, waited) = self.log.arrived.wait_timeout(lines, PATIENCE).unwrap();
            lines = again;
            assert!(!waited.timed_out() && !ended, "the node never logged {part:?}:\n{}", lines.join("\n"));
        }
    }

    /// What it wrote to standard output.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stdout")).unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(done.success());
    }

    /// Bytes of memory that the process has.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the process to end; whether it ended well.
    pub fn wait(&mut self) -> bool {
        eventually("the end of the process", || self.child.try_wait().unwrap()).success()
    }

    /// Ends it as a power failure would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the node's log ---\n{}", self.log().join("\n"));
        }
    }
}

/// A configuration with one site `shop` for all hosts and one pool `app`.
pub fn site(origins: &[SocketAddr], pool: &str, routes: &str) -> String {
    let origins: Vec<String> = origins.iter().map(|origin| format!("\"{origin}\"")).collect();
    format!("[pool.app]\norigins = [{}]\n{pool}\n[site.shop]\nhosts = [\"*\"]\n{routes}", origins.join(", "))
}

/// Adds the listeners that a configuration does not have.
pub fn complete(config: &str) -> String {
    if config.contains("[[listen]]") { config.to_owned() } else { format!("{PREAMBLE}{config}") }
}
