//! Reads the rows of bounded tables that joins want and that are not in memory.
//!
//! Each table has a reader with a connection of its own, so that one table's slow SELECT delays no other's. Keys that come while a SELECT
//! is under way go together into the next one. Why the answers are right is said in `table::bounded`; what is done for it here:
//!
//! ```text
//! wait      until the server shows everything the tables contain (T ⊆ V)
//! SELECT    … WHERE key IN (…)
//! position  of the end of the binlog, by file and offset (V ⊆ until)
//! ```
//!
//! Without GTIDs there is nothing to wait for. There the SELECT takes shared locks on the rows, by `READ COMMITTED` on no gaps between them,
//! and never waits for one, so that it can be part of no deadlock: a row that is locked is asked for again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row as Sent, Value as SentValue};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::connect::{self, Error, quote};
use super::decode::DecodeError;
use super::keys::KeyColumns;
use super::mariadb;
use super::render::Shape;
use super::result;
use super::status::SourceStatus;
use crate::config::Plan;
use crate::config::plan::{MysqlPlan, TablePlan};
use crate::model::{Key, Position, Row, Schema, Stop, TableId};
use crate::table::{Answer, Asked, Tables, Unreadable};

/// Keys in one SELECT: a lookup costs the server about as much as a round trip costs us per hundred.
const MOST_KEYS: usize = 512;

/// Bytes of keys in one SELECT; as literals they are up to three times as long, below the smallest usual `max_allowed_packet`.
const MOST_KEY_BYTES: usize = 256 << 10;

/// Seconds for the server to show what the binlog has sent already.
const VISIBLE_S: u64 = 10;

/// Longest wait for all of an answer. Longer than a session waits for a table that a statement has locked.
const PATIENCE: Duration = Duration::from_secs(90);

const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Reads until `stop` turns true (or its sender is gone).
pub async fn run(plan: Arc<Plan>, tables: Arc<Tables>, status: Arc<SourceStatus>, mut stop: watch::Receiver<bool>) -> Result<(), Stop> {
    let Some(mysql) = &plan.mysql else { return Ok(()) };
    let bells: BTreeMap<TableId, Arc<Notify>> = plan.bounded_tables().map(|(id, _)| (id, Arc::default())).collect();
    let rung = bells.clone();
    // Before the readers look for the first time, so that no call is missed.
    tables.on_wanted(move |table| rung.get(&table).into_iter().for_each(|bell| bell.notify_one()));
    let mut readers = JoinSet::new();
    for (id, bell) in bells {
        let (mysql, plan) = (mysql.clone(), plan.tables[id.index()].clone());
        let (tables, status) = (Arc::clone(&tables), Arc::clone(&status));
        readers.spawn(Reader { mysql, plan, id, tables, status, bell, most_keys: MOST_KEYS }.run());
    }
    tokio::select! {
        _ = stop.wait_for(|&stop| stop) => Ok(()),
        Some(ended) = readers.join_next() => match ended {
            Ok(never) => match never {},
            Err(error) => Err(Stop::Bug(format!("a reader of rows ended: {error}"))),
        },
    }
}

enum Never {}

struct Reader {
    mysql: MysqlPlan,
    plan: TablePlan,
    id: TableId,
    tables: Arc<Tables>,
    status: Arc<SourceStatus>,
    bell: Arc<Notify>,
    /// Fewer after a row was locked, so that it does not keep others from being read.
    most_keys: usize,
}

/// A connection that knows a table as of one schema.
struct Session {
    connection: Conn,
    schema: Arc<Schema>,
    shape: Shape,
    keys: KeyColumns,
    /// `SELECT … FROM … WHERE `.
    head: String,
}

/// Why there is no answer.
enum Failure {
    /// Somebody changes one of the rows.
    Locked,
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Other(error)
    }
}

impl From<mysql_async::Error> for Failure {
    fn from(error: mysql_async::Error) -> Self {
        /// ER_LOCK_NOWAIT
        const LOCKED: u16 = 3572;
        match &error {
            mysql_async::Error::Server(server) if server.code == LOCKED => Failure::Locked,
            _ => Failure::Other(error.into()),
        }
    }
}

