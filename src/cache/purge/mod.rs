//! Invalidation by purge sequence. The node counts its purges; each object carries the count at which its
//! fill began. A purge is one record, in the log (durable) and in the table (in force), however many objects
//! it hits: an object is dead if a purge that hits it has a later number than its own.
//!
//! So a purge during a fill hits the object that the fill is about to store, and nothing has to be found or
//! deleted for a purge to work; the sweeper frees the memory afterwards.

mod history;
mod log;
mod record;
mod table;
mod writer;
mod writing;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::clock::Timestamp;

pub(crate) use history::{Freed, History, add_freed};
pub(crate) use log::LogError;
use log::PurgeLog;
pub use log::Replay;
pub use record::{Event, PurgeSeq, Record, Target};
pub(crate) use table::Identity;
use table::PurgeTable;
pub use table::Standing;
pub(crate) use writer::{CHANGE_PATIENCE, NotDurable, PURGE_PATIENCE};
use writing::Writing;

/// All purges of the node.
#[derive(Default)]
pub struct Purges {
    /// The newest purge in force; what most lookups need and nothing else.
    newest: AtomicU64,
    table: RwLock<PurgeTable>,
    /// Of sites whose version was set at run time: that, and the configured one when it was set.
    versions: RwLock<HashMap<String, (u64, u64)>>,
    /// What is in force but not in the log yet. Held from taking a number until the purge is in force, so that numbers come
    /// into force in order. Taken after `log`, if both are.
    unwritten: Mutex<Vec<Record>>,
    log: Mutex<PurgeLog>,
    /// Where the log is.
    directory: Option<PathBuf>,
    /// 0 until the log has one.
    log_id: AtomicU32,
    retired: AtomicU64,
    durable: AtomicU64,
    writing: Writing,
    pub history: History,
}

impl Purges {
    /// Replays the log in `state_dir`, or keeps purges in memory only when there is none.
    pub fn open(state_dir: Option<&Path>) -> Result<Self, LogError> {
        let log = state_dir.map_or_else(|| Ok(PurgeLog::default()), PurgeLog::open)?;
        let (log, directory) = (Mutex::new(log), state_dir.map(Path::to_owned));
        let purges = Purges { log, directory, ..Purges::default() };
        {
            let mut log = purges.log.lock();
            log.records.iter().for_each(|record| purges.put_in_force(record));
            if purges.log_id() == 0 {
                let event = Event::Log { id: fastrand::u32(1..) };
                let record = Record { seq: purges.current(), time: Timestamp::now(), event };
                log.append(std::slice::from_ref(&record))?;
                purges.put_in_force(&record);
            }
            purges.durable.store(log.newest.0, Ordering::Release);
        }
        Ok(purges)
    }

    /// The number of the newest purge in force.
    pub fn current(&self) -> PurgeSeq {
        PurgeSeq(self.newest.load(Ordering::Acquire))
    }

    /// Where all that must outlive the process is.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Whether a restart would undo nothing.
    pub fn is_all_written(&self) -> bool {
        self.unwritten.lock().is_empty()
    }

    /// The newest number that a restart knows of.
    pub fn durable(&self) -> PurgeSeq {
        PurgeSeq(self.durable.load(Ordering::Acquire))
    }

    /// Whether something is still to be used, by all purges since its own.
    pub fn standing(&self, of: &Identity<'_>) -> Standing {
        if of.seq >= self.current() {
            return Standing::Live;
        }
        let table = self.table.read();
        // Purges are forgotten that may have hit it: nobody knows any more.
        if of.seq < self.retired() {
            return Standing::Dead;
        }
        table.standing(of)
    }

    /// The version a site has: set at run time, unless the configuration has changed its own since.
    pub fn version_of(&self, site: &str, configured: u64) -> u64 {
        match self.versions.read().get(site) {
            Some((version, when_set)) if *when_set == configured => *version,
            _ => configured,
        }
    }

    /// Whether a version was set at run time and the configuration has changed its own since.
    pub fn is_overruled(&self, site: &str, configured: u64) -> bool {
        self.versions.read().get(site).is_some_and(|(_, when_set)| *when_set != configured)
    }

    /// Forgets the purges that nothing stored or being filled is older than.
    pub fn retire(self: &Arc<Self>, oldest_in_use: PurgeSeq) {
        let oldest_in_use = oldest_in_use.min(self.durable());
        self.retired.fetch_max(oldest_in_use.0, Ordering::AcqRel);
        self.table.write().retire(oldest_in_use);
        self.compact(oldest_in_use);
    }

