//! The elected publisher: from the progress in Kafka to changes in topics, for as long as it is elected.
//!
//! ```text
//!            new, or read in part ──► tables.rs: read them ──► Read { at } ──► catch up to the others ──► Following
//!  progress ─┤                                                                                             │
//!            └ following ─────────────────────────────────────────────────────────────────────────► one stream, one transaction
//!                                                                                                    after the other
//! ```
//!
//! What always holds: a transaction of MySQL is written whole into one transaction of Kafka, together with the position after it
//! (in parts only above `limits.transaction_bytes`, each with how far it got); what is published of a key is a read, then each change
//! after it once; after any fault everything is begun again from the last commit, which is one way for every fault.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::maker::{ChangeMaker, Known, Published};
use super::progress::{Part, Progress, TableState};
use super::writer::{Common, Refused, Writer};
use super::{Ended, Publisher, broken};
use crate::config::plan::TablePlan;
use crate::debezium::{Snapshot, TransactionBlock};
use crate::kafka::election::{Election, Standing};
use crate::model::{Position, Reason, Schema, TableId, Transaction};
use crate::mysql::assemble::{Assembler, Step};
use crate::mysql::binlog::Binlog;

/// Events taken in a row before other things are looked at.
const EVENTS_IN_A_ROW: usize = 1024;

/// How often the group is asked whether we are still elected.
const ELECTION: Duration = Duration::from_millis(100);

pub(super) struct Leader<'a> {
    pub publisher: &'a Publisher,
    pub election: &'a Election,
    pub writer: Writer,
    pub progress: Progress,
    /// Server with `lower_case_table_names`.
    pub fold_case: bool,
    asked: Instant,
    committed: Instant,
    orders: Orders,
    known: Vec<(Schema, Known)>,
}

/// The binlog from a position, as changes.
pub(super) struct Stream {
    binlog: Binlog,
    pub assembler: Assembler<ChangeMaker>,
}

pub(super) enum Read {
    Step(Step<Published>),
    /// Many events went by, none of them for us.
    Busy,
    /// The server has nothing to send right now.
    Idle,
}

impl Stream {
    /// With `wait`, never [`Read::Idle`] before something has come, if only a heartbeat. Cancel safe.
    pub async fn read(&mut self, mut wait: bool) -> Result<Read, Ended> {
        for _ in 0..EVENTS_IN_A_ROW {
            if let Some(step) = self.assembler.next_step() {
                return Ok(Read::Step(step));
            }
            let next = match self.binlog.poll_now() {
                Some(next) => next,
                None if !wait => return Ok(Read::Idle),
                None => {
                    wait = false;
                    self.binlog.next().await
                }
            };
            self.assembler.event(&next?.raw()).map_err(|error| broken(&error))?;
        }
        Ok(Read::Busy)
    }
}

impl<'a> Leader<'a> {
    pub fn new(
        publisher: &'a Publisher,
        election: &'a Election,
        writer: Writer,
        progress: Progress,
        fold_case: bool,
        known: Vec<(Schema, Known)>,
    ) -> Self {
        let now = Instant::now();
        Self { publisher, election, writer, progress, fold_case, asked: now, committed: now, orders: Orders::default(), known }
    }

    /// Publishes until we are no longer elected, or a fault.
    pub async fn run(&mut self) -> Result<Infallible, Ended> {
        loop {
            match self.follow().await {
                // Nothing is open: the producer stays, the tables are looked at anew.
                Err(Ended::AtOnce) if !self.writer.is_open() => {
                    (self.fold_case, self.known) = self.publisher.known(&mut self.progress, &mut self.writer).await?;
                    self.orders = Orders::default();
                }
                ended => return ended,
            }
        }
    }

    async fn follow(&mut self) -> Result<Infallible, Ended> {
        self.read_tables().await?;
        self.catch_up().await?;
        let from = self.progress.position.clone().ok_or_else(|| Ended::Again("no table can be published".into()))?;
        let joined: Vec<TableId> = self.published().filter(|&table| self.follows(table)).collect();
        let mut stream = self.stream(&from, &joined, self.known(), false).await?;
        // A statement may bring back a table that was dropped, or mend one.
        for table in self.published() {
            if let Some(TableState::Stopped { reason, .. }) = self.state(table)
                && let Some(reason) = Reason::from_code(reason)
            {
                stream.assembler.stopped(table, reason);
            }
        }
        info!(position = %from, "publishing the changes of {} tables", joined.len());
        loop {
            if self.publisher.is_stopping() {
                self.commit()?;
            }
            self.beat()?;
            self.take_requests()?;
            match stream.read(false).await? {
                Read::Step(step) => self.act(step, &mut stream.assembler).await?,
                Read::Busy => {}
                Read::Idle => self.rest(&mut stream).await?,
            }
            self.commit_if_due()?;
        }
    }

