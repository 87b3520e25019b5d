//! `cache` of a route: whether and for how long responses are stored.

use std::time::Duration;

use http::StatusCode;

use crate::config::diagnose::At;
use crate::config::read::{ByteSize, StatusRange, Table, Words, words};

use crate::expression::{Expression, Scope};

use super::by_response::{self, Heeded, ResponseRule};
use super::compress::{self, Coding, CompressRules, Compression};
use super::condition;
use super::key::{self, KeyRules};

/// What a route says about caching.
#[derive(Debug, Clone)]
pub struct CacheRules {
    pub mode: CacheMode,
    /// Used where the response has no `stale-while-revalidate`.
    pub stale_while_revalidate: Duration,
    /// Used where the response has no `stale-if-error`.
    pub stale_if_error: Duration,
    /// Used when no origin can be reached.
    pub stale_if_unreachable: OutageWindow,
    /// Whether requests with `Authorization` get what was stored for requests without it.
    pub serve_authorized: bool,
    /// Of the time for which a response had not changed, how much it is fresh if it states nothing: percent.
    pub heuristic_percent: u32,
    /// But no longer than this.
    pub heuristic_max: Duration,
    /// Whether clients' `Cache-Control` is left unheeded.
    pub ignore_client_cache_control: bool,
    /// Whether a response with `Set-Cookie` may be stored (the field itself never is).
    pub store_set_cookie: bool,
    /// Lifetimes of redirects and errors that state none themselves, by status.
    pub negative_ttl: Vec<(StatusRange, Duration)>,
    pub key: KeyRules,
    /// `None`: nothing that is stored is compressed here.
    pub compress: Option<CompressRules>,
    /// `None`: nor is what is not stored.
    pub compress_passed: Option<CompressRules>,
    /// Whether a fill goes on when all its clients have left.
    pub finish_fill: FinishFill,
    /// Bytes of the pieces in which large objects are fetched and stored; `None`: they are fetched whole.
    pub slice: Option<u64>,
    /// Whether origins are asked for ranges that are not stored, rather than for the whole.
    pub fetch_ranges: bool,
    /// How long a key is remembered as not cacheable.
    pub hit_for_miss: Duration,
    /// Variants kept of one URL.
    pub max_variants: usize,
    /// Requests of which this is true do not meet the cache.
    pub bypass: Option<Expression>,
    /// Responses of which this is true are not stored.
    pub no_store: Option<Expression>,
    /// The first that is true of a response counts.
    pub rules: Vec<ResponseRule>,
    /// Fields that take the place of `Cache-Control`, the first one first; no client gets them.
    pub heed: Vec<Heeded>,
}

/// For how long after its lifetime a response may stand in for origins that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutageWindow {
    pub length: Duration,
    /// Whether the operator wrote it, rather than the default.
    pub is_stated: bool,
}

