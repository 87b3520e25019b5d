//! New configuration without dropping anything.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::harness::node::{complete, site};
use crate::harness::origin::DeadPort;
use crate::harness::{Client, Node, Origin, Reply, Step, eventually};

const CACHED: &str = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n";

fn echo_name() -> Origin {
    Origin::start(|request| match request.path() {
        "/ws" => vec![Step::Send(Reply::head(101, &["Connection: upgrade", "Upgrade: websocket"])), Step::Echo],
        _ => Reply::ok(&["Cache-Control: max-age=60"], "x"),
    })
}

/// A configuration whose node has this name: visible in every response.
fn named(name: &str, origin: &Origin) -> String {
    complete(&format!("[node]\nname = \"{name}\"\n{}", site(&[origin.address], "", CACHED)))
}

fn name_of(node: &Node) -> String {
    node.get("/a").cache().split(';').next().unwrap().to_owned()
}

#[test]
fn every_way_of_changing_the_file_is_noticed() {
    let origin = echo_name();
    let node = Node::start(&named("one", &origin));
    let path = node.config_path();
    std::fs::write(&path, named("two", &origin)).unwrap();
    node.wait_for_generation(2);
    assert_eq!(name_of(&node), "two");
    let aside = path.with_extension("new");
    std::fs::write(&aside, named("three", &origin)).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    node.wait_for_generation(3);
    assert_eq!(name_of(&node), "three");
    let sites = node.directory.path().join("sites.d");
    std::fs::create_dir(&sites).unwrap();
    node.signal("HUP"); // the directory is new: from now on it is watched
    let blog = "[site.blog]\nhosts = [\"blog.example\"]\n[[site.blog.route]]\npath = \"/*\"\npool = \"app\"\n";
    std::fs::write(sites.join("blog.toml"), blog).unwrap();
    node.wait_for_generation(4);
    assert!(node.admin("GET", "/v1/config", "").1.to_string().contains("blog"));
}

#[test]
fn a_directory_that_is_replaced_is_watched_again() {
    let origin = echo_name();
    let directory = Arc::new(tempfile::TempDir::new().unwrap());
    let sites = directory.path().join("sites.d");
    std::fs::create_dir(&sites).unwrap();
    let node = Node::start_in(directory.clone(), &named("one", &origin));
    let blog =
        |host: &str| format!("[site.blog]\nhosts = [\"{host}\"]\n[[site.blog.route]]\npath = \"/*\"\npool = \"app\"\n");
    let replaced = directory.path().join("new");
    std::fs::create_dir(&replaced).unwrap();
    std::fs::write(replaced.join("blog.toml"), blog("one.example")).unwrap();
    std::fs::rename(&sites, directory.path().join("old")).unwrap();
    std::fs::rename(&replaced, &sites).unwrap();
    node.wait_for_generation(2);
    std::fs::write(sites.join("blog.toml"), blog("two.example")).unwrap();
    node.wait_for_generation(3);
    std::fs::remove_dir_all(&sites).unwrap();
    node.wait_for_generation(4);
    std::fs::create_dir(&sites).unwrap();
    std::fs::write(sites.join("blog.toml"), blog("three.example")).unwrap();
    node.wait_for_generation(5);
}

#[test]
fn a_config_map_is_followed_through_its_links() {
    let origin = echo_name();
    let directory = Arc::new(tempfile::TempDir::new().unwrap());
    let root = directory.path();
    for name in ["one", "two"] {
        std::fs::create_dir(root.join(name)).unwrap();
        std::fs::write(root.join(name).join("seawall.toml"), named(name, &origin)).unwrap();
    }
    // Kubernetes: seawall.toml -> ..data/seawall.toml, ..data -> a directory, swapped by rename.
    symlink("one", root.join("..data")).unwrap();
    symlink("..data/seawall.toml", root.join("seawall.toml")).unwrap();
    let node = Node::start_file(directory.clone(), &root.join("seawall.toml"));
    assert_eq!(name_of(&node), "one");
    symlink("two", root.join("..data_tmp")).unwrap();
    std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    node.wait_for_generation(2);
    assert_eq!(name_of(&node), "two");
}

