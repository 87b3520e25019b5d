//! Mistakes of TOML itself. The parser goes on behind one, which finds them all, but also takes much for a mistake that only
//! follows from one: what comes after a list that is not closed, the keys of a table that is given twice.

use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, Error};

use super::diagnose::{Diagnostics, Place, floor_char_boundary};

/// A longer text is not searched for what is left open, since each step of that reads it again.
const MAX_SEARCHED: usize = 1 << 20;

/// The tables of a file; `None`: there are mistakes, which have been reported.
pub(crate) fn parse<'i>(file: usize, text: &'i str, errors: &Diagnostics) -> Option<Spanned<DeTable<'i>>> {
    let (root, mut found) = DeTable::parse_recoverable(text);
    if found.is_empty() {
        return Some(root);
    }
    let place = |range: Range<usize>| Place::of(file, range);
    found.sort_by_key(|error| range(text, error).start);
    let lines = lines(text);
    if text.len() <= MAX_SEARCHED
        && found.iter().any(|error| unclosed(error).is_some())
        && let Some((line, message)) = find_opening(text, &lines)
    {
        found.retain(|error| range(text, error).start < line.start);
        errors.error(place(line), message);
    }
    let mut tables_again = HashSet::new();
    for error in found {
        if errors.is_full() {
            break;
        }
        let range = range(text, &error);
        if error.message() != "duplicate key" {
            errors.error(place(range), plainer(error.message()));
            continue;
        }
        let up_to_here = &lines[..lines.partition_point(|line| line.start <= range.start)];
        let table = up_to_here.iter().rposition(|line| is_header(&text[line.clone()]));
        let is_table = table.is_some_and(|table| table + 1 == up_to_here.len());
        if !is_table && tables_again.contains(&table) {
            continue;
        }
        let (message, first) = match is_table {
            true => {
                tables_again.insert(table);
                describe_table(text, up_to_here)
            }
            false => describe_key(text, &range, &up_to_here[table.unwrap_or(0)..]),
        };
        match first {
            Some(first) => errors.again(place(range), message, place(first)),
            None => errors.error(place(range), message),
        }
    }
    None
}

/// The parser's words, where plainer ones say what to write.
fn plainer(message: &str) -> &str {
    match message {
        "unexpected leading zero, expected nothing" => {
            "a number begins with no zero; permissions and times are written in quotes: \"0660\", \"08:30\""
        }
        "unexpected key or value, expected newline, `#`" | "unexpected key or value, expected newline" => {
            "something follows the value: a value has no semicolon, and a text with quotes in it stands in '...'"
        }
        message => message,
    }
}

fn range(text: &str, error: &Error) -> Range<usize> {
    let range = error.span().unwrap_or_default();
    floor_char_boundary(text, range.start)..floor_char_boundary(text, range.end)
}

/// What to say of a mistake that is a missing bracket at the end of all.
fn unclosed(error: &Error) -> Option<&'static str> {
    match error.message() {
        message if message.starts_with("unclosed array,") => Some("the list that begins here is not closed by \"]\""),
        message if message.starts_with("unclosed inline table") => {
            Some("the table that begins here is not closed by \"}\"")
        }
        _ => None,
    }
}

/// The line in which begins what is never closed: the last from which on something is still open at the end.
fn find_opening(text: &str, lines: &[Range<usize>]) -> Option<(Range<usize>, &'static str)> {
    let still_open = |line: &Range<usize>| {
        let (_, errors) = DeTable::parse_recoverable(&text[line.start..]);
        errors.iter().rev().find_map(unclosed)
    };
    let opening = lines[..lines.partition_point(|line| still_open(line).is_some())].last()?;
    Some((opening.clone(), still_open(opening)?))
}

/// The message for the table whose header is the last of some lines, and where it is first.
fn describe_table(text: &str, lines: &[Range<usize>]) -> (String, Option<Range<usize>>) {
    let headers = lines.iter().filter(|line| is_header(&text[(*line).clone()]));
    let mut headers = headers.map(|line| (line, text[line.clone()].split('#').next().unwrap_or_default().trim_end()));
    let name = |header: &str| header.trim_matches(['[', ']', ' ', '\t']).to_owned();
    let again = headers.next_back().map_or("", |(_, header)| header);
    match headers.find(|(_, header)| name(header) == name(again)) {
        Some((line, first)) if first.starts_with("[[") != again.starts_with("[[") => {
            (format!("{again} is written {first} elsewhere"), Some(line.clone()))
        }
        first => (format!("{again} is given twice"), first.map(|(line, _)| line.clone())),
    }
}

/// The message for a key in the last of some lines, which begin with the header of its table, and where it is first.
fn describe_key(text: &str, key: &Range<usize>, lines: &[Range<usize>]) -> (String, Option<Range<usize>>) {
    let assigned = lines.last().map_or("", |line| &text[line.start..key.end]);
    let is_same = |line: &&Range<usize>| {
        let rest = text[(*line).clone()].strip_prefix(assigned);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let before = &lines[..lines.len().saturating_sub(1)];
    (format!("{:?} is given twice", &text[key.clone()]), before.iter().find(is_same).cloned())
}

fn is_header(line: &str) -> bool {
    line.starts_with('[')
}

/// Lines without their indentation and their end.
fn lines(text: &str) -> Vec<Range<usize>> {
    let mut end = 0;
    text.split_inclusive('\n')
        .map(|line| {
            let start = end + line.len() - line.trim_start().len();
            end += line.len();
            start..start.max(end - line.len() + line.trim_end().len())
        })
        .collect()
}