    /// Tables that somebody asked to be published again.
    fn take_requests(&mut self) -> Result<(), Ended> {
        let requests = &self.publisher.status.resnapshots;
        if !requests.are_waiting() || self.progress.part.is_some() {
            return Ok(());
        }
        let asked = requests.take();
        for &table in &asked {
            info!(table = self.plan(table).name, "all rows of table {} are to be published again", self.plan(table).name);
            self.set_state(table, TableState::Again);
        }
        self.commit()?;
        self.publisher.status.resnapshots.done(&asked);
        Err(Ended::AtOnce)
    }

    /// Nothing is left to read: what is written goes out, and whatever comes next is waited for.
    async fn rest(&mut self, stream: &mut Stream) -> Result<(), Ended> {
        self.commit()?;
        self.publisher.status.set_idle();
        if let Ok(read) = tokio::time::timeout(ELECTION, stream.read(true)).await {
            if let Read::Step(step) = read? {
                self.act(step, &mut stream.assembler).await?;
            }
        } else if self.committed.elapsed() > self.publisher.mysql.heartbeat && self.progress.part.is_none() {
            // Transactions of tables nobody publishes move the position too, or the log after it would be kept for nothing.
            let position = stream.assembler.position();
            if self.progress.position.as_ref() != Some(position) {
                self.progress.position = Some(position.clone());
                self.settle();
                self.writer.touch_source();
                self.commit()?;
            }
        }
        Ok(())
    }

    /// A stream in which these tables are followed. `whole`: large transactions do not come in parts, and the end is soon heard of.
    pub async fn stream(&self, from: &Position, tables: &[TableId], known: Vec<Known>, whole: bool) -> Result<Stream, Ended> {
        let plan = &self.publisher.plan;
        let maker = ChangeMaker::new(&plan.name, known);
        let mut assembler =
            Assembler::new(maker, &plan.tables, from.clone(), self.fold_case, plan.limits.transaction_bytes).splitting(!whole);
        for &table in tables {
            assembler.follow(table, self.known[table.index()].0.clone());
        }
        let mysql = &self.publisher.mysql;
        let binlog = if whole { Binlog::open_eager(mysql, from).await? } else { Binlog::open(mysql, from).await? };
        Ok(Stream { binlog, assembler })
    }

    /// Whether we go on: not while somebody else is elected, or the daemon stops.
    pub fn beat(&mut self) -> Result<(), Ended> {
        if self.publisher.is_stopping() {
            return Err(Ended::Stopped);
        }
        if self.asked.elapsed() < ELECTION {
            return Ok(());
        }
        self.asked = Instant::now();
        match self.election.poll(Duration::ZERO)? {
            Standing::Elected => Ok(()),
            Standing::Standby => Err(Ended::Resigned),
        }
    }

