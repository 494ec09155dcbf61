//! What the load generator did, and the checkers that hold the outputs against it.
//!
//! An order is known by its number alone: [`order`] says what it holds, so that inputs can be judged without the generator.
//! Every checker is proven by planted faults (invariant I28).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use serde_json::{Value, json};

use crate::support::{Kafka, Record, wait_for};

/// Products 1 to this many are in the table.
pub const PRODUCTS: u64 = 20;
/// Is in no table.
const UNKNOWN_PRODUCT: u64 = 999;
const UNKNOWN_PRODUCT_TEXT: &str = "999";

/// The order of a number: none to three items; one item in fifty orders is of an unknown product.
pub fn order(number: u64) -> Value {
    let product =
        |element: u64| if number % 50 == 17 && element == 0 { UNKNOWN_PRODUCT } else { (number * 7 + element * 3) % PRODUCTS + 1 };
    let items: Vec<Value> =
        (0..number % 4).map(|element| json!({ "productId": product(element).to_string(), "quantity": element + 1 })).collect();
    json!({ "id": number, "items": items })
}

/// What became of the orders that were handed to Kafka.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Partition and offset by number.
    pub acknowledged: BTreeMap<u64, (i32, i64)>,
    /// They may be in the topic or not.
    pub unknown: BTreeSet<u64>,
}

/// Writes orders at a steady pace until told to end.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Ledger>,
}

impl Load {
    pub fn start(kafka: &Kafka, topic: &str, per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let producer = producer(kafka);
        let (topic, told) = (topic.to_owned(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let pause = Duration::from_secs(1) / per_second;
            let mut next = Instant::now();
            for number in 0.. {
                if told.load(Ordering::Acquire) {
                    break;
                }
                write(&producer, &topic, number);
                next += pause;
                producer.poll(next.saturating_duration_since(Instant::now()));
            }
            settle(&producer)
        });
        Self { stop, thread }
    }

    pub fn finish(self) -> Ledger {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the load generator does not panic")
    }
}

/// Writes the orders of these numbers, as fast as it goes.
pub fn write_orders(kafka: &Kafka, topic: &str, numbers: std::ops::Range<u64>) -> Ledger {
    let producer = producer(kafka);
    for number in numbers {
        write(&producer, topic, number);
    }
    settle(&producer)
}

fn producer(kafka: &Kafka) -> BaseProducer<Told> {
    let mut config = kafka.client();
    // Longer than a broker's restart takes.
    config
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "60000")
        .set("linger.ms", "1")
        .set("reconnect.backoff.max.ms", "500");
    config.create_with_context(Told::default()).expect("make a producer")
}

fn write(producer: &BaseProducer<Told>, topic: &str, number: u64) {
    let (key, value) = (format!("order {}", number % 97), order(number).to_string());
    let mut record = BaseRecord::with_opaque_to(topic, Box::new(number)).key(key.as_bytes()).payload(value.as_bytes());
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
            Err((error, _)) => panic!("write order {number}: {error}"),
        }
        producer.poll(Duration::from_millis(10));
    }
}

fn settle(producer: &BaseProducer<Told>) -> Ledger {
    producer.flush(Duration::from_secs(90)).expect("every record has an outcome");
    std::mem::take(&mut *producer.context().0.lock())
}

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Ledger>>);

impl ClientContext for Told {}

impl ProducerContext for Told {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<u64>) {
        let mut ledger = self.0.lock();
        match result {
            Ok(message) => {
                ledger.acknowledged.insert(*number, (message.partition(), message.offset()));
            }
            Err(_) => {
                ledger.unknown.insert(*number);
            }
        }
    }
}

// === what must be ===

/// Everything a run left in its topics, read by an independent client under read_committed.
#[derive(Debug, Clone)]
pub struct Found {
    pub topic: String,
    pub inputs: Vec<Record>,
    pub outputs: Vec<Record>,
    pub dead: Vec<Record>,
    /// Items are joined with products: unknown ones are dead letters.
    pub joined: bool,
}

impl Found {
    /// Waits until the group has read all of `topic`, then reads everything.
    #[track_caller]
    pub fn when_done(kafka: &Kafka, group: &str, topic: &str, output: &str, dead: &str, joined: bool, within: Duration) -> Self {
        let inputs = kafka.read(topic);
        let mut ends = BTreeMap::new();
        for record in &inputs {
            ends.insert(record.partition, record.offset + 1);
        }
        wait_for(&format!("group {group} to have read {} records of {topic}", inputs.len()), within, || {
            let mut committed = kafka.committed(group, topic);
            // Committed by their claim, but nothing to read.
            committed.retain(|partition, next| ends.contains_key(partition) || *next > 0);
            if committed == ends { Ok(()) } else { Err(format!("{committed:?} of {ends:?}")) }
        });
        Self { topic: topic.to_owned(), inputs, outputs: kafka.read(output), dead: kafka.read(dead), joined }
    }

