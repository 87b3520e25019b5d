//! Configuration mistakes, told so that an operator can mend them at once: file, line, column, the
//! offending text, what was expected and a hint. All mistakes of a load are reported together.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::spelling::did_you_mean;

/// One configuration file as read from disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub path: PathBuf,
    pub text: Arc<str>,
    /// Whether its lines must not be shown.
    pub secret: bool,
}

/// A place in one of the loaded files: which file, and the byte range in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

impl Place {
    pub(crate) fn of(file: usize, span: Range<usize>) -> Self {
        Place { file, start: span.start, end: span.end }
    }
}

/// A value together with where the operator wrote it.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// One mistake, ready to print.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Diagnostic {
    pub file: PathBuf,
    /// Counted from 1; 0 when the mistake concerns the file as a whole.
    pub line: usize,
    /// Counted in characters from 1.
    pub column: usize,
    /// The line as written, without its end.
    pub text: String,
    /// How many characters of `text` are to blame, from `column` on.
    pub width: usize,
    pub message: String,
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A mistake that concerns a file as a whole.
    pub fn of_file(path: &Path, message: String) -> Self {
        Diagnostic { file: path.to_owned(), line: 0, column: 0, text: String::new(), width: 0, message, hint: None }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        if self.line > 0 && !self.text.is_empty() {
            let gutter = self.line.to_string();
            let pad = " ".repeat(gutter.len());
            let indent = " ".repeat(self.column.saturating_sub(1));
            let carets = "^".repeat(self.width.max(1));
            write!(f, "\n {gutter} | {}\n {pad} | {indent}{carets}", self.text)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n   = hint: {hint}")?;
        }
        Ok(())
    }
}

/// Why a configuration was refused: every mistake found, in the order of the files.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", show(.diagnostics))]
pub struct ConfigErrors {
    pub diagnostics: Vec<Diagnostic>,
    /// The files that were looked at: a change in one of them may mend it.
    pub files: Vec<PathBuf>,
}

impl From<Diagnostic> for ConfigErrors {
    /// One mistake that concerns a file as a whole.
    fn from(diagnostic: Diagnostic) -> Self {
        ConfigErrors { files: vec![diagnostic.file.clone()], diagnostics: vec![diagnostic] }
    }
}

fn show(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Collects mistakes while the configuration is read, so that one run reports all of them.
#[derive(Default)]
pub(crate) struct Diagnostics(RefCell<Collected>);

#[derive(Default)]
struct Collected {
    sources: Vec<Source>,
    /// How many of them are the configuration itself: they come first.
    own: usize,
    named: Vec<PathBuf>,
    found: Vec<(Place, Diagnostic)>,
    /// What is no mistake, and hardly meant.
    doubtful: Vec<(Place, Diagnostic)>,
    /// What depends on something that may be said elsewhere.
    needing: Vec<(Need, Place)>,
    provided: Vec<Need>,
    filled: Vec<(Place, Filled)>,
    /// Where no more is to be said: the value is not there at all.
    settled: Vec<Place>,
    public: Vec<(PathBuf, Place)>,
    private: Vec<PathBuf>,
    /// What stands in files of the machine is not for who reads the mistakes.
    withholds: bool,
}

/// A value that is not in the configuration itself, but is filled in.
#[derive(Debug, Clone)]
pub(crate) struct Filled {
    /// It with what was filled in so that no template takes it for more than text.
    pub literal: String,
    /// What was filled in, and how it is named in the configuration: messages say that instead.
    pub parts: Vec<(String, String)>,
}

/// Something that parts of a configuration may need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    CountryFile,
    AsnFile,
    /// A listener of this name.
    Listener(Box<str>),
}

