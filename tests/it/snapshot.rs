//! Snapshots: several connections in one window, chunks in the server's order, places, reading again (group N of the cases).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder::model::{Reason, Stop, TableId};
use larder::mysql::chunks::{Make, Rows};
use larder::mysql::decode::DecodeError;
use larder::mysql::place::Place;
use larder::mysql::snapshot::Views;
use larder::table::{Lookup, State};

use crate::capture::{Capture, plan, sections, select_items};
use crate::support::shop::wait_for_answer;
use crate::support::{Fault, Mysql, Proxy, Shop, block_on, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// Numbers from 1 to `last` as table `n(i)`.
fn numbers(last: u32) -> String {
    format!("with recursive n(i) as (select 1 union all select i + 1 from n where i < {last})")
}

/// A table `items` of `rows` rows in a database of its own; `database.items`.
fn many_items(mysql: &Mysql, rows: u32) -> String {
    let table = format!("{}.items", mysql.database("snapshot"));
    mysql.exec(&format!(
        "set cte_max_recursion_depth = 1000000; create table {table} (id int primary key, name varchar(50)); \
         insert into {table} {} select i, concat('n', i) from n",
        numbers(rows)
    ));
    table
}

/// N02, N03: every change of a key before, within and after the window, and keys that move between chunks, read and unread. The window
/// is made wide by a slow line.
#[test]
fn n02_n03_changes_and_moves_around_the_window() {
    let mysql = Mysql::shared();
    let table = many_items(mysql, 600);
    let proxy = Proxy::to(&mysql.address);
    proxy.set(Fault::Delay(Duration::from_millis(4)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (table, done) = (&table, &done);
            scope.spawn(move || {
                let mut session = mysql.session();
                for i in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    // Few keys, so that one has several changes in a window; they lie in all chunks.
                    let key = (i * 7 + writer * 31) % 60 * 20;
                    session.exec(&match i % 5 {
                        0 => format!("insert ignore into {table} values ({key}, 'i{i}')"),
                        1 => format!("update {table} set name = 'u{i}' where id = {key}"),
                        2 => format!("update ignore {table} set id = {} where id = {key}", (key + 600) % 1200),
                        3 => format!("delete from {table} where id = {key}"),
                        _ => format!("begin; delete from {table} where id = {key}; insert into {table} values ({key}, 'b{i}'); commit"),
                    });
                }
            });
        }
        let config = format!("{}snapshot_chunk = 50\nsnapshot_connections = 3\n", mysql.config_at(&proxy.address));
        let captures: Vec<Capture> = (0..4)
            .map(|_| {
                let capture = Capture::with(&config, &sections(&[&table]));
                capture.wait_ready();
                capture
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        proxy.set(Fault::None);
        for capture in captures {
            capture.wait_same("items", || select_items(mysql, &table));
        }
    });
}

/// N06: each transaction counts one key up in two tables; in no look at the tables do the two ever differ, and in the end no commit
/// was counted twice or lost.
#[test]
fn n06_the_views_and_the_position_agree_at_many_commits_a_second() {
    const KEYS: u32 = 8;
    let mysql = Mysql::shared();
    let database = mysql.database("snapshot");
    for table in ["left_side", "right_side"] {
        mysql.exec(&format!(
            "use {database}; create table {table} (id int primary key, n bigint not null); insert into {table} {} select i, 0 from n",
            numbers(KEYS)
        ));
    }
    mysql.exec(&format!(
        "use {database}; create procedure work(k int) begin declare i int default 0; while i < 200 do \
         start transaction; update left_side set n = n + 1 where id = k; update right_side set n = n + 1 where id = k; commit; \
         set i = i + 1; end while; end"
    ));
    let (done, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for key in 1..=KEYS / 2 {
            let (database, done, commits) = (&database, &done, &commits);
            scope.spawn(move || {
                let mut session = mysql.session();
                session.exec(&format!("use {database}"));
                for round in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    session.exec(&format!("call work({})", if round % 2 == 0 { key } else { key + KEYS / 2 }));
                    commits.fetch_add(200, Ordering::Relaxed);
                }
            });
        }
        let tables = [format!("{database}.left_side"), format!("{database}.right_side")];
        let config = format!("{}snapshot_chunk = 3\nsnapshot_connections = 3\n", mysql.config());
        for round in 0..6 {
            let before = commits.load(Ordering::Relaxed);
            wait_for("commits", SOON, || if commits.load(Ordering::Relaxed) > before + 500 { Ok(()) } else { Err("none".into()) });
            let capture = Capture::with(&config, &sections(&[&tables[0], &tables[1]]));
            capture.wait_ready();
            for _ in 0..200 {
                let view = capture.tables.view();
                for key in 1..=KEYS {
                    let text = |table: u16| match view.lookup(TableId(table), key.to_string().as_bytes()) {
                        Lookup::Row(row) => String::from_utf8_lossy(row.json()).into_owned(),
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(text(0), text(1), "round {round}: half a transaction, or one counted twice");
                }
                drop(view);
                std::thread::yield_now();
            }
            if round == 5 {
                done.store(true, Ordering::Relaxed);
                for (name, table) in ["left_side", "right_side"].iter().zip(&tables) {
                    capture.wait_same(name, || {
                        mysql.rows(&format!("select cast(id as char), concat('{{\"id\":', id, ',\"n\":', n, '}}') from {table}"))
                    });
                }
            }
        }
    });
}

