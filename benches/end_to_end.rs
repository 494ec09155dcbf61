//! Enrichment end to end on a real broker, exactly once, against a raw pass-through of the same bytes in the same run.
//!
//! Both read the same orders and write the same output records (keys, values, headers) in transactions of the same limits, with
//! the same client properties; only that the pass-through takes the outputs ready-made from memory: no parsing, no join.
//! Times are CPU seconds of this process (librdkafka's threads included, the broker's not), alternating, the median of the rounds.
//!
//! `LARDER_BENCH_KAFKA` names a broker; without it one is started in a container. `LARDER_BENCH_ORDERS`: 200000 unless set.

#![expect(clippy::print_stdout, reason = "the report is what a bench is for")]

#[path = "../tests/it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the bench needs the broker alone")]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::config::plan::{KafkaPlan, Limits};
use larder::config::{self, Plan};
use larder::flow::enrich::{Bounds, Stream};
use larder::flow::outputs::Outputs;
use larder::flow::status::StreamStatus;
use larder::join::{Enricher, Input};
use larder::kafka::client::{Role, config as client_config};
use larder::model::{Position, TableId};
use larder::simulate::{Database, Shop, products_schema};
use larder::table::Tables;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const PARTITIONS: i32 = 4;
/// Different orders; the topic repeats them.
const KINDS: usize = 1000;
const ROUNDS: usize = 5;

