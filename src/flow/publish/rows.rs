//! The rows of a snapshot on their way out.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::maker::Published;
use crate::config::plan::TablePlan;
use crate::debezium::Snapshot;
use crate::model::Position;

/// The rows of a snapshot on their way out: their numbers, and Debezium's words for their places, for which the last row of each table
/// is held back until it is known to be the last one.
pub struct Rows {
    /// The first snapshot of all, which has those words; in a later one every row is `incremental`.
    words: bool,
    pub until: Position,
    pub read_us: u64,
    /// `snapshot/<server uuid>/<position>/<table>`
    pub origin: Arc<str>,
    number: u64,
    begun: bool,
    begun_table: bool,
    pub held: Option<Free>,
    /// The row held back ends its table.
    ends_table: bool,
}

/// A row that may go.
pub struct Free {
    pub row: Published,
    pub place: Snapshot,
    pub origin: Arc<str>,
}

impl Rows {
    pub fn new(words: bool, begun: bool, until: &Position) -> Self {
        Self {
            words,
            until: until.clone(),
            read_us: now_us(),
            origin: Arc::from(""),
            number: 0,
            begun,
            begun_table: false,
            held: None,
            ends_table: false,
        }
    }

    /// `resumed`: rows of the table are out already.
    pub fn begin(&mut self, plan: &TablePlan, resumed: bool) {
        let Position { server_uuid, file, offset, .. } = &self.until;
        self.origin = format!("snapshot/{server_uuid}/{file}:{offset}/{}.{}", plan.database, plan.table).into();
        self.number = 0;
        self.begun_table = resumed;
    }

    pub fn number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    /// Takes a row; gives one that may go.
    pub fn next(&mut self, row: Published) -> Option<Free> {
        let place = match (self.words, self.begun, self.begun_table) {
            (false, ..) => Snapshot::Incremental,
            (true, false, _) => Snapshot::First,
            (true, true, false) => Snapshot::FirstInTable,
            (true, true, true) => Snapshot::True,
        };
        (self.begun, self.begun_table) = (true, true);
        let free = Free { row: row.numbered(self.number()), place, origin: Arc::clone(&self.origin) };
        if !self.words {
            return Some(free);
        }
        let before = self.inside();
        self.held = Some(free);
        before
    }

    /// The row held back, as more rows follow it.
    pub fn inside(&mut self) -> Option<Free> {
        let ends_table = std::mem::take(&mut self.ends_table);
        self.held.take().map(|free| if ends_table { Free { place: Snapshot::LastInTable, ..free } } else { free })
    }

    pub fn end_table(&mut self) {
        self.ends_table = self.held.is_some();
    }

    /// The row held back, which is the last one of all.
    pub fn end(&mut self) -> Option<Free> {
        self.held.take().map(|free| Free { place: Snapshot::Last, ..free })
    }
}

/// Microseconds since the epoch.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}
