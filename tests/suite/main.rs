//! What Seawall does, shown through real sockets and processes: one file a capability.

mod harness;

mod admin_api;
mod caching;
mod fills;
mod framing;
mod origins;
mod passing;
mod process;
mod purging;
mod reloading;
mod tls;
