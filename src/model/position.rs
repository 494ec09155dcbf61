//! Places in the binlog: a [`Position`], and the [`GtidSet`] it may carry.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use super::gtid::{DomainGtid, Gtid, GtidSet, Interval, Source, Uuid};

/// A place in the binlog of one server: everything up to it is known.
///
/// ```text
/// <server uuid>/<file>:<offset>                 a server without GTIDs
/// <server uuid>/<file>:<offset>/<GTID set>      the set may be empty
/// ```
///
/// MariaDB has no server uuid; `mariadb-<server id>-<host name>` stands for it.
///
/// Cheap to copy: the GTID set is shared until it is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub server_uuid: Arc<str>,
    /// Binlog file, for instance `binlog.000003`.
    pub file: Arc<str>,
    /// Offset in that file; files may be larger than 4 GiB.
    pub offset: u64,
    /// `None` for a server that runs without GTIDs.
    pub gtids: Option<Arc<GtidSet>>,
}

impl Position {
    /// Whether `self` is at or after `other` by file and offset; only meaningful on one server.
    pub fn reaches(&self, other: &Position) -> bool {
        (file_order(&self.file), self.offset) >= (file_order(&other.file), other.offset)
    }

    /// Whether everything up to `other` is also up to here.
    pub fn contains(&self, other: &Position) -> bool {
        match (&self.gtids, &other.gtids) {
            (Some(ours), Some(theirs)) => ours.contains_all(theirs),
            _ => self.reaches(other),
        }
    }

    /// Whether a transaction is up to here, by its identity if that is a GTID, else by the place after it.
    pub fn covers(&self, id: &str, after: &Position) -> bool {
        match (&self.gtids, id.parse::<GtidSet>()) {
            (Some(ours), Ok(one)) if !one.is_empty() => ours.contains_all(&one),
            _ => self.reaches(after),
        }
    }

    /// `uuid:file:offset`, the identity of a transaction that has no GTID (contract E5).
    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.server_uuid, self.file, self.offset)
    }

    /// Identity of the last transaction of this server up to here: its GTID, else [`Position::place`]. A MariaDB with several domains
    /// does not say which of them came last: then it is the GTID of each, separated by commas.
    pub fn last_transaction(&self) -> String {
        self.gtids.as_ref().and_then(|set| set.last(&self.server_uuid)).unwrap_or_else(|| self.place())
    }
}

impl Default for Position {
    fn default() -> Self {
        Self { server_uuid: Arc::from(""), file: Arc::from(""), offset: 0, gtids: None }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.server_uuid, self.file, self.offset)?;
        self.gtids.as_ref().map_or(Ok(()), |gtids| write!(f, "/{gtids}"))
    }
}

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let bad = || BadPosition(text.to_owned());
        let mut parts = text.splitn(3, '/');
        let (server_uuid, place) = parts.next().zip(parts.next()).ok_or_else(bad)?;
        let (file, offset) = place.rsplit_once(':').ok_or_else(bad)?;
        Ok(Self {
            server_uuid: Arc::from(server_uuid),
            file: Arc::from(file),
            offset: offset.parse().map_err(|_| bad())?,
            gtids: parts.next().map(|set| set.parse().map(Arc::new)).transpose()?,
        })
    }
}

/// Text that is no position, or no GTID set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no binlog position")]
pub struct BadPosition(pub(super) String);

/// Binlog files are numbered, with six digits until these run out: `binlog.999999` comes before `binlog.1000000`.
fn file_order(file: &str) -> (usize, &str) {
    let number = file.rsplit_once('.').map_or(file, |(_, number)| number);
    (number.len(), number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn positions_print_and_parse() {
        for text in [
            format!("{A}/binlog.000003:5000000000/{A}:1-5"),
            format!("{A}/b:4"),
            format!("{A}/b:4/"),
            "mariadb-1-db-0/binlog.000001:325/0-1-270,7-2-5".to_owned(),
        ] {
            assert_eq!(text.parse::<Position>().expect("a position").to_string(), text);
        }
        let at = |text: &str| text.parse::<Position>().expect("a position");
        assert!(at("u/b.1000000:4").reaches(&at("u/b.999999:900")));
        assert!(!at("u/b.000009:900").reaches(&at("u/b.000010:4")));
        assert!(at("u/b.000009:900").reaches(&at("u/b.000009:900")));
        assert_eq!(at(&format!("{A}/b.1:4/{A}:1-5:7")).last_transaction(), format!("{A}:7"));
        assert_eq!(at(&format!("{A}/b.1:4")).last_transaction(), format!("{A}:b.1:4"));
        assert_eq!(at("mariadb-1-h/b.1:4/0-1-270").last_transaction(), "0-1-270");
        assert_eq!(at("mariadb-1-h/b.1:4/0-1-270,5-2-3").last_transaction(), "0-1-270,5-2-3");
        assert_eq!(at("mariadb-1-h/b.1:4/").last_transaction(), "mariadb-1-h:b.1:4");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-f:,\\-x/ ]{0,60}") {
            let _ = text.parse::<Position>();
        }
    }
}
