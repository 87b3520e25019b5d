//! One value of a configuration: what it may be, read into the type that stands for it.

use std::net::SocketAddr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::diagnose::Place;
use super::units;
use crate::address::IpRange;
use crate::spelling::did_you_mean;

/// One value with its place.
#[derive(Clone, Copy)]
pub(crate) struct Value<'t, 'i> {
    pub(super) value: &'t DeValue<'i>,
    pub place: Place,
}

/// A type that can be read from one TOML value. The error says what was expected.
pub(crate) trait FromToml: Sized {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String>;
}

impl<'t, 'i> Value<'t, 'i> {
    pub(super) fn new(file: usize, value: &'t Spanned<DeValue<'i>>) -> Self {
        Value { value: value.get_ref(), place: Place::of(file, value.span()) }
    }

    /// What is in a list, if it is one.
    pub(super) fn items(self) -> Option<Vec<Self>> {
        let items = self.value.as_array()?;
        Some(items.iter().map(|item| Self::new(self.place.file, item)).collect())
    }

    pub(crate) fn str(self) -> Option<&'t str> {
        self.value.as_str()
    }

    /// What it is, for messages.
    pub(crate) fn kind(self) -> &'static str {
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

    /// A number, whole or not.
    pub(crate) fn number(self, expected: &str) -> Result<f64, String> {
        let written = match self.value {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => return Err(format!("expected {expected}, found {}", self.kind())),
        };
        let number = written.replace('_', "").parse().ok().filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| format!("expected {expected}, found {written}"))
    }

    pub(crate) fn text(self, expected: &str) -> Result<&'t str, String> {
        self.str().ok_or_else(|| format!("expected {expected}, found {}", self.kind()))
    }
}

impl FromToml for String {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        value.text("a string").map(str::to_owned)
    }
}

impl FromToml for bool {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        value.value.as_bool().ok_or_else(|| format!("expected true or false, found {}", value.kind()))
    }
}

impl FromToml for u64 {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        let DeValue::Integer(integer) = value.value else {
            return Err(format!("expected a whole number, found {}", value.kind()));
        };
        let number = u64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix());
        number.map_err(|_| format!("expected a whole number from 0 up, found {integer}"))
    }
}

macro_rules! smaller_numbers {
    ($($number:ty),+) => {
        $(impl FromToml for $number {
            fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
                let number = u64::from_toml(value)?;
                <$number>::try_from(number).map_err(|_| format!("expected at most {}, found {number}", <$number>::MAX))
            }
        })+
    };
}
smaller_numbers!(u16, u32, usize);

impl FromToml for Duration {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        units::parse_duration(value.text("a duration such as \"30s\"")?)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// As the operator would write it.
impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&units::format_size(self.0))
    }
}

impl FromToml for ByteSize {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        match value.value {
            DeValue::Integer(_) => u64::from_toml(value).map(ByteSize),
            _ => units::parse_size(value.text("a size such as \"64KiB\"")?).map(ByteSize),
        }
    }
}

impl FromToml for SocketAddr {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        let text = value.text("an address such as \"0.0.0.0:80\"")?;
        text.parse().map_err(|_| format!("{text:?} is not IP:PORT, such as \"0.0.0.0:80\" or \"[::]:80\""))
    }
}

impl FromToml for IpRange {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        value.text("an address range such as \"10.0.0.0/8\"")?.parse()
    }
}

/// An inclusive range of status codes: `200` or `"200-399"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    pub first: u16,
    pub last: u16,
}

impl FromToml for StatusRange {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        let Some(text) = value.str() else { return u16::from_toml(value)?.to_string().parse() };
        text.parse()
    }
}

impl std::str::FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.trim().parse().unwrap_or(0), last.trim().parse().unwrap_or(0));
        if (100..=599).contains(&first) && (first..=599).contains(&last) {
            Ok(StatusRange { first, last })
        } else {
            Err(format!("{text:?}: expected a status code such as 200 or a range such as \"200-399\""))
        }
    }
}

/// A closed set of words.
pub(crate) trait Words: Copy + 'static {
    /// Every word with what it stands for.
    const WORDS: &'static [(&'static str, Self)];

    /// The word the operator writes for it.
    fn as_str(self) -> &'static str;

    fn read(value: Value<'_, '_>) -> Result<Self, String> {
        let expected = || Self::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let text = value.text(&format!("one of {}", expected()))?;
        if let Some((_, found)) = Self::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*found);
        }
        let meant = did_you_mean(text, Self::WORDS.iter().map(|(word, _)| *word));
        let question = meant.map(|meant| format!("did you mean {meant:?}? ")).unwrap_or_default();
        Err(format!("unknown {text:?}, {question}expected one of {}", expected()))
    }
}

/// Implements [`Words`] and [`FromToml`] for an enum. A variant without a word doesn't compile.
macro_rules! words {
    ($type:ty { $($word:literal => $variant:path),+ $(,)? }) => {
        impl $crate::config::value::Words for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $variant)),+];

            #[allow(unreachable_patterns, reason = "of two words for one variant, the first is it")]
            fn as_str(self) -> &'static str {
                match self {
                    $($variant => $word),+
                }
            }
        }

        impl $crate::config::value::FromToml for $type {
            fn from_toml(value: $crate::config::value::Value<'_, '_>) -> Result<Self, String> {
                $crate::config::value::Words::read(value)
            }
        }
    };
}
pub(in crate::config) use words;
