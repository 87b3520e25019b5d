//! Filling the cache before anybody asks: lists of URLs, and what a purge has hit and many ask for.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::{HeaderMap, Method, Version};
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
use crate::plan::{Plan, plan};
use crate::request::{Fields, RequestView, Scheme, Target};
use crate::snapshot::Snapshot;

/// Warm-ups that are remembered; as many may run at one time.
const MOST_JOBS: usize = 20;
/// What all of them together may fetch at one time: visitors' own fills need room as well.
const MOST_AT_ONCE: usize = 512;
/// What was not stored of each, that is remembered.
const MOST_FAILURES: usize = 1000;

/// One thing to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub tls: bool,
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
pub struct Job {
    pub id: u64,
    /// Of whoever may know of it; `None`: of all sites.
    pub sites: Option<Vec<String>>,
    started: Timestamp,
    total: u64,
    stored: AtomicU64,
    there: AtomicU64,
    not_stored: AtomicU64,
    failures: Mutex<Vec<Failure>>,
    stopped: AtomicBool,
    ended: AtomicBool,
}

/// As many warm-ups are running as may.
#[derive(Debug, thiserror::Error)]
#[error("{MOST_JOBS} warm-ups are running already; stop one, or wait")]
pub struct TooManyWarmUps;

/// What was not stored, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    url: String,
    reason: String,
}

/// How far a warm-up has come.
#[derive(Debug, Serialize)]
pub struct Progress {
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
    pub finished: bool,
    pub stopped: bool,
}

/// The warm-ups of the node.
pub struct WarmUps {
    jobs: Mutex<VecDeque<Arc<Job>>>,
    next: AtomicU64,
    places: Arc<Semaphore>,
}

impl Default for WarmUps {
    fn default() -> Self {
        WarmUps { jobs: Mutex::default(), next: AtomicU64::new(0), places: Arc::new(Semaphore::new(MOST_AT_ONCE)) }
    }
}

