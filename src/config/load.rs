//! Loads a configuration from disk: the main file, its `sites.d/*.toml` and its tokens file.

use std::path::{Path, PathBuf};

use super::diagnose::{ConfigErrors, Diagnostic, Diagnostics, Source};
use super::model::Config;
use super::read::Table;
use super::regular;
use super::resolve::resolve;
use super::syntax;
use super::variables::{self, Values};

pub(crate) use super::variables::Environment;

/// How often a configuration is read again that changes while it is read.
const MAX_READS: usize = 5;

/// Reads, checks and resolves the configuration whose main file is `path`.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    load_with(path, &Environment::new())
}

/// The same, with variables beside those of this process: they come first.
pub fn load_with(path: &Path, environment: &Environment) -> Result<Config, ConfigErrors> {
    let values = Values::Ours(environment);
    let mut sources = read_sources(path)?;
    for _ in 1..MAX_READS {
        let result = load_sources(path, sources.clone(), values);
        // A file that is being written may look whole and not be: what counts is what is there afterwards, too.
        let again = read_sources(path)?;
        if again == sources {
            return result;
        }
        sources = again;
    }
    load_sources(path, sources, values)
}

/// Checks a configuration given as text, as if it stood in the main file `path`: what lies beside that file
/// belongs to it.
pub fn check(path: &Path, text: &str) -> Result<Config, ConfigErrors> {
    load_sources(path, with_sites(path, source(path, text))?, Values::Withheld)
}

/// Checks and resolves a configuration that is one text and need not listen. Relative paths in it are relative
/// to `path`'s directory.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigErrors> {
    build(vec![source(path, text)], Values::Withheld)
}

fn source(path: &Path, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.into(), secret: false }
}

fn load_sources(path: &Path, sources: Vec<Source>, values: Values<'_>) -> Result<Config, ConfigErrors> {
    let mut config = build(sources, values)?;
    config.warnings.extend(unread(path));
    if config.listeners.is_empty() {
        let message = "there is no [[listen]], so nothing would be served".to_owned();
        return Err(ConfigErrors { files: config.files, ..Diagnostic::of_file(path, message).into() });
    }
    Ok(config)
}

fn read_sources(path: &Path) -> Result<Vec<Source>, ConfigErrors> {
    with_sites(path, read_source(path)?)
}

/// The main file, and those beside it.
fn with_sites(path: &Path, main: Source) -> Result<Vec<Source>, ConfigErrors> {
    let mut sources = vec![main];
    for file in site_files(path)? {
        sources.push(read_source(&file)?);
    }
    Ok(sources)
}

fn read_source(path: &Path) -> Result<Source, Diagnostic> {
    regular::read_source(path).map_err(|error| Diagnostic::of_file(path, error))
}

/// The files that belong to the configuration, in the order in which they are read.
pub fn site_files(main: &Path) -> Result<Vec<PathBuf>, ConfigErrors> {
    let directory = sites_directory(main);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Diagnostic::of_file(&directory, error.to_string()).into()),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
        .collect();
    files.sort();
    Ok(files)
}

/// Files of that directory that look as if they were meant to be read, and are not.
fn unread(main: &Path) -> Vec<Diagnostic> {
    let entries = std::fs::read_dir(sites_directory(main)).into_iter().flatten();
    let is_config = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ["conf", "cfg", "tml"].iter().any(|other| ending == *other))
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_config).collect();
    paths.sort();
    let message = "it is not read: the names of files in sites.d end with .toml";
    paths.iter().map(|path| Diagnostic::of_file(path, message.to_owned())).collect()
}

/// The directory beside the main file whose `*.toml` files are read too.
pub fn sites_directory(main: &Path) -> PathBuf {
    main.parent().unwrap_or(Path::new("")).join("sites.d")
}

fn build(sources: Vec<Source>, values: Values<'_>) -> Result<Config, ConfigErrors> {
    let errors = Diagnostics::default();
    if values == Values::Withheld {
        errors.withhold();
    }
    let texts: Vec<_> = sources.iter().map(|source| source.text.clone()).collect();
    let numbers = sources.into_iter().map(|source| errors.add_source(source));
    // All files first: what a value names has numbers behind theirs.
    let numbered: Vec<_> = numbers.zip(&texts).collect();
    errors.sources_are_all();
    let parsed = numbered.into_iter().map(|(file, text)| (file, syntax::parse(file, text, &errors)));
    let mut roots: Vec<_> = parsed.collect();
    let is_whole = errors.is_empty();
    for (file, root) in &mut roots {
        root.iter_mut().for_each(|root| variables::fill(*file, root, values, &errors));
    }
    let tables = roots
        .iter()
        .filter_map(|(file, root)| Some(Table::of_file(*file, "the configuration", root.as_ref()?.get_ref(), &errors)));
    let config = resolve(tables.collect(), is_whole, &errors);
    if errors.is_empty() { Ok(config) } else { Err(errors.into_errors()) }
}
