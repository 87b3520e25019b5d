//! How it is found out whether origins are well: `health` of a pool asks them, `passive` looks at what requests come to.

use std::time::Duration;

use crate::config::diagnose::At;
use crate::config::read::{FromToml, StatusRange, Table, Value};

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that bring an origin up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The connection is accepted.
    Tcp,
    /// `GET path` is answered with one of the statuses.
    Http { path: String, host: Option<String>, expect: Vec<StatusRange> },
}

/// When an origin is ejected for what requests to it come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passive {
    /// Failures in a row that eject it.
    pub failures: u32,
    /// By how much its share of failures may be above that of the others.
    pub error_rate: Share,
    /// How many times as long as the others it may take; `None`: that is not looked at.
    pub latency: Option<Times>,
    /// For how long it is ejected for the first time.
    pub eject_for: Duration,
    /// How many of a pool may be ejected at one time.
    pub max_ejected: Share,
}

impl Default for Passive {
    fn default() -> Self {
        Passive {
            failures: 5,
            error_rate: Share(300),
            latency: None,
            eject_for: Duration::from_secs(10),
            max_ejected: Share(500),
        }
    }
}

/// A part of a whole, from 0 to 1, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u16);

impl Share {
    pub fn of_one(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// So much of a number, rounded down.
    pub fn of(self, number: usize) -> usize {
        number * usize::from(self.0) / 1000
    }
}

impl FromToml for Share {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        let share = value.number("a share from 0 to 1 such as 0.5")?;
        let is_share = (0.0..=1.0).contains(&share);
        is_share
            .then_some(Share((share * 1000.0).round() as u16))
            .ok_or_else(|| format!("expected a share from 0 to 1 such as 0.5, found {share}"))
    }
}

/// More than once and up to a hundred times, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times(u32);

impl Times {
    pub fn times(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl FromToml for Times {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        let times = value.number("a number such as 1.25")?;
        let is_more = times > 1.0 && times <= 100.0;
        is_more
            .then_some(Times((times * 1000.0).ceil() as u32))
            .ok_or_else(|| format!("expected more than 1 and at most 100, found {times}: it is so many times as much"))
    }
}

pub(super) fn read_health(mut table: Table) -> Health {
    let errors = table.errors;
    let seconds = Duration::from_secs;
    let mut health = Health { probe: Probe::Tcp, interval: seconds(5), timeout: seconds(2), rise: 2, fall: 3 };
    let path: Option<At<String>> = table.get("path");
    let host = table.host("host");
    let mut expect = table.plain_list("expect");
    if let Some(At { value: path, place }) = path {
        if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
            errors.error(place, "path of a health check must begin with \"/\" and be visible ASCII");
        } else if path.contains('#') || path.parse::<http::uri::PathAndQuery>().is_err() {
            errors.error(place, format!("path in {}: {path:?} is not a path that can be asked for", table.name));
        }
        if expect.is_empty() {
            expect.push(StatusRange { first: 200, last: 399 });
        }
        health.probe = Probe::Http { path, host, expect };
    } else {
        for key in ["host", "expect"].into_iter().filter(|key| !table.lacks(key) && !table.has("path")) {
            let hint = "add path = \"/healthz\"";
            errors.error_with_hint(table.place_of(key), "this has no effect on a TCP check", hint);
        }
    }
    let is_long = |interval: &Duration| *interval >= Duration::from_millis(10);
    table.set_if("interval", &mut health.interval, is_long, "must be at least 10ms");
    table.set_positive("timeout", &mut health.timeout);
    table.set_within("rise", &mut health.rise, 1..=100);
    table.set_within("fall", &mut health.fall, 1..=100);
    table.finish();
    health
}

/// On unless it is `false`.
pub(super) fn read_passive(table: &mut Table, pool: &str) -> Option<Passive> {
    let mut passive = Passive::default();
    if let Some(is_on) = table.on_or_off("passive") {
        return is_on.then_some(passive);
    }
    let name = format!("[pool.{pool}.passive]");
    let Some(mut table) = table.table("passive", &name, "passive = { failures = 5 }, or passive = false") else {
        return Some(passive);
    };
    table.set_within("failures", &mut passive.failures, 1..=1000);
    table.set("error_rate", &mut passive.error_rate);
    passive.latency = table.value("latency");
    let is_usable = |time: &Duration| (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(time);
    table.set_if("eject_for", &mut passive.eject_for, is_usable, "must be from 1s to 1d");
    table.set("max_ejected", &mut passive.max_ejected);
    table.finish();
    Some(passive)
}
