//! Row bytes of the binlog to changes: our own reader, bounds-checked, for every MySQL column type. Pure.
//!
//! A rows event is a width, a bitmap of the columns present per image, and images one after the other (null bits of the present
//! columns, then their values). Reading goes in two steps: first the place of every value is found, which checks all lengths and
//! costs little; then only the columns wanted are decoded, one by one, when whoever makes something of the row asks for them.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::io::Write as _;
use std::sync::Arc;

use super::cursor::{Cursor, Fault, big_endian, bit, little_endian};
use super::json;
use super::table_map::TableMap;
use super::wire::{self, Wire};
use super::{charset::Charset, text};
use crate::config::plan::InvalidText;
use crate::model::position::Uuid;
use crate::model::{ColumnType, MariaDbType, Reason, Schema, Value};

/// Why rows cannot be read; the table they belong to stops with `reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{event} event: {fault}")]
    Event { event: &'static str, fault: Fault },
    #[error("column {column}: {fault}")]
    Column { column: String, fault: Fault },
    #[error("column {column}: type code {code} cannot be read")]
    UnknownType { column: String, code: u8 },
    #[error("{0}")]
    SchemaMismatch(String),
    #[error("column {column} is not in the row image; every session must write binlog_row_image=FULL")]
    RowImage { column: String },
}

impl DecodeError {
    pub fn reason(&self) -> Reason {
        match self {
            DecodeError::Column { fault: Fault::Text(_) | Fault::Collation(_), .. } => Reason::BadCharset,
            DecodeError::Column { .. } | DecodeError::Event { .. } => Reason::BadValue,
            DecodeError::UnknownType { .. } => Reason::UnknownType,
            DecodeError::SchemaMismatch(_) => Reason::SchemaMismatch,
            DecodeError::RowImage { .. } => Reason::RowImage,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    Insert,
    Update,
    Delete,
}

/// A WRITE_ROWS, UPDATE_ROWS or DELETE_ROWS event (versions 1 and 2) or PARTIAL_UPDATE_ROWS, its rows not yet read.
#[derive(Debug, Clone, Copy)]
pub struct RowsEvent<'a> {
    kind: RowKind,
    partial: bool,
    table_id: u64,
    flags: u16,
    width: usize,
    /// Columns in the first image: after an insert, before an update or delete.
    first: &'a [u8],
    /// Columns in the second image of an update; empty otherwise.
    second: &'a [u8],
    rows: &'a [u8],
}

impl<'a> RowsEvent<'a> {
    /// Parses the body of an event of type 23, 24, 25, 30, 31, 32 or 39: after the 19 bytes of the header, without the checksum.
    pub fn parse(event_type: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(event_type, body).map_err(|fault| DecodeError::Event { event: "rows", fault })
    }

    fn read(event_type: u8, body: &'a [u8]) -> Result<Self, Fault> {
        let (kind, extra_data) = match event_type {
            23 => (RowKind::Insert, false),
            24 => (RowKind::Update, false),
            25 => (RowKind::Delete, false),
            30 => (RowKind::Insert, true),
            31 | 39 => (RowKind::Update, true),
            32 => (RowKind::Delete, true),
            _ => return Err(Fault::Invalid("not an event with rows")),
        };
        let mut cursor = Cursor::new(body);
        let table_id = cursor.uint(6)?;
        let flags = cursor.uint(2)? as u16;
        if extra_data {
            // The length counts its own two bytes.
            let length = cursor.uint(2)? as usize;
            cursor.take(length.checked_sub(2).ok_or(Fault::Invalid("extra data of less than no length"))?)?;
        }
        let width = usize::try_from(cursor.lenenc()?).map_err(|_| Fault::Short)?;
        let first = cursor.take(width.div_ceil(8))?;
        let second = if kind == RowKind::Update { cursor.take(width.div_ceil(8))? } else { &[] };
        if u32::try_from(body.len()).is_err() {
            return Err(Fault::Invalid("an event of 4 GiB or more"));
        }
        Ok(Self { kind, partial: event_type == 39, table_id, flags, width, first, second, rows: cursor.rest() })
    }

