//! The TABLE_MAP event: what the columns of the rows events after it look like.
//!
//! Layout (MySQL 8.4 source documentation, "Table_map_event"): table id 6 bytes, flags 2, database and table as length, bytes
//! and a zero byte, column count, type codes, type metadata, null bitmap, then optional metadata as type, length, value.
//! With `binlog_row_metadata=MINIMAL` the optional part has signs and charsets only; with FULL also names, labels and the key.

use super::charset::Charset;
use super::cursor::{Cursor, Fault, bit};
use super::decode::DecodeError;
use super::wire::Wire;
use crate::config::plan::InvalidText;
use crate::model::{Column, ColumnType, Schema};

/// MySQL's own limit of columns in a table.
const MAX_COLUMNS: usize = 4096;

/// The number of POINT among the geometry types.
const OGC_POINT: u64 = 1;

/// A parsed TABLE_MAP event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMap {
    pub table_id: u64,
    pub database: String,
    pub table: String,
    pub columns: Vec<MapColumn>,
    /// Indexes of the primary key's columns in key order; FULL metadata only.
    pub key: Option<Vec<usize>>,
}

/// One column of a table map. What stands in the optional metadata is `None` where the server did not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapColumn {
    /// The type code, with ENUM and SET taken out of their disguise as STRING.
    pub code: u8,
    pub wire: Wire,
    pub nullable: bool,
    pub unsigned: Option<bool>,
    pub name: Option<String>,
    pub collation: Option<u16>,
    /// Labels of ENUM and SET in UTF-8.
    pub labels: Option<Vec<String>>,
    /// OGC type of a geometry column.
    pub geometry: Option<u64>,
    pub visible: bool,
}

/// Type codes (`enum_field_types` of the server) that are told apart after the metadata has been read.
pub mod code {
    pub const JSON: u8 = 245;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
    pub const VECTOR: u8 = 242;
    pub const YEAR: u8 = 13;
}

impl TableMap {
    /// Parses the body of the event: after the 19 bytes of the header, without the checksum.
    pub fn parse(body: &[u8]) -> Result<TableMap, DecodeError> {
        let event = |fault| DecodeError::Event { event: "table map", fault };
        let mut cursor = Cursor::new(body);
        let (table_id, database, table) = identity(&mut cursor).map_err(event)?;
        let mut map = TableMap {
            table_id,
            database: utf8(database).map_err(event)?,
            table: utf8(table).map_err(event)?,
            columns: Vec::new(),
            key: None,
        };
        map.columns = columns(&mut cursor)?;
        let optional = map.optional(cursor).map_err(event)?;
        map.decode_labels(&optional)?;
        Ok(map)
    }

    /// The identity alone (table id, database, table), for skipping tables nobody captures without parsing the rest.
    pub fn name(body: &[u8]) -> Result<(u64, &[u8], &[u8]), DecodeError> {
        identity(&mut Cursor::new(body)).map_err(|fault| DecodeError::Event { event: "table map", fault })
    }

    /// Whether the map carries column names, that is FULL metadata.
    pub fn has_names(&self) -> bool {
        self.columns.iter().all(|column| column.name.is_some())
    }

    /// The schema of rows under this map.
    ///
    /// With FULL metadata it comes from the map alone. With less, names, labels, key and whatever else is not said come from
    /// `known`; a column count or type that disagrees is an error, for then `known` is not the table the rows were written for.
    pub fn schema(&self, known: &Schema) -> Result<Schema, DecodeError> {
        if self.has_names() {
            // Types of MariaDB that look like BINARY are told by the catalogue alone.
            let told = |column: &MapColumn| {
                let of_mariadb =
                    |known: &&Column| matches!(known.kind, ColumnType::MariaDb(_)) && Some(&known.name) == column.name.as_ref();
                known.columns.iter().find(of_mariadb).filter(|known| column.fits(&known.kind))
            };
            let columns = self.columns.iter().map(|column| column.described(told(column))).collect::<Result<_, _>>()?;
            return Ok(Schema { columns, key: self.key.clone().unwrap_or_default() });
        }
        if known.columns.len() != self.columns.len() {
            let message =
                format!("{}.{}: schema has {} columns, event has {}", self.database, self.table, known.columns.len(), self.columns.len());
            return Err(DecodeError::SchemaMismatch(message));
        }
        let columns =
            self.columns.iter().zip(&known.columns).map(|(column, known)| column.described(Some(known))).collect::<Result<_, _>>()?;
        Ok(Schema { columns, key: known.key.clone() })
    }

