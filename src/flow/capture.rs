//! Capture: MySQL tables into memory, and kept current from the binlog.
//!
//! [`run`] is the driver: it opens connections, reads snapshots, hands events to the [`Assembler`] and does what it answers.
//! What always holds: a transaction is applied whole; after a lost connection only what follows the last whole transaction is
//! read again; a table whose rows cannot be trusted is taken out of service before anything else is applied to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::warm;
use crate::config::Plan;
use crate::config::plan::{MysqlPlan, OnPurge};
use crate::model::position::GtidSet;
use crate::model::{Change, Position, Reason, Schema, Stop, TableId};
use crate::mysql::SourceStatus;
use crate::mysql::assemble::{Assembler, Broken, Step};
use crate::mysql::binlog::Binlog;
use crate::mysql::catalogue;
use crate::mysql::connect::{self, Error};
use crate::mysql::identity::{self, Verdict};
use crate::mysql::load::{self, Loaded};
use crate::mysql::preconditions::{self, ServerInfo};
use crate::mysql::render::Shape;
use crate::mysql::rows::JsonMaker;
use crate::mysql::snapshot::Views;
use crate::mysql::status::now_us;
use crate::table::store::Store;
use crate::table::{Tables, Unreadable};

/// Connections lost within this time of their start count as quick.
const QUICK: Duration = Duration::from_secs(30);

/// So many quick disconnects that name our server id are no accident (contract A3).
const CLASHES: u32 = 3;

/// How often the position shown is renewed while transactions come without a pause.
const SHOW_POSITION: Duration = Duration::from_millis(100);

/// Captures until `stop` turns true (or its sender is gone), or until something that only a person can set right.
///
/// Decoding keeps a core busy for as long as there is something to read, so the future is for a thread and a runtime of its own (it
/// cannot be sent to another). Dropping it ends the capture between two transactions.
pub async fn run(plan: Arc<Plan>, tables: Arc<Tables>, status: Arc<SourceStatus>, stop: watch::Receiver<bool>) -> Result<(), Stop> {
    run_from(None, plan, tables, status, stop).await
}

