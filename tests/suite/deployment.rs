//! What is shipped beside the program: examples, the unit, the documentation, and how the source is laid out.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::{Node, Origin, PATIENCE, Reply};
use crate::process::seawall;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each example runs, with other addresses and directories.
#[test]
fn the_example_configurations_run() {
    for name in ["minimal.toml", "seawall.toml", "cdn-node.toml", "website.toml"] {
        let directory = Arc::new(TempDir::new().unwrap());
        let (conf, certs) = (directory.path().join("conf"), directory.path().join("certs"));
        std::fs::create_dir(&conf).unwrap();
        std::fs::create_dir(&certs).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["shop.example.com".into()]).unwrap();
        std::fs::write(certs.join("shop.pem"), made.cert.pem()).unwrap();
        std::fs::write(certs.join("shop.key"), made.signing_key.serialize_pem()).unwrap();
        let path = conf.join(name);
        std::fs::write(&path, read(format!("conf/{name}"))).unwrap();
        std::fs::create_dir(conf.join("website")).unwrap();
        for file in ["error.html", "closed.html", "moved.txt", "office.txt"] {
            std::fs::write(conf.join("website").join(file), read(format!("conf/website/{file}"))).unwrap();
        }
        // The tokens of an example are known to everybody: there are none until somebody has made some.
        let tokens = read("conf/tokens.toml");
        std::fs::write(conf.join("tokens.toml"), &tokens).unwrap();
        if name == "cdn-node.toml" {
            let checked = seawall(&["check", path.to_str().unwrap()]);
            let said =
                String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
            assert!(!checked.status.success() && said.matches("must be 64 hexadecimal digits").count() == 2, "{said}");
        }
        let made = |line: &str| match line.starts_with("sha256") {
            true => format!("sha256 = \"{}\"\n", "5e".repeat(32)),
            false => format!("{line}\n"),
        };
        std::fs::write(conf.join("tokens.toml"), tokens.lines().map(made).collect::<String>()).unwrap();
        let checked = seawall(&["check", path.to_str().unwrap()]);
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stdout));
        let mut text = read(format!("conf/{name}"));
        if name == "seawall.toml" {
            std::fs::create_dir(conf.join("sites.d")).unwrap();
            std::fs::write(conf.join("sites.d/default.toml"), read("conf/default-site.toml").replace(":3000", ":1"))
                .unwrap();
            let checked = seawall(&["check", path.to_str().unwrap()]);
            let said = String::from_utf8_lossy(&checked.stdout).into_owned();
            assert!(checked.status.success() && said.contains("ok (1 site, 1 pool)"), "{said}");
        }
        for (from, to) in [
            ("0.0.0.0:80\"", "127.0.0.1:0\""),
            ("[::]:80\"", "127.0.0.1:0\""),
            ("0.0.0.0:443\"", "127.0.0.1:0\""),
            ("0.0.0.0:9180\"", "127.0.0.1:0\""),
            ("127.0.0.1:9180\"", "127.0.0.1:0\""),
            ("127.0.0.1:3000", "127.0.0.1:1"),
            ("/var/lib/seawall", "state"),
            ("/var/log/seawall", directory.path().to_str().unwrap()),
        ] {
            text = text.replace(from, to);
        }
        std::fs::write(&path, text).unwrap();
        let node = Node::start_file(directory, &path);
        let status = node.get("/").status;
        assert!(matches!(status, 421 | 502 | 503), "{name}: nothing is behind it, so {status}");
    }
}

#[test]
fn systemd_is_told_what_goes_on() {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("seawall.toml");
    std::fs::write(&config, "[[listen]]\naddress = \"127.0.0.1:0\"\n").unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // As systemd does, with the process's own number in the environment.
    let child = Command::new("sh")
        .args(["-c", "WATCHDOG_PID=$$ exec \"$0\" run --config \"$1\"", env!("CARGO_BIN_EXE_seawall")])
        .arg(&config)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Ended(child);
    let process = child.0.id();
    let wait_for = |state: &str| {
        let mut space = [0; 1024];
        loop {
            let read = socket.recv(&mut space).unwrap_or_else(|error| panic!("never told {state}: {error}"));
            if String::from_utf8_lossy(&space[..read]).contains(state) {
                return;
            }
        }
    };
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
    };
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    wait_for("WATCHDOG=1");
    signal("-HUP");
    wait_for("RELOADING=1");
    wait_for("READY=1");
    signal("-TERM");
    wait_for("STOPPING=1");
    assert!(child.0.wait().unwrap().success());
}

