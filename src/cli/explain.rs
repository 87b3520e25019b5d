//! `seawall explain`: of a running node, or offline with a response in a file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;

use super::service::Service;
use crate::cache::explain::{Explanation, explain};
use crate::cache::freshness::ExchangeTimes;
use crate::cache::heeded;
use crate::cache::policy::{RequestFacts, ResponseFacts};
use crate::cache::reason;
use crate::cache::vary::Presented;
use crate::clock::Timestamp;
use crate::config::host::HostPattern;
use crate::config::model::{CacheMemory, CacheMode, CacheRules, Config};
use crate::config::units::format_duration;
use crate::plan::{Plan, Side, plan};
use crate::request::{Fields, RequestView, Scheme, Target};

use super::admin_client::AdminArgs;
use super::{counted, list, text};

/// Fields of a message in a file.
const MAX_FIELDS: usize = 200;

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["url", "response", "reasons"])))]
pub(crate) struct Args {
    /// The URL, as a client would ask for it.
    url: Option<String>,
    /// A field of the request, "Name: value"; may be given more than once.
    #[arg(long = "header", value_name = "FIELD", conflicts_with_all = ["response", "reasons"])]
    headers: Vec<String>,
    /// The client's address, for `allow`, `deny` and conditions; without one, every list admits it.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["response", "reasons"])]
    client: Option<std::net::IpAddr>,
    /// Ask the origin, and judge its answer without storing it.
    #[arg(long, conflicts_with_all = ["response", "reasons"])]
    fetch: bool,
    /// Offline: a file with a response head, as `curl -i` prints it. The command fails if it would not be stored.
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
    /// Offline: a file with the head of the request it answers; without one, a GET with no fields.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "reasons"])]
    request: Option<PathBuf>,
    /// Offline: the configuration whose route decides; without one, a route with mode = "respect".
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "reasons"])]
    config: Option<PathBuf>,
    /// Print every reason there is.
    #[arg(long)]
    reasons: bool,
    /// Print JSON.
    #[arg(long, conflicts_with = "reasons")]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn execute(args: &Args) -> super::Result {
    if args.reasons {
        print!("{}", reasons());
        return Ok(());
    }
    if let Some(url) = &args.url {
        return ask(args, url);
    }
    let Some(response) = &args.response else { return Err("give a URL or --response".into()) };
    let explanation = offline(response, args.request.as_deref(), args.config.as_deref())?;
    print(args, &explanation, render)?;
    if explanation.stored { Ok(()) } else { Err(format!("it would not be stored: {}", explanation.reason).into()) }
}

/// An answer for a program or for a person.
fn print(args: &Args, answer: &impl serde::Serialize, render: fn(&Value) -> String) -> super::Result {
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(answer)?),
        false => print!("{}", render(&serde_json::to_value(answer)?)),
    }
    Ok(())
}

/// Every reason as the rows of a table.
fn reasons() -> String {
    let mut out = String::from("| word | stored | meaning | rule |\n|---|---|---|---|\n");
    for (stored, reason) in reason::all() {
        let stored = if stored { "yes" } else { "no" };
        let _ = writeln!(out, "| `{}` | {stored} | {} | {} |", reason.word, reason.meaning, reason.source);
    }
    out
}

fn ask(args: &Args, url: &str) -> super::Result {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("url", url);
    for header in &args.headers {
        query.append_pair("header", header);
    }
    if let Some(client) = args.client {
        query.append_pair("client", &client.to_string());
    }
    if args.fetch {
        query.append_pair("fetch", "true");
    }
    let answer = args.admin.get(&format!("/v1/explain?{}", query.finish()))?;
    print(args, &answer, render_answer)
}

