//! A response as both fronts write it: which head, how much of which body, and what is added to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::cache::coding;
use crate::cache::engine::Source;
use crate::cache::fill::{PrivateBody, Unread};
use crate::cache::flight::{FlightHead, FlightReader};
use crate::cache::head::Head;
use crate::cache::hold::Kept;
use crate::cache::object::{Content, DiskBody, FilePart, MOST_READ, Object};
use crate::cache::range::Span;
use crate::cache::respond::{self, Reply};
use crate::cache::slices::Answer;
use crate::cache::slices::{HeadOf, SliceReader};
use crate::cache::status::Report;
use crate::clock::Timestamp;
use crate::origin::connect::Connector;
use crate::origin::error::OriginError;
use crate::origin::exchange::Exchange;
use crate::origin::forward;
use crate::request::Fields;

/// A response to one request.
pub struct ClientResponse {
    head: HeadSource,
    pub reply: Reply,
    /// Of the whole body.
    length: Option<u64>,
    multipart: Option<Multipart>,
    pub age: Option<Duration>,
    /// The cache key, for who may see it.
    pub key: Option<String>,
    pub body: Body,
    /// Why there is nothing better, in an answer of the node's own; and more of it, for the log alone.
    why: Option<&'static str>,
    cause: Option<String>,
}

enum HeadSource {
    Object(Arc<Object>),
    /// An object in one of its codings, by number.
    Coded(Arc<Object>, usize),
    Flight(Arc<FlightHead>),
    Own(Box<Head>),
}

/// What the head says of a body in several parts (RFC 9110 section 14.6).
struct Multipart {
    content_type: HeaderValue,
    length: u64,
}

/// Where the body comes from, and which part of it is sent.
pub struct Body {
    pieces: Pieces,
    /// Bytes to leave out, then bytes to send.
    skip: u64,
    left: u64,
}

enum Pieces {
    Whole(Option<Bytes>),
    /// Of a multipart body, with what goes between them.
    Parts(VecDeque<Bytes>),
    Flight(FlightReader),
    /// Of something that is stored, or was.
    Stored(Arc<Object>, Option<Bytes>),
    /// From a place on; what is to be left out before it need not be read.
    Disk(Arc<dyn DiskBody>, u64),
    /// Likewise.
    Slices(Box<SliceReader>, u64),
    /// As the origin sends it, at the client's pace.
    Passed(Passing),
}

/// The body of an origin's answer while it is read.
struct Passing {
    /// `None`: it has ended, and the connection is given back.
    exchange: Option<Box<Exchange>>,
    connector: Arc<Connector>,
    /// Bytes that come at most.
    left: u64,
    trailers: Option<HeaderMap>,
}

impl Passing {
    fn new(exchange: Option<Box<Exchange>>, connector: Arc<Connector>) -> Self {
        Passing { exchange, connector, left: u64::MAX, trailers: None }
    }

    fn of(unread: Unread) -> Self {
        Passing { left: unread.left, ..Passing::new(Some(unread.exchange), unread.connector) }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        let Some(exchange) = &mut self.exchange else { return Ok(None) };
        let piece = exchange.read_body().await?;
        let length = piece.as_ref().map_or(0, Bytes::len) as u64;
        let Some(left) = self.left.checked_sub(length) else {
            let cause = "the body has more bytes than its head says".to_owned();
            return Err(OriginError::Broken { origin: exchange.origin.clone(), cause });
        };
        self.left = left;
        self.end_with(&piece).await;
        Ok(piece)
    }

    /// Gives the connection back if all has been read, before the client has the last piece: its next request may come at
    /// once, and should find it.
    async fn end_with(&mut self, piece: &Option<Bytes>) {
        if let Some(mut ended) = self.exchange.take_if(|exchange| piece.is_none() || exchange.is_over()) {
            self.trailers = ended.take_trailers();
            ended.release(&self.connector).await; // of HTTP/1.1 nothing is waited for
        }
    }
}

impl Pieces {
    fn of(content: &Content) -> Self {
        match content {
            Content::Memory(body) => Pieces::Whole(Some(body.clone())),
            Content::Disk(body) => Pieces::Disk(body.clone(), 0),
        }
    }
}

