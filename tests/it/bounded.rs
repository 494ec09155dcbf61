//! Bounded tables against a real MySQL: what is read through is what a table held whole would give (promises W3, W7; cases C02, C03, C10).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder::config;
use larder::flow::capture;
use larder::model::{Key, Stop, TableId};
use larder::mysql::{SourceStatus, read_through};
use larder::table::{Lookup, State, Tables};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::sync::watch;

use crate::support::shop::{order, wait_for_answer};
use crate::support::{Daemon, Fault, Mysql, Proxy, RUNTIME, Shop, wait_for, wait_until};
use crate::versions;

const PATIENCE: Duration = Duration::from_secs(60);

/// Capture and read-through in the test process, without Kafka.
struct Reading {
    tables: Arc<Tables>,
    stop: watch::Sender<bool>,
    capture: Option<JoinHandle<Result<(), Stop>>>,
}

impl Reading {
    /// `tables`: sections of the configuration.
    fn of(mysql: &str, tables: &str) -> Self {
        let text = format!("name = \"bounded\"\n{mysql}\n[kafka]\nbrokers = \"127.0.0.1:1\"\n{tables}");
        let plan = config::parse(&text, "test.toml", std::path::Path::new("")).unwrap_or_else(|errors| panic!("{errors}"));
        let mut tables = Tables::new(plan.tables.iter().map(|table| (table.name.clone(), format!("{}.{}", table.database, table.table))));
        for (table, max_bytes) in plan.bounded_tables() {
            tables = tables.bound(table, max_bytes);
        }
        let (plan, tables, status) = (Arc::new(plan), Arc::new(tables), Arc::new(SourceStatus::default()));
        let (stop, stopped) = watch::channel(false);
        RUNTIME.spawn(read_through::run(Arc::clone(&plan), Arc::clone(&tables), Arc::clone(&status), stopped.clone()));
        let shared = Arc::clone(&tables);
        let capture = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(capture::run(plan, shared, status, stopped))
        });
        let mut reading = Self { tables, stop, capture: Some(capture) };
        wait_for("all tables to be ready", PATIENCE, || {
            let summaries = reading.tables.summaries();
            if let Some(ended) = reading.capture.take_if(|capture| capture.is_finished()) {
                panic!("the capture ended: {:?}", ended.join());
            }
            if summaries.iter().all(|table| table.state == State::Ready) { Ok(()) } else { Err(format!("{summaries:?}")) }
        });
        reading
    }

    fn table(&self, name: &str) -> TableId {
        self.tables.view().find(name).expect("a table")
    }

    /// The rows of these keys, all under one view, and the transaction they are as of.
    fn rows(&self, keys: &[(TableId, Key)]) -> (Vec<Option<String>>, String) {
        let until = Instant::now() + PATIENCE;
        let mut pins = self.tables.pin(Vec::new());
        loop {
            let mut unknown = Vec::new();
            {
                let view = self.tables.view();
                let mut rows = Vec::new();
                for (table, key) in keys {
                    match view.lookup(*table, key.as_bytes()) {
                        Lookup::Row(row) => rows.push(Some(String::from_utf8_lossy(row.json()).into_owned())),
                        Lookup::Missing => rows.push(None),
                        Lookup::Unknown => unknown.push((*table, key.clone())),
                        Lookup::NotReady => break,
                    }
                }
                if rows.len() == keys.len() {
                    return (rows, view.at().to_string());
                }
            }
            pins.add(unknown);
            pins.urge();
            while !pins.are_known() {
                assert!(Instant::now() < until, "rows of {keys:?}: {:?}", self.tables.summaries());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn row(&self, table: &str, key: &str) -> Option<String> {
        self.rows(&[(self.table(table), Key::new(key.as_bytes()))]).0.remove(0)
    }

    fn misses(&self, table: &str) -> u64 {
        let mut summaries = self.tables.summaries().into_iter();
        summaries.find(|summary| summary.name == table).and_then(|summary| summary.cache).expect("a bounded table").misses
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(Err(_)) = self.capture.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            panic!("the capture panicked");
        }
    }
}

/// Stops a writer when the test ends, also by a panic.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two tables of these keys, one to be held whole, one bounded to a tenth of its rows; every row says version 0.
const ROWS: usize = 1_000;

fn twins(mysql: &Mysql, database: &str) -> String {
    mysql.exec(&format!(
        "use {database};
        create table held (id int primary key, version bigint not null);
        create table read_through (id int primary key, version bigint not null, padding varchar(400) not null default '{0}');
        insert into held values (0, 0);
        insert into read_through (id, version) with recursive n as (select 1 i union all select i + 1 from n where i < {ROWS}) select i, 0 from n",
        "x".repeat(300)
    ));
    format!(
        "[tables.held]\nmysql = \"{database}.held\"\n[tables.part]\nmysql = \"{database}.read_through\"\ncache = {{ max_bytes = \"64 KiB\" }}\n"
    )
}

/// Transactions that give some rows of both tables one version, each greater than the one before; those not named keep theirs.
/// Returns what every row is after each transaction, by its version.
fn write(mysql: &Mysql, database: &str, seed: u64, written: &AtomicU64, stop: &AtomicBool) -> BTreeMap<u64, BTreeMap<usize, Option<u64>>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut session = mysql.session();
    session.exec(&format!("use {database}"));
    let mut content: BTreeMap<usize, Option<u64>> = (1..=ROWS).map(|id| (id, Some(0))).collect();
    let mut history = BTreeMap::from([(0, content.clone())]);
    for version in 1.. {
        session.exec("begin");
        for _ in 0..random.random_range(1..8) {
            let id = random.random_range(1..=ROWS);
            if random.random_range(0..5) == 0 {
                session.exec(&format!("delete from read_through where id = {id}"));
                content.insert(id, None);
            } else {
                session.exec(&format!(
                    "insert into read_through (id, version) values ({id}, {version}) on duplicate key update version = {version}"
                ));
                content.insert(id, Some(version));
            }
        }
        session.exec(&format!("update held set version = {version}; commit"));
        history.insert(version, content.clone());
        written.store(version, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    history
}

/// W3, I6: several readers look up rows of a bounded table beside one held whole, all the while these change: each look is one moment.
fn looks_are_of_one_moment(mysql: &Mysql, prefix: &str) {
    const LOOKS: usize = 1_500;
    let database = mysql.database(prefix);
    let reading = Reading::of(&mysql.config(), &twins(mysql, &database));
    let (held, part) = (reading.table("held"), reading.table("part"));
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let version = |row: &String| serde_json::from_str::<serde_json::Value>(row).expect("a row")["version"].as_u64().expect("a version");
    std::thread::scope(|scope| {
        let stopping = Raised(&stop);
        let writer = scope.spawn(|| write(mysql, &database, 7, &written, &stop));
        let readers: Vec<_> = (0..3)
            .map(|seed| {
                let reading = &reading;
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed);
                    let mut looks = Vec::new();
                    for _ in 0..LOOKS {
                        let ids: Vec<usize> = (0..6).map(|_| random.random_range(1..=ROWS)).collect();
                        let mut keys = vec![(held, Key::new(&b"0"[..]))];
                        keys.extend(ids.iter().map(|id| (part, Key::new(id.to_string().as_bytes()))));
                        let (rows, _) = reading.rows(&keys);
                        looks.push((ids, rows.iter().map(|row| row.as_ref().map(version)).collect::<Vec<_>>()));
                    }
                    looks
                })
            })
            .collect();
        let looks: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect();
        drop(stopping);
        let history = writer.join().expect("the writer");
        let mut moments = std::collections::BTreeSet::new();
        for (ids, versions) in looks {
            let moment = versions[0].expect("the row held whole");
            moments.insert(moment);
            for (id, seen) in ids.iter().zip(&versions[1..]) {
                assert_eq!(*seen, history[&moment][id], "row {id} as of version {moment}");
            }
        }
        assert!(moments.len() > 20, "the rows changed all the while: {moments:?}");
    });
    let summary = reading.tables.summaries().into_iter().find(|summary| summary.name == "part").expect("the table");
    assert!(summary.bytes <= 80 << 10, "{summary:?}");
    let counts = summary.cache.expect("a bounded table");
    assert!(counts.misses > 1_000 && counts.evictions > 500, "{counts:?}");
}

