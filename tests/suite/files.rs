//! Static files of a route: what is served of a directory, and that nothing else ever is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::client::Client;
use crate::harness::h2;
use crate::harness::{Node, Protocol, eventually};

/// What must not be seen.
const SECRET: &str = "the secret of the machine";

/// A directory with a tree of files, and things beside it that are none of anybody's business.
fn tree() -> Arc<TempDir> {
    let directory = Arc::new(TempDir::new().unwrap());
    let path = directory.path();
    for name in ["www/sub/deep", "www/.git", "www/.well-known/acme", "private"] {
        fs::create_dir_all(path.join(name)).unwrap();
    }
    for (name, text) in [
        ("www/index.html", "<p>home"),
        ("www/app.js", "plain script"),
        ("www/app.js.br", "br script"),
        ("www/app.js.gz", "gz script"),
        ("www/sub/index.html", "<p>sub"),
        ("www/sub/deep/page.html", "<p>page"),
        ("www/with space.txt", "space"),
        ("www/digits.txt", "0123456789"),
        ("www/.well-known/acme/token", "token"),
        ("www/.git/config", SECRET),
        ("www/.htpasswd", SECRET),
        ("private/key", SECRET),
        ("secret", SECRET),
        ("www-other", SECRET),
    ] {
        fs::write(path.join(name), text).unwrap();
    }
    for (link, to) in [
        ("www/out", "../secret"),
        ("www/dir-out", "../private"),
        ("www/absolute", path.join("secret").to_str().unwrap()),
        ("www/root", "/"),
        ("www/proc", "/proc/self/root"),
        ("www/ring", "ring"),
        ("www/inside", "sub/deep/page.html"),
    ] {
        symlink(to, path.join(link)).unwrap();
    }
    let pipe = Command::new("mkfifo").arg(path.join("www/pipe")).status();
    assert!(pipe.unwrap().success());
    age(&path.join("www"));
    directory
}

/// Has files been changed long ago: their tags are strong ones then.
fn age(directory: &Path) {
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            age(&entry.path());
        } else if kind.is_file() {
            fs::File::options().write(true).open(entry.path()).unwrap().set_modified(old).unwrap();
        }
    }
}

/// A site whose only route has these lines.
fn serving(lines: &str) -> String {
    format!("[site.www]\nhosts = [\"*\"]\n[[site.www.route]]\npath = \"/*\"\n{lines}\n")
}

fn node(directory: &Arc<TempDir>, protocol: Protocol, lines: &str) -> Node {
    Node::speaking_in(protocol, directory.clone(), &serving(lines))
}

const PLAIN: &str = "files = \"www\"";
const CACHED: &str = "files = \"www\"\ncache = { mode = \"respect\", default_ttl = \"1h\" }";

#[test]
fn files_are_answered_as_from_an_origin() {
    let directory = tree();
    for protocol in [Protocol::H1, Protocol::H2] {
        for lines in [PLAIN, CACHED] {
            let node = node(&directory, protocol, lines);
            for (path, status, body) in [
                ("/", 200, "<p>home"),
                ("/sub/", 200, "<p>sub"),
                ("/sub/deep/page.html", 200, "<p>page"),
                ("/with%20space.txt", 200, "space"),
                ("/inside", 200, "<p>page"),
                ("/.well-known/acme/token", 200, "token"),
                ("/sub/deep/", 404, "404 Not Found\n"),
                ("/nothing", 404, "404 Not Found\n"),
            ] {
                let answer = node.get(path);
                assert_eq!((answer.status, answer.text().as_str()), (status, body), "{lines} {path}");
            }
            let moved = node.get("/sub?a=1");
            assert_eq!((moved.status, moved.field("location")), (301, Some("/sub/?a=1")));
            let whole = node.get("/digits.txt");
            let etag = whole.field("etag").unwrap().to_owned();
            assert!(etag.starts_with('"'), "{etag}");
            assert_eq!(whole.field("content-type"), Some("text/plain; charset=utf-8"));
            assert_eq!(whole.field("content-length"), Some("10"));
            let part = node.get_with("/digits.txt", &["Range: bytes=2-4"]);
            assert_eq!(
                (part.status, part.text().as_str(), part.field("content-range")),
                (206, "234", Some("bytes 2-4/10"))
            );
            assert_eq!(node.get_with("/digits.txt", &["Range: bytes=20-"]).status, 416);
            assert_eq!(node.get_with("/digits.txt", &[&format!("If-None-Match: {etag}")]).status, 304);
            let since = format!("If-Modified-Since: {}", whole.field("last-modified").unwrap());
            assert_eq!(node.get_with("/digits.txt", &[&since]).status, 304);
            let head = node.request("HEAD", "/digits.txt", &[], "");
            assert_eq!((head.status, head.field("content-length"), head.text().as_str()), (200, Some("10"), ""));
            let posted = node.request("POST", "/digits.txt", &[], "x=1");
            assert_eq!((posted.status, posted.field("allow")), (405, Some("GET, HEAD")));
        }
    }
}