impl Need {
    /// What is wrong where it is missing, and what to do; `provided`: what there is.
    fn missing(&self, provided: &[Need]) -> (String, String) {
        match self {
            Need::CountryFile => (
                "the countries of clients are not known".to_owned(),
                "add country_file = \"/var/lib/GeoIP/GeoLite2-Country.mmdb\" to [node]".to_owned(),
            ),
            Need::AsnFile => (
                "the autonomous systems of clients are not known".to_owned(),
                "add asn_file = \"/var/lib/GeoIP/GeoLite2-ASN.mmdb\" to [node]".to_owned(),
            ),
            Need::Listener(name) => {
                let named = |need: &'_ Need| match need {
                    Need::Listener(name) => Some(name.to_string()),
                    _ => None,
                };
                let known: Vec<String> = provided.iter().filter_map(named).collect();
                let hint = match did_you_mean(name, known.iter().map(String::as_str)) {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => format!("add name = {name:?} to its [[listen]]"),
                };
                (format!("there is no listener {name:?}"), hint)
            }
        }
    }
}

impl Diagnostics {
    /// Registers a file that mistakes can be in; gives the number that places refer to it by.
    pub(crate) fn add_source(&self, source: Source) -> usize {
        let sources = &mut self.0.borrow_mut().sources;
        sources.push(source);
        sources.len() - 1
    }

    /// Notes that all files of the configuration itself are registered.
    pub(crate) fn sources_are_all(&self) {
        let mut collected = self.0.borrow_mut();
        collected.own = collected.sources.len();
    }

    /// More mistakes than this are not told: nobody reads on, and a hostile file could have any number.
    const MOST: usize = 100;
    /// Longer lines are not shown.
    const LONGEST_LINE: usize = 500;

    pub(crate) fn error(&self, place: Place, message: impl Into<String>) {
        self.push(place, message.into(), None);
    }

    pub(crate) fn error_with_hint(&self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.push(place, message.into(), Some(hint.into()));
    }

    /// The same, and whatever is wrong besides at that place follows from it.
    pub(crate) fn last_error(&self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.error_with_hint(place, message, hint);
        self.0.borrow_mut().settled.push(place);
    }

    /// What was given again and may be given once.
    pub(crate) fn again(&self, place: Place, message: impl Into<String>, first: Place) {
        if self.is_full() {
            return;
        }
        let hint = {
            let source = &self.0.borrow().sources[first.file];
            let (line, column, ..) = locate(&source.text, first.start, first.end);
            format!("first given at {}:{line}:{column}", source.path.display())
        };
        self.error_with_hint(place, message, hint);
    }

