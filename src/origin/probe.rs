//! What an origin is asked to see whether it is well: a request by HTTP, or the health protocol of gRPC
//! (grpc.health.v1, <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::RequestHeader;

use crate::config::read::StatusRange;

use super::error::{describe, is_our_own_fault};
use super::h2::target;
use super::link::MAX_HEADS;

/// Bytes of a body that are looked at.
const MAX_BODY: usize = 64 << 10;

/// Why a probe brought no success.
pub(super) struct Failure {
    pub why: String,
    /// It is for want of something here, and says nothing of the origin.
    pub is_ours: bool,
}

impl Failure {
    fn of(why: impl Into<String>) -> Self {
        Failure { why: why.into(), is_ours: false }
    }
}

impl From<Box<pingora_core::Error>> for Failure {
    fn from(error: Box<pingora_core::Error>) -> Self {
        Failure { why: describe(&error), is_ours: is_our_own_fault(error.root_cause()) }
    }
}

/// `GET path`: the status must be one of those, and the body have the text, if one is expected. The session has the deadlines.
pub(super) async fn http(
    session: &mut HttpSession,
    path: &str,
    host: &str,
    expect: &[StatusRange],
    body: Option<&str>,
) -> Result<(), Failure> {
    send(session, "GET", path, host, &[("accept", "*/*")], None).await?;
    let (status, _) = head(session).await?;
    if !expect.iter().any(|range| (range.first..=range.last).contains(&status)) {
        return Err(Failure::of(format!("answered {status}")));
    }
    let Some(expected) = body else { return Ok(()) };
    let found = read(session).await?;
    match memchr::memmem::find(&found, expected.as_bytes()) {
        Some(_) => Ok(()),
        None => Err(Failure::of(format!("answered {status}, and its body has no {expected:?}"))),
    }
}

/// `Health/Check`: it must say that the service is `SERVING`. An empty name asks for the server as a whole.
pub(super) async fn grpc(session: &mut HttpSession, host: &str, service: &str) -> Result<(), Failure> {
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    send(session, "POST", "/grpc.health.v1.Health/Check", host, &fields, Some(request_of(service))).await?;
    let (status, fields) = head(session).await?;
    if status != 200 {
        return Err(Failure::of(format!("answered {status}")));
    }
    if let Some(error) = grpc_error(&fields) {
        return Err(Failure::of(error)); // there is no message
    }
    let message = read(session).await?;
    if let HttpSession::H2(session) = session
        && let Some(error) = session.read_trailers().await?.as_ref().and_then(grpc_error)
    {
        return Err(Failure::of(error));
    }
    match serving_status(&message) {
        Some(1) => Ok(()),
        Some(0) | None => Err(Failure::of("its health is unknown")),
        Some(2) => Err(Failure::of("it says that it does not serve")),
        Some(3) => Err(Failure::of(format!("it knows no service {service:?}"))),
        Some(other) => Err(Failure::of(format!("it says health {other}, which nobody knows"))),
    }
}

async fn send(
    session: &mut HttpSession,
    method: &str,
    path: &str,
    host: &str,
    fields: &[(&'static str, &str)],
    body: Option<Bytes>,
) -> Result<(), Failure> {
    let mut request = RequestHeader::build(method, path.as_bytes(), None)?;
    match session.as_http2() {
        Some(_) => request.set_uri(target("https", host, path)?), // as pingora has it
        None => request.insert_header(header::HOST, host)?,
    }
    request.insert_header(header::USER_AGENT, "seawall-health")?;
    for (name, value) in fields {
        request.insert_header(*name, *value)?;
    }
    if let HttpSession::H2(session) = session {
        // Without a body the head ends the stream: a DATA frame of nothing would say until then that there may be one.
        session.write_request_header(Box::new(request), body.is_none())?;
        if let Some(body) = body {
            session.write_request_body(body, true).await?;
        }
        return Ok(());
    }
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    Ok(())
}

/// The head of the final response.
async fn head(session: &mut HttpSession) -> Result<(u16, HeaderMap), Failure> {
    for _ in 0..MAX_HEADS {
        session.read_response_header().await?;
        if let Some(head) = session.response_header().filter(|head| head.status.as_u16() >= 200) {
            return Ok((head.status.as_u16(), head.headers.clone()));
        }
    }
    Err(Failure::of("no final response"))
}

/// The first bytes of the body.
async fn read(session: &mut HttpSession) -> Result<BytesMut, Failure> {
    let mut all = BytesMut::new();
    while all.len() < MAX_BODY
        && let Some(piece) = session.read_response_body().await?
    {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// `HealthCheckRequest { service = 1 }` as a message of gRPC: not compressed, its length, and it.
fn request_of(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// `status = 1` of a `HealthCheckResponse`; 0 if it is left out. `None`: it is none.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (&[is_compressed, a, b, c, d], message) = framed.split_first_chunk::<5>()?;
    let message = message.get(..u32::from_be_bytes([a, b, c, d]) as usize)?;
    match message {
        _ if is_compressed != 0 => None,
        [] => Some(0),
        [0x08, status @ 0..=0x7f, ..] => Some((*status).into()),
        _ => None,
    }
}

/// What a status of gRPC's says that is not OK.
fn grpc_error(fields: &HeaderMap) -> Option<String> {
    let status = fields.get("grpc-status")?.to_str().ok()?;
    let message = fields.get("grpc-message").and_then(|message| message.to_str().ok()).unwrap_or_default();
    match status {
        "0" => None,
        "12" => Some("it has no service grpc.health.v1.Health".to_owned()),
        status => Some(format!("gRPC status {status} {message}").trim_end().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_grpcs_health_are_read_and_written() {
        assert_eq!(request_of("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(request_of("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(request_of(&"x".repeat(300)).len(), 5 + 3 + 300);
        for (framed, expected) in [
            (&[0, 0, 0, 0, 2, 0x08, 1][..], Some(1)),
            (&[0, 0, 0, 0, 2, 0x08, 2], Some(2)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[1, 0, 0, 0, 2, 0x08, 1], None),
            (&[0, 0, 0, 0, 9, 0x08, 1], None),
            (&[0, 0, 0, 0, 2, 0x12, 1], None),
            (&[0, 0], None),
            (&[0, 0xff, 0xff, 0xff, 0xff, 0x08, 1], None),
        ] {
            assert_eq!(serving_status(framed), expected, "{framed:?}");
        }
    }
}