#[test]
fn what_is_compressed_already_is_sent_so() {
    let directory = tree();
    for lines in [PLAIN, CACHED] {
        let node = node(&directory, Protocol::H1, lines);
        for (accepted, coding, body) in [
            ("Accept-Encoding: gzip, br", Some("br"), "br script"),
            ("Accept-Encoding: gzip", Some("gzip"), "gz script"),
            ("Accept-Encoding: identity", None, "plain script"),
            ("X-None: 1", None, "plain script"),
        ] {
            let answer = node.get_with("/app.js", &[accepted]);
            assert_eq!(
                (answer.field("content-encoding"), answer.text().as_str()),
                (coding, body),
                "{lines} {accepted}"
            );
            assert_eq!(answer.field("content-type"), Some("text/javascript; charset=utf-8"));
            assert!(
                answer.field("vary").is_some_and(|vary| vary.eq_ignore_ascii_case("accept-encoding")),
                "{}",
                answer.head
            );
        }
    }
    let off = node(&directory, Protocol::H1, "files = { root = \"www\", precompressed = false }");
    let answer = off.get_with("/app.js", &["Accept-Encoding: br"]);
    assert_eq!((answer.text().as_str(), answer.field("vary")), ("plain script", None));
}

#[test]
fn other_paths_may_be_tried() {
    let directory = tree();
    let lines =
        "files = { root = \"www\", index = [\"page.html\"], try = [\"{path}\", \"{path}.txt\", \"/index.html\"] }";
    let node = node(&directory, Protocol::H1, lines);
    for (path, body) in [
        ("/sub/deep/", "<p>page"),
        ("/digits", "0123456789"),
        ("/digits.txt", "0123456789"),
        ("/an/app/of/one/page", "<p>home"),
        ("/out", "<p>home"),
    ] {
        assert_eq!(node.get(path).text(), body, "{path}");
    }
}

#[test]
fn what_is_cached_of_a_file_is_purged_and_stands_in() {
    let directory = tree();
    let node = node(&directory, Protocol::H1, CACHED);
    assert!(!node.get("/digits.txt").is_hit());
    assert!(node.get("/digits.txt").is_hit());
    fs::write(directory.path().join("www/digits.txt"), "changed").unwrap();
    assert_eq!(node.get("/digits.txt").text(), "0123456789", "as long as it is fresh");
    node.purge("{\"all\": true}");
    assert_eq!(node.get("/digits.txt").text(), "changed");
    let name = format!("files:{}", directory.path().join("www").display());
    let status = node.admin("GET", "/v1/pools", "").1.to_string();
    assert!(status.contains(&name), "{status}");
    fs::rename(directory.path().join("www"), directory.path().join("away")).unwrap();
    let gone = node.get("/sub/");
    assert_eq!(gone.status, 502);
    node.wait_for_log("cannot be opened: No such file or directory");
}

