//! Calls to the admin API of a running node.

use serde_json::Value;
use ureq::http::{Method, Request, StatusCode, header};

use crate::config::diagnose::Diagnostic;

/// Where the node is and who calls.
#[derive(clap::Args)]
pub(crate) struct AdminArgs {
    /// The node's admin API.
    #[arg(long, env = "SEAWALL_ADMIN", default_value = "http://127.0.0.1:9180", value_parser = base)]
    admin: String,
    /// The token, where the API needs one. Better in the environment: arguments are visible to others.
    #[arg(long, env = "SEAWALL_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("the node refused ({status}): {detail}")]
    Refused {
        status: StatusCode,
        detail: String,
        /// Which of several URLs of the call is meant.
        index: Option<usize>,
    },
    #[error(
        "cannot reach the admin API at {admin}: {error}\n  = hint: does the node run, with [admin] in its configuration? \
         --admin or SEAWALL_ADMIN say where else it is"
    )]
    Unreachable { admin: String, error: ureq::Error },
    #[error("{0}")]
    Unusable(String),
}

/// Where an API is, as an argument says it.
fn base(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Option<ureq::http::Uri> = url.parse().ok();
    let is_base = uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if is_base { Ok(url) } else { Err("expected a URL such as http://127.0.0.1:9180".to_owned()) }
}

impl AdminArgs {
    pub(crate) fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, Vec::new())
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::DELETE, path, Vec::new())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.call(Method::POST, path, body.to_string().into_bytes())
    }

    fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Value, CallError> {
        let unusable = |error: &dyn std::fmt::Display| CallError::Unusable(error.to_string());
        let url = format!("{}{path}", self.admin.trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(url).body(body).map_err(|error| unusable(&error))?;
        if !request.body().is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        }
        if let Some(token) = &self.token {
            let value = format!("Bearer {token}").parse();
            let value = value.map_err(|_| unusable(&"the token has characters that no header may have"))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(std::time::Duration::from_secs(30)))
            .build()
            .into();
        let sent = agent.run(request);
        let mut response = sent.map_err(|error| CallError::Unreachable { admin: self.admin.clone(), error })?;
        let text = response.body_mut().read_to_string().map_err(|error| unusable(&error))?;
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if response.status().is_success() {
            return Ok(body);
        }
        let mut detail = match body["detail"].as_str() {
            Some(detail) => detail.to_owned(),
            None => format!("is the admin API at {}? see address in [admin]", self.admin),
        };
        // The mistakes of a configuration that was refused.
        for mistake in super::list(&body["errors"]) {
            match serde_json::from_value::<Diagnostic>(mistake.clone()) {
                Ok(mistake) => detail += &format!("\n{mistake}"),
                Err(_) => detail += &format!("\n{mistake}"),
            }
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            detail += "; SEAWALL_TOKEN in the environment gives it";
        }
        Err(CallError::Refused {
            status: response.status(),
            detail,
            index: body["index"].as_u64().map(|index| index as usize),
        })
    }
}
