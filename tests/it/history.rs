//! What a change topic says of each key, judged: legal, complete, in order, and equal to the table in the end (invariants I5, I7, I9).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::Record;

/// A topic read from its beginning.
#[derive(Debug, Default)]
pub struct History {
    /// The row that stands for each key, as JSON.
    pub rows: BTreeMap<String, Value>,
    /// Keys that have a delete behind them that no tombstone followed yet.
    deleted: BTreeSet<String>,
    origins: BTreeSet<String>,
    pub reads: usize,
    pub changes: usize,
    pub faults: Vec<String>,
}

impl History {
    /// `counter`: a column that each update of a row raises by one, and that a row begins with 0.
    pub fn of(records: &[Record], counter: &str) -> Self {
        let mut history = Self::default();
        for record in records {
            history.take(record, counter);
        }
        history
    }

    #[track_caller]
    pub fn assert_legal(&self) {
        assert!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults[..self.faults.len().min(20)].join("\n"));
    }

    fn take(&mut self, record: &Record, counter: &str) {
        let place = format!("{}/{}", record.partition, record.offset);
        let Some(key) = record.key_text().map(str::to_owned) else {
            let truncate = record.value.is_some() && record.json()["op"] == "t";
            if truncate {
                self.rows.clear()
            } else {
                self.faults.push(format!("{place}: a record without key"))
            }
            return;
        };
        let Some(origin) = record.header("larder-origin").map(str::to_owned) else {
            return self.faults.push(format!("{place}: no larder-origin"));
        };
        let Some(_) = &record.value else {
            if !self.deleted.remove(&key) {
                self.faults.push(format!("{place}: a tombstone of {key} without a delete"));
            }
            return;
        };
        let value = record.json();
        let op = value["op"].as_str().unwrap_or_default().to_owned();
        if !self.origins.insert(format!("{origin}/{op}")) {
            self.faults.push(format!("{place}: {op} of {origin} is there twice"));
        }
        if self.deleted.remove(&key) {
            self.faults.push(format!("{place}: a delete of {key} without a tombstone"));
        }
        let known = self.rows.get(&key);
        let count = |row: &Value| row[counter].as_i64();
        let fault = match (op.as_str(), known) {
            ("r" | "c", None) | ("d", Some(_)) => None,
            ("u", Some(known)) if count(known).map(|n| n + 1) == count(&value["after"]) => None,
            ("u", Some(known)) => Some(format!("it went from {:?} to {:?}", count(known), count(&value["after"]))),
            (_, known) => Some(format!("what stands is {known:?}")),
        };
        if let Some(fault) = fault {
            self.faults.push(format!("{place}: {op} of {key} ({origin}): {fault}"));
        }
        if op != "r"
            && op != "c"
            && let Some(known) = known
            && !value["before"].is_null()
            // A column that came later was not there when the row was published.
            && known.as_object().is_some_and(|known| known.iter().any(|(column, held)| value["before"][column] != *held))
        {
            self.faults.push(format!("{place}: {op} of {key} says that it was {}, it was {known}", value["before"]));
        }
        if op == "r" {
            self.reads += 1
        } else {
            self.changes += 1
        }
        if op == "d" {
            self.rows.remove(&key);
            self.deleted.insert(key);
        } else {
            self.rows.insert(key, value["after"].clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, key: &str, value: Option<&str>, origin: &str) -> Record {
        Record {
            partition: 0,
            offset,
            timestamp: None,
            key: Some(key.into()),
            value: value.map(Into::into),
            headers: vec![("larder-origin".into(), origin.into())],
        }
    }

    /// A checker counts only once it has found every planted fault (invariant I28).
    #[test]
    fn planted_faults_are_found() {
        let row = |n: i64| format!(r#"{{"id":1,"n":{n}}}"#);
        let change = |op: &str, before: Option<i64>, after: Option<i64>| {
            let text = |n: Option<i64>| n.map_or("null".to_owned(), row);
            format!(r#"{{"op":"{op}","before":{},"after":{}}}"#, text(before), text(after))
        };
        let good = [
            record(0, "1", Some(&change("r", None, Some(0))), "snapshot/0"),
            record(1, "1", Some(&change("u", Some(0), Some(1))), "a:1/0"),
            record(2, "1", Some(&change("u", Some(1), Some(2))), "a:2/0"),
            record(3, "1", Some(&change("d", Some(2), None)), "a:3/0"),
            record(4, "1", None, "a:3/0"),
            record(5, "1", Some(&change("c", None, Some(0))), "a:4/0"),
        ];
        History::of(&good, "n").assert_legal();
        let planted = |plant: &dyn Fn(&mut Vec<Record>)| {
            let mut records = good.to_vec();
            plant(&mut records);
            !History::of(&records, "n").faults.is_empty()
        };
        assert!(planted(&|records| drop(records.remove(1))), "a lost update");
        assert!(planted(&|records| drop(records.remove(0))), "a lost read");
        assert!(planted(&|records| drop(records.remove(3))), "a lost delete");
        assert!(planted(&|records| drop(records.remove(4))), "a lost tombstone");
        assert!(planted(&|records| records.insert(2, records[1].clone())), "a doubled update");
        assert!(planted(&|records| records.insert(1, records[0].clone())), "a doubled read");
        assert!(planted(&|records| records.swap(1, 2)), "swapped updates");
        assert!(planted(&|records| records[2].value = Some(change("u", Some(7), Some(2)).into())), "a wrong before");
        assert!(planted(&|records| records[1].headers.clear()), "no origin");
    }
}