    /// Up to which purges are forgotten.
    pub fn retired(&self) -> PurgeSeq {
        PurgeSeq(self.retired.load(Ordering::Acquire))
    }

    /// The purge that killed something: of several the first that is still known.
    pub fn killer(&self, of: &Identity<'_>) -> Option<PurgeSeq> {
        self.table.read().killer(of)
    }

    /// What purges are in force for: each target with its newest purge.
    pub fn in_force(&self) -> Vec<(Target, PurgeSeq)> {
        self.table.read().targets()
    }

    /// Tells this log from all others: sequences of another log say nothing here.
    pub fn log_id(&self) -> u32 {
        self.log_id.load(Ordering::Relaxed)
    }

    /// How many marks the table holds, for the metrics.
    pub fn marks(&self) -> usize {
        self.table.read().len()
    }

    fn put_in_force(&self, record: &Record) {
        match &record.event {
            Event::Purge { soft, targets } => {
                self.history.note(record);
                self.table.write().mark(targets, *soft, record.seq, record.time);
            }
            Event::Version { site, version, configured } => {
                self.versions.write().insert(site.clone(), (*version, *configured));
            }
            Event::Retired { up_to } => _ = self.retired.fetch_max(up_to.0, Ordering::AcqRel),
            Event::Log { id } => self.log_id.store(*id, Ordering::Relaxed),
        }
        self.newest.store(record.seq.0, Ordering::Release);
    }
}

/// A purge that has not happened: what would it hit?
pub(crate) struct DryRun(PurgeTable);

impl DryRun {
    pub(crate) fn of(targets: &[Target]) -> Self {
        let mut table = PurgeTable::default();
        table.mark(targets, false, PurgeSeq(u64::MAX), Timestamp::default());
        DryRun(table)
    }

    pub(crate) fn hits(&self, what: &Identity<'_>) -> bool {
        self.0.standing(what) == Standing::Dead
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::Key;

    fn open(directory: Option<&Path>) -> Arc<Purges> {
        Arc::new(Purges::open(directory).unwrap())
    }

    fn append_for(
        purges: &Arc<Purges>,
        event: Event,
        now: Timestamp,
        patience: Duration,
    ) -> Result<PurgeSeq, NotDurable> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(purges.append(event, now, patience))
    }

    fn append(purges: &Arc<Purges>, event: Event, now: Timestamp) -> Result<PurgeSeq, NotDurable> {
        append_for(purges, event, now, PURGE_PATIENCE)
    }

    /// Of something that carries this number.
    fn standing(purges: &Purges, seq: u64) -> Standing {
        purges.standing(&Identity { key: Key::of_written("shop\u{1f}1\u{1f}h/a"), tags: &[], seq: PurgeSeq(seq) })
    }

    fn purge_all() -> Event {
        Event::Purge { soft: false, targets: vec![Target::All] }
    }

