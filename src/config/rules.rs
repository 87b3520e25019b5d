//! What a route says about caching, as the engine uses it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::file::StatusRange;

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
    /// `None`: nothing is compressed here.
    pub compress: Option<CompressRules>,
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

/// Whether a fill goes on when all clients that followed it have left.
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
}

impl CacheRules {
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
            finish_fill: FinishFill::Always,
            slice: None,
            fetch_ranges: false,
            hit_for_miss: Duration::from_secs(10),
            max_variants: 64,
        }
    }
}

/// What tells the objects of a route apart, besides what the origin's `Vary` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRules {
    pub query: QueryRule,
    /// Whether parameters are put in the order of their names.
    pub sort_query: bool,
    /// Whether paths are taken as if written in lower case.
    pub ignore_path_case: bool,
    /// Fields that count as if each response named them in `Vary`; in lower case.
    pub headers: Vec<Pattern>,
    /// Cookies that count; origins see no others. `None`: cookies are left as they are.
    pub cookies: Option<Arc<[Pattern]>>,
    /// Whether phones, tablets and other clients are told apart.
    pub device: bool,
    /// What `Accept-Encoding` is reduced to one of. `None`: it is left as it is.
    pub accept_encoding: Option<Arc<[Coding]>>,
    /// The same for `Accept-Language`.
    pub accept_language: Option<Arc<[Box<str>]>>,
}

impl KeyRules {
    /// Whether keys may have another query than URLs.
    pub fn changes_queries(&self) -> bool {
        self.sort_query || self.query != QueryRule::All
    }

    /// Whether a field is one of those that count; `name`: in lower case.
    pub fn names_field(&self, name: &str) -> bool {
        self.headers.iter().any(|pattern| pattern.matches(name))
    }
}

/// Which query parameters count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueryRule {
    #[default]
    All,
    Without(Vec<Pattern>),
    Only(Vec<Pattern>),
}

/// A name in which one `*` may stand for any characters: `utm_*`, `application/*+json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Pattern {
    prefix: Box<str>,
    /// What follows the star, if there is one.
    suffix: Option<Box<str>>,
}

impl Pattern {
    /// The one name that it stands for; `None`: it has a star.
    pub fn exact(&self) -> Option<&str> {
        self.suffix.is_none().then_some(&*self.prefix)
    }

    pub fn matches(&self, name: &str) -> bool {
        match &self.suffix {
            None => name == &*self.prefix,
            Some(suffix) => {
                name.len() >= self.prefix.len() + suffix.len()
                    && name.starts_with(&*self.prefix)
                    && name.ends_with(&**suffix)
            }
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.prefix)?;
        self.suffix.as_ref().map_or(Ok(()), |suffix| write!(f, "*{suffix}"))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.to_string()
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'&') {
            return Err(format!("{text:?} is not a name such as \"page\" or \"utm_*\""));
        }
        match text.split_once('*') {
            Some((_, rest)) if rest.contains('*') => Err(format!("{text:?} has more than one \"*\"")),
            Some((prefix, suffix)) => Ok(Pattern { prefix: prefix.into(), suffix: Some(suffix.into()) }),
            None => Ok(Pattern { prefix: text.into(), suffix: None }),
        }
    }
}

/// Which responses the node compresses, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressRules {
    /// In the order in which they are preferred where a client has no preference.
    pub codings: Arc<[Coding]>,
    /// Bytes of the smallest body that is worth it.
    pub min_size: u64,
    /// Media types, without parameters.
    pub types: Vec<Pattern>,
}

impl CompressRules {
    /// Media types that shrink.
    pub const TYPES: [&str; 11] = [
        "text/*",
        "application/json",
        "application/*+json",
        "application/javascript",
        "application/x-javascript",
        "application/xml",
        "application/*+xml",
        "application/wasm",
        "image/svg+xml",
        "image/x-icon",
        "font/ttf",
    ];
}

/// A content coding that the node can make (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Coding {
    Zstd,
    Br,
    Gzip,
}

impl Coding {
    /// Its token in `Content-Encoding` and `Accept-Encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Coding::Zstd => "zstd",
            Coding::Br => "br",
            Coding::Gzip => "gzip",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, matches) in [
            ("page", "page", true),
            ("page", "pages", false),
            ("utm_*", "utm_source", true),
            ("utm_*", "utm_", true),
            ("utm_*", "utm", false),
            ("*", "", true),
            ("application/*+json", "application/ld+json", true),
            ("application/*+json", "application/json", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(name), matches, "{pattern} {name}");
        }
        for bad in ["", "a&b", "a b", "*a*", "ä"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}
