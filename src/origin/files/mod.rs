//! Static files as an origin: no connection, but a link like those to others, so that all else is the same for them.

mod answer;
mod body;
mod find;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::config::model::Files;

use super::link::{Frame, Link, LinkError, ResponseHead};
use super::request::OriginRequest;

use answer::{Answer, Asked};
use body::Reading;

/// Threads that wait for a disk, at most: those of the whole runtime are needed for other things.
static THREADS: Semaphore = Semaphore::const_new(64);

/// The answer to one request.
pub(super) struct Stream {
    state: State,
    trailers: Option<HeaderMap>,
}

enum State {
    /// The file is looked for.
    Opening(Task<Answer>),
    Body(Reading),
    /// A piece is being read.
    Piece(Task<(Bytes, Reading)>),
    Done,
}

type Task<T> = JoinHandle<Result<T, LinkError>>;

impl Stream {
    /// Looks for what a request asks for.
    pub(super) fn begin(files: &Files, request: &OriginRequest) -> Self {
        let (files, asked) = (files.clone(), Asked::of(request));
        let opening = in_thread(move || {
            let found = find::find(&files, &asked.path, &asked.accepted(files.precompressed));
            found.map(|found| answer::answer(&asked, found)).map_err(LinkError::Io)
        });
        Stream { state: State::Opening(opening), trailers: None }
    }

    /// Whether all of it has been read.
    pub(super) fn is_over(&self) -> bool {
        matches!(&self.state, State::Done) || matches!(&self.state, State::Body(reading) if reading.left == 0)
    }
}

fn in_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, LinkError> + Send + 'static) -> Task<T> {
    if let Ok(permit) = THREADS.try_acquire() {
        return tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
    }
    tokio::spawn(async move {
        let _permit = THREADS.acquire().await; // it is never closed
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(LinkError::Io(std::io::Error::other(error))))
    })
}

fn poll_task<T>(task: &mut Task<T>, cx: &mut Context<'_>) -> Poll<Result<T, LinkError>> {
    let done = ready!(Pin::new(task).poll(cx));
    Poll::Ready(done.unwrap_or_else(|error| Err(LinkError::Io(std::io::Error::other(error)))))
}

impl Link for Stream {
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        Poll::Ready(Ok(()))
    }

    fn gone(&self) -> u64 {
        0
    }

    fn put(&mut self, _: Option<Frame>) {
        // Nobody wants a body.
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<ResponseHead, LinkError>> {
        let State::Opening(opening) = &mut self.state else { return Poll::Ready(Err(LinkError::Closed)) };
        let Answer { head, mut body } = ready!(poll_task(opening, cx))?;
        if *method == Method::HEAD {
            body.left = 0;
        }
        self.state = State::Body(body);
        Poll::Ready(Ok(head))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Poll::Ready(Ok(None)),
                State::Body(reading) if reading.left == 0 => return Poll::Ready(Ok(None)),
                State::Body(reading) => self.state = State::Piece(in_thread(move || reading.read())),
                State::Piece(mut task) => match poll_task(&mut task, cx) {
                    Poll::Pending => {
                        self.state = State::Piece(task);
                        return Poll::Pending;
                    }
                    Poll::Ready(read) => {
                        let (piece, reading) = read?;
                        self.state = State::Body(reading);
                        return Poll::Ready(Ok(Some(piece)));
                    }
                },
                State::Opening(_) => return Poll::Ready(Err(LinkError::Closed)), // the head comes first
            }
        }
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn has_heard_nothing(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }
}
