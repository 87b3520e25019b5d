//! The cache of a route, `cache = { ... }`: as written, and what the engine is given of it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::diagnose::{At, Diagnostics, Place};
use super::file::StatusRange;
use super::read::{ByteSize, Table, words};
use super::rules::{
    CacheMode, CacheRules, Coding, CompressRules, FinishFill, KeyRules, OutageWindow, Pattern, QueryRule,
};

/// What is not cacheable now may be later.
const LONGEST_HIT_FOR_MISS: Duration = Duration::from_secs(3600);

/// As the operator wrote it.
#[derive(Debug)]
pub struct CacheSection {
    place: Place,
    mode: Option<At<ModeWord>>,
    ttl: Option<At<Duration>>,
    default_ttl: Option<At<Duration>>,
    negative_ttl: Vec<(StatusRange, At<Duration>)>,
    stale_while_revalidate: Duration,
    stale_if_error: Duration,
    stale_if_unreachable: Option<At<Duration>>,
    serve_authorized: bool,
    heuristic_percent: Option<At<u32>>,
    heuristic_max: Option<At<Duration>>,
    ignore_client_cache_control: Option<At<bool>>,
    store_set_cookie: bool,
    fetch_ranges: bool,
    finish_fill: FinishFill,
    slice: Option<At<ByteSize>>,
    hit_for_miss: Option<At<Duration>>,
    max_variants: At<u32>,
    key: Option<KeySection>,
    compress: Vec<At<Coding>>,
    compress_min_size: Option<At<ByteSize>>,
    compress_types: Option<At<Vec<At<String>>>>,
}

