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
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use mysql_async::Conn;
use tracing::info;

use super::Ended;
use super::difference::{self, Standing};
use super::leader::{Leader, Read, Stream};
use super::maker::{Event, Kind, Published, ReadMaker, record_form};
use super::progress::TableState;
use super::writer::{Common, Refused};
use crate::config::plan::TablePlan;
use crate::debezium::Snapshot;
use crate::model::{Position, Reason, TableId, Transaction};
use crate::mysql::assemble::Step;
use crate::mysql::catalogue::TableInfo;
use crate::mysql::chunks::{Batch, Chunks, Failed, Make};
use crate::mysql::connect::{self, Error};
use crate::mysql::place::Place;
use crate::mysql::snapshot::{self, Views};

/// A table that is read.
struct Reading {
    table: TableId,
    info: Arc<TableInfo>,
    /// As of when, and how far, rows are out already.
    done: Option<(Position, Place)>,
    /// What stands in the topic, where it has to be compared.
    published: Option<Standing>,
    net: Net,
}

/// What the window did to keys.
#[derive(Default)]
struct Net {
    keys: HashMap<Box<[u8]>, After>,
    /// All rows from before are gone.
    truncated: bool,
}

/// A key at the end of the window.
struct After {
    /// `None`: it is gone.
    row: Option<Published>,
    place: Option<Place>,
}

impl Net {
    fn take(&mut self, change: &Published) {
        let gone = match change.kind {
            Kind::Truncate => {
                self.keys.clear();
                self.truncated = true;
                return;
            }
            Kind::Move => Some(change.old_key()),
            Kind::Delete => Some(change.key()),
            Kind::Read | Kind::Create | Kind::Update => None,
        };
        if let Some(key) = gone {
            self.keys.insert(key.into(), After { row: None, place: None });
        }
        if let Some(row) = change.as_read() {
            let place = change.places.as_ref().and_then(|places| places.after.clone());
            self.keys.insert(row.key().into(), After { row: Some(row), place });
        }
    }

    /// What a row of the views is at the end of the window.
    fn replace(&mut self, row: Published) -> Option<Published> {
        match self.keys.remove(row.key()) {
            Some(after) => after.row,
            None if self.truncated => None,
            None => Some(row),
        }
    }

    /// Takes the rows out that the views do not have, but lie up to a place.
    async fn up_to(&mut self, place: &Place, plan: &TablePlan, info: &TableInfo, connection: &mut Conn) -> Result<Vec<Published>, Error> {
        let there: Vec<(Box<[u8]>, Place)> =
            self.keys.iter().filter_map(|(key, after)| Some((key.clone(), after.row.as_ref().and(after.place.clone())?))).collect();
        if there.is_empty() {
            return Ok(Vec::new());
        }
        let places: Vec<Place> = there.iter().map(|(_, place)| place.clone()).collect();
        let beyond = snapshot::beyond(connection, plan, info, place, &places).await?;
        let within = there.into_iter().zip(beyond).filter(|(_, beyond)| !beyond);
        Ok(within.filter_map(|((key, _), _)| self.keys.remove(&key)?.row).collect())
    }
}

