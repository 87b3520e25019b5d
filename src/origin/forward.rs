//! The header fields of a request on its way to an origin: what concerns only the client's connection is
//! taken out, what the node vouches for is put in.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use smallvec::SmallVec;

use crate::address;
use crate::config::model::FILL_EXCLUDES;
use crate::config::model::{CacheMode, CacheRules, FieldChanges, Node};
use crate::fields::{connection_options, is_hop_by_hop};
use crate::request::{FieldLines, Fields, RequestView};

use super::names::{
    FORWARDING_FIELDS, FRAMING_FIELDS, IDENTITY_FIELDS, IMPERSONAL_FIELDS, NO_TRAILERS, OVERRIDING_FIELDS, PROXYS_OWN,
    USUAL_FORWARDING, is_listed,
};
use super::passage::{CDN_LOOP, Passage};

/// The field that brings the token of who wants to see more of what the node did.
pub(crate) const DEBUG: HeaderName = HeaderName::from_static("seawall-debug");

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The fields of a client's request that the fill of a route with `mode = "force"` has, beside those that its key names:
/// what content negotiation is done by, which origins name in `Vary`, what traces a request, and `Authorization`, since an
/// answer to that is not shared without the origin's word.
static SAFE_FIELDS: [HeaderName; 8] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::VIA,
    CDN_LOOP,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Replaces the fields that tell of the client by what the node knows: `Via`, `CDN-Loop`, `X-Forwarded-*`. `authority`: what
/// is taken to have been asked for.
pub(crate) fn set_forwarding_fields(
    fields: &mut FieldLines,
    request: &RequestView<'_>,
    authority: &str,
    node: &Node,
    passage: &Passage,
) {
    // As bytes: what a client made unreadable as text must not hide what a proxy has added to it.
    let before = Fields::Lines(fields).joined(&FORWARDED_FOR).unwrap_or_default();
    let chain = forwarded_for(&before, (request.client, request.peer), Some(node));
    fields.retain(|name| !is_listed(name, &FORWARDING_FIELDS) && !is_listed(name, &FRAMING_FIELDS));
    // It has been checked: what is behind its last colon and is no number ends an address.
    let port = memchr::memrchr(b':', authority.as_bytes()).and_then(|colon| authority[colon + 1..].parse().ok());
    let mut port_digits = itoa::Buffer::new();
    let port = port_digits.format(port.unwrap_or(request.scheme.default_port()));
    let (mut id, via) = ([0; 32], via(request.version, &node.name));
    let [proto, authority, id, port] =
        [request.scheme.as_str(), authority, request.id.as_str(&mut id), port].map(str::as_bytes);
    for (name, value) in [
        (FORWARDED_FOR, &chain[..]),
        (FORWARDED_PROTO, proto),
        (FORWARDED_HOST, authority),
        (FORWARDED_PORT, port),
        (REQUEST_ID, id),
        (header::VIA, &via),
        (CDN_LOOP, passage.cdn_loop().as_bytes()),
    ] {
        fields.append(&name, value);
    }
}

/// Takes out of an interim response what origins tell their own proxy.
pub(crate) fn exclude_proxys_own(fields: &mut HeaderMap) {
    remove(fields, |name| is_listed(name, &PROXYS_OWN));
}

/// Drops the fields that a route does not send as they came.
pub(crate) fn drop_changed(fields: &mut HeaderMap, changes: &FieldChanges) {
    remove(fields, |name| changes.drops(name));
}

/// Changes the fields of a request as a route says; `made`: those it sets that depend on the request.
pub(crate) fn change(fields: &mut FieldLines, changes: &FieldChanges, made: Vec<(HeaderName, HeaderValue)>) {
    exclude(fields, |name| changes.drops(name));
    changes.fixed.iter().chain(&made).for_each(|(name, value)| fields.append(name, value.as_bytes()));
}

/// Whether a field may tell an origin who asks: `Cookie`, `Authorization`, a key of an API, and whatever else is not known to
/// say nothing of the kind.
pub(crate) fn may_tell_who_asks(name: &str) -> bool {
    !is_listed(name, &IMPERSONAL_FIELDS)
}

/// Whether an origin may answer with a 304.
pub(crate) fn is_conditional(fields: &FieldLines) -> bool {
    fields.contains(&header::IF_NONE_MATCH) || fields.contains(&header::IF_MODIFIED_SINCE)
}

/// Takes out of trailers what is heeded before the body or is of one connection (RFC 9110 section 6.5.1): whoever merges
/// them into the head must not be led astray. `changes`: what of the head is not sent as it came is not sent behind it either.
pub(crate) fn exclude_from_trailers(fields: &mut HeaderMap, changes: Option<&Arc<FieldChanges>>) {
    let is_changed = |name: &str| changes.is_some_and(|changes| changes.drops(name));
    remove(fields, |name| {
        is_listed(name, &NO_TRAILERS)
            || is_listed(name, &PROXYS_OWN)
            || is_listed(name, &FORWARDING_FIELDS)
            || is_changed(name)
    });
}

