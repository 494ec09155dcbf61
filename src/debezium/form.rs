//! The form of one table's change records: its columns, key and modes, resolved once, and everything constant rendered once.

use std::ops::Range;
use std::sync::Arc;

use super::column::Codec;
use super::details::Details;
use super::schema::{self, Field};
use super::{Error, Record, json};
use crate::config::plan::{PublishPlan, TablePlan};
use crate::model::{Column, ColumnType, Schema, Substitutions, Value};

/// Writes the change records of one table. Valid for as long as the table's columns stay the same.
///
/// ```text
/// begin ─ push × columns ─ end     a row, appended to a buffer of the caller
/// row_key                          the bare key of the row ended last
/// write_key, write_value           the record's key and value
/// ```
pub struct Form {
    /// Per column of the table: its index in the rows, if it is there.
    source: Vec<Option<usize>>,
    schema: Arc<Schema>,
    columns: Vec<FormColumn>,
    /// Per part of the key, its label.
    key_labels: Vec<Box<[u8]>>,
    /// Per part of the key, where its value lies in the row written last, counted from the row's begin.
    key_spans: Vec<Range<usize>>,
    row_start: usize,
    /// Of the largest row so far.
    row_bytes: usize,
    key_prefix: Box<[u8]>,
    value_prefix: Box<[u8]>,
    /// `,"source":{…,"name":"shop","ts_ms":`
    source_head: Box<[u8]>,
    /// `,"db":"shop","sequence":null,"ts_us":`
    source_place: Box<[u8]>,
    /// `,"table":"products","server_id":`
    source_table: Box<[u8]>,
    schemas: bool,
    counts: Substitutions,
}

struct FormColumn {
    /// What stands before the value: `{` or `,`, the name as a JSON string, a colon.
    label: Box<[u8]>,
    codec: Codec,
    nullable: bool,
    key_part: Option<usize>,
}