/// The first column of each row as the server printed it, and the place behind it.
struct Texts;

impl Make for Texts {
    type Made = Vec<String>;

    fn make(&mut self, rows: Rows) -> Result<Vec<String>, DecodeError> {
        (0..rows.len()).map(|row| Ok(format!("{:?}", rows.value(row, 0)?))).collect()
    }
}

/// N14: chunks read in parallel come in the server's order, reading resumes behind any row, and the server says what lies beyond it.
#[test]
fn n14_places_in_every_kind_of_key() {
    let mysql = Mysql::shared();
    let database = mysql.database("snapshot");
    for (table, kind, values) in [
        ("k_int", "int", "-5,-1,0,3,2147483647"),
        ("k_big", "bigint unsigned", "0,9223372036854775808,18446744073709551615,7"),
        ("k_year", "year", "2000,2024,0000,2155"),
        ("k_text", "varchar(20) collate utf8mb4_0900_ai_ci", "'a','B','á2','ß','sT','Z','é','😀'"),
        ("k_pad", "varchar(20) collate utf8mb4_general_ci", "'a ','ab','a\\t','A0'"),
        ("k_latin", "varchar(20) character set latin1 collate latin1_swedish_ci", "'a','é','Z','ü','0'"),
        ("k_enum", "enum('z','m','a')", "'a','m','z'"),
        ("k_set", "set('z','m','a')", "'a','m','z,a',''"),
        ("k_bit", "bit(9)", "b'1',b'100000000',b'11'"),
        ("k_dec", "decimal(30,5)", "1.00001,-99999999999999999999.5,99999999999999999999.5,99999999999999999999.50001"),
        ("k_bin", "binary(3)", "x'000001',x'ff0000',x'8000'"),
        ("k_date", "date", "'2020-01-01','1999-12-31','9999-12-31'"),
        ("k_time", "datetime(6)", "'2020-01-01 00:00:00.000001','2020-01-01 00:00:00.000002','1999-01-01'"),
        ("k_stamp", "timestamp(3)", "'2020-01-01 00:00:00.5','2020-01-01 00:00:00.25','2001-01-01'"),
        ("k_clock", "time(3)", "'-10:00:00.5','-09:00:00','00:00:00','99:59:59.999'"),
        ("k_float", "float", "0.1,1e10,-3.5,1.1"),
    ] {
        let rows: String =
            values.split(if kind.starts_with("set") { ",'" } else { "," }).enumerate().fold(String::new(), |rows, (i, value)| {
                let value = if kind.starts_with("set") && i > 0 { format!("'{value}") } else { value.to_owned() };
                format!("{rows},(1, {value}),(2, {value})")
            });
        mysql.exec(&format!(
            "create table {database}.{table} (k {kind}, a int, primary key (k, a)); insert into {database}.{table} (a, k) values {}",
            &rows[1..]
        ));
        let plan = plan(&format!("{}snapshot_chunk = 2\n", mysql.config()), &sections(&[&format!("{database}.{table}")]));
        let expected: Vec<u64> = mysql.rows(&format!("select count(*) from {database}.{table}"));
        block_on(async move {
            let (server, plans) = (plan.mysql.as_ref().expect("it is there"), &plan.tables);
            let mut views = Views::open(server, plans, &[TableId(0)], None, 3).await.expect("views");
            let info = views.tables[0].1.clone().expect("a table");
            let mut places: Vec<Place> = Vec::new();
            let mut keys: Vec<String> = Vec::new();
            // One row at a time by resuming, then all at once.
            for from in 0.. {
                let from = from.min(places.len());
                let mut chunks =
                    views.chunks(&plans[0], &info, from.checked_sub(1).map(|at| places[at].clone()), || Ok(Texts)).await.expect("rows");
                match chunks.next().await.expect("rows") {
                    Some(batch) => {
                        // Kept as text and read back.
                        let cut: Place = batch.place.to_string().parse().expect("a place");
                        assert_eq!(cut, batch.place);
                        keys.extend(batch.made);
                        places.push(batch.place);
                    }
                    None => break,
                }
            }
            assert_eq!(keys.len() as u64, expected[0], "{table}: {keys:?}");
            let mut chunks = views.chunks(&plans[0], &info, None, || Ok(Texts)).await.expect("rows");
            let mut again = Vec::new();
            while let Some(batch) = chunks.next().await.expect("rows") {
                again.extend(batch.made);
            }
            assert_eq!(again, keys, "{table}");
            for (index, place) in places.iter().enumerate() {
                let beyond = views.beyond(&plans[0], &info, place, &places).await.expect("an answer");
                let expected: Vec<bool> = (0..places.len()).map(|other| other > index).collect();
                assert_eq!(beyond, expected, "{table}: beyond {place} among {places:?}");
            }
            views.close().await;
        });
    }
}

