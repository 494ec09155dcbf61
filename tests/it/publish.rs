//! Change topics: what MySQL commits, as records, exactly once (contract A5, B).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::history::History;
use crate::support::{Daemon, Kafka, Mysql, Record, unique, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// Tables and their topics.
pub struct Site {
    pub mysql: &'static Mysql,
    pub kafka: &'static Kafka,
    pub name: String,
    pub database: String,
}

impl Site {
    pub fn new() -> Self {
        Self::on(Mysql::shared())
    }

    pub fn on(mysql: &'static Mysql) -> Self {
        Self { mysql, kafka: Kafka::shared(), name: unique("pub"), database: mysql.database("pub") }
    }

    /// `tables`: names, with what stands in `publish` beside the topic, and in the section.
    pub fn config(&self, tables: &[(&str, &str)]) -> String {
        let mut text = format!("name = \"{}\"\ninstance = \"one\"\n{}{}", self.name, self.mysql.config(), self.kafka.config());
        for (table, more) in tables {
            let Self { database, .. } = self;
            let topic = self.topic(table);
            let _ = writeln!(text, "[tables.{table}]\nmysql = \"{database}.{table}\"\npublish = {{ topic = \"{topic}\"{more} }}");
        }
        text + "[http]\nlisten = \"127.0.0.1:0\"\n"
    }

    pub fn topic(&self, table: &str) -> String {
        format!("{}.{table}", self.name)
    }

    pub fn exec(&self, sql: &str) {
        self.mysql.exec(&format!("use {}; {sql}", self.database));
    }

    #[track_caller]
    pub fn wait(&self, table: &str, count: usize) -> Vec<Record> {
        self.kafka.wait_for_records(&self.topic(table), count, SOON)
    }

    /// Waits until the fold of the topic is what the table holds.
    #[track_caller]
    pub fn wait_same(&self, table: &str, columns: &[&str]) -> History {
        let pairs: Vec<String> = columns.iter().map(|column| format!("'{column}', {column}")).collect();
        let sql = format!("select cast(json_object({}) as char) from {}.{table}", pairs.join(", "), self.database);
        wait_for(&format!("the topic of {table} to hold what the table holds"), SOON, || {
            let held: BTreeMap<String, Value> = self
                .mysql
                .rows::<String>(&sql)
                .into_iter()
                .map(|row| serde_json::from_str(&row).expect("a row"))
                .map(|row: Value| (json!({ "id": row["id"] }).to_string(), row))
                .collect();
            let history = History::of(&self.kafka.read(&self.topic(table)), "n");
            if history.rows == held {
                Ok(history)
            } else {
                let differs = |key: &&String| history.rows.get(*key) != held.get(*key);
                let keys: Vec<_> = history.rows.keys().chain(held.keys()).filter(differs).take(5).collect();
                let pairs: Vec<_> = keys.iter().map(|key| (history.rows.get(*key), held.get(*key))).collect();
                Err(format!("{} rows, {} held; differing: {pairs:?}", history.rows.len(), held.len()))
            }
        })
    }
}

pub fn ops(records: &[Record]) -> Vec<String> {
    let op = |record: &Record| match &record.value {
        Some(_) => format!("{} {}", record.json()["op"].as_str().unwrap_or("?"), record.key_text().unwrap_or("-")),
        None => format!("- {}", record.key_text().unwrap_or("-")),
    };
    records.iter().map(op).collect()
}

#[test]
fn a_snapshot_then_every_change_and_after_a_restart_only_what_is_new() {
    let site = Site::new();
    site.exec("create table items (id int primary key, name varchar(20), n int not null); insert into items values (1,'a',0),(2,'b',0),(3,'c',0); create table nothing (id int primary key)");
    let config = site.config(&[("items", ""), ("nothing", "")]);
    let mut daemon = Daemon::start(&config, &[]);
    daemon.wait_ready();
    let records = site.wait("items", 3);
    assert_eq!(ops(&records), [r#"r {"id":1}"#, r#"r {"id":2}"#, r#"r {"id":3}"#]);
    let words: Vec<_> = records.iter().map(|record| record.json()["source"]["snapshot"].clone()).collect();
    assert_eq!(
        words,
        ["first_in_data_collection", "true", "last"].map(|word| if word == "first_in_data_collection" {
            json!("first")
        } else {
            json!(word)
        })
    );
    let first = records[0].json();
    assert_eq!(first["after"], json!({"id":1,"name":"a","n":0}));
    assert_eq!(
        (&first["source"]["gtid"], &first["source"]["db"], &first["source"]["name"]),
        (&Value::Null, &json!(site.database), &json!(site.name))
    );
    assert!(
        records[0].header("larder-origin").is_some_and(|origin| origin.starts_with("snapshot/") && origin.ends_with(".items/0")),
        "{records:?}"
    );

    site.exec("update items set n = n + 1 where id = 1; begin; update items set id = 20 where id = 2; delete from items where id = 3; insert into items values (4, 'd', 0); commit");
    let records = site.wait("items", 10);
    assert_eq!(
        ops(&records[3..]),
        [r#"u {"id":1}"#, r#"d {"id":2}"#, r#"- {"id":2}"#, r#"c {"id":20}"#, r#"d {"id":3}"#, r#"- {"id":3}"#, r#"c {"id":4}"#]
    );
    assert_eq!(
        (records[4].header("__debezium.newkey"), records[6].header("__debezium.oldkey")),
        (Some(r#"{"id":20}"#), Some(r#"{"id":2}"#))
    );
    let origins: Vec<_> =
        records[3..].iter().map(|record| record.header("larder-origin").expect("an origin").rsplit_once('/').expect("a number")).collect();
    assert_eq!(origins.iter().map(|origin| origin.1).collect::<Vec<_>>(), ["0", "0", "0", "0", "1", "1", "2"]);
    assert!(origins[1..].iter().all(|origin| origin.0 == origins[1].0) && origins[0].0 != origins[1].0, "{origins:?}");
    let update = records[3].json();
    assert_eq!(update["source"]["gtid"], json!(origins[0].0));
    assert_eq!((&update["before"]["n"], &update["after"]["n"], &update["source"]["snapshot"]), (&json!(0), &json!(1), &json!("false")));
    assert_eq!(records[3].timestamp, update["source"]["ts_ms"].as_i64());

    assert_eq!(daemon.terminate(), Some(0));
    site.exec("update items set n = n + 1 where id = 1; alter table items add column extra int default 7; update items set n = n + 1 where id = 4");
    daemon.start_again();
    daemon.wait_ready();
    let records = site.wait("items", 12);
    assert_eq!(ops(&records[10..]), [r#"u {"id":1}"#, r#"u {"id":4}"#]);
    assert_eq!(records[10].json()["after"], json!({"id":1,"name":"a","n":2}), "d27: the columns of its time");
    assert_eq!(records[11].json()["after"], json!({"id":4,"name":"d","n":1,"extra":7}));
    site.exec("truncate table items; insert into items values (1, 'again', 0, 1)");
    let records = site.wait("items", 14);
    assert_eq!(ops(&records[12..]), ["t -", r#"c {"id":1}"#]);
    site.wait_same("items", &["id", "name", "n", "extra"]).assert_legal();
    assert!(site.kafka.read(&site.topic("nothing")).is_empty());
}

#[test]
fn a_table_added_later_is_read_alone_while_the_others_go_on() {
    let site = Site::new();
    site.exec("create table old (id int primary key, n int not null); insert into old values (1,0),(2,0); create table added (id int primary key, n int not null); insert into added values (1,0),(2,0),(3,0)");
    let mut daemon = Daemon::start(&site.config(&[("old", "")]), &[]);
    site.wait("old", 2);
    daemon.terminate();
    site.exec("update old set n = 1 where id = 1; update added set n = 1 where id = 2");
    std::fs::write(daemon.folder.join("larder.toml"), site.config(&[("old", ""), ("added", "")])).expect("write the configuration");
    daemon.start_again();
    let records = site.wait("added", 3);
    assert_eq!(ops(&records), [r#"r {"id":1}"#, r#"r {"id":2}"#, r#"r {"id":3}"#]);
    assert_eq!(records[1].json()["after"], json!({"id":2,"n":1}));
    assert_eq!(records[1].json()["source"]["snapshot"], "incremental");
    assert_eq!(ops(&site.wait("old", 3)), [r#"r {"id":1}"#, r#"r {"id":2}"#, r#"u {"id":1}"#]);
    site.exec("update added set n = n + 1; update old set n = n + 1");
    site.wait_same("added", &["id", "n"]).assert_legal();
    site.wait_same("old", &["id", "n"]).assert_legal();
}

#[test]
fn n01_n09_a_snapshot_under_writes_and_kills_is_a_legal_history() {
    let site = Site::new();
    site.exec("create table items (id int primary key, n int not null, pad varchar(200)); create table text_keys (id varchar(40) collate utf8mb4_0900_ai_ci primary key, n int not null)");
    site.exec("set session cte_max_recursion_depth = 100000; insert into items with recursive s as (select 1 as x union all select x + 1 from s where x < 40000) select x, 0, repeat('p', 100) from s");
    site.exec("insert into text_keys select concat(char(97 + id mod 26 using utf8mb4), if(id mod 2, 'Ä', 'a'), id), 0 from items where id <= 8000");
    let stop = AtomicBool::new(false);
    let config = site.config(&[("items", ""), ("text_keys", "")]).replace("[kafka]", "snapshot_chunk = 500\n[kafka]");
    let (resumed, _daemon) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = site.mysql.session();
            session.exec(&format!("use {}", site.database));
            let mut round: i64 = 0;
            let text_key = |id: i64| format!("{}{}{id}", char::from(97 + (id % 26) as u8), if id % 2 == 1 { 'Ä' } else { 'a' });
            while !stop.load(Ordering::Acquire) {
                round += 1;
                let (a, b) = (round * 7919 % 40000 + 1, round * 104_729 % 40000 + 1);
                session.exec(&format!(
                    "begin; update items set n = n + 1 where id in ({a}, {b}); update text_keys set n = n + 1 where id = '{}'; delete from items where id = {} ; insert into items values ({}, 0, 'new'); update items set id = -id, n = n where id = {}; commit",
                    text_key(round * 613 % 8000 + 1),
                    round * 31 % 40000 + 1,
                    100_000 + round,
                    round * 57 % 40000 + 1,
                ));
            }
        });
        let mut daemon = Daemon::start(&config, &[]);
        let went_on = |daemon: &Daemon| daemon.log().iter().any(|line| line.contains("from where that ended"));
        let mut resumed = 0;
        for kill in 0..10 {
            // Into the reading, each time a little further.
            daemon.wait_for_log("elected");
            std::thread::sleep(Duration::from_millis(20 + 50 * kill));
            daemon.kill();
            resumed += usize::from(went_on(&daemon));
            daemon.start_again();
        }
        daemon.wait_ready();
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Release);
        daemon.wait_for_log("publishing the changes");
        resumed += usize::from(went_on(&daemon));
        (resumed, daemon)
    });
    let items = site.wait_same("items", &["id", "n", "pad"]);
    items.assert_legal();
    let text_keys = site.wait_same("text_keys", &["id", "n"]);
    text_keys.assert_legal();
    assert!(resumed > 0, "a reading that was killed goes on where it was");
    eprintln!(
        "{resumed} resumed: {} reads and {} changes of items, {} and {} of text_keys",
        items.reads, items.changes, text_keys.reads, text_keys.changes
    );
}

#[test]
fn a_resnapshot_publishes_every_row_again_and_what_is_gone() {
    let site = Site::new();
    site.exec("create table items (id int primary key, n int not null); insert into items values (1,0),(2,0)");
    let mut daemon = Daemon::start(&site.config(&[("items", "")]), &[]);
    daemon.wait_ready();
    site.wait("items", 2);
    // What a consumer needs to mend: a row that went without a word.
    site.exec("set session sql_log_bin = 0; delete from items where id = 2; insert into items values (3, 0)");
    let answer = daemon.request("POST", "/api/tables/items/resnapshot", &[]);
    assert_eq!(answer.status, 202, "{answer:?}");
    let records = site.wait("items", 6);
    assert_eq!(ops(&records[2..]), [r#"r {"id":1}"#, r#"r {"id":3}"#, r#"d {"id":2}"#, r#"- {"id":2}"#]);
    site.exec("update items set n = n + 1 where id = 3");
    assert_eq!(ops(&site.wait("items", 7)[6..]), [r#"u {"id":3}"#]);
    daemon.wait_ready();
}
