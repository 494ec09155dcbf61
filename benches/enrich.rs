//! Enrichment in memory: the pizza shop's `order-items` stream over its 81 products, outputs discarded, one thread.
//!
//! Beside it, in the same run, because machines differ: reading the order alone with `serde_json`, borrowed, and a loop
//! written by hand for this very stream (borrowed reading, raw splicing), which is the bound to hold against.
//!
//! `cargo bench --bench enrich [-- <orders>]`

#![expect(clippy::print_stdout, reason = "a bench answers on stdout")]

use std::borrow::Cow;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::join::path::Scope;
use larder::join::{Bad, Enricher, Input, JoinPlan, Missing, Output, Path, Start, StreamPlan, Template, Verdict};
use larder::model::{Column, ColumnType, Key, Row, RowBuilder, Schema, TableId};
use larder::table::Tables;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Different orders, played again and again.
const DISTINCT: usize = 20_000;
const PRODUCTS: u64 = 81;
const PRODUCT: TableId = TableId(0);

const VALUE: &str = r#"
orderId   = "$record.id"
createdAt = "$record.createdAt"
product   = { id = "$product.id | string", name = "$product.name", description = "$product.description", category = "$product.category", image = "$product.image", price = "$product.price" }
orderItem = "$item"
"#;

/// Each form plays its orders in so many rounds, taking turns; the best round counts, because others use the machine too.
const ROUNDS: usize = 10;

fn main() {
    let total: usize = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(1_000_000);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let orders: Vec<(String, String)> = (0..DISTINCT).map(|_| order(&mut random)).collect();
    let bytes: usize = orders.iter().map(|(_, order)| order.len()).sum();
    println!("{total} orders, {} bytes each on average, best of {ROUNDS} rounds", bytes / DISTINCT);

    let rows: Vec<(Key, Row)> = (1..=PRODUCTS).map(product).collect();
    let mut by_hand = ByHand { products: rows.iter().cloned().collect(), value: Vec::new() };
    let tables = Tables::new([("products".to_owned(), "pizzashop.products".to_owned())]);
    tables.begin_snapshot(PRODUCT, Arc::new(schema()));
    tables.load(PRODUCT, rows, 100);
    tables.set_ready(PRODUCT);
    let mut enricher = Enricher::new(Arc::new(plan()));

    let round = total / ROUNDS;
    let (mut reading, mut hand, mut larder) = (Best::default(), Best::default(), Best::default());
    for _ in 0..ROUNDS {
        reading.measure(|| {
            each(&orders, round, |_, order| {
                black_box(serde_json::from_str::<Order<'_>>(order).expect("an order"));
                0
            })
        });
        hand.measure(|| each(&orders, round, |_, order| by_hand.process(order)));
        larder.measure(|| {
            each(&orders, round, |key, order| {
                let mut discard = Discard(0);
                let input = Input {
                    topic: "orders",
                    partition: 0,
                    offset: 0,
                    timestamp_ms: Some(0),
                    key: Some(key.as_bytes()),
                    value: Some(order.as_bytes()),
                };
                assert_eq!(enricher.process(&input, &tables.view(), &mut discard), Verdict::Done);
                discard.0
            })
        });
    }
    reading.print("serde_json, borrowed, reading only", round);
    hand.print("loop written by hand, serde_json", round);
    larder.print("larder: Enricher::process", round);
}

/// The shortest round, by wall time and by time on a processor, and the outputs of one.
#[derive(Default)]
struct Best {
    wall: Option<Duration>,
    cpu: Option<Duration>,
    outputs: usize,
}

impl Best {
    fn measure(&mut self, work: impl FnOnce() -> usize) {
        let (began, cpu) = (Instant::now(), cpu_time());
        self.outputs = work();
        let (wall, cpu) = (began.elapsed(), cpu_time().saturating_sub(cpu));
        self.wall = Some(self.wall.map_or(wall, |best| best.min(wall)));
        self.cpu = Some(self.cpu.map_or(cpu, |best| best.min(cpu)));
    }

    fn print(&self, name: &str, orders: usize) {
        let wall = self.wall.unwrap_or_default().as_secs_f64();
        let cpu = self.cpu.unwrap_or_default().as_secs_f64();
        println!(
            "{name:36} {:6.0} ns/order  {:9.0} orders/s  {:8.3} CPU s per million  {} outputs",
            wall * 1e9 / orders as f64,
            orders as f64 / wall,
            cpu * 1e6 / orders as f64,
            self.outputs,
        );
    }
}

fn each(orders: &[(String, String)], total: usize, mut process: impl FnMut(&str, &str) -> usize) -> usize {
    orders.iter().cycle().take(total).map(|(key, order)| process(black_box(key), black_box(order))).sum()
}

/// Time on a processor so far, by the scheduler's own count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

struct Discard(usize);

impl Output for Discard {
    fn write(&mut self, element: Option<u32>, key: Option<&[u8]>, value: &[u8], _headers: &[(&str, &[u8])]) {
        black_box((element, key, value));
        self.0 += 1;
    }

    fn dead_letter(&mut self, _: Option<u32>, _: &'static str, reason: &'static str, message: &str) {
        panic!("{reason}: {message}");
    }

    fn drop(&mut self, _: Option<u32>, reason: &'static str) {
        panic!("{reason}");
    }
}

#[derive(Deserialize)]
struct Order<'a> {
    id: &'a RawValue,
    #[serde(rename = "createdAt")]
    created_at: &'a RawValue,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(rename = "productId", borrow)]
    product_id: Cow<'a, str>,
}

