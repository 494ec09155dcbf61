//! Change records in the form of Debezium 3's MySQL connector: key and value as Kafka Connect's JSON converter writes them, with and
//! without schemas (contract B). Pure: rows are pushed in as decoded values, records come out as bytes.
//!
//! ```text
//! values ──push──► {"id":1,"name":"a"}  ──write_value──► {"before":null,"after":{…},"source":{…},"transaction":null,"op":"c",…}
//!          (Form)        └──row_key──► {"id":1} ──write_key──► the same, in `schema` and `payload` where schemas are wanted
//! ```
//!
//! What always holds: bytes are those of Debezium 3.6.1 (`fixtures/debezium`), but for the differences listed in
//! docs/coming-from-debezium.md; nothing is allocated per field, no value tree is built; everything constant is rendered once per form.

mod column;
mod details;
mod form;
mod json;
mod number;
mod schema;

pub use details::{ColumnDefault, ColumnDetails, Details};
pub use form::Form;

/// Header of the delete that begins a change of key: the new key as bare JSON.
pub const NEW_KEY_HEADER: &str = "__debezium.newkey";
/// Header of the create that ends a change of key: the old key as bare JSON.
pub const OLD_KEY_HEADER: &str = "__debezium.oldkey";

/// What happened to a row, or with [`Op::Truncate`] to the whole table. A tombstone is no operation: it is a record without value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Read by a snapshot.
    Read,
    Create,
    Update,
    Delete,
    Truncate,
}

impl Op {
    pub fn letter(self) -> &'static str {
        match self {
            Op::Read => "r",
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Truncate => "t",
        }
    }
}

/// Where in a snapshot a record stands: `source.snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// Somewhere inside.
    True,
    /// The first row of the first table.
    First,
    FirstInTable,
    LastInTable,
    /// The last row of the last table.
    Last,
    /// A table read again while changes are followed.
    Incremental,
    /// A change from the binlog.
    False,
}

impl Snapshot {
    pub fn word(self) -> &'static str {
        match self {
            Snapshot::True => "true",
            Snapshot::First => "first",
            Snapshot::FirstInTable => "first_in_data_collection",
            Snapshot::LastInTable => "last_in_data_collection",
            Snapshot::Last => "last",
            Snapshot::Incremental => "incremental",
            Snapshot::False => "false",
        }
    }
}

/// Where a change comes from. Name, database, table and the constants of the block `source` are the form's.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Commit time, or for rows of a snapshot when they were read; microseconds since the epoch.
    pub ts_us: i64,
    pub snapshot: Snapshot,
    /// The server that executed the transaction first; 0 for rows of a snapshot.
    pub server_id: u32,
    pub gtid: Option<&'a str>,
    pub file: &'a str,
    /// Start of the rows event.
    pub pos: u64,
    /// Index of the row in its event.
    pub row: u64,
    /// Session that made the change.
    pub thread: Option<u64>,
}

/// The block `transaction`: which transaction, and the place of this change in it, counted from 1.
#[derive(Debug, Clone, Copy)]
pub struct TransactionBlock<'a> {
    /// The GTID; without one `file=…,pos=…`.
    pub id: &'a str,
    pub total_order: u64,
    /// Among the changes of the same table.
    pub data_collection_order: u64,
}

/// One change, for [`Form::write_value`]; rows as [`Form::end`] left them.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub op: Op,
    pub before: Option<&'a [u8]>,
    pub after: Option<&'a [u8]>,
    pub source: &'a Source<'a>,
    /// When the record is made; nanoseconds since the epoch.
    pub now_ns: i64,
    pub transaction: Option<&'a TransactionBlock<'a>>,
}

/// Why a table cannot be published as configured, or a row cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The table's columns and the plan do not fit together.
    #[error("{0}")]
    Table(String),
    /// The value has no form in the mode chosen.
    #[error("column {column}: {what}")]
    Value { column: String, what: &'static str },
}

#[cfg(test)]
mod tests;
