//! Compression in the background: a few threads of low priority that code what was stored and add it to the object.
//! A request never waits for them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::config::model::Coding;
use crate::observe::metrics::Metrics;

use super::coding;
use super::object::Object;
use super::store::MemoryStore;

/// Objects that may wait, and their bytes; what would be more stays as it is.
const MAX_JOBS: usize = 4096;
const MAX_WAITING_BYTES: u64 = 64 << 20;
/// How often an object may be confirmed while its codings are set.
const MAX_ROUNDS: usize = 8;
/// Of the threads: whoever answers requests goes first.
const NICE: i32 = 10;

/// The threads, through their queue. They end when it is dropped.
pub(crate) struct Compressor {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    memory: MemoryStore,
    metrics: Arc<Metrics>,
    waiting_bytes: AtomicU64,
}

struct Job {
    /// What is evicted while it waits is not kept for it.
    object: Weak<Object>,
    length: u64,
    codings: Arc<[Coding]>,
    /// Whether it is being done, for all objects with this body.
    begun: Arc<AtomicBool>,
}

impl Compressor {
    pub(crate) fn start(threads: usize, memory: MemoryStore, metrics: Arc<Metrics>) -> Self {
        let (jobs, queue) = sync_channel(MAX_JOBS);
        let queue = Arc::new(Mutex::new(queue));
        let shared = Arc::new(Shared { memory, metrics, waiting_bytes: AtomicU64::new(0) });
        for number in 0..threads {
            let (queue, shared) = (queue.clone(), shared.clone());
            let thread = std::thread::Builder::new().name(format!("compress-{number}"));
            if let Err(error) = thread.spawn(move || work(&queue, &shared)) {
                tracing::error!(%error, "a thread that compresses could not be started; less will be compressed");
            }
        }
        Compressor { jobs, shared }
    }

    /// Has an object coded, if there is room in the queue.
    pub(crate) fn offer(&self, object: Arc<Object>, codings: Arc<[Coding]>) {
        let Some(begun) = object.begin_coding() else { return };
        let length = object.length();
        let waiting = self.shared.waiting_bytes.fetch_add(length, Ordering::Relaxed);
        // A single one may be larger than the bound.
        let room = waiting == 0 || waiting + length <= MAX_WAITING_BYTES;
        let job = Job { object: Arc::downgrade(&object), begun: begun.clone(), length, codings };
        if !room || self.jobs.try_send(job).is_err() {
            begun.store(false, Ordering::Release);
            self.shared.waiting_bytes.fetch_sub(length, Ordering::Relaxed);
            self.shared.metrics.compress_skipped.inc();
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, shared: &Shared) {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "a thread that compresses runs at full priority");
    }
    loop {
        let job = queue.lock().recv();
        let Ok(Job { object, begun, length, codings }) = job else { return };
        match object.upgrade() {
            Some(object) => code(&object, &codings, shared),
            // It has gone; if that is since it was confirmed, the one in its place is offered at its next use.
            None => begun.store(false, Ordering::Release),
        }
        shared.waiting_bytes.fetch_sub(length, Ordering::Relaxed);
    }
}

fn code(object: &Object, codings: &[Coding], shared: &Shared) {
    let mut coded = encode_all(object, codings, shared);
    // What has no room beside the body is left out: it is not to cost the object its place.
    let mut room = shared.memory.room_to_grow(object.key().as_str());
    coded.retain(|(_, body)| {
        let weight = (body.len() + object.weight_beside_body()) as u64; // with a head of its own
        let fits = weight <= room;
        room -= if fits { weight } else { 0 };
        fits
    });
    // It may have been confirmed meanwhile, and may be again: then another object has this body. Who confirms it looks, too,
    // whether there is something now, once the other is stored.
    let mut current = shared.memory.with_body_of(object);
    for _ in 0..MAX_ROUNDS {
        let Some(coding) = current else { return };
        coding.set_codings(coded.iter().cloned());
        if !coded.is_empty() {
            shared.memory.weigh_again(&coding);
        }
        current = shared.memory.with_body_of(object).filter(|now| !Arc::ptr_eq(now, &coding));
    }
}

fn encode_all(object: &Object, codings: &[Coding], shared: &Shared) -> Vec<(Coding, Bytes)> {
    let mut out = Vec::new();
    let Some(plain) = object.content.in_memory() else { return out };
    for coding in codings {
        // A fault of a library must not end compression for good.
        match std::panic::catch_unwind(|| coding::encode(*coding, plain)) {
            Ok(Ok(Some(body))) => {
                shared.metrics.compressed(coding.as_str(), plain.len(), body.len());
                out.push((*coding, body));
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(key = object.key().uri(), ?coding, %error, "it could not be compressed"),
            Err(_) => tracing::error!(key = object.key().uri(), ?coding, "compressing it failed badly"),
        }
    }
    out
}