impl Reader {
    async fn run(mut self) -> Never {
        let mut session = None;
        let mut pause = SHORTEST_PAUSE;
        let mut silent = false;
        loop {
            let Some(asked) = self.tables.take_wanted(self.id, self.most_keys, MOST_KEY_BYTES) else {
                self.bell.notified().await;
                continue;
            };
            let read = tokio::time::timeout(PATIENCE, self.read(&mut session, &asked)).await;
            let read = read.unwrap_or_else(|_| Err(Error::Lost(format!("no answer within {} s", PATIENCE.as_secs())).into()));
            let failure = match read {
                Ok((answers, until)) => {
                    if std::mem::take(&mut silent) {
                        info!(table = self.plan.name, "rows of table {} are read from MySQL again", self.plan.name);
                    }
                    pause = SHORTEST_PAUSE;
                    self.most_keys = (self.most_keys * 2).min(MOST_KEYS);
                    self.tables.answer(self.id, asked.flight, answers, until);
                    continue;
                }
                Err(failure) => failure,
            };
            self.tables.give_back(self.id, asked.flight);
            let error = match failure {
                Failure::Locked => {
                    self.most_keys = (self.most_keys / 2).max(1);
                    tokio::time::sleep(SHORTEST_PAUSE).await;
                    continue;
                }
                Failure::Other(error) => error,
            };
            session = None;
            if pause >= LONGEST_PAUSE && !std::mem::replace(&mut silent, true) {
                warn!(
                    table = self.plan.name,
                    "rows of table {} cannot be read from MySQL, joins that need them wait: {error}", self.plan.name
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks for all keys at once. An error says nothing about any of them.
    async fn read(&self, session: &mut Option<Session>, asked: &Asked) -> Result<(Vec<(Key, Answer)>, Position), Failure> {
        if !session.as_ref().is_some_and(|session| Arc::ptr_eq(&session.schema, &asked.schema)) {
            *session = Some(Session::open(&self.mysql, &self.plan, &asked.schema).await?);
        }
        let Some(session) = session else { return Err(Error::Lost("no connection".into()).into()) };
        let locking = match &asked.position.gtids {
            Some(gtids) if connect::is_mariadb(&session.connection) => {
                mariadb::visible(&mut session.connection, Some(gtids)).await?;
                ""
            }
            Some(gtids) => {
                let wait = "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)";
                let done: Option<Option<u8>> = session.connection.exec_first(wait, (gtids.to_string(), VISIBLE_S)).await?;
                if done.flatten() != Some(0) {
                    return Err(Error::Lost(format!("transactions from the binlog did not become visible within {VISIBLE_S} s")).into());
                }
                ""
            }
            None => {
                session.connection.query_drop("SET SESSION transaction_isolation = 'READ-COMMITTED'").await?;
                " FOR SHARE NOWAIT"
            }
        };
        let answers = session.select(&asked.keys, locking).await?;
        self.status.count_rows(session.shape.take_counts());
        let until = connect::position(&mut session.connection).await?;
        if until.server_uuid != asked.server_uuid {
            let text = format!("the address led to server {}, the binlog is that of {}", until.server_uuid, asked.server_uuid);
            return Err(Error::Lost(text).into());
        }
        Ok((answers, until))
    }
}

impl Session {
    async fn open(mysql: &MysqlPlan, plan: &TablePlan, schema: &Arc<Schema>) -> Result<Self, Error> {
        let mut connection = connect::connect(mysql).await?;
        let shape = Shape::new(schema, plan).map_err(|error| Error::Lost(error.to_string()))?;
        let texts: Vec<(String, Option<String>, Option<String>)> = connection
            .exec(
                "SELECT COLUMN_NAME, CHARACTER_SET_NAME, COLLATION_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
                (&plan.database, &plan.table),
            )
            .await?;
        let keys = KeyColumns::new(schema, |column| {
            let (_, charset, collation) = texts.iter().find(|(name, ..)| name == column)?;
            charset.clone().zip(collation.clone())
        });
        let columns: Vec<String> = schema.columns.iter().map(|column| result::select_expression(&column.name, &column.kind)).collect();
        let head = format!("SELECT {} FROM {}.{} WHERE ", columns.join(", "), quote(&plan.database), quote(&plan.table));
        Ok(Self { connection, schema: Arc::clone(schema), shape, keys, head })
    }

    async fn select(&mut self, keys: &[Key], locking: &str) -> Result<Vec<(Key, Answer)>, Failure> {
        let literals: Vec<String> = keys.iter().filter_map(|key| self.keys.literal(key)).collect();
        let rows: Vec<Sent> = if literals.is_empty() {
            Vec::new()
        } else {
            let statement = format!("{}{}{locking}", self.head, self.keys.condition(&literals));
            let statement = self.connection.prep(statement).await?;
            let rows = self.connection.exec(&statement, ()).await?;
            self.connection.close(statement).await?;
            rows
        };
        let rendered: Result<HashMap<Key, Row>, DecodeError> = rows.iter().map(|row| self.render(row)).collect();
        Ok(match rendered {
            Ok(mut found) => keys.iter().map(|key| (key.clone(), Ok(found.remove(key).map(Arc::new)))).collect(),
            Err(error) => {
                let unreadable = Unreadable { reason: error.reason(), message: error.to_string() };
                keys.iter().map(|key| (key.clone(), Err(unreadable.clone()))).collect()
            }
        })
    }

    fn render(&mut self, row: &Sent) -> Result<(Key, Row), DecodeError> {
        self.shape.begin();
        for (index, column) in self.schema.columns.iter().enumerate() {
            let sent = row.as_ref(index).unwrap_or(&SentValue::NULL);
            let value = result::value(sent, column, self.shape.invalid_text())?;
            self.shape.push(index, &value)?;
        }
        Ok(self.shape.finish())
    }
}
