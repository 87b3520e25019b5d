//! Time as every decision gets it: as an argument. Only the outermost shell calls [`Timestamp::now`].

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_secs(secs: u64) -> Self {
        Timestamp(secs.saturating_mul(1000))
    }

    /// The wall clock.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// How long ago `earlier` was; zero if it lies ahead (a clock set back must not make things younger).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }

    /// Reads an HTTP-date in any of its three forms (RFC 9110 section 5.6.7), in whatever case its letters are
    /// (RFC 9111 section 4.2). The day of the week says nothing that the rest does not, so a wrong one does no harm.
    pub fn from_http_date(text: &str) -> Option<Self> {
        let text = in_usual_case(text.trim());
        let time = httpdate::parse_http_date(&text).ok().or_else(|| with_right_weekday(&text))?;
        Some(Timestamp::from_secs(time.duration_since(UNIX_EPOCH).ok()?.as_secs()))
    }

    /// Reads a time by RFC 3339, such as `2030-01-31T08:00:00Z`, without its fractions of a second.
    pub(crate) fn from_rfc3339(text: &str) -> Option<Self> {
        let number = |range: std::ops::Range<usize>| {
            let digits = text.get(range).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
            digits.parse::<i64>().ok()
        };
        let has = |at: usize, any: &[u8]| text.as_bytes().get(at).is_some_and(|byte| any.contains(byte));
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hours, minutes, seconds) = (number(11..13)?, number(14..16)?, number(17..19)?);
        let is_time =
            (1..=12).contains(&month) && (1..=31).contains(&day) && hours < 24 && minutes < 60 && seconds < 61;
        if !(is_time && has(4, b"-") && has(7, b"-") && has(10, b"Tt ") && has(13, b":") && has(16, b":")) {
            return None;
        }
        let fraction =
            text[19..].strip_prefix('.').map_or(0, |rest| 1 + rest.bytes().take_while(u8::is_ascii_digit).count());
        let at = 19 + fraction;
        let offset = match text.as_bytes().get(at)? {
            b'Z' | b'z' if text.len() == at + 1 => 0,
            sign @ (b'+' | b'-') if text.len() == at + 6 && has(at + 3, b":") => {
                let minutes = number(at + 1..at + 3)? * 60 + number(at + 4..at + 6)?;
                if *sign == b'+' { minutes } else { -minutes }
            }
            _ => return None,
        };
        // Days from the epoch: years begin in March, so that the leap day is their last.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
        let seconds = days * 86_400 + (hours * 60 + minutes - offset) * 60 + seconds;
        u64::try_from(seconds).ok().map(Timestamp::from_secs)
    }

    pub fn http_date(self) -> String {
        httpdate::fmt_http_date(self.system_time())
    }
}

/// Milliseconds since about the start of the process, never 0: for what is only compared with itself.
pub(crate) fn ticks() -> u64 {
    // The coarse clock goes on every few milliseconds, and costs a quarter of the other.
    let now = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    };
    static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let now = now();
    now - START.get_or_init(|| now).min(&now) + 1
}

/// What is told again and again, and is to be told every ten seconds at most.
#[derive(Debug, Default)]
pub struct Rarely(AtomicU64);

impl Rarely {
    pub const fn new() -> Self {
        Rarely(AtomicU64::new(0))
    }

    /// Whether it is time to tell it; then it is not for a while.
    pub fn is_time(&self) -> bool {
        let (now, told) = (ticks(), self.0.load(Ordering::Relaxed));
        let is_time = told == 0 || now.saturating_sub(told) >= 10_000;
        is_time && self.0.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A length of time in whole milliseconds: half the size of a `Duration`, for what is kept a million times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(from = "Duration", into = "Duration")]
pub struct Millis(u64);

impl Millis {
    pub const ZERO: Millis = Millis(0);

    /// Between two times; zero if they are the other way round.
    pub fn between(earlier: Timestamp, later: Timestamp) -> Self {
        Millis(later.0.saturating_sub(earlier.0))
    }

    pub const fn saturating_add(self, other: Millis) -> Self {
        Millis(self.0.saturating_add(other.0))
    }

    pub const fn saturating_sub(self, other: Millis) -> Self {
        Millis(self.0.saturating_sub(other.0))
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }
}

impl From<Duration> for Millis {
    /// The longest that there is for what is longer.
    fn from(duration: Duration) -> Self {
        Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Duration::from_millis(millis.0)
    }
}

/// Reads a date whose only fault is its day of the week, by trying all seven.
fn with_right_weekday(text: &str) -> Option<SystemTime> {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let (name, rest) = text.split_at(text.find([',', ' '])?);
    let is_full = DAYS.contains(&name);
    if !is_full && !DAYS.iter().any(|day| day[..3] == *name) {
        return None;
    }
    DAYS.iter().find_map(|day| {
        let day = if is_full { day } else { &day[..3] };
        httpdate::parse_http_date(&format!("{day}{rest}")).ok()
    })
}

/// Names of days and months with a capital, the zone in capitals.
fn in_usual_case(text: &str) -> Cow<'_, str> {
    let is_usual = |(i, byte): (usize, u8)| match byte {
        b'A'..=b'Z' => i == 0 || !text.as_bytes()[i - 1].is_ascii_alphabetic(),
        b'a'..=b'z' => i > 0 && text.as_bytes()[i - 1].is_ascii_alphabetic(),
        _ => true,
    };
    let (body, zone) = match text.len().checked_sub(3).and_then(|at| text.split_at_checked(at)) {
        Some((body, zone)) if zone.eq_ignore_ascii_case("GMT") => (body, "GMT"),
        _ => (text, ""),
    };
    if body.bytes().enumerate().all(is_usual) && text.ends_with(zone) {
        return Cow::Borrowed(text);
    }
    let mut usual = String::with_capacity(text.len());
    for char in body.chars() {
        let inside = usual.ends_with(|before: char| before.is_ascii_alphabetic());
        usual.push(if inside { char.to_ascii_lowercase() } else { char.to_ascii_uppercase() });
    }
    usual.push_str(zone);
    Cow::Owned(usual)
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(duration.as_millis().min(u128::from(u64::MAX)) as u64))
    }
}
