//! URLs in calls, as the node would see a request for them.

use crate::config::model::{Config, Site};
use crate::request::{Scheme, Target, parse_authority};

use super::auth::Caller;
use super::problem::Problem;

/// Bytes of a URL, whatever its requests may have.
const MAX_URL: usize = 64 << 10;
const EXAMPLE: &str = "https://shop.example.com/a";

/// A URL taken apart, its path normalised.
pub(crate) struct Located<'c> {
    pub site: &'c Site,
    pub scheme: Scheme,
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
    pub query: Option<String>,
}

impl<'c> Located<'c> {
    pub(crate) fn find(url: &str, config: &'c Config, caller: &Caller) -> Result<Self, Problem> {
        if url.len() > MAX_URL {
            return Err(Problem::bad_request(format!("a URL of {} bytes; at most {MAX_URL} are taken", url.len())));
        }
        let invalid = |why: &str| Problem::bad_request(format!("{url:?} is not a URL such as {EXAMPLE}: {why}"));
        if !url.contains(['/', '.']) {
            return Err(invalid("it has neither a scheme nor a path"));
        }
        let absolute = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let target = Target::parse(&absolute).map_err(invalid)?;
        let authority = target.authority.ok_or_else(|| invalid("it has no host"))?;
        let (host, port) = parse_authority(authority).ok_or_else(|| invalid("its host is not valid"))?;
        let no_site = || {
            Problem::not_found(format!(
                "no site has the host {host:?}: clients that ask for it get 421; expected a URL of a site, such as {EXAMPLE}"
            ))
        };
        let site = &config.sites[config.hosts.find(&host).ok_or_else(no_site)?];
        caller.need_site(&site.name)?;
        let is_https = absolute.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let scheme = if is_https { Scheme::Https } else { Scheme::Http };
        let (path, query) = (target.path.into_owned(), target.query.map(str::to_owned));
        Ok(Located { site, scheme, host: host.into_owned(), port, path, query })
    }

    /// The name of the listener that a client would come to with it, if one has its port.
    pub(crate) fn listener<'l>(&self, config: &'l Config) -> Option<&'l str> {
        let port = self.port.unwrap_or(self.scheme.default_port());
        config.listeners.iter().find(|listener| listener.address.port() == Some(port)).map(|listener| &*listener.name)
    }

    /// The port of the listener that a client would come to with it.
    pub(crate) fn local_port(&self, config: &Config) -> u16 {
        let is_listened_on =
            |port: &u16| config.listeners.iter().any(|listener| listener.address.port() == Some(*port));
        self.port.filter(is_listened_on).unwrap_or(self.scheme.default_port())
    }
}
