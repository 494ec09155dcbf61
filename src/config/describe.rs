//! What will run, for people (`larder plan`) and for programs (`larder plan --json`, `/api/config`). Secrets are masked.

use std::fmt::Write;

use serde_json::{Value, json};

use super::choice::Choice;
use super::plan::{HistoryPlan, HttpPlan, KafkaPlan, Limits, MysqlPlan, Plan, PublishPlan, TablePlan};
use super::sections::{dead_letters, is_secret};
use super::units::{show_duration, show_size};
use crate::join::path::{Meta, Root};
use crate::join::{JoinPlan, Path, StreamPlan, Template};

const MASK: &str = "***";

/// The plan as text, one block per station of the data's way.
pub fn describe(plan: &Plan) -> String {
    let mut out = String::new();
    let mut line = |indent: usize, label: &str, text: &str| {
        let line = format!("{:indent$}{label:<width$} {text}", "", width = 23 - indent);
        let _ = writeln!(out, "{}", line.trim_end());
    };
    line(0, "name", &plan.name);
    line(0, "instance", &plan.instance);
    if let Some(mysql) = &plan.mysql {
        line(0, "mysql", &format!("{} as {}, tls {}, server id {}", address(mysql), mysql.user, mysql.tls.shown(), mysql.server_id));
    }
    line(0, "kafka", &plan.kafka.brokers);
    for (property, value) in client(&plan.kafka) {
        line(2, &property, &value);
    }
    for table in &plan.tables {
        line(0, "", "");
        line(0, &format!("table {}", table.name), &mysql_name(table));
        line(2, "columns", &table.columns.as_ref().map_or_else(|| "all".to_owned(), |columns| columns.join(", ")));
        line(2, "key", &table.key.as_ref().map_or_else(|| "primary key".to_owned(), |key| key.join(", ")));
        if let Some(publish) = &table.publish {
            line(2, "publish", &publish_text(publish));
        }
        if let Some(max_bytes) = table.cache {
            line(2, "rows", &format!("up to {} in memory, the others read from MySQL when they are needed", show_size(max_bytes)));
        }
        if let Some(history) = &table.history {
            let HistoryPlan { keep, max_bytes } = history;
            line(2, "history", &format!("{}, at most {}", show_duration(*keep), show_size(*max_bytes as u64)));
        }
        for (column, key) in &table.needed {
            line(2, &format!("needs {column}"), &format!("for {key}"));
        }
    }
    for stream in &plan.streams {
        line(0, "", "");
        line(0, &format!("stream {}", stream.name), &format!("{} → {}", stream.from, stream.topic));
        if let Some(each) = &stream.each {
            line(2, "each", &path_text(each, &stream.joins).replacen("record.", "", 1));
        }
        for join in &stream.joins {
            let key = texts(join.key.iter(), &stream.joins).join(", ");
            let table = plan.tables.get(join.table.index()).map_or("", |table| &table.name);
            line(2, &format!("join {}", join.name), &format!("{table} by {key}, missing: {}", join.missing.shown()));
        }
        line(2, "key", &stream.key.as_ref().map_or_else(|| "the input's".to_owned(), |key| template_text(key, &stream.joins)));
        line(
            2,
            "value",
            &stream.value.as_ref().map_or_else(|| "the record and all rows".to_owned(), |value| template_text(value, &stream.joins)),
        );
        for (name, template) in &stream.headers {
            line(2, &format!("header {name}"), &template_text(template, &stream.joins));
        }
        line(2, "bad records", stream.bad.shown());
        line(2, "start", stream.start.shown());
        line(2, "workers", &stream.workers.to_string());
        line(2, "zone", &zone_text(stream));
        line(2, "consumer group", &group(plan, stream));
        line(2, "transactional ids", &transactional_ids(plan, stream).join(", "));
    }
    let topics = Topics::of(plan);
    line(0, "", "");
    line(0, "topics read", &topics.inputs.join(", "));
    line(0, "topics written", &topics.outputs.join(", "));
    line(0, "dead letters", &topics.dead_letters);
    line(0, "", "");
    match plan.http.listen {
        Some(listen) => {
            line(0, "http", &format!("{listen}, {}", if plan.http.token.is_some() { "with a token" } else { "without a token" }));
        }
        None => line(0, "http", "off"),
    }
    line(0, "state", &plan.state.path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string()));
    line(0, "log", &format!("{}, as {}", plan.log.level, plan.log.format.shown()));
    line(0, "", "");
    line(0, "limits", "");
    for (name, value) in limits(&plan.limits) {
        line(2, name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    out
}

/// The plan as JSON; its shape is the one of the configuration, with everything filled in.
pub fn describe_json(plan: &Plan) -> Value {
    let topics = Topics::of(plan);
    json!({
        "name": plan.name,
        "instance": plan.instance,
        "mysql": plan.mysql.as_ref().map(mysql),
        "kafka": {
            "brokers": plan.kafka.brokers,
            "client": client(&plan.kafka).into_iter().map(|(property, value)| (property, Value::String(value))).collect::<serde_json::Map<_, _>>(),
        },
        "tables": plan.tables.iter().map(table).collect::<Vec<_>>(),
        "streams": plan.streams.iter().map(|s| stream(plan, s)).collect::<Vec<_>>(),
        "topics": { "inputs": topics.inputs, "outputs": topics.outputs, "dead_letters": topics.dead_letters },
        "http": http(&plan.http),
        "state": { "path": plan.state.path },
        "limits": limits(&plan.limits).into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<serde_json::Map<_, _>>(),
        "log": { "level": plan.log.level, "format": plan.log.format.shown() },
    })
}

fn mysql(mysql: &MysqlPlan) -> Value {
    json!({
        "address": address(mysql),
        "user": mysql.user,
        "password": MASK,
        "tls": mysql.tls.shown(),
        "tls_ca": mysql.tls_ca,
        "tls_identity": mysql.tls_identity.as_ref().map(|(path, _)| path),
        "tls_identity_password": mysql.tls_identity.as_ref().map(|_| MASK),
        "server_id": mysql.server_id,
        "heartbeat": show_duration(mysql.heartbeat),
        "snapshot_lock": mysql.snapshot_lock.shown(),
        "on_purge": mysql.on_purge.shown(),
        "snapshot_chunk": mysql.snapshot_chunk,
        "snapshot_connections": mysql.snapshot_connections,
    })
}

fn table(table: &TablePlan) -> Value {
    json!({
        "name": table.name,
        "mysql": mysql_name(table),
        "columns": table.columns,
        "key": table.key,
        "cascades": table.cascades.shown(),
        "booleans": table.booleans,
        "decimal": table.decimal.shown(),
        "invalid_text": table.invalid_text.shown(),
        "publish": table.publish.as_ref().map(publish),
        "audit": table.audit.map(show_duration),
        "cache": table.cache.map(|max_bytes| json!({ "max_bytes": show_size(max_bytes) })),
        "history": table.history.as_ref().map(history),
        "needed": table.needed.iter().map(|(column, key)| json!({ "column": column, "by": key })).collect::<Vec<_>>(),
    })
}

fn publish(publish: &PublishPlan) -> Value {
    json!({
        "topic": publish.topic,
        "schemas": publish.schemas,
        "time": publish.time.shown(),
        "decimal": publish.decimal.shown(),
        "bigint_unsigned": publish.bigint_unsigned.shown(),
        "binary": publish.binary.shown(),
        "tombstones": publish.tombstones,
        "transactions": publish.transactions,
        "partitions": publish.partitions,
    })
}

fn history(history: &HistoryPlan) -> Value {
    json!({ "keep": show_duration(history.keep), "max_bytes": show_size(history.max_bytes as u64) })
}

fn stream(plan: &Plan, stream: &StreamPlan) -> Value {
    let join = |join: &JoinPlan| {
        json!({
            "name": join.name,
            "table": plan.tables.get(join.table.index()).map(|table| &table.name),
            "key": texts(join.key.iter(), &stream.joins),
            "missing": join.missing.shown(),
        })
    };
    let paths = |template: &Template| texts(template.paths().into_iter(), &stream.joins);
    let header = |(name, template): &(String, Template)| json!({ "name": name, "paths": paths(template) });
    json!({
        "name": stream.name,
        "from": stream.from,
        "each": stream.each.as_ref().map(|each| path_text(each, &stream.joins).replacen("record.", "", 1)),
        "joins": stream.joins.iter().map(join).collect::<Vec<_>>(),
        "to": {
            "topic": stream.topic,
            "key": stream.key.as_ref().map(|key| json!({ "paths": paths(key) })),
            "value": stream.value.as_ref().map(|value| json!({ "paths": paths(value) })),
            "headers": stream.headers.iter().map(header).collect::<Vec<_>>(),
        },
        "bad": stream.bad.shown(),
        "start": stream.start.shown(),
        "workers": stream.workers,
        "zone": zone_text(stream),
        "group": group(plan, stream),
        "transactional_ids": transactional_ids(plan, stream),
    })
}

fn http(http: &HttpPlan) -> Value {
    json!({
        "listen": http.listen.map(|listen| listen.to_string()),
        "token": http.token.as_ref().map(|_| MASK),
        "body": show_size(http.body_bytes as u64),
        "headers": show_size(http.header_bytes as u64),
        "connections": http.connections,
        "header_timeout": show_duration(http.header_timeout),
    })
}

fn limits(limits: &Limits) -> [(&'static str, Value); 10] {
    let size = |bytes: usize| Value::String(show_size(bytes as u64));
    let time = |duration| Value::String(show_duration(duration));
    [
        ("message_bytes", size(limits.message_bytes)),
        ("json_depth", limits.json_depth.into()),
        ("outputs_per_record", limits.outputs_per_record.into()),
        ("commit_bytes", size(limits.commit_bytes)),
        ("commit_interval", time(limits.commit_interval)),
        ("transaction_bytes", size(limits.transaction_bytes)),
        ("queue_bytes", size(limits.queue_bytes)),
        ("transaction_timeout", time(limits.transaction_timeout)),
        ("session_timeout", time(limits.session_timeout)),
        ("shutdown", time(limits.shutdown)),
    ]
}

// --- names that follow from the plan ---

/// Each once, in order of name.
struct Topics {
    inputs: Vec<String>,
    outputs: Vec<String>,
    dead_letters: String,
}

impl Topics {
    fn of(plan: &Plan) -> Self {
        let sorted = |mut topics: Vec<String>| {
            topics.sort();
            topics.dedup();
            topics
        };
        let published = plan.tables.iter().filter_map(|table| table.publish.as_ref()).map(|publish| publish.topic.clone());
        Self {
            inputs: sorted(plan.streams.iter().map(|stream| stream.from.clone()).collect()),
            outputs: sorted(plan.streams.iter().map(|stream| stream.topic.clone()).chain(published).collect()),
            dead_letters: dead_letters(&plan.name),
        }
    }
}

fn group(plan: &Plan, stream: &StreamPlan) -> String {
    format!("{}.{}", plan.name, stream.name)
}

fn transactional_ids(plan: &Plan, stream: &StreamPlan) -> Vec<String> {
    (0..stream.workers).map(|worker| format!("{}.{}.{}.{worker}", plan.name, stream.name, plan.instance)).collect()
}

// --- parts as text ---

fn address(mysql: &MysqlPlan) -> String {
    if mysql.host.contains(':') { format!("[{}]:{}", mysql.host, mysql.port) } else { format!("{}:{}", mysql.host, mysql.port) }
}

fn client(kafka: &KafkaPlan) -> Vec<(String, String)> {
    let shown = |(property, value): &(String, super::Secret)| {
        let value = if is_secret(property) { MASK } else { value.reveal() };
        (property.clone(), value.to_owned())
    };
    kafka.client.iter().map(shown).collect()
}

/// As it can be written in the configuration.
fn mysql_name(table: &TablePlan) -> String {
    let part = |name: &str| {
        let plain = !name.contains(|c: char| c == '.' || c == '`' || c.is_whitespace());
        if plain { name.to_owned() } else { format!("`{}`", name.replace('`', "``")) }
    };
    format!("{}.{}", part(&table.database), part(&table.table))
}

fn zone_text(stream: &StreamPlan) -> String {
    match stream.zone.iana_name() {
        Some(name) => name.to_owned(),
        None => stream.zone.to_fixed_offset().map(|offset| offset.to_string()).unwrap_or_default(),
    }
}

/// The topic and every option of it.
fn publish_text(publish: &PublishPlan) -> String {
    let mut parts = vec![publish.topic.clone()];
    parts.extend(publish.schemas.then(|| "with schemas".to_owned()));
    parts.push(format!("time {}", publish.time.shown()));
    parts.push(format!("decimal {}", publish.decimal.shown()));
    parts.push(format!("bigint_unsigned {}", publish.bigint_unsigned.shown()));
    parts.push(format!("binary {}", publish.binary.shown()));
    parts.push(if publish.tombstones { "tombstones" } else { "no tombstones" }.to_owned());
    parts.extend(publish.transactions.then(|| "transactions".to_owned()));
    parts.push(format!("partitions {}", publish.partitions));
    parts.join(", ")
}

/// The paths in a template; its literals may be secrets.
fn template_text(template: &Template, joins: &[JoinPlan]) -> String {
    match texts(template.paths().into_iter(), joins) {
        paths if paths.is_empty() => "a literal".to_owned(),
        paths => format!("from {}", paths.join(", ")),
    }
}

fn texts<'a>(paths: impl Iterator<Item = &'a Path>, joins: &[JoinPlan]) -> Vec<String> {
    paths.map(|path| path_text(path, joins)).collect()
}

fn path_text(path: &Path, joins: &[JoinPlan]) -> String {
    let root = match path.root {
        Root::Record => "record",
        Root::Item => "item",
        Root::Index => "index",
        Root::Meta(Meta::Topic) => "meta.topic",
        Root::Meta(Meta::Partition) => "meta.partition",
        Root::Meta(Meta::Offset) => "meta.offset",
        Root::Meta(Meta::Timestamp) => "meta.timestamp",
        Root::Meta(Meta::Key) => "meta.key",
        Root::Join(join) => joins.get(join).map_or("", |join| &join.name),
    };
    let step = |step: &String| if step.contains([' ', '.', '|']) { format!("\"{step}\"") } else { step.clone() };
    std::iter::once(root.to_owned()).chain(path.steps.iter().map(step)).collect::<Vec<_>>().join(".")
}
