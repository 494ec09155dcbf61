//! Statements as the binlog has them, and what each did.

use proptest::prelude::*;

use super::*;

const ANSI: Modes = Modes { ansi_quotes: true, no_backslash_escapes: false };
const PLAIN: Modes = Modes { ansi_quotes: false, no_backslash_escapes: true };

fn name(name: &str) -> Name {
    let (database, table) = name.split_once('.').unwrap_or(("shop", name));
    Name { database: database.into(), table: table.into() }
}

fn names(text: &str) -> Vec<Name> {
    text.split(' ').map(name).collect()
}

fn of(text: &str) -> Effect {
    read(text, "shop", Modes::default())
}

fn created(table: &str) -> Effect {
    Effect::Created { table: name(table), if_absent: false, rows_follow: false }
}

/// `a b` for a pair, pairs parted by commas.
fn renamed(pairs: &str) -> Effect {
    Effect::Renamed(pairs.split(',').filter_map(|pair| pair.split_once(' ')).map(|(from, to)| (name(from), name(to))).collect())
}

#[test]
fn transaction_control() {
    assert_eq!(of("BEGIN"), Effect::Begin);
    assert_eq!(of("commit /* x */"), Effect::Commit);
    assert_eq!(of("ROLLBACK"), Effect::Rollback);
    assert_eq!(of("ROLLBACK TO `a`"), Effect::Nothing);
    assert_eq!(of("SAVEPOINT `a`"), Effect::Nothing);
    assert_eq!(of("XA START X'61',X'',1"), Effect::XaStart);
    assert_eq!(of("XA END X'61',X'',1"), Effect::Nothing);
    assert_eq!(of("XA COMMIT X'6162',X'00',7"), Effect::XaCommit(Xid { format: 7, global: b"ab".to_vec(), branch: vec![0] }));
    assert_eq!(of("XA ROLLBACK 'ab'"), Effect::XaRollback(Xid { format: 1, global: b"ab".to_vec(), branch: vec![] }));
}

#[test]
fn storage_and_options_change_neither_rows_nor_columns() {
    for action in [
        "",
        "ADD INDEX i (b)",
        "ADD KEY `i` (b(10) DESC, (LOWER(c))) USING BTREE COMMENT 'a, b'",
        "ADD UNIQUE (b)",
        "ADD UNIQUE KEY i (b), ADD FULLTEXT KEY f (c) WITH PARSER ngram, ADD SPATIAL INDEX s (p)",
        "ADD CONSTRAINT UNIQUE (b)",
        "ADD CONSTRAINT u UNIQUE KEY (b)",
        "ADD CONSTRAINT `PRIMARY KEY` CHECK (b > 0) NOT ENFORCED",
        "ADD CHECK (b IN (1, 2))",
        "ADD CONSTRAINT f FOREIGN KEY (b) REFERENCES other (id) ON DELETE RESTRICT ON UPDATE NO ACTION",
        "ADD FOREIGN KEY (b) REFERENCES other (id)",
        "DROP FOREIGN KEY f, DROP CHECK c",
        "RENAME INDEX i TO j, RENAME KEY `k` TO l",
        "ALTER INDEX i INVISIBLE, ALTER CHECK c NOT ENFORCED, ALTER COLUMN b SET DEFAULT (1 + 2), ALTER b DROP DEFAULT",
        "ALTER COLUMN b SET INVISIBLE",
        "COMMENT = 'DROP COLUMN b', AUTO_INCREMENT = 100",
        "COMMENT='it''s' ROW_FORMAT=DYNAMIC KEY_BLOCK_SIZE 8, ALGORITHM=INPLACE, LOCK NONE",
        "ENGINE=InnoDB",
        "ENGINE = `innodb`, FORCE",
        "DEFAULT CHARACTER SET = utf8mb4 COLLATE utf8mb4_bin",
        "CHARSET latin1 DEFAULT COLLATE = latin1_bin",
        "ENABLE KEYS",
        "DATA DIRECTORY = '/x' INDEX DIRECTORY '/y' STATS_PERSISTENT=1 TABLESPACE innodb_system STORAGE DISK",
        "ORDER BY b",
        "PARTITION BY RANGE (id) (PARTITION p VALUES LESS THAN (10), PARTITION q VALUES LESS THAN MAXVALUE)",
        "REMOVE PARTITIONING",
        "ADD PARTITION (PARTITION r VALUES LESS THAN (30))",
        "ADD PARTITION PARTITIONS 4",
        "REORGANIZE PARTITION p, q INTO (PARTITION pq VALUES LESS THAN (20))",
        "COALESCE PARTITION 2",
        "ANALYZE PARTITION p, q",
        "REBUILD PARTITION ALL",
        "ADD INDEX i (b) PARTITION BY HASH (id) PARTITIONS 4",
        "WAIT 10 ADD VECTOR INDEX v (e)",
    ] {
        let text = format!("ALTER TABLE a {action}");
        assert_eq!(of(&text), Effect::Storage(names("a")), "{text}");
    }
    for text in [
        "CREATE INDEX i ON a (x)",
        "CREATE UNIQUE INDEX `on` USING BTREE ON `a` (x) COMMENT 'ON b'",
        "create fulltext index if not exists i on shop.a (x)",
        "/*!40000 ALTER TABLE `a` DISABLE KEYS */",
        "ALTER TABLE a ENGINE=InnoDB;",
    ] {
        assert_eq!(of(text), Effect::Storage(names("a")), "{text}");
    }
}

