//! Reads typed values out of a parsed TOML table and remembers which keys were asked for, so that the
//! keys nobody asked for can be reported with the one that was probably meant. The reading code is
//! thereby the schema: there is no second list of keys to keep in step.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnose::{At, Diagnostics, Place, did_you_mean};
use super::units;

/// One value with its place.
pub struct Value<'t, 'i> {
    value: &'t DeValue<'i>,
    pub place: Place,
}

/// A type that can be read from one TOML value. The error says what was expected.
pub trait FromToml: Sized {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String>;
}

/// A table being read. Call [`Table::finish`] when every known key has been asked for.
pub struct Table<'t, 'i> {
    entries: Vec<Entry<'t, 'i>>,
    asked: Vec<&'static str>,
    /// How the operator knows this table: `[pool.app]`.
    pub name: String,
    pub place: Place,
}

struct Entry<'t, 'i> {
    key: &'t str,
    key_place: Place,
    value: Value<'t, 'i>,
    taken: bool,
}

impl<'t, 'i> Table<'t, 'i> {
    pub fn new(file: usize, name: impl Into<String>, table: &'t DeTable<'i>, place: Place) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().as_ref(),
                key_place: place_of(file, key),
                value: Value { value: value.get_ref(), place: place_of(file, value) },
                taken: false,
            })
            .collect();
        Table { entries, asked: Vec::new(), name: name.into(), place }
    }

    /// The value of a key that may be absent. A value of the wrong type is reported and counts as absent.
    pub fn get<T: FromToml>(&mut self, key: &'static str, errors: &mut Diagnostics) -> Option<At<T>> {
        let name = self.name.clone();
        let value = self.take(key)?;
        match T::from_toml(value) {
            Ok(parsed) => Some(At { value: parsed, place: value.place }),
            Err(expected) => {
                errors.error(value.place, format!("wrong value for {key:?} in {name}: {expected}"));
                None
            }
        }
    }

    /// The value of a key, or a default when it is absent or wrong (wrong is reported).
    pub fn get_or<T: FromToml>(&mut self, key: &'static str, default: T, errors: &mut Diagnostics) -> T {
        self.get(key, errors).map_or(default, |at| at.value)
    }

    /// The value of a key that must be there.
    pub fn require<T: FromToml>(&mut self, key: &'static str, errors: &mut Diagnostics) -> Option<At<T>> {
        if !self.has(key) {
            self.asked.push(key);
            errors.error(self.place, format!("missing key {key:?} in {}", self.name));
            return None;
        }
        self.get(key, errors)
    }

    /// Whether the key is there at all.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// A list of values; each wrong element is reported on its own.
    pub fn list<T: FromToml>(&mut self, key: &'static str, errors: &mut Diagnostics) -> Vec<At<T>> {
        let name = self.name.clone();
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(items) = value.array() else {
            errors.error(value.place, format!("wrong value for {key:?} in {name}: expected a list [...]"));
            return Vec::new();
        };
        let mut out = Vec::new();
        for item in items {
            match T::from_toml(&item) {
                Ok(parsed) => out.push(At { value: parsed, place: item.place }),
                Err(expected) => errors.error(item.place, format!("wrong value in {key:?} in {name}: {expected}")),
            }
        }
        out
    }

    /// The same where a list that is absent and one that is empty mean different things.
    pub fn optional_list<T: FromToml>(
        &mut self,
        key: &'static str,
        errors: &mut Diagnostics,
    ) -> Option<At<Vec<At<T>>>> {
        let place = self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.place);
        let value = self.list(key, errors);
        place.map(|place| At { value, place })
    }

    /// All entries of a table whose keys are the operator's own. A value of the wrong type is reported.
    pub fn free_form<T: FromToml>(self, errors: &mut Diagnostics) -> Vec<(At<String>, At<T>)> {
        let mut out = Vec::new();
        for entry in self.entries {
            let place = entry.value.place;
            match T::from_toml(&entry.value) {
                Ok(value) => {
                    out.push((At { value: entry.key.to_owned(), place: entry.key_place }, At { value, place }));
                }
                Err(expected) => {
                    errors.error(place, format!("wrong value for {:?} in {}: {expected}", entry.key, self.name));
                }
            }
        }
        out
    }

    /// The raw elements of a list whose elements may be of more than one form.
    pub fn values(&mut self, key: &'static str, errors: &mut Diagnostics) -> Vec<Value<'t, 'i>> {
        let name = self.name.clone();
        let Some(value) = self.take(key) else { return Vec::new() };
        value.array().unwrap_or_else(|| {
            errors.error(value.place, format!("wrong value for {key:?} in {name}: expected a list [...]"));
            Vec::new()
        })
    }

    /// A sub-table such as `[cache.memory]`.
    pub fn table(&mut self, key: &'static str, name: &str, errors: &mut Diagnostics) -> Option<Table<'t, 'i>> {
        let value = self.take(key)?;
        let found = value.table(name);
        if found.is_none() {
            errors.error(value.place, format!("{key:?} must be a table {name}"));
        }
        found
    }

    /// An array of tables such as `[[listen]]`.
    pub fn tables(&mut self, key: &'static str, name: &str, errors: &mut Diagnostics) -> Vec<Table<'t, 'i>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let tables: Option<Vec<_>> =
            value.array().and_then(|items| items.iter().map(|item| item.table(name)).collect());
        tables.unwrap_or_else(|| {
            errors.error(value.place, format!("{key:?} must be written as {name}"));
            Vec::new()
        })
    }

    /// A table of named tables such as `[pool.NAME]`, in the order of their names.
    pub fn named_tables(&mut self, key: &'static str, errors: &mut Diagnostics) -> Vec<(At<String>, Table<'t, 'i>)> {
        let Some(parent) = self.table(key, &format!("[{key}.NAME]"), errors) else { return Vec::new() };
        let mut out = Vec::new();
        for entry in parent.entries {
            let full_name = format!("[{key}.{}]", entry.key);
            match entry.value.table(&full_name) {
                Some(table) => out.push((At { value: entry.key.to_owned(), place: entry.key_place }, table)),
                None => errors.error(entry.value.place, format!("{:?} must be a table {full_name}", entry.key)),
            }
        }
        out
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self, errors: &mut Diagnostics) {
        for entry in self.entries.iter().filter(|entry| !entry.taken) {
            let message = format!("unknown key {:?} in {}", entry.key, self.name);
            match did_you_mean(entry.key, self.asked.iter().copied()) {
                Some(meant) => errors.error_with_hint(entry.key_place, message, format!("did you mean {meant:?}?")),
                None => {
                    let mut known = self.asked.clone();
                    known.sort_unstable();
                    errors.error_with_hint(entry.key_place, message, format!("known keys: {}", known.join(", ")));
                }
            }
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&Value<'t, 'i>> {
        self.asked.push(key);
        let entry = self.entries.iter_mut().find(|entry| entry.key == key)?;
        entry.taken = true;
        Some(&entry.value)
    }
}

impl<'t, 'i> Value<'t, 'i> {
    pub fn table(&self, name: &str) -> Option<Table<'t, 'i>> {
        match self.value {
            DeValue::Table(table) => Some(Table::new(self.place.file, name, table, self.place)),
            _ => None,
        }
    }

    pub fn str(&self) -> Option<&str> {
        self.value.as_str()
    }

    fn array(&self) -> Option<Vec<Value<'t, 'i>>> {
        match self.value {
            DeValue::Array(items) => Some(
                items
                    .iter()
                    .map(|item| Value { value: item.get_ref(), place: place_of(self.place.file, item) })
                    .collect(),
            ),
            _ => None,
        }
    }

    fn describe(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    fn text(&self, expected: &str) -> Result<&str, String> {
        self.str().ok_or_else(|| format!("expected {expected}, found {}", self.describe()))
    }
}

fn place_of<T>(file: usize, spanned: &Spanned<T>) -> Place {
    let span = spanned.span();
    Place { file, start: span.start, end: span.end }
}

impl FromToml for String {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        value.text("a string").map(str::to_owned)
    }
}

impl FromToml for bool {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        value.value.as_bool().ok_or_else(|| format!("expected true or false, found {}", value.describe()))
    }
}