struct ByHand {
    products: HashMap<Key, Row>,
    value: Vec<u8>,
}

impl ByHand {
    fn process(&mut self, order: &str) -> usize {
        let order: Order<'_> = serde_json::from_str(order).expect("an order");
        for item in &order.items {
            let Item { product_id } = serde_json::from_str(item.get()).expect("an item");
            let row = self.products.get(product_id.as_bytes()).expect("a product");
            let column = |index| row.column(index).expect("a column");
            let parts: [&[u8]; 19] = [
                b"{\"orderId\":",
                order.id.get().as_bytes(),
                b",\"createdAt\":",
                order.created_at.get().as_bytes(),
                b",\"product\":{\"id\":\"",
                column(0),
                b"\",\"name\":",
                column(1),
                b",\"description\":",
                column(2),
                b",\"category\":",
                column(3),
                b",\"image\":",
                column(5),
                b",\"price\":",
                column(4),
                b"},\"orderItem\":",
                item.get().as_bytes(),
                b"}",
            ];
            self.value.clear();
            parts.iter().for_each(|part| self.value.extend_from_slice(part));
            black_box((&product_id, &self.value));
        }
        order.items.len()
    }
}

fn plan() -> StreamPlan {
    let scope = Scope { each: true, joins: vec!["product".to_owned()] };
    let value: toml::Table = VALUE.parse().expect("TOML");
    let path = |text: &str| Path::parse(text, &scope).expect("a path");
    let template = |value: toml::Value| Template::compile(&value, &scope).map_err(|(_, error)| error).expect("a template");
    StreamPlan {
        name: "order-items".to_owned(),
        from: "orders".to_owned(),
        each: Path::parse_each("items").ok(),
        joins: vec![JoinPlan {
            name: "product".to_owned(),
            table: PRODUCT,
            key: vec![path("item.productId")],
            missing: Missing::DeadLetter,
        }],
        topic: "enriched-order-items".to_owned(),
        key: Some(template("$item.productId".into())),
        value: Some(template(value.into())),
        headers: Vec::new(),
        bad: Bad::DeadLetter,
        start: Start::Earliest,
        workers: 1,
        zone: jiff::tz::TimeZone::UTC,
        json_depth: 64,
        outputs_per_record: 100_000,
        message_bytes: 10 << 20,
    }
}

fn schema() -> Schema {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, nullable: true };
    let text = |name| column(name, ColumnType::Text { collation: 255 });
    Schema {
        columns: vec![
            column("id", ColumnType::Integer { bytes: 8, unsigned: true }),
            text("name"),
            text("description"),
            text("category"),
            column("price", ColumnType::Float),
            text("image"),
            column("created_at", ColumnType::Timestamp { digits: 0 }),
            column("updated_at", ColumnType::DateTime { digits: 0 }),
        ],
        key: vec![0],
    }
}

/// As long as the shop's on average.
fn product(id: u64) -> (Key, Row) {
    let mut builder = RowBuilder::default();
    let columns = [
        ("id", id.to_string()),
        ("name", format!("\"Veg Parcel number {id}\"")),
        ("description", "\"Snacky bites! Pizza rolls with paneer & creamy harissa sauce, in a golden crust\"".to_owned()),
        ("category", "\"side orders\"".to_owned()),
        ("price", "45.0".to_owned()),
        ("image", "\"https://images.example.com/files/items/Main_Menu-VG-parcel.jpg\"".to_owned()),
        ("created_at", "\"2022-12-05T16:56:02Z\"".to_owned()),
        ("updated_at", "\"2022-12-05T16:56:02\"".to_owned()),
    ];
    for (name, json) in columns {
        builder.value(name).extend_from_slice(json.as_bytes());
    }
    (Key::new(id.to_string().into_bytes()), builder.finish())
}

/// Key and value of an order with 1 to 10 items, as the shop's simulator writes it.
fn order(random: &mut Random) -> (String, String) {
    let items: Vec<String> = (0..=random.below(10))
        .map(|_| {
            let (product, quantity, price) = (1 + random.below(PRODUCTS), 1 + random.below(5), 25 + random.below(685));
            format!(r#"{{"productId":"{product}","quantity":{quantity},"price":{price}.0}}"#)
        })
        .collect();
    let id = format!("{:08x}-cecb-4aa8-993b-{:012x}", random.below(1 << 32), random.below(1 << 48));
    let (user, price, items) = (random.below(10_000), 25 + random.below(5000), items.join(","));
    let micros = random.below(1_000_000);
    let order = format!(
        r#"{{"id":"{id}","createdAt":"2022-09-06T10:46:17.{micros:06}","userId":{user},"price":{price}.0,"items":[{items}],"deliveryLat":"13.01002590","deliveryLon":"77.62104745","status":"PLACED_ORDER"}}"#
    );
    (id, order)
}

/// xorshift64*: the same orders in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}