/// The verdict on a response in a file.
fn offline(
    response: &Path,
    request: Option<&Path>,
    config: Option<&Path>,
) -> Result<Explanation, Box<dyn std::error::Error>> {
    let (status, mut headers) = parse_response(&read(response)?).map_err(|error| at(response, &error))?;
    let (method, target, fields) = match request {
        Some(path) => parse_request(&read(path)?).map_err(|error| at(path, &error))?,
        None => (Method::GET, "/".to_owned(), HeaderMap::new()),
    };
    if !matches!(method, Method::GET | Method::HEAD) {
        return Err(format!("answers to {method} are never stored (RFC 9111 section 2)").into());
    }
    let (rules, max_object) = match config {
        Some(path) => {
            let config = Service::load(Service::of(path).as_ref(), path).map_err(|errors| errors.to_string())?;
            rules_for(&config, &method, &target, &fields)?
        }
        None => {
            let mode = CacheMode::Respect { default_ttl: None };
            (CacheRules { mode, ..CacheRules::default() }, CacheMemory::default().max_object.0)
        }
    };
    // As if it had just come: a file may be read long after it was written.
    let date = headers.get(header::DATE).and_then(|date| date.to_str().ok()).and_then(Timestamp::from_http_date);
    let now = date.unwrap_or_else(Timestamp::now);
    heeded::translate(&mut headers, &rules.heed, now);
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let no_store =
        rules.heeds_clients() && crate::cache::control::ClientDirectives::parse(Fields::Map(&fields)).no_store;
    let (client, version) = (std::net::Ipv4Addr::UNSPECIFIED.into(), http::Version::HTTP_11);
    let presented = Presented {
        fields: Fields::Map(&fields),
        client,
        peer: client,
        version,
        node: None,
        side: Side::Whole,
        pool: None,
    };
    let facts = RequestFacts::new(presented, 0, no_store);
    let times = ExchangeTimes { request: now, response: now };
    Ok(explain(&rules, &facts, &ResponseFacts { status, headers: &headers, times, length, max_object }))
}

/// The rules of the route that a request belongs to, and how large a body its site stores.
fn rules_for(config: &Config, method: &Method, target: &str, fields: &HeaderMap) -> Result<(CacheRules, u64), String> {
    // A head that was copied from a client does not say it.
    let is_https = match target.starts_with('/') {
        true => !config.certificates.is_empty(),
        false => target.starts_with("https://"),
    };
    let scheme = if is_https { Scheme::Https } else { Scheme::Http };
    let target = Target::parse(target)?;
    let host = fields.get(header::HOST).and_then(|host| host.to_str().ok()).or(target.authority);
    let only = || match &config.sites[..] {
        [_] => config.hosts.patterns().next().map(|(pattern, _)| a_host_of(pattern)),
        _ => None,
    };
    let host = host
        .map(str::to_owned)
        .or_else(only)
        .ok_or("of which site's host is it? give the head of the request, with its Host, by --request FILE")?;
    let (name, port) = crate::request::parse_authority(&host).ok_or("the request's Host is not valid")?;
    let view = RequestView {
        port,
        query: target.query,
        ..RequestView::own(method, scheme, &name, &target.path, Fields::Map(fields))
    };
    match plan(config, &view, Timestamp::now()) {
        Plan::Cache(matched) => {
            let in_memory = config.memory.max_object.0.min(matched.site.memory.unwrap_or(u64::MAX));
            let on_disk = if config.disk.directories.is_empty() { 0 } else { config.disk.max_object.0 };
            Ok((matched.route.cache.clone(), in_memory.max(on_disk)))
        }
        Plan::Refuse { why, .. } => Err(format!("the request would be refused: {why}")),
        Plan::Answer { route: Some(route), .. } => {
            Err(format!("its route, {:?}, answers by itself", route.path.as_str()))
        }
        Plan::Answer { route: None, .. } => Err("its site sends it to HTTPS, or to its canonical host".to_owned()),
        _ => Err("the request would be passed on: its route does not cache it".into()),
    }
}

