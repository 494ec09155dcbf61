//! Orders in, enriched items out: the shop's own configuration on real servers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, Producer as _};
use serde_json::{Value, json};

use crate::support::kafka::send;
use crate::support::shop::{order, wait_for_answer};
use crate::support::{Daemon, Message, Record, Shop, wait_for, wait_until};
use crate::versions;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn an_order_becomes_its_items_byte_for_byte() {
    let shop = Shop::open(1);
    let mut daemon = shop.start(&shop.config());
    daemon.wait_ready();
    // What is taken whole keeps its spaces, its escapes and the text of its numbers.
    let value = r#"{ "id": "o-1", "createdAt":"2022-09-06T10:46:17.703283", "userId":416, "price": 1040.0,
        "items": [ {"productId":"21", "quantity":2, "price":45.0, "note":"\u00e9"}, {"productId":36,"quantity":1e0} ] }"#;
    let input = Message::new("o-1", value).header("trace", "abc").header("trace", b"\xff".to_vec()).timestamp(1_662_461_177_703);
    shop.produce([input]);
    let items = shop.wait_for_items(2);
    assert_eq!(items.len(), 2);
    assert_eq!(items[0].key_text(), Some("21"));
    assert_eq!(
        items[0].text(),
        concat!(
            r#"{"orderId":"o-1","createdAt":"2022-09-06T10:46:17.703283","product":{"id":"21","name":"Veg Parcel","description":"","#,
            r#""category":"side orders","image":"https://images.example/pizzashop/21.jpg","price":45},"#,
            r#""orderItem":{"productId":"21", "quantity":2, "price":45.0, "note":"\u00e9"}}"#
        )
    );
    assert_eq!(items[1].key_text(), Some("36"));
    assert_eq!(
        items[1].text(),
        concat!(
            r#"{"orderId":"o-1","createdAt":"2022-09-06T10:46:17.703283","product":{"id":"36","name":"7up (500ml)","description":"","#,
            r#""category":"beverages","image":"https://images.example/pizzashop/36.jpg","price":60},"orderItem":{"productId":36,"quantity":1e0}}"#
        )
    );
    let at = daemon.get("/api/tables/products/rows/21").headers["larder-position"].to_str().expect("a position of text").to_owned();
    for (element, item) in items.iter().enumerate() {
        assert_eq!(item.timestamp, Some(1_662_461_177_703));
        let names: Vec<&str> = item.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["trace", "trace", "larder-origin", "larder-at"], "the input's headers come first");
        assert_eq!(item.headers[1].1, b"\xff");
        assert_eq!(item.header("larder-origin"), Some(format!("{}/0/0/{element}", shop.orders).as_str()));
        let (uuid, _) = item.header("larder-at").and_then(|gtid| gtid.split_once(':')).expect("the GTID of a transaction");
        assert!(at.contains(uuid), "{uuid} in {at}");
    }
}

#[test]
fn what_changes_in_mysql_is_in_the_items_from_then_on() {
    let shop = Shop::open(1);
    let mut daemon = shop.start(&shop.config());
    daemon.wait_ready();
    let product = |item: &Record| item.json()["product"].clone();

    shop.produce([order("before", &["\"21\""])]);
    assert_eq!(product(&shop.wait_for_items(1)[0])["price"], json!(45));

    shop.sql("update products set price = 47.5, name = 'Végé 🥬' where id = 21");
    wait_for_row(&mut daemon, "21", |row| row["price"] == json!(47.5));
    shop.sql("insert into products (id, name, price) values (1001, null, 0.1)");
    wait_for_row(&mut daemon, "1001", |row| row["price"] == json!(0.1));
    shop.produce([order("after", &["\"21\"", "1001"])]);
    let items = shop.wait_for_items(3);
    assert_eq!(product(&items[1])["price"], json!(47.5));
    assert_eq!(product(&items[1])["name"], json!("Végé 🥬"));
    let new = r#""product":{"id":"1001","name":null,"description":null,"category":null,"image":null,"price":0.1}"#;
    assert!(items[2].text().contains(new), "{}", items[2].text());

    // J09: the key of a row changes.
    shop.sql("update products set id = 2001 where id = 21; delete from products where id = 22");
    wait_for_answer(&mut daemon, "/api/tables/products/rows/22", |answer| answer.status == 404);
    shop.produce([order("gone", &["\"21\"", "2001", "\"22\"", "23"])]);
    let items = shop.wait_for_items(5);
    assert_eq!([items[3].key_text(), items[4].key_text()], [Some("2001"), Some("23")]);
    assert_eq!(product(&items[3])["name"], json!("Végé 🥬"));
    let dead = shop.wait_for_dead_letters(2);
    for (dead, element) in dead.iter().zip([0, 2]) {
        assert_eq!(dead.key_text(), Some("gone"));
        assert_eq!(dead.text().as_bytes(), order("gone", &["\"21\"", "2001", "\"22\"", "23"]).value.expect("a value"));
        let key = ["21", "", "22"][element];
        for (name, value) in [
            ("__connect.errors.topic", shop.orders.as_str()),
            ("__connect.errors.partition", "0"),
            ("__connect.errors.offset", "2"),
            ("__connect.errors.stage", "join"),
            ("__connect.errors.exception.class.name", "missing-row"),
            ("__connect.errors.exception.message", &format!("join `product`: no row for key \"{key}\"")),
            ("larder-reason", "missing-row"),
            ("larder-origin", &format!("{}/0/2/{element}", shop.orders)),
            ("larder-stream", "order-items"),
        ] {
            assert_eq!(dead.header(name), Some(value), "header {name}");
        }
    }

    // D13: no row is left, and the joins know it.
    shop.sql("truncate table products");
    wait_for_answer(&mut daemon, "/api/tables/products/rows/23", |answer| answer.status == 404);
    shop.produce([order("empty", &["23"])]);
    assert_eq!(shop.wait_for_dead_letters(3)[2].key_text(), Some("empty"));
    daemon.wait_ready();
}

