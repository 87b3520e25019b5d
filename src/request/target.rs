//! The target of a request: taken apart and normalised, and what other servers may read in its path.

use std::borrow::Cow;

/// A request target taken apart and normalised (RFC 3986 section 6.2.2): dot segments removed, escapes of
/// unreserved characters decoded, hexadecimal digits in upper case. The result is what routes are matched
/// against, what is keyed and what is sent, so that no two of them can disagree.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub path: Cow<'a, str>,
    /// Whether some server would find a dot segment in the path that is none by RFC 3986: behind an encoded slash or a
    /// backslash, before a parameter, encoded twice. What is matched here and what is served there could differ.
    pub hides_dots: bool,
    pub query: Option<&'a str>,
    /// Of the absolute form, `http://host/path`.
    pub authority: Option<&'a str>,
}

/// Why a target is refused.
const BAD_CHARACTER: &str = "the request target has a character that no URI may have";
pub(crate) const BAD_FORM: &str = "the request target is of a form that is not served here";
const BAD_ESCAPE: &str = "the request target has a percent sign without two hexadecimal digits";

impl<'a> Target<'a> {
    /// Takes a target in origin form or absolute form apart.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        // Visible ASCII but for the delimiters of RFC 3986 that `http::Uri` refuses too, which requests to
        // origins are made with; and without "#", since a fragment is never sent.
        // Without an early end, which would keep it from being done by many bytes at once.
        let fits =
            |byte: u8| byte.is_ascii_graphic() & (byte != b'#') & (byte != b'"') & (byte != b'<') & (byte != b'>');
        if !text.bytes().fold(true, |all, byte| all & fits(byte)) {
            return Err(BAD_CHARACTER);
        }
        let (authority, rest) = if text.starts_with('/') {
            (None, text)
        } else {
            let rest = strip_scheme(text).ok_or(BAD_FORM)?;
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        };
        let (path, query) = match memchr::memchr(b'?', rest.as_bytes()) {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        if memchr::memchr(b'`', path.as_bytes()).is_some() {
            return Err(BAD_CHARACTER);
        }
        let path = if path.is_empty() { "/" } else { path };
        let path = normalise_path(path)?;
        Ok(Target { hides_dots: hides_dots(&path), path, query, authority })
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    ["http://", "https://"].iter().find_map(|scheme| {
        let head = text.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then(|| &text[scheme.len()..])
    })
}

fn normalise_path(path: &str) -> Result<Cow<'_, str>, &'static str> {
    let path = match memchr::memchr(b'%', path.as_bytes()) {
        None => Cow::Borrowed(path),
        Some(_) => Cow::Owned(normalise_escapes(path)?),
    };
    if memchr::memmem::find(path.as_bytes(), b"/.").is_none() {
        return Ok(path);
    }
    Ok(Cow::Owned(remove_dot_segments(&path)))
}

/// Whether a normalised path has a segment that is "." or ".." to servers which decode more than once, take backslashes
/// for slashes, or cut parameters off (`..%2f`, `..%5c`, `..\`, `..;/`, `%252e%252e`, `%c0%ae`).
pub(crate) fn hides_dots(path: &str) -> bool {
    let bytes = path.as_bytes();
    if memchr::memchr3(b'%', b'\\', b';', bytes).is_none() {
        return false; // what is written plainly has been removed
    }
    let mut decoded = bytes.to_vec();
    // Each round takes at least two bytes away, so this ends; nobody encodes more often in earnest.
    for _ in 0..8 {
        let before = decoded.len();
        decoded = decode_once(&decoded);
        if decoded.len() == before {
            break;
        }
    }
    let is_separator = |byte: &u8| matches!(byte, b'/' | b'\\');
    decoded.split(is_separator).any(|segment| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        matches!(name.trim_ascii(), b"." | b"..")
    })
}

/// The byte that an escape stands for, if the text begins with one.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(*high)? << 4 | digit(*low)?) as u8) // eight bits
}

