//! `cors` of a route: which pages of other origins may read its answers (the Fetch standard, section 3.2).

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};

use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::Table;
use crate::request::parse_authority;

/// Whom a route's answers may be shown to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<Allowed>,
    credentials: bool,
    expose: Option<HeaderValue>,
    /// What a preflight is told: methods, header fields, and for how long that holds.
    preflight: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed {
    Any,
    Exact(Box<str>),
    /// What stands before and behind the star, which is for names of hosts.
    Like(Box<str>, Box<str>),
}

impl Allowed {
    fn has(&self, origin: &str) -> bool {
        match self {
            Allowed::Any => true,
            Allowed::Exact(text) => **text == *origin,
            Allowed::Like(before, behind) => {
                let name = origin.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**behind));
                let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
                name.is_some_and(|name| !name.is_empty() && is_name(name))
            }
        }
    }
}

impl Cors {
    /// The fields of an answer to a request with this `Origin`; `is_preflight`: it asks whether another may be made.
    pub fn fields(&self, origin: Option<&[u8]>, is_preflight: bool) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = Vec::new();
        let is_for_all = self.origins.contains(&Allowed::Any);
        if !is_for_all {
            fields.push((header::VARY, HeaderValue::from_static("Origin")));
        }
        let allowed = origin.and_then(|origin| {
            let is_allowed = std::str::from_utf8(origin).is_ok_and(|origin| self.allows(origin));
            HeaderValue::from_bytes(origin).ok().filter(|_| is_allowed)
        });
        let allowed = if is_for_all { Some(HeaderValue::from_static("*")) } else { allowed };
        let Some(allowed) = allowed else { return fields };
        fields.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed));
        if self.credentials {
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        match is_preflight {
            true => fields.extend(self.preflight.iter().cloned()),
            false => fields.extend(self.expose.clone().map(|expose| (header::ACCESS_CONTROL_EXPOSE_HEADERS, expose))),
        }
        fields
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed.has(origin))
    }
}

/// Reads `cors = { origins = ["https://app.example.com"], methods = ["GET", "PUT"] }`.
pub(crate) fn read(table: &mut Table) -> Option<Cors> {
    let name = format!("cors of {}", table.name);
    let mut table = table.table("cors", &name, "cors = { origins = [\"https://app.example.com\"] }")?;
    let errors = table.errors;
    if !table.has("origins") {
        let hint = "add origins = [\"https://app.example.com\"], or [\"*\"] for all";
        errors.error_with_hint(table.place, format!("missing key \"origins\" in {name}"), hint);
    }
    let is_empty = table.has("origins") && table.lacks("origins");
    let origins = table.list::<String>("origins");
    if is_empty {
        errors.error(table.place_of("origins"), format!("\"origins\" in {name} is empty: no page may read anything"));
    }
    let credentials = table.get::<bool>("credentials");
    let mut allowed = Vec::new();
    for At { value, place } in origins {
        allowed.extend(errors.accept(place, origin(&value)));
    }
    if let Some(At { value: true, place }) = credentials
        && allowed.contains(&Allowed::Any)
    {
        errors.error(
            place,
            "browsers do not send credentials where every origin is allowed: name the origins".to_owned(),
        );
    }
    let with_credentials = credentials.as_ref().is_some_and(|at| at.value);
    let listed = |table: &mut Table, key, usual: &'static str| match table.optional_list::<String>(key) {
        Some(names) => {
            if let Some(star) = names.iter().find(|name| name.value == "*").filter(|_| with_credentials) {
                errors.error(
                    star.place,
                    format!("with credentials browsers take \"*\" in {key:?} for a name: name them"),
                );
            }
            list(names, key == "methods", errors)
        }
        None => Some(HeaderValue::from_static(usual)).filter(|usual| !usual.is_empty()),
    };
    let methods = listed(&mut table, "methods", "GET, HEAD, POST");
    let headers = listed(&mut table, "headers", "");
    let expose = listed(&mut table, "expose", "");
    let max_age: Duration = table.value("max_age").unwrap_or(Duration::from_secs(600));
    table.finish();
    let preflight = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
        (header::ACCESS_CONTROL_MAX_AGE, Some(max_age.as_secs().into())),
    ];
    let preflight = preflight.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Some(Cors { origins: allowed, credentials: credentials.is_some_and(|at| at.value), expose, preflight })
}

/// As browsers write it: scheme and host, and a port if it is not the scheme's own.
fn origin(text: &str) -> Result<Allowed, String> {
    let (scheme, host, usual) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(host), _) => ("https", host, 443),
        (_, Some(host)) => ("http", host, 80),
        _ if text == "*" => return Ok(Allowed::Any),
        _ => ("", "", 0),
    };
    // A star is for the first names of a host: in other places it would let hosts of others in.
    match parse_authority(host.strip_prefix("*.").unwrap_or(host)) {
        Some((name, Some(port))) if port == usual => {
            return Err(format!("{text:?}: browsers leave the usual port out: write \"{scheme}://{name}\""));
        }
        // One in capitals comes as another.
        Some((Cow::Borrowed(_), _)) if !host.ends_with('.') => {}
        _ if text == "null" => {}
        _ => {
            return Err(format!(
                "{text:?} is not an origin such as \"https://app.example.com\" or \"https://*.example.com\""
            ));
        }
    }
    Ok(match text.split_once('*') {
        Some((before, behind)) => Allowed::Like(before.into(), behind.into()),
        None => Allowed::Exact(text.into()),
    })
}

/// Names as one list.
fn list(names: Vec<At<String>>, are_methods: bool, errors: &Diagnostics) -> Option<HeaderValue> {
    for At { value, place } in &names {
        if are_methods && value.bytes().any(|byte| byte.is_ascii_lowercase()) {
            errors.error(*place, format!("{value:?}: methods are in capitals"));
        }
        let is_token = value == "*" || value.parse::<HeaderName>().is_ok();
        if !is_token {
            errors.error(*place, format!("{value:?} is not the name of a method or a header field"));
        }
    }
    let names: Vec<String> = names.into_iter().map(|name| name.value).collect();
    HeaderValue::from_str(&names.join(", ")).ok().filter(|_| !names.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn origins_are_compared_as_browsers_write_them() {
        for (allowed, origin, is_allowed) in [
            ("*", "https://a.example", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example", "https://a.example.evil", false),
            ("https://*.a.example", "https://b.a.example", true),
            ("https://*.a.example", "https://c.b.a.example", true),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://.a.example", false),
            ("https://*.a.example", "https://evil/.a.example", false),
            ("https://*.a.example", "https://evil:1.a.example", false),
            ("null", "null", true),
        ] {
            let found = super::origin(allowed).unwrap().has(origin);
            assert_eq!(found, is_allowed, "{allowed} {origin}");
        }
        for bad in [
            "a.example",
            "https://",
            "https://A.example",
            "https://a.example/",
            "https://*.*.example",
            "ftp://a",
            "https://a.example:443",
            "https://a.example*",
            "https://a.example:*",
            "https://-:[]",
            "https://...",
            "https://a:99999",
        ] {
            assert!(super::origin(bad).is_err(), "{bad}");
        }
    }
}