    /// The value, or a mistake at the place.
    pub(crate) fn accept<T>(&self, place: Place, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error(place, message)).ok()
    }

    /// What texts stand for; of those that stand for nothing a mistake is made.
    pub(crate) fn parse_all<T: FromStr<Err = String>>(&self, texts: Vec<At<String>>) -> Vec<T> {
        texts.into_iter().filter_map(|text| self.accept(text.place, text.value.parse())).collect()
    }

    /// Notes that the value at a place was filled in.
    pub(crate) fn note_filled(&self, place: Place, filled: Filled) {
        self.0.borrow_mut().filled.push((place, filled));
    }

    /// What is read as a template for a value: of what was filled in, braces mean themselves.
    pub(crate) fn as_template(&self, value: &At<String>) -> String {
        let collected = self.0.borrow();
        let filled = collected.filled.iter().find(|(place, _)| *place == value.place);
        filled.map_or_else(|| value.value.clone(), |(_, filled)| filled.literal.clone())
    }

    /// Who reads the mistakes is not to learn from them what stands in files of the machine.
    pub(crate) fn withhold(&self) {
        self.0.borrow_mut().withholds = true;
    }

    /// What is said of a mistake in such a file, that quotes from it.
    pub(crate) fn quoting(&self, why: String) -> String {
        match self.0.borrow().withholds {
            true => WITHHELD.to_owned(),
            false => why,
        }
    }

    /// A path in a configuration file is relative to that file.
    pub(crate) fn resolve_path(&self, path: &At<String>) -> PathBuf {
        let written_in = &self.0.borrow().sources[path.place.file].path;
        written_in.parent().unwrap_or(Path::new("")).join(&path.value)
    }

    /// The place of some bytes of a text in quotes.
    pub(crate) fn within(&self, place: Place, part: Range<usize>) -> Place {
        let collected = self.0.borrow();
        let written = collected.sources[place.file].text.get(place.start..place.end).unwrap_or_default();
        let begin = match written {
            _ if written.starts_with('"') && written.contains('\\') => return place, // escapes take more bytes than they are
            _ if written.starts_with("\'\'\'") || written.starts_with("\"\"\"") => {
                3 + usize::from(written[3..].starts_with('\n'))
            }
            _ => 1,
        };
        let at = |byte: usize| (place.start + begin + byte).min(place.end);
        Place { start: at(part.start), end: at(part.end), ..place }
    }

    /// Notes that something at this place is needed, wherever it is said.
    pub(crate) fn need(&self, need: Need, place: Place) {
        self.0.borrow_mut().needing.push((need, place));
    }

    /// Notes that it is said, rightly or wrongly.
    pub(crate) fn provide(&self, need: Need) {
        self.0.borrow_mut().provided.push(need);
    }

    /// Reports what needs something that is said nowhere.
    pub(crate) fn report_needs(&self) {
        let (needing, provided) = {
            let mut collected = self.0.borrow_mut();
            (std::mem::take(&mut collected.needing), std::mem::take(&mut collected.provided))
        };
        for (need, place) in needing.into_iter().filter(|(need, _)| !provided.contains(need)) {
            let (message, hint) = need.missing(&provided);
            self.error_with_hint(place, message, hint);
        }
    }

    /// Notes a directory whose files are public.
    pub(crate) fn publish(&self, directory: PathBuf, place: Place) {
        self.0.borrow_mut().public.push((directory, place));
    }

    /// Notes a file or directory that must not be.
    pub(crate) fn keep_private(&self, path: &Path) {
        self.0.borrow_mut().private.push(path.to_owned());
    }

    /// Reports what is public and must not be: the configuration itself, what it keeps secret, and what it names so.
    pub(crate) fn report_public(&self) {
        let found: Vec<(Place, PathBuf)> = {
            let collected = self.0.borrow();
            if collected.public.is_empty() {
                return;
            }
            let mut public: HashMap<PathBuf, Place> = HashMap::new();
            for (directory, place) in &collected.public {
                public.entry(real(directory)).or_insert(*place);
            }
            let is_own = |(number, source): &(usize, &Source)| *number < collected.own || source.secret;
            let own = collected.sources.iter().enumerate().filter(is_own).map(|(_, source)| &source.path);
            // Links are followed as far as they stay inside: a name that begins with a dot hides nothing that one leads to.
            let within = |path: &PathBuf| {
                let path = real(path);
                let directory = path.ancestors().find(|above| public.contains_key(*above))?;
                Some((public[directory], path.clone()))
            };
            // And a directory within one that is private.
            let private: HashSet<PathBuf> = collected.private.iter().map(|path| real(path)).collect();
            let inside = |(directory, place): (&PathBuf, &Place)| {
                let above = directory.ancestors().skip(1).find(|above| private.contains(*above))?;
                Some((*place, above.to_owned()))
            };
            let inside: Vec<_> = public.iter().filter_map(inside).collect();
            own.chain(&collected.private).filter_map(within).chain(inside).collect()
        };
        for (place, path) in found {
            let message = format!("it would serve {}, which is not to be public", path.display());
            let hint = "name the directory with what is to be public, and nothing else";
            self.error_with_hint(place, message, hint);
        }
    }

    /// The path of a file that belongs to the configuration, whether it can be read or not.
    pub(crate) fn file_named(&self, path: &At<String>) -> PathBuf {
        let path = self.resolve_path(path);
        self.0.borrow_mut().named.push(path.clone());
        path
    }

    /// Changes when anything that the files say does.
    pub(crate) fn hash_sources(&self, hasher: &mut impl Hasher) {
        self.0.borrow().sources.hash(hasher);
    }

    /// Every file the configuration is made of, certificates included.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let collected = self.0.borrow();
        collected.sources.iter().map(|source| &source.path).chain(&collected.named).cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().found.is_empty()
    }

    /// Whether another mistake would not be told.
    pub(crate) fn is_full(&self) -> bool {
        self.0.borrow().found.len() >= Self::MOST
    }

    /// Everything found, ordered by file and position.
    pub(crate) fn into_errors(self) -> ConfigErrors {
        let files = self.files();
        ConfigErrors { diagnostics: in_order(self.0.into_inner().found), files }
    }

    /// What is no mistake, and hardly meant, in the same order.
    pub(crate) fn warnings(&self) -> Vec<Diagnostic> {
        in_order(self.0.borrow().doubtful.clone())
    }

    /// Notes what is no mistake, and hardly meant.
    pub(crate) fn warn(&self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        let message = message.into();
        let is_said = |(at, found): &(Place, Diagnostic)| *at == place && found.message == message;
        let is_new = !self.0.borrow().doubtful.iter().any(is_said);
        if is_new && self.0.borrow().doubtful.len() < Self::MOST {
            let diagnostic = self.diagnostic(place, message, Some(hint.into()));
            self.0.borrow_mut().doubtful.push((place, diagnostic));
        }
    }

    fn push(&self, place: Place, message: String, hint: Option<String>) {
        // What several tables inherit is said once.
        let is_said = |(at, found): &(Place, Diagnostic)| *at == place && found.message == message;
        let within =
            |settled: &Place| settled.file == place.file && settled.start <= place.start && place.end <= settled.end;
        let is_settled = self.0.borrow().settled.iter().any(within);
        if !self.is_full() && !is_settled && !self.0.borrow().found.iter().any(is_said) {
            let diagnostic = self.diagnostic(place, message, hint);
            self.0.borrow_mut().found.push((place, diagnostic));
        }
    }

    fn diagnostic(&self, place: Place, message: String, hint: Option<String>) -> Diagnostic {
        let collected = self.0.borrow();
        let source = &collected.sources[place.file];
        let (line, column, text, width) = locate(&source.text, place.start, place.end);
        let shown = !source.secret && text.len() <= Self::LONGEST_LINE;
        let text = if shown { text.to_owned() } else { String::new() };
        let here = |(at, _): &&(Place, Filled)| at.file == place.file && at.start <= place.start && place.end <= at.end;
        let filled: Vec<&Filled> = collected.filled.iter().filter(here).map(|(_, filled)| filled).collect();
        let names = || filled.iter().flat_map(|filled| &filled.parts).map(|(_, name)| name.as_str());
        let unsaid =
            || format!("there is something wrong with what {} stands for", names().collect::<Vec<_>>().join(" and "));
        // A mistake of a table may quote what was filled in far from where it is told.
        let everywhere = |text: String| collected.filled.iter().fold(text, |text, (_, filled)| named(text, filled));
        let message = match collected.withholds && source.secret {
            true => WITHHELD.to_owned(),
            false => unfilled(message, &filled).map_or_else(unsaid, everywhere),
        };
        let hint = hint.filter(|_| !(collected.withholds && source.secret));
        let hint = hint.and_then(|hint| unfilled(hint, &filled)).map(everywhere);
        Diagnostic { file: source.path.clone(), line, column, text, width, message, hint }
    }
}

