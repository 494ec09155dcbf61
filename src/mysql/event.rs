//! Bodies of the binlog events that carry no rows: transaction identity, statements, rotation, heartbeats, XA, payloads. Pure.
//!
//! Layouts are those of MySQL's source documentation (`libs/mysql/binlog/event`) and of MariaDB's `sql/log_event.h`; every read is
//! bounds-checked.

use super::cursor::{Cursor, Fault, little_endian};
use super::statement::{Modes, Xid};
use crate::model::position::{DomainGtid, Gtid, Source, Uuid};

/// Event types we act on.
pub mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const BEGIN_LOAD_QUERY: u8 = 17;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const IGNORABLE: u8 = 28;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const TRANSACTION_CONTEXT: u8 = 36;
    pub const VIEW_CHANGE: u8 = 37;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const TAGGED_GTID: u8 = 42;

    // From here on MariaDB's own.
    pub const ANNOTATE_ROWS: u8 = 160;
    pub const BINLOG_CHECKPOINT: u8 = 161;
    pub const MARIADB_GTID: u8 = 162;
    pub const GTID_LIST: u8 = 163;
    pub const QUERY_COMPRESSED: u8 = 165;
    pub const WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub const DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub const WRITE_ROWS_COMPRESSED: u8 = 169;
    pub const DELETE_ROWS_COMPRESSED: u8 = 171;
}

/// Made by the server for this connection; it stands in no file.
const ARTIFICIAL: u16 = 0x20;
/// A reader that does not know the type may skip the event.
const IGNORABLE: u16 = 0x80;

/// One event whose checksum has been verified: header and body, without checksum.
#[derive(Debug, Clone, Copy)]
pub struct RawEvent<'a> {
    pub kind: u8,
    pub flags: u16,
    /// Seconds since the epoch at which the statement began.
    pub timestamp: u32,
    /// Number of the server that wrote it first.
    pub server_id: u32,
    /// Bytes with header and checksum.
    pub size: u32,
    /// Lower 32 bits of the offset after the event; 0 in artificial events and within a payload.
    pub end: u32,
    pub body: &'a [u8],
}

impl RawEvent<'_> {
    pub fn is_artificial(&self) -> bool {
        self.flags & ARTIFICIAL != 0
    }

    pub fn is_ignorable(&self) -> bool {
        self.flags & IGNORABLE != 0
    }
}

/// What begins a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// `None` for an anonymous transaction.
    pub gtid: Option<Gtid>,
    /// Commit time where the transaction was committed first, microseconds since the epoch; 0 where the server does not say.
    pub committed_us: u64,
    /// Everything up to an XID or COMMIT belongs to it, without a BEGIN of its own.
    pub started: bool,
}

/// A GTID or ANONYMOUS_GTID event.
pub fn begin(event_kind: u8, body: &[u8]) -> Result<Begin, Fault> {
    if event_kind == kind::TAGGED_GTID {
        return begin_tagged(body);
    }
    let mut cursor = Cursor::new(body);
    cursor.u8()?;
    let uuid = uuid(cursor.take(16)?)?;
    let number = cursor.uint(8)?;
    let gtid = (event_kind == kind::GTID).then(|| Gtid::MySql { source: Source { uuid, tag: "".into() }, number });
    // Logical clock: type code 2 and two numbers; then the commit times, the original one only where it differs.
    let mut committed_us = 0;
    if cursor.rest().first() == Some(&2) {
        cursor.take(17)?;
        if cursor.rest().len() >= 7 {
            committed_us = cursor.uint(7)?;
            if committed_us & DIFFERS != 0 {
                committed_us = cursor.uint(7)?;
            }
        }
    }
    Ok(Begin { gtid, committed_us, started: false })
}

/// A GTID event of MariaDB: sequence 8 bytes, domain 4, flags 1; what follows by the flags is not needed. Its time is that of the
/// header, in seconds.
pub fn begin_mariadb(event: &RawEvent<'_>) -> Result<Begin, Fault> {
    /// One statement follows, which commits itself.
    const STANDALONE: u8 = 1;
    /// XA COMMIT or XA ROLLBACK follows.
    const COMPLETED_XA: u8 = 128;
    let mut cursor = Cursor::new(event.body);
    let sequence = cursor.uint(8)?;
    let domain = cursor.uint(4)? as u32;
    let flags = cursor.u8()?;
    let gtid = DomainGtid { domain, server: event.server_id, sequence };
    Ok(Begin {
        gtid: Some(Gtid::MariaDb(gtid)),
        committed_us: u64::from(event.timestamp) * 1_000_000,
        started: flags & (STANDALONE | COMPLETED_XA) == 0,
    })
}

/// Set in the immediate commit time when the original one follows.
const DIFFERS: u64 = 1 << 55;

