//! One exchange with an origin: a request is sent, its body as it comes, and a response read, its body at the caller's pace.
//! Both go on at once. After a 101 the connection is taken as it is.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::{Timestamp, ticks};
use crate::request::content_length;
use crate::running::RunningRequest;

use super::address::Address;
use super::connect::{Attempt, Connection, Connector};
use super::error::{Failure, FailureKind, OriginError};
use super::forward;
use super::h1::OriginStream;
use super::link::{Link, LinkError, MAX_HEADS, MAX_INTERIM, ResponseHead, TAKES_NOTHING};
use super::pick::Picked;
use super::pool::PoolRuntime;
use super::record::Evidence;
use super::request::OriginRequest;
use super::state::ActiveGuard;
use super::upload::{BodyError, Upload, UploadError};

/// A response whose head has come and whose body is to be read. Boxed as soon as it is there: it is large, and goes from hand
/// to hand.
pub struct Exchange {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub origin: Arc<str>,
    /// What it is told apart by if it breaks off.
    pub(super) evidence: Evidence,
    pub request_time: Timestamp,
    /// How often an origin was asked for it.
    pub(super) tries: usize,
    connection: Connection,
    /// Where the connection is to. The origin counts as in use for as long as this is here.
    picked: Picked,
    /// What is still to be sent of the request.
    upload: Option<Box<Upload>>,
    /// The request does not go to its end: the origin has answered, or the client has failed to send it.
    is_cut: bool,
    broken: Option<BodyError>,
    /// That it broke off has been noted, or is nothing of the origin's.
    is_told: bool,
    /// When more of the body was asked for last, [`ticks`].
    polled: u64,
    /// How long nothing may come of the body.
    patience: Option<Duration>,
    waits: Option<Wait>,
    /// The place of the request that it is for among those of its site.
    pub running: Option<RunningRequest>,
}

/// A wait for more of a body.
struct Wait {
    /// What the request had come to when it began.
    steps: u64,
    over: Pin<Box<Sleep>>,
}

