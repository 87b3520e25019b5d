//! What is fuzzed: one function a target. Each takes any bytes, and fails by a panic: its own, or one of an assertion that
//! must hold for every input. `smoke.rs` runs them on a stable compiler, `fuzz_targets/` under libFuzzer.

use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use seawall::internals::{
    Body, ByteSize, Chunks, ClientDirectives, Config, Decoder, ExchangeTimes, Expression, Facts, FieldLines, Fields,
    Form, Freshness, HEADER, Head, Header, Key, Limits, Meta, Presented, Replay, Reply, RequestFacts, RequestHead,
    RequestView, ResponseFacts, Scheme, Scope, Section, Standing, TakenChunk, Template, Timestamp, Usability, Variant,
    explain, field_space, find_end, groups, hpack, judge, load, normalise, proxy_protocol, respond, response,
    settle_version,
};

#[path = "h2_frames.rs"]
mod h2_frames;

pub use h2_frames::h2_frames;

/// A target's name, which is also that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 13] = [
    ("h1_request_head", h1_request_head),
    ("h1_origin_response", h1_origin_response),
    ("chunked_request", chunked_request),
    ("chunked_response", chunked_response),
    ("hpack", hpack),
    ("h2_frames", h2_frames),
    ("configuration", configuration),
    ("purge_log", purge_log),
    ("disk_header", disk_header),
    ("cache_control_and_vary", cache_control_and_vary),
    ("expression", expression),
    ("proxy_header", proxy_header),
    ("template", template),
];

/// A head of HTTP/1: what is accepted must be read the same when it is written anew, which is what an origin gets.
pub fn h1_request_head(data: &[u8]) {
    let limits = Limits::default();
    let Ok(Some(end)) = find_end(data, 0, &limits) else { return };
    for scanned in [1, end / 2, end.saturating_sub(4)] {
        // However the bytes came, the head ends in one place, or is refused before.
        let scanned = scanned.min(end.saturating_sub(4));
        assert_eq!(find_end(data, scanned, &limits), Ok(Some(end)), "looked through from {scanned}");
    }
    let mut head = data[..end].to_vec();
    settle_version(&mut head);
    let mut space = field_space(&head);
    let Ok(read) = RequestHead::parse(&head, &mut space, &limits) else { return };

    let target = match read.target.query {
        Some(query) => format!("{}?{query}", read.target.path),
        None => read.target.path.to_string(),
    };
    let version = u8::from(read.version == Version::HTTP_11);
    let mut anew = format!("{} {target} HTTP/1.{version}\r\n", read.method).into_bytes();
    for field in read.fields {
        assert!(!field.value.iter().any(|byte| b"\r\n\0".contains(byte)), "a value with a line end");
        anew.extend([field.name.as_bytes(), b": ", field.value, b"\r\n"].concat());
    }
    anew.extend(b"\r\n");
    let limits = Limits { max_head: ByteSize(1 << 20), max_target: ByteSize(1 << 20), ..limits };
    assert_eq!(find_end(&anew, 0, &limits), Ok(Some(anew.len())));
    let mut space = field_space(&anew);
    let again = RequestHead::parse(&anew, &mut space, &limits);
    let anew = String::from_utf8_lossy(&anew);
    let again = again.unwrap_or_else(|refusal| panic!("refused when written anew: {refusal:?} {anew:?}"));
    assert_eq!((&read.method, &read.host, read.port), (&again.method, &again.host, again.port), "{anew:?}");
    assert_eq!((&read.target.path, read.target.query), (&again.target.path, again.target.query), "{anew:?}");
    assert_eq!((read.body, read.expects_continue), (again.body, again.expects_continue), "{anew:?}");
}

/// A response of an origin by HTTP/1: however its bytes come, it comes to the same.
pub fn h1_origin_response(data: &[u8]) {
    let Ok(Some(end)) = response::find_end(data, 0) else { return };
    let Ok((mut head, _)) = response::parse(Bytes::copy_from_slice(&data[..end])) else { return };
    for value in head.fields.values() {
        assert!(!value.as_bytes().iter().any(|byte| b"\r\n\0".contains(byte)), "{value:?}");
    }
    let Ok(body) = Body::of(&Method::GET, head.status, &mut head.fields) else { return };
    let whole = received(body, &data[end..], usize::MAX);
    for step in [1, 7] {
        assert_eq!(received(body, &data[end..], step), whole, "{step} bytes at a time");
    }
}

