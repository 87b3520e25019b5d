//! The grammar: text to a tree that knows nothing of types.
//!
//! ```text
//! or      = and { "||" and }
//! and     = compare { "&&" compare }
//! compare = unary [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" ) unary ]
//! unary   = "!" unary | postfix
//! postfix = primary { "." name [ "(" list ")" ] | "[" or "]" }
//! primary = "true" | "false" | number | string | name [ "(" list ")" ] | "[" list "]" | "(" or ")"
//! ```
//!
//! Names after a dot may have hyphens, as the names of header fields do: there is no subtraction.

use std::ops::Range;

use super::Mistake;

/// Bytes of an expression.
const MAX_LENGTH: usize = 8 << 10;
/// Parentheses and the like within each other.
const MAX_DEPTH: usize = 32;

/// A part of an expression, with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tree {
    pub at: Range<usize>,
    pub node: Node,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Tree>),
    Name(String),
    /// `of.name`, also written `of["name"]`.
    Member(Box<Tree>, String),
    /// `of.name(arguments)`, or `name(arguments)`.
    Call(Option<Box<Tree>>, String, Vec<Tree>),
    Not(Box<Tree>),
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Compare(Box<Tree>, Operator, Box<Tree>),
}

impl Tree {
    /// A name as it was written, with its dots.
    pub(super) fn dotted(&self) -> Option<String> {
        match &self.node {
            Node::Name(name) => Some(name.clone()),
            Node::Member(of, name) => Some(format!("{}.{name}", of.dotted()?)),
            _ => None,
        }
    }

    /// Adds the texts that a name is compared with, and their places.
    pub(super) fn compared_with(&self, name: &str, texts: &mut Vec<(String, Range<usize>)>) {
        match &self.node {
            Node::Compare(one, _, other) => {
                let is_it = |tree: &Tree| tree.dotted().is_some_and(|own| own == name);
                match (is_it(one), is_it(other)) {
                    (true, _) => other.texts(texts),
                    (_, true) => one.texts(texts),
                    _ => {}
                }
            }
            Node::All(parts) | Node::Any(parts) => parts.iter().for_each(|part| part.compared_with(name, texts)),
            Node::Not(inner) => inner.compared_with(name, texts),
            _ => {}
        }
    }

    fn texts(&self, texts: &mut Vec<(String, Range<usize>)>) {
        match &self.node {
            Node::Text(text) => texts.push((text.clone(), self.at.clone())),
            Node::List(items) => items.iter().for_each(|item| item.texts(texts)),
            _ => {}
        }
    }

