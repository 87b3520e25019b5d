#![allow(dead_code)]
mod cache;
mod clock;
mod config;
mod front;
mod observe;
mod origin;
mod pass;
mod plan;
mod request;
mod snapshot;
fn main() {}
