//! Every column type on a real server: the row read by the snapshot's statement, the row read from the binlog, and what the server
//! itself says of it (converted to utf8mb4 text, hexadecimal or WKB) are the same (promise W6).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use larder::config::plan::{InvalidText, TablePlan};
use larder::model::{Change, Schema, TableId};
use larder::mysql::decode::RowsEvent;
use larder::mysql::render::Shape;
use larder::mysql::result;
use larder::mysql::rows::JsonRows;
use larder::mysql::table_map::TableMap;
use mysql_async::prelude::*;
use mysql_async::{BinlogStreamRequest, Conn, Opts, OptsBuilder, Row};
use rand::prelude::*;

use crate::support::{Mysql, block_on};

const RANDOM_ROWS: usize = 200;

#[test]
fn t36_every_type_is_the_same_in_snapshot_stream_and_select() {
    let mysql = Mysql::start(&["--binlog-row-metadata=FULL"]);
    block_on(every_type(mysql.root(), "types_full"));
}

#[test]
fn t17_partial_updates_of_json_documents_give_the_full_document() {
    let mysql = Mysql::shared();
    block_on(partial_json(mysql.root(), &mysql.database("partial")));
}

#[test]
fn t18_every_character_of_every_charset_is_what_the_server_converts_it_to() {
    let mysql = Mysql::shared();
    block_on(charsets(mysql.root(), &mysql.database("charsets")));
}

/// T01, T08, T14, T16, T18, T22, T36: a table of all types, nullable and not, with edge values and random ones; inserted, updated in
/// the key, deleted; under FULL and then MINIMAL metadata, which is why the server must be the test's own.
pub async fn every_type(server: OptsBuilder, database: &str) {
    let columns = columns();
    let mut sql = connect(server.clone(), &["SET sql_mode = '', time_zone = '+02:00', sql_require_primary_key = 0"]).await;
    let (mut table_of, mut random) = (BTreeMap::new(), StdRng::seed_from_u64(36));
    sql.query_drop(format!("DROP DATABASE IF EXISTS {database}")).await.expect("drop");
    sql.query_drop(format!("CREATE DATABASE {database}")).await.expect("create");
    sql.query_drop(format!("USE {database}")).await.expect("use");
    for metadata in ["FULL", "MINIMAL"] {
        sql.query_drop(format!("SET GLOBAL binlog_row_metadata = {metadata}")).await.expect("root");
        for (table, nullable) in [("free", true), ("strict", false)] {
            if metadata == "FULL" {
                sql.query_drop(create_table(table, nullable, &columns)).await.expect("a table of all types");
            }
            let begin = position(&mut sql).await;
            let first_id = if metadata == "FULL" { 1 } else { 10_000 };
            write_rows(&mut sql, table, nullable, first_id, &columns, &mut random).await;
            let known = table_of.get(table).cloned().unwrap_or_else(|| Schema { columns: vec![], key: vec![] });
            let streamed = stream(server.clone(), database, table, &begin, &known).await;
            let snapshot = snapshot(server.clone(), database, table, &streamed.schema).await;
            let snapshot: BTreeMap<_, _> = snapshot.into_iter().filter(|(id, _)| *id >= first_id).collect();
            assert!(streamed.rows.len() > RANDOM_ROWS / 2, "{} rows", streamed.rows.len());
            same_rows(&snapshot, &streamed.rows);
            compare_with_select(server.clone(), database, table, nullable, &columns, &snapshot).await;
            table_of.insert(table, streamed.schema);
        }
    }
    sql.query_drop("SET GLOBAL binlog_row_metadata = FULL").await.expect("root");
    sql.query_drop(format!("DROP DATABASE {database}")).await.expect("drop");
    sql.disconnect().await.expect("disconnect");
}