/// What a body has come to: its bytes, its trailers and what follows it, or that it is broken.
type Received = Result<(Vec<u8>, Option<HeaderMap>, Option<usize>), ()>;

fn received(mut body: Body, wire: &[u8], step: usize) -> Received {
    let (mut content, mut trailers, mut read) = (Vec::new(), None, BytesMut::new());
    let mut at = 0;
    loop {
        match body.take(&mut read, &mut trailers).map_err(|_| ())? {
            Poll::Ready(Some(piece)) => content.extend_from_slice(&piece),
            Poll::Ready(None) => return Ok((content, trailers, Some(wire.len() - at + read.len()))),
            // A line that is too long is seen in whatever step it comes.
            Poll::Pending if at == wire.len() => return Ok((content, None, None)),
            Poll::Pending => {
                let to = at.saturating_add(step).min(wire.len());
                read.extend_from_slice(&wire[at..to]);
                at = to;
            }
        }
    }
}

/// A chunked body of a client: however its bytes come, it comes to the same; and whoever is less
/// strict reads it as we do.
pub fn chunked_request(data: &[u8]) {
    let whole = chunks(data, usize::MAX);
    for step in [1, 5] {
        assert_eq!(chunks(data, step), whole, "{step} bytes at a time");
    }
    let Ok((content, Some(rest))) = whole else { return };
    let origins = received(chunked(), data, usize::MAX);
    let origins = origins.map(|(content, _, rest)| (content, rest));
    assert_eq!(origins, Ok((content, Some(rest))), "read with less care it is another body");
}

fn chunks(wire: &[u8], step: usize) -> Result<(Vec<u8>, Option<usize>), ()> {
    let (mut state, mut content, mut read, mut at) = (Chunks::OF_REQUEST, Vec::new(), BytesMut::new(), 0);
    loop {
        match state.take(&mut read).map_err(|_| ())? {
            TakenChunk::Data(piece) => content.extend_from_slice(&piece),
            TakenChunk::Trailers(_) | TakenChunk::End => return Ok((content, Some(wire.len() - at + read.len()))),
            TakenChunk::NeedsMore if at == wire.len() => return Ok((content, None)),
            TakenChunk::NeedsMore => {
                let to = at.saturating_add(step).min(wire.len());
                read.extend_from_slice(&wire[at..to]);
                at = to;
            }
        }
    }
}

fn chunked() -> Body {
    let mut fields = HeaderMap::new();
    fields.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    Body::of(&Method::GET, StatusCode::OK, &mut fields).expect("it is chunked")
}

/// A chunked body of an origin: however its bytes come, it comes to the same.
pub fn chunked_response(data: &[u8]) {
    let whole = received(chunked(), data, usize::MAX);
    for step in [1, 3, 64] {
        assert_eq!(received(chunked(), data, step), whole, "{step} bytes at a time");
    }
}

/// Field sections of one connection: what is read is bounded, and reads the same when it is written anew.
pub fn hpack(data: &[u8]) {
    const MOST: usize = 16 << 10;
    let mut decoder = Decoder::new();
    let mut section = Section::default();
    // Each block begins with its length.
    let mut rest = data;
    while let Some((&length, block)) = rest.split_first() {
        let (block, behind) = block.split_at(usize::from(length).min(block.len()));
        rest = behind;
        section.clear();
        if decoder.decode(block, MOST, &mut section).is_err() {
            return;
        }
        let size: usize = section.lines().map(|(name, value)| name.len() + value.len() + 32).sum();
        assert!(size <= MOST, "{size} bytes of fields");
        if section.too_large {
            continue;
        }
        let mut anew = BytesMut::new();
        section.lines().for_each(|(name, value)| hpack::put_field(&mut anew, name, value));
        let mut again = Section::default();
        Decoder::new().decode(&anew, MOST, &mut again).expect("what we write is well formed");
        assert!(section.lines().eq(again.lines()), "{section:?}");
    }
}

