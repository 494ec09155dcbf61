//! Tables: the local copies of MySQL tables under one lock, held whole, or [bounded] and read through.
//!
//! What always holds: a MySQL transaction is applied under one write lock, so a [`View`] sees a whole number of
//! transactions (promise W3); a row, a miss and the position they belong to are read from the same view; a table that is
//! not ready answers neither row nor miss (promise W7).

mod bounded;
mod pins;
pub mod watch;

pub use bounded::{Answer, CacheCounts, Unreadable};
pub use pins::{Asked, Pins};
pub mod history;
pub mod journal;
pub mod store;

use hashbrown::HashMap;
use parking_lot::{RwLock, RwLockReadGuard};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use self::bounded::{Bounded, Found};
use self::pins::Doors;
use self::watch::Watch;
use history::{Commit, History, HistoryCounts};
use journal::Journal;

use crate::model::{Change, Key, Position, Reason, Row, Schema, TableId, Transaction};

/// ```text
///            load                    ready                     reload (DDL)
/// Snapshot ───────► Snapshot{rows} ───────► Ready ─────────────────────────► Snapshot
///     │                                       │
///     └───────────────── stop ────────────────┴──► Stopped { reason }      made by `flow::capture` alone
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Being read. `percent` is an estimate of rows read, 0 to 100.
    Snapshot {
        percent: u8,
    },
    Ready,
    /// Cannot go on safely; holds the joins that need it until an operator acts.
    Stopped {
        reason: Reason,
        message: String,
    },
}

/// Rows that room is made for on a guess, about 1 GB.
const MOST_RESERVED: usize = 30_000_000;

/// What a look-up finds.
#[derive(Debug)]
pub enum Lookup<'a> {
    Row(RowRef<'a>),
    /// Known to be absent.
    Missing,
    /// The table is bounded and the row not in memory: [`Tables::pin`] the key, and look again when it is known.
    Unknown,
    /// Unknown: the table is not ready, the join must hold.
    NotReady,
}

/// A row found: of a table held whole, or of a bounded one, from which it may be evicted meanwhile.
#[derive(Debug, Clone)]
pub enum RowRef<'a> {
    Held(&'a Row),
    Cached(Arc<Row>),
}

impl Deref for RowRef<'_> {
    type Target = Row;

    fn deref(&self) -> &Row {
        match self {
            RowRef::Held(row) => row,
            RowRef::Cached(row) => row,
        }
    }
}

/// All captured tables of the process.
pub struct Tables {
    inner: RwLock<Inner>,
    doors: Doors,
}

struct Inner {
    tables: Vec<Table>,
    /// Identity of the last transaction applied: the `larder-at` of joins (contract E5).
    at: Arc<str>,
    /// Everything up to here is in the tables that are ready.
    position: Position,
    /// How far the stream has been read: like `position`, but also over transactions that change no table of ours.
    reached: Position,
    /// No transaction committed before is still to come, in microseconds since the epoch; as far as clocks can be trusted.
    known_us: u64,
    /// Commit time of the last transaction applied.
    clock_us: u64,
}

struct Table {
    name: String,
    source: String,
    state: State,
    /// Set while the table's changes cannot be published: it is then shown as stopped, although its rows are current.
    unpublished: Option<State>,
    schema: Arc<Schema>,
    rows: HashMap<Key, Row>,
    bytes: usize,
    snapshot_rows: u64,
    remaining: Option<Duration>,
    watch: Option<Watch>,
    /// Has the rows instead, in a table that is not held whole.
    bounded: Option<Box<Bounded>>,
    journal: Journal,
    history: Option<Box<History>>,
}

/// One table as `/api/tables` shows it.
#[derive(Debug, Clone)]
pub struct Summary {
    pub name: String,
    /// `database.table` in MySQL.
    pub source: String,
    pub state: State,
    /// Of a bounded table those in memory, known absences included.
    pub rows: usize,
    /// Bytes of keys and rows.
    pub bytes: usize,
    /// Rows that snapshots have read since the start, those of tables read again counted again.
    pub snapshot_rows: u64,
    /// How long the snapshot under way will go on, an estimate; `None` when there is none, or nobody can say.
    pub remaining: Option<Duration>,
    /// Of a bounded table.
    pub cache: Option<CacheCounts>,
    /// The past of its rows, where it has a history.
    pub history: Option<HistoryCounts>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Of the rows expected, at most 99.
    pub percent: u8,
    pub remaining: Option<Duration>,
}

