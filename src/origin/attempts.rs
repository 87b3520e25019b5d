//! Which origins are asked for one response, and how often: the one rule for retries.
//!
//! - What was not sent is sent to another origin: the connection could not be made.
//! - What an origin surely did not process goes again, whatever its method, also to the same origin: it said so by HTTP/2
//!   (RFC 9113 section 8.7). So does what is idempotent, if the origin had closed the connection on which nobody waited for
//!   anything.
//! - What broke before there was a head, or was answered with 502, 503 or 504, goes to another origin that is up, if its
//!   method is idempotent and its body can be sent again. Such retries are a part of the pool's requests at most.
//! - What was sent and not answered in time goes nowhere else.
//!
//! The last two are `retry_on` of the pool, which may say otherwise; never for a method that is not idempotent.
//!
//! Where a pool hedges, a GET or HEAD that has no answer after the time that most take is sent to a second origin as well; that
//! is a part of its retries, too.
//!
//! The last answer is the client's.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use tokio::time::{Instant, timeout};

use crate::clock::ticks;
use crate::config::model::{Balance, RetryOn};

use super::address::Address;
use super::connect::{Attempt, Connector};
use super::error::{Failure, FailureKind, OriginError};
use super::exchange::{self, Exchange};
use super::mirror;
use super::pick::{Pick, Picked, Tried};
use super::pool::{PoolRuntime, PoolSet};
use super::queue::NotServed;
use super::request::OriginRequest;
use super::state::OriginState;
use super::upload::Upload;

/// Times that a request is sent again that surely was not processed, before that counts as the origin's failure.
const MAX_UNPROCESSED: usize = 8;

/// What a failed attempt counts as having taken, at least.
const FAILED: Duration = Duration::from_secs(1);

/// Sends a request to an origin of its pool and reads the head of the response.
pub(crate) async fn send(
    connector: &Arc<Connector>,
    pools: &PoolSet,
    request: &OriginRequest,
    upload: Option<Upload>,
) -> Result<Box<Exchange>, OriginError> {
    let first = pools.get(request.pool);
    let second = || ticks() / 1000;
    first.budget.requested(second());
    let config = &first.config;
    let started = Instant::now();
    let deadline = started + request.total_timeout.unwrap_or(config.timeouts.total);
    let mut upload = upload.map(Box::new);
    let (mut tried, mut unprocessed, mut by_http11) = (Tried::new(), 0, false);
    // The last answer, or failing that the last error; and whether nobody was asked after the answer: only then is what is left
    // of the body for whom it is of.
    let (mut answer, mut is_latest) = (Err(OriginError::NoOrigin { pool: config.name.clone() }), false);
    while let Some(picked) = pick(pools, request, &tried, deadline, &mut answer).await {
        if tried.is_empty() && unprocessed == 0 {
            mirror::start(connector, pools, request, upload.as_deref_mut());
        }
        let how = Attempt { deadline, may_be_kept: unprocessed == 0, by_http11 };
        let patience = hedging_patience(first, request).filter(|_| upload.is_none());
        let done = match patience {
            None => once(connector, request, &mut upload, picked, how).await,
            // Boxed: rare, and there are two of them.
            Some(patience) => Box::pin(hedged(connector, pools, request, (picked, how), patience, &mut tried)).await,
        };
        is_latest = done.attempted.is_ok();
        let is_repeatable = upload.as_ref().is_none_or(|upload| upload.is_repeatable());
        let may_repeat = request.method.is_idempotent() && is_repeatable;
        let again = match done.attempted {
            Ok(exchange) => {
                let is_retried = config.retry_on.has_status(exchange.status.as_u16());
                answer = Ok(exchange);
                if may_repeat && is_retried { Again::IfBudgeted } else { Again::No }
            }
            Err(failure) => {
                tracing::debug!(pool = %done.pool.config.name, error = %failure.error, "attempt failed");
                let was_unprocessed = match failure.kind {
                    FailureKind::NeedsHttp11 | FailureKind::Unprocessed => is_repeatable,
                    // It may do so because it has too much to do.
                    FailureKind::Refused => is_repeatable && first.budget.may_retry(config.retry_budget, second()),
                    FailureKind::DeadConnection => may_repeat,
                    _ => false,
                };
                if was_unprocessed && unprocessed < MAX_UNPROCESSED {
                    by_http11 |= failure.kind == FailureKind::NeedsHttp11;
                    unprocessed += 1;
                    continue;
                }
                if failure.kind == FailureKind::Client {
                    return Err(failure.error);
                }
                // When the queue or others have used up the time, there was little left for this one; and who has waited for a
                // client long enough is not ill.
                let is_its_own = failure.kind != FailureKind::TimedOut
                    || Instant::now() < deadline
                    || done.took * 2 >= deadline - started;
                let is_clients = upload.as_ref().is_some_and(|upload| upload.waits_for_client());
                let by_client = done.pool.config.is_chosen_by_clients();
                let evidence = (is_its_own && !is_clients).then(|| request.evidence(by_client));
                done.pool.unanswered(&done.origin, &done.at, failure.kind, evidence, &failure.error.to_string());
                answer = answer.or(Err(failure.error));
                after(failure.kind, may_repeat, &config.retry_on)
            }
        };
        tried.push((done.origin, done.at));
        let is_last = || tried.len() > config.retries as usize || Instant::now() >= deadline;
        let is_retried = again != Again::No
            && !is_last()
            && pools.has_another(request.pool, &tried)
            && (again == Again::Yes || first.budget.may_retry(config.retry_budget, second()));
        if !is_retried {
            break;
        }
    }
    let mut answer = answer.map_err(|error| error.after(tried.len()))?;
    answer.tries = tried.len();
    answer.settle(upload.filter(|_| is_latest));
    Ok(answer)
}

