//! What the templates of a route make of a request.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, header};

use crate::clock::Timestamp;
use crate::config::model::{FieldChanges, Https, Redirect, RewriteTo as To, Route, Site};
use crate::pattern::Pattern;
use crate::request::{RequestView, Scheme, merge_slashes};
use crate::template::Template;

use super::facts::RequestFacts;

/// Renders the templates of a route for a request.
pub(crate) struct Renderer<'a> {
    request: &'a RequestView<'a>,
    /// With its slashes merged.
    path: Cow<'a, str>,
    route: Option<&'a Route>,
    now: Timestamp,
}

impl<'a> Renderer<'a> {
    /// `route`: without one there are no captures.
    pub(crate) fn new(request: &'a RequestView<'a>, route: Option<&'a Route>, now: Timestamp) -> Self {
        Renderer { request, path: merge_slashes(request.path), route, now }
    }

    /// What the stars of the route's path stand for, if a template asks.
    fn captures_for(&self, template: &Template) -> Vec<&str> {
        if !template.needs_captures() {
            return Vec::new();
        }
        self.route.map(|route| route.path.captures(&self.path)).unwrap_or_default()
    }

    fn render(&self, template: &Template, captures: &[&str]) -> String {
        let facts = RequestFacts { request: self.request, path: &self.path, now: self.now, response: None };
        template.render(&facts, captures)
    }

    /// Where a redirect leads. Plans have none that leads nowhere.
    pub(crate) fn location(&self, redirect: &Redirect) -> String {
        let Some(to) = redirect.to(&self.path) else { return "/".to_owned() };
        let mut location = self.render(to, &self.captures_for(to));
        if let Some(query) = self.request.query.filter(|_| redirect.keeps_query(to)) {
            let fragment = location.find('#').map(|at| location.split_off(at)).unwrap_or_default();
            push_query(&mut location, query);
            location.push_str(&fragment);
        }
        location
    }

    /// Where a site is served that is not served here.
    pub(crate) fn elsewhere(&self, site: &Site) -> String {
        let request = self.request;
        let moves = site.https == Https::Redirect && request.scheme == Scheme::Http;
        let scheme = if moves { Scheme::Https } else { request.scheme };
        let host = site.canonical_host.as_deref().unwrap_or(request.host);
        // The port of plain requests is not that of HTTPS.
        let port = if moves { Some(site.https_port).filter(|port| *port != 443) } else { site.keyed_port(request) };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let mut location = format!("{}://{host}{port}{}", scheme.as_str(), request.path);
        if let Some(query) = request.query {
            push_query(&mut location, query);
        }
        location
    }

    /// The fields that are set and depend on the request.
    pub(crate) fn fields(&self, changes: &FieldChanges) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = self.made(changes);
        if let Some(hsts) = changes.hsts.as_ref().filter(|_| self.request.scheme == Scheme::Https) {
            fields.push((header::STRICT_TRANSPORT_SECURITY, hsts.clone()));
        }
        if let Some(cors) = &changes.cors {
            let is_preflight = super::asked_by_preflight(self.request).is_some();
            fields.extend(cors.fields(self.request.fields.get(&header::ORIGIN), is_preflight));
        }
        fields
    }

    fn made(&self, changes: &FieldChanges) -> Vec<(HeaderName, HeaderValue)> {
        if changes.made.is_empty() {
            return Vec::new();
        }
        let made = changes.made.iter().filter_map(|(name, value)| {
            let rendered = self.render(value, &self.captures_for(value));
            Some((name.clone(), HeaderValue::try_from(rendered).ok()?))
        });
        made.collect()
    }

    /// Path and query as origins are asked for them.
    pub(crate) fn target(&self) -> String {
        let Some(rewrite) = self.route.and_then(|route| route.rewrite.as_ref()) else {
            return self.request.path_and_query();
        };
        let rewritten = rewrite.to.as_ref().and_then(|to| Some((self.rewritten(to)?, to.keeps_query)));
        let (mut target, keeps_query) = rewritten.unwrap_or_else(|| (self.request.path.to_owned(), true));
        let query = self.request.query.filter(|_| keeps_query);
        if let Some(query) = query.and_then(|query| without(query, &rewrite.dropped)) {
            push_query(&mut target, &query);
        }
        if let Some(set) = &rewrite.set {
            let set = self.render(set, &self.captures_for(set));
            push_query(&mut target, set.split_once('?').map_or("", |(_, set)| set));
        }
        target
    }

    /// `None`: the path is none that is rewritten.
    fn rewritten(&self, to: &To) -> Option<String> {
        let Some(regex) = &to.matches else { return Some(self.render(&to.template, &self.captures_for(&to.template))) };
        let found = regex.captures(self.path.as_bytes())?;
        let text = |group: Option<regex::bytes::Match<'_>>| group.and_then(|group| self.path.get(group.range()));
        let groups: Vec<&str> = found.iter().skip(1).map(|group| text(group).unwrap_or_default()).collect();
        Some(self.render(&to.template, &groups))
    }
}

fn push_query(url: &mut String, query: &str) {
    url.push(if url.contains('?') { '&' } else { '?' });
    url.push_str(query);
}

/// A query without some parameters. `None`: nothing is left.
fn without(query: &str, dropped: &[Pattern]) -> Option<String> {
    if dropped.is_empty() {
        return Some(query.to_owned());
    }
    let name = |parameter: &str| parameter.split('=').next().unwrap_or_default().to_owned();
    let is_kept = |parameter: &&str| !dropped.iter().any(|pattern| pattern.matches(decoded(&name(parameter))));
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// A name as origins read it.
fn decoded(name: &str) -> String {
    form_urlencoded::parse(name.as_bytes()).next().map(|(name, _)| name.into_owned()).unwrap_or_default()
}