/// Decodes every escape, and the two bytes by which some decoders take a dot or a slash for longer than it is.
fn decode_once(text: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let decoded = escaped(&text[at..]);
        at += if decoded.is_some() { 3 } else { 1 };
        out.push(decoded.unwrap_or(*byte));
        // Overlong UTF-8 (RFC 3629 section 10).
        let short = match out.as_slice() {
            [.., 0xc0, 0xae] => Some(b'.'),
            [.., 0xc0, 0xaf] => Some(b'/'),
            [.., 0xc1, 0x9c] => Some(b'\\'),
            _ => None,
        };
        if let Some(short) = short {
            out.truncate(out.len() - 2);
            out.push(short);
        }
    }
    out
}

/// A path with one slash where it has several in a row: what routes are matched against.
pub(crate) fn merge_slashes(path: &str) -> Cow<'_, str> {
    // Without an early end, which would keep it from being done by many bytes at once.
    let (bytes, next) = (path.as_bytes(), path.as_bytes().get(1..).unwrap_or_default());
    let has_several = bytes.iter().zip(next).fold(false, |found, pair| found | (pair == (&b'/', &b'/')));
    if !has_several {
        return Cow::Borrowed(path);
    }
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if !(character == '/' && merged.ends_with('/')) {
            merged.push(character);
        }
    }
    Cow::Owned(merged)
}

/// A path, or a pattern of paths, in the one form in which paths are compared; an error says why it has none.
pub(crate) fn compared(path: &str) -> Result<String, &'static str> {
    if path.contains('?') {
        return Err("a query is no part of the path");
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"<>`".contains(&byte)) {
        return Err("no path has such a character; write it as an escape, %20 for a space");
    }
    let rooted = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let normalised = merge_slashes(&normalise_path(&rooted)?).into_owned();
    Ok(if path.starts_with('/') { normalised } else { normalised[1..].to_owned() })
}

