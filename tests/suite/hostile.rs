//! What clients put into requests to get out of the places that operators gave them: by raw sockets, over both protocols, on
//! routes that use a client's values wherever a value can stand.

use crate::harness::client::find;
use crate::harness::frames::{END_HEADERS, END_STREAM, HEADERS, Raw, frame, section};
use crate::harness::origin::Request;
use crate::harness::{Node, Origin, Protocol, Reply};

/// Each place for a value of a client's, below a path of its own.
const ROUTES: &str = r#"
[[site.shop.route]]
path = "/to/*"
redirect = { to = "/new/{1}?from={header.x-in}" }
[[site.shop.route]]
path = "/root/*"
redirect = { to = "/{1}" }
[[site.shop.route]]
path = "/host/*"
redirect = { to = "https://{host}/{query.x}/{cookie.c}" }
[[site.shop.route]]
path = "/pass/*"
pool = "app"
rewrite = { to = "/files/{1}", set_query = { x = "{query.x}", h = "{header.x-in}" } }
request = { set = { X-Told = "{query.x} {header.x-in} {cookie.c}", Cookie = "told={query.x}" } }
response = { set = { X-Said = "{query.x} {header.x-in}", Set-Cookie = "said={query.x}; Path=/" } }
[[site.shop.route]]
path = "/match/*"
pool = "app"
rewrite = { match = '^/match/(.*)-(.*)$', to = "/files/{2}/{1}" }
[[site.shop.route]]
path = "/cached/*"
pool = "app"
rewrite = { to = "/files/{1}/{cookie.c}" }
cache = { mode = "respect", key = { cookies = ["c"] } }
response = { add = { X-Said = "{path} {cookie.c}" } }
"#;

/// Path and query, and what `X-In` and the cookie `c` have; all of it without spaces or line ends, since a line of HTTP/1.1 would
/// end there.
const REQUESTS: [(&str, &str, &str); 52] = [
    ("/to//evil.example/", "a", "b"),
    ("/to/..%2f..%2f", "a", "b"),
    ("/to/%0d%0aX-Evil:%201", "%0d%0aX-Evil:1", "b"),
    ("/to/a", "&from=evil", "b"),
    ("/to/a", "#evil", "b"),
    ("/root//evil.example/", "a", "b"),
    ("/root/%2fevil.example/", "a", "b"),
    ("/root/%5cevil.example/", "a", "b"),
    ("/root/%5c%5cevil.example/", "a", "b"),
    ("/root/.%2f/evil.example", "a", "b"),
    ("/root/%09/evil.example", "a", "b"),
    ("/root/javascript:alert(1)", "a", "b"),
    ("/host/a?x=@evil.example", "a", "@evil.example"),
    ("/host/a?x=%40evil.example%2f", "a", "..%2f.."),
    ("/host/a?x=..%2f..%2f..", "a", ".."),
    ("/host/a?x=%0d%0aX-Evil:1", "a", "%0d%0aX-Evil:1"),
    ("/host/a?x=%3f%23", "a", "?x#y"),
    ("/pass/..%2f..%2fetc?x=1", "a", "b"),
    ("/pass/%2e%2e/etc?x=1", "a", "b"),
    ("/pass/..;/etc?x=1", "a", "b"),
    ("/pass/%252e%252e/etc?x=1", "a", "b"),
    ("/pass/..%5cetc?x=1", "a", "b"),
    ("/pass/a%00b?x=1", "a", "b"),
    ("/pass/a%3fevil=1?x=1", "a", "b"),
    ("/pass/a%23b?x=1", "a", "b"),
    ("/pass/a?x=1%26h=evil%26y=2", "1&x=evil", "b"),
    ("/pass/a?x=1%0d%0aX-Evil:%201", "a", "b"),
    ("/pass/a?x=1%20HTTP/1.1%0d%0aX-Evil:%201", "a", "b"),
    ("/pass/a?x=1%3b%20admin=evil%3b%20Domain=evil.example", "a", "b"),
    ("/pass/a?x=%00%01%7f%ff", "a", "b"),
    ("/match/..%2f-..%2f", "a", "b"),
    ("/match/x-..", "a", "b"),
    ("/match/%2e%2e-%2e%2e", "a", "b"),
    ("/cached/a", "a", ".."),
    ("/cached/a", "a", "%2e%2e%2fetc"),
    ("/cached/..%2fb", "a", "../../etc"),
    ("/to/%e2%80%a8%0d%0aSet-Cookie:%20evil", "a", "b"),
    ("/to/%c0%ae%c0%ae%c0%afevil", "%e5%98%8d%e5%98%8aX-Evil:1", "b"),
    ("/root/%2f%2fevil.example", "a", "b"),
    ("/root/%ef%bc%8fevil.example/", "a", "b"),
    ("/host/a?x=%5c%5cevil.example", "a", ":443@evil.example"),
    ("/host/a?x=%0aLocation:%20evil", "a", "%0aX-Evil:1"),
    ("/pass/%2e%2e%2f%2e%2e%2fetc?x=1", "a", "b"),
    ("/pass/a/%2e%2e/%2e%2e/%2e%2e/etc?x=1", "a", "b"),
    ("/pass/..%c0%afetc?x=1", "a", "b"),
    ("/pass/a%20HTTP/1.1%0d%0aHost:%20evil.example?x=1", "a", "b"),
    ("/pass/a?x=%26x=evil%23h=evil", "1%26h=evil", "b"),
    ("/pass/a?x=%2500%250d%250aX-Evil:1", "a", "b;x=1"),
    ("/match/%252e%252e-%252e%252e", "a", "b"),
    ("/match/a%0d%0aX-Evil:1-c", "a", "b"),
    ("/cached/a?x=1", "a", "%0d%0aX-Evil:%201"),
    ("/cached/..;/..;/b", "a", "%5c..%5c..%5c"),
];

