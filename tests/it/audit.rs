//! The audit: no false alarm under writes, and every planted drift found (cases C18, D32).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::flow::audit::{Auditor, Audits, Comparison, Kind, Report};
use larder::model::{Change, Key, Row, RowBuilder, Stop, TableId, Transaction};

use crate::capture::{Capture, plan, sections};
use crate::support::mysql::USER;
use crate::support::{Daemon, Mysql, Shop, wait_for};

/// Compares a table that a capture follows.
fn compare(mysql: &Mysql, capture: &Capture, source: &str) -> Result<Report, String> {
    let tables = format!("{}cascades = \"ignore\"\n", sections(&[source]));
    let plan = plan(&format!("{}snapshot_chunk = 500\n", mysql.config()), &tables);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let table = capture.tables.view().find("items").expect("it is captured");
    let server = plan.mysql.as_ref().expect("it is there");
    let comparison = Comparison { mysql: server, plans: &plan.tables, table, tables: &capture.tables, source: &capture.status };
    runtime.block_on(comparison.run())
}

fn found(report: &Report) -> BTreeMap<String, Kind> {
    assert_eq!(report.found as usize, report.differences.len());
    let entry = |difference: &larder::flow::audit::Difference| {
        (String::from_utf8_lossy(difference.key.as_bytes()).into_owned(), difference.kind.clone())
    };
    report.differences.iter().map(entry).collect()
}

/// A captured table `items` with rows of 1 to `rows`.
fn items(mysql: &Mysql, rows: u32) -> (String, Capture) {
    let table = format!("{}.items", mysql.database("audit"));
    mysql.exec(&format!(
        "set cte_max_recursion_depth = 1000000; create table {table} (id int primary key, name varchar(50), n int); insert into {table} \
         with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows}) select i, concat('n', i), i from n"
    ));
    let capture = Capture::of(mysql, &[&table]);
    (table, capture)
}

/// Writes until `done`, at about `rate` changes a second; returns how many it made.
fn write(mysql: &Mysql, table: &str, rows: u64, rate: u64, done: &AtomicBool, from: u64) -> u64 {
    let mut session = mysql.session();
    let began = Instant::now();
    let mut changes = 0;
    for i in from.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        // Keys that end in 7 are left alone: drift is planted there. Several changes in one trip to the server.
        let key = |salt: u64| (i * 7919 + salt * 104_729) % (rows / 10) * 10 + salt % 7;
        session.exec(&format!(
            "update {table} set name = 'w{i}', n = n + 1 where id = {}; replace into {table} values ({}, 'r{i}', {i}); \
             delete from {table} where id = {}; insert ignore into {table} values ({}, 'i{i}', {i}); update ignore {table} set id = {} where id = {}",
            key(1), key(2), key(3), key(3), key(4), key(5),
        ));
        changes += 5;
        let due = Duration::from_millis(changes * 1000 / rate);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    changes
}

/// C18: audits again and again while 2,000 rows change a second; never an alarm. Then drift is planted under the same writes, of every
/// kind: all of it is found, and nothing else.
#[test]
fn c18_no_false_alarm_under_writes_and_every_planted_drift_found() {
    const ROWS: u32 = 30_000;
    let mysql = Mysql::shared();
    let (table, capture) = items(mysql, ROWS);
    let (done, changes, began) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (table, done, changes) = (&table, &done, &changes);
            scope.spawn(move || changes.fetch_add(write(mysql, table, u64::from(ROWS), 1000, done, writer * 1_000_000), Ordering::Relaxed));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..4 {
                let report = compare(mysql, &capture, &table).expect("it is compared");
                assert_eq!(found(&report), BTreeMap::new(), "{report:?}");
                assert!(report.rows > u64::from(ROWS) / 2 && report.unsettled < 5, "{report:?}");
            }
            mysql.exec(&format!(
                "set sql_log_bin = 0; update {table} set name = 'drift' where id = 17; update {table} set name = 'drift', n = null where id = 20007; \
                 delete from {table} where id = 27; delete from {table} where id = 29997; insert into {table} values (40007, 'new', 1), (-7, 'new', 1); \
                 update {table} set id = 50007 where id = 107"
            ));
            let changed = |columns: &[&str]| Kind::Changed { columns: columns.iter().map(ToString::to_string).collect() };
            let planted = BTreeMap::from([
                ("17".to_owned(), changed(&["name"])),
                ("20007".to_owned(), changed(&["name", "n"])),
                ("27".to_owned(), Kind::Extra),
                ("29997".to_owned(), Kind::Extra),
                ("107".to_owned(), Kind::Extra),
                ("40007".to_owned(), Kind::Missing),
                ("-7".to_owned(), Kind::Missing),
                ("50007".to_owned(), Kind::Missing),
            ]);
            for _ in 0..2 {
                let report = compare(mysql, &capture, &table).expect("it is compared");
                assert_eq!(found(&report), planted, "{report:?}");
                assert!(report.complete);
            }
        }));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let rate = changes.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    println!("{rate:.0} changes/s");
}