/// A configuration's text: every mistake has a place in it.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("nowhere");
    if let Err(errors) = load::parse(&directory.join("seawall.toml"), text) {
        assert!(!errors.diagnostics.is_empty(), "refused without a word");
        let lines = text.matches('\n').count() + 1;
        for mistake in &errors.diagnostics {
            assert!(mistake.line <= lines && !mistake.message.is_empty(), "{mistake:?} of {lines} lines");
        }
        assert!(!errors.to_string().is_empty());
    }
}

/// A purge log: what is read of it counts upwards, and is read the same if the log ended there.
pub fn purge_log(data: &[u8]) {
    replay(data);
    // Chance finds no checksum.
    let lines = data.split_inclusive(|byte| *byte == b'\n');
    let right: Vec<u8> = lines
        .flat_map(|line| {
            let json = line.get(9..).unwrap_or_default();
            let checked = json.strip_suffix(b"\n").unwrap_or(json);
            [format!("{:08x} ", crc32fast::hash(checked)).as_bytes(), json].concat()
        })
        .collect();
    replay(&right);
}

fn replay(data: &[u8]) {
    let replay = Replay::of(data);
    assert!(replay.intact <= data.len());
    let again = Replay::of(&data[..replay.intact]);
    assert_eq!((&again.records, again.intact, again.damaged), (&replay.records, replay.intact, replay.damaged));
    for pair in replay.records.windows(2) {
        assert!(pair[0].seq <= pair[1].seq, "{pair:?}");
    }
    for record in &replay.records {
        let json = serde_json::to_string(record).expect("a record is strings, numbers and lists");
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        assert_eq!(Replay::of(line.as_bytes()).records, std::slice::from_ref(record), "{line}");
    }
}

