//! What of a pool's requests is sent again, to another origin.

use crate::config::read::{FromToml, StatusRange, Table, Value};

use super::health::Share;

/// After what a request may be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection could be made: nothing was sent.
    pub connect: bool,
    /// The connection broke before there was a head, or the head is invalid.
    pub reset: bool,
    /// No head has come in time.
    pub timeout: bool,
    pub statuses: Vec<StatusRange>,
}

impl Default for RetryOn {
    fn default() -> Self {
        let statuses = vec![StatusRange { first: 502, last: 504 }];
        RetryOn { connect: true, reset: true, timeout: false, statuses }
    }
}

impl RetryOn {
    pub fn has_status(&self, status: u16) -> bool {
        self.statuses.iter().any(|range| (range.first..=range.last).contains(&status))
    }
}

/// How much of a pool's work may be retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Of the requests of the last ten seconds.
    pub share: Share,
    /// So many there may be in any case.
    pub least: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { share: Share::RETRIES, least: 10 }
    }
}

/// One entry of `retry_on`.
enum Entry {
    Connect,
    Reset,
    Timeout,
    Status(StatusRange),
}

impl FromToml for Entry {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        match value.str() {
            Some("connect") => return Ok(Entry::Connect),
            Some("reset") => return Ok(Entry::Reset),
            Some("timeout") => return Ok(Entry::Timeout),
            _ => {}
        }
        let expected =
            "expected \"connect\", \"reset\", \"timeout\" or a status from 400 to 599 such as 503 or \"500-504\"";
        let range = StatusRange::from_toml(value).ok().filter(|range| range.first >= 400);
        range.map(Entry::Status).ok_or_else(|| expected.to_owned())
    }
}

/// `retry_on` and `retry_budget` of a pool.
pub(super) fn read(table: &mut Table, pool: &str) -> (RetryOn, Budget) {
    let mut budget = Budget::default();
    let name = format!("[pool.{pool}.retry_budget]");
    if let Some(mut table) = table.table("retry_budget", &name, "retry_budget = { share = 0.2, least = 3 }") {
        table.set("share", &mut budget.share);
        table.set_within("least", &mut budget.least, 0..=1_000_000);
        table.finish();
    }
    let Some(entries) = table.optional_list::<Entry>("retry_on") else { return (RetryOn::default(), budget) };
    let mut on = RetryOn { connect: false, reset: false, timeout: false, statuses: Vec::new() };
    for entry in entries {
        match entry.value {
            Entry::Connect => on.connect = true,
            Entry::Reset => on.reset = true,
            Entry::Timeout => on.timeout = true,
            Entry::Status(range) => on.statuses.push(range),
        }
    }
    (on, budget)
}
