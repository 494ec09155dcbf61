//! Rows events to changes of the tables in memory: the reader of the row bytes and the printer of the rows, together. Pure.

use super::decode::{DecodeError, RowReader, RowsEvent};
use super::maker::{Maker, Place};
use super::render::Shape;
use super::table_map::TableMap;
use crate::config::plan::TablePlan;
use crate::model::Substitutions;
use crate::model::{Change, Schema, TableId};

/// Makes the changes that the tables in memory take.
pub struct JsonMaker;

/// Reads the rows of one table under one table map as [`Change`]s.
pub struct JsonRows {
    reader: RowReader,
    shape: Shape,
}

impl JsonRows {
    /// `shape` must have been made from this map's schema.
    pub fn new(map: &TableMap, shape: Shape) -> Result<Self, DecodeError> {
        let reader = RowReader::new(map, shape.source_columns(), shape.row_schema(), shape.invalid_text())?;
        Ok(Self { reader, shape })
    }

    /// Calls `each` for every row change in order. After an error the rows before it have been handed over.
    pub fn changes(&mut self, table: TableId, event: &RowsEvent<'_>, mut each: impl FnMut(Change)) -> Result<(), DecodeError> {
        let Self { reader, shape } = self;
        reader.each(event, |row| {
            each(shape.change(table, row)?);
            Ok(())
        })
    }

    /// What was left out or replaced since the last call.
    pub fn shape_mut(&mut self) -> &mut Shape {
        &mut self.shape
    }
}

// === impl JsonMaker ===

impl Maker for JsonMaker {
    type Reader = JsonRows;
    type Change = Change;

    const FOLLOWS_MAPS: bool = false;
    const NUMBERS_ROWS: bool = false;

    fn reader(&self, _: TableId, plan: &TablePlan, map: &TableMap, schema: Schema) -> Result<JsonRows, DecodeError> {
        JsonRows::new(map, Shape::new(&schema, plan)?)
    }

    fn read(
        &self,
        reader: &mut JsonRows,
        table: TableId,
        event: &RowsEvent<'_>,
        _: &Place<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<(), DecodeError> {
        reader.changes(table, event, |change| changes.push(change))
    }

    fn take_counts(&self, reader: &mut JsonRows) -> Substitutions {
        reader.shape_mut().take_counts()
    }

    fn truncate(&self, table: TableId, _: &Place<'_>) -> Option<Change> {
        Some(Change::Truncate { table })
    }

    fn bytes(&self, change: &Change) -> usize {
        match change {
            Change::Upsert { key, row, .. } => key.as_bytes().len() + row.size(),
            Change::Delete { key, .. } => key.as_bytes().len(),
            Change::Truncate { .. } => 0,
        }
    }
}
