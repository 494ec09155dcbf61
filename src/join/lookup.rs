//! How a join finds its row: values of the record become the key bytes of the table (contract E4).

use std::fmt::Write as _;

use super::JoinPlan;
use super::program::{Moment, Places, Source};
use crate::model::row::write_string;
use crate::model::{ColumnType, KeyKind, Row, Schema};
use crate::table::{Lookup, View};

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

    /// The row for this moment; `None` when it is known to be absent, or the values are no key (contract E4).
    pub fn find<'v>(&self, plan: &JoinPlan, moment: &Moment<'_>, view: &'v View<'_>, buffer: &mut Vec<u8>) -> Option<&'v Row> {
        let lookup = match (self.key.as_slice(), self.parts.as_slice()) {
            ([source], [part]) => {
                let key = part.kind.text(moment.fragment(source))?;
                view.lookup(plan.table, &key)
            }
            (sources, parts) => {
                buffer.clear();
                buffer.push(b'[');
                for (at, (source, part)) in sources.iter().zip(parts).enumerate() {
                    if at > 0 {
                        buffer.push(b',');
                    }
                    part.write(moment.fragment(source), buffer)?;
                }
                buffer.push(b']');
                view.lookup(plan.table, buffer)
            }
        };
        match lookup {
            Lookup::Row(row) => Some(row),
            // Readiness was checked in this very view.
            Lookup::Missing | Lookup::NotReady => None,
        }
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
