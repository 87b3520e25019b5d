//! What a checked expression is, and whether it is true.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;

use memchr::memmem::Finder;

use super::names::{Counted, Map, Variable};
use crate::address::Ranges;
use crate::pattern::Pattern;

/// What expressions and templates read.
pub trait Facts {
    /// Reads a text; what is not there is empty.
    fn text<T>(&self, variable: &Variable, read: impl FnOnce(&[u8]) -> T) -> T;
    /// Whether something has a name like that.
    fn has(&self, map: Map, name: &Pattern) -> bool;
    fn number(&self, counted: Counted) -> i64;
    fn client(&self) -> IpAddr;
}

#[derive(Debug, Clone)]
pub(super) enum Condition {
    Not(Box<Condition>),
    All(Box<[Part]>),
    Any(Box<[Part]>),
    Simple(Simple),
}

/// A condition without others in it.
#[derive(Debug, Clone)]
pub(super) enum Simple {
    Is(bool),
    Text(Text, Test),
    Same(Text, Text),
    Compares(Number, Order, Number),
    /// There is no `=` in the name.
    Has(Map, Pattern),
    Within(Ranges),
}

/// One of several conditions, with its place.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub at: Range<usize>,
    pub condition: Condition,
}

/// What is asked of a text.
#[derive(Debug, Clone)]
pub(super) enum Test {
    Is(Box<[u8]>),
    OneOf(Box<[Box<[u8]>]>),
    /// The same of many.
    Among(HashSet<Box<[u8]>>),
    StartsWith(Box<[u8]>),
    EndsWith(Box<[u8]>),
    Contains(Box<Finder<'static>>),
    Matches(regex::bytes::Regex),
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

impl From<Simple> for Condition {
    fn from(simple: Simple) -> Self {
        Condition::Simple(simple)
    }
}

impl Condition {
    pub(super) fn is_true(&self, facts: &impl Facts) -> bool {
        match self {
            Condition::Not(inner) => !inner.is_true(facts),
            Condition::All(parts) => parts.iter().all(|part| part.is_true(facts)),
            Condition::Any(parts) => parts.iter().any(|part| part.is_true(facts)),
            Condition::Simple(simple) => simple.is_true(facts),
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

impl Part {
    /// Most parts are simple: for one that is, a call would cost as much as itself.
    #[inline]
    fn is_true(&self, facts: &impl Facts) -> bool {
        match &self.condition {
            Condition::Simple(simple) => simple.is_true(facts),
            condition => condition.is_true(facts),
        }
    }
}

impl Simple {
    #[inline]
    fn is_true(&self, facts: &impl Facts) -> bool {
        match self {
            Simple::Is(value) => *value,
            Simple::Text(text, test) => text.read(facts, |text| test.holds(text)),
            Simple::Same(one, other) => one.read(facts, |one| other.read(facts, |other| one == other)),
            Simple::Compares(one, order, other) => order.holds(one.read(facts), other.read(facts)),
            Simple::Has(map, name) => facts.has(*map, name),
            Simple::Within(ranges) => ranges.contains(facts.client()),
        }
    }
}

impl Text {
    fn read<T>(&self, facts: &impl Facts, read: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Text::Literal(text) => read(text),
            Text::Of(variable) => facts.text(variable, read),
        }
    }
}

impl Test {
    fn holds(&self, text: &[u8]) -> bool {
        match self {
            Test::Is(other) => is_same(text, other),
            Test::OneOf(all) => all.iter().any(|one| *text == **one),
            Test::Among(all) => all.contains(text),
            Test::StartsWith(part) => text.get(..part.len()).is_some_and(|start| is_same(start, part)),
            Test::EndsWith(part) => text.ends_with(part),
            Test::Contains(part) => part.find(text).is_some(),
            Test::Matches(regex) => regex.is_match(text),
        }
    }
}

/// Whether two texts are the same. Most are short: a call that is made for long ones would cost more than to look at them.
#[inline]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && match one.len() {
            0..4 => one.iter().eq(other),
            4..8 => {
                one.first_chunk::<4>() == other.first_chunk::<4>() && one.last_chunk::<4>() == other.last_chunk::<4>()
            }
            8..=16 => {
                one.first_chunk::<8>() == other.first_chunk::<8>() && one.last_chunk::<8>() == other.last_chunk::<8>()
            }
            _ => one == other,
        }
}

impl Number {
    fn read(&self, facts: &impl Facts) -> Option<i64> {
        match self {
            Number::Literal(number) => Some(*number),
            Number::Of(counted) => Some(facts.number(*counted)),
            Number::Size(text) => i64::try_from(text.read(facts, <[u8]>::len)).ok(),
            Number::Int(text) => text.read(facts, |text| std::str::from_utf8(text).ok()?.trim().parse().ok()),
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
