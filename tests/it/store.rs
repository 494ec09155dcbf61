//! The local store against a real MySQL: a start takes the tables from it and ends up with what SELECT shows, whatever happened
//! meanwhile to the rows, the tables, the server or the file (cases C15, D27, I24, P07).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Daemon, Mysql, unique, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// What a warm start says, and what a table that is read from MySQL says.
const WARM: &str = "came from the local store";
const READ: &str = "read table items:";

/// A daemon with a local store that holds tables of one database, and joins nothing.
struct Larder {
    daemon: Daemon,
    database: String,
}

fn config(address: &str, database: &str, tables: &[&str], options: &str) -> String {
    let tables: String = tables.iter().map(|table| format!("[tables.{table}]\nmysql = \"{database}.{table}\"\n{options}")).collect();
    let server_id = 200_000_000 + std::process::id() % 100_000 * 1000 + unique("").rsplit('_').next().map_or(0, |n| n.parse().unwrap_or(0));
    format!(
        "name = \"{}\"\n{address}server_id = {server_id}\nheartbeat = \"1s\"\n[kafka]\nbrokers = \"127.0.0.1:1\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [state]\npath = \"larder.redb\"\n{tables}",
        unique("store")
    )
}

impl Larder {
    /// Starts with a table `items` of 40 rows in a database of its own, and waits until it is ready.
    fn with_items(mysql: &Mysql) -> Self {
        let database = mysql.database("store");
        mysql.exec(&format!("create table {database}.items (id int primary key, name varchar(50))"));
        let values: Vec<String> = (1..=40).map(|id| format!("({id}, 'item {id}')")).collect();
        mysql.exec(&format!("insert into {database}.items values {}", values.join(", ")));
        Self::start(mysql, database, &["items"])
    }

    fn start(mysql: &Mysql, database: String, tables: &[&str]) -> Self {
        let mut daemon = Daemon::start(&config(&mysql.config(), &database, tables, ""), &[]);
        daemon.wait_ready();
        Self { daemon, database }
    }

    fn again(&mut self) {
        self.daemon.start_again();
        self.daemon.wait_ready();
    }

    fn file(&self) -> PathBuf {
        self.daemon.folder.join("larder.redb")
    }

    /// With another configuration from the next start on.
    fn configure(&self, config: &str) {
        std::fs::write(self.daemon.folder.join("larder.toml"), config).expect("write the configuration");
    }

    fn says(&self, text: &str) -> bool {
        self.daemon.log().iter().any(|line| line.contains(text))
    }

    #[track_caller]
    fn assert_warm(&self) {
        assert!(self.says(WARM) && !self.says(READ), "{}", self.daemon.log().join("\n"));
    }

    #[track_caller]
    fn assert_cold(&self, because: &str) {
        assert!(!self.says(WARM) && self.says(READ) && self.says(because), "{}", self.daemon.log().join("\n"));
    }

    /// Waits until the daemon has exactly the rows that SELECT shows.
    #[track_caller]
    fn wait_same(&mut self, mysql: &Mysql, table: &str) {
        let select = format!("select cast(id as char), cast(json_object('id', id, 'name', name) as char) from {}.{table}", self.database);
        wait_for(&format!("{table} to hold what SELECT shows"), SOON, || {
            let expected: Vec<(String, String)> = mysql.rows(&select);
            let tables = self.daemon.get("/api/tables").json();
            let held = tables["tables"].as_array().and_then(|tables| tables.iter().find(|found| found["name"] == table).cloned());
            let held = held.ok_or_else(|| format!("no table {table} in {tables}"))?;
            if held["state"] != "ready" || held["rows"] != expected.len() {
                return Err(format!("{held}, SELECT shows {} rows", expected.len()));
            }
            for (key, row) in &expected {
                let answer = self.daemon.get(&format!("/api/tables/{table}/rows/{key}"));
                let expected: serde_json::Value = serde_json::from_str(row).expect("JSON of MySQL");
                if answer.status != 200 || answer.json() != expected {
                    return Err(format!("row {key} is {}, SELECT shows {row}", answer.body));
                }
            }
            Ok(())
        });
    }

    /// Waits until a checkpoint has everything so far: one more row of it is written.
    #[track_caller]
    fn wait_written(&mut self) {
        let written = |metrics: &str| metrics.lines().find_map(|line| line.strip_prefix("larder_store_rows_total ")?.parse::<u64>().ok());
        wait_for("the rows to be in the store", SOON, || {
            let metrics = self.daemon.get("/metrics").body;
            if written(&metrics).is_some_and(|rows| rows > 0) { Ok(()) } else { Err(metrics) }
        });
    }
}