#[test]
fn an_index_that_is_dropped_may_have_been_a_configured_key() {
    for text in [
        "ALTER TABLE a DROP INDEX i",
        "ALTER TABLE a DROP KEY i, ADD KEY i (b)",
        "ALTER TABLE a DROP CONSTRAINT u",
        "ALTER TABLE a ADD INDEX j (c), DROP INDEX IF EXISTS i",
        "DROP INDEX i ON a",
        "DROP INDEX `i` ON `shop`.`a` ALGORITHM=INPLACE",
        "CREATE OR REPLACE INDEX i ON a (b)",
    ] {
        assert_eq!(of(text), Effect::IndexDropped(names("a")), "{text}");
    }
}

#[test]
fn columns_and_the_primary_key() {
    for action in [
        "ADD COLUMN b INT FIRST",
        "ADD b INT NOT NULL DEFAULT 5 AFTER id, ADD INDEX (b)",
        "ADD COLUMN (b INT, c INT)",
        "ADD (b INT, c INT)",
        "ADD `index` INT",
        "ADD COLUMN IF NOT EXISTS b INT",
        "ADD b INT GENERATED ALWAYS AS (id * 2) VIRTUAL, ALGORITHM=INSTANT",
        "ADD vector VECTOR(3)",
        "ADD period INT",
        "DROP COLUMN b",
        "DROP b, DROP c",
        "DROP `key`",
        "MODIFY b BIGINT AFTER c",
        "MODIFY COLUMN b ENUM('x','y') CHARACTER SET latin1",
        "CHANGE b c INT",
        "RENAME COLUMN b TO c, RENAME COLUMN c TO b",
        "CONVERT TO CHARACTER SET utf8mb4",
        "DROP PRIMARY KEY",
        "DROP PRIMARY KEY, ADD PRIMARY KEY (b)",
        "DROP INDEX `PRIMARY`",
        "DROP CONSTRAINT `primary`",
        "ADD CONSTRAINT x PRIMARY KEY (b)",
        "ADD CONSTRAINT f FOREIGN KEY (b) REFERENCES other (id) ON DELETE CASCADE",
        "ADD FOREIGN KEY (b) REFERENCES other (id) ON UPDATE SET NULL",
        "ADD INDEX (b), DROP INDEX i, DROP COLUMN b, COMMENT 'x'",
        "COMMENT 'x', ADD COLUMN b INT",
        "DROP COLUMN b REMOVE PARTITIONING",
    ] {
        let text = format!("ALTER TABLE a {action}");
        assert_eq!(of(&text), Effect::Columns(names("a")), "{text}");
    }
    assert_eq!(of("DROP INDEX `PRIMARY` ON a"), Effect::Columns(names("a")));
    assert_eq!(of("SET STATEMENT max_statement_time = 1 FOR ALTER TABLE a ADD b INT"), Effect::Columns(names("a")));
}