/// How the next piece of a body comes to be in memory.
pub enum Coming {
    /// It is there, whoever reads it.
    AtHand,
    /// It is read when it is asked for, and takes so many bytes at most.
    Read(usize),
    /// As that, but it may be long in coming.
    Awaited,
}

/// Fields of the whole response that a 304 has too (RFC 9110 section 15.4.5).
const NOT_MODIFIED_FIELDS: [HeaderName; 8] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::VARY,
    header::LAST_MODIFIED,
    // of an answer to this request alone
    header::SET_COOKIE,
];

impl ClientResponse {
    /// What a source answers to a request.
    pub fn new(answer: Answer, method: &Method, request: Fields<'_>, now: Timestamp) -> Self {
        // Of the first byte that is there; a part only gets requests that it answers.
        let mut offset = 0;
        let (head, length, age, pieces) = match answer {
            Answer::Whole(Source::Stored(object)) => {
                let age = Some(object.freshness.current_age(now));
                match coding::select(object.codings(), method, request) {
                    Some(number) => {
                        let body = object.codings()[number].body.clone();
                        let length = Some(body.len() as u64);
                        (HeadSource::Coded(object, number), length, age, Pieces::Whole(Some(body)))
                    }
                    None => {
                        let (length, pieces) = (Some(object.length()), Pieces::of(&object.content));
                        (HeadSource::Object(object), length, age, pieces)
                    }
                }
            }
            Answer::Whole(Source::Part(part)) => {
                let age = part.object.freshness.current_age(now);
                let pieces = Pieces::Whole(Some(part.body().clone()));
                offset = part.range.first;
                (HeadSource::Object(part.object.clone()), Some(part.range.total), Some(age), pieces)
            }
            Answer::Whole(Source::Stream(reader)) => {
                let age = reader.head.freshness.current_age(now);
                let age = Some(age).filter(|age| age.as_secs() > 0);
                let head = if reader.leads && !reader.head.own.is_empty() {
                    HeadSource::Own(Box::new(reader.head.head.with(&reader.head.own)))
                } else {
                    HeadSource::Flight(reader.head.clone())
                };
                (head, reader.head.length, age, Pieces::Flight(reader))
            }
            Answer::Slices(reader) => {
                let (age, length) = (reader.head.age(now), Some(reader.head.total()));
                let head = match &reader.head.source {
                    HeadOf::Object(object) => HeadSource::Object(object.clone()),
                    HeadOf::Flight(flight) => HeadSource::Flight(flight.clone()),
                    HeadOf::Own(own) => HeadSource::Own(Box::new(own.0.clone())),
                };
                (head, length, Some(age).filter(|age| age.as_secs() > 0), Pieces::Slices(reader, 0))
            }
            Answer::Whole(Source::Private(private)) => {
                let head = HeadSource::Own(Box::new(private.head));
                let pieces = match private.body {
                    PrivateBody::Kept(reader) => Pieces::Flight(reader),
                    PrivateBody::Passed(unread) => Pieces::Passed(Passing::of(unread)),
                    PrivateBody::Stored(object) => match &object.content {
                        Content::Memory(body) => Pieces::Stored(object.clone(), Some(body.clone())),
                        Content::Disk(body) => Pieces::Disk(body.clone(), 0),
                    },
                };
                (head, private.length, None, pieces)
            }
        };
        let reply = respond::respond(method, request, &head.get().selected(length));
        // Parts in any order need the whole body; of a running fill all of it is given instead.
        let (reply, pieces, multipart) = match (reply, pieces) {
            (Reply::Multiple { parts, total }, Pieces::Whole(Some(body))) => {
                let (pieces, multipart) = multipart(&parts, total, &body, head.get());
                (Reply::Multiple { parts, total }, Pieces::Parts(pieces), Some(multipart))
            }
            (Reply::Multiple { .. }, pieces) => (Reply::Full, pieces, None),
            (reply, pieces) => (reply, pieces, None),
        };
        let (skip, left) = match reply {
            _ if *method == Method::HEAD => (0, 0),
            Reply::Full | Reply::Multiple { .. } => (0, u64::MAX),
            Reply::Partial { first, last, .. } => (first.saturating_sub(offset), last - first + 1),
            Reply::NotModified | Reply::PreconditionFailed | Reply::RangeNotSatisfiable { .. } => (0, 0),
        };
        if let (Pieces::Flight(reader), Reply::Partial { first, last, total }) = (&pieces, &reply)
            && last - first >= total / 2
        {
            reader.flight().want(); // `bytes=0-`, as players ask
        }
        ClientResponse {
            head,
            reply,
            length,
            multipart,
            age,
            key: None,
            body: Body { pieces, skip, left },
            why: None,
            cause: None,
        }
    }

