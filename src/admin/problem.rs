//! Errors of the API as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::diagnose::Diagnostic;
use crate::config::units::count;

/// What went wrong and what to do about it.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    pub detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Diagnostic>,
    /// Which of several URLs of the call is meant, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let (status, detail) = (status.as_u16(), detail.into());
        Problem { kind: "about:blank", title, status, detail, errors: Vec::new(), index: None }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// A configuration with mistakes.
    pub(crate) fn configuration(errors: Vec<Diagnostic>) -> Self {
        let detail = format!("the configuration has {}; nothing was changed", count(errors.len() as u64, "mistake"));
        Problem { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// Does something with each of several URLs; a problem tells which it is of.
    pub(crate) fn of_each<T>(urls: &[String], each: impl Fn(&String) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
        let numbered = urls.iter().enumerate();
        numbered.map(|(i, url)| each(url).map_err(|problem| Problem { index: Some(i), ..problem })).collect()
    }
}

/// What a call's body says.
pub(crate) fn read_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("the body is not valid: {error}")))
}

/// A task that a call waited for did not end as it should.
impl From<tokio::task::JoinError> for Problem {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<crate::cache::purge::NotDurable> for Problem {
    fn from(error: crate::cache::purge::NotDurable) -> Self {
        tracing::error!(%error, "a purge could not be made durable");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("it is in force, but is not durable, so a restart would undo it: {error}"),
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
