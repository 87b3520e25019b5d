//! The node's own log as journald reads it from standard error: each line begins with its priority (sd-daemon(3)).

use std::fmt;
use std::os::unix::fs::MetadataExt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard error is read by journald, rather than that of another process from which the environment comes:
/// systemd.exec(5).
pub(crate) fn is_read() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let of = std::fs::metadata("/dev/stderr");
    of.is_ok_and(|of| stream == format!("{}:{}", of.dev(), of.ino()))
}

/// Of an error: syslog(3).
const ERROR: u8 = 3;

fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => ERROR,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// What an error says, each line with its priority if journald reads it.
pub(crate) fn of_error(text: &str) -> String {
    if is_read() { with_priority(ERROR, text) } else { text.to_owned() }
}

fn with_priority(priority: u8, text: &str) -> String {
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect::<String>().trim_end().to_owned()
}

/// Puts the priority before each line of what another format makes.
pub(crate) struct Prioritised<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        writeln!(writer, "{}", with_priority(priority(event.metadata().level()), &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority() {
        assert_eq!(with_priority(4, "one\n  two\n"), "<4>one\n<4>  two");
        assert_eq!([Level::ERROR, Level::WARN, Level::INFO, Level::TRACE].map(|level| priority(&level)), [3, 4, 6, 7]);
    }
}
