//! Places in the binlog.

/// Filled in by the capture helper.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    pub server_uuid: String,
}
