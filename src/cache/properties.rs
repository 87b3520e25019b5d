//! What holds for whatever clients and origins send: decisions end, never panic, and keep their promises. Seeded, so
//! that a failure comes again.

use std::sync::LazyLock;
use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::clock::{Millis, Timestamp};
use crate::config::model::{CacheMode, CacheRules, Coding, KeyRules};
use crate::fields::remove_hop_by_hop;
use crate::plan::KeyOrigin;
use crate::request::Fields;

use super::control::ClientDirectives;
use super::freshness::{ExchangeTimes, Freshness, StaleUse, Usability};
use super::head::Head;
use super::policy::{self, RequestFacts, ResponseFacts};
use super::respond::{self, Reply, Selected};
use super::testing::presented;
use super::{explain, negotiate, tags, vary};

const ROUNDS: usize = 20_000;
/// The fields that anything here reads.
static FIELDS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let names = "accept-encoding accept-language age authorization cache-control cache-groups cache-tag cache-tags \
        cdn-cache-control connection content-encoding content-length content-range content-type cookie date etag expires \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified pragma range \
        seawall-cache-control set-cookie surrogate-key te user-agent vary";
    names.split(' ').collect()
});
/// What values are made of, besides any bytes.
static PIECES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let pieces = "max-age|s-maxage|no-store|no-cache|private|public|must-revalidate|must-understand|\
        stale-while-revalidate|stale-if-error|max-stale|min-fresh|only-if-cached|no-transform|=|=|,|, |;|q=|\"|\\|\
        \"a\"|W/\"a\"|*|-|--|0|1|60|2147483648|18446744073709551615|99999999999999999999|-1|1.5|bytes=|gzip|br|\
        identity|en|de-AT|Sun, 06 Nov 1994 08:49:37 GMT|Sunday, 06-Nov-94 08:49:37 GMT|accept";
    pieces.split('|').collect()
});

/// Values that are well formed: of pieces alone few would be.
const WHOLE: [&str; 6] = [
    "max-age=60",
    "public, max-age=0",
    "s-maxage=1, stale-while-revalidate=59",
    "no-cache",
    "max-age=60, stale-if-error=9",
    "accept, cookie",
];

fn value(random: &mut Rng) -> HeaderValue {
    if random.u8(..4) == 0 {
        return HeaderValue::from_static(WHOLE[random.usize(..WHOLE.len())]);
    }
    let mut bytes = Vec::new();
    for _ in 0..random.usize(..8) {
        match random.u8(..6) {
            0 => bytes.extend((0..random.usize(..6)).map(|_| random.u8(..))),
            1 => bytes.push(b' '),
            _ => bytes.extend_from_slice(PIECES[random.usize(..PIECES.len())].as_bytes()),
        }
    }
    bytes.retain(|byte| *byte == b'\t' || *byte >= 32 && *byte != 127);
    HeaderValue::from_bytes(&bytes).unwrap()
}

fn fields(random: &mut Rng) -> HeaderMap {
    let mut map = HeaderMap::new();
    for _ in 0..random.usize(..8) {
        let name = HeaderName::from_static(FIELDS[random.usize(..FIELDS.len())]);
        map.append(name, value(random));
    }
    map
}

/// Any time, the first and the last ones above all.
fn time(random: &mut Rng) -> Timestamp {
    Timestamp::from_secs(match random.u8(..4) {
        0 => 0,
        1 => u64::MAX / 2000,
        _ => 784_111_777 + random.u64(..1000) - 500,
    })
}

