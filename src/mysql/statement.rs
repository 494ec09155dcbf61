//! What a statement in the binlog does to tables. Pure.
//!
//! With row format the binlog holds statements only for transaction control and DDL. We read just enough of the text to say
//! which tables are touched, and how. In doubt the answer is [`Effect::Unknown`] with every name in the text, and the reader
//! of the answer reads a table again if its name is among them: a statement is never skipped because it was not understood.

/// `database.table`, without quotes, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub database: String,
    pub table: String,
}

/// Identity of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Xid {
    pub format: u32,
    pub global: Vec<u8>,
    pub branch: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Begin,
    Commit,
    Rollback,
    /// Begins an XA transaction; its rows follow.
    XaStart,
    XaCommit(Xid),
    XaRollback(Xid),
    /// No captured row and no captured column can change by it.
    Nothing,
    Truncate(Vec<Name>),
    Drop(Vec<Name>),
    DropDatabase(String),
    /// Columns or content change without row events, or a name now stands for another table.
    Reload(Vec<Name>),
    /// Rows are changed by statement, so that no row events say how.
    Dml(Vec<Name>),
    /// Not understood; every name in the text.
    Unknown(Vec<Name>),
}

/// Reads a statement. `database` is the default database, `ansi_quotes` whether `"x"` is a name rather than text.
pub fn effect(text: &str, database: &str, ansi_quotes: bool) -> Effect {
    let tokens = tokens(text, ansi_quotes);
    Parser { tokens: &tokens, at: 0, database }.statement()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Key word or unquoted name.
    Word(String),
    /// Quoted name.
    Name(String),
    /// Text, with the bytes of `X'…'` and `'…'`.
    Text(Vec<u8>),
    Symbol(char),
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    database: &'a str,
}

