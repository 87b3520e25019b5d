//! Types: a tree to what can be evaluated, or to a mistake with its place.

use std::ops::Range;

use memchr::memmem::Finder;

use super::Mistake;
use super::evaluate::{Condition, Number, Order, Part, Simple, Test, Text};
use super::names::{self, Counted, Map, NAMES, Named, Scope, Variable};
use super::parse::{Node, Operator, Tree};
use crate::address::{IpRange, Ranges};
use crate::clock::Timestamp;
use crate::geoip::check_country;
use crate::pattern::{self, Pattern};
use crate::request::compared;
use crate::spelling::did_you_mean;

/// Lists are searched by hash from so many elements on.
const MANY: usize = 8;

/// What a part of an expression is.
enum Typed {
    Condition(Condition),
    Text(Text),
    Number(Number),
    Time(Number),
    Client,
    Map,
    List,
}

impl Typed {
    fn kind(&self) -> &'static str {
        match self {
            Typed::Condition(_) => "a condition",
            Typed::Text(_) => "a string",
            Typed::Number(_) => "a number",
            Typed::Time(_) => "a time",
            Typed::Client => "an address",
            Typed::Map => "a set of names",
            Typed::List => "a list",
        }
    }
}

/// Reads a tree as something that is true or not.
pub(super) fn condition(tree: &Tree, scope: Scope) -> Result<Condition, Mistake> {
    match typed(tree, scope)? {
        Typed::Condition(condition) => Ok(condition),
        other => {
            let mistake = Mistake::new(tree.at.clone(), format!("expected a condition, found {}", other.kind()));
            Err(match other {
                Typed::Text(Text::Of(Variable::Header(name))) => {
                    mistake.with_hint(format!("whether it is there: headers.has(\"{name}\")"))
                }
                Typed::Text(Text::Of(Variable::Cookie(name))) => {
                    mistake.with_hint(format!("whether it is there: cookies.has(\"{name}\")"))
                }
                Typed::Text(Text::Of(Variable::Parameter(name))) => {
                    mistake.with_hint(format!("whether it is there: query.has(\"{name}\")"))
                }
                _ => mistake.with_hint("compare it with ==, in, or a function such as startsWith"),
            })
        }
    }
}

fn typed(tree: &Tree, scope: Scope) -> Result<Typed, Mistake> {
    Ok(match &tree.node {
        Node::Bool(value) => Typed::Condition(Simple::Is(*value).into()),
        Node::Number(value) => Typed::Number(Number::Literal(*value)),
        Node::Text(value) => Typed::Text(Text::Literal(value.as_bytes().into())),
        Node::List(_) => Typed::List,
        Node::Not(inner) => Typed::Condition(Condition::Not(Box::new(condition(inner, scope)?))),
        Node::All(parts) => Typed::Condition(Condition::All(each(parts, scope)?)),
        Node::Any(parts) => Typed::Condition(Condition::Any(each(parts, scope)?)),
        Node::Compare(left, operator, right) => Typed::Condition(compare(tree, left, *operator, right, scope)?),
        Node::Call(Some(of), name, arguments) => method(tree, of, name, arguments, scope)?,
        Node::Call(None, name, arguments) => function(tree, name, arguments, scope)?,
        Node::Name(_) | Node::Member(..) => of_name(tree, scope)?,
    })
}

fn each(parts: &[Tree], scope: Scope) -> Result<Box<[Part]>, Mistake> {
    parts.iter().map(|part| Ok(Part { at: part.at.clone(), condition: condition(part, scope)? })).collect()
}

