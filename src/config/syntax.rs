//! Mistakes of TOML itself. The parser goes on behind one, which finds them all, but also takes much for a mistake that only
//! follows from one: what comes after a list that is not closed, the keys of a table that is given twice.

use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, Error};

use super::diagnose::{Diagnostics, Place, floor_char_boundary};

/// The tables of a file; `None`: there are mistakes, which have been reported.
pub fn parse<'i>(file: usize, text: &'i str, errors: &Diagnostics) -> Option<Spanned<DeTable<'i>>> {
    let (root, mut found) = DeTable::parse_recoverable(text);
    if found.is_empty() {
        return Some(root);
    }
    let place = |range: Range<usize>| Place::of(file, range);
    found.sort_by_key(|error| range(text, error).start);
    if found.iter().any(|error| unclosed(error).is_some())
        && let Some((line, message)) = find_opening(text)
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
            errors.error(place(range), error.message());
            continue;
        }
        let line = line_at(text, range.start);
        let header = header_before(text, line.end);
        if header == Some(line.start) {
            tables_again.insert(line.start);
        } else if header.is_some_and(|header| tables_again.contains(&header)) {
            continue;
        }
        let (message, first) = describe_duplicate(text, &range, line, header);
        match first {
            Some(first) => errors.again(place(range), message, place(first)),
            None => errors.error(place(range), message),
        }
    }
    None
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
fn find_opening(text: &str) -> Option<(Range<usize>, &'static str)> {
    let lines: Vec<Range<usize>> = lines(text, 0..text.len()).collect();
    let still_open = |line: &Range<usize>| {
        let (_, errors) = DeTable::parse_recoverable(&text[line.start..]);
        errors.iter().rev().find_map(unclosed)
    };
    let opening = lines[..lines.partition_point(|line| still_open(line).is_some())].last()?;
    Some((opening.clone(), still_open(opening)?))
}

/// The message for a key or a table that is there again, and where it is first.
fn describe_duplicate(
    text: &str,
    key: &Range<usize>,
    line: Range<usize>,
    header: Option<usize>,
) -> (String, Option<Range<usize>>) {
    if header == Some(line.start) {
        let name = |header: &str| header.trim_matches(['[', ']', ' ', '\t']).to_owned();
        let again = without_comment(&text[line.clone()]);
        let is_same = |line: &Range<usize>| {
            let other = without_comment(&text[line.clone()]);
            is_header(other) && name(other) == name(again)
        };
        let first = lines(text, 0..line.start).find(is_same);
        let message = match first.clone().map(|line| without_comment(&text[line])) {
            Some(first) if first.starts_with("[[") != again.starts_with("[[") => {
                format!("{again} is written {first} elsewhere")
            }
            _ => format!("{again} is given twice"),
        };
        return (message, first);
    }
    let assigned = text[line.start..key.end].trim_start();
    let is_same = |line: &Range<usize>| {
        let rest = text[line.clone()].strip_prefix(assigned);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let first = lines(text, header.unwrap_or(0)..line.start).find(is_same);
    (format!("{:?} is given twice", &text[key.clone()]), first)
}

/// The last line up to `end` that is the header of a table.
fn header_before(text: &str, end: usize) -> Option<usize> {
    let mut end = end;
    loop {
        let line = line_at(text, end);
        if is_header(&text[line.clone()]) {
            return Some(line.start);
        }
        end = line.start.checked_sub(1)?;
    }
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

fn without_comment(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

/// The line that a byte is in.
fn line_at(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    start..end
}

/// Lines without their indentation and their end.
fn lines(text: &str, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut next = range.start;
    text[range].split_inclusive('\n').map(move |line| {
        let start = next + line.len() - line.trim_start().len();
        next += line.len();
        start..start.max(next - line.len() + line.trim_end().len())
    })
}
