//! What is in a store's file: a redb database with the rows of all tables, and what they are rows of.
//!
//! ```text
//! larder        "header"      → crc32 │ JSON of Header
//! tables        <name>        → crc32 │ JSON of Stored
//! rows/<name>   <key>         → crc32 of name, key and row │ row, as `Row::as_bytes`
//! ```
//!
//! What always holds: header, descriptions and rows change in one redb transaction; a description has the number of its rows and the
//! sum of their checksums, so that rows that are missing, doubled, damaged or another table's do not pass. The rows are a fuzzy
//! checkpoint: each is as it was at some moment from `from` to `until`. Following the binlog from `from` makes them exact at `until`, since
//! every row image is full and the last change of a key wins.

use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::{Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{Key, Row, Schema};

/// Changes whenever this layout, a row's bytes (`model/row.rs`) or how a value is printed (contract C, `mysql/render.rs`) change.
pub const FORMAT: u32 = 1;

/// redb's own default is 1 GiB. Rows are written once and read at the next start: a larger cache gains nothing.
const CACHE_BYTES: usize = 32 << 20;

const LARDER: TableDefinition<&str, &[u8]> = TableDefinition::new("larder");
const TABLES: TableDefinition<&str, &[u8]> = TableDefinition::new("tables");
const HEADER: &str = "header";

/// Every file of every format has this much; the rest is read only of our own.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Which moment the rows are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: u32,
    /// Everything up to here is in the rows. As `Position` prints itself.
    pub from: String,
    /// Nothing from beyond is in the rows.
    pub until: String,
    /// Identity of the last transaction at `from` (contract E5).
    pub at: String,
}

impl Header {
    pub fn new(from: String, until: String, at: String) -> Self {
        Self { format: FORMAT, from, until, at }
    }
}

/// What a table's rows are, and whether they can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Everything the rows' form depends on beside the columns: source, key, projection, options.
    pub identity: String,
    /// All rows are here. Else the table was being read, or stopped.
    pub whole: bool,
    /// The columns in MySQL.
    pub source: Option<Schema>,
    pub rows: u64,
    sum: u64,
}

/// Why a store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The content is wrong and stays so.
    #[error("{0}")]
    Damaged(String),
    #[error("it has format {found}, this version of Larder reads {FORMAT}")]
    Format { found: u32 },
    /// Another process has it open.
    #[error("another process uses it")]
    InUse,
    /// The disk, the file system or its rights; later it may do.
    #[error("{0}")]
    Unavailable(std::io::Error),
    /// The process ends, and there was too much to write.
    #[error("there was too much to write before the end; the next start reads a longer piece of the binlog, or the tables")]
    GivenUp,
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        match error {
            // A read past the end is a file cut short, not a disk that fails.
            StorageError::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => Fault::Damaged("the file is cut short".into()),
            StorageError::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => Fault::Damaged(io.to_string()),
            StorageError::Io(io) => Fault::Unavailable(io),
            StorageError::PreviousIo => Fault::Unavailable(std::io::Error::other(error)),
            _ => Fault::Damaged(error.to_string()),
        }
    }
}

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Fault::InUse,
            DatabaseError::Storage(storage) => storage.into(),
            other => Fault::Damaged(other.to_string()),
        }
    }
}

/// redb's other errors carry a storage error, or say that the file is not what we wrote.
fn fault(error: impl Into<redb::Error>) -> Fault {
    match error.into() {
        redb::Error::Io(io) => StorageError::Io(io).into(),
        redb::Error::PreviousIo => StorageError::PreviousIo.into(),
        error => Fault::Damaged(error.to_string()),
    }
}

/// redb checks most of what it reads and panics on the rest.
pub fn guarded<T>(act: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| Err(Fault::Damaged("its pages make no sense".into())))
}

/// An open store.
pub struct Content {
    database: Database,
}

