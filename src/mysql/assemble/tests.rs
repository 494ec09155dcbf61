//! The assembler on hand-made events, without a server.

use proptest::prelude::*;

use super::*;
use crate::model::Change;
use crate::model::{Column, ColumnType};
use crate::mysql::rows::JsonMaker;

const UUID: &str = "3e3e3e3e-3e3e-3e3e-3e3e-3e3e3e3e3e3e";
const TABLE: TableId = TableId(0);

fn plan() -> TablePlan {
    TablePlan::new("items", "shop", "items")
}

/// `id INT`, and as many further columns `c1`, `c2`, …
fn schema(more: usize) -> Schema {
    let column = |name: String, nullable| Column { name, kind: ColumnType::Integer { bytes: 4, unsigned: false }, nullable };
    let mut columns = vec![column("id".into(), false)];
    columns.extend((1..=more).map(|index| column(format!("c{index}"), true)));
    Schema { columns, key: vec![0] }
}

fn at(offset: u64) -> Position {
    Position { server_uuid: UUID.into(), file: "binlog.000001".into(), offset, gtids: Some(Arc::default()) }
}

/// An assembler with its events, which lie 100 bytes apart.
struct Stream {
    assembler: Assembler<JsonMaker>,
    end: u32,
    gtid: u64,
}

impl Stream {
    /// The table was read, and is ready at `until`.
    fn until(until: u64) -> Self {
        let mut assembler = Assembler::new(JsonMaker, &[plan()], at(100), false, 1 << 20);
        assembler.loaded(TABLE, schema(0), at(until));
        Self { assembler, end: 100, gtid: 0 }
    }

    fn following() -> Self {
        let mut stream = Self::until(100);
        stream.take(kind::PREVIOUS_GTIDS, &[]).expect("an event");
        assert_eq!(stream.steps(), ["ready"]);
        stream
    }

    fn take(&mut self, kind: u8, body: &[u8]) -> Result<(), Broken> {
        if kind != kind::PREVIOUS_GTIDS {
            self.end += 100;
        }
        self.assembler.event(&RawEvent { kind, flags: 0, timestamp: 0, server_id: 0, size: 100, end: self.end, body })
    }

    fn inner(&mut self, kind: u8, size: u32, body: &[u8]) -> Result<(), Broken> {
        self.assembler.event(&RawEvent { kind, flags: 0, timestamp: 0, server_id: 0, size, end: 0, body })
    }

    fn begin(&mut self) {
        self.gtid += 1;
        let mut body = vec![1];
        body.extend([0x3e; 16]);
        body.extend(self.gtid.to_le_bytes());
        self.take(kind::GTID, &body).expect("an event");
        self.query("BEGIN");
    }

    fn query(&mut self, text: &str) {
        self.take(kind::QUERY, &query(text)).expect("an event");
    }

    /// A transaction that inserts rows.
    fn insert(&mut self, columns: usize, ids: &[i32]) {
        self.begin();
        self.take(kind::TABLE_MAP, &table_map(columns)).expect("an event");
        self.take(kind::WRITE_ROWS, &rows(columns, ids)).expect("an event");
        self.take(kind::XID, &[0; 8]).expect("an event");
    }

    /// A statement that is a transaction by itself.
    fn ddl(&mut self, text: &str) {
        self.gtid += 1;
        let mut body = vec![1];
        body.extend([0x3e; 16]);
        body.extend(self.gtid.to_le_bytes());
        self.take(kind::GTID, &body).expect("an event");
        self.query(text);
    }

    fn steps(&mut self) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some(step) = self.assembler.next_step() {
            steps.push(match step {
                Step::Apply(transaction) => {
                    let keys: Vec<String> = transaction.changes.iter().map(text).collect();
                    format!("{} {}", transaction.id.rsplit(':').next().unwrap_or_default(), keys.join(" "))
                }
                Step::Ready(_) => "ready".into(),
                Step::Stop { reason, .. } => format!("stop {reason}"),
                Step::Reload(_) => "reload".into(),
                Step::Rewind(_) => "rewind".into(),
                Step::Part { .. } => "part".into(),
                Step::Columns(_) => "columns".into(),
                // Every first table map under a number: see the test of them.
                Step::Check(_) => continue,
            });
        }
        steps
    }
}