/// Whether another origin is asked after a failure. `may_repeat`: nothing is done twice by it that must not be.
fn after(failure: FailureKind, may_repeat: bool, retry_on: &RetryOn) -> Again {
    match failure {
        // Nothing was sent: it is nobody's load.
        FailureKind::Connecting if !retry_on.connect => Again::No,
        FailureKind::Connecting | FailureKind::Ours => Again::Yes,
        FailureKind::TimedOut if !retry_on.timeout => Again::No,
        _ if may_repeat && (retry_on.reset || failure == FailureKind::TimedOut) => Again::IfBudgeted,
        _ => Again::No,
    }
}

/// How long one origin is waited for alone, before a second is asked as well; `None`: as long as it takes.
fn hedging_patience(pool: &PoolRuntime, request: &OriginRequest) -> Option<Duration> {
    let is_safe = matches!(request.method, Method::GET | Method::HEAD) && request.upgrade.is_none();
    if pool.config.hedge && is_safe { pool.hedging.patience() } else { None }
}

/// What an attempt has come to.
struct Done {
    attempted: Result<Box<Exchange>, Failure>,
    origin: Arc<OriginState>,
    at: Arc<Address>,
    pool: Arc<PoolRuntime>,
    took: Duration,
}

/// Asks one origin.
async fn once(
    connector: &Connector,
    request: &OriginRequest,
    upload: &mut Option<Box<Upload>>,
    picked: Picked,
    how: Attempt,
) -> Done {
    let (origin, mut at, pool) = (picked.member.origin.clone(), picked.at.clone(), picked.pool.clone());
    let (begun, has_upload) = (Instant::now(), upload.is_some());
    let attempted = exchange::send(connector, request, upload, picked, how, &mut at).await;
    let took = begun.elapsed();
    note(&attempted, &pool, &origin, &at, took, has_upload);
    Done { attempted, origin, at, pool, took }
}

