//! Every metric of the daemon, declared in one place: name, meaning, labels. Values are read from the parts at each scrape.
//!
//! README holds the same table; a test compares them.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt::Error;
use std::sync::Arc;

use crate::flow::status::Overview;
use crate::model::TableId;
use crate::table::{State, Summary};

/// Name without the ending that the format adds to counters, type, meaning.
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricType,
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal $help:literal;)*) => {
        $(const $constant: Metric = Metric { name: $name, kind: MetricType::$kind, help: $help };)*
        /// All of them, in the order of the exposition.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD_INFO: Gauge "larder_build_info" "Always 1; the label `version` says which build runs";
    SOURCE_CONNECTED: Gauge "larder_source_connected" "1 while the binlog of MySQL is being read";
    SOURCE_LAG: Gauge "larder_source_lag_seconds" "Seconds between now and the commit of the last MySQL transaction applied; 0 when nothing is waiting";
    BINLOG_RUNWAY: Gauge "larder_binlog_runway_seconds" "Seconds until the server may purge a binlog file that is still needed: its log expiry less the lag; +Inf where it purges none";
    SOURCE_TRANSACTIONS: Counter "larder_source_transactions" "MySQL transactions applied to the tables";
    SOURCE_LARGE: Counter "larder_source_large_transactions" "MySQL transactions above limits.transaction_bytes, applied in one step all the same";
    SOURCE_RECONNECTS: Counter "larder_source_reconnects" "Times the binlog connection was opened again";
    SOURCE_SKIPPED: Counter "larder_source_skipped_events" "Binlog events of unknown type that carry the ignorable flag";
    SOURCE_SUBSTITUTED: Counter "larder_source_substituted_values" "Values shown by a substitute; label `kind`: zero-date, invalid-text, invalid-enum";
    TABLE_ROWS: Gauge "larder_table_rows" "Rows held; label `table`";
    TABLE_BYTES: Gauge "larder_table_bytes" "Bytes of the rows and keys held; label `table`";
    TABLE_READY: Gauge "larder_table_ready" "1 when joins may use the table; label `table`";
    SNAPSHOT_ROWS: Counter "larder_snapshot_rows" "Rows read by snapshots, those of tables read again counted again; label `table`";
    SNAPSHOT_REMAINING: Gauge "larder_snapshot_remaining_seconds" "Estimate of the time until the snapshot under way has read the table; 0 without one; label `table`";
    CACHE_MISSES: Counter "larder_table_cache_misses" "Rows of bounded tables read from MySQL because they were not in memory; label `table`";
    CACHE_EVICTIONS: Counter "larder_table_cache_evictions" "Rows of bounded tables that made room for others; label `table`";
    PUBLISH_ELECTED: Gauge "larder_publish_elected" "1 while this instance is the one that publishes changes";
    PUBLISH_CHANGES: Counter "larder_publish_changes" "Changes and rows of snapshots published; label `table`";
    PUBLISH_LAG: Gauge "larder_publish_lag_seconds" "Seconds between now and the commit of the last MySQL transaction published; 0 when nothing is waiting";
    AUDIT_DIFFERENCES: Gauge "larder_audit_differences" "Rows that differed from MySQL in the last audit; absent before the first; label `table`";
    AUDIT_TIMESTAMP: Gauge "larder_audit_timestamp_seconds" "End of the last audit that was carried through, seconds since the epoch; label `table`";
    HISTORY_VERSIONS: Gauge "larder_history_versions" "Row versions of the past that are held; only for tables with `history`; label `table`";
    HISTORY_BYTES: Gauge "larder_history_bytes" "Bytes of the row versions of the past; only for tables with `history`; label `table`";
    HISTORY_DROPPED: Counter "larder_history_dropped" "Row versions that went before their time because of `history.max_bytes`; label `table`";
    STORE_FAILING: Gauge "larder_store_failing" "1 while the local store cannot be written; only with `[state] path`";
    STORE_ROWS: Counter "larder_store_rows" "Rows written to the local store or removed from it; only with `[state] path`";
    STREAM_RECORDS: Counter "larder_stream_records" "Input records committed; label `stream`";
    STREAM_OUTPUTS: Counter "larder_stream_outputs" "Output records committed; label `stream`";
    STREAM_LAG: Gauge "larder_stream_lag_records" "Records between the committed offsets and the ends of the partitions held here; label `stream`";
    STREAM_DROPPED: Counter "larder_stream_dropped" "Records or elements dropped by a policy of the configuration; labels `stream`, `reason`";
    STREAM_RUNNING: Gauge "larder_stream_running" "1 while the stream flows, 0 while it waits, is paused or stopped; label `stream`";
    JOIN_LOOKUPS: Counter "larder_join_lookups" "Look-ups of joins; labels `stream`, `table`, `outcome` (hit, miss)";
    DEAD_LETTERS: Counter "larder_dead_letters" "Records written to the dead letters; label `reason`";
    COMMIT_SECONDS: Histogram "larder_commit_seconds" "Time a Kafka transaction took to commit; label `stream`";
    LATENCY_SECONDS: Histogram "larder_latency_seconds" "Time from the timestamp of an input record to the commit of its outputs; label `stream`";
}

