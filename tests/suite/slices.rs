//! Large objects in slices: what is moved for a range, what is kept, and that versions never mix.

use std::sync::Arc;
use std::sync::Mutex;

use tempfile::TempDir;

use crate::harness::client::Response;
use crate::harness::node::site;
use crate::harness::origin::Request;
use crate::harness::{Node, Origin, Protocol, Reply, Step, eventually};

const SLICE: usize = 64 << 10;

fn body(version: u8) -> Vec<u8> {
    (0..5 * SLICE as u32 + 1000).map(|number| (number / 251) as u8 ^ version).collect()
}

/// What an origin has now.
#[derive(Clone)]
struct File {
    body: Vec<u8>,
    etag: String,
    fields: Vec<String>,
}

impl File {
    fn version(version: u8) -> Self {
        let fields = vec!["Cache-Control: max-age=3600".to_owned(), "Cache-Tag: film".to_owned()];
        File { body: body(version), etag: format!("\"v{version}\""), fields }
    }

    /// As a good server answers.
    fn answer(&self, request: &Request) -> Vec<Step> {
        let etag = format!("ETag: {}", self.etag);
        let mut fields: Vec<&str> = self.fields.iter().map(String::as_str).collect();
        fields.push(&etag);
        if request.field("if-none-match") == Some(&self.etag) {
            return Reply::head_only(304, &fields);
        }
        let Some(range) = request.field("range") else { return Reply::ok(&fields, &self.body) };
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (first, total) = (first.parse::<usize>().unwrap(), self.body.len());
        if first >= total {
            return Reply::status(416, &[&format!("Content-Range: bytes */{total}")], "");
        }
        let last = last.parse::<usize>().unwrap().min(total - 1);
        let range = format!("Content-Range: bytes {first}-{last}/{total}");
        fields.push(&range);
        Reply::status(206, &fields, &self.body[first..=last])
    }
}

/// An origin with a file that can be exchanged.
fn origin(file: File) -> (Origin, Arc<Mutex<File>>) {
    let file = Arc::new(Mutex::new(file));
    let for_origin = file.clone();
    (Origin::start(move |request| for_origin.lock().unwrap().answer(request)), file)
}

fn route(more: &str) -> String {
    format!(
        "[[site.shop.route]]\npath = \"/*\"\npool = \"app\"\ncache = {{ mode = \"respect\", slice = \"64KiB\"{more} }}\n"
    )
}

fn in_memory(protocol: Protocol, origin: &Origin) -> Node {
    Node::speaking(protocol, &[origin.address], &route(""))
}

fn on_disk(directory: &Arc<TempDir>, origin: &Origin) -> Node {
    let config = format!(
        "[node]\nstate_dir = \"state\"\n[cache.memory]\nmax_size = \"64KiB\"\nmax_object = \"16KiB\"\n\
         [cache.disk]\npath = \"cache\"\nmax_size = \"64MiB\"\n{}",
        site(&[origin.address], "", &route(""))
    );
    Node::start_in(directory.clone(), &config)
}

fn range(node: &Node, range: &str) -> Response {
    node.get_with("/film", &[&format!("Range: bytes={range}")])
}

fn asked(origin: &Origin) -> Vec<String> {
    origin.requests().iter().map(|request| request.field("range").unwrap_or("whole").to_owned()).collect()
}

#[test]
fn only_the_slices_that_are_needed_are_moved() {
    for protocol in Protocol::ALL {
        let (origin, _) = origin(File::version(1));
        let (node, body) = (in_memory(protocol, &origin), body(1));
        let middle = range(&node, "140000-140009");
        assert_eq!((middle.status, &middle.body[..]), (206, &body[140_000..140_010]), "{}", middle.head);
        assert_eq!(middle.field("content-range"), Some(format!("bytes 140000-140009/{}", body.len()).as_str()));
        assert_eq!(asked(&origin), ["bytes=131072-196607"]);
        let scheme = if matches!(protocol, Protocol::H2) { "https" } else { "http" };
        let query = |more| format!("/v1/explain?url={scheme}://shop.example/film{more}");
        let explained = |more| node.admin("GET", &query(more), "").1;
        let of_range = explained("&header=Range:bytes%3D140000-140009");
        assert_eq!(
            of_range["slice"],
            serde_json::json!({ "bytes": 65536, "number": 2, "stored": 1, "of": 6 }),
            "{of_range}"
        );
        assert!(of_range["would_say"].as_str().unwrap().starts_with("hit; ttl="), "{of_range}");
        assert_eq!(explained("")["would_say"], "fwd=uri-miss", "the first slice is not there");
        assert!(range(&node, "140000-150000").is_hit());
        // Over the edge of two.
        let across = range(&node, "196000-197000");
        assert!(across.is_hit() && across.body == body[196_000..=197_000], "{}", across.head);
        assert_eq!(asked(&origin)[1..], ["bytes=196608-262143"]);
        let whole = node.get("/film");
        assert!(whole.status == 200 && whole.body == body, "{}", whole.head);
        assert_eq!(whole.field("content-length"), Some(body.len().to_string().as_str()));
        assert_eq!(origin.count(), 6);
        assert!(node.get("/film").is_hit());
        let end = range(&node, "-500");
        assert!(end.is_hit() && end.body == body[body.len() - 500..]);
        let open = range(&node, "300000-");
        assert!(open.is_hit() && open.body == body[300_000..]);
        assert_eq!(
            node.request("HEAD", "/film", &[], "").field("content-length"),
            Some(body.len().to_string().as_str())
        );
        assert_eq!(node.get_with("/film", &["If-None-Match: \"v1\""]).status, 304);
        assert_eq!(origin.count(), 6);
        let beyond = range(&node, "9000000-");
        assert_eq!(
            (beyond.status, beyond.field("content-range")),
            (416, Some(format!("bytes */{}", body.len()).as_str()))
        );
    }
}

