//! Statements in mid-stream (cases D): after each of them the rows are what SELECT shows, or the table is stopped by a named reason,
//! and a value never lands in its neighbour. With names in the binlog (`binlog_row_metadata` FULL) and without them (MINIMAL).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use larder::model::{Reason, Schema, Stop};
use larder::table::State;

use crate::capture::{Capture, SOON, sections};
use crate::support::mysql::Session;
use crate::support::{Mysql, wait_for};

/// The servers of all these tests: one that names columns in the binlog, and one that does not.
pub fn servers() -> [&'static Mysql; 2] {
    static MINIMAL: LazyLock<Mysql> = LazyLock::new(|| Mysql::start(&["--binlog-row-metadata=MINIMAL"]));
    [Mysql::shared(), &MINIMAL]
}

/// A table `items` with a capture, and a session that writes to it.
struct Case<'m> {
    mysql: &'m Mysql,
    database: String,
    source: String,
    capture: Capture,
    session: Session,
    /// By `id`, which is configured as the key, whatever the primary key is.
    by_id: bool,
}

/// `id`, and two texts that say where they belong.
const ITEMS: &str =
    "create table items (id int primary key, a varchar(20), b varchar(20)); insert into items values (1, 'a1', 'b1'), (2, 'a2', 'b2')";

impl<'m> Case<'m> {
    /// `table`: statements that make `items` in a database of its own.
    fn new(mysql: &'m Mysql, table: &str) -> Self {
        Self::with(mysql, table, "")
    }

    /// `options`: further lines of the table's configuration.
    fn with(mysql: &'m Mysql, table: &str, options: &str) -> Self {
        let database = mysql.database("ddl");
        let source = format!("{database}.items");
        let mut session = mysql.session();
        session.exec(&format!("use {database}; {table}"));
        let capture = Capture::with(&mysql.config(), &format!("{}{options}", sections(&[&source])));
        capture.wait_ready();
        let by_id = options.contains("key = [\"id\"]");
        let case = Self { mysql, database, source, capture, session, by_id };
        case.same();
        case
    }

    /// Runs statements, and waits for the rows that SELECT then shows.
    #[track_caller]
    fn then(&mut self, sql: &str) {
        self.session.exec(sql);
        self.same();
    }

    #[track_caller]
    fn same(&self) {
        self.capture.wait_same("items", || {
            if self.by_id { select_by(self.mysql, &self.source, &["id"]) } else { select(self.mysql, &self.source) }
        });
    }

    /// Runs statements that keep the rows and columns, after which the table is not read again.
    #[track_caller]
    fn keeps(&mut self, sql: &str) {
        let before = self.schema();
        self.then(sql);
        assert!(Arc::ptr_eq(&before, &self.schema()), "the table was read again after {sql}");
    }

    #[track_caller]
    fn stops(&mut self, sql: &str, reason: Reason) {
        self.session.exec(sql);
        self.capture.wait_stopped("items", reason);
        assert_eq!(self.capture.row("items", "1").as_deref(), Some("not ready"), "old rows are never answered");
    }

    /// Of the table's columns; another one whenever the table is read.
    fn schema(&self) -> Arc<Schema> {
        let view = self.capture.tables.view();
        Arc::clone(view.schema(view.find("items").expect("it is captured")))
    }

    fn message(&self) -> String {
        match self.capture.state("items") {
            State::Stopped { message, .. } => message,
            state => panic!("{state:?}"),
        }
    }
}

/// The rows of a table: key and JSON, put together by the server from its own text of every value.
fn select(mysql: &Mysql, source: &str) -> Vec<(String, String)> {
    let (database, table) = source.split_once('.').expect("database.table");
    let key: Vec<String> = mysql.rows(&format!(
        "select column_name from information_schema.statistics where table_schema = '{database}' and table_name = '{table}' \
         and index_name = 'PRIMARY' order by seq_in_index"
    ));
    select_by(mysql, source, &key.iter().map(String::as_str).collect::<Vec<_>>())
}