/// Which origin a request would get now.
fn render_origin(origin: &Value) -> String {
    let one = |origin: &Value| {
        let weight = origin["weight"].as_u64().filter(|weight| *weight != 1);
        let weight = weight.map(|weight| format!(", weight {weight}")).unwrap_or_default();
        let latency = origin["latency_ms"].as_f64().map(|latency| format!(", {latency:.1} ms")).unwrap_or_default();
        format!("{} ({} active{weight}{latency})", text(&origin["address"]), origin["active"])
    };
    let all: Vec<String> = list(&origin["origins"]).map(one).collect();
    let level = origin["level"].as_str().map(|level| {
        format!(" of {level}, which gets {:.0} % of the requests", origin["share"].as_f64().unwrap_or(0.0) * 100.0)
    });
    let which = if all.len() == 1 { String::new() } else { "one of ".to_owned() };
    format!("{which}{} by {}{}", all.join(", "), text(&origin["by"]), level.unwrap_or_default())
}

/// Some host that a pattern matches.
fn a_host_of(pattern: HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host,
        HostPattern::Below(name) => format!("www.{name}"),
        HostPattern::Any => "localhost".to_owned(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| at(path, &error.to_string()))
}

fn at(path: &Path, error: &str) -> String {
    format!("{}: {error}", path.display())
}

/// The head of a response; `HTTP/2 200`, as curl prints it, is understood too.
fn parse_response(bytes: &[u8]) -> Result<(StatusCode, HeaderMap), String> {
    let bytes = with_end(bytes, |line| {
        let (version, rest) = line.split_once(' ').unwrap_or((line, ""));
        if version.starts_with("HTTP/") { format!("HTTP/1.1 {rest}") } else { line.to_owned() }
    });
    let mut space = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut space);
    check_head(response.parse(&bytes), "a response")?;
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("it has no status")?;
    Ok((status, Fields::parsed(response.headers).to_map()))
}

fn parse_request(bytes: &[u8]) -> Result<(Method, String, HeaderMap), String> {
    let bytes = with_end(bytes, |line| match line.rsplit_once(" HTTP/") {
        Some((rest, _)) => format!("{rest} HTTP/1.1"),
        None => line.to_owned(),
    });
    let mut space = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut space);
    check_head(request.parse(&bytes), "a request")?;
    let method = request.method.and_then(|method| method.parse().ok()).ok_or("it has no method")?;
    Ok((method, request.path.unwrap_or("/").to_owned(), Fields::parsed(request.headers).to_map()))
}

fn check_head(parsed: httparse::Result<usize>, what: &str) -> Result<(), String> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) => Err(format!("it is not the head of {what}")),
        Err(error) => Err(format!("it is not the head of {what}: {error}")),
    }
}