    /// Reads the optional metadata; what needs the rest of it first (labels need their charset) is handed back.
    fn optional<'a>(&mut self, mut cursor: Cursor<'a>) -> Result<RawLabels<'a>, Fault> {
        let mut raw = RawLabels::default();
        while !cursor.is_empty() {
            let field = cursor.u8()?;
            let mut value = Cursor::new(cursor.lenenc_bytes()?);
            match field {
                1 => self.signs(value.rest()),
                2 => self.default_charset(&mut value, MapColumn::is_character)?,
                3 => self.column_charsets(&mut value, MapColumn::is_character)?,
                4 => {
                    for column in &mut self.columns {
                        column.name = Some(utf8(value.lenenc_bytes()?)?);
                    }
                }
                5 => raw.sets = Some(value),
                6 => raw.enums = Some(value),
                7 => {
                    for column in self.columns.iter_mut().filter(|c| c.code == code::GEOMETRY) {
                        column.geometry = Some(value.lenenc()?);
                    }
                }
                8 => self.primary_key(&mut value, false)?,
                9 => self.primary_key(&mut value, true)?,
                10 => self.default_charset(&mut value, MapColumn::is_label)?,
                11 => self.column_charsets(&mut value, MapColumn::is_label)?,
                12 => {
                    for (index, column) in self.columns.iter_mut().enumerate() {
                        column.visible = high_bit(value.rest(), index);
                    }
                }
                // Dimensions of vectors and whatever a later server adds: not needed to read rows.
                _ => {}
            }
        }
        Ok(raw)
    }

    /// One bit per numeric column, highest bit of the first byte first.
    fn signs(&mut self, bits: &[u8]) {
        for (index, column) in self.columns.iter_mut().filter(|c| c.is_numeric()).enumerate() {
            column.unsigned = Some(high_bit(bits, index));
        }
    }

    /// A default collation and pairs (index among the columns meant, collation) for those that differ.
    fn default_charset(&mut self, value: &mut Cursor<'_>, meant: fn(&MapColumn) -> bool) -> Result<(), Fault> {
        let default = collation(value)?;
        for column in self.columns.iter_mut().filter(|c| meant(c)) {
            column.collation = Some(default);
        }
        while !value.is_empty() {
            let index = value.lenenc()?;
            let other = collation(value)?;
            let index = usize::try_from(index).map_err(|_| Fault::Invalid("a charset for a column that does not exist"))?;
            let column = self.columns.iter_mut().filter(|c| meant(c)).nth(index);
            column.ok_or(Fault::Invalid("a charset for a column that does not exist"))?.collation = Some(other);
        }
        Ok(())
    }

    fn column_charsets(&mut self, value: &mut Cursor<'_>, meant: fn(&MapColumn) -> bool) -> Result<(), Fault> {
        for column in self.columns.iter_mut().filter(|c| meant(c)) {
            column.collation = Some(collation(value)?);
        }
        Ok(())
    }

    /// Column indexes in key order, each followed by the length of its prefix where the key has prefixes.
    fn primary_key(&mut self, value: &mut Cursor<'_>, with_prefix: bool) -> Result<(), Fault> {
        let mut key = Vec::new();
        while !value.is_empty() {
            let index = usize::try_from(value.lenenc()?).ok().filter(|&index| index < self.columns.len());
            key.push(index.ok_or(Fault::Invalid("a key column that does not exist"))?);
            if with_prefix {
                value.lenenc()?;
            }
        }
        self.key = Some(key);
        Ok(())
    }

    fn decode_labels(&mut self, raw: &RawLabels<'_>) -> Result<(), DecodeError> {
        for (labels, wanted) in [(raw.enums, code::ENUM), (raw.sets, code::SET)] {
            let Some(mut cursor) = labels else { continue };
            for (index, column) in self.columns.iter_mut().enumerate().filter(|(_, c)| c.code == wanted) {
                let name = column.name.clone().unwrap_or_else(|| format!("#{}", index + 1));
                column.labels =
                    Some(labels_of(&mut cursor, column.collation).map_err(|fault| DecodeError::Column { column: name, fault })?);
            }
        }
        Ok(())
    }
}

