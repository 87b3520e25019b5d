//! `[admin]`: the admin API.

use std::net::SocketAddr;
use std::sync::Arc;

use super::site::Site;
use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::Table;
use crate::config::tokens::{self, Token};

#[derive(Debug, Clone)]
pub struct Admin {
    pub address: SocketAddr,
    pub tokens: Vec<Token>,
}

/// Reads it and its file of tokens; its place is that of these.
pub(crate) fn read(mut table: Table) -> Option<At<Admin>> {
    let errors = table.errors;
    let address = table.require::<SocketAddr>("address");
    let tokens_file = table.get("tokens_file");
    table.finish();
    let tokens = tokens_file.as_ref().map(|file| tokens::read(&errors.file_named(file), file.place, errors));
    let At { value: address, place } = address?;
    if !address.ip().is_loopback() && tokens.is_none() {
        errors.error_with_hint(
            place,
            "the admin API does not listen beyond loopback without tokens",
            "add tokens_file, or use 127.0.0.1",
        );
    }
    let place = tokens_file.map_or(place, |file| file.place);
    Some(At { value: Admin { address, tokens: tokens.unwrap_or_default() }, place })
}

pub(crate) fn check(admin: At<Admin>, sites: &[Arc<Site>], errors: &Diagnostics) -> Admin {
    for token in &admin.value.tokens {
        for unknown in token.sites.iter().flatten().filter(|name| !sites.iter().any(|site| *site.name == **name)) {
            errors.error(admin.place, format!("token {:?} is for site {unknown:?}, which there is not", token.name));
        }
    }
    admin.value
}
