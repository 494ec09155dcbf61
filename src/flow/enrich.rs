//! Enrichment of one stream: a named blocking thread per worker, each with its own session (consumer + transactional producer).
//!
//! ```text
//! prepare topics ─► open session ─► gate ─► poll ─► join under a view ─► send ─► commit when drained, or at the limits
//!       ▲                 ▲           │ partitions stay assigned but paused while a table is not ready (promise W7)
//!       │                 └── any error whose outcome is unknown: new session (promise W9)
//! ```
//!
//! Records whose rows are in bounded tables and not in memory are held in order. Meanwhile the worker polls ahead and asks for the
//! rows of the records behind them too, so that one SELECT reads the rows of many. When MySQL does not answer, the partitions wait.
//!
//! What always holds: a record's outputs, dead letters and offset are in one transaction; nothing is sent while the tables are
//! locked; what is counted was committed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::message::{BorrowedMessage, Message};
use tracing::{error, info, warn};

use super::backoff::Backoff;
use super::batch::{self, Batch};
use super::outputs::Outputs;
use super::status::StreamStatus;
use crate::config::plan::{KafkaPlan, Limits};
use crate::join::{Enricher, Input, StreamPlan, Verdict};
use crate::kafka::client::batches_within;
use crate::kafka::client::{Fault, RECORD_OVERHEAD};
use crate::kafka::producer::{Outgoing, SendError};
use crate::kafka::record::{self, Death};
use crate::kafka::session::{Polled, Session, Settings};
use crate::kafka::topics::Topics;
use crate::model::{Reason, Stop, TableId};
use crate::table::{Pins, State, Tables};

/// One stream and all it needs to run.
#[derive(Clone)]
pub struct Stream {
    /// Configuration name of the daemon: consumer groups and transactional ids begin with it.
    pub name: String,
    pub instance: String,
    pub plan: Arc<StreamPlan>,
    pub kafka: KafkaPlan,
    pub limits: Limits,
    pub tables: Arc<Tables>,
    pub status: Arc<StreamStatus>,
    /// Raised once: commit what is open, leave the group, return.
    pub stop: Arc<AtomicBool>,
}

/// The largest batch of records each topic takes (`max.message.bytes`), and so the largest record with all that is around it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub output: usize,
    pub dead_letters: usize,
}

impl Stream {
    /// Runs the stream until `stop` is raised or the process must end. Blocks.
    pub fn run(&self) -> Result<(), Stop> {
        let Some(bounds) = self.prepare()? else { return Ok(()) };
        std::thread::scope(|scope| {
            let mut workers = Vec::with_capacity(self.plan.workers);
            for number in 0..self.plan.workers {
                let thread = std::thread::Builder::new().name(format!("{} {number}", self.plan.name));
                let worker = thread.spawn_scoped(scope, move || self.run_worker(number, bounds));
                workers.push(worker.map_err(|e| Stop::Bug(format!("no thread for stream {}: {e}", self.plan.name)))?);
            }
            let mut first = Ok(());
            for worker in workers {
                let ended = worker.join().expect("run_worker catches panics");
                if first.is_ok() {
                    first = ended;
                }
            }
            first
        })
    }