    pub fn table_id(&self) -> u64 {
        self.table_id
    }

    pub fn kind(&self) -> RowKind {
        self.kind
    }

    /// Whether this is the last rows event of its statement.
    pub fn ends_statement(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// Reads the rows of events under one table map. Valid for as long as the table map's body stays the same; rebuilt at a map that
/// differs. Buffers are used again from row to row.
pub struct RowReader {
    table_id: u64,
    columns: Vec<WireColumn>,
    /// Number of JSON columns: each has a bit in the image of a partial update.
    json_columns: usize,
    /// Per wanted column: the index in `columns`.
    wanted: Vec<usize>,
    invalid_text: InvalidText,
    before: Vec<Cell>,
    after: Vec<Cell>,
}

/// One row that changed: where its values lie, before and after. They are decoded when asked for, by the index of a wanted column.
pub struct RowChange<'r> {
    kind: RowKind,
    reader: &'r RowReader,
    rows: &'r [u8],
}

/// A column as it lies in the event.
struct WireColumn {
    name: String,
    wire: Wire,
    /// Bytes of a fixed-size value, 0 for a variable one.
    fixed: usize,
    /// Bytes of the length before a variable value.
    prefix: usize,
    is_json: bool,
    format: Format,
}

/// How the bytes of a column become a value.
enum Format {
    Signed,
    Unsigned,
    Plain,
    Text(Charset),
    Binary {
        width: usize,
    },
    Bytes,
    Enum(Arc<[String]>),
    Set(Arc<[String]>),
    Json,
    Geometry,
    Vector,
    MariaDb(MariaDbType),
    /// Not among the columns wanted.
    Skipped,
}

/// Where a value lies in the rows of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// The image does not have the column.
    Absent,
    Null,
    Bytes {
        start: u32,
        end: u32,
    },
    /// Differences to the JSON document before the update.
    Diff {
        start: u32,
        end: u32,
    },
}

impl RowReader {
    /// `wanted`: per column of the map its index among the columns wanted, `None` where nobody wants it; `schema`: what the wanted
    /// columns are.
    pub fn new(map: &TableMap, wanted: &[Option<usize>], schema: &Schema, invalid_text: InvalidText) -> Result<Self, DecodeError> {
        if wanted.len() != map.columns.len() {
            return Err(DecodeError::SchemaMismatch(format!("schema has {} columns, event has {}", wanted.len(), map.columns.len())));
        }
        let mut columns = Vec::with_capacity(map.columns.len());
        let mut places = Vec::new();
        for (index, (mapped, target)) in map.columns.iter().zip(wanted).enumerate() {
            let column = target.map(|target| &schema.columns[target]);
            let name =
                column.map_or_else(|| mapped.name.clone().unwrap_or_else(|| format!("#{}", index + 1)), |column| column.name.clone());
            let format = match column {
                Some(column) => Format::of(&column.kind).map_err(|fault| DecodeError::Column { column: name.clone(), fault })?,
                None => Format::Skipped,
            };
            if column.is_some() {
                places.push(index);
            }
            let prefix = if let Wire::Variable { prefix, .. } = mapped.wire { usize::from(prefix) } else { 0 };
            let is_json = mapped.code == super::table_map::code::JSON;
            columns.push(WireColumn { name, wire: mapped.wire, fixed: mapped.wire.fixed_size(), prefix, is_json, format });
        }
        let json_columns = columns.iter().filter(|column| column.is_json).count();
        Ok(Self { table_id: map.table_id, columns, json_columns, wanted: places, invalid_text, before: Vec::new(), after: Vec::new() })
    }

    /// Finds the rows of a table nobody wants, so that they can be counted.
    pub fn counter(map: &TableMap) -> Result<Self, DecodeError> {
        let none = Schema { columns: Vec::new(), key: Vec::new() };
        Self::new(map, &vec![None; map.columns.len()], &none, InvalidText::Replace)
    }

