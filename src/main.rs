//! The command line's shell: see [`seawall::Cli`].

use std::process::ExitCode;

use clap::Parser;
use seawall::Cli;

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            Cli::complain(error.as_ref());
            ExitCode::FAILURE
        }
    }
}
