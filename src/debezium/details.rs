//! What neither a table map nor a row says of a column, and only schemas show: its default. From the catalogue; where it is not known,
//! schemas are the same without it.

use crate::model::Value;

/// Of some columns of a table, in any order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    pub columns: Vec<ColumnDetails>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDetails {
    pub name: String,
    pub default: Option<ColumnDefault>,
    /// `FLOAT(7,3)`: Debezium takes a FLOAT with declared digits for a double.
    pub declared_digits: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ColumnDefault {
    Value(Value<'static>),
    /// `CURRENT_TIMESTAMP`: Debezium writes the epoch for it.
    Now,
}

impl Details {
    pub(super) fn of(&self, column: &str) -> Option<&ColumnDetails> {
        self.columns.iter().find(|details| details.name == column)
    }
}