    /// An origin's answer to this very request, conditions and ranges included: there is nothing to be decided.
    /// `exchange`: `None`: it has no body.
    pub fn passed(
        (status, fields, exchange): (StatusCode, HeaderMap, Option<Box<Exchange>>),
        connector: Arc<Connector>,
        method: &Method,
    ) -> Self {
        let pieces = Pieces::Passed(Passing::new(exchange, connector));
        let length = fields.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let left = if *method == Method::HEAD { 0 } else { u64::MAX };
        ClientResponse {
            head: HeadSource::Own(Box::new(Head::passing(status, &fields))),
            reply: Reply::Full,
            length,
            multipart: None,
            age: None,
            key: None,
            body: Body { pieces, skip: 0, left },
            why: None,
            cause: None,
        }
    }

    /// A response of the node's own: a status and one line that says why.
    pub fn synthetic(status: StatusCode, why: &'static str, method: &Method, now: Timestamp) -> Self {
        let reason = status.canonical_reason().unwrap_or("Error");
        let body = format!("{} {reason}: {why}\n", status.as_u16());
        let response = Self::own(status, "text/plain; charset=utf-8", body, method, now);
        ClientResponse { why: Some(why), ..response }
    }

    /// The same, with what the log says of it.
    pub fn because(self, cause: String) -> Self {
        ClientResponse { cause: Some(cause), ..self }
    }

    /// What the log says of an answer of the node's own.
    pub fn take_cause(&mut self) -> Option<String> {
        self.cause.take().or_else(|| self.why.map(str::to_owned))
    }

    /// The same as a client of gRPC understands it: an answer of trailers only.
    pub fn in_grpc(self) -> Self {
        let Some(why) = self.why else { return self };
        let code = grpc_status(self.status());
        let mut fields = self.head().fields();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert("grpc-status", code.into());
        fields.insert("grpc-message", HeaderValue::from_static(why));
        ClientResponse {
            head: HeadSource::Own(Box::new(Head::private(StatusCode::OK, fields))),
            length: None,
            body: Body { pieces: Pieces::Whole(None), skip: 0, left: 0 },
            ..self
        }
    }

    /// A response of the node's own with a body of any type.
    pub fn own(status: StatusCode, content_type: &'static str, body: String, method: &Method, now: Timestamp) -> Self {
        let mut fields = HeaderMap::new();
        if let Ok(date) = HeaderValue::from_str(&now.http_date()) {
            fields.insert(header::DATE, date); // RFC 9110 section 6.6.1
        }
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let left = if *method == Method::HEAD { 0 } else { u64::MAX };
        ClientResponse {
            head: HeadSource::Own(Box::new(Head::private(status, fields))),
            reply: Reply::Full,
            length: Some(body.len() as u64),
            multipart: None,
            age: None,
            key: None,
            body: Body { pieces: Pieces::Whole(Some(body.into())), skip: 0, left },
            why: None,
            cause: None,
        }
    }

    pub fn head(&self) -> &Head {
        self.head.get()
    }

