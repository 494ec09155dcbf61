//! Why something stopped: the closed list of reasons, and the error that ends the process with its exit code (promise W10).

use std::fmt;

/// Reason codes of contract A4 and E17; they stand in `/api/tables`, `/api/streams`, metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Purged,
    Reset,
    ServerReplaced,
    ServerIdClash,
    SchemaMismatch,
    DdlUnsupported,
    TableDropped,
    KeyChanged,
    RowImage,
    StatementFormat,
    UnknownEvent,
    UnknownType,
    BadCharset,
    BadValue,
    TooLarge,
    Checksum,
    Incident,
    OffsetsLost,
    BadRecord,
}

impl Reason {
    const ALL: [Reason; 19] = [
        Reason::Purged,
        Reason::Reset,
        Reason::ServerReplaced,
        Reason::ServerIdClash,
        Reason::SchemaMismatch,
        Reason::DdlUnsupported,
        Reason::TableDropped,
        Reason::KeyChanged,
        Reason::RowImage,
        Reason::StatementFormat,
        Reason::UnknownEvent,
        Reason::UnknownType,
        Reason::BadCharset,
        Reason::BadValue,
        Reason::TooLarge,
        Reason::Checksum,
        Reason::Incident,
        Reason::OffsetsLost,
        Reason::BadRecord,
    ];

    /// The reason a code stands for.
    pub fn from_code(code: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    pub fn code(self) -> &'static str {
        match self {
            Reason::Purged => "purged",
            Reason::Reset => "reset",
            Reason::ServerReplaced => "server-replaced",
            Reason::ServerIdClash => "server-id-clash",
            Reason::SchemaMismatch => "schema-mismatch",
            Reason::DdlUnsupported => "ddl-unsupported",
            Reason::TableDropped => "table-dropped",
            Reason::KeyChanged => "key-changed",
            Reason::RowImage => "row-image",
            Reason::StatementFormat => "statement-format",
            Reason::UnknownEvent => "unknown-event",
            Reason::UnknownType => "unknown-type",
            Reason::BadCharset => "bad-charset",
            Reason::BadValue => "bad-value",
            Reason::TooLarge => "too-large",
            Reason::Checksum => "checksum",
            Reason::Incident => "incident",
            Reason::OffsetsLost => "offsets-lost",
            Reason::BadRecord => "bad-record",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Ends the process in order, with the exit code users may script against.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Precondition(String),
    #[error("{0}")]
    Fenced(String),
    /// Only a person can decide how to go on: binlog purged, server replaced, …
    #[error("{reason}: {message}")]
    Operator { reason: Reason, message: String },
    #[error("this is a bug in larder: {0}")]
    Bug(String),
}

impl Stop {
    pub fn exit_code(&self) -> u8 {
        match self {
            Stop::Configuration(_) => 2,
            Stop::Precondition(_) => 3,
            Stop::Fenced(_) => 4,
            Stop::Operator { .. } => 5,
            Stop::Bug(_) => 70,
        }
    }
}
