//! A real Kafka, and an independent client to write and read with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use testcontainers::ImageExt as _;

use super::container::{self, Container};
use super::{Proxy, block_on, unique, wait_for};

/// For one call to the broker.
const CALL: Duration = Duration::from_secs(30);

pub struct Kafka {
    container: Container,
    /// `host:port`.
    pub brokers: String,
}

impl Kafka {
    /// The broker that all tests of the process share.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Kafka> = LazyLock::new(Kafka::start);
        &SHARED
    }

    /// A broker of one's own, removed on drop. Some seconds.
    pub fn start() -> Self {
        let kafka = Self::start_advertised(|port| format!("127.0.0.1:{port}"));
        kafka.wait_ready();
        kafka
    }

    /// A broker that its clients reach only by way of a proxy: it tells them the proxy's address.
    pub fn start_behind_proxy() -> (Self, Proxy) {
        let mut proxy = None;
        let mut kafka = Self::start_advertised(|port| proxy.insert(Proxy::to(&format!("127.0.0.1:{port}"))).address.clone());
        let proxy = proxy.expect("the broker was told its address");
        kafka.brokers.clone_from(&proxy.address);
        kafka.wait_ready();
        (kafka, proxy)
    }

    fn start_advertised(mut address: impl FnMut(u16) -> String) -> Self {
        let image = container::image("LARDER_TEST_KAFKA_IMAGE", "apache/kafka:4.1.0");
        let mut brokers = String::new();
        let container = Container::start("kafka", &image, 9092, |request, port| {
            brokers = address(port);
            settings(&brokers).into_iter().fold(request, |request, (name, value)| request.with_env_var(name, value))
        });
        Self { container, brokers }
    }

    pub fn wait_ready(&self) {
        wait_for("Kafka to answer", Duration::from_secs(120), || {
            if !self.container.is_running() {
                return Err(format!("its container ended: {}", self.container.log_tail()));
            }
            let metadata = self.reader("read_committed").fetch_metadata(None, Duration::from_secs(2)).map_err(|error| error.to_string())?;
            if metadata.brokers().is_empty() { Err("no broker registered".to_owned()) } else { Ok(()) }
        });
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.container.kill();
    }

    /// Freezes the broker for a time.
    pub fn sleep(&self, how_long: Duration) {
        self.container.pause();
        std::thread::sleep(how_long);
        self.container.unpause();
    }

    /// Starts a killed broker again, at the same address, and waits until it answers.
    pub fn restart(&self) {
        self.container.restart();
        self.wait_ready();
    }

    /// The section `[kafka]` of a configuration.
    pub fn config(&self) -> String {
        format!("[kafka]\nbrokers = \"{}\"\n", self.brokers)
    }

    /// A client configuration with the address alone.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    // === topics ===

    /// Makes a topic of a name nobody else uses.
    pub fn topic(&self, prefix: &str, partitions: i32) -> String {
        let name = unique(prefix);
        self.create_topic(&name, partitions, &[]);
        name
    }

    #[track_caller]
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("make an admin client");
        let results = block_on(admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(CALL))));
        for result in results.expect("ask for a topic") {
            result.unwrap_or_else(|(name, code)| panic!("create topic {name}: {code}"));
        }
        wait_for(&format!("topic {name} to be known"), CALL, || match self.partitions(name) {
            Some(found) if found == partitions => Ok(()),
            other => Err(format!("{other:?} partitions")),
        });
    }

    #[track_caller]
    pub fn delete_topic(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("make an admin client");
        let options = AdminOptions::new().operation_timeout(Some(CALL));
        for result in block_on(admin.delete_topics(&[name], &options)).expect("ask to delete a topic") {
            result.unwrap_or_else(|(_, code)| panic!("delete topic {name}: {code}"));
        }
        wait_for(&format!("topic {name} to be gone"), CALL, || match self.partitions(name) {
            None => Ok(()),
            some => Err(format!("{some:?} partitions")),
        });
    }

    /// Changes settings of a topic.
    #[track_caller]
    pub fn alter_topic(&self, name: &str, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("make an admin client");
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in settings {
            alter = alter.set(key, value);
        }
        let results = block_on(admin.alter_configs([&alter], &AdminOptions::new())).expect("ask to alter a topic");
        for result in results {
            result.unwrap_or_else(|(_, code)| panic!("alter topic {name}: {code}"));
        }
    }

    /// How many partitions a topic has; `None` where there is no such topic.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        let metadata = self.reader("read_committed").fetch_metadata(Some(topic), CALL).expect("ask for a topic's partitions");
        let topic = metadata.topics().first()?;
        if topic.error().is_some() { None } else { i32::try_from(topic.partitions().len()).ok() }
    }

    // === writing ===

    /// Writes messages in their order and waits until the broker has them all.
    #[track_caller]
    pub fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Message>) {
        let failures = Failures::default();
        let mut config = self.client();
        // Keys meet the partitions a Java producer would choose.
        config.set("partitioner", "murmur2_random").set("enable.idempotence", "true").set("linger.ms", "2");
        let producer: BaseProducer<Failures> = config.create_with_context(failures.clone()).expect("make a producer");
        for message in messages {
            send(&producer, topic, &message);
        }
        producer.flush(CALL).expect("write records");
        assert_eq!(failures.0.load(Ordering::SeqCst), 0, "records the broker did not take, topic {topic}");
    }

    /// A producer with transactions, ready to begin one. Use [`send`] with it.
    #[track_caller]
    pub fn transactional_producer(&self, id: &str) -> BaseProducer {
        let producer: BaseProducer =
            self.client().set("transactional.id", id).set("transaction.timeout.ms", "10000").create().expect("make a producer");
        producer.init_transactions(CALL).expect("prepare transactions");
        producer
    }

    // === reading ===

    /// Every record a topic shows to readers of committed transactions, partition by partition, each in order. Ends at the
    /// last stable offset: what stands behind an open transaction is not there yet.
    #[track_caller]
    pub fn read(&self, topic: &str) -> Vec<Record> {
        self.read_with(topic, "read_committed")
    }

    /// The same with open and aborted transactions.
    #[track_caller]
    pub fn read_uncommitted(&self, topic: &str) -> Vec<Record> {
        self.read_with(topic, "read_uncommitted")
    }

    /// Reads a topic until `count` committed records or more are in it.
    #[track_caller]
    pub fn wait_for_records(&self, topic: &str, count: usize, within: Duration) -> Vec<Record> {
        wait_for(&format!("{count} records in {topic}"), within, || {
            if self.partitions(topic).is_none() {
                return Err("no such topic".to_owned());
            }
            let records = self.read(topic);
            if records.len() >= count { Ok(records) } else { Err(format!("{} records", records.len())) }
        })
    }

    /// The next offset of each partition that a consumer group has committed.
    #[track_caller]
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().expect("make a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, self.partitions(topic).expect("a topic that is there") - 1);
        // The coordinator of a new group may still be moving.
        let list = wait_for("committed offsets to be told", CALL, || {
            consumer.committed_offsets(list.clone(), CALL).map_err(|error| error.to_string())
        });
        list.elements()
            .iter()
            .filter_map(|element| Some((element.partition(), element.offset().to_raw().filter(|&offset| offset >= 0)?)))
            .collect()
    }

    /// A consumer of no group.
    pub fn reader(&self, isolation: &str) -> BaseConsumer {
        self.client()
            .set("isolation.level", isolation)
            .set("group.id", "larder-test-reader") // the library asks for one; nothing is committed
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            .set("fetch.message.max.bytes", "104857600")
            .set("fetch.wait.max.ms", "20")
            .create()
            .expect("make a consumer")
    }

    #[track_caller]
    fn read_with(&self, topic: &str, isolation: &str) -> Vec<Record> {
        let mut open = self.partitions(topic).unwrap_or_else(|| panic!("no topic {topic}"));
        let consumer = self.reader(isolation);
        let mut list = TopicPartitionList::new();
        for partition in 0..open {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
        }
        consumer.assign(&list).expect("assign partitions");
        let mut records = Vec::new();
        let mut deadline = Instant::now() + CALL;
        while open > 0 {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    records.push(Record::new(&message));
                    deadline = Instant::now() + CALL;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(error)) => panic!("read {topic}: {error}"),
                None => assert!(Instant::now() < deadline, "read {topic}: no record and no end for {CALL:?}"),
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }
}