#[test]
fn slices_are_kept_on_disk() {
    let directory = Arc::new(TempDir::new().unwrap());
    let (origin, _) = origin(File::version(1));
    let mut node = on_disk(&directory, &origin);
    let body = body(1);
    assert!(node.get("/film").body == body);
    node.signal("TERM");
    assert!(node.wait());
    let node = on_disk(&directory, &origin);
    let hit = node.get("/film");
    assert!(hit.is_hit() && hit.cache().contains("detail=disk") && hit.body == body, "{}", hit.head);
    assert!(range(&node, "140000-270000").body == body[140_000..=270_000]);
    assert_eq!(origin.count(), 6);
}

#[test]
fn two_versions_never_meet() {
    let (origin, file) = origin(File::version(1));
    let node = in_memory(Protocol::H1, &origin);
    range(&node, "0-9");
    *file.lock().unwrap() = File::version(2);
    // The first slice is of the old version, the second of the new one: there is no whole of it.
    let mixed = node.get("/film");
    assert!(!mixed.complete && body(1).starts_with(&mixed.body), "{}", mixed.head);
    let new = node.get("/film");
    assert!(new.complete && new.body == body(2), "{}", new.head);
    assert_eq!(new.field("etag"), Some("\"v2\""));
}

#[test]
fn all_slices_are_purged_together() {
    for purge in [
        "{\"url\": \"http://shop.example/film\"}",
        "{\"tags\": [\"film\"]}",
        "{\"prefix\": \"http://shop.example/f\"}",
        "POST",
    ] {
        let (origin, _) = origin(File::version(1));
        let node = in_memory(Protocol::H1, &origin);
        node.get("/film");
        match purge {
            "POST" => drop(node.request("POST", "/film", &["Range: bytes=0-0"], "x")),
            body => drop(node.purge(body)),
        }
        for at in [0, 140_000, 320_000] {
            let response = range(&node, &format!("{at}-{at}"));
            assert!(!response.is_hit(), "{purge} {at}: {}", response.cache());
        }
    }
}

#[test]
fn each_slice_is_validated() {
    let mut file = File::version(1);
    file.fields[0] = "Cache-Control: max-age=0".into();
    let (origin, _) = origin(file);
    let node = in_memory(Protocol::H1, &origin);
    range(&node, "140000-140009");
    eventually("no fill runs", || (node.admin("GET", "/v1/status", "").1["cache"]["fills"] == 0).then_some(()));
    let again = range(&node, "140000-140009");
    assert!(again.cache().contains("fwd=stale; fwd-status=304"), "{}", again.cache());
    assert_eq!(again.body, body(1)[140_000..140_010]);
    let asked = origin.requests().pop().unwrap();
    assert_eq!((asked.field("range"), asked.field("if-none-match")), (Some("bytes=131072-196607"), Some("\"v1\"")));
}

#[test]
fn origins_without_usable_ranges_still_work() {
    let whole = |_: &Request| Reply::ok(&["Cache-Control: max-age=3600", "ETag: \"a\""], body(1));
    let weak = |request: &Request| File { etag: "W/\"a\"".into(), ..File::version(1) }.answer(request);
    let private =
        |request: &Request| File { fields: vec!["Cache-Control: private".into()], ..File::version(1) }.answer(request);
    type Answers = Box<dyn Fn(&Request) -> Vec<Step> + Send + Sync>;
    let answers: [(Answers, usize, bool); 3] =
        [(Box::new(whole), 1, true), (Box::new(weak), 2, true), (Box::new(private), 2, false)];
    for (answer, requests, stored) in answers {
        let origin = Origin::start(answer);
        let node = in_memory(Protocol::H1, &origin);
        let first = range(&node, "140000-140009");
        let expected =
            if stored { (206, body(1)[140_000..140_010].to_vec()) } else { (first.status, first.body.clone()) };
        assert_eq!((first.status, first.body), expected, "{}", first.head);
        assert_eq!(origin.count(), requests, "{:?}", asked(&origin));
        eventually("no fill runs", || (node.admin("GET", "/v1/status", "").1["cache"]["fills"] == 0).then_some(()));
        let second = node.get("/film");
        assert!(second.complete && second.body == body(1), "{}", second.head);
        assert_eq!(second.is_hit(), stored, "{}", second.cache());
        assert!(requests == 1 || asked(&origin).pop().unwrap() == "whole", "{:?}", asked(&origin));
    }
}

