//! Who publishes changes: the member of the group `<name>.publish` that is given the one partition of the progress topic.
//!
//! The group only says who may try. That nobody else writes is the work of the transactional id, which is the same for all
//! members: whoever was elected initialises it, and fences the one before.

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::groups::GroupInfo;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use std::time::Duration;

use super::client::{Fault, Role, config, log_line};
use crate::config::plan::{KafkaPlan, Limits};

pub struct Election {
    consumer: BaseConsumer<Context>,
    group: String,
    member: String,
    /// Tells our own clients from those of other processes.
    client_id: String,
}

/// What the group thinks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    #[default]
    Standby,
    Elected,
}

impl Election {
    /// Stands for election. `member` is the same over restarts, so that a restarted process is elected again at once.
    pub fn join(kafka: &KafkaPlan, limits: &Limits, group: &str, member: &str, topic: &str) -> Result<Self, Fault> {
        let role = Role::Consumer { group: group.to_string(), instance: member.to_string() };
        let client_id = format!("{member}-{}-{}", std::process::id(), nanos());
        let mut settings = config(kafka, limits, &role);
        settings.set("client.id", &client_id);
        let consumer = BaseConsumer::from_config_and_context(&settings, Context::default()).map_err(|e: KafkaError| Fault::of(&e))?;
        consumer.subscribe(&[topic]).map_err(|e| Fault::of(&e))?;
        Ok(Self { consumer, group: group.to_string(), member: member.to_string(), client_id })
    }

    /// Takes part, for as long as `timeout`; must be called again and again.
    pub fn poll(&self, timeout: Duration) -> Result<Standing, Fault> {
        // Nothing is fetched: a poll only carries out what the group decided.
        if let Some(Err(error)) = self.consumer.poll(timeout)
            && let fault @ (Fault::Fenced(_) | Fault::Denied(_) | Fault::NewSession(_)) = Fault::of(&error)
        {
            return Err(fault);
        }
        Ok(*self.consumer.context().standing.lock())
    }

    /// Whether this client can take part no more.
    pub fn is_over(&self) -> bool {
        self.consumer.client().fatal_error().is_some()
    }

    /// Whether another process has taken our place in the group. A client is also fenced by itself: when the brokers slept for longer
    /// than the session lasts, it may have joined twice.
    pub fn replaced(&self) -> bool {
        if self.consumer.client().fatal_error().is_none_or(|(code, _)| code != RDKafkaErrorCode::FencedInstanceId) {
            return false;
        }
        // What cannot be asked is taken for no: if there is another one, it is met again.
        let Ok(groups) = self.consumer.fetch_group_list(Some(&self.group), ANSWER) else { return false };
        groups.groups().iter().flat_map(GroupInfo::members).any(|other| {
            let place = other.id().strip_prefix(&self.member).is_some_and(|rest| rest.starts_with('-') && rest.len() == 37);
            place && other.client_id() != self.client_id
        })
    }
}

/// Of the clock, to tell processes apart that have the same number in two containers.
fn nanos() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos())
}

/// For one answer of the brokers.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Context {
    standing: Mutex<Standing>,
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
        let elected = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS && partitions.count() > 0;
        let done = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let positioned = partitions.set_all_offsets(Offset::End);
            positioned.and_then(|()| consumer.assign(partitions)).and_then(|()| consumer.pause(partitions))
        } else {
            consumer.unassign()
        };
        if let Err(error) = done {
            tracing::warn!("what the group decided could not be carried out: {error}");
            return;
        }
        *self.standing.lock() = if elected { Standing::Elected } else { Standing::Standby };
    }
}
