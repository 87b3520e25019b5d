//! `sticky` of a pool: sessions that stay at their origin, by a signed cookie.

use std::fmt;
use std::time::Duration;

use crate::config::diagnose::At;
use crate::config::read::{Table, words};

#[derive(Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// What it is signed with.
    pub key: String,
    /// How long browsers keep it; `None`: until they are closed.
    pub max_age: Option<Duration>,
    pub same_site: SameSite,
}

impl fmt::Debug for Sticky {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sticky").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

/// Whether browsers send the cookie with requests that other sites cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    Lax,
    Strict,
    None,
}

words!(SameSite { "Lax" => SameSite::Lax, "Strict" => SameSite::Strict, "None" => SameSite::None });

/// Shorter keys can be found out by trying.
const SHORTEST_KEY: usize = 16;

pub(super) fn read(table: &mut Table, pool: &str) -> Option<Sticky> {
    let name = format!("[pool.{pool}.sticky]");
    let mut table = table.table("sticky", &name, "sticky = { key = \"file:sticky.key\" }")?;
    let errors = table.errors;
    let mut cookie = format!("seawall_{pool}"); // a host may have several pools
    let is_token = |name: &String| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    table.set_if("cookie", &mut cookie, is_token, "is no name that a cookie may have");
    let mut same_site = SameSite::Lax;
    table.set("same_site", &mut same_site);
    let max_age = table.positive("max_age");
    let key: Option<At<String>> = table.require("key");
    if let Some(At { value, place }) = key.as_ref().filter(|key| key.value.len() < SHORTEST_KEY) {
        let hint = "openssl rand -hex 32 makes one; put it into a file and write key = \"file:sticky.key\"";
        let message = format!("the key in {} has {} characters; it needs {SHORTEST_KEY}", table.name, value.len());
        errors.error_with_hint(*place, message, hint);
    }
    table.finish();
    Some(Sticky { cookie, key: key?.value, max_age, same_site })
}
