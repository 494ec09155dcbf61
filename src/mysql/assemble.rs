//! Binlog events to whole transactions: the state machine behind a capture. Pure; its drivers are `flow::capture` (tables in
//! memory) and `flow::publish` (change topics), which have something else made of the rows: their [`Maker`].
//!
//! Events go in one by one, [`Step`]s come out. What always holds: a transaction comes out whole, in order, or not at all (in
//! parts only above a limit, and only where the maker asks for it); positions are taken from outer events only; rows are decoded
//! under the schema in effect for them, or not at all; while a table catches up, what the snapshot's view already contains may be
//! applied again, because row images are full.
//!
//! ```text
//!            loaded                      its `until` is reached
//! Unread ────────────► CatchingUp ──────────────────────────────► Following
//!    ▲                     │ dirty, at `until`                        │ DDL, or a table map that disagrees
//!    └─────────────────────┴──────────────────────────────────────────┘
//!                any ──────► Stopped { reason }     by a row that cannot be read, a dropped table, …
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::catalogue::difference;
use super::cursor::{Cursor, Fault};
use super::decode::{DecodeError, RowReader, RowsEvent};
use super::event::{self, Begin, RawEvent, kind};
use super::maker::{Maker, Place};
use super::statement::{self, Effect, Name, Xid};
use super::table_map::TableMap;
use crate::config::plan::TablePlan;
use crate::model::Substitutions;
use crate::model::position::Gtid;
use crate::model::{Position, Reason, Schema, TableId, Transaction};

mod state;

use self::state::{Mapped, Open, Payload, Phase, Prepared, Rows, Tracked};

/// What the driver has to do, in order, before it hands in the next event.
#[derive(Debug)]
pub enum Step<C> {
    Apply(Transaction<C>),
    /// The first changes of a transaction above the limit ([`Assembler::splitting`]); more follow, the last ones by `Apply`.
    Part {
        /// As [`Transaction::id`] will be.
        id: String,
        committed_us: u64,
        changes: Vec<C>,
    },
    /// Everything up to the table's `until` is applied.
    Ready(TableId),
    Stop {
        table: TableId,
        reason: Reason,
        message: String,
    },
    /// Read the tables again, with a view opened now, and report [`Assembler::loaded`] or [`Assembler::stopped`].
    Reload(Vec<TableId>),
    /// The same, then open the stream again at [`Assembler::position`]: the open transaction must be seen again.
    Rewind(Vec<TableId>),
    /// The table has another number in the binlog, whose events do not name columns: whether they are still those of
    /// [`Assembler::schema`] is seen in the catalogue alone. If not, [`Assembler::doubt`] it.
    Check(TableId),
    /// Columns of these tables changed, which table maps will show; only where the maker follows these.
    Columns(Vec<TableId>),
}

/// The stream cannot be followed; it belongs to no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("the binlog cannot be read at {at}: {fault}")]
    Damaged { at: String, fault: Fault },
    #[error("the binlog has an event of the unknown type {kind} at {at}")]
    UnknownEvent { at: String, kind: u8 },
    #[error("the server reports at {at} that changes were lost before they reached its binlog (incident event)")]
    Incident { at: String },
}

/// What was counted since it was taken last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub transactions: u64,
    pub ignored_events: u64,
    /// Transactions above `limits.transaction_bytes`.
    pub large_transactions: u64,
    pub rows: Substitutions,
}

pub struct Assembler<M: Maker> {
    maker: M,
    tables: Vec<Tracked>,
    /// Server with `lower_case_table_names`: names compare without case.
    fold_case: bool,
    limit_bytes: usize,
    split: bool,
    /// After the last whole transaction: where the stream is opened again.
    position: Position,
    /// How far the stream has been read: file and offset of the last outer event.
    here: Position,
    open: Option<Open<M::Change>>,
    payload: Option<Payload>,
    maps: HashMap<u64, Mapped<M::Reader>>,
    prepared: HashMap<Xid, Prepared<M::Change>>,
    prepared_bytes: usize,
    steps: VecDeque<Step<M::Change>>,
    tally: Tally,
}