/// Reads the parts at each scrape.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub fn new(overview: Arc<Overview>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Reader(overview)));
        Self { registry }
    }

    /// The text exposition (OpenMetrics 1.0).
    pub fn render(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("writing to memory does not fail");
        text
    }
}

struct Reader(Arc<Overview>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let Overview { plan, tables, source, streams, publisher, audits, store, .. } = &*self.0;
        gauge(&mut encoder, &BUILD_INFO, [([("version", env!("CARGO_PKG_VERSION"))], 1.0)])?;
        if let Some(source) = source {
            single(&mut encoder, &SOURCE_CONNECTED, &ConstGauge::new(f64::from(u8::from(source.connected()))))?;
            single(&mut encoder, &SOURCE_LAG, &ConstGauge::new(source.lag_seconds()))?;
            if let Some(runway) = source.runway_seconds() {
                single(&mut encoder, &BINLOG_RUNWAY, &ConstGauge::new(runway))?;
            }
            single(&mut encoder, &SOURCE_TRANSACTIONS, &ConstCounter::new(source.transactions()))?;
            single(&mut encoder, &SOURCE_LARGE, &ConstCounter::new(source.large_transactions()))?;
            single(&mut encoder, &SOURCE_RECONNECTS, &ConstCounter::new(source.reconnects()))?;
            single(&mut encoder, &SOURCE_SKIPPED, &ConstCounter::new(source.skipped_events()))?;
            let substituted = [
                ([("kind", "zero-date")], source.zero_dates()),
                ([("kind", "invalid-text")], source.replaced_text()),
                ([("kind", "invalid-enum")], source.invalid_enums()),
            ];
            counter(&mut encoder, &SOURCE_SUBSTITUTED, substituted)?;
        }
        let tables = tables.summaries();
        gauge(&mut encoder, &TABLE_ROWS, tables.iter().map(|t| ([("table", t.name.as_str())], t.rows as f64)))?;
        gauge(&mut encoder, &TABLE_BYTES, tables.iter().map(|t| ([("table", t.name.as_str())], t.bytes as f64)))?;
        let ready = |state: &State| f64::from(u8::from(*state == State::Ready));
        gauge(&mut encoder, &TABLE_READY, tables.iter().map(|t| ([("table", t.name.as_str())], ready(&t.state))))?;
        counter(&mut encoder, &SNAPSHOT_ROWS, tables.iter().map(|t| ([("table", t.name.as_str())], t.snapshot_rows)))?;
        let remaining = |t: &Summary| t.remaining.map_or(0.0, |left| left.as_secs_f64());
        gauge(&mut encoder, &SNAPSHOT_REMAINING, tables.iter().map(|t| ([("table", t.name.as_str())], remaining(t))))?;
        let audits = audits.all();
        let found = audits.iter().filter_map(|audit| Some(([("table", audit.table.as_str())], audit.report.as_ref()?.found as f64)));
        gauge(&mut encoder, &AUDIT_DIFFERENCES, found)?;
        let finished = audits.iter().filter_map(|audit| Some(([("table", audit.table.as_str())], audit.finished? as f64)));
        gauge(&mut encoder, &AUDIT_TIMESTAMP, finished)?;

        let caches = || tables.iter().filter_map(|t| Some((t.name.as_str(), t.cache?)));
        counter(&mut encoder, &CACHE_MISSES, caches().map(|(name, counts)| ([("table", name)], counts.misses)))?;
        counter(&mut encoder, &CACHE_EVICTIONS, caches().map(|(name, counts)| ([("table", name)], counts.evictions)))?;
        if let Some(publisher) = publisher {
            single(&mut encoder, &PUBLISH_ELECTED, &ConstGauge::new(f64::from(u8::from(publisher.is_elected()))))?;
            let published = (0_u16..).zip(&plan.tables).filter(|(_, table)| table.publish.is_some());
            let changes = published.map(|(index, table)| ([("table", table.name.as_str())], publisher.changes(TableId(index))));
            counter(&mut encoder, &PUBLISH_CHANGES, changes)?;
            single(&mut encoder, &PUBLISH_LAG, &ConstGauge::new(publisher.lag_seconds()))?;
        }

        let past: Vec<_> = tables.iter().filter_map(|t| Some(([("table", t.name.as_str())], t.history?))).collect();
        gauge(&mut encoder, &HISTORY_VERSIONS, past.iter().map(|(table, counts)| (*table, counts.versions as f64)))?;
        gauge(&mut encoder, &HISTORY_BYTES, past.iter().map(|(table, counts)| (*table, counts.bytes as f64)))?;
        counter(&mut encoder, &HISTORY_DROPPED, past.iter().map(|(table, counts)| (*table, counts.dropped)))?;
        if let Some(store) = store {
            single(&mut encoder, &STORE_FAILING, &ConstGauge::new(f64::from(u8::from(store.is_failing()))))?;
            single(&mut encoder, &STORE_ROWS, &ConstCounter::new(store.rows_written()))?;
        }

        counter(&mut encoder, &STREAM_RECORDS, streams.iter().map(|s| ([("stream", s.name.as_str())], s.records())))?;
        counter(&mut encoder, &STREAM_OUTPUTS, streams.iter().map(|s| ([("stream", s.name.as_str())], s.outputs())))?;
        gauge(&mut encoder, &STREAM_LAG, streams.iter().map(|s| ([("stream", s.name.as_str())], s.lag() as f64)))?;
        let mut dropped = encoder.encode_descriptor(STREAM_DROPPED.name, STREAM_DROPPED.help, None, STREAM_DROPPED.kind)?;
        for stream in streams {
            for (reason, count) in stream.dropped() {
                labelled(&mut dropped, &[("stream", stream.name.as_str()), ("reason", reason)], &ConstCounter::new(count))?;
            }
        }
        gauge(&mut encoder, &STREAM_RUNNING, streams.iter().map(|s| ([("stream", s.name.as_str())], f64::from(u8::from(s.is_running())))))?;
        let mut lookups = encoder.encode_descriptor(JOIN_LOOKUPS.name, JOIN_LOOKUPS.help, None, JOIN_LOOKUPS.kind)?;
        for stream in streams {
            for (table, found) in stream.lookups() {
                for (outcome, count) in [("hit", found.hits), ("miss", found.misses)] {
                    let labels = [("stream", stream.name.as_str()), ("table", table.as_str()), ("outcome", outcome)];
                    labelled(&mut lookups, &labels, &ConstCounter::new(count))?;
                }
            }
        }
        let mut dead_letters = std::collections::BTreeMap::<&str, u64>::new();
        for stream in streams {
            for (reason, count) in stream.dead_letters() {
                *dead_letters.entry(reason).or_default() += count;
            }
        }
        counter(&mut encoder, &DEAD_LETTERS, dead_letters.into_iter().map(|(reason, count)| ([("reason", reason)], count)))?;
        for (metric, of) in [(&COMMIT_SECONDS, true), (&LATENCY_SECONDS, false)] {
            let mut histogram = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for stream in streams {
                let values = if of { &stream.commit_seconds } else { &stream.latency_seconds };
                values.encode(histogram.encode_family(&[("stream", stream.name.as_str())])?)?;
            }
        }
        Ok(())
    }
}

