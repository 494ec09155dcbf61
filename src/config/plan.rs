//! What is meant: every key resolved, every name checked, every template compiled. Built by `config::load` alone.

use std::net::SocketAddr;
use std::time::Duration;

use super::secret::Secret;
use crate::join::StreamPlan;
use crate::model::TableId;

#[derive(Debug)]
pub struct Plan {
    pub name: String,
    /// Distinguishes the instances of one `name`; the host name unless set.
    pub instance: String,
    /// `None` only when no table is read from MySQL.
    pub mysql: Option<MysqlPlan>,
    pub kafka: KafkaPlan,
    /// Indexed by `TableId`, in order of name.
    pub tables: Vec<TablePlan>,
    /// In order of name; `StreamPlan` is compiled in `join`.
    pub streams: Vec<StreamPlan>,
    pub http: HttpPlan,
    pub limits: Limits,
    pub log: LogPlan,
    pub state: StatePlan,
}

#[derive(Debug, Clone)]
pub struct MysqlPlan {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Secret,
    pub tls: MysqlTls,
    /// PEM file of certificate authorities for `verify-ca` and `verify-identity`; the system's when absent.
    pub tls_ca: Option<std::path::PathBuf>,
    /// Client certificate as PKCS #12 file, with its password.
    pub tls_identity: Option<(std::path::PathBuf, Secret)>,
    /// Ours among the replicas of the server; derived from name and instance unless set.
    pub server_id: u32,
    pub heartbeat: Duration,
    pub snapshot_lock: SnapshotLock,
    /// When the server no longer has what follows our position.
    pub on_purge: OnPurge,
    /// Rows per snapshot chunk.
    pub snapshot_chunk: usize,
    /// Connections that read a snapshot side by side.
    pub snapshot_connections: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MysqlTls {
    Disabled,
    Required,
    VerifyCa,
    VerifyIdentity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotLock {
    None,
    Brief,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPurge {
    /// A person decides: exit code 5.
    Exit,
    /// The tables are read again.
    Resnapshot,
}

#[derive(Debug, Clone)]
pub struct KafkaPlan {
    pub brokers: String,
    /// librdkafka properties the user set, all from the allow-list (contract E16).
    pub client: Vec<(String, Secret)>,
}

#[derive(Debug, Clone)]
pub struct TablePlan {
    pub name: String,
    pub database: String,
    pub table: String,
    /// Projection; `None` takes every column.
    pub columns: Option<Vec<String>>,
    /// Replaces the primary key: unique, not-null columns.
    pub key: Option<Vec<String>>,
    pub cascades: Cascades,
    /// Columns shown as boolean although TINYINT(1).
    pub booleans: Vec<String>,
    pub decimal: DecimalForm,
    pub invalid_text: InvalidText,
    /// Row versions of the past, for joins as of a time; `None`: only the rows as they are.
    pub history: Option<HistoryPlan>,
    /// The change topic (contract B); `None`: the table's changes are not published.
    pub publish: Option<PublishPlan>,
    /// How often the table is compared with MySQL; `None`: only when asked for.
    pub audit: Option<Duration>,
    /// Bytes of rows held at most, the others read from MySQL when they are needed; `None`: the table is held whole.
    pub cache: Option<u64>,
    /// Columns that templates and joins name, each with the dotted configuration key that needs it.
    pub needed: Vec<(String, String)>,
    /// How many key values each join gives, with its dotted configuration key: as many as the key has columns.
    pub key_widths: Vec<(usize, String)>,
}

impl Plan {
    /// Tables that are not held whole, each with the bytes of rows it may hold.
    pub fn bounded_tables(&self) -> impl Iterator<Item = (TableId, u64)> {
        let tables = self.tables.iter().zip(0_u16..);
        tables.filter_map(|(table, index)| table.cache.map(|max_bytes| (TableId(index), max_bytes)))
    }
}

impl TablePlan {
    /// A table as it is when only its source is configured.
    pub fn new(name: impl Into<String>, database: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            database: database.into(),
            table: table.into(),
            columns: None,
            key: None,
            cascades: Cascades::Refuse,
            booleans: Vec::new(),
            decimal: DecimalForm::String,
            invalid_text: InvalidText::Stop,
            history: None,
            publish: None,
            audit: None,
            cache: None,
            needed: Vec::new(),
            key_widths: Vec::new(),
        }
    }
}

/// `history`: how long, and in how many bytes at most, versions of a table's rows are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPlan {
    pub keep: Duration,
    pub max_bytes: usize,
}

/// `publish`: the change topic of a table, in Debezium's envelope (contract B1). Modes carry Debezium's names and meanings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPlan {
    pub topic: String,
    /// Key and value wrapped in `schema` and `payload`.
    pub schemas: bool,
    pub time: TimeMode,
    pub decimal: DecimalMode,
    pub bigint_unsigned: BigintUnsignedMode,
    pub binary: BinaryMode,
    /// A null value after each delete.
    pub tombstones: bool,
    /// Fills the `transaction` member of the envelope.
    pub transactions: bool,
    /// Partitions of the topic if Larder creates it.
    pub partitions: i32,
}

/// `time.precision.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeMode {
    AdaptiveTimeMicroseconds,
    Connect,
    Isostring,
    Microseconds,
    Nanoseconds,
}

/// `decimal.handling.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalMode {
    Precise,
    String,
    Double,
}

/// `bigint.unsigned.handling.mode`; `Long` writes the true number (contract B3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BigintUnsignedMode {
    Long,
    Precise,
}

/// `binary.handling.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryMode {
    Bytes,
    Base64,
    Base64UrlSafe,
    Hex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cascades {
    Refuse,
    Ignore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecimalForm {
    String,
    Number,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidText {
    Stop,
    Replace,
}

#[derive(Debug, Clone)]
pub struct HttpPlan {
    /// `None`: no HTTP server (`listen = ""`).
    pub listen: Option<SocketAddr>,
    pub token: Option<Secret>,
    pub body_bytes: usize,
    pub header_bytes: usize,
    pub connections: usize,
    pub header_timeout: Duration,
}

/// Bounds of everything; defaults are contract E15.
#[derive(Debug, Clone)]
pub struct Limits {
    pub message_bytes: usize,
    pub json_depth: usize,
    pub outputs_per_record: usize,
    pub commit_bytes: usize,
    pub commit_interval: Duration,
    pub transaction_bytes: usize,
    pub queue_bytes: usize,
    pub transaction_timeout: Duration,
    pub session_timeout: Duration,
    pub shutdown: Duration,
}

#[derive(Debug, Clone)]
pub struct StatePlan {
    /// File of the local table store; `None`: nothing is ever written to disk.
    pub path: Option<std::path::PathBuf>,
}

#[derive(Debug, Clone)]
pub struct LogPlan {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter as `tracing` reads it.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}
