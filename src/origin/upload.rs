//! A request's body on its way to an origin: taken from the client piece by piece, no faster than the origin takes it.
//! What was sent is kept while it is little, so that it can be sent to another origin.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::config::model::FieldChanges;
use crate::pace::{Pace, Taking};

use super::forward;
use super::interims::Interims;
pub use super::link::Frame;
use super::link::{Link, LinkError, TAKES_NOTHING};

/// How long an origin may take to say that it wants the body. One that does not know `Expect` says nothing, and then the
/// client is told to go on (RFC 9110 section 10.1.1).
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// Where a request's body comes from.
pub trait RequestBody: Send + Sync {
    /// The next of it; `None` at its end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, BodyError>>;
}

/// Why a request's body did not come to its end. The client's doing, or its fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the client left before the request's body was there")]
    Left,
    #[error("the request's body did not come in time")]
    Stalled,
    #[error("the request's body came too slowly; see min_rate in [limits]")]
    TooSlow,
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the request's body is larger than max_body of the route allows")]
    TooLarge,
}

impl BodyError {
    /// What the client is answered.
    pub fn status(self) -> StatusCode {
        match self {
            BodyError::Stalled | BodyError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            // It may have ended its side alone, and wait.
            BodyError::Left | BodyError::Malformed(_) => StatusCode::BAD_REQUEST,
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

/// Whose doing it is that a request was not sent whole, or not answered.
#[derive(Debug)]
pub(crate) enum UploadError {
    Client(BodyError),
    /// If it took no more, it may have answered.
    Origin(LinkError),
}

impl From<LinkError> for UploadError {
    fn from(error: LinkError) -> Self {
        UploadError::Origin(error)
    }
}

/// What holds for one request's body.
pub(crate) struct UploadRules {
    /// The length that the client has stated.
    pub length: Option<u64>,
    /// Bytes that there may be.
    pub most: Option<u64>,
    /// How quickly the client has to send; `None`: as it likes, while its connection is alive.
    pub pace: Option<Pace>,
    /// The client waits with the body until it is told to go on, by these.
    pub expects: Option<Arc<Interims>>,
    /// Room for what is kept of it to be sent again: so many bytes, until this is dropped.
    pub replayed: (u64, Option<Box<dyn Send + Sync>>),
    /// What the route changes in the request's fields.
    pub changes: Option<Arc<FieldChanges>>,
}

/// Bytes of a body that are kept to be sent again, at most.
pub(crate) const REPLAYED: u64 = 64 << 10;

/// A piece that is smaller is copied to those before it: a body of very many would take far more memory than it has bytes.
const SMALL: usize = 4 << 10;

/// What was taken of a body, to be sent again.
#[derive(Default)]
struct Taken {
    frames: Vec<Frame>,
    /// Small pieces behind them, and whether the body is known to end there.
    small: BytesMut,
    last: bool,
}

impl Taken {
    fn push(&mut self, frame: &Frame) {
        match frame {
            Frame::Data { piece, last } if piece.len() < SMALL => {
                self.small.extend_from_slice(piece);
                self.last = *last;
            }
            large => {
                self.join();
                self.frames.push(large.clone());
            }
        }
    }

    /// Makes one frame of the small pieces.
    fn join(&mut self) {
        if !self.small.is_empty() || self.last {
            let (piece, last) = (self.small.split().freeze(), std::mem::take(&mut self.last));
            self.frames.push(Frame::Data { piece, last });
        }
    }

    /// All of it, as it is sent again.
    fn again(&mut self) -> VecDeque<Frame> {
        self.join();
        self.frames.iter().cloned().collect()
    }
}

/// What was taken of a body for somebody else.
struct Copied {
    taken: Taken,
    /// Bytes that may come.
    left: usize,
    to: oneshot::Sender<Vec<Frame>>,
}

impl Copied {
    /// With what comes next; `None`: it is done, or given up.
    fn with(mut self, frame: &Option<Frame>, last: bool) -> Option<Self> {
        if let Some(frame) = frame {
            let length = if let Frame::Data { piece, .. } = frame { piece.len() } else { 0 };
            self.left = self.left.checked_sub(length)?;
            self.taken.push(frame);
        }
        if !last {
            return Some(self);
        }
        let _ = self.to.send(self.taken.again().into()); // nobody waits for it any more
        None
    }
}

/// A request's body while it is sent.
pub(crate) struct Upload {
    body: Box<dyn RequestBody>,
    rules: UploadRules,
    received: u64,
    /// What was taken of it, while all of that is kept; and whether any of it need be.
    kept: Option<Taken>,
    keeps: bool,
    /// What is sent again.
    again: VecDeque<Frame>,
    /// What somebody else gets of it, too.
    copied: Option<Copied>,
    /// Its end has come from the client; it has been put to the origin; all has gone.
    has_ended: bool,
    is_put: bool,
    is_done: bool,
    /// Nothing has been put for this attempt.
    is_new: bool,
    /// How the client brings it.
    taking: Taking,
    wait: Option<Wait>,
    /// Times that something has moved.
    steps: u64,
    /// How long the origin may take nothing.
    origin_patience: Duration,
}

/// A wait for somebody.
struct Wait {
    whom: Whom,
    /// Bytes that had gone to the origin when it began.
    gone: u64,
    over: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// The client, to send.
    Client,
    /// The origin, to say that the client may.
    Continue,
    /// The origin, to take what is there.
    Origin,
}

impl Upload {
    pub(crate) fn new(body: Box<dyn RequestBody>, rules: UploadRules) -> Self {
        Upload {
            body,
            rules,
            received: 0,
            kept: Some(Taken::default()),
            keeps: true,
            again: VecDeque::new(),
            copied: None,
            has_ended: false,
            is_put: false,
            is_done: false,
            is_new: true,
            taking: Taking::default(),
            wait: None,
            steps: 0,
            origin_patience: Duration::MAX,
        }
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.rules.length
    }

    /// Whether the client waits to be told to go on.
    pub(crate) fn expects_continue(&self) -> bool {
        self.rules.expects.is_some()
    }

    /// Whether all of it has gone to the origin.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Times that something of it has moved.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether all that was taken of it can be sent again.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.kept.is_some()
    }

    /// Begins to send it to an origin that may take nothing for so long; anew, if it was sent to another. `keeps`: it may
    /// have to be sent once more.
    pub(crate) fn begin(&mut self, origin_patience: Duration, keeps: bool) {
        self.again = self.kept.as_mut().map(Taken::again).unwrap_or_default();
        (self.is_new, self.is_put, self.is_done, self.wait) = (true, false, false, None);
        (self.origin_patience, self.keeps) = (origin_patience, keeps);
    }

    /// Gives all of it to somebody else as well, once it has come; nothing if it has more bytes than `most`, or does not come to its end.
    pub(crate) fn copy(&mut self, most: usize) -> oneshot::Receiver<Vec<Frame>> {
        let (to, copy) = oneshot::channel();
        self.copied = Some(Copied { taken: Taken::default(), left: most, to });
        copy
    }

    /// The origin has answered: nothing is sent again.
    pub(crate) fn settle(&mut self) {
        (self.kept, self.keeps) = (None, false);
        self.rules.replayed = (0, None);
    }

    /// Whether the client is waited for, to send more.
    pub(crate) fn waits_for_client(&self) -> bool {
        !self.has_ended && self.wait.as_ref().is_some_and(|wait| wait.whom == Whom::Client)
    }

    /// The origin wants it: the client is told, if it waits for that.
    pub(crate) fn go_on(&mut self) {
        if let Some(interims) = self.rules.expects.take() {
            interims.push(StatusCode::CONTINUE, HeaderMap::new());
        }
    }

    /// Sends what comes. Ready when all has gone, or when it cannot go on.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, link: &mut dyn Link) -> Poll<Result<(), UploadError>> {
        loop {
            // The first piece goes with the head, if it is there.
            if !std::mem::take(&mut self.is_new) {
                ready!(self.poll_gone(cx, link))?;
                if self.is_put {
                    self.is_done = true;
                    return Poll::Ready(Ok(()));
                }
            }
            match self.poll_next(cx)? {
                Poll::Ready(frame) => {
                    self.is_put = !matches!(frame, Some(Frame::Data { last: false, .. }));
                    link.put(frame);
                    self.wait = None;
                    self.steps += 1;
                }
                Poll::Pending => {
                    ready!(self.poll_gone(cx, link))?; // the head, which goes without it
                    let whom = if self.expects_continue() { Whom::Continue } else { Whom::Client };
                    ready!(self.poll_wait(cx, whom, link.gone()))?;
                }
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>, link: &mut dyn Link) -> Poll<Result<(), UploadError>> {
        match link.poll_gone(cx) {
            Poll::Ready(gone) => {
                if self.wait.as_ref().is_some_and(|wait| wait.whom == Whom::Origin) {
                    self.wait = None;
                    self.steps += 1;
                }
                Poll::Ready(gone.map_err(UploadError::Origin))
            }
            Poll::Pending => self.poll_wait(cx, Whom::Origin, link.gone()),
        }
    }

    /// The next of the body, of what was sent before or from the client.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, UploadError>> {
        if let Some(frame) = self.again.pop_front() {
            return Poll::Ready(Ok(Some(frame)));
        }
        if self.has_ended {
            return Poll::Ready(Ok(None));
        }
        let mut frame = ready!(self.body.poll_frame(cx)).map_err(UploadError::Client)?;
        if let Some(Frame::Trailers(trailers)) = &mut frame {
            forward::exclude_from_requests_trailers(trailers, self.rules.changes.as_ref());
        }
        self.rules.expects = None; // it has not waited
        let (length, last) = match &frame {
            Some(Frame::Data { piece, last }) => (piece.len() as u64, *last),
            Some(Frame::Trailers(_)) | None => (0, true),
        };
        self.has_ended = last;
        self.received += length;
        if self.rules.most.is_some_and(|most| self.received > most) {
            return Poll::Ready(Err(UploadError::Client(BodyError::TooLarge)));
        }
        if let Some(pace) = self.rules.pace
            && !self.taking.take(length, pace, std::time::Instant::now)
            && !last
        {
            return Poll::Ready(Err(UploadError::Client(BodyError::TooSlow)));
        }
        if let Some(copied) = self.copied.take() {
            self.copied = copied.with(&frame, last);
        }
        match (&mut self.kept, &frame) {
            (Some(kept), Some(frame)) if self.keeps && self.received <= self.rules.replayed.0 => kept.push(frame),
            (Some(_), None) => {}
            (kept, _) => *kept = None,
        }
        Poll::Ready(Ok(frame))
    }

    /// Waits for somebody, for so long as that may take. Ready without an error: the client was told to go on.
    fn poll_wait(&mut self, cx: &mut Context<'_>, whom: Whom, gone: u64) -> Poll<Result<(), UploadError>> {
        if !self.wait.as_ref().is_some_and(|wait| wait.whom == whom && wait.gone == gone) {
            let patience = match whom {
                Whom::Client => self.rules.pace.map(|pace| pace.patience),
                Whom::Continue => Some(CONTINUE_PATIENCE),
                Whom::Origin => Some(self.origin_patience),
            };
            match whom {
                Whom::Client => self.taking.wait(std::time::Instant::now),
                Whom::Continue | Whom::Origin => self.taking.rest(),
            }
            let over = patience.map(|patience| Box::pin(tokio::time::sleep(patience)));
            self.wait = Some(Wait { whom, gone, over });
        }
        let Some(over) = self.wait.as_mut().and_then(|wait| wait.over.as_mut()) else { return Poll::Pending };
        ready!(over.as_mut().poll(cx));
        self.wait = None;
        Poll::Ready(match whom {
            Whom::Continue => {
                self.go_on();
                Ok(())
            }
            Whom::Origin => Err(LinkError::Timeout(TAKES_NOTHING).into()),
            Whom::Client => Err(UploadError::Client(BodyError::Stalled)),
        })
    }
}