/// Lines that no client may bring about: in what an origin gets, and in what the client itself is sent.
fn check_origin(origin: &Origin, from: usize, what: &str) {
    for request in &origin.requests()[from..] {
        let head = request.head.to_ascii_lowercase();
        let mut lines = head.lines();
        let target = lines.next().unwrap_or_default().to_owned();
        let words: Vec<&str> = target.split(' ').collect();
        assert!(words.len() == 3 && words[2] == "http/1.1", "{what}: {target}");
        let (path, query) = words[1].split_once('?').unwrap_or((words[1], ""));
        assert!(path.starts_with("/files/"), "{what}: {target}");
        let decoded = path.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
        assert!(!decoded.split('/').any(|part| matches!(part, "." | "..")), "{what}: {target}");
        for name in ["x", "h"] {
            let times = query.split('&').filter(|pair| pair.split('=').next() == Some(name)).count();
            assert!(times <= 1, "{what}: {target}");
        }
        let count = |name: &str| lines.clone().filter(|line| line.starts_with(&format!("{name}:"))).count();
        assert_eq!((count("host"), count("x-evil")), (1, 0), "{what}: {head}");
        let cookie = request.field("cookie").unwrap_or_default();
        assert!(!cookie.contains("; "), "{what}: {cookie}");
    }
}

/// `answer`: its head, as HTTP/1.1 or as literals of HPACK.
fn check_answer(answer: &[u8], what: &str) {
    let lower = answer.to_ascii_lowercase();
    for evil in
        ["\r\nx-evil", "\nx-evil", "//evil.example", "/\\evil", "https://evil", "said=1; admin", "shop.example@"]
    {
        assert!(find(&lower, evil.as_bytes()).is_none(), "{what}: {}", String::from_utf8_lossy(answer));
    }
}

fn origin() -> Origin {
    Origin::start(|_: &Request| Reply::ok(&["Cache-Control: max-age=60"], "x"))
}