#[test]
fn a_signal_or_a_call_reloads_and_a_broken_file_changes_nothing() {
    let origin = echo_name();
    let node = Node::start(&named("one", &origin));
    let (status, answer) = node.admin("POST", "/v1/reload", "");
    assert_eq!((status, answer["changed"].as_bool()), (200, Some(false)));
    std::fs::write(node.config_path(), "[pool.app]\norgins = []\n").unwrap();
    let (status, problem) = node.admin("POST", "/v1/reload", "");
    assert_eq!(status, 422, "{problem}");
    assert!(problem.to_string().contains("did you mean \\\"origins\\\"?"), "{problem}");
    assert_eq!(problem["errors"][1]["line"], 2);
    assert_eq!((name_of(&node), node.generation()), ("one".to_owned(), 1));
    let (_, status) = node.admin("GET", "/v1/status", "");
    assert_eq!(status["config"]["last_reload"]["ok"], false);
    assert_eq!(node.metric("seawall_config_last_reload_ok"), Some(0.0));
    assert!(node.metric("seawall_config_reloads_total{result=\"refused\"}").unwrap() >= 1.0);
    node.wait_for_log("the configuration is refused and nothing was changed");
    std::fs::write(node.config_path(), named("one", &origin)).unwrap();
    node.signal("HUP");
    node.wait_for_log("the configuration is valid again, and is the one in force");
    std::fs::write(node.config_path(), named("two", &origin)).unwrap();
    node.signal("HUP");
    node.wait_for_generation(2);
    assert_eq!(name_of(&node), "two");
    eventually("the metric", || node.metric("seawall_config_last_reload_ok").filter(|ok| *ok == 1.0));
}

#[test]
fn what_mends_a_refused_configuration_is_noticed_wherever_it_lies() {
    let origin = echo_name();
    let node = Node::start(&named("one", &origin));
    let elsewhere = TempDir::new().unwrap();
    let tokens = elsewhere.path().join("tokens.toml");
    let with_tokens = format!("address = \"127.0.0.1:0\"\ntokens_file = \"{}\"", tokens.display());
    let config =
        named("two", &origin).replacen("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\n{with_tokens}"), 1);
    std::fs::write(node.config_path(), config).unwrap();
    node.wait_for_log("the configuration is refused and nothing was changed");
    assert_eq!(name_of(&node), "one");
    let token = "[[token]]\nname = \"a\"\nsha256 = \"SHA\"\nrights = [\"read\"]\n".replace("SHA", &"0".repeat(64));
    std::fs::write(&tokens, token).unwrap();
    eventually("the new configuration", || (name_of(&node) == "two").then_some(()));
}

