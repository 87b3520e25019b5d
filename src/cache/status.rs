//! `Cache-Status` (RFC 9211): what the cache did with a request and why.

use std::fmt::Write;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::origin::error::{TOO_MANY_FILLS, TOO_MANY_REQUESTS};

use super::freshness::Freshness;
use super::reason::{Basis, SkipReason};
use super::trouble::Trouble;

/// What the cache did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Answered from a fresh stored response.
    Hit { ttl: Duration, tier: Tier },
    /// Answered from a stale one, which is refreshed meanwhile.
    HitStale { stale_for: Duration },
    /// Went to the origin.
    Forward(Forward),
    /// Answered stale, as the client allowed, and not refreshed.
    HitMaxStale { stale_for: Duration },
    /// Not stored, and the client wanted nothing that is not.
    OnlyIfCached,
    /// Did not meet the cache.
    Pass(&'static str),
    /// Likewise; and what it has changed is forgotten, which a restart may undo.
    PassNotDurable(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    pub why: Why,
    /// The status the origin answered with, where it isn't the one the client gets.
    pub status: Option<u16>,
    pub stored: Stored,
    /// It waited for another request's fill.
    pub collapsed: bool,
    /// What went wrong with the origin.
    pub error: Option<Failed>,
    /// Why a disk could not say whether it has it.
    pub trouble: Option<Trouble>,
}

/// How an origin failed, in one word, and who sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// What is stored covers for it.
    Covered(&'static str),
    /// The client gets an error.
    Told(&'static str),
}

impl Failed {
    fn as_str(self) -> &'static str {
        let (Failed::Covered(word) | Failed::Told(word)) = self;
        word
    }
}

/// Where a stored response was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    Memory,
    Disk,
}

/// Why a request went to the origin (RFC 9211 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    UriMiss,
    VaryMiss,
    Stale,
    /// Only a part of it is stored, and not enough.
    Partial,
    /// What is stored is not what the request's `Cache-Control` asks for.
    Request,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// On this basis, fresh for so long.
    Yes { basis: Basis, ttl: Duration },
    /// If it turns out to have room: its length is not stated, or it goes to a disk as it comes.
    IfItFits { basis: Basis, ttl: Duration },
    /// For this reason.
    No(SkipReason),
    /// There was no response to store.
    Nothing,
}

/// The kinds of outcome that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheResult {
    Hit,
    Stale,
    Miss,
    Expired,
    Pass,
    Error,
}

impl CacheResult {
    pub fn as_str(self) -> &'static str {
        match self {
            CacheResult::Hit => "hit",
            CacheResult::Stale => "stale",
            CacheResult::Miss => "miss",
            CacheResult::Expired => "expired",
            CacheResult::Pass => "pass",
            CacheResult::Error => "error",
        }
    }
}

impl Report {
    /// Whether the cache was asked.
    pub(crate) fn is_of_cache(&self) -> bool {
        !matches!(self, Report::Pass(_) | Report::PassNotDurable(_))
    }

    /// Appends the field's value.
    pub fn write(&self, out: &mut String, node: &str) {
        out.push_str(node);
        // Writing to a String cannot fail.
        let _ = match self {
            Report::Hit { ttl, tier } => {
                out.push_str("; hit; ttl=");
                out.push_str(itoa::Buffer::new().format(ttl.as_secs()));
                out.push_str(if *tier == Tier::Disk { "; detail=disk" } else { "" });
                Ok(())
            }
            Report::HitStale { stale_for } => {
                write!(out, "; hit; ttl=-{}; detail=stale-while-revalidate", whole_seconds(*stale_for))
            }
            Report::HitMaxStale { stale_for } => {
                write!(out, "; hit; ttl=-{}; detail=max-stale", whole_seconds(*stale_for))
            }
            Report::OnlyIfCached => write!(out, "; detail=only-if-cached"),
            Report::Forward(forward) => forward.write(out),
            Report::Pass(why) => write!(out, "; fwd={why}"),
            Report::PassNotDurable(why) => write!(out, "; fwd={why}; detail=invalidation-not-durable"),
        };
    }

    /// The word for why a response was stored or not (docs/reasons.md), where one was judged.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Report::Forward(Forward { stored: Stored::Yes { basis, .. } | Stored::IfItFits { basis, .. }, .. }) => {
                Some(basis.as_str())
            }
            Report::Forward(Forward { stored: Stored::No(reason), .. }) => Some(reason.as_str()),
            _ => None,
        }
    }

    /// What the log says of a failure that the client does not see.
    pub fn covered(&self) -> Option<&'static str> {
        let Report::Forward(Forward { error: Some(Failed::Covered(word)), status, .. }) = self else { return None };
        Some(match (*word, status) {
            (TOO_MANY_REQUESTS, _) => {
                "as many requests of the site are with its origins as may be; see its max_requests; a stored response covers for it"
            }
            (TOO_MANY_FILLS, _) => {
                "too many fills are running; see max_fills in [limits]; a stored response covers for it"
            }
            (_, Some(_)) => "the origin answered with an error; a stored response covers for it",
            (_, None) => "no origin gave an answer; a stored response covers for it",
        })
    }

    pub fn result(&self) -> CacheResult {
        match self {
            Report::Hit { .. } => CacheResult::Hit,
            Report::HitStale { .. } | Report::HitMaxStale { .. } => CacheResult::Stale,
            Report::OnlyIfCached => CacheResult::Miss,
            Report::Forward(forward) => match (forward.error, forward.why) {
                (Some(Failed::Covered(_)), _) => CacheResult::Stale,
                (Some(Failed::Told(_)), _) => CacheResult::Error,
                (None, Why::Stale) => CacheResult::Expired,
                (None, _) => CacheResult::Miss,
            },
            Report::Pass(_) | Report::PassNotDurable(_) => CacheResult::Pass,
        }
    }
}

