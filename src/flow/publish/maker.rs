//! Rows of the binlog and of snapshots to changes that are ready to be written: rows and keys as they stand in a change record.

use std::cell::RefCell;
use std::sync::Arc;

use crate::config::plan::TablePlan;
use crate::debezium::{self, Details, Form};
use crate::model::Substitutions;
use crate::model::{Schema, TableId};
use crate::mysql::catalogue::TableInfo;
use crate::mysql::chunks::{Make, Rows};
use crate::mysql::decode::{DecodeError, RowChange, RowKind, RowReader, RowsEvent};
use crate::mysql::maker::{Maker, Place as EventPlace};
use crate::mysql::place::Place;
use crate::mysql::table_map::TableMap;

/// One row change of a published table.
pub struct Published {
    pub table: TableId,
    pub kind: Kind,
    /// Number among all row changes of the transaction, or of the snapshot's table.
    pub number: u64,
    /// Index in its rows event.
    pub row: u32,
    pub event: Arc<Event>,
    pub form: Arc<Form>,
    /// Old key, key, row before, row after; what a kind does not have is empty.
    bytes: Box<[u8]>,
    ends: [u32; 3],
    /// Where the row stands in its table, before and after; only where [`ChangeMaker::locate`] was asked to tell.
    pub places: Option<Box<Places>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A row of a snapshot.
    Read,
    Create,
    Update,
    /// An update that changes the key.
    Move,
    Delete,
    Truncate,
}

/// What the changes of one rows event have in common.
#[derive(Debug)]
pub struct Event {
    pub file: Arc<str>,
    pub offset: u64,
    /// Seconds since the epoch.
    pub timestamp: u32,
    pub server_id: u32,
    pub thread: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Places {
    pub before: Option<Place>,
    pub after: Option<Place>,
}

impl Published {
    /// The bare key of the row before a [`Kind::Move`].
    pub fn old_key(&self) -> &[u8] {
        &self.bytes[..self.ends[0] as usize]
    }

    /// The bare key: after the change, where there is one.
    pub fn key(&self) -> &[u8] {
        &self.bytes[self.ends[0] as usize..self.ends[1] as usize]
    }

    pub fn before(&self) -> Option<&[u8]> {
        Some(&self.bytes[self.ends[1] as usize..self.ends[2] as usize]).filter(|row| !row.is_empty())
    }

    pub fn after(&self) -> Option<&[u8]> {
        Some(&self.bytes[self.ends[2] as usize..]).filter(|row| !row.is_empty())
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn numbered(self, number: u64) -> Published {
        Published { number, ..self }
    }

    /// The row after this change, as if a snapshot had read it; `None` if it is gone.
    pub fn as_read(&self) -> Option<Published> {
        let after = self.after()?;
        Some(Published::new(self.table, Kind::Read, &self.event, &self.form, [b"", self.key(), b"", after]))
    }

    /// Of an update or a change of key, what it takes away.
    pub fn as_delete(&self) -> Published {
        let key = if self.kind == Kind::Move { self.old_key() } else { self.key() };
        let parts = [b"", key, self.before().unwrap_or_default(), b""];
        Published { number: self.number, row: self.row, ..Published::new(self.table, Kind::Delete, &self.event, &self.form, parts) }
    }

    /// Of an update or a change of key, what it brings.
    pub fn as_create(&self) -> Published {
        let parts = [b"", self.key(), b"", self.after().unwrap_or_default()];
        let places = self.places.as_ref().map(|places| Box::new(Places { before: None, after: places.after.clone() }));
        let created = Published::new(self.table, Kind::Create, &self.event, &self.form, parts);
        Published { number: self.number, row: self.row, places, ..created }
    }

    /// A delete of a row of which only the key is known.
    pub fn delete(table: TableId, event: &Arc<Event>, form: &Arc<Form>, key: &[u8], before: &[u8]) -> Published {
        Published::new(table, Kind::Delete, event, form, [b"", key, before, b""])
    }

    fn new(table: TableId, kind: Kind, event: &Arc<Event>, form: &Arc<Form>, parts: [&[u8]; 4]) -> Published {
        let mut ends = [0; 3];
        let mut end = 0;
        for (part, place) in parts.iter().zip(&mut ends) {
            end += part.len() as u32;
            *place = end;
        }
        let bytes = parts.concat().into_boxed_slice();
        Published { table, kind, number: 0, row: 0, event: Arc::clone(event), form: Arc::clone(form), bytes, ends, places: None }
    }
}

/// The form of records alone, where no row is written.
pub fn record_form(schema: &Schema, plan: &TablePlan, details: &Details, name: &str) -> Result<Arc<Form>, DecodeError> {
    Ok(RowForm::new(schema, plan, details, name)?.records)
}

/// What is the same for all rows of a table under one schema.
struct RowForm {
    rows: Form,
    records: Arc<Form>,
}

impl RowForm {
    fn new(schema: &Schema, plan: &TablePlan, details: &Details, name: &str) -> Result<Self, DecodeError> {
        let publish = plan.publish.as_ref().ok_or_else(|| DecodeError::SchemaMismatch("the table has no change topic".into()))?;
        let form = || Form::new(schema, plan, publish, details, name).map_err(refused);
        Ok(Self { rows: form()?, records: Arc::new(form()?) })
    }

