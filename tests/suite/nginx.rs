//! A real origin: Debian's nginx, serving a tree of files. A real client: curl.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::h2::certificate;
use crate::harness::node::site;
use crate::harness::{Client, Node, eventually};

/// nginx in the foreground on a free port.
struct Nginx {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Nginx {
    fn start(site: &str) -> Self {
        Self::speaking("", site)
    }

    /// `protocol`: of its listener, `http2` for that by prior knowledge.
    fn speaking(protocol: &str, site: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        // nginx cannot be asked which port it got, so a free one is looked for; the race is tried again.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "daemon off; pid {root}/pid; error_log stderr warn; worker_processes 1;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; default_type text/plain; types {{ text/css css; text/html html; }}\n\
             client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/f;\n\
             uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
             server {{ listen {address} {protocol}; root {root}/www; {site} }} }}",
            root = root.display()
        );
        std::fs::write(root.join("nginx.conf"), config).unwrap();
        std::fs::create_dir(root.join("www")).unwrap();
        let child = Command::new("/usr/sbin/nginx")
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(root.join("nginx.conf"))
            .stderr(Stdio::inherit())
            .spawn()
            .expect("nginx is installed (make test does it)");
        let nginx = Nginx { child, address, directory };
        eventually("nginx to listen", || std::net::TcpStream::connect(address).ok());
        nginx
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.directory.path().join("www").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        // Its workers run as another user.
        let status = Command::new("chmod").args(["-R", "a+rX"]).arg(self.directory.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn curl(node: &Node, path: &str, arguments: &[&str], output: &Path) -> String {
    let run = Command::new("curl")
        .args(["-s", "-S", "--max-time", "20", "-D", "-", "-o"])
        .arg(output)
        .args(arguments)
        .arg(format!("http://{}{path}", node.address()))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn a_tree_of_files_is_served_cached_and_validated() {
    let nginx =
        Nginx::start("expires 1h; location /short/ { add_header Cache-Control max-age=0; expires off; etag on; }");
    let files: Vec<(String, Vec<u8>)> = (0..30_usize)
        .map(|i| {
            let content = (0..i * i * 700).map(|byte| (byte * 31 + i) as u8).collect();
            (format!("dir{}/file{i}.css", i % 3), content)
        })
        .collect();
    files.iter().for_each(|(name, content)| nginx.write(name, content));
    nginx.write("short/a.html", b"<p>validated</p>");
    let node = Node::caching(nginx.address);
    let output = node.directory.path().join("got");
    for round in 0..2 {
        for (name, content) in &files {
            let head = curl(&node, &format!("/{name}"), &[], &output);
            assert!(head.starts_with("HTTP/1.1 200"), "{name}: {head}");
            assert_eq!(head.contains("; hit"), round == 1, "{name}: {head}");
            assert_eq!(&std::fs::read(&output).unwrap(), content, "{name}");
        }
    }
    let (name, content) = &files[29];
    let head = curl(&node, &format!("/{name}"), &["-r", "1000-1999"], &output);
    assert!(head.starts_with("HTTP/1.1 206") && head.contains("; hit"), "{head}");
    assert_eq!(std::fs::read(&output).unwrap(), content[1000..2000]);
    curl(&node, "/short/a.html", &[], &output);
    let head = curl(&node, "/short/a.html", &[], &output);
    assert!(head.contains("fwd=stale; fwd-status=304; stored"), "{head}");
    assert_eq!(std::fs::read(&output).unwrap(), b"<p>validated</p>");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().trim().to_owned();
    let head = curl(&node, "/short/a.html", &["-H", &format!("If-None-Match: {etag}")], &output);
    assert!(head.starts_with("HTTP/1.1 304"), "{head}");
    let head = curl(&node, "/missing", &[], &output);
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[test]
fn compressed_variants_are_kept_apart() {
    let nginx =
        Nginx::start("expires 1h; gzip on; gzip_vary on; gzip_proxied any; gzip_types text/css; gzip_min_length 1;");
    let text = "body { color: sea; }\n".repeat(500);
    nginx.write("a.css", text.as_bytes());
    let node = Node::caching(nginx.address);
    let output = node.directory.path().join("got");
    for hit in [false, true] {
        for arguments in [&[][..], &["--compressed", "-H", "Accept-Encoding: gzip"]] {
            let head = curl(&node, "/a.css", arguments, &output);
            assert_eq!(head.contains("; hit"), hit, "{arguments:?}: {head}");
            assert_eq!(head.contains("content-encoding: gzip"), !arguments.is_empty(), "{head}");
            assert_eq!(std::fs::read_to_string(&output).unwrap(), text);
        }
    }
}

/// nginx refuses by HTTP/2 what others let pass.
#[test]
fn nginx_is_an_origin_by_http2_and_healthy() {
    let nginx = Nginx::speaking("http2", "location /posted { return 200 $host:$content_length; }");
    nginx.write("a.css", b"body {}");
    let route = "[[site.shop.route]]\npath = \"PATH\"\npool = \"app\"\n";
    let cached = route.replace("PATH", "/*") + "cache = { mode = \"respect\", default_ttl = \"1m\" }\n";
    let pool = "protocol = \"h2\"\nhealth = { path = \"/a.css\", interval = \"20ms\", fall = 1 }\n";
    let routes = route.replace("PATH", "/posted") + &route.replace("PATH", "/passed/*") + &cached;
    let node = Node::start(&crate::harness::node::site(&[nginx.address], pool, &routes));
    nginx.write("passed/b.css", b"more");
    assert_eq!((node.get("/a.css").text().as_str(), node.get("/a.css").is_hit()), ("body {}", true));
    assert_eq!(node.get("/passed/b.css").text(), "more");
    let posted = node.request("POST", "/posted", &[], "hello");
    assert_eq!((posted.status, posted.text().as_str()), (200, "shop.example:5"));
    assert_eq!(node.origin_status("app", nginx.address), "up");
    assert_eq!(node.origin("app", nginx.address)["last_error"], serde_json::Value::Null);
}

#[test]
fn nginx_is_told_whose_connection_it_is() {
    let keys = TempDir::new().unwrap();
    certificate(keys.path(), "origin", &["origin.test"]);
    let tls = format!("ssl_certificate {0}/origin.pem; ssl_certificate_key {0}/origin.key;", keys.path().display());
    let says = "location / { return 200 \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_port\"; }";
    for (listener, rest) in [("", ""), ("ssl", "tls = true\nverify = false\n")] {
        let nginx = Nginx::speaking(&format!("{listener} proxy_protocol"), &format!("{says} {tls}"));
        for version in ["v1", "v2"] {
            let pool = format!(
                "send_proxy = \"{version}\"\nhealth = {{ path = \"/\", interval = \"20ms\", fall = 1 }}\n{rest}"
            );
            let route = "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\n";
            let node = Node::start(&site(&[nginx.address], &pool, route));
            for client in [[127, 0, 0, 2], [127, 0, 0, 3]] {
                let mut client = (Client::connect_from(client, node.address()), client);
                let port = client.0.stream().local_addr().unwrap().port();
                let expected = format!("{}:{port} {}", std::net::Ipv4Addr::from(client.1), node.address().port());
                for _ in 0..3 {
                    assert_eq!(client.0.get("/", &[]).text(), expected, "{listener} {version}");
                }
            }
            // Its own checks are nobody's connections, and nginx takes them.
            let origin = || node.origin("app", nginx.address);
            eventually("checks", || (origin()["checks"]["passed"].as_u64()? > 2).then_some(()));
            assert_eq!((&origin()["status"], &origin()["checks"]["failed"]), (&"up".into(), &0.into()));
        }
    }
}
