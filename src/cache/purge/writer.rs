//! Writing to the purge log: one thread at a time does it, for all who wait. A state directory that hangs holds up that
//! thread and nobody else; who waits for it is told after a while.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clock::Timestamp;

use super::Purges;
use super::log::{LogError, PurgeLog};
use super::record::{Event, PurgeSeq, Record, Target};
use super::writing::{Attempt, Wanted};

/// How long whoever purges waits for the disk.
pub(crate) const PURGE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer to a request waits that has changed something.
pub(crate) const CHANGE_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether the thread is done, when the process ends.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Purges that cannot be written one by one; above it, a restart takes everything older for purged.
const MAX_UNWRITTEN: usize = 10_000;

/// Why what is in force may be undone by a restart.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotDurable {
    #[error("{0}")]
    Failed(Arc<LogError>),
    #[error("the state directory has not answered for {} s", .0.as_secs())]
    Slow(Duration),
    #[error("the node is stopping, and has given its state to the process that comes next")]
    HandedOver,
}

impl Purges {
    /// Puts an event in force and has it written. If that fails it is written with the next one or by the next sweep; only a
    /// restart before that would undo it.
    pub fn put(self: &Arc<Self>, event: Event, now: Timestamp) -> PurgeSeq {
        let seq = {
            let mut unwritten = self.unwritten.lock();
            let record = Record { seq: PurgeSeq(self.current().0.saturating_add(1)), time: now, event };
            self.put_in_force(&record);
            unwritten.push(record);
            coarsen(&mut unwritten);
            self.current()
        };
        self.flush();
        seq
    }

    /// As [`Purges::put`]; what it gives waits until it is durable.
    pub fn append(
        self: &Arc<Self>,
        event: Event,
        now: Timestamp,
        patience: Duration,
    ) -> impl Future<Output = Result<PurgeSeq, NotDurable>> + Send + use<> {
        let attempts = self.writing.attempts.subscribe();
        let seq = self.put(event, now);
        self.clone().durable_by(seq, attempts, patience)
    }

    async fn durable_by(
        self: Arc<Self>,
        seq: PurgeSeq,
        mut attempts: watch::Receiver<Attempt>,
        patience: Duration,
    ) -> Result<PurgeSeq, NotDurable> {
        let is_closed = self.writing.wanted.lock().closed;
        let patience = if is_closed { Duration::ZERO } else { patience };
        let done = tokio::time::timeout(patience, attempts.wait_for(|attempt| attempt.up_to >= seq)).await;
        let error = done.ok().and_then(|attempt| attempt.ok()?.error.clone());
        match error {
            _ if self.durable() >= seq => Ok(seq),
            Some(error) => Err(NotDurable::Failed(error)),
            None if is_closed => Err(NotDurable::HandedOver),
            None => Err(NotDurable::Slow(patience)),
        }
    }

    /// Has what is not written yet written.
    pub fn flush(self: &Arc<Self>) {
        self.start(|_| {});
    }

    /// Writes what is not written yet, and then nothing more: the log may be another process's. Tries for so long; call it where
    /// blocking is allowed.
    pub fn close(self: &Arc<Self>, patience: Duration) {
        if !self.settle(patience) {
            tracing::error!("purges could not be written: the next start does not know of them");
        }
        self.writing.wanted.lock().closed = true;
    }

