//! Events that MariaDB compressed one by one (`log_bin_compress`), back to what they would be without. Pure.
//!
//! ```text
//! QUERY_COMPRESSED             head of a QUERY event          compressed text of the statement
//! *_ROWS_COMPRESSED (_V1)      head of the ROWS event         compressed rows
//!
//! compressed:  1 byte   0x80 | algorithm << 4 | bytes of the length (1 to 4); algorithm 0 is zlib
//!              length of what is in it, highest byte first
//!              a zlib stream
//! ```
//!
//! Layout: MariaDB 10.11, `sql/log_event.cc`, `binlog_buf_compress`. What always holds: never more than the length said is unpacked, and
//! memory grows with what is there, not with what was said.

use std::io::Read as _;

use flate2::read::ZlibDecoder;

use super::cursor::{Cursor, Fault};
use super::event::{RawEvent, kind};

/// No event is larger than the largest packet.
const MAX_BYTES: u64 = 1 << 30;

/// The type and body that the event would have without compression; `None` for one that has none.
pub fn unpacked(event: &RawEvent<'_>) -> Result<Option<(u8, Vec<u8>)>, Fault> {
    let plain = match event.kind {
        kind::QUERY_COMPRESSED => kind::QUERY,
        kind::WRITE_ROWS_COMPRESSED_V1..=kind::DELETE_ROWS_COMPRESSED_V1 => {
            kind::WRITE_ROWS_V1 + (event.kind - kind::WRITE_ROWS_COMPRESSED_V1)
        }
        kind::WRITE_ROWS_COMPRESSED..=kind::DELETE_ROWS_COMPRESSED => kind::WRITE_ROWS + (event.kind - kind::WRITE_ROWS_COMPRESSED),
        _ => return Ok(None),
    };
    let mut cursor = Cursor::new(event.body);
    if plain == kind::QUERY {
        query_head(&mut cursor)?
    } else {
        rows_head(&mut cursor, plain)?
    }
    let head = event.body.len() - cursor.rest().len();
    let mut body = event.body[..head].to_vec();
    inflate(cursor, &mut body)?;
    Ok(Some((plain, body)))
}

fn query_head(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    cursor.take(8)?;
    let database = usize::from(cursor.u8()?);
    cursor.take(2)?;
    let variables = cursor.uint(2)? as usize;
    cursor.take(variables + database + 1)?;
    Ok(())
}

fn rows_head(cursor: &mut Cursor<'_>, plain: u8) -> Result<(), Fault> {
    cursor.take(8)?;
    if plain >= kind::WRITE_ROWS {
        // The length of the extra data counts its own two bytes.
        let extra = cursor.uint(2)? as usize;
        cursor.take(extra.checked_sub(2).ok_or(Fault::Invalid("extra data without a length"))?)?;
    }
    let columns = usize::try_from(cursor.lenenc()?).map_err(|_| Fault::Short)?;
    let images = if matches!(plain, kind::UPDATE_ROWS_V1 | kind::UPDATE_ROWS) { 2 } else { 1 };
    for _ in 0..images {
        cursor.take(columns.div_ceil(8))?;
    }
    Ok(())
}

/// Appends what is in a compressed part.
fn inflate(mut cursor: Cursor<'_>, body: &mut Vec<u8>) -> Result<(), Fault> {
    const DAMAGED: Fault = Fault::Invalid("a compressed event");
    let header = cursor.u8()?;
    if header & 0xf0 != 0x80 {
        return Err(Fault::Invalid("an event compressed in an unknown way"));
    }
    let length = cursor.take(usize::from(header & 0x07))?.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
    if length > MAX_BYTES {
        return Err(Fault::Invalid("a compressed event of more than 1 GiB"));
    }
    let before = body.len();
    ZlibDecoder::new(cursor.rest()).take(length + 1).read_to_end(body).map_err(|_| DAMAGED)?;
    if (body.len() - before) as u64 == length { Ok(()) } else { Err(DAMAGED) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    use super::*;

    fn event(kind: u8, body: &[u8]) -> RawEvent<'_> {
        RawEvent { kind, flags: 0, timestamp: 0, server_id: 0, size: 0, end: 0, body }
    }

    fn compressed(content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x82];
        bytes.extend(u16::try_from(content.len()).expect("a short text").to_be_bytes());
        let mut encoder = ZlibEncoder::new(bytes, Compression::default());
        encoder.write_all(content).expect("into memory");
        encoder.finish().expect("into memory")
    }

    #[test]
    fn b16_statements_and_rows_are_what_they_were() {
        // thread, time, one byte of database name, error, two bytes of variables; variables, name, zero
        let head = [[0; 8].as_slice(), &[1, 0, 0, 2, 0], &[9, 9], b"d\0"].concat();
        let text = b"insert into t values (1)".repeat(20);
        let body = [head.clone(), compressed(&text)].concat();
        assert_eq!(unpacked(&event(kind::QUERY_COMPRESSED, &body)), Ok(Some((kind::QUERY, [head, text.clone()].concat()))));
        // table id, flags; ten columns, of an update twice
        let head = [[7; 8].as_slice(), &[10, 0xff, 3, 0xff, 1]].concat();
        let body = [head.clone(), compressed(&text)].concat();
        assert_eq!(unpacked(&event(167, &body)), Ok(Some((kind::UPDATE_ROWS_V1, [head, text.clone()].concat()))));
        let head = [[7; 8].as_slice(), &[3, 0, 5, 10, 0xff, 3]].concat();
        let body = [head.clone(), compressed(&text)].concat();
        assert_eq!(unpacked(&event(171, &body)), Ok(Some((kind::DELETE_ROWS, [head, text].concat()))));
        assert_eq!(unpacked(&event(kind::QUERY, &body)), Ok(None));
    }

    #[test]
    fn b14_lengths_that_are_not_true() {
        let body = |said: &[u8], content: &[u8]| {
            let packed = compressed(content);
            [[7; 8].as_slice(), &[1, 1, 0x80 | u8::try_from(said.len()).expect("short")], said, &packed[3..]].concat()
        };
        assert!(unpacked(&event(kind::WRITE_ROWS_COMPRESSED_V1, &body(&[4], b"abcd"))).is_ok());
        for said in [&[3][..], &[5], &[0xff, 0xff, 0xff, 0xff], &[0x3f, 0xff, 0xff, 0xff]] {
            assert!(unpacked(&event(kind::WRITE_ROWS_COMPRESSED_V1, &body(said, b"abcd"))).is_err(), "{said:?}");
        }
        let whole = body(&[4], b"abcd");
        assert!(unpacked(&event(kind::WRITE_ROWS_COMPRESSED_V1, &whole[..whole.len() - 6])).is_err(), "truncated");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..80), event_kind in 160..180_u8) {
            let _ = unpacked(&event(event_kind, &body));
        }
    }
}