/// By whatever name. What is not there yet is where it will be: behind what is there of its path.
fn real(path: &Path) -> PathBuf {
    let mut real = PathBuf::new();
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match part {
            Component::ParentDir => _ = real.pop(), // what was before it is real: no link is skipped by that
            part => real.push(part),
        }
        if let Ok(there) = real.canonicalize() {
            real = there;
        }
    }
    real
}

/// A message with the names of what was filled in, in place of that: it may be secret. `None`: it has a part of it, too.
fn unfilled(mut message: String, filled: &[&Filled]) -> Option<String> {
    let parts = || filled.iter().flat_map(|filled| &filled.parts).filter(|(value, _)| value.len() >= SECRET);
    message = filled.iter().fold(message, |message, filled| named(message, filled));
    let lower = message.to_lowercase();
    let is_told = |value: &str| {
        let value = value.to_lowercase();
        value.as_bytes().windows(SECRET).any(|part| memchr::memmem::find(lower.as_bytes(), part).is_some())
    };
    (!parts().any(|(value, _)| is_told(value))).then_some(message)
}

/// A message in which whole values have the names that they are filled in by.
fn named(message: String, filled: &Filled) -> String {
    let parts = filled.parts.iter().filter(|(value, _)| value.len() >= SECRET);
    parts.fold(message, |message, (value, name)| {
        let quoted = format!("{value:?}");
        message.replace(value, name).replace(&quoted[1..quoted.len() - 1], name)
    })
}