    #[test]
    fn a_reopened_log_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(Some(directory.path()));
        assert_eq!(append(&first, purge_all(), Timestamp::from_secs(1)).unwrap(), PurgeSeq(1));
        let version = Event::Version { site: "shop".into(), version: 9, configured: 1 };
        assert_eq!(append(&first, version, Timestamp::from_secs(2)).unwrap(), PurgeSeq(2));
        drop(first);
        let second = open(Some(directory.path()));
        assert_eq!(second.current(), PurgeSeq(2));
        assert_eq!(second.marks(), 1);
        assert_eq!((second.version_of("shop", 1), second.version_of("shop", 2)), (9, 2));
    }

    #[test]
    fn what_cannot_be_written_is_in_force_and_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let purges = open(Some(directory.path()));
        let full = std::fs::OpenOptions::new().append(true).open("/dev/full").unwrap();
        let log = purges.log.lock().exchange_file(full);
        assert!(append(&purges, purge_all(), Timestamp::from_secs(1)).is_err());
        assert_eq!((purges.current(), standing(&purges, 0)), (PurgeSeq(1), Standing::Dead));
        assert_eq!((purges.is_all_written(), purges.durable()), (false, PurgeSeq(0)));
        purges.log.lock().exchange_file(log);
        purges.settle(PURGE_PATIENCE);
        assert_eq!((purges.is_all_written(), purges.durable()), (true, PurgeSeq(1)));
        assert_eq!(append(&purges, purge_all(), Timestamp::from_secs(2)).unwrap(), PurgeSeq(2));
        drop(purges);
        let records = std::fs::read_to_string(directory.path().join("purge.log")).unwrap();
        assert_eq!(records.lines().count(), 3, "{records}");
        assert_eq!(open(Some(directory.path())).current(), PurgeSeq(2));
    }

    #[test]
    fn a_log_that_hangs_holds_up_nobody_for_long_and_is_written_when_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let purges = open(Some(directory.path()));
        let hangs = purges.log.lock(); // whoever writes waits for it
        for number in 1..=2 {
            let slow = append_for(&purges, purge_all(), Timestamp::from_secs(number), Duration::from_millis(10));
            assert!(matches!(slow, Err(NotDurable::Slow(_))), "{slow:?}");
            assert_eq!(purges.current(), PurgeSeq(number), "in force");
        }
        purges.retire(PurgeSeq(2));
        assert_eq!(purges.marks(), 1, "nothing is forgotten that a restart does not know of");
        drop(hangs);
        purges.settle(PURGE_PATIENCE);
        assert_eq!((purges.is_all_written(), purges.durable()), (true, PurgeSeq(2)));
    }

    #[test]
    fn nothing_is_written_after_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let (before, url) = (open(Some(directory.path())), Target::Url { site: "shop".into(), uri: "h/a".into() });
        append(&before, purge_all(), Timestamp::from_secs(1)).unwrap();
        before.close(PURGE_PATIENCE);
        let after = open(Some(directory.path()));
        assert_eq!(append(&after, purge_all(), Timestamp::from_secs(2)).unwrap(), PurgeSeq(2));
        let late = append(&before, Event::Purge { soft: false, targets: vec![url] }, Timestamp::from_secs(3));
        assert!(matches!(late, Err(NotDurable::HandedOver)), "{late:?}");
        before.retire(PurgeSeq(2));
        drop((before, after));
        assert_eq!(open(Some(directory.path())).current(), PurgeSeq(2));
    }

    #[test]
    fn nothing_is_known_of_what_is_older_than_what_is_forgotten() {
        let purges = open(None);
        let url = Target::Url { site: "shop".into(), uri: "h/other".into() };
        let purge = || Event::Purge { soft: false, targets: vec![url.clone()] };
        append(&purges, purge(), Timestamp::from_secs(1)).unwrap();
        append(&purges, purge(), Timestamp::from_secs(2)).unwrap();
        purges.retire(PurgeSeq(1));
        assert_eq!([standing(&purges, 0), standing(&purges, 1)], [Standing::Dead, Standing::Live]);
    }

    #[test]
    fn a_version_in_the_log_is_dropped_only_for_a_later_one_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let purges = open(Some(directory.path()));
        let version = |version| Event::Version { site: "shop".into(), version, configured: 1 };
        append(&purges, version(7), Timestamp::from_secs(0)).unwrap();
        for _ in 0..=log::COMPACT_ABOVE {
            append(&purges, purge_all(), Timestamp::from_secs(0)).unwrap();
        }
        let mut log = purges.log.lock();
        purges.put(version(8), Timestamp::from_secs(0)); // in force, and not written
        log.compact(purges.durable()).unwrap();
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(directory.path().join("purge.log"), copy.path().join("purge.log")).unwrap();
        drop(log);
        let after_a_crash = open(Some(copy.path()));
        assert!(after_a_crash.current() >= PurgeSeq(log::COMPACT_ABOVE as u64));
        assert_eq!(after_a_crash.version_of("shop", 1), 7);
        purges.settle(PURGE_PATIENCE);
    }

    #[test]
    fn compaction_keeps_the_count_the_versions_and_what_is_still_needed() {
        let directory = tempfile::tempdir().unwrap();
        let purges = open(Some(directory.path()));
        for version in 1..=3 {
            let event = Event::Version { site: "shop".into(), version, configured: 1 };
            append(&purges, event, Timestamp::from_secs(0)).unwrap();
        }
        for _ in 0..log::COMPACT_ABOVE * 2 {
            append(&purges, purge_all(), Timestamp::from_secs(0)).unwrap();
        }
        let url = Target::Url { site: "shop".into(), uri: "h/a".into() };
        let last = append(&purges, Event::Purge { soft: true, targets: vec![url] }, Timestamp::from_secs(0)).unwrap();
        purges.retire(PurgeSeq(last.0 - 1));
        assert_eq!(purges.marks(), 1);
        purges.settle(PURGE_PATIENCE);
        let size = std::fs::metadata(directory.path().join("purge.log")).unwrap().len();
        assert!(size < 1000, "{size}");
        let purges = open(Some(directory.path()));
        assert_eq!((purges.current(), purges.marks(), purges.version_of("shop", 1)), (last, 1, 3));
    }
}
