//! Filling the cache before anybody asks: lists of URLs, and what a purge has hit and many ask for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cache::control::ClientDirectives;
use crate::cache::engine::{Engine, Source};
use crate::cache::lookup::{Lookup, Miss};
use crate::cache::request::CacheRequest;
use crate::cache::slices::Answer;
use crate::cache::status::{Forward, Report, Stored, Why};
use crate::clock::Timestamp;
use crate::plan::{PassReason, Plan};
use crate::request::{Fields, RequestView, Scheme};
use crate::snapshot::Snapshot;

/// Warm-ups that are remembered; as many may run at one time.
const MAX_JOBS: usize = 20;
/// What all of them together may fetch at one time: visitors' own fills need room as well.
const MAX_AT_ONCE: usize = 512;
/// What was not stored of each, that is remembered.
const MAX_FAILURES: usize = 1000;

/// One thing to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub scheme: Scheme,
    pub host: String,
    pub port: Option<u16>,
    /// That of the listener where a visitor would ask; `None`: the scheme's.
    pub local_port: Option<u16>,
    pub path: String,
    pub query: Option<String>,
    /// What selects the variant.
    pub fields: HeaderMap,
}

/// A warm-up, running or done.
pub(crate) struct Job {
    pub id: u64,
    /// Of whoever may know of it; `None`: of all sites.
    pub sites: Option<Vec<String>>,
    progress: Mutex<Progress>,
}

/// As many warm-ups are running as may.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_JOBS} warm-ups are running already; stop one, or wait")]
pub(crate) struct TooManyWarmUps;

/// What was not stored, and why.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Failure {
    url: String,
    reason: String,
}

/// How far a warm-up has come.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Progress {
    pub id: u64,
    pub started: Timestamp,
    pub total: u64,
    pub done: u64,
    pub stored: u64,
    /// Were there already, and fresh.
    pub there: u64,
    pub not_stored: u64,
    /// The first of what was not stored.
    pub failures: Vec<Failure>,
    /// Nothing more is begun.
    pub finished: bool,
    pub stopped: bool,
    /// Nor is anything being fetched.
    #[serde(skip)]
    has_ended: bool,
}

/// The warm-ups of the node.
#[derive(Default)]
pub(crate) struct WarmUps {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    next: AtomicU64,
}

