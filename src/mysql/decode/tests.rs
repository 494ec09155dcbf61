//! Events written by hand, and damaged ones by chance.

use proptest::prelude::*;

use super::*;
use crate::config::plan::TablePlan;
use crate::model::Substitutions;
use crate::model::{Change, Column, TableId};
use crate::mysql::render::Shape;
use crate::mysql::rows::JsonRows;

/// One column of a table map: type code, metadata, nullable.
type Described<'a> = (u8, &'a [u8], bool);

const INT: Described<'static> = (3, &[], false);
const VARCHAR: Described<'static> = (15, &[40, 0], true);
const JSON: Described<'static> = (245, &[4], true);

/// Signs: all signed. Charsets: utf8mb4. Names: c0, c1, … Key: c0.
fn table_map(columns: &[Described<'_>]) -> Vec<u8> {
    let mut body = minimal_table_map(columns);
    let names: Vec<u8> =
        (0..columns.len()).map(|index| format!("c{index}")).flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat()).collect();
    for (field, value) in [
        (1, &[0, 0, 0, 0][..]),
        (2, &[252, 255, 0]),
        (10, &[252, 255, 0]),
        (4, &names),
        (5, b"\x03\x01x\x01y\x01z"),
        (6, b"\x02\x01a\x01b"),
        (8, &[0]),
    ] {
        body.extend_from_slice(&[field, value.len() as u8]);
        body.extend_from_slice(value);
    }
    body
}

