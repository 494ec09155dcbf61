//! `larder demo`: the pizza shop in one process, without any server.
//!
//! ```text
//! shop thread   orders ─────────► mock Kafka ──► real worker: join, transaction ──► mock Kafka ──► main thread: judge, tell
//!               price changes ──► real tables ──────┘
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
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::{self, Plan, Secret};
use crate::flow::enrich::{Bounds, Stream};
use crate::flow::status::{State, StreamStatus};
use crate::model::{Position, Stop, TableId};
use crate::simulate::{Database, Shop, products_schema, users_schema};
use crate::table::Tables;
use prices::Prices;
use show::{Screen, Show, grouped};
use till::{Placed, Till};

/// What may be chosen.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Orders a second, at most 5000
    #[arg(long, value_name = "ORDERS", default_value = "16.7")]
    rate: Rate,
    /// Another number is another day in the shop
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Stops by itself after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Time between two price changes
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    price_every: Duration,
}

/// Orders a second, in a range that one process can place.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate(f64);

const HIGHEST_RATE: f64 = 5_000.0;

impl Rate {
    /// The pause before the next order, where the shop at its own pace (60 ms on average) would make this one.
    fn pause(self, usual: Duration) -> Duration {
        usual.mul_f64(1000.0 / 60.0 / self.0)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let in_range = |rate: &f64| *rate >= 0.01 && *rate <= HIGHEST_RATE;
        text.parse().ok().filter(in_range).map(Self).ok_or_else(|| format!("a number from 0.01 to {HIGHEST_RATE} is needed"))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let duration = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let in_range = |duration: &Duration| (Duration::from_millis(1)..=DAY * 365).contains(duration);
    duration.filter(in_range).ok_or_else(|| "a number of seconds is needed, from 0.001 to a year".into())
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PARTITIONS: i32 = 3;
const CONFIGURATION: &str = include_str!("../apps/pizzashop/larder.toml");
/// The mock answers a fetch that finds nothing after the client's whole waiting time, whatever arrives meanwhile.
const FETCH_WAIT_MS: &str = "5";
const START: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(10);
/// The longest wait of a thread that also looks whether it shall end.
const BREATH: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_secs(1);

/// Plays until a signal, the end of `options.seconds`, or a closed output. An error is a finding: something that must not happen.
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
                    #[expect(clippy::exit, reason = "a second signal means now")]
                    std::process::exit(code);
                }
            }
        });
    };
    thread::Builder::new().name("signals".into()).spawn(listen).context("start the signal thread")?;
    Ok(())
}

fn play(options: &Options, stop: &AtomicBool, screen: &mut Screen<impl Write>) -> Result<()> {
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
        if !await_worker(&stream.status, &worker, stop, screen)? {
            stream.stop.store(true, Ordering::Release);
            return end(worker);
        }

        let (changes, changed) = sync_channel(16);
        let till = Till { shop, database, tables: &tables, topic: &stream.plan.from, brokers: &stream.kafka.brokers, placed };
        let keeper = thread::Builder::new().name("shop".into()).spawn_scoped(scope, move || till.keep(options, closed, &changes))?;

        let mut show = Show::new(consumer, changed, prices, placed, &stream.status, screen);
        let deadline = options.seconds.map(|length| Instant::now() + length);
        let is_over = || stop.load(Ordering::Acquire) || deadline.is_some_and(|d| Instant::now() >= d);
        show.until(|| is_over() || keeper.is_finished() || worker.is_finished())?;

        closed.store(true, Ordering::Release);
        while !keeper.is_finished() {
            show.step(BREATH)?;
        }
        keeper.join().map_err(|_| anyhow!("the shop panicked"))??;
        show.drain(|| worker.is_finished())?;
        stream.stop.store(true, Ordering::Release);
        end(worker)?;
        show.conclude()
    })
}

fn end(worker: ScopedJoinHandle<'_, Result<(), Stop>>) -> Result<()> {
    worker.join().map_err(|_| anyhow!("the worker panicked"))?.context("the worker ended")
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
        "real code   the configuration apps/pizzashop/larder.toml, the tables, the join, the worker and its Kafka client".into(),
        "stand-in    MySQL: the shop's model in memory, its updates applied as transactions; no binlog is read, so the change topics stay empty".into(),
        "stand-in    Kafka: librdkafka's mock cluster; no durable log, transactions are accepted but not isolated".into(),
        format!("            its fetches are answered every {FETCH_WAIT_MS} ms, not on arrival: most of the latency below is the mock's"),
        format!("read along  kcat -b {} -t enriched-order-items -o end", plan.kafka.brokers),
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
    tables.set_at(&database.at(), Position::default());
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

/// Orders are placed only when the worker reads. False if it ended or the demo was stopped before.
fn await_worker<T>(
    status: &StreamStatus,
    worker: &ScopedJoinHandle<'_, T>,
    stop: &AtomicBool,
    screen: &mut Screen<impl Write>,
) -> Result<bool> {
    let began = Instant::now();
    while status.state() != State::Running {
        if worker.is_finished() || stop.load(Ordering::Acquire) {
            screen.line("stopped before the shop opened")?;
            return Ok(false);
        }
        if began.elapsed() > START {
            bail!("the worker did not start within {} s: {:?}", START.as_secs(), status.state());
        }
        thread::sleep(BREATH);
    }
    screen.line(&format!("stream {} running: joined its consumer group in {:.1} s", status.name, began.elapsed().as_secs_f64()))?;
    Ok(true)
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

    fn options(rate: f64, seconds: f64, price_every: f64) -> Options {
        let [seconds, price_every] = [seconds, price_every].map(|seconds| Duration::try_from_secs_f64(seconds).expect("a length of time"));
        Options { rate: Rate(rate), seed: 1, seconds: Some(seconds), price_every }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for bad in ["0", "-1", "NaN", "inf", "5001", "1e-300", "many", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        for bad in ["0", "-1", "NaN", "inf", "1e300", "soon", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        assert_eq!("17".parse(), Ok(Rate(17.0)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    }

    /// The whole demo: every item placed arrives once, with a price of its time.
    #[test]
    fn the_demo_enriches_every_item_and_shows_price_changes() {
        let mut screen = screen();
        let played = play(&options(400.0, 2.5, 0.2), &AtomicBool::new(false), &mut screen);
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
        play(&options(17.0, 60.0, 10.0), &AtomicBool::new(true), &mut screen).expect("nothing was lost");
        assert!(String::from_utf8_lossy(&screen.out).contains("stopped before the shop opened"));
    }
}
