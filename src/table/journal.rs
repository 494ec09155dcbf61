//! What changed in the tables since the [store](super::store) asked last: keys, never rows.
//!
//! Noting a change costs the capture a copy of its key; the rows are fetched when they are written, a few hundred under one
//! read lock, so that neither joins nor the capture wait for the disk. What always holds: whatever is not noted is in the store as it
//! is in the table; a journal that grows beyond its bound forgets its keys and asks for the whole table instead.

use std::sync::Arc;

use super::{State, Tables};
use crate::model::{Key, Position, Row, Schema, TableId};

/// Bytes of keys noted for one table.
const JOURNAL_BYTES: usize = 64 << 20;

/// The journal of one table; lies beside its rows, under the same lock.
#[derive(Default)]
pub(super) struct Journal {
    /// Nobody reads the journal of a process without a store.
    pub(super) is_kept: bool,
    /// Rows of another generation have nothing to do with those of this one.
    generation: u64,
    /// The rows are those of a moment and all changes since; not while they are being read or after a stop.
    whole: bool,
    cleared: bool,
    all: bool,
    keys: Keys,
    /// Columns of the table in MySQL, of which the rows may be a projection.
    source: Option<Arc<Schema>>,
}

impl Journal {
    /// The rows were dropped, and what comes now is another table's.
    pub(super) fn begin(&mut self) {
        self.generation += 1;
        self.whole = false;
        self.clear();
    }

    /// Every row is gone, by TRUNCATE.
    pub(super) fn clear(&mut self) {
        self.cleared = true;
        self.all = false;
        self.keys = Keys::default();
    }

    pub(super) fn set_whole(&mut self) {
        self.whole = true;
    }

    /// The row of a key changed, came or went.
    pub(super) fn touch(&mut self, key: &Key) {
        if !self.is_kept || self.all {
            return;
        }
        self.keys.push(key.as_bytes());
        if self.keys.bytes() > JOURNAL_BYTES {
            self.all = true;
            self.keys = Keys::default();
        }
    }
}

/// Keys one after the other: `u32 length │ bytes`. One allocation, however many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

const LENGTH: usize = 4;

impl Keys {
    pub fn push(&mut self, key: &[u8]) {
        let length = u32::try_from(key.len()).expect("a key is shorter than a row, which is limited to 4 GiB");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(key);
    }

    pub fn append(&mut self, other: &Keys) {
        self.0.extend_from_slice(&other.0);
    }

    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<LENGTH>()?;
            let (key, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            rest = after;
            Some(key)
        })
    }

    /// Each key once, in order.
    pub fn sorted(&self) -> Vec<&[u8]> {
        let mut keys: Vec<&[u8]> = self.iter().collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// What the journals of all tables hold, at one moment between two transactions.
#[derive(Debug)]
pub struct Taken {
    /// Everything up to here is in the rows that are whole.
    pub position: Position,
    /// Identity of the last transaction (contract E5).
    pub at: Arc<str>,
    /// Indexed by [`TableId`].
    pub tables: Vec<TakenTable>,
}

#[derive(Debug)]
pub struct TakenTable {
    pub mark: Mark,
    /// All rows known before are gone.
    pub cleared: bool,
    /// Every row may have changed; `keys` is empty.
    pub all: bool,
    pub keys: Keys,
    pub source: Option<Arc<Schema>>,
}

/// Which rows a table has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    pub generation: u64,
    pub whole: bool,
}

/// For the [store](super::store).
impl Tables {
    /// From now on changes are noted.
    pub fn keep_journal(&self) {
        self.inner.write().tables.iter_mut().for_each(|table| table.journal.is_kept = true);
    }

    /// The columns that a table read from MySQL or from the store has there.
    pub fn set_source(&self, table: TableId, source: Arc<Schema>) {
        self.inner.write().tables[table.index()].journal.source = Some(source);
    }

