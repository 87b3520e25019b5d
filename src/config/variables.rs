//! Values that are not in the configuration itself: `${NAME}` of the environment, and `file:PATH` for the text of a file, as
//! secrets are handed to a service or a container.

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnose::{At, Diagnostics, Filled, Place, Source};
use super::regular;

/// Variables and their values.
pub(crate) type Environment = BTreeMap<String, String>;

/// Where the values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values<'a> {
    /// From these variables, else from this process's own, and from the machine's files.
    Ours(&'a Environment),
    /// From nowhere: the text came from elsewhere, and what it names is not for who has sent it.
    Withheld,
}

impl Values<'_> {
    fn find(self, name: &str) -> Option<String> {
        let Values::Ours(environment) = self else { return None };
        environment.get(name).cloned().or_else(|| std::env::var(name).ok())
    }
}

/// Fills in the values of a file. What cannot be is reported.
pub(crate) fn fill(file: usize, root: &mut Spanned<DeTable<'_>>, values: Values<'_>, errors: &Diagnostics) {
    fill_table(file, root.get_mut(), values, errors);
}

fn fill_table(file: usize, table: &mut DeTable<'_>, values: Values<'_>, errors: &Diagnostics) {
    table.iter_mut().for_each(|(_, value)| fill_value(file, value, values, errors));
}

fn fill_value(file: usize, value: &mut Spanned<DeValue<'_>>, values: Values<'_>, errors: &Diagnostics) {
    let place = Place::of(file, value.span());
    match value.get_mut() {
        DeValue::Table(table) => fill_table(file, table, values, errors),
        DeValue::Array(items) => items.iter_mut().for_each(|item| fill_value(file, item, values, errors)),
        DeValue::String(text) => match filled(text, place, values, errors) {
            Ok(Some((new, filled))) => {
                errors.note_filled(place, filled);
                *text = Cow::Owned(new);
            }
            Ok(None) => {}
            Err((message, hint)) => errors.last_error(place, message, hint),
        },
        _ => {}
    }
}

/// `None`: it stays as it is.
fn filled(
    text: &str,
    place: Place,
    values: Values<'_>,
    errors: &Diagnostics,
) -> Result<Option<(String, Filled)>, (String, String)> {
    let file = text.strip_prefix("file:");
    let is_named = file.is_some() || parts(text).any(|part| matches!(part, Part::Variable { .. }));
    match (file, values) {
        (_, Values::Withheld) if is_named => {
            let hint = "check it on the node itself: seawall check FILE".to_owned();
            Err((format!("{text:?}: what is in the environment or in files is not given to the API"), hint))
        }
        (Some(path), _) => text_of(path, place, errors).map(|value| {
            let filled = Filled { literal: escaped(&value), parts: vec![(value.clone(), text.to_owned())] };
            Some((value, filled))
        }),
        (None, values) => {
            if let Some(meant) = meant(text) {
                let message = format!("{text:?} is sent as it is written: nothing is filled in there");
                errors.warn(place, message, format!("write {meant}"));
            }
            substitute(text, |name| values.find(name))
        }
    }
}

/// What may be meant by a text that names a value in the way of other programs, or a file within other text.
fn meant(text: &str) -> Option<String> {
    let is_name = |name: &&str| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_uppercase())
            && bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let last = text.rsplit(' ').next().unwrap_or(text);
    let name = ["$", "env:", "ENV:"].iter().find_map(|mark| last.strip_prefix(mark)).filter(is_name);
    let before = &text[..text.len() - last.len()];
    if let Some(name) = name {
        return Some(format!("\"{before}${{{name}}}\""));
    }
    let is_file = last.strip_prefix("file:").is_some_and(|path| path.starts_with(['/', '.']));
    is_file.then(|| format!("{last:?} alone, and {before:?} into the file"))
}

/// The text of a file, without the line break at its end. It belongs to the configuration: a change of it is a reload.
fn text_of(path: &str, place: Place, errors: &Diagnostics) -> Result<String, (String, String)> {
    let path = errors.file_named(&At { value: path.to_owned(), place });
    let source = regular::read_source(&path).map_err(|error| {
        let hint =
            "a value that begins with \"file:\" is the text of that file; a path is written without it".to_owned();
        (format!("{}: {error}", path.display()), hint)
    })?;
    let text = source.text.trim_end_matches(['\r', '\n']).to_owned();
    if text.is_empty() {
        errors.warn(
            place,
            format!("{} is empty, and so is this value", path.display()),
            "write the value into the file",
        );
    }
    errors.add_source(Source { secret: true, ..source });
    Ok(text)
}

