//! The local store: the tables in a file, so that a start need not read them from MySQL again. A cache, disposable at any time.
//!
//! What always holds: the file is written by a thread of its own, which asks the [journals](super::journal) what changed, so that
//! neither the capture nor a join ever waits for the disk; what is in the file is one checkpoint, whole, or the one before it
//! ([`content`]); a file that cannot be trusted is moved aside and a new one is written; a file that cannot be written costs nothing but
//! the next start.
//!
//! ```text
//!           held, restore                    activate                   every INTERVAL
//! opened ──────────────────► rows in memory ──────────► followed by run ───────────────► checkpoint ┐
//!    │        nothing to use ─ snapshot ──────┘                ▲   ▲                        │   │   │
//!    │                                                         │   └────────────────────────┘   │   │
//!    └─ damaged: moved aside, begun anew ──────────────────────┴── opened again every RETRY ◄────┘ disk full, …
//! ```

pub mod content;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::{info, warn};

use super::Tables;
use super::journal::{Keys, Mark, Taken, TakenTable};
use crate::model::{Position, Schema, TableId};
use content::{Batch, Content, Fault, Header, Stored};

/// At most so much of the binlog is read again after a kill.
const INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of changed keys that are worth a checkpoint before its time.
const EARLY_BYTES: usize = 4 << 20;

/// How often an early checkpoint is thought of.
const LOOK: Duration = Duration::from_millis(250);

/// How long a file that cannot be written is left alone.
const RETRY: Duration = Duration::from_secs(5);

/// Keys whose rows are copied under one lock.
const KEYS_AT_A_TIME: usize = 256;

/// Rows handed over together when a table is restored.
const ROWS_AT_A_TIME: usize = 4096;

/// Bytes of keys from which on rows are written while their table is still being read. Below it the snapshot has the processor for
/// itself and the rows are written when it is done.
const PARTIAL_BYTES: usize = 32 << 20;

/// Files that could not be trusted are kept for whoever wants to know why; the newest so many.
const KEPT_ASIDE: usize = 3;

/// The store of one process.
pub struct Store {
    path: PathBuf,
    /// Configuration name of each table, and everything the form of its rows depends on; indexed by [`TableId`].
    tables: Vec<(String, String)>,
    disk: Mutex<Disk>,
    /// When [`Store::run`] must have ended; wakes it.
    stop: (Mutex<Option<Instant>>, Condvar),
    /// What is in memory is to be written from now on.
    is_active: AtomicBool,
    is_failing: AtomicBool,
    rows_written: AtomicU64,
}

/// Why a store cannot be had; a person must see to it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the local store {path} is in use by another process; give each instance its own [state] path")]
    InUse { path: String },
    #[error("the local store {path} cannot be opened: {cause}; correct [state] path, or the rights of its folder")]
    Unusable { path: String, cause: std::io::Error },
}

/// Tables that need not be read from MySQL, if the binlog can be followed from `from`.
#[derive(Debug)]
pub struct Held {
    pub from: Position,
    /// The rows have nothing from beyond.
    pub until: Position,
    /// Identity of the last transaction at `from`.
    pub at: String,
    /// With their columns in MySQL.
    pub tables: Vec<(TableId, Schema)>,
    stored: Vec<Stored>,
}

struct Disk {
    /// Held as long as the process lives; taken when there is a file system to take it on.
    lock: Option<File>,
    content: Option<Content>,
    header: Option<Header>,
    pending: Vec<Pending>,
    /// What the last checkpoint was of, to leave out one that would say the same.
    written: Option<(Position, Vec<Mark>)>,
    retry_at: Option<Instant>,
}

/// What a table's rows in the file lack.
#[derive(Default)]
struct Pending {
    mark: Mark,
    cleared: bool,
    all: bool,
    keys: Keys,
    source: Option<Arc<Schema>>,
}