#[test]
fn a_missing_row_is_null_or_dropped_where_the_configuration_says_so_and_orders_of_a_key_stay_in_order() {
    let shop = Shop::open(4);
    let dropped = format!("{}-dropped", shop.name);
    // The same stream twice, with other policies; `null` keeps the input's key, and this one has no template.
    let config = shop.config().replace("missing = \"dead-letter\"", "missing = \"null\"")
        + &format!(
            r#"
            [streams.strict]
            from = "{}"
            each = "items"
            workers = 3
            join.product = {{ table = "products", key = "item.productId", missing = "drop" }}
            to = {{ topic = "{dropped}" }}
            "#,
            shop.orders
        );
    let mut daemon = shop.start(&config);
    daemon.wait_ready();
    // Ten orders of each of 20 customers, and an unknown product in every one.
    let orders = (0..200).map(|number| {
        let id = format!("customer {}", number % 20);
        Message { key: Some(id.into()), ..order(&number.to_string(), &["\"21\"", "999", "1"]) }
    });
    shop.produce(orders);
    let items = shop.wait_for_items(600);
    assert_eq!(items.len(), 600);
    let missing: Vec<_> = items.iter().filter(|item| item.key_text() == Some("999")).collect();
    assert_eq!(missing.len(), 200);
    assert!(missing.iter().all(|item| item.json()["product"] == Value::Null), "a table of missed paths is null itself");

    let kept = shop.kafka.wait_for_records(&dropped, 400, PATIENCE);
    assert_eq!(kept.len(), 400);
    assert_eq!(shop.kafka.partitions(&dropped), Some(4), "as many partitions as the input");
    let mut seen = BTreeMap::<_, Vec<u32>>::new();
    for item in &kept {
        let value = item.json();
        let names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(names, ["createdAt", "id", "item", "items", "product", "status", "userId"], "the record with item and row added");
        let number: u32 = value["id"].as_str().and_then(|id| id.parse().ok()).expect("a number");
        seen.entry(item.key_text().map(str::to_owned)).or_default().push(number);
    }
    assert_eq!(seen.len(), 20);
    for (key, numbers) in seen {
        assert!(numbers.is_sorted() && numbers.len() == 20, "{key:?} in order: {numbers:?}");
    }
    let metrics = daemon.get("/metrics").body;
    assert!(metrics.contains("larder_stream_dropped_total{stream=\"strict\",reason=\"missing-row\"} 200\n"), "{metrics}");
}