    fn take_counts(&mut self) -> Substitutions {
        self.rows.take_counts()
    }
}

fn refused(error: debezium::Error) -> DecodeError {
    match error {
        debezium::Error::Table(text) => DecodeError::SchemaMismatch(text),
        debezium::Error::Value { column, what } => DecodeError::Column { column, fault: crate::mysql::cursor::Fault::Invalid(what) },
    }
}

/// What is known of a published table beside its schema.
#[derive(Clone, Default)]
pub struct Known {
    pub details: Details,
    /// The form of the table's records as the catalogue describes it now.
    pub form: Option<Arc<Form>>,
    /// Set while the table is read in part: changes then say where their rows stand.
    pub locate: Option<Arc<TableInfo>>,
}

/// Makes [`Published`] of the rows of a stream.
pub struct ChangeMaker {
    /// The configuration's name, in the block `source`.
    name: String,
    known: Vec<Known>,
    /// Per table the form of the last table map, for a truncate, which has none.
    latest: RefCell<Vec<Option<Arc<Form>>>>,
}

pub struct ChangeReader {
    reader: RowReader,
    form: RowForm,
    /// Per walk column its index among the columns wanted.
    walk: Option<(Arc<TableInfo>, Vec<usize>)>,
    scratch: Vec<u8>,
    /// Old key, key, row before, row after of the row being read.
    old_key: Vec<u8>,
    key: Vec<u8>,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl ChangeMaker {
    /// `known`: per table of the plan.
    pub fn new(name: &str, known: Vec<Known>) -> Self {
        let latest = RefCell::new(known.iter().map(|known| known.form.clone()).collect());
        Self { name: name.to_owned(), known, latest }
    }
}

impl Maker for ChangeMaker {
    type Reader = ChangeReader;
    type Change = Published;

    const FOLLOWS_MAPS: bool = true;
    const NUMBERS_ROWS: bool = true;

    fn reader(&self, table: TableId, plan: &TablePlan, map: &TableMap, schema: Schema) -> Result<ChangeReader, DecodeError> {
        let Known { details, locate, .. } = &self.known[table.index()];
        let form = RowForm::new(&schema, plan, details, &self.name)?;
        self.latest.borrow_mut()[table.index()] = Some(Arc::clone(&form.records));
        let rows = form.rows.row_schema();
        let reader = RowReader::new(map, form.rows.source_columns(), rows, plan.invalid_text)?;
        let walk = locate.as_ref().map(|info| {
            let index = |name: &str| rows.column_index(name);
            let columns = info.walk.columns.iter().map(|part| index(&info.schema.columns[part.column].name));
            Ok((Arc::clone(info), columns.collect::<Option<Vec<_>>>().ok_or_else(unwalkable)?))
        });
        Ok(ChangeReader {
            reader,
            form,
            walk: walk.transpose()?,
            scratch: Vec::new(),
            old_key: Vec::new(),
            key: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
        })
    }