    /// Whether a name stands in it.
    pub(super) fn names(&self, name: &str) -> bool {
        if self.dotted().is_some_and(|own| own == name) {
            return true;
        }
        match &self.node {
            Node::Bool(_) | Node::Number(_) | Node::Text(_) | Node::Name(_) => false,
            Node::Member(of, _) | Node::Not(of) => of.names(name),
            Node::List(parts) | Node::All(parts) | Node::Any(parts) => parts.iter().any(|part| part.names(name)),
            Node::Call(of, _, arguments) => {
                of.as_ref().is_some_and(|of| of.names(name)) || arguments.iter().any(|part| part.names(name))
            }
            Node::Compare(left, _, right) => left.names(name) || right.names(name),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl Operator {
    const ALL: [(&'static str, Operator); 7] = [
        ("==", Operator::Equal),
        ("!=", Operator::Unequal),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
        ("in", Operator::In),
    ];

    pub(super) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, operator)| *operator == self).map_or("", |(text, _)| text)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Number(i64),
    Text(String),
    /// An operator, a bracket, a dot or a comma.
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 16] = ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ".", ",", "="];

/// Reads an expression.
pub(super) fn parse(source: &str) -> Result<Tree, Mistake> {
    if source.len() > MAX_LENGTH {
        return Err(Mistake::new(0..source.len(), format!("the expression is longer than {MAX_LENGTH} bytes")));
    }
    let mut parser = Parser { source, at: 0, token: Token::End, place: 0..0, depth: 0 };
    parser.advance()?;
    let tree = parser.any()?;
    match parser.token {
        Token::End => Ok(tree),
        _ => Err(parser.unexpected("an operator such as && or the end")),
    }
}

struct Parser<'s> {
    source: &'s str,
    /// Behind the token.
    at: usize,
    /// The token that is looked at.
    token: Token,
    place: Range<usize>,
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Tree, Mistake> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Mistake::new(
                self.place.clone(),
                format!("more than {MAX_DEPTH} parentheses within each other"),
            ));
        }
        let tree = self.chain("||", Node::Any, |parser| parser.chain("&&", Node::All, Self::compare));
        self.depth -= 1;
        tree
    }

    /// One or more of the same between signs.
    fn chain(
        &mut self,
        sign: &'static str,
        node: fn(Vec<Tree>) -> Node,
        part: fn(&mut Self) -> Result<Tree, Mistake>,
    ) -> Result<Tree, Mistake> {
        let first = part(self)?;
        if self.token != Token::Sign(sign) {
            return Ok(first);
        }
        let (start, mut parts) = (first.at.start, vec![first]);
        while self.takes(sign)? {
            parts.push(part(self)?);
        }
        let end = parts.last().map_or(start, |part| part.at.end);
        Ok(Tree { at: start..end, node: node(parts) })
    }

    fn compare(&mut self) -> Result<Tree, Mistake> {
        let left = self.unary()?;
        let Some(operator) = self.operator() else { return Ok(left) };
        self.advance()?;
        let right = self.unary()?;
        if self.operator().is_some() {
            let message = "comparisons cannot be chained";
            return Err(Mistake::new(self.place.clone(), message).with_hint("join them with &&: a < b && b < c"));
        }
        let at = left.at.start..right.at.end;
        Ok(Tree { at, node: Node::Compare(Box::new(left), operator, Box::new(right)) })
    }

    fn operator(&self) -> Option<Operator> {
        let text = match &self.token {
            Token::Sign(sign) => *sign,
            Token::Name(name) => name,
            _ => return None,
        };
        Operator::ALL.iter().find(|(sign, _)| *sign == text).map(|(_, operator)| *operator)
    }

    fn unary(&mut self) -> Result<Tree, Mistake> {
        let start = self.place.start;
        let mut nots = 0;
        while self.takes("!")? {
            nots += 1;
        }
        let mut tree = self.postfix()?;
        for _ in 0..nots % 2 {
            tree = Tree { at: start..tree.at.end, node: Node::Not(Box::new(tree)) };
        }
        Ok(tree)
    }

    fn postfix(&mut self) -> Result<Tree, Mistake> {
        let mut tree = self.primary()?;
        loop {
            let start = tree.at.start;
            if self.takes(".")? {
                let (end, name) = (self.place.end, self.name()?);
                tree = if self.token == Token::Sign("(") {
                    let (end, arguments) = self.list("(", ")")?;
                    Tree { at: start..end, node: Node::Call(Some(Box::new(tree)), name, arguments) }
                } else {
                    Tree { at: start..end, node: Node::Member(Box::new(tree), name) }
                };
            } else if self.takes("[")? {
                let Token::Text(name) = &self.token else {
                    return Err(self.unexpected("a name in quotes, as in header[\"Accept\"]"));
                };
                let name = name.clone();
                self.advance()?;
                let end = self.place.end;
                self.expect("]")?;
                tree = Tree { at: start..end, node: Node::Member(Box::new(tree), name) };
            } else {
                return Ok(tree);
            }
        }
    }

    fn primary(&mut self) -> Result<Tree, Mistake> {
        let at = self.place.clone();
        let node = match &self.token {
            Token::Number(number) => Node::Number(*number),
            Token::Text(text) => Node::Text(text.clone()),
            Token::Name(name) if name == "true" || name == "false" => Node::Bool(name == "true"),
            Token::Name(name) if name != "in" => {
                let name = name.clone();
                self.advance()?;
                if self.token == Token::Sign("(") {
                    let (end, arguments) = self.list("(", ")")?;
                    return Ok(Tree { at: at.start..end, node: Node::Call(None, name, arguments) });
                }
                return Ok(Tree { at, node: Node::Name(name) });
            }
            Token::Sign("[") => {
                let (end, items) = self.list("[", "]")?;
                return Ok(Tree { at: at.start..end, node: Node::List(items) });
            }
            Token::Sign("(") => {
                self.advance()?;
                let inner = self.any()?;
                let end = self.place.end;
                self.expect(")")?;
                return Ok(Tree { at: at.start..end, ..inner });
            }
            _ => return Err(self.unexpected("a value such as path, header.Accept or \"a string\"")),
        };
        self.advance()?;
        Ok(Tree { at, node })
    }

    /// What is between brackets, and where they end.
    fn list(&mut self, open: &'static str, close: &'static str) -> Result<(usize, Vec<Tree>), Mistake> {
        self.expect(open)?;
        let mut items = Vec::new();
        while self.token != Token::Sign(close) {
            items.push(self.any()?);
            if !self.takes(",")? {
                break;
            }
        }
        let end = self.place.end;
        self.expect(close)?;
        Ok((end, items))
    }

    fn name(&mut self) -> Result<String, Mistake> {
        let Token::Name(name) = &self.token else { return Err(self.unexpected("a name")) };
        let name = name.clone();
        self.advance()?;
        Ok(name)
    }

    fn takes(&mut self, sign: &'static str) -> Result<bool, Mistake> {
        let is_there = self.token == Token::Sign(sign);
        if is_there {
            self.advance()?;
        }
        Ok(is_there)
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), Mistake> {
        if self.takes(sign)? { Ok(()) } else { Err(self.unexpected(&format!("{sign:?}"))) }
    }

    fn unexpected(&self, expected: &str) -> Mistake {
        let found = match &self.token {
            Token::End => "the end".to_owned(),
            _ => format!("{:?}", &self.source[self.place.clone()]),
        };
        let mistake = Mistake::new(self.place.clone(), format!("expected {expected}, found {found}"));
        match &self.token {
            Token::Sign("=") if self.source[self.place.end..].starts_with('~') => {
                mistake.with_hint("a regular expression is asked for by path.matches(r\"^/a\")")
            }
            Token::Sign("=") => mistake.with_hint("to compare, write =="),
            Token::Name(name) if name == "and" => mistake.with_hint("write &&"),
            Token::Name(name) if name == "or" => mistake.with_hint("write ||"),
            Token::Name(name) if name == "not" => mistake.with_hint("write !"),
            _ => mistake,
        }
    }

    /// Goes on to the next token.
    fn advance(&mut self) -> Result<(), Mistake> {
        let rest = &self.source[self.at..];
        let start = self.at + rest.len() - rest.trim_start().len();
        let rest = &self.source[start..];
        let is_member = self.token == Token::Sign(".");
        let (token, length) = match rest.bytes().next() {
            None => (Token::End, 0),
            Some(b'"' | b'\'') => text(rest, start, false)?,
            Some(b'r') if matches!(rest.as_bytes().get(1), Some(b'"' | b'\'')) => text(rest, start, true)?,
            Some(b'0'..=b'9' | b'-') => number(rest, start)?,
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
                let goes_on = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || is_member && byte == b'-';
                let length = rest.bytes().position(|byte| !goes_on(byte)).unwrap_or(rest.len());
                (Token::Name(rest[..length].to_owned()), length)
            }
            Some(_) => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (Token::Sign(sign), sign.len()),
                None => {
                    let found = rest.chars().next().unwrap_or_default();
                    let at = start..start + found.len_utf8();
                    let mistake = Mistake::new(at, format!("{found:?} means nothing here"));
                    return Err(match found {
                        '&' | '|' => mistake.with_hint(format!("write {found}{found}")),
                        '*' => mistake.with_hint(
                            "whether one of several names is there: cookies.has(\"NAME*\"); there is no arithmetic",
                        ),
                        '?' | '/' | '%' => mistake.with_hint("there is no arithmetic here, and no ?:"),
                        '$' => mistake.with_hint(
                            "nginx's variables are written header.NAME, cookies.has(\"NAME\"), query.NAME, client.ip, host, path",
                        ),
                        '~' => mistake.with_hint("for a regular expression, write path.matches(r\"\\.css$\")"),
                        _ => mistake,
                    });
                }
            },
        };
        (self.token, self.place, self.at) = (token, start..start + length, start + length);
        Ok(())
    }
}