fn text(change: &Change) -> String {
    match change {
        Change::Upsert { row, .. } => String::from_utf8_lossy(row.json()).into_owned(),
        Change::Delete { key, .. } => format!("-{}", String::from_utf8_lossy(key.as_bytes())),
        Change::Truncate { .. } => "truncate".into(),
    }
}

fn query(text: &str) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.push(4);
    body.extend([0; 4]);
    body.extend(b"shop\0");
    body.extend(text.as_bytes());
    body
}

/// A table map with minimal metadata: INT columns, all but the first nullable.
fn table_map(more: usize) -> Vec<u8> {
    let count = more + 1;
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 4];
    body.extend(b"shop\0\x05items\0");
    body.push(count as u8);
    body.extend(vec![3; count]);
    body.push(0);
    body.push(((1u16 << count) - 2) as u8);
    body.extend([1, 1, 0]);
    body
}

/// Rows of these ids, every further column 9.
fn rows(more: usize, ids: &[i32]) -> Vec<u8> {
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 2, 0, more as u8 + 1, 0xff];
    for id in ids {
        body.push(0);
        body.extend(id.to_le_bytes());
        (0..more).for_each(|_| body.extend(9i32.to_le_bytes()));
    }
    body
}

#[test]
fn a_transaction_comes_out_whole_or_not_at_all() {
    let mut stream = Stream::following();
    stream.begin();
    stream.take(kind::TABLE_MAP, &table_map(0)).expect("an event");
    stream.take(kind::WRITE_ROWS, &rows(0, &[1, 2])).expect("an event");
    assert!(stream.steps().is_empty());
    stream.take(kind::XID, &[0; 8]).expect("an event");
    assert_eq!(stream.steps(), [r#"1 {"id":1} {"id":2}"#]);
    let position = stream.assembler.position().clone();
    assert_eq!((position.offset, position.gtids.expect("GTIDs").to_string()), (600, format!("{UUID}:1")));
    stream.begin();
    stream.take(kind::TABLE_MAP, &table_map(0)).expect("an event");
    stream.take(kind::WRITE_ROWS, &rows(0, &[3])).expect("an event");
    stream.assembler.reconnected();
    assert_eq!(stream.assembler.position().offset, 600, "only the tail after the last whole transaction is read again");
    assert!(stream.steps().is_empty());
}

#[test]
fn a_transaction_that_does_not_end_is_damage() {
    let mut stream = Stream::following();
    stream.begin();
    let mut body = vec![1; 17];
    body.extend(9u64.to_le_bytes());
    assert!(matches!(stream.take(kind::GTID, &body), Err(Broken::Damaged { .. })));
}

#[test]
fn d30_table_maps_end_with_their_file() {
    let mut stream = Stream::following();
    stream.insert(0, &[1]);
    stream.take(kind::FORMAT_DESCRIPTION, &[]).expect("an event");
    stream.begin();
    assert!(matches!(stream.take(kind::WRITE_ROWS, &rows(0, &[2])), Err(Broken::Damaged { .. })));
}

#[test]
fn a_table_catches_up_and_is_read_again_if_it_was_changed_meanwhile() {
    let mut stream = Stream::until(100 + 5 * 100 + 5 * 100 + 2 * 100);
    // Rows under other columns are in the view already.
    stream.begin();
    stream.take(kind::TABLE_MAP, &table_map(1)).expect("an event");
    stream.take(kind::WRITE_ROWS, &rows(1, &[1])).expect("an event");
    stream.query("COMMIT");
    assert!(stream.steps().is_empty());
    stream.insert(0, &[2]);
    assert_eq!(stream.steps(), [r#"2 {"id":2}"#]);
    // Row 2 lies over the view, which contains this statement: only reading again can tell.
    stream.ddl("TRUNCATE items");
    assert_eq!(stream.steps(), ["reload"]);
    stream.assembler.loaded(TABLE, schema(0), at(u64::from(stream.end)));
    assert_eq!(stream.steps(), ["ready"], "the view holds nothing beyond this place");
}

#[test]
fn d27_a_resumed_table_has_everything_after_its_position_still_to_come() {
    let resumed = |until| {
        let mut assembler = Assembler::new(JsonMaker, &[plan()], at(100), false, 1 << 20);
        assembler.resumed(TABLE, schema(0), at(until));
        Stream { assembler, end: 100, gtid: 0 }
    };
    let mut stream = resumed(900);
    assert!(stream.steps().is_empty() && !stream.assembler.is_settled());
    stream.insert(0, &[1]);
    assert_eq!(stream.steps(), [r#"1 {"id":1}"#]);
    stream.insert(0, &[2]);
    assert_eq!(stream.steps(), [r#"2 {"id":2}"#, "ready"]);
    assert!(stream.assembler.is_settled());
    stream.insert(0, &[3]);
    assert_eq!(stream.steps(), [r#"3 {"id":3}"#]);

    // A statement is in no view: it acts at its place, also before any row.
    let mut stream = resumed(900);
    stream.ddl("ALTER TABLE items ADD COLUMN c1 INT");
    assert_eq!(stream.steps(), ["reload"]);
    stream.insert(1, &[1]);
    assert!(stream.steps().is_empty());
    stream.assembler.loaded(TABLE, schema(1), at(1500));
    stream.insert(1, &[2]);
    assert_eq!(stream.steps(), [r#"3 {"id":2,"c1":9}"#]);
    stream.insert(1, &[3]);
    assert_eq!(stream.steps(), [r#"4 {"id":3,"c1":9}"#, "ready"]);

    let mut stream = resumed(900);
    stream.ddl("TRUNCATE TABLE items");
    assert_eq!(stream.steps(), ["1 truncate"]);
    stream.ddl("DROP TABLE items");
    assert_eq!(stream.steps(), ["stop table-dropped"]);
    stream.insert(0, &[1]);
    stream.insert(0, &[1]);
    assert!(stream.steps().is_empty());

    // Rows of other columns without a statement are not taken for rows that a view has already.
    let mut stream = resumed(900);
    stream.begin();
    stream.take(kind::TABLE_MAP, &table_map(1)).expect("an event");
    assert_eq!(stream.steps(), ["rewind"]);
}

#[test]
fn statements_in_the_view_alone_change_nothing() {
    let mut stream = Stream::until(100 + 5 * 100);
    stream.ddl("ALTER TABLE items ADD COLUMN x INT");
    assert!(stream.steps().is_empty());
    stream.insert(0, &[2]);
    assert_eq!(stream.steps(), [r#"2 {"id":2}"#, "ready"]);
}

#[test]
fn statements_act_on_a_table_that_follows() {
    let mut stream = Stream::following();
    stream.ddl("TRUNCATE items");
    for text in [
        "ALTER TABLE other.items ADD COLUMN x INT",
        "ALTER TABLE items ADD INDEX (id), ENGINE=InnoDB",
        "DROP INDEX i ON items",
        "CREATE TABLE IF NOT EXISTS items (id INT PRIMARY KEY)",
        "RENAME TABLE other.items TO other.goods",
    ] {
        stream.ddl(text);
    }
    assert_eq!(stream.steps(), ["1 truncate"]);
    stream.ddl("ALTER TABLE items ADD COLUMN x INT");
    assert_eq!(stream.steps(), ["reload"]);
    stream.assembler.loaded(TABLE, schema(1), at(u64::from(stream.end)));
    stream.insert(1, &[1]);
    assert_eq!(stream.steps(), ["ready", r#"8 {"id":1,"c1":9}"#]);
    stream.ddl("DROP TABLE items");
    stream.insert(1, &[2]);
    assert_eq!(stream.steps(), ["stop table-dropped"]);
    stream.ddl("CREATE INDEX i ON items (id)");
    assert_eq!(stream.steps(), ["reload"], "what could not be read may be readable now");
}

#[test]
fn d09_names_that_change_hands() {
    for (text, expected) in [
        ("RENAME TABLE items TO old_items, new_items TO items", "reload"),
        ("RENAME TABLE items TO x, y TO items, x TO y", "reload"),
        ("RENAME TABLE new_items TO items, items TO z", "stop table-dropped"),
        ("ALTER TABLE items RENAME z, ADD COLUMN c INT", "stop table-dropped"),
        ("ALTER TABLE z RENAME items", "reload"),
    ] {
        let mut stream = Stream::following();
        stream.ddl(text);
        assert_eq!(stream.steps(), [expected], "{text}");
    }
}

#[test]
fn a_table_created_with_rows_is_one_transaction() {
    let mut stream = Stream::following();
    stream.ddl("DROP TABLE items");
    assert_eq!(stream.steps(), ["stop table-dropped"]);
    stream.ddl("CREATE TABLE items (id INT PRIMARY KEY) START TRANSACTION");
    stream.take(kind::TABLE_MAP, &table_map(0)).expect("an event");
    stream.take(kind::WRITE_ROWS, &rows(0, &[1])).expect("an event");
    assert!(stream.steps().is_empty(), "it is not whole");
    stream.take(kind::XID, &[0; 8]).expect("an event");
    assert_eq!(stream.steps(), ["reload"]);
}

#[test]
fn an_index_dropped_counts_where_the_key_is_configured() {
    let mut stream = Stream::following();
    stream.assembler.tables[0].plan.key = Some(vec!["id".into()]);
    stream.ddl("ALTER TABLE items ADD INDEX (id)");
    assert!(stream.steps().is_empty());
    stream.ddl("ALTER TABLE items DROP INDEX id");
    assert_eq!(stream.steps(), ["reload"]);
}

#[test]
fn d22_rows_of_other_columns_without_a_statement() {
    let mut stream = Stream::following();
    for _ in 0..MAX_DISAGREEMENTS {
        stream.begin();
        stream.take(kind::TABLE_MAP, &table_map(1)).expect("an event");
        assert_eq!(stream.steps(), ["rewind"]);
        stream.assembler.loaded(TABLE, schema(0), at(0));
        stream.assembler.reconnected();
        stream.steps();
    }
    // The catalogue keeps saying something else than the rows.
    stream.insert(1, &[1]);
    assert_eq!(stream.steps(), ["stop schema-mismatch"]);
}

#[test]
fn d22_columns_are_looked_up_for_every_number_of_a_table_that_names_none() {
    let checks =
        |stream: &mut Stream| std::iter::from_fn(|| stream.assembler.next_step()).filter(|step| matches!(step, Step::Check(_))).count();
    let mut stream = Stream::following();
    stream.insert(0, &[1]);
    assert_eq!(checks(&mut stream), 1);
    stream.insert(0, &[2]);
    assert_eq!(checks(&mut stream), 0, "known by its number");
    let mut other = table_map(0);
    other[0] += 1;
    stream.begin();
    stream.take(kind::TABLE_MAP, &other).expect("an event");
    assert_eq!(checks(&mut stream), 1);
    stream.assembler.doubt(TABLE);
    stream.assembler.reconnected();
    stream.assembler.loaded(TABLE, schema(1), at(u64::from(stream.end)));
    stream.end += 100;
    stream.insert(1, &[3]);
    assert_eq!(checks(&mut stream), 0, "while it catches up the view is newer than the rows");
    stream.insert(1, &[4]);
    assert_eq!(checks(&mut stream), 1);
    // The server was started again: numbers begin anew.
    stream.take(kind::FORMAT_DESCRIPTION, &[]).expect("an event");
    stream.insert(1, &[5]);
    assert_eq!(checks(&mut stream), 1);
}

#[test]
fn b21_xa_transactions() {
    let mut prepared = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    prepared.push(b'a');
    let mut stream = Stream::following();
    stream.begin();
    stream.take(kind::TABLE_MAP, &table_map(0)).expect("an event");
    stream.take(kind::WRITE_ROWS, &rows(0, &[1])).expect("an event");
    stream.take(kind::XA_PREPARE, &prepared).expect("an event");
    assert!(stream.steps().is_empty());
    let known = |stream: &Stream| stream.assembler.position().gtids.as_ref().expect("GTIDs").to_string();
    assert_eq!(known(&stream), "", "who resumes here is sent it again");
    stream.assembler.reconnected();
    stream.ddl("XA COMMIT X'61',X'',1");
    assert_eq!(stream.steps(), [r#"2 {"id":1}"#], "its rows, with the identity of the commit");
    assert_eq!(known(&stream), format!("{UUID}:1-2"));
    stream.ddl("XA COMMIT X'62',X'',1");
    assert_eq!(stream.steps(), ["reload"], "prepared before we began");
}

#[test]
fn b14_payloads() {
    let payload = |size: u8| vec![2, 1, 255, 1, 1, size, 0];
    let mut stream = Stream::following();
    let begin = |stream: &mut Stream| {
        stream.gtid += 1;
        let mut body = vec![1; 17];
        body.extend(stream.gtid.to_le_bytes());
        stream.take(kind::GTID, &body).expect("an event");
    };
    begin(&mut stream);
    stream.take(kind::TRANSACTION_PAYLOAD, &[2, 1, 0xfc, 1, 1, 0]).expect_err("cut short");
    stream.assembler.reconnected();
    begin(&mut stream);
    assert!(stream.take(kind::TRANSACTION_PAYLOAD, &[2, 3, 0xfc, 255, 0, 1, 1, 0, 0]).is_err(), "never an empty transaction");
    stream.assembler.reconnected();
    begin(&mut stream);
    stream.take(kind::TRANSACTION_PAYLOAD, &[2, 3, 0xfc, 255, 0, 1, 1, 90, 0]).expect("an event");
    let end = stream.end;
    stream.inner(kind::QUERY, 40, &query("BEGIN")).expect("an event");
    assert!(stream.inner(kind::QUERY, 50, &query("SAVEPOINT a")).is_err(), "no commit");
    stream.assembler.reconnected();
    begin(&mut stream);
    stream.take(kind::TRANSACTION_PAYLOAD, &[2, 3, 0xfc, 255, 0, 1, 1, 80, 0]).expect("an event");
    stream.inner(kind::QUERY, 40, &query("BEGIN")).expect("an event");
    stream.inner(kind::XID, 40, &[0; 8]).expect("an event");
    assert_eq!(stream.assembler.position().offset, u64::from(stream.end), "the position is the outer event's");
    assert!(stream.end > end);
    begin(&mut stream);
    assert!(stream.take(kind::TRANSACTION_PAYLOAD, &payload(0)).is_err());
}

#[test]
fn b35_unknown_events() {
    let mut stream = Stream::following();
    let event = |flags| RawEvent { kind: 200, flags, timestamp: 0, server_id: 0, size: 20, end: 0, body: &[] };
    stream.assembler.event(&event(0x80)).expect("it may be ignored");
    assert_eq!(stream.assembler.take_tally().ignored_events, 1);
    assert!(matches!(stream.assembler.event(&event(0)), Err(Broken::UnknownEvent { kind: 200, .. })));
    assert!(matches!(stream.take(kind::INCIDENT, &[]), Err(Broken::Incident { .. })));
}

#[test]
fn b18_offsets_beyond_4_gib() {
    assert_eq!(widen(0xffff_ff00, 0x50), 0x1_0000_0050);
    assert_eq!(widen(0x1_0000_0050, 0x90), 0x1_0000_0090);
    assert_eq!(widen(4, 120), 120);
    let mut stream = Stream::following();
    stream.take(kind::ROTATE, &[&0xffff_ff00_u64.to_le_bytes()[..], b"binlog.000001"].concat()).expect("an event");
    // Headers have the lower 32 bits: the next event ends beyond them.
    stream.end = 0;
    stream.insert(0, &[1]);
    let position = stream.assembler.position().clone();
    assert_eq!(position.offset, 0x1_0000_0000 + u64::from(stream.end));
    stream.assembler.reconnected();
    assert_eq!(stream.assembler.position(), &position, "asked for by its GTIDs");
    assert_eq!(position.to_string().parse(), Ok(position));
}

#[test]
fn b35_events_of_mariadb() {
    let gtid = |sequence: u64, flags: u8| [&sequence.to_le_bytes()[..], &7_u32.to_le_bytes(), &[flags, 0, 0]].concat();
    let mut stream = Stream::following();
    for kind in [kind::GTID_LIST, kind::BINLOG_CHECKPOINT] {
        stream.take(kind, &[]).expect("an event");
    }
    stream.take(kind::MARIADB_GTID, &gtid(5, 0)).expect("an event");
    stream.take(kind::ANNOTATE_ROWS, b"insert into t values (1)").expect("an event");
    stream.take(kind::TABLE_MAP, &table_map(0)).expect("an event");
    let mut rows = rows(0, &[1]);
    // The first version has no extra data.
    rows.drain(8..10);
    stream.take(kind::WRITE_ROWS_V1, &rows).expect("an event");
    stream.query("SAVEPOINT s");
    assert!(stream.steps().is_empty(), "no statement ends it");
    stream.take(kind::XID, &[0; 8]).expect("an event");
    assert_eq!(stream.steps(), [r#"7-0-5 {"id":1}"#]);
    // One statement alone, and the end of an XA transaction, are transactions by themselves.
    stream.take(kind::MARIADB_GTID, &gtid(6, 1)).expect("an event");
    stream.query("TRUNCATE items");
    assert_eq!(stream.steps(), ["7-0-6 truncate"]);
    stream.take(kind::MARIADB_GTID, &gtid(7, 128)).expect("an event");
    stream.query("XA COMMIT X'61',X'',1");
    assert_eq!(stream.steps(), ["reload"], "prepared before we began");
    let gtids = stream.assembler.position().gtids.clone().expect("GTIDs");
    assert_eq!(gtids.to_string(), "7-0-7");
    // The start of encryption is no event for readers, and nobody knows the next one.
    assert!(matches!(stream.take(164, &[]), Err(Broken::UnknownEvent { kind: 164, .. })));
    assert!(matches!(stream.take(172, &[]), Err(Broken::UnknownEvent { kind: 172, .. })));
    stream.take(kind::MARIADB_GTID, &gtid(8, 0)).expect("an event");
    assert!(stream.take(kind::MARIADB_GTID, &gtid(9, 0)).is_err(), "a transaction that does not end");
    assert!(stream.take(kind::MARIADB_GTID, &[1; 12]).is_err());
}

proptest! {
    #[test]
    fn no_event_panics(events in prop::collection::vec((prop_oneof![0..45u8, 158..175u8], prop::collection::vec(any::<u8>(), 0..60), any::<u16>()), 0..12)) {
        let mut stream = Stream::following();
        stream.begin();
        stream.take(kind::TABLE_MAP, &table_map(0)).expect("an event");
        for (kind, body, flags) in &events {
            let _ = stream.assembler.event(&RawEvent { kind: *kind, flags: *flags, timestamp: 0, server_id: 0, size: 30, end: 1000, body });
        }
    }

    #[test]
    fn no_rows_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut stream = Stream::following();
        stream.begin();
        stream.take(kind::TABLE_MAP, &table_map(0)).expect("an event");
        let mut rows = vec![7, 0, 0, 0, 0, 0];
        rows.extend(body);
        let _ = stream.take(kind::UPDATE_ROWS, &rows);
    }
}
