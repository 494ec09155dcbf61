//! What the outside asks of the capture while it runs: to read a table again. Asked over HTTP, carried out by whoever follows the binlog.
//!
//! ```text
//! ── ask ──► Asked ── take ──► UnderWay ── done ──► (gone)
//!              ▲                  │
//!              └──── put_back ────┘   the connection was lost: it is still to be done
//! ```
//!
//! What always holds: a table is asked for once at a time; what was asked is done, also when MySQL is away meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::TableId;

#[derive(Debug, Default)]
pub struct Resnapshots {
    tables: Mutex<BTreeMap<TableId, Phase>>,
    /// Some table is [`Phase::Asked`].
    waiting: AtomicBool,
    arrived: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asked,
    UnderWay,
}

impl Resnapshots {
    /// Asks for a table to be read again; false where that is asked for or under way already.
    pub fn ask(&self, table: TableId) -> bool {
        let mut tables = self.tables.lock();
        if tables.contains_key(&table) {
            return false;
        }
        tables.insert(table, Phase::Asked);
        self.waiting.store(true, Ordering::Release);
        self.arrived.notify_one();
        true
    }

    /// Whether there is something to [`Resnapshots::take`].
    pub fn are_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Returns when there is something to take. Cancel safe; for one listener.
    pub async fn arrived(&self) {
        while !self.are_waiting() {
            self.arrived.notified().await;
        }
    }

    /// The tables asked for, in order; now under way.
    pub fn take(&self) -> Vec<TableId> {
        let mut tables = self.tables.lock();
        self.waiting.store(false, Ordering::Release);
        let asked = tables.iter_mut().filter(|(_, phase)| **phase == Phase::Asked);
        asked
            .map(|(table, phase)| {
                *phase = Phase::UnderWay;
                *table
            })
            .collect()
    }

    /// They were read, or nobody can.
    pub fn done(&self, which: &[TableId]) {
        self.tables.lock().retain(|table, _| !which.contains(table));
    }

    /// They were not read: they are to be taken again.
    pub fn put_back(&self, which: &[TableId]) {
        let mut tables = self.tables.lock();
        which.iter().for_each(|&table| _ = tables.insert(table, Phase::Asked));
        self.waiting.store(!which.is_empty() || self.are_waiting(), Ordering::Release);
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_asked_for_once_at_a_time() {
        let (asked, table, other) = (Resnapshots::default(), TableId(1), TableId(2));
        assert!(!asked.are_waiting());
        assert!(asked.ask(table));
        assert!(!asked.ask(table));
        assert!(asked.ask(other));
        assert!(asked.are_waiting());
        assert_eq!(asked.take(), [table, other]);
        assert!(!asked.are_waiting());
        assert!(!asked.ask(table), "it is under way");
        asked.put_back(&[other]);
        asked.done(&[table]);
        assert!(asked.ask(table));
        assert_eq!(asked.take(), [table, other]);
    }
}
