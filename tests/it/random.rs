//! T36 over random tables: columns of every type, charset and attribute in any order, keys of one to three columns of any type, names that
//! need quoting; rows inserted, updated (in the key too), deleted and rolled back, in transactions small and large, compressed or
//! not, JSON in full or as differences. A capture that was there all the while, one that comes afterwards and reads a snapshot
//! in small chunks, and the server's own text of every value must give the same bytes (promise W6, contract C).
//!
//! `LARDER_TEST_SECONDS` says how long (30), `LARDER_TEST_SEED` where to begin; a failure prints the seed of its table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use larder::model::Key;
use larder::mysql::text;
use larder::table::{Lookup, State};
use mysql_async::Row;
use rand::prelude::*;
use serde_json::value::RawValue;

use crate::capture::Capture;
use crate::ddl::servers;
use crate::support::mysql::Session;
use crate::support::{Daemon, Kafka, Mysql, Record, unique, wait_for};
use crate::types::{Oracle, Tested, columns, quoted, without_blanks};

const PATIENCE: Duration = Duration::from_secs(60);

/// Where a run begins: a seed, and what the seeds after it are counted from.
fn first_seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() * 1000;
    setting("LARDER_TEST_SEED").unwrap_or_else(now)
}

fn setting(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn t36_random_tables_are_the_same_in_snapshot_stream_and_select() {
    let (first, seconds) = (first_seed(), setting("LARDER_TEST_SECONDS").unwrap_or(30));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (tables, rows) = std::thread::scope(|scope| {
        let workers = servers().map(|mysql| {
            scope.spawn(move || {
                let (mut tables, mut rows) = (0, 0);
                while tables == 0 || Instant::now() < end {
                    rows += one_table(mysql, first + tables);
                    tables += 1;
                }
                (tables, rows)
            })
        });
        let done = workers.map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (done[0].0 + done[1].0, done[0].1 + done[1].1)
    });
    println!("{tables} tables with {rows} rows in the end, from seed {first}");
}

/// The same of change topics, in every form a topic can have: one that followed the changes and one that begins with a snapshot after
/// them hold the same keys and the same rows, to the byte, and every change begins with the row that stood there.
#[test]
fn t36_random_change_topics_are_the_same_from_snapshot_and_stream() {
    // Keyed by a number: some forms (milliseconds, doubles) do not tell all keys apart, here as in Debezium.
    const TABLES: u64 = 8;
    let first = first_seed();
    let kafka = Kafka::shared();
    for mysql in servers() {
        let mut tables: Vec<(Table, Session, StdRng)> = (first..first + TABLES).map(|seed| make(mysql, seed, false)).collect();
        let forms: Vec<String> = tables.iter_mut().map(|(.., random)| publish_form(random)).collect();
        let config = |name: &str| {
            let mut text = format!("name = \"{name}\"\n{}{}[http]\nlisten = \"127.0.0.1:0\"\n", mysql.config(), kafka.config());
            for (index, ((table, ..), form)) in tables.iter().zip(&forms).enumerate() {
                let _ =
                    writeln!(text, "[tables.t{index}]\nmysql = \"{}\"\npublish = {{ topic = \"{name}.t{index}\", {form} }}", table.source);
            }
            text
        };
        let (early, late) = (unique("early"), unique("late"));
        let (early_config, late_config) = (config(&early), config(&late));
        for (table, session, random) in &mut tables {
            table.write(session, random, 40);
        }
        let mut following = Daemon::start(&early_config, &[]);
        following.wait_ready();
        for (table, session, random) in &mut tables {
            table.write(session, random, 160);
        }
        let mut snapshot = Daemon::start(&late_config, &[]);
        snapshot.wait_ready();
        for (index, (table, session, _)) in tables.iter_mut().enumerate() {
            let held: Vec<i64> = session.rows("select id from items order by id");
            let what = format!("the topics of seed {} ({}) to be the same\n{}", table.seed, forms[index], table.create);
            wait_for(&what, PATIENCE, || {
                let [streamed, read] = [&early, &late].map(|name| fold(&kafka.read(&format!("{name}.t{index}"))));
                let [streamed, read] = [streamed?, read?];
                for rows in [&streamed, &read] {
                    if rows.len() != held.len() {
                        let has = |id: &&i64| {
                            rows.values().any(|row| row.contains(&format!("\"id\":{id},")) || row.contains(&format!("\"id\":{id}}}")))
                        };
                        let missing: Vec<&i64> = held.iter().filter(|id| !has(id)).collect();
                        return Err(format!("{} and {} rows of {}: without {missing:?}", streamed.len(), read.len(), held.len()));
                    }
                }
                let other = streamed.iter().find(|(key, row)| read.get(*key) != Some(row));
                other.map_or(Ok(()), |(key, row)| Err(difference(row, read.get(key).map_or("nothing", String::as_str))))
            });
            session.exec(&format!("drop database {}", table.database()));
        }
    }
}

/// Options of a change topic, as in the configuration.
fn publish_form(random: &mut StdRng) -> String {
    let schemas = random.random();
    let time = ["adaptive_time_microseconds", "connect", "isostring", "microseconds"].choose(random).expect("some");
    let decimal = (if schemas { &["precise", "string", "double"][..] } else { &["string", "double"] }).choose(random).expect("some");
    let bigint = ["long", "precise"][usize::from(schemas && random.random())];
    let binary = ["bytes", "base64", "base64-url-safe", "hex"].choose(random).expect("some");
    format!("schemas = {schemas}, time = \"{time}\", decimal = \"{decimal}\", bigint_unsigned = \"{bigint}\", binary = \"{binary}\"")
}

/// The rows a topic leaves, as they stand in it; an error where a change does not begin with what stood there.
fn fold(records: &[Record]) -> Result<BTreeMap<String, String>, String> {
    type Raw = Box<RawValue>;
    let mut rows = BTreeMap::new();
    for record in records {
        let (Some(key), Some(value)) = (record.key_text(), &record.value) else { continue };
        let members = |json: &[u8]| serde_json::from_slice::<BTreeMap<String, Raw>>(json).map_err(|error| error.to_string());
        // With schemas these stand beside what is meant, and name the topic.
        let meant = |json: &[u8]| members(json).map(|outer| outer.get("payload").map(|payload| payload.get().to_owned()));
        let key = meant(key.as_bytes())?.unwrap_or_else(|| key.to_owned());
        let change = meant(value)?.map_or_else(|| members(value), |payload| members(payload.as_bytes()))?;
        let state = |name: &str| change.get(name).map(|raw| raw.get().to_owned()).filter(|text| text != "null");
        let (before, after) = (state("before"), state("after"));
        let known: Option<String> = rows.remove(&key);
        if before.is_some() && before != known {
            return Err(format!("{key}: {}", difference(&known.unwrap_or_default(), &before.unwrap_or_default())));
        }
        rows.extend(after.map(|row| (key, row)));
    }
    Ok(rows)
}

// === a table ===

/// A column of the random table.
struct Column {
    name: String,
    /// Its type, without NULL and what follows.
    kind: String,
    nullable: bool,
    /// `GENERATED …`: no value is written.
    generated: Option<String>,
    invisible: bool,
    oracle: Oracle,
    edges: Vec<String>,
    random: Box<dyn Fn(&mut StdRng) -> String + Send + Sync>,
}

struct Table {
    source: String,
    columns: Vec<Column>,
    /// Indexes in `columns`, in key order.
    key: Vec<usize>,
    /// `decimal = "number"`.
    decimal_numbers: bool,
    seed: u64,
    create: String,
}

/// The table of a seed, empty, with a session that writes to it. `any_key`: its key is of any types, else `id`.
fn make(mysql: &Mysql, seed: u64, any_key: bool) -> (Table, Session, StdRng) {
    let mut random = StdRng::seed_from_u64(seed);
    let names_in_log = std::ptr::eq(mysql, servers()[0]);
    let database = mysql.database("random");
    let mut session = mysql.session();
    session.exec(&format!(
        "use {database}; set sql_mode = '', time_zone = '{}', sql_require_primary_key = 0",
        ["+00:00", "+05:30", "-11:00"][random.random_range(0..3)]
    ));
    loop {
        let table = Table::random(&database, seed, names_in_log, any_key, &mut random);
        // Too long a key, a collation that cannot index: the next one of the same seed.
        if session.tries(&table.create).is_ok() {
            return (table, session, random);
        }
    }
}

/// Makes, fills and compares the table of a seed; the rows it has in the end.
fn one_table(mysql: &Mysql, seed: u64) -> u64 {
    let (table, mut session, mut random) = make(mysql, seed, true);
    table.write(&mut session, &mut random, 40);
    let config = format!("{}snapshot_chunk = {}\n", mysql.config(), random.random_range(1..60));
    let section = format!(
        "[tables.items]\nmysql = \"{}\"\ndecimal = \"{}\"\n",
        table.source,
        if table.decimal_numbers { "number" } else { "string" }
    );
    let followed = Capture::with(&config, &section);
    table.wait_ready(&followed);
    table.write(&mut session, &mut random, 160);
    let expected = table.select(mysql);
    table.wait_same(&followed, &expected, "stream");
    let read = Capture::with(&config, &section);
    table.wait_ready(&read);
    table.wait_same(&read, &expected, "snapshot");
    session.exec(&format!("drop database {}", table.database()));
    expected.len() as u64
}

impl Table {
    fn random(database: &str, seed: u64, names_in_log: bool, any_key: bool, random: &mut StdRng) -> Table {
        static TYPES: LazyLock<Vec<Tested>> = LazyLock::new(columns);
        let count = *[1, 3, 8, 9, 17, 40, 70].choose(random).expect("some");
        let mut columns = vec![Column {
            name: "id".into(),
            kind: "INT".into(),
            nullable: false,
            generated: None,
            invisible: false,
            oracle: Oracle::Plain,
            edges: Vec::new(),
            random: Box::new(|_| String::new()),
        }];
        for number in 0..count {
            // Half of the columns are texts of any charset, else there would be few of each.
            let mut column = if random.random_ratio(2, 5) { text_column(random) } else { typed_column(&TYPES, random) };
            if !names_in_log && column.kind.contains('😀') {
                // Such labels are whole only where the binlog has them: the table would stop.
                continue;
            }
            column.name = column_name(number, random);
            column.nullable = random.random_ratio(2, 3) && !column.kind.contains("SRID");
            column.invisible = random.random_ratio(1, 12);
            columns.push(column);
        }
        for number in 0..random.random_range(0..3) {
            let origin = &columns[random.random_range(0..columns.len())];
            let stored = if random.random() { "STORED" } else { "VIRTUAL" };
            let generated = Some(format!("GENERATED ALWAYS AS ({}) {stored}", name(&origin.name)));
            let (kind, oracle) = (origin.kind.clone(), origin.oracle);
            let place = random.random_range(0..=columns.len());
            columns.insert(
                place,
                Column {
                    name: format!("generated {number}"),
                    kind,
                    nullable: true,
                    generated,
                    invisible: random.random_ratio(1, 4),
                    oracle,
                    edges: Vec::new(),
                    random: Box::new(|_| String::new()),
                },
            );
        }
        // The column all others are chosen by is anywhere.
        let id = columns.iter().position(|column| column.name == "id").expect("it is there");
        let place = random.random_range(0..columns.len());
        let id = columns.remove(id);
        columns.insert(place, id);
        // The server's own comparisons in tis620_thai_ci do not agree with its order (seed 5095), so that no chunk can be cut by it.
        // Of an ENUM with an empty label the rows do not tell the label from an invalid value (index 0), so it makes no key.
        let indexed = |column: &Column| {
            column.generated.is_none()
                && !["JSON", "GEOMETRY", "POINT", "VECTOR", "TEXT", "BLOB", "ENUM('',", "tis620_thai_ci"]
                    .iter()
                    .any(|kind| column.kind.contains(kind))
        };
        let mut candidates: Vec<usize> = (0..columns.len()).filter(|&index| indexed(&columns[index])).collect();
        candidates.shuffle(random);
        candidates.truncate(random.random_range(1..=3));
        if random.random_ratio(1, 3) || !any_key {
            candidates = vec![place];
        }
        for &index in &candidates {
            columns[index].nullable = false;
        }
        let decimal_numbers = random.random_ratio(1, 4);
        let mut table =
            Table { source: format!("{database}.items"), columns, key: candidates, decimal_numbers, seed, create: String::new() };
        table.create = table.definition(random);
        table
    }

    fn definition(&self, random: &mut StdRng) -> String {
        let mut parts: Vec<String> = Vec::new();
        for column in &self.columns {
            let generated = column.generated.as_deref().unwrap_or_default();
            let null = if column.nullable { "NULL" } else { "NOT NULL" };
            let invisible = if column.invisible { "INVISIBLE" } else { "" };
            parts.push(format!("{} {} {generated} {null} {invisible}", name(&column.name), column.kind));
        }
        let key: Vec<String> = self.key.iter().map(|&index| name(&self.columns[index].name)).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        parts.push("INDEX by_id (id)".into());
        if random.random_ratio(1, 3) {
            parts.push("INDEX expressions ((id + 1), (id * 2))".into());
        }
        if random.random_ratio(1, 4) {
            // Columns of indexes over expressions are hidden, and lie among the others.
            parts.push("UNIQUE INDEX hidden ((CONCAT(id, 'x')))".into());
        }
        // None in which two labels become the same `?`.
        let charset = ["utf8mb4", "latin1", "utf16", "gb18030", "utf8mb3"].choose(random).expect("some");
        format!("CREATE TABLE items ({}) CHARACTER SET {charset}", parts.join(", "))
    }

    fn database(&self) -> &str {
        self.source.split_once('.').map_or("", |(database, _)| database)
    }

    // === its rows ===

    fn write(&self, session: &mut Session, random: &mut StdRng, rows: i64) {
        let written: Vec<&Column> = self.columns.iter().filter(|column| column.generated.is_none()).collect();
        let names: Vec<String> = written.iter().map(|column| name(&column.name)).collect();
        let mut id = if rows > 100 { 1000 } else { 0 };
        let last = id + rows;
        while id < last {
            session.exec(&format!(
                "set binlog_transaction_compression = {}, binlog_row_value_options = '{}'",
                random.random_range(0..2),
                ["", "PARTIAL_JSON"][random.random_range(0..2)]
            ));
            let whole = random.random_ratio(1, 3);
            if whole {
                session.exec("begin");
            }
            for _ in 0..random.random_range(1..5) {
                let count = random.random_range(1..12).min(last - id).max(1);
                let tuples: Vec<String> = (0..count)
                    .map(|row| {
                        let values = written.iter().map(|column| match column.name.as_str() {
                            "id" => (id + row).to_string(),
                            _ => column.value(random),
                        });
                        format!("({})", values.collect::<Vec<_>>().join(", "))
                    })
                    .collect();
                id += count;
                self.run(session, &format!("insert ignore into items ({}) values {}", names.join(", "), tuples.join(", ")));
            }
            for _ in 0..random.random_range(0..4) {
                let set: Vec<String> =
                    (0..random.random_range(1..4)).map(|_| written.choose(random).expect("id").assignment(random)).collect();
                let (modulus, rest) = (random.random_range(2..9), random.random_range(0..3));
                self.run(session, &format!("update ignore items set {} where id % {modulus} = {rest}", set.join(", ")));
            }
            if random.random_ratio(1, 4) {
                self.run(session, &format!("delete from items where id % 11 = {}", random.random_range(0..11)));
            }
            if whole {
                session.exec(if random.random_ratio(1, 5) { "rollback" } else { "commit" });
            }
        }
    }

    #[track_caller]
    fn run(&self, session: &mut Session, sql: &str) {
        if let Err(error) = session.tries(sql) {
            panic!("seed {}: {error}\nin: {sql:.2000}\n{}", self.seed, self.create);
        }
    }

    // === what they must look like ===

    /// Key and JSON of every row, from the server's own text of every value.
    fn select(&self, mysql: &Mysql) -> Vec<(Key, String)> {
        let mut session = mysql.session();
        session.exec("set names utf8mb4, time_zone = '+00:00'");
        let expressions: Vec<String> = self.columns.iter().map(Column::expression).collect();
        let rows: Vec<Row> = session.rows(&format!("select {} from {}", expressions.join(", "), self.source));
        let each = rows.into_iter().map(|row| {
            let fragment = |(index, column): (usize, &Column)| {
                let text = row.get::<Option<Vec<u8>>, _>(index).flatten();
                text.map_or_else(
                    || "null".to_owned(),
                    |bytes| column.fragment(&String::from_utf8(bytes).expect("utf8mb4"), self.decimal_numbers),
                )
            };
            let fragments: Vec<String> = self.columns.iter().enumerate().map(fragment).collect();
            let key = Key::from_fragments(self.key.iter().map(|&index| fragments[index].as_bytes()));
            let label = |name: &str| serde_json::to_string(name).expect("a name is text");
            let members: Vec<String> =
                self.columns.iter().zip(&fragments).map(|(column, fragment)| format!("{}:{fragment}", label(&column.name))).collect();
            (key, format!("{{{}}}", members.join(",")))
        });
        each.collect()
    }

    #[track_caller]
    fn wait_ready(&self, capture: &Capture) {
        wait_for(&format!("the table of seed {} to be ready\n{}", self.seed, self.create), PATIENCE, || match capture.state("items") {
            State::Ready => Ok(()),
            State::Stopped { message, .. } => panic!("seed {}: {message}\n{}", self.seed, self.create),
            state => Err(format!("{state:?}, {}", capture.status.awaited())),
        });
    }

    #[track_caller]
    fn wait_same(&self, capture: &Capture, expected: &[(Key, String)], way: &str) {
        wait_for(&format!("the {way} of seed {} to be what SELECT shows\n{}", self.seed, self.create), PATIENCE, || {
            let summary = &capture.tables.summaries()[0];
            if let State::Stopped { message, .. } = &summary.state {
                panic!("seed {}: {message}\n{}", self.seed, self.create);
            }
            if summary.rows != expected.len() {
                return Err(format!("{} rows, SELECT shows {}", summary.rows, expected.len()));
            }
            let view = capture.tables.view();
            let table = view.find("items").expect("it is captured");
            for (key, json) in expected {
                match view.lookup(table, key.as_bytes()) {
                    Lookup::Row(row) if row.json() == json.as_bytes() => {}
                    Lookup::Row(row) => return Err(difference(&String::from_utf8_lossy(row.json()), json)),
                    other => return Err(format!("{}: {other:?}", String::from_utf8_lossy(key.as_bytes()))),
                }
            }
            Ok(())
        });
    }
}

/// Two texts around the first byte in which they differ.
fn difference(ours: &str, theirs: &str) -> String {
    let at = ours.bytes().zip(theirs.bytes()).position(|(ours, theirs)| ours != theirs).unwrap_or(ours.len().min(theirs.len()));
    let around = |text: &str| String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(100)..(at + 60).min(text.len())]).into_owned();
    format!("at byte {at}:\nours   {}\nSELECT {}", around(ours), around(theirs))
}

