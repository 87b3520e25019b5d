//! `response` and `request` of a site or a route: what is changed in the header fields of answers when they are sent, and in
//! those of requests on their way to an origin.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};

use crate::config::diagnose::{At, Diagnostics, Place};
use crate::config::read::Table;
use crate::pattern::Pattern;
use crate::template::{Form, Template};

use super::cors::Cors;
use super::template;

/// Changes of the fields of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldChanges {
    /// Fields that are not sent as they came: those that are removed, and those that are set. In lower case.
    dropped: Vec<Pattern>,
    /// What is sent instead, or beside.
    pub fixed: Vec<(HeaderName, HeaderValue)>,
    /// The same where it depends on the request.
    pub made: Vec<(HeaderName, Template)>,
    /// `Strict-Transport-Security` of what goes by TLS.
    pub hsts: Option<HeaderValue>,
    /// Who may read the answers.
    pub cors: Option<Cors>,
    /// Whether what is safe is said, where nothing else is.
    secure: bool,
}

impl FieldChanges {
    /// Whether a field of this name, in lower case, is not sent as it came.
    pub fn drops(&self, name: &str) -> bool {
        self.dropped.iter().any(|pattern| pattern.matches(name))
    }

    /// What goes, and what is sent instead or beside, by name, in an answer by HTTPS or not.
    pub fn names(&self, is_https: bool) -> (Vec<String>, Vec<&str>) {
        let fixed = self.fixed.iter().map(|(name, _)| name.as_str());
        let made = self.made.iter().map(|(name, _)| name.as_str());
        let hsts = self.hsts.iter().filter(|_| is_https).map(|_| "strict-transport-security");
        let cors = self.cors.iter().map(|_| "access-control-allow-origin");
        (self.dropped.iter().map(Pattern::to_string).collect(), fixed.chain(made).chain(hsts).chain(cors).collect())
    }

    /// Whether a field like that is set or added.
    pub(super) fn says(&self, is: impl Fn(&HeaderName) -> bool) -> bool {
        self.fixed.iter().map(|(name, _)| name).chain(self.made.iter().map(|(name, _)| name)).any(is)
    }

    /// Has a field said by the node alone.
    pub(super) fn say_hsts(&mut self, value: Option<HeaderValue>) {
        self.dropped.extend(value.iter().filter_map(|_| "strict-transport-security".parse::<Pattern>().ok()));
        self.hsts = value;
    }

    /// Has the fields of the Fetch standard said by the node alone.
    pub(super) fn say_cors(&mut self, cors: Option<Cors>) {
        self.dropped.extend(cors.iter().filter_map(|_| "access-control-*".parse::<Pattern>().ok()));
        self.cors = cors;
    }

    /// What browsers are told for safety's sake, where nothing else is said.
    fn add_secure(&mut self) {
        for (name, value) in SECURE {
            let name = HeaderName::from_static(name);
            if !self.drops(name.as_str()) && !self.says(|own| *own == name) {
                self.dropped.extend(name.as_str().parse::<Pattern>());
                self.fixed.push((name, HeaderValue::from_static(value)));
            }
        }
    }

    /// These, and what others have beside: of a field that both set, these are sent.
    fn over(mut self, others: &FieldChanges) -> Self {
        let own = std::mem::take(&mut self.dropped);
        let is_left = |name: &HeaderName| !own.iter().any(|pattern| pattern.matches(name.as_str()));
        self.fixed.extend(others.fixed.iter().filter(|(name, _)| is_left(name)).cloned());
        self.made.extend(others.made.iter().filter(|(name, _)| is_left(name)).cloned());
        self.hsts = others.hsts.clone(); // only sites have one
        self.dropped = others.dropped.iter().cloned().chain(own).collect();
        self
    }
}

/// Fields of `secure`: browsers believe the stated type, tell other sites nothing but the origin, and show the page in no
/// frame of another site.
const SECURE: [(&str, &str); 3] = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("x-frame-options", "SAMEORIGIN"),
];

/// Whose fields are changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Message {
    Request,
    Response,
}

impl Message {
    fn key(self) -> &'static str {
        match self {
            Message::Request => "request",
            Message::Response => "response",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Message::Request => "request = { set = { X-Tenant = \"shop\" } }",
            Message::Response => "response = { remove = [\"Server\"] }",
        }
    }

    /// Fields that frame it, or that the node itself says.
    fn reserved(self) -> &'static [&'static str] {
        match self {
            Message::Request => RESERVED_OF_REQUESTS,
            Message::Response => RESERVED_OF_RESPONSES,
        }
    }
}

const RESERVED_OF_RESPONSES: &[&str] = &[
    "age",
    "cache-status",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "date",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "proxy-connection",
];

