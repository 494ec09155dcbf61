//! Bounded tables against an oracle: a server, its binlog and its views as plain lists, chance from a seed, and after each step every
//! look-up compared with the whole table at the position of the stream (cases C02, C03; invariant I6).

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::model::position::GtidSet;
use crate::model::{Change, RowBuilder, Schema, TableId, Transaction};
use crate::table::{Asked, Lookup, Pins, Tables};

const WHOLE: TableId = TableId(0);
const BOUNDED: [TableId; 2] = [TableId(1), TableId(2)];
const TABLES: usize = 3;
const KEYS: usize = 12;
/// Three or four entries.
const MAX_BYTES: u64 = 1_300;

/// Versions by table and key; `None`: no such row.
type Content = [[Option<u64>; KEYS]; TABLES];

/// What stands in the binlog.
enum Logged {
    Rows(Vec<(TableId, usize, Option<u64>)>),
    /// One key takes another's row.
    Move(TableId, usize, usize),
    Truncate(TableId),
    /// A statement that changes all rows of a bounded table without saying how.
    Alter(TableId),
}

/// A mistake of whoever asks MySQL, to prove that it would be found.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// The SELECT does not wait for what the stream has brought already.
    DoesNotWait,
    /// The end of the binlog is read before the SELECT.
    ReadsEndFirst,
}

struct InFlight {
    table: TableId,
    asked: Asked,
    /// What a SELECT has shown, and the end of the binlog if that was read first.
    seen: Option<(Vec<(Key, Answer)>, usize)>,
}

struct World {
    random: StdRng,
    mistake: Mistake,
    server: u8,
    /// Content before and after each transaction of the binlog.
    history: Vec<Content>,
    log: Vec<Logged>,
    /// Of the log what a SELECT sees: a commit becomes visible after it was logged.
    visible: usize,
    /// Of the log what the stream has applied.
    applied: usize,
    /// Tables that are read again: ready when so much is applied.
    begun: Vec<(TableId, usize)>,
    flights: Vec<InFlight>,
    pins: Vec<Pins>,
    tables: Arc<Tables>,
    version: u64,
}

