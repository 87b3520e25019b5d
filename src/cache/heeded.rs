//! Fields by which origins tell their own proxy for how long to store a response. What they say is said by
//! `Seawall-Cache-Control` instead (RFC 9213): whatever is stored, confirmed or judged then knows that one alone, and no client
//! gets the others. Nor is it left to origins what a route itself says of `Origin`.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::clock::Timestamp;
use crate::config::model::{Heeded, Route};

use super::control::{Directives, TARGETED};

static X_ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");
static SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// Takes out of an origin's answer what its route heeds, or says itself.
pub(crate) fn settle(fields: &mut HeaderMap, route: &Route, now: impl FnOnce() -> Timestamp) {
    if !route.cache.heed.is_empty() {
        translate(fields, &route.cache.heed, now());
    }
    if route.cors().is_some() {
        forget_origin(fields);
    }
}

/// Who may read an answer is said when it is sent: that it differs by the page that asks is true of none that is stored.
fn forget_origin(fields: &mut HeaderMap) {
    let lines: Option<Vec<&str>> = fields.get_all(header::VARY).iter().map(|line| line.to_str().ok()).collect();
    let Some(lines) = lines else { return }; // what is no text selects nothing, and is not to be forgotten
    let names = || lines.iter().flat_map(|line| line.split(',')).map(str::trim).filter(|name| !name.is_empty());
    let left: Vec<&str> = names().filter(|name| !name.eq_ignore_ascii_case("origin")).collect();
    if left.len() == names().count() {
        return;
    }
    match HeaderValue::from_str(&left.join(", ")).ok().filter(|_| !left.is_empty()) {
        Some(left) => fields.insert(header::VARY, left),
        None => fields.remove(header::VARY),
    };
}

/// Puts what the heeded fields say in the place of all that the response says to caches.
pub(crate) fn translate(fields: &mut HeaderMap, heed: &[Heeded], now: Timestamp) {
    let mut said = None;
    for heeded in heed {
        let name = match heeded {
            Heeded::XAccelExpires => &X_ACCEL_EXPIRES,
            Heeded::SurrogateControl => &SURROGATE_CONTROL,
        };
        let lines: Vec<&str> = fields.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
        let value = lines.join(",");
        said = said.or_else(|| match heeded {
            Heeded::XAccelExpires => accel_expires(&value, now),
            Heeded::SurrogateControl => surrogate_control(&value),
        });
        fields.remove(name);
    }
    // What an origin says in the node's own words is the more specific, if it is valid.
    let [own, _] = &TARGETED;
    let is_said = Directives::targeted(fields, own).is_some();
    if let Some(said) = said.and_then(|said| HeaderValue::try_from(said).ok()).filter(|_| !is_said) {
        fields.insert(own, said);
    }
}

/// Seconds, or behind an `@` the time in seconds since the epoch; 0 or a time that is over: nothing is stored. Anything else
/// says nothing, as nginx has it.
fn accel_expires(value: &str, now: Timestamp) -> Option<String> {
    let seconds: u64 = match value.trim().strip_prefix('@') {
        Some(time) => time.parse::<u64>().ok()?.saturating_sub(now.as_secs()),
        None => value.trim().parse().ok()?,
    };
    Some(match seconds {
        0 => "no-store".to_owned(),
        seconds => format!("max-age={}", seconds.min(LONGEST)),
    })
}

/// A longer lifetime is as good as this one, and structured fields have no numbers of more than 15 digits.
const LONGEST: u64 = 100 * 365 * 86_400;

