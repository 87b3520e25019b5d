#![allow(dead_code)]
mod admin;
mod app;
mod cache;
mod clock;
mod config;
mod front;
mod node;
mod observe;
mod origin;
mod pass;
mod plan;
mod request;
mod snapshot;
fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let path = std::path::PathBuf::from(std::env::args().nth(1).unwrap());
    let config = config::load::load(&path).unwrap_or_else(|e| panic!("{e}"));
    app::run(config, node::ConfigSource::File(path)).unwrap();
}