    /// What is kept in memory for it while the client is waited for.
    pub fn kept(&self) -> Kept {
        match (&self.body.pieces, &self.head) {
            (Pieces::Flight(reader), _) => Kept::Flight(reader.flight().clone()),
            (Pieces::Slices(reader, _), _) => reader.kept(),
            (Pieces::Stored(object, _), _) => Kept::Object(object.clone()),
            (Pieces::Disk(..) | Pieces::Passed(..), _) => Kept::Pieces,
            (_, HeadSource::Object(object) | HeadSource::Coded(object, _)) => Kept::Object(object.clone()),
            _ => Kept::Nothing,
        }
    }

    /// Lets go of all that is kept for it, when its head is written down and no body is to come.
    pub fn forget(&mut self) {
        self.head = HeadSource::Own(Box::new(Head::private(StatusCode::OK, HeaderMap::new())));
        self.body.pieces = Pieces::Whole(None);
    }

    /// Lets go of a large head that nobody else has, when it has gone.
    pub fn forget_head(&mut self) {
        if let HeadSource::Own(head) = &mut self.head
            && head.is_large()
        {
            **head = Head::private(head.status, HeaderMap::new());
        }
    }

    pub fn status(&self) -> StatusCode {
        match self.reply {
            Reply::Full => self.head().status,
            Reply::NotModified => StatusCode::NOT_MODIFIED,
            Reply::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Reply::Partial { .. } | Reply::Multiple { .. } => StatusCode::PARTIAL_CONTENT,
            Reply::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }

    /// The bytes that the body has, where that is known; `None` too where there is to be no such field.
    pub fn content_length(&self) -> Option<u64> {
        match self.reply {
            // RFC 9110 section 8.6: none in a 204; a 304 would have to state that of the 200.
            Reply::Full if self.head().status == StatusCode::NO_CONTENT => None,
            Reply::Full => self.length,
            Reply::NotModified => None,
            Reply::Multiple { .. } => self.multipart.as_ref().map(|multipart| multipart.length),
            Reply::Partial { first, last, .. } => Some(last - first + 1),
            Reply::PreconditionFailed | Reply::RangeNotSatisfiable { .. } => Some(0),
        }
    }

    /// Appends the value of `Cache-Status`.
    pub fn write_cache_status(&self, out: &mut String, report: &Report, node: &str) {
        report.write(out, node);
        if let Some(key) = &self.key {
            // A string of structured fields (RFC 9211 section 2.7): visible ASCII, quotes and backslashes escaped.
            out.push_str("; key=\"");
            for character in key.chars() {
                match character {
                    '"' | '\\' => out.extend(['\\', character]),
                    ' '..='~' => out.push(character),
                    _ => out.push(' '),
                }
            }
            out.push('"');
        }
    }

    pub fn content_range(&self) -> Option<String> {
        match self.reply {
            Reply::Partial { first, last, total } => Some(format!("bytes {first}-{last}/{total}")),
            Reply::RangeNotSatisfiable { total } => Some(format!("bytes */{total}")),
            _ => None,
        }
    }

    /// Whether this status and method have a body at all (RFC 9112 section 6.3).
    pub fn has_body(&self, method: &Method) -> bool {
        *method != Method::HEAD && !matches!(self.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// The fields to send where they are not those of the whole response.
    pub fn selected_fields(&self) -> HeaderMap {
        let kept: &[HeaderName] = match self.reply {
            Reply::Full | Reply::Partial { .. } | Reply::Multiple { .. } => {
                let mut fields = self.head().fields();
                if !matches!(self.reply, Reply::Full) {
                    fields.remove(header::CONTENT_RANGE); // of a whole response it means nothing; this has its own
                }
                if let Some(multipart) = &self.multipart {
                    fields.insert(header::CONTENT_TYPE, multipart.content_type.clone());
                }
                return fields;
            }
            Reply::NotModified => &NOT_MODIFIED_FIELDS,
            Reply::PreconditionFailed | Reply::RangeNotSatisfiable { .. } => &[header::DATE],
        };
        let mut fields = HeaderMap::new();
        let all = self.head().fields();
        for name in kept {
            for value in all.get_all(name) {
                fields.append(name.clone(), value.clone());
            }
        }
        fields
    }
}

/// The status of gRPC for one of HTTP (the protocol's `http-grpc-status-mapping`, and what it leaves out).
fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 13,                                 // INTERNAL
        StatusCode::UNAUTHORIZED => 16,                                // UNAUTHENTICATED
        StatusCode::FORBIDDEN => 7,                                    // PERMISSION_DENIED
        StatusCode::NOT_FOUND => 12,                                   // UNIMPLEMENTED
        StatusCode::PAYLOAD_TOO_LARGE => 8,                            // RESOURCE_EXHAUSTED
        StatusCode::REQUEST_TIMEOUT => 1,                              // CANCELLED
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY => 14, // UNAVAILABLE
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => 14,
        _ => 2, // UNKNOWN
    }
}

impl HeadSource {
    fn get(&self) -> &Head {
        match self {
            HeadSource::Object(object) => &object.head,
            HeadSource::Coded(object, number) => &object.codings()[*number].head,
            HeadSource::Flight(flight) => &flight.head,
            HeadSource::Own(head) => head,
        }
    }
}

impl Body {
    /// The whole of what is to be sent, if it is there in one piece: the case of a memory hit.
    pub fn whole(&mut self) -> Option<Bytes> {
        let Pieces::Whole(body) = &mut self.pieces else { return None };
        let body = body.take().unwrap_or_default();
        Some(cut(body, &mut self.skip, &mut self.left))
    }