fn rules(random: &mut Rng) -> CacheRules {
    let secs = |random: &mut Rng| Duration::from_secs([0, 1, 3600, u64::MAX][random.usize(..4)]);
    CacheRules {
        mode: match random.u8(..3) {
            0 => CacheMode::Respect { default_ttl: None },
            1 => CacheMode::Respect { default_ttl: Some(secs(random)) },
            _ => CacheMode::Force { ttl: secs(random) },
        },
        stale_while_revalidate: secs(random),
        stale_if_error: secs(random),
        heuristic_percent: random.u32(..=100),
        heuristic_max: secs(random),
        store_set_cookie: random.bool(),
        key: KeyRules {
            device: random.bool(),
            cookies: random.bool().then(|| [["a", "a*"][random.usize(..2)].parse().unwrap()].into()),
            accept_language: random.bool().then(|| ["en".into(), "de".into()].into()),
            accept_encoding: random.bool().then(|| [Coding::Gzip].into()),
            ..KeyRules::default()
        },
        ..CacheRules::default()
    }
}

#[test]
fn a_verdict_is_found_for_any_fields_and_keeps_what_it_promises() {
    let mut random = Rng::with_seed(1);
    let mut stored = 0;
    for _ in 0..ROUNDS {
        let (rules, request, response) = (rules(&mut random), fields(&mut random), fields(&mut random));
        let (first, second) = (time(&mut random), time(&mut random));
        let times = ExchangeTimes { request: first.min(second), response: first.max(second) };
        let no_store = ClientDirectives::parse(Fields::Map(&request)).no_store;
        let facts = RequestFacts::new(presented(&request), random.usize(..5000), no_store);
        let status = StatusCode::from_u16(random.u16(200..600)).unwrap();
        let length = random.bool().then(|| random.u64(..2000));
        let response = ResponseFacts { status, headers: &response, times, length, max_object: 1000 };
        let explanation = explain::explain(&rules, &facts, &response);
        let Ok(storable) = policy::judge(&rules, &facts, &response) else {
            assert!(!explanation.stored);
            continue;
        };
        stored += 1;
        let what = format!("{rules:?} {request:?} {status} {:?}", response.headers);
        assert!(explanation.stored && !facts.no_store && length.is_none_or(|length| length <= 1000), "{what}");
        assert!(storable.variant.matches(facts.presented), "the request that it answered selects it: {what}");
        let ages = [times.response, times.response + Duration::from_secs(5), Timestamp::from_secs(u64::MAX / 1000)]
            .map(|now| storable.freshness.current_age(now));
        assert!(ages.is_sorted(), "it only grows older: {what}");
        explain::deciding_fields(response.headers);
    }
    assert!(stored > ROUNDS / 50, "{stored} of {ROUNDS} is too few to say anything");
}

#[test]
fn freshness_goes_from_fresh_to_stale_and_never_back() {
    let mut random = Rng::with_seed(2);
    let any = |random: &mut Rng| match random.u8(..4) {
        0 => Duration::ZERO,
        1 => Duration::MAX,
        2 => Duration::from_secs(u64::MAX),
        _ => Duration::from_secs(random.u64(..100)),
    };
    for _ in 0..ROUNDS {
        let freshness = Freshness {
            response_time: Timestamp::from_secs(random.u64(..1000)),
            initial_age: any(&mut random).into(),
            lifetime: any(&mut random).into(),
            basis: Default::default(),
            stale_use: [StaleUse::Forbidden, StaleUse::Permitted, StaleUse::ByWindowOnly][random.usize(..3)],
            stale_while_revalidate: any(&mut random).into(),
            stale_if_error: any(&mut random).into(),
        };
        let since = Timestamp::from_secs(random.u64(..1000));
        let rank = |usability| match usability {
            Usability::Fresh { ttl } => {
                assert!(!ttl.is_zero() && Millis::from(ttl) <= freshness.lifetime, "{freshness:?}");
                0
            }
            Usability::StaleWhileRevalidate { .. } => 1,
            Usability::StaleIfError { .. } => 2,
            Usability::Stale { .. } => 3,
        };
        let mut before = (0, 0);
        // Clocks may be set back: an age does not go below zero then, and what comes from the future is validated.
        for now in [0, 500, 1000, 1050, 1100, 5000, u64::MAX / 1000] {
            let now = Timestamp::from_secs(now);
            assert!(Millis::from(freshness.current_age(now)) >= freshness.initial_age, "{freshness:?}");
            let ranks = (rank(freshness.usability(now)), rank(freshness.usability_soft_purged(since, now)));
            if freshness.response_time > now + Duration::from_secs(60) {
                assert!(ranks.0 >= 2, "{freshness:?} {now:?}");
                continue;
            }
            assert!(before.0 <= ranks.0 && before.1 <= ranks.1 && ranks.1 > 0, "{freshness:?} {now:?}");
            before = ranks;
        }
    }
}

