//! Whether a response may be stored and for how long: a pure function of the route's rules, the request
//! and the response head (RFC 9111 section 3).

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use crate::clock::Millis;
use crate::config::model::{CacheMode, CacheRules, ResponseRule};
use crate::expression::Expression;
use crate::origin::forward;
use crate::plan;
use crate::request::{Fields, RequestView, Scheme};

use super::control::Directives;
use super::freshness::{self, ExchangeTimes, Freshness, StaleUse};
use super::reason::{Basis, SkipReason};
use super::tags::Tags;
use super::vary::{Presented, Variant};
use crate::representation::range::ContentRange;

/// What the decision needs to know of the request.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    pub presented: Presented<'a>,
    pub has_authorization: bool,
    /// The client wants nothing stored (RFC 9111 section 5.2.1.5).
    pub no_store: bool,
    /// Bytes of its target.
    target: usize,
    /// The response confirms what is stored: that was not made for who asks now.
    confirms: bool,
}

/// A head of more bytes than this is unusual: many origins refuse twice as much.
const USUAL_HEAD: usize = 4096;

impl<'a> RequestFacts<'a> {
    /// `target`: bytes of the request's target.
    pub fn new(presented: Presented<'a>, target: usize, no_store: bool) -> Self {
        let has_authorization = presented.fields.contains(&header::AUTHORIZATION);
        RequestFacts { presented, has_authorization, no_store, target, confirms: false }
    }

    /// The same where the response confirms what is stored.
    pub fn confirming(self) -> Self {
        RequestFacts { confirms: true, ..self }
    }

    /// Whether the response may be about who asks: for a cookie or another field that may tell the origin who that is, and
    /// that is not keyed.
    pub fn may_be_about_who_asks(&self, rules: &CacheRules) -> bool {
        let mut tells = false;
        self.presented.fields.for_all(|name, value| {
            tells |= !value.is_empty() && may_tell_who_asks(name, rules);
        });
        tells
    }

    /// Whether an origin says to it what it would say to anybody.
    pub fn is_impersonal(&self, rules: &CacheRules) -> bool {
        !self.has_authorization && !self.may_be_about_who_asks(rules) && !self.is_unusual()
    }

    /// Whether its form is such that an origin may refuse it, though it would not refuse others for the same: a large head,
    /// bytes that no browser sends, fields by which a request is another than its line says.
    fn is_unusual(&self) -> bool {
        let (mut size, mut unusual) = (self.target, false);
        self.presented.fields.for_all(|name, value| {
            size += name.len() + value.len() + ": \r\n".len();
            unusual |= !value.iter().all(|byte| matches!(byte, b' '..=b'~')) || forward::is_overriding(name);
        });
        unusual || size > USUAL_HEAD
    }
}

/// What the decision needs to know of the response.
#[derive(Clone, Copy)]
pub struct ResponseFacts<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub times: ExchangeTimes,
    /// Of its body, where the head tells.
    pub length: Option<u64>,
    /// The largest body that is stored.
    pub max_object: u64,
}

/// How a response is to be stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Storable {
    pub freshness: Freshness,
    pub variant: Variant,
    pub tags: Tags,
    /// Which part of the whole it is, if it is one.
    pub part: Option<ContentRange>,
    /// Fields that are only for the request which the response answered.
    pub excluded: Vec<HeaderName>,
}

