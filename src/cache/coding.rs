//! Content codings that the node makes (RFC 9110 section 8.4): which responses are coded, and how the coded one
//! differs. Pure; [`super::compressor`] does it in the background for what is stored.

use std::io::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::config::model::{Coding, CompressRules};
use crate::fields::split_list;
use crate::request::Fields;

use super::head::Head;
use crate::representation::negotiate;

/// A coded body must be so much smaller to be kept: this part of the whole.
const WORTH: usize = 20;
/// Levels that a node can afford in the background: near the best ratios for their time.
const ZSTD_LEVEL: i32 = 9;
const BROTLI_QUALITY: i32 = 6;
const BROTLI_WINDOW: i32 = 22;

/// The same response, coded.
#[derive(Debug, Clone)]
pub struct Coded {
    pub coding: Coding,
    pub head: Head,
    pub body: Bytes,
}

/// Whether a response may be coded; `length`: of its body, if it is known yet.
pub(crate) fn suits(rules: &CompressRules, status: StatusCode, fields: &HeaderMap, length: Option<u64>) -> bool {
    suits_as(rules, status, fields, length, &media_type(fields))
}

/// The same of one that is coded while it passes. A stream of events or of messages may go on for days, and a coder with it.
pub(crate) fn suits_passing(
    rules: &CompressRules,
    status: StatusCode,
    fields: &HeaderMap,
    length: Option<u64>,
) -> bool {
    let media_type = media_type(fields);
    let is_stream = media_type == "text/event-stream" || media_type.starts_with("application/grpc");
    !is_stream && suits_as(rules, status, fields, length, &media_type)
}

fn suits_as(
    rules: &CompressRules,
    status: StatusCode,
    fields: &HeaderMap,
    length: Option<u64>,
    media_type: &str,
) -> bool {
    // A part of something is never coded: its range counts bytes of the whole as it is.
    let whole = !matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let plain = !fields.contains_key(header::CONTENT_ENCODING) && !fields.contains_key(header::CONTENT_RANGE);
    whole
        && plain
        && length.is_none_or(|length| length >= rules.min_size)
        && rules.types.iter().any(|pattern| pattern.matches(media_type))
        && !forbids_transformation(Fields::Map(fields))
}

fn media_type(fields: &HeaderMap) -> String {
    let media_type = fields.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The coding of those that are made here in which a client gets what passes.
pub(crate) fn best(rules: &CompressRules, request: Fields<'_>) -> Option<Coding> {
    let best = negotiate::best_coding(request, rules.codings.iter().copied())?;
    (!forbids_transformation(request)).then_some(best)
}

/// `no-transform` of a request or a response (RFC 9111 sections 5.2.1.6 and 5.2.2.6).
fn forbids_transformation(fields: Fields<'_>) -> bool {
    let value = fields.joined_text(&header::CACHE_CONTROL).unwrap_or_default();
    split_list(&value).any(|directive| directive.eq_ignore_ascii_case("no-transform"))
}

/// The number of the best of an object's codings for a request; `None`: the body as it is. Ranges are given of that alone,
/// so that parts of differently coded bodies never meet.
pub(crate) fn select(codings: &[Coded], method: &Method, request: Fields<'_>) -> Option<usize> {
    if codings.is_empty() || *method == Method::GET && request.contains(&header::RANGE) {
        return None;
    }
    let best = negotiate::best_coding(request, codings.iter().map(|coded| coded.coding))?;
    codings.iter().position(|coded| coded.coding == best).filter(|_| !forbids_transformation(request))
}

/// The head of the coded response.
pub(crate) fn head_of(head: &Head, coding: Coding) -> Head {
    let mut fields = head.fields();
    name_coding(&mut fields, coding);
    Head::from_clean(head.status, fields)
}

/// Makes the fields of a response those of the coded one: its coding named, its entity tag weak (RFC 9110 section 8.8.3.3: it
/// is equivalent, but not the same bytes), what was computed of the other bytes left out.
pub(crate) fn name_coding(fields: &mut HeaderMap, coding: Coding) {
    exclude_digests(fields);
    fields.remove(header::ACCEPT_RANGES);
    fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    weaken(fields);
}

/// Makes the entity tag of a response a weak one; what is none goes.
pub(crate) fn weaken(fields: &mut HeaderMap) {
    let Some(etag) = fields.get(header::ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/\"")) else { return };
    match HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat()) {
        Ok(weak) if etag.as_bytes().starts_with(b"\"") => fields.insert(header::ETAG, weak),
        _ => fields.remove(header::ETAG),
    };
}

/// Whether a client that asks whether its copy is still good has it in a coding of the node's: by the weak form of an entity tag
/// that is strong.
pub(crate) fn has_coded(request: Fields<'_>, etag: &[u8]) -> bool {
    let is_weak_form = |tag: &str| tag.strip_prefix("W/").is_some_and(|opaque| opaque.as_bytes() == etag);
    let tags = request.joined_text(&header::IF_NONE_MATCH).unwrap_or_default();
    etag.starts_with(b"\"") && split_list(&tags).any(is_weak_form)
}

/// Takes out, of a head or of trailers, what was computed of the bytes of a body that goes in a coding of the node's.
pub(crate) fn exclude_digests(fields: &mut HeaderMap) {
    for name in ["content-md5", "digest", "content-digest", "repr-digest"] {
        fields.remove(name);
    }
}

