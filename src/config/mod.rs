//! Configuration: from TOML files to the validated model that every request reads.
//!
//! One direction: text -> [`read`] (typed values of a table) -> [`section`] (what each section is to the node) ->
//! [`resolve`] (all of them together) -> [`model`]. All mistakes of a load are collected by [`diagnose`] and reported
//! together; a configuration with a mistake is never used.

pub mod diagnose;
pub mod host;
pub mod load;
pub mod model;
pub mod pattern;
pub mod read;
mod regular;
mod resolve;
pub mod routes;
pub mod section;
mod syntax;
pub mod tokens;
pub mod units;
mod value;
pub mod watch;