    /// A part of a file, if that is what comes next and may be sent as it is now. What was sent of it is to be
    /// [`Body::skip_sent`].
    pub fn file_part(&self) -> Option<FilePart> {
        let Pieces::Disk(body, at) = &self.pieces else { return None };
        body.part(*at + self.skip, self.left)
    }

    /// Goes on behind what was sent of a [`Body::file_part`].
    pub fn skip_sent(&mut self, sent: u64) {
        if let Pieces::Disk(_, at) = &mut self.pieces {
            *at += std::mem::take(&mut self.skip) + sent;
            self.left -= sent.min(self.left);
        }
    }

    /// How the next piece comes to be in memory.
    pub fn coming(&self) -> Coming {
        match &self.pieces {
            // While it is there whoever reads it, it is counted by whoever keeps it.
            Pieces::Flight(reader) if !reader.flight().keeps_all() => Coming::Awaited,
            Pieces::Slices(reader, _) if reader.is_passed_on() => Coming::Awaited,
            Pieces::Whole(_) | Pieces::Parts(_) | Pieces::Stored(..) | Pieces::Flight(_) | Pieces::Slices(..) => {
                Coming::AtHand
            }
            // At its end there is nothing that would need room.
            Pieces::Disk(body, at) if self.left == 0 || *at + self.skip >= body.length() => Coming::AtHand,
            Pieces::Disk(..) => Coming::Read(MOST_READ),
            Pieces::Passed(..) => Coming::Awaited,
        }
    }

    /// Whether nothing is to come: the origin has said so with the head.
    pub fn is_over(&self) -> bool {
        matches!(&self.pieces, Pieces::Passed(Passing { exchange: None, .. }) | Pieces::Whole(None))
    }

    /// Whether some of the request is still to be sent.
    pub fn is_sending(&self) -> bool {
        matches!(&self.pieces, Pieces::Passed(Passing { exchange: Some(exchange), .. }) if exchange.is_sending())
    }

    /// Sends what is there of the request.
    pub fn send_on(&mut self, cx: &mut Context<'_>) {
        if let Pieces::Passed(Passing { exchange: Some(exchange), .. }) = &mut self.pieces {
            exchange.send_on(cx);
        }
    }

    /// The next piece of an origin's answer while the request is still sent. After it, [`Body::have_read`] is to be called.
    pub fn poll_next_while_sending(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        match &mut self.pieces {
            Pieces::Passed(Passing { exchange: Some(exchange), .. }) => exchange.poll_body(cx),
            _ => Poll::Ready(Ok(None)),
        }
    }

    /// A piece was read by itself.
    pub async fn have_read(&mut self, piece: &Option<Bytes>) {
        if let Pieces::Passed(passing) = &mut self.pieces {
            passing.end_with(piece).await;
        }
    }

