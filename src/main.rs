//! Seawall: a Layer-7 reverse proxy and edge cache, one node of a CDN. See ARCHITECTURE.md.

mod admin;
mod app;
mod cache;
mod cli;
mod clock;
mod config;
mod front;
mod node;
mod observe;
mod origin;
mod pace;
mod pass;
mod plan;
mod prefix;
mod request;
mod snapshot;
mod state_dir;
mod warm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seawall: {error}"); // with its causes in it
            ExitCode::FAILURE
        }
    }
}
