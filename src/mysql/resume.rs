//! Whether a server can go on where we stopped (contract A2): it has everything we have, and still keeps the binlog of what came since.

use std::sync::Arc;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::connect::{self, Error};
use crate::model::Position;
use crate::model::position::GtidSet;

/// Seconds in which a server that was just sent to us must show its last transactions: the binlog is sent before a commit can be seen.
const VISIBLE_SECONDS: u8 = 2;

/// Where a server goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// Where the stream begins, in the words of this server.
    pub from: Position,
    /// Where its binlog ends now.
    pub now: Position,
}

/// Looks whether everything after `from` can be had from the server, and whether it has everything up to `until`. The answer in
/// words where it cannot.
pub async fn resumed(connection: &mut Conn, from: &Position, until: &Position) -> Result<Result<Resumed, String>, Error> {
    if connect::is_mariadb(connection) {
        return Ok(Err("on MariaDB a start from the store is not in this version".into()));
    }
    let now = connect::position(connection).await?;
    match (&from.gtids, &until.gtids, &now.gtids) {
        (Some(begin), Some(known), Some(_)) => {
            let visible: Option<Option<u8>> =
                connection.exec_first("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)", (known.to_string(), VISIBLE_SECONDS)).await?;
            if visible.flatten() != Some(0) {
                return Ok(Err(format!("the server {} lacks transactions of the store ({known})", now.server_uuid)));
            }
            let purged: Option<String> = connection.query_first("SELECT @@GLOBAL.gtid_purged").await?;
            let purged: GtidSet = purged.unwrap_or_default().parse().map_err(|error| Error::Damaged(format!("gtid_purged: {error}")))?;
            if !begin.contains_all(&purged) {
                return Ok(Err("the binlog since the store was written is purged".into()));
            }
            let now = connect::position(connection).await?;
            Ok(Ok(Resumed { from: in_words_of(&now, from), now }))
        }
        (None, None, None) if from.server_uuid != now.server_uuid => Ok(Err(format!(
            "the server is {}, the store is of {}, and without GTIDs their binlogs cannot be compared",
            now.server_uuid, from.server_uuid
        ))),
        // The protocol takes 32 bits.
        (None, None, None) if u32::try_from(from.offset).is_err() => {
            Ok(Err("without GTIDs a stream cannot begin beyond 4 GiB of a binlog file".into()))
        }
        (None, None, None) => {
            let logs: Vec<mysql_async::Row> = connection.query("SHOW BINARY LOGS").await?;
            let holds = |row: &mysql_async::Row, position: &Position| {
                let name = row.get_opt::<String, _>(0).and_then(Result::ok);
                let bytes = row.get_opt::<u64, _>(1).and_then(Result::ok);
                name.as_deref() == Some(&*position.file) && bytes.is_some_and(|bytes| bytes >= position.offset)
            };
            if [from, until].iter().all(|position| logs.iter().any(|row| holds(row, position))) {
                return Ok(Ok(Resumed { from: from.clone(), now }));
            }
            Ok(Err(format!("the server no longer has its binlog {} up to offset {}", from.file, from.offset)))
        }
        _ => Ok(Err("GTIDs were switched on or off on the server".into())),
    }
}

/// A GTID set says where to go on on every server that has it, file and offset only on the one that wrote them: on another they are
/// before its first file.
fn in_words_of(now: &Position, from: &Position) -> Position {
    if now.server_uuid == from.server_uuid {
        return from.clone();
    }
    Position { server_uuid: Arc::clone(&now.server_uuid), file: Arc::from(""), offset: 0, gtids: from.gtids.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_another_server_file_and_offset_are_before_its_first() {
        let position = |text: &str| text.parse::<Position>().expect("a position");
        let from = position("3e11fa47-71ca-11e1-9e33-c80aa9429562/binlog.000900:77/3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5");
        let now = position("ffffffff-71ca-11e1-9e33-c80aa9429562/binlog.000001:4/3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9");
        assert_eq!(in_words_of(&from, &from), from);
        let moved = in_words_of(&now, &from);
        assert_eq!((&moved.server_uuid, &moved.gtids), (&now.server_uuid, &from.gtids));
        assert!(now.reaches(&moved) && !moved.reaches(&now));
    }
}
