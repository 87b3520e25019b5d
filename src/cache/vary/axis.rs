//! Something in requests by which responses differ, and what one request says of it.

use std::sync::Arc;

use http::{HeaderName, header};
use serde::{Deserialize, Serialize};

use crate::config::model::{CacheRules, Coding, Pattern};
use crate::origin::forward;
use crate::plan::Side;
use crate::request::Fields;

use super::Presented;
use crate::representation::negotiate;

/// The field by which origins are told the country of clients.
pub(super) static COUNTRY: HeaderName = HeaderName::from_static("x-country");

/// Parts of the names of fields that may let somebody in: `Authorization`, `X-Api-Key`, `X-Session`.
const SECRETS: [&str; 12] =
    ["auth", "cookie", "token", "key", "secret", "session", "sid", "pass", "jwt", "user", "identity", "signature"];

/// It says itself how it is read, so that what is stored stays valid when the rules change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Axis {
    Field(#[serde(with = "header_name")] HeaderName),
    Cookie(Box<str>),
    Device,
    /// The best of these.
    Encoding(Arc<[Coding]>),
    Language(Arc<[Box<str>]>),
    /// All cookies whose names are like this.
    Cookies(Pattern),
    /// All fields whose names are like this.
    Fields(Pattern),
    Country,
    /// The pool that it is given to instead of its route's.
    Pool,
}

impl Axis {
    /// How a field that the route's key names is read.
    pub(super) fn of_keyed_field(pattern: &Pattern) -> Self {
        match pattern.exact().and_then(|name| name.parse().ok()) {
            Some(name) => Axis::Field(name),
            None => Axis::Fields(pattern.clone()),
        }
    }

    pub(super) fn of_keyed_cookie(pattern: &Pattern) -> Self {
        match pattern.exact() {
            Some(name) => Axis::Cookie(name.into()),
            None => Axis::Cookies(pattern.clone()),
        }
    }

    /// How a field that `Vary` names is read under the rules; `None`: what it says is counted already, or no origin gets it,
    /// so that nothing can depend on it. Scheme and host are in the key.
    pub(super) fn of_vary(name: HeaderName, rules: &CacheRules) -> Option<Self> {
        let key = &rules.key;
        match name {
            header::ACCEPT_ENCODING => match &key.accept_encoding {
                Some(offered) if offered.is_empty() => None, // all are asked for alike
                Some(offered) => Some(Axis::Encoding(offered.clone())),
                None => Some(Axis::Field(name)),
            },
            header::ACCEPT_LANGUAGE => Some(match &key.accept_language {
                Some(offered) => Axis::Language(offered.clone()),
                None => Axis::Field(name),
            }),
            header::COOKIE if key.cookies.is_some() => None,
            header::USER_AGENT if key.device => None,
            name if name == negotiate::DEVICE_CLASS && key.device => None,
            name if name == COUNTRY && key.country => None,
            name if forward::is_our_own(&name) => Some(Axis::Field(name)),
            name if !forward::goes_with_fill(name.as_str(), rules) => None,
            name if key.headers.iter().any(|pattern| pattern.exact().is_none() && pattern.matches(name.as_str())) => {
                None
            }
            name => Some(Axis::Field(name)),
        }
    }

    pub(super) fn value(&self, presented: Presented<'_>) -> Option<Box<[u8]>> {
        let request = presented.fields;
        match self {
            Axis::Field(name) => presented.value(name),
            Axis::Cookie(name) => negotiate::cookie(request, name).map(Into::into),
            Axis::Cookies(pattern) => {
                let pairs = cookies_like(request, pattern);
                (!pairs.is_empty()).then(|| pairs.join(&b"; "[..]).into())
            }
            Axis::Fields(pattern) => fields_like(request, pattern),
            Axis::Device => Some(negotiate::device(request).as_bytes().into()),
            Axis::Country => presented.country().map(|country| country.as_bytes().into()),
            Axis::Pool => match presented.side {
                Side::Given(pool) => Some(pool.as_bytes().into()),
                Side::Whole | Side::Kept => None,
            },
            Axis::Encoding(offered) => {
                negotiate::best_coding(request, offered.iter().copied()).map(|coding| coding.as_str().as_bytes().into())
            }
            Axis::Language(offered) => negotiate::best_language(request, offered).map(|tag| tag.as_bytes().into()),
        }
    }

    /// Whether its value may let somebody in who has it.
    pub(super) fn is_secret(&self) -> bool {
        match self {
            Axis::Field(name) => SECRETS.iter().any(|part| name.as_str().contains(part)),
            Axis::Cookie(_) | Axis::Cookies(_) | Axis::Fields(_) => true,
            _ => false,
        }
    }

    /// As operators know it.
    pub(super) fn name(&self) -> String {
        match self {
            Axis::Field(name) => name.to_string(),
            Axis::Cookie(name) => format!("cookie {name}"),
            Axis::Cookies(pattern) => format!("cookies {pattern}"),
            Axis::Fields(pattern) => pattern.to_string(),
            Axis::Device => "device".into(),
            Axis::Country => "country".into(),
            Axis::Pool => "split to pool".into(),
            Axis::Encoding(_) => header::ACCEPT_ENCODING.to_string(),
            Axis::Language(_) => header::ACCEPT_LANGUAGE.to_string(),
        }
    }
}

/// The cookies whose names are like this, `NAME=VALUE` each, in the order of their names, so that their order in the
/// request does not matter.
pub(super) fn cookies_like(request: Fields<'_>, pattern: &Pattern) -> Vec<Vec<u8>> {
    let mut pairs: Vec<Vec<u8>> = Vec::new();
    negotiate::for_each_cookie(request, |name, _, pair| {
        if std::str::from_utf8(name).is_ok_and(|name| pattern.matches(name)) {
            pairs.push(pair.to_vec());
        }
    });
    pairs.sort();
    pairs
}

/// The fields whose names are like this, with their values.
fn fields_like(request: Fields<'_>, pattern: &Pattern) -> Option<Box<[u8]>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    request.for_all(|name, value| {
        let name = name.to_ascii_lowercase();
        if pattern.matches(&name) {
            lines.push([name.as_bytes(), b": ", value].concat());
        }
    });
    lines.sort();
    (!lines.is_empty()).then(|| lines.join(&b"\n"[..]).into())
}

/// Names of fields in files of the disk tier.
mod header_name {
    use http::HeaderName;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
        <&str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
