//! Configuration: from TOML files to the validated model that every request reads.
//!
//! One direction: text -> [`read`] (typed values of a table) -> [`section`] (what each section is to the node) ->
//! [`resolve`] (all of them together) -> [`model`]. All mistakes of a load are collected by [`diagnose`] and reported
//! together; a configuration with a mistake is never used.

pub(crate) mod diagnose;
pub(crate) mod host;
pub mod load;
mod meant;
pub(crate) mod model;
mod notes;
pub(crate) mod read;
pub(in crate::config) mod regular;
mod resolve;
pub(crate) mod routes;
pub(crate) mod section;
mod syntax;
pub(crate) mod tokens;
pub(crate) mod units;
mod value;
mod variables;
pub(crate) mod watch;
