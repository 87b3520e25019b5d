//! `Cache-Control` of responses (RFC 9111 section 5.2.2, RFC 5861, RFC 8246) and of requests (section 5.2.1),
//! and the fields that are meant for caches like this one alone (RFC 9213).

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use crate::fields::split_list;
use crate::request::{Fields, is_tchar, text};

/// The fields that take the place of `Cache-Control` and `Expires`, the most specific first (RFC 9213 section 2).
pub(crate) static TARGETED: [HeaderName; 2] =
    [HeaderName::from_static("seawall-cache-control"), HeaderName::from_static("cdn-cache-control")];

/// Response directives that forbid something: heeded also where they are written wrongly.
const RESTRICTIVE: [&str; 5] = ["no-store", "no-cache", "private", "must-revalidate", "proxy-revalidate"];

/// The response directives that concern a shared cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directives {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    /// The fields that `no-cache="…"` and `private="…"` name: not stored, the rest is (sections 5.2.2.4, 5.2.2.7).
    pub excluded: Vec<HeaderName>,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    /// They are from a targeted field, so that `Expires` does not count.
    pub targeted: bool,
    /// Something in the field is no `token[=value]`: nobody may guess what else it was meant to say.
    pub malformed: bool,
}

impl Directives {
    /// Reads the field that counts for this cache: the first targeted one that is valid, else `Cache-Control`.
    pub fn parse(headers: &HeaderMap) -> Self {
        TARGETED.iter().find_map(|name| Self::targeted(headers, name)).unwrap_or_else(|| {
            let mut directives = Directives::default();
            for_each_part(Fields::Map(headers), |part| match part {
                Part::Directive(name, value) => directives.read(name, value),
                Part::Malformed(text) => directives.read_malformed(text),
            });
            directives
        })
    }

    /// A targeted field is a dictionary of structured fields; one that is invalid or empty is as if it were not
    /// there (RFC 9213 section 2.1).
    pub(super) fn targeted(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let dictionary: Dictionary = Parser::parse_dictionary(&Fields::Map(headers).joined(name)?).ok()?;
        if dictionary.is_empty() {
            return None;
        }
        let mut directives = Directives { targeted: true, ..Directives::default() };
        for (name, entry) in &dictionary {
            let value = match entry {
                ListEntry::Item(item) => Some(&item.bare_item),
                ListEntry::InnerList(_) => None,
            };
            match value {
                Some(BareItem::Boolean(true)) => directives.read(name, None),
                Some(BareItem::Boolean(false)) => {}
                Some(BareItem::Integer(number)) => directives.read(name, Some(&number.to_string())),
                Some(BareItem::String(text)) if matches!(name.as_str(), "no-cache" | "private") => {
                    directives.read(name, Some(&format!("\"{text}\"")));
                }
                // Of a type that the directive does not have: it gives no permission (RFC 9213 section 2.1). What
                // forbids something is heeded all the same.
                _ if RESTRICTIVE.contains(&name.as_str()) => directives.read(name, None),
                _ => {}
            }
        }
        Some(directives)
    }

    /// Whether stale reuse is forbidden whatever else permits it (RFC 9111 section 4.2.4).
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache
    }

    /// Whether the response may be stored from a request with `Authorization`, and so answer others that have it (RFC 9111
    /// section 3.5).
    pub fn allows_authorization(&self) -> bool {
        self.public || self.s_maxage.is_some() || self.must_revalidate
    }

    /// Heeds what a part that is no directive may have been meant to forbid, and believes nothing else in it.
    fn read_malformed(&mut self, text: &str) {
        self.malformed = true;
        for word in words_of(text) {
            let lower = word.to_ascii_lowercase();
            match lower.as_str() {
                "max-age" | "s-maxage" => self.read(&lower, Some("")), // no number: stale (RFC 9111 section 4.2.1)
                word if RESTRICTIVE.contains(&word) => self.read(word, None),
                _ => {}
            }
        }
    }

    fn read(&mut self, name: &str, value: Option<&str>) {
        // The first occurrence of a duplicated directive counts (RFC 9111 section 4.2.1).
        let seconds = |slot: &mut Option<Duration>| _ = slot.get_or_insert_with(|| delta_seconds(value));
        match lower(name, &mut [0; LONGEST]) {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache |= !exclude(&mut self.excluded, value),
            "private" => self.private |= !exclude(&mut self.excluded, value),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "max-age" => seconds(&mut self.max_age),
            "s-maxage" => seconds(&mut self.s_maxage),
            "stale-while-revalidate" => seconds(&mut self.stale_while_revalidate),
            "stale-if-error" => seconds(&mut self.stale_if_error),
            _ => {} // unknown directives are ignored (section 5.2.3); so is immutable, which is for clients
        }
    }
}