/// Sends a request to an origin and reads the head of its response. `upload`: the request's body; of what is not sent when
/// the head is there, the exchange takes care. `at`: becomes the address that was connected to.
pub(super) async fn send(
    connector: &Connector,
    request: &OriginRequest,
    upload: &mut Option<Box<Upload>>,
    mut picked: Picked,
    how: Attempt,
    at: &mut Arc<Address>,
) -> Result<Box<Exchange>, Failure> {
    let timeouts = picked.pool.config.timeouts.clone();
    let request_time = Timestamp::now();
    let (mut connection, kept) = connector.open(request, upload.as_deref(), &mut picked, how).await?;
    if !Arc::ptr_eq(at, &picked.at) {
        *at = picked.at.clone();
    }
    at.connected();
    let alive = matches!(connection, Connection::H2(_)); // pinged
    if let Connection::H1(h1) = &mut connection {
        let chunked = upload.as_ref().is_some_and(|upload| upload.length().is_none());
        h1.begin(request.wire_head(picked.pool.config.host.as_deref(), upload.as_deref()), chunked);
    }
    if let Some(upload) = upload {
        // What HTTP/2 can say that it has not processed, may be sent again whatever the method.
        upload.begin(timeouts.write, alive || request.method.is_idempotent());
        if alive {
            upload.go_on(); // its interim responses are not to be had from pingora
        }
    }
    let sending = Sending { request, upload, is_sending: true, error: None, interim: 0 };
    let read = request.patience(None, alive, timeouts.read);
    match sending.head(connection.link(), timeouts.write, read, how.deadline).await {
        Ok(ResponseHead { status, fields }) => {
            if how.by_http11 {
                picked.member.origin.remember_http11();
            }
            Ok(Box::new(Exchange {
                patience: request.patience(Some(&fields), alive, timeouts.read),
                status,
                fields,
                origin: picked.member.config.address.clone(),
                evidence: request.evidence(picked.pool.config.is_chosen_by_clients()),
                request_time,
                tries: 1,
                connection,
                picked,
                upload: None,
                is_cut: upload.as_ref().is_some_and(|upload| !upload.is_done()),
                broken: None,
                is_told: false,
                polled: ticks(),
                waits: None,
                running: None,
            }))
        }
        Err(UploadError::Client(error)) => Err(Failure { error: error.into(), kind: FailureKind::Client }),
        Err(UploadError::Origin(error)) => {
            let kind = match &error {
                LinkError::NeedsHttp11 => FailureKind::NeedsHttp11,
                LinkError::Unprocessed(_) => FailureKind::Unprocessed,
                LinkError::Refused(_) => FailureKind::Refused,
                LinkError::Timeout(_) => FailureKind::TimedOut,
                LinkError::Io(_) | LinkError::Closed if kept && connection.link().has_heard_nothing() => {
                    FailureKind::DeadConnection
                }
                _ => FailureKind::Broken,
            };
            if kept && !alive {
                picked.member.kept.forget(&picked.at.place);
            }
            Err(Failure { error: OriginError::from_link(&error, &picked.member.config.address), kind })
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

impl Sending<'_> {
    /// The head of the final response. What is sent has `write`, what is then waited for `read`; an upload has deadlines of
    /// its own, and is no part of the whole that has until `deadline`.
    async fn head(
        mut self,
        link: &mut dyn Link,
        write: Duration,
        read: Option<Duration>,
        deadline: Instant,
    ) -> Result<ResponseHead, UploadError> {
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
                if self.is_sending && self.poll_send(cx, link)?.is_ready() {
                    self.is_sending = false;
                    over.as_mut().reset(by(began.unwrap_or_else(Instant::now), read));
                }
                match link.poll_head(cx, &self.request.method) {
                    Poll::Ready(Ok(head)) => {
                        if self.is_final(&head)? {
                            return Poll::Ready(Ok(head));
                        }
                        if !self.is_sending {
                            over.as_mut().reset(by(Instant::now(), read));
                        }
                    }
                    // That the origin has not processed it says more than that it took no more.
                    Poll::Ready(Err(
                        error @ (LinkError::Unprocessed(_) | LinkError::Refused(_) | LinkError::NeedsHttp11),
                    )) => Err(error)?,
                    Poll::Ready(Err(error)) => Err(self.error.take().unwrap_or(error))?,
                    Poll::Pending if matches!(self.error, Some(LinkError::Timeout(_))) => {
                        Err(LinkError::Timeout(TAKES_NOTHING))?;
                    }
                    Poll::Pending if self.is_sending && self.upload.is_some() => return Poll::Pending,
                    Poll::Pending => {
                        ready!(over.as_mut().poll(cx));
                        Err(LinkError::Timeout(match (whole, self.is_sending) {
                            (Some(whole), _) if Instant::now() >= whole => "total_timeout is over",
                            (_, true) => TAKES_NOTHING,
                            (_, false) => "no response head in time",
                        }))?;
                    }
                }
            }
        })
        .await
    }

    /// Sends what is there. Ready when there is nothing more to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>, link: &mut dyn Link) -> Poll<Result<(), UploadError>> {
        let sent = match &mut *self.upload {
            Some(upload) => ready!(upload.poll(cx, link)),
            None => ready!(link.poll_gone(cx)).map_err(UploadError::Origin),
        };
        Poll::Ready(match sent {
            Err(UploadError::Origin(error)) => {
                self.error = Some(error);
                Ok(())
            }
            sent => sent,
        })
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
            _ if self.interim == MAX_HEADS => Err("too many interim responses".into()),
            StatusCode::CONTINUE => {
                self.interim += 1;
                self.upload.iter_mut().for_each(|upload| upload.go_on());
                Ok(false)
            }
            status => {
                self.interim += 1;
                if let Some(interims) = self.request.interims.as_ref().filter(|_| self.interim <= MAX_INTERIM) {
                    let mut fields = head.fields.clone();
                    fields.remove(header::CONTENT_LENGTH); // RFC 9110 section 8.6
                    forward::exclude_proxys_own(&mut fields);
                    if let Some(changes) = &self.request.changes {
                        forward::drop_changed(&mut fields, changes);
                    }
                    interims.push(status, fields);
                }
                Ok(false)
            }
        }
    }
}

/// Milliseconds after which it is the client who has kept an origin waiting.
const PAUSE: u64 = 5_000;

/// Longer than anything lasts.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);

impl Exchange {
    /// What the log says of an answer by which the origin cannot serve now.
    pub(crate) fn outage(&self) -> Option<String> {
        if !self.is_outage() {
            return None;
        }
        let answered = format!("origin {} answered {}", self.origin, self.status.as_u16());
        Some(if self.tries > 1 { format!("{answered}; {} tries were made", self.tries) } else { answered })
    }

    /// What an answer says if it counts as a failure of its origin.
    pub(super) fn illness(&self) -> Option<String> {
        let is_ill = self.is_outage() || self.status == StatusCode::INTERNAL_SERVER_ERROR;
        is_ill.then(|| format!("origin {} answered {}", self.origin, self.status.as_u16()))
    }

