//! The purge log on disk: one line a record, `CRC32 JSON`, appended and synced before a purge is answered.
//!
//! A crash can tear the last line; it is then cut off, since its purge was never answered. A damaged line
//! before the last is another matter: a purge that was answered is lost. As nobody knows what it hit,
//! everything older is treated as purged. So is a number that is not above the one before: two processes wrote. What is
//! there twice is not damage: it was written again since the disk did not say that it had it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::clock::Timestamp;

use super::super::durable::{self, if_there, sync_parent};
use super::record::{Event, PurgeSeq, Record, Target};

/// The log is rewritten when its records have more targets than this and most of them are no longer needed.
pub(crate) const COMPACT_ABOVE: usize = 4096;

/// No log has counted so far: a higher number is a damaged one.
const HIGHEST: u64 = u64::MAX / 2;

#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct LogError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl LogError {
    pub(super) fn of(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| LogError { what, path, source }
    }
}

/// Where records are kept.
#[derive(Default)]
pub(crate) struct PurgeLog {
    /// `None`: the node has no state directory. Purges end with the process then, as its memory tier does.
    file: Option<LogFile>,
    /// What is in it. Of one in memory nothing is kept.
    pub(super) records: Vec<Record>,
    /// The highest number in it: the newest that a restart knows of.
    pub(super) newest: PurgeSeq,
    /// Something that was not wholly written could not be cut off: the file is written anew before anything follows it.
    dirty: bool,
}

struct LogFile {
    path: PathBuf,
    file: File,
}

impl PurgeLog {
    /// Opens or creates `purge.log` in a directory and reads what is in it.
    pub(crate) fn open(directory: &Path) -> Result<Self, LogError> {
        let path = directory.join("purge.log");
        let fail = |what| LogError::of(what, &path);
        std::fs::create_dir_all(directory).map_err(fail("cannot create the directory of the purge log"))?;
        let text = if_there(std::fs::read(&path)).map_err(fail("cannot read the purge log"))?;
        if text.is_none() && directory.join("disks.json").exists() {
            tracing::warn!(
                path = %path.display(),
                "the purge log is gone and is begun anew: what disks have is not believed without it, and is removed"
            );
        }
        let text = text.unwrap_or_default();
        let Replay { records, intact, damaged, .. } = Replay::of(&text);
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(fail("cannot open the purge log"))?;
        if intact < text.len() {
            let what = match intact {
                0 => {
                    "the purge log begins with what is no record, torn by a crash or not of a purge log, and is begun anew"
                }
                _ => "the purge log's last record was torn by a crash and is cut off; its purge was never confirmed",
            };
            tracing::warn!(path = %path.display(), bytes = text.len() - intact, "{what}");
            file.set_len(intact as u64).map_err(fail("cannot cut off the torn end of the purge log"))?;
        }
        file.sync_all().and_then(|()| sync_parent(&path)).map_err(fail("cannot sync the purge log"))?;
        let newest = records.last().map_or(PurgeSeq(0), |record| record.seq);
        let mut log = PurgeLog { file: Some(LogFile { path, file }), records, newest, dirty: false };
        if damaged > 0 {
            let seq = PurgeSeq(newest.0.saturating_add(damaged as u64));
            tracing::error!(
                records = damaged,
                "records in the purge log are damaged; as their purges are lost, everything stored before is treated as purged"
            );
            let all = Event::Purge { soft: false, targets: vec![Target::All] };
            log.records.push(Record { seq, time: Timestamp::now(), event: all });
            log.newest = seq;
            // Without the damaged lines, so that the next start does not find them again.
            log.rewrite()?;
        }
        Ok(log)
    }