/// The same of a request's, which lose as well what asserts who asks, or for what: of the head that goes only where a route says so,
/// and behind the body nobody looks for it.
pub(crate) fn exclude_from_requests_trailers(fields: &mut HeaderMap, changes: Option<&Arc<FieldChanges>>) {
    exclude_from_trailers(fields, changes);
    remove(fields, |name| is_listed(name, &OVERRIDING_FIELDS) || is_listed(name, &IDENTITY_FIELDS));
}

/// Prepares the fields of a fill; hop-by-hop fields are already gone.
pub(crate) fn exclude_from_fill(fields: &mut FieldLines, rules: &CacheRules) {
    fields.retain(|name| !FILL_EXCLUDES.contains(&name));
    // By what tells where it came from, the node's own is made first: see set_forwarding_fields.
    fields.retain(|name| goes_with_fill(name, rules) || is_listed(name, &FORWARDING_FIELDS));
    if matches!(rules.mode, CacheMode::Force { .. }) && !rules.key.names_field("user-agent") {
        fields.insert(&header::USER_AGENT, b"seawall");
    }
    join_cookies(fields);
}

/// Takes out what no origin gets by a route that caches, also of requests that the cache does not answer: one route has
/// one idea of what a client may say.
pub(crate) fn exclude_unkeyed(fields: &mut FieldLines, rules: &CacheRules) {
    if rules.mode != CacheMode::Off {
        fields.retain(|name| !is_unkeyed(name, rules));
    }
}

/// Takes out what clients ask of caches, where it is not heeded here: caches further on are not to heed it for all of this
/// one's clients either.
pub(crate) fn exclude_unheeded(fields: &mut FieldLines, rules: &CacheRules) {
    if rules.mode != CacheMode::Off && !rules.heeds_clients() {
        fields.retain(|name| !matches!(name, "cache-control" | "pragma"));
    }
}

/// Whether a client's field of this name has a part in what a fill gets.
pub(crate) fn goes_with_fill(name: &str, rules: &CacheRules) -> bool {
    let is_safe = !matches!(rules.mode, CacheMode::Force { .. })
        || SAFE_FIELDS.iter().any(|safe| safe == name)
        || rules.key.names_field(name)
        || name == "cookie" && rules.key.cookies.is_some();
    // To CGI and its like an underscore is a hyphen, and then this would be a field that does not go, or one that is keyed.
    let is_ambiguous = name.contains('_') && !rules.key.names_field(name);
    is_safe && !is_ambiguous && !is_unkeyed(name, rules) && !is_listed(name, &FORWARDING_FIELDS)
}

/// Whether a request is another than its line says by a field of this name.
pub(crate) fn is_overriding(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    is_listed(&lower, &OVERRIDING_FIELDS) && !is_listed(&lower, &USUAL_FORWARDING)
}

/// Whether the node itself says what a field of this name says.
pub(crate) fn is_our_own(name: &HeaderName) -> bool {
    [FORWARDED_FOR, header::VIA].contains(name)
}

fn is_unkeyed(name: &str, rules: &CacheRules) -> bool {
    let listed = is_listed(name, &OVERRIDING_FIELDS) || is_listed(name, &IDENTITY_FIELDS);
    listed && !is_listed(name, &FORWARDING_FIELDS) && !rules.key.names_field(name)
}

/// HTTP/2 clients may send cookies in several fields; HTTP/1 has one (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(fields: &mut FieldLines) {
    let is_cookie = |(name, _): &(&str, &[u8])| *name == header::COOKIE.as_str();
    if fields.iter().filter(is_cookie).count() > 1 {
        let cookies: Vec<&[u8]> = fields.iter().filter(is_cookie).map(|(_, value)| value).collect();
        let joined = cookies.join(&b"; "[..]);
        fields.insert(&header::COOKIE, &joined);
    }
}

/// Takes out the fields that concern the client's connection only, and those that `Connection` names (RFC 9110 section 7.6.1).
pub(crate) fn exclude_hop_by_hop(fields: &mut FieldLines) {
    let options = connection_options(Fields::Lines(fields));
    exclude(fields, |name| is_hop_by_hop(name) || options.iter().any(|option| option == name));
}

/// Takes fields out of a request. A name that is spelt with underscores is the same to CGI, WSGI and their like.
fn exclude(fields: &mut FieldLines, goes: impl Fn(&str) -> bool) {
    fields.retain(|name| !is_either(name, &goes));
}

/// Whether something is so of a name, or of the same with hyphens.
fn is_either(name: &str, is: impl Fn(&str) -> bool) -> bool {
    is(name) || name.contains('_') && is(&name.replace('_', "-"))
}

