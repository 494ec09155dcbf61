//! A consistent view of tables, and its rows into memory in primary-key chunks.
//!
//! The order is the guarantee. With GTIDs:
//!
//! ```text
//! position `from`    its GTID set holds only what every later view can see
//! metadata locks     no statement can alter the tables until the view is closed
//! view opens         by the first row read: everything in `from` is in it
//! position `until`   file and offset, written before a commit can be seen: the view holds nothing from beyond
//! ```
//!
//! A stream from `from` therefore misses nothing, and at `until` the tables hold a whole number of transactions.
//! Without GTIDs file and offset may be ahead of what the view can see, by commits under way. No commit is under way over the
//! end of a binlog file, so there the stream begins at the start of the current file. With `snapshot_lock = "brief"` nothing is
//! under way at all and `from` is `until`.

use std::fmt::Write as _;
use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value as Sent};
use tokio::sync::mpsc;

use super::catalogue::{self, Problem, TableInfo, Walk};
use super::connect::{self, Error, quote};
use super::decode::DecodeError;
use super::render::{Counts, Shape};
use super::result;
use crate::config::plan::{MysqlPlan, SnapshotLock, TablePlan};
use crate::model::position::GtidSet;
use crate::model::{Column, ColumnType, Key, Position, Reason, TableId};
use crate::table::Tables;

/// First offset of a binlog file, after its four magic bytes.
const FILE_START: u64 = 4;

/// Rows handed on together, at most so many and so many bytes.
const BATCH_ROWS: usize = 2048;
const BATCH_BYTES: usize = 4 << 20;

/// Batches between the connection and the thread that renders rows.
const BATCHES_AHEAD: usize = 4;

/// Tables as of one moment.
pub struct View {
    connection: Conn,
    /// Where the stream must begin.
    pub from: Position,
    /// Where the stream has caught up.
    pub until: Position,
    pub tables: Vec<(TableId, Result<TableInfo, Vec<Problem>>)>,
    chunk_rows: usize,
}

/// What became of a table's rows.
pub enum Loaded {
    Whole {
        rows: u64,
        counts: Counts,
    },
    /// A value cannot be read: the table alone stops.
    Unreadable {
        reason: Reason,
        message: String,
    },
}

