//! The command line's shell: see [`seawall::Cli`].

use std::process::ExitCode;

use clap::Parser;
use seawall::Cli;

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seawall: {error}"); // with its causes in it
            ExitCode::FAILURE
        }
    }
}
