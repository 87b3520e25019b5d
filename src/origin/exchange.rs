//! One exchange with an origin: a request is sent, its body as it comes, and a response read, its body at the caller's pace.
//! Both go on at once. After a 101 the connection is taken as it is.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_http::RequestHeader;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::Timestamp;
use crate::config::model::{Pool, PoolId};

use super::connect::{Connector, OriginError, set_authority};
use super::forward;
use super::h1::{self, OriginStream};
use super::h2;
use super::interims::Interims;
use super::link::{Link, LinkError, ResponseHead};
use super::pool::{FailedStage, Picked, PoolRuntime};
use super::state::ActiveGuard;
use super::upload::{BodyError, Upload, UploadError};

/// Interim responses (1xx) before the final one.
const MAX_INTERIM: usize = 8;

/// The request that is sent; every attempt sends the same.
pub struct OriginRequest {
    pub method: Method,
    pub path_and_query: String,
    /// The client's `Host`, unless the pool has one of its own.
    pub authority: String,
    /// Without what frames the body.
    pub fields: HeaderMap,
    pub pool: PoolId,
    /// For pools that balance by hash.
    pub hash: u64,
    /// The protocol to change to (RFC 9110 section 7.8).
    pub upgrade: Option<HeaderValue>,
    /// The client takes trailers.
    pub takes_trailers: bool,
    /// How long nothing may come of the response's body, instead of the pool's `read_timeout`.
    pub silence: Option<Silence>,
    /// Who is told of interim responses, if anybody.
    pub interims: Option<Arc<Interims>>,
}

/// How long a response may be silent that is a stream of events or messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// So long.
    Of(Duration),
    /// As long as the connection is known to live.
    WhileAlive,
}

/// A response whose head has come and whose body is to be read. Boxed as soon as it is there: it is large, and goes from hand
/// to hand.
pub struct Exchange {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub origin: Arc<str>,
    pub request_time: Timestamp,
    by: By,
    /// Where the connection is to.
    pool: Arc<PoolRuntime>,
    index: usize,
    address: SocketAddr,
    /// What is still to be sent of the request.
    upload: Option<Box<Upload>>,
    /// The request does not go to its end: the origin has answered, or the client has failed to send it.
    is_cut: bool,
    broken: Option<BodyError>,
    /// How long nothing may come of the body.
    patience: Option<Duration>,
    waits: Option<Waits>,
    _active: ActiveGuard,
}

/// A wait for more of a body.
struct Waits {
    /// What the request had come to when it began.
    steps: u64,
    over: Pin<Box<Sleep>>,
}

/// How the origin is spoken to. Boxed for as long as the connection lives: it goes from hand to hand, too.
pub(super) enum By {
    H1(Box<h1::Connection>),
    H2(Box<h2::Stream>),
}

impl By {
    fn link(&mut self) -> &mut dyn Link {
        match self {
            By::H1(connection) => &mut **connection,
            By::H2(stream) => &mut **stream,
        }
    }
}

/// Why an attempt brought no response.
pub(super) struct Failure {
    pub error: OriginError,
    pub kind: FailureKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// Before anything was sent.
    Connect(FailedStage),
    /// The origin may simply have closed a connection that lay idle: nobody has seen anything of the request.
    DeadConnection,
    /// The origin says that it has not processed the request.
    Unprocessed,
    NeedsHttp11,
    /// Nothing came in time.
    TimedOut,
    /// Something else happened before there was a head.
    Broken,
    /// The request came to no end.
    Client,
}

/// How an attempt is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// Of all attempts together.
    pub deadline: Instant,
    /// By a connection that was kept, if there is one.
    pub may_be_kept: bool,
    /// The origin has asked for that.
    pub by_http11: bool,
}