/// What is to be written.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    /// Chosen by the key where absent.
    pub partition: Option<i32>,
    /// Epoch milliseconds; now where absent.
    pub timestamp: Option<i64>,
}

impl Message {
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), ..Self::default() }
    }

    pub fn tombstone(key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    pub fn timestamp(mut self, epoch_ms: i64) -> Self {
        self.timestamp = Some(epoch_ms);
        self
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// Epoch milliseconds.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    fn new(message: &rdkafka::message::BorrowedMessage<'_>) -> Self {
        let headers = message
            .headers()
            .map(|headers| headers.iter().map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        }
    }

    /// The key as text; `None` stays `None`.
    pub fn key_text(&self) -> Option<&str> {
        self.key.as_deref().map(|key| std::str::from_utf8(key).expect("a key of text"))
    }

    /// The value as text; a tombstone panics.
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().expect("a value")).expect("a value of text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.text()).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The first header of a name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(std::str::from_utf8(value).expect("a header of text"))
    }
}

/// Hands a message to a producer, waiting while its queue is full.
#[track_caller]
pub fn send<C: ProducerContext<DeliveryOpaque = ()>>(producer: &BaseProducer<C>, topic: &str, message: &Message) {
    let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
    record.key = message.key.as_deref();
    record.payload = message.value.as_deref();
    record.partition = message.partition;
    record.timestamp = message.timestamp;
    if !message.headers.is_empty() {
        let headers =
            message.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        record.headers = Some(headers);
    }
    let deadline = Instant::now() + CALL;
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < deadline => record = back,
            Err((error, _)) => panic!("write to {topic}: {error}"),
        }
        producer.poll(Duration::from_millis(20));
    }
}

