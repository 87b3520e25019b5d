//! Calls to the admin API of a running node.

use serde_json::Value;

/// Where the node is and who calls.
#[derive(clap::Args)]
pub struct AdminArgs {
    /// The node's admin API.
    #[arg(long, env = "SEAWALL_ADMIN", default_value = "http://127.0.0.1:9180")]
    admin: String,
    /// The token, where the API needs one. Better in the environment: arguments are visible to others.
    #[arg(long, env = "SEAWALL_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl AdminArgs {
    pub fn get(&self, path: &str) -> Result<Value, String> {
        let request = ureq::http::Request::get(self.url(path));
        self.send(request.body(Vec::new()).map_err(|error| error.to_string())?)
    }

    pub fn delete(&self, path: &str) -> Result<Value, String> {
        let request = ureq::http::Request::delete(self.url(path));
        self.send(request.body(Vec::new()).map_err(|error| error.to_string())?)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let request = ureq::http::Request::post(self.url(path)).header("content-type", "application/json");
        self.send(request.body(body.to_string().into_bytes()).map_err(|error| error.to_string())?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.admin.trim_end_matches('/'))
    }

    fn send(&self, mut request: ureq::http::Request<Vec<u8>>) -> Result<Value, String> {
        if let Some(token) = &self.token {
            let value =
                format!("Bearer {token}").parse().map_err(|_| "the token has characters that no header may have")?;
            request.headers_mut().insert("authorization", value);
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(std::time::Duration::from_secs(30)))
            .build()
            .into();
        let sent = agent.run(request);
        let mut response = sent.map_err(|error| format!("cannot reach the admin API at {}: {error}", self.admin))?;
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if response.status().is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().unwrap_or("no reason was given");
        Err(format!("the node refused ({}): {detail}", response.status()))
    }
}