/// T17: differences instead of documents, applied to what was there before.
pub async fn partial_json(server: OptsBuilder, database: &str) {
    let setup = format!("USE {database}");
    let mut sql = connect(server.clone(), &[&setup, "SET binlog_row_value_options = PARTIAL_JSON"]).await;
    sql.query_drop("CREATE TABLE docs (id INT PRIMARY KEY, first JSON, note VARCHAR(20), second JSON)").await.expect("create");
    let begin = position(&mut sql).await;
    let filler = "x".repeat(1 << 20);
    let document = r#"{"a":1,"arr":[1,{"deep":[true,null]},"three"],"b c":{"d\"e":1.0},"é":"ü","long":"LONG"}"#.replace("LONG", &filler);
    for id in 1..=3 {
        let insert = "INSERT INTO docs VALUES (?, ?, 'new', ?)";
        sql.exec_drop(insert, (id, &document, r#"{"pad":"pppppppppppppppppppppppppppppppppppppppp","list":[1,2,3]}"#))
            .await
            .expect("insert");
    }
    for update in [
        "first = JSON_SET(first, '$.a', 2)",
        "first = JSON_SET(first, '$.new', JSON_OBJECT('k', 1.5), '$.zz', JSON_ARRAY())",
        "first = JSON_REPLACE(first, '$.arr[1].deep[0]', 'replaced', '$.\"b c\".\"d\\\\\"e\"', CAST(1.50 AS DECIMAL(5,2)))",
        "first = JSON_REMOVE(first, '$.arr[0]')",
        "first = JSON_REMOVE(first, '$.new', '$.\"é\"'), note = 'both', second = JSON_SET(second, '$.list[1]', 'two')",
        "second = JSON_SET(second, '$.list[7]', 'appended')",
        "second = JSON_REMOVE(second, '$.list[0]')",
        "first = JSON_SET(JSON_REMOVE(first, '$.arr[1]'), '$.arr[5]', NULL, '$.a', 18446744073709551615)",
        "first = JSON_SET(first, '$.a[0]', 'scalar as array')",
        "first = JSON_SET(first, '$.b', '😀', '$.aaaa', CAST('2024-01-02 03:04:05' AS DATETIME))",
        "note = 'no document touched'",
        "id = id + 10, first = JSON_SET(first, '$.a', 'moved')",
    ] {
        sql.query_drop(format!("UPDATE docs SET {update} WHERE id % 10 < 3")).await.expect(update);
    }
    sql.query_drop("UPDATE docs SET first = JSON_ARRAY_INSERT(first, '$.arr[1]', 'inserted'), note = 'three' WHERE id = 3")
        .await
        .expect("update");
    sql.query_drop("UPDATE docs SET second = JSON_ARRAY_APPEND(second, '$.list', 4) WHERE id = 3").await.expect("update");
    let streamed = stream(server.clone(), database, "docs", &begin, &Schema { columns: vec![], key: vec![] }).await;
    assert!(streamed.partial_events > 10, "the server wrote {} events with differences", streamed.partial_events);
    same_rows(&snapshot(server, database, "docs", &streamed.schema).await, &streamed.rows);
    sql.disconnect().await.expect("disconnect");
}

/// T18: every single byte, every two bytes, and the longer forms of the charsets that have them.
pub async fn charsets(server: OptsBuilder, database: &str) {
    let setup = format!("USE {database}");
    let mut sql = connect(server, &[&setup, "SET cte_max_recursion_depth = 100000", "SET NAMES utf8mb4"]).await;
    let numbers = "WITH RECURSIVE r (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i < 65535) SELECT i FROM r";
    sql.query_drop("CREATE TABLE numbers (i INT UNSIGNED PRIMARY KEY)").await.expect("create");
    sql.query_drop(format!("INSERT INTO numbers {numbers}")).await.expect("numbers");
    let all = "SELECT c.character_set_name, MIN(c.id) FROM information_schema.collations c GROUP BY 1 ORDER BY 1";
    let charsets: Vec<(String, u16)> = sql.query(all).await.expect("collations");
    assert!(charsets.len() > 40);
    let mut compared = 0;
    for (charset, collation) in charsets {
        let mut shapes = vec![("LPAD(HEX(i), 2, '0')".to_owned(), "i < 256"), ("LPAD(HEX(i), 4, '0')".to_owned(), "TRUE")];
        match charset.as_str() {
            "binary" => continue,
            "ujis" | "eucjpms" => shapes.push(("CONCAT('8F', LPAD(HEX(i), 4, '0'))".into(), "i >= 0xA1A1")),
            "utf16" => shapes.push(("CONCAT('D8', HEX(64 + i % 64), 'DC', LPAD(HEX(i >> 8), 2, '0'))".into(), "TRUE")),
            "utf16le" => shapes.push(("CONCAT(HEX(64 + i % 64), 'D8', LPAD(HEX(i >> 8), 2, '0'), 'DC')".into(), "TRUE")),
            "utf32" => shapes.push(("CONCAT('00', LPAD(HEX(i % 32), 2, '0'), LPAD(HEX(i), 4, '0'))".into(), "TRUE")),
            "utf8mb4" => shapes.push(("CONCAT('F09F', HEX(0x8080 + (i & 63) + (i >> 6 & 63) * 256))".into(), "i < 4096")),
            "gb18030" => {
                let four = "CONCAT(HEX(0x81 + i % 4), HEX(0x30 + (i >> 2) % 10), HEX(0x81 + (i >> 5) % 126), HEX(0x30 + (i >> 9) % 10))";
                shapes.push((four.into(), "TRUE"));
            }
            _ => {}
        }
        for (bytes, which) in shapes {
            let select = format!(
                "SELECT UNHEX(h), CAST(CONVERT(CONVERT(CAST(UNHEX(h) AS BINARY) USING {charset}) USING utf8mb4) AS BINARY) \
                 FROM (SELECT {bytes} h FROM numbers WHERE {which}) t"
            );
            let rows: Vec<(Vec<u8>, Option<Vec<u8>>)> = sql.query(select).await.expect("conversion");
            // The server fills up a character of fixed width that is cut; a column cannot hold one.
            let width = [("ucs2", 2), ("utf16", 2), ("utf16le", 2), ("utf32", 4)]
                .iter()
                .find(|(name, _)| *name == charset)
                .map_or(1, |&(_, width)| width);
            for (bytes, converted) in rows.into_iter().filter(|(bytes, _)| bytes.len().is_multiple_of(width)) {
                compared += 1;
                same_text(&charset, collation, &bytes, converted);
            }
        }
    }
    assert!(compared > 2_000_000, "{compared} sequences compared");
    for charset in ["utf8mb3", "utf8mb4", "ucs2", "utf16", "utf16le", "utf32", "gb18030"] {
        every_scalar(&mut sql, charset).await;
    }
    sql.disconnect().await.expect("disconnect");
}

/// Every character of Unicode that a charset of Unicode can hold, as the server stores it.
async fn every_scalar(sql: &mut Conn, charset: &str) {
    const TOGETHER: usize = 64;
    let last = if matches!(charset, "utf8mb3" | "ucs2") { '\u{ffff}' } else { char::MAX };
    let scalars: Vec<char> = ('\u{1}'..=last).collect();
    sql.query_drop("DROP TABLE IF EXISTS scalars").await.expect("drop");
    sql.query_drop(format!("CREATE TABLE scalars (i INT PRIMARY KEY, t TEXT CHARACTER SET {charset})")).await.expect("create");
    for (number, many) in scalars.chunks(TOGETHER * 1000).enumerate() {
        let few = many.chunks(TOGETHER).enumerate();
        let rows: Vec<String> =
            few.map(|(row, few)| format!("({}, {})", number * 1000 + row, quoted(&few.iter().collect::<String>()))).collect();
        sql.query_drop(format!("INSERT INTO scalars VALUES {}", rows.join(","))).await.expect("insert");
    }
    let collation: u16 = sql
        .query_first(format!("SELECT MIN(id) FROM information_schema.collations WHERE character_set_name = '{charset}'"))
        .await
        .expect("collation")
        .expect("one");
    let rows: Vec<(Vec<u8>, Vec<u8>)> =
        sql.query("SELECT CAST(t AS BINARY), CAST(CONVERT(t USING utf8mb4) AS BINARY) FROM scalars").await.expect("texts");
    assert_eq!(rows.len(), scalars.len().div_ceil(TOGETHER));
    for (bytes, theirs) in rows {
        let (ours, _) = larder::mysql::charset::decode(collation, &bytes, InvalidText::Stop).expect("stored text is text");
        assert_eq!(ours.as_bytes(), theirs, "{charset} {bytes:02x?}");
    }
}

/// Our text is the server's. Where the server has no character (NULL for a malformed sequence, `?` for one without a meaning), ours is
/// an error; a malformed sequence of two may still be read as two characters by neither.
fn same_text(charset: &str, collation: u16, bytes: &[u8], converted: Option<Vec<u8>>) {
    let decoded = |bytes| larder::mysql::charset::decode(collation, bytes, InvalidText::Stop).ok().map(|(text, _)| text.into_owned());
    let ours = decoded(bytes);
    let theirs = converted.map(|text| String::from_utf8(text).expect("utf8mb4"));
    if charset == "ascii" && !bytes.is_ascii() {
        // The server copies ascii to utf8mb4 without a look; a column cannot hold such bytes.
        return assert_eq!(ours, None, "{bytes:02x?}");
    }
    let Some(theirs) = theirs else {
        return assert_eq!(ours, None, "{charset} {bytes:02x?}: the server refuses it");
    };
    let question_marks = |text: &str| text.matches(['?', '\u{FFFD}']).count();
    let unknown = question_marks(&theirs) > bytes.iter().filter(|&&byte| byte == b'?').count();
    match ours {
        Some(ours) => assert_eq!(ours, theirs, "{charset} {bytes:02x?}"),
        // A lone lead byte at the end, which no column can hold, is left out by some of the server's charsets.
        None if bytes.split_last().and_then(|(_, whole)| decoded(whole)).as_deref() == Some(&theirs) => {}
        None => assert!(unknown, "{charset} {bytes:02x?}: the server says {theirs:?}, we say nothing"),
    }
}

// === the table of all types ===

/// A column under test: its definition, edge values as SQL, a maker of random values, and how the server's word for it is got.
pub struct Tested {
    pub definition: String,
    pub edges: Vec<String>,
    pub random: Box<dyn Fn(&mut StdRng) -> String + Send + Sync>,
    pub oracle: Oracle,
}

/// How a value is asked of the server and compared with ours.
#[derive(Clone, Copy)]
pub enum Oracle {
    /// The text is the JSON text.
    Plain,
    /// The text is the content of the JSON string.
    Text,
    /// The same, with a blank for T and Z, and zero dates.
    Moment,
    Bool,
    Float,
    Double,
    Hex,
    Json,
    Geometry,
    Vector,
}

fn tested(definition: &str, oracle: Oracle, edges: &[&str], random: impl Fn(&mut StdRng) -> String + Send + Sync + 'static) -> Tested {
    let edges = edges.iter().map(|edge| (*edge).to_owned()).collect();
    Tested { definition: definition.to_owned(), edges, random: Box::new(random), oracle }
}

pub fn columns() -> Vec<Tested> {
    let mut columns = Vec::new();
    integers(&mut columns);
    numbers(&mut columns);
    moments(&mut columns);
    texts(&mut columns);
    binaries(&mut columns);
    labels(&mut columns);
    columns.push(tested("JSON", Oracle::Json, &json_edges().iter().map(String::as_str).collect::<Vec<_>>(), |random| {
        quoted(&random_json(random, 4))
    }));
    for kind in ["GEOMETRY", "POINT", "GEOMETRY SRID 4326"] {
        let srid = if kind.ends_with("4326") { 4326 } else { 0 };
        let point = move |x: f64, y: f64| format!("ST_SRID(POINT({x}, {y}), {srid})");
        columns.push(tested(kind, Oracle::Geometry, &[&point(-0.0, 89.5), &point(180.0, -90.0)], move |random| {
            point(random.random_range(-180.0..180.0), random.random_range(-90.0..90.0))
        }));
    }
    columns.push(tested(
        "GEOMETRY",
        Oracle::Geometry,
        &["ST_GeomFromText('GEOMETRYCOLLECTION EMPTY')", "ST_GeomFromText('POLYGON((0 0,9 0,9 9,0 0))', 4326)"],
        |_| "ST_GeomFromText('LINESTRING(1 2,3 4,5 6)')".into(),
    ));
    columns.push(tested(
        "VECTOR(3)",
        Oracle::Vector,
        &["STRING_TO_VECTOR('[1,-2.5,0.1]')", "STRING_TO_VECTOR('[3.4028234e38,1.1754944e-38,-0.0]')"],
        |random| format!("STRING_TO_VECTOR('[{},{},{}]')", random.random::<f32>(), random.random::<f32>(), random.random::<f32>()),
    ));
    columns
}

fn integers(columns: &mut Vec<Tested>) {
    for (name, bits) in [("TINYINT", 8), ("SMALLINT", 16), ("MEDIUMINT", 24), ("INT", 32), ("BIGINT", 64)] {
        let (min, max) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
        let edges = [min.to_string(), max.to_string(), "-1".into(), "0".into()];
        let edges: Vec<&str> = edges.iter().map(String::as_str).collect();
        columns.push(tested(name, Oracle::Plain, &edges, move |random| random.random_range(min..=max).to_string()));
        let most = u64::MAX >> (64 - bits);
        let unsigned = format!("{name} UNSIGNED");
        columns.push(tested(&unsigned, Oracle::Plain, &["0", &most.to_string()], move |random| random.random_range(0..=most).to_string()));
    }
    columns.push(tested("TINYINT(1)", Oracle::Plain, &["0", "1", "-128"], |random| random.random_range(0..2).to_string()));
    // Text of a ZEROFILL column is padded, ours is not: the oracle reads it as a number.
    columns.push(tested("INT(10) ZEROFILL", Oracle::Double, &["0", "7"], |random| random.random::<u32>().to_string()));
    columns.push(tested("BIT(1)", Oracle::Bool, &["b'0'", "b'1'"], |random| format!("b'{}'", u8::from(random.random::<bool>()))));
    for bits in [7, 12, 64] {
        let most = u64::MAX >> (64 - bits);
        columns.push(tested(&format!("BIT({bits})"), Oracle::Plain, &["0", &most.to_string()], move |random| {
            random.random_range(0..=most).to_string()
        }));
    }
    columns.push(tested("YEAR", Oracle::Double, &["'0000'", "1901", "2155"], |random| random.random_range(1901..2156).to_string()));
    // Signs of the columns after a YEAR and a BIT must not slip.
    columns.push(tested("BIGINT UNSIGNED", Oracle::Plain, &["18446744073709551615"], |random| random.random::<u64>().to_string()));
}

fn numbers(columns: &mut Vec<Tested>) {
    for (precision, scale) in [(10, 2), (65, 30), (30, 30), (5, 0), (18, 9), (1, 1), (40, 7)] {
        let whole = "9".repeat(precision - scale);
        let nines = format!("{}.{}", if whole.is_empty() { "0" } else { &whole }, if scale > 0 { "9".repeat(scale) } else { "0".into() });
        let edges = ["0".to_owned(), format!("-{nines}"), nines, "0.1".into(), "-0.5".into()];
        let edges: Vec<&str> = edges.iter().map(String::as_str).collect();
        columns.push(tested(&format!("DECIMAL({precision},{scale})"), Oracle::Text, &edges, move |random| {
            let mut digits = |count: usize| {
                (0..random.random_range(0..=count)).map(|_| char::from(random.random_range(b'0'..=b'9'))).collect::<String>()
            };
            format!("0{}.{}0", digits(precision - scale), digits(scale))
        }));
    }
    columns.push(tested("DECIMAL(10,3) ZEROFILL", Oracle::Double, &["0", "1.5", "9999999.999"], |random| {
        random.random_range(0..9_999_999).to_string()
    }));
    let floats = ["0", "-0.0", "0.1", "3.4028234e38", "-1.1754944e-38", "1e-45", "16777217", "123456.789"];
    let float = |random: &mut StdRng| format!("{:e}", Some(f32::from_bits(random.random())).filter(|n| n.is_finite()).unwrap_or(1.5));
    columns.push(tested("FLOAT", Oracle::Float, &floats, float));
    columns.push(tested("FLOAT(7,3)", Oracle::Float, &["0.1", "1234.567", "-9999.999"], |random| {
        random.random_range(-9999.0..9999.0).to_string()
    }));
    columns.push(tested("FLOAT UNSIGNED", Oracle::Float, &["0", "0.3"], |random| random.random::<f32>().to_string()));
    let doubles = ["0", "-0.0", "0.1", "1.7976931348623157e308", "5e-324", "1e16", "9007199254740993", "1e-7"];
    let double = |random: &mut StdRng| format!("{:e}", Some(f64::from_bits(random.random())).filter(|n| n.is_finite()).unwrap_or(1.5));
    columns.push(tested("DOUBLE", Oracle::Double, &doubles, double));
    columns.push(tested("DOUBLE(12,4)", Oracle::Double, &["0.1", "-99999999.9999"], |random| random.random_range(-9e7..9e7).to_string()));
}

fn moments(columns: &mut Vec<Tested>) {
    fn clock(random: &mut StdRng, hours: u32) -> String {
        let (minute, second) = (random.random_range(0..60), random.random_range(0..60));
        format!("{:02}:{minute:02}:{second:02}.{:06}", random.random_range(0..hours), random.random_range(0..1_000_000))
    }
    fn day(random: &mut StdRng, years: std::ops::Range<u32>) -> String {
        format!("{:04}-{:02}-{:02}", random.random_range(years), random.random_range(1..13), random.random_range(1..29))
    }
    let dates = ["'0000-00-00'", "'2024-00-10'", "'2024-02-00'", "'0001-01-01'", "'9999-12-31'", "'2024-02-29'"];
    columns.push(tested("DATE", Oracle::Moment, &dates, |random| format!("'{}'", day(random, 1000..9999))));
    for digits in 0..=6 {
        let times =
            ["'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:00.999999'", "'25:00:00.500000'", "'-01:02:03.4'", "'-00:00:01'"];
        columns.push(tested(&format!("TIME({digits})"), Oracle::Text, &times, |random| {
            format!("'{}{}'", ["", "-"][random.random_range(0..2)], clock(random, 838))
        }));
        let moments = [
            "'0000-00-00 00:00:00'",
            "'2024-00-10 10:11:12'",
            "'2024-01-02 03:04:05.678'",
            "'0001-01-01 00:00:00'",
            "'9999-12-31 23:59:59'",
        ];
        columns.push(tested(&format!("DATETIME({digits})"), Oracle::Moment, &moments, |random| {
            format!("'{} {}'", day(random, 1000..9999), clock(random, 24))
        }));
        let stamps = ["'0000-00-00 00:00:00'", "'1970-01-01 02:00:01'", "'2038-01-19 05:14:07'", "'2024-03-31 02:30:00.123456'"];
        columns.push(tested(&format!("TIMESTAMP({digits})"), Oracle::Moment, &stamps, |random| {
            format!("'{} {}'", day(random, 1971..2038), clock(random, 24))
        }));
    }
}

fn texts(columns: &mut Vec<Tested>) {
    for (charset, alphabet) in [
        ("utf8mb4", "aé€😀\"\\\n\t\u{1}\u{7f}"),
        ("utf8mb3", "aé€ｱ"),
        ("latin1", "aé€ÿ"),
        ("ascii", "a~ 0"),
        ("cp1250", "ažŁ"),
        ("cp1251", "aжЯ"),
        ("koi8r", "aжЯ"),
        ("greek", "aλΩ"),
        ("hebrew", "aא"),
        ("tis620", "aก"),
        ("gbk", "a你好"),
        ("gb2312", "a你好"),
        ("gb18030", "a你😀"),
        ("big5", "a中文•"),
        ("sjis", "aｱ日本"),
        ("cp932", "a①日本"),
        ("ujis", "aｱ日本"),
        ("eucjpms", "aｱ①日"),
        ("euckr", "a한국"),
        ("ucs2", "a€中"),
        ("utf16", "a€😀"),
        ("utf16le", "a€😀"),
        ("utf32", "a€😀"),
    ] {
        let letters: Vec<char> = alphabet.chars().collect();
        let definition = format!("VARCHAR(30) CHARACTER SET {charset}");
        columns.push(tested(&definition, Oracle::Text, &["''", "'trailing  '", &quoted(alphabet)], move |random| {
            quoted(&(0..random.random_range(0..20)).map(|_| letters[random.random_range(0..letters.len())]).collect::<String>())
        }));
    }
    let long = quoted(&"€".repeat(250));
    let wide = |definition: &str| {
        tested(definition, Oracle::Text, &["''", &quoted(&"€".repeat(250)), "'cut  '"], |random| {
            quoted(&"é😀".repeat(random.random_range(0..60)))
        })
    };
    for definition in ["CHAR(255)", "VARCHAR(300)", "TEXT", "MEDIUMTEXT", "LONGTEXT", "VARCHAR(255) CHARACTER SET utf16"] {
        columns.push(wide(definition));
    }
    columns.push(tested("CHAR(10)", Oracle::Text, &["'a'", "''", "'ends in  '"], |random| quoted(&"x".repeat(random.random_range(0..10)))));
    columns.push(tested("CHAR(10) CHARACTER SET gbk", Oracle::Text, &["'你'"], |random| quoted(&"好".repeat(random.random_range(0..10)))));
    columns.push(tested("TINYTEXT", Oracle::Text, &["''", "'tiny'"], |random| quoted(&"t".repeat(random.random_range(0..255)))));
    columns.push(tested("LONGTEXT CHARACTER SET latin1", Oracle::Text, &["REPEAT('é', 70000)", &long], |_| "'ÿ'".into()));
}

fn binaries(columns: &mut Vec<Tested>) {
    for definition in ["BINARY(16)", "BINARY(255)", "VARBINARY(16)", "VARBINARY(300)", "TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB"] {
        let edges = ["X'00'", "X''", "X'0102030000'", "X'FF80FE00112233445566778899AABBCC'"];
        columns.push(tested(definition, Oracle::Hex, &edges, |random| {
            let bytes: String = (0..random.random_range(0..16)).map(|_| format!("{:02X}", random.random::<u8>())).collect();
            format!("X'{bytes}'")
        }));
    }
}

fn labels(columns: &mut Vec<Tested>) {
    let many: Vec<String> = (0..300).map(|label| format!("'label {label}'")).collect();
    columns.push(tested(&format!("ENUM({})", many.join(",")), Oracle::Text, &["'label 0'", "'label 299'"], |random| {
        random.random_range(1..=300).to_string()
    }));
    let awkward = "'a','b,c','d''e','f\"g','😀','é','h\\\\i\\n'";
    columns.push(tested(&format!("ENUM({awkward})"), Oracle::Text, &["'b,c'", "'😀'", "0", "6", "7"], |random| {
        random.random_range(0..=7).to_string()
    }));
    columns.push(tested("ENUM('','x')", Oracle::Text, &["''", "'x'", "0"], |random| random.random_range(0..=2).to_string()));
    for charset in ["latin1", "gbk", "utf16", "ucs2"] {
        let definition = if charset == "gbk" { "ENUM('你','好')" } else { "ENUM('é','ü')" };
        columns.push(tested(&format!("{definition} CHARACTER SET {charset}"), Oracle::Text, &["1", "2", "0"], |random| {
            random.random_range(1..=2).to_string()
        }));
    }
    columns.push(tested("SET('é','ü') CHARACTER SET latin1", Oracle::Text, &["0", "3"], |random| random.random_range(0..4).to_string()));
    columns.push(tested("SET('a','b','c''','😀','\\\\''')", Oracle::Text, &["''", "15", "'a,😀'"], |random| {
        random.random_range(0..16).to_string()
    }));
    let all: Vec<String> = (0..64).map(|label| format!("'s{label}'")).collect();
    columns.push(tested(&format!("SET({})", all.join(",")), Oracle::Text, &["0", "'s63'", "18446744073709551615"], |random| {
        random.random::<u64>().to_string()
    }));
}

fn json_edges() -> Vec<String> {
    let mut edges: Vec<String> = [
        r#"[1.0, 100.0, 1e2, -0, -0.0, 0.0, 1e20, 1e15, 1e14, 1.5e-7, 1e-15, 1e-14, 123456789012345.6, 5e-324, 1.7976931348623157e308]"#,
        r#"[9223372036854775807, 9223372036854775808, 18446744073709551615, 18446744073709551616, -9223372036854775808, -9223372036854775809]"#,
        r#"[32767, 32768, -32768, -32769, 65535, 65536, 2147483647, 2147483648, -2147483648, -2147483649, 4294967295, 4294967296]"#,
        r#"{"": "", "b": 1, "a": 2, "aa": 3, "a": 4, "é": "ü", "k\"e\\y\n": "\u0001\u001f\u007f\u2028 \/ 😀", "sp ace": " : , "}"#,
        r#"[true, false, null, [], {}, [[]], {"a": {}}, "", "x"]"#,
        "null",
        "\"scalar\"",
        "-1.5",
    ]
    .iter()
    .map(|text| quoted(text))
    .collect();
    edges.push(quoted(&format!("{}1{}", "[".repeat(99), "]".repeat(99))));
    edges.push(quoted(&format!("{}1{}", r#"{"a":"#.repeat(99), "}".repeat(99))));
    // Past 64 KiB a document takes the large form, with four bytes for each offset and with more numbers inlined.
    edges.push(quoted(&format!("{{\"big\": \"{}\", \"n\": [1, 70000, -70000, 3000000000]}}", "y".repeat(70_000))));
    edges.push(quoted(&format!("[{}]", (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join(","))));
    edges.push(
        "JSON_ARRAY(CAST('2020-01-02 03:04:05.678' AS DATETIME(3)), CAST('2020-01-02' AS DATE), CAST('-10:11:12.5' AS TIME(1)), \
         CAST('838:59:59' AS TIME), CAST(1.50 AS DECIMAL(10,2)), CAST(-0.001 AS DECIMAL(65,30)), CAST(0 AS DECIMAL(20,10)), b'1010', X'00FF', \
         TIMESTAMP('2020-01-02 03:04:05'), CAST(2020 AS YEAR), TRUE, 1e0, CAST(18446744073709551615 AS UNSIGNED))"
            .into(),
    );
    edges.push(
        "JSON_OBJECT('short', CAST(REPEAT('x', 57) AS BINARY), 'lines', CAST(REPEAT('y', 200) AS BINARY), 'none', CAST('' AS BINARY))"
            .into(),
    );
    edges
}

fn random_json(random: &mut StdRng, depth: usize) -> String {
    match random.random_range(0..if depth == 0 { 6 } else { 9 }) {
        0 => "null".into(),
        1 => random.random::<bool>().to_string(),
        2 => random.random::<i64>().wrapping_shr(random.random_range(0..64)).to_string(),
        3 => random.random::<u64>().to_string(),
        4 => serde_json::to_string(&Some(f64::from_bits(random.random())).filter(|n| n.is_finite()).unwrap_or(0.5)).expect("finite"),
        5 => serde_json::to_string(
            &"aé😀\"\\\n\u{1}".chars().cycle().skip(random.random_range(0..9)).take(random.random_range(0..200)).collect::<String>(),
        )
        .expect("text"),
        6 => (random.random_range(-1000.0..1000.0_f64)).to_string(),
        7 => format!("[{}]", (0..random.random_range(0..5)).map(|_| random_json(random, depth - 1)).collect::<Vec<_>>().join(", ")),
        _ => {
            let members: Vec<String> = (0..random.random_range(0..5))
                .map(|n| format!("\"k{n}{}\": {}", "k".repeat(n % 3), random_json(random, depth - 1)))
                .collect();
            format!("{{{}}}", members.join(", "))
        }
    }
}

/// A string literal of SQL (with backslash escapes, which sql_mode '' allows).
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn create_table(table: &str, nullable: bool, columns: &[Tested]) -> String {
    let null = if nullable { "NULL" } else { "NOT NULL" };
    let list: Vec<String> = columns.iter().enumerate().map(|(index, column)| format!("c{index} {} {null}", column.definition)).collect();
    format!(
        "CREATE TABLE {table} ({}, id INT NOT NULL, twice INT GENERATED ALWAYS AS (id * 2) VIRTUAL, thrice INT GENERATED ALWAYS AS (id * 3) STORED, \
         hidden INT NOT NULL DEFAULT 7 INVISIBLE, PRIMARY KEY (id)) CHARACTER SET utf8mb4",
        list.join(", ")
    )
}

async fn write_rows(sql: &mut Conn, table: &str, nullable: bool, first_id: i64, columns: &[Tested], random: &mut StdRng) {
    let edge_rows = columns.iter().map(|column| column.edges.len()).max().unwrap_or(0);
    let names: Vec<String> = (0..columns.len()).map(|index| format!("c{index}")).collect();
    for row in 0..edge_rows + RANDOM_ROWS + 1 {
        let value = |column: &Tested| {
            if nullable && (row == edge_rows || row > edge_rows && random.random_ratio(1, 10)) {
                return "NULL".to_owned();
            }
            if row < edge_rows { column.edges[row % column.edges.len()].clone() } else { (column.random)(random) }
        };
        let values: Vec<String> = columns.iter().map(value).collect();
        let insert = format!("INSERT INTO {table} ({}, id) VALUES ({}, {})", names.join(","), values.join(","), first_id + row as i64);
        sql.query_drop(&insert).await.unwrap_or_else(|error| panic!("{error}: {insert:.3000}"));
    }
    // Changes of the key, of nothing but one column, of columns to NULL and back, and deletes.
    sql.query_drop(format!("UPDATE {table} SET id = id + 5000 WHERE id % 5 = 0 AND id >= {first_id}")).await.expect("update");
    sql.query_drop(format!("UPDATE {table} SET hidden = id WHERE id % 3 = 0 AND id >= {first_id}")).await.expect("update");
    sql.query_drop(format!("DELETE FROM {table} WHERE id % 7 = 0 AND id >= {first_id}")).await.expect("delete");
}

// === the three ways to read ===

struct Streamed {
    schema: Schema,
    rows: BTreeMap<i64, String>,
    partial_events: usize,
}

async fn connect(server: OptsBuilder, setup: &[&str]) -> Conn {
    let mut conn = Conn::new(Opts::from(server)).await.expect("connect");
    for statement in setup {
        conn.query_drop(*statement).await.expect(statement);
    }
    conn
}

async fn position(sql: &mut Conn) -> (String, u64) {
    let status: Row = sql.query_first("SHOW BINARY LOG STATUS").await.expect("status").expect("binlog is on");
    (status.get(0).expect("file"), status.get(1).expect("position"))
}

/// Folds the changes of a table from a position to the end of the binlog.
async fn stream(server: OptsBuilder, database: &str, table: &str, (file, from): &(String, u64), known: &Schema) -> Streamed {
    let request = BinlogStreamRequest::new(std::process::id()).with_filename(file.as_bytes()).with_pos(*from).with_non_blocking();
    let mut events = connect(server, &[]).await.get_binlog_stream(request).await.expect("binlog");
    let mut streamed = Streamed { schema: known.clone(), rows: BTreeMap::new(), partial_events: 0 };
    let mut reader: Option<(u64, JsonRows)> = None;
    while let Some(event) = events.next().await {
        let event = event.expect("event");
        let code = event.header().event_type_raw();
        match code {
            19 => {
                let (_, its_database, its_table) = TableMap::name(event.data()).expect("identity");
                if (its_database, its_table) == (database.as_bytes(), table.as_bytes()) {
                    let map = TableMap::parse(event.data()).expect("table map");
                    assert_eq!(map.has_names(), known.columns.is_empty(), "the metadata the test asked for");
                    streamed.schema = map.schema(known).expect("schema");
                    let shape = Shape::new(&streamed.schema, &plan(database, table)).expect("shape");
                    reader = Some((map.table_id, JsonRows::new(&map, shape).expect("reader")));
                }
            }
            23..=25 | 30..=32 | 39 => {
                let rows = RowsEvent::parse(code, event.data()).expect("rows event");
                let Some((_, reader)) = reader.as_mut().filter(|(id, _)| *id == rows.table_id()) else { continue };
                streamed.partial_events += usize::from(code == 39);
                let fold = |change| apply(&mut streamed.rows, change);
                reader.changes(TableId(0), &rows, fold).expect("rows");
            }
            _ => {}
        }
    }
    events.close().await.expect("close");
    streamed
}

fn apply(rows: &mut BTreeMap<i64, String>, change: Change) {
    let number = |key: &larder::model::Key| std::str::from_utf8(key.as_bytes()).expect("text").parse::<i64>().expect("id");
    match change {
        Change::Upsert { old_key, key, row, .. } => {
            if let Some(old) = old_key {
                assert_ne!(old, key);
                rows.remove(&number(&old)).expect("the row that moved");
            }
            rows.insert(number(&key), String::from_utf8(row.json().to_vec()).expect("UTF-8"));
        }
        Change::Delete { key, .. } => drop(rows.remove(&number(&key)).expect("the row deleted")),
        Change::Truncate { .. } => rows.clear(),
    }
}

async fn snapshot(server: OptsBuilder, database: &str, table: &str, schema: &Schema) -> BTreeMap<i64, String> {
    let mut conn = connect(server, &["SET character_set_results = NULL, time_zone = '+00:00'"]).await;
    let mut shape = Shape::new(schema, &plan(database, table)).expect("shape");
    let columns: Vec<String> = schema.columns.iter().map(|column| result::select_expression(&column.name, &column.kind)).collect();
    let rows: Vec<Row> = conn.exec(format!("SELECT {} FROM {database}.{table}", columns.join(", ")), ()).await.expect("snapshot");
    let mut snapshot = BTreeMap::new();
    for row in rows {
        let values = row.unwrap();
        shape.begin();
        for (index, (sent, column)) in values.iter().zip(&schema.columns).enumerate() {
            let value = result::value(sent, column, InvalidText::Stop).expect("value");
            shape.push(index, &value).expect("render");
        }
        let (key, row) = shape.finish();
        apply(&mut snapshot, Change::Upsert { table: TableId(0), old_key: None, key, row });
    }
    conn.disconnect().await.expect("disconnect");
    snapshot
}

fn same_rows(snapshot: &BTreeMap<i64, String>, streamed: &BTreeMap<i64, String>) {
    assert_eq!(snapshot.keys().collect::<Vec<_>>(), streamed.keys().collect::<Vec<_>>());
    for (id, row) in snapshot {
        if *row != streamed[id] {
            let at = row.bytes().zip(streamed[id].bytes()).position(|(a, b)| a != b).unwrap_or(0);
            let around =
                |text: &str| String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(80)..(at + 80).min(text.len())]).into_owned();
            panic!("row {id} differs at byte {at}:\nsnapshot {}\nstream   {}", around(row), around(&streamed[id]));
        }
    }
}

/// Asks the server for each value in an independent form and compares.
async fn compare_with_select(
    server: OptsBuilder,
    database: &str,
    table: &str,
    nullable: bool,
    columns: &[Tested],
    rows: &BTreeMap<i64, String>,
) {
    let mut conn = connect(server, &["SET NAMES utf8mb4", "SET time_zone = '+00:00'"]).await;
    for (index, column) in columns.iter().enumerate() {
        let name = format!("c{index}");
        let expression = match column.oracle {
            Oracle::Plain | Oracle::Bool => {
                format!("CAST(CAST({name} AS {}) AS CHAR)", if column.definition.contains("BIT") { "UNSIGNED" } else { "DECIMAL(20)" })
            }
            Oracle::Text | Oracle::Moment => format!("CONVERT(CAST({name} AS CHAR) USING utf8mb4)"),
            Oracle::Float | Oracle::Double => format!("CAST(CAST(CAST({name} AS DOUBLE) AS JSON) AS CHAR)"),
            Oracle::Hex | Oracle::Vector => format!("HEX({name})"),
            Oracle::Json => format!("CAST({name} AS CHAR)"),
            Oracle::Geometry => format!("CONCAT(ST_SRID({name}), ' ', HEX(ST_AsWKB({name}, 'axis-order=long-lat')))"),
        };
        let answers: Vec<(i64, Option<String>)> =
            conn.query(format!("SELECT id, {expression} FROM {database}.{table}")).await.expect("oracle");
        let mut compared = 0;
        for (id, theirs) in answers {
            let Some(row) = rows.get(&id) else { continue };
            compared += 1;
            let row: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(row).expect("a row is JSON");
            let ours = row[&name].get();
            let same = match &theirs {
                None => ours == "null",
                Some(theirs) => same_value(column.oracle, nullable, ours, theirs),
            };
            assert!(same, "{table}.{name} {}, row {id}: we say {ours:.300}, the server {theirs:.300?}", column.definition);
        }
        assert_eq!(compared, rows.len());
    }
    conn.disconnect().await.expect("disconnect");
}

fn same_value(oracle: Oracle, nullable: bool, ours: &str, theirs: &str) -> bool {
    let text = || serde_json::from_str::<String>(ours).expect("a JSON string");
    let bytes =
        |hex: &str| -> Vec<u8> { (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex")).collect() };
    match oracle {
        Oracle::Plain => ours == theirs,
        Oracle::Bool => ours == if theirs == "1" { "true" } else { "false" },
        Oracle::Text => text() == theirs,
        Oracle::Moment => {
            let date = theirs.split(' ').next().unwrap_or_default();
            let zero = date.contains("-00-") || date.ends_with("-00");
            if zero && nullable { ours == "null" } else { text().replace('T', " ").trim_end_matches('Z') == theirs }
        }
        Oracle::Float => ours.parse::<f32>().expect("number").to_bits() == (theirs.parse::<f64>().expect("number") as f32).to_bits(),
        Oracle::Double => {
            ours.trim_matches('"').parse::<f64>().expect("number").to_bits() == theirs.parse::<f64>().expect("number").to_bits()
        }
        Oracle::Hex => STANDARD.decode(text()).expect("base64") == bytes(theirs),
        Oracle::Json => ours == without_blanks(theirs),
        Oracle::Geometry => {
            let (srid, wkb) = theirs.split_once(' ').expect("two parts");
            ours == format!(r#"{{"wkb":"{}","srid":{srid}}}"#, STANDARD.encode(bytes(wkb)))
        }
        Oracle::Vector => {
            let floats: Vec<f32> = serde_json::from_str(ours).expect("numbers");
            floats.iter().flat_map(|float| float.to_le_bytes()).collect::<Vec<_>>() == bytes(theirs)
        }
    }
}

/// JSON text without the blanks outside strings, found character by character.
pub fn without_blanks(text: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keep = |&character: &char| {
        let kept = inside || character != ' ';
        match character {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
        kept
    };
    text.chars().filter(keep).collect()
}

fn plan(database: &str, table: &str) -> TablePlan {
    TablePlan::new(table, database, table)
}
