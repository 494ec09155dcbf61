//! `[kafka]`: brokers, and the properties of librdkafka that are the user's (contract E16). Those that carry a promise are
//! refused with the promise, those that load code or reach out to other hosts with that; a misspelling with its neighbour.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use super::mysql::host_port;
use crate::config::file::{Section, Text, Value};
use crate::config::name;
use crate::config::plan::{KafkaPlan, Limits};
use crate::config::secret::Secret;

const PORT: u16 = 9092;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Never shown.
    Secret,
    /// A path, taken from the folder of the configuration file.
    File,
}

/// Names as in librdkafka's CONFIGURATION.md, 2.12.
const ALLOWED: [(&str, Kind); 43] = [
    ("security.protocol", Kind::Plain),
    ("sasl.mechanism", Kind::Plain),
    ("sasl.username", Kind::Secret),
    ("sasl.password", Kind::Secret),
    ("ssl.ca.location", Kind::File),
    ("ssl.certificate.location", Kind::File),
    ("ssl.key.location", Kind::File),
    ("ssl.key.password", Kind::Secret),
    ("ssl.keystore.location", Kind::File),
    ("ssl.keystore.password", Kind::Secret),
    ("ssl.crl.location", Kind::File),
    ("ssl.endpoint.identification.algorithm", Kind::Plain),
    ("client.id", Kind::Plain),
    ("client.rack", Kind::Plain),
    ("compression.type", Kind::Plain),
    ("linger.ms", Kind::Plain),
    ("batch.size", Kind::Plain),
    ("batch.num.messages", Kind::Plain),
    ("message.max.bytes", Kind::Plain),
    ("fetch.wait.max.ms", Kind::Plain),
    ("fetch.queue.backoff.ms", Kind::Plain),
    ("fetch.message.max.bytes", Kind::Plain),
    ("fetch.max.bytes", Kind::Plain),
    ("fetch.min.bytes", Kind::Plain),
    ("fetch.error.backoff.ms", Kind::Plain),
    ("queued.min.messages", Kind::Plain),
    ("queued.max.messages.kbytes", Kind::Plain),
    ("socket.timeout.ms", Kind::Plain),
    ("socket.connection.setup.timeout.ms", Kind::Plain),
    ("socket.send.buffer.bytes", Kind::Plain),
    ("socket.receive.buffer.bytes", Kind::Plain),
    ("socket.keepalive.enable", Kind::Plain),
    ("socket.nagle.disable", Kind::Plain),
    ("socket.max.fails", Kind::Plain),
    ("reconnect.backoff.ms", Kind::Plain),
    ("reconnect.backoff.max.ms", Kind::Plain),
    ("retry.backoff.ms", Kind::Plain),
    ("retry.backoff.max.ms", Kind::Plain),
    ("metadata.max.age.ms", Kind::Plain),
    ("metadata.recovery.strategy", Kind::Plain),
    ("metadata.recovery.rebootstrap.trigger.ms", Kind::Plain),
    ("broker.address.ttl", Kind::Plain),
    ("broker.address.family", Kind::Plain),
];

/// Properties, or their beginnings (`…*`), and why they are not the user's.
const REFUSED: [(&str, &str); 40] = [
    ("bootstrap.servers", "the brokers are `kafka.brokers`"),
    ("metadata.broker.list", "the brokers are `kafka.brokers`"),
    ("group.id", "the consumer group is `<name>.<stream>`: another one would read everything again"),
    ("group.instance.id", "it follows from `instance`, so that a restarted process takes its partitions back at once"),
    ("group.*", "the consumer group carries the offsets that are committed with the outputs"),
    ("transactional.id", "the transactional id fences an instance that was thought dead: it must be ours alone"),
    ("transaction.timeout.ms", "it is `limits.transaction_timeout`"),
    ("session.timeout.ms", "it is `limits.session_timeout`"),
    ("heartbeat.interval.ms", "it follows from `limits.session_timeout`"),
    ("max.poll.interval.ms", "it decides when a stuck worker loses its partitions"),
    ("enable.idempotence", "exactly-once needs it on"),
    ("enable.gapless.guarantee", "it would stop the producer where a transaction can be repeated"),
    ("isolation.level", "inputs are read with read_committed: anything else would join aborted records"),
    ("enable.auto.commit", "offsets are committed in the transaction of the outputs"),
    ("enable.auto.offset.store", "offsets are committed in the transaction of the outputs"),
    ("auto.commit.interval.ms", "offsets are committed in the transaction of the outputs"),
    ("auto.offset.reset", "it is `start` of each stream"),
    ("enable.partition.eof", "it decides when a batch ends"),
    ("partition.assignment.strategy", "it decides what is committed before a partition leaves"),
    ("partitioner", "outputs are partitioned as Java does, so that they stay co-partitioned"),
    ("sticky.partitioning.linger.ms", "outputs are partitioned as Java does, so that they stay co-partitioned"),
    ("acks", "exactly-once needs the acknowledgement of all in-sync replicas"),
    ("request.required.acks", "exactly-once needs the acknowledgement of all in-sync replicas"),
    ("request.timeout.ms", "it follows from `limits.transaction_timeout`"),
    ("max.in.flight*", "the order of outputs depends on it"),
    ("retries", "a transaction must not end while a record could still be sent"),
    ("message.send.max.retries", "a transaction must not end while a record could still be sent"),
    ("message.timeout.ms", "it follows from `limits.transaction_timeout`"),
    ("delivery.timeout.ms", "it follows from `limits.transaction_timeout`"),
    ("queue.buffering.*", "the memory for outputs is `limits.queue_bytes`"),
    ("queuing.strategy", "the order of outputs depends on it"),
    ("check.crcs", "damaged records must be found"),
    ("allow.auto.create.topics", "topics are made with the partitions that joins need"),
    ("plugin.library.paths", "it would load code into the process"),
    ("ssl.engine.*", "it would load code into the process"),
    ("ssl.providers", "it would load code into the process"),
    ("sasl.kerberos.*", "it would run a command"),
    ("sasl.oauthbearer.*", "it would call an address of the configuration's choice"),
    ("enable.ssl.certificate.verification", "without it anyone could be the broker"),
    ("*.pem", "keys and certificates are given as files: `ssl.key.location`, `ssl.certificate.location`, `ssl.ca.location`"),
];