#[test]
fn http_tells_rows_states_and_counts_and_pauses_a_stream() {
    let shop = Shop::open(2);
    let mut daemon = shop.start(&shop.config());
    daemon.wait_ready();
    assert_eq!(daemon.get("/ready").json(), json!({ "ready": true }));
    for path in ["/live", "/healthz", "/readyz"] {
        assert_eq!(daemon.get(path).status, 200, "{path}");
    }

    let row = daemon.get("/api/tables/products/rows/21");
    assert_eq!((row.status, &row.json()["name"]), (200, &json!("Veg Parcel")));
    let columns = r#"{"id":21,"name":"Veg Parcel","description":"","category":"side orders","price":45,"image":"https://"#;
    assert!(row.body.starts_with(columns), "in the table's order: {}", row.body);
    assert!(row.headers["larder-position"].to_str().is_ok_and(|position| position.contains(':')));
    for (path, code) in
        [("/api/tables/products/rows/4711", "not-found"), ("/api/tables/nonsense/rows/1", "not-found"), ("/nonsense", "not-found")]
    {
        let answer = daemon.get(path);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!(code)), "{path}");
        assert!(answer.json()["error"]["message"].is_string(), "{path}");
    }

    let tables = daemon.get("/api/tables").json();
    assert_eq!(tables["tables"][0]["name"], json!("products"));
    assert_eq!(tables["tables"][0]["mysql"], json!(format!("{}.products", shop.name)));
    assert_eq!(tables["tables"][0]["state"], json!("ready"));
    assert_eq!((&tables["tables"][0]["rows"], &tables["tables"][1]["rows"]), (&json!(81), &json!(0)));

    shop.produce((0..50).map(|number| order(&number.to_string(), &["1", "2", "999"])));
    shop.wait_for_offsets("order-items", 50);
    let stream = wait_for_answer(&mut daemon, "/api/streams", |answer| answer.json()["streams"][0]["records"] == json!(50)).json();
    let stream = &stream["streams"][0];
    assert_eq!(stream["name"], json!("order-items"));
    assert_eq!(stream["from"], json!(shop.orders));
    assert_eq!(stream["state"], json!("running"));
    assert_eq!((&stream["outputs"], &stream["dead_letters"], &stream["waiting"]), (&json!(100), &json!(50), &json!(0)));
    wait_for_answer(&mut daemon, "/api/streams", |answer| answer.json()["streams"][0]["lag"] == json!(0));

    let status = daemon.get("/api/status").json();
    assert_eq!((&status["name"], &status["ready"]), (&json!(shop.name), &json!(true)));
    assert_eq!(status["version"], json!(env!("CARGO_PKG_VERSION")));
    assert_eq!(status["source"]["connected"], json!(true));
    assert_eq!((&status["tables"][0]["rows"], &status["streams"][0]["records"]), (&json!(81), &json!(50)));

    let metrics = daemon.get("/metrics");
    assert!(metrics.headers["content-type"].to_str().is_ok_and(|kind| kind.starts_with("application/openmetrics-text")));
    for line in [
        "larder_source_connected 1.0",
        "larder_table_rows{table=\"products\"} 81.0",
        "larder_table_ready{table=\"products\"} 1.0",
        "larder_stream_records_total{stream=\"order-items\"} 50",
        "larder_stream_outputs_total{stream=\"order-items\"} 100",
        "larder_stream_running{stream=\"order-items\"} 1.0",
        "larder_join_lookups_total{stream=\"order-items\",table=\"products\",outcome=\"hit\"} 100",
        "larder_join_lookups_total{stream=\"order-items\",table=\"products\",outcome=\"miss\"} 50",
        "larder_dead_letters_total{reason=\"missing-row\"} 50",
        "larder_latency_seconds_count{stream=\"order-items\"} 50",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line} in\n{}", metrics.body);
    }
    assert!(metrics.body.ends_with("# EOF\n"));

    // A paused stream reads nothing, and is ready all the same; resumed it takes up where it was.
    let paused = daemon.request("POST", "/api/streams/order-items/pause", &[]);
    assert_eq!((paused.status, &paused.json()["state"]), (200, &json!("paused")));
    shop.produce([order("later", &["3"])]);
    wait_for_answer(&mut daemon, "/api/streams", |answer| answer.json()["streams"][0]["lag"] == json!(1));
    assert_eq!(daemon.get("/ready").status, 200);
    assert_eq!(shop.kafka.read(&shop.items).len(), 100);
    let resumed = daemon.request("POST", "/api/streams/order-items/resume", &[]);
    assert_eq!(resumed.status, 200);
    shop.wait_for_items(101);
    wait_for_answer(&mut daemon, "/api/streams", |answer| answer.json()["streams"][0]["state"] == json!("running"));
    assert_eq!(daemon.request("POST", "/api/streams/nonsense/pause", &[]).status, 404);
    assert_eq!(daemon.request("POST", "/api/streams", &[]).status, 405);
}

#[test]
fn k24_product_ids_are_read_as_the_key_column_reads_them() {
    let shop = Shop::open(1);
    let mut daemon = shop.start(&shop.config());
    daemon.wait_ready();
    let hits = ["21", "\"21\"", "21.0", "2.1e1"];
    let misses = [
        "\" 21\"",
        "\"021\"",
        "\"+21\"",
        "\"21abc\"",
        "true",
        "21.5",
        "9007199254740993",
        "18446744073709551616",
        "-21",
        "null",
        "[21]",
        "\"\"",
    ];
    shop.produce([order("hits", &hits), order("misses", &misses)]);
    let items = shop.wait_for_items(hits.len());
    let dead = shop.wait_for_dead_letters(misses.len());
    assert_eq!((items.len(), dead.len()), (hits.len(), misses.len()));
    assert!(items.iter().all(|item| item.json()["product"]["name"] == json!("Veg Parcel")));
    let keys: Vec<_> = items.iter().map(|item| item.key_text().expect("a key")).collect();
    assert_eq!(keys, ["21", "21", "21.0", "2.1e1"], "a number as its text");
}