#[test]
fn errors_and_small_files_are_what_they_are() {
    let origin = Origin::start(|request| match request.path() {
        "/small" => File { body: b"small".to_vec(), ..File::version(1) }.answer(request),
        "/empty" => Reply::ok(&["Cache-Control: max-age=3600"], ""),
        _ => Reply::status(404, &["Cache-Control: max-age=3600"], "no"),
    });
    let node = in_memory(Protocol::H1, &origin);
    for (path, status, body) in [("/small", 200, "small"), ("/missing", 404, "no"), ("/empty", 200, "")] {
        for hit in [false, true] {
            let response = node.get(path);
            assert_eq!((response.status, response.text().as_str(), response.is_hit()), (status, body, hit), "{path}");
        }
    }
    assert_eq!(origin.count(), 3);
}

#[test]
fn many_readers_share_each_slice() {
    let (origin, _) = origin(File::version(1));
    let node = in_memory(Protocol::H1, &origin);
    let address = node.address();
    let readers: Vec<_> = (0..40_usize)
        .map(|number| {
            std::thread::spawn(move || {
                let (first, last) = (number * 8000, number * 8000 + 7999);
                let fields = [format!("Range: bytes={first}-{last}")];
                let response = crate::harness::Client::connect(address).get("/film", &[&fields[0]]);
                assert!(response.status == 206 && response.body == body(1)[first..=last], "{}", response.head);
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    eventually("no fill runs", || (node.admin("GET", "/v1/status", "").1["cache"]["fills"] == 0).then_some(()));
    assert!(origin.count() <= 5, "{:?}", asked(&origin));
}

#[test]
fn what_concerns_one_client_does_not_end_slicing_for_all() {
    let (origin, _) = origin(File::version(1));
    let node = in_memory(Protocol::H1, &origin);
    let mine = node.get_with("/film", &["Range: bytes=0-9", "Authorization: Basic x"]);
    assert_eq!((mine.status, &mine.body[..]), (206, &body(1)[..10]), "{}", mine.head);
    assert_eq!(range(&node, "140000-140009").status, 206);
    assert_eq!(asked(&origin).last().unwrap(), "bytes=131072-196607");
}

#[test]
fn versions_whose_tags_are_not_ascii_are_told_apart() {
    let tagged = |version: u8| File { etag: format!("\"\u{e9}{version}\""), ..File::version(version) };
    let (origin, file) = origin(tagged(1));
    let node = in_memory(Protocol::H1, &origin);
    assert!(range(&node, "0-9").status == 206);
    *file.lock().unwrap() = tagged(2);
    let mixed = node.get("/film");
    assert!(!mixed.complete, "what began as one version may not go on as another");
    eventually("the new version", || {
        let whole = node.get("/film");
        (whole.complete && whole.body == body(2)).then_some(())
    });
}

/// What may not be stored of a later slice goes to its client alone, and the answer does not end with it.
#[test]
fn a_visitor_gets_all_of_what_is_stored_in_slices_for_others() {
    for protocol in Protocol::ALL {
        let mut file = File::version(1);
        file.fields = vec!["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT".into()];
        let (origin, file) = origin(file);
        let node = in_memory(protocol, &origin);
        range(&node, "bytes=0-999");
        let visitor = node.get_with("/film", &["Cookie: sid=1"]);
        assert!(visitor.complete && visitor.body == body(1), "{}", visitor.head);
        // One visitor's cookie says nothing of how others get it.
        let before = origin.count();
        range(&node, &format!("bytes={}-{}", 3 * SLICE, 3 * SLICE + 9));
        assert!(origin.requests()[before..].iter().all(|request| request.field("range").is_some()));
        // Nor does a cookie that only a newcomer is given.
        file.lock().unwrap().fields = vec!["Cache-Control: max-age=600".into()];
        node.get_with("/sticky", &["Range: bytes=0-999"]);
        file.lock().unwrap().fields.push("Set-Cookie: lb=1".into());
        let newcomer = node.get("/sticky");
        assert!(newcomer.complete && newcomer.body == body(1), "{}", newcomer.head);
    }
}

/// An empty object has no first slice, and who asks for all of it has asked for no range.
#[test]
fn an_empty_object_is_no_range_that_cannot_be_had() {
    let origin = Origin::start(|request| match request.field("range") {
        Some(_) => Reply::status(416, &["Content-Range: bytes */0"], ""),
        None => Reply::ok(&["Cache-Control: max-age=60", "ETag: \"0\""], ""),
    });
    let node = in_memory(Protocol::H1, &origin);
    for _ in 0..2 {
        assert_eq!(node.get("/empty").status, 200);
    }
    assert_eq!(node.get_with("/empty", &["Range: bytes=0-9"]).status, 416);
}