/// What a client asks of caches on the way (RFC 9111 section 5.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientDirectives {
    pub no_cache: bool,
    pub no_store: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub min_fresh: Option<Duration>,
    /// How stale a response may be; without a value in the directive, of any age.
    pub max_stale: Option<Duration>,
}

impl ClientDirectives {
    /// Whether whatever is fresh will do, however it came to be there.
    pub fn take_any(&self) -> bool {
        *self == ClientDirectives { max_stale: self.max_stale, ..ClientDirectives::default() }
    }

    /// Reads `Cache-Control`, or `Pragma: no-cache` where there is none, which HTTP/1.0 clients send.
    pub fn parse(request: Fields<'_>) -> Self {
        let mut directives = ClientDirectives::default();
        if !request.contains(&header::CACHE_CONTROL) {
            request.for_each(&header::PRAGMA, |line| {
                let line = text(line);
                directives.no_cache |= split_list(&line).any(|part| part.eq_ignore_ascii_case("no-cache"));
            });
            return directives;
        }
        for_each_part(request, |part| match part {
            Part::Directive(name, value) => directives.read(name, value),
            Part::Malformed(text) => words_of(text)
                .filter(|word| ["no-store", "no-cache"].iter().any(|name| word.eq_ignore_ascii_case(name)))
                .for_each(|word| directives.read(word, None)),
        });
        directives
    }

    fn read(&mut self, name: &str, value: Option<&str>) {
        let seconds = |slot: &mut Option<Duration>, default: Duration| {
            slot.get_or_insert_with(|| value.map_or(default, |_| delta_seconds(value)));
        };
        match lower(name, &mut [0; LONGEST]) {
            "no-cache" => self.no_cache = true,
            "no-store" => self.no_store = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => seconds(&mut self.max_age, Duration::ZERO),
            "min-fresh" => seconds(&mut self.min_fresh, Duration::ZERO),
            "max-stale" => seconds(&mut self.max_stale, Duration::MAX),
            _ => {}
        }
    }
}

/// One member of a `Cache-Control` list.
enum Part<'l> {
    /// Name and value.
    Directive(&'l str, Option<&'l str>),
    /// What is no `token [ "=" ( token / quoted-string ) ]` (RFC 9111 section 5.2).
    Malformed(&'l str),
}

/// Calls `each` with the members of all lines.
fn for_each_part(fields: Fields<'_>, mut each: impl FnMut(Part<'_>)) {
    fields.for_each(&header::CACHE_CONTROL, |line| {
        for part in split_list(&text(line)) {
            each(match part.split_once('=') {
                None if is_token(part) => Part::Directive(part, None),
                Some((name, value)) if is_token(name) && (is_token(value) || is_quoted(value)) => {
                    Part::Directive(name, Some(value))
                }
                _ => Part::Malformed(part),
            });
        }
    });
}

/// Bytes of the longest name of a directive that is known.
const LONGEST: usize = 24;

/// A name in lower case; of one that is longer than all that are known, nothing.
fn lower<'b>(name: &str, buffer: &'b mut [u8; LONGEST]) -> &'b str {
    let Some(lower) = buffer.get_mut(..name.len()) else { return "" };
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).unwrap_or_default()
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// RFC 9110 section 5.6.4.
fn is_quoted(text: &str) -> bool {
    let Some(inside) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut escaped = false;
    for byte in inside.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return false,
            _ => {}
        }
    }
    !escaped
}

