//! Connections to MySQL: options and TLS from the plan, session variables set by us, errors sorted by what to do about them.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{ClientIdentity, Conn, DriverError, IoError, Opts, OptsBuilder, SslOpts};

use super::mariadb;
use crate::config::plan::{MysqlPlan, MysqlTls};
use crate::model::position::{GtidSet, Position};

/// Longest wait for a connection: address, TLS and login together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest packet taken, MySQL's own limit: binlog events of large rows exceed the server's `max_allowed_packet`.
const MAX_PACKET_BYTES: usize = 1 << 30;

/// What a session of ours depends on, whatever the server's global settings are (case N19). Text is handed out in the charset of
/// its column, so that the snapshot decodes the same bytes as the binlog (promise W6).
const SESSION: &str = "SET SESSION sql_mode = '', time_zone = '+00:00', sql_select_limit = 18446744073709551615, autocommit = 1, \
    completion_type = 'NO_CHAIN', sql_big_selects = 1, sql_auto_is_null = 0, net_write_timeout = 3600, net_read_timeout = 3600, \
    wait_timeout = 28800, lock_wait_timeout = 60, character_set_results = NULL";

const SESSION_OF_MYSQL: &str = "max_execution_time = 0, transaction_isolation = 'REPEATABLE-READ', information_schema_stats_expiry = 0";

/// Why something asked of MySQL was not done, sorted by what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Try again: the server cannot be reached, ended the connection, or a lock was not to be had in time.
    #[error("{0}")]
    Lost(String),
    /// Trying again would change nothing: wrong credentials, a missing right, TLS that cannot be agreed on.
    #[error("{0}")]
    Refused(String),
    /// The server has no such table, or no such database.
    #[error("{0}")]
    NoTable(String),
    /// What we need of the binlog is no longer there.
    #[error("{0}")]
    Purged(String),
    /// The server cannot continue where we stopped: its binlog is another one.
    #[error("{0}")]
    Reset(String),
    /// Another client replicates with our server id.
    #[error("{0}")]
    ServerIdClash(String),
    /// Bytes of the binlog that cannot be trusted: the checksum is wrong, or they make no sense.
    #[error("{0}")]
    Damaged(String),
}

impl From<mysql_async::Error> for Error {
    fn from(error: mysql_async::Error) -> Self {
        let text = error.to_string();
        match &error {
            mysql_async::Error::Server(server) => match server.code {
                // Access denied: user, database, table, column, routine; password expired; a privilege is missing.
                1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1410 | 1698 | 1820 | 1862 | 3118 | 3159 | 3955 => Error::Refused(text),
                1049 | 1146 => Error::NoTable(text),
                // ER_SOURCE_FATAL_ERROR_READING_BINLOG tells by its text alone what happened.
                1236 => binlog_error(text),
                1789 => Error::Purged(text),
                // ER_SLAVE_SAME_ID of MariaDB.
                4052 => Error::ServerIdClash(text),
                _ => Error::Lost(text),
            },
            mysql_async::Error::Driver(
                DriverError::NoClientSslFlagFromServer
                | DriverError::UnknownAuthPlugin { .. }
                | DriverError::MysqlOldPasswordDisabled
                | DriverError::NoKeyFound,
            ) => Error::Refused(text),
            mysql_async::Error::Io(IoError::Tls(_)) if is_certificate_error(&text) => Error::Refused(text),
            _ => Error::Lost(text),
        }
    }
}

fn binlog_error(text: String) -> Error {
    let has = |part: &str| text.contains(part);
    if has("same server_uuid/server_id") {
        Error::ServerIdClash(text)
    } else if has("purged") || has("Could not find first log file name") || has("Could not find GTID state requested") {
        Error::Purged(text)
    } else {
        Error::Reset(text)
    }
}

/// OpenSSL's words for a certificate that is not trusted or not of this host, as opposed to a connection that broke.
fn is_certificate_error(text: &str) -> bool {
    ["certificate verify failed", "Hostname mismatch", "unsupported protocol", "no protocols available"]
        .iter()
        .any(|part| text.contains(part))
}

/// Opens a connection and sets its session variables.
pub async fn connect(plan: &MysqlPlan) -> Result<Conn, Error> {
    let options = options(plan).await?;
    let mut connection = tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(options))
        .await
        .map_err(|_| Error::Lost(format!("no answer from {}:{} within {} s", plan.host, plan.port, CONNECT_TIMEOUT.as_secs())))??;
    let (name, version) = version(&mut connection).await?;
    let mariadb = name.contains("MariaDB");
    if mariadb != is_mariadb(&connection) || version < if mariadb { mariadb::OLDEST } else { (8, 0, 0) } {
        let wanted = "MySQL 8.0 or later, or MariaDB 10.11 or later, is needed";
        return Err(Error::Refused(format!("the server at {}:{} is {name}; {wanted}", plan.host, plan.port)));
    }
    connection.query_drop("SET NAMES utf8mb4").await?;
    connection.query_drop(format!("{SESSION}, {}", if mariadb { mariadb::SESSION } else { SESSION_OF_MYSQL })).await?;
    if !mariadb && version >= (8, 0, 30) {
        connection.query_drop("SET SESSION show_gipk_in_create_table_and_information_schema = ON").await?;
    }
    Ok(connection)
}

