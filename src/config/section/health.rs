//! How it is found out whether origins are well: `health` of a pool asks them, `passive` looks at what requests come to.

use std::time::Duration;

use crate::config::diagnose::At;
use crate::config::read::{FromToml, StatusRange, Table, Value};

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub probe: Probe,
    /// What is asked for by name; `None`: what the pool says.
    pub host: Option<String>,
    /// Where it is asked; `None`: where requests go.
    pub port: Option<u16>,
    pub interval: Duration,
    /// The same while checks say something else than what is taken for true.
    pub failing_interval: Duration,
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
    /// `GET path` is answered with one of the statuses, and with a body that has a text.
    Http { path: String, expect: Vec<StatusRange>, body: Option<String> },
    /// The health protocol of gRPC says that a service is served.
    Grpc { service: String },
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
    /// What Envoy has as an overprovisioning factor of 1.4.
    pub(super) const OVERFLOW_AT: Self = Share(700);
    /// Of a pool's requests that are sent again.
    pub(super) const RETRIES: Self = Share(200);

    pub(crate) const ALL: Self = Share(1000);

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

/// `speaks_h2`: the pool may speak HTTP/2, as gRPC needs.
pub(super) fn read_health(mut table: Table, speaks_h2: bool) -> Health {
    let errors = table.errors;
    let seconds = Duration::from_secs;
    let mut interval = seconds(5);
    let is_long = |interval: &Duration| *interval >= SHORTEST;
    table.set_if("interval", &mut interval, is_long, "must be at least 10ms");
    let mut health = Health {
        probe: Probe::Tcp,
        host: table.host("host"),
        port: None,
        interval,
        failing_interval: (interval / 5).max(SHORTEST),
        timeout: seconds(2),
        rise: 2,
        fall: 3,
    };
    table.set_if("failing_interval", &mut health.failing_interval, is_long, "must be at least 10ms");
    let mut port = 0;
    table.set_within("port", &mut port, 1..=u16::MAX);
    health.port = Some(port).filter(|port| *port > 0);
    health.probe = read_probe(&mut table, speaks_h2);
    if health.probe == Probe::Tcp && health.host.is_some() {
        errors.error_with_hint(table.place_of("host"), "this has no effect on a TCP check", "add path = \"/healthz\"");
    }
    table.set_positive("timeout", &mut health.timeout);
    table.set_within("rise", &mut health.rise, 1..=100);
    table.set_within("fall", &mut health.fall, 1..=100);
    table.finish();
    health
}

/// No check comes sooner after another.
const SHORTEST: Duration = Duration::from_millis(10);

fn read_probe(table: &mut Table, speaks_h2: bool) -> Probe {
    let errors = table.errors;
    let path: Option<At<String>> = table.get("path");
    let grpc: Option<At<String>> = table.get("grpc");
    let mut expect = table.plain_list("expect");
    let body = table.value::<String>("body");
    if let (None, false) = (&path, table.has("path")) {
        for key in ["expect", "body"].into_iter().filter(|key| !table.lacks(key)) {
            errors.error_with_hint(table.place_of(key), "this has no effect without a path", "add path = \"/healthz\"");
        }
    }
    match (path, grpc) {
        (Some(_), Some(grpc)) => {
            errors.error(grpc.place, "a check is by \"path\" or by \"grpc\", not by both");
            Probe::Tcp
        }
        (Some(At { value: path, place }), None) => {
            if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
                errors.error(place, "path of a health check must begin with \"/\" and be visible ASCII");
            } else if path.contains('#') || path.parse::<http::uri::PathAndQuery>().is_err() {
                errors.error(place, format!("path in {}: {path:?} is not a path that can be asked for", table.name));
            }
            if expect.is_empty() {
                expect.push(StatusRange { first: 200, last: 399 });
            }
            Probe::Http { path, expect, body }
        }
        (None, Some(At { value: service, place })) => {
            if !speaks_h2 {
                let hint = "add protocol = \"h2\" to the pool, or \"auto\" with tls = true";
                errors.error_with_hint(place, "gRPC is HTTP/2, and the pool speaks HTTP/1.1", hint);
            }
            Probe::Grpc { service }
        }
        (None, None) => Probe::Tcp,
    }
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