    /// One worker: session after session until `stop` is raised. `demo` calls it with a mock cluster.
    pub fn run_worker(&self, number: usize, bounds: Bounds) -> Result<(), Stop> {
        let run = || Worker::new(self, number, bounds).run();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err(Stop::Bug(format!("a worker of stream {} panicked", self.plan.name))));
        if result.is_err() {
            // The other workers of the stream must not go on alone.
            self.stop.store(true, Ordering::Release);
        }
        result
    }

    /// Name of the topic that takes dead letters.
    pub fn dead_letter_topic(&self) -> String {
        format!("{}.dead-letters", self.name)
    }

    /// Waits for Kafka and the input topic, creates output and dead-letter topics. `None`: stopped meanwhile.
    fn prepare(&self) -> Result<Option<Bounds>, Stop> {
        let mut pause = Backoff::default();
        while !self.stop.load(Ordering::Acquire) {
            match self.try_prepare() {
                Ok(bounds) => return Ok(Some(bounds)),
                Err(Fault::Denied(text)) => return Err(self.denied(&text)),
                Err(fault) => {
                    let (Fault::Retry(text) | Fault::NewSession(text) | Fault::Fenced(text)) = fault else {
                        return Err(Stop::Bug("a question about topics lost an offset".into()));
                    };
                    if pause.is_first() {
                        warn!(stream = self.plan.name, "stream {} waits: {text}", self.plan.name);
                    }
                    self.status.set_awaited(Some(&text));
                    pause.sleep(&self.stop);
                }
            }
        }
        Ok(None)
    }

    fn try_prepare(&self) -> Result<Bounds, Fault> {
        let topics = Topics::new(&self.kafka, &self.limits)?;
        let input = topics
            .find(&self.plan.from)?
            .ok_or_else(|| Fault::Retry(format!("topic {} does not exist; it is read as soon as someone creates it", self.plan.from)))?;
        let room = (self.limits.message_bytes + RECORD_OVERHEAD).to_string();
        let dead_letters = self.dead_letter_topic();
        for (topic, partitions) in [(self.plan.topic.as_str(), input.partitions), (dead_letters.as_str(), 1)] {
            if topics.find(topic)?.is_none() {
                topics.create(topic, partitions, &[("max.message.bytes", room.as_str())])?;
            }
        }
        let bound = |topic: &str| topics.max_message_bytes(topic).unwrap_or(self.limits.message_bytes);
        Ok(Bounds { output: bound(&self.plan.topic), dead_letters: bound(&dead_letters) })
    }

    fn denied(&self, text: &str) -> Stop {
        Stop::Precondition(format!(
            "stream {}: Kafka refuses: {text}; check [kafka.client] and the rights of its user (README, \"Rights\")",
            self.plan.name
        ))
    }
}

/// How a session ended without a fault.
enum End {
    Stopped,
    /// The stream cannot go on, the daemon does (promise W5).
    Halted,
}

struct Worker<'a> {
    stream: &'a Stream,
    bounds: Bounds,
    id: String,
    dead_letters: String,
    enricher: Enricher,
    outputs: Outputs,
    batch: Batch,
    origin: String,
    partitions: Vec<i32>,
    joined: bool,
    /// Set by a commit: the next fault begins a new series of waits.
    healthy: bool,
    /// Joins with a bounded table: rows may have to be read first.
    reads_through: bool,
    /// Since when the record that is next waits for a row, and of which table.
    awaited_row: Option<(Instant, TableId)>,
}

/// Records polled and not joined yet, in order.
#[derive(Default)]
struct Held<'s> {
    records: VecDeque<HeldRecord<'s>>,
    bytes: usize,
}

struct HeldRecord<'s> {
    message: BorrowedMessage<'s>,
    /// Rows of bounded tables that it needs.
    pins: Option<Pins>,
    /// It was the next record already when its rows were not in memory: they are read before those of others.
    urged: bool,
}

impl<'a> Worker<'a> {
    fn new(stream: &'a Stream, number: usize, bounds: Bounds) -> Self {
        Self {
            stream,
            bounds,
            id: format!("{}.{}.{}.{number}", stream.name, stream.plan.name, stream.instance),
            dead_letters: stream.dead_letter_topic(),
            enricher: Enricher::new(Arc::clone(&stream.plan)),
            outputs: Outputs::within(stream.limits.queue_bytes),
            batch: Batch::default(),
            origin: String::new(),
            partitions: Vec::new(),
            joined: false,
            healthy: false,
            reads_through: stream.plan.joins.iter().any(|join| stream.tables.view().is_bounded(join.table)),
            awaited_row: None,
        }
    }