#[test]
fn rows_of_keys_of_every_kind_are_found_by_their_path() {
    let shop = Shop::open(1);
    shop.sql(
        "create table stock (place varchar(20) collate utf8mb4_0900_ai_ci, day date, id int, primary key (place, day, id));
        insert into stock values ('Köln/\"Süd\"', '2024-02-29', -7);
        create table codes (code binary(4) primary key, label text); insert into codes values (x'00ff0000', 'zeros')",
    );
    let more = ["stock", "codes"].map(|table| format!("\n[tables.{table}]\nmysql = \"{}.{table}\"\n", shop.name)).concat();
    let mut daemon = shop.start(&(shop.config() + &more));
    daemon.wait_ready();
    // ["Köln/\"Süd\"","2024-02-29",-7]
    let path = "/api/tables/stock/rows/%5B%22K%C3%B6ln%2F%5C%22S%C3%BCd%5C%22%22%2C%222024-02-29%22%2C-7%5D";
    let answer = daemon.get(path);
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"place":"Köln/\"Süd\"","day":"2024-02-29","id":-7}"#));
    for wrong in ["stock/rows/7", "stock/rows/%5B%22x%22%5D", "stock/rows/%7B%7D"] {
        let answer = daemon.get(&format!("/api/tables/{wrong}"));
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("bad-parameter")), "{wrong}");
    }
    let answer = daemon.get("/api/tables/codes/rows/AP8AAA==");
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"code":"AP8AAA==","label":"zeros"}"#));
    assert_eq!(daemon.get("/api/tables/products/rows/021").status, 404);
}

/// J11 and I13: a MySQL transaction is in all items of an order, or in none.
#[test]
fn j11_no_order_shows_half_a_transaction() {
    let shop = Shop::open(3);
    shop.sql("update products set description = 'v0'");
    let config = shop.config().replace("each = \"items\"", "workers = 2\neach = \"items\"");
    let mut daemon = shop.start(&config);
    daemon.wait_ready();

    let stop = AtomicBool::new(false);
    let (mut version, mut produced) = (0, 0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut session = shop.mysql.session();
            session.exec(&format!("use {}", shop.name));
            let mut version = 0;
            while !stop.load(Ordering::Relaxed) {
                version += 1;
                session.exec(&format!(
                    "begin; update products set description = 'v{version}' where id > 40; update products set description = 'v{version}' where id <= 40; commit"
                ));
            }
            version
        });
        // One producer for all, so that orders come as steadily as versions do.
        let till: BaseProducer = shop.kafka.client().set("partitioner", "murmur2_random").create().expect("make a producer");
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && produced < 5000 {
            for number in produced..produced + 10 {
                // All over the table, the two ends of it in every order.
                let other = (number * 7 % 79 + 2).to_string();
                send(&till, &shop.orders, &order(&number.to_string(), &["1", &other, "40", "41", "81"]));
            }
            till.flush(PATIENCE).expect("write orders");
            produced += 10;
        }
        stop.store(true, Ordering::Relaxed);
        version = writer.join().expect("the writer ends");
    });
    let items = shop.wait_for_items(produced * 5);
    assert_eq!(items.len(), produced * 5);
    let items = versions::of(&items);
    let seen = versions::check(&items).unwrap_or_else(|torn| panic!("{torn}"));
    assert!(seen > 20 && version > 20, "{produced} orders saw {seen} of {version} versions: too few to prove anything");
    wait_until("all products at the last version", PATIENCE, || {
        daemon.get("/api/tables/products/rows/1").json()["description"] == json!(format!("v{version}"))
    });

    // The checker finds what is planted: one item torn, one order of an earlier version, two transactions under one GTID.
    let mut torn = items.clone();
    torn[2].version += 1;
    assert!(versions::check(&torn).is_err_and(|found| found.contains("two versions")));
    let mut back = items.clone();
    let last = back.len() - 5;
    back[last..].iter_mut().for_each(|item| item.version = 0);
    assert!(versions::check(&back).is_err_and(|found| found.contains("went back")));
    let mut mixed = items;
    let at = mixed[0].at.clone();
    mixed.iter_mut().for_each(|item| item.at.clone_from(&at));
    assert!(versions::check(&mixed).is_err_and(|found| found.contains("larder-at")));
}

#[track_caller]
fn wait_for_row(daemon: &mut Daemon, key: &str, wanted: impl Fn(&Value) -> bool) {
    wait_for(&format!("the wanted row {key}"), PATIENCE, || {
        let answer = daemon.get(&format!("/api/tables/products/rows/{key}"));
        if answer.status == 200 && wanted(&answer.json()) { Ok(()) } else { Err(answer.body) }
    });
}
