//! The file of admin tokens: name, SHA-256 of the token, rights, sites. Tokens themselves are nowhere kept.

use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::diagnose::{At, Diagnostics, Place, Source};
use super::read::{Table, words};
use super::{regular, syntax};

/// Who may call the admin API. Only the hash of the token is known.
#[derive(Debug, Clone)]
pub struct Token {
    pub name: String,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    pub rights: Vec<TokenRight>,
    /// The sites it may act on; `None`: all of them.
    pub sites: Option<Vec<String>>,
}

impl Token {
    /// Whether it may see what is told of a site.
    pub fn may_read(&self, site: &str) -> bool {
        let covers = self.sites.as_ref().is_none_or(|sites| sites.iter().any(|name| name == site));
        covers && self.rights.contains(&TokenRight::Read)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRight {
    Read,
    Purge,
    Operate,
}

words!(TokenRight { "read" => TokenRight::Read, "purge" => TokenRight::Purge, "operate" => TokenRight::Operate });

/// Reads the tokens of the file that is named at `place`.
pub(crate) fn read(path: &Path, place: Place, errors: &Diagnostics) -> Vec<Token> {
    let source = regular::read_source(path).map_err(|error| format!("{}: {error}", path.display()));
    let Some(source) = errors.accept(place, source) else { return Vec::new() };
    let text = source.text.clone();
    let file = errors.add_source(Source { secret: true, ..source });
    let Some(root) = syntax::parse(file, &text, errors) else { return Vec::new() };
    let mut root = Table::of_file(file, "the tokens file", root.get_ref(), errors);
    if root.lacks("token") {
        // No tokens means open; a file of tokens that has none means a mistake.
        errors.error(place, "the tokens file has no usable [[token]]");
    }
    let tokens = root.tables("token", "[[token]]").into_iter().filter_map(read_token).collect();
    root.finish();
    tokens
}

fn read_token(mut table: Table) -> Option<Token> {
    let errors = table.errors;
    let name = table.require("name");
    let sha256: Option<At<String>> = table.require("sha256");
    if table.lacks("rights") {
        errors.error_with_hint(table.place, "a token has no rights", "rights = [\"read\", \"purge\", \"operate\"]");
    }
    let rights = table.plain_list("rights");
    let narrowed = table.has("sites");
    if narrowed && table.lacks("sites") {
        errors.error_with_hint(table.place, "\"sites\" has no site in it", "leave it out to mean all sites");
    }
    let sites = table.plain_list("sites");
    table.finish();
    let sha256 = sha256?;
    let Some(digest) = parse_digest(&sha256.value) else {
        errors.error_with_hint(
            sha256.place,
            "\"sha256\" must be 64 hexadecimal digits",
            "printf %s \"$TOKEN\" | sha256sum | cut -c1-64",
        );
        return None;
    };
    Some(Token { name: name?.value, digest, rights, sites: narrowed.then_some(sites) })
}

/// The token that was given. Compares with every token, so that the time tells nothing about which of them matched.
pub(crate) fn find<'t>(tokens: &'t [Token], given: &[u8]) -> Option<&'t Token> {
    let digest: [u8; 32] = Sha256::digest(given).into();
    tokens.iter().fold(None, |found, token| {
        let same: bool = token.digest.ct_eq(&digest).into();
        if same { Some(token) } else { found }
    })
}

fn parse_digest(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let half = |digits: &str| u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes);
    [half(&hex[..32])?, half(&hex[32..])?].concat().try_into().ok()
}
