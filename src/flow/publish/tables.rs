//! Tables that are to be read before their changes can be published: new ones, those read in part, and those of which what is
//! published has to be compared with what they hold.
//!
//! ```text
//! 1 views open in the window (from, until]                                          mysql/snapshot.rs
//! 2 the binlog up to `until`: of a table read in part, changes of rows that are out  are published
//!                             in the window, the last state of each key             is kept: its net change
//! 3 rows of the views, in key order; a key with a net change is its net change        published as reads, as of `until`
//!   meanwhile the tables that follow are followed
//! 4 until the tables that follow are reached: every change after `until`             published
//! ```
//!
//! What always holds: at each commit the rows up to the place are out as of the position, and nothing after it, so a killed reading
//! goes on from there; the order of places is the server's.

use std::sync::Arc;

use tracing::info;

use super::Ended;
use super::difference::{self, Standing};
use super::leader::{Leader, Read, Stream, why};
use super::maker::{Event, Published, ReadMaker, record_form};
use super::progress::TableState;
use super::reading::{Net, Reading};
use super::rows::{Free, Rows, now_us};
use super::writer::{Common, Refused};
use crate::debezium::Snapshot;
use crate::model::{Position, Reason, TableId, Transaction};
use crate::mysql::assemble::Step;
use crate::mysql::catalogue::TableInfo;
use crate::mysql::chunks::{Batch, Chunks, Failed, Make};
use crate::mysql::connect;
use crate::mysql::snapshot::Views;