/// N27: what the stream must begin with is gone when the rows have been read: an operator decides, nothing begins somewhere else.
#[test]
fn n27_binlogs_purged_during_the_snapshot() {
    let mysql = Mysql::start(&[]);
    let table = many_items(&mysql, 2000);
    let proxy = Proxy::to(&mysql.address);
    proxy.set(Fault::Delay(Duration::from_millis(5)));
    let config = format!("{}snapshot_chunk = 20\n", mysql.config_at(&proxy.address));
    let capture = Capture::with(&config, &sections(&[&table]));
    wait_for("the snapshot to be under way", SOON, || match capture.state("items") {
        State::Snapshot { percent } if percent > 10 => Ok(()),
        state => Err(format!("{state:?}")),
    });
    let summary = &capture.tables.summaries()[0];
    assert!(summary.remaining.is_some() && summary.snapshot_rows > 100, "{summary:?}");
    mysql.exec(&format!("insert into {table} values (5000, 'never seen'); flush binary logs; insert into {table} values (5001, 'x')"));
    mysql.exec("flush binary logs; purge binary logs before now() + interval 1 second");
    proxy.set(Fault::None);
    match capture.end() {
        Err(Stop::Operator { reason: Reason::Purged, message }) => assert!(message.contains("restart Larder"), "{message}"),
        other => panic!("{other:?}"),
    }
}

/// A statement queues for a table while views are opened: the snapshot waits for nobody but the server, and the statement for the views.
#[test]
fn a_statement_that_queues_for_a_table_does_not_hold_the_snapshot_up() {
    let mysql = Mysql::shared();
    let table = many_items(mysql, 3000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = mysql.session();
            for i in 0.. {
                session.exec(&format!("alter table {table} comment 'number {i}'"));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let config = format!("{}snapshot_chunk = 100\nsnapshot_connections = 4\n", mysql.config());
        for _ in 0..5 {
            let capture = Capture::with(&config, &sections(&[&table]));
            wait_for("rows", SOON, || if capture.tables.summaries()[0].snapshot_rows >= 3000 { Ok(()) } else { Err("none".into()) });
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Rows changed behind the binlog's back are right again after the table was read again; the other table is not disturbed, and joins
/// with this one hold meanwhile.
#[test]
fn a_table_is_read_again_when_asked_and_the_others_go_on() {
    let mysql = Mysql::shared();
    let table = many_items(mysql, 5000);
    let other = many_items(mysql, 3).replace(".items", ".others");
    mysql.exec(&format!("rename table {} to {other}", other.replace(".others", ".items")));
    let capture = Capture::with(&format!("{}snapshot_chunk = 100\n", mysql.config()), &sections(&[&table, &other]));
    capture.wait_ready();
    mysql.exec(&format!(
        "set sql_log_bin = 0; update {table} set name = 'changed' where id = 7; delete from {table} where id = 8; insert into {table} values (0, 'new')"
    ));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = mysql.session();
            for i in 0.. {
                session.exec(&format!(
                    "update {table} set name = 'w{i}' where id = {}; update {other} set name = 'w{i}' where id = 1",
                    100 + i % 4000
                ));
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let id = capture.tables.view().find("items").expect("it is there");
        let read = || capture.tables.summaries()[id.index()].snapshot_rows;
        let before = read();
        assert!(capture.status.resnapshots.ask(id));
        assert!(!capture.status.resnapshots.ask(id), "it is asked for already");
        wait_for("the table to be read again", SOON, || {
            assert_eq!(capture.state("others"), State::Ready);
            if read() >= before + 5000 && capture.state("items") == State::Ready { Ok(()) } else { Err(format!("{}", read())) }
        });
        done.store(true, Ordering::Relaxed);
    });
    capture.wait_row("items", "7", Some(r#"{"id":7,"name":"changed"}"#));
    capture.wait_same("items", || select_items(mysql, &table));
    capture.wait_same("others", || select_items(mysql, &other));
}

/// The same over HTTP, as an operator does it.
#[test]
fn a_table_is_read_again_over_http() {
    let shop = Shop::open(1);
    let mut daemon = shop.start(&shop.config());
    daemon.wait_ready();
    shop.sql("set sql_log_bin = 0; update products set name = 'changed' where id = 21");
    assert_eq!(daemon.request("POST", "/api/tables/nothing/resnapshot", &[]).status, 404);
    let page = [("origin", "https://evil.example")];
    assert_eq!(daemon.request("POST", "/api/tables/products/resnapshot", &page).status, 403);
    // Its changes are published too, so it is asked of the one that was elected to do so.
    daemon.wait_for_log("publishing the changes");
    let answer = daemon.request("POST", "/api/tables/products/resnapshot", &[]);
    assert_eq!((answer.status, answer.json()["name"].as_str()), (202, Some("products")), "{answer:?}");
    wait_for_answer(&mut daemon, "/api/tables/products/rows/21", |answer| answer.status == 200 && answer.json()["name"] == "changed");
    daemon.wait_ready();
    let metrics = daemon.get("/metrics");
    assert!(metrics.body.contains("larder_snapshot_rows_total{table=\"products\"}"), "{}", metrics.body);
}