impl MapColumn {
    /// Types the sign list has a bit for.
    fn is_numeric(&self) -> bool {
        matches!(self.wire, Wire::Integer { .. } | Wire::Float | Wire::Double | Wire::Decimal { .. } | Wire::Year)
    }

    /// CHAR, VARCHAR, TEXT and their binary siblings: the types the charset lists speak of.
    fn is_character(&self) -> bool {
        matches!(self.wire, Wire::Variable { .. }) && !matches!(self.code, code::JSON | code::GEOMETRY | code::VECTOR)
    }

    fn is_label(&self) -> bool {
        matches!(self.code, code::ENUM | code::SET)
    }

    /// The column's name and type, completed from what is known of it.
    fn described(&self, known: Option<&Column>) -> Result<Column, DecodeError> {
        let name = match (&self.name, known) {
            (Some(name), _) => name.clone(),
            (None, Some(known)) => known.name.clone(),
            (None, None) => String::new(),
        };
        let mismatch = |what: &str| DecodeError::SchemaMismatch(format!("column {name}: {what}"));
        let known_kind = known.map(|known| &known.kind);
        let kind = match self.wire {
            Wire::Integer { bytes } => {
                let known = match known_kind {
                    Some(&ColumnType::Integer { unsigned, .. }) => Some(unsigned),
                    _ => None,
                };
                let unsigned = self.unsigned.or(known).ok_or_else(|| mismatch("the event does not say whether it is unsigned"))?;
                ColumnType::Integer { bytes, unsigned }
            }
            Wire::Float => ColumnType::Float,
            Wire::Double => ColumnType::Double,
            Wire::Decimal { precision, scale } => ColumnType::Decimal { precision, scale },
            Wire::Bit { bits } => ColumnType::Bit { bits },
            Wire::Year => ColumnType::Year,
            Wire::Date => ColumnType::Date,
            Wire::OldTime => ColumnType::Time { digits: 0 },
            Wire::OldDateTime => ColumnType::DateTime { digits: 0 },
            Wire::OldTimestamp => ColumnType::Timestamp { digits: 0 },
            Wire::Time { digits } => ColumnType::Time { digits },
            Wire::DateTime { digits } => ColumnType::DateTime { digits },
            Wire::Timestamp { digits } => ColumnType::Timestamp { digits },
            Wire::Variable { max, .. } => match self.code {
                code::JSON => ColumnType::Json,
                code::GEOMETRY => ColumnType::Geometry {
                    point: match (self.geometry, known_kind) {
                        (Some(kind), _) => kind == OGC_POINT,
                        (None, Some(&ColumnType::Geometry { point })) => point,
                        (None, _) => false,
                    },
                },
                code::VECTOR => ColumnType::Vector,
                _ => self.characters(max, known_kind).ok_or_else(|| mismatch("the event does not say its charset"))?,
            },
            Wire::Enum { .. } | Wire::Set { .. } => {
                let labels = match (&self.labels, known_kind) {
                    (Some(labels), _) | (None, Some(ColumnType::Enum { labels } | ColumnType::Set { labels })) => labels.clone(),
                    _ => return Err(mismatch("the event has labels, the schema has none")),
                };
                if self.code == code::ENUM { ColumnType::Enum { labels } } else { ColumnType::Set { labels } }
            }
        };
        if let Some(known) = known_kind
            && !same_type(&kind, known)
        {
            return Err(mismatch(&format!("schema has {known:?}, event has {kind:?}")));
        }
        if let (Wire::Enum { bytes }, ColumnType::Enum { labels }) = (&self.wire, &kind)
            && *bytes == 1
            && labels.len() > 255
        {
            return Err(mismatch("the schema has more labels than the event's ENUM can hold"));
        }
        Ok(Column { name, kind, nullable: self.nullable })
    }

