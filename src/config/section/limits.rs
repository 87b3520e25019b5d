//! `[limits]`: what clients may take of the node.

use std::time::Duration;

use crate::config::read::{ByteSize, Table};

#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections at one time, over all listeners.
    pub max_connections: u32,
    /// Percent of them that clients next to each other may have.
    pub max_prefix_share: u32,
    pub max_requests_per_connection: u32,
    /// Bytes of a request's head.
    pub max_head: ByteSize,
    /// Header fields of a request.
    pub max_headers: u32,
    /// Bytes of a request's target.
    pub max_target: ByteSize,
    /// Bytes of an unwanted request body that are read and thrown away before the connection is closed instead.
    pub max_drain: ByteSize,
    /// From a request's first byte (or the connection's start) to the end of its head, in all.
    pub header_timeout: Duration,
    /// How long a connection may lie idle between two requests.
    pub keepalive_timeout: Duration,
    /// Between two reads of a request body.
    pub read_timeout: Duration,
    /// How long a client may take none of the bytes that wait for it.
    pub write_timeout: Duration,
    /// Bytes a second that a client has to take while some wait for it; 0: any.
    pub min_rate: ByteSize,
    pub tls_timeout: Duration,
    /// HTTP/2 streams at one time on a connection.
    pub max_h2_streams: u32,
    /// Fills at one time, over all sites. What would need one more goes past the cache.
    pub max_fills: u32,
    /// Responses that are compressed as they pass, at one time; others go as they are.
    pub max_compressions: u32,
}

impl Limits {
    /// The most header fields that any configuration may allow (pingora refuses more than 256).
    pub const MOST_HEADERS: u32 = 200;
    /// The longest request target that any configuration may allow: what the `http` crate takes.
    pub const LONGEST_TARGET: u64 = 65_534;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 20_000,
            max_prefix_share: 25,
            max_requests_per_connection: 10_000,
            max_head: ByteSize(32 << 10),
            max_headers: 100,
            max_target: ByteSize(8 << 10),
            max_drain: ByteSize(64 << 10),
            header_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            min_rate: ByteSize(100),
            tls_timeout: Duration::from_secs(10),
            max_h2_streams: 100,
            max_fills: 4096,
            max_compressions: 256,
        }
    }
}

pub(crate) fn read(mut table: Table) -> Limits {
    let mut limits = Limits::default();
    table.set_positive("max_connections", &mut limits.max_connections);
    table.set_within("max_prefix_share", &mut limits.max_prefix_share, 1..=100);
    table.set_positive("max_requests_per_connection", &mut limits.max_requests_per_connection);
    table.set_within("max_head", &mut limits.max_head, ByteSize(1 << 10)..=ByteSize(1 << 20));
    table.set_within("max_headers", &mut limits.max_headers, 8..=Limits::MOST_HEADERS);
    table.set_within("max_target", &mut limits.max_target, ByteSize(64)..=ByteSize(Limits::LONGEST_TARGET));
    if limits.max_target >= limits.max_head {
        table.errors.error(table.place_of("max_target"), "max_target in [limits] must be less than max_head");
    }
    table.set("max_drain", &mut limits.max_drain);
    table.set_positive("header_timeout", &mut limits.header_timeout);
    table.set_positive("keepalive_timeout", &mut limits.keepalive_timeout);
    table.set_positive("read_timeout", &mut limits.read_timeout);
    table.set_positive("write_timeout", &mut limits.write_timeout);
    table.set("min_rate", &mut limits.min_rate);
    table.set_positive("tls_timeout", &mut limits.tls_timeout);
    table.set_positive("max_h2_streams", &mut limits.max_h2_streams);
    table.set_positive("max_fills", &mut limits.max_fills);
    table.set("max_compressions", &mut limits.max_compressions);
    table.finish();
    limits
}
