//! What expressions and templates may read, and how it is called.

use http::HeaderName;

/// Where an expression stands, and so what is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Request,
    /// Beside the request, what the origin has answered.
    Response,
    /// That alone: what is decided by it holds for all requests that get it.
    Answer,
}

/// A text. What is not there is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    Method,
    Scheme,
    Host,
    Path,
    /// The query as it came, without the question mark.
    Query,
    /// `HTTP/1.1`, as access logs have it.
    Protocol,
    /// All lines of a field, joined by commas.
    Header(HeaderName),
    /// The first cookie of the name.
    Cookie(Box<str>),
    /// The first parameter of the name, decoded.
    Parameter(Box<str>),
    RequestId,
    /// Of the client, by two letters; where it is not known, empty.
    Country,
    /// The name of the listener.
    Listener,
    /// The version of TLS; of a plain connection, empty.
    TlsVersion,
    /// A field of the response, as [`Variable::Header`].
    ResponseHeader(HeaderName),
}

/// What has names of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    Headers,
    Cookies,
    Query,
    ResponseHeaders,
}

/// A number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The port that the client's connection came to.
    Port,
    /// The autonomous system of the client; where it is not known, 0.
    Asn,
    /// Of the response.
    Status,
    /// Seconds since the epoch.
    Now,
    /// Of the day, by UTC.
    Hours,
    Minutes,
    /// From Sunday, which is 0, as in CEL.
    DayOfWeek,
}

/// Something that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Text(Variable),
    Map(Map),
    Number(Counted),
    Client,
    Now,
}

/// Every name that may stand alone or with its dots, for hints.
pub(super) const NAMES: [&str; 19] = [
    "method",
    "scheme",
    "host",
    "port",
    "path",
    "query",
    "header",
    "cookie",
    "headers",
    "cookies",
    "client.ip",
    "client.country",
    "client.asn",
    "protocol",
    "now",
    "request.id",
    "listener",
    "tls.version",
    "status",
];

/// What a name means that has no further dots in it but its own.
pub(super) fn named(name: &str) -> Option<Named> {
    Some(match name {
        "method" => Named::Text(Variable::Method),
        "scheme" => Named::Text(Variable::Scheme),
        "host" => Named::Text(Variable::Host),
        "path" => Named::Text(Variable::Path),
        "query" => Named::Text(Variable::Query),
        "protocol" => Named::Text(Variable::Protocol),
        "request.id" => Named::Text(Variable::RequestId),
        "client.country" => Named::Text(Variable::Country),
        "client.asn" => Named::Number(Counted::Asn),
        "tls.version" => Named::Text(Variable::TlsVersion),
        "listener" => Named::Text(Variable::Listener),
        "client.ip" => Named::Client,
        "port" => Named::Number(Counted::Port),
        "status" => Named::Number(Counted::Status),
        "now" => Named::Now,
        "header" | "headers" => Named::Map(Map::Headers),
        "cookie" | "cookies" => Named::Map(Map::Cookies),
        "response.header" | "response.headers" => Named::Map(Map::ResponseHeaders),
        _ => return None,
    })
}

/// A member of a map. The error says what is wrong with its name.
pub(crate) fn member(map: Map, name: &str) -> Result<Variable, String> {
    let field = || name.parse::<HeaderName>().map_err(|_| format!("{name:?} is not the name of a header field"));
    Ok(match map {
        Map::Headers => Variable::Header(field()?),
        Map::ResponseHeaders => Variable::ResponseHeader(field()?),
        Map::Cookies => Variable::Cookie(name.into()),
        Map::Query => Variable::Parameter(name.into()),
    })
}

impl Scope {
    /// Whether a variable is known.
    pub(super) fn has(self, named: &Named) -> bool {
        let is_of_response = matches!(
            named,
            Named::Number(Counted::Status)
                | Named::Map(Map::ResponseHeaders)
                | Named::Text(Variable::ResponseHeader(_))
        );
        match self {
            Scope::Request => !is_of_response,
            Scope::Response => true,
            Scope::Answer => is_of_response,
        }
    }
}
