//! `[limits]`: bounds of everything, with the defaults of contract E15.

use std::time::Duration;

use crate::config::file::Section;
use crate::config::plan::Limits;
use crate::join::MAX_DEPTH;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// librdkafka's largest `message.max.bytes` is 1,000,000,000, and that includes key, headers and framing.
const MESSAGE_BYTES: u64 = 512 * MIB;

pub(super) fn read(section: Section<'_>) -> Limits {
    section.later(&[("waiting_bytes", "waiting room")]);
    let millis = Duration::from_millis;
    let seconds = Duration::from_secs;
    let limits = Limits {
        message_bytes: section.size("message_bytes", 10 * MIB, KIB..=MESSAGE_BYTES),
        json_depth: section.integer("json_depth", 64, 1..=MAX_DEPTH as u64) as usize,
        outputs_per_record: section.integer("outputs_per_record", 100_000, 1..=100_000_000) as usize,
        commit_bytes: section.size("commit_bytes", 8 * MIB, KIB..=4 * GIB),
        commit_interval: section.duration("commit_interval", millis(100), millis(1)..=seconds(60)),
        transaction_bytes: section.size("transaction_bytes", 64 * MIB, MIB..=64 * GIB),
        // librdkafka's largest `queued.max.messages.kbytes`.
        queue_bytes: section.size("queue_bytes", 64 * MIB, MIB..=2_097_151 * KIB),
        // Brokers refuse more than `transaction.max.timeout.ms`, 15 minutes by default.
        transaction_timeout: section.duration("transaction_timeout", seconds(10), seconds(1)..=seconds(900)),
        // Brokers refuse less than `group.min.session.timeout.ms` and more than `group.max.session.timeout.ms`.
        session_timeout: section.duration("session_timeout", seconds(10), seconds(6)..=seconds(1_800)),
        shutdown: section.duration("shutdown", seconds(30), seconds(1)..=seconds(3_600)),
    };
    check(&section, &limits);
    section.close();
    limits
}

/// How the limits must stand to each other.
fn check(section: &Section<'_>, limits: &Limits) {
    // Where a default and a written key disagree, the written one is shown.
    let fault = |key: &str, other: &str, message: String, remedy: String| {
        let at = section.at_key(if section.has(key) { key } else { other });
        section.file().fault(&at, message, remedy);
    };
    if limits.transaction_timeout < 2 * limits.commit_interval {
        fault(
            "transaction_timeout",
            "commit_interval",
            "Kafka would abort transactions before they are committed".to_owned(),
            "give `transaction_timeout` at least twice `commit_interval`".to_owned(),
        );
    }
    if limits.transaction_timeout > 10 * limits.session_timeout {
        fault(
            "transaction_timeout",
            "session_timeout",
            "after a crash readers would wait far longer than the instance that takes over".to_owned(),
            "give `transaction_timeout` at most ten times `session_timeout`".to_owned(),
        );
    }
    if limits.queue_bytes < limits.message_bytes {
        fault(
            "queue_bytes",
            "message_bytes",
            "the queue would not hold one message".to_owned(),
            "give `queue_bytes` at least `message_bytes`".to_owned(),
        );
    }
}
