//! `key` of a route's cache: what tells objects apart.

use std::sync::Arc;

use http::{HeaderName, header};

use crate::config::diagnose::{At, Diagnostics, Need};
use crate::config::read::Table;
use crate::expression::Variable;
use crate::pattern::Pattern;
use crate::template::Value;

use super::compress::Coding;

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
    /// Whether the countries of clients are.
    pub country: bool,
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

    /// Whether both make the same of every URL.
    pub fn keys_urls_as(&self, other: &KeyRules) -> bool {
        let of = |rules: &KeyRules| (rules.sort_query, rules.ignore_path_case);
        of(self) == of(other) && self.query == other.query
    }

    /// What would have to be said for all requests of one key to have the same in a place of a template; `None`: they do.
    pub(crate) fn lacks(&self, value: &Value) -> Option<String> {
        match value {
            // By a pattern the order of what is like it does not count, but here it would.
            Value::Of(Variable::Header(name)) if names(&self.headers, name.as_str()) => None,
            Value::Of(Variable::Header(name)) if *name == header::HOST => Some("use {host}, which is keyed".to_owned()),
            Value::Of(Variable::Header(name)) if *name == header::COOKIE => {
                Some("use {cookie.NAME}, and add key = { cookies = [\"NAME\"] } to \"cache\"".to_owned())
            }
            Value::Of(Variable::Header(name)) if is_never_keyed(name.as_str()) => {
                Some("no key can have it: use it on a route that does not cache".to_owned())
            }
            Value::Of(Variable::Header(name)) => Some(format!("add key = {{ headers = [\"{name}\"] }} to \"cache\"")),
            Value::Of(Variable::Cookie(name)) => {
                let is_named = |cookies: &Arc<[Pattern]>| names(cookies, name);
                let hint = || format!("add key = {{ cookies = [\"{name}\"] }} to \"cache\"");
                (!self.cookies.as_ref().is_some_and(is_named)).then(hint)
            }
            Value::Of(Variable::Country) if self.country => None,
            Value::Of(Variable::Country) => Some("add key = { country = true } to \"cache\"".to_owned()),
            Value::ClientIp
            | Value::ClientAsn
            | Value::Of(Variable::Method | Variable::Protocol | Variable::TlsVersion | Variable::RequestId) => {
                Some("no key has it: use it on a route that does not cache".to_owned())
            }
            // As they are keyed, these are asked for.
            Value::Capture(_) | Value::Of(_) => None,
        }
    }

    /// Whether a field is one of those that count; `name`: in lower case.
    pub fn names_field(&self, name: &str) -> bool {
        self.headers.iter().any(|pattern| pattern.matches(name))
    }
}

/// Whether a name is one of a list, and not only like one.
fn names(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.exact() == Some(name))
}

/// Fields of which no origin gets a client's own.
const NEVER_KEYED: [&[&str]; 3] = [FORWARDING_FIELDS, WRITTEN_FIELDS, FILL_EXCLUDES];

fn is_never_keyed(name: &str) -> bool {
    NEVER_KEYED.iter().any(|names| names.contains(&name))
}

/// Which query parameters count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueryRule {
    #[default]
    All,
    Without(Vec<Pattern>),
    Only(Vec<Pattern>),
}

pub(crate) fn read(mut table: Table) -> KeyRules {
    let errors = table.errors;
    if table.has("keep_query") && table.has("drop_query") {
        errors.error(table.place_of("drop_query"), "give either keep_query or drop_query, not both");
    }
    let query = match (table.optional_list("keep_query"), table.optional_list("drop_query")) {
        (Some(keep), _) => QueryRule::Only(errors.parse_all(keep)),
        (None, Some(drop)) => QueryRule::Without(errors.parse_all(drop)),
        (None, None) => QueryRule::All,
    };
    let key = KeyRules {
        query,
        sort_query: table.get_or("sort_query", false),
        ignore_path_case: table.get_or("ignore_path_case", false),
        headers: table.list("headers").into_iter().filter_map(|name| field(name, errors)).collect(),
        cookies: table.optional_list("cookies").map(|cookies| {
            check_each(&cookies, |b| b.is_ascii_graphic() && !b";=,".contains(&b), "the name of a cookie", errors);
            errors.parse_all(cookies).into()
        }),
        device: table.get_or("device", false),
        country: country(&mut table),
        accept_encoding: table
            .optional_list("accept_encoding")
            .map(|codings| codings.into_iter().map(|coding| coding.value).collect()),
        accept_language: table.optional_list("accept_language").map(|languages| {
            let tag = "a language tag such as \"en\" or \"pt-BR\"";
            check_each(&languages, |b| b.is_ascii_alphanumeric() || b == b'-', tag, errors);
            languages.into_iter().map(|language| language.value.into_boxed_str()).collect()
        }),
    };
    table.finish();
    key
}

fn country(table: &mut Table) -> bool {
    let place = table.place_of("country");
    let is_keyed = table.get_or("country", false);
    if is_keyed {
        table.errors.need(Need::CountryFile, place);
    }
    is_keyed
}

fn check_each(texts: &[At<String>], fits: impl Fn(u8) -> bool, what: &str, errors: &Diagnostics) {
    for At { value, place } in texts {
        if value.is_empty() || !value.bytes().all(&fits) {
            errors.error(*place, format!("{value:?} is not {what}"));
        }
    }
}

/// A request field, or several by one star, that a key or `forward` names.
pub(crate) fn field(name: At<String>, errors: &Diagnostics) -> Option<Pattern> {
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
    let mut never = NEVER_KEYED.into_iter().flatten();
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

/// Fields by which proxies tell where a request came from, and tokens of the node's. No origin gets a client's own.
pub(crate) const FORWARDING_FIELDS: &[&str] = &[
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
    "x-request-id",
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
pub(crate) const FILL_EXCLUDES: &[&str] = &[
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
