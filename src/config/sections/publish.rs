//! `publish` in `[tables.NAME]`: the change topic of a table (contract B1), as text or as a table of its options.

use crate::config::choice::Choice;
use crate::config::file::{At, Section, Text};
use crate::config::name;
use crate::config::plan::{DecimalMode, PublishPlan, TablePlan};
use crate::join::StreamPlan;

use super::streams::{INTERNAL, dead_letters};

/// More partitions than any sensible topic has, and fewer than would hurt a cluster.
const MOST_PARTITIONS: u64 = 10_000;

/// Where the change topic of a table is written.
pub(super) struct Published {
    /// Name of the table in the configuration.
    pub table: String,
    pub topic: String,
    pub at: At,
}

/// Reads the change topic of a table into its plan, and notes where it stands. Where there is a fault, defaults stand in.
pub(super) fn read(table: &mut TablePlan, section: &Section<'_>, published: &mut Vec<Published>) {
    if let Some((plan, at)) = publish(section) {
        published.push(Published { table: table.name.clone(), topic: plan.topic.clone(), at });
        table.publish = Some(plan);
    }
}

fn publish(table: &Section<'_>) -> Option<(PublishPlan, At)> {
    const REMEDY: &str = "write `publish = \"topic\"` or `publish = { topic = \"…\" }`";
    let value = table.value("publish")?;
    if !value.is_table() {
        let text = value.text()?;
        let plan = PublishPlan { topic: topic(table, &text)?, ..defaults(false) };
        return Some((plan, text.at));
    }
    let section = table.section("publish");
    let text = section.required_text("topic", REMEDY);
    let schemas = section.boolean("schemas", false);
    let decimal = section.value("decimal");
    let plan = PublishPlan {
        topic: text.as_ref().and_then(|text| topic(&section, text)).unwrap_or_default(),
        time: section.choice("time"),
        decimal: decimal.as_ref().and_then(|value| value.choice()).unwrap_or(defaults(schemas).decimal),
        bigint_unsigned: section.choice("bigint_unsigned"),
        binary: section.choice("binary"),
        tombstones: section.boolean("tombstones", true),
        transactions: section.boolean("transactions", false),
        partitions: section.integer("partitions", 1, 1..=MOST_PARTITIONS) as i32,
        schemas,
    };
    if let Some(decimal) = decimal
        && plan.decimal == DecimalMode::Precise
        && !schemas
    {
        let remedy = "write `schemas = true` beside it, or `decimal = \"string\"`";
        section.file().fault(&decimal.at, "\"precise\" cannot be read without its scale, which stands in the schemas", remedy);
    }
    let at = section.at_key("topic");
    section.close();
    Some((plan, at))
}

/// Decimals without schemas are text: packed ones cannot be read without their scale.
fn defaults(schemas: bool) -> PublishPlan {
    PublishPlan {
        topic: String::new(),
        schemas,
        time: first(),
        decimal: if schemas { DecimalMode::Precise } else { DecimalMode::String },
        bigint_unsigned: first(),
        binary: first(),
        tombstones: true,
        transactions: false,
        partitions: 1,
    }
}

fn first<C: Choice>() -> C {
    C::VALUES[0].1
}

fn topic(section: &Section<'_>, text: &Text) -> Option<String> {
    if !name::is_topic(&text.text) {
        let remedy = format!("use 1 to {} letters, digits, `.`, `_` and `-`", name::TOPIC_BYTES);
        section.file().fault(&text.at, format!("{} cannot be a topic", text.quoted()), remedy);
        return None;
    }
    Some(text.text.clone())
}

/// A topic has one writer, is read by none of our streams, and is not larder's own (contract G4).
pub(super) fn check_topics(root: &Section<'_>, name: &str, published: &[Published], streams: &[StreamPlan]) {
    let file = root.file();
    for (index, Published { topic, at, .. }) in published.iter().enumerate() {
        if topic.is_empty() {
            continue;
        }
        let wrong = |message: String, remedy: &str| file.fault(at, message, remedy);
        if let Some(reader) = streams.iter().find(|stream| stream.from == *topic) {
            wrong(
                format!("is also the input of `streams.{}`, which can join with the table itself", reader.name),
                "write to another topic",
            );
        }
        if let Some(writer) = streams.iter().find(|stream| stream.topic == *topic) {
            wrong(format!("is also the output of `streams.{}`", writer.name), "write to another topic");
        }
        if let Some(other) = published[..index].iter().find(|other| other.topic == *topic) {
            wrong(format!("is also the topic of `tables.{}`", other.table), "give each table a topic of its own");
        }
        if *topic == dead_letters(name) {
            wrong("is the topic of the dead letters".to_owned(), "write to another topic");
        }
        if topic.starts_with(INTERNAL) {
            wrong(format!("topics that begin with `{INTERNAL}` are larder's own"), "write to another topic");
        }
    }
}