/// Sends a request to an origin and reads the head of its response. `upload`: the request's body; of what is not sent when
/// the head is there, the exchange takes care.
pub(super) async fn attempt(
    connector: &Connector,
    request: &OriginRequest,
    upload: &mut Option<Box<Upload>>,
    picked: Picked,
    how: Attempt,
) -> Result<Box<Exchange>, Failure> {
    let timeouts = picked.pool.config.timeouts.clone();
    let name = picked.origin.address.clone();
    let request_time = Timestamp::now();
    let (mut by, kept) = connector.open(request, upload.as_deref(), &picked, how).await?;
    picked.origin.connected(picked.address);
    let Picked { pool, origin, index, address, active } = picked;
    let alive = matches!(by, By::H2(_)); // pinged
    if let By::H1(connection) = &mut by {
        let chunked = upload.as_ref().is_some_and(|upload| upload.length().is_none());
        connection.begin(request.wire_head(pool.config.host.as_deref(), upload.as_deref()), chunked);
    }
    if let Some(upload) = upload {
        // What HTTP/2 can say that it has not processed, may be sent again whatever the method.
        upload.begin(timeouts.write, alive || request.method.is_idempotent());
        if alive {
            upload.go_on(); // its interim responses are not to be had from pingora
        }
    }
    let sending = Sending { request, upload, is_sending: true, error: None, interim: 0 };
    let read = request.patience(None, alive).unwrap_or(Some(timeouts.read));
    match sending.head(by.link(), timeouts.write, read, how.deadline).await {
        Ok(head) => {
            if how.by_http11 {
                origin.remember_http11();
            }
            let patience = request.patience(Some(&head.fields), alive).unwrap_or(Some(timeouts.read));
            let ResponseHead { status, fields } = head;
            let is_cut = upload.as_ref().is_some_and(|upload| !upload.is_done());
            Ok(Box::new(Exchange {
                status,
                fields,
                origin: name,
                request_time,
                by,
                pool,
                index,
                address,
                upload: None,
                is_cut,
                broken: None,
                patience,
                waits: None,
                _active: active,
            }))
        }
        Err(HeadError::Client(error)) => Err(Failure { error: error.into(), kind: FailureKind::Client }),
        Err(HeadError::Link(error)) => {
            let kind = match &error {
                LinkError::NeedsHttp11 => FailureKind::NeedsHttp11,
                LinkError::Unprocessed(_) => FailureKind::Unprocessed,
                LinkError::Timeout(_) => FailureKind::TimedOut,
                LinkError::Io(_) | LinkError::Closed if kept && by.link().has_heard_nothing() => {
                    FailureKind::DeadConnection
                }
                _ => FailureKind::Broken,
            };
            if kept && !alive {
                pool.kept.forget(address);
            }
            Err(Failure { error: OriginError::from_link(&error, &name), kind })
        }
    }
}

/// A request on its way, until the head of its response is there.
struct Sending<'a> {
    request: &'a OriginRequest,
    upload: &'a mut Option<Box<Upload>>,
    is_sending: bool,
    /// The origin takes no more; it may have answered.
    error: Option<LinkError>,
    interim: usize,
}

enum HeadError {
    Client(BodyError),
    Link(LinkError),
}

impl Sending<'_> {
    /// The head of the final response. What is sent has `write`, what is then waited for `read`; an upload has deadlines of
    /// its own, and is no part of the whole that has until `deadline`.
    async fn head(
        mut self,
        link: &mut dyn Link,
        write: Duration,
        read: Option<Duration>,
        deadline: Instant,
    ) -> Result<ResponseHead, HeadError> {
        let whole = self.upload.is_none().then_some(deadline);
        let by = |now: Instant, patience: Option<Duration>| {
            let by = now + patience.unwrap_or(FOREVER);
            whole.map_or(by, |whole| by.min(whole))
        };
        let began = Instant::now();
        let mut over = pin!(sleep_until(by(began, Some(write))));
        let mut first = Some(began); // most requests are sent as soon as they begin: the clock is asked once for both
        std::future::poll_fn(|cx| {
            let began = first.take();
            loop {
                if self.is_sending {
                    match self.poll_send(cx, link) {
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(HeadError::Client(error))),
                        Poll::Ready(Ok(())) => {
                            self.is_sending = false;
                            over.as_mut().reset(by(began.unwrap_or_else(Instant::now), read));
                        }
                        Poll::Pending => {}
                    }
                }
                match link.poll_head(cx, &self.request.method) {
                    Poll::Ready(Ok(head)) => {
                        if self.is_final(&head).map_err(HeadError::Link)? {
                            return Poll::Ready(Ok(head));
                        }
                        if !self.is_sending {
                            over.as_mut().reset(by(Instant::now(), read));
                        }
                    }
                    // That the origin has not processed it says more than that it took no more.
                    Poll::Ready(Err(error @ (LinkError::Unprocessed(_) | LinkError::NeedsHttp11))) => {
                        return Poll::Ready(Err(HeadError::Link(error)));
                    }
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(HeadError::Link(self.error.take().unwrap_or(error))));
                    }
                    Poll::Pending if matches!(self.error, Some(LinkError::Timeout(_))) => {
                        return Poll::Ready(Err(HeadError::Link(LinkError::Timeout(TAKES_NOTHING))));
                    }
                    Poll::Pending if self.is_sending && self.upload.is_some() => return Poll::Pending,
                    Poll::Pending => {
                        ready!(over.as_mut().poll(cx));
                        let why = match (whole, self.is_sending) {
                            (Some(whole), _) if Instant::now() >= whole => "the pool's total_timeout is over",
                            (_, true) => TAKES_NOTHING,
                            (_, false) => "no response head in time",
                        };
                        return Poll::Ready(Err(HeadError::Link(LinkError::Timeout(why))));
                    }
                }
            }
        })
        .await
    }

    /// Sends what is there. Ready when there is nothing more to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>, link: &mut dyn Link) -> Poll<Result<(), BodyError>> {
        let sent = match &mut *self.upload {
            Some(upload) => ready!(upload.poll(cx, link)),
            None => ready!(link.poll_gone(cx)).map_err(UploadError::Origin),
        };
        match sent {
            Ok(()) => {}
            Err(UploadError::Client(error)) => return Poll::Ready(Err(error)),
            Err(UploadError::Origin(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
                self.error = Some(LinkError::Timeout(TAKES_NOTHING));
            }
            Err(UploadError::Origin(error)) => self.error = Some(LinkError::Io(error)),
        }
        Poll::Ready(Ok(()))
    }

    /// Whether a head is that of the response; an interim one is passed on.
    fn is_final(&mut self, head: &ResponseHead) -> Result<bool, LinkError> {
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS if self.request.upgrade.is_some() => Ok(true),
            // After a 101 that nobody asked for the origin speaks what nobody understands.
            StatusCode::SWITCHING_PROTOCOLS => Err("a 101 to a request that asks for no other protocol".into()),
            StatusCode::NOT_MODIFIED if !forward::is_conditional(&self.request.fields) => {
                Err("a 304 to a request without a condition".into()) // RFC 9110 section 15.4.5
            }
            status if !status.is_informational() => Ok(true),
            _ if self.interim == MAX_INTERIM => Err("too many interim responses".into()),
            StatusCode::CONTINUE => {
                self.interim += 1;
                self.upload.iter_mut().for_each(|upload| upload.go_on());
                Ok(false)
            }
            status => {
                self.interim += 1;
                if let Some(interims) = &self.request.interims {
                    let mut fields = head.fields.clone();
                    fields.remove(header::CONTENT_LENGTH); // RFC 9110 section 8.6
                    interims.push(status, fields);
                }
                Ok(false)
            }
        }
    }
}

