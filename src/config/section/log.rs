//! `[log]`: the access log, and the node's own.

use std::path::PathBuf;

use crate::config::read::{FromToml, Table, Value, words};
use crate::spelling::did_you_mean;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub access: AccessLogTarget,
    pub format: LogFormat,
    pub level: LogFilter,
}

/// A `tracing` filter such as `info` or `seawall=debug`. What no target is named for is logged from `info` on, so that no
/// filter hides an error unless it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

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
        Log { access: AccessLogTarget::Stdout, format: LogFormat::Json, level: LogFilter("info".to_owned()) }
    }
}

pub(crate) fn read(mut table: Table) -> Log {
    let mut log = Log::default();
    if let Some(access) = table.get::<String>("access") {
        log.access = match access.value.as_str() {
            "off" => AccessLogTarget::Off,
            "stdout" => AccessLogTarget::Stdout,
            "syslog" | "stderr" | "journal" | "journald" | "" => {
                let message = format!("{:?} is no place for the access log", access.value);
                let hint = "write a path such as \"/var/log/seawall/access.log\", \"stdout\" (the journal has it then) or \"off\"";
                table.errors.error_with_hint(access.place, message, hint);
                AccessLogTarget::Off
            }
            _ => {
                let path = table.errors.resolve_path(&access);
                table.errors.keep_private(&path);
                if path.is_dir() {
                    let hint = format!("write \"{}/access.log\"", path.display());
                    table.errors.error_with_hint(access.place, format!("{} is a directory", path.display()), hint);
                } else if path.parent().is_some_and(|parent| !parent.exists()) {
                    let message = format!("{}: its directory is not there, so nothing is logged", path.display());
                    let hint = "make it, and let the node's user write there";
                    table.errors.warn(access.place, message, hint);
                }
                AccessLogTarget::File(path)
            }
        };
    }
    table.set("format", &mut log.format);
    table.set("level", &mut log.level);
    table.finish();
    log
}

impl LogFilter {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
        let mut is_general = false;
        for part in text.split(',').map(str::trim) {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            if !is_level(level) {
                let meant = match level.to_ascii_lowercase().as_str() {
                    "warning" => Some("warn"),
                    "notice" => Some("info"),
                    "crit" | "alert" | "emerg" => Some("error"),
                    other => did_you_mean(other, LEVELS),
                };
                let question = meant.map(|meant| format!("did you mean {meant:?}? ")).unwrap_or_default();
                let levels = LEVELS.join(", ");
                return Err(format!(
                    "unknown level {level:?}, {question}expected one of {levels}, or as \"seawall=debug\""
                ));
            }
            is_general |= !part.contains('=');
        }
        let text = if is_general { text.to_owned() } else { format!("info,{text}") };
        match tracing_subscriber::EnvFilter::builder().parse(&text) {
            Ok(_) => Ok(LogFilter(text)),
            Err(error) => Err(format!("{text:?} is not a log filter such as \"info\": {error}")),
        }
    }
}

impl FromToml for LogFilter {
    fn from_toml(value: Value<'_, '_>) -> Result<Self, String> {
        value.text("a log filter such as \"info\"")?.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::LogFilter;

    #[test]
    fn filters_hide_no_errors_unless_they_say_so() {
        for (text, expected) in [
            ("info", "info"),
            ("WARN", "WARN"),
            ("off", "off"),
            ("seawall=debug", "info,seawall=debug"),
            ("warn,pingora_core=error", "warn,pingora_core=error"),
            ("warning", "unknown level \"warning\", did you mean \"warn\"?"),
            ("notice", "did you mean \"info\"?"),
            ("seawall=loud", "unknown level \"loud\", expected one of off,"),
            ("inf", "did you mean \"info\"?"),
            ("seawall", "unknown level \"seawall\""),
            ("", "unknown level \"\""),
            ("=info", "is not a log filter"),
        ] {
            match text.parse::<LogFilter>() {
                Ok(filter) => assert_eq!(filter.as_str(), expected, "{text}"),
                Err(error) => assert!(error.contains(expected), "{text}: {error}"),
            }
        }
    }
}
