//! The task of a request that was not answered where it was read: it decides, and gives the answer to its stream.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use crate::cache::hold::{BEHIND, Hold, Kept};
use crate::cache::status::Report;
use crate::cache::stored::Cache;
use crate::cache::waiting::Held;
use crate::clock::Timestamp;
use crate::config::model::Limits;
use crate::fields::remove_hop_by_hop;
use crate::origin::interims::Interims;

use super::super::body::Coming;
use super::super::head::{BodyFraming, Endpoints};
use super::super::reply::ClientResponse;
use super::super::serve::{self, Decision, Incoming, Request, Sent, Shared};
use super::handle::Handle;
use super::head::Parsed;
use super::hpack::{self, Section};
use super::stream::Gone;
use super::wire::Reason;

/// A request that a task is to answer. Its head was checked.
pub(super) struct Task {
    pub section: Section,
    pub body: BodyFraming,
    pub endpoints: Endpoints,
    pub shared: Arc<Shared>,
    pub limits: Limits,
    pub times: (Timestamp, Instant),
}

/// Answers a request. Whatever happens, the stream ends: by its answer, or by a reset.
pub(super) async fn answer(task: Task, mut stream: Handle) {
    let shared = &task.shared;
    let snapshot = shared.snapshot.load_full();
    let Ok(parsed) = Parsed::of(&task.section) else { return };
    let Ok(head) = parsed.head(task.body == BodyFraming::None, &task.limits) else { return };
    let request = Request::begun(shared, &snapshot, head.view(task.endpoints), task.times);
    let view = &request.view;
    let mut key = String::new();
    let interims: Arc<Interims> = Arc::default();
    let body = (!head.body.is_empty()).then(|| {
        let expects = head.expects_continue.then(|| interims.clone());
        Incoming { body: stream.body(), length: head.body.length(), expects }
    });
    // What may change something comes to its end though its client leaves: somebody has to know what to forget. Calls by
    // gRPC are cancelled, by their protocol.
    let may_be_left = view.method.is_safe() || view.is_grpc();
    let decision = {
        let mut deciding = std::pin::pin!(request.decide(&mut key, body, Some(interims.clone())));
        loop {
            let decided = tokio::select! {
                biased;
                decided = serve::step(&mut deciding, &interims) => decided,
                _ = stream.gone(), if may_be_left => return request.record_left(),
            };
            while let Some((status, mut fields)) = interims.take() {
                remove_hop_by_hop(&mut fields);
                stream.send_section(section_of(Some(status), &fields), false);
            }
            if let Some(decision) = decided {
                break decision;
            }
        }
    };
    match decision {
        Decision::Respond { response, report, site } => {
            let mut response = if view.is_grpc() { response.in_grpc() } else { response };
            let sent = write(&mut stream, &request, &mut response, report.as_ref()).await;
            request.record(site, report.as_ref(), &sent);
        }
        // Never planned for HTTP/2, which has no Upgrade.
        Decision::Tunnel { .. } => stream.reset(Reason::InternalError),
    }
}

/// Why a body could not be sent.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Enters what is held while the client takes a piece.
async fn hold(stream: &mut Handle, cache: &Cache, kept: &Kept, piece: usize) -> Result<Option<Held>, Gone> {
    match cache.hold(kept, piece, stream.waiter()) {
        Hold::Nothing => Ok(None),
        Hold::Entered(body) => Ok(Some(body)),
        Hold::InHand(bytes) => stream.hold_in_hand(bytes).await.map(Some),
        Hold::Ahead(_) => {
            // Meanwhile it may be stored, and then it is held as that: it must not wait for room that it takes itself.
            let ask = |stream: &Handle| match cache.hold(kept, piece, stream.waiter()) {
                Hold::Entered(body) => Some(body),
                Hold::Ahead(bytes) | Hold::InHand(bytes) => stream.hold_at_once(bytes),
                Hold::Nothing => stream.hold_at_once(piece),
            };
            stream.hold_once(ask).await.map(Some)
        }
    }
}

/// The next piece of a body, with the room that it takes until the client has it. Nothing is read before there is room.
async fn next(
    stream: &mut Handle,
    cache: &Cache,
    response: &mut ClientResponse,
) -> Result<Option<(Bytes, Option<Held>)>, Failure> {
    let (piece, held) = match response.body.coming() {
        Coming::AtHand => {
            let piece = tokio::select! {
                biased;
                piece = response.body.next() => piece?,
                gone = stream.gone() => return Err(gone.into()),
            };
            // At the end there is nothing that would need room.
            let Some(piece) = piece else { return Ok(None) };
            let held = hold(stream, cache, &response.kept(), piece.len()).await?;
            (Some(piece), held)
        }
        Coming::Read(most) => {
            let held = stream.hold_ahead(most).await?;
            (response.body.next().await?, Some(held))
        }
        // Both ways at once: where there is no room for what the origin says, it is still told what the client says.
        Coming::Awaited if response.body.is_sending() => {
            let body = &mut response.body;
            let read = |cx: &mut Context<'_>, may: bool| match may {
                true => body.poll_passed(cx),
                false => {
                    body.send_on(cx);
                    Poll::Pending
                }
            };
            let (piece, held) = stream.with_room(BEHIND + BEHIND, read).await?;
            let piece = piece?;
            response.body.have_read(&piece).await;
            (piece, Some(held))
        }
        Coming::Awaited => {
            let mut reading = std::pin::pin!(response.body.next());
            let read = |cx: &mut Context<'_>, may: bool| if may { reading.as_mut().poll(cx) } else { Poll::Pending };
            let (piece, held) = stream.with_room(BEHIND + BEHIND, read).await?;
            (piece?, Some(held))
        }
    };
    Ok(piece.map(|piece| (piece, held)))
}