/// What is conditional, or of a range, is so by what is stored; `CDN-Loop` and `Via` end what goes in circles.
const RESERVED_OF_REQUESTS: &[&str] = &[
    "cdn-loop",
    "connection",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Reads `response = { set = { X-Frame-Options = "DENY" }, remove = ["Server"] }`, or `request` likewise; `captures`: stars of
/// the route's path.
pub(crate) fn read(table: &mut Table, of: Message, captures: usize) -> FieldChanges {
    let name = format!("{} of {}", of.key(), table.name);
    let Some(mut table) = table.table(of.key(), &name, of.example()) else { return FieldChanges::default() };
    let errors = table.errors;
    let mut changes = FieldChanges::default();
    for (key, replaces) in [("set", true), ("add", false)] {
        let Some(fields) = table.table(key, &format!("{key} of {name}"), "set = { X-Frame-Options = \"DENY\" }") else {
            continue;
        };
        for (field, value) in fields.free_form::<String>() {
            let place = field.place;
            let Some(field) = self::name(&field, of.reserved(), errors) else { continue };
            if replaces {
                // To CGI and its like an underscore is a hyphen.
                let other = field.as_str().replace('_', "-");
                let names = [Some(field.as_str()), (other != field.as_str()).then_some(&*other)];
                changes.dropped.extend(names.into_iter().flatten().filter_map(|name| name.parse::<Pattern>().ok()));
                if changes
                    .fixed
                    .iter()
                    .map(|(name, _)| name)
                    .chain(changes.made.iter().map(|(name, _)| name))
                    .any(|other| *other == field)
                {
                    errors.error(place, format!("{field} is set twice in {name}"));
                }
            }
            add(&mut changes, field, &value, captures, errors);
        }
    }
    for name in table.list::<String>("remove") {
        let pattern = errors.accept(name.place, name.value.to_ascii_lowercase().parse::<Pattern>());
        let taken = pattern.as_ref().and_then(|pattern| of.reserved().iter().find(|name| pattern.matches(name)));
        match taken {
            Some(taken) => {
                errors.error(name.place, format!("{:?} would remove {taken}, which is the node's to say", name.value))
            }
            None => changes.dropped.extend(pattern),
        }
    }
    if matches!(of, Message::Response) {
        changes.secure = table.get_or("secure", false);
    }
    table.finish();
    changes
}

/// The name of a field that operators may set: none of those that are the node's to say.
pub(super) fn name(name: &At<String>, reserved: &[&str], errors: &Diagnostics) -> Option<HeaderName> {
    let read = name.value.parse().map_err(|_| format!("{:?} is not the name of a header field", name.value));
    let read = read.and_then(|field: HeaderName| match reserved.contains(&field.as_str()) {
        true if field == header::HOST => Err("host is set by rewrite = { host = \"...\" }".to_owned()),
        true => Err(format!("{field} is the node's to say")),
        false => Ok(field),
    });
    errors.accept(name.place, read)
}

fn add(changes: &mut FieldChanges, name: HeaderName, value: &At<String>, captures: usize, errors: &Diagnostics) {
    let form = if [header::COOKIE, header::SET_COOKIE].contains(&name) { Form::Cookie } else { Form::Field };
    let parsed = template::parse(&errors.as_template(value), form, captures, value.place, errors);
    let Some(template) = errors.accept(value.place, parsed.map_err(|why| format!("{name}: {why}"))) else {
        return;
    };
    match template.as_literal().map(str::parse) {
        Some(Ok(fixed)) => changes.fixed.push((name, fixed)),
        Some(Err(_)) => errors.error(value.place, format!("{:?} is not the value of a header field", value.value)),
        None => changes.made.push((name, template)),
    }
}

/// Reports fields that something else says.
pub(crate) fn check_said(
    changes: &FieldChanges,
    says_hsts: bool,
    says_cors: bool,
    at: (&str, Place),
    errors: &Diagnostics,
) {
    let (name, place) = at;
    if says_hsts && changes.says(|name| *name == header::STRICT_TRANSPORT_SECURITY) {
        let message = format!("\"response\" of {name} has Strict-Transport-Security, which \"hsts\" of the site says");
        errors.error_with_hint(place, message, "leave one of them out");
    }
    if says_cors && changes.says(|name| name.as_str().starts_with("access-control-")) {
        let message = format!("\"response\" of {name} has Access-Control-*, which its \"cors\" says");
        errors.error_with_hint(place, message, "leave one of them out");
    }
}

/// What a route changes with what its site does; `None`: nothing.
pub(crate) fn together(route: FieldChanges, site: &FieldChanges) -> Option<Arc<FieldChanges>> {
    let secure = route.secure || site.secure;
    let mut all = route.over(site);
    if secure {
        all.add_secure();
    }
    (all != FieldChanges::default()).then(|| Arc::new(all))
}
