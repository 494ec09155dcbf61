//! What the outside sees of a stream while it runs: state, counts, lag. Written by its workers, read by HTTP and metrics.

use parking_lot::Mutex;
use prometheus_client::metrics::histogram::Histogram;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::audit::Audits;
use super::batch::Counts;
use super::publish::PublishStatus;
use crate::config::Plan;
use crate::join::{Lookups, StreamPlan};
use crate::model::Reason;
use crate::mysql::SourceStatus;
use crate::table::store::Store;
use crate::table::{self, Tables};

/// ```text
/// Waiting { for } ──joined, tables ready──► Running ──pause──► Paused
///      ▲                                      │  ▲              │
///      └───── table not ready, Kafka away ────┘  └────resume────┘
///                                             └── Stopped { reason }: until the process is started again
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Waiting { awaited: String },
    Running,
    Paused,
    Stopped { reason: Reason, message: String },
}

/// One stream of this instance, all its workers together.
pub struct StreamStatus {
    pub name: String,
    pub from: String,
    /// Output topic.
    pub to: String,
    /// Configuration names of the tables joined, in order of the joins.
    joined_tables: Vec<String>,
    worker_count: usize,
    joined: AtomicUsize,
    paused: AtomicBool,
    stopped: Mutex<Option<(Reason, String)>>,
    /// What the stream waits for; empty when it runs.
    awaited: Mutex<String>,
    records: AtomicU64,
    outputs: AtomicU64,
    dead_letters: Mutex<BTreeMap<&'static str, u64>>,
    dropped: Mutex<BTreeMap<&'static str, u64>>,
    lookups: Mutex<Vec<Lookups>>,
    /// Next offset to read of the partitions held here.
    positions: Mutex<BTreeMap<i32, i64>>,
    lag: AtomicI64,
    pub commit_seconds: Histogram,
    pub latency_seconds: Histogram,
}

impl StreamStatus {
    /// `table_name` gives the configuration name of a table.
    pub fn new(plan: &StreamPlan, table_name: impl Fn(crate::model::TableId) -> String) -> Self {
        Self {
            name: plan.name.clone(),
            from: plan.from.clone(),
            to: plan.topic.clone(),
            joined_tables: plan.joins.iter().map(|join| table_name(join.table)).collect(),
            worker_count: plan.workers,
            joined: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            stopped: Mutex::new(None),
            awaited: Mutex::new("Kafka".into()),
            records: AtomicU64::new(0),
            outputs: AtomicU64::new(0),
            dead_letters: Mutex::default(),
            dropped: Mutex::default(),
            lookups: Mutex::new(vec![Lookups::default(); plan.joins.len()]),
            positions: Mutex::default(),
            lag: AtomicI64::new(0),
            commit_seconds: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
            latency_seconds: Histogram::new([0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0]),
        }
    }

    pub fn state(&self) -> State {
        if let Some((reason, message)) = self.stopped.lock().clone() {
            return State::Stopped { reason, message };
        }
        if self.paused.load(Ordering::Relaxed) {
            return State::Paused;
        }
        let awaited = self.awaited.lock().clone();
        if awaited.is_empty() { State::Running } else { State::Waiting { awaited } }
    }

    /// Every worker has been in its consumer group at least once since the start (contract E19).
    pub fn is_joined(&self) -> bool {
        self.joined.load(Ordering::Acquire) >= self.worker_count
    }

    pub(super) fn worker_joined(&self) {
        self.joined.fetch_add(1, Ordering::AcqRel);
    }

    /// Names what the stream waits for; nothing when it flows.
    pub(super) fn set_awaited(&self, awaited: Option<&str>) {
        let awaited = awaited.unwrap_or_default();
        let mut known = self.awaited.lock();
        if *known != awaited {
            *known = awaited.to_string();
        }
    }

    pub(super) fn stop(&self, reason: Reason, message: &str) {
        *self.stopped.lock() = Some((reason, message.to_string()));
    }