#[test]
fn what_needs_a_restart_is_said_until_it_is_made() {
    let origin = echo_name();
    let node = Node::start(&named("one", &origin));
    let needs = |generation| {
        node.wait_for_generation(generation);
        node.admin("GET", "/v1/status", "").1["config"]["needs_restart"].to_string()
    };
    let larger = |name: &str| format!("{}[log]\nlevel = \"debug\"\n", named(name, &origin));
    std::fs::write(
        node.config_path(),
        larger("two").replacen("[admin]\naddress = \"127.0.0.1:0\"", "[admin]\naddress = \"127.0.0.2:0\"", 1),
    )
    .unwrap();
    assert_eq!(needs(2), r#"["address in [admin]","level in [log]"]"#);
    std::fs::write(node.config_path(), larger("three")).unwrap();
    assert_eq!(needs(3), r#"["level in [log]"]"#, "not because of what this reload changed");
    std::fs::write(node.config_path(), named("four", &origin)).unwrap();
    assert_eq!(needs(4), "[]");
}

#[test]
fn the_memory_tier_changes_its_size_and_keeps_what_fits() {
    let origin = Origin::start(|request| Reply::ok(&["Cache-Control: max-age=3600"], request.path().repeat(10_000)));
    let sized = |size: &str| {
        let memory = format!("[cache.memory]\nmax_size = \"{size}\"\nmax_object = \"512KiB\"\n");
        complete(&format!("{memory}{}", site(&[origin.address], "", CACHED)))
    };
    let node = Node::start(&sized("16MiB"));
    let paths: Vec<String> = (100..200).map(|number| format!("/{number}")).collect();
    paths.iter().for_each(|path| drop(node.get(path)));
    let has_size = |size: u64| {
        eventually("the new size", || {
            let memory = node.admin("GET", "/v1/status", "").1["cache"]["memory"].clone();
            (memory["max_bytes"] == size && memory["bytes"].as_u64()? <= size).then(|| memory["keys"].as_u64().unwrap())
        })
    };
    std::fs::write(node.config_path(), sized("32MiB")).unwrap();
    has_size(32 << 20);
    assert!(paths.iter().all(|path| node.get(path).is_hit()), "all of it fits");
    std::fs::write(node.config_path(), sized("1MiB")).unwrap();
    let left = has_size(1 << 20);
    assert!((15..30).contains(&left), "{left}");
    assert_eq!(node.admin("GET", "/v1/status", "").1["config"]["needs_restart"], serde_json::json!([]));
}

#[test]
fn a_version_that_was_overruled_does_not_come_back() {
    let origin = echo_name();
    let config = |version: u64| {
        complete(&site(&[origin.address], "", CACHED).replace("hosts =", &format!("version = {version}\nhosts =")))
    };
    let node = Node::start(&config(1));
    let version = || node.admin("GET", "/v1/status", "").1["sites"][0]["version"].as_u64().unwrap();
    assert_eq!(node.admin("POST", "/v1/sites/shop/version", "{\"version\": 9}").0, 200);
    for (generation, configured) in [(2, 2), (3, 1)] {
        assert_ne!(version(), configured);
        std::fs::write(node.config_path(), config(configured)).unwrap();
        node.wait_for_generation(generation);
        assert_eq!(version(), configured);
    }
}

#[test]
fn cache_health_and_open_websockets_stay() {
    let origin = echo_name();
    let port = DeadPort::new();
    let dead = port.address;
    let config = |name: &str| {
        let pool = "health = { interval = \"20ms\", fall = 1 }\n";
        complete(&format!("[node]\nname = \"{name}\"\n{}", site(&[origin.address, dead], pool, CACHED)))
    };
    let node = Node::start(&config("one"));
    node.wait_for_origin("app", dead, "down");
    node.get("/a");
    let mut socket = node.client();
    socket.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(socket.head().contains(" 101 "));
    std::fs::write(node.config_path(), config("two").replace("interval = \"20ms\"", "interval = \"1h\"")).unwrap();
    node.wait_for_generation(2);
    assert_eq!(node.origin_status("app", dead), "down", "though its check has yet to be made");
    assert!(node.get("/a").cache().starts_with("two; hit"));
    socket.send("still there");
    assert_eq!(socket.read_some(), b"still there");
}

#[test]
fn the_next_request_of_an_open_connection_meets_the_new_configuration() {
    let origin = echo_name();
    let node = Node::start(&named("one", &origin));
    let mut client = node.client();
    assert!(client.get("/a", &[]).cache().starts_with("one;"));
    std::fs::write(node.config_path(), named("two", &origin)).unwrap();
    node.wait_for_generation(2);
    assert!(client.get("/a", &[]).cache().starts_with("two;"));
}

#[test]
fn fifty_reloads_under_load_cost_no_request() {
    let origin = echo_name();
    let routes = format!("[[site.shop.route]]\npath = \"/passed/*\"\npool = \"app\"\n{CACHED}");
    let config = |i: usize| {
        complete(&format!("[node]\nname = \"n{i}\"\n[log]\naccess = \"off\"\n{}", site(&[origin.address], "", &routes)))
    };
    let node = Node::start(&config(0));
    let (address, stop) = (node.address(), Arc::new(AtomicBool::new(false)));
    let load: Vec<_> = (0..6)
        .map(|thread| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (mut client, mut served) = (Client::connect(address), 0);
                while !stop.load(Ordering::SeqCst) {
                    let path = if thread % 3 == 0 { "/passed/a".to_owned() } else { format!("/{}", served % 50) };
                    let response = client.get(&path, &[]);
                    assert_eq!((response.status, response.complete), (200, true), "{response:?}");
                    served += 1;
                }
                served
            })
        })
        .collect();
    for i in 1..=50 {
        let broken = i % 5 == 0;
        std::fs::write(node.config_path(), if broken { "broken".to_owned() } else { config(i) }).unwrap();
        let (status, _) = node.admin("POST", "/v1/reload", "");
        assert_eq!(status, if broken { 422 } else { 200 });
    }
    assert_eq!(node.generation(), 41);
    stop.store(true, Ordering::SeqCst);
    let served: usize = load.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(served > 100, "{served}");
}

