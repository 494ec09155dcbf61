//! One record in, its outputs out.

use std::sync::Arc;

use super::form::Form;
use super::lookup::{Find, Join};
use super::path::Meta;
use super::program::{Columns, MetaTexts, Moment, Places, Unfit};
use super::shape::{Each, Found, Shape, Whole};
use super::{Bad, Missing, StreamPlan};
use crate::model::{Key, TableId};
use crate::table::{RowRef, View};

/// One Kafka message, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch, where the message has one.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// Takes what becomes of a record, in order. Implemented by the Kafka worker, by tests and by benches.
pub trait Output {
    /// An output record. `element` is the 0-based place in the `each` array. `headers` are those of the configuration
    /// (name, value); the caller adds the input's and larder's own.
    fn write(&mut self, element: Option<u32>, key: Option<&[u8]>, value: &[u8], headers: &[(&str, &[u8])]);
    /// One element or the whole record goes to the dead letters. `stage` is `decode`, `join` or `shape` (contract E9).
    fn dead_letter(&mut self, element: Option<u32>, stage: &'static str, reason: &'static str, message: &str);
    /// Counted drop by a policy of the configuration: `missing-row`, `bad-record` or `empty` (contract E18).
    fn drop(&mut self, element: Option<u32>, reason: &'static str);
}

/// What became of the whole record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// A table the joins need is not ready: nothing was written, try the record again later.
    Hold,
    /// Rows of bounded tables are not in memory ([`Enricher::take_wanted`]): throw away what was written, and try the record again when
    /// they are.
    NeedRows,
    /// `bad = "stop"`: the stream stops here, with this message; nothing was written.
    Stop(String),
}

/// Look-ups of one join that ended in a row, a miss, …; read and reset by the worker for its metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lookups {
    pub hits: u64,
    pub misses: u64,
}

/// Enriches records of one stream; keeps its buffers between records.
pub struct Enricher {
    plan: Arc<StreamPlan>,
    shape: Shape,
    joins: Vec<Join>,
    /// By join.
    columns: Vec<Columns>,
    form: Form,
    wanted_meta: Vec<Meta>,
    found: Found,
    meta: MetaTexts,
    finder: Finder,
    lookups: Vec<Lookups>,
}

/// Looks up the rows of a record.
struct Finder {
    key_buffer: Vec<u8>,
    /// Of this record, by join.
    lookups: Vec<Lookups>,
    /// Keys of bounded tables that are not in memory. While there are any nothing more is made of the record.
    wanted: Vec<(TableId, Key)>,
}

/// What the look-ups of one output came to.
enum Looked {
    Complete,
    Unknown,
    Drop,
    DeadLetter(String),
}

/// Why a whole record is bad.
struct BadRecord {
    reason: &'static str,
    message: String,
}

impl Enricher {
    pub fn new(plan: Arc<StreamPlan>) -> Self {
        let mut places = Places::new(&plan);
        Self {
            joins: plan.joins.iter().map(|join| Join::new(join, &mut places)).collect(),
            form: Form::new(&plan, &mut places),
            finder: Finder { key_buffer: Vec::new(), lookups: vec![Lookups::default(); plan.joins.len()], wanted: Vec::new() },
            lookups: vec![Lookups::default(); plan.joins.len()],
            columns: places.columns.into_iter().map(Columns::new).collect(),
            shape: places.shape,
            wanted_meta: places.meta,
            found: Found::default(),
            meta: MetaTexts::default(),
            plan,
        }
    }

    pub fn plan(&self) -> &StreamPlan {
        &self.plan
    }