impl WarmUps {
    /// Begins to fetch what is wanted, so many at one time.
    pub(crate) fn start(
        &self,
        engine: &Arc<Engine>,
        snapshot: &Arc<ArcSwap<Snapshot>>,
        wanted: Vec<Wanted>,
        at_once: usize,
        sites: Option<Vec<String>>,
    ) -> Result<Arc<Job>, TooManyWarmUps> {
        let mut jobs = self.jobs.lock();
        if jobs.len() >= MAX_JOBS {
            let ended = jobs.iter().position(|job| job.progress.lock().has_ended).ok_or(TooManyWarmUps)?;
            jobs.remove(ended);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let progress = Progress { id, started: Timestamp::now(), total: wanted.len() as u64, ..Progress::default() };
        let job = Arc::new(Job { id, sites, progress: Mutex::new(progress) });
        jobs.push_back(job.clone());
        drop(jobs);
        tokio::spawn(run(job.clone(), engine.clone(), snapshot.clone(), wanted, at_once));
        Ok(job)
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Job>> {
        self.jobs.lock().iter().find(|job| job.id == id).cloned()
    }
}

impl Job {
    /// What is being fetched is fetched to its end; nothing more is begun.
    pub(crate) fn stop(&self) {
        let mut progress = self.progress.lock();
        (progress.stopped, progress.finished) = (true, true);
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    fn note(&self, wanted: &Wanted, fetched: Result<Fetched, String>) {
        let mut progress = self.progress.lock();
        progress.done += 1;
        match fetched {
            Ok(Fetched::Stored) => progress.stored += 1,
            Ok(Fetched::There) => progress.there += 1,
            Err(reason) => {
                progress.not_stored += 1;
                if progress.failures.len() < MAX_FAILURES {
                    progress.failures.push(Failure { url: wanted.url(), reason });
                }
            }
        }
    }
}

/// What has become of one thing that was to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fetched {
    Stored,
    /// It was there already.
    There,
}

impl Wanted {
    fn url(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}{}{query}", self.scheme.as_str(), self.host, self.path)
    }
}

async fn run(
    job: Arc<Job>,
    engine: Arc<Engine>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    wanted: Vec<Wanted>,
    at_once: usize,
) {
    static PLACES: Semaphore = Semaphore::const_new(MAX_AT_ONCE);
    let mut running = JoinSet::new();
    for one in wanted {
        while running.len() >= at_once {
            running.join_next().await;
        }
        // An error means that there are no more places, which never happens.
        let Ok(place) = PLACES.acquire().await else { break };
        if job.progress.lock().stopped {
            break;
        }
        let (job, engine, snapshot) = (job.clone(), engine.clone(), snapshot.load_full());
        running.spawn(async move {
            let _place = place;
            let fetched = fetch(&engine, &snapshot, &one).await;
            job.note(&one, fetched);
        });
    }
    while running.join_next().await.is_some() {}
    let mut progress = job.progress.lock();
    (progress.finished, progress.has_ended) = (true, true);
}

/// Fetches one thing as a visitor's request would, and waits until all of it is there. An error: why it was not stored.
async fn fetch(engine: &Arc<Engine>, snapshot: &Arc<Snapshot>, wanted: &Wanted) -> Result<Fetched, String> {
    let view = RequestView {
        port: wanted.port,
        local_port: wanted.local_port.unwrap_or(wanted.scheme.default_port()),
        query: wanted.query.as_deref(),
        ..RequestView::own(&Method::GET, wanted.scheme, &wanted.host, &wanted.path, Fields::Map(&wanted.fields))
    };
    let matched = match snapshot.plan(&view, Timestamp::now()) {
        Plan::Cache(matched) => matched,
        Plan::Refuse { why, .. } => return Err(why.into()),
        Plan::Answer { .. } => return Err("its site or route answers it by itself".into()),
        Plan::Pass(..) | Plan::Tunnel(_) | Plan::Purge { .. } => return Err("the route does not cache".into()),
    };
    let mut key = String::new();
    let asks = ClientDirectives::default();
    let request = CacheRequest { asks, ..CacheRequest::new(&view, snapshot, matched, &mut key) };
    let answer = match engine.cache.look_up(&request, Timestamp::now()).await {
        Lookup::Hit(..) | Lookup::PartHit(..) => return Ok(Fetched::There),
        Lookup::StaleHit(object, _) => engine.get(&request, Miss::of(Some(object), Why::Stale)).await,
        Lookup::Pass(PassReason::Authorization) => {
            return Err("what is stored is not for requests with Authorization".into());
        }
        Lookup::Pass(_) => return Err("it was found not cacheable a short while ago".into()),
        Lookup::Miss(miss) => engine.get(&request, miss).await,
    };
    let (answer, report) = answer.map_err(|failed| failed.error.to_string())?;
    drain(answer).await?;
    let fetched = fetched(&report)?;
    // What the head promised may have come to nothing for want of room.
    if fetched == Fetched::Stored && matched.route.cache.slice.is_none() && !is_there(engine, &request).await {
        return Err("there was no room for it".into());
    }
    Ok(fetched)
}

async fn is_there(engine: &Arc<Engine>, request: &CacheRequest<'_>) -> bool {
    match engine.cache.look_up(request, Timestamp::now()).await {
        Lookup::Hit(..) | Lookup::PartHit(..) | Lookup::StaleHit(..) => true,
        Lookup::Miss(miss) => miss.stale.is_some() || miss.part.is_some(),
        Lookup::Pass(_) => false,
    }
}

fn fetched(report: &Report) -> Result<Fetched, String> {
    match report {
        Report::Forward(Forward { stored: Stored::Yes { .. } | Stored::IfItFits { .. }, .. }) => Ok(Fetched::Stored),
        Report::Forward(Forward { stored: Stored::No(reason), .. }) => Err(reason.as_str().into()),
        Report::Hit { .. } | Report::HitStale { .. } | Report::HitMaxStale { .. } => Ok(Fetched::There),
        _ => Err("it was not stored".into()),
    }
}

/// Reads a response to its end: then it is stored.
async fn drain(answer: Answer) -> Result<(), String> {
    match answer {
        Answer::Whole(Source::Stored(_) | Source::Part(_) | Source::Private(_)) => {}
        Answer::Whole(Source::Stream(mut reader)) => {
            while reader.next().await.map_err(|error| error.to_string())?.is_some() {}
        }
        Answer::Slices(mut reader) => {
            let mut at = 0;
            while let Some(piece) = reader.read(at).await.map_err(|error| error.to_string())? {
                at += piece.len() as u64;
            }
        }
    }
    Ok(())
}
