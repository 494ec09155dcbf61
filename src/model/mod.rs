//! The words of the data's way: values, rows, keys, changes, transactions, positions, records. Pure; uses nothing of ours.

pub mod change;
pub mod gtid;
pub mod key;
pub mod position;
pub mod row;
pub mod schema;
pub mod stop;
pub mod text;
pub mod value;

pub use change::{Change, Transaction};
pub use key::{Key, KeyKind};
pub use position::Position;
pub use row::{Row, RowBuilder};
pub use schema::{Column, ColumnType, MariaDbType, Schema};
pub use stop::{Reason, Stop};
pub use value::{Substitutions, Value};

/// Index of a captured table in the plan; stable for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u16);

impl TableId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}
