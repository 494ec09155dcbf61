//! One record in, its outputs out.

use std::sync::Arc;

use super::StreamPlan;
use crate::table::View;

/// One Kafka message, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch, where the message has one.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// Takes what becomes of a record, in order. Implemented by the Kafka worker, by tests and by benches.
pub trait Output {
    /// An output record. `element` is the 0-based place in the `each` array. `headers` are those of the configuration
    /// (name, value); the caller adds the input's and larder's own.
    fn write(&mut self, element: Option<u32>, key: Option<&[u8]>, value: &[u8], headers: &[(&str, &[u8])]);
    /// One element or the whole record goes to the dead letters. `stage` is `decode`, `join` or `shape` (contract E9).
    fn dead_letter(&mut self, element: Option<u32>, stage: &'static str, reason: &'static str, message: &str);
    /// Counted drop by a policy of the configuration: `missing-row`, `bad-record` or `empty` (contract E18).
    fn drop(&mut self, element: Option<u32>, reason: &'static str);
}

/// What became of the whole record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// A table the joins need is not ready: nothing was written, try the record again later.
    Hold,
    /// `bad = "stop"`: the stream stops here, with this message; nothing was written.
    Stop(String),
}

/// Look-ups of one join that ended in a row, a miss, …; read and reset by the worker for its metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lookups {
    pub hits: u64,
    pub misses: u64,
}

/// Enriches records of one stream; keeps its buffers between records.
pub struct Enricher {
    plan: Arc<StreamPlan>,
}

impl Enricher {
    pub fn new(plan: Arc<StreamPlan>) -> Self {
        Self { plan }
    }

    pub fn plan(&self) -> &StreamPlan {
        &self.plan
    }

    pub fn process(&mut self, _input: &Input<'_>, _view: &View<'_>, _out: &mut impl Output) -> Verdict {
        todo!("helper join")
    }

    /// Look-ups per join since the last call, in order of the joins.
    pub fn take_lookups(&mut self) -> Vec<Lookups> {
        todo!("helper join")
    }
}
