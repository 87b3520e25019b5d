#![allow(dead_code)]
mod clock; mod config; mod plan; mod request;
fn main() {}
