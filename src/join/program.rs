//! Templates with every path resolved to a place: a list of copies into one buffer, run once per output.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::StreamPlan;
use super::convert::{Conversion, Refusal};
use super::enrich::Input;
use super::path::{Meta, Path, Root};
use super::reader;
use super::shape::{Found, Shape};
use super::template::{Part, Template};
use crate::model::Schema;
use crate::model::key::text_of;
use crate::model::row::write_string;
use crate::table::RowRef;

const NULL: &[u8] = b"null";

/// Where the JSON of a path stands at the moment of an output.
#[derive(Debug)]
pub(super) enum Source {
    Record {
        slot: usize,
    },
    Item {
        slot: usize,
    },
    Index,
    Meta(Meta),
    Row {
        join: usize,
    },
    /// `column` counts the columns this stream uses of the join's row.
    Column {
        join: usize,
        column: usize,
    },
    /// Inside the JSON of a column.
    Below {
        join: usize,
        column: usize,
        steps: Vec<String>,
    },
}

/// Gives every path of a stream its place.
pub(super) struct Places {
    pub shape: Shape,
    /// Names of the columns used, by join.
    pub columns: Vec<Vec<String>>,
    pub meta: Vec<Meta>,
    joins: Vec<String>,
}

impl Places {
    pub fn new(plan: &StreamPlan) -> Self {
        let mut shape = Shape::new(plan.json_depth, plan.outputs_per_record);
        if let Some(each) = &plan.each {
            shape.each(&each.steps);
        }
        Self {
            shape,
            columns: vec![Vec::new(); plan.joins.len()],
            meta: Vec::new(),
            joins: plan.joins.iter().map(|j| j.name.clone()).collect(),
        }
    }

    pub fn source(&mut self, path: &Path) -> Source {
        match (path.root, path.steps.split_first()) {
            (Root::Record, _) => Source::Record { slot: self.shape.record(&path.steps) },
            (Root::Item, _) => Source::Item { slot: self.shape.item(&path.steps) },
            (Root::Index, _) => Source::Index,
            (Root::Meta(meta), _) => {
                if !self.meta.contains(&meta) {
                    self.meta.push(meta);
                }
                Source::Meta(meta)
            }
            (Root::Join(join), None) => Source::Row { join },
            (Root::Join(join), Some((name, []))) => Source::Column { join, column: self.column(join, name) },
            (Root::Join(join), Some((name, steps))) => Source::Below { join, column: self.column(join, name), steps: steps.to_vec() },
        }
    }

    pub fn program(&mut self, template: &Template) -> Program {
        let steps = template.parts.iter().map(|part| match part {
            Part::Text(json) => Step::Text(json.clone()),
            Part::Value { path, conversion: None } => match self.source(path) {
                Source::Column { join, column } => Step::Columns { join, column, more: 0 },
                source => Step::Copy(source),
            },
            Part::Value { path, conversion: Some(conversion) } => Step::Convert {
                label: format!("{} | {}", path.describe(&self.joins), conversion.name()),
                source: self.source(path),
                conversion: *conversion,
            },
            Part::Table { joins, parts } => Step::Table { joins: joins.clone(), steps: *parts },
        });
        Program::new(steps.collect())
    }

    /// What is added to the record's own members when the stream has no `value`: `item` and the joined rows (contract E6).
    pub fn additions(&mut self, names: &[String]) -> Program {
        self.shape.members = true;
        let mut steps = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let member = following(name);
            steps.push(Step::Text(if index > 0 { member } else { member[1..].to_vec() }));
            steps.push(Step::Copy(match self.joins.iter().position(|j| j == name) {
                Some(join) => Source::Row { join },
                None => Source::Item { slot: self.shape.item(&[]) },
            }));
        }
        Program::new(steps)
    }

    fn column(&mut self, join: usize, name: &str) -> usize {
        let columns = &mut self.columns[join];
        columns.iter().position(|c| c == name).unwrap_or_else(|| {
            columns.push(name.to_owned());
            columns.len() - 1
        })
    }
}

/// The columns a stream uses of a joined row, found by name once per schema.
#[derive(Debug)]
pub(super) struct Columns {
    names: Vec<String>,
    /// Kept, not only compared, so that its address means it alone.
    schema: Option<Arc<Schema>>,
    /// Index in the row, by index in `names`.
    indexes: Vec<Option<usize>>,
}

