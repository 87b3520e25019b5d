//! What Seawall does, shown through real sockets and processes: one file a capability.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test ends by panicking, and may wait"
)]
#![allow(unreachable_pub, reason = "nobody reaches into a test")]

mod harness;

mod admin_api;
mod architecture;
mod browsers;
mod caching;
mod compression;
mod conformance;
mod crashes;
mod deployment;
mod discovery;
mod disk;
mod disk_faults;
mod dividing;
mod errors;
mod explaining;
mod files;
mod fills;
mod framing;
mod geoip;
mod grpc;
mod hostile;
mod http2;
mod ill_origins;
mod keys;
mod large;
mod lasting;
mod levels;
mod limits;
mod listening;
mod nginx;
mod origins;
mod parts;
mod passing;
mod process;
mod proxy_protocol;
mod purging;
mod reloading;
mod rewriting;
mod routing;
mod sharing;
mod slices;
mod stalled;
mod tenants;
mod tls;
mod unix;
mod uploads;
mod warming;
