//! The `schema` of keys and values, as Kafka Connect's JSON converter writes it: member for member in its order (type, fields or items,
//! optional, name, version, doc, parameters, default, field).

use super::column::{Codec, TimeUnit};
use super::details::ColumnDefault;
use super::json;
use crate::config::plan::{BinaryMode, DecimalMode};
use crate::model::Substitutions;
use crate::model::{Column, ColumnType, Value};

/// Digits of the largest BIGINT UNSIGNED.
const BIGINT_UNSIGNED_DIGITS: u8 = 20;

/// The block `source`, constant.
const SOURCE: &str = concat!(
    r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"version"},{"type":"string","optional":false,"field":"connector"},"#,
    r#"{"type":"string","optional":false,"field":"name"},{"type":"int64","optional":false,"field":"ts_ms"},"#,
    r#"{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"#,
    r#""parameters":{"allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"#,
    r#""default":"false","field":"snapshot"},{"type":"string","optional":false,"field":"db"},"#,
    r#"{"type":"string","optional":true,"field":"sequence"},{"type":"int64","optional":true,"field":"ts_us"},"#,
    r#"{"type":"int64","optional":true,"field":"ts_ns"},{"type":"string","optional":true,"field":"table"},"#,
    r#"{"type":"int64","optional":false,"field":"server_id"},{"type":"string","optional":true,"field":"gtid"},"#,
    r#"{"type":"string","optional":false,"field":"file"},{"type":"int64","optional":false,"field":"pos"},"#,
    r#"{"type":"int32","optional":false,"field":"row"},{"type":"int64","optional":true,"field":"thread"},"#,
    r#"{"type":"string","optional":true,"field":"query"}],"optional":false,"name":"io.debezium.connector.mysql.Source","version":1,"#,
    r#""field":"source"}"#
);

/// The block `transaction` and what follows it, constant.
const END: &str = concat!(
    r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"},{"type":"int64","optional":false,"field":"total_order"},"#,
    r#"{"type":"int64","optional":false,"field":"data_collection_order"}],"optional":true,"name":"event.block","version":1,"#,
    r#""field":"transaction"},{"type":"string","optional":false,"field":"op"},{"type":"int64","optional":true,"field":"ts_ms"},"#,
    r#"{"type":"int64","optional":true,"field":"ts_us"},{"type":"int64","optional":true,"field":"ts_ns"}],"optional":false,"name":"#
);

/// A column as its field in a schema.
pub struct Field<'a> {
    pub column: &'a Column,
    pub codec: Codec,
    pub default: Option<&'a ColumnDefault>,
}

