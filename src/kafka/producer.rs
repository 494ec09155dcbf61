//! A transactional producer: what it sends becomes visible together, or not at all.
//!
//! What always holds: opening one ends whatever an earlier producer of the same id left open, and fences it; after an error whose
//! outcome is unknown it is not used again (promise W9); nothing is committed of which a record was not taken by the brokers.

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;
use std::time::{Duration, Instant};
use tracing::info;

use super::client::{Fault, Logged, Role, config};
use crate::config::plan::{KafkaPlan, Limits};

pub struct Producer {
    producer: BaseProducer<Logged>,
    id: String,
    /// How long a transaction may take.
    timeout: Duration,
}

/// One record to send. Without `partition` it goes where murmur2 of its key says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub timestamp_ms: Option<i64>,
}

/// Why a record was not taken.
#[derive(Debug)]
pub enum SendError {
    /// Larger than any record may be.
    TooLarge,
    Fault(Fault),
}

impl Producer {
    /// Opens a producer and fences every other one of this transactional id.
    ///
    /// The library asks for a transaction coordinator only every 500 ms, and its first question fails where no broker is connected
    /// yet: so a connection is waited for first, by a question about `topic`.
    pub fn open(kafka: &KafkaPlan, limits: &Limits, id: &str, topic: &str) -> Result<Self, Fault> {
        let role = Role::Producer { transactional_id: id.to_string() };
        let log = Logged::default();
        let producer: BaseProducer<Logged> =
            BaseProducer::from_config_and_context(&config(kafka, limits, &role), log.clone()).map_err(|e| Fault::of(&e))?;
        let timeout = limits.transaction_timeout;
        let deadline = Instant::now() + timeout;
        let ready = producer.client().fetch_metadata(Some(topic), remaining(deadline));
        ready.and_then(|_| producer.init_transactions(remaining(deadline))).map_err(|error| {
            producer.poll(Duration::ZERO);
            match (Fault::of(&error), log.denied(), log.last()) {
                (_, Some(denied), _) => Fault::Denied(denied),
                (Fault::Retry(text), None, Some(last)) => Fault::Retry(format!("{text} ({last})")),
                (fault, ..) => fault,
            }
        })?;
        Ok(Self { producer, id: id.to_string(), timeout })
    }

    pub fn begin(&self) -> Result<(), Fault> {
        self.producer.begin_transaction().map_err(|e| Fault::of(&e))
    }

    /// Hands a record to the producer. Blocks while its queue is full, at most as long as a transaction may take.
    pub fn send(&self, outgoing: Outgoing<'_>, headers: OwnedHeaders) -> Result<(), SendError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(outgoing.topic).headers(headers);
        record.partition = outgoing.partition;
        record.key = outgoing.key;
        record.payload = outgoing.value;
        record.timestamp = outgoing.timestamp_ms;
        let deadline = Instant::now() + self.timeout;
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

    /// Puts a group's offsets into the open transaction.
    pub fn add_offsets(&self, offsets: &TopicPartitionList, group: &ConsumerGroupMetadata, deadline: Instant) -> Result<(), Fault> {
        loop {
            match self.producer.send_offsets_to_transaction(offsets, group, remaining(deadline)) {
                Ok(()) => return Ok(()),
                Err(error) => match Fault::of(&error) {
                    Fault::Retry(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                    Fault::Retry(text) => return Err(Fault::NewSession(text)),
                    fault => return Err(fault),
                },
            }
        }
    }

    /// Commits the open transaction. An error means that the outcome is unknown or that nothing was committed.
    pub fn commit(&self, deadline: Instant) -> Result<(), Fault> {
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

    /// When a commit begun now must be done.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Gives up the open transaction, as well as it can be done; the producer is not used afterwards.
    pub fn abort(&self) {
        if let Err(error) = self.producer.abort_transaction(self.timeout) {
            info!(id = self.id, "transaction left to the coordinator to abort: {error}");
        }
    }
}

/// How long to sleep between looks at the queue.
const BREATH: Duration = Duration::from_micros(100);
/// How long to sleep between questions to the brokers.
const PAUSE: Duration = Duration::from_millis(20);

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
