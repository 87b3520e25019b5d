//! Prometheus metrics. Labels come from the configuration or from closed lists, never from clients, so that
//! their number is bounded. What is counted for each request is looked up by label once per configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use prometheus::proto::MetricFamily;

use crate::clock::Timestamp;

use super::outcome::Outcome;
use super::process::Process;

/// The results a request's meeting with the cache can have.
pub(crate) const RESULTS: [&str; 7] = ["hit", "stale", "miss", "expired", "pass", "error", "none"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All metrics of the node.
pub struct Metrics {
    registry: Registry,
    /// Held while gauges are read off the node and written out, so that no scrape sees another's half.
    pub scraping: Mutex<()>,
    requests: IntCounterVec,
    responses: IntCounterVec,
    sent_bytes: IntCounterVec,
    requests_refused: IntCounterVec,
    duration: HistogramVec,
    stored: IntCounterVec,
    not_stored: IntCounterVec,
    compressed: IntCounterVec,
    compress_saved: IntCounter,
    pub compress_skipped: IntCounter,
    reloads: IntCounterVec,
    pub refused: IntCounterVec,
    pub config_generation: IntGauge,
    pub config_last_reload_ok: IntGauge,
    pub certificate_expiry: IntGaugeVec,
    pub connections: IntGauge,
    pub connections_max: IntGauge,
    pub connections_total: IntCounter,
    pub connections_refused: IntCounter,
    pub streams_refused: IntCounter,
    pub tls_failures: IntCounter,
    pub proxy_header_failures: IntCounter,
    pub access_log_dropped: IntCounter,
    pub cache_bytes: IntGauge,
    pub cache_keys: IntGauge,
    pub site_memory: IntGaugeVec,
    pub site_requests: IntGaugeVec,
    pub site_max_requests: IntGaugeVec,
    pub fills: IntGauge,
    pub fills_refused: IntCounter,
    pub fills_lost: IntCounter,
    pub purge_seq: IntGauge,
    pub purge_marks: IntGauge,
    pub swept_objects: IntCounter,
    pub swept_bytes: IntCounter,
    pub disk: DiskMetrics,
    pub disk_troubles: IntCounterVec,
    pub memory_evicted: IntCounter,
    pub origin_up: IntGaugeVec,
    pub origin_active: IntGaugeVec,
    pub origin_requests: IntCounterVec,
    pub origin_failures: IntCounterVec,
    pub origin_ejections: IntCounterVec,
    pub pool_split_share: GaugeVec,
    pub pool_copies: IntCounterVec,
    pub pool_hedges: IntCounterVec,
    pub pool_source_failing: IntGaugeVec,
    pub site_tunnels: IntGaugeVec,
    /// When the process was started, in seconds since the epoch.
    started: f64,
}

/// What is said of each directory of the disk tier.
const DISK: [(&str, &str); 11] = [
    ("in_service", "1 if the directory can be read and written"),
    ("bytes", "Bytes in a directory of the disk tier"),
    ("max_bytes", "Bytes that may be in it"),
    ("objects", "Objects in it"),
    ("index_bytes", "Bytes of memory of its index"),
    ("waiting_bytes", "Bytes that wait to be written"),
    ("scan_percent", "How far the scan at the start has come"),
    ("hits_total", "Objects that were read from it"),
    ("written_total", "Objects that were written to it"),
    ("written_bytes_total", "Bytes that were written to it"),
    ("evicted_total", "Objects that had to make room"),
];

/// The series of the directories of the disk tier, by name: gauges, and counters that count elsewhere.
pub struct DiskMetrics([(&'static str, GaugeOrCounter); DISK.len()]);

enum GaugeOrCounter {
    Gauge(IntGaugeVec),
    Counter(IntCounterVec),
}

impl DiskMetrics {
    pub fn reset(&self) {
        self.0.iter().for_each(|(_, series)| match series {
            GaugeOrCounter::Gauge(gauge) => gauge.reset(),
            GaugeOrCounter::Counter(counter) => counter.reset(),
        });
    }

    /// `name`: one of those above. After a reset.
    pub fn set(&self, name: &str, path: &str, number: u64) {
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, GaugeOrCounter::Gauge(gauge))) => gauge.with_label_values(&[path]).set(number as i64),
            Some((_, GaugeOrCounter::Counter(counter))) => counter.with_label_values(&[path]).inc_by(number),
            None => {}
        }
    }
}

/// The counters of one site, looked up once.
pub struct SiteMetrics {
    requests: [IntCounter; RESULTS.len()],
    responses: [IntCounter; CLASSES.len()],
    sent_bytes: IntCounter,
    /// Above `max_requests`.
    pub requests_refused: IntCounter,
    duration: [Histogram; RESULTS.len()],
}

impl SiteMetrics {
    /// How many requests were answered so far, and by what the cache did.
    pub fn served(&self) -> BTreeMap<&'static str, u64> {
        RESULTS.iter().zip(&self.requests).map(|(result, counter)| (*result, counter.get())).collect()
    }
}

