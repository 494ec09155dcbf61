//! Snapshot of a million rows of about 320 bytes into tables, over one connection and over two, against a raw SELECT of the same rows
//! whose result is thrown away, in the same run.
//!
//! CPU seconds are this process's own, the server's not. The raw read is the bound for a client of `mysql_async` in the same protocol: it
//! receives and parses every row, and does nothing with it.
//!
//! `LARDER_BENCH_ROWS`: 1000000 unless set.

#![expect(clippy::print_stdout, reason = "the report is what a bench is for")]

#[path = "../tests/it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the bench needs MySQL alone")]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder::config;
use larder::flow::capture;
use larder::model::Stop;
use larder::mysql::SourceStatus;
use larder::table::{State, Tables};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use support::Mysql;
use tokio::sync::watch;

const ROUNDS: usize = 3;

fn main() {
    let rows: usize = std::env::var("LARDER_BENCH_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let mysql = Mysql::start(&["--innodb-buffer-pool-size=1G", "--max-binlog-size=1G"]);
    let database = prepare(&mysql, rows);
    println!("{rows} rows");
    let mut walls = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (which, name) in ["raw, 1 connection", "raw, 2 connections", "tables, 1", "tables, 2"].into_iter().enumerate() {
            let connections = which % 2 + 1;
            let (began, cpu) = (Instant::now(), cpu_seconds());
            let held = if which < 2 {
                raw(&mysql, &database, rows, connections);
                None
            } else {
                Some(snapshot(&mysql, &database, rows, connections))
            };
            let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            drop(held);
            println!(
                "{name:20} {wall:6.2} s wall {cpu:6.2} s CPU {:9.0} rows/s {:9.0} rows per CPU second",
                rows as f64 / wall,
                rows as f64 / cpu
            );
            walls[which].push(wall);
        }
    }
    let [raw, raw_two, one, two] = walls.map(median);
    println!(
        "median: {:.0} rows/s over one connection ({:.0} % of raw), {:.0} over two ({:.0} %)",
        rows as f64 / one,
        100.0 * raw / one,
        rows as f64 / two,
        100.0 * raw_two / two
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn prepare(mysql: &Mysql, rows: usize) -> String {
    let database = mysql.database("bench");
    mysql.exec(&format!(
        "use {database}; set sql_log_bin = 0, cte_max_recursion_depth = 100000000; \
         create table products (id bigint primary key, name varchar(100), description varchar(255), category varchar(50), \
            image varchar(255), price decimal(10,2), stock int unsigned, rating double, created_at datetime(6), updated_at timestamp); \
         insert into products with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows}) \
         select i, concat('Product number ', i, ' of the shop'), 'A pizza with tomato sauce, mozzarella, basil and a little olive oil, baked in a \
            stone oven at 450 degrees; also to be had without gluten, as a calzone, or \"double\" for two.', 'veg parcels', \
            'https://images.example.com/products/veg-parcel.png', i % 100 + 0.99, i, i / 7, '2024-02-29 23:59:58.123456', \
            '2024-02-29 23:59:59' from n; analyze table products"
    ));
    database
}

/// Reads every row by the binary protocol, a range of keys on each connection, and drops it.
fn raw(mysql: &Mysql, database: &str, rows: usize, connections: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(connections).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut readers = Vec::new();
        for index in 0..connections {
            let (options, from, to) = (mysql.user(), rows * index / connections, rows * (index + 1) / connections);
            let select = format!("select * from {database}.products where id > {from} and id <= {to}");
            readers.push(tokio::spawn(async move {
                let mut connection = Conn::new(options).await.expect("a connection");
                let mut found = connection.exec_iter(select, ()).await.expect("rows");
                let mut count = 0;
                while let Some(row) = found.next().await.expect("rows") {
                    std::hint::black_box(&row);
                    count += 1;
                }
                count
            }));
        }
        let mut count = 0;
        for reader in readers {
            count += reader.await.expect("a reader");
        }
        assert_eq!(count, rows);
    });
}

/// Runs a capture until the table is ready; what it gives back ends it.
fn snapshot(mysql: &Mysql, database: &str, rows: usize, connections: usize) -> Captured {
    let text = format!(
        "name = \"bench\"\n{}server_id = 4000000\nsnapshot_connections = {connections}\n[kafka]\nbrokers = \"127.0.0.1:1\"\n\
         [tables.products]\nmysql = \"{database}.products\"\n",
        mysql.config()
    );
    let plan = config::parse(&text, "bench.toml", Path::new("")).expect("the bench's own configuration");
    let tables = Arc::new(Tables::new([("products".to_owned(), format!("{database}.products"))]));
    let (stop, stopped) = watch::channel(false);
    let shared = Arc::clone(&tables);
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(capture::run(Arc::new(plan), shared, Arc::new(SourceStatus::default()), stopped))
    });
    while tables.summaries()[0].state != State::Ready {
        assert!(!ended.is_finished(), "the capture ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(tables.summaries()[0].rows, rows);
    Captured { _tables: tables, stop, ended: Some(ended) }
}

struct Captured {
    _tables: Arc<Tables>,
    stop: watch::Sender<bool>,
    ended: Option<JoinHandle<Result<(), Stop>>>,
}

impl Drop for Captured {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(ended) = self.ended.take() {
            ended.join().expect("it does not panic").expect("it ends in order");
        }
    }
}

/// CPU seconds of this process, all its threads: user and system time, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let times = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    times.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}