/// The checker is proven by a fault of ours: a change that never was in MySQL.
#[test]
fn c18_a_change_applied_wrongly_is_found() {
    let mysql = Mysql::shared();
    let (table, capture) = items(mysql, 100);
    let id = capture.tables.view().find("items").expect("it is captured");
    let row = |text: &str| -> Row {
        let mut builder = RowBuilder::default();
        builder.value("id").extend_from_slice(text.as_bytes());
        builder.value("name").extend_from_slice(b"\"n5 \"");
        builder.value("n").extend_from_slice(text.as_bytes());
        builder.finish()
    };
    let (position, at) = {
        let view = capture.tables.view();
        (view.position().clone(), view.at().to_string())
    };
    let changes = vec![
        Change::Upsert { table: id, old_key: None, key: Key::new(*b"5"), row: row("5") },
        Change::Delete { table: id, key: Key::new(*b"6") },
        Change::Upsert { table: id, old_key: None, key: Key::new(*b"1000"), row: row("1000") },
    ];
    capture.tables.apply(Transaction { changes, position, id: at, committed_us: 0 });
    let report = compare(mysql, &capture, &table).expect("it is compared");
    let expected = BTreeMap::from([
        ("5".to_owned(), Kind::Changed { columns: vec!["name".into()] }),
        ("6".to_owned(), Kind::Missing),
        ("1000".to_owned(), Kind::Extra),
    ]);
    assert_eq!(found(&report), expected);
    // Reading the table again is the repair.
    assert!(capture.status.resnapshots.ask(id));
    let same = || compare(mysql, &capture, &table).ok().filter(|report| report.found == 0);
    wait_for("the table to be as in MySQL", Duration::from_secs(30), || same().map(|_| ()).ok_or_else(|| "it is not".into()));
}

/// Keys of every kind are found again by what the row shows of them.
#[test]
fn c18_keys_of_every_kind() {
    let mysql = Mysql::shared();
    for (kind, values, wrong) in [
        ("bigint unsigned", "(18446744073709551615),(7)", "'7'"),
        ("varchar(20) collate utf8mb4_0900_ai_ci", "('é\"\\\\'),('b'),('😀 x')", "'b'"),
        ("varchar(20) character set latin1", "('é'),('b')", "'é'"),
        ("varbinary(10)", "(x'00ff'),(x'')", "x'00ff'"),
        ("decimal(20,4)", "(-1.5),(2)", "'2'"),
        ("datetime(3)", "('2020-01-01 00:00:00.5'),('1999-12-31')", "'1999-12-31'"),
        ("timestamp(6)", "('2020-01-01 00:00:00.5'),('1999-12-31')", "'1999-12-31'"),
        ("date", "('2020-01-01'),('1999-12-31')", "'1999-12-31'"),
        ("time(2)", "('-10:00:00.5'),('99:00:00')", "'-10:00:00.5'"),
        ("enum('z','é','a')", "('z'),('é')", "'é'"),
        ("float", "(0.1),(1e10)", "1e10"),
        ("bit(9)", "(b'1'),(b'100000000')", "b'1'"),
    ] {
        for composite in [false, true] {
            let table = format!("{}.items", mysql.database("audit"));
            let key = if composite { "k, a" } else { "k" };
            mysql.exec(&format!(
                "create table {table} (k {kind}, a int default 1, v int default 1, primary key ({key})); insert into {table} (k) values {values}"
            ));
            let capture = Capture::of(mysql, &[&table]);
            let report = compare(mysql, &capture, &table).expect("it is compared");
            assert_eq!((report.found, report.unsettled), (0, 0), "{kind}: {report:?}");
            mysql.exec(&format!("set sql_log_bin = 0; update {table} set v = 2 where k = {wrong}"));
            let report = compare(mysql, &capture, &table).expect("it is compared");
            let kinds: Vec<&Kind> = report.differences.iter().map(|difference| &difference.kind).collect();
            assert_eq!(kinds, [&Kind::Changed { columns: vec!["v".into()] }], "{kind}: {report:?}");
            mysql.exec(&format!("set sql_log_bin = 0; delete from {table} where k = {wrong}"));
            let report = compare(mysql, &capture, &table).expect("it is compared");
            let kinds: Vec<&Kind> = report.differences.iter().map(|difference| &difference.kind).collect();
            assert_eq!((kinds, report.unsettled), (vec![&Kind::Extra], 0), "{kind}: {report:?}");
        }
    }
}

