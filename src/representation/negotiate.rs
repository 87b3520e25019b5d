//! What a request says of the representations it takes, reduced to the few answers that are told apart: the best
//! content coding, the best language, the kind of device, one cookie (RFC 9110 section 12, RFC 6265 section 4.2).

use http::{HeaderName, header};

use crate::config::model::Coding;
use crate::request::Fields;

/// The field by which origins are told the device class.
pub(crate) static DEVICE_CLASS: HeaderName = HeaderName::from_static("x-device-class");
static MOBILE_HINT: HeaderName = HeaderName::from_static("sec-ch-ua-mobile");

/// Members of `Accept-*` that are looked at; what a client lists beyond that does not count.
const MAX_MEMBERS: usize = 32;

/// The content coding to use, of those offered, in the order of the server's preference; `None`: none (RFC 9110
/// section 12.5.3).
pub(crate) fn best_coding(request: Fields<'_>, offered: impl IntoIterator<Item = Coding>) -> Option<Coding> {
    let accepted = request.joined_text(&header::ACCEPT_ENCODING)?;
    let weight = |token: &str| {
        let mut any = None;
        for (name, weight) in members(&accepted) {
            let name = name.strip_prefix("x-").unwrap_or(name); // RFC 9110 section 8.4.1.3: x-gzip is gzip
            if name.eq_ignore_ascii_case(token) {
                return Some(weight);
            }
            any = any.or((name == "*").then_some(weight));
        }
        any
    };
    let weighed = offered.into_iter().map(|coding| (coding, weight(coding.as_str()).unwrap_or(0)));
    let best = weighed.filter(|(_, weight)| *weight > 0).reduce(|best, next| if next.1 > best.1 { next } else { best });
    // What is not named is still acceptable as it is, but never preferred.
    let (best, coded) = best?;
    (coded >= weight("identity").unwrap_or(0)).then_some(best)
}

/// The language to use, of those offered, by RFC 4647 section 3.4: for each range the client names, best first, the
/// tag itself, then with its last subtags left out. `None`: nothing that is offered suits.
pub(crate) fn best_language<'o>(request: Fields<'_>, offered: &'o [Box<str>]) -> Option<&'o str> {
    let accepted = request.joined_text(&header::ACCEPT_LANGUAGE)?;
    let mut ranges: Vec<(&str, u16)> = members(&accepted).filter(|(_, weight)| *weight > 0).collect();
    ranges.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    ranges
        .into_iter()
        .find_map(|(range, _)| {
            if range == "*" {
                return offered.first();
            }
            let mut range = range;
            loop {
                let found = offered.iter().find(|tag| tag.eq_ignore_ascii_case(range));
                if found.is_some() {
                    return found;
                }
                range = &range[..range.rfind('-')?];
            }
        })
        .map(|tag| &**tag)
}

/// What kind of device asks, as far as the request tells.
pub(crate) fn device(request: Fields<'_>) -> &'static str {
    if request.get(&MOBILE_HINT).is_some_and(|hint| hint.trim_ascii() == b"?1") {
        return "mobile";
    }
    let agent = request.get(&header::USER_AGENT).unwrap_or_default();
    let has = |word: &[u8]| memchr::memmem::find(agent, word).is_some();
    // Tablets say "Android" without "Mobile".
    if has(b"iPad") || has(b"Tablet") || has(b"Kindle") || has(b"Android") && !has(b"Mobile") {
        "tablet"
    } else if has(b"Mobi") || has(b"iPhone") || has(b"iPod") {
        "mobile"
    } else {
        "desktop"
    }
}

/// The value of a cookie; of several of one name the first.
pub(crate) fn cookie<'r>(request: Fields<'r>, name: &str) -> Option<&'r [u8]> {
    let mut found = None;
    for_each_cookie(request, |other, value, _| {
        if other == name.as_bytes() {
            found.get_or_insert(value);
        }
    });
    found
}

/// Calls `each` with the name and the value of every cookie, and with both as they were sent.
pub(crate) fn for_each_cookie<'r>(request: Fields<'r>, mut each: impl FnMut(&'r [u8], &'r [u8], &'r [u8])) {
    request.for_each(&header::COOKIE, |line| {
        for pair in line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii) {
            if let Some(at) = memchr::memchr(b'=', pair) {
                each(pair[..at].trim_ascii(), pair[at + 1..].trim_ascii(), pair);
            }
        }
    });
}

/// The members of a list with their weights in thousandths (RFC 9110 section 12.4.2).
fn members(list: &str) -> impl Iterator<Item = (&str, u16)> {
    list.split(',').take(MAX_MEMBERS).filter_map(|member| {
        let mut parts = member.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let weight = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
        Some((name, weight.map_or(1000, thousandths)))
    })
}

