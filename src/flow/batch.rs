//! What one Kafka transaction of a worker holds, and when it is due. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Counts that become true with the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub records: u64,
    pub outputs: u64,
    /// By reason, in order of their first appearance; few and closed.
    pub dead_letters: Vec<(&'static str, u64)>,
    pub dropped: Vec<(&'static str, u64)>,
}

/// Adds one to a count by reason.
pub fn count(list: &mut Vec<(&'static str, u64)>, reason: &'static str) {
    match list.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += 1,
        None => list.push((reason, 1)),
    }
}

/// The open transaction: everything of an input record is in it, or nothing.
#[derive(Debug, Default)]
pub struct Batch {
    began: Option<Instant>,
    bytes: usize,
    next_offsets: BTreeMap<i32, i64>,
    /// Kafka timestamps of the inputs, milliseconds, for the latency histogram.
    pub timestamps_ms: Vec<i64>,
    pub counts: Counts,
}

impl Batch {
    pub fn is_open(&self) -> bool {
        self.began.is_some()
    }

    pub fn open(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// An input record is done, its outputs are with the producer.
    pub fn add(&mut self, partition: i32, offset: i64, timestamp_ms: Option<i64>, output_bytes: usize) {
        self.next_offsets.insert(partition, offset + 1);
        self.bytes += output_bytes;
        self.counts.records += 1;
        self.timestamps_ms.extend(timestamp_ms);
    }

    /// Next offset to read of every input partition in the transaction.
    pub fn next_offsets(&self) -> &BTreeMap<i32, i64> {
        &self.next_offsets
    }

    pub fn age(&self, now: Instant) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now.duration_since(began))
    }

    /// A transaction is committed when it holds so many bytes or is so old; an idle input commits earlier.
    pub fn is_due(&self, now: Instant, bytes: usize, interval: Duration) -> bool {
        self.is_open() && (self.bytes >= bytes || self.age(now) >= interval)
    }

    /// Empties the batch, keeping its buffers; what it counted is returned.
    pub fn take(&mut self) -> Counts {
        self.began = None;
        self.bytes = 0;
        self.next_offsets.clear();
        self.timestamps_ms.clear();
        std::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_due_by_bytes_or_by_age() {
        let now = Instant::now();
        let mut batch = Batch::default();
        assert!(!batch.is_due(now, 0, Duration::ZERO), "nothing to commit");
        batch.open(now);
        batch.add(0, 41, Some(5), 100);
        assert!(!batch.is_due(now, 101, Duration::from_millis(100)));
        assert!(batch.is_due(now, 100, Duration::from_millis(100)));
        assert!(batch.is_due(now + Duration::from_millis(100), 101, Duration::from_millis(100)));
        assert_eq!(batch.next_offsets().get(&0), Some(&42));
        assert_eq!(batch.take().records, 1);
        assert!(!batch.is_open() && batch.next_offsets().is_empty());
    }

    #[test]
    fn reasons_are_counted_apart() {
        let mut list = Vec::new();
        for reason in ["bad-json", "missing-row", "bad-json"] {
            count(&mut list, reason);
        }
        assert_eq!(list, [("bad-json", 2), ("missing-row", 1)]);
    }
}
