//! `seawall check`.

use std::path::PathBuf;

use crate::config::load;

#[derive(clap::Args)]
pub struct Args {
    /// Main configuration files; the sites.d beside each is checked with it.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub fn execute(args: &Args) -> super::Result {
    let mut mistakes = 0;
    for file in &args.files {
        match load::load(file) {
            Ok(config) => {
                let (sites, pools) = (config.sites.len(), config.pools.len());
                println!("{}: ok ({sites} sites, {pools} pools)", file.display());
            }
            Err(errors) => {
                mistakes += errors.diagnostics.len();
                println!("{errors}");
            }
        }
    }
    match mistakes {
        0 => Ok(()),
        1 => Err("1 mistake".into()),
        many => Err(format!("{many} mistakes").into()),
    }
}