/// Longer than anything lasts.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);

const TAKES_NOTHING: &str = "it took too long to take the request";

impl OriginRequest {
    /// How long nothing may come of the head, or of a body whose head has these fields, where that is not the pool's
    /// `read_timeout`. `alive`: the connection shows by itself that it lives.
    fn patience(&self, fields: Option<&HeaderMap>, alive: bool) -> Option<Option<Duration>> {
        match self.silence {
            Some(Silence::Of(patience)) => Some(Some(patience)),
            Some(Silence::WhileAlive) if alive => Some(None),
            None if alive && fields.is_some_and(is_event_stream) => Some(None),
            _ => None,
        }
    }

    /// The fields but for `Host`, which is said once.
    fn other_fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields.iter().filter(|(name, _)| **name != header::HOST)
    }

    /// The request's head in pingora's terms, for HTTP/2.
    pub(super) fn head(&self, pool: &Pool, upload: Option<&Upload>) -> pingora_core::Result<RequestHeader> {
        let path = self.path_and_query.as_bytes();
        let mut head = RequestHeader::build(self.method.clone(), path, Some(self.fields.len() + 3))?;
        let scheme = if pool.tls.is_some() { "https" } else { "http" };
        set_authority(&mut head, scheme, pool.host.as_deref().unwrap_or(&self.authority), &self.path_and_query)?;
        for (name, value) in self.other_fields() {
            head.append_header(name.clone(), value.clone())?;
        }
        if let Some(length) = self.stated_length(upload) {
            head.insert_header(header::CONTENT_LENGTH, length)?;
        }
        if self.takes_trailers {
            head.insert_header(header::TE, "trailers")?;
        }
        Ok(head)
    }

    /// The request's head as HTTP/1.1 bytes: one `Host`, and one statement of the body's length at most.
    pub fn wire_head(&self, host: Option<&str>, upload: Option<&Upload>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        put(&[self.method.as_str().as_bytes(), b" ", self.path_and_query.as_bytes(), b" HTTP/1.1\r\nHost: "]);
        put(&[host.unwrap_or(&self.authority).as_bytes(), b"\r\n"]);
        for (name, value) in self.other_fields() {
            put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
        match (self.stated_length(upload), upload) {
            (Some(length), _) => {
                put(&[b"Content-Length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
            }
            (None, Some(_)) => put(&[b"Transfer-Encoding: chunked\r\n"]),
            (None, None) => {}
        }
        if upload.is_some_and(Upload::expects_continue) {
            put(&[b"Expect: 100-continue\r\n"]);
        }
        match &self.upgrade {
            Some(protocol) => put(&[b"Connection: upgrade\r\nUpgrade: ", protocol.as_bytes(), b"\r\n"]),
            None if self.takes_trailers => put(&[b"Connection: TE\r\nTE: trailers\r\n"]),
            None => {}
        }
        put(&[b"\r\n"]);
        out
    }

    /// What `Content-Length` says. Methods that are made for a body say so if there is none (RFC 9110 section 8.6).
    fn stated_length(&self, upload: Option<&Upload>) -> Option<u64> {
        match upload {
            Some(upload) => upload.length(),
            None => matches!(self.method, Method::POST | Method::PUT | Method::PATCH).then_some(0),
        }
    }
}

fn is_event_stream(fields: &HeaderMap) -> bool {
    fields.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

impl Exchange {
    /// The length the head states, if it states one.
    pub fn content_length(&self) -> Option<u64> {
        let value = self.fields.get(header::CONTENT_LENGTH)?;
        value.to_str().ok()?.trim().parse().ok()
    }

    /// The next piece of the body; `None` when it ended as it should.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, OriginError> {
        std::future::poll_fn(|cx| self.poll_body(cx)).await
    }

    /// The same. What is left of the request is sent meanwhile.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        self.send_on(cx);
        if let Some(error) = self.broken {
            return Poll::Ready(Err(error.into()));
        }
        let fail = |error: &LinkError, origin| Poll::Ready(Err(OriginError::from_link(error, origin)));
        match self.by.link().poll_body(cx) {
            Poll::Ready(Ok(piece)) => {
                self.waits = None;
                return Poll::Ready(Ok(piece));
            }
            Poll::Ready(Err(error)) => return fail(&error, &self.origin),
            Poll::Pending => {}
        }
        let Some(patience) = self.patience else { return Poll::Pending };
        // An origin may have nothing to say as long as the request goes on.
        let steps = self.upload.as_ref().map_or(0, |upload| upload.steps());
        if self.waits.as_ref().is_none_or(|waits| waits.steps != steps) {
            self.waits = Some(Waits { steps, over: Box::pin(tokio::time::sleep(patience)) });
        }
        let Some(waits) = &mut self.waits else { return Poll::Pending };
        ready!(waits.over.as_mut().poll(cx));
        fail(&LinkError::Timeout("nothing came of the body for too long"), &self.origin)
    }

    /// The trailers of a body that has been read to its end.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.by.link().take_trailers()
    }

    /// The answer is the one that the client gets: the rest of its request goes on to this origin.
    pub(super) fn settle(&mut self, upload: Option<Box<Upload>>) {
        if let Some(mut upload) = upload.filter(|upload| !upload.is_done() && !upload.expects_continue()) {
            upload.settle();
            (self.upload, self.is_cut) = (Some(upload), false);
        }
    }

    /// Sends what is there of the request. Whoever waits for something else than the response's body calls it, too: a client
    /// may take no answer before it has been heard.
    pub fn send_on(&mut self, cx: &mut Context<'_>) {
        let Some(upload) = &mut self.upload else { return };
        match upload.poll(cx, self.by.link()) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.upload = None,
            Poll::Ready(Err(error)) => {
                (self.upload, self.is_cut) = (None, true);
                // If it is the origin that wants no more, it has answered.
                self.broken = match error {
                    UploadError::Client(error) => Some(error),
                    UploadError::Origin(_) => None,
                };
            }
        }
    }

    /// Whether some of the request is still to be sent.
    pub fn is_sending(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether all of the body has been read.
    pub fn is_over(&self) -> bool {
        match &self.by {
            By::H1(connection) => connection.is_over(),
            By::H2(stream) => stream.is_over(),
        }
    }

    /// The connection itself after a 101, with what the origin has already sent on it. The origin counts as in
    /// use until the guard is dropped.
    pub fn into_tunnel(self) -> Option<(Bytes, OriginStream, ActiveGuard)> {
        let By::H1(connection) = self.by else { return None };
        let (early, stream) = connection.into_parts();
        Some((early, stream, self._active))
    }

    /// Gives the connection back after the whole body was read. One that is still to be sent something is of no use.
    pub async fn release(self: Box<Self>, connector: &Connector) {
        if let Some((stream, idle)) = self.keep() {
            // Boxed: large, and most origins speak HTTP/1.1.
            Box::pin(async move {
                let (session, peer) = stream.into_session();
                connector.http.release_http_session(session, &peer, Some(idle)).await;
            })
            .await;
        }
    }

    /// Keeps a connection of HTTP/1.1; a stream of HTTP/2 has its own keeper, which keeps it idle for so long.
    fn keep(self: Box<Self>) -> Option<(Box<h2::Stream>, Duration)> {
        match self.by {
            By::H1(_) if self.upload.is_some() || self.is_cut => None,
            By::H1(connection) => {
                self.pool.kept.put(self.index, self.address, connection);
                None
            }
            By::H2(stream) => Some((stream, self.pool.config.timeouts.idle)),
        }
    }
}
