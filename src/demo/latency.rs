//! How long things took, in constant memory.

use std::time::Duration;

/// Counts by tenths of a millisecond, up to a second; what took longer is in the last bucket.
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

const WIDTH: Duration = Duration::from_micros(100);
const BUCKETS: usize = 10_000;

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS + 1], count: 0 }
    }
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        let bucket = latency.as_micros() / WIDTH.as_micros();
        self.buckets[usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS)] += 1;
        self.count += 1;
    }

    /// The upper end of the bucket that holds this share (0 to 1) of what was added, in words: `2.4 ms`.
    pub fn quantile(&self, share: f64) -> String {
        if self.count == 0 {
            return "-".into();
        }
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let holds = |&count: &u64| {
            seen += count;
            seen >= wanted
        };
        match self.buckets.iter().position(holds) {
            Some(bucket) if bucket < BUCKETS => format!("{:.1} ms", (bucket + 1) as f64 / 10.0),
            _ => "over 1 s".into(),
        }
    }

    pub fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_read_from_the_buckets() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), "-");
        for ms in 1..=100 {
            latencies.add(Duration::from_millis(ms));
        }
        assert_eq!((latencies.quantile(0.5).as_str(), latencies.quantile(0.99).as_str()), ("50.1 ms", "99.1 ms"));
        latencies.add(Duration::from_secs(3600));
        assert_eq!(latencies.quantile(1.0), "over 1 s");
        latencies.clear();
        latencies.add(Duration::ZERO);
        assert_eq!(latencies.quantile(0.0), "0.1 ms");
    }
}
