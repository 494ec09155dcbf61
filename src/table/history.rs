//! What rows were: versions of the past, for joins as of a time.
//!
//! What always holds: versions are in commit order, whatever their times say (case B43); the row as of a time is the last in
//! commit order whose transaction was committed at or before it; what is no longer known is said to be too old, never guessed; no more
//! than a bound of bytes is held, and the oldest versions go first.
//!
//! Rows that came from a snapshot count from the beginning. A table that is read again has no past: what its rows were before is
//! unknown.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::{State, Tables, View};
use crate::model::{Key, Row, TableId};

/// The row of a key as of a time.
#[derive(Debug, PartialEq, Eq)]
pub enum AsOf<'a> {
    Row {
        row: &'a Row,
        /// Identity of the transaction that made it (contract E5); `None`: older than what was followed.
        at: Option<&'a Arc<str>>,
    },
    /// Known to have been absent.
    Absent,
    /// Older than what is still known.
    TooOld,
    /// Transactions up to that time may still come; known is everything up to this one, in microseconds since the epoch.
    NotYet(u64),
    /// The table is not ready, the join must hold.
    NotReady,
}

/// What is held of the past of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryCounts {
    pub versions: usize,
    pub bytes: usize,
    /// Versions that went before their time because of the bound.
    pub dropped: u64,
}

/// The past of one table. Times are microseconds since the epoch, by the clock of the server.
pub(super) struct History {
    keep_us: u64,
    max_bytes: usize,
    keys: HashMap<Key, Past>,
    /// A key for each version in `keys`, in the order in which they ceased to be current.
    order: VecDeque<Key>,
    counts: HistoryCounts,
    /// Of a key without a past the present row is known to have been current since then.
    since_us: u64,
    /// Rows have been ready before: what a further snapshot shows is known from then on only.
    was_ready: bool,
}

/// What a key had before its present row, oldest first, and since when it has that.
struct Past {
    versions: VecDeque<Version>,
    since_us: u64,
    at: Option<Arc<str>>,
}

struct Version {
    /// Current from then until the next one.
    since_us: u64,
    at: Option<Arc<str>>,
    /// `None`: there was no row.
    row: Option<Row>,
}

/// The transaction that is being applied.
#[derive(Clone)]
pub(super) struct Commit {
    pub time_us: u64,
    pub at: Arc<str>,
}

/// Held for a version beside key and row: its places in map and queue.
const VERSION_BYTES: usize = 96;

impl History {
    pub(super) fn new(keep_us: u64, max_bytes: usize) -> Self {
        Self {
            keep_us,
            max_bytes,
            keys: HashMap::new(),
            order: VecDeque::new(),
            counts: HistoryCounts::default(),
            since_us: 0,
            was_ready: false,
        }
    }

    pub(super) fn counts(&self) -> HistoryCounts {
        self.counts
    }

    /// The rows were dropped: nothing is known of what was.
    pub(super) fn forget(&mut self) {
        self.keys = HashMap::new();
        self.order = VecDeque::new();
        self.counts = HistoryCounts { dropped: self.counts.dropped, ..HistoryCounts::default() };
    }

    /// The rows are those of a snapshot, and everything up to `now_us` is applied.
    pub(super) fn begin(&mut self, now_us: u64) {
        self.forget();
        self.since_us = if self.was_ready { self.since_us.max(now_us) } else { 0 };
        self.was_ready = true;
    }

    /// The row of a key was `old` until this commit.
    pub(super) fn replaced(&mut self, key: Key, old: Option<Row>, commit: &Commit) {
        let since_us = self.since_us;
        let past = self.keys.entry(key.clone()).or_insert_with(|| Past { versions: VecDeque::new(), since_us, at: None });
        self.counts.versions += 1;
        self.counts.bytes += bytes(&key, old.as_ref());
        past.versions.push_back(Version { since_us: past.since_us, at: past.at.take(), row: old });
        past.since_us = commit.time_us;
        past.at = Some(Arc::clone(&commit.at));
        self.order.push_back(key);
        while self.counts.bytes > self.max_bytes {
            self.counts.dropped += 1;
            self.drop_oldest(commit.time_us);
        }
    }

    /// Every row is gone by this commit. More rows than the bound has room for leave no past.
    pub(super) fn truncated(&mut self, rows: HashMap<Key, Row>, held_bytes: usize, commit: &Commit) {
        if held_bytes.saturating_add(rows.len().saturating_mul(VERSION_BYTES)) <= self.max_bytes {
            rows.into_iter().for_each(|(key, row)| self.replaced(key, Some(row), commit));
            return;
        }
        self.counts.dropped += (self.counts.versions + rows.len()) as u64;
        self.forget();
        self.since_us = self.since_us.max(commit.time_us);
    }

