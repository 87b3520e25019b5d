//! What requests are told apart by where that chooses who gets them.

use http::HeaderName;

use crate::config::read::{FromToml, Value};

/// What `balance = "hash"` hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    Url,
    Client,
    Header(HeaderName),
    Cookie(String),
    Query(String),
}

impl FromToml for HashKey {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        let text = String::from_toml(value)?;
        let header = |name: &str| name.parse().ok().map(HashKey::Header);
        let key = match text.split_once(':') {
            None if text == "url" => Some(HashKey::Url),
            None if text == "client" => Some(HashKey::Client),
            Some(("header", name)) => header(name),
            Some(("cookie", name)) if !name.is_empty() => Some(HashKey::Cookie(name.to_owned())),
            Some(("query", name)) if !name.is_empty() => Some(HashKey::Query(name.to_owned())),
            _ => None,
        };
        let expected = "expected \"url\", \"client\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";
        key.ok_or_else(|| format!("unknown hash key {text:?}, {expected}"))
    }
}
