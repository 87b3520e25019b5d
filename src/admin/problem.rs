//! Errors of the API as `application/problem+json` (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::config::diagnose::Diagnostic;

/// What went wrong and what to do about it.
#[derive(Debug, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    pub detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Diagnostic>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Problem { kind: "about:blank", title, status: status.as_u16(), detail: detail.into(), errors: Vec::new() }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// A configuration with mistakes.
    pub fn configuration(errors: Vec<Diagnostic>) -> Self {
        let detail = format!("the configuration has {} mistakes; nothing was changed", errors.len());
        Problem { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
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