impl Progress {
    /// `expected` rows are the server's guess, often wrong by a third; 0 where it has none.
    pub fn estimated(rows: u64, expected: u64, taken: Duration) -> Self {
        let percent = (rows.saturating_mul(100) / expected.max(1)).min(99) as u8;
        let per_row = taken.as_secs_f64() / rows.max(1) as f64;
        // Beyond the guess nothing is known.
        let left = expected.checked_sub(rows).filter(|&left| left > 0 && rows > 0);
        let remaining = left.and_then(|left| Duration::try_from_secs_f64(per_row * left as f64).ok());
        Self { percent, remaining }
    }
}

impl Tables {
    /// `tables`: configuration name and MySQL name of each, indexed by [`TableId`]. All begin unread.
    pub fn new(tables: impl IntoIterator<Item = (String, String)>) -> Self {
        let tables = tables
            .into_iter()
            .map(|(name, source)| Table {
                name,
                source,
                state: State::Snapshot { percent: 0 },
                unpublished: None,
                schema: Arc::new(Schema { columns: Vec::new(), key: Vec::new() }),
                rows: HashMap::new(),
                bytes: 0,
                snapshot_rows: 0,
                remaining: None,
                watch: None,
                bounded: None,
                journal: Journal::default(),
                history: None,
            })
            .collect();
        let (position, reached) = (Position::default(), Position::default());
        let inner = Inner { tables, at: Arc::from(""), position, reached, known_us: 0, clock_us: 0 };
        Self { inner: RwLock::new(inner), doors: Doors::default() }
    }

