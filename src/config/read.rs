//! Reads typed values out of a parsed TOML table and remembers which keys were asked for, so that the
//! keys nobody asked for can be reported with the one that was probably meant. The reading code is
//! thereby the schema: there is no second list of keys to keep in step.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::rc::Rc;

use toml::de::{DeTable, DeValue};

use super::diagnose::{At, Diagnostics, Place};
use crate::request::parse_authority;
use crate::spelling::did_you_mean;

use super::meant::meant;

pub use super::value::ByteSize;
pub(super) use super::value::words;
pub(crate) use super::value::{FromToml, StatusRange, Value, Words};

/// A table being read. Call [`Table::finish`] when every known key has been asked for.
pub(crate) struct Table<'t, 'i> {
    entries: Vec<Entry<'t, 'i>>,
    asked: Vec<&'static str>,
    /// How the operator knows this table: `[pool.app]`.
    pub name: String,
    pub place: Place,
    pub errors: &'t Diagnostics,
}

struct Entry<'t, 'i> {
    key: &'t str,
    key_place: Place,
    value: Value<'t, 'i>,
    taken: bool,
    /// Of which table, if it is another's.
    from: Option<Rc<str>>,
}

impl<'t, 'i> Table<'t, 'i> {
    /// All of a file.
    pub(crate) fn of_file(file: usize, name: &str, root: &'t DeTable<'i>, errors: &'t Diagnostics) -> Self {
        Self::new(name.into(), root, Place { file, start: 0, end: 0 }, errors)
    }

    fn new(name: String, table: &'t DeTable<'i>, place: Place, errors: &'t Diagnostics) -> Self {
        let entries = table.iter().map(|(key, value)| Entry {
            key: key.get_ref().as_ref(),
            key_place: Place::of(place.file, key.span()),
            value: Value::new(place.file, value),
            taken: false,
            from: None,
        });
        Table { entries: entries.collect(), asked: Vec::new(), name, place, errors }
    }

    /// A value as a table, if it is one.
    pub(crate) fn of(value: Value<'t, 'i>, name: &str, errors: &'t Diagnostics) -> Option<Self> {
        match value.value {
            DeValue::Table(table) => Some(Self::new(name.into(), table, value.place, errors)),
            _ => None,
        }
    }

    /// Takes what another table has, but for the keys that are there. `one_of`: keys of which one is enough.
    pub(crate) fn inherit(&mut self, other: &Table<'t, 'i>, one_of: &[&str]) {
        let from: Rc<str> = other.name.as_str().into();
        let has_one = one_of.iter().any(|key| self.has(key));
        for entry in &other.entries {
            let is_there = self.has(entry.key) || has_one && one_of.contains(&entry.key);
            if !is_there {
                self.entries.push(Entry { from: Some(from.clone()), ..*entry });
            }
        }
    }

    /// The value of a key that may be absent. A value of the wrong type is reported and counts as absent.
    pub(crate) fn get<T: FromToml>(&mut self, key: &'static str) -> Option<At<T>> {
        let value = self.take(key)?;
        let read = T::from_toml(value).map_err(|expected| self.is_wrong(key, &expected));
        self.errors.accept(value.place, read).map(|read| At { value: read, place: value.place })
    }

    /// The same without its place.
    pub(crate) fn value<T: FromToml>(&mut self, key: &'static str) -> Option<T> {
        self.get(key).map(|at| at.value)
    }

    /// The value of a key, or a default when it is absent or wrong (wrong is reported).
    pub(crate) fn get_or<T: FromToml>(&mut self, key: &'static str, default: T) -> T {
        self.value(key).unwrap_or(default)
    }

    /// Replaces a default by the value of a key, if it is there and right.
    pub(crate) fn set<T: FromToml>(&mut self, key: &'static str, field: &mut T) {
        self.set_if(key, field, |_| true, "");
    }

    /// The same for a value that has to fit: `rule` is what it must be, from the verb on.
    pub(crate) fn set_if<T: FromToml>(
        &mut self,
        key: &'static str,
        field: &mut T,
        fits: impl Fn(&T) -> bool,
        rule: &str,
    ) {
        match self.get(key) {
            Some(at) if fits(&at.value) => *field = at.value,
            Some(at) => self.errors.error(at.place, format!("{key} in {} {rule}", self.name)),
            None => {}
        }
    }