/// The bytes with another first line, and with the empty line that a head copied by hand may lack.
fn with_end(bytes: &[u8], first_line: impl Fn(&str) -> String) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let line = String::from_utf8_lossy(&bytes[..end]);
    let mut out = first_line(line.trim_end()).into_bytes();
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes.get(end + 1..).unwrap_or_default());
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// What the node says of a URL, for a person to read.
fn render_answer(answer: &Value) -> String {
    let mut out = format!("{} {}\n", text(&answer["method"]), text(&answer["url"]));
    if let Some(client) = answer["client"].as_str() {
        let _ = writeln!(out, "client    {client}");
    }
    let _ = writeln!(out, "site      {}", text(&answer["site"]));
    if let Some(route) = answer["route"].as_object() {
        let split = route["split"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
        let pool = route.get("pool").map(|pool| format!(", pool {}{split}", text(pool))).unwrap_or_default();
        let _ = writeln!(out, "route     {} {}{pool}", route["number"], text(&route["path"]));
    }
    for condition in list(&answer["conditions"]) {
        let _ = writeln!(out, "when      of route {} {}", condition["route"], verdict_of(condition));
    }
    if answer["bypass"].is_object() {
        let _ = writeln!(out, "bypass    {}", verdict_of(&answer["bypass"]));
    }
    let why = answer["why"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    let _ = writeln!(out, "decision  {}{why}", text(&answer["decision"]));
    if answer["goes_to"].is_object() {
        let _ = writeln!(out, "goes to   {}", render_origin(&answer["goes_to"]));
    }
    if let Some(target) = answer["rewritten"]["to"].as_str() {
        let host = answer["rewritten"]["host"].as_str().map(|host| format!(" of {host}")).unwrap_or_default();
        let _ = writeln!(out, "asks for  {target}{host}");
    }
    for (key, of) in [("request_fields", "request"), ("response_fields", "response")] {
        let sent: Vec<_> = list(&answer[key]["sent"]).map(text).collect();
        // What is set anew is dropped before that.
        let dropped: Vec<_> = list(&answer[key]["dropped"]).map(text).filter(|name| !sent.contains(name)).collect();
        for (word, names) in [("drops", dropped), ("sends", sent)] {
            if !names.is_empty() {
                let _ = writeln!(out, "{of:9} {word} {}", names.join(", "));
            }
        }
    }
    if let Some(list) = answer["refused_by"]["list"].as_str() {
        let whose = match answer["refused_by"]["route"].as_u64() {
            Some(number) => format!("route {number}"),
            None => "the site".to_owned(),
        };
        let has = if list == "deny" { "has" } else { "does not have" };
        let _ = writeln!(out, "refused   by {list:?} of {whose}, which {has} the client's address");
    }
    for kind in ["stored", "passed"] {
        let codings = list(&answer["compression"][kind]).map(text).collect::<Vec<_>>().join(", ");
        if !codings.is_empty() {
            let _ =
                writeln!(out, "codings   {codings} for what is {}", if kind == "stored" { kind } else { "not stored" });
        }
    }
    let requests = &answer["site_requests"];
    if let (Some(running), Some(most)) = (requests["running"].as_u64(), requests["max"].as_u64()) {
        let now = if running < most { "" } else { ": what needs one gets 503 now, or a stale response" };
        let _ = writeln!(out, "requests  {running} of {most} of the site are with its origins{now}");
    }
    if answer["decision"] != "cache" {
        return out;
    }
    let _ = writeln!(out, "would say {}", text(&answer["would_say"]));
    if let (Some(bytes), Some(number)) = (answer["slice"]["bytes"].as_u64(), answer["slice"]["number"].as_u64()) {
        let _ = writeln!(
            out,
            "in slices of {bytes} bytes; what follows is of number {number}, with which the answer begins"
        );
        if let (Some(there), Some(all)) = (answer["slice"]["stored"].as_u64(), answer["slice"]["of"].as_u64()) {
            let _ = writeln!(out, "slices    {there} of {all} are stored");
        }
    }
    let key = &answer["key"];
    let tls = if key["tls"] == true { ", TLS" } else { "" };
    let port = key["port"].as_u64().map(|port| format!(", port {port}")).unwrap_or_default();
    let (uri, site, version) = (text(&key["uri"]), text(&key["site"]), &key["version"]);
    let condition = if key["condition"].is_string() { ", the route's \"when\"" } else { "" };
    let _ = writeln!(out, "key       {uri} (site {site}, version {version}{port}{tls}{condition})");
    if let Some(seconds) = answer["not_cacheable_for"].as_u64() {
        let _ = writeln!(
            out,
            "          remembered as not cacheable for {seconds}s more: requests are passed on; --fetch says why"
        );
    }
    let joined = |value: &Value| list(value).map(text).collect::<Vec<_>>().join(", ");
    let purged = &answer["purged_by"];
    let _ = writeln!(out, "purged by url {}", joined(&purged["urls"]));
    let tags = joined(&purged["tags"]);
    if !tags.is_empty() {
        let _ = writeln!(out, "          tag {}", tags);
    }
    let _ = writeln!(out, "          site {}", text(&purged["site"]));
    if list(&answer["stored"]).next().is_none() {
        out.push_str("\nnothing is stored\n");
    }
    for object in list(&answer["stored"]) {
        let selected = if object["selected"] == true { ", which this request selects" } else { "" };
        let purged = if object["purged"] == true { ", PURGED" } else { "" };
        let part = object["range"].as_str().map(|range| format!(", only {range} of it")).unwrap_or_default();
        let bytes = counted(&object["bytes"], "byte");
        let tier = if object["tier"] == "disk" { "on disk" } else { "in memory" };
        let _ = writeln!(out, "\nan object {tier}{selected}: {}, {bytes}{part}{purged}", object["status"]);
        out += &render(object);
    }
    if let Some(origin) = answer["origin"].as_object() {
        let _ = writeln!(out, "\norigin {} answers {}", text(&origin["origin"]), origin["status"]);
        for field in list(&answer["origin"]["fields"]) {
            let _ = writeln!(out, "  {}: {}", text(&field[0]), text(&field[1]));
        }
        out += &render(&answer["origin"]);
    }
    out
}

/// Whether a condition is true, and which part decided.
fn verdict_of(condition: &Value) -> String {
    let verdict = if condition["true"] == true { "holds" } else { "does not hold" };
    let (when, part) = (text(&condition["when"]), text(&condition["decided_by"]));
    let by = if when == part { String::new() } else { format!(", by {part}") };
    format!("{verdict}{by}: {when}")
}

/// A verdict for a person to read.
fn render(verdict: &Value) -> String {
    let seconds = |value: &Value| format_duration(Duration::from_secs(value.as_i64().unwrap_or(0).unsigned_abs()));
    let word = if verdict["stored"] == true { "stored" } else { "not stored" };
    let mut out = format!("  {word}: {}\n", text(&verdict["reason"]));
    let _ = writeln!(out, "    {} ({})", text(&verdict["meaning"]), text(&verdict["rule"]));
    let Some(ttl) = verdict["ttl"].as_i64() else { return out };
    let left = if ttl > 0 || verdict["state"] == "fresh" { "left" } else { "over" };
    let _ = writeln!(
        out,
        "  {}: lifetime {}, age {}, {} {left}",
        text(&verdict["state"]),
        seconds(&verdict["lifetime"]),
        seconds(&verdict["age"]),
        seconds(&verdict["ttl"])
    );
    let _ = writeln!(
        out,
        "  stale: {} while revalidating, {} if the origin fails",
        seconds(&verdict["stale_while_revalidate"]),
        seconds(&verdict["stale_if_error"])
    );
    let _ = writeln!(out, "  used stale: {}", text(&verdict["stale_rule"]));
    for pair in list(&verdict["selected_by"]) {
        let value = pair[1].as_str().map_or("absent".to_owned(), |value| format!("{value:?}"));
        let _ = writeln!(out, "  selected by {}: {value}", text(&pair[0]));
    }
    for (key, what) in [("tags", "tag"), ("excluded_fields", "for one request only:")] {
        for name in list(&verdict[key]) {
            let _ = writeln!(out, "  {what} {}", text(name));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_people_have_them() {
        for text in ["HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", "HTTP/2 200 \nA: b\n", "HTTP/1.0 200\nA: b\n\nbody\n"] {
            let (status, headers) = parse_response(text.as_bytes()).unwrap();
            assert_eq!((status, headers["a"].to_str().unwrap()), (StatusCode::OK, "b"), "{text:?}");
        }
        for text in ["GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a?b HTTP/2\nHost: h"] {
            let (method, target, headers) = parse_request(text.as_bytes()).unwrap();
            assert_eq!((method, target.as_str(), &headers["host"]), (Method::GET, "/a?b", &"h".parse().unwrap()));
        }
        for bad in ["", "\n", "hello", "HTTP/1.1 x\n\n", "HTTP/1.1 200 OK\nno field\n\n"] {
            assert!(parse_response(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse_request(b"GET\n").is_err());
    }

    #[test]
    fn incomplete_answers_do_no_harm() {
        render_answer(&Value::Null);
        render(&Value::Null);
    }
}
