//! Values that other tools got wrong (group T of the cases), each written down as it must look in a row, seen by a capture that was
//! there when it was written (the stream) and by one that came afterwards (the snapshot), with names in the binlog and without.

use std::time::Duration;

use larder::table::State;

use crate::capture::{Capture, sections};
use crate::ddl::servers;
use crate::support::{Mysql, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// Makes table `items` by `create` and fills it by `write`; its rows must then be `expected`, as key and JSON, on both ways. `look` is
/// told each capture.
fn both_ways(mysql: &Mysql, create: &str, write: &str, expected: &[(&str, &str)], look: impl Fn(&Capture)) {
    let database = mysql.database("values");
    let source = format!("{database}.items");
    let mut session = mysql.session();
    session.exec(&format!("use {database}; set sql_mode = '', time_zone = '+03:00'; {create}"));
    let stream = Capture::of(mysql, &[&source]);
    session.exec(write);
    let check = |capture: &Capture, way: &str| {
        wait_for(&format!("the {way} of {create}"), SOON, || {
            if let State::Stopped { message, .. } = capture.state("items") {
                panic!("{message}");
            }
            for (key, json) in expected {
                let found = capture.row("items", key);
                if found.as_deref() != Some(*json) {
                    return Err(format!("row {key} is\n     {found:?}, not\n     {json}"));
                }
            }
            let rows = capture.tables.summaries()[0].rows;
            if rows == expected.len() { Ok(()) } else { Err(format!("{rows} rows")) }
        });
        look(capture);
    };
    check(&stream, "stream");
    let snapshot = Capture::with(&mysql.config(), &sections(&[&source]));
    snapshot.wait_ready();
    check(&snapshot, "snapshot");
}

#[test]
fn t01_integers_at_their_ends() {
    for mysql in servers() {
        let kinds = ["tinyint", "smallint", "mediumint", "int", "bigint"];
        let columns: String = kinds.iter().map(|kind| format!(", {kind}_s {kind}, {kind}_u {kind} unsigned")).collect();
        both_ways(
            mysql,
            &format!("create table items (k bigint unsigned primary key{columns})"),
            "insert into items values (0, -128, 0, -32768, 0, -8388608, 0, -2147483648, 0, -9223372036854775808, 0), \
             (5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1); \
             update items set k = 18446744073709551615, tinyint_s = 127, tinyint_u = 255, smallint_s = 32767, smallint_u = 65535, \
             mediumint_s = 8388607, mediumint_u = 16777215, int_s = 2147483647, int_u = 4294967295, bigint_s = 9223372036854775807, \
             bigint_u = 18446744073709551615 where k = 5",
            &[
                (
                    "0",
                    r#"{"k":0,"tinyint_s":-128,"tinyint_u":0,"smallint_s":-32768,"smallint_u":0,"mediumint_s":-8388608,"mediumint_u":0,"int_s":-2147483648,"int_u":0,"bigint_s":-9223372036854775808,"bigint_u":0}"#,
                ),
                (
                    "18446744073709551615",
                    r#"{"k":18446744073709551615,"tinyint_s":127,"tinyint_u":255,"smallint_s":32767,"smallint_u":65535,"mediumint_s":8388607,"mediumint_u":16777215,"int_s":2147483647,"int_u":4294967295,"bigint_s":9223372036854775807,"bigint_u":18446744073709551615}"#,
                ),
            ],
            |_| {},
        );
    }
}

#[test]
fn t08_dates_that_are_none() {
    for mysql in servers() {
        both_ways(
            mysql,
            "create table items (id int primary key, d date, dn date not null, m datetime(3), mn datetime(3) not null, t timestamp(2) null, tn timestamp(2) not null)",
            "insert into items values (1, '0000-00-00', '0000-00-00', '0000-00-00 00:00:00', '0000-00-00 00:00:00', '0000-00-00 00:00:00', '0000-00-00 00:00:00'), \
             (2, '2024-00-10', '2024-00-10', '2024-02-00 01:02:03.5', '2024-02-00 01:02:03.5', null, '2024-01-02 03:04:05.67')",
            &[
                (
                    "1",
                    r#"{"id":1,"d":null,"dn":"0000-00-00","m":null,"mn":"0000-00-00 00:00:00.000","t":null,"tn":"0000-00-00 00:00:00.00"}"#,
                ),
                (
                    "2",
                    r#"{"id":2,"d":null,"dn":"2024-00-10","m":null,"mn":"2024-02-00 01:02:03.500","t":null,"tn":"2024-01-02T00:04:05.67Z"}"#,
                ),
            ],
            |capture| assert_eq!(capture.status.zero_dates(), 10),
        );
    }
}

#[test]
fn t14_labels_with_commas_quotes_and_nothing() {
    let many: Vec<String> = (1..=300).map(|label| format!("'l{label}'")).collect();
    for (mysql, emoji) in servers().into_iter().zip(["😀", "€"]) {
        both_ways(
            mysql,
            &format!(
                "create table items (id int primary key, e enum('a,b', 'it''s', 'q\"q', '{emoji}', 'back\\\\slash'), n enum('', 'x') , m enum({}), s set('a', 'b c', '{emoji}'))",
                many.join(", ")
            ),
            &format!(
                "insert into items values (1, 'a,b', '', 'l300', 'a,{emoji}'), (2, 'it''s', 'x', 'l256', ''), (3, 'q\"q', 'none', 'l1', 'b c'), (4, 'none', 0, 0, 7), (5, '{emoji}', null, null, null), (6, 'back\\\\slash', 1, 255, 1)"
            ),
            &[
                ("1", &format!(r#"{{"id":1,"e":"a,b","n":"","m":"l300","s":"a,{emoji}"}}"#)),
                ("2", r#"{"id":2,"e":"it's","n":"x","m":"l256","s":""}"#),
                ("3", r#"{"id":3,"e":"q\"q","n":"","m":"l1","s":"b c"}"#),
                ("4", &format!(r#"{{"id":4,"e":"","n":"","m":"","s":"a,b c,{emoji}"}}"#)),
                ("5", &format!(r#"{{"id":5,"e":"{emoji}","n":null,"m":null,"s":null}}"#)),
                ("6", r#"{"id":6,"e":"back\\slash","n":"","m":"l255","s":"a"}"#),
            ],
            // Of `n` nobody can tell index 0 from the empty label.
            |capture| assert_eq!(capture.status.invalid_enums(), 2),
        );
    }
}

#[test]
fn t16_json_numbers_opaque_values_and_depth() {
    let deep = format!("{}1{}", r#"[{"a":"#.repeat(49), "}]".repeat(49));
    for mysql in servers() {
        both_ways(
            mysql,
            "create table items (id int primary key, j json)",
            &format!(
                r#"insert into items values (1, '[1.0, 1e2, -0, -0.0, 100.0, 9223372036854775807, 9223372036854775808, 18446744073709551615, 18446744073709551616]'),
                (2, json_array(cast(1.50 as decimal(10,2)), cast('2020-01-02 03:04:05.678' as datetime(3)), cast('2020-01-02' as date), cast('-10:11:12.5' as time(1)), x'00ff', b'101')),
                (3, '{{"b": 1, "a": 2, "aa": 3, "a": 4, "u": "\\u00e9\\ud83d\\ude00\\u0001\\/"}}'), (4, '{deep}'), (5, 'null'), (6, null), (7, '"text"')"#
            ),
            &[
                (
                    "1",
                    r#"{"id":1,"j":[1.0,100.0,0,-0.0,100.0,9223372036854775807,9223372036854775808,18446744073709551615,1.8446744073709552e19]}"#,
                ),
                (
                    "2",
                    r#"{"id":2,"j":[1.50,"2020-01-02 03:04:05.678000","2020-01-02","-10:11:12.500000","base64:type15:AP8=","base64:type15:BQ=="]}"#,
                ),
                ("3", r#"{"id":3,"j":{"a":4,"b":1,"u":"é😀\u0001/","aa":3}}"#),
                ("4", &format!(r#"{{"id":4,"j":{deep}}}"#)),
                ("5", r#"{"id":5,"j":null}"#),
                ("6", r#"{"id":6,"j":null}"#),
                ("7", r#"{"id":7,"j":"text"}"#),
            ],
            |_| {},
        );
    }
}

#[test]
fn t16_a_document_of_64_mb() {
    let mysql = Mysql::start(&["--max-allowed-packet=256M"]);
    let database = mysql.database("values");
    mysql.exec(&format!("create table {database}.items (id int primary key, j json)"));
    let stream = Capture::of(&mysql, &[&format!("{database}.items")]);
    let text = 64 << 20;
    mysql.exec(&format!(
        "set session cte_max_recursion_depth = 300000; insert into {database}.items values (1, json_object('text', repeat('é\"', {}), 'end', 1)); \
         insert into {database}.items with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000) select 2, json_arrayagg(i) from n; \
         insert into {database}.items values (3, 'true')",
        text / 3
    ));
    stream.wait_row("items", "3", Some(r#"{"id":3,"j":true}"#));
    let snapshot = Capture::of(&mysql, &[&format!("{database}.items")]);
    let large = stream.row("items", "1").expect("the large row");
    assert_eq!(large, format!(r#"{{"id":1,"j":{{"end":1,"text":"{}"}}}}"#, "é\\\"".repeat(text / 3)), "{} bytes", large.len());
    for key in ["1", "2"] {
        assert!(stream.row("items", key) == snapshot.row("items", key), "row {key} differs");
    }
    assert_eq!(stream.row("items", "2").expect("the array").matches(',').count(), 200_000);
}

#[test]
fn t22_binary_keys_and_values_that_end_in_zero() {
    for mysql in servers() {
        both_ways(
            mysql,
            "create table items (k binary(4) primary key, v varbinary(4), w binary(3), unique (v))",
            "insert into items values (x'01020000', x'0100', x'00'), (x'00000000', x'', x''), (x'ff', x'ff00ff00', null); \
             update items set k = x'0a000000' where v = x'ff00ff00'",
            &[
                ("AQIAAA==", r#"{"k":"AQIAAA==","v":"AQA=","w":"AAAA"}"#),
                ("AAAAAA==", r#"{"k":"AAAAAA==","v":"","w":"AAAA"}"#),
                ("CgAAAA==", r#"{"k":"CgAAAA==","v":"/wD/AA==","w":null}"#),
            ],
            |_| {},
        );
    }
}
