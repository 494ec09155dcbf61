//! What the outside sees of the publisher while it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::model::{Position, TableId};
use crate::mysql::requests::Resnapshots;

/// Counts are of this process.
#[derive(Debug)]
pub struct PublishStatus {
    elected: AtomicBool,
    /// Changes written, per table of the plan.
    changes: Vec<AtomicU64>,
    /// When the topics were known to show the source as it is, or when the last transaction published was committed, or the start;
    /// microseconds since the epoch.
    current_us: AtomicU64,
    idle: AtomicBool,
    /// Another instance publishes.
    standby: AtomicBool,
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
            current_us: AtomicU64::new(now_us()),
            idle: AtomicBool::new(false),
            standby: AtomicBool::new(false),
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

    /// How far the topics are behind the source, in seconds: 0 while nothing is left to publish or another instance publishes, else the
    /// time since they were known to be current, or since the commit of the last transaction published.
    pub fn lag_seconds(&self) -> f64 {
        if self.standby.load(Relaxed) || self.is_elected() && self.idle.load(Relaxed) {
            return 0.0;
        }
        now_us().saturating_sub(self.current_us.load(Relaxed)) as f64 / 1e6
    }

    /// Whether anything was committed since this was asked last.
    pub(super) fn take_progress(&self) -> bool {
        self.fresh.swap(false, Relaxed)
    }

    pub(super) fn set_elected(&self, elected: bool) {
        self.elected.store(elected, Relaxed);
        self.idle.store(false, Relaxed);
        if elected {
            self.standby.store(false, Relaxed);
        } else {
            *self.position.lock() = None;
        }
    }

    pub(super) fn set_standby(&self) {
        self.standby.store(true, Relaxed);
    }

    pub(super) fn count(&self, table: TableId) {
        self.changes[table.index()].fetch_add(1, Relaxed);
        self.idle.store(false, Relaxed);
    }

    pub(super) fn set_committed(&self, committed_us: u64) {
        if committed_us > 0 {
            self.current_us.store(committed_us, Relaxed);
        }
    }

    pub(super) fn set_idle(&self) {
        self.current_us.store(now_us(), Relaxed);
        self.idle.store(true, Relaxed);
    }

    pub(super) fn committed(&self, position: Option<&Position>, took: Duration) {
        *self.position.lock() = position.cloned();
        self.fresh.store(true, Relaxed);
        self.commits.fetch_add(1, Relaxed);
        self.commit_us.fetch_add(took.as_micros() as u64, Relaxed);
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64)
}