/// `key = { ... }` of a route's cache.
#[derive(Debug)]
struct KeySection {
    keep_query: Option<At<Vec<At<String>>>>,
    drop_query: Option<At<Vec<At<String>>>>,
    sort_query: bool,
    ignore_path_case: bool,
    headers: Vec<At<String>>,
    cookies: Option<At<Vec<At<String>>>>,
    device: bool,
    accept_encoding: Option<At<Vec<At<Coding>>>>,
    accept_language: Option<At<Vec<At<String>>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModeWord {
    Off,
    Respect,
    Force,
}

words!(ModeWord { "off" => ModeWord::Off, "respect" => ModeWord::Respect, "force" => ModeWord::Force });
words!(FinishFill { "always" => FinishFill::Always, "never" => FinishFill::Never, "half" => FinishFill::Half });
words!(Coding { "zstd" => Coding::Zstd, "br" => Coding::Br, "gzip" => Coding::Gzip });

/// Reads the table.
pub fn read(mut table: Table, errors: &mut Diagnostics) -> CacheSection {
    let place = table.place;
    let key_name = table.name.replace("cache of", "key of");
    let negative_name = table.name.replace("cache of", "negative_ttl of");
    let cache = CacheSection {
        place,
        mode: table.require("mode", errors),
        ttl: table.get("ttl", errors),
        default_ttl: table.get("default_ttl", errors),
        negative_ttl: table
            .table("negative_ttl", &negative_name, errors)
            .map(|table| read_negative_ttl(table, errors))
            .unwrap_or_default(),
        stale_while_revalidate: table.get_or("stale_while_revalidate", Duration::ZERO, errors),
        stale_if_error: table.get_or("stale_if_error", Duration::ZERO, errors),
        stale_if_unreachable: table.get("stale_if_unreachable", errors),
        serve_authorized: table.get_or("serve_authorized", false, errors),
        heuristic_percent: table.get("heuristic_percent", errors),
        heuristic_max: table.get("heuristic_max", errors),
        ignore_client_cache_control: table.get("ignore_client_cache_control", errors),
        fetch_ranges: table.get_or("fetch_ranges", false, errors),
        slice: table.get("slice", errors),
        finish_fill: table.get_or("finish_fill", FinishFill::Always, errors),
        store_set_cookie: table.get_or("store_set_cookie", false, errors),
        hit_for_miss: table.get("hit_for_miss", errors),
        max_variants: table.get("max_variants", errors).unwrap_or(At { value: 64, place }),
        key: table.table("key", &key_name, errors).map(|key| read_key(key, errors)),
        compress: table.list("compress", errors),
        compress_min_size: table.get("compress_min_size", errors),
        compress_types: table.optional_list("compress_types", errors),
    };
    table.finish(errors);
    cache
}

/// `negative_ttl = { 404 = "30s", 500-504 = "1s" }`: statuses or ranges of them, and how long each is kept.
fn read_negative_ttl(table: Table, errors: &mut Diagnostics) -> Vec<(StatusRange, At<Duration>)> {
    let mut read: Vec<(StatusRange, At<Duration>)> = Vec::new();
    for (key, value) in table.free_form::<Duration>(errors) {
        match key.value.parse::<StatusRange>() {
            Ok(range) if range.first < 300 || (range.first..=range.last).contains(&304) => {
                errors.error(
                    key.place,
                    format!("{:?}: negative_ttl is for redirects and errors, not for 304", key.value),
                );
            }
            Ok(range) if read.iter().any(|(other, _)| range.first <= other.last && other.first <= range.last) => {
                errors.error(key.place, format!("{:?} in negative_ttl overlaps with another", key.value));
            }
            Ok(range) => read.push((range, value)),
            Err(message) => errors.error(key.place, message),
        }
    }
    read
}

fn read_key(mut table: Table, errors: &mut Diagnostics) -> KeySection {
    let key = KeySection {
        keep_query: table.optional_list("keep_query", errors),
        drop_query: table.optional_list("drop_query", errors),
        sort_query: table.get_or("sort_query", false, errors),
        ignore_path_case: table.get_or("ignore_path_case", false, errors),
        headers: table.list("headers", errors),
        cookies: table.optional_list("cookies", errors),
        device: table.get_or("device", false, errors),
        accept_encoding: table.optional_list("accept_encoding", errors),
        accept_language: table.optional_list("accept_language", errors),
    };
    table.finish(errors);
    key
}

/// Checks it and makes of it what the engine uses.
pub fn resolve(cache: CacheSection, errors: &mut Diagnostics) -> CacheRules {
    check_modes(&cache, errors);
    let mode = match cache.mode.as_ref().map(|at| at.value) {
        Some(ModeWord::Respect) => CacheMode::Respect { default_ttl: cache.default_ttl.map(|at| at.value) },
        Some(ModeWord::Force) => match cache.ttl {
            Some(ttl) => CacheMode::Force { ttl: ttl.value },
            None => {
                errors.error_with_hint(cache.place, "mode = \"force\" needs a ttl", "add ttl = \"1h\"");
                CacheMode::Off
            }
        },
        Some(ModeWord::Off) | None => CacheMode::Off, // its absence has been reported
    };
    if !(1..=1024).contains(&cache.max_variants.value) {
        errors.error(cache.max_variants.place, "max_variants must be from 1 to 1024");
    }
    if let Some(time) = cache.hit_for_miss.as_ref().filter(|time| time.value > LONGEST_HIT_FOR_MISS) {
        errors.error(time.place, "hit_for_miss must be at most an hour");
    }
    let default = CacheRules::default();
    let percent = cache.heuristic_percent;
    if let Some(percent) = percent.as_ref().filter(|percent| percent.value > 100) {
        errors.error(percent.place, "heuristic_percent must be from 0 to 100");
    }
    let compress = resolve_compress(cache.compress, cache.compress_min_size, cache.compress_types, errors);
    let mut key = cache.key.map(|key| resolve_key(key, errors)).unwrap_or_default();
    if compress.is_some() && key.accept_encoding.is_none() {
        // What the node codes itself, it asks for uncoded, so that one object serves every client.
        key.accept_encoding = Some([].into());
    }
    CacheRules {
        mode,
        negative_ttl: cache.negative_ttl.into_iter().map(|(range, ttl)| (range, ttl.value)).collect(),
        key,
        compress,
        heuristic_percent: percent.map_or(default.heuristic_percent, |at| at.value),
        heuristic_max: cache.heuristic_max.map_or(default.heuristic_max, |at| at.value),
        ignore_client_cache_control: cache.ignore_client_cache_control.is_some_and(|at| at.value),
        stale_while_revalidate: cache.stale_while_revalidate,
        stale_if_error: cache.stale_if_error,
        stale_if_unreachable: cache
            .stale_if_unreachable
            .map_or(default.stale_if_unreachable, |at| OutageWindow { length: at.value, is_stated: true }),
        serve_authorized: cache.serve_authorized,
        store_set_cookie: cache.store_set_cookie,
        fetch_ranges: cache.fetch_ranges,
        finish_fill: cache.finish_fill,
        slice: check_slice(cache.slice, errors),
        hit_for_miss: cache.hit_for_miss.map_or(default.hit_for_miss, |time| time.value),
        max_variants: cache.max_variants.value as usize,
    }
}

/// The size of slices.
fn check_slice(slice: Option<At<ByteSize>>, errors: &mut Diagnostics) -> Option<u64> {
    let size = slice?;
    if !((64 << 10)..=(1 << 30)).contains(&size.value.0) {
        errors.error(size.place, "slice must be from 64KiB to 1GiB");
    }
    Some(size.value.0)
}

/// Reports keys that the mode makes meaningless.
fn check_modes(cache: &CacheSection, errors: &mut Diagnostics) {
    let Some(mode) = cache.mode.as_ref().map(|at| at.value) else { return };
    let place = |at: &Option<At<Duration>>| at.as_ref().map(|at| at.place);
    let not_off: &[ModeWord] = &[ModeWord::Respect, ModeWord::Force];
    for (key, place, modes) in [
        ("ttl", place(&cache.ttl), &[ModeWord::Force][..]),
        ("default_ttl", place(&cache.default_ttl), &[ModeWord::Respect]),
        ("heuristic_percent", cache.heuristic_percent.as_ref().map(|at| at.place), &[ModeWord::Respect]),
        ("heuristic_max", place(&cache.heuristic_max), &[ModeWord::Respect]),
        (
            "ignore_client_cache_control",
            cache.ignore_client_cache_control.as_ref().map(|at| at.place),
            &[ModeWord::Respect],
        ),
        ("negative_ttl", cache.negative_ttl.first().map(|(_, at)| at.place), not_off),
        ("stale_if_unreachable", place(&cache.stale_if_unreachable), not_off),
        ("compress", cache.compress.first().map(|at| at.place), not_off),
    ] {
        if let Some(place) = place
            && !modes.contains(&mode)
        {
            let needed = super::read::Words::as_str(modes[0]);
            let message = format!("{key:?} has no effect in this mode");
            errors.error_with_hint(place, message, format!("use mode = {needed:?}"));
        }
    }
}

fn resolve_key(key: KeySection, errors: &mut Diagnostics) -> KeyRules {
    if let (Some(_), Some(drop)) = (&key.keep_query, &key.drop_query) {
        errors.error(drop.place, "give either keep_query or drop_query, not both");
    }
    let query = match (key.keep_query, key.drop_query) {
        (Some(keep), _) => QueryRule::Only(patterns(keep.value, errors)),
        (None, Some(drop)) => QueryRule::Without(patterns(drop.value, errors)),
        (None, None) => QueryRule::All,
    };
    let headers = key.headers.into_iter().filter_map(|name| resolve_field(name, errors)).collect();
    for at in key.cookies.iter().flat_map(|cookies| &cookies.value) {
        if at.value.is_empty() || !at.value.bytes().all(|b| b.is_ascii_graphic() && !b";=,".contains(&b)) {
            errors.error(at.place, format!("{:?} is not the name of a cookie", at.value));
        }
    }
    for at in key.accept_language.iter().flat_map(|languages| &languages.value) {
        if at.value.is_empty() || !at.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            errors.error(at.place, format!("{:?} is not a language tag such as \"en\" or \"pt-BR\"", at.value));
        }
    }
    let names = |at: At<Vec<At<String>>>| at.value.into_iter().map(|name| name.value.into_boxed_str()).collect();
    KeyRules {
        query,
        sort_query: key.sort_query,
        ignore_path_case: key.ignore_path_case,
        headers,
        cookies: key.cookies.map(|at| patterns(at.value, errors).into()),
        device: key.device,
        accept_encoding: key.accept_encoding.map(|at| at.value.into_iter().map(|coding| coding.value).collect()),
        accept_language: key.accept_language.map(names),
    }
}

