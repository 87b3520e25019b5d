//! `allow` and `deny` of a site or a route: whose requests are admitted, by address and by where that belongs.

use std::net::IpAddr;

use crate::address::{IpRange, Ranges};
use crate::config::diagnose::{At, Diagnostics, Need, Place};
use crate::config::read::Table;
use crate::geoip::{check_country, is_country};
use crate::request::RequestView;

use super::file;

/// Whose requests are admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `None`: all that are not denied.
    allow: Option<List>,
    deny: List,
}

/// Clients, by their addresses and by where these belong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct List {
    ranges: Ranges,
    countries: Vec<Box<str>>,
    /// Autonomous systems.
    asns: Vec<u32>,
}

impl Access {
    /// Whether a request is. What is denied is so whatever is allowed. What the node asks itself, it may.
    pub fn admits(&self, request: &RequestView<'_>) -> bool {
        self.refuses(request).is_none()
    }

    /// By which of the lists the client of a request is kept out: `deny` has it, or `allow` does not.
    pub fn refuses(&self, request: &RequestView<'_>) -> Option<&'static str> {
        if request.client.is_unspecified() {
            return None;
        }
        let is_allowed = || self.allow.as_ref().is_none_or(|allow| allow.contains(request));
        match self.deny.contains(request) {
            true => Some("deny"),
            false => (!is_allowed()).then_some("allow"),
        }
    }
}

impl Access {
    /// Whether nobody can be, as where nginx's `allow X; deny all;` is written here.
    fn admits_nobody(&self) -> bool {
        let Some(allow) = &self.allow else { return false };
        let by_address_alone = allow.countries.is_empty() && allow.asns.is_empty() && !allow.ranges.is_empty();
        by_address_alone && self.deny.ranges.cover(&allow.ranges)
    }
}

impl List {
    /// Whether the client of a request is one of them. One whose country is not known is of none.
    fn contains(&self, request: &RequestView<'_>) -> bool {
        self.ranges.contains(request.client)
            || !self.countries.is_empty()
                && request.country().is_some_and(|own| self.countries.iter().any(|country| **country == *own))
            || !self.asns.is_empty() && request.asn().is_some_and(|own| self.asns.contains(&own))
    }
}

/// `None`: all are admitted.
pub(crate) fn read(table: &mut Table) -> Option<Access> {
    let is_limited = table.has("allow");
    let allow = Some(list(table, "allow")).filter(|_| is_limited);
    let access = Access { allow, deny: list(table, "deny") };
    if is_limited && table.errors.is_empty() && access.allow == Some(List::default()) {
        let message = format!("\"allow\" in {} has nobody in it: every request gets 403", table.name);
        table.errors.warn(table.place_of("allow"), message, "name who is admitted, or leave \"allow\" out");
    }
    if access.admits_nobody() {
        table.errors.error_with_hint(
            table.place_of("deny"),
            format!("nobody is admitted: \"deny\" has all whom \"allow\" has, and goes first, in {}", table.name),
            "leave \"deny\" out: who is not in \"allow\" is refused anyway",
        );
    }
    (access != Access::default()).then_some(access)
}

/// A list of ranges, of files with ranges, of countries and of autonomous systems.
fn list(table: &mut Table, key: &'static str) -> List {
    let (errors, name) = (table.errors, table.name.clone());
    let (mut all, mut list) = (Vec::new(), List::default());
    for value in table.items(key) {
        match (value.str(), Table::of(value, &format!("an entry in {key:?} of {name}"), errors)) {
            (Some(text), _) => all.extend(range(text, value.place, errors)),
            (None, Some(entry)) => all.extend(belonging(entry, &mut list, errors)),
            (None, None) => errors.error_with_hint(
                value.place,
                format!("wrong value in {key:?} in {name}: expected a range of addresses or a table"),
                "write \"10.0.0.0/8\", { file = \"ranges.txt\" }, { country = [\"DE\"] } or { asn = [64496] }",
            ),
        }
    }
    list.ranges = Ranges::new(all);
    list
}

fn range(text: &str, place: Place, errors: &Diagnostics) -> Option<IpRange> {
    let why = match text.parse() {
        Ok(range) => return Some(range),
        Err(why) => why,
    };
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    let is_word = text.contains(|c: char| c.is_ascii_alphabetic()) && !text.split('/').next().is_some_and(is_address);
    if text == "all" || text == "*" || text == "any" {
        errors.error_with_hint(
            place,
            why,
            "everybody is \"0.0.0.0/0\" and \"::/0\"; with \"allow\" all others are refused anyway",
        );
    } else if is_country(text) {
        errors.error_with_hint(place, why, format!("a country is written {{ country = [{text:?}] }}"));
    } else if is_word {
        errors.error_with_hint(place, why, format!("a file of ranges is written {{ file = {text:?} }}"));
    } else {
        errors.error(place, why);
    }
    None
}

/// Reads an entry that is no range: a file, whose ranges it gives, or where addresses belong.
fn belonging(mut entry: Table, list: &mut List, errors: &Diagnostics) -> Vec<IpRange> {
    let mut ranges = Vec::new();
    let place = entry.place;
    // Several in one would be read as if all of them had to hold.
    if ["file", "country", "asn"].iter().filter(|key| entry.has(key)).count() != 1 {
        let message = format!("{} must have one of \"file\", \"country\" and \"asn\"", entry.name);
        errors.error_with_hint(place, message, "write an entry for each: [{ country = [\"DE\"] }, { asn = [64496] }]");
    }
    if let Some(file) = entry.get::<String>("file") {
        ranges = from_file(&file, errors);
    }
    let (countries, asns) = (entry.optional_list::<String>("country"), entry.optional_list::<u32>("asn"));
    if countries.as_ref().is_some_and(Vec::is_empty) || asns.as_ref().is_some_and(Vec::is_empty) {
        errors.error(place, format!("{} names nobody", entry.name));
    }
    for At { value: country, place } in countries.into_iter().flatten() {
        errors.need(Need::CountryFile, place);
        let checked = check_country(&country).map_err(|why| format!("{country:?} is not a country: {why}"));
        list.countries.extend(errors.accept(place, checked).map(|()| country.into_boxed_str()));
    }
    for At { value: asn, place } in asns.into_iter().flatten() {
        errors.need(Need::AsnFile, place);
        list.asns.push(asn);
    }
    entry.finish();
    ranges
}

/// The ranges of a file, one a line; what follows a # is a remark. A change of the file is a reload.
fn from_file(file: &At<String>, errors: &Diagnostics) -> Vec<IpRange> {
    let Some((path, text)) = file::text(file, errors) else { return Vec::new() };
    let mut ranges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        match text.parse() {
            Ok(range) => ranges.push(range),
            Err(why) => {
                let why: String = why;
                let why = errors.quoting(why);
                errors.error(file.place, format!("{}:{}: {why}", path.display(), number + 1));
                break; // one tells which kind of file it is
            }
        }
    }
    ranges
}
