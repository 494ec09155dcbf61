//! Our records beside those of a real Debezium: the same rows of the binlog, decoded by us, and what Debezium wrote of them in every mode
//! (`fixtures/debezium`, recorded by `scripts/debezium`). Bytes must be the same but for the differences of [`KNOWN`], each of which
//! has its reason and must occur. docs/coming-from-debezium.md lists them for readers.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Details, Error, Form, Op, Record, Snapshot, Source, TransactionBlock};
use crate::config::plan::{BigintUnsignedMode, BinaryMode, DecimalMode, InvalidText, PublishPlan, TablePlan, TimeMode};
use crate::model::{ColumnType, Schema};
use crate::mysql::decode::{RowChange, RowKind, RowReader, RowsEvent};
use crate::mysql::defaults::{Declared, described};
use crate::mysql::table_map::TableMap;

const DEBEZIUM: &str = "3.6.1.Final";

/// A difference between a field of Debezium's record and of ours.
struct Difference<'a> {
    table: &'a str,
    column: &'a str,
    kind: &'a ColumnType,
    /// The row's bare key as we write it.
    key: &'a str,
    snapshot: bool,
    debezium: &'a str,
    ours: &'a str,
}

/// A reason to differ.
struct Known {
    reason: &'static str,
    is: fn(&Difference<'_>) -> bool,
}

const KNOWN: &[Known] = &[
    Known {
        reason: "BIGINT UNSIGNED as long: the true number, not one that overflowed",
        is: |d| {
            matches!(d.kind, ColumnType::Integer { bytes: 8, unsigned: true })
                && d.debezium.parse::<i64>().ok().map(|number| number as u64) == d.ours.parse().ok()
        },
    },
    Known {
        reason: "FLOAT in a snapshot: Debezium reads the six digits that the server prints, we read the exact value",
        is: |d| {
            let near = |a: f32, b: f32| (a - b).abs() <= b.abs() * 1e-5;
            d.snapshot && *d.kind == ColumnType::Float && number(d.debezium).zip(number(d.ours)).is_some_and(|(a, b)| near(a, b))
        },
    },
    Known {
        reason: "FLOAT and DOUBLE: the shortest digits, as Java has them from 19 on; older ones now and then print one more",
        is: |d| {
            let same = number(d.debezium) == number(d.ours);
            !d.snapshot && *d.kind == ColumnType::Float && same && d.debezium.len() == d.ours.len() + 1
        },
    },
    Known {
        reason: "YEAR 0000 is 0, not 2000 (snapshot) or 1900 (binlog)",
        is: |d| *d.kind == ColumnType::Year && d.ours == "0" && d.debezium == if d.snapshot { "2000" } else { "1900" },
    },
    Known {
        reason: "TIMESTAMP in a snapshot: the column's digits as from the binlog, where Debezium cuts zeros",
        is: |d| {
            let whole = |text: &str| {
                let moment = text.trim_end_matches("Z\"");
                if moment.contains('.') { moment.trim_end_matches('0').trim_end_matches('.').to_owned() } else { moment.to_owned() }
            };
            d.snapshot && matches!(d.kind, ColumnType::Timestamp { .. }) && whole(d.ours) == whole(d.debezium)
        },
    },
    Known {
        reason: "years 0001 to 0099 stay what they are; Debezium makes 1970 to 2069 of them (enable.time.adjuster)",
        is: |d| d.table == "odd_times" && is_date(d.kind) && matches!(d.key, r#"{"id":3}"# | r#"{"id":4}"#),
    },
    Known {
        reason: "days of 1582 and before in a snapshot: by the Gregorian calendar as from the binlog, where Debezium takes the Julian one",
        is: |d| d.table == "odd_times" && d.snapshot && is_date(d.kind) && d.key == r#"{"id":6}"#,
    },
    Known {
        reason: "TIME outside a day: its value; Debezium has null, or 00:00 for 24:00",
        is: |d| {
            let outside = match d.ours.strip_prefix('"') {
                Some(text) => {
                    text.starts_with('-') || text.split(':').next().and_then(|hour| hour.parse().ok()).is_some_and(|hour: u32| hour >= 24)
                }
                // A microsecond below zero is 0.
                None => d.ours.parse().is_ok_and(|millis: i64| millis <= 0 || millis >= 86_400_000),
            };
            matches!(d.kind, ColumnType::Time { .. }) && outside && matches!(d.debezium, "null" | r#""00:00:00Z""#)
        },
    },
    Known {
        reason: "ENUM from the binlog: the label, without the backslash that Debezium leaves before a comma",
        is: |d| !d.snapshot && matches!(d.kind, ColumnType::Enum { .. }) && d.debezium == r#""a\\,b""# && d.ours == r#""a,b""#,
    },
    Known {
        reason: "JSON: the server's text without white space, the same from snapshot and binlog; Debezium has white space in a snapshot, and \
                 from the binlog its own forms of numbers, times and opaque values",
        is: |d| {
            let text = |json: &str| serde_json::from_str::<String>(json).ok();
            let value = |json: &str| serde_json::from_str::<serde_json::Value>(&text(json)?).ok();
            let own_forms = matches!(d.key, r#"{"id":"json"}"# | r#"{"id":"line sep"}"#);
            *d.kind == ColumnType::Json && (own_forms || value(d.debezium).is_some() && value(d.debezium) == value(d.ours))
        },
    },
    Known {
        reason: "NULL in a column with a default: null; Debezium's converter writes the default (replace.null.with.default)",
        is: |d| d.ours == "null" && d.column == "vb_d",
    },
    Known {
        reason: "default of a schema: the column's; Debezium's parser leaves \\\\ as it is, cuts BIGINT UNSIGNED, drops a negative TIME, \
                 reads an expression as a value and a VARBINARY as its digits",
        is: |d| d.key == "schema" && without_default(d.debezium) == without_default(d.ours),
    },
];

fn is_date(kind: &ColumnType) -> bool {
    matches!(kind, ColumnType::Date | ColumnType::DateTime { .. })
}

fn number(text: &str) -> Option<f32> {
    text.parse().ok()
}

fn without_default(field: &str) -> String {
    match field.split_once(r#","default":"#) {
        Some((before, after)) => format!("{before}{}", &after[after.rfind(r#","field":"#).expect("fields have names")..]),
        None => field.to_owned(),
    }
}

// === what was recorded ===

/// One record of Debezium, payloads only.
struct Golden {
    key: Option<String>,
    value: Option<String>,
    headers: String,
}

/// Records and schemas of one connector, by table.
struct Recorded {
    records: BTreeMap<String, Vec<Golden>>,
    schemas: BTreeMap<(String, String), String>,
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/debezium").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn recorded(connector: &str) -> Recorded {
    let mut recorded = Recorded { records: BTreeMap::new(), schemas: BTreeMap::new() };
    for line in fixture(&format!("{connector}.txt")).lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        match parts[..] {
            ["schema", table, part, schema] => {
                let before = recorded.schemas.insert((table.to_owned(), part.to_owned()), schema.to_owned());
                assert!(before.is_none(), "{connector} {table}: one schema");
            }
            ["record", table, key, value, headers] => {
                let text = |part: &str| Some(part.to_owned()).filter(|part| part != "-");
                let golden = Golden { key: text(key), value: text(value), headers: headers.to_owned() };
                recorded.records.entry(table.to_owned()).or_default().push(golden);
            }
            _ => panic!("{connector}: {line}"),
        }
    }
    recorded
}

enum Event {
    Map(Vec<u8>),
    Rows { position: u64, event_type: u8, body: Vec<u8> },
}

fn events() -> Vec<Event> {
    let bytes = |hex: &str| -> Vec<u8> {
        hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex")).collect()
    };
    let event = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        ["map", _, hex] => Event::Map(bytes(hex)),
        ["rows", position, event_type, hex] => Event::Rows {
            position: position.parse().expect("a position"),
            event_type: event_type.parse().expect("a type"),
            body: bytes(hex),
        },
        _ => panic!("{line}"),
    };
    fixture("events.txt").lines().map(event).collect()
}

/// Full type and default, by table and column.
fn catalogue() -> BTreeMap<(String, String), (String, Option<Declared>)> {
    let column = |line: &str| {
        let (table, column, full_type, default, extra): (String, String, String, Option<String>, String) =
            serde_json::from_str(line).expect("a line of columns.txt");
        ((table, column), (full_type, default.map(|text| Declared::of_mysql(&text, &extra))))
    };
    fixture("columns.txt").lines().map(column).collect()
}

/// The members of a JSON object as texts, in order.
fn members(object: &str) -> Vec<(&str, &str)> {
    let inside = object.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_else(|| panic!("no object: {object}"));
    parts(inside)
        .into_iter()
        .map(|part| part.split_once(':').expect("a member has a name"))
        .map(|(name, value)| (name.trim_matches('"'), value))
        .collect()
}

/// Splits at the commas that stand in no string, object or array.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut in_string, mut escaped, mut begin) = (Vec::new(), 0, false, false, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts.retain(|part| !part.is_empty());
    parts
}

fn member<'a>(object: &'a str, name: &str) -> &'a str {
    members(object).into_iter().find(|(found, _)| *found == name).unwrap_or_else(|| panic!("no {name}: {object}")).1
}

// === what we make of it ===

/// One of our records before the parts are put together.
#[derive(Debug)]
struct Ours {
    op: Op,
    key: String,
    old_key: Option<String>,
    before: Option<String>,
    after: Option<String>,
    position: u64,
    row: u64,
    /// Why it cannot be written.
    refused: Option<Error>,
}

fn plan(connector: &str, table: &str) -> TablePlan {
    let mut publish = PublishPlan {
        topic: format!("{connector}.golden.{table}"),
        schemas: true,
        time: TimeMode::AdaptiveTimeMicroseconds,
        decimal: DecimalMode::Precise,
        bigint_unsigned: BigintUnsignedMode::Long,
        binary: BinaryMode::Bytes,
        tombstones: true,
        transactions: connector == "schemas",
        partitions: 1,
    };
    match connector {
        "plain" => (publish.schemas, publish.decimal) = (false, DecimalMode::String),
        "schemas" => {}
        "connect" => {
            (publish.time, publish.decimal) = (TimeMode::Connect, DecimalMode::String);
            (publish.bigint_unsigned, publish.binary) = (BigintUnsignedMode::Precise, BinaryMode::Base64);
        }
        "isostring" => {
            (publish.time, publish.decimal) = (TimeMode::Isostring, DecimalMode::Double);
            publish.binary = BinaryMode::Base64UrlSafe;
        }
        "microseconds" => (publish.time, publish.binary) = (TimeMode::Microseconds, BinaryMode::Hex),
        "nanoseconds" => publish.time = TimeMode::Nanoseconds,
        _ => panic!("{connector}"),
    }
    TablePlan { publish: Some(publish), ..TablePlan::new(table, "golden", table) }
}

struct Tables {
    connector: &'static str,
    /// By table: what reads and writes its rows.
    forms: BTreeMap<String, (RowReader, Form)>,
    ours: BTreeMap<String, Vec<Ours>>,
}

impl Tables {
    /// Plays the events.
    fn read(connector: &'static str) -> Tables {
        let mut tables = Tables { connector, forms: BTreeMap::new(), ours: BTreeMap::new() };
        let catalogue = catalogue();
        let mut ids: BTreeMap<u64, String> = BTreeMap::new();
        for event in &events() {
            match event {
                Event::Map(body) => {
                    let map = TableMap::parse(body).expect("a table map");
                    let schema = map.schema(&Schema { columns: vec![], key: vec![] }).expect("full metadata");
                    let plan = plan(connector, &map.table);
                    let columns = schema.columns.iter().map(|column| {
                        let (full_type, default) = &catalogue[&(map.table.clone(), column.name.clone())];
                        described(column, full_type, default.as_ref())
                    });
                    let details = Details { columns: columns.collect() };
                    let publish = plan.publish.as_ref().expect("published");
                    let form = Form::new(&schema, &plan, publish, &details, connector).expect("a form");
                    let reader = RowReader::new(&map, form.source_columns(), form.row_schema(), InvalidText::Stop).expect("a reader");
                    ids.insert(map.table_id, map.table.clone());
                    tables.forms.insert(map.table, (reader, form));
                }
                Event::Rows { position, event_type, body } => {
                    let event = RowsEvent::parse(*event_type, body).expect("rows");
                    tables.rows(&ids[&event.table_id()], *position, &event);
                }
            }
        }
        tables
    }

    fn rows(&mut self, table: &str, position: u64, event: &RowsEvent<'_>) {
        let (reader, form) = self.forms.get_mut(table).expect("a map before its rows");
        let ours = self.ours.entry(table.to_owned()).or_default();
        let mut row = 0;
        reader
            .each(event, |change| {
                let (op, has_before, has_after) = match change.kind() {
                    RowKind::Insert => (Op::Create, false, true),
                    RowKind::Update => (Op::Update, true, true),
                    RowKind::Delete => (Op::Delete, true, false),
                };
                let mut refused = None;
                let (mut before, mut after) = (None, None);
                if has_before {
                    before = Some(write(form, change, true, &mut refused));
                }
                if has_after {
                    after = Some(write(form, change, false, &mut refused));
                }
                let key = after.as_ref().or(before.as_ref()).expect("a row").1.clone();
                let old_key = before.as_ref().map(|(_, key)| key.clone()).filter(|old| op == Op::Update && *old != key);
                let text = |row: Option<(String, String)>| row.map(|(text, _)| text);
                ours.push(Ours { op, key, old_key, before: text(before), after: text(after), position, row, refused });
                row += 1;
                Ok(())
            })
            .expect("rows that can be read");
    }
}

/// A row and its bare key. A row that is refused is written up to there.
fn write(form: &mut Form, change: &RowChange<'_>, before: bool, refused: &mut Option<Error>) -> (String, String) {
    let (mut out, mut key, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
    form.begin(&mut out);
    for column in 0..form.row_schema().columns.len() {
        scratch.clear();
        let value = if before { change.before(column, &mut scratch) } else { change.after(column, &mut scratch) };
        if let Err(error) = form.push(&mut out, column, &value.expect("a value that can be read")) {
            *refused = Some(error);
            break;
        }
    }
    let row = form.end(&mut out);
    form.row_key(&out[row], &mut key);
    (String::from_utf8(out).expect("text"), String::from_utf8(key).expect("text"))
}

// === comparison ===

struct Comparison {
    tables: Tables,
    recorded: Recorded,
    /// Which of [`KNOWN`] occurred.
    occurred: Vec<bool>,
    wrong: Vec<String>,
    compared: usize,
}

/// `None` where texts are equal or differ for a reason that is known, which is noted.
fn unknown(difference: &Difference<'_>, occurred: &mut [bool]) -> Option<String> {
    if difference.debezium == difference.ours {
        return None;
    }
    match KNOWN.iter().position(|known| (known.is)(difference)) {
        Some(known) => {
            occurred[known] = true;
            None
        }
        None => Some(format!(
            "{}.{} of {} {}\n    debezium {}\n    ours     {}",
            difference.table,
            difference.column,
            difference.key,
            if difference.snapshot { "in the snapshot" } else { "from the binlog" },
            difference.debezium,
            difference.ours
        )),
    }
}

impl Comparison {
    fn of(connector: &'static str) -> Comparison {
        let (tables, recorded) = (Tables::read(connector), recorded(connector));
        Comparison { tables, recorded, occurred: vec![false; KNOWN.len()], wrong: Vec::new(), compared: 0 }
    }

    fn run(mut self) -> Vec<bool> {
        for (table, records) in std::mem::take(&mut self.recorded.records) {
            let first = records.iter().find_map(|golden| golden.value.as_deref()).expect("a value");
            let snapshot_position: u64 = member(member(first, "source"), "pos").parse().expect("a position");
            let mut ours = self.tables.ours.remove(&table).unwrap_or_default();
            let changes = ours.split_off(ours.iter().take_while(|ours| ours.position < snapshot_position).count());
            self.schemas(&table);
            let (read, streamed): (Vec<_>, Vec<_>) =
                records.into_iter().partition(|golden| golden.value.as_deref().is_some_and(|value| member(value, "op") == r#""r""#));
            self.snapshot(&table, &read, ours);
            self.stream(&table, streamed, changes);
        }
        assert!(self.wrong.is_empty(), "{}:\n{}", self.tables.connector, self.wrong.join("\n"));
        assert!(self.compared > 100, "only {} records", self.compared);
        self.occurred
    }

    /// Rows of a snapshot come in the order of the key, ours in the order of their insertion.
    fn snapshot(&mut self, table: &str, golden: &[Golden], mut ours: Vec<Ours>) {
        for golden in golden {
            let after = member(golden.value.as_deref().expect("a row"), "after");
            let names: Vec<&str> = members(golden.key.as_deref().expect("a key")).into_iter().map(|(name, _)| name).collect();
            let found = ours.iter().position(|ours| {
                let row = ours.after.as_deref().expect("inserted");
                ours.refused.is_none()
                    && names.iter().all(|name| self.agree(table, name, &ours.key, member(after, name), member(row, name), true))
            });
            match found {
                Some(index) => {
                    let ours = ours.remove(index);
                    self.record(table, golden, Some(&ours), Op::Read);
                }
                None => self.refused(table, golden, &mut ours),
            }
        }
        ours.retain(|ours| ours.refused.is_none());
        self.wrong.extend(ours.iter().map(|ours| format!("{table}: nothing of Debezium for {ours:?}")));
    }

    /// A row that we refuse: only in nanoseconds, where Debezium moves the year or drops the row.
    fn refused(&mut self, table: &str, golden: &Golden, ours: &mut Vec<Ours>) {
        let at = ours.iter().position(|ours| ours.refused.is_some() && Some(&ours.key) == golden.key.as_ref());
        match at {
            Some(at) if self.tables.connector == "nanoseconds" => _ = ours.remove(at),
            _ => self.wrong.push(format!("{table}: nothing of ours for {:?}", golden.key)),
        }
    }

    fn stream(&mut self, table: &str, golden: Vec<Golden>, ours: Vec<Ours>) {
        let mut golden = golden.into_iter().peekable();
        for ours in ours {
            while golden.peek().is_some_and(|golden| golden.key.is_none()) {
                let truncate = golden.next().expect("peeked");
                self.record(table, &truncate, None, Op::Truncate);
            }
            if ours.refused.is_some() {
                assert_eq!(self.tables.connector, "nanoseconds", "{ours:?}");
                let _ = golden.next_if(|golden| golden.key.as_ref() == Some(&ours.key));
                continue;
            }
            let deletes = ours.op == Op::Delete || ours.old_key.is_some();
            let mut next = || golden.next().unwrap_or_else(|| panic!("{table}: nothing of Debezium for {ours:?}"));
            let first = next();
            if deletes {
                let tombstone = next();
                assert!(tombstone.value.is_none() && tombstone.key == first.key, "{table}: a tombstone after a delete");
                let header = ours.old_key.as_ref().map_or_else(String::new, |_| format!("{}={}", super::NEW_KEY_HEADER, ours.key));
                assert_eq!((&first.headers, &tombstone.headers), (&header, &header), "{table}");
                let removed = Ours {
                    key: ours.old_key.clone().unwrap_or_else(|| ours.key.clone()),
                    before: ours.before.clone(),
                    after: None,
                    old_key: None,
                    refused: None,
                    ..ours
                };
                self.record(table, &first, Some(&removed), Op::Delete);
                if let Some(old_key) = &ours.old_key {
                    let second = next();
                    assert_eq!(second.headers, format!("{}={old_key}", super::OLD_KEY_HEADER));
                    let created =
                        Ours { key: ours.key.clone(), before: None, after: ours.after.clone(), old_key: None, refused: None, ..ours };
                    self.record(table, &second, Some(&created), Op::Create);
                }
            } else {
                self.record(table, &first, Some(&ours), ours.op);
            }
        }
        assert!(golden.peek().is_none(), "{table}: nothing of ours for {:?}", golden.peek().map(|golden| &golden.key));
    }

    /// Whether two texts of a column are equal or differ for a known reason.
    fn agree(&mut self, table: &str, column: &str, key: &str, debezium: &str, ours: &str, snapshot: bool) -> bool {
        let schema = self.tables.forms[table].1.row_schema();
        let kind = &schema.columns[schema.column_index(column).expect("a column")].kind;
        let difference = Difference { table, column, kind, key, snapshot, debezium, ours };
        unknown(&difference, &mut self.occurred).is_none()
    }

    /// Debezium's row with our texts where they differ for a known reason; what differs otherwise is noted.
    fn expected(&mut self, table: &str, key: &str, debezium: &str, ours: &str, snapshot: bool) -> String {
        if debezium == "null" || ours == "null" {
            return debezium.to_owned();
        }
        let schema = self.tables.forms[table].1.row_schema();
        let mut row = Vec::new();
        for ((column, debezium), (ours_column, ours)) in members(debezium).into_iter().zip(members(ours)) {
            assert_eq!(column, ours_column, "{table}");
            let kind = &schema.columns[schema.column_index(column).expect("a column")].kind;
            let difference = Difference { table, column, kind, key, snapshot, debezium, ours };
            self.wrong.extend(unknown(&difference, &mut self.occurred));
            row.push(format!("\"{column}\":{ours}"));
        }
        format!("{{{}}}", row.join(","))
    }

    fn record(&mut self, table: &str, golden: &Golden, ours: Option<&Ours>, op: Op) {
        let value = golden.value.as_deref().expect("a value");
        let (source, transaction) = (member(value, "source"), member(value, "transaction"));
        let number = |object: &str, name: &str| member(object, name).parse::<i64>().expect("a number");
        let text = |object: &str, name: &str| Some(member(object, name).trim_matches('"').to_owned()).filter(|text| text != "null");
        let (gtid, file) = (text(source, "gtid"), text(source, "file").expect("a file"));
        if let Some(ours) = ours.filter(|_| op != Op::Read) {
            assert_eq!((number(source, "pos"), number(source, "row")), (ours.position as i64, ours.row as i64), "{table} {}", ours.key);
        }
        let source_block = Source {
            ts_us: number(source, "ts_us"),
            snapshot: snapshot_of(&text(source, "snapshot").expect("a word")),
            server_id: number(source, "server_id") as u32,
            gtid: gtid.as_deref(),
            file: &file,
            pos: number(source, "pos") as u64,
            row: number(source, "row") as u64,
            thread: text(source, "thread").map(|thread| thread.parse().expect("a number")),
        };
        let id = if transaction == "null" { None } else { text(transaction, "id") };
        let block = id.as_deref().map(|id| TransactionBlock {
            id,
            total_order: number(transaction, "total_order") as u64,
            data_collection_order: number(transaction, "data_collection_order") as u64,
        });
        let (key, before, after) = match ours {
            Some(ours) => (ours.key.as_str(), if op == Op::Create { None } else { ours.before.as_deref() }, ours.after.as_deref()),
            None => ("", None, None),
        };
        let record = Record {
            op,
            before: before.map(str::as_bytes),
            after: after.map(str::as_bytes),
            source: &source_block,
            now_ns: number(value, "ts_ns"),
            transaction: block.as_ref(),
        };
        let mut written = Vec::new();
        self.tables.forms[table].1.write_value(&record, &mut written);
        let written = String::from_utf8(written).expect("text");
        let snapshot = op == Op::Read;
        let mut expected = Vec::new();
        for (name, debezium) in members(value) {
            let text = match name {
                "before" => self.expected(table, key, debezium, before.unwrap_or("null"), snapshot),
                "after" => self.expected(table, key, debezium, after.unwrap_or("null"), snapshot),
                "source" => debezium.replace(DEBEZIUM, env!("CARGO_PKG_VERSION")),
                _ => debezium.to_owned(),
            };
            expected.push(format!("\"{name}\":{text}"));
        }
        let expected = format!("{{{}}}", expected.join(","));
        if let Some(schema) = self.recorded.schemas.get(&(table.to_owned(), "value".to_owned())) {
            let (_, payload) = written.split_once(r#","payload":"#).expect("schema and payload");
            assert!(schema.starts_with('{') && payload.ends_with('}'));
            assert_eq!(payload, format!("{expected}}}"), "{table} {key}");
        } else {
            assert_eq!(written, expected, "{table} {key}");
        }
        if let (Some(golden), Some(ours)) = (&golden.key, ours) {
            let expected = self.expected(table, key, golden, &ours.key, snapshot);
            assert_eq!(ours.key, expected, "{table}");
            let mut written = Vec::new();
            self.tables.forms[table].1.write_key(ours.key.as_bytes(), &mut written);
            let expected = match self.recorded.schemas.get(&(table.to_owned(), "key".to_owned())) {
                Some(schema) => format!(r#"{{"schema":{schema},"payload":{expected}}}"#),
                None => expected,
            };
            assert_eq!(String::from_utf8(written).expect("text"), expected, "{table}");
        }
        self.compared += 1;
    }

    /// The schema of values, field by field and then as a whole.
    fn schemas(&mut self, table: &str) {
        let Some(golden) = self.recorded.schemas.get(&(table.to_owned(), "value".to_owned())) else { return };
        let form = &self.tables.forms[table].1;
        let schema = form.row_schema();
        let source = Source { ts_us: 0, snapshot: Snapshot::False, server_id: 1, gtid: None, file: "", pos: 4, row: 0, thread: None };
        let mut written = Vec::new();
        let record = Record { op: Op::Truncate, before: None, after: None, source: &source, now_ns: 0, transaction: None };
        form.write_value(&record, &mut written);
        let written = String::from_utf8(written).expect("text");
        let ours = member(&written, "schema");
        let row = |schema| parts(inside(member(schema, "fields")))[0];
        let fields = |schema| parts(inside(member(row(schema), "fields")));
        let mut expected = golden.clone();
        assert_eq!(fields(golden).len(), fields(ours).len(), "{table}: columns");
        for (debezium, ours) in fields(golden).into_iter().zip(fields(ours)) {
            let column = member(ours, "field").trim_matches('"');
            let kind = &schema.columns[schema.column_index(column).expect("a column")].kind;
            let difference = Difference { table, column, kind, key: "schema", snapshot: false, debezium, ours };
            self.wrong.extend(unknown(&difference, &mut self.occurred));
            expected = expected.replace(debezium, ours);
        }
        assert_eq!(ours, expected, "{table}");
    }
}

fn inside(array: &str) -> &str {
    array.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).expect("an array")
}

fn snapshot_of(word: &str) -> Snapshot {
    let words = [
        Snapshot::True,
        Snapshot::First,
        Snapshot::FirstInTable,
        Snapshot::LastInTable,
        Snapshot::Last,
        Snapshot::Incremental,
        Snapshot::False,
    ];
    words.into_iter().find(|snapshot| snapshot.word() == word).unwrap_or_else(|| panic!("{word}"))
}

#[test]
fn records_are_those_of_debezium_but_for_the_differences_listed() {
    let mut occurred = vec![false; KNOWN.len()];
    for connector in ["plain", "schemas", "connect", "isostring", "microseconds", "nanoseconds"] {
        for (known, occurs) in occurred.iter_mut().zip(Comparison::of(connector).run()) {
            *known |= occurs;
        }
    }
    for (known, occurred) in KNOWN.iter().zip(occurred) {
        assert!(occurred, "no longer so: {}", known.reason);
    }
}