/// Fields by which proxies tell where a request came from, and tokens of the node's. No origin gets a client's own.
pub const FORWARDING_FIELDS: &[&str] = &[
    "forwarded",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-scheme",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-host",
    "x-forwarded-ssl",
    "x-forwarded-protocol",
    "x-url-scheme",
    "front-end-https",
    "seawall-debug",
    "proxy", // to CGI it is the variable HTTP_PROXY (CVE-2016-5385)
];

/// Fields of a client's request that the fill of a shared object must not have: its conditions and ranges
/// are answered from the object, its body is not forwarded.
pub const FILL_EXCLUDES: &[&str] = &[
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "range",
    "expect",
    "content-length",
    "content-type",
];

/// What else the node writes itself.
const WRITTEN_FIELDS: &[&str] = &["via", "cdn-loop", "host", "connection", "transfer-encoding", "te"];

/// A request field, or several by one star, that a key or `forward` names.
pub fn resolve_field(name: At<String>, errors: &mut Diagnostics) -> Option<Pattern> {
    let lower = name.value.to_ascii_lowercase();
    let pattern = lower.parse::<Pattern>().ok().filter(|_| lower.replacen('*', "", 1).parse::<HeaderName>().is_ok());
    let Some(pattern) = pattern else {
        let hint = "one star may stand for a part of it: \"x-tenant-*\"";
        errors.error_with_hint(name.place, format!("{:?} is not the name of a header field", name.value), hint);
        return None;
    };
    if pattern.matches("cookie") {
        let hint = "list them in key = { cookies = [...] }";
        errors.error_with_hint(name.place, "a key with all cookies hits nobody", hint);
        return None;
    }
    let mut never = [FORWARDING_FIELDS, WRITTEN_FIELDS, FILL_EXCLUDES].into_iter().flatten();
    if let Some(never) = never.find(|never| pattern.matches(never)) {
        let message = format!(
            "{:?} covers {never}: no origin gets a client's own, since the node writes it or answers it itself",
            name.value
        );
        errors.error(name.place, message);
        return None;
    }
    Some(pattern)
}