impl FromToml for u64 {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        let number = match value.value {
            DeValue::Integer(integer) => {
                let digits = integer.as_str().replace('_', "");
                u64::from_str_radix(&digits, integer.radix()).ok()
            }
            _ => None,
        };
        number.ok_or_else(|| match value.value {
            DeValue::Integer(integer) => format!("expected a whole number from 0 up, found {integer}"),
            _ => format!("expected a whole number, found {}", value.describe()),
        })
    }
}

impl FromToml for u32 {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        let number = u64::from_toml(value)?;
        u32::try_from(number).map_err(|_| format!("expected at most {}, found {number}", u32::MAX))
    }
}

impl FromToml for u16 {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        let number = u64::from_toml(value)?;
        u16::try_from(number).map_err(|_| format!("expected at most {}, found {number}", u16::MAX))
    }
}

impl FromToml for Duration {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        units::parse_duration(value.text("a duration such as \"30s\"")?)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromToml for ByteSize {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        match value.value {
            DeValue::Integer(_) => u64::from_toml(value).map(ByteSize),
            _ => units::parse_size(value.text("a size such as \"64KiB\"")?).map(ByteSize),
        }
    }
}

impl FromToml for SocketAddr {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        let text = value.text("an address such as \"0.0.0.0:80\"")?;
        text.parse().map_err(|_| format!("{text:?} is not IP:PORT, such as \"0.0.0.0:80\" or \"[::]:80\""))
    }
}