#[test]
fn a_clean_stop_makes_the_next_start_warm() {
    let mysql = Mysql::shared();
    let mut larder = Larder::with_items(mysql);
    let items = format!("{}.items", larder.database);
    mysql.exec(&format!("update {items} set name = 'before the stop' where id = 7; delete from {items} where id = 8"));
    larder.wait_same(mysql, "items");
    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec(&format!(
        "update {items} set name = 'meanwhile' where id = 9; delete from {items} where id = 10; insert into {items} values (100, 'new'); \
         update {items} set id = 101 where id = 11"
    ));
    larder.again();
    larder.assert_warm();
    larder.wait_same(mysql, "items");
    mysql.exec(&format!("insert into {items} values (200, 'after')"));
    larder.wait_same(mysql, "items");
    // A start that has nothing new to read, and one after it.
    for _ in 0..2 {
        assert_eq!(larder.daemon.terminate(), Some(0));
        larder.again();
        larder.assert_warm();
        larder.wait_same(mysql, "items");
    }
}

#[test]
fn i24_kills_under_writes_and_files_deleted_at_any_moment_change_only_time() {
    let mysql = Mysql::shared();
    let mut larder = Larder::with_items(mysql);
    let items = format!("{}.items", larder.database);
    larder.wait_written();
    let done = AtomicBool::new(false);
    let mut warm = 0;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut session = mysql.session();
            let mut turn = 0_u64;
            while !done.load(Ordering::Relaxed) {
                turn += 1;
                let id = turn * 7 % 60 + 1;
                session.exec(&match turn % 5 {
                    0 => format!("delete from {items} where id = {id}"),
                    1 => format!("update ignore {items} set id = {} where id = {id}", id + 1),
                    _ => format!("replace into {items} values ({id}, 'turn {turn}')"),
                });
            }
        });
        for round in 0..10_u64 {
            std::thread::sleep(Duration::from_millis(300 + round * 337 % 2500));
            larder.daemon.kill();
            match round % 4 {
                2 => std::fs::remove_file(larder.file()).expect("delete the file of a daemon that is down"),
                3 => {
                    larder.again();
                    // It may not have been made yet.
                    let _ = std::fs::remove_file(larder.file());
                    std::thread::sleep(Duration::from_millis(500));
                    larder.daemon.kill();
                }
                _ => {}
            }
            larder.again();
            warm += u32::from(larder.says(WARM));
            assert!(!larder.says("cannot be trusted"), "{}", larder.daemon.log().join("\n"));
        }
        done.store(true, Ordering::Relaxed);
        writer.join().expect("the writer goes on to its end");
    });
    larder.wait_same(mysql, "items");
    assert!(warm >= 3, "only {warm} starts were warm");
}

#[test]
fn d27_statements_of_the_downtime_are_replayed_at_their_place() {
    let mysql = Mysql::shared();
    let mut larder = Larder::with_items(mysql);
    let database = larder.database.clone();
    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec(&format!(
        "update {database}.items set name = 'before' where id = 1; \
         alter table {database}.items add column first_of_all int not null default 5 first; \
         update {database}.items set name = 'between' where id = 2; \
         alter table {database}.items drop column first_of_all; \
         update {database}.items set name = 'after' where id = 3"
    ));
    larder.again();
    assert!(larder.says(WARM) && larder.says("reading table items again"), "{}", larder.daemon.log().join("\n"));
    larder.wait_same(mysql, "items");

    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec(&format!("truncate table {database}.items; insert into {database}.items values (1, 'anew')"));
    larder.again();
    larder.assert_warm();
    larder.wait_same(mysql, "items");

    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec(&format!(
        "drop table {database}.items; create table {database}.items (name varchar(60), id int primary key); \
         insert into {database}.items values ('another table', 1), ('of that name', 2)"
    ));
    larder.daemon.start_again();
    larder.wait_same(mysql, "items");
    // What was read again is in the store, too.
    assert_eq!(larder.daemon.terminate(), Some(0));
    larder.again();
    larder.assert_warm();
    larder.wait_same(mysql, "items");
}

#[test]
fn only_what_the_store_lacks_is_read() {
    let mysql = Mysql::shared();
    let mut larder = Larder::with_items(mysql);
    let database = larder.database.clone();
    mysql.exec(&format!(
        "create table {database}.more (id int primary key, name varchar(9)); insert into {database}.more values (1, 'one')"
    ));
    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec(&format!("insert into {database}.more values (2, 'two'); update {database}.items set name = 'x' where id = 1"));
    larder.configure(&config(&mysql.config(), &database, &["items", "more"], ""));
    larder.again();
    larder.assert_warm();
    assert!(larder.says("read table more:"), "{}", larder.daemon.log().join("\n"));
    larder.wait_same(mysql, "items");
    larder.wait_same(mysql, "more");

    // Other options make other rows.
    assert_eq!(larder.daemon.terminate(), Some(0));
    larder.configure(&config(&mysql.config(), &database, &["items"], "invalid_text = \"replace\"\n"));
    larder.again();
    larder.assert_cold("was configured otherwise");
    larder.wait_same(mysql, "items");
}

