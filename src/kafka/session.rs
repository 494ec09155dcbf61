//! The session of one worker: a consumer and a transactional producer that live and die together.
//!
//! What always holds: outputs, dead letters and input offsets are in one transaction, with the group's metadata (promise W2);
//! after any error whose outcome is unknown the session is thrown away, and a new one first initialises its producer, which
//! ends whatever the old one left open, and only then reads committed offsets (promise W9); whoever reads a partition has
//! claimed it before, in the committed offsets, with its transactional id.
//!
//! ```text
//! open ─► init_transactions ─► poll ─► Polled::Rebalance ─► rebalance: end dead owners, read committed offsets, claim, assign
//!                               │ ▲
//!                      begin … commit (or abort and drop the session)
//! ```

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::groups::GroupInfo;
use rdkafka::message::BorrowedMessage;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::{info, warn};

use super::client::{Fault, Role, config, log_line};
use super::producer::Producer;
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
    producer: Producer,
    settings: Settings,
    /// Our member id in the group, once known: `<static member id>-<UUID>`. Whoever takes our static id gets another.
    member_id: Mutex<Option<String>>,
    /// Static ids of the other members, as last seen: those that are gone next time left their transactions behind.
    others: Mutex<BTreeSet<String>>,
    /// Partitions that we paused: the library keeps that over a rebalance.
    paused: Mutex<BTreeSet<i32>>,
}

impl Session {
    /// Opens consumer and producer. The consumer joins its group while the producer fences our predecessor, but reads no offset:
    /// partitions are taken in [`Session::rebalance`] only.
    pub fn open(settings: Settings) -> Result<Self, Fault> {
        let Settings { kafka, limits, .. } = &settings;
        let role = Role::Consumer { group: settings.group.clone(), instance: settings.id.clone() };
        let consumer = BaseConsumer::from_config_and_context(&config(kafka, limits, &role), Context::default())
            .map_err(|e: KafkaError| Fault::of(&e))?;
        consumer.subscribe(&[&settings.topic]).map_err(|e| Fault::of(&e))?;

        let producer = Producer::open(kafka, limits, &settings.id, &settings.topic)?;
        Ok(Self { consumer, producer, settings, member_id: Mutex::default(), others: Mutex::default(), paused: Mutex::default() })
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
    /// offset. Returns the partitions held afterwards, with the offset each began at where it was just given.
    pub fn rebalance(&self) -> Result<Vec<(i32, i64)>, Fault> {
        let mut begun = BTreeMap::new();
        // Taken off the list only when carried out: `close` answers what is left, or the library would wait for it for ever.
        while let Some(event) = self.consumer.context().pending_rebalance() {
            match event {
                Rebalance::Assign(partitions) => begun.extend(self.assign(&partitions)?),
                Rebalance::Revoke => self.consumer.unassign().map_err(|e| Fault::of(&e))?,
            }
            self.consumer.context().next_rebalance();
        }
        let held = self.consumer.assignment().map_err(|e| Fault::of(&e))?;
        Ok(held.elements().iter().map(|e| (e.partition(), begun.get(&e.partition()).copied().unwrap_or(0))).collect())
    }

    /// The group took partitions although we had not let them go: what the open transaction holds of them must not be committed.
    pub fn assignment_lost(&self) -> bool {
        self.consumer.assignment_lost()
    }

    /// Stops fetching; what was fetched and not polled is fetched again later.
    pub fn pause(&self) -> Result<(), Fault> {
        let held = self.consumer.assignment().map_err(|e| Fault::of(&e))?;
        self.consumer.pause(&held).map_err(|e| Fault::of(&e))?;
        self.paused.lock().extend(held.elements().iter().map(TopicPartitionListElem::partition));
        Ok(())
    }

    /// Goes on fetching what [`Session::pause`] stopped.
    pub fn resume(&self) -> Result<(), Fault> {
        let mut paused = std::mem::take(&mut *self.paused.lock());
        let held = self.consumer.assignment().map_err(|e| Fault::of(&e))?;
        paused.retain(|partition| held.find_partition(&self.settings.topic, *partition).is_some());
        if paused.is_empty() {
            return Ok(());
        }
        let paused: Vec<i32> = paused.into_iter().collect();
        self.consumer.resume(&self.list(&paused)).map_err(|e| Fault::of(&e))?;
        self.wake_leaders(&paused);
        Ok(())
    }

    /// The library's thread for a broker that it fetches nothing from sleeps for up to a second, and a resumed partition does not
    /// wake it; a question does. Only speed depends on the answers.
    fn wake_leaders(&self, partitions: &[i32]) {
        let topic = &self.settings.topic;
        let Ok(metadata) = self.consumer.fetch_metadata(Some(topic), WAKE) else { return };
        let mut leaders = BTreeSet::new();
        for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
            if partitions.contains(&partition.id())
                && leaders.insert(partition.leader())
                && let Err(error) = self.consumer.fetch_watermarks(topic, partition.id(), WAKE)
            {
                tracing::debug!("broker {} not woken: {error}", partition.leader());
            }
        }
    }

