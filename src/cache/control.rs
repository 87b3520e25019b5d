//! `Cache-Control` of responses (RFC 9111 section 5.2.2, RFC 5861).

use std::time::Duration;

use http::{HeaderMap, header};

/// The response directives that concern a shared cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Directives {
    pub no_store: bool,
    /// Also its qualified form, `no-cache="field"`: RFC 9111 section 5.2.2.4 lets a cache treat both alike.
    pub no_cache: bool,
    /// Also its qualified form (section 5.2.2.7).
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
}

impl Directives {
    /// Reads all `Cache-Control` lines of a response.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut directives = Directives::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            let line = String::from_utf8_lossy(line.as_bytes());
            for part in split_list(&line) {
                directives.read(part);
            }
        }
        directives
    }

    /// Whether stale reuse is forbidden whatever else permits it (RFC 9111 section 4.2.4): by
    /// `must-revalidate`, `proxy-revalidate`, `no-cache`, or `s-maxage`, which implies the second.
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.no_cache || self.s_maxage.is_some()
    }

    fn read(&mut self, part: &str) {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (part, None),
        };
        // The first occurrence of a duplicated directive counts (RFC 9111 section 4.2.1).
        let seconds = |slot: &mut Option<Duration>| {
            if slot.is_none() {
                *slot = Some(delta_seconds(value));
            }
        };
        match name.to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "max-age" => seconds(&mut self.max_age),
            "s-maxage" => seconds(&mut self.s_maxage),
            "stale-while-revalidate" => seconds(&mut self.stale_while_revalidate),
            "stale-if-error" => seconds(&mut self.stale_if_error),
            _ => {} // unknown directives are ignored (section 5.2.3)
        }
    }
}

/// A number of seconds; what is not one counts as zero, that is, stale (RFC 9111 section 4.2.1), and what is
/// too large as 2^31 (section 1.2.2). The quoted form is read too (section 5.2).
fn delta_seconds(value: Option<&str>) -> Duration {
    const LARGEST: u64 = 1 << 31;
    let text = value.unwrap_or_default();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Duration::ZERO;
    }
    Duration::from_secs(text.parse().unwrap_or(LARGEST).min(LARGEST))
}

/// Splits a list at its commas, but not at those in quoted strings (RFC 9110 section 5.6.1).
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.bytes().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted => return true,
                _ => {}
            }
            false
        });
        rest = end.map(|end| &text[end + 1..]);
        Some(text[..end.unwrap_or(text.len())].trim_matches([' ', '\t']))
    })
    .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, line.parse().unwrap());
        }
        Directives::parse(&headers)
    }

    const fn secs(secs: u64) -> Option<Duration> {
        Some(Duration::from_secs(secs))
    }

    #[test]
    fn directives() {
        let none = Directives::default();
        for (lines, expected) in [
            (&["max-age=60"][..], Directives { max_age: secs(60), ..none }),
            (&["MAX-AGE=60, Public"], Directives { max_age: secs(60), public: true, ..none }),
            (&["max-age=60", "s-maxage=5"], Directives { max_age: secs(60), s_maxage: secs(5), ..none }),
            (&["max-age=60, max-age=1"], Directives { max_age: secs(60), ..none }),
            (&["max-age=\"60\""], Directives { max_age: secs(60), ..none }),
            (&["max-age = 60"], Directives { max_age: secs(60), ..none }),
            (&["max-age=99999999999999999999"], Directives { max_age: secs(1 << 31), ..none }),
            (&["max-age=-1"], Directives { max_age: secs(0), ..none }),
            (&["max-age=1.5"], Directives { max_age: secs(0), ..none }),
            (&["max-age"], Directives { max_age: secs(0), ..none }),
            (&["ext=\"no-store, max-age=9\", max-age=1"], Directives { max_age: secs(1), ..none }),
            (&["no-cache=\"set-cookie, x\""], Directives { no_cache: true, ..none }),
            (&[",, no-store ,"], Directives { no_store: true, ..none }),
            (&["nostore"], none),
            (
                &["private, stale-while-revalidate=3, stale-if-error=4"],
                Directives { private: true, stale_while_revalidate: secs(3), stale_if_error: secs(4), ..none },
            ),
        ] {
            assert_eq!(parse(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn lists_are_split_outside_of_quotes() {
        let parts: Vec<&str> = split_list(r#"a, "b,\",c" ,, d="e,f""#).collect();
        assert_eq!(parts, ["a", r#""b,\",c""#, r#"d="e,f""#]);
    }
}