/// A name, with its dots.
fn of_name(tree: &Tree, scope: Scope) -> Result<Typed, Mistake> {
    let unknown = |name: &str| {
        let mistake = Mistake::new(tree.at.clone(), format!("{name:?} is not known here"));
        match did_you_mean(name, NAMES) {
            Some(meant) => mistake.with_hint(format!("did you mean {meant:?}?")),
            None => {
                let known = match scope {
                    Scope::Answer => "status, response.header, response.headers".to_owned(),
                    Scope::Response => NAMES.join(", "),
                    Scope::Request => NAMES.into_iter().filter(|name| *name != "status").collect::<Vec<_>>().join(", "),
                };
                mistake.with_hint(format!("a string needs quotes; known names are {known}"))
            }
        }
    };
    let named = match &tree.node {
        Node::Member(of, name) => match map_of(of) {
            Some(map) => {
                let variable = names::member(map, name).map_err(|why| Mistake::new(tree.at.clone(), why))?;
                Some(Named::Text(variable))
            }
            None => tree.dotted().and_then(|name| names::named(&name)),
        },
        _ => tree.dotted().and_then(|name| names::named(&name)),
    };
    let named = named.ok_or_else(|| unknown(&tree.dotted().unwrap_or_default()))?;
    if !scope.has(&named) {
        let mistake = |message| Mistake::new(tree.at.clone(), message);
        return Err(match scope {
            Scope::Answer => mistake("only the response is known here, which all requests get").with_hint(
                "by the request: \"bypass\", or \"when\" of a route; of the response: status, response.header.NAME",
            ),
            _ => mistake("this is known when the origin has answered, and not before"),
        });
    }
    Ok(match named {
        Named::Text(variable) => Typed::Text(Text::Of(variable)),
        Named::Number(counted) => Typed::Number(Number::Of(counted)),
        Named::Now => Typed::Time(Number::Of(Counted::Now)),
        Named::Client => Typed::Client,
        Named::Map(_) => Typed::Map,
    })
}

/// What has members. The query is a text, too.
fn map_of(tree: &Tree) -> Option<Map> {
    match names::named(&tree.dotted()?)? {
        Named::Map(map) => Some(map),
        Named::Text(Variable::Query) => Some(Map::Query),
        _ => None,
    }
}

fn compare(tree: &Tree, left: &Tree, operator: Operator, right: &Tree, scope: Scope) -> Result<Condition, Mistake> {
    if let Node::Not(denied) = &left.node
        && !matches!(typed(denied, scope)?, Typed::Condition(_))
    {
        let mistake = Mistake::new(left.at.clone(), "this \"!\" denies what stands left of the comparison alone");
        return Err(
            mistake.with_hint(format!("to deny the comparison, put it in brackets: !(... {} ...)", operator.as_str()))
        );
    }
    let (of, with) = (typed(left, scope)?, typed(right, scope)?);
    let is_not = operator == Operator::Unequal;
    let found = match (of, operator, with) {
        (Typed::Client, Operator::In, Typed::List) => Simple::Within(ranges(right)?),
        (Typed::Client, Operator::Equal | Operator::Unequal, Typed::Text(Text::Literal(_))) => {
            Simple::Within(Ranges::new([range(right)?]))
        }
        (Typed::Text(text), Operator::In, Typed::List) => {
            items(right).iter().try_for_each(|item| can_be(&text, item))?;
            one_of(text, right, scope)?
        }
        (Typed::Number(number), Operator::In, Typed::List) => return any_number(&number, right, scope),
        (Typed::Text(one), Operator::Equal | Operator::Unequal, Typed::Text(other)) => {
            can_be(&one, right)?;
            can_be(&other, left)?;
            match (one, other) {
                (text, Text::Literal(other)) | (Text::Literal(other), text) => Simple::Text(text, Test::Is(other)),
                (one, other) => Simple::Same(one, other),
            }
        }
        (Typed::Number(one), operator, Typed::Number(other)) | (Typed::Time(one), operator, Typed::Time(other))
            if operator != Operator::In =>
        {
            return Ok(Simple::Compares(one, order(operator), other).into());
        }
        (of, operator, with) => {
            let mistake = match operator {
                Operator::In => format!("{} cannot be in {}", of.kind(), with.kind()),
                _ => format!("{} and {} cannot be compared by {}", of.kind(), with.kind(), operator.as_str()),
            };
            return Err(explained(Mistake::new(tree.at.clone(), mistake), &of, operator, &with));
        }
    };
    Ok(if is_not { Condition::Not(Box::new(found.into())) } else { found.into() })
}

