//! A request as stored responses are selected by it.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{HeaderName, Version, header};
use smallvec::SmallVec;

use crate::config::model::{Node, PoolId};
use crate::origin::{PoolSet, forward};

use crate::plan::Side;
use crate::request::{Fields, RequestView};

/// Its fields, and what the node would say of it to an origin.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    pub fields: Fields<'a>,
    pub client: IpAddr,
    pub peer: IpAddr,
    pub version: Version,
    /// The node's idea of whom to trust; `None`: nobody.
    pub node: Option<&'a Node>,
    /// Of a pool that gives some of its requests to another.
    pub side: Side<'a>,
    /// Whose pool may have a cookie of the node's own, which no origin sees.
    pub(crate) pool: Option<(&'a PoolSet, PoolId)>,
}

impl<'a> Presented<'a> {
    pub fn new(view: &RequestView<'a>, node: &'a Node) -> Self {
        let RequestView { fields, client, peer, version, .. } = *view;
        Presented { fields, client, peer, version, node: Some(node), side: Side::Whole, pool: None }
    }

    /// The country of the client.
    pub(super) fn country(self) -> Option<&'a str> {
        self.node?.geoip.country(self.client)
    }

    /// A field's lines as one list, as the node would send them.
    fn sent(self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        let own = self.fields.joined(name);
        if *name == forward::FORWARDED_FOR {
            let before = own.as_deref().unwrap_or_default();
            return Some(forward::forwarded_for(before, (self.client, self.peer), self.node).into());
        }
        if *name == header::VIA {
            let before = own.map(|via| [&via, &b", "[..]].concat()).unwrap_or_default();
            return Some([&before[..], &forward::via(self.version, "")].concat().into());
        }
        own
    }

    /// The same as it is compared: white space around list separators removed, in lower case where case means nothing (RFC
    /// 9110 sections 12.5.3 and 12.5.4).
    pub(super) fn value(self, name: &HeaderName) -> Option<Box<[u8]>> {
        if *name == header::COOKIE {
            return self.cookies(); // no list: a comma is part of a value, and origins get one line
        }
        let mut joined = self.sent(name)?;
        if matches!(*name, header::ACCEPT_LANGUAGE | header::ACCEPT_ENCODING) {
            joined = joined.to_ascii_lowercase().into();
        }
        if !joined.contains(&b',') {
            return Some(joined.trim_ascii().into());
        }
        let parts: Vec<&[u8]> = joined.split(|b| *b == b',').map(<[u8]>::trim_ascii).collect();
        Some(parts.join(&b',').into())
    }

    /// All lines of `Cookie` as one, as they are sent to origins (RFC 9113 section 8.2.3).
    fn cookies(self) -> Option<Box<[u8]>> {
        let mut lines: SmallVec<[&[u8]; 4]> = SmallVec::new();
        self.fields.for_each(&header::COOKIE, |line| lines.push(line.trim_ascii()));
        let joined = (!lines.is_empty()).then(|| lines.join(&b"; "[..]))?;
        match self.pool.and_then(|(pools, pool)| pools.sticky(pool)?.without(&joined)) {
            Some(left) => (!left.is_empty()).then(|| left.into()),
            None => Some(joined.into()),
        }
    }
}