fn select_by(mysql: &Mysql, source: &str, key: &[&str]) -> Vec<(String, String)> {
    let (database, table) = source.split_once('.').expect("database.table");
    let columns: Vec<(String, String)> = mysql.rows(&format!(
        "select column_name, data_type from information_schema.columns where table_schema = '{database}' and table_name = '{table}' order by ordinal_position"
    ));
    let fragment = |name: &str| {
        let kind = columns.iter().find(|(column, _)| column == name).map_or("", |(_, kind)| kind.as_str());
        let value = match kind {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => format!("cast(`{name}` as char)"),
            "datetime" => format!("json_quote(replace(cast(`{name}` as char), ' ', 'T'))"),
            _ => format!("json_quote(convert(cast(`{name}` as char) using utf8mb4))"),
        };
        format!("ifnull({value}, 'null')")
    };
    let key = match key {
        [] => return Vec::new(),
        [name] => format!("cast(`{name}` as char)"),
        names => format!("concat('[', {}, ']')", names.iter().map(|name| fragment(name)).collect::<Vec<_>>().join(", ',', ")),
    };
    let members: Vec<String> = columns.iter().map(|(name, _)| format!("'\"{name}\":', {}", fragment(name))).collect();
    mysql.rows(&format!("select {key}, convert(concat('{{', {}, '}}') using utf8mb4) from {source}", members.join(", ',', ")))
}

// === columns ===

#[test]
fn d02_columns_that_come_go_and_move() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.then("alter table items add column c int default 7 first; insert into items values (1, 3, 'a3', 'b3')");
        case.then("alter table items modify b varchar(20) after id; insert into items values (2, 4, 'b4', 'a4')");
        case.then("alter table items modify a varchar(20) first; insert into items values ('a5', 3, 5, 'b5')");
        case.then("alter table items drop column c; insert into items values ('a6', 6, 'b6')");
        case.then("alter table items rename column a to c; insert into items values ('c7', 7, 'b7')");
        case.then("alter table items rename column b to c, rename column c to b; insert into items values ('b8', 8, 'c8'); update items set b = 'new' where id = 2");
        case.then("alter table items change b d varchar(30) after c, add column e int not null default 3 first; update items set c = concat(c, '!') where id < 5");
        case.then("alter table items add column (f int, g varchar(9) default 'g'); alter table items drop f, drop g; insert into items values (9, 9, 'c9', 'd9')");
        case.then("alter table items alter column e set default 4; insert into items (id) values (10)");
    }
}

#[test]
fn columns_that_come_at_once_with_their_defaults() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.then("alter table items add column n int not null default 42, algorithm=instant; insert into items values (3, 'a3', 'b3', 1)");
        case.then(
            "alter table items add column t varchar(20) default 'é😀' after id, algorithm=instant; update items set b = 'x' where id = 1",
        );
        case.then("alter table items add column at datetime(3) not null default '2024-01-02 03:04:05.678', algorithm=instant");
        case.then("alter table items drop column n, algorithm=instant; insert into items (id) values (4)");
    }
}

#[test]
fn columns_that_are_widened_narrowed_and_converted() {
    for mysql in servers() {
        let mut case = Case::new(
            mysql,
            "create table items (id int primary key, n tinyint, u tinyint unsigned, t varchar(10), e enum('x', 'z'), d decimal(5,2)); \
             insert into items values (1, -1, 255, 'é', 'z', 1.5), (2, 127, 128, null, 'x', -999.99)",
        );
        case.then("alter table items modify n bigint; insert into items values (3, -9000000000, 200, 't', 'x', 0)");
        case.then("alter table items modify u int; update items set u = -5 where id = 1");
        case.then(
            "update items set u = 5 where u < 0; alter table items modify u int unsigned default 1; insert into items (id) values (9)",
        );
        case.then("alter table items modify t varchar(300); insert into items (id, t) values (4, repeat('ü', 300))");
        case.then("alter table items modify t text; insert into items (id, t) values (5, 'text')");
        case.then("alter table items modify e enum('x', 'y', 'z'); insert into items (id, e) values (6, 'y')");
        case.then("alter table items modify d decimal(20,4); insert into items (id, d) values (7, 1234567890.1234)");
        case.then("alter table items convert to character set latin1; insert into items (id, t) values (8, 'ÿ')");
        case.then("alter table items modify t text character set utf16; insert into items (id, t) values (10, 'ÿ')");
        case.then(
            "alter table items modify d varchar(40), modify n varchar(30); insert into items (id, d, n) values (11, 'was a number', 'n')",
        );
        case.then("alter table items modify id bigint; insert into items (id) values (5000000000)");
    }
}

