//! What has been published, as it stands in the progress topic `larder.<name>.progress` (promise W2). Pure.
//!
//! The topic is compacted; the newest record of a key counts. Written in the same transactions as the changes.
//!
//! ```text
//! key `source`            {"format":1,"position":"<position>","part":null}
//!                         everything up to the position is published for every table that follows it. `part`: of the transaction
//!                         after it, split by limits.transaction_bytes, the changes before `next` are out: {"id":"…","next":n,"parts":k}
//! key `table/<name>`      {"format":1,"mysql":"db.table","topic":"…","key":["id"],"state":{…}}
//!   {"kind":"new"}                                   nothing is published
//!   {"kind":"following"}                             published up to `source`
//!   {"kind":"reading","at":"<position>","place":"…"} rows up to the place are published as of the position
//!   {"kind":"read","at":"<position>"}                all rows are, and nothing after the position
//!   {"kind":"again"}                                 all rows are to be published again
//!   {"kind":"compare"}                               what is published differs from the table in a way that changes do not tell
//!   {"kind":"stopped","reason":"…","message":"…"}    nothing more is published until it has been compared
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Position;

/// The format of the records. A record of a later format is refused: an older Larder must not go on over it.
const FORMAT: u32 = 1;

const SOURCE: &str = "source";
const TABLE: &str = "table/";

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// `None` before the first snapshot is done.
    pub position: Option<Position>,
    pub part: Option<Part>,
    pub tables: BTreeMap<String, TableProgress>,
}

/// How much of a transaction that was split is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Identity of the transaction.
    pub id: String,
    /// The number of its next change: all before it are out.
    pub next: u64,
    /// Parts published.
    pub parts: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TableProgress {
    /// `database.table`.
    pub mysql: String,
    pub topic: String,
    /// The columns of the key of what is published; empty before anything is.
    pub key: Vec<String>,
    pub state: TableState,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TableState {
    New,
    Following,
    Reading { at: Position, place: String },
    Read { at: Position },
    Again,
    Compare,
    Stopped { reason: String, message: String },
}

impl TableProgress {
    /// Whether rows of it are published.
    pub fn is_out(&self) -> bool {
        matches!(self.state, TableState::Following | TableState::Reading { .. } | TableState::Read { .. })
    }
}

/// Why a record of the topic cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProgress {
    #[error("the record {key} has the format {format}; this Larder knows formats up to {FORMAT}: run the newer Larder that wrote it")]
    Newer { key: String, format: u32 },
    #[error("the record {key} cannot be read: {fault}")]
    Damaged { key: String, fault: String },
}

impl Progress {
    /// Takes one record of the topic; what no Larder wrote is an error.
    pub fn take(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), BadProgress> {
        let damaged = |fault: String| BadProgress::Damaged { key: key.to_owned(), fault };
        let table = key.strip_prefix(TABLE);
        let Some(value) = value else {
            match table {
                Some(table) => drop(self.tables.remove(table)),
                None => *self = Progress { tables: std::mem::take(&mut self.tables), ..Progress::default() },
            }
            return Ok(());
        };
        let Format { format } = serde_json::from_slice(value).map_err(|error| damaged(error.to_string()))?;
        if format > FORMAT {
            return Err(BadProgress::Newer { key: key.to_owned(), format });
        }
        if let Some(table) = table {
            let record: TableRecord = serde_json::from_slice(value).map_err(|error| damaged(error.to_string()))?;
            let state = record.state.clone().parse().map_err(damaged)?;
            let TableRecord { mysql, topic, key, .. } = record;
            self.tables.insert(table.to_owned(), TableProgress { mysql, topic, key, state });
        } else if key == SOURCE {
            let record: SourceRecord = serde_json::from_slice(value).map_err(|error| damaged(error.to_string()))?;
            self.position = Some(position(&record.position).map_err(damaged)?);
            self.part = record.part;
        } else {
            return Err(damaged("it is no key of ours".into()));
        }
        Ok(())
    }

    /// The record of the source, if there is a position.
    pub fn source_record(&self) -> Option<(&'static str, Vec<u8>)> {
        let position = self.position.as_ref()?.to_string();
        let record = SourceRecord { format: FORMAT, position, part: self.part.clone() };
        Some((SOURCE, json(&record)))
    }