/// A range of addresses, `10.0.0.0/8` or a single `192.0.2.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    prefix: u8,
}

impl IpRange {
    /// Whether an address lies in the range. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for IpRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not an address range such as \"10.0.0.0/8\" or \"::1\"");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| expected())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|p| *p <= longest).ok_or_else(expected)?,
            None => longest,
        };
        Ok(IpRange { address, prefix })
    }
}

impl FromToml for IpRange {
    fn from_toml(value: &Value<'_, '_>) -> Result<Self, String> {
        value.text("an address range such as \"10.0.0.0/8\"")?.parse()
    }
}

/// A closed set of words.
pub trait Words: Copy + PartialEq + 'static {
    /// Every word with what it stands for.
    const WORDS: &'static [(&'static str, Self)];

    /// The word the operator writes for it.
    fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, other)| *other == self).map_or("", |(word, _)| word)
    }

    fn read(value: &Value<'_, '_>) -> Result<Self, String> {
        let expected = || Self::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let text = value.text(&format!("one of {}", expected()))?;
        if let Some((_, found)) = Self::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*found);
        }
        Err(match did_you_mean(text, Self::WORDS.iter().map(|(word, _)| *word)) {
            Some(meant) => format!("unknown {text:?}, did you mean {meant:?}? expected one of {}", expected()),
            None => format!("unknown {text:?}, expected one of {}", expected()),
        })
    }
}

/// Implements [`Words`] and [`FromToml`] for an enum.
macro_rules! words {
    ($type:ty { $($word:literal => $variant:expr),+ $(,)? }) => {
        impl $crate::config::read::Words for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $variant)),+];
        }

        impl $crate::config::read::FromToml for $type {
            fn from_toml(value: &$crate::config::read::Value<'_, '_>) -> Result<Self, String> {
                $crate::config::read::Words::read(value)
            }
        }
    };
}
pub(super) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_ranges() {
        for (range, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ] {
            let range: IpRange = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{range:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/x"] {
            assert!(bad.parse::<IpRange>().is_err(), "{bad}");
        }
    }
}
