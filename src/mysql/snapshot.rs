//! Consistent views of tables: several connections, one window.
//!
//! The order is the guarantee. With GTIDs:
//!
//! ```text
//! position `from`    its GTID set holds only what every later view can see
//! metadata locks     no statement can alter the tables until the views are closed
//! views open         one on each connection, by the first row read: everything in `from` is in every one of them
//! position `until`   file and offset, written before a commit can be seen: no view holds anything from beyond
//! ```
//!
//! Every view lies in the window from `from` to `until`, and no two need be the same: a row that no transaction of the window touched is
//! the same in all of them, and is read once, because chunks part the keys between them. Any other row, also one that moved between
//! two chunks and was read twice or not at all, is put right by the stream from `from`: row images are full, so at `until` the last
//! change of each key has won, and the tables hold a whole number of transactions.
//!
//! Without GTIDs file and offset may be ahead of what the views can see, by commits under way. No commit is under way over the
//! end of a binlog file, so there the stream begins at the start of the current file. With `snapshot_lock = "brief"` all views open
//! under one global read lock: nothing is under way at all and `from` is `until`.
//!
//! Only the first connection must succeed. A further one that cannot be had, or that waits for a lock because a statement queues for
//! one of the tables, is left out: the snapshot is slower, not wrong.

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinHandle;
use tracing::debug;

use super::catalogue::{self, Problem, TableInfo};
use super::chunks::{self, Chunks, Failed, Make, Reading, Rows};
use super::connect::{self, Error, quote};
use super::decode::DecodeError;
use super::mariadb;
use super::place::{Place, Walker, wanted_columns};
use crate::config::plan::{MysqlPlan, SnapshotLock, TablePlan};
use crate::model::position::GtidSet;
use crate::model::{Position, Reason, TableId};

/// First offset of a binlog file, after its four magic bytes.
const FILE_START: u64 = 4;

/// Questions in one statement at most.
const QUESTIONS: usize = 256;

/// Tables as of one window of the binlog.
pub struct Views {
    /// Those at rest, the first connection among them.
    connections: Vec<Conn>,
    /// Those that read chunks.
    busy: Vec<JoinHandle<Option<Conn>>>,
    /// Where the stream must begin.
    pub from: Position,
    /// Where the stream has caught up.
    pub until: Position,
    pub tables: Vec<(TableId, Result<TableInfo, Vec<Problem>>)>,
    chunk_rows: usize,
}

impl Views {
    /// Opens views of `which`, no earlier than `after`, on up to `connections` connections.
    pub async fn open(
        mysql: &MysqlPlan,
        plans: &[TablePlan],
        which: &[TableId],
        after: Option<&GtidSet>,
        connections: usize,
    ) -> Result<Self, Error> {
        let mut first = connect::connect(mysql).await?;
        let mut others = Vec::new();
        for _ in 1..connections {
            match other(mysql).await {
                Ok(connection) => others.push(connection),
                Err(error) => debug!("the snapshot goes on with fewer connections: {error}"),
            }
        }
        let mariadb = connect::is_mariadb(&first);
        if let Some(after) = after.filter(|_| !mariadb) {
            // The binlog is sent before a commit can be seen.
            let done: Option<Option<u8>> = first.exec_first("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 60)", (after.to_string(),)).await?;
            if done.flatten() != Some(0) {
                return Err(Error::Lost("transactions from the binlog did not become visible within 60 s".into()));
            }
        }
        let mut from = if mariadb { mariadb::visible(&mut first, after).await? } else { connect::position(&mut first).await? };
        let brief = mysql.snapshot_lock == SnapshotLock::Brief;
        if brief {
            first.query_drop("FLUSH TABLES WITH READ LOCK").await?;
        }
        first.query_drop("START TRANSACTION READ ONLY").await?;
        let mut existing = Vec::new();
        let mut tables = Vec::new();
        for &table in which {
            let plan = &plans[table.index()];
            match lock(&mut first, plan).await {
                Ok(()) => existing.push(table),
                Err(Error::NoTable(what)) => {
                    let remedy = "create the table again, or take it out of the configuration".into();
                    tables.push((table, Err(vec![Problem { reason: Reason::TableDropped, what, remedy }])));
                }
                Err(error) => return Err(error),
            }
        }
        let existing_plans: Vec<&TablePlan> = existing.iter().map(|table| &plans[table.index()]).collect();
        look(&mut first, &existing_plans).await?;
        let mut connections = Vec::new();
        for mut connection in others {
            match follow(&mut connection, &existing_plans, &from.server_uuid).await {
                Ok(()) => connections.push(connection),
                Err(error) => debug!("the snapshot goes on with fewer connections: {error}"),
            }
        }
        let until = connect::position(&mut first).await?;
        if brief {
            first.query_drop("UNLOCK TABLES").await?;
            from = until.clone();
        } else if from.gtids.is_none() {
            from.offset = FILE_START;
        }
        if *from.server_uuid != *until.server_uuid {
            return Err(Error::Lost("the address led to two servers".into()));
        }
        for table in existing {
            tables.push((table, catalogue::table(&mut first, &plans[table.index()]).await?));
        }
        connections.insert(0, first);
        Ok(Self { connections, busy: Vec::new(), from, until, tables, chunk_rows: mysql.snapshot_chunk.max(1) })
    }

