//! Positions in the binlog (issue 4 item 6): what happens when the server, its log or the way to it is not what it was, and when
//! transactions are of an unusual kind. Groups B and A of the cases.

use std::time::{Duration, Instant};

use larder::config;
use larder::model::{Reason, Stop};
use larder::mysql::preconditions;
use larder::table::State;

use crate::capture::{Capture, items, plan, sections, select_items};
use crate::support::{Daemon, Fault, Mysql, Proxy, block_on, unique, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// Ends the streams from a server and purges all binlogs but the last.
fn purge(mysql: &Mysql) {
    for id in mysql.dumps() {
        mysql.exec(&format!("kill {id}"));
    }
    mysql.exec("flush binary logs");
    wait_for("binlogs to be purged", SOON, || {
        let files: Vec<String> = mysql.rows::<mysql_async::Row>("show binary logs").iter().filter_map(|row| row.get(0)).collect();
        let last = files.last().cloned().unwrap_or_default();
        mysql.exec(&format!("purge binary logs to '{last}'"));
        if files.len() == 1 { Ok(()) } else { Err(format!("{files:?}")) }
    });
}

#[test]
fn b02_what_was_purged_while_we_were_away_ends_the_daemon_with_the_missing_range() {
    let mysql = Mysql::start(&["--binlog-expire-logs-seconds=86400"]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    let proxy = Proxy::to(&mysql.address);
    let config = format!(
        "name = \"{}\"\n{}[kafka]\nbrokers = \"127.0.0.1:1\"\n{}[http]\nlisten = \"127.0.0.1:0\"\n",
        unique("purged"),
        mysql.config_at(&proxy.address),
        sections(&[&source])
    );
    let mut daemon = Daemon::start(&config, &[]);
    wait_for("the table to be ready", SOON, || {
        let tables = daemon.get("/api/tables").body;
        if tables.contains("\"ready\"") { Ok(()) } else { Err(tables) }
    });
    let metrics = daemon.get("/metrics").body;
    let runway = metrics.lines().find_map(|line| line.strip_prefix("larder_binlog_runway_seconds "));
    let runway: f64 = runway.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no runway in:\n{metrics}"));
    assert!((80_000.0..=86_400.0).contains(&runway), "{runway}");
    proxy.set(Fault::Cut);
    let before: Vec<String> = mysql.rows("select @@global.gtid_executed");
    mysql.exec(&format!("insert into {source} values (6, 'lost')"));
    purge(&mysql);
    let purged: Vec<String> = mysql.rows(&format!("select gtid_subtract(@@global.gtid_purged, '{}')", before[0].replace('\n', "")));
    proxy.set(Fault::None);
    assert_eq!(daemon.wait_exit(), Some(5));
    let last = wait_for("the last line", SOON, || {
        daemon.log().into_iter().rfind(|line| line.contains("purged:")).ok_or_else(|| daemon.log().join("\n"))
    });
    for part in [&format!("transactions {} is missing", purged[0]), "restart Larder", "mysql.on_purge", "binlog_expire_logs_seconds"] {
        assert!(last.contains(part), "{part:?} in {last}");
    }
}

#[test]
fn b02_on_purge_resnapshot_reads_the_tables_again_also_after_a_reset() {
    let mysql = Mysql::start(&["--binlog-expire-logs-seconds=1800"]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    let proxy = Proxy::to(&mysql.address);
    let config = format!("{}on_purge = \"resnapshot\"\n", mysql.config_at(&proxy.address));
    let again = Capture::with(&config, &sections(&[&source]));
    let exits = Capture::with(&mysql.config_at(&proxy.address), &sections(&[&source]));
    again.wait_ready();
    exits.wait_ready();
    proxy.set(Fault::Cut);
    mysql.exec(&format!("insert into {source} values (6, 'lost'); delete from {source} where id = 1"));
    purge(&mysql);
    proxy.set(Fault::None);
    again.wait_row("items", "6", Some(r#"{"id":6,"name":"lost"}"#));
    again.wait_same("items", || select_items(&mysql, &source));
    assert!(matches!(exits.end(), Err(Stop::Operator { reason: Reason::Purged, .. })));
    // RESET: the history begins anew.
    let exits = Capture::with(&mysql.config_at(&proxy.address), &sections(&[&source]));
    exits.wait_ready();
    proxy.set(Fault::Cut);
    mysql.exec(&format!("reset binary logs and gtids; delete from {source} where id = 6; insert into {source} values (7, 'new history')"));
    proxy.set(Fault::None);
    again.wait_row("items", "7", Some(r#"{"id":7,"name":"new history"}"#));
    again.wait_same("items", || select_items(&mysql, &source));
    match exits.end() {
        Err(Stop::Operator { reason: Reason::Reset, message }) => assert!(message.contains("lacks transactions"), "{message}"),
        other => panic!("{other:?}"),
    }
    // A07: and an expiry under an hour is warned of.
    let plan = plan(&mysql.config(), &sections(&[&source]));
    let report = block_on(preconditions::check(plan.mysql.as_ref().expect("a section [mysql]"), &plan.tables));
    assert!(report.failures.is_empty(), "{report:?}");
    assert!(report.warnings.iter().any(|warning| warning.contains("purged after 1800 s")), "{report:?}");
}

/// A server and its replica, whose files have other names and lengths, and a table.
fn pair() -> (Mysql, Mysql, String) {
    let primary = Mysql::start(&[]);
    let replica = Mysql::start(&["--server-id=2", "--log-bin=other"]);
    let database = items(&primary);
    replica.replicate(&primary);
    replica.wait_caught_up(&primary);
    (primary, replica, format!("{database}.items"))
}

#[test]
fn b06_failover_to_a_replica_of_the_same_history_under_load() {
    let (primary, replica, source) = pair();
    let proxy = Proxy::to(&primary.address);
    let capture = Capture::with(&primary.config_at(&proxy.address), &sections(&[&source]));
    capture.wait_ready();
    let snapshot_rows = || capture.tables.summaries()[0].snapshot_rows;
    let read_once = snapshot_rows();
    let write = |server: &Mysql, from: u32| {
        let mut session = server.session();
        for id in from..from + 300 {
            session.exec(&format!("insert into {source} values ({id}, 'n{id}'); update {source} set name = 'u{id}' where id = {}", id - 5));
            if id % 7 == 0 {
                session.exec(&format!("delete from {source} where id = {}", id - 3));
            }
        }
    };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&primary, 100));
        wait_until("changes to flow", SOON, || capture.row("items", "120").is_some_and(|row| row != "not ready"));
        proxy.set(Fault::Cut);
        writer.join().expect("writes to the primary");
    });
    primary.exec("set global super_read_only = on");
    replica.wait_caught_up(&primary);
    replica.exec("stop replica");
    proxy.turn_to(&replica.address);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&replica, 1000));
        proxy.set(Fault::None);
        writer.join().expect("writes to the replica");
    });
    capture.wait_row("items", "1299", Some(r#"{"id":1299,"name":"n1299"}"#));
    capture.wait_same("items", || select_items(&replica, &source));
    assert_eq!(snapshot_rows(), read_once, "it went on by GTID, without reading the table again");
    let uuid: Vec<String> = replica.rows("select @@server_uuid");
    let position = capture.status.position().unwrap_or_default();
    assert!(position.starts_with(&format!("{}/other.", uuid[0])), "the new server is recorded: {position}");
}

#[test]
fn b08_a_lossy_failover_ends_with_both_sets() {
    let (primary, replica, source) = pair();
    let proxy = Proxy::to(&primary.address);
    let capture = Capture::with(&primary.config_at(&proxy.address), &sections(&[&source]));
    capture.wait_ready();
    replica.exec("stop replica");
    let uuid: Vec<String> = primary.rows("select @@server_uuid");
    let kept: Vec<String> = replica.rows("select @@global.gtid_executed");
    for id in 100..150 {
        primary.exec(&format!("insert into {source} values ({id}, 'lost')"));
    }
    capture.wait_row("items", "149", Some(r#"{"id":149,"name":"lost"}"#));
    proxy.turn_to(&replica.address);
    proxy.set(Fault::Cut);
    replica.exec(&format!("insert into {source} values (500, 'another history')"));
    proxy.set(Fault::None);
    let last: Vec<u64> = primary.rows("select substring_index(@@global.gtid_executed, '-', -1) + 0");
    match capture.end() {
        Err(Stop::Operator { reason: Reason::ServerReplaced, message }) => {
            let lost = format!("{}:{}-{}", uuid[0], last[0] - 49, last[0]);
            for part in [lost, format!("it executed {}", kept[0]), format!("applied here are {}:1-{}", uuid[0], last[0])] {
                assert!(message.contains(&part), "{part} in {message}");
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn b10_tagged_gtids_with_gaps_are_resumed_from() {
    let mysql = Mysql::start(&[]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(&mysql, &[&source]);
    let mut session = mysql.session();
    let other = "aaaaaaaa-0000-4000-8000-00000000000b";
    for (id, gtid) in [(10, "blue:5"), (11, "blue:7"), (12, "3"), (13, "red_1:18446744073709551")] {
        session.exec(&format!("set gtid_next = '{other}:{gtid}'; insert into {source} values ({id}, 'x'); set gtid_next = 'automatic'"));
    }
    capture.wait_row("items", "13", Some(r#"{"id":13,"name":"x"}"#));
    assert_eq!(capture.tables.view().at().to_string(), format!("{other}:red_1:18446744073709551"));
    for id in mysql.dumps() {
        session.exec(&format!("kill {id}"));
    }
    // In a gap, while the stream is down: it must be sent.
    session.exec(&format!("set gtid_next = '{other}:blue:6'; insert into {source} values (14, 'in the gap'); set gtid_next = 'automatic'"));
    capture.wait_row("items", "14", Some(r#"{"id":14,"name":"in the gap"}"#));
    capture.wait_same("items", || select_items(&mysql, &source));
    let executed: Vec<String> = mysql.rows("select @@global.gtid_executed");
    let position = capture.status.position().unwrap_or_default();
    assert!(position.contains(&format!("{other}:3:blue:5-7:red_1:18446744073709551")), "{position}, the server says {}", executed[0]);
}

#[test]
fn b13_compressed_transactions_and_tagged_gtids() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    let capture = Capture::of(mysql, &[&format!("{database}.items")]);
    let mut session = mysql.session();
    session.exec(&format!("use {database}; set binlog_transaction_compression = on; insert into items values (3, repeat('c', 40)); begin; insert into items values (4, 'd'); delete from items where id = 1; commit"));
    session.exec("alter table items comment 'in between'; update items set name = 'e' where id = 3");
    capture.wait_row("items", "3", Some(r#"{"id":3,"name":"e"}"#));
    session.exec("set gtid_next = 'automatic:blue'; insert into items values (5, 'tagged')");
    capture.wait_row("items", "5", Some(r#"{"id":5,"name":"tagged"}"#));
    assert!(capture.tables.view().at().contains(":blue:"), "{}", capture.tables.view().at());
    session.exec("set binlog_transaction_compression = off; insert into items values (6, 'plain')");
    capture.wait_row("items", "6", Some(r#"{"id":6,"name":"plain"}"#));
    capture.wait_same("items", || select_items(mysql, &format!("{database}.items")));
    // With tags in the set the stream is resumed and a capture is started anew.
    let again = Capture::of(mysql, &[&format!("{database}.items")]);
    again.wait_same("items", || select_items(mysql, &format!("{database}.items")));
}

#[test]
fn b20_what_is_rolled_back_never_shows() {
    let mysql = Mysql::start(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
    let database = items(&mysql);
    mysql.exec(&format!("create table {database}.plain (id int primary key) engine = myisam"));
    let source = format!("{database}.items");
    let capture = Capture::of(&mysql, &[&source]);
    let mut session = mysql.session();
    session.exec(&format!("use {database}; begin; insert into items values (10, 'gone'); rollback"));
    session.exec("begin; insert into items values (11, 'kept'); savepoint s; insert into items values (12, 'gone'); update items set name = 'gone' where id = 1; rollback to savepoint s; commit");
    // The rows of MyISAM stay, and make the server log the rest with its ROLLBACK.
    session.exec("begin; insert into items values (13, 'gone'); insert into plain values (1); update items set name = 'gone'; rollback");
    session.exec("begin; insert into items values (14, 'kept'); savepoint s; insert into plain values (2); delete from items; rollback to savepoint s; commit");
    session.exec("insert into items values (15, 'end')");
    capture.wait_row("items", "15", Some(r#"{"id":15,"name":"end"}"#));
    for gone in ["10", "12", "13"] {
        assert_eq!(capture.row("items", gone), None, "{gone}");
    }
    capture.wait_same("items", || select_items(&mysql, &source));
}

#[test]
fn b21_an_xa_transaction_prepared_before_the_start_is_read_when_it_commits() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    mysql.exec(&format!(
        "xa start '{database}'; insert into {database}.items values (8, 'c'); xa end '{database}'; xa prepare '{database}'"
    ));
    let capture = Capture::of(mysql, &[&format!("{database}.items")]);
    assert_eq!(capture.row("items", "8"), None);
    mysql.exec(&format!("xa commit '{database}'"));
    capture.wait_row("items", "8", Some(r#"{"id":8,"name":"c"}"#));
}

#[test]
fn b21_prepared_transactions_outlive_server_stream_and_daemon() {
    let mysql = Mysql::start(&[]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(&mysql, &[&source]);
    for (xid, id) in [("kept", 8), ("gone", 9), ("later", 10)] {
        mysql.exec(&format!("xa start '{xid}'; insert into {source} values ({id}, '{xid}'); xa end '{xid}'; xa prepare '{xid}'"));
    }
    mysql.exec(&format!("insert into {source} values (11, 'after')"));
    capture.wait_row("items", "11", Some(r#"{"id":11,"name":"after"}"#));
    mysql.kill();
    mysql.restart();
    // A daemon that starts now has not seen the rows prepared.
    let restarted = Capture::of(&mysql, &[&source]);
    for capture in [&capture, &restarted] {
        assert_eq!(capture.row("items", "8"), None, "prepared is not committed");
    }
    mysql.exec(&format!("xa commit 'kept'; xa rollback 'gone'; insert into {source} values (12, 'end')"));
    for capture in [&capture, &restarted] {
        capture.wait_row("items", "12", Some(r#"{"id":12,"name":"end"}"#));
        capture.wait_row("items", "8", Some(r#"{"id":8,"name":"kept"}"#));
        capture.wait_same("items", || select_items(&mysql, &source));
    }
    mysql.exec(&format!(
        "xa start 'p'; update {source} set name = 'one phase' where id = 1; xa end 'p'; xa commit 'p' one phase; xa commit 'later'"
    ));
    for capture in [&capture, &restarted] {
        capture.wait_row("items", "10", Some(r#"{"id":10,"name":"later"}"#));
        capture.wait_row("items", "1", Some(r#"{"id":1,"name":"one phase"}"#));
    }
}

#[test]
fn b22_rows_changed_by_statement_stop_their_table_alone() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    mysql.exec(&format!(
        "create table {database}.more (id int primary key, name varchar(50)); create table {database}.others (id int primary key)"
    ));
    let capture = Capture::of(mysql, &[&format!("{database}.items"), &format!("{database}.more")]);
    let mut session = mysql.session();
    session
        .exec(&format!("use {database}; set binlog_format = statement; insert into others values (1); insert into items values (3, 'x')"));
    capture.wait_stopped("items", Reason::StatementFormat);
    session.exec("set binlog_format = row; insert into more values (1, 'on')");
    capture.wait_row("more", "1", Some(r#"{"id":1,"name":"on"}"#));
}

#[test]
fn b23_rows_that_leave_columns_out_stop_their_table_alone() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    mysql.exec(&format!("create table {database}.more (id int primary key, name varchar(50), n int)"));
    let capture = Capture::of(mysql, &[&format!("{database}.items"), &format!("{database}.more")]);
    let mut session = mysql.session();
    session.exec(&format!(
        "use {database}; set binlog_row_image = minimal; insert into items values (3, 'x'); delete from items where id = 1"
    ));
    session.exec("update items set id = 4, name = 'all of it' where id = 3; insert into more values (1, 'a', 5)");
    capture.wait_row("more", "1", Some(r#"{"id":1,"name":"a","n":5}"#));
    capture.wait_same("items", || select_items(mysql, &format!("{database}.items")));
    session.exec("update more set n = 6; insert into items values (5, 'on')");
    capture.wait_stopped("more", Reason::RowImage);
    assert_eq!(capture.row("more", "1").as_deref(), Some("not ready"), "never a row with holes");
    capture.wait_row("items", "5", Some(r#"{"id":5,"name":"on"}"#));
}

#[test]
fn b27_a_silent_line_is_given_up_after_three_heartbeats() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    let source = format!("{database}.items");
    let proxy = Proxy::to(&mysql.address);
    let capture = Capture::with(&mysql.config_at(&proxy.address), &sections(&[&source]));
    capture.wait_ready();
    // The heartbeat of these captures is one second; a line that is idle but alive stays.
    let reconnects = capture.status.reconnects();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(capture.status.reconnects(), reconnects, "heartbeats keep it");
    proxy.set(Fault::Stall);
    let began = Instant::now();
    mysql.exec(&format!("insert into {source} values (5, 'z')"));
    wait_until("the silence to be noticed", SOON, || !capture.status.connected());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    wait_until("the lag to grow", SOON, || capture.status.lag_seconds() > 1.0);
    proxy.set(Fault::None);
    capture.wait_row("items", "5", Some(r#"{"id":5,"name":"z"}"#));
    capture.wait_same("items", || select_items(mysql, &source));
}

#[test]
fn b31_two_captures_with_one_server_id() {
    one_of_two_gives_up(&Mysql::start(&[]));
}

/// Two captures with the same server id end each other's streams, until one of them says so.
pub fn one_of_two_gives_up(mysql: &Mysql) {
    let database = items(mysql);
    let source = format!("{database}.items");
    let config = |id: u32| format!("{}server_id = {id}\n", mysql.config());
    let start = |id: u32| {
        let text = format!("name = \"capture\"\n{}[kafka]\nbrokers = \"127.0.0.1:1\"\n{}", config(id), sections(&[&source]));
        Capture::start(config::parse(&text, "test.toml", std::path::Path::new("")).unwrap_or_else(|errors| panic!("{errors}")))
    };
    let (one, two) = (start(77), start(77));
    wait_for("one of two with the same server id to give up", SOON, || {
        if [&one, &two].iter().any(|capture| capture.is_over()) { Ok(()) } else { Err("both run".to_owned()) }
    });
    let over = if one.is_over() { one } else { two };
    assert!(matches!(over.end(), Err(Stop::Operator { reason: Reason::ServerIdClash, .. })));
}

#[test]
fn b40_many_changes_of_one_key_in_one_transaction_keep_their_order() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(mysql, &[&source]);
    mysql.exec(&format!(
        "use {database}; begin; insert into items values (3, 'a'); update items set name = 'b' where id = 3; update items set name = 'c' where id = 3; \
         delete from items where id = 3; insert into items values (3, 'last'); update items set id = 4 where id = 1; update items set id = 1 where id = 2; \
         update items set id = 2 where id = 4; commit; insert into items values (9, 'end')"
    ));
    capture.wait_row("items", "9", Some(r#"{"id":9,"name":"end"}"#));
    assert_eq!(capture.row("items", "3").as_deref(), Some(r#"{"id":3,"name":"last"}"#));
    assert_eq!(capture.row("items", "1").as_deref(), Some(r#"{"id":1,"name":"two"}"#), "two rows that changed places");
    capture.wait_same("items", || select_items(mysql, &source));
}

#[test]
fn b43_timestamps_that_go_back_change_no_order() {
    let mysql = Mysql::shared();
    let database = items(mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(mysql, &[&source]);
    let mut session = mysql.session();
    for (id, timestamp) in (100..200).zip([2_000_000_000, 1, 1_700_000_000, 1_700_000_000].into_iter().cycle()) {
        session.exec(&format!("set timestamp = {timestamp}; insert into {source} values ({id}, 'first'); update {source} set name = 't{id}' where id in (1, {id})"));
    }
    session.exec("set timestamp = default");
    capture.wait_row("items", "1", Some(r#"{"id":1,"name":"t199"}"#));
    capture.wait_same("items", || select_items(mysql, &source));
    // Lag speaks of commits, not of what sessions say the time is.
    mysql.exec(&format!("insert into {source} values (300, 'now')"));
    capture.wait_row("items", "300", Some(r#"{"id":300,"name":"now"}"#));
    assert!(capture.status.lag_seconds() < 60.0, "{}", capture.status.lag_seconds());
}

#[test]
fn b49_a_line_cut_within_a_transaction_shows_it_once_and_whole() {
    const ROWS: usize = 10_000;
    let mysql = Mysql::shared();
    let database = mysql.database("capture");
    let source = format!("{database}.items");
    mysql.exec(&format!("create table {source} (id int primary key, name varchar(400))"));
    let proxy = Proxy::to(&mysql.address);
    let capture = Capture::with(&mysql.config_at(&proxy.address), &sections(&[&source]));
    capture.wait_ready();
    proxy.set(Fault::Delay(Duration::from_millis(100)));
    let values: Vec<String> = (0..ROWS).map(|id| format!("({id}, repeat('x', 400))")).collect();
    mysql.exec(&format!("insert into {source} values {}", values.join(",")));
    let rows = || {
        let rows = capture.tables.summaries()[0].rows;
        assert!(rows == 0 || rows == ROWS, "{rows} rows of a transaction of {ROWS}");
        rows
    };
    // Four megabytes in pieces of at most 64 KiB take more than six seconds.
    let cut = Instant::now() + Duration::from_secs(2);
    wait_until("the middle of the transaction", SOON, || rows() == ROWS || Instant::now() > cut);
    assert_eq!(rows(), 0);
    let reconnects = capture.status.reconnects();
    proxy.set(Fault::Cut);
    wait_until("the cut to be noticed", SOON, || capture.status.reconnects() > reconnects);
    proxy.set(Fault::None);
    wait_until("the transaction", SOON, || rows() == ROWS);
    assert_eq!(capture.state("items"), State::Ready);
}

#[test]
fn connections_and_servers_that_are_killed_cost_nothing() {
    let mysql = Mysql::start(&[]);
    let database = items(&mysql);
    let source = format!("{database}.items");
    let capture = Capture::of(&mysql, &[&source]);
    for id in mysql.dumps() {
        mysql.exec(&format!("kill {id}; insert into {source} values (3, 'x')"));
    }
    capture.wait_row("items", "3", Some(r#"{"id":3,"name":"x"}"#));
    mysql.kill();
    assert_eq!(capture.row("items", "3").as_deref(), Some(r#"{"id":3,"name":"x"}"#), "rows stay usable");
    mysql.restart();
    mysql.exec(&format!("insert into {source} values (4, 'y')"));
    capture.wait_row("items", "4", Some(r#"{"id":4,"name":"y"}"#));
    capture.wait_same("items", || select_items(&mysql, &source));
}
