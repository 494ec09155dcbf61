//! Topics: which exist, with how many partitions, and the creation of those that we write (contract E17).

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use std::time::Duration;
use tracing::info;

use super::client::{Fault, Logged, Role, config};
use crate::config::Plan;
use crate::config::plan::{KafkaPlan, Limits};

/// A client for questions about topics.
pub struct Topics {
    client: BaseConsumer<Logged>,
    admin: AdminClient<DefaultClientContext>,
    context: Logged,
    brokers: String,
}

/// A topic as the brokers know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    pub partitions: i32,
}

/// How long one question to the brokers may take.
const ANSWER: Duration = Duration::from_secs(5);

impl Topics {
    pub fn new(plan: &KafkaPlan, limits: &Limits) -> Result<Self, Fault> {
        let config: ClientConfig = config(plan, limits, &Role::Admin);
        let context = Logged::default();
        let client = BaseConsumer::from_config_and_context(&config, context.clone()).map_err(|e| Fault::of(&e))?;
        let admin = config.create().map_err(|e| Fault::of(&e))?;
        Ok(Self { client, admin, context, brokers: plan.brokers.clone() })
    }

    /// The topic, or `None` if it does not exist.
    pub fn find(&self, name: &str) -> Result<Option<Topic>, Fault> {
        let metadata = self.client.fetch_metadata(Some(name), ANSWER).map_err(|e| self.explain(&Fault::of(&e)))?;
        let Some(topic) = metadata.topics().iter().find(|t| t.name() == name) else { return Ok(None) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(Topic { partitions: i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX) })),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Err(Fault::Denied(format!("no right to describe topic {name}"))),
            Some(code) => Err(Fault::Retry(format!("topic {name}: {code}"))),
        }
    }

    /// Creates a topic that is missing, with the broker's replication factor; an existing one is never altered.
    pub fn create(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<(), Fault> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
        let created = futures_executor::block_on(self.admin.create_topics([&topic], &options)).map_err(|e| Fault::of(&e))?;
        for result in created {
            match result {
                Ok(name) => info!(topic = name, partitions, "topic {name} created with {partitions} partitions"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                    return Err(Fault::Denied(format!("no right to create topic {name}; create it, or grant CREATE on it")));
                }
                Err((name, RDKafkaErrorCode::InvalidTopic)) => {
                    return Err(Fault::Denied(format!(
                        "no topic can be called {name}, or it is another topic's name but for `.` and `_`; choose another name"
                    )));
                }
                Err((name, code)) => return Err(Fault::Retry(format!("topic {name} could not be created: {code}"))),
            }
        }
        Ok(())
    }

    /// The largest record the topic takes (`max.message.bytes`), where the brokers tell.
    pub fn max_message_bytes(&self, name: &str) -> Option<usize> {
        self.setting(name, "max.message.bytes")?.parse().ok()
    }

    /// A setting of the topic, where the brokers tell.
    pub fn setting(&self, name: &str, key: &str) -> Option<String> {
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        let answer = futures_executor::block_on(self.admin.describe_configs(&[ResourceSpecifier::Topic(name)], &options)).ok()?;
        answer.into_iter().next()?.ok()?.get(key)?.value.clone()
    }

    /// First and next offset of a partition.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), Fault> {
        self.client.fetch_watermarks(topic, partition, ANSWER).map_err(|e| self.explain(&Fault::of(&e)))
    }

    /// A time-out says little; the connection's own error says why.
    fn explain(&self, fault: &Fault) -> Fault {
        // The connection's errors are events, which only polling hands out. No topic is read, so nothing else comes.
        drop(self.client.poll(Duration::ZERO));
        if let Some(denied) = self.context.denied() {
            return Fault::Denied(denied);
        }
        match (fault, self.context.last()) {
            (Fault::Retry(text), None) => Fault::Retry(format!("no answer from Kafka at {}: {text}", self.brokers)),
            (Fault::Retry(_), Some(last)) => Fault::Retry(format!("no answer from Kafka at {}: {last}", self.brokers)),
            (fault, _) => fault.clone(),
        }
    }
}

/// `larder check --connect`: everything about Kafka that would keep the daemon from running, each with a remedy.
pub fn check(plan: &Plan) -> Vec<(String, String)> {
    let topics = match Topics::new(&plan.kafka, &plan.limits) {
        Ok(topics) => topics,
        Err(fault) => return vec![(describe(&fault), "check [kafka] and [kafka.client]".into())],
    };
    let mut failures = Vec::new();
    for stream in &plan.streams {
        match topics.find(&stream.from) {
            Ok(Some(_)) => {}
            Ok(None) => failures.push((
                format!("stream {}: topic {} does not exist", stream.name, stream.from),
                "create it, or correct `from`; larder run would wait for it".into(),
            )),
            Err(fault) => {
                failures.push((
                    describe(&fault),
                    format!("is {} the address, is the broker running, may the user describe topics?", plan.kafka.brokers),
                ));
                // The next question would fail the same way.
                break;
            }
        }
    }
    failures
}

fn describe(fault: &Fault) -> String {
    match fault {
        Fault::Retry(text) | Fault::NewSession(text) | Fault::Fenced(text) | Fault::Denied(text) => text.clone(),
        Fault::OffsetLost => "offset lost".into(),
    }
}
