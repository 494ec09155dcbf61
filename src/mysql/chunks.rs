//! The rows of one table out of [`Views`](super::snapshot::Views): read in parallel, handed on in key order, with a place to resume
//! from after every batch.
//!
//! ```text
//! worker 1 ── cut ─► chunk 1 ── batch, batch, … ──┐
//! worker 2 ── cut ─► chunk 2 ── batch, batch, … ──┼─► queue of chunks in key order ─► [`Chunks::next`]
//! worker 1 ── cut ─► chunk 3 ── …                 ┘
//! ```
//!
//! A worker is a thread with one connection. It asks the server where its next chunk ends (one worker at a time), then reads what lies
//! between, and makes of each batch what the consumer wants, on its own thread. What always holds: chunks are cut by the server, in its
//! order; a chunk that has not exactly the rows it was cut for is an error, because both were asked in the same view (case N19);
//! what is read ahead is bounded by [`BATCHES_AHEAD`] for each chunk and `connections` + 1 chunks.

use std::sync::Arc;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value as Sent};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::connect::Error;
use super::decode::DecodeError;
use super::place::{Place, Walker};
use super::result;
use crate::config::plan::InvalidText;
use crate::model::{Column, Value};

/// Rows handed on together, at most so many and so many bytes, or one larger row. Few enough that they are still in the processor's
/// cache when something is made of them.
const BATCH_ROWS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// Batches of a chunk that wait for the consumer at most.
const BATCHES_AHEAD: usize = 8;

/// What a consumer makes of rows, on the thread that reads them.
pub trait Make: Send + 'static {
    type Made: Send + 'static;

    fn make(&mut self, rows: Rows) -> Result<Self::Made, DecodeError>;
}

/// Rows as they arrived.
pub struct Rows {
    rows: Vec<Row>,
    columns: Arc<[Column]>,
    invalid: InvalidText,
}

/// A part of a table's rows, in key order.
pub struct Batch<T> {
    pub made: T,
    pub rows: usize,
    /// Of the last row: reading can be resumed beyond it.
    pub place: Place,
}

#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Connection(#[from] Error),
    /// A value cannot be read: the table alone stops.
    #[error(transparent)]
    Value(#[from] DecodeError),
}

/// The batches of one table. Dropping it ends the reading; the view stays usable.
pub struct Chunks<T> {
    queue: mpsc::Receiver<Chunk<T>>,
    current: Option<Chunk<T>>,
}

type Chunk<T> = mpsc::Receiver<Result<Batch<T>, Failed>>;

impl Rows {
    pub(super) fn new(rows: Vec<Row>, columns: Arc<[Column]>, invalid: InvalidText) -> Self {
        Self { rows, columns, invalid }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The columns of each row: those the plan takes, in the table's order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The value of a column, both by index.
    pub fn value(&self, row: usize, column: usize) -> Result<Value<'_>, DecodeError> {
        let sent = self.rows.get(row).and_then(|row| row.as_ref(column)).unwrap_or(&Sent::NULL);
        result::value(sent, &self.columns[column], self.invalid)
    }
}

impl<T> Chunks<T> {
    /// The next rows; `None` when the table is done.
    pub async fn next(&mut self) -> Result<Option<Batch<T>>, Failed> {
        loop {
            if let Some(chunk) = &mut self.current
                && let Some(batch) = chunk.recv().await
            {
                return batch.map(Some);
            }
            self.current = self.queue.recv().await;
            if self.current.is_none() {
                return Ok(None);
            }
        }
    }
}

/// What the workers of a table share.
pub(super) struct Reading {
    pub walker: Walker,
    pub columns: Arc<[Column]>,
    pub invalid: InvalidText,
    pub chunk_rows: usize,
}

/// Starts a worker on each connection, beyond `from`. A worker gives its connection back at the end, unless it was lost.
pub(super) fn start<M: Make>(
    connections: Vec<Conn>,
    reading: Reading,
    from: Option<Place>,
    mut make: impl FnMut() -> M,
) -> (Chunks<M::Made>, Vec<JoinHandle<Option<Conn>>>) {
    let (chunks, queue) = mpsc::channel(connections.len() + 1);
    let reading = Arc::new(reading);
    let cutter = Arc::new(Mutex::new(Some(Cutter { after: from, chunks })));
    let runtime = tokio::runtime::Handle::current();
    let workers = connections.into_iter().map(|connection| {
        let worker = Worker { reading: Arc::clone(&reading), cutter: Arc::clone(&cutter), make: make() };
        let runtime = runtime.clone();
        tokio::task::spawn_blocking(move || runtime.block_on(worker.run(connection)))
    });
    (Chunks { queue, current: None }, workers.collect())
}

/// Where the next chunk begins; gone when the last one was cut.
struct Cutter<T> {
    after: Option<Place>,
    chunks: mpsc::Sender<Chunk<T>>,
}

struct Worker<M: Make> {
    reading: Arc<Reading>,
    cutter: Arc<Mutex<Option<Cutter<M::Made>>>>,
    make: M,
}