/// A normalised path as servers read it that decode it before they look for what it names: `%2F` is a slash, and to some a
/// backslash is. `None`: as it is written.
pub(crate) fn as_decoded(path: &str) -> Option<String> {
    memchr::memchr2(b'%', b'\\', path.as_bytes())?;
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = memchr::memchr2(b'%', b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let byte = escaped(&rest.as_bytes()[at..]);
        let (read, length) = match byte.filter(|byte| byte.is_ascii_graphic() && !b"%?#".contains(byte)) {
            Some(byte) => (char::from(byte), 3),
            None => (char::from(rest.as_bytes()[at]), 1),
        };
        out.push(if read == '\\' { '/' } else { read });
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    Some(out).filter(|out| out != path)
}

fn normalise_escapes(path: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = escaped(&rest.as_bytes()[at..]).ok_or(BAD_ESCAPE)?;
        if byte == 0 {
            return Err(BAD_CHARACTER);
        }
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&rest[at..at + 3].to_ascii_uppercase());
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

/// RFC 3986 section 5.2.4 for a path that begins with `/`.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => _ = kept.pop(),
            segment => kept.push(segment),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        kept.push("");
    }
    ["/", &kept.join("/")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_read_in_paths() {
        for (path, expected) in [
            ("/a/b", None),
            ("/a%2Fb", Some("/a/b")),
            ("/%2Fa%5Cb\\c", Some("//a/b/c")),
            ("/caf%C3%A9%20%25%3F%23", None),
            ("/caf%C3%A9%3Ab", Some("/caf%C3%A9:b")),
        ] {
            assert_eq!(as_decoded(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn targets_are_taken_apart_and_normalised() {
        for (text, path, query, authority) in [
            ("/", "/", None, None),
            ("/a/b?x=1&y", "/a/b", Some("x=1&y"), None),
            ("/a?", "/a", Some(""), None),
            ("/a?b?c", "/a", Some("b?c"), None),
            ("http://h.example:80/a?q", "/a", Some("q"), Some("h.example:80")),
            ("HTTP://h", "/", None, Some("h")),
            ("http://h?q", "/", Some("q"), Some("h")),
            ("/a/../b", "/b", None, None),
            ("/a/./b/.", "/a/b/", None, None),
            ("/a/b/..", "/a/", None, None),
            ("/../../etc", "/etc", None, None),
            ("/static/%2e%2e/admin", "/admin", None, None),
            ("/%61%62%2f%3a", "/ab%2F%3A", None, None),
            ("/a//b", "/a//b", None, None),
            ("/.well-known/x", "/.well-known/x", None, None),
            ("/a?x=../%2e", "/a", Some("x=../%2e"), None),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.path.as_ref(), target.query, target.authority), (path, query, authority), "{text}");
        }
    }

    #[test]
    fn dot_segments_that_only_some_servers_see() {
        for (path, hides) in [
            ("/a/b.c", false),
            ("/a/../b", false),
            ("/a%2Fb", false),
            ("/a/..b/c..%2f..d", false),
            ("/a/...%2f", false),
            ("/a;v=1.2/b", false),
            ("/https%3A%2F%2Fshop.example%2Fa.b", false),
            ("/force/..%2faccount/x.css", true),
            ("/force/%2e%2e%2Faccount", true),
            ("/force%2f..", true),
            ("/force/..%5caccount", true),
            ("/force/..\\account", true),
            ("/force\\..\\account", true),
            ("/force/..;/account", true),
            ("/force/..;x=1/account", true),
            ("/force/..%3b/account", true),
            ("/force/%252e%252e/account", true),
            ("/force/%25252e%25252e/account", true),
            ("/force/.%252e/account", true),
            ("/force/..%252faccount", true),
            ("/force/%c0%ae%c0%ae/account", true),
            ("/force/..%c0%afaccount", true),
            ("/force%2f.%2fx", true),
        ] {
            assert_eq!(Target::parse(path).unwrap().hides_dots, hides, "{path}");
        }
    }

    #[test]
    fn slashes_are_merged() {
        for (path, merged) in [("/", "/"), ("//", "/"), ("//private/x", "/private/x"), ("/a//b///c/", "/a/b/c/")] {
            assert_eq!(merge_slashes(path), merged, "{path}");
        }
    }

    #[test]
    fn targets_that_are_refused() {
        for (text, error) in [
            ("*", BAD_FORM),
            ("host:443", BAD_FORM),
            ("ftp://h/a", BAD_FORM),
            ("a/b", BAD_FORM),
            ("", BAD_FORM),
            ("/a b", BAD_CHARACTER),
            ("/a#b", BAD_CHARACTER),
            ("/\u{7f}", BAD_CHARACTER),
            ("/ä", BAD_CHARACTER),
            ("/a%00b", BAD_CHARACTER),
            ("/%", BAD_ESCAPE),
            ("/%4", BAD_ESCAPE),
            ("/%zz", BAD_ESCAPE),
            ("/%+1", BAD_ESCAPE),
        ] {
            assert_eq!(Target::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_accepted_can_be_sent() {
        for byte in 0..=127_u8 {
            for text in [format!("/a{}b", char::from(byte)), format!("/a?b{}c", char::from(byte))] {
                let Ok(target) = Target::parse(&text) else { continue };
                let query = target.query.map(|query| format!("?{query}")).unwrap_or_default();
                let sent = format!("{}{query}", target.path);
                assert_eq!(sent.parse::<http::Uri>().unwrap().to_string(), sent, "{text:?}");
            }
        }
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for path in ["/a/../b", "/%41/%2E%2e/c", "/./", "/..", "/a/%2f../b", "//..//."] {
            let once = normalise_path(path).unwrap().into_owned();
            assert_eq!(normalise_path(&once).unwrap(), once, "{path}");
        }
    }
}