/// Decides about a response to a GET.
pub fn judge(
    rules: &CacheRules,
    request: &RequestFacts<'_>,
    response: &ResponseFacts<'_>,
) -> Result<Storable, SkipReason> {
    let headers = response.headers;
    let directives = Directives::parse(headers);
    let part = match response.status {
        StatusCode::PARTIAL_CONTENT => Some(storable_part(response).ok_or(SkipReason::Partial)?),
        _ => None,
    };
    // A part is stored as the whole would be (section 3.3).
    let status = if part.is_some() { StatusCode::OK } else { response.status };
    let length = part.map_or(response.length, |range| Some(range.length()));
    let response = &ResponseFacts { status, length, ..*response };
    if request.no_store {
        return Err(SkipReason::ClientNoStore);
    }
    if response.status.as_u16() >= 600 {
        return Err(SkipReason::Status); // no class that anybody knows (RFC 9110 section 15)
    }
    if is_about_form(response.status) && request.is_unusual() {
        return Err(SkipReason::RequestForm);
    }
    if rules.no_store.as_ref().is_some_and(|no_store| response.is(no_store)) {
        return Err(SkipReason::Condition);
    }
    let terms = Terms::of(rules, response);
    let (lifetime, basis) = match rules.mode {
        CacheMode::Off => return Err(SkipReason::NoStore),
        CacheMode::Respect { default_ttl } => {
            respected_lifetime(rules, (&terms, default_ttl), request, response, &directives)?
        }
        CacheMode::Force { ttl } => forced_lifetime(rules, (&terms, ttl), request, response, &directives)?,
    };
    if headers.contains_key(header::SET_COOKIE) && !terms.store_set_cookie {
        return Err(SkipReason::SetCookie);
    }
    let variant = Variant::of(headers, request.presented, rules).ok_or(SkipReason::VaryStar)?;
    if response.length.is_some_and(|length| length > response.max_object) {
        return Err(SkipReason::TooLarge);
    }
    let tags = Tags::parse(headers).ok_or(SkipReason::TagsTooLarge)?;
    let freshness = freshness_of(rules, &terms, response, &directives, (lifetime, basis));
    // What is stale as it comes but had a lifetime is for those who waited for it, and for when no origin can be reached.
    let worth_keeping = !lifetime.is_zero()
        || has_validator(headers)
        || !freshness.stale_while_revalidate.is_zero()
        || !freshness.stale_if_error.is_zero();
    if !worth_keeping {
        return Err(SkipReason::Expired);
    }
    let excluded = if matches!(rules.mode, CacheMode::Force { .. }) { Vec::new() } else { directives.excluded };
    Ok(Storable { freshness, variant, tags, part, excluded })
}

impl ResponseFacts<'_> {
    /// Whether a condition over responses is true of it.
    fn is(&self, condition: &Expression) -> bool {
        let request = RequestView::own(&Method::GET, Scheme::Http, "", "", Fields::parsed(&[])); // nothing asks for it
        let (now, response) = (self.times.response, Some((self.status, self.headers)));
        condition.is_true(&plan::RequestFacts { request: &request, path: "", now, response })
    }
}

/// What the route says of one response, with the rule that is for it.
struct Terms {
    /// By the rule, and on what it rests.
    lifetime: Option<(Duration, Basis)>,
    stale_while_revalidate: Duration,
    stale_if_error: Duration,
    store_set_cookie: bool,
}

impl Terms {
    fn of(rules: &CacheRules, response: &ResponseFacts<'_>) -> Self {
        let rule = rules.rules.iter().find(|rule| response.is(&rule.when));
        let is_usual = takes_default_ttl(response.status);
        let basis = if is_usual { Basis::Rule } else { Basis::NegativeTtl };
        // What an origin answers to who asks is shared only where negative_ttl names it.
        let is_for_all = is_final_status(response.status) && !concerns_the_client(response.status);
        let takes_ttl = |rule: &&ResponseRule| is_usual || rule.is_for_any_status && is_for_all;
        let ttl = rule.filter(takes_ttl).and_then(|rule| rule.ttl);
        let of_rule = (rule.and_then(|rule| rule.stale_while_revalidate), rule.and_then(|rule| rule.stale_if_error));
        // The windows of an error are those of the rule alone.
        let usual = match ttl {
            Some(_) if !is_usual => (Duration::ZERO, Duration::ZERO),
            _ => (rules.stale_while_revalidate, rules.stale_if_error),
        };
        Terms {
            lifetime: ttl.map(|ttl| (ttl, basis)),
            stale_while_revalidate: of_rule.0.unwrap_or(usual.0),
            stale_if_error: of_rule.1.unwrap_or(usual.1),
            store_set_cookie: rule.and_then(|rule| rule.store_set_cookie).unwrap_or(rules.store_set_cookie),
        }
    }
}

/// The part that a 206 brings, if it is one that can be joined to others.
fn storable_part(response: &ResponseFacts<'_>) -> Option<ContentRange> {
    let range = ContentRange::of_joinable(response.headers)?;
    response.length.is_none_or(|length| length == range.length()).then_some(range)
}