    /// Whether a column of this type of MariaDB lies in the binlog as this one does.
    fn fits(&self, kind: &ColumnType) -> bool {
        matches!((kind, self.wire), (ColumnType::MariaDb(kind), Wire::Variable { max, .. }) if self.code == code::STRING && usize::from(max) == kind.bytes())
    }

    fn characters(&self, max: u16, known: Option<&ColumnType>) -> Option<ColumnType> {
        match (self.collation, known) {
            (None | Some(Charset::BINARY_COLLATION), Some(kind)) if self.fits(kind) => Some(kind.clone()),
            (Some(Charset::BINARY_COLLATION), _) if self.code == code::STRING => Some(ColumnType::Binary { bytes: max }),
            (Some(Charset::BINARY_COLLATION), _) => Some(ColumnType::Bytes),
            (Some(collation), _) => Some(ColumnType::Text { collation }),
            (None, known) => known.cloned(),
        }
    }
}

#[derive(Default)]
struct RawLabels<'a> {
    enums: Option<Cursor<'a>>,
    sets: Option<Cursor<'a>>,
}

fn identity<'a>(cursor: &mut Cursor<'a>) -> Result<(u64, &'a [u8], &'a [u8]), Fault> {
    let table_id = cursor.uint(6)?;
    cursor.take(2)?;
    let database = cursor.lenenc_bytes()?;
    cursor.take(1)?;
    let table = cursor.lenenc_bytes()?;
    cursor.take(1)?;
    Ok((table_id, database, table))
}

/// Type codes, their metadata and the null bitmap.
fn columns(cursor: &mut Cursor<'_>) -> Result<Vec<MapColumn>, DecodeError> {
    let event = |fault| DecodeError::Event { event: "table map", fault };
    let count = cursor.lenenc().map_err(event)?;
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= MAX_COLUMNS)
        .ok_or(event(Fault::Invalid("more columns than a table can have")))?;
    let codes = cursor.take(count).map_err(event)?;
    let mut metadata = Cursor::new(cursor.lenenc_bytes().map_err(event)?);
    let nulls = cursor.take(count.div_ceil(8)).map_err(event)?;
    let mut columns = Vec::with_capacity(count);
    for (index, &code) in codes.iter().enumerate() {
        let unknown = || DecodeError::UnknownType { column: format!("#{}", index + 1), code };
        let (code, wire) = Wire::read(code, &mut metadata).map_err(event)?.ok_or_else(unknown)?;
        let nullable = bit(nulls, index);
        columns.push(MapColumn {
            code,
            wire,
            nullable,
            unsigned: None,
            name: None,
            collation: None,
            labels: None,
            geometry: None,
            visible: true,
        });
    }
    Ok(columns)
}

fn labels_of(cursor: &mut Cursor<'_>, collation: Option<u16>) -> Result<Vec<String>, Fault> {
    let count = cursor.lenenc()?;
    // A server that writes labels writes their charset too.
    let collation = collation.ok_or(Fault::Invalid("labels without a charset"))?;
    let charset = Charset::of(collation).ok_or(Fault::Collation(collation))?;
    let mut labels = Vec::new();
    for _ in 0..count {
        let (label, _) = charset.decode(cursor.lenenc_bytes()?, InvalidText::Stop)?;
        labels.push(label.into_owned());
    }
    Ok(labels)
}

/// Whether two descriptions read the same bytes the same way. Collations may differ (the map's is newer), labels are compared
/// by nothing: what the map says of them has gone into `event` already.
fn same_type(event: &ColumnType, known: &ColumnType) -> bool {
    match (event, known) {
        (ColumnType::Text { .. }, ColumnType::Text { .. })
        | (ColumnType::Enum { .. }, ColumnType::Enum { .. })
        | (ColumnType::Set { .. }, ColumnType::Set { .. }) => true,
        _ => event == known,
    }
}

fn collation(cursor: &mut Cursor<'_>) -> Result<u16, Fault> {
    u16::try_from(cursor.lenenc()?).map_err(|_| Fault::Invalid("a collation number above 65535"))
}

/// Bit `index` of a bitmap whose first bit is the highest of the first byte.
fn high_bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
}

fn utf8(bytes: &[u8]) -> Result<String, Fault> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Fault::Invalid("a name that is not UTF-8"))
}
