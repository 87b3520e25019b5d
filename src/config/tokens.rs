//! The file of admin tokens: name, SHA-256 of the token, rights, sites. Tokens themselves are nowhere kept.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use toml::de::DeTable;

use super::diagnose::{At, Diagnostics, Place};
use super::model::{Token, TokenRight};
use super::read::Table;

/// Reads the tokens of one parsed file; mistakes go to `errors`.
pub fn read(file: usize, root: &DeTable<'_>, errors: &mut Diagnostics) -> Vec<Token> {
    let mut root = Table::new(file, "the tokens file", root, Place { file, start: 0, end: 0 });
    let tokens = root.tables("token", "[[token]]", errors).into_iter().filter_map(|t| read_token(t, errors)).collect();
    root.finish(errors);
    tokens
}

fn read_token(mut table: Table, errors: &mut Diagnostics) -> Option<Token> {
    let name = table.require::<String>("name", errors);
    let sha256 = table.require::<String>("sha256", errors);
    let rights: Vec<At<TokenRight>> = table.list("rights", errors);
    let narrowed = table.has("sites");
    let sites: Vec<At<String>> = table.list("sites", errors);
    if narrowed && sites.is_empty() {
        errors.error_with_hint(table.place, "\"sites\" has no site in it", "leave it out to mean all sites");
    }
    if rights.is_empty() {
        errors.error_with_hint(table.place, "a token has no rights", "rights = [\"read\", \"purge\", \"operate\"]");
    }
    table.finish(errors);
    let sha256 = sha256?;
    let Some(digest) = parse_digest(&sha256.value) else {
        errors.error_with_hint(
            sha256.place,
            "\"sha256\" must be 64 hexadecimal digits",
            "printf %s \"$TOKEN\" | sha256sum",
        );
        return None;
    };
    Some(Token {
        name: name?.value,
        digest,
        rights: rights.into_iter().map(|at| at.value).collect(),
        sites: narrowed.then(|| sites.into_iter().map(|at| at.value).collect()),
    })
}

/// The token that was given. Compares with every token, so that the time tells nothing about which of them matched.
pub fn find<'t>(tokens: &'t [Token], given: &[u8]) -> Option<&'t Token> {
    let digest: [u8; 32] = Sha256::digest(given).into();
    tokens.iter().fold(None, |found, token| {
        let same: bool = token.digest.ct_eq(&digest).into();
        if same { Some(token) } else { found }
    })
}

fn parse_digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(digest)
}