/// The lifetime in mode `respect` and what it rests on, or why the response may not be stored at all
/// (RFC 9111 section 3).
fn respected_lifetime(
    rules: &CacheRules,
    (terms, default_ttl): (&Terms, Option<Duration>),
    request: &RequestFacts<'_>,
    response: &ResponseFacts<'_>,
    directives: &Directives,
) -> Result<(Duration, Basis), SkipReason> {
    let understood = is_understood(response.status);
    if directives.must_understand && !understood {
        return Err(SkipReason::MustUnderstand);
    }
    // Section 5.2.2.3: must-understand takes no-store back where the status is understood.
    if directives.no_store && !directives.must_understand {
        return Err(SkipReason::NoStore);
    }
    if directives.private {
        return Err(SkipReason::Private);
    }
    if request.has_authorization && !directives.allows_authorization() {
        return Err(SkipReason::Authorization);
    }
    // Who may not see it says little of who may: shared only where somebody said so.
    if concerns_the_client(response.status) && !directives.public && rules.negative_ttl(response.status).is_none() {
        return Err(SkipReason::Status);
    }
    let explicit = freshness::explicit_lifetime(response.headers, directives, response.times.response);
    let may_be_guessed = is_heuristically_cacheable(response.status) || directives.public;
    if directives.no_cache {
        // It may be stored, but is validated before each use (section 5.2.2.4).
        let storable = explicit.is_some() && is_final_status(response.status) || may_be_guessed;
        return if storable { Ok((Duration::ZERO, Basis::NoCache)) } else { Err(SkipReason::Status) };
    }
    if let Some(lifetime) = terms.lifetime {
        return Ok(lifetime);
    }
    if let Some(explicit) = explicit {
        return if is_final_status(response.status) { Ok(explicit) } else { Err(SkipReason::Status) };
    }
    // It may have been meant to state one: then nobody here does.
    if directives.malformed {
        return if may_be_guessed { only_validated(rules, request, response) } else { Err(SkipReason::NoFreshness) };
    }
    if let Some(ttl) = rules.negative_ttl(response.status).filter(|_| is_final_status(response.status)) {
        return Ok((ttl, Basis::NegativeTtl)); // the more specific of the two
    }
    if let Some(ttl) = default_ttl.filter(|_| takes_default_ttl(response.status)) {
        return Ok((ttl, Basis::DefaultTtl));
    }
    if !may_be_guessed {
        return Err(SkipReason::Status);
    }
    // What may be about one visitor is not guessed to be for all.
    let is_guessed = request.confirms || !request.may_be_about_who_asks(rules);
    let percent = if is_guessed { rules.heuristic_percent } else { 0 };
    match freshness::heuristic_lifetime(response.headers, response.times.response, percent, rules.heuristic_max) {
        Some(lifetime) => Ok((lifetime, Basis::Heuristic)),
        None => only_validated(rules, request, response),
    }
}

/// What nobody gave a lifetime is kept for its validator alone, if it is about nobody: an origin that looks at no cookie
/// before it answers 304 would have one visitor's page go to another.
fn only_validated(
    rules: &CacheRules,
    request: &RequestFacts<'_>,
    response: &ResponseFacts<'_>,
) -> Result<(Duration, Basis), SkipReason> {
    match has_validator(response.headers) {
        true if !request.confirms && request.may_be_about_who_asks(rules) => Err(SkipReason::Visitor),
        true => Ok((Duration::ZERO, Basis::Validator)),
        false => Err(SkipReason::NoFreshness),
    }
}

fn forced_lifetime(
    rules: &CacheRules,
    (terms, ttl): (&Terms, Duration),
    request: &RequestFacts<'_>,
    response: &ResponseFacts<'_>,
    directives: &Directives,
) -> Result<(Duration, Basis), SkipReason> {
    // Even by force, what one visitor's credentials brought is not given to another.
    if request.has_authorization && !directives.allows_authorization() {
        return Err(SkipReason::Authorization);
    }
    if let Some((ttl, basis)) = terms.lifetime {
        return Ok((ttl, if basis == Basis::Rule { Basis::Forced } else { basis }));
    }
    match rules.negative_ttl(response.status) {
        Some(ttl) if is_final_status(response.status) => Ok((ttl, Basis::NegativeTtl)),
        _ if takes_default_ttl(response.status) => Ok((ttl, Basis::Forced)),
        _ => Err(SkipReason::Status),
    }
}