/// Writes a response to the stream. An error resets it, so that no client takes a part for the whole.
async fn write(
    stream: &mut Handle,
    request: &Request<'_>,
    response: &mut ClientResponse,
    report: Option<&Report>,
) -> Sent {
    let mut sent = Sent { status: response.status(), bytes: 0, error: None, why: response.take_cause() };
    if let Err(error) = write_parts(stream, request, response, report).await {
        sent.error = Some(error.to_string());
        stream.reset(Reason::InternalError);
    }
    sent.bytes = stream.bytes_sent();
    sent
}

async fn write_parts(
    stream: &mut Handle,
    request: &Request<'_>,
    response: &mut ClientResponse,
    report: Option<&Report>,
) -> Result<(), Failure> {
    let mut section = BytesMut::new();
    write_section(&mut section, &mut String::new(), response, report, &request.snapshot.config.node.name);
    let head = stream.keep_head(section.len())?;
    if !response.has_body(request.view.method) || response.body.is_over() {
        stream.send_section(section, true);
        response.forget(); // a HEAD or a 304 needs nothing of what it is of
        return Ok(stream.sent().await?);
    }
    stream.send_section(section, false);
    if let Some(head) = head {
        stream.sent().await?;
        response.forget_head();
        drop(head);
    }
    let kept = response.kept();
    if let Some(body) = response.body.whole() {
        let held = hold(stream, &request.shared.engine.cache, &kept, body.len()).await?;
        return Ok(stream.send_held(body, true, held).await?);
    }
    let mut length = 0;
    while let Some((piece, held)) = next(stream, &request.shared.engine.cache, response).await? {
        length += piece.len() as u64;
        // A client may take nothing before it has been heard.
        let mut sending = std::pin::pin!(stream.send_held(piece, false, held));
        let sent = poll_fn(|cx| {
            let sent = sending.as_mut().poll(cx);
            if sent.is_pending() {
                response.body.send_on(cx);
            }
            sent
        });
        sent.await?;
    }
    if response.content_length().is_some_and(|stated| stated != length) {
        return Err("the body is not as long as its head says".into());
    }
    let Some(trailers) = response.take_trailers().filter(|trailers| !trailers.is_empty()) else {
        return Ok(stream.send(Bytes::new(), true).await?);
    };
    stream.send_section(section_of(None, &trailers), true);
    Ok(stream.sent().await?)
}

/// Appends the field section of a response: what is stored, and what each answer gets anew. `scratch`: a buffer that is
/// reused.
pub(super) fn write_section(
    out: &mut BytesMut,
    scratch: &mut String,
    response: &ClientResponse,
    report: Option<&Report>,
    node: &str,
) {
    hpack::put_no_table(out); // any may be the connection's first
    hpack::put_status(out, response.status().as_u16());
    response.for_each_field(|name, value| hpack::put_field(out, name.as_bytes(), value));
    let mut number = itoa::Buffer::new();
    if let Some(length) = response.content_length() {
        hpack::put_field(out, b"content-length", number.format(length).as_bytes());
    }
    if let Some(age) = response.age {
        hpack::put_field(out, b"age", number.format(age.as_secs()).as_bytes());
    }
    if let Some(range) = response.content_range() {
        hpack::put_field(out, b"content-range", range.as_bytes());
    }
    if let Some(report) = report {
        scratch.clear();
        scratch.push_str("1.1 ");
        scratch.push_str(node);
        hpack::put_field(out, b"via", scratch.as_bytes());
        scratch.clear();
        response.write_cache_status(scratch, report, node);
        hpack::put_field(out, b"cache-status", scratch.as_bytes());
    }
}

/// Appends all fields of a map.
fn put_map(out: &mut BytesMut, fields: &HeaderMap) {
    for (name, value) in fields {
        hpack::put_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// A section of its own: an interim response, or trailers.
fn section_of(status: Option<StatusCode>, fields: &HeaderMap) -> BytesMut {
    let mut out = BytesMut::new();
    hpack::put_no_table(&mut out);
    if let Some(status) = status {
        hpack::put_status(&mut out, status.as_u16());
    }
    put_map(&mut out, fields);
    out
}