impl Parser<'_> {
    fn statement(&mut self) -> Effect {
        let Some(verb) = self.word() else {
            return if self.tokens.is_empty() { Effect::Nothing } else { self.unknown() };
        };
        match verb.as_str() {
            "BEGIN" => Effect::Begin,
            "START" => match self.accept("TRANSACTION") {
                true => Effect::Begin,
                // START REPLICA and the like.
                false => Effect::Nothing,
            },
            "COMMIT" => Effect::Commit,
            // ROLLBACK TO SAVEPOINT: what was rolled back never reaches the binlog, the line says nothing new.
            "ROLLBACK" => {
                if self.rest_has("TO") {
                    Effect::Nothing
                } else {
                    Effect::Rollback
                }
            }
            "SAVEPOINT" | "RELEASE" => Effect::Nothing,
            "XA" => self.xa(),
            "TRUNCATE" => {
                self.accept("TABLE");
                self.listed(Effect::Truncate)
            }
            "RENAME" => self.rename(),
            "CREATE" => self.create(),
            "ALTER" => self.alter(),
            "DROP" => self.drop(),
            "INSERT" | "REPLACE" | "LOAD" | "IMPORT" => self.insert(),
            "UPDATE" | "DELETE" | "WITH" => Effect::Dml(self.all_names()),
            "GRANT" | "REVOKE" | "SET" | "ANALYZE" | "OPTIMIZE" | "CHECK" | "REPAIR" | "FLUSH" | "RESET" | "USE" | "INSTALL"
            | "UNINSTALL" | "LOCK" | "UNLOCK" | "PURGE" | "KILL" | "CHANGE" | "STOP" | "BINLOG" | "CACHE" | "CLONE" | "RESTART"
            | "SHUTDOWN" | "HELP" => Effect::Nothing,
            _ => self.unknown(),
        }
    }

    fn xa(&mut self) -> Effect {
        match self.word().as_deref() {
            Some("START" | "BEGIN") => Effect::XaStart,
            Some("END" | "PREPARE") => Effect::Nothing,
            Some("COMMIT") => self.xid().map_or_else(|| self.unknown(), Effect::XaCommit),
            Some("ROLLBACK") => self.xid().map_or_else(|| self.unknown(), Effect::XaRollback),
            _ => self.unknown(),
        }
    }

    /// `X'7831',X'',1`, as the server writes it.
    fn xid(&mut self) -> Option<Xid> {
        let Some(Token::Text(global)) = self.next() else { return None };
        let mut xid = Xid { format: 1, global: global.clone(), branch: Vec::new() };
        if self.symbol(',') {
            let Some(Token::Text(branch)) = self.next() else { return None };
            xid.branch = branch.clone();
        }
        if self.symbol(',') {
            xid.format = self.word()?.parse().ok()?;
        }
        Some(xid)
    }

    fn create(&mut self) -> Effect {
        if self.accept("OR") {
            self.accept("REPLACE");
        }
        if self.accept("TEMPORARY") {
            return Effect::Nothing;
        }
        if !self.accept("TABLE") {
            // Indexes, views, triggers, routines, users, databases: no row of a table changes.
            return Effect::Nothing;
        }
        self.skip_exists();
        self.name().map_or_else(|| self.unknown(), |name| Effect::Reload(vec![name]))
    }

    fn alter(&mut self) -> Effect {
        for word in ["ONLINE", "OFFLINE", "IGNORE"] {
            self.accept(word);
        }
        if !self.accept("TABLE") {
            // ALTER DATABASE, USER, VIEW, INSTANCE, TABLESPACE …
            return Effect::Nothing;
        }
        self.skip_exists();
        let Some(name) = self.name() else { return self.unknown() };
        let mut names = vec![name];
        // … RENAME [TO | AS] other · EXCHANGE PARTITION p WITH TABLE other
        while self.at < self.tokens.len() {
            if self.accept("RENAME") {
                let part_of_table = ["COLUMN", "INDEX", "KEY"].iter().any(|word| self.accept(word));
                if !part_of_table {
                    let _ = self.accept("TO") || self.accept("AS") || self.symbol('=');
                    names.extend(self.name());
                }
            } else if self.accept("WITH") {
                if self.accept("TABLE") {
                    names.extend(self.name());
                }
            } else {
                self.at += 1;
            }
        }
        Effect::Reload(names)
    }

    fn drop(&mut self) -> Effect {
        if self.accept("TEMPORARY") {
            return Effect::Nothing;
        }
        if self.accept("DATABASE") || self.accept("SCHEMA") {
            self.skip_exists();
            return match self.next() {
                Some(Token::Word(name) | Token::Name(name)) => Effect::DropDatabase(name.clone()),
                _ => self.unknown(),
            };
        }
        if !self.accept("TABLE") && !self.accept("TABLES") {
            return Effect::Nothing;
        }
        self.skip_exists();
        self.listed(Effect::Drop)
    }

    fn rename(&mut self) -> Effect {
        if !self.accept("TABLE") && !self.accept("TABLES") {
            // RENAME USER.
            return Effect::Nothing;
        }
        let mut names = Vec::new();
        loop {
            let Some(from) = self.name() else { return self.unknown() };
            let to = self.accept("TO").then(|| self.name()).flatten();
            let Some(to) = to else { return self.unknown() };
            names.extend([from, to]);
            if !self.symbol(',') {
                return Effect::Reload(names);
            }
        }
    }

    /// `INSERT … [INTO] t`, `REPLACE … [INTO] t`, `LOAD DATA … INTO TABLE t`, `IMPORT TABLE FROM file`.
    fn insert(&mut self) -> Effect {
        while let Some(token) = self.tokens.get(self.at) {
            let Token::Word(word) = token else {
                if matches!(token, Token::Name(_)) {
                    break;
                }
                self.at += 1;
                continue;
            };
            match word.to_ascii_uppercase().as_str() {
                "INTO" => {
                    self.at += 1;
                    self.accept("TABLE");
                    break;
                }
                "LOW_PRIORITY" | "DELAYED" | "HIGH_PRIORITY" | "IGNORE" | "REPLACE" | "DATA" | "XML" | "LOCAL" | "INFILE"
                | "CONCURRENT" => {
                    self.at += 1;
                }
                // IMPORT TABLE FROM 'file': which tables stands in the file.
                "TABLE" => return self.unknown(),
                _ => break,
            }
        }
        self.name().map_or_else(|| self.unknown(), |name| Effect::Dml(vec![name]))
    }

    /// `a, b.c, …`
    fn listed(&mut self, effect: fn(Vec<Name>) -> Effect) -> Effect {
        let mut names = Vec::new();
        loop {
            let Some(name) = self.name() else { return self.unknown() };
            names.push(name);
            if !self.symbol(',') {
                return effect(names);
            }
        }
    }

    fn unknown(&self) -> Effect {
        Effect::Unknown(self.all_names())
    }

    /// Every word and quoted name of the whole statement, qualified or not.
    fn all_names(&self) -> Vec<Name> {
        let mut all = Parser { tokens: self.tokens, at: 0, database: self.database };
        let mut names = Vec::new();
        while all.at < all.tokens.len() {
            match all.name() {
                // A default database and `a.b`, which may also be `table.column`.
                Some(name) => {
                    names.push(Name { database: self.database.to_owned(), table: name.database.clone() });
                    names.push(name);
                }
                None => all.at += 1,
            }
        }
        names
    }

    /// `IF [NOT] EXISTS`.
    fn skip_exists(&mut self) {
        if self.accept("IF") {
            self.accept("NOT");
            self.accept("EXISTS");
        }
    }

    /// `table` or `database.table`.
    fn name(&mut self) -> Option<Name> {
        let first = self.part()?;
        if !self.symbol('.') {
            return Some(Name { database: self.database.to_owned(), table: first });
        }
        let table = self.part()?;
        Some(Name { database: first, table })
    }

    fn part(&mut self) -> Option<String> {
        match self.tokens.get(self.at)? {
            Token::Word(word) | Token::Name(word) => {
                self.at += 1;
                Some(word.clone())
            }
            _ => None,
        }
    }

    fn next(&mut self) -> Option<&Token> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    /// The next word in upper case; `None` at anything else.
    fn word(&mut self) -> Option<String> {
        let Token::Word(word) = self.tokens.get(self.at)? else { return None };
        self.at += 1;
        Some(word.to_ascii_uppercase())
    }

    fn accept(&mut self, wanted: &str) -> bool {
        let found = matches!(self.tokens.get(self.at), Some(Token::Word(word)) if word.eq_ignore_ascii_case(wanted));
        self.at += usize::from(found);
        found
    }

    fn symbol(&mut self, wanted: char) -> bool {
        let found = self.tokens.get(self.at) == Some(&Token::Symbol(wanted));
        self.at += usize::from(found);
        found
    }

    fn rest_has(&self, wanted: &str) -> bool {
        self.tokens[self.at..].iter().any(|token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(wanted)))
    }
}

