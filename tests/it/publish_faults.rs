//! Change topics under faults: kills, twins, large transactions, tables that stop, statements that change rows unseen, purged logs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::publish::{Site, ops};
use crate::support::{Daemon, Kafka, Mysql, Record, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn kills() -> u32 {
    std::env::var("LARDER_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(30)
}

/// Writes of which every row's `n` rises by one with each update, until `stop`.
fn write(site: &Site, stop: &AtomicBool) {
    let mut session = site.mysql.session();
    session.exec(&format!("use {}", site.database));
    let mut round: i64 = 0;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        let id = |salt: i64| round * salt % 200 + 1;
        session.exec(&format!(
            "begin; update items set n = n + 1 where id = {}; update items set n = n + 1 where id = {}; update others set n = n + 1 where id = {}; commit; delete from items where id = {}; insert into items values ({}, 0) on duplicate key update n = n + 1; begin; delete from others where id = {}; insert into others values ({}, 0); commit",
            id(7919),
            id(104_729),
            id(31),
            id(57),
            id(57),
            1000 + round - 1,
            1000 + round,
        ));
    }
}

fn items_and_others(site: &Site) {
    site.exec("create table items (id int primary key, n int not null); create table others (id int primary key, n int not null); insert into items with recursive s as (select 1 as x union all select x + 1 from s where x < 200) select x, 0 from s; insert into others select * from items");
}

#[test]
fn k48_thirty_kills_leave_a_legal_history_of_every_key() {
    let site = Site::new();
    items_and_others(&site);
    let stop = AtomicBool::new(false);
    let _daemon = std::thread::scope(|scope| {
        scope.spawn(|| write(&site, &stop));
        let mut daemon = Daemon::start(&site.config(&[("items", ""), ("others", "")]), &[]);
        let mut published = 0;
        for kill in 0..kills() {
            if kill % 3 > 0 {
                daemon.wait_for_log("publishing the changes");
                published += 1;
            }
            std::thread::sleep(Duration::from_millis(u64::from(kill * 37 % 400)));
            daemon.kill();
            daemon.start_again();
        }
        daemon.wait_for_log("publishing the changes");
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Release);
        assert!(published > 0, "some kills hit the stream");
        daemon
    });
    for table in ["items", "others"] {
        let history = site.wait_same(table, &["id", "n"]);
        history.assert_legal();
        assert!(history.changes > 100, "{} changes of {table}", history.changes);
        eprintln!("{table}: {} reads, {} changes", history.reads, history.changes);
    }
}

#[test]
fn k04_a_twin_takes_over_and_the_frozen_one_writes_nothing_any_more() {
    let site = Site::new();
    items_and_others(&site);
    let stop = AtomicBool::new(false);
    let config = site.config(&[("items", ""), ("others", "")]);
    let _daemons = std::thread::scope(|scope| {
        scope.spawn(|| write(&site, &stop));
        let mut one = Daemon::start(&config, &[]);
        one.wait_for_log("publishing the changes");
        let mut two = Daemon::start(&config.replace("instance = \"one\"", "instance = \"two\""), &[]);
        two.wait_ready();
        assert!(!two.log().iter().any(|line| line.contains("elected")), "one publishes: {:?}", two.log());
        one.signal("STOP");
        let frozen = Instant::now();
        two.wait_for_log("publishing the changes");
        assert!(frozen.elapsed() < Duration::from_secs(20), "took over after {:?}", frozen.elapsed());
        std::thread::sleep(Duration::from_secs(1));
        one.signal("CONT");
        std::thread::sleep(Duration::from_secs(2));
        two.kill();
        let killed = Instant::now();
        let elections = |daemon: &Daemon| daemon.log().iter().filter(|line| line.contains("publishing the changes")).count();
        wait_for("the first one to publish again", SOON, || if elections(&one) > 1 { Ok(()) } else { Err(one.log().join("\n")) });
        assert!(killed.elapsed() < Duration::from_secs(20), "took over after {:?}", killed.elapsed());
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Release);
        (one, two)
    });
    site.wait_same("items", &["id", "n"]).assert_legal();
    site.wait_same("others", &["id", "n"]).assert_legal();
}

