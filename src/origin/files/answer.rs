//! What is answered with a file, or for want of one.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::clock::Timestamp;
use crate::config::model::Coding;
use crate::representation::negotiate::best_coding;
use crate::representation::respond::{Reply, Selected, respond};
use crate::request::{FieldLines, Fields};

use super::super::link::ResponseHead;
use super::super::request::OriginRequest;
use super::body::Reading;
use super::find::{Found, FoundFile, Stamp};

/// What matters of a request.
pub(super) struct Asked {
    method: Method,
    /// As it was sent.
    pub path: String,
    query: Option<String>,
    fields: FieldLines,
    now: Timestamp,
}

/// A head, and where its body comes from.
pub(super) struct Answer {
    pub head: ResponseHead,
    pub body: Reading,
}

/// A file that was changed so lately may change again within one tick of its clock: its tag is a weak one.
const SETTLED: i128 = 2_000_000_000;

impl Asked {
    pub(super) fn of(request: &OriginRequest) -> Self {
        let (path, query) = match request.path_and_query.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (request.path_and_query.clone(), None),
        };
        Asked { method: request.method.clone(), path, query, fields: request.fields.clone(), now: Timestamp::now() }
    }

    /// The codings that the client takes, the best first.
    pub(super) fn accepted(&self, precompressed: bool) -> Vec<Coding> {
        let mut offered = vec![Coding::Br, Coding::Zstd, Coding::Gzip];
        let mut accepted = Vec::new();
        while precompressed && let Some(best) = best_coding(Fields::Lines(&self.fields), offered.iter().copied()) {
            accepted.push(best);
            offered.retain(|coding| *coding != best);
        }
        accepted
    }
}

pub(super) fn answer(asked: &Asked, found: Found) -> Answer {
    if !matches!(asked.method, Method::GET | Method::HEAD) {
        let allow = [(header::ALLOW, HeaderValue::from_static("GET, HEAD"))];
        return plain(StatusCode::METHOD_NOT_ALLOWED, allow);
    }
    match found {
        Found::File(file) => with_file(asked, file),
        Found::Directory => {
            let query = asked.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
            let location = HeaderValue::from_str(&format!("{}/{query}", asked.path.replace('\\', "%5C")));
            plain(StatusCode::MOVED_PERMANENTLY, location.ok().map(|location| (header::LOCATION, location)))
        }
        Found::Nothing => plain(StatusCode::NOT_FOUND, []),
        Found::Forbidden => plain(StatusCode::FORBIDDEN, []),
    }
}

/// An answer with its status for a body.
fn plain(status: StatusCode, fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Answer {
    let text = Bytes::from(format!("{status}\n"));
    let mut fields: HeaderMap = fields.into_iter().collect();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(header::CONTENT_LENGTH, (text.len() as u64).into());
    let left = text.len() as u64;
    Answer {
        head: ResponseHead { status, fields },
        body: Reading { file: None, stamp: Stamp::default(), text, at: 0, left },
    }
}

fn with_file(asked: &Asked, FoundFile { file, stamp, name, coding, varies }: FoundFile) -> Answer {
    let etag = etag(stamp, coding, asked.now);
    let modified = u64::try_from(stamp.modified / 1_000_000_000).map(Timestamp::from_secs).unwrap_or_default();
    let selected = Selected {
        status: StatusCode::OK,
        etag: Some(&etag),
        last_modified: Some(modified),
        date: None,
        date_is_strong: false,
        length: Some(stamp.length),
    };
    let reply = respond(&asked.method, Fields::Lines(&asked.fields), &selected);
    let mut fields = HeaderMap::new();
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(name, value);
        }
    };
    put(header::ETAG, &etag);
    put(header::LAST_MODIFIED, &modified.http_date());
    if varies {
        put(header::VARY, "Accept-Encoding");
    }
    let (status, at, left) = match reply {
        Reply::NotModified => (StatusCode::NOT_MODIFIED, 0, 0),
        Reply::PreconditionFailed => return plain(StatusCode::PRECONDITION_FAILED, []),
        Reply::RangeNotSatisfiable { total } => {
            let range = HeaderValue::from_str(&format!("bytes */{total}")).ok();
            return plain(StatusCode::RANGE_NOT_SATISFIABLE, range.map(|range| (header::CONTENT_RANGE, range)));
        }
        Reply::Partial { first, last, total } => {
            put(header::CONTENT_RANGE, &format!("bytes {first}-{last}/{total}"));
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        // A server may ignore a range (RFC 9110 section 14.2), and need not make one body of several.
        Reply::Full | Reply::Multiple { .. } => (StatusCode::OK, 0, stamp.length),
    };
    if status != StatusCode::NOT_MODIFIED {
        put(header::ACCEPT_RANGES, "bytes");
        put(header::CONTENT_TYPE, &content_type(&name));
        put(header::CONTENT_LENGTH, &left.to_string());
        if let Some(coding) = coding {
            put(header::CONTENT_ENCODING, coding.as_str());
        }
    }
    Answer {
        head: ResponseHead { status, fields },
        body: Reading { file: Some(Arc::new(file)), stamp, text: Bytes::new(), at, left },
    }
}

/// Strong, unless the file may still change without its time telling.
fn etag(stamp: Stamp, coding: Option<Coding>, now: Timestamp) -> String {
    let age = i128::from(now.as_millis()) * 1_000_000 - stamp.modified;
    let weak = if age < SETTLED { "W/" } else { "" };
    let coding = coding.map(|coding| format!("-{}", coding.as_str())).unwrap_or_default();
    format!("{weak}\"{:x}-{:x}-{:x}{coding}\"", stamp.modified, stamp.changed, stamp.length)
}

/// By the ending of the name. Text is said to be UTF-8, as nearly all of it is.
fn content_type(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let guessed = mime_guess::from_path(&*name).first_or_octet_stream();
    let is_text = guessed.type_() == "text" || matches!(guessed.subtype().as_str(), "javascript" | "json" | "xml");
    if is_text { format!("{guessed}; charset=utf-8") } else { guessed.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_known_by_the_ending() {
        for (name, kind) in [
            ("/index.html", "text/html; charset=utf-8"),
            ("/a.css", "text/css; charset=utf-8"),
            ("/a.js", "text/javascript; charset=utf-8"),
            ("/a.svg", "image/svg+xml"),
            ("/a.wasm", "application/wasm"),
            ("/a.woff2", "font/woff2"),
            ("/a", "application/octet-stream"),
            ("/a.unknown-ending", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name.as_bytes()), kind, "{name}");
        }
    }

    #[test]
    fn a_tag_is_weak_while_the_file_may_change_unnoticed() {
        let stamp = Stamp { length: 16, modified: 1_000_000_000_000, changed: 1, ..Stamp::default() };
        assert_eq!(etag(stamp, None, Timestamp::from_secs(1001)), "W/\"e8d4a51000-1-10\"");
        assert_eq!(etag(stamp, None, Timestamp::from_secs(1002)), "\"e8d4a51000-1-10\"");
        assert_eq!(etag(stamp, Some(Coding::Br), Timestamp::from_secs(2000)), "\"e8d4a51000-1-10-br\"");
    }
}
