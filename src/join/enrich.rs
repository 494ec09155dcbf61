//! One record in, its outputs out.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use super::program::{Columns, MetaTexts, Moment, Places, Program, Source, Unfit};
use super::shape::{Each, Found, Shape, Whole};
use super::{Bad, JoinPlan, Missing, StreamPlan};
use crate::model::key::text_of;
use crate::model::row::write_string;
use crate::model::{ColumnType, KeyKind, Row, Schema};
use crate::table::{Lookup, View};

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
    value: Program,
    /// Names that `value` adds to the record's own members; `None` with a template.
    additions: Option<Vec<String>>,
    key: Option<Program>,
    headers: Vec<Program>,
    wanted_meta: Vec<super::path::Meta>,
    found: Found,
    meta: MetaTexts,
    lookups: Vec<Lookups>,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    /// The output's value. Its first `shared` bytes are the same for every element of the record.
    value: Vec<u8>,
    /// Unknown until an element of the record gets that far.
    shared: Option<usize>,
    key: Vec<u8>,
    header: Vec<u8>,
    /// Header values one after the other, and where each ends; `None` for no header.
    headers: Vec<u8>,
    header_ends: Vec<Option<usize>>,
}

/// How one join finds its row.
struct Join {
    key: Vec<Source>,
    /// By key column; empty until the table's schema was seen.
    parts: Vec<KeyPart>,
}

struct KeyPart {
    kind: KeyKind,
    /// The row form is a JSON string; asked only in keys of several columns.
    quoted: bool,
}

/// Why a whole record is bad.
struct BadRecord {
    reason: &'static str,
    message: String,
}

impl Enricher {
    pub fn new(plan: Arc<StreamPlan>) -> Self {
        let mut places = Places::new(&plan);
        let joins = plan.joins.iter().map(|join| Join::new(join, &mut places)).collect();
        let (value, additions) = match &plan.value {
            Some(template) => (places.program(template), None),
            None => {
                let item = plan.each.iter().map(|_| "item".to_owned());
                let names: Vec<String> = item.chain(plan.joins.iter().map(|j| j.name.clone())).collect();
                (places.additions(&names), Some(names))
            }
        };
        let key = plan.key.as_ref().map(|template| places.program(template));
        let headers = plan.headers.iter().map(|(_, template)| places.program(template)).collect();
        Self {
            joins,
            value,
            additions,
            key,
            headers,
            lookups: vec![Lookups::default(); plan.joins.len()],
            columns: places.columns.into_iter().map(Columns::new).collect(),
            shape: places.shape,
            wanted_meta: places.meta,
            found: Found::default(),
            meta: MetaTexts::default(),
            buffers: Buffers::default(),
            plan,
        }
    }

    pub fn plan(&self) -> &StreamPlan {
        &self.plan
    }

