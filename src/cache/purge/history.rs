//! The purges of late, and what came of them.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use serde::Serialize;

use crate::clock::Timestamp;

use super::record::{Event, PurgeSeq, Record, Target};

/// Purges that are remembered.
const MAX_PURGES: usize = 1000;
/// Targets that are shown of each.
const MAX_TARGETS: usize = 20;

/// One purge.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Past {
    pub seq: PurgeSeq,
    pub time: Timestamp,
    pub soft: bool,
    /// What it was for: the first of many.
    pub targets: Vec<String>,
    /// Of how many.
    pub targets_total: usize,
    pub state: State,
    /// What the sweeper has freed of what it killed.
    pub objects: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// What it hits is not served any more, but may still take room.
    InForce,
    /// Nothing that it hits is left.
    Swept,
}

/// What a sweep freed, by the purge that had killed it.
pub(crate) type Freed = HashMap<PurgeSeq, (u64, u64)>;

pub(crate) fn add_freed(freed: &mut Freed, killer: PurgeSeq, (objects, bytes): (u64, u64)) {
    let total = freed.entry(killer).or_default();
    *total = (total.0 + objects, total.1 + bytes);
}

#[derive(Default)]
pub struct History(Mutex<VecDeque<Past>>);

impl History {
    pub fn note(&self, record: &Record) {
        let Event::Purge { soft, targets } = &record.event else { return };
        let mut all = self.0.lock();
        if all.len() >= MAX_PURGES {
            all.pop_front();
        }
        all.push_back(Past {
            seq: record.seq,
            time: record.time,
            soft: *soft,
            targets: targets.iter().take(MAX_TARGETS).map(describe).collect(),
            targets_total: targets.len(),
            state: State::InForce,
            objects: 0,
            bytes: 0,
        });
    }

    /// Puts what the caller wrote in the place of what the log keeps: of tags that is only a hash.
    pub fn name(&self, seq: PurgeSeq, targets: Vec<String>) {
        if let Some(past) = self.0.lock().iter_mut().rev().find(|past| past.seq == seq) {
            past.targets = targets.into_iter().take(MAX_TARGETS).collect();
        }
    }

    /// A sweep has gone through all that is stored; `up_to`: the newest purge then.
    pub fn swept(&self, freed: &Freed, up_to: Option<PurgeSeq>) {
        for past in self.0.lock().iter_mut() {
            if let Some((objects, bytes)) = freed.get(&past.seq) {
                past.objects += objects;
                past.bytes += bytes;
            }
            if up_to.is_some_and(|up_to| past.seq <= up_to) {
                past.state = State::Swept;
            }
        }
    }

    /// The newest first.
    pub fn latest(&self, most: usize) -> Vec<Past> {
        self.0.lock().iter().rev().take(most).cloned().collect()
    }

    pub fn get(&self, seq: PurgeSeq) -> Option<Past> {
        self.0.lock().iter().find(|past| past.seq == seq).cloned()
    }
}

fn describe(target: &Target) -> String {
    match target {
        Target::Url { site, uri } => format!("url {uri} of site {site}"),
        Target::Prefix { site, prefix } => format!("prefix {prefix} of site {site}"),
        Target::Tag { site: Some(site), tag } => format!("tag #{:016x} of site {site}", tag.0),
        Target::Tag { site: None, tag } => format!("tag #{:016x}", tag.0),
        Target::Site { site } => format!("site {site}"),
        Target::All => "all".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_purges_is_remembered_for_a_while() {
        let history = History::default();
        for seq in 1..=MAX_PURGES as u64 + 5 {
            let event = Event::Purge { soft: false, targets: vec![Target::All; 30] };
            history.note(&Record { seq: PurgeSeq(seq), time: Timestamp::from_secs(seq), event });
        }
        assert_eq!(history.get(PurgeSeq(5)), None);
        history.swept(&Freed::from([(PurgeSeq(10), (3, 300))]), Some(PurgeSeq(11)));
        let past = history.get(PurgeSeq(10)).unwrap();
        assert_eq!((past.state, past.objects, past.bytes, past.targets.len()), (State::Swept, 3, 300, MAX_TARGETS));
        assert_eq!(past.targets_total, 30);
        assert_eq!(history.get(PurgeSeq(12)).unwrap().state, State::InForce);
        history.swept(&Freed::new(), None);
        assert_eq!(history.get(PurgeSeq(12)).unwrap().state, State::InForce, "not all was looked at");
        assert_eq!(history.latest(2)[0].seq, PurgeSeq(MAX_PURGES as u64 + 5));
    }
}