    /// Appends records and waits until the disk has them: all or none.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        if self.dirty {
            self.rewrite()?;
        }
        if let Some(log) = &mut self.file {
            let before = log.file.metadata().map(|meta| meta.len());
            let lines: Vec<u8> = records.iter().flat_map(line).collect();
            let result = log.file.write_all(&lines).and_then(|()| log.file.sync_data());
            if let Err(source) = result {
                // Cut a half-written line off again, so that later records don't follow a damaged one.
                // The first error is what the operator must see.
                self.dirty = before.and_then(|length| log.file.set_len(length)).is_err();
                return Err(LogError::of("cannot append to the purge log", &log.path)(source));
            }
            self.records.extend_from_slice(records);
        }
        self.newest = records.last().map_or(self.newest, |record| record.seq);
        Ok(())
    }

    /// Puts another file in the place of the log's.
    #[cfg(test)]
    pub(super) fn exchange_file(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file.as_mut().unwrap().file, file)
    }

    /// Rewrites the log without the purges up to `retired`, which are forgotten, and the versions that later ones of their
    /// sites replace, when that is worth it.
    pub(crate) fn compact(&mut self, retired: PurgeSeq) -> Result<(), LogError> {
        // By what is in the log: what is in force may not be written yet.
        let mut versions: HashMap<&str, PurgeSeq> = HashMap::new();
        for record in &self.records {
            if let Event::Version { site, .. } = &record.event {
                versions.insert(site, record.seq);
            }
        }
        let needed = |record: &&Record| match &record.event {
            Event::Purge { .. } => record.seq > retired,
            Event::Version { site, .. } => versions.get(site.as_str()) == Some(&record.seq),
            Event::Retired { .. } => false,
            Event::Log { .. } => true,
        };
        let all: usize = self.records.iter().map(size).sum();
        let keep: usize = self.records.iter().filter(needed).map(size).sum();
        if all < COMPACT_ABOVE || keep > all / 2 {
            return Ok(());
        }
        self.records = self.records.iter().filter(needed).cloned().collect();
        // Its number goes on counting where the log was.
        let event = Event::Retired { up_to: retired };
        self.records.push(Record { seq: self.newest, time: Timestamp::now(), event });
        self.rewrite()
    }

    fn rewrite(&mut self) -> Result<(), LogError> {
        let Some(log) = &mut self.file else { return Ok(()) };
        self.dirty = true; // until all of it is done, the directory's part too
        let lines: Vec<u8> = self.records.iter().flat_map(line).collect();
        let rewritten = durable::replace(&log.path, &log.path.with_extension("log.new"), &lines)
            .and_then(|()| OpenOptions::new().append(true).open(&log.path));
        // Until then `file` may not be the log any more: what is appended to it is lost.
        log.file = rewritten.map_err(LogError::of("cannot rewrite the purge log", &log.path))?;
        self.dirty = false;
        Ok(())
    }
}

fn line(record: &Record) -> Vec<u8> {
    // A record has only strings, numbers and lists of them, which JSON can always hold.
    let json = serde_json::to_string(record).unwrap_or_default();
    durable::line(&json).into_bytes()
}

/// What a record takes, in targets.
fn size(record: &Record) -> usize {
    match &record.event {
        Event::Purge { targets, .. } => targets.len().max(1),
        _ => 1,
    }
}

/// What a log's text says.
pub struct Replay {
    pub records: Vec<Record>,
    /// How many bytes from the start are whole lines.
    pub intact: usize,
    /// Whole lines that are not records, and records whose number is not above those before.
    pub damaged: usize,
    /// The highest number so far, as it was written.
    highest: u64,
}

impl Replay {
    pub fn of(text: &[u8]) -> Self {
        let mut replay = Replay { records: Vec::new(), intact: 0, damaged: 0, highest: 0 };
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let last = replay.intact + line.len() == text.len();
            match parse(line) {
                Some(record) => replay.take(record),
                // Without its end: torn in the act of writing. What has one was answered, and is damaged since.
                None if last && !line.ends_with(b"\n") => break,
                None => replay.damaged += 1,
            }
            replay.intact += line.len();
        }
        replay
    }

    fn take(&mut self, record: Record) {
        let mut not_older = self.records.iter().rev().take_while(|known| known.seq >= record.seq);
        if not_older.any(|known| *known == record) {
            return;
        }
        let before = self.records.last().map_or(0, |record| record.seq.0);
        let counts = u64::from(matches!(record.event, Event::Purge { .. } | Event::Version { .. }));
        let is_damaged = record.seq.0 < self.highest.saturating_add(counts);
        self.highest = self.highest.max(record.seq.0);
        self.damaged += usize::from(is_damaged);
        // Everything is purged then, and a purge needs no number of its own: those after it keep theirs.
        if !is_damaged || !matches!(record.event, Event::Purge { .. }) {
            let seq = record.seq.max(PurgeSeq(before.saturating_add(counts)));
            self.records.push(Record { seq, ..record });
        }
    }
}

fn parse(line: &[u8]) -> Option<Record> {
    let json = durable::text_of(line.strip_suffix(b"\n")?)?;
    serde_json::from_str(json).ok().filter(is_credible)
}

