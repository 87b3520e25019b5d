//! A request on its way to an origin, reduced to what stored responses are selected by.

use http::{HeaderName, header};
use smallvec::SmallVec;

use crate::config::model::{Coding, KeyRules, Node, Pattern};
use crate::request::{FieldLines, Fields, RequestView};

use super::Presented;
use super::axis::{COUNTRY, cookies_like};
use crate::representation::negotiate;

/// Reduces the fields of a request on its way to an origin to what the rules tell apart: what is not keyed must not
/// shape what all get. `country`: of the client.
pub fn normalise(fields: &mut FieldLines, rules: &KeyRules, country: Option<&str>) {
    let request = Fields::Lines(fields);
    let mut wanted: SmallVec<[(HeaderName, Option<Vec<u8>>); 4]> = SmallVec::new();
    if let Some(offered) = &rules.accept_encoding {
        let coding = negotiate::best_coding(request, offered.iter().copied()).map_or("identity", Coding::as_str);
        wanted.push((header::ACCEPT_ENCODING, Some(coding.into())));
    }
    if let Some(offered) = &rules.accept_language {
        let language = negotiate::best_language(request, offered);
        wanted.push((header::ACCEPT_LANGUAGE, language.map(Into::into)));
    }
    if let Some(patterns) = &rules.cookies {
        let one = |name: &str| Some([name.as_bytes(), b"=", negotiate::cookie(request, name)?].concat());
        let like = |pattern: &Pattern| match pattern.exact() {
            Some(name) => one(name).into_iter().collect(),
            None => cookies_like(request, pattern),
        };
        let pairs: Vec<Vec<u8>> = patterns.iter().flat_map(like).collect();
        wanted.push((header::COOKIE, (!pairs.is_empty()).then(|| pairs.join(&b"; "[..]))));
    }
    for (name, value) in wanted {
        set(fields, &name, value.as_deref());
    }
    tell_who_asks(fields, rules, country);
}

/// Tells the origin what the rules tell apart of clients and what no field of theirs says: the kind of device, and the
/// country. What a client says of these itself is left out.
pub(crate) fn tell_who_asks(fields: &mut FieldLines, rules: &KeyRules, country: Option<&str>) {
    if rules.device {
        let device = negotiate::device(Fields::Lines(fields));
        set(fields, &negotiate::DEVICE_CLASS, Some(device.as_bytes()));
        fields.remove("x_device_class");
    }
    if rules.country {
        set(fields, &COUNTRY, country.map(str::as_bytes));
        fields.remove("x_country");
    }
}

fn set(fields: &mut FieldLines, name: &HeaderName, value: Option<&[u8]>) {
    fields.remove(name.as_str());
    if let Some(value) = value {
        fields.append(name, value);
    }
}

/// The fields with what the key names as it is compared; `None`: they are that. What origins are asked for by them is thereby the
/// same for all requests of one key.
pub(crate) fn as_compared(
    fields: &FieldLines,
    view: &RequestView<'_>,
    node: &Node,
    rules: &KeyRules,
) -> Option<FieldLines> {
    let presented = Presented::new(&RequestView { fields: Fields::Lines(fields), ..*view }, node);
    let mut compared = None;
    for name in rules.headers.iter().filter_map(|pattern| pattern.exact()?.parse::<HeaderName>().ok()) {
        if let Some(value) = presented.value(&name).filter(|_| fields.contains(&name)) {
            compared.get_or_insert_with(|| fields.clone()).insert(&name, &value);
        }
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::map;
    use super::*;

    fn lines(fields: &[(&str, &str)]) -> FieldLines {
        Fields::Map(&map(fields)).to_lines()
    }

    #[test]
    fn cookies_that_are_like_a_name_go_in_the_order_of_their_names() {
        let patterns = ["wordpress_logged_in*", "currency"].map(|name| name.parse().unwrap());
        let rules = KeyRules { cookies: Some(patterns.into()), ..KeyRules::default() };
        let mut sent = lines(&[("cookie", "sid=1; wordpress_logged_in_b=2; currency=EUR; wordpress_logged_in_a=1")]);
        normalise(&mut sent, &rules, None);
        let expected = "wordpress_logged_in_a=1; wordpress_logged_in_b=2; currency=EUR";
        assert_eq!(Fields::Lines(&sent).to_map(), map(&[("cookie", expected)]));
    }

    #[test]
    fn origins_see_only_what_is_told_apart() {
        let rules = KeyRules {
            cookies: Some(["a", "b"].map(|name| name.parse().unwrap()).into()),
            device: true,
            country: true,
            accept_language: Some(["en".into()].into()),
            accept_encoding: Some([].into()),
            ..KeyRules::default()
        };
        let mut fields = lines(&[
            ("cookie", "sid=1; b=2"),
            ("cookie", "a=1"),
            ("accept-language", "fr, en-GB;q=0.5"),
            ("accept-encoding", "gzip"),
            ("x-device-class", "spoofed"),
            ("x-country", "spoofed"),
            ("accept", "*/*"),
        ]);
        normalise(&mut fields, &rules, Some("DE"));
        let expected = map(&[
            ("cookie", "a=1; b=2"),
            ("accept-language", "en"),
            ("accept-encoding", "identity"),
            ("x-device-class", "desktop"),
            ("x-country", "DE"),
            ("accept", "*/*"),
        ]);
        assert_eq!(Fields::Lines(&fields).to_map(), expected);
        let mut fields = lines(&[("cookie", "sid=1"), ("accept-language", "fr")]);
        normalise(&mut fields, &KeyRules { device: false, accept_encoding: None, ..rules }, None);
        assert_eq!(fields.iter().next(), None);
    }
}
