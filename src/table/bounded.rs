//! A table larger than memory: the rows used lately, and what becomes of the others. Pure; `mysql::read_through` asks MySQL.
//!
//! What always holds: **every row and every absence known here is what the table shows at the position of the tables**, as if it
//! were held whole. A look-up therefore either gives exactly that, or says that it does not know ([`Found::Unknown`]); the reader
//! then [pins](Bounded::pin) the key, waits until it is known, and looks again. So one view over held and bounded tables is a whole
//! number of MySQL transactions (promise W3), however many of its rows were read through, at whatever times.
//!
//! ```text
//!         pin                take             offer                      the stream reaches `until`
//! ─────────────► Wanted ───────────► Asked ───────────► Provisional ─────────────────────────────────► Known ──release──► cached
//!                  ▲                   │                     │                                           ▲                  │
//!                  └──── give_back ────┴── another server ───┘                                           │             evicted
//!                         any of them ────────── a change of the key in the stream ──────────────────────┘
//! ```
//!
//! Why an answer of MySQL cannot be stale (cases C02, C03, `libraries.md` D.2). Let `T` be the position of the tables when keys are
//! [taken](Bounded::take), `V` the view the SELECT saw, `until` the end of the binlog (file and offset) read after it.
//!
//! - `T ⊆ V`: the SELECT runs only after `gtid_executed` holds all of `T`. The stream may be ahead of what a SELECT sees, because
//!   the binlog is sent before a commit becomes visible. Without GTIDs nothing says what is visible; there the SELECT locks the rows it
//!   reads, and a transaction whose commit is under way has not given up its locks.
//! - `V ⊆ until`: the binlog is written before a commit becomes visible. (`gtid_executed` would not do: it is written after.)
//! - A pinned key is told of every change that the stream applies, from before `T` was read. Row images are full, so the change *is*
//!   the value, and the answer is thrown away; nothing has to be asked again.
//! - A key without a change from `T` until the stream has reached `until` had one value all the time: that of `V`, now known.
//!
//! An eviction in between makes nothing stale: a pinned key is not evicted, a key that is not pinned takes no answer, and one
//! that was released and pinned again is in another flight. So the pins are all the versions and tombstones there need be: as many
//! as there are keys being asked for, kept exactly as long as their SELECT is under way, never forgotten early.
//! Statements (DDL, TRUNCATE) stand in the stream like changes: whatever V showed of them is at or before `until`, and the stream empties the
//! table, pins included, before it gets there.
//!
//! Bounds: the cache weighs its entries. Pins beside it are one record of each worker, which needs its rows together, and what
//! workers look ahead for, which is not fetched while the pins alone weigh as much as the cache may.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use moka::notification::RemovalCause;
use moka::sync::Cache;

use crate::model::{Key, Position, Reason, Row};

/// A row, or the knowledge that there is none.
pub type Value = Option<Arc<Row>>;

/// What MySQL said of one key.
pub type Answer = Result<Value, Unreadable>;

/// A row that cannot be rendered; it stops the table, unless a statement that is still to come explains it.
#[derive(Debug, Clone)]
pub struct Unreadable {
    pub reason: Reason,
    pub message: String,
}

/// The keys of one SELECT.
#[derive(Debug)]
pub(super) struct Flight {
    pub number: u64,
    pub keys: Vec<Key>,
}

pub(super) enum Found {
    Known(Value),
    Unknown,
}

pub(super) struct Bounded {
    max_bytes: u64,
    cached: Cache<Key, Value>,
    evictions: Arc<AtomicU64>,
    pins: HashMap<Key, Pin>,
    /// Of the pins: keys, and rows known or provisional.
    pinned_bytes: usize,
    /// Pins that are `Wanted`.
    wanted: usize,
    flights: u64,
    /// Flights with answers that wait for the stream, in order, with the place it has to reach.
    landed: VecDeque<(Flight, Position)>,
    /// The stream has reached the place of an answer that cannot be read.
    unreadable: Option<Unreadable>,
    misses: u64,
}

struct Pin {
    holders: usize,
    /// The record that needs it is next: it is fetched whatever the pins weigh.
    urgent: bool,
    state: State,
}

enum State {
    Wanted,
    Asked { flight: u64 },
    Provisional { flight: u64, answer: Answer },
    Known(Value),
}

/// What an entry costs beside the bytes of key and row (`libraries.md` D.2).
const ENTRY_OVERHEAD: usize = 300;

impl Bounded {
    pub fn new(max_bytes: u64) -> Self {
        let evictions = Arc::new(AtomicU64::new(0));
        Self {
            max_bytes,
            cached: cache(max_bytes, &evictions),
            evictions,
            pins: HashMap::new(),
            pinned_bytes: 0,
            wanted: 0,
            flights: 0,
            landed: VecDeque::new(),
            unreadable: None,
            misses: 0,
        }
    }