    /// What outputs and dead letters are sent by.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Commits the open transaction with the next offset of every input partition in it.
    ///
    /// An error means that the outcome is unknown or that nothing was committed; either way the session is over.
    pub fn commit(&self, next_offsets: &BTreeMap<i32, i64>) -> Result<(), Fault> {
        let deadline = self.producer.deadline();
        let mut offsets = TopicPartitionList::with_capacity(next_offsets.len());
        for (&partition, &next) in next_offsets {
            let mut element = offsets.add_partition(&self.settings.topic, partition);
            element.set_offset(Offset::Offset(next)).map_err(|e| Fault::of(&e))?;
            // Names the owner, so that whoever follows a dead one can end what it left open.
            element.set_metadata(&self.settings.id);
        }
        let group = self.consumer.group_metadata().ok_or_else(|| Fault::NewSession("the consumer has left its group".into()))?;
        self.producer.add_offsets(&offsets, &group, deadline)?;
        self.producer.commit(deadline)
    }

    /// Has another process taken our static member id? That, not a fenced producer, says that we are not needed any more: a
    /// producer is also fenced when the coordinator timed out the transaction of a process that slept, and when another
    /// instance took us for dead. What cannot be asked is taken for no.
    pub fn replaced(&self) -> bool {
        let fatal = self.consumer.client().fatal_error();
        if fatal.is_some_and(|(code, _)| code == RDKafkaErrorCode::FencedInstanceId) {
            return true;
        }
        let known = self.member_id.lock().clone();
        let Some((known, members)) = known.zip(self.members()) else { return false };
        members.iter().any(|member| static_id(member) == Some(&self.settings.id) && *member != known)
    }

    /// Closes both clients. The group keeps our partitions for us until `limits.session_timeout` is over, because a static
    /// member that leaves is expected back.
    pub fn close(self) {
        let context = self.consumer.context();
        context.closing.store(true, Ordering::Release);
        if let Err(error) = self.consumer.close_queue() {
            // After a fatal error there is nothing to wait for.
            tracing::debug!(id = self.settings.id, "consumer not closed in order: {error}");
        }
        // A rebalance that waits for its answer would keep the consumer from closing. Answered only now, because before
        // `close_queue` the library would go on to join the group again, perhaps in the place of another process.
        if context.next_rebalance().is_some()
            && let Err(error) = self.consumer.unassign()
        {
            info!(id = self.settings.id, "partitions could not be given back: {error}");
        }
    }

