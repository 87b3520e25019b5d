//! `redirect` and `respond` of a route: answers that need no origin.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::{Table, words};
use crate::pattern::PathPattern;
use crate::request::compared;
use crate::template::{Form, Template};

use super::{fields, file, template};

/// An answer of the node's own.
#[derive(Debug, Clone)]
pub enum FixedAnswer {
    Redirect(Redirect),
    Respond(Respond),
}

#[derive(Debug, Clone)]
pub struct Redirect {
    pub status: StatusCode,
    to: To,
    query: Option<Query>,
}

/// Where a redirect leads.
#[derive(Debug, Clone)]
enum To {
    One(Template),
    /// By the request's path; other paths are none of the route's.
    Map(Arc<HashMap<Box<str>, Template>>),
}

impl Redirect {
    /// Where it leads from a path with its slashes merged; `None`: nowhere.
    pub fn to(&self, path: &str) -> Option<&Template> {
        match &self.to {
            To::One(to) => Some(to),
            To::Map(map) => map.get(path),
        }
    }

    /// Whether it leads somewhere from every path.
    pub fn is_for_all(&self) -> bool {
        matches!(self.to, To::One(_))
    }

    /// Whether the request's query is put behind where it leads.
    pub fn keeps_query(&self, to: &Template) -> bool {
        self.query.map_or(!to.has_query(), |query| query == Query::Keep)
    }
}

#[derive(Debug, Clone)]
pub struct Respond {
    pub status: StatusCode,
    pub content_type: HeaderValue,
    pub fields: Vec<(HeaderName, HeaderValue)>,
    pub body: bytes::Bytes,
}

/// What becomes of a request's query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Query {
    Keep,
    Drop,
}

words!(Query { "keep" => Query::Keep, "drop" => Query::Drop });

/// Reads `redirect = { to = "https://{host}/new/{1}", status = 308 }`, or with `map = "moved.txt"` instead of `to`.
pub(crate) fn redirect(mut table: Table, path: Option<&PathPattern>) -> Option<Redirect> {
    let errors = table.errors;
    let captures = path.map_or(0, PathPattern::stars);
    let map = table.get::<String>("map");
    let to = match map {
        Some(file) => {
            if table.has("to") {
                errors.error(file.place, format!("\"to\" and \"map\" in {}: give one of them", table.name));
                let _ = table.get::<String>("to");
            }
            read_map(&file, captures, errors).map(|map| To::Map(map.into()))
        }
        None => table.require::<String>("to").and_then(|to| {
            let parsed = template::parse(&errors.as_template(&to), Form::Url, captures, to.place, errors);
            errors.accept(to.place, parsed.map_err(|why| format!("\"to\" in {}: {why}", table.name))).map(To::One)
        }),
    };
    let mut status = 308;
    let is_redirect = |status: &u16| matches!(status, 301 | 302 | 303 | 307 | 308);
    table.set_if("status", &mut status, is_redirect, "must be 301, 302, 303, 307 or 308");
    let query = table.value::<Query>("query");
    table.finish();
    Some(Redirect { status: StatusCode::from_u16(status).ok()?, to: to?, query })
}

/// Reads a file of paths and where they lead: `/old /new` a line; what follows a # at the beginning of a word is a remark.
fn read_map(file: &At<String>, captures: usize, errors: &Diagnostics) -> Option<HashMap<Box<str>, Template>> {
    let (path, text) = file::text(file, errors)?;
    let mut map = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        let read = match words[..] {
            [] => continue,
            [from, to] => entry(from, to).and_then(|from| {
                let parsed = template::parse(to, Form::Url, captures, file.place, errors);
                Ok((from, parsed.map_err(|why| format!("{to:?}: {why}"))?))
            }),
            _ => Err(format!("expected two words, a path and where it leads, not {}", words.len())),
        };
        let place = format!("{}:{}", path.display(), number + 1);
        let read = read.map_err(|why| format!("{place}: {}", errors.quoting(why)));
        let (from, to) = errors.accept(file.place, read)?;
        if map.insert(from.into(), to).is_some() {
            errors.error(file.place, format!("{place}: {}", errors.quoting(format!("{from:?} is given again"))));
        }
    }
    Some(map)
}

/// The path of a line, if it is one and what follows can be where it leads.
fn entry<'t>(from: &'t str, to: &str) -> Result<&'t str, String> {
    if to.ends_with(';') {
        return Err(format!("{to:?} ends with a semicolon: a line is a path and where it leads, and nothing more"));
    }
    if from.contains('*') {
        return Err(format!(
            "{from:?} has a star: a map has whole paths; what is like each other is a route with a star"
        ));
    }
    if !from.starts_with('/') {
        return Err(format!("{from:?} is no path: it begins with a /"));
    }
    let compared = compared(from)?;
    if compared != from {
        return Err(format!("{from:?} matches nothing: paths are compared in another form; write {compared:?}"));
    }
    Ok(from)
}

/// Reads `respond = { status = 200, body = "ok", content_type = "text/plain" }`.
pub(crate) fn respond(mut table: Table) -> Option<Respond> {
    let errors = table.errors;
    let mut status = 200;
    table.set_if(
        "status",
        &mut status,
        |status| (200..=599).contains(status) && ![205, 304, 444].contains(status),
        "must be from 200 to 599, and not 205 or 304, which have no body; nor 444, by which nginx answers nothing",
    );
    let content_type = table.get::<String>("content_type");
    let (body, file) = (table.get::<String>("body"), table.get::<String>("file"));
    if let (Some(_), Some(file)) = (&body, &file) {
        errors.error(file.place, format!("\"body\" and \"file\" in {}: give one of them", table.name));
    }
    if let (204, Some(body)) = (status, body.as_ref().or(file.as_ref())) {
        errors.error(body.place, format!("an answer with status 204 has no body, in {}", table.name));
    }
    let body = match (body, file) {
        (Some(body), _) => body.value.into_bytes(),
        (None, Some(file)) => file::body(&file, errors).map(|text| text.as_bytes().to_vec()).unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    let own = match table.table("fields", "fields", "fields = { Retry-After = \"60\" }") {
        Some(fields) => fields.free_form::<String>(),
        None => Vec::new(),
    };
    let field = |(name, value): (At<String>, At<String>)| {
        let name = fields::name(&name, &RESERVED, errors)?;
        if Template::parse(&value.value, Form::Field, 0).is_ok_and(|template| template.values().next().is_some()) {
            let hint = "set it by \"response\" of the route, which has placeholders";
            errors.warn(value.place, format!("{name} is sent as it is written, braces and all"), hint);
        }
        let read = value.value.parse().map_err(|_| format!("{:?} is not the value of a header field", value.value));
        Some((name, errors.accept(value.place, read)?))
    };
    let fields = own.into_iter().filter_map(field).collect();
    let (content_type, place) = match content_type {
        Some(At { value, place }) => (value, place),
        None => ("text/plain; charset=utf-8".to_owned(), table.place),
    };
    table.finish();
    let content_type =
        errors.accept(place, content_type.parse().map_err(|_| format!("{content_type:?} is not a media type")))?;
    Some(Respond { status: StatusCode::from_u16(status).ok()?, content_type, fields, body: body.into() })
}

/// Fields that frame the answer or belong to its connection.
const RESERVED: [&str; 15] = [
    "age",
    "cache-status",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