#[test]
fn t14_a_label_inserted_in_the_middle_changes_no_value() {
    for mysql in servers() {
        let mut case = Case::new(
            mysql,
            "create table items (id int primary key, e enum('s', 'l'), s set('a', 'c')); insert into items values (1, 'l', 'a,c'), (2, 's', '')",
        );
        case.then("update items set e = 's' where id = 1; alter table items modify e enum('s', 'm', 'l'), modify s set('a', 'b', 'c'); insert into items values (3, 'm', 'b,c'), (4, 'l', 'c')");
        case.then("set sql_log_bin = 0; alter table items modify e enum('s', 'm', 'm+', 'l'); set sql_log_bin = 1; insert into items values (5, 'l', 'a')");
    }
}

#[test]
fn generated_and_invisible_columns() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.then(
            "alter table items add column v int generated always as (id * 2) virtual first; insert into items (id, a) values (3, 'a3')",
        );
        case.then("alter table items add column s varchar(50) generated always as (concat(a, b)) stored after id; insert into items (id, a, b) values (4, 'a4', 'b4')");
        case.then("alter table items add column hidden int default 5 invisible after s; insert into items (id, hidden) values (5, 6)");
        case.keeps("alter table items alter column hidden set visible; insert into items (id, hidden) values (6, 7)");
        case.keeps("alter table items alter column a set invisible; insert into items (id, b) values (7, 'b7')");
        case.keeps("alter table items add index expressions ((lower(b))), add index virtual_index (v); insert into items (id, b) values (8, 'B8'); delete from items where id = 3");
        case.then("alter table items drop column v; update items set b = 'B' where id = 1");
        case.then("alter table items modify column s varchar(50) generated always as (concat(b, a)) stored; insert into items (id, a, b) values (9, 'a9', 'b9')");
    }
}

#[test]
fn indexes_options_and_partitions_read_nothing_again() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        for statement in [
            "alter table items add index by_a (a), add unique key by_b (b, id)",
            "create index late on items (b(3))",
            "drop index late on items",
            "alter table items rename index by_a to first_index, alter index by_b invisible",
            "alter table items comment 'drop column a', row_format = compressed",
            "alter table items engine = innodb",
            "alter table items auto_increment = 500, algorithm = inplace, lock = none",
            "alter table items add constraint positive check (id > 0)",
            "alter table items alter check positive not enforced",
            "alter table items default character set latin1",
            "alter table items drop check positive, drop index first_index",
            "optimize table items",
            "analyze table items",
            "create table if not exists items (other int primary key)",
            "alter table items partition by range (id) (partition p0 values less than (1000), partition p1 values less than (2000))",
            "alter table items add partition (partition p2 values less than (3000))",
            "alter table items reorganize partition p1, p2 into (partition p3 values less than (3000))",
            "alter table items remove partitioning",
        ] {
            let id = statement.len() * 7;
            case.keeps(&format!("{statement}; replace into items values ({id}, 'a', 'b'); update items set a = 'A' where id = 1"));
        }
    }
}

// === rows without row events ===

#[test]
fn d13_truncate() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.keeps("truncate items; insert into items values (3, 'a3', 'b3')");
        assert_eq!(case.capture.row("items", "1"), None);
        case.keeps("truncate table items");
        assert_eq!(case.capture.tables.summaries()[0].rows, 0);
    }
}

#[test]
fn d18_partitions_that_take_their_rows_along() {
    for mysql in servers() {
        let mut case = Case::new(
            mysql,
            "create table items (id int primary key, a varchar(20)) partition by range (id) \
             (partition p0 values less than (10), partition p1 values less than (20), partition p2 values less than (30), partition p3 values less than (40)); \
             insert into items values (1, 'a1'), (11, 'a11'), (21, 'a21'), (31, 'a31')",
        );
        case.then("alter table items drop partition p0; insert into items values (12, 'a12')");
        assert_eq!(case.capture.row("items", "1"), None);
        case.then("alter table items truncate partition p1; insert into items values (13, 'a13')");
        case.then("create table other (id int primary key, a varchar(20)); insert into other values (22, 'other'); alter table items exchange partition p2 with table other; insert into items values (23, 'a23')");
        assert_eq!(case.capture.row("items", "22").as_deref(), Some(r#"{"id":22,"a":"other"}"#));
        case.then("alter table items add partition (partition p4 values less than (50)); alter table items drop partition p3; insert into items values (41, 'a41')");
        case.then(
            "rename table items to old_items; create table items (id int primary key, a varchar(20)); insert into items values (5, 'new')",
        );
    }
}

#[test]
fn tables_that_are_dropped_and_created() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.stops("drop table items", Reason::TableDropped);
        case.then("create table items (id int primary key, b varchar(20), a varchar(20)); insert into items values (1, 'new b', 'new a')");
        case.then("drop table items; create table items (b varchar(20), id int primary key); insert into items values ('b', 7)");
        case.stops("drop table items", Reason::TableDropped);
        case.then("create table items (id int primary key) as select 30 as id, 'z' as name; insert into items values (31, 'y')");
        case.stops("rename table items to elsewhere", Reason::TableDropped);
        case.then("alter table elsewhere rename items, add column more int default 4; insert into items (id) values (32)");
        case.stops(&format!("drop database {}", case.database.clone()), Reason::TableDropped);
        case.then(&format!("create database {0}; use {0}; {ITEMS}", case.database.clone()));
    }
}