    /// Adds rows that came from the store, so that nothing is noted; after [`Tables::begin_snapshot`].
    pub fn restore(&self, table: TableId, rows: Vec<(Key, Row)>, percent: u8) {
        let mut inner = self.inner.write();
        let table = &mut inner.tables[table.index()];
        table.rows.reserve(rows.len());
        for (key, row) in rows {
            table.put(key, row);
        }
        table.state = State::Snapshot { percent };
    }

    /// All rows of the store are in the table. It is ready when [`Tables::set_ready`] says so.
    pub fn restored(&self, table: TableId) {
        let journal = &mut self.inner.write().tables[table.index()].journal;
        journal.cleared = false;
        journal.whole = true;
    }

    /// Everything noted so far; the journals are empty after it.
    pub fn take_journals(&self) -> Taken {
        let mut inner = self.inner.write();
        let (position, at) = (inner.position.clone(), Arc::clone(&inner.at));
        let take = |journal: &mut Journal| TakenTable {
            mark: Mark { generation: journal.generation, whole: journal.whole },
            cleared: std::mem::take(&mut journal.cleared),
            all: std::mem::take(&mut journal.all),
            keys: std::mem::take(&mut journal.keys),
            source: journal.source.clone(),
        };
        Taken { position, at, tables: inner.tables.iter_mut().map(|table| take(&mut table.journal)).collect() }
    }

    /// Bytes of keys noted so far.
    pub fn journal_bytes(&self) -> usize {
        self.inner.read().tables.iter().map(|table| table.journal.keys.bytes()).sum()
    }

    /// Where the tables stand, and which rows each has.
    pub fn marks(&self) -> (Position, Vec<Mark>) {
        let inner = self.inner.read();
        let mark = |journal: &Journal| Mark { generation: journal.generation, whole: journal.whole };
        (inner.position.clone(), inner.tables.iter().map(|table| mark(&table.journal)).collect())
    }

    /// Hands the present rows of some keys to `each`, under one lock. False when the table has other rows by now.
    pub fn rows_of<'k>(&self, table: TableId, generation: u64, keys: &[&'k [u8]], mut each: impl FnMut(&'k [u8], Option<&Row>)) -> bool {
        let inner = self.inner.read();
        let table = &inner.tables[table.index()];
        if table.journal.generation != generation {
            return false;
        }
        keys.iter().for_each(|&key| each(key, table.rows.get(key)));
        true
    }

    /// The keys of all rows, copied under one lock: some 50 ms for a million rows, so only where nothing smaller will do. `None` when
    /// the table has other rows by now.
    pub fn all_keys(&self, table: TableId, generation: u64) -> Option<Keys> {
        let inner = self.inner.read();
        let table = &inner.tables[table.index()];
        let mut keys = Keys::default();
        (table.journal.generation == generation).then(|| {
            table.rows.keys().for_each(|key| keys.push(key.as_bytes()));
            keys
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_out_sorted_and_once() {
        let mut keys = Keys::default();
        [&b"b"[..], b"", b"abc", b"b"].into_iter().for_each(|key| keys.push(key));
        assert_eq!(keys.iter().collect::<Vec<_>>(), [&b"b"[..], b"", b"abc", b"b"]);
        let mut more = Keys::default();
        more.push(b"a");
        keys.append(&more);
        assert_eq!(keys.sorted(), [&b""[..], b"a", b"abc", b"b"]);
    }

    #[test]
    fn a_journal_beyond_its_bound_asks_for_the_whole_table() {
        let mut journal = Journal { is_kept: true, ..Journal::default() };
        let key = Key::new(vec![b'k'; 1 << 20]);
        for _ in 0..JOURNAL_BYTES >> 20 {
            journal.touch(&key);
        }
        assert!(journal.all && journal.keys.is_empty());
        journal.touch(&key);
        assert!(journal.keys.is_empty());
        journal.clear();
        assert!(!journal.all);
    }
}