    /// Calls `each` for every row change in order. After an error the rows before it have been handed over.
    pub fn each(
        &mut self,
        event: &RowsEvent<'_>,
        mut each: impl FnMut(&RowChange<'_>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        if event.table_id != self.table_id {
            return Err(DecodeError::Event { event: "rows", fault: Fault::Invalid("the event is of another table map") });
        }
        if event.width != self.columns.len() {
            return Err(DecodeError::SchemaMismatch(format!("schema has {} columns, event has {}", self.columns.len(), event.width)));
        }
        if event.rows.is_empty() && event.first.iter().all(|&bits| bits == 0) {
            // Rows without any column have no bytes, so that their number is not known either.
            return Err(DecodeError::RowImage { column: self.columns[0].name.clone() });
        }
        let mut at = 0;
        while at < event.rows.len() {
            let begin = at;
            self.before.clear();
            self.after.clear();
            if event.kind != RowKind::Insert {
                at = locate(&self.columns, event.rows, at, event.first, None, &mut self.before)?;
            }
            if event.kind != RowKind::Delete {
                let partial = if event.partial { partial_bits(event.rows, &mut at, self.json_columns)? } else { None };
                let present = if event.kind == RowKind::Update { event.second } else { event.first };
                at = locate(&self.columns, event.rows, at, present, partial, &mut self.after)?;
            }
            if at == begin {
                // An image without any column, which would never end this loop.
                return Err(DecodeError::Event { event: "rows", fault: Fault::Invalid("a row without bytes") });
            }
            each(&RowChange { kind: event.kind, reader: self, rows: event.rows })?;
        }
        Ok(())
    }
}

// === impl RowChange ===

impl RowChange<'_> {
    pub fn kind(&self) -> RowKind {
        self.kind
    }

    /// The value before an update or a delete. A column that is not in the image is a [`DecodeError::RowImage`].
    pub fn before<'v>(&'v self, target: usize, scratch: &'v mut Vec<u8>) -> Result<Value<'v>, DecodeError> {
        let cell = self.cell_before(target);
        self.value(target, cell, cell, scratch)
    }

    /// The value after an insert or an update; where the image leaves a column out (an update may), the value before.
    pub fn after<'v>(&'v self, target: usize, scratch: &'v mut Vec<u8>) -> Result<Value<'v>, DecodeError> {
        let before = self.cell_before(target);
        let cell = match self.reader.after.get(self.reader.wanted[target]) {
            Some(Cell::Absent) | None => before,
            Some(&cell) => cell,
        };
        self.value(target, cell, before, scratch)
    }

    /// Whether the bytes of any of these columns changed; a column the image after the update leaves out did not.
    pub fn differs(&self, targets: &[usize]) -> bool {
        targets.iter().any(|&target| {
            let index = self.reader.wanted[target];
            let bytes = |cells: &[Cell]| match cells.get(index) {
                Some(&Cell::Bytes { start, end }) => Some(&self.rows[start as usize..end as usize]),
                _ => None,
            };
            !matches!(self.reader.after.get(index), Some(Cell::Absent)) && bytes(&self.reader.before) != bytes(&self.reader.after)
        })
    }

    fn cell_before(&self, target: usize) -> Cell {
        self.reader.before.get(self.reader.wanted[target]).copied().unwrap_or(Cell::Absent)
    }

    fn value<'v>(&'v self, target: usize, cell: Cell, before: Cell, scratch: &'v mut Vec<u8>) -> Result<Value<'v>, DecodeError> {
        scratch.clear();
        self.reader.columns[self.reader.wanted[target]].value(self.rows, cell, before, self.reader.invalid_text, scratch)
    }
}

// === impl WireColumn ===