    /// Every way in which what was found is not what must be; empty if all is well.
    pub fn faults(&self, ledger: &Ledger) -> Vec<String> {
        let mut faults = self.inputs_lost(ledger);
        faults.extend(self.not_once());
        faults.extend(self.out_of_order());
        faults.extend(self.torn());
        faults
    }

    #[track_caller]
    pub fn assert_exact(&self, ledger: &Ledger) {
        let faults = self.faults(ledger);
        let first: Vec<_> = faults.iter().take(20).collect();
        assert!(
            faults.is_empty(),
            "{} faults in {} outputs of {} inputs, the first: {first:#?}",
            faults.len(),
            self.outputs.len(),
            self.inputs.len()
        );
    }

    /// Acknowledged orders stand where Kafka said; the others have an unknown outcome.
    fn inputs_lost(&self, ledger: &Ledger) -> Vec<String> {
        let mut faults = Vec::new();
        let mut found = BTreeMap::new();
        for record in &self.inputs {
            found.insert((record.partition, record.offset), number(record));
        }
        for (number, place) in &ledger.acknowledged {
            if found.remove(place) != Some(*number) {
                faults.push(format!("order {number} was acknowledged at {place:?} and is not there"));
            }
        }
        faults.extend(found.values().filter(|number| !ledger.unknown.contains(number)).map(|n| format!("nobody wrote order {n}")));
        faults
    }

    /// Every item is exactly once in the outputs or the dead letters (I1), with its own content, and nothing else is there (I2).
    fn not_once(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut outputs = BTreeMap::new();
        let mut dead = BTreeMap::new();
        for record in &self.inputs {
            let number = number(record);
            for (element, item) in order(number)["items"].as_array().expect("items").iter().enumerate() {
                let origin = format!("{}/{}/{}/{element}", self.topic, record.partition, record.offset);
                let unknown = self.joined && item["productId"] == UNKNOWN_PRODUCT_TEXT;
                let expected = if unknown { &mut dead } else { &mut outputs };
                expected.insert(origin, (number, item.clone()));
            }
        }
        for (what, found, mut expected) in [("output", &self.outputs, outputs), ("dead letter", &self.dead, dead)] {
            let mut seen = BTreeSet::new();
            for record in found {
                let origin = record.header("larder-origin").unwrap_or("(no origin)");
                let is_right = |(number, item): (u64, Value)| {
                    let value = record.json();
                    if what == "output" {
                        value["order"] == number && value["item"] == item && record.key_text() == item["productId"].as_str()
                    } else {
                        value == order(number) && record.header("larder-reason") == Some("missing-row")
                    }
                };
                match expected.remove(origin) {
                    Some(right) if is_right(right.clone()) => {}
                    Some(right) => faults.push(format!("{what} {origin} is {}, must be of {right:?}", record.text())),
                    None if seen.contains(origin) => faults.push(format!("{what} {origin} is there more than once")),
                    None => faults.push(format!("{what} {origin} must not be there")),
                }
                seen.insert(origin);
            }
            faults.extend(expected.keys().map(|origin| format!("{what} {origin} is missing")));
        }
        faults
    }

    /// Outputs of one key keep the order of their input partition (I4).
    fn out_of_order(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut last = BTreeMap::new();
        for record in &self.outputs {
            let Some((partition, place)) = record.header("larder-origin").and_then(|origin| self.place(origin)) else { continue };
            let before = last.insert((record.partition, record.key.clone(), partition), place);
            if before.is_some_and(|before| before >= place) {
                faults.push(format!("key {:?}: {place:?} of partition {partition} comes after {before:?}", record.key_text()));
            }
        }
        faults
    }

    /// Every MySQL transaction of these tests gives all products the same price: the items of one order have it too (I13).
    fn torn(&self) -> Vec<String> {
        let mut prices = BTreeMap::<_, BTreeSet<String>>::new();
        for record in &self.outputs {
            let Some((partition, (offset, _))) = record.header("larder-origin").and_then(|origin| self.place(origin)) else { continue };
            prices.entry((partition, offset)).or_default().insert(record.json()["price"].to_string());
        }
        prices
            .iter()
            .filter(|(_, seen)| seen.len() > 1)
            .map(|(place, seen)| format!("order at {place:?} saw the prices {seen:?}"))
            .collect()
    }

    /// `topic/partition/offset/element` as partition and (offset, element).
    fn place(&self, origin: &str) -> Option<(i32, (i64, u32))> {
        let mut parts = origin.strip_prefix(&self.topic)?.strip_prefix('/')?.split('/');
        let (partition, offset, element) = (parts.next()?, parts.next()?, parts.next()?);
        Some((partition.parse().ok()?, (offset.parse().ok()?, element.parse().ok()?)))
    }
}

