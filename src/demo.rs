//! `larder demo`: the pizza shop in one process, without any server.
//!
//! ```text
//! thread shop          orders ──► mock Kafka ──► the real worker: join, transaction ──► mock Kafka ──► this thread: judge, print
//!                      price changes ──► the real tables ──┘
//! ```
//!
//! Stand-ins are MySQL (`simulate::Database`, in memory) and Kafka (librdkafka's mock cluster); the configuration, the tables,
//! the join and the worker are those of `larder run`. What always holds: every item is judged against the model, and an item
//! that is missing, doubled, dead-lettered or carries a price of the past makes the demo fail.

mod latency;
mod prices;
mod show;
mod till;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::Timestamp;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::{self, Plan, Secret};
use crate::flow::enrich::{Bounds, Stream};
use crate::flow::status::{State, StreamStatus};
use crate::model::{Stop, TableId};
use crate::simulate::{Database, Shop, products_schema, users_schema};
use crate::table::Tables;
use prices::Prices;
use show::{Screen, Show, grouped};
use till::{Placed, Till};

/// What may be chosen.
#[derive(Debug, Clone)]
pub struct Options {
    /// Orders a second.
    pub rate: f64,
    /// The same seed is the same shop.
    pub seed: u64,
    /// Stops by itself after this time.
    pub length: Option<Duration>,
    /// Time between two price changes.
    pub price_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { rate: USUAL_RATE, seed: 1, length: None, price_interval: Duration::from_secs(10) }
    }
}

/// Orders a second at the shop's own pauses of 60 ms.
const USUAL_RATE: f64 = 1000.0 / 60.0;
const HIGHEST_RATE: f64 = 5_000.0;
const PARTITIONS: i32 = 3;
const CONFIGURATION: &str = include_str!("../apps/pizzashop/larder.toml");
/// The mock answers a fetch that finds nothing after the client's whole waiting time, whatever arrives meanwhile.
const FETCH_WAIT_MS: &str = "5";
const START: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(10);
/// The longest wait of a thread that also looks whether it shall end.
const BREATH: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_secs(1);

/// Plays until a signal, the end of `options.length`, or a closed output. An error is a finding: something that must not happen.
pub fn run(options: &Options) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(Arc::clone(&stop))?;
    let out = io::stdout().lock();
    let bold = out.is_terminal();
    match play(options, &stop, &mut Screen { out, bold }) {
        // Whoever read along has gone: `larder demo | head`.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => Ok(()),
        result => result,
    }
}

/// The first SIGINT or SIGTERM stops in order, the second at once.
fn stop_on_signal(stop: Arc<AtomicBool>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("start the signal thread")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt()).context("listen for SIGINT")?, signal(SignalKind::terminate()).context("listen for SIGTERM")?)
    };
    let listen = move || {
        runtime.block_on(async {
            loop {
                let code = tokio::select! { _ = interrupt.recv() => 130, _ = terminate.recv() => 143 };
                if stop.swap(true, Ordering::AcqRel) {
                    std::process::exit(code);
                }
            }
        });
    };
    thread::Builder::new().name("signals".into()).spawn(listen).context("start the signal thread")?;
    Ok(())
}

fn play(options: &Options, stop: &AtomicBool, screen: &mut Screen<impl Write>) -> Result<()> {
    ensure!(options.rate > 0.0 && options.rate <= HIGHEST_RATE, "the rate is more than 0 and at most {HIGHEST_RATE} orders a second");
    ensure!(!options.price_interval.is_zero(), "prices cannot change without a pause");

    let mut plan = configuration()?;
    let cluster = MockCluster::new(1).context("start the mock cluster")?;
    plan.kafka.brokers = cluster.bootstrap_servers();
    plan.kafka.client.push(("fetch.wait.max.ms".into(), Secret::new(FETCH_WAIT_MS)));
    introduce(&plan, screen)?;

    let shop = Shop::new(options.seed);
    let (tables, database) = open_tables(&plan, &shop)?;
    for table in tables.summaries() {
        screen.line(&format!("table {} ready: {} rows of {}", table.name, grouped(table.rows as u64), table.source))?;
    }

    let stream = stream(plan, Arc::clone(&tables))?;
    for topic in [&stream.plan.from, &stream.plan.topic, &stream.dead_letter_topic()] {
        cluster.create_topic(topic, PARTITIONS, 1).with_context(|| format!("create topic {topic}"))?;
    }
    let (consumer, prices) = (open_reader(&stream)?, Prices::new(shop.products()));
    let bounds = Bounds { output: stream.limits.message_bytes, dead_letters: stream.limits.message_bytes };
    let (closed, placed) = (&AtomicBool::new(false), &Placed::default());

    thread::scope(|scope| {
        // However this ends, the threads are told to end, or the scope would wait for them for ever.
        let _worker_stops = RaiseOnDrop(&stream.stop);
        let _shop_closes = RaiseOnDrop(closed);
        let worker = thread::Builder::new().name("worker".into()).spawn_scoped(scope, || stream.run_worker(0, bounds))?;
        await_worker(&stream.status, &worker, stop, screen)?;

        let (changes, changed) = sync_channel(16);
        let till = Till { shop, database, tables: &tables, topic: &stream.plan.from, brokers: &stream.kafka.brokers, placed };
        let keeper = thread::Builder::new().name("shop".into()).spawn_scoped(scope, move || till.keep(options, closed, &changes))?;

        let mut show = Show::new(consumer, changed, prices, placed, &stream.status, screen);
        let deadline = options.length.map(|length| Instant::now() + length);
        let is_over = || stop.load(Ordering::Acquire) || deadline.is_some_and(|d| Instant::now() >= d);
        show.until(|| is_over() || keeper.is_finished() || worker.is_finished())?;

        closed.store(true, Ordering::Release);
        while !keeper.is_finished() {
            show.step(BREATH)?;
        }
        keeper.join().map_err(|_| anyhow!("the shop panicked"))??;
        show.drain(|| worker.is_finished())?;
        stream.stop.store(true, Ordering::Release);
        worker.join().map_err(|_| anyhow!("the worker panicked"))?.map_err(|stop: Stop| anyhow!(stop))?;
        show.conclude()
    })
}

struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The configuration that users start from, as it is compiled in.
fn configuration() -> Result<Plan> {
    let describe = |config::Errors(errors): config::Errors| {
        let texts: Vec<String> = errors.iter().map(|e| format!("{} {}: {}; {}", e.place, e.key, e.message, e.remedy)).collect();
        anyhow!("the pizza shop's configuration: {}", texts.join("\n"))
    };
    config::parse(CONFIGURATION, "apps/pizzashop/larder.toml", Path::new(".")).map_err(describe)
}

fn introduce(plan: &Plan, screen: &mut Screen<impl Write>) -> Result<()> {
    screen.highlight("larder demo: the pizza shop, everything in one process")?;
    for line in [
        "real       the configuration apps/pizzashop/larder.toml, the tables, the join, the worker and its Kafka client".into(),
        "stand-in   MySQL: the shop's model in memory, its updates applied as transactions; no binlog is read".into(),
        "stand-in   Kafka: librdkafka's mock cluster; no durable log, transactions are accepted but not isolated".into(),
        format!("read along kcat -b {} -t enriched-order-items -o end", plan.kafka.brokers),
    ] {
        screen.line(&line)?;
    }
    Ok(())
}

/// The real tables with the shop's rows in them.
fn open_tables(plan: &Plan, shop: &Shop) -> Result<(Arc<Tables>, Database)> {
    let tables = Arc::new(Tables::new(plan.tables.iter().map(|t| (t.name.clone(), format!("{}.{}", t.database, t.table)))));
    let find =
        |name: &str| -> Result<TableId> { tables.view().find(name).with_context(|| format!("the configuration has no table {name}")) };
    let (products, users) = (find("products")?, find("users")?);
    let database = Database::new(products, Timestamp::now());
    for (table, schema, rows) in
        [(products, products_schema(), database.product_rows(shop.products())), (users, users_schema(), database.user_rows(shop.users()))]
    {
        tables.begin_snapshot(table, Arc::new(schema));
        tables.load(table, rows, 100);
        tables.set_ready(table);
    }
    tables.set_at(&database.at());
    Ok((tables, database))
}

fn stream(plan: Plan, tables: Arc<Tables>) -> Result<Stream> {
    let names: Vec<String> = plan.tables.iter().map(|t| t.name.clone()).collect();
    let stream = Arc::new(plan.streams.into_iter().next().context("the configuration has no stream")?);
    Ok(Stream {
        name: plan.name,
        instance: "demo".into(),
        status: Arc::new(StreamStatus::new(&stream, |id| names[id.index()].clone())),
        plan: stream,
        kafka: plan.kafka,
        limits: plan.limits,
        tables,
        stop: Arc::new(AtomicBool::new(false)),
    })
}

/// Orders are placed only when the worker reads, so that no latency is the start's.
fn await_worker<T>(
    status: &StreamStatus,
    worker: &ScopedJoinHandle<'_, T>,
    stop: &AtomicBool,
    screen: &mut Screen<impl Write>,
) -> Result<()> {
    let began = Instant::now();
    while status.state() != State::Running && !worker.is_finished() && !stop.load(Ordering::Acquire) {
        if began.elapsed() > START {
            bail!("the worker did not start within {} s: {:?}", START.as_secs(), status.state());
        }
        thread::sleep(Duration::from_millis(10));
    }
    screen.line(&format!("stream {} running: joined its consumer group in {:.1} s", status.name, began.elapsed().as_secs_f64()))?;
    Ok(())
}

/// Opens the topic of enriched items at its beginning, outside any group.
fn open_reader(stream: &Stream) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &stream.kafka.brokers)
        .set("group.id", "demo")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", FETCH_WAIT_MS)
        .create()
        .context("open the reader")?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(&stream.plan.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&partitions).context("read the enriched items")?;
    Ok(consumer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen<Vec<u8>> {
        Screen { out: Vec::new(), bold: false }
    }

    #[test]
    fn a_rate_out_of_range_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let options = Options { rate, ..Options::default() };
            assert!(play(&options, &AtomicBool::new(false), &mut screen()).is_err(), "{rate}");
        }
    }

    /// The whole demo: every item placed arrives once, with a price of its time.
    #[test]
    fn the_demo_enriches_every_item_and_shows_price_changes() {
        let options = Options {
            rate: 400.0,
            length: Some(Duration::from_millis(2_500)),
            price_interval: Duration::from_millis(200),
            ..Options::default()
        };
        let mut screen = screen();
        let played = play(&options, &AtomicBool::new(false), &mut screen);
        let text = String::from_utf8(screen.out).expect("the demo prints text");
        played.unwrap_or_else(|error| panic!("{error:#}\n{text}"));
        for expected in ["table products ready: 81 rows of pizzashop.products", "   1 s   ", "next item carries", "stopped after", " @ "] {
            assert!(text.contains(expected), "no `{expected}` in\n{text}");
        }
        assert!(!text.contains('\x1b'), "plain lines where there is no terminal");
    }

    #[test]
    fn a_stop_asked_for_before_the_start_is_followed() {
        let mut screen = screen();
        play(&Options::default(), &AtomicBool::new(true), &mut screen).expect("nothing was lost");
        assert!(String::from_utf8_lossy(&screen.out).contains("0 items placed, 0 enriched"));
    }
}
