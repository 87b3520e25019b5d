//! `rewrite` of a route: what its origins are asked for instead of what the client has asked for.

use regex::bytes::Regex;

use crate::config::diagnose::{At, Diagnostics, Place};
use crate::config::read::{Table, words};
use crate::pattern::{self, PathPattern, Pattern};
use crate::request::parse_authority;
use crate::template::{Form, Template};

use super::answer::Query;
use super::cache::{CacheMode, CacheRules};
use super::fields::FieldChanges;
use super::template;

/// What origins are asked for.
#[derive(Debug, Clone, Default)]
pub struct Rewrite {
    pub to: Option<To>,
    /// Parameters that do not go to the origin, those that are set among them.
    pub dropped: Vec<Pattern>,
    /// `/?` and the parameters that are set.
    pub set: Option<Template>,
    /// The `Host` that origins get.
    pub host: Option<String>,
    /// Whether what origins say of places is left as it is: see [`Rewrite::way_back`].
    pub keeps_location: bool,
    /// What origins' paths begin with, and what clients' do that lead to them, where all else is the same.
    pub way_back: Option<(Box<str>, Box<str>)>,
}

/// The URL that is made of a request's path.
#[derive(Debug, Clone)]
pub struct To {
    /// What gives the captures; `None`: the stars of the route's path. A path that does not match stays as it is.
    pub matches: Option<Regex>,
    pub template: Template,
    /// Whether the request's query is put behind it.
    pub keeps_query: bool,
}

/// What becomes of the places that an origin's answer leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Location {
    Map,
    Keep,
}

words!(Location { "map" => Location::Map, "keep" => Location::Keep });

/// Reads `rewrite = { to = "/v2/{1}", drop_query = ["utm_*"], host = "app.internal" }`.
pub(crate) fn read(table: &mut Table, path: Option<&PathPattern>) -> Option<Rewrite> {
    let name = format!("rewrite of {}", table.name);
    let mut table = table.table("rewrite", &name, "rewrite = { to = \"/new/{1}\" }")?;
    let errors = table.errors;
    let to = read_to(&mut table, path);
    let mut dropped: Vec<Pattern> = errors.parse_all(table.list("drop_query"));
    let set = read_set(&mut table, to.as_ref(), path, &mut dropped);
    let host = table.get::<String>("host").and_then(|At { value, place }| {
        let is_host = parse_authority(&value).is_some();
        let why = format!("{value:?} is not a host such as \"app.internal\", perhaps with a port");
        errors.accept(place, is_host.then_some(value).ok_or(why))
    });
    let keeps_location = table.get_or("location", Location::Map) == Location::Keep;
    table.finish();
    let way_back = path.zip(to.as_ref()).and_then(|(path, to)| way_back(path, to));
    Some(Rewrite { to, dropped, set, host, keeps_location, way_back })
}

fn read_to(table: &mut Table, path: Option<&PathPattern>) -> Option<To> {
    let (errors, name) = (table.errors, table.name.clone());
    let (to, regex, query) = (table.get::<String>("to"), table.get::<String>("match"), table.get::<Query>("query"));
    let Some(to) = to else {
        let places = [("match", regex.map(|regex| regex.place)), ("query", query.map(|query| query.place))];
        for (key, place) in places {
            place
                .into_iter()
                .for_each(|place| errors.error(place, format!("{key:?} in {name} has no effect without \"to\"")));
        }
        return None;
    };
    let matches = match regex {
        None => None,
        Some(At { value, place }) => {
            let built = pattern::regex(&value).map_err(|why| format!("\"match\" in {name}: {why}"));
            Some(errors.accept(place, built)?)
        }
    };
    let captures = matches.as_ref().map_or(path.map_or(0, PathPattern::stars), |regex| regex.captures_len() - 1);
    let parsed = template::parse(&errors.as_template(&to), Form::Path, captures, to.place, errors);
    let template = errors.accept(to.place, parsed.map_err(|why| format!("\"to\" in {name}: {why}")))?;
    let keeps_query = query.map_or(!template.has_query(), |query| query.value == Query::Keep);
    Some(To { matches, template, keeps_query })
}