    /// Holds the stream until [`StreamStatus::resume`] or the next start.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    pub fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Adds what a commit made true.
    pub(super) fn committed(&self, counts: &Counts, next_offsets: &BTreeMap<i32, i64>) {
        self.records.fetch_add(counts.records, Ordering::Relaxed);
        self.outputs.fetch_add(counts.outputs, Ordering::Relaxed);
        for (list, counted) in [(&self.dead_letters, &counts.dead_letters), (&self.dropped, &counts.dropped)] {
            let mut list = list.lock();
            for (reason, count) in counted {
                *list.entry(reason).or_default() += count;
            }
        }
        let mut positions = self.positions.lock();
        for (partition, next) in next_offsets {
            positions.insert(*partition, *next);
        }
    }

    pub(super) fn add_lookups(&self, counted: &[Lookups]) {
        for (total, more) in self.lookups.lock().iter_mut().zip(counted) {
            total.hits += more.hits;
            total.misses += more.misses;
        }
    }

    /// The partitions a worker holds changed; those it lost are another's to report.
    pub(super) fn set_partitions(&self, lost: &[i32], held: &[(i32, i64)]) {
        let mut positions = self.positions.lock();
        for partition in lost {
            positions.remove(partition);
        }
        for (partition, next) in held {
            positions.entry(*partition).or_insert(*next);
        }
    }

    /// Next offset to read of every partition held by this instance.
    pub fn positions(&self) -> BTreeMap<i32, i64> {
        self.positions.lock().clone()
    }

    pub fn set_lag(&self, records: i64) {
        self.lag.store(records, Ordering::Relaxed);
    }

    /// Records between our positions and the ends of the partitions held here.
    pub fn lag(&self) -> i64 {
        self.lag.load(Ordering::Relaxed)
    }

    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    pub fn outputs(&self) -> u64 {
        self.outputs.load(Ordering::Relaxed)
    }

    pub fn dead_letters(&self) -> BTreeMap<&'static str, u64> {
        self.dead_letters.lock().clone()
    }

    pub fn dropped(&self) -> BTreeMap<&'static str, u64> {
        self.dropped.lock().clone()
    }

    /// Look-ups by the configuration name of the table joined.
    pub fn lookups(&self) -> BTreeMap<String, Lookups> {
        let mut by_table = BTreeMap::<String, Lookups>::new();
        for (table, counted) in self.joined_tables.iter().zip(self.lookups.lock().iter()) {
            let total = by_table.entry(table.clone()).or_default();
            total.hits += counted.hits;
            total.misses += counted.misses;
        }
        by_table
    }

    pub fn is_running(&self) -> bool {
        self.state() == State::Running
    }
}

/// Everything the outside may look at, for HTTP and metrics.
pub struct Overview {
    pub plan: Arc<Plan>,
    pub tables: Arc<Tables>,
    pub source: Option<Arc<SourceStatus>>,
    pub streams: Vec<Arc<StreamStatus>>,
    /// Where tables have change topics.
    pub publisher: Option<Arc<PublishStatus>>,
    pub audits: Arc<Audits>,
    /// `None` without `[state] path`.
    pub store: Option<Arc<Store>>,
    pub started: Instant,
}

impl Overview {
    /// What must still happen before the daemon is ready (contract E19), a line each; empty when it is.
    pub fn awaited(&self) -> Vec<String> {
        let mut awaited = Vec::new();
        if let Some(source) = &self.source
            && !source.was_connected()
        {
            awaited.push(format!("source mysql: {}", source.awaited()));
        }
        for table in self.tables.summaries() {
            match table.state {
                table::State::Ready => {}
                table::State::Snapshot { percent } => {
                    awaited.push(format!("table {}: snapshot {percent} %{}", table.name, time_left(table.remaining)));
                }
                table::State::Stopped { reason, message } => awaited.push(format!("table {}: stopped, {reason}: {message}", table.name)),
            }
        }
        for stream in &self.streams {
            if let State::Stopped { reason, message } = stream.state() {
                awaited.push(format!("stream {}: stopped, {reason}: {message}", stream.name));
            } else if !stream.is_joined() {
                // Also while it is paused: a pause hides nothing that is missing.
                awaited.push(format!("stream {}: {}", stream.name, stream.awaited.lock()));
            }
        }
        awaited
    }
}

/// `, about 12 s left`, or nothing where nobody can say.
pub fn time_left(remaining: Option<Duration>) -> String {
    remaining.map_or_else(String::new, |left| format!(", about {} s left", left.as_secs().max(1)))
}