impl WarmUps {
    /// Begins to fetch what is wanted, so many at one time.
    pub fn start(
        &self,
        engine: &Arc<Engine>,
        snapshot: &Arc<ArcSwap<Snapshot>>,
        wanted: Vec<Wanted>,
        at_once: usize,
        sites: Option<Vec<String>>,
    ) -> Result<Arc<Job>, TooManyWarmUps> {
        let mut jobs = self.jobs.lock();
        if jobs.len() >= MOST_JOBS {
            let ended = jobs.iter().position(|job| job.ended.load(Ordering::Relaxed)).ok_or(TooManyWarmUps)?;
            jobs.remove(ended);
        }
        let job = Arc::new(Job {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            sites,
            started: Timestamp::now(),
            total: wanted.len() as u64,
            stored: AtomicU64::new(0),
            there: AtomicU64::new(0),
            not_stored: AtomicU64::new(0),
            failures: Mutex::default(),
            stopped: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        jobs.push_back(job.clone());
        drop(jobs);
        tokio::spawn(run(job.clone(), engine.clone(), snapshot.clone(), wanted, at_once, self.places.clone()));
        Ok(job)
    }

    pub fn get(&self, id: u64) -> Option<Arc<Job>> {
        self.jobs.lock().iter().find(|job| job.id == id).cloned()
    }
}

impl Job {
    /// What is being fetched is fetched to its end; nothing more is begun.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn progress(&self) -> Progress {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (stored, there, not_stored) = (count(&self.stored), count(&self.there), count(&self.not_stored));
        let (done, stopped) = (stored + there + not_stored, self.stopped.load(Ordering::Relaxed));
        Progress {
            id: self.id,
            started: self.started,
            total: self.total,
            done,
            stored,
            there,
            not_stored,
            failures: self.failures.lock().clone(),
            finished: self.ended.load(Ordering::Relaxed) || stopped,
            stopped,
        }
    }

    fn note(&self, wanted: &Wanted, outcome: Outcome) {
        let counter = match &outcome {
            Outcome::Stored => &self.stored,
            Outcome::There => &self.there,
            Outcome::Not(_) => &self.not_stored,
        };
        if let Outcome::Not(reason) = outcome {
            let mut failures = self.failures.lock();
            if failures.len() < MOST_FAILURES {
                failures.push(Failure { url: wanted.url(), reason });
            }
        }
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

enum Outcome {
    Stored,
    There,
    Not(String),
}

impl Wanted {
    fn url(&self) -> String {
        let query = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}{}{query}", if self.tls { "https" } else { "http" }, self.host, self.path)
    }
}

async fn run(
    job: Arc<Job>,
    engine: Arc<Engine>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    wanted: Vec<Wanted>,
    at_once: usize,
    places: Arc<Semaphore>,
) {
    let mut running = JoinSet::new();
    for one in wanted {
        while running.len() >= at_once {
            running.join_next().await;
        }
        // An error means that there are no more places, which never happens.
        let Ok(place) = places.clone().acquire_owned().await else { break };
        if job.stopped.load(Ordering::Relaxed) {
            break;
        }
        let (job, engine, snapshot) = (job.clone(), engine.clone(), snapshot.load_full());
        running.spawn(async move {
            let _place = place;
            let outcome = fetch(&engine, &snapshot, &one).await;
            job.note(&one, outcome);
        });
    }
    while running.join_next().await.is_some() {}
    job.ended.store(true, Ordering::Relaxed);
}

/// Fetches one thing as a visitor's request would, and waits until all of it is there.
async fn fetch(engine: &Arc<Engine>, snapshot: &Arc<Snapshot>, wanted: &Wanted) -> Outcome {
    let scheme = if wanted.tls { Scheme::Https } else { Scheme::Http };
    let view = RequestView {
        method: &Method::GET,
        host: &wanted.host,
        port: wanted.port,
        local_port: wanted.local_port.unwrap_or(scheme.default_port()),
        authority: &wanted.host,
        path: &wanted.path,
        hides_dots: Target::parse(&wanted.path).is_ok_and(|target| target.hides_dots),
        query: wanted.query.as_deref(),
        fields: Fields::Map(&wanted.fields),
        // No visitor asks: an origin that trusts loopback must not take the node for one.
        client: Ipv4Addr::UNSPECIFIED.into(),
        scheme,
        version: Version::HTTP_11,
    };
    let matched = match plan(&snapshot.config, &view) {
        Plan::Cache(matched) => matched,
        Plan::Refuse { why, .. } => return Outcome::Not(why.to_owned()),
        Plan::Pass(..) | Plan::Tunnel(_) | Plan::Purge { .. } => {
            return Outcome::Not("the route does not cache".to_owned());
        }
    };
    let mut key = String::new();
    matched.write_key(&mut key, snapshot.sites[matched.site_index].version(), &view);
    let asks = ClientDirectives::default();
    let request = CacheRequest { view: &view, snapshot, matched, key: &key, slice: None, asks, interims: None };
    let answer = match engine.cache.look_up(&request, Timestamp::now()).await {
        Lookup::Hit(..) | Lookup::PartHit(..) => return Outcome::There,
        Lookup::StaleHit(object, _) => engine.get(&request, Miss::of(Some(object), Why::Stale)).await,
        Lookup::NotForAuthorized => {
            return Outcome::Not("what is stored is not for requests with Authorization".to_owned());
        }
        Lookup::HitForMiss => return Outcome::Not("it was found not cacheable a short while ago".to_owned()),
        Lookup::Miss(miss) => engine.get(&request, miss).await,
    };
    match answer {
        Ok((answer, report)) => match drain(answer).await {
            Ok(()) => match outcome(&report) {
                // What the head promised may have come to nothing for want of room.
                Outcome::Stored if matched.route.cache.slice.is_none() && !is_there(engine, &request).await => {
                    Outcome::Not("there was no room for it".to_owned())
                }
                outcome => outcome,
            },
            Err(error) => Outcome::Not(error),
        },
        Err(failed) => Outcome::Not(failed.error.to_string()),
    }
}

async fn is_there(engine: &Arc<Engine>, request: &CacheRequest<'_>) -> bool {
    match engine.cache.look_up(request, Timestamp::now()).await {
        Lookup::Hit(..) | Lookup::PartHit(..) | Lookup::StaleHit(..) => true,
        Lookup::Miss(miss) => miss.stale.is_some() || miss.part.is_some(),
        Lookup::HitForMiss | Lookup::NotForAuthorized => false,
    }
}

fn outcome(report: &Report) -> Outcome {
    match report {
        Report::Forward(Forward { stored: Stored::Yes { .. } | Stored::IfItFits { .. }, .. }) => Outcome::Stored,
        Report::Forward(Forward { stored: Stored::No(reason), .. }) => Outcome::Not(reason.as_str().to_owned()),
        Report::Hit { .. } | Report::HitStale { .. } | Report::HitMaxStale { .. } => Outcome::There,
        _ => Outcome::Not("it was not stored".to_owned()),
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