    /// A consistent look at all tables. Hold it for one record or a small batch; writers wait meanwhile.
    pub fn view(&self) -> View<'_> {
        View { inner: self.inner.read() }
    }

    /// Replaces a table's schema and drops its rows: the beginning of a snapshot.
    pub fn begin_snapshot(&self, table: TableId, schema: Arc<Schema>) {
        {
            let mut inner = self.inner.write();
            let table = &mut inner.tables[table.index()];
            table.schema = schema;
            table.clear();
            table.remaining = None;
            table.replaced();
            table.begin_anew();
            table.state = State::Snapshot { percent: 0 };
        }
    }

    /// Makes room for the rows that a snapshot is expected to read: a guess, taken up to [`MOST_RESERVED`].
    pub fn reserve(&self, table: TableId, rows: usize) {
        self.inner.write().tables[table.index()].rows.reserve(rows.min(MOST_RESERVED));
    }

    /// Adds rows read by a snapshot. They are not visible before [`Tables::set_ready`]. A bounded table takes none: nothing would say
    /// of them what position they are of.
    pub fn load(&self, table: TableId, rows: Vec<(Key, Row)>, percent: u8) {
        let mut inner = self.inner.write();
        let table = &mut inner.tables[table.index()];
        if table.bounded.is_some() {
            return;
        }
        table.snapshot_rows += rows.len() as u64;
        table.rows.reserve(rows.len());
        for (key, row) in rows {
            table.journal.touch(&key);
            table.put(key, row);
        }
        table.state = State::Snapshot { percent };
    }

    /// How long the snapshot of a table will go on.
    pub fn set_remaining(&self, table: TableId, remaining: Option<Duration>) {
        self.inner.write().tables[table.index()].remaining = remaining;
    }

    /// Applies one MySQL transaction whole.
    pub fn apply(&self, transaction: Transaction) {
        let mut inner = self.inner.write();
        let inner = &mut *inner;
        inner.at = Arc::from(transaction.id);
        inner.position = transaction.position;
        if transaction.committed_us > 0 {
            inner.clock_us = transaction.committed_us;
            inner.known_us = inner.known_us.max(inner.clock_us);
        }
        let commit = Commit { time_us: inner.clock_us, at: Arc::clone(&inner.at) };
        for change in transaction.changes {
            inner.apply(change, &commit);
        }
        for table in &mut inner.tables {
            if let Some(history) = &mut table.history {
                history.prune(inner.clock_us);
            }
        }
    }

    /// Begins to watch which keys of a table are touched; false when the table is not ready.
    pub fn start_watch(&self, table: TableId) -> bool {
        let table = &mut self.inner.write().tables[table.index()];
        let ready = table.state == State::Ready;
        table.watch = ready.then(|| Watch::new(table.rows.len()));
        ready
    }

    /// Ends a watch. `None` when it ended before: the table's rows were replaced.
    pub fn end_watch(&self, table: TableId) -> Option<Watch> {
        self.inner.write().tables[table.index()].watch.take().filter(Watch::is_whole)
    }

    /// Names the transaction and the position the tables stand at where no transaction was applied: after a snapshot.
    pub fn set_at(&self, id: &str, position: Position) {
        let mut inner = self.inner.write();
        inner.at = Arc::from(id);
        inner.position = position;
    }

    /// Nothing of the captured tables changed up to here, and nothing committed before `known_us` is still to come (microseconds
    /// since the epoch; 0 where nobody knows).
    pub fn advance(&self, position: &Position, known_us: u64) {
        let mut inner = self.inner.write();
        inner.known_us = inner.known_us.max(known_us);
        if inner.position != *position {
            inner.position = position.clone();
        }
    }

    /// Everything up to P2 is applied: joins may use the table. A stopped table stays stopped.
    pub fn set_ready(&self, table: TableId) {
        {
            let inner = &mut *self.inner.write();
            let table = &mut inner.tables[table.index()];
            table.remaining = None;
            if !matches!(table.state, State::Stopped { .. }) {
                table.state = State::Ready;
                if table.bounded.is_none() {
                    table.journal.set_whole();
                }
                if let Some(history) = &mut table.history {
                    history.begin(inner.known_us);
                }
            }
        }
        self.doors.wake(table);
    }

    /// Takes a table out of service; its rows are dropped, so that old ones can never be answered (contract A10).
    pub fn stop(&self, table: TableId, reason: Reason, message: String) {
        {
            let mut inner = self.inner.write();
            let table = &mut inner.tables[table.index()];
            table.clear();
            table.remaining = None;
            table.replaced();
            table.begin_anew();
            table.state = State::Stopped { reason, message };
        }
    }

    /// The table's changes can no longer be published: what joins would find is not what consumers of its topic have.
    pub fn stop_publishing(&self, table: TableId, reason: Reason, message: &str) {
        let stopped = State::Stopped { reason, message: message.to_owned() };
        self.inner.write().tables[table.index()].unpublished = Some(stopped);
    }

    pub fn resume_publishing(&self, table: TableId) {
        self.inner.write().tables[table.index()].unpublished = None;
    }

    pub fn summaries(&self) -> Vec<Summary> {
        let inner = self.inner.read();
        inner.tables.iter().map(Table::summary).collect()
    }
}

/// All tables at one moment. Rows borrow from it.
pub struct View<'a> {
    inner: RwLockReadGuard<'a, Inner>,
}