// === names that change hands ===

#[test]
fn d09_a_swap_by_rename_under_load() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.session.exec("create table new_items (id int primary key, b varchar(20), a varchar(20), c int default 1)");
        case.session.exec("insert into new_items select id, concat('new ', b), concat('new ', a), 5 from items where id <> 1");
        under_load(&case, |session| {
            session.exec("rename table items to old_items, new_items to items");
            session.exec("insert into old_items (id, a) values (99999, 'nobody sees it')");
        });
        case.same();
        assert_eq!(case.capture.row("items", "99999"), None);
        // Round in a circle, twice through the same name.
        case.then("rename table items to x, old_items to items, x to old_items; insert into items (id, a) values (99998, 'back')");
        case.then("rename table items to x, x to items; insert into items (id, a) values (99997, 'the same')");
    }
}

#[test]
fn d09_as_gh_ost_does_it() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.session.exec(
            "create /* gh-ost */ table _items_gho like items; alter /* gh-ost */ table _items_gho add column c int not null default 9 first, modify b text; \
             create /* gh-ost */ table _items_del (id int auto_increment primary key)",
        );
        under_load(&case, |session| {
            // What gh-ost reads from the binlog it writes into the copy; here the copy is made under a lock, all at once.
            session.exec("lock tables items write, _items_gho write, _items_del write; insert /* gh-ost */ into _items_gho (id, a, b) select id, a, b from items");
            session.exec("drop table _items_del; rename /* gh-ost */ table items to _items_del, _items_gho to items; unlock tables");
        });
        case.same();
        case.then("drop /* gh-ost */ table if exists _items_del; insert into items values (1, 99999, 'a', 'b')");
    }
}

#[test]
fn d09_as_pt_online_schema_change_does_it() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.session.exec("create table _items_new like items; alter table _items_new drop column a, add column z int default 3 first");
        case.session.exec("create trigger pt_osc_del after delete on items for each row delete ignore from _items_new where id <=> old.id");
        case.session
            .exec("create trigger pt_osc_upd after update on items for each row replace into _items_new (id, b) values (new.id, new.b)");
        case.session
            .exec("create trigger pt_osc_ins after insert on items for each row replace into _items_new (id, b) values (new.id, new.b)");
        under_load(&case, |session| {
            session.exec("insert ignore into _items_new (id, b) select id, b from items lock in share mode");
            session.exec("rename table items to _items_old, _items_new to items; drop table if exists _items_old");
        });
        case.then("drop trigger if exists pt_osc_del; insert into items values (1, 99999, 'b')");
    }
}

/// Two sessions write to `items` before, during and after `act`; columns that are gone by then do not matter to them.
fn under_load(case: &Case<'_>, act: impl FnOnce(&mut Session)) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (done, database, mysql) = (&done, &case.database, case.mysql);
            scope.spawn(move || {
                let mut session = mysql.session();
                session.exec(&format!("use {database}"));
                for number in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = 10 + (number * 7 + writer) % 500;
                    session.exec(&match number % 3 {
                        0 | 1 => format!("replace into items (id, b) values ({id}, 'b{number}')"),
                        _ => format!("delete from items where id = {}", (number * 5) % 500),
                    });
                }
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        let mut session = case.mysql.session();
        session.exec(&format!("use {}", case.database));
        act(&mut session);
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
    });
}

// === keys ===