impl View {
    /// Opens a view of `which`, no earlier than `after`.
    pub async fn open(mysql: &MysqlPlan, plans: &[TablePlan], which: &[TableId], after: Option<&GtidSet>) -> Result<Self, Error> {
        let mut connection = connect::connect(mysql).await?;
        if let Some(after) = after {
            // The binlog is sent before a commit can be seen.
            let done: Option<Option<u8>> = connection.exec_first("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 60)", (after.to_string(),)).await?;
            if done.flatten() != Some(0) {
                return Err(Error::Lost("transactions from the binlog did not become visible within 60 s".into()));
            }
        }
        let mut from = connect::position(&mut connection).await?;
        let brief = mysql.snapshot_lock == SnapshotLock::Brief;
        if brief {
            connection.query_drop("FLUSH TABLES WITH READ LOCK").await?;
        }
        connection.query_drop("START TRANSACTION READ ONLY").await?;
        let mut existing = Vec::new();
        let mut tables = Vec::new();
        for &table in which {
            let plan = &plans[table.index()];
            match connection.query_drop(format!("SELECT 1 FROM {} LIMIT 0", source(plan))).await.map_err(Error::from) {
                Ok(()) => existing.push(table),
                Err(Error::NoTable(what)) => {
                    let remedy = "create the table again, or take it out of the configuration".into();
                    tables.push((table, Err(vec![Problem { reason: Reason::TableDropped, what, remedy }])));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(&first) = existing.first() {
            connection.query_drop(format!("SELECT 1 FROM {} LIMIT 1", source(&plans[first.index()]))).await?;
        }
        let until = connect::position(&mut connection).await?;
        if brief {
            connection.query_drop("UNLOCK TABLES").await?;
            from = until.clone();
        } else if from.gtids.is_none() {
            from.offset = FILE_START;
        }
        if *from.server_uuid != *until.server_uuid {
            return Err(Error::Lost("the address led to two servers".into()));
        }
        for table in existing {
            tables.push((table, catalogue::table(&mut connection, &plans[table.index()]).await?));
        }
        Ok(Self { connection, from, until, tables, chunk_rows: mysql.snapshot_chunk.max(1) })
    }

    /// Reads a table's rows of this view into `tables`, which has begun its snapshot. Rendering has a thread of its own, so that
    /// the server, the connection and the rendering work side by side.
    pub async fn load(
        &mut self,
        table: TableId,
        plan: &TablePlan,
        info: &TableInfo,
        shape: Shape,
        tables: &Arc<Tables>,
    ) -> Result<Loaded, Error> {
        let (batches, received) = mpsc::channel(BATCHES_AHEAD);
        let renderer = Renderer {
            table,
            columns: info
                .schema
                .columns
                .iter()
                .zip(shape.source_columns())
                .filter(|(_, target)| target.is_some())
                .map(|(column, _)| column.clone())
                .collect(),
            shape,
            estimate: info.row_estimate.max(1),
            tables: Arc::clone(tables),
        };
        let renderer = tokio::task::spawn_blocking(move || renderer.run(received));
        let sent = self.walk(plan, info, &batches).await;
        drop(batches);
        let rendered = renderer.await.map_err(|error| Error::Lost(format!("rendering rows: {error}")))?;
        match rendered {
            Ok((rows, counts)) => sent.map(|()| Loaded::Whole { rows, counts }),
            Err(error) => Ok(Loaded::Unreadable { reason: error.reason(), message: error.to_string() }),
        }
    }

    /// Closes the view, so that the tables can be altered again.
    pub async fn close(self) {
        // The server rolls back a transaction whose connection ends; the rest is courtesy.
        let _ = self.connection.disconnect().await;
    }

    /// Sends the rows of a table in chunks, each beginning after the last row of the one before.
    async fn walk(&mut self, plan: &TablePlan, info: &TableInfo, batches: &mpsc::Sender<Vec<Row>>) -> Result<(), Error> {
        let select = Select::of(plan, info);
        let mut after: Option<Vec<Sent>> = None;
        loop {
            let statement = self.connection.prep(select.chunk(info, after.as_deref(), self.chunk_rows)).await?;
            let mut rows = self.connection.exec_iter(&statement, ()).await?;
            let (mut batch, mut batch_bytes, mut count) = (Vec::new(), 0, 0);
            let mut last = None;
            while let Some(row) = rows.next().await? {
                count += 1;
                if count == self.chunk_rows {
                    last = select.place(&row);
                }
                batch_bytes += bytes_of(&row);
                batch.push(row);
                if batch.len() == BATCH_ROWS || batch_bytes >= BATCH_BYTES {
                    batch_bytes = 0;
                    if batches.send(std::mem::take(&mut batch)).await.is_err() {
                        // A row could not be rendered.
                        return Ok(());
                    }
                }
            }
            drop(rows);
            self.connection.close(statement).await?;
            if batches.send(batch).await.is_err() || last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }
}

fn source(plan: &TablePlan) -> String {
    format!("{}.{}", quote(&plan.database), quote(&plan.table))
}

fn bytes_of(row: &Row) -> usize {
    (0..row.len()).map(|index| if let Some(Sent::Bytes(bytes)) = row.as_ref(index) { bytes.len() + 24 } else { 24 }).sum()
}

/// The rows of one table on their way from results to [`Tables`].
struct Renderer {
    table: TableId,
    /// Columns of the rows made, in order.
    columns: Vec<Column>,
    shape: Shape,
    estimate: u64,
    tables: Arc<Tables>,
}

impl Renderer {
    fn run(mut self, mut batches: mpsc::Receiver<Vec<Row>>) -> Result<(u64, Counts), DecodeError> {
        let mut done = 0;
        while let Some(batch) = batches.blocking_recv() {
            let rows = batch.iter().map(|row| self.render(row)).collect::<Result<Vec<_>, _>>()?;
            done += rows.len() as u64;
            let percent = (done.saturating_mul(100) / self.estimate).min(99) as u8;
            self.tables.load(self.table, rows, percent);
        }
        Ok((done, self.shape.take_counts()))
    }

    fn render(&mut self, row: &Row) -> Result<(Key, crate::model::Row), DecodeError> {
        self.shape.begin();
        for (index, column) in self.columns.iter().enumerate() {
            let sent = row.as_ref(index).unwrap_or(&Sent::NULL);
            let value = result::value(sent, column, self.shape.invalid_text())?;
            self.shape.push(index, &value)?;
        }
        Ok(self.shape.finish())
    }
}

/// The statements that walk through a table.
struct Select {
    /// `SELECT … FROM …`, the wanted columns first, then what says where a row stands.
    head: String,
    /// What rows are ordered by.
    order: String,
    wanted: usize,
}

impl Select {
    fn of(plan: &TablePlan, info: &TableInfo) -> Self {
        let taken = |name: &str| plan.columns.as_ref().is_none_or(|columns| columns.iter().any(|column| column == name));
        let wanted: Vec<String> = info
            .schema
            .columns
            .iter()
            .filter(|column| taken(&column.name))
            .map(|column| result::select_expression(&column.name, &column.kind))
            .collect();
        let mut head = format!("SELECT {}", wanted.join(", "));
        for part in &info.walk.columns {
            let column = &info.schema.columns[part.column];
            let name = quote(&column.name);
            // ENUM, SET and BIT are ordered by number, and compared by number only with a number.
            let _ = if by_number(&column.kind) { write!(head, ", {name} + 0") } else { write!(head, ", {name}") };
        }
        let _ = write!(head, " FROM {} FORCE INDEX ({})", source(plan), quote(&info.walk.index));
        let order: Vec<String> = info.walk.columns.iter().map(|part| quote(&info.schema.columns[part.column].name)).collect();
        Self { head, order: order.join(", "), wanted: wanted.len() }
    }

    /// The next `rows` rows after the row at `after`. The place is written into the statement as literals: their types are then
    /// known for certain, which they are not for parameters.
    fn chunk(&self, info: &TableInfo, after: Option<&[Sent]>, rows: usize) -> String {
        let condition = after.map_or_else(String::new, |after| format!(" WHERE {}", beyond(info, after)));
        format!("{}{condition} ORDER BY {} LIMIT {rows}", self.head, self.order)
    }

    /// Where a row stands.
    fn place(&self, row: &Row) -> Option<Vec<Sent>> {
        (self.wanted..row.len()).map(|index| row.as_ref(index).cloned()).collect()
    }
}

fn by_number(kind: &ColumnType) -> bool {
    matches!(kind, ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::Bit { .. })
}

/// `(a, b) > (x, y)`, written out so that the server uses the index: `a >= x AND (a > x OR (a = x AND b > y))`.
fn beyond(info: &TableInfo, after: &[Sent]) -> String {
    let Walk { columns, .. } = &info.walk;
    let part = |index: usize| {
        let column = &info.schema.columns[columns[index].column];
        let name = quote(&column.name);
        let name = if by_number(&column.kind) { format!("{name} + 0") } else { name };
        (name, literal(&after[index], &column.kind, columns[index].text.as_ref()))
    };
    let last = columns.len() - 1;
    let (name, value) = part(last);
    let mut condition = format!("{name} > {value}");
    for index in (0..last).rev() {
        let (name, value) = part(index);
        condition = format!("{name} >= {value} AND ({name} > {value} OR ({name} = {value} AND {condition}))");
    }
    condition
}

/// A value as literal of its column's type, exactly. `text` has the charset and collation of a text column.
fn literal(value: &Sent, kind: &ColumnType, text: Option<&(String, String)>) -> String {
    match (value, kind, text) {
        (Sent::Bytes(bytes), ColumnType::Text { .. }, Some((charset, collation))) => {
            format!("CONVERT(X'{}' USING {charset}) COLLATE {collation}", hex(bytes))
        }
        (Sent::Bytes(bytes), ColumnType::Decimal { precision, scale }, _) => {
            format!("CAST('{}' AS DECIMAL({precision},{scale}))", String::from_utf8_lossy(bytes))
        }
        // Digits of a number that does not fit the protocol's integers.
        (Sent::Bytes(bytes), kind, _) if by_number(kind) => String::from_utf8_lossy(bytes).into_owned(),
        (Sent::Bytes(bytes), ..) => format!("X'{}'", hex(bytes)),
        (Sent::Int(number), ..) => number.to_string(),
        (Sent::UInt(number), ..) => number.to_string(),
        (Sent::Float(number), ..) => format!("{:e}", f64::from(*number)),
        (Sent::Double(number), ..) => format!("{number:e}"),
        // A date or a time, quoted.
        (value, ..) => value.as_sql(true),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Schema;
    use crate::mysql::catalogue::WalkColumn;

    #[test]
    fn chunks_begin_after_the_last_row() {
        let column = |name: &str, kind| Column { name: name.into(), kind, nullable: false };
        let columns = vec![column("a", ColumnType::Integer { bytes: 4, unsigned: false }), column("b", ColumnType::Text { collation: 8 })];
        let text = Some(("latin1".to_owned(), "latin1_swedish_ci".to_owned()));
        let walk = Walk { index: "PRIMARY".into(), columns: vec![WalkColumn { column: 0, text: None }, WalkColumn { column: 1, text }] };
        let info = TableInfo { schema: Schema { columns, key: vec![0, 1] }, walk, row_estimate: 0 };
        let condition = beyond(&info, &[Sent::Int(-5), Sent::Bytes(vec![0xe9])]);
        let b = "CONVERT(X'e9' USING latin1) COLLATE latin1_swedish_ci";
        assert_eq!(condition, format!("`a` >= -5 AND (`a` > -5 OR (`a` = -5 AND `b` > {b}))"));
    }

    #[test]
    fn literals_are_exact() {
        assert_eq!(literal(&Sent::Float(0.1), &ColumnType::Float, None), "1.0000000149011612e-1");
        assert_eq!(
            literal(&Sent::Bytes(b"1.50".to_vec()), &ColumnType::Decimal { precision: 10, scale: 2 }, None),
            "CAST('1.50' AS DECIMAL(10,2))"
        );
        assert_eq!(literal(&Sent::Date(2024, 1, 2, 3, 4, 5, 6), &ColumnType::DateTime { digits: 6 }, None), "'2024-01-02 03:04:05.000006'");
    }
}
