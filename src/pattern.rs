//! Patterns of the paths of routes, and of names.

/// Paths: `/static/*`, `*.css`, `/a/*/b`, `/exact`. A `*` stands for any number of characters, also none, also `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Exact,
    /// `/static/*`: the common case, one comparison.
    Prefix,
    Glob,
}

impl std::str::FromStr for PathPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') && !text.starts_with('*') {
            return Err(format!("path {text:?} must begin with \"/\" or \"*\""));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#')) {
            return Err(format!("path {text:?} has {bad:?} in it; a path pattern has no query and only visible ASCII"));
        }
        if text.contains(['{', '}']) {
            return Err(format!("path {text:?} has a brace in it; a \"*\" stands for any number of characters"));
        }
        let kind = match text.find('*') {
            None => Kind::Exact,
            Some(star) if star == text.len() - 1 => Kind::Prefix,
            Some(_) => Kind::Glob,
        };
        Ok(PathPattern { text: text.to_owned(), kind })
    }
}

/// What is known of the paths that a pattern matches.
#[derive(Debug, PartialEq, Eq)]
pub enum Anchor<'p> {
    Exact(&'p str),
    /// What they begin with, and what they end with.
    Affixes(&'p str, &'p str),
}

impl PathPattern {
    /// What all paths have that match it.
    pub fn anchor(&self) -> Anchor<'_> {
        match self.text.split_once('*') {
            None => Anchor::Exact(&self.text),
            Some((first, rest)) => Anchor::Affixes(first, rest.rsplit('*').next().unwrap_or_default()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many stars it has.
    pub fn stars(&self) -> usize {
        self.text.bytes().filter(|byte| *byte == b'*').count()
    }

    /// What each star stands for in a path that matches: the last takes what is left, each before it as little as it can.
    /// With one star, the case of letters does not matter.
    pub fn captures<'p>(&self, path: &'p str) -> Vec<&'p str> {
        let mut parts = self.text.split('*');
        let mut rest = path.get(parts.next().unwrap_or_default().len()..).unwrap_or_default();
        let mut captures = Vec::new();
        let mut parts = parts.peekable();
        while let Some(part) = parts.next() {
            let end = match parts.peek() {
                None => rest.len().saturating_sub(part.len()),
                Some(_) => rest.find(part).unwrap_or(rest.len()),
            };
            captures.push(&rest[..end]);
            rest = rest.get(end + part.len()..).unwrap_or_default();
        }
        captures
    }

    /// Whether it surely matches every path that another does. That it is not said to is no proof.
    pub fn covers(&self, other: &PathPattern) -> bool {
        match self.kind {
            Kind::Exact => self == other,
            Kind::Prefix => other.prefix().starts_with(&self.text[..self.text.len() - 1]),
            Kind::Glob => self == other || self.text == "*",
        }
    }

    /// What all paths begin with that match it: at least a slash.
    pub fn prefix(&self) -> &str {
        let prefix = self.text.split('*').next().unwrap_or_default();
        if prefix.is_empty() { "/" } else { prefix }
    }