/// Reports a text in quotes that a variable never is.
fn can_be(of: &Text, literal: &Tree) -> Result<(), Mistake> {
    let (Text::Of(variable), Node::Text(text)) = (of, &literal.node) else { return Ok(()) };
    let hint = match variable {
        Variable::Country if text.is_empty() => return Ok(()),
        Variable::Country => match check_country(text) {
            Ok(()) => return Ok(()),
            Err(why) => why.to_owned(),
        },
        Variable::Path if !text.starts_with('/') => "a path begins with /".to_owned(),
        Variable::Path => match compared(text) {
            Ok(path) if path == *text => return Ok(()),
            Ok(path) => format!("paths are compared in another form: write {path:?}"),
            Err(why) => why.to_owned(),
        },
        Variable::Host if text.contains('*') => {
            "for all hosts below it, write host.endsWith(\".example.com\")".to_owned()
        }
        Variable::Host if text.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b':') => {
            "a host is in lower case here, and without its port".to_owned()
        }
        Variable::Method if text.bytes().any(|byte| byte.is_ascii_lowercase()) => {
            format!("write {:?}", text.to_ascii_uppercase())
        }
        Variable::TlsVersion if !["", "TLSv1.2", "TLSv1.3"].contains(&&**text) => {
            "it is \"TLSv1.2\" or \"TLSv1.3\", or empty".to_owned()
        }
        Variable::Scheme if !["http", "https"].contains(&&**text) => "it is \"http\" or \"https\"".to_owned(),
        Variable::Protocol if !PROTOCOLS.contains(&&**text) => format!("it is one of {}", PROTOCOLS.join(", ")),
        _ => return Ok(()),
    };
    Err(Mistake::new(literal.at.clone(), "nothing is ever equal to this").with_hint(hint))
}

/// The values of `protocol`.
const PROTOCOLS: [&str; 3] = ["HTTP/1.0", "HTTP/1.1", "HTTP/2.0"];

/// What somebody may have meant who compared what cannot be compared.
fn explained(mistake: Mistake, of: &Typed, operator: Operator, with: &Typed) -> Mistake {
    match (of, operator, with) {
        (Typed::Text(_), Operator::In, Typed::Text(_)) => {
            mistake.with_hint("write path.contains(\"part\"), or a list [...]")
        }
        (Typed::Text(Text::Literal(_)), _, Typed::Number(_)) | (Typed::Number(_), _, Typed::Text(Text::Literal(_))) => {
            mistake.with_hint("write the number without quotes")
        }
        (Typed::Text(_), _, Typed::Number(_)) | (Typed::Number(_), _, Typed::Text(_)) => {
            mistake.with_hint("of a string that is a number, write int(...); for its length, size(...)")
        }
        (Typed::Client, ..) => mistake.with_hint("write client.ip in [\"10.0.0.0/8\"]"),
        (Typed::Time(_), ..) => {
            mistake.with_hint("write now < timestamp(\"2030-01-01T00:00:00Z\"), or now.getHours() < 6")
        }
        _ => mistake,
    }
}

fn order(operator: Operator) -> Order {
    match operator {
        Operator::Equal | Operator::In => Order::Equal,
        Operator::Unequal => Order::Unequal,
        Operator::Less => Order::Less,
        Operator::LessOrEqual => Order::LessOrEqual,
        Operator::Greater => Order::Greater,
        Operator::GreaterOrEqual => Order::GreaterOrEqual,
    }
}

fn items(list: &Tree) -> &[Tree] {
    match &list.node {
        Node::List(items) => items,
        _ => &[],
    }
}