fn freshness_of(
    rules: &CacheRules,
    terms: &Terms,
    response: &ResponseFacts<'_>,
    directives: &Directives,
    (lifetime, basis): (Duration, Basis),
) -> Freshness {
    let forced = matches!(rules.mode, CacheMode::Force { .. });
    let stale_use = match directives {
        _ if basis == Basis::Validator => StaleUse::Forbidden, // nobody said that it may be shared
        _ if forced => StaleUse::Permitted,
        directives if directives.forbids_stale() => StaleUse::Forbidden,
        Directives { s_maxage: Some(_), .. } => StaleUse::ByWindowOnly,
        _ => StaleUse::Permitted,
    };
    // A response that nobody gave a lifetime is shared only if it says so itself: the route's windows prolong a lifetime,
    // they do not make one.
    let window = |own: Option<Duration>, of_route: Duration| match (stale_use, own) {
        (StaleUse::Forbidden, _) => Duration::ZERO,
        // An error is not to outlive the time the operator gave it.
        _ if basis == Basis::NegativeTtl && terms.lifetime.is_none() => Duration::ZERO,
        _ if basis == Basis::NegativeTtl => of_route, // the rule's, if it says any
        (_, Some(own)) => own,
        (_, None) if lifetime.is_zero() => Duration::ZERO,
        (_, None) => of_route,
    };
    // A lifetime that the node gives counts from here, whatever age the response arrived with.
    let is_our_own = forced || matches!(basis, Basis::DefaultTtl | Basis::NegativeTtl | Basis::Rule);
    Freshness {
        stale_use,
        response_time: response.times.response,
        initial_age: if is_our_own { Millis::ZERO } else { freshness::initial_age(response.headers, response.times) },
        lifetime: lifetime.into(),
        basis,
        stale_while_revalidate: window(directives.stale_while_revalidate, terms.stale_while_revalidate).into(),
        stale_if_error: window(directives.stale_if_error, terms.stale_if_error).into(),
    }
}

/// Whether a request's field may tell the origin who asks. What is keyed is for those who say the same, and what no origin
/// gets tells nothing.
pub(crate) fn may_tell_who_asks(name: &str, rules: &CacheRules) -> bool {
    // Where a route names the cookies that count, no others go to an origin.
    let is_keyed = rules.key.names_field(name) || name == "cookie" && rules.key.cookies.is_some();
    forward::may_tell_who_asks(name) && !is_keyed && forward::goes_with_fill(name, rules)
}

/// Statuses by which an origin may answer to the form of one request rather than to what it asks for.
fn is_about_form(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 413 | 414 | 431 | 501)
}

/// Statuses by which an origin answers to who asks, or how often.
fn concerns_the_client(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 407 | 429)
}

fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}

/// Statuses that the configuration's own lifetimes apply to. Errors are left out on purpose: a 404 that says
/// nothing must not stay for an hour because the route's images may.
fn takes_default_ttl(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 410)
}

/// Statuses that this cache understands well enough to store with explicit freshness (RFC 9111 section 3).
fn is_final_status(status: StatusCode) -> bool {
    status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304 | 416)
}