/// Runs of records of one transaction, by the header that says its part.
fn parts(records: &[Record]) -> Vec<&str> {
    let mut parts: Vec<&str> = records.iter().map(|record| record.header("larder-part").unwrap_or("-")).collect();
    parts.dedup();
    parts
}

#[test]
fn b49_a_transaction_above_the_limit_comes_in_parts_and_once_over_kills() {
    let site = Site::new();
    items_and_others(&site);
    site.exec("create table large (id int primary key, n int not null, pad varchar(600))");
    let config = site.config(&[("items", ""), ("large", "")]) + "[limits]\ntransaction_bytes = \"1 MiB\"\n";
    let mut daemon = Daemon::start(&config, &[]);
    site.wait("items", 200);
    let insert = |from: i64, to: i64| {
        site.exec(&format!("set session cte_max_recursion_depth = 100000; begin; insert into large with recursive s as (select {from} as x union all select x + 1 from s where x < {to}) select x, 0, repeat('p', 600) from s; update items set n = n + 1; commit"));
    };
    insert(1, 5000);
    let records = site.wait("large", 5000);
    let seen = parts(&records);
    assert!(seen.len() > 2 && seen.iter().enumerate().all(|(index, part)| *part == (index + 1).to_string()), "{seen:?}");
    let items = site.wait("items", 400);
    let (last, others) = items[200..].split_last().expect("records");
    let count = last.header("larder-part").and_then(|part| part.split_once('/')).expect("the number of parts on the last record");
    assert_eq!(count.0, count.1);
    assert!(others.iter().all(|record| record.header("larder-part").is_some_and(|part| !part.contains('/'))));
    for round in 1..=6 {
        insert(round * 10_000, round * 10_000 + 4000);
        std::thread::sleep(Duration::from_millis(30 * round as u64));
        daemon.kill();
        daemon.start_again();
    }
    site.wait_same("large", &["id", "n", "pad"]).assert_legal();
    site.wait_same("items", &["id", "n"]).assert_legal();
}

#[test]
fn b9_a_change_too_large_for_its_topic_stops_the_table_and_is_there_once_the_topic_takes_it() {
    let site = Site::new();
    site.exec("create table items (id int primary key, n int not null); create table large (id int primary key, n int not null, pad mediumtext); insert into items values (1, 0); insert into large values (1, 0, 'x')");
    site.kafka.create_topic(&site.topic("large"), 1, &[("max.message.bytes", "20000")]);
    let mut daemon = Daemon::start(&site.config(&[("items", ""), ("large", "")]), &[]);
    site.wait("large", 1);
    site.exec("update items set n = n + 1; insert into large values (2, 0, repeat('y', 100000)); update large set n = n + 1 where id = 1; update items set n = n + 1");
    site.wait("items", 3);
    let shown = |daemon: &mut Daemon| {
        let tables = daemon.get("/api/tables").json();
        tables["tables"].as_array().expect("a list").iter().find(|table| table["name"] == "large").expect("the table").clone()
    };
    wait_for("the table to be stopped", SOON, || {
        let table = shown(&mut daemon);
        if table["state"] == "stopped" && table["reason"].as_str().is_some_and(|reason| reason.starts_with("too-large")) {
            Ok(())
        } else {
            Err(table.to_string())
        }
    });
    assert_eq!(daemon.get("/ready").status, 503);
    assert_eq!(site.kafka.read(&site.topic("large")).len(), 1);
    assert_eq!(daemon.terminate(), Some(0));
    site.kafka.alter_topic(&site.topic("large"), &[("max.message.bytes", "1000000")]);
    daemon.start_again();
    let history = site.wait_same("large", &["id", "n", "pad"]);
    assert_eq!(history.rows.len(), 2);
    daemon.wait_ready();
    site.exec("update large set n = n + 1 where id = 2");
    site.wait_same("large", &["id", "n", "pad"]);
}