/// D32: what the server does by itself to children is not in the binlog of servers before 9.6 (and of later ones by this option). Such a
/// table is refused unless that is accepted, and then the audit finds each row.
#[test]
fn d32_cascades_are_refused_or_found() {
    let mysql = Mysql::start(&["--loose-innodb-native-foreign-keys=ON"]);
    let (table, children) = parents_and_children(&mysql);
    match Capture::with(&mysql.config(), &sections(&[&table])).end() {
        Err(Stop::Precondition(message)) => assert!(message.contains("cascades = \"ignore\""), "{message}"),
        other => panic!("{other:?}"),
    }
    let capture = Capture::with(&mysql.config(), &format!("{}cascades = \"ignore\"\n", sections(&[&table])));
    capture.wait_ready();
    mysql.exec(&children);
    let report = compare(&mysql, &capture, &table).expect("it is compared");
    let emptied = Kind::Changed { columns: vec!["friend".into()] };
    let extra = |key: &str| (key.to_owned(), Kind::Extra);
    assert_eq!(found(&report), BTreeMap::from([extra("10"), extra("11"), extra("12"), ("13".to_owned(), emptied)]));
}

/// D32: from 9.6 on they are in the binlog, and nothing differs.
#[test]
fn d32_cascades_in_the_binlog_are_followed() {
    let mysql = Mysql::shared();
    let version: Vec<String> = mysql.rows("select version()");
    let (table, children) = parents_and_children(mysql);
    let capture = Capture::with(&mysql.config(), &format!("{}cascades = \"ignore\"\n", sections(&[&table])));
    capture.wait_ready();
    mysql.exec(&children);
    let report = compare(mysql, &capture, &table).expect("it is compared");
    let in_binlog = !["8.", "9.0", "9.1", "9.2", "9.3", "9.4", "9.5"].iter().any(|old| version[0].starts_with(old));
    assert_eq!(report.found, if in_binlog { 0 } else { 4 }, "{report:?}");
}

/// A table `items` whose rows the server deletes and empties by itself, and the statements that make it do so.
fn parents_and_children(mysql: &Mysql) -> (String, String) {
    let database = mysql.database("audit");
    mysql.exec(&format!(
        "use {database}; create table parents (id int primary key); insert into parents values (1), (2), (3); \
         create table items (id int primary key, parent int, friend int, foreign key (parent) references parents (id) on delete cascade, \
            foreign key (friend) references parents (id) on delete set null on update cascade); \
         insert into items values (10, 1, 3), (11, 1, 2), (12, 2, 2), (13, 3, 2)"
    ));
    let statements = format!("delete from {database}.parents where id = 1; delete from {database}.parents where id = 2");
    (format!("{database}.items"), statements)
}

