//! What the process takes, by the names that all exporters use for it.

use std::fs;

/// One reading of proc(5). What cannot be read is left out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub open_descriptors: Option<u64>,
    pub most_descriptors: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let (status, stat, limits) = (text("/proc/self/status"), text("/proc/self/stat"), text("/proc/self/limits"));
        let open = fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64).ok();
        let ticks = rustix::param::clock_ticks_per_second();
        Process { open_descriptors: open, ..Self::parse(&status, &stat, &limits, ticks) }
    }

    fn parse(status: &str, stat: &str, limits: &str, ticks: u64) -> Self {
        let of_status = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        let number = |name| of_status(name)?.parse::<u64>().ok();
        // The program's name, which may hold anything, is in parentheses; utime and stime are the 12th and 13th behind it.
        let behind = stat.rsplit_once(')').map(|(_, behind)| behind.split_whitespace().skip(11).take(2));
        let spent = behind.and_then(|times| times.map(|time| time.parse::<u64>().ok()).sum::<Option<u64>>());
        let most = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
        Process {
            cpu_seconds: spent.filter(|_| !stat.is_empty()).map(|spent| spent as f64 / ticks.max(1) as f64),
            resident_bytes: number("VmRSS:").map(|kib| kib << 10),
            virtual_bytes: number("VmSize:").map(|kib| kib << 10),
            threads: number("Threads:"),
            open_descriptors: None,
            most_descriptors: most.and_then(|most| most.parse().ok()),
        }
    }

    /// In the text format of Prometheus.
    pub(super) fn encode(&self, started: f64) -> String {
        let whole = |number: Option<u64>| number.map(|number| number as f64);
        let all = [
            ("process_cpu_seconds_total", "counter", "CPU time of the process, of user and system", self.cpu_seconds),
            ("process_resident_memory_bytes", "gauge", "Memory that is resident", whole(self.resident_bytes)),
            ("process_virtual_memory_bytes", "gauge", "Address space", whole(self.virtual_bytes)),
            ("process_threads", "gauge", "Threads", whole(self.threads)),
            ("process_open_fds", "gauge", "Open file descriptors", whole(self.open_descriptors)),
            ("process_max_fds", "gauge", "How many there may be", whole(self.most_descriptors)),
            ("process_start_time_seconds", "gauge", "When it was started, since the epoch", Some(started)),
        ];
        let line = |(name, kind, help, number): (&str, &str, &str, Option<f64>)| {
            Some(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}\n", number?))
        };
        all.into_iter().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let status = "Name:\tseawall\nVmSize:\t  2048 kB\nVmRSS:\t    4 kB\nThreads:\t9\n";
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1 2 3\n";
        let limits = "Limit Soft Limit Hard Limit Units\nMax open files            1024                 4096                 files\n";
        let read = Process::parse(status, stat, limits, 100);
        let expected = Process {
            cpu_seconds: Some(2.0),
            resident_bytes: Some(4096),
            virtual_bytes: Some(2 << 20),
            threads: Some(9),
            open_descriptors: None,
            most_descriptors: Some(1024),
        };
        assert_eq!(read, expected);
        assert!(read.encode(5.5).contains("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 2\n"));
        assert_eq!(Process::parse("", "", "", 100), Process::default());
        assert!(Process::read().resident_bytes.is_some_and(|bytes| bytes > 0));
    }
}