/// A chunk to read: beyond `after`, up to and with `upto`.
struct Job<T> {
    after: Option<Place>,
    upto: Option<Place>,
    batches: mpsc::Sender<Result<Batch<T>, Failed>>,
}

/// Why a worker ends before the table does.
enum Ended {
    Failed(Failed),
    /// Nobody wants more.
    Unwanted,
}

impl<E: Into<Failed>> From<E> for Ended {
    fn from(error: E) -> Self {
        Ended::Failed(error.into())
    }
}

impl From<mysql_async::Error> for Failed {
    fn from(error: mysql_async::Error) -> Self {
        Failed::Connection(error.into())
    }
}

impl<M: Make> Worker<M> {
    async fn run(mut self, mut connection: Conn) -> Option<Conn> {
        while let Some(job) = self.next(&mut connection).await {
            let job = match job {
                Ok(job) => job,
                Err(Failed::Connection(_)) => return None,
                Err(Failed::Value(_)) => return Some(connection),
            };
            match self.read(&mut connection, &job).await {
                Ok(()) => {}
                Err(Ended::Unwanted) => return Some(connection),
                Err(Ended::Failed(failed)) => {
                    let usable = matches!(failed, Failed::Value(_)).then_some(connection);
                    // Nobody listens where the consumer has given up already.
                    let _ = job.batches.send(Err(failed)).await;
                    return usable;
                }
            }
        }
        Some(connection)
    }

    /// Cuts the next chunk. A failure has been reported to the consumer.
    async fn next(&mut self, connection: &mut Conn) -> Option<Result<Job<M::Made>, Failed>> {
        let mut cutter = self.cutter.lock().await;
        let Cutter { after, chunks } = cutter.as_ref()?;
        // What is read ahead is bounded: the chunk is cut when there is room for it.
        let room = chunks.reserve().await.ok()?;
        let (batches, chunk) = mpsc::channel(BATCHES_AHEAD);
        let after = after.clone();
        let cut: Result<Option<Row>, _> = connection.exec_first(self.reading.walker.cut(after.as_ref(), self.reading.chunk_rows), ()).await;
        let upto = match cut.map(|row| row.map(|row| Walker::cut_place(&row).ok_or_else(no_place)).transpose()) {
            Ok(Ok(upto)) => upto,
            Ok(Err(error)) => return Some(Err(report(room, error, chunk, batches))),
            Err(error) => return Some(Err(report(room, error.into(), chunk, batches))),
        };
        room.send(chunk);
        match (&upto, cutter.as_mut()) {
            (Some(upto), Some(cutter)) => cutter.after = Some(upto.clone()),
            _ => *cutter = None,
        }
        Some(Ok(Job { after, upto, batches }))
    }

    async fn read(&mut self, connection: &mut Conn, job: &Job<M::Made>) -> Result<(), Ended> {
        let reading = Arc::clone(&self.reading);
        let statement = connection.prep(reading.walker.rows(job.after.as_ref(), job.upto.as_ref())).await?;
        let mut found = connection.exec_iter(&statement, ()).await?;
        let (mut rows, mut bytes, mut count) = (Vec::new(), 0, 0);
        loop {
            let row = found.next().await?;
            let done = row.is_none();
            if let Some(row) = row {
                bytes += bytes_of(&row);
                rows.push(row);
            }
            if rows.len() == BATCH_ROWS || bytes >= BATCH_BYTES || done && !rows.is_empty() {
                count += rows.len();
                let batch = self.batch(std::mem::take(&mut rows))?;
                bytes = 0;
                job.batches.send(Ok(batch)).await.map_err(|_| Ended::Unwanted)?;
            }
            if done {
                break;
            }
        }
        drop(found);
        connection.close(statement).await?;
        let chunk_rows = reading.chunk_rows;
        if job.upto.is_some() && count != chunk_rows || job.upto.is_none() && count >= chunk_rows {
            let text = format!("a chunk cut for {chunk_rows} rows had {count}: the server does not give all rows of a query");
            return Err(Error::Lost(text).into());
        }
        Ok(())
    }

    fn batch(&mut self, rows: Vec<Row>) -> Result<Batch<M::Made>, Failed> {
        let place = rows.last().and_then(|row| self.reading.walker.place(row)).ok_or_else(no_place)?;
        let count = rows.len();
        let rows = Rows::new(rows, Arc::clone(&self.reading.columns), self.reading.invalid);
        Ok(Batch { made: self.make.make(rows)?, rows: count, place })
    }
}

/// Puts a failure where the chunk would have been.
fn report<T>(room: mpsc::Permit<'_, Chunk<T>>, error: Error, chunk: Chunk<T>, batches: mpsc::Sender<Result<Batch<T>, Failed>>) -> Failed {
    let text = error.to_string();
    // The channel is new, there is room for one.
    let _ = batches.try_send(Err(error.into()));
    room.send(chunk);
    Failed::Connection(Error::Lost(text))
}

fn no_place() -> Error {
    Error::Lost("the server sent a row without a key".into())
}

fn bytes_of(row: &Row) -> usize {
    (0..row.len()).map(|index| if let Some(Sent::Bytes(bytes)) = row.as_ref(index) { bytes.len() + 24 } else { 24 }).sum()
}
