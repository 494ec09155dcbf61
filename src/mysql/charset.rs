//! Text in MySQL's charsets to UTF-8.
use super::cursor::Fault;
use crate::config::plan::InvalidText;
use std::borrow::Cow;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charset {
    name: &'static str,
}
impl Charset {
    pub const BINARY_COLLATION: u16 = 63;
    pub const UTF8MB4_COLLATION: u16 = 255;
    pub fn of(_collation: u16) -> Option<Charset> {
        Some(Charset { name: "utf8mb4" })
    }
    pub fn decode<'a>(self, bytes: &'a [u8], _invalid: InvalidText) -> Result<(Cow<'a, str>, bool), Fault> {
        std::str::from_utf8(bytes).map(|t| (t.into(), false)).map_err(|_| Fault::Text(self.name))
    }
}