#[test]
fn w3_rows_read_through_are_of_one_moment_with_those_held() {
    looks_are_of_one_moment(Mysql::shared(), "moments");
}

/// Without GTIDs nothing says which transactions of the binlog can be seen.
#[test]
fn w3_without_gtids_too() {
    let mysql = Mysql::start(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
    looks_are_of_one_moment(&mysql, "moments");
}

/// MariaDB's `gtid_binlog_pos` is ahead of what can be seen.
#[test]
fn w3_with_mariadb_too() {
    looks_are_of_one_moment(Mysql::shared_mariadb(), "moments");
}

/// C02: the SELECT has seen the old row, and the change is applied before its answer is there.
#[test]
fn c02_a_slow_select_never_overwrites_a_newer_change() {
    let mysql = Mysql::shared();
    let database = mysql.database("c02");
    let proxy = Proxy::to(&mysql.address);
    let reading = Reading::of(&mysql.config_at(&proxy.address), &twins(mysql, &database));
    assert!(reading.row("part", "1").is_some_and(|row| row.contains("\"version\":0")));
    proxy.set(Fault::HoldRows);
    let (part, key) = (reading.table("part"), |id: &str| Key::new(id.as_bytes()));
    let pins = reading.tables.pin(vec![(part, key("2")), (part, key("3")), (part, key("4"))]);
    wait_until("the answer to be on its way", PATIENCE, || proxy.held_answers() > 0);
    assert!(!pins.are_known());
    mysql.exec(&format!("use {database}; update read_through set version = 1 where id = 2; delete from read_through where id = 3; update held set version = 1"));
    wait_until("the change to be applied", PATIENCE, || reading.row("held", "0").is_some_and(|row| row.contains("\"version\":1")));
    // The change says what the row is: nobody waits for the SELECT.
    assert!(reading.row("part", "2").is_some_and(|row| row.contains("\"version\":1")));
    assert_eq!(reading.row("part", "3"), None);
    assert!(!pins.are_known(), "the row that did not change is still awaited");
    proxy.set(Fault::None);
    wait_until("the answer to be there", PATIENCE, || pins.are_known());
    assert!(reading.row("part", "2").is_some_and(|row| row.contains("\"version\":1")), "it did not go back");
    assert_eq!(reading.row("part", "3"), None);
    assert!(reading.row("part", "4").is_some_and(|row| row.contains("\"version\":0")));
}

/// C03: the answer is newer than the stream; older changes arrive after it.
#[test]
fn c03_an_answer_ahead_of_the_stream_waits_for_it() {
    let mysql = Mysql::shared();
    let database = mysql.database("c03");
    let proxy = Proxy::to(&mysql.address);
    let reading = Reading::of(&mysql.config_at(&proxy.address), &twins(mysql, &database));
    reading.row("part", "1");
    proxy.set(Fault::HoldBinlog);
    for version in 1..=3 {
        mysql.exec(&format!("use {database}; begin; update read_through set version = {version} where id in (1, 2); update held set version = {version}; commit"));
    }
    let (part, held) = (reading.table("part"), reading.table("held"));
    let pins = reading.tables.pin(vec![(part, Key::new(&b"2"[..]))]);
    wait_until("the binlog to be behind", PATIENCE, || proxy.held_answers() > 0);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!pins.are_known(), "version 3 is not yet the tables' present");
    assert!(reading.row("part", "1").is_some_and(|row| row.contains("\"version\":0")));
    proxy.set(Fault::None);
    let keys = [(held, "0"), (part, "1"), (part, "2")].map(|(table, key)| (table, Key::new(key.as_bytes())));
    let mut last = 0;
    wait_until("the stream to be there", PATIENCE, || {
        let (rows, at) = reading.rows(&keys);
        let versions: Vec<u64> = rows
            .iter()
            .map(|row| {
                serde_json::from_str::<serde_json::Value>(row.as_ref().expect("a row")).expect("JSON")["version"]
                    .as_u64()
                    .expect("a version")
            })
            .collect();
        assert!(versions.iter().all(|version| *version == versions[0]) && versions[0] >= last, "{versions:?} at {at}");
        last = versions[0];
        last == 3
    });
}

