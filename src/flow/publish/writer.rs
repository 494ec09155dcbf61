//! Changes to records of change topics, in Kafka transactions together with the progress (contract B).
//!
//! What always holds: the two or three records of one change are sent together or not at all, and a change too large for its topic
//! is found before any of them is sent; progress is sent last, in the transaction of what it tells of.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::message::{Header, OwnedHeaders};

use super::maker::{Kind, Published};
use super::progress::Progress;
use crate::debezium::{NEW_KEY_HEADER, OLD_KEY_HEADER, Op, Record, Snapshot, Source, TransactionBlock};
use crate::kafka::client::Fault;
use crate::kafka::producer::{Outgoing, Producer, SendError};
use crate::kafka::record::header_bytes;

/// Where the changes of a table go.
#[derive(Debug, Clone)]
pub struct Target {
    pub topic: String,
    pub partitions: i32,
    /// The largest record the topic takes.
    pub bound: usize,
    pub tombstones: bool,
    /// The topic is compacted.
    pub compacted: bool,
}

/// What the changes of one transaction, or of one snapshot, have in common.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// What `larder-origin` begins with; the number of the change follows after a slash.
    pub origin: &'a str,
    pub gtid: Option<&'a str>,
    /// Commit time; 0 where the binlog does not say.
    pub committed_us: u64,
    /// The number of the part where the transaction is split.
    pub part: Option<&'a str>,
    /// `k/n`, for the last record of the change that ends the transaction.
    pub last_part: Option<&'a str>,
}

/// Why a change was not written.
#[derive(Debug)]
pub enum Refused {
    /// The topic does not take a record of so many bytes.
    TooLarge {
        bytes: usize,
        bound: usize,
    },
    /// A truncate has no key, and a compacted topic takes no record without one.
    Compacted,
    Fault(Fault),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Refused::Fault(fault)
    }
}

pub struct Writer {
    producer: Producer,
    /// Per table of the plan; `None` for one that is not published.
    targets: Vec<Option<Arc<Target>>>,
    progress_topic: String,
    open: Option<Instant>,
    /// Bytes in the open transaction.
    bytes: usize,
    records: u64,
    /// The position is to be written.
    moved: bool,
    /// Tables whose progress is to be written.
    dirty: BTreeSet<String>,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    old_key: Vec<u8>,
    value: Vec<u8>,
    second: Vec<u8>,
    origin: Vec<u8>,
}

impl Writer {
    pub fn new(producer: Producer, targets: Vec<Option<Arc<Target>>>, progress_topic: String) -> Self {
        Self {
            producer,
            targets,
            progress_topic,
            open: None,
            bytes: 0,
            records: 0,
            moved: false,
            dirty: BTreeSet::new(),
            scratch: Scratch::default(),
        }
    }