    /// Whether a normalised path matches. Linear in the path's length times the number of `*`.
    pub fn matches(&self, path: &str) -> bool {
        match self.kind {
            Kind::Exact => path == self.text,
            Kind::Prefix => path.as_bytes().starts_with(&self.text.as_bytes()[..self.text.len() - 1]),
            Kind::Glob => glob(self.text.as_bytes(), path.as_bytes()),
        }
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let mut parts = pattern.split(|b| *b == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = memchr::memmem::find(rest, part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// Bytes that a compiled regular expression may take.
const MAX_REGEX: usize = 1 << 20;

/// A regular expression: RE2's syntax, matched in linear time.
pub(crate) fn regex(text: &str) -> Result<regex::bytes::Regex, String> {
    regex::bytes::RegexBuilder::new(text).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build().map_err(|error| {
        let error = error.to_string();
        let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("this is not a regular expression: {last}")
    })
}

/// A name in which one `*` may stand for any characters: `utm_*`, `application/*+json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Pattern {
    prefix: Box<str>,
    /// What follows the star, if there is one.
    suffix: Option<Box<str>>,
}

impl Pattern {
    /// The one name that it stands for; `None`: it has a star.
    pub fn exact(&self) -> Option<&str> {
        self.suffix.is_none().then_some(&*self.prefix)
    }

    /// What all names begin with that are like it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether all names are like it that begin so.
    pub fn is_prefix(&self) -> bool {
        self.suffix.as_deref() == Some("")
    }

    pub fn matches(&self, name: impl AsRef<[u8]>) -> bool {
        let name = name.as_ref();
        match &self.suffix {
            None => name == self.prefix.as_bytes(),
            Some(suffix) => {
                name.len() >= self.prefix.len() + suffix.len()
                    && name.starts_with(self.prefix.as_bytes())
                    && name.ends_with(suffix.as_bytes())
            }
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.prefix)?;
        self.suffix.as_ref().map_or(Ok(()), |suffix| write!(f, "*{suffix}"))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.to_string()
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'&') {
            return Err(format!("{text:?} is not a name such as \"page\" or \"utm_*\""));
        }
        if text.starts_with('^') || text.ends_with('$') {
            return Err(format!(
                "{text:?} is no regular expression here: a name is written whole, and a \"*\" stands for any characters"
            ));
        }
        match text.split_once('*') {
            Some((_, rest)) if rest.contains('*') => Err(format!("{text:?} has more than one \"*\"")),
            Some((prefix, suffix)) => Ok(Pattern { prefix: prefix.into(), suffix: Some(suffix.into()) }),
            None => Ok(Pattern { prefix: text.into(), suffix: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (pattern, path, matches) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/*", "/", true),
            ("/*", "/a/b", true),
            ("/static/*", "/static/", true),
            ("/static/*", "/static", false),
            ("/static/*", "/static/a/b.css", true),
            ("*.css", "/a/b.css", true),
            ("*.css", "/a/b.cs", false),
            ("/a/*/z", "/a/b/c/z", true),
            ("/a/*/z", "/a/z", false),
            ("/a/*/*.png", "/a/x/y.png", true),
            ("/a*a", "/a", false),
            ("/a*a", "/aa", true),
            ("/*a*b*", "/xaxbx", true),
            ("/*a*b*", "/xbxax", false),
        ] {
            assert_eq!(pattern.parse::<PathPattern>().unwrap().matches(path), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn what_covers_what() {
        for (pattern, other, covers) in [
            ("/*", "/a", true),
            ("/*", "*.css", true),
            ("/*", "/a/*/b", true),
            ("*", "/a", true),
            ("/a/*", "/a/b*", true),
            ("/a/*", "/a/", true),
            ("/a/*", "/a", false),
            ("/a/*", "/*", false),
            ("/a/*", "*.css", false),
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("*.css", "/a.css", false),
            ("*.css", "*.css", true),
        ] {
            let [one, other] = [pattern, other].map(|text| text.parse::<PathPattern>().unwrap());
            assert_eq!(one.covers(&other), covers, "{pattern} {other:?}");
        }
    }

    #[test]
    fn what_stars_stand_for() {
        for (pattern, path, captures) in [
            ("/a", "/a", &[][..]),
            ("/old/*", "/old/a/b", &["a/b"]),
            ("/old/*", "/old/", &[""]),
            ("*.css", "/a/b.css", &["/a/b"]),
            ("/*/x/*", "/a/x/b/x/c", &["a", "b/x/c"]),
            ("/a/*/*.png", "/a/x/y.png", &["x", "y"]),
            ("*", "/a", &["/a"]),
        ] {
            let pattern: PathPattern = pattern.parse().unwrap();
            assert!(pattern.matches(path) && pattern.stars() == captures.len());
            assert_eq!(pattern.captures(path), captures, "{path}");
        }
    }

    #[test]
    fn patterns_that_could_never_match_are_refused() {
        for bad in ["", "static/*", "/a?b", "/a b", "/a#b", "/ü"] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        for (pattern, name, matches) in [
            ("page", "page", true),
            ("page", "pages", false),
            ("utm_*", "utm_source", true),
            ("utm_*", "utm_", true),
            ("utm_*", "utm", false),
            ("*", "", true),
            ("application/*+json", "application/ld+json", true),
            ("application/*+json", "application/json", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(name), matches, "{pattern} {name}");
        }
        for bad in ["", "a&b", "a b", "*a*", "ä"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}
