//! Reads a topic from its beginning to its end, once: progress, and what has been published of a table.

use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::client::{Fault, Logged, Role, config};
use crate::config::plan::{KafkaPlan, Limits};

/// Calls `each` with every committed record of the topic, in order per partition. What is committed while this reads may or may
/// not be among them, so whoever must not miss anything has fenced the writers before.
pub fn read_all(
    kafka: &KafkaPlan,
    limits: &Limits,
    topic: &str,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let consumer: BaseConsumer<Logged> =
        BaseConsumer::from_config_and_context(&config(kafka, limits, &Role::Reader), Logged::default()).map_err(|e| Fault::of(&e))?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).map_err(|e| Fault::of(&e))?;
    let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
    let mut unread: BTreeSet<i32> = found.map(|t| t.partitions().iter().map(|p| p.id()).collect()).unwrap_or_default();
    let mut list = TopicPartitionList::with_capacity(unread.len());
    for &partition in &unread {
        list.add_partition_offset(topic, partition, Offset::Beginning).map_err(|e| Fault::of(&e))?;
    }
    consumer.assign(&list).map_err(|e| Fault::of(&e))?;
    let mut heard = Instant::now();
    while !unread.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => each(&message)?,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => match Fault::of(&error) {
                Fault::Retry(text) => tracing::debug!("reading {topic}: {text}"),
                fault => return Err(fault),
            },
            None if heard.elapsed() > SILENCE => {
                let why = consumer.context().last().unwrap_or_else(|| "no answer".into());
                return Err(Fault::Retry(format!("topic {topic} could not be read to its end: {why}")));
            }
            None => continue,
        }
        heard = Instant::now();
    }
    Ok(())
}

const ANSWER: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);
const SILENCE: Duration = Duration::from_secs(30);