    /// The trailers of a body that has been read to its end.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.pieces {
            Pieces::Passed(passing) => passing.trailers.take().map(|mut trailers| {
                forward::exclude_from_trailers(&mut trailers);
                trailers
            }),
            _ => None,
        }
    }

    /// The next piece to be sent; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        while self.left > 0 {
            let piece = match &mut self.pieces {
                Pieces::Whole(body) | Pieces::Stored(_, body) => body.take(),
                Pieces::Parts(parts) => parts.pop_front(),
                Pieces::Flight(reader) => reader.next().await?,
                Pieces::Slices(reader, at) => {
                    *at += std::mem::take(&mut self.skip);
                    // Boxed: large, and few bodies are in slices.
                    Box::pin(reader.read(*at)).await?.inspect(|piece| *at += piece.len() as u64)
                }
                Pieces::Disk(body, at) => {
                    *at += std::mem::take(&mut self.skip);
                    match *at < body.length() {
                        true => Some(body.clone().read(*at).await.map_err(OriginError::stored_body_lost)?)
                            .inspect(|piece| *at += piece.len() as u64),
                        false => None,
                    }
                }
                Pieces::Passed(passing) => passing.next().await?,
            };
            let Some(piece) = piece else { return Ok(None) };
            let piece = cut(piece, &mut self.skip, &mut self.left);
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

/// The parts of a multipart body, as slices of the whole one with a head for each.
fn multipart(parts: &[Span], total: u64, body: &Bytes, head: &Head) -> (VecDeque<Bytes>, Multipart) {
    let boundary = format!("{:032x}", fastrand::u128(..));
    let content_type = head.get(&header::CONTENT_TYPE);
    let mut pieces = VecDeque::with_capacity(parts.len() * 2 + 1);
    for Span { first, last } in parts {
        let mut between = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some(content_type) = content_type {
            between.extend_from_slice(b"Content-Type: ");
            between.extend_from_slice(content_type);
            between.extend_from_slice(b"\r\n");
        }
        between.extend_from_slice(format!("Content-Range: bytes {first}-{last}/{total}\r\n\r\n").as_bytes());
        pieces.push_back(between.into());
        pieces.push_back(body.slice(*first as usize..=*last as usize)); // within the body, which is in memory
    }
    pieces.push_back(format!("\r\n--{boundary}--\r\n").into());
    let length = pieces.iter().map(|piece| piece.len() as u64).sum();
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    let content_type = HeaderValue::try_from(content_type).unwrap_or(HeaderValue::from_static("multipart/byteranges"));
    (pieces, Multipart { content_type, length })
}

/// The part of a piece that lies in the window.
fn cut(mut piece: Bytes, skip: &mut u64, left: &mut u64) -> Bytes {
    let skipped = piece.len().min(usize::try_from(*skip).unwrap_or(usize::MAX));
    bytes::Buf::advance(&mut piece, skipped);
    *skip -= skipped as u64;
    piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= piece.len() as u64;
    piece
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_cut_from_pieces_wherever_they_end() {
        let whole = b"0123456789";
        for size in 1..=10 {
            for first in 0..10_u64 {
                for last in first..10 {
                    let (mut skip, mut left) = (first, last - first + 1);
                    let pieces = whole.chunks(size).map(|piece| cut(Bytes::from_static(piece), &mut skip, &mut left));
                    let sent: Vec<u8> = pieces.flatten().collect();
                    assert_eq!(sent, &whole[first as usize..=last as usize], "{size} {first} {last}");
                }
            }
        }
    }

    #[test]
    fn an_answer_of_the_nodes_own_is_honest_and_not_stored() {
        let mut response =
            ClientResponse::synthetic(StatusCode::BAD_GATEWAY, "no answer", &Method::GET, Timestamp::from_secs(0));
        assert_eq!(response.head().fields()[header::CACHE_CONTROL], "no-store");
        assert_eq!(response.content_length(), Some(27));
        assert_eq!(response.body.whole().unwrap(), "502 Bad Gateway: no answer\n");
    }
}