/// `{"type":"struct",…,"name":"<topic>.Key"}`
pub fn key(topic: &str, fields: &[Field<'_>], out: &mut Vec<u8>) {
    structure(fields, out);
    out.extend_from_slice(br#","optional":false,"name":""#);
    json::inside(topic, out);
    out.extend_from_slice(br#".Key"}"#);
}

/// `{"type":"struct",…,"name":"<topic>.Envelope","version":2}`
pub fn envelope(topic: &str, fields: &[Field<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"struct","fields":["#);
    for field in ["before", "after"] {
        structure(fields, out);
        out.extend_from_slice(br#","optional":true,"name":""#);
        json::inside(topic, out);
        out.extend_from_slice(br#".Value","field":""#);
        out.extend_from_slice(field.as_bytes());
        out.extend_from_slice(br#""},"#);
    }
    out.extend_from_slice(SOURCE.as_bytes());
    out.push(b',');
    out.extend_from_slice(END.as_bytes());
    out.push(b'"');
    json::inside(topic, out);
    out.extend_from_slice(br#".Envelope","version":2}"#);
}

/// `{"type":"struct","fields":[…]`, still open.
fn structure(fields: &[Field<'_>], out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"struct","fields":["#);
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        field.write(out);
    }
    out.push(b']');
}

impl Field<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let (kind, name) = self.kind_and_name();
        let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
        text(r#"{"type":""#);
        text(kind);
        text("\"");
        match self.codec {
            Codec::Point => text(concat!(
                r#","fields":[{"type":"double","optional":false,"field":"x"},{"type":"double","optional":false,"field":"y"},"#,
                r#"{"type":"bytes","optional":true,"field":"wkb"},{"type":"int32","optional":true,"field":"srid"}]"#
            )),
            Codec::Geometry => text(concat!(
                r#","fields":[{"type":"bytes","optional":false,"field":"wkb"},"#,
                r#"{"type":"int32","optional":true,"field":"srid"}]"#
            )),
            Codec::Vector => text(r#","items":{"type":"float","optional":false}"#),
            _ => {}
        }
        text(if self.column.nullable { r#","optional":true"# } else { r#","optional":false"# });
        if let Some(name) = name {
            text(r#","name":""#);
            text(name);
            text(r#"","version":1"#);
        }
        match self.codec {
            Codec::Point => text(r#","doc":"Geometry (POINT)""#),
            Codec::Geometry => text(r#","doc":"Geometry""#),
            _ => {}
        }
        self.parameters(out);
        self.default(out);
        out.extend_from_slice(br#","field":"#);
        json::string(&self.column.name, out);
        out.push(b'}');
    }

    /// Connect's type, and the name of what is meant by it.
    fn kind_and_name(&self) -> (&'static str, Option<&'static str>) {
        match self.codec {
            Codec::Number => match self.column.kind {
                ColumnType::Year => ("int32", Some("io.debezium.time.Year")),
                ColumnType::Integer { bytes: 1, .. } | ColumnType::Integer { bytes: 2, unsigned: false } => ("int16", None),
                ColumnType::Integer { bytes: 2 | 3, .. } | ColumnType::Integer { bytes: 4, unsigned: false } => ("int32", None),
                _ => ("int64", None),
            },
            Codec::PackedNumber | Codec::Decimal(DecimalMode::Precise) => ("bytes", Some("org.apache.kafka.connect.data.Decimal")),
            Codec::Boolean => ("boolean", None),
            Codec::Bits { .. } => ("bytes", Some("io.debezium.data.Bits")),
            Codec::Float => ("float", None),
            Codec::WideFloat | Codec::Double | Codec::Decimal(DecimalMode::Double) => ("double", None),
            Codec::Date(unit) => match unit {
                TimeUnit::Connect => ("int32", Some("org.apache.kafka.connect.data.Date")),
                TimeUnit::Text => ("string", Some("io.debezium.time.IsoDate")),
                TimeUnit::Millis | TimeUnit::Micros | TimeUnit::Nanos => ("int32", Some("io.debezium.time.Date")),
            },
            Codec::Time(unit) => match unit {
                TimeUnit::Connect | TimeUnit::Millis => ("int32", Some("org.apache.kafka.connect.data.Time")),
                TimeUnit::Micros => ("int64", Some("io.debezium.time.MicroTime")),
                TimeUnit::Nanos => ("int64", Some("io.debezium.time.NanoTime")),
                TimeUnit::Text => ("string", Some("io.debezium.time.IsoTime")),
            },
            Codec::DateTime(unit) => match unit {
                TimeUnit::Connect => ("int64", Some("org.apache.kafka.connect.data.Timestamp")),
                TimeUnit::Millis => ("int64", Some("io.debezium.time.Timestamp")),
                TimeUnit::Micros => ("int64", Some("io.debezium.time.MicroTimestamp")),
                TimeUnit::Nanos => ("int64", Some("io.debezium.time.NanoTimestamp")),
                TimeUnit::Text => ("string", Some("io.debezium.time.IsoTimestamp")),
            },
            Codec::Timestamp { .. } => ("string", Some("io.debezium.time.ZonedTimestamp")),
            Codec::Text | Codec::Label => match self.column.kind {
                ColumnType::Enum { .. } => ("string", Some("io.debezium.data.Enum")),
                ColumnType::Set { .. } => ("string", Some("io.debezium.data.EnumSet")),
                _ => ("string", None),
            },
            Codec::Decimal(DecimalMode::String) => ("string", None),
            Codec::Bytes(BinaryMode::Bytes) => ("bytes", None),
            Codec::Bytes(BinaryMode::Base64 | BinaryMode::Base64UrlSafe | BinaryMode::Hex) => ("string", None),
            Codec::Json => ("string", Some("io.debezium.data.Json")),
            Codec::Geometry => ("struct", Some("io.debezium.data.geometry.Geometry")),
            Codec::Point => ("struct", Some("io.debezium.data.geometry.Point")),
            Codec::Vector => ("array", Some("io.debezium.data.FloatVector")),
        }
    }

    fn parameters(&self, out: &mut Vec<u8>) {
        match (self.codec, &self.column.kind) {
            (Codec::PackedNumber, _) => packed(BIGINT_UNSIGNED_DIGITS, 0, out),
            (Codec::Decimal(DecimalMode::Precise), &ColumnType::Decimal { precision, scale }) => packed(precision, scale, out),
            (Codec::Bits { .. }, ColumnType::Bit { bits }) => {
                out.extend_from_slice(format!(r#","parameters":{{"length":"{bits}"}}"#).as_bytes());
            }
            (_, ColumnType::Enum { labels } | ColumnType::Set { labels }) => {
                out.extend_from_slice(br#","parameters":{"allowed":""#);
                for (index, label) in labels.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    // A comma inside a label is told from one between two.
                    json::inside(&label.replace(',', r"\,"), out);
                }
                out.extend_from_slice(br#""}"#);
            }
            _ => {}
        }
    }

    /// A default that has no form in the mode chosen is left out.
    fn default(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(br#","default":"#);
        let value = out.len();
        let written = match self.default {
            Some(ColumnDefault::Now) => {
                out.extend_from_slice(self.codec.epoch());
                true
            }
            None | Some(ColumnDefault::Value(Value::Null)) => false,
            Some(ColumnDefault::Value(default)) => {
                self.codec.write(default, self.column.nullable, &mut Substitutions::default(), out).is_ok() && &out[value..] != b"null"
            }
        };
        if !written {
            out.truncate(begin);
        }
    }
}

fn packed(precision: u8, scale: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(format!(r#","parameters":{{"scale":"{scale}","connect.decimal.precision":"{precision}"}}"#).as_bytes());
}
