//! What stands in a change topic, for tables of which it must be compared with what they hold: after a statement that changed rows
//! without row events, after a stop, after a purged binlog.
//!
//! The topic is the truth of what was published. Of each key its last row is kept as a digest, so this takes memory for the keys of one
//! table while it is compared.

use hashbrown::HashMap;
use rdkafka::message::{BorrowedMessage, Message as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::maker::Published;
use super::{Ended, Publisher};
use crate::config::plan::TablePlan;
use crate::kafka::client::Fault;
use crate::kafka::reader;

/// The last row of each key.
#[derive(Debug, Default)]
pub struct Standing {
    keys: HashMap<Box<[u8]>, Last>,
    /// Every row is to be published again.
    again: bool,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    row: [u8; 16],
    partition: i32,
}

/// Reads a table's topic from its beginning. With `again`, every row counts as different.
pub fn standing(publisher: &Publisher, plan: &TablePlan, again: bool) -> Result<Standing, Ended> {
    let Some(publish) = &plan.publish else { return Ok(Standing::default()) };
    let mut standing = Standing { again, ..Standing::default() };
    let mut unread = 0_u64;
    let limits = &publisher.plan.limits;
    let read = reader::read_all(&publisher.plan.kafka, limits, &publish.topic, |message| {
        if standing.take(message).is_none() {
            unread += 1;
        }
        if publisher.is_stopping() { Err(Fault::Retry("the daemon stops".into())) } else { Ok(()) }
    });
    if unread > 0 {
        tracing::warn!(topic = publish.topic, unread, "{unread} records of topic {} are no change records of ours", publish.topic);
    }
    read.map_err(Ended::from)?;
    Ok(standing)
}

/// The parts of an envelope that count here; wrapped in a schema or not.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    op: Option<&'a str>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
}

impl Standing {
    /// Whether the row differs from what stands; either way its key is done with.
    pub fn differs(&mut self, row: &Published) -> bool {
        let last = self.keys.remove(row.key());
        self.again || last.map(|last| last.row) != row.after().map(digest)
    }

    /// Keys whose rows are gone.
    pub fn left(self) -> Vec<Box<[u8]>> {
        let mut keys: Vec<_> = self.keys.into_keys().collect();
        keys.sort_unstable();
        keys
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) -> Option<()> {
        let partition = message.partition();
        self.record(message.key(), message.payload(), partition)
    }

    /// `None`: not one of our records.
    fn record(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, partition: i32) -> Option<()> {
        // A key in a schema begins with it; the bare one cannot, for the column `schema` would have an object.
        let key = match key {
            Some(key) if key.starts_with(br#"{"schema":{"#) => {
                Some(serde_json::from_slice::<Wrapped<'_>>(key).ok()?.payload.get().as_bytes())
            }
            key => key,
        };
        let (Some(key), Some(value)) = (key, value) else {
            // A tombstone says what the delete before it said; without a key it is a truncate, which has a value.
            return match (key, value) {
                (Some(key), None) => {
                    self.keys.remove(key);
                    Some(())
                }
                (None, Some(_)) => {
                    self.keys.retain(|_, last| last.partition != partition);
                    Some(())
                }
                _ => None,
            };
        };
        let mut envelope: Envelope<'_> = serde_json::from_slice(value).ok()?;
        if let Some(payload) = envelope.payload {
            envelope = serde_json::from_str(payload.get()).ok()?;
        }
        match (envelope.op?, envelope.after.filter(|after| after.get() != "null")) {
            ("d", _) => drop(self.keys.remove(key)),
            (_, Some(after)) => drop(self.keys.insert(key.into(), Last { row: digest(after.get().as_bytes()), partition })),
            _ => return None,
        }
        Some(())
    }
}

fn digest(row: &[u8]) -> [u8; 16] {
    let whole = Sha256::digest(row);
    std::array::from_fn(|index| whole[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_of_each_key_stands() {
        let mut standing = Standing::default();
        let mut take = |key: Option<&str>, value: Option<&str>, partition| {
            standing.record(key.map(str::as_bytes), value.map(str::as_bytes), partition)
        };
        take(Some(r#"{"id":1}"#), Some(r#"{"before":null,"after":{"id":1,"a":"x"},"source":{},"op":"r"}"#), 0).expect("ours");
        take(Some(r#"{"id":1}"#), Some(r#"{"before":{"id":1},"after":{"id":1,"a":"y"},"source":{},"op":"u"}"#), 0).expect("ours");
        let wrapped = r#"{"schema":{"type":"struct"},"payload":{"before":null,"after":{"id":2},"op":"c"}}"#;
        take(Some(r#"{"schema":{"type":"struct"},"payload":{"id":2}}"#), Some(wrapped), 1).expect("ours");
        take(Some(r#"{"id":3}"#), Some(r#"{"after":{"id":3},"op":"c"}"#), 0).expect("ours");
        take(Some(r#"{"id":3}"#), Some(r#"{"before":{"id":3},"after":null,"op":"d"}"#), 0).expect("ours");
        take(Some(r#"{"id":3}"#), None, 0).expect("ours");
        assert!(take(Some("x"), Some("no JSON"), 0).is_none());
        assert_eq!(standing.keys[br#"{"id":1}"#.as_slice()].row, digest(br#"{"id":1,"a":"y"}"#));
        assert_eq!(standing.keys.len(), 2);
        standing.record(None, Some(br#"{"after":null,"op":"t"}"#), 1).expect("ours");
        assert_eq!(standing.left(), [br#"{"id":1}"#.as_slice().into()]);
    }
}
