//! Values to rows of JSON (contract C): the one place that prints values, for snapshot and stream alike, so that both give the
//! same bytes (promise W6).

use std::sync::Arc;

use super::cursor::{Fault, little_endian};
use super::decode::{DecodeError, RowChange, RowKind};
use super::text;
use crate::config::plan::{DecimalForm, InvalidText, TablePlan};
use crate::model::{Change, ColumnType, Key, Row, RowBuilder, Schema, Substitutions, TableId, Value};

/// What the rows of a table look like: projection, key and the options of the plan, resolved against its columns.
///
/// A row is made by `begin`, `push` for each of its columns in order, `finish`.
pub struct Shape {
    /// Per column of the table: its index in the rows, if it is there.
    source: Vec<Option<usize>>,
    schema: Arc<Schema>,
    forms: Vec<Form>,
    decimal: DecimalForm,
    invalid_text: InvalidText,
    builder: RowBuilder,
    scratch: Vec<u8>,
    counts: Substitutions,
}

/// How a column is printed where its value alone does not say.
struct Form {
    /// The name, quoted and escaped, with the colon.
    label: Box<[u8]>,
    digits: u8,
    boolean: bool,
    nullable: bool,
    /// An ENUM none of whose labels is empty, so that an empty text is index 0.
    counts_empty: bool,
}

impl Shape {
    /// Resolves a table's plan by column name. The error lists every column that is missing.
    pub fn new(schema: &Schema, plan: &TablePlan) -> Result<Shape, DecodeError> {
        missing_columns(schema, plan)?;
        let taken = |name: &str| plan.columns.as_ref().is_none_or(|columns| columns.iter().any(|column| column == name));
        let mut columns = Vec::new();
        let mut source = Vec::with_capacity(schema.columns.len());
        for column in &schema.columns {
            let target = taken(&column.name).then_some(columns.len());
            source.push(target);
            if target.is_some() {
                columns.push(column.clone());
            }
        }
        let key = match &plan.key {
            Some(names) => names.iter().map(|name| schema.column_index(name)).collect(),
            None => schema.key.iter().map(|&index| Some(index)).collect::<Vec<_>>(),
        };
        let key: Option<Vec<usize>> = key.into_iter().map(|index| source.get(index?).copied().flatten()).collect();
        let key = key.ok_or_else(|| DecodeError::SchemaMismatch("the columns chosen leave out the key".into()))?;
        if key.is_empty() {
            return Err(DecodeError::SchemaMismatch("the table has no primary key, and no key is configured".into()));
        }
        let mut forms = Vec::with_capacity(columns.len());
        for column in &columns {
            let listed = plan.booleans.contains(&column.name);
            if listed && !matches!(column.kind, ColumnType::Integer { bytes: 1, .. } | ColumnType::Bit { bits: 1 }) {
                return Err(DecodeError::SchemaMismatch(format!("column {} is listed in booleans but is no TINYINT", column.name)));
            }
            let mut label = Vec::new();
            text::json_string(column.name.as_bytes(), &mut label);
            label.push(b':');
            let digits = match column.kind {
                ColumnType::Time { digits } | ColumnType::DateTime { digits } | ColumnType::Timestamp { digits } => digits,
                _ => 0,
            };
            let boolean = listed || column.kind == ColumnType::Bit { bits: 1 };
            let counts_empty = matches!(&column.kind, ColumnType::Enum { labels } if labels.iter().all(|label| !label.is_empty()));
            forms.push(Form { label: label.into(), digits, boolean, nullable: column.nullable, counts_empty });
        }
        Ok(Shape {
            source,
            schema: Arc::new(Schema { columns, key }),
            forms,
            decimal: plan.decimal,
            invalid_text: plan.invalid_text,
            builder: RowBuilder::default(),
            scratch: Vec::new(),
            counts: Substitutions::default(),
        })
    }

    /// The schema of the rows made.
    pub fn row_schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// What becomes of text that is invalid in its charset.
    pub fn invalid_text(&self) -> InvalidText {
        self.invalid_text
    }

    /// Per column of the table: its index in the rows made, `None` where the projection leaves it out.
    pub fn source_columns(&self) -> &[Option<usize>] {
        &self.source
    }

    /// Begins a row, whatever became of the one before.
    pub fn begin(&mut self) {
        self.builder.clear();
    }

    /// Appends the value of `column`, an index in [`Shape::row_schema`]; every column once, in order.
    pub fn push(&mut self, column: usize, value: &Value<'_>) -> Result<(), DecodeError> {
        let form = &self.forms[column];
        let out = self.builder.labelled_value(&form.label);
        form.write(value, self.decimal, &mut self.counts, out)
            .map_err(|fault| DecodeError::Column { column: self.schema.columns[column].name.clone(), fault })
    }

    /// Ends a row of which every column has been pushed.
    pub fn finish(&mut self) -> (Key, Row) {
        let key = Key::from_fragments(self.schema.key.iter().map(|&column| self.builder.column(column)));
        (key, self.builder.finish())
    }

