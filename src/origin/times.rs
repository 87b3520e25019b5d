//! How long an origin takes to answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::{self, MetricFamily};
use prometheus::{Histogram, HistogramOpts};

/// Upper bounds of the classes, in milliseconds.
const CLASSES: [u64; 12] = [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000];

/// The times from a request to the head of its answer, in classes.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// Those of each class; longer ones are in none.
    classes: [AtomicU64; CLASSES.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Times {
    pub(super) fn note(&self, took: Duration) {
        let class = CLASSES.iter().position(|most| took <= Duration::from_millis(*most));
        if let Some(class) = class {
            self.classes[class].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// As a histogram of the metrics, of this pool and origin.
    pub(crate) fn collect(&self, pool: &str, origin: &str) -> Vec<MetricFamily> {
        let buckets = CLASSES.map(|most| most as f64 / 1000.0).to_vec();
        let help = "From a request to an origin to the head of its answer";
        let options = HistogramOpts::new("seawall_origin_response_seconds", help).buckets(buckets);
        let options = options.const_label("pool", pool).const_label("origin", origin);
        let Ok(empty) = Histogram::with_opts(options) else { return Vec::new() }; // names and classes are constants
        let mut families = empty.collect();
        for metric in families.iter_mut().flat_map(|family| family.mut_metric()) {
            metric.set_histogram(self.histogram(metric.get_histogram().clone()));
        }
        families
    }

    /// `histogram`: with the classes, and nothing counted.
    fn histogram(&self, mut histogram: proto::Histogram) -> proto::Histogram {
        let (mut buckets, mut so_far) = (histogram.get_bucket().to_vec(), 0);
        for (bucket, class) in buckets.iter_mut().zip(&self.classes) {
            so_far += class.load(Ordering::Relaxed);
            bucket.set_cumulative_count(so_far);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(self.count.load(Ordering::Relaxed).max(so_far));
        histogram.set_sample_sum(self.microseconds.load(Ordering::Relaxed) as f64 / 1e6);
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_a_histogram() {
        let times = Times::default();
        [2, 3, 40, 400_000].iter().for_each(|ms| times.note(Duration::from_millis(*ms)));
        let text = prometheus::TextEncoder::new().encode_to_string(&times.collect("app", "a:80")).unwrap();
        for line in [
            "seawall_origin_response_seconds_bucket{origin=\"a:80\",pool=\"app\",le=\"0.003\"} 2",
            "seawall_origin_response_seconds_bucket{origin=\"a:80\",pool=\"app\",le=\"0.1\"} 3",
            "seawall_origin_response_seconds_bucket{origin=\"a:80\",pool=\"app\",le=\"+Inf\"} 4",
            "seawall_origin_response_seconds_count{origin=\"a:80\",pool=\"app\"} 4",
            "seawall_origin_response_seconds_sum{origin=\"a:80\",pool=\"app\"} 400.045",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
