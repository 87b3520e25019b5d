//! `files` of a route: static files, as an origin of its own.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::config::diagnose::{At, Diagnostics};
use crate::config::read::Table;

/// A directory whose files are served.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Files {
    pub root: PathBuf,
    /// What is looked for in a directory.
    pub index: Vec<String>,
    /// The paths that are looked for, one after the other: `{path}` is the request's.
    pub tries: Vec<String>,
    /// Files beside a file that are the same in a content coding: `app.js.br`.
    pub precompressed: bool,
}

/// Stands for the request's path.
pub(crate) const PATH: &str = "{path}";

impl Files {
    fn of(root: PathBuf) -> Self {
        Files { root, index: vec!["index.html".into()], tries: vec![PATH.into()], precompressed: true }
    }
}

/// Reads `files = "/srv/www"`, or a table with more. `None`: a mistake, which is said.
pub(super) fn read(table: &mut Table) -> Option<Files> {
    let errors = table.errors;
    let name = format!("files of {}", table.name);
    let value = table.any("files")?;
    match (value.str(), Table::of(value, &name, errors)) {
        (Some(root), _) => check_root(&At { value: root.to_owned(), place: value.place }, errors).map(Files::of),
        (None, Some(table)) => read_table(table),
        (None, None) => {
            let hint = "write files = \"/srv/www\" or files = { root = \"/srv/www\" }";
            errors.error_with_hint(value.place, format!("wrong value for {name}: expected a directory"), hint);
            None
        }
    }
}

fn read_table(mut table: Table) -> Option<Files> {
    let errors = table.errors;
    let root = table.require::<String>("root").and_then(|root| check_root(&root, errors));
    let mut files = Files::of(root.clone().unwrap_or_default());
    if let Some(all) = table.optional_list::<String>("index") {
        let is_name = |at: &At<String>| !at.value.is_empty() && !at.value.contains('/');
        for wrong in all.iter().filter(|at| !is_name(at)) {
            let message = format!("{:?} in \"index\" is no name of a file such as \"index.html\"", wrong.value);
            errors.error(wrong.place, message);
        }
        files.index = all.into_iter().map(|at| at.value).collect();
    }
    if let Some(all) = table.optional_list::<String>("try") {
        for wrong in all.iter().filter(|at| !at.value.starts_with('/') && !at.value.starts_with(PATH)) {
            let message = format!("{:?} in \"try\" is no path such as \"/index.html\" or \"{PATH}.html\"", wrong.value);
            errors.error(wrong.place, message);
        }
        for wrong in all.iter().filter(|at| at.value.replace(PATH, "").contains(['{', '}', '$'])) {
            let message = format!("{:?} in \"try\": {PATH} is all that is filled in", wrong.value);
            errors.error(wrong.place, message);
        }
        files.tries = all.into_iter().map(|at| at.value).collect();
    }
    table.set("precompressed", &mut files.precompressed);
    table.finish();
    root.map(|_| files)
}

/// An absolute path of what is a directory at the moment.
fn check_root(root: &At<String>, errors: &Diagnostics) -> Option<PathBuf> {
    if root.value.is_empty() {
        errors.error_with_hint(root.place, "no directory is named", "name the one with what is to be public");
        return None;
    }
    let path = errors.resolve_path(root);
    // What is no directory is not waited for: a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(&path, flags, Mode::empty()).map_err(std::io::Error::from);
    let found = opened.and_then(|opened| std::fs::File::from(opened).metadata());
    match found {
        Ok(found) if found.is_dir() => {}
        Ok(_) => errors.warn(root.place, format!("{} is no directory", path.display()), "files are served from one"),
        Err(error) => {
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "let the node's user read it; until then requests get 502",
                _ => "requests get 502 until it is there",
            };
            errors.warn(root.place, format!("{} cannot be opened: {error}", path.display()), hint);
        }
    }
    // By whatever name: a link may lead there.
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    if real == Path::new("/") {
        let message = format!("{:?} would serve every file of the machine", root.value);
        errors.error_with_hint(root.place, message, "name the directory with what is to be public");
        return None;
    }
    errors.publish(path.clone(), root.place);
    Some(path)
}