    /// Takes partitions at their committed offsets, or where [`Session::first_positions`] says, and claims them.
    fn assign(&self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, Fault> {
        let mut begun = BTreeMap::new();
        let mut claims = BTreeMap::new();
        for (partition, committed) in self.committed(partitions)? {
            if let Some(Committed { next, owner }) = committed {
                begun.insert(partition, next);
                if owner != self.settings.id {
                    claims.insert(partition, next);
                }
            }
        }
        let missing: Vec<i32> = partitions.iter().copied().filter(|partition| !begun.contains_key(partition)).collect();
        if !missing.is_empty() {
            let first = self.first_positions(&missing)?;
            begun.extend(first.iter().filter(|(partition, _)| missing.contains(partition)));
            claims.extend(first);
        }
        if !claims.is_empty() {
            // Who follows us must know whom, also if we die in our first transaction; and a start at "latest" must stay where it was.
            self.producer.begin()?;
            self.commit(&claims)?;
        }
        let mut wanted = TopicPartitionList::with_capacity(partitions.len());
        for (&partition, &next) in &begun {
            wanted.add_partition_offset(&self.settings.topic, partition, Offset::Offset(next)).map_err(|e| Fault::of(&e))?;
        }
        self.consumer.assign(&wanted).map_err(|e| Fault::of(&e))?;
        self.note_members();
        Ok(begun)
    }

    /// Where partitions without committed offset begin: at their first record, but under `start = "latest"` a group that has read
    /// nothing yet begins at the ends.
    ///
    /// A partition added to a topic we read must not be taken for the latter, or its first records would be lost (case K31). So
    /// the mark of a group that has begun is an offset for partition 0: whoever is given that one first commits the ends of all
    /// partitions at once, everybody else waits for it. May return partitions nobody asked for, to be claimed too.
    fn first_positions(&self, missing: &[i32]) -> Result<BTreeMap<i32, i64>, Fault> {
        if self.settings.start == Start::Earliest {
            return self.watermarks(missing, |(first, _)| first);
        }
        if missing.contains(&0) {
            let all = self.topic_partitions()?;
            let unread: Vec<i32> = self.committed(&all)?.into_iter().filter(|(_, known)| known.is_none()).map(|(p, _)| p).collect();
            return self.watermarks(&unread, |(_, end)| end);
        }
        let deadline = Instant::now() + self.settings.limits.session_timeout;
        while self.committed(&[0])?.first().is_none_or(|(_, known)| known.is_none()) {
            if Instant::now() >= deadline {
                return Err(Fault::NewSession(format!("nobody has begun to read partition 0 of {}", self.settings.topic)));
            }
            std::thread::sleep(PAUSE);
        }
        let (begun, new): (Vec<_>, Vec<_>) = self.committed(missing)?.into_iter().partition(|(_, known)| known.is_some());
        let new: Vec<i32> = new.into_iter().map(|(partition, _)| partition).collect();
        let mut positions = self.watermarks(&new, |(first, _)| first)?;
        positions.extend(begun.into_iter().filter_map(|(partition, known)| Some((partition, known?.next))));
        Ok(positions)
    }

    fn watermarks(&self, partitions: &[i32], choose: impl Fn((i64, i64)) -> i64) -> Result<BTreeMap<i32, i64>, Fault> {
        let Settings { topic, limits, .. } = &self.settings;
        let ask = |&partition: &i32| Ok((partition, choose(self.consumer.fetch_watermarks(topic, partition, limits.session_timeout)?)));
        partitions.iter().map(ask).collect::<Result<_, KafkaError>>().map_err(|e| Fault::of(&e))
    }

    fn topic_partitions(&self) -> Result<Vec<i32>, Fault> {
        let Settings { topic, limits, .. } = &self.settings;
        let metadata = self.consumer.fetch_metadata(Some(topic), limits.session_timeout).map_err(|e| Fault::of(&e))?;
        Ok(metadata.topics().iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id).collect())
    }

    /// What the group has committed for each partition, never offsets of a transaction that is still open: a dead owner's is
    /// ended first, a living one's is waited for.
    fn committed(&self, partitions: &[i32]) -> Result<Vec<(i32, Option<Committed>)>, Fault> {
        let deadline = Instant::now() + self.settings.limits.transaction_timeout * 3;
        let mut patience = STABLE;
        let mut checked = false;
        loop {
            match self.try_committed(&self.consumer, partitions, patience) {
                Ok(committed) if checked => return Ok(committed),
                Ok(committed) => {
                    checked = true;
                    // Only who ended nothing may believe what was read before.
                    if !self.end_dead_owners(&committed) {
                        return Ok(committed);
                    }
                }
                Err(Fault::Retry(_)) if !checked => {
                    checked = true;
                    patience = self.settings.limits.session_timeout;
                    let Settings { kafka, limits, group, .. } = &self.settings;
                    let role = Role::OffsetReader { group: group.clone() };
                    let reader: BaseConsumer = config(kafka, limits, &role).create().map_err(|e| Fault::of(&e))?;
                    if let Ok(committed) = self.try_committed(&reader, partitions, patience) {
                        self.end_dead_owners(&committed);
                    }
                }
                Err(Fault::Retry(_)) if Instant::now() < deadline => {}
                Err(Fault::Retry(text)) => return Err(Fault::NewSession(text)),
                Err(fault) => return Err(fault),
            }
        }
    }

    fn try_committed<C: ConsumerContext>(
        &self,
        reader: &BaseConsumer<C>,
        partitions: &[i32],
        patience: Duration,
    ) -> Result<Vec<(i32, Option<Committed>)>, Fault> {
        let committed = reader.committed_offsets(self.list(partitions), patience).map_err(|e| Fault::of(&e))?;
        committed
            .elements()
            .iter()
            .map(|element| {
                // An offset that could not be told is not the same as none.
                element.error().map_err(|e| Fault::of(&e))?;
                let known = match element.offset() {
                    Offset::Offset(next) => Some(Committed { next, owner: element.metadata().to_string() }),
                    _ => None,
                };
                Ok((element.partition(), known))
            })
            .collect()
    }

