//! Paths into records, items, rows and metadata, compiled.

/// `record.a.b`, `item`, `index`, `meta.topic`, `<join>.column.…`, resolved against a [`Scope`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub root: Root,
    /// Member names below the root; array positions as decimal text.
    pub steps: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Record,
    Item,
    Index,
    Meta(Meta),
    /// Index into `StreamPlan::joins`.
    Join(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
}

/// The names a path may begin with at its place.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// `item` and `index` exist.
    pub each: bool,
    /// Names of the joins usable here, in order.
    pub joins: Vec<String>,
}

/// What is wrong with a path, template or conversion, without its place; `config` adds that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathError {
    pub message: String,
    pub remedy: String,
}

impl Path {
    /// Parses a path as it stands outside templates, without `$`.
    pub fn parse(_text: &str, _scope: &Scope) -> Result<Self, PathError> {
        todo!("helper join")
    }

    /// Parses `each`, which is relative to the record.
    pub fn parse_each(_text: &str) -> Result<Self, PathError> {
        todo!("helper join")
    }
}