fn one_of(text: Text, list: &Tree, scope: Scope) -> Result<Simple, Mistake> {
    let item = |item: &Tree| match typed(item, scope)? {
        Typed::Text(Text::Literal(text)) => Ok(text),
        other => Err(Mistake::new(
            item.at.clone(),
            format!("expected a string in quotes in this list, found {}", other.kind()),
        )),
    };
    let all = items(list).iter().map(item).collect::<Result<Vec<_>, _>>()?;
    Ok(if all.len() < MANY {
        Simple::Text(text, Test::OneOf(all.into()))
    } else {
        Simple::Text(text, Test::Among(all.into_iter().collect()))
    })
}

fn any_number(number: &Number, list: &Tree, scope: Scope) -> Result<Condition, Mistake> {
    let part = |item: &Tree| match typed(item, scope)? {
        Typed::Number(other) => {
            let condition = Simple::Compares(number.clone(), Order::Equal, other).into();
            Ok(Part { at: item.at.clone(), condition })
        }
        other => Err(Mistake::new(item.at.clone(), format!("expected a number in this list, found {}", other.kind()))),
    };
    Ok(Condition::Any(items(list).iter().map(part).collect::<Result<_, _>>()?))
}

fn ranges(list: &Tree) -> Result<Ranges, Mistake> {
    let all: Vec<IpRange> = items(list).iter().map(range).collect::<Result<_, _>>()?;
    Ok(Ranges::new(all))
}

fn range(tree: &Tree) -> Result<IpRange, Mistake> {
    let Node::Text(text) = &tree.node else {
        return Err(Mistake::new(tree.at.clone(), "expected a range of addresses such as \"10.0.0.0/8\""));
    };
    text.parse().map_err(|why: String| Mistake::new(tree.at.clone(), why))
}

/// What can be asked of a text by a call.
const OF_TEXTS: [&str; 5] = ["startsWith", "endsWith", "contains", "matches", "size"];
const OF_TIMES: [&str; 3] = ["getHours", "getMinutes", "getDayOfWeek"];

fn method(tree: &Tree, of: &Tree, name: &str, arguments: &[Tree], scope: Scope) -> Result<Typed, Mistake> {
    if name == "has" {
        let map = map_of(of).ok_or_else(|| {
            Mistake::new(of.at.clone(), "only headers, cookies and query have names to ask for")
                .with_hint("write headers.has(\"name*\")")
        })?;
        // What is asked for must be known here.
        typed(of, scope)?;
        return Ok(Typed::Condition(has(map, argument(tree, name, arguments)?)?));
    }
    let no_such = |of: &Typed, known: &[&str]| {
        let meant = did_you_mean(name, known.iter().copied());
        let hint = meant.map_or(format!("known are {}", known.join(", ")), |meant| format!("did you mean {meant:?}?"));
        Mistake::new(tree.at.clone(), format!("{} has no {name:?}", of.kind())).with_hint(hint)
    };
    let of = typed(of, scope)?;
    match of {
        Typed::Text(text) if name == "size" => {
            no_arguments(name, arguments)?;
            Ok(Typed::Number(Number::Size(text)))
        }
        Typed::Text(text) if OF_TEXTS.contains(&name) => {
            let (part, at) = argument(tree, name, arguments)?;
            let test = match name {
                "startsWith" => Test::StartsWith(part.as_bytes().into()),
                "endsWith" => Test::EndsWith(part.as_bytes().into()),
                "contains" => Test::Contains(Box::new(Finder::new(part).into_owned())),
                _ => Test::Matches(pattern::regex(part).map_err(|why| Mistake::new(at.clone(), why))?),
            };
            Ok(Typed::Condition(Simple::Text(text, test).into()))
        }
        Typed::Time(_) => {
            let counted = match name {
                "getHours" => Counted::Hours,
                "getMinutes" => Counted::Minutes,
                "getDayOfWeek" => Counted::DayOfWeek,
                _ => return Err(no_such(&of, &OF_TIMES)),
            };
            no_arguments(name, arguments)?;
            Ok(Typed::Number(Number::Of(counted)))
        }
        Typed::Text(_) => Err(no_such(&of, &OF_TEXTS)),
        Typed::Map => Err(no_such(&of, &["has"])),
        other => {
            let mistake = Mistake::new(tree.at.clone(), format!("{} has no {name:?}", other.kind()));
            Err(match other {
                Typed::Client => mistake.with_hint("write client.ip in [\"10.0.0.0/8\"]"),
                _ => mistake,
            })
        }
    }
}