/// On a timer, by the part of the daemon that waits for it, and on a server without GTIDs, where reading again means all tables. Under a
/// brief lock, because else the stream goes over the whole binlog file again, and with it over what was changed behind its back.
#[test]
fn c18_a_timer_audits_a_server_without_gtids() {
    let mysql = Mysql::start(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
    let table = format!("{}.items", mysql.database("audit"));
    mysql.exec(&format!(
        "grant reload on *.* to {USER}; create table {table} (id int primary key, name varchar(50)); insert into {table} values (6, 'a'), (7, 'b'), (8, 'c')"
    ));
    let config = format!("{}snapshot_lock = \"brief\"\n", mysql.config());
    let capture = Capture::with(&config, &sections(&[&table]));
    capture.wait_ready();
    mysql.exec(&format!("set sql_log_bin = 0; delete from {table} where id = 7"));
    let mut plan = plan(&mysql.config(), &sections(&[&table]));
    plan.tables[0].audit = Some(Duration::from_millis(500));
    let audits = Arc::new(Audits::new(["items".to_owned()]));
    let (tables, source) = (Arc::clone(&capture.tables), Arc::clone(&capture.status));
    let auditor = Auditor { plan: Arc::new(plan), tables, source, audits: Arc::clone(&audits) };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    std::thread::scope(|scope| {
        // Dropped here, it ends the auditor also when an assertion fails.
        let stop = stop;
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(auditor.run(stopped)).expect("it ends in order");
        });
        let wait_for_found = |wanted: u64| {
            wait_for(&format!("an audit that finds {wanted}"), Duration::from_secs(30), || {
                let audit = &audits.all()[0];
                let found = audit.report.as_ref().map(|report| report.found);
                if found == Some(wanted) {
                    Ok(())
                } else {
                    Err(format!("{audit:?}, {:?}", (capture.status.position(), capture.tables.summaries())))
                }
            });
        };
        wait_for_found(1);
        assert!(capture.status.resnapshots.ask(TableId(0)));
        wait_for_found(0);
        stop.send(true).expect("it runs");
    });
    assert_eq!(capture.row("items", "7"), None);
}

/// A table that is read again while it is compared is no table that agrees.
#[test]
fn an_audit_that_cannot_be_done_says_so() {
    let mysql = Mysql::shared();
    let (table, capture) = items(mysql, 100);
    let id = capture.tables.view().find("items").expect("it is captured");
    capture.tables.stop(id, larder::model::Reason::BadValue, "for the test".into());
    assert_eq!(compare(mysql, &capture, &table).expect_err("it is stopped"), "the table is not ready");
}

/// As an operator does it: the command asks the running daemon, and its exit code tells scripts.
#[test]
fn larder_audit_prints_differences_and_exits_1() {
    let shop = Shop::open(1);
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let config = {
        let config = shop.config();
        assert!(config.contains("listen = \"127.0.0.1:0\""), "{config}");
        config.replace(
            "listen = \"127.0.0.1:0\"",
            &format!("listen = \"127.0.0.1:{port}\"\ntoken = \"a-token-of-more-than-sixteen-characters\""),
        )
    };
    let environment = shop.environment();
    let audit = |arguments: &[&str]| Daemon::command(&[&["audit"], arguments].concat(), &config, &environment);
    let unreachable = audit(&[]);
    assert_eq!(unreachable.code, Some(3), "{unreachable:?}");
    assert!(unreachable.stderr.contains("larder run"), "{unreachable:?}");

    let mut daemon = shop.start(&config);
    daemon.wait_ready();
    let same = audit(&[]);
    assert_eq!(same.code, Some(0), "{same:?}");
    assert!(same.stdout.contains("rows as in MySQL at "), "{same:?}");
    shop.sql("set sql_log_bin = 0; update products set name = 'drift' where id = 21; delete from products where id = 36");
    let different = audit(&["--table", "products"]);
    assert_eq!(different.code, Some(1), "{different:?}");
    assert!(
        different.stdout.contains("    21: differs in name") && different.stdout.contains("    36: held, not in MySQL\n"),
        "{different:?}"
    );
    let json = audit(&["--json"]);
    let answer: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!((json.code, &answer["ok"], &answer["audits"][0]["found"]), (Some(1), &false.into(), &2.into()), "{json:?}");
    assert_eq!(audit(&["--table", "nothing"]).code, Some(3));
    let metrics = daemon.request("GET", "/metrics", &[]).body;
    assert!(metrics.contains("larder_audit_differences{table=\"products\"} 2.0"), "{metrics}");
    assert!(metrics.contains("larder_audit_timestamp_seconds{table=\"products\"} "), "{metrics}");
    assert!(daemon.log().iter().any(|line| line.contains("table products differs from MySQL in 2 rows")));
}