impl Content {
    /// Opens the database that `open` gives, after a check of every page. `None`: it has just been made.
    pub fn open(open: impl FnOnce(&Builder) -> Result<Database, DatabaseError>) -> Result<(Self, Option<Header>), Fault> {
        guarded(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            let content = Self { database: open(&builder)? };
            let header = content.header()?;
            Ok((content, header))
        })
    }

    fn header(&self) -> Result<Option<Header>, Fault> {
        let reading = self.database.begin_read().map_err(fault)?;
        let table = match reading.open_table(LARDER) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) if reading.list_tables().map_err(fault)?.next().is_none() => return Ok(None),
            Err(error) => return Err(fault(error)),
        };
        let header = table.get(HEADER)?.ok_or_else(|| Fault::Damaged("it has no header".into()))?;
        let Format { format: found } = decode(HEADER, header.value())?;
        if found != FORMAT {
            return Err(Fault::Format { found });
        }
        decode(HEADER, header.value()).map(Some)
    }

    /// All tables, with what is known of their rows.
    pub fn tables(&self) -> Result<Vec<(String, Stored)>, Fault> {
        guarded(|| {
            let reading = self.database.begin_read().map_err(fault)?;
            let tables = reading.open_table(TABLES).map_err(fault)?;
            let mut found = Vec::new();
            for entry in tables.iter()? {
                let (name, stored) = entry?;
                found.push((name.value().to_owned(), decode(name.value(), stored.value())?));
            }
            Ok(found)
        })
    }

    /// Hands the rows of a table to `each`, at most `batch` at a time. All are handed over before a fault is known.
    pub fn rows(&self, name: &str, stored: &Stored, batch: usize, mut each: impl FnMut(Vec<(Key, Row)>)) -> Result<(), Fault> {
        guarded(|| {
            let reading = self.database.begin_read().map_err(fault)?;
            let rows_name = rows_name(name);
            let table = match reading.open_table(rows_of(&rows_name)) {
                Ok(table) => table,
                // A table without rows has never been written to.
                Err(redb::TableError::TableDoesNotExist(_)) if stored.rows == 0 => return Ok(()),
                Err(error) => return Err(fault(error)),
            };
            let seed = seed(name);
            let (mut rows, mut sum, mut ready) = (0, 0_u64, Vec::with_capacity(batch));
            for entry in table.iter()? {
                let (key, value) = entry?;
                let (key, value) = (key.value(), value.value());
                let (crc, bytes) = value.split_first_chunk().ok_or_else(|| bad_row(name))?;
                let crc = u32::from_le_bytes(*crc);
                if crc != checksum(seed, key, bytes) {
                    return Err(bad_row(name));
                }
                ready.push((Key::new(key), Row::from_bytes(bytes).ok_or_else(|| bad_row(name))?));
                (rows, sum) = (rows + 1, sum.wrapping_add(u64::from(crc)));
                if ready.len() == batch {
                    each(std::mem::replace(&mut ready, Vec::with_capacity(batch)));
                }
            }
            each(ready);
            if (rows, sum) != (stored.rows, stored.sum) {
                return Err(Fault::Damaged(format!("table {name} has {rows} rows, not the {} written", stored.rows)));
            }
            Ok(())
        })
    }

    /// Begins a checkpoint. Nothing of it is seen before [`Checkpoint::commit`]; dropping it takes it back.
    pub fn begin(&self) -> Result<Checkpoint, Fault> {
        let mut writing = self.database.begin_write().map_err(fault)?;
        // After a kill the file opens in milliseconds, and a commit is written in two phases.
        writing.set_quick_repair(true);
        Ok(Checkpoint { writing })
    }
}

/// One transaction of a store's file.
pub struct Checkpoint {
    writing: WriteTransaction,
}

/// A row's new value: `None` removes it.
pub type Written<'a> = (&'a [u8], Option<&'a [u8]>);

impl Checkpoint {
    /// What the file says of a table.
    pub fn stored(&self, name: &str) -> Result<Option<Stored>, Fault> {
        let tables = self.writing.open_table(TABLES).map_err(fault)?;
        let stored = tables.get(name)?;
        stored.map(|stored| decode(name, stored.value())).transpose()
    }

    /// The names of all tables.
    pub fn names(&self) -> Result<Vec<String>, Fault> {
        let tables = self.writing.open_table(TABLES).map_err(fault)?;
        tables.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect()
    }

    /// Removes a table with its rows and its description.
    pub fn remove(&self, name: &str) -> Result<(), Fault> {
        self.writing.delete_table(rows_of(&rows_name(name))).map_err(fault)?;
        self.writing.open_table(TABLES).map_err(fault)?.remove(name)?;
        Ok(())
    }

    /// Removes the rows of a table.
    pub fn clear(&self, name: &str, stored: &mut Stored) -> Result<(), Fault> {
        self.writing.delete_table(rows_of(&rows_name(name))).map_err(fault)?;
        (stored.rows, stored.sum) = (0, 0);
        Ok(())
    }