/// The same, beginning with what a local store holds.
pub async fn run_from(
    store: Option<Arc<Store>>,
    plan: Arc<Plan>,
    tables: Arc<Tables>,
    status: Arc<SourceStatus>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Stop> {
    let Some(mysql) = plan.mysql.clone() else { return Ok(()) };
    let capture = Capture { mysql, plan, tables, status, store };
    let ended = tokio::select! {
        _ = stop.wait_for(|&stop| stop) => Ok(()),
        ended = capture.run() => ended.map(|never| match never {}),
    };
    capture.status.set_disconnected();
    ended
}

enum Never {}

struct Capture {
    mysql: MysqlPlan,
    plan: Arc<Plan>,
    tables: Arc<Tables>,
    status: Arc<SourceStatus>,
    store: Option<Arc<Store>>,
}

/// Why the stream of one connection ended.
enum Ended {
    /// The connection: open another one.
    Lost(Error),
    Broken(Broken),
    /// Tables were read again in the middle of a transaction: it must be seen from its beginning.
    Rewound,
    /// Everything must be read again.
    Again,
}

impl Capture {
    async fn run(&self) -> Result<Never, Stop> {
        let server = self.check().await?;
        // Binlogs that go while the tables are read, or a server that never lets us follow, must not make this a tight loop.
        let mut pause = backoff();
        let mut assembler = self.begin(server).await?;
        loop {
            let began = Instant::now();
            self.follow(&mut assembler).await?;
            if began.elapsed() > QUICK {
                pause = backoff();
            }
            warn!("the tables are read again from the beginning");
            tokio::time::sleep(pause.next().unwrap_or(LONGEST_WAIT)).await;
            assembler = self.snapshot(server).await?;
        }
    }

    /// Waits for the server and checks the preconditions.
    async fn check(&self) -> Result<ServerInfo, Stop> {
        let inspect = async || {
            let mut connection = connect::connect(&self.mysql).await?;
            let inspected = preconditions::inspect(&mut connection, &self.mysql, &self.plan.tables).await?;
            let _ = connection.disconnect().await;
            Ok(inspected)
        };
        let (report, server) = self.retry("MySQL is not there yet", inspect).await?;
        report.warnings.iter().for_each(|warning| warn!("{warning}"));
        if report.failures.is_empty() {
            self.status.set_log_expiry(server.log_expiry);
            return Ok(server);
        }
        let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
        Err(Stop::Precondition(failures.join("\n")))
    }

    /// Takes the tables from the local store where it has them, and reads the others.
    async fn begin(&self, server: ServerInfo) -> Result<Assembler<JsonMaker>, Stop> {
        let Some(store) = &self.store else { return self.snapshot(server).await };
        let restore = async || warm::restore(store, &self.mysql, &self.plan, &self.tables).await;
        let warm = self.retry("the local store is asked again", restore).await?;
        store.activate(&self.tables);
        let Some(warm) = warm else { return self.snapshot(server).await };
        let after = warm.from.gtids.clone();
        let mut assembler = self.assembler(server, warm.from);
        let mut missing = self.all_tables();
        for (table, schema) in warm.tables {
            missing.retain(|other| *other != table);
            assembler.resumed(table, schema, warm.until.clone());
        }
        if !missing.is_empty() {
            self.retry("the snapshot is begun again", async || {
                let mut views = self.views(&missing, after.as_deref()).await?;
                self.load(&mut views, &mut assembler).await?;
                views.close().await;
                Ok(())
            })
            .await?;
        }
        self.status.set_position(assembler.position());
        Ok(assembler)
    }

    fn all_tables(&self) -> Vec<TableId> {
        (0..self.plan.tables.len()).filter_map(|index| u16::try_from(index).ok().map(TableId)).collect()
    }

    fn assembler(&self, server: ServerInfo, from: Position) -> Assembler<JsonMaker> {
        Assembler::new(JsonMaker, &self.plan.tables, from, server.fold_case, self.plan.limits.transaction_bytes)
    }

    /// Reads all tables and makes the assembler that follows them.
    async fn snapshot(&self, server: ServerInfo) -> Result<Assembler<JsonMaker>, Stop> {
        let all = self.all_tables();
        self.retry("the snapshot is begun again", async || {
            let mut views = self.views(&all, None).await?;
            self.status.set_needed();
            let mut assembler = self.assembler(server, views.from.clone());
            self.load(&mut views, &mut assembler).await?;
            self.tables.set_at(&views.from.last_transaction(), assembler.position().clone());
            self.status.set_current(assembler.position());
            views.close().await;
            Ok(assembler)
        })
        .await
    }

    /// Reads tables again, as of now.
    async fn reload(&self, which: &[TableId], assembler: &mut Assembler<JsonMaker>) -> Result<(), Error> {
        for &table in which {
            // Joins hold from here on: the rows they would find may be of another table by now.
            self.tables.begin_snapshot(table, Arc::new(assembler.schema(table).clone()));
            info!(table = self.name(table), "reading table {} again", self.name(table));
        }
        let after = assembler.position().gtids.clone();
        let mut views = self.views(which, after.as_deref()).await?;
        self.load(&mut views, assembler).await?;
        views.close().await;
        Ok(())
    }

    async fn views(&self, which: &[TableId], after: Option<&GtidSet>) -> Result<Views, Error> {
        Views::open(&self.mysql, &self.plan.tables, which, after, self.mysql.snapshot_connections).await
    }

    /// Reads the tables of these views into memory.
    async fn load(&self, views: &mut Views, assembler: &mut Assembler<JsonMaker>) -> Result<(), Error> {
        for (table, described) in views.tables.clone() {
            let plan = &self.plan.tables[table.index()];
            let began = Instant::now();
            let info = match described {
                Ok(info) => info,
                Err(problems) => {
                    let reason = problems.first().map_or(Reason::SchemaMismatch, |problem| problem.reason);
                    let message: Vec<String> =
                        problems.into_iter().map(|problem| format!("{}; {}", problem.what, problem.remedy)).collect();
                    self.stop(assembler, table, reason, message.join("\n"));
                    continue;
                }
            };
            let known = assembler.schema(table);
            if !known.key.is_empty() && plan.key.is_none() && key_names(known) != key_names(&info.schema) {
                let message = format!("its primary key is now ({})", key_names(&info.schema).join(", "));
                self.stop(assembler, table, Reason::KeyChanged, message);
                continue;
            }
            let shape = match Shape::new(&info.schema, plan) {
                Ok(shape) => shape,
                Err(error) => {
                    self.stop(assembler, table, error.reason(), error.to_string());
                    continue;
                }
            };
            self.tables.begin_snapshot(table, Arc::clone(shape.row_schema()));
            self.tables.set_source(table, Arc::new(info.schema.clone()));
            if plan.cache.is_some() {
                // Its rows are read when joins ask for them.
                assembler.loaded(table, info.schema, views.until.clone());
                continue;
            }
            match load::load(views, table, plan, &info, &self.tables).await? {
                Loaded::Whole { rows, counts } => {
                    self.status.count_rows(counts);
                    info!(table = plan.name, rows, seconds = began.elapsed().as_secs_f64(), "read table {}: {rows} rows", plan.name);
                    assembler.loaded(table, info.schema, views.until.clone());
                }
                Loaded::Unreadable { reason, message } => self.stop(assembler, table, reason, message),
            }
        }
        Ok(())
    }

    /// Follows the binlog; returns when everything must be read again.
    async fn follow(&self, assembler: &mut Assembler<JsonMaker>) -> Result<(), Stop> {
        let mut backoff = backoff();
        let mut clashes = 0;
        let mut broken: Option<String> = None;
        loop {
            let began = Instant::now();
            let transactions = self.status.transactions();
            let ended = self.stream(assembler).await;
            self.status.set_disconnected();
            assembler.reconnected();
            if self.status.transactions() > transactions {
                broken = None;
            }
            let error = match ended {
                Ended::Rewound => continue,
                Ended::Again => return Ok(()),
                Ended::Broken(error) => {
                    // The same again after a reconnect is no accident of the line.
                    let (reason, text) = (reason_of(&error), error.to_string());
                    if broken.as_ref() == Some(&text) {
                        return Err(Stop::Operator {
                            reason,
                            message: format!("{text}; restart Larder to read the tables again from a snapshot"),
                        });
                    }
                    broken = Some(text.clone());
                    Error::Lost(text)
                }
                Ended::Lost(error) => error,
            };
            self.status.reconnecting();
            if began.elapsed() > QUICK {
                backoff = self::backoff();
                clashes = 0;
            }
            match error {
                Error::Damaged(text) => {
                    if broken.as_ref() == Some(&text) {
                        let message =
                            format!("{text}; restart Larder to read the tables again from a snapshot, and check the server's disk");
                        return Err(Stop::Operator { reason: Reason::Checksum, message });
                    }
                    warn!("the binlog stream is opened again: {text}");
                    broken = Some(text);
                }
                Error::ServerIdClash(text) => {
                    clashes += 1;
                    if clashes >= CLASHES {
                        let message = format!("another client uses mysql.server_id {}: {text}; give each its own", self.mysql.server_id);
                        return Err(Stop::Operator { reason: Reason::ServerIdClash, message });
                    }
                    warn!("the server ended the binlog stream: {text}");
                }
                Error::Lost(text) | Error::NoTable(text) => warn!("the binlog stream was lost, it is opened again: {text}"),
                refused @ Error::Refused(_) => return Err(self.refused(&refused)),
                Error::Purged(text) => {
                    let missing = identity::missing(&self.mysql, assembler.position()).await;
                    let missing = missing.unwrap_or_else(|error| format!("what was asked for ({error})"));
                    let at = assembler.position();
                    let message = format!(
                        "the server no longer has all that follows {at}: {missing} is missing ({text}); raise binlog_expire_logs_seconds so that it does not happen again"
                    );
                    return self.gone(Reason::Purged, message);
                }
                Error::Reset(text) => {
                    return self.gone(Reason::Reset, format!("the server cannot go on at {}: {text}", assembler.position()));
                }
            }
            tokio::time::sleep(backoff.next().unwrap_or(LONGEST_WAIT)).await;
            match self.identify(assembler).await? {
                Identity::Same => {}
                Identity::Unreachable(text) => warn!("MySQL is away: {text}"),
                Identity::Again => return Ok(()),
            }
        }
    }

    /// The server does not let us go on: a person must see to user, password or rights.
    fn refused(&self, error: &Error) -> Stop {
        let remedy = preconditions::unreachable_remedy(error);
        Stop::Precondition(format!("MySQL at {}:{}: {error}; {remedy}", self.mysql.host, self.mysql.port))
    }

    /// Whether the server behind the address can go on where we stopped (contract A2).
    async fn identify(&self, assembler: &mut Assembler<JsonMaker>) -> Result<Identity, Stop> {
        let asked = match identity::ask(&self.mysql, assembler.position()).await {
            Ok(asked) => asked,
            Err(refused @ Error::Refused(_)) => return Err(self.refused(&refused)),
            Err(error) => return Ok(Identity::Unreachable(error.to_string())),
        };
        self.status.set_log_expiry(asked.log_expiry);
        match asked.verdict {
            Verdict::Same => Ok(Identity::Same),
            Verdict::Anew(why) => {
                warn!("{why}");
                Ok(Identity::Again)
            }
            Verdict::Moved(server_uuid) => {
                warn!("the server behind {}:{} is now {server_uuid}, it has all our transactions", self.mysql.host, self.mysql.port);
                if !assembler.is_settled() {
                    // Where the view stands is said in files of the server that is gone.
                    return Ok(Identity::Again);
                }
                assembler.moved(&server_uuid);
                Ok(Identity::Same)
            }
            Verdict::Lacking { reason: Reason::Reset, message } => self.gone(Reason::Reset, message).map(|()| Identity::Again),
            Verdict::Lacking { reason, message } => {
                let message = format!("{message}; restart Larder to read the tables again from a snapshot of it");
                Err(Stop::Operator { reason, message })
            }
        }
    }

    /// What follows our position is no longer there: a person decides how to go on, or has decided by `on_purge`.
    fn gone(&self, reason: Reason, message: String) -> Result<(), Stop> {
        match self.mysql.on_purge {
            OnPurge::Resnapshot => {
                warn!(reason = reason.code(), "{message}; mysql.on_purge says to read the tables again");
                Ok(())
            }
            OnPurge::Exit => {
                let message = format!(
                    "{message}; restart Larder to read the tables again from a snapshot, or have it do so by mysql.on_purge = \"resnapshot\""
                );
                Err(Stop::Operator { reason, message })
            }
        }
    }

    /// Reads one connection's stream until it ends.
    async fn stream(&self, assembler: &mut Assembler<JsonMaker>) -> Ended {
        let mut binlog = match Binlog::open(&self.mysql, assembler.position()).await {
            Ok(binlog) => binlog,
            Err(error) => return Ended::Lost(error),
        };
        let mut shown = Instant::now();
        loop {
            // Steps may stand ready before the first event: a table read while nothing happened.
            while let Some(step) = assembler.next_step() {
                match self.act(step, assembler).await {
                    Ok(true) => {}
                    Ok(false) => return Ended::Rewound,
                    Err(error) => return Ended::Lost(error),
                }
            }
            // All steps are done: what is shown as reached is in the tables.
            if shown.elapsed() > SHOW_POSITION {
                shown = Instant::now();
                self.status.set_position(assembler.position());
                // A long backlog must not keep other tasks of this thread waiting.
                tokio::task::yield_now().await;
            }
            if self.status.resnapshots.are_waiting() {
                return self.resnapshot(assembler).await;
            }
            if self.tables.awaits_stream() {
                self.reached(assembler);
            }
            if shown.elapsed() > SHOW_POSITION {
                shown = Instant::now();
                self.status.set_position(assembler.position());
                self.tables.advance(assembler.position(), 0);
                // A long backlog must not keep other tasks of this thread waiting.
                tokio::task::yield_now().await;
            }
            let next = match binlog.poll_now() {
                Some(next) => next,
                None => {
                    self.reached(assembler);
                    // Nothing is left to read: whatever the server committed until now is here.
                    self.tables.advance(assembler.position(), now_us());
                    self.status.set_idle(assembler.position());
                    let next = tokio::select! {
                        next = binlog.next() => next,
                        () = self.status.resnapshots.arrived() => continue,
                    };
                    shown = Instant::now();
                    next
                }
            };
            let event = match next {
                Ok(event) => event,
                Err(error) => return Ended::Lost(error),
            };
            if self.status.set_connected() {
                info!(position = %assembler.position(), "following the binlog of {}:{}", self.mysql.host, self.mysql.port);
            }
            if let Err(error) = assembler.event(&event.raw()) {
                return Ended::Broken(error);
            }
            self.status.count(assembler.take_tally());
        }
    }

    /// Tells the bounded tables how far the stream is; every step before was done.
    fn reached(&self, assembler: &mut Assembler<JsonMaker>) {
        let Some(here) = assembler.reached() else { return };
        for (table, Unreadable { reason, message }) in self.tables.reached(here) {
            self.stop(assembler, table, reason, message);
        }
    }

    /// Does what the assembler asks for; false when the stream must be opened again.
    async fn act(&self, step: Step<Change>, assembler: &mut Assembler<JsonMaker>) -> Result<bool, Error> {
        match step {
            Step::Apply(transaction) => {
                let committed_us = transaction.committed_us;
                self.tables.apply(transaction);
                self.status.set_committed(committed_us);
            }
            Step::Part { .. } | Step::Columns(_) => unreachable!("only a maker of changes asks for it"),
            Step::Ready(table) => {
                self.tables.set_ready(table);
                info!(table = self.name(table), "table {} is ready", self.name(table));
            }
            Step::Stop { table, reason, message } => self.take_out(table, reason, message),
            Step::Reload(which) => self.reload_until_done(&which, assembler).await?,
            Step::Rewind(which) => {
                self.reload_until_done(&which, assembler).await?;
                return Ok(false);
            }
            Step::Check(table) => {
                if !self.has_columns_of(table, assembler.schema(table)).await? {
                    assembler.doubt(table);
                    self.reload_until_done(&[table], assembler).await?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reads tables again because somebody asked for it; the stream is opened again behind it, where it stood.
    async fn resnapshot(&self, assembler: &mut Assembler<JsonMaker>) -> Ended {
        let asked = self.status.resnapshots.take();
        // Without GTIDs nobody can say whether a view has all that the stream has brought.
        let ended = if assembler.position().gtids.is_none() {
            Ended::Again
        } else {
            self.reload_until_done(&asked, assembler).await.map_or_else(Ended::Lost, |()| Ended::Rewound)
        };
        match &ended {
            Ended::Lost(_) => self.status.resnapshots.put_back(&asked),
            _ => self.status.resnapshots.done(&asked),
        }
        ended
    }

    /// Whether the catalogue still shows these columns.
    async fn has_columns_of(&self, table: TableId, known: &Schema) -> Result<bool, Error> {
        let mut connection = connect::connect(&self.mysql).await?;
        let described = catalogue::table(&mut connection, &self.plan.tables[table.index()]).await?;
        let _ = connection.disconnect().await;
        Ok(described.is_ok_and(|info| info.schema == *known))
    }

    /// A table half read would stay so: it is tried until it is whole, while the server refuses nothing.
    async fn reload_until_done(&self, which: &[TableId], assembler: &mut Assembler<JsonMaker>) -> Result<(), Error> {
        let mut backoff = backoff();
        loop {
            match self.reload(which, assembler).await {
                Err(Error::Lost(text)) => {
                    warn!("reading tables again was interrupted: {text}");
                    tokio::time::sleep(backoff.next().unwrap_or(LONGEST_WAIT)).await;
                }
                done => return done,
            }
        }
    }

    fn stop(&self, assembler: &mut Assembler<JsonMaker>, table: TableId, reason: Reason, message: String) {
        assembler.stopped(table, reason);
        self.take_out(table, reason, message);
    }

    fn take_out(&self, table: TableId, reason: Reason, message: String) {
        let name = self.name(table);
        error!(table = name, reason = reason.code(), "table {name} is stopped ({reason}): {message}. {}", repair(reason));
        self.tables.stop(table, reason, message);
    }

    fn name(&self, table: TableId) -> &str {
        &self.plan.tables[table.index()].name
    }

    /// Repeats what fails for a time; what cannot succeed ends the process.
    async fn retry<T>(&self, meanwhile: &str, mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Stop> {
        let mut backoff = backoff();
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error @ Error::Refused(_)) => return Err(self.refused(&error)),
                Err(error) => {
                    self.status.set_awaited(&format!("{meanwhile}: {error}"));
                    warn!("{meanwhile}: {error}");
                    tokio::time::sleep(backoff.next().unwrap_or(LONGEST_WAIT)).await;
                }
            }
        }
    }
}

enum Identity {
    Same,
    Unreachable(String),
    /// Only a new snapshot goes on from here.
    Again,
}

const LONGEST_WAIT: Duration = Duration::from_secs(10);

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

fn reason_of(error: &Broken) -> Reason {
    match error {
        Broken::Damaged { .. } => Reason::Checksum,
        Broken::UnknownEvent { .. } => Reason::UnknownEvent,
        Broken::Incident { .. } => Reason::Incident,
    }
}

/// What an operator does about a stopped table.
fn repair(reason: Reason) -> &'static str {
    match reason {
        Reason::TableDropped => "It is read again as soon as it is there again",
        Reason::KeyChanged | Reason::SchemaMismatch => {
            "Alter the table so that they agree and it is read again, or correct the configuration and restart Larder"
        }
        Reason::StatementFormat | Reason::RowImage => {
            "Set binlog_format = ROW and binlog_row_image = FULL in every session, then restart Larder"
        }
        Reason::BadCharset => "Correct the text, or set invalid_text = \"replace\" for the table, then restart Larder",
        _ => "Correct the cause, then restart Larder",
    }
}

fn key_names(schema: &Schema) -> Vec<&str> {
    schema.key.iter().map(|&index| schema.columns[index].name.as_str()).collect()
}
