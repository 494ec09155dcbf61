//! Exactly once under everything but repeated kills: owners that die, sleep, come back, join and leave, answers that are lost,
//! partitions that are added and offsets that are gone. Streams without joins: what is proven here is Kafka's side.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::ledger::{Found, Ledger, Load, write_orders};
use crate::support::kafka::send;
use crate::support::{Daemon, Fault, Kafka, Message, Proxy, block_on, unique, wait_for, wait_until};

const CALL: Duration = Duration::from_secs(30);
/// Contract E15.
const TAKEOVER: Duration = Duration::from_secs(15);

/// One stream of orders, without joins, as any number of daemons run it.
struct Shop<'a> {
    kafka: &'a Kafka,
    name: String,
    topic: String,
    output: String,
    /// Lines of `[limits]` and of the stream.
    limits: &'static str,
    stream: &'static str,
}

impl<'a> Shop<'a> {
    fn new(kafka: &'a Kafka, partitions: i32) -> Self {
        let name = unique("shop");
        let output = format!("{name}.items");
        Self { kafka, topic: kafka.topic("orders", partitions), name, output, limits: "", stream: "" }
    }

    fn config(&self, instance: &str) -> String {
        let Self { name, topic, output, limits, stream, .. } = self;
        let kafka = self.kafka.config();
        format!(
            r#"
name = "{name}"
instance = "{instance}"
{kafka}
[streams.items]
from = "{topic}"
each = "items"
{stream}
[streams.items.to]
topic = "{output}"
key = "$item.productId"
[streams.items.to.value]
order = "$record.id"
item = "$item"
[http]
listen = "127.0.0.1:0"
[limits]
{limits}
"#
        )
    }

    fn start(&self, instance: &str) -> Daemon {
        Daemon::start(&self.config(instance), &[])
    }

    fn group(&self) -> String {
        format!("{}.items", self.name)
    }

    #[track_caller]
    fn assert_exact(&self, ledger: &Ledger) -> Found {
        let dead = format!("{}.dead-letters", self.name);
        let found = Found::when_done(self.kafka, &self.group(), &self.topic, &self.output, &dead, false, Duration::from_secs(60));
        found.assert_exact(ledger);
        found
    }

    /// The sum of the ends of the output's partitions: what readers of everything see, and what readers of committed records may
    /// read up to.
    fn ends(&self) -> (i64, i64) {
        (ends(self.kafka, &self.output, "read_uncommitted"), ends(self.kafka, &self.output, "read_committed"))
    }

    /// Waits until a transaction with outputs is open.
    fn wait_open(&self) {
        wait_for("an open transaction", CALL, || match self.ends() {
            (all, stable) if all > stable + 100 => Ok(()),
            other => Err(format!("ends {other:?}")),
        });
    }
}

/// Zero for a topic that is not there yet.
fn ends(kafka: &Kafka, topic: &str, isolation: &str) -> i64 {
    let consumer: BaseConsumer = kafka.client().set("isolation.level", isolation).create().expect("make a consumer");
    let end = |partition| consumer.fetch_watermarks(topic, partition, CALL).expect("ask for the end of a partition").1;
    (0..kafka.partitions(topic).unwrap_or(0)).map(end).sum()
}

// === owners that die, sleep and come back ===

#[test]
fn another_instance_takes_over_and_unblocks_readers_within_fifteen_seconds() {
    let mut shop = Shop::new(Kafka::shared(), 4);
    // The first transaction of the first owner's life, so that only its claim can name it; its offsets are added at its end.
    shop.limits = "commit_interval = \"5s\"\ncommit_bytes = \"1 GiB\"";
    let first = write_orders(shop.kafka, &shop.topic, 0..200_000);
    let mut a = shop.start("a");
    shop.wait_open();
    shop.limits = "";
    a.kill();
    let killed = Instant::now();
    let (blocked, _) = shop.ends();
    let mut b = shop.start("b");
    wait_for("readers of committed records to be let on", 2 * TAKEOVER, || match shop.ends() {
        (_, stable) if stable > blocked => Ok(()),
        (_, stable) => Err(format!("{stable} of {blocked}")),
    });
    let unblocked = killed.elapsed();
    b.wait_for_log("holds 4 partitions");
    let taken = killed.elapsed();
    eprintln!("readers unblocked after {unblocked:?}, partitions taken after {taken:?}");
    assert!(unblocked < TAKEOVER && taken < TAKEOVER, "readers unblocked after {unblocked:?}, partitions taken after {taken:?}");
    shop.assert_exact(&first);
    assert_eq!(b.terminate(), Some(0));
}