/// Whether the server is a MariaDB: its versions begin with 10, where MySQL's have not got to. [`connect`] made sure of it by name.
pub fn is_mariadb(connection: &Conn) -> bool {
    connection.server_version() >= (10, 0, 0)
}

/// Version as the server names itself, and as number.
async fn version(connection: &mut Conn) -> Result<(String, (u16, u16, u16)), Error> {
    let name: String = connection.query_first("SELECT VERSION()").await?.unwrap_or_default();
    Ok((name, connection.server_version()))
}

async fn options(plan: &MysqlPlan) -> Result<Opts, Error> {
    let options = OptsBuilder::default()
        .ip_or_hostname(plan.host.as_str())
        .tcp_port(plan.port)
        .user(Some(plan.user.as_str()))
        .pass(Some(plan.password.reveal()))
        .prefer_socket(false)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .max_allowed_packet(Some(MAX_PACKET_BYTES))
        .wait_timeout(Some(28_800))
        // Statements of the snapshot differ each time.
        .stmt_cache_size(0)
        .ssl_opts(tls(plan).await?);
    Ok(options.into())
}

async fn tls(plan: &MysqlPlan) -> Result<Option<SslOpts>, Error> {
    let options = match plan.tls {
        MysqlTls::Disabled => return Ok(None),
        MysqlTls::Required => SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true),
        MysqlTls::VerifyCa => SslOpts::default().with_danger_skip_domain_validation(true),
        MysqlTls::VerifyIdentity => SslOpts::default(),
    };
    let mut roots = Vec::new();
    if let Some(path) = &plan.tls_ca {
        roots.push(readable(path).await?.into());
    }
    let identity = match &plan.tls_identity {
        Some((path, password)) => Some(ClientIdentity::new(readable(path).await?.into()).with_password(password.reveal().to_owned())),
        None => None,
    };
    // With an authority of one's own no other is trusted.
    Ok(Some(options.with_disable_built_in_roots(!roots.is_empty()).with_root_certs(roots).with_client_identity(identity)))
}

/// The content of a file, read by us so that an error names it.
async fn readable(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Refused(format!("{}: {error}", path.display())))
}

/// Where the binlog ends now. The GTID set may lag behind file and offset, which are written before a commit can be seen.
pub async fn position(connection: &mut Conn) -> Result<Position, Error> {
    let row: Option<mysql_async::Row> = connection.query_first(status_statement(connection)).await?;
    let row = row.ok_or_else(|| Error::Refused("the server writes no binlog (log_bin is off)".into()))?;
    let text = |index: usize| row.get_opt::<String, _>(index).and_then(Result::ok).unwrap_or_default();
    let offset = row.get_opt::<u64, _>(1).and_then(Result::ok).unwrap_or_default();
    let (file, executed) = (text(0), text(4));
    if is_mariadb(connection) {
        return mariadb::position(connection, file, offset).await;
    }
    let identity: Option<(String, String)> = connection.query_first("SELECT @@server_uuid, @@gtid_mode").await?;
    let (server_uuid, gtid_mode) = identity.ok_or_else(|| Error::Lost("the server did not say its uuid".into()))?;
    let gtids = if gtid_mode == "ON" {
        let set: GtidSet = executed.parse().map_err(|error| Error::Damaged(format!("gtid_executed: {error}")))?;
        Some(Arc::new(set))
    } else {
        None
    };
    Ok(Position { server_uuid: server_uuid.into(), file: file.into(), offset, gtids })
}

/// The statement that says where the binlog ends, and what is kept out of it.
pub fn status_statement(connection: &Conn) -> &'static str {
    let new = !is_mariadb(connection) && connection.server_version() >= (8, 2, 0);
    if new { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" }
}

/// The binlog files the server has, oldest first, with their bytes.
pub async fn files(connection: &mut Conn) -> Result<Vec<(String, u64)>, Error> {
    let rows: Vec<mysql_async::Row> = connection.query("SHOW BINARY LOGS").await?;
    Ok(rows.iter().filter_map(|row| Some((row.get_opt(0)?.ok()?, row.get_opt(1)?.ok()?))).collect())
}

/// How long the server keeps a binlog file after its last write; `None` where it never takes one away by itself.
pub async fn log_expiry(connection: &mut Conn) -> Result<Option<Duration>, Error> {
    let rows: Vec<(String, String)> = connection
        .query("SHOW GLOBAL VARIABLES WHERE Variable_name IN ('binlog_expire_logs_seconds', 'binlog_expire_logs_auto_purge')")
        .await?;
    let value = |wanted: &str| rows.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let purges = value("binlog_expire_logs_auto_purge") != Some("OFF");
    let seconds = value("binlog_expire_logs_seconds").and_then(|seconds| seconds.split('.').next()?.parse::<u64>().ok()).unwrap_or(0);
    Ok((purges && seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// A name as it stands in SQL.
pub fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