    /// Writes what `next` gives until it gives nothing. Fastest in the order of the keys.
    pub fn write(&self, name: &str, stored: &mut Stored, mut next: impl FnMut(&mut Batch) -> Result<bool, Fault>) -> Result<(), Fault> {
        let mut table = self.writing.open_table(rows_of(&rows_name(name))).map_err(fault)?;
        let seed = seed(name);
        let mut batch = Batch::default();
        let mut value = Vec::new();
        while next(&mut batch)? {
            for (key, row) in batch.iter() {
                let old = match row {
                    Some(row) => {
                        let crc = checksum(seed, key, row);
                        value.clear();
                        value.extend_from_slice(&crc.to_le_bytes());
                        value.extend_from_slice(row);
                        (stored.rows, stored.sum) = (stored.rows + 1, stored.sum.wrapping_add(u64::from(crc)));
                        table.insert(key, value.as_slice())?
                    }
                    None => table.remove(key)?,
                };
                if let Some(old) = old {
                    let crc = old.value().first_chunk().map(|crc| u32::from_le_bytes(*crc)).ok_or_else(|| bad_row(name))?;
                    let rows = stored.rows.checked_sub(1).ok_or_else(|| bad_row(name))?;
                    (stored.rows, stored.sum) = (rows, stored.sum.wrapping_sub(u64::from(crc)));
                }
            }
            batch.clear();
        }
        Ok(())
    }

    /// Describes a table as it is after this checkpoint.
    pub fn describe(&self, name: &str, stored: &Stored) -> Result<(), Fault> {
        self.writing.open_table(TABLES).map_err(fault)?.insert(name, encode(name, stored).as_slice())?;
        Ok(())
    }

    /// Makes everything true at once.
    pub fn commit(self, header: &Header) -> Result<(), Fault> {
        self.writing.open_table(LARDER).map_err(fault)?.insert(HEADER, encode(HEADER, header).as_slice())?;
        // The description of no table is one, too: a store without tables must not look like a file just made.
        drop(self.writing.open_table(TABLES).map_err(fault)?);
        self.writing.commit().map_err(fault)
    }
}

impl Stored {
    /// A table of which nothing is written yet.
    pub fn new(identity: String) -> Self {
        Self { identity, whole: false, source: None, rows: 0, sum: 0 }
    }
}

/// Rows copied out of the tables, one after the other.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Ends of key and row in `bytes`; no row where it was removed.
    ends: Vec<(usize, Option<usize>)>,
}

impl Batch {
    pub fn push(&mut self, key: &[u8], row: Option<&[u8]>) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        let row_end = row.map(|row| {
            self.bytes.extend_from_slice(row);
            self.bytes.len()
        });
        self.ends.push((key_end, row_end));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn iter(&self) -> impl Iterator<Item = Written<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |&(key_end, row_end)| {
            let written = (&self.bytes[start..key_end], row_end.map(|end| &self.bytes[key_end..end]));
            start = row_end.unwrap_or(key_end);
            written
        })
    }
}

fn rows_name(name: &str) -> String {
    format!("rows/{name}")
}

fn rows_of(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

fn bad_row(name: &str) -> Fault {
    Fault::Damaged(format!("a row of table {name} has a wrong checksum"))
}

fn seed(name: &str) -> u32 {
    crc32fast::hash(name.as_bytes())
}

/// A row of another table, or under another key, has another checksum.
fn checksum(seed: u32, key: &[u8], row: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(key);
    hasher.update(row);
    hasher.finalize()
}

pub(super) fn encode(name: &str, value: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_vec(value).expect("a description without maps of odd keys becomes JSON");
    let mut bytes = checksum(seed(name), &[], &text).to_le_bytes().to_vec();
    bytes.extend_from_slice(&text);
    bytes
}

fn decode<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Fault> {
    let bad = || Fault::Damaged(format!("the description of {name} has a wrong checksum"));
    let (crc, text) = bytes.split_first_chunk().ok_or_else(bad)?;
    if u32::from_le_bytes(*crc) != checksum(seed(name), &[], text) {
        return Err(bad());
    }
    serde_json::from_slice(text).map_err(|error| Fault::Damaged(format!("the description of {name}: {error}")))
}