#[test]
fn a_key_that_changes_stops_the_table_until_it_is_back() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        case.stops("update items set a = concat('a', id); alter table items drop primary key, add primary key (a)", Reason::KeyChanged);
        assert!(case.message().contains("its primary key is now (a)"), "{}", case.message());
        case.then("alter table items drop primary key, add primary key (id); insert into items values (3, 'a3', 'b3')");
        case.stops("alter table items drop primary key", Reason::KeyChanged);
        case.session.exec("insert into items values (4, 'a4', 'b4')");
        case.then("alter table items add primary key (id); insert into items values (5, 'a5', 'b5')");
        case.stops("alter table items drop primary key, add primary key (id, a)", Reason::KeyChanged);
        // The key shrinks by a column that is dropped.
        case.then("alter table items drop column a; insert into items values (6, 'b6')");
        case.stops("alter table items rename column id to number", Reason::KeyChanged);
        case.then("alter table items rename column number to id; insert into items values (7, 'b7')");
    }
}

#[test]
fn a_configured_key_without_its_index_stops_the_table() {
    for mysql in servers() {
        let table = "create table items (id int primary key, a varchar(20) not null, unique by_id (id)); insert into items values (1, 'a1'), (2, 'a2')";
        let mut case = Case::with(mysql, table, "key = [\"id\"]\n");
        case.then("alter table items drop primary key, add primary key (id, a); insert into items values (3, 'a3')");
        case.keeps("alter table items add index more (a, id); insert into items values (4, 'a4')");
        case.stops("alter table items drop index by_id", Reason::KeyChanged);
        assert!(case.message().contains("no unique index of NOT NULL columns over exactly (id)"), "{}", case.message());
        case.session.exec("create unique index again on items (id)");
        wait_for("the table to be read again", SOON, || match case.capture.state("items") {
            State::Ready => Ok(()),
            state => Err(format!("{state:?}")),
        });
    }
}

