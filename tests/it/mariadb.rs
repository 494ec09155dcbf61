//! A MariaDB as source (issue 4 item 7): what the tables hold is what SELECT shows.

use std::time::Duration;

use larder::model::{Reason, Stop};
use serde_json::json;

use crate::capture::{Capture, items, large_rows, plan, sections, select_items};
use crate::positions::one_of_two_gives_up;
use crate::support::{Daemon, Fault, Kafka, Mysql, Proxy, unique, wait_for, wait_until};

#[test]
fn rows_follow_inserts_updates_deletes_and_key_changes_of_a_mariadb() {
    let mysql = Mysql::shared_mariadb();
    let database = items(mysql);
    let capture = Capture::of(mysql, &[&format!("{database}.items")]);
    assert_eq!(capture.row("items", "1").as_deref(), Some(r#"{"id":1,"name":"one"}"#));
    mysql.exec(&format!(
        "use {database}; begin; insert into items values (3, 'three'); update items set name = 'TWO' where id = 2; commit; update items set id = 10 where id = 1; delete from items where id = 3; insert into items values (4, 'end')"
    ));
    capture.wait_row("items", "4", Some(r#"{"id":4,"name":"end"}"#));
    assert_eq!(capture.row("items", "1"), None);
    capture.wait_same("items", || select_items(mysql, &format!("{database}.items")));
    let gtid: Vec<String> = mysql.rows("select @@gtid_binlog_pos");
    assert_eq!(capture.tables.view().at().to_string(), gtid[0]);
}

#[test]
fn b16_compressed_statements_and_rows_of_a_mariadb() {
    let mysql = Mysql::start_mariadb(&["--log-bin-compress=ON", "--log-bin-compress-min-len=10"]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(&mysql, &[&source]);
    let mut session = mysql.session();
    let rows: Vec<String> = (10..200).map(|id| format!("({id}, repeat('x', {}))", id % 40)).collect();
    session.exec(&format!("use {database}; insert into items values {}", rows.join(",")));
    session.exec("update items set name = concat(name, 'y') where id < 100; delete from items where id between 50 and 60");
    session.exec("alter table items add column description varchar(30) default 'a long text that is compressed' first; alter table items drop column description");
    session.exec("update items set id = id + 1000 where id > 150; insert into items values (5000, 'end')");
    capture.wait_row("items", "5000", Some(r#"{"id":5000,"name":"end"}"#));
    capture.wait_same("items", || select_items(&mysql, &source));
    assert!(kinds(&mysql).iter().any(|kind| kind.contains("compressed")), "nothing was compressed: {:?}", kinds(&mysql));
}

/// Types of the events in the first binlog.
fn kinds(mysql: &Mysql) -> Vec<String> {
    mysql.rows::<mysql_async::Row>("show binlog events").iter().filter_map(|row| row.get(2)).collect()
}

#[test]
fn xa_transactions_of_a_mariadb_are_seen_at_their_commit() {
    let mysql = Mysql::shared_mariadb();
    let database = items(mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(mysql, &[&source]);
    let mut session = mysql.session();
    session.exec(&format!(
        "use {database}; xa start 'one', 'b', 3; insert into items values (8, 'c'); xa end 'one', 'b', 3; xa prepare 'one', 'b', 3"
    ));
    mysql.exec(&format!("insert into {source} values (9, 'between')"));
    capture.wait_row("items", "9", Some(r#"{"id":9,"name":"between"}"#));
    assert_eq!(capture.row("items", "8"), None);
    session.exec(
        "xa commit 'one', 'b', 3; xa start 'two'; insert into items values (10, 'gone'); xa end 'two'; xa prepare 'two'; xa rollback 'two'",
    );
    session.exec("xa start 'phase'; insert into items values (11, 'one phase'); xa end 'phase'; xa commit 'phase' one phase");
    session.exec(
        "begin; insert into items values (12, 'a'); savepoint s; insert into items values (13, 'gone'); rollback to savepoint s; commit",
    );
    session.exec("insert into items values (14, 'end')");
    capture.wait_row("items", "14", Some(r#"{"id":14,"name":"end"}"#));
    assert_eq!(capture.row("items", "8").as_deref(), Some(r#"{"id":8,"name":"c"}"#));
    capture.wait_same("items", || select_items(mysql, &source));
}

#[test]
fn statements_that_change_tables_of_a_mariadb() {
    let mysql = Mysql::shared_mariadb();
    let database = items(mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(mysql, &[&source]);
    let mut session = mysql.session();
    session.exec(&format!("use {database}; truncate items; insert into items values (3, 'x')"));
    capture.wait_row("items", "3", Some(r#"{"id":3,"name":"x"}"#));
    assert_eq!(capture.row("items", "1"), None);
    session.exec("alter table items add column first_one int default 7 first; insert into items values (1, 4, 'y')");
    capture.wait_row("items", "4", Some(r#"{"first_one":1,"id":4,"name":"y"}"#));
    capture.wait_row("items", "3", Some(r#"{"first_one":7,"id":3,"name":"x"}"#));
    session.exec("create table new_items (id int primary key, name varchar(50)); insert into new_items values (20, 'new'); rename table items to old_items, new_items to items");
    session.exec("insert into items values (21, 'newer')");
    capture.wait_row("items", "21", Some(r#"{"id":21,"name":"newer"}"#));
    capture.wait_same("items", || select_items(mysql, &source));
    session.exec("set sql_log_bin = 0; alter table items drop column name, add column other int default 5; set sql_log_bin = 1; insert into items values (22, 6)");
    capture.wait_row("items", "22", Some(r#"{"id":22,"other":6}"#));
    capture.wait_row("items", "20", Some(r#"{"id":20,"other":5}"#));
    session.exec("create or replace table items (id int primary key, name varchar(50)); insert into items values (30, 'replaced')");
    capture.wait_row("items", "30", Some(r#"{"id":30,"name":"replaced"}"#));
    capture.wait_same("items", || select_items(mysql, &source));
    session.exec("drop table items");
    capture.wait_stopped("items", Reason::TableDropped);
    session.exec("create table items (id int primary key) as select 31 as id, 'z' as name");
    capture.wait_row("items", "31", Some(r#"{"id":31,"name":"z"}"#));
}

#[test]
fn a_snapshot_of_a_mariadb_under_writes_ends_with_what_select_shows() {
    let mysql = Mysql::shared_mariadb();
    let database = mysql.database("capture");
    let table = format!("{database}.items");
    mysql.exec(&format!(
        "create table {table} (id int primary key, name varchar(50)); \
         insert into {table} with recursive n(i) as (select 1 union all select i + 1 from n where i < 900) select i, concat('n', i) from n; \
         insert into {table} select id + 1000, name from {table}; insert into {table} select id + 2000, name from {table}"
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
                    let key = (i * 7919 + writer * 13) % 6_000;
                    session.exec(&match i % 4 {
                        0 => format!("replace into {table} values ({key}, 'w{i}')"),
                        1 => format!("update {table} set name = 'u{i}' where id = {key}"),
                        2 => format!("update ignore {table} set id = {} where id = {key}", (key + 3_001) % 6_000),
                        _ => format!("delete from {table} where id = {key}"),
                    });
                }
            });
        }
        let start = || {
            let capture = Capture::with(&format!("{}snapshot_chunk = 100\n", mysql.config()), &sections(&[&table]));
            capture.wait_ready();
            capture
        };
        let captures = [start(), start(), start()];
        std::thread::sleep(Duration::from_millis(500));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for capture in captures {
            capture.wait_same("items", || select_items(mysql, &table));
        }
    });
}

#[test]
fn restarts_several_domains_and_purged_logs_of_a_mariadb() {
    let mysql = Mysql::start_mariadb(&[]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    let proxy = Proxy::to(&mysql.address);
    let capture = Capture::with(&mysql.config_at(&proxy.address), &sections(&[&source]));
    capture.wait_ready();
    let mut session = mysql.session();
    session.exec(&format!("set gtid_domain_id = 7; insert into {source} values (3, 'other domain')"));
    session.exec(&format!("set gtid_domain_id = 0; flush binary logs; insert into {source} values (4, 'rotated')"));
    capture.wait_row("items", "4", Some(r#"{"id":4,"name":"rotated"}"#));
    for id in mysql.dumps() {
        mysql.exec(&format!("kill {id}; insert into {source} values (5, 'x')"));
    }
    capture.wait_row("items", "5", Some(r#"{"id":5,"name":"x"}"#));
    drop(session);
    mysql.kill();
    mysql.restart();
    mysql.exec(&format!("insert into {source} values (6, 'after the crash')"));
    capture.wait_row("items", "6", Some(r#"{"id":6,"name":"after the crash"}"#));
    capture.wait_same("items", || select_items(&mysql, &source));
    assert!(capture.status.reconnects() > 1, "{}", capture.status.reconnects());
    proxy.set(Fault::Cut);
    // A file that a stream is being read from is not purged.
    for id in mysql.dumps() {
        mysql.exec(&format!("kill {id}"));
    }
    mysql.exec(&format!(
        "insert into {source} values (7, 'lost'); flush binary logs; insert into {source} values (8, 'x'); flush binary logs"
    ));
    wait_for("binlogs to be purged", Duration::from_secs(30), || {
        let files: Vec<String> = mysql.rows::<mysql_async::Row>("show binary logs").iter().filter_map(|row| row.get(0)).collect();
        let last = files.last().cloned().unwrap_or_default();
        mysql.exec(&format!("purge binary logs to '{last}'"));
        if files.len() == 1 { Ok(()) } else { Err(format!("{files:?}")) }
    });
    proxy.set(Fault::None);
    match capture.end() {
        Err(Stop::Operator { reason: Reason::Purged, message }) => assert!(message.contains("the binlog from binlog.0000"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn preconditions_of_a_mariadb() {
    let mysql = Mysql::start_mariadb(&["--binlog-format=MIXED", "--binlog-row-metadata=NO_LOG", "--binlog-expire-logs-seconds=1800"]);
    let database = items(&mysql);
    mysql.exec(&format!(
        "use {database}; create table child (id int primary key, item int, foreign key (item) references items (id) on delete cascade); \
         create table versioned (id int primary key) with system versioning; create table ids (id int primary key, packed varchar(200) compressed); create sequence numbers; \
         set sql_log_bin = 0; create user poor identified by 'poor'; grant select on {database}.* to poor"
    ));
    let tables = ["child", "versioned", "ids", "numbers"].map(|table| format!("{database}.{table}"));
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    let poor = format!("[mysql]\naddress = \"{}\"\nuser = \"poor\"\npassword = \"poor\"\ntls = \"disabled\"\n", mysql.address);
    let Err(Stop::Precondition(text)) = Capture::start(plan(&poor, &sections(&tables))).end() else { panic!("preconditions do not hold") };
    for part in [
        "binlog_format is MIXED",
        "GRANT REPLICATION CLIENT ON *.* TO poor",
        "GRANT REPLICATION SLAVE ON *.* TO poor",
        "ON DELETE CASCADE",
        "versioned keeps old versions of its rows",
        "numbers is a sequence",
        "column packed of",
        "has the type varchar(200) /*M!100301 COMPRESSED*/, which cannot be read",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

/// Columns and values of every common type, and how they are shown.
const TYPES: &[(&str, &[(&str, &str)])] = &[
    ("tinyint", &[("-128", "-128"), ("127", "127")]),
    ("tinyint unsigned", &[("255", "255")]),
    ("smallint unsigned", &[("65535", "65535")]),
    ("mediumint", &[("-8388608", "-8388608"), ("-1", "-1")]),
    ("int unsigned", &[("4294967295", "4294967295")]),
    ("bigint unsigned", &[("18446744073709551615", "18446744073709551615")]),
    ("bigint", &[("-9223372036854775808", "-9223372036854775808")]),
    ("decimal(30,5)", &[("-1234567890123456789012345.00001", "\"-1234567890123456789012345.00001\""), ("0", "\"0.00000\"")]),
    ("float", &[("0.1", "0.1"), ("-3.5e30", "-3.5e30")]),
    ("double", &[("0.1", "0.1"), ("1.7976931348623157e308", "1.7976931348623157e308")]),
    ("bit(9)", &[("b'100000001'", "257")]),
    ("year", &[("2024", "2024"), ("'0000'", "0")]),
    ("date", &[("'2024-02-29'", "\"2024-02-29\"")]),
    ("time(3)", &[("'-838:59:58.999'", "\"-838:59:58.999\""), ("'00:00:00.5'", "\"00:00:00.500\"")]),
    ("datetime(6)", &[("'2024-01-02 03:04:05.000006'", "\"2024-01-02T03:04:05.000006\"")]),
    ("datetime", &[("'1000-01-01 00:00:00'", "\"1000-01-01T00:00:00\"")]),
    ("timestamp(3) null", &[("'2024-01-02 05:04:05.25'", "\"2024-01-02T03:04:05.250Z\"")]),
    ("char(5) character set latin1", &[("'ü€ a '", "\"ü€ a\"")]),
    ("varchar(20) character set utf8mb4 collate utf8mb4_uca1400_ai_ci", &[("'😀 '", "\"😀 \"")]),
    ("varchar(20) character set utf8mb3 collate utf8mb3_general_nopad_ci", &[("'é'", "\"é\"")]),
    ("varchar(20) character set utf16", &[("'é'", "\"é\"")]),
    ("mediumtext", &[("repeat('ab', 3)", "\"ababab\"")]),
    ("binary(4)", &[("x'01ff00'", "\"Af8AAA==\"")]),
    ("varbinary(10)", &[("x'00ff00'", "\"AP8A\"")]),
    ("blob", &[("x'00ff'", "\"AP8=\"")]),
    ("enum('a','it''s','é')", &[("'é'", "\"é\""), ("'it''s'", "\"it's\"")]),
    ("set('x','y','z')", &[("'x,z'", "\"x,z\""), ("''", "\"\"")]),
    // LONGTEXT with a check: shown as the text it is.
    ("json", &[(r#"'{"a": [1, 2.0]}'"#, r#""{\"a\": [1, 2.0]}""#)]),
];

#[test]
fn every_common_type_of_a_mariadb_is_the_same_in_snapshot_stream_and_select() {
    let mysql = Mysql::start_mariadb(&[]);
    let database = mysql.database("types");
    let source = format!("{database}.free");
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(index, (kind, _))| format!("c{index} {kind}")).collect();
    let mut session = mysql.session();
    session.exec(&format!(
        "set sql_mode = '', time_zone = '+02:00'; set names utf8mb4; create table {source} (id int primary key, {}, g point, v int as (c0 + 1) virtual, s int as (c0 + 2) stored)",
        columns.join(", ")
    ));
    let mut id = 0;
    for metadata in ["FULL", "MINIMAL", "NO_LOG"] {
        session.exec(&format!("set global binlog_row_metadata = {metadata}"));
        let capture = Capture::of(&mysql, &[&source]);
        let first = id;
        for (index, (_, values)) in TYPES.iter().enumerate() {
            for (value, _) in *values {
                id += 1;
                session.exec(&format!("insert into {source} (id, c{index}) values ({id}, {value})"));
            }
        }
        id += 1;
        session.exec(&format!("insert into {source} (id, c0, g) values ({id}, 5, point(1, 2))"));
        wait_for("all rows", Duration::from_secs(30), || {
            if capture.row("free", &id.to_string()).is_some() { Ok(()) } else { Err(String::new()) }
        });
        let snapshot = Capture::of(&mysql, &[&source]);
        let mut shown = first;
        for (index, (kind, values)) in TYPES.iter().enumerate() {
            for (_, expected) in *values {
                shown += 1;
                let row = capture.row("free", &shown.to_string()).unwrap_or_default();
                assert!(row.contains(&format!("\"c{index}\":{expected},\"")), "{metadata} {kind}: {expected} in {row}");
            }
        }
        for id in 1..=id {
            assert_eq!(capture.row("free", &id.to_string()), snapshot.row("free", &id.to_string()), "{metadata}");
        }
        let last = snapshot.row("free", &id.to_string()).unwrap_or_default();
        assert!(last.ends_with(r#""v":6,"s":7}"#), "generated columns: {last}");
    }
}

/// The numbers of collations that only MariaDB has.
#[test]
fn the_charsets_of_a_mariadbs_collations() {
    let mysql = Mysql::shared_mariadb();
    let collations: Vec<(String, String, u16)> =
        mysql.rows("select full_collation_name, character_set_name, id from information_schema.collation_character_set_applicability");
    assert!(collations.len() > 300, "{}", collations.len());
    for (collation, charset, id) in collations {
        let known = larder::mysql::charset::Charset::of(id).map(|known| known.name());
        assert_eq!(known, Some(charset.as_str()), "{collation} {id}");
    }
}

/// Types that look like BINARY in the binlog, as values and as keys; tables with compressed columns beside them disturb nobody.
#[test]
fn uuids_and_addresses_of_a_mariadb() {
    let mysql = Mysql::start_mariadb(&[]);
    let database = mysql.database("types");
    let source = format!("{database}.ids");
    let mut session = mysql.session();
    session.exec(&format!(
        "use {database}; create table ids (id uuid, four inet4, six inet6, primary key (id, four, six)); create table packed (id int primary key, a varchar(500) compressed, b blob compressed)"
    ));
    let select = || {
        let shown = "concat('[\"', id, '\",\"', four, '\",\"', six, '\"]')";
        let row = "concat('{\"id\":\"', id, '\",\"four\":\"', four, '\",\"six\":\"', six, '\"}')";
        mysql.rows(&format!("select {shown}, {row} from {source}"))
    };
    let addresses = [
        "::",
        "::1",
        "::ffff:1.2.3.4",
        "::1.2.3.4",
        "::0.1.0.0",
        "::5:6",
        "::2",
        "::0.0.1.0",
        "::ffff:0.0.0.0",
        "::ffff:0.0.0.1",
        "::fffe:1.2.3.4",
        "1:0:2:0:3:0:4:0",
        "1::",
        "1:0:0:2::3",
        "1::2:0:0:0:3",
        "2001:db8:0:1:1:1:1:1",
        "2001:0:0:1::1",
        "fe80::1:0:0:1",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7:0",
        "0:1:2:3:4:5:6:7",
        "64:ff9b::1.2.3.4",
        "::ffff:0:1.2.3.4",
        "abcd:ef01:2345:6789:abcd:ef01:2345:6700",
    ];
    for metadata in ["FULL", "MINIMAL", "NO_LOG"] {
        session.exec(&format!("set global binlog_row_metadata = {metadata}"));
        let stream = Capture::of(&mysql, &[&source]);
        for (index, six) in addresses.iter().enumerate() {
            session.exec(&format!("insert into ids values (uuid(), '10.0.{index}.0', '{six}'); insert into packed values (floor(rand() * 1e9), repeat('x', 400), 'b')"));
        }
        session.exec("insert into ids values ('01890a5d-ac96-774b-bcce-b302099a8000', '0.0.0.0', '::'), ('00000000-0000-0000-0000-000000000000', '255.255.255.255', 'ffff::')");
        stream.wait_same("ids", select);
        let snapshot = Capture::with(&format!("{}snapshot_chunk = 3\n", mysql.config()), &sections(&[&source]));
        snapshot.wait_ready();
        snapshot.wait_same("ids", select);
        session.exec("delete from ids where four = '0.0.0.0'; update ids set four = '9.9.9.9' where six = '::1'; delete from ids where six like 'ffff%'");
        stream.wait_same("ids", select);
        session.exec("truncate ids");
    }
    assert!(
        Capture::start(plan(&mysql.config(), &sections(&[&format!("{database}.packed")]))).end().is_err(),
        "compressed columns are refused"
    );
}

/// A MariaDB and its replica, whose files have other names, and a table `items`.
fn pair() -> (Mysql, Mysql, String) {
    let primary = Mysql::start_mariadb(&[]);
    let replica = Mysql::start_mariadb(&["--server-id=2", "--log-bin=other", "--log-slave-updates=ON"]);
    let database = items(&primary);
    replica.replicate_mariadb(&primary);
    wait_caught_up(&replica, &primary);
    (primary, replica, format!("{database}.items"))
}

fn wait_caught_up(replica: &Mysql, primary: &Mysql) {
    let end: Vec<String> = primary.rows("select @@gtid_binlog_pos");
    let done: Vec<Option<i64>> = replica.rows(&format!("select master_gtid_wait('{}', 30)", end[0]));
    assert_eq!(done, [Some(0)], "the replica has {:?} of {}", replica.rows::<String>("select @@gtid_slave_pos"), end[0]);
}

#[test]
fn b06_failover_to_a_replica_of_a_mariadb() {
    let (primary, replica, source) = pair();
    let proxy = Proxy::to(&primary.address);
    let capture = Capture::with(&primary.config_at(&proxy.address), &sections(&[&source]));
    capture.wait_ready();
    let read_once = capture.tables.summaries()[0].snapshot_rows;
    for id in 100..150 {
        primary.exec(&format!("insert into {source} values ({id}, 'n{id}'); update {source} set name = 'u{id}' where id = {}", id - 5));
    }
    capture.wait_row("items", "120", Some(r#"{"id":120,"name":"u125"}"#));
    proxy.set(Fault::Cut);
    primary.exec(&format!("delete from {source} where id = 2"));
    wait_caught_up(&replica, &primary);
    replica.exec("stop slave");
    replica.exec(&format!("insert into {source} values (500, 'at the new one')"));
    proxy.turn_to(&replica.address);
    proxy.set(Fault::None);
    capture.wait_row("items", "500", Some(r#"{"id":500,"name":"at the new one"}"#));
    capture.wait_same("items", || select_items(&replica, &source));
    assert_eq!(capture.tables.summaries()[0].snapshot_rows, read_once, "it went on by GTID");
    let position = capture.status.position().unwrap_or_default();
    assert!(position.starts_with("mariadb-2-") && position.contains("/other.") && position.contains("/0-2-"), "{position}");
}

#[test]
fn b08_a_lossy_failover_of_a_mariadb_ends_the_capture() {
    let (primary, replica, source) = pair();
    let proxy = Proxy::to(&primary.address);
    let fail_over = |capture: &Capture| {
        proxy.turn_to(&replica.address);
        proxy.set(Fault::Cut);
        wait_until("the cut to be noticed", Duration::from_secs(30), || !capture.status.connected());
        proxy.set(Fault::None);
    };
    let capture = Capture::with(&primary.config_at(&proxy.address), &sections(&[&source]));
    capture.wait_ready();
    replica.exec("stop slave");
    for id in 100..150 {
        primary.exec(&format!("insert into {source} values ({id}, 'lost')"));
    }
    capture.wait_row("items", "149", Some(r#"{"id":149,"name":"lost"}"#));
    replica.exec(&format!("insert into {source} values (500, 'another history')"));
    fail_over(&capture);
    match capture.end() {
        Err(Stop::Operator { reason: Reason::ServerReplaced, message }) => {
            assert!(message.contains("it executed 0-2-") && message.contains("applied here are 0-1-"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    // Numbers alone no longer tell when the other history has become the longer one.
    proxy.turn_to(&primary.address);
    let capture = Capture::with(&primary.config_at(&proxy.address), &sections(&[&source]));
    capture.wait_ready();
    for id in 600..700 {
        replica.exec(&format!("insert into {source} values ({id}, 'another history')"));
    }
    fail_over(&capture);
    match capture.end() {
        Err(Stop::Operator { reason: Reason::Reset, message }) => assert!(message.contains("cannot go on"), "{message}"),
        other => panic!("{other:?}"),
    }
}

/// Change topics of a MariaDB: its GTIDs in the records, and the place to go on at after a restart.
#[test]
fn changes_of_a_mariadb_are_published_and_go_on_after_a_restart() {
    let (mysql, kafka, name) =
        (Mysql::start_mariadb(&["--log-bin-compress=ON", "--log-bin-compress-min-len=10"]), Kafka::shared(), unique("pub"));
    let database = items(&mysql);
    let config = format!(
        "name = \"{name}\"\ninstance = \"one\"\n{}{}[tables.items]\nmysql = \"{database}.items\"\npublish = {{ topic = \"{name}.items\" }}\n[http]\nlisten = \"127.0.0.1:0\"\n",
        mysql.config(),
        kafka.config()
    );
    let mut daemon = Daemon::start(&config, &[]);
    daemon.wait_ready();
    let wait = |count| kafka.wait_for_records(&format!("{name}.items"), count, Duration::from_secs(60));
    wait(2);
    mysql.exec(&format!(
        "use {database}; begin; insert into items values (3, repeat('c', 40)); update items set name = 'A' where id = 1; commit"
    ));
    let end: Vec<String> = mysql.rows("select @@gtid_binlog_pos");
    let records = wait(4);
    let update = records[3].json();
    assert_eq!((&update["op"], &update["before"]["name"], &update["after"]["name"]), (&json!("u"), &json!("one"), &json!("A")));
    assert_eq!((&update["source"]["gtid"], records[3].header("larder-origin")), (&json!(end[0]), Some(format!("{}/1", end[0]).as_str())));
    assert_eq!(daemon.terminate(), Some(0));
    mysql.exec(&format!("use {database}; delete from items where id = 2; xa start 'x'; insert into items values (9, 'xa'); xa end 'x'; xa prepare 'x'; xa commit 'x'; flush binary logs"));
    daemon.start_again();
    daemon.wait_ready();
    let records = wait(7);
    let ops: Vec<_> = records[4..].iter().map(|record| record.value.as_ref().map(|_| record.json()["op"].clone())).collect();
    assert_eq!(ops, [Some(json!("d")), None, Some(json!("c"))]);
    assert_eq!(records[6].json()["after"], json!({ "id": 9, "name": "xa" }));
}

#[test]
fn b31_two_captures_of_a_mariadb_with_one_server_id() {
    one_of_two_gives_up(&Mysql::start_mariadb(&[]));
}

#[test]
fn rows_above_16_mb_of_a_mariadb() {
    large_rows(&Mysql::start_mariadb(&["--max-allowed-packet=64M"]));
}
