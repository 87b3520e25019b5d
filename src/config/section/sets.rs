//! `[defaults.route]`, `[site.NAME.defaults]` and `[set.NAME]`: keys that many routes have alike, written once.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::Table;
use crate::spelling::did_you_mean;

/// What routes may inherit.
#[derive(Default)]
pub(crate) struct Sets<'t, 'i> {
    /// What all have.
    defaults: Option<Table<'t, 'i>>,
    named: HashMap<String, Table<'t, 'i>>,
    used: RefCell<HashSet<String>>,
}

/// What tells one route from another, and so is no set's.
const OF_ONE_ROUTE: [&str; 2] = ["path", "use"];

/// What answers a route's requests: one of these. What a route says itself goes before what it inherits.
pub(super) const ANSWERERS: [&str; 4] = ["pool", "files", "redirect", "respond"];

impl<'t, 'i> Sets<'t, 'i> {
    /// Takes them out of a file.
    pub(crate) fn read(&mut self, file: &mut Table<'t, 'i>) {
        if let Some(mut defaults) = file.table("defaults", "[defaults]", "[defaults.route]") {
            if let Some(route) = defaults.table("route", "[defaults.route]", "[defaults.route]") {
                check(&route);
                if let Some(first) = self.defaults.replace(route) {
                    let place = self.defaults.as_ref().map_or(first.place, |second| second.place);
                    first.errors.again(place, "[defaults.route] is given twice", first.place);
                }
            }
            defaults.finish();
        }
        for (At { value: name, place }, set) in file.named_tables("set") {
            check(&set);
            if let Some(first) = self.named.insert(name.clone(), set) {
                first.errors.again(place, format!("set {name:?} is given twice"), first.place);
            }
        }
    }

    /// Gives a route what it does not say itself: of the sets that it uses, the last first, of its site, and of all.
    pub(crate) fn give(&self, route: &mut Table<'t, 'i>, site: Option<&Table<'t, 'i>>) {
        let used = route.list::<String>("use");
        for At { value: name, place } in used.into_iter().rev() {
            match self.named.get(&name) {
                Some(set) => {
                    route.inherit(set, &ANSWERERS);
                    self.used.borrow_mut().insert(name);
                }
                None => {
                    let message = format!("there is no set {name:?}");
                    let hint = match did_you_mean(&name, self.named.keys().map(String::as_str)) {
                        Some(meant) => format!("did you mean {meant:?}?"),
                        None => format!("add [set.{name}]"),
                    };
                    route.errors.error_with_hint(place, message, hint);
                }
            }
        }
        site.into_iter().chain(&self.defaults).for_each(|defaults| route.inherit(defaults, &ANSWERERS));
    }

    /// Points out what no route uses.
    pub(crate) fn finish(&self, errors: &Diagnostics) {
        for (name, set) in &self.named {
            if !self.used.borrow().contains(name) {
                errors.warn(
                    set.place,
                    format!("no route uses set {name:?}"),
                    format!("write use = [\"{name}\"] in a route"),
                );
            }
        }
    }
}

/// Reports what is no set's. Everything else is checked with the routes that have it.
pub(super) fn check(set: &Table) {
    for key in OF_ONE_ROUTE.into_iter().filter(|key| set.has(key)) {
        set.errors.error(set.place_of(key), format!("{key:?} in {} belongs in a route", set.name));
    }
}
