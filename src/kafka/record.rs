//! Records we write: their headers (contract E5, E9) and the dead letter.

use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// `topic/partition/offset[/element]`: the identity of what an output was made from (promise W1).
pub fn write_origin(out: &mut String, topic: &str, partition: i32, offset: i64, element: Option<u32>) {
    out.clear();
    let _ = write!(out, "{topic}/{partition}/{offset}");
    if let Some(element) = element {
        let _ = write!(out, "/{element}");
    }
}

/// The input's headers, then the configuration's, then `larder-origin` and, where MySQL tables are joined, `larder-at`.
pub fn output_headers(message: &BorrowedMessage<'_>, configured: &[(&str, &[u8])], origin: &str, at: &str) -> OwnedHeaders {
    let mut headers = input_headers(message, configured.len() + 2);
    for (key, value) in configured {
        headers = headers.insert(Header { key, value: Some(*value) });
    }
    headers = headers.insert(Header { key: "larder-origin", value: Some(origin) });
    if !at.is_empty() {
        headers = headers.insert(Header { key: "larder-at", value: Some(at) });
    }
    headers
}

/// Most that the frame of a batch with one record takes: 61 bytes of the batch, then lengths and numbers of the record.
const FRAME_BYTES: usize = 61 + 32;
/// Most that the two lengths of a header take.
const HEADER_BYTES: usize = 10;

/// Bytes of headers as they are sent, and the frame around the record.
pub fn header_bytes(headers: Option<&impl Headers>) -> usize {
    let bytes = |header: Header<'_, &[u8]>| HEADER_BYTES + header.key.len() + header.value.map_or(0, <[u8]>::len);
    FRAME_BYTES + headers.map_or(0, |headers| headers.iter().map(bytes).sum())
}

/// Bytes that [`output_headers`] adds to the input's.
pub fn added_bytes(configured: &[(&str, &[u8])], origin: &str, at: &str) -> usize {
    let own = 2 * HEADER_BYTES + "larder-origin".len() + origin.len() + "larder-at".len() + at.len();
    own + configured.iter().map(|(key, value)| HEADER_BYTES + key.len() + value.len()).sum::<usize>()
}

fn input_headers(message: &BorrowedMessage<'_>, more: usize) -> OwnedHeaders {
    match message.headers() {
        Some(headers) => headers.detach(),
        None => OwnedHeaders::new_with_capacity(more),
    }
}

/// Why a record became a dead letter.
#[derive(Debug, Clone, Copy)]
pub struct Death<'a> {
    pub stream: &'a str,
    /// `decode`, `join`, `place`, `shape` or `feed`.
    pub stage: &'a str,
    /// From the closed list of design 6.
    pub reason: &'a str,
    pub message: &'a str,
    pub origin: &'a str,
}

/// The input's headers, then Kafka Connect's names for topic, partition, offset, stage, class and message, then ours.
pub fn dead_letter_headers(message: &BorrowedMessage<'_>, death: &Death<'_>) -> OwnedHeaders {
    let partition = message.partition().to_string();
    let offset = message.offset().to_string();
    let mut headers = input_headers(message, 9);
    for (key, value) in [
        ("__connect.errors.topic", message.topic()),
        ("__connect.errors.partition", partition.as_str()),
        ("__connect.errors.offset", offset.as_str()),
        ("__connect.errors.stage", death.stage),
        ("__connect.errors.exception.class.name", death.reason),
        ("__connect.errors.exception.message", death.message),
        ("larder-reason", death.reason),
        ("larder-origin", death.origin),
        ("larder-stream", death.stream),
    ] {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    headers
}

/// What stands in the place of a value that no record can carry: `{"origin","bytes","sha256"}` (contract E9).
pub fn reference(origin: &str, value: &[u8]) -> Vec<u8> {
    let mut digest = String::with_capacity(64);
    for byte in Sha256::digest(value) {
        let _ = write!(digest, "{byte:02x}");
    }
    serde_json::json!({ "origin": origin, "bytes": value.len(), "sha256": digest }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_name_topic_partition_offset_and_element() {
        let mut origin = String::from("old");
        write_origin(&mut origin, "orders", 3, 42, None);
        assert_eq!(origin, "orders/3/42");
        write_origin(&mut origin, "orders", 3, 42, Some(0));
        assert_eq!(origin, "orders/3/42/0");
    }

    #[test]
    fn references_carry_size_and_digest() {
        let text = String::from_utf8(reference("orders/0/1", b"abc")).expect("JSON is text");
        assert_eq!(
            text,
            r#"{"bytes":3,"origin":"orders/0/1","sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}"#
        );
    }
}