    /// Makes a record's outputs from the rows of one view. Nothing is written before all that can hold or stop is checked; only with
    /// [`Verdict::NeedRows`] something may have been.
    pub fn process(&mut self, input: &Input<'_>, view: &View<'_>, out: &mut impl Output) -> Verdict {
        if self.plan.joins.iter().any(|join| !view.is_ready(join.table)) {
            return Verdict::Hold;
        }
        if let Err(message) = self.follow_schemas(view) {
            return Verdict::Stop(message);
        }
        let record = match self.read(input) {
            Ok(record) => record,
            Err(bad) => return self.refuse(input, &bad, out),
        };
        self.finder.begin();
        let mut rows = vec![None; self.joins.len()];
        if self.plan.each.is_some() && self.found.elements == 0 {
            out.drop(None, "empty");
        }
        for element in self.elements() {
            self.element(input, record, element, view, &mut rows, out);
        }
        if !self.finder.wanted.is_empty() {
            return Verdict::NeedRows;
        }
        for (total, more) in self.lookups.iter_mut().zip(&self.finder.lookups) {
            total.hits += more.hits;
            total.misses += more.misses;
        }
        Verdict::Done
    }

    /// Looks up a record's rows without making anything of them, so that [`Enricher::take_wanted`] gives the keys it will need. There
    /// may be more when these are known, where a join takes its key from the row of another.
    pub fn look_ahead(&mut self, input: &Input<'_>, view: &View<'_>) {
        self.finder.begin();
        if self.plan.joins.iter().any(|join| !view.is_ready(join.table)) || self.follow_schemas(view).is_err() {
            return;
        }
        let Ok(record) = self.read(input) else { return };
        let mut rows = vec![None; self.joins.len()];
        for element in self.elements() {
            let mut index = itoa::Buffer::new();
            let index = index.format(element.unwrap_or(0)).as_bytes();
            let (found, meta, columns) = (&self.found, &self.meta, self.columns.as_slice());
            let start = Moment { record, found, element: element.unwrap_or(0) as usize, index, meta, rows: &[], columns };
            self.finder.find(&self.joins, &self.plan, &start, view, &mut rows);
        }
    }