impl WireColumn {
    fn value<'v>(
        &'v self,
        rows: &'v [u8],
        cell: Cell,
        before: Cell,
        invalid: InvalidText,
        scratch: &'v mut Vec<u8>,
    ) -> Result<Value<'v>, DecodeError> {
        let bytes = |start: u32, end: u32| &rows[start as usize..end as usize];
        let result = match cell {
            Cell::Null => Ok(Value::Null),
            Cell::Bytes { start, end } => self.format.value(self.wire, bytes(start, end), invalid, scratch),
            Cell::Diff { start, end } => match before {
                Cell::Bytes { start: old_start, end: old_end } => {
                    json::write_patched(bytes(old_start, old_end), bytes(start, end), scratch).and_then(|()| json_value(scratch))
                }
                _ => return Err(DecodeError::RowImage { column: self.name.clone() }),
            },
            Cell::Absent => return Err(DecodeError::RowImage { column: self.name.clone() }),
        };
        result.map_err(|fault| DecodeError::Column { column: self.name.clone(), fault })
    }
}

// === impl Format ===

impl Format {
    fn of(kind: &ColumnType) -> Result<Format, Fault> {
        Ok(match kind {
            ColumnType::Integer { unsigned: false, .. } => Format::Signed,
            ColumnType::Integer { unsigned: true, .. } => Format::Unsigned,
            ColumnType::Text { collation } => Format::Text(Charset::of(*collation).ok_or(Fault::Collation(*collation))?),
            ColumnType::Binary { bytes } => Format::Binary { width: usize::from(*bytes) },
            ColumnType::Bytes => Format::Bytes,
            ColumnType::Enum { labels } => Format::Enum(labels.as_slice().into()),
            ColumnType::Set { labels } => Format::Set(labels.as_slice().into()),
            ColumnType::Json => Format::Json,
            ColumnType::Geometry { .. } => Format::Geometry,
            ColumnType::Vector => Format::Vector,
            ColumnType::MariaDb(kind) => Format::MariaDb(*kind),
            _ => Format::Plain,
        })
    }

    fn value<'v>(&'v self, wire: Wire, bytes: &'v [u8], invalid: InvalidText, scratch: &'v mut Vec<u8>) -> Result<Value<'v>, Fault> {
        match self {
            Format::Signed => Ok(Value::Int(wire::signed(bytes))),
            Format::Unsigned => Ok(Value::UInt(little_endian(bytes))),
            Format::Plain => plain(wire, bytes, scratch),
            Format::Text(charset) => Ok(match charset.decode(bytes, invalid)? {
                (text, false) => Value::Text(text),
                (text, true) => Value::ReplacedText(text),
            }),
            Format::Binary { width } if bytes.len() < *width => {
                scratch.extend_from_slice(bytes);
                scratch.resize(*width, 0);
                Ok(Value::Bytes(scratch.as_slice().into()))
            }
            Format::Binary { .. } | Format::Bytes => Ok(Value::Bytes(bytes.into())),
            Format::Enum(labels) => match little_endian(bytes) as usize {
                0 => Ok(Value::Text("".into())),
                index => labels
                    .get(index - 1)
                    .map(|label| Value::Text(label.as_str().into()))
                    .ok_or(Fault::Invalid("an ENUM index beyond its labels")),
            },
            Format::Set(labels) => set(labels, little_endian(bytes), scratch),
            Format::Json => json::write_text(bytes, scratch).and_then(|()| json_value(scratch)),
            Format::Geometry => geometry(bytes),
            Format::MariaDb(kind) => mariadb(*kind, bytes, scratch),
            Format::Vector if bytes.len().is_multiple_of(4) => Ok(Value::Vector(bytes.into())),
            Format::Vector => Err(Fault::Invalid("a VECTOR that is no row of float32 numbers")),
            Format::Skipped => Err(Fault::Invalid("a column that is not wanted")),
        }
    }
}

