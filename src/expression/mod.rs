//! Conditions that operators write: `query.ref in ["mail", "ad"] && header.Accept.contains("html")`. The spelling is that of
//! CEL (the Common Expression Language), of which this is a small, typed part. What is wrong with one is found when the
//! configuration is loaded; what is right cannot fail, allocates nothing for ordinary values, and takes no time to speak of.

mod check;
mod evaluate;
mod names;
mod parse;

use std::ops::Range;

pub(crate) use evaluate::Facts;
pub use names::Scope;
pub(crate) use names::member;
pub(crate) use names::{Counted, Map, Variable};

use evaluate::Condition;

/// A condition that was checked.
#[derive(Debug, Clone)]
pub struct Expression {
    source: Box<str>,
    condition: Condition,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The bytes of the expression that are to blame.
    pub at: Range<usize>,
    pub message: String,
    pub hint: Option<String>,
}

impl Mistake {
    fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Mistake { at, message: message.into(), hint: None }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        Mistake { hint: Some(hint.into()), ..self }
    }
}

impl Expression {
    /// Reads a condition over what is known in `scope`.
    pub fn compile(source: &str, scope: Scope) -> Result<Self, Mistake> {
        let condition = check::condition(&parse::parse(source)?, scope)?;
        Ok(Expression { source: source.into(), condition })
    }

    /// Whether a name stands in it.
    pub fn names(&self, name: &str) -> bool {
        parse::parse(&self.source).is_ok_and(|tree| tree.names(name))
    }

    /// The texts that a name is compared with, and their places.
    pub fn compared_with(&self, name: &str) -> Vec<(String, Range<usize>)> {
        let mut texts = Vec::new();
        if let Ok(tree) = parse::parse(&self.source) {
            tree.compared_with(name, &mut texts);
        }
        texts
    }

    /// As the operator wrote it.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub fn is_true(&self, facts: &impl Facts) -> bool {
        self.condition.is_true(facts)
    }

    /// The same, and which part of it decided.
    pub fn explain(&self, facts: &impl Facts) -> (bool, &str) {
        let (is_true, at) = self.condition.explain(facts, 0..self.source.len());
        (is_true, &self.source[at])
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