impl Leader<'_> {
    /// Reads every table that has to be read. Those that follow are followed meanwhile.
    pub async fn read_tables(&mut self) -> Result<(), Ended> {
        let wanted: Vec<TableId> = self
            .published()
            .filter(|&table| {
                matches!(self.state(table), Some(TableState::New | TableState::Reading { .. } | TableState::Again | TableState::Compare))
            })
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let publisher = self.publisher;
        let after = self.progress.position.as_ref().and_then(|position| position.gtids.clone());
        let connections = publisher.mysql.snapshot_connections;
        let mut views = Views::open(&publisher.mysql, &publisher.plan.tables, &wanted, after.as_deref(), connections).await?;
        let mut readings = Vec::new();
        for (table, described) in views.tables.clone() {
            match described {
                Ok(info) => readings.push(self.reading(table, info).await?),
                Err(problems) => {
                    let reason = problems.first().map_or(Reason::SchemaMismatch, |problem| problem.reason);
                    let texts: Vec<String> = problems.into_iter().map(|problem| format!("{}; {}", problem.what, problem.remedy)).collect();
                    self.stop_table(table, reason, &texts.join("\n"));
                }
            }
        }
        let until = self.reach(&mut readings, &views.from, &views.until).await?;
        let following: Vec<TableId> = self.published().filter(|&table| self.state(table) == Some(&TableState::Following)).collect();
        let mut beside = match &self.progress.position {
            Some(position) if !following.is_empty() => Some(self.stream(position, &following, self.known(), false).await?),
            _ => None,
        };
        let event = Arc::new(Event {
            file: Arc::clone(&until.file),
            offset: until.offset,
            timestamp: u32::try_from(now_us() / 1_000_000).unwrap_or(u32::MAX),
            server_id: 0,
            thread: None,
        });
        let mut rows = Rows::new(self.progress.position.is_none(), self.has_begun(), &until);
        for reading in readings {
            self.read_table(reading, &mut views, &event, &mut beside, &mut rows).await?;
        }
        let last = rows.end();
        self.release(last, &rows)?;
        self.commit()?;
        views.close().await;
        Ok(())
    }

    /// Whether rows of the first snapshot are out already.
    fn has_begun(&self) -> bool {
        self.progress.tables.values().any(|table| matches!(table.state, TableState::Reading { .. } | TableState::Read { .. }))
    }

    async fn reading(&self, table: TableId, info: TableInfo) -> Result<Reading, Ended> {
        let (done, published) = match self.state(table) {
            Some(TableState::Reading { at, place }) => {
                let place = place.parse().map_err(|error| Ended::Again(format!("progress of table {}: {error}", self.plan(table).name)))?;
                (Some((at.clone(), place)), None)
            }
            Some(TableState::Compare) => (None, Some(difference::standing(self.publisher, self.plan(table), false)?)),
            Some(TableState::Again) => (None, Some(difference::standing(self.publisher, self.plan(table), true)?)),
            _ => (None, None),
        };
        Ok(Reading { table, info: Arc::new(info), done, published, net: Net::default() })
    }

    /// Step 3, for one table.
    async fn read_table(
        &mut self,
        mut reading: Reading,
        views: &mut Views,
        event: &Arc<Event>,
        beside: &mut Option<Stream>,
        rows: &mut Rows,
    ) -> Result<(), Ended> {
        let table = reading.table;
        if matches!(self.state(table), Some(TableState::Stopped { .. })) {
            return Ok(());
        }
        let plan = self.plan(table);
        let details = self.known()[table.index()].details.clone();
        let name = self.publisher.plan.name.as_str();
        let make = || ReadMaker::new(table, Arc::clone(event), &reading.info.schema, plan, &details, name);
        let from = reading.done.take().map(|(_, place)| place);
        let place = from.as_ref().map(ToString::to_string);
        rows.begin(plan, from.is_some());
        let mut chunks = match views.chunks(plan, &reading.info, from, make).await {
            Ok(chunks) => chunks,
            Err(failed) => return self.failed(failed, table),
        };
        match place {
            None => info!(table = plan.name, "publishing the rows of table {}", plan.name),
            Some(place) => info!(table = plan.name, place, "publishing the rows of table {} from where that ended", plan.name),
        }
        let mut asked = None;
        let mut next = self.next_batch(&mut chunks, beside).await;
        loop {
            let batch = match next {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                Err(Waited::Failed(failed)) => return self.failed(failed, table),
                Err(Waited::Ended(ended)) => return Err(ended),
            };
            // Whether it is the last one is to be known before its last row goes.
            next = self.next_batch(&mut chunks, beside).await;
            for row in batch.made.0 {
                if let Some(row) = reading.net.replace(row) {
                    self.read_row(row, &mut reading.published, rows)?;
                }
            }
            if !reading.net.keys.is_empty() {
                let connection = match &mut asked {
                    Some(connection) => connection,
                    None => asked.insert(connect::connect(&self.publisher.mysql).await?),
                };
                for row in reading.net.up_to(&batch.place, plan, &reading.info, connection).await? {
                    self.read_row(row, &mut reading.published, rows)?;
                }
            }
            if matches!(next, Ok(Some(_))) && reading.published.is_none() {
                let free = rows.inside();
                self.release(free, rows)?;
                self.set_state(table, TableState::Reading { at: rows.until.clone(), place: batch.place.to_string() });
                self.commit_if_due()?;
            }
        }
        for row in reading.net.keys.drain().filter_map(|(_, after)| after.row).collect::<Vec<_>>() {
            self.read_row(row, &mut reading.published, rows)?;
        }
        if let Some(published) = reading.published {
            let form = record_form(&reading.info.schema, plan, &details, name).map_err(|error| Ended::Again(error.to_string()))?;
            for key in published.left() {
                let row = Published::delete(table, event, &form, &key, b"").numbered(rows.number());
                self.send_row(&row, Snapshot::Incremental, &rows.origin, rows.read_us)?;
            }
        }
        rows.end_table();
        self.set_state(table, TableState::Read { at: rows.until.clone() });
        self.publisher.tables.resume_publishing(table);
        if rows.held.is_none() { self.commit_if_due() } else { Ok(()) }
    }

    /// The next rows; meanwhile the tables that follow are followed.
    async fn next_batch(&mut self, chunks: &mut Chunks<Made>, beside: &mut Option<Stream>) -> Result<Option<Batch<Made>>, Waited> {
        loop {
            self.beat()?;
            let Some(stream) = beside else { return chunks.next().await.map_err(Waited::Failed) };
            tokio::select! {
                batch = chunks.next() => return batch.map_err(Waited::Failed),
                read = stream.read(true) => if let Read::Step(step) = read? {
                    self.act(step, &mut stream.assembler).await?;
                    self.commit_if_due()?;
                },
            }
        }
    }

    /// A row as of the end of the window.
    fn read_row(&mut self, row: Published, published: &mut Option<Standing>, rows: &mut Rows) -> Result<(), Ended> {
        if published.as_mut().is_none_or(|published| published.differs(&row)) {
            let free = rows.next(row);
            self.release(free, rows)?;
        }
        Ok(())
    }

    /// A row whose place in the snapshot is known.
    fn release(&mut self, row: Option<Free>, rows: &Rows) -> Result<(), Ended> {
        row.map_or(Ok(()), |Free { row, place, origin }| self.send_row(&row, place, &origin, rows.read_us))
    }

    fn send_row(&mut self, row: &Published, place: Snapshot, origin: &str, committed_us: u64) -> Result<(), Ended> {
        let common = Common { origin, gtid: None, committed_us, part: None, last_part: None };
        match self.writer.change(row, &common, place, None) {
            Ok(()) => {
                self.publisher.status.count(row.table);
                Ok(())
            }
            Err(refused) => self.refused(refused, row),
        }
    }

    pub fn refused(&mut self, refused: Refused, change: &Published) -> Result<(), Ended> {
        if let Refused::Fault(fault) = refused {
            return Err(fault.into());
        }
        let (reason, message) = why(&refused, &String::from_utf8_lossy(change.key()));
        self.stop_table(change.table, reason, &message);
        Err(Ended::AtOnce)
    }

    fn failed(&mut self, failed: Failed, table: TableId) -> Result<(), Ended> {
        match failed {
            Failed::Connection(error) => Err(error.into()),
            Failed::Value(error) => {
                self.stop_table(table, error.reason(), &error.to_string());
                Ok(())
            }
        }
    }

    pub async fn check_columns(&self, table: TableId, stream: &Stream) -> Result<(), Ended> {
        if self.publisher.has_columns_of(table, stream.assembler.schema(table)).await? {
            return Ok(());
        }
        Err(Ended::Again(format!("the columns of table {} changed while it was read", self.plan(table).name)))
    }

    /// Step 4: tables that were read catch up with those that follow.
    pub async fn catch_up(&mut self) -> Result<(), Ended> {
        let mut read: Vec<(TableId, Position)> = Vec::new();
        for table in self.published() {
            if let Some(TableState::Read { at }) = self.state(table) {
                read.push((table, at.clone()));
            }
        }
        let Some(earliest) = read.iter().map(|(_, at)| at.clone()).reduce(|one, other| if one.contains(&other) { other } else { one })
        else {
            return Ok(());
        };
        let Some(main) = self.progress.position.clone() else {
            // Nobody follows yet: the first ones to be read begin.
            self.progress.position = Some(earliest);
            self.settle();
            self.writer.touch_source();
            return self.commit();
        };
        read.retain(|(_, at)| main.contains(at) && *at != main);
        if !read.is_empty() {
            let tables: Vec<TableId> = read.iter().map(|(table, _)| *table).collect();
            let mut stream = self.stream(&earliest, &tables, self.known(), true).await?;
            while !stream.assembler.position().contains(&main) {
                self.beat()?;
                match stream.read(true).await? {
                    Read::Step(Step::Apply(Transaction { changes, position, id, committed_us })) => {
                        let gtid = position.gtids.is_some().then_some(id.as_str());
                        let common = Common { origin: &id, gtid, committed_us, part: None, last_part: None };
                        for change in changes {
                            let Some((_, at)) = read.iter().find(|(table, _)| *table == change.table) else { continue };
                            if main.covers(&id, &position) && !at.covers(&id, &position) {
                                match self.writer.change(&change, &common, Snapshot::False, None) {
                                    Ok(()) => self.publisher.status.count(change.table),
                                    Err(refused) => self.refused(refused, &change)?,
                                }
                            }
                        }
                        for (table, at) in &mut read {
                            if !at.covers(&id, &position) {
                                *at = position.clone();
                                self.set_state(*table, TableState::Read { at: position.clone() });
                            }
                        }
                        self.commit_if_due()?;
                    }
                    Read::Step(Step::Stop { table, reason, message }) => {
                        self.stop_table(table, reason, &message);
                        read.retain(|(known, _)| *known != table);
                    }
                    Read::Step(Step::Reload(tables) | Step::Rewind(tables)) => {
                        for table in tables {
                            self.compare(table, "a statement changed it while it was read");
                        }
                        self.commit()?;
                        return Err(Ended::AtOnce);
                    }
                    Read::Step(Step::Check(table)) => self.check_columns(table, &stream).await?,
                    Read::Step(Step::Ready(_) | Step::Part { .. } | Step::Columns(_)) | Read::Busy | Read::Idle => {}
                }
            }
            for (table, _) in read {
                self.set_state(table, TableState::Read { at: main.clone() });
            }
        }
        self.settle();
        self.commit()
    }
}

type Made = <ReadMaker as Make>::Made;

/// Why no rows came.
enum Waited {
    Failed(Failed),
    Ended(Ended),
}

impl From<Ended> for Waited {
    fn from(ended: Ended) -> Self {
        Waited::Ended(ended)
    }
}