fn tokens(text: &str, ansi_quotes: bool) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = match first {
            c if c.is_whitespace() => after,
            '#' => line_end(after),
            '-' if after.starts_with('-') && after[1..].chars().next().is_none_or(char::is_whitespace) => line_end(after),
            // `/*!80000 …*/` is run by the server: only its frame is skipped.
            '/' if after.starts_with("*!") => after[2..].trim_start_matches(|c: char| c.is_ascii_digit()),
            '/' if after.starts_with('*') => after.find("*/").map_or("", |end| &after[end + 2..]),
            '*' if after.starts_with('/') => &after[1..],
            '`' => quoted(after, '`', false, |bytes| tokens.push(Token::Name(lossy(bytes)))),
            '"' if ansi_quotes => quoted(after, '"', false, |bytes| tokens.push(Token::Name(lossy(bytes)))),
            '\'' | '"' => quoted(after, first, true, |bytes| tokens.push(Token::Text(bytes))),
            'x' | 'X' if after.starts_with('\'') => quoted(&after[1..], '\'', false, |digits| tokens.push(Token::Text(unhex(&digits)))),
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                &rest[end..]
            }
            c => {
                tokens.push(Token::Symbol(c));
                after
            }
        };
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii()
}

fn line_end(rest: &str) -> &str {
    rest.find('\n').map_or("", |end| &rest[end + 1..])
}