    /// Makes a record's outputs from the rows of one view. Nothing is written before all that can hold or stop is checked.
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
        let mut rows = vec![None; self.joins.len()];
        if self.plan.each.is_none() {
            self.element(input, record, None, view, &mut rows, out);
        } else if self.found.elements == 0 {
            out.drop(None, "empty");
        } else {
            for element in 0..self.found.elements {
                let element = u32::try_from(element).expect("a record below 4 GiB has fewer elements");
                self.element(input, record, Some(element), view, &mut rows, out);
            }
        }
        Verdict::Done
    }

    /// Look-ups per join since the last call, in order of the joins.
    pub fn take_lookups(&mut self) -> Vec<Lookups> {
        let taken = self.lookups.clone();
        self.lookups.fill(Lookups::default());
        taken
    }

    /// Notices tables whose schema has changed since the last record.
    fn follow_schemas(&mut self, view: &View<'_>) -> Result<(), String> {
        for (at, ((join, columns), plan)) in self.joins.iter_mut().zip(&mut self.columns).zip(&self.plan.joins).enumerate() {
            let schema = view.schema(plan.table);
            if columns.follow(schema) {
                join.parts = key_parts(schema);
                let programs = self.key.iter_mut().chain(&mut self.headers).chain([&mut self.value]);
                programs.for_each(|program| program.follow(at, columns));
            }
            if join.parts.len() != join.key.len() {
                return Err(format!(
                    "join `{}` gives {} key values, the key of its table has {} columns: give one path per key column",
                    plan.name,
                    join.key.len(),
                    join.parts.len()
                ));
            }
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
        self.buffers.shared = None;
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

    /// One output: its look-ups in order, then its value, key and headers. `rows` has one place per join.
    fn element<'v>(
        &mut self,
        input: &Input<'_>,
        record: &[u8],
        element: Option<u32>,
        view: &'v View<'_>,
        rows: &mut [Option<&'v Row>],
        out: &mut impl Output,
    ) {
        let mut index = itoa::Buffer::new();
        let index = index.format(element.unwrap_or(0)).as_bytes();
        let start = Moment {
            record,
            found: &self.found,
            element: element.unwrap_or(0) as usize,
            index,
            meta: &self.meta,
            rows: &[],
            columns: &self.columns,
        };
        rows.fill(None);
        for (at, (join, plan)) in self.joins.iter().zip(&self.plan.joins).enumerate() {
            let moment = Moment { rows, ..start };
            let row = join.find(plan, &moment, view, &mut self.buffers.key);
            let lookups = &mut self.lookups[at];
            match (row, plan.missing) {
                (Some(_), _) => lookups.hits += 1,
                (None, Missing::Null) => lookups.misses += 1,
                (None, Missing::Drop) => {
                    lookups.misses += 1;
                    return out.drop(element, "missing-row");
                }
                (None, Missing::DeadLetter) => {
                    lookups.misses += 1;
                    return out.dead_letter(element, "join", "missing-row", &join.miss(plan, &moment));
                }
            }
            rows[at] = row;
        }
        let moment = Moment { rows, ..start };
        let buffers = &mut self.buffers;
        let zone = &self.plan.zone;
        let unfit = |unfit: Unfit<'_>| format!("`{}` {}", unfit.label, unfit.refusal);

        if let Some(shared) = buffers.shared {
            buffers.value.truncate(shared);
        } else {
            buffers.value.clear();
            if let Some(names) = &self.additions {
                write_members(record, &self.found, names, &mut buffers.value);
                if buffers.value.len() > 1 && !self.value.is_empty() {
                    buffers.value.push(b',');
                }
            }
            if let Err(fault) = self.value.write_shared(&moment, zone, &mut buffers.value) {
                return out.dead_letter(element, "shape", "bad-shape", &unfit(fault));
            }
            buffers.shared = Some(buffers.value.len());
        }
        if let Err(fault) = self.value.write(&moment, zone, &mut buffers.value) {
            return out.dead_letter(element, "shape", "bad-shape", &unfit(fault));
        }
        if self.additions.is_some() {
            buffers.value.push(b'}');
        }

        let key = match &self.key {
            None => input.key.map(Cow::Borrowed),
            Some(program) => match program.bytes(&moment, zone, &mut buffers.key) {
                Ok(key) => key,
                Err(fault) => return out.dead_letter(element, "shape", "bad-shape", &unfit(fault)),
            },
        };

        if self.headers.is_empty() {
            return out.write(element, key.as_deref(), &buffers.value, &[]);
        }
        buffers.headers.clear();
        buffers.header_ends.clear();
        for program in &self.headers {
            let bytes = match program.bytes(&moment, zone, &mut buffers.header) {
                Ok(bytes) => bytes,
                Err(fault) => return out.dead_letter(element, "shape", "bad-shape", &unfit(fault)),
            };
            buffers.header_ends.push(bytes.map(|bytes| {
                buffers.headers.extend_from_slice(&bytes);
                buffers.headers.len()
            }));
        }
        let mut headers = Vec::with_capacity(self.headers.len());
        let mut start = 0;
        for ((name, _), end) in self.plan.headers.iter().zip(&buffers.header_ends) {
            if let Some(end) = *end {
                headers.push((name.as_str(), &buffers.headers[start..end]));
                start = end;
            }
        }
        out.write(element, key.as_deref(), &buffers.value, &headers);
    }
}

// === impl Join ===

impl Join {
    fn new(plan: &JoinPlan, places: &mut Places) -> Self {
        Self { key: plan.key.iter().map(|path| places.source(path)).collect(), parts: Vec::new() }
    }

    /// The row for this moment; `None` when it is known to be absent, or the values are no key (contract E4).
    fn find<'v>(&self, plan: &JoinPlan, moment: &Moment<'_>, view: &'v View<'_>, buffer: &mut Vec<u8>) -> Option<&'v Row> {
        let lookup = match (self.key.as_slice(), self.parts.as_slice()) {
            ([source], [part]) => {
                let key = part.kind.text(moment.fragment(source))?;
                view.lookup(plan.table, &key)
            }
            (sources, parts) => {
                buffer.clear();
                buffer.push(b'[');
                for (at, (source, part)) in sources.iter().zip(parts).enumerate() {
                    if at > 0 {
                        buffer.push(b',');
                    }
                    part.write(moment.fragment(source), buffer)?;
                }
                buffer.push(b']');
                view.lookup(plan.table, buffer)
            }
        };
        match lookup {
            Lookup::Row(row) => Some(row),
            // Readiness was checked in this very view.
            Lookup::Missing | Lookup::NotReady => None,
        }
    }

    /// The message of a dead letter: what was looked for, cut to a readable length.
    fn miss(&self, plan: &JoinPlan, moment: &Moment<'_>) -> String {
        const SHOWN: usize = 100;
        let mut message = format!("join `{}`: no row for key", plan.name);
        for source in &self.key {
            let fragment = String::from_utf8_lossy(moment.fragment(source));
            let shown: String = fragment.chars().take(SHOWN).collect();
            let cut = if shown.len() < fragment.len() { "…" } else { "" };
            write!(message, " {shown}{cut}").expect("writing to memory does not fail");
        }
        message
    }
}

impl KeyPart {
    /// Appends the fragment as it would stand in the row; `None` when it can be no value of this column.
    fn write(&self, fragment: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let text = self.kind.text(fragment)?;
        if self.quoted {
            write_string(out, std::str::from_utf8(&text).ok()?);
        } else {
            out.extend_from_slice(&text);
        }
        Some(())
    }
}

fn key_parts(schema: &Schema) -> Vec<KeyPart> {
    let part = |&column: &usize| {
        let kind = &schema.columns[column].kind;
        let quoted = !matches!(
            kind,
            ColumnType::Integer { .. } | ColumnType::Year | ColumnType::Float | ColumnType::Double | ColumnType::Bit { .. }
        );
        KeyPart { kind: kind.key_kind(), quoted }
    };
    schema.key.iter().map(part).collect()
}

/// Appends `{` and the record's members without the closing brace: the last of equal names, and none that is added later.
fn write_members(record: &[u8], found: &Found, added: &[String], out: &mut Vec<u8>) {
    let mut seen: HashSet<Cow<'_, [u8]>> = added.iter().map(|name| name.as_bytes().into()).collect();
    let mut kept: Vec<_> = found
        .members
        .iter()
        .rev()
        .filter_map(|(name, value)| {
            let name = name.of(record)?;
            seen.insert(text_of(name)).then_some((name, value.of(record)?))
        })
        .collect();
    kept.reverse();
    out.push(b'{');
    for (index, (name, value)) in kept.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        out.push(b':');
        out.extend_from_slice(value);
    }
}
