//! The store against a model: crashes at any write, damage of any kind, changes while it writes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::model::{Change, Key, Reason, Row, RowBuilder, Transaction};

const TABLE: TableId = TableId(0);

// === a disk that can be cut off ===

/// What a process sees of a disk, and what a crash leaves of it: writes since the last sync may be there or not, in any
/// combination, each perhaps in part.
#[derive(Debug, Clone)]
struct Crashing(Arc<Mutex<Image>>);

#[derive(Debug)]
struct Image {
    seen: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Writes, syncs and resizes until everything fails; `None`: never.
    left: Option<u32>,
    error: ErrorKind,
}

#[derive(Debug, Clone)]
enum Unsynced {
    Write(usize, Vec<u8>),
    Resize(usize),
}

/// Disks write sectors whole.
const SECTOR: usize = 512;

impl Crashing {
    fn new(bytes: Vec<u8>) -> Self {
        let image = Image { seen: bytes.clone(), synced: bytes, unsynced: Vec::new(), left: None, error: ErrorKind::Other };
        Self(Arc::new(Mutex::new(image)))
    }

    fn fail_after(&self, left: Option<u32>, error: ErrorKind) {
        let mut image = self.0.lock();
        (image.left, image.error) = (left, error);
    }

    fn failed(&self) -> bool {
        self.0.lock().left == Some(0)
    }

    /// What is there after the power was cut.
    fn left_over(&self, seed: u64) -> Vec<u8> {
        let mut chance = StdRng::seed_from_u64(seed);
        let image = self.0.lock();
        let mut bytes = image.synced.clone();
        for change in &image.unsynced {
            if chance.random_bool(0.5) {
                continue;
            }
            match change {
                Unsynced::Resize(length) => bytes.resize(*length, 0),
                Unsynced::Write(offset, data) => {
                    let sectors = data.len().div_ceil(SECTOR);
                    let written = if chance.random_bool(0.3) { chance.random_range(0..=sectors) * SECTOR } else { data.len() };
                    write_at(&mut bytes, *offset, &data[..written.min(data.len())]);
                }
            }
        }
        bytes
    }

    fn content(&self) -> Result<(Content, Option<Header>), Fault> {
        let backend = self.clone();
        Content::open(move |builder| builder.create_with_backend(backend))
    }
}

