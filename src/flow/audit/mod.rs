//! The audit: tables compared with MySQL, row by row, while both change. It is the defence against what binlogs do not say: cascades of
//! foreign keys, `sql_log_bin = 0`, bugs.
//!
//! [`Auditor::run`] waits for a request or for the time of a table and has one table at a time compared ([`compare`]); what came of it
//! stands in [`Audits`], for HTTP and metrics. What always holds: an audit changes nothing; one that could not be done says so, and
//! is never taken for one that found nothing.

mod compare;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

pub use compare::{Comparison, Difference, Kind, Report};

use crate::config::Plan;
use crate::model::{Stop, TableId};
use crate::mysql::SourceStatus;
use crate::table::Tables;

/// What is known of the audits of every table, indexed by `TableId`.
pub struct Audits {
    tables: Mutex<Vec<Audit>>,
    asked: Notify,
}

/// One table's audit.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Configuration name of the table.
    pub table: String,
    pub state: State,
    /// Of the last one that was carried through.
    pub report: Option<Arc<Report>>,
    /// When it ended, seconds since the epoch.
    pub finished: Option<u64>,
}

/// ```text
/// Idle ── ask, timer ──► Asked ──► Running ──► Idle, or Failed { message } until the next one
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Idle,
    Asked,
    Running,
    Failed { message: String },
}

impl Audits {
    pub fn new(tables: impl IntoIterator<Item = String>) -> Self {
        let idle = |table| Audit { table, state: State::Idle, report: None, finished: None };
        Self { tables: Mutex::new(tables.into_iter().map(idle).collect()), asked: Notify::new() }
    }

    pub fn all(&self) -> Vec<Audit> {
        self.tables.lock().clone()
    }

    pub fn get(&self, table: TableId) -> Option<Audit> {
        self.tables.lock().get(table.index()).cloned()
    }

    /// Asks for an audit; false where one is asked for or running already.
    pub fn ask(&self, table: TableId) -> bool {
        let mut tables = self.tables.lock();
        let Some(audit) = tables.get_mut(table.index()) else { return false };
        if matches!(audit.state, State::Asked | State::Running) {
            return false;
        }
        audit.state = State::Asked;
        self.asked.notify_one();
        true
    }

    /// Takes the next one asked for; it is running now.
    fn take(&self) -> Option<TableId> {
        let mut tables = self.tables.lock();
        let index = tables.iter().position(|audit| audit.state == State::Asked)?;
        tables[index].state = State::Running;
        u16::try_from(index).ok().map(TableId)
    }

    fn finish(&self, table: TableId, outcome: Result<Report, String>) {
        let mut tables = self.tables.lock();
        let Some(audit) = tables.get_mut(table.index()) else { return };
        match outcome {
            Ok(report) => {
                audit.state = State::Idle;
                audit.report = Some(Arc::new(report));
                audit.finished = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
            }
            Err(message) => audit.state = State::Failed { message },
        }
    }
}

/// Carries out the audits of a process.
pub struct Auditor {
    pub plan: Arc<Plan>,
    pub tables: Arc<Tables>,
    pub source: Arc<SourceStatus>,
    pub audits: Arc<Audits>,
}

impl Auditor {
    /// Audits until `stop` turns true. For a thread and a runtime of its own.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> Result<(), Stop> {
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => Ok(()),
            never = self.go_on() => match never {},
        }
    }

    async fn go_on(&self) -> std::convert::Infallible {
        // The first turn of a table comes one interval after the start.
        let mut due: Vec<Option<Instant>> = self.plan.tables.iter().map(|table| table.audit.map(|every| Instant::now() + every)).collect();
        loop {
            while let Some(table) = self.audits.take() {
                self.audit(table).await;
            }
            let next = due.iter().flatten().min().copied();
            let timer = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.audits.asked.notified() => {}
                () = timer => {}
            }
            for (index, (due, plan)) in due.iter_mut().zip(&self.plan.tables).enumerate() {
                if due.is_some_and(|due| due <= Instant::now()) {
                    *due = plan.audit.map(|every| Instant::now() + every);
                    u16::try_from(index).into_iter().for_each(|index| _ = self.audits.ask(TableId(index)));
                }
            }
        }
    }

    async fn audit(&self, table: TableId) {
        let name = &self.plan.tables[table.index()].name;
        let began = Instant::now();
        let outcome = match &self.plan.mysql {
            Some(mysql) => {
                let plans = &self.plan.tables;
                Comparison { mysql, plans, table, tables: &self.tables, source: &self.source }.run().await
            }
            None => Err("no table is read from MySQL".to_owned()),
        };
        match &outcome {
            Ok(report) if report.found > 0 => error!(
                table = name,
                differences = report.found,
                "table {name} differs from MySQL in {}{} rows (larder audit lists them); POST /api/tables/{name}/resnapshot reads it again",
                if report.complete { "" } else { "at least " },
                report.found
            ),
            Ok(report) => info!(
                table = name,
                rows = report.rows,
                unsettled = report.unsettled,
                seconds = began.elapsed().as_secs_f64(),
                "audited table {name}: {} rows as in MySQL",
                report.rows
            ),
            Err(message) => warn!(table = name, "table {name} could not be audited: {message}"),
        }
        self.audits.finish(table, outcome);
    }
}

/// Time between two looks at something awaited.
const LOOK: Duration = Duration::from_millis(10);
