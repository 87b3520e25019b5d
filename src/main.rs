#![allow(dead_code)]
mod cache;
mod clock;
mod config;
mod origin;
mod plan;
mod request;
fn main() {}
