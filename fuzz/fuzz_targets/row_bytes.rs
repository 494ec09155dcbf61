//! Any bytes as a table map and the rows event after it: an error or rows of valid JSON, never a panic, an endless loop or memory out of
//! proportion.
//!
//! Input: two bytes, the length of the table map (little-endian); one byte, the event type; the table map's body; the event's body.

#![no_main]

use larder::config::plan::{Cascades, DecimalForm, InvalidText, TablePlan};
use larder::model::{Change, Schema, TableId};
use larder::mysql::decode::RowsEvent;
use larder::mysql::render::Shape;
use larder::mysql::rows::JsonRows;
use larder::mysql::table_map::TableMap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [low, high, event_type, bodies @ ..] = input else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    let Some((map, rows)) = bodies.split_at_checked(length) else { return };
    let Ok(map) = TableMap::parse(map) else { return };
    let Ok(schema) = map.schema(&Schema { columns: Vec::new(), key: Vec::new() }) else { return };
    let plan = TablePlan {
        key: schema.columns.first().map(|column| vec![column.name.clone()]),
        decimal: DecimalForm::Number,
        invalid_text: InvalidText::Replace,
        ..TablePlan::new("t", map.database.clone(), map.table.clone())
    };
    let Ok(shape) = Shape::new(&schema, &plan) else { return };
    let Ok(mut reader) = JsonRows::new(&map, shape) else { return };
    let Ok(event) = RowsEvent::parse(*event_type, rows) else { return };
    let read = reader.changes(TableId(0), &event, |change| {
        if let Change::Upsert { row, .. } = change {
            let _: &serde_json::value::RawValue = serde_json::from_slice(row.json()).expect("a row is JSON");
        }
    });
    drop(read);
});