    /// The rows of a table beyond `from`, all of them without it; `make` is called once for each connection. One table at a time: the
    /// chunks of the one before must be done or dropped.
    pub async fn chunks<M: Make>(
        &mut self,
        plan: &TablePlan,
        info: &TableInfo,
        from: Option<Place>,
        make: impl Fn() -> Result<M, DecodeError>,
    ) -> Result<Chunks<M::Made>, Failed> {
        self.rest().await?;
        let mut makers = self.connections.iter().map(|_| make()).collect::<Result<Vec<M>, _>>()?;
        let walker = Walker::new(plan, info);
        if from.as_ref().is_some_and(|place| !walker.fits(place)) {
            return Err(Error::Damaged("a place of another table".into()).into());
        }
        let columns = wanted_columns(plan, info).into();
        let reading = Reading { walker, columns, invalid: plan.invalid_text, chunk_rows: self.chunk_rows };
        let connections = std::mem::take(&mut self.connections);
        let (chunks, busy) = chunks::start(connections, reading, from, || makers.pop().expect("there is a maker for each connection"));
        self.busy = busy;
        Ok(chunks)
    }

    /// Which of `keys` lie beyond `place`, in the server's order.
    pub async fn beyond(&mut self, plan: &TablePlan, info: &TableInfo, place: &Place, keys: &[Place]) -> Result<Vec<bool>, Error> {
        self.rest().await?;
        let connection = self.connections.first_mut().ok_or_else(lost)?;
        beyond(connection, plan, info, place, keys).await
    }

    /// The rows for which one of the conditions ([`super::place::has_key`]) holds, in no order.
    pub async fn find(&mut self, plan: &TablePlan, info: &TableInfo, conditions: &[String]) -> Result<Rows, Error> {
        self.rest().await?;
        let connection = self.connections.first_mut().ok_or_else(lost)?;
        let found = match conditions {
            [] => Vec::new(),
            _ => connection.exec(Walker::new(plan, info).rows_where(conditions), ()).await?,
        };
        Ok(Rows::new(found, wanted_columns(plan, info).into(), plan.invalid_text))
    }

    /// Closes the views, so that the tables can be altered again.
    pub async fn close(mut self) {
        // The server rolls back a transaction whose connection ends; the rest is courtesy.
        let _ = self.rest().await;
        for connection in self.connections {
            let _ = connection.disconnect().await;
        }
    }

    /// Waits for the connections that read chunks.
    async fn rest(&mut self) -> Result<(), Error> {
        for worker in std::mem::take(&mut self.busy) {
            let connection = worker.await.map_err(|error| Error::Lost(format!("reading rows: {error}")))?;
            self.connections.push(connection.ok_or_else(lost)?);
        }
        if self.connections.is_empty() { Err(lost()) } else { Ok(()) }
    }
}

/// Which of `keys` lie beyond `place`, in the order of the server behind `connection`, whose tables are not looked at.
pub async fn beyond(connection: &mut Conn, plan: &TablePlan, info: &TableInfo, place: &Place, keys: &[Place]) -> Result<Vec<bool>, Error> {
    let walker = Walker::new(plan, info);
    if !walker.fits(place) || !keys.iter().all(|key| walker.fits(key)) {
        return Err(Error::Damaged("a place of another table".into()));
    }
    let mut answers = Vec::with_capacity(keys.len());
    for keys in keys.chunks(QUESTIONS) {
        let row: Option<mysql_async::Row> = connection.exec_first(walker.beyond(place, keys), ()).await?;
        let row = row.ok_or_else(|| Error::Lost("the server did not compare".into()))?;
        for index in 0..keys.len() {
            let answer = row.get_opt::<i64, _>(index).and_then(Result::ok);
            answers.push(answer.ok_or_else(|| Error::Lost("the server cannot compare these keys".into()))? != 0);
        }
    }
    Ok(answers)
}

fn lost() -> Error {
    Error::Lost("a connection of the snapshot was lost".into())
}

/// A further connection.
async fn other(mysql: &MysqlPlan) -> Result<Conn, Error> {
    let mut connection = connect::connect(mysql).await?;
    // A statement that queues for one of the tables keeps us out; the first connection keeps it waiting for the views' whole life.
    connection.query_drop("SET SESSION lock_wait_timeout = 1").await?;
    Ok(connection)
}

/// Opens a view beside the first one, on the same server.
async fn follow(connection: &mut Conn, plans: &[&TablePlan], server_uuid: &str) -> Result<(), Error> {
    if *connect::position(connection).await?.server_uuid != *server_uuid {
        return Err(Error::Lost("the address leads to another server".into()));
    }
    connection.query_drop("START TRANSACTION READ ONLY").await?;
    for plan in plans {
        lock(connection, plan).await?;
    }
    look(connection, plans).await
}

/// Takes the metadata lock of a table, for as long as the transaction lasts.
async fn lock(connection: &mut Conn, plan: &TablePlan) -> Result<(), Error> {
    Ok(connection.query_drop(format!("SELECT 1 FROM {} LIMIT 0", source(plan))).await?)
}

/// Opens the view of the transaction by looking for a row.
async fn look(connection: &mut Conn, plans: &[&TablePlan]) -> Result<(), Error> {
    match plans.first() {
        Some(plan) => Ok(connection.query_drop(format!("SELECT 1 FROM {} LIMIT 1", source(plan))).await?),
        None => Ok(()),
    }
}

fn source(plan: &TablePlan) -> String {
    format!("{}.{}", quote(&plan.database), quote(&plan.table))
}