/// The beginning of a file on disk: header and metadata.
pub fn disk_header(data: &[u8]) {
    if let Some(first) = data.first_chunk::<HEADER>() {
        header(first);
        // Chance finds no checksum.
        let mut right = *first;
        let crc = crc32fast::hash(&first[..HEADER - 4]);
        right[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        header(&right);
    }
    let meta = data.get(HEADER..).unwrap_or(data);
    let Ok(meta) = Meta::decode(meta) else { return };
    let _ = meta.head(); // it may be none, but is no panic
    let encoded = meta.encode().expect("it was no larger");
    assert_eq!(Meta::decode(&encoded), Ok(meta));
}

fn header(bytes: &[u8; HEADER]) {
    let Ok(header) = Header::decode(bytes) else { return };
    assert_eq!(&header.encode(), bytes);
    assert!(header.body_at() <= header.checksum_at(0) && header.checksum_at(0) <= header.file_length());
}

/// A request and a response of any fields: what is decided of them holds together.
pub fn cache_control_and_vary(data: &[u8]) {
    // Lines of the request, an empty one, lines of the response.
    let text = String::from_utf8_lossy(data);
    let (request, response) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (request, fields) = (header_map(request), header_map(response));
    let config = config();
    let view = RequestView::own(&Method::GET, Scheme::Http, "shop.example", "/a", Fields::Map(&request));
    let asks = ClientDirectives::parse(view.fields);
    let presented = Presented::new(&view, &config.node);
    let now = Timestamp::from_secs(1_700_000_000);
    for site in &config.sites {
        let rules = &site.routes[0].cache;
        let mut once = view.fields.to_lines();
        assert_eq!(Fields::Lines(&once).to_map(), request);
        normalise(&mut once, &rules.key, Some("DE"));
        let mut twice = once.clone();
        normalise(&mut twice, &rules.key, Some("DE"));
        let language = |lines: &FieldLines| Fields::Lines(lines).to_map().get("accept-language").cloned();
        assert_eq!(language(&once), language(&twice));
        if let Some(variant) = Variant::of(&fields, presented, rules) {
            assert!(variant.matches(presented), "a request selects what it has stored: {variant:?}");
            assert_eq!(variant.of_another(presented), variant);
        }
        let facts = RequestFacts::new(presented, view.path.len(), asks.no_store);
        let times = ExchangeTimes { request: now, response: now + Duration::from_secs(3) };
        for (status, length) in
            [(200, None), (200, Some(1001)), (206, Some(10)), (301, Some(0)), (404, Some(1000)), (503, None)]
        {
            let status = StatusCode::from_u16(status).expect("a status");
            let response = ResponseFacts { status, headers: &fields, times, length, max_object: 1000 };
            let explanation = explain(rules, &facts, &response);
            let judged = judge(rules, &facts, &response);
            assert_eq!(explanation.stored, judged.is_ok(), "{judged:?}");
            let Ok(storable) = judged else { continue };
            assert!(!asks.no_store && length.is_none_or(|length| length <= 1000), "{storable:?}");
            assert!(storable.variant.matches(presented), "the request that it answered selects it: {storable:?}");
            ages(storable.freshness);
        }
    }
    groups(&fields, &HeaderName::from_static("cache-groups"), Key::of_written("s\u{1f}1+tls\u{1f}h/").origin());
    let head = Head::from_origin(StatusCode::OK, fields);
    assert!(["connection", "te"].iter().all(|name| !head.fields().contains_key(*name)), "{head:?}");
    for (method, total) in [(Method::GET, 1000), (Method::GET, data.len() as u64 % 24), (Method::HEAD, 1000)] {
        let (mut parts, of) = match respond(&method, view.fields, &head.selected(Some(total))) {
            Reply::Partial { first, last, total } => (vec![(first, last)], total),
            Reply::Multiple { parts, total } => (parts.iter().map(|part| (part.first, part.last)).collect(), total),
            _ => continue,
        };
        assert!(method == Method::GET && of == total, "{parts:?} of {of}");
        assert!(parts.iter().all(|(first, last)| first <= last && *last < total), "{parts:?} of {total}");
        parts.sort_unstable();
        assert!(parts.windows(2).all(|pair| pair[0].1 < pair[1].0), "no byte twice: {parts:?}");
    }
}

/// What is stored only grows older, and goes from fresh to stale, never back; however long any of its times is.
fn ages(stored: Freshness) {
    let longest = || Duration::MAX.into();
    for freshness in [
        stored,
        Freshness { initial_age: longest(), ..stored },
        Freshness { lifetime: longest(), ..stored },
        Freshness { lifetime: Duration::ZERO.into(), stale_while_revalidate: longest(), ..stored },
        Freshness { initial_age: longest(), stale_if_error: longest(), ..stored },
    ] {
        let (initial_age, lifetime): (Duration, Duration) = (freshness.initial_age.into(), freshness.lifetime.into());
        let rank = |usability| match usability {
            Some(Usability::Fresh { ttl }) => {
                assert!(!ttl.is_zero() && ttl <= lifetime, "{ttl:?} {freshness:?}");
                0
            }
            Some(Usability::StaleWhileRevalidate { .. }) => 1,
            Some(Usability::StaleIfError { .. }) => 2,
            Some(Usability::Stale { .. }) => 3,
            None => panic!("no purge has killed it"),
        };
        let came = freshness.response_time.as_secs();
        let purged = Standing::SoftPurged { since: freshness.response_time + Duration::from_secs(30) };
        let mut before = (Duration::ZERO, 0, 1);
        // Clocks may be set back: an age does not go below zero then, and what comes from the future is validated.
        for now in [0, came - 61, came - 60, came, came + 1, came + 59, came + 600, came + 4000, u64::MAX / 1000] {
            let now = Timestamp::from_secs(now);
            let (live, purged) =
                (rank(freshness.usability(Standing::Live, now)), rank(freshness.usability(purged, now)));
            let age = freshness.current_age(now);
            assert!(age >= initial_age && age >= before.0, "{now:?} {freshness:?}");
            if freshness.response_time > now + Duration::from_secs(60) {
                assert!(live >= 2, "{now:?} {freshness:?}");
                continue;
            }
            assert!(live >= before.1 && purged >= before.2, "{now:?} {freshness:?}");
            before = (age, live, purged);
        }
    }
}

fn header_map(text: &str) -> HeaderMap {
    let fields = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value.trim()).ok()?))
    });
    fields.take(64).collect()
}

