//! What the outside sees of the publisher while it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::model::{Position, TableId};
use crate::mysql::requests::Resnapshots;

/// Counts are of this process.
#[derive(Debug)]
pub struct PublishStatus {
    elected: AtomicBool,
    /// Changes written, per table of the plan.
    changes: Vec<AtomicU64>,
    /// Commit time of the last transaction published, microseconds since the epoch.
    committed_us: AtomicU64,
    idle: AtomicBool,
    position: Mutex<Option<Position>>,
    commits: AtomicU64,
    commit_us: AtomicU64,
    /// Something was committed.
    fresh: AtomicBool,
    /// Tables all rows of which are to be published again.
    pub resnapshots: Resnapshots,
}

impl PublishStatus {
    pub fn new(tables: usize) -> Self {
        Self {
            elected: AtomicBool::new(false),
            changes: (0..tables).map(|_| AtomicU64::new(0)).collect(),
            committed_us: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            position: Mutex::default(),
            commits: AtomicU64::new(0),
            commit_us: AtomicU64::new(0),
            fresh: AtomicBool::new(false),
            resnapshots: Resnapshots::default(),
        }
    }

    /// Whether this process is the one that publishes.
    pub fn is_elected(&self) -> bool {
        self.elected.load(Relaxed)
    }

    /// Changes published of a table.
    pub fn changes(&self, table: TableId) -> u64 {
        self.changes[table.index()].load(Relaxed)
    }

    /// Everything up to here is published; `None` while this process does not publish.
    pub fn position(&self) -> Option<String> {
        self.position.lock().as_ref().map(ToString::to_string)
    }

    /// Seconds from the commit of the last transaction published until now; 0 while nothing is left to publish.
    pub fn lag_seconds(&self) -> f64 {
        let committed = self.committed_us.load(Relaxed);
        if committed == 0 || self.idle.load(Relaxed) || !self.is_elected() {
            return 0.0;
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64);
        now.saturating_sub(committed) as f64 / 1e6
    }

    /// Whether anything was committed since this was asked last.
    pub(super) fn take_progress(&self) -> bool {
        self.fresh.swap(false, Relaxed)
    }

    pub(super) fn set_elected(&self, elected: bool) {
        self.elected.store(elected, Relaxed);
        if !elected {
            *self.position.lock() = None;
        }
    }

    pub(super) fn count(&self, table: TableId) {
        self.changes[table.index()].fetch_add(1, Relaxed);
        self.idle.store(false, Relaxed);
    }

    pub(super) fn set_committed(&self, committed_us: u64) {
        if committed_us > 0 {
            self.committed_us.store(committed_us, Relaxed);
        }
    }

    pub(super) fn set_idle(&self) {
        self.idle.store(true, Relaxed);
    }

    pub(super) fn committed(&self, position: Option<&Position>, took: Duration) {
        *self.position.lock() = position.cloned();
        self.fresh.store(true, Relaxed);
        self.commits.fetch_add(1, Relaxed);
        self.commit_us.fetch_add(took.as_micros() as u64, Relaxed);
    }
}
