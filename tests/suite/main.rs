//! What Seawall does, shown through real sockets and processes: one file a capability.

mod harness;

mod caching;