impl Store {
    /// Opens or makes the file and locks it. `tables`: configuration name of each, and everything beside its columns that the form
    /// of its rows depends on.
    pub fn open(path: PathBuf, tables: Vec<(String, String)>) -> Result<Self, OpenError> {
        let pending = tables.iter().map(|_| Pending::default()).collect();
        let mut disk = Disk { lock: None, content: None, header: None, pending, written: None, retry_at: None };
        let shown = || path.display().to_string();
        let mut is_failing = false;
        match disk.open(&path) {
            Ok(()) => {}
            Err(Fault::InUse) => return Err(OpenError::InUse { path: shown() }),
            Err(Fault::Unavailable(cause)) if is_misplaced(cause.kind()) => return Err(OpenError::Unusable { path: shown(), cause }),
            Err(fault) => {
                warn!("the local store {} cannot be used for now: {fault}", path.display());
                is_failing = true;
            }
        }
        Ok(Self {
            path,
            tables,
            disk: Mutex::new(disk),
            stop: Default::default(),
            is_active: AtomicBool::new(false),
            is_failing: AtomicBool::new(is_failing),
            rows_written: AtomicU64::new(0),
        })
    }

    /// The tables of the file that are whole and in the form this process wants.
    pub fn held(&self) -> Option<Held> {
        let mut disk = self.disk.lock();
        let found = disk.read(|content, header| {
            let position = |text: &str| text.parse::<Position>().map_err(|error| Fault::Damaged(error.to_string()));
            let mut held = Held {
                from: position(&header.from)?,
                until: position(&header.until)?,
                at: header.at.clone(),
                tables: Vec::new(),
                stored: Vec::new(),
            };
            for (name, mut stored) in content.tables()? {
                let Some(index) = self.tables.iter().position(|(known, _)| *known == name) else { continue };
                if !stored.whole {
                    info!(table = name, "table {name} is not whole in the local store");
                } else if stored.identity != self.tables[index].1 {
                    info!(table = name, "table {name} was configured otherwise when it was stored");
                } else if let Some(source) = stored.source.take() {
                    held.tables.push((table_id(index), source));
                    held.stored.push(stored);
                }
            }
            Ok(held)
        });
        self.settle(&mut disk, found.transpose()).flatten().filter(|held| !held.tables.is_empty())
    }

    /// Puts the rows of all tables held into memory, where their snapshots have been begun. False: some cannot be trusted, and
    /// whatever was put there has to be read from MySQL.
    pub fn restore(&self, held: &Held, tables: &Tables) -> bool {
        let mut disk = self.disk.lock();
        let restored = disk.read(|content, _| {
            for ((table, _), stored) in held.tables.iter().zip(&held.stored) {
                let name = &self.tables[table.index()].0;
                let mut done = 0;
                content.rows(name, stored, ROWS_AT_A_TIME, |rows| {
                    done += rows.len() as u64;
                    tables.restore(*table, rows, (done * 100 / stored.rows.max(1)).min(99) as u8);
                })?;
            }
            held.tables.iter().for_each(|(table, _)| tables.restored(*table));
            Ok(())
        });
        self.settle(&mut disk, restored.transpose()).flatten().is_some()
    }

    /// What is in memory, or begins to be read now, is written from now on.
    pub fn activate(&self, tables: &Tables) {
        tables.keep_journal();
        self.is_active.store(true, Relaxed);
    }

    /// Writes checkpoints until [`Store::stop`], and a last one then if there is time for it.
    pub fn run(&self, tables: &Tables) {
        let mut last = Instant::now();
        loop {
            let stopping = {
                let mut stop = self.stop.0.lock();
                if stop.is_none() {
                    self.stop.1.wait_for(&mut stop, LOOK);
                }
                stop.is_some()
            };
            if stopping || last.elapsed() >= INTERVAL || tables.journal_bytes() >= EARLY_BYTES {
                self.checkpoint(tables, Instant::now(), stopping);
                last = Instant::now();
            }
            if stopping {
                return;
            }
        }
    }

