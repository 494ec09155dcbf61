//! What MariaDB is asked otherwise than MySQL: session, position, view, stream, rights.
//!
//! MariaDB always has GTIDs, as one position per domain. `gtid_binlog_pos` is ahead of what can be seen, by commits under way; a
//! consistent snapshot knows its exact place. A stream is opened at the place that session variables name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::connect::{Error, quote};
use crate::model::Position;
use crate::model::position::GtidSet;

/// The oldest version with support.
pub const OLDEST: (u16, u16, u16) = (10, 11, 0);

pub const SESSION: &str = "max_statement_time = 0, tx_isolation = 'REPEATABLE-READ'";

/// Longest wait until what the binlog sent can be seen.
const VISIBLE: Duration = Duration::from_secs(60);

/// The level of the replication protocol at which GTIDs come as events (`MARIA_SLAVE_CAPABILITY_GTID`).
const CAPABILITY: u32 = 4;

/// The end of the binlog: `file` and `offset` by SHOW MASTER STATUS.
pub async fn position(connection: &mut Conn, file: String, offset: u64) -> Result<Position, Error> {
    let executed: Option<String> = connection.query_first("SELECT @@GLOBAL.gtid_binlog_pos").await?;
    place(connection, file, offset, &executed.unwrap_or_default()).await
}

async fn place(connection: &mut Conn, file: String, offset: u64, gtids: &str) -> Result<Position, Error> {
    let gtids: GtidSet = gtids.parse().map_err(|error| Error::Damaged(format!("gtid_binlog_pos: {error}")))?;
    let identity: Option<(u32, String)> = connection.query_first("SELECT @@server_id, @@hostname").await?;
    let (server_id, host) = identity.ok_or_else(|| Error::Lost("the server did not say its id".into()))?;
    let server_uuid = format!("mariadb-{server_id}-{}", host.replace('/', "_"));
    Ok(Position { server_uuid: server_uuid.into(), file: file.into(), offset, gtids: Some(Arc::new(gtids)) })
}

/// A place in the binlog up to which every later view sees everything, no earlier than `after`.
pub async fn visible(connection: &mut Conn, after: Option<&GtidSet>) -> Result<Position, Error> {
    let began = Instant::now();
    loop {
        connection.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
        let status: Vec<(String, String)> = connection.query("SHOW SESSION STATUS LIKE 'binlog\\_snapshot\\_%'").await?;
        let value = |name: &str| status.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        let file = value("binlog_snapshot_file").filter(|file| !file.is_empty());
        let offset = value("binlog_snapshot_position").and_then(|offset| offset.parse::<u64>().ok());
        let (Some(file), Some(offset)) = (file, offset) else {
            return Err(Error::Refused("the server does not say where in the binlog its view stands (is log_bin on?)".into()));
        };
        let gtids: Option<Option<String>> = connection.exec_first("SELECT BINLOG_GTID_POS(?, ?)", (&file, offset)).await?;
        let Some(gtids) = gtids.flatten() else {
            return Err(Error::Lost(format!("the server does not know the GTIDs at {file}:{offset}")));
        };
        connection.query_drop("ROLLBACK").await?;
        let seen = place(connection, file, offset, &gtids).await?;
        // The binlog is sent before a commit can be seen.
        if after.is_none_or(|after| seen.gtids.as_ref().is_some_and(|gtids| gtids.contains_all(after))) {
            return Ok(seen);
        }
        if began.elapsed() > VISIBLE {
            return Err(Error::Lost(format!("transactions from the binlog did not become visible within {} s", VISIBLE.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Tells the server where the stream that is asked for next begins; it is then asked for without file and offset.
///
/// Strict, so that a server whose history has gone another way since says so, instead of going on at its next higher number.
pub async fn prepare_stream(connection: &mut Conn, from: &GtidSet) -> Result<(), Error> {
    let statement = format!(
        "SET @mariadb_slave_capability = {CAPABILITY}, @slave_connect_state = '{from}', @slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0"
    );
    Ok(connection.query_drop(statement).await?)
}

/// Whether the session may read the binlog: MariaDB has no harmless statement that needs exactly this right.
pub async fn may_replicate(connection: &mut Conn) -> Result<bool, Error> {
    let grants: Vec<String> = connection.query("SHOW GRANTS").await?;
    let allows = |grant: &String| {
        let grant = grant.to_ascii_uppercase();
        grant.contains(" ON *.* ") && (grant.contains("REPLICATION SLAVE") || grant.contains("ALL PRIVILEGES"))
    };
    Ok(grants.iter().any(allows))
}

/// The foreign keys of a table by which the server changes its rows: name, and what it does. `information_schema` shows them only to
/// those who may do more than SELECT.
pub async fn cascades(connection: &mut Conn, database: &str, table: &str) -> Result<Vec<(String, String)>, Error> {
    let shown: Result<Option<(String, String)>, _> =
        connection.query_first(format!("SHOW CREATE TABLE {}.{}", quote(database), quote(table))).await;
    match shown.map_err(Error::from) {
        Ok(shown) => Ok(cascades_in(&shown.unwrap_or_default().1)),
        // What is there instead of a table has been reported.
        Err(Error::NoTable(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Lines like ``CONSTRAINT `name` FOREIGN KEY (`a`) REFERENCES `t` (`b`) ON DELETE CASCADE``.
fn cascades_in(create: &str) -> Vec<(String, String)> {
    let cascade = |line: &str| {
        let (name, rest) = line.trim_start().strip_prefix("CONSTRAINT `")?.split_once("` FOREIGN KEY (")?;
        let rules = rest.rsplit_once(')')?.1.trim().trim_end_matches(',');
        let acts = rules.contains("CASCADE") || rules.contains("SET NULL");
        acts.then(|| (name.to_owned(), rules.to_owned()))
    };
    create.lines().filter_map(cascade).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_keys_that_change_rows() {
        let create = "CREATE TABLE `c` (\n  `id` int COMMENT 'ON DELETE CASCADE',\n  KEY `k` (`a`),\n  \
            CONSTRAINT `one` FOREIGN KEY (`a`) REFERENCES `t` (`b`),\n  \
            CONSTRAINT `two` FOREIGN KEY (`a`, `b`) REFERENCES `t` (`x`, `y`) ON DELETE CASCADE ON UPDATE NO ACTION,\n  \
            CONSTRAINT `check` CHECK (`a` > 0)\n) ENGINE=InnoDB COMMENT='x'";
        assert_eq!(cascades_in(create), [("two".to_owned(), "ON DELETE CASCADE ON UPDATE NO ACTION".to_owned())]);
    }
}