    pub fn find(&self, key: &[u8]) -> Found {
        if let Some(value) = self.cached.get(key) {
            return Found::Known(value);
        }
        match self.pins.get(key).map(|pin| &pin.state) {
            Some(State::Known(value)) => Found::Known(value.clone()),
            _ => Found::Unknown,
        }
    }

    // --- who needs a key ---

    /// Keeps a key until it is released as often as it was pinned.
    pub fn pin(&mut self, key: &Key) {
        if let Some(pin) = self.pins.get_mut(key) {
            pin.holders += 1;
            return;
        }
        let state = self.cached.get(key).map_or(State::Wanted, State::Known);
        let is_wanted = matches!(state, State::Wanted);
        self.misses += u64::from(is_wanted);
        self.wanted += usize::from(is_wanted);
        self.pinned_bytes += weight(key, &state);
        self.pins.insert(key.clone(), Pin { holders: 1, urgent: false, state });
    }

    /// The last one to release a key leaves to the cache what is known of it.
    pub fn release(&mut self, key: &Key) {
        let Some(pin) = self.pins.get_mut(key) else { return };
        pin.holders -= 1;
        if pin.holders > 0 {
            return;
        }
        let Some((key, Pin { state, .. })) = self.pins.remove_entry(key) else { return };
        self.pinned_bytes -= weight(&key, &state);
        self.wanted -= usize::from(matches!(state, State::Wanted));
        if let State::Known(value) = state {
            self.cached.insert(key, value);
        }
    }

    /// The record that needs the key is the next one.
    pub fn urge(&mut self, key: &Key) {
        if let Some(pin) = self.pins.get_mut(key) {
            pin.urgent = true;
        }
    }

    pub fn is_known(&self, key: &Key) -> bool {
        matches!(self.pins.get(key).map(|pin| &pin.state), Some(State::Known(_)))
    }

    // --- who asks MySQL ---

    pub fn has_wanted(&self) -> bool {
        self.wanted > 0
    }

    /// Takes wanted keys for one SELECT, urgent ones first; `None` when there are none, or there is no room for their rows.
    pub fn take(&mut self, most_keys: usize, most_bytes: usize) -> Option<Flight> {
        if self.wanted == 0 {
            return None;
        }
        let number = self.flights + 1;
        let full = self.pinned_bytes as u64 >= self.max_bytes;
        let mut keys: Vec<Key> = Vec::new();
        let mut bytes = 0;
        for urgent in [true, false] {
            if full && !urgent {
                break;
            }
            for (key, pin) in self.pins.iter_mut().filter(|(_, pin)| pin.urgent == urgent && matches!(pin.state, State::Wanted)) {
                bytes += key.as_bytes().len();
                // One key is taken however long it is.
                if keys.len() >= most_keys || bytes > most_bytes && !keys.is_empty() {
                    break;
                }
                pin.state = State::Asked { flight: number };
                keys.push(key.clone());
            }
        }
        self.wanted -= keys.len();
        self.flights = number;
        (!keys.is_empty()).then_some(Flight { number, keys })
    }

    /// Takes the answers of a flight. They become known when the stream has reached `until`, the end of the binlog as it was after
    /// the SELECT.
    pub fn offer(&mut self, flight: u64, answers: Vec<(Key, Answer)>, until: Position) {
        let mut keys = Vec::with_capacity(answers.len());
        for (key, answer) in answers {
            let Some(pin) = self.pins.get_mut(&key) else { continue };
            if matches!(pin.state, State::Asked { flight: asked } if asked == flight) {
                let state = State::Provisional { flight, answer };
                self.pinned_bytes = self.pinned_bytes + weight(&key, &state) - weight(&key, &pin.state);
                pin.state = state;
                keys.push(key);
            }
        }
        if !keys.is_empty() {
            self.landed.push_back((Flight { number: flight, keys }, until));
        }
    }

    /// A flight brought no answer: its keys are wanted again.
    pub fn give_back(&mut self, flight: u64) {
        for pin in self.pins.values_mut() {
            if matches!(pin.state, State::Asked { flight: asked } if asked == flight) {
                pin.state = State::Wanted;
                self.wanted += 1;
            }
        }
    }

    // --- the stream ---

    /// Answers wait for the stream.
    pub fn awaits_stream(&self) -> bool {
        !self.landed.is_empty()
    }

