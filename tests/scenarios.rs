//! Scenario files, `fixtures/scenarios/*.txt`: configuration, rows and records in; outputs out, through the pure middle.
//!
//! ```text
//! -- config                      tables and streams as in larder.toml; servers and name are added by the runner
//! -- table products              one line per column: `id: bigint unsigned, key`
//! -- rows products               one transaction: `put {…}`, `move OLDKEY {…}`, `delete KEY`
//! -- ready products              joins may use the table
//! -- record orders/0/41 KEY      then the value, as it is; `!none` for no value, `!hex 00ff` for bytes
//! -- outputs                     what became of the record before: written by the runner, checked by you
//! ```
//!
//! Lines before the first section and lines that begin with `#` there are the story. `LARDER_ACCEPT=1 cargo test --test
//! scenarios` rewrites the expected parts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use larder::config;
use larder::join::{Enricher, Input, Output, StreamPlan, Verdict};
use larder::model::{Change, Column, ColumnType, Key, Position, Row, RowBuilder, Schema, TableId, Transaction};
use larder::table::Tables;
use serde_json::value::RawValue;

/// What every configuration needs and no scenario is about.
const SERVERS: &str = r#"
name = "shop"
mysql = { address = "127.0.0.1:3306", user = "larder", password = "x" }
kafka = { brokers = "127.0.0.1:9092" }
"#;

#[test]
fn scenarios() {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scenarios");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the scenarios' folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 5, "scenarios are in {}", folder.display());
    let accept = std::env::var_os("LARDER_ACCEPT").is_some();
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let expected = fs::read_to_string(&file).expect("a scenario");
        let actual = play(&name, &expected);
        if actual == expected {
            continue;
        }
        if accept {
            fs::write(&file, actual).expect("accept a scenario");
        } else {
            wrong.push(format!("{name}:{}", first_difference(&expected, &actual)));
        }
    }
    assert!(wrong.is_empty(), "{}\nLARDER_ACCEPT=1 accepts what is new", wrong.join("\n"));
}

fn first_difference(expected: &str, actual: &str) -> String {
    let same = expected.lines().zip(actual.lines()).take_while(|(e, a)| e == a).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(end)").to_owned();
    format!("{}\n  expected {}\n  is       {}", same + 1, line(expected), line(actual))
}

/// Plays a scenario and gives its text with the outputs there were.
fn play(file: &str, text: &str) -> String {
    let (story, sections) = sections(text);
    let config = sections.iter().find(|s| s.name == "config").unwrap_or_else(|| panic!("{file}: no config"));
    let mut world = World::new(file, config.body);
    let mut played = story.to_owned();
    for section in &sections {
        if section.name == "outputs" {
            continue;
        }
        played.push_str(section.whole);
        let line = section.line;
        match section.name {
            "config" => {}
            "table" => world.table(section.argument, section.body),
            "rows" => world.rows(section.argument, section.body),
            "ready" => world.tables.set_ready(world.id(section.argument)),
            "record" => {
                played.push_str("-- outputs\n");
                played.push_str(&world.record(section.argument, section.body));
            }
            other => panic!("{file}:{line}: unknown section `{other}`"),
        }
    }
    played
}

struct Section<'a> {
    line: usize,
    name: &'a str,
    argument: &'a str,
    body: &'a str,
    /// Heading and body.
    whole: &'a str,
}

