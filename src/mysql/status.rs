//! What the outside sees of the capture while it runs, and asks of it. Written by `flow::capture`, read by HTTP and metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::assemble::Tally;
use super::requests::Resnapshots;
use crate::model::Position;
use crate::model::Substitutions;

/// The capture's connection, place, lag and counts.
#[derive(Debug, Default)]
pub struct SourceStatus {
    connected: AtomicBool,
    was_connected: AtomicBool,
    /// Nothing is left to read right now.
    idle: AtomicBool,
    /// When the tables were known to show the source as it is, microseconds since the epoch; 0 before the first snapshot.
    current_us: AtomicU64,
    /// Commit time of the last transaction applied, microseconds since the epoch.
    committed_us: AtomicU64,
    /// When the first snapshot's stream position was taken, microseconds since the epoch.
    needed_us: AtomicU64,
    /// Microseconds that binlog files stay after their last write; 0 unknown, `u64::MAX` for ever.
    log_expiry_us: AtomicU64,
    transactions: AtomicU64,
    large_transactions: AtomicU64,
    skipped_events: AtomicU64,
    reconnects: AtomicU64,
    zero_dates: AtomicU64,
    replaced_text: AtomicU64,
    invalid_enums: AtomicU64,
    position: Mutex<Option<Position>>,
    /// What the capture waits for, until it was connected once.
    awaited: Mutex<String>,
    /// Tables to read again.
    pub resnapshots: Resnapshots,
}

impl SourceStatus {
    pub fn connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Connected at least once since the start (contract E19).
    pub fn was_connected(&self) -> bool {
        self.was_connected.load(Relaxed)
    }

    /// What the capture waits for before it was connected once, in words.
    pub fn awaited(&self) -> String {
        self.awaited.lock().clone()
    }

    /// The place up to which transactions are in the tables; `None` before the first snapshot.
    pub fn position(&self) -> Option<String> {
        self.position.lock().as_ref().map(ToString::to_string)
    }

    /// The same, to compare with.
    pub fn reached(&self) -> Option<Position> {
        self.position.lock().clone()
    }

    /// How far the tables are behind the source, in seconds: 0 while nothing is left to read, else the time since they were known to
    /// be current, or since the commit of the last transaction applied. 0 before the first snapshot.
    pub fn lag_seconds(&self) -> f64 {
        let current = self.current_us.load(Relaxed);
        if current == 0 || self.connected() && self.idle.load(Relaxed) {
            return 0.0;
        }
        now_us().saturating_sub(current) as f64 / 1e6
    }

    /// Seconds until the server may purge a binlog file that is still needed; 0 when it may have, infinite where it purges none. `None`
    /// before the server was asked.
    ///
    /// A file goes when nothing was written to it for as long as `binlog_expire_logs_seconds` says. What is needed next was written after
    /// the time to which the tables are current, so the file it stands in goes at the earliest that long after that time:
    /// expiry − lag. While the first snapshot is being read, its age takes the place of the lag.
    pub fn runway_seconds(&self) -> Option<f64> {
        let expiry = match self.log_expiry_us.load(Relaxed) {
            0 => return None,
            u64::MAX => return Some(f64::INFINITY),
            expiry => expiry as f64 / 1e6,
        };
        let needed = self.needed_us.load(Relaxed);
        let snapshot = self.current_us.load(Relaxed) == 0 && needed > 0;
        let age = if snapshot { now_us().saturating_sub(needed) as f64 / 1e6 } else { self.lag_seconds() };
        Some((expiry - age).max(0.0))
    }

    /// Commit time of the last transaction applied, microseconds since the epoch; `None` before the first.
    pub fn committed_us(&self) -> Option<u64> {
        Some(self.committed_us.load(Relaxed)).filter(|&us| us > 0)
    }