#[test]
fn c15_a_damaged_file_or_one_of_another_server_is_replaced_by_a_snapshot() {
    let mysql = Mysql::shared();
    let mut larder = Larder::with_items(mysql);
    assert_eq!(larder.daemon.terminate(), Some(0));
    let good = std::fs::read(larder.file()).expect("the store");
    let mut flipped = good.clone();
    for byte in flipped.iter_mut().skip(4096).step_by(97) {
        *byte ^= 0x10;
    }
    for (turn, bytes) in [flipped, good[..good.len() / 3].to_vec(), Vec::new(), b"no database".repeat(1000)].into_iter().enumerate() {
        std::fs::write(larder.file(), bytes).expect("damage the store");
        larder.again();
        larder.assert_cold("cannot be trusted");
        let said = larder.daemon.log().iter().filter(|line| line.contains("cannot be trusted")).count();
        assert_eq!(said, 1, "{}", larder.daemon.log().join("\n"));
        larder.wait_same(mysql, "items");
        assert_eq!(larder.daemon.terminate(), Some(0));
        let aside = std::fs::read_dir(&larder.daemon.folder).expect("its folder");
        let aside = aside.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains(".bad-"))).count();
        assert_eq!(aside, (turn + 1).min(3));
        larder.again();
        larder.assert_warm();
        assert_eq!(larder.daemon.terminate(), Some(0));
    }
}

#[test]
fn c15_another_server_or_a_purged_binlog_means_a_snapshot() {
    let mysql = Mysql::start(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
    let mut larder = Larder::with_items(&mysql);
    let items = format!("{}.items", larder.database);
    // Without GTIDs file and offset say where to go on.
    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec(&format!("update {items} set name = 'meanwhile' where id = 9; flush binary logs; delete from {items} where id = 1"));
    larder.again();
    larder.assert_warm();
    larder.wait_same(&mysql, "items");

    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec("flush binary logs; flush binary logs");
    let logs: Vec<(String, u64, String)> = mysql.rows("show binary logs");
    mysql.exec(&format!("update {items} set name = 'unseen' where id = 12; purge binary logs to '{}'", logs[logs.len() - 1].0));
    larder.again();
    larder.assert_cold("no longer has its binlog");
    larder.wait_same(&mysql, "items");
    assert_eq!(larder.daemon.terminate(), Some(0));

    // The same names on another server, which has GTIDs.
    let other = Mysql::shared();
    let database = larder.database.clone();
    other.exec(&format!(
        "create database {database}; create table {items} (id int primary key, name varchar(50)); insert into {items} values (1, 'other')"
    ));
    larder.configure(&config(&other.config(), &database, &["items"], ""));
    larder.again();
    larder.assert_cold("the local store is not used");
    larder.wait_same(other, "items");

    // And back to the first, which knows nothing of the other's transactions.
    assert_eq!(larder.daemon.terminate(), Some(0));
    larder.configure(&config(&mysql.config(), &database, &["items"], ""));
    larder.again();
    larder.assert_cold("the local store is not used");
    larder.wait_same(&mysql, "items");
}

#[test]
fn c15_gtids_of_another_history_or_purged_ones_mean_a_snapshot() {
    let mysql = Mysql::start(&[]);
    let mut larder = Larder::with_items(&mysql);
    let items = format!("{}.items", larder.database);
    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec(&format!("update {items} set name = 'unseen' where id = 12; flush binary logs"));
    let logs: Vec<(String, u64, String)> = mysql.rows("show binary logs");
    mysql.exec(&format!("purge binary logs to '{}'", logs[logs.len() - 1].0));
    larder.again();
    larder.assert_cold("is purged");
    larder.wait_same(&mysql, "items");

    assert_eq!(larder.daemon.terminate(), Some(0));
    mysql.exec(&format!("reset binary logs and gtids; update {items} set name = 'another history' where id = 13"));
    larder.again();
    larder.assert_cold("lacks transactions of the store");
    larder.wait_same(&mysql, "items");
}

#[test]
fn a_store_in_use_ends_the_start() {
    let mysql = Mysql::shared();
    let larder = Larder::with_items(mysql);
    let path = larder.file().display().to_string();
    let config = config(&mysql.config(), &larder.database, &["items"], "").replace("\"larder.redb\"", &format!("\"{path}\""));
    let mut second = Daemon::start(&config, &[]);
    assert_eq!(second.wait_exit(), Some(3));
    wait_for("the line that says why", SOON, || {
        let log = second.log();
        if log.iter().any(|line| line.contains("is in use by another process")) { Ok(()) } else { Err(log.join("\n")) }
    });
}

#[test]
fn without_a_path_nothing_is_written() {
    let mysql = Mysql::shared();
    let database = mysql.database("store");
    mysql.exec(&format!(
        "create table {database}.items (id int primary key, name varchar(50)); insert into {database}.items values (1, 'one')"
    ));
    let config = config(&mysql.config(), &database, &["items"], "").replace("[state]\npath = \"larder.redb\"\n", "");
    let mut daemon = Daemon::start(&config, &[]);
    daemon.wait_ready();
    assert_eq!(daemon.terminate(), Some(0));
    let files: Vec<_> =
        std::fs::read_dir(&daemon.folder).expect("its folder").filter_map(|entry| entry.ok().map(|e| e.file_name())).collect();
    assert_eq!(files, ["larder.toml"]);
}