    fn run(&mut self) -> Result<(), Stop> {
        let mut pause = Backoff::default();
        while !self.is_stopping() {
            let ended = self.run_session();
            if matches!(ended, Err(Fault::OffsetLost)) {
                self.halt_lost_offsets();
            }
            self.stream.status.set_partitions(&std::mem::take(&mut self.partitions), &[]);
            if std::mem::take(&mut self.healthy) {
                pause = Backoff::default();
            }
            match ended {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Halted) => {
                    self.wait_for_stop();
                    return Ok(());
                }
                Err(Fault::Denied(text)) => return Err(self.stream.denied(&text)),
                Err(Fault::Fenced(text)) => {
                    return Err(Stop::Fenced(format!(
                        "{} is in use by another process ({text}); give each instance its own `instance`, or stop the other one",
                        self.id
                    )));
                }
                Err(Fault::OffsetLost) => {
                    self.wait_for_stop();
                    return Ok(());
                }
                Err(Fault::Retry(text) | Fault::NewSession(text)) => {
                    warn!(stream = self.stream.plan.name, id = self.id, "worker {} starts over from its last commit: {text}", self.id);
                    self.stream.status.set_awaited(Some(&text));
                    pause.sleep(&self.stream.stop);
                }
            }
        }
        Ok(())
    }

    fn run_session(&mut self) -> Result<End, Fault> {
        let Stream { name, plan, kafka, limits, .. } = self.stream;
        let session = Session::open(Settings {
            kafka: batches_within(kafka, self.bounds.output.min(self.bounds.dead_letters)),
            limits: limits.clone(),
            group: format!("{name}.{}", plan.name),
            id: self.id.clone(),
            topic: plan.from.clone(),
            start: plan.start,
        })?;
        let result = self.flow(&session).map_err(|fault| self.judge(&session, fault));
        self.batch.take();
        self.enricher.take_lookups();
        session.close();
        result
    }

    /// What a fault means once the group was asked whether another process has our id. If so we must not come back, whatever the
    /// fault was; if not, a fenced producer is no reason to end.
    fn judge(&self, session: &Session, fault: Fault) -> Fault {
        match fault {
            Fault::Fenced(text) if !session.replaced() => Fault::NewSession(text),
            Fault::NewSession(text) | Fault::Retry(text) if session.replaced() => Fault::Fenced(text),
            fault => {
                if self.batch.is_open() && !matches!(fault, Fault::Fenced(_)) {
                    session.producer().abort();
                }
                fault
            }
        }
    }

    /// The loop: what can wake it is a record, a rebalance, silence, the gate or the end.
    fn flow(&mut self, session: &Session) -> Result<End, Fault> {
        let mut flowing = false;
        let mut held = Held::default();
        loop {
            if self.is_stopping() {
                self.commit(session)?;
                return Ok(End::Stopped);
            }
            self.await_row(&held);
            let open = self.gate();
            if open != flowing {
                self.commit(session)?;
                if open {
                    session.resume()?;
                } else {
                    session.pause()?;
                }
                flowing = open;
            }
            while flowing && let Some(record) = held.ready() {
                match self.process(session, &record.message)? {
                    Verdict::Done => {
                        held.pop();
                        self.commit_if_due(session)?;
                    }
                    Verdict::NeedRows => self.pin(record),
                    Verdict::Hold => break,
                    Verdict::Stop(text) => return self.halt(session, &record.message, &text),
                }
            }
            let polled = if flowing && held.is_full(self.stream.limits.commit_bytes) {
                // When there is no room for long, the gate is shut, and polling goes on.
                std::thread::sleep(DRAINED);
                Polled::Nothing
            } else {
                session.poll(self.patience(flowing, !held.is_empty()))?
            };
            match polled {
                Polled::Record(message) if flowing && held.is_empty() => match self.process(session, &message)? {
                    Verdict::Done => {}
                    Verdict::Hold => held.push(message, None),
                    Verdict::NeedRows => {
                        held.push(message, None);
                        held.records.iter_mut().for_each(|record| self.pin(record));
                    }
                    Verdict::Stop(text) => return self.halt(session, &message, &text),
                },
                Polled::Record(message) => {
                    let pins = if flowing { self.look_ahead(&message) } else { None };
                    held.push(message, pins);
                }
                Polled::Rebalance => {
                    if session.assignment_lost() {
                        // Answering would make the library join again, under the id that another process may have by now.
                        return Err(Fault::NewSession("thrown out of the group, its partitions are another's".into()));
                    }
                    self.commit(session)?;
                    self.rebalance(session)?;
                    held.retain(&self.partitions);
                    flowing = self.gate();
                    if flowing {
                        session.resume()?;
                    } else {
                        session.pause()?;
                    }
                }
                // While records wait for rows the input is not drained.
                Polled::Nothing if flowing && !held.is_empty() => {}
                Polled::Nothing => self.commit(session)?,
            }
            self.commit_if_due(session)?;
        }
    }

    /// May records be joined? Says what is awaited if not.
    fn gate(&self) -> bool {
        let Stream { plan, tables, status, .. } = self.stream;
        let view = tables.view();
        let awaited = if !self.joined {
            Some("to join its consumer group".to_string())
        } else {
            plan.joins.iter().find(|join| !view.is_ready(join.table)).map(|join| match view.state(join.table) {
                State::Stopped { reason, .. } => format!("table of join {} is stopped: {reason}", join.name),
                _ => format!("table of join {} is being read", join.name),
            })
        };
        let awaited = awaited.or_else(|| match self.awaited_row {
            Some((since, table)) if since.elapsed() > PATIENCE_FOR_ROWS => {
                let join = plan.joins.iter().find(|join| join.table == table);
                Some(format!("a row of the table of join {} from MySQL", join.map_or("", |join| &join.name)))
            }
            _ => None,
        });
        status.set_awaited(awaited.as_deref());
        awaited.is_none() && !status.is_paused()
    }

    /// How long a poll may wait: briefly while a transaction is open, because silence commits it.
    fn patience(&self, flowing: bool, holding: bool) -> Duration {
        match (self.batch.is_open() || holding && flowing, flowing) {
            (true, _) => DRAINED,
            (false, true) => IDLE,
            (false, false) => HELD,
        }
    }

    /// Notes whether the next record waits for a row of a bounded table.
    fn await_row(&mut self, held: &Held<'_>) {
        let table = held.records.front().and_then(|record| record.pins.as_ref()?.unknown());
        self.awaited_row = table.map(|table| (self.awaited_row.map_or_else(Instant::now, |(since, _)| since), table));
    }

    /// Asks for the rows that the record just processed does not find in memory.
    fn pin(&mut self, record: &mut HeldRecord<'_>) {
        let wanted = self.enricher.take_wanted();
        match &mut record.pins {
            Some(pins) => pins.add(wanted),
            None => record.pins = Some(self.stream.tables.pin(wanted)),
        }
        record.urged = false;
    }

    /// Asks for the rows that a later record will not find in memory.
    fn look_ahead(&mut self, message: &BorrowedMessage<'_>) -> Option<Pins> {
        if !self.reads_through {
            return None;
        }
        self.enricher.look_ahead(&self.input(message), &self.stream.tables.view());
        let wanted = self.enricher.take_wanted();
        (!wanted.is_empty()).then(|| self.stream.tables.pin(wanted))
    }

    fn process(&mut self, session: &Session, message: &BorrowedMessage<'_>) -> Result<Verdict, Fault> {
        self.outputs.clear();
        let input = self.input(message);
        let timestamp_ms = input.timestamp_ms;
        let at = {
            let view = self.stream.tables.view();
            match self.enricher.process(&input, &view, &mut self.outputs) {
                Verdict::Done => {}
                verdict => return Ok(verdict),
            }
            if self.stream.plan.joins.is_empty() { Arc::from("") } else { Arc::clone(view.at()) }
        };
        if self.outputs.overflowed() {
            let limit = self.stream.limits.queue_bytes;
            self.outputs.replace_by_dead_letter(
                "shape",
                TOO_LARGE,
                format!("its outputs have more than {limit} bytes (limits.queue_bytes)"),
            );
        }
        if !self.batch.is_open() {
            session.producer().begin()?;
            self.batch.open(Instant::now());
        }
        self.send(session, message, &at)?;
        self.batch.add(message.partition(), message.offset(), timestamp_ms, self.outputs.size());
        Ok(Verdict::Done)
    }

    fn input<'m>(&self, message: &'m BorrowedMessage<'_>) -> Input<'m>
    where
        'a: 'm,
    {
        Input {
            topic: &self.stream.plan.from,
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key(),
            value: message.payload(),
        }
    }

    /// Hands outputs and dead letters of one record to the producer.
    fn send(&mut self, session: &Session, message: &BorrowedMessage<'_>, at: &str) -> Result<(), Fault> {
        let topic = &self.stream.plan.topic;
        let timestamp_ms = message.timestamp().to_millis();
        let carried = record::header_bytes(message.headers());
        for written in &self.outputs.written {
            let (key, value) = (self.outputs.key(written), self.outputs.value(written));
            record::write_origin(&mut self.origin, &self.stream.plan.from, message.partition(), message.offset(), written.element);
            let content = value.len() + key.map_or(0, <[u8]>::len);
            let configured = self.outputs.headers(written);
            let around = carried + record::added_bytes(&configured, &self.origin, at);
            let sent = if content <= self.stream.limits.message_bytes && content + around <= self.bounds.output {
                let headers = record::output_headers(message, &configured, &self.origin, at);
                session.producer().send(Outgoing { topic, partition: None, key, value: Some(value), timestamp_ms }, headers)
            } else {
                Err(SendError::TooLarge)
            };
            match sent {
                Ok(()) => self.batch.counts.outputs += 1,
                Err(SendError::TooLarge) => {
                    let text = format!(
                        "the output has {content} bytes and {around} around them; topic {topic} takes {}, limits.message_bytes is {}",
                        self.bounds.output, self.stream.limits.message_bytes
                    );
                    let death =
                        Death { stream: &self.stream.plan.name, stage: "shape", reason: TOO_LARGE, message: &text, origin: &self.origin };
                    bury(session, &self.dead_letters, self.bounds.dead_letters, message, &death)?;
                    batch::count(&mut self.batch.counts.dead_letters, TOO_LARGE);
                }
                Err(SendError::Fault(fault)) => return Err(fault),
            }
        }
        for dead in &self.outputs.dead {
            record::write_origin(&mut self.origin, &self.stream.plan.from, message.partition(), message.offset(), dead.element);
            let death = Death {
                stream: &self.stream.plan.name,
                stage: dead.stage,
                reason: dead.reason,
                message: &dead.message,
                origin: &self.origin,
            };
            bury(session, &self.dead_letters, self.bounds.dead_letters, message, &death)?;
            batch::count(&mut self.batch.counts.dead_letters, dead.reason);
        }
        for reason in &self.outputs.dropped {
            batch::count(&mut self.batch.counts.dropped, reason);
        }
        Ok(())
    }

    fn commit_if_due(&mut self, session: &Session) -> Result<(), Fault> {
        if self.batch.is_due(Instant::now(), self.stream.limits.commit_bytes, self.stream.limits.commit_interval) {
            self.commit(session)?;
        }
        Ok(())
    }

    fn commit(&mut self, session: &Session) -> Result<(), Fault> {
        if !self.batch.is_open() {
            return Ok(());
        }
        let began = Instant::now();
        session.commit(self.batch.next_offsets())?;
        self.healthy = true;
        let status = &self.stream.status;
        status.commit_seconds.observe(began.elapsed().as_secs_f64());
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        for timestamp_ms in &self.batch.timestamps_ms {
            status.latency_seconds.observe((now_ms - timestamp_ms).max(0) as f64 / 1000.0);
        }
        status.add_lookups(&self.enricher.take_lookups());
        let next_offsets = self.batch.next_offsets().clone();
        status.committed(&self.batch.take(), &next_offsets);
        Ok(())
    }

    fn rebalance(&mut self, session: &Session) -> Result<(), Fault> {
        let held = session.rebalance()?;
        let lost: Vec<i32> = self.partitions.iter().copied().filter(|p| !held.iter().any(|(h, _)| h == p)).collect();
        self.stream.status.set_partitions(&lost, &held);
        self.partitions = held.iter().map(|(partition, _)| *partition).collect();
        info!(stream = self.stream.plan.name, id = self.id, partitions = ?self.partitions, "worker {} holds {} partitions of {}", self.id, self.partitions.len(), self.stream.plan.from);
        if !self.joined {
            self.joined = true;
            self.stream.status.worker_joined();
        }
        Ok(())
    }

    /// `bad = "stop"`: the record stays where it is, everything before it is committed.
    fn halt(&mut self, session: &Session, message: &BorrowedMessage<'_>, text: &str) -> Result<End, Fault> {
        self.commit(session)?;
        let place = format!("{}/{}/{}", self.stream.plan.from, message.partition(), message.offset());
        error!(
            stream = self.stream.plan.name,
            origin = place,
            "stream {} stopped at a bad record, {place}: {text}; mend or skip it (commit a later offset for group {}.{}), or set bad = \"dead-letter\", then start again",
            self.stream.plan.name,
            self.stream.name,
            self.stream.plan.name
        );
        self.stream.status.stop(Reason::BadRecord, &format!("{place}: {text}"));
        Ok(End::Halted)
    }

    /// The committed offset is no longer in the log (contract E17).
    fn halt_lost_offsets(&self) {
        let topics = Topics::new(&self.stream.kafka, &self.stream.limits);
        let mut gaps = Vec::new();
        for (partition, next) in self.stream.status.positions() {
            let log = topics.as_ref().ok().and_then(|t| t.watermarks(&self.stream.plan.from, partition).ok());
            if let Some((first, end)) = log
                && (next < first || next > end)
            {
                let gap = if next < first { first - next } else { next - end };
                gaps.push(format!("partition {partition}: committed {next}, the log holds {first} to {end}, {gap} records apart"));
            }
        }
        let text = if gaps.is_empty() { "the committed offset is not in the log".to_string() } else { gaps.join("; ") };
        error!(
            stream = self.stream.plan.name,
            "stream {0} stopped, records were deleted before they were read: {text}; set the offsets of group {1}.{0} where it shall go on, and start again",
            self.stream.plan.name,
            self.stream.name
        );
        self.stream.status.stop(Reason::OffsetsLost, &text);
    }

    fn is_stopping(&self) -> bool {
        self.stream.stop.load(Ordering::Acquire)
    }

    fn wait_for_stop(&self) {
        while !self.is_stopping() {
            std::thread::sleep(HELD);
        }
    }
}

