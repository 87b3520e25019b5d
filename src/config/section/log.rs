//! `[log]`: the access log, and the node's own.

use std::path::PathBuf;

use crate::config::diagnose::At;
use crate::config::read::{Table, words};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub access: AccessLogTarget,
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `seawall=debug`.
    pub level: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Combined,
}

words!(LogFormat { "json" => LogFormat::Json, "combined" => LogFormat::Combined });

impl Default for Log {
    fn default() -> Self {
        Log { access: AccessLogTarget::Stdout, format: LogFormat::Json, level: "info".into() }
    }
}

pub(crate) fn read(mut table: Table) -> Log {
    let mut log = Log::default();
    if let Some(access) = table.get::<String>("access") {
        log.access = match access.value.as_str() {
            "off" => AccessLogTarget::Off,
            "stdout" => AccessLogTarget::Stdout,
            _ => AccessLogTarget::File(table.errors.resolve_path(&access)),
        };
    }
    table.set("format", &mut log.format);
    if let Some(At { value: level, place }) = table.get::<String>("level") {
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&level) {
            table.errors.error(place, format!("level in [log] is not a log filter such as \"info\": {error}"));
        }
        log.level = level;
    }
    table.finish();
    log
}
