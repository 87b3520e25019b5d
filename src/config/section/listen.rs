//! `[[listen]]`: where clients connect.

use std::net::SocketAddr;

use crate::address::IpRange;
use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::{Table, words};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: bool,
    pub protocols: Vec<Protocol>,
    /// Who says by the PROXY protocol whose a connection is, and has to.
    pub proxy_from: Vec<IpRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

words!(Protocol { "h1" => Protocol::H1, "h2" => Protocol::H2 });

pub(crate) fn read(mut table: Table) -> Option<At<Listener>> {
    let address = table.require("address");
    let tls = table.get_or("tls", false);
    let mut protocols = table.plain_list("protocols");
    if protocols.is_empty() {
        protocols = if tls { vec![Protocol::H1, Protocol::H2] } else { vec![Protocol::H1] };
    }
    let proxy_from = table.plain_list("proxy_from");
    table.finish();
    let At { value: address, place } = address?;
    Some(At { value: Listener { address, tls, protocols, proxy_from }, place })
}

/// Checks all of them together; `can_speak_tls`: there is a certificate, or what was meant as one.
pub(crate) fn check(listeners: Vec<At<Listener>>, can_speak_tls: bool, errors: &Diagnostics) -> Vec<Listener> {
    for (i, At { value: listener, place }) in listeners.iter().enumerate() {
        let address = listener.address;
        if let Some(other) = listeners[..i].iter().find(|other| overlap(other.value.address, address)) {
            let whole = match other.value.address {
                same if same == address => String::new(),
                other => format!(": {other} includes it, or it that"),
            };
            errors.again(*place, format!("{address} is listened on twice{whole}"), other.place);
        }
        if listener.tls && !can_speak_tls {
            errors.error_with_hint(
                *place,
                "this listener has tls = true, but there is no certificate",
                "add [[certificate]] with cert and key",
            );
        }
    }
    listeners.into_iter().map(|at| at.value).collect()
}

/// Whether one process cannot listen on both.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let of_one_family = one.is_ipv4() == other.is_ipv4();
    let same_host =
        one.ip() == other.ip() || of_one_family && (one.ip().is_unspecified() || other.ip().is_unspecified());
    one.port() != 0 && one.port() == other.port() && same_host
}