    /// Transactions read from the binlog, also those that touch no captured table.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Relaxed)
    }

    /// Transactions above `limits.transaction_bytes`, applied in one step all the same.
    pub fn large_transactions(&self) -> u64 {
        self.large_transactions.load(Relaxed)
    }

    /// Events of unknown type that were marked as ignorable.
    pub fn skipped_events(&self) -> u64 {
        self.skipped_events.load(Relaxed)
    }

    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Relaxed)
    }

    pub fn zero_dates(&self) -> u64 {
        self.zero_dates.load(Relaxed)
    }

    /// Texts with bytes invalid in their charset that went out with replacements.
    pub fn replaced_text(&self) -> u64 {
        self.replaced_text.load(Relaxed)
    }

    /// ENUM values that are none of the labels.
    pub fn invalid_enums(&self) -> u64 {
        self.invalid_enums.load(Relaxed)
    }
}

// === written by the capture ===

impl SourceStatus {
    pub(crate) fn set_awaited(&self, awaited: &str) {
        *self.awaited.lock() = awaited.to_owned();
    }

    /// A snapshot has taken the position from which the stream will follow.
    pub(crate) fn set_needed(&self) {
        self.needed_us.store(now_us(), Relaxed);
    }

    pub(crate) fn set_log_expiry(&self, expiry: Option<Duration>) {
        let us = expiry.map_or(u64::MAX, |expiry| u64::try_from(expiry.as_micros()).unwrap_or(u64::MAX).max(1));
        self.log_expiry_us.store(us, Relaxed);
    }

    /// Events arrive. Whether this is news.
    pub(crate) fn set_connected(&self) -> bool {
        self.was_connected.store(true, Relaxed);
        !self.connected.swap(true, Relaxed)
    }

    pub(crate) fn set_disconnected(&self) {
        self.idle.store(false, Relaxed);
        self.connected.store(false, Relaxed);
    }

    pub(crate) fn reconnecting(&self) {
        self.reconnects.fetch_add(1, Relaxed);
    }

    /// A snapshot shows the source as it is now.
    pub(crate) fn set_current(&self, position: &Position) {
        self.current_us.store(now_us(), Relaxed);
        self.set_position(position);
    }

    /// Nothing is left to read.
    pub(crate) fn set_idle(&self, position: &Position) {
        if !self.connected() {
            return;
        }
        if self.idle.swap(true, Relaxed) {
            // It moves without transactions too: a new binlog file.
            self.set_position(position);
        } else {
            self.set_current(position);
        }
    }

    pub(crate) fn set_position(&self, position: &Position) {
        *self.position.lock() = Some(position.clone());
    }

    pub(crate) fn set_committed(&self, committed_us: u64) {
        if committed_us > 0 {
            self.committed_us.store(committed_us, Relaxed);
            self.current_us.store(committed_us, Relaxed);
        }
    }

    pub(crate) fn count(&self, tally: Tally) {
        if tally.transactions > 0 {
            self.idle.store(false, Relaxed);
        }
        add(&self.transactions, tally.transactions);
        add(&self.large_transactions, tally.large_transactions);
        add(&self.skipped_events, tally.ignored_events);
        self.count_rows(tally.rows);
    }

    pub(crate) fn count_rows(&self, counts: Substitutions) {
        add(&self.zero_dates, counts.zero_dates);
        add(&self.replaced_text, counts.replaced_texts);
        add(&self.invalid_enums, counts.invalid_enums);
    }
}

fn add(counter: &AtomicU64, more: u64) {
    if more > 0 {
        counter.fetch_add(more, Relaxed);
    }
}

/// Microseconds since the epoch.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runway_is_the_expiry_less_what_the_tables_are_behind() {
        let status = SourceStatus::default();
        assert_eq!(status.runway_seconds(), None);
        status.set_log_expiry(None);
        assert_eq!(status.runway_seconds(), Some(f64::INFINITY));
        status.set_log_expiry(Some(Duration::from_secs(100)));
        assert_eq!(status.runway_seconds(), Some(100.0));
        status.needed_us.store(now_us() - 30_000_000, Relaxed);
        let runway = || status.runway_seconds().expect("the expiry is known");
        assert!((69.0..=70.0).contains(&runway()), "a first snapshot that takes long: {}", runway());
        status.current_us.store(now_us() - 10_000_000, Relaxed);
        assert!((89.0..=90.0).contains(&runway()), "{}", runway());
        status.current_us.store(now_us() - 1_000_000_000, Relaxed);
        assert_eq!(runway(), 0.0);
    }
}