    /// Everything up to `reached` is applied. Answers of a server that is no longer followed are asked for again: whether there
    /// were any.
    pub fn settle(&mut self, reached: &Position) -> bool {
        let mut again = false;
        while let Some((_, until)) = self.landed.front() {
            let moved = until.server_uuid != reached.server_uuid;
            if !moved && !reached.reaches(until) {
                break;
            }
            let Some((Flight { number, keys }, _)) = self.landed.pop_front() else { break };
            for key in keys {
                let Some(pin) = self.pins.get_mut(&key) else { continue };
                let State::Provisional { flight, answer } = &pin.state else { continue };
                if *flight != number {
                    continue;
                }
                let state = match answer {
                    _ if moved => State::Wanted,
                    Ok(value) => State::Known(value.clone()),
                    Err(unreadable) => {
                        self.unreadable = Some(unreadable.clone());
                        continue;
                    }
                };
                self.pinned_bytes = self.pinned_bytes + weight(&key, &state) - weight(&key, &pin.state);
                self.wanted += usize::from(moved);
                pin.state = state;
                again |= moved;
            }
        }
        again
    }

    /// A row that cannot be read at a position the stream has reached: the table must stop.
    pub fn take_unreadable(&mut self) -> Option<Unreadable> {
        self.unreadable.take()
    }

    /// The stream changed the row of a key: this is its value from here on, whatever was known, asked or answered.
    pub fn put(&mut self, key: &Key, row: Row) {
        // Most changes concern rows that nobody looks at.
        if self.cached.contains_key(key) || self.pins.contains_key(key) {
            self.change(key, Some(Arc::new(row)));
        }
    }

    pub fn remove(&mut self, key: &Key) {
        self.change(key, None);
    }

    fn change(&mut self, key: &Key, value: Value) {
        if self.cached.contains_key(key) {
            self.cached.insert(key.clone(), value.clone());
        }
        if let Some(pin) = self.pins.get_mut(key) {
            let state = State::Known(value);
            self.pinned_bytes = self.pinned_bytes + weight(key, &state) - weight(key, &pin.state);
            self.wanted -= usize::from(matches!(pin.state, State::Wanted));
            pin.state = state;
        }
    }

    /// `TRUNCATE TABLE`: who waits for a row knows now that there is none.
    pub fn truncate(&mut self) {
        self.reset(|| State::Known(None));
    }

    /// Nothing is known any more: who waits goes on waiting, answers under way are lost.
    pub fn clear(&mut self) {
        self.reset(|| State::Wanted);
        self.wanted = self.pins.len();
    }

    fn reset(&mut self, state: impl Fn() -> State) {
        // A new one, because `invalidate_all` goes by the clock.
        self.cached = cache(self.max_bytes, &self.evictions);
        self.pins.values_mut().for_each(|pin| pin.state = state());
        self.pinned_bytes = self.pins.iter().map(|(key, pin)| weight(key, &pin.state)).sum();
        self.wanted = 0;
        self.landed.clear();
        self.unreadable = None;
    }

    // --- what the outside sees ---

    /// Rows and absences held, and what they weigh in bytes.
    pub fn size(&self) -> (usize, usize) {
        self.cached.run_pending_tasks();
        let pinned = self.pins.iter().filter(|(key, pin)| matches!(pin.state, State::Known(_)) && !self.cached.contains_key(*key));
        (self.cached.entry_count() as usize + pinned.count(), self.cached.weighted_size() as usize + self.pinned_bytes)
    }

    pub fn cache_counts(&self) -> CacheCounts {
        CacheCounts { misses: self.misses, evictions: self.evictions.load(Ordering::Relaxed) }
    }
}

/// What a bounded table did since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheCounts {
    /// Keys that MySQL had to be asked for.
    pub misses: u64,
    /// Entries that had to make room for others.
    pub evictions: u64,
}

fn cache(max_bytes: u64, evictions: &Arc<AtomicU64>) -> Cache<Key, Value> {
    let evictions = Arc::clone(evictions);
    Cache::builder()
        .max_capacity(max_bytes)
        .weigher(|key: &Key, value: &Value| u32::try_from(value_weight(key, value)).unwrap_or(u32::MAX))
        .eviction_listener(move |_, _, cause| {
            evictions.fetch_add(u64::from(cause == RemovalCause::Size), Ordering::Relaxed);
        })
        .build()
}

fn value_weight(key: &Key, value: &Value) -> usize {
    ENTRY_OVERHEAD + key.as_bytes().len() + value.as_ref().map_or(0, |row| row.size())
}

fn weight(key: &Key, state: &State) -> usize {
    match state {
        State::Known(value) | State::Provisional { answer: Ok(value), .. } => value_weight(key, value),
        State::Wanted | State::Asked { .. } | State::Provisional { .. } => value_weight(key, &None),
    }
}

#[cfg(test)]
mod tests;