    /// Drops what ceased to be current more than `keep` before `now_us`, the commit time of the last transaction.
    pub(super) fn prune(&mut self, now_us: u64) {
        let limit_us = now_us.saturating_sub(self.keep_us);
        while let Some(key) = self.order.front() {
            let past = self.keys.get(key).expect("each place in the order has its version");
            let until_us = past.versions.get(1).map_or(past.since_us, |next| next.since_us);
            // A time far in the future is an error of a clock, and must not keep what comes after it.
            if (limit_us..=now_us.saturating_add(self.keep_us)).contains(&until_us) {
                return;
            }
            self.drop_oldest(now_us);
        }
    }

    fn drop_oldest(&mut self, now_us: u64) {
        let key = self.order.pop_front().expect("what has bytes has versions");
        let past = self.keys.get_mut(&key).expect("each place in the order has its version");
        let version = past.versions.pop_front().expect("each place in the order has its version");
        self.counts.versions -= 1;
        self.counts.bytes -= bytes(&key, version.row.as_ref());
        if past.versions.is_empty() {
            // Where a clock went back, what goes before its time counts as from that clock's present: else one wrong time in the
            // future would make everything too old until then.
            self.since_us = self.since_us.max(past.since_us.min(now_us));
            self.keys.remove(&key);
        }
    }

    /// What a key had at a time, given what it has now.
    fn as_of<'a>(&'a self, key: &[u8], now: Option<&'a Row>, time_us: u64) -> AsOf<'a> {
        let said = |row: Option<&'a Row>, at: Option<&'a Arc<str>>| row.map_or(AsOf::Absent, |row| AsOf::Row { row, at });
        match self.keys.get(key) {
            None if self.since_us <= time_us => said(now, None),
            None => AsOf::TooOld,
            Some(past) if past.since_us <= time_us => said(now, past.at.as_ref()),
            Some(past) => {
                let version = past.versions.iter().rev().find(|version| version.since_us <= time_us);
                version.map_or(AsOf::TooOld, |version| said(version.row.as_ref(), version.at.as_ref()))
            }
        }
    }
}

fn bytes(key: &Key, row: Option<&Row>) -> usize {
    VERSION_BYTES + 2 * key.as_bytes().len() + row.map_or(0, Row::size)
}

impl Tables {
    /// From now on versions of a table's rows are kept: those of the last `keep_us` microseconds, in at most `max_bytes`.
    pub fn keep_history(&self, table: TableId, keep_us: u64, max_bytes: usize) {
        self.inner.write().tables[table.index()].history = Some(Box::new(History::new(keep_us, max_bytes)));
    }
}

