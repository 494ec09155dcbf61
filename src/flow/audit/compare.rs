//! One table compared with MySQL at one position, while both change.
//!
//! ```text
//! segment    a view opens, the stream passes it, rows are read for some seconds, each compared with the row held
//!            ├─ equal: done
//!            └─ not equal, or not held: a suspect, for it may just have changed
//! verify     mark the time ─ open a fresh view ─ read the suspects by key ─ wait until the stream has passed the view
//!            ├─ the stream touched the key since the mark: once more, up to `ROUNDS` times, then it is unsettled
//!            ├─ equal: it had just changed
//!            └─ not equal: a difference
//! end        the rows held and never touched are counted against those read and never touched: more of them, and some are not in MySQL
//! ```
//!
//! A difference is one at a single position, and no false alarm: the row held did not change from before the view until the stream had
//! passed it, so it was the same at the view's own place, where MySQL showed another. The view holds all that was applied before the
//! mark (it waits for those GTIDs; without GTIDs it opens a second later). Rows are read and rendered by the snapshot's own path and
//! compared as bytes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::LOOK;
use crate::config::plan::{MysqlPlan, TablePlan};
use crate::model::{Key, Position, Row, Schema, TableId};
use crate::mysql::SourceStatus;
use crate::mysql::catalogue::TableInfo;
use crate::mysql::chunks::Make as _;
use crate::mysql::load::Renderer;
use crate::mysql::place::{Place, has_key};
use crate::mysql::snapshot::Views;
use crate::table::watch::{Watch, hash};
use crate::table::{Lookup, Tables, View};

/// How long a view is kept open: statements that alter the table wait for it, and the server keeps old row versions.
const SEGMENT: Duration = Duration::from_secs(2);

/// So that neither the server nor the joins notice.
const MOST_ROWS_PER_SECOND: u32 = 50_000;

/// Rows compared under one lock.
const ROWS_PER_LOOK: usize = 256;

/// A segment ends early when it has so many suspects.
const MOST_SUSPECTS: usize = 2_000;

/// Suspects verified with one view.
const SUSPECTS_PER_VIEW: usize = 200;

const ROUNDS: u32 = 6;

/// The comparison ends when it has found so many.
const MOST_DIFFERENCES: usize = 1_000;

/// Longest wait for the stream to pass a view.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Report {
    /// Rows read from MySQL.
    pub rows: u64,
    /// Where the last view was.
    pub position: String,
    pub differences: Vec<Difference>,
    /// Their number.
    pub found: u64,
    /// Keys that changed too often to be compared.
    pub unsettled: u64,
    /// False when it was ended because there are too many differences.
    pub complete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub key: Key,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// In MySQL, not held.
    Missing,
    /// Held, not in MySQL.
    Extra,
    /// In both, and not the same in these columns.
    Changed { columns: Vec<String> },
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Changed { .. } => "changed",
        }
    }
}

/// What a comparison needs.
pub struct Comparison<'a> {
    pub mysql: &'a MysqlPlan,
    pub plans: &'a [TablePlan],
    pub table: TableId,
    pub tables: &'a Tables,
    pub source: &'a SourceStatus,
}

/// Ends the watch however the comparison ends.
struct Watching<'a> {
    tables: &'a Tables,
    table: TableId,
}

impl<'a> Watching<'a> {
    fn start(tables: &'a Tables, table: TableId) -> Result<Self, String> {
        if tables.start_watch(table) { Ok(Self { tables, table }) } else { Err("the table is not ready".into()) }
    }

    fn end(self) -> Result<Watch, String> {
        self.tables.end_watch(self.table).ok_or_else(interrupted)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.tables.end_watch(self.table);
    }
}

/// A view of the table, which the stream has not passed yet, and how its rows are made.
struct Opened {
    views: Views,
    info: TableInfo,
}

