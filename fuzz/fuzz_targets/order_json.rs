//! Any bytes as a record of a stream that uses every kind of path and conversion: nothing panics, every record has an end,
//! what goes out is JSON, and what `serde_json` refuses is refused.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use larder::config;
use larder::join::{Enricher, Input, Output, Verdict};
use larder::model::{Column, ColumnType, Key, RowBuilder, Schema, TableId};
use larder::table::Tables;
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

const CONFIG: &str = r#"
name = "fuzz"
mysql = { address = "127.0.0.1:3306", user = "larder", password = "x" }
kafka = { brokers = "127.0.0.1:9092" }
[tables.products]
mysql = "shop.products"
[streams.shaped]
from = "orders"
each = "items"
[streams.shaped.join.product]
table = "products"
key = "item.productId"
[streams.shaped.to]
topic = "shaped"
key = "$item.productId"
headers = { id = "$record.id", item = "$item" }
[streams.shaped.to.value]
text = "$record.id | string"
first = "$record.items.0.productId"
json = "$item.json | json"
time = "$record.createdAt | timestamp"
number = "$item.price | number"
truth = "$item.truth | boolean"
product = { id = "$product.id | string", name = "$product.name" }
item = "$item"
index = "$index"
[streams.whole]
from = "orders"
each = "items"
[streams.whole.join.product]
table = "products"
key = "item.productId"
[streams.whole.to]
topic = "whole"
"#;

struct Judge {
    ends: usize,
    bad_json: bool,
}

impl Output for Judge {
    fn write(&mut self, _: Option<u32>, _: Option<&[u8]>, value: &[u8], _: &[(&str, &[u8])]) {
        self.ends += 1;
        let value = std::str::from_utf8(value).expect("outputs are UTF-8");
        serde_json::from_str::<IgnoredAny>(value).expect("outputs are JSON");
    }

    fn dead_letter(&mut self, _: Option<u32>, _: &'static str, reason: &'static str, _: &str) {
        self.ends += 1;
        self.bad_json |= reason == "bad-json";
    }

    fn drop(&mut self, _: Option<u32>, _: &'static str) {
        self.ends += 1;
    }
}

fuzz_target!(|record: &[u8]| {
    let tables = tables();
    let plan = config::parse(CONFIG, "fuzz", Path::new(".")).expect("a configuration");
    for stream in plan.streams {
        let mut judge = Judge { ends: 0, bad_json: false };
        let input = Input { topic: "orders", partition: 0, offset: 0, timestamp_ms: None, key: Some(b"k"), value: Some(record) };
        let verdict = Enricher::new(Arc::new(stream)).process(&input, &tables.view(), &mut judge);
        assert_eq!(verdict, Verdict::Done);
        assert!(judge.ends > 0, "nothing disappears");
        let json = std::str::from_utf8(record).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        assert!(json || judge.bad_json, "what is no JSON is refused");
    }
});

fn tables() -> Tables {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, nullable: false };
    let columns = vec![
        column("id", ColumnType::Integer { bytes: 8, unsigned: true }),
        column("name", ColumnType::Text { collation: 255 }),
    ];
    let mut row = RowBuilder::default();
    row.value("id").extend_from_slice(b"21");
    row.value("name").extend_from_slice(b"\"Veg Parcel\"");
    let tables = Tables::new([("products".to_owned(), "shop.products".to_owned())]);
    tables.begin_snapshot(TableId(0), Arc::new(Schema { columns, key: vec![0] }));
    tables.load(TableId(0), vec![(Key::new(b"21".as_slice()), row.finish())], 100);
    tables.set_ready(TableId(0));
    tables
}