/// Whether the value of a client property must not be shown.
pub(in crate::config) fn is_secret(property: &str) -> bool {
    ALLOWED.iter().any(|(name, kind)| *name == property && *kind == Kind::Secret)
}

/// Every client property that can be set.
#[cfg(test)]
pub(in crate::config) fn properties() -> impl Iterator<Item = &'static str> {
    ALLOWED.iter().map(|(name, _)| *name)
}

pub(super) fn read(section: Section<'_>, limits: &Limits) -> KafkaPlan {
    let brokers = section.required_text("brokers", "write `brokers = \"host:9092\"`, several with commas");
    if let Some(text) = &brokers {
        check_brokers(&section, text);
    }
    let mut client = Vec::new();
    for (name, value) in section.section("client").entries() {
        if let Some(kind) = check_name(&section, name, &value)
            && let Some(value) = check_value(&section, name, kind, &value, limits)
        {
            client.push((name.to_owned(), Secret::new(value)));
        }
    }
    section.close();
    KafkaPlan { brokers: brokers.map(|text| text.text).unwrap_or_default(), client }
}

fn check_brokers(section: &Section<'_>, text: &Text) {
    if text.text.contains(['@', '/']) {
        let remedy = "write \"host:9092\"; protocol, user and password are `security.protocol` and `sasl.*` in `[kafka.client]`";
        section.file().fault(&text.at, "is not a list of addresses but a URL", remedy);
    } else if text.text.split(',').any(|broker| host_port(broker.trim(), PORT).is_none()) {
        let remedy = "write \"host:9092\", several with commas";
        section.file().fault(&text.at, format!("{} is not a list of addresses", text.quoted()), remedy);
    }
}

fn check_name(section: &Section<'_>, property: &str, value: &Value<'_>) -> Option<Kind> {
    if let Some((_, kind)) = ALLOWED.iter().find(|(name, _)| *name == property) {
        return Some(*kind);
    }
    if value.is_table() {
        // `compression.type = "lz4"` without quotes is a table in TOML.
        let remedy = "put the name in quotes: `\"compression.type\" = \"lz4\"`";
        section.file().fault(&value.at, "must be a property of librdkafka, is a table", remedy);
        return None;
    }
    let is = |pattern: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => property.ends_with(end),
        (_, Some(start)) => property.starts_with(start),
        (None, None) => property == pattern,
    };
    let (message, remedy) = match REFUSED.iter().find(|(pattern, _)| is(pattern)) {
        Some((_, reason)) => (format!("`{property}` cannot be set: {reason}"), "remove it".to_owned()),
        None => {
            let message = format!("`{property}` is not on the list of client properties");
            let message = name::did_you_mean(message, property, '`', ALLOWED.iter().map(|(name, _)| *name));
            (message, "see `[kafka.client]` in the reference configuration for the list".to_owned())
        }
    };
    section.file().fault(&value.at, message, remedy);
    None
}

/// The value as librdkafka takes it. What librdkafka says about a wrong value is passed on, but for secrets.
fn check_value(section: &Section<'_>, property: &str, kind: Kind, value: &Value<'_>, limits: &Limits) -> Option<String> {
    let mut text = value.scalar_text()?;
    // "probe" lets librdkafka look for the system's certificates.
    if kind == Kind::File && text != "probe" {
        let path = section.file().around().folder.join(&text);
        if !path.exists() {
            let remedy = "relative paths are taken from the folder of the configuration file";
            section.file().fault(&value.at, "there is no such file", remedy);
        }
        text = path.display().to_string();
    }
    if let Err(KafkaError::ClientConfig(_, said, ..)) = ClientConfig::new().set(property, &text).create_native_config() {
        let message =
            if kind == Kind::Secret { "is refused by librdkafka".to_owned() } else { format!("is refused by librdkafka: {said}") };
        section.file().fault(&value.at, message, "");
        return None;
    }
    if property == "socket.timeout.ms" && text.parse::<u128>().is_ok_and(|millis| millis > limits.transaction_timeout.as_millis()) {
        let remedy = "give at most `limits.transaction_timeout`";
        section.file().fault(&value.at, "a request could outlive its transaction", remedy);
    }
    Some(text)
}