#[test]
fn content_that_no_row_event_shows() {
    for (text, expected) in [
        ("ALTER TABLE a DROP PARTITION p, q", "a"),
        ("ALTER TABLE a TRUNCATE PARTITION ALL", "a"),
        ("ALTER TABLE a EXCHANGE PARTITION p WITH TABLE x.y WITHOUT VALIDATION", "a x.y"),
        ("ALTER TABLE a ALGORITHM=COPY, DROP PARTITION p", "a"),
        ("ALTER TABLE a DISCARD PARTITION p, q TABLESPACE", "a"),
        ("ALTER TABLE a IMPORT TABLESPACE", "a"),
        ("ALTER TABLE a ENGINE=BLACKHOLE", "a"),
        ("ALTER TABLE a ADD COLUMN b INT, ENGINE MyISAM", "a"),
        ("ALTER IGNORE TABLE a ADD UNIQUE (b)", "a"),
        ("ALTER TABLE a CONVERT PARTITION p TO TABLE x", "a x"),
        ("ALTER TABLE a CONVERT TABLE x TO PARTITION p VALUES LESS THAN (10)", "a x"),
    ] {
        assert_eq!(of(text), Effect::Content(names(expected)), "{text}");
    }
}

#[test]
fn names_that_change_hands() {
    for (text, expected) in [
        ("RENAME TABLE a TO b, c TO other.a", renamed("a b,c other.a")),
        ("RENAME TABLES `a b` TO `c``d`", Effect::Renamed(vec![(name("a b"), name("c`d"))])),
        ("rename table if exists a nowait to b", renamed("a b")),
        ("ALTER TABLE a RENAME b", renamed("a b")),
        ("ALTER TABLE a RENAME TO other.b, ADD COLUMN c INT", renamed("a other.b")),
        ("ALTER TABLE a DROP INDEX i, RENAME AS b", renamed("a b")),
        ("ALTER TABLE a RENAME = b, ALGORITHM=INPLACE", renamed("a b")),
        ("ALTER TABLE a RENAME a, ADD COLUMN c INT", Effect::Columns(names("a"))),
        ("ALTER TABLE a RENAME `index`", renamed("a index")),
        ("CREATE TABLE a (x int)", created("a")),
        ("CREATE TABLE `a` LIKE `b`", created("a")),
        ("CREATE OR REPLACE TABLE other.a (x int)", created("other.a")),
        ("CREATE TABLE IF NOT EXISTS a (x int)", Effect::Created { table: name("a"), if_absent: true, rows_follow: false }),
        (
            "-- hello\n# there\nCREATE TABLE a (x int) START TRANSACTION",
            Effect::Created { table: name("a"), if_absent: false, rows_follow: true },
        ),
        ("CREATE TEMPORARY TABLE a (x int)", Effect::Nothing),
        ("DROP TABLE IF EXISTS a, `b` /* generated by server */", Effect::Drop(names("a b"))),
        ("DROP TEMPORARY TABLE a", Effect::Nothing),
        ("DROP DATABASE `x`", Effect::DropDatabase("x".into())),
        ("TRUNCATE products", Effect::Truncate(names("products"))),
        ("truncate table `other`.`a``b`", Effect::Truncate(names("other.a`b"))),
    ] {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn statements_about_no_table() {
    for text in [
        "",
        ";",
        "GRANT SELECT ON a TO b",
        "CREATE VIEW a AS SELECT 1",
        "CREATE DEFINER=`root`@`%` TRIGGER t AFTER INSERT ON a FOR EACH ROW DELETE FROM b",
        "ALTER DATABASE shop CHARACTER SET utf8mb4",
        "ALTER VIEW a AS SELECT 1",
        "DROP VIEW a",
        "ANALYZE TABLE a",
        "SET PASSWORD FOR u = 'x'",
        "RENAME USER a TO b",
        "DROP TEMPORARY TABLE IF EXISTS `a`",
    ] {
        assert_eq!(of(text), Effect::Nothing, "{text}");
    }
}

#[test]
fn gh_ost_renames_its_copy_into_place() {
    for (text, expected) in [
        ("drop /* gh-ost */ table if exists `shop`.`_items_gho`", Effect::Drop(names("_items_gho"))),
        ("create /* gh-ost */ table `shop`.`_items_gho` like `shop`.`items`", created("_items_gho")),
        ("alter /* gh-ost */ table `shop`.`_items_gho` add column `b` int", Effect::Columns(names("_items_gho"))),
        ("create /* gh-ost */ table `shop`.`_items_del` (id int auto_increment primary key) engine=InnoDB", created("_items_del")),
        ("drop /* gh-ost */ table if exists `shop`.`_items_del`", Effect::Drop(names("_items_del"))),
        (
            "rename /* gh-ost */ table `shop`.`items` to `shop`.`_items_del`, `shop`.`_items_gho` to `shop`.`items`",
            renamed("items _items_del,_items_gho items"),
        ),
    ] {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn pt_online_schema_change_swaps_and_drops() {
    for (text, expected) in [
        ("CREATE TABLE `shop`.`_items_new` (\n  `id` int NOT NULL,\n  PRIMARY KEY (`id`)\n) ENGINE=InnoDB", created("_items_new")),
        ("ALTER TABLE `shop`.`_items_new` ENGINE=InnoDB", Effect::Storage(names("_items_new"))),
        (
            "CREATE TRIGGER `pt_osc_shop_items_del` AFTER DELETE ON `shop`.`items` FOR EACH ROW DELETE IGNORE FROM `shop`.`_items_new`",
            Effect::Nothing,
        ),
        (
            "RENAME TABLE `shop`.`items` TO `shop`.`_items_old`, `shop`.`_items_new` TO `shop`.`items`",
            renamed("items _items_old,_items_new items"),
        ),
        ("DROP TABLE IF EXISTS `_items_old` /* generated by server */", Effect::Drop(names("_items_old"))),
        ("DROP TRIGGER IF EXISTS `shop`.`pt_osc_shop_items_del`", Effect::Nothing),
    ] {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn comments_that_are_run_and_those_that_are_not() {
    for (text, expected) in [
        ("ALTER TABLE a /*!80023 DROP PARTITION p */", Effect::Content(names("a"))),
        ("/*!50003 RENAME TABLE a TO b */", renamed("a b")),
        ("ALTER TABLE /* b */ a # c\n -- d\n ADD/**/COLUMN b INT", Effect::Columns(names("a"))),
        ("ALTER TABLE a/*M!100100 ADD COLUMN b INT */", Effect::Columns(names("a"))),
        ("CREATE TABLE a (x int /*!80023 INVISIBLE */) /*!50100 PARTITION BY HASH (x) */", created("a")),
        ("ALTER TABLE a /*/ ADD COLUMN b INT, /**/ ADD INDEX (b)", Effect::Storage(names("a"))),
        ("TRUNCATE a --comment", Effect::Truncate(names("a"))),
    ] {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn rows_that_no_row_event_shows() {
    assert_eq!(of("INSERT IGNORE INTO a SELECT * FROM b"), Effect::Dml(names("a")));
    assert_eq!(of("LOAD DATA LOCAL INFILE 'x' INTO TABLE `a`"), Effect::Dml(names("a")));
}

#[test]
fn what_is_not_understood_names_every_word() {
    let has = |effect: Effect, table: &str| match effect {
        Effect::Unknown(names) | Effect::Dml(names) => names.contains(&name(table)),
        other => panic!("{other:?}"),
    };
    assert!(has(of("FROBNICATE TABLE products"), "products"));
    assert!(has(of("UPDATE users u JOIN shop.products p SET p.x = 1"), "products"));
    assert!(has(of("DELETE products.* FROM products"), "products"));
    assert!(!has(of("FROBNICATE 'products'"), "products"));
    for text in [
        "ALTER TABLE products FROBNICATE",
        "ALTER TABLE products ADD INDEX (b), FROBNICATE",
        "ALTER TABLE products COMMENT 'x' 'y'",
        "ALTER TABLE products ADD SYSTEM VERSIONING",
        "ALTER TABLE products DROP PERIOD FOR SYSTEM_TIME",
        "ALTER TABLE products UNION = (a, b)",
        "ALTER TABLE products EXCHANGE PARTITION p",
        "ALTER TABLE products RENAME",
        "CREATE INDEX products",
        "RENAME TABLE products",
    ] {
        assert!(has(of(text), "products"), "{text}");
    }
}

#[test]
fn modes_and_charset_of_the_session() {
    assert_eq!(read("TRUNCATE \"a\"", "shop", ANSI), Effect::Truncate(names("a")));
    assert!(matches!(of("TRUNCATE \"a\""), Effect::Unknown(_)));
    let text = r"ALTER TABLE a COMMENT 'c:\', ADD COLUMN b INT COMMENT 'x'";
    assert_eq!(read(text, "shop", PLAIN), Effect::Columns(names("a")));
    assert_eq!(of(r"ALTER TABLE a COMMENT 'it\'s', ADD COLUMN b INT"), Effect::Columns(names("a")));
    let query = |text, collation| Query { thread: 0, database: b"shop", text, collation: Some(collation), modes: Modes::default() };
    // "é" of latin1; "表" of cp932, whose second byte is a backslash.
    assert_eq!(effect(&query(b"TRUNCATE caf\xe9", 8)), Effect::Truncate(names("café")));
    assert_eq!(effect(&query(b"ALTER TABLE a COMMENT '\x95\x5c', DROP COLUMN b", 95)), Effect::Columns(names("a")));
    assert_eq!(effect(&query("TRUNCATE café".as_bytes(), 255)), Effect::Truncate(names("café")));
    assert_eq!(effect(&query(b"TRUNCATE a", 60_000)), Effect::Truncate(names("a")), "a collation we do not know");
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s)[A-Za-z`'\"/*!#\\-\\\\ .,()=é\n]{0,80}", modes in prop::sample::select(vec![Modes::default(), ANSI, PLAIN])) {
        read(&text, "shop", modes);
    }

    /// Words of the grammar in any order never pass for less than they say: DROP COLUMN is seen wherever it is an action.
    #[test]
    fn a_column_dropped_is_never_overlooked(
        before in prop::collection::vec(prop::sample::select(vec!["ADD INDEX (b, c)", "COMMENT 'x, y'", "FORCE", "ALGORITHM=COPY", "ADD CHECK (a IN (1, 2))", "ENGINE=InnoDB ROW_FORMAT=COMPACT", "RENAME INDEX i TO j", "ORDER BY b"]), 0..5),
        after in prop::collection::vec(prop::sample::select(vec!["ADD KEY (b)", "DROP INDEX i", "LOCK=NONE", "COMMENT ')('"]), 0..3),
    ) {
        let actions: Vec<&str> = before.into_iter().chain(["DROP COLUMN b"]).chain(after).collect();
        prop_assert_eq!(of(&format!("ALTER TABLE a {}", actions.join(", "))), Effect::Columns(names("a")));
    }
}