    /// Ends [`Store::run`] within a time.
    pub fn stop(&self, within: Duration) {
        *self.stop.0.lock() = Some(Instant::now() + within);
        self.stop.1.notify_all();
    }

    fn is_over(&self) -> bool {
        self.stop.0.lock().is_some_and(|end| Instant::now() >= end)
    }

    /// The last attempt to write failed.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Relaxed)
    }

    /// Rows written or removed since the start.
    pub fn rows_written(&self) -> u64 {
        self.rows_written.load(Relaxed)
    }

    /// Writes what changed. A file that failed lately is left alone, unless this is the `last` time.
    fn checkpoint(&self, tables: &Tables, now: Instant, last: bool) {
        if !self.is_active.load(Relaxed) {
            return;
        }
        let mut disk = self.disk.lock();
        let taken = tables.take_journals();
        let news = disk.take_in(&taken);
        if !last && disk.retry_at.is_some_and(|at| now < at) || !news && disk.content.is_some() {
            return;
        }
        let written = disk.write(&self.path, &self.tables, tables, &taken, || self.is_over());
        if let Err(fault) = &written {
            disk.retry_at = Some(now + RETRY);
            if matches!(fault, Fault::Unavailable(_) | Fault::InUse) {
                // After a failed write redb wants to be opened anew.
                disk.content = None;
            }
        }
        if let Some(rows) = self.settle(&mut disk, written) {
            disk.retry_at = None;
            self.rows_written.fetch_add(rows, Relaxed);
            if self.is_failing.swap(false, Relaxed) {
                info!("the local store {} is written again", self.path.display());
            }
        }
    }

    /// A file that cannot be trusted is put aside; one that cannot be used is reported once.
    fn settle<T>(&self, disk: &mut Disk, outcome: Result<T, Fault>) -> Option<T> {
        let fault = match outcome {
            Ok(done) => return Some(done),
            Err(fault @ (Fault::Damaged(_) | Fault::Format { .. })) => match disk.begin_anew(&self.path, &fault) {
                Ok(()) => return None,
                Err(fault) => fault,
            },
            Err(fault @ Fault::GivenUp) => {
                warn!("the last checkpoint of the local store {} was given up: {fault}", self.path.display());
                return None;
            }
            Err(fault) => fault,
        };
        if !self.is_failing.swap(true, Relaxed) {
            warn!("the local store {} cannot be used, Larder goes on without it and tries again: {fault}", self.path.display());
        }
        None
    }
}

// === impl Disk ===

impl Disk {
    /// Locks and opens the file; one that cannot be trusted is put aside and a new one made.
    fn open(&mut self, path: &Path) -> Result<(), Fault> {
        if self.lock.is_none() {
            self.lock = Some(lock(path)?);
        }
        match open(path) {
            Ok((content, header)) => {
                if self.header.is_some() && self.header != header {
                    // Not what we wrote last: the file was deleted or replaced, or nobody knows what became of the last commit.
                    self.write_all();
                }
                (self.content, self.header, self.written) = (Some(content), header, None);
                Ok(())
            }
            Err(fault @ (Fault::Damaged(_) | Fault::Format { .. })) => self.begin_anew(path, &fault),
            Err(fault) => Err(fault),
        }
    }

    fn begin_anew(&mut self, path: &Path, fault: &Fault) -> Result<(), Fault> {
        // The database is closed before its file is moved, and closing a damaged one may panic.
        let _ = content::guarded(|| {
            drop(self.content.take());
            Ok(())
        });
        (self.header, self.written) = (None, None);
        let aside = put_aside(path).map_err(Fault::Unavailable)?;
        warn!("the local store {} cannot be trusted: {fault}; it was moved to {} and is begun anew", path.display(), aside.display());
        self.write_all();
        let (content, _) = open(path)?;
        self.content = Some(content);
        Ok(())
    }

