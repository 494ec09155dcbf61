//! What a stream writes: value, key and headers of an output, each rendered into a buffer that is used again.

use std::borrow::Cow;
use std::collections::HashSet;

use super::StreamPlan;
use super::enrich::{Input, Output};
use super::program::{Columns, Moment, Places, Program, Unfit};
use super::shape::Found;
use crate::model::key::text_of;

pub(super) struct Form {
    value: Program,
    /// Names that `value` adds to the record's own members; `None` with a template.
    additions: Option<Vec<String>>,
    key: Option<Program>,
    headers: Vec<Program>,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    /// The output's value. Its first `shared` bytes are the same for every element of the record.
    value: Vec<u8>,
    /// Unknown until an element of the record gets that far.
    shared: Option<usize>,
    key: Vec<u8>,
    header: Vec<u8>,
    /// Header values one after the other, and where each ends; `None` for no header.
    headers: Vec<u8>,
    header_ends: Vec<Option<usize>>,
}

impl Form {
    pub fn new(plan: &StreamPlan, places: &mut Places) -> Self {
        let (value, additions) = match &plan.value {
            Some(template) => (places.program(template), None),
            None => {
                let item = plan.each.iter().map(|_| "item".to_owned());
                let names: Vec<String> = item.chain(plan.joins.iter().map(|j| j.name.clone())).collect();
                (places.additions(&names), Some(names))
            }
        };
        let key = plan.key.as_ref().map(|template| places.program(template));
        let headers = plan.headers.iter().map(|(_, template)| places.program(template)).collect();
        Self { value, additions, key, headers, buffers: Buffers::default() }
    }

    /// The columns of a join stand elsewhere than before.
    pub fn follow(&mut self, join: usize, columns: &Columns) {
        let programs = self.key.iter_mut().chain(&mut self.headers).chain([&mut self.value]);
        programs.for_each(|program| program.follow(join, columns));
    }

    /// Another record begins.
    pub fn begin(&mut self) {
        self.buffers.shared = None;
    }

    /// Writes one output; nothing is written when a value of it cannot be converted.
    pub fn write(
        &mut self,
        plan: &StreamPlan,
        input: &Input<'_>,
        element: Option<u32>,
        moment: &Moment<'_>,
        out: &mut impl Output,
    ) -> Result<(), Unfit<'_>> {
        let Self { value, additions, key, headers, buffers } = self;
        let zone = &plan.zone;
        let Buffers { value: json, shared, key: key_buffer, .. } = buffers;

        if let Some(shared) = *shared {
            json.truncate(shared);
        } else {
            json.clear();
            if let Some(names) = additions {
                write_members(moment.record, moment.found, names, json);
                if json.len() > 1 && !value.is_empty() {
                    json.push(b',');
                }
            }
            value.write_shared(moment, zone, json)?;
            *shared = Some(json.len());
        }
        value.write(moment, zone, json)?;
        if additions.is_some() {
            json.push(b'}');
        }

        let key = match key {
            None => input.key.map(Cow::Borrowed),
            Some(program) => program.bytes(moment, zone, key_buffer)?,
        };
        if headers.is_empty() {
            out.write(element, key.as_deref(), json, &[]);
            return Ok(());
        }

        buffers.headers.clear();
        buffers.header_ends.clear();
        for program in headers.iter() {
            let bytes = program.bytes(moment, zone, &mut buffers.header)?;
            buffers.header_ends.push(bytes.map(|bytes| {
                buffers.headers.extend_from_slice(&bytes);
                buffers.headers.len()
            }));
        }
        let mut start = 0;
        let mut named = Vec::with_capacity(headers.len());
        for ((name, _), end) in plan.headers.iter().zip(&buffers.header_ends) {
            if let Some(end) = *end {
                named.push((name.as_str(), &buffers.headers[start..end]));
                start = end;
            }
        }
        out.write(element, key.as_deref(), json, &named);
        Ok(())
    }
}

/// Appends `{` and the record's members without the closing brace: the last of equal names, and none that is added later.
fn write_members(record: &[u8], found: &Found, added: &[String], out: &mut Vec<u8>) {
    let mut seen: HashSet<Cow<'_, [u8]>> = added.iter().map(|name| name.as_bytes().into()).collect();
    let mut kept: Vec<_> = found
        .members
        .iter()
        .rev()
        .filter_map(|(name, value)| {
            let name = name.of(record)?;
            seen.insert(text_of(name)).then_some((name, value.of(record)?))
        })
        .collect();
    kept.reverse();
    out.push(b'{');
    for (index, (name, value)) in kept.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        out.push(b':');
        out.extend_from_slice(value);
    }
}