/// Statuses whose lifetime may be guessed (RFC 9110 section 15.1); 206 is not stored.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Statuses that RFC 9110 defines and this cache treats as it says, for `must-understand`.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(),
        200..=205 | 300..=303 | 305 | 307 | 308 | 400..=415 | 417 | 421 | 422 | 426 | 500..=505)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{map, presented};
    use super::*;
    use crate::clock::Timestamp;
    use crate::config::model::KeyRules;
    use crate::expression::Scope;

    const NOW: Timestamp = Timestamp::from_secs(784_111_777);
    const RESPECT: CacheMode = CacheMode::Respect { default_ttl: None };
    const DEFAULT_HOUR: CacheMode = CacheMode::Respect { default_ttl: Some(Duration::from_secs(3600)) };
    const LARGE: &str = match std::str::from_utf8(&[b'x'; USUAL_HEAD]) {
        Ok(text) => text,
        Err(_) => "",
    };
    const FORCE: CacheMode = CacheMode::Force { ttl: Duration::from_secs(5) };

    fn judge_with(
        rules: &CacheRules,
        request: &[(&str, &str)],
        status: u16,
        response: &[(&str, &str)],
        length: Option<u64>,
    ) -> Result<Storable, SkipReason> {
        let (request, headers) = (map(request), map(response));
        let no_store = request.get("cache-control").is_some_and(|value| value == "no-store");
        let response = ResponseFacts {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            times: ExchangeTimes { request: NOW, response: NOW },
            length,
            max_object: 1000,
        };
        judge(rules, &RequestFacts::new(presented(&request), 1, no_store), &response)
    }

    /// Each row of tests/tables/judge.txt, which says how it is read.
    #[test]
    fn verdicts() {
        let (mut cases, mut wrong) = (0, Vec::new());
        for row in include_str!("../../tests/tables/judge.txt").lines().filter(|row| row.contains(" | ")).skip(1) {
            let columns: Vec<&str> = row.split(" | ").collect();
            let [mode, request, statuses, response, expected] = columns[..] else { panic!("{row}") };
            let (rules, request, response) = (rules(mode), fields(request), fields(response));
            for status in statuses.split(' ') {
                let found = match judge_with(&rules, &request, status.parse().unwrap(), &response, Some(100)) {
                    Ok(storable) => describe(&storable),
                    Err(reason) => reason.as_str().to_owned(),
                };
                if found != expected {
                    wrong.push(format!("status {status} of {row}: {found}"));
                }
                cases += 1;
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(cases > 280, "{cases}");
    }

    fn rules(mode: &str) -> CacheRules {
        let secs = Duration::from_secs;
        let respect = CacheRules { mode: RESPECT, ..CacheRules::default() };
        match mode {
            "respect" => respect,
            "default" => CacheRules { mode: DEFAULT_HOUR, ..respect },
            "force" => CacheRules { mode: FORCE, ..respect },
            "keyed-cookies" => {
                let cookies = Some(["currency".parse().unwrap()].into());
                CacheRules { key: KeyRules { cookies, ..KeyRules::default() }, ..respect }
            }
            "off" => CacheRules { mode: CacheMode::Off, ..respect },
            "stale" => CacheRules { stale_while_revalidate: secs(1), stale_if_error: secs(2), ..respect },
            "cookies" => CacheRules { store_set_cookie: true, ..respect },
            "negative" | "negative-default" | "negative-force" => {
                let negative_ttl = [("404", 30), ("500-504", 2), ("302", 9), ("308", 8), ("410", 7)]
                    .map(|(range, ttl)| (range.parse().unwrap(), secs(ttl)))
                    .to_vec();
                let rules = rules(mode.strip_prefix("negative-").unwrap_or("respect"));
                CacheRules { negative_ttl, stale_if_error: secs(99), ..rules }
            }
            "rules" | "force-rules" => {
                let compile = |source: &str| Expression::compile(source, Scope::Answer).unwrap();
                let errors = ResponseRule {
                    when: compile("status in [401, 403, 404] || status >= 500"),
                    ttl: Some(secs(10)),
                    is_for_any_status: true,
                    stale_while_revalidate: Some(secs(3)),
                    stale_if_error: None,
                    store_set_cookie: None,
                };
                let pages = ResponseRule {
                    when: compile(r#"response.header.content-type.startsWith("text/html")"#),
                    ttl: Some(secs(60)),
                    is_for_any_status: false,
                    stale_while_revalidate: Some(secs(5)),
                    stale_if_error: Some(secs(7)),
                    store_set_cookie: Some(true),
                };
                let no_store = Some(compile(r#"response.headers.has("x-no-store") || status == 503"#));
                let rules = rules(if mode == "rules" { "respect" } else { "force" });
                CacheRules { no_store, rules: vec![errors, pages], ..rules }
            }
            "refusals" | "force-400" => {
                let negative_ttl = ["400", "403", "429"].map(|status| (status.parse().unwrap(), secs(30))).to_vec();
                CacheRules { negative_ttl, ..rules(if mode == "refusals" { "respect" } else { "force" }) }
            }
            other => panic!("{other}"),
        }
    }

    fn fields(column: &str) -> Vec<(&str, &str)> {
        match column {
            "-" => Vec::new(),
            "no-store" => vec![("cache-control", "no-store")],
            "large" => vec![("x-large", LARGE)],
            // A semicolon alone is part of a value.
            column => {
                column.split("; ").map(|field| field.split_once(':').unwrap()).map(|(n, v)| (n, v.trim())).collect()
            }
        }
    }

    fn describe(storable: &Storable) -> String {
        let Freshness { lifetime, stale_while_revalidate: swr, stale_if_error: sie, .. } = storable.freshness;
        let mut out = format!("{} {}", storable.freshness.basis.as_str(), lifetime.as_secs());
        for (name, window) in [("swr", swr), ("sie", sie)] {
            if !window.is_zero() {
                out += &format!(" {name}={}", window.as_secs());
            }
        }
        out
    }

    #[test]
    fn limits_of_size_and_tags() {
        let judge = |response: &[(&str, &str)], length| judge_with(&rules("default"), &[], 200, response, length);
        assert_eq!(judge(&[], Some(1001)), Err(SkipReason::TooLarge));
        assert!(judge(&[], None).is_ok());
        assert_eq!(judge(&[("cache-tag", &"x".repeat(2000))], Some(100)), Err(SkipReason::TagsTooLarge));
    }
}
