//! What the local store costs and gains with a table of 1,000,000 rows of about 200 bytes: writing it whole, a warm start from it, and
//! what following the binlog costs beside a store that is written.
//!
//! `cargo bench --bench store`. Bounds in the same run: reading the file's bytes; putting the same rows into tables from memory; the same
//! changes without a store. The file lies in the folder for temporary files.
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::model::{Change, Key, Position, Row, RowBuilder, Schema, TableId, Transaction};
use larder::table::Tables;
use larder::table::store::Store;

const ROWS: usize = 1_000_000;
const TABLE: TableId = TableId(0);
/// Rows that a snapshot hands over together.
const BATCH: usize = 2048;
/// Changes of the second part, in transactions of so many.
const CHANGES: usize = 2_000_000;
const PATIENCE: Duration = Duration::from_secs(600);
const CHANGES_EACH: usize = 10;

fn main() {
    let folder = std::env::temp_dir().join(format!("larder-bench-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("make a folder");
    let path = folder.join("larder.redb");
    for _ in 0..2 {
        round(&path);
        std::fs::remove_file(&path).expect("remove the store");
    }
    std::fs::remove_dir_all(&folder).expect("remove the folder");
}

fn round(path: &Path) {
    let tables = Tables::new([("t".to_owned(), "shop.t".to_owned())]);
    let store = open(path);
    store.activate(&tables);
    let rows = rows();
    timed("bound: rows into tables from memory", ROWS, || load(&tables, rows));
    tables.set_ready(TABLE);
    store.stop(PATIENCE);
    timed("write the table whole", ROWS, || store.run(&tables));
    assert!(!store.is_failing() && store.rows_written() == ROWS as u64);
    drop(store);
    println!("{:<42} {:>8.1} MB", "the file", path.metadata().expect("the file").len() as f64 / 1e6);

    timed("bound: read the file's bytes", ROWS, || std::fs::read(path).expect("the file").len());
    let again = Tables::new([("t".to_owned(), "shop.t".to_owned())]);
    timed("warm start: check, read, put into tables", ROWS, || {
        let store = timed("  open and check every page", ROWS, || open(path));
        let held = store.held().expect("a whole table");
        again.begin_snapshot(TABLE, schema());
        assert!(store.restore(&held, &again));
        again.set_ready(TABLE);
    });
    assert_eq!(again.summaries()[0].rows, ROWS);
    drop(again);

    let without = follow(&tables, "changes without a store");
    let store = open(path);
    store.activate(&tables);
    let with = std::thread::scope(|scope| {
        let writing = scope.spawn(|| store.run(&tables));
        let with = follow(&tables, "the same with a store that is written");
        store.stop(PATIENCE);
        let began = Instant::now();
        writing.join().expect("the store ends");
        println!("{:<42} {:>8.2} s", "  the rest at a clean stop", began.elapsed().as_secs_f64());
        with
    });
    println!("{:<42} {:>8.2} times the CPU\n", "following with a store", with / without);
}

fn open(path: &Path) -> Store {
    Store::open(path.to_owned(), vec![("t".to_owned(), "identity".to_owned())]).expect("a store")
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema { columns: Vec::new(), key: Vec::new() })
}

fn load(tables: &Tables, rows: Vec<(Key, Row)>) {
    tables.begin_snapshot(TABLE, schema());
    tables.set_source(TABLE, schema());
    let mut rows = rows.into_iter();
    loop {
        let batch: Vec<_> = rows.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return;
        }
        tables.load(TABLE, batch, 50);
    }
}

/// Updates of rows here and there; the CPU seconds that took.
fn follow(tables: &Tables, what: &str) -> f64 {
    let mut builder = RowBuilder::default();
    let mut next = 0;
    let transactions: Vec<Vec<Change>> = (0..CHANGES / CHANGES_EACH)
        .map(|_| {
            let change = |_| {
                next = (next + 7_919) % ROWS;
                Change::Upsert { table: TABLE, old_key: None, key: key(next), row: row(&mut builder, next) }
            };
            (0..CHANGES_EACH).map(change).collect()
        })
        .collect();
    let (began, cpu_began) = (Instant::now(), cpu_seconds());
    let longest = transactions.into_iter().enumerate().fold(Duration::ZERO, |longest, (number, changes)| {
        let begun = Instant::now();
        let position = Position { offset: number as u64, ..Position::default() };
        tables.apply(Transaction { changes, position, id: String::new(), committed_us: 0 });
        longest.max(begun.elapsed())
    });
    report(what, CHANGES, began, cpu_began);
    println!("{:<42} longest transaction {longest:.1?}", "");
    cpu_seconds() - cpu_began
}

fn rows() -> Vec<(Key, Row)> {
    let mut builder = RowBuilder::default();
    (0..ROWS).map(|id| (key(id), row(&mut builder, id))).collect()
}

fn key(id: usize) -> Key {
    Key::new(id.to_string().into_bytes())
}

fn row(builder: &mut RowBuilder, id: usize) -> Row {
    builder.value("id").extend_from_slice(id.to_string().as_bytes());
    builder.value("name").extend_from_slice(format!("\"product number {id}\"").as_bytes());
    builder.value("price").extend_from_slice(b"\"12.50\"");
    builder.value("description").extend_from_slice(format!("\"{}\"", "as good as bread ".repeat(6)).as_bytes());
    builder.finish()
}

fn timed<T>(what: &str, rows: usize, act: impl FnOnce() -> T) -> T {
    let (began, cpu_began) = (Instant::now(), cpu_seconds());
    let done = act();
    report(what, rows, began, cpu_began);
    done
}

fn report(what: &str, rows: usize, began: Instant, cpu_began: f64) {
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu_began);
    println!("{what:<42} {seconds:>8.2} s {cpu:>8.2} CPU s {:>12.0} rows per CPU second", rows as f64 / cpu.max(1e-9));
}

/// CPU time of this thread: a busy machine disturbs it little.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e9
}
