//! Joins hold while a table is not ready (promise W7): at the start, while it is read again, and when it is stopped.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::shop::{order, wait_for_answer};
use crate::support::{Daemon, Fault, Proxy, Shop, wait_until};
use crate::versions;

const PATIENCE: Duration = Duration::from_secs(60);

/// The daemon reaches MySQL only by way of the proxy, and reads few rows at a time.
fn start_slowly(shop: &Shop, proxy: &Proxy) -> Daemon {
    let config = shop.config().replace("tls      = \"disabled\"", "tls = \"disabled\"\nsnapshot_chunk = 50");
    assert!(config.contains("snapshot_chunk"));
    let mut environment = shop.environment();
    environment[0].1 = &proxy.address;
    Daemon::start(&config, &environment)
}

/// Product 81 is read in the first pieces, 40,002 in the last.
fn add_products(shop: &Shop) {
    shop.sql(
        "set session cte_max_recursion_depth = 5000;
        insert into products (id, name, description) with recursive n as (select 1 i union all select i + 1 from n where i < 4000)
            select 36002 + i, concat('product ', i), 'v0' from n;
        update products set description = 'v0'",
    );
}

/// J02: orders wait in the topic, the tables are not there yet, and products change all the while.
#[test]
fn j02_orders_that_were_there_first_wait_for_the_whole_table() {
    const ORDERS: usize = 50_000;
    let shop = Shop::open(2);
    add_products(&shop);
    shop.produce((0..ORDERS).map(|number| order(&number.to_string(), &["1", "81", "40002"])));

    let proxy = Proxy::to(&shop.mysql.address);
    proxy.set(Fault::Delay(Duration::from_millis(10)));
    let stop = AtomicBool::new(false);
    let (mut held, mut shown) = (false, BTreeSet::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = shop.mysql.session();
            session.exec(&format!("use {}", shop.name));
            for version in 1.. {
                session.exec(&format!(
                    "begin; update products set description = 'v{version}' where id in (81, 40002); update products set description = 'v{version}' where id = 1; commit"
                ));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut daemon = start_slowly(&shop, &proxy);
        wait_until("the daemon to be ready", PATIENCE, || {
            let answer = daemon.get("/ready");
            let waiting = answer.json()["waiting"].clone();
            let products = waiting
                .as_array()
                .and_then(|lines| lines.iter().filter_map(|line| line.as_str()).find(|line| line.starts_with("table products: ")));
            if let Some(line) = products {
                assert_eq!(answer.status, 503);
                shown.insert(line.to_owned());
                let streams = daemon.get("/api/streams").json();
                let stream = &streams["streams"][0];
                if stream["reason"] == json!("table of join product is being read") {
                    held = true;
                    assert_eq!((&stream["state"], &stream["outputs"]), (&json!("waiting"), &json!(0)));
                }
            }
            answer.status == 200
        });
        proxy.set(Fault::None);
        stop.store(true, Ordering::Relaxed);
        let items = shop.wait_for_items(ORDERS * 3);
        assert_eq!(items.len(), ORDERS * 3);
        assert_eq!(shop.kafka.read(&shop.dead_letters()), [], "no order met a missing row");
        let items = versions::of(&items);
        versions::check(&items).unwrap_or_else(|torn| panic!("{torn}"));
        let metrics = daemon.get("/metrics").body;
        assert!(metrics.contains("outcome=\"miss\"} 0\n"), "{metrics}");
    });
    assert!(held, "the stream was in its group and held by the table alone");
    assert!(shown.iter().all(|line| line.starts_with("table products: snapshot ") && line.contains(" %")), "{shown:?}");
    assert!(shown.len() > 3, "progress is seen: {shown:?}");
}

