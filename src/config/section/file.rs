//! Files that a section names: they belong to the configuration, so a change of one is a reload.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::diagnose::{At, Diagnostics};
use crate::config::regular;

/// Bytes of a body that the node answers with.
const MAX_BODY: usize = 1 << 20;

/// The text of a file, with its path. `None`: that it cannot be read is said.
pub(super) fn text(file: &At<String>, errors: &Diagnostics) -> Option<(PathBuf, Arc<str>)> {
    let path = errors.file_named(file);
    let read = regular::read_source(&path).map_err(|why| format!("{}: {why}", path.display()));
    let source = errors.accept(file.place, read)?;
    let text = source.text.clone();
    errors.add_source(source);
    Some((path, text))
}

/// The same of one that is a body.
pub(super) fn body(file: &At<String>, errors: &Diagnostics) -> Option<Arc<str>> {
    let (path, text) = text(file, errors)?;
    let fits = text.len() <= MAX_BODY;
    let why = format!("{}: it has {} bytes; at most {MAX_BODY} are taken", path.display(), text.len());
    errors.accept(file.place, fits.then_some(text).ok_or(why))
}