/// Of what stands in a file, to who may not read it.
const WITHHELD: &str = "it is not as it should be; what is in files is not given to the API";

/// Bytes that tell something of a value.
const SECRET: usize = 4;

fn in_order(mut all: Vec<(Place, Diagnostic)>) -> Vec<Diagnostic> {
    all.sort_by_key(|(place, _)| (place.file, place.start));
    all.into_iter().map(|(_, diagnostic)| diagnostic).collect()
}

/// Line and column (both from 1), the line's text, and how many of its characters the range covers.
fn locate(text: &str, start: usize, end: usize) -> (usize, usize, &str, usize) {
    let start = floor_char_boundary(text, start);
    let end = floor_char_boundary(text, end).max(start);
    let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let line = text[..start].matches('\n').count() + 1;
    let column = text[line_start..start].chars().count() + 1;
    let width = text[start..end.min(line_end)].chars().count();
    (line, column, text[line_start..line_end].trim_end_matches('\r'), width)
}

pub(crate) fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_in_is_not_told() {
        let filled =
            |value: &str| Filled { literal: String::new(), parts: vec![(value.to_owned(), "${X}".to_owned())] };
        for (message, value, expected) in [
            ("\"hunter2\" is no number", "hunter2", Some("\"${X}\" is no number")),
            ("write \"user:hunter2@h\"", "http://user:hunter2@h/", None),
            ("unknown unit \"HUNT\"", "5hunter2", None),
            ("/run/x/one.pem cannot be read", "/run/x", Some("${X}/one.pem cannot be read")),
            ("wrong value for \"e\"", "e", Some("wrong value for \"e\"")),
            ("\"a\\\"bcd\" is none", "a\"bcd", Some("\"${X}\" is none")),
        ] {
            assert_eq!(unfilled(message.to_owned(), &[&filled(value)]).as_deref(), expected, "{message}");
        }
    }

    #[test]
    fn a_mistake_shows_its_line_and_points_at_it() {
        let source = Source { path: "a.toml".into(), text: "[x]\nürl = 1\n".into(), secret: false };
        let diagnostics = Diagnostics::default();
        diagnostics.add_source(source);
        diagnostics.error_with_hint(Place { file: 0, start: 4, end: 8 }, "unknown key", "try \"url\"");
        let shown = diagnostics.into_errors().to_string();
        assert_eq!(shown, "a.toml:2:1: unknown key\n 2 | ürl = 1\n   | ^^^\n   = hint: try \"url\"");
    }

    #[test]
    fn places_beyond_the_text_do_not_panic() {
        assert_eq!(locate("ab", 10, 20), (1, 3, "ab", 0));
        assert_eq!(locate("", 0, 1), (1, 1, "", 0));
    }
}