    pub(crate) fn set_within<T>(&mut self, key: &'static str, field: &mut T, range: RangeInclusive<T>)
    where
        T: FromToml + PartialOrd + Display,
    {
        let rule = format!("must be from {} to {}", range.start(), range.end());
        self.set_if(key, field, |value| range.contains(value), &rule);
    }

    pub(crate) fn set_positive<T: FromToml + PartialOrd + Default>(&mut self, key: &'static str, field: &mut T) {
        self.set_if(key, field, |value| *value > T::default(), "must be more than zero");
    }

    /// A value that has no default.
    pub(crate) fn positive<T: FromToml + PartialOrd + Default>(&mut self, key: &'static str) -> Option<T> {
        let mut value = T::default();
        self.set_positive(key, &mut value);
        (value > T::default()).then_some(value)
    }

    /// The value of a key that must be there.
    pub(crate) fn require<T: FromToml>(&mut self, key: &'static str) -> Option<At<T>> {
        if !self.has(key) {
            self.asked.push(key);
            self.errors.error(self.place, format!("missing key {key:?} in {}", self.name));
            return None;
        }
        self.get(key)
    }

    /// Whether the key is there at all.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The same of a key that is this table's own.
    pub(crate) fn has_own(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key && entry.from.is_none())
    }

    /// Whether a list is absent or has nothing in it.
    pub(crate) fn lacks(&self, key: &str) -> bool {
        self.find(key).is_none_or(|value| value.value.as_array().is_some_and(|items| items.is_empty()))
    }

    /// Leaves a key out of the report of unknown ones: something better was said of it.
    pub(crate) fn set_aside(&mut self, key: &str) {
        self.entries.iter_mut().filter(|entry| entry.key == key).for_each(|entry| entry.taken = true);
    }

    /// A host, perhaps with a port.
    pub(crate) fn host(&mut self, key: &'static str) -> Option<String> {
        let At { value: host, place } = self.get::<String>(key)?;
        let host = match parse_authority(&host) {
            Some(_) => Ok(host),
            None => Err(format!("{host:?} is not a host name")),
        };
        self.errors.accept(place, host)
    }

    /// A key that may be a table or simply `true` or `false`: which of these it is, unless it is neither.
    pub(crate) fn on_or_off(&mut self, key: &'static str) -> Option<bool> {
        let answer = self.find(key)?.value.as_bool()?;
        self.take(key);
        Some(answer)
    }