enum Part<'a> {
    Text(&'a str),
    Variable { name: &'a str, default: Option<&'a str> },
}

/// A text in its parts: `${NAME}` and `${NAME:-DEFAULT}` are variables; `$${NAME}` is the text `${NAME}`.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut from = 0;
        while let Some(at) = rest[from..].find("${").map(|at| at + from) {
            let Some(variable) = variable(&rest[at..]) else {
                from = at + 2;
                continue;
            };
            let (length, part) = variable;
            // One "$" before it takes it for what it says.
            if rest[..at].ends_with('$') {
                let (before, behind) = (&rest[..at - 1], &rest[at..]);
                if !before.is_empty() {
                    rest = &rest[at - 1..];
                    return Some(Part::Text(before));
                }
                rest = &behind[length..];
                return Some(Part::Text(&behind[..length]));
            }
            if at > 0 {
                let before = &rest[..at];
                rest = &rest[at..];
                return Some(Part::Text(before));
            }
            rest = &rest[length..];
            return Some(part);
        }
        Some(Part::Text(std::mem::take(&mut rest)))
    })
}

/// The variable that a text begins with, and its length. Names are in upper case: `${host}` is somebody else's variable.
fn variable(text: &str) -> Option<(usize, Part<'_>)> {
    let end = text.find('}')?;
    let inner = text.get(2..end)?;
    let (name, default) = inner.split_once(":-").map_or((inner, None), |(name, default)| (name, Some(default)));
    let is_name = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    is_name.then_some((end + 1, Part::Variable { name, default }))
}

/// Braces as templates have them that mean nothing else.
fn escaped(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

/// `None`: there is nothing to fill in.
fn substitute(text: &str, find: impl Fn(&str) -> Option<String>) -> Result<Option<(String, Filled)>, (String, String)> {
    if !text.contains("${") {
        return Ok(None);
    }
    let (mut out, mut filled) = (String::new(), Filled { literal: String::new(), parts: Vec::new() });
    for part in parts(text) {
        match part {
            Part::Text(text) => {
                out += text;
                filled.literal += text;
            }
            Part::Variable { name, default } => match find(name).or_else(|| default.map(str::to_owned)) {
                Some(value) => {
                    out += &value;
                    filled.literal += &escaped(&value);
                    filled.parts.push((value, format!("${{{name}}}")));
                }
                None => {
                    let hint = format!(
                        "set it, for the service by Environment= or EnvironmentFile=; ${{{name}:-VALUE}} says what it is otherwise"
                    );
                    return Err((format!("there is no {name} in the environment"), hint));
                }
            },
        }
    }
    Ok((out != text).then_some((out, filled)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_for_a_value_is_told() {
        for (text, expected) in [
            ("$API_KEY", Some("\"${API_KEY}\"")),
            ("Bearer $API_KEY", Some("\"Bearer ${API_KEY}\"")),
            ("env:API_KEY", Some("\"${API_KEY}\"")),
            ("Bearer file:../token", Some("\"file:../token\" alone, and \"Bearer \" into the file")),
            ("it costs $5", None),
            ("$", None),
            ("a file: of mine", None),
            ("$host", None),
        ] {
            assert_eq!(meant(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn variables_are_filled_in() {
        let find = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "B_2" => Some("${A}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("plain", Ok(None)),
            ("${A}", Ok(Some("one"))),
            ("x${A}y${A}z", Ok(Some("xoneyonez"))),
            ("${B_2}", Ok(Some("${A}"))), // once is enough
            ("${EMPTY}", Ok(Some(""))),
            ("${NONE:-two}", Ok(Some("two"))),
            ("${A:-two}", Ok(Some("one"))),
            ("${NONE:-}", Ok(Some(""))),
            ("$${A}", Ok(Some("${A}"))),
            ("a$${A}b", Ok(Some("a${A}b"))),
            ("${host}", Ok(None)),
            ("{host}", Ok(None)),
            ("${A", Ok(None)),
            ("${}", Ok(None)),
            ("${1A}", Ok(None)),
            ("$A", Ok(None)),
            ("ä${A}ö", Ok(Some("äoneö"))),
            ("${NONE}", Err("there is no NONE in the environment")),
        ] {
            let found = substitute(text, find).map(|found| found.map(|(text, _)| text)).map_err(|(message, _)| message);
            assert_eq!(found, expected.map(|text| text.map(str::to_owned)).map_err(str::to_owned), "{text}");
        }
    }
}