/// A body coded, if it is enough smaller.
pub(crate) fn encode(coding: Coding, body: &[u8]) -> std::io::Result<Option<Bytes>> {
    let coded = match coding {
        Coding::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL)?,
        Coding::Br => {
            let params = brotli::enc::BrotliEncoderParams {
                quality: BROTLI_QUALITY,
                lgwin: BROTLI_WINDOW,
                size_hint: body.len(),
                ..Default::default()
            };
            let mut out = Vec::new();
            brotli::BrotliCompress(&mut &body[..], &mut out, &params)?;
            out
        }
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body)?;
            encoder.finish()?
        }
    };
    Ok((coded.len() < body.len() - body.len() / WORTH).then(|| coded.into_boxed_slice().into()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::testing::map;
    use super::*;

    fn rules() -> CompressRules {
        CompressRules {
            codings: [Coding::Zstd, Coding::Br, Coding::Gzip].into(),
            min_size: 100,
            types: CompressRules::TYPES.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn which_responses_are_coded() {
        let html = ("content-type", "text/html; charset=utf-8");
        for (status, fields, length, expected) in [
            (200, vec![html], Some(100), true),
            (200, vec![html], Some(99), false),
            (200, vec![html], None, true),
            (404, vec![html], Some(100), true),
            (206, vec![html], Some(100), false),
            (204, vec![html], Some(100), false),
            (200, vec![("content-type", "Application/JSON")], Some(100), true),
            (200, vec![("content-type", "application/ld+json")], Some(100), true),
            (200, vec![("content-type", "image/svg+xml")], Some(100), true),
            (200, vec![("content-type", "image/png")], Some(100), false),
            (200, vec![("content-type", "video/mp4")], Some(100), false),
            (200, vec![], Some(100), false),
            (200, vec![html, ("content-encoding", "gzip")], Some(100), false),
            (200, vec![html, ("content-range", "bytes 0-99/200")], Some(100), false),
            (200, vec![html, ("cache-control", "max-age=60, No-Transform")], Some(100), false),
            (200, vec![html, ("cache-control", "max-age=60"), ("cache-control", "no-transform")], Some(100), false),
            (200, vec![html, ("cache-control", "x=\"no-transform\"")], Some(100), true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(suits(&rules(), status, &map(&fields), length), expected, "{status} {fields:?} {length:?}");
        }
    }

    #[test]
    fn what_is_coded_can_be_decoded() {
        let body: Vec<u8> = (0..20_000).flat_map(|i: u32| format!("line {i}\n").into_bytes()).collect();
        for coding in rules().codings.iter() {
            let coded = encode(*coding, &body).unwrap().unwrap();
            assert!(coded.len() < body.len() / 3, "{coding:?}");
            let mut decoded = Vec::new();
            match coding {
                Coding::Zstd => decoded = zstd::bulk::decompress(&coded, body.len()).unwrap(),
                Coding::Br => {
                    brotli::BrotliDecompress(&mut &coded[..], &mut decoded).unwrap();
                }
                Coding::Gzip => {
                    flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut decoded).unwrap();
                }
            }
            assert_eq!(decoded, body, "{coding:?}");
        }
    }

    #[test]
    fn what_does_not_shrink_is_left() {
        let mut random = fastrand::Rng::with_seed(7);
        let body: Vec<u8> = (0..10_000).map(|_| random.u8(..)).collect();
        for coding in rules().codings.iter() {
            assert_eq!(encode(*coding, &body).unwrap(), None, "{coding:?}");
            assert_eq!(encode(*coding, b"").unwrap(), None, "{coding:?}");
        }
    }

    #[test]
    fn the_coded_head_is_honest() {
        for (etag, expected) in
            [("\"a\"", Some("W/\"a\"")), ("W/\"a\"", Some("W/\"a\"")), ("a", None), ("*", None), ("w/\"a\"", None)]
        {
            let fields = map(&[("etag", etag), ("accept-ranges", "bytes"), ("content-digest", "x"), ("x-a", "1")]);
            let head = head_of(&Head::from_origin(StatusCode::OK, fields), Coding::Br);
            let mut all = map(&[("x-a", "1"), ("content-encoding", "br")]);
            all.extend(expected.map(|etag| (header::ETAG, HeaderValue::from_static(etag))));
            assert_eq!(head.fields(), all);
        }
    }

    #[test]
    fn who_has_a_coded_copy_says_so_by_its_weak_tag() {
        for (tags, etag, expected) in [
            ("W/\"a\"", "\"a\"", true),
            ("\"b\", W/\"a\"", "\"a\"", true),
            ("\"a\"", "\"a\"", false),
            ("W/\"a\"", "W/\"a\"", false),
            ("W/\"ab\"", "\"a\"", false),
            ("*", "\"a\"", false),
        ] {
            let fields = map(&[("if-none-match", tags)]);
            assert_eq!(has_coded(Fields::Map(&fields), etag.as_bytes()), expected, "{tags} {etag}");
        }
    }

    #[test]
    fn the_best_coding_is_selected_and_never_for_a_range() {
        let head = Head::from_origin(StatusCode::OK, HeaderMap::new());
        let codings =
            [Coding::Zstd, Coding::Gzip].map(|coding| Coded { coding, head: head.clone(), body: Bytes::new() });
        for (method, fields, expected) in [
            (Method::GET, vec![("accept-encoding", "gzip, zstd")], Some(Coding::Zstd)),
            (Method::HEAD, vec![("accept-encoding", "gzip")], Some(Coding::Gzip)),
            (Method::GET, vec![("accept-encoding", "br")], None),
            (Method::GET, vec![], None),
            (Method::GET, vec![("accept-encoding", "gzip"), ("range", "bytes=0-1")], None),
            (Method::GET, vec![("accept-encoding", "gzip"), ("cache-control", "no-transform")], None),
        ] {
            let found = select(&codings, &method, Fields::Map(&map(&fields))).map(|number| codings[number].coding);
            assert_eq!(found, expected, "{method} {fields:?}");
        }
    }
}