    /// A row change as the tables take it: [`Change::Upsert`], with `old_key` only when the key differs, or [`Change::Delete`].
    pub fn change(&mut self, table: TableId, change: &RowChange<'_>) -> Result<Change, DecodeError> {
        if change.kind() == RowKind::Delete {
            return Ok(Change::Delete { table, key: self.key_before(change)? });
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.begin();
        for column in 0..self.forms.len() {
            self.push(column, &change.after(column, &mut scratch)?)?;
        }
        self.scratch = scratch;
        let (key, row) = self.finish();
        let moved = change.kind() == RowKind::Update && change.differs(&self.schema.key);
        let old_key = if moved { Some(self.key_before(change)?).filter(|old| *old != key) } else { None };
        Ok(Change::Upsert { table, old_key, key, row })
    }

    fn key_before(&mut self, change: &RowChange<'_>) -> Result<Key, DecodeError> {
        // The key alone is no row that goes out: what it has in common with one is counted there.
        let counts = self.counts;
        let mut scratch = std::mem::take(&mut self.scratch);
        let schema = Arc::clone(&self.schema);
        self.begin();
        for &column in &schema.key {
            self.push(column, &change.before(column, &mut scratch)?)?;
        }
        self.scratch = scratch;
        self.counts = counts;
        let key = Key::from_fragments((0..schema.key.len()).map(|part| self.builder.column(part)));
        self.builder.clear();
        Ok(key)
    }

    pub fn take_counts(&mut self) -> Substitutions {
        std::mem::take(&mut self.counts)
    }
}

/// Names in the plan that no column has, and those the projection leaves out although something needs them.
fn missing_columns(schema: &Schema, plan: &TablePlan) -> Result<(), DecodeError> {
    let mut missing = Vec::new();
    let named = plan.columns.iter().flatten().chain(plan.key.iter().flatten()).chain(&plan.booleans);
    for name in named.filter(|name| schema.column_index(name).is_none()) {
        missing.push(name.clone());
    }
    for (name, needed_by) in &plan.needed {
        let projected = plan.columns.as_ref().is_none_or(|columns| columns.contains(name));
        if schema.column_index(name).is_none() || !projected {
            missing.push(format!("{name} (needed by {needed_by})"));
        }
    }
    missing.sort();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DecodeError::SchemaMismatch(format!("{}.{} has no column {}", plan.database, plan.table, missing.join(", "))))
}

// === impl Form ===

impl Form {
    #[inline]
    fn write(&self, value: &Value<'_>, decimal: DecimalForm, counts: &mut Substitutions, out: &mut Vec<u8>) -> Result<(), Fault> {
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            &Value::Int(number) if self.boolean => boolean(number != 0, out),
            &Value::UInt(number) if self.boolean => boolean(number != 0, out),
            &Value::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
            &Value::UInt(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
            &Value::Float(number) => finite(text::float(number, out))?,
            &Value::Double(number) => finite(text::double(number, out))?,
            Value::Decimal(text) if decimal == DecimalForm::Number => out.extend_from_slice(text.as_bytes()),
            Value::Decimal(text) => quoted(out, |out| out.extend_from_slice(text.as_bytes())),
            &Value::Time { micros } => quoted(out, |out| text::time(micros, self.digits, out)),
            Value::Date { .. } | Value::DateTime { .. } | Value::Timestamp { .. } => self.write_date(value, counts, out),
            Value::Text(text) => {
                counts.invalid_enums += u64::from(self.counts_empty && text.is_empty());
                text::json_string(text.as_bytes(), out);
            }
            Value::ReplacedText(text) => {
                counts.replaced_texts += 1;
                text::json_string(text.as_bytes(), out);
            }
            Value::Bytes(bytes) => quoted(out, |out| text::base64(bytes, out)),
            Value::Json(text) => out.extend_from_slice(text.as_bytes()),
            Value::Geometry { srid, wkb } => {
                out.extend_from_slice(br#"{"wkb":""#);
                text::base64(wkb, out);
                out.extend_from_slice(br#"","srid":"#);
                out.extend_from_slice(itoa::Buffer::new().format(*srid).as_bytes());
                out.push(b'}');
            }
            Value::Vector(bytes) => vector(bytes, out)?,
        }
        Ok(())
    }

    /// Zero dates (month 0 or day 0) are null where the column allows it, else the server's text.
    fn write_date(&self, value: &Value<'_>, counts: &mut Substitutions, out: &mut Vec<u8>) {
        let zero = match *value {
            Value::Date { month, day, .. } | Value::DateTime { month, day, .. } => month == 0 || day == 0,
            Value::Timestamp { seconds, micros } => seconds == 0 && micros == 0,
            _ => false,
        };
        counts.zero_dates += u64::from(zero);
        if zero && self.nullable {
            return out.extend_from_slice(b"null");
        }
        out.push(b'"');
        let between = if zero { b' ' } else { b'T' };
        match *value {
            Value::Date { year, month, day } => text::date(year, month, day, out),
            Value::DateTime { year, month, day, hour, minute, second, micros } => {
                text::date(year, month, day, out);
                out.push(between);
                text::clock(u64::from(hour), u64::from(minute), u64::from(second), micros, self.digits, out);
            }
            Value::Timestamp { .. } if zero => {
                out.extend_from_slice(b"0000-00-00 00:00:00");
                text::fraction(0, self.digits, out);
            }
            Value::Timestamp { seconds, micros } => {
                text::timestamp(seconds, micros, self.digits, out);
                out.push(b'Z');
            }
            _ => {}
        }
        out.push(b'"');
    }
}

fn boolean(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn finite(written: bool) -> Result<(), Fault> {
    if written { Ok(()) } else { Err(Fault::Invalid("an infinite number or none, for which JSON has no text")) }
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn vector(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    out.push(b'[');
    for (index, float) in bytes.chunks_exact(4).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        finite(text::float(f32::from_bits(little_endian(float) as u32), out))?;
    }
    out.push(b']');
    Ok(())
}
