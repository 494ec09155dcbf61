//! What a captured table looks like: its columns in order, their types, its key.

use serde::{Deserialize, Serialize};

use super::KeyKind;

/// Columns in the table's order (invisible and generated ones included, contract C) and the key's column indexes in key order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub columns: Vec<Column>,
    pub key: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub kind: ColumnType,
    pub nullable: bool,
}

/// Every MySQL column type, with what is needed to read its bytes and to print its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnType {
    /// TINYINT 1, SMALLINT 2, MEDIUMINT 3, INT 4, BIGINT 8 bytes.
    Integer {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Bit {
        bits: u8,
    },
    Year,
    Date,
    /// Fraction digits 0 to 6.
    Time {
        digits: u8,
    },
    DateTime {
        digits: u8,
    },
    Timestamp {
        digits: u8,
    },
    /// CHAR, VARCHAR, TEXT of any size, with the number of the collation.
    Text {
        collation: u16,
    },
    /// BINARY(n): the binlog cuts trailing zero bytes, so the width is needed to pad them back.
    Binary {
        bytes: u16,
    },
    /// VARBINARY and BLOB of any size.
    Bytes,
    /// Labels as UTF-8, index 1 first.
    Enum {
        labels: Vec<String>,
    },
    Set {
        labels: Vec<String>,
    },
    Json,
    /// A column of the type POINT holds points only; all other spatial types are one to us.
    Geometry {
        point: bool,
    },
    Vector,
    /// Shown as the text that MariaDB makes of it.
    MariaDb(MariaDbType),
}

/// Types of MariaDB that lie in the binlog as BINARY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MariaDbType {
    Uuid,
    Inet4,
    Inet6,
}

impl MariaDbType {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            MariaDbType::Uuid => "UUID",
            MariaDbType::Inet4 => "INET4",
            MariaDbType::Inet6 => "INET6",
        }
    }

    pub fn bytes(self) -> usize {
        if self == MariaDbType::Inet4 { 4 } else { 16 }
    }
}

impl Schema {
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// How a record's value meets the key when the key is one column; composite keys compare fragments by the same rule per column.
    pub fn key_kind(&self, key_part: usize) -> KeyKind {
        self.columns[self.key[key_part]].kind.key_kind()
    }
}

impl ColumnType {
    pub fn key_kind(&self) -> KeyKind {
        match *self {
            ColumnType::Integer { bytes, unsigned } => {
                let bits = u32::from(bytes) * 8;
                if unsigned {
                    KeyKind::Integer { min: 0, max: u64::MAX >> (64 - bits) }
                } else {
                    KeyKind::Integer { min: i64::MIN >> (64 - bits), max: (i64::MAX >> (64 - bits)) as u64 }
                }
            }
            ColumnType::Year => KeyKind::Integer { min: 0, max: 2155 },
            _ => KeyKind::Text,
        }
    }
}
