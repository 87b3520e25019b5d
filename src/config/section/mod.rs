//! The sections of the configuration, a file each: what a section is to the node, its defaults, how it is read and what
//! is checked. What needs other sections is left to [`super::resolve`].

pub(crate) mod access;
pub(crate) mod admin;
pub(crate) mod answer;
pub(crate) mod by_response;
pub(crate) mod cache;
pub(crate) mod certificate;
pub(crate) mod compress;
mod condition;
pub(crate) mod cors;
pub(crate) mod disk;
pub(crate) mod error_page;
pub(crate) mod fields;
mod file;
pub(crate) mod files;
pub(crate) mod hash_key;
pub(crate) mod health;
pub(crate) mod key;
pub(crate) mod limits;
pub(crate) mod listen;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod node;
pub(crate) mod origin;
pub(crate) mod pool;
pub(crate) mod retry;
pub(crate) mod rewrite;
pub(crate) mod route;
pub(crate) mod sets;
pub(crate) mod site;
pub(crate) mod split;
pub(crate) mod sticky;
mod template;
