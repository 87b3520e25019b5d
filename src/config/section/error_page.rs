//! `[[site.NAME.error_page]]`: what clients see instead of an error.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::config::diagnose::At;
use crate::config::read::Table;
use crate::config::value::StatusRange;

use super::file;

/// A page for some errors.
#[derive(Debug, Clone)]
pub struct ErrorPage {
    statuses: Vec<StatusRange>,
    pub content_type: HeaderValue,
    text: std::sync::Arc<str>,
    /// Whether it stands for what origins answer, too.
    of_origins: bool,
}

/// Of which status and which request a page is.
const PLACES: [&str; 2] = ["{status}", "{request.id}"];

impl ErrorPage {
    /// Whether it is for an error; `by_origin`: that an origin has answered; `wants_json`: for a program, to which another page
    /// says nothing.
    pub fn is_for(&self, status: StatusCode, by_origin: bool, wants_json: bool) -> bool {
        let covers = |range: &StatusRange| (range.first..=range.last).contains(&status.as_u16());
        let is_json = || self.content_type.as_bytes().windows(4).any(|part| part.eq_ignore_ascii_case(b"json"));
        (self.of_origins || !by_origin) && self.statuses.iter().any(covers) && (!wants_json || is_json())
    }

    /// The page of one error.
    pub fn body(&self, status: StatusCode, request: &str) -> Bytes {
        let values = [status.as_str(), request];
        let filled =
            PLACES.iter().zip(values).fold(self.text.to_string(), |text, (place, value)| text.replace(place, value));
        filled.into()
    }
}

/// Reads `status = "500-599"`, `file = "50x.html"`.
pub(super) fn read(mut table: Table) -> Option<ErrorPage> {
    let errors = table.errors;
    if table.lacks("status") {
        let hint = "add status = [\"500-599\"]";
        errors.error_with_hint(table.place, format!("\"status\" is missing in {}", table.name), hint);
    }
    let mut statuses = Vec::new();
    for At { value: range, place } in table.list::<StatusRange>("status") {
        match range.first >= 400 {
            true => statuses.push(range),
            false => errors.error(place, format!("\"status\" in {}: errors are from 400 to 599", table.name)),
        }
    }
    let text = table.require::<String>("file").and_then(|file| file::body(&file, errors));
    let content_type = table.get::<String>("content_type");
    let of_origins = table.get_or("origins", false);
    let place = content_type.as_ref().map_or(table.place, |at| at.place);
    table.finish();
    let content_type = content_type.map_or("text/html; charset=utf-8".to_owned(), |at| at.value);
    let parsed = content_type.parse().map_err(|_| format!("{content_type:?} is not a media type"));
    Some(ErrorPage { statuses, content_type: errors.accept(place, parsed)?, text: text?, of_origins })
}