/// Ends a process when a test does, however that ends.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended already
        let _ = self.0.wait();
    }
}

#[test]
fn the_unit_is_valid_and_closed() {
    let directory = TempDir::new().unwrap();
    // `verify` wants the program and its pages to be there.
    let unit = directory.path().join("seawall.service");
    let text = read("systemd/seawall.service").replace("/usr/bin/seawall", env!("CARGO_BIN_EXE_seawall"));
    std::fs::write(&unit, text.replace("man:seawall(1) man:seawall.toml(5) ", "")).unwrap();
    let verify = Command::new("systemd-analyze").arg("verify").arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(verify.status.success() && !said.contains("seawall.service:"), "{said}");
    let security = Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&unit).output().unwrap();
    let text = String::from_utf8_lossy(&security.stdout).into_owned();
    let level = text.lines().find_map(|line| line.split_once("exposure level for seawall.service: ")).unwrap().1;
    let exposure: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(exposure < 2.0, "{level}");
}

/// The keys that the program knows: it lists them for an unknown one.
fn known_keys(table: &str) -> BTreeSet<String> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("seawall.toml");
    std::fs::write(&path, format!("{table}\nqqqqqqqqqqqqqqqq = 1\n")).unwrap();
    let output = seawall(&["check", path.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let keys =
        text.lines().filter_map(|line| line.split_once("known keys: ")).map(|(_, keys)| keys.to_owned()).next_back();
    keys.unwrap_or_else(|| panic!("{table}: {text}")).split(", ").map(str::to_owned).collect()
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let reference = read("docs/configuration.md");
    let mut sections = std::collections::HashMap::new();
    for section in reference.split("\n## ").skip(1) {
        let (title, text) = section.split_once('\n').unwrap();
        let keys: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|line| line.split_once('`'))
            .map(|(key, _)| key.to_owned())
            .collect();
        sections.insert(title.trim_matches('`').to_owned(), keys);
    }
    for (title, table) in [
        ("[node]", "[node]"),
        ("[[listen]]", "[[listen]]\naddress = \"127.0.0.1:0\""),
        ("[[certificate]]", "[[certificate]]\ncert = \"a\"\nkey = \"b\""),
        ("[admin]", "[admin]\naddress = \"127.0.0.1:0\""),
        ("[log]", "[log]"),
        ("[limits]", "[limits]"),
        ("[cache.memory]", "[cache.memory]"),
        ("[cache.disk]", "[cache.disk]\npath = \"a\"\nmax_size = \"1GiB\""),
        ("[pool.NAME]", "[pool.a]\norigins = [\"a:1\"]"),
        ("[pool.NAME.health]", "[pool.a]\norigins = [\"a:1\"]\n[pool.a.health]"),
        ("[site.NAME]", "[site.a]\nhosts = [\"a\"]"),
        ("[[site.NAME.route]]", "[[site.a.route]]\npath = \"/\"\npool = \"a\""),
        (
            "key of a route",
            "[[site.a.route]]\npath = \"/\"\npool = \"a\"\ncache.mode = \"off\"\n[site.a.route.cache.key]",
        ),
        (
            "rules of a cache",
            "[[site.a.route]]\npath = \"/\"\npool = \"a\"\ncache.mode = \"respect\"\n[[site.a.route.cache.rules]]\nwhen = 'true'",
        ),
        ("cors of a route", "[[site.a.route]]\npath = \"/\"\npool = \"a\"\n[site.a.route.cors]\norigins = [\"*\"]"),
        ("redirect of a route", "[[site.a.route]]\npath = \"/\"\n[site.a.route.redirect]\nto = \"/\""),
        ("files of a route", "[[site.a.route]]\npath = \"/\"\n[site.a.route.files]\nroot = \"/srv\""),
        ("rewrite of a route", "[[site.a.route]]\npath = \"/\"\npool = \"a\"\n[site.a.route.rewrite]\nto = \"/\""),
        ("[[site.NAME.error_page]]", "[[site.a.error_page]]\nstatus = [500]"),
        ("response of a route", "[[site.a.route]]\npath = \"/\"\npool = \"a\"\n[site.a.route.response]"),
        ("respond of a route", "[[site.a.route]]\npath = \"/\"\n[site.a.route.respond]"),
        ("cache of a route", "[[site.a.route]]\npath = \"/\"\npool = \"a\"\n[site.a.route.cache]\nmode = \"off\""),
    ] {
        let documented = sections.get(title).unwrap_or_else(|| panic!("docs/configuration.md has no section {title}"));
        assert_eq!(documented, &known_keys(table), "{title}");
    }
}