/// Types whose value follows from the physical form alone.
fn plain<'v>(wire: Wire, bytes: &'v [u8], scratch: &'v mut Vec<u8>) -> Result<Value<'v>, Fault> {
    match wire {
        Wire::Float => Ok(Value::Float(f32::from_bits(little_endian(bytes) as u32))),
        Wire::Double => Ok(Value::Double(f64::from_bits(little_endian(bytes)))),
        Wire::Decimal { precision, scale } => {
            text::decimal(bytes, precision, scale, scratch)?;
            std::str::from_utf8(scratch).map(|text| Value::Decimal(text.into())).map_err(|_| Fault::Invalid("a DECIMAL that is no text"))
        }
        Wire::Bit { .. } => Ok(Value::UInt(big_endian(bytes))),
        Wire::Year => Ok(Value::UInt(wire::year(little_endian(bytes) as u8))),
        Wire::Date => wire::date(bytes),
        Wire::Time { .. } => wire::time(bytes),
        Wire::DateTime { .. } => wire::date_time(bytes),
        Wire::Timestamp { .. } => wire::timestamp(bytes),
        Wire::OldTime => wire::old_time(bytes),
        Wire::OldDateTime => wire::old_date_time(bytes),
        Wire::OldTimestamp => Ok(Value::Timestamp { seconds: little_endian(bytes) as i64, micros: 0 }),
        Wire::Integer { .. } | Wire::Variable { .. } | Wire::Enum { .. } | Wire::Set { .. } => {
            Err(Fault::Invalid("a value of another type than its column"))
        }
    }
}

/// Labels of the bits set, in definition order, joined by commas.
fn set<'v>(labels: &'v [String], bits: u64, scratch: &'v mut Vec<u8>) -> Result<Value<'v>, Fault> {
    if labels.len() < 64 && bits >> labels.len() != 0 {
        return Err(Fault::Invalid("a SET bit beyond its labels"));
    }
    for (_, label) in labels.iter().enumerate().filter(|(index, _)| *index < 64 && bits >> index & 1 == 1) {
        if !scratch.is_empty() {
            scratch.push(b',');
        }
        scratch.extend_from_slice(label.as_bytes());
    }
    std::str::from_utf8(scratch).map(|text| Value::Text(text.into())).map_err(|_| Fault::Invalid("a SET label that is no text"))
}

/// In the order of the text, highest byte first; as with BINARY, zero bytes at the end are not there.
fn mariadb<'v>(kind: MariaDbType, bytes: &[u8], scratch: &'v mut Vec<u8>) -> Result<Value<'v>, Fault> {
    let mut whole = [0; 16];
    whole
        .get_mut(..bytes.len())
        .filter(|_| bytes.len() <= kind.bytes())
        .ok_or(Fault::Invalid("a value longer than its type"))?
        .copy_from_slice(bytes);
    let [a, b, c, d, ..] = whole;
    let written = match kind {
        MariaDbType::Uuid => write!(scratch, "{}", Uuid(whole)),
        MariaDbType::Inet4 => write!(scratch, "{}", Ipv4Addr::new(a, b, c, d)),
        MariaDbType::Inet6 => inet6(&Ipv6Addr::from(whole), scratch),
    };
    let text = written.ok().and_then(|()| std::str::from_utf8(scratch).ok());
    text.map(|text| Value::Text(text.into())).ok_or(Fault::Invalid("a value that is no text"))
}

/// The longest run of zero groups, the first of equals and even one alone, is `::`; what maps an IPv4 address, or has nothing but one,
/// ends as one. Rust's own form (RFC 5952) differs in both.
fn inet6(address: &Ipv6Addr, out: &mut Vec<u8>) -> std::io::Result<()> {
    let groups = address.segments();
    let run = |start: usize| groups[start..].iter().take_while(|&&group| group == 0).count();
    // `max_by_key` would take the last of equals.
    let (gap, length) = (0..8).map(|start| (start, run(start))).fold((0, 0), |best, run| if run.1 > best.1 { run } else { best });
    let last = u32::from(groups[6]) << 16 | u32::from(groups[7]);
    let has_ipv4 = groups[..5] == [0; 5] && (groups[5] == 0xffff || groups[5] == 0 && last > 1);
    let mut index = 0;
    while index < 8 {
        if length > 0 && index == gap {
            out.extend_from_slice(b"::");
            index += length;
            continue;
        }
        if index > 0 && index != gap + length {
            out.push(b':');
        }
        if has_ipv4 && index == 6 {
            return write!(out, "{}", Ipv4Addr::from(last));
        }
        write!(out, "{:x}", groups[index])?;
        index += 1;
    }
    Ok(())
}