/// The parameters that are set, as a template. What the client says of them is dropped.
fn read_set(
    table: &mut Table,
    to: Option<&To>,
    path: Option<&PathPattern>,
    dropped: &mut Vec<Pattern>,
) -> Option<Template> {
    let errors = table.errors;
    let captures = match to.and_then(|to| to.matches.as_ref()) {
        Some(_) => 0, // of a path that does not match it there are none
        None => path.map_or(0, PathPattern::stars),
    };
    let parameters = table.table("set_query", &format!("set_query of {}", table.name), "set_query = { v = \"2\" }")?;
    let mut all = String::new();
    for (name, value) in parameters.free_form::<String>() {
        let is_name =
            !name.value.is_empty() && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        if !is_name {
            errors.error(name.place, format!("{:?} is not the name of a parameter", name.value));
            continue;
        }
        let written = errors.as_template(&value);
        let part = format!("{}{}={written}", if all.is_empty() { "/?" } else { "&" }, name.value);
        let alone = format!("/?{}={written}", name.value);
        let checked = template::parse(&alone, Form::Path, captures, value.place, errors);
        let checked = checked.map_err(|why| format!("{}: {why}", name.value));
        let is_one = !value.value.contains('&');
        let checked = checked.and_then(|_| is_one.then_some(()).ok_or("an & in a value is written %26".to_owned()));
        if errors.accept(value.place, checked).is_some() {
            dropped.extend(name.value.parse::<Pattern>());
            all.push_str(&part);
        }
    }
    Template::parse(&all, Form::Path, captures).ok().filter(|_| !all.is_empty())
}

/// `/api/*` to `/v2/{1}`: what begins with `/v2/` is reached by `/api/`.
fn way_back(path: &PathPattern, to: &To) -> Option<(Box<str>, Box<str>)> {
    let public = path.as_str().strip_suffix('*').filter(|prefix| prefix.ends_with('/') && !prefix.contains('*'))?;
    let own = to.template.before_capture().filter(|prefix| prefix.ends_with('/') && !prefix.contains('?'))?;
    (to.matches.is_none() && path.stars() == 1).then(|| (own.into(), public.into()))
}

/// Reports what origins are told that no key tells apart: of a route that caches, an answer made for one visitor would be
/// shown to others.
pub(crate) fn check_keyed(
    (name, place): (&str, Place),
    (path, rules): (&PathPattern, &CacheRules),
    rewrite: Option<&Rewrite>,
    request: Option<&FieldChanges>,
    errors: &Diagnostics,
) {
    if rules.mode == CacheMode::Off {
        return;
    }
    let unkeyed =
        |template: &Template| template.values().find_map(|value| Some((value.to_string(), rules.key.lacks(value)?)));
    if let Some(rewrite) = rewrite {
        for (place_of, fix) in rewrite.templates().filter_map(unkeyed) {
            let message = format!(
                "{{{place_of}}} in \"rewrite\" of {name} is no part of the key: one visitor would get another's page"
            );
            errors.error_with_hint(place, message, fix);
        }
        let is_case_bound = |to: &To| to.matches.is_some() || path.stars() > 1;
        if rules.key.ignore_path_case && rewrite.to.as_ref().is_some_and(is_case_bound) {
            let message =
                format!("\"rewrite\" of {name} depends on the case of letters that \"ignore_path_case\" ignores");
            errors.error_with_hint(place, message, "use a path with one *, and {1} in \"to\"");
        }
    }
    for (field, template) in request.iter().flat_map(|request| &request.made) {
        if let Some((place_of, fix)) = unkeyed(template) {
            let message = format!(
                "{{{place_of}}} in \"request\" of {name} is no part of the key: what the origin answers by {field} is shown to others"
            );
            errors.warn(place, message, fix);
        }
    }
}

impl Rewrite {
    fn templates(&self) -> impl Iterator<Item = &Template> {
        self.to.iter().map(|to| &to.template).chain(&self.set)
    }
}
