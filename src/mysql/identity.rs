//! Whether the server behind the address can go on where a stream stopped (contract A2, case B08), and what it no longer has (B02).
//!
//! With GTIDs the executed set alone decides. Without them a position means something on one server only.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use super::connect::{self, Error};
use crate::config::plan::MysqlPlan;
use crate::model::position::GtidSet;
use crate::model::{Position, Reason};

/// Whether a server goes on at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same server: go on.
    Same,
    /// Another server, or the same under another identity, that has all transactions: go on by GTID. Its files are other files.
    Moved(Arc<str>),
    /// The same server, but the position no longer says where to go on: read everything again. Why.
    Anew(&'static str),
    /// Transactions would be lost or unknown: a person must decide. `reset`, or `server-replaced`.
    Lacking { reason: Reason, message: String },
}

/// Judges a server by where its binlog ends now; `ours` is where our stream stopped.
pub fn judge(ours: &Position, now: &Position) -> Verdict {
    let same = ours.server_uuid == now.server_uuid;
    match (&ours.gtids, &now.gtids) {
        (Some(known), Some(executed)) if !executed.contains_all(known) => {
            let message = format!(
                "the server {} lacks transactions that were applied here: {}; it executed {}, applied here are {}",
                now.server_uuid,
                known.minus(executed),
                text(executed),
                text(known)
            );
            Verdict::Lacking { reason: if same { Reason::Reset } else { Reason::ServerReplaced }, message }
        }
        (Some(_), Some(_)) if same => Verdict::Same,
        (Some(_), Some(_)) => Verdict::Moved(Arc::clone(&now.server_uuid)),
        (Some(_), None) | (None, Some(_)) if same => Verdict::Anew("GTIDs were switched on or off"),
        // COM_BINLOG_DUMP asks for an offset of 32 bits (case B18).
        (None, None) if same && u32::try_from(ours.offset).is_err() => {
            Verdict::Anew("without GTIDs a stream cannot be resumed beyond 4 GiB of a binlog file")
        }
        (None, None) if same && !now.reaches(ours) => Verdict::Lacking {
            reason: Reason::Reset,
            message: format!("the server's binlog ends at {now}, before {ours}: it was reset, or restored from a backup"),
        },
        (None, None) if same => Verdict::Same,
        _ => Verdict::Lacking {
            reason: Reason::ServerReplaced,
            message: format!(
                "the server is now {}, it was {}, and without GTIDs nobody can say where its binlog goes on",
                now.server_uuid, ours.server_uuid
            ),
        },
    }
}

/// A server that was asked.
#[derive(Debug)]
pub struct Asked {
    pub verdict: Verdict,
    /// How long its binlog files stay after their last write; `None` for ever.
    pub log_expiry: Option<Duration>,
}

/// Asks the server behind the address.
pub async fn ask(plan: &MysqlPlan, ours: &Position) -> Result<Asked, Error> {
    let mut connection = connect::connect(plan).await?;
    let now = connect::position(&mut connection).await?;
    let log_expiry = connect::log_expiry(&mut connection).await?;
    let _ = connection.disconnect().await;
    Ok(Asked { verdict: judge(ours, &now), log_expiry })
}

/// What a server that answered [`Error::Purged`] no longer has of what follows a position: `transactions <set>`, or files.
pub async fn missing(plan: &MysqlPlan, ours: &Position) -> Result<String, Error> {
    let mut connection = connect::connect(plan).await?;
    let missing = missing_of(&mut connection, ours).await;
    let _ = connection.disconnect().await;
    missing
}

async fn missing_of(connection: &mut Conn, ours: &Position) -> Result<String, Error> {
    if let Some(known) = &ours.gtids
        && !connect::is_mariadb(connection)
    {
        let purged: Option<String> = connection.query_first("SELECT @@GLOBAL.gtid_purged").await?;
        let purged: GtidSet = purged.unwrap_or_default().parse().map_err(|error| Error::Damaged(format!("gtid_purged: {error}")))?;
        return Ok(format!("transactions {}", text(&purged.minus(known))));
    }
    let oldest: Option<(String, u64)> = connect::files(connection).await?.into_iter().next();
    let oldest = oldest.map_or_else(|| "the end".to_owned(), |(file, _)| file);
    Ok(format!("the binlog from {}:{} to the start of {oldest}", ours.file, ours.offset))
}

fn text(set: &GtidSet) -> String {
    if set.is_empty() { "none".to_owned() } else { set.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "ffffffff-71ca-11e1-9e33-c80aa9429562";

    fn verdict(ours: &str, now: &str) -> Verdict {
        judge(&ours.parse().expect("a position"), &now.parse().expect("a position"))
    }

    fn reason(verdict: &Verdict) -> Option<Reason> {
        if let Verdict::Lacking { reason, .. } = verdict { Some(*reason) } else { None }
    }

    #[test]
    fn with_gtids_the_executed_set_alone_decides() {
        assert_eq!(verdict(&format!("{A}/b.1:4/{A}:1-5"), &format!("{A}/b.9:4/{A}:1-5")), Verdict::Same);
        assert_eq!(verdict(&format!("{A}/b.7:900/{A}:1-5"), &format!("{B}/b.1:4/{A}:1-9,{B}:1")), Verdict::Moved(B.into()));
        let lossy = verdict(&format!("{A}/b.7:900/{A}:1-55"), &format!("{B}/b.1:4/{A}:1-5,{B}:1-3"));
        assert_eq!(reason(&lossy), Some(Reason::ServerReplaced));
        let Verdict::Lacking { message, .. } = lossy else { panic!("b08") };
        assert!(message.contains(&format!("{A}:6-55; it executed {A}:1-5,{B}:1-3, applied here are {A}:1-55")), "both sets: {message}");
        assert_eq!(reason(&verdict(&format!("{A}/b.7:900/{A}:1-5"), &format!("{A}/b.1:4/"))), Some(Reason::Reset));
        assert_eq!(verdict("mariadb-1-a/b.7:900/0-1-5", "mariadb-2-b/b.1:4/0-2-6,1-1-1"), Verdict::Moved("mariadb-2-b".into()));
        assert_eq!(reason(&verdict("mariadb-1-a/b.7:900/0-1-5", "mariadb-1-a/b.1:4/0-1-4")), Some(Reason::Reset));
    }

    #[test]
    fn without_gtids_only_the_same_server_goes_on() {
        assert_eq!(verdict(&format!("{A}/b.7:900"), &format!("{A}/b.8:4")), Verdict::Same);
        assert_eq!(reason(&verdict(&format!("{A}/b.7:900"), &format!("{B}/b.8:4"))), Some(Reason::ServerReplaced));
        assert_eq!(reason(&verdict(&format!("{A}/b.7:900"), &format!("{A}/b.1:900"))), Some(Reason::Reset));
        assert!(matches!(verdict(&format!("{A}/b.7:900"), &format!("{A}/b.8:4/{A}:1")), Verdict::Anew(_)));
        assert!(matches!(verdict(&format!("{A}/b.7:900/{A}:1"), &format!("{A}/b.8:4")), Verdict::Anew(_)));
    }

    #[test]
    fn b18_offsets_beyond_4_gib_resume_by_gtid_alone() {
        assert!(matches!(verdict(&format!("{A}/b.7:4294967296"), &format!("{A}/b.7:4294967999")), Verdict::Anew(_)));
        assert_eq!(verdict(&format!("{A}/b.7:4294967296/{A}:1-5"), &format!("{A}/b.7:4294967999/{A}:1-6")), Verdict::Same);
    }
}