/// The same of a response's, or of trailers.
fn remove(fields: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    let goes = |name: &str| is_either(name, &goes);
    let gone = fields.keys().filter(|name| goes(name.as_str()));
    for name in gone.cloned().collect::<SmallVec<[HeaderName; 4]>>() {
        fields.remove(name);
    }
}

/// The node's entry in `Via` (RFC 9110 section 7.6.3).
pub(crate) fn via(version: Version, node: &str) -> SmallVec<[u8; 64]> {
    let protocol = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    };
    let mut via = SmallVec::new();
    [protocol, " ", node].into_iter().for_each(|part| via.extend_from_slice(part.as_bytes()));
    via
}

/// `X-Forwarded-For`: the peer, after what a trusted proxy said came before it, be it in another field. `node`: without one
/// nobody is trusted.
pub(crate) fn forwarded_for(before: &[u8], (client, peer): (IpAddr, IpAddr), node: Option<&Node>) -> Vec<u8> {
    let own = address::text(peer).into_bytes();
    let Some(node) = node.filter(|node| node.trusts(peer)) else { return own };
    match node.client_ip_header == FORWARDED_FOR {
        true if before.is_empty() => own,
        true => [before, b", ", &own].concat(),
        false if client == peer => own,
        false => [address::text(client).as_bytes(), b", ", &own].concat(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::Method;

    use super::*;
    use crate::config::load;
    use crate::config::model::KeyRules;
    use crate::plan::tests::{config, view};
    use crate::request::{Scheme, tests::map};

    fn forward(trusted: &str, fields: &[(&str, &str)]) -> HeaderMap {
        let config = config(&format!("[node]\nname = \"edge-1\"\ntrusted_proxies = [{trusted}]"));
        let mut lines = lines(fields);
        let (peer, fields) = ([192, 0, 2, 1].into(), HeaderMap::new());
        let request = RequestView {
            client: peer,
            peer,
            scheme: Scheme::Https,
            version: Version::HTTP_2,
            ..view(&Method::GET, "shop.example", "/", &fields)
        };
        let passage = Passage::new("id".into());
        set_forwarding_fields(&mut lines, &request, "shop.example:8443", &config.node, &passage);
        Fields::Lines(&lines).to_map()
    }

    fn lines(fields: &[(&str, &str)]) -> FieldLines {
        Fields::Map(&map(fields)).to_lines()
    }

    #[test]
    fn what_no_origin_gets_cannot_be_named_in_a_route() {
        for name in crate::config::model::FORWARDING_FIELDS.iter().chain(FILL_EXCLUDES) {
            let text = format!(
                "[pool.app]\norigins = [\"127.0.0.1:1\"]\n[site.a]\nhosts = [\"a.example\"]\n[[site.a.route]]\n\
                 path = \"/*\"\npool = \"app\"\nforward = [\"{name}\"]\ncache = {{ mode = \"respect\" }}"
            );
            let errors = load::parse(Path::new("test.toml"), &text).unwrap_err().to_string();
            assert!(errors.contains("no origin gets a client's own"), "{name}: {errors}");
        }
    }

    #[test]
    fn what_a_client_says_of_itself_is_replaced() {
        let fields = forward(
            "",
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x_forwarded_for", "1.1.1.1"),
                ("x-forwarded_host", "evil"),
                ("x-forwarded-host", "evil"),
                ("forwarded", "for=x"),
                ("x-real-ip", "1"),
                ("x-forwarded-port", "1"),
                ("front-end-https", "on"),
                ("content_length", "30"),
                ("transfer_encoding", "chunked"),
                ("expect", "100-continue"),
                ("x_other", "stays"),
            ],
        );
        for (name, expected) in [
            ("x-forwarded-for", Some("192.0.2.1")),
            ("x-forwarded-host", Some("shop.example:8443")),
            ("x-forwarded-proto", Some("https")),
            ("x-forwarded-port", Some("8443")),
            ("via", Some("2.0 edge-1")),
            ("forwarded", None),
            ("content_length", None),
            ("transfer_encoding", None),
            ("expect", None),
            ("x-real-ip", None),
            ("x_forwarded_for", None),
            ("x-forwarded_host", None),
            ("front-end-https", None),
            ("x_other", Some("stays")),
        ] {
            assert_eq!(fields.get(name).map(|value| value.to_str().unwrap()), expected, "{name}");
        }
    }

    #[test]
    fn what_is_of_one_connection_goes_no_further_however_it_is_spelt() {
        let mut fields = lines(&[
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("x_hop", "1"),
            ("te", "trailers"),
            ("proxy_authorization", "1"),
            ("x-other", "1"),
        ]);
        exclude_hop_by_hop(&mut fields);
        assert_eq!(Fields::Lines(&fields).to_map(), map(&[("x-other", "1")]));
    }

    #[test]
    fn a_fill_has_one_cookie_field_and_no_conditions() {
        let mut fields = lines(&[
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("if-none-match", "x"),
            ("range", "bytes=0-"),
            ("x-rewrite-url", "/"),
        ]);
        exclude_from_fill(&mut fields, &respect());
        assert_eq!(Fields::Lines(&fields).to_map(), map(&[("cookie", "a=1; b=2")]));
    }

    fn respect() -> CacheRules {
        CacheRules { mode: CacheMode::Respect { default_ttl: None }, ..CacheRules::default() }
    }

    #[test]
    fn unkeyed_fields_go_by_no_route_that_caches() {
        let keyed = KeyRules { headers: vec!["x-forwarded-user".parse().unwrap()], ..KeyRules::default() };
        let keyed = CacheRules { key: keyed, ..respect() };
        let off = CacheRules::default();
        let named = |name: &str| KeyRules { headers: vec![name.parse().unwrap()], ..KeyRules::default() };
        let with_underscore = CacheRules { key: named("x_device"), ..respect() };
        let mode = CacheMode::Force { ttl: std::time::Duration::from_secs(1) };
        let by_force = CacheRules { mode, key: named("x_*"), ..CacheRules::default() };
        for (name, rules, goes) in [
            ("x-http-host-override", respect(), false),
            ("X-Middleware-Subrequest", respect(), false),
            ("true-client-ip", respect(), false),
            ("true_client_ip", respect(), false),
            ("cf-connecting-ip", respect(), false),
            ("x-forwarded-client-cert", respect(), false),
            ("x-device-class", respect(), false),
            ("x-forwarded-user", respect(), false),
            ("x-forwarded-user", keyed.clone(), true),
            ("x-forwarded-email", keyed, false),
            ("x-tenant", respect(), true),
            ("accept", respect(), true),
            ("x_und", by_force, true),
            ("x_device", with_underscore, true),
            ("true-client-ip", off, true),
        ] {
            let mut passed = lines(&[(name, "1")]);
            exclude_unkeyed(&mut passed, &rules);
            assert_eq!(passed.iter().next().is_some(), goes, "{name}");
            if rules.mode != CacheMode::Off {
                let mut filled = lines(&[(name, "1")]);
                exclude_from_fill(&mut filled, &rules);
                assert_eq!(filled.iter().next().is_some(), goes, "{name}");
            }
        }
    }

    #[test]
    fn by_force_only_what_is_safe_or_keyed_goes() {
        let key = KeyRules { headers: vec!["x-tenant".parse().unwrap()], ..KeyRules::default() };
        let mode = CacheMode::Force { ttl: std::time::Duration::from_secs(1) };
        let names = ["cookie", "accept", "user-agent", "x-tenant", "x-color", "referer", "origin", "traceparent"];
        let mut fields = lines(&names.map(|name| (name, "1")));
        exclude_from_fill(&mut fields, &CacheRules { mode, key, ..CacheRules::default() });
        let left = [("accept", "1"), ("traceparent", "1"), ("user-agent", "seawall"), ("x-tenant", "1")];
        assert_eq!(Fields::Lines(&fields).to_map(), map(&left));
    }

    #[test]
    fn who_was_named_in_another_field_is_said_to_origins() {
        let config = config("[node]\ntrusted_proxies = [\"192.0.2.0/24\"]\nclient_ip_header = \"CF-Connecting-IP\"");
        let (client, peer, other) = ([203, 0, 113, 9].into(), [192, 0, 2, 1].into(), [198, 51, 100, 1].into());
        for (client, peer, expected) in
            [(client, peer, "203.0.113.9, 192.0.2.1"), (peer, peer, "192.0.2.1"), (other, other, "198.51.100.1")]
        {
            assert_eq!(forwarded_for(b"1.1.1.1", (client, peer), Some(&config.node)), expected.as_bytes());
        }
    }

    #[test]
    fn what_is_no_text_hides_nothing_of_a_chain() {
        for before in ["\u{e4}, 198.51.100.1", "a\tb, 198.51.100.1", "198.51.100.1"] {
            let fields = forward("\"192.0.2.0/24\"", &[("x-forwarded-for", before)]);
            assert_eq!(fields["x-forwarded-for"].as_bytes(), format!("{before}, 192.0.2.1").as_bytes());
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_about_who_came_before() {
        let fields = forward("\"192.0.2.0/24\"", &[("x-forwarded-for", "1.1.1.1"), ("via", "1.1 front")]);
        assert_eq!(fields["x-forwarded-for"], "1.1.1.1, 192.0.2.1");
        let via: Vec<_> = fields.get_all("via").iter().collect();
        assert_eq!(via, ["1.1 front", "2.0 edge-1"]);
    }
}