fn main() {
    let orders: usize = std::env::var("LARDER_BENCH_ORDERS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let started;
    let brokers = match std::env::var("LARDER_BENCH_KAFKA") {
        Ok(brokers) => brokers,
        Err(_) => {
            started = support::Kafka::start();
            started.brokers.clone()
        }
    };
    let bench = Bench::prepare(brokers, orders);
    println!("{orders} orders, {:.2} items each, {} bytes out each on average", bench.items_per_order(), bench.bytes_per_item());

    let mut cpu = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for (which, run) in [bench.pass_through(round), bench.larder(round)].into_iter().enumerate() {
            let name = ["pass-through", "larder"][which];
            println!("{name:12} {:7.2} s wall {:7.2} s CPU  {:9.0} orders per CPU second", run.wall, run.cpu, orders as f64 / run.cpu);
            cpu[which].push(run.cpu);
        }
    }
    let [raw, larder] = cpu.map(median);
    println!("median: larder does {:.0} % of the pass-through's orders per CPU second", 100.0 * raw / larder);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[derive(Debug, Clone, Copy)]
struct Run {
    wall: f64,
    cpu: f64,
}

struct Bench {
    plan: Plan,
    tables: Arc<Tables>,
    orders: usize,
    input: String,
    /// Key and value of every output of every kind of order.
    outputs: Vec<Vec<(Vec<u8>, Vec<u8>)>>,
    at: String,
}

impl Bench {
    fn prepare(brokers: String, orders: usize) -> Self {
        let text = include_str!("../apps/pizzashop/larder.toml");
        let mut plan = config::parse(text, "larder.toml", Path::new(".")).expect("the shop's configuration is right");
        plan.kafka.brokers = brokers;
        let mut shop = Shop::new(7);
        let tables = Arc::new(Tables::new(plan.tables.iter().map(|t| (t.name.clone(), format!("{}.{}", t.database, t.table)))));
        let products =
            TableId(u16::try_from(plan.tables.iter().position(|t| t.name == "products").expect("a table of products")).expect("few"));
        let now = jiff::Timestamp::now();
        let database = Database::new(products, now);
        tables.begin_snapshot(products, Arc::new(products_schema()));
        tables.load(products, database.product_rows(shop.products()), 100);
        tables.set_ready(products);
        tables.set_at(&database.at(), Position::default());

        let kinds: Vec<String> = (0..KINDS).map(|_| shop.place_order(now).json()).collect();
        let mut enricher = Enricher::new(Arc::new(plan.streams[0].clone()));
        let outputs = kinds.iter().map(|order| outputs_of(&mut enricher, order, &tables)).collect();
        let input = support::unique("bench_orders");
        let bench = Self { plan, tables, orders, input, outputs, at: database.at() };
        bench.create(&bench.input);
        bench.fill(&kinds);
        bench
    }

    fn items_per_order(&self) -> f64 {
        self.outputs.iter().map(Vec::len).sum::<usize>() as f64 / KINDS as f64
    }

    fn bytes_per_item(&self) -> usize {
        let all: Vec<usize> = self.outputs.iter().flatten().map(|(_, value)| value.len()).collect();
        all.iter().sum::<usize>() / all.len()
    }

    fn kafka(&self) -> &KafkaPlan {
        &self.plan.kafka
    }

    fn limits(&self) -> &Limits {
        &self.plan.limits
    }

    fn create(&self, topic: &str) {
        let topics = larder::kafka::topics::Topics::new(self.kafka(), self.limits()).expect("the broker answers");
        topics.create(topic, PARTITIONS, &[]).expect("a topic can be made");
        support::wait_until("the topic to be known", Duration::from_secs(10), || matches!(topics.find(topic), Ok(Some(_))));
    }

    /// Writes the orders; the key is the number of the kind.
    fn fill(&self, kinds: &[String]) {
        let mut config = client_config(self.kafka(), self.limits(), &Role::Admin);
        config
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20")
            .set("compression.type", "lz4")
            .set("queue.buffering.max.kbytes", "65536");
        let producer: BaseProducer = config.create().expect("a producer");
        for n in 0..self.orders {
            let (key, value) = ((n % KINDS).to_string(), &kinds[n % KINDS]);
            let mut record = BaseRecord::to(&self.input).key(key.as_bytes()).payload(value.as_bytes());
            while let Err((_, again)) = producer.send(record) {
                record = again;
                producer.poll(Duration::from_millis(10));
            }
        }
        producer.flush(Duration::from_secs(60)).expect("the orders are written");
    }

    fn larder(&self, round: usize) -> Run {
        let name = format!("{}_larder_{round}", self.input);
        let mut plan = self.plan.streams[0].clone();
        plan.from = self.input.clone();
        plan.topic = format!("{name}_out");
        self.create(&plan.topic);
        let plan = Arc::new(plan);
        let stream = Stream {
            name,
            instance: "bench".into(),
            status: Arc::new(StreamStatus::new(&plan, |_| "products".into())),
            plan,
            kafka: self.kafka().clone(),
            limits: self.limits().clone(),
            tables: Arc::clone(&self.tables),
            stop: Arc::new(AtomicBool::new(false)),
        };
        self.create(&stream.dead_letter_topic());
        let bounds = Bounds { output: self.limits().message_bytes, dead_letters: self.limits().message_bytes };
        let clock = Clock::start();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while stream.status.records() < self.orders as u64 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                stream.stop.store(true, Ordering::Release);
            });
            stream.run_worker(0, bounds).expect("the worker runs to its end");
        });
        let run = clock.stop();
        assert_eq!(stream.status.outputs() as usize, self.expected_outputs(), "every item was written");
        run
    }

    /// Reads every order and writes its ready-made outputs, in transactions, offsets with them.
    fn pass_through(&self, round: usize) -> Run {
        let name = format!("{}_raw_{round}", self.input);
        let topic = format!("{name}_out");
        self.create(&topic);
        let clock = Clock::start();
        let producer: BaseProducer =
            client_config(self.kafka(), self.limits(), &Role::Producer { transactional_id: name.clone() }).create().expect("a producer");
        producer.init_transactions(Duration::from_secs(30)).expect("transactions");
        let mut config = client_config(self.kafka(), self.limits(), &Role::Consumer { group: name.clone(), instance: name.clone() });
        let consumer: BaseConsumer = config.set("auto.offset.reset", "earliest").create().expect("a consumer");
        consumer.subscribe(&[&self.input]).expect("a subscription");
        let (mut done, mut written, mut bytes, mut began) = (0, 0, 0, None::<Instant>);
        let mut offsets = BTreeMap::new();
        while done < self.orders || began.is_some() {
            let message = consumer.poll(Duration::from_millis(if began.is_some() { 1 } else { 100 }));
            let message = message.map(|message| message.expect("the broker answers"));
            if let Some(message) = &message {
                if began.is_none() {
                    producer.begin_transaction().expect("a transaction");
                    began = Some(Instant::now());
                }
                let kind: usize = std::str::from_utf8(message.key().expect("orders have keys")).expect("text").parse().expect("a number");
                for (element, (key, value)) in self.outputs[kind].iter().enumerate() {
                    let origin = format!("{}/{}/{}/{element}", self.input, message.partition(), message.offset());
                    let headers = OwnedHeaders::new_with_capacity(2)
                        .insert(Header { key: "larder-origin", value: Some(&origin) })
                        .insert(Header { key: "larder-at", value: Some(&self.at) });
                    let mut record = BaseRecord::<[u8], [u8]>::to(&topic).key(key).payload(value).headers(headers);
                    record.timestamp = message.timestamp().to_millis();
                    while let Err((_, again)) = producer.send(record) {
                        record = again;
                        producer.poll(Duration::ZERO);
                        std::thread::sleep(Duration::from_micros(100));
                    }
                    bytes += key.len() + value.len();
                    written += 1;
                }
                offsets.insert(message.partition(), message.offset() + 1);
                done += 1;
            }
            let due = began.is_some_and(|b| bytes >= self.limits().commit_bytes || b.elapsed() >= self.limits().commit_interval);
            if began.is_some() && (message.is_none() || due) {
                self.commit(&producer, &consumer, &offsets);
                (bytes, began) = (0, None);
                offsets.clear();
            }
        }
        assert_eq!(written, self.expected_outputs());
        drop(consumer);
        clock.stop()
    }

    fn commit(&self, producer: &BaseProducer, consumer: &BaseConsumer, offsets: &BTreeMap<i32, i64>) {
        let mut list = TopicPartitionList::new();
        for (&partition, &next) in offsets {
            list.add_partition_offset(&self.input, partition, Offset::Offset(next)).expect("an offset");
        }
        let group = consumer.group_metadata().expect("a group");
        producer.send_offsets_to_transaction(&list, &group, Duration::from_secs(10)).expect("offsets");
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(100));
        }
        producer.commit_transaction(Duration::from_secs(10)).expect("a commit");
    }

    fn expected_outputs(&self) -> usize {
        (0..self.orders).map(|n| self.outputs[n % KINDS].len()).sum()
    }
}

fn outputs_of(enricher: &mut Enricher, order: &str, tables: &Tables) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut outputs = Outputs::within(usize::MAX);
    let input = Input { topic: "orders", partition: 0, offset: 0, timestamp_ms: Some(0), key: None, value: Some(order.as_bytes()) };
    enricher.process(&input, &tables.view(), &mut outputs);
    let both = |w| (outputs.key(w).unwrap_or_default().to_vec(), outputs.value(w).to_vec());
    outputs.written.iter().map(both).collect()
}

/// Wall time and CPU time of the whole process.
struct Clock {
    wall: Instant,
    cpu: f64,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_seconds() }
    }

    fn stop(self) -> Run {
        Run { wall: self.wall.elapsed().as_secs_f64(), cpu: cpu_seconds() - self.cpu }
    }
}

/// User and system time of this process so far, from `/proc/self/stat` (fields 14 and 15, in hundredths of a second).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells process times");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a name in parentheses").split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}