const TOO_LARGE: &str = "too-large";
/// Silence that counts as a drained input.
const DRAINED: Duration = Duration::from_millis(1);
const IDLE: Duration = Duration::from_millis(100);
/// While nothing may flow, the gate is looked at this often.
const HELD: Duration = Duration::from_millis(10);
/// A row that MySQL has not given after so long shuts the gate; to pause and go on again costs a second.
const PATIENCE_FOR_ROWS: Duration = Duration::from_secs(2);
/// Records held while rows of bounded tables are read; more in one SELECT make it no cheaper per row.
const LOOK_AHEAD: usize = 256;

impl<'s> Held<'s> {
    fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The next record, if the rows it waits for are in memory; they are urgent otherwise.
    fn ready(&mut self) -> Option<&mut HeldRecord<'s>> {
        let record = self.records.front_mut()?;
        if let Some(pins) = &record.pins
            && !pins.are_known()
        {
            if !std::mem::replace(&mut record.urged, true) {
                // What others look ahead for must not take the room that this record waits for.
                pins.urge();
            }
            return None;
        }
        Some(record)
    }

    fn is_full(&self, most_bytes: usize) -> bool {
        self.records.len() >= LOOK_AHEAD || self.bytes >= most_bytes
    }

    fn push(&mut self, message: BorrowedMessage<'s>, pins: Option<Pins>) {
        self.bytes += message.payload_len();
        self.records.push_back(HeldRecord { message, pins, urged: false });
    }

    fn pop(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.message.payload_len();
        }
    }

    /// Forgets the records of partitions that are no longer ours.
    fn retain(&mut self, partitions: &[i32]) {
        self.records.retain(|record| partitions.contains(&record.message.partition()));
        self.bytes = self.records.iter().map(|record| record.message.payload_len()).sum();
    }
}

