//! The session of one worker: a consumer and a transactional producer that live and die together.
//!
//! What always holds: outputs, dead letters and input offsets are in one transaction, with the group's metadata (promise W2);
//! after any error whose outcome is unknown the session is thrown away, and a new one first initialises its producer, which
//! ends whatever the old one left open, and only then reads committed offsets (promise W9).
//!
//! ```text
//! open ─► init_transactions ─► subscribe ─► poll ─► Event::Assigned ─► assign at committed offsets
//!                                            │ ▲
//!                                   begin … commit (or abort and drop the session)
//! ```

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::{info, warn};

use super::client::{Fault, Logged, Role, config, log_line};
use crate::config::plan::{KafkaPlan, Limits};
use crate::join::Start;

/// What one worker needs to know to open a session.
#[derive(Debug, Clone)]
pub struct Settings {
    pub kafka: KafkaPlan,
    pub limits: Limits,
    /// `<name>.<stream>` (contract E1).
    pub group: String,
    /// `<name>.<stream>.<instance>.<worker>`: transactional id and static member id.
    pub id: String,
    pub topic: String,
    pub start: Start,
}

/// What polling gives.
pub enum Polled<'a> {
    Record(BorrowedMessage<'a>),
    /// Nothing at the moment.
    Nothing,
    /// The group gave or takes partitions: commit, then call [`Session::rebalance`].
    Rebalance,
}

pub struct Session {
    consumer: BaseConsumer<Context>,
    producer: BaseProducer<Logged>,
    settings: Settings,
}

impl Session {
    /// Opens producer and consumer, in this order: fencing our predecessor comes before reading offsets.
    pub fn open(settings: Settings) -> Result<Self, Fault> {
        let Settings { kafka, limits, .. } = &settings;
        let role = Role::Producer { transactional_id: settings.id.clone() };
        let log = Logged::default();
        let producer: BaseProducer<Logged> =
            BaseProducer::from_config_and_context(&config(kafka, limits, &role), log.clone()).map_err(|e| Fault::of(&e))?;
        producer.init_transactions(limits.transaction_timeout).map_err(|error| {
            producer.poll(Duration::ZERO);
            match (Fault::of(&error), log.denied(), log.last()) {
                (_, Some(denied), _) => Fault::Denied(denied),
                (Fault::Retry(text), None, Some(last)) => Fault::Retry(format!("{text} ({last})")),
                (fault, ..) => fault,
            }
        })?;
        let role = Role::Consumer { group: settings.group.clone(), instance: settings.id.clone() };
        let consumer = BaseConsumer::from_config_and_context(&config(kafka, limits, &role), Context::default())
            .map_err(|e: KafkaError| Fault::of(&e))?;
        consumer.subscribe(&[&settings.topic]).map_err(|e| Fault::of(&e))?;
        Ok(Self { consumer, producer, settings })
    }