/// A set of ranges, of which most are near to what a small body has.
fn range(random: &mut Rng) -> HeaderValue {
    let number = |random: &mut Rng| match random.u8(..8) {
        0 => String::new(),
        1 => u64::MAX.to_string(),
        2 => "18446744073709551616".to_owned(),
        _ => random.u64(..24).to_string(),
    };
    let separator = |random: &mut Rng| if random.u8(..16) == 0 { "" } else { "-" };
    let specs: Vec<String> =
        (0..random.usize(..6)).map(|_| number(random) + separator(random) + &number(random)).collect();
    HeaderValue::try_from(format!("bytes={}", specs.join(","))).unwrap()
}

#[test]
fn an_answer_is_found_for_any_conditions_and_stays_within_the_body() {
    let mut random = Rng::with_seed(3);
    let mut ranges = 0;
    for _ in 0..ROUNDS {
        let (mut request, stored) = (fields(&mut random), fields(&mut random));
        if random.bool() {
            request.insert("range", range(&mut random));
        }
        let head = Head::from_origin(StatusCode::OK, stored);
        let total = random.u64(..20);
        let selected: Selected<'_> = head.selected(Some(total));
        let method = if random.bool() { Method::GET } else { Method::HEAD };
        let parts = match respond::respond(&method, Fields::Map(&request), &selected) {
            Reply::Partial { first, last, total } => vec![(first, last, total)],
            Reply::Multiple { parts, total } => parts.iter().map(|part| (part.first, part.last, total)).collect(),
            _ => continue,
        };
        for (first, last, of) in &parts {
            assert!(first <= last && *last < total && *of == total && method == Method::GET, "{request:?}");
        }
        let given: u64 = parts.iter().map(|(first, last, _)| last - first + 1).sum();
        assert!(given <= total, "nobody gets a byte twice: {request:?}");
        ranges += 1;
    }
    assert!(ranges > ROUNDS / 50, "{ranges} of {ROUNDS} is too few to say anything");
}

#[test]
fn any_fields_can_be_read() {
    let mut random = Rng::with_seed(4);
    for _ in 0..ROUNDS {
        let map = fields(&mut random);
        let request = Fields::Map(&map);
        ClientDirectives::parse(request);
        negotiate::best_coding(request, [Coding::Zstd, Coding::Br, Coding::Gzip]);
        negotiate::best_language(request, &["en".into(), "de".into()]);
        negotiate::device(request);
        negotiate::cookie(request, "a");
        let _ = tags::Tags::parse(&map);
        tags::groups(&map, &HeaderName::from_static("cache-groups"), KeyOrigin { tls: true, host: "h", port: None });
        let rules = rules(&mut random);
        let mut normalised = map.clone();
        vary::normalise(&mut normalised, &rules.key);
        let mut again = normalised.clone();
        vary::normalise(&mut again, &rules.key);
        assert_eq!(normalised.get("accept-language"), again.get("accept-language"), "{map:?}");
        let variant = vary::Variant::of(&map, presented(&map), &rules);
        assert!(variant.is_none_or(|variant| variant.matches(presented(&map))), "{map:?}");
        let mut varied = map.clone();
        vary::add_coding(&mut varied);
        let mut cleaned = map.clone();
        remove_hop_by_hop(&mut cleaned);
        assert!(!cleaned.contains_key("connection") && !cleaned.contains_key("te"), "{map:?}");
    }
}
