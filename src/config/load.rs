//! Loads a configuration from disk: the main file, its `sites.d/*.toml` and its tokens file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

use super::diagnose::{ConfigErrors, Diagnostic, Diagnostics, Place, Source};
use super::file::{self, File};
use super::model::{Config, Token};
use super::read::Table;
use super::regular;
use super::resolve::{self, Outside};
use super::tokens;

/// How often a configuration is read again that changes while it is read.
const MAX_READS: usize = 5;

/// Reads, checks and resolves the configuration whose main file is `path`.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let mut sources = read_sources(path)?;
    for _ in 1..MAX_READS {
        let result = load_sources(path, sources.clone());
        // A file that is being written may look whole and not be: what counts is what is there afterwards, too.
        let again = read_sources(path)?;
        if again == sources {
            return result;
        }
        sources = again;
    }
    load_sources(path, sources)
}

fn load_sources(path: &Path, sources: Vec<Source>) -> Result<Config, ConfigErrors> {
    let config = build(sources)?;
    if config.listeners.is_empty() {
        let message = "there is no [[listen]], so nothing would be served".to_owned();
        return Err(ConfigErrors { files: config.files, ..whole_file(path, message).into() });
    }
    Ok(config)
}

fn read_sources(path: &Path) -> Result<Vec<Source>, ConfigErrors> {
    let files = std::iter::once(path.to_owned()).chain(site_files(path)?);
    files.map(|file| read_source(&file)).collect::<Result<_, _>>().map_err(ConfigErrors::from)
}

/// Checks a configuration given as text, as if it stood in the main file `path`: what lies beside that file
/// belongs to it.
pub fn check(path: &Path, text: &str) -> Result<Config, ConfigErrors> {
    let mut sources = vec![Source { path: path.to_owned(), text: text.into(), secret: false }];
    for file in site_files(path)? {
        sources.push(read_source(&file)?);
    }
    load_sources(path, sources)
}

/// Checks and resolves a configuration that is one text and need not listen. Relative paths in it are relative
/// to `path`'s directory.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigErrors> {
    build(vec![Source { path: path.to_owned(), text: text.into(), secret: false }])
}

/// The files that belong to the configuration, in the order in which they are read.
pub fn site_files(main: &Path) -> Result<Vec<PathBuf>, ConfigErrors> {
    let directory = sites_directory(main);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(whole_file(&directory, error.to_string()).into()),
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
        .collect();
    files.sort();
    Ok(files)
}

/// The directory beside the main file whose `*.toml` files are read too.
pub fn sites_directory(main: &Path) -> PathBuf {
    main.parent().unwrap_or(Path::new("")).join("sites.d")
}

fn build(sources: Vec<Source>) -> Result<Config, ConfigErrors> {
    let mut errors = Diagnostics::default();
    let mut file = File::default();
    let mut syntax_is_right = true;
    for source in sources {
        let text = source.text.clone();
        let index = errors.add_source(source);
        match parse_toml(index, &text, &mut errors) {
            Some(root) => {
                let place = Place { file: index, start: 0, end: 0 };
                file::read(&mut file, Table::new(index, "the configuration", root.get_ref(), place), &mut errors);
            }
            None => syntax_is_right = false,
        }
    }
    if !syntax_is_right {
        // Whole sections may be missing: resolving the rest would report the gaps as further mistakes.
        return Err(errors.into_errors());
    }
    let tokens = read_tokens(&file, &mut errors);
    let outside = Outside { fingerprint: fingerprint(errors.sources()), tokens };
    let config = resolve::resolve(file, outside, &mut errors);
    if errors.is_empty() { Ok(config) } else { Err(errors.into_errors()) }
}

fn read_tokens(file: &File, errors: &mut Diagnostics) -> Vec<Token> {
    let Some(at) = file.admin.as_ref().and_then(|admin| admin.tokens_file.as_ref()) else { return Vec::new() };
    let path = resolve::relative_to(errors.file(at.place), &at.value);
    errors.names_file(path.clone());
    match read_source(&path) {
        Ok(source) => {
            let text = source.text.clone();
            let index = errors.add_source(Source { secret: true, ..source });
            let root = parse_toml(index, &text, errors);
            root.map_or_else(Vec::new, |root| tokens::read(index, root.get_ref(), errors))
        }
        Err(diagnostic) => {
            errors.error(at.place, format!("{}: {}", path.display(), diagnostic.message));
            Vec::new()
        }
    }
}

/// The file's tables, or `None` with every syntax error reported.
fn parse_toml<'i>(index: usize, text: &'i str, errors: &mut Diagnostics) -> Option<Spanned<DeTable<'i>>> {
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        let span = error.span().unwrap_or_default();
        errors.error(Place { file: index, start: span.start, end: span.end }, error.message().to_owned());
    }
    syntax_errors.is_empty().then_some(root)
}

fn read_source(path: &Path) -> Result<Source, Diagnostic> {
    let text = regular::read(path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()));
    match text {
        Ok(text) => Ok(Source { path: path.to_owned(), text: text.into(), secret: false }),
        Err(error) => Err(whole_file(path, format!("cannot be read: {error}"))),
    }
}

fn whole_file(path: &Path, message: String) -> Diagnostic {
    Diagnostic { file: path.to_owned(), line: 0, column: 0, text: String::new(), width: 0, message, hint: None }
}

fn fingerprint(sources: &[Source]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for source in sources {
        source.path.hash(&mut hasher);
        source.text.hash(&mut hasher);
    }
    hasher.finish()
}
