//! Seawall: a Layer-7 reverse proxy and edge cache, one node of a CDN. See ARCHITECTURE.md.
//!
//! The program is [`Cli`]; the binary only calls it and prints what went wrong.

mod address;
mod admin;
mod app;
mod boxed;
mod cache;
mod chores;
mod chunked;
mod cli;
mod clock;
mod config;
mod drain;
mod expression;
mod fields;
mod front;
mod geoip;
mod handover;
#[doc(hidden)]
pub mod internals;
mod lock;
mod node;
mod observe;
mod origin;
mod pace;
mod pass;
mod pattern;
mod plan;
mod prefix;
mod representation;
mod request;
mod running;
mod sandbox;
mod snapshot;
mod spelling;
mod state_dir;
mod systemd;
mod template;
mod tunnels;
mod verdict;
mod warm;

pub use cli::Cli;