// === columns ===

impl Column {
    /// A value as SQL.
    fn value(&self, random: &mut StdRng) -> String {
        if self.nullable && random.random_ratio(1, 8) {
            return "NULL".into();
        }
        match self.edges.choose(random) {
            // Edges of JSON are large.
            Some(edge) if random.random_ratio(1, if edge.len() > 10_000 { 40 } else { 4 }) => edge.clone(),
            _ => (self.random)(random),
        }
    }

    /// `name = value`; of JSON often a part only.
    fn assignment(&self, random: &mut StdRng) -> String {
        let name = name(&self.name);
        if self.name == "id" {
            return format!("{name} = {name} + {}", random.random_range(0..2) * 7);
        }
        if self.kind == "JSON" && random.random_ratio(2, 3) {
            let value = self.value(random);
            return match random.random_range(0..6) {
                0 => format!("{name} = JSON_SET({name}, '$.k0', CAST({value} AS JSON), '$.added', 1.5)"),
                1 => format!("{name} = JSON_REPLACE({name}, '$.k1k', {}, '$[0]', 'é😀')", random.random::<i32>()),
                2 => format!("{name} = JSON_REMOVE({name}, '$.k0', '$.added')"),
                3 => format!("{name} = JSON_SET({name}, '$[3]', CAST({value} AS JSON))"),
                4 => format!("{name} = JSON_SET({name}, '$.k2kk', JSON_ARRAY(1, NULL, {name}->'$.k0'), '$.k0', TRUE)"),
                _ => {
                    format!("{name} = JSON_REPLACE(JSON_SET({name}, '$.k1k', REPEAT('x', {})), '$.k0', NULL)", random.random_range(0..300))
                }
            };
        }
        format!("{name} = {}", self.value(random))
    }

