//! Configuration: from TOML files to the validated model that every request reads.
//!
//! One direction: text -> [`mod@file`] (as written) -> [`model`] (as used). All mistakes of a load are
//! collected by [`diagnose`] and reported together; a configuration with a mistake is never used.

pub mod cache;
pub mod certificate;
pub mod diagnose;
pub mod disk;
mod file;
pub mod host;
pub mod load;
pub mod model;
pub mod pattern;
pub mod read;
mod regular;
mod resolve;
pub mod routes;
pub mod rules;
pub mod tokens;
pub mod units;
pub mod watch;
