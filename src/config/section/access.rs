//! `allow` and `deny` of a site or a route: whose requests are admitted, by address.

use std::net::IpAddr;

use crate::address::{IpRange, Ranges};
use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::Table;

use super::file;

/// Whose requests are admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `None`: all that are not denied.
    allow: Option<Ranges>,
    deny: Ranges,
}

impl Access {
    /// Whether a client's requests are. What is denied is so whatever is allowed. What the node asks itself, it may.
    pub fn admits(&self, client: IpAddr) -> bool {
        self.refuses(client).is_none()
    }

    /// By which of the lists a client is kept out: `deny` has it, or `allow` does not.
    pub fn refuses(&self, client: IpAddr) -> Option<&'static str> {
        if client.is_unspecified() {
            return None;
        }
        let is_allowed = || self.allow.as_ref().is_none_or(|allow| allow.contains(client));
        match self.deny.contains(client) {
            true => Some("deny"),
            false => (!is_allowed()).then_some("allow"),
        }
    }
}

/// `None`: all are admitted.
pub(crate) fn read(table: &mut Table) -> Option<Access> {
    let is_limited = table.has("allow");
    let allow = Some(ranges(table, "allow")).filter(|_| is_limited);
    let access = Access { allow, deny: ranges(table, "deny") };
    (access != Access::default()).then_some(access)
}

/// A list of ranges, and of files with ranges.
fn ranges(table: &mut Table, key: &'static str) -> Ranges {
    let (errors, name) = (table.errors, table.name.clone());
    let mut all = Vec::new();
    for value in table.items(key) {
        match (value.str(), Table::of(value, &format!("a file in {key:?} of {name}"), errors)) {
            (Some(text), _) => match text.parse::<IpRange>() {
                Ok(range) => all.push(range),
                Err(why)
                    if text.contains(|c: char| c.is_ascii_alphabetic())
                        && text.split('/').next().is_none_or(|address| address.parse::<IpAddr>().is_err()) =>
                {
                    errors.error_with_hint(
                        value.place,
                        why,
                        format!("a file of ranges is written {{ file = {text:?} }}"),
                    );
                }
                Err(why) => errors.error(value.place, why),
            },
            (None, Some(mut table)) => {
                let file = table.require::<String>("file");
                table.finish();
                all.extend(file.iter().flat_map(|file| from_file(file, errors)));
            }
            (None, None) => errors.error_with_hint(
                value.place,
                format!("wrong value in {key:?} in {name}: expected a range of addresses or a table"),
                "write \"10.0.0.0/8\" or { file = \"ranges.txt\" }",
            ),
        }
    }
    Ranges::new(all)
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
                errors.error(file.place, format!("{}:{}: {why}", path.display(), number + 1));
                break; // one tells which kind of file it is
            }
        }
    }
    ranges
}