/// Table maps kept at most; a statement in progress keeps its own.
const MAX_MAPS: usize = 4096;

/// Disagreements in a row after which reading the table again is given up.
const MAX_DISAGREEMENTS: u8 = 3;

impl<M: Maker> Assembler<M> {
    /// `from`: where the stream will be opened.
    pub fn new(maker: M, plans: &[TablePlan], from: Position, fold_case: bool, limit_bytes: usize) -> Self {
        let unread = |plan: &TablePlan| Tracked {
            plan: plan.clone(),
            schema: Schema { columns: Vec::new(), key: Vec::new() },
            phase: Phase::Unread,
            ready_at: None,
            disagreements: 0,
            number: None,
        };
        Self {
            maker,
            tables: plans.iter().map(unread).collect(),
            fold_case,
            limit_bytes,
            split: false,
            here: unseen(&from),
            position: from,
            open: None,
            payload: None,
            maps: HashMap::new(),
            prepared: HashMap::new(),
            prepared_bytes: 0,
            steps: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Whether transactions above the limit are handed out in parts, so that no more than the limit is held.
    pub fn splitting(mut self, split: bool) -> Self {
        self.split = split;
        self
    }

    /// After the last whole transaction.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How far the stream has been read, unless that is in the middle of a transaction. Everything before is done when no step is left.
    pub fn reached(&self) -> Option<&Position> {
        (self.open.is_none() && self.payload.is_none()).then_some(&self.here)
    }

    pub fn next_step(&mut self) -> Option<Step<M::Change>> {
        self.steps.pop_front()
    }

    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Whether everything up to a place of this server has been read.
    pub fn has_reached(&self, until: &Position) -> bool {
        self.open.is_none() && self.steps.is_empty() && self.here.reaches(until)
    }

    /// Whether every table follows or is stopped.
    pub fn is_settled(&self) -> bool {
        self.tables.iter().all(|table| match table.phase {
            Phase::Following => table.ready_at.is_none(),
            Phase::Stopped(_) => true,
            Phase::Unread | Phase::CatchingUp { .. } => false,
        })
    }

    /// A table was read from a view that contains everything before the current place; it is ready when `until` is reached.
    pub fn loaded(&mut self, table: TableId, schema: Schema, until: Position) {
        self.forget_maps(table);
        let tracked = &mut self.tables[table.index()];
        tracked.schema = schema;
        tracked.number = None;
        tracked.phase = Phase::CatchingUp { until, applied: false, dirty: false };
        tracked.ready_at = None;
        self.settle();
    }

    /// A table has the rows it had where the stream begins (or somewhat later, but none from beyond `until`), with the columns it had
    /// there; it is ready when `until` is reached. Unlike a view's rows these contain no statement that is still to come.
    pub fn resumed(&mut self, table: TableId, schema: Schema, until: Position) {
        self.follow(table, schema);
        self.tables[table.index()].ready_at = Some(until);
        self.settle();
    }

    /// A table was taken out of service by the driver.
    pub fn stopped(&mut self, table: TableId, reason: Reason) {
        self.forget_maps(table);
        self.tables[table.index()].phase = Phase::Stopped(reason);
    }

    /// The columns of a table are not those it was read with: it is read again, and the stream opened again, as by [`Step::Rewind`].
    pub fn doubt(&mut self, table: TableId) {
        self.forget_maps(table);
        self.tables[table.index()].phase = Phase::Unread;
    }

    /// A table whose rows are to be handed out from here on, with what is known of its columns where table maps do not say.
    pub fn follow(&mut self, table: TableId, schema: Schema) {
        self.forget_maps(table);
        let tracked = &mut self.tables[table.index()];
        tracked.schema = schema;
        tracked.number = None;
        tracked.phase = Phase::Following;
    }

    /// The schema a table was read with last; empty before.
    pub fn schema(&self, table: TableId) -> &Schema {
        &self.tables[table.index()].schema
    }

    /// The stream was lost: only what comes after the last whole transaction will be sent again.
    pub fn reconnected(&mut self) {
        self.open = None;
        self.payload = None;
        self.maps.clear();
        self.here = unseen(&self.position);
    }

    /// The server behind the address is another one that has all our transactions.
    pub fn moved(&mut self, server_uuid: &Arc<str>) {
        self.position.server_uuid = Arc::clone(server_uuid);
        self.here.server_uuid = Arc::clone(server_uuid);
    }

    /// Takes one event.
    pub fn event(&mut self, event: &RawEvent<'_>) -> Result<(), Broken> {
        let Some(payload) = &mut self.payload else {
            if event.end != 0 && !event.is_artificial() && !matches!(event.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2) {
                self.here.offset = widen(self.here.offset, event.end);
            }
            return self.dispatch(event);
        };
        let Some(left) = payload.left.checked_sub(u64::from(event.size)) else {
            return Err(self.damaged(Fault::Invalid("a payload that ends within an event")));
        };
        payload.left = left;
        if !matches!(event.kind, kind::QUERY | kind::XID | kind::TABLE_MAP | kind::WRITE_ROWS_V1..=kind::DELETE_ROWS_V1 | kind::INTVAR..=kind::USER_VAR | kind::ROWS_QUERY..=kind::DELETE_ROWS | kind::XA_PREPARE | kind::PARTIAL_UPDATE_ROWS)
        {
            return Err(self.damaged(Fault::Invalid("an event that may not stand in a payload")));
        }
        self.dispatch(event)?;
        if left == 0 {
            self.payload = None;
            if self.open.is_some() {
                return Err(self.damaged(Fault::Invalid("a payload without commit")));
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, event: &RawEvent<'_>) -> Result<(), Broken> {
        match event.kind {
            kind::GTID | kind::ANONYMOUS_GTID | kind::TAGGED_GTID => {
                if self.open.is_some() {
                    return Err(self.damaged(Fault::Invalid("a transaction that does not end")));
                }
                let begin = self.check(event::begin(event.kind, event.body))?;
                self.begin(begin, self.start(event));
            }
            kind::MARIADB_GTID => {
                if self.open.is_some() {
                    return Err(self.damaged(Fault::Invalid("a transaction that does not end")));
                }
                let begin = self.check(event::begin_mariadb(event))?;
                self.begin(begin, self.start(event));
            }
            kind::QUERY => {
                let query = self.check(event::query(event.body))?;
                self.statement(&query, event);
            }
            kind::EXECUTE_LOAD_QUERY => {
                let query = self.check(event::load_query(event.body))?;
                self.statement(&query, event);
            }
            kind::XID => self.commit(),
            kind::XA_PREPARE => {
                let (one_phase, xid) = self.check(event::xa_prepare(event.body))?;
                if !one_phase {
                    self.prepare(xid);
                }
                self.commit();
            }
            kind::TABLE_MAP => self.table_map(event.body)?,
            kind::WRITE_ROWS_V1
            | kind::UPDATE_ROWS_V1
            | kind::DELETE_ROWS_V1
            | kind::WRITE_ROWS
            | kind::UPDATE_ROWS
            | kind::DELETE_ROWS
            | kind::PARTIAL_UPDATE_ROWS => self.rows(event)?,
            kind::TRANSACTION_PAYLOAD => {
                let left = self.check(event::payload_size(event.body))?;
                self.payload = Some(Payload { left, offset: self.start(event), rows: 0 });
            }
            kind::ROTATE => {
                let (file, offset) = self.check(event::rotate(event.body))?;
                self.at(file, offset);
            }
            kind::FORMAT_DESCRIPTION => {
                // Table ids begin anew with a server's life, and what was open when it ended was rolled back.
                self.maps.clear();
                self.tables.iter_mut().for_each(|table| table.number = None);
                self.open = None;
            }
            kind::HEARTBEAT | kind::HEARTBEAT_V2 => {
                let (file, offset) = self.check(event::heartbeat(event))?;
                if self.open.is_none() {
                    self.at(file, offset);
                    self.settle();
                }
            }
            kind::INCIDENT => return Err(Broken::Incident { at: self.here.place() }),
            kind::STOP
            | kind::INTVAR
            | kind::RAND
            | kind::USER_VAR
            | kind::BEGIN_LOAD_QUERY
            | kind::ROWS_QUERY
            | kind::IGNORABLE
            | kind::PREVIOUS_GTIDS
            | kind::TRANSACTION_CONTEXT
            | kind::VIEW_CHANGE
            | kind::ANNOTATE_ROWS
            | kind::BINLOG_CHECKPOINT
            | kind::GTID_LIST => {
                if self.open.is_none() {
                    self.settle();
                }
            }
            _ if event.is_ignorable() => self.tally.ignored_events += 1,
            unknown => return Err(Broken::UnknownEvent { at: self.here.place(), kind: unknown }),
        }
        Ok(())
    }

    fn begin(&mut self, begin: Begin, offset: u64) {
        if self.maps.len() > MAX_MAPS {
            self.maps.clear();
        }
        self.open = Some(Open {
            started: begin.started,
            begin,
            offset,
            is_xa: false,
            thread: None,
            changes: Vec::new(),
            bytes: 0,
            rows: 0,
            held_bytes: 0,
            parts_id: None,
            reload: Vec::new(),
            altered: Vec::new(),
            stops: Vec::new(),
        });
    }

    /// The open transaction; one without identity where the server wrote no GTID event.
    fn open(&mut self) -> &mut Open<M::Change> {
        if self.open.is_none() {
            self.begin(Begin { gtid: None, committed_us: 0, started: false }, self.here.offset);
        }
        self.open.as_mut().expect("it was just begun")
    }

    /// Where an outer event begins.
    fn start(&self, event: &RawEvent<'_>) -> u64 {
        self.here.offset.saturating_sub(u64::from(event.size))
    }

    fn statement(&mut self, query: &event::Query<'_>, event: &RawEvent<'_>) {
        match statement::effect(query) {
            effect @ (Effect::Begin | Effect::XaStart) => {
                let open = self.open();
                open.started = true;
                open.is_xa = effect == Effect::XaStart;
                open.thread = Some(query.thread);
                return;
            }
            Effect::Commit => return self.commit(),
            Effect::Rollback => {
                let open = self.open();
                open.changes.clear();
                if open.parts_id.is_some() {
                    // Parts of it are out.
                    (0..self.tables.len()).for_each(|index| self.changed_unseen(index, true));
                }
                return self.commit();
            }
            Effect::XaCommit(xid) => match self.ended(&xid) {
                Some(changes) => self.open().changes = changes,
                // Prepared before we began: nobody can say which rows it changed.
                None => (0..self.tables.len()).for_each(|index| self.changed_unseen(index, true)),
            },
            Effect::XaRollback(xid) => drop(self.ended(&xid)),
            Effect::Nothing => {}
            Effect::Truncate(names) => self.each_named(&names, |this, index| this.truncated(index, query.thread, event)),
            Effect::Drop(names) => self.each_named(&names, Self::dropped),
            Effect::DropDatabase(database) => {
                for index in 0..self.tables.len() {
                    if same(&self.tables[index].plan.database, &database, self.fold_case) {
                        self.dropped(index);
                    }
                }
            }
            Effect::Storage(names) => self.each_named(&names, Self::repaired),
            Effect::IndexDropped(names) => self.each_named(&names, |this, index| match this.tables[index].plan.key {
                Some(_) => this.changed_unseen(index, false),
                None => this.repaired(index),
            }),
            Effect::Columns(names) if M::FOLLOWS_MAPS => self.each_named(&names, Self::altered),
            Effect::Columns(names) | Effect::Content(names) | Effect::Unknown(names) => {
                self.each_named(&names, |this, index| this.changed_unseen(index, false));
            }
            Effect::Renamed(pairs) => self.renamed(&pairs),
            Effect::Created { table, if_absent, rows_follow } => {
                let open = self.open();
                open.started |= rows_follow;
                open.thread = Some(query.thread);
                self.each_named(&[table], |this, index| match if_absent {
                    true => this.repaired(index),
                    false => this.changed_unseen(index, false),
                });
            }
            Effect::Dml(names) => self.each_named(&names, |this, index| {
                let message = "rows were changed by a statement that was logged as text (binlog_format was not ROW in that session)";
                this.stop(index, Reason::StatementFormat, message.into());
            }),
        }
        if self.open.as_ref().is_none_or(|open| !open.started) {
            self.commit();
        }
    }

    fn each_named(&mut self, names: &[Name], act: impl Fn(&mut Self, usize)) {
        for index in 0..self.tables.len() {
            if names.iter().any(|name| self.is_named(index, name)) {
                act(self, index);
            }
        }
    }

    fn is_named(&self, index: usize, name: &Name) -> bool {
        let plan = &self.tables[index].plan;
        same(&plan.database, &name.database, self.fold_case) && same(&plan.table, &name.table, self.fold_case)
    }

    /// A name that was given away last is free; one that was given last stands for another table.
    fn renamed(&mut self, pairs: &[(Name, Name)]) {
        for index in 0..self.tables.len() {
            let is_new = |(from, to): &(Name, Name)| {
                if self.is_named(index, to) { Some(true) } else { self.is_named(index, from).then_some(false) }
            };
            match pairs.iter().rev().find_map(is_new) {
                Some(true) => self.changed_unseen(index, false),
                Some(false) => self.dropped(index),
                None => {}
            }
        }
    }

    /// Its columns changed, which is no matter to who follows table maps.
    fn altered(&mut self, index: usize) {
        match self.tables[index].phase {
            Phase::Following => self.open().altered.push(id(index)),
            _ => self.repaired(index),
        }
    }

    /// Rows and columns are what they were; a table that could not be read may be readable now.
    fn repaired(&mut self, index: usize) {
        if matches!(self.tables[index].phase, Phase::Stopped(_)) {
            self.changed_unseen(index, false);
        }
    }

    fn truncated(&mut self, index: usize, thread: u32, event: &RawEvent<'_>) {
        match self.tables[index].phase {
            Phase::Following => {
                let (offset, file) = (self.start(event), Arc::clone(&self.here.file));
                let number = self.open().rows;
                let place = Place {
                    file: &file,
                    offset,
                    row: 0,
                    number,
                    timestamp: event.timestamp,
                    server_id: event.server_id,
                    thread: Some(thread),
                };
                let change = self.maker.truncate(id(index), &place);
                let open = self.open();
                open.changes.extend(change);
                open.rows += 1;
            }
            _ => self.changed_unseen(index, false),
        }
    }

    fn dropped(&mut self, index: usize) {
        match self.tables[index].phase {
            Phase::Following => self.stop(index, Reason::TableDropped, "the table was dropped or got another name".into()),
            _ => self.changed_unseen(index, false),
        }
    }

    /// A table changed otherwise than by rows we see: columns, content, or which table has the name.
    ///
    /// While it catches up the change is in the view already (the view's metadata lock waited for the statement), unless rows from
    /// before it have been applied over the view, or `later` says that it may have come after the view.
    fn changed_unseen(&mut self, index: usize, later: bool) {
        match &mut self.tables[index].phase {
            Phase::CatchingUp { applied, dirty, .. } => *dirty |= *applied || later,
            Phase::Following
            | Phase::Stopped(Reason::TableDropped | Reason::KeyChanged | Reason::SchemaMismatch | Reason::DdlUnsupported) => {
                let open = self.open();
                if !open.reload.contains(&id(index)) {
                    open.reload.push(id(index));
                }
            }
            Phase::Unread | Phase::Stopped(_) => {}
        }
    }

    fn stop(&mut self, index: usize, reason: Reason, message: String) {
        if matches!(self.tables[index].phase, Phase::Stopped(_)) {
            return;
        }
        self.tables[index].phase = Phase::Stopped(reason);
        let open = self.open();
        open.stops.push((id(index), reason, message));
    }

    fn prepare(&mut self, xid: Xid) {
        // After a lost connection it is sent again.
        if let Some(before) = self.prepared.remove(&xid) {
            self.prepared_bytes = self.prepared_bytes.saturating_sub(self.bytes(&before.changes));
        }
        let changes = std::mem::take(&mut self.open().changes);
        let bytes = self.bytes(&changes);
        // What does not fit is forgotten: its XA COMMIT then has the tables read again.
        if self.prepared_bytes + bytes <= self.limit_bytes {
            self.prepared_bytes += bytes;
            let gtid = self.open().begin.gtid.take_if(|gtid| matches!(gtid, Gtid::MySql { .. }));
            self.prepared.insert(xid, Prepared { changes, gtid });
        }
    }

    /// The changes of an XA transaction of which the end is known.
    fn ended(&mut self, xid: &Xid) -> Option<Vec<M::Change>> {
        let Prepared { changes, gtid } = self.prepared.remove(xid)?;
        self.prepared_bytes = self.prepared_bytes.saturating_sub(self.bytes(&changes));
        if let (Some(gtids), Some(gtid)) = (&mut self.position.gtids, &gtid) {
            Arc::make_mut(gtids).insert(gtid);
        }
        Some(changes)
    }

    fn table_map(&mut self, body: &[u8]) -> Result<(), Broken> {
        let (table_id, database, table) = TableMap::name(body).map_err(|error| self.unreadable(&error))?;
        let stopped = |table: TableId| matches!(self.tables[table.index()].phase, Phase::Stopped(_));
        let still =
            |mapped: &Mapped<_>| mapped.body == body && !(matches!(mapped.rows, Rows::Made(_)) && mapped.table.is_some_and(stopped));
        if self.maps.get(&table_id).is_some_and(still) {
            return Ok(());
        }
        let fold_case = self.fold_case;
        let matches = |name: &str, bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|text| same(name, text, fold_case));
        let index = self.tables.iter().position(|tracked| matches(&tracked.plan.database, database) && matches(&tracked.plan.table, table));
        let rows = match index {
            Some(index) => match self.reader(index, body) {
                Ok(rows) => rows,
                Err(error) => {
                    self.stop(index, error.reason(), error.to_string());
                    Rows::Skipped
                }
            },
            None => Rows::Skipped,
        };
        let rows = match rows {
            Rows::Skipped if M::NUMBERS_ROWS => TableMap::parse(body)
                .and_then(|map| RowReader::counter(&map))
                .map_or(Rows::Skipped, |reader| Rows::Counted(Box::new(reader))),
            rows => rows,
        };
        self.maps.insert(table_id, Mapped { body: body.to_vec(), table: index.map(id), rows });
        Ok(())
    }

    /// Who reads the rows under a table map; nobody where the view contains them already, or the table is not followed.
    fn reader(&mut self, index: usize, body: &[u8]) -> Result<Rows<M::Reader>, DecodeError> {
        let tracked = &mut self.tables[index];
        if matches!(tracked.phase, Phase::Unread | Phase::Stopped(_)) {
            return Ok(Rows::Skipped);
        }
        let map = TableMap::parse(body)?;
        let known = &tracked.schema;
        let names_decide = M::FOLLOWS_MAPS && map.has_names();
        let agreed = map.schema(known).and_then(|seen| {
            let differ = match names_decide {
                true => None,
                // A configured key does not change with the primary key.
                false if seen.key != known.key && tracked.plan.key.is_none() => Some("the event has another primary key".into()),
                false => difference(known, &seen),
            };
            differ.map_or(Ok(seen), |text| Err(DecodeError::SchemaMismatch(text)))
        });
        let mismatch = match agreed {
            Ok(seen) if names_decide && tracked.plan.key.is_none() && !known.key.is_empty() && key_names(&seen) != key_names(known) => {
                // What was made of its rows before has other keys.
                tracked.phase = Phase::Unread;
                self.steps.push_back(Step::Reload(vec![id(index)]));
                return Ok(Rows::Skipped);
            }
            Ok(seen) => {
                tracked.disagreements = 0;
                if !map.has_names() && tracked.phase == Phase::Following && tracked.number.replace(map.table_id) != Some(map.table_id) {
                    self.steps.push_back(Step::Check(id(index)));
                }
                return self.maker.reader(id(index), &tracked.plan, &map, seen).map(|reader| Rows::Made(Box::new(reader)));
            }
            Err(DecodeError::SchemaMismatch(text)) => text,
            Err(error) => return Err(error),
        };
        if tracked.phase == Phase::Following {
            tracked.disagreements += 1;
            if tracked.disagreements > MAX_DISAGREEMENTS {
                let message = format!("its rows do not have the columns that the catalogue shows, also after reading it again: {mismatch}");
                return Err(DecodeError::SchemaMismatch(message));
            }
            tracked.phase = Phase::Unread;
            self.steps.push_back(Step::Rewind(vec![id(index)]));
        }
        Ok(Rows::Skipped)
    }

    fn rows(&mut self, raw: &RawEvent<'_>) -> Result<(), Broken> {
        /// Ends a statement and carries no rows.
        const DUMMY_TABLE: u64 = 0x00ff_ffff;
        let table_id = self.check(Cursor::new(raw.body).uint(6))?;
        let Some(mapped) = self.maps.get_mut(&table_id) else {
            return if table_id == DUMMY_TABLE { Ok(()) } else { Err(self.damaged(Fault::Invalid("rows without a table map"))) };
        };
        let Some(open) = &mut self.open else {
            return match &mapped.rows {
                Rows::Skipped => Ok(()),
                _ => Err(self.damaged(Fault::Invalid("rows outside a transaction"))),
            };
        };
        let reader = match &mut mapped.rows {
            Rows::Made(reader) => reader,
            Rows::Skipped => return Ok(()),
            Rows::Counted(reader) => {
                let mut rows = 0;
                // An event of which the rows cannot be told apart counts as one.
                let counted = RowsEvent::parse(raw.kind, raw.body).and_then(|event| {
                    reader.each(&event, |_| {
                        rows += 1;
                        Ok(())
                    })
                });
                open.rows += if counted.is_ok() { rows } else { 1 };
                return Ok(());
            }
        };
        let Some(table) = mapped.table else { return Ok(()) };
        match &mut self.tables[table.index()].phase {
            Phase::Following => {}
            Phase::CatchingUp { dirty: true, .. } | Phase::Unread | Phase::Stopped(_) => return Ok(()),
            Phase::CatchingUp { applied, .. } => *applied = true,
        }
        if self.split && !open.is_xa && open.held_bytes > self.limit_bytes {
            let id = open.parts_id.get_or_insert_with(|| match &open.begin.gtid {
                Some(gtid) => gtid.to_string(),
                // Where it will end is not known yet.
                None => Position { offset: open.offset, ..self.here.clone() }.place(),
            });
            let changes = std::mem::take(&mut open.changes);
            open.held_bytes = 0;
            self.steps.push_back(Step::Part { id: id.clone(), committed_us: open.begin.committed_us, changes });
        }
        let (offset, row) = match &self.payload {
            Some(payload) => (payload.offset, payload.rows),
            None => (self.here.offset.saturating_sub(u64::from(raw.size)), 0),
        };
        let place = Place {
            file: &self.here.file,
            offset,
            row,
            number: open.rows,
            timestamp: raw.timestamp,
            server_id: raw.server_id,
            thread: open.thread,
        };
        let before = open.changes.len();
        let read = RowsEvent::parse(raw.kind, raw.body).and_then(|event| self.maker.read(reader, table, &event, &place, &mut open.changes));
        let rows = open.changes.len() - before;
        open.bytes += raw.body.len();
        open.rows += rows as u64;
        if self.split {
            open.held_bytes += open.changes[before..].iter().map(|change| self.maker.bytes(change)).sum::<usize>();
        }
        if let Some(payload) = &mut self.payload {
            payload.rows += rows as u32;
        }
        let counts = self.maker.take_counts(reader);
        self.tally.rows.add(counts);
        if let Err(error) = read {
            // Of a table that stops nothing is applied.
            open.changes.truncate(before);
            self.stop(table.index(), error.reason(), error.to_string());
        }
        Ok(())
    }

    fn bytes(&self, changes: &[M::Change]) -> usize {
        changes.iter().map(|change| self.maker.bytes(change)).sum()
    }

    /// The open transaction is whole.
    fn commit(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.position.file = Arc::clone(&self.here.file);
        self.position.offset = self.here.offset;
        if let (Some(gtids), Some(gtid)) = (&mut self.position.gtids, &open.begin.gtid) {
            Arc::make_mut(gtids).insert(gtid);
        }
        self.tally.transactions += 1;
        self.tally.large_transactions += u64::from(open.bytes > self.limit_bytes);
        if !open.changes.is_empty() || open.parts_id.is_some() {
            let named = || open.begin.gtid.as_ref().map_or_else(|| self.position.place(), ToString::to_string);
            let id = open.parts_id.unwrap_or_else(named);
            let transaction =
                Transaction { changes: open.changes, position: self.position.clone(), id, committed_us: open.begin.committed_us };
            self.steps.push_back(Step::Apply(transaction));
        }
        for (table, reason, message) in open.stops {
            self.steps.push_back(Step::Stop { table, reason, message });
        }
        if !open.altered.is_empty() {
            self.steps.push_back(Step::Columns(open.altered));
        }
        self.reload(open.reload);
        self.settle();
    }

    /// Tables whose `until` is reached are ready, or read again if they are dirty.
    fn settle(&mut self) {
        let mut again = Vec::new();
        for index in 0..self.tables.len() {
            let tracked = &mut self.tables[index];
            let until = match &tracked.phase {
                Phase::CatchingUp { until, .. } => Some(until),
                Phase::Following => tracked.ready_at.as_ref(),
                Phase::Unread | Phase::Stopped(_) => None,
            };
            if !until.is_some_and(|until| self.here.reaches(until)) {
                continue;
            }
            if matches!(tracked.phase, Phase::CatchingUp { dirty: true, .. }) {
                again.push(id(index));
                continue;
            }
            tracked.ready_at = None;
            tracked.phase = Phase::Following;
            self.forget_maps(id(index));
            self.steps.push_back(Step::Ready(id(index)));
        }
        self.reload(again);
    }

    fn reload(&mut self, tables: Vec<TableId>) {
        for table in &tables {
            self.tables[table.index()].phase = Phase::Unread;
            self.forget_maps(*table);
        }
        if !tables.is_empty() {
            self.steps.push_back(Step::Reload(tables));
        }
    }

    fn forget_maps(&mut self, table: TableId) {
        self.maps.retain(|_, mapped| mapped.table != Some(table));
    }

    fn at(&mut self, file: &str, offset: u64) {
        if *self.here.file != *file {
            self.here.file = Arc::from(file);
        }
        self.here.offset = offset;
    }

    fn check<T>(&self, parsed: Result<T, Fault>) -> Result<T, Broken> {
        parsed.map_err(|fault| self.damaged(fault))
    }

    fn damaged(&self, fault: Fault) -> Broken {
        Broken::Damaged { at: self.here.place(), fault }
    }

    fn unreadable(&self, error: &DecodeError) -> Broken {
        match error {
            DecodeError::Event { fault, .. } => self.damaged(*fault),
            _ => self.damaged(Fault::Invalid("a table map")),
        }
    }
}

/// Nothing of the stream has been read: even what lies before `from` by offset may be missing from its GTID set.
fn unseen(from: &Position) -> Position {
    Position { offset: 0, gtids: None, ..from.clone() }
}

fn id(index: usize) -> TableId {
    TableId(u16::try_from(index).expect("a plan has fewer than 65,536 tables"))
}

fn key_names(schema: &Schema) -> Vec<&str> {
    schema.key.iter().map(|&index| schema.columns[index].name.as_str()).collect()
}

fn same(left: &str, right: &str, fold_case: bool) -> bool {
    left == right || fold_case && left.to_lowercase() == right.to_lowercase()
}

/// The 64-bit offset after an event, of which the header has the lower 32 bits; offsets only grow within a file.
fn widen(before: u64, end: u32) -> u64 {
    const WRAP: u64 = 1 << 32;
    let offset = before & !(WRAP - 1) | u64::from(end);
    if offset < before { offset + WRAP } else { offset }
}

#[cfg(test)]
mod tests;
