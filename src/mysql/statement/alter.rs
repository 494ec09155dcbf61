//! The actions of ALTER TABLE, each read just far enough to know what becomes of rows and columns. Pure.
//!
//! ```text
//! ALTER [IGNORE] TABLE t action [, action] …    action: ADD … | DROP … | MODIFY … | option [option] … | partitions | …
//! ```
//! The grammars of MySQL 9 and MariaDB 12 together. An action that is in neither makes the whole statement unknown.

use super::lexer::Token;
use super::{Effect, Name, Parser};

/// What an action changes; a statement changes the most of its actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Extent {
    Storage,
    IndexDropped,
    Columns,
    Content,
}

impl Parser<'_> {
    /// What follows ALTER.
    pub(super) fn alter(&mut self) -> Effect {
        let mut extent = Extent::Storage;
        while let Some(word) = ["ONLINE", "OFFLINE", "IGNORE"].into_iter().find(|word| self.accept(word)) {
            // With IGNORE a new unique index deletes the rows that are in its way.
            extent = extent.max(if word == "IGNORE" { Extent::Content } else { Extent::Storage });
        }
        if !self.accept("TABLE") {
            // ALTER DATABASE, USER, VIEW, INSTANCE, TABLESPACE …
            return Effect::Nothing;
        }
        self.skip_exists();
        let Some(name) = self.name() else { return self.unknown() };
        self.skip_wait();
        let mut names = vec![name];
        let mut new_name = None;
        while self.at < self.tokens.len() {
            let Some(action) = self.action(&mut names, &mut new_name) else { return self.unknown() };
            extent = extent.max(action);
            if self.at < self.tokens.len() && !self.symbol(',') {
                return self.unknown();
            }
        }
        // Whoever follows a name looks at everything anew when it stands for another table.
        if let Some(new_name) = new_name.filter(|new_name| *new_name != names[0]) {
            return Effect::Renamed(vec![(names.remove(0), new_name)]);
        }
        match extent {
            Extent::Storage => Effect::Storage(names),
            Extent::IndexDropped => Effect::IndexDropped(names),
            Extent::Columns => Effect::Columns(names),
            Extent::Content => Effect::Content(names),
        }
    }

    /// One action, up to its comma; `None` where it is not understood. Another table it touches is added to `names`.
    fn action(&mut self, names: &mut Vec<Name>, new_name: &mut Option<Name>) -> Option<Extent> {
        let begin = self.at;
        let extent = match self.word()?.as_str() {
            "ADD" => self.add()?,
            "DROP" => self.drop_part()?,
            "MODIFY" | "CHANGE" => Extent::Columns,
            // A default, or whether a column, an index or a check is used.
            "ALTER" | "ORDER" => Extent::Storage,
            "RENAME" => {
                if self.accept("COLUMN") {
                    Extent::Columns
                } else if self.accept("INDEX") || self.accept("KEY") {
                    Extent::Storage
                } else {
                    let _ = self.accept("TO") || self.accept("AS") || self.symbol('=');
                    *new_name = Some(self.name()?);
                    return Some(Extent::Storage);
                }
            }
            "CONVERT" => {
                if self.accept("TO") {
                    Extent::Columns
                } else {
                    // MariaDB: CONVERT PARTITION p TO TABLE x, CONVERT TABLE x TO PARTITION p.
                    return self.exchange(names, "TABLE");
                }
            }
            "EXCHANGE" => return self.exchange(names, "TABLE"),
            // Lists of partitions have commas of their own, and such an action is the last of its statement.
            "TRUNCATE" | "DISCARD" | "IMPORT" => return Some(self.last(Extent::Content)),
            "COALESCE" | "REORGANIZE" | "ANALYZE" | "CHECK" | "OPTIMIZE" | "REBUILD" | "REPAIR" | "REMOVE" | "PARTITION" => {
                return Some(self.last(Extent::Storage));
            }
            _ => {
                self.at = begin;
                return self.options();
            }
        };
        self.skip_action();
        Some(extent)
    }

    /// `ADD …`: a column, or what stands beside columns.
    fn add(&mut self) -> Option<Extent> {
        if self.accept("COLUMN") {
            return Some(Extent::Columns);
        }
        if self.accept("PARTITION") {
            return Some(self.last(Extent::Storage));
        }
        if self.accept("CONSTRAINT") && !["PRIMARY", "UNIQUE", "FOREIGN", "CHECK"].iter().any(|word| self.next_is(word)) {
            self.part()?;
            if !["PRIMARY", "UNIQUE", "FOREIGN", "CHECK"].iter().any(|word| self.next_is(word)) {
                return None;
            }
        }
        if ["INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "CHECK"].iter().any(|word| self.accept(word)) {
            return Some(Extent::Storage);
        }
        if self.accept("FOREIGN") {
            // ON DELETE CASCADE, SET NULL, …: rows may change without row events from now on, which the catalogue shows.
            let cascades = ["CASCADE", "SET"].iter().any(|word| self.action_has(word));
            return Some(if cascades { Extent::Columns } else { Extent::Storage });
        }
        self.of_mariadb()
    }

    /// `DROP …`: a column, or what stands beside columns.
    fn drop_part(&mut self) -> Option<Extent> {
        if self.accept("COLUMN") || self.accept("PRIMARY") {
            return Some(Extent::Columns);
        }
        if self.accept("FOREIGN") || self.accept("CHECK") {
            return Some(Extent::Storage);
        }
        if self.accept("PARTITION") {
            return Some(self.last(Extent::Content));
        }
        // A constraint may be a unique index, and also the primary key.
        if ["INDEX", "KEY", "CONSTRAINT"].iter().any(|word| self.accept(word)) {
            self.skip_exists();
            let primary = self.part()?.eq_ignore_ascii_case("PRIMARY");
            return Some(if primary { Extent::Columns } else { Extent::IndexDropped });
        }
        self.of_mariadb()
    }

    /// A column, unless it is what only MariaDB has: an index of vectors, or the versions of rows, of which we know nothing.
    fn of_mariadb(&mut self) -> Option<Extent> {
        let second = self.tokens.get(self.at + 1);
        let second_is = |word: &str| matches!(second, Some(Token::Word(second)) if second.eq_ignore_ascii_case(word));
        if self.next_is("VECTOR") && (second_is("INDEX") || second_is("KEY")) {
            return Some(Extent::Storage);
        }
        let versions = self.next_is("PERIOD") && second_is("FOR") || self.next_is("SYSTEM") && second_is("VERSIONING");
        (!versions).then_some(Extent::Columns)
    }

    /// `… TABLE other …`: rows of both tables change places.
    fn exchange(&mut self, names: &mut Vec<Name>, before: &str) -> Option<Extent> {
        while !self.accept(before) {
            self.next()?;
        }
        names.push(self.name()?);
        Some(self.last(Extent::Content))
    }

    /// Options of the table and of the statement, which need no commas between them.
    fn options(&mut self) -> Option<Extent> {
        let mut extent = Extent::Storage;
        while self.at < self.tokens.len() && self.tokens[self.at] != Token::Symbol(',') {
            self.accept("DEFAULT");
            match self.word()?.as_str() {
                "FORCE" | "NOWAIT" | "SECONDARY_LOAD" | "SECONDARY_UNLOAD" => {}
                "ENABLE" | "DISABLE" => self.accept("KEYS").then_some(())?,
                "WITH" | "WITHOUT" => self.accept("VALIDATION").then_some(())?,
                "UPGRADE" => self.accept("PARTITIONING").then_some(())?,
                "CHARACTER" => {
                    self.accept("SET").then_some(())?;
                    self.value()?;
                }
                "DATA" | "INDEX" => {
                    self.accept("DIRECTORY").then_some(())?;
                    self.value()?;
                }
                "ENGINE" | "TYPE" => {
                    self.symbol('=');
                    // Rows moved into an engine that may keep none of them.
                    if !self.part()?.eq_ignore_ascii_case("InnoDB") {
                        extent = Extent::Content;
                    }
                }
                "ALGORITHM"
                | "AUTOEXTEND_SIZE"
                | "AUTO_INCREMENT"
                | "AVG_ROW_LENGTH"
                | "CHARSET"
                | "CHECKSUM"
                | "COLLATE"
                | "COMMENT"
                | "COMPRESSION"
                | "CONNECTION"
                | "DELAY_KEY_WRITE"
                | "ENCRYPTED"
                | "ENCRYPTION"
                | "ENCRYPTION_KEY_ID"
                | "ENGINE_ATTRIBUTE"
                | "INSERT_METHOD"
                | "KEY_BLOCK_SIZE"
                | "LOCK"
                | "MAX_ROWS"
                | "MIN_ROWS"
                | "PACK_KEYS"
                | "PAGE_CHECKSUM"
                | "PAGE_COMPRESSED"
                | "PAGE_COMPRESSION_LEVEL"
                | "PASSWORD"
                | "ROW_FORMAT"
                | "SECONDARY_ENGINE"
                | "SECONDARY_ENGINE_ATTRIBUTE"
                | "STATS_AUTO_RECALC"
                | "STATS_PERSISTENT"
                | "STATS_SAMPLE_PAGES"
                | "STORAGE"
                | "TABLESPACE"
                | "TABLE_CHECKSUM"
                | "TRANSACTIONAL"
                | "WAIT" => self.value()?,
                _ => return None,
            }
        }
        Some(extent)
    }

    /// `[=] value`.
    fn value(&mut self) -> Option<()> {
        self.symbol('=');
        match self.next()? {
            Token::Symbol(_) => None,
            _ => Some(()),
        }
    }

    /// The rest of the statement belongs to this action.
    fn last(&mut self, extent: Extent) -> Extent {
        self.at = self.tokens.len();
        extent
    }

    /// Goes on to the comma that ends the action.
    fn skip_action(&mut self) {
        self.at = self.action_end();
    }

    fn action_has(&self, wanted: &str) -> bool {
        let action = &self.tokens[self.at..self.action_end()];
        action.iter().any(|token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(wanted)))
    }

    fn action_end(&self) -> usize {
        let mut depth = 0_usize;
        let ends = |token: &Token| match token {
            Token::Symbol('(') => {
                depth += 1;
                false
            }
            Token::Symbol(')') => {
                depth = depth.saturating_sub(1);
                false
            }
            Token::Symbol(',') => depth == 0,
            _ => false,
        };
        self.tokens[self.at..].iter().position(ends).map_or(self.tokens.len(), |length| self.at + length)
    }
}