    /// Does what the stream of the tables that follow asks for.
    pub async fn act(&mut self, step: Step<Published>, assembler: &mut Assembler<ChangeMaker>) -> Result<(), Ended> {
        match step {
            Step::Part { id, committed_us, changes } => {
                let done = self.progress.part.take().filter(|part| part.id == id);
                let parts = done.as_ref().map_or(0, |part| part.parts);
                let next = done.as_ref().map_or(0, |part| part.next);
                let last = changes.last().map_or(0, |change| change.number + 1);
                if last > next {
                    let number = (parts + 1).to_string();
                    self.write_all(&id, committed_us, &changes, next, Some((&number, None)), assembler)?;
                    self.progress.part = Some(Part { id, next: last, parts: parts + 1 });
                    self.commit()?;
                } else {
                    self.orders.skip(&changes);
                    self.progress.part = done;
                }
            }
            Step::Apply(Transaction { changes, position, id, committed_us }) => {
                let done = self.progress.part.take().filter(|part| part.id == id);
                let next = done.as_ref().map_or(0, |part| part.next);
                let numbers = done.map(|part| ((part.parts + 1).to_string(), format!("{0}/{0}", part.parts + 1)));
                let part = numbers.as_ref().map(|(number, last)| (number.as_str(), Some(last.as_str())));
                self.write_all(&id, committed_us, &changes, next, part, assembler)?;
                self.orders = Orders::default();
                self.publisher.status.set_committed(committed_us);
                self.progress.position = Some(position);
                self.settle();
            }
            Step::Stop { table, reason, message } => self.stop_table(table, reason, &message),
            Step::Reload(tables) => {
                let here = assembler.position().clone();
                for table in tables {
                    // What was read later has it.
                    if !matches!(self.state(table), Some(TableState::Read { at }) if at.contains(&here)) {
                        self.compare(table, "a statement changed it in a way that its changes do not tell");
                    }
                }
                self.progress.position = Some(here);
                self.settle();
                self.writer.touch_source();
                self.commit()?;
                return Err(Ended::AtOnce);
            }
            Step::Rewind(tables) => {
                self.commit()?;
                self.publisher.disagreed(&tables).map_err(|table| {
                    let message = "its rows do not have the columns that the catalogue shows, and the binlog has no names (binlog_row_metadata = MINIMAL)";
                    self.stop_table(table, Reason::SchemaMismatch, message);
                    self.commit().err().unwrap_or(Ended::AtOnce)
                })?;
                return Err(Ended::Again("the columns of a table changed".into()));
            }
            Step::Columns(_) => {
                // Defaults, and names where the binlog has none, are in the catalogue alone.
                self.progress.position = Some(assembler.position().clone());
                self.settle();
                self.writer.touch_source();
                self.commit()?;
                return Err(Ended::AtOnce);
            }
            Step::Check(table) => {
                if !self.publisher.has_columns_of(table, assembler.schema(table)).await? {
                    self.commit()?;
                    return Err(Ended::AtOnce);
                }
            }
            Step::Ready(_) => {}
        }
        Ok(())
    }

    /// Writes changes of one transaction from number `next` on. `part`: what each record says of its part, and the last one of all.
    fn write_all(
        &mut self,
        id: &str,
        committed_us: u64,
        changes: &[Published],
        next: u64,
        part: Option<(&str, Option<&str>)>,
        assembler: &mut Assembler<ChangeMaker>,
    ) -> Result<(), Ended> {
        let gtid = assembler.position().gtids.is_some().then_some(id);
        let last = changes.len().checked_sub(1);
        for (index, change) in changes.iter().enumerate() {
            let order = self.orders.next(change.table);
            if change.number < next || self.is_contained(change.table, id, assembler.position()) {
                continue;
            }
            let last_part = part.and_then(|(_, last)| last).filter(|_| Some(index) == last);
            let common = Common { origin: id, gtid, committed_us, part: part.map(|(part, _)| part), last_part };
            self.write(change, &common, Snapshot::False, order, id, assembler)?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        change: &Published,
        common: &Common<'_>,
        place: Snapshot,
        (total, of_table): (u64, u64),
        id: &str,
        assembler: &mut Assembler<ChangeMaker>,
    ) -> Result<(), Ended> {
        let publish = self.plan(change.table).publish.as_ref();
        let block = TransactionBlock { id, total_order: total, data_collection_order: of_table };
        let block = publish.is_some_and(|publish| publish.transactions).then_some(&block);
        match self.writer.change(change, common, place, block) {
            Ok(()) => self.publisher.status.count(change.table),
            Err(Refused::Fault(fault)) => return Err(fault.into()),
            Err(refused) => {
                let (reason, message) = why(&refused, &String::from_utf8_lossy(change.key()));
                assembler.stopped(change.table, reason);
                self.stop_table(change.table, reason, &message);
            }
        }
        Ok(())
    }

    /// Whether a table that was read has this transaction already, or is not to have it.
    fn is_contained(&self, table: TableId, id: &str, after: &Position) -> bool {
        match &self.state(table) {
            Some(TableState::Following) => false,
            Some(TableState::Read { at }) => at.covers(id, after),
            _ => true,
        }
    }

    /// Tables that were read follow from here on, if the stream has reached where they stand.
    pub fn settle(&mut self) {
        let Some(position) = &self.progress.position else { return };
        for (name, table) in &mut self.progress.tables {
            if let TableState::Read { at } = &table.state
                && position.contains(at)
            {
                table.state = TableState::Following;
                self.writer.touch(name);
            }
        }
    }

    fn follows(&self, table: TableId) -> bool {
        matches!(self.state(table), Some(TableState::Following | TableState::Read { .. }))
    }

    /// What is published of the table is to be compared with it.
    pub fn compare(&mut self, table: TableId, why: &str) {
        let name = self.plan(table).name.clone();
        warn!(table = name, "what was published of table {name} is compared with it: {why}");
        self.set_state(table, TableState::Compare);
    }

    pub fn stop_table(&mut self, table: TableId, reason: Reason, message: &str) {
        let name = self.plan(table).name.clone();
        let repair = match reason {
            Reason::TableDropped => "What differs is published as soon as it is there again".to_owned(),
            _ => format!("Correct the cause, then restart Larder or POST /api/tables/{name}/resnapshot: what is missing is published then"),
        };
        error!(table = name, reason = reason.code(), "the changes of table {name} are no longer published ({reason}): {message}. {repair}");
        self.set_state(table, TableState::Stopped { reason: reason.code().into(), message: message.into() });
        self.publisher.tables.stop_publishing(table, reason, message);
    }

    pub fn set_state(&mut self, table: TableId, state: TableState) {
        let name = self.plan(table).name.clone();
        if let Some(known) = self.progress.tables.get_mut(&name) {
            known.state = state;
            self.writer.touch(&name);
        }
    }

    pub fn state(&self, table: TableId) -> Option<&TableState> {
        self.progress.tables.get(&self.plan(table).name).map(|table| &table.state)
    }

    pub fn plan(&self, table: TableId) -> &'a TablePlan {
        &self.publisher.plan.tables[table.index()]
    }