    /// Nothing is in the file of what the tables have.
    fn write_all(&mut self) {
        self.pending.iter_mut().for_each(|pending| (pending.cleared, pending.all) = (true, true));
    }

    /// Looks at a file with something in it; `None` where there is nothing.
    fn read<T>(&self, act: impl FnOnce(&Content, &Header) -> Result<T, Fault>) -> Option<Result<T, Fault>> {
        self.content.as_ref().zip(self.header.as_ref()).map(|(content, header)| act(content, header))
    }

    /// Adds what the journals had to what is pending. Whether a checkpoint would say anything new.
    fn take_in(&mut self, taken: &Taken) -> bool {
        for (pending, taken) in self.pending.iter_mut().zip(&taken.tables) {
            pending.add(taken);
        }
        let marks = taken.tables.iter().map(|table| table.mark);
        let same = self.written.as_ref().is_some_and(|(position, known)| *position == taken.position && marks.eq(known.iter().copied()));
        !same || self.pending.iter().any(|pending| pending.cleared || !pending.is_deferred() && !pending.is_empty())
    }

    /// Writes everything pending as one checkpoint; the number of rows.
    fn write(
        &mut self,
        path: &Path,
        names: &[(String, String)],
        tables: &Tables,
        taken: &Taken,
        is_over: impl Fn() -> bool,
    ) -> Result<u64, Fault> {
        if self.content.is_none() {
            self.open(path)?;
        }
        let content = self.content.as_ref().expect("it was just opened");
        let (header, rows, marks) = content::guarded(|| write(content, names, &self.pending, tables, taken, is_over))?;
        self.header = Some(header);
        self.written = Some((taken.position.clone(), marks));
        self.pending.iter_mut().for_each(Pending::settled);
        Ok(rows)
    }
}

/// The checkpoint itself. Changes made meanwhile may or may not be in it: what was noted of them is in the next one, and what is noted of
/// this one is that it may hold some of them (`until`).
fn write(
    content: &Content,
    names: &[(String, String)],
    pending: &[Pending],
    tables: &Tables,
    taken: &Taken,
    is_over: impl Fn() -> bool,
) -> Result<(Header, u64, Vec<Mark>), Fault> {
    let checkpoint = content.begin()?;
    for unknown in checkpoint.names()?.iter().filter(|name| names.iter().all(|(known, _)| known != *name)) {
        checkpoint.remove(unknown)?;
    }
    let mut count = 0;
    let mut described = Vec::new();
    for (index, ((name, identity), pending)) in names.iter().zip(pending).enumerate() {
        let before = checkpoint.stored(name)?;
        let mut stored = before.clone().filter(|stored| stored.identity == *identity).unwrap_or_else(|| Stored::new(identity.clone()));
        if pending.cleared || pending.all || before.as_ref().is_some_and(|before| before.identity != *identity) {
            checkpoint.clear(name, &mut stored)?;
        }
        stored.whole = pending.mark.whole;
        if !pending.is_deferred() && !pending.is_empty() {
            let table = table_id(index);
            let generation = pending.mark.generation;
            let all = if pending.all { tables.all_keys(table, generation) } else { None };
            let keys = all.as_ref().unwrap_or(&pending.keys).sorted();
            let mut chunks = keys.chunks(KEYS_AT_A_TIME);
            checkpoint.write(name, &mut stored, |batch: &mut Batch| {
                if is_over() {
                    return Err(Fault::GivenUp);
                }
                let Some(chunk) = chunks.next() else { return Ok(false) };
                count += chunk.len() as u64;
                Ok(tables.rows_of(table, generation, chunk, |key, row| batch.push(key, row.map(crate::model::Row::as_bytes))))
            })?;
        }
        stored.source = pending.source.as_deref().cloned();
        described.push((name, before, stored));
    }
    let (until, marks) = tables.marks();
    for (((name, before, mut stored), mark), pending) in described.into_iter().zip(&marks).zip(pending) {
        // A table that was begun again meanwhile has rows of both.
        stored.whole &= *mark == pending.mark;
        if before.as_ref() != Some(&stored) {
            checkpoint.describe(name, &stored)?;
        }
    }
    let header = Header::new(taken.position.to_string(), until.to_string(), taken.at.to_string());
    checkpoint.commit(&header)?;
    Ok((header, count, taken.tables.iter().map(|table| table.mark).collect()))
}

