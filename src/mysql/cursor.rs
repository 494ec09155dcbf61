//! Bounds-checked reading of bytes from outside. Never panics, never allocates; every read moves forward or fails.

use std::fmt;

/// What is wrong with bytes, before it is known which column or event they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end before the value does.
    Short,
    /// The bytes are no value of their type.
    Invalid(&'static str),
    /// The bytes are no text in this charset.
    Text(&'static str),
    /// A collation number we have no charset for.
    Collation(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Short => f.write_str("the bytes end early"),
            Fault::Invalid(what) => f.write_str(what),
            Fault::Text(charset) => write!(f, "bytes that are no {charset} text; invalid_text = \"replace\" lets them pass as U+FFFD"),
            Fault::Collation(number) => write!(f, "unknown charset (collation number {number})"),
        }
    }
}

/// The part of a slice that has not been read yet.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, Fault> {
        let (&first, rest) = self.rest.split_first().ok_or(Fault::Short)?;
        self.rest = rest;
        Ok(first)
    }

    /// A little-endian number of `bytes` bytes, at most 8.
    pub fn uint(&mut self, bytes: usize) -> Result<u64, Fault> {
        Ok(little_endian(self.take(bytes)?))
    }

    /// MySQL's length-encoded integer: one byte up to 250, else 0xFC, 0xFD, 0xFE and 2, 3, 8 bytes.
    pub fn lenenc(&mut self) -> Result<u64, Fault> {
        match self.u8()? {
            small @ 0..=250 => Ok(u64::from(small)),
            0xFC => self.uint(2),
            0xFD => self.uint(3),
            0xFE => self.uint(8),
            _ => Err(Fault::Invalid("a length-encoded integer begins with 0xFB or 0xFF")),
        }
    }

    /// Bytes with a length-encoded length before them.
    pub fn lenenc_bytes(&mut self) -> Result<&'a [u8], Fault> {
        let length = usize::try_from(self.lenenc()?).map_err(|_| Fault::Short)?;
        self.take(length)
    }
}

/// Little-endian, at most 8 bytes; more would be a mistake of ours and the rest is ignored.
#[inline]
pub fn little_endian(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => bytes.iter().take(8).rev().fold(0, |n, &b| n << 8 | u64::from(b)),
    }
}

/// Big-endian, at most 8 bytes.
#[inline]
pub fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |n, &b| n << 8 | u64::from(b))
}

/// Whether bit `index` is set in a bitmap whose first bit is the lowest of the first byte; bits past the end are not.
#[inline]
pub fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stop_at_the_end() {
        let mut cursor = Cursor::new(&[1, 2, 0xFC, 0x01, 0x02, 3]);
        assert_eq!(cursor.uint(2), Ok(0x0201));
        assert_eq!(cursor.lenenc(), Ok(0x0201));
        assert_eq!(cursor.take(2), Err(Fault::Short));
        assert_eq!(cursor.u8(), Ok(3));
        assert_eq!(cursor.u8(), Err(Fault::Short));
        assert_eq!(Cursor::new(&[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]).lenenc_bytes(), Err(Fault::Short));
        assert!(Cursor::new(&[0xFF]).lenenc().is_err());
    }

    #[test]
    fn numbers_of_any_width() {
        assert_eq!(little_endian(&[1, 2, 3]), 0x0003_0201);
        assert_eq!(big_endian(&[1, 2, 3]), 0x0001_0203);
        assert!(bit(&[0, 0b10], 9) && !bit(&[0, 0b10], 8) && !bit(&[0xFF], 8));
    }
}