impl Columns {
    pub fn new(names: Vec<String>) -> Self {
        Self { names, schema: None, indexes: Vec::new() }
    }

    /// Whether the columns were found in this very schema.
    pub fn is_of(&self, schema: &Arc<Schema>) -> bool {
        self.schema.as_ref().is_some_and(|known| Arc::ptr_eq(known, schema))
    }

    pub fn follow(&mut self, schema: &Arc<Schema>) {
        self.indexes = self.names.iter().map(|name| schema.column_index(name)).collect();
        self.schema = Some(schema.clone());
    }

    #[inline]
    fn index(&self, column: usize) -> Option<usize> {
        self.indexes.get(column).copied().flatten()
    }
}

/// The JSON of the metadata a stream uses; kept between records for its memory.
#[derive(Debug, Default)]
pub(super) struct MetaTexts([Vec<u8>; 5]);

impl MetaTexts {
    /// `Err` when the key is wanted and is no text.
    pub fn fill(&mut self, wanted: &[Meta], input: &Input<'_>) -> Result<(), std::str::Utf8Error> {
        for &meta in wanted {
            let json = &mut self.0[meta as usize];
            json.clear();
            let number = match meta {
                Meta::Topic => {
                    write_string(json, input.topic);
                    continue;
                }
                Meta::Key => {
                    match input.key {
                        Some(key) => write_string(json, std::str::from_utf8(key)?),
                        None => json.extend_from_slice(NULL),
                    }
                    continue;
                }
                Meta::Partition => Some(i64::from(input.partition)),
                Meta::Offset => Some(input.offset),
                Meta::Timestamp => input.timestamp_ms,
            };
            match number {
                Some(number) => json.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
                None => json.extend_from_slice(NULL),
            }
        }
        Ok(())
    }
}

/// All that one output is made from.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub record: &'a [u8],
    pub found: &'a Found,
    /// Place in the `each` array; 0 without one.
    pub element: usize,
    /// `element` as text.
    pub index: &'a [u8],
    pub meta: &'a MetaTexts,
    /// By join; `None` for a miss and for joins that come later.
    pub rows: &'a [Option<RowRef<'a>>],
    pub columns: &'a [Columns],
}

impl<'a> Moment<'a> {
    /// The JSON at a place; `null` where there is nothing.
    #[inline]
    pub fn fragment(&self, source: &Source) -> &'a [u8] {
        let fragment = match source {
            Source::Record { slot } => self.found.record(*slot).of(self.record),
            Source::Item { slot } => self.found.item(self.element, *slot).of(self.record),
            Source::Index => Some(self.index),
            Source::Meta(meta) => Some(self.meta.0[*meta as usize].as_slice()),
            Source::Row { join } => self.rows[*join].as_ref().map(|row| row.json()),
            Source::Column { join, column } => self.column(*join, *column),
            Source::Below { join, column, steps } => self.column(*join, *column).and_then(|json| reader::find(json, steps)),
        };
        fragment.unwrap_or(NULL)
    }

    #[inline]
    fn column(&self, join: usize, column: usize) -> Option<&'a [u8]> {
        self.rows[join].as_ref()?.column(self.columns[join].index(column)?)
    }

    /// The columns from `first` on, `more` of them after it, with the names between.
    #[inline]
    fn columns(&self, join: usize, first: usize, more: usize) -> Option<&'a [u8]> {
        let index = self.columns[join].index(first)?;
        self.rows[join].as_ref()?.columns(index, index + more)
    }
}

#[derive(Debug)]
pub(super) struct Program {
    steps: Vec<Step>,
    /// So many steps at the beginning give the same for every element of a record.
    shared: usize,
}

#[derive(Debug)]
enum Step {
    Text(Vec<u8>),
    Copy(Source),
    /// A column of a row. When the steps below ask for the columns after it as the row has them, they are copied with it:
    /// `more` pairs of a text and a column.
    Columns {
        join: usize,
        column: usize,
        more: usize,
    },
    /// `label` names the place in messages.
    Convert {
        source: Source,
        conversion: Conversion,
        label: String,
    },
    /// Null instead of the next `steps` when all of these joins missed.
    Table {
        joins: Vec<usize>,
        steps: usize,
    },
}

