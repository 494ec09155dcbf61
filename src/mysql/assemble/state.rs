//! What an assembler keeps while it reads: of each table, of the transaction that is open, of table maps.

use crate::config::plan::TablePlan;
use crate::model::position::Gtid;
use crate::model::{Position, Reason, Schema, TableId};
use crate::mysql::decode::RowReader;
use crate::mysql::event::Begin;

/// What is known of a table of the plan.
pub struct Tracked {
    pub plan: TablePlan,
    pub schema: Schema,
    pub phase: Phase,
    /// Rows that came from elsewhere are ready when the stream gets here.
    pub ready_at: Option<Position>,
    /// Table maps in a row that disagreed with a schema read freshly.
    pub disagreements: u8,
    /// Its number in the binlog, where the columns are known to be those of `schema`. Every change of a table's columns, logged or
    /// not, gives it another one, and so do a restart of the server and little else.
    pub number: Option<u64>,
}

/// How far a table is; drawn at the top of the assembler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Unread,
    CatchingUp {
        until: Position,
        /// Rows of the stream have been applied over the snapshot.
        applied: bool,
        /// A statement changed the table after rows of the stream had been applied: read it again.
        dirty: bool,
    },
    Following,
    Stopped(Reason),
}

/// A compressed transaction being read.
pub struct Payload {
    /// Bytes that are left.
    pub left: u64,
    /// Where the outer event begins.
    pub offset: u64,
    /// Rows seen in it.
    pub rows: u32,
}

/// An XA transaction that is neither committed nor rolled back.
pub struct Prepared<C> {
    pub changes: Vec<C>,
    /// Not in our position before the end of the transaction is known: whoever resumes there is sent it again (case B21).
    pub gtid: Option<Gtid>,
}

/// A transaction whose end has not been seen.
pub struct Open<C> {
    pub begin: Begin,
    /// BEGIN or XA START was seen, or the transaction needs none: statements do not end it.
    pub started: bool,
    /// An XA transaction, which comes out when it is committed, and whole.
    pub is_xa: bool,
    /// Where it begins.
    pub offset: u64,
    pub thread: Option<u32>,
    pub changes: Vec<C>,
    pub bytes: usize,
    /// Rows seen, of whatever table.
    pub rows: u64,
    /// Bytes of `changes`; only where transactions are split.
    pub held_bytes: usize,
    /// The identity that parts already handed out carry.
    pub parts_id: Option<String>,
    pub reload: Vec<TableId>,
    pub altered: Vec<TableId>,
    pub stops: Vec<(TableId, Reason, String)>,
}

/// A table map that rows may follow.
pub struct Mapped<R> {
    pub body: Vec<u8>,
    /// `None`: nobody captures the table.
    pub table: Option<TableId>,
    pub rows: Rows<R>,
}

/// What happens to the rows under a table map.
pub enum Rows<R> {
    Skipped,
    Counted(Box<RowReader>),
    Made(Box<R>),
}
