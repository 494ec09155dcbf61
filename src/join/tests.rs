//! What holds for every input, and cases too large or too odd for a scenario file.

use std::sync::Arc;

use proptest::prelude::*;

use super::path::Scope;
use super::*;
use crate::model::{Change, Column, ColumnType, Key, Position, RowBuilder, Schema, Transaction};
use crate::table::Tables;

const PRODUCT: TableId = TableId(0);

fn scope() -> Scope {
    Scope { each: true, joins: vec!["product".into()] }
}

fn template(toml: &str) -> Template {
    let table: toml::Table = format!("value = {toml}").parse().expect("TOML");
    Template::compile(&table["value"], &scope()).expect("a template")
}

fn plan(value: Option<&str>) -> StreamPlan {
    StreamPlan {
        name: "s".into(),
        from: "in".into(),
        each: Path::parse_each("items").ok(),
        joins: vec![JoinPlan {
            name: "product".into(),
            table: PRODUCT,
            key: vec![Path::parse("item.productId", &scope()).expect("a path")],
            missing: Missing::Null,
        }],
        topic: "out".into(),
        key: None,
        value: value.map(template),
        headers: vec![],
        bad: Bad::DeadLetter,
        start: Start::Earliest,
        workers: 1,
        zone: jiff::tz::TimeZone::UTC,
        json_depth: 64,
        outputs_per_record: 100_000,
        message_bytes: 10 << 20,
    }
}

/// Products 1 to 9, with an id and a name.
fn tables() -> Tables {
    let tables = Tables::new([("products".to_owned(), "shop.products".to_owned())]);
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, nullable: false };
    let columns =
        vec![column("id", ColumnType::Integer { bytes: 4, unsigned: false }), column("name", ColumnType::Text { collation: 255 })];
    tables.begin_snapshot(PRODUCT, Arc::new(Schema { columns, key: vec![0] }));
    let mut builder = RowBuilder::default();
    let row = |id: u32| {
        builder.value("id").extend_from_slice(id.to_string().as_bytes());
        builder.value("name").extend_from_slice(format!("\"product \\\"{id}\\\"\"").as_bytes());
        (Key::new(id.to_string().into_bytes()), builder.finish())
    };
    tables.load(PRODUCT, (1..10).map(row).collect(), 100);
    tables.set_ready(PRODUCT);
    tables
}

#[derive(Debug, Default)]
struct Kept {
    values: Vec<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    dead: Vec<(Option<u32>, &'static str, &'static str, String)>,
    dropped: Vec<&'static str>,
}

impl Output for Kept {
    fn write(&mut self, _: Option<u32>, _: Option<&[u8]>, value: &[u8], headers: &[(&str, &[u8])]) {
        self.values.push(value.to_vec());
        self.headers.extend(headers.iter().map(|&(name, value)| (name.to_owned(), value.to_vec())));
    }

    fn dead_letter(&mut self, element: Option<u32>, stage: &'static str, reason: &'static str, message: &str) {
        self.dead.push((element, stage, reason, message.to_owned()));
    }

    fn drop(&mut self, _: Option<u32>, reason: &'static str) {
        self.dropped.push(reason);
    }
}

fn process(enricher: &mut Enricher, tables: &Tables, key: Option<&[u8]>, value: &[u8]) -> Kept {
    let mut kept = Kept::default();
    let input = Input { topic: "in", partition: 0, offset: 7, timestamp_ms: None, key, value: Some(value) };
    assert_eq!(enricher.process(&input, &tables.view(), &mut kept), Verdict::Done);
    kept
}