/// A hit that is still being written when the sites are numbered anew is counted and logged as what it was planned as.
#[test]
fn a_hit_is_booked_on_the_site_that_it_was_of() {
    let origin = Origin::start(|_| Reply::ok(&["Cache-Control: max-age=60"], vec![b'x'; 6 << 20]));
    let sites = |names: &[&str]| {
        let mut config = format!("[pool.app]\norigins = [\"{}\"]\n", origin.address);
        for name in names {
            config += &format!("[site.{name}]\nhosts = [\"{name}.example\"]\n[[site.{name}.route]]\npath = \"/*\"\n");
            config += "pool = \"app\"\ncache = { mode = \"respect\" }\n";
        }
        config
    };
    let node = Node::start(&sites(&["b", "c"]));
    let host = ["Host: b.example"];
    node.get_with("/a", &host);
    let mut slow = node.client();
    slow.send("GET /a?slow HTTP/1.1\r\nHost: b.example\r\n\r\n");
    slow.response("GET");
    slow.send("GET /a HTTP/1.1\r\nHost: b.example\r\n\r\n");
    slow.head(); // more than the sockets take is left to be written
    std::fs::write(node.config_path(), complete(&sites(&["a", "b", "c"]))).unwrap();
    node.wait_for_generation(2);
    let mut left = 6 << 20;
    while left > 0 {
        left -= slow.read_some().len();
    }
    let line = eventually("the hit's line", || {
        let log = node.stdout();
        log.lines()
            .find(|line| line.contains("\"cache\":\"hit\"") && line.contains("\"path\":\"/a\""))
            .map(str::to_owned)
    });
    assert!(line.contains("\"site\":\"b\""), "{line}");
}

#[test]
fn values_come_from_the_environment_and_from_files() {
    let origin = Origin::start(|request| Reply::ok(&[], request.field("x-key").unwrap_or("none")));
    let directory = Arc::new(TempDir::new().unwrap());
    let (path, secret) = (directory.path().join("seawall.toml"), directory.path().join("secret"));
    std::fs::write(&secret, "first\n").unwrap();
    let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\nrequest = { set = { X-Key = \"file:secret\" } }\n";
    let listen = "[node]\nname = \"${NODE:-edge}\"\n[[listen]]\naddress = \"${LISTEN_AT}:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    let config = format!("{listen}{}", crate::harness::node::site(&[origin.address], "", route));
    std::fs::write(&path, &config).unwrap();
    let variables = [("LISTEN_AT", "127.0.0.1".to_owned())];
    let node = Node::spawn_with(directory.clone(), &["run", "--config", path.to_str().unwrap()], &variables);
    assert_eq!(node.get("/").text(), "first");
    assert_eq!(node.admin("GET", "/v1/status", "").1["node"], "edge");
    std::fs::write(&secret, "second\n").unwrap();
    node.wait_for_generation(2);
    assert_eq!(node.get("/").text(), "second");
    let (status, told) = node.admin("POST", "/v1/config/check", &config);
    let told = told.to_string();
    assert!(status >= 400 && told.contains("is not given to the API") && !told.contains("second"), "{told}");
    // Nor is what is said of it quoted from other files.
    let allowed = config.replace("request = { set = { X-Key = \"file:secret\" } }", "allow = [{ file = \"secret\" }]");
    let (status, told) = node.admin("POST", "/v1/config/check", &allowed);
    let told = told.to_string();
    assert!(status >= 400 && told.contains("secret:1") && !told.contains("second"), "{told}");
    std::fs::write(directory.path().join("tokens.toml"), "hunter3 = 1\n[[token]]\nrights = [\"hunter3\"]\n").unwrap();
    let with_tokens = config.replace("[admin]\n", "[admin]\ntokens_file = \"tokens.toml\"\n");
    let (status, told) = node.admin("POST", "/v1/config/check", &with_tokens.replace("file:secret", "x"));
    let told = told.to_string();
    assert!(status >= 400 && told.contains("tokens.toml") && !told.contains("hunter3"), "{told}");
    // What is filled in is no template.
    std::fs::write(&secret, "{host}{{x}}").unwrap();
    node.wait_for_generation(3);
    assert_eq!(node.get("/").text(), "{host}{{x}}");
    // And not quoted either.
    std::fs::write(&secret, "hunter2").unwrap();
    node.wait_for_generation(4);
    let mode = route.replace("request =", "cache = { mode = \"file:secret\" }\nrequest =");
    std::fs::write(&path, config.replace(route, &mode)).unwrap();
    let told = node.wait_for_log("wrong value for");
    assert!(!node.log().join("\n").contains("hunter2"), "{told}");
    assert!(node.log().join("\n").contains("file:secret"), "{told}");
    std::fs::write(&path, config.replace("LISTEN_AT", "NO_SUCH_NAME")).unwrap();
    node.wait_for_log("there is no NO_SUCH_NAME in the environment");
    std::fs::write(&path, config.replace("file:secret", "file:nowhere")).unwrap();
    node.wait_for_log("nowhere: cannot be read");
}
