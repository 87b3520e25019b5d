//! The sections of the configuration, a file each: what a section is to the node, its defaults, how it is read and what
//! is checked. What needs other sections is left to [`super::resolve`].

pub mod admin;
pub mod cache;
pub mod certificate;
pub mod compress;
pub mod disk;
pub mod key;
pub mod limits;
pub mod listen;
pub mod log;
pub mod memory;
pub mod node;
pub mod pool;
pub mod route;
pub mod site;
