//! `seawall check`.

use std::path::PathBuf;

use crate::config::load;
use crate::config::units::count;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Main configuration files; the sites.d beside each is checked with it.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub(crate) fn execute(args: &Args) -> super::Result {
    let mut mistakes = 0;
    for file in &args.files {
        if file.parent().is_some_and(|parent| parent.ends_with("sites.d")) {
            let message = "a file of sites.d is checked with the main file that it belongs to, such as ../seawall.toml";
            return Err(format!("{}: {message}", file.display()).into());
        }
        match load::load(file) {
            Ok(config) => {
                let (sites, pools) = (config.sites.len() as u64, config.pools.len() as u64);
                config.warnings.iter().for_each(|warning| println!("warning: {warning}"));
                println!("{}: ok ({}, {})", file.display(), count(sites, "site"), count(pools, "pool"));
            }
            Err(errors) => {
                mistakes += errors.diagnostics.len() as u64;
                println!("{errors}");
            }
        }
    }
    if mistakes == 0 { Ok(()) } else { Err(count(mistakes, "mistake").into()) }
}