/// Four bytes of SRID, little-endian, then WKB.
pub(super) fn geometry(bytes: &[u8]) -> Result<Value<'_>, Fault> {
    let (srid, wkb) = bytes.split_at_checked(4).ok_or(Fault::Invalid("a geometry shorter than its SRID"))?;
    Ok(Value::Geometry { srid: little_endian(srid) as u32, wkb: wkb.into() })
}

fn json_value(text: &[u8]) -> Result<Value<'_>, Fault> {
    std::str::from_utf8(text)
        .map(|text| Value::Json(text.into()))
        .map_err(|_| Fault::Invalid("a JSON document with text that is not UTF-8"))
}

// === images ===

/// Finds the place of every value of one image that begins at `at`, and returns where it ends.
fn locate(
    columns: &[WireColumn],
    rows: &[u8],
    at: usize,
    present: &[u8],
    partial: Option<&[u8]>,
    cells: &mut Vec<Cell>,
) -> Result<usize, DecodeError> {
    let short = || DecodeError::Event { event: "rows", fault: Fault::Short };
    let image = rows.get(at..).ok_or_else(short)?;
    let count = (0..columns.len()).filter(|&index| bit(present, index)).count();
    let null_bytes = count.div_ceil(8);
    let nulls = image.get(..null_bytes).ok_or_else(short)?;
    let mut end = at + null_bytes;
    let (mut nth, mut nth_json) = (0, 0);
    cells.clear();
    for (index, column) in columns.iter().enumerate() {
        // Every JSON column has a bit there, present in this image or not.
        let diff = column.is_json && {
            nth_json += 1;
            partial.is_some_and(|bits| bit(bits, nth_json - 1))
        };
        if !bit(present, index) {
            cells.push(Cell::Absent);
            continue;
        }
        nth += 1;
        if bit(nulls, nth - 1) {
            cells.push(Cell::Null);
            continue;
        }
        let start = end + if diff { 4 } else { column.prefix };
        let length = if diff || column.prefix > 0 {
            let prefix = rows.get(end..start).ok_or_else(|| column.short())?;
            little_endian(prefix) as usize
        } else {
            column.fixed
        };
        end = start.checked_add(length).filter(|&end| end <= rows.len()).ok_or_else(|| column.short())?;
        let (start, end) = (start as u32, end as u32);
        cells.push(if diff { Cell::Diff { start, end } } else { Cell::Bytes { start, end } });
    }
    Ok(end)
}

/// The options before the second image of PARTIAL_UPDATE_ROWS, and the bits saying which JSON columns hold differences.
fn partial_bits<'a>(rows: &'a [u8], at: &mut usize, json_columns: usize) -> Result<Option<&'a [u8]>, DecodeError> {
    let event = |fault| DecodeError::Event { event: "rows", fault };
    let image = rows.get(*at..).unwrap_or_default();
    let mut cursor = Cursor::new(image);
    let bits = match cursor.lenenc().map_err(event)? {
        0 => None,
        1 => Some(cursor.take(json_columns.div_ceil(8)).map_err(event)?),
        _ => return Err(event(Fault::Invalid("options of a partial update that we do not know"))),
    };
    *at += image.len() - cursor.rest().len();
    Ok(bits)
}

impl WireColumn {
    fn short(&self) -> DecodeError {
        DecodeError::Column { column: self.name.clone(), fault: Fault::Short }
    }
}

#[cfg(test)]
mod tests;
