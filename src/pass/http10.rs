//! Responses to HTTP/1.0 clients. pingora frames every body of unknown length in chunks, which HTTP/1.0 has
//! not (RFC 9112 section 6.1): such a body ends with the connection instead.

use std::any::Any;

use async_trait::async_trait;
use http::{StatusCode, Version, header};
use pingora_core::Result;
use pingora_core::modules::http::{HttpModule, HttpModuleBuilder, Module};
use pingora_http::ResponseHeader;

use super::REQUEST;

/// Puts an [`UntilClose`] on each request.
pub struct UntilCloseBuilder;

/// Takes `Transfer-Encoding` out of responses to HTTP/1.0: a module, since pingora puts it in after all other
/// hooks.
struct UntilClose {
    is_http10: bool,
}

impl HttpModuleBuilder for UntilCloseBuilder {
    fn init(&self) -> Module {
        let is_http10 = REQUEST.try_with(|request| request.version == Version::HTTP_10).unwrap_or(false);
        Box::new(UntilClose { is_http10 })
    }
}

#[async_trait]
impl HttpModule for UntilClose {
    async fn response_header_filter(&mut self, response: &mut ResponseHeader, _end: bool) -> Result<()> {
        if self.is_http10 {
            response.remove_header(&header::TRANSFER_ENCODING);
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Whether a response to an HTTP/1.0 client can only end with its connection.
pub fn ends_with_connection(response: &ResponseHeader) -> bool {
    !response.headers.contains_key(header::CONTENT_LENGTH)
        && !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