/// Routes that heed what responses say, without and with lifetimes of their own, and one that does not and keys by much.
fn config() -> &'static Config {
    static CONFIG: std::sync::LazyLock<Config> = std::sync::LazyLock::new(|| {
        let text = "[pool.app]\norigins = [\"127.0.0.1:1\"]\n\
                    [site.one]\nhosts = [\"one\"]\n[[site.one.route]]\npath = \"/*\"\npool = \"app\"\ncache = { mode = \"respect\" }\n\
                    [site.two]\nhosts = [\"two\"]\n[[site.two.route]]\npath = \"/*\"\npool = \"app\"\n\
                    cache = { mode = \"force\", ttl = \"1h\", key = { headers = [\"x-a\"], cookies = [\"c\", \"a*\"], device = true } }\n\
                    [site.three]\nhosts = [\"three\"]\n[[site.three.route]]\npath = \"/*\"\npool = \"app\"\n\
                    cache = { mode = \"respect\", default_ttl = \"1m\", store_set_cookie = true, stale_while_revalidate = \"1m\", \
                    stale_if_error = \"1h\", heuristic_percent = 100, \
                    key = { accept_language = [\"en\", \"de\"], accept_encoding = [\"gzip\"] } }\n";
        load::parse(Path::new("fuzz.toml"), text).expect("it is right")
    });
    &CONFIG
}

/// A condition: a mistake is told with its place, and what is right can be asked about any request.
pub fn expression(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let fields = HeaderMap::new();
    let view = RequestView {
        query: source.get(..source.len().min(100)),
        ..RequestView::own(&Method::GET, Scheme::Http, "shop.example", "/a", Fields::Map(&fields))
    };
    for scope in [Scope::Request, Scope::Response] {
        match Expression::compile(source, scope) {
            Ok(expression) => {
                let facts = Facts { request: &view, path: view.path, now: Timestamp::from_secs(1), response: None };
                let (is_true, part) = expression.explain(&facts);
                assert!(is_true == expression.is_true(&facts) && source.contains(part), "{source:?}: {part:?}");
            }
            Err(mistake) => {
                assert!(
                    source.get(mistake.at.clone()).is_some() && !mistake.message.is_empty(),
                    "{source:?}: {mistake:?}"
                );
            }
        }
    }
}

/// The beginning of a connection: however its bytes come a header ends where it ends, and whoever it names is somewhere.
pub fn proxy_header(data: &[u8]) {
    let mut length = 0;
    let whole = loop {
        match proxy_protocol::missing(&data[..length]) {
            Err(_) => return,
            Ok(None) => break &data[..length],
            Ok(Some(wanted)) => {
                assert!(wanted > length && wanted <= 16 << 10, "{wanted} bytes are wanted behind {length}");
                if wanted > data.len() {
                    return;
                }
                length = wanted;
            }
        }
    };
    if let Ok(Some(named)) = proxy_protocol::parse(whole) {
        assert!(!named.client.ip().is_unspecified(), "{named:?}");
    }
}

/// A template before the first line break, and what a client sends behind it: no value leads to another host, or ends a line.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, value) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(template) = Template::parse(text, Form::Url, 1) else { return };
    let fields = HeaderMap::new();
    let view = RequestView {
        query: Some(value),
        ..RequestView::own(&Method::GET, Scheme::Https, "shop.example", "/a", Fields::Map(&fields))
    };
    let render = |capture: &str| {
        template.render(
            &Facts { request: &view, path: view.path, now: Timestamp::from_secs(1), response: None },
            &[capture],
        )
    };
    let (url, plain) = (render(value), render("x"));
    assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?} {value:?}: {url:?}");
    let host = |url: &str| match url.split_once("://") {
        Some((_, rest)) if !url.starts_with('/') => rest.split(['/', '?']).next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    assert!(host(&url) == host(&plain) && !url.starts_with("//"), "{text:?} {value:?}: {url:?}");
}