    /// Writes one change: a create, read, update or delete, a tombstone after a delete, both and a create for a change of key, or a
    /// truncate in every partition.
    pub fn change(
        &mut self,
        change: &Published,
        common: &Common<'_>,
        place: Snapshot,
        block: Option<&TransactionBlock<'_>>,
    ) -> Result<(), Refused> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let written = self.write(change, common, place, block, &mut scratch);
        self.scratch = scratch;
        written
    }

    fn write(
        &mut self,
        change: &Published,
        common: &Common<'_>,
        place: Snapshot,
        block: Option<&TransactionBlock<'_>>,
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        let Some(target) = self.targets[change.table.index()].clone() else { return Ok(()) };
        let event = &change.event;
        let ts_us = if common.committed_us > 0 { common.committed_us as i64 } else { i64::from(event.timestamp) * 1_000_000 };
        let source = Source {
            ts_us,
            snapshot: place,
            server_id: event.server_id,
            gtid: common.gtid,
            file: &event.file,
            pos: event.offset,
            row: u64::from(change.row),
            thread: event.thread.map(u64::from),
        };
        let record = |op, before, after| Record { op, before, after, source: &source, now_ns: now_ns(), transaction: block };
        let form = &change.form;
        let Scratch { key, old_key, value, second, origin } = scratch;
        for buffer in [&mut *key, &mut *old_key, &mut *value, &mut *second, &mut *origin] {
            buffer.clear();
        }
        let _ = write!(origin, "{}/{}", common.origin, change.number);
        let headers = |more: Option<(&str, &[u8])>, is_last: bool| {
            let mut headers = OwnedHeaders::new_with_capacity(3).insert(Header { key: "larder-origin", value: Some(&*origin) });
            if let Some(part) = common.last_part.filter(|_| is_last).or(common.part) {
                headers = headers.insert(Header { key: "larder-part", value: Some(part) });
            }
            if let Some((key, value)) = more {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            headers
        };
        let timestamp_ms = Some(ts_us / 1000);
        let outgoing = Outgoing { topic: &target.topic, partition: None, key: None, value: None, timestamp_ms };
        // What is to be sent, in order.
        let mut records: [Option<Parts<'_>>; 3] = [None, None, None];
        match change.kind {
            Kind::Truncate if target.compacted => return Err(Refused::Compacted),
            Kind::Truncate => {
                form.write_value(&record(Op::Truncate, None, None), value);
                check(None, Some(value), &headers(None, true), target.bound)?;
                for partition in 0..target.partitions {
                    let is_last = partition + 1 == target.partitions;
                    self.send(Outgoing { partition: Some(partition), value: Some(value), ..outgoing }, headers(None, is_last))?;
                }
                self.records += 1;
                return Ok(());
            }
            Kind::Create | Kind::Read | Kind::Update => {
                let op = match change.kind {
                    Kind::Create => Op::Create,
                    Kind::Read => Op::Read,
                    _ => Op::Update,
                };
                form.write_key(change.key(), key);
                form.write_value(&record(op, change.before(), change.after()), value);
                records[0] = Some((Some(key), Some(value), headers(None, true)));
            }
            Kind::Delete => {
                form.write_key(change.key(), key);
                form.write_value(&record(Op::Delete, change.before(), None), value);
                records[0] = Some((Some(key), Some(value), headers(None, !target.tombstones)));
                records[1] = target.tombstones.then(|| (Some(&**key), None, headers(None, true)));
            }
            Kind::Move => {
                form.write_key(change.old_key(), old_key);
                form.write_key(change.key(), key);
                form.write_value(&record(Op::Delete, change.before(), None), value);
                form.write_value(&record(Op::Create, None, change.after()), second);
                records[0] = Some((Some(old_key), Some(value), headers(Some((NEW_KEY_HEADER, change.key())), false)));
                // Debezium's tombstone has the header too.
                records[1] = target.tombstones.then(|| (Some(&**old_key), None, headers(Some((NEW_KEY_HEADER, change.key())), false)));
                records[2] = Some((Some(key), Some(second), headers(Some((OLD_KEY_HEADER, change.old_key())), true)));
            }
        }
        for (key, value, headers) in records.iter().flatten() {
            check(*key, *value, headers, target.bound)?;
        }
        for (key, value, headers) in records.into_iter().flatten() {
            self.send(Outgoing { key, value, ..outgoing }, headers)?;
        }
        self.records += 1;
        Ok(())
    }

    /// The position goes out with the next commit, also if nothing else does.
    pub fn touch_source(&mut self) {
        self.moved = true;
    }

    /// The state of this table goes out with the next commit.
    pub fn touch(&mut self, table: &str) {
        self.dirty.insert(table.to_owned());
    }

    /// Bytes that wait to be committed, and for how long.
    pub fn waiting(&self) -> (usize, Duration) {
        (self.bytes, self.open.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Whether there is anything to commit.
    pub fn is_open(&self) -> bool {
        self.open.is_some() || self.moved || !self.dirty.is_empty()
    }

    /// Commits what was written, with the progress. Returns how many changes are out.
    pub fn commit(&mut self, progress: &Progress) -> Result<u64, Fault> {
        let fault = |refused| match refused {
            Refused::Fault(fault) => fault,
            Refused::TooLarge { bytes, .. } => Fault::NewSession(format!("a record of {bytes} bytes does not fit into the progress topic")),
            Refused::Compacted => Fault::NewSession("the progress topic takes no record".into()),
        };
        let topic = std::mem::take(&mut self.progress_topic);
        let outgoing = Outgoing { topic: &topic, ..Outgoing::default() };
        let mut sent = Ok(());
        if let Some((key, value)) = progress.source_record() {
            sent = self.send(Outgoing { key: Some(key.as_bytes()), value: Some(&value), ..outgoing }, OwnedHeaders::new());
        }
        for name in std::mem::take(&mut self.dirty) {
            // A table that is known no more leaves a tombstone.
            let (key, value) =
                progress.table_record(&name).map_or_else(|| (format!("table/{name}"), None), |(key, value)| (key, Some(value)));
            let record = Outgoing { key: Some(key.as_bytes()), value: value.as_deref(), ..outgoing };
            sent = sent.and_then(|()| self.send(record, OwnedHeaders::new()));
        }
        self.progress_topic = topic;
        sent.map_err(fault)?;
        if self.open.is_none() {
            return Ok(0);
        }
        self.producer.commit(self.producer.deadline())?;
        self.open = None;
        self.moved = false;
        self.bytes = 0;
        Ok(std::mem::take(&mut self.records))
    }

    /// Gives up what was not committed; the writer is over.
    pub fn abort(self) {
        if self.open.is_some() {
            self.producer.abort();
        }
    }

    fn send(&mut self, outgoing: Outgoing<'_>, headers: OwnedHeaders) -> Result<(), Refused> {
        if self.open.is_none() {
            self.producer.begin()?;
            self.open = Some(Instant::now());
        }
        let bytes = size(outgoing.key, outgoing.value, &headers);
        self.producer.send(outgoing, headers).map_err(|error| match error {
            // Bounds were looked at before; what is larger all the same must not be half sent.
            SendError::TooLarge => Refused::Fault(Fault::NewSession(format!("topic {} refused a record of {bytes} bytes", outgoing.topic))),
            SendError::Fault(fault) => Refused::Fault(fault),
        })?;
        self.bytes += bytes;
        Ok(())
    }
}

/// Key, value and headers of a record.
type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, OwnedHeaders);

fn check(key: Option<&[u8]>, value: Option<&[u8]>, headers: &OwnedHeaders, bound: usize) -> Result<(), Refused> {
    let bytes = size(key, value, headers);
    if bytes > bound { Err(Refused::TooLarge { bytes, bound }) } else { Ok(()) }
}

fn size(key: Option<&[u8]>, value: Option<&[u8]>, headers: &OwnedHeaders) -> usize {
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + header_bytes(Some(headers))
}

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos() as i64)
}