/// Directives as `Cache-Control` has them; `max-age=60+30` is fresh for 60 seconds, and may be used stale for 30 more.
fn surrogate_control(value: &str) -> Option<String> {
    let mut said = Vec::new();
    for directive in value.split(',') {
        // Behind a semicolon stands which surrogate is meant: the nearest is as good as any.
        let directive = directive.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let seconds = |text: &str| text.trim().parse::<u64>().ok().map(|seconds| seconds.min(LONGEST));
        match directive.split_once('=') {
            None if directive == "no-store" => said.push("no-store".to_owned()),
            Some(("max-age", value)) => {
                let (fresh, stale) = value.split_once('+').map_or((value, None), |(fresh, stale)| (fresh, Some(stale)));
                let Some(fresh) = seconds(fresh) else { continue };
                said.push(format!("max-age={fresh}"));
                said.extend(stale.and_then(seconds).map(|stale| format!("stale-while-revalidate={stale}")));
            }
            Some((name @ ("stale-while-revalidate" | "stale-if-error"), value)) => {
                said.extend(seconds(value).map(|seconds| format!("{name}={seconds}")));
            }
            _ => {}
        }
    }
    (!said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::map;

    #[test]
    fn what_origins_tell_their_proxy_is_said_in_one_field() {
        let both = &[Heeded::XAccelExpires, Heeded::SurrogateControl][..];
        let surrogate = &[Heeded::SurrogateControl][..];
        let now = Timestamp::from_secs(1000);
        for (heed, fields, said) in [
            (both, &[("x-accel-expires", "60")][..], Some("max-age=60")),
            (both, &[("x-accel-expires", "0")], Some("no-store")),
            (both, &[("x-accel-expires", "@1060")], Some("max-age=60")),
            (both, &[("x-accel-expires", "@900")], Some("no-store")),
            (both, &[("x-accel-expires", "-1")], None),
            (both, &[("x-accel-expires", "off")], None),
            (both, &[("x-accel-expires", "18446744073709551615")], Some("max-age=3153600000")),
            (both, &[("x-accel-expires", "60"), ("surrogate-control", "no-store")], Some("max-age=60")),
            (both, &[("x-accel-expires", "x"), ("surrogate-control", "no-store")], Some("no-store")),
            (both, &[("x-accel-expires", "60"), ("seawall-cache-control", "max-age=5")], Some("max-age=5")),
            (surrogate, &[("surrogate-control", "max-age=60")], Some("max-age=60")),
            (
                surrogate,
                &[("surrogate-control", "content=\"ESI/1.0\", max-age=60+30")],
                Some("max-age=60, stale-while-revalidate=30"),
            ),
            (surrogate, &[("surrogate-control", "No-Store, max-age=60;varnish")], Some("no-store, max-age=60")),
            (surrogate, &[("surrogate-control", "max-age=1, stale-if-error=2")], Some("max-age=1, stale-if-error=2")),
            (surrogate, &[("surrogate-control", "max-age=x")], None),
            (
                surrogate,
                &[("surrogate-control", "no-store"), ("surrogate-control", "max-age=1")],
                Some("no-store, max-age=1"),
            ),
            (surrogate, &[], None),
            (both, &[("x-accel-expires", "0"), ("seawall-cache-control", "Max-Age = x")], Some("no-store")),
        ] {
            let mut map = map(fields);
            translate(&mut map, heed, now);
            assert_eq!(map.get("seawall-cache-control").map(|value| value.to_str().unwrap()), said, "{fields:?}");
            assert!(!map.contains_key("surrogate-control") && !map.contains_key("x-accel-expires"), "{fields:?}");
        }
        for (vary, left) in [
            (&["Origin"][..], None),
            (&["Accept, origin , X-A"], Some("Accept, X-A")),
            (&["Origin", "Accept"], Some("Accept")),
            (&["Accept"], Some("Accept")),
        ] {
            let mut map = map(&vary.iter().map(|vary| ("vary", *vary)).collect::<Vec<_>>());
            forget_origin(&mut map);
            assert_eq!(map.get("vary").map(|value| value.to_str().unwrap()), left, "{vary:?}");
        }
        // What cannot be read selects nothing: it has to stay.
        let odd = map(&[("vary", "origin"), ("vary", "cookie, \u{e4}")]);
        let mut left = odd.clone();
        forget_origin(&mut left);
        assert_eq!(left, odd);
        let mut unheeded = map(&[("x-accel-expires", "60")]);
        translate(&mut unheeded, surrogate, now);
        assert_eq!(unheeded, map(&[("x-accel-expires", "60")]));
    }
}
