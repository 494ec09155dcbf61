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

pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A capture that runs in the test process.
pub struct Capture {
    pub tables: Arc<Tables>,
    pub status: Arc<SourceStatus>,
    stop: watch::Sender<bool>,
    ended: Option<JoinHandle<Result<(), Stop>>>,
}

impl Capture {
    /// Captures `tables` (configuration name and `database.table`) and waits until all are ready.
    pub fn of(mysql: &Mysql, tables: &[&str]) -> Self {
        let capture = Self::with(&mysql.config(), &sections(tables));
        capture.wait_ready();
        capture
    }

    pub fn with(mysql: &str, tables: &str) -> Self {
        Self::start(plan(mysql, tables))
    }

    pub fn start(plan: Plan) -> Self {
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

    pub fn is_over(&self) -> bool {
        self.ended.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub fn state(&self, table: &str) -> State {
        let mut summaries = self.tables.summaries().into_iter();
        summaries.find(|summary| summary.name == table).expect("the table is captured").state
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        wait_for("all tables to be ready", SOON, || {
            let summaries = self.tables.summaries();
            assert!(!self.is_over(), "the capture ended: {summaries:?}");
            if summaries.iter().all(|table| table.state == State::Ready) { Ok(()) } else { Err(format!("{summaries:?}")) }
        });
    }

    pub fn row(&self, table: &str, key: &str) -> Option<String> {
        let view = self.tables.view();
        match view.lookup(view.find(table).expect("the table is captured"), key.as_bytes()) {
            Lookup::Row(row) => Some(String::from_utf8_lossy(row.json()).into_owned()),
            Lookup::Missing => None,
            Lookup::NotReady => Some("not ready".to_owned()),
            Lookup::Unknown => panic!("{table} is held whole"),
        }
    }

    #[track_caller]
    pub fn wait_row(&self, table: &str, key: &str, expected: Option<&str>) {
        wait_for(&format!("{table} {key} to be {expected:?}"), SOON, || {
            let found = self.row(table, key);
            if found.as_deref() == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }

    #[track_caller]
    pub fn wait_stopped(&self, table: &str, expected: Reason) {
        wait_for(&format!("{table} to stop as {expected}"), SOON, || match self.state(table) {
            State::Stopped { reason, .. } if reason == expected => Ok(()),
            state => Err(format!("{state:?}")),
        });
    }

    /// Waits until the table holds exactly the rows that SELECT shows, given as key and JSON text.
    #[track_caller]
    pub fn wait_same(&self, table: &str, select: impl Fn() -> Vec<(String, String)>) {
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
    pub fn end(mut self) -> Result<(), Stop> {
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

pub fn sections(tables: &[&str]) -> String {
    tables.iter().map(|source| format!("[tables.{}]\nmysql = \"{source}\"\n", source.rsplit('.').next().unwrap_or(source))).collect()
}

pub fn plan(mysql: &str, tables: &str) -> Plan {
    let server_id =
        100_000 + std::process::id() % 100_000 * 100 + unique("").rsplit('_').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let text =
        format!("name = \"capture\"\n{mysql}server_id = {server_id}\nheartbeat = \"1s\"\n[kafka]\nbrokers = \"127.0.0.1:1\"\n{tables}");
    config::parse(&text, "test.toml", std::path::Path::new("")).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// A table `items` of `id` and `name` in a database of its own; the database's name.
pub fn items(mysql: &Mysql) -> String {
    let database = mysql.database("capture");
    mysql.exec(&format!(
        "create table {database}.items (id int primary key, name varchar(50)); insert into {database}.items values (1, 'one'), (2, 'two')"
    ));
    database
}

pub fn select_items(mysql: &Mysql, table: &str) -> Vec<(String, String)> {
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

#[test]
fn transactions_are_seen_whole_over_rotations_savepoints_and_xa() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    mysql.exec(&format!("create table {database}.more (id int primary key, name varchar(50))"));
    let capture = Capture::of(mysql, &[&format!("{database}.items"), &format!("{database}.more")]);
    let mut session = mysql.session();
    session.exec(&format!("use {database}; begin; insert into items values (5, 'a'); insert into more values (5, 'a')"));
    session.exec("savepoint s; insert into items values (6, 'gone'); rollback to savepoint s; commit");
    capture.wait_row("more", "5", Some(r#"{"id":5,"name":"a"}"#));
    assert_eq!(capture.row("items", "5").as_deref(), Some(r#"{"id":5,"name":"a"}"#));
    session.exec("flush binary logs; insert into items values (7, 'b'); flush binary logs");
    capture.wait_row("items", "7", Some(r#"{"id":7,"name":"b"}"#));
    // An XA transaction is seen at its commit, one that is rolled back never.
    session.exec("xa start 'one'; insert into items values (8, 'c'); xa end 'one'; xa prepare 'one'");
    mysql.exec(&format!(
        "xa start 'two', 'x', 7; insert into {database}.items values (9, 'd'); xa end 'two', 'x', 7; xa prepare 'two', 'x', 7"
    ));
    mysql.exec(&format!("insert into {database}.items values (10, 'after')"));
    capture.wait_row("items", "10", Some(r#"{"id":10,"name":"after"}"#));
    assert_eq!(capture.row("items", "8"), None);
    session.exec("xa commit 'one'");
    mysql.exec(&format!("xa rollback 'two', 'x', 7; insert into {database}.items values (11, 'end')"));
    capture.wait_row("items", "11", Some(r#"{"id":11,"name":"end"}"#));
    assert_eq!(capture.row("items", "8").as_deref(), Some(r#"{"id":8,"name":"c"}"#));
    capture.wait_same("items", || select_items(mysql, &format!("{database}.items")));
}

#[test]
fn rows_above_16_mb_and_every_image_of_them() {
    large_rows(Mysql::shared());
}

/// Rows above the largest packet of the protocol, in stream and snapshot.
pub fn large_rows(mysql: &Mysql) {
    let database = mysql.database("capture");
    mysql.exec(&format!("create table {database}.large (id int primary key, text longtext)"));
    let capture = Capture::of(mysql, &[&format!("{database}.large")]);
    mysql.exec(&format!("set global max_allowed_packet = 67108864; insert into {database}.large values (1, repeat('a', 20000000))"));
    let length = |key: &str| capture.row("large", key).map_or(0, |row| row.len());
    wait_for("the large row", SOON, || if length("1") > 20_000_000 { Ok(()) } else { Err(length("1").to_string()) });
    mysql.exec(&format!("insert into {database}.large values (2, 'small')"));
    capture.wait_row("large", "2", Some(r#"{"id":2,"text":"small"}"#));
    let again = Capture::of(mysql, &[&format!("{database}.large")]);
    assert_eq!(again.row("large", "1"), capture.row("large", "1"));
}

#[test]
fn n14_chunks_follow_the_servers_order_of_every_kind_of_key() {
    let mysql = Mysql::shared();
    let database = mysql.database("capture");
    for (table, kind, values) in [
        ("k_int", "int", "-5,-1,0,3,2147483647"),
        ("k_big", "bigint unsigned", "0,9223372036854775808,18446744073709551615,7"),
        ("k_text", "varchar(20) collate utf8mb4_0900_ai_ci", "'a','B','á2','ß','sT','Z','é'"),
        ("k_latin", "varchar(20) character set latin1 collate latin1_swedish_ci", "'a','é','Z','ü','0'"),
        ("k_enum", "enum('z','m','a')", "'a','m','z'"),
        ("k_bit", "bit(9)", "b'1',b'100000000',b'11'"),
        ("k_dec", "decimal(30,5)", "1.00001,-99999999999999999999.5,99999999999999999999.5,99999999999999999999.50001"),
        ("k_bin", "binary(3)", "x'000001',x'ff0000',x'8000'"),
        ("k_time", "datetime(6)", "'2020-01-01 00:00:00.000001','2020-01-01 00:00:00.000002','1999-01-01'"),
        ("k_clock", "time(3)", "'-10:00:00.5','00:00:00','99:59:59.999'"),
        ("k_float", "float", "0.1,1e10,-3.5,1.1"),
    ] {
        let rows: String = values.split(',').map(|value| format!("(1, {value}), (2, {value}),")).collect();
        let rows = rows.trim_end_matches(',');
        mysql.exec(&format!(
            "create table {database}.{table} (a int, k {kind}, primary key (k, a)); insert into {database}.{table} values {rows}"
        ));
    }
    let names: Vec<String> = mysql
        .rows(&format!("select concat(table_schema, '.', table_name) from information_schema.tables where table_schema = '{database}'"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let capture = Capture::with(&format!("{}snapshot_chunk = 2\n", mysql.config()), &sections(&names));
    capture.wait_ready();
    for summary in capture.tables.summaries() {
        let count: Vec<usize> = mysql.rows(&format!("select count(*) from {}", summary.source));
        assert_eq!(summary.rows, count[0], "{}", summary.name);
    }
}

#[test]
fn n01_a_snapshot_under_writes_ends_with_what_select_shows() {
    let mysql = Mysql::shared();
    let database = mysql.database("capture");
    let table = format!("{database}.items");
    mysql.exec(&format!(
        "set cte_max_recursion_depth = 100000; create table {table} (id int primary key, name varchar(50)); \
         insert into {table} with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) select i, concat('n', i) from n"
    ));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (table, done) = (&table, &done);
            scope.spawn(move || {
                let mut session = mysql.session();
                for i in 0.. {
                    if done.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let key = (i * 7919 + writer * 13) % 30_000;
                    session.exec(&match i % 4 {
                        0 => format!("replace into {table} values ({key}, 'w{i}')"),
                        1 => format!("update {table} set name = 'u{i}' where id = {key}"),
                        2 => format!("update ignore {table} set id = {} where id = {key}", (key + 15_001) % 30_000),
                        _ => format!("delete from {table} where id = {key}"),
                    });
                }
            });
        }
        let captures: Vec<Capture> = (0..3)
            .map(|_| {
                let capture = Capture::with(&format!("{}snapshot_chunk = 500\n", mysql.config()), &sections(&[&table]));
                capture.wait_ready();
                capture
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for capture in captures {
            capture.wait_same("items", || select_items(mysql, &table));
        }
    });
}

#[test]
fn a_server_without_gtids_metadata_and_checksums() {
    let mysql =
        Mysql::start(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF", "--binlog-row-metadata=MINIMAL", "--binlog-checksum=NONE"]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(&mysql, &[&source]);
    let mut session = mysql.session();
    session
        .exec(&format!("use {database}; insert into items values (3, 'x'); flush binary logs; update items set name = 'y' where id = 3"));
    capture.wait_row("items", "3", Some(r#"{"id":3,"name":"y"}"#));
    let at = capture.tables.view().at().to_string();
    assert!(at.contains(":binlog.0000"), "uuid:file:offset, not {at}");
    session.exec("alter table items add column n smallint unsigned default 65535 first; insert into items values (1, 4, 'z')");
    capture.wait_row("items", "4", Some(r#"{"n":1,"id":4,"name":"z"}"#));
    capture.wait_row("items", "3", Some(r#"{"n":65535,"id":3,"name":"y"}"#));
    session.exec("set sql_log_bin = 0; alter table items drop column n; set sql_log_bin = 1; insert into items values (5, 'w')");
    capture.wait_row("items", "5", Some(r#"{"id":5,"name":"w"}"#));
    session.exec("truncate items; insert into items values (6, 'v')");
    capture.wait_row("items", "6", Some(r#"{"id":6,"name":"v"}"#));
    capture.wait_same("items", || select_items(&mysql, &source));
    // A second capture begins at the start of the file, over all that.
    let again = Capture::of(&mysql, &[&source]);
    again.wait_same("items", || select_items(&mysql, &source));
    mysql.kill();
    mysql.restart();
    mysql.exec(&format!("insert into {source} values (7, 'after the crash')"));
    for capture in [&capture, &again] {
        capture.wait_row("items", "7", Some(r#"{"id":7,"name":"after the crash"}"#));
        capture.wait_same("items", || select_items(&mysql, &source));
    }
    assert!(capture.status.reconnects() > 0);
}

#[test]
fn n19_hostile_settings_of_the_server() {
    let mysql = Mysql::start(&[]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    mysql.exec(&format!(
        "insert into {source} with recursive n(i) as (select 3 union all select i + 1 from n where i < 900) select i, concat('é', i) from n"
    ));
    mysql.exec(
        "set global sql_select_limit = 10, max_execution_time = 1, sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES', character_set_results = latin1, autocommit = 0, \
         time_zone = '+05:30', transaction_isolation = 'READ-UNCOMMITTED', completion_type = 'CHAIN', net_write_timeout = 1, information_schema_stats_expiry = 1",
    );
    let mut session = mysql.session();
    session.exec(&format!("set autocommit = 1, completion_type = 0; use {database}; create table times (id int primary key, at timestamp(3)); insert into times values (1, '2024-01-01 05:30:00.5')"));
    let capture = Capture::with(&format!("{}snapshot_chunk = 100\n", mysql.config()), &sections(&[&source, &format!("{database}.times")]));
    capture.wait_ready();
    assert_eq!(capture.tables.summaries()[0].rows, 900);
    assert_eq!(capture.row("items", "900").as_deref(), Some(r#"{"id":900,"name":"é900"}"#));
    assert_eq!(capture.row("times", "1").as_deref(), Some(r#"{"id":1,"at":"2024-01-01T00:00:00.500Z"}"#));
    session.exec("truncate table \"items\"; insert into times values (2, '2024-01-01 05:30:00.25')");
    capture.wait_row("times", "2", Some(r#"{"id":2,"at":"2024-01-01T00:00:00.250Z"}"#));
    assert_eq!(capture.row("items", "900"), None);
}

#[test]
fn preconditions_are_reported_all_at_once() {
    let mysql = Mysql::start(&["--binlog-row-image=MINIMAL", "--binlog-format=MIXED"]);
    let database = items(&mysql);
    mysql.exec(&format!(
        "use {database}; create table no_key (a int); create table keyed (a int, b int not null, unique key (b)); create table parents (id int primary key) engine = myisam; create view seen as select 1 as id; \
         set sql_log_bin = 0; create user poor identified by 'poor'; grant select on {database}.* to poor"
    ));
    let tables = format!(
        "{}[tables.missing]\nmysql = \"{database}.item\"\n[tables.keyed]\nmysql = \"{database}.keyed\"\nkey = [\"b\"]\n[tables.projected]\nmysql = \"{database}.items\"\ncolumns = [\"id\", \"nam\"]\n",
        sections(&[&format!("{database}.no_key"), &format!("{database}.parents"), &format!("{database}.seen")])
    );
    let poor = format!("[mysql]\naddress = \"{}\"\nuser = \"poor\"\npassword = \"poor\"\ntls = \"disabled\"\n", mysql.address);
    let Err(Stop::Precondition(text)) = Capture::with(&poor, &tables).end() else { panic!("preconditions do not hold") };
    for part in [
        "binlog_format is MIXED",
        "binlog_row_image is MINIMAL",
        "GRANT REPLICATION CLIENT ON *.* TO poor",
        "GRANT REPLICATION SLAVE ON *.* TO poor",
        "no_key has no primary key",
        "parents is stored by MyISAM",
        "seen is a view",
        &format!("no table {database}.item, or the user may not see it (did you mean items?)"),
        "no column nam, needed by tables.projected.columns (did you mean name?)",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(!text.contains("tables.keyed"), "a unique key of NOT NULL columns will do:\n{text}");
    let wrong = format!("[mysql]\naddress = \"{}\"\nuser = \"poor\"\npassword = \"wrong\"\ntls = \"disabled\"\n", mysql.address);
    let Err(Stop::Precondition(text)) = Capture::with(&wrong, &sections(&[&format!("{database}.items")])).end() else {
        panic!("the password is wrong")
    };
    assert!(text.contains("Access denied"), "{text}");
    mysql.exec(&format!("set sql_log_bin = 0; revoke select on {database}.* from poor"));
    let Err(Stop::Precondition(text)) = Capture::with(&poor, &sections(&[&format!("{database}.items")])).end() else { panic!("no rights") };
    assert!(text.contains("GRANT SELECT"), "{text}");
}

#[test]
fn tls_as_configured_and_passwords_without_it() {
    let mysql = &Mysql::start(&["--secure-file-priv="]);
    let database = items(mysql);
    let tables = sections(&[&format!("{database}.items")]);
    let pem: Vec<String> = mysql.rows("select convert(load_file(concat(@@datadir, 'ca.pem')) using utf8mb4)");
    let path = std::env::temp_dir().join(unique("ca.pem"));
    std::fs::write(&path, &pem[0]).expect("write the certificate");
    let with = |tls: &str| mysql.config().replace("tls = \"disabled\"\n", tls);
    let ca = format!("tls_ca = \"{}\"\n", path.display());
    for tls in ["tls = \"required\"\n".to_owned(), format!("tls = \"verify-ca\"\n{ca}")] {
        mysql.exec("alter user larder require ssl");
        Capture::with(&with(&tls), &tables).wait_ready();
    }
    mysql.exec("alter user larder require none");
    for tls in ["tls = \"verify-ca\"\n".to_owned(), format!("tls = \"verify-identity\"\n{ca}")] {
        let Err(Stop::Precondition(text)) = Capture::with(&with(&tls), &tables).end() else { panic!("{tls} must not trust this server") };
        assert!(text.contains("mysql.tls"), "{text}");
    }
    // Empties the server's cache of passwords: the client then sends its password under the server's RSA key.
    mysql.exec("flush privileges");
    Capture::with(&mysql.config(), &tables).wait_ready();
    let _ = std::fs::remove_file(path);
}
