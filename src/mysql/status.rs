//! What the outside sees of the capture while it runs. Written by `flow::capture`, read by HTTP and metrics.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The capture's connection, lag and counts.
#[derive(Debug, Default)]
pub struct SourceStatus {
    connected: AtomicBool,
    was_connected: AtomicBool,
    /// Commit time of the last transaction applied, microseconds since the epoch; 0 when nothing is waiting to be applied.
    behind_us: AtomicU64,
    /// What the capture waits for, until it was connected once.
    awaited: Mutex<String>,
    pub transactions: AtomicU64,
    pub reconnects: AtomicU64,
    pub skipped_events: AtomicU64,
    pub zero_dates: AtomicU64,
    pub replaced_text: AtomicU64,
}

impl SourceStatus {
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        if connected {
            self.was_connected.store(true, Ordering::Relaxed);
        }
    }

    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Connected at least once since the start (contract E19).
    pub fn was_connected(&self) -> bool {
        self.was_connected.load(Ordering::Relaxed)
    }

    pub fn set_awaited(&self, awaited: &str) {
        *self.awaited.lock() = awaited.to_string();
    }

    pub fn awaited(&self) -> String {
        self.awaited.lock().clone()
    }

    /// A transaction committed at this time was applied and more may follow; 0: a heartbeat says that nothing is waiting.
    pub fn set_behind(&self, committed_us: u64) {
        self.behind_us.store(committed_us, Ordering::Relaxed);
    }

    /// Seconds between now and the commit of the last transaction applied, 0 when nothing is waiting.
    pub fn lag_seconds(&self) -> f64 {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
        match self.behind_us.load(Ordering::Relaxed) {
            0 => 0.0,
            committed_us => now_us.saturating_sub(committed_us) as f64 / 1e6,
        }
    }
}