/// The same, and a second one as well if there is no answer in time and the budget allows that. The first answer counts; the other
/// request is given up. `tried`: the one that was given up is among these then.
async fn hedged(
    connector: &Connector,
    pools: &PoolSet,
    request: &OriginRequest,
    (picked, how): (Picked, Attempt),
    patience: Duration,
    tried: &mut Tried,
) -> Done {
    let (slow, begun) = ((picked.member.origin.clone(), picked.at.clone()), Instant::now());
    let (mut nothing, mut nothing_either) = (None, None);
    let mut first = pin!(once(connector, request, &mut nothing, picked, how));
    if let Ok(done) = timeout(patience, first.as_mut()).await {
        return done;
    }
    let pool = pools.get(request.pool);
    let mut others = tried.clone();
    others.push(slow.clone());
    let may_hedge =
        pools.has_another(request.pool, &others) && pool.budget.may_retry(pool.config.retry_budget, ticks() / 1000);
    // Nobody waits for room for it.
    let other = if may_hedge { pools.pick(request.pool, request.choice, &others).origin() } else { None };
    let Some(other) = other else { return first.await };
    pool.hedging.sent.fetch_add(1, Ordering::Relaxed);
    let mut second = pin!(once(connector, request, &mut nothing_either, other, how));
    let done = tokio::select! {
        biased;
        done = &mut first => match done.attempted {
            Ok(_) => return done,
            Err(failure) => {
                done.pool.unanswered(&done.origin, &done.at, failure.kind, None, &failure.error.to_string());
                second.await
            }
        },
        done = &mut second => match done.attempted {
            Ok(_) => done,
            Err(failure) => {
                done.pool.unanswered(&done.origin, &done.at, failure.kind, None, &failure.error.to_string());
                return first.await;
            }
        },
    };
    // It was no faster than this.
    slow.0.latency.note(begun.elapsed().as_secs_f64() * 1000.0, ticks());
    tried.push(slow);
    if done.attempted.is_ok() {
        pool.hedging.won.fetch_add(1, Ordering::Relaxed);
    }
    done
}

/// Notes what an attempt tells of its origin. How long a client takes for its upload tells nothing.
fn note(
    attempted: &Result<Box<Exchange>, Failure>,
    pool: &PoolRuntime,
    origin: &OriginState,
    at: &Address,
    took: Duration,
    has_upload: bool,
) {
    let timed = (!has_upload).then_some(took);
    if let Ok(exchange) = attempted {
        origin.times.note(took);
        if pool.config.hedge && !has_upload {
            pool.hedging.note(took);
        }
        let illness = exchange.illness();
        pool.answered(origin, at, timed, illness.as_deref().map(|illness| (exchange.evidence, illness)));
    }
    if pool.config.balance == Balance::P2c {
        let counts = match attempted {
            Ok(_) => timed,
            // A failure is not to make an origin look quick.
            Err(Failure { kind: FailureKind::Connecting | FailureKind::TimedOut | FailureKind::Broken, .. }) => {
                Some(took.max(FAILED))
            }
            Err(_) => None,
        };
        counts.into_iter().for_each(|took| origin.latency.note(took.as_secs_f64() * 1000.0, ticks()));
    }
}

/// Chooses an origin. Where all are busy, or others wait already, the request waits in turn; if for nothing, `answer` says so.
async fn pick(
    pools: &PoolSet,
    request: &OriginRequest,
    tried: &Tried,
    deadline: Instant,
    answer: &mut Result<Box<Exchange>, OriginError>,
) -> Option<Picked> {
    let queue = pools.get(request.pool).queue.as_ref();
    let pool = match queue.filter(|queue| queue.is_used() && tried.is_empty()) {
        Some(_) => pools.get(request.pool).clone(), // whoever waits goes first
        None => match pools.pick(request.pool, request.choice, tried) {
            Pick::Busy(pool) if tried.is_empty() => pool,
            // Whoever has an answer keeps its place at an origin, and does not wait for another's.
            found => return found.origin(),
        },
    };
    let waited = wait(pools, request, tried, deadline, &pool).await;
    if let Err(why) = &waited
        && answer.is_err()
    {
        let why = match why {
            NotServed::Full => "as many wait as may",
            NotServed::TimedOut => "none had room in time",
        };
        *answer = Err(OriginError::Busy { pool: pool.config.name.clone(), why });
    }
    waited.ok().flatten()
}

/// Waits until an origin of a pool has room for it.
async fn wait(
    pools: &PoolSet,
    request: &OriginRequest,
    tried: &Tried,
    deadline: Instant,
    pool: &PoolRuntime,
) -> Result<Option<Picked>, NotServed> {
    let Some(queue) = &pool.queue else { return Ok(None) };
    let rules = &pool.config.queue;
    let deadline = deadline.min(Instant::now() + rules.timeout);
    let mut place = queue.join(&request.site, rules.max)?;
    let mut is_called = false;
    loop {
        let is_first = place.enter(is_called);
        if is_first || is_called {
            match pools.pick(request.pool, request.choice, tried) {
                Pick::Busy(_) => {}
                found => {
                    drop(place);
                    queue.call(); // there may be room for the next one, too
                    return Ok(found.origin());
                }
            }
        }
        place.called(deadline).await?;
        is_called = true;
    }
}

/// Whether another origin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    IfBudgeted,
    No,
}