impl Comparison<'_> {
    /// Compares the whole table. The error says why it could not be done.
    pub async fn run(&self) -> Result<Report, String> {
        let mut report = Report { complete: true, ..Report::default() };
        let mut seen = Vec::new();
        let mut from = None;
        let watching = Watching::start(self.tables, self.table)?;
        loop {
            let mut suspects = Vec::new();
            let next = self.segment(from, &mut seen, &mut suspects, &mut report).await?;
            self.verify(&suspects, &mut report).await?;
            if report.differences.len() >= MOST_DIFFERENCES {
                report.complete = false;
                report.rows = seen.len() as u64;
                return Ok(report);
            }
            from = next;
            if from.is_none() {
                break;
            }
        }
        report.rows = seen.len() as u64;
        seen.sort_unstable();
        let watch = watching.end()?;
        if self.holds_more(&watch, &seen, &report) {
            let watching = Watching::start(self.tables, self.table)?;
            let unknown = |key: &Key| seen.binary_search(&hash(key)).is_err() && !watch.is_touched(hash(key));
            let suspects: Vec<Key> = {
                let view = self.tables.view();
                view.rows(self.table).map(|(key, _)| key).filter(|key| unknown(key)).take(MOST_SUSPECTS).cloned().collect()
            };
            report.complete = suspects.len() < MOST_SUSPECTS;
            self.verify(&suspects, &mut report).await?;
            drop(watching);
        }
        Ok(report)
    }

    /// Whether rows are held that no view has shown. Looking for them means to lock the table for longer, so it is counted first.
    fn holds_more(&self, watch: &Watch, seen: &[u64], report: &Report) -> bool {
        let seen_untouched = seen.iter().filter(|&&hash| !watch.is_touched(hash)).count();
        let missing = |difference: &&Difference| difference.kind == Kind::Missing && !watch.is_touched(hash(&difference.key));
        let missing = report.differences.iter().filter(missing).count();
        watch.untouched_rows() + missing > seen_untouched
    }

    /// Reads rows beyond `from` and compares them; returns where to go on, or nothing when the table is done.
    async fn segment(
        &self,
        from: Option<Place>,
        seen: &mut Vec<u64>,
        suspects: &mut Vec<Key>,
        report: &mut Report,
    ) -> Result<Option<Place>, String> {
        let Opened { mut views, info } = self.open().await?;
        report.position = views.until.to_string();
        self.passed(&views.until).await?;
        let plan = &self.plans[self.table.index()];
        let mut chunks = views.chunks(plan, &info, from, || Renderer::new(&info, plan)).await.map_err(|error| error.to_string())?;
        let (began, mut rows, mut place) = (Instant::now(), 0, None);
        while let Some(batch) = chunks.next().await.map_err(|error| error.to_string())? {
            for part in batch.made.0.chunks(ROWS_PER_LOOK) {
                let view = self.tables.view();
                self.watch(&view)?;
                for (key, row) in part {
                    seen.push(hash(key));
                    if !matches!(view.lookup(self.table, key.as_bytes()), Lookup::Row(held) if *held == *row) {
                        suspects.push(key.clone());
                    }
                }
            }
            rows += batch.rows;
            if began.elapsed() > SEGMENT || suspects.len() >= MOST_SUSPECTS {
                place = Some(batch.place);
                break;
            }
            let allowed = Duration::from_secs(1) * u32::try_from(rows).unwrap_or(u32::MAX) / MOST_ROWS_PER_SECOND;
            tokio::time::sleep(allowed.saturating_sub(began.elapsed())).await;
        }
        drop(chunks);
        views.close().await;
        Ok(place)
    }

    /// Compares these keys until each is equal, different at one position, or given up.
    async fn verify(&self, suspects: &[Key], report: &mut Report) -> Result<(), String> {
        for suspects in suspects.chunks(SUSPECTS_PER_VIEW) {
            let mut left = suspects.to_vec();
            for round in 0..ROUNDS {
                if left.is_empty() || report.differences.len() >= MOST_DIFFERENCES {
                    break;
                }
                tokio::time::sleep(LOOK * round * round).await;
                left = self.compare(left, report).await?;
            }
            report.unsettled += left.len() as u64;
        }
        Ok(())
    }

    /// Compares keys by a fresh view; returns those that were touched meanwhile.
    async fn compare(&self, keys: Vec<Key>, report: &mut Report) -> Result<Vec<Key>, String> {
        let mark = self.watch(&self.tables.view())?.mark();
        let Opened { mut views, info } = self.open().await?;
        report.position = views.until.to_string();
        let plan = &self.plans[self.table.index()];
        let mut renderer = Renderer::new(&info, plan).map_err(|error| error.to_string())?;
        let names = renderer.row_schema().key.iter().map(|&index| renderer.row_schema().columns[index].name.clone());
        let key_columns: Vec<usize> = names.filter_map(|name| info.schema.column_index(&name)).collect();
        let conditions: Vec<Option<String>> = keys.iter().map(|key| has_key(&info, &key_columns, key)).collect();
        let askable: Vec<String> = conditions.iter().flatten().cloned().collect();
        let rows = views.find(plan, &info, &askable).await.map_err(|error| error.to_string())?;
        let (rows, _) = renderer.make(rows).map_err(|error| error.to_string())?;
        let found: HashMap<Key, Row> = rows.into_iter().collect();
        let until = views.until.clone();
        views.close().await;
        self.passed(&until).await?;

        let view = self.tables.view();
        let watch = self.watch(&view)?;
        let mut left = Vec::new();
        for (key, condition) in keys.into_iter().zip(conditions) {
            if condition.is_none() || watch.touched_since(&key, mark) {
                left.push(key);
                continue;
            }
            let kind = match (view.lookup(self.table, key.as_bytes()), found.get(&key)) {
                (Lookup::Row(held), Some(row)) if *held == *row => continue,
                (Lookup::Row(held), Some(row)) => Kind::Changed { columns: changed(view.schema(self.table), &held, row) },
                (Lookup::Row(_), None) => Kind::Extra,
                (_, Some(_)) => Kind::Missing,
                (_, None) => continue,
            };
            report.found += 1;
            report.differences.push(Difference { key, kind });
        }
        Ok(left)
    }

    /// Opens a view that holds everything applied until now.
    async fn open(&self) -> Result<Opened, String> {
        let applied = self.tables.view().position().gtids.clone();
        if applied.is_none() {
            // Nobody says when a commit that was read from the binlog can be seen; after a second it can.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let which = [self.table];
        let mut views = Views::open(self.mysql, self.plans, &which, applied.as_deref(), 1).await.map_err(|error| error.to_string())?;
        let info = match views.tables.pop() {
            Some((_, Ok(info))) => info,
            Some((_, Err(problems))) => return Err(problems.into_iter().map(|problem| problem.what).collect::<Vec<_>>().join("; ")),
            None => return Err(interrupted()),
        };
        let renderer = Renderer::new(&info, &self.plans[self.table.index()]).map_err(|error| error.to_string())?;
        if renderer.row_schema() != self.tables.view().schema(self.table) {
            return Err(interrupted());
        }
        Ok(Opened { views, info })
    }

    /// Waits until the tables hold everything up to `until`.
    async fn passed(&self, until: &Position) -> Result<(), String> {
        let began = Instant::now();
        loop {
            if self.source.reached().is_some_and(|reached| reached.server_uuid == until.server_uuid && reached.reaches(until)) {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("the stream is more than {} s behind MySQL", PATIENCE.as_secs()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn watch<'v>(&self, view: &'v View<'_>) -> Result<&'v Watch, String> {
        view.watch(self.table).filter(|_| view.is_ready(self.table)).ok_or_else(interrupted)
    }
}

fn interrupted() -> String {
    "the table was read again meanwhile".into()
}

/// The columns in which two rows of one schema differ.
fn changed(schema: &Schema, held: &Row, row: &Row) -> Vec<String> {
    let columns = schema.columns.iter().enumerate();
    columns.filter(|&(index, _)| held.column(index) != row.column(index)).map(|(_, column)| column.name.clone()).collect()
}