fn function(tree: &Tree, name: &str, arguments: &[Tree], scope: Scope) -> Result<Typed, Mistake> {
    let known = ["int", "size", "timestamp"];
    if !known.contains(&name) {
        let mistake = Mistake::new(tree.at.clone(), format!("there is no function {name:?}"));
        return Err(match did_you_mean(name, known) {
            Some(meant) => mistake.with_hint(format!("did you mean {meant:?}?")),
            None if OF_TEXTS.contains(&name) => mistake.with_hint(format!("write path.{name}(...)")),
            None if name == "has" => {
                mistake.with_hint("write headers.has(\"name\"), cookies.has(...) or query.has(...)")
            }
            None => mistake.with_hint("known are int, size and timestamp"),
        });
    }
    let [argument] = arguments else {
        return Err(Mistake::new(tree.at.clone(), format!("{name} takes one argument, not {}", arguments.len())));
    };
    match (name, typed(argument, scope)?) {
        ("timestamp", Typed::Text(Text::Literal(text))) => {
            let seconds = std::str::from_utf8(&text).ok().and_then(Timestamp::from_rfc3339).ok_or_else(|| {
                let mistake = Mistake::new(argument.at.clone(), "this is not a time by RFC 3339");
                mistake.with_hint("write timestamp(\"2030-01-31T08:00:00Z\")")
            })?;
            Ok(Typed::Time(Number::Literal(i64::try_from(seconds.as_secs()).unwrap_or(i64::MAX))))
        }
        ("int", Typed::Text(text)) => Ok(Typed::Number(Number::Int(text))),
        ("size", Typed::Text(text)) => Ok(Typed::Number(Number::Size(text))),
        (_, other) => Err(Mistake::new(argument.at.clone(), format!("{name} takes a string, not {}", other.kind()))),
    }
}

/// The one argument of a call, which is a text in quotes.
fn argument<'t>(tree: &Tree, name: &str, arguments: &'t [Tree]) -> Result<(&'t str, &'t Range<usize>), Mistake> {
    match arguments {
        [Tree { node: Node::Text(text), at }] => Ok((text, at)),
        [other] => Err(Mistake::new(other.at.clone(), format!("{name} takes a string in quotes"))),
        _ => Err(Mistake::new(tree.at.clone(), format!("{name} takes one argument, not {}", arguments.len()))),
    }
}

fn no_arguments(name: &str, arguments: &[Tree]) -> Result<(), Mistake> {
    let first = arguments.first();
    first.map_or(Ok(()), |first| Err(Mistake::new(first.at.clone(), format!("{name} takes no argument"))))
}

fn has(map: Map, (name, at): (&str, &Range<usize>)) -> Result<Condition, Mistake> {
    // Names of fields have no case (RFC 9110 section 5.1).
    let is_field = matches!(map, Map::Headers | Map::ResponseHeaders);
    let name = if is_field { name.to_ascii_lowercase() } else { name.to_owned() };
    if let Some((name, value)) = name.split_once('=') {
        let of = match map {
            Map::Query => "query",
            Map::Cookies => "cookie",
            Map::Headers | Map::ResponseHeaders => "header",
        };
        let mistake = Mistake::new(at.clone(), "a name ends before its \"=\"");
        return Err(mistake.with_hint(format!("for what it says: {of}.{name} == {value:?}")));
    }
    let pattern: Pattern = name.parse().map_err(|why: String| Mistake::new(at.clone(), why))?;
    Ok(Simple::Has(map, pattern).into())
}