/// The words in text that is no directive.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
}

/// Adds the fields that a directive names; whether it names any, and only names that are valid.
fn exclude(excluded: &mut Vec<HeaderName>, value: Option<&str>) -> bool {
    let Some(value) = value else { return false };
    let names: Option<Vec<HeaderName>> =
        split_list(unquoted(value)).map(|name| name.to_ascii_lowercase().parse().ok()).collect();
    let names = names.filter(|names| !names.is_empty());
    names.map(|names| excluded.extend(names)).is_some()
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

/// A directive's number of seconds; what is not one counts as zero, that is, stale (RFC 9111 section 4.2.1). The
/// quoted form is read too (section 5.2).
fn delta_seconds(value: Option<&str>) -> Duration {
    parse_seconds(unquoted(value.unwrap_or_default())).unwrap_or_default()
}

/// Delta-seconds; what is too large is 2^31 (RFC 9111 section 1.2.2).
pub(crate) fn parse_seconds(text: &str) -> Option<Duration> {
    const LARGEST: u64 = 1 << 31;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Duration::from_secs(text.parse().unwrap_or(LARGEST).min(LARGEST)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::map;
    use super::*;

    const fn secs(secs: u64) -> Option<Duration> {
        Some(Duration::from_secs(secs))
    }

    /// What most responses say, and how it is misspelt, is in tests/tables/judge.txt.
    #[test]
    fn directives() {
        let d = Directives::default;
        let named = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect();
        for (lines, expected) in [
            (&["max-age=60"][..], Directives { max_age: secs(60), ..d() }),
            (&["MAX-AGE=60, Public"], Directives { max_age: secs(60), public: true, ..d() }),
            (&["max-age=60", "s-maxage=5"], Directives { max_age: secs(60), s_maxage: secs(5), ..d() }),
            (&["max-age='60'"], Directives { max_age: secs(0), ..d() }),
            (&["max-age = 60"], Directives { max_age: secs(0), malformed: true, ..d() }),
            (&["max-age=300;"], Directives { max_age: secs(0), malformed: true, ..d() }),
            (&["public; max-age=300"], Directives { max_age: secs(0), malformed: true, ..d() }),
            (&["max-age=60, a b"], Directives { max_age: secs(60), malformed: true, ..d() }),
            (&["no-cache;no-store"], Directives { no_cache: true, no_store: true, malformed: true, ..d() }),
            (&["foo=\"x\" no-store"], Directives { no_store: true, malformed: true, ..d() }),
            (
                &["must-revalidate proxy-revalidate"],
                Directives { must_revalidate: true, proxy_revalidate: true, malformed: true, ..d() },
            ),
            (&["foo=\"a \\\" no-store\""], d()),
            (&["x-no-store; y"], Directives { malformed: true, ..d() }),
            (&["max-age=2147483647"], Directives { max_age: secs(2_147_483_647), ..d() }),
            (&["max-age=2147483649"], Directives { max_age: secs(1 << 31), ..d() }),
            (&["max-age=60a"], Directives { max_age: secs(0), ..d() }),
            (&["max-age"], Directives { max_age: secs(0), ..d() }),
            (&["max-age="], Directives { max_age: secs(0), malformed: true, ..d() }),
            (&["ext=\"no-store, max-age=9\", max-age=1"], Directives { max_age: secs(1), ..d() }),
            (&["max-age=1;max-age=9"], Directives { max_age: secs(0), malformed: true, ..d() }),
            (&["no-cache=\"set-cookie, X\""], Directives { excluded: named(&["set-cookie", "x"]), ..d() }),
            (&["private=\"a\", no-cache=b"], Directives { excluded: named(&["a", "b"]), ..d() }),
            (&["private=\"a\", private"], Directives { private: true, excluded: named(&["a"]), ..d() }),
            (&["no-cache=\"a b\""], Directives { no_cache: true, ..d() }),
            (&["NO-CACHE"], Directives { no_cache: true, ..d() }),
            (&["must-understand, no-store"], Directives { must_understand: true, no_store: true, ..d() }),
            (
                &["must-revalidate,proxy-revalidate"],
                Directives { must_revalidate: true, proxy_revalidate: true, ..d() },
            ),
            (&["nostore"], d()),
            (&[""], d()),
            (
                &["private, stale-while-revalidate=3, stale-if-error=4"],
                Directives { private: true, stale_while_revalidate: secs(3), stale_if_error: secs(4), ..d() },
            ),
        ] {
            let lines: Vec<(&str, &str)> = lines.iter().map(|line| ("cache-control", *line)).collect();
            assert_eq!(Directives::parse(&map(&lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_most_specific_targeted_field_that_is_valid_counts() {
        let parse = |fields: &[(&str, &str)]| {
            let directives = Directives::parse(&map(&[&[("cache-control", "max-age=1")], fields].concat()));
            (directives.max_age.map(|age| age.as_secs()), directives.no_store, directives.targeted)
        };
        let (own, cdn) = ("seawall-cache-control", "cdn-cache-control");
        for (fields, expected) in [
            (&[][..], (Some(1), false, false)),
            (&[(cdn, "max-age=2"), (own, "")], (Some(2), false, true)),
            (&[(cdn, "max-age=2;a=b")], (Some(2), false, true)),
            (&[(cdn, "max-age=2"), (cdn, "no-store")], (Some(2), true, true)),
            (&[(cdn, "max-age=2, max-age=4")], (Some(4), false, true)),
            (&[(cdn, "max-age = 2")], (Some(1), false, false)),
            (&[(cdn, "max-age=\"2\"")], (None, false, true)),
            (&[(cdn, "max-age=\"10000\""), (own, "foo")], (None, false, true)),
            (&[(cdn, "no-store=1")], (None, true, true)),
            (&[(cdn, "no-store=(1 2)")], (None, true, true)),
            (&[(cdn, "no-store=\"x\"")], (None, true, true)),
            (&[(cdn, "max-age=2.5")], (None, false, true)),
            (&[(cdn, "max-age=-2")], (Some(0), false, true)),
            (&[(cdn, "no-store=?0, max-age=2")], (Some(2), false, true)),
            (&[(cdn, "foo")], (None, false, true)),
        ] {
            assert_eq!(parse(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn what_clients_ask_for() {
        let d = ClientDirectives::default();
        for (fields, expected) in [
            (&[][..], d),
            (&[("cache-control", "no-cache")], ClientDirectives { no_cache: true, ..d }),
            (&[("cache-control", "No-Store, max-age=5")], ClientDirectives { no_store: true, max_age: secs(5), ..d }),
            (&[("cache-control", "max-stale")], ClientDirectives { max_stale: Some(Duration::MAX), ..d }),
            (
                &[("cache-control", "max-stale=7, min-fresh=3")],
                ClientDirectives { max_stale: secs(7), min_fresh: secs(3), ..d },
            ),
            (&[("cache-control", "only-if-cached")], ClientDirectives { only_if_cached: true, ..d }),
            (&[("cache-control", "no-store;")], ClientDirectives { no_store: true, ..d }),
            (&[("cache-control", "max-age=0;no-cache")], ClientDirectives { no_cache: true, ..d }),
            (&[("cache-control", "max-age=x")], ClientDirectives { max_age: secs(0), ..d }),
            (&[("pragma", "no-cache")], ClientDirectives { no_cache: true, ..d }),
            (&[("pragma", "no-cache"), ("cache-control", "max-age=5")], ClientDirectives { max_age: secs(5), ..d }),
            (&[("pragma", "other")], d),
        ] {
            assert_eq!(ClientDirectives::parse(Fields::Map(&map(fields))), expected, "{fields:?}");
        }
    }

    #[test]
    fn lists_are_split_outside_of_quotes() {
        let parts: Vec<&str> = split_list(r#"a, "b,\",c" ,, d="e,f""#).collect();
        assert_eq!(parts, ["a", r#""b,\",c""#, r#"d="e,f""#]);
    }
}