impl View<'_> {
    pub fn lookup(&self, table: TableId, key: &[u8]) -> Lookup<'_> {
        let table = &self.inner.tables[table.index()];
        match (table.shown(), &table.bounded) {
            (State::Ready, None) => table.rows.get(key).map_or(Lookup::Missing, |row| Lookup::Row(RowRef::Held(row))),
            (State::Ready, Some(bounded)) => match bounded.find(key) {
                Found::Known(row) => row.map_or(Lookup::Missing, |row| Lookup::Row(RowRef::Cached(row))),
                Found::Unknown => Lookup::Unknown,
            },
            _ => Lookup::NotReady,
        }
    }

    pub fn is_bounded(&self, table: TableId) -> bool {
        self.inner.tables[table.index()].bounded.is_some()
    }

    pub fn is_ready(&self, table: TableId) -> bool {
        *self.state(table) == State::Ready
    }

    pub fn state(&self, table: TableId) -> &State {
        self.inner.tables[table.index()].shown()
    }

    /// The schema the rows of this view have. Compare by pointer to notice a change.
    pub fn schema(&self, table: TableId) -> &Arc<Schema> {
        &self.inner.tables[table.index()].schema
    }

    /// What the watch of a table has seen; `None` when there is none, or its rows have been replaced since it began.
    pub fn watch(&self, table: TableId) -> Option<&Watch> {
        self.inner.tables[table.index()].watch.as_ref().filter(|watch| watch.is_whole())
    }

    /// Every row of a table, in no order. Writers wait while it is walked through.
    pub fn rows(&self, table: TableId) -> impl Iterator<Item = (&Key, &Row)> {
        self.inner.tables[table.index()].rows.iter()
    }

    /// Identity of the last MySQL transaction in the tables; empty before the first snapshot is done.
    pub fn at(&self) -> &Arc<str> {
        &self.inner.at
    }

    pub fn position(&self) -> &Position {
        &self.inner.position
    }

    pub fn find(&self, name: &str) -> Option<TableId> {
        let index = self.inner.tables.iter().position(|t| t.name == name)?;
        u16::try_from(index).ok().map(TableId)
    }
}

// === impl Inner ===

impl Inner {
    /// Rows of a table that stopped are not kept. A bounded one knows nothing before it is ready: not every change comes while the columns
    /// it was read with are those of a later place in the stream.
    fn apply(&mut self, change: Change, commit: &Commit) {
        let id = match change {
            Change::Upsert { table, .. } | Change::Delete { table, .. } | Change::Truncate { table } => table,
        };
        let table = &mut self.tables[id.index()];
        if matches!(table.state, State::Stopped { .. }) || table.bounded.is_some() && table.state != State::Ready {
            return;
        }
        table.touch(&change);
        match change {
            Change::Upsert { old_key, key, row, .. } => {
                if let Some(old_key) = old_key {
                    table.change(old_key, None, commit);
                }
                table.change(key, Some(row), commit);
            }
            Change::Delete { key, .. } => table.change(key, None, commit),
            Change::Truncate { .. } => table.truncate(commit),
        }
    }
}

// === impl Table ===

impl Table {
    fn shown(&self) -> &State {
        match (&self.state, &self.unpublished) {
            (State::Ready, Some(unpublished)) => unpublished,
            (state, _) => state,
        }
    }

    /// Tells the watch what is about to change.
    fn touch(&mut self, change: &Change) {
        let Some(watch) = &mut self.watch else { return };
        match change {
            Change::Upsert { old_key, key, .. } => {
                if let Some(old_key) = old_key {
                    watch.touch(old_key, self.rows.contains_key(old_key));
                }
                watch.touch(key, self.rows.contains_key(key));
            }
            Change::Delete { key, .. } => watch.touch(key, self.rows.contains_key(key)),
            Change::Truncate { .. } => watch.end(),
        }
    }