fn sections(text: &str) -> (&str, Vec<Section<'_>>) {
    let mut starts: Vec<usize> = text.match_indices("\n-- ").map(|(at, _)| at + 1).collect();
    if text.starts_with("-- ") {
        starts.insert(0, 0);
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let sections = starts.iter().zip(ends).map(|(&start, end)| {
        let whole = &text[start..end];
        let (heading, body) = whole.split_once('\n').unwrap_or((whole, ""));
        let (name, argument) = heading[3..].split_once(' ').unwrap_or((&heading[3..], ""));
        Section { line: text[..start].lines().count() + 1, name, argument, body, whole }
    });
    (&text[..starts.first().copied().unwrap_or(text.len())], sections.collect())
}

struct World {
    streams: BTreeMap<String, Enricher>,
    names: Vec<String>,
    schemas: BTreeMap<String, Arc<Schema>>,
    tables: Tables,
}

impl World {
    fn new(file: &str, config: &str) -> Self {
        let plan = config::parse(&format!("{SERVERS}{config}"), file, FilePath::new(".")).unwrap_or_else(|errors| panic!("{errors}"));
        let enricher = |stream: StreamPlan| (stream.from.clone(), Enricher::new(Arc::new(stream)));
        Self {
            tables: Tables::new(plan.tables.iter().map(|table| (table.name.clone(), format!("{}.{}", table.database, table.table)))),
            names: plan.tables.into_iter().map(|table| table.name).collect(),
            streams: plan.streams.into_iter().map(enricher).collect(),
            schemas: BTreeMap::new(),
        }
    }

    fn id(&self, table: &str) -> TableId {
        let index = self.names.iter().position(|name| name == table).unwrap_or_else(|| panic!("no table {table}"));
        TableId(u16::try_from(index).expect("few tables"))
    }

    fn table(&mut self, name: &str, body: &str) {
        let mut schema = Schema { columns: Vec::new(), key: Vec::new() };
        for line in body.lines().filter(|l| !l.is_empty()) {
            let (column, kind) = line.split_once(": ").expect("a column: `name: type`");
            let (kind, key) = kind.strip_suffix(", key").map_or((kind, false), |kind| (kind, true));
            if key {
                schema.key.push(schema.columns.len());
            }
            schema.columns.push(Column { name: column.to_owned(), kind: column_type(kind), nullable: !key });
        }
        let schema = Arc::new(schema);
        self.tables.begin_snapshot(self.id(name), schema.clone());
        self.schemas.insert(name.to_owned(), schema);
    }

    fn rows(&mut self, name: &str, body: &str) {
        let table = self.id(name);
        let schema = &self.schemas[name];
        let change = |line: &str| match line.split_once(' ').expect("a change and what it changes") {
            ("put", json) => {
                let (key, row) = row(schema, json);
                Change::Upsert { table, old_key: None, key, row }
            }
            ("move", change) => {
                let (old, json) = change.split_once(' ').expect("an old key and a row");
                let (key, row) = row(schema, json);
                Change::Upsert { table, old_key: Some(Key::new(old.as_bytes())), key, row }
            }
            ("delete", key) => Change::Delete { table, key: Key::new(key.as_bytes()) },
            (other, _) => panic!("unknown change `{other}`"),
        };
        let changes = body.lines().filter(|l| !l.is_empty()).map(change).collect();
        self.tables.apply(Transaction { changes, position: Position::default(), id: "u:1".into(), committed_us: 0 });
    }

    fn record(&mut self, argument: &str, body: &str) -> String {
        let (origin, key) = argument.split_once(' ').map_or((argument, None), |(origin, key)| (origin, Some(key)));
        let parts: Vec<&str> = origin.split('/').collect();
        let [topic, partition, offset] = parts[..] else { panic!("`{origin}` is not topic/partition/offset") };
        let value = value(body.strip_suffix('\n').unwrap_or(body));
        let input = Input {
            topic,
            partition: partition.parse().expect("a partition"),
            offset: offset.parse().expect("an offset"),
            timestamp_ms: Some(1_662_461_177_703),
            key: key.map(str::as_bytes),
            value: value.as_deref(),
        };
        let enricher = self.streams.get_mut(topic).unwrap_or_else(|| panic!("no stream reads {topic}"));
        let mut shown = Shown { topic: enricher.plan().topic.clone(), text: String::new() };
        match enricher.process(&input, &self.tables.view(), &mut shown) {
            Verdict::Done => {}
            Verdict::Hold => shown.line("hold"),
            Verdict::NeedRows => panic!("no table of a scenario is bounded"),
            Verdict::Stop(message) => shown.line(&format!("stop {message}")),
        }
        shown.text
    }
}

fn value(body: &str) -> Option<Vec<u8>> {
    if body == "!none" {
        return None;
    }
    let Some(hex) = body.strip_prefix("!hex") else { return Some(body.as_bytes().to_vec()) };
    Some(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect())
}

/// Outputs as lines.
struct Shown {
    topic: String,
    text: String,
}

impl Shown {
    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("writing to memory does not fail");
    }
}

fn place(element: Option<u32>) -> String {
    element.map_or_else(String::new, |element| format!("[{element}]"))
}

impl Output for Shown {
    fn write(&mut self, element: Option<u32>, key: Option<&[u8]>, value: &[u8], headers: &[(&str, &[u8])]) {
        let json: &RawValue = serde_json::from_slice(value).expect("an output is valid JSON");
        let key = key.map_or("without key".into(), String::from_utf8_lossy);
        self.line(&format!("{}{} {key} {json}", self.topic.clone(), place(element)));
        for (name, value) in headers {
            self.line(&format!("  {name}: {}", String::from_utf8_lossy(value)));
        }
    }

    fn dead_letter(&mut self, element: Option<u32>, stage: &'static str, reason: &'static str, message: &str) {
        self.line(&format!("dead-letter{} {stage} {reason}: {message}", place(element)));
    }

    fn drop(&mut self, element: Option<u32>, reason: &'static str) {
        self.line(&format!("drop{} {reason}", place(element)));
    }
}

fn row(schema: &Schema, json: &str) -> (Key, Row) {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(json).expect("a row");
    let mut builder = RowBuilder::default();
    for column in &schema.columns {
        let json = fields.get(&column.name).map_or("null", |value| value.get());
        builder.value(&column.name).extend_from_slice(json.as_bytes());
    }
    let key = Key::from_fragments(schema.key.iter().map(|&column| builder.column(column)));
    (key, builder.finish())
}

fn column_type(name: &str) -> ColumnType {
    match name {
        "bigint unsigned" => ColumnType::Integer { bytes: 8, unsigned: true },
        "int" => ColumnType::Integer { bytes: 4, unsigned: false },
        "float" => ColumnType::Float,
        "json" => ColumnType::Json,
        "varchar" => ColumnType::Text { collation: 255 },
        "timestamp" => ColumnType::Timestamp { digits: 0 },
        other => panic!("the runner knows no column type `{other}`"),
    }
}