impl Default for OutageWindow {
    fn default() -> Self {
        OutageWindow { length: Duration::from_secs(600), is_stated: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    Off,
    /// The origin's header fields decide; `default_ttl` where they say nothing.
    Respect {
        default_ttl: Option<Duration>,
    },
    /// Every cacheable status is stored for `ttl`, whatever `Cache-Control` says.
    Force {
        ttl: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishFill {
    Always,
    Never,
    /// If half of it is there.
    Half,
}

impl CacheRules {
    /// Whether clients' `Cache-Control` counts: in mode `force` the operator has the word alone.
    pub fn heeds_clients(&self) -> bool {
        matches!(self.mode, CacheMode::Respect { .. }) && !self.ignore_client_cache_control
    }

    /// The configured lifetime of a redirect or an error.
    pub fn negative_ttl(&self, status: StatusCode) -> Option<Duration> {
        let code = status.as_u16();
        self.negative_ttl.iter().find(|(range, _)| (range.first..=range.last).contains(&code)).map(|(_, ttl)| *ttl)
    }
}

impl Default for CacheRules {
    fn default() -> Self {
        CacheRules {
            mode: CacheMode::Off,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            stale_if_unreachable: OutageWindow::default(),
            serve_authorized: false,
            heuristic_percent: 10,
            heuristic_max: Duration::from_secs(24 * 3600),
            ignore_client_cache_control: false,
            store_set_cookie: false,
            negative_ttl: Vec::new(),
            key: KeyRules::default(),
            compress: None,
            compress_passed: None,
            finish_fill: FinishFill::Always,
            slice: None,
            fetch_ranges: false,
            hit_for_miss: Duration::from_secs(10),
            bypass: None,
            no_store: None,
            rules: Vec::new(),
            heed: Vec::new(),
            max_variants: 64,
        }
    }
}

/// What is not cacheable now may be later.
const LONGEST_HIT_FOR_MISS: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModeWord {
    Off,
    Respect,
    Force,
}

words!(ModeWord { "off" => ModeWord::Off, "respect" => ModeWord::Respect, "force" => ModeWord::Force });
words!(FinishFill { "always" => FinishFill::Always, "never" => FinishFill::Never, "half" => FinishFill::Half });

/// What a route says of it beside its `cache`.
pub(crate) struct Beside {
    pub ignore_client_cache_control: Option<bool>,
    pub compress_passed: Vec<Coding>,
    pub compression: Compression,
}

/// What a route without a `cache` has.
pub(crate) fn off(beside: &Beside) -> CacheRules {
    let compress_passed = beside.compression.rules_for(&beside.compress_passed);
    CacheRules { compress_passed, ..CacheRules::default() }
}

/// `None`: it has no mode that could be told.
pub(crate) fn read(mut table: Table, beside: &Beside) -> Option<CacheRules> {
    let mode = read_mode(&mut table);
    let ignore_client_cache_control = beside.ignore_client_cache_control.unwrap_or_default();
    let mut rules = CacheRules { ignore_client_cache_control, ..CacheRules::default() };
    let name = table.name.replace("cache of", "negative_ttl of");
    let negative_ttl = table.table("negative_ttl", &name, "negative_ttl = { 404 = \"30s\" }");
    rules.negative_ttl = negative_ttl.map(read_negative_ttl).unwrap_or_default();
    table.set("stale_while_revalidate", &mut rules.stale_while_revalidate);
    table.set("stale_if_error", &mut rules.stale_if_error);
    if let Some(length) = table.value("stale_if_unreachable") {
        rules.stale_if_unreachable = OutageWindow { length, is_stated: true };
    }
    table.set("serve_authorized", &mut rules.serve_authorized);
    table.set_within("heuristic_percent", &mut rules.heuristic_percent, 0..=100);
    table.set("heuristic_max", &mut rules.heuristic_max);
    table.set("ignore_client_cache_control", &mut rules.ignore_client_cache_control);
    table.set("fetch_ranges", &mut rules.fetch_ranges);
    let mut slice = ByteSize(0);
    table.set_within("slice", &mut slice, ByteSize(64 << 10)..=ByteSize(1 << 30));
    rules.slice = (slice.0 > 0).then_some(slice.0);
    table.set("finish_fill", &mut rules.finish_fill);
    table.set("store_set_cookie", &mut rules.store_set_cookie);
    let is_short = |time: &Duration| *time <= LONGEST_HIT_FOR_MISS;
    table.set_if("hit_for_miss", &mut rules.hit_for_miss, is_short, "must be at most an hour");
    table.set_within("max_variants", &mut rules.max_variants, 1..=1024);
    let name = table.name.replace("cache of", "key of");
    let key = table.table("key", &name, "key = { drop_query = [\"utm_*\"] }");
    rules.key = key.map(key::read).unwrap_or_default();
    let compression = compress::read(&mut table).or(&beside.compression, mode == Some(CacheMode::Off));
    compression.check(&table, &beside.compress_passed);
    rules.compress = compression.codings.as_ref().and_then(|codings| compression.rules_for(codings));
    rules.compress_passed = compression.rules_for(&beside.compress_passed);
    if rules.compress.is_some() && rules.key.accept_encoding.is_none() {
        // What the node codes itself, it asks for uncoded, so that one object serves every client.
        rules.key.accept_encoding = Some([].into());
    }
    if table.has_own("compress_passed") {
        let message =
            format!("\"compress_passed\" in {} belongs in the route: it is of what is not cached", table.name);
        table.errors.error(table.place_of("compress_passed"), message);
        table.set_aside("compress_passed");
    }
    rules.bypass = condition::read(&mut table, "bypass", Scope::Request);
    rules.no_store = condition::read(&mut table, "no_store", Scope::Answer);
    rules.rules = by_response::rules(&mut table);
    rules.heed = table.plain_list("heed");
    table.finish();
    Some(CacheRules { mode: mode?, ..rules })
}

fn read_mode(table: &mut Table) -> Option<CacheMode> {
    if !table.has("mode") {
        let hint = "add mode = \"respect\" (the origin's headers decide), \"force\" (with ttl) or \"off\"";
        table.errors.error_with_hint(table.place, format!("missing key \"mode\" in {}", table.name), hint);
    }
    let mode = table.value("mode");
    let (default_ttl, ttl) = (table.value("default_ttl"), table.value("ttl"));
    check_mode(table, mode?);
    match mode? {
        ModeWord::Off => Some(CacheMode::Off),
        ModeWord::Respect => Some(CacheMode::Respect { default_ttl }),
        ModeWord::Force => {
            if !table.has("ttl") {
                table.errors.error_with_hint(table.place, "mode = \"force\" needs a ttl", "add ttl = \"1h\"");
            }
            Some(CacheMode::Force { ttl: ttl? })
        }
    }
}

/// Reports keys that the mode makes meaningless.
fn check_mode(table: &Table, mode: ModeWord) {
    let respect = &[ModeWord::Respect][..];
    let not_off = &[ModeWord::Respect, ModeWord::Force][..];
    for (key, modes) in [
        ("ttl", &[ModeWord::Force][..]),
        ("default_ttl", respect),
        ("heuristic_percent", respect),
        ("heuristic_max", respect),
        ("ignore_client_cache_control", respect),
        ("negative_ttl", not_off),
        ("stale_if_unreachable", not_off),
        ("compress", not_off),
        ("bypass", not_off),
        ("no_store", not_off),
        ("rules", not_off),
        ("heed", respect),
        ("stale_if_error", not_off),
        ("stale_while_revalidate", not_off),
        ("max_variants", not_off),
        ("slice", not_off),
        ("hit_for_miss", not_off),
        ("store_set_cookie", not_off),
        ("serve_authorized", not_off),
        ("fetch_ranges", not_off),
        ("finish_fill", not_off),
    ] {
        if !table.lacks(key) && !modes.contains(&mode) {
            let message = format!("{key:?} has no effect in this mode");
            let hint = match (key, mode) {
                ("ttl", ModeWord::Respect) => {
                    "for responses that state no lifetime: default_ttl; for all, private and no-store included: mode = \"force\""
                        .to_owned()
                }
                ("compress", ModeWord::Off) => "for what is not stored: compress_passed = [...] in the route".to_owned(),
                _ => format!("use mode = {:?}", modes[0].as_str()),
            };
            table.errors.error_with_hint(table.place_of(key), message, hint);
        }
    }
}

/// `{ 404 = "30s", 500-504 = "1s" }`: statuses or ranges of them, and how long each is kept.
fn read_negative_ttl(table: Table) -> Vec<(StatusRange, Duration)> {
    let errors = table.errors;
    let mut read: Vec<(At<StatusRange>, Duration)> = Vec::new();
    for (At { value: key, place }, ttl) in table.free_form() {
        let Some(range) = errors.accept(place, key.parse::<StatusRange>()) else { continue };
        if range.first < 300 || (range.first..=range.last).contains(&304) {
            errors.error(place, format!("{key:?}: negative_ttl is for redirects and errors: 300 to 599 without 304"));
            continue;
        }
        let overlaps = |other: StatusRange| range.first <= other.last && other.first <= range.last;
        if let Some((other, _)) = read.iter().find(|(other, _)| overlaps(other.value)) {
            errors.again(place, format!("{key:?} in negative_ttl overlaps with another"), other.place);
        }
        read.push((At { value: range, place }, ttl.value));
    }
    read.into_iter().map(|(range, ttl)| (range.value, ttl)).collect()
}