/// Takes a quoted run (its opening quote is already taken) and gives back what follows. A doubled quote stands for itself.
fn quoted(rest: &str, quote: char, backslash: bool, take: impl FnOnce(Vec<u8>)) -> &str {
    let mut bytes = Vec::new();
    let mut chars = rest.char_indices().peekable();
    let mut buffer = [0; 4];
    while let Some((at, c)) = chars.next() {
        if c == quote && chars.next_if(|&(_, next)| next == quote).is_none() {
            take(bytes);
            return &rest[at + c.len_utf8()..];
        }
        let c = if backslash && c == '\\' { chars.next().map_or(c, |(_, escaped)| escaped) } else { c };
        bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    }
    take(bytes);
    ""
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unhex(digits: &[u8]) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, &b| byte << 4 | digit(b))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<Name> {
        let split = |name: &&str| name.split_once('.').map(|(d, t)| Name { database: d.into(), table: t.into() });
        names.iter().map(|name| split(name).expect("database.table")).collect()
    }

    fn of(text: &str) -> Effect {
        effect(text, "shop", false)
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
    fn tables_that_change() {
        for (text, expected) in [
            ("TRUNCATE products", Effect::Truncate(names(&["shop.products"]))),
            ("truncate table `other`.`a``b`", Effect::Truncate(names(&["other.a`b"]))),
            ("DROP TABLE IF EXISTS a, `b` /* generated by server */", Effect::Drop(names(&["shop.a", "shop.b"]))),
            ("DROP TEMPORARY TABLE a", Effect::Nothing),
            ("DROP DATABASE `x`", Effect::DropDatabase("x".into())),
            ("RENAME TABLE a TO b, c TO other.a", Effect::Reload(names(&["shop.a", "shop.b", "shop.c", "other.a"]))),
            ("ALTER TABLE a ADD COLUMN b INT FIRST", Effect::Reload(names(&["shop.a"]))),
            ("ALTER TABLE a RENAME COLUMN b TO c", Effect::Reload(names(&["shop.a"]))),
            ("ALTER TABLE a RENAME b", Effect::Reload(names(&["shop.a", "shop.b"]))),
            ("ALTER TABLE a EXCHANGE PARTITION p WITH TABLE x.y WITHOUT VALIDATION", Effect::Reload(names(&["shop.a", "x.y"]))),
            ("/*!40000 ALTER TABLE `a` DISABLE KEYS */", Effect::Reload(names(&["shop.a"]))),
            ("-- hello\n# there\nCREATE TABLE IF NOT EXISTS a (x int) START TRANSACTION", Effect::Reload(names(&["shop.a"]))),
            ("CREATE TEMPORARY TABLE a (x int)", Effect::Nothing),
            ("CREATE UNIQUE INDEX i ON a (x)", Effect::Nothing),
            ("GRANT SELECT ON a TO b", Effect::Nothing),
            ("INSERT IGNORE INTO a SELECT * FROM b", Effect::Dml(names(&["shop.a"]))),
            ("LOAD DATA LOCAL INFILE 'x' INTO TABLE `a`", Effect::Dml(names(&["shop.a"]))),
            ("", Effect::Nothing),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_names_every_word() {
        let has = |effect: Effect, table: &str| match effect {
            Effect::Unknown(names) | Effect::Dml(names) => names.contains(&Name { database: "shop".into(), table: table.into() }),
            other => panic!("{other:?}"),
        };
        assert!(has(of("FROBNICATE TABLE products"), "products"));
        assert!(has(of("UPDATE users u JOIN shop.products p SET p.x = 1"), "products"));
        assert!(has(of("DELETE products.* FROM products"), "products"));
        assert!(!has(of("FROBNICATE 'products'"), "products"));
    }

    #[test]
    fn double_quotes_are_names_in_ansi_mode_only() {
        assert_eq!(effect("TRUNCATE \"a\"", "shop", true), Effect::Truncate(names(&["shop.a"])));
        assert!(matches!(of("TRUNCATE \"a\""), Effect::Unknown(_)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s)[A-Za-z`'\"/*!#\\-\\\\ .,é\n]{0,80}", ansi: bool) {
            effect(&text, "shop", ansi);
        }
    }
}