    /// Whether an answer says that this origin cannot serve now, and another might.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self.status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
    }

    /// Gives the client a cookie by which its session stays here, unless it has that, as `origin` says, or its pool has no such
    /// sessions. No cache on the way may give it to others.
    pub(crate) fn keep_session(&mut self, pool: &PoolRuntime, origin: Option<u64>, is_secure: bool) {
        let identity = self.picked.member.identity;
        let is_own = std::ptr::eq(&raw const *self.picked.pool, pool); // and no fallback's
        let Some(sticky) = pool.sticky.as_ref().filter(|_| is_own && origin != Some(identity)) else { return };
        let Ok(cookie) = HeaderValue::try_from(sticky.set_cookie(identity, is_secure)) else { return };
        self.fields.append(header::SET_COOKIE, cookie);
        self.fields.append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
        ["cdn-cache-control", "surrogate-control"].into_iter().for_each(|name| _ = self.fields.remove(name));
    }

    /// The length the head states, if it states one.
    pub fn content_length(&self) -> Option<u64> {
        content_length(self.fields.get(header::CONTENT_LENGTH)?.as_bytes())
    }

    /// The next piece of the body; `None` when it ended as it should.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, OriginError> {
        std::future::poll_fn(|cx| self.poll_body(cx)).await
    }

    /// The same. What is left of the request is sent meanwhile.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, OriginError>> {
        let now = ticks();
        let idle = now.saturating_sub(std::mem::replace(&mut self.polled, now));
        self.send_on(cx);
        if let Some(error) = self.broken {
            return Poll::Ready(Err(error.into()));
        }
        match self.connection.link().poll_body(cx) {
            Poll::Ready(Ok(piece)) => {
                self.waits = None;
                return Poll::Ready(Ok(piece));
            }
            Poll::Ready(Err(error)) => {
                // An origin need not wait for ever for a client that takes nothing.
                self.is_told |= idle > PAUSE;
                return Poll::Ready(Err(self.broke_off(&error)));
            }
            Poll::Pending => {}
        }
        let Some(patience) = self.patience else { return Poll::Pending };
        // An origin may have nothing to say as long as the request goes on.
        let steps = self.upload.as_ref().map_or(0, |upload| upload.steps());
        if self.waits.as_ref().is_none_or(|waits| waits.steps != steps) {
            self.waits = Some(Wait { steps, over: Box::pin(tokio::time::sleep(patience)) });
        }
        let Some(waits) = &mut self.waits else { return Poll::Pending };
        ready!(waits.over.as_mut().poll(cx));
        Poll::Ready(Err(self.broke_off(&LinkError::Timeout("nothing came of the body for too long"))))
    }

    /// The body has come to no end. It is the origin's doing, unless it was sent only a part of the request.
    fn broke_off(&mut self, error: &LinkError) -> OriginError {
        let error = OriginError::from_link(error, &self.origin);
        let waits = self.upload.as_ref().is_some_and(|upload| upload.waits_for_client());
        if !std::mem::replace(&mut self.is_told, true) && !self.is_cut && !waits && self.illness().is_none() {
            let Picked { pool, member, at, .. } = &self.picked;
            pool.broke_off(&member.origin, at, self.evidence, &error.to_string());
        }
        error
    }

    /// The trailers of a body that has been read to its end.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.connection.link().take_trailers()
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
        match upload.poll(cx, self.connection.link()) {
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

    pub fn is_sending(&self) -> bool {
        self.upload.is_some()
    }

    pub fn is_over(&self) -> bool {
        match &self.connection {
            Connection::H1(h1) => h1.is_over(),
            Connection::H2(stream) => stream.is_over(),
            Connection::Files(stream) => stream.is_over(),
        }
    }

    /// The connection itself after a 101, with what the origin has already sent on it. The origin and its site count as in use
    /// until the guards are dropped.
    pub fn into_tunnel(self) -> Option<(Bytes, OriginStream, (ActiveGuard, Option<RunningRequest>))> {
        let Connection::H1(h1) = self.connection else { return None };
        self.picked.at.record.succeeded();
        let (early, stream) = h1.into_parts();
        Some((early, stream, (self.picked.active, self.running)))
    }

    /// Gives the connection back after the whole body was read. One that is still to be sent something is of no use.
    pub fn release(self: Box<Self>) {
        if self.illness().is_none() {
            self.picked.at.record.succeeded();
        }
        let Exchange { connection, picked: Picked { pool, member, at, .. }, upload, is_cut, .. } = *self;
        match connection {
            Connection::H1(_) if upload.is_some() || is_cut || pool.config.send_proxy.is_some() => {}
            Connection::H1(h1) => member.kept.put(&at.place, &pool.config.connections, h1),
            Connection::Files(_) | Connection::H2(_) => {} // goes back by itself
        }
    }
}