    /// What to ask the server for.
    fn expression(&self) -> String {
        let name = name(&self.name);
        match self.oracle {
            _ if self.kind.starts_with("BIT") || self.kind == "YEAR" => format!("CAST({name} AS UNSIGNED)"),
            _ if self.kind.contains("ZEROFILL") => match self.kind.split_once(' ') {
                Some((decimal, _)) if decimal.starts_with("DECIMAL") => format!("CAST({name} AS {decimal})"),
                _ => format!("CAST({name} AS UNSIGNED)"),
            },
            Oracle::Plain | Oracle::Bool => format!("CAST({name} AS DECIMAL(20))"),
            Oracle::Text | Oracle::Moment => format!("CONVERT(CAST({name} AS CHAR) USING utf8mb4)"),
            Oracle::Float | Oracle::Double => format!("CAST(CAST(CAST({name} AS DOUBLE) AS JSON) AS CHAR)"),
            Oracle::Hex | Oracle::Vector => format!("HEX({name})"),
            Oracle::Json => format!("CAST({name} AS CHAR)"),
            Oracle::Geometry => format!("CONCAT(ST_SRID({name}), ' ', HEX(ST_AsWKB({name}, 'axis-order=long-lat')))"),
        }
    }

    /// The value in a row (contract C) of which the server says this.
    fn fragment(&self, said: &str, decimal_numbers: bool) -> String {
        let quote = |text: &str| serde_json::to_string(text).expect("text");
        let bytes = || -> Vec<u8> {
            said.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex")).collect()
        };
        match self.oracle {
            _ if self.kind.starts_with("DECIMAL") => {
                if decimal_numbers {
                    said.to_owned()
                } else {
                    quote(said)
                }
            }
            _ if self.kind == "BIT(1)" => (said == "1").to_string(),
            _ if self.kind == "YEAR" || self.kind.starts_with("BIT") || self.kind.contains("ZEROFILL") => said.to_owned(),
            Oracle::Plain | Oracle::Bool => said.to_owned(),
            Oracle::Text => quote(said),
            Oracle::Moment => {
                let date = said.split(' ').next().unwrap_or_default();
                match date.contains("-00-") || date.ends_with("-00") {
                    true if self.nullable => "null".into(),
                    true => quote(said),
                    false => quote(&format!("{}{}", said.replace(' ', "T"), if self.kind.starts_with("TIMESTAMP") { "Z" } else { "" })),
                }
            }
            Oracle::Float => number(|out| text::float(said.parse::<f64>().expect("a number") as f32, out)),
            Oracle::Double => number(|out| text::double(said.parse().expect("a number"), out)),
            Oracle::Hex => quote(&STANDARD.encode(bytes())),
            Oracle::Json => without_blanks(said),
            Oracle::Geometry => {
                let (srid, wkb) = said.split_once(' ').expect("two parts");
                let wkb: Vec<u8> = (0..wkb.len() / 2).map(|at| u8::from_str_radix(&wkb[2 * at..2 * at + 2], 16).expect("hex")).collect();
                format!(r#"{{"wkb":"{}","srid":{srid}}}"#, STANDARD.encode(wkb))
            }
            Oracle::Vector => {
                let floats: Vec<String> = bytes()
                    .chunks_exact(4)
                    .map(|float| number(|out| text::float(f32::from_le_bytes(float.try_into().expect("four bytes")), out)))
                    .collect();
                format!("[{}]", floats.join(","))
            }
        }
    }
}

/// The one form that is ours: the shortest digits, of which the unit tests prove that they read back.
fn number(write: impl FnOnce(&mut Vec<u8>) -> bool) -> String {
    let mut out = Vec::new();
    assert!(write(&mut out), "a column holds finite numbers");
    String::from_utf8(out).expect("digits")
}

fn typed_column(types: &'static [Tested], random: &mut StdRng) -> Column {
    let tested = types.choose(random).expect("some");
    Column {
        name: String::new(),
        kind: tested.definition.clone(),
        nullable: true,
        generated: None,
        invisible: false,
        oracle: tested.oracle,
        edges: tested.edges.clone(),
        random: Box::new(|random| (tested.random)(random)),
    }
}

/// A text column of any charset and collation of the server, with characters the charset has.
fn text_column(random: &mut StdRng) -> Column {
    let alphabet = ALPHABETS.choose(random).expect("some");
    let collation = alphabet.collations.choose(random).expect("some");
    let length = *[1_usize, 5, 20, 60, 64].choose(random).expect("some");
    let kind = match random.random_range(0..8) {
        0 | 1 => format!("CHAR({length})"),
        2 => "TINYTEXT".into(),
        3 => "TEXT".into(),
        4 => "LONGTEXT".into(),
        _ => format!("VARCHAR({length})"),
    };
    let most = if kind.contains("TEXT") { 60 } else { length };
    Column {
        name: String::new(),
        kind: format!("{kind} CHARACTER SET {} COLLATE {collation}", alphabet.charset),
        nullable: true,
        generated: None,
        invisible: false,
        oracle: Oracle::Text,
        edges: vec!["''".into(), "' '".into(), "'a  '".into()],
        random: Box::new(move |random| {
            let length = random.random_range(0..=most);
            quoted(&(0..length).map(|_| *alphabet.characters.choose(random).expect("some")).collect::<String>())
        }),
    }
}

fn column_name(number: usize, random: &mut StdRng) -> String {
    match random.random_range(0..8) {
        0 => format!("with blank {number}"),
        1 => format!("é\"quoted\"\\{number}"),
        2 => format!("back`tick`{number}"),
        3 => format!("{number}{}", "x".repeat(60)),
        4 => format!("select{number}"),
        _ => format!("c{number}"),
    }
}

fn name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

// === charsets ===

struct Alphabet {
    charset: String,
    collations: Vec<String>,
    characters: Vec<char>,
}

/// Every charset of the server with some of the characters it can hold.
static ALPHABETS: LazyLock<Vec<Alphabet>> = LazyLock::new(|| {
    let mut session = servers()[0].session();
    session.exec(
        "set names utf8mb4, cte_max_recursion_depth = 70000, group_concat_max_len = 100000, sql_mode = ''; create database characters; use characters; \
         create table all_of_them (c char(1) character set utf8mb4 collate utf8mb4_bin primary key); \
         insert ignore into all_of_them with recursive r (i) as (select 1 union all select i + 1 from r where i < 65533) \
         select convert(char(i using utf16) using utf8mb4) from r where i not between 0xd800 and 0xdfff",
    );
    session.exec("insert into all_of_them values ('😀'), ('𠀀'), ('\u{10ffff}')");
    let known: Vec<(String, String)> = session.rows(
        "select character_set_name, group_concat(collation_name) from information_schema.collations where character_set_name <> 'binary' group by 1 order by 1",
    );
    let alphabets = known.into_iter().map(|(charset, collations)| {
        let characters: Vec<String> = session.rows(&format!(
            "select c from all_of_them where convert(convert(c using {charset}) using utf8mb4) collate utf8mb4_bin = c order by rand(7) limit 300"
        ));
        // Bytes without a meaning in tis620 and the like are U+FFFD to the server, and no text to us.
        let characters = characters.iter().filter_map(|text| text.chars().next()).filter(|&character| character != '\u{fffd}');
        let characters = characters.chain(['a', 'z', '0', '\'', '"', '\\']).collect();
        Alphabet { charset, collations: collations.split(',').map(str::to_owned).collect(), characters }
    });
    let alphabets: Vec<Alphabet> = alphabets.collect();
    session.exec("drop database characters");
    assert!(alphabets.len() >= 40, "{} charsets", alphabets.len());
    alphabets
});
