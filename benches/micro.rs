//! The steps of a request, each by itself: `cargo bench --bench micro`. With `--count STEP TIMES` a step is only repeated,
//! for who counts its instructions (`benches/instructions.sh`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark ends by panicking")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::Criterion;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use seawall::internals::{
    CacheRequest, ClientDirectives, Config, Decoder, Endpoints, Engine, Event, ExchangeTimes, Expression, Facts, Head,
    Key, Limits, Lookup, Metrics, Object, Outcome, Parsed, Passage, Plan, Presented, PurgeSeq, Purges, Ranges,
    RequestFacts, RequestHead, RequestView, ResponseFacts, Scheme, Scope, Section, Storable, TagHash, Target,
    Timestamp, field_space, find_end, first_snapshot, hpack, judge as judge_response, load, plan, respond as answer,
    write_json,
};

/// A request as browsers send it.
const REQUEST: &[u8] = b"GET /catalogue/shoes/41?colour=red&page=2 HTTP/1.1\r\nHost: site-7.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nReferer: https://site-7.example/catalogue/shoes\r\n\
    Cookie: session=0123456789abcdef; theme=dark\r\nConnection: keep-alive\r\n\r\n";
const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
/// Objects in memory for the look-up.
const OBJECTS: usize = 10_000;

/// A step's name, and what makes it ready to be repeated.
type Step = (&'static str, fn() -> Box<dyn FnMut()>);

const STEPS: [Step; 20] = [
    ("parse a head of HTTP/1.1", || Box::new(parse_h1)),
    ("parse a head of HTTP/2", parse_h2),
    ("plan of 1 site", || planned(1)),
    ("plan of 100 sites", || planned(100)),
    ("plan of 10,000 sites", || planned(10_000)),
    ("plan of a route with four conditions", with_conditions),
    ("a condition of four comparisons", condition),
    ("plan of a map of ten redirects", || in_map(10)),
    ("plan of a map of 10,000 redirects", || in_map(10_000)),
    ("an address in ten ranges", || in_ranges(10)),
    ("an address in 10,000 ranges", || in_ranges(10_000)),
    ("write a key", write_key),
    ("look a hit up", || look_up(0)),
    ("look a hit up, 1,000 purges in force", || look_up(1_000)),
    ("check purges, none since", || purge_check(0)),
    ("check purges, 1,000 since", || purge_check(1_000)),
    ("judge", judge),
    ("respond", respond),
    ("write a section of HTTP/2", write_section),
    ("make a line of the access log", log_line),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, name, times, ..] = &arguments[..]
        && flag == "--count"
    {
        let times: u64 = times.parse().expect("a number");
        let (_, make) = STEPS.iter().find(|(step, _)| step == name).expect("a step");
        let mut step = make();
        return (0..times).for_each(|_| step());
    }
    if arguments.iter().any(|argument| argument == "--names") {
        return STEPS.iter().for_each(|(name, _)| println!("{name}"));
    }
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    for (name, make) in STEPS {
        let mut step = make();
        criterion.bench_function(name, |bencher| bencher.iter(&mut step));
    }
    criterion.final_summary();
}

fn config(sites: usize) -> Config {
    load::parse(Path::new("bench.toml"), &config_text(sites)).unwrap_or_else(|errors| panic!("{errors}"))
}

fn config_text(sites: usize) -> String {
    let mut text = "[pool.app]\norigins = [\"127.0.0.1:1\"]\n".to_owned();
    for site in 0..sites {
        text += &format!(
            "[site.s{site}]\nhosts = [\"site-{}.example\"]\n\
             [[site.s{site}.route]]\npath = \"/admin/*\"\npool = \"app\"\n\
             [[site.s{site}.route]]\npath = \"/*\"\npool = \"app\"\ncache = {{ mode = \"respect\" }}\n",
            site + 7
        );
    }
    text
}

/// The request as decisions see it. It is never freed: a step is to cost what it costs, without the parsing.
fn view() -> RequestView<'static> {
    let space = Box::leak(Box::new(field_space(REQUEST)));
    let limits = Limits::default();
    let head = Box::leak(Box::new(RequestHead::parse(REQUEST, space, &limits).unwrap()));
    let (client, local) = (([10, 0, 0, 9], 50_000).into(), ([127, 0, 0, 1], 80).into());
    head.view(Endpoints { listener: None, client, local, scheme: Scheme::Http, tls: None })
}

