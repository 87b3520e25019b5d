//! What Seawall does, shown through real sockets and processes: one file a capability.

mod harness;

mod caching;
mod fills;
mod framing;
mod origins;
mod passing;
mod purging;
mod reloading;
