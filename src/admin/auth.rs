//! Who may do what: bearer tokens, compared in constant time, with rights and sites.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::{StatusCode, header, request::Parts};

use crate::config::model::{Config, TokenRight};
use crate::config::read::Words;
use crate::config::tokens;
use crate::node::Node;

use super::problem::Problem;

/// What the caller of a request may do. Extracting it checks the token.
pub(crate) struct Caller {
    /// Of the token, for the log.
    pub name: String,
    rights: Vec<TokenRight>,
    /// `None`: all sites.
    sites: Option<Vec<String>>,
}

impl FromRequestParts<Arc<Node>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, Problem> {
        let snapshot = node.snapshot.load();
        let given = parts.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let loopback = node.admin_address.get().is_some_and(|address| address.ip().is_loopback());
        authenticate(&snapshot.config, loopback, given)
    }
}

fn authenticate(config: &Config, loopback: bool, authorization: Option<&[u8]>) -> Result<Caller, Problem> {
    let unauthorized = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail);
    // Taken out by a reload, while the listener still stands: nobody's any more.
    let admin = config.admin.as_ref().ok_or_else(|| unauthorized("the configuration has no [admin] any more"))?;
    let tokens = &admin.tokens;
    if tokens.is_empty() && loopback {
        // Whoever is on the machine may do everything. The listener's own address counts, not the configured one:
        // after a reload they may differ.
        let rights = vec![TokenRight::Read, TokenRight::Purge, TokenRight::Operate];
        return Ok(Caller { name: "local".into(), rights, sites: None });
    }
    let given = authorization.and_then(|given| given.split_at_checked(7));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let (_, given) = given.ok_or_else(|| unauthorized("a token is needed: Authorization: Bearer TOKEN"))?;
    let token = tokens::find(tokens, given.trim_ascii()).ok_or_else(|| unauthorized("the token is not known"))?;
    Ok(Caller { name: token.name.clone(), rights: token.rights.clone(), sites: token.sites.clone() })
}

impl Caller {
    pub(crate) fn need(&self, right: TokenRight) -> Result<(), Problem> {
        if self.rights.contains(&right) {
            return Ok(());
        }
        Err(Problem::new(StatusCode::FORBIDDEN, format!("the token does not have the right {:?}", right.as_str())))
    }

    /// The sites it may act on; `None`: all.
    pub(crate) fn sites(&self) -> Option<&[String]> {
        self.sites.as_deref()
    }

    pub(crate) fn need_site(&self, site: &str) -> Result<(), Problem> {
        match &self.sites {
            Some(sites) if !sites.iter().any(|name| name == site) => {
                Err(Problem::new(StatusCode::FORBIDDEN, format!("the token may not act on site {site:?}")))
            }
            _ => Ok(()),
        }
    }

    /// A right over all sites: what it is for is shared by them.
    pub(crate) fn need_everywhere(&self, right: TokenRight) -> Result<(), Problem> {
        self.need(right)?;
        self.need_all_sites()
    }

    pub(crate) fn need_all_sites(&self) -> Result<(), Problem> {
        match self.sites {
            Some(_) => Err(Problem::new(StatusCode::FORBIDDEN, "the token may not act on all sites")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::config::tokens::Token;
    use crate::plan::tests::config;

    pub(crate) fn caller(rights: &[TokenRight], sites: Option<&[&str]>) -> Caller {
        let sites = sites.map(|sites| sites.iter().map(|site| (*site).to_owned()).collect());
        Caller { name: "test".into(), rights: rights.to_vec(), sites }
    }

    #[test]
    fn tokens_are_known_by_their_hash_only() {
        let mut config = config("[admin]\naddress = \"127.0.0.1:0\"");
        assert!(authenticate(&config, true, None).is_ok(), "loopback without tokens is open");
        assert!(authenticate(&config, false, None).is_err(), "anything else is not");
        let token = Token {
            name: "ci".into(),
            digest: Sha256::digest(b"s3cret").into(),
            rights: vec![TokenRight::Read],
            sites: None,
        };
        config.admin.as_mut().unwrap().tokens = vec![token];
        for (given, known) in [
            (None, false),
            (Some("Bearer s3cret"), true),
            (Some("bearer  s3cret "), true),
            (Some("Bearer wrong"), false),
            (Some("Basic s3cret"), false),
            (Some("Bearer"), false),
            (Some(""), false),
        ] {
            let caller = authenticate(&config, true, given.map(str::as_bytes));
            assert_eq!(caller.is_ok(), known, "{given:?}");
            if let Ok(caller) = caller {
                assert!(caller.need(TokenRight::Read).is_ok());
                assert!(caller.need(TokenRight::Purge).is_err());
            }
        }
    }
}