fn parse_h1() {
    let limits = Limits::default();
    let request = black_box(REQUEST);
    let end = find_end(request, 0, &limits).unwrap().unwrap();
    let mut space = field_space(&request[..end]);
    black_box(RequestHead::parse(&request[..end], &mut space, &limits).unwrap().keep_alive);
}

fn parse_h2() -> Box<dyn FnMut()> {
    let mut block = BytesMut::new();
    for (name, value) in [(":method", "GET"), (":scheme", "https"), (":authority", "site-7.example")] {
        hpack::put_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    hpack::put_field(&mut block, b":path", b"/catalogue/shoes/41?colour=red&page=2");
    for (name, value) in &view().fields.to_map() {
        if name != header::CONNECTION && name != header::HOST {
            hpack::put_field(&mut block, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    let (mut decoder, mut section, limits) = (Decoder::new(), Section::default(), Limits::default());
    Box::new(move || {
        section.clear();
        decoder.decode(black_box(&block), 32 << 10, &mut section).unwrap();
        let parsed = Parsed::of(&section).unwrap();
        black_box(parsed.head(true, &limits).unwrap().keep_alive);
    })
}

fn planned(sites: usize) -> Box<dyn FnMut()> {
    let config = config(sites);
    let view = view();
    Box::new(move || {
        assert!(matches!(black_box(plan(&config, black_box(&view), Timestamp::from_secs(0))), Plan::Cache(_)))
    })
}

/// All of it is looked at: the last comparison decides.
const CONDITION: &str =
    r#"method == "GET" && path.startsWith("/catalogue/") && cookies.has("session*") && query.page == "2""#;

fn condition() -> Box<dyn FnMut()> {
    let (expression, view) = (Expression::compile(CONDITION, Scope::Request).unwrap(), view());
    Box::new(move || {
        let facts = Facts { request: black_box(&view), path: view.path, now: NOW, response: None };
        assert!(black_box(&expression).is_true(&facts));
    })
}

fn with_conditions() -> Box<dyn FnMut()> {
    let text = config_text(1).replace("path = \"/*\"", &format!("path = \"/*\"\nwhen = '{CONDITION}'"));
    let (config, view) = (load::parse(Path::new("bench.toml"), &text).unwrap(), view());
    Box::new(move || assert!(matches!(black_box(plan(&config, black_box(&view), NOW)), Plan::Cache(_))))
}

/// The request's path is in the middle of a file.
fn in_map(count: u32) -> Box<dyn FnMut()> {
    let directory = tempfile::TempDir::new().unwrap();
    let line = |number: u32| match number == count / 2 {
        true => "/catalogue/shoes/41 /there\n".to_owned(),
        false => format!("/catalogue/hats/{number} /new/{number}\n"),
    };
    std::fs::write(directory.path().join("moved.txt"), (0..count).map(line).collect::<String>()).unwrap();
    let route = "[[site.s0.route]]\npath = \"/*\"\nredirect = { map = \"moved.txt\" }\n[[site.s0.route]]";
    let text = config_text(1).replacen("[[site.s0.route]]", route, 1);
    let (config, view) = (load::parse(&directory.path().join("bench.toml"), &text).unwrap(), view());
    Box::new(move || assert!(matches!(black_box(plan(&config, black_box(&view), NOW)), Plan::Answer { .. })))
}

fn in_ranges(count: u32) -> Box<dyn FnMut()> {
    let range = |number: u32| format!("{}/24", std::net::Ipv4Addr::from((11 << 24) + number * 512)).parse().unwrap();
    let ranges = Ranges::new((0..count).map(range));
    let inside = std::net::Ipv4Addr::from((11 << 24) + count / 2 * 512 + 7).into();
    Box::new(move || assert!(black_box(&ranges).contains(black_box(inside))))
}

fn write_key() -> Box<dyn FnMut()> {
    let (config, view, mut key) = (Box::leak(Box::new(config(1))), view(), String::new());
    let Plan::Cache(matched) = plan(config, &view, Timestamp::from_secs(0)) else { panic!("it is cached") };
    Box::new(move || {
        matched.write_key(&mut key, 0, black_box(&view));
        black_box(&key);
    })
}

fn response_fields() -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "public, max-age=600, stale-while-revalidate=60"),
        ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("last-modified", "Tue, 14 Nov 2023 20:00:00 GMT"),
        ("etag", "\"5f3c-60a1b2c3d4e5f\""),
        ("surrogate-key", "catalogue shoes shoe-41"),
        ("x-frame-options", "DENY"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    fields
}

fn storable(config: &Config, fields: &HeaderMap, view: &RequestView<'_>) -> Storable {
    let request = RequestFacts::new(Presented::new(view, &config.node), view.path.len(), false);
    let response = ResponseFacts {
        status: StatusCode::OK,
        headers: fields,
        times: ExchangeTimes { request: NOW, response: NOW },
        length: Some(1024),
        max_object: 1 << 20,
    };
    judge_response(&config.sites[0].routes[1].cache, &request, &response).unwrap()
}

fn judge() -> Box<dyn FnMut()> {
    let (config, fields, view) = (config(1), response_fields(), view());
    Box::new(move || drop(black_box(storable(&config, black_box(&fields), &view))))
}

fn object(key: &str, config: &Config) -> Object {
    let fields = response_fields();
    let storable = storable(config, &fields, &view());
    let head = Head::from_origin(StatusCode::OK, fields);
    Object::new(Key::of_written(key), head, Bytes::from(vec![0; 1024]), storable, PurgeSeq(0))
}

fn respond() -> Box<dyn FnMut()> {
    let (object, view) = (object("key", &config(1)), view());
    Box::new(move || {
        black_box(answer(view.method, black_box(view.fields), &object.head.selected(Some(1024))));
    })
}

fn purges(count: usize) -> Arc<Purges> {
    let purges = Arc::new(Purges::open(None).unwrap());
    for number in 0..count {
        let targets = vec![Target::Tag { site: None, tag: TagHash::of(&format!("tag-{number}")) }];
        purges.put(Event::Purge { soft: false, targets }, NOW);
    }
    purges
}

fn look_up(count: usize) -> Box<dyn FnMut()> {
    let config = config(1);
    let metrics = Arc::new(Metrics::new());
    let engine = Engine::new(&config, purges(count), metrics.clone());
    let snapshot = first_snapshot(self::config(1), &engine, &metrics, Passage::new("0".into()));
    let (snapshot, view) = (&*Box::leak(Box::new(Arc::new(snapshot))), &*Box::leak(Box::new(view())));
    let Plan::Cache(matched) = plan(&snapshot.config, view, Timestamp::from_secs(0)) else { panic!("it is cached") };
    let mut key = String::new();
    matched.write_key(&mut key, 0, view);
    let key = &*key.leak();
    engine.cache.memory.insert(Arc::new(object(key, &config)), 8);
    for number in 1..OBJECTS {
        engine.cache.memory.insert(Arc::new(object(&format!("{key}{number}"), &config)), 8);
    }
    let request =
        CacheRequest { view, snapshot, matched, key, slice: None, asks: ClientDirectives::default(), interims: None };
    Box::new(move || {
        let found = engine.cache.lookup(black_box(&request), NOW);
        assert!(matches!(found, Lookup::Hit(..)));
    })
}

/// Of an object that was stored before the purges: each look-up until then is the first after them.
fn purge_check(count: usize) -> Box<dyn FnMut()> {
    let (purges, config) = (purges(count), config(1));
    let object = object("shop|0|http://site-7.example/catalogue/shoes/41", &config);
    Box::new(move || {
        black_box(black_box(&object).standing(&purges));
    })
}

fn log_line() -> Box<dyn FnMut()> {
    let (view, mut out) = (view(), Vec::new());
    Box::new(move || {
        out.clear();
        let outcome = Outcome {
            time: NOW,
            id: view.id,
            client: view.client,
            method: view.method,
            scheme: "http",
            host: view.host,
            path: view.path,
            query: view.query,
            version: view.version,
            status: StatusCode::OK,
            bytes_sent: 1024,
            duration: Duration::from_micros(35),
            site: "shop",
            cache: "hit",
            reason: None,
            referer: view.fields.get_str(&header::REFERER),
            user_agent: view.fields.get_str(&header::USER_AGENT),
            error: None,
        };
        write_json(black_box(&mut out), &outcome);
    })
}

fn write_section() -> Box<dyn FnMut()> {
    let object = object("key", &config(1));
    let mut out = BytesMut::new();
    Box::new(move || {
        out.clear();
        hpack::put_no_table(&mut out);
        hpack::put_status(&mut out, 200);
        object.head.lines().for_each(|(name, value)| hpack::put_field(&mut out, name.as_bytes(), value));
        black_box(&out);
    })
}
