//! How every librdkafka client of ours is configured, and what its errors mean for us.

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::{debug, info, warn};

use crate::config::Secret;
use crate::config::plan::{KafkaPlan, Limits};

/// What a client is for; decides its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Metadata, topic creation, watermarks.
    Admin,
    /// Consumer of one worker. `instance` is its static member id: a restarted process takes its partitions back at once.
    Consumer { group: String, instance: String },
    /// Reads committed offsets as they stand, pending transactions ignored; never joins the group.
    OffsetReader { group: String },
    /// Reads a topic from its beginning to its end; never joins a group.
    Reader,
    /// Transactional producer of one worker.
    Producer { transactional_id: String },
}

/// Properties for a role. What the user set under `[kafka.client]` comes first; what carries a promise is set by us after it.
pub fn config(plan: &KafkaPlan, limits: &Limits, role: &Role) -> ClientConfig {
    let mut config = ClientConfig::new();
    let consumes = matches!(role, Role::Consumer { .. } | Role::OffsetReader { .. } | Role::Reader);
    let produces = matches!(role, Role::Producer { .. });
    config
        .set("linger.ms", "1")
        .set("compression.type", "lz4")
        .set("reconnect.backoff.max.ms", "1000")
        // The coordinator refuses a new transaction while the marks of the last one are being written, some milliseconds: a retry
        // that doubles its pause up to a second waits for nothing.
        .set("retry.backoff.ms", "10")
        .set("retry.backoff.max.ms", "50")
        // With the default of one second a queue that was full once runs dry before it is filled again.
        .set("fetch.queue.backoff.ms", "10");
    for (name, value) in &plan.client {
        config.set(name, value.reveal());
    }
    if !produces {
        for name in ["linger.ms", "compression.type"] {
            config.remove(name);
        }
        remove_matching(&mut config, |name| name.starts_with("batch."));
    }
    if !consumes {
        remove_matching(&mut config, |name| name.starts_with("fetch.") || name.starts_with("queued."));
    }
    config
        .set("bootstrap.servers", &plan.brokers)
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("log.connection.close", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    match role {
        Role::Admin => {}
        Role::Consumer { group, instance } => {
            config
                .set("group.id", group)
                .set("group.instance.id", instance)
                .set("isolation.level", "read_committed")
                .set("enable.auto.commit", "false")
                .set("enable.auto.offset.store", "false")
                // A position that is not there must be seen, never jumped over (contract E17).
                .set("auto.offset.reset", "error")
                // Eager: everything is given back before a member joins the next generation, so no transaction is open while the
                // generation changes, which the broker would refuse. And a static member that restarts in mid-rebalance finds its
                // whole assignment: under the cooperative protocol what it was about to give back would be nobody's for ever.
                .set("partition.assignment.strategy", "range")
                .set("session.timeout.ms", millis(limits.session_timeout))
                .set("heartbeat.interval.ms", millis(limits.session_timeout / 4))
                .set("queued.max.messages.kbytes", (limits.queue_bytes / 1024).max(1).to_string())
                .set("fetch.message.max.bytes", fetch_bytes(limits).to_string())
                .set("receive.message.max.bytes", (fetch_bytes(limits).max(50 << 20) + (1 << 20)).to_string());
            if !plan.client.iter().any(|(name, _)| name == "fetch.wait.max.ms") {
                config.set("fetch.wait.max.ms", "100");
            }
        }
        Role::OffsetReader { group } => {
            config.set("group.id", group).set("isolation.level", "read_uncommitted").set("enable.auto.commit", "false");
        }
        Role::Reader => {
            config
                // The library asks for a group id although no group is joined.
                .set("group.id", "larder-reader")
                .set("isolation.level", "read_committed")
                .set("enable.auto.commit", "false")
                .set("enable.partition.eof", "true")
                .set("auto.offset.reset", "error")
                .set("queued.max.messages.kbytes", (limits.queue_bytes / 1024).max(1).to_string())
                .set("fetch.message.max.bytes", fetch_bytes(limits).to_string())
                .set("receive.message.max.bytes", (fetch_bytes(limits).max(50 << 20) + (1 << 20)).to_string());
        }
        Role::Producer { transactional_id } => {
            config
                .set("transactional.id", transactional_id)
                .set("transaction.timeout.ms", millis(limits.transaction_timeout))
                .set("message.timeout.ms", millis(limits.transaction_timeout))
                // Consumers written for Java stay co-partitioned; librdkafka's own default differs.
                .set("partitioner", "murmur2_random")
                .set("message.max.bytes", (limits.message_bytes + RECORD_OVERHEAD).to_string())
                .set("queue.buffering.max.messages", "0")
                .set("queue.buffering.max.kbytes", (limits.queue_bytes / 1024).max(1).to_string())
                // Only failures are reported: the success of a batch is the success of its commit.
                .set("delivery.report.only.error", "true");
        }
    }
    config
}

/// Room for key, headers and framing beside a value of `limits.message_bytes`.
pub const RECORD_OVERHEAD: usize = 64 * 1024;

fn fetch_bytes(limits: &Limits) -> usize {
    limits.message_bytes + RECORD_OVERHEAD
}

fn remove_matching(config: &mut ClientConfig, matches: impl Fn(&str) -> bool) {
    let names: Vec<String> = config.config_map().keys().filter(|name| matches(name)).map(|name| (*name).to_string()).collect();
    for name in names {
        config.remove(&name);
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

/// The client with batches that topics with this bound take: the brokers refuse a batch above `max.message.bytes` whole, and would again.
pub fn batches_within(kafka: &KafkaPlan, bound: usize) -> KafkaPlan {
    const BATCH_SIZE: &str = "batch.size";
    /// What librdkafka would do.
    const DEFAULT: usize = 1_000_000;
    let mut kafka = kafka.clone();
    let wanted = kafka.client.iter().rfind(|(name, _)| name == BATCH_SIZE).and_then(|(_, size)| size.reveal().parse().ok());
    let size = wanted.unwrap_or(DEFAULT).min(bound).max(1);
    kafka.client.push((BATCH_SIZE.to_owned(), Secret::new(size.to_string())));
    kafka
}

/// What an error of librdkafka means for whoever met it: the one table that decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Broker away, timeout, topic not there yet: wait and try again.
    #[error("{0}")]
    Retry(String),
    /// The transaction must be aborted, or its outcome is unknown: start over with a new session (promise W9).
    #[error("{0}")]
    NewSession(String),
    /// Our transactional id or member id is in use elsewhere, or the coordinator timed our transaction out.
    #[error("{0}")]
    Fenced(String),
    /// Wrong credentials or missing rights: a person must act.
    #[error("{0}")]
    Denied(String),
    /// The position to read from is no longer in the log.
    #[error("the position to read from is no longer in the log")]
    OffsetLost,
}

impl Fault {
    pub fn of(error: &KafkaError) -> Self {
        let text = error.to_string();
        match error {
            KafkaError::Transaction(transaction) => {
                let text = format!("{}: {}", transaction.name(), transaction.string());
                match transaction.code() {
                    Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId => Fault::Fenced(text),
                    code if is_denied(code) => Fault::Denied(text),
                    _ if transaction.is_fatal() || transaction.txn_requires_abort() => Fault::NewSession(text),
                    _ if transaction.is_retriable() => Fault::Retry(text),
                    _ => Fault::NewSession(text),
                }
            }
            KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) | KafkaError::MessageConsumption(Code::FencedInstanceId) => {
                Fault::Fenced(text)
            }
            KafkaError::MessageConsumptionFatal(_) => Fault::NewSession(text),
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Fault::OffsetLost,
            error => match error.rdkafka_error_code() {
                Some(code) if is_denied(code) => Fault::Denied(text),
                Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => Fault::Fenced(text),
                Some(Code::Fatal | Code::State | Code::PurgeQueue | Code::PurgeInflight) => Fault::NewSession(text),
                _ => Fault::Retry(text),
            },
        }
    }
}

fn is_denied(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// Context of clients that need no call-backs of their own: logs go to `tracing`, the last error is kept, because
/// librdkafka answers a time-out where the broker said why.
#[derive(Clone, Default)]
pub struct Logged {
    last_error: Arc<Mutex<Option<(KafkaError, String)>>>,
    undelivered: Arc<AtomicU64>,
}

impl Logged {
    /// The last error of the connection, if it says that we are not let in.
    pub fn denied(&self) -> Option<String> {
        let last = self.last_error.lock();
        let (error, reason) = last.as_ref()?;
        matches!(Fault::of(error), Fault::Denied(_)).then(|| format!("{error}: {reason}"))
    }

    /// Records that a producer gave up since it was made.
    pub fn undelivered(&self) -> u64 {
        self.undelivered.load(Ordering::Acquire)
    }

    /// The last error of the connection, for messages about a broker that does not answer.
    pub fn last(&self) -> Option<String> {
        self.last_error.lock().as_ref().map(|(_, reason)| reason.clone())
    }
}

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note_error(&self.last_error, error, reason);
    }
}

impl ConsumerContext for Logged {}

impl ProducerContext for Logged {
    type DeliveryOpaque = ();

    /// Called for failures alone (`delivery.report.only.error`).
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            debug!("a record was not delivered: {error}");
            self.undelivered.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// librdkafka's own lines. A broker that is away is said once by whoever waits for it, so its lines are kept low.
pub(super) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => warn!(facility, "librdkafka: {message}"),
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => info!(facility, "librdkafka: {message}"),
        _ => debug!(facility, "librdkafka: {message}"),
    }
}

pub(super) fn note_error(last: &Mutex<Option<(KafkaError, String)>>, error: KafkaError, reason: &str) {
    debug!("librdkafka: {error}: {reason}");
    let mut last = last.lock();
    // A refusal is not forgotten for a later "all brokers down".
    if !last.as_ref().is_some_and(|(known, _)| matches!(Fault::of(known), Fault::Denied(_))) {
        *last = Some((error, reason.to_string()));
    }
}