impl Metrics {
    #[allow(clippy::expect_used, reason = "names and labels are constants, checked by the test below")]
    pub fn new() -> Self {
        let registry = Registry::new_custom(Some("seawall".to_owned()), None).expect("a prefix that is not empty");
        let new = Registrar(&registry);
        let origin = &["pool", "origin"];
        let build = new.gauges("build_info", "1, with the version of the program", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Metrics {
            requests: new.counters("requests_total", "Requests by what the cache did", &["site", "cache"]),
            responses: new.counters("responses_total", "Responses by class of status", &["site", "class"]),
            sent_bytes: new.counters("sent_bytes_total", "Bytes of bodies sent to clients", &["site"]),
            requests_refused: new.counters(
                "site_requests_refused_total",
                "Requests that got to no origin, for the site had max_requests there",
                &["site"],
            ),
            duration: new.histograms(
                "request_duration_seconds",
                "From the end of a request's head to the end of its response, by what the cache did",
                &["cache"],
            ),
            stored: new.counters("stored_total", "Responses that were stored or confirmed, by reason", &["reason"]),
            not_stored: new.counters("not_stored_total", "Responses that were not stored, by reason", &["reason"]),
            compressed: new.counters("compressed_total", "Bodies that were compressed, by coding", &["coding"]),
            compress_saved: new.counter("compress_saved_bytes_total", "Bytes by which compressed bodies are smaller"),
            compress_skipped: new
                .counter("compress_skipped_total", "Responses left uncompressed, for too many were waiting or passing"),
            reloads: new.counters("config_reloads_total", "Reloads of the configuration", &["result"]),
            refused: new.counters("refused_requests_total", "Malformed or unwanted requests", &["status"]),
            config_generation: new.gauge("config_generation", "Counts the configurations since the start"),
            config_last_reload_ok: new.gauge("config_last_reload_ok", "1 if the last reload was taken over"),
            certificate_expiry: new.gauges(
                "certificate_not_after_seconds",
                "When a certificate expires, in seconds since the epoch",
                &["file"],
            ),
            connections: new.gauge("connections", "Open client connections"),
            connections_max: new.gauge("connections_max", "How many connections of clients there may be"),
            connections_total: new.counter("connections_total", "Accepted client connections"),
            connections_refused: new.counter("connections_refused_total", "Connections above the limit"),
            streams_refused: new.counter(
                "streams_refused_total",
                "HTTP/2 streams refused, above max_h2_streams or for want of memory; they may be asked for again",
            ),
            tls_failures: new.counter("tls_handshake_failures_total", "TLS handshakes that failed"),
            proxy_header_failures: new.counter(
                "proxy_header_failures_total",
                "Connections from proxy_from that were closed for want of a PROXY header",
            ),
            access_log_dropped: new.counter("access_log_dropped_total", "Access log lines that were dropped"),
            cache_bytes: new.gauge("cache_memory_bytes", "Bytes in the memory tier"),
            cache_keys: new.gauge("cache_memory_keys", "Keys in the memory tier"),
            site_memory: new.gauges(
                "site_memory_bytes",
                "Bytes in the part of the memory tier that a site has for itself",
                &["site"],
            ),
            site_requests: new.gauges("site_requests", "Requests of a site that are with its origins", &["site"]),
            site_max_requests: new.gauges("site_max_requests", "How many may be, where that is bounded", &["site"]),
            fills: new.gauge("fills", "Running fills"),
            fills_lost: new.counter("fills_lost_total", "Fills that a fault of the node's own ended"),
            fills_refused: new
                .counter("fills_refused_total", "Fills that were not started, for max_fills were running"),
            purge_seq: new.gauge("purge_seq", "The number of the newest purge"),
            purge_marks: new.gauge("purge_marks", "Purges that lookups still have to heed"),
            swept_objects: new.counter("swept_objects_total", "Purged objects that were freed"),
            swept_bytes: new.counter("swept_bytes_total", "Bytes of purged objects that were freed"),
            disk: DiskMetrics(DISK.map(|(name, help)| {
                let full = format!("disk_{name}");
                let series = match name.ends_with("_total") {
                    true => GaugeOrCounter::Counter(new.counters(&full, help, &["path"])),
                    false => GaugeOrCounter::Gauge(new.gauges(&full, help, &["path"])),
                };
                (name, series)
            })),
            disk_troubles: new.counters(
                "disk_troubles_total",
                "How often a directory of the disk tier was of no help, by reason",
                &["path", "reason"],
            ),
            origin_up: new.gauges("origin_up", "1 if the origin may get requests", origin),
            origin_active: new.gauges("origin_active_requests", "Requests an origin is working on", origin),
            origin_requests: new.counters("origin_requests_total", "Requests sent to an origin", origin),
            origin_ejections: new.counters("origin_ejections_total", "Ejections of an origin's addresses", origin),
            origin_failures: new.counters("origin_failures_total", "Failed exchanges with an origin", origin),
            pool_split_share: new.register(GaugeVec::new(
                Opts::new("pool_split_share", "The share of a pool's requests that goes to the pool of its split"),
                &["pool", "to"],
            )),
            pool_copies: new.counters(
                "pool_copies_total",
                "Copies of requests for the pool of a mirror, by what became of them",
                &["pool", "to", "result"],
            ),
            pool_hedges: new.counters(
                "pool_hedges_total",
                "Requests that were sent to a second origin as well, and those that it answered first",
                &["pool", "result"],
            ),
            pool_source_failing: new.gauges(
                "pool_source_failing",
                "1 if where a pool finds origins cannot be asked or read",
                &["pool", "source"],
            ),
            site_tunnels: new.gauges("site_tunnels", "Tunnels of a site that are open", &["site"]),
            memory_evicted: new
                .counter("cache_memory_evicted_total", "Objects that had to make room in the memory tier"),
            started: Timestamp::now().as_millis() as f64 / 1000.0,
            registry,
            scraping: Mutex::new(()),
        }
    }

    pub fn site(&self, name: &str) -> Arc<SiteMetrics> {
        Arc::new(SiteMetrics {
            requests: RESULTS.map(|result| self.requests.with_label_values(&[name, result])),
            responses: CLASSES.map(|class| self.responses.with_label_values(&[name, class])),
            sent_bytes: self.sent_bytes.with_label_values(&[name]),
            requests_refused: self.requests_refused.with_label_values(&[name]),
            duration: RESULTS.map(|result| self.duration.with_label_values(&[result])),
        })
    }

    /// Forgets the series of sites that are no longer configured.
    pub fn remove_site(&self, name: &str) {
        for result in RESULTS {
            let _ = self.requests.remove_label_values(&[name, result]); // an error means that there was none
        }
        for class in CLASSES {
            let _ = self.responses.remove_label_values(&[name, class]);
        }
        let _ = self.sent_bytes.remove_label_values(&[name]);
        let _ = self.requests_refused.remove_label_values(&[name]);
    }

    pub fn stored(&self, reason: &'static str) {
        self.stored.with_label_values(&[reason]).inc();
    }

    pub fn not_stored(&self, reason: &'static str) {
        self.not_stored.with_label_values(&[reason]).inc();
    }

    /// Bytes of a body before and after.
    pub fn compressed(&self, coding: &'static str, before: usize, after: usize) {
        self.compressed.with_label_values(&[coding]).inc();
        self.compress_saved.inc_by(before.saturating_sub(after) as u64);
    }

    pub fn reloaded(&self, ok: bool) {
        self.reloads.with_label_values(&[if ok { "ok" } else { "refused" }]).inc();
        self.config_last_reload_ok.set(i64::from(ok));
    }

    /// Everything in Prometheus' text format. `origins`: what each has counted for itself.
    pub fn encode(&self, origins: impl IntoIterator<Item = MetricFamily>) -> String {
        let mut families = self.registry.gather();
        families.extend(merged(origins));
        TextEncoder::new().encode_to_string(&families).unwrap_or_default() + &Process::read().encode(self.started)
    }
}

/// One family of those that have one name.
fn merged(families: impl IntoIterator<Item = MetricFamily>) -> Option<MetricFamily> {
    families.into_iter().reduce(|mut all, mut family| {
        all.mut_metric().append(family.mut_metric());
        all
    })
}

impl SiteMetrics {
    /// Counts one request.
    pub fn count(&self, outcome: &Outcome<'_>) {
        let result = RESULTS.iter().position(|name| *name == outcome.cache).unwrap_or(RESULTS.len() - 1);
        self.requests[result].inc();
        let class = usize::from(outcome.status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.responses[class].inc();
        self.sent_bytes.inc_by(outcome.bytes_sent);
        self.duration[result].observe(outcome.duration.as_secs_f64());
    }
}

struct Registrar<'a>(&'a Registry);

#[allow(clippy::expect_used, reason = "names and labels are constants, checked by the test below")]
impl Registrar<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("a valid constant name");
        self.0.register(Box::new(metric.clone())).expect("registered once");
        metric
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let buckets = vec![0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
        let opts = HistogramOpts::new(name, help).buckets(buckets);
        self.register(HistogramVec::new(opts, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_valid_and_removed_with_their_site() {
        let metrics = Metrics::new();
        metrics.site("shop");
        assert!(metrics.encode([]).contains("seawall_requests_total{cache=\"hit\",site=\"shop\"} 0"));
        metrics.remove_site("shop");
        assert!(!metrics.encode([]).contains("shop"));
    }
}