    /// Writes what is not written yet; tries for so long. Whether all is.
    pub(super) fn settle(self: &Arc<Self>, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            self.flush();
            let is_done = self.is_all_written() && !self.writing.wanted.lock().running;
            if is_done || Instant::now() > deadline {
                return is_done;
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Has the log written anew without the purges that are forgotten, if that is worth it.
    pub(super) fn compact(self: &Arc<Self>, retired: PurgeSeq) {
        self.start(|wanted| wanted.compact = Some(retired));
    }

    fn start(self: &Arc<Self>, want: impl FnOnce(&mut Wanted)) {
        let mut wanted = self.writing.wanted.lock();
        want(&mut wanted);
        let is_idle = wanted.closed || wanted.compact.is_none() && self.is_all_written();
        if is_idle || std::mem::replace(&mut wanted.running, true) {
            return;
        }
        if self.directory.is_none() {
            drop(wanted);
            return self.work(); // it waits for no disk
        }
        let purges = self.clone();
        let thread = std::thread::Builder::new().name("purge-log".into());
        if let Err(source) = thread.spawn(move || purges.work()) {
            wanted.running = false;
            let error = LogError::of("there is no thread to write", Path::new("purge.log"))(source);
            self.tell(self.current(), Err(error));
        }
    }

    /// Does what is to be done, until there is nothing more or it fails.
    fn work(&self) {
        let mut log = self.log.lock();
        loop {
            let compact = self.writing.wanted.lock().compact.take();
            let (up_to, written) = self.write(&mut log);
            let has_failed = written.is_err();
            self.tell(up_to, written);
            if let Some(retired) = compact.filter(|_| !has_failed)
                && let Err(error) = log.compact(retired)
            {
                tracing::warn!(%error, "cannot compact the purge log; it will be tried again");
            }
            let mut wanted = self.writing.wanted.lock();
            let newest = self.unwritten.lock().last().map(|record| record.seq);
            // What has come since is tried at once, also after a failure: somebody waits for it.
            if wanted.compact.is_none() && newest.is_none_or(|newest| has_failed && newest <= up_to) {
                wanted.running = false;
                return;
            }
        }
    }

    /// Writes what is not written yet, with what others have added meanwhile. Gives up to which number it was tried.
    fn write(&self, log: &mut PurgeLog) -> (PurgeSeq, Result<(), LogError>) {
        let records = std::mem::take(&mut *self.unwritten.lock());
        let Some(last) = records.last().map(|record| record.seq) else { return (log.newest, Ok(())) };
        let written = log.append(&records);
        self.durable.store(log.newest.0, Ordering::Release);
        if written.is_err() {
            let mut unwritten = self.unwritten.lock();
            let later = std::mem::replace(&mut *unwritten, records);
            unwritten.extend(later);
        }
        (last, written)
    }

    /// Tells those who wait, and of a failure the operator, once.
    fn tell(&self, up_to: PurgeSeq, written: Result<(), LogError>) {
        let error = written.err().map(Arc::new);
        let had_failed = self.writing.attempts.send_replace(Attempt { up_to, error: error.clone() }).error.is_some();
        if let Some(error) = error.filter(|_| !had_failed) {
            tracing::error!(%error, "purges are in force, but cannot be written: a restart would undo them");
        }
    }
}

/// Bounds what waits for a log that cannot be written.
fn coarsen(unwritten: &mut Vec<Record>) {
    let is_purge = |record: &Record| matches!(record.event, Event::Purge { .. });
    let Some(last) = unwritten.last().filter(|last| unwritten.len() > MAX_UNWRITTEN && is_purge(last)) else { return };
    let all = Record { event: Event::Purge { soft: false, targets: vec![Target::All] }, ..last.clone() };
    unwritten.retain(|record| !is_purge(record));
    unwritten.push(all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_log_is_bounded() {
        let mut unwritten = Vec::new();
        for seq in 1..=MAX_UNWRITTEN as u64 + 5 {
            let event = match seq {
                3 => Event::Version { site: "shop".into(), version: 9, configured: 1 },
                _ => Event::Purge { soft: true, targets: Vec::new() },
            };
            unwritten.push(Record { seq: PurgeSeq(seq), time: Timestamp::from_secs(seq), event });
            coarsen(&mut unwritten);
        }
        let seqs: Vec<u64> = unwritten.iter().map(|record| record.seq.0).collect();
        assert_eq!(seqs, [3, 10_001, 10_002, 10_003, 10_004, 10_005]);
    }
}