/// Less than a second is one: `ttl=-0` would be fresh.
fn whole_seconds(stale_for: Duration) -> u64 {
    stale_for.as_secs().max(1)
}

impl Stored {
    /// On the terms of a response that is.
    pub fn with(freshness: &Freshness, now: Timestamp) -> Self {
        Stored::Yes { basis: freshness.basis, ttl: freshness.ttl(now) }
    }
}

impl Forward {
    pub fn of(why: Why, stored: Stored) -> Self {
        Forward { why, status: None, stored, collapsed: false, error: None, trouble: None }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let why = match self.why {
            Why::UriMiss => "uri-miss",
            Why::VaryMiss => "vary-miss",
            Why::Stale => "stale",
            Why::Partial => "partial",
            Why::Request => "request",
        };
        write!(out, "; fwd={why}")?;
        if let Some(status) = self.status {
            write!(out, "; fwd-status={status}")?;
        }
        match self.stored {
            Stored::Yes { ttl, .. } => write!(out, "; stored; ttl={}", ttl.as_secs())?,
            Stored::IfItFits { ttl, .. } => write!(out, "; ttl={}", ttl.as_secs())?,
            Stored::No(_) | Stored::Nothing => {}
        }
        if self.collapsed {
            out.push_str("; collapsed");
        }
        match (self.error, self.stored) {
            (Some(error), _) => write!(out, "; detail=origin-{}", error.as_str()),
            (None, _) if self.trouble.is_some() => {
                write!(out, "; detail={}", self.trouble.map_or("", Trouble::as_str))
            }
            (None, Stored::Yes { basis, .. } | Stored::IfItFits { basis, .. }) => {
                write!(out, "; detail={}", basis.as_str())
            }
            (None, Stored::No(reason)) => write!(out, "; detail={}", reason.as_str()),
            (None, Stored::Nothing) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let stored = Stored::Yes { basis: Basis::MaxAge, ttl: Duration::from_secs(9) };
        let miss = Forward::of(Why::UriMiss, stored);
        let stale = Forward { why: Why::Stale, ..miss };
        let (secs, nothing) = (Duration::from_secs, Stored::Nothing);
        let (covered, told) = (Some(Failed::Covered("status")), Some(Failed::Told("connect")));
        let forward = Report::Forward;
        for (report, text, result) in [
            (Report::Hit { ttl: Duration::from_millis(59_900), tier: Tier::Memory }, "hit; ttl=59", "hit"),
            (Report::Hit { ttl: secs(5), tier: Tier::Disk }, "hit; ttl=5; detail=disk", "hit"),
            (Report::HitStale { stale_for: secs(3) }, "hit; ttl=-3; detail=stale-while-revalidate", "stale"),
            (Report::HitMaxStale { stale_for: secs(0) }, "hit; ttl=-1; detail=max-stale", "stale"),
            (Report::HitMaxStale { stale_for: secs(3) }, "hit; ttl=-3; detail=max-stale", "stale"),
            (forward(miss), "fwd=uri-miss; stored; ttl=9; detail=max-age", "miss"),
            (
                forward(Forward { trouble: Some(Trouble::Corrupt), ..miss }),
                "fwd=uri-miss; stored; ttl=9; detail=disk-corrupt",
                "miss",
            ),
            (
                forward(Forward { collapsed: true, ..miss }),
                "fwd=uri-miss; stored; ttl=9; collapsed; detail=max-age",
                "miss",
            ),
            (
                forward(Forward { stored: Stored::No(SkipReason::SetCookie), ..miss }),
                "fwd=uri-miss; detail=set-cookie",
                "miss",
            ),
            (
                forward(Forward { status: Some(304), ..stale }),
                "fwd=stale; fwd-status=304; stored; ttl=9; detail=max-age",
                "expired",
            ),
            (
                forward(Forward { status: Some(503), stored: nothing, error: covered, ..stale }),
                "fwd=stale; fwd-status=503; detail=origin-status",
                "stale",
            ),
            (forward(Forward { stored: nothing, error: told, ..stale }), "fwd=stale; detail=origin-connect", "error"),
            (forward(Forward { why: Why::Request, ..miss }), "fwd=request; stored; ttl=9; detail=max-age", "miss"),
            (Report::Pass("bypass"), "fwd=bypass", "pass"),
            (Report::OnlyIfCached, "detail=only-if-cached", "miss"),
        ] {
            let mut out = String::new();
            report.write(&mut out, "n");
            assert_eq!((out, report.result().as_str()), (format!("n; {text}"), result));
        }
    }
}