    /// A killed instance leaves its transaction open until the coordinator times it out, which blocks readers of the outputs.
    /// Committed offsets name their owner; an owner that is no longer a member of the group is dead, and so is a member that we
    /// saw before and do not see now. Initialising its transactional id aborts what it left. True if any was ended.
    fn end_dead_owners(&self, committed: &[(i32, Option<Committed>)]) -> bool {
        let Settings { kafka, limits, group, id, .. } = &self.settings;
        let mut owners = self.others.lock().clone();
        owners.extend(committed.iter().filter_map(|(_, known)| Some(known.as_ref()?.owner.clone())));
        owners.retain(|owner| owner != id && owner.strip_prefix(group.as_str()).is_some_and(|rest| rest.starts_with('.')));
        if owners.is_empty() {
            return false;
        }
        let Some(members) = self.members() else { return false };
        let mut ended = false;
        for owner in owners {
            if members.iter().any(|member| static_id(member) == Some(&owner)) {
                continue;
            }
            match Producer::open(kafka, limits, &owner, &self.settings.topic) {
                Ok(_) => {
                    ended = true;
                    self.others.lock().remove(&owner);
                    info!(owner, "worker {owner} is gone, what it left open is aborted");
                }
                Err(fault) => warn!(owner, "transactions of {owner} could not be ended, the coordinator will in time: {fault}"),
            }
        }
        ended
    }

    /// Member ids of our group; `None` if the answer cannot be had or does not hold ourselves, as in a coordinator that moves.
    fn members(&self) -> Option<Vec<String>> {
        let Settings { limits, group, id, .. } = &self.settings;
        let groups = self.consumer.fetch_group_list(Some(group), limits.session_timeout).ok()?;
        let members: Vec<String> = groups.groups().iter().flat_map(GroupInfo::members).map(|m| m.id().to_string()).collect();
        members.iter().any(|member| static_id(member) == Some(id)).then_some(members)
    }

    /// Keeps our member id and those of the others in mind.
    fn note_members(&self) {
        let Some(members) = self.members() else { return };
        let mut others = self.others.lock();
        for member in members {
            match static_id(&member) {
                Some(id) if *id == self.settings.id => {
                    self.member_id.lock().get_or_insert(member);
                }
                Some(id) => {
                    others.insert(id.to_string());
                }
                None => {}
            }
        }
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(&self.settings.topic, partition);
        }
        list
    }
}

/// An offset of the group, and the transactional id that committed it.
struct Committed {
    next: i64,
    owner: String,
}

/// The id a static member chose; the coordinator adds a dash and a UUID.
fn static_id(member: &str) -> Option<&str> {
    let (id, dashed) = member.split_at_checked(member.len().checked_sub(37)?)?;
    dashed.starts_with('-').then_some(id)
}

/// How long to sleep between questions to the brokers.
const PAUSE: Duration = Duration::from_millis(20);
/// For one answer that only speed depends on.
const WAKE: Duration = Duration::from_secs(1);
/// So long committed offsets may stay hidden behind an open transaction before we look who left it.
const STABLE: Duration = Duration::from_millis(500);

/// What the group decided, kept until the worker has committed.
#[derive(Debug, Clone)]
enum Rebalance {
    Assign(Vec<i32>),
    /// Of all partitions.
    Revoke,
}

/// Keeps rebalances for the worker instead of carrying them out inside `poll`, so that the open transaction is committed
/// first, by ordinary code.
#[derive(Default)]
struct Context {
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
}

impl Context {
    fn has_rebalance(&self) -> bool {
        !self.rebalances.lock().is_empty()
    }

    fn pending_rebalance(&self) -> Option<Rebalance> {
        self.rebalances.lock().front().cloned()
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
        if self.closing.load(Ordering::Acquire) {
            // Nobody is left to do it later.
            if let Err(error) = consumer.unassign() {
                info!("partitions could not be given back: {error}");
            }
            return;
        }
        let event = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                Rebalance::Assign(partitions.elements().iter().map(TopicPartitionListElem::partition).collect())
            }
            _ => Rebalance::Revoke,
        };
        self.rebalances.lock().push_back(event);
    }
}