/// Counts the records that did not reach the broker.
#[derive(Clone, Default)]
struct Failures(Arc<AtomicUsize>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Properties of one KRaft node as environment variables of the official image, for clients that reach it at `address`.
fn settings(address: &str) -> Vec<(&'static str, String)> {
    let fixed = [
        ("KAFKA_NODE_ID", "1"),
        ("KAFKA_PROCESS_ROLES", "broker,controller"),
        ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093"),
        ("KAFKA_LISTENERS", "PLAINTEXT://0.0.0.0:9092,BROKER://0.0.0.0:9094,CONTROLLER://0.0.0.0:9093"),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "BROKER"),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false"),
        // With the defaults (three replicas) one broker can carry no transaction.
        ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
        ("KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS", "8"),
        ("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1"),
        ("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1"),
        ("KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS", "8"),
        ("KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR", "1"),
        ("KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR", "1"),
        ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
        ("KAFKA_HEAP_OPTS", "-Xms256m -Xmx256m"),
        ("CLUSTER_ID", "5L6g3nShT-eMCtK--X86sw"),
    ];
    let mut settings: Vec<_> = fixed.map(|(name, value)| (name, value.to_owned())).into();
    // The broker reaches itself (transactions!) at a listener of its own: the clients' address leads nowhere inside the container.
    settings.push(("KAFKA_ADVERTISED_LISTENERS", format!("PLAINTEXT://{address},BROKER://localhost:9094")));
    settings
}