#[test]
fn d18_d09_statements_that_change_rows_unseen_publish_the_difference() {
    let site = Site::new();
    site.exec("create table parted (id int primary key, n int not null) partition by range (id) (partition low values less than (100), partition high values less than (200)); insert into parted values (1,0),(2,0),(101,0)");
    site.exec("create table swapped (id int primary key, n int not null); insert into swapped values (1,0),(2,0),(3,0); create table fresh (id int primary key, n int not null); insert into fresh values (2,0),(3,5),(4,0)");
    let _daemon = Daemon::start(&site.config(&[("parted", ""), ("swapped", "")]), &[]);
    site.wait("parted", 3);
    site.wait("swapped", 3);
    site.exec("update parted set n = 1 where id = 1; alter table parted drop partition high; update parted set n = 2 where id = 1");
    let records = site.wait("parted", 7);
    let mut published = ops(&records[4..]);
    published.retain(|op| !op.ends_with(r#" {"id":1}"#));
    assert_eq!(published, [r#"d {"id":101}"#, r#"- {"id":101}"#]);
    assert_eq!(
        site.wait_same("parted", &["id", "n"]).rows.into_values().collect::<Vec<_>>(),
        [json!({"id":1,"n":2}), json!({"id":2,"n":0})]
    );
    site.exec("rename table swapped to aside, fresh to swapped; update swapped set n = 6 where id = 3");
    let history = || site.wait_same("swapped", &["id", "n"]);
    assert_eq!(history().rows.len(), 3);
    let records = site.kafka.read(&site.topic("swapped"));
    let published = ops(&records[3..]);
    assert!(published.contains(&r#"d {"id":1}"#.to_owned()) && published.contains(&r#"r {"id":4}"#.to_owned()), "{published:?}");
    assert!(!published.contains(&r#"r {"id":2}"#.to_owned()), "what is the same is not said again: {published:?}");
    site.exec("drop table swapped; create table swapped (id int primary key, n int not null); insert into swapped values (9, 0)");
    assert_eq!(history().rows.into_values().collect::<Vec<_>>(), [json!({"id":9,"n":0})]);
}

#[test]
fn b02_a_purged_binlog_ends_the_process_or_publishes_the_difference() {
    let mysql: &'static Mysql = Box::leak(Box::new(Mysql::start(&[])));
    let site = Site::on(mysql);
    site.exec("create table items (id int primary key, n int not null); insert into items values (1,0),(2,0),(3,0)");
    let config = site.config(&[("items", "")]);
    let mut daemon = Daemon::start(&config, &[]);
    site.wait("items", 3);
    daemon.wait_ready();
    assert_eq!(daemon.terminate(), Some(0));
    site.exec("update items set n = 1 where id = 1; delete from items where id = 2; insert into items values (4, 0)");
    site.exec("flush binary logs; flush binary logs");
    let last: Vec<String> = mysql.rows::<(String, u64, String)>("show binary logs").into_iter().map(|(file, ..)| file).collect();
    site.exec(&format!("purge binary logs to '{}'", last.last().expect("a file")));
    daemon.start_again();
    assert_eq!(daemon.wait_exit(), Some(5), "{:?}", daemon.log());
    let line = daemon.log().pop().expect("a last line");
    assert!(line.contains("purged") && line.contains("on_purge"), "{line}");
    std::fs::write(daemon.folder.join("larder.toml"), config.replace("[kafka]", "on_purge = \"resnapshot\"\n[kafka]")).expect("write");
    daemon.start_again();
    daemon.wait_ready();
    site.wait_same("items", &["id", "n"]);
    let records = site.kafka.read(&site.topic("items"));
    let mut published = ops(&records[3..]);
    published.sort();
    assert_eq!(published, [r#"- {"id":2}"#, r#"d {"id":2}"#, r#"r {"id":1}"#, r#"r {"id":4}"#]);
    site.exec("update items set n = n + 1");
    site.wait_same("items", &["id", "n"]);
    drop(daemon);
    mysql.kill();
}

#[test]
fn b21_an_xa_transaction_prepared_before_a_restart_comes_out_at_its_commit() {
    let site = Site::new();
    site.exec("create table items (id int primary key, n int not null); insert into items values (1, 0)");
    let mut daemon = Daemon::start(&site.config(&[("items", "")]), &[]);
    site.wait("items", 1);
    site.exec(
        "xa start 'slow'; update items set n = n + 1 where id = 1; insert into items values (2, 0); xa end 'slow'; xa prepare 'slow'",
    );
    site.exec("insert into items values (3, 0)");
    assert_eq!(ops(&site.wait("items", 2)[1..]), [r#"c {"id":3}"#]);
    assert_eq!(daemon.terminate(), Some(0));
    daemon.start_again();
    daemon.wait_for_log("publishing the changes");
    site.exec("xa commit 'slow'; insert into items values (4, 0)");
    let records = site.wait("items", 5);
    assert_eq!(ops(&records[2..]), [r#"u {"id":1}"#, r#"c {"id":2}"#, r#"c {"id":4}"#]);
    let gtid =
        |index: usize| records[index].json()["source"]["gtid"].as_str().and_then(|gtid| gtid.rsplit(':').next()?.parse::<u64>().ok());
    assert_eq!(gtid(2).map(|number| number + 1), gtid(4), "the identity of the commit");
    site.wait_same("items", &["id", "n"]).assert_legal();
}

#[test]
fn a_changed_primary_key_publishes_the_rows_under_it_and_deletes_the_old_ones() {
    let site = Site::new();
    site.exec("create table keyed (a int, id int, n int not null, primary key (a, id)); insert into keyed values (1, 1, 0), (1, 2, 0)");
    let _daemon = Daemon::start(&site.config(&[("keyed", "")]), &[]);
    site.wait("keyed", 2);
    site.exec(
        "alter table keyed drop primary key, add primary key (id); update keyed set n = n + 1 where id = 1; delete from keyed where id = 2",
    );
    site.wait_same("keyed", &["a", "id", "n"]);
}

#[test]
fn a_topic_that_was_deleted_has_all_rows_again() {
    let site = Site::new();
    site.exec("create table items (id int primary key, n int not null); insert into items values (1, 0), (2, 0)");
    let mut daemon = Daemon::start(&site.config(&[("items", "")]), &[]);
    site.wait("items", 2);
    assert_eq!(daemon.terminate(), Some(0));
    site.kafka.delete_topic(&site.topic("items"));
    daemon.start_again();
    assert_eq!(ops(&site.wait("items", 2)), [r#"r {"id":1}"#, r#"r {"id":2}"#]);
    site.exec("update items set n = n + 1");
    site.wait_same("items", &["id", "n"]).assert_legal();
}

#[test]
fn a_broker_that_sleeps_longer_than_a_session_ends_nobody() {
    let kafka: &'static Kafka = Box::leak(Box::new(Kafka::start()));
    let site = Site { kafka, ..Site::new() };
    site.exec("create table items (id int primary key, n int not null); insert into items values (1, 0)");
    let mut daemon = Daemon::start(&site.config(&[("items", "")]), &[]);
    site.wait("items", 1);
    for seconds in [16, 21, 26] {
        kafka.sleep(Duration::from_secs(seconds));
        site.exec("update items set n = n + 1");
        site.wait_same("items", &["id", "n"]).assert_legal();
        assert!(!daemon.has_ended(), "{:?}", daemon.log().last());
    }
    drop(daemon);
    kafka.kill();
}
