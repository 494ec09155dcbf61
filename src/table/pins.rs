//! The doors of [`Tables`] to its [bounded](super::bounded) tables: who needs rows pins their keys, who reads from MySQL takes the
//! keys wanted and answers, who follows the stream says how far it got.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::bounded::{Answer, Bounded, Unreadable};
use super::{Inner, State, Tables};
use crate::model::{Key, Position, Schema, TableId};

/// The keys of one SELECT, and what its answer must be like.
#[derive(Debug)]
pub struct Asked {
    pub flight: u64,
    pub keys: Vec<Key>,
    /// Of the rows to make.
    pub schema: Arc<Schema>,
    /// The view of the SELECT must contain everything up to here.
    pub position: Position,
    /// Only this server's answers have a place in the stream.
    pub server_uuid: Arc<str>,
}

/// Keys that stay in memory from when they are known until this is dropped.
pub struct Pins {
    tables: Arc<Tables>,
    keys: Vec<(TableId, Key)>,
}

/// What [`Tables`] keeps beside its lock.
#[derive(Default)]
pub(super) struct Doors {
    bounded: Vec<TableId>,
    awaits_stream: AtomicBool,
    wake: OnceLock<Box<dyn Fn(TableId) + Send + Sync>>,
}

impl Tables {
    /// Makes a table bounded: it holds rows of so many bytes.
    pub fn bound(mut self, table: TableId, max_bytes: u64) -> Self {
        self.inner.get_mut().tables[table.index()].bounded = Some(Box::new(Bounded::new(max_bytes)));
        self.doors.bounded.push(table);
        self
    }

    // --- who needs rows ---

    /// Asks for keys of bounded tables, and keeps them in memory until the pins are dropped.
    pub fn pin(self: &Arc<Self>, keys: Vec<(TableId, Key)>) -> Pins {
        let mut pins = Pins { tables: Arc::clone(self), keys: Vec::new() };
        pins.add(keys);
        pins
    }

    // --- who reads from MySQL ---

    /// Names who is called when there may be keys to take; once.
    pub fn on_wanted(&self, wake: impl Fn(TableId) + Send + Sync + 'static) {
        // A second reader has nothing to do: the first takes all keys.
        let _ = self.doors.wake.set(Box::new(wake));
    }

    /// Takes keys for one SELECT, to be followed by [`Tables::answer`] or [`Tables::give_back`].
    pub fn take_wanted(&self, table: TableId, most_keys: usize, most_bytes: usize) -> Option<Asked> {
        let mut inner = self.inner.write();
        let (position, server_uuid) = (inner.position.clone(), Arc::clone(&inner.reached.server_uuid));
        let table = &mut inner.tables[table.index()];
        if table.state != State::Ready || server_uuid.is_empty() {
            return None;
        }
        let flight = table.bounded.as_mut()?.take(most_keys, most_bytes)?;
        Some(Asked { flight: flight.number, keys: flight.keys, schema: Arc::clone(&table.schema), position, server_uuid })
    }

    /// What MySQL said. `until`: the end of its binlog, read after the SELECT.
    pub fn answer(&self, table: TableId, flight: u64, answers: Vec<(Key, Answer)>, until: Position) {
        let again = {
            let mut inner = self.inner.write();
            let Inner { tables, reached, .. } = &mut *inner;
            let Some(bounded) = &mut tables[table.index()].bounded else { return };
            bounded.offer(flight, answers, until);
            let again = bounded.settle(reached);
            if bounded.awaits_stream() {
                self.doors.awaits_stream.store(true, Ordering::Release);
            }
            again
        };
        if again {
            self.doors.wake(table);
        }
    }

    /// There was no answer: the keys are wanted again.
    pub fn give_back(&self, table: TableId, flight: u64) {
        if let Some(bounded) = &mut self.inner.write().tables[table.index()].bounded {
            bounded.give_back(flight);
        }
    }

    // --- who follows the stream ---

    /// Answers wait for [`Tables::reached`].
    pub fn awaits_stream(&self) -> bool {
        self.doors.awaits_stream.load(Ordering::Acquire)
    }

    /// Everything the stream says up to `here` is done: transactions applied, tables that a statement changed begun again. Returns
    /// the tables that must stop, because a row of theirs cannot be read.
    pub fn reached(&self, here: &Position) -> Vec<(TableId, Unreadable)> {
        let (mut wake, mut stop) = (Vec::new(), Vec::new());
        if self.doors.bounded.is_empty() {
            return stop;
        }
        {
            let mut inner = self.inner.write();
            let moved = inner.reached.server_uuid != here.server_uuid;
            inner.reached = here.clone();
            let mut awaits = false;
            for &table in &self.doors.bounded {
                let Some(bounded) = &mut inner.tables[table.index()].bounded else { continue };
                if bounded.settle(here) || moved {
                    wake.push(table);
                }
                awaits |= bounded.awaits_stream();
                stop.extend(bounded.take_unreadable().map(|unreadable| (table, unreadable)));
            }
            self.doors.awaits_stream.store(awaits, Ordering::Release);
        }
        wake.into_iter().for_each(|table| self.doors.wake(table));
        stop
    }

    /// Changes the pins of bounded tables, and wakes who reads for those among them that want something.
    fn with_bounded(&self, keys: &[(TableId, Key)], mut change: impl FnMut(&mut Bounded, &Key)) {
        let mut wake = Vec::new();
        {
            let mut inner = self.inner.write();
            for (table, key) in keys {
                let Some(bounded) = &mut inner.tables[table.index()].bounded else { continue };
                change(bounded, key);
                if bounded.has_wanted() && !wake.contains(table) {
                    wake.push(*table);
                }
            }
        }
        wake.into_iter().for_each(|table| self.doors.wake(table));
    }
}

impl Pins {
    /// Pins more keys.
    pub fn add(&mut self, keys: Vec<(TableId, Key)>) {
        self.tables.with_bounded(&keys, Bounded::pin);
        self.keys.extend(keys);
    }

    /// All of them can be looked up.
    pub fn are_known(&self) -> bool {
        self.unknown().is_none()
    }

    /// The table of a key that cannot be looked up yet.
    pub fn unknown(&self) -> Option<TableId> {
        let inner = self.tables.inner.read();
        let is_known = |table: &TableId, key| inner.tables[table.index()].bounded.as_ref().is_none_or(|bounded| bounded.is_known(key));
        self.keys.iter().find(|(table, key)| !is_known(table, key)).map(|(table, _)| *table)
    }

    /// Nothing else is waited for: they are read whatever is in memory.
    pub fn urge(&self) {
        self.tables.with_bounded(&self.keys, Bounded::urge);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if !self.keys.is_empty() {
            self.tables.with_bounded(&self.keys, Bounded::release);
        }
    }
}

impl Doors {
    pub fn wake(&self, table: TableId) {
        if let Some(wake) = self.wake.get() {
            wake(table);
        }
    }
}