impl World {
    fn new(seed: u64, mistake: Mistake) -> Self {
        let mut tables = Tables::new((0..TABLES).map(|index| (format!("t{index}"), format!("d.t{index}"))));
        for table in BOUNDED {
            tables = tables.bound(table, MAX_BYTES);
        }
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            mistake,
            server: 1,
            history: vec![[[Some(1); KEYS]; TABLES]],
            log: Vec::new(),
            visible: 0,
            applied: 0,
            begun: Vec::new(),
            flights: Vec::new(),
            pins: Vec::new(),
            tables: Arc::new(tables),
            version: 1,
        };
        for table in [WHOLE].into_iter().chain(BOUNDED) {
            world.tables.begin_snapshot(table, Arc::new(Schema { columns: Vec::new(), key: Vec::new() }));
        }
        world.tables.load(WHOLE, (0..KEYS).map(|index| (key(index), row(1))).collect(), 100);
        world.tables.set_at("", world.position(0));
        [WHOLE].into_iter().chain(BOUNDED).for_each(|table| world.tables.set_ready(table));
        world.reached();
        world
    }

    /// After so many transactions.
    fn position(&self, transactions: usize) -> Position {
        let gtids = match transactions {
            0 => GtidSet::default(),
            last => format!("07070707-0707-0707-0707-070707070707:1-{last}").parse().expect("a GTID set"),
        };
        Position {
            server_uuid: self.server.to_string().into(),
            file: "binlog.000001".into(),
            offset: transactions as u64,
            gtids: Some(Arc::new(gtids)),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..20 => self.commit(),
            20..35 => self.visible = (self.visible + 1).min(self.log.len()),
            35..55 => self.apply(),
            55..62 => self.reached(),
            62..72 => self.pin(),
            72..80 => {
                if !self.pins.is_empty() {
                    let index = self.random.random_range(0..self.pins.len());
                    drop(self.pins.swap_remove(index));
                }
            }
            80..87 => self.take(),
            87..93 => self.select(),
            93..98 => self.answer(),
            98 => {
                // Evictions, which are the cache's own affair, are due.
                self.tables.summaries();
            }
            _ => {
                if self.chance(20) {
                    self.server += 1;
                    self.reached();
                }
            }
        }
    }

    fn commit(&mut self) {
        let mut content = *self.history.last().expect("the first content");
        let any_table = |random: &mut StdRng| TableId(random.random_range(0..TABLES as u16));
        let kind = self.random.random_range(0..30);
        let logged = match kind {
            0 => {
                let table = any_table(&mut self.random);
                content[table.index()] = [None; KEYS];
                Logged::Truncate(table)
            }
            1 => {
                let table = BOUNDED[self.random.random_range(0..BOUNDED.len())];
                content[table.index()].iter_mut().flatten().for_each(|version| *version += 1_000_000);
                Logged::Alter(table)
            }
            2..5 => {
                let table = any_table(&mut self.random);
                let (from, to) = (self.random.random_range(0..KEYS), self.random.random_range(0..KEYS));
                if content[table.index()][from].is_none() || from == to {
                    return;
                }
                content[table.index()][to] = content[table.index()][from].take();
                Logged::Move(table, from, to)
            }
            _ => {
                self.version += 1;
                let mut rows = Vec::new();
                for _ in 0..self.random.random_range(1..5) {
                    let (table, key) = (any_table(&mut self.random), self.random.random_range(0..KEYS));
                    let version = (!self.chance(25)).then_some(self.version);
                    content[table.index()][key] = version;
                    rows.push((table, key, version));
                }
                Logged::Rows(rows)
            }
        };
        self.log.push(logged);
        self.history.push(content);
    }

    /// The stream takes the next transaction.
    fn apply(&mut self) {
        let Some(logged) = self.log.get(self.applied) else { return };
        let before = &self.history[self.applied];
        let changes = match logged {
            Logged::Rows(rows) => rows
                .iter()
                .map(|&(table, index, version)| match version {
                    Some(version) => Change::Upsert { table, old_key: None, key: key(index), row: row(version) },
                    None => Change::Delete { table, key: key(index) },
                })
                .collect(),
            &Logged::Move(table, from, to) => {
                let version = before[table.index()][from].expect("a row that moves");
                vec![Change::Upsert { table, old_key: Some(key(from)), key: key(to), row: row(version) }]
            }
            &Logged::Truncate(table) => vec![Change::Truncate { table }],
            Logged::Alter(_) => Vec::new(),
        };
        let altered = if let &Logged::Alter(table) = logged { Some(table) } else { None };
        self.applied += 1;
        if let Some(table) = altered {
            self.tables.begin_snapshot(table, Arc::new(Schema { columns: Vec::new(), key: Vec::new() }));
            self.begun.retain(|(begun, _)| *begun != table);
            // Read from a view that was opened now.
            self.visible = self.visible.max(self.applied);
            self.begun.push((table, self.log.len()));
        }
        let transaction = Transaction { changes, position: self.position(self.applied), id: self.applied.to_string(), committed_us: 0 };
        if altered.is_none() {
            self.tables.apply(transaction);
        }
        let (ready, begun): (Vec<_>, Vec<_>) = self.begun.iter().copied().partition(|(_, until)| self.applied >= *until);
        self.begun = begun;
        ready.into_iter().for_each(|(table, _)| self.tables.set_ready(table));
        if self.tables.awaits_stream() && self.chance(70) {
            self.reached();
        }
    }

    fn reached(&mut self) {
        let here = self.position(self.applied);
        assert!(self.tables.reached(&here).is_empty(), "every row can be read");
    }

    fn pin(&mut self) {
        let keys = (0..self.random.random_range(1..6)).map(|_| {
            let table = BOUNDED[self.random.random_range(0..BOUNDED.len())];
            (table, key(self.random.random_range(0..KEYS)))
        });
        let keys: Vec<_> = keys.collect();
        let pins = self.tables.pin(keys);
        if self.chance(50) {
            pins.urge();
        }
        self.pins.push(pins);
    }

    fn take(&mut self) {
        let table = BOUNDED[self.random.random_range(0..BOUNDED.len())];
        let most_keys = self.random.random_range(1..6);
        if let Some(asked) = self.tables.take_wanted(table, most_keys, 1_000) {
            self.flights.push(InFlight { table, asked, seen: None });
        }
    }

    fn select(&mut self) {
        let (log_end, mistake, visible) = (self.log.len(), self.mistake, self.visible);
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.seen.is_none()) else { return };
        if mistake != Mistake::DoesNotWait && (visible as u64) < flight.asked.position.offset {
            return;
        }
        let content = &self.history[visible][flight.table.index()];
        let answers = flight.asked.keys.iter().map(|key| (key.clone(), Ok(content[index(key)].map(|version| Arc::new(row(version))))));
        flight.seen = Some((answers.collect(), if mistake == Mistake::ReadsEndFirst { visible } else { log_end }));
    }

    fn answer(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.flights.len());
        let InFlight { table, asked, seen } = self.flights.swap_remove(at);
        match seen {
            Some((answers, end)) if *asked.server_uuid == self.server.to_string() => {
                let end = if self.mistake == Mistake::ReadsEndFirst { end.saturating_sub(2) } else { self.log.len() };
                self.tables.answer(table, asked.flight, answers, self.position(end));
            }
            _ => self.tables.give_back(table, asked.flight),
        }
    }

    /// Every look-up of one view: the whole table's answer at the stream's position, or none.
    fn check(&self) -> Result<usize, String> {
        let view = self.tables.view();
        let mut known = 0;
        for table in [WHOLE].into_iter().chain(BOUNDED) {
            for (index, version) in self.history[self.applied][table.index()].iter().enumerate() {
                let found = match view.lookup(table, key(index).as_bytes()) {
                    Lookup::Row(row) => Some(row.json().to_vec()),
                    Lookup::Missing => None,
                    Lookup::Unknown | Lookup::NotReady if table != WHOLE => continue,
                    other => return Err(format!("{other:?} for key {index} of the whole table")),
                };
                known += usize::from(table != WHOLE);
                let expected = version.map(|version| row(version).json().to_vec());
                if found != expected {
                    let text = |json: Option<Vec<u8>>| json.map_or("none".into(), |json| String::from_utf8_lossy(&json).into_owned());
                    return Err(format!("table {} key {index} at {}: {}, not {}", table.0, self.applied, text(found), text(expected)));
                }
            }
        }
        Ok(known)
    }

    /// Nothing stands in the way any more: everything that is pinned becomes known.
    fn drain(&mut self) -> Result<(), String> {
        for _ in 0..1_000 {
            self.visible = self.log.len();
            while self.applied < self.log.len() {
                self.apply();
                self.check()?;
            }
            self.reached();
            self.check()?;
            if self.pins.iter().all(Pins::are_known) {
                return Ok(());
            }
            // Look-ahead may have to wait for room: somebody's record is always next.
            self.pins[0].urge();
            if self.pins[0].are_known() {
                self.pins.remove(0);
            }
            self.take();
            self.select();
            self.answer();
        }
        Err("pinned keys never become known".into())
    }
}

