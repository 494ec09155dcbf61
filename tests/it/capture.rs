//! Capture against a real MySQL: what the tables hold is what SELECT shows (promises W3, W6, W7; cases D, N, B).

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use larder::config::{self, Plan};
use larder::flow::capture;
use larder::model::{Reason, Stop};
use larder::mysql::SourceStatus;
use larder::table::{Lookup, State, Tables};
use tokio::sync::watch;

use crate::support::{Mysql, unique, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// A capture that runs in the test process.
struct Capture {
    tables: Arc<Tables>,
    status: Arc<SourceStatus>,
    stop: watch::Sender<bool>,
    ended: Option<JoinHandle<Result<(), Stop>>>,
}

impl Capture {
    /// Captures `tables` (configuration name and `database.table`) and waits until all are ready.
    fn of(mysql: &Mysql, tables: &[&str]) -> Self {
        let capture = Self::with(&mysql.config(), &sections(tables));
        capture.wait_ready();
        capture
    }

    fn with(mysql: &str, tables: &str) -> Self {
        let plan = plan(mysql, tables);
        let names = plan.tables.iter().map(|table| (table.name.clone(), format!("{}.{}", table.database, table.table)));
        let tables = Arc::new(Tables::new(names));
        let status = Arc::new(SourceStatus::default());
        let (stop, stopped) = watch::channel(false);
        let (shared, watched) = (Arc::clone(&tables), Arc::clone(&status));
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(capture::run(Arc::new(plan), shared, watched, stopped))
        });
        Self { tables, status, stop, ended: Some(running) }
    }

    fn state(&self, table: &str) -> State {
        let view = self.tables.view();
        let state = view.state(view.find(table).expect("the table is captured")).clone();
        state
    }

    #[track_caller]
    fn wait_ready(&self) {
        wait_for("all tables to be ready", SOON, || {
            let summaries = self.tables.summaries();
            let ended = self.ended.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended, "the capture ended: {summaries:?}");
            if summaries.iter().all(|table| table.state == State::Ready) { Ok(()) } else { Err(format!("{summaries:?}")) }
        });
    }

    fn row(&self, table: &str, key: &str) -> Option<String> {
        let view = self.tables.view();
        match view.lookup(view.find(table).expect("the table is captured"), key.as_bytes()) {
            Lookup::Row(row) => Some(String::from_utf8_lossy(row.json()).into_owned()),
            Lookup::Missing => None,
            Lookup::NotReady => Some("not ready".to_owned()),
        }
    }

    #[track_caller]
    fn wait_row(&self, table: &str, key: &str, expected: Option<&str>) {
        wait_for(&format!("{table} {key} to be {expected:?}"), SOON, || {
            let found = self.row(table, key);
            if found.as_deref() == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }

    #[track_caller]
    fn wait_stopped(&self, table: &str, expected: Reason) {
        wait_for(&format!("{table} to stop as {expected}"), SOON, || match self.state(table) {
            State::Stopped { reason, .. } if reason == expected => Ok(()),
            state => Err(format!("{state:?}")),
        });
    }

    /// Waits until the table holds exactly the rows that SELECT shows, given as key and JSON text.
    #[track_caller]
    fn wait_same(&self, table: &str, select: impl Fn() -> Vec<(String, String)>) {
        wait_for(&format!("{table} to hold what SELECT shows"), SOON, || {
            let expected = select();
            let rows = self.tables.summaries().into_iter().find(|summary| summary.name == table).expect("the table is captured").rows;
            if rows != expected.len() {
                return Err(format!("{rows} rows, SELECT shows {}", expected.len()));
            }
            match expected.iter().find(|(key, json)| self.row(table, key).as_ref() != Some(json)) {
                None => Ok(()),
                Some((key, json)) => Err(format!("row {key} is {:?}, SELECT shows {json}", self.row(table, key))),
            }
        });
    }

    /// Waits for the capture to end by itself.
    #[track_caller]
    fn end(mut self) -> Result<(), Stop> {
        let ended = self.ended.take().expect("it was not awaited before");
        wait_for("the capture to end", SOON, || if ended.is_finished() { Ok(()) } else { Err(format!("{:?}", self.tables.summaries())) });
        ended.join().expect("it does not panic")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

fn sections(tables: &[&str]) -> String {
    tables.iter().map(|source| format!("[tables.{}]\nmysql = \"{source}\"\n", source.rsplit('.').next().unwrap_or(source))).collect()
}

fn plan(mysql: &str, tables: &str) -> Plan {
    let server_id = 100_000 + std::process::id() % 100_000 * 100 + unique("").rsplit('_').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let text = format!("name = \"capture\"\n{mysql}server_id = {server_id}\nheartbeat = \"1s\"\n[kafka]\nbrokers = \"127.0.0.1:1\"\n{tables}");
    config::parse(&text, "test.toml", std::path::Path::new("")).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// A table `items` of `id` and `name` in a database of its own; the database's name.
fn items(mysql: &Mysql) -> String {
    let database = mysql.database("capture");
    mysql.exec(&format!("create table {database}.items (id int primary key, name varchar(50)); insert into {database}.items values (1, 'one'), (2, 'two')"));
    database
}

fn select_items(mysql: &Mysql, table: &str) -> Vec<(String, String)> {
    mysql.rows(&format!("select cast(id as char), concat('{{\"id\":', id, ',\"name\":\"', name, '\"}}') from {table}"))
}

#[test]
fn rows_follow_inserts_updates_deletes_and_key_changes() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    let capture = Capture::of(mysql, &[&format!("{database}.items")]);
    assert_eq!(capture.row("items", "1").as_deref(), Some(r#"{"id":1,"name":"one"}"#));
    mysql.exec(&format!(
        "use {database}; insert into items values (3, 'three'); update items set name = 'TWO' where id = 2; update items set id = 10 where id = 1; delete from items where id = 3; insert into items values (4, 'end')"
    ));
    capture.wait_row("items", "4", Some(r#"{"id":4,"name":"end"}"#));
    assert_eq!(capture.row("items", "1"), None);
    assert_eq!(capture.row("items", "10").as_deref(), Some(r#"{"id":10,"name":"one"}"#));
    capture.wait_same("items", || select_items(mysql, &format!("{database}.items")));
    let gtid: Vec<String> = mysql.rows("select @@server_uuid");
    assert!(capture.tables.view().at().starts_with(&gtid[0]), "larder-at is a GTID: {}", capture.tables.view().at());
}