    /// Keys of bounded tables, each once, that the last record needs and that are not in memory.
    pub fn take_wanted(&mut self) -> Vec<(TableId, Key)> {
        let mut wanted = std::mem::take(&mut self.finder.wanted);
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// The outputs to make of the record just read.
    fn elements(&self) -> impl Iterator<Item = Option<u32>> + use<> {
        let (each, count) = (self.plan.each.is_some(), self.found.elements);
        let count = if each { u32::try_from(count).expect("a record below 4 GiB has fewer elements") } else { 1 };
        (0..count).map(move |element| each.then_some(element))
    }

    /// Look-ups per join since the last call, in order of the joins.
    pub fn take_lookups(&mut self) -> Vec<Lookups> {
        let taken = self.lookups.clone();
        self.lookups.fill(Lookups::default());
        taken
    }

    /// Notices tables whose schema has changed since the last record.
    fn follow_schemas(&mut self, view: &View<'_>) -> Result<(), String> {
        for (at, plan) in self.plan.joins.iter().enumerate() {
            let schema = view.schema(plan.table);
            if self.columns[at].is_of(schema) {
                continue;
            }
            self.joins[at].follow(plan, schema)?;
            self.columns[at].follow(schema);
            self.form.follow(at, &self.columns[at]);
        }
        Ok(())
    }

    /// Reads the record once, checks it whole and notes where everything needed stands.
    fn read<'a>(&mut self, input: &Input<'a>) -> Result<&'a [u8], BadRecord> {
        let bad = |reason, message: String| Err(BadRecord { reason, message });
        let Some(value) = input.value else { return bad("null-value", "the message has no value".into()) };
        let limit = self.plan.message_bytes.min(u32::MAX as usize);
        if value.len() > limit {
            return bad("too-large", format!("{} bytes, limits.message_bytes allows {limit}", value.len()));
        }
        let text = match std::str::from_utf8(value) {
            Ok(text) => text,
            Err(error) => return bad("bad-json", format!("not UTF-8 at byte {}", error.valid_up_to())),
        };
        match self.shape.read(text, &mut self.found) {
            Ok(Whole::Object) => {}
            Ok(Whole::Null) => return bad("null-value", "the value is JSON null".into()),
            Ok(Whole::Other(kind)) => return bad("bad-shape", format!("the value is {kind}, not an object")),
            Err((fault, at)) => return bad("bad-json", format!("{fault}, at byte {at}")),
        }
        if self.found.each == Each::Other {
            let each = self.plan.each.as_ref().map_or(String::new(), |each| each.steps.join("."));
            return bad("bad-shape", format!("`{each}` is no array"));
        }
        if self.found.elements > self.plan.outputs_per_record {
            let (elements, limit) = (self.found.elements, self.plan.outputs_per_record);
            return bad("bad-shape", format!("{elements} elements, limits.outputs_per_record allows {limit}"));
        }
        if self.meta.fill(&self.wanted_meta, input).is_err() {
            return bad("bad-shape", "the message key is no UTF-8 text, which `meta.key` needs".into());
        }
        self.form.begin();
        Ok(value)
    }

    fn refuse(&self, input: &Input<'_>, bad: &BadRecord, out: &mut impl Output) -> Verdict {
        match self.plan.bad {
            Bad::DeadLetter => out.dead_letter(None, "decode", bad.reason, &bad.message),
            Bad::Drop => out.drop(None, "bad-record"),
            Bad::Stop => {
                let Input { topic, partition, offset, .. } = input;
                return Verdict::Stop(format!("record {topic}/{partition}/{offset}: {}: {}", bad.reason, bad.message));
            }
        }
        Verdict::Done
    }

    /// One output: its look-ups in order, then what is made of them. `rows` has one place per join.
    fn element<'v>(
        &mut self,
        input: &Input<'_>,
        record: &[u8],
        element: Option<u32>,
        view: &'v View<'_>,
        rows: &mut [Option<RowRef<'v>>],
        out: &mut impl Output,
    ) {
        let mut index = itoa::Buffer::new();
        let index = index.format(element.unwrap_or(0)).as_bytes();
        let (found, meta, columns) = (&self.found, &self.meta, self.columns.as_slice());
        let start = Moment { record, found, element: element.unwrap_or(0) as usize, index, meta, rows: &[], columns };
        let looked = self.finder.find(&self.joins, &self.plan, &start, view, rows);
        if !self.finder.wanted.is_empty() {
            return;
        }
        match looked {
            Looked::Complete | Looked::Unknown => {}
            Looked::Drop => return out.drop(element, "missing-row"),
            Looked::DeadLetter(message) => return out.dead_letter(element, "join", "missing-row", &message),
        }
        let moment = Moment { rows, ..start };
        if let Err(Unfit { label, refusal }) = self.form.write(&self.plan, input, element, &moment, out) {
            out.dead_letter(element, "shape", "bad-shape", &format!("`{label}` {refusal}"));
        }
    }
}

// === impl Finder ===

impl Finder {
    /// Begins a record.
    fn begin(&mut self) {
        self.lookups.fill(Lookups::default());
        self.wanted.clear();
    }

    /// The look-ups of one output in order; `rows` has one place per join.
    fn find<'v>(
        &mut self,
        joins: &[Join],
        plan: &StreamPlan,
        start: &Moment<'_>,
        view: &'v View<'_>,
        rows: &mut [Option<RowRef<'v>>],
    ) -> Looked {
        rows.fill(None);
        let mut looked = Looked::Complete;
        for (at, (join, plan)) in joins.iter().zip(&plan.joins).enumerate() {
            let moment = Moment { rows, ..*start };
            let row = match join.find(plan, &moment, view, &mut self.key_buffer) {
                Find::Row(row) => Some(row),
                Find::Missing => None,
                Find::Unknown(key) => {
                    self.wanted.push((plan.table, key));
                    // Joins whose keys do not depend on this row are looked up all the same: one SELECT less to wait for.
                    looked = Looked::Unknown;
                    continue;
                }
            };
            let lookups = &mut self.lookups[at];
            *(if row.is_some() { &mut lookups.hits } else { &mut lookups.misses }) += 1;
            match (row, plan.missing) {
                (Some(row), _) => rows[at] = Some(row),
                (None, Missing::Null) => {}
                (None, Missing::Drop) => return Looked::Drop,
                (None, Missing::DeadLetter) => return Looked::DeadLetter(join.miss(plan, &moment)),
            }
        }
        looked
    }
}
