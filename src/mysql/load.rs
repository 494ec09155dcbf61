//! The rows of a view into [`Tables`]: rendered on the threads that read them.

use std::sync::Arc;
use std::time::Instant;

use super::catalogue::TableInfo;
use super::chunks::{Failed, Make, Rows};
use super::connect::Error;
use super::decode::DecodeError;
use super::render::Shape;
use super::snapshot::Views;
use crate::config::plan::TablePlan;
use crate::model::Substitutions;
use crate::model::{Key, Reason, Row, Schema, TableId};
use crate::table::{Progress, Tables};

/// What became of a table's rows.
pub enum Loaded {
    Whole {
        rows: u64,
        counts: Substitutions,
    },
    /// A value cannot be read: the table alone stops.
    Unreadable {
        reason: Reason,
        message: String,
    },
}

/// Makes rows of the tables' form (contract C).
pub struct Renderer(Shape);

impl Renderer {
    pub fn new(info: &TableInfo, plan: &TablePlan) -> Result<Self, DecodeError> {
        Shape::new(&info.schema, plan).map(Self)
    }

    /// The schema of the rows made.
    pub fn row_schema(&self) -> &Arc<Schema> {
        self.0.row_schema()
    }
}

impl Make for Renderer {
    type Made = (Vec<(Key, Row)>, Substitutions);

    fn make(&mut self, rows: Rows) -> Result<Self::Made, DecodeError> {
        let mut made = Vec::with_capacity(rows.len());
        for row in 0..rows.len() {
            self.0.begin();
            for column in 0..rows.columns().len() {
                self.0.push(column, &rows.value(row, column)?)?;
            }
            made.push(self.0.finish());
        }
        Ok((made, self.0.take_counts()))
    }
}

/// Reads a table's rows of these views into `tables`, which has begun its snapshot.
pub async fn load(views: &mut Views, table: TableId, plan: &TablePlan, info: &TableInfo, tables: &Tables) -> Result<Loaded, Error> {
    let began = Instant::now();
    let unreadable = |error: &DecodeError| Loaded::Unreadable { reason: error.reason(), message: error.to_string() };
    let mut chunks = match views.chunks(plan, info, None, || Renderer::new(info, plan)).await {
        Ok(chunks) => chunks,
        Err(Failed::Value(error)) => return Ok(unreadable(&error)),
        Err(Failed::Connection(error)) => return Err(error),
    };
    // Growing by and by would lock the tables for a moment each time.
    tables.reserve(table, usize::try_from(info.row_estimate).unwrap_or(0));
    let (mut rows, mut counts) = (0, Substitutions::default());
    loop {
        match chunks.next().await {
            Ok(Some(batch)) => {
                rows += batch.rows as u64;
                counts.add(batch.made.1);
                let progress = Progress::estimated(rows, info.row_estimate, began.elapsed());
                tables.load(table, batch.made.0, progress.percent);
                tables.set_remaining(table, progress.remaining);
            }
            Ok(None) => return Ok(Loaded::Whole { rows, counts }),
            Err(Failed::Value(error)) => return Ok(unreadable(&error)),
            Err(Failed::Connection(error)) => return Err(error),
        }
    }
}