/// W7: a statement changes the table, which is read again; orders that come meanwhile wait for it.
#[test]
fn w7_joins_hold_while_an_altered_table_is_read_again() {
    let shop = Shop::open(1);
    add_products(&shop);
    let proxy = Proxy::to(&shop.mysql.address);
    let mut daemon = start_slowly(&shop, &proxy);
    daemon.wait_ready();
    shop.produce([order("before", &["81"])]);
    shop.wait_for_items(1);

    proxy.set(Fault::Delay(Duration::from_millis(10)));
    shop.sql(
        "alter table products add column origin varchar(20) not null default 'Bengaluru' first, modify price float after image;
        update products set description = 'v1', price = 1.5",
    );
    wait_for_answer(&mut daemon, "/ready", |answer| answer.status == 503 && answer.body.contains("table products: snapshot "));
    shop.produce((0..100).map(|number| order(&number.to_string(), &["81", "40002"])));
    let row = daemon.get("/api/tables/products/rows/81");
    assert_eq!((row.status, &row.json()["error"]["code"]), (503, &json!("unavailable")));
    assert_eq!(daemon.get("/api/tables").json()["tables"][0]["state"], json!("snapshot"));
    let held = wait_for_answer(&mut daemon, "/api/streams", |answer| answer.json()["streams"][0]["state"] == json!("waiting")).json();
    assert_eq!(held["streams"][0]["reason"], json!("table of join product is being read"));
    assert_eq!(shop.kafka.read(&shop.items).len(), 1, "nothing is joined meanwhile");
    proxy.set(Fault::None);
    daemon.wait_ready();

    let items = shop.wait_for_items(201);
    assert_eq!(items.len(), 201);
    for item in &items[1..] {
        let product = item.json()["product"].clone();
        assert_eq!((&product["price"], &product["description"]), (&json!(1.5), &json!("v1")), "{product}");
    }
    let row = daemon.get("/api/tables/products/rows/81");
    assert!(row.body.starts_with(r#"{"origin":"Bengaluru","id":81,"name":"#), "{}", row.body);
    assert_eq!(shop.kafka.read(&shop.dead_letters()), []);
}

/// A table that is gone holds its stream, by name; created again it goes on, and so does the stream. Nothing is lost.
#[test]
fn a_dropped_table_holds_its_stream_until_it_is_there_again() {
    let shop = Shop::open(1);
    let mut daemon = shop.start(&shop.config());
    daemon.wait_ready();
    shop.sql("create table kept like products; insert into kept select * from products; drop table products");
    let ready = wait_for_answer(&mut daemon, "/ready", |answer| answer.status == 503);
    let waiting = ready.json()["waiting"][0].as_str().expect("a line").to_owned();
    assert!(waiting.starts_with("table products: stopped, table-dropped: "), "{waiting}");
    shop.produce([order("held", &["21", "22"])]);
    let held = wait_for_answer(&mut daemon, "/api/streams", |answer| answer.json()["streams"][0]["lag"] == json!(1)).json();
    let stream = &held["streams"][0];
    assert_eq!((&stream["state"], &stream["reason"]), (&json!("waiting"), &json!("table of join product is stopped: table-dropped")));
    let row = daemon.get("/api/tables/products/rows/21");
    assert_eq!((row.status, &row.json()["error"]["code"]), (503, &json!("unavailable")), "never old rows");
    let metrics = daemon.get("/metrics").body;
    assert!(metrics.contains("larder_table_ready{table=\"products\"} 0.0\n"), "{metrics}");
    assert!(metrics.contains("larder_table_ready{table=\"users\"} 1.0\n"), "the others go on");
    assert_eq!((shop.kafka.read(&shop.items).len(), shop.kafka.read(&shop.dead_letters()).len()), (0, 0));

    shop.sql("rename table kept to products");
    daemon.wait_ready();
    assert_eq!(shop.wait_for_items(2).len(), 2);

    // A table that no stream needs holds none.
    shop.sql("drop table users");
    wait_for_answer(&mut daemon, "/ready", |answer| answer.body.contains("table users: stopped, table-dropped: "));
    shop.produce([order("not held", &["21"])]);
    assert_eq!(shop.wait_for_items(3).len(), 3);
}

/// E12: while MySQL is away the rows stay usable; afterwards what was missed is made up for.
#[test]
fn e12_joins_go_on_while_mysql_is_away() {
    let shop = Shop::open(1);
    let proxy = Proxy::to(&shop.mysql.address);
    let mut daemon = start_slowly(&shop, &proxy);
    daemon.wait_ready();
    proxy.set(Fault::Cut);
    wait_for_answer(&mut daemon, "/api/status", |answer| answer.json()["source"]["connected"] == json!(false));
    shop.sql("update products set price = 99 where id = 21");
    shop.produce([order("away", &["21"])]);
    assert_eq!(shop.wait_for_items(1)[0].json()["product"]["price"], json!(45), "as it was known");
    wait_for_answer(&mut daemon, "/api/status", |answer| answer.json()["source"]["lag_seconds"].as_f64().is_some_and(|lag| lag > 0.2));
    let ready = daemon.get("/ready");
    assert_eq!(ready.status, 200, "it can still do its work: {}", ready.body);
    proxy.set(Fault::None);
    wait_for_answer(&mut daemon, "/api/tables/products/rows/21", |answer| answer.status == 200 && answer.json()["price"] == json!(99));
    wait_for_answer(&mut daemon, "/api/status", |answer| answer.json()["source"]["lag_seconds"] == json!(0.0));
    shop.produce([order("back", &["21"])]);
    assert_eq!(shop.wait_for_items(2)[1].json()["product"]["price"], json!(99));
    let snapshots = daemon.log().iter().filter(|line| line.contains("read table products")).count();
    assert_eq!(snapshots, 1, "nothing is read again");
}

/// P01: it ends in the middle of the snapshot.
#[test]
fn p01_sigterm_in_the_snapshot_ends_at_once() {
    let shop = Shop::open(1);
    add_products(&shop);
    let proxy = Proxy::to(&shop.mysql.address);
    proxy.set(Fault::Delay(Duration::from_millis(50)));
    let mut daemon = start_slowly(&shop, &proxy);
    wait_for_answer(&mut daemon, "/api/tables", |answer| answer.json()["tables"][0]["rows"].as_u64().is_some_and(|rows| rows > 0));
    let began = Instant::now();
    assert_eq!(daemon.terminate(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
}