#[test]
fn an_order_of_ten_thousand_items() {
    let items: Vec<String> = (0..10_000).map(|i| format!(r#"{{"productId":{}}}"#, i % 20)).collect();
    let order = format!(r#"{{"items":[{}],"id":"x"}}"#, items.join(","));
    let tables = tables();
    let mut enricher = Enricher::new(Arc::new(plan(Some(r#"["$record.id", "$index", "$product.id", "$item"]"#))));
    let kept = process(&mut enricher, &tables, None, order.as_bytes());
    assert_eq!(kept.values.len(), 10_000);
    assert_eq!(kept.values[9_999], br#"["x",9999,null,{"productId":19}]"#);
    assert_eq!(kept.values[9_989], br#"["x",9989,9,{"productId":9}]"#);
    assert_eq!(enricher.take_lookups(), [Lookups { hits: 4_500, misses: 5_500 }]);
    assert_eq!(enricher.take_lookups(), [Lookups::default()]);
}

#[test]
fn a_key_that_is_no_text_matters_only_where_it_is_used() {
    let tables = tables();
    let key: Option<&[u8]> = Some(b"\xff");
    let mut without = Enricher::new(Arc::new(plan(Some(r#""$item""#))));
    assert_eq!(process(&mut without, &tables, key, br#"{"items":[1]}"#).values, [b"1"]);
    let mut with = Enricher::new(Arc::new(plan(Some(r#""$meta.key""#))));
    let kept = process(&mut with, &tables, key, br#"{"items":[1]}"#);
    assert_eq!((kept.dead[0].0, kept.dead[0].1, kept.dead[0].2), (None, "decode", "bad-shape"));
}

#[test]
fn a_key_of_another_width_than_the_tables_stops() {
    let mut plan = plan(Some(r#""$item""#));
    plan.joins[0].key.push(Path::parse("item.b", &scope()).expect("a path"));
    let mut kept = Kept::default();
    let input = Input { topic: "in", partition: 0, offset: 0, timestamp_ms: None, key: None, value: Some(b"{}") };
    let verdict = Enricher::new(Arc::new(plan)).process(&input, &tables().view(), &mut kept);
    assert!(matches!(verdict, Verdict::Stop(message) if message.contains("one path per key column")));
}

#[test]
fn columns_that_change_places_are_noticed() {
    let tables = tables();
    let mut enricher = Enricher::new(Arc::new(plan(Some(r#"{ id = "$product.id", name = "$product.name" }"#))));
    let item = br#"{"items":[{"productId":"1"}]}"#;
    assert_eq!(process(&mut enricher, &tables, None, item).values, [br#"{"id":1,"name":"product \"1\""}"#]);
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, nullable: false };
    let text = ColumnType::Text { collation: 255 };
    tables.begin_snapshot(PRODUCT, Arc::new(Schema { columns: vec![column("name", text.clone()), column("id", text)], key: vec![1] }));
    let mut builder = RowBuilder::default();
    builder.value("name").extend_from_slice(b"\"new\"");
    builder.value("id").extend_from_slice(b"\"1\"");
    tables.load(PRODUCT, vec![(Key::new(b"1".as_slice()), builder.finish())], 100);
    tables.set_ready(PRODUCT);
    assert_eq!(process(&mut enricher, &tables, None, item).values, [br#"{"id":"1","name":"new"}"#]);
}

/// JSON text of every form: white space, odd numbers, escapes, equal names.
fn json() -> impl Strategy<Value = String> {
    let scalar = prop::sample::select(vec![
        "null",
        "true",
        "45",
        "45.0",
        "-0",
        "1e2",
        "1E+400",
        "18446744073709551616",
        "\"\"",
        "\"1\"",
        "\"é😀\"",
        r#""\u00e9\ud83d\ude00""#,
        r#""\"\\\/\n""#,
    ])
    .prop_map(str::to_owned);
    let space = prop::sample::select(vec!["", "", " ", "\n\t"]);
    let name = prop::sample::select(vec!["a", "b", "items", "productId", "\\u0061", "é"]);
    scalar.prop_recursive(4, 40, 5, move |inner| {
        let member = (name.clone(), space.clone(), inner.clone()).prop_map(|(n, s, v)| format!("{s}\"{n}\"{s}:{s}{v}{s}"));
        let element = (space.clone(), inner).prop_map(|(s, v)| format!("{s}{v}{s}"));
        prop_oneof![
            prop::collection::vec(member, 0..5).prop_map(|m| format!("{{{}}}", m.join(","))),
            prop::collection::vec(element, 0..5).prop_map(|e| format!("[{}]", e.join(","))),
        ]
    })
}

/// A stream that uses every kind of place and conversion.
const EVERYTHING: &str = r#"{ a = "$record.a.0.b", s = "$record.b | string", i = "$item", n = "$item.productId | string", p = { x = "$product", y = "$product.name" }, k = "$meta.key", list = ["$index", "$record.items.1", "$item.a.1"] }"#;

proptest! {
    #[test]
    fn parts_taken_whole_keep_their_bytes(a in json(), b in json(), items in prop::collection::vec(json(), 1..4), space in "[ \n\t\r]{0,2}") {
        let s = &space;
        let list = items.join(&format!("{s},{s}"));
        let record = format!("{s}{{{s}\"a\"{s}:{s}{a}{s},\"b\":{b},{s}\"items\":[{s}{list}{s}]{s}}}{s}");
        let tables = tables();
        let mut enricher = Enricher::new(Arc::new(plan(Some(r#"["$record.b", "$item", "$record.a", "$record.items.0", "$record"]"#))));
        let kept = process(&mut enricher, &tables, None, record.as_bytes());
        let first = &items[0];
        let whole = record.trim();
        let expected: Vec<Vec<u8>> = items.iter().map(|item| format!("[{b},{item},{a},{first},{whole}]").into_bytes()).collect();
        prop_assert_eq!(kept.values, expected);
        prop_assert!(kept.dead.is_empty(), "{:?}", kept.dead);
    }

    #[test]
    fn whatever_comes_in_what_goes_out_is_json(text in json(), at in any::<prop::sample::Index>(), byte: u8, mode in 0..3, key in prop::option::of(prop::collection::vec(any::<u8>(), 0..4))) {
        let mut record = format!("{{\"a\":1,\"items\":[{text},{{\"productId\":3,\"a\":{text}}}],\"b\":{text}}}").into_bytes();
        match mode {
            0 => {}
            1 => { let at = at.index(record.len()); record[at] = byte; }
            _ => record.truncate(at.index(record.len())),
        }
        let tables = tables();
        for value in [Some(EVERYTHING), None] {
            let mut enricher = Enricher::new(Arc::new(plan(value)));
            let kept = process(&mut enricher, &tables, key.as_deref(), &record);
            for value in &kept.values {
                let value = std::str::from_utf8(value).expect("outputs are UTF-8");
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok(), "{}", value);
            }
            prop_assert!(kept.values.len() + kept.dead.len() + kept.dropped.len() > 0, "nothing disappears");
            if mode == 0 && value.is_none() {
                prop_assert_eq!(kept.values.len(), 2);
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(record in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut enricher = Enricher::new(Arc::new(plan(Some(EVERYTHING))));
        process(&mut enricher, &tables(), None, &record);
    }

    #[test]
    fn any_template_text_is_compiled_or_refused(text in "(\\$)?[\\$a-z.| \"é]{0,20}") {
        drop(Template::compile(&toml::Value::String(text), &scope()));
    }

    #[test]
    fn any_text_is_converted_to_json_or_refused(text in "[0-9TZ:. +é-]{0,30}|[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{0,10})?(Z|[+-][0-2][0-9]:?[0-9]{2})?") {
        let fragment = serde_json::to_string(&text).expect("a string");
        for conversion in ["string", "integer", "number", "boolean", "json", "timestamp", "epoch_ms", "epoch_us"] {
            let mut out = Vec::new();
            let conversion = Conversion::parse(conversion).expect("a conversion");
            match conversion.write(fragment.as_bytes(), &jiff::tz::TimeZone::UTC, &mut out) {
                Ok(()) => prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&out).is_ok()),
                Err(_) => prop_assert!(out.is_empty()),
            }
        }
    }
}

/// Products are bounded, and so are the makers, whose key is the product's name: two rounds of reading, and nothing is counted before all is there.
#[test]
fn a_record_waits_for_all_rows_it_needs() {
    let column = |name: &str| Column { name: name.to_owned(), kind: ColumnType::Text { collation: 255 }, nullable: false };
    let schema = Arc::new(Schema { columns: vec![column("id"), column("name")], key: vec![0] });
    let maker = TableId(1);
    let names = ["products", "makers"].map(|name| (name.to_owned(), format!("shop.{name}")));
    let tables = Arc::new(Tables::new(names).bound(PRODUCT, 1 << 20).bound(maker, 1 << 20));
    for table in [PRODUCT, maker] {
        tables.begin_snapshot(table, Arc::clone(&schema));
        tables.set_ready(table);
    }
    let scope = Scope { each: true, joins: vec!["product".into(), "maker".into()] };
    let mut plan = plan(None);
    plan.joins.push(JoinPlan {
        name: "maker".into(),
        table: maker,
        key: vec![Path::parse("product.name", &scope).expect("a path")],
        missing: Missing::Drop,
    });
    let mut enricher = Enricher::new(Arc::new(plan));
    let order = br#"{"items":[{"productId":"a"},{"productId":"b"},{"productId":"a"}]}"#;
    let input = Input { topic: "in", partition: 0, offset: 7, timestamp_ms: None, key: None, value: Some(order) };
    let change = |table, id: &str, name: &str| {
        let mut builder = RowBuilder::default();
        builder.value("id").extend_from_slice(format!("\"{id}\"").as_bytes());
        builder.value("name").extend_from_slice(format!("\"{name}\"").as_bytes());
        Change::Upsert { table, old_key: None, key: Key::new(id.as_bytes()), row: builder.finish() }
    };
    let apply = |changes| tables.apply(Transaction { changes, position: Position::default(), id: "u:1".into(), committed_us: 0 });
    let key = |table, text: &str| (table, Key::new(text.as_bytes()));

    enricher.look_ahead(&input, &tables.view());
    let wanted = enricher.take_wanted();
    assert_eq!(wanted, [key(PRODUCT, "a"), key(PRODUCT, "b")], "each once; the makers are not known yet");
    let products = tables.pin(wanted);
    apply(vec![change(PRODUCT, "a", "x"), change(PRODUCT, "b", "y")]);
    assert!(products.are_known());
    assert_eq!(enricher.process(&input, &tables.view(), &mut Kept::default()), Verdict::NeedRows);
    let wanted = enricher.take_wanted();
    assert_eq!(wanted, [key(maker, "x"), key(maker, "y")]);
    let makers = tables.pin(wanted);
    apply(vec![change(maker, "x", "Xavier"), Change::Delete { table: maker, key: Key::new(&b"y"[..]) }]);
    assert_eq!(makers.unknown(), None);
    assert_eq!(enricher.take_lookups(), [Lookups::default(); 2]);
    let mut kept = Kept::default();
    assert_eq!(enricher.process(&input, &tables.view(), &mut kept), Verdict::Done);
    assert_eq!((kept.values.len(), kept.dropped.as_slice()), (2, &["missing-row"][..]));
    assert_eq!(enricher.take_lookups(), [Lookups { hits: 3, misses: 0 }, Lookups { hits: 2, misses: 1 }]);
}