/// Reads a number at the start of a text, and how long it is.
fn number(rest: &str, start: usize) -> Result<(Token, usize), Mistake> {
    let digits = rest.strip_prefix('-').unwrap_or(rest);
    let digits = digits.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let length = rest.len().min(digits + usize::from(rest.starts_with('-')));
    match rest[..length].parse() {
        Ok(number) => Ok((Token::Number(number), length)),
        Err(_) => Err(Mistake::new(start..start + length.max(1), "this is not a whole number of 64 bits")),
    }
}

/// Reads a text in quotes at the start of another, and how long it is with them. In a raw one, `r"..."`, backslashes stand
/// for themselves.
fn text(rest: &str, start: usize, raw: bool) -> Result<(Token, usize), Mistake> {
    let open = usize::from(raw);
    let quote = char::from(rest.as_bytes()[open]);
    let mut out = String::new();
    let mut characters = rest[open + 1..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if !raw => match characters.next() {
                Some((_, escaped @ ('\\' | '"' | '\''))) => out.push(escaped),
                Some((_, 't')) => out.push('\t'),
                _ => {
                    let at = start + 1 + at;
                    let mistake = Mistake::new(at..at + 1, "in quotes, a backslash stands before \\, \", ' or t");
                    return Err(mistake.with_hint("for a regular expression, write r\"...\""));
                }
            },
            _ if character == quote => return Ok((Token::Text(out), open + at + 2)),
            _ => out.push(character),
        }
    }
    Err(Mistake::new(start..start + rest.len(), format!("the quote {quote} is not closed")))
}