fn minimal_table_map(columns: &[Described<'_>]) -> Vec<u8> {
    let mut body = b"\x07\0\0\0\0\0\x01\0\x04shop\0\x01t\0".to_vec();
    body.push(columns.len() as u8);
    body.extend(columns.iter().map(|column| column.0));
    let metadata: Vec<u8> = columns.iter().flat_map(|column| column.1).copied().collect();
    body.push(metadata.len() as u8);
    body.extend_from_slice(&metadata);
    let mut nulls = vec![0; columns.len().div_ceil(8)];
    for (index, column) in columns.iter().enumerate() {
        nulls[index / 8] |= u8::from(column.2) << (index % 8);
    }
    body.extend_from_slice(&nulls);
    body
}

fn plan() -> TablePlan {
    TablePlan::new("t", "shop", "t")
}

fn none_known() -> Schema {
    Schema { columns: Vec::new(), key: Vec::new() }
}

fn reader(columns: &[Described<'_>], plan: &TablePlan) -> JsonRows {
    let map = TableMap::parse(&table_map(columns)).expect("table map");
    let schema = map.schema(&none_known()).expect("schema");
    JsonRows::new(&map, Shape::new(&schema, plan).expect("shape")).expect("reader")
}

/// A version 2 event of table 7: width and bitmaps, then rows.
fn event(rest: &[u8]) -> Vec<u8> {
    [&[7, 0, 0, 0, 0, 0, 1, 0, 2, 0], rest].concat()
}

fn changes(reader: &mut JsonRows, event_type: u8, body: &[u8]) -> Result<Vec<String>, DecodeError> {
    let mut seen = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    reader.changes(TableId(3), &RowsEvent::parse(event_type, body)?, |change| {
        seen.push(match change {
            Change::Upsert { old_key: None, key, row, .. } => format!("{} {}", text(key.as_bytes()), text(row.json())),
            Change::Upsert { old_key: Some(old), key, row, .. } => {
                format!("{} -> {} {}", text(old.as_bytes()), text(key.as_bytes()), text(row.json()))
            }
            Change::Delete { key, .. } => format!("{} gone", text(key.as_bytes())),
            Change::Truncate { .. } => "empty".into(),
        });
    })?;
    Ok(seen)
}

#[test]
fn inserts_updates_and_deletes() {
    let mut reader = reader(&[INT, VARCHAR], &plan());
    let insert = event(b"\x02\xFF\0\x01\0\0\0\x01x\x02\xFF\xFF\xFF\xFF");
    assert_eq!(changes(&mut reader, 30, &insert).expect("rows"), [r#"1 {"c0":1,"c1":"x"}"#, r#"-1 {"c0":-1,"c1":null}"#]);
    let update = event(b"\x02\xFF\xFF\0\x01\0\0\0\x01x\0\x01\0\0\0\x01y\0\x01\0\0\0\x01y\0\x02\0\0\0\x01y");
    assert_eq!(changes(&mut reader, 31, &update).expect("rows"), [r#"1 {"c0":1,"c1":"y"}"#, r#"1 -> 2 {"c0":2,"c1":"y"}"#]);
    assert_eq!(changes(&mut reader, 32, &event(b"\x02\xFF\0\x01\0\0\0\x01x")).expect("rows"), ["1 gone"]);
    let version_1: Vec<u8> = [&insert[..8], &insert[10..]].concat();
    assert_eq!(changes(&mut reader, 23, &version_1).expect("rows").len(), 2);
    let parsed = RowsEvent::parse(30, &insert).expect("event");
    assert_eq!((parsed.kind(), parsed.table_id(), parsed.ends_statement()), (RowKind::Insert, 7, true));
}

#[test]
fn a_text_key_that_changes_in_case_is_another_key() {
    let mut reader = reader(&[VARCHAR, INT], &plan());
    let update = event(b"\x02\xFF\xFF\0\x01a\x01\0\0\0\0\x01A\x01\0\0\0");
    assert_eq!(changes(&mut reader, 31, &update).expect("rows"), [r#"a -> A {"c0":"A","c1":1}"#]);
}

#[test]
fn d22_an_event_of_another_width_never_shifts_values() {
    let mut reader = reader(&[INT, VARCHAR], &plan());
    let error = changes(&mut reader, 30, &event(b"\x03\xFF\0\x01\0\0\0\x01x\x01x")).expect_err("width");
    assert_eq!((error.reason(), error.to_string().as_str()), (Reason::SchemaMismatch, "schema has 2 columns, event has 3"));
    let map = TableMap::parse(&minimal_table_map(&[INT, VARCHAR])).expect("map");
    let column = |name: &str, kind| Column { name: name.into(), kind, nullable: true };
    let int = |bytes| ColumnType::Integer { bytes, unsigned: true };
    let text = ColumnType::Text { collation: 8 };
    let known = |columns: Vec<Column>| Schema { columns, key: vec![0] };
    let error = map.schema(&known(vec![column("id", int(4))])).expect_err("count");
    assert_eq!(error, DecodeError::SchemaMismatch("shop.t: schema has 1 columns, event has 2".into()));
    let error = map.schema(&known(vec![column("id", int(8)), column("name", text.clone())])).expect_err("type");
    assert_eq!(error.reason(), Reason::SchemaMismatch);
    assert!(error.to_string().starts_with("column id: schema has Integer"), "{error}");
    let schema = map.schema(&known(vec![column("id", int(4)), column("name", text.clone())])).expect("they agree");
    assert_eq!(schema.columns[0], Column { name: "id".into(), kind: int(4), nullable: false }, "the sign comes from what is known");
    assert_eq!((schema.columns[1].kind.clone(), schema.key), (text, vec![0]));
    assert!(!map.has_names());
}

#[test]
fn images_that_leave_columns_out() {
    let mut reader = reader(&[INT, VARCHAR], &plan());
    let error = changes(&mut reader, 30, &event(b"\x02\x01\0\x01\0\0\0")).expect_err("insert");
    assert_eq!((error.reason(), error), (Reason::RowImage, DecodeError::RowImage { column: "c1".into() }));
    let update = event(b"\x02\xFF\x02\0\x01\0\0\0\x01x\0\x01y");
    assert_eq!(changes(&mut reader, 31, &update).expect("the key from before"), [r#"1 {"c0":1,"c1":"y"}"#]);
    let minimal = event(b"\x02\x01\x02\0\x01\0\0\0\0\x01y");
    assert_eq!(changes(&mut reader, 31, &minimal).expect("all that is needed"), [r#"1 {"c0":1,"c1":"y"}"#]);
    assert_eq!(changes(&mut reader, 32, &event(b"\x02\x01\0\x01\0\0\0")).expect("the key is enough"), ["1 gone"]);
    assert_eq!(changes(&mut reader, 32, &event(b"\x02\x02\0\x01x")).expect_err("key").reason(), Reason::RowImage);
    assert_eq!(changes(&mut reader, 30, &event(b"\x02\x00")).expect_err("a row of no columns has no bytes").reason(), Reason::RowImage);
}

#[test]
fn only_the_columns_wanted_are_decoded() {
    let mut projected = plan();
    projected.columns = Some(vec!["c2".into(), "c0".into()]);
    let mut projected = reader(&[INT, VARCHAR, VARCHAR], &projected);
    let insert = event(b"\x03\xFF\0\x01\0\0\0\x01\xFF\x01z");
    assert_eq!(changes(&mut projected, 30, &insert).expect("the bad text is not wanted"), [r#"1 {"c0":1,"c2":"z"}"#]);
    let mut keyed = plan();
    keyed.key = Some(vec!["c2".into(), "c0".into()]);
    assert_eq!(
        changes(&mut reader(&[INT, VARCHAR, VARCHAR], &keyed), 32, &event(b"\x03\xFF\0\x01\0\0\0\x01x\x01z")).expect("key"),
        [r#"["z",1] gone"#]
    );
}

#[test]
fn a_plan_that_does_not_fit_says_all_that_is_missing() {
    let map = TableMap::parse(&table_map(&[INT, VARCHAR])).expect("map");
    let schema = map.schema(&none_known()).expect("schema");
    let refused = |plan: &TablePlan| Shape::new(&schema, plan).err().expect("refused").to_string();
    let mut plan = TablePlan { columns: Some(vec!["c0".into(), "nope".into()]), booleans: vec!["flag".into()], ..plan() };
    plan.needed = vec![("c1".into(), "streams.s.value.name".into())];
    assert_eq!(refused(&plan), "shop.t has no column c1 (needed by streams.s.value.name), flag, nope");
    let plan = TablePlan { columns: Some(vec!["c1".into()]), ..self::plan() };
    assert_eq!(refused(&plan), "the columns chosen leave out the key");
    let plan = TablePlan { booleans: vec!["c1".into()], ..self::plan() };
    assert_eq!(refused(&plan), "column c1 is listed in booleans but is no TINYINT");
    let keyless = Schema { key: Vec::new(), ..schema.clone() };
    assert!(Shape::new(&keyless, &self::plan()).is_err());
}

#[test]
fn what_goes_out_differently_is_counted() {
    let enumerated: Described<'_> = (254, &[247, 1], true);
    let date: Described<'_> = (10, &[], true);
    let strict_date: Described<'_> = (10, &[], false);
    let mut reader = reader(&[INT, enumerated, date, strict_date, VARCHAR], &TablePlan { invalid_text: InvalidText::Replace, ..plan() });
    let insert = event(b"\x05\xFF\0\x01\0\0\0\0\0\0\0\0\0\0\x02\xFFx");
    assert_eq!(
        changes(&mut reader, 30, &insert).expect("rows"),
        ["1 {\"c0\":1,\"c1\":\"\",\"c2\":null,\"c3\":\"0000-00-00\",\"c4\":\"\u{FFFD}x\"}"]
    );
    let counts = reader.shape_mut().take_counts();
    assert_eq!(counts, Substitutions { zero_dates: 2, replaced_texts: 1, invalid_enums: 1 });
    assert_eq!(reader.shape_mut().take_counts(), Substitutions::default());
    let error = changes(&mut reader, 30, &event(b"\x05\xFF\0\x01\0\0\0\x03\0\0\0\0\0\0\0")).expect_err("no such label");
    assert_eq!((error.reason(), error.to_string().as_str()), (Reason::BadValue, "column c1: an ENUM index beyond its labels"));
}

#[test]
fn invalid_text_stops_and_names_the_column() {
    let mut reader = reader(&[INT, VARCHAR], &plan());
    let error = changes(&mut reader, 30, &event(b"\x02\xFF\0\x01\0\0\0\x01\xFF")).expect_err("0xFF is no UTF-8");
    assert_eq!(error.reason(), Reason::BadCharset);
    assert!(error.to_string().starts_with("column c1: bytes that are no utf8mb4 text"), "{error}");
}

#[test]
fn t22_binary_is_padded_and_sets_are_joined() {
    let binary: Described<'_> = (254, &[254, 4], true);
    let mut body = table_map(&[INT, binary, (254, &[248, 1], true), (1, &[], false)]);
    // A second charset list on top: the first character column is binary.
    body.extend_from_slice(&[2, 1, 63]);
    let map = TableMap::parse(&body).expect("map");
    let schema = map.schema(&none_known()).expect("schema");
    let shape = Shape::new(&schema, &TablePlan { booleans: vec!["c3".into()], ..plan() }).expect("shape");
    let mut reader = JsonRows::new(&map, shape).expect("reader");
    let rows = changes(&mut reader, 30, &event(b"\x04\xFF\0\x01\0\0\0\x02\x01\x02\x05\x01")).expect("rows");
    assert_eq!(rows, [r#"1 {"c0":1,"c1":"AQIAAA==","c2":"x,z","c3":true}"#]);
    let error = changes(&mut reader, 30, &event(b"\x04\xFF\0\x01\0\0\0\x02\x01\x02\x0D\x01")).expect_err("a fourth label");
    assert_eq!(error.reason(), Reason::BadValue);
}

#[test]
fn t17_differences_need_the_document_before() {
    let mut reader = reader(&[INT, JSON, JSON], &plan());
    // {"a":1} in both columns before; after it the first as $.a = 2, the second whole: true.
    let document = b"\0\x01\0\x0C\0\x0B\0\x01\0\x05\x01\0a";
    let sized = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let difference = sized(b"\0\x03$.a\x03\x05\x02\0");
    let before = [b"\0\x01\0\0\0", &sized(document)[..], &sized(document)].concat();
    let after = [b"\x01\x01\0\x01\0\0\0", &difference[..], &sized(b"\x04\x01")].concat();
    let update = [b"\x03\xFF\xFF", &before[..], &after].concat();
    assert_eq!(changes(&mut reader, 39, &event(&update)).expect("rows"), [r#"1 {"c0":1,"c1":{"a":2},"c2":true}"#]);
    let without_document = [b"\x03\x05\xFF\0\x01\0\0\0", &sized(document)[..], &after].concat();
    let error = changes(&mut reader, 39, &event(&without_document)).expect_err("nothing to apply it to");
    assert_eq!(error, DecodeError::RowImage { column: "c1".into() });
    let unknown_option = [b"\x03\xFF\xFF", &before[..], b"\x02"].concat();
    assert_eq!(changes(&mut reader, 39, &event(&unknown_option)).expect_err("option").reason(), Reason::BadValue);
}

/// As MySQL 9.7 wrote it for `id INT, a CHAR(20) latin1, v VECTOR(3), b CHAR(1) cp932, c VARCHAR(60) cp852`.
#[test]
fn t18_a_vector_has_a_place_among_the_charsets() {
    let body =
        b"\x58\0\0\0\0\0\x01\0\x01v\0\x02t1\0\x05\x03\xfe\xf2\xfe\x0f\x07\xfe\x14\x04\xfe\x02\x3c\0\x1e\x01\x01\0\x03\x04\x08\x3f\x5f\x28\
        \x0d\x01\x03\x04\x0b\x02id\x01a\x01v\x01b\x01c\x08\x01\0\x0c\x01\xf8";
    let schema = TableMap::parse(body).and_then(|map| map.schema(&none_known())).expect("a table map");
    let kinds: Vec<ColumnType> = schema.columns.into_iter().skip(1).map(|column| column.kind).collect();
    let text = |collation| ColumnType::Text { collation };
    assert_eq!(kinds, [text(8), ColumnType::Vector, text(95), text(40)]);
}

#[test]
fn types_that_cannot_be_read_are_named() {
    let error = TableMap::parse(&minimal_table_map(&[INT, (20, &[], true)])).expect_err("typed array");
    assert_eq!((error.reason(), error), (Reason::UnknownType, DecodeError::UnknownType { column: "#2".into(), code: 20 }));
}

/// A column of every type code with room for all its forms.
fn every_type() -> Vec<Described<'static>> {
    vec![
        INT,
        (1, &[], true),
        (9, &[], true),
        (8, &[], true),
        (4, &[4], true),
        (5, &[8], true),
        (246, &[20, 7], true),
        (16, &[5, 2], true),
        (13, &[], true),
        (10, &[], true),
        (11, &[], true),
        (12, &[], true),
        (7, &[], true),
        (17, &[3], true),
        (18, &[6], true),
        (19, &[1], true),
        VARCHAR,
        (254, &[0xCE, 0xFC], true),
        (252, &[4], true),
        (254, &[247, 1], true),
        (254, &[248, 1], true),
        JSON,
        (255, &[4], true),
        (242, &[4], true),
    ]
}

fn image() -> Vec<u8> {
    let mut row = vec![0; 3];
    for (bytes, count) in [
        (&b"\x01"[..], 1),
        (b"\0", 3 + 1 + 3 + 8 + 4 + 8),
        (b"\x80", 1),
        (b"\0", 9 + 3 + 1 + 3 + 3),
        (b"\0", 8 + 4 + 4 + 2),
        (b"\x80", 1),
        (b"\0", 7),
        (b"\x80", 1),
        (b"\0", 3),
    ] {
        row.extend(std::iter::repeat_n(bytes[0], count));
    }
    row.extend_from_slice(
        b"\x02hi\x01\0x\x01\0\0\0z\x01\x07\x0D\0\0\0\0\x01\0\x0C\0\x0B\0\x01\0\x05\x01\0a\x05\0\0\0\0\0\0\0\x01\x04\0\0\0\0\0\0\0",
    );
    row
}

#[test]
fn a_row_of_every_type() {
    let mut reader = reader(&every_type(), &plan());
    let rows = changes(&mut reader, 30, &event(&[b"\x18\xFF\xFF\xFF", &image()[..], &image()].concat())).expect("rows");
    assert_eq!(rows.len(), 2);
    assert!(
        rows[0]
            .ends_with(r#""c16":"hi","c17":"x","c18":"z","c19":"a","c20":"x,y,z","c21":{"a":1},"c22":{"wkb":"AQ==","srid":0},"c23":[0]}"#),
        "{}",
        rows[0]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_rows_never_panic(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9), cut in any::<prop::sample::Index>(), kind in 0_usize..4) {
        let types = [30, 31, 32, 39];
        let bitmaps: &[u8] = if kind % 2 == 1 { b"\x18\xFF\xFF\xFF\xFF\xFF\xFF" } else { b"\x18\xFF\xFF\xFF" };
        let between: &[u8] = if kind == 3 { b"\x01\x00" } else { b"" };
        let mut body = event(&[bitmaps, &image(), between, &image()].concat());
        for (at, byte) in flips {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(body.len() - cut.index(body.len()) / 8);
        let mut reader = reader(&every_type(), &TablePlan { invalid_text: InvalidText::Replace, ..plan() });
        drop(changes(&mut reader, types[kind], &body));
    }

    #[test]
    fn damaged_table_maps_never_panic(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5), cut in any::<prop::sample::Index>()) {
        let mut body = table_map(&every_type());
        for (at, byte) in flips {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body.truncate(body.len() - cut.index(body.len()) / 8);
        if let Ok(map) = TableMap::parse(&body)
            && let Ok(schema) = map.schema(&none_known())
            && let Ok(shape) = Shape::new(&schema, &plan())
            && let Ok(mut reader) = JsonRows::new(&map, shape)
        {
            drop(changes(&mut reader, 30, &event(&[&b"\x18\xFF\xFF\xFF"[..], &image()].concat())));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, kind in 0_u8..50) {
        drop(TableMap::parse(&bytes));
        drop(TableMap::name(&bytes));
        drop(RowsEvent::parse(kind, &bytes));
    }
}
