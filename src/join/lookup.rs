//! How a join finds its row: values of the record become the key bytes of the table (contract E4).

use std::fmt::Write as _;

use super::JoinPlan;
use super::program::{Moment, Places, Source};
use crate::model::row::write_string;
use crate::model::{ColumnType, Key, KeyKind, Schema};
use crate::table::{Lookup, RowRef, View};

/// What a look-up of a join came to.
pub(super) enum Find<'v> {
    Row(RowRef<'v>),
    /// Known to be absent, or the values are no key (contract E4).
    Missing,
    /// Not in memory: this key of a bounded table must be read first.
    Unknown(Key),
}

/// One join of a stream.
pub(super) struct Join {
    key: Vec<Source>,
    /// By key column of the table; empty until its schema was seen.
    parts: Vec<KeyPart>,
}

struct KeyPart {
    kind: KeyKind,
    /// The row form is a JSON string; asked only in keys of several columns.
    quoted: bool,
}

impl Join {
    pub fn new(plan: &JoinPlan, places: &mut Places) -> Self {
        Self { key: plan.key.iter().map(|path| places.source(path)).collect(), parts: Vec::new() }
    }

    /// Takes the key columns of a schema; an error says that the paths do not fit them.
    pub fn follow(&mut self, plan: &JoinPlan, schema: &Schema) -> Result<(), String> {
        self.parts = key_parts(schema);
        if self.parts.len() == self.key.len() {
            return Ok(());
        }
        Err(format!(
            "join `{}` gives {} key values, the key of its table has {} columns: give one path per key column",
            plan.name,
            self.key.len(),
            self.parts.len()
        ))
    }

    /// The row for this moment.
    pub fn find<'v>(&self, plan: &JoinPlan, moment: &Moment<'_>, view: &'v View<'_>, buffer: &mut Vec<u8>) -> Find<'v> {
        if let ([source], [part]) = (self.key.as_slice(), self.parts.as_slice()) {
            return match part.kind.text(moment.fragment(source)) {
                Some(key) => look_up(plan, view, &key),
                None => Find::Missing,
            };
        }
        buffer.clear();
        buffer.push(b'[');
        for (at, (source, part)) in self.key.iter().zip(&self.parts).enumerate() {
            if at > 0 {
                buffer.push(b',');
            }
            if part.write(moment.fragment(source), buffer).is_none() {
                return Find::Missing;
            }
        }
        buffer.push(b']');
        look_up(plan, view, buffer)
    }

    /// The message of a dead letter: what was looked for, cut to a readable length.
    pub fn miss(&self, plan: &JoinPlan, moment: &Moment<'_>) -> String {
        const SHOWN: usize = 100;
        let mut message = format!("join `{}`: no row for key", plan.name);
        for source in &self.key {
            let fragment = String::from_utf8_lossy(moment.fragment(source));
            let shown: String = fragment.chars().take(SHOWN).collect();
            let cut = if shown.len() < fragment.len() { "…" } else { "" };
            write!(message, " {shown}{cut}").expect("writing to memory does not fail");
        }
        message
    }
}

fn look_up<'v>(plan: &JoinPlan, view: &'v View<'_>, key: &[u8]) -> Find<'v> {
    match view.lookup(plan.table, key) {
        Lookup::Row(row) => Find::Row(row),
        Lookup::Unknown => Find::Unknown(Key::new(key)),
        // Readiness was checked in this very view.
        Lookup::Missing | Lookup::NotReady => Find::Missing,
    }
}

impl KeyPart {
    /// Appends the fragment as it would stand in the row; `None` when it can be no value of this column.
    fn write(&self, fragment: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let text = self.kind.text(fragment)?;
        if self.quoted {
            write_string(out, std::str::from_utf8(&text).ok()?);
        } else {
            out.extend_from_slice(&text);
        }
        Some(())
    }
}

fn key_parts(schema: &Schema) -> Vec<KeyPart> {
    let part = |&column: &usize| {
        let kind = &schema.columns[column].kind;
        let quoted = !matches!(
            kind,
            ColumnType::Integer { .. } | ColumnType::Year | ColumnType::Float | ColumnType::Double | ColumnType::Bit { .. }
        );
        KeyPart { kind: kind.key_kind(), quoted }
    };
    schema.key.iter().map(part).collect()
}