#[test]
fn an_owner_that_died_between_its_offsets_and_its_commit_is_ended_too() {
    let shop = Shop::new(Kafka::shared(), 1);
    let ledger = write_orders(shop.kafka, &shop.topic, 0..10);
    shop.kafka.create_topic(&shop.output, 1, &[]);
    // Does as a worker does: a claim in its own name, then a transaction that it never ends.
    let owner = format!("{}.ghost.0", shop.group());
    let producer = shop.kafka.transactional_producer(&owner);
    let consumer: BaseConsumer = shop.kafka.client().set("group.id", shop.group()).create().expect("make a consumer");
    let group = consumer.group_metadata().expect("a consumer of a group");
    let mut offsets = TopicPartitionList::new();
    for next in [0, 10] {
        let mut element = offsets.add_partition(&shop.topic, 0);
        element.set_offset(Offset::Offset(next)).expect("a valid offset");
        element.set_metadata(&owner);
        producer.begin_transaction().expect("begin");
        if next == 10 {
            send(&producer, &shop.output, &Message::new("k", "torn").header("larder-origin", "torn"));
            producer.flush(CALL).expect("flush");
        }
        producer.send_offsets_to_transaction(&offsets, &group, CALL).expect("send offsets");
        if next == 0 {
            producer.commit_transaction(CALL).expect("commit the claim");
            offsets = TopicPartitionList::new();
        }
    }
    let began = Instant::now();
    let mut b = shop.start("b");
    b.wait_ready();
    let found = shop.assert_exact(&ledger);
    assert!(!found.outputs.is_empty());
    assert!(began.elapsed() < Duration::from_secs(8), "not ended, but timed out by the coordinator: {:?}", began.elapsed());
    assert_eq!(b.terminate(), Some(0));
}

#[test]
fn a_sleeper_whose_id_was_taken_ends_with_exit_code_4_and_leaves_nothing_behind() {
    let mut shop = Shop::new(Kafka::shared(), 2);
    shop.limits = "commit_interval = \"5s\"\ncommit_bytes = \"1 GiB\"";
    let mut ledger = write_orders(shop.kafka, &shop.topic, 0..100_000);
    let mut a = shop.start("same");
    shop.wait_open();
    a.signal("STOP");
    let mut b = shop.start("same");
    b.wait_ready();
    a.signal("CONT");
    assert_eq!(a.wait_exit(), Some(4));
    let last = a.log().pop().expect("a last line");
    assert!(last.contains("in use by another process") && last.contains("same"), "{last}");
    let more = write_orders(shop.kafka, &shop.topic, 100_000..100_100);
    ledger.acknowledged.extend(more.acknowledged);
    shop.assert_exact(&ledger);
    assert_eq!(b.terminate(), Some(0));
}

#[test]
fn a_sleeper_that_the_group_gave_up_does_not_take_its_id_back() {
    let mut shop = Shop::new(Kafka::shared(), 1);
    shop.limits = "session_timeout = \"6s\"";
    let mut ledger = write_orders(shop.kafka, &shop.topic, 0..100);
    let mut a = shop.start("same");
    a.wait_ready();
    a.signal("STOP");
    let slept = Instant::now();
    let mut b = shop.start("same");
    b.wait_ready();
    // Longer than its session: the library would join again as if it were new.
    wait_until("the session of the sleeper to be over", CALL, || slept.elapsed() > Duration::from_secs(9));
    a.signal("CONT");
    assert_eq!(a.wait_exit(), Some(4));
    let more = write_orders(shop.kafka, &shop.topic, 100..200);
    ledger.acknowledged.extend(more.acknowledged);
    shop.assert_exact(&ledger);
    assert_eq!(b.terminate(), Some(0));
}

#[test]
fn a_sleeper_nobody_replaced_goes_on() {
    let mut shop = Shop::new(Kafka::shared(), 2);
    shop.limits = "commit_interval = \"1s\"\ncommit_bytes = \"1 GiB\"\ntransaction_timeout = \"2s\"\nsession_timeout = \"6s\"";
    let mut ledger = write_orders(shop.kafka, &shop.topic, 0..100_000);
    let mut a = shop.start("a");
    shop.wait_open();
    a.signal("STOP");
    wait_for("the coordinator to time out its transaction", CALL, || match shop.ends() {
        (all, stable) if all == stable => Ok(()),
        other => Err(format!("ends {other:?}")),
    });
    a.signal("CONT");
    let more = write_orders(shop.kafka, &shop.topic, 100_000..100_100);
    ledger.acknowledged.extend(more.acknowledged);
    shop.assert_exact(&ledger);
    assert_eq!(a.terminate(), Some(0));
}

// === rebalances ===

#[test]
fn members_that_join_leave_and_die_under_load_lose_and_double_nothing() {
    let mut shop = Shop::new(Kafka::shared(), 4);
    shop.limits = "session_timeout = \"6s\"";
    let mut a = shop.start("a");
    a.wait_ready();
    let load = Load::start(shop.kafka, &shop.topic, 400);
    let mut b = shop.start("b");
    b.wait_for_log("holds 2 partitions");
    assert_eq!(b.terminate(), Some(0));
    let held = |a: &Daemon| a.log().iter().filter(|line| line.contains("holds 4 partitions")).count();
    wait_until("the first instance to hold all again", CALL, || held(&a) == 2);
    b.start_again();
    b.wait_for_log("holds 2 partitions");
    b.kill();
    wait_until("the first instance to hold all again", CALL, || held(&a) == 3);
    let ledger = load.finish();
    shop.assert_exact(&ledger);
    assert_eq!(a.terminate(), Some(0));
}