/// Whether its numbers are such as a log comes to.
fn is_credible(record: &Record) -> bool {
    record.seq.0 <= HIGHEST && !matches!(record.event, Event::Retired { up_to } if up_to.0 > HIGHEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64) -> Record {
        let targets = vec![Target::Url { site: "s".into(), uri: format!("h/{seq}") }];
        Record { seq: PurgeSeq(seq), time: Timestamp::from_secs(seq), event: Event::Purge { soft: false, targets } }
    }

    fn log_of(seqs: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        seqs.flat_map(|seq| line(&record(seq))).collect()
    }

    fn open(text: &[u8]) -> (tempfile::TempDir, Vec<Record>, PurgeLog) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("purge.log"), text).unwrap();
        let log = PurgeLog::open(directory.path()).unwrap();
        (directory, log.records.clone(), log)
    }

    fn reopened(directory: &tempfile::TempDir) -> Vec<Record> {
        PurgeLog::open(directory.path()).unwrap().records
    }

    #[test]
    fn a_torn_last_record_is_cut_off_wherever_it_was_torn() {
        let whole = log_of(1..=3);
        let two = log_of(1..=2).len();
        for cut in two..whole.len() {
            let (directory, records, mut log) = open(&whole[..cut]);
            assert_eq!(records, [record(1), record(2)], "cut at {cut}");
            log.append(&[record(4)]).unwrap();
            assert_eq!(reopened(&directory), [record(1), record(2), record(4)], "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_record_in_the_middle_purges_everything() {
        let mut text = log_of(1..=3);
        let second = log_of(1..=1).len() + 20;
        text[second] ^= 1;
        let (directory, records, _) = open(&text);
        let last = records.last().unwrap();
        assert_eq!(last.event, Event::Purge { soft: false, targets: vec![Target::All] });
        assert_eq!(last.seq, PurgeSeq(4));
        assert_eq!(reopened(&directory), records, "the damage is dealt with once");
    }

    #[test]
    fn a_number_that_was_given_twice_purges_everything() {
        for seqs in [[1, 2, 2, 3], [1, 5, 2, 3], [3, 4, 5, 1]] {
            // None is a copy of another.
            let numbered =
                |(time, seq): (usize, &u64)| Record { time: Timestamp::from_secs(time as u64), ..record(*seq) };
            let text: Vec<u8> = seqs.iter().enumerate().map(numbered).flat_map(|record| line(&record)).collect();
            let (directory, records, _) = open(&text);
            let last = records.last().unwrap();
            assert_eq!(last.event, Event::Purge { soft: false, targets: vec![Target::All] });
            assert!(seqs.iter().all(|seq| last.seq > PurgeSeq(*seq)), "{seqs:?}");
            assert_eq!(reopened(&directory), records, "the damage is dealt with once");
        }
    }

    #[test]
    fn what_was_written_twice_is_there_once() {
        for seqs in [&[1, 2, 2, 3][..], &[1, 2, 3, 2, 3], &[1, 1, 2, 3, 3, 3]] {
            let text: Vec<u8> = seqs.iter().flat_map(|seq| line(&record(*seq))).collect();
            assert_eq!(open(&text).1, [record(1), record(2), record(3)], "{seqs:?}");
        }
    }

    #[test]
    fn one_number_that_is_too_low_harms_no_later_one() {
        let late = Record { time: Timestamp::from_secs(9), ..record(2) };
        let text: Vec<u8> = [record(1), record(3), late, record(4), record(5)].iter().flat_map(line).collect();
        let seqs: Vec<u64> = open(&text).1.iter().map(|record| record.seq.0).collect();
        assert_eq!(seqs, [1, 3, 4, 5, 6]);
    }

    #[test]
    fn what_could_not_be_cut_off_is_not_followed_by_anything() {
        let (directory, _, mut log) = open(&log_of(1..=1));
        // It can be written no more than cut off.
        let path = directory.path().join("purge.log");
        let writable = log.exchange_file(File::open(&path).unwrap());
        assert!(log.append(&[record(2)]).is_err());
        drop(log.exchange_file(writable));
        std::fs::write(&path, [&log_of(1..=1)[..], b"torn"].concat()).unwrap();
        log.append(&[record(2)]).unwrap();
        assert_eq!(reopened(&directory), [record(1), record(2)]);
    }

    #[test]
    fn a_number_that_no_log_comes_to_is_damage() {
        for seq in [HIGHEST + 1, u64::MAX] {
            let damaged = Record { seq: PurgeSeq(seq), ..record(9) };
            let text: Vec<u8> = [record(1), damaged, record(2)].iter().flat_map(line).collect();
            let (_directory, records, _) = open(&text);
            let seqs: Vec<u64> = records.iter().map(|record| record.seq.0).collect();
            assert_eq!(seqs, [1, 2, 3]);
            assert_eq!(records[2].event, Event::Purge { soft: false, targets: vec![Target::All] });
        }
    }

    #[test]
    fn an_empty_or_foreign_file_does_not_stop_the_node() {
        assert_eq!(open(b"").1, []);
        assert_eq!(open(b"hello").1, []);
        assert_eq!(open(&[0xff, b'\n', 0xfe]).1.len(), 1, "a damaged line: everything is purged");
    }
}