    /// Where a key's value is, or the table that lacks it.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        self.find(key).map_or(self.place, |value| value.place)
    }

    /// A list of values; each wrong element is reported on its own.
    pub(crate) fn list<T: FromToml>(&mut self, key: &'static str) -> Vec<At<T>> {
        let items = self.items(key);
        let read = |value: Value<'t, 'i>| {
            let in_list = |expected| format!("wrong value in {key:?} in {}: {expected}", self.name);
            let read = self.errors.accept(value.place, T::from_toml(value).map_err(in_list))?;
            Some(At { value: read, place: value.place })
        };
        items.into_iter().filter_map(read).collect()
    }

    /// The same without their places.
    pub(crate) fn plain_list<T: FromToml>(&mut self, key: &'static str) -> Vec<T> {
        self.list(key).into_iter().map(|at| at.value).collect()
    }

    /// The same where a list that is absent and one that is empty mean different things.
    pub(crate) fn optional_list<T: FromToml>(&mut self, key: &'static str) -> Option<Vec<At<T>>> {
        let is_there = self.has(key);
        let list = self.list(key);
        is_there.then_some(list)
    }

    /// The raw elements of a list whose elements may be of more than one form.
    pub(crate) fn items(&mut self, key: &'static str) -> Vec<Value<'t, 'i>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        value.items().unwrap_or_else(|| {
            let message = self.is_wrong(key, &format!("expected a list, found {}", value.kind()));
            let only = value.str().map(|only| format!("{only:?}"));
            match only.or_else(|| value.number("").ok().map(|only| only.to_string())) {
                Some(only) => self.errors.error_with_hint(value.place, message, format!("write {key} = [{only}]")),
                None => self.errors.error(value.place, message),
            }
            Vec::new()
        })
    }

    /// A value that may be of more than one form.
    pub(crate) fn any(&mut self, key: &'static str) -> Option<Value<'t, 'i>> {
        self.take(key)
    }

    /// All entries of a table whose keys are the operator's own. A value of the wrong type is reported.
    pub(crate) fn free_form<T: FromToml>(self) -> Vec<(At<String>, At<T>)> {
        let read = |entry: &Entry<'t, 'i>| {
            let read = T::from_toml(entry.value).map_err(|expected| self.is_wrong(entry.key, &expected));
            let place = entry.value.place;
            Some((entry.named(), At { value: self.errors.accept(place, read)?, place }))
        };
        self.entries.iter().filter_map(read).collect()
    }

    /// A sub-table such as `[cache.memory]`; `example`: how one may be written.
    pub(crate) fn table(&mut self, key: &'static str, name: &str, example: &str) -> Option<Table<'t, 'i>> {
        let value = self.take(key)?;
        let found = Table::of(value, name, self.errors);
        if found.is_none() {
            let message = self.is_wrong(key, &format!("expected a table, found {}", value.kind()));
            self.errors.error_with_hint(value.place, message, format!("write {example}"));
        }
        found
    }

    /// An array of tables such as `[[listen]]`.
    pub(crate) fn tables(&mut self, key: &'static str, name: &str) -> Vec<Table<'t, 'i>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let table = |item| Table::of(item, name, self.errors);
        let tables = value.items().and_then(|items| items.into_iter().map(table).collect());
        tables.unwrap_or_else(|| {
            let message = self.is_wrong(key, &format!("expected a list of tables, found {}", value.kind()));
            let hint =
                if name.starts_with("[[") { format!("write {name}") } else { format!("write {key} = [{{ ... }}]") };
            self.errors.error_with_hint(value.place, message, hint);
            Vec::new()
        })
    }

    /// A table of named tables such as `[pool.NAME]`, in the order of their names.
    pub(crate) fn named_tables(&mut self, key: &'static str) -> Vec<(At<String>, Table<'t, 'i>)> {
        let example = format!("[{key}.NAME]");
        let Some(parent) = self.table(key, &format!("[{key}]"), &example) else { return Vec::new() };
        let table = |entry: &Entry<'t, 'i>| {
            let table = Table::of(entry.value, &format!("[{key}.{}]", entry.key), self.errors);
            if table.is_none() {
                let message = format!("{:?} stands in [{key}], which has no name", entry.key);
                let tables = entry.value.items().unwrap_or_default();
                let hint = match tables.first().is_some_and(|first| first.kind() == "a table") {
                    true => format!("write [{key}.{}], in single brackets", entry.key),
                    false => format!("write {example}, with a name of your choice"),
                };
                self.errors.error_with_hint(entry.key_place, message, hint);
            } else if !is_name(entry.key) {
                let message =
                    format!("{key} name {:?} must be 1 to 64 letters, digits, \"-\", \"_\" or \".\"", entry.key);
                self.errors.error(entry.key_place, message);
            }
            Some((entry.named(), table?))
        };
        parent.entries.iter().filter_map(table).collect()
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !entry.taken) {
            let message = format!("unknown key {:?} in {}", entry.key, entry.from.as_deref().unwrap_or(&self.name));
            let close = || did_you_mean(entry.key, self.asked.iter().copied());
            let hint =
                meant(entry.key, &self.asked).or_else(|| close().map(|close| format!("did you mean {close:?}?")));
            let hint = hint.unwrap_or_else(|| {
                let mut known = self.asked.clone();
                known.sort_unstable();
                format!("known keys: {}", known.join(", "))
            });
            self.errors.error_with_hint(entry.key_place, message, hint);
        }
    }

    fn find(&self, key: &str) -> Option<Value<'t, 'i>> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value)
    }

    fn take(&mut self, key: &'static str) -> Option<Value<'t, 'i>> {
        self.asked.push(key);
        let entry = self.entries.iter_mut().find(|entry| entry.key == key)?;
        entry.taken = true;
        Some(entry.value)
    }

    fn is_wrong(&self, key: &str, expected: &str) -> String {
        format!("wrong value for {key:?} in {}: {expected}", self.name)
    }
}

impl Entry<'_, '_> {
    fn named(&self) -> At<String> {
        At { value: self.key.to_owned(), place: self.key_place }
    }
}

/// Names of pools and sites appear in metrics, logs, keys and URLs of the admin API.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