    fn read(
        &self,
        reader: &mut ChangeReader,
        table: TableId,
        event: &RowsEvent<'_>,
        place: &EventPlace<'_>,
        changes: &mut Vec<Published>,
    ) -> Result<(), DecodeError> {
        let shared = Arc::new(Event::at(place));
        let ChangeReader { reader, form, walk, scratch, old_key, key, before, after } = reader;
        let RowForm { rows, records } = form;
        let schema = Arc::clone(rows.row_schema());
        let (mut row, mut number) = (place.row, place.number);
        reader.each(event, |change| {
            for buffer in [&mut *old_key, &mut *key, &mut *before, &mut *after] {
                buffer.clear();
            }
            if change.kind() != RowKind::Insert {
                rows.begin(before);
                for column in 0..schema.columns.len() {
                    rows.push(before, column, &change.before(column, scratch)?).map_err(refused)?;
                }
                rows.end(before);
                rows.row_key(before, old_key);
            }
            if change.kind() != RowKind::Delete {
                rows.begin(after);
                for column in 0..schema.columns.len() {
                    rows.push(after, column, &change.after(column, scratch)?).map_err(refused)?;
                }
                rows.end(after);
                rows.row_key(after, key);
            }
            let kind = match change.kind() {
                RowKind::Insert => Kind::Create,
                RowKind::Update if old_key == key => Kind::Update,
                RowKind::Update => Kind::Move,
                RowKind::Delete => Kind::Delete,
            };
            match kind {
                Kind::Delete => std::mem::swap(old_key, key),
                Kind::Update => old_key.clear(),
                _ => {}
            }
            let mut published = Published::new(table, kind, &shared, records, [old_key, key, before, after]);
            if let Some((info, columns)) = walk {
                published.places = Some(Box::new(places(info, columns, change)?));
            }
            (published.row, published.number) = (row, number);
            row += 1;
            number += 1;
            changes.push(published);
            Ok(())
        })
    }

    fn take_counts(&self, reader: &mut ChangeReader) -> Substitutions {
        reader.form.take_counts()
    }

    fn truncate(&self, table: TableId, place: &EventPlace<'_>) -> Option<Published> {
        let form = self.latest.borrow()[table.index()].clone()?;
        let event = Arc::new(Event::at(place));
        Some(Published { number: place.number, ..Published::new(table, Kind::Truncate, &event, &form, [b""; 4]) })
    }

    fn bytes(&self, change: &Published) -> usize {
        change.bytes()
    }
}

impl Event {
    fn at(place: &EventPlace<'_>) -> Self {
        Self {
            file: Arc::clone(place.file),
            offset: place.offset,
            timestamp: place.timestamp,
            server_id: place.server_id,
            thread: place.thread,
        }
    }
}

/// Where a row stands, before and after its change.
fn places(info: &TableInfo, columns: &[usize], change: &RowChange<'_>) -> Result<Places, DecodeError> {
    let mut scratches = vec![Vec::new(); columns.len()];
    let mut place = |before: bool| {
        let values = columns
            .iter()
            .zip(&mut scratches)
            .map(|(&column, scratch)| if before { change.before(column, scratch) } else { change.after(column, scratch) });
        let values = values.collect::<Result<Vec<_>, _>>()?;
        Place::of(info, &values).map(Some).ok_or_else(unwalkable)
    };
    Ok(Places {
        before: if change.kind() == RowKind::Insert { None } else { place(true)? },
        after: if change.kind() == RowKind::Delete { None } else { place(false)? },
    })
}

fn unwalkable() -> DecodeError {
    DecodeError::SchemaMismatch("the table no longer has the key it is being read by".into())
}

/// Makes [`Published`] of the rows of a snapshot.
pub struct ReadMaker {
    table: TableId,
    event: Arc<Event>,
    form: RowForm,
}

impl ReadMaker {
    pub fn new(
        table: TableId,
        event: Arc<Event>,
        schema: &Schema,
        plan: &TablePlan,
        details: &Details,
        name: &str,
    ) -> Result<Self, DecodeError> {
        Ok(Self { table, event, form: RowForm::new(schema, plan, details, name)? })
    }
}

impl Make for ReadMaker {
    type Made = (Vec<Published>, Substitutions);

    fn make(&mut self, rows: Rows) -> Result<Self::Made, DecodeError> {
        let RowForm { rows: form, records } = &mut self.form;
        let (mut key, mut after) = (Vec::new(), Vec::new());
        let mut made = Vec::with_capacity(rows.len());
        for row in 0..rows.len() {
            key.clear();
            after.clear();
            form.begin(&mut after);
            for column in 0..rows.columns().len() {
                form.push(&mut after, column, &rows.value(row, column)?).map_err(refused)?;
            }
            form.end(&mut after);
            form.row_key(&after, &mut key);
            made.push(Published::new(self.table, Kind::Read, &self.event, records, [b"", &key, b"", &after]));
        }
        Ok((made, self.form.take_counts()))
    }
}