/// Paths that mean something outside, or something hidden, in one way or another.
fn hostile() -> Vec<String> {
    let mut all: Vec<String> = [
        "/out",
        "/dir-out/key",
        "/absolute",
        "/root/etc/passwd",
        "/proc/etc/passwd",
        "/ring",
        "/pipe",
        "/.git/config",
        "/.htpasswd",
        "/%2egit/config",
        "/%2Egit/config",
        "/.%67it/config",
        "/.git%2fconfig",
        "/sub/../.git/config",
        "/sub/%2e%2e/.htpasswd",
        "/.//.htpasswd",
        "/sub/.%2e/.htpasswd",
        "/index.html/../.htpasswd",
        "/index.html/",
        "/index.html/x",
        "/digits.txt%00.html",
        "/%00",
        "/digits.txt%0a",
        "/digits.txt%20",
        "/digits.txt.",
        "/digits.txt::$DATA",
        "/digits.txt~",
        "/c:/windows/win.ini",
        "/C:%5cwindows%5cwin.ini",
        "/*",
        "/sub/*",
        "/%",
        "/%2",
        "/%zz",
        "/%u002e%u002e/secret",
        "/%c0%ae%c0%ae/secret",
        "/%e0%80%ae%e0%80%ae/secret",
        "/%ef%bc%8e%ef%bc%8e/secret",
        "/~root/.bashrc",
        "/file:///etc/passwd",
        "/sub/deep/../../../secret",
        "/www/../../secret",
        "/www-other",
        "/../www-other",
        "/www/..%2fwww-other",
    ]
    .map(str::to_owned)
    .into();
    for up in [
        "../",
        "..%2f",
        "..%2F",
        "%2e%2e/",
        "%2e%2e%2f",
        "..\\",
        "..%5c",
        "%252e%252e%252f",
        "....//",
        "..;/",
        ".%2e/",
        "..%c0%af",
    ] {
        all.extend(["secret", "private/key"].map(|name| format!("/{}{name}", up.repeat(3))));
    }
    all.push(format!("/{}", "a".repeat(300)));
    all.push(format!("/{}index.html", "sub/../".repeat(200)));
    all.push(format!("/{}", "sub/".repeat(400)));
    all
}