impl Form {
    /// `schema` has all columns of the table in effect, `connector` is the name in the block `source`.
    ///
    /// [`Error::Table`] where the plan names columns that are not there, or no key is left.
    pub fn new(schema: &Schema, plan: &TablePlan, publish: &PublishPlan, details: &Details, connector: &str) -> Result<Form, Error> {
        let table = format!("{}.{}", plan.database, plan.table);
        let named = plan.columns.iter().flatten().chain(plan.key.iter().flatten()).chain(&plan.booleans);
        let missing: Vec<&str> = named.map(String::as_str).filter(|name| schema.column_index(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(Error::Table(format!("{table} has no column {}", missing.join(", "))));
        }
        let (source, taken) = projection(schema, plan);
        let key: Option<Vec<usize>> = match &plan.key {
            Some(names) => names.iter().map(|name| schema.column_index(name).and_then(|index| source[index])).collect(),
            None => schema.key.iter().map(|&index| source.get(index).copied().flatten()).collect(),
        };
        let key = key.ok_or_else(|| Error::Table(format!("the columns chosen of {table} leave out the key")))?;
        if key.is_empty() {
            return Err(Error::Table(format!("{table} has no primary key, and no key is configured")));
        }
        let mut columns = Vec::with_capacity(taken.len());
        for (index, column) in taken.iter().enumerate() {
            let boolean = plan.booleans.contains(&column.name);
            if boolean && !matches!(column.kind, ColumnType::Integer { bytes: 1, .. } | ColumnType::Bit { bits: 1 }) {
                return Err(Error::Table(format!("column {} of {table} is listed in booleans but is no TINYINT", column.name)));
            }
            let wide = details.of(&column.name).is_some_and(|details| details.declared_digits);
            columns.push(FormColumn {
                label: label(index, &column.name),
                codec: Codec::of(&column.kind, publish, boolean, wide),
                nullable: column.nullable,
                key_part: key.iter().position(|&part| part == index),
            });
        }
        let field = |index: usize| Field {
            column: &taken[index],
            codec: columns[index].codec,
            default: details.of(&taken[index].name).and_then(|details| details.default.as_ref()),
        };
        let (mut key_prefix, mut value_prefix) = (Vec::new(), Vec::new());
        if publish.schemas {
            let fields: Vec<Field<'_>> = key.iter().map(|&index| field(index)).collect();
            key_prefix.extend_from_slice(br#"{"schema":"#);
            schema::key(&publish.topic, &fields, &mut key_prefix);
            key_prefix.extend_from_slice(br#","payload":"#);
            value_prefix.extend_from_slice(br#"{"schema":"#);
            schema::envelope(&publish.topic, &(0..taken.len()).map(field).collect::<Vec<_>>(), &mut value_prefix);
            value_prefix.extend_from_slice(br#","payload":"#);
        }
        value_prefix.extend_from_slice(br#"{"before":"#);
        Ok(Form {
            source,
            key_labels: key.iter().enumerate().map(|(part, &index)| label(part, &taken[index].name)).collect(),
            key_spans: vec![0..0; key.len()],
            row_start: 0,
            row_bytes: 0,
            key_prefix: key_prefix.into(),
            value_prefix: value_prefix.into(),
            source_head: with_text(
                concat!(r#","source":{"version":""#, env!("CARGO_PKG_VERSION"), r#"","connector":"mysql","name":"#),
                connector,
                r#","ts_ms":"#,
            ),
            source_place: with_text(r#","db":"#, &plan.database, r#","sequence":null,"ts_us":"#),
            source_table: with_text(r#","table":"#, &plan.table, r#","server_id":"#),
            schemas: publish.schemas,
            columns,
            schema: Arc::new(Schema { columns: taken, key }),
            counts: Substitutions::default(),
        })
    }

    /// Per column of the table: its index in the rows made, `None` where the projection leaves it out.
    pub fn source_columns(&self) -> &[Option<usize>] {
        &self.source
    }

    /// The schema of the rows made.
    pub fn row_schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Begins a row at the end of `out`, whatever became of the one before.
    #[inline]
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        self.row_start = out.len();
        out.reserve(self.row_bytes);
    }

    /// Appends the value of `column`, an index in [`Form::row_schema`]; every column once, in order.
    #[inline]
    pub fn push(&mut self, out: &mut Vec<u8>, column: usize, value: &Value<'_>) -> Result<(), Error> {
        let form = &self.columns[column];
        out.extend_from_slice(&form.label);
        let start = out.len();
        form.codec
            .write(value, form.nullable, &mut self.counts, out)
            .map_err(|what| Error::Value { column: self.schema.columns[column].name.clone(), what })?;
        if let Some(part) = form.key_part {
            self.key_spans[part] = start - self.row_start..out.len() - self.row_start;
        }
        Ok(())
    }

    /// Ends a row of which every column has been pushed, and says where in `out` it lies.
    #[inline]
    pub fn end(&mut self, out: &mut Vec<u8>) -> Range<usize> {
        out.push(b'}');
        let row = self.row_start..out.len();
        self.row_bytes = self.row_bytes.max(row.len());
        row
    }

    /// Appends the bare key of the row ended last, given that row: `{"id":1}`, columns in key order.
    #[inline]
    pub fn row_key(&self, row: &[u8], out: &mut Vec<u8>) {
        for (label, span) in self.key_labels.iter().zip(&self.key_spans) {
            out.extend_from_slice(label);
            out.extend_from_slice(&row[span.clone()]);
        }
        out.push(b'}');
    }

    /// Appends a record's key, given the bare key.
    pub fn write_key(&self, key: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key_prefix);
        out.extend_from_slice(key);
        if self.schemas {
            out.push(b'}');
        }
    }

    /// Appends a record's value.
    pub fn write_value(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        const AROUND: usize = 640;
        let (before, after) = (record.before.unwrap_or(b"null"), record.after.unwrap_or(b"null"));
        out.reserve(self.value_prefix.len() + before.len() + after.len() + AROUND);
        out.extend_from_slice(&self.value_prefix);
        out.extend_from_slice(before);
        out.extend_from_slice(br#","after":"#);
        out.extend_from_slice(after);
        self.write_source(record, out);
        match record.transaction {
            None => out.extend_from_slice(br#"},"transaction":null,"op":""#),
            Some(transaction) => {
                out.extend_from_slice(br#"},"transaction":{"id":"#);
                json::string(transaction.id, out);
                out.extend_from_slice(br#","total_order":"#);
                number(transaction.total_order, out);
                out.extend_from_slice(br#","data_collection_order":"#);
                number(transaction.data_collection_order, out);
                out.extend_from_slice(br#"},"op":""#);
            }
        }
        out.extend_from_slice(record.op.letter().as_bytes());
        out.extend_from_slice(br#"","ts_ms":"#);
        number(record.now_ns.div_euclid(1_000_000), out);
        out.extend_from_slice(br#","ts_us":"#);
        number(record.now_ns.div_euclid(1000), out);
        out.extend_from_slice(br#","ts_ns":"#);
        number(record.now_ns, out);
        out.extend_from_slice(if self.schemas { b"}}" } else { b"}" });
    }

    /// `,"source":{…`, still open.
    #[inline]
    fn write_source(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let source = record.source;
        out.extend_from_slice(&self.source_head);
        number(source.ts_us.div_euclid(1000), out);
        out.extend_from_slice(br#","snapshot":""#);
        out.extend_from_slice(source.snapshot.word().as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.source_place);
        number(source.ts_us, out);
        out.extend_from_slice(br#","ts_ns":"#);
        number(source.ts_us.saturating_mul(1000), out);
        out.extend_from_slice(&self.source_table);
        number(source.server_id, out);
        out.extend_from_slice(br#","gtid":"#);
        match source.gtid {
            Some(gtid) => json::string(gtid, out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(br#","file":"#);
        json::string(source.file, out);
        out.extend_from_slice(br#","pos":"#);
        number(source.pos, out);
        out.extend_from_slice(br#","row":"#);
        number(source.row, out);
        out.extend_from_slice(br#","thread":"#);
        match source.thread {
            Some(thread) => number(thread, out),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(br#","query":null"#);
    }

    pub fn take_counts(&mut self) -> Substitutions {
        std::mem::take(&mut self.counts)
    }
}

/// Per column of the table its index in the rows, and the columns of the rows.
fn projection(schema: &Schema, plan: &TablePlan) -> (Vec<Option<usize>>, Vec<Column>) {
    let mut taken = Vec::new();
    let mut source = Vec::with_capacity(schema.columns.len());
    for column in &schema.columns {
        let wanted = plan.columns.as_ref().is_none_or(|columns| columns.contains(&column.name));
        source.push(wanted.then_some(taken.len()));
        if wanted {
            taken.push(column.clone());
        }
    }
    (source, taken)
}

/// `{"name":` of the first member of an object, `,"name":` of the others.
fn label(index: usize, name: &str) -> Box<[u8]> {
    with_text(if index == 0 { "{" } else { "," }, name, ":")
}

/// A text as JSON string between two pieces.
fn with_text(before: &str, text: &str, after: &str) -> Box<[u8]> {
    let mut out = before.as_bytes().to_vec();
    json::string(text, &mut out);
    out.extend_from_slice(after.as_bytes());
    out.into()
}

#[inline]
fn number(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{BigintUnsignedMode, BinaryMode, DecimalMode, TimeMode};
    use crate::debezium::{ColumnDefault, ColumnDetails, Op, Snapshot, Source};

    fn table() -> Schema {
        let column = |name: &str, kind, nullable| Column { name: name.into(), kind, nullable };
        let columns = vec![
            column("b", ColumnType::Text { collation: 255 }, false),
            column("at", ColumnType::DateTime { digits: 0 }, true),
            column("a", ColumnType::Integer { bytes: 1, unsigned: false }, false),
            column("e", ColumnType::Enum { labels: vec!["x".into()] }, true),
        ];
        Schema { columns, key: vec![2, 0] }
    }

    fn plan() -> TablePlan {
        TablePlan::new("t", "shop", "t")
    }

    fn publish(time: TimeMode) -> PublishPlan {
        PublishPlan {
            topic: "shop.t".into(),
            schemas: false,
            time,
            decimal: DecimalMode::String,
            bigint_unsigned: BigintUnsignedMode::Long,
            binary: BinaryMode::Bytes,
            tombstones: true,
            transactions: false,
            partitions: 1,
        }
    }

    fn form(plan: &TablePlan, time: TimeMode) -> Result<Form, Error> {
        Form::new(&table(), plan, &publish(time), &Details::default(), "shop")
    }

    fn row(form: &mut Form, values: &[Value<'_>]) -> Result<(String, String), Error> {
        // What stands before a row in the buffer is not its own.
        let (mut out, mut key) = (b"before".to_vec(), Vec::new());
        form.begin(&mut out);
        for (column, value) in values.iter().enumerate() {
            form.push(&mut out, column, value)?;
        }
        let row = form.end(&mut out);
        form.row_key(&out[row.clone()], &mut key);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        Ok((text(&out[row]), text(&key)))
    }

    fn moment(year: u16, month: u8) -> Value<'static> {
        Value::DateTime { year, month, day: 1, hour: 0, minute: 0, second: 1, micros: 0 }
    }

    fn text(text: &str) -> Value<'_> {
        Value::Text(text.into())
    }

    #[test]
    fn rows_stand_in_the_order_of_the_table_and_keys_in_that_of_the_key() {
        let mut form = form(&plan(), TimeMode::AdaptiveTimeMicroseconds).expect("a form");
        let written = row(&mut form, &[text("y\""), moment(1970, 1), Value::Int(-1), Value::Null]).expect("a row");
        assert_eq!(written, (r#"{"b":"y\"","at":1000,"a":-1,"e":null}"#.into(), r#"{"a":-1,"b":"y\""}"#.into()));
        let again = row(&mut form, &[text(""), moment(1970, 0), Value::Int(12), text("")]).expect("a row");
        assert_eq!(again, (r#"{"b":"","at":null,"a":12,"e":""}"#.into(), r#"{"a":12,"b":""}"#.into()));
        assert_eq!(form.take_counts(), Substitutions { zero_dates: 1, invalid_enums: 1, replaced_texts: 0 });
        assert_eq!(form.take_counts(), Substitutions::default());
    }

    #[test]
    fn the_plan_chooses_columns_key_and_booleans() {
        let chosen =
            TablePlan { columns: Some(vec!["a".into(), "b".into()]), key: Some(vec!["b".into()]), booleans: vec!["a".into()], ..plan() };
        let mut form = form(&chosen, TimeMode::Connect).expect("a form");
        assert_eq!(form.source_columns(), [Some(0), None, Some(1), None]);
        assert_eq!(row(&mut form, &[text("y"), Value::Int(1)]), Ok((r#"{"b":"y","a":true}"#.into(), r#"{"b":"y"}"#.into())));
        let mut key = Vec::new();
        form.write_key(br#"{"b":"y"}"#, &mut key);
        assert_eq!(key, br#"{"b":"y"}"#);
    }

    #[test]
    fn a_plan_that_does_not_fit_is_refused() {
        let refused = |plan: TablePlan| form(&plan, TimeMode::Connect).err().expect("refused").to_string();
        assert_eq!(refused(TablePlan { columns: Some(vec!["a".into(), "x".into()]), ..plan() }), "shop.t has no column x");
        assert_eq!(refused(TablePlan { columns: Some(vec!["a".into()]), ..plan() }), "the columns chosen of shop.t leave out the key");
        assert_eq!(
            refused(TablePlan { booleans: vec!["b".into()], ..plan() }),
            "column b of shop.t is listed in booleans but is no TINYINT"
        );
        let keyless = Schema { key: vec![], ..table() };
        let error = Form::new(&keyless, &plan(), &publish(TimeMode::Connect), &Details::default(), "shop").err().expect("refused");
        assert_eq!(error.to_string(), "shop.t has no primary key, and no key is configured");
    }

    #[test]
    fn a_value_without_a_form_names_its_column_and_spoils_no_other_row() {
        let mut form = form(&plan(), TimeMode::Nanoseconds).expect("a form");
        let error = row(&mut form, &[text("y"), moment(1677, 1)]).expect_err("out of range");
        assert_eq!(error.to_string(), "column at: a time that 64 bits of nanoseconds cannot hold (1677 to 2262)");
        let error = row(&mut form, &[Value::Int(1)]).expect_err("another type");
        assert_eq!(error.to_string(), "column b: a value of another type than its column");
        let (_, key) = row(&mut form, &[text("y"), moment(2262, 1), Value::Int(1), text("x")]).expect("a row");
        assert_eq!(key, r#"{"a":1,"b":"y"}"#);
    }

    #[test]
    fn defaults_that_are_unreadable_in_a_mode_are_left_out() {
        let details =
            |default| Details { columns: vec![ColumnDetails { name: "at".into(), default: Some(default), declared_digits: false }] };
        let schema = |default| {
            let publish = PublishPlan { schemas: true, ..publish(TimeMode::Nanoseconds) };
            let form = Form::new(&table(), &plan(), &publish, &details(default), "shop").expect("a form");
            String::from_utf8(form.value_prefix.to_vec()).expect("text")
        };
        let at = |default: &str| format!(r#""name":"io.debezium.time.NanoTimestamp","version":1{default},"field":"at""#);
        assert!(schema(ColumnDefault::Now).contains(&at(r#","default":0"#)));
        assert!(schema(ColumnDefault::Value(moment(1970, 1))).contains(&at(r#","default":1000000000"#)));
        for none in [moment(1000, 1), moment(1970, 0), Value::Null, Value::Int(1)] {
            assert!(schema(ColumnDefault::Value(none)).contains(&at("")));
        }
    }

    #[test]
    fn a_truncation_has_no_rows() {
        let form = form(&plan(), TimeMode::Connect).expect("a form");
        let source = Source {
            ts_us: 1_999,
            snapshot: Snapshot::False,
            server_id: 7,
            gtid: None,
            file: "binlog.000001",
            pos: 4,
            row: 0,
            thread: None,
        };
        let mut value = Vec::new();
        let record = Record { op: Op::Truncate, before: None, after: None, source: &source, now_ns: 2_000_001, transaction: None };
        form.write_value(&record, &mut value);
        let expected = format!(
            r#"{{"before":null,"after":null,"source":{{"version":"{}","connector":"mysql","name":"shop","ts_ms":1,"snapshot":"false","db":"shop","sequence":null,"ts_us":1999,"ts_ns":1999000,"table":"t","server_id":7,"gtid":null,"file":"binlog.000001","pos":4,"row":0,"thread":null,"query":null}},"transaction":null,"op":"t","ts_ms":2,"ts_us":2000,"ts_ns":2000001}}"#,
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(String::from_utf8(value).expect("text"), expected);
    }
}