// === impl Pending ===

impl Pending {
    fn add(&mut self, taken: &TakenTable) {
        if taken.cleared || taken.all {
            self.keys = Keys::default();
            self.all = false;
        }
        self.cleared |= taken.cleared;
        self.all |= taken.all;
        self.mark = taken.mark;
        self.source.clone_from(&taken.source);
        if !self.all {
            self.keys.append(&taken.keys);
        }
        if self.keys.bytes() > 2 * PARTIAL_BYTES {
            self.shrink();
        }
    }

    /// Keys noted while nothing could be written: each is kept once, and if that does not help, the table is written whole.
    fn shrink(&mut self) {
        let mut once = Keys::default();
        self.keys.sorted().into_iter().for_each(|key| once.push(key));
        self.all = once.bytes() > PARTIAL_BYTES;
        self.keys = if self.all { Keys::default() } else { once };
    }

    fn is_empty(&self) -> bool {
        !self.all && self.keys.is_empty()
    }

    /// Rows of a table that is still being read are written when it is done.
    fn is_deferred(&self) -> bool {
        !self.mark.whole && self.keys.bytes() < PARTIAL_BYTES
    }

    /// A checkpoint was written.
    fn settled(&mut self) {
        self.cleared = false;
        if !self.is_deferred() {
            self.all = false;
            self.keys = Keys::default();
        }
    }
}

// === files ===

fn open(path: &Path) -> Result<(Content, Option<Header>), Fault> {
    let file = path.metadata();
    if file.as_ref().is_ok_and(|file| !file.is_file()) {
        return Err(Fault::Unavailable(std::io::Error::new(ErrorKind::InvalidInput, "it is no regular file")));
    }
    // redb takes an empty file for a new one; for us it is a file that lost its content.
    if file.is_ok_and(|file| file.len() == 0) {
        return Err(Fault::Damaged("it is empty".into()));
    }
    Content::open(|builder| builder.create(path))
}

/// The file may be moved while it is locked, so the lock is on another.
fn lock(path: &Path) -> Result<File, Fault> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(beside(path, ".lock")).map_err(Fault::Unavailable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Fault::InUse),
        Err(TryLockError::Error(error)) => Err(Fault::Unavailable(error)),
    }
}

/// Moves a file to `<path>.bad-<n>`, numbered on, and keeps the newest few.
fn put_aside(path: &Path) -> std::io::Result<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = format!("{}.bad-", path.file_name().unwrap_or_default().to_string_lossy());
    let number = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.strip_prefix(&stem)?.parse::<u64>().ok();
    let mut numbers: Vec<u64> = std::fs::read_dir(folder)?.filter_map(number).collect();
    numbers.sort_unstable();
    let aside = |number: u64| beside(path, &format!(".bad-{number}"));
    let next = aside(numbers.last().map_or(1, |last| last.saturating_add(1)));
    std::fs::rename(path, &next)?;
    for old in numbers.iter().rev().skip(KEPT_ASIDE - 1) {
        // One that stays is a matter of disk space alone.
        let _ = std::fs::remove_file(aside(*old));
    }
    Ok(next)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// The path leads nowhere, or nowhere we may write: waiting would not help.
fn is_misplaced(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidInput
    )
}

fn table_id(index: usize) -> TableId {
    TableId(u16::try_from(index).expect("a plan has fewer than 65,536 tables"))
}

#[cfg(test)]
mod tests;