#[test]
fn no_request_by_http_1_leads_out_of_its_place() {
    let origin = origin();
    let node = Node::speaking(Protocol::H1, &[origin.address], ROUTES);
    for (target, field, cookie) in REQUESTS {
        let (before, what) = (origin.count(), format!("{target} {field} {cookie}"));
        let mut client = node.client();
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: shop.example\r\nX-In: {field}\r\nCookie: c={cookie}\r\nConnection: close\r\n\r\n"
        ));
        let mut answer = Vec::new();
        loop {
            match client.read_some() {
                some if some.is_empty() => break,
                some => answer.extend(some),
            }
        }
        assert!(answer.starts_with(b"HTTP/1.1 ") && !answer.starts_with(b"HTTP/1.1 5"), "{what}");
        check_answer(&answer, &what);
        check_origin(&origin, before, &what);
    }
    // Forms of the target, and hosts, that no browser sends.
    for head in [
        "GET //evil.example/ HTTP/1.1\r\nHost: shop.example\r\n",
        "GET http://evil.example/root/a HTTP/1.1\r\nHost: shop.example\r\n",
        "GET http://shop.example@evil.example/root/a HTTP/1.1\r\nHost: shop.example\r\n",
        "GET /host/a HTTP/1.1\r\nHost: evil.example/x\r\n",
        "GET /host/a HTTP/1.1\r\nHost: evil.example#\r\n",
        "GET /host/a HTTP/1.1\r\nHost: a@evil.example\r\n",
        "GET /host/a HTTP/1.1\r\nHost: shop.example\r\nHost: evil.example\r\n",
        "GET /host/a HTTP/1.1\r\nHost: shop.example\r\nX-In : a\r\n",
        "GET /root/a\tb HTTP/1.1\r\nHost: shop.example\r\n",
        "GET /root/a HTTP/1.1\r\nHost: shop.example\r\nX-In: a\rX-Evil: 1\r\n",
    ] {
        let mut client = node.client();
        client.send(format!("{head}Connection: close\r\n\r\n"));
        let answer = client.head();
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 308"), "{head}: {answer}");
        check_answer(answer.as_bytes(), head);
    }
}

#[test]
fn no_request_by_http_2_leads_out_of_its_place() {
    let origin = origin();
    let node = Node::speaking(Protocol::H2, &[origin.address], ROUTES);
    // Here a value may have what would end a line in HTTP/1.1.
    let torn = [
        ("/to/a", "a\r\nX-Evil: 1", "b"),
        ("/pass/a?x=1", "a\nx-evil: 1", "b"),
        ("/pass/a?x=1", "a\0b", "b"),
        ("/pass/a?x=1", "a", "b\r\nx-evil: 1"),
        ("/pass/a\r\nX-Evil: 1", "a", "b"),
        ("/pass/a HTTP/1.1\r\nX-Evil: 1\r\n\r\n", "a", "b"),
        ("/root//evil.example\\", "a", "b"),
        ("//evil.example/", "a", "b"),
        ("http://evil.example/root/a", "a", "b"),
        ("*", "a", "b"),
    ];
    for (target, field, cookie) in REQUESTS.into_iter().chain(torn) {
        let (before, what) = (origin.count(), format!("{target:?} {field:?} {cookie:?}"));
        let mut raw = Raw::connect(&node);
        let cookie = format!("c={cookie}");
        let block = section(target, &[("x-in", field), ("cookie", &cookie)]);
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
        // A head, a reset or the connection's end: all of them are answers.
        let answer = std::iter::from_fn(|| raw.frame()).find(|frame| frame.stream == 1 || frame.kind == 7);
        check_answer(&answer.map(|frame| frame.payload).unwrap_or_default(), &what);
        check_origin(&origin, before, &what);
    }
    assert!(Raw::connect(&node).is_alive());
}
