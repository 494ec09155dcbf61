//! What an assembler makes of rows: the edge between the binlog and those who follow it.

use std::sync::Arc;

use super::decode::{DecodeError, RowsEvent};
use super::table_map::TableMap;
use crate::config::plan::TablePlan;
use crate::model::Substitutions;
use crate::model::{Schema, TableId};

/// What is made of the rows of a stream.
pub trait Maker {
    /// Reads rows under one table map.
    type Reader;
    type Change;

    /// Whether a table map with names alone says what its rows are. Otherwise it must agree with what was [`Assembler::loaded`](super::assemble::Assembler::loaded).
    const FOLLOWS_MAPS: bool;

    /// Whether rows are numbered through a transaction ([`Place::number`]), those of tables nobody captures included.
    const NUMBERS_ROWS: bool;

    /// `schema` is in effect for the rows under `map`.
    fn reader(&self, table: TableId, plan: &TablePlan, map: &TableMap, schema: Schema) -> Result<Self::Reader, DecodeError>;

    /// Appends a change for every row of `event`, in order. What was appended before an error is taken away again.
    fn read(
        &self,
        reader: &mut Self::Reader,
        table: TableId,
        event: &RowsEvent<'_>,
        place: &Place<'_>,
        changes: &mut Vec<Self::Change>,
    ) -> Result<(), DecodeError>;

    /// What went out differently since the last call.
    fn take_counts(&self, reader: &mut Self::Reader) -> Substitutions;

    /// `TRUNCATE TABLE`: every row is gone. `None` where nothing has been made of the table.
    fn truncate(&self, table: TableId, place: &Place<'_>) -> Option<Self::Change>;

    /// Bytes a change holds.
    fn bytes(&self, change: &Self::Change) -> usize;
}

/// Where rows, or a statement, stand in the binlog.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub file: &'a Arc<str>,
    /// Where the outer event begins.
    pub offset: u64,
    /// Rows of the same compressed transaction before the event.
    pub row: u32,
    /// Number of the first row among all of the transaction, from 0; only with [`Maker::NUMBERS_ROWS`].
    pub number: u64,
    /// Seconds since the epoch at which the statement began.
    pub timestamp: u32,
    /// Number of the server the transaction was committed on first.
    pub server_id: u32,
    /// Session that made the transaction, where the binlog says.
    pub thread: Option<u32>,
}
