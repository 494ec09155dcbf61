//! Enrichment: `explode → join → shape`, by templates compiled when the configuration is loaded, over borrowed JSON. Pure.

mod convert;
mod enrich;
mod form;
mod lookup;
pub mod path;
mod program;
mod reader;
mod shape;
pub mod template;
#[cfg(test)]
mod tests;

pub use convert::Conversion;
pub use enrich::{Enricher, Input, Lookups, Output, Verdict};
pub use path::Path;
pub use reader::MAX_DEPTH;
pub use template::Template;

use crate::model::TableId;

/// One stream, compiled. Built by `config`.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    pub name: String,
    /// Input topic.
    pub from: String,
    pub each: Option<Path>,
    /// In order of the configuration: a later join may use an earlier one's row in its key.
    pub joins: Vec<JoinPlan>,
    /// Output topic.
    pub topic: String,
    /// Without: the input's key bytes.
    pub key: Option<Template>,
    /// Without: the record with `item` and the joined rows added (contract E6).
    pub value: Option<Template>,
    /// Output headers beyond the input's and our own; name and template. A null gives no header.
    pub headers: Vec<(String, Template)>,
    pub bad: Bad,
    pub start: Start,
    pub workers: usize,
    pub zone: jiff::tz::TimeZone,
    /// Contract E15.
    pub json_depth: usize,
    pub outputs_per_record: usize,
    pub message_bytes: usize,
}

#[derive(Debug, Clone)]
pub struct JoinPlan {
    /// The row is called this in paths.
    pub name: String,
    pub table: TableId,
    /// One path per key column.
    pub key: Vec<Path>,
    pub missing: Missing,
}

/// What happens to an output whose row is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Null,
    Drop,
    DeadLetter,
}

/// What happens to a record that does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    DeadLetter,
    Drop,
    Stop,
}

/// Where a consumer group without a committed offset begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
}