#[test]
fn no_path_leads_out_of_the_directory() {
    let directory = tree();
    assert!(hostile().len() >= 60);
    for lines in
        [PLAIN, CACHED, "files = { root = \"www\", try = [\"{path}\", \"{path}/index.html\", \"{path}.html\"] }"]
    {
        let node = node(&directory, Protocol::H1, lines);
        for path in hostile() {
            // As it is, whatever a client would make of it.
            let mut client = Client::connect(node.address());
            client.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"));
            let answer = client.response("GET");
            assert!(!answer.text().contains(SECRET), "{path}: {}", answer.head);
            let is_mere_home = answer.status == 200 && answer.text() == "<p>home";
            assert!(
                is_mere_home || matches!(answer.status, 301 | 308 | 400 | 403 | 404 | 414),
                "{path}: {}",
                answer.head
            );
            assert!(!answer.text().contains("root:"), "{path}");
        }
        assert_eq!(node.get("/digits.txt").status, 200, "and it lives");
    }
    let by_h2 = node(&directory, Protocol::H2, PLAIN);
    let all = hostile();
    let sent: Vec<&String> =
        all.iter().filter(|path| format!("https://a{path}").parse::<http::Uri>().is_ok()).collect();
    assert!(sent.len() >= 60, "{}", sent.len());
    for path in sent {
        let trust = directory.path().join("test.pem");
        let answer = h2::request(by_h2.address(), &trust, ("GET", path), &[], "");
        assert!(!answer.text().contains(SECRET), "{path}: {}", answer.head);
        assert_ne!((answer.status, answer.text().contains("root:")), (200, true), "{path}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_never_taken_for_whole() {
    let directory = tree();
    let path = directory.path().join("www/large");
    let large = |byte: u8| vec![byte; 8 << 20];
    for (name, change) in [
        (
            "shorter",
            &(|path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(9).unwrap()) as &dyn Fn(&Path),
        ),
        ("overwritten", &|path: &Path| fs::write(path, vec![b'b'; 8 << 20]).unwrap()),
    ] {
        fs::write(&path, large(b'a')).unwrap();
        let node = node(&directory, Protocol::H1, CACHED);
        let mut client = node.client();
        client.send("GET /large HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 200"), "{name}");
        // Its client reads nothing, so most of it is still to be read.
        change(&path);
        let mut got = 0;
        loop {
            let piece = client.read_some();
            if piece.is_empty() {
                break;
            }
            got += piece.len();
            if got == 8 << 20 {
                break;
            }
        }
        let again = node.get("/large");
        assert!(!again.is_hit(), "{name}: what was sent of two files is not stored: {}", again.head);
    }
    // One that is put in its place does no harm: the old one is sent.
    fs::write(&path, large(b'a')).unwrap();
    age(&directory.path().join("www"));
    let node = node(&directory, Protocol::H1, PLAIN);
    let mut client = node.client();
    client.send("GET /large HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200"));
    let aside = directory.path().join("aside");
    fs::write(&aside, large(b'b')).unwrap();
    fs::rename(&aside, &path).unwrap();
    let mut rest = Vec::new();
    eventually("all of the old one", || {
        rest.extend(client.read_some());
        (rest.len() == 8 << 20).then_some(())
    });
    assert!(rest.iter().all(|byte| *byte == b'a'));
    assert_eq!(node.get("/large").body[0], b'b');
}

#[test]
fn a_file_in_the_place_of_another_has_another_tag() {
    let directory = tree();
    let put = |text: &str| {
        let next = directory.path().join("www/next");
        fs::write(&next, text).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::options().write(true).open(&next).unwrap().set_modified(time).unwrap();
        fs::rename(&next, directory.path().join("www/same.txt")).unwrap();
    };
    put("AAAA");
    let node = node(&directory, Protocol::H1, PLAIN);
    let before = node.get("/same.txt");
    put("BBBB");
    let etag = before.field("etag").unwrap();
    let after = node.get_with("/same.txt", &[&format!("If-None-Match: {etag}")]);
    assert_eq!((after.status, after.text().as_str()), (200, "BBBB"), "the same length and time");
    assert_eq!(before.field("last-modified"), after.field("last-modified"));
}

