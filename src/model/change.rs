//! Changes of rows and the transactions that carry them.

use super::{Key, Position, Row, TableId};

/// One row of one captured table changed, ready to be applied: the row is already rendered (contract C).
#[derive(Debug, Clone)]
pub enum Change {
    /// Insert or update. `old_key` is set when an update moved the row from another key.
    Upsert {
        table: TableId,
        old_key: Option<Key>,
        key: Key,
        row: Row,
    },
    Delete {
        table: TableId,
        key: Key,
    },
    /// `TRUNCATE TABLE`: every row is gone.
    Truncate {
        table: TableId,
    },
}

/// The changes committed together in MySQL, in order, with the position after them.
#[derive(Debug, Clone)]
pub struct Transaction<C = Change> {
    pub changes: Vec<C>,
    /// Everything up to and including this transaction.
    pub position: Position,
    /// Identity of this transaction as it stands in `larder-at` (contract E5): its GTID, or `uuid:file:offset`.
    pub id: String,
    /// Commit time on the server, microseconds since the epoch; 0 where the server does not say.
    pub committed_us: u64,
}
