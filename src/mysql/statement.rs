//! What a statement in the binlog does to tables. Pure.
//!
//! With row format the binlog holds statements only for transaction control and DDL. We read just enough of the text to say
//! which tables are touched, and how. In doubt the answer is [`Effect::Unknown`] with every name in the text, and the reader
//! of the answer reads a table again if its name is among them: a statement is never skipped because it was not understood.
//! What is said is at least what the statement did: an effect may be too large, never too small.

mod alter;
mod lexer;

use super::charset;
use super::event::Query;
use crate::config::plan::InvalidText;
use lexer::{Token, tokens};

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

/// What a statement did to tables. An effect above another in the list of [`Storage`](Effect::Storage) to
/// [`Content`](Effect::Content) includes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Begin,
    Commit,
    Rollback,
    /// Begins an XA transaction; its rows follow.
    XaStart,
    XaCommit(Xid),
    XaRollback(Xid),
    /// No table is concerned.
    Nothing,
    /// Indexes, constraints, defaults, partitioning, options: every row and every column stays. Only who could not read the table
    /// before has a reason to look again.
    Storage(Vec<Name>),
    /// The same, and an index is gone that may have been the unique one of a configured key.
    IndexDropped(Vec<Name>),
    /// Columns or the primary key change, or a foreign key comes that changes rows by itself. Rows show what the server makes of
    /// them under the new columns; none comes or goes. Whether the key is still the same is seen in the catalogue.
    Columns(Vec<Name>),
    /// Rows come or go without row events: partitions and tablespaces dropped, exchanged, imported; another storage engine.
    Content(Vec<Name>),
    /// Every row is gone, the columns stay.
    Truncate(Vec<Name>),
    /// In this order, all at once: what was known of the first name of a pair is now true of the second, and the first is free.
    Renamed(Vec<(Name, Name)>),
    Created {
        table: Name,
        /// `IF NOT EXISTS`: nothing happened if the table was there.
        if_absent: bool,
        /// `CREATE TABLE … SELECT`: its rows follow in the same transaction.
        rows_follow: bool,
    },
    Drop(Vec<Name>),
    DropDatabase(String),
    /// Rows are changed by statement, so that no row events say how.
    Dml(Vec<Name>),
    /// Not understood; every name in the text.
    Unknown(Vec<Name>),
}

/// The SQL modes that change how a text is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modes {
    /// `"x"` is a name rather than text.
    pub ansi_quotes: bool,
    /// A backslash in a text is a backslash.
    pub no_backslash_escapes: bool,
}

/// Reads a statement, in the charset and the modes of the session that ran it.
pub fn effect(query: &Query<'_>) -> Effect {
    let text = match query.collation.map(|collation| charset::decode(collation, query.text, InvalidText::Replace)) {
        Some(Ok((text, _))) => text,
        _ => String::from_utf8_lossy(query.text),
    };
    read(&text, &String::from_utf8_lossy(query.database), query.modes)
}

fn read(text: &str, database: &str, modes: Modes) -> Effect {
    let mut tokens = tokens(text, modes);
    while tokens.last() == Some(&Token::Symbol(';')) {
        tokens.pop();
    }
    Parser { tokens: &tokens, at: 0, database }.statement()
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    database: &'a str,
}

impl Parser<'_> {
    fn statement(&mut self) -> Effect {
        // MariaDB: SET STATEMENT variable = value FOR statement.
        while self.next_is("SET")
            && matches!(self.tokens.get(self.at + 1), Some(Token::Word(word)) if word.eq_ignore_ascii_case("STATEMENT"))
        {
            while !self.accept("FOR") {
                if self.next().is_none() {
                    return self.unknown();
                }
            }
        }
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
        let replace = self.accept("OR") && self.accept("REPLACE");
        if self.accept("TEMPORARY") {
            return Effect::Nothing;
        }
        if self.accept("TABLE") {
            let if_absent = self.skip_exists();
            let Some(table) = self.name() else { return self.unknown() };
            let rows_follow = matches!(self.tokens, [.., Token::Word(start), Token::Word(transaction)]
                if start.eq_ignore_ascii_case("START") && transaction.eq_ignore_ascii_case("TRANSACTION"));
            return Effect::Created { table, if_absent, rows_follow };
        }
        while ["UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR"].iter().any(|word| self.accept(word)) {}
        if self.accept("INDEX") {
            return self.on_table(if replace { Effect::IndexDropped } else { Effect::Storage });
        }
        // Views, triggers, routines, users, databases: no table changes.
        Effect::Nothing
    }

    /// `[IF [NOT] EXISTS] index … ON table …`.
    fn on_table(&mut self, effect: fn(Vec<Name>) -> Effect) -> Effect {
        while !self.accept("ON") {
            if self.next().is_none() {
                return self.unknown();
            }
        }
        self.name().map_or_else(|| self.unknown(), |name| effect(vec![name]))
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
        if self.accept("INDEX") {
            self.skip_exists();
            let primary = self.part().is_some_and(|index| index.eq_ignore_ascii_case("PRIMARY"));
            return self.on_table(if primary { Effect::Columns } else { Effect::IndexDropped });
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
        self.skip_exists();
        let mut pairs = Vec::new();
        loop {
            let Some(from) = self.name() else { return self.unknown() };
            self.skip_wait();
            let to = self.accept("TO").then(|| self.name()).flatten();
            let Some(to) = to else { return self.unknown() };
            pairs.push((from, to));
            if !self.symbol(',') {
                return Effect::Renamed(pairs);
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

    /// `IF [NOT] EXISTS`; whether it was there.
    fn skip_exists(&mut self) -> bool {
        let found = self.accept("IF");
        if found {
            self.accept("NOT");
            self.accept("EXISTS");
        }
        found
    }

    /// `WAIT 5` or `NOWAIT`, with which MariaDB waits for locks.
    fn skip_wait(&mut self) {
        if self.accept("WAIT") {
            self.word();
        }
        self.accept("NOWAIT");
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
        let found = self.next_is(wanted);
        self.at += usize::from(found);
        found
    }

    fn next_is(&self, wanted: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Word(word)) if word.eq_ignore_ascii_case(wanted))
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

#[cfg(test)]
mod tests;