#[test]
fn clients_that_take_less_than_a_disk_gives_get_all_of_it() {
    let directory = tree();
    let size = 2 << 20;
    fs::write(directory.path().join("www/large"), vec![b'a'; size]).unwrap();
    let node = node(&directory, Protocol::H1, PLAIN);
    // More than one network's share of what may wait for readers, if each had 128 KiB of it.
    let mut clients: Vec<Client> = (0..120).map(|_| node.client()).collect();
    for client in &mut clients {
        client.send("GET /large HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
    }
    for client in &mut clients {
        assert!(client.head().starts_with("HTTP/1.1 200"));
    }
    for client in &mut clients {
        let got: usize = std::iter::from_fn(|| Some(client.read_some().len()).filter(|got| *got > 0)).sum();
        assert_eq!(got, size);
    }
}

#[test]
fn a_pipe_in_the_place_of_a_root_holds_up_nobody() {
    let directory = tree();
    fs::create_dir(directory.path().join("other")).unwrap();
    fs::write(directory.path().join("other/a"), "a").unwrap();
    let other = "[[site.www.route]]\npath = \"/other/*\"\nrewrite = { to = \"/{1}\" }\nfiles = \"other\"\n";
    let config = serving(PLAIN).replacen("[[site", &format!("{other}[[site"), 1);
    let node = Node::speaking_in(Protocol::H1, directory.clone(), &config);
    assert_eq!(node.get("/other/a").text(), "a");
    fs::rename(directory.path().join("www"), directory.path().join("away")).unwrap();
    let made = Command::new("mkfifo").arg(directory.path().join("www")).status();
    assert!(made.unwrap().success());
    for _ in 0..70 {
        assert_eq!(node.get("/index.html").status, 502);
    }
    assert_eq!(node.get("/other/a").text(), "a");
    let checked = Command::new(env!("CARGO_BIN_EXE_seawall")).arg("check").arg(node.config_path()).output().unwrap();
    assert!(String::from_utf8_lossy(&checked.stdout).contains("is no directory"), "{checked:?}");
}

#[test]
fn what_is_not_to_be_public_is_not_served() {
    let directory = tree();
    let path = directory.path();
    fs::create_dir_all(path.join("www/state")).unwrap();
    fs::create_dir_all(path.join("www/conf/sites.d")).unwrap();
    symlink("..", path.join("www/sub/up")).unwrap();
    crate::harness::h2::certificate(&path.join("www"), "own", &["shop.example"]);
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let check = |file: &str, head: &str, files: &str| {
        let config = path.join(file);
        fs::write(&config, format!("{head}{listen}{}", serving(&format!("files = {files:?}")))).unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_seawall")).arg("check").arg(&config).output().unwrap();
        fs::remove_file(&config).unwrap();
        (checked.status.success(), String::from_utf8_lossy(&checked.stdout).into_owned())
    };
    // As volumes of containers are laid out: links to what a hidden directory has.
    fs::create_dir(path.join("www/..2026")).unwrap();
    fs::copy(path.join("www/own.key"), path.join("www/..2026/own.key")).unwrap();
    symlink("..2026", path.join("www/..data")).unwrap();
    symlink("..data/own.key", path.join("www/linked.key")).unwrap();
    let volume = "[[certificate]]\ncert = \"www/own.pem\"\nkey = \"www/linked.key\"\n";
    let key = "[[certificate]]\ncert = \"www/own.pem\"\nkey = \"www/own.key\"\n";
    for (file, head, files, part) in [
        ("a.toml", "", "", "no directory is named"),
        ("a.toml", "", "/", "would serve every file of the machine"),
        ("a.toml", "", "www/root", "would serve every file of the machine"),
        ("a.toml", "", ".", "a.toml, which is not to be public"),
        ("www/conf/a.toml", "", "..", "a.toml, which is not to be public"),
        ("www/a.toml", "", "sub/up", "a.toml, which is not to be public"),
        ("a.toml", key, "www", "own.key, which is not to be public"),
        ("a.toml", "[node]\nstate_dir = \"www/state\"\n", "www", "www/state, which is not to be public"),
        ("a.toml", "[node]\nstate_dir = \"none/../www/later\"\n", "www", "www/later, which is not to be public"),
        ("a.toml", "[node]\nstate_dir = \"www/sub/up/up\"\n", "www", "www/up, which is not to be public"),
        ("a.toml", "[node]\nstate_dir = \"www\"\n", "www/sub", "www, which is not to be public"),
        ("a.toml", "[log]\naccess = \"www/access.log\"\n", "www", "www/access.log, which is not to be public"),
        ("www/.a.toml", "", ".", ".a.toml, which is not to be public"),
        ("a.toml", volume, "www", "own.key, which is not to be public"),
    ] {
        let (taken, told) = check(file, head, files);
        assert!(!taken && told.contains(part), "{files}: {told}");
    }
    for (file, head, files) in [("a.toml", "", "www"), ("a.toml", "[node]\nstate_dir = \"private\"\n", "www")] {
        let (taken, told) = check(file, head, files);
        assert!(taken && !told.contains("warning"), "{file} {files}: {told}");
    }
}