fn key(index: usize) -> Key {
    Key::new(index.to_string().as_bytes())
}

fn index(key: &Key) -> usize {
    std::str::from_utf8(key.as_bytes()).expect("digits").parse().expect("a number")
}

fn row(version: u64) -> Row {
    let mut builder = RowBuilder::default();
    builder.value("version").extend_from_slice(version.to_string().as_bytes());
    builder.finish()
}

/// Plays a seed to its end; gives how many look-ups of bounded tables were answered.
fn play(seed: u64, mistake: Mistake) -> Result<usize, String> {
    let mut world = World::new(seed, mistake);
    let mut known = 0;
    for step in 0..600 {
        world.step();
        known += world.check().map_err(|wrong| format!("seed {seed}, step {step}: {wrong}"))?;
    }
    world.drain().map_err(|wrong| format!("seed {seed}, at the end: {wrong}"))?;
    Ok(known)
}

#[test]
fn i6_a_bounded_table_answers_as_the_whole_one_or_not_at_all() {
    let known: usize = (0..200).map(|seed| play(seed, Mistake::None).unwrap_or_else(|wrong| panic!("{wrong}"))).sum();
    assert!(known > 200_000, "it does answer: {known}");
}

#[test]
fn the_oracle_finds_a_select_that_does_not_wait() {
    assert!((0..400).any(|seed| play(seed, Mistake::DoesNotWait).is_err()));
}

#[test]
fn the_oracle_finds_an_end_of_the_binlog_read_too_early() {
    assert!((0..400).any(|seed| play(seed, Mistake::ReadsEndFirst).is_err()));
}