    pub fn poll(&self, timeout: Duration) -> Result<Polled<'_>, Fault> {
        if self.consumer.context().has_rebalance() {
            return Ok(Polled::Rebalance);
        }
        match self.consumer.poll(timeout) {
            Some(Ok(message)) => Ok(Polled::Record(message)),
            None if self.consumer.context().has_rebalance() => Ok(Polled::Rebalance),
            None => Ok(Polled::Nothing),
            Some(Err(error)) => match Fault::of(&error) {
                // librdkafka goes on by itself; who watches sees the lag grow.
                Fault::Retry(_) => Ok(Polled::Nothing),
                fault => Err(fault),
            },
        }
    }

    /// Carries out what the group decided; an open transaction was committed before. Partitions given begin at their committed
    /// offset, paused. Returns the partitions held afterwards, with the offset each began at where it was just given.
    pub fn rebalance(&self) -> Result<Vec<(i32, i64)>, Fault> {
        let mut begun = BTreeMap::new();
        while let Some(event) = self.consumer.context().next_rebalance() {
            match event {
                Rebalance::Assign(partitions) => begun.extend(self.assign(&partitions)?),
                Rebalance::Revoke(partitions) => {
                    self.release(&partitions).map_err(|e| Fault::of(&e))?;
                }
            }
        }
        let held = self.consumer.assignment().map_err(|e| Fault::of(&e))?;
        Ok(held.elements().iter().map(|e| (e.partition(), begun.get(&e.partition()).copied().unwrap_or(0))).collect())
    }

    /// The group took partitions although we had not let them go: what the open transaction holds of them must not be committed.
    pub fn assignment_lost(&self) -> bool {
        self.consumer.assignment_lost()
    }

    pub fn pause(&self) -> Result<(), Fault> {
        let held = self.consumer.assignment().map_err(|e| Fault::of(&e))?;
        self.consumer.pause(&held).map_err(|e| Fault::of(&e))
    }

    pub fn resume(&self) -> Result<(), Fault> {
        let held = self.consumer.assignment().map_err(|e| Fault::of(&e))?;
        self.consumer.resume(&held).map_err(|e| Fault::of(&e))
    }

    pub fn begin(&self) -> Result<(), Fault> {
        self.producer.begin_transaction().map_err(|e| Fault::of(&e))
    }

    /// Hands a record to the producer. Blocks while its queue is full, at most as long as a transaction may take.
    pub fn send(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp_ms: Option<i64>,
        headers: OwnedHeaders,
    ) -> Result<(), SendError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).headers(headers);
        record.key = key;
        record.payload = value;
        record.timestamp = timestamp_ms;
        let deadline = Instant::now() + self.settings.limits.transaction_timeout;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) if Instant::now() < deadline => {
                    record = again;
                    self.producer.poll(Duration::ZERO);
                    std::thread::sleep(BREATH);
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => return Err(SendError::TooLarge),
                Err((error, _)) => {
                    return Err(SendError::Fault(match Fault::of(&error) {
                        Fault::Retry(text) => Fault::NewSession(text),
                        fault => fault,
                    }));
                }
            }
        }
    }

    /// Commits the open transaction with the next offset of every input partition in it.
    ///
    /// An error means that the outcome is unknown or that nothing was committed; either way the session is over.
    pub fn commit(&self, next_offsets: &BTreeMap<i32, i64>) -> Result<(), Fault> {
        let deadline = Instant::now() + self.settings.limits.transaction_timeout;
        let mut offsets = TopicPartitionList::with_capacity(next_offsets.len());
        for (&partition, &next) in next_offsets {
            let mut element = offsets.add_partition(&self.settings.topic, partition);
            element.set_offset(Offset::Offset(next)).map_err(|e| Fault::of(&e))?;
            // Names the owner, so that whoever follows a dead one can end what it left open.
            element.set_metadata(&self.settings.id);
        }
        let group = self.consumer.group_metadata().ok_or_else(|| Fault::NewSession("the consumer has left its group".into()))?;
        self.until(deadline, || self.producer.send_offsets_to_transaction(&offsets, &group, remaining(deadline)))?;
        // The library's own flush sleeps 100 ms at a time; waiting here for the last acknowledgement makes it return at once.
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(Duration::ZERO);
            std::thread::sleep(BREATH);
        }
        let undelivered = self.producer.client().context().undelivered();
        if undelivered > 0 {
            return Err(Fault::NewSession(format!("{undelivered} records were not taken by the brokers")));
        }
        self.producer.commit_transaction(remaining(deadline)).map_err(|error| match Fault::of(&error) {
            Fault::Retry(text) => Fault::NewSession(format!("the outcome of a commit is unknown: {text}")),
            fault => fault,
        })
    }

    /// Gives up the open transaction, as well as it can be done; the session is over afterwards.
    pub fn abort(&self) {
        if let Err(error) = self.producer.abort_transaction(self.settings.limits.transaction_timeout) {
            info!(id = self.settings.id, "transaction left to the coordinator to abort: {error}");
        }
    }

    /// After the producer was fenced: does the group, too, say that another process has our id? Waits two heartbeats for it.
    /// If not, the coordinator timed out a transaction of a process that was stopped too long, and we may begin anew.
    pub fn replaced(&self) -> bool {
        let deadline = Instant::now() + self.settings.limits.session_timeout / 2;
        while Instant::now() < deadline {
            match self.consumer.poll(Duration::from_millis(50)) {
                Some(Err(error)) if matches!(Fault::of(&error), Fault::Fenced(_)) => return true,
                _ => self.consumer.context().rebalances.lock().clear(),
            }
        }
        self.consumer.client().fatal_error().is_some()
    }

    /// Leaves the group and closes both clients.
    pub fn close(self) {
        self.consumer.context().closing.store(true, Ordering::Release);
    }

    /// Retries what may be retried, as librdkafka says, until the deadline.
    fn until(&self, deadline: Instant, call: impl Fn() -> Result<(), KafkaError>) -> Result<(), Fault> {
        loop {
            match call() {
                Ok(()) => return Ok(()),
                Err(error) => match Fault::of(&error) {
                    Fault::Retry(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                    Fault::Retry(text) => return Err(Fault::NewSession(text)),
                    fault => return Err(fault),
                },
            }
        }
    }

    /// Takes partitions at their committed offsets; those without one begin where `start` says, but a partition that joined
    /// a topic we already read begins at its first record whatever `start` is (case K31).
    fn assign(&self, partitions: &[i32]) -> Result<Vec<(i32, i64)>, Fault> {
        let mut wanted = self.list(partitions);
        let mut begun = Vec::with_capacity(partitions.len());
        let committed = self.committed(&wanted)?;
        let known = committed.elements().iter().any(|e| matches!(e.offset(), Offset::Offset(_))) || self.group_has_offsets(partitions);
        for element in committed.elements() {
            let offset = match element.offset() {
                Offset::Offset(next) => Offset::Offset(next),
                _ if self.settings.start == Start::Latest && !known => {
                    let (_, end) = self
                        .consumer
                        .fetch_watermarks(&self.settings.topic, element.partition(), self.settings.limits.session_timeout)
                        .map_err(|e| Fault::of(&e))?;
                    Offset::Offset(end)
                }
                _ => Offset::Beginning,
            };
            begun.push((element.partition(), if let Offset::Offset(next) = offset { next } else { 0 }));
            wanted.set_partition_offset(element.topic(), element.partition(), offset).map_err(|e| Fault::of(&e))?;
        }
        match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&wanted),
            _ => self.consumer.assign(&wanted),
        }
        .and_then(|()| self.consumer.pause(&wanted))
        .map_err(|e| Fault::of(&e))?;
        Ok(begun)
    }

    fn release(&self, partitions: &[i32]) -> Result<(), KafkaError> {
        match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_unassign(&self.list(partitions)),
            _ => self.consumer.unassign(),
        }
    }

    /// Committed offsets, never those of a transaction that is still open: a dead owner's is ended first, a living one's is
    /// waited for.
    fn committed(&self, partitions: &TopicPartitionList) -> Result<TopicPartitionList, Fault> {
        self.end_dead_owners(partitions)?;
        let deadline = Instant::now() + self.settings.limits.transaction_timeout * 3;
        loop {
            match self.consumer.committed_offsets(partitions.clone(), self.settings.limits.session_timeout) {
                Ok(committed) => return Ok(committed),
                Err(error) => match Fault::of(&error) {
                    Fault::Retry(_) if Instant::now() < deadline => {}
                    Fault::Retry(text) => return Err(Fault::NewSession(text)),
                    fault => return Err(fault),
                },
            }
        }
    }

    /// A killed instance leaves its transaction open until the coordinator times it out, which blocks readers of the outputs.
    /// Every commit names its owner; an owner that is no longer a member of the group is dead, and initialising its
    /// transactional id aborts what it left.
    fn end_dead_owners(&self, partitions: &TopicPartitionList) -> Result<(), Fault> {
        let Settings { kafka, limits, group, id, .. } = &self.settings;
        let reader: BaseConsumer =
            config(kafka, limits, &Role::OffsetReader { group: group.clone() }).create().map_err(|e| Fault::of(&e))?;
        let Ok(committed) = reader.committed_offsets(partitions.clone(), limits.session_timeout) else { return Ok(()) };
        let mut owners: Vec<String> = committed.elements().iter().map(|e| e.metadata().to_string()).collect();
        owners.sort();
        owners.dedup();
        owners.retain(|owner| !owner.is_empty() && owner != id && owner.starts_with(group.as_str()));
        if owners.is_empty() {
            return Ok(());
        }
        let Ok(groups) = self.consumer.fetch_group_list(Some(group), limits.session_timeout) else { return Ok(()) };
        let members: Vec<&str> = groups.groups().iter().flat_map(|g| g.members()).map(|m| m.id()).collect();
        for owner in owners {
            // A static member's id is its instance id, a dash and a UUID.
            let alive =
                members.iter().any(|m| m.strip_prefix(owner.as_str()).is_some_and(|rest| rest.starts_with('-') && rest.len() == 37));
            if alive {
                continue;
            }
            let role = Role::Producer { transactional_id: owner.clone() };
            let fencer: Result<BaseProducer<Logged>, _> =
                BaseProducer::from_config_and_context(&config(kafka, limits, &role), Logged::default());
            match fencer.and_then(|producer| producer.init_transactions(limits.transaction_timeout)) {
                Ok(()) => info!(owner, "worker {owner} is gone, what it left open is aborted"),
                Err(error) => warn!(owner, "transactions of {owner} could not be ended, the coordinator will in time: {error}"),
            }
        }
        Ok(())
    }

    /// Does the group hold an offset for any partition of the topic, ours or not?
    fn group_has_offsets(&self, ours: &[i32]) -> bool {
        if self.settings.start == Start::Earliest {
            return false;
        }
        let Ok(metadata) = self.consumer.fetch_metadata(Some(&self.settings.topic), self.settings.limits.session_timeout) else {
            return false;
        };
        let others: Vec<i32> =
            metadata.topics().iter().flat_map(|t| t.partitions()).map(|p| p.id()).filter(|p| !ours.contains(p)).collect();
        self.consumer
            .committed_offsets(self.list(&others), self.settings.limits.session_timeout)
            .is_ok_and(|committed| committed.elements().iter().any(|e| matches!(e.offset(), Offset::Offset(_))))
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(&self.settings.topic, partition);
        }
        list
    }
}

