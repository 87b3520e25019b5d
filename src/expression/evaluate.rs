//! What a checked expression is, and whether it is true.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;

use memchr::memmem::Finder;

use super::names::{Counted, Map, Variable};
use crate::address::Ranges;
use crate::pattern::Pattern;

/// What expressions and templates read.
pub trait Facts {
    /// A text; what is not there is empty.
    fn text(&self, variable: &Variable) -> Cow<'_, [u8]>;
    /// Whether something has a name like that.
    fn has(&self, map: Map, name: &Pattern) -> bool;
    fn number(&self, counted: Counted) -> i64;
    fn client(&self) -> IpAddr;
}

#[derive(Debug, Clone)]
pub(super) enum Condition {
    Is(bool),
    Not(Box<Condition>),
    All(Box<[Part]>),
    Any(Box<[Part]>),
    Same(Text, Text),
    OneOf(Text, Box<[Box<[u8]>]>),
    /// The same of many.
    Among(Text, HashSet<Box<[u8]>>),
    StartsWith(Text, Box<[u8]>),
    EndsWith(Text, Box<[u8]>),
    Contains(Text, Box<Finder<'static>>),
    Matches(Text, regex::bytes::Regex),
    Compares(Number, Order, Number),
    Has(Map, Pattern),
    Within(Ranges),
}

/// One of several conditions, with its place.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub at: Range<usize>,
    pub condition: Condition,
}

#[derive(Debug, Clone)]
pub(super) enum Text {
    Literal(Box<[u8]>),
    Of(Variable),
}

#[derive(Debug, Clone)]
pub(super) enum Number {
    Literal(i64),
    Of(Counted),
    /// Bytes.
    Size(Text),
    /// What a text says in decimal digits. What does not is no number: nothing is equal to it, less or more.
    Int(Text),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Condition {
    pub(super) fn is_true(&self, facts: &impl Facts) -> bool {
        match self {
            Condition::Is(value) => *value,
            Condition::Not(inner) => !inner.is_true(facts),
            Condition::All(parts) => parts.iter().all(|part| part.condition.is_true(facts)),
            Condition::Any(parts) => parts.iter().any(|part| part.condition.is_true(facts)),
            Condition::Same(one, other) => one.read(facts) == other.read(facts),
            Condition::OneOf(text, all) => {
                let text = text.read(facts);
                all.iter().any(|one| **one == *text)
            }
            Condition::Among(text, all) => all.contains(&*text.read(facts)),
            Condition::StartsWith(text, part) => text.read(facts).starts_with(part),
            Condition::EndsWith(text, part) => text.read(facts).ends_with(part),
            Condition::Contains(text, part) => part.find(&text.read(facts)).is_some(),
            Condition::Matches(text, regex) => regex.is_match(&text.read(facts)),
            Condition::Compares(one, order, other) => order.holds(one.read(facts), other.read(facts)),
            Condition::Has(map, name) => facts.has(*map, name),
            Condition::Within(ranges) => ranges.contains(facts.client()),
        }
    }

    /// Whether it is true, and the place of the part that decided; `at`: its own place.
    pub(super) fn explain(&self, facts: &impl Facts, at: Range<usize>) -> (bool, Range<usize>) {
        let (parts, decides) = match self {
            Condition::All(parts) => (parts, false),
            Condition::Any(parts) => (parts, true),
            Condition::Not(inner) => {
                let (is_true, part) = inner.explain(facts, at.clone());
                // Of a part that was denied, the place without the sign says nothing.
                return (!is_true, if part.len() < at.len() { part } else { at });
            }
            other => return (other.is_true(facts), at),
        };
        for part in parts {
            let (is_true, decided) = part.condition.explain(facts, part.at.clone());
            if is_true == decides {
                return (is_true, decided);
            }
        }
        (!decides, at)
    }
}

impl Text {
    fn read<'a>(&'a self, facts: &'a impl Facts) -> Cow<'a, [u8]> {
        match self {
            Text::Literal(text) => Cow::Borrowed(text),
            Text::Of(variable) => facts.text(variable),
        }
    }
}

impl Number {
    fn read(&self, facts: &impl Facts) -> Option<i64> {
        match self {
            Number::Literal(number) => Some(*number),
            Number::Of(counted) => Some(facts.number(*counted)),
            Number::Size(text) => i64::try_from(text.read(facts).len()).ok(),
            Number::Int(text) => std::str::from_utf8(&text.read(facts)).ok()?.trim().parse().ok(),
        }
    }
}

impl Order {
    /// Whether two numbers are so. What is no number is unequal to all.
    fn holds(self, one: Option<i64>, other: Option<i64>) -> bool {
        let (Some(one), Some(other)) = (one, other) else { return self == Order::Unequal };
        match self {
            Order::Equal => one == other,
            Order::Unequal => one != other,
            Order::Less => one < other,
            Order::LessOrEqual => one <= other,
            Order::Greater => one > other,
            Order::GreaterOrEqual => one >= other,
        }
    }
}
