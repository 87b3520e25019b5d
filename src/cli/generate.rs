//! `seawall generate`: manual pages and completions, for packages.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to write.
    what: What,
    /// The directory that the files go into; it is made if it is not there.
    #[arg(long, default_value = ".")]
    to: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// A manual page for each command: seawall.1, seawall-run.1 and so on.
    Man,
    Bash,
    Zsh,
    Fish,
}

/// Of seawall(1), what is not known from the command line.
const BEYOND: &str = include_str!("seawall.1.roff");

pub(crate) fn execute(args: &Args) -> super::Result {
    let command = super::Cli::command();
    let to = &args.to;
    let cannot = |error: std::io::Error| format!("cannot write into {}: {error}", to.display());
    std::fs::create_dir_all(to).map_err(cannot)?;
    match args.what {
        What::Man => {
            clap_mangen::generate_to(command, to).map_err(cannot)?;
            let main = std::fs::File::options().append(true).open(to.join("seawall.1"));
            main.and_then(|mut main| main.write_all(BEYOND.as_bytes())).map_err(cannot)?;
        }
        What::Bash => complete(command, Shell::Bash, to).map_err(cannot)?,
        What::Zsh => complete(command, Shell::Zsh, to).map_err(cannot)?,
        What::Fish => complete(command, Shell::Fish, to).map_err(cannot)?,
    }
    Ok(())
}

fn complete(mut command: Command, shell: Shell, to: &Path) -> std::io::Result<()> {
    clap_complete::generate_to(shell, &mut command, "seawall", to).map(drop)
}
