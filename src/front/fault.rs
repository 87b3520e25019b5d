//! Errors that the node itself answers with: a page of the site's, a problem for programs (RFC 9457), or a line of text; each
//! with the reason in one word (RFC 9209) and with the request's identifier.

use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::clock::Timestamp;
use crate::config::model::ErrorPage;
use crate::origin::error::OriginError;
use crate::origin::forward::REQUEST_ID;
use crate::pass::excuse;
use crate::request::{RequestView, lists_type};

use super::reply::ClientResponse;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// An error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    status: StatusCode,
    /// In a few words, for clients.
    why: &'static str,
    /// Its type (RFC 9209 section 2.3).
    kind: &'static str,
}

impl Fault {
    /// A request that is not served.
    pub(crate) fn of_request(status: StatusCode, why: &'static str) -> Self {
        let kind = match status {
            StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => "http_request_denied",
            StatusCode::NOT_FOUND | StatusCode::MISDIRECTED_REQUEST => "destination_not_found",
            StatusCode::LOOP_DETECTED => "proxy_loop_detected",
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY => "proxy_internal_error",
            _ => "http_request_error",
        };
        Fault { status, why, kind }
    }

    /// An origin that gave no answer.
    pub(crate) fn of_origin(error: &OriginError) -> Self {
        let kind = match error {
            OriginError::NoOrigin { .. } => "destination_unavailable",
            OriginError::TooManyFills | OriginError::TooManyRequests | OriginError::Busy { .. } => {
                "connection_limit_reached"
            }
            OriginError::Connect { .. } => "connection_refused",
            OriginError::Certificate { .. } => "tls_certificate_error",
            OriginError::Timeout { .. } => "http_response_timeout",
            OriginError::Broken { .. } => "http_response_incomplete",
            OriginError::Invalid { .. } => "http_protocol_error",
            OriginError::FillLost | OriginError::NotInSlices => "proxy_internal_error",
            OriginError::Request(_) => "http_request_error",
        };
        let why = match error {
            OriginError::TooManyRequests => "this site has too many requests at the moment",
            error => excuse(error.status()),
        };
        Fault { status: error.status(), why, kind }
    }

    /// The answer to a request; `pages`: of its site; `node`: who says so.
    pub(crate) fn answer(
        self,
        request: &RequestView<'_>,
        pages: &[ErrorPage],
        node: &str,
        now: Timestamp,
    ) -> ClientResponse {
        let Fault { status, why, kind } = self;
        let mut space = [0; 32];
        let id = request.id.as_str(&mut space);
        let wants_problem = wants_problem(request);
        let (content_type, body) = match pages.iter().find(|page| page.is_for(status, false, wants_problem)) {
            Some(page) => (page.content_type.clone(), page.body(status, id)),
            None if wants_problem => (HeaderValue::from_static(PROBLEM), problem(status, why, id).into()),
            None => {
                let text = format!("{} {}: {why}\n", status.as_u16(), title(status));
                (HeaderValue::from_static("text/plain; charset=utf-8"), text.into())
            }
        };
        let said = format!("{node}; error={kind}");
        ClientResponse::own(status, content_type, body, now)
            .with_field(PROXY_STATUS, &said)
            .with_field(REQUEST_ID, id)
            .explained(why)
    }
}

/// RFC 9457.
const PROBLEM: &str = "application/problem+json";

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

fn problem(status: StatusCode, why: &str, id: &str) -> String {
    let problem = serde_json::json!({
        "type": "about:blank", "title": title(status), "status": status.as_u16(), "detail": why, "request_id": id,
    });
    format!("{problem}\n")
}

/// Whether a program asks: it wants JSON, and no page.
pub(super) fn wants_problem(request: &RequestView<'_>) -> bool {
    let accepts = |kind: &str| {
        let mut found = false;
        request.fields.for_each(&header::ACCEPT, |line| found |= lists_type(line, kind));
        found
    };
    (accepts("application/json") || accepts(PROBLEM)) && !accepts("text/html")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::request::{Fields, Scheme, tests::map};

    #[test]
    fn errors_are_honest_and_not_stored() {
        let fault = Fault::of_request(StatusCode::BAD_GATEWAY, "no answer");
        for (accept, content_type, begins) in [
            ("*/*", "text/plain; charset=utf-8", "502 Bad Gateway: no answer\n"),
            ("text/html, application/json", "text/plain; charset=utf-8", "502 Bad Gateway: no answer\n"),
            ("application/json;q=0.9, */*", PROBLEM, "{\"detail\":\"no answer\","),
            ("Application/Problem+JSON", PROBLEM, "{\"detail\":\"no answer\","),
            ("application/json; q=0.0, */*", "text/plain; charset=utf-8", "502 Bad Gateway: no answer\n"),
            ("text/html;q=0, application/json", PROBLEM, "{\"detail\":\"no answer\","),
        ] {
            let fields: HeaderMap = map(&[("accept", accept)]);
            let view = RequestView::own(&Method::GET, Scheme::Http, "shop.example", "/", Fields::Map(&fields));
            let mut answer = fault.answer(&view, &[], "edge-1", Timestamp::from_secs(0));
            let own = answer.head().fields();
            let of = |name: &str| own[name].to_str().unwrap();
            assert_eq!((of("cache-control"), of("content-type")), ("no-store", content_type), "{accept}");
            assert_eq!(of("proxy-status"), "edge-1; error=proxy_internal_error");
            assert_eq!(of("x-request-id"), view.id.to_string());
            let length = answer.content_length().unwrap();
            let body = answer.take_whole(&Method::GET).unwrap();
            assert!(body.starts_with(begins.as_bytes()) && body.len() as u64 == length, "{accept}: {body:?}");
        }
    }
}