#[test]
fn keys_that_joins_could_not_find_are_refused() {
    let mysql = Mysql::shared();
    let table = "create table items (price decimal(10,2), flag tinyint(1), id int, primary key (price, flag)); insert into items values (1.5, 1, 1)";
    let joined = "[streams.s]\nfrom = \"orders\"\nto.topic = \"out\"\nto.value = { goods = \"$goods\" }\n[streams.s.join.goods]\ntable = \"items\"\nkey = [\"record.price\", \"record.flag\"]\n";
    let mut case = Case::new(mysql, table);
    let section = |options: &str| format!("{}{options}", sections(&[&case.source]));
    let capture = Capture::with(&mysql.config(), &section("decimal = \"number\"\nbooleans = [\"flag\"]\n"));
    capture.wait_ready();
    assert_eq!(capture.row("items", "[1.50,true]").as_deref(), Some(r#"{"price":1.50,"flag":true,"id":1}"#), "nobody joins it");
    for (options, parts) in [
        ("decimal = \"number\"\n", ["column price is in the key", "set tables.items.decimal = \"string\""]),
        ("booleans = [\"flag\"]\n", ["column flag is in the key", "take it out of tables.items.booleans"]),
    ] {
        let Err(Stop::Precondition(text)) = Capture::with(&mysql.config(), &(section(options) + joined)).end() else { panic!("{options}") };
        assert!(parts.iter().all(|part| text.contains(part)) && text.contains("streams.s.join.goods.key"), "{text}");
    }
    let joined = Capture::with(&mysql.config(), &(section("") + joined));
    joined.wait_ready();
    // It becomes so in mid-stream.
    case.stops("alter table items drop primary key, add primary key (price)", Reason::KeyChanged);
}

// === what the binlog does not say ===

#[test]
fn d22_statements_that_were_not_logged() {
    for mysql in servers() {
        for (unlogged, row) in [
            ("alter table items add column c int default 5", "(3, 'a3', 'b3', 6)"),
            ("alter table items add column c int default 5 first", "(6, 3, 'a3', 'b3')"),
            ("alter table items drop column a", "(3, 'b3')"),
            ("alter table items drop column b, add column c int default 5", "(3, 'a3', 6)"),
            ("alter table items modify a varchar(20) after b", "(3, 'b3', 'a3')"),
            ("alter table items rename column a to b, rename column b to a", "(3, 'b3', 'a3')"),
            ("alter table items rename column a to c", "(3, 'c3', 'b3')"),
            ("alter table items modify b varchar(20) character set latin1", "(3, 'é', 'ü')"),
            ("alter table items modify b varchar(300)", "(3, 'é', repeat('ü', 300))"),
            ("drop table items; create table items (b varchar(20), id int primary key)", "('b3', 3)"),
            ("rename table items to x; create table items (id int primary key, b varchar(20), a varchar(20))", "(3, 'b3', 'a3')"),
        ] {
            let mut case = Case::new(mysql, ITEMS);
            // A row before it, so that the columns of then are known to whoever reads the stream.
            case.then("insert into items values (9, 'a9', 'b9')");
            case.then(&format!("set sql_log_bin = 0; {unlogged}; set sql_log_bin = 1; insert into items values {row}"));
            case.then("update items set id = id + 100");
        }
    }
}

#[test]
fn d22_a_key_changed_without_a_word() {
    for mysql in servers() {
        let mut case = Case::new(mysql, &ITEMS.replace("a varchar(20)", "a varchar(20) not null"));
        case.then("insert into items values (9, 'a9', 'b9')");
        case.session.exec("set sql_log_bin = 0; alter table items drop primary key, add primary key (a); set sql_log_bin = 1");
        case.stops("insert into items values (9, 'a10', 'b9')", Reason::KeyChanged);
    }
}

#[test]
fn d22_the_sign_of_a_number_changed_without_a_word() {
    for mysql in servers() {
        let mut case = Case::new(mysql, "create table items (id int primary key, n int); insert into items values (1, 5)");
        case.then("insert into items values (2, -5)");
        case.then("set sql_log_bin = 0; delete from items where n < 0; alter table items modify n int unsigned; set sql_log_bin = 1; insert into items values (3, 4294967295)");
    }
}

#[test]
fn d27_statements_while_nobody_follows() {
    for mysql in servers() {
        let mut case = Case::new(mysql, ITEMS);
        drop(std::mem::replace(&mut case.capture, Capture::with(&mysql.config(), &sections(&[&case.source]))));
        case.session.exec("insert into items values (3, 'a3', 'b3'); alter table items add column c int default 7 first; insert into items values (1, 4, 'a4', 'b4')");
        let again = Capture::of(mysql, &[&case.source]);
        again.wait_same("items", || select(mysql, &case.source));
        case.then("alter table items drop column a; insert into items values (1, 5, 'b5')");
        again.wait_same("items", || select(mysql, &case.source));
    }
}

#[test]
fn d30_table_ids_that_are_used_again_after_a_restart() {
    let mysql = Mysql::start(&[]);
    let mut case = Case::new(&mysql, &format!("{ITEMS}; create table other (b varchar(20), id int primary key, a varchar(20))"));
    let second = Capture::of(&mysql, &[&case.source, &format!("{}.other", case.database)]);
    case.session.exec("insert into items values (3, 'a3', 'b3'); insert into other values ('b1', 1, 'a1')");
    case.same();
    for round in 0..3 {
        mysql.kill();
        mysql.restart();
        case.session = mysql.session();
        // In another order each time, so that the numbers go to other tables.
        let (first, last) = if round % 2 == 0 { ("other", "items") } else { ("items", "other") };
        case.session.exec(&format!(
            "use {}; insert into {first} (id, a, b) values (1{round}, 'a', 'b'); insert into {last} (id, a, b) values (2{round}, 'a', 'b')",
            case.database
        ));
        case.same();
        second.wait_same("items", || select(&mysql, &case.source));
        second.wait_same("other", || select(&mysql, &format!("{}.other", case.database)));
    }
}

#[test]
fn d32_rows_that_foreign_keys_change() {
    let mysql = Mysql::shared();
    let tables = "create table parents (id int primary key); insert into parents values (1), (2); \
        create table items (id int primary key, parent int, foreign key (parent) references parents (id)); insert into items values (1, 1), (2, 2)";
    let logged = mysql.rows::<String>("select version()")[0].split('.').take(2).map(|n| n.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>()
        >= vec![9, 6];
    let mut case = Case::new(mysql, tables);
    case.session.exec("alter table items add constraint carried foreign key (parent) references parents (id) on delete cascade");
    if logged {
        case.then("alter table items drop foreign key items_ibfk_1; delete from parents where id = 2");
        assert_eq!(case.capture.row("items", "2"), None);
        return;
    }
    // It comes in mid-stream: named, and with what to do about it.
    case.stops("insert into items values (3, 1)", Reason::DdlUnsupported);
    for part in ["carried", "cascades = \"ignore\""] {
        assert!(case.message().contains(part), "{part} is missing in {}", case.message());
    }
    // At the start it is a failed precondition.
    match Capture::with(&mysql.config(), &sections(&[&case.source])).end() {
        Err(Stop::Precondition(text)) => assert!(text.contains("carried") && text.contains("cascades = \"ignore\""), "{text}"),
        other => panic!("{other:?}"),
    }
    let accepted = Capture::with(&mysql.config(), &format!("{}cascades = \"ignore\"\n", sections(&[&case.source])));
    accepted.wait_ready();
    case.then("alter table items drop foreign key carried; insert into items values (4, 1)");
}

// === statements we cannot read, and statements among writes ===

#[test]
fn statements_that_are_not_understood_have_the_table_read_again() {
    let mysql = Mysql::shared();
    let mut case = Case::new(mysql, ITEMS);
    let before = case.schema();
    case.then("alter table items union = (); insert into items values (3, 'a3', 'b3')");
    wait_for("the table to be read again", SOON, || if Arc::ptr_eq(&before, &case.schema()) { Err(String::new()) } else { Ok(()) });
    case.then("set sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES'; alter table \"items\" comment 'c:\\', add column \"c,\" int default 4; insert into items values (4, 'a4', 'b4', 1)");
    case.then(
        "alter table items /*!80000 add column d int default 5 */ /* , drop column a */; insert into items values (5, 'a5', 'b5', 1, 2)",
    );
    case.then("set sql_mode = default; alter table items comment 'it\\'s', drop column d; insert into items values (6, 'a6', 'b6', 1)");
}

#[test]
fn statements_among_writes_never_shift_a_value() {
    for mysql in servers() {
        let case = Case::new(
            mysql,
            "create table items (id int primary key, a varchar(20) not null default 'a', b varchar(20) not null default 'b')",
        );
        let done = AtomicBool::new(false);
        let (looked, waited) = std::thread::scope(|scope| {
            for writer in 0..2 {
                let (done, database) = (&done, &case.database);
                scope.spawn(move || {
                    let mut session = mysql.session();
                    session.exec(&format!("use {database}"));
                    for number in 0.. {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let id = (number * 7 + writer) % 300;
                        session.exec(&match number % 4 {
                            0 | 1 => format!("replace into items (id, a, b) values ({id}, 'a{number}', 'b{number}')"),
                            2 => format!("update ignore items set a = 'au{number}', id = {} where id = {id}", (id + 101) % 300),
                            _ => format!("delete from items where id = {}", (number * 5) % 300),
                        });
                    }
                });
            }
            let looker = scope.spawn(|| {
                let (mut looked, mut waited) = (0, 0);
                while !done.load(Ordering::Relaxed) {
                    for id in 0..300 {
                        match case.capture.row("items", &id.to_string()).as_deref() {
                            None => {}
                            Some("not ready") => waited += 1,
                            Some(row) => {
                                looked += 1;
                                says_where_it_belongs(id, row);
                            }
                        }
                    }
                }
                (looked, waited)
            });
            let mut session = mysql.session();
            session.exec(&format!("use {}", case.database));
            for statement in [
                "alter table items add column c varchar(20) not null default 'c' first",
                "alter table items modify b varchar(20) not null default 'b' after c",
                "alter table items add index by_a (a)",
                "alter table items modify a varchar(200) not null default 'a' first",
                "alter table items drop column c",
                "alter table items modify id int first, algorithm = copy",
                "alter table items add column d varchar(20) not null default 'd' after a, algorithm = instant",
                "alter table items drop column d",
                "alter table items convert to character set latin1",
                "create table copy like items; alter table copy modify b varchar(30) not null default 'b' first",
                "rename table items to old, copy to items; drop table old",
                "truncate items",
            ] {
                session.exec(statement);
                std::thread::sleep(Duration::from_millis(150));
            }
            done.store(true, Ordering::Relaxed);
            looker.join().expect("no value is shifted")
        });
        case.same();
        assert!(looked > 0, "no row was seen, {waited} times it was not ready");
    }
}

/// Every text begins with the name of its column.
fn says_where_it_belongs(id: i32, row: &str) {
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(row).expect("a row is JSON");
    for (name, value) in &row {
        match value {
            serde_json::Value::Number(number) => assert!(name == "id" && number.as_i64() == Some(id.into()), "{row:?}"),
            serde_json::Value::String(text) => assert!(text.starts_with(name.as_str()), "{name} has the value of another column: {row:?}"),
            _ => panic!("{row:?}"),
        }
    }
}