    /// Per table of the plan.
    pub fn known(&self) -> Vec<Known> {
        self.known.iter().map(|(_, known)| known.clone()).collect()
    }

    /// Tables with a change topic.
    pub fn published(&self) -> impl Iterator<Item = TableId> + use<'a> {
        self.publisher.published()
    }

    pub fn commit_if_due(&mut self) -> Result<(), Ended> {
        let (bytes, waited) = self.writer.waiting();
        let limits = &self.publisher.plan.limits;
        if bytes >= limits.commit_bytes || waited >= limits.commit_interval { self.commit() } else { Ok(()) }
    }

    pub fn commit(&mut self) -> Result<(), Ended> {
        if self.writer.is_open() {
            let began = Instant::now();
            self.writer.commit(&self.progress)?;
            self.committed = Instant::now();
            self.publisher.status.committed(self.progress.position.as_ref(), began.elapsed());
        }
        Ok(())
    }
}

/// Why a table whose change was refused is stopped.
pub(super) fn why(refused: &Refused, key: &str) -> (Reason, String) {
    match refused {
        Refused::TooLarge { bytes, bound } => {
            let message = format!(
                "the change of {key} takes {bytes} bytes, its topic takes {bound}: raise max.message.bytes of the topic and limits.message_bytes"
            );
            (Reason::TooLarge, message)
        }
        Refused::Compacted => {
            let message = "the table was truncated, which its topic cannot be told: a truncate has no key, and the topic is compacted (cleanup.policy)";
            (Reason::DdlUnsupported, message.to_owned())
        }
        Refused::Fault(fault) => (Reason::BadValue, fault.to_string()),
    }
}

/// The places of changes in their transaction, for the block `transaction`.
#[derive(Default)]
struct Orders {
    total: u64,
    tables: Vec<(TableId, u64)>,
}

impl Orders {
    /// From 1: among all changes, and among those of the table.
    fn next(&mut self, table: TableId) -> (u64, u64) {
        self.total += 1;
        let known = self.tables.iter().position(|(known, _)| *known == table);
        let index = known.unwrap_or_else(|| {
            self.tables.push((table, 0));
            self.tables.len() - 1
        });
        self.tables[index].1 += 1;
        (self.total, self.tables[index].1)
    }

    fn skip(&mut self, changes: &[Published]) {
        for change in changes {
            self.next(change.table);
        }
    }
}