fn at(offset: u64) -> Position {
    Position { server_uuid: "s".into(), file: "binlog.000001".into(), offset, gtids: None }
}

#[test]
fn c02_an_answer_older_than_a_change_is_not_taken() {
    let mut bounded = Bounded::new(1 << 20);
    bounded.pin(&key(1));
    let flight = bounded.take(9, 99).expect("a flight");
    bounded.put(&key(1), row(2));
    assert!(bounded.is_known(&key(1)), "the change says all");
    bounded.offer(flight.number, vec![(key(1), Ok(Some(Arc::new(row(1)))))], at(5));
    bounded.settle(&at(9));
    bounded.release(&key(1));
    assert!(matches!(bounded.find(b"1"), Found::Known(Some(found)) if *found == row(2)));
}

#[test]
fn c03_an_answer_newer_than_the_stream_waits_for_it() {
    let mut bounded = Bounded::new(1 << 20);
    bounded.pin(&key(1));
    let flight = bounded.take(9, 99).expect("a flight");
    bounded.offer(flight.number, vec![(key(1), Ok(Some(Arc::new(row(3)))))], at(30));
    bounded.settle(&at(29));
    assert!(matches!(bounded.find(b"1"), Found::Unknown));
    // An older change arrives meanwhile: it is what the table shows there.
    bounded.put(&key(1), row(2));
    assert!(matches!(bounded.find(b"1"), Found::Known(Some(found)) if *found == row(2)));
    bounded.settle(&at(30));
    assert!(matches!(bounded.find(b"1"), Found::Known(Some(found)) if *found == row(2)), "its newest change came by the stream");
}

#[test]
fn a_key_pinned_anew_takes_no_answer_of_an_earlier_flight() {
    let mut bounded = Bounded::new(1 << 20);
    bounded.pin(&key(1));
    let flight = bounded.take(9, 99).expect("a flight");
    bounded.release(&key(1));
    bounded.put(&key(1), row(2));
    bounded.pin(&key(1));
    bounded.offer(flight.number, vec![(key(1), Ok(Some(Arc::new(row(1)))))], at(5));
    bounded.settle(&at(9));
    assert!(matches!(bounded.find(b"1"), Found::Unknown));
    assert_eq!(bounded.take(9, 99).map(|flight| flight.keys), Some(vec![key(1)]));
}

#[test]
fn concurrent_misses_of_a_key_share_one_select() {
    let mut bounded = Bounded::new(1 << 20);
    bounded.pin(&key(1));
    bounded.pin(&key(1));
    assert_eq!(bounded.take(9, 99).map(|flight| flight.keys), Some(vec![key(1)]));
    bounded.pin(&key(1));
    assert!(bounded.take(9, 99).is_none());
    assert_eq!(bounded.cache_counts().misses, 1);
}

#[test]
fn look_ahead_waits_for_room_and_the_next_record_does_not() {
    let mut bounded = Bounded::new(1);
    bounded.pin(&key(1));
    assert!(bounded.take(9, 99).is_none());
    bounded.urge(&key(1));
    assert!(bounded.take(9, 99).is_some());
}

#[test]
fn an_unreadable_row_counts_when_the_stream_has_no_explanation_for_it() {
    let unreadable = || Unreadable { reason: Reason::BadCharset, message: "no text".into() };
    let mut bounded = Bounded::new(1 << 20);
    bounded.pin(&key(1));
    let flight = bounded.take(9, 99).expect("a flight");
    bounded.offer(flight.number, vec![(key(1), Err(unreadable()))], at(5));
    bounded.settle(&at(4));
    assert!(bounded.take_unreadable().is_none());
    bounded.settle(&at(5));
    assert_eq!(bounded.take_unreadable().map(|unreadable| unreadable.reason), Some(Reason::BadCharset));
}

#[test]
fn what_is_held_is_weighed() {
    let mut bounded = Bounded::new(2_000);
    for index in 0..100 {
        bounded.pin(&key(index));
        bounded.put(&key(index), row(1));
        bounded.release(&key(index));
    }
    let (rows, bytes) = bounded.size();
    assert!((1..=6).contains(&rows) && bytes <= 2_000, "{rows} rows of {bytes} bytes");
    assert!(bounded.cache_counts().evictions >= 90);
    assert_eq!(bounded.pinned_bytes, 0);
    bounded.clear();
    assert_eq!(bounded.size(), (0, 0));
}