/// How long to sleep between looks at the producer's queue.
const BREATH: Duration = Duration::from_micros(100);

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// Why a record was not taken.
#[derive(Debug)]
pub enum SendError {
    /// Larger than any record may be.
    TooLarge,
    Fault(Fault),
}

/// What the group decided, kept until the worker has committed.
#[derive(Debug)]
enum Rebalance {
    Assign(Vec<i32>),
    Revoke(Vec<i32>),
}

/// Keeps rebalances for the worker instead of carrying them out inside `poll`, so that the open transaction is committed
/// first, by ordinary code.
#[derive(Default)]
struct Context {
    rebalances: Arc<Mutex<VecDeque<Rebalance>>>,
    closing: AtomicBool,
}

impl Context {
    fn has_rebalance(&self) -> bool {
        !self.rebalances.lock().is_empty()
    }

    fn next_rebalance(&self) -> Option<Rebalance> {
        self.rebalances.lock().pop_front()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("librdkafka: {error}: {reason}");
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let ids = partitions.elements().iter().map(|e| e.partition()).collect();
        if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS && !self.closing.load(Ordering::Acquire) {
            self.rebalances.lock().push_back(Rebalance::Assign(ids));
        } else if self.closing.load(Ordering::Acquire) {
            // Nobody is left to do it later.
            if let Err(error) = consumer.unassign() {
                info!("partitions could not be given back: {error}");
            }
        } else {
            self.rebalances.lock().push_back(Rebalance::Revoke(ids));
        }
    }
}