/// A GTID_TAGGED_LOG event: a message of MySQL's serialization library, version 2: size, last field a reader must know, then
/// pairs of field number and value.
fn begin_tagged(body: &[u8]) -> Result<Begin, Fault> {
    let mut cursor = Cursor::new(body);
    // The version is a variable-length number too: 2 stands for 1.
    if cursor.u8()? != 2 {
        return Err(Fault::Invalid("a tagged GTID of an unknown version"));
    }
    variable(&mut cursor)?;
    variable(&mut cursor)?;
    let mut source = Source { uuid: Uuid([0; 16]), tag: "".into() };
    let (mut number, mut committed_us) = (0, 0);
    while !cursor.is_empty() {
        match variable(&mut cursor)? {
            1 => {
                for byte in &mut source.uuid.0 {
                    *byte = u8::try_from(variable(&mut cursor)?).map_err(|_| Fault::Invalid("a uuid"))?;
                }
            }
            // Signed, the sign in the lowest bit.
            2 => number = variable(&mut cursor)? >> 1,
            3 => {
                let length = usize::try_from(variable(&mut cursor)?).map_err(|_| Fault::Short)?;
                source.tag = text(cursor.take(length)?)?.into();
            }
            6 if committed_us == 0 => committed_us = variable(&mut cursor)?,
            7 => committed_us = variable(&mut cursor)?,
            0 | 4 | 5 | 6 => {
                variable(&mut cursor)?;
            }
            // Lengths and versions, which we do not need.
            _ => break,
        }
    }
    Ok(Begin { gtid: Some(Gtid::MySql { source, number }), committed_us, started: false })
}

/// A number of 1 to 9 bytes: as many lowest one bits in the first byte as bytes follow it.
fn variable(cursor: &mut Cursor<'_>) -> Result<u64, Fault> {
    let first = *cursor.rest().first().ok_or(Fault::Short)?;
    let more = first.trailing_ones();
    if more == 8 {
        cursor.u8()?;
        return cursor.uint(8);
    }
    let bytes = more as usize + 1;
    Ok(little_endian(cursor.take(bytes)?) >> bytes)
}

/// A QUERY event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The session that ran it.
    pub thread: u32,
    /// The default database, as UTF-8.
    pub database: &'a [u8],
    pub text: &'a [u8],
    /// Of the session's `character_set_client`, in which the text is; `None` where the event does not say.
    pub collation: Option<u16>,
    pub modes: Modes,
}

const MODE_ANSI_QUOTES: u64 = 1 << 2;
const MODE_NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

pub fn query(body: &[u8]) -> Result<Query<'_>, Fault> {
    query_after(body, 0)
}

/// An EXECUTE_LOAD_QUERY event, the statement of `LOAD DATA` in statement format: a QUERY event with where the file's data stands.
pub fn load_query(body: &[u8]) -> Result<Query<'_>, Fault> {
    query_after(body, 13)
}

fn query_after(body: &[u8], more_header: usize) -> Result<Query<'_>, Fault> {
    let mut cursor = Cursor::new(body);
    let thread = cursor.uint(4)? as u32;
    cursor.take(4)?;
    let database_length = usize::from(cursor.u8()?);
    cursor.take(2)?;
    let variables_length = cursor.uint(2)? as usize;
    cursor.take(more_header)?;
    let mut variables = Cursor::new(cursor.take(variables_length)?);
    let database = cursor.take(database_length)?;
    cursor.take(1)?;
    let (mut collation, mut modes) = (None, Modes::default());
    // They have no lengths, so that none can be skipped that is not known; servers write these first.
    while let Ok(code) = variables.u8() {
        match code {
            // Flags.
            0 => drop(variables.take(4)?),
            1 => {
                let bits = variables.uint(8)?;
                modes.ansi_quotes = bits & MODE_ANSI_QUOTES != 0;
                modes.no_backslash_escapes = bits & MODE_NO_BACKSLASH_ESCAPES != 0;
            }
            // Step and offset of AUTO_INCREMENT.
            3 => drop(variables.take(4)?),
            // Of the client, of the connection, of the server.
            4 => {
                collation = Some(variables.uint(2)? as u16);
                break;
            }
            // The catalogue's name.
            6 => {
                let length = variables.u8()?;
                variables.take(usize::from(length))?;
            }
            _ => break,
        }
    }
    Ok(Query { thread, database, text: cursor.rest(), collation, modes })
}

/// The file and offset that a ROTATE event names.
pub fn rotate(body: &[u8]) -> Result<(&str, u64), Fault> {
    let mut cursor = Cursor::new(body);
    let offset = cursor.uint(8)?;
    Ok((text(cursor.rest())?, offset))
}