/// Writes a dead letter: key and bytes unchanged, or a reference where they cannot be carried.
fn bury(session: &Session, topic: &str, bound: usize, message: &BorrowedMessage<'_>, death: &Death<'_>) -> Result<(), Fault> {
    let value = message.payload();
    let timestamp_ms = message.timestamp().to_millis();
    let headers = record::dead_letter_headers(message, death);
    let outgoing = Outgoing { topic, partition: None, key: message.key(), value, timestamp_ms };
    let size = value.map_or(0, <[u8]>::len) + message.key().map_or(0, <[u8]>::len) + record::header_bytes(Some(&headers));
    if death.reason != TOO_LARGE && size <= bound {
        match session.producer().send(outgoing, headers) {
            Ok(()) => return Ok(()),
            Err(SendError::Fault(fault)) => return Err(fault),
            Err(SendError::TooLarge) => {}
        }
    }
    let reference = record::reference(death.origin, value.unwrap_or_default());
    match session.producer().send(Outgoing { value: Some(&reference), ..outgoing }, record::dead_letter_headers(message, death)) {
        Ok(()) => Ok(()),
        Err(SendError::Fault(fault)) => Err(fault),
        Err(SendError::TooLarge) => Err(Fault::NewSession(format!("not even the reference to {} fits into {topic}", death.origin))),
    }
}