fn write_at(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl Image {
    fn spend(&mut self) -> std::io::Result<()> {
        match &mut self.left {
            Some(0) => Err(self.error.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl redb::StorageBackend for Crashing {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let image = self.0.lock();
        let start = usize::try_from(offset).expect("a small file");
        let bytes = image.seen.get(start..start + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        let mut image = self.0.lock();
        image.spend()?;
        let len = usize::try_from(len).expect("a small file");
        image.seen.resize(len, 0);
        image.unsynced.push(Unsynced::Resize(len));
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        let mut image = self.0.lock();
        image.spend()?;
        image.synced = image.seen.clone();
        image.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut image = self.0.lock();
        let start = usize::try_from(offset).expect("a small file");
        let spent = image.spend();
        // The last write may have come to the disk in part, although nobody was told so.
        image.unsynced.push(Unsynced::Write(start, data.to_vec()));
        spent?;
        write_at(&mut image.seen, start, data);
        Ok(())
    }
}

// === tables and what they should be ===

/// Rows by key; `None`: not whole.
type State = Option<BTreeMap<u8, u32>>;

struct World {
    tables: Tables,
    /// The table after each transaction: index is the offset of the position.
    states: Vec<State>,
}

#[derive(Debug, Clone)]
enum Act {
    Put(u8, u32),
    Delete(u8),
    Move(u8, u8, u32),
    Truncate,
    Reload(Vec<(u8, u32)>),
    Stop,
    Checkpoint,
}

fn act() -> impl Strategy<Value = Act> {
    let key = 0..40_u8;
    prop_oneof![
        12 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Act::Put(key, value)),
        4 => key.clone().prop_map(Act::Delete),
        3 => (key.clone(), key.clone(), any::<u32>()).prop_map(|(from, to, value)| Act::Move(from, to, value)),
        1 => Just(Act::Truncate),
        1 => prop::collection::vec((key, any::<u32>()), 0..30).prop_map(Act::Reload),
        1 => Just(Act::Stop),
        6 => Just(Act::Checkpoint),
    ]
}

fn key(key: u8) -> Key {
    Key::new(key.to_string().into_bytes())
}

/// Some rows are larger than a page.
fn row(value: u32) -> Row {
    let mut builder = RowBuilder::default();
    builder.value("value").extend_from_slice(value.to_string().as_bytes());
    let length = if value.is_multiple_of(7) { 9000 } else { value as usize % 90 };
    builder.value("text").extend_from_slice(format!("\"{}\"", "x".repeat(length)).as_bytes());
    builder.finish()
}

fn position(offset: usize) -> Position {
    Position { server_uuid: Arc::from("server"), file: Arc::from("binlog.000001"), offset: offset as u64, gtids: None }
}

fn names() -> Vec<(String, String)> {
    vec![("t".to_owned(), "identity".to_owned())]
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema { columns: Vec::new(), key: Vec::new() })
}

impl World {
    fn new() -> Self {
        let tables = Tables::new([("t".to_owned(), "shop.t".to_owned())]);
        tables.keep_journal();
        let mut world = Self { tables, states: vec![None] };
        world.act(&Act::Reload(vec![(1, 1), (2, 2)]));
        world
    }

    fn apply(&mut self, changes: Vec<Change>, state: State) {
        let position = position(self.states.len());
        self.states.push(state);
        self.tables.apply(Transaction { changes, id: position.place(), position, committed_us: 0 });
    }

    /// One transaction, or what the driver does between two.
    fn act(&mut self, act: &Act) {
        let mut state = self.states.last().cloned().flatten();
        let upsert =
            |old: Option<u8>, new: u8, value: u32| Change::Upsert { table: TABLE, old_key: old.map(key), key: key(new), row: row(value) };
        let change = match (act, &mut state) {
            (Act::Put(to, value), Some(rows)) => {
                rows.insert(*to, *value);
                upsert(None, *to, *value)
            }
            (Act::Move(from, to, value), Some(rows)) => {
                rows.remove(from);
                rows.insert(*to, *value);
                upsert(Some(*from), *to, *value)
            }
            (Act::Delete(from), Some(rows)) => {
                rows.remove(from);
                Change::Delete { table: TABLE, key: key(*from) }
            }
            (Act::Truncate, Some(rows)) => {
                rows.clear();
                Change::Truncate { table: TABLE }
            }
            (Act::Reload(rows), _) => {
                self.tables.begin_snapshot(TABLE, schema());
                self.tables.set_source(TABLE, schema());
                self.tables.load(TABLE, rows.iter().map(|(to, value)| (key(*to), row(*value))).collect(), 50);
                self.tables.set_ready(TABLE);
                return self.apply(Vec::new(), Some(rows.iter().copied().collect()));
            }
            (Act::Stop, _) => {
                self.tables.stop(TABLE, Reason::TableDropped, "dropped".into());
                return self.apply(Vec::new(), None);
            }
            _ => return,
        };
        self.apply(vec![change], state);
    }
}

/// The writing half of a [`Store`], over any backend.
struct Writer {
    content: Content,
    disk: Disk,
}

impl Writer {
    fn new(content: Content) -> Self {
        let disk = Disk { lock: None, content: None, header: None, pending: vec![Pending::default()], written: None, retry_at: None };
        Self { content, disk }
    }

    fn checkpoint(&mut self, tables: &Tables) -> Result<(), Fault> {
        let taken = tables.take_journals();
        self.disk.take_in(&taken);
        content::guarded(|| write(&self.content, &names(), &self.disk.pending, tables, &taken, || false))?;
        self.disk.pending.iter_mut().for_each(Pending::settled);
        Ok(())
    }
}

/// What a file holds: first and last moment of its rows, and the rows if they are whole.
fn read(content: &Content, header: &Header) -> Result<(usize, usize, State), Fault> {
    let offset = |text: &str| text.parse::<Position>().map(|position| position.offset as usize).expect("a position of ours");
    let mut state = None;
    for (name, stored) in content.tables()? {
        assert_eq!(name, "t");
        if stored.whole {
            let mut rows = BTreeMap::new();
            content.rows(&name, &stored, 7, |batch| {
                for (key, found) in batch {
                    let key = std::str::from_utf8(key.as_bytes()).expect("text").parse().expect("a number");
                    let value = std::str::from_utf8(found.column(0).expect("a column")).expect("text").parse().expect("a number");
                    assert_eq!(found, row(value));
                    assert_eq!(rows.insert(key, value), None);
                }
            })?;
            state = Some(rows);
        }
    }
    Ok((offset(&header.from), offset(&header.until), state))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn c16_a_crash_at_any_write_leaves_the_last_checkpoint_or_the_one_begun(
        acts in prop::collection::vec(act(), 1..60),
        left in 0..400_u32,
        seed in any::<u64>(),
    ) {
        let disk = Crashing::new(Vec::new());
        let mut world = World::new();
        let (content, _) = disk.content().expect("a new disk");
        let mut writer = Writer::new(content);
        writer.checkpoint(&world.tables).expect("a disk that works");
        let mut acknowledged = world.states.len() - 1;
        disk.fail_after(Some(left), ErrorKind::Other);
        let mut tried = acknowledged;
        for act in acts.iter().chain([&Act::Checkpoint]) {
            world.act(act);
            if matches!(act, Act::Checkpoint) {
                tried = world.states.len() - 1;
                match writer.checkpoint(&world.tables) {
                    Ok(()) => acknowledged = tried,
                    Err(Fault::Unavailable(_)) => break,
                    Err(fault) => panic!("{fault}"),
                }
            }
        }
        drop(writer);

        let again = Crashing::new(disk.left_over(seed));
        let (content, header) = again.content().unwrap_or_else(|fault| panic!("after the crash: {fault}"));
        let (from, until, rows) = read(&content, &header.expect("a checkpoint was acknowledged")).expect("content that can be trusted");
        prop_assert_eq!(from, until);
        prop_assert!(from == acknowledged || from == tried, "at {}, not {} or {}", from, acknowledged, tried);
        prop_assert_eq!(&rows, &world.states[from]);
    }

    #[test]
    fn p07_a_full_disk_costs_nothing_once_there_is_room(acts in prop::collection::vec(act(), 1..60), left in 0..200_u32) {
        let disk = Crashing::new(Vec::new());
        let mut world = World::new();
        let mut writer = Writer::new(disk.content().expect("a new disk").0);
        disk.fail_after(Some(left), ErrorKind::StorageFull);
        for act in &acts {
            world.act(act);
            if matches!(act, Act::Checkpoint) && let Err(fault) = writer.checkpoint(&world.tables) {
                prop_assert!(matches!(fault, Fault::Unavailable(_)) && disk.failed(), "{}", fault);
            }
        }
        disk.fail_after(None, ErrorKind::Other);
        let Writer { content, disk: pending } = writer;
        drop(content);
        let (content, _) = disk.content().expect("there is room");
        let mut writer = Writer { content, disk: pending };
        writer.checkpoint(&world.tables).expect("there is room");
        let Writer { content, .. } = writer;
        drop(content);
        let (content, header) = disk.content().expect("a good file");
        let (from, until, rows) = read(&content, &header.expect("a checkpoint")).expect("good content");
        prop_assert_eq!((from, until), (world.states.len() - 1, world.states.len() - 1));
        prop_assert_eq!(&rows, world.states.last().expect("a state"));
    }
}

#[test]
fn changes_made_while_a_checkpoint_is_written_are_made_good_by_the_binlog() {
    let mut world = World::new();
    world.act(&Act::Reload((0..40).map(|key| (key, 1)).collect()));
    let mut transactions: Vec<(u8, u32)> = Vec::new();
    let mut chance = StdRng::seed_from_u64(7);
    let before = world.states.len();
    (0..20_000).for_each(|_| transactions.push((chance.random_range(0..40), chance.random_range(1..1000))));

    let disk = Crashing::new(Vec::new());
    let mut writer = Writer::new(disk.content().expect("a new disk").0);
    let done = AtomicBool::new(false);
    let tables = &world.tables;
    let mut checkpoints = 0;
    std::thread::scope(|scope| {
        let (transactions, done) = (&transactions, &done);
        scope.spawn(move || {
            for (index, (to, value)) in transactions.iter().enumerate() {
                let changes = vec![Change::Upsert { table: TABLE, old_key: None, key: key(*to), row: row(*value) }];
                tables.apply(Transaction { changes, id: String::new(), position: position(before + index), committed_us: 0 });
            }
            done.store(true, Relaxed);
        });
        while !done.load(Relaxed) {
            writer.checkpoint(tables).expect("a disk that works");
            checkpoints += 1;
            let image = disk.left_over(checkpoints);
            let (content, header) = Crashing::new(image).content().expect("a good file");
            let (from, until, rows) = read(&content, &header.expect("a checkpoint")).expect("good content");
            let mut rows = rows.expect("the table is whole");
            // The binlog from `from` on, over the rows; and what there should be, from the beginning.
            transactions.iter().take((until + 1).saturating_sub(before)).skip((from + 1).saturating_sub(before)).for_each(|(to, value)| {
                rows.insert(*to, *value);
            });
            let mut expected: BTreeMap<u8, u32> = (0..40).map(|key| (key, 1)).collect();
            transactions.iter().take((until + 1).saturating_sub(before)).for_each(|(to, value)| {
                expected.insert(*to, *value);
            });
            assert_eq!(rows, expected, "checkpoint {checkpoints}, from {from} until {until}");
        }
    });
    assert!(checkpoints > 1);
}

// === files ===

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("larder-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).expect("make a folder");
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("larder.redb")
    }

    fn open(&self) -> Store {
        self.open_as("identity")
    }

    fn open_as(&self, identity: &str) -> Store {
        Store::open(self.file(), vec![("t".to_owned(), identity.to_owned())]).expect("a store")
    }

    fn aside(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).expect("the folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).filter(|name| name.contains(".bad-")).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn rows_in(tables: &Tables) -> usize {
    tables.summaries()[0].rows
}

/// A store in which a table of so many rows was written at position 2 of the model.
fn filled(folder: &Folder, rows: u8) -> World {
    let mut world = World::new();
    world.act(&Act::Reload((0..rows).map(|key| (key, u32::from(key))).collect()));
    let store = folder.open();
    store.activate(&world.tables);
    store.checkpoint(&world.tables, Instant::now(), true);
    assert!(!store.is_failing() && store.rows_written() == u64::from(rows));
    world
}

/// What a start gets out of the file.
fn warm_rows(store: &Store) -> Option<usize> {
    let held = store.held()?;
    let tables = Tables::new([("t".to_owned(), "shop.t".to_owned())]);
    tables.begin_snapshot(TABLE, schema());
    store.restore(&held, &tables).then(|| rows_in(&tables))
}

/// The store works from here on, whatever it was before.
#[track_caller]
fn writes_again(folder: &Folder) {
    filled(folder, 30);
    assert_eq!(warm_rows(&folder.open()), Some(30));
}

#[test]
fn rows_come_back_with_their_position() {
    let folder = Folder::new();
    assert_eq!(warm_rows(&folder.open()), None);
    assert_eq!(folder.aside(), Vec::<String>::new());
    filled(&folder, 200);
    let store = folder.open();
    let held = store.held().expect("something is held");
    assert_eq!((held.from.offset, held.until.offset, held.at.as_str()), (2, 2, "server:binlog.000001:2"));
    assert_eq!(warm_rows(&store), Some(200));
}

#[test]
fn what_is_restored_is_not_written_again() {
    let folder = Folder::new();
    filled(&folder, 200);
    let store = folder.open();
    let held = store.held().expect("something is held");
    let tables = Tables::new([("t".to_owned(), "shop.t".to_owned())]);
    tables.begin_snapshot(TABLE, schema());
    tables.set_source(TABLE, schema());
    assert!(store.restore(&held, &tables));
    tables.set_at(&held.at, held.from.clone());
    store.activate(&tables);
    let change = Change::Delete { table: TABLE, key: key(7) };
    tables.apply(Transaction { changes: vec![change], id: "x".into(), position: position(9), committed_us: 0 });
    store.checkpoint(&tables, Instant::now(), true);
    assert_eq!(store.rows_written(), 1);
    drop(store);
    assert_eq!(warm_rows(&folder.open()), Some(199));
}

#[test]
fn a_store_nobody_has_taken_over_is_left_as_it_is() {
    let folder = Folder::new();
    filled(&folder, 200);
    let store = folder.open();
    // A process that ends while it waits for MySQL.
    store.checkpoint(&Tables::new([("t".to_owned(), "shop.t".to_owned())]), Instant::now(), true);
    drop(store);
    assert_eq!(warm_rows(&folder.open()), Some(200));
}

#[test]
fn a_last_checkpoint_that_takes_too_long_is_given_up_and_nothing_is_lost() {
    let folder = Folder::new();
    let mut world = filled(&folder, 20);
    let store = folder.open();
    store.activate(&world.tables);
    store.stop(Duration::ZERO);
    world.act(&Act::Put(1, 1));
    store.run(&world.tables);
    assert!(store.rows_written() == 0 && !store.is_failing());
    drop(store);
    assert_eq!(warm_rows(&folder.open()), Some(20));
    assert_eq!(folder.aside(), Vec::<String>::new());
}

#[test]
fn p07_a_disk_that_was_full_is_left_alone_for_a_while_and_then_written_again() {
    for replaced in [false, true] {
        let folder = Folder::new();
        let mut world = filled(&folder, 20);
        let store = folder.open();
        store.activate(&world.tables);
        // The same file on a disk that is full.
        let disk = Crashing::new(std::fs::read(folder.file()).expect("the file"));
        store.disk.lock().content = Some(disk.content().expect("good content").0);
        disk.fail_after(Some(0), ErrorKind::StorageFull);
        let now = Instant::now();
        world.act(&Act::Put(100, 1));
        store.checkpoint(&world.tables, now, false);
        assert!(store.is_failing() && disk.failed());
        world.act(&Act::Put(101, 1));
        store.checkpoint(&world.tables, now + RETRY / 2, false);
        assert!(store.is_failing() && store.rows_written() == 0);
        if replaced {
            // Someone makes room by deleting just this.
            std::fs::remove_file(folder.file()).expect("delete it");
        }
        store.checkpoint(&world.tables, now + RETRY, false);
        assert!(!store.is_failing());
        assert_eq!(store.rows_written(), if replaced { 22 } else { 2 });
        drop(store);
        assert_eq!(warm_rows(&folder.open()), Some(22));
    }
}

#[test]
fn what_is_no_file_is_left_alone() {
    let folder = Folder::new();
    let path = folder.0.join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    assert!(matches!(Store::open(path.clone(), names()), Err(OpenError::Unusable { .. })));
    assert!(path.exists());
}

#[test]
fn only_one_process_uses_a_store() {
    let folder = Folder::new();
    let first = folder.open();
    assert!(matches!(Store::open(folder.file(), names()), Err(OpenError::InUse { .. })));
    drop(first);
    folder.open();
}

#[test]
fn a_path_to_nowhere_is_said_at_the_start() {
    let folder = Folder::new();
    let nowhere = folder.0.join("missing/larder.redb");
    assert!(matches!(Store::open(nowhere, names()), Err(OpenError::Unusable { .. })));
}

#[test]
fn other_options_make_other_rows() {
    let folder = Folder::new();
    filled(&folder, 20);
    assert_eq!(warm_rows(&folder.open_as("other")), None);
    assert_eq!(folder.aside(), Vec::<String>::new());
    // The old rows go with the first checkpoint.
    let world = World::new();
    let store = folder.open_as("other");
    store.activate(&world.tables);
    store.checkpoint(&world.tables, Instant::now(), true);
    assert_eq!(warm_rows(&store), Some(2));
}

#[test]
fn c15_a_file_that_cannot_be_trusted_is_moved_aside() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 7] = [
        ("zero length", Vec::clear),
        ("wrong magic", |bytes| bytes[0] ^= 0xff),
        ("no database at all", |bytes| *bytes = b"hello, I am a text file and no database".repeat(100)),
        ("cut in half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("cut to a page", |bytes| bytes.truncate(4096)),
        ("zeroes", |bytes| bytes.iter_mut().for_each(|byte| *byte = 0)),
        ("zeroes at the end", |bytes| {
            let half = bytes.len() / 2;
            bytes[half..].iter_mut().for_each(|byte| *byte = 0);
        }),
    ];
    for (what, damage) in damages {
        let folder = Folder::new();
        filled(&folder, 200);
        let mut bytes = std::fs::read(folder.file()).expect("the file");
        damage(&mut bytes);
        std::fs::write(folder.file(), bytes).expect("write the file");
        let store = folder.open();
        let rows = warm_rows(&store);
        drop(store);
        // Whether a page is needed or not: right rows or none.
        assert!(rows.is_none_or(|rows| rows == 200), "{what}: {rows:?} rows");
        if rows.is_none() {
            assert_eq!(folder.aside(), ["larder.redb.bad-1"], "{what}");
        }
        writes_again(&folder);
    }
}

#[test]
fn c15_a_flipped_bit_is_found_or_of_no_matter() {
    let folder = Folder::new();
    filled(&folder, 200);
    let good = std::fs::read(folder.file()).expect("the file");
    let mut chance = StdRng::seed_from_u64(15);
    let mut found = 0;
    for _ in 0..150 {
        let mut bytes = good.clone();
        // Of an almost empty file most bytes are no content.
        let at = loop {
            let at = chance.random_range(0..bytes.len());
            if bytes[at] != 0 {
                break at;
            }
        };
        bytes[at] ^= 1 << chance.random_range(0..8);
        std::fs::write(folder.file(), bytes).expect("write the file");
        let rows = warm_rows(&folder.open());
        assert!(rows.is_none_or(|rows| rows == 200), "byte {at}: {rows:?} rows");
        found += u32::from(rows.is_none());
    }
    assert!(found > 50, "only {found} of 150 were found");
    assert!(folder.aside().len() == KEPT_ASIDE, "{:?}", folder.aside());
    writes_again(&folder);
}

#[test]
fn c15_rows_of_another_table_are_not_taken() {
    let folder = Folder::new();
    filled(&folder, 20);
    {
        // Someone renames what is in the file.
        let database = redb::Database::open(folder.file()).expect("the file");
        let writing = database.begin_write().expect("a transaction");
        {
            let tables = redb::TableDefinition::<&str, &[u8]>::new("tables");
            let mut tables = writing.open_table(tables).expect("the tables");
            let stored = tables.remove("t").expect("read").expect("table t").value().to_vec();
            tables.insert("u", stored.as_slice()).expect("write");
            let (old, new) = ("rows/t", "rows/u");
            let rows = |name| redb::TableDefinition::<&[u8], &[u8]>::new(name);
            writing.rename_table(rows(old), rows(new)).expect("rename");
        }
        writing.commit().expect("commit");
    }
    let store = Store::open(folder.file(), vec![("u".to_owned(), "identity".to_owned())]).expect("a store");
    assert!(store.held().is_none());
    drop(store);
    assert_eq!(folder.aside(), ["larder.redb.bad-1"]);
}

#[test]
fn p11_another_format_is_moved_aside() {
    for format in [0, content::FORMAT + 1] {
        let folder = Folder::new();
        filled(&folder, 20);
        {
            let database = redb::Database::open(folder.file()).expect("the file");
            let writing = database.begin_write().expect("a transaction");
            {
                let larder = redb::TableDefinition::<&str, &[u8]>::new("larder");
                let header = content::encode("header", &serde_json::json!({ "format": format, "unknown": true }));
                writing.open_table(larder).expect("the header").insert("header", header.as_slice()).expect("write");
            }
            writing.commit().expect("commit");
        }
        assert!(folder.open().held().is_none());
        assert_eq!(folder.aside(), ["larder.redb.bad-1"]);
        writes_again(&folder);
    }
}

#[test]
fn i24_a_file_that_is_deleted_costs_one_snapshot() {
    let folder = Folder::new();
    let world = filled(&folder, 20);
    let store = folder.open();
    store.activate(&world.tables);
    std::fs::remove_file(folder.file()).expect("delete it");
    store.checkpoint(&world.tables, Instant::now(), true);
    assert!(!store.is_failing());
    drop(store);
    assert_eq!(warm_rows(&folder.open()), None);
    assert_eq!(folder.aside(), Vec::<String>::new());
    writes_again(&folder);
}