    /// The record of a table that is known.
    pub fn table_record(&self, name: &str) -> Option<(String, Vec<u8>)> {
        let TableProgress { mysql, topic, key, state } = self.tables.get(name)?;
        let record =
            TableRecord { format: FORMAT, mysql: mysql.clone(), topic: topic.clone(), key: key.clone(), state: StateRecord::of(state) };
        Some((format!("{TABLE}{name}"), json(&record)))
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct SourceRecord {
    format: u32,
    position: String,
    part: Option<Part>,
}

#[derive(Serialize, Deserialize)]
struct TableRecord {
    format: u32,
    mysql: String,
    topic: String,
    #[serde(default)]
    key: Vec<String>,
    state: StateRecord,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum StateRecord {
    New,
    Following,
    Reading { at: String, place: String },
    Read { at: String },
    Again,
    Compare,
    Stopped { reason: String, message: String },
}

impl StateRecord {
    fn of(state: &TableState) -> Self {
        match state {
            TableState::New => StateRecord::New,
            TableState::Following => StateRecord::Following,
            TableState::Reading { at, place } => StateRecord::Reading { at: at.to_string(), place: place.clone() },
            TableState::Read { at } => StateRecord::Read { at: at.to_string() },
            TableState::Again => StateRecord::Again,
            TableState::Compare => StateRecord::Compare,
            TableState::Stopped { reason, message } => StateRecord::Stopped { reason: reason.clone(), message: message.clone() },
        }
    }

    fn parse(self) -> Result<TableState, String> {
        Ok(match self {
            StateRecord::New => TableState::New,
            StateRecord::Following => TableState::Following,
            StateRecord::Reading { at, place } => TableState::Reading { at: position(&at)?, place },
            StateRecord::Read { at } => TableState::Read { at: position(&at)? },
            StateRecord::Again => TableState::Again,
            StateRecord::Compare => TableState::Compare,
            StateRecord::Stopped { reason, message } => TableState::Stopped { reason, message },
        })
    }
}

fn position(text: &str) -> Result<Position, String> {
    text.parse().map_err(|error: crate::model::position::BadPosition| error.to_string())
}

fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("text and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        format!("3e3e3e3e-3e3e-3e3e-3e3e-3e3e3e3e3e3e/b.1:{offset}/3e3e3e3e-3e3e-3e3e-3e3e-3e3e3e3e3e3e:1-7").parse().expect("a position")
    }

    #[test]
    fn what_is_written_is_read() {
        let states = [
            TableState::Following,
            TableState::New,
            TableState::Reading { at: at(4), place: r#"["i5"]"#.into() },
            TableState::Read { at: at(9) },
            TableState::Again,
            TableState::Compare,
            TableState::Stopped { reason: "too-large".into(), message: "a row".into() },
        ];
        let mut progress =
            Progress { position: Some(at(12)), part: Some(Part { id: "x:1".into(), next: 9, parts: 2 }), ..Progress::default() };
        for (index, state) in states.into_iter().enumerate() {
            let table = TableProgress { mysql: "shop.t".into(), topic: "t".into(), key: vec!["id".into()], state };
            progress.tables.insert(format!("t{index}"), table);
        }
        let mut read = Progress::default();
        let (key, value) = progress.source_record().expect("a position");
        read.take(key, Some(&value)).expect("the record of the source");
        for name in progress.tables.keys() {
            let (key, value) = progress.table_record(name).expect("a table");
            read.take(&key, Some(&value)).expect("the record of a table");
        }
        assert_eq!(read, progress);
        read.take("table/t0", None).expect("a tombstone");
        assert!(!read.tables.contains_key("t0"));
    }

    #[test]
    fn p11_a_later_format_is_refused() {
        let mut progress = Progress::default();
        let newer = progress.take("source", Some(br#"{"format":2,"anything":true}"#));
        assert_eq!(newer, Err(BadProgress::Newer { key: "source".into(), format: 2 }));
        for (key, value) in [("source", "x"), ("source", r#"{"format":1}"#), ("other", r#"{"format":1}"#)] {
            assert!(matches!(progress.take(key, Some(value.as_bytes())), Err(BadProgress::Damaged { .. })), "{key} {value}");
        }
    }
}