fn number(record: &Record) -> u64 {
    record.json()["id"].as_u64().expect("the number of an order")
}

// === the checkers themselves ===

/// A run without a fault, made without servers: `orders` orders in two partitions, outputs in three.
fn flawless(orders: u64) -> (Found, Ledger) {
    let record = |partition, offset, key: &str, value: &Value, headers: &[(&str, &str)]| Record {
        partition,
        offset,
        timestamp: None,
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect(),
    };
    let mut found = Found { topic: "orders".to_owned(), inputs: Vec::new(), outputs: Vec::new(), dead: Vec::new(), joined: true };
    let mut ledger = Ledger::default();
    for number in 0..orders {
        let (partition, offset) = (i32::try_from(number % 2).expect("0 or 1"), i64::try_from(number / 2).expect("small"));
        let order = order(number);
        found.inputs.push(record(partition, offset, "order", &order, &[]));
        ledger.acknowledged.insert(number, (partition, offset));
        for (element, item) in order["items"].as_array().expect("items").iter().enumerate() {
            let origin = format!("orders/{partition}/{offset}/{element}");
            let product = item["productId"].as_str().expect("text");
            if product == UNKNOWN_PRODUCT_TEXT {
                let headers = [("larder-origin", origin.as_str()), ("larder-reason", "missing-row")];
                found.dead.push(record(0, offset, "order", &order, &headers));
            } else {
                let value = json!({ "order": number, "item": item, "price": number / 10 });
                let target = i32::try_from(product.len()).expect("small");
                found.outputs.push(record(target, 0, product, &value, &[("larder-origin", &origin)]));
            }
        }
    }
    (found, ledger)
}

#[test]
fn the_checkers_find_nothing_in_a_flawless_run() {
    let (found, ledger) = flawless(500);
    assert_eq!(found.faults(&ledger), Vec::<String>::new());
    assert!(found.outputs.len() > 700 && found.dead.len() == 10, "{} outputs, {} dead letters", found.outputs.len(), found.dead.len());
}

#[test]
fn the_checkers_find_every_planted_fault() {
    type Plant = fn(&mut Found, &mut Ledger);
    let plants: [(&str, Plant); 12] = [
        ("an output dropped", |found, _| drop(found.outputs.remove(123))),
        ("an output doubled", |found, _| found.outputs.push(found.outputs[123].clone())),
        ("two outputs of a key swapped", |found, _| {
            let first = found.outputs.iter().position(|r| r.key_text() == Some("4")).expect("an output of product 4");
            let same = |r: &Record| r.key_text() == Some("4") && origin_partition(r) == origin_partition(&found.outputs[first]);
            let second = found.outputs.iter().skip(first + 1).position(same).expect("another of the same partition") + first + 1;
            found.outputs.swap(first, second);
        }),
        ("a value flipped", |found, _| found.outputs[7].value = Some(br#"{"order":1,"item":{},"price":0}"#.to_vec())),
        ("an item of another order", |found, _| found.outputs[40].value = found.outputs[80].value.clone()),
        ("a key changed", |found, _| found.outputs[7].key = Some(b"5".to_vec())),
        ("an output of a record that was never there", |found, _| found.outputs[7].headers[0].1 = b"orders/0/100000/0".to_vec()),
        ("an output without origin", |found, _| found.outputs[7].headers.clear()),
        ("a dead letter dropped", |found, _| drop(found.dead.pop())),
        ("an output that is also a dead letter", |found, _| found.dead.push(found.outputs[7].clone())),
        ("two prices in one order", |found, _| {
            let torn =
                found.outputs.iter().position(|r| r.header("larder-origin").is_some_and(|o| o.ends_with("/1"))).expect("a second item");
            let mut value = found.outputs[torn].json();
            value["price"] = json!(999_999);
            found.outputs[torn].value = Some(value.to_string().into_bytes());
        }),
        ("an acknowledged order lost, its outputs too", |found, _| {
            let lost = found.inputs.remove(42);
            let origin = format!("orders/{}/{}/", lost.partition, lost.offset);
            found.outputs.retain(|r| r.header("larder-origin").is_none_or(|o| !o.starts_with(&origin)));
        }),
    ];
    for (name, plant) in plants {
        let (mut found, mut ledger) = flawless(500);
        plant(&mut found, &mut ledger);
        assert!(!found.faults(&ledger).is_empty(), "not found: {name}");
    }
}

fn origin_partition(record: &Record) -> Option<String> {
    Some(record.header("larder-origin")?.split('/').nth(1)?.to_owned())
}