/// The manual's table of troubles is the program's.
#[test]
fn the_manual_has_every_trouble_of_a_disk() {
    let storage = read("docs/storage.md");
    let source = read("src/cache/trouble.rs");
    // Of each entry the word and the meaning; what is between them says whose rule it is.
    let table = source.split("reasons! {").nth(1).unwrap_or_default().split("\n}").next().unwrap_or_default();
    let literals: Vec<&str> = table.split('"').skip(1).step_by(2).collect();
    let words = literals.chunks(3).flat_map(|entry| [entry[0], entry[2]]);
    let rows = storage.lines().filter(|line| line.starts_with("| `disk-")).count();
    let (mut names, mut meanings) = (0, 0);
    for word in words {
        let in_row = if word.starts_with("disk-") { format!("| `{word}` | ") } else { format!(" | {word} |") };
        assert!(storage.contains(&in_row), "{word}");
        *(if word.starts_with("disk-") { &mut names } else { &mut meanings }) += 1;
    }
    assert_eq!((names, meanings), (rows, rows));
}

/// The manual's list of metrics is the program's.
#[test]
fn the_manual_has_every_metric() {
    let origin = Origin::start(|_| Reply::ok(&[], "x"));
    let node = Node::caching(origin.address);
    node.get("/a");
    let text = node.admin_with("GET", "/metrics", &[], "").text();
    let manual = read("docs/operations.md");
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE seawall_")?.split(' ').next());
    let has = |name: &str| ["`", "{"].iter().any(|end| manual.contains(&format!("`{name}{end}")));
    let missing: Vec<&str> = names.clone().filter(|name| !has(name)).collect();
    assert!(missing.is_empty() && names.count() > 20, "docs/operations.md does not have {missing:?}");
    assert!(
        text.contains("process_resident_memory_bytes ") && text.contains("seawall_build_info{version=\""),
        "{text}"
    );
    let told = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut promtool) = told else { return println!("promtool is not installed: its remarks are not asked for") };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success() && said.stdout.is_empty(), "{}", String::from_utf8_lossy(&said.stdout));
}

/// Every test that a table of the manual names is there.
#[test]
fn the_tests_that_the_manual_names_exist() {
    let mut files = Vec::new();
    crate::architecture::sources(&root().join("src"), &mut files);
    crate::architecture::sources(&root().join("tests/suite"), &mut files);
    let all: String = files.iter().map(read).collect();
    let mut found = 0;
    let tables = read("docs/conformance.md") + &read("docs/reliability.md");
    for row in tables.lines().filter(|line| line.starts_with('|')) {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for name in tests.split('`').skip(1).step_by(2) {
            assert!(all.contains(&format!("fn {name}()")), "{name} of the row: {row}");
            found += 1;
        }
    }
    assert!(found > 60, "{found}");
}

#[test]
fn the_readmes_links_lead_somewhere() {
    for file in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/README.md"] {
        let text = read(file);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let target = root().join(file).parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{file}: {link}");
        }
    }
}

/// The platform that is built for: what only others need was never downloaded.
fn host_platform() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

/// cargo-deny's licence check, for machines without cargo-deny.
#[test]
fn every_dependency_has_a_permissive_licence() {
    const FINE: [&str; 11] = [
        "MIT",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "CC0-1.0",
        "CDLA-Permissive-2.0",
        "Unlicense",
    ];
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host_platform()])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none").replace('/', " OR ").replace(['(', ')'], "");
        // Every part of an AND must offer one that is fine.
        let fine = licence.split(" AND ").all(|part| part.split(" OR ").any(|one| FINE.contains(&one.trim())));
        assert!(fine, "{}: {licence}", package["name"]);
    }
}