#[test]
fn partitions_added_under_load_are_read_from_their_first_record() {
    for start in ["", "start = \"latest\"\nworkers = 2"] {
        let mut shop = Shop::new(Kafka::shared(), 4);
        shop.stream = start;
        let mut daemon = shop.start("a");
        daemon.wait_ready();
        // A leader that came back is told by the broker that it is none.
        daemon.kill();
        daemon.start_again();
        daemon.wait_ready();
        let load = Load::start(shop.kafka, &shop.topic, 200);
        let admin: AdminClient<DefaultClientContext> = shop.kafka.client().create().expect("make an admin client");
        let grow = NewPartitions::new(&shop.topic, 8);
        let grown = block_on(admin.create_partitions([&grow], &AdminOptions::new())).expect("ask for partitions");
        assert!(grown.iter().all(Result::is_ok), "{grown:?}");
        wait_until("the topic to have 8 partitions", CALL, || shop.kafka.partitions(&shop.topic) == Some(8));
        let mut ledger = load.finish();
        // The load's own client learns of them late.
        let more = write_orders(shop.kafka, &shop.topic, 1_000_000..1_001_000);
        assert!(more.acknowledged.values().any(|&(partition, _)| partition >= 4), "the new partitions got nothing");
        ledger.acknowledged.extend(more.acknowledged);
        shop.assert_exact(&ledger);
        assert_eq!(daemon.terminate(), Some(0));
    }
}

// === positions ===

#[test]
fn a_start_at_the_latest_records_stays_where_it_was_over_a_kill() {
    let mut shop = Shop::new(Kafka::shared(), 4);
    shop.stream = "start = \"latest\"\nworkers = 2";
    let old = write_orders(shop.kafka, &shop.topic, 0..100);
    let mut daemon = shop.start("a");
    daemon.wait_ready();
    daemon.kill();
    let new = write_orders(shop.kafka, &shop.topic, 100..200);
    daemon.start_again();
    let dead = format!("{}.dead-letters", shop.name);
    let mut found = Found::when_done(shop.kafka, &shop.group(), &shop.topic, &shop.output, &dead, false, CALL);
    let old: Vec<_> = old.acknowledged.into_values().collect();
    found.inputs.retain(|record| !old.contains(&(record.partition, record.offset)));
    found.assert_exact(&new);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_committed_offset_below_the_log_stops_the_stream_and_says_how_far() {
    let shop = Shop::new(Kafka::shared(), 1);
    write_orders(shop.kafka, &shop.topic, 0..10);
    let mut daemon = shop.start("a");
    wait_until("ten orders read", CALL, || shop.kafka.committed(&shop.group(), &shop.topic).get(&0) == Some(&10));
    assert_eq!(daemon.terminate(), Some(0));
    write_orders(shop.kafka, &shop.topic, 10..30);
    let admin: AdminClient<DefaultClientContext> = shop.kafka.client().create().expect("make an admin client");
    let mut until = TopicPartitionList::new();
    until.add_partition_offset(&shop.topic, 0, Offset::Offset(17)).expect("a valid offset");
    block_on(admin.delete_records(&until, &AdminOptions::new())).expect("delete records");
    daemon.start_again();
    let line = daemon.wait_for_log("records were deleted before they were read");
    assert!(line.contains("committed 10") && line.contains("17 to 30") && line.contains("7 records"), "{line}");
    let ready = daemon.get("/ready");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("offsets-lost"), "{}", ready.body);
    assert!(!daemon.has_ended());
    assert_eq!(shop.kafka.committed(&shop.group(), &shop.topic).get(&0), Some(&10), "the place is kept for whoever mends it");
    assert_eq!(daemon.terminate(), Some(0));
}

// === answers that are lost ===

#[test]
fn a_commit_whose_answer_is_lost_happens_once() {
    let (kafka, proxy): (Kafka, Proxy) = Kafka::start_behind_proxy();
    let shop = Shop::new(&kafka, 2);
    let mut daemon = shop.start("a");
    daemon.wait_ready();
    let load = Load::start(&kafka, &shop.topic, 200);
    for round in 1..=10 {
        // EndTxn has the key 26 in Kafka's protocol.
        proxy.set(Fault::LoseAnswerTo { api_key: 26 });
        wait_until("the answer to a commit to be lost", CALL, || proxy.lost_answers() == round);
    }
    let ledger = load.finish();
    shop.assert_exact(&ledger);
    assert_eq!(daemon.terminate(), Some(0));
}