/// A value that could not be converted.
#[derive(Debug)]
pub(super) struct Unfit<'a> {
    pub label: &'a str,
    pub refusal: Refusal,
}

impl Program {
    fn new(steps: Vec<Step>) -> Self {
        let same = |step: &Step| match step {
            Step::Text(_) => true,
            Step::Copy(source) | Step::Convert { source, .. } => matches!(source, Source::Record { .. } | Source::Meta(_)),
            Step::Columns { .. } | Step::Table { .. } => false,
        };
        let shared = steps.iter().take_while(|step| same(step)).count();
        Self { steps, shared }
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Sees which columns of a join stand in the row as the template wants them, side by side under their own names.
    pub fn follow(&mut self, followed: usize, columns: &Columns) {
        for at in (0..self.steps.len()).rev() {
            let Step::Columns { join, column, .. } = self.steps[at] else { continue };
            if join != followed {
                continue;
            }
            let run = match self.steps.get(at + 1..at + 3) {
                Some([Step::Text(text), Step::Columns { join: next_join, column: next, more }])
                    if *next_join == join
                        && columns.index(column).is_some_and(|index| columns.index(*next) == Some(index + 1))
                        && columns.names.get(*next).is_some_and(|name| *text == following(name)) =>
                {
                    more + 1
                }
                _ => 0,
            };
            self.steps[at] = Step::Columns { join, column, more: run };
        }
    }

    /// Appends what is the same for every element of a record; [`Program::write`] appends the rest.
    pub fn write_shared<'p>(&'p self, moment: &Moment<'_>, zone: &TimeZone, out: &mut Vec<u8>) -> Result<(), Unfit<'p>> {
        Self::run(&self.steps[..self.shared], moment, zone, out)
    }

    /// Appends the JSON of the output after its shared part.
    pub fn write<'p>(&'p self, moment: &Moment<'_>, zone: &TimeZone, out: &mut Vec<u8>) -> Result<(), Unfit<'p>> {
        Self::run(&self.steps[self.shared..], moment, zone, out)
    }

    fn run<'p>(steps: &'p [Step], moment: &Moment<'_>, zone: &TimeZone, out: &mut Vec<u8>) -> Result<(), Unfit<'p>> {
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            at += 1;
            match step {
                Step::Text(json) => out.extend_from_slice(json),
                Step::Copy(source) => out.extend_from_slice(moment.fragment(source)),
                Step::Columns { join, column, more } => match moment.columns(*join, *column, *more) {
                    Some(json) => {
                        out.extend_from_slice(json);
                        at += 2 * more;
                    }
                    None => out.extend_from_slice(NULL),
                },
                Step::Convert { source, conversion, label } => {
                    conversion.write(moment.fragment(source), zone, out).map_err(|refusal| Unfit { label, refusal })?;
                }
                Step::Table { joins, steps } => {
                    if joins.iter().all(|&join| moment.rows[join].is_none()) {
                        out.extend_from_slice(NULL);
                        at += steps;
                    }
                }
            }
        }
        Ok(())
    }

    /// The output as the bytes of a Kafka key or header: text as it stands, a number as its text, `None` for null, anything
    /// else its JSON. `buffer` is used where the bytes do not stand somewhere already.
    pub fn bytes<'p, 'a>(
        &'p self,
        moment: &Moment<'a>,
        zone: &TimeZone,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Cow<'a, [u8]>>, Unfit<'p>> {
        let json = match self.steps.as_slice() {
            [Step::Copy(source)] => moment.fragment(source),
            [Step::Columns { join, column, .. }] => moment.column(*join, *column).unwrap_or(NULL),
            steps => {
                buffer.clear();
                Self::run(steps, moment, zone, buffer)?;
                buffer.as_slice()
            }
        };
        Ok(if json == NULL { None } else { Some(text_of(json)) })
    }
}

/// A member's name as it stands before its value, after another member.
fn following(name: &str) -> Vec<u8> {
    let mut text = b",".to_vec();
    write_string(&mut text, name);
    text.push(b':');
    text
}
