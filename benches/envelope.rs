//! How long one core takes to write a change record: from decoded values to key and value, beside a copy of the same bytes.
//!
//! `cargo bench --bench envelope`. CPU time is the process's own (`/proc/self/schedstat`), so a busy machine disturbs it little.
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::borrow::Cow;
use std::hint::black_box;

use larder::config::plan::{BigintUnsignedMode, BinaryMode, DecimalMode, PublishPlan, TablePlan, TimeMode};
use larder::debezium::{Details, Form, Op, Record, Snapshot, Source};
use larder::model::{Column, ColumnType, Schema, Value};

const RECORDS: u32 = 1_000_000;
const ROUNDS: usize = 3;

fn main() {
    for schemas in [false, true] {
        for _ in 0..ROUNDS {
            measure(schemas);
        }
    }
}

fn measure(schemas: bool) {
    let mut form = form(schemas);
    let values = values();
    let source = Source {
        ts_us: 1_704_164_645_678_901,
        snapshot: Snapshot::False,
        server_id: 1,
        gtid: Some("22107719-e5c2-11f1-aec5-0242ac110002:1234567"),
        file: "binlog.000042",
        pos: 123_456_789,
        row: 3,
        thread: Some(4711),
    };
    let (mut before, mut after, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    let began = cpu_nanos();
    for _ in 0..RECORDS {
        for row in [&mut before, &mut after] {
            row.clear();
            form.begin(row);
            for (column, value) in values.iter().enumerate() {
                form.push(row, column, black_box(value)).expect("a value of its column");
            }
            form.end(row);
        }
        bare.clear();
        form.row_key(&after, &mut bare);
        key.clear();
        form.write_key(&bare, &mut key);
        value.clear();
        let record = Record {
            op: Op::Update,
            before: Some(&before),
            after: Some(&after),
            source: black_box(&source),
            now_ns: 1_704_164_645_800_000_000,
            transaction: None,
        };
        form.write_value(&record, &mut value);
        bytes += black_box(&key).len() + black_box(&value).len();
    }
    let wrote = cpu_nanos() - began;
    let (mut copied_key, mut copied_value) = (Vec::new(), Vec::new());
    let began = cpu_nanos();
    for _ in 0..RECORDS {
        copied_key.clear();
        copied_key.extend_from_slice(black_box(&key));
        copied_value.clear();
        copied_value.extend_from_slice(black_box(&value));
        black_box((&copied_key, &copied_value));
    }
    let copied = cpu_nanos() - began;
    println!(
        "update of {} columns, {} schemas: {} bytes, {} ns a record; copying them {} ns",
        values.len(),
        if schemas { "with" } else { "without" },
        bytes / RECORDS as usize,
        wrote / u64::from(RECORDS),
        copied / u64::from(RECORDS),
    );
}

/// The table of benches/decode.rs.
fn form(schemas: bool) -> Form {
    let text = || ColumnType::Text { collation: 255 };
    let columns = [
        ("id", ColumnType::Integer { bytes: 8, unsigned: false }),
        ("name", text()),
        ("description", text()),
        ("category", text()),
        ("image", text()),
        ("price", ColumnType::Decimal { precision: 10, scale: 2 }),
        ("stock", ColumnType::Integer { bytes: 4, unsigned: true }),
        ("rating", ColumnType::Double),
        ("created_at", ColumnType::DateTime { digits: 6 }),
        ("updated_at", ColumnType::Timestamp { digits: 0 }),
    ];
    let columns = columns.map(|(name, kind)| Column { name: name.to_owned(), kind, nullable: name != "id" });
    let publish = PublishPlan {
        topic: "mysql.shop.products".to_owned(),
        schemas,
        time: TimeMode::AdaptiveTimeMicroseconds,
        decimal: if schemas { DecimalMode::Precise } else { DecimalMode::String },
        bigint_unsigned: BigintUnsignedMode::Long,
        binary: BinaryMode::Bytes,
        tombstones: true,
        transactions: false,
        partitions: 1,
    };
    let schema = Schema { columns: columns.into(), key: vec![0] };
    Form::new(&schema, &TablePlan::new("products", "shop", "products"), &publish, &Details::default(), "shop").expect("a form")
}

fn values() -> Vec<Value<'static>> {
    let text = |text: &'static str| Value::Text(Cow::Borrowed(text));
    vec![
        Value::Int(1_234_567),
        text("Product number 1234567 of the shop"),
        text(
            "A pizza with tomato sauce, mozzarella, basil and a little olive oil, baked in a stone oven at 450 degrees; \
             also to be had without gluten, as a calzone, or \"double\" for two.",
        ),
        text("veg parcels"),
        text("https://images.example.com/products/veg-parcel.png"),
        Value::Decimal(Cow::Borrowed("67.99")),
        Value::UInt(1_234_567),
        Value::Double(1_234_567.0 / 7.0),
        Value::DateTime { year: 2024, month: 2, day: 29, hour: 23, minute: 59, second: 58, micros: 123_456 },
        Value::Timestamp { seconds: 1_709_251_199, micros: 0 },
    ]
}

fn cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("nanoseconds")
}