fn single(encoder: &mut DescriptorEncoder, metric: &Metric, value: &impl EncodeMetric) -> Result<(), Error> {
    value.encode(encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?)
}

fn gauge<'a, const N: usize>(
    encoder: &mut DescriptorEncoder,
    metric: &Metric,
    values: impl IntoIterator<Item = ([(&'a str, &'a str); N], f64)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
    for (labels, value) in values {
        labelled(&mut family, &labels, &ConstGauge::new(value))?;
    }
    Ok(())
}

fn counter<'a, const N: usize>(
    encoder: &mut DescriptorEncoder,
    metric: &Metric,
    values: impl IntoIterator<Item = ([(&'a str, &'a str); N], u64)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
    for (labels, value) in values {
        labelled(&mut family, &labels, &ConstCounter::new(value))?;
    }
    Ok(())
}

fn labelled(family: &mut MetricEncoder, labels: &[(&str, &str)], metric: &impl EncodeMetric) -> Result<(), Error> {
    metric.encode(family.encode_family(&labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the exposition writes it: counters end in `_total`.
    fn exposed(metric: &Metric) -> String {
        let ending = if matches!(metric.kind, MetricType::Counter) { "_total" } else { "" };
        format!("{}{ending}", metric.name)
    }

    #[test]
    fn the_readme_lists_every_metric_and_no_other() {
        let readme = include_str!("../README.md");
        let listed: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("| `larder_")?.split('`').next()).collect();
        let ours: Vec<String> = ALL.iter().map(|m| exposed(m).trim_start_matches("larder_").to_string()).collect();
        assert_eq!(listed, ours);
    }
}