/// Known absences are kept, and undone by the binlog; C10: no key is converted to another type; text keys compare exactly.
#[test]
fn c10_absences_and_keys_that_are_none() {
    let mysql = Mysql::shared();
    let database = mysql.database("absent");
    mysql.exec(&format!(
        "use {database};
        create table numbers (id int primary key, name varchar(20)); insert into numbers values (0, 'zero'), (21, 'twenty-one');
        create table texts (id varchar(20) collate utf8mb4_0900_ai_ci primary key); insert into texts values ('Abc'), ('0'), ('é');
        create table latin (id char(10) charset latin1 collate latin1_swedish_ci primary key); insert into latin values ('é'), ('?');
        create table pairs (a bigint unsigned, b varchar(10) collate utf8mb4_bin, primary key (b, a));
        insert into pairs values (18446744073709551615, 'x\"y'), (7, '')"
    ));
    let names = ["numbers", "texts", "latin", "pairs"];
    let tables: String =
        names.iter().map(|name| format!("[tables.{name}]\nmysql = \"{database}.{name}\"\ncache = {{ max_bytes = \"1 MiB\" }}\n")).collect();
    let reading = Reading::of(&mysql.config(), &tables);
    assert_eq!(reading.row("numbers", "21").as_deref(), Some(r#"{"id":21,"name":"twenty-one"}"#));
    for none in ["21abc", "021", " 21", "+21", "21.0", "0x15", "abc", "", "2147483648"] {
        assert_eq!(reading.row("numbers", none), None, "{none:?}");
    }
    for (table, there, not) in [("texts", ["Abc", "0", "é"], ["abc", "Abc ", "e"]), ("latin", ["é", "?", "é"], ["e", "日", "É"])] {
        for key in there {
            assert_eq!(reading.row(table, key), Some(format!("{{\"id\":\"{key}\"}}")), "{table} {key:?}");
        }
        for key in not {
            assert_eq!(reading.row(table, key), None, "{table} {key:?}");
        }
    }
    assert_eq!(reading.row("pairs", r#"["x\"y",18446744073709551615]"#).as_deref(), Some(r#"{"a":18446744073709551615,"b":"x\"y"}"#));
    assert_eq!(reading.row("pairs", r#"["",7]"#).as_deref(), Some(r#"{"a":7,"b":""}"#));
    assert_eq!(reading.row("pairs", r#"["X\"y",18446744073709551615]"#), None);

    assert_eq!(reading.row("numbers", "5"), None);
    let misses = reading.misses("numbers");
    assert_eq!(reading.row("numbers", "5"), None);
    assert_eq!(reading.misses("numbers"), misses, "the absence is known");
    mysql.exec(&format!("insert into {database}.numbers values (5, 'five')"));
    wait_until("the row to be there", PATIENCE, || reading.row("numbers", "5").as_deref() == Some(r#"{"id":5,"name":"five"}"#));
    mysql.exec(&format!("update {database}.numbers set id = 6 where id = 5; update {database}.texts set id = 'aBC' where id = 'abc'"));
    wait_until("the row to have moved", PATIENCE, || reading.row("texts", "aBC").is_some());
    assert_eq!((reading.row("numbers", "5"), reading.row("texts", "Abc")), (None, None));
    assert!(reading.row("numbers", "6").is_some());
    assert_eq!(reading.misses("numbers"), misses + 1, "only 6 had to be asked for");
}

/// A row read through has the bytes it would have in a table held whole, whatever its key is made of.
#[test]
fn w6_keys_of_every_type() {
    let mysql = Mysql::shared();
    let database = mysql.database("keys");
    let kinds = [
        ("tinyint", "-128", "-128"),
        ("mediumint unsigned", "16777215", "16777215"),
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("int zerofill", "5", "5"),
        ("decimal(20,4)", "-12.5", "-12.5000"),
        ("decimal(8,0) zerofill", "12", "12"),
        ("float", "0.1", "0.1"),
        ("double", "1e100", "1e100"),
        ("year", "2024", "2024"),
        ("date", "'2024-02-29'", "2024-02-29"),
        ("time(3)", "'-25:00:00.5'", "-25:00:00.500"),
        ("datetime", "'2024-02-29 23:59:59'", "2024-02-29T23:59:59"),
        ("datetime(6)", "'2024-02-29 23:59:59.000001'", "2024-02-29T23:59:59.000001"),
        ("timestamp(2)", "'2024-02-29 23:59:59.25'", "2024-02-29T23:59:59.25Z"),
        ("bit(12)", "b'101'", "5"),
        ("bit(1)", "b'1'", "true"),
        ("binary(4)", "x'00ff'", "AP8AAA=="),
        ("varbinary(8)", "x'00ff'", "AP8="),
        ("char(8) charset utf16", "'ä'", "ä"),
        ("varchar(20) charset sjis", "'表'", "表"),
        ("enum('a','b','c')", "'c'", "c"),
        ("set('a','b','c')", "'a,c'", "a,c"),
    ];
    let (mut whole, mut bounded) = (String::new(), String::new());
    for (number, (kind, value, _)) in kinds.iter().enumerate() {
        mysql.exec(&format!(
            "use {database}; set names utf8mb4; set time_zone = '+00:00'; create table t{number} (k {kind} primary key); insert into t{number} values ({value})"
        ));
        let section = format!("[tables.t{number}]\nmysql = \"{database}.t{number}\"\n");
        whole.push_str(&section);
        bounded.push_str(&section);
        bounded.push_str("cache = { max_bytes = \"64 KiB\" }\n");
    }
    let (whole, bounded) = (Reading::of(&mysql.config(), &whole), Reading::of(&mysql.config(), &bounded));
    for (number, (kind, _, key)) in kinds.iter().enumerate() {
        let table = format!("t{number}");
        let row = whole.row(&table, key).unwrap_or_else(|| panic!("{kind} {key}"));
        assert_eq!(bounded.row(&table, key), Some(row), "{kind} {key}");
        for none in ["999", "zz", "2000-01-01", "'", ""] {
            assert_eq!(bounded.row(&table, none), whole.row(&table, none), "{kind} {none:?}");
        }
    }
}

/// Statements that change all rows: nothing from before them survives.
#[test]
fn d13_a_statement_empties_what_is_held() {
    let mysql = Mysql::shared();
    let database = mysql.database("altered");
    let reading = Reading::of(&mysql.config(), &twins(mysql, &database));
    assert!(reading.row("part", "1").is_some_and(|row| row.starts_with(r#"{"id":1,"version":0,"#)));
    mysql.exec(&format!("alter table {database}.read_through add column color varchar(10) not null default 'red' after id"));
    wait_until("the new column", PATIENCE, || {
        reading.row("part", "1").is_some_and(|row| row.starts_with(r#"{"id":1,"color":"red","version":0,"#))
    });
    mysql.exec(&format!("truncate table {database}.read_through; insert into {database}.read_through (id, version) values (2, 9)"));
    wait_until("the row after it", PATIENCE, || reading.row("part", "2").is_some_and(|row| row.contains("\"version\":9")));
    assert_eq!(reading.row("part", "1"), None);
    assert_eq!(reading.row("part", "3"), None);
}

/// W7: MySQL is killed and starts again; who needs a row waits, and gets it.
#[test]
fn w7_rows_wait_while_mysql_is_gone() {
    let mysql = Mysql::start(&[]);
    let database = mysql.database("gone");
    let reading = Reading::of(&mysql.config(), &twins(&mysql, &database));
    assert!(reading.row("part", "1").is_some());
    mysql.kill();
    let pins = reading.tables.pin(vec![(reading.table("part"), Key::new(&b"2"[..]))]);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!pins.are_known());
    assert!(reading.row("part", "1").is_some(), "what is in memory is usable (E12)");
    mysql.restart();
    assert!(reading.row("part", "2").is_some());
    mysql.exec(&format!("update {database}.read_through set version = 5 where id in (1, 2)"));
    wait_until("the stream to go on", PATIENCE, || reading.row("part", "1").is_some_and(|row| row.contains("\"version\":5")));
    assert!(reading.row("part", "2").is_some_and(|row| row.contains("\"version\":5")));
}

// === with the daemon ===

/// The shop as far as it joins: its change topics are no matter here, and two daemons must not share them.
fn unpublished(shop: &Shop) -> String {
    shop.config().lines().filter(|line| !line.starts_with("publish")).map(|line| format!("{line}\n")).collect()
}

/// The shop with bounded products.
fn config(shop: &Shop) -> String {
    let whole = format!("mysql   = \"{}.products\"", shop.name);
    let text = unpublished(shop);
    assert_eq!(text.matches(&whole).count(), 1);
    text.replace(&whole, &format!("{whole}\ncache = {{ max_bytes = \"64 KiB\" }}"))
}

/// Orders joined with a bounded table and with the same held whole, while every product changes in every transaction.
#[test]
fn i6_orders_get_the_same_from_a_bounded_table_and_a_whole_one() {
    const ORDERS: usize = 3_000;
    let shop = Shop::open(2);
    shop.sql(
        "insert into products (id, name, description) with recursive n as (select 1 i union all select i + 1 from n where i < 600)
            select 1000 + i, concat('product ', i), 'v0' from n;
        update products set description = 'v0'",
    );
    let mut bounded = shop.start(&config(&shop));
    let whole_topic = format!("{}-whole", shop.items);
    let whole_config = unpublished(&shop).replace(&shop.items, &whole_topic).replacen(
        &format!("name = \"{}\"", shop.name),
        &format!("name = \"{}-whole\"", shop.name),
        1,
    );
    let mut whole = shop.start(&whole_config);
    bounded.wait_ready();
    whole.wait_ready();
    assert_eq!(bounded.get("/api/tables").json()["tables"][0]["rows"], json!(0), "no snapshot");
    let stop = AtomicBool::new(false);
    let mut random = StdRng::seed_from_u64(3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = shop.mysql.session();
            session.exec(&format!("use {}", shop.name));
            for version in 1.. {
                session.exec(&format!("update products set description = 'v{version}'"));
                std::thread::sleep(Duration::from_millis(20));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let stopping = Raised(&stop);
        for batch in 0..10 {
            let orders: Vec<_> = (0..ORDERS / 10)
                .map(|number| {
                    let products: Vec<String> = (0..3).map(|_| (1001 + random.random_range(0..600)).to_string()).collect();
                    order(&format!("{batch}-{number}"), &products.iter().map(String::as_str).collect::<Vec<_>>())
                })
                .collect();
            shop.produce(orders);
            std::thread::sleep(Duration::from_millis(200));
        }
        shop.wait_for_items(ORDERS * 3);
        drop(stopping);
    });
    let ours = versions::of(&shop.wait_for_items(ORDERS * 3));
    let theirs = versions::of(&shop.kafka.wait_for_records(&whole_topic, ORDERS * 3, PATIENCE));
    assert_eq!((ours.len(), theirs.len()), (ORDERS * 3, ORDERS * 3));
    let seen = versions::check(&ours).unwrap_or_else(|torn| panic!("{torn}"));
    assert!(seen > 5, "products changed all the while: {seen}");
    let of_whole: BTreeMap<&str, u64> = theirs.iter().map(|item| (item.at.as_str(), item.version)).collect();
    let mut common = 0;
    for item in &ours {
        if let Some(version) = of_whole.get(item.at.as_str()) {
            assert_eq!(*version, item.version, "at {}", item.at);
            common += 1;
        }
    }
    assert!(common > 0, "the two daemons were at one position at times");
    for id in ["1001", "1300", "1600", "21", "0", "99999", "21abc"] {
        let path = format!("/api/tables/products/rows/{id}");
        let (ours, theirs) = (bounded.get(&path), whole.get(&path));
        assert_eq!((ours.status, ours.body), (theirs.status, theirs.body), "{id}");
    }
    let table = bounded.get("/api/tables").json()["tables"][0].clone();
    assert!(table["rows"].as_u64().is_some_and(|rows| rows > 0 && rows < 300), "{table}");
    let metrics = bounded.get("/metrics").body;
    for metric in ["larder_table_cache_misses_total{table=\"products\"}", "larder_table_cache_evictions_total{table=\"products\"}"] {
        let value = metrics.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse::<u64>().ok());
        assert!(value.is_some_and(|value| value > 0), "{metric}\n{metrics}");
    }
    assert_eq!(shop.kafka.read(&shop.dead_letters()), [], "no order met a missing row");
}

/// W7: the partitions wait while a row cannot be had, and say so; what is in memory goes on being joined (E12).
#[test]
fn w7_orders_wait_for_rows_while_mysql_is_away() {
    let shop = Shop::open(1);
    let proxy = Proxy::to(&shop.mysql.address);
    let mut environment = shop.environment();
    environment[0].1 = &proxy.address;
    let mut daemon = Daemon::start(&config(&shop), &environment);
    daemon.wait_ready();
    shop.produce([order("first", &["21"])]);
    assert_eq!(shop.wait_for_items(1).len(), 1);
    proxy.set(Fault::Cut);
    shop.produce([order("known", &["21"])]);
    assert_eq!(shop.wait_for_items(2).len(), 2);
    shop.produce([order("unknown", &["21", "22"]), order("behind", &["21"])]);
    let waiting = wait_for_answer(&mut daemon, "/api/streams", |answer| answer.json()["streams"][0]["state"] == json!("waiting")).json();
    assert_eq!(waiting["streams"][0]["reason"], json!("a row of the table of join product from MySQL"));
    assert_eq!(shop.kafka.read(&shop.items).len(), 2, "nothing of an order goes out before all of it, and nothing overtakes");
    let row = daemon.get("/api/tables/products/rows/23");
    assert_eq!((row.status, &row.json()["error"]["code"]), (503, &json!("unavailable")));
    proxy.set(Fault::None);
    let items = shop.wait_for_items(5);
    let ids: Vec<_> = items.iter().map(|item| item.json()["orderId"].as_str().map(str::to_owned)).collect();
    assert_eq!(ids.iter().flatten().map(String::as_str).collect::<Vec<_>>(), ["first", "known", "unknown", "unknown", "behind"]);
    shop.produce([order("missing", &["4711"])]);
    assert_eq!(shop.wait_for_dead_letters(1).len(), 1, "an absence is known when MySQL said so");
}
