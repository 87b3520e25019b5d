//! Whether a disk is to be used. A single failed call is no reason to give it up; several in a row are.

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Timestamp;

use crate::cache::trouble::Trouble;

/// Failed calls in a row after which a disk is given up.
const STRIKES: u32 = 3;
/// How soon it is tried again, and how late at most.
const FIRST_PROBE: Duration = Duration::from_secs(1);
const LAST_PROBE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    InService,
    /// It cannot be written; what is there is still used.
    ReadOnly,
    OutOfService,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::InService => "in service",
            State::ReadOnly => "read only",
            State::OutOfService => "out of service",
        }
    }
}

/// What was being done when a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
}

pub struct Health {
    state: AtomicU8,
    /// Failed calls in a row, of each operation: a disk that still takes writes may not give back what it took.
    strikes: [AtomicU32; 2],
    last: Mutex<Last>,
}

#[derive(Debug, Clone)]
struct Last {
    /// Why it is not in service.
    reason: Option<String>,
    since: Timestamp,
    /// When it is tried again.
    probe_at: Timestamp,
    backoff: Duration,
}

impl Health {
    pub fn new(now: Timestamp) -> Self {
        Health {
            state: AtomicU8::new(State::InService as u8),
            strikes: [AtomicU32::new(0), AtomicU32::new(0)],
            last: Mutex::new(Last { reason: None, since: now, probe_at: now, backoff: FIRST_PROBE }),
        }
    }

    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::InService,
            1 => State::ReadOnly,
            _ => State::OutOfService,
        }
    }

    pub fn reason(&self) -> Option<String> {
        self.last.lock().reason.clone()
    }

    /// What keeps it from being read or written now.
    pub fn obstacle(&self, operation: Operation) -> Option<Trouble> {
        match (self.state(), operation) {
            (State::InService, _) | (State::ReadOnly, Operation::Read) => None,
            (State::ReadOnly, Operation::Write) => Some(Trouble::ReadOnly),
            (State::OutOfService, _) => Some(Trouble::OutOfService),
        }
    }

    pub fn success(&self, operation: Operation) {
        let strikes = &self.strikes[operation as usize];
        if strikes.load(Ordering::Relaxed) > 0 {
            strikes.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that a call failed. Whether the disk is given up by that.
    pub fn fault(&self, operation: Operation, error: &io::Error, now: Timestamp) -> bool {
        match Trouble::of(error) {
            // The disk itself is well.
            Trouble::Full | Trouble::NoDescriptors => false,
            Trouble::ReadOnly => self.enter(State::ReadOnly, error.to_string(), now),
            _ if self.strikes[operation as usize].fetch_add(1, Ordering::Relaxed) + 1 < STRIKES => false,
            _ if operation == Operation::Write => self.enter(State::ReadOnly, error.to_string(), now),
            _ => self.enter(State::OutOfService, error.to_string(), now),
        }
    }

    /// Gives it up. Whether that is news.
    pub fn enter(&self, state: State, reason: String, now: Timestamp) -> bool {
        let mut last = self.last.lock();
        let before = self.state();
        if before as u8 >= state as u8 {
            return false;
        }
        self.state.store(state as u8, Ordering::Release);
        // What fails again soon after it recovered is left alone for longer.
        let again = now.since(last.since) < LAST_PROBE && before == State::InService;
        let backoff = if again { (last.backoff * 2).min(LAST_PROBE) } else { FIRST_PROBE };
        *last = Last { reason: Some(reason), since: now, probe_at: now + backoff, backoff };
        true
    }

    /// Whether it is time to try it again; the next time is later then.
    pub fn probe_is_due(&self, now: Timestamp) -> bool {
        if self.state() == State::InService {
            return false;
        }
        let mut last = self.last.lock();
        // A clock that was set back must not put it off for long.
        let due = now >= last.probe_at || last.probe_at.since(now) > LAST_PROBE;
        if due {
            last.backoff = (last.backoff * 2).min(LAST_PROBE);
            last.probe_at = now + last.backoff;
        }
        due
    }

    /// It works again.
    pub fn recovered(&self, now: Timestamp) {
        let mut last = self.last.lock();
        (last.reason, last.since) = (None, now);
        self.strikes.iter().for_each(|strikes| strikes.store(0, Ordering::Relaxed));
        self.state.store(State::InService as u8, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn eio() -> io::Error {
        io::Error::from_raw_os_error(5)
    }

    #[test]
    fn it_is_given_up_after_several_faults_in_a_row() {
        for (operation, state) in [(Operation::Read, State::OutOfService), (Operation::Write, State::ReadOnly)] {
            let health = Health::new(at(0));
            assert!(!health.fault(operation, &eio(), at(0)));
            assert!(!health.fault(operation, &eio(), at(0)));
            let other = if operation == Operation::Read { Operation::Write } else { Operation::Read };
            health.success(operation);
            assert!(!health.fault(operation, &eio(), at(0)));
            assert!(!health.fault(operation, &eio(), at(0)));
            assert_eq!(health.state(), State::InService);
            health.success(other);
            assert!(health.fault(operation, &eio(), at(0)));
            assert_eq!(health.state(), state);
            assert!(!health.fault(operation, &eio(), at(0)), "no news");
        }
    }

    #[test]
    fn a_full_disk_is_not_a_broken_one_and_a_read_only_one_is_known_at_once() {
        let health = Health::new(at(0));
        for errno in [28, 122, 24, 23] {
            for _ in 0..5 {
                assert!(!health.fault(Operation::Write, &io::Error::from_raw_os_error(errno), at(0)));
            }
        }
        assert!(health.fault(Operation::Write, &io::Error::from_raw_os_error(30), at(0)));
        assert_eq!(health.obstacle(Operation::Write), Some(Trouble::ReadOnly));
        assert_eq!(health.obstacle(Operation::Read), None);
    }

    #[test]
    fn it_is_tried_again_less_and_less_often() {
        let health = Health::new(at(0));
        health.enter(State::OutOfService, "gone".into(), at(100));
        let probes: Vec<u64> = (100..1000).filter(|second| health.probe_is_due(at(*second))).collect();
        assert_eq!(probes[..7], [101, 103, 107, 115, 131, 163, 223]);
        assert!(health.probe_is_due(at(10)), "the clock was set back");
        health.recovered(at(2000));
        assert_eq!((health.state(), health.reason()), (State::InService, None));
        health.enter(State::OutOfService, "gone".into(), at(5000));
        assert!(health.probe_is_due(at(5001)), "it had been well for long");
    }
}