/// The file and offset that a heartbeat names: up to there nothing is left to send.
pub fn heartbeat<'a>(event: &RawEvent<'a>) -> Result<(&'a str, u64), Fault> {
    if event.kind == kind::HEARTBEAT {
        return Ok((text(event.body)?, u64::from(event.end)));
    }
    // Version 2: fields of type, length, value: 1 file, 2 offset; 0 ends them.
    let mut cursor = Cursor::new(event.body);
    let (mut file, mut offset) = ("", u64::from(event.end));
    while !cursor.is_empty() {
        let field = cursor.lenenc()?;
        if field == 0 {
            break;
        }
        let value = cursor.lenenc_bytes()?;
        match field {
            1 => file = text(value)?,
            2 => offset = Cursor::new(value).lenenc()?,
            _ => {}
        }
    }
    Ok((file, offset))
}

/// An XA_PREPARE event: whether it commits in one phase, and which transaction it is.
pub fn xa_prepare(body: &[u8]) -> Result<(bool, Xid), Fault> {
    let mut cursor = Cursor::new(body);
    let one_phase = cursor.u8()? != 0;
    let format = cursor.uint(4)? as u32;
    let global = cursor.uint(4)? as usize;
    let branch = cursor.uint(4)? as usize;
    let global = cursor.take(global)?.to_vec();
    Ok((one_phase, Xid { format, global, branch: cursor.take(branch)?.to_vec() }))
}

/// The number of bytes the events within a TRANSACTION_PAYLOAD event have together.
pub fn payload_size(body: &[u8]) -> Result<u64, Fault> {
    let mut cursor = Cursor::new(body);
    let (mut compressed, mut size, mut stored) = (true, None, None);
    loop {
        match cursor.lenenc()? {
            0 => break,
            field => {
                let mut value = Cursor::new(cursor.lenenc_bytes()?);
                match field {
                    1 => stored = Some(value.lenenc()?),
                    // 0 is zstd, 255 none.
                    2 => compressed = value.lenenc()? == 0,
                    3 => size = Some(value.lenenc()?),
                    _ => {}
                }
            }
        }
    }
    let size = if compressed { size } else { stored };
    size.filter(|&size| size > 0).ok_or(Fault::Invalid("a payload without content"))
}

fn uuid(bytes: &[u8]) -> Result<Uuid, Fault> {
    bytes.try_into().map(Uuid).map_err(|_| Fault::Short)
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::Invalid("a name that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gtid_event_of_mysql_8() {
        // flags, uuid, number 7, logical clock, commit time 1,700,000,000,123,456 µs, transaction length, server version
        let mut body = vec![1];
        body.extend([0x3e; 16]);
        body.extend(7u64.to_le_bytes());
        body.push(2);
        body.extend([0; 16]);
        body.extend(&1_700_000_000_123_456u64.to_le_bytes()[..7]);
        let begun = begin(kind::GTID, &body).expect("a GTID event");
        assert_eq!(begun.committed_us, 1_700_000_000_123_456);
        assert_eq!(begun.gtid.expect("a GTID").to_string(), "3e3e3e3e-3e3e-3e3e-3e3e-3e3e3e3e3e3e:7");
        assert_eq!(begin(kind::ANONYMOUS_GTID, &body).expect("a GTID event").gtid, None);
        assert!(begin(kind::GTID, &body[..20]).is_err());
    }

    #[test]
    fn payloads_say_their_size() {
        assert_eq!(payload_size(&[2, 1, 0, 3, 3, 0xfc, 0x10, 0x27, 1, 1, 5, 0, 9, 9]), Ok(10_000));
        assert_eq!(payload_size(&[2, 3, 0xfc, 255, 0, 1, 1, 5, 0, 9]), Ok(5));
        assert!(payload_size(&[2, 1, 0, 3, 1, 0, 1, 1, 5, 0]).is_err(), "never an empty transaction");
    }

    #[test]
    fn statements_say_how_they_are_to_be_read() {
        let mut body = vec![0; 8];
        // Length of the database's name, error code, length of the variables: flags, SQL mode, catalogue, AUTO_INCREMENT, charset.
        body.extend([1, 0, 0, 5 + 9 + 5 + 5 + 7, 0]);
        body.extend([0, 0, 0, 0, 0]);
        body.extend([1, 4, 0, 0x10, 0, 0, 0, 0, 0]);
        body.extend([6, 3, b's', b't', b'd']);
        body.extend([3, 1, 0, 1, 0]);
        body.extend([4, 28, 0, 28, 0, 255, 0]);
        body.extend(b"d\0COMMIT");
        let modes = Modes { ansi_quotes: true, no_backslash_escapes: true };
        let expected = Query { thread: 0, database: b"d", text: b"COMMIT", collation: Some(28), modes };
        assert_eq!(query(&body), Ok(expected));
        // A variable we do not know ends the reading of variables, not of the statement.
        body[13] = 99;
        assert_eq!(query(&body), Ok(Query { collation: None, modes: Modes::default(), ..expected }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..80), event_kind in 0..50u8) {
            let _ = (begin(event_kind, &body), query(&body), rotate(&body), xa_prepare(&body), payload_size(&body));
            let _ = heartbeat(&RawEvent { kind: event_kind, flags: 0, timestamp: 0, server_id: 0, size: 0, end: 0, body: &body });
        }
    }
}