impl Leader<'_> {
    /// Reads every table that has to be read. Those that follow are followed meanwhile.
    pub async fn read_tables(&mut self) -> Result<(), Ended> {
        let wanted: Vec<TableId> = self
            .published()
            .filter(|&table| matches!(self.state(table), Some(TableState::New | TableState::Reading { .. } | TableState::Compare)))
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
        let until = views.until.clone();
        self.reach(&mut readings, &views.from, &until).await?;
        let following: Vec<TableId> = self.published().filter(|&table| self.state(table) == Some(&TableState::Following)).collect();
        let mut beside = match &self.progress.position {
            Some(position) if !following.is_empty() => Some(self.stream(position, &following, self.known(), true).await?),
            _ => None,
        };
        let event = Arc::new(Event {
            file: Arc::clone(&until.file),
            offset: until.offset,
            timestamp: u32::try_from(now_us() / 1_000_000).unwrap_or(u32::MAX),
            server_id: 0,
            thread: None,
        });
        let mut rows = Rows::new(self.progress.position.is_none(), &until);
        for reading in readings {
            self.read_table(reading, &mut views, &event, &mut beside, &mut rows).await?;
        }
        let last = rows.end();
        self.release(last, &rows)?;
        self.commit()?;
        views.close().await;
        Ok(())
    }

    async fn reading(&self, table: TableId, info: TableInfo) -> Result<Reading, Ended> {
        let (done, published) = match self.state(table) {
            Some(TableState::Reading { at, place }) => {
                let place = place.parse().map_err(|error| Ended::Again(format!("progress of table {}: {error}", self.plan(table).name)))?;
                (Some((at.clone(), place)), None)
            }
            Some(TableState::Compare) => (None, Some(difference::standing(self.publisher, self.plan(table))?)),
            _ => (None, None),
        };
        Ok(Reading { table, info: Arc::new(info), done, published, net: Net::default() })
    }

    /// Step 2: up to `until`.
    async fn reach(&mut self, readings: &mut [Reading], from: &Position, until: &Position) -> Result<(), Ended> {
        let mut known = self.known();
        let mut start = from.clone();
        for reading in readings.iter() {
            known[reading.table.index()].locate = Some(Arc::clone(&reading.info));
            if let Some((at, _)) = &reading.done {
                if start.contains(at) {
                    start = at.clone();
                }
            }
        }
        if &start == until {
            return Ok(());
        }
        let tables: Vec<TableId> = readings.iter().map(|reading| reading.table).collect();
        let mut stream = self.stream(&start, &tables, known, false).await?;
        let mut asked = None;
        while !stream.assembler.has_reached(until) {
            self.beat()?;
            match stream.read(true).await? {
                Read::Step(Step::Apply(transaction)) => {
                    let connection = match &mut asked {
                        Some(connection) => connection,
                        None => asked.insert(connect::connect(&self.publisher.mysql).await?),
                    };
                    self.before_until(readings, from, transaction, connection).await?;
                }
                Read::Step(Step::Stop { table, reason, message }) => self.stop_table(table, reason, &message),
                // A statement before `until` is in the views, whose locks kept later ones away; rows that are out are another matter.
                Read::Step(Step::Reload(tables) | Step::Rewind(tables)) => {
                    for reading in readings.iter().filter(|reading| tables.contains(&reading.table)) {
                        if reading.done.is_some() {
                            self.compare(reading.table, "a statement changed it while it was read");
                        }
                    }
                    self.commit()?;
                    return Err(Ended::Again("a statement changed a table that is being read".into()));
                }
                Read::Step(Step::Check(table)) => self.check_columns(table, &stream).await?,
                Read::Step(Step::Ready(_) | Step::Part { .. } | Step::Columns(_)) | Read::Busy | Read::Idle => {}
            }
            self.commit_if_due()?;
        }
        self.commit()
    }

    /// One transaction of step 2.
    async fn before_until(
        &mut self,
        readings: &mut [Reading],
        from: &Position,
        transaction: Transaction<Published>,
        connection: &mut Conn,
    ) -> Result<(), Ended> {
        let Transaction { changes, position, id, committed_us } = transaction;
        let in_window = !from.covers(&id, &position);
        let gtid = position.gtids.is_some().then_some(id.as_str());
        let common = Common { origin: &id, gtid, committed_us, part: None, last_part: None };
        for change in changes {
            let Some(reading) = readings.iter_mut().find(|reading| reading.table == change.table) else { continue };
            let Some((_, place)) = reading.done.as_ref().filter(|(at, _)| !at.covers(&id, &position)) else {
                if in_window {
                    reading.net.take(&change);
                }
                continue;
            };
            // Which of its rows are out?
            let plan = &self.publisher.plan.tables[change.table.index()];
            let sides = change.places.as_ref().map(|places| [places.before.clone(), places.after.clone()]).unwrap_or_default();
            let asked: Vec<Place> = sides.iter().flatten().cloned().collect();
            let mut beyond = snapshot::beyond(connection, plan, &reading.info, place, &asked).await?.into_iter();
            let [before_out, after_out] = sides.map(|side| side.is_some() && beyond.next() == Some(false));
            // What of it belongs to rows that are out, and what to rows that will be read.
            let (out, kept) = match (change.kind, before_out, after_out) {
                (Kind::Truncate, ..) => (Some(change), None),
                (Kind::Update | Kind::Move, true, false) => (Some(change.as_delete()), Some(change.as_create())),
                (Kind::Update | Kind::Move, false, true) => (Some(change.as_create()), Some(change.as_delete())),
                (_, false, false) => (None, Some(change)),
                _ => (Some(change), None),
            };
            if let Some(out) = out
                && let Err(refused) = self.writer.change(&out, &common, Snapshot::False, None)
            {
                self.refused(refused, out.table)?;
            }
            if let Some(kept) = kept.filter(|_| in_window) {
                reading.net.take(&kept);
            }
        }
        for reading in readings.iter_mut() {
            if let Some((at, place)) = &mut reading.done
                && !at.covers(&id, &position)
            {
                *at = position.clone();
                let state = TableState::Reading { at: position.clone(), place: place.to_string() };
                self.set_state(reading.table, state);
            }
        }
        Ok(())
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
        rows.begin(plan);
        let mut chunks = match views.chunks(plan, &reading.info, from, make).await {
            Ok(chunks) => chunks,
            Err(failed) => return self.failed(failed, table),
        };
        info!(table = plan.name, "publishing the rows of table {}", plan.name);
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
            Err(refused) => self.refused(refused, row.table),
        }
    }

    fn refused(&mut self, refused: Refused, table: TableId) -> Result<(), Ended> {
        match refused {
            Refused::Fault(fault) => Err(fault.into()),
            Refused::TooLarge { bytes, bound } => {
                let message = format!(
                    "a row takes {bytes} bytes, its topic takes {bound}: raise max.message.bytes of the topic and limits.message_bytes"
                );
                self.stop_table(table, Reason::TooLarge, &message);
                Err(Ended::AtOnce)
            }
        }
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

    async fn check_columns(&self, table: TableId, stream: &Stream) -> Result<(), Ended> {
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
            let mut stream = self.stream(&earliest, &tables, self.known(), false).await?;
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
                                    Err(refused) => self.refused(refused, change.table)?,
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

/// The rows of a snapshot on their way out: their numbers, and Debezium's words for their places, for which the last row of each table
/// is held back until it is known to be the last one.
struct Rows {
    /// The first snapshot of all, which has those words; in a later one every row is `incremental`.
    words: bool,
    until: Position,
    read_us: u64,
    /// `snapshot/<server uuid>/<position>/<table>`
    origin: Arc<str>,
    number: u64,
    begun: bool,
    begun_table: bool,
    held: Option<Free>,
    /// The row held back ends its table.
    ends_table: bool,
}

/// A row that may go.
struct Free {
    row: Published,
    place: Snapshot,
    origin: Arc<str>,
}

impl Rows {
    fn new(words: bool, until: &Position) -> Self {
        Self {
            words,
            until: until.clone(),
            read_us: now_us(),
            origin: Arc::from(""),
            number: 0,
            begun: false,
            begun_table: false,
            held: None,
            ends_table: false,
        }
    }

    fn begin(&mut self, plan: &TablePlan) {
        let Position { server_uuid, file, offset, .. } = &self.until;
        self.origin = format!("snapshot/{server_uuid}/{file}:{offset}/{}.{}", plan.database, plan.table).into();
        self.number = 0;
        self.begun_table = false;
    }

    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    /// Takes a row; gives one that may go.
    fn next(&mut self, row: Published) -> Option<Free> {
        let place = match (self.words, self.begun, self.begun_table) {
            (false, ..) => Snapshot::Incremental,
            (true, false, _) => Snapshot::First,
            (true, true, false) => Snapshot::FirstInTable,
            (true, true, true) => Snapshot::True,
        };
        (self.begun, self.begun_table) = (true, true);
        let free = Free { row: row.numbered(self.number()), place, origin: Arc::clone(&self.origin) };
        if !self.words {
            return Some(free);
        }
        let before = self.inside();
        self.held = Some(free);
        before
    }

    /// The row held back, as more rows follow it.
    fn inside(&mut self) -> Option<Free> {
        let ends_table = std::mem::take(&mut self.ends_table);
        self.held.take().map(|free| if ends_table { Free { place: Snapshot::LastInTable, ..free } } else { free })
    }

    fn end_table(&mut self) {
        self.ends_table = self.held.is_some();
    }

    /// The row held back, which is the last one of all.
    fn end(&mut self) -> Option<Free> {
        self.held.take().map(|free| Free { place: Snapshot::Last, ..free })
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}