/// `1`, `0.8`, `0.125`; what is no weight counts as none at all.
fn thousandths(weight: &str) -> u16 {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let fraction = format!("{fraction:0<3}").parse().unwrap_or(0);
    match whole {
        "0" => fraction,
        "1" if fraction == 0 => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::request::tests::map;

    #[test]
    fn codings_are_chosen_by_weight_then_by_the_servers_order() {
        let all = [Coding::Zstd, Coding::Br, Coding::Gzip];
        for (accept, offered, expected) in [
            ("gzip", &all[..], Some("gzip")),
            ("gzip, deflate, br, zstd", &all, Some("zstd")),
            ("gzip, deflate, br", &all, Some("br")),
            ("GZip", &all, Some("gzip")),
            ("x-gzip", &all, Some("gzip")),
            ("gzip;q=1, br;q=0.9", &all, Some("gzip")),
            ("gzip;q=0.5, br;q=0.8, zstd;q=0.1", &all, Some("br")),
            ("gzip;q=0.5,br; q=0.501", &all, Some("br")),
            ("br;q=0, gzip", &all, Some("gzip")),
            ("*", &all, Some("zstd")),
            ("*;q=0.5, zstd;q=0", &all, Some("br")),
            ("gzip;q=0, *", &[Coding::Gzip], None),
            ("*;q=0", &all, None),
            ("identity", &all, None),
            ("identity, gzip;q=0.5", &all, None),
            ("identity;q=0.5, gzip", &all, Some("gzip")),
            ("identity;q=0, gzip;q=0.1", &all, Some("gzip")),
            ("deflate", &all, None),
            ("", &all, None),
            ("gzip", &[Coding::Br], None),
            ("gzip", &[], None),
            ("gzip;q=2", &all, None),
            ("gzip;q=0.1234", &all, None),
            ("gzip;q=abc", &all, None),
            ("gzip;q=-1", &all, None),
            (";q=1, ,gzip", &all, Some("gzip")),
            ("br;level=5;q=0, gzip", &all, Some("gzip")),
        ] {
            let request = map(&[("accept-encoding", accept)]);
            let found = best_coding(Fields::Map(&request), offered.iter().copied()).map(Coding::as_str);
            assert_eq!(found, expected, "{accept:?} of {offered:?}");
        }
        assert_eq!(best_coding(Fields::Map(&HeaderMap::new()), all), None);
    }

    #[test]
    fn languages_are_chosen_by_weight_then_by_prefix() {
        let offered: Vec<Box<str>> = ["en", "de", "pt-BR"].map(Into::into).into();
        for (accept, expected) in [
            ("de", Some("de")),
            ("de-AT, en;q=0.5", Some("de")),
            ("DE-at-1996", Some("de")),
            ("fr, de;q=0.5", Some("de")),
            ("en;q=0.5, de;q=0.8", Some("de")),
            ("pt", None),
            ("pt-br", Some("pt-BR")),
            ("fr", None),
            ("*", Some("en")),
            ("fr, *;q=0.1", Some("en")),
            ("de;q=0", None),
            ("", None),
        ] {
            let request = map(&[("accept-language", accept)]);
            assert_eq!(best_language(Fields::Map(&request), &offered), expected, "{accept}");
        }
    }

    #[test]
    fn devices_are_known_by_what_they_say() {
        for (agent, expected) in [
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148", "mobile"),
            ("Mozilla/5.0 (Linux; Android 14; Pixel 8) Chrome/120.0 Mobile Safari/537.36", "mobile"),
            ("Mozilla/5.0 (Linux; Android 13; SM-X906C) Chrome/120.0 Safari/537.36", "tablet"),
            ("Mozilla/5.0 (iPad; CPU OS 12_0 like Mac OS X) Mobile/15A5341f", "tablet"),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0", "desktop"),
            ("curl/8.0", "desktop"),
        ] {
            assert_eq!(device(Fields::Map(&map(&[("user-agent", agent)]))), expected, "{agent}");
        }
        assert_eq!(device(Fields::Map(&map(&[("sec-ch-ua-mobile", "?1")]))), "mobile");
        assert_eq!(device(Fields::Map(&HeaderMap::new())), "desktop");
    }

    #[test]
    fn cookies_are_found_by_name() {
        for (line, expected) in [
            ("a=1", Some("1")),
            ("b=2; a=1", Some("1")),
            ("aa=2;a = 1 ;a=3", Some("1")),
            ("a=x=y", Some("x=y")),
            ("a=", Some("")),
            ("a", None),
            ("b=a=1", None),
        ] {
            let request = map(&[("cookie", line)]);
            assert_eq!(cookie(Fields::Map(&request), "a"), expected.map(str::as_bytes), "{line}");
        }
    }
}
