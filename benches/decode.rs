//! How many rows of about 320 bytes one core takes from binlog bytes to rendered rows, beside a loop that only copies the bytes.
//!
//! `cargo bench --bench decode`. CPU time is the process's own (`/proc/self/schedstat`), so a busy machine disturbs it little.
#![expect(clippy::print_stdout, reason = "what it prints is its result")]

use std::hint::black_box;
use std::time::Instant;

use larder::config::plan::TablePlan;
use larder::model::{Schema, TableId};
use larder::mysql::decode::RowsEvent;
use larder::mysql::render::Shape;
use larder::mysql::rows::JsonRows;
use larder::mysql::table_map::TableMap;

const ROWS: usize = 1_000_000;
/// The server's default `binlog_row_event_max_size` is 8 KiB.
const ROWS_PER_EVENT: usize = 25;
const WRITE_ROWS: u8 = 30;
const DELETE_ROWS: u8 = 32;

fn main() {
    let map = TableMap::parse(&table_map()).expect("the bench's own table map");
    let schema = map.schema(&Schema { columns: vec![], key: vec![] }).expect("full metadata");
    let shape = Shape::new(&schema, &plan()).expect("shape");
    let mut reader = JsonRows::new(&map, shape).expect("reader");
    let events: Vec<Vec<u8>> = (0..ROWS / ROWS_PER_EVENT).map(|event| rows_event(event * ROWS_PER_EVENT)).collect();
    let bytes: usize = events.iter().map(Vec::len).sum();
    println!("{ROWS} rows of {} bytes in {} events", bytes / ROWS, events.len());
    for _ in 0..3 {
        measure("copy the bytes", bytes, || {
            let mut copy = Vec::with_capacity(16 << 10);
            for event in &events {
                copy.clear();
                copy.extend_from_slice(event);
                black_box(&copy);
            }
        });
        measure("find values, render keys", bytes, || read(&mut reader, DELETE_ROWS, &events));
        measure("decode and render rows", bytes, || read(&mut reader, WRITE_ROWS, &events));
    }
}

fn read(reader: &mut JsonRows, event_type: u8, events: &[Vec<u8>]) {
    let mut rows = 0;
    for event in events {
        let event = RowsEvent::parse(event_type, event).expect("rows event");
        reader
            .changes(TableId(0), &event, |change| {
                black_box(&change);
                rows += 1;
            })
            .expect("rows");
    }
    assert_eq!(rows, ROWS);
}

fn measure(what: &str, bytes: usize, work: impl FnOnce()) {
    let (began, cpu_began) = (Instant::now(), cpu_seconds());
    work();
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu_began);
    let million = ROWS as f64 / 1e6;
    println!(
        "{what:26} {:8.2} M rows/s {:8.0} MB/s   {:.3} CPU s per 1M rows",
        million / seconds,
        bytes as f64 / seconds / 1e6,
        cpu / million
    );
}

fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("nanoseconds") / 1e9
}

/// id BIGINT, name VARCHAR, description VARCHAR, category VARCHAR, image VARCHAR (utf8mb4), price DECIMAL(10,2), stock INT UNSIGNED,
/// rating DOUBLE, created_at DATETIME(6), updated_at TIMESTAMP; key (id); FULL metadata.
fn table_map() -> Vec<u8> {
    let names = ["id", "name", "description", "category", "image", "price", "stock", "rating", "created_at", "updated_at"];
    let mut body = vec![1, 0, 0, 0, 0, 0, 1, 0, 4];
    body.extend_from_slice(b"shop\0\x08products\0\x0A");
    body.extend_from_slice(&[8, 15, 15, 15, 15, 246, 3, 5, 18, 17]);
    body.extend_from_slice(&[13, 144, 1, 252, 3, 200, 0, 252, 3, 10, 2, 8, 6, 0]);
    body.extend_from_slice(&[0b1111_1110, 0b11]);
    let mut optional = |field: u8, value: &[u8]| {
        body.extend_from_slice(&[field, value.len() as u8]);
        body.extend_from_slice(value);
    };
    optional(1, &[0b0010_0000]);
    optional(2, &[252, 255, 0]);
    let list: Vec<u8> = names.iter().flat_map(|name| std::iter::once(name.len() as u8).chain(name.bytes())).collect();
    optional(4, &list);
    optional(8, &[0]);
    body
}

fn rows_event(first: usize) -> Vec<u8> {
    let mut body = vec![1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 10, 0xFF, 0xFF];
    for id in first..first + ROWS_PER_EVENT {
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&(id as u64).to_le_bytes());
        let name = format!("Product number {id} of the shop");
        body.extend_from_slice(&(name.len() as u16).to_le_bytes());
        body.extend_from_slice(name.as_bytes());
        let description = "A pizza with tomato sauce, mozzarella, basil and a little olive oil, baked in a stone oven at 450 degrees; \
                           also to be had without gluten, as a calzone, or \"double\" for two.";
        body.extend_from_slice(&(description.len() as u16).to_le_bytes());
        body.extend_from_slice(description.as_bytes());
        body.push(11);
        body.extend_from_slice(b"veg parcels");
        let image = "https://images.example.com/products/veg-parcel.png";
        body.extend_from_slice(&(image.len() as u16).to_le_bytes());
        body.extend_from_slice(image.as_bytes());
        body.extend_from_slice(&[0x80, 0, 0, (id % 100) as u8, 99]);
        body.extend_from_slice(&(id as u32).to_le_bytes());
        body.extend_from_slice(&(id as f64 / 7.0).to_le_bytes());
        let moment = 0x80_0000_0000_u64 | (2024 * 13 + 2) << 22 | 29 << 17 | 23 << 12 | 59 << 6 | 58;
        body.extend_from_slice(&moment.to_be_bytes()[3..]);
        body.extend_from_slice(&[0x01, 0xE2, 0x40]);
        body.extend_from_slice(&(1_709_251_199_u32 + id as u32).to_be_bytes());
    }
    body
}

fn plan() -> TablePlan {
    TablePlan::new("products", "shop", "products")
}
