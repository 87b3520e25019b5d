//! Copies of requests for another pool, whose answers are nobody's: to see how it does with real requests. The request itself never waits
//! for its copy: that is sent when the request's body has come, and left out if it is too long or too many are under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::connect::{Attempt, Connector};
use super::copies::CopyPlace;
use super::exchange;
use super::link::Frame;
use super::pick::{Pick, Tried};
use super::pool::{PoolRuntime, PoolSet};
use super::request::OriginRequest;
use super::upload::{BodyError, RequestBody, Upload, UploadRules};

/// Bytes of an answer that are read. What is longer is broken off.
const MOST_READ: u64 = 1 << 20;

/// Has a copy of a request sent, if its pool has that done and this is one of those.
pub(super) fn start(connector: &Arc<Connector>, pools: &PoolSet, request: &OriginRequest, upload: Option<&mut Upload>) {
    let pool = pools.get(request.pool);
    let Some(mirror) = &pool.config.mirror else { return };
    if request.upgrade.is_some() || fastrand::f64() >= mirror.share.of_one() {
        return;
    }
    let is_too_long =
        upload.as_ref().and_then(|upload| upload.length()).is_some_and(|length| length > mirror.max_body as u64);
    let place = if is_too_long { None } else { CopyPlace::take(&pool.mirrored, mirror.max_requests) };
    let Some(place) = place else {
        pool.mirrored.left_out.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let body = upload.map(|upload| (upload.length(), upload.copy(mirror.max_body)));
    let request = OriginRequest { interims: None, pool: mirror.pool, ..request.clone() };
    let copy = Copy { connector: connector.clone(), to: pools.get(mirror.pool).clone(), request, place };
    tokio::spawn(copy.run(body));
}

/// A copy on its way.
struct Copy {
    connector: Arc<Connector>,
    to: Arc<PoolRuntime>,
    request: OriginRequest,
    place: CopyPlace,
}

/// The body of a request that is copied: the length that it states, and what comes of it.
type Body = (Option<u64>, oneshot::Receiver<Vec<Frame>>);

impl Copy {
    async fn run(self, body: Option<Body>) {
        let mirrored = self.place.counts();
        let deadline = Instant::now() + self.request.total_timeout.unwrap_or(self.to.config.timeouts.total);
        let upload = match body {
            None => None,
            Some((length, frames)) => match timeout_at(deadline, frames).await {
                Ok(Ok(frames)) => Some(upload(length, frames)),
                // It is too long, has not come whole, or not in time.
                Ok(Err(_)) | Err(_) => {
                    mirrored.left_out.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            },
        };
        let counter = match timeout_at(deadline, self.send(upload, deadline)).await {
            Ok(true) => &mirrored.answered,
            Ok(false) | Err(_) => &mirrored.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends it once, and reads what is answered. Whether there was an answer.
    async fn send(&self, upload: Option<Box<Upload>>, deadline: Instant) -> bool {
        let mut upload = upload;
        let Pick::Origin(picked) = self.to.pick(self.request.choice.hash, &Tried::new()) else { return false };
        let (origin, mut at) = (picked.member.origin.clone(), picked.at.clone());
        let how = Attempt { deadline, may_be_kept: true, by_http11: false };
        let attempted = exchange::send(&self.connector, &self.request, &mut upload, picked, how, &mut at).await;
        let mut exchange = match attempted {
            Ok(exchange) => exchange,
            Err(failure) => {
                let evidence = Some(self.request.evidence(self.to.config.is_chosen_by_clients()));
                self.to.unanswered(&origin, &at, failure.kind, evidence, &failure.error.to_string());
                return false;
            }
        };
        let illness = exchange.illness();
        let illness = illness.as_deref().map(|illness| (exchange.evidence, illness));
        self.to.answered(&origin, &at, None, illness);
        exchange.settle(upload);
        let mut read = 0;
        loop {
            match exchange.read_body().await {
                Ok(Some(piece)) => read += piece.len() as u64,
                Ok(None) => {
                    exchange.release();
                    return true;
                }
                Err(_) => return false,
            }
            if read > MOST_READ {
                return true;
            }
        }
    }
}

fn upload(length: Option<u64>, frames: Vec<Frame>) -> Box<Upload> {
    let rules = UploadRules { length, most: None, pace: None, expects: None, replayed: (0, None), changes: None };
    Box::new(Upload::new(Box::new(Frames(frames.into_iter())), rules))
}

/// A body that is here.
struct Frames(std::vec::IntoIter<Frame>);

impl RequestBody for Frames {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<Frame>, BodyError>> {
        Poll::Ready(Ok(self.0.next()))
    }
}
