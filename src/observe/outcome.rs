//! What is told of a request.

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, StatusCode, Version};

use crate::clock::Timestamp;
use crate::request::RequestId;

/// Everything that is told of one request when it is over.
pub struct Outcome<'a> {
    pub time: Timestamp,
    pub id: RequestId<'a>,
    pub client: IpAddr,
    pub method: &'a Method,
    pub scheme: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub version: Version,
    pub status: StatusCode,
    /// Of the body.
    pub bytes_sent: u64,
    pub duration: Duration,
    /// As configured; empty for a request that no site takes.
    pub site: &'a str,
    pub cache: &'a str,
    /// Why the response was stored or not (docs/reasons.md), where that was judged.
    pub reason: Option<&'a str>,
    pub referer: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    /// Why the response could not be sent whole, if so.
    pub error: Option<&'a str>,
}