fn resolve_compress(
    codings: Vec<At<Coding>>,
    min_size: Option<At<ByteSize>>,
    types: Option<At<Vec<At<String>>>>,
    errors: &mut Diagnostics,
) -> Option<CompressRules> {
    if codings.is_empty() {
        let places = [("compress_min_size", min_size.map(|at| at.place)), ("compress_types", types.map(|at| at.place))];
        for (key, place) in places.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            let hint = "add compress = [\"zstd\", \"br\", \"gzip\"]";
            errors.error_with_hint(place, format!("{key:?} has no effect without compress"), hint);
        }
        return None;
    }
    let mut distinct: Vec<Coding> = Vec::new();
    for coding in codings {
        match distinct.contains(&coding.value) {
            true => errors.error(coding.place, format!("{:?} is given twice", coding.value.as_str())),
            false => distinct.push(coding.value),
        }
    }
    let types = match types {
        Some(types) => patterns(types.value, errors),
        // Each of them is a pattern: a test says so.
        None => CompressRules::TYPES.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    Some(CompressRules { codings: Arc::from(distinct), min_size: min_size.map_or(1024, |at| at.value.0), types })
}

fn patterns(texts: Vec<At<String>>, errors: &mut Diagnostics) -> Vec<Pattern> {
    let parse = |at: At<String>| at.value.parse().map_err(|message: String| errors.error(at.place, message)).ok();
    texts.into_iter().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_types_are_patterns() {
        assert!(CompressRules::TYPES.iter().all(|text| text.parse::<Pattern>().is_ok()));
    }
}