    /// The rows were, or are to be, replaced as a whole.
    fn replaced(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.end();
        }
    }

    /// Puts or removes a row of a followed table.
    fn change(&mut self, key: Key, row: Option<Row>, commit: &Commit) {
        if self.bounded.is_none() {
            self.journal.touch(&key);
        }
        // Of a table that catches up nobody knows which changes its rows contain already.
        let is_remembered = self.history.is_some() && self.state == State::Ready;
        let past = is_remembered.then(|| key.clone());
        let old = match row {
            Some(row) => self.put(key, row),
            None => self.remove(&key),
        };
        if let Some((history, key)) = self.history.as_mut().zip(past) {
            history.replaced(key, old, commit);
        }
    }

    /// Every row is gone.
    fn truncate(&mut self, commit: &Commit) {
        self.journal.clear();
        if let Some(bounded) = &mut self.bounded {
            return bounded.truncate();
        }
        let (rows, bytes) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.bytes));
        if let Some(history) = &mut self.history
            && self.state == State::Ready
        {
            history.truncated(rows, bytes, commit);
        }
    }

    /// Drops everything: what comes now has nothing to do with what was.
    fn begin_anew(&mut self) {
        self.journal.begin();
        if let Some(history) = &mut self.history {
            history.forget();
        }
    }

    /// The row that was there; a bounded table does not say.
    fn put(&mut self, key: Key, row: Row) -> Option<Row> {
        if let Some(bounded) = &mut self.bounded {
            bounded.put(&key, row);
            return None;
        }
        let key_bytes = key.as_bytes().len();
        self.bytes += key_bytes + row.size();
        let old = self.rows.insert(key, row);
        if let Some(old) = &old {
            self.bytes -= key_bytes + old.size();
        }
        old
    }

    /// The row that was there; a bounded table does not say.
    fn remove(&mut self, key: &Key) -> Option<Row> {
        if let Some(bounded) = &mut self.bounded {
            bounded.remove(key);
            return None;
        }
        let old = self.rows.remove(key);
        if let Some(old) = &old {
            self.bytes -= key.as_bytes().len() + old.size();
        }
        old
    }

    /// Nothing is known of the rows any more.
    fn clear(&mut self) {
        self.rows = HashMap::new();
        self.bytes = 0;
        if let Some(bounded) = &mut self.bounded {
            bounded.clear();
        }
    }

    fn summary(&self) -> Summary {
        let (rows, bytes) = self.bounded.as_ref().map_or((self.rows.len(), self.bytes), |bounded| bounded.size());
        Summary {
            name: self.name.clone(),
            source: self.source.clone(),
            state: self.shown().clone(),
            rows,
            bytes,
            snapshot_rows: self.snapshot_rows,
            remaining: self.remaining,
            cache: self.bounded.as_ref().map(|bounded| bounded.cache_counts()),
            history: self.history.as_ref().map(|history| history.counts()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RowBuilder;

    fn row(text: &str) -> Row {
        let mut builder = RowBuilder::default();
        builder.value("id").extend_from_slice(text.as_bytes());
        builder.finish()
    }

    fn transaction(changes: Vec<Change>) -> Transaction {
        Transaction { changes, position: Position::default(), id: "u:1".into(), committed_us: 0 }
    }

    fn key(text: &str) -> Key {
        Key::new(text.as_bytes())
    }

    #[test]
    fn a_miss_is_only_said_when_it_is_known() {
        let tables = Tables::new([("products".to_string(), "shop.products".to_string())]);
        let t = TableId(0);
        assert!(matches!(tables.view().lookup(t, b"1"), Lookup::NotReady));
        tables.load(t, vec![(key("1"), row("1"))], 100);
        assert!(matches!(tables.view().lookup(t, b"1"), Lookup::NotReady));
        tables.set_ready(t);
        assert!(matches!(tables.view().lookup(t, b"1"), Lookup::Row(_)));
        assert!(matches!(tables.view().lookup(t, b"2"), Lookup::Missing));
        tables.stop(t, Reason::TableDropped, "gone".into());
        tables.set_ready(t);
        assert!(matches!(tables.view().lookup(t, b"1"), Lookup::NotReady));
    }

    #[test]
    fn snapshots_say_how_far_they_are() {
        let at = |rows, expected| Progress::estimated(rows, expected, Duration::from_secs(10));
        assert_eq!(at(250, 1000), Progress { percent: 25, remaining: Some(Duration::from_secs(30)) });
        assert_eq!(at(0, 1000), Progress { percent: 0, remaining: None });
        assert_eq!(at(1500, 1000), Progress { percent: 99, remaining: None });
        assert_eq!(at(u64::MAX, 0), Progress { percent: 99, remaining: None });
    }

    #[test]
    fn bytes_follow_rows() {
        let tables = Tables::new([("products".to_string(), "shop.products".to_string())]);
        let t = TableId(0);
        tables.apply(transaction(vec![
            Change::Upsert { table: t, old_key: None, key: key("1"), row: row("1") },
            Change::Upsert { table: t, old_key: Some(key("1")), key: key("2"), row: row("2") },
            Change::Upsert { table: t, old_key: None, key: key("2"), row: row("22") },
        ]));
        let summary = &tables.summaries()[0];
        assert_eq!((summary.rows, summary.bytes), (1, 1 + row("22").size()));
        tables.apply(transaction(vec![Change::Delete { table: t, key: key("2") }]));
        assert_eq!(tables.summaries()[0].bytes, 0);
    }
}