impl View<'_> {
    /// The row a key had at a time, in microseconds since the epoch by the server's clock. A table without history has no past.
    pub fn row_as_of(&self, table: TableId, key: &[u8], time_us: u64) -> AsOf<'_> {
        let table = &self.inner.tables[table.index()];
        match &table.history {
            _ if *table.shown() != State::Ready => AsOf::NotReady,
            _ if time_us > self.inner.known_us => AsOf::NotYet(self.inner.known_us),
            Some(history) => history.as_of(key, table.rows.get(key), time_us),
            None => AsOf::TooOld,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Change, Position, Reason, RowBuilder, Schema, Transaction};

    const TABLE: TableId = TableId(0);
    const FOREVER: u64 = u64::MAX;

    fn key(key: u8) -> Key {
        Key::new(vec![b'a' + key])
    }

    fn row(value: u32) -> Row {
        let mut builder = RowBuilder::default();
        builder.value("value").extend_from_slice(value.to_string().as_bytes());
        builder.finish()
    }

    fn put(to: u8, value: u32) -> Change {
        Change::Upsert { table: TABLE, old_key: None, key: key(to), row: row(value) }
    }

    fn tables(keep_us: u64, max_bytes: usize) -> Tables {
        let tables = Tables::new([("t".to_owned(), "shop.t".to_owned())]);
        tables.keep_history(TABLE, keep_us, max_bytes);
        read(&tables, &[(0, 1)]);
        tables
    }

    fn read(tables: &Tables, rows: &[(u8, u32)]) {
        tables.begin_snapshot(TABLE, Arc::new(Schema { columns: Vec::new(), key: Vec::new() }));
        tables.load(TABLE, rows.iter().map(|(to, value)| (key(*to), row(*value))).collect(), 99);
        tables.set_ready(TABLE);
    }

    fn commit(tables: &Tables, committed_us: u64, changes: Vec<Change>) {
        tables.apply(Transaction { changes, position: Position::default(), id: format!("gtid:{committed_us}"), committed_us });
    }

    /// The value of a row, or what is said instead.
    fn as_of(tables: &Tables, of: u8, time_us: u64) -> String {
        match tables.view().row_as_of(TABLE, key(of).as_bytes(), time_us) {
            AsOf::Row { row, .. } => String::from_utf8_lossy(row.column(0).expect("a column")).into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn rows_are_what_they_were() {
        let tables = tables(FOREVER, 1 << 20);
        commit(&tables, 100, vec![put(0, 2), put(1, 7)]);
        commit(&tables, 200, vec![Change::Delete { table: TABLE, key: key(0) }]);
        commit(&tables, 300, vec![Change::Upsert { table: TABLE, old_key: Some(key(1)), key: key(2), row: row(8) }]);
        for (time_us, expected) in [
            (0, ["1", "Absent", "Absent"]),
            (99, ["1", "Absent", "Absent"]),
            (100, ["2", "7", "Absent"]),
            (199, ["2", "7", "Absent"]),
            (200, ["Absent", "7", "Absent"]),
            (300, ["Absent", "Absent", "8"]),
            (301, ["NotYet(300)", "NotYet(300)", "NotYet(300)"]),
        ] {
            assert_eq!([0, 1, 2].map(|of| as_of(&tables, of, time_us)), expected, "as of {time_us}");
        }
        let view = tables.view();
        let AsOf::Row { at: Some(at), .. } = view.row_as_of(TABLE, b"b", 250) else { panic!("a row with its transaction") };
        assert_eq!(**at, *"gtid:100");
        assert!(matches!(view.row_as_of(TABLE, b"a", 50), AsOf::Row { at: None, .. }));
    }

    #[test]
    fn an_idle_source_is_known_until_now() {
        let tables = tables(FOREVER, 1 << 20);
        commit(&tables, 100, vec![put(0, 2)]);
        assert_eq!(as_of(&tables, 0, 150), "NotYet(100)");
        tables.advance(&Position::default(), 200);
        assert_eq!(as_of(&tables, 0, 150), "2");
        tables.advance(&Position::default(), 0);
        assert_eq!(as_of(&tables, 0, 201), "NotYet(200)");
    }

    #[test]
    fn b43_versions_are_in_commit_order_whatever_their_times_say() {
        let tables = tables(FOREVER, 1 << 20);
        commit(&tables, 100, vec![put(0, 2)]);
        commit(&tables, 100, vec![put(0, 3)]);
        commit(&tables, 90, vec![put(0, 4)]);
        // The server does not say: as the one before.
        commit(&tables, 0, vec![put(0, 5)]);
        commit(&tables, 120, vec![put(0, 6)]);
        assert_eq!([89, 90, 95, 100, 119, 120].map(|time_us| as_of(&tables, 0, time_us)), ["1", "5", "5", "5", "5", "6"]);
    }

    #[test]
    fn a_clock_that_was_wrong_once_does_no_lasting_harm() {
        let tables = tables(50, 1 << 20);
        commit(&tables, 100, vec![put(0, 2)]);
        commit(&tables, 1_000_000, vec![put(0, 3)]);
        commit(&tables, 110, vec![put(0, 4)]);
        (0..20).for_each(|step| commit(&tables, 120 + step * 10, vec![put(1, step as u32)]));
        assert_eq!((as_of(&tables, 0, 310).as_str(), as_of(&tables, 1, 300).as_str()), ("4", "18"));
    }

    #[test]
    fn what_is_older_than_the_span_is_too_old() {
        let tables = tables(100, 1 << 20);
        commit(&tables, 1000, vec![put(0, 2)]);
        commit(&tables, 1050, vec![put(0, 3)]);
        commit(&tables, 1149, vec![put(1, 0)]);
        assert_eq!([999, 1000, 1049, 1050].map(|time_us| as_of(&tables, 0, time_us)), ["TooOld", "2", "2", "3"]);
        commit(&tables, 1300, vec![put(1, 1)]);
        assert_eq!([1049, 1050].map(|time_us| as_of(&tables, 0, time_us)), ["TooOld", "3"]);
        // A key nobody touched is as unknown as one that lost its versions.
        assert_eq!(as_of(&tables, 9, 1000), "TooOld");
    }

    #[test]
    fn the_oldest_go_first_when_there_are_too_many() {
        let tables = tables(FOREVER, 10 * (VERSION_BYTES + 40));
        (1..=100).for_each(|step| commit(&tables, step * 10, vec![put(0, step as u32)]));
        let counts = tables.summaries()[0].history.expect("it has a history");
        assert!(counts.versions >= 8 && counts.bytes <= 10 * (VERSION_BYTES + 40), "{counts:?}");
        assert_eq!(counts.dropped + counts.versions as u64, 100);
        assert_eq!((as_of(&tables, 0, 950), as_of(&tables, 0, 5)), ("95".into(), "TooOld".into()));
    }

    #[test]
    fn a_table_read_again_has_no_past() {
        let tables = tables(FOREVER, 1 << 20);
        commit(&tables, 100, vec![put(0, 2)]);
        commit(&tables, 200, vec![put(0, 3)]);
        read(&tables, &[(0, 9)]);
        assert_eq!([100, 199, 200].map(|time_us| as_of(&tables, 0, time_us)), ["TooOld", "TooOld", "9"]);
        tables.stop(TABLE, Reason::TableDropped, "gone".into());
        assert_eq!(as_of(&tables, 0, 200), "NotReady");
        assert_eq!(tables.summaries()[0].history.map(|counts| (counts.versions, counts.bytes)), Some((0, 0)));
    }

    #[test]
    fn truncated_rows_are_remembered_if_there_is_room() {
        for (max_bytes, before) in [(1 << 20, "1"), (100, "TooOld")] {
            let tables = tables(FOREVER, max_bytes);
            commit(&tables, 100, vec![Change::Truncate { table: TABLE }]);
            assert_eq!((as_of(&tables, 0, 99).as_str(), as_of(&tables, 0, 100).as_str()), (before, "Absent"));
        }
    }

    proptest! {
        /// Compared with every state there ever was: right, or too old and that for a reason.
        #[test]
        fn nothing_is_ever_guessed(
            steps in prop::collection::vec((0..6_u8, prop::option::weighted(0.8, any::<u32>()), 0..30_u64, any::<bool>()), 1..80),
            (keep_us, max_bytes, may_go_back) in prop_oneof![
                Just((FOREVER, 1 << 20, true)),
                (1..200_u64, Just(1 << 20)).prop_map(|(keep_us, max_bytes)| (keep_us, max_bytes, false)),
                (200..2000_usize).prop_map(|max_bytes| (FOREVER, max_bytes, false)),
            ],
        ) {
            let tables = tables(keep_us, max_bytes);
            let begun = std::collections::BTreeMap::from([(0_u8, 1_u32)]);
            // Commit time, the key touched, and all rows after it.
            let mut states = vec![(0, u8::MAX, begun)];
            let mut clock = 1000;
            for (of, value, passed, backwards) in steps {
                clock = if backwards && may_go_back { clock - passed / 4 } else { clock + passed };
                let mut state = states.last().expect("a state").2.clone();
                let change = match value {
                    Some(value) => {
                        state.insert(of, value);
                        put(of, value)
                    }
                    None => {
                        state.remove(&of);
                        Change::Delete { table: TABLE, key: key(of) }
                    }
                };
                commit(&tables, clock, vec![change]);
                states.push((clock, of, state));
            }
            let known = states.iter().map(|(time, ..)| *time).max().expect("a state");
            let dropped = tables.summaries()[0].history.expect("it has a history").dropped;
            for of in 0..6_u8 {
                for time_us in (900..known + 5).chain([0]) {
                    let said = as_of(&tables, of, time_us);
                    if time_us > known {
                        prop_assert_eq!(said, format!("NotYet({known})"));
                    } else if said == "TooOld" {
                        prop_assert!(dropped > 0 || time_us < clock.saturating_sub(keep_us), "as of {} of {}", time_us, clock);
                    } else {
                        // Versions of this key alone, in commit order.
                        let mut versions = states.iter().filter(|(time, touched, _)| *time <= time_us && [of, u8::MAX].contains(touched));
                        let expected = versions.next_back().and_then(|(.., rows)| rows.get(&of));
                        prop_assert_eq!(said, expected.map_or("Absent".to_owned(), u32::to_string), "key {} as of {}", of, time_us);
                    }
                }
            }
        }
    }
}
